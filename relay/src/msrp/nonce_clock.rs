//! The time by which nonces are issued and judged: the wall clock's, but never back.
//!
//! Where the wall clock is set back (a machine that began with a wrong one and has asked for the time since), nonces of
//! before would be from the future, and new ones older than some that were used and forgotten, which may not be used
//! again: nobody could log in until the clock is where it was. So until then each nonce is issued a millisecond after
//! the one before it.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the [module](self). Times are milliseconds since 1970.
#[derive(Debug)]
pub(super) struct NonceClock(AtomicU64);

impl NonceClock {
    pub(super) fn new(wall: u64) -> Self {
        Self(AtomicU64::new(wall))
    }

    /// The time for a nonce that is issued when the wall clock says `wall`.
    pub(super) fn issue(&self, wall: u64) -> u64 {
        let next = |latest: u64| if wall >= latest { wall } else { latest.saturating_add(1) };
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |latest| Some(next(latest)));
        next(before.unwrap_or_else(|latest| latest))
    }

    /// The time to judge nonces by.
    pub(super) fn now(&self, wall: u64) -> u64 {
        wall.max(self.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_wall_clock_and_goes_on_where_that_goes_back() {
        let clock = NonceClock::new(1000);
        assert_eq!([1000, 1000, 1005, 2000].map(|wall| clock.issue(wall)), [1000, 1000, 1005, 2000]);
        assert_eq!((clock.now(2100), clock.now(2000)), (2100, 2000));
        // An hour back: each nonce is younger than all before it, and none is from the future.
        assert_eq!([500, 501, 900].map(|wall| clock.issue(wall)), [2001, 2002, 2003]);
        assert_eq!(clock.now(900), 2003);
        // It has caught up.
        assert_eq!((clock.issue(2500), clock.now(2500)), (2500, 2500));
        let last = NonceClock::new(u64::MAX);
        assert_eq!(last.issue(0), u64::MAX);
    }
}
