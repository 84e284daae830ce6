//! Names of things: content hashes and peers.

use alloc::string::String;
use borsh::{BorshDeserialize, BorshSerialize};
use core::{fmt, str::FromStr};
use thiserror::Error;

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an id: 64 hexadecimal digits are needed")]
pub struct ParseIdError(pub String);

fn hex_digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

fn parse_hex(text: &str) -> Result<[u8; 32], ParseIdError> {
    let refuse = || ParseIdError(text.chars().take(80).collect());
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(refuse());
    }
    let mut bytes = [0u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = hex_digit(pair[0]).ok_or_else(refuse)?;
        let low = hex_digit(pair[1]).ok_or_else(refuse)?;
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first four bytes in hexadecimal, for people to read; not unique.
            pub fn short(&self) -> String {
                use alloc::format;
                format!("{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex(text).map(Self)
            }
        }
    };
}

id! {
    /// A BLAKE3 hash: the address of a blob, the root of a state, the digest of a header.
    Hash
}
id! {
    /// An Ed25519 public key: a node's one identity, in the ledger, in consensus and on the network.
    PeerId
}

impl Hash {
    /// 32 zero bytes: the parent of the genesis block.
    pub const ZERO: Self = Self([0; 32]);

    /// Plain BLAKE3 of `bytes`: the address under which a blob is stored and fetched.
    pub fn of_blob(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// BLAKE3 in key-derivation mode: a hash that cannot be mistaken for one of another `domain`.
    pub fn of(domain: Domain, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(domain.context(), bytes))
    }
}

/// What a hash or a signature is about; two domains never give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// The charter: its hash is the genesis hash.
    Charter,
    /// A block header: its hash is the block's digest.
    Header,
    /// The list of a block's transactions.
    Transactions,
    /// The ledger's state after a block.
    State,
    /// The validator set.
    Validators,
    /// A round's beacon.
    Beacon,
    /// A commitment to a contribution.
    Commitment,
    /// The running hash over closed rounds.
    History,
    /// What a transaction's signature covers.
    Transaction,
    /// What a seal's signature covers.
    Seal,
    /// The permutation from which a round's data rows are drawn.
    Assignment,
    /// Which merged contributions are done again, and by whom.
    Lottery,
}

impl Domain {
    fn context(self) -> &'static str {
        match self {
            Self::Charter => "atoll 2026-11 v1 charter",
            Self::Header => "atoll 2026-11 v1 block header",
            Self::Transactions => "atoll 2026-11 v1 block transactions",
            Self::State => "atoll 2026-11 v1 ledger state",
            Self::Validators => "atoll 2026-11 v1 validator set",
            Self::Beacon => "atoll 2026-11 v1 round beacon",
            Self::Commitment => "atoll 2026-11 v1 contribution commitment",
            Self::History => "atoll 2026-11 v1 round history",
            Self::Transaction => "atoll 2026-11 v1 transaction signature",
            Self::Seal => "atoll 2026-11 v1 folder seal",
            Self::Assignment => "atoll 2026-11 v1 data assignment",
            Self::Lottery => "atoll 2026-11 v1 audit lottery",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn ids_read_back_what_they_print() {
        let hash = Hash::of_blob(b"atoll");
        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse::<Hash>(), Ok(hash));
        assert_eq!(hash.short().len(), 8);
    }

    #[test]
    fn bad_ids_are_refused() {
        for text in ["", "00", "zz", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<PeerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn domains_do_not_collide() {
        let (a, b) = (Hash::of(Domain::Header, b"x"), Hash::of(Domain::State, b"x"));
        assert_ne!(a, b);
        assert_ne!(a, Hash::of_blob(b"x"));
    }
}
