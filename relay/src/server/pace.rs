//! Protection against those who hold a connection by sending as slowly as they can (slow-loris).
//!
//! A head must be complete `head_timeout` after its first byte, and in at most `max_msg_chunks` reads. After
//! that, a message must bring `min_progress` bytes in every `progress_timeout`. Time in which this relay does
//! not read (back-pressure) does not count.

use std::time::{Duration, Instant};

use tcp_transport::CloseReason;

use crate::config::{Limits, Timeouts};

/// Where the last read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Between two messages.
    Between,
    /// In a head of which so many bytes are there.
    Head(usize),
    /// In a message whose head is known.
    Message,
}

/// How fast one connection brings its messages. Time is an argument, as everywhere.
#[derive(Debug)]
pub(super) struct Pace {
    head_timeout: Duration,
    max_msg_chunks: Option<usize>,
    /// None for a peer that is trusted to go on.
    progress: Option<(Duration, u64)>,
    state: State,
    /// All bytes read until the last call.
    received: u64,
}

#[derive(Debug)]
enum State {
    Between,
    Head { since: Instant, reads: usize },
    Message { since: Instant, from: u64 },
}

impl Pace {
    pub(super) fn new(limits: &Limits, timeouts: &Timeouts, trusted: bool) -> Self {
        Self {
            head_timeout: timeouts.head_timeout,
            max_msg_chunks: limits.max_msg_chunks,
            progress: (!trusted).then_some((timeouts.progress_timeout, limits.min_progress as u64)),
            state: State::Between,
            received: 0,
        }
    }

    /// A read has brought `received` bytes in all; what they are is not known yet.
    pub(super) fn arrives(&self, received: u64) -> Result<(), CloseReason> {
        match (&self.state, self.max_msg_chunks) {
            (State::Head { reads, .. }, Some(max)) if received > self.received && *reads >= max => {
                let reason = format!("a head in more than {max} reads (`max_msg_chunks`)");
                Err(CloseReason::TooSlow(reason.into()))
            }
            _ => Ok(()),
        }
    }

    /// That read, or a resumption without one, ended at `place`.
    pub(super) fn read(&mut self, place: Place, received: u64, now: Instant) {
        let fresh = received - self.received;
        self.received = received;
        self.state = match (place, &self.state) {
            (Place::Between, _) => State::Between,
            // A head goes on if more of it is there than has just come.
            (Place::Head(len), State::Head { since, reads }) if len as u64 > fresh => {
                State::Head { since: *since, reads: reads + usize::from(fresh > 0) }
            }
            (Place::Head(_), _) => State::Head { since: now, reads: 1 },
            (Place::Message, State::Message { since, from }) if self.falls_short(*from) => {
                State::Message { since: *since, from: *from }
            }
            (Place::Message, _) => State::Message { since: now, from: received },
        };
    }

    /// This relay does not read for now.
    pub(super) fn paused(&mut self) {
        self.state = State::Between;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match (&self.state, self.progress) {
            (State::Head { since, .. }, _) => Some(*since + self.head_timeout),
            (State::Message { since, .. }, Some((timeout, _))) => Some(*since + timeout),
            (State::Between, _) | (State::Message { .. }, None) => None,
        }
    }

    /// Time has passed.
    pub(super) fn expired(&self, now: Instant) -> Result<(), CloseReason> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        Err(CloseReason::TooSlow(match self.state {
            State::Head { .. } => "a head was not complete in `head_timeout`".into(),
            State::Message { .. } | State::Between => {
                "a message brought less than `min_progress` in `progress_timeout`".into()
            }
        }))
    }

    fn falls_short(&self, from: u64) -> bool {
        self.progress.is_some_and(|(_, min)| self.received - from < min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(max_msg_chunks: Option<usize>) -> Pace {
        let limits = Limits { max_msg_chunks, min_progress: 100, ..Limits::default() };
        let seconds = Duration::from_secs;
        let timeouts =
            Timeouts { head_timeout: seconds(30), progress_timeout: seconds(60), ..Timeouts::default() };
        Pace::new(&limits, &timeouts, false)
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = pace(None);
        assert_eq!(pace.deadline(), None);
        pace.read(Place::Head(1), 1, at(0));
        // More bytes give no more time.
        for n in 2..100 {
            pace.read(Place::Head(n), n as u64, at(n as u64 / 10));
        }
        assert_eq!(pace.deadline(), Some(at(30)));
        assert!(pace.expired(at(29)).is_ok());
        let reason = pace.expired(at(30)).unwrap_err();
        assert!(matches!(&reason, CloseReason::TooSlow(_)), "{reason}");
        assert!(reason.to_string().contains("head_timeout"));
        // The next head has its own: 51 bytes end the old message, 10 begin a new one.
        pace.read(Place::Head(10), 160, at(20));
        assert_eq!(pace.deadline(), Some(at(50)));
        pace.read(Place::Between, 200, at(21));
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn the_reads_of_a_head_are_counted_below_at_and_above_the_limit() {
        let now = Instant::now();
        let in_reads = |reads: u64| {
            let mut pace = pace(Some(4));
            for n in 1..reads {
                pace.arrives(n)?;
                pace.read(Place::Head(n as usize), n, now);
                // A resumption without a byte is no read.
                pace.arrives(n)?;
                pace.read(Place::Head(n as usize), n, now);
            }
            pace.arrives(reads)
        };
        for (reads, good) in [(1, true), (3, true), (4, true), (5, false), (9, false)] {
            assert_eq!(in_reads(reads).is_ok(), good, "{reads}");
        }
        let mut unlimited = pace(None);
        for n in 1..10_000 {
            unlimited.arrives(n).unwrap();
            unlimited.read(Place::Head(n as usize), n, now);
        }
    }

    #[test]
    fn a_message_must_bring_its_minimum_in_each_interval() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = pace(None);
        pace.read(Place::Message, 1000, at(0));
        pace.read(Place::Message, 1099, at(59));
        assert_eq!(pace.deadline(), Some(at(60)), "below");
        assert!(pace.expired(at(59)).is_ok());
        assert!(pace.expired(at(60)).unwrap_err().to_string().contains("min_progress"));
        pace.read(Place::Message, 1100, at(59));
        assert_eq!(pace.deadline(), Some(at(119)), "at");
        pace.read(Place::Message, 5000, at(100));
        assert_eq!(pace.deadline(), Some(at(160)), "above");
        pace.paused();
        assert_eq!(pace.deadline(), None, "we do not read");
        pace.read(Place::Message, 5000, at(500));
        assert_eq!(pace.deadline(), Some(at(560)));
        pace.read(Place::Between, 5001, at(501));
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn a_relay_may_take_its_time_within_a_message_not_within_a_head() {
        let now = Instant::now();
        let mut pace = Pace::new(&Limits::default(), &Timeouts::default(), true);
        pace.read(Place::Message, 1, now);
        assert_eq!(pace.deadline(), None);
        pace.read(Place::Head(1), 2, now);
        assert!(pace.deadline().is_some());
    }
}
