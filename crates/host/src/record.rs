//! The ledger on disk: final blocks with their certificates, by height, in one redb file.

use atoll_ledger::{BlockError, Event, State};
use atoll_protocol::{
    Block, Charter, DecodeError, Height, encode,
    limits::BLOCK_BYTES_MAX,
};
use redb::{Database, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition};
use std::{
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
    #[error("the ledger {}: {source}", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: Box<redb::Error>,
    },
    /// It belongs to another run.
    #[error("the ledger {} is of another run than charter.toml; put back the charter it was made with, or use another folder; nothing was changed", .0.display())]
    OtherRun(PathBuf),
    /// A block is not readable.
    #[error("block {height} in the ledger is damaged: {source}")]
    Damaged {
        /// Its height.
        height: Height,
        /// Why.
        source: DecodeError,
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
    #[error("block {height} in the ledger is refused: {source}")]
    Refused {
        /// Its height.
        height: Height,
        /// Why.
        source: BlockError,
    },
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
        let database = Database::create(path).map_err(storage(path))?;
        let record = Self { path: path.to_path_buf(), database };
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
            transaction.open_table(BLOCKS)?.insert(height, encode(block).as_slice())?;
            if let Some(certificate) = certificate {
                transaction.open_table(CERTIFICATES)?.insert(height, certificate)?;
            }
            transaction.commit()?;
            Ok(())
        })()
        .map_err(storage(&self.path))
    }

    /// The state after the last block, by applying every one; `seen` gets each block's events.
    pub fn replay(&self, charter: &Arc<Charter>, mut seen: impl FnMut(&State, Vec<Event>)) -> Result<State, RecordError> {
        let mut state = State::genesis(charter.clone());
        for_each(&self.database, &self.path, |stored| {
            let height = stored.block.header.height;
            let (next, events) =
                state.apply(&stored.block).map_err(|source| RecordError::Refused { height, source })?;
            state = next;
            seen(&state, events);
            Ok(())
        })?;
        Ok(state)
    }
}

/// Reads the file at `path` without changing it and hands every block to `each`, ascending from 1.
pub fn read(path: &Path, each: impl FnMut(StoredBlock) -> Result<(), RecordError>) -> Result<(), RecordError> {
    let database = ReadOnlyDatabase::open(path).map_err(storage(path))?;
    for_each(&database, path, each)
}

/// The genesis hash that the file at `path` is bound to.
pub fn genesis_of(path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    let read = || -> Result<Option<Vec<u8>>, redb::Error> {
        let transaction = ReadOnlyDatabase::open(path)?.begin_read()?;
        let table = transaction.open_table(GENESIS)?;
        Ok(table.get(0)?.map(|value| value.value().to_vec()))
    };
    read().map_err(storage(path))
}

fn for_each(
    database: &impl ReadableDatabase,
    path: &Path,
    mut each: impl FnMut(StoredBlock) -> Result<(), RecordError>,
) -> Result<(), RecordError> {
    let open = || -> Result<_, redb::Error> {
        let transaction = database.begin_read()?;
        Ok((transaction.open_table(BLOCKS)?, transaction.open_table(CERTIFICATES)?))
    };
    let (blocks, certificates) = open().map_err(storage(path))?;
    let mut expected = 1u64;
    for row in blocks.iter().map_err(storage(path))? {
        let (height, bytes) = row.map_err(storage(path))?;
        let height = Height(height.value());
        if height.0 != expected {
            return Err(RecordError::Gap { height, what: format!("block {expected} is missing before it") });
        }
        expected += 1;
        if bytes.value().len() > BLOCK_BYTES_MAX {
            return Err(RecordError::Gap { height, what: format!("it has {} bytes", bytes.value().len()) });
        }
        let block = Block::from_bytes(bytes.value()).map_err(|source| RecordError::Damaged { height, source })?;
        if block.header.height != height {
            return Err(RecordError::Gap { height, what: format!("it says that it is block {}", block.header.height) });
        }
        let certificate = certificates.get(height.0).map_err(storage(path))?.map(|value| value.value().to_vec());
        if certificate.as_ref().is_some_and(|bytes| bytes.len() > CERTIFICATE_BYTES_MAX) {
            return Err(RecordError::Gap { height, what: "its certificate is oversized".into() });
        }
        each(StoredBlock { block, certificate })?;
    }
    Ok(())
}

fn storage<E: Into<redb::Error>>(path: &Path) -> impl FnOnce(E) -> RecordError {
    let path = path.to_path_buf();
    move |source| RecordError::Storage { path, source: Box::new(source.into()) }
}
