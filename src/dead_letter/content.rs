//! What an entry's body says, for people: samples as lines of text, as many as somebody can read.

use prost::Message;

use super::entry::{SERIES_LEN_MAX, shortened};
use crate::protocol::Protocol;
use crate::protocol::messages::{v1, v2};
use crate::protocol::text::{Number, series};

/// A body taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Series in it.
    pub series: u64,
    /// Samples and histograms in it.
    pub samples: u64,
    /// The first samples, `name{a="b"} value @ms` each.
    pub lines: Vec<String>,
}

/// Why a body cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The compression.
    #[error("the body cannot be decompressed")]
    Snappy(#[from] snap::Error),
    /// The message.
    #[error("the body is not a message of its protocol")]
    Protobuf(#[from] prost::DecodeError),
}

/// Takes a body apart; of its samples the first `lines_max` are shown.
///
/// # Errors
/// [`ContentError`].
pub fn content(protocol: Protocol, body: &[u8], lines_max: usize) -> Result<Content, ContentError> {
    let message = snap::raw::Decoder::new().decompress_vec(body)?;
    Ok(match protocol {
        Protocol::V1 => of_v1(&v1::WriteRequest::decode(&*message)?, lines_max),
        Protocol::V2 => of_v2(&v2::Request::decode(&*message)?, lines_max),
    })
}

/// The labels of the first series of a body, shortened as in an entry; nothing if there is none or it cannot be read.
#[must_use]
pub fn describe_first(protocol: Protocol, body: &[u8]) -> String {
    let Ok(message) = snap::raw::Decoder::new().decompress_vec(body) else { return String::new() };
    let described = match protocol {
        Protocol::V1 => v1::WriteRequest::decode(&*message)
            .ok()
            .and_then(|request| request.timeseries.first().map(|entry| series(&pairs_of_v1(&entry.labels)))),
        Protocol::V2 => v2::Request::decode(&*message).ok().and_then(|request| {
            request.timeseries.first().map(|entry| series(&pairs_of_v2(&request.symbols, &entry.labels_refs)))
        }),
    };
    shortened(&described.unwrap_or_default(), SERIES_LEN_MAX).to_owned()
}

fn pairs_of_v1(labels: &[v1::Label]) -> Vec<(&str, &str)> {
    labels.iter().map(|label| (&*label.name, &*label.value)).collect()
}

fn pairs_of_v2<'a>(symbols: &'a [String], places: &[u32]) -> Vec<(&'a str, &'a str)> {
    let symbol = |place: Option<&u32>| {
        let known = place.and_then(|place| symbols.get(usize::try_from(*place).unwrap_or(usize::MAX)));
        known.map_or("(no symbol)", |symbol| symbol)
    };
    places.chunks(2).map(|pair| (symbol(pair.first()), symbol(pair.get(1)))).collect()
}

impl Content {
    fn show(&mut self, lines_max: usize, line: impl FnOnce() -> String) {
        self.samples += 1;
        if self.lines.len() < lines_max {
            self.lines.push(line());
        }
    }
}

/// The message is the same in both protocols, as far as it is shown.
macro_rules! show_series {
    ($version:ident, $content:expr, $lines_max:expr, $entry:expr, $pairs:expr) => {{
        use $version::histogram::Count;
        $content.series += 1;
        for sample in &$entry.samples {
            $content.show($lines_max, || format!("{} {} @{}", series(&$pairs), Number(sample.value), sample.timestamp));
        }
        for histogram in &$entry.histograms {
            $content.show($lines_max, || {
                let count = match histogram.count {
                    Some(Count::CountFloat(count)) => Number(count).to_string(),
                    Some(Count::CountInt(count)) => count.to_string(),
                    None => "0".to_owned(),
                };
                let (sum, schema) = (Number(histogram.sum), histogram.schema);
                format!(
                    "{} histogram count={count} sum={sum} schema={schema} @{}",
                    series(&$pairs),
                    histogram.timestamp
                )
            });
        }
    }};
}

fn of_v1(request: &v1::WriteRequest, lines_max: usize) -> Content {
    let mut content = Content::default();
    for entry in &request.timeseries {
        show_series!(v1, content, lines_max, entry, pairs_of_v1(&entry.labels));
    }
    content
}

fn of_v2(request: &v2::Request, lines_max: usize) -> Content {
    let mut content = Content::default();
    for entry in &request.timeseries {
        show_series!(v2, content, lines_max, entry, pairs_of_v2(&request.symbols, &entry.labels_refs));
    }
    content
}
