//! Single bits, the lowest of each byte first; and Rice codes of small gaps.
//!
//! A gap g with parameter b is ⌊g / 2^b⌋ ones, a zero, and the b low bits of g.

/// Writes bits; the last byte is padded with zeros.
pub(super) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    pending: u64,
    /// Bits in `pending`, fewer than 8 between calls.
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            pending: 0,
            count: 0,
        }
    }

    /// Appends the `count` low bits of `bits`; at most 32, and no others may be set.
    pub(super) fn push(&mut self, bits: u32, count: u32) {
        self.pending |= u64::from(bits) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    pub(super) fn push_rice(&mut self, gap: u32, b: u32) {
        let mut ones = gap >> b;
        while ones >= 32 {
            self.push(u32::MAX, 32);
            ones -= 32;
        }
        self.push((1 << ones) - 1, ones + 1);
        self.push(gap & ((1 << b) - 1), b);
    }

    pub(super) fn finish(self) {
        if self.count > 0 {
            self.out.push(self.pending as u8);
        }
    }
}

/// Reads bits. Past the end it reads zeros; [`BitReader::finish`] tells.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Bits read.
    at: usize,
}

/// Bits that [`BitReader::peek`] always gives.
const PEEK: u32 = 57;

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn peek(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = match rest.first_chunk() {
            Some(eight) => *eight,
            None => {
                let mut eight = [0; 8];
                eight[..rest.len()].copy_from_slice(rest);
                eight
            }
        };
        u64::from_le_bytes(word) >> (self.at % 8)
    }

    /// A gap, or nothing where it is more than `max`. `b` is at most 12.
    pub(super) fn rice(&mut self, b: u32, max: usize) -> Option<usize> {
        let mut quotient = 0;
        let mut word = self.peek();
        loop {
            let ones = word.trailing_ones().min(PEEK);
            quotient += ones as usize;
            self.at += ones as usize;
            if ones < PEEK {
                break;
            }
            if quotient > max {
                return None;
            }
            word = self.peek();
        }
        self.at += 1;
        let low = self.peek() & ((1 << b) - 1);
        self.at += b as usize;
        let gap = quotient << b | low as usize;
        (gap <= max).then_some(gap)
    }

    /// How many bytes were read, and whether the rest of the last one is zero; nothing where there were
    /// not so many.
    pub(super) fn finish(self) -> Option<(usize, bool)> {
        let taken = self.at.div_ceil(8);
        let last = self.bytes.get(..taken)?.last();
        let padding_is_zero = match (last, self.at % 8) {
            (Some(last), used @ 1..) => last >> used == 0,
            _ => true,
        };
        Some((taken, padding_is_zero))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_come_back() {
        for b in 0..=12 {
            let gaps: Vec<u32> = vec![0, 1, 2, 31, 32, 33, 63, 64, 65, 4095, 7, 0, 4094];
            let mut bytes = Vec::new();
            let mut writer = BitWriter::new(&mut bytes);
            gaps.iter().for_each(|gap| writer.push_rice(*gap, b));
            writer.finish();
            let mut reader = BitReader::new(&bytes);
            for gap in &gaps {
                assert_eq!(reader.rice(b, 4095), Some(*gap as usize), "b = {b}");
            }
            assert_eq!(reader.finish(), Some((bytes.len(), true)));
        }
    }

    #[test]
    fn bits_that_end_early_or_run_on_are_seen() {
        let mut reader = BitReader::new(&[0xff]);
        assert_eq!(reader.rice(0, 4095), Some(8));
        assert_eq!(reader.finish(), None);
        assert_eq!(BitReader::new(&[0xff; 600]).rice(0, 4095), None);
        let mut reader = BitReader::new(&[0b1000_0000]);
        assert_eq!(reader.rice(2, 4095), Some(0));
        assert_eq!(reader.finish(), Some((1, false)));
    }
}
