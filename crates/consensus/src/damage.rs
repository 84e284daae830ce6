//! What a failure of the engine's storage means, in words for people: its panics are for its developers.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Of a panic's text this much is told.
const TEXT_MAX: usize = 200;
/// What is written to see whether the disk is full.
const PROBE_BYTES: usize = 64 * 1024;

/// The file beside the store in `folder` that says that the votes in it were lost.
pub fn lost_marker(folder: &Path) -> PathBuf {
    folder.with_extension("lost")
}

/// Says that the votes in the store in `folder` were lost: the validator only listens at first when it starts.
pub fn mark_lost(folder: &Path) -> io::Result<()> {
    let path = lost_marker(folder);
    let mut marker = match File::options().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()), // it is said already
        marker => marker?,
    };
    marker.write_all(b"the votes of this validator were lost; it listens before it votes again\n")?;
    marker.sync_all()?;
    match path.parent() {
        #[cfg(unix)]
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Whether the votes in the store in `folder` are lost, where one should be there.
pub(crate) fn is_lost(folder: &Path, may_have_voted: bool) -> bool {
    let is_empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    lost_marker(folder).exists() || (may_have_voted && is_empty)
}

/// What a panic or an error of the engine means.
pub(crate) fn explain(folder: &Path, text: &str) -> String {
    explained(folder, text, is_full(folder, text))
}

fn explained(folder: &Path, text: &str, full: bool) -> String {
    let place = folder.display();
    if full {
        return format!(
            "consensus cannot write to {place}: the disk is full. Free some space and start again; what was written \
             before is intact"
        );
    }
    let node = folder.parent().unwrap_or(folder).display();
    let line = text.lines().next().unwrap_or_default();
    let cut = line.char_indices().nth(TEXT_MAX).map_or(line.len(), |(place, _)| place);
    format!(
        "{DAMAGED}{place} is damaged ({}): what this node has voted cannot be read. Nothing else is lost; \
         `atoll repair {node}` moves it away, and the node listens for a while before it votes again",
        &line[..cut]
    )
}

/// Whether why consensus stopped is that its store is damaged: then it is the sentence that says so.
pub fn says_damaged(why: &str) -> bool {
    why.starts_with(DAMAGED)
}

/// What the sentence about damage begins with.
const DAMAGED: &str = "the consensus store ";

/// Whether an error's text says that the disk is full: libraries hand on no more than that.
pub fn says_full(text: &str) -> bool {
    ["No space left", "os error 28", "StorageFull", "quota", "QuotaExceeded"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Whether the text says so, or nothing can be written now. The engine often says neither which file nor why.
fn is_full(folder: &Path, text: &str) -> bool {
    let probe = format!("probe-{}", std::process::id());
    says_full(text) || cannot_write(&folder.with_extension(probe))
}

/// Whether a new file cannot be written because the disk is full. What is there is left alone.
fn cannot_write(probe: &Path) -> bool {
    let made = File::options().write(true).create_new(true).open(probe);
    let made_it = made.is_ok();
    let written = made.and_then(|mut file| {
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    });
    if made_it {
        let _ = fs::remove_file(probe); // of no use to anybody
    }
    let full = |error: io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    written.is_err_and(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_sentence_with_the_folder_and_the_way_out() {
        let folder = Path::new("my-node/consensus");
        let damaged = explain(
            folder,
            "unable to replay journal: Runtime(InvalidChecksum)\nnote: run with",
        );
        assert_eq!(
            damaged,
            "the consensus store my-node/consensus is damaged (unable to replay journal: Runtime(InvalidChecksum)): \
             what this node has voted cannot be read. Nothing else is lost; `atoll repair my-node` moves it away, and \
             the node listens for a while before it votes again"
        );
        let full = "consensus cannot write to my-node/consensus: the disk is full. Free some space and start again; \
                    what was written before is intact";
        let said = "unable to append to journal: Runtime(BlobResizeFailed(\"simplex\", \"00\", Os { code: 28, kind: \
                    StorageFull, message: \"No space left on device\" }))";
        assert_eq!(explain(folder, said), full);
        assert_eq!(
            explained(folder, "unable to append to journal: Runtime(WriteFailed)", true),
            full
        );
        assert!(explain(folder, &"é".repeat(9_999)).len() < 900, "a long text is cut");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn looking_whether_the_disk_is_full_leaves_everything_as_it_is() {
        let temporary = tempfile::tempdir().expect("a folder");
        assert!(!cannot_write(&temporary.path().join("consensus.probe")));
        assert_eq!(fs::read_dir(temporary.path()).expect("a folder").count(), 0);
        assert!(
            !cannot_write(Path::new("/nowhere/consensus.probe")),
            "that is another fault"
        );
        let theirs = temporary.path().join("consensus.theirs");
        fs::write(&theirs, "years of work").expect("written");
        assert!(!cannot_write(&theirs));
        assert_eq!(fs::read(&theirs).expect("still there"), b"years of work");
    }

    #[test]
    fn votes_are_lost_where_a_store_should_be_and_is_not() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = temporary.path().join("consensus");
        assert!(!is_lost(&folder, false), "it never voted");
        assert!(is_lost(&folder, true));
        fs::create_dir(&folder).expect("a folder");
        assert!(is_lost(&folder, true));
        fs::create_dir(folder.join("simplex")).expect("a folder");
        assert!(!is_lost(&folder, true));
        mark_lost(&folder).expect("a marker");
        assert!(
            is_lost(&folder, true) && is_lost(&folder, false),
            "until it has listened"
        );
    }
}
