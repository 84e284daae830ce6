//! Bytes on their way: each transfer is on its source's upload and its sink's download at once, and is
//! through when both have carried it. (A line that is faster is then free earlier; a real transport would
//! slow it down to the other's pace.)

use crate::{blobs::BlobId, clock::Micros, link::Link};
use atoll_protocol::Round;

/// What a transfer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A contribution to be checked.
    Check { round: Round, blob: BlobId },
    /// A contribution that a plan names and that is missing here.
    Plan { ticket: u64, blob: BlobId },
    /// Parameters.
    Theta { ticket: u64 },
    /// A replica's own states, to make its contribution again.
    States { ticket: u64 },
}

/// One transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) source: u32,
    pub(crate) sink: u32,
    /// The sink's life that wants it.
    pub(crate) life: u32,
    pub(crate) purpose: Purpose,
    /// Added when both lines are through: the way there and back, and what loss costs.
    pub(crate) delay: Micros,
    /// Bit 1: the upload has carried it; bit 2: the download has.
    through: u8,
    generation: u32,
}

/// All of them, and everybody's lines: upload of node n is line 2n, download 2n + 1.
pub(crate) struct Transfers {
    links: Vec<Link>,
    slots: Vec<Option<Transfer>>,
    free: Vec<u32>,
    generation: u32,
    /// The most that were on their way at a time.
    pub(crate) most: usize,
}

/// A line that is to be looked at, and when.
pub(crate) type Wake = Option<(u32, Micros)>;

fn ticket_of(slot: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

impl Transfers {
    pub(crate) fn new(lines: impl Iterator<Item = (u64, u64)>) -> Self {
        Self {
            links: lines.flat_map(|(up, down)| [Link::new(up), Link::new(down)]).collect(),
            slots: Vec::new(),
            free: Vec::new(),
            generation: 0,
            most: 0,
        }
    }

    pub(crate) fn set_rates(&mut self, now: Micros, node: u32, up: u64, down: u64) -> [Wake; 2] {
        self.links[2 * node as usize].set_rate(now, up);
        self.links[2 * node as usize + 1].set_rate(now, down);
        [self.wake(now, 2 * node), self.wake(now, 2 * node + 1)]
    }

    /// Begins a transfer of `bytes`; its ticket, and the lines to look at.
    pub(crate) fn begin(
        &mut self,
        now: Micros,
        (source, sink, life): (u32, u32, u32),
        bytes: u64,
        delay: Micros,
        purpose: Purpose,
    ) -> (u64, [Wake; 2]) {
        self.generation = self.generation.wrapping_add(1);
        let transfer = Transfer {
            source,
            sink,
            life,
            purpose,
            delay,
            through: 0,
            generation: self.generation,
        };
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(slot as usize) {
            Some(place) => *place = Some(transfer),
            None => self.slots.push(Some(transfer)),
        }
        let ticket = ticket_of(slot, self.generation);
        let (up, down) = (2 * source, 2 * sink + 1);
        self.links[up as usize].add(now, ticket, bytes);
        self.links[down as usize].add(now, ticket, bytes);
        self.most = self.most.max(self.on_their_way());
        (ticket, [self.wake(now, up), self.wake(now, down)])
    }

    pub(crate) fn on_their_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn get(&self, ticket: u64) -> Option<&Transfer> {
        let transfer = self.slots.get(ticket as u32 as usize)?.as_ref()?;
        (u64::from(transfer.generation) == ticket >> 32).then_some(transfer)
    }

    /// Takes what has arrived.
    pub(crate) fn finish(&mut self, ticket: u64) -> Option<Transfer> {
        self.get(ticket)?;
        self.free.push(ticket as u32);
        self.slots[ticket as u32 as usize].take()
    }

    /// Ends a transfer that has not arrived.
    pub(crate) fn give_up(&mut self, now: Micros, ticket: u64) -> Option<Transfer> {
        let transfer = *self.get(ticket)?;
        let lines = [(2 * transfer.source, 1u8), (2 * transfer.sink + 1, 2u8)];
        for (line, bit) in lines {
            if transfer.through & bit == 0 {
                self.links[line as usize].give_up(now);
            }
        }
        self.finish(ticket)
    }

    /// When line `line` must be looked at again, if that is earlier than what is planned.
    fn wake(&mut self, now: Micros, line: u32) -> Wake {
        let link = &mut self.links[line as usize];
        let next = link.next_end(now)?;
        let news = link.wake.is_none_or(|planned| next < planned);
        news.then(|| {
            link.wake = Some(next);
            (line, next)
        })
    }

    /// A line is looked at: transfers that both lines have carried, as (ticket, delay), go to `through`.
    pub(crate) fn look(&mut self, now: Micros, line: u32, through: &mut Vec<(u64, Micros)>) -> Wake {
        if self.links[line as usize].wake != Some(now) {
            return None; // an earlier look was planned since
        }
        self.links[line as usize].wake = None;
        let bit = if line.is_multiple_of(2) { 1 } else { 2 };
        loop {
            let (links, slots) = (&mut self.links, &mut self.slots);
            let live = |ticket: u64| {
                let transfer = slots.get(ticket as u32 as usize).and_then(Option::as_ref);
                transfer.is_some_and(|transfer| u64::from(transfer.generation) == ticket >> 32)
            };
            let Some(ticket) = links[line as usize].take_ended(now, live) else {
                break;
            };
            if let Some(transfer) = slots[ticket as u32 as usize].as_mut() {
                transfer.through |= bit;
                if transfer.through == 3 {
                    through.push((ticket, transfer.delay));
                }
            }
        }
        self.wake(now, line)
    }

    /// Tickets of transfers from or to `node` that have not arrived.
    pub(crate) fn of(&self, touches: impl Fn(&Transfer) -> bool) -> Vec<u64> {
        let live = self.slots.iter().enumerate();
        let live = live.filter_map(|(slot, transfer)| transfer.as_ref().map(|transfer| (slot as u32, transfer)));
        live.filter(|(_, transfer)| touches(transfer))
            .map(|(slot, transfer)| ticket_of(slot, transfer.generation))
            .collect()
    }
}
