//! What waits, for tests that watch its bounds.

use super::Outbound;

/// Everything that waits on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// What each of the lanes counts against `session_buffer`, the most; and how many lanes there are.
    pub(crate) fullest_lane: usize,
    pub(crate) lanes: usize,
    /// Bytes of control messages, and on the wire.
    pub(crate) control: usize,
    pub(crate) wire: usize,
    /// Requests that are owed an answer, or time out: not those that are merely remembered.
    pub(crate) transactions: usize,
    /// Those that are merely remembered: of each an error may come at any time.
    pub(crate) remembered: usize,
}

impl Outbound {
    pub(crate) fn backlog(&self) -> Backlog {
        Backlog {
            fullest_lane: self.lanes.iter().map(|lane| lane.queued).max().unwrap_or(0),
            lanes: self.lanes.iter().count(),
            control: self.control.len(),
            wire: self.wire.len(),
            transactions: self.transactions.owed(),
            remembered: self.transactions.remembered(),
        }
    }
}
