//! What merged contributions do to the loss: who measures it, and what follows.
//!
//! ```text
//! drawn ─a few measure─▶ their median is no harm ─▶ over
//!   │                └─▶ it is ─▶ suspected ─a jury, other rows─▶ a quorum of it says so too ─▶ taken out
//!   └─window over─▶ what was said by then counts                └▶ else ─▶ over
//! ```
//!
//! Doing a contribution again proves what its author did; a score only says what came of it. So nobody is out for one
//! harmful contribution: it is taken out of θ, and its author is looked at always. Who harms time after time is
//! out like anybody found guilty, on the word of the last jury.
//!
//! Over many rounds a contribution must also help most where its author was to train: whose contributions on average
//! do not is measured always too (a copy, or noise, helps on its own rows no more than on others').

use crate::{
    Conviction, Event, Outcome, Peer, Refusal, Roots, RoundRecord, Standing, State, assign::Share, audit::Verdict,
    terms::median,
};
use alloc::{collections::BTreeMap, vec::Vec};
use atoll_protocol::{
    Domain, Hash, LossChange, PeerId, Round, audit::JURY_MIN, charter::Codec, encode, transaction::Reveal,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// Over about so many scores averages are taken; before that nobody is judged by them.
const AVERAGED: u32 = 20;
/// Each contribution that a jury finds harmful counts one, each that is none takes one back; who comes to this is out.
const HARMFUL_MAX: u32 = 4;
/// In an average a change counts for at most so many limits of harm.
const CLAMPED: i32 = 4;

/// How far the measuring of a contribution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Stage {
    /// A few measure.
    First,
    /// They found harm; a jury is not drawn yet.
    Suspected,
    /// A jury measures.
    Jury,
}

/// A merged contribution whose effect on the loss is measured.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Scoring {
    /// What its author said of it.
    pub reveal: Reveal,
    /// The θ that it was made from.
    pub base: Roots,
    /// The rows that its author was to train on.
    pub share: Share,
    /// How it is encoded.
    pub codec: Codec,
    /// Draws the rows that nobody could know before it was merged; others for the jury than for the first.
    pub beacon: Hash,
    /// The round at whose end those were drawn who are asked now.
    pub since: Round,
    /// How far it is.
    pub stage: Stage,
    /// Who is asked, ascending.
    pub asked: Vec<PeerId>,
    /// What they said.
    pub scores: BTreeMap<PeerId, LossChange>,
}

impl Scoring {
    /// Whether `peer` is asked and has not answered.
    pub fn waits_for(&self, peer: &PeerId) -> bool {
        self.asked.binary_search(peer).is_ok() && !self.scores.contains_key(peer)
    }

    /// Rows that its author was to train on: a share of them and which of its steps'.
    pub fn own_rows(&self) -> (Share, u32) {
        let step = u32::from_le_bytes([self.beacon.0[0], self.beacon.0[1], self.beacon.0[2], self.beacon.0[3]]);
        (self.share.clone(), step % self.reveal.steps.0.max(1))
    }

    /// Rows that were drawn for measuring it, of the corpus that all train on.
    pub fn random_rows(&self) -> (Share, u32) {
        let share = Share {
            beacon: self.beacon,
            replica: 0,
            replicas: 1,
        };
        (share, 0)
    }

    /// The value in the middle of all answers, for either kind of rows.
    fn median(&self) -> Option<LossChange> {
        Some(LossChange {
            own: median(self.scores.values().map(|change| change.own))?,
            random: median(self.scores.values().map(|change| change.random))?,
        })
    }
}

/// What a contribution was found to do to the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scored {
    /// Its round.
    pub round: Round,
    /// Its author.
    pub peer: PeerId,
    /// The median of what was measured.
    pub change: LossChange,
    /// How many measured it.
    pub by: usize,
    /// Whether a jury found harm: it is taken out.
    pub harmful: bool,
}

/// What a peer's contributions came to, on average over the last.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Tally {
    /// How many were measured.
    pub count: u32,
    /// By how much the loss changes more on rows that its author was to train on than on those drawn for measuring, in
    /// billionths: the average of differences that count for a few limits of harm at the most. Below 0 where it helps
    /// its own rows more.
    pub ahead_nano: i64,
    /// Change of the loss on rows drawn for measuring, averaged so.
    pub random_nano: i64,
    /// One for each that a jury found harmful, less one for each that was none; never below none, nor above what puts
    /// its author out.
    pub harmful: u32,
}

impl Tally {
    fn note(&mut self, change: LossChange, limit: i32, harmful: bool) {
        let most = i64::from(limit.saturating_mul(CLAMPED));
        self.count = self.count.saturating_add(1);
        self.harmful = match harmful {
            true => self.harmful.saturating_add(1).min(HARMFUL_MAX),
            false => self.harmful.saturating_sub(1),
        };
        let over = i64::from(self.count.min(AVERAGED));
        let moved = |average: i64, new: i64| average + (new.clamp(-most, most) * 1000 - average) / over;
        let (own, random) = (i64::from(change.own), i64::from(change.random));
        self.ahead_nano = moved(self.ahead_nano, own - random);
        self.random_nano = moved(self.random_nano, random);
    }

    /// Whether all that it sends is to be measured: it harmed of late, or on average it helps no more where it was to
    /// train than elsewhere. Late in a run what is honest helps nowhere else.
    pub fn is_watched(&self) -> bool {
        self.harmed() || self.count >= AVERAGED && self.ahead_nano >= 0
    }

    /// Whether it harmed of late, as a jury found: then all that it sends is made again too, where there are audits.
    pub fn harmed(&self) -> bool {
        self.harmful > 0
    }
}

/// What the ledger keeps of scores; empty where the charter wants none.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Scores {
    /// What is being measured, by round and author.
    pub cases: BTreeMap<(Round, PeerId), Scoring>,
    /// Everyone's averages since it was last found guilty.
    pub tallies: BTreeMap<PeerId, Tally>,
}

/// Draws the rows on which a contribution is measured.
fn rows_beacon(of: (Hash, Round, PeerId)) -> Hash {
    Hash::of(Domain::Lottery, &encode(&(of, "rows")))
}

impl State {
    /// Takes up what somebody measured.
    pub(crate) fn score(
        &mut self,
        speaker: PeerId,
        (round, peer): (Round, PeerId),
        (beacon, change): (Hash, LossChange),
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let cases = &mut self.core_mut().scores.cases;
        // what was measured on the first rows says nothing about the jury's
        let asked = |case: &&mut Scoring| case.waits_for(&speaker) && case.beacon == beacon;
        let Some(case) = cases.get_mut(&(round, peer)).filter(asked) else {
            return Err(Refusal::NotAsked { speaker, round, peer });
        };
        case.scores.insert(speaker, change);
        if case.asked.iter().all(|asked| case.scores.contains_key(asked)) {
            self.decide((round, peer), events);
        }
        Ok(())
    }

    /// Whether `peer` harmed of late.
    pub(crate) fn harmed(&self, peer: &PeerId) -> bool {
        self.core().scores.tallies.get(peer).is_some_and(Tally::harmed)
    }

    /// Whether all that `peer` sends is to be measured.
    pub(crate) fn is_watched(&self, peer: &PeerId) -> bool {
        self.core().scores.tallies.get(peer).is_some_and(Tally::is_watched)
    }

    /// `peer` is out: nothing that is under way about it matters any more.
    pub(crate) fn drop_scores(&mut self, peer: PeerId, events: &mut Vec<Event>) {
        if self.is_watched(&peer) {
            events.push(Event::Watched { peer, on: false });
        }
        let scores = &mut self.core_mut().scores;
        scores.cases.retain(|(_, of), _| *of != peer);
        scores.tallies.remove(&peer);
    }

    /// All have answered, or nobody is waited for any more.
    fn decide(&mut self, key: (Round, PeerId), events: &mut Vec<Event>) {
        let rules = &self.charter().score;
        let Some(case) = self.core().scores.cases.get(&key) else {
            return;
        };
        let Some(change) = case.median() else {
            self.core_mut().scores.cases.remove(&key);
            return; // nobody said anything
        };
        let harm = case.scores.values().filter(|change| rules.is_harm(**change)).count();
        let harmful = match case.stage {
            Stage::First | Stage::Suspected if rules.is_harm(change) => {
                let now = self.round().number;
                if let Some(case) = self.core_mut().scores.cases.get_mut(&key) {
                    (case.stage, case.since, case.asked) = (Stage::Suspected, now, Vec::new());
                }
                return;
            }
            Stage::First | Stage::Suspected => false,
            Stage::Jury => harm >= self.charter().quorum(case.asked.len()),
        };
        if let Some(case) = self.core_mut().scores.cases.remove(&key) {
            self.conclude(key, &case, (change, harmful), events);
        }
    }

    fn conclude(
        &mut self,
        (round, peer): (Round, PeerId),
        case: &Scoring,
        (change, harmful): (LossChange, bool),
        events: &mut Vec<Event>,
    ) {
        let watched = self.is_watched(&peer);
        events.push(Event::Scored(Scored {
            round,
            peer,
            change,
            by: case.scores.len(),
            harmful,
        }));
        let limit = self.charter().score.limit();
        let tally = self.core_mut().scores.tallies.entry(peer).or_default();
        tally.note(change, limit, harmful);
        let (is_watched, times) = (tally.is_watched(), tally.harmful);
        if is_watched != watched {
            events.push(Event::Watched { peer, on: is_watched });
        }
        if harmful {
            self.take_out(round, peer);
        }
        if harmful && times >= HARMFUL_MAX && self.harm_is_of_few() {
            let conviction = Conviction {
                round,
                judged: peer,
                findings: Vec::new(),
                scores: case.scores.iter().map(|(peer, change)| (*peer, *change)).collect(),
            };
            self.convict(peer, Verdict::Guilty, conviction, events);
            self.condemn(peer, round);
        }
    }

    /// Whether those who harmed of late are fewer than a third of who takes part. If not, it is no lie: steps may be
    /// too long, or rows bad; to put out everybody would end the run for ever.
    fn harm_is_of_few(&self) -> bool {
        let active = self.active();
        let harmed = active.iter().filter(|peer| self.harmed(peer)).count();
        3 * harmed < active.len()
    }

    /// After a round: what waited for too long is decided by what was said, juries and scorers are drawn.
    pub(crate) fn scores_due(&mut self, record: &RoundRecord, parent: Hash, events: &mut Vec<Event>) {
        let round = record.round;
        for key in self.late(round, Stage::First) {
            self.decide(key, events);
        }
        // not in the order of the verifiers of audits
        let parent = Hash::of(Domain::Lottery, &encode(&(parent, "score")));
        self.draw_score_juries(round, parent, events);
        for key in self.late(round, Stage::Jury) {
            self.decide(key, events);
        }
        // in all the window no jury could be drawn
        for key in self.late(round, Stage::Suspected) {
            self.core_mut().scores.cases.remove(&key);
        }
        if let Outcome::Closed(_) = record.outcome {
            self.draw_scorers(record, parent, events);
        }
    }

    /// Cases of this stage whose window is over.
    fn late(&self, round: Round, stage: Stage) -> Vec<(Round, PeerId)> {
        let window = self.charter().audit.window;
        let late = |case: &Scoring| round.0 >= case.since.0.saturating_add(window) && case.stage == stage;
        let cases = self.core().scores.cases.iter();
        cases.filter(|(_, case)| late(case)).map(|(key, _)| *key).collect()
    }

    /// The rows of this place in the round's roster.
    fn share_of(&self, replica: usize) -> Share {
        let round = self.round();
        Share {
            beacon: round.beacon,
            replica: replica as u64,
            replicas: round.roster.len() as u64,
        }
    }

    fn draw_score_juries(&mut self, round: Round, parent: Hash, events: &mut Vec<Event>) {
        let cases = self.core().scores.cases.iter();
        let suspected = cases.filter(|(_, case)| case.stage == Stage::Suspected);
        let suspected: Vec<(Round, PeerId)> = suspected.map(|(key, _)| *key).collect();
        let size = self.charter().audit.jury as usize;
        for (of, peer) in suspected {
            let mut jury = self.in_order((parent, of, peer), |other| *other != peer);
            jury.truncate(size);
            jury.sort_unstable();
            if jury.len() < JURY_MIN as usize {
                continue; // unless enough come back it is over with the window
            }
            let beacon = rows_beacon((parent, of, peer));
            let Some(case) = self.core_mut().scores.cases.get_mut(&(of, peer)) else {
                continue;
            };
            // on other rows: what was bad luck with the first is no harm
            case.beacon = beacon;
            case.scores.clear();
            (case.stage, case.since, case.asked) = (Stage::Jury, round, jury.clone());
            events.push(Event::ScoreDrawn {
                round: of,
                peer,
                scorers: jury,
            });
        }
    }

    fn draw_scorers(&mut self, record: &RoundRecord, parent: Hash, events: &mut Vec<Event>) {
        let round = record.round;
        if self.active().len() <= JURY_MIN as usize {
            return; // nobody could be judged
        }
        let rules = self.charter().score.clone();
        for entry in &record.merged {
            let peer = entry.peer;
            let active = |known: &Peer| known.standing == Standing::Active;
            let drawn = self.is_watched(&peer) || self.is_below(rules.share, (parent, round, peer), "scored");
            if !drawn || !self.core().peers.get(&peer).is_some_and(active) {
                continue;
            }
            let reveal = self.round().reveals.get(&peer).map(|revealed| revealed.reveal.clone());
            let Some(reveal) = reveal else { continue };
            let Some(replica) = self.round().replica(&peer) else {
                continue;
            };
            // of a void round that is not remembered, or in which it had no share, it counts as this round's
            let assigned = self.assigned(&peer, reveal.trained);
            let share = assigned.map_or_else(|| self.share_of(replica), |assigned| assigned.share);
            let fits = |other: &PeerId| *other != peer && self.is_founded(other);
            let mut scorers = self.in_order((parent, round, peer), fits);
            scorers.truncate(rules.scorers as usize);
            scorers.sort_unstable();
            if scorers.is_empty() {
                continue;
            }
            let case = Scoring {
                base: self.core().roots,
                beacon: rows_beacon((parent, round, peer)),
                reveal,
                share,
                codec: self.round().terms.codec.clone(),
                since: round,
                stage: Stage::First,
                asked: scorers.clone(),
                scores: BTreeMap::new(),
            };
            self.core_mut().scores.cases.insert((round, peer), case);
            events.push(Event::ScoreDrawn { round, peer, scorers });
        }
    }
}
