//! The folder of a demo: taken for this process, and filled so that a crash leaves no half of a demo.
//!
//! Everything is made in a hidden folder in it, and moved out when it is whole. What a killed start left behind is
//! removed or moved on by the next, and only if it says of itself that it is ours.

use crate::{
    paths::{self, Found},
    signals::{self, OnEnd},
};
use anyhow::{Context as _, bail};
use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

/// Where a demo is made.
const STAGE: &str = ".atoll-demo-partial";
/// In it: says whose it is, and is locked while it is made.
const MARKER: &str = "marker";
const MARK: &str = "A demo of atoll that is being made. If no atoll runs, the next start removes or ends it.\n";
/// In it: says that all of it is there, and has only to be moved.
const WHOLE: &str = "whole";
/// What systems put into empty folders by themselves.
const NOTHING: [&str; 4] = ["lost+found", ".DS_Store", "Thumbs.db", "desktop.ini"];

/// A demo's folder, which is this process's until the end.
pub(super) struct Place {
    /// As it was named, if that leads there.
    pub(super) dir: PathBuf,
    /// Folders that were made for it, the outermost first.
    made: Vec<PathBuf>,
    _lock: Option<File>,
}

impl Place {
    /// Takes the folder at `named`, and makes it if nothing is there.
    ///
    /// # Errors
    /// Where something else is there, another demo has it, or it cannot be made. Then nothing was changed.
    pub(super) fn take(named: &Path) -> anyhow::Result<Self> {
        let shown = named.display();
        let real = real(named)?;
        let made = match fs::metadata(&real) {
            Ok(there) if there.is_dir() => Vec::new(),
            Ok(_) => bail!("{shown} is there already and is no folder; choose another --dir"),
            Err(_) => make(&real).with_context(|| format!("cannot make the folder {shown}"))?,
        };
        let same = fs::canonicalize(named).is_ok_and(|led| led == real);
        let mut place = Self {
            dir: if same { named.to_path_buf() } else { real.clone() },
            made,
            _lock: None,
        };
        place._lock = place.lock()?;
        place.tidy()?;
        Ok(place)
    }

    /// Two demos in one folder would start the same nodes.
    fn lock(&self) -> anyhow::Result<Option<File>> {
        let Ok(folder) = File::open(&self.dir) else {
            return Ok(None); // not every system opens folders; the nodes have locks of their own
        };
        match folder.try_lock() {
            Ok(()) => Ok(Some(folder)),
            Err(TryLockError::WouldBlock) => bail!(
                "{} is in use by another `atoll demo`; stop that one or choose another --dir",
                self.dir.display()
            ),
            Err(TryLockError::Error(_)) => Ok(None), // nor does every disk lock them
        }
    }

    /// Whether nothing is in it but what systems put into every folder.
    pub(super) fn is_empty(&self) -> anyhow::Result<bool> {
        Ok(entries(&self.dir)?
            .iter()
            .all(|name| NOTHING.iter().any(|nothing| name == nothing)))
    }

    /// Removes what a killed start left, or moves it on if it was whole.
    fn tidy(&self) -> anyhow::Result<()> {
        let stage = self.dir.join(STAGE);
        let there = fs::symlink_metadata(&stage);
        if !there.is_ok_and(|there| there.is_dir()) {
            return Ok(());
        }
        let _ = fs::remove_dir(&stage); // killed before anything was in it
        let Some(_marker) = abandoned(&stage)? else {
            return Ok(()); // not ours: it stays, and the folder is not empty
        };
        match stage.join(WHOLE).exists() {
            true => move_out(&stage, &self.dir),
            false => fs::remove_dir_all(&stage).with_context(|| format!("cannot remove {}", stage.display())),
        }
    }

    /// Begins to make a demo in it.
    pub(super) fn stage(&self) -> anyhow::Result<Stage> {
        let path = self.dir.join(STAGE);
        let failed = || format!("cannot write into {}", self.dir.display());
        fs::create_dir(&path).with_context(failed)?;
        let (folders, stage) = (self.made.clone(), path.clone());
        let cleared = signals::on_end(move || clear(&stage, &folders));
        let mut stage = Stage {
            path,
            dir: self.dir.clone(),
            cleared: Some(cleared),
            _marker: None,
        };
        let marker = stage.path.join(MARKER);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .open(&marker)
            .with_context(failed)?;
        let _ = file.try_lock(); // where no file can be locked, the nodes say so
        file.write_all(MARK.as_bytes()).with_context(failed)?;
        stage._marker = Some(file);
        Ok(stage)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.made.iter().rev().try_for_each(fs::remove_dir); // only if nothing came into it
    }
}

/// A demo that is being made. Dropped before it is whole, nothing of it stays.
pub(super) struct Stage {
    path: PathBuf,
    dir: PathBuf,
    cleared: Option<OnEnd>,
    _marker: Option<File>,
}

impl Stage {
    /// Where to make it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts everything in its place.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let _moving = signals::gentle()?; // it takes a moment, and is not cut in the middle
        let whole = self.path.join(WHOLE);
        File::create_new(&whole)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("cannot write {}", whole.display()))?;
        drop(self.cleared.take());
        move_out(&self.path, &self.dir)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.cleared.take().is_some() {
            clear(&self.path, &[]);
        }
    }
}

/// Removes all that was made; what is not empty by then is not ours alone.
fn clear(stage: &Path, made: &[PathBuf]) {
    // a thread that still writes there may make it take a second try
    for _ in 0..3 {
        if fs::remove_dir_all(stage).is_ok() {
            break;
        }
    }
    let _ = made.iter().rev().try_for_each(fs::remove_dir);
}

/// The real path of `named`, of which not all need be there.
fn real(named: &Path) -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("the working folder is gone")?;
    let look = |path: &Path| match fs::canonicalize(path) {
        Ok(real) => Found::There(real),
        Err(_) if path.is_symlink() => Found::Dangling,
        Err(_) => Found::Nothing,
    };
    paths::leads(named, &here, look)
        .map_err(|link| anyhow::anyhow!("{} is a link that leads nowhere; choose another --dir", link.display()))
}

/// Makes a folder and its parents, and says which were made; none if that fails.
fn make(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let missing: Vec<_> = path.ancestors().take_while(|path| !path.exists()).collect();
    let mut made: Vec<PathBuf> = Vec::new();
    for folder in missing.into_iter().rev() {
        if let Err(error) = fs::create_dir(folder) {
            let _ = made.iter().rev().try_for_each(fs::remove_dir);
            return Err(error);
        }
        made.push(folder.to_path_buf());
    }
    Ok(made)
}

/// The marker of a stage that is ours and that nobody works on any more.
fn abandoned(stage: &Path) -> anyhow::Result<Option<File>> {
    let path = stage.join(MARKER);
    let is_plain = fs::symlink_metadata(&path).is_ok_and(|there| there.is_file() && there.len() <= MARK.len() as u64);
    // killed while it was written, it is a beginning
    if !is_plain || !fs::read(&path).is_ok_and(|text| MARK.as_bytes().starts_with(&text)) {
        return Ok(None);
    }
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another `atoll demo` is making {}; wait until it is done",
                stage.display()
            )
        }
        _ => Ok(Some(file)),
    }
}

/// Moves everything out of the stage into its folder, and removes the stage.
fn move_out(stage: &Path, dir: &Path) -> anyhow::Result<()> {
    for name in entries(stage)?.iter().filter(|name| *name != MARKER && *name != WHOLE) {
        let (from, to) = (stage.join(name), dir.join(name));
        if to.symlink_metadata().is_ok() {
            bail!("{} is there already; move it away, and start again", to.display());
        }
        fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    let removed = fs::remove_dir_all(stage);
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", stage.display()))
        }
        _ => Ok(()),
    }
}

fn entries(folder: &Path) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let failed = || format!("cannot read {}", folder.display());
    let read = fs::read_dir(folder).with_context(failed)?;
    let names = read.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<Result<Vec<_>, _>>().with_context(failed)?;
    names.sort_by(|one: &std::ffi::OsString, two| OsStr::cmp(one, two));
    Ok(names)
}

#[cfg(test)]
mod tests;
