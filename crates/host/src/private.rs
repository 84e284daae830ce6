//! What only this node knows and must survive a crash: error feedback, inner optimizer, and the
//! contribution of the last round, so that a restart never makes another one for it.

use crate::folder::{FolderError, read_limited, write_whole};
use atoll_protocol::{Hash, PeerId, charter::Codec, decode, encode, transaction::Reveal};
use borsh::{BorshDeserialize, BorshSerialize};
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

const VERSION: u32 = 5;
/// Error feedback and two moments of the largest model, and the frame.
const BYTES_MAX: u64 = 4 * atoll_protocol::limits::BLOB_BYTES_MAX;

/// Why the private state cannot be used.
#[derive(Debug, Error)]
pub enum PrivateError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The file is damaged or of another run.
    #[error("{} {what}; move it away to start with empty error feedback and fresh optimizer moments", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// The private state.
#[derive(Debug, Clone, PartialEq, BorshSerialize, BorshDeserialize)]
pub struct Private {
    version: u32,
    genesis: Hash,
    peer: PeerId,
    /// The contribution that is not known to be merged and was not added back, root of the θ that it was made
    /// from, and how it was encoded.
    pub pending: Option<(Reveal, Hash, Codec)>,
    /// The state after the last contribution, and whether that went back into error feedback since.
    pub stands_on: (Hash, bool),
    /// Error feedback, as `outer` writes it.
    pub feedback: Vec<u8>,
    /// Optimizer moments, as `learner` writes them.
    pub optimizer: Vec<u8>,
}

impl Private {
    /// Nothing yet, of this peer in this run.
    pub fn new((genesis, peer): (Hash, PeerId), feedback: Vec<u8>, optimizer: Vec<u8>) -> Self {
        Self {
            version: VERSION,
            genesis,
            peer,
            pending: None,
            stands_on: (Hash::ZERO, false),
            feedback,
            optimizer,
        }
    }

    /// Reads the file at `path`, if it is there. It must be this peer's, and of this run.
    pub fn read(path: &Path, (genesis, peer): (Hash, PeerId)) -> Result<Option<Self>, PrivateError> {
        let Some(private) = Self::read_anyones(path)? else {
            return Ok(None);
        };
        let refuse = |what| PrivateError::Unusable {
            path: path.to_path_buf(),
            what,
        };
        match (private.genesis == genesis, private.peer == peer) {
            (true, true) => Ok(Some(private)),
            (false, _) => Err(refuse("is of another run")),
            (true, false) => Err(refuse("is of another node")),
        }
    }

    /// Whose it is, and of which run.
    pub fn bound_to(&self) -> (Hash, PeerId) {
        (self.genesis, self.peer)
    }

    /// Reads the file at `path`, if it is there, whosever it is.
    pub fn read_anyones(path: &Path) -> Result<Option<Self>, PrivateError> {
        if matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let refuse = |what| PrivateError::Unusable {
            path: path.to_path_buf(),
            what,
        };
        let bytes = read_limited(path, BYTES_MAX)?;
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or_else(|| refuse("is too short"))?;
        if Hash::of_blob(body).0 != *sum {
            return Err(refuse("is damaged (its checksum does not fit)"));
        }
        // another version may have other fields, and says so in its first bytes
        if body.get(..4) != Some(&VERSION.to_le_bytes()) {
            return Err(refuse("is of another version of this program"));
        }
        let private: Self = decode(body, body.len()).map_err(|_| refuse("is not readable"))?;
        Ok(Some(private))
    }

    /// Writes the file at `path`, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), PrivateError> {
        let mut bytes = encode(self);
        let sum = Hash::of_blob(&bytes);
        bytes.extend_from_slice(&sum.0);
        Ok(write_whole(path, &bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: (Hash, PeerId) = (Hash::ZERO, PeerId([7; 32]));

    #[test]
    fn reads_back_and_refuses_damage_and_other_runs() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("trainer.bin");
        assert_eq!(Private::read(&path, OURS).unwrap(), None);
        let private = Private::new(OURS, vec![1, 2, 3], vec![4; 100]);
        private.write(&path).unwrap();
        assert_eq!(Private::read(&path, OURS).unwrap(), Some(private));
        let others = [
            ((Hash([1; 32]), OURS.1), "another run"),
            ((OURS.0, PeerId([8; 32])), "another node"),
        ];
        for (other, what) in others {
            let refused = Private::read(&path, other).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
        }
        let good = std::fs::read(&path).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 0x40;
            std::fs::write(&path, bad).unwrap();
            assert!(Private::read(&path, OURS).is_err(), "byte {place}");
        }
        std::fs::write(&path, &good[..10]).unwrap();
        assert!(Private::read(&path, OURS).is_err());
    }
}
