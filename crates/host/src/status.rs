//! Where a run stands, from a node's folder: read from the ledger, or, while the node runs and holds it,
//! from the last word that the node wrote.

use crate::{
    charter_file, disk,
    folder::{Folder, read_limited},
    record, report,
};
use anyhow::{Context as _, bail};
use atoll_ledger::{Event, RoundRecord, Scored, Standing, State, Window};
use atoll_protocol::{Charter, MicroNats, Millis, Round};
use serde_json::{Value, json};
use std::{io::ErrorKind, sync::Arc};

/// A status file of a hundred members has some 50 kB.
const STATUS_BYTES_MAX: u64 = 16 << 20;

/// Ended rounds and recorded checkpoints, from the ledger on disk.
pub struct History {
    /// The rules.
    pub charter: Arc<Charter>,
    /// After the last block.
    pub state: State,
    /// Ended rounds, in order.
    pub rounds: Vec<RoundRecord>,
    /// Recorded checkpoints and their held-out loss.
    pub checkpoints: Vec<(Round, MicroNats)>,
    /// What contributions were found to do to the loss, in the order in which that was known.
    pub scores: Vec<Scored>,
    /// Blocks, and their bytes.
    pub blocks: (u64, u64),
}

/// Reads the ledger in `folder` without changing it. Its node must not be running.
pub fn history(folder: &Folder) -> anyhow::Result<History> {
    folder.expect_readable()?;
    let charter = Arc::new(charter_file::read(&folder.charter())?);
    let mut state = State::genesis(charter.clone());
    let (mut rounds, mut checkpoints, mut scores, mut blocks) = (Vec::new(), Vec::new(), Vec::new(), (0, 0));
    record::read(&folder.ledger(), |stored| {
        let height = stored.block.header.height;
        let (next, events) = state
            .apply(&stored.block)
            .map_err(|cause| record::RecordError::Refused { height, cause })?;
        state = next;
        blocks = (
            blocks.0 + 1,
            blocks.1 + atoll_protocol::encode(&stored.block).len() as u64,
        );
        for event in events {
            match event {
                Event::RoundEnded(record) => rounds.push(*record),
                Event::CheckpointRecorded { round, held_out, .. } => checkpoints.push((round, held_out)),
                Event::Scored(scored) => scores.push(scored),
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok(History {
        charter,
        state,
        rounds,
        checkpoints,
        scores,
        blocks,
    })
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Active => "active",
        Standing::Dormant => "dormant",
        Standing::Left => "left",
        Standing::Suspended(_) => "suspended",
        Standing::Excluded => "excluded",
    }
}

/// The state of a run for people and programs.
pub fn describe(charter: &Charter, state: &State) -> Value {
    let (core, round) = (state.core(), state.round());
    let peers = core.peers.iter().map(|(id, peer)| {
        json!({
            "name": charter.name_of(id),
            "key": id.to_string(),
            "standing": word(peer.standing),
            "back_in_round": match peer.standing { Standing::Suspended(back) => Some(back.0), _ => None },
            "rounds_merged": peer.merged,
            "tokens": peer.tokens.0,
            "absent": peer.absent,
            "loss": core.scores.tallies.get(id).map(|tally| json!({
                "measured": tally.count,
                "own_less_random_percent": tally.ahead_nano as f64 / 1e7,
                "random_percent": tally.random_nano as f64 / 1e7,
                "watched": tally.is_watched(),
            })),
            "objects": core.appeals.get(id).map(|appeal| json!({
                "round": appeal.round.0,
                "reason": appeal.reason,
            })),
        })
    });
    let checkpoint = core.checkpoint.as_ref().map(|checkpoint| {
        json!({
            "round": checkpoint.round.0,
            "statements": checkpoint.statements.len(),
            "recorded": checkpoint.recorded.map(|hash| hash.to_string()),
        })
    });
    json!({
        "name": charter.name,
        "genesis": core.genesis.to_string(),
        "height": core.height.0,
        "block_time_ms": core.time.0,
        "round": round.number.0,
        "rounds": charter.round.rounds,
        "phase": format!("{:?}", round.phase).to_lowercase(),
        "next_deadline_ms": state.next_deadline().map(|at| at.0),
        "phase_since_ms": round.since.0,
        "phase_ends_ms": state.phase_ends().map(|at| at.0),
        "pace": pace(charter, state),
        "inner_steps": round.terms.steps.0,
        "steps_done": round.terms.first_step,
        "steps": u64::from(charter.round.rounds) * u64::from(charter.round.inner_steps.0),
        "codec": round.terms.codec.to_string(),
        "roster": round.roster.len(),
        "committed": round.commits.len(),
        "revealed": round.reveals.len(),
        "checked": round.checks.len(),
        "roots_posted": round.roots.len(),
        "theta_root": core.roots.theta.to_string(),
        "peers": peers.collect::<Vec<_>>(),
        "checkpoint": checkpoint,
    })
}

/// Adds the entries of one object to another.
pub(crate) fn add(status: &mut Value, more: Value) {
    if let (Some(status), Value::Object(more)) = (status.as_object_mut(), more) {
        status.extend(more);
    }
}

/// Whether two of them say the same, whenever they were written.
pub(crate) fn is_same(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
        return false;
    };
    let said = |status: &serde_json::Map<String, Value>| {
        let mut status = status.clone();
        status.remove("written_ms");
        status
    };
    said(one) == said(other)
}

/// How long each phase may last, and what peers needed of late.
fn pace(charter: &Charter, state: &State) -> Value {
    let (pace, deadlines) = (&state.core().pace, &charter.deadlines);
    let k = deadlines.deviations;
    let phase = |window: &Window, limit: Option<Millis>| {
        let last = window.last();
        json!({
            "limit_ms": limit.map(|limit| limit.0),
            "median_ms": last.map(|spread| spread.median.0),
            "deviation_ms": last.map(|spread| spread.deviation.0),
        })
    };
    json!({
        "commit": phase(&pace.commit, None),
        "reveal": phase(&pace.reveal, Some(pace.reveal_limit(k, deadlines.reveal))),
        "check": phase(&pace.check, Some(pace.check_limit(k, deadlines.check))),
    })
}

/// The status of the node in `folder`, and what that takes on the disk.
pub fn status(folder: &Folder) -> anyhow::Result<Value> {
    let mut value = standing(folder)?;
    let rounds = value["round"].as_u64().and_then(|rounds| u32::try_from(rounds).ok());
    if let Ok(charter) = charter_file::read(&folder.charter()) {
        value["disk"] = disk::describe(folder, &charter, rounds.unwrap_or(0));
    }
    Ok(value)
}

fn standing(folder: &Folder) -> anyhow::Result<Value> {
    folder.expect_readable()?;
    if folder.in_use() {
        return while_running(folder);
    }
    if matches!(folder.ledger().metadata(), Err(error) if error.kind() == ErrorKind::NotFound) {
        bail!(
            "{} has no ledger yet; `atoll node` starts the node",
            folder.path().display()
        );
    }
    let history = match history(folder) {
        // its lock could not be seen, or it was started just now
        Err(error) if is_in_use(&error) => return while_running(folder),
        history => history?,
    };
    let mut value = describe(&history.charter, &history.state);
    value["running"] = json!(false);
    let rounds = history.rounds.iter().rev().take(10).rev();
    value["last_rounds"] = rounds
        .map(|record| report::round_record(&history.charter, record))
        .collect();
    Ok(value)
}

/// What a running node last wrote, and how long ago that and its last block are.
fn while_running(folder: &Folder) -> anyhow::Result<Value> {
    let bytes = read_limited(&folder.status(), STATUS_BYTES_MAX).with_context(|| {
        format!(
            "the node has just started and reads its ledger; its events are in {}",
            folder.log().display()
        )
    })?;
    let damaged = || {
        let path = folder.status();
        format!("{} is damaged; the node writes it again within seconds", path.display())
    };
    let mut value: Value = serde_json::from_slice(&bytes).with_context(damaged)?;
    let now = crate::run::now().0;
    let age = |key: &str| {
        let at = value[key].as_u64().filter(|at| *at > 0);
        at.map(|at| now.saturating_sub(at))
    };
    let (block, word) = (age("block_time_ms"), age("written_ms"));
    value["block_age_ms"] = json!(block);
    value["word_age_ms"] = json!(word);
    value["running"] = json!(true);
    Ok(value)
}

fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(record::RecordError::Storage { cause, .. }) if matches!(**cause, redb::Error::DatabaseAlreadyOpen)
    )
}
