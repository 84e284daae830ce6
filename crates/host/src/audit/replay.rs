//! θ from genesis: every merge and outer step computed again, every checkpoint made again and compared.

use super::{
    FolderReport,
    chain::History,
    files::{Lack, blob, is_partial},
};
use crate::{
    contents::{is_checkpoint_name, is_read_with_checkpoints, shown},
    folder::{Folder, read_limited},
    merging::{apply_plan, plan_of, read_plan, state_of, take_out},
    trainer::manifest_of,
};
use anyhow::{anyhow, bail};
use atoll_learner::{
    checkpoint,
    data::{Dataset, Manifest, Tokenizer},
};
use atoll_ledger::{KeptOut, Outcome, Planned, Roots, RoundRecord, State};
use atoll_outer::{Merged, OuterState, theta_bytes};
use atoll_protocol::{
    Charter, Hash, Height, Layout, Round,
    limits::{BLOB_BYTES_MAX, VALUE_MAX},
    transaction::{Judgement, UnfitReplica},
};
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;

/// Bytes of a file of a checkpoint: θ, and its frame.
const CHECKPOINT_BYTES_MAX: u64 = BLOB_BYTES_MAX + (1 << 20);

/// Something that a node which was away may not have.
#[derive(Debug, Error)]
#[error("{what}")]
struct NotHere {
    /// Of this round.
    round: Round,
    what: String,
}

struct Replay<'a> {
    folder: &'a Folder,
    charter: &'a Arc<Charter>,
    layout: Layout,
    /// θ at the start of the round looked at, unless its blobs are gone.
    state: Option<OuterState>,
    roots: Roots,
    tokenizer: Option<Tokenizer>,
}

/// Checks the corpus, then walks through the rounds.
pub(super) fn check(folder: &Folder, charter: &Arc<Charter>, history: &History, report: &mut FolderReport) {
    // a node takes its first block when it has fetched the corpus, not before
    let fetching = report.height == Height(0);
    match check_corpus(folder, charter) {
        Err(error) if fetching => report
            .notes
            .push(format!("stopped before the corpus was fetched: {error:#}")),
        Err(error) => report.problem(format!("{}: corpus", folder.path().display()), format!("{error:#}")),
        Ok(()) => {}
    }
    let layout = Layout::of(&charter.model);
    let tokenizer = blob(folder, &charter.model.tokenizer).map_err(|lack| lack.to_string());
    let tokenizer = tokenizer.and_then(|bytes| Tokenizer::from_bytes(&bytes).map_err(|error| error.to_string()));
    if let Some(error) = tokenizer.as_ref().err().filter(|_| !fetching) {
        let place = folder.blob(&charter.model.tokenizer);
        report.problem(place.display(), format!("the tokenizer {error}"));
    }
    let roots = State::genesis(charter.clone()).core().roots;
    let mut replay = Replay {
        folder,
        charter,
        layout,
        state: None,
        roots,
        tokenizer: tokenizer.ok(),
    };
    replay.start(report);
    let last = history.rounds.last().map_or(0, |record| record.round.0);
    if let Some(theta) = history.theta.filter(|_| report.height.0 > 0) {
        let place = folder.blob(&theta).display().to_string();
        let what = |lack: &Lack| format!("θ after the last block {lack}; the node fetches it when it starts");
        match blob(folder, &theta) {
            Ok(_) => {}
            Err(lack) if matches!(lack, Lack::Missing) || is_partial(&folder.blob(&theta)) => {
                report.notes.push(format!("{place}: {}", what(&lack)))
            }
            Err(lack) => report.problem(place, what(&lack)),
        }
    }
    for record in &history.rounds {
        replay.round(record, last, report);
        replay.checkpoint(history, record.round, report);
    }
    unknown_checkpoints(folder, history, report);
}

fn check_corpus(folder: &Folder, charter: &Charter) -> anyhow::Result<()> {
    let hash = &charter.data.manifest;
    let here = |what: &str, hash: &Hash| {
        blob(folder, hash).map_err(|lack| anyhow!("the {what} {} {lack}", folder.blob(hash).display()))
    };
    let manifest = here("manifest", hash)?;
    for shard in Manifest::from_bytes(&manifest)?.shards() {
        here("shard", &shard.blake3)?;
    }
    let dataset = Dataset::open(&manifest, |hash| blob(folder, hash).ok())?;
    if dataset.tokenizer() != charter.model.tokenizer {
        bail!("the manifest was made with another tokenizer than the charter's");
    }
    Ok(())
}

impl Replay<'_> {
    fn start(&mut self, report: &mut FolderReport) {
        let model = &self.charter.model;
        let computed = theta_bytes(&atoll_learner::init(model, self.charter.seed));
        let theta = match Hash::of_blob(&computed) == model.theta {
            true => Ok(computed),
            false => blob(self.folder, &model.theta).map_err(|lack| {
                let place = self.folder.blob(&model.theta);
                anyhow!(
                    "the charter's initial parameters are not its seed's, and {} {lack}",
                    place.display()
                )
            }),
        };
        match theta.and_then(|theta| state_of(self.charter, &self.layout, &theta, None)) {
            Ok(state) => self.state = Some(state),
            Err(error) => report.problem(
                format!("{}: genesis", self.folder.path().display()),
                format!("{error:#}"),
            ),
        }
    }

    fn round(&mut self, record: &RoundRecord, last: u32, report: &mut FolderReport) {
        let Outcome::Closed(agreed) = record.outcome else {
            report.rounds_void += 1;
            return;
        };
        report.rounds_closed += 1;
        let place = format!("{}: round {}", self.folder.path().display(), record.round);
        match self.merge(record) {
            Ok(Merged { state, judgement, .. }) => {
                let (theta, momentum) = state.roots();
                let ours = Roots { theta, momentum };
                let difference = other_judgement(record, &judgement);
                if difference.is_none() && ours == agreed {
                    report.computed.insert(record.round);
                }
                if let Some(difference) = difference {
                    report.problem(place.clone(), difference);
                }
                let matrix = (record.matrix != Hash::ZERO).then(|| blob(self.folder, &record.matrix));
                if let Some(Err(lack)) = matrix {
                    let note = "they were computed again and are the ledger's";
                    report
                        .notes
                        .push(format!("{place}: the file of its inner products {lack}; {note}"));
                }
                if ours != agreed {
                    report.problem(
                        place,
                        format!("θ computed again is {theta}, the ledger says {}", agreed.theta),
                    );
                }
                self.state = (ours == agreed).then_some(state);
            }
            Err(error) => {
                match error.downcast::<NotHere>() {
                    // what is taken out may be older than the round, and not kept any more
                    Ok(missing) if self.is_collected(missing.round, last) => report.collected += 1,
                    Ok(missing) => report.gaps.push((record.round, missing.what)),
                    Err(error) => report.problem(place, format!("{error:#}")),
                }
                self.state = None;
            }
        }
        self.roots = agreed;
        if self.state.is_none() {
            self.state = self.stored(agreed); // go on from the θ that is here, whose hash is its root
        }
    }

    fn is_collected(&self, round: Round, last: u32) -> bool {
        let retention = self.charter.round.retention;
        retention > 0 && u64::from(round.0) + u64::from(retention) <= u64::from(last)
    }

    fn merge(&self, record: &RoundRecord) -> anyhow::Result<Merged> {
        let unknown = || NotHere {
            round: record.round,
            what: "θ before it is not here, so it cannot be computed again".into(),
        };
        let state = self.state.as_ref().ok_or_else(unknown)?;
        let plan = record.plan();
        let blobs = self.blobs(&plan, record.round)?;
        let read = read_plan(
            &plan,
            blobs,
            self.charter,
            &self.layout,
            (&record.terms.codec, &self.roots.theta),
        )?;
        for (entry, contribution) in plan.iter().zip(&read) {
            let largest = contribution.largest();
            if largest > VALUE_MAX {
                let peer = self.charter.name_of(&entry.peer);
                bail!("the contribution of {peer} holds the value {largest}: no peer may accept more than {VALUE_MAX}");
            }
        }
        let mut merged = apply_plan(state, &plan, &read, (self.charter, &self.layout, &record.terms))?;
        for excision in &record.excisions {
            let plan = plan_of(excision);
            let blobs = self.blobs(&plan, excision.of.round)?;
            merged.state = take_out(&merged.state, excision, blobs, (self.charter, &self.layout))?;
        }
        Ok(merged)
    }

    fn blobs(&self, plan: &[Planned], round: Round) -> anyhow::Result<Vec<Bytes>> {
        let of = |entry: &Planned| {
            let path = self.folder.blob(&entry.blob);
            let (peer, place) = (self.charter.name_of(&entry.peer), path.display());
            match blob(self.folder, &entry.blob) {
                Ok(bytes) => Ok(Bytes::from(bytes)),
                Err(lack) if matches!(lack, Lack::Missing) || is_partial(&path) => {
                    let what = format!(
                        "the contribution of {peer} is not here: {place}; a node that was away fetches it when it \
                         runs, and one that lost it when its blobs folder is moved away first"
                    );
                    bail!(NotHere { round, what });
                }
                Err(lack) => bail!("the contribution of {peer}, {place}, {lack}"),
            }
        };
        plan.iter().map(of).collect()
    }

    /// The θ and momentum that are here; what is damaged among them is told with the blobs.
    fn stored(&self, roots: Roots) -> Option<OuterState> {
        let theta = blob(self.folder, &roots.theta).ok()?;
        let momentum = match roots.momentum {
            Some(root) => Some(blob(self.folder, &root).ok()?),
            None => None,
        };
        state_of(self.charter, &self.layout, &theta, momentum.as_deref()).ok()
    }

    /// Makes the files of the checkpoint after `round` again and compares them with those on disk.
    fn checkpoint(&self, history: &History, round: Round, report: &mut FolderReport) {
        let folder = self.folder.checkpoint(round);
        let recorded = history
            .checkpoints
            .iter()
            .find(|(of, _)| *of == round)
            .map(|(_, manifest)| *manifest);
        if !folder.exists() && recorded.is_none() {
            return;
        }
        if recorded.is_some() && !folder.exists() {
            report.notes.push(format!(
                "the checkpoint of round {round} is on the ledger and not in this folder"
            ));
        }
        let (Some(state), Some(tokenizer)) = (&self.state, &self.tokenizer) else {
            return by_manifest(&folder, recorded, report);
        };
        let files = match checkpoint::files(&self.charter.model, &state.theta, tokenizer) {
            Ok(files) => files,
            Err(error) => return report.problem(folder.display(), error),
        };
        let listed: Vec<(String, Hash)> = files
            .iter()
            .map(|(name, bytes)| (name.clone(), Hash::of_blob(bytes)))
            .collect();
        if recorded.is_some_and(|manifest| manifest != manifest_of(&listed)) {
            let place = format!("{}: checkpoint of round {round}", self.folder.path().display());
            report.problem(place, "the ledger records other files than this θ gives");
        }
        if !folder.exists() {
            return;
        }
        for (name, bytes) in &files {
            let path = folder.join(name);
            match read_limited(&path, CHECKPOINT_BYTES_MAX) {
                Ok(found) if found == *bytes => {}
                Ok(found) => report.problem(path.display(), differs(&found, bytes)),
                Err(error) => report.problem(path.display(), error),
            }
        }
        report.checkpoints.push(round);
        others(&folder, report);
    }
}

/// Where θ is not here any more: the files on disk must be those that the ledger records.
fn by_manifest(folder: &Path, recorded: Option<Hash>, report: &mut FolderReport) {
    if !folder.exists() {
        return;
    }
    others(folder, report);
    let mut listed = Vec::new();
    for name in checkpoint::FILES {
        let path = folder.join(name);
        match read_limited(&path, CHECKPOINT_BYTES_MAX) {
            Ok(bytes) => listed.push((name.to_string(), Hash::of_blob(&bytes))),
            Err(error) => return report.problem(path.display(), error),
        }
    }
    match recorded {
        Some(manifest) if manifest == manifest_of(&listed) => {}
        Some(_) => report.problem(folder.display(), "its files are not those that the ledger records"),
        None => report.problem(
            folder.display(),
            "no quorum recorded it and its θ is not here: nothing proves it",
        ),
    }
}

fn differs(found: &[u8], expected: &[u8]) -> String {
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        Some(place) => format!("differs at byte {place} from what θ gives"),
        None => format!("has {} bytes, θ gives {}", found.len(), expected.len()),
    }
}

/// Files beside the checkpoint's that whoever opens it would read too: other weights, other settings, code.
fn others(folder: &Path, report: &mut FolderReport) {
    for path in below(folder, report) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !checkpoint::FILES.contains(&name) && is_read_with_checkpoints(name) {
            let what = "is not a file of the checkpoint, and programs that open it would read it";
            report.problem(shown(&path), what);
        }
    }
}

fn unknown_checkpoints(folder: &Folder, history: &History, report: &mut FolderReport) {
    let known: BTreeSet<_> = history
        .rounds
        .iter()
        .map(|record| folder.checkpoint(record.round))
        .collect();
    for path in below(&folder.checkpoints(), report) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_checkpoint_name(name) && !known.contains(&path) {
            report.problem(shown(&path), "is not the checkpoint of any round in the ledger");
        }
    }
}

/// What is in a folder, in order; nothing where there is no folder.
fn below(folder: &Path, report: &mut FolderReport) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    match entries {
        Ok(entries) => {
            let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).collect();
            paths.sort();
            paths
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            report.problem(shown(folder), format!("cannot be read: {error}"));
            Vec::new()
        }
    }
}

/// What the ledger says of a round's contributions that judging them again does not.
fn other_judgement(record: &RoundRecord, again: &Judgement) -> Option<String> {
    let recorded: Vec<UnfitReplica> = record.kept_out.iter().map(KeptOut::entry).collect();
    if recorded.iter().ne(again.unfit.iter()) {
        let (ours, theirs) = (again.unfit.len(), recorded.len());
        return Some(format!(
            "judged again, {ours} contributions are kept out; the ledger keeps out {theirs}, or others, or with other figures"
        ));
    }
    if record.matrix != again.matrix {
        let (ours, theirs) = (again.matrix, record.matrix);
        return Some(format!(
            "inner products computed again are {ours}, the ledger says {theirs}"
        ));
    }
    (record.norm_micro != again.norm_micro).then(|| {
        let (ours, theirs) = (again.norm_micro, record.norm_micro);
        format!("the median length computed again is {ours} millionths, the ledger says {theirs}")
    })
}
