//! The target of a simulation: what it answers, and what it stores.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::log::{EntryId, FakeLog, Key};
use crate::protocol::Protocol;
use crate::target::outcome::{Outcome, Reason as Why};
use crate::wal::record::Kind;

/// What a target answers to everything for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Spell {
    /// 503.
    Down,
    /// 401.
    Locked,
    /// 400, to empty requests too.
    Mad,
    /// No connection.
    Gone,
    /// No answer, nothing stored.
    Mute,
}

/// What it does with what it has already.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Known {
    /// Takes it again.
    #[default]
    Taken,
    /// Takes it again, if nothing newer is there.
    OlderRefused,
    /// Never.
    Refused,
}

/// What it makes of an empty request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Empty {
    #[default]
    Taken,
    /// 400.
    Refused,
    /// 401.
    Locked,
    /// 401, if it comes without the headers of a tenant.
    LockedWithoutTenant,
    /// 500.
    Fails,
}

/// How a target behaves. Chances are out of 1000 requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Manners {
    pub throttles: u64,
    pub fails: u64,
    /// No answer: the request never came, or was stored.
    pub loses: u64,
    pub loses_answers: u64,
    pub refuses_connections: u64,
    pub spells: Vec<(Duration, Duration, Spell)>,
    pub entries_max: Option<usize>,
    pub cursed_series: HashSet<u64>,
    pub cursed_entries: HashSet<EntryId>,
    pub cursed_sender: Option<u8>,
    /// What is before this is too old for it.
    pub old_before: EntryId,
    pub known: Known,
    pub poison: HashSet<u64>,
    /// Each from a moment on.
    pub locked_tenants: Vec<(u8, Duration)>,
    /// Of this kind nothing is understood: 415.
    pub not_understood: Option<Kind>,
    /// 415 to everything.
    pub takes_nothing: bool,
    /// What it makes of an empty request is what it makes of one in a protocol that it does not take, too.
    pub is_mute_of_empty: bool,
    /// It does not take this protocol, until then.
    pub lacks: Option<(Protocol, Duration)>,
    pub empty: Empty,
    pub latency: (u64, u64),
    /// From here on nothing goes wrong by chance.
    pub well_from: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    /// How often each entry was stored.
    pub stored: HashMap<EntryId, u32>,
    pub newest: HashMap<Key, EntryId>,
}

impl Store {
    /// Stores an entry. The newest of its series, if the entry is stored for the first time and older than that.
    pub fn take(&mut self, id: EntryId, key: Key) -> Option<EntryId> {
        let times = self.stored.entry(id).or_default();
        *times += 1;
        let is_new = *times == 1;
        let newest = self.newest.entry(key).or_insert(id);
        let overtaken_by = (is_new && *newest > id).then_some(*newest);
        *newest = (*newest).max(id);
        overtaken_by
    }
}

/// A request, as the target sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub entries: &'a [EntryId],
    pub protocol: Protocol,
    pub kind: Kind,
    /// Whose headers it has, if any.
    pub tenant: Option<u8>,
    /// Since the simulation began.
    pub at: Duration,
}

/// What an answer means, and its status, if there was one.
pub(super) type Verdict = (Outcome, Option<u16>);

impl Manners {
    /// What a target of such manners answers to a request, and what it stores of it.
    pub fn judge(
        &self,
        asked: Asked,
        store: &Store,
        log: &FakeLog,
        random: &mut fastrand::Rng,
    ) -> (Verdict, Vec<EntryId>) {
        let Asked { entries, protocol, kind, tenant, at } = asked;
        let retry = |may_have_arrived, timed_out| Outcome::Retry {
            retry_after: None,
            is_throttled: false,
            may_have_arrived,
            timed_out,
        };
        let spell = self.spells.iter().find(|(from, to, _)| (*from..*to).contains(&at)).map(|s| s.2);
        let has_luck = self.well_from.is_some_and(|from| at >= from);
        let mut stores = Vec::new();
        let mut chance = |per_thousand: u64| !has_luck && random.u64(0..1000) < per_thousand;
        let has = |series: &HashSet<u64>| entries.iter().any(|id| series.contains(&log.entry(*id).series));
        let verdict = if let Some(spell) = spell {
            match spell {
                Spell::Down => (retry(false, false), Some(503)),
                Spell::Locked => (Outcome::Hold(Why::Status(401)), Some(401)),
                Spell::Mad => (Outcome::Refused, Some(400)),
                Spell::Gone => (retry(false, false), None),
                Spell::Mute => (retry(true, true), None),
            }
        } else if chance(self.throttles) {
            let retry_after = chance(500).then(|| Duration::from_secs(1));
            let throttled =
                Outcome::Retry { retry_after, is_throttled: true, may_have_arrived: false, timed_out: false };
            (throttled, Some(429))
        } else if chance(self.fails) {
            (retry(false, false), Some(500))
        } else if chance(self.refuses_connections) {
            (retry(false, false), None)
        } else if chance(self.loses) {
            (retry(true, chance(500)), None)
        } else if self.locked_tenants.iter().any(|(locked, from)| tenant == Some(*locked) && at >= *from) {
            (Outcome::Hold(Why::Status(401)), Some(401))
        } else if !entries.is_empty() && Some(kind) == self.not_understood {
            (Outcome::Hold(Why::Status(415)), Some(415))
        } else if self.takes_nothing
            || (!(entries.is_empty() && self.is_mute_of_empty)
                && self.lacks.is_some_and(|(lacked, until)| lacked == protocol && at < until))
        {
            match protocol {
                Protocol::V1 => (Outcome::WrongProtocol(Why::Not1(415)), Some(415)),
                Protocol::V2 => (Outcome::WrongProtocol(Why::Not2(204)), Some(204)),
            }
        } else if has(&self.poison) {
            (retry(false, false), Some(500))
        } else if self.entries_max.is_some_and(|max| entries.len() > max) {
            (Outcome::TooLarge, Some(413))
        } else if entries.is_empty() {
            match self.empty {
                Empty::Refused => (Outcome::Refused, Some(400)),
                Empty::Locked => (Outcome::Hold(Why::Status(401)), Some(401)),
                Empty::LockedWithoutTenant if tenant.is_none() => (Outcome::Hold(Why::Status(401)), Some(401)),
                Empty::Fails => (retry(false, false), Some(500)),
                Empty::Taken | Empty::LockedWithoutTenant => (accepted(0), Some(204)),
            }
        } else {
            let loses_answer = chance(self.loses_answers);
            let bad: HashSet<EntryId> = entries.iter().copied().filter(|id| self.is_bad(*id, store, log)).collect();
            if bad.is_empty() || protocol == Protocol::V2 {
                stores = entries.iter().copied().filter(|id| !bad.contains(id)).collect();
                let missing = bad.iter().map(|id| log.entry(*id).samples()).sum();
                if loses_answer { (retry(true, true), None) } else { (accepted(missing), Some(200)) }
            } else {
                (Outcome::Refused, Some(400))
            }
        };
        (verdict, stores)
    }

    /// Whether the target does not want an entry.
    fn is_bad(&self, id: EntryId, store: &Store, log: &FakeLog) -> bool {
        let newest = store.newest.get(&log.key(id));
        let is_known = match self.known {
            Known::Taken => false,
            Known::OlderRefused => newest.is_some_and(|newest| *newest > id),
            Known::Refused => newest.is_some_and(|newest| *newest >= id),
        };
        is_known
            || self.cursed_series.contains(&log.entry(id).series)
            || self.cursed_entries.contains(&id)
            || self.cursed_sender == Some(log.fake(id.0).sender)
            || id < self.old_before
    }
}

fn accepted(refused: u64) -> Outcome {
    Outcome::Accepted { refused }
}
