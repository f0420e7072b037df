//! What comes out of the program.
//!
//! Every visit ends the same way: the relay is ready, takes and delivers a new request, and after a clean stop and another start it has
//! nothing more to say: the same ledger, nothing delivered again.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::base::{SERIES, TARGET};
use crate::expected::Expected;
use crate::image::Image;
use crate::support::relay::{Config, Relay};
use crate::support::request::{Protocol, numbered};
use crate::support::sink::Sink;
use crate::support::{client, ledger};

const SOON: Duration = Duration::from_secs(60);
/// The numbers of the new requests.
const NEW: u64 = 1000;
/// Of thousands of images the program is started on one in so many.
pub const EVERY: usize = 500;

/// What is done before the one start that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    /// Nothing.
    Nothing,
    /// Two starts without a target that answers, each killed.
    TwoCrashes,
}

/// What was seen of an exhibit.
pub struct Seen {
    /// Of the stored requests, the new ones left out.
    pub numbers: Vec<u64>,
    pub lost: u64,
    /// `wal.damage` of the status.
    pub damage: Value,
    /// What the directory was when the last process had ended.
    pub relay: Relay,
}

/// How often the program is started on images of which there are thousands.
pub fn every() -> usize {
    std::env::var("PROMRELAY_MUSEUM_VISITS").map_or(EVERY, |text| text.parse().expect("a number"))
}

/// A relay that is not started yet, with a directory that is not there yet.
pub fn relay(url: &str, lines: &[&str]) -> Relay {
    let config = Config::new().wal("max_size = \"64MiB\"").wal("segment_size = \"1MiB\"");
    config.target(TARGET, url, lines).prepare()
}

/// Starts the program on an image, to which `prepare` does what cannot be done to bytes.
pub async fn visit(image: &Image, prepare: impl FnOnce(&Path), prelude: Prelude, lines: &[&str]) -> Seen {
    let sink = Sink::start().await;
    let mut relay = relay(&sink.url(), lines);
    image.write(&relay.wal_dir());
    prepare(&relay.wal_dir());
    if prelude == Prelude::TwoCrashes {
        relay.config = relay.config.clone().target(TARGET, "http://127.0.0.1:9/", lines);
        for _ in 0..2 {
            relay.start().await;
            relay.kill_9().await;
        }
        relay.config = relay.config.clone().target(TARGET, &sink.url(), lines);
    }
    relay.start().await;
    take(&relay, NEW).await;
    let status = relay.drained(SOON).await;
    assert_eq!(status["ready"], true, "{status}");
    let told = ledger::of_status(&status)[TARGET].clone();
    let numbers = numbers(&sink);

    relay.restart().await;
    let again = ledger::of_status(&relay.drained(SOON).await)[TARGET].clone();
    assert_eq!(again, told, "a second start says the same");
    take(&relay, NEW + 1).await;
    relay.drained(SOON).await;
    sink.assert_strict();
    let expected: Vec<u64> = numbers.iter().copied().chain([NEW + 1]).collect();
    assert_eq!(self::numbers(&sink), expected, "a second start delivers what is new, and nothing else");
    assert_eq!(sink.counts().repeated, 0);
    let (code, _) = relay.terminate().await;
    assert!(code.success(), "{code}");

    assert!(!relay.log().contains("cannot seal"), "it cannot be known at the next start without a scan");
    let (new, numbers): (Vec<u64>, Vec<u64>) = numbers.into_iter().partition(|number| *number >= NEW);
    assert_eq!(new, [NEW], "what is new comes once");
    Seen { numbers, lost: told.settled["lost"], damage: status["wal"]["damage"].clone(), relay }
}

async fn take(relay: &Relay, number: u64) {
    let answer = numbered(Protocol::V1, "a", number).send(&client(), &relay.write_url()).await.unwrap();
    assert_eq!(answer.status(), 204);
}

fn numbers(sink: &Sink) -> Vec<u64> {
    sink.samples(SERIES).into_iter().map(|(_, value)| value as u64).collect()
}

impl Seen {
    /// Exactly this came out.
    pub fn assert(&self, expected: &Expected, what: &str) {
        assert_eq!(self.numbers, expected.numbers(), "{what}: {}", self.damage);
        assert_eq!(self.lost, expected.lost, "{what}: {}", self.damage);
    }

    /// What the status says is wrong: kinds of findings, and samples in all.
    pub fn assert_damage(&self, kinds: &[&str], samples: u64, what: &str) {
        let findings = self.damage["findings"].as_array().unwrap();
        let told: Vec<&str> = findings.iter().map(|finding| finding["kind"].as_str().unwrap()).collect();
        assert_eq!((told, &self.damage["samples"]), (kinds.to_vec(), &samples.into()), "{what}: {}", self.damage);
        assert_eq!(self.damage["count"], kinds.len(), "{what}: {}", self.damage);
    }
}
