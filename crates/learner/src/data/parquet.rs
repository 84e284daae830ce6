//! The `text` column of a Parquet file.

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
    schema::types::{Type, TypePtr},
};
use std::{fs::File, path::Path};

/// The column.
const COLUMN: &str = "text";
/// Bytes of text that one file may unpack to: a small file must not fill the memory.
const UNPACKED_BYTES_MAX: usize = 8 << 30;

/// All values of the string column `text`, in order; missing values are left out. The error is a
/// sentence for people.
pub(super) fn texts_of_parquet(path: &Path) -> Result<Vec<String>, String> {
    let say = |error: parquet::errors::ParquetError| error.to_string();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader = SerializedFileReader::new(file).map_err(say)?;
    let schema = reader.metadata().file_metadata().schema();
    let projection = project(schema)?;
    let mut texts = Vec::new();
    let mut unpacked = 0usize;
    for (index, row) in reader.get_row_iter(Some(projection)).map_err(say)?.enumerate() {
        let row = row.map_err(say)?;
        match row.get_column_iter().next() {
            Some((_, Field::Str(text))) => {
                unpacked = unpacked.saturating_add(text.len());
                texts.push(text.clone());
            }
            Some((_, Field::Null)) | None => {}
            Some((_, other)) => return Err(format!("row {index}: `{COLUMN}` is {other}, not a string")),
        }
        if unpacked > UNPACKED_BYTES_MAX {
            return Err(format!("more than {UNPACKED_BYTES_MAX} bytes of text"));
        }
    }
    Ok(texts)
}

/// The schema with no column but the text.
fn project(schema: &Type) -> Result<Type, String> {
    let named = |field: &&TypePtr| field.name() == COLUMN;
    let Some(column) = schema.get_fields().iter().find(named) else {
        let names: Vec<_> = schema.get_fields().iter().map(|field| field.name()).collect();
        return Err(format!("its columns are: {}", names.join(", ")));
    };
    Type::group_type_builder(schema.name())
        .with_fields(vec![column.clone()])
        .build()
        .map_err(|error| error.to_string())
}
