//! Founding a run: keys, corpus, tokenizer, initial parameters, charter, and a folder per member.

use crate::{
    blobs::{Blobs, Keep},
    charter_file,
    folder::{Folder, make, write_whole},
    identity::{self, IdentityError},
    network::Settings,
    place::Place,
};
use anyhow::{Context as _, bail};
pub use atoll_learner::data::TrainProgress;
pub use atoll_learner::data::{
    Corpus, Ingest, IngestError, Overlap as HeldOutOverlap, Part, Progress, Skipped, ingest,
};
use atoll_learner::data::{Document, Shard, Source, Tokenizer, build};
use atoll_outer::theta_bytes;
use atoll_protocol::{
    Audit, Charter, Fraction, Hash, InnerSteps, Keypair, Millis, Nano, PeerId, Robust, Round, Score,
    charter::{
        CHARTER_VERSION, Compression, Data, Deadlines, InnerOptimizer, Matrices, Member, Model, OuterOptimizer,
        Overlap, RoundRules,
    },
    limits::VALIDATORS_MAX,
    robust::Weighing,
};
use std::{collections::BTreeMap, net::SocketAddr, ops::ControlFlow, path::Path};

/// What a founder decides; everything else follows.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The run's name.
    pub name: String,
    /// Seed of θ⁰.
    pub seed: u64,
    /// Sizes; vocabulary, θ and tokenizer are filled in.
    pub model: Model,
    /// Largest vocabulary of the tokenizer that is trained on the corpus.
    pub vocab_max: u32,
    /// The shape of a round.
    pub round: RoundRules,
    /// Inner optimizer.
    pub inner: InnerOptimizer,
    /// Outer optimizer.
    pub outer: OuterOptimizer,
    /// How the codec of each round is chosen.
    pub compression: Compression,
    /// What is kept out of a merge, and how the rest is weighed.
    pub robust: Robust,
    /// What is made again after it was merged.
    pub audit: Audit,
    /// What merged contributions do to the loss.
    pub score: Score,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Licence of the corpus, if known.
    pub licence: Option<String>,
}

/// The blobs that a run begins with.
pub struct Beginning {
    /// The charter.
    pub charter: Charter,
    /// Blobs and why they are kept.
    pub blobs: Vec<(Vec<u8>, Keep)>,
    /// Tokens to train on.
    pub train_tokens: u64,
    /// Tokens held out.
    pub held_out_tokens: u64,
    /// How much of what is held out is also trained on.
    pub overlap: HeldOutOverlap,
}

/// Makes tokenizer, shards, θ⁰ and the charter from a corpus.
pub fn begin(plan: Plan, corpus: &Corpus, members: Vec<Member>) -> anyhow::Result<Beginning> {
    begin_watched(plan, corpus, members, &mut |_| ControlFlow::Continue(()))
}

/// The same; `watch` hears how far the tokenizer is, which takes longest, and may end it.
pub fn begin_watched(
    plan: Plan,
    corpus: &Corpus,
    members: Vec<Member>,
    watch: &mut dyn FnMut(TrainProgress) -> ControlFlow<()>,
) -> anyhow::Result<Beginning> {
    if members.len() > VALIDATORS_MAX {
        bail!(
            "{} members: all of them validate, and a run carries at most {VALIDATORS_MAX} validators",
            members.len()
        );
    }
    let tokenizer = Tokenizer::train_watched(corpus, plan.vocab_max, watch)?;
    let built = build(corpus, &tokenizer, plan.licence.as_deref())?;
    let manifest = built.manifest.to_bytes()?;
    let mut model = Model {
        vocab: tokenizer.vocab(),
        tokenizer: tokenizer.hash(),
        ..plan.model
    };
    let theta = theta_bytes(&atoll_learner::init(&model, plan.seed));
    model.theta = Hash::of_blob(&theta);
    let mut members = members;
    members.sort_by_key(|member| member.key);
    let charter = Charter {
        version: CHARTER_VERSION,
        name: plan.name,
        seed: plan.seed,
        model,
        data: Data {
            manifest: Hash::of_blob(&manifest),
        },
        round: plan.round,
        inner: plan.inner,
        outer: plan.outer,
        compression: plan.compression,
        robust: plan.robust,
        audit: plan.audit,
        score: plan.score,
        deadlines: plan.deadlines,
        members,
    };
    charter.validate()?;
    let tokens = |shards: &[Shard]| shards.iter().map(|shard| shard.tokens).sum::<u64>();
    let (train_tokens, held_out_tokens) = (tokens(&built.manifest.train), tokens(&built.manifest.held_out));
    if train_tokens.min(held_out_tokens) <= u64::from(charter.round.sequence) {
        bail!(
            "the corpus has {train_tokens} tokens to train on and {held_out_tokens} held out; a sequence needs more than {}",
            charter.round.sequence
        );
    }
    let mut blobs = vec![
        (manifest, Keep::Run("manifest")),
        (tokenizer.json().to_vec(), Keep::Run("tokenizer")),
        (theta, Keep::Theta(Round(0))),
    ];
    let overlap = built.overlap;
    blobs.extend(built.shards.into_iter().map(|(_, bytes)| (bytes, Keep::Run("shard"))));
    Ok(Beginning {
        charter,
        blobs,
        train_tokens,
        held_out_tokens,
        overlap,
    })
}

/// Makes a folder with a new key, or says what is in the way.
pub fn new_member(folder: &Folder) -> anyhow::Result<Keypair> {
    member_with(folder, identity::create)
}

/// The same with a key that is known already: for runs that are to be compared, never for real ones.
pub fn known_member(folder: &Folder, secret: &Hash) -> anyhow::Result<Keypair> {
    member_with(folder, |path| identity::create_from(path, &secret.0))
}

fn member_with(folder: &Folder, key: impl FnOnce(&Path) -> Result<Keypair, IdentityError>) -> anyhow::Result<Keypair> {
    make(folder.path())?;
    let keypair = key(&folder.key()).with_context(|| {
        format!(
            "{} may hold a node already; nothing was changed",
            folder.path().display()
        )
    })?;
    Ok(keypair)
}

/// Puts the charter into a member's folder; an existing other one stays.
pub fn install_charter(folder: &Folder, charter: &Charter) -> anyhow::Result<()> {
    let path = folder.charter();
    if path.exists() {
        let there = charter_file::read(&path)?;
        if there.genesis() != charter.genesis() {
            bail!(
                "{} is the charter of another run (genesis {}); it was left as it is",
                path.display(),
                there.genesis()
            );
        }
        return Ok(());
    }
    Ok(write_whole(&path, charter_file::to_text(charter)?.as_bytes())?)
}

/// Puts the run's first blobs into a member's store, so that the others can fetch them.
pub async fn install_blobs(folder: &Folder, blobs: Vec<(Vec<u8>, Keep)>) -> anyhow::Result<()> {
    let store = Blobs::open_briefly(folder).await?;
    for (bytes, keep) in blobs {
        store.add(bytes, &keep).await?;
    }
    Ok(store.shutdown().await?)
}

/// Tells a member where to listen and where the others are.
pub fn install_settings(
    folder: &Folder,
    bind: SocketAddr,
    others: &BTreeMap<PeerId, SocketAddr>,
) -> anyhow::Result<()> {
    let peers = others
        .iter()
        .map(|(peer, address)| (peer.to_string(), Place::from(*address)))
        .collect();
    let bind = bind.into();
    Ok(Settings { bind, peers }.write(&folder.settings())?)
}

impl Plan {
    /// A model and a schedule that a few laptops can train: about a million parameters.
    pub fn small(name: &str, rounds: u32, inner_steps: u32) -> Self {
        let steps = rounds.saturating_mul(inner_steps);
        Self {
            name: name.to_string(),
            seed: 1,
            model: Model {
                vocab: 0,
                width: 128,
                layers: 4,
                heads: 4,
                kv_heads: 2,
                head_width: 32,
                ffn: 344,
                context: 128,
                rope_theta: 10_000,
                norm_eps: Nano(10_000),
                tied: true,
                theta: Hash::ZERO,
                tokenizer: Hash::ZERO,
            },
            vocab_max: 1024,
            round: RoundRules {
                rounds,
                inner_steps: InnerSteps(inner_steps),
                batch: 8,
                sequence: 128,
                held_out: 8,
                quorum: Fraction {
                    numerator: 2,
                    denominator: 3,
                },
                retention: 0,
                checkpoint_every: rounds,
                absent_max: 3,
                overlap: Overlap::Auto,
            },
            inner: InnerOptimizer {
                lr: Nano(3_000_000),
                lr_min_ratio: Nano(100_000_000),
                warmup: InnerSteps(steps / 20),
                weight_decay: Nano(100_000_000),
                beta1: Nano(900_000_000),
                beta2: Nano(950_000_000),
                eps: Nano(10),
                clip: Nano::ONE,
                matrices: Matrices::AdamW,
            },
            outer: OuterOptimizer::Nesterov {
                lr: Nano::ONE,
                momentum: Nano(800_000_000),
                warmup: 10,
            },
            compression: Compression::Auto { feedback: Nano::ONE },
            robust: Robust {
                rule: Weighing::GeometricMedian,
                mixing: false,
                clip: true,
                norm_max: Nano(3 * Nano::ONE.0),
                cosine_max: Nano(990_000_000),
            },
            audit: Audit::NONE,
            score: Score::NONE,
            deadlines: Deadlines {
                grace: Millis(5_000),
                reveal: Millis(10_000),
                check: Millis(20_000),
                merge: Millis(20_000),
                heartbeat: Millis(60_000),
                deviations: 8,
            },
            licence: None,
        }
    }
}

/// The corpus of named texts, each a document of its own, in the order of the names.
pub fn corpus_of(texts: impl IntoIterator<Item = (String, String)>) -> Corpus {
    let mut corpus = Corpus::default();
    for (path, text) in texts {
        let (bytes, hash) = (text.len() as u64, Hash::of_blob(text.as_bytes()));
        corpus.documents.push(Document {
            source: corpus.sources.len(),
            text,
        });
        corpus.sources.push(Source { path, bytes, hash });
    }
    corpus
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use atoll_learner::data::secret_in_text;

    /// A valid charter for these members; its corpus and parameters are nowhere.
    pub(crate) fn charter_of(members: &[PeerId]) -> Charter {
        let plan = Plan::small("test", 3, 2);
        let member = |(number, key): (usize, &PeerId)| Member {
            name: format!("m{number}"),
            key: *key,
        };
        let mut members: Vec<Member> = members.iter().enumerate().map(member).collect();
        members.sort_by_key(|member| member.key);
        let charter = Charter {
            version: CHARTER_VERSION,
            name: plan.name,
            seed: plan.seed,
            model: Model {
                vocab: 300,
                ..plan.model
            },
            data: Data { manifest: Hash::ZERO },
            round: plan.round,
            inner: plan.inner,
            outer: plan.outer,
            compression: plan.compression,
            robust: plan.robust,
            audit: plan.audit,
            score: plan.score,
            deadlines: plan.deadlines,
            members,
        };
        charter.validate().unwrap();
        charter
    }

    fn corpus() -> Corpus {
        let text: String = (0..4000)
            .map(|i| format!("line {i} of a corpus that repeats itself, {}\n", i * i % 97))
            .collect();
        corpus_of([("corpus.txt".to_string(), text)])
    }

    #[test]
    fn the_same_corpus_and_members_give_the_same_charter() {
        let members = || {
            vec![Member {
                name: "a".into(),
                key: PeerId([1; 32]),
            }]
        };
        let begin = || begin(Plan::small("test", 3, 2), &corpus(), members()).unwrap();
        let (one, two) = (begin(), begin());
        assert_eq!(one.charter, two.charter);
        assert!(one.train_tokens > one.held_out_tokens);
        let text = charter_file::to_text(&one.charter).unwrap();
        assert_eq!(charter_file::parse(std::path::Path::new("c"), &text), Ok(one.charter));
    }

    #[test]
    fn a_nodes_key_is_known_as_a_secret_to_whoever_reads_a_corpus() {
        let folder = tempfile::tempdir().unwrap();
        identity::create(&folder.path().join("key")).unwrap();
        let text = std::fs::read_to_string(folder.path().join("key")).unwrap();
        assert!(secret_in_text(&text).is_some(), "{text}");
        std::fs::write(folder.path().join("a.txt"), "a text beside a key").unwrap();
        let refused = ingest(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("looks like a node's folder"), "{refused}");
    }

    #[test]
    fn a_corpus_that_is_too_small_is_refused() {
        let small = corpus_of([("a".to_string(), "too little".to_string())]);
        let member = Member {
            name: "a".into(),
            key: PeerId([1; 32]),
        };
        assert!(begin(Plan::small("test", 3, 2), &small, vec![member]).is_err());
    }
}
