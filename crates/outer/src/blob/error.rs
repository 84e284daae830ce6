//! What is wrong with a blob, by field and value.

use crate::codec::Flaw;
use atoll_protocol::{CheckReason, Hash};
use thiserror::Error;

/// Why bytes are not a contribution.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BlobError {
    /// Not as many bytes as there must be.
    #[error("the blob has {got} bytes; its {what} needs {needed}")]
    Length {
        /// For what.
        what: &'static str,
        /// How many there are.
        got: u64,
        /// How many there must be.
        needed: u64,
    },
    /// Not what the charter asks for.
    #[error("the blob's {field} is {got}; the charter needs {needed}")]
    Header {
        /// Which field.
        field: &'static str,
        /// What it says.
        got: u64,
        /// What it must say.
        needed: u64,
    },
    /// Made from other parameters.
    #[error("the blob was made from θ {got}; {needed} is needed")]
    OtherBase {
        /// Root of what it was made from.
        got: Hash,
        /// Root of what it must be made from.
        needed: Hash,
    },
    /// A tensor of another shape.
    #[error("the blob's tensor {tensor} has {got} {field}; the charter needs {needed}")]
    Table {
        /// The tensor's name.
        tensor: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        got: u64,
        /// What it must say.
        needed: u64,
    },
    /// A payload that cannot be.
    #[error("the blob's tensor {tensor}, from element {element} on: {flaw}")]
    Payload {
        /// The tensor's name.
        tensor: String,
        /// First element of the part that is flawed.
        element: usize,
        /// What is wrong.
        flaw: Flaw,
    },
}

impl BlobError {
    /// What to state on the ledger.
    pub fn reason(&self) -> CheckReason {
        match self {
            Self::OtherBase { .. } => CheckReason::OtherBase,
            Self::Payload {
                flaw: Flaw::NonFinite(_) | Flaw::Scale(_) | Flaw::Length(_) | Flaw::Reach(_),
                ..
            } => CheckReason::BadValue,
            _ => CheckReason::Malformed,
        }
    }
}
