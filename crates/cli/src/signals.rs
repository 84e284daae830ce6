//! Ctrl-C, and what else asks the program to end: heard from its first second to its last.
//!
//! A command that leaves something behind, be it processes or half a folder, calls [`start`] first. From then on one
//! thread hears the signals. Whoever wants to end in order holds a [`Gentle`]: the first signal is only told to it, the
//! second ends the program at once. Where nobody does, the first ends it at once. Before that, what was left to
//! [`on_end`] is done. A command that leaves nothing behind needs none of this: the system ends it.

use crate::say;
use std::{
    collections::BTreeMap,
    io::stderr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;

/// What is done before the program ends at once.
type LastDeed = Box<dyn FnOnce() + Send>;

struct Desk {
    started: bool,
    /// Who wants to hear of the first signal, and the status to end with.
    gentle: Option<watch::Sender<u8>>,
    next: u64,
    /// By the order in which they were left here.
    deeds: BTreeMap<u64, LastDeed>,
}

static DESK: Mutex<Desk> = Mutex::new(Desk {
    started: false,
    gentle: None,
    next: 0,
    deeds: BTreeMap::new(),
});

fn desk() -> MutexGuard<'static, Desk> {
    DESK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on signals are heard. A second time does nothing.
///
/// # Errors
/// Where the system gives no thread or no handler.
pub(crate) fn start() -> anyhow::Result<()> {
    if std::mem::replace(&mut desk().started, true) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ears = {
        let _inside = runtime.enter();
        Ears::open()?
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            while let Some(status) = ears.hear().await {
                heard(status)
            }
        })
    })?;
    Ok(())
}

/// Ends the program, or tells who wants to end it in order.
fn heard(status: u8) {
    if let Some(gentle) = &desk().gentle
        && *gentle.borrow() == 0
    {
        gentle.send_replace(status);
        return;
    }
    end(status)
}

/// Does what was left to be done, and ends the program.
fn end(status: u8) -> ! {
    // one at a time: a deed may ask the desk
    while let Some((_, deed)) = { desk().deeds.pop_last() } {
        deed();
    }
    if say::is_drawable(&stderr()) {
        say::write_error(format_args!("\r\x1b[K")); // the line of progress
    }
    std::process::exit(status.into())
}

/// While it lives, the first signal asks and does not end.
pub(crate) struct Gentle {
    asked: watch::Receiver<u8>,
    seen: AtomicBool,
    /// The one that was there before, which hears nothing meanwhile.
    outer: Option<watch::Sender<u8>>,
}

/// Asks to hear of the first signal from now on.
pub(crate) fn gentle() -> anyhow::Result<Gentle> {
    start()?;
    let (tell, asked) = watch::channel(0);
    Ok(Gentle {
        asked,
        seen: AtomicBool::new(false),
        outer: desk().gentle.replace(tell),
    })
}

impl Gentle {
    /// The status to end with, if a signal came: 128 and its number.
    pub(crate) fn asked(&self) -> Option<u8> {
        let status = *self.asked.borrow();
        self.seen.fetch_or(status != 0, Ordering::Relaxed);
        (status != 0).then_some(status)
    }

    /// Waits for a signal and gives the status to end with.
    pub(crate) async fn wait(&self) -> u8 {
        let status = self
            .asked
            .clone()
            .wait_for(|status| *status != 0)
            .await
            .map(|status| *status);
        self.seen.store(true, Ordering::Relaxed);
        status.unwrap_or(INTERRUPTED)
    }
}

impl Drop for Gentle {
    fn drop(&mut self) {
        desk().gentle = self.outer.take();
        let status = *self.asked.borrow();
        if status != 0 && !self.seen.load(Ordering::Relaxed) {
            heard(status); // it came when nobody looked any more
        }
    }
}

/// What is to be done if the program is ended at once, until this is dropped.
pub(crate) struct OnEnd(u64);

/// Leaves `deed` to be done if the program is ended at once. The last left is the first done.
pub(crate) fn on_end(deed: impl FnOnce() + Send + 'static) -> OnEnd {
    let mut desk = desk();
    desk.next += 1;
    let place = desk.next;
    desk.deeds.insert(place, Box::new(deed));
    OnEnd(place)
}

impl Drop for OnEnd {
    fn drop(&mut self) {
        desk().deeds.remove(&self.0);
    }
}

/// The status after Ctrl-C: 128 and the signal's number, as shells have it.
const INTERRUPTED: u8 = 128 + 2;

#[cfg(unix)]
struct Ears {
    /// With the status to end with; those that whoever started the program told it not to hear are left out.
    signals: Vec<(tokio::signal::unix::Signal, u8)>,
}

#[cfg(unix)]
impl Ears {
    fn open() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut signals = vec![
            (signal(SignalKind::interrupt())?, INTERRUPTED),
            (signal(SignalKind::terminate())?, 128 + 15),
        ];
        // `nohup atoll demo` must outlive its terminal
        if !is_ignored(SignalKind::hangup().as_raw_value()) {
            signals.push((signal(SignalKind::hangup())?, 128 + 1));
        }
        Ok(Self { signals })
    }

    async fn hear(&mut self) -> Option<u8> {
        std::future::poll_fn(|context| {
            let heard = self
                .signals
                .iter_mut()
                .find_map(|(signal, status)| signal.poll_recv(context).is_ready().then_some(*status));
            heard.map_or(std::task::Poll::Pending, |status| std::task::Poll::Ready(Some(status)))
        })
        .await
    }
}

/// Whether the signal was ignored when the program started, as far as the system tells.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default(); // only Linux has it
    ignores(&status, signal)
}

#[cfg(unix)]
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(not(unix))]
struct Ears;

#[cfg(not(unix))]
impl Ears {
    fn open() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn hear(&mut self) -> Option<u8> {
        tokio::signal::ctrl_c().await.ok().map(|()| INTERRUPTED)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_at_the_start_is_known() {
        let status = |mask: &str| format!("Name:\tatoll\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0\n");
        for (mask, signal, is) in [
            ("0000000000001000", 1, false),
            ("0000000000001001", 1, true),
            ("0000000000000002", 2, true),
            ("0000000000000002", 1, false),
            ("", 1, false),
            ("not a mask", 1, false),
        ] {
            assert_eq!(ignores(&status(mask), signal), is, "{mask} {signal}");
        }
        assert!(!ignores("", 1));
    }
}
