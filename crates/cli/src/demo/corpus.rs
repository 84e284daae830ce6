//! The demo's corpus: what the user names, or the project's own sources, packed when it was built.

use anyhow::Context as _;
use atoll_host::found::{Corpus, corpus_of, ingest};
use std::path::Path;

/// Written by build.rs: names and texts in turn, each ended by NUL.
static PACKED: &str = include_str!(concat!(env!("OUT_DIR"), "/corpus"));

/// The licence of the packed corpus.
pub(crate) const LICENCE: &str = "MIT OR Apache-2.0";

/// Reads the corpus at `path`, or the packed one.
pub(crate) fn read(path: Option<&Path>) -> anyhow::Result<Corpus> {
    match path {
        Some(path) => ingest(path).with_context(|| format!("cannot use {} as the corpus", path.display())),
        None => Ok(corpus_of(packed())),
    }
}

fn packed() -> impl Iterator<Item = (String, String)> {
    let mut parts = PACKED.split_terminator('\u{0}');
    std::iter::from_fn(move || Some((parts.next()?.to_string(), parts.next()?.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packed_corpus_holds_this_very_file() {
        let corpus = read(None).unwrap();
        assert!(
            corpus
                .sources
                .iter()
                .any(|source| source.path == "crates/cli/src/demo/corpus.rs")
        );
        assert!(corpus.text_bytes() > 100_000);
        assert!(corpus.sources.windows(2).all(|pair| pair[0].path < pair[1].path));
    }
}
