//! Labels and values as people read them: escaped, and without loss.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

/// The NaN that ends a series.
pub const STALE: u64 = 0x7ff0_0000_0000_0002;

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
#[must_use]
pub fn plain(text: &str) -> String {
    let is_plain = |c: char| !is_unsafe(c) && c != '"' && c != '\\';
    if text.chars().all(is_plain) { text.to_owned() } else { Quoted(text).to_string() }
}

/// In one line, as it is, but for what a terminal would obey or nobody can see: that is escaped.
#[must_use]
pub fn visible(text: &str) -> String {
    text.chars().fold(String::new(), |mut shown, c| {
        if is_unsafe(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Control characters, and those that turn the direction of a text or cannot be seen.
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    c.is_control() || is_invisible
}

/// A series as one writes it: `up{job="node"}`; names of other characters in quotes: `{"my.metric",job="node"}`.
#[must_use]
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
