//! Proofs of finality: checked with nothing but the genesis hash and the validator set.

use crate::keys::{Validators, ValidatorsError, digest_of, hash_of, peer_of};
use atoll_protocol::{Hash, PeerId};
use commonware_codec::{Copying, Decode, Encode};
use commonware_consensus::{
    Epochable, Viewable,
    simplex::{scheme::ed25519::Scheme, types},
    types::Epoch,
};
use commonware_cryptography::{blake3::Digest, certificate::Verifier as _};
use commonware_parallel::Sequential;
use thiserror::Error;

pub(crate) type Finalization = types::Finalization<Scheme, Digest>;

/// What a certificate proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The view in which the block was finalized; views count up, and several may pass per height.
    pub view: u64,
    /// Who signed, ascending: more than two thirds of the validators.
    pub signers: Vec<PeerId>,
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// No certificate can be checked against such a set.
    #[error(transparent)]
    Validators(#[from] ValidatorsError),
    /// More bytes than a certificate of this validator set can have.
    #[error("the certificate has {got} bytes, at most {max} are possible with these validators")]
    TooLong {
        /// Bytes given.
        got: usize,
        /// Bytes possible.
        max: usize,
    },
    /// Not a certificate in the one encoding there is.
    #[error("not a finality certificate in canonical encoding for these validators")]
    Malformed,
    /// A certificate of something else.
    #[error("the certificate is for block {got}, not for {expected}")]
    OtherBlock {
        /// The digest that was asked for.
        expected: Hash,
        /// The digest inside.
        got: Hash,
    },
    /// Signatures are missing or do not fit.
    #[error("the certificate's signatures do not fit: other validators, another run, or forged")]
    Signatures,
}

/// Checks that more than two thirds of `validators` have finalized the block with `digest` in the run
/// with this `genesis` hash. There is one encoding per certificate: any changed byte is refused.
pub fn verify_certificate(
    genesis: &Hash,
    validators: &[PeerId],
    digest: &Hash,
    certificate: &[u8],
) -> Result<CertificateInfo, CertificateError> {
    let validators = Validators::new(validators)?;
    let finalization = decode(&validators, certificate)?;
    if finalization.proposal.payload != digest_of(*digest) {
        return Err(CertificateError::OtherBlock {
            expected: *digest,
            got: hash_of(&finalization.proposal.payload),
        });
    }
    let scheme = validators.verifier(genesis);
    let mut rng = commonware_utils::sys_rng();
    match finalization.epoch() == Epoch::zero() && finalization.verify(&mut rng, &scheme, &Sequential) {
        true => Ok(info(&validators, &finalization)),
        false => Err(CertificateError::Signatures),
    }
}

fn decode(validators: &Validators, certificate: &[u8]) -> Result<Finalization, CertificateError> {
    let max = Finalization::max_encode_size(validators.count());
    if certificate.len() > max {
        return Err(CertificateError::TooLong {
            got: certificate.len(),
            max,
        });
    }
    let config = validators.verifier(&Hash::ZERO).certificate_codec_config();
    match Finalization::decode_cfg(Copying(certificate), &config) {
        Ok(finalization) if finalization.encode() == certificate => Ok(finalization),
        _ => Err(CertificateError::Malformed),
    }
}

fn info(validators: &Validators, finalization: &Finalization) -> CertificateInfo {
    let signers = finalization.certificate.signers.iter();
    CertificateInfo {
        view: finalization.view().get(),
        signers: signers
            .filter_map(|index| validators.set.get(usize::from(index)))
            .map(peer_of)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_protocol::Keypair;
    use commonware_consensus::{
        simplex::types::{Finalize, Proposal},
        types::{Round, View},
    };
    use commonware_utils::iter::NonEmpty;

    const GENESIS: Hash = Hash([9; 32]);

    fn keypairs(n: u8) -> Vec<Keypair> {
        (1..=n).map(|i| Keypair::from_seed(&[i; 32])).collect()
    }

    fn peers(keypairs: &[Keypair]) -> Vec<PeerId> {
        keypairs.iter().map(Keypair::peer).collect()
    }

    fn finalize(keypairs: &[Keypair], signers: usize, digest: Hash) -> Vec<u8> {
        let validators = Validators::new(&peers(keypairs)).expect("keys");
        let proposal = Proposal::new(
            Round::new(Epoch::zero(), View::new(12)),
            View::new(11),
            digest_of(digest),
        );
        let votes: Vec<_> = keypairs[..signers]
            .iter()
            .map(|keypair| validators.signer(&GENESIS, keypair).expect("a validator"))
            .map(|scheme| Finalize::sign(&scheme, proposal.clone()).expect("signs"))
            .collect();
        let scheme = validators.verifier(&GENESIS);
        let votes = NonEmpty::try_new(votes.iter()).expect("votes");
        let finalization = Finalization::from_finalizes(&scheme, votes, &Sequential).expect("a quorum");
        finalization.encode().to_vec()
    }

    #[test]
    fn a_real_certificate_names_view_and_signers() {
        let keypairs = keypairs(4);
        let certificate = finalize(&keypairs, 3, Hash([1; 32]));
        let info = verify_certificate(&GENESIS, &peers(&keypairs), &Hash([1; 32]), &certificate).expect("real");
        let mut signers = peers(&keypairs[..3]);
        signers.sort();
        assert_eq!(info, CertificateInfo { view: 12, signers });
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let keypairs = keypairs(4);
        let (validators, digest) = (peers(&keypairs), Hash([1; 32]));
        let real = finalize(&keypairs, 3, digest);
        for byte in 0..real.len() {
            for bit in 0..8 {
                let mut flipped = real.clone();
                flipped[byte] ^= 1 << bit;
                let result = verify_certificate(&GENESIS, &validators, &digest, &flipped);
                assert!(result.is_err(), "byte {byte}, bit {bit}");
            }
            assert!(verify_certificate(&GENESIS, &validators, &digest, &real[..byte]).is_err());
        }
        let longer = [&real[..], &[0]].concat();
        assert!(verify_certificate(&GENESIS, &validators, &digest, &longer).is_err());
    }

    #[test]
    fn another_run_set_or_block_is_refused() {
        let four = keypairs(4);
        let digest = Hash([1; 32]);
        let real = finalize(&four, 3, digest);
        assert_eq!(
            verify_certificate(&Hash::ZERO, &peers(&four), &digest, &real),
            Err(CertificateError::Signatures)
        );
        assert_eq!(
            verify_certificate(&GENESIS, &peers(&four), &Hash::ZERO, &real),
            Err(CertificateError::OtherBlock {
                expected: Hash::ZERO,
                got: digest
            })
        );
        assert!(verify_certificate(&GENESIS, &peers(&keypairs(5)), &digest, &real).is_err());
        assert!(verify_certificate(&GENESIS, &peers(&keypairs(3)), &digest, &real).is_err());
        assert_eq!(
            verify_certificate(&GENESIS, &[], &digest, &real),
            Err(CertificateError::Validators(ValidatorsError::Empty))
        );
    }
}
