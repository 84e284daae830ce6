//! Files that a user names to be written: never somebody else's, said before the work, and whole or not there.

use anyhow::{Context as _, bail};
use std::{
    fs::{self, File, Metadata},
    io::{ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// So much of a file tells whether it is ours.
const HEAD_BYTES: u64 = 4096;

/// Where something will be written when the work is done.
#[derive(Debug)]
pub(crate) struct Output {
    /// As it was named.
    named: PathBuf,
    place: Place,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A plain file, by its real path: made beside, and renamed.
    File(PathBuf),
    /// A terminal, a pipe or the like, which is there already.
    Stream,
}

/// Takes `path` for a file of ours. A file that is there is replaced only where it is empty, or `is_ours` says so of its
/// first 4096 bytes. Nothing is changed yet.
///
/// # Errors
/// Where somebody else's file is there, or none can be.
pub(crate) fn claim(path: &Path, ours: &str, is_ours: impl FnOnce(&[u8]) -> bool) -> anyhow::Result<Output> {
    let output = |place| Output {
        named: path.to_path_buf(),
        place,
    };
    let shown = path.display();
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if path.is_symlink() {
                bail!("{shown} is a link to a file that is not there; name that file itself");
            }
            let real = absent(path)?;
            can_be_made(&real).with_context(|| format!("cannot write {shown}"))?;
            return Ok(output(Place::File(real)));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot write {shown}")),
    };
    if there.is_dir() {
        bail!("{shown} is a folder; name a file");
    }
    // what a process has open already has no name to rename to, such as /dev/stdout
    let open = ["/dev", "/proc"].iter().any(|place| path.starts_with(place));
    if is_stream(&there) || (there.is_file() && open) {
        return Ok(output(Place::Stream));
    }
    if !there.is_file() {
        bail!("{shown} is no plain file; name another");
    }
    let real = fs::canonicalize(path).with_context(|| format!("cannot write {shown}"))?;
    let head = head(&real).with_context(|| format!("cannot read {shown}, which is there already"))?;
    if !head.is_empty() && !is_ours(&head) {
        bail!(
            "{shown} is there already and is no {ours}; name another file, or move that one away (nothing was changed)"
        );
    }
    if there.permissions().readonly() {
        bail!("{shown} is there already and may not be written; name another file (nothing was changed)");
    }
    can_be_made(&real).with_context(|| format!("cannot write {shown}"))?;
    Ok(output(Place::File(real)))
}

/// The real path of a file that is not there, in a folder that must be.
fn absent(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = path.display();
    let name = path.file_name().with_context(|| format!("{shown} names no file"))?;
    if path.to_string_lossy().ends_with(std::path::MAIN_SEPARATOR) {
        bail!("{shown} names a folder that is not there; name a file");
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let folder = fs::canonicalize(parent)
        .with_context(|| format!("cannot write {shown}: there is no folder {}", parent.display()))?;
    Ok(folder.join(name))
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(unix)]
fn is_stream(there: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    there.file_type().is_char_device() || there.file_type().is_fifo()
}

#[cfg(not(unix))]
fn is_stream(_: &Metadata) -> bool {
    false
}

/// Makes an empty file beside `path`, under a name that nobody has.
fn beside(path: &Path) -> std::io::Result<(PathBuf, File)> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    for number in 0..100 {
        // of a length that fits wherever `path` does not
        let name = folder.join(format!(".atoll-partial-{}-{number}", std::process::id()));
        match File::options().write(true).create_new(true).open(&name) {
            Ok(file) => return Ok((name, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Whether a file of that name can be made there: said before the work, not after it.
fn can_be_made(path: &Path) -> std::io::Result<()> {
    let (trial, _) = beside(path)?;
    fs::remove_file(trial)?;
    // too long a name is only noticed by asking for it
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Output {
    /// Writes all of it, so that either the old file or the new one is there, whole.
    ///
    /// # Errors
    /// Where it cannot be written; the old file is as it was.
    pub(crate) fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let shown = self.named.display();
        match &self.place {
            Place::Stream => {
                let opened = File::options().append(true).open(&self.named);
                match opened.and_then(|mut stream| stream.write_all(bytes)) {
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()), // who read has gone
                    done => done.with_context(|| format!("cannot write {shown}")),
                }
            }
            Place::File(real) => self.replace(real, |mut file| {
                file.write_all(bytes)?;
                Ok(file.sync_all()?)
            }),
        }
    }

    fn replace(&self, real: &Path, fill: impl FnOnce(File) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let shown = self.named.display();
        let (partial, file) = beside(real).with_context(|| format!("cannot write {shown}"))?;
        let filled = fill(file).and_then(|()| {
            if let Ok(there) = fs::metadata(real) {
                fs::set_permissions(&partial, there.permissions())?;
            }
            Ok(fs::rename(&partial, real)?)
        });
        if filled.is_err() {
            let _ = fs::remove_file(&partial); // the first error is the one to tell
        }
        filled.with_context(|| format!("cannot write {shown}"))
    }

    /// Whether both lead to one file.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        matches!((&self.place, &other.place), (Place::File(one), Place::File(two)) if one == two)
    }

    /// Whether it would replace the file at `path`.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real| self.place == Place::File(real))
    }
}

/// Whether a picture begins like one of ours, whose title holds all of these words.
pub(crate) fn is_our_svg(head: &[u8], title: &[&str]) -> bool {
    let holds = |word: &&str| head.windows(word.len()).any(|part| part == word.as_bytes());
    head.starts_with(b"<svg ") && title.iter().all(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(path: &Path) -> anyhow::Result<Output> {
        claim(path, "text of ours", |head| head.starts_with(b"ours"))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_is_absent_empty_or_ours_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, before) in [("absent", None), ("empty", Some("")), ("ours", Some("ours, old"))] {
            if let Some(before) = before {
                fs::write(at(name), before).unwrap();
            }
            let output = taken(&at(name)).unwrap();
            assert_eq!(fs::read_to_string(at(name)).ok().as_deref(), before, "not yet: {name}");
            output.write(b"ours, new").unwrap();
            assert_eq!(fs::read_to_string(at(name)).unwrap(), "ours, new");
        }
        assert_eq!(names(folder.path()), ["absent", "empty", "ours"], "and nothing beside");
        fs::write(at("letter"), "dear").unwrap();
        let refused = taken(&at("letter")).unwrap_err().to_string();
        assert!(
            refused.contains("is no text of ours") && refused.contains("nothing was changed"),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(at("letter")).unwrap(), "dear");
    }

    #[test]
    fn what_cannot_be_a_file_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        let long = "x".repeat(256);
        for (name, said) in [
            ("folder", "is a folder"),
            ("folder/", "is a folder"),
            ("none/file", "there is no folder"),
            ("none/", "names a folder"),
            ("..", "is a folder"),
            (long.as_str(), "cannot write"),
        ] {
            let refused = format!("{:#}", taken(&at(name)).unwrap_err());
            assert!(refused.contains(said), "{name}: {refused}");
        }
        assert_eq!(names(folder.path()), ["folder"]);
        let longest = at(&"x".repeat(255));
        taken(&longest).unwrap().write(b"ours").unwrap();
        assert_eq!(fs::read(&longest).unwrap(), b"ours");
    }

    #[cfg(unix)]
    #[test]
    fn links_keep_leading_where_they_lead_and_modes_stay() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("real"), "ours").unwrap();
        fs::set_permissions(at("real"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        let output = taken(&at("link")).unwrap();
        assert!(output.is_at(&at("real")) && output.is_same(&taken(&at("real")).unwrap()));
        output.write(b"ours, new").unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::read(at("real")).unwrap(), b"ours, new");
        assert_eq!(fs::metadata(at("real")).unwrap().permissions().mode() & 0o777, 0o640);
        let refused = taken(&at("dangling")).unwrap_err().to_string();
        assert!(refused.contains("is a link to a file that is not there"), "{refused}");
        fs::set_permissions(at("real"), fs::Permissions::from_mode(0o440)).unwrap();
        assert!(
            taken(&at("real"))
                .unwrap_err()
                .to_string()
                .contains("may not be written")
        );
        taken(Path::new("/dev/null")).unwrap().write(b"gone").unwrap();
        assert!(Path::new("/dev/null").exists());
    }

    #[test]
    fn pictures_of_ours_are_known_by_their_titles() {
        let of = |svg: &str| is_our_svg(svg.as_bytes(), &[", seed ", " rounds</text>"]);
        assert!(of(
            "<svg width=\"1\">\n<text>calm, seed 1: 4 nodes, 12 rounds</text>\n</svg>\n"
        ));
        for other in [
            "",
            "<svg width=\"1\">\n<rect/>",
            "calm, seed 1: 4 nodes, 12 rounds</text>",
            "<svg>, seed ",
        ] {
            assert!(!of(other), "{other}");
        }
    }
}
