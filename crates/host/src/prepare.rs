//! Everything that training needs, from this disk or from the other members, before a node takes its first step.

use crate::{
    blobs::{BlobsError, Keep, Size},
    fetch::Fetcher,
    folder::Folder,
    merging::state_of,
    run::now,
    trainer::{Order, Parts, Report, Trainer},
    waits::{Wait, Waits},
};
use anyhow::Context as _;
use atoll_learner::data::{Dataset, Manifest, Tokenizer};
use atoll_ledger::{Roots, RoundRecord, State};
use atoll_node::Node;
use atoll_outer::{OuterState, attack::Liar};
use atoll_protocol::{Charter, Hash, Layout, PeerId, Round, limits::BLOB_BYTES_MAX};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How long to wait before asking everyone again for a blob that the run cannot do without.
const RETRY: Duration = Duration::from_millis(500);
const REMEDY: &str = "It comes from the founder or any member that has it: see that one of them runs \
    (`atoll node`) and can be reached at its address (--peer KEY=ADDRESS:PORT)";

/// What it is prepared from.
pub(crate) struct Preparation {
    pub(crate) charter: Arc<Charter>,
    pub(crate) me: PeerId,
    pub(crate) folder: Folder,
    pub(crate) blobs: crate::blobs::Blobs,
    pub(crate) fetcher: Fetcher,
    pub(crate) waits: Waits,
    /// The other members with their addresses, for people.
    pub(crate) others: Vec<String>,
    pub(crate) liar: Option<Liar>,
}

/// A node that can begin.
pub(crate) struct Prepared {
    pub(crate) node: Node,
    pub(crate) trainer: Trainer,
    /// What the trainer is to do first.
    pub(crate) orders: Vec<Order>,
}

impl Preparation {
    pub(crate) async fn run(
        self,
        state: State,
        records: &BTreeMap<Round, RoundRecord>,
        reports: mpsc::UnboundedSender<Report>,
    ) -> anyhow::Result<Prepared> {
        let me = self.me;
        let tokenizer = self
            .need(&self.charter.model.tokenizer, "tokenizer", "the tokenizer")
            .await?;
        let tokenizer = Tokenizer::from_bytes(&tokenizer)?;
        let dataset = self.dataset().await?;
        let theta = self.theta(&state).await?;
        let holds = theta.1;
        let parts = Parts {
            charter: self.charter,
            me,
            folder: self.folder,
            blobs: self.blobs,
            dataset: Arc::new(dataset),
            tokenizer,
            theta,
            liar: self.liar,
        };
        let trainer = Trainer::new(parts, tokio::runtime::Handle::current(), reports)?;
        let pending = trainer.pending().cloned();
        let current = state.round().number;
        let mut orders = Vec::new();
        let mine = pending.clone().filter(|done| done.round == current);
        let node = Node::new(me, Arc::new(state), holds, mine);
        if let Some(done) = pending.filter(|done| done.round < current) {
            // its round ended while this node was away
            let record = records.get(&done.round);
            let merged = record.is_some_and(|record| record.merged.iter().any(|entry| entry.peer == me));
            if merged {
                orders.push(Order::Settle(done.round)); // else it is sent again or added back when training begins
            }
        }
        Ok(Prepared { node, trainer, orders })
    }

    /// A blob of the run, from disk or from any member; asks until somebody has it.
    async fn need(&self, hash: &Hash, kind: &'static str, what: &str) -> anyhow::Result<Bytes> {
        let members: Vec<PeerId> = self.charter.keys().collect();
        let waiting = self.waits.begin(
            now(),
            Wait {
                what: what.to_string(),
                from: self.others.clone(),
                heard: None,
                remedy: REMEDY.into(),
            },
        );
        loop {
            let size = Size::AtMost(BLOB_BYTES_MAX);
            match self.fetcher.fetch(hash, size, &members, &Keep::Run(kind)).await {
                Ok(bytes) => return Ok(bytes),
                Err(error @ BlobsError::NotServed { .. }) => {
                    waiting.heard(error);
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error).with_context(|| format!("cannot get {what}")),
            }
        }
    }

    async fn dataset(&self) -> anyhow::Result<Dataset> {
        let what = "the corpus (its manifest)";
        let manifest = self.need(&self.charter.data.manifest, "manifest", what).await?;
        let named = Manifest::from_bytes(&manifest)?;
        let count = named.shards().count();
        let mut shards = BTreeMap::new();
        for (number, shard) in (1..).zip(named.shards()) {
            let what = format!("the corpus (shard {number} of {count})");
            shards.insert(shard.blake3, self.need(&shard.blake3, "shard", &what).await?);
        }
        Ok(Dataset::open(&manifest, |hash| shards.remove(hash).map(Vec::from))?)
    }

    /// The newest θ that is here: the ledger's, the one before its last merge, or the initial one.
    async fn theta(&self, state: &State) -> anyhow::Result<(OuterState, Roots)> {
        let (charter, layout) = (&self.charter, Layout::of(&self.charter.model));
        let first = State::genesis(charter.clone()).core().roots;
        let core = state.core();
        let before = core.last_merge.as_ref().map(|last| last.base);
        for roots in [Some(core.roots), before]
            .into_iter()
            .flatten()
            .filter(|roots| *roots != first)
        {
            if let Some(stored) = self.stored(&layout, roots).await? {
                return Ok((stored, roots));
            }
        }
        let initial = self.initial_theta().await?;
        Ok((state_of(charter, &layout, &initial, None)?, first))
    }

    /// θ and momentum with these roots, if both are on this disk.
    async fn stored(&self, layout: &Layout, roots: Roots) -> anyhow::Result<Option<OuterState>> {
        let Some(theta) = self.blobs.look(&roots.theta).await? else {
            return Ok(None);
        };
        let momentum = match roots.momentum {
            Some(root) => match self.blobs.look(&root).await? {
                Some(momentum) => Some(momentum),
                None => return Ok(None),
            },
            None => None,
        };
        Ok(Some(state_of(&self.charter, layout, &theta, momentum.as_deref())?))
    }

    /// θ⁰: computed if the charter's is the one that its seed gives, else a blob of the run.
    async fn initial_theta(&self) -> anyhow::Result<Bytes> {
        let model = &self.charter.model;
        if let Some(theta) = self.blobs.look(&model.theta).await? {
            return Ok(theta);
        }
        let theta = atoll_learner::init(model, self.charter.seed);
        let bytes = Bytes::from(atoll_outer::theta_bytes(&theta));
        if Hash::of_blob(&bytes) == model.theta {
            self.blobs.add(bytes.clone(), &Keep::Theta(Round(0))).await?;
            return Ok(bytes);
        }
        self.need(&model.theta, "initial parameters", "the initial parameters")
            .await
    }
}
