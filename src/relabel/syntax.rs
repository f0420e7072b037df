//! The regular expressions of Go (RE2's syntax), written in the syntax of the `regex` crate with the meaning they have in Go. Pure.
//!
//! ```text
//!  Go's pattern --read--> pieces --written with their flags--> the crate's pattern, names of groups
//! ```
//!
//! Both engines take the leftmost match and prefer the first alternative, so a pattern means the same once it is read the same way.
//! What is read differently:
//!
//! | | Go | the crate |
//! |---|---|---|
//! | `\d` `\s` `\w` `\b` | ASCII | Unicode |
//! | `[[a]`, `[a&&b]`, `[a--b]`, `[a~~b]` | plain characters | nested classes, operations on them |
//! | `{` where no repetition can be read | itself | an error |
//! | `\Q..\E`, `\101`, `\p{^Greek}` | known | errors |
//! | `\<`, `\>` | `<`, `>` | word boundaries |
//! | `(?x)`, `(?R)`, `(?u)`, `a**`, `a{1001}`, `[a[:x:]]` | errors | known |
//!
//! Every piece is written out with the flags that hold for it, by numbers where a character could mean something, and groups without their names.
//!
//! Classes of Unicode are named as Go does it since 1.25: categories, also by their long names, and scripts, in upper or lower case; a
//! Prometheus built with an older Go takes fewer of these. One limit is not Go's: [`DEPTH_MAX`].

/// The most times that something is repeated, repetitions of repetitions multiplied: Go's own limit.
pub const REPEAT_MAX: u32 = 1000;

/// How deep groups and repetitions are nested at most. Go goes to 1000, but the engine works through them on the stack.
pub const DEPTH_MAX: u32 = 200;

/// For people: a pattern is not shown whole.
const SHOWN_MAX: usize = 60;

/// A pattern that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// For the `regex` crate.
    pub pattern: String,
    /// The groups that capture, from the first on, with their names. In Go a name may come twice.
    pub groups: Vec<Option<String>>,
}

/// Why Go does not take a pattern. Nothing is compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SyntaxError {
    #[error("nothing before `{operator}` that it could repeat")]
    NothingToRepeat { operator: String },
    #[error("`{operators}` repeats a repetition")]
    RepeatedTwice { operators: String },
    #[error(
        "`{repetition}` is not from fewer to more, or more than {REPEAT_MAX} times, repetitions inside of it multiplied"
    )]
    RepeatedTooOften { repetition: String },
    #[error("`{class}` without its `]`")]
    UnclosedClass { class: String },
    #[error("`{range}` is no range of characters and no class that is known")]
    UnknownRange { range: String },
    #[error("`{escape}` is no escape that is known (no back-references either)")]
    UnknownEscape { escape: String },
    #[error("a `(` without its `)`")]
    UnclosedGroup,
    #[error("a `)` without its `(`")]
    UnopenedGroup,
    #[error("`{group}` is no group that is known: flags are i, m, s and U, and there is no looking ahead or behind")]
    UnknownGroup { group: String },
    #[error("`{group}` has no name of ASCII letters, digits and underscores")]
    UnnamedGroup { group: String },
    #[error("groups and repetitions are nested deeper than {DEPTH_MAX}")]
    TooDeep,
}

/// Writes a pattern of Go anew.
///
/// # Errors
/// What Go refuses; and what is nested too deep.
pub fn translate(pattern: &str) -> Result<Translated, SyntaxError> {
    let mut reader =
        Reader { rest: pattern, flags: Flags::default(), frames: vec![Frame::default()], groups: Vec::new() };
    let mut repetition = None;
    while let Some(next) = reader.rest.chars().next() {
        repetition = reader.piece(next, repetition)?;
    }
    let (Some(frame), true) = (reader.frames.pop(), reader.frames.is_empty()) else {
        return Err(SyntaxError::UnclosedGroup);
    };
    Ok(Translated { pattern: frame.finish().text, groups: reader.groups })
}

/// What `(?ims-U)` sets.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    ignores_case: bool,
    is_multi_line: bool,
    dot_takes_newline: bool,
    is_lazy: bool,
}

/// Something that a repetition can be put behind.
#[derive(Debug)]
struct Piece {
    text: String,
    depth: u32,
    /// How often something inside is repeated.
    copies: u32,
}

/// An open group, or the whole.
#[derive(Debug, Default)]
struct Frame {
    /// `(` or `(?:`; empty for the whole.
    opening: &'static str,
    /// Those outside of it.
    flags: Flags,
    alternatives: Vec<Piece>,
    pieces: Vec<Piece>,
}

impl Frame {
    fn end_alternative(&mut self) {
        let depth = self.pieces.iter().map(|piece| piece.depth).max().unwrap_or(0);
        let copies = self.pieces.iter().map(|piece| piece.copies).max().unwrap_or(1);
        let text = self.pieces.drain(..).map(|piece| piece.text).collect();
        self.alternatives.push(Piece { text, depth, copies });
    }

    fn finish(mut self) -> Piece {
        self.end_alternative();
        let depth = self.alternatives.iter().map(|piece| piece.depth).max().unwrap_or(0);
        let copies = self.alternatives.iter().map(|piece| piece.copies).max().unwrap_or(1);
        let texts: Vec<&str> = self.alternatives.iter().map(|piece| &*piece.text).collect();
        let closing = if self.opening.is_empty() { "" } else { ")" };
        let text = format!("{}{}{closing}", self.opening, texts.join("|"));
        Piece { text, depth: depth + 1, copies }
    }
}

struct Reader<'a> {
    rest: &'a str,
    flags: Flags,
    frames: Vec<Frame>,
    groups: Vec<Option<String>>,
}

impl<'a> Reader<'a> {
    /// Reads one piece, which begins with `next`. `repetition` is what follows from the last piece on, if that was one; returned is the same for this.
    fn piece(&mut self, next: char, repetition: Option<&'a str>) -> Result<Option<&'a str>, SyntaxError> {
        let before = self.rest;
        match next {
            '(' if before.starts_with("(?") => self.special_group()?,
            '(' => {
                self.skip(1);
                self.open("(", Some(None));
            }
            ')' => {
                self.skip(1);
                self.close()?;
            }
            '|' => {
                self.skip(1);
                self.top().end_alternative();
            }
            '^' => {
                self.skip(1);
                self.push(if self.flags.is_multi_line { "(?m:^)" } else { r"\A" });
            }
            '$' => {
                self.skip(1);
                self.push(if self.flags.is_multi_line { "(?m:$)" } else { r"\z" });
            }
            '.' => {
                self.skip(1);
                self.push(if self.flags.dot_takes_newline { "(?s:.)" } else { "." });
            }
            '[' => self.class()?,
            '*' | '+' | '?' => {
                self.skip(1);
                let (least, most) = match next {
                    '*' => (0, None),
                    '+' => (1, None),
                    _ => (0, Some(1)),
                };
                self.repeat(Repeat { least, most, is_counted: false }, before, repetition)?;
                return Ok(Some(before));
            }
            '{' => match counts(before) {
                None => {
                    self.skip(1);
                    self.literal('{');
                }
                Some((least, most, rest)) => {
                    self.rest = rest;
                    if least > REPEAT_MAX || most.is_some_and(|most| most > REPEAT_MAX || most < least) {
                        return Err(SyntaxError::RepeatedTooOften { repetition: shown(taken(before, rest)) });
                    }
                    self.repeat(Repeat { least, most, is_counted: true }, before, repetition)?;
                    return Ok(Some(before));
                }
            },
            '\\' => self.backslash()?,
            other => {
                self.skip(other.len_utf8());
                self.literal(other);
            }
        }
        Ok(None)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn top(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the whole is closed at the end only")
    }

    fn push(&mut self, text: impl Into<String>) {
        self.top().pieces.push(Piece { text: text.into(), depth: 1, copies: 1 });
    }

    fn push_folded(&mut self, text: String) {
        let text = if self.flags.ignores_case { format!("(?i:{text})") } else { text };
        self.push(text);
    }

    fn literal(&mut self, character: char) {
        if character.is_ascii_digit() {
            self.push(character);
        } else if character.is_ascii_alphabetic() {
            self.push_folded(character.into());
        } else {
            self.push_folded(format!(r"\x{{{:X}}}", character as u32));
        }
    }

    /// A group that captures has a name or none.
    fn open(&mut self, opening: &'static str, capture: Option<Option<String>>) {
        self.groups.extend(capture);
        self.frames.push(Frame { opening, flags: self.flags, ..Frame::default() });
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        if self.frames.len() < 2 {
            return Err(SyntaxError::UnopenedGroup);
        }
        let frame = self.frames.pop().expect("there are two");
        self.flags = frame.flags;
        let piece = frame.finish();
        self.push_nested(piece)
    }

    fn push_nested(&mut self, piece: Piece) -> Result<(), SyntaxError> {
        if piece.depth > DEPTH_MAX {
            return Err(SyntaxError::TooDeep);
        }
        self.top().pieces.push(piece);
        Ok(())
    }

    /// Puts a repetition behind the last piece. Flags and an empty `\Q\E` between them are no pieces.
    fn repeat(&mut self, repeat: Repeat, before: &'a str, repetition: Option<&'a str>) -> Result<(), SyntaxError> {
        let has_question_mark = self.rest.starts_with('?');
        if has_question_mark {
            self.skip(1);
        }
        if let Some(first) = repetition {
            return Err(SyntaxError::RepeatedTwice { operators: shown(taken(first, self.rest)) });
        }
        let operator = taken(before, self.rest);
        let Some(piece) = self.top().pieces.pop() else {
            return Err(SyntaxError::NothingToRepeat { operator: shown(operator) });
        };
        let mut copies = piece.copies;
        if repeat.is_counted {
            copies = match repeat.most {
                Some(0) => 1,
                Some(most) => piece.copies.saturating_mul(most),
                None => piece.copies.saturating_mul(repeat.least.max(1)),
            };
            let is_looked_at = repeat.least >= 2 || repeat.most.is_some_and(|most| most >= 2);
            if is_looked_at && copies > REPEAT_MAX {
                return Err(SyntaxError::RepeatedTooOften { repetition: shown(operator) });
            }
        }
        let Repeat { least, most, .. } = repeat;
        let times = match most {
            None => format!("{{{least},}}"),
            Some(most) => format!("{{{least},{most}}}"),
        };
        let lazy = if self.flags.is_lazy != has_question_mark { "?" } else { "" };
        self.push_nested(Piece { text: format!("(?:{}){times}{lazy}", piece.text), depth: piece.depth + 1, copies })
    }

    /// `(?P<name>`, `(?<name>`, `(?flags:` or `(?flags)`.
    fn special_group(&mut self) -> Result<(), SyntaxError> {
        let before = self.rest;
        if let Some(named) = before.strip_prefix("(?P<").or_else(|| before.strip_prefix("(?<")) {
            let Some((name, rest)) = named.split_once('>') else {
                return Err(SyntaxError::UnnamedGroup { group: shown(before) });
            };
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(SyntaxError::UnnamedGroup { group: shown(taken(before, rest)) });
            }
            self.rest = rest;
            self.open("(", Some(Some(name.to_owned())));
            return Ok(());
        }
        self.skip(2);
        let mut flags = self.flags;
        let (mut value, mut is_flag_missing) = (true, false);
        while let Some(next) = self.rest.chars().next() {
            self.skip(next.len_utf8());
            match next {
                'i' => flags.ignores_case = value,
                'm' => flags.is_multi_line = value,
                's' => flags.dot_takes_newline = value,
                'U' => flags.is_lazy = value,
                '-' if value => {
                    (value, is_flag_missing) = (false, true);
                    continue;
                }
                ':' | ')' if !is_flag_missing => {
                    if next == ':' {
                        self.open("(?:", None);
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => break,
            }
            is_flag_missing = false;
        }
        Err(SyntaxError::UnknownGroup { group: shown(taken(before, self.rest)) })
    }

    /// What a backslash begins, outside of a class.
    fn backslash(&mut self) -> Result<(), SyntaxError> {
        let before = self.rest;
        let assertion = match before.as_bytes().get(1) {
            Some(b'A') => r"\A",
            Some(b'z') => r"\z",
            Some(b'b') => r"(?-u:\b)",
            Some(b'B') => r"(?-u:\B)",
            Some(b'Q') => {
                let (literals, rest) = before[2..].split_once(r"\E").unwrap_or((&before[2..], ""));
                self.rest = rest;
                literals.chars().for_each(|literal| self.literal(literal));
                return Ok(());
            }
            _ => {
                let mut class = Class::default();
                match self.escaped_class()? {
                    Some(text) => class.text.push_str(&text),
                    None => {
                        let code = self.escaped_character()?;
                        if let Some(character) = char::from_u32(code) {
                            self.literal(character);
                            return Ok(());
                        }
                        class.range(code, code);
                    }
                }
                self.push_folded(class.finish());
                return Ok(());
            }
        };
        self.skip(2);
        self.push(assertion);
        Ok(())
    }

    /// `\d` and the like, and `\pN`, as the crate takes them in brackets.
    fn escaped_class(&mut self) -> Result<Option<String>, SyntaxError> {
        let before = self.rest;
        let class = match before.as_bytes().get(1) {
            Some(b'd') => "0-9",
            Some(b'D') => "[^0-9]",
            Some(b's') => r"\x{9}\x{A}\x{C}\x{D}\x{20}",
            Some(b'S') => r"[^\x{9}\x{A}\x{C}\x{D}\x{20}]",
            Some(b'w') => "0-9A-Za-z_",
            Some(b'W') => "[^0-9A-Za-z_]",
            Some(kind @ (b'p' | b'P')) => {
                self.skip(2);
                let first = self.rest.chars().next();
                let (name, rest) = match first {
                    None => ("", ""),
                    // As Go does it: up to the end of the pattern, if need be.
                    Some('{') => self.rest[1..].split_once('}').unwrap_or(("", "")),
                    Some(first) => self.rest.split_at(first.len_utf8()),
                };
                self.rest = rest;
                let (is_inverted, name) = match name.strip_prefix('^') {
                    Some(name) => (*kind == b'p', name),
                    None => (*kind == b'P', name),
                };
                let class = unicode_class(name, is_inverted);
                return class.map(Some).ok_or_else(|| SyntaxError::UnknownRange { range: shown(taken(before, rest)) });
            }
            _ => return Ok(None),
        };
        self.skip(2);
        Ok(Some(class.to_owned()))
    }

    /// A backslash and what stands for one character. As a number: Go knows surrogates here, which match nothing.
    fn escaped_character(&mut self) -> Result<u32, SyntaxError> {
        let before = self.rest;
        let mut characters = before.chars();
        characters.next();
        let octal = |c: &char| c.is_digit(8);
        let first = characters.next();
        let code = match first {
            Some('0'..='7') if first == Some('0') || characters.clone().next().is_some_and(|next| octal(&next)) => {
                let digits = before[1..].chars().take(3).take_while(octal);
                let (count, code) = digits
                    .fold((0, 0), |(count, code), digit| (count + 1, code * 8 + digit.to_digit(8).unwrap_or_default()));
                self.skip(1 + count);
                return Ok(code);
            }
            Some('x') => hexadecimal(&mut characters),
            Some('a') => Some(0x07),
            Some('f') => Some(0x0c),
            Some('n') => Some(0x0a),
            Some('r') => Some(0x0d),
            Some('t') => Some(0x09),
            Some('v') => Some(0x0b),
            Some(other) if other.is_ascii() && !other.is_ascii_alphanumeric() => Some(other as u32),
            _ => None,
        };
        let rest = characters.as_str();
        self.rest = rest;
        code.ok_or_else(|| SyntaxError::UnknownEscape { escape: shown(taken(before, rest)) })
    }

    /// `[..]`
    fn class(&mut self) -> Result<(), SyntaxError> {
        let before = self.rest;
        let mut class = Class::default();
        self.skip(1);
        if self.rest.starts_with('^') {
            self.skip(1);
            class.is_inverted = true;
        }
        let mut is_first = true;
        loop {
            let from = self.rest;
            if from.starts_with(']') && !is_first {
                break self.skip(1);
            }
            is_first = false;
            if from.starts_with("[:")
                && let Some(len) = from[2..].find(":]").map(|len| len + 4)
            {
                let name = &from[..len];
                if !POSIX_CLASSES.contains(&name[2..len - 2].trim_start_matches('^')) || name.starts_with("[:^^") {
                    return Err(SyntaxError::UnknownRange { range: shown(name) });
                }
                class.text.push_str(name);
                self.skip(len);
                continue;
            }
            if from.starts_with('\\')
                && let Some(text) = self.escaped_class()?
            {
                class.text.push_str(&text);
                continue;
            }
            let first = self.class_character(before)?;
            let mut last = first;
            if self.rest.starts_with('-') && self.rest.len() >= 2 && !self.rest.starts_with("-]") {
                self.skip(1);
                last = self.class_character(before)?;
            }
            if last < first {
                return Err(SyntaxError::UnknownRange { range: shown(taken(from, self.rest)) });
            }
            class.range(first, last);
        }
        self.push_folded(class.finish());
        Ok(())
    }

    fn class_character(&mut self, class: &str) -> Result<u32, SyntaxError> {
        match self.rest.chars().next() {
            None => Err(SyntaxError::UnclosedClass { class: shown(class) }),
            Some('\\') => self.escaped_character(),
            Some(other) => {
                self.skip(other.len_utf8());
                Ok(other as u32)
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Repeat {
    least: u32,
    most: Option<u32>,
    /// `{..}`: only these count towards [`REPEAT_MAX`].
    is_counted: bool,
}

/// The same names mean the same in both.
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// A class as the crate takes it.
#[derive(Debug, Default)]
struct Class {
    is_inverted: bool,
    /// What stands between the brackets.
    text: String,
}

impl Class {
    /// Surrogates are left out: they are in no text, and the crate does not know them.
    fn range(&mut self, first: u32, last: u32) {
        const SURROGATES: std::ops::RangeInclusive<u32> = 0xD800..=0xDFFF;
        let first = if SURROGATES.contains(&first) { SURROGATES.end() + 1 } else { first };
        let last = if SURROGATES.contains(&last) { SURROGATES.start() - 1 } else { last };
        if first <= last {
            self.text.push_str(&format!(r"\x{{{first:X}}}-\x{{{last:X}}}"));
        }
    }

    fn finish(self) -> String {
        match (self.text.is_empty(), self.is_inverted) {
            (false, false) => format!("[{}]", self.text),
            (false, true) => format!("[^{}]", self.text),
            (true, true) => EVERYTHING.into(),
            (true, false) => NOTHING.into(),
        }
    }
}

const EVERYTHING: &str = r"[\x{0}-\x{10FFFF}]";
const NOTHING: &str = r"[^\x{0}-\x{10FFFF}]";

const SCRIPTS_OF_FOUR_LETTERS: [&str; 9] = ["ahom", "cham", "kawi", "lisu", "miao", "modi", "newa", "thai", "toto"];

/// A class of Unicode by its name; `None` if there is none.
fn unicode_class(name: &str, is_inverted: bool) -> Option<String> {
    let plain: String = name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).collect::<String>().to_ascii_lowercase();
    // The crate takes `is` for a mere ornament.
    if plain.is_empty() || !plain.bytes().all(|byte| byte.is_ascii_alphanumeric()) || plain.starts_with("is") {
        return None;
    }
    let (is_inverted, class) = match &*plain {
        "any" => (is_inverted, EVERYTHING.to_owned()),
        "ascii" => (is_inverted, "[:ascii:]".to_owned()),
        "assigned" => (!is_inverted, r"\p{gc=Cn}".to_owned()),
        "cs" | "surrogate" => (is_inverted, NOTHING.to_owned()),
        name => {
            let category = Some(format!(r"\p{{gc={name}}}"));
            // The crate takes a script's code for its name, and all codes have four letters.
            let is_code = name.len() == 4 && !SCRIPTS_OF_FOUR_LETTERS.contains(&name);
            let script = (!is_code).then(|| format!(r"\p{{sc={name}}}"));
            let mut classes = [category, script].into_iter().flatten();
            (is_inverted, classes.find(|class| regex::Regex::new(class).is_ok())?)
        }
    };
    Some(if is_inverted { format!("[^{class}]") } else { class })
}

/// `{2}`, `{2,}` or `{2,3}` at the start of a text, and what follows. Numbers too large to count are the largest.
fn counts(text: &str) -> Option<(u32, Option<u32>, &str)> {
    let (least, rest) = number(text.strip_prefix('{')?)?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((least, Some(least), rest));
    }
    let rest = rest.strip_prefix(',')?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((least, None, rest));
    }
    let (most, rest) = number(rest)?;
    Some((least, Some(most), rest.strip_prefix('}')?))
}

/// Without zeroes in front.
fn number(text: &str) -> Option<(u32, &str)> {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(len);
    if digits.is_empty() || (len > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().unwrap_or(u32::MAX), rest))
}

/// What follows `\x`.
fn hexadecimal(characters: &mut std::str::Chars<'_>) -> Option<u32> {
    let first = characters.next()?;
    if first != '{' {
        let (high, low) = (first.to_digit(16), characters.next()?.to_digit(16)?);
        return Some(high? * 16 + low);
    }
    let mut code = None;
    loop {
        let next = characters.next()?;
        if next == '}' {
            return code;
        }
        let value = code.unwrap_or(0) * 16 + next.to_digit(16)?;
        if value > char::MAX as u32 {
            return None;
        }
        code = Some(value);
    }
}

/// What was read of `before` when `rest` is left.
fn taken<'a>(before: &'a str, rest: &str) -> &'a str {
    &before[..before.len() - rest.len()]
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}
