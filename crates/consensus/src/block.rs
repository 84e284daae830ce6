//! A ledger block as the engine wants it: our canonical bytes behind a length, digest = header hash.

use crate::keys::digest_of;
use atoll_protocol::{Block as LedgerBlock, limits::BLOCK_BYTES_MAX};
use bytes::{BufMut, Bytes};
use commonware_codec::{Buf, EncodeSize, Error, RangeCfg, Read, Write};
use commonware_consensus::{BoundedBlock, Heightable, types::Height};
use commonware_cryptography::{Digested, Digestible, blake3::Digest};
use std::sync::Arc;

/// Bytes of the widest length prefix (a 32-bit varint).
const LENGTH_BYTES_MAX: usize = 5;

/// A block and its encoding. Cloning copies neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    inner: Arc<LedgerBlock>,
    bytes: Bytes,
    digest: Digest,
}

impl Block {
    pub(crate) fn new(block: LedgerBlock) -> Self {
        let bytes = Bytes::from(atoll_protocol::encode(&block));
        Self::assemble(block, bytes)
    }

    fn assemble(block: LedgerBlock, bytes: Bytes) -> Self {
        let digest = digest_of(block.digest());
        Self {
            inner: Arc::new(block),
            bytes,
            digest,
        }
    }

    /// Reads a block that somebody sent. The digest covers the header alone, so transactions that
    /// the header does not name are refused here: one digest is then one block, everywhere.
    fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        let block = LedgerBlock::from_bytes(&bytes).map_err(|_| Error::Invalid("block", "malformed"))?;
        if LedgerBlock::transactions_root(&block.transactions) != block.header.transactions {
            return Err(Error::Invalid("block", "the header names other transactions"));
        }
        if atoll_protocol::encode(&block) != bytes {
            return Err(Error::Invalid("block", "not the canonical encoding"));
        }
        Ok(Self::assemble(block, bytes))
    }

    pub(crate) fn ledger(&self) -> &LedgerBlock {
        &self.inner
    }

    /// With the digest that is known already.
    pub(crate) fn digested(self) -> Digested<Self> {
        let digest = self.digest;
        Digested::precomputed(self, digest)
    }
}

impl Write for Block {
    fn write(&self, buf: &mut impl BufMut) {
        self.bytes.write(buf);
    }
}

impl EncodeSize for Block {
    fn encode_size(&self) -> usize {
        self.bytes.encode_size()
    }
}

impl Read for Block {
    type Cfg = ();

    fn read_cfg(buf: &mut impl Buf, _: &()) -> Result<Self, Error> {
        Self::from_bytes(Bytes::read_cfg(buf, &RangeCfg::new(0..=BLOCK_BYTES_MAX))?)
    }
}

impl Digestible for Block {
    type Digest = Digest;

    fn digest(&self) -> Digest {
        self.digest
    }
}

impl Heightable for Block {
    fn height(&self) -> Height {
        Height::new(self.inner.header.height.0)
    }
}

impl commonware_consensus::Block for Block {
    fn parent(&self) -> Digest {
        digest_of(self.inner.header.parent)
    }
}

impl BoundedBlock for Block {
    fn max_encode_size(_: &()) -> usize {
        LENGTH_BYTES_MAX + BLOCK_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_protocol::{
        Action, Domain, Hash, Header, Height, Keypair, Millis, Transaction, encode, transaction::SignedTransaction,
    };
    use commonware_codec::{Decode, DecodeExt, Encode};
    use proptest::prelude::*;

    fn transaction(sequence: u32) -> SignedTransaction {
        let body = Transaction {
            genesis: Hash::ZERO,
            action: Action::Join { sequence },
        };
        Keypair::from_seed(&[1; 32]).sign(Domain::Transaction, body)
    }

    fn block(transactions: Vec<SignedTransaction>) -> LedgerBlock {
        LedgerBlock {
            header: Header {
                parent: Hash::ZERO,
                height: Height(1),
                time: Millis(1),
                transactions: LedgerBlock::transactions_root(&transactions),
                state: Hash::ZERO,
                validators: Hash::ZERO,
            },
            transactions,
        }
    }

    #[test]
    fn reads_back_what_it_wrote() {
        for n in [0, 1, 5] {
            let ours = block((0..n).map(transaction).collect());
            let wrapped = Block::new(ours.clone());
            let read = Block::decode(wrapped.encode()).expect("own bytes");
            assert_eq!(read, wrapped);
            assert_eq!(read.digest().0, ours.digest().0);
            assert!(wrapped.encode_size() <= Block::max_encode_size(&()));
        }
    }

    #[test]
    fn one_digest_is_one_block() {
        let mut swapped = block(vec![transaction(1)]);
        swapped.transactions = vec![transaction(2)];
        let bytes = Bytes::from(encode(&swapped)).encode();
        assert!(matches!(Block::decode(bytes), Err(Error::Invalid("block", _))));
    }

    #[test]
    fn more_than_a_block_may_have_is_refused_before_it_is_read() {
        let bytes = Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]).encode();
        assert!(matches!(Block::decode_cfg(bytes, &()), Err(Error::InvalidLength(_))));
    }

    proptest! {
        #[test]
        fn bytes_from_strangers_never_panic(bytes: Vec<u8>, flip in 0usize..400, cut in 0usize..400) {
            let _ = Block::decode(bytes.clone());
            let _ = Block::from_bytes(bytes.into());
            let mut real = Block::new(block(vec![transaction(1)])).encode().to_vec();
            let flip = flip % real.len();
            real[flip] ^= 1;
            prop_assert_ne!(Block::decode(real.clone()).map(|b| b.encode().to_vec()).unwrap_or_default(), {
                let mut original = real.clone();
                original[flip] ^= 1;
                original
            });
            real.truncate(cut % real.len());
            prop_assert!(Block::decode(real.clone()).is_err());
        }
    }
}
