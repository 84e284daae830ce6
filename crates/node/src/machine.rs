//! The machine's state and its one door, [`Node::step`].

use crate::{Contribution, Effect, Input, Notice, Timer, travel::Travel};
use alloc::{collections::BTreeSet, format, string::String, sync::Arc, vec::Vec};
use atoll_ledger::{Applied, Event, Phase, Roots, Standing, State};
use atoll_protocol::{Action, CheckReason, Hash, Millis, PeerId, Round};

/// A block older than this is history being caught up with: track it, but do not act on it.
pub const STALE: Millis = Millis(5_000);
/// How long no old block may arrive, or a failed merge rests, before the machine acts on its own.
const SETTLE: Millis = Millis(500);

/// Where a merge under way or done stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merge {
    /// Asked for.
    Running(Round),
    /// Asked for; the round has closed meanwhile, with these roots.
    Late(Round, Roots),
    /// The result beside θ.
    Done(Round, Roots),
}

/// What the machine does with θ at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Nothing.
    Idle,
    /// Training for a round.
    Training(Round),
    /// Fetching θ.
    Adopting(Roots),
}

/// What is known of a revealed contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was asked.
    Unasked,
    /// A fetch is under way since then.
    Asked(Millis),
    /// It was fetched, or found unfit.
    Known(Result<(), CheckReason>),
}

/// One peer's machine.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) me: PeerId,
    pub(crate) state: Arc<State>,
    /// Roots of the θ that the owner holds.
    pub(crate) holds: Roots,
    /// The contribution on disk, if its round is not over.
    pub(crate) mine: Option<Contribution>,
    /// What is known of the current round's contributions, by replica; grows as they are asked for.
    pub(crate) verdicts: Vec<Verdict>,
    /// How many of them are known.
    pub(crate) known: usize,
    pub(crate) travel: Travel,
    /// When commitments closed, by the clock here, and how long after that a quorum's contributions were here.
    pub(crate) closed_at: Option<Millis>,
    pub(crate) held: Option<Millis>,
    pub(crate) activity: Activity,
    pub(crate) merge: Option<Merge>,
    /// A closed round that could not be merged here, or not to the agreed root: others must give θ.
    pub(crate) spoiled: Option<Round>,
    /// A checkpoint to write as soon as θ is right.
    pub(crate) checkpoint: Option<Round>,
    pub(crate) leaving: bool,
    /// What the operator says against the last verdict until the ledger has it, and to which it was said.
    objection: Option<(String, Option<Round>)>,
    /// What is being made again here.
    pub(crate) replaying: BTreeSet<(Round, PeerId)>,
    /// What is being measured here.
    pub(crate) scoring: BTreeSet<(Round, PeerId, Hash)>,
    /// Whether the last block was fresh, so that acting on it makes sense.
    live: bool,
    /// When to resume at the earliest, while that timer runs.
    resume_at: Option<Millis>,
}

impl Node {
    /// A machine that continues from `state`, holding the θ of `holds` and, after a crash, the
    /// contribution that was on disk. `state` is that of the last block on disk; effects of that block
    /// which a crash prevented are found again in [`Node::start`]. A contribution to a round that is over
    /// in `state` is the owner's to settle: the round's record says whether it was merged.
    pub fn new(me: PeerId, state: Arc<State>, holds: Roots, mine: Option<Contribution>) -> Self {
        let checkpoint = state.core().checkpoint.as_ref();
        let checkpoint = checkpoint
            .filter(|due| !due.statements.contains_key(&me))
            .map(|due| due.round);
        Self {
            me,
            state,
            holds,
            mine,
            verdicts: Vec::new(),
            known: 0,
            travel: Travel::default(),
            closed_at: None,
            held: None,
            activity: Activity::Idle,
            merge: None,
            spoiled: None,
            checkpoint,
            leaving: false,
            objection: None,
            replaying: BTreeSet::new(),
            scoring: BTreeSet::new(),
            live: false,
            resume_at: None,
        }
    }

    /// The ledger as of the last block.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Contributions of the current round that are asked for or judged: at most one a replica.
    pub fn judged(&self) -> usize {
        self.verdicts
            .iter()
            .filter(|verdict| **verdict != Verdict::Unasked)
            .count()
    }

    /// Asks to be called back once the first blocks from others had time to arrive. Collects again what a
    /// crash may have left.
    pub fn start(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if let Some(ended) = self.state.round().number.0.checked_sub(1) {
            self.collect(Round(ended), out);
        }
        self.resume_later(now, out);
    }

    /// Resumes once nothing has asked for it during [`SETTLE`].
    pub(crate) fn resume_later(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let at = now.after(SETTLE);
        let timer = Timer::Resume;
        if self.resume_at.replace(at).is_none() {
            out.push(Effect::SetTimer { at, timer });
        }
    }

    fn on_resume_timer(&mut self, now: Millis, out: &mut Vec<Effect>) {
        match self.resume_at {
            Some(later) if now < later => {
                let at = later.min(now.after(SETTLE)); // a clock that was set back delays no further
                self.resume_at = Some(at);
                let timer = Timer::Resume;
                out.push(Effect::SetTimer { at, timer });
            }
            _ => {
                self.resume_at = None;
                self.resume(now, out);
            }
        }
    }

    /// Applies one input. Never blocks; effects leave through `out`, in order.
    pub fn step(&mut self, now: Millis, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Final(applied) => self.on_block(now, &applied, out),
            Input::Trained(contribution) => self.on_trained(contribution, out),
            Input::Fetched { round, peer, verdict } => self.on_fetched(now, (round, peer), verdict, out),
            Input::Merged {
                round,
                roots,
                judgement,
            } => self.on_merged(round, roots, judgement, out),
            Input::MergeFailed { round, reason } => self.on_merge_failed(now, round, reason, out),
            Input::Adopted(roots) => self.on_adopted(roots, out),
            Input::Checkpointed {
                round,
                manifest,
                held_out,
            } => {
                out.push(Effect::Submit(Action::Checkpoint {
                    round,
                    manifest,
                    held_out,
                }));
            }
            Input::Replayed { round, peer, finding } => self.on_replayed((round, peer), finding, out),
            Input::Scored {
                round,
                peer,
                beacon,
                change,
            } => self.on_scored((round, peer, beacon), change, out),
            Input::Timer(Timer::Resume) => self.on_resume_timer(now, out),
            Input::Timer(Timer::Check(round)) => self.on_check_timer(now, round, false, out),
            Input::Timer(Timer::LastCheck(round)) => self.on_check_timer(now, round, true, out),
            Input::Leave => self.leave(out),
            Input::Appeal(reason) => self.objection = Some((reason, None)),
        }
    }

    fn on_block(&mut self, now: Millis, applied: &Applied, out: &mut Vec<Effect>) {
        if applied.height() <= self.state.height() {
            return; // delivered at least once
        }
        if !applied.follows(&self.state) {
            let (next, last) = (applied.height(), self.state.height());
            let text = format!("final block {next} does not follow our block {last}");
            out.push(Effect::Notice(Notice::Broken(text)));
            return;
        }
        self.state = applied.state().clone();
        self.live = self.state.time().after(STALE) >= now;
        if !self.live {
            self.resume_later(now, out);
        }
        for event in applied.events() {
            if matches!(event, Event::Appealed { peer, .. } if *peer == self.me) {
                self.objection = None;
            }
            self.on_event(now, event, out);
        }
        if self.live {
            self.object(out);
        }
    }

    /// Whether acting makes sense: the last block is recent.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Looks at the ledger as it stands and does whatever is due; doing it twice changes nothing.
    fn resume(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.live = true;
        self.ensure_joined(out);
        self.follow_theta(out);
        self.replay(out);
        self.score(out);
        if self.state.open_verdict(&self.me).is_some() {
            self.object(out);
        }
        let round = self.state.round();
        let Some(_) = round.replica(&self.me) else { return };
        match round.phase {
            Phase::Commit => self.train_or_commit(out),
            Phase::Reveal => {
                self.reveal(out);
                self.fetch_revealed(now, out);
            }
            Phase::Check => {
                self.fetch_revealed(now, out);
                self.open_check(now, out);
            }
            Phase::Merge => self.start_merge(out),
            Phase::Gathering | Phase::Finished => {}
        }
    }

    pub(crate) fn standing(&self) -> Option<Standing> {
        self.state.core().peers.get(&self.me).map(|peer| peer.standing)
    }

    pub(crate) fn ensure_joined(&mut self, out: &mut Vec<Effect>) {
        let peer = self.state.core().peers.get(&self.me);
        let takes_part = match self.standing() {
            Some(Standing::Active | Standing::Excluded) => true,
            Some(Standing::Suspended(back)) => self.state.round().number < back,
            _ => false,
        };
        if !takes_part && !self.leaving && self.state.round().phase != Phase::Finished {
            out.push(Effect::Submit(Action::Join {
                sequence: peer.map_or(0, |peer| peer.joins),
            }));
        }
    }

    /// Says what the operator has to say against the last verdict, once to each until the ledger has it; where there is
    /// none, the operator hears that. The latter only with a fresh block: before that the ledger here may not have the
    /// verdict yet.
    fn object(&mut self, out: &mut Vec<Effect>) {
        let Some((reason, said)) = &mut self.objection else {
            return;
        };
        match self.state.open_verdict(&self.me).map(|verdict| verdict.round) {
            Some(round) if *said == Some(round) => {}
            Some(round) => {
                *said = Some(round);
                let reason = reason.clone();
                out.push(Effect::Submit(Action::Appeal { round, reason }));
            }
            None => {
                let reason = core::mem::take(reason);
                self.objection = None;
                out.push(Effect::Notice(Notice::NoVerdict(reason)));
            }
        }
    }

    pub(crate) fn leave(&mut self, out: &mut Vec<Effect>) {
        self.leaving = true;
        if let Some(peer) = self
            .state
            .core()
            .peers
            .get(&self.me)
            .filter(|peer| peer.standing == Standing::Active)
        {
            out.push(Effect::Submit(Action::Leave { sequence: peer.joins }));
        }
    }
}
