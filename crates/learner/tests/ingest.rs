//! Files to documents: each format, and what is said about bad files.

use atoll_learner::data::{IngestError, ingest};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use std::{fs, fs::File, path::Path, sync::Arc};

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

fn texts(path: &Path) -> Vec<String> {
    ingest(path)
        .unwrap()
        .documents
        .into_iter()
        .map(|document| document.text)
        .collect()
}

#[test]
fn a_text_file_is_one_document() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "Zwei Zeilen,\r\nein Atoll: 環礁").unwrap();
    let corpus = ingest(&path).unwrap();
    assert_eq!(corpus.documents[0].text, "Zwei Zeilen,\r\nein Atoll: 環礁");
    assert_eq!(
        (corpus.sources[0].path.as_str(), corpus.sources[0].bytes),
        ("a.txt", 31)
    );
    assert_eq!(corpus.text_bytes(), 31);
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("b.txt", b"second");
    write("a/z.md", b"first");
    write(
        "c.jsonl",
        b"{\"text\": \"third\"}\n\n{\"id\": 7, \"text\": \"fourth\"}\n",
    );
    write("picture.png", b"\x89PNG\x00");
    write("latin1.txt", b"caf\xe9");
    write(".hidden", b"no");
    write("empty.txt", b"");
    let corpus = ingest(dir.path()).unwrap();
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
    let skipped: Vec<_> = corpus
        .skipped
        .iter()
        .map(|s| (s.path.as_str(), s.reason.as_str()))
        .collect();
    assert_eq!(
        skipped,
        [
            ("latin1.txt", "not UTF-8 text (byte 3)"),
            ("picture.png", "not UTF-8 text (byte 4)")
        ]
    );
}

#[test]
fn parquet_of_any_compression_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::ZSTD(Default::default()),
    ] {
        let path = dir.path().join("data.parquet");
        write_parquet(&path, SCHEMA, &[Some("one"), None, Some("zwei ö")], compression);
        assert_eq!(texts(&path), ["one", "zwei ö"], "{compression}");
    }
}

#[test]
fn bad_files_are_named_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("a.jsonl"), "{\"text\": \"ok\"}\n{\"txt\": 1}\n").unwrap();
    fs::write(path("b.jsonl"), "{\"text\": 5}").unwrap();
    fs::write(path("c.txt"), b"ab\xff").unwrap();
    fs::write(path("d.parquet"), b"PAR1 no such thing").unwrap();
    fs::write(path("e.txt"), b"").unwrap();
    let other = "message schema { REQUIRED INT64 id; OPTIONAL BINARY content (UTF8); }";
    write_parquet(&path("f.parquet"), other, &[Some("x")], Compression::UNCOMPRESSED);
    for (name, part) in [
        ("a.jsonl", "line 2: missing field `text`"),
        ("b.jsonl", "line 1: invalid type"),
        ("c.txt", "not UTF-8 text (byte 2)"),
        ("d.parquet", "must have a string column `text`"),
        ("e.txt", "holds no text"),
        ("f.parquet", "its columns are: id, content"),
        ("missing", "cannot read"),
    ] {
        let error = ingest(&path(name)).expect_err(name).to_string();
        assert!(error.contains(part) && error.contains(name), "{name}: {error}");
    }
    let folder = ingest(dir.path()).unwrap_err();
    assert!(
        matches!(folder, IngestError::Jsonl { line: 2, .. }),
        "a broken file of a folder is no secret: {folder}"
    );
}
