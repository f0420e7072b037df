//! A rule's regular expression and the templates that are filled from what it matches. Pure.
//!
//! The expression must match the whole text: it is compiled as `^(?s:..)$`, put together as text as Prometheus does it, so that
//! even `a)|(?:b` means here what it means there.
//!
//! A template is Go's: `$name` takes the longest run of letters, digits and underscores (`$1x` is the group named `1x`, which there is
//! not, hence empty), `${name}` ends where it says, `$$` is `$`, and a `$` before anything else is itself.

use std::sync::LazyLock;

use regex::{Captures, Regex, RegexBuilder};

use super::syntax::{self, DEPTH_MAX, SyntaxError};

/// No receiver takes a name or a value of this size; what grows beyond it is given up before it takes memory.
pub const TEXT_BYTES_MAX: usize = 16 << 20;

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// The groups that capture, from the first on.
    groups: Vec<Option<String>>,
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Prometheus would not take it either, or it is nested too deep.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// Prometheus may take it.
    #[error("compiled it is larger than {limit} bytes")]
    TooLarge {
        /// The engine's own.
        limit: usize,
    },
    /// A fault of ours.
    #[error("the engine does not take it: {0}")]
    Engine(String),
}

impl Pattern {
    /// Compiles an expression as a rule has it.
    ///
    /// # Errors
    /// What Go refuses, and what is too large or too deep.
    pub fn new(expression: &str) -> Result<Pattern, PatternError> {
        let translated = syntax::translate(&format!("^(?s:{expression})$"))?;
        let built = RegexBuilder::new(&translated.pattern)
            // Groups and repetitions are up to four deep where Go has one; what is deeper was refused already.
            .nest_limit(8 * DEPTH_MAX)
            .build();
        match built {
            Ok(regex) => Ok(Pattern { regex, groups: translated.groups }),
            Err(regex::Error::CompiledTooBig(limit)) => Err(PatternError::TooLarge { limit }),
            Err(error) => Err(PatternError::Engine(error.to_string())),
        }
    }

    /// Whether it matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The leftmost match.
    #[must_use]
    pub fn captures<'t>(&self, text: &'t str) -> Option<Captures<'t>> {
        self.regex.captures(text)
    }

    /// Every match in a text replaced. (There can be several, as nobody keeps an expression from leaving its brackets.) `None`: the result is too large.
    #[must_use]
    pub fn replace_all(&self, text: &str, template: &Template) -> Option<String> {
        let (mut replaced, mut copied) = (String::new(), 0);
        for captures in self.regex.captures_iter(text) {
            let Some(whole) = captures.get(0) else { continue };
            replaced.push_str(&text[copied..whole.start()]);
            copied = whole.end();
            template.fill(&captures, &mut replaced)?;
        }
        replaced.push_str(&text[copied..]);
        Some(replaced)
    }
}

/// A text with places for groups.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// The first of these groups that took part.
    Groups(Vec<usize>),
}

/// Go's `unicode.IsLetter` and `unicode.IsDigit`, which are fewer than `char::is_alphanumeric`.
static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\A[\p{L}\p{Nd}_]+").expect("it is in a test"));

/// A larger number is a name in Go, that of no group.
const GROUP_DIGITS_MAX: usize = 9;

impl Template {
    /// Reads a template; every text is one.
    #[must_use]
    pub fn new(text: &str, pattern: &Pattern) -> Template {
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            rest = after;
            if let Some(after) = rest.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let Some((name, after)) = group_name(rest) else {
                literal.push('$');
                continue;
            };
            rest = after;
            let groups = groups_of(name, pattern);
            if !groups.is_empty() {
                parts.extend((!literal.is_empty()).then(|| Part::Text(std::mem::take(&mut literal))));
                parts.push(Part::Groups(groups));
            }
        }
        literal.push_str(rest);
        parts.extend((!literal.is_empty()).then_some(Part::Text(literal)));
        Template { parts }
    }

    /// The text, if it is the same for every match.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Writes the text for a match behind another. `None`: that is too large, and only a part was written.
    #[must_use]
    pub fn fill(&self, captures: &Captures<'_>, text: &mut String) -> Option<()> {
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Groups(groups) => {
                    let group = groups.iter().find_map(|group| captures.get(*group));
                    text.push_str(group.map_or("", |group| group.as_str()));
                }
            }
            if text.len() > TEXT_BYTES_MAX {
                return None;
            }
        }
        Some(())
    }
}

/// The name behind a `$`, with or without its braces, and what follows.
fn group_name(text: &str) -> Option<(&str, &str)> {
    let (in_braces, text) = match text.strip_prefix('{') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (name, rest) = text.split_at(NAME.find(text)?.end());
    Some((name, if in_braces { rest.strip_prefix('}')? } else { rest }))
}

fn groups_of(name: &str, pattern: &Pattern) -> Vec<usize> {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit())
        && name.len() <= GROUP_DIGITS_MAX
        && (name == "0" || !name.starts_with('0'));
    if is_number {
        let number = name.parse().ok().filter(|number| *number <= pattern.groups.len());
        return number.into_iter().collect();
    }
    let named = pattern.groups.iter().zip(1..).filter(|(group, _)| group.as_deref() == Some(name));
    named.map(|(_, number)| number).collect()
}
