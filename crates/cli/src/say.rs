//! Printing on standard output that outlives its reader: `atoll … | head` is not an error.

use std::{
    fmt::Arguments,
    io::{ErrorKind, Write as _, stdout},
    sync::atomic::{AtomicBool, Ordering},
};

/// Whether something that was to be printed is lost.
static LOST: AtomicBool = AtomicBool::new(false);

/// As `println!`, but what cannot be written is no panic: work goes on where nobody reads any more.
macro_rules! say {
    () => { $crate::say::write(format_args!("\n")) };
    ($($text:tt)+) => { $crate::say::write(format_args!("{}\n", format_args!($($text)+))) };
}

/// As `print!`, and at once.
macro_rules! say_part {
    ($($text:tt)*) => { $crate::say::write(format_args!($($text)*)) };
}

pub(crate) fn write(text: Arguments<'_>) {
    let mut out = stdout().lock();
    let written = out.write_fmt(text).and_then(|()| out.flush());
    let failed = written.err().filter(|error| error.kind() != ErrorKind::BrokenPipe);
    if let Some(error) = failed
        && !LOST.swap(true, Ordering::Relaxed)
    {
        eprintln!("atoll: cannot write to standard output: {error}");
    }
}

/// Whether output was lost while somebody may still want it, such as on a full disk.
pub(crate) fn lost() -> bool {
    LOST.load(Ordering::Relaxed)
}
