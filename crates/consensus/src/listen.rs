//! A validator that has lost its votes only listens until no view is open in which it may have voted: see
//! docs/adr/0017.

use atoll_protocol::Millis;
use std::{fmt, future::Future, pin::Pin, time::Duration};

/// So many views after the first that was decided without it, none is open that it knew before.
const VIEWS: u64 = 3;

/// What ends listening beside final blocks.
pub(crate) type Enough = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a validator without its votes waits for.
pub(crate) struct Listening {
    /// Final blocks of a later time were decided after its votes were lost.
    since: Millis,
    /// The first view that was decided then.
    first: Option<u64>,
    enough: Enough,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listening(since {:?}, first {:?})", self.since, self.first)
    }
}

impl Listening {
    /// Begins to listen at `now`, by this machine's clock, which may be wrong by `margin` against the others'. When
    /// `enough` is done, it is over too.
    pub(crate) fn new(now: Millis, margin: Duration, enough: Enough) -> Self {
        let margin = Millis(u64::try_from(margin.as_millis()).unwrap_or(u64::MAX));
        Self {
            since: now.after(margin),
            first: None,
            enough,
        }
    }

    /// Hears of a final block of this time, and of the view that decided it, if that is known. Whether it may vote.
    pub(crate) fn hear(&mut self, time: Millis, view: Option<u64>) -> bool {
        let Some(view) = view.filter(|_| time > self.since) else {
            return false;
        };
        let first = *self.first.get_or_insert(view);
        view >= first.saturating_add(VIEWS)
    }

    /// Is done when listening is over whatever is heard.
    pub(crate) async fn enough(&mut self) {
        self.enough.as_mut().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[test]
    fn only_views_decided_after_the_loss_count_and_three_must_have_passed() {
        for (heard, expected) in [
            (&[][..], None),
            // blocks that are fetched from the past say nothing, however many
            (&[(1_000, Some(7)), (20_000, Some(90)), (29_999, Some(190))], None),
            (&[(30_000, Some(200)), (30_001, Some(201))], None),
            (
                &[(30_001, Some(200)), (30_500, Some(202)), (31_000, Some(203))],
                Some(2),
            ),
            (&[(30_001, Some(200)), (90_000, Some(230))], Some(1)),
            // one that is final through another names no view
            (&[(30_001, None), (31_000, Some(200)), (32_000, None)], None),
            (
                &[(29_000, Some(100)), (30_001, Some(103)), (30_002, Some(106))],
                Some(2),
            ),
        ] {
            let mut listening = Listening::new(Millis(10_000), Duration::from_secs(20), Box::pin(pending()));
            let over = heard
                .iter()
                .position(|(time, view)| listening.hear(Millis(*time), *view));
            assert_eq!(over, expected, "{heard:?}");
        }
    }
}
