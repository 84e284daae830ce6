//! The demo's folder: made whole in one step, or found and gone on with.

use super::{Arguments, corpus};
use anyhow::{Context as _, bail};
use atoll_host::{
    audit::node_folders,
    charter_file,
    folder::{Folder, FolderError},
    found::{self, Plan},
    identity,
};
use atoll_protocol::{Audit, Charter, Hash, Nano, PeerId, charter::Member};
use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What is made again where somebody lies: all of a peer's first two contributions, then one in eight.
const AUDIT: Audit = Audit {
    share: Nano(125_000_000),
    newcomer: 2,
    window: 5, // eight nodes on two cores need some rounds for a jury
    jury: 21,
    tolerance: Nano(20_000_000),
    probation: 50,
};
/// Of so many contributions it is measured then what they do to the loss.
const SCORED: Nano = Nano(125_000_000);
/// How long nodes of a killed demo may take to end.
const NODES_END: Duration = Duration::from_secs(20);

/// A demo ready to start.
pub(super) struct Demo {
    pub(super) charter: Charter,
    pub(super) nodes: Vec<Folder>,
    pub(super) resumed: bool,
    /// What was read into the corpus and what was not; null where the folder had one.
    pub(super) corpus: serde_json::Value,
}

/// Makes the folder, or takes the one that is there.
pub(super) async fn prepare(arguments: &Arguments) -> anyhow::Result<Demo> {
    let dir = &arguments.dir;
    let there = dir.exists()
        && fs::read_dir(dir)
            .with_context(|| format!("cannot read {}", dir.display()))?
            .next()
            .is_some();
    let mut corpus = serde_json::Value::Null;
    if !there {
        most_are_honest(arguments, arguments.peers.unwrap_or(super::PEERS) as usize)?;
        corpus = found(arguments).await?;
    }
    let nodes = node_folders(dir)?;
    let Some(first) = nodes.first().filter(|first| first.path() != dir.as_path()) else {
        bail!(
            "{} is not empty and no demo's folder; choose another --dir (nothing was changed)",
            dir.display()
        );
    };
    let charter = charter_file::read(&first.charter())?;
    if there {
        agrees(arguments, &charter, nodes.len())?;
        most_are_honest(arguments, nodes.len())?;
    }
    for node in &nodes {
        wait_until_free(node).await?;
    }
    assign_ports(&nodes)?;
    Ok(Demo {
        charter,
        nodes,
        resumed: there,
        corpus,
    })
}

fn most_are_honest(arguments: &Arguments, nodes: usize) -> anyhow::Result<()> {
    let liars = arguments.liars.len();
    if liars > 0 && 2 * liars >= nodes {
        bail!("{liars} liars of {nodes} nodes: no rule can tell who lies unless most nodes are honest");
    }
    Ok(())
}

/// After a demo was killed its nodes need a moment to notice and end.
async fn wait_until_free(folder: &Folder) -> anyhow::Result<()> {
    let deadline = Instant::now() + NODES_END;
    loop {
        match folder.lock() {
            Ok(_) => return Ok(()),
            Err(FolderError::InUse(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the user asks for now must be what the folder was made with.
fn agrees(arguments: &Arguments, charter: &Charter, nodes: usize) -> anyhow::Result<()> {
    let asked = [
        ("--peers", arguments.peers.map(u64::from), nodes as u64),
        ("--rounds", arguments.rounds.map(u64::from), charter.round.rounds.into()),
        (
            "--inner-steps",
            arguments.inner_steps.map(u64::from),
            charter.round.inner_steps.0.into(),
        ),
    ];
    for (name, asked, there) in asked {
        if let Some(asked) = asked.filter(|asked| *asked != there) {
            bail!(
                "{} was made with {name} {there}, not {asked}; leave {name} out to go on with it, or choose another --dir",
                arguments.dir.display()
            );
        }
    }
    if arguments.data.is_some() {
        bail!(
            "{} has its corpus already; leave --data out to go on with it, or choose another --dir",
            arguments.dir.display()
        );
    }
    Ok(())
}

/// Makes everything in a folder beside and renames it, so that a crash leaves no half of a demo.
async fn found(arguments: &Arguments) -> anyhow::Result<serde_json::Value> {
    let dir = &arguments.dir;
    let mut name = dir.clone().into_os_string();
    name.push(".new");
    let beside = PathBuf::from(name);
    if beside.exists() {
        fs::remove_dir_all(&beside)
            .with_context(|| format!("cannot remove the remains of an earlier try, {}", beside.display()))?;
    }
    let made = make(arguments, &beside).await;
    if made.is_err() {
        let _ = fs::remove_dir_all(&beside); // the first error is the one to tell
    }
    let corpus = made?;
    if dir.exists() {
        fs::remove_dir(dir).with_context(|| format!("cannot replace the empty folder {}", dir.display()))?;
    }
    fs::rename(&beside, dir).with_context(|| format!("cannot rename {} to {}", beside.display(), dir.display()))?;
    Ok(corpus)
}

async fn make(arguments: &Arguments, beside: &Path) -> anyhow::Result<serde_json::Value> {
    let corpus = corpus::read(arguments.data.as_deref(), &arguments.reading, &[&arguments.dir, beside])?;
    let peers = arguments.peers.unwrap_or(super::PEERS);
    let digits = peers.to_string().len();
    let (mut members, mut nodes) = (Vec::new(), Vec::new());
    for number in 1..=peers {
        let name = format!("node-{number:0digits$}");
        let folder = Folder::at(beside.join(&name));
        let key = match arguments.seed {
            Some(seed) => found::known_member(&folder, &Hash::of_blob(format!("demo {seed} {number}").as_bytes()))?,
            None => found::new_member(&folder)?,
        };
        let key = key.peer();
        members.push(Member { name, key });
        nodes.push(folder);
    }
    let rounds = arguments.rounds.unwrap_or(super::ROUNDS);
    let mut plan = Plan::small("demo", rounds, arguments.inner_steps.unwrap_or(super::INNER_STEPS));
    plan.seed = arguments.seed.unwrap_or(plan.seed);
    if !arguments.liars.is_empty() || arguments.audits {
        plan.audit = AUDIT;
        plan.score.share = SCORED;
    }
    plan.licence = arguments.data.is_none().then(|| corpus::LICENCE.to_string());
    let beginning = found::begin(plan, &corpus, members)?;
    corpus::tell_overlap(beginning.overlap.percent());
    for folder in &nodes {
        found::install_charter(folder, &beginning.charter)?;
    }
    match nodes.first() {
        Some(first) => found::install_blobs(first, beginning.blobs).await?, // the others fetch them
        None => bail!("a demo needs at least one node"),
    }
    let mut read = corpus::to_json(&corpus);
    read["held_out_also_trained_percent"] = beginning.overlap.percent().into();
    Ok(read)
}

/// Gives every node a free port of this machine and the addresses of the others.
fn assign_ports(nodes: &[Folder]) -> anyhow::Result<()> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    // held until all are known, so that no two are the same
    let sockets: Vec<UdpSocket> = nodes
        .iter()
        .map(|_| UdpSocket::bind(any))
        .collect::<Result<_, _>>()
        .context("no free port")?;
    let mut addresses: BTreeMap<PeerId, SocketAddr> = BTreeMap::new();
    for (folder, socket) in nodes.iter().zip(&sockets) {
        addresses.insert(identity::read(&folder.key())?.peer(), socket.local_addr()?);
    }
    for (folder, socket) in nodes.iter().zip(&sockets) {
        let mut others = addresses.clone();
        others.remove(&identity::read(&folder.key())?.peer());
        found::install_settings(folder, socket.local_addr()?, &others)?;
    }
    Ok(())
}
