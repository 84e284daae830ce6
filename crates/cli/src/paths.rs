//! Paths that people name, in words alone: what is at a path is asked through a closure, never of the disk.

use std::path::{Component, Path, PathBuf};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Something; its real path, without links.
    There(PathBuf),
    /// A link that leads nowhere.
    Dangling,
    /// Nothing.
    Nothing,
}

/// Where `path` leads, seen from the folder `here`, which is a real path. A `..` after something that is there goes to
/// the folder that really holds it; after a name that is not there yet it takes the name back.
///
/// # Errors
/// The link in it that leads nowhere.
pub(crate) fn leads(path: &Path, here: &Path, look: impl Fn(&Path) -> Found) -> Result<PathBuf, PathBuf> {
    let mut at = here.to_path_buf();
    for part in path.components() {
        match part {
            Component::Prefix(_) | Component::RootDir => at.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                at.pop();
            }
            Component::Normal(name) => {
                at.push(name);
                match look(&at) {
                    Found::There(real) => at = real,
                    Found::Nothing => {}
                    Found::Dangling => return Err(at),
                }
            }
        }
    }
    Ok(at)
}

/// The path as it can be pasted into a shell.
pub(crate) fn pasted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = match text.starts_with('-') {
        true => format!("./{text}"),
        false => text.into_owned(),
    };
    let plain = |char: char| char.is_alphanumeric() || "/._-+=@:,%".contains(char);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with the folders /home/me, /home/me/there and /data, a link `link` to /data, and one to nowhere.
    fn look(path: &Path) -> Found {
        match path.to_str().unwrap() {
            there @ ("/home" | "/home/me" | "/home/me/there" | "/data") => Found::There(there.into()),
            "/home/me/link" => Found::There("/data".into()),
            "/home/me/dangling" => Found::Dangling,
            _ => Found::Nothing,
        }
    }

    #[test]
    fn where_a_path_leads() {
        for (path, to) in [
            ("play", "/home/me/play"),
            ("play/", "/home/me/play"),
            ("./play//", "/home/me/play"),
            (".", "/home/me"),
            ("./", "/home/me"),
            ("..", "/home"),
            ("/", "/"),
            ("/../..", "/"),
            ("there/", "/home/me/there"),
            ("there/../play", "/home/me/play"),
            ("./x/../y", "/home/me/y"),
            ("x/../there/z", "/home/me/there/z"),
            ("x/../../other", "/home/other"),
            ("link/", "/data"),
            ("link/sub", "/data/sub"),
            ("link/../sub", "/sub"), // as the system has it: /data/..
            ("two words/ä", "/home/me/two words/ä"),
            ("..new", "/home/me/..new"),
            ("/data/a/b/c", "/data/a/b/c"),
        ] {
            let found = leads(Path::new(path), Path::new("/home/me"), look);
            assert_eq!(found, Ok(to.into()), "{path}");
        }
        for path in ["dangling", "dangling/", "./dangling/x", "there/../dangling"] {
            let found = leads(Path::new(path), Path::new("/home/me"), look);
            assert_eq!(found, Err("/home/me/dangling".into()), "{path}");
        }
    }

    #[test]
    fn paths_can_be_pasted() {
        for (path, pasted_as) in [
            ("atoll-demo", "atoll-demo"),
            ("/a/b.c", "/a/b.c"),
            ("größe", "größe"),
            ("two words", "'two words'"),
            ("it's", r"'it'\''s'"),
            ("~/x", "'~/x'"),
            ("a$b", "'a$b'"),
            ("-x", "./-x"),
            ("", "''"),
        ] {
            assert_eq!(pasted(Path::new(path)), pasted_as, "{path}");
        }
    }
}
