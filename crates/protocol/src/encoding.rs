//! The one binary form: borsh, exact and canonical.

use alloc::vec::Vec;
use borsh::{BorshDeserialize, BorshSerialize};
use thiserror::Error;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// More bytes than this kind of message may have.
    #[error("{got} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes given.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Truncated, out of range, or with bytes left over.
    #[error("not a valid {what}: truncated, out of range or with bytes left over")]
    Malformed {
        /// The type that was expected.
        what: &'static str,
    },
}

/// The canonical bytes of `value`. Encoding to memory cannot fail for the types of this crate; should
/// one ever refuse, the bytes are empty and every decoder refuses those.
pub fn encode<T: BorshSerialize>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).unwrap_or_default()
}

/// Reads exactly one `T` from `bytes`: no more than `bytes_max` of them, none left over. Memory is
/// taken in proportion to the bytes that are there, never to a length that they claim.
pub fn decode<T: BorshDeserialize>(bytes: &[u8], bytes_max: usize) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLong {
            got: bytes.len(),
            max: bytes_max,
        });
    }
    borsh::from_slice(bytes).map_err(|_| DecodeError::Malformed {
        what: short_name::<T>(),
    })
}

fn short_name<T>() -> &'static str {
    let name = core::any::type_name::<T>();
    let base = name.split('<').next().unwrap_or(name);
    base.rsplit("::").next().unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hash;

    #[test]
    fn exact_and_bounded() {
        let bytes = encode(&Hash::ZERO);
        assert_eq!(decode::<Hash>(&bytes, 32), Ok(Hash::ZERO));
        assert_eq!(
            decode::<Hash>(&bytes, 31),
            Err(DecodeError::TooLong { got: 32, max: 31 })
        );
        assert_eq!(
            decode::<Hash>(&bytes[..31], 32),
            Err(DecodeError::Malformed { what: "Hash" })
        );
        assert!(decode::<Vec<Hash>>(&[0xff; 8], 1024).is_err());
    }
}
