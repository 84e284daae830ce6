//! Bytes to text: byte order marks, UTF-16, and what to say of what is no text.

use std::{borrow::Cow, str};

/// The mark in UTF-8.
pub(crate) const MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes that are looked at to tell what a file is.
const LOOK: usize = 4096;

/// How the bytes of a text are to be read, by their first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// With a mark of so many bytes.
    Utf8(usize),
    /// With a mark, least significant byte first.
    Utf16Le,
    /// With a mark, most significant byte first.
    Utf16Be,
}

impl Encoding {
    /// What the first bytes say; UTF-8 where they say nothing.
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0xFF, 0xFE, 0, 0, ..] => Self::Utf8(0), // UTF-32, which is not read
            [0xFF, 0xFE, ..] => Self::Utf16Le,
            [0xFE, 0xFF, ..] => Self::Utf16Be,
            _ if start.starts_with(MARK) => Self::Utf8(MARK.len()),
            _ => Self::Utf8(0),
        }
    }
}

/// The text of a whole file, and how many units of UTF-16 became U+FFFD; or what is to be said of it. Line ends stay
/// as they are.
pub(super) fn text(mut bytes: Vec<u8>) -> Result<(String, u64), String> {
    let unit: fn([u8; 2]) -> u16 = match Encoding::of(&bytes) {
        Encoding::Utf8(mark) => {
            if let Some(reason) = not_text(&bytes) {
                return Err(reason);
            }
            bytes.drain(..mark);
            return String::from_utf8(bytes)
                .map(|text| (text, 0))
                .map_err(|error| error.to_string());
        }
        Encoding::Utf16Le => u16::from_le_bytes,
        Encoding::Utf16Be => u16::from_be_bytes,
    };
    let (mut text, mut lone) = (String::with_capacity(bytes.len() / 2), 0);
    let (pairs, rest) = bytes[2..].as_chunks();
    for character in char::decode_utf16(pairs.iter().copied().map(unit)) {
        lone += u64::from(character.is_err());
        text.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    lone += rest.len() as u64;
    match text.find('\0') {
        Some(at) => Err(format!(
            "not text: it is marked as UTF-16 and has a NUL (character {at})"
        )),
        None => Ok((text, lone)),
    }
}

/// What Git keeps in place of a large file.
const GIT_LFS: &[u8] = b"version https://git-lfs.github.com/spec/";
/// What to say of that.
pub(crate) const GIT_LFS_REMEDY: &str = "a Git LFS pointer and not the file itself: get that with `git lfs pull`";

/// Whether a file is what Git keeps in place of a large one.
pub(crate) fn is_git_lfs(bytes: &[u8]) -> bool {
    bytes.starts_with(GIT_LFS)
}

/// What files begin with, what they are, and what to do.
const MAGIC: [(&[u8], &str); 16] = [
    (b"PAR1", "Parquet without `.parquet` in its name: rename it"),
    (b"ARROW1", "an Arrow file; Arrow is not read: save it as Parquet"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream or binary data; Arrow is not read: save it as Parquet",
    ),
    (
        b"\x1f\x8b",
        "gzip inside: name it `.gz`, or unpack it where it is packed twice",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "Zstandard inside: name it `.zst`, or unpack it where it is packed twice",
    ),
    (
        b"PK\x03\x04",
        "a ZIP archive or an office document: unpack it, or save it as text",
    ),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"BZh", "bzip2: unpack it with `bunzip2`"),
    (b"\xfd7zXZ", "XZ: unpack it with `unxz`"),
    (b"\x04\x22\x4d\x18", "LZ4: unpack it with `unlz4`"),
    (b"%PDF", "a PDF: save it as text, as with `pdftotext`"),
    (b"SQLite format 3", "an SQLite database: export its texts as JSON lines"),
    (b"Obj\x01", "an Avro file: save it as Parquet"),
    (b"ORC", "an ORC file: save it as Parquet"),
    (b"\x89HDF", "an HDF5 file: save its texts as Parquet"),
];

/// What is not read whatever it holds, by the end of its name, and what to do.
pub(super) fn unread_by_name(name: &str) -> Option<&'static str> {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    Some(match ending.as_deref()? {
        "arrow" | "feather" | "ipc" => "an Arrow file; Arrow is not read: save it as Parquet",
        "zip" | "7z" | "rar" | "tar" | "tgz" | "tbz2" | "txz" => "an archive: unpack it",
        "bz2" => "bzip2: unpack it with `bunzip2`",
        "xz" => "XZ: unpack it with `unxz`",
        "lz4" => "LZ4: unpack it with `unlz4`",
        "br" => "Brotli: unpack it with `brotli -d`",
        "lzma" => "LZMA: unpack it with `unlzma`",
        _ => return None,
    })
}

/// Why these bytes are no UTF-8 text, and what to do; nothing if they are.
pub(super) fn not_text(bytes: &[u8]) -> Option<String> {
    let nul = bytes.iter().position(|byte| *byte == 0);
    let bad = bad_utf8(&bytes[..nul.unwrap_or(bytes.len())]);
    let at = bad.or(nul)?;
    if let Some(what) = other_format(bytes) {
        return Some(what);
    }
    let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
    Some(match bad {
        None => format!("not UTF-8 text (byte {at}, line {line}, is NUL)"),
        Some(_) => format!("not UTF-8 text (byte {at}, line {line}){}", remedy(bytes)),
    })
}

/// The first byte that is not UTF-8.
pub(super) fn bad_utf8(bytes: &[u8]) -> Option<usize> {
    str::from_utf8(bytes).err().map(|error| error.valid_up_to())
}

/// What bytes are that are no UTF-8, by what they begin with, and what to do.
pub(super) fn other_format(bytes: &[u8]) -> Option<String> {
    if bytes.starts_with(b"\xff\xfe\0\0") || bytes.starts_with(b"\0\0\xfe\xff") {
        let order = if bytes[0] == 0 { "be" } else { "le" };
        return Some(format!(
            "UTF-32, which is not read: convert it with `iconv -f utf-32{order} -t utf-8`"
        ));
    }
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some((*what).to_string());
    }
    let order = unmarked_utf16(bytes)?;
    Some(format!(
        "UTF-16 without a byte order mark: convert it with `iconv -f utf-16{order} -t utf-8`"
    ))
}

/// What to do with bytes that are no UTF-8, if they are likely text of one byte a character.
pub(super) fn remedy(bytes: &[u8]) -> &'static str {
    match is_plain(bytes) {
        true => "; if it is Latin-1, convert it with `iconv -f latin1 -t utf-8`",
        false => "",
    }
}

/// Whether bytes that are no UTF-8 are likely text of one byte a character.
fn is_plain(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(LOOK)];
    !bytes.contains(&0) && start.iter().all(|byte| *byte >= b' ' || byte.is_ascii_whitespace())
}

/// Every second byte of such a text is NUL where it is in Latin letters.
fn unmarked_utf16(bytes: &[u8]) -> Option<&'static str> {
    let (pairs, _) = bytes[..bytes.len().min(LOOK)].as_chunks::<2>();
    let of = |fits: fn(&&[u8; 2]) -> bool| pairs.iter().filter(fits).count() * 10 >= pairs.len() * 7;
    let plain = |byte: u8| byte >= b' ' || byte.is_ascii_whitespace();
    match pairs.len() >= 4 && pairs.iter().all(|pair| pair[0] != 0 || pair[1] != 0) {
        true if of(|pair| pair[1] == 0) && pairs.iter().all(|pair| pair[1] != 0 || plain(pair[0])) => Some("le"),
        true if of(|pair| pair[0] == 0) && pairs.iter().all(|pair| pair[0] != 0 || plain(pair[1])) => Some("be"),
        _ => None,
    }
}

/// A name of the file system as text: what is no UTF-8, and what moves a cursor, as an escape.
pub(super) fn name(bytes: &[u8]) -> Cow<'_, str> {
    let clean = str::from_utf8(bytes)
        .ok()
        .filter(|name| !name.contains(char::is_control));
    if let Some(name) = clean {
        return Cow::Borrowed(name);
    }
    let mut name = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character.is_control() {
                true => name.extend(character.escape_default()),
                false => name.push(character),
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|byte| name.push_str(&format!("\\x{byte:02x}")));
    }
    Cow::Owned(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(bytes).collect()
    }

    #[test]
    fn texts_of_every_encoding() {
        let read = |bytes: &[u8]| text(bytes.to_vec());
        let plain = |text: &str| Ok((text.to_string(), 0));
        assert_eq!(read(b""), plain(""));
        assert_eq!(
            read("ä\r\nb\rc\x0c\u{feff}".as_bytes()),
            plain("ä\r\nb\rc\x0c\u{feff}"),
            "kept as it is"
        );
        assert_eq!(read("\u{feff}ä".as_bytes()), plain("ä"));
        assert_eq!(read(&utf16("ä環😀\r\n", u16::to_le_bytes)), plain("ä環😀\r\n"));
        assert_eq!(read(&utf16("ä環😀", u16::to_be_bytes)), plain("ä環😀"));
        assert_eq!(
            read(b"\xff\xfeA\0\x00\xd8B\0x"),
            Ok(("A\u{fffd}B".into(), 2)),
            "half a pair, and half a unit"
        );
    }

    #[test]
    fn what_is_no_text_is_named() {
        let unmarked = |bytes: fn(u16) -> [u8; 2]| "plain text".encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        for (bytes, expected) in [
            (
                b"one\ncaf\xe9 au lait\n".to_vec(),
                "not UTF-8 text (byte 7, line 2); if it is Latin-1, convert it with `iconv -f latin1 -t utf-8`",
            ),
            (b"ab\0c".to_vec(), "not UTF-8 text (byte 2, line 1, is NUL)"),
            (b"\x01\x02\xff".to_vec(), "not UTF-8 text (byte 2, line 1)"),
            (
                unmarked(u16::to_le_bytes),
                "UTF-16 without a byte order mark: convert it with `iconv -f utf-16le -t utf-8`",
            ),
            (
                unmarked(u16::to_be_bytes),
                "UTF-16 without a byte order mark: convert it with `iconv -f utf-16be -t utf-8`",
            ),
            (
                b"\xff\xfe\0\0a\0\0\0".to_vec(),
                "UTF-32, which is not read: convert it with `iconv -f utf-32le -t utf-8`",
            ),
            (
                b"\0\0\xfe\xff\0\0\0a".to_vec(),
                "UTF-32, which is not read: convert it with `iconv -f utf-32be -t utf-8`",
            ),
            (
                b"\x1f\x8b\x08\0".to_vec(),
                "gzip inside: name it `.gz`, or unpack it where it is packed twice",
            ),
            (
                b"PAR1\x15\0".to_vec(),
                "Parquet without `.parquet` in its name: rename it",
            ),
            (
                b"ARROW1\0\0".to_vec(),
                "an Arrow file; Arrow is not read: save it as Parquet",
            ),
            (
                b"PK\x03\x04\0".to_vec(),
                "a ZIP archive or an office document: unpack it, or save it as text",
            ),
        ] {
            assert_eq!(text(bytes).unwrap_err(), expected);
        }
        assert_eq!(not_text(b"ORC is a word, and this is text"), None);
        assert!(
            text(b"\xff\xfea\0\0\0".to_vec())
                .unwrap_err()
                .contains("marked as UTF-16 and has a NUL")
        );
        assert!(unread_by_name("data-00000.arrow").is_some() && unread_by_name("arrow.txt").is_none());
    }

    #[test]
    fn names_that_are_no_text_stay_apart() {
        assert_eq!(name("größe.txt".as_bytes()), "größe.txt");
        assert_eq!(name(b"a\xff"), "a\\xff");
        assert_eq!(name(b"a\xfe"), "a\\xfe");
        assert_eq!(name(b"a\x1b[2J\n"), "a\\u{1b}[2J\\n");
    }
}
