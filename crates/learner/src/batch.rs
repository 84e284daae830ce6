//! Tokens of one step: B rows of T + 1 tokens, each row its own inputs and next-token targets.

use thiserror::Error;

/// A batch that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchError {
    /// No rows, or rows of no targets.
    #[error("a batch needs at least 1 row of at least 2 tokens; got {tokens} tokens in rows of {sequence} + 1")]
    Shape {
        /// T.
        sequence: usize,
        /// Tokens given.
        tokens: usize,
    },
}

/// B rows of T + 1 tokens. Position t of a row predicts position t + 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    sequence: usize,
    tokens: Vec<u32>,
}

impl Batch {
    /// Rows of `sequence` + 1 tokens, one after the other.
    pub fn new(tokens: Vec<u32>, sequence: usize) -> Result<Self, BatchError> {
        let fits = sequence > 0 && !tokens.is_empty() && tokens.len().is_multiple_of(sequence.saturating_add(1));
        match fits {
            true => Ok(Self { sequence, tokens }),
            false => Err(BatchError::Shape {
                sequence,
                tokens: tokens.len(),
            }),
        }
    }

    /// B.
    pub fn rows(&self) -> usize {
        self.tokens.len() / (self.sequence + 1)
    }

    /// T: inputs, and targets, per row.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// B · T: predictions in the batch.
    pub fn targets(&self) -> u64 {
        (self.rows() * self.sequence) as u64
    }

    /// All tokens, row by row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Inputs (B · T).
    pub(crate) fn inputs_n(&self) -> Vec<i32> {
        self.part(0)
    }

    /// Targets (B · T).
    pub(crate) fn targets_n(&self) -> Vec<i32> {
        self.part(1)
    }

    fn part(&self, start: usize) -> Vec<i32> {
        let rows = self.tokens.chunks_exact(self.sequence + 1);
        rows.flat_map(|row| &row[start..start + self.sequence])
            .map(|token| *token as i32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_inputs_moved_by_one() {
        let batch = Batch::new(vec![1, 2, 3, 7, 8, 9], 2).unwrap();
        assert_eq!((batch.rows(), batch.targets()), (2, 4));
        assert_eq!(batch.inputs_n(), [1, 2, 7, 8]);
        assert_eq!(batch.targets_n(), [2, 3, 8, 9]);
    }

    #[test]
    fn ragged_or_empty_batches_are_refused() {
        for (tokens, sequence) in [
            (vec![], 2),
            (vec![1, 2], 2),
            (vec![1], 0),
            (vec![1; 7], 2),
            (vec![1], usize::MAX),
        ] {
            assert!(
                Batch::new(tokens.clone(), sequence).is_err(),
                "{tokens:?} in rows of {sequence}"
            );
        }
    }
}
