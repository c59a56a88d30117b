//! What the SIP edge has done with the messages that came.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sip::{Destination, Outcome};

/// Every message that came, of either side, ends in exactly one of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SipCounters {
    /// Given to an upstream's queue.
    pub to_upstreams: u64,
    /// Given to a client's queue.
    pub to_clients: u64,
    /// Answered by the edge itself, by the class of the status: 2xx for OPTIONS, 4xx, 5xx.
    pub answered: [u64; 3],
    /// Answers to the edge's own OPTIONS.
    pub probed: u64,
    /// Dropped: nobody would have heard of it.
    pub dropped: u64,
    /// Connections it has cost.
    pub closed: u64,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(super) struct Counting([AtomicU64; 8]);

impl Counting {
    pub(super) fn count(&self, outcome: &Outcome) {
        let place = match outcome {
            Outcome::Send(Destination::Upstream { .. }) => 0,
            Outcome::Send(Destination::Client(_)) => 1,
            Outcome::Respond { status, .. } => match status / 100 {
                0..=2 => 2,
                5.. => 4,
                _ => 3,
            },
            Outcome::Probed(..) => 5,
            Outcome::Drop(_) => 6,
            Outcome::Close(_) => 7,
            // Keep-alives are no messages.
            Outcome::Pong | Outcome::Alive => return,
        };
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> SipCounters {
        let [to_upstreams, to_clients, ok, client_error, server_error, probed, dropped, closed] =
            self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        let answered = [ok, client_error, server_error];
        SipCounters { to_upstreams, to_clients, answered, probed, dropped, closed }
    }
}
