//! What is in the demo's folder: made, or found, looked at, and gone on with.

use super::{Arguments, corpus, place::Place};
use anyhow::{Context as _, bail};
use atoll_host::{
    audit::{node_folders, twins},
    charter_file,
    folder::{Folder, FolderError},
    found::{self, Plan},
    identity,
};
use atoll_protocol::{Audit, Charter, Hash, Keypair, Nano, PeerId, charter::Member};
use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

/// The run's name, by which a demo's folder is known.
const NAME: &str = "demo";

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
/// A wait that is longer is spoken of.
const WAIT_SAID: Duration = Duration::from_secs(3);

/// A demo ready to start.
pub(super) struct Demo {
    pub(super) charter: Charter,
    pub(super) nodes: Vec<Folder>,
    pub(super) resumed: bool,
    /// What was read into the corpus and what was not; null where the folder had one.
    pub(super) corpus: serde_json::Value,
    /// Its folder, held until the end.
    pub(super) place: Place,
}

impl Demo {
    /// Its folder.
    pub(super) fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// The nodes' names, which are those of their folders.
    pub(super) fn names(&self) -> Vec<String> {
        let name = |node: &Folder| {
            node.path()
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        self.nodes.iter().map(name).collect()
    }
}

/// Makes the folder, or takes the one that is there.
pub(super) async fn prepare(arguments: &Arguments) -> anyhow::Result<Demo> {
    let place = Place::take(&arguments.dir)?;
    let resumed = !place.is_empty()?;
    let mut corpus = serde_json::Value::Null;
    if !resumed {
        most_are_honest(arguments, asked_peers(arguments))?;
        let stage = place.stage()?;
        corpus = make(arguments, stage.path()).await?;
        stage.finish()?;
    }
    let (charter, nodes) = of_one_demo(&place.dir)?;
    if resumed {
        agrees(arguments, &charter, nodes.len())?;
        most_are_honest(arguments, nodes.len())?;
    }
    for (node, _) in &nodes {
        wait_until_free(node).await?;
    }
    assign_ports(&nodes)?;
    Ok(Demo {
        charter,
        nodes: nodes.into_iter().map(|(folder, _)| folder).collect(),
        resumed,
        place,
        corpus,
    })
}

fn asked_peers(arguments: &Arguments) -> usize {
    arguments.peers.unwrap_or(super::PEERS) as usize
}

/// The nodes' folders in `dir`, which must be a demo's and nothing else's: what is started here gets other addresses.
fn of_one_demo(dir: &Path) -> anyhow::Result<(Charter, Vec<(Folder, PeerId)>)> {
    let shown = dir.display();
    let folders = node_folders(dir)?;
    let Some(first) = folders.first().filter(|first| first.path() != dir) else {
        bail!("{shown} is not empty and no demo's folder; choose another --dir (nothing was changed)");
    };
    let charter = charter_file::read(&first.charter())?;
    if charter.name != NAME {
        bail!(
            "{shown} holds nodes of the run {:?}, which is no demo; `atoll node` runs them, one by one (nothing was changed)",
            charter.name
        );
    }
    if let Some((one, other, _)) = twins(&folders) {
        bail!(
            "{} and {} hold the same key, and two nodes with one key are taken for a liar; move the copy out of {shown} (nothing was changed)",
            one.path().display(),
            other.path().display()
        );
    }
    let mut nodes: Vec<(Folder, PeerId)> = Vec::new();
    for folder in folders {
        let peer = identity::read(&folder.key())?.peer();
        let there = charter_file::read(&folder.charter())?;
        if there.genesis() != charter.genesis() || !charter.keys().any(|key| key == peer) {
            bail!(
                "{} is no node of the demo in {shown}; move it out of there (nothing was changed)",
                folder.path().display()
            );
        }
        nodes.push((folder, peer));
    }
    Ok((charter, nodes))
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
    let began = Instant::now();
    let mut said = false;
    loop {
        match folder.lock() {
            Ok(_) => return Ok(()),
            Err(FolderError::InUse(_)) if began.elapsed() < NODES_END => {
                if began.elapsed() > WAIT_SAID && !std::mem::replace(&mut said, true) {
                    complain!(
                        "waiting up to {} s for another atoll process to end, which has {}",
                        NODES_END.as_secs(),
                        folder.path().display()
                    );
                }
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the user asks for now must be what the folder was made with.
fn agrees(arguments: &Arguments, charter: &Charter, nodes: usize) -> anyhow::Result<()> {
    let dir = arguments.dir.display();
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
                "{dir} was made with {name} {there}, not {asked}; leave {name} out to go on with it, or choose another --dir"
            );
        }
    }
    let other_seed = |seed: &u64| {
        !charter
            .keys()
            .any(|key| key == Keypair::from_seed(&secret(*seed, 1).0).peer())
    };
    let judged = arguments.audits || !arguments.liars.is_empty();
    for (name, differs, why) in [
        ("--data", arguments.data.is_some(), "has its corpus already"),
        (
            "--seed",
            arguments.seed.as_ref().is_some_and(other_seed),
            "was made without that seed",
        ),
        (
            if arguments.audits { "--audits" } else { "--liars" },
            judged && !charter.audit.is_on(),
            "was made without audits and liars: nobody makes anything again there",
        ),
    ] {
        if differs {
            bail!("{dir} {why}; leave {name} out to go on with it, or choose another --dir");
        }
    }
    Ok(())
}

/// The secret of a node of a demo with a seed.
fn secret(seed: u64, number: u32) -> Hash {
    Hash::of_blob(format!("demo {seed} {number}").as_bytes())
}

async fn make(arguments: &Arguments, stage: &Path) -> anyhow::Result<serde_json::Value> {
    let corpus = corpus::read(arguments.data.as_deref(), &arguments.reading, &[&arguments.dir, stage])?;
    let peers = arguments.peers.unwrap_or(super::PEERS);
    let digits = peers.to_string().len();
    let (mut members, mut nodes) = (Vec::new(), Vec::new());
    for number in 1..=peers {
        let name = format!("node-{number:0digits$}");
        let folder = Folder::at(stage.join(&name));
        let key = match arguments.seed {
            Some(seed) => found::known_member(&folder, &secret(seed, number))?,
            None => found::new_member(&folder)?,
        };
        let key = key.peer();
        members.push(Member { name, key });
        nodes.push(folder);
    }
    let rounds = arguments.rounds.unwrap_or(super::ROUNDS);
    let mut plan = Plan::small(NAME, rounds, arguments.inner_steps.unwrap_or(super::INNER_STEPS));
    plan.seed = arguments.seed.unwrap_or(plan.seed);
    if !arguments.liars.is_empty() || arguments.audits {
        plan.audit = AUDIT;
        plan.score.share = SCORED;
    }
    plan.licence = arguments.data.is_none().then(|| corpus::LICENCE.to_string());
    let beginning = corpus::begin(plan, &corpus, members)?;
    corpus::tell_overlap(beginning.overlap.percent());
    for folder in &nodes {
        found::install_charter(folder, &beginning.charter)?;
    }
    match nodes.first() {
        Some(first) => found::install_blobs(first, beginning.blobs).await?, // the others fetch them
        None => bail!("a demo needs at least one node"),
    }
    // it holds secret keys, and the folder may lie in a repository
    let ignore = stage.join(".gitignore");
    fs::write(&ignore, "*\n").with_context(|| format!("cannot write {}", ignore.display()))?;
    let mut read = corpus::to_json(&corpus);
    read["held_out_also_trained_percent"] = beginning.overlap.percent().into();
    Ok(read)
}

/// Gives every node a free port of this machine and the addresses of the others.
fn assign_ports(nodes: &[(Folder, PeerId)]) -> anyhow::Result<()> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    // held until all are known, so that no two are the same
    let sockets: Vec<UdpSocket> = nodes
        .iter()
        .map(|_| UdpSocket::bind(any))
        .collect::<Result<_, _>>()
        .context("no free port")?;
    let mut addresses: BTreeMap<PeerId, SocketAddr> = BTreeMap::new();
    for ((_, peer), socket) in nodes.iter().zip(&sockets) {
        addresses.insert(*peer, socket.local_addr()?);
    }
    for ((folder, peer), socket) in nodes.iter().zip(&sockets) {
        let mut others = addresses.clone();
        others.remove(peer);
        found::install_settings(folder, socket.local_addr()?, &others)?;
    }
    Ok(())
}
