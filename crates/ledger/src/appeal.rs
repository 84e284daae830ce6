//! Objections to verdicts, kept on the ledger for people to decide.

use crate::{Conviction, Event, Refusal, State};
use alloc::{string::String, vec::Vec};
use atoll_protocol::{PeerId, Round, limits::APPEAL_BYTES_MAX, transaction::may_be_said};
use borsh::{BorshDeserialize, BorshSerialize};

/// What a peer said against the last verdict on it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Appeal {
    /// The round of the contribution that was judged.
    pub round: Round,
    /// Its author.
    pub judged: PeerId,
    /// The round in which it was said.
    pub said_in: Round,
    /// Why, in its words.
    pub reason: String,
}

impl State {
    /// The last verdict on `peer`, if it has not objected to it.
    pub fn open_verdict(&self, peer: &PeerId) -> Option<&Conviction> {
        let verdict = self.core().audits.convictions.get(peer)?;
        let earlier = self.core().appeals.get(peer);
        let said = |appeal: &Appeal| (appeal.round, appeal.judged) == (verdict.round, verdict.judged);
        (!earlier.is_some_and(said)).then_some(verdict)
    }

    /// One objection to each verdict, of whoever it is about; also of who is out.
    pub(crate) fn appeal(
        &mut self,
        peer: PeerId,
        round: Round,
        reason: &str,
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let open = self.open_verdict(&peer).filter(|verdict| verdict.round == round);
        let Some(judged) = open.map(|verdict| verdict.judged) else {
            return Err(Refusal::NoVerdict { peer, round });
        };
        if !may_be_said(reason) {
            return Err(Refusal::Reason {
                got: reason.len(),
                max: APPEAL_BYTES_MAX,
            });
        }
        let appeal = Appeal {
            round,
            judged,
            said_in: self.round().number,
            reason: reason.into(),
        };
        self.core_mut().appeals.insert(peer, appeal);
        events.push(Event::Appealed {
            peer,
            round,
            reason: reason.into(),
        });
        Ok(())
    }
}
