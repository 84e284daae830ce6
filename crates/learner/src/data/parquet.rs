//! The text column of a Parquet file.
//!
//! Strings and BINARY that is UTF-8, plain or by a dictionary, and lists of them, whose elements are a text each.

use super::{corpus::Part, gather::Fault, ingest::Ingest, json::shown, unpack::Meter};
use parquet::{
    basic::{Compression, ConvertedType, LogicalType, Type as Physical},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, ByteArrayType},
    errors::ParquetError,
    file::reader::{FileReader, RowGroupReader, SerializedFileReader},
    schema::types::{ColumnDescriptor, SchemaDescriptor},
};
use std::fs::File;

/// Records that are decoded at once.
const RECORDS: usize = 1024;
/// Names that a message lists.
const NAMES_MAX: usize = 8;

/// What a row, from 0, holds: a text, nothing, or why it cannot be read.
type Each<'e> = dyn FnMut(u64, Result<Option<String>, String>) -> Result<(), Fault> + 'e;

fn broken(reason: impl Into<String>) -> Fault {
    Fault::Broken {
        part: Part::File,
        at: None,
        reason: reason.into(),
    }
}

fn damaged(error: ParquetError) -> Fault {
    broken(format!(
        "it is damaged, or no Parquet file: {}; get it again, or leave it out with --skip-broken",
        shown(&error.to_string())
    ))
}

/// Gives every row's text to `each`, in order.
pub(super) fn texts(file: File, options: &Ingest<'_>, meter: &mut Meter<'_>, each: &mut Each<'_>) -> Result<(), Fault> {
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = column(schema, options.field).map_err(broken)?;
    for group in reader.metadata().row_groups() {
        let packed = group.columns().get(column).map(|column| column.compression());
        if let Some(packed) = packed.filter(|packed| !is_read(*packed)) {
            let packed = packed.to_string();
            let packed = packed.split('(').next().unwrap_or_default();
            return Err(broken(format!(
                "its texts are packed with {packed}, which is not read: write it again with snappy, gzip or zstd"
            )));
        }
    }
    let descriptor = schema.column(column);
    let mut row = 0;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(damaged)?;
        row = texts_of_group(&*group, column, &descriptor, row, meter, each)?;
    }
    Ok(())
}

fn is_read(packed: Compression) -> bool {
    matches!(
        packed,
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_)
    )
}

/// Gives the texts of a row group whose first row is `row`; says which row comes next.
fn texts_of_group(
    group: &dyn RowGroupReader,
    column: usize,
    descriptor: &ColumnDescriptor,
    mut row: u64,
    meter: &mut Meter<'_>,
    each: &mut Each<'_>,
) -> Result<u64, Fault> {
    let ColumnReader::ByteArrayColumnReader(mut reader) = group.get_column_reader(column).map_err(damaged)? else {
        return Err(broken("its column of texts has another type inside"));
    };
    let levels = (descriptor.max_def_level(), descriptor.max_rep_level());
    let mut batch = Batch::default();
    while batch.fill(&mut reader, levels)? {
        let mut values = batch.values.iter();
        for entry in 0..batch.entries {
            let begins = levels.1 == 0 || batch.repeated.get(entry) == Some(&0);
            row += u64::from(begins);
            let is_there = levels.0 == 0 || batch.defined.get(entry) == Some(&levels.0);
            let value = match is_there {
                true => Some(
                    values
                        .next()
                        .ok_or_else(|| broken("it is damaged: values are missing"))?,
                ),
                false => None,
            };
            meter.unpack(value.map_or(0, |value| value.len() as u64))?;
            each(row.saturating_sub(1), value.map(text).transpose())?;
        }
    }
    Ok(row)
}

/// Some records of a column.
#[derive(Default)]
struct Batch {
    values: Vec<ByteArray>,
    defined: Vec<i16>,
    repeated: Vec<i16>,
    entries: usize,
}

impl Batch {
    /// Reads the next records; whether there were any.
    fn fill(&mut self, reader: &mut ColumnReaderImpl<ByteArrayType>, levels: (i16, i16)) -> Result<bool, Fault> {
        self.values.clear();
        self.defined.clear();
        self.repeated.clear();
        let defined = (levels.0 > 0).then_some(&mut self.defined);
        let repeated = (levels.1 > 0).then_some(&mut self.repeated);
        let (records, _, entries) = reader
            .read_records(RECORDS, defined, repeated, &mut self.values)
            .map_err(damaged)?;
        self.entries = entries;
        Ok(records > 0)
    }
}

fn text(value: &ByteArray) -> Result<String, String> {
    match str::from_utf8(value.data()) {
        Ok(text) => Ok(text.to_string()),
        Err(error) => Err(format!(
            "{} bytes, of which byte {} is not UTF-8: name a column of texts with --field",
            value.len(),
            error.valid_up_to()
        )),
    }
}

/// The number of the column that `field` names, or what to do instead.
fn column(schema: &SchemaDescriptor, field: &str) -> Result<usize, String> {
    let under = |column: &ColumnDescriptor| {
        let path = column.path().string();
        path == field || path.strip_prefix(field).is_some_and(|rest| rest.starts_with('.'))
    };
    let columns = schema.columns();
    let found: Vec<usize> = (0..columns.len()).filter(|index| under(&columns[*index])).collect();
    match found[..] {
        [] => Err(format!(
            "it has no column `{}`; {}",
            shown(field),
            columns_of_text(schema)
        )),
        [index] => match kind(&columns[index]) {
            None => Ok(index),
            Some(kind) => Err(format!(
                "its column `{}` is {kind}, not strings; {}",
                shown(field),
                columns_of_text(schema)
            )),
        },
        [..] => Err(format!(
            "its column `{}` has fields of its own; {}",
            shown(field),
            columns_of_text(schema)
        )),
    }
}

/// What a column is, if it is no texts.
fn kind(column: &ColumnDescriptor) -> Option<String> {
    let logical = column.logical_type_ref();
    let converted = column.converted_type();
    let is_text = match logical {
        Some(LogicalType::String | LogicalType::Json | LogicalType::Enum) => true,
        None => matches!(
            converted,
            ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM
        ),
        Some(_) => false,
    };
    if let Some(LogicalType::Unknown) = logical {
        return Some("all missing values".into());
    }
    match (column.physical_type(), is_text, column.max_rep_level()) {
        (Physical::BYTE_ARRAY, true, 0 | 1) => None,
        (Physical::BYTE_ARRAY, true, _) => Some("lists of lists".into()),
        (physical, ..) if converted == ConvertedType::NONE => Some(physical.to_string()),
        (physical, ..) => Some(format!("{physical} ({converted})")),
    }
}

/// Which columns could be meant.
fn columns_of_text(schema: &SchemaDescriptor) -> String {
    let name = |column: &ColumnDescriptor| {
        let path = column.path().string();
        let list = [".list.element", ".list.item", ".bag.array_element", ".array"];
        shown(list.iter().find_map(|end| path.strip_suffix(end)).unwrap_or(&path))
    };
    let texts: Vec<String> = schema
        .columns()
        .iter()
        .filter(|column| kind(column).is_none())
        .map(|column| name(column))
        .collect();
    let list = |names: &[String]| {
        let more = names.len().saturating_sub(NAMES_MAX);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("{}{more}", names[..names.len().min(NAMES_MAX)].join(", "))
    };
    match texts.len() {
        0 => {
            let all: Vec<String> = schema.columns().iter().map(|column| name(column)).collect();
            format!("its columns are {}, and none holds strings", list(&all))
        }
        1 => format!("its one column of strings is {0}: read it with --field {0}", texts[0]),
        _ => format!("its columns of strings are {}: name one with --field", list(&texts)),
    }
}
