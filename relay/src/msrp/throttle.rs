//! Slows down who tries passwords: an address that keeps failing for a user waits for each further try.
//!
//! The next AUTH of such a pair of address and user is looked at only after a delay, which doubles with each failure
//! up to `auth.throttle.max_delay`; whether its password is right makes no difference to that. Nobody is locked out:
//! the right password gets in after the delay, even while others try from the same address. What waits counts as an
//! AUTH put aside (see `inbound::aside`), so one connection has few of them waiting, and one that is closed meanwhile
//! has tried nothing.
//!
//! So an attacker tries as many passwords in `max_delay` as it keeps AUTHs waiting: four on each of its connections, of
//! which `limits.max_connections_per_address` bounds the number.
//!
//! An address is an IPv4 address or an IPv6 /64. Unknown users are slowed down like others.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

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
    pairs: Mutex<Recent<Pair, Failing>>,
}

impl Throttle {
    pub(crate) fn new(settings: config::Throttle, random: &dyn Random) -> Self {
        let mut key = [0; 16];
        random.fill(&mut key);
        let pairs = Mutex::new(Recent::new(settings.entries));
        Self { settings: RwLock::new(settings), key, pairs }
    }

    /// From now on these settings count; what is known stays known.
    pub(crate) fn set(&self, settings: config::Throttle) {
        self.pairs.lock().set_capacity(settings.entries);
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
    pub(crate) fn delay(&self, address: &str, user: &str, now: Instant) -> Option<Duration> {
        let config::Throttle { enabled, free, delay, max_delay, forget, .. } = *self.settings.read();
        if !enabled {
            return None;
        }
        let failing = *self.pairs.lock().get(&self.pair(address, user))?;
        let beyond = (failing.failures as usize).checked_sub(free)?;
        if now.saturating_duration_since(failing.last) >= forget {
            return None;
        }
        let factor = 1_u32.checked_shl(u32::try_from(beyond).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
        Some(delay.saturating_mul(factor).min(max_delay))
    }

    /// The credentials were wrong.
    pub(crate) fn failed(&self, address: &str, user: &str, now: Instant) {
        let config::Throttle { enabled, forget, .. } = *self.settings.read();
        if !enabled {
            return;
        }
        let pair = self.pair(address, user);
        let mut pairs = self.pairs.lock();
        let before = pairs.get(&pair);
        let before = before.filter(|known| now.saturating_duration_since(known.last) < forget);
        let failures = before.map_or(0, |known| known.failures).saturating_add(1);
        pairs.insert(pair, Failing { failures, last: now });
    }

    /// The credentials were right.
    pub(crate) fn succeeded(&self, address: &str, user: &str) {
        if self.settings.read().enabled {
            self.pairs.lock().remove(&self.pair(address, user));
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

    const HOME: &str = "192.0.2.1:1000";

    #[test]
    fn delays_double_up_to_the_longest_for_that_pair_alone() {
        let throttle = throttle(config::Throttle::default());
        let now = Instant::now();
        let seconds =
            |address: &str, user: &str| throttle.delay(address, user, now).map(|delay| delay.as_secs());
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
        let delay = |user: &str, after| throttle_.delay(HOME, user, now + Duration::from_millis(after));
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
        assert_eq!(off.delay(HOME, "alice", now), None);
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
