//! What is logged, and how: libraries only for developers, colours only for eyes.

use crate::say::is_drawable;
use std::{env::VarError, io::stderr};
use tracing_subscriber::EnvFilter;

/// What libraries log is for developers: ATOLL_LOG=debug shows it.
const LOG: &str = "off,atoll=warn,atoll_host=warn,atoll_consensus=warn";

/// Begins to log on standard error.
pub(crate) fn start() {
    let (filter, wrong) = filter(std::env::var("ATOLL_LOG"));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()); // no-color.org
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(!plain && is_drawable(&stderr()))
        .log_internal_errors(false) // it would panic where standard error cannot be written
        .init();
    if let Some(wrong) = wrong {
        complain!("atoll: {wrong}");
    }
}

/// A line of another process, with its name in front.
pub(crate) fn of(name: &str, line: &str) -> String {
    format!("{name}: {}", line.strip_prefix("atoll: ").unwrap_or(line))
}

/// The filter that is asked for, or the usual one and why.
fn filter(asked: Result<String, VarError>) -> (EnvFilter, Option<String>) {
    let usual = || EnvFilter::new(LOG);
    match asked {
        Err(VarError::NotPresent) => (usual(), None),
        Err(VarError::NotUnicode(_)) => (usual(), Some("ATOLL_LOG is not UTF-8 and is left out".into())),
        Ok(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (
                usual(),
                Some(format!(
                    "ATOLL_LOG={text} is left out: {error}; ATOLL_LOG=atoll_host=debug is an example"
                )),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_said() {
        for (asked, becomes, said) in [
            (Err(VarError::NotPresent), LOG, false),
            (Ok("atoll_host=debug".to_string()), "atoll_host=debug", false),
            (Ok("atoll=loud".to_string()), LOG, true),
            (Err(VarError::NotUnicode("x".into())), LOG, true),
        ] {
            let (filter, wrong) = filter(asked.clone());
            let parts = |text: &str| {
                text.split(',')
                    .map(str::to_string)
                    .collect::<std::collections::BTreeSet<_>>()
            };
            assert_eq!(parts(&filter.to_string()), parts(becomes), "{asked:?}");
            assert_eq!(wrong.is_some(), said, "{asked:?}");
        }
    }
}
