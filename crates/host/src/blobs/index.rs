//! The store's index: opened, checked, made again from the files when it is damaged or missing, and swept.

use super::{BlobsError, Keep, Mended, raw};
use crate::{
    aside::Aside,
    folder::{Folder, FolderError, write_whole},
};
use atoll_protocol::{Hash, limits::BLOB_BYTES_MAX};
use iroh_blobs::{
    BlobFormat,
    api::blobs::{AddPathOptions, ImportMode},
    store::{
        GcConfig, ProtectCb, ProtectOutcome,
        fs::{
            FsStore,
            options::{InlineOptions, Options},
        },
    },
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// For collecting what nothing names at a clean end.
const SWEEP_WAIT: Duration = Duration::from_secs(60);

fn index_path(folder: &Folder) -> PathBuf {
    folder.blobs().join("blobs.db")
}

pub(super) fn failed(folder: &Folder, error: impl std::fmt::Display) -> BlobsError {
    BlobsError::Store {
        folder: folder.blobs().display().to_string(),
        cause: error.to_string(),
    }
}

async fn load(folder: &Folder, collect: Option<GcConfig>) -> Result<FsStore, BlobsError> {
    let mut options = Options::new(&folder.blobs());
    options.inline = InlineOptions::NO_INLINE;
    options.gc = collect;
    let store = FsStore::load_with_opts(index_path(folder), options).await;
    store.map_err(|error| failed(folder, format!("{error:#}")))
}

/// Opens the store, and makes its index again where it is damaged or missing: what was found then.
pub(super) async fn open(folder: &Folder, collect: Option<GcConfig>) -> Result<(FsStore, Option<Mended>), BlobsError> {
    let path = index_path(folder);
    let has_files = names(&folder.blobs().join("data")).is_ok_and(|names| !names.is_empty());
    let marker = folder.index_marker();
    let damage = match path.exists() {
        _ if marker.exists() => Some("the node was stopped while it was made again".to_string()),
        true => damage(&path),
        false => has_files.then(|| "it is missing".to_string()),
    };
    let Some(cause) = damage else {
        return Ok((load(folder, collect).await?, None));
    };
    // until it is whole: half an index would look like one of fewer blobs
    write_whole(&marker, b"the index of blobs is being made again from its files\n")
        .map_err(|error| failed(folder, error))?;
    let aside = Aside::new(folder);
    if path.exists() {
        aside.take(&path).map_err(|error: FolderError| failed(folder, error))?;
    }
    let store = load(folder, None).await?;
    let adopted = adopt(&store, folder, &aside).await?;
    store.sync_db().await.map_err(|error| failed(folder, error))?;
    store.shutdown().await.map_err(|error| failed(folder, error))?;
    fs::remove_file(&marker).map_err(|error| failed(folder, error))?;
    let mended = Mended {
        path: path.display().to_string(),
        cause,
        from: Some(format!("{adopted} intact files beside it")),
    };
    Ok((load(folder, collect).await?, Some(mended)))
}

/// What is wrong with the index at `path`, if anything is. Looks at a copy: opening it may change it.
pub(crate) fn damage(path: &Path) -> Option<String> {
    crate::record::integrity(path).err()
}

/// Names of the files in `folder`; none if it is not there.
fn names(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// The file at `path`, if its content has this hash.
pub(crate) fn whole_file(path: &Path, hash: &Hash) -> Option<Vec<u8>> {
    let about = fs::metadata(path).ok()?;
    if !about.is_file() || about.len() > BLOB_BYTES_MAX {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    (Hash::of_blob(&bytes) == *hash).then_some(bytes)
}

/// The hash in the name of a blob's file.
pub(crate) fn named(path: &Path) -> Option<Hash> {
    path.file_stem().and_then(OsStr::to_str)?.parse().ok()
}

/// Whether the content of the file at `path` has the hash in its name.
pub(crate) fn fits_its_name(path: &Path) -> bool {
    let hashed = || -> std::io::Result<Hash> {
        let (mut file, mut hasher) = (File::open(path)?, blake3::Hasher::new());
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(Hash(*hasher.finalize().as_bytes())),
                count => hasher.update(&piece[..count]),
            };
        }
    };
    let is_file = fs::metadata(path).is_ok_and(|about| about.is_file());
    is_file && named(path).is_some_and(|hash| hashed().is_ok_and(|found| found == hash))
}

/// Takes every intact file into the empty index, and puts the rest aside. How many were taken.
async fn adopt(store: &FsStore, folder: &Folder, aside: &Aside) -> Result<usize, BlobsError> {
    let data = folder.blobs().join("data");
    let files = names(&data).map_err(|error| failed(folder, error))?;
    let (blobs, beside): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|path| path.extension() == Some(OsStr::new("data")));
    // hashes of blobs are made again with them; those of partial ones are of no use without the index
    for path in beside {
        aside.take(&path).map_err(|error| failed(folder, error))?;
    }
    let mut adopted = 0;
    for path in blobs {
        let Some(hash) = named(&path).filter(|_| fits_its_name(&path)) else {
            aside.take(&path).map_err(|error| failed(folder, error))?;
            continue;
        };
        let options = AddPathOptions {
            path: std::path::absolute(&path).map_err(|error| failed(folder, error))?,
            format: BlobFormat::Raw,
            mode: ImportMode::Copy,
        };
        let added = store.blobs().add_path_with_opts(options).temp_tag().await;
        let _until_kept = added.map_err(|error| failed(folder, error))?;
        let kept = store.tags().set(Keep::Recovered.tag(&hash), raw(&hash)).await;
        kept.map_err(|error| failed(folder, error))?;
        adopted += 1;
    }
    Ok(adopted)
}

/// Collects what nothing names, once.
pub(super) async fn sweep(folder: &Folder) -> Result<(), BlobsError> {
    let (begun, mut passes) = watch::channel(0u32);
    let count: ProtectCb = Arc::new(move |_| {
        begun.send_modify(|passes| *passes += 1);
        Box::pin(async { ProtectOutcome::Continue })
    });
    let collect = GcConfig {
        interval: Duration::from_millis(1),
        add_protected: Some(count),
    };
    let store = load(folder, Some(collect)).await?;
    // the second begins when the first has ended
    let swept = tokio::time::timeout(SWEEP_WAIT, passes.wait_for(|passes| *passes >= 2)).await;
    let swept = matches!(swept, Ok(Ok(_)));
    store.shutdown().await.map_err(|error| failed(folder, error))?;
    match swept {
        true => Ok(()),
        false => Err(failed(folder, "what is not kept any more cannot be collected")),
    }
}
