//! A line of the log that a flood does not repeat.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long after a line the next one may come. Enough to be seen, and nothing to fill a disk with.
const INTERVAL: Duration = Duration::from_secs(60);

/// Something that is worth a line when it happens, and not a line each time. Time is an argument, as everywhere.
#[derive(Debug, Default)]
pub(crate) struct Occasion(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    logged: Option<Instant>,
    /// How often it has happened since, without a line.
    unsaid: u64,
}

impl Occasion {
    /// It happens: how often it has since the last line, if there is to be another one now.
    pub(crate) fn happens(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.logged.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            state.unsaid += 1;
            return None;
        }
        state.logged = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_says_how_often_it_has_happened() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let occasion = Occasion::default();
        assert_eq!(occasion.happens(at(0)), Some(0));
        for millis in (0..60_000).step_by(100) {
            assert_eq!(occasion.happens(at(millis)), None, "{millis}");
        }
        assert_eq!(occasion.happens(at(59_999)), None);
        assert_eq!(occasion.happens(at(60_000)), Some(601));
        assert_eq!(occasion.happens(at(60_001)), None);
        assert_eq!(occasion.happens(at(500_000)), Some(1));
    }
}
