//! One field of one JSON value, read in a single pass: what nobody asked for is stepped over, whatever it is.
//!
//! As lenient as what writes such files: `NaN` and `Infinity` (Python), a lone surrogate (JavaScript) and a field
//! that stands there twice (the last counts) are taken. What is cut short or nested too deep is not.

/// Objects and arrays within each other.
const DEPTH_MAX: usize = 512;
/// Bytes of a field's name below the first dot: each dot is a call within a call.
const INNER_MAX: usize = 1024;
/// Characters of a stranger's name or value that a message shows.
const SHOWN_MAX: usize = 60;
/// Names that a message lists.
const NAMES_MAX: usize = 8;

/// What stands in the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// This many texts were added: one, or those of an array of strings.
    Texts(usize),
    /// `null`.
    Null,
    /// The object has no such field.
    Missing,
    /// Something else: what it is, in words.
    Other(&'static str),
}

/// What one object gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picked {
    /// What stands in the field.
    pub(crate) found: Found,
    /// Surrogates without their half that became U+FFFD.
    pub(crate) lone: u64,
    /// `null`s among the strings of an array.
    pub(crate) nulls: u64,
    /// The field stands there more than once.
    pub(crate) twice: bool,
}

/// Why it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Byte in the text, from 0.
    pub(crate) at: usize,
    /// What is wrong.
    pub(crate) what: String,
}

/// Bytes and a place among them.
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// Reads the object that `line` is; the texts of `field` are appended to `out`.
pub(crate) fn pick(line: &str, field: &str, out: &mut Vec<String>) -> Result<Picked, Wrong> {
    let mut reader = Reader::new(line);
    let kept = out.len();
    let picked = reader.object(field, out).and_then(|picked| match reader.peek() {
        None => Ok(picked),
        Some(_) => Err(reader.wrong("something stands behind the object; each line holds one")),
    });
    if picked.is_err() {
        out.truncate(kept);
    }
    picked
}

/// The names of an object's fields, for a message.
pub(crate) fn fields(line: &str) -> String {
    let mut reader = Reader::new(line);
    let mut names: Vec<String> = Vec::new();
    let _ = reader.members(|_, name| {
        names.push(shown(&name));
        Ok(false)
    }); // what was read until something is wrong is what can be told
    names.dedup();
    let more = names.len().saturating_sub(NAMES_MAX);
    names.truncate(NAMES_MAX);
    match (names.is_empty(), more) {
        (true, _) => "it has no fields".into(),
        (false, 0) => format!("its fields are {}", names.join(", ")),
        (false, more) => format!("its fields are {} and {more} more", names.join(", ")),
    }
}

/// A stranger's text for a message: short, and without what moves a terminal's cursor.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_MAX).map(visible).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        short.push('…');
    }
    short
}

fn visible(character: char) -> char {
    match character.is_control() {
        true => '\u{fffd}',
        false => character,
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Where it stands, in bytes.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong {
            at: self.at,
            what: what.into(),
        }
    }

    /// The next byte that is not blank.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// Takes `byte` if it comes next.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8, inside: &str) -> Result<(), Wrong> {
        if self.take(byte) {
            return Ok(());
        }
        let byte = char::from(byte);
        Err(match self.peek() {
            None => self.wrong(format!("it ends in the middle of {inside}; is it cut short?")),
            Some(_) => self.wrong(format!("`{byte}` is missing in {inside}")),
        })
    }

    /// Calls `each` with every name of the object that comes next; it says whether it read the value.
    fn members(&mut self, mut each: impl FnMut(&mut Self, String) -> Result<bool, Wrong>) -> Result<(), Wrong> {
        match self.peek() {
            Some(b'{') => self.at += 1,
            None => return Err(self.wrong("it ends before an object begins; is it cut short?")),
            Some(_) => {
                let kind = self.kind();
                return Err(self.wrong(format!("it is {kind}, not an object")));
            }
        }
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let (mut name, mut lone) = (String::new(), 0);
            self.string(Some(&mut name), &mut lone)?;
            self.expect(b':', "an object")?;
            if !each(self, name)? {
                self.skip()?;
            }
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',', "an object")?;
        }
    }

    /// Reads an object; `field` is a name, or names with dots between them for a field of a field.
    pub(crate) fn object(&mut self, field: &str, out: &mut Vec<String>) -> Result<Picked, Wrong> {
        let kept = out.len();
        let mut picked = Picked {
            found: Found::Missing,
            lone: 0,
            nulls: 0,
            twice: false,
        };
        self.members(|reader, name| {
            let inner = field
                .strip_prefix(name.as_str())
                .and_then(|rest| rest.strip_prefix('.'));
            let inner = inner.filter(|inner| inner.len() <= INNER_MAX && reader.peek() == Some(b'{'));
            let value = match (name == field, inner) {
                (false, None) => return Ok(false),
                (true, _) => reader.value_of_field(out)?,
                (false, Some(inner)) => reader.object(inner, out)?,
            };
            if value.found == Found::Missing {
                return Ok(true);
            }
            if picked.found != Found::Missing {
                out.drain(kept..out.len() - value.added());
            }
            picked = Picked {
                twice: value.twice || picked.found != Found::Missing,
                ..value
            };
            Ok(true)
        })?;
        Ok(picked)
    }

    fn value_of_field(&mut self, out: &mut Vec<String>) -> Result<Picked, Wrong> {
        let kind = self.kind();
        let mut picked = Picked {
            found: Found::Other(kind),
            lone: 0,
            nulls: 0,
            twice: false,
        };
        match self.peek() {
            Some(b'"') => {
                let mut text = String::new();
                self.string(Some(&mut text), &mut picked.lone)?;
                out.push(text);
                picked.found = Found::Texts(1);
            }
            Some(b'[') => picked.found = self.strings(out, &mut picked)?,
            _ => {
                self.skip()?;
                if kind == "null" {
                    picked.found = Found::Null;
                }
            }
        }
        Ok(picked)
    }

    /// An array of strings: each is a text of its own.
    fn strings(&mut self, out: &mut Vec<String>, picked: &mut Picked) -> Result<Found, Wrong> {
        let (kept, begin) = (out.len(), self.at);
        self.at += 1;
        if self.take(b']') {
            return Ok(Found::Null);
        }
        loop {
            match self.peek() {
                Some(b'"') => {
                    let mut text = String::new();
                    self.string(Some(&mut text), &mut picked.lone)?;
                    out.push(text);
                }
                Some(b'n') => {
                    self.skip()?;
                    picked.nulls += 1;
                }
                _ => {
                    out.truncate(kept);
                    self.at = begin;
                    self.skip()?;
                    return Ok(Found::Other("an array of what are not strings"));
                }
            }
            if self.take(b']') {
                return Ok(Found::Texts(out.len() - kept));
            }
            self.expect(b',', "an array")?;
        }
    }

    /// What comes next, in words.
    fn kind(&mut self) -> &'static str {
        match self.peek() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a truth value",
            Some(b'n') => "null",
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => "a number",
            _ => "no JSON",
        }
    }

    /// Steps over a value, without recursion.
    pub(crate) fn skip(&mut self) -> Result<(), Wrong> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            match self.peek() {
                Some(begin @ (b'{' | b'[')) => {
                    self.at += 1;
                    let end = if begin == b'{' { b'}' } else { b']' };
                    if open.len() == DEPTH_MAX {
                        return Err(self.wrong(format!("it is nested more than {DEPTH_MAX} deep")));
                    }
                    open.push(end);
                    if !self.take(end) {
                        self.name_of_member(end)?;
                        continue;
                    }
                    open.pop();
                }
                Some(b'"') => self.string(None, &mut 0)?,
                _ => self.word()?,
            }
            // behind a value: the next member, or the end of what holds it
            loop {
                let Some(end) = open.last().copied() else { return Ok(()) };
                if self.take(end) {
                    open.pop();
                    continue;
                }
                self.expect(b',', if end == b'}' { "an object" } else { "an array" })?;
                self.name_of_member(end)?;
                break;
            }
        }
    }

    fn name_of_member(&mut self, end: u8) -> Result<(), Wrong> {
        if end == b']' {
            return Ok(());
        }
        self.string(None, &mut 0)?;
        self.expect(b':', "an object")
    }

    /// A number or a word.
    fn word(&mut self) -> Result<(), Wrong> {
        let rest = &self.text.as_bytes()[self.at..];
        let plain = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let length = rest.iter().take_while(plain).count();
        let word = &self.text[self.at..self.at + length];
        let known = matches!(word, "null" | "true" | "false" | "NaN" | "Infinity" | "-Infinity");
        if known || word.parse::<f64>().is_ok() && word.ends_with(|c: char| c.is_ascii_digit()) {
            self.at += length;
            return Ok(());
        }
        let cut = rest.len() == length;
        Err(self.wrong(match (word.is_empty(), cut) {
            (true, true) => "it ends where a value is due; is it cut short?".to_string(),
            (true, false) => "a value is missing".to_string(),
            (false, _) => format!("`{}` is no value of JSON", shown(word)),
        }))
    }

    /// A string, into `out` if it is wanted.
    fn string(&mut self, mut out: Option<&mut String>, lone: &mut u64) -> Result<(), Wrong> {
        if self.peek() != Some(b'"') {
            return self.expect(b'"', "an object");
        }
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let Some(plain) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\')) else {
                self.at = self.text.len();
                return Err(self.wrong("it ends in the middle of a string; is it cut short?"));
            };
            if let Some(out) = out.as_deref_mut() {
                out.push_str(&rest[..plain]);
            }
            self.at += plain + 1;
            if rest.as_bytes()[plain] == b'"' {
                return Ok(());
            }
            let character = self.escape(lone)?;
            if let Some(out) = out.as_deref_mut() {
                out.push(character);
            }
        }
    }

    /// What a backslash and the bytes behind it mean.
    fn escape(&mut self, lone: &mut u64) -> Result<char, Wrong> {
        let byte = self.text.as_bytes().get(self.at).copied();
        self.at += usize::from(byte.is_some_and(|byte| byte.is_ascii()));
        Ok(match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(lone),
            None => return Err(self.wrong("it ends in the middle of a string; is it cut short?")),
            Some(_) => return Err(self.wrong("a backslash stands before what it does not go with")),
        })
    }

    fn unicode(&mut self, lone: &mut u64) -> Result<char, Wrong> {
        let Some(first) = self.four(self.at) else {
            return Err(self.wrong("`\\u` needs four hexadecimal digits"));
        };
        self.at += 4;
        if let Some(character) = char::from_u32(first) {
            return Ok(character);
        }
        let second = match self.text.as_bytes().get(self.at..self.at + 2) {
            Some(b"\\u") => self.four(self.at + 2),
            _ => None,
        };
        let pair = second.filter(|low| first < 0xDC00 && (0xDC00..0xE000).contains(low));
        match pair.and_then(|low| char::from_u32(0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00))) {
            Some(character) => {
                self.at += 6;
                Ok(character)
            }
            None => {
                *lone += 1;
                Ok(char::REPLACEMENT_CHARACTER)
            }
        }
    }

    fn four(&self, at: usize) -> Option<u32> {
        let digits = self.text.as_bytes().get(at..at + 4)?;
        digits
            .iter()
            .try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
    }
}

impl Picked {
    fn added(&self) -> usize {
        match self.found {
            Found::Texts(count) => count,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(line: &str, field: &str) -> Result<(Found, Vec<String>, u64), String> {
        let mut out = vec![];
        let picked = pick(line, field, &mut out).map_err(|wrong| format!("{}: {}", wrong.at, wrong.what))?;
        Ok((picked.found, out, picked.lone + picked.nulls))
    }

    #[test]
    fn what_is_in_the_field() {
        let one = |text: &str| (Found::Texts(1), vec![text.to_string()], 0);
        for (line, expected) in [
            (r#"{"text":"a b"}"#, one("a b")),
            (" {\"id\": [1, {\"text\": \"no\"}], \"text\" : \"yes\"}\r", one("yes")),
            (r#"{"text":"\u00e4\n\"\\\/\ud83d\ude00"}"#, one("ä\n\"\\/😀")),
            (r#"{"te\u0078t":"escaped name"}"#, one("escaped name")),
            (r#"{"score":NaN,"low":-Infinity,"n":-1.5e+3,"text":"x"}"#, one("x")),
            (
                r#"{"id":"\ud83d","text":"unread fields may hold anything"}"#,
                one("unread fields may hold anything"),
            ),
            (r#"{"text":"first","text":"last"}"#, one("last")),
            (
                r#"{"text":"bad \ud83d char \udc00"}"#,
                (Found::Texts(1), vec!["bad \u{fffd} char \u{fffd}".into()], 2),
            ),
            (
                r#"{"text":"\ud83d\u0041"}"#,
                (Found::Texts(1), vec!["\u{fffd}A".into()], 1),
            ),
            (
                r#"{"text":["a","b",null]}"#,
                (Found::Texts(2), vec!["a".into(), "b".into()], 1),
            ),
            (r#"{"text":[]}"#, (Found::Null, vec![], 0)),
            (r#"{"text":null}"#, (Found::Null, vec![], 0)),
            (r#"{"txt":"x"}"#, (Found::Missing, vec![], 0)),
            ("{}", (Found::Missing, vec![], 0)),
            (r#"{"text":5}"#, (Found::Other("a number"), vec![], 0)),
            (r#"{"text":NaN}"#, (Found::Other("a number"), vec![], 0)),
            (r#"{"text":true}"#, (Found::Other("a truth value"), vec![], 0)),
            (r#"{"text":{"a":"x"}}"#, (Found::Other("an object"), vec![], 0)),
            (
                r#"{"text":["a",1]}"#,
                (Found::Other("an array of what are not strings"), vec![], 0),
            ),
        ] {
            assert_eq!(texts(line, "text"), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_field_of_a_field() {
        let nested = r#"{"meta":{"b":"no"},"a":{"b":{"c":"deep"}},"x.y":"dotted"}"#;
        for (field, expected) in [("a.b.c", "deep"), ("x.y", "dotted"), ("meta.b", "no")] {
            assert_eq!(texts(nested, field).unwrap().1, [expected], "{field}");
        }
        assert_eq!(texts(nested, "a.c").unwrap().0, Found::Missing);
        assert_eq!(texts(nested, "x").unwrap().0, Found::Missing);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (line, expected) in [
            ("", "0: it ends before an object begins; is it cut short?"),
            ("5", "0: it is a number, not an object"),
            ("[1]", "0: it is an array, not an object"),
            ("<html>", "0: it is no JSON, not an object"),
            (
                r#"{"text":"cut"#,
                "12: it ends in the middle of a string; is it cut short?",
            ),
            (
                r#"{"text":"cut\"#,
                "13: it ends in the middle of a string; is it cut short?",
            ),
            (
                r#"{"text":"cut""#,
                "13: it ends in the middle of an object; is it cut short?",
            ),
            (r#"{"text":"#, "8: it ends where a value is due; is it cut short?"),
            (r#"{"text" "x"}"#, "8: `:` is missing in an object"),
            (r#"{"a":nope,"text":"x"}"#, "5: `nope` is no value of JSON"),
            (r#"{"a":1.,"text":"x"}"#, "5: `1.` is no value of JSON"),
            (r#"{"a":,"text":"x"}"#, "5: a value is missing"),
            (r#"{"a":[1,{"b":2]}"#, "14: `,` is missing in an object"),
            (
                r#"{"text":"\x"}"#,
                "11: a backslash stands before what it does not go with",
            ),
            (r#"{"text":"\u12g4"}"#, "11: `\\u` needs four hexadecimal digits"),
            (
                r#"{"text":"a"}{"text":"b"}"#,
                "12: something stands behind the object; each line holds one",
            ),
        ] {
            assert_eq!(texts(line, "text"), Err(expected.to_string()), "{line}");
        }
        let long = format!("{{\"a\":{},\"text\":\"x\"}}", "x".repeat(1 << 20));
        assert!(texts(&long, "text").unwrap_err().len() < 250);
    }

    #[test]
    fn nesting_has_a_bound_and_needs_no_stack() {
        for open in ["[", "{\"a\":"] {
            let line = format!("{{\"a\":{}", open.repeat(1 << 20));
            let error = texts(&line, "text").unwrap_err();
            assert!(error.ends_with("it is nested more than 512 deep"), "{error}");
        }
        let field = vec!["a"; 50_000].join(".");
        let error = texts(&"{\"a\":".repeat(50_000), &field).unwrap_err();
        assert!(error.ends_with("it is nested more than 512 deep"), "{error}");
    }

    #[test]
    fn names_of_fields_are_few_and_short() {
        assert_eq!(fields(r#"{"id":1,"content":"x"}"#), "its fields are id, content");
        assert_eq!(fields("{}"), "it has no fields");
        let many: Vec<String> = (0..20).map(|i| format!("\"{i}{}\":1", "x".repeat(1000))).collect();
        let said = fields(&format!("{{{}}}", many.join(",")));
        assert!(
            said.ends_with(" and 12 more") && said.chars().count() < 8 * 64 + 40,
            "{said}"
        );
        assert_eq!(shown("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1e9..1e9f64).prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::vec((".{0,6}", inner), 0..5)
                    .prop_map(|pairs| { serde_json::Value::Object(pairs.into_iter().collect()) }),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_stands_beside_the_text_it_is_found(before in value(), after in value(), text in ".{0,40}") {
            let mut object = serde_json::Map::new();
            object.insert("a".into(), before);
            object.insert("text".into(), text.clone().into());
            object.insert("z".into(), after);
            let object = serde_json::Value::Object(object);
            for line in [object.to_string(), serde_json::to_string_pretty(&object).unwrap()] {
                prop_assert_eq!(texts(&line, "text").unwrap(), (Found::Texts(1), vec![text.clone()], 0));
            }
        }

        #[test]
        fn what_is_cut_short_is_never_taken(beside in value(), text in ".{0,20}", at in 0usize..200) {
            let line = serde_json::json!({ "a": beside, "text": text }).to_string();
            let ends: Vec<usize> = line.char_indices().map(|(at, _)| at).collect();
            let cut = &line[..ends[at % ends.len()]];
            prop_assert!(texts(cut, "text").is_err(), "{}", cut);
        }

        #[test]
        fn any_text_ends_in_a_value_or_a_reason(line in "[{}\\[\\]\",:\\\\ua0-9tnNI. é-]{0,60}") {
            let _ = (texts(&line, "text"), fields(&line));
        }
    }
}
