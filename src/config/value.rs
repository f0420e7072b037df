//! Values as they are written in `config.toml`: sizes, durations, and strings in which `${NAME}` is the environment's.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// A string, with the environment's variables put in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Text(pub String);

/// `"64MiB"`, `"10GB"`, `"512 KiB"`: a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// `"30ms"`, `"5s"`, `"1h 30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A number of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

impl Count {
    /// As a `usize`; what is more than that can hold is as good as no limit.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Count, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, not below 0")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
                let number = u64::try_from(number);
                number.map(Count).map_err(|_| E::custom("must be a whole number, not below 0"))
            }
        }

        deserializer.deserialize_any(Whole)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_any(Expecting("a string", |text| Ok(Text(text))))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        let parse = |text: String| match text.parse::<bytesize::ByteSize>() {
            Ok(size) => Ok(Size(size.as_u64())),
            Err(_) => Err(format!("{text:?} is not a size such as \"64MiB\"")),
        };
        deserializer.deserialize_any(Expecting("a size such as \"64MiB\"", parse))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let parse = |text: String| match humantime::parse_duration(&text) {
            Ok(duration) => Ok(Span(duration)),
            Err(error) => Err(format!("{text:?} is not a duration such as \"30s\": {error}")),
        };
        deserializer.deserialize_any(Expecting("a duration such as \"30s\"", parse))
    }
}

/// Takes a string, expands it, parses it.
struct Expecting<F>(&'static str, F);

impl<F: FnOnce(String) -> Result<T, String>, T> Visitor<'_> for Expecting<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let text = expand(text, |name| std::env::var(name).ok()).map_err(E::custom)?;
        (self.1)(text).map_err(E::custom)
    }
}

/// Puts the values of variables in the place of `${NAME}`. A `$` without a brace stays.
fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        let (name, behind) = behind.split_once('}').ok_or_else(|| format!("{text:?}: \"${{\" without \"}}\""))?;
        expanded.push_str(before);
        expanded.push_str(&variable(name).ok_or_else(|| format!("the environment has no variable {name:?}"))?);
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_and_missing_ones_are_named() {
        let variable = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let run = |text| expand(text, variable);
        assert_eq!(run("a"), Ok("a".into()));
        assert_eq!(run("${HOME}/x ${HOME} $5"), Ok("/root/x /root $5".into()));
        assert_eq!(run("${NO}"), Err("the environment has no variable \"NO\"".into()));
        assert!(run("${HOME").is_err());
    }
}
