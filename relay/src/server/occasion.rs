//! Lines of the log that a flood does not repeat.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use super::now;

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

/// How many lines of one kind come within an interval. Each says whom it is about, so an operator with a few clients that
/// fail sees them all; an attack makes 20 KB a minute of it.
const LINES: u32 = 100;

/// As [`Occasion`], where each line says something of its own: all come until there are too many, and then how many more.
#[derive(Debug, Default)]
pub(crate) struct Flood(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    /// When the interval began.
    since: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It is written.
    Line,
    /// It is not; after so long it is to be told how often that has [happened](Flood::take).
    FirstUnsaid(Duration),
    /// It is not.
    Unsaid,
}

impl Flood {
    /// It happens.
    fn happens(&self, now: Instant) -> Told {
        let mut state = self.0.lock();
        let over = |since| now.saturating_duration_since(since) >= INTERVAL;
        let since = match state.since.filter(|since| !over(*since)) {
            Some(since) => since,
            None => {
                (state.since, state.lines) = (Some(now), 0);
                now
            }
        };
        if state.lines < LINES {
            state.lines += 1;
            return Told::Line;
        }
        state.unsaid += 1;
        match state.unsaid {
            1 => Told::FirstUnsaid((since + INTERVAL).saturating_duration_since(now)),
            _ => Told::Unsaid,
        }
    }

    /// It happens now: whether there is a line about it. Where there is none, `rest` is told how many had none when the
    /// interval is over, once. Needs a tokio runtime.
    pub(crate) fn has_line(self: &Arc<Self>, rest: impl FnOnce(u64) + Send + 'static) -> bool {
        match self.happens(now()) {
            Told::Line => return true,
            Told::Unsaid => {}
            Told::FirstUnsaid(wait) => {
                let flood = Arc::clone(self);
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    rest(flood.take());
                });
            }
        }
        false
    }

    /// How many lines were not written since this was asked last.
    fn take(&self) -> u64 {
        std::mem::take(&mut self.0.lock().unsaid)
    }
}

/// Handshakes that fail, and PROXY headers that are not there, at one listener.
#[derive(Debug)]
pub(crate) struct Failures {
    local: SocketAddr,
    flood: Arc<Flood>,
}

impl Failures {
    pub(crate) fn of(local: SocketAddr) -> Self {
        Self { local, flood: Arc::default() }
    }

    /// Whether the log has a line about a connection that came to nothing; where a flood has taken them all, it will have
    /// one about the rest.
    pub(crate) fn tells(&self) -> bool {
        let local = self.local;
        self.flood.has_line(move |unsaid| {
            warn!(%local, unsaid, "more connections closed whose handshake or PROXY header failed");
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_hundred_lines_a_minute_are_told_and_then_how_many_more() {
        let start = Instant::now();
        let flood = Flood::default();
        let second = Duration::from_secs(1);
        for _ in 0..LINES {
            assert_eq!(flood.happens(start), Told::Line);
        }
        assert_eq!(flood.happens(start + 20 * second), Told::FirstUnsaid(40 * second));
        assert_eq!(flood.happens(start + 59 * second), Told::Unsaid);
        assert_eq!(flood.happens(start + 60 * second), Told::Line);
        assert_eq!(flood.take(), 2);
        for _ in 1..LINES {
            assert_eq!(flood.happens(start + 61 * second), Told::Line);
        }
        assert_eq!(flood.happens(start + 61 * second), Told::FirstUnsaid(59 * second));
        assert_eq!((flood.take(), flood.take()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_told_once_when_the_interval_is_over() {
        let (flood, told) = (Arc::new(Flood::default()), Arc::new(Mutex::new(Vec::new())));
        let has_line = || {
            let told = Arc::clone(&told);
            flood.has_line(move |unsaid| told.lock().push(unsaid))
        };
        let lines = (0..LINES + 7).filter(|_| has_line()).count();
        assert_eq!(lines, 100);
        tokio::time::sleep(INTERVAL * 2).await;
        assert_eq!(*told.lock(), [7]);
    }

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

    /// Lines of the log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_many_failures_had_no_line_is_told_when_the_minute_is_over() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(log);
        let failures = Failures::of("127.0.0.1:1".parse().unwrap());
        let told = || String::from_utf8(lines.0.lock().clone()).unwrap();
        assert!((0..LINES).all(|_| failures.tells()));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!((0..7).all(|_| !failures.tells()));
        tokio::time::sleep(Duration::from_secs(39)).await;
        assert_eq!(told(), "");
        assert!(!failures.tells());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let line = "local=127.0.0.1:1 unsaid=8";
        assert!(told().contains("WARN") && told().contains(line), "{}", told());
        assert!(failures.tells(), "another minute");
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(told().lines().count(), 1, "{}", told());
    }
}
