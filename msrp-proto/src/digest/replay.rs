//! What was used must not be used again.

use std::collections::BTreeMap;

use thiserror::Error;

use super::nonce::FreshNonce;

/// How many nonces a [`ReplayGuard`] remembers unless told otherwise: about 3 MB, and 1000 AUTH
/// requests a second for a minute. At the limit the oldest is forgotten, and whatever was issued no
/// later than it is refused as stale, so that some clients are challenged once more and no replay
/// passes.
pub const DEFAULT_REPLAY_ENTRIES: usize = 65_536;

/// Remembers the highest nonce count that was accepted for each nonce (RFC 7616 §3.4 `nc`).
///
/// Memory is bounded by the number of entries. An entry is forgotten when the lifetime of its nonce
/// is over, or as the oldest when a new one needs its room. Either way its time of issue becomes
/// the floor: a nonce that is not remembered is accepted only if it was issued after the floor, as
/// otherwise it could be one of the forgotten. So a replay does not pass either when memory is
/// short or when the clock is set back.
#[derive(Debug)]
pub struct ReplayGuard {
    lifetime_millis: u64,
    capacity: usize,
    /// Nonces that were used, the oldest first, with the highest accepted count.
    used: BTreeMap<FreshNonce, u32>,
    /// The latest time of issue of all that was forgotten.
    floor: Option<u64>,
}

/// The nonce and count may have been used before: the client gets a challenge with `stale=true`,
/// since its password was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Replayed {
    /// The count is not above the highest one accepted for this nonce, or 0.
    #[error("the nonce count has been used before")]
    Count,
    /// The nonce is as old as some that have been forgotten, and may be one of them.
    #[error("the nonce may have been used and forgotten")]
    Forgotten,
}

impl ReplayGuard {
    /// An empty guard, for nonces that live `lifetime_millis`. It remembers `capacity` of them;
    /// with a capacity of 0 a nonce serves once, and no older one after it.
    pub fn new(lifetime_millis: u64, capacity: usize) -> Self {
        Self { lifetime_millis, capacity, used: BTreeMap::new(), floor: None }
    }

    /// Refuses nonces issued at or before `issued_unix_millis`, too. With the time of its start, a
    /// relay whose secret outlives it refuses what was used with its predecessor; the price is one
    /// more challenge for clients that were challenged before it started.
    #[must_use]
    pub fn with_floor(mut self, issued_unix_millis: u64) -> Self {
        self.raise_floor(issued_unix_millis);
        self
    }

    /// Accepts `nc` for a nonce if it is higher than all before it, and remembers it.
    ///
    /// To be called after the digest was verified, and not before: otherwise anyone could use up
    /// the counts of others, and fill the memory.
    ///
    /// # Errors
    /// [`Replayed`] if the pair has been used before, or that cannot be ruled out.
    pub fn check_and_store(
        &mut self,
        nonce: FreshNonce,
        nc: u32,
        now_unix_millis: u64,
    ) -> Result<(), Replayed> {
        self.forget_expired(now_unix_millis);
        if let Some(highest) = self.used.get_mut(&nonce) {
            if nc <= *highest {
                return Err(Replayed::Count);
            }
            *highest = nc;
            return Ok(());
        }
        if self.floor.is_some_and(|floor| nonce.issued() <= floor) {
            return Err(Replayed::Forgotten);
        }
        if nc == 0 {
            return Err(Replayed::Count);
        }
        self.used.insert(nonce, nc);
        if self.used.len() > self.capacity {
            self.forget_oldest();
        }
        Ok(())
    }

    /// How many nonces are remembered.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether no nonce is remembered.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    fn forget_expired(&mut self, now: u64) {
        while let Some((oldest, _)) = self.used.first_key_value()
            && now.saturating_sub(oldest.issued()) >= self.lifetime_millis
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((oldest, _)) = self.used.pop_first() {
            self.raise_floor(oldest.issued());
        }
    }

    fn raise_floor(&mut self, issued: u64) {
        self.floor = self.floor.max(Some(issued));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::nonce::{NonceKey, NonceState};
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const LIFETIME: u64 = 60_000;

    fn nonce(issued: u64, random: u8) -> FreshNonce {
        let key = NonceKey::new(&[7; 32]).unwrap();
        match key.check(issued, "r", &key.issue(issued, "r", [random; 8]), LIFETIME) {
            NonceState::Fresh(nonce) => nonce,
            state => panic!("{state:?}"),
        }
    }

    #[test]
    fn a_count_is_accepted_once_and_only_upwards() {
        let mut guard = ReplayGuard::new(LIFETIME, 8);
        let (a, b) = (nonce(NOW, 1), nonce(NOW, 2));
        assert_eq!(guard.check_and_store(a, 0, NOW), Err(Replayed::Count));
        assert!(guard.is_empty());
        assert_eq!(guard.check_and_store(a, 1, NOW), Ok(()));
        assert_eq!(guard.check_and_store(a, 1, NOW + 1), Err(Replayed::Count));
        assert_eq!(guard.check_and_store(a, 0, NOW + 1), Err(Replayed::Count));
        assert_eq!(guard.check_and_store(a, 5, NOW + 1), Ok(()));
        assert_eq!(guard.check_and_store(a, 4, NOW + 1), Err(Replayed::Count));
        assert_eq!(guard.check_and_store(a, u32::MAX, NOW + 1), Ok(()));
        assert_eq!(guard.check_and_store(a, u32::MAX, NOW + 1), Err(Replayed::Count));
        assert_eq!(guard.check_and_store(b, 1, NOW + 1), Ok(()));
        assert_eq!(guard.len(), 2);
    }

    #[test]
    fn expired_nonces_free_their_room_and_do_not_come_back_with_the_clock() {
        let mut guard = ReplayGuard::new(LIFETIME, 8);
        let old = nonce(NOW, 1);
        guard.check_and_store(old, 1, NOW).unwrap();
        guard.check_and_store(nonce(NOW + 1, 2), 1, NOW + LIFETIME - 1).unwrap();
        assert_eq!(guard.len(), 2);
        guard.check_and_store(nonce(NOW + 2, 3), 1, NOW + LIFETIME).unwrap();
        assert_eq!(guard.len(), 2);
        // The clock is set back, and the nonce is within its lifetime again.
        assert_eq!(guard.check_and_store(old, 1, NOW), Err(Replayed::Forgotten));
        assert_eq!(guard.check_and_store(old, 2, NOW), Err(Replayed::Forgotten));
    }

    #[test]
    fn at_the_limit_the_oldest_is_forgotten_and_raises_the_floor() {
        let mut guard = ReplayGuard::new(LIFETIME, 2);
        let [a, b, c] = [nonce(NOW + 10, 1), nonce(NOW + 20, 2), nonce(NOW + 30, 3)];
        for nonce in [b, a, c] {
            assert_eq!(guard.check_and_store(nonce, 1, NOW + 40), Ok(()));
            assert!(guard.len() <= 2);
        }
        assert_eq!(guard.check_and_store(a, 1, NOW + 40), Err(Replayed::Forgotten));
        assert_eq!(guard.check_and_store(a, 2, NOW + 40), Err(Replayed::Forgotten));
        // Others as old cannot be told from it; younger ones can.
        assert_eq!(guard.check_and_store(nonce(NOW + 10, 9), 1, NOW + 40), Err(Replayed::Forgotten));
        assert_eq!(guard.check_and_store(nonce(NOW + 9, 9), 1, NOW + 40), Err(Replayed::Forgotten));
        assert_eq!(guard.check_and_store(b, 1, NOW + 40), Err(Replayed::Count));
        assert_eq!(guard.check_and_store(b, 2, NOW + 40), Ok(()));
        // One that is itself the oldest is accepted once, and is at once the floor.
        let d = nonce(NOW + 11, 4);
        assert_eq!(guard.check_and_store(d, 1, NOW + 40), Ok(()));
        assert_eq!(guard.check_and_store(d, 1, NOW + 40), Err(Replayed::Forgotten));
        assert_eq!(guard.check_and_store(c, 2, NOW + 40), Ok(()));
    }

    #[test]
    fn those_remembered_at_the_floor_still_count() {
        let mut guard = ReplayGuard::new(LIFETIME, 1);
        guard.check_and_store(nonce(NOW, 1), 1, NOW).unwrap();
        guard.check_and_store(nonce(NOW, 2), 1, NOW).unwrap();
        assert_eq!(guard.check_and_store(nonce(NOW, 2), 2, NOW), Ok(()));
        assert_eq!(guard.check_and_store(nonce(NOW, 1), 2, NOW), Err(Replayed::Forgotten));
    }

    #[test]
    fn a_floor_from_the_start_refuses_what_came_before() {
        let mut guard = ReplayGuard::new(LIFETIME, 8).with_floor(NOW);
        assert_eq!(guard.check_and_store(nonce(NOW, 1), 1, NOW), Err(Replayed::Forgotten));
        assert_eq!(guard.check_and_store(nonce(NOW + 1, 1), 1, NOW + 1), Ok(()));
    }

    #[test]
    fn without_capacity_a_nonce_serves_once() {
        let mut guard = ReplayGuard::new(LIFETIME, 0);
        assert_eq!(guard.check_and_store(nonce(NOW, 1), 1, NOW), Ok(()));
        assert_eq!(guard.check_and_store(nonce(NOW, 1), 2, NOW), Err(Replayed::Forgotten));
        assert!(guard.is_empty());
    }

    proptest! {
        /// Whatever the order, the capacity and the clock do: no pair is accepted twice.
        #[test]
        fn no_pair_is_accepted_twice(
            capacity in 0usize..4,
            uses in prop::collection::vec((0u64..6, 0u8..3, 0u32..4, 0u64..2 * LIFETIME), 0..64),
        ) {
            let mut guard = ReplayGuard::new(LIFETIME, capacity);
            let mut accepted = HashSet::new();
            for (issued, random, nc, now) in uses {
                if guard.check_and_store(nonce(NOW + issued, random), nc, NOW + now).is_ok() {
                    prop_assert!(nc > 0 && accepted.insert((issued, random, nc)));
                }
                prop_assert!(guard.len() <= capacity);
            }
        }
    }
}
