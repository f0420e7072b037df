//! Series that a target refuses again and again, and what it was given up for as poison: remembered so that they do not split every batch
//! for ever. Pure.
//!
//! A series of a sender is a *suspect* when it was refused alone in two batches in a row, and a *culprit* after eight: an HA pair with equal labels is
//! refused from one of the two senders only, a duplicate series from whoever sends it second, or where it stands again in the same request. What is taken once is no suspect any more,
//! but for ten minutes the first to be looked at when something is refused: of a pair now the one comes first and now the other.
//!
//! Bounded: [`CULPRITS_MAX`] series and as many of poison; when there are more, the oldest are forgotten and cost a search again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::batch::Role;

/// The most series that are remembered of each kind: a megabyte at most.
pub const CULPRITS_MAX: usize = 16 << 10;
/// What was not refused for so long is no culprit any more.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// What was taken since is so long still the first to be looked at.
const SUSPECTED: Duration = Duration::from_secs(600);
/// Batches in a row in which it was refused alone.
const STEADY: u32 = 2;
/// The same, after which it is not looked at one by one any more.
const CERTAIN: u32 = 8;

/// A series of a sender. A number that is equal for equal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suspect(u64);

impl Suspect {
    /// This series, as this sender sends it.
    #[must_use]
    pub fn new(series: u64, sender: Option<IpAddr>) -> Suspect {
        let sender = match sender {
            None => 0,
            Some(IpAddr::V4(address)) => u64::from(u32::from(address)) | 1 << 40,
            Some(IpAddr::V6(address)) => {
                let bits = u128::from(address);
                (bits ^ (bits >> 64)) as u64
            }
        };
        Suspect(series ^ sender.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The same, where the series came before in the same request, or did not: of a duplicate the first is taken and the second refused, each time.
    #[must_use]
    pub fn again(self, is_repeat: bool) -> Suspect {
        if is_repeat { Suspect(self.0.rotate_left(32) ^ 0x2545_f491_4f6c_dd1d) } else { self }
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Batches in a row in which it was refused alone; none, if it was taken since.
    times: u32,
    /// The same, of batches of which something was refused.
    times_in_refused: u32,
    /// When it was last refused.
    last: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Culprits {
    known: HashMap<Suspect, Known>,
    /// Of these, such as were not taken since.
    not_taken_since: usize,
    /// When it last failed alone; and whether it was given up for that.
    poison: HashMap<Suspect, (Instant, bool)>,
    /// Header sets.
    poison_headers: HashMap<u64, Instant>,
}

impl Culprits {
    /// Some series was refused, or given up as poison, and nothing of it taken since: what is sent is to be looked at.
    #[must_use]
    pub fn has_suspects(&self) -> bool {
        self.not_taken_since > 0 || !self.poison.is_empty()
    }

    /// How a series of a sender is to be sent; `is_repeat` where it comes again in a request.
    #[must_use]
    pub fn role(&self, suspect: Suspect, is_repeat: bool) -> Role {
        if self.poison.contains_key(&suspect) {
            return Role::Poison;
        }
        match self.known.get(&suspect.again(is_repeat)) {
            Some(known) if known.times >= CERTAIN => Role::Culprits,
            Some(known) if known.times >= STEADY => Role::Suspects,
            _ => Role::Main,
        }
    }

    /// The same, of what was refused just now: who was refused of late is suspected first.
    #[must_use]
    pub fn role_in_refused(&self, suspect: Suspect, is_repeat: bool) -> Role {
        let in_refused = match self.known.get(&suspect.again(is_repeat)) {
            Some(known) if known.times_in_refused >= CERTAIN => Role::Culprits,
            Some(_) => Role::Suspects,
            None => Role::Main,
        };
        self.role(suspect, is_repeat).max(in_refused)
    }

    /// Whether anybody was refused of late, whatever was since.
    #[must_use]
    pub fn remembers_any(&self) -> bool {
        !self.known.is_empty()
    }

    /// Whether something of a series was refused, and nothing taken since.
    #[must_use]
    pub fn knows(&self, suspect: Suspect) -> bool {
        self.known.get(&suspect).is_some_and(|known| known.times > 0) || self.poison.contains_key(&suspect)
    }

    /// Whether something of a series was refused of late, whatever was since.
    #[must_use]
    pub fn remembers(&self, suspect: Suspect) -> bool {
        self.known.contains_key(&suspect)
    }

    /// A series was refused in a request of its own.
    pub fn refused(&mut self, suspect: Suspect, now: Instant) {
        if self.known.len() >= CULPRITS_MAX && !self.known.contains_key(&suspect) {
            forget_oldest(&mut self.known, |known| known.last, now);
            self.count();
        }
        let known = self.known.entry(suspect).or_insert(Known { times: 0, times_in_refused: 0, last: now });
        self.not_taken_since += usize::from(known.times == 0);
        known.times = known.times.saturating_add(1);
        known.times_in_refused = known.times_in_refused.saturating_add(1);
        known.last = now;
    }

    /// A series was refused together with others.
    pub fn refused_among_others(&mut self, suspect: Suspect, now: Instant) {
        if let Some(known) = self.known.get_mut(&suspect) {
            known.last = now;
        }
    }

    /// A series was taken, and nothing of it refused in the same batch; of others perhaps.
    pub fn accepted(&mut self, suspect: Suspect, is_of_refused: bool) {
        if let Some(known) = self.known.get_mut(&suspect) {
            self.not_taken_since -= usize::from(known.times > 0);
            known.times = 0;
            if is_of_refused {
                known.times_in_refused = 0;
            }
        }
        self.poison.remove(&suspect);
    }

    fn count(&mut self) {
        self.not_taken_since = self.known.values().filter(|known| known.times > 0).count();
    }

    /// A series failed alone.
    pub fn struck(&mut self, suspect: Suspect, now: Instant) {
        self.remember_poison(suspect, now, false);
    }

    /// A series was given up as poison.
    pub fn poisoned(&mut self, suspect: Suspect, now: Instant) {
        self.remember_poison(suspect, now, true);
    }

    fn remember_poison(&mut self, suspect: Suspect, now: Instant, is_given_up: bool) {
        if self.poison.len() >= CULPRITS_MAX && !self.poison.contains_key(&suspect) {
            forget_oldest(&mut self.poison, |(last, _)| *last, now);
        }
        let known = self.poison.entry(suspect).or_insert((now, false));
        *known = (now, known.1 || is_given_up);
    }

    /// Whether a series failed alone of late.
    #[must_use]
    pub fn is_poison(&self, suspect: Suspect) -> bool {
        self.poison.contains_key(&suspect)
    }

    /// Whether a series was given up as poison.
    #[must_use]
    pub fn was_given_up(&self, suspect: Suspect) -> bool {
        self.poison.get(&suspect).is_some_and(|(_, is_given_up)| *is_given_up)
    }

    /// A set of forwarded headers was given up as poison.
    pub fn poisoned_headers(&mut self, headers: u64, now: Instant) {
        if self.poison_headers.len() >= CULPRITS_MAX {
            forget_oldest(&mut self.poison_headers, |last| *last, now);
        }
        self.poison_headers.insert(headers, now);
    }

    /// Whether requests with these headers get one attempt.
    #[must_use]
    pub fn is_poison_headers(&self, headers: u64) -> bool {
        self.poison_headers.contains_key(&headers)
    }

    /// A request with these headers was taken.
    pub fn accepted_headers(&mut self, headers: u64) {
        self.poison_headers.remove(&headers);
    }

    /// Forgets what was long ago.
    pub fn forget(&mut self, now: Instant) {
        self.known.retain(|_, known| {
            let remembered = if known.times > 0 { REMEMBERED } else { SUSPECTED };
            now.saturating_duration_since(known.last) < remembered
        });
        self.count();
        let is_remembered = |last: Instant| now.saturating_duration_since(last) < REMEMBERED;
        self.poison.retain(|_, (last, _)| is_remembered(*last));
        self.poison_headers.retain(|_, last| is_remembered(*last));
    }
}

/// Makes room: the older half goes.
pub(super) fn forget_oldest<K: Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    last: impl Fn(&V) -> Instant,
    now: Instant,
) {
    let mut ages: Vec<Duration> = map.values().map(|value| now.saturating_duration_since(last(value))).collect();
    let middle = ages.len() / 2;
    let (_, median, _) = ages.select_nth_unstable(middle);
    let median = *median;
    let before = map.len();
    map.retain(|_, value| now.saturating_duration_since(last(value)) < median);
    if map.len() == before || map.is_empty() {
        map.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
    const B: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

    #[test]
    fn a_series_is_suspect_when_it_was_refused_in_two_batches_in_a_row_and_a_culprit_after_eight() {
        let (mut culprits, now) = (Culprits::default(), Instant::now());
        let suspect = Suspect::new(7, A);
        culprits.refused(suspect, now);
        assert_eq!(culprits.role(suspect, false), Role::Main);
        culprits.accepted(suspect, false);
        culprits.refused(suspect, now);
        assert_eq!(culprits.role(suspect, false), Role::Main, "in a row");
        for _ in 2..CERTAIN {
            culprits.refused(suspect, now);
            assert_eq!(culprits.role(suspect, false), Role::Suspects);
        }
        culprits.refused_among_others(suspect, now);
        assert_eq!(culprits.role(suspect, false), Role::Suspects, "that says nothing of it alone");
        culprits.refused(suspect, now);
        assert_eq!(culprits.role(suspect, false), Role::Culprits);
        assert_eq!(culprits.role(Suspect::new(8, A), false), Role::Main);
        culprits.accepted(suspect, false);
        assert!(!culprits.has_suspects());
    }

    #[test]
    fn who_was_refused_of_late_is_the_first_to_be_suspected() {
        let (mut culprits, now) = (Culprits::default(), Instant::now());
        let suspect = Suspect::new(7, A);
        assert!(!culprits.remembers_any());
        for time in 1..=CERTAIN {
            culprits.refused(suspect, now);
            culprits.accepted(suspect, false);
            assert_eq!(culprits.role(suspect, false), Role::Main);
            let expected = if time < CERTAIN { Role::Suspects } else { Role::Culprits };
            assert_eq!(culprits.role_in_refused(suspect, false), expected);
        }
        assert_eq!(culprits.role_in_refused(Suspect::new(8, A), false), Role::Main);
        culprits.accepted(suspect, true);
        assert_eq!(culprits.role_in_refused(suspect, false), Role::Suspects, "others were refused, it was not");
        assert!(!culprits.has_suspects(), "nothing that is sent needs to be looked at");
        culprits.forget(now + 2 * SUSPECTED);
        assert!(!culprits.remembers_any());
    }

    #[test]
    fn of_two_senders_of_equal_series_only_the_refused_one_is_meant() {
        let (mut culprits, now) = (Culprits::default(), Instant::now());
        for _ in 0..2 {
            culprits.refused(Suspect::new(7, B), now);
            culprits.accepted(Suspect::new(7, A), false);
        }
        assert_eq!(culprits.role(Suspect::new(7, A), false), Role::Main);
        assert_eq!(culprits.role(Suspect::new(7, B), false), Role::Suspects);
    }

    #[test]
    fn of_a_duplicate_only_what_comes_again_is_meant() {
        let (mut culprits, now) = (Culprits::default(), Instant::now());
        let suspect = Suspect::new(7, A);
        for _ in 0..2 {
            culprits.refused(suspect.again(true), now);
            culprits.accepted(suspect.again(false), false);
        }
        assert_eq!(culprits.role(suspect, false), Role::Main);
        assert_eq!(culprits.role(suspect, true), Role::Suspects);
    }

    #[test]
    fn memory_is_bounded_and_what_was_long_ago_is_forgotten() {
        let (mut culprits, now) = (Culprits::default(), Instant::now());
        for series in 0..100_000 {
            culprits.refused(Suspect::new(series, A), now + Duration::from_millis(series));
            culprits.poisoned(Suspect::new(series, A), now + Duration::from_millis(series));
            culprits.poisoned_headers(series, now + Duration::from_millis(series));
        }
        assert!(culprits.known.len() <= CULPRITS_MAX && culprits.poison.len() <= CULPRITS_MAX);
        assert!(culprits.poison_headers.len() <= CULPRITS_MAX);
        assert!(culprits.known.contains_key(&Suspect::new(99_999, A)), "the newest are kept");
        culprits.forget(now + Duration::from_secs(2 * 3600));
        assert!(
            culprits.known.is_empty() && !culprits.has_suspects() && !culprits.was_given_up(Suspect::new(99_999, A))
        );
        assert!(!culprits.is_poison_headers(99_999));
    }
}
