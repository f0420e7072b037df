//! Samples that a test sends to the relay itself, so that it knows what a target must take and what it must refuse.

use std::time::SystemTime;

use axum::http::StatusCode;

use crate::process::http;
use crate::request::{Protocol, Request};
use crate::samples::{Holdings, Value};

/// The name of all series that are sent so.
pub const NAME: &str = "sent";

/// One sample of the series `sent{series="<series>"}`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub series: usize,
    /// In ms since 1970.
    pub at: i64,
    pub value: f64,
}

/// A sample at `at` of each of the first `series` series. The values tell series and times apart.
pub fn scrape(series: usize, at: i64) -> Vec<Sample> {
    (0..series).map(|series| Sample { series, at, value: (at / 1000) as f64 + series as f64 / 1024.0 }).collect()
}

/// Sends these samples in one request, a time series message for each as Prometheus does it; the relay must take it.
pub async fn send(write_url: &str, samples: &[Sample]) {
    let request = samples.iter().fold(Request::new(), |request, sample| {
        let series = sample.series.to_string();
        request.series(&[("__name__", NAME), ("series", &series)], &[(sample.at, sample.value)])
    });
    let answer = request.post(Protocol::V1).send(http(), write_url).await.expect("the relay answers");
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

/// What a server holds that has just these samples.
pub fn holdings<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Holdings {
    let parts = samples.into_iter().map(|sample| {
        let labels = [("__name__", NAME.to_owned()), ("series", sample.series.to_string())];
        let labels = labels.map(|(name, value)| (name.to_owned(), value));
        (labels.into(), vec![(sample.at, Value::Float(sample.value.to_bits()))])
    });
    parts.collect()
}

/// The time now, in ms since 1970.
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    now.as_millis() as i64
}
