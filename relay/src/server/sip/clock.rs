//! How long the peer of one connection may take.

use std::time::{Duration, Instant};

use tcp_transport::CloseReason;

/// The timers of one connection. Time is an argument, as everywhere.
#[derive(Debug)]
pub(super) struct Clock {
    /// A client has shown nothing of SIP yet, and has until then.
    probation: Option<Instant>,
    /// `max_msg_time`; `None` for an upstream, whose connection many share.
    max_msg_time: Option<Duration>,
    /// Since when a message is arriving.
    message: Option<Instant>,
    keep_alive: Option<KeepAlive>,
}

/// Asking by double CRLF whether an upstream is there (RFC 5626 §3.5.1, §4.4.1).
#[derive(Debug)]
struct KeepAlive {
    interval: Duration,
    timeout: Duration,
    state: Asked,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    /// Something came then.
    No(Instant),
    /// A ping was sent then, and nothing came since.
    At(Instant),
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// A double CRLF is to be sent.
    Ping,
    Close(CloseReason),
}

impl Clock {
    pub(super) fn of_client(now: Instant, probation: Duration, max_msg_time: Duration) -> Self {
        Self {
            probation: now.checked_add(probation),
            max_msg_time: Some(max_msg_time),
            message: None,
            keep_alive: None,
        }
    }

    /// An upstream's messages have their time too: one that announces more than it brings would swallow those of all
    /// others that come after it.
    pub(super) fn of_upstream(
        now: Instant,
        max_msg_time: Duration,
        interval: Option<Duration>,
        timeout: Duration,
    ) -> Self {
        let keep_alive = interval.map(|interval| KeepAlive { interval, timeout, state: Asked::No(now) });
        Self { probation: None, max_msg_time: Some(max_msg_time), message: None, keep_alive }
    }

    /// Bytes came: `events` messages and keep-alives ended with them, and `within` says whether they end in one.
    pub(super) fn read(&mut self, events: usize, within: bool, now: Instant) {
        if events > 0 {
            self.probation = None;
            self.message = None;
        }
        self.message = if within { self.message.or(Some(now)) } else { None };
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.state = Asked::No(now);
        }
    }

    /// Whether the peer is asked by double CRLF.
    pub(super) fn asks(&self) -> bool {
        self.keep_alive.is_some()
    }

    /// When [`expired`](Self::expired) is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let message = self.message.zip(self.max_msg_time).and_then(|(since, most)| since.checked_add(most));
        let keep_alive = self.keep_alive.as_ref().and_then(|keep_alive| match keep_alive.state {
            Asked::No(since) => since.checked_add(keep_alive.interval),
            Asked::At(since) => since.checked_add(keep_alive.timeout),
        });
        [self.probation, message, keep_alive].into_iter().flatten().min()
    }

    /// What is due at `now`.
    pub(super) fn expired(&mut self, now: Instant) -> Due {
        if let Some((since, most)) = self.message.zip(self.max_msg_time)
            && now.saturating_duration_since(since) >= most
        {
            let reason = format!("a message took more than {most:?} (`max_msg_time`)");
            return Due::Close(CloseReason::TooSlow(reason.into()));
        }
        if self.probation.is_some_and(|end| now >= end) {
            return Due::Close(CloseReason::HandshakeTimeout);
        }
        let Some(keep_alive) = &mut self.keep_alive else { return Due::Nothing };
        match keep_alive.state {
            Asked::No(since) if now.saturating_duration_since(since) >= keep_alive.interval => {
                keep_alive.state = Asked::At(now);
                Due::Ping
            }
            Asked::At(since) if now.saturating_duration_since(since) >= keep_alive.timeout => {
                let reason = "no answer to a double CRLF (`crlf_pong_timeout`)";
                Due::Close(CloseReason::TooSlow(reason.into()))
            }
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_message_has_its_time_from_its_first_byte() {
        let start = Instant::now();
        let mut clock = Clock::of_client(start, 30 * SECOND, 4 * SECOND);
        assert_eq!(clock.deadline(), Some(start + 30 * SECOND));
        clock.read(0, true, start + SECOND);
        clock.read(0, true, start + 3 * SECOND);
        assert_eq!(clock.deadline(), Some(start + 5 * SECOND));
        assert_eq!(clock.expired(start + 5 * SECOND - Duration::from_millis(1)), Due::Nothing);
        // One ends and the next one begins.
        clock.read(1, true, start + 4 * SECOND);
        assert_eq!(clock.deadline(), Some(start + 8 * SECOND));
        assert!(matches!(clock.expired(start + 8 * SECOND), Due::Close(CloseReason::TooSlow(_))));
        clock.read(1, false, start + 8 * SECOND);
        assert_eq!(clock.deadline(), None, "a client that has shown itself may be silent");
    }

    #[test]
    fn who_shows_nothing_of_sip_is_closed() {
        let start = Instant::now();
        let mut clock = Clock::of_client(start, 30 * SECOND, 4 * SECOND);
        clock.read(0, false, start + SECOND);
        assert_eq!(clock.expired(start + 30 * SECOND), Due::Close(CloseReason::HandshakeTimeout));
    }

    #[test]
    fn a_silent_upstream_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut clock = Clock::of_upstream(start, 4 * SECOND, Some(95 * SECOND), 10 * SECOND);
        clock.read(1, false, start + SECOND);
        assert_eq!(clock.deadline(), Some(start + 96 * SECOND));
        assert_eq!(clock.expired(start + 96 * SECOND), Due::Ping);
        assert_eq!(clock.deadline(), Some(start + 106 * SECOND));
        clock.read(1, false, start + 100 * SECOND);
        assert_eq!(clock.expired(start + 195 * SECOND), Due::Ping);
        assert_eq!(clock.expired(start + 204 * SECOND), Due::Nothing);
        assert!(matches!(clock.expired(start + 205 * SECOND), Due::Close(CloseReason::TooSlow(_))));
        let mut clock = Clock::of_upstream(start, 4 * SECOND, None, SECOND);
        assert_eq!(clock.deadline(), None);
        // Within a message that does not end, however much of it comes.
        clock.read(0, true, start);
        clock.read(0, true, start + 3 * SECOND);
        assert_eq!(clock.expired(start + 4 * SECOND - Duration::from_millis(1)), Due::Nothing);
        assert!(matches!(clock.expired(start + 4 * SECOND), Due::Close(CloseReason::TooSlow(_))));
    }
}
