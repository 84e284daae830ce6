//! The key file: one Ed25519 key for the ledger, consensus and the network.

use crate::folder::{FolderError, read_limited, write_secret};
use atoll_protocol::{Hash, Keypair};
use std::path::{Path, PathBuf};
use thiserror::Error;

const FIRST_LINE: &str = "atoll key v1: keep this file secret and back it up";

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The system gives no randomness.
    #[error("the system gives no randomness for a new key: {0}")]
    Random(getrandom::Error),
    /// The file is not a key.
    #[error("{path} is not a key file: {what}. Restore it from a backup; it was not changed", path = path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Others can read it.
    #[error("{path} can be read by others (mode {mode:o}); run `chmod 600 {path}`", path = path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Makes a new key at `path`; refuses to replace one.
pub fn create(path: &Path) -> Result<Keypair, IdentityError> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed).map_err(IdentityError::Random)?;
    create_from(path, &seed)
}

/// The same with a secret that is known already: for runs that are to be compared, never for real ones.
pub fn create_from(path: &Path, seed: &[u8; 32]) -> Result<Keypair, IdentityError> {
    let keypair = Keypair::from_seed(seed);
    let text = format!(
        "{FIRST_LINE}\nsecret {}\npublic {}\n",
        Hash(keypair.seed()),
        keypair.peer()
    );
    write_secret(path, text.as_bytes())?;
    Ok(keypair)
}

/// Reads the key at `path`, which must be its owner's alone. The public half in the file must fit the secret.
pub fn read(path: &Path) -> Result<Keypair, IdentityError> {
    // others' mode is told before what is in the file
    let keypair = read_whoever_may(path);
    match open_to(path)? {
        Some(mode) => Err(IdentityError::Readable {
            path: path.to_path_buf(),
            mode,
        }),
        None => keypair,
    }
}

/// The same whoever else can read the file: for those who only look.
pub fn read_whoever_may(path: &Path) -> Result<Keypair, IdentityError> {
    let refuse = |what| IdentityError::NotAKey {
        path: path.to_path_buf(),
        what,
    };
    let bytes = read_limited(path, 1024)?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("it is not text"))?;
    let lines: Vec<&str> = text.lines().collect();
    let [first, secret, public] = lines[..] else {
        return Err(refuse("it has not three lines"));
    };
    if first != FIRST_LINE || !text.ends_with('\n') {
        return Err(refuse("its first line is another"));
    }
    let seed: Option<Hash> = secret.strip_prefix("secret ").and_then(|hex| hex.parse().ok());
    let keypair = Keypair::from_seed(&seed.ok_or_else(|| refuse("its secret line is damaged"))?.0);
    match public.strip_prefix("public ") == Some(&keypair.peer().to_string()) {
        true => Ok(keypair),
        false => Err(refuse("its secret and public lines do not fit")),
    }
}

/// The mode of the key at `path`, if others than its owner can use it.
#[cfg(unix)]
pub fn open_to(path: &Path) -> Result<Option<u32>, FolderError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::metadata(path).map_err(FolderError::io("read", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}

/// Where files have no modes, nobody can tell.
#[cfg(not(unix))]
pub fn open_to(_: &Path) -> Result<Option<u32>, FolderError> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_refuses_any_change() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("key");
        let made = create(&path).unwrap();
        assert_eq!(read(&path).unwrap().peer(), made.peer());
        assert!(create(&path).is_err(), "never replaced");
        let good = std::fs::read(&path).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(read(&path).is_err(), "byte {place}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_for_those_who_look_alone() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("key");
        let made = create(&path).unwrap();
        for (mode, open) in [(0o600, None), (0o400, None), (0o644, Some(0o644)), (0o777, Some(0o777))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to(&path).unwrap(), open);
            assert_eq!(read_whoever_may(&path).unwrap().peer(), made.peer());
            assert_eq!(read(&path).is_err(), open.is_some(), "{mode:o}");
        }
    }
}
