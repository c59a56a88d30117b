//! When to try again.

use std::time::Duration;

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

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(&mut self) -> Next {
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
            assert_eq!(retry.failed(), Next::Retry(SECOND));
            assert_eq!(retry.failed(), Next::Retry(SECOND * 2));
            assert_eq!(retry.failed(), Next::Retry(SECOND * 3), "not longer than the cooldown");
            assert_eq!(retry.failed(), Next::Down(SECOND * 3));
        }
        assert_eq!(retry.failed(), Next::Retry(SECOND));
        retry.succeeded();
        assert_eq!(retry.failed(), Next::Retry(SECOND));
    }

    #[test]
    fn without_retries_the_first_failure_is_the_last() {
        assert_eq!(Retry::new(Some(0), SECOND, SECOND).failed(), Next::Down(SECOND));
    }

    #[test]
    fn without_a_limit_it_never_gives_up() {
        let mut retry = Retry::new(None, SECOND, SECOND * 60);
        for _ in 0..100 {
            assert!(matches!(retry.failed(), Next::Retry(pause) if pause <= SECOND * 60));
        }
    }
}
