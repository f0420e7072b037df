//! How tools show things: aligned, escaped, and without loss.

use std::fmt::{self, Write as _};
use std::io;

use serde::{Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};

/// The NaN that ends a series.
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// Lines in columns, two spaces apart. The last column is never padded.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [bool],
}

impl Table {
    /// `head` names the columns with how each is aligned: `>` in front of a name for numbers.
    pub fn new(head: &'static [&'static str], right: &'static [bool]) -> Table {
        Table { rows: vec![head.iter().map(ToString::to_string).collect()], right }
    }

    /// Adds a line.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.right.len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                if self.right[column] { write!(line, "{cell:>width$}  ")? } else { write!(line, "{cell:<width$}  ")? }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `128.0 MiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// `1 record`, `2 records`.
pub fn count(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {one}{s}")
}

/// A text between quotes in which nothing can reach a terminal but what is meant to be seen.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                _ if is_unsafe(c) => write!(f, "{}", c.escape_unicode())?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// As [`Quoted`], without quotes where nothing needs them: for names of files.
pub fn plain(text: &str) -> String {
    let is_plain = |c: char| !is_unsafe(c) && c != '"' && c != '\\';
    if text.chars().all(is_plain) { text.to_owned() } else { Quoted(text).to_string() }
}

/// Control characters, and those that turn the direction of a text or cannot be seen.
fn is_unsafe(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    c.is_control() || is_invisible
}

/// A series as one writes it: `up{job="node"}`; names of other characters in quotes: `{"my.metric",job="node"}`.
pub fn series(labels: &[(&str, &str)]) -> String {
    let name = labels.iter().find(|(name, _)| *name == "__name__").map(|(_, value)| *value);
    let mut text = String::new();
    let mut inside = Vec::new();
    match name {
        Some(name) if is_legacy(name, true) => text += name,
        Some(name) => inside.push(Quoted(name).to_string()),
        None => {}
    }
    for (name, value) in labels.iter().filter(|(name, _)| *name != "__name__") {
        let name = if is_legacy(name, false) { (*name).to_owned() } else { Quoted(name).to_string() };
        inside.push(format!("{name}={}", Quoted(value)));
    }
    if !inside.is_empty() || text.is_empty() {
        let _ = write!(text, "{{{}}}", inside.join(","));
    }
    text
}

fn is_legacy(name: &str, with_colon: bool) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || with_colon && byte == b':';
    let starts_well = name.bytes().next().is_some_and(is_letter);
    starts_well && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// A sample's value. In JSON a number, or one of the strings `NaN`, `stale`, `+Inf`, `-Inf`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f64);

impl Number {
    fn special(self) -> Option<&'static str> {
        match self.0 {
            value if value.to_bits() == STALE => Some("stale"),
            value if value.is_nan() => Some("NaN"),
            f64::INFINITY => Some("+Inf"),
            f64::NEG_INFINITY => Some("-Inf"),
            _ => None,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.special() {
            Some(text) => f.write_str(text),
            // As short as comes back the same; what is very large or small with an exponent.
            None if self.0 != 0.0 && !(1e-5..1e16).contains(&self.0.abs()) => write!(f, "{:e}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.special() {
            Some(text) => serializer.serialize_str(text),
            None => serializer.serialize_f64(self.0),
        }
    }
}

/// Writes a value as JSON on one line, safe for a terminal as well.
pub fn json(out: &mut dyn io::Write, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(out, Safe(CompactFormatter));
    Ok(value.serialize(&mut serializer)?)
}

/// JSON escapes the control characters of ASCII on its own; here the others too.
struct Safe(CompactFormatter);

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_unsafe) {
            let (before, behind) = rest.split_at(at);
            self.0.write_string_fragment(writer, before)?;
            let c = behind.chars().next().expect("a character was found");
            let mut units = [0u16; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &behind[c.len_utf8()..];
        }
        self.0.write_string_fragment(writer, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_label_reaches_the_terminal_but_what_is_to_be_seen() {
        let evil = "a\u{1b}[31m\r\n\"\\\u{9b}2J\u{202e}\u{7f}é";
        let shown = Quoted(evil).to_string();
        assert_eq!(shown, r#""a\u{1b}[31m\u{d}\n\"\\\u{9b}2J\u{202e}\u{7f}é""#);
        let mut bytes = Vec::new();
        json(&mut bytes, &evil).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.chars().any(is_unsafe), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), evil);
        assert_eq!(plain("seg-1.wal"), "seg-1.wal");
        assert_eq!(plain("a\u{7}"), r#""a\u{7}""#);
    }

    #[test]
    fn a_series_is_written_as_one_writes_it() {
        assert_eq!(series(&[("__name__", "up"), ("job", "n\"")]), r#"up{job="n\""}"#);
        assert_eq!(series(&[("__name__", "a:b")]), "a:b");
        assert_eq!(series(&[("__name__", "my.metric"), ("http.code", "5")]), r#"{"my.metric","http.code"="5"}"#);
        assert_eq!(series(&[("trace_id", "x")]), r#"{trace_id="x"}"#);
        assert_eq!(series(&[]), "{}");
    }

    #[test]
    fn values_that_are_no_numbers_have_names() {
        let shown = |value: f64| (Number(value).to_string(), serde_json::to_string(&Number(value)).unwrap());
        assert_eq!(shown(f64::from_bits(STALE)), ("stale".into(), "\"stale\"".into()));
        assert_eq!(shown(f64::NAN), ("NaN".into(), "\"NaN\"".into()));
        assert_eq!(shown(f64::INFINITY), ("+Inf".into(), "\"+Inf\"".into()));
        assert_eq!(shown(f64::NEG_INFINITY), ("-Inf".into(), "\"-Inf\"".into()));
        assert_eq!(shown(0.1), ("0.1".into(), "0.1".into()));
        assert_eq!(shown(-0.0), ("-0".into(), "-0.0".into()));
        assert_eq!(shown(5e-324).0.parse(), Ok(5e-324));
        assert_eq!(shown(1e300).0, "1e300");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["ID", "NAME", "END"], &[true, false, false]);
        table.row(vec!["10".into(), "a".into(), "x".into()]);
        table.row(vec!["9".into(), "long".into(), String::new()]);
        assert_eq!(table.to_string(), "ID  NAME  END\n10  a     x\n 9  long\n");
    }
}
