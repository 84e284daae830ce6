//! What a running node sees of itself each second: who is connected, what the round waits for, how old the last block
//! is, whether its clock is right. A function of the ledger, the connections and the time; nothing here acts.

use crate::waits::{Wait, Waits};
use atoll_ledger::{Peer, Phase, State};
use atoll_protocol::{Charter, Millis, PeerId};
use serde_json::{Value, json};

/// A clock that is so far behind the others' is said to be: no proposal arrives before it was made.
const BEHIND: Millis = Millis(2_000);
/// And one that is so far ahead: proposals are on their way for a while.
const AHEAD: Millis = Millis(5_000);
/// A block that is due is late after so long.
const LATE: Millis = Millis(3_000);

/// What is looked at.
pub(crate) struct Sight<'a> {
    pub(crate) state: &'a State,
    pub(crate) me: PeerId,
    pub(crate) now: Millis,
    /// When the node was started.
    pub(crate) began: Millis,
    /// Whether the last block is recent, so that the round is the one under way.
    pub(crate) live: bool,
    /// Members that can be sent to.
    pub(crate) connected: &'a [PeerId],
    /// By how many milliseconds the clocks of others are ahead of ours.
    pub(crate) clocks: &'a [(PeerId, i64)],
    /// A member with its address, for people.
    pub(crate) describe: &'a dyn Fn(&PeerId) -> String,
}

/// Nodes that must be there for a block to become final: all but a third, rounded down, of one less than all.
pub(crate) fn needed(members: usize) -> usize {
    members - members.saturating_sub(1) / 3
}

impl Sight<'_> {
    fn charter(&self) -> &Charter {
        self.state.charter()
    }

    fn described<'a>(&self, peers: impl IntoIterator<Item = &'a PeerId>) -> Vec<String> {
        peers.into_iter().map(self.describe).collect()
    }

    fn has_quorum(&self) -> bool {
        1 + self.connected.len() >= needed(self.charter().members.len())
    }

    /// Notes what is waited for.
    pub(crate) fn look(&self, waits: &Waits) {
        waits.look("quorum", self.now, self.quorum());
        let block = self.late_block();
        let since = block.as_ref().map_or(self.now, |(since, _)| *since);
        waits.look("block", since, block.map(|(_, wait)| wait));
        waits.look(
            "round",
            self.now,
            self.round().filter(|_| self.live && self.has_quorum()),
        );
    }

    fn quorum(&self) -> Option<Wait> {
        if self.has_quorum() {
            return None;
        }
        let members: Vec<PeerId> = self.charter().keys().collect();
        let missing = members
            .iter()
            .filter(|peer| **peer != self.me && !self.connected.contains(peer));
        let (here, all, needed) = (1 + self.connected.len(), members.len(), needed(members.len()));
        Some(Wait {
            what: "a quorum of connected members".into(),
            from: self.described(missing),
            heard: Some(format!(
                "{here} of {all} are here, this node included; {needed} are needed"
            )),
            remedy: "No block is final before that: see that their nodes run and can be reached at these addresses \
                     (--peer KEY=ADDRESS:PORT gives another); nothing is lost meanwhile"
                .into(),
        })
    }

    /// When a block is due, at the latest.
    fn block_due(&self) -> Millis {
        let heartbeat = self.charter().deadlines.heartbeat;
        let beat = self.state.time().max(self.began).after(heartbeat);
        let deadline = self.state.next_deadline().unwrap_or(beat);
        deadline.max(self.began).min(beat)
    }

    fn late_block(&self) -> Option<(Millis, Wait)> {
        let due = self.block_due();
        if !self.has_quorum() || self.now < due.after(LATE) {
            return None;
        }
        let (height, age) = (
            self.state.height(),
            self.now.0.saturating_sub(self.state.time().0) / 1000,
        );
        let heard = match height.0 {
            0 => "no block yet".to_string(),
            _ => format!("block {height}, {age} s ago"),
        };
        let wait = Wait {
            what: "the next block".into(),
            from: self.described(self.connected),
            heard: Some(heard),
            remedy: "A quorum is connected and does not agree: see on each of them what `atoll status` says of its \
                     clock, and whether its disk is full"
                .into(),
        };
        Some((due, wait))
    }

    /// What the phase under way waits for, once this node has done its part.
    fn round(&self) -> Option<Wait> {
        let (round, core) = (self.state.round(), self.state.core());
        let barred = |peer: &&PeerId| core.peers.get(*peer).is_some_and(Peer::is_barred);
        let members: Vec<PeerId> = self.charter().keys().collect();
        let active = self.state.active();
        let (what, mine, missing): (&str, bool, Vec<&PeerId>) = match round.phase {
            Phase::Finished => return None,
            Phase::Gathering => {
                let missing = members.iter().filter(|peer| !active.contains(peer));
                ("members to join", active.contains(&self.me), missing.collect())
            }
            Phase::Commit => {
                let missing = round.roster.iter().filter(|peer| !round.commits.contains_key(*peer));
                ("contributions", round.commits.contains_key(&self.me), missing.collect())
            }
            Phase::Reveal => {
                let missing = round.commits.keys().filter(|peer| !round.reveals.contains_key(*peer));
                (
                    "contributions to be revealed",
                    round.reveals.contains_key(&self.me),
                    missing.collect(),
                )
            }
            Phase::Check => {
                let missing = round.reveals.keys().filter(|peer| !round.checks.contains_key(*peer));
                (
                    "word on who holds the contributions",
                    round.checks.contains_key(&self.me),
                    missing.collect(),
                )
            }
            Phase::Merge => {
                let missing = round.roster.iter().filter(|peer| !round.roots.contains_key(*peer));
                (
                    "the root of the merged parameters",
                    round.roots.contains_key(&self.me),
                    missing.collect(),
                )
            }
        };
        let missing: Vec<&PeerId> = missing.into_iter().filter(|peer| !barred(peer)).collect();
        let outside = round.phase != Phase::Gathering && round.replica(&self.me).is_none();
        if missing.is_empty() || !(mine || outside) {
            return None;
        }
        let ends = self
            .state
            .phase_ends()
            .map(|end| end.0.saturating_sub(self.now.0) / 1000);
        Some(Wait {
            what: format!("{what} (round {})", round.number),
            from: self.described(missing),
            heard: None,
            remedy: match (round.phase, ends) {
                (_, Some(seconds)) => format!("The round goes on without them in {seconds} s at the latest"),
                (Phase::Gathering, None) => "The first round begins when a quorum of the members has joined".into(),
                (_, None) => {
                    "The round goes on without them once a quorum has done this: see that their nodes run".into()
                }
            },
        })
    }

    /// What the others' clocks say of this one's.
    pub(crate) fn clock(&self) -> Clock {
        let mut ahead: Vec<i64> = self.clocks.iter().map(|(_, ahead)| *ahead).collect();
        ahead.sort_unstable();
        // of an even number the one that is nearer to ours
        let (low, high) = match ahead.len() {
            0 => return Clock::default(),
            count => (ahead[(count - 1) / 2], ahead[count / 2]),
        };
        let median = if low.unsigned_abs() < high.unsigned_abs() {
            low
        } else {
            high
        };
        let is_off = |ahead: i64| match ahead {
            0.. => ahead.unsigned_abs() >= BEHIND.0,
            _ => ahead.unsigned_abs() >= AHEAD.0,
        };
        let apart = |ahead: i64| {
            let way = if ahead > 0 { "behind" } else { "ahead of" };
            format!("{} s {way}", ahead.unsigned_abs() / 1000)
        };
        let name = |peer: &PeerId| self.charter().name_of(peer);
        let mut about = Vec::new();
        // a block is dated after the one before it, whatever its leader's clock says
        let dated_ahead = self.state.time().0.saturating_sub(self.now.0);
        let text = if dated_ahead >= AHEAD.0 {
            about.push(self.me);
            Some(format!(
                "the ledger's last block is dated {} s ahead of this machine's clock, and no block can be dated before it: \
                 either this clock is behind (set it, for example by NTP), or a quorum's were ahead when it was made, and \
                 the run goes on when that time has come",
                dated_ahead / 1000
            ))
        } else if is_off(median) && self.clocks.len() > (self.charter().members.len() - 1) / 3 {
            // of so many one at least is honest
            about.push(self.me);
            let off = self.clocks.iter().filter(|(_, ahead)| is_off(*ahead));
            let names: Vec<String> = off.map(|(peer, _)| name(peer)).collect();
            Some(format!(
                "this machine's clock is {} those of {}: set it, for example by NTP; until then blocks come late",
                apart(median),
                names.join(", ")
            ))
        } else {
            let off = self
                .clocks
                .iter()
                .filter(|(_, ahead)| is_off(ahead.saturating_sub(median)));
            about.extend(off.clone().map(|(peer, _)| *peer));
            let off: Vec<String> = off
                .map(|(peer, ahead)| format!("{} ({})", name(peer), apart(ahead.saturating_neg())))
                .collect();
            (!off.is_empty()).then(|| {
                format!(
                    "the clock of {} this machine's and most others': its operator should set it",
                    off.join(", ")
                )
            })
        };
        Clock {
            ahead_ms: Some(median.saturating_neg()),
            about,
            text,
        }
    }

    /// What is added to the ledger's part of the status while the node runs.
    pub(crate) fn describe_live(&self, waits: &Waits, clock: &Clock) -> Value {
        let members = self.charter().members.len();
        json!({
            "written_ms": self.now.0,
            "connected": self.connected.iter().map(|peer| self.charter().name_of(peer)).collect::<Vec<_>>(),
            "members": members,
            "needed": needed(members),
            "clock_ahead_ms": clock.ahead_ms,
            "clock": clock.text,
            "waits": waits.to_json(self.now),
        })
    }
}

/// How this machine's clock stands to the others'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Milliseconds that it is ahead of the median of the others'; nothing where none was heard of late.
    pub(crate) ahead_ms: Option<i64>,
    /// Whose clock is wrong.
    pub(crate) about: Vec<PeerId>,
    /// What is wrong, for people.
    pub(crate) text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::charter_of;
    use atoll_protocol::Keypair;
    use std::sync::Arc;

    fn peers(count: u8) -> Vec<PeerId> {
        let mut peers: Vec<PeerId> = (1..=count).map(|seed| Keypair::from_seed(&[seed; 32]).peer()).collect();
        peers.sort();
        peers
    }

    fn state(peers: &[PeerId]) -> State {
        State::genesis(Arc::new(charter_of(peers)))
    }

    fn sight<'a>(state: &'a State, connected: &'a [PeerId], clocks: &'a [(PeerId, i64)], now: u64) -> Sight<'a> {
        Sight {
            me: state.validators()[0],
            state,
            now: Millis(now),
            began: Millis(0),
            live: true,
            connected,
            clocks,
            describe: &|peer| format!("<{}>", peer.short()),
        }
    }

    #[test]
    fn a_third_may_be_missing() {
        for (members, expected) in [(1, 1), (2, 2), (3, 3), (4, 3), (6, 5), (7, 5), (10, 7), (100, 67)] {
            assert_eq!(needed(members), expected, "of {members}");
        }
    }

    #[test]
    fn who_is_missing_for_a_quorum_is_named() {
        let peers = peers(4);
        let state = state(&peers);
        let waits = Waits::default();
        sight(&state, &peers[1..2], &[], 1000).look(&waits);
        let told = waits.events(Millis(4000));
        let text = told[0]["text"].as_str().unwrap();
        let expected = format!(
            "waiting for a quorum of connected members since 3 s, from <{}> and <{}>; heard last: 2 of 4 are here, this \
             node included; 3 are needed.",
            peers[2].short(),
            peers[3].short()
        );
        assert!(text.starts_with(&expected), "{text}");
        assert_eq!(told.len(), 1, "nothing else while nothing can happen: {told:?}");
        sight(&state, &peers[1..3], &[], 5000).look(&waits);
        assert_eq!(waits.events(Millis(5000))[0]["event"], "waited");
    }

    #[test]
    fn a_block_that_is_due_and_does_not_come_is_named() {
        let peers = peers(4);
        let state = state(&peers);
        let waits = Waits::default();
        let heartbeat = state.charter().deadlines.heartbeat.0;
        sight(&state, &peers[1..], &[], heartbeat + LATE.0 - 1).look(&waits);
        let blocks = |now: u64| -> Vec<Value> {
            let all = waits.to_json(Millis(now));
            all.into_iter()
                .filter(|wait| wait["what"] == "the next block")
                .collect()
        };
        assert!(blocks(heartbeat + LATE.0).is_empty());
        sight(&state, &peers[1..], &[], heartbeat + LATE.0).look(&waits);
        let late = blocks(heartbeat + LATE.0);
        assert_eq!(late[0]["since_ms"], heartbeat, "{late:?}");
    }

    #[test]
    fn a_clock_is_off_by_what_most_others_say() {
        let peers = peers(5);
        let state = state(&peers);
        let clock = |ahead: &[i64]| {
            let clocks: Vec<_> = peers[1..].iter().copied().zip(ahead.iter().copied()).collect();
            sight(&state, &[], &clocks, 0).clock()
        };
        for (ahead, ours, word) in [
            (&[][..], None, None),
            (&[-100, -50, 20], Some(50), None),
            (
                &[30_000, 29_900, 29_800],
                Some(-29_900),
                Some("this machine's clock is 29 s behind those of m1, m2, m3"),
            ),
            (
                &[-30_000, -30_000],
                Some(30_000),
                Some("this machine's clock is 30 s ahead of"),
            ),
            (
                &[-30_000, -100, -200, 0],
                Some(100),
                Some("the clock of m1 (30 s behind)"),
            ),
            (
                &[30_000, -100, -200, 0],
                Some(0),
                Some("the clock of m1 (30 s ahead of)"),
            ),
            (&[-3_000, -2_500], Some(2_500), None),
            (&[i64::MAX; 2], Some(-i64::MAX), Some("behind")),
            // one of five may lie
            (&[30_000], Some(-30_000), None),
        ] {
            let clock = clock(ahead);
            assert_eq!(clock.ahead_ms, ours, "{ahead:?}");
            match word {
                None => assert_eq!(clock.text, None, "{ahead:?}"),
                Some(word) => assert!(clock.text.as_ref().unwrap().contains(word), "{ahead:?}: {clock:?}"),
            }
        }
    }

    #[test]
    fn a_ledger_that_is_dated_ahead_accuses_nobody_elses_clock() {
        let peers = peers(2);
        let key = Keypair::from_seed(&[1; 32]);
        let mut state = state(&peers);
        let genesis = state.core().genesis;
        let action = atoll_protocol::Action::Join { sequence: 0 };
        let said = key.sign(
            atoll_protocol::Domain::Transaction,
            atoll_protocol::Transaction { genesis, action },
        );
        state = State::clone(state.draft(Millis(90_000_000), [said]).state());
        let clock = sight(&state, &[], &[(peers[1], 90_000_000 - 1_000)], 1_000).clock();
        let text = clock.text.unwrap();
        assert!(
            text.starts_with("the ledger's last block is dated 89999 s ahead"),
            "{text}"
        );
        assert!(
            sight(&state, &[], &[(peers[1], -100)], 90_000_000)
                .clock()
                .text
                .is_none()
        );
    }
}
