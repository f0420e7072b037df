//! A relay starts on what a power cut has left: what was acknowledged is at one sink or the other, and nothing else is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::history::History;
use super::image::{Cut, Fate, Image, Syncs};
use super::places;
use super::recording::{Recording, client_of, config, numbered, request, series};
use crate::support::relay::Relay;
use crate::support::request::FIRST_TIMESTAMP;
use crate::support::sink::Sink;
use crate::support::{client, eventually, ledger};

const SOON: Duration = Duration::from_secs(60);
const CALLS_SHOWN: usize = 25;

/// What one image has shown.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub fate: Fate,
    /// Acknowledged and neither here nor there: numbers by client.
    pub missing: BTreeMap<usize, Vec<u64>>,
    /// Requests that the first sink had and the second one got again.
    pub sent_twice: usize,
    /// Requests that the second sink got.
    pub delivered: usize,
    pub lost_samples: u64,
}

impl Outcome {
    /// What must not be.
    pub fn complaint(&self, sync: &str) -> Option<String> {
        if !self.missing.is_empty() {
            return Some(format!("acknowledged and missing, by client: {:?}", self.missing));
        }
        // With another mode, something behind what was lost may have reached the disk before it.
        (sync == "always" && self.lost_samples > 0)
            .then(|| format!("{} samples were booked as lost", self.lost_samples))
    }
}

/// What else is done with an image after its first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// A few more requests are sent.
    GoesOn,
    /// They are sent, and the relay is killed and started again.
    StartsAgain,
}

impl Then {
    pub fn any(random: &mut fastrand::Rng) -> Then {
        match random.u8(..10) {
            0 => Then::GoesOn,
            1 => Then::StartsAgain,
            _ => Then::Nothing,
        }
    }
}

/// Numbers that must be there after a cut.
///
/// With `"always"` whatever was acknowledged. Else what was acknowledged, and then everything that had been written
/// to segments was synced: those that cannot have been missed. With an interval a start that is over has made durable
/// what it found.
fn required(recording: &Recording, cut: Cut) -> Vec<(usize, u64)> {
    let (history, restart) = (&recording.history, recording.restart);
    let until = history.until(cut.line);
    let synced = synced_until(history, cut.line);
    let durable = match recording.sync.as_str() {
        "always" => until,
        "never" => synced,
        _ if history.stamps[cut.line] > restart.ready => synced.max(restart.killed),
        _ => synced,
    };
    let before = recording.sent.iter().filter(|sent| sent.acknowledged < until.min(durable));
    before.map(|sent| (sent.client, sent.number)).collect()
}

/// The moment of the first write to a segment that no sync had covered at the cut.
fn synced_until(history: &History, cut: usize) -> i64 {
    let open = history.segments().flat_map(|file| file.unsynced_writes(cut)).map(|span| history.stamps[span.entered]);
    open.min().unwrap_or(i64::MAX)
}

/// Starts relays on images, one after the other, in one directory.
pub struct Bench {
    relay: Option<Relay>,
    http: reqwest::Client,
}

impl Bench {
    pub fn new() -> Bench {
        Bench { relay: None, http: client() }
    }

    /// Starts a relay on an image, lets it deliver, and compares. Panics where a relay does what it never may.
    pub async fn check(&mut self, recording: &Recording, cut: Cut, syncs: Syncs, then: Then) -> Outcome {
        let sink = places::sink().await;
        let config = config(&recording.sync, &sink);
        // Taken, so that it is left as it is after a panic.
        let mut relay = match self.relay.take() {
            Some(relay) => relay,
            None => places::relay(config.clone()).await,
        };
        relay.config = config;
        let image = Image::build(&recording.history, cut, syncs);
        image.write(relay.dir());
        places::start(&mut relay).await;
        let lost_samples = settled(&relay).await;
        let mut outcome = judge(recording, cut, &sink, &image);
        outcome.lost_samples = lost_samples;
        if outcome.missing.is_empty() && then != Then::Nothing {
            go_on(recording, &mut relay, &sink, &self.http, then).await;
        }
        relay.kill_9().await;
        sink.stop().await;
        fs::remove_dir_all(relay.wal_dir()).unwrap();
        self.relay = Some(relay);
        outcome
    }
}

/// Waits until everything is delivered; the samples that were lost. None is settled in another way.
async fn settled(relay: &Relay) -> u64 {
    let status = relay.drained(SOON).await;
    assert_eq!(status["ready"], true, "{status}");
    let ledger = &ledger::of_status(&status)["sink"];
    let others = ledger.settled.iter().filter(|(way, _)| !["delivered", "lost"].contains(&way.as_str()));
    assert_eq!(others.map(|(_, samples)| samples).sum::<u64>(), 0, "{ledger:?}");
    ledger.settled["lost"]
}

fn judge(recording: &Recording, cut: Cut, sink: &Sink, image: &Image) -> Outcome {
    sink.assert_strict();
    let until = recording.history.until(cut.line);
    let earlier: HashSet<(usize, u64)> =
        recording.sent.iter().filter(|sent| sent.stored < until).map(|sent| (sent.client, sent.number)).collect();
    let mut outcome = Outcome { fate: image.fate, ..Outcome::default() };
    let mut now = HashSet::new();
    for request in sink.requests().iter().filter(|request| request.is_stored) {
        let mut is_repeated = false;
        for sample in &request.samples {
            let number = sample.value as u64;
            let is_sent = recording.expected.get(&*sample.series).is_some_and(|numbers| numbers.contains(&number));
            let is_whole = sample.timestamp == FIRST_TIMESTAMP + number as i64 && sample.value == number as f64;
            assert!(is_sent && is_whole, "this was never sent: {sample:?}");
            if let Some(client) = client_of(&sample.series) {
                is_repeated |= earlier.contains(&(client, number)) || sample.copies > 0;
                now.insert((client, number));
            }
        }
        outcome.delivered += 1;
        outcome.sent_twice += usize::from(is_repeated);
    }
    for number in required(recording, cut) {
        if !earlier.contains(&number) && !now.contains(&number) {
            outcome.missing.entry(number.0).or_default().push(number.1);
        }
    }
    outcome.missing.values_mut().for_each(|numbers| numbers.sort_unstable());
    outcome
}

/// A few more requests of each client, and perhaps another start.
async fn go_on(recording: &Recording, relay: &mut Relay, sink: &Sink, http: &reqwest::Client, then: Then) {
    const MORE: u64 = 3;
    let mut new: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (client, count) in recording.counts().into_iter().enumerate() {
        for number in count..count + MORE {
            let answer = request(client, number).send(http, &relay.write_url()).await.unwrap();
            assert_eq!(answer.status(), 204, "after the cut");
            for series in series(client, number) {
                new.entry(series).or_default().insert(number);
            }
        }
    }
    if then == Then::StartsAgain {
        relay.kill_9().await;
        places::start(relay).await;
    }
    for (client, count) in recording.counts().into_iter().enumerate() {
        let is_there = |sent: u64| sink.samples(&numbered(client)).iter().any(|(_, value)| *value as u64 == sent);
        let all = async || (count..count + MORE).all(is_there).then_some(());
        eventually("what was sent after the cut is delivered", SOON, all).await;
    }
    settled(relay).await;
    sink.assert_strict();
    let is_sent = |series: &str, number: u64| {
        [new.get(series), recording.expected.get(series)].into_iter().flatten().any(|numbers| numbers.contains(&number))
    };
    for sample in sink.requests().iter().flat_map(|request| &request.samples) {
        assert!(is_sent(&sample.series, sample.value as u64), "this was never sent: {sample:?}");
    }
}

/// Everything that is needed to look into a failure, and whether names had come through out of order. The image, as
/// it was before the start, is left in a directory.
pub fn report(recording: &Recording, cut: Cut, what: &str) -> (String, bool) {
    let image = Image::build(&recording.history, cut, Syncs::All);
    let dir = TempDir::new().unwrap().keep();
    image.write(&dir);
    let Cut { line, seed } = cut;
    let (fate, calls) = (image.fate, recording.history.told(line, CALLS_SHOWN));
    let place = dir.display();
    let text = format!("{what}\n  cut behind line {line}, dice {seed}: {fate:?}\n  {place} has the image\n{calls}");
    (text, fate.is_out_of_order)
}
