//! Files to documents: each format, what people's files look like, and what is said of what is not read.

use atoll_learner::data::{Corpus, Ingest, IngestError, Part, Skipped, ingest};
use flate2::write::GzEncoder;
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use std::{
    cell::Cell,
    fs,
    fs::File,
    io::Write as _,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder that is gone when the test ends, and how to write into it.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn read(&self) -> Result<Corpus, IngestError> {
        ingest(self.0.path())
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Default::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A Parquet file of one column of byte arrays, its schema, definition and repetition levels as given.
fn write_column(path: &Path, schema: &str, values: &[&[u8]], defined: &[i16], repeated: &[i16], packed: Compression) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(packed).build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let values: Vec<ByteArray> = values.iter().map(|value| ByteArray::from(value.to_vec())).collect();
    let mut column = group.next_column().unwrap().unwrap();
    let levels = |levels: &'_ [i16]| (!levels.is_empty()).then(|| levels.to_vec());
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, levels(defined).as_deref(), levels(repeated).as_deref())
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

fn said(entries: &[Skipped]) -> Vec<String> {
    entries.iter().map(ToString::to_string).collect()
}

fn of(corpus: &Corpus) -> Vec<&str> {
    corpus.documents.iter().map(|document| document.text.as_str()).collect()
}

/// A Parquet file of an id and an optional text per row.
fn write_parquet(path: &Path, schema: &str, texts: &[Option<&str>], compression: Compression) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let ids: Vec<i64> = (0..texts.len() as i64).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
    column.close().unwrap();
    let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
    let values: Vec<ByteArray> = texts.iter().flatten().map(|text| ByteArray::from(*text)).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column
        .typed::<ByteArrayType>()
        .write_batch(&values, Some(&levels), None)
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

const SCHEMA: &str = "message schema { REQUIRED INT64 id; OPTIONAL BINARY text (UTF8); }";

#[test]
fn a_text_file_is_one_document() {
    let dir = Dir::new();
    let path = dir.write("a.txt", "Zwei Zeilen,\r\nein Atoll: 環礁");
    let corpus = ingest(&path).unwrap();
    assert_eq!(
        of(&corpus),
        ["Zwei Zeilen,\r\nein Atoll: 環礁"],
        "line ends stay as they are"
    );
    assert_eq!(
        (corpus.sources[0].path.as_str(), corpus.sources[0].bytes),
        ("a.txt", 31)
    );
    assert_eq!(corpus.text_bytes(), 31);
    assert_eq!((corpus.skipped, corpus.changed), (vec![], vec![]));
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths_and_the_rest_is_named() {
    let dir = Dir::new();
    dir.write("b.txt", b"second");
    dir.write("a/z.md", b"first");
    dir.write(
        "c.jsonl",
        b"{\"text\": \"third\"}\n\n{\"id\": 7, \"text\": \"fourth\"}\n",
    );
    dir.write("picture.png", b"\x89PNG\x00");
    dir.write("latin1.txt", b"caf\xe9");
    dir.write(".hidden", b"no");
    dir.write(".git/HEAD", b"no");
    dir.write("empty.txt", b"");
    dir.write("blank.md", b" \r\n\t\n");
    dir.write("books.zip", b"PK\x03\x04");
    dir.write("data-00000-of-00001.arrow", b"ARROW1\0\0");
    dir.write("dataset_info.json", b"{\"features\": {}}");
    dir.write("twice/b.txt", b"second");
    let corpus = dir.read().unwrap();
    let named = corpus.documents.iter();
    let found: Vec<_> = named
        .map(|d| (corpus.sources[d.source].path.as_str(), d.text.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("a/z.md", "first"),
            ("b.txt", "second"),
            ("c.jsonl", "third"),
            ("c.jsonl", "fourth")
        ]
    );
    assert_eq!(
        said(&corpus.skipped),
        [
            "blank.md: it is empty or all blanks",
            "books.zip: an archive: unpack it",
            "data-00000-of-00001.arrow: an Arrow file; Arrow is not read: save it as Parquet",
            "dataset_info.json: it describes Arrow files, which are not read",
            "empty.txt: it is empty or all blanks",
            "latin1.txt: not UTF-8 text (byte 3, line 1); if it is Latin-1, convert it with `iconv -f latin1 -t utf-8`",
            "picture.png: not UTF-8 text (byte 0, line 1)",
            "twice/b.txt: a copy of b.txt",
            "2 hidden files and folders: names that begin with a dot are not read",
        ]
    );
}

#[test]
fn a_run_is_not_founded_on_what_describes_data_that_is_not_read() {
    let dir = Dir::new();
    dir.write("train/data-00000.arrow", b"ARROW1\0\0");
    dir.write("train/state.json", format!("{{\"x\": \"{}\"}}", "words ".repeat(5000)));
    dir.write("dataset_dict.json", b"{\"splits\": [\"train\"]}");
    let error = dir.read().unwrap_err().to_string();
    assert!(
        error.contains("holds no text; left out: dataset_dict.json: it describes Arrow files"),
        "{error}"
    );
    assert!(
        error.contains("train/data-00000.arrow: an Arrow file; Arrow is not read: save it as Parquet"),
        "{error}"
    );
}

#[test]
fn packed_files_are_read_whole_and_named_where_they_cannot_be() {
    let dir = Dir::new();
    let lines = b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    for (name, bytes, expected) in [
        ("a.txt.gz", gz(b"a text"), vec!["a text"]),
        ("a.gz", [gz(b"two "), gz(b"members")].concat(), vec!["two members"]),
        (
            "padded.gz",
            [gz(b"from "), vec![0; 3], gz(b"a tape"), vec![0; 70_000]].concat(),
            vec!["from a tape"],
        ),
        ("a.jsonl.gz", gz(lines), vec!["one", "two"]),
        (
            "a.ndjson.zst",
            [zst(&lines[..20]), zst(&lines[20..])].concat(),
            vec!["one", "two"],
        ),
        ("a.json.zstd", zst(b"[{\"text\": \"one\"}]"), vec!["one"]),
        ("a.txt.zst", zst(b"\xff\xfea\0b\0"), vec!["ab"]),
    ] {
        let path = dir.write(name, &bytes);
        let corpus = ingest(&path).unwrap();
        assert_eq!(of(&corpus), expected, "{name}");
        assert_eq!(
            corpus.sources[0].bytes,
            bytes.len() as u64,
            "the size of the file, not of the text"
        );
        assert_eq!(corpus.sources[0].hash, atoll_protocol::Hash::of_blob(&bytes), "{name}");
    }
    let cut = gz(&b"some text ".repeat(50_000));
    for (name, bytes, part) in [
        ("cut.txt.gz", &cut[..cut.len() / 2], "damaged or cut short as gzip"),
        ("cut.jsonl.zst", &zst(lines)[..20], "damaged or cut short as Zstandard"),
        ("no.txt.gz", b"no gzip at all", "damaged or cut short as gzip"),
        (
            "more.txt.gz",
            &[&gz(b"text")[..], b"and more"].concat(),
            "damaged or cut short as gzip",
        ),
        ("twice.txt.gz", &gz(&gz(b"text")), "packed twice"),
        (
            "pointer.jsonl.gz",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "`git lfs pull`",
        ),
        ("table.parquet.gz", &gz(b"PAR1"), "Parquet inside of gzip"),
        ("files.tar.gz", &gz(b"x"), "an archive: unpack it"),
        (
            "picture.gz",
            &gz(b"\x89PNG\0"),
            "not UTF-8 text (byte 0, line 1), inside of gzip",
        ),
    ] {
        let error = ingest(&dir.write(name, bytes)).expect_err(name).to_string();
        assert!(error.contains(part) && error.contains(name), "{name}: {error}");
    }
    let folder = dir.read().unwrap_err().to_string();
    assert!(
        folder.contains("cut.jsonl.zst: it is damaged"),
        "a broken file of a folder is no secret: {folder}"
    );
    let skipping = Ingest {
        skip_broken: true,
        ..Ingest::default()
    };
    let corpus = skipping.read(dir.0.path()).unwrap();
    let broken = corpus
        .skipped
        .iter()
        .filter(|skipped| skipped.reason.contains("damaged"));
    assert_eq!(broken.count(), 4);
}

#[test]
fn a_packed_file_cannot_fill_the_memory() {
    let dir = Dir::new();
    let bomb = gz(&vec![b'a'; 8 << 20]);
    let lines = zst(&b"{\"text\": \"word word word\"}\n".repeat(200_000));
    for (name, bytes) in [("bomb.txt.gz", bomb), ("bomb.jsonl.zst", lines)] {
        assert!(bytes.len() < 100_000, "{name}");
        let bounded = Ingest {
            text_bytes_max: 1 << 20,
            ..Ingest::default()
        };
        let error = bounded.read(&dir.write(name, bytes)).unwrap_err();
        assert!(
            matches!(error, IngestError::TooLarge { got, unit: "bytes of text", .. } if got <= (1 << 20) + (64 << 10)),
            "{name}: {error}"
        );
    }
    let path = dir.path("bomb.parquet");
    let text = vec![b'a'; 100_000];
    let column = "message m { REQUIRED BINARY text (UTF8); }";
    write_column(&path, column, &[&text[..]; 100], &[], &[], Compression::SNAPPY);
    assert!(
        fs::metadata(&path).unwrap().len() < 200_000,
        "each row is an index into a dictionary"
    );
    let bounded = Ingest {
        text_bytes_max: 1 << 20,
        ..Ingest::default()
    };
    assert!(matches!(
        bounded.read(&path),
        Err(IngestError::TooLarge { got: 1_100_000, .. })
    ));
    let few = Ingest {
        bytes_max: 100,
        ..Ingest::default()
    };
    let error = few.read(&dir.write("a.txt", vec![b'a'; 200_000])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("at most 100 are taken: train on a part of it"),
        "{error}"
    );
}

#[test]
fn json_as_people_write_it() {
    let dir = Dir::new();
    let utf16: Vec<u8> = "\u{feff}{\"text\": \"ä\"}\r\n{\"text\": \"b\"}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (name, bytes, expected) in [
        (
            "mark.jsonl",
            "\u{feff}{\"text\":\"a\"}\n\u{feff}{\"text\":\"b\"}".as_bytes(),
            vec!["a", "b"],
        ),
        (
            "crlf.jsonl",
            b"{\"text\":\"a\\r\\nb\"}\r\n\r\n{\"text\":\"c\"}\r\n",
            vec!["a\r\nb", "c"],
        ),
        ("utf16.jsonl", &utf16, vec!["ä", "b"]),
        (
            "nan.jsonl",
            b"{\"text\":\"a\",\"score\":NaN,\"low\":-Infinity}",
            vec!["a"],
        ),
        ("lines.json", b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n", vec!["a", "b"]),
        (
            "array.json",
            b" [{\"text\":\"a\"},\n {\"text\":\"b\", \"x\": 1}]\n",
            vec!["a", "b"],
        ),
        (
            "other.json",
            b"{\n  \"name\": \"x\"\n}\n",
            vec!["{\n  \"name\": \"x\"\n}\n"],
        ),
        ("numbers.json", b"[1, 2, 3]", vec!["[1, 2, 3]"]),
        ("parts.jsonl", b"{\"text\":[\"a\",\"b\"]}", vec!["a", "b"]),
    ] {
        let corpus = ingest(&dir.write(name, bytes)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(of(&corpus), expected, "{name}");
        assert_eq!(said(&corpus.skipped), [""; 0], "{name}");
    }
}

#[test]
fn rows_without_text_are_left_out_and_counted() {
    let dir = Dir::new();
    let path = dir.write(
        "a.jsonl",
        "{\"text\":null}\n{\"text\":\"x\"}\n{\"text\":\"\"}\n{\"text\":\" \\n\"}\n{\"id\":1,\"txt\":\"y\"}\n{\"text\":\"x\"}\n{\"text\":\"bad \\ud83d char\"}\n{\"text\":\"0\",\"text\":\"1\"}\n",
    );
    let corpus = ingest(&path).unwrap();
    assert_eq!(of(&corpus), ["x", "bad \u{fffd} char", "1"]);
    assert_eq!(
        said(&corpus.skipped),
        [
            "a.jsonl, line 5: without `text`; of the first its fields are id, txt",
            "a.jsonl, 3 lines from line 1: without text: null, empty or blanks",
            "a.jsonl, line 6: copies of texts that were read before: each is taken once",
        ]
    );
    assert_eq!(
        said(&corpus.changed),
        [
            "a.jsonl, line 7: what is half a character in UTF-16 became U+FFFD",
            "a.jsonl, line 8: `text` stands there more than once; the last is taken",
        ]
    );
    let all = Ingest {
        keep_copies: true,
        ..Ingest::default()
    };
    assert_eq!(of(&all.read(&path).unwrap()), ["x", "x", "bad \u{fffd} char", "1"]);
}

#[test]
fn another_field() {
    let dir = Dir::new();
    let path = dir.write("a.jsonl", "{\"content\":\"a\",\"meta\":{\"raw\":\"b\"}}\n");
    for (field, expected) in [("content", "a"), ("meta.raw", "b")] {
        let with = Ingest {
            field,
            ..Ingest::default()
        };
        assert_eq!(of(&with.read(&path).unwrap()), [expected]);
    }
    assert_eq!(
        ingest(&path).unwrap_err().to_string().rsplit('/').next().unwrap(),
        "a.jsonl, line 1: missing field `text`; its fields are content, meta: name the one that holds the text with --field"
    );
}

#[test]
fn parquet_of_any_compression_is_read() {
    let dir = Dir::new();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::ZSTD(Default::default()),
    ] {
        let path = dir.path("data.parquet");
        write_parquet(
            &path,
            SCHEMA,
            &[Some("one"), None, Some("zwei ö"), Some("one")],
            compression,
        );
        let corpus = ingest(&path).unwrap();
        assert_eq!(of(&corpus), ["one", "zwei ö"], "{compression}");
        assert_eq!(
            said(&corpus.skipped),
            [
                "data.parquet, row 1: without text: null, empty or blanks",
                "data.parquet, row 3: copies of texts that were read before: each is taken once"
            ]
        );
    }
}

#[test]
fn columns_of_every_kind_of_text() {
    let dir = Dir::new();
    let path = dir.path("x.parquet");
    let plain = Compression::UNCOMPRESSED;
    write_column(
        &path,
        "message m { REQUIRED BINARY text; }",
        &[b"as bytes", "ö".as_bytes()],
        &[],
        &[],
        plain,
    );
    assert_eq!(of(&ingest(&path).unwrap()), ["as bytes", "ö"]);
    let list = "message m { OPTIONAL group text (LIST) { REPEATED group list { OPTIONAL BINARY element (UTF8); } } }";
    // ["a", "b"], null, ["c", null], []
    write_column(
        &path,
        list,
        &[b"a", b"b", b"c"],
        &[3, 3, 0, 3, 2, 1],
        &[0, 1, 0, 0, 1, 0],
        plain,
    );
    let corpus = ingest(&path).unwrap();
    assert_eq!(of(&corpus), ["a", "b", "c"], "each element is a text");
    assert_eq!(
        said(&corpus.skipped),
        ["x.parquet, 3 rows from row 1: without text: null, empty or blanks"]
    );
    let nested = "message m { OPTIONAL group meta { OPTIONAL BINARY raw (UTF8); } }";
    write_column(&path, nested, &[b"deep"], &[2], &[], plain);
    let with = Ingest {
        field: "meta.raw",
        ..Ingest::default()
    };
    assert_eq!(of(&with.read(&path).unwrap()), ["deep"]);
}

#[test]
fn wrong_columns_name_their_type_and_never_a_value() {
    let dir = Dir::new();
    let path = dir.path("x.parquet");
    let plain = Compression::UNCOMPRESSED;
    let megabyte = [b"word ".repeat(200_000), vec![0xff]].concat();
    write_column(
        &path,
        "message m { REQUIRED BINARY text; }",
        &[b"fine", &megabyte],
        &[],
        &[],
        plain,
    );
    let error = ingest(&path).unwrap_err().to_string();
    assert!(
        error.contains(
            "x.parquet, row 1: 1000001 bytes, of which byte 1000000 is not UTF-8: name a column of texts with --field"
        ),
        "{error}"
    );
    assert!(error.len() < 400, "{} bytes", error.len());
    let skipping = Ingest {
        skip_broken: true,
        ..Ingest::default()
    };
    let corpus = skipping.read(&path).unwrap();
    assert_eq!((of(&corpus), corpus.skipped[0].count), (vec!["fine"], 1));
    for (schema, expected) in [
        (
            "message m { REQUIRED BINARY content (UTF8); }",
            "it has no column `text`; its one column of strings is content: read it with --field content",
        ),
        (
            "message m { REQUIRED BINARY text (DECIMAL(9,2)); }",
            "its column `text` is BYTE_ARRAY (DECIMAL), not strings; its columns are text, and none holds strings",
        ),
    ] {
        write_column(&path, schema, &[b"x"], &[], &[], plain);
        let error = ingest(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let numbers = "message schema { REQUIRED INT64 text; OPTIONAL BINARY body (UTF8); }";
    write_parquet(&path, numbers, &[Some("x")], plain);
    let error = ingest(&path).unwrap_err().to_string();
    assert!(
        error.contains("its column `text` is INT64, not strings; its one column of strings is body"),
        "{error}"
    );
}

#[test]
fn damaged_parquet_never_panics() {
    let dir = Dir::new();
    let path = dir.path("x.parquet");
    write_parquet(&path, SCHEMA, &[Some("one"), None, Some("two")], Compression::SNAPPY);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let _ = ingest(&dir.write("y.parquet", bytes));
        let _ = ingest(&dir.write("z.parquet", &good[..at]));
    }
}

#[test]
fn bad_files_are_named_with_their_place() {
    let dir = Dir::new();
    dir.write("a.jsonl", "{\"text\": \"ok\"}\n{\"text\": \"cut");
    dir.write("b.jsonl", "{\"text\": 5}");
    dir.write("c.txt", b"ab\xff");
    dir.write("d.parquet", b"PAR1 no such thing");
    dir.write("e.txt", b"");
    dir.write(
        "g.jsonl",
        [
            b"{\"text\":\"caf\xe9 ".to_vec(),
            b"x y z ".repeat(20_000),
            b"\"}\n".to_vec(),
        ]
        .concat(),
    );
    dir.write("h.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"b\0\"}\n");
    dir.write("i.jsonl", b"[{\"text\":\"a\"}]");
    dir.write("j.json", b"[{\"text\":\"a\"}, 5]");
    dir.write("k.jsonl", b"{\"text\":\"a\"} {\"text\":\"b\"}");
    let other = "message schema { REQUIRED INT64 id; OPTIONAL BINARY content (UTF8); }";
    write_parquet(&dir.path("f.parquet"), other, &[Some("x")], Compression::UNCOMPRESSED);
    for (name, part) in [
        ("a.jsonl", "line 2: it ends in the middle of a string; is it cut short?"),
        ("b.jsonl", "line 1: `text` is a number, not a string"),
        ("c.txt", "not UTF-8 text (byte 2, line 1)"),
        ("d.parquet", "it is damaged, or no Parquet file"),
        ("e.txt", "holds no text"),
        ("f.parquet", "read it with --field content"),
        (
            "g.jsonl",
            "line 1: byte 12 of the line is not UTF-8; if it is Latin-1, convert it with `iconv",
        ),
        ("h.jsonl", "line 2: byte 10 of the line is NUL"),
        ("i.jsonl", "line 1: it is an array, not an object"),
        ("j.json", "element 1: it is a number, not an object"),
        ("k.jsonl", "line 1: something stands behind the object"),
        ("missing", "cannot read"),
    ] {
        let error = ingest(&dir.path(name)).expect_err(name).to_string();
        assert!(
            error.contains(part) && error.contains(name) && error.len() < 500,
            "{name}: {error}"
        );
    }
    let folder = dir.read().unwrap_err();
    assert!(
        matches!(
            folder,
            IngestError::Broken {
                part: Part::Line,
                at: Some(2),
                ..
            }
        ),
        "a broken file of a folder is no secret: {folder}"
    );
    let skipping = Ingest {
        skip_broken: true,
        ..Ingest::default()
    };
    let corpus = skipping.read(dir.0.path()).unwrap();
    assert_eq!(of(&corpus), ["ok", "a"]);
    let of_a = &corpus.sources[corpus.documents[1].source].path;
    assert_eq!(of_a, "h.jsonl", "nothing is taken of a file that is left out");
    let said = said(&corpus.skipped);
    for part in [
        "a.jsonl, line 2: it ends in the middle of a string",
        "g.jsonl, line 1: byte 12 of the line is not UTF-8",
        "d.parquet: it is damaged",
        "j.json: element 1: it is a number",
    ] {
        assert!(said.iter().any(|said| said.starts_with(part)), "{part}: {said:?}");
    }
}

#[test]
fn secrets_are_never_read() {
    let dir = Dir::new();
    let key = format!(
        "atoll key v1: keep this file secret and back it up\nsecret {}\npublic {}\n",
        "0a".repeat(32),
        "1b".repeat(32)
    );
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\n";
    dir.write("a.txt", "a text");
    dir.write("my-node/key", &key);
    dir.write("my-node/notes.txt", "beside a key");
    dir.write("old-node/ledger.redb", "x");
    dir.write("old-node/events.jsonl", "{\"event\": 1}");
    dir.write("other/charter.toml", "name = 1");
    dir.write("other/node.toml", "bind = 1");
    dir.write("copied.bak", &key);
    dir.write("copied.txt.gz", gz(key.as_bytes()));
    dir.write("server.pem", pem);
    dir.write("credentials", "user:word");
    dir.write("id_ed25519.old", "x");
    dir.write("web.jsonl", format!("{{\"text\": \"fine\"}}\n{{\"text\": {pem:?}}}\n"));
    dir.write(".env", "TOKEN=1");
    let corpus = dir.read().unwrap();
    assert_eq!(of(&corpus), ["a text", "fine"]);
    assert_eq!(
        said(&corpus.skipped),
        [
            "copied.bak: it holds the secret key of an Atoll node",
            "copied.txt.gz: it holds the secret key of an Atoll node",
            "credentials: its name is that of a file with passwords or keys",
            "id_ed25519.old: its name is that of a file with passwords or keys",
            "my-node: it looks like a node's folder, with its secret key",
            "old-node: it looks like a node's folder, with its secret key",
            "other: it looks like a node's folder, with its secret key",
            "server.pem: it holds a private key (PEM)",
            "web.jsonl, line 2: it holds a private key (PEM)",
            "1 hidden file and folder: names that begin with a dot are not read",
        ]
    );
    for name in [
        "my-node/key",
        "my-node",
        "copied.txt.gz",
        ".env",
        "server.pem",
        "credentials",
    ] {
        let error = ingest(&dir.path(name)).unwrap_err();
        assert!(matches!(error, IngestError::Secret { .. }), "{name}: {error}");
        assert!(!error.to_string().contains("0a0a"), "{error}");
    }
}

#[test]
fn what_a_command_writes_is_left_out() {
    let dir = Dir::new();
    dir.write("a.txt", "a text");
    dir.write("out/results.jsonl", "{\"spec\": 1}");
    let out = [dir.path("out"), dir.path("not-there-yet")];
    let with = Ingest {
        leave_out: &out,
        ..Ingest::default()
    };
    let corpus = with.read(dir.0.path()).unwrap();
    assert_eq!(said(&corpus.skipped), ["out: this command writes to it"]);
    let error = with.read(&out[0]).unwrap_err().to_string();
    assert!(error.contains("it is a folder that this command writes to"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_nothing_is_read_twice() {
    use std::os::unix::fs::symlink;
    let dir = Dir::new();
    // as in the cache of Hugging Face
    dir.write("cache/blobs/0123abc", "{\"text\": \"from a blob\"}\n");
    fs::create_dir_all(dir.path("cache/snapshots/main")).unwrap();
    fs::create_dir_all(dir.path("cache/snapshots/v1")).unwrap();
    dir.write("cache/refs/main", "0123abc");
    for revision in ["main", "v1"] {
        symlink(
            "../../blobs/0123abc",
            dir.path(&format!("cache/snapshots/{revision}/train.jsonl")),
        )
        .unwrap();
    }
    let snapshot = ingest(&dir.path("cache/snapshots/main")).unwrap();
    assert_eq!(of(&snapshot), ["from a blob"]);
    assert_eq!(
        snapshot.sources[0].path, "train.jsonl",
        "the name in the folder, and no way out of it"
    );
    let cache = ingest(&dir.path("cache")).unwrap();
    assert_eq!(of(&cache), ["from a blob"]);
    assert_eq!(
        said(&cache.skipped),
        [
            "blobs: of Hugging Face's cache, which is read through the links in snapshots",
            "refs: of Hugging Face's cache, which is read through the links in snapshots",
            "snapshots/v1/train.jsonl: the same file as snapshots/main/train.jsonl"
        ]
    );
    dir.write("s/real.txt", "real");
    dir.write("s/deep/more.txt", "more");
    dir.write("node/key", "atoll key v1: keep this file secret and back it up\n");
    dir.write("node/inner/a.txt", "of a node");
    for (link, target) in [
        ("a-link.txt", "real.txt"),
        ("around", "."),
        ("deep/up", ".."),
        ("above", "../.."),
        ("gone", "nowhere"),
        ("self", "self"),
        ("same", "deep"),
        ("outside", "../cache/snapshots/main"),
        ("a-node", "../node"),
        ("in-a-node", "../node/inner"),
        ("null", "/dev/null"),
    ] {
        symlink(target, dir.path(&format!("s/{link}"))).unwrap();
    }
    let corpus = ingest(&dir.path("s")).unwrap();
    assert_eq!(of(&corpus), ["more", "from a blob", "real"]);
    let (to_itself, others): (Vec<_>, Vec<_>) = said(&corpus.skipped)
        .into_iter()
        .partition(|said| said.starts_with("self: "));
    assert!(
        to_itself[0].starts_with("self: a link that cannot be followed"),
        "{to_itself:?}"
    );
    assert_eq!(
        others,
        [
            "a-link.txt: the same file as real.txt",
            "a-node: it looks like a node's folder, with its secret key",
            "above: a link to a folder that holds this one",
            "around: a link to a folder that holds this one",
            "deep/up: a link to a folder that holds this one",
            "gone: a link to what is not there",
            "in-a-node: a link into what looks like a node's folder",
            "null: a link to a device",
            "same: the same folder as deep",
        ]
    );
}

#[cfg(unix)]
#[test]
fn odd_files_are_named_and_never_opened() {
    use std::os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, net::UnixListener};
    let dir = Dir::new();
    dir.write("a.txt", "a text");
    let fifo = std::process::Command::new("mkfifo")
        .arg(dir.path("pipe"))
        .status()
        .unwrap();
    assert!(fifo.success());
    let _socket = UnixListener::bind(dir.path("socket")).unwrap();
    for (byte, text) in [(0xfe, "one"), (0xff, "two")] {
        let name = std::ffi::OsStr::from_bytes(&[b'n', byte, b'\n']).to_owned();
        fs::write(dir.0.path().join(name), text).unwrap();
    }
    dir.write("n\\xfe\\n", "three");
    let locked = dir.write("locked.txt", "not mine");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let corpus = dir.read().unwrap();
    let names: Vec<&str> = corpus.sources.iter().map(|source| source.path.as_str()).collect();
    let readable = fs::read(&locked).is_ok(); // root reads everything
    let mut expected = vec!["a.txt", "locked.txt", "n\\xfe\\n", "n\\xfe\\n (2)", "n\\xff\\n"];
    expected.retain(|name| readable || *name != "locked.txt");
    assert_eq!(names, expected);
    let said = said(&corpus.skipped);
    assert!(
        said.contains(&"pipe: a named pipe; name it itself to read it".to_string()),
        "{said:?}"
    );
    assert!(said.contains(&"socket: a socket".to_string()), "{said:?}");
    assert_eq!(
        said.iter()
            .any(|said| said.starts_with("locked.txt: it cannot be read")),
        !readable
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_that_is_named_is_read_with_a_bound() {
    let dir = Dir::new();
    for (text, expected) in [
        ("plain words".to_string(), Ok("plain words")),
        ("{\"text\":\"lines\"}\n".to_string(), Ok("lines")),
        ("x".repeat(1 << 20), Err("at most 100000 are taken")),
    ] {
        let pipe = dir.path("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::write(pipe, text))
        };
        let bounded = Ingest {
            bytes_max: 100_000,
            ..Ingest::default()
        };
        match (bounded.read(&pipe), expected) {
            (Ok(corpus), Ok(expected)) => assert_eq!(of(&corpus), [expected]),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (read, expected) => panic!("{read:?}, not {expected:?}"),
        }
        let _ = writer.join().unwrap(); // it may find nobody who reads on
        fs::remove_file(pipe).unwrap();
    }
}

#[test]
fn reading_tells_how_far_it_is_and_can_be_stopped() {
    let dir = Dir::new();
    let words: Vec<String> = (0..300_000).map(|at| format!("word {at}")).collect();
    dir.write("a.txt", words.join("\n"));
    dir.write("b.txt", "more");
    let (calls, last) = (Cell::new(0u64), Cell::new(atoll_learner::data::Progress::default()));
    let count = |progress: &_| {
        calls.set(calls.get() + 1);
        last.set(*progress);
        ControlFlow::Continue(())
    };
    let watched = Ingest {
        progress: &count,
        ..Ingest::default()
    };
    watched.read(dir.0.path()).unwrap();
    assert!(calls.get() >= 5, "{}", calls.get());
    assert_eq!((last.get().files, last.get().files_all), (1, 2));
    assert!(last.get().bytes <= last.get().bytes_all);
    let stop = |progress: &atoll_learner::data::Progress| match progress.bytes > 0 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let stopped = Ingest {
        progress: &stop,
        ..Ingest::default()
    };
    assert!(matches!(stopped.read(dir.0.path()), Err(IngestError::Stopped(_))));
}
