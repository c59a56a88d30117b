//! When to try again.

use std::time::Duration;

/// A connection that has been up for so long was a good one, and the next attempt is the first of its row. One that
/// ends sooner counts as an attempt that failed, so that a collector which accepts and closes is not hammered.
const STABLE: Duration = Duration::from_secs(5);

/// What follows a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after this.
    Retry(Duration),
    /// Enough: the destination is down for this.
    Down(Duration),
}

/// Pauses that double, and an end of patience.
#[derive(Debug)]
pub(super) struct Retry {
    max_retries: Option<u32>,
    first_pause: Duration,
    cooldown: Duration,
    failures: u32,
}

impl Retry {
    pub(super) fn new(max_retries: Option<u32>, first_pause: Duration, cooldown: Duration) -> Self {
        Self { max_retries, first_pause, cooldown, failures: 0 }
    }

    /// An attempt has come to nothing, or to a connection that has ended after it was up for so long.
    pub(super) fn failed(&mut self, up: Option<Duration>) -> Next {
        if up.is_some_and(|up| up >= STABLE) {
            self.failures = 0;
        }
        if self.max_retries.is_some_and(|max| self.failures >= max) {
            self.failures = 0;
            return Next::Down(self.cooldown);
        }
        let doubled = self.first_pause.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        Next::Retry(doubled.min(self.cooldown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_until_the_retries_are_used_up_and_then_it_begins_anew() {
        let mut retry = Retry::new(Some(3), SECOND, SECOND * 3);
        for _ in 0..2 {
            assert_eq!(retry.failed(None), Next::Retry(SECOND));
            assert_eq!(retry.failed(None), Next::Retry(SECOND * 2));
            assert_eq!(retry.failed(None), Next::Retry(SECOND * 3), "not longer than the cooldown");
            assert_eq!(retry.failed(None), Next::Down(SECOND * 3));
        }
    }

    #[test]
    fn a_connection_that_was_up_long_enough_makes_the_next_attempt_the_first() {
        let mut retry = Retry::new(Some(3), SECOND, SECOND * 3);
        let almost = STABLE - Duration::from_nanos(1);
        for (up, pause) in
            [(None, 1), (Some(almost), 2), (Some(STABLE), 1), (Some(almost), 2), (Some(STABLE * 9), 1)]
        {
            assert_eq!(retry.failed(up), Next::Retry(SECOND * pause), "{up:?}");
        }
    }

    #[test]
    fn without_retries_the_first_failure_is_the_last() {
        assert_eq!(Retry::new(Some(0), SECOND, SECOND).failed(None), Next::Down(SECOND));
    }

    #[test]
    fn without_a_limit_it_never_gives_up() {
        let mut retry = Retry::new(None, SECOND, SECOND * 60);
        for _ in 0..100 {
            assert!(matches!(retry.failed(None), Next::Retry(pause) if pause <= SECOND * 60));
        }
    }
}
