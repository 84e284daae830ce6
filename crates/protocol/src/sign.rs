//! Ed25519 signatures with the signer inside, and the proof that one was checked.

use crate::{Hash, PeerId, encode, ids::Domain};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use thiserror::Error;

/// A node's secret. Its public half is the [`PeerId`].
#[derive(Clone)]
pub struct Keypair(SigningKey);

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({})", self.peer().short())
    }
}

impl Keypair {
    /// The key of a 32-byte seed, as RFC 8032 has it.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The 32-byte seed; keep it secret.
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn peer(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// Signs `body` under `domain`.
    pub fn sign<T: BorshSerialize>(&self, domain: Domain, body: T) -> Signed<T> {
        let digest = Hash::of(domain, &encode(&body));
        let signature = Signature(self.0.sign(&digest.0).to_bytes());
        Signed {
            body,
            signer: self.peer(),
            signature,
        }
    }
}

/// The 64 bytes of an Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(")?;
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

/// A signature that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the signature of peer {} does not fit what it signs", signer.short())]
pub struct SignatureError {
    /// Who is said to have signed.
    pub signer: PeerId,
}

/// A body with a claim of who signed it. Nothing goes on from here but through [`Signed::verify`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signed<T> {
    /// What is signed.
    pub body: T,
    /// Who claims to have signed.
    pub signer: PeerId,
    /// The signature over the domain hash of the body's canonical bytes.
    pub signature: Signature,
}

impl<T: BorshSerialize> Signed<T> {
    /// Checks the signature (strictly: no small-order keys, one encoding per signature).
    pub fn verify(self, domain: Domain) -> Result<Verified<T>, SignatureError> {
        match self.check(domain) {
            true => Ok(Verified(self)),
            false => Err(SignatureError { signer: self.signer }),
        }
    }

    fn check(&self, domain: Domain) -> bool {
        let digest = Hash::of(domain, &encode(&self.body));
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature.0);
        VerifyingKey::from_bytes(&self.signer.0)
            .and_then(|key| key.verify_strict(&digest.0, &signature))
            .is_ok()
    }
}

/// A [`Signed`] whose signature was checked; it cannot be made in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(Signed<T>);

impl<T> Verified<T> {
    /// What was signed.
    pub fn body(&self) -> &T {
        &self.0.body
    }

    /// Who signed.
    pub fn signer(&self) -> PeerId {
        self.0.signer
    }

    /// The signed form, to store or send on.
    pub fn as_signed(&self) -> &Signed<T> {
        &self.0
    }

    /// The signed form, to store or send on.
    pub fn into_signed(self) -> Signed<T> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc8032_test_1_key() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
            0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(alloc::format!("{}", Keypair::from_seed(&seed).peer()), public);
    }

    proptest! {
        #[test]
        fn a_changed_bit_anywhere_is_refused(seed: [u8; 32], body: [u8; 16], bit in 0usize..(16 + 32 + 64) * 8) {
            let signed = Keypair::from_seed(&seed).sign(Domain::Transaction, body);
            prop_assert!(signed.clone().verify(Domain::Transaction).is_ok());
            prop_assert!(signed.clone().verify(Domain::Seal).is_err());
            let mut bytes = encode(&signed);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed: Signed<[u8; 16]> = crate::decode(&bytes, 1024).expect("same length");
            prop_assert!(changed.verify(Domain::Transaction).is_err());
        }
    }
}
