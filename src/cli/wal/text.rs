//! How tools show things: aligned, escaped, and without loss.

use std::fmt::{self, Write as _};
use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use crate::protocol::text::is_unsafe;
pub use crate::protocol::text::{Number, Quoted, plain, series};

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
    fn columns_are_aligned() {
        let mut table = Table::new(&["ID", "NAME", "END"], &[true, false, false]);
        table.row(vec!["10".into(), "a".into(), "x".into()]);
        table.row(vec!["9".into(), "long".into(), String::new()]);
        assert_eq!(table.to_string(), "ID  NAME  END\n10  a     x\n 9  long\n");
    }
}
