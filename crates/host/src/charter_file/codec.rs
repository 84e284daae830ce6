//! The table `codec`.

use super::{Refused, nano, real};
use atoll_protocol::charter::{Codec, Compression};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum CodecTable {
    Auto { feedback: f64 },
    Dense {},
    Int8 { feedback: f64 },
    Int4 { feedback: f64 },
    Sparse { k: u32, feedback: f64 },
    Lowrank { rank: u32, feedback: f64 },
    EffectiveRank { rank: u32, window: u32, feedback: f64 },
}

impl CodecTable {
    pub(super) fn into_compression(self) -> Result<Compression, Refused> {
        let beta = |feedback| nano("codec.feedback", feedback);
        Ok(match self {
            Self::Auto { feedback } => Compression::Auto {
                feedback: beta(feedback)?,
            },
            Self::EffectiveRank { rank, window, feedback } => Compression::EffectiveRank {
                rank,
                window,
                feedback: beta(feedback)?,
            },
            Self::Dense {} => Compression::Fixed(Codec::Dense),
            Self::Int8 { feedback } => Compression::Fixed(Codec::Int8 {
                feedback: beta(feedback)?,
            }),
            Self::Int4 { feedback } => Compression::Fixed(Codec::Int4 {
                feedback: beta(feedback)?,
            }),
            Self::Sparse { k, feedback } => Compression::Fixed(Codec::Sparse {
                k,
                feedback: beta(feedback)?,
            }),
            Self::Lowrank { rank, feedback } => Compression::Fixed(Codec::LowRank {
                rank,
                feedback: beta(feedback)?,
            }),
        })
    }

    pub(super) fn of(compression: &Compression) -> Self {
        match compression {
            Compression::Auto { feedback } => Self::Auto {
                feedback: real(*feedback),
            },
            Compression::EffectiveRank { rank, window, feedback } => Self::EffectiveRank {
                rank: *rank,
                window: *window,
                feedback: real(*feedback),
            },
            Compression::Fixed(codec) => {
                let feedback = real(codec.feedback());
                match codec {
                    Codec::Dense => Self::Dense {},
                    Codec::Int8 { .. } => Self::Int8 { feedback },
                    Codec::Int4 { .. } => Self::Int4 { feedback },
                    Codec::Sparse { k, .. } => Self::Sparse { k: *k, feedback },
                    Codec::LowRank { rank, .. } => Self::Lowrank { rank: *rank, feedback },
                }
            }
        }
    }
}
