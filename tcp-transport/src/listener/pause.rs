//! Accepts that fail, and connections that have to wait: what becomes of them, and what the log hears.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The first and the longest pause after an accept that failed for want of resources. Nothing else
/// can be done than to wait for connections to end, and trying on without a pause burns a core.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Errors of accept(2) that belong to one connection, the next may be fine. Linux passes on pending
/// network errors of the new socket.
pub(super) fn is_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::Interrupted
            | K::PermissionDenied
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::TimedOut
    )
}

/// Whether there is no descriptor for a socket, in this process or in the whole system.
pub(crate) fn is_want_of_descriptors(error: &io::Error) -> bool {
    // The same numbers on every Unix.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// After a line about accepts that fail, or have to wait, the next one. Where connections leave to make room for others,
/// that changes with each of them.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// When the log was told last.
#[derive(Debug, Default)]
pub(super) struct Told(Option<tokio::time::Instant>);

impl Told {
    /// Whether it is time for another line, which is told then.
    fn is_due(&mut self) -> bool {
        let now = tokio::time::Instant::now();
        let due = self.0.is_none_or(|told| now.duration_since(told) >= BETWEEN_LINES);
        if due {
            self.0 = Some(now);
        }
        due
    }

    /// Further connections wait in the backlog.
    pub(super) fn no_time(&mut self, listener: SocketAddr) {
        if self.is_due() {
            tracing::warn!(%listener, "handshakes come faster than they are begun: further connections wait");
        }
    }
}

/// The pause after an accept, or a connect, that failed for want of resources.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    last: Option<Duration>,
    /// Of accepts that fail.
    told: Told,
    /// It was not told since that they work again.
    owed: bool,
}

impl Pause {
    /// An accept failed; true if it is the first. Then there is a line in the log, at most one a minute.
    pub(super) fn begins(&mut self, listener: SocketAddr, error: &io::Error) -> bool {
        let first = self.last.is_none();
        if first && self.told.is_due() {
            self.owed = true;
            tracing::warn!(%listener, %error, "cannot accept connections; trying again until it works");
        }
        first
    }

    /// How long to wait before the next try: longer each time.
    pub(crate) fn next(&mut self) -> Duration {
        let next = self.last.map_or(PAUSE.0, |last| (last * 2).min(PAUSE.1));
        self.last = Some(next);
        next
    }

    pub(super) fn over(&mut self, listener: SocketAddr) {
        if self.last.take().is_some() && std::mem::take(&mut self.owed) {
            tracing::info!(%listener, "accepting connections again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_due_a_minute_after_the_one_before() {
        let mut told = Told::default();
        for (millis, due) in [(0, true), (59_999, false), (1, true), (1, false), (60_000, true)] {
            tokio::time::advance(Duration::from_millis(millis)).await;
            assert_eq!(told.is_due(), due, "{millis}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn accepts_that_fail_and_work_by_turns_are_a_line_a_minute() {
        let listener = "127.0.0.1:1".parse().unwrap();
        let error = io::Error::other("descriptors");
        let mut pause = Pause::default();
        for (seconds, owed) in [(0, true), (30, false), (29, false), (1, true), (59, false), (1, true)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert!(pause.begins(listener, &error));
            assert_eq!(pause.owed, owed, "{seconds}");
            pause.next();
            assert!(!pause.begins(listener, &error));
            pause.over(listener);
            assert!(!pause.owed);
        }
    }

    #[tokio::test]
    async fn pauses_grow_to_their_limit_and_start_anew() {
        let listener = "127.0.0.1:1".parse().unwrap();
        let error = io::Error::other("descriptors");
        let mut pause = Pause::default();
        assert!(pause.begins(listener, &error));
        assert_eq!(pause.next(), PAUSE.0);
        assert!(!pause.begins(listener, &error));
        assert_eq!(pause.next(), PAUSE.0 * 2);
        for _ in 0..10 {
            pause.next();
        }
        assert_eq!(pause.next(), PAUSE.1);
        pause.over(listener);
        assert!(pause.begins(listener, &error));
        assert_eq!(pause.next(), PAUSE.0);
    }

    #[test]
    fn an_aborted_connection_does_not_pause_the_listener() {
        assert!(is_connections_own(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_connections_own(&io::Error::other("too many open files")));
        assert!(is_want_of_descriptors(&io::Error::from_raw_os_error(24)));
        assert!(is_want_of_descriptors(&io::Error::from_raw_os_error(23)));
        assert!(!is_want_of_descriptors(&io::Error::from_raw_os_error(12)), "it is memory");
    }
}
