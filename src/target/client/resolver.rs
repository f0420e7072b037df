//! From a target's name to its addresses, asked again for every new connection, all of them used in turn.
//!
//! ```text
//!  names found   a b c          found in any order; sorted, so that the turn does not depend on it
//!  connection 1  a b c          begins with a; b and c are there in case it fails
//!  connection 2  b c a
//!  connection 3  c a b
//!  a rests       b c a, c b a   a failed to connect, or another was faster: last, not left out. What we believe of it may be wrong
//! ```
//!
//! hyper tries the addresses of one connection one after the other; of the other family (IPv4, IPv6) one is tried beside them after
//! 300 ms.
//!
//! The turn and who rests are a target's, and outlive its connections. Where many relays begin is random.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// How long an address rests that failed to connect: a few generations of connections, or it would have its turn again at once.
const REST: Duration = Duration::from_secs(180);
/// Addresses that are known to rest; of more the oldest is forgotten.
const RESTING_MAX: usize = 64;
/// Lookups at the same time. The system's cannot be given up and keep a thread for as long as they take, which is half a minute
/// where no name server answers.
const LOOKUPS_MAX: usize = 2;

type LookUpFn = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Finds the addresses of a name. May wait: it is called on a blocking thread.
#[derive(Clone)]
pub struct LookUp(Arc<LookUpFn>);

impl LookUp {
    /// With the system's resolver.
    #[must_use]
    pub fn system() -> LookUp {
        LookUp::new(|name| Ok((name, 0).to_socket_addrs()?.collect()))
    }

    /// With any other. A port of 0 stands for the URL's.
    pub fn new(look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> LookUp {
        LookUp(Arc::new(look_up))
    }
}

impl std::fmt::Debug for LookUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LookUp")
    }
}

/// Whose turn it is. Pure.
#[derive(Debug)]
struct Rotation {
    /// The address that the newest connection began with.
    last: Option<SocketAddr>,
    /// In 0..1: where to begin.
    random: f64,
    /// And until when.
    resting: Vec<(SocketAddr, Instant)>,
}

impl Rotation {
    fn new(random: f64) -> Rotation {
        Rotation { last: None, random: random.clamp(0.0, 1.0), resting: Vec::new() }
    }

    /// The order in which a new connection tries what was found.
    fn order(&mut self, mut found: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        found.sort_unstable();
        found.dedup();
        self.resting.retain(|(_, until)| now < *until);
        let begin = match self.last {
            // By address and not by place: what is found may change from one lookup to the next.
            Some(last) => found.iter().position(|address| last < *address).unwrap_or(0),
            None => ((found.len() as f64 * self.random) as usize).min(found.len().saturating_sub(1)),
        };
        found.rotate_left(begin);
        // Stable: the turn goes on among those that do not rest.
        found.sort_by_key(|address| self.rests(*address));
        self.last = found.first().copied().or(self.last);
        found
    }

    fn rests(&self, address: SocketAddr) -> bool {
        self.resting.iter().any(|(other, _)| other.ip() == address.ip())
    }

    /// A connection was offered these, and came to be with one of them or with none.
    fn learn(&mut self, offered: &[SocketAddr], reached: Option<SocketAddr>, now: Instant) {
        let failed = match reached {
            Some(reached) => {
                self.resting.retain(|(other, _)| other.ip() != reached.ip());
                offered.iter().position(|address| address.ip() == reached.ip()).unwrap_or(0)
            }
            // Perhaps the time was over before the others had their turn.
            None => offered.len().min(1),
        };
        for address in &offered[..failed] {
            self.resting.retain(|(other, _)| other.ip() != address.ip());
            if self.resting.len() == RESTING_MAX {
                self.resting.remove(0);
            }
            self.resting.push((*address, now + REST));
        }
    }
}

/// A target's resolver.
#[derive(Debug)]
pub(super) struct Resolver {
    look_up: LookUp,
    rotation: Mutex<Rotation>,
    lookups: Arc<Semaphore>,
}

impl Resolver {
    pub fn new(look_up: LookUp, random: f64) -> Resolver {
        Resolver {
            look_up,
            rotation: Mutex::new(Rotation::new(random)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    fn rotation(&self) -> MutexGuard<'_, Rotation> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn addresses(&self, name: String) -> io::Result<Vec<SocketAddr>> {
        let permit = self.lookups.clone().acquire_owned().await.expect("nobody closes it");
        let look_up = self.look_up.clone();
        let lookup = spawn_blocking(move || {
            // Given back when the lookup has ended, not when nobody waits for it any more.
            let _permit = permit;
            (look_up.0)(&name)
        });
        let found = lookup.await.map_err(io::Error::other)??;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(self.rotation().order(found, Instant::now()))
    }

    /// What became of the connection that was offered `offer`.
    pub fn learn(&self, offer: &Offer, reached: Option<SocketAddr>, now: Instant) {
        // Without a lookup (the URL has an address, or it failed) there is nothing to learn.
        if let Some(offered) = offer.0.get() {
            self.rotation().learn(offered, reached, now);
        }
    }
}

/// What the first connection of a generation was offered.
///
/// Only of that one it is known what became of it: the request that begins a generation finds no connections, so it waits
/// for this one. Later requests may be served by any.
#[derive(Clone, Debug, Default)]
pub(super) struct Offer(Arc<OnceLock<Vec<SocketAddr>>>);

/// A generation's view of a target's resolver.
#[derive(Debug)]
pub(super) struct GenerationResolver {
    resolver: Arc<Resolver>,
    has_first: AtomicBool,
    first: Offer,
}

impl GenerationResolver {
    pub fn new(resolver: Arc<Resolver>) -> (GenerationResolver, Offer) {
        let first = Offer::default();
        (GenerationResolver { resolver, has_first: AtomicBool::new(false), first: first.clone() }, first)
    }
}

impl Resolve for GenerationResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.resolver.clone();
        // Who asks first, not who is told first.
        let first = (!self.has_first.swap(true, Ordering::Relaxed)).then(|| self.first.clone());
        let name = name.as_str().to_owned();
        Box::pin(async move {
            let addresses = resolver.addresses(name).await?;
            if let Some(Offer(first)) = first {
                let _ = first.set(addresses.clone());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 0))
    }

    fn addresses(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().copied().map(address).collect()
    }

    #[test]
    fn every_connection_begins_with_the_next_address_whatever_the_order_they_are_found_in() {
        let now = Instant::now();
        let mut rotation = Rotation::new(0.0);
        assert_eq!(rotation.order(addresses(&[3, 1, 2, 1]), now), addresses(&[1, 2, 3]));
        assert_eq!(rotation.order(addresses(&[1, 2, 3]), now), addresses(&[2, 3, 1]));
        assert_eq!(rotation.order(addresses(&[2, 1, 3]), now), addresses(&[3, 1, 2]));
        assert_eq!(rotation.order(addresses(&[1, 2, 3]), now), addresses(&[1, 2, 3]));
    }

    #[test]
    fn the_turn_goes_on_when_what_is_found_changes() {
        let now = Instant::now();
        let mut rotation = Rotation::new(0.5);
        assert_eq!(rotation.order(addresses(&[1, 2, 3, 4]), now)[0], address(3), "where it begins is random");
        assert_eq!(rotation.order(addresses(&[1, 2, 4]), now)[0], address(4));
        assert_eq!(rotation.order(addresses(&[5, 6]), now)[0], address(5));
        assert_eq!(rotation.order(addresses(&[7]), now), addresses(&[7]));
        assert_eq!(rotation.order(addresses(&[]), now), addresses(&[]));
        assert_eq!(rotation.order(addresses(&[1, 8]), now)[0], address(8));
    }

    #[test]
    fn both_families_have_their_turn() {
        let now = Instant::now();
        let six = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 0));
        let mut rotation = Rotation::new(0.0);
        assert_eq!(rotation.order(vec![six, address(1)], now), [address(1), six]);
        assert_eq!(rotation.order(vec![six, address(1)], now), [six, address(1)]);
    }

    #[test]
    fn an_address_that_failed_is_last_for_a_while_and_the_others_share_its_turns() {
        let now = Instant::now();
        let all = addresses(&[1, 2, 3]);
        let mut rotation = Rotation::new(0.0);
        let offered = rotation.order(all.clone(), now);
        rotation.learn(&offered, Some(SocketAddr::from(([10, 0, 0, 2], 9090))), now);
        let mut begins = |now| rotation.order(all.clone(), now)[0];
        assert_eq!([begins(now), begins(now), begins(now), begins(now)], [2, 3, 2, 3].map(address));
        let later = now + REST;
        assert_eq!([begins(later), begins(later), begins(later)], [1, 2, 3].map(address));
    }

    #[test]
    fn an_address_that_is_reached_does_not_rest_any_more() {
        let now = Instant::now();
        let all = addresses(&[1, 2]);
        let mut rotation = Rotation::new(0.0);
        rotation.learn(&all, None, now);
        assert!(rotation.rests(address(1)));
        assert!(!rotation.rests(address(2)), "it may not have been tried");
        rotation.learn(&addresses(&[2, 1]), Some(address(1)), now);
        assert!(!rotation.rests(address(1)));
        assert!(rotation.rests(address(2)));
    }

    #[test]
    fn when_all_rest_they_go_on_in_turn() {
        let now = Instant::now();
        let all = addresses(&[1, 2]);
        let mut rotation = Rotation::new(0.0);
        for _ in 0..2 {
            let offered = rotation.order(all.clone(), now);
            rotation.learn(&offered, None, now);
        }
        assert_eq!(rotation.order(all.clone(), now), addresses(&[1, 2]));
        assert_eq!(rotation.order(all.clone(), now), addresses(&[2, 1]));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let now = Instant::now();
        let mut rotation = Rotation::new(0.0);
        for last in 0..100 {
            rotation.learn(&[address(last)], None, now);
            rotation.learn(&[address(last)], None, now);
        }
        assert_eq!(rotation.resting.len(), RESTING_MAX);
        assert!(rotation.rests(address(99)) && !rotation.rests(address(0)));
    }

    proptest! {
        /// Nothing that was found is left out, whatever is believed of it.
        #[test]
        fn every_address_is_offered_once(
            found in prop::collection::vec(0u8.., 0..20), failed in prop::collection::vec(0u8.., 0..20), random in 0.0..=1.0,
        ) {
            let now = Instant::now();
            let mut rotation = Rotation::new(random);
            for last in failed {
                rotation.learn(&[address(last)], None, now);
            }
            let mut expected = addresses(&found);
            expected.sort_unstable();
            expected.dedup();
            for _ in 0..3 {
                let mut ordered = rotation.order(addresses(&found), now);
                ordered.sort_unstable();
                prop_assert_eq!(&ordered, &expected);
            }
        }
    }
}
