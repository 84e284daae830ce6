//! One total order of blocks, made from whatever statements arrive.

use atoll_ledger::{Applied, Event, Phase, RoundRecord, State};
use atoll_protocol::{Charter, Hash, Millis, transaction::SignedTransaction};
use std::sync::Arc;

/// The orderer: its blocks are final as soon as they are made.
pub(crate) struct Chain {
    genesis: Arc<State>,
    pub(crate) blocks: Vec<Arc<Applied>>,
    /// State roots by height.
    pub(crate) roots: Vec<Hash>,
    pub(crate) state: Arc<State>,
    pub(crate) records: Vec<RoundRecord>,
    pub(crate) events: Vec<Event>,
    waiting: Vec<SignedTransaction>,
}

impl Chain {
    pub(crate) fn new(charter: Charter) -> Self {
        charter.validate().unwrap();
        let genesis = Arc::new(State::genesis(Arc::new(charter)));
        Self {
            blocks: Vec::new(),
            roots: vec![genesis.root()],
            state: genesis.clone(),
            genesis,
            records: Vec::new(),
            events: Vec::new(),
            waiting: Vec::new(),
        }
    }

    pub(crate) fn height(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state.round().phase == Phase::Finished
    }

    pub(crate) fn accept(&mut self, transaction: SignedTransaction) {
        self.waiting.push(transaction);
    }

    /// A block, if there is anything to say or a deadline is over. What it refuses is forgotten.
    pub(crate) fn propose(&mut self, now: Millis) -> bool {
        let due = self.state.next_deadline().is_some_and(|at| at <= now);
        if self.waiting.is_empty() && !due {
            return false;
        }
        let drafted = self.state.draft(now, self.waiting.drain(..));
        let applied = self.state.advance(drafted.block().clone()).unwrap();
        assert_eq!(applied, drafted, "who drafts and who applies agree");
        if applied.block().transactions.is_empty() && !due {
            return false;
        }
        self.state = applied.state().clone();
        self.roots.push(self.state.root());
        for event in applied.events() {
            if let Event::RoundEnded(record) = event {
                self.records.push(record.clone());
            }
            self.events.push(event.clone());
        }
        self.blocks.push(Arc::new(applied));
        true
    }

    /// The state after `height` blocks, by replaying them.
    pub(crate) fn replay(&self, height: usize) -> Arc<State> {
        let apply = |state: State, applied: &Arc<Applied>| state.apply(applied.block()).unwrap().0;
        Arc::new(self.blocks[..height].iter().fold((*self.genesis).clone(), apply))
    }
}
