//! What the last minutes were like: a ring of samples, from which the status page draws its charts.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::statistics::unix_seconds;
use crate::msrp::Count;
use crate::server::Control;

/// How often a sample is taken.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// How many are kept: 15 minutes and the one they begin with, less than 20 KB.
pub(super) const SAMPLES: usize = 181;

/// The counters of one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at: Instant,
    time: SystemTime,
    sessions: usize,
    connections: usize,
    totals: Totals,
}

/// What only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    messages: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// What this relay refused: error responses of its own, and wrong credentials. Not what belongs to the course of an
    /// AUTH: the challenge (401), and the time that is granted at most (423).
    refused: u64,
    /// What others did not take: error responses received, and requests that nobody answered.
    failed: u64,
    /// Connections that did not come up, were reset or timed out.
    broken: u64,
}

impl Totals {
    fn since(self, before: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(before.messages),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            refused: self.refused.saturating_sub(before.refused),
            failed: self.failed.saturating_sub(before.failed),
            broken: self.broken.saturating_sub(before.broken),
        }
    }
}

impl Sample {
    pub(super) fn of(control: &Control) -> Self {
        let (relay, ledger) = (control.relay(), control.ledger());
        let counters = relay.counters();
        let own_errors: u64 = counters
            .responses()
            .filter(|(status, _)| !matches!(status, 401 | 423) && !(200..300).contains(status))
            .map(|(_, count)| count)
            .sum();
        let mut totals = Totals {
            messages: counters.get(Count::MessagesForwarded),
            refused: own_errors + counters.get(Count::AuthsFailed),
            failed: counters.get(Count::ErrorsReceived) + counters.get(Count::TransactionsTimedOut),
            ..Totals::default()
        };
        for (_, connections) in ledger.totals() {
            totals.bytes_in += connections.bytes_in;
            totals.bytes_out += connections.bytes_out;
            totals.broken += connections.timed_out + connections.reset + connections.failed;
        }
        Self {
            at: control.now(),
            time: SystemTime::now(),
            sessions: relay.sessions().len(),
            connections: ledger.len(),
            totals,
        }
    }
}

/// The last [`SAMPLES`] samples.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Sample>);

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        if self.0.len() == SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// One value for each time between two samples, oldest first: `time` is its end and `seconds` how long it was. What
    /// is counted is what came in that time; `sessions` and `connections` are how many there were at its end.
    pub(super) fn to_json(&self) -> Value {
        let steps = || self.0.iter().zip(self.0.iter().skip(1));
        let values = |of: &dyn Fn(&Sample, Totals) -> Value| -> Value {
            steps().map(|(before, after)| of(after, after.totals.since(before.totals))).collect()
        };
        let seconds: Value = steps()
            .map(|(before, after)| {
                (after.at.saturating_duration_since(before.at).as_secs_f64() * 1000.0).round() / 1000.0
            })
            .collect();
        json!({
            "interval_seconds": INTERVAL.as_secs(),
            "length": SAMPLES - 1,
            "time": values(&|after, _| unix_seconds(after.time).round().into()),
            "seconds": seconds,
            "messages": values(&|_, step| step.messages.into()),
            "bytes_in": values(&|_, step| step.bytes_in.into()),
            "bytes_out": values(&|_, step| step.bytes_out.into()),
            "refused": values(&|_, step| step.refused.into()),
            "failed": values(&|_, step| step.failed.into()),
            "broken": values(&|_, step| step.broken.into()),
            "sessions": values(&|after, _| after.sessions.into()),
            "connections": values(&|after, _| after.connections.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(start: Instant, number: u64, totals: Totals) -> Sample {
        let seconds = Duration::from_secs(number * 5);
        let time = SystemTime::UNIX_EPOCH + seconds;
        Sample { at: start + seconds, time, sessions: number as usize, connections: 3, totals }
    }

    #[test]
    fn it_says_what_came_between_two_samples() {
        let start = Instant::now();
        let mut history = History::default();
        assert_eq!(history.to_json()["messages"], json!([]));
        history.push(sample(start, 0, Totals { messages: 100, bytes_in: 7, ..Totals::default() }));
        assert_eq!(history.to_json()["messages"], json!([]));
        let then = Totals { messages: 130, bytes_in: 7, bytes_out: 9, refused: 1, failed: 2, broken: 3 };
        history.push(sample(start, 1, then));
        history.push(sample(start, 3, Totals { messages: 131, ..then }));
        let shown = history.to_json();
        for (series, expected) in [
            ("messages", json!([30, 1])),
            ("bytes_in", json!([0, 0])),
            ("bytes_out", json!([9, 0])),
            ("refused", json!([1, 0])),
            ("failed", json!([2, 0])),
            ("broken", json!([3, 0])),
            ("sessions", json!([1, 3])),
            ("connections", json!([3, 3])),
            ("seconds", json!([5.0, 10.0])),
            ("time", json!([5.0, 15.0])),
        ] {
            assert_eq!(shown[series], expected, "{series}");
        }
    }

    #[test]
    fn it_keeps_a_quarter_of_an_hour() {
        let start = Instant::now();
        let mut history = History::default();
        for number in 0..500 {
            history.push(sample(start, number, Totals { messages: number, ..Totals::default() }));
            assert!(history.0.len() <= SAMPLES);
        }
        let shown = history.to_json();
        let messages = shown["messages"].as_array().unwrap();
        assert_eq!((messages.len(), messages.iter().map(|n| n.as_u64().unwrap()).sum()), (180, 180));
        assert_eq!(shown["time"][0], (500.0 - 180.0) * 5.0);
        assert_eq!(INTERVAL * 180, Duration::from_secs(15 * 60));
    }
}
