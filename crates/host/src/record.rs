//! The ledger on disk: final blocks with their certificates, by height, in one redb file.

use crate::panics::quietly;
use atoll_ledger::{BlockError, Event, State};
use atoll_protocol::{Block, Charter, DecodeError, Height, encode, limits::BLOCK_BYTES_MAX};
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, StorageBackend as _, TableDefinition,
    TableHandle as _, backends::InMemoryBackend,
};
use std::{
    io,
    ops::ControlFlow,
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
    /// What is in it cannot be used.
    #[error(
        "the ledger {path} cannot be used: {cause}. If you have no copy of it, `atoll repair {node}` moves it away, and \
         the node gets the blocks again from the others", path = path.display(),
        node = path.parent().unwrap_or(path).display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
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
        usable(path, || {
            // opening for writing changes the file, so look first; what cannot be read so is judged after
            if path.exists()
                && genesis_of(path).is_ok_and(|bound| bound.is_some_and(|bound| bound != charter.genesis().0))
            {
                return Err(RecordError::OtherRun(path.to_path_buf()));
            }
            Self::of(Database::create(path).map_err(storage(path))?, path, charter)
        })
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
            // a table whose name is damaged is not there, and would be made again, empty
            let ours = [GENESIS.name(), BLOCKS.name(), CERTIFICATES.name()];
            let there = transaction
                .list_tables()?
                .filter(|table| ours.contains(&table.name()))
                .count();
            if there != 0 && there != ours.len() {
                return Err(redb::Error::Corrupted("one of its tables is missing".into()));
            }
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

    /// Height of the last block.
    pub fn height(&self) -> Result<Height, RecordError> {
        usable(&self.path, || {
            let last = || -> Result<u64, redb::Error> {
                let transaction = self.database.begin_read()?;
                let table = transaction.open_table(BLOCKS)?;
                Ok(table.last()?.map_or(0, |(height, _)| height.value()))
            };
            last().map(Height).map_err(storage(&self.path))
        })
    }

    /// The state after the last block, by applying every one; `seen` gets the state after each and its events, and
    /// may say that it is enough: then there is no state.
    pub fn replay(
        &self,
        charter: &Arc<Charter>,
        mut seen: impl FnMut(&State, Vec<Event>) -> ControlFlow<()>,
    ) -> Result<Option<State>, RecordError> {
        usable(&self.path, || {
            let (mut state, mut stopped) = (State::genesis(charter.clone()), false);
            for_each(&self.database, &self.path, |stored| {
                let height = stored.block.header.height;
                let (next, events) = state
                    .apply(&stored.block)
                    .map_err(|cause| RecordError::Refused { height, cause })?;
                state = next;
                stopped = seen(&state, events).is_break();
                Ok(match stopped {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            })?;
            Ok((!stopped).then_some(state))
        })
    }
}

/// Uses the ledger at `path`; what is damaged is told with the way out.
fn usable<T>(path: &Path, work: impl FnOnce() -> Result<T, RecordError>) -> Result<T, RecordError> {
    let broken = |cause: String| RecordError::Broken {
        path: path.to_path_buf(),
        cause,
    };
    match quietly(work) {
        Ok(Err(error)) if error.is_damage() => Err(broken(error.to_string())),
        Ok(done) => done,
        Err(panic) => Err(broken(panic)),
    }
}

impl RecordError {
    /// Whether the file itself is bad, not the disk or its use.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Storage { cause, .. } => match &**cause {
                redb::Error::Io(error) => {
                    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
                }
                redb::Error::DatabaseAlreadyOpen | redb::Error::PreviousIo => false,
                _ => true,
            },
            Self::OtherRun(_) => false,
            Self::Broken { .. } | Self::Damaged { .. } | Self::Gap { .. } | Self::Refused { .. } => true,
        }
    }
}

/// Whether every page of the database at `path` is as it was written; what is wrong, if it is not. Looks at a copy in
/// memory.
pub(crate) fn integrity(path: &Path) -> Result<(), String> {
    let check = || -> Result<bool, redb::Error> { Ok(copy_of(path)?.check_integrity()?) };
    match quietly(check)? {
        Ok(true) => Ok(()),
        Ok(false) => Err("checksums of its pages do not fit".into()),
        // a file that cannot be read now is not damaged: whoever uses it says why it cannot
        Err(redb::Error::Io(error))
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn copy_of(path: &Path) -> Result<Database, redb::Error> {
    let (bytes, copy) = (std::fs::read(path)?, InMemoryBackend::new());
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, &bytes)?;
    Ok(Database::builder().create_with_backend(copy)?)
}

/// Reads the file at `path` without changing it and hands every block to `each`, ascending from 1.
pub fn read(path: &Path, mut each: impl FnMut(StoredBlock) -> Result<(), RecordError>) -> Result<(), RecordError> {
    let database = open_to_read(path).map_err(storage(path))?;
    for_each(database.as_ref(), path, |stored| {
        each(stored).map(ControlFlow::Continue)
    })
}

/// After a crash redb must repair the file before anyone reads it; a reader does so on a copy in memory.
fn open_to_read(path: &Path) -> Result<Box<dyn ReadableDatabase>, redb::Error> {
    match ReadOnlyDatabase::open(path) {
        Err(DatabaseError::RepairAborted) => Ok(Box::new(copy_of(path)?)),
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
    mut each: impl FnMut(StoredBlock) -> Result<ControlFlow<()>, RecordError>,
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
        if each(StoredBlock { block, certificate })?.is_break() {
            break;
        }
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

    fn all(record: &Record, charter: &Arc<Charter>) -> State {
        let state = record.replay(charter, |_, _| ControlFlow::Continue(())).unwrap();
        state.unwrap()
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
        assert_eq!(all(&record, &charter), state);
        let (block, after) = next(&state, &key);
        record.append(&block, None).unwrap();
        assert_eq!(all(&record, &charter), after);
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
        assert_eq!(all(&Record::open(&path, &charter).unwrap(), &charter), after);
    }

    /// A ledger of so many blocks at `path`.
    fn written(path: &Path, blocks: u64) -> Arc<Charter> {
        let key = Keypair::from_seed(&[1; 32]);
        let charter = Arc::new(charter_of(&[key.peer()]));
        let record = Record::open(path, &charter).unwrap();
        let mut state = State::genesis(charter.clone());
        for _ in 0..blocks {
            let (block, after) = next(&state, &key);
            record.append(&block, Some(&[7; 300])).unwrap();
            state = after;
        }
        charter
    }

    #[test]
    fn a_replay_can_be_stopped_and_knows_how_far_it_is() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("ledger.redb");
        let charter = written(&path, 20);
        let record = Record::open(&path, &charter).unwrap();
        assert_eq!(record.height().unwrap(), Height(20));
        let mut seen = 0;
        let stopped = record.replay(&charter, |state, _| {
            seen += 1;
            assert_eq!(state.height().0, seen);
            match seen {
                7 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert_eq!((stopped.unwrap(), seen), (None, 7));
    }

    #[test]
    fn whatever_byte_of_a_ledger_is_changed_it_is_read_as_it_was_or_refused_with_the_way_out() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("ledger.redb");
        let charter = written(&path, 40);
        let good = std::fs::read(&path).unwrap();
        let state = all(&Record::open(&path, &charter).unwrap(), &charter);
        let (mut refused, mut unused) = (0, 0);
        let head = (0..512).step_by(7);
        let spread = (512..good.len()).step_by(good.len() / 300 + 1);
        for place in head.chain(spread) {
            let mut bad = good.clone();
            bad[place] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let opened = Record::open(&path, &charter);
            match opened.and_then(|record| record.replay(&charter, |_, _| ControlFlow::Continue(()))) {
                Ok(read) => {
                    assert!(read.unwrap() == state, "byte {place}");
                    unused += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    let told = text.contains("`atoll repair") && text.contains("ledger.redb");
                    assert!(
                        told || matches!(error, RecordError::OtherRun(_)),
                        "byte {place}: {text}"
                    );
                    refused += 1;
                }
            }
        }
        for length in [0, 1, 100, 4096, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            let opened = Record::open(&path, &charter);
            let read = opened.and_then(|record| record.replay(&charter, |_, _| ControlFlow::Continue(())));
            // an empty file is a new ledger: what consensus has acknowledged is told by it
            assert!(
                read.is_err_and(|error| error.is_damage()) || length == 0,
                "cut to {length}"
            );
        }
        assert!(refused > 0 && unused > 0, "{refused} refused, {unused} in unused parts");
    }
}
