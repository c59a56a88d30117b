//! Slows down who tries passwords: an address that keeps failing for a user waits for each further try.
//!
//! The next AUTH of such a pair of address and user is looked at only after a delay, which doubles with each failure
//! up to `auth.throttle.max_delay`; whether its password is right makes no difference to that. What waits is put aside
//! (see `inbound::aside`), and one whose connection is closed meanwhile has tried nothing.
//!
//! # How many passwords can be tried
//!
//! At most `auth.throttle.waiting` AUTHs of a pair wait at once, over all connections, and so many are looked at in
//! `max_delay`. One more takes the place of one that waits, or is refused itself: the one whose connection had tried
//! most when it came, failures and waiting AUTHs counted; by lot among those that had tried the same. Who loses its
//! place is answered 408 without having been looked at.
//!
//! So nobody is locked out: an attacker's connections have tried more than a fresh one has, and the right password
//! gets in from that after the delay, whatever is tried over others. Only who opens `waiting` fresh connections from the
//! same address within `max_delay`, again and again, can make it a matter of luck; and a relay that looked at all of
//! them would have no limit to the passwords tried.
//!
//! # What it takes
//!
//! `entries` pairs are remembered, whatever names are made up; the places of those that wait go with their AUTHs.
//!
//! An address is an IPv4 address or an IPv6 /64. Unknown users are slowed down like others.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};

use super::wire::Random;
use crate::config;
use crate::recent::Recent;

/// A pair, hashed with a key of ours: names may be long, and nobody shall choose two that are the same.
type Pair = u128;

#[derive(Clone, Copy, Debug)]
struct Failing {
    failures: u32,
    last: Instant,
}

/// The pairs that fail. See the [module](self).
#[derive(Debug)]
pub(crate) struct Throttle {
    settings: RwLock<config::Throttle>,
    key: [u8; 16],
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    pairs: Recent<Pair, Failing>,
    /// Who waits; a pair of whom nobody does has no entry.
    waiting: HashMap<Pair, Vec<Waiting>>,
    next: u64,
}

/// An AUTH that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: u64,
    /// How much its connection had tried before.
    tried: u32,
}

/// The place of an AUTH that waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    state: Arc<Mutex<State>>,
    pair: Pair,
    number: u64,
}

impl Place {
    /// Whether it has not been given to another.
    pub(crate) fn is_kept(&self) -> bool {
        let state = self.state.lock();
        state.waiting.get(&self.pair).is_some_and(|all| all.iter().any(|one| one.number == self.number))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if let Some(all) = state.waiting.get_mut(&self.pair) {
            all.retain(|one| one.number != self.number);
            if all.is_empty() {
                state.waiting.remove(&self.pair);
            }
        }
    }
}

/// There are others enough that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPlace;

impl Throttle {
    pub(crate) fn new(settings: config::Throttle, random: &dyn Random) -> Self {
        let mut key = [0; 16];
        random.fill(&mut key);
        let state = State { pairs: Recent::new(settings.entries), waiting: HashMap::new(), next: 0 };
        Self { settings: RwLock::new(settings), key, state: Arc::new(Mutex::new(state)) }
    }

    /// From now on these settings count; what is known stays known.
    pub(crate) fn set(&self, settings: config::Throttle) {
        self.state.lock().pairs.set_capacity(settings.entries);
        *self.settings.write() = settings;
    }

    fn pair(&self, address: &str, user: &str) -> Pair {
        let mut hash = Sha256::new();
        hash.update(self.key);
        match address.parse().as_ref().map(SocketAddr::ip) {
            Ok(IpAddr::V4(ip)) => hash.update(ip.octets()),
            Ok(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
                Some(ip) => hash.update(ip.octets()),
                None => hash.update(&ip.octets()[..8]),
            },
            Err(_) => hash.update(address),
        }
        hash.update([0]);
        hash.update(user);
        let hash: [u8; 32] = hash.finalize().into();
        hash.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
    }

    /// How long the next AUTH of `user` from `address` has to wait.
    fn delay(&self, state: &State, pair: Pair, now: Instant) -> Option<Duration> {
        let config::Throttle { enabled, free, delay, max_delay, forget, .. } = *self.settings.read();
        if !enabled {
            return None;
        }
        let failing = *state.pairs.get(&pair)?;
        let beyond = (failing.failures as usize).checked_sub(free)?;
        if now.saturating_duration_since(failing.last) >= forget {
            return None;
        }
        let factor = 1_u32.checked_shl(u32::try_from(beyond).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
        Some(delay.saturating_mul(factor).min(max_delay))
    }

    /// An AUTH of `user` from `address` wants to be looked at, over a connection that has `tried` so much. Nothing, if
    /// it may be; until when it has to wait, and its place; or that it is refused.
    pub(crate) fn enter(
        &self,
        address: &str,
        user: &str,
        tried: u32,
        random: &dyn Random,
        now: Instant,
    ) -> Result<Option<(Instant, Place)>, NoPlace> {
        let pair = self.pair(address, user);
        let mut state = self.state.lock();
        let Some(delay) = self.delay(&state, pair, now) else { return Ok(None) };
        let number = state.next;
        state.next += 1;
        let all = state.waiting.entry(pair).or_default();
        all.push(Waiting { number, tried });
        if all.len() > self.settings.read().waiting {
            let most = all.iter().map(|one| one.tried).max().unwrap_or_default();
            let mut lot = [0; 8];
            random.fill(&mut lot);
            let candidates = all.iter().filter(|one| one.tried == most).count().max(1) as u64;
            let lot = usize::try_from(u64::from_le_bytes(lot) % candidates).unwrap_or_default();
            let loser = all.iter().filter(|one| one.tried == most).nth(lot).map(|one| one.number);
            all.retain(|one| Some(one.number) != loser);
            if loser == Some(number) {
                return Err(NoPlace);
            }
        }
        Ok(Some((now + delay, Place { state: Arc::clone(&self.state), pair, number })))
    }

    /// The credentials were wrong.
    pub(crate) fn failed(&self, address: &str, user: &str, now: Instant) {
        let config::Throttle { enabled, forget, .. } = *self.settings.read();
        if !enabled {
            return;
        }
        let pair = self.pair(address, user);
        let pairs = &mut self.state.lock().pairs;
        let before = pairs.get(&pair);
        let before = before.filter(|known| now.saturating_duration_since(known.last) < forget);
        let failures = before.map_or(0, |known| known.failures).saturating_add(1);
        pairs.insert(pair, Failing { failures, last: now });
    }

    /// The credentials were right.
    pub(crate) fn succeeded(&self, address: &str, user: &str) {
        if self.settings.read().enabled {
            let pair = self.pair(address, user);
            self.state.lock().pairs.remove(&pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zero;

    impl Random for Zero {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0);
        }
    }

    fn throttle(settings: config::Throttle) -> Throttle {
        Throttle::new(settings, &Zero)
    }

    fn delay(throttle: &Throttle, address: &str, user: &str, now: Instant) -> Option<Duration> {
        throttle.delay(&throttle.state.lock(), throttle.pair(address, user), now)
    }

    fn enter(throttle: &Throttle, tried: u32, now: Instant) -> Option<Place> {
        throttle.enter(HOME, "alice", tried, &Zero, now).ok().map(|entered| entered.unwrap().1)
    }

    const HOME: &str = "192.0.2.1:1000";

    #[test]
    fn delays_double_up_to_the_longest_for_that_pair_alone() {
        let throttle = throttle(config::Throttle::default());
        let now = Instant::now();
        let seconds =
            |address: &str, user: &str| delay(&throttle, address, user, now).map(|delay| delay.as_secs());
        for expected in [None, None, None, Some(1), Some(2), Some(4), Some(8), Some(8)] {
            assert_eq!(seconds("192.0.2.1:4711", "alice"), expected);
            throttle.failed(HOME, "alice", now);
        }
        assert_eq!((seconds("192.0.2.2:1000", "alice"), seconds(HOME, "bob")), (None, None));
        for _ in 0..100 {
            throttle.failed(HOME, "alice", now);
        }
        assert_eq!(seconds(HOME, "alice"), Some(8));
        throttle.succeeded(HOME, "alice");
        assert_eq!(seconds(HOME, "alice"), None);
    }

    #[test]
    fn every_setting_counts() {
        let settings = config::Throttle {
            free: 1,
            delay: Duration::from_millis(300),
            max_delay: Duration::from_millis(500),
            forget: Duration::from_secs(10),
            entries: 2,
            ..config::Throttle::default()
        };
        let throttle_ = throttle(settings.clone());
        let now = Instant::now();
        throttle_.failed(HOME, "alice", now);
        let delay = |user: &str, after| delay(&throttle_, HOME, user, now + Duration::from_millis(after));
        assert_eq!(delay("alice", 9999), Some(Duration::from_millis(300)));
        assert_eq!(delay("alice", 10_000), None);
        throttle_.failed(HOME, "alice", now);
        assert_eq!(delay("alice", 0), Some(Duration::from_millis(500)));
        // One more pair than there is room for: the one that failed least recently gives way.
        throttle_.failed(HOME, "bob", now);
        assert!(delay("alice", 0).is_some());
        throttle_.failed(HOME, "carol", now);
        assert!(delay("alice", 0).is_none() && delay("carol", 0).is_some());

        let off = throttle(config::Throttle { enabled: false, ..settings });
        off.failed(HOME, "alice", now);
        off.failed(HOME, "alice", now);
        assert!(matches!(off.enter(HOME, "alice", 0, &Zero, now), Ok(None)));
    }

    #[test]
    fn a_flood_of_made_up_names_takes_no_more_room_than_is_configured() {
        let settings = config::Throttle { free: 1, entries: 100, ..config::Throttle::default() };
        let throttle = throttle(settings);
        let now = Instant::now();
        for index in 0..10_000 {
            let user = format!("user{index}");
            throttle.failed(HOME, &user, now);
            let place = throttle.enter(HOME, &user, 0, &Zero, now);
            assert!(matches!(place, Ok(Some(_))), "the latest one is remembered");
            let state = throttle.state.lock();
            assert!(state.pairs.len() <= 100 && state.waiting.len() == 1, "{}", state.pairs.len());
        }
        assert!(throttle.state.lock().waiting.is_empty());
    }

    #[test]
    fn so_many_of_a_pair_wait_and_who_has_tried_most_gives_way() {
        let settings = config::Throttle { free: 1, waiting: 3, ..config::Throttle::default() };
        let throttle = throttle(settings);
        let now = Instant::now();
        throttle.failed(HOME, "alice", now);
        let first: Vec<_> =
            [4, 7, 2].into_iter().map(|tried| enter(&throttle, tried, now).unwrap()).collect();
        let kept = |places: &[Place]| places.iter().map(Place::is_kept).collect::<Vec<_>>();
        assert_eq!(kept(&first), [true, true, true]);
        // Whoever has tried more than all of them is refused, and takes nobody's place.
        assert!(enter(&throttle, 8, now).is_none());
        assert_eq!(kept(&first), [true, true, true]);
        let fresh = enter(&throttle, 0, now).unwrap();
        assert_eq!((kept(&first), fresh.is_kept()), (vec![true, false, true], true));
        // Now and then one leaves.
        drop(first);
        assert!(enter(&throttle, 8, now).unwrap().is_kept() && fresh.is_kept());
        // Another pair has places of its own.
        throttle.failed(HOME, "bob", now);
        assert!(matches!(throttle.enter(HOME, "bob", 9, &Zero, now), Ok(Some(_))));
        drop(fresh);
        assert!(throttle.state.lock().waiting.is_empty());
    }

    #[test]
    fn among_those_who_have_tried_the_same_it_is_a_matter_of_luck() {
        struct Counting(std::sync::atomic::AtomicU8);
        impl Random for Counting {
            fn fill(&self, bytes: &mut [u8]) {
                bytes.fill(0);
                bytes[0] = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let random = Counting(std::sync::atomic::AtomicU8::new(0));
        let settings = config::Throttle { free: 1, waiting: 2, ..config::Throttle::default() };
        let throttle = throttle(settings);
        let now = Instant::now();
        throttle.failed(HOME, "alice", now);
        let enter = || throttle.enter(HOME, "alice", 0, &random, now).ok().map(|entered| entered.unwrap().1);
        let (first, second) = (enter().unwrap(), enter().unwrap());
        let third = enter().unwrap();
        assert_eq!([&first, &second, &third].map(Place::is_kept), [false, true, true]);
        let fourth = enter().unwrap();
        assert_eq!([&second, &third, &fourth].map(Place::is_kept), [true, false, true]);
        assert!(enter().is_none(), "the newest one has drawn the lot");
        assert_eq!([&second, &fourth].map(Place::is_kept), [true, true]);
    }

    #[test]
    fn an_address_is_one_of_ipv4_or_64_bits_of_ipv6() {
        let throttle = throttle(config::Throttle::default());
        let same = |a: &str, b: &str| throttle.pair(a, "alice") == throttle.pair(b, "alice");
        assert!(
            same("[2001:db8::1]:1", "[2001:db8::2]:2") && !same("[2001:db8::1]:1", "[2001:db8:0:1::1]:1")
        );
        assert!(same("[::ffff:192.0.2.1]:1", "192.0.2.1:2") && !same("192.0.2.1:1", "192.0.2.2:1"));
        assert_ne!(throttle.pair("a", "bc"), throttle.pair("ab", "c"));
    }
}
