//! The bytes of one file as a stream: counted and hashed as they lie on the disk, unpacked, and bounded.

use super::ingest::{Ingest, Progress};
use atoll_protocol::Hash;
use flate2::bufread::GzDecoder;
use std::{
    cell::RefCell,
    fmt,
    io::{self, BufRead, BufReader, Read},
    ops::ControlFlow,
    rc::Rc,
};

/// Bytes that are read at once.
pub(super) const BUFFER: usize = 64 << 10;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// It is not.
    None,
    /// gzip, of any number of members.
    Gzip,
    /// Zstandard, of any number of frames.
    Zstd,
}

impl Packing {
    /// By the end of a name, which is given back without it.
    pub(super) fn of(name: &str) -> (Self, &str) {
        let ending = |ending: &str| {
            let at = name.len().checked_sub(ending.len())?;
            let (rest, end) = (name.get(..at)?, name.get(at..)?);
            end.eq_ignore_ascii_case(ending).then_some(rest)
        };
        match (ending(".gz"), ending(".zst").or_else(|| ending(".zstd"))) {
            (Some(rest), _) => (Self::Gzip, rest),
            (_, Some(rest)) => (Self::Zstd, rest),
            _ => (Self::None, name),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "Zstandard",
        }
    }
}

/// Why a stream ends before its end; it travels inside of an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halt {
    /// More bytes on the disk than are taken.
    TooManyBytes,
    /// More bytes unpacked than are taken.
    TooMuchText,
    /// The caller wants no more.
    Stopped,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Halt {}

impl Halt {
    /// The one in `error`.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// What was read of all files together.
pub(super) struct Meter<'a> {
    pub(super) options: &'a Ingest<'a>,
    pub(super) progress: Progress,
    /// Bytes of text, packed or not, so far.
    pub(super) unpacked: u64,
    told: u64,
}

/// Bytes between two words to the caller: some milliseconds' worth.
const TELL_EVERY: u64 = 1 << 20;

impl<'a> Meter<'a> {
    pub(super) fn new(options: &'a Ingest<'a>) -> Self {
        Self {
            options,
            progress: Progress::default(),
            unpacked: 0,
            told: 0,
        }
    }

    /// Counts bytes from the disk.
    pub(super) fn read(&mut self, bytes: u64) -> io::Result<()> {
        self.progress.bytes += bytes;
        if self.progress.bytes > self.options.bytes_max {
            return Err(io::Error::other(Halt::TooManyBytes));
        }
        self.told += bytes;
        self.tell_sometimes()
    }

    /// Counts bytes of text.
    pub(super) fn unpack(&mut self, bytes: u64) -> io::Result<()> {
        self.unpacked = self.unpacked.saturating_add(bytes);
        if self.unpacked > self.options.text_bytes_max {
            return Err(io::Error::other(Halt::TooMuchText));
        }
        self.told += bytes;
        self.tell_sometimes()
    }

    fn tell_sometimes(&mut self) -> io::Result<()> {
        match self.told < TELL_EVERY {
            true => Ok(()),
            false => self.tell(),
        }
    }

    /// Tells the caller how far it is, who may want no more.
    pub(super) fn tell(&mut self) -> io::Result<()> {
        self.told = 0;
        match (self.options.progress)(&self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(io::Error::other(Halt::Stopped)),
        }
    }
}

/// Counts and hashes what comes from the disk.
pub(super) struct Raw<'m, 'a, R> {
    inner: R,
    meter: Rc<RefCell<&'m mut Meter<'a>>>,
    seen: Rc<RefCell<(u64, blake3::Hasher)>>,
}

impl<R: Read> Read for Raw<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let mut seen = self.seen.borrow_mut();
        seen.0 += count as u64;
        seen.1.update(&buffer[..count]);
        self.meter.borrow_mut().read(count as u64)?;
        Ok(count)
    }
}

/// Counts what comes out of it.
struct Unpacked<'m, 'a, R> {
    inner: R,
    meter: Rc<RefCell<&'m mut Meter<'a>>>,
}

impl<R: Read> Read for Unpacked<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(BUFFER); // little is unpacked beyond the bound
        let buffer = &mut buffer[..most];
        let count = self.inner.read(buffer)?;
        self.meter.borrow_mut().unpack(count as u64)?;
        Ok(count)
    }
}

/// The members of a gzip file, one after the other. Zeros behind the last are no fault: tapes and some archivers fill
/// up with them.
struct Members<R> {
    /// None behind the last.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    fn new(inner: R) -> Self {
        Self {
            member: Some(GzDecoder::new(inner)),
        }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(ended) = self.member.take() else { break };
            let mut inner = ended.into_inner();
            if skip_zeros(&mut inner)? {
                self.member = Some(GzDecoder::new(inner));
            }
        }
        Ok(0)
    }
}

/// Whether anything is left behind the zeros.
fn skip_zeros(inner: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = inner.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let all = zeros == bytes.len();
        inner.consume(zeros);
        if !all {
            return Ok(true);
        }
    }
}

/// One file as a stream of text, and what was counted below it.
pub(super) struct Stream<'m> {
    pub(super) text: BufReader<Box<dyn Read + 'm>>,
    seen: Rc<RefCell<(u64, blake3::Hasher)>>,
}

impl<'m> Stream<'m> {
    pub(super) fn new<'a: 'm>(file: impl Read + 'm, packing: Packing, meter: &'m mut Meter<'a>) -> io::Result<Self> {
        let (meter, seen) = (
            Rc::new(RefCell::new(meter)),
            Rc::<RefCell<(u64, blake3::Hasher)>>::default(),
        );
        let raw = Raw {
            inner: file,
            meter: meter.clone(),
            seen: seen.clone(),
        };
        let inner: Box<dyn Read + 'm> = match packing {
            Packing::None => Box::new(raw),
            Packing::Gzip => Box::new(Members::new(BufReader::with_capacity(BUFFER, raw))),
            Packing::Zstd => Box::new(zstd::Decoder::new(raw)?),
        };
        let text: Box<dyn Read + 'm> = Box::new(Unpacked { inner, meter });
        Ok(Self {
            text: BufReader::with_capacity(BUFFER, text),
            seen,
        })
    }

    /// Bytes on the disk and their hash; reads what is left of them.
    pub(super) fn end(mut self) -> io::Result<(u64, Hash)> {
        io::copy(&mut self.text, &mut io::sink())?;
        let seen = self.seen.borrow();
        Ok((seen.0, Hash(*seen.1.finalize().as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_by_name() {
        for (name, expected) in [
            ("a.jsonl.gz", (Packing::Gzip, "a.jsonl")),
            ("A.TXT.GZ", (Packing::Gzip, "A.TXT")),
            ("a.zst", (Packing::Zstd, "a")),
            ("a.jsonl.zstd", (Packing::Zstd, "a.jsonl")),
            ("a.gzip.txt", (Packing::None, "a.gzip.txt")),
            ("gz", (Packing::None, "gz")),
            ("é.gz", (Packing::Gzip, "é")),
        ] {
            assert_eq!(Packing::of(name), expected, "{name}");
        }
    }
}
