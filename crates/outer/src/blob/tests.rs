//! Refusals, by field and value.

use super::*;
use crate::codec::{Flaw, encode};
use atoll_protocol::{
    CheckReason, Nano,
    layout::{Role, Tensor},
};

const CODEC: Codec = Codec::Sparse {
    k: 64,
    feedback: Nano::ONE,
};

fn layout() -> Layout {
    let tensor = |name: &str, role, rows, columns, offset| Tensor {
        name: name.into(),
        rows,
        columns,
        role,
        offset,
    };
    Layout {
        tensors: vec![
            tensor("matrix", Role::Matrix, 8, 8, 0),
            tensor("gain", Role::Vector, 2, 1, 64),
        ],
        parameters: 66,
    }
}

fn blob() -> Vec<u8> {
    let values: Vec<f32> = (0..66).map(|i| 1.0 + i as f32).collect();
    encode(&values, &CODEC, &layout(), &Hash([3; 32])).expect("finite")
}

fn read(bytes: Vec<u8>) -> Result<Contribution, BlobError> {
    Contribution::read(bytes, &layout(), &CODEC, &Hash([3; 32]))
}

#[test]
fn a_changed_field_is_named_with_its_value() {
    use CheckReason::{BadValue, Malformed, OtherBase};
    // Header 48, table 32; matrix: 2 count, 8 levels, 1 code, 1 gap; gain: 4.
    let table = [
        (
            0,
            0x42,
            Malformed,
            "the blob's magic is 1196446786; the charter needs 1196446785",
        ),
        (4, 2, Malformed, "the blob's version is 2; the charter needs 1"),
        (6, 1, Malformed, "the blob's codec is 1; the charter needs 2"),
        (7, 1, Malformed, "the blob's reserved byte is 1; the charter needs 0"),
        (
            8,
            65,
            Malformed,
            "the blob's codec parameter is 65; the charter needs 64",
        ),
        (
            15,
            255,
            Malformed,
            "the blob's number of tensors is 4278190082; the charter needs 2",
        ),
        (16, 0, OtherBase, "the blob was made from θ 0003"),
        (
            48,
            9,
            Malformed,
            "the blob's tensor matrix has 9 rows; the charter needs 8",
        ),
        (
            68,
            2,
            Malformed,
            "the blob's tensor gain has 2 columns; the charter needs 1",
        ),
        (
            63,
            255,
            Malformed,
            "the blob has 96 bytes; its table of tensors needs 18374686479671623776",
        ),
        (
            80,
            9,
            Malformed,
            "the blob's tensor matrix, from element 0 on: a tile keeps 9 values; at most 1 are allowed",
        ),
        (
            83,
            0x7f,
            BadValue,
            "the blob's tensor matrix, from element 0 on: value inf is not finite",
        ),
        (
            95,
            0x7f,
            BadValue,
            "the blob's tensor gain, from element 0 on: value inf is not finite",
        ),
    ];
    assert!(read(blob()).is_ok());
    for (at, value, reason, text) in table {
        let mut bytes = blob();
        assert_ne!(bytes[at], value, "byte {at}");
        bytes[at] = value;
        if value == 0x7f {
            bytes[at - 1] = 0x80;
        }
        let error = read(bytes).expect_err(text);
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().starts_with(text), "{error}\n{text}");
    }
}

#[test]
fn the_length_is_exact() {
    let good = blob();
    for cut in 0..good.len() {
        let error = read(good[..cut].to_vec()).expect_err("too short");
        assert!(matches!(error, BlobError::Length { .. }), "{error}");
    }
    let mut long = good.clone();
    long.push(0);
    assert!(matches!(read(long.clone()), Err(BlobError::Length { .. })));
    // A table that owns the extra byte.
    long[48 + 8] += 1;
    let error = read(long).expect_err("one byte too many in a payload");
    let text = "the blob's tensor matrix has 13 payload bytes; the charter needs 12";
    assert_eq!(error.to_string(), text);
    let mut moved = good;
    moved[48 + 8] -= 1;
    moved[64 + 8] += 1;
    let error = read(moved).expect_err("a payload that ends early");
    assert!(matches!(error, BlobError::Payload { flaw: Flaw::Short, .. }), "{error}");
}

#[test]
fn other_lengths_to_decode_into_are_refused() {
    let contribution = read(blob()).expect("good");
    assert!(contribution.decode_into(&mut [0.0; 65]).is_err());
    assert!(contribution.add_to(1.0, &mut [0.0; 67]).is_err());
    assert_eq!(contribution.bytes(), blob());
    assert!(blob().len() as u64 <= blob_bytes_max(&layout(), &CODEC));
}

/// 20 × 24: low rank pays, and one block of int8 or int4 is not all.
fn wide() -> Layout {
    let mut layout = layout();
    (layout.tensors[0].rows, layout.tensors[0].columns) = (20, 24);
    (layout.tensors[1].offset, layout.parameters) = (480, 482);
    layout
}

const WIDE_CODECS: [(&str, Codec); 5] = {
    let feedback = Nano::ONE;
    [
        ("codec is 0", Codec::Dense),
        ("codec is 1", Codec::Int4 { feedback }),
        ("codec is 2", Codec::Sparse { k: 3, feedback }),
        ("codec is 3", Codec::Int8 { feedback }),
        ("codec is 4", Codec::LowRank { rank: 2, feedback }),
    ]
};

fn wide_blob(codec: &Codec) -> Vec<u8> {
    let values: Vec<f32> = (0..482).map(|i| 1.0 + i as f32).collect();
    encode(&values, codec, &wide(), &Hash([3; 32])).expect("finite")
}

fn refused(bytes: Vec<u8>, codec: &Codec, base: u8) -> String {
    let error = Contribution::read(bytes, &wide(), codec, &Hash([base; 32])).expect_err("not as it should be");
    error.to_string()
}

#[test]
fn every_codec_refuses_other_codecs_bases_and_lengths_by_value() {
    for (name, codec) in &WIDE_CODECS {
        let good = wide_blob(codec);
        assert!(
            Contribution::read(good.clone(), &wide(), codec, &Hash([3; 32])).is_ok(),
            "{name}"
        );
        for (_, other) in WIDE_CODECS.iter().filter(|(_, other)| other != codec) {
            let text = refused(good.clone(), other, 3);
            assert!(
                text.starts_with(&format!("the blob's {name}; the charter needs")),
                "{text}"
            );
        }
        let text = refused(good.clone(), codec, 4);
        assert!(text.contains("θ 0303") && text.contains("; 0404"), "{text}");
        for length in [good.len() - 1, good.len() + 1] {
            let mut bytes = good.clone();
            bytes.resize(length, 0);
            let needed = format!("the blob has {length} bytes; its table of tensors needs {}", good.len());
            assert_eq!(refused(bytes, codec, 3), needed);
        }
    }
    let other_rank = Codec::LowRank {
        rank: 3,
        feedback: Nano::ONE,
    };
    let text = refused(wide_blob(&WIDE_CODECS[4].1), &other_rank, 3);
    assert_eq!(text, "the blob's codec parameter is 2; the charter needs 3");
}

#[test]
fn every_codec_refuses_values_out_of_range_by_value() {
    // Payloads start at 80. Of low rank, Q is two columns of a scale and 12 bytes, and P's scale stands at 112.
    let table: [(usize, usize, f32, &str); 9] = [
        (0, 84, f32::NAN, "value NaN is not finite"),
        (1, 80, f32::NAN, "scale NaN is not 0 or a positive normal number"),
        (1, 80, 0.0, "the codes of a block do not fit its scale 0"),
        (3, 80, f32::INFINITY, "scale inf is not 0 or a positive normal number"),
        (
            3,
            84,
            f32::from_bits(0x80),
            "code -128 is out of range; from -127 to 127 is allowed",
        ),
        (4, 80, -1.0, "scale -1 is not 0 or a positive normal number"),
        (
            4,
            80,
            f32::MAX,
            "the largest magnitudes of Q's columns sum to 3402823466385288",
        ),
        (4, 112, 2.0, "scale 2 of P is more than 1"),
        (4, 112, f32::NAN, "scale NaN is not 0 or a positive normal number"),
    ];
    for (codec, at, value, text) in table {
        let codec = &WIDE_CODECS[codec].1;
        let mut bytes = wide_blob(codec);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let refused = refused(bytes, codec, 3);
        let expected = format!("the blob's tensor matrix, from element 0 on: {text}");
        assert!(refused.starts_with(&expected), "{refused}\n{expected}");
    }
}
