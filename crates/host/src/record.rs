//! The ledger on disk: final blocks with their certificates, by height, in one redb file.

use atoll_ledger::{BlockError, Event, State};
use atoll_protocol::{Block, Charter, DecodeError, Height, encode, limits::BLOCK_BYTES_MAX};
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, StorageBackend as _, TableDefinition,
    backends::InMemoryBackend,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;

const BLOCKS: TableDefinition<u64, &[u8]> = TableDefinition::new("blocks v1");
const CERTIFICATES: TableDefinition<u64, &[u8]> = TableDefinition::new("certificates v1");
const GENESIS: TableDefinition<u64, &[u8]> = TableDefinition::new("genesis v1");

/// Bytes of the largest certificate: a hundred validators' signatures and their frame.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// What can go wrong with the ledger's file.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The database refuses.
    #[error("the ledger {}: {cause}{}", path.display(), hint(cause))]
    Storage {
        /// The file.
        path: PathBuf,
        /// What it said.
        cause: Box<redb::Error>,
    },
    /// It belongs to another run.
    #[error("the ledger {} is of another run than charter.toml; put back the charter it was made with, or use another folder; nothing was changed", .0.display())]
    OtherRun(PathBuf),
    /// A block is not readable.
    #[error("block {height} in the ledger is damaged: {cause}")]
    Damaged {
        /// Its height.
        height: Height,
        /// Why.
        cause: DecodeError,
    },
    /// A block is missing or its certificate is oversized.
    #[error("block {height} in the ledger: {what}")]
    Gap {
        /// Its height.
        height: Height,
        /// What is wrong.
        what: String,
    },
    /// A block does not follow from those before it.
    #[error("block {height} in the ledger is refused: {cause}")]
    Refused {
        /// Its height.
        height: Height,
        /// Why.
        cause: BlockError,
    },
}

fn hint(error: &redb::Error) -> &'static str {
    let full = |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    match error {
        redb::Error::Io(error) if full(error) => {
            ". The disk is full: free some space and start again; what was written before is intact"
        }
        redb::Error::DatabaseAlreadyOpen => " Its node is running; stop it first",
        _ => "",
    }
}

/// A block as stored.
#[derive(Debug, Clone)]
pub struct StoredBlock {
    /// The block.
    pub block: Block,
    /// Its own finality certificate; a block may be final through a descendant's.
    pub certificate: Option<Vec<u8>>,
}

/// The ledger's file, open for writing.
pub struct Record {
    path: PathBuf,
    database: Database,
}

impl Record {
    /// Opens the file, or makes it; refuses one of another run.
    pub fn open(path: &Path, charter: &Charter) -> Result<Self, RecordError> {
        // opening for writing changes the file, so look first; what cannot be read so is judged after
        if path.exists() && genesis_of(path).is_ok_and(|bound| bound.is_some_and(|bound| bound != charter.genesis().0))
        {
            return Err(RecordError::OtherRun(path.to_path_buf()));
        }
        Self::of(Database::create(path).map_err(storage(path))?, path, charter)
    }

    fn of(database: Database, path: &Path, charter: &Charter) -> Result<Self, RecordError> {
        let record = Self {
            path: path.to_path_buf(),
            database,
        };
        record.bind(charter)?;
        Ok(record)
    }

    fn bind(&self, charter: &Charter) -> Result<(), RecordError> {
        let genesis = charter.genesis();
        let bound = (|| -> Result<bool, redb::Error> {
            let transaction = self.database.begin_write()?;
            let fits = {
                let mut table = transaction.open_table(GENESIS)?;
                transaction.open_table(BLOCKS)?;
                transaction.open_table(CERTIFICATES)?;
                let known = table.get(0)?.map(|value| value.value().to_vec());
                if known.is_none() {
                    table.insert(0, genesis.as_bytes().as_slice())?;
                }
                known.is_none_or(|known| known == genesis.as_bytes())
            };
            match fits {
                true => transaction.commit()?,
                false => transaction.abort()?,
            }
            Ok(fits)
        })();
        match bound.map_err(storage(&self.path))? {
            true => Ok(()),
            false => Err(RecordError::OtherRun(self.path.clone())),
        }
    }

    /// Writes a final block and returns when it is safe on disk.
    pub fn append(&self, block: &Block, certificate: Option<&[u8]>) -> Result<(), RecordError> {
        let height = block.header.height.0;
        (|| -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            transaction
                .open_table(BLOCKS)?
                .insert(height, encode(block).as_slice())?;
            if let Some(certificate) = certificate {
                transaction.open_table(CERTIFICATES)?.insert(height, certificate)?;
            }
            transaction.commit()?;
            Ok(())
        })()
        .map_err(storage(&self.path))
    }

    /// The state after the last block, by applying every one; `seen` gets each block's events.
    pub fn replay(
        &self,
        charter: &Arc<Charter>,
        mut seen: impl FnMut(&State, Vec<Event>),
    ) -> Result<State, RecordError> {
        let mut state = State::genesis(charter.clone());
        for_each(&self.database, &self.path, |stored| {
            let height = stored.block.header.height;
            let (next, events) = state
                .apply(&stored.block)
                .map_err(|cause| RecordError::Refused { height, cause })?;
            state = next;
            seen(&state, events);
            Ok(())
        })?;
        Ok(state)
    }
}

/// Reads the file at `path` without changing it and hands every block to `each`, ascending from 1.
pub fn read(path: &Path, each: impl FnMut(StoredBlock) -> Result<(), RecordError>) -> Result<(), RecordError> {
    let database = open_to_read(path).map_err(storage(path))?;
    for_each(database.as_ref(), path, each)
}

/// After a crash redb must repair the file before anyone reads it; a reader does so on a copy in memory.
fn open_to_read(path: &Path) -> Result<Box<dyn ReadableDatabase>, redb::Error> {
    match ReadOnlyDatabase::open(path) {
        Err(DatabaseError::RepairAborted) => {
            let (bytes, copy) = (std::fs::read(path)?, InMemoryBackend::new());
            copy.set_len(bytes.len() as u64)?;
            copy.write(0, &bytes)?;
            Ok(Box::new(Database::builder().create_with_backend(copy)?))
        }
        opened => Ok(Box::new(opened?)),
    }
}

/// The genesis hash that the file at `path` is bound to.
pub fn genesis_of(path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let database = open_to_read(path)?;
        let transaction = database.begin_read()?;
        let table = transaction.open_table(GENESIS)?;
        Ok(table.get(0)?.map(|value| value.value().to_vec()))
    };
    read().map_err(storage(path))
}

fn for_each(
    database: &(impl ReadableDatabase + ?Sized),
    path: &Path,
    mut each: impl FnMut(StoredBlock) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let open = || -> Result<_, redb::Error> {
        let transaction = database.begin_read()?;
        Ok((transaction.open_table(BLOCKS)?, transaction.open_table(CERTIFICATES)?))
    };
    let (blocks, certificates) = open().map_err(storage(path))?;
    for (expected, row) in (1u64..).zip(blocks.iter().map_err(storage(path))?) {
        let (height, bytes) = row.map_err(storage(path))?;
        let height = Height(height.value());
        if height.0 != expected {
            return Err(RecordError::Gap {
                height,
                what: format!("block {expected} is missing before it"),
            });
        }
        if bytes.value().len() > BLOCK_BYTES_MAX {
            return Err(RecordError::Gap {
                height,
                what: format!("it has {} bytes", bytes.value().len()),
            });
        }
        let block = Block::from_bytes(bytes.value()).map_err(|cause| RecordError::Damaged { height, cause })?;
        if block.header.height != height {
            return Err(RecordError::Gap {
                height,
                what: format!("it says that it is block {}", block.header.height),
            });
        }
        let certificate = certificates
            .get(height.0)
            .map_err(storage(path))?
            .map(|value| value.value().to_vec());
        if certificate
            .as_ref()
            .is_some_and(|bytes| bytes.len() > CERTIFICATE_BYTES_MAX)
        {
            return Err(RecordError::Gap {
                height,
                what: "its certificate is oversized".into(),
            });
        }
        each(StoredBlock { block, certificate })?;
    }
    Ok(())
}

fn storage<E: Into<redb::Error>>(path: &Path) -> impl FnOnce(E) -> RecordError {
    let path = path.to_path_buf();
    move |cause| RecordError::Storage {
        path,
        cause: Box::new(cause.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::charter_of;
    use atoll_protocol::{Action, Domain, Keypair, Millis, Transaction};
    use std::sync::Mutex;

    /// A disk of so many bytes, which outlives the database on it.
    #[derive(Debug, Clone)]
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        room: u64,
    }

    impl redb::StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.lock().unwrap().len() as u64)
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let (bytes, offset) = (self.bytes.lock().unwrap(), offset as usize);
            out.copy_from_slice(
                bytes
                    .get(offset..offset + out.len())
                    .ok_or(io::ErrorKind::UnexpectedEof)?,
            );
            Ok(())
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            if len > self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.lock().unwrap().resize(len as usize, 0);
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let (mut bytes, offset) = (self.bytes.lock().unwrap(), offset as usize);
            bytes
                .get_mut(offset..offset + data.len())
                .ok_or(io::ErrorKind::StorageFull)?
                .copy_from_slice(data);
            Ok(())
        }
    }

    fn open(disk: &Disk, charter: &Charter) -> Result<Record, RecordError> {
        let database = redb::Builder::new()
            .create_with_backend(disk.clone())
            .map_err(storage(Path::new("disk")))?;
        Record::of(database, Path::new("disk"), charter)
    }

    /// A join and a leave by turns: a chain as long as one likes.
    fn next(state: &State, key: &Keypair) -> (Block, State) {
        let sequence = state.core().peers.get(&key.peer()).map_or(0, |peer| peer.joins);
        let action = match state.active().is_empty() {
            true => Action::Join { sequence },
            false => Action::Leave { sequence },
        };
        let genesis = state.core().genesis;
        let said = key.sign(Domain::Transaction, Transaction { genesis, action });
        let (block, after) = state.draft(Millis(0), [said]).into_parts();
        (block, Arc::unwrap_or_clone(after))
    }

    #[test]
    fn a_full_disk_is_said_clearly_and_loses_nothing() {
        let key = Keypair::from_seed(&[1; 32]);
        let charter = Arc::new(charter_of(&[key.peer()]));
        let disk = Disk {
            bytes: Arc::default(),
            room: 6 << 20,
        };
        let record = open(&disk, &charter).unwrap();
        let mut state = State::genesis(charter.clone());
        let certificate = vec![7; 60_000];
        let error = loop {
            let (block, after) = next(&state, &key);
            match record.append(&block, Some(&certificate)) {
                Ok(()) => state = after,
                Err(error) => break error.to_string(),
            }
            assert!(state.height().0 < 10_000, "the disk never fills");
        };
        assert!(error.contains("The disk is full"), "{error}");
        assert!(state.height().0 > 10, "only {} blocks fit", state.height());
        drop(record);
        let larger = Disk { room: 64 << 20, ..disk };
        let record = open(&larger, &charter).unwrap();
        assert_eq!(record.replay(&charter, |_, _| {}).unwrap(), state);
        let (block, after) = next(&state, &key);
        record.append(&block, None).unwrap();
        assert_eq!(record.replay(&charter, |_, _| {}).unwrap(), after);
    }

    #[test]
    fn a_ledger_of_another_run_is_refused_and_stays() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("ledger.redb");
        let key = Keypair::from_seed(&[1; 32]);
        let charter = Arc::new(charter_of(&[key.peer()]));
        let record = Record::open(&path, &charter).unwrap();
        let (block, after) = next(&State::genesis(charter.clone()), &key);
        record.append(&block, None).unwrap();
        drop(record);
        let other = Charter {
            seed: charter.seed + 1,
            ..Charter::clone(&charter)
        };
        assert!(matches!(Record::open(&path, &other), Err(RecordError::OtherRun(_))));
        assert_eq!(
            Record::open(&path, &charter)
                .unwrap()
                .replay(&charter, |_, _| {})
                .unwrap(),
            after
        );
    }
}
