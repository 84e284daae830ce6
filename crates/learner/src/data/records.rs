//! Texts of JSON: an object a line, or an array of objects.

use super::{
    corpus::Part,
    decode::{self, Encoding},
    gather::{Fault, Gather, Why},
    ingest::Ingest,
    json::{self, Found, Reader},
};
use std::io::{BufRead, Cursor, Read};

impl Gather {
    /// JSON lines or an array of objects if that is what it is, else a text.
    pub(super) fn json_or_text(&mut self, text: String, options: &Ingest<'_>) -> Result<(), Fault> {
        let mut reader = Reader::new(&text);
        match reader.peek() {
            Some(b'{') if is_json_lines(&text, options.field) => {
                self.part = Part::Line;
                self.json_lines(&mut Cursor::new(text), options)
            }
            Some(b'[') if is_array_of_objects(&text, options.field) => {
                self.part = Part::Element;
                self.array(&text, options)
            }
            _ => self.text(text),
        }
    }

    fn array(&mut self, text: &str, options: &Ingest<'_>) -> Result<(), Fault> {
        let mut reader = Reader::new(text);
        reader.take(b'[');
        let mut texts = Vec::new();
        for at in 0.. {
            reader.peek();
            let begin = reader.at();
            let picked = reader
                .object(options.field, &mut texts)
                .map_err(|wrong| Fault::Broken {
                    part: Part::Element,
                    at: Some(at),
                    reason: wrong.what,
                })?;
            let object = &text[begin..reader.at()];
            self.picked(picked, &mut texts, object, at, options)?;
            if reader.take(b']') {
                break;
            }
            if !reader.take(b',') {
                return Err(Fault::Broken {
                    part: Part::Element,
                    at: Some(at),
                    reason: "`,` is missing behind it, or the file is cut short".into(),
                });
            }
        }
        Ok(())
    }

    pub(super) fn json_lines(&mut self, stream: &mut dyn BufRead, options: &Ingest<'_>) -> Result<(), Fault> {
        let mut start = Vec::new();
        stream.take(4).read_to_end(&mut start)?;
        if let Encoding::Utf16Le | Encoding::Utf16Be = Encoding::of(&start) {
            stream.read_to_end(&mut start)?;
            let (text, lone) = decode::text(start).map_err(Fault::NotText)?;
            for _ in 0..lone {
                self.count(Why::Lone, 1, 0, String::new);
            }
            return self.lines(&mut Cursor::new(text), options);
        }
        self.lines(&mut Cursor::new(start).chain(stream), options)
    }

    fn lines(&mut self, stream: &mut dyn BufRead, options: &Ingest<'_>) -> Result<(), Fault> {
        let (mut bytes, mut texts) = (Vec::new(), Vec::new());
        let (mut has_field, mut first_without) = (false, None);
        for number in 1.. {
            bytes.clear();
            if stream.read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            let line = bytes.strip_prefix(decode::MARK).unwrap_or(&bytes);
            let read = line_text(line, number).and_then(|line| match line.trim().is_empty() {
                true => Ok(None),
                false => match json::pick(line, options.field, &mut texts) {
                    Ok(picked) => Ok(Some((picked, line))),
                    Err(wrong) => Err(wrong.what),
                },
            });
            match read {
                Ok(None) => {}
                Ok(Some((picked, line))) => {
                    has_field |= picked.found != Found::Missing;
                    if picked.found == Found::Missing && first_without.is_none() {
                        first_without = Some((number, json::fields(line)));
                    }
                    self.picked(picked, &mut texts, line, number, options)?;
                }
                Err(reason) => self.broken(number, line.len(), reason, options)?,
            }
        }
        match first_without {
            Some((number, fields)) if !has_field => {
                self.tallies.remove(&Why::NoField);
                Err(Fault::Broken {
                    part: Part::Line,
                    at: Some(number),
                    reason: format!(
                        "missing field `{}`; {fields}: name the one that holds the text with --field",
                        json::shown(options.field)
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Takes what was found in one object.
    fn picked(
        &mut self,
        picked: json::Picked,
        texts: &mut Vec<String>,
        object: &str,
        at: u64,
        options: &Ingest<'_>,
    ) -> Result<(), Fault> {
        for _ in 0..picked.nulls {
            self.count(Why::Blank, at, 0, String::new);
        }
        if picked.lone > 0 {
            self.count(Why::Lone, at, 0, String::new);
        }
        if picked.twice {
            self.count(Why::Twice, at, 0, String::new);
        }
        match picked.found {
            Found::Texts(_) => texts.drain(..).for_each(|text| {
                self.push(text, at);
            }),
            Found::Null => self.count(Why::Blank, at, 0, String::new),
            Found::Missing => self.count(Why::NoField, at, object.len(), || json::fields(object)),
            Found::Other(kind) => {
                let field = json::shown(options.field);
                let reason = format!("`{field}` is {kind}, not a string; name another field with --field, or mend it");
                self.broken(at, object.len(), reason, options)?;
            }
        }
        Ok(())
    }
}

/// A line of JSON as text.
fn line_text(line: &[u8], number: u64) -> Result<&str, String> {
    if number == 1
        && let (Some(_), Some(what)) = (
            decode::bad_utf8(line).or(line.iter().position(|byte| *byte == 0)),
            decode::other_format(line),
        )
    {
        return Err(format!("the file is {what}"));
    }
    if let Some(at) = line.iter().position(|byte| *byte == 0) {
        return Err(format!("byte {at} of the line is NUL"));
    }
    std::str::from_utf8(line).map_err(|error| {
        format!(
            "byte {} of the line is not UTF-8{}",
            error.valid_up_to(),
            decode::remedy(line)
        )
    })
}

/// Whether the first line is a whole object that has the field.
fn is_json_lines(text: &str, field: &str) -> bool {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    json::pick(line, field, &mut Vec::new())
        .is_ok_and(|picked| !matches!(picked.found, Found::Missing | Found::Other(_)))
}

/// Whether it is one array whose first element is an object that has the field.
fn is_array_of_objects(text: &str, field: &str) -> bool {
    let mut reader = Reader::new(text);
    let picked = reader.take(b'[').then(|| reader.object(field, &mut Vec::new()));
    picked.is_some_and(|picked| picked.is_ok_and(|picked| !matches!(picked.found, Found::Missing | Found::Other(_))))
}
