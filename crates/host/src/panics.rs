//! Panics of storage libraries: databases assert what they believe of their own pages, and a damaged file breaks that
//! belief. Such a panic becomes a text that somebody explains; it is not printed.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Once,
};

/// Where panics come from that are told by whoever meets their consequence.
const STORAGE: [&str; 3] = ["commonware-", "redb-", "iroh-blobs-"];

/// From now on, panics of storage libraries print nothing. Others print what they did before.
pub fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match is_of_storage(info) {
            true => tracing::debug!("{info}"),
            false => before(info),
        }));
    });
}

fn is_of_storage(info: &PanicHookInfo<'_>) -> bool {
    let file = info.location().map(|location| location.file()).unwrap_or_default();
    let parts = file.split(['/', '\\']);
    parts
        .into_iter()
        .any(|part| STORAGE.iter().any(|library| part.starts_with(library)))
}

/// Does `work` on files that may be damaged; the text of a panic if it panics.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    hush();
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| text(&*panic))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let line = text.and_then(|text| text.lines().next()).unwrap_or_default();
    match line.is_empty() {
        true => "its pages are damaged".to_string(),
        false => format!("its pages are damaged: {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_text() {
        assert_eq!(quietly(|| 7), Ok(7));
        let expected = "its pages are damaged: page 7 is not a leaf".to_string();
        assert_eq!(quietly(|| panic!("page {} is not a leaf", 7)), Err::<(), _>(expected));
        let expected = Err("its pages are damaged".to_string());
        assert_eq!(quietly(|| -> () { panic::panic_any(7) }), expected);
    }
}
