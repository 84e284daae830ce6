//! Printing that outlives its reader: `atoll … | head` is not an error, and a full disk is one at the end.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, IsTerminal, Write as _, stderr, stdout},
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

/// As `eprintln!`, but no panic: there is nowhere to say that standard error cannot be written.
macro_rules! complain {
    ($($text:tt)+) => { $crate::say::write_error(format_args!("{}\n", format_args!($($text)+))) };
}

/// A stranger's text for standard output: where that is a terminal, characters that would command it are shown and
/// not obeyed.
pub(crate) fn harmless(text: &str) -> std::borrow::Cow<'_, str> {
    let commands = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    if !stdout().is_terminal() || !text.contains(commands) {
        return text.into();
    }
    let shown = text.chars().map(|letter| match commands(letter) {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    });
    shown.collect::<String>().into()
}

pub(crate) fn write(text: Arguments<'_>) {
    let mut out = stdout().lock();
    written(out.write_fmt(text).and_then(|()| out.flush()));
}

/// Takes note of what became of something that was to be printed.
pub(crate) fn written(done: io::Result<()>) {
    let failed = done.err().filter(|error| error.kind() != ErrorKind::BrokenPipe);
    if let Some(error) = failed
        && !LOST.swap(true, Ordering::Relaxed)
    {
        complain!("atoll: cannot write to standard output: {error}");
    }
}

pub(crate) fn write_error(text: Arguments<'_>) {
    let _ = stderr().lock().write_fmt(text); // who closed it does not want to know
}

/// Whether output was lost while somebody may still want it, such as on a full disk.
pub(crate) fn lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Whether lines there can be drawn over and coloured: never in a pipe or a file.
pub(crate) fn is_drawable(stream: &impl IsTerminal) -> bool {
    let term = std::env::var_os("TERM");
    stream.is_terminal() && (cfg!(windows) || term.is_some_and(|term| !term.is_empty() && term != "dumb"))
}

/// A bar of progress on standard error, where lines can be drawn over.
pub(crate) fn bar(length: u64) -> indicatif::ProgressBar {
    match is_drawable(&stderr()) {
        true => indicatif::ProgressBar::new(length),
        false => indicatif::ProgressBar::hidden(),
    }
}

/// The same without a length.
pub(crate) fn spinner() -> indicatif::ProgressBar {
    let spinner = bar(0);
    spinner.set_style(indicatif::ProgressStyle::default_spinner());
    spinner.enable_steady_tick(std::time::Duration::from_millis(200));
    spinner
}
