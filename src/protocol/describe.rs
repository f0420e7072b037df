//! A series as people read it, for logs and lists.

use std::fmt::Write as _;

use super::Protocol;
use super::entries::{label_1, symbols_2};
use super::labels::METRIC_NAME;
use super::rewrite::Label;
use super::text::visible;
use super::wire::{Fields, Value, each_varint};

/// A description is never longer, in bytes.
pub const DESCRIPTION_LEN_MAX: usize = 512;

/// The series of one entry for logs, as Prometheus writes it: `name{label="value", ..}`, the labels in the order of the request. Names
/// that need it and values are quoted and escaped, bytes that are not UTF-8 replaced. At most [`DESCRIPTION_LEN_MAX`] bytes: what is
/// longer ends in `...`.
///
/// `None` if there is no entry with this number (counted from 0), or its labels cannot be read.
#[must_use]
pub fn describe(protocol: Protocol, message: &[u8], entry: usize) -> Option<String> {
    let (labels, are_all) = labels(protocol, message, entry)?;
    are_all.then(|| description(&labels, DESCRIPTION_LEN_MAX))
}

/// The same of a series that may be invalid, with those of its labels that can be read and in at most `len_max` bytes. `None` if there are
/// none.
#[must_use]
pub fn describe_readable(protocol: Protocol, message: &[u8], entry: usize, len_max: usize) -> Option<String> {
    let (labels, _) = labels(protocol, message, entry)?;
    (!labels.is_empty()).then(|| visible(&description(&labels, len_max)))
}

/// More do not fit into a description.
const LABELS_SHOWN_MAX: usize = DESCRIPTION_LEN_MAX;

/// The labels of an entry that can be read, and whether these are all.
fn labels(protocol: Protocol, message: &[u8], entry: usize) -> Option<(Vec<Label<'_>>, bool)> {
    let mut labels = Vec::new();
    let mut are_all = true;
    match protocol {
        Protocol::V1 => {
            let mut series = nth(message, 1, entry)?;
            loop {
                match series.next_field() {
                    Ok(Some((1, Value::Bytes(label)))) if labels.len() < LABELS_SHOWN_MAX => {
                        match label_1(label.rest(), label.offset()) {
                            Ok(label) => labels.push(label),
                            Err(_) => are_all = false,
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Some((labels, false)),
                }
            }
        }
        Protocol::V2 => {
            let symbols = symbols_2(message, |symbol| symbol).ok()?;
            let mut series = nth(message, 5, entry)?;
            let mut references = Vec::new();
            let mut is_odd = false;
            while let Some((number, value)) = series.next_field().ok()? {
                if number == 1 {
                    let take = |reference| {
                        is_odd = !is_odd;
                        if references.len() < 2 * LABELS_SHOWN_MAX {
                            references.push(reference as u32);
                        }
                    };
                    each_varint(&series, value, take).ok()?;
                }
            }
            are_all = !is_odd;
            for [name, value] in references.as_chunks::<2>().0 {
                match symbols.get(*name as usize).zip(symbols.get(*value as usize)) {
                    Some((name, value)) => labels.push((*name, *value)),
                    None => are_all = false,
                }
            }
        }
    }
    Some((labels, are_all))
}

/// The content of the `n`th field with this number.
fn nth(message: &[u8], wanted: u32, n: usize) -> Option<Fields<'_>> {
    let mut fields = Fields::new(message);
    std::iter::from_fn(|| fields.next_field().ok().flatten())
        .filter(|(number, _)| *number == wanted)
        .nth(n)
        .and_then(|(_, value)| if let Value::Bytes(content) = value { Some(content) } else { None })
}

fn description(labels: &[Label<'_>], len_max: usize) -> String {
    let mut text = String::new();
    let metric_name = labels.iter().find(|(name, _)| *name == METRIC_NAME).map(|(_, value)| *value);
    let plain_metric_name = metric_name.filter(|name| is_plain(name, true));
    push_text(&mut text, plain_metric_name.unwrap_or_default(), true);
    text.push('{');
    let mut separator = "";
    if let (Some(name), None) = (metric_name, plain_metric_name) {
        push_text(&mut text, name, false);
        separator = ", ";
    }
    for (name, value) in labels.iter().filter(|(name, _)| *name != METRIC_NAME) {
        text.push_str(separator);
        push_text(&mut text, name, is_plain(name, false));
        text.push('=');
        push_text(&mut text, value, false);
        separator = ", ";
        if text.len() > len_max {
            break;
        }
    }
    text.push('}');
    if text.len() > len_max {
        text.truncate(text.floor_char_boundary(len_max - 3));
        text.push_str("...");
    }
    text
}

/// Whether a name may stand without quotes.
fn is_plain(name: &[u8], may_have_colons: bool) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || (may_have_colons && byte == b':');
    name.first().is_some_and(|first| is_letter(*first))
        && name.iter().all(|byte| is_letter(*byte) || byte.is_ascii_digit())
}

/// Of a long text the front only: more than fits into the description, so that it shows as cut.
fn push_text(to: &mut String, text: &[u8], is_plain: bool) {
    let shown = &text[..text.len().min(DESCRIPTION_LEN_MAX + 4)];
    let shown = String::from_utf8_lossy(shown);
    if is_plain {
        to.push_str(&shown);
    } else {
        write!(to, "{shown:?}").expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::arbitrary::{both, request, series};
    use super::*;

    #[test]
    fn a_series_is_described_as_prometheus_writes_it() {
        let all = [
            (series(&[("__name__", "up"), ("job", "x"), ("path", "a\"b\\c\n")]), r#"up{job="x", path="a\"b\\c\n"}"#),
            (series(&[("job", "x"), ("__name__", "job:up:sum")]), r#"job:up:sum{job="x"}"#),
            (series(&[("__name__", "温度"), ("länge:m", "é")]), r#"{"温度", "länge:m"="é"}"#),
            (series(&[("__name__", "up")]), "up{}"),
            (series(&[("1a", "x")]), r#"{"1a"="x"}"#),
        ];
        for (protocol, message) in both(all.iter().map(|(series, _)| series.clone()).collect()) {
            for (n, (_, expected)) in all.iter().enumerate() {
                assert_eq!(describe(protocol, &message, n).unwrap(), *expected);
            }
            assert_eq!(describe(protocol, &message, all.len()), None);
            assert_eq!(describe(protocol, &message[..message.len() - 1], all.len() - 1), None);
        }
    }

    #[test]
    fn a_description_is_cut_between_characters() {
        for ascii in 480..=520 {
            let text = "a".repeat(ascii) + &"é".repeat(20);
            let value =
                describe(Protocol::V1, &request(vec![series(&[("__name__", "n"), ("l", &text)])]).encode_to_vec(), 0)
                    .unwrap();
            let name =
                describe(Protocol::V1, &request(vec![series(&[("__name__", "n"), (&text, "v")])]).encode_to_vec(), 0)
                    .unwrap();
            for description in [value, name] {
                assert!(
                    description.len() <= DESCRIPTION_LEN_MAX && description.len() >= DESCRIPTION_LEN_MAX - 4,
                    "{}",
                    description.len()
                );
                assert!(description.starts_with("n{") && description.ends_with("..."), "{description}");
                assert!(!description.contains('\u{fffd}'));
            }
        }
        let long_name = "a".repeat(DESCRIPTION_LEN_MAX - 2);
        let description = |name: &str| {
            describe(Protocol::V1, &request(vec![series(&[("__name__", name)])]).encode_to_vec(), 0).unwrap()
        };
        assert_eq!(description(&long_name), format!("{long_name}{{}}"), "exactly as long as it may be");
        assert_eq!(description(&"a".repeat(1 << 20)), "a".repeat(DESCRIPTION_LEN_MAX - 3) + "...");
    }
}
