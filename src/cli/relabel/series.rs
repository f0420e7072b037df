//! A series as people write it, read: `up{job="node"}`, `{__name__="up",job="node"}`, `{"my.metric","http.code"="5"}`. Pure.
//!
//! What [`text::series`](crate::protocol::text::series) writes is read as what it was written from. In values everything is understood that
//! PromQL understands: double and single quotes with escapes, and backticks without. A label with an empty value is no label.

use crate::protocol::labels::METRIC_NAME;

/// Names and values, sorted by name, each name once, no value empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series(pub Vec<(String, String)>);

impl Series {
    /// As pairs of texts.
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value)).collect()
    }
}

/// Why a text is not a series.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeriesError {
    /// Something else should stand here.
    #[error("{expected} expected, {} found", found(.rest))]
    Expected {
        /// What.
        expected: &'static str,
        /// What does.
        rest: String,
    },
    /// A selector of several.
    #[error("a series has one value for each label: only NAME=\"VALUE\" is understood, not {operator}")]
    Operator {
        /// What stands between name and value.
        operator: String,
    },
    /// A quotation without an end.
    #[error("{quote} without another one at the end of the text")]
    Unclosed {
        /// What it begins with.
        quote: char,
    },
    /// A backslash before something that it does not go with.
    #[error("{escape:?} is not an escape: \\\\, \\\", \\n, \\t, \\xHH, \\uHHHH and the like are")]
    Escape {
        /// What was written.
        escape: String,
    },
    /// Escapes of bytes can make it so.
    #[error("a name or a value is not UTF-8")]
    NotUtf8,
    /// Twice, perhaps once in front of the braces.
    #[error("the label {name:?} stands there twice")]
    Twice {
        /// Which.
        name: String,
    },
    /// `{""}`, `{""="a"}`
    #[error("a name is not empty")]
    NoName,
}

fn found(rest: &str) -> String {
    const SHOWN_MAX: usize = 20;
    match rest.char_indices().nth(SHOWN_MAX) {
        _ if rest.is_empty() => "the end".to_owned(),
        Some((end, _)) => format!("{:?}..", &rest[..end]),
        None => format!("{rest:?}"),
    }
}

/// Reads one.
///
/// # Errors
/// [`SeriesError`].
pub fn parse(text: &str) -> Result<Series, SeriesError> {
    let mut reader = Reader { rest: text.trim() };
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(name) = reader.name(true) {
        labels.push((METRIC.to_owned(), name.to_owned()));
    }
    let has_name = !labels.is_empty();
    if reader.take("{") {
        while !reader.take("}") {
            labels.push(reader.label()?);
            if !reader.take(",") && !reader.rest.starts_with('}') {
                return reader.expected("\",\" or \"}\"");
            }
        }
    } else if !has_name {
        return reader.expected("the name of a metric or \"{\"");
    }
    if !reader.rest.is_empty() {
        return reader.expected(if text.contains('{') { "the end" } else { "\"{\" or the end" });
    }
    labels.sort();
    if let Some(twice) = labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(SeriesError::Twice { name: twice[0].0.clone() });
    }
    labels.retain(|(_, value)| !value.is_empty());
    Ok(Series(labels))
}

const METRIC: &str = match std::str::from_utf8(METRIC_NAME) {
    Ok(name) => name,
    Err(_) => panic!("the name is ASCII"),
};

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn expected<T>(&self, expected: &'static str) -> Result<T, SeriesError> {
        Err(SeriesError::Expected { expected, rest: self.rest.to_owned() })
    }

    /// Takes a token, and the space around it.
    fn take(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let behind = self.rest.strip_prefix(token);
        self.rest = behind.unwrap_or(self.rest).trim_start();
        behind.is_some()
    }

    /// A name that needs no quotes.
    fn name(&mut self, with_colon: bool) -> Option<&'a str> {
        let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_' || with_colon && c == ':';
        if !self.rest.starts_with(is_letter) {
            return None;
        }
        let end = self.rest.find(|c: char| !is_letter(c) && !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(name)
    }

    /// `name="value"`, `"name"="value"`, or `"the name of a metric"`.
    fn label(&mut self) -> Result<(String, String), SeriesError> {
        self.rest = self.rest.trim_start();
        let (name, may_stand_alone) = match self.name(false) {
            Some(name) => (name.to_owned(), false),
            None => match self.quoted()? {
                Some(name) => (name, true),
                None => return self.expected("the name of a label or \"}\""),
            },
        };
        if name.is_empty() {
            return Err(SeriesError::NoName);
        }
        self.rest = self.rest.trim_start();
        if may_stand_alone && (self.rest.is_empty() || self.rest.starts_with([',', '}'])) {
            return Ok((METRIC.to_owned(), name));
        }
        for operator in ["!=", "!~", "=~", "=="] {
            if self.rest.starts_with(operator) {
                return Err(SeriesError::Operator { operator: operator.to_owned() });
            }
        }
        if !self.take("=") {
            return self.expected("\"=\"");
        }
        match self.quoted()? {
            Some(value) => Ok((name, value)),
            None => self.expected("a value in quotes"),
        }
    }

    /// A text in quotes; `None` if there is none.
    fn quoted(&mut self) -> Result<Option<String>, SeriesError> {
        let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'' | '`')) else { return Ok(None) };
        let mut rest = &self.rest[1..];
        let mut bytes = Vec::new();
        loop {
            let mut chars = rest.chars();
            let c = chars.next().ok_or(SeriesError::Unclosed { quote })?;
            if c == '\\' && quote != '`' {
                rest = unescape(rest, &mut bytes)?;
                continue;
            }
            rest = chars.as_str();
            if c == quote {
                break;
            }
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        self.rest = rest;
        String::from_utf8(bytes).map(Some).map_err(|_| SeriesError::NotUtf8)
    }
}

/// Reads what a backslash begins; what is left behind it. Go's escapes, and `\u{1b}` as we write it.
fn unescape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Result<&'a str, SeriesError> {
    let wrong = |len: usize| SeriesError::Escape { escape: text.chars().take(len).collect() };
    let number = |digits: &str, radix| {
        let is_number = digits.chars().all(|c| c.is_digit(radix));
        if is_number { u32::from_str_radix(digits, radix).ok() } else { None }
    };
    let behind = &text[1..];
    let c = behind.chars().next().ok_or_else(|| wrong(1))?;
    let simple = match c {
        'a' => Some(0x07),
        'b' => Some(0x08),
        'f' => Some(0x0c),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(0x0b),
        '\\' | '"' | '\'' => Some(c as u8),
        _ => None,
    };
    if let Some(byte) = simple {
        bytes.push(byte);
        return Ok(&behind[1..]);
    }
    let digits = &behind[c.len_utf8()..];
    let exactly = |text: &'a str, len: usize, radix: u32| {
        let value = text.get(..len).and_then(|digits| number(digits, radix));
        value.map(|value| (value, &text[len..])).ok_or_else(|| wrong(len + 2))
    };
    let (character, rest) = match c {
        'x' => {
            let (byte, rest) = exactly(digits, 2, 16)?;
            bytes.push(byte as u8);
            return Ok(rest);
        }
        '0'..='7' => {
            let (byte, rest) = exactly(behind, 3, 8)?;
            bytes.push(u8::try_from(byte).map_err(|_| wrong(4))?);
            return Ok(rest);
        }
        'u' if digits.starts_with('{') => {
            let (digits, rest) = digits[1..].split_once('}').ok_or_else(|| wrong(3))?;
            (number(digits, 16).ok_or_else(|| wrong(4 + digits.len()))?, rest)
        }
        'u' => exactly(digits, 4, 16)?,
        'U' => exactly(digits, 8, 16)?,
        _ => return Err(wrong(2)),
    };
    let character = char::from_u32(character).ok_or_else(|| wrong(text.len() - rest.len()))?;
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::text;

    fn read(text: &str) -> String {
        match parse(text) {
            Ok(series) => series.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("|"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn a_series_is_read_as_people_write_it() {
        for (written, expected) in [
            ("up", "__name__=up"),
            ("up{}", "__name__=up"),
            (r#"up{job="a",instance="h:80"}"#, "__name__=up|instance=h:80|job=a"),
            (r#" up { job = "a" , instance = "h:80" , } "#, "__name__=up|instance=h:80|job=a"),
            (r#"{__name__="up",job="a"}"#, "__name__=up|job=a"),
            (r#"{"my.metric",job="a"}"#, "__name__=my.metric|job=a"),
            (r#"{job="a","my.metric"}"#, "__name__=my.metric|job=a"),
            (r#"{"my.metric"}"#, "__name__=my.metric"),
            (r#"{"my.metric","http.code"="5"}"#, "__name__=my.metric|http.code=5"),
            ("job:up:sum{job='a'}", "__name__=job:up:sum|job=a"),
            (r#"{job="a"}"#, "job=a"),
            ("{}", ""),
            (r#"up{job=""}"#, "__name__=up"),
            (r#"up{a="} , {",b="="}"#, "__name__=up|a=} , {|b=="),
            (r#"up{a="\"\\\n\t\x41\101\u00e9\U0001F600\u{e9}é"}"#, "__name__=up|a=\"\\\n\tAAé😀éé"),
            (r"up{a='it\'s \x22',b=`\d+`}", "__name__=up|a=it's \"|b=\\d+"),
            (r#"up{a="\xc3\xa9"}"#, "__name__=up|a=é"),
        ] {
            assert_eq!(read(written), expected, "{written}");
        }
    }

    #[test]
    fn what_is_no_series_is_said_where_it_ceases_to_be_one() {
        for (written, expected) in [
            ("", "the name of a metric or \"{\" expected, the end found"),
            ("1up", "the name of a metric or \"{\" expected, \"1up\" found"),
            ("my.metric", "\"{\" or the end expected, \".metric\" found"),
            ("up{", "the name of a label or \"}\" expected, the end found"),
            ("up{job", "\"=\" expected, the end found"),
            ("up{job}", "\"=\" expected, \"}\" found"),
            ("up{job=a}", "a value in quotes expected, \"a}\" found"),
            (r#"up{job="a""#, "\",\" or \"}\" expected, the end found"),
            (r#"up{job="a" x="b"}"#, "\",\" or \"}\" expected, \"x=\\\"b\\\"}\" found"),
            (r#"up{job="a}"#, "\" without another one"),
            (r#"up{job="a"} 1"#, "the end expected, \"1\" found"),
            (r#"up{http.code="5"}"#, "\"=\" expected, \".code=\\\"5\\\"}\" found"),
            (r#"up{job!="a"}"#, "only NAME=\"VALUE\" is understood, not !="),
            (r#"up{job=~"a.*"}"#, "not =~"),
            (r#"up{a="\d"}"#, r#""\\d" is not an escape"#),
            (r#"up{a="\u12"}"#, "is not an escape"),
            (r#"up{a="\ud800"}"#, "is not an escape"),
            (r#"up{a="\400"}"#, "is not an escape"),
            (r#"up{a="\xff"}"#, "not UTF-8"),
            ("up{a=\"\\", "is not an escape"),
            (r#"up{a="1",a="2"}"#, "the label \"a\" stands there twice"),
            (r#"up{__name__="up"}"#, "the label \"__name__\" stands there twice"),
            (r#"up{"up"}"#, "the label \"__name__\" stands there twice"),
            (r#"{""}"#, "a name is not empty"),
            (r#"up{""="a"}"#, "a name is not empty"),
            ("up{,}", "the name of a label or \"}\" expected"),
        ] {
            let error = read(written);
            assert!(error.starts_with("error: ") && error.contains(expected), "{written}: {error}");
        }
    }

    /// Whatever can be in a label.
    fn label() -> impl Strategy<Value = (String, String)> {
        let text = || prop_oneof!["[a-z_]{1,3}", "[a-c.:\"'`{}=,\\\\\n\u{1b}\u{202e}é😀 ]{1,4}", "\\PC{1,5}"];
        (text(), text())
    }

    proptest! {
        #[test]
        fn what_we_write_is_read_as_what_it_was(
            name in proptest::option::of(label()),
            labels in proptest::collection::btree_map("[a-z.\"é{ ]{1,4}", label(), 0..5),
        ) {
            let mut expected: Vec<(String, String)> =
                labels.into_iter().map(|(name, (_, value))| (name, value)).collect();
            expected.extend(name.map(|(name, _)| (METRIC.to_owned(), name)));
            expected.sort();
            let series = Series(expected);
            prop_assert_eq!(parse(&text::series(&series.pairs())), Ok(series));
        }

        #[test]
        fn no_text_is_too_much(text in "[a{}\"'`\\\\=,u0x1 é\u{1b}]{0,24}") {
            if let Ok(series) = parse(&text) {
                prop_assert_eq!(parse(&text::series(&series.pairs())), Ok(series));
            }
        }
    }
}
