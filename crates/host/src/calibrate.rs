//! How far apart two machines train the same: a contribution on rows that everybody can make, written on one
//! machine and made again on another. What `audit.tolerance` must let pass follows from that.

use crate::{again::learning, folder::read_limited};
use anyhow::{Context as _, bail};
use atoll_learner::{Batch, BurnLearner, DeviceChoice, Learner as _, init, learning_rate};
use atoll_ledger::Terms;
use atoll_outer::{
    Contribution, ErrorFeedback, OuterState, OwnState, Replica,
    again::{AgainError, Claimed, Material, Recipe, Rows, Training, again},
    blob_bytes_max,
};
use atoll_protocol::{
    ByteCount, Charter, Domain, Finding, Hash, InnerSteps, Layout, MicroNats, Round, Tokens, decode, encode,
    transaction::{Measured, Reveal, States},
};
use borsh::{BorshDeserialize, BorshSerialize};
use std::{ops::Range, path::Path, sync::Arc};

const VERSION: u32 = 1;
/// Names, numbers and hashes of a sample.
const HEAD_BYTES_MAX: u64 = 4096;

/// A contribution of one machine.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Sample {
    version: u32,
    genesis: Hash,
    /// The machine and the build, for people.
    pub machine: String,
    /// Inner steps that were taken.
    pub steps: u32,
    blob: Vec<u8>,
    closing: Vec<u8>,
}

/// What a sample is to this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Whose.
    pub machine: String,
    /// What came out here.
    pub finding: Finding,
}

/// This machine's learner on rows made of the charter alone.
struct Calibrated {
    charter: Arc<Charter>,
    learner: BurnLearner,
    genesis: Hash,
    steps: u32,
}

impl Calibrated {
    fn new(charter: &Arc<Charter>, steps: u32) -> anyhow::Result<Self> {
        Ok(Self {
            learner: BurnLearner::new(&charter.model, &charter.inner, DeviceChoice::default())?,
            genesis: charter.genesis(),
            charter: charter.clone(),
            steps,
        })
    }

    /// Tokens that no text has, but any machine can make.
    fn batch(&self, step: u32) -> anyhow::Result<Batch> {
        let (rules, vocab) = (&self.charter.round, self.charter.model.vocab.max(1));
        let row = rules.sequence as usize + 1;
        let count = rules.batch as usize * row;
        let mut tokens = Vec::with_capacity(count);
        for block in 0u32.. {
            let bytes = Hash::of(Domain::Lottery, &encode(&(self.genesis, "calibrate", step, block))).0;
            // a few words that follow each other, so that there is something to learn
            tokens.extend(bytes.iter().map(|byte| u32::from(*byte) % 61 % vocab));
            if tokens.len() >= count {
                break;
            }
        }
        tokens.truncate(count);
        Ok(Batch::new(tokens, rules.sequence as usize)?)
    }
}

impl Training for Calibrated {
    fn begin(&mut self, moments: Option<&[u8]>) -> Result<(), AgainError> {
        match moments {
            Some(moments) => self.learner.restore(moments).map_err(learning),
            None => {
                self.learner.reset_optimizer();
                Ok(())
            }
        }
    }

    fn walk(&mut self, weights: &[f32], _rows: Rows, steps: Range<u32>) -> Result<Vec<f32>, AgainError> {
        self.learner.write(weights).map_err(learning)?;
        for step in steps {
            let batch = self.batch(step).map_err(|error| AgainError::Here(error.to_string()))?;
            // in the middle of a run, where the rate is high
            let total = 2 * u64::from(self.steps);
            let rate = learning_rate(&self.charter.inner, total / 2, total);
            self.learner.train_step(&batch, rate).map_err(learning)?;
        }
        Ok(self.learner.read())
    }

    fn moments(&self) -> Vec<u8> {
        self.learner.save()
    }

    fn moments_apart(&self, theirs: &[u8]) -> Result<f64, AgainError> {
        self.learner.moments_apart(theirs).map_err(learning)
    }
}

/// θ⁰ of the charter's model, from its seed.
fn start(charter: &Charter) -> OuterState {
    OuterState::new(init(&charter.model, charter.seed), &charter.outer)
}

/// Trains `steps` inner steps here and encodes them as the first round's contribution.
pub fn sample(charter: &Arc<Charter>, steps: u32, machine: String) -> anyhow::Result<Sample> {
    check_steps(charter, steps)?;
    let layout = Arc::new(Layout::of(&charter.model));
    let outer = start(charter);
    let mut training = Calibrated::new(charter, steps)?;
    training.begin(None)?;
    let local = training.walk(&outer.theta, Rows::Last, 0..steps)?;
    let roots = outer.roots();
    let feedback = ErrorFeedback::new(layout.parameters);
    let mut replica = Replica::new(charter.clone(), layout, (outer, roots), feedback, None);
    let encoded = replica.contribute(&local, &Terms::first(charter).codec, None)?;
    let after = (replica.feedback().to_bytes(), training.moments());
    let closing = OwnState::new(charter, Round(0), after, &local);
    Ok(Sample {
        version: VERSION,
        genesis: charter.genesis(),
        machine,
        steps,
        blob: encoded.blob,
        closing: closing.to_bytes(),
    })
}

/// Makes a sample again here.
pub fn compare(charter: &Arc<Charter>, sample: &Sample) -> anyhow::Result<Compared> {
    if sample.genesis != charter.genesis() {
        bail!(
            "the sample of {} is of another charter, {}; this one's genesis is {}",
            sample.machine,
            sample.genesis.short(),
            charter.genesis().short()
        );
    }
    let layout = Arc::new(Layout::of(&charter.model));
    let (terms, outer) = (Terms::first(charter), start(charter));
    let reveal = Reveal {
        round: Round(0),
        trained: Round(0),
        blob: Hash::of_blob(&sample.blob),
        bytes: ByteCount(sample.blob.len() as u64),
        steps: InnerSteps(sample.steps),
        ahead: None,
        tokens: Tokens(0),
        train_loss: MicroNats(0),
        held_out: MicroNats(0),
        measured: Measured::default(),
        states: States {
            opening: Hash::ZERO,
            closing: Hash::of_blob(&sample.closing),
        },
    };
    let recipe = Recipe {
        reveal: &reveal,
        base: outer.roots().0,
        codec: &terms.codec,
        usual_norm_micro: None,
        momentum: terms.momentum,
        steps: InnerSteps(sample.steps),
        replicas: 1,
    };
    let claimed = Claimed {
        last: recipe,
        before: None,
    };
    let material = Material::<Vec<u8>> {
        opening: None,
        base: outer,
        before: None,
        before_base: None,
    };
    let mut training = Calibrated::new(charter, sample.steps)?;
    let again = again(&mut training, (charter, &layout), claimed, material)?;
    let finding = match again.is(&reveal) {
        true => Finding::Same,
        false => {
            let sent = Contribution::read(sample.blob.clone(), &layout, &terms.codec, &recipe.base)?;
            let closing = OwnState::from_bytes(&sample.closing)?;
            again.finding(&training, &layout, recipe, (&sent, &closing))?
        }
    };
    Ok(Compared {
        machine: sample.machine.clone(),
        finding,
    })
}

/// Reads a sample of a run with this charter.
pub fn read(path: &Path, charter: &Charter) -> anyhow::Result<Sample> {
    let layout = Layout::of(&charter.model);
    let most = HEAD_BYTES_MAX + OwnState::bytes_max(&layout) + blob_bytes_max(&layout, &Terms::first(charter).codec);
    let bytes = read_limited(path, most)?;
    let sample: Sample = decode(&bytes, bytes.len())
        .with_context(|| format!("{} is no sample that `atoll calibrate` wrote", path.display()))?;
    if sample.version != VERSION {
        bail!(
            "{} is a sample of version {}; this program reads {VERSION}",
            path.display(),
            sample.version
        );
    }
    check_steps(charter, sample.steps).with_context(|| path.display().to_string())?;
    Ok(sample)
}

/// Nobody is made to train for days.
fn check_steps(charter: &Charter, steps: u32) -> anyhow::Result<()> {
    let most = charter.round.inner_steps.0.saturating_mul(100);
    match steps <= most {
        true => Ok(()),
        false => bail!("{steps} steps; a sample has at most {most}, a hundred rounds of this charter"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::tests::charter_of;
    use atoll_protocol::PeerId;

    #[test]
    fn here_it_is_the_same_and_elsewhere_it_is_measured() {
        let mut charter = charter_of(&[PeerId([1; 32])]);
        (charter.model.width, charter.model.layers, charter.model.head_width) = (32, 1, 8);
        (charter.round.batch, charter.round.sequence) = (1, 16);
        let charter = Arc::new(charter);
        let made = sample(&charter, 3, "here".into()).unwrap();
        assert_eq!(compare(&charter, &made).unwrap().finding, Finding::Same);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample");
        std::fs::write(&path, encode(&made)).unwrap();
        assert_eq!(read(&path, &charter).unwrap(), made);

        let more = Sample {
            steps: 4,
            ..made.clone()
        };
        match compare(&charter, &more).unwrap().finding {
            Finding::Apart { billionths } => assert!(billionths > 10_000_000, "{billionths}"),
            other => panic!("{other}"),
        }
        let other = Sample {
            genesis: Hash::ZERO,
            ..made
        };
        assert!(
            compare(&charter, &other)
                .unwrap_err()
                .to_string()
                .contains("another charter")
        );
        std::fs::write(&path, b"text").unwrap();
        assert!(read(&path, &charter).unwrap_err().to_string().contains("no sample"));
    }
}
