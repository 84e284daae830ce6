//! A block together with what it did: the proof, in a type, that it was checked against the state before it.

use crate::{Event, State};
use alloc::{sync::Arc, vec::Vec};
use atoll_protocol::{Block, Height};

/// A block, the state after it and what it changed. Only [`State::advance`] and [`State::draft`] make
/// one, so whoever is handed it and stands on its parent needs not check the block again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    block: Block,
    state: Arc<State>,
    events: Vec<Event>,
}

impl Applied {
    pub(crate) fn new(block: Block, state: State, events: Vec<Event>) -> Self {
        let state = Arc::new(state);
        Self { block, state, events }
    }

    /// The block.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The block's height.
    pub fn height(&self) -> Height {
        self.block.header.height
    }

    /// The state after the block.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// What the block changed, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether it is the next block after `state`.
    pub fn follows(&self, state: &State) -> bool {
        self.block.header.parent == state.tip()
    }

    /// Block and state, to keep.
    pub fn into_parts(self) -> (Block, Arc<State>) {
        (self.block, self.state)
    }
}
