//! Transactions that await a response (RFC 4975 §7.1.1, §7.2).
//!
//! # States and ownership
//!
//! [`Transactions`] owns, for each request that may be answered, a value of the caller's: what the
//! response will be about. An entry is *open* from [`begin`](Transactions::begin), since an error
//! may come back while the request is still being sent; its time runs from
//! [`sent`](Transactions::sent), the moment the request's last byte was handed to the connection;
//! and it is gone with [`answered`](Transactions::answered) or [`expire`](Transactions::expire).
//!
//! Failure-Report decides: `yes` is timed, and its expiry is a failure; `partial` is kept as long,
//! to match an error with its request, but no answer is good news; for `no` nothing is stored at
//! all.
//!
//! There is no clock here: `now` is an argument, and [`deadline`](Transactions::deadline) tells when
//! [`expire`](Transactions::expire) has work.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::header::FailureReport;
use crate::ident::TransactionId;

/// How long a response may take from the last byte of its request (RFC 4975 §7.1.1).
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The requests of one connection that await a response.
#[derive(Clone, Debug)]
pub struct Transactions<T> {
    timeout: Duration,
    open: HashMap<TransactionId, Entry<T>>,
    deadlines: BTreeSet<(Instant, TransactionId)>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    value: T,
    wanted: bool,
    deadline: Option<Instant>,
}

/// A transaction whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired<T> {
    /// Its id.
    pub id: TransactionId,
    /// What it was about.
    pub value: T,
    /// Whether that is a failure: Failure-Report was `yes`.
    pub failed: bool,
}

impl<T> Default for Transactions<T> {
    fn default() -> Self {
        Self::new(RESPONSE_TIMEOUT)
    }
}

impl<T> Transactions<T> {
    /// None yet; each will have `timeout` for its response.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, open: HashMap::new(), deadlines: BTreeSet::new() }
    }

    /// A request begins to be sent. For [`FailureReport::No`] nothing is stored.
    ///
    /// Gives whether it could begin: `false` if the id is in use, which a random one is not.
    pub fn begin(&mut self, id: TransactionId, wish: FailureReport, value: T) -> bool {
        if self.open.contains_key(&id) {
            return false;
        }
        if wish != FailureReport::No {
            let entry = Entry { value, wanted: wish == FailureReport::Yes, deadline: None };
            self.open.insert(id, entry);
        }
        true
    }

    /// The request's last byte was handed to the connection: its time runs from now.
    pub fn sent(&mut self, id: &TransactionId, now: Instant) {
        if let Some(entry) = self.open.get_mut(id) {
            if let Some(before) = entry.deadline {
                self.deadlines.remove(&(before, *id));
            }
            let deadline = now + self.timeout;
            entry.deadline = Some(deadline);
            self.deadlines.insert((deadline, *id));
        }
    }

    /// A response has arrived: what was it about? `None` for one that nobody awaits, or awaits no
    /// more.
    pub fn answered(&mut self, id: &TransactionId) -> Option<T> {
        let entry = self.open.remove(id)?;
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, *id));
        }
        Some(entry.value)
    }

    /// What the transaction is about, while it is open.
    pub fn about(&self, id: &TransactionId) -> Option<&T> {
        self.open.get(id).map(|entry| &entry.value)
    }

    /// When the next time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes a transaction whose time is over; call until it gives none.
    pub fn expire(&mut self, now: Instant) -> Option<Expired<T>> {
        let &(deadline, id) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        self.open.remove(&id).map(|entry| Expired { id, value: entry.value, failed: entry.wanted })
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Forgets all, when the connection is gone.
    pub fn clear(&mut self) {
        self.open.clear();
        self.deadlines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> TransactionId {
        TransactionId::new(text.as_bytes()).unwrap()
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn the_time_runs_from_the_last_byte_and_ends_exactly() {
        let start = Instant::now();
        let mut all = Transactions::default();
        assert!(all.begin(id("aaaa"), FailureReport::Yes, 1));
        assert_eq!(all.deadline(), None, "not sent yet");
        all.sent(&id("aaaa"), after(start, 5_000));
        assert_eq!(all.deadline(), Some(after(start, 35_000)));
        assert_eq!(all.expire(after(start, 34_999)), None);
        let expired = Expired { id: id("aaaa"), value: 1, failed: true };
        assert_eq!(all.expire(after(start, 35_000)), Some(expired));
        assert_eq!((all.expire(after(start, 99_000)), all.deadline(), all.len()), (None, None, 0));
    }

    #[test]
    fn an_answer_ends_it_even_before_it_was_sent() {
        let mut all = Transactions::default();
        all.begin(id("aaaa"), FailureReport::Yes, 1);
        assert_eq!(all.about(&id("aaaa")), Some(&1));
        assert_eq!(all.answered(&id("aaaa")), Some(1));
        all.sent(&id("aaaa"), Instant::now());
        assert_eq!((all.deadline(), all.answered(&id("aaaa"))), (None, None));
        assert!(all.is_empty());
    }

    #[test]
    fn failure_report_decides_what_is_kept() {
        let start = Instant::now();
        let mut all = Transactions::default();
        for (name, wish) in
            [("yyyy", FailureReport::Yes), ("pppp", FailureReport::Partial), ("nnnn", FailureReport::No)]
        {
            all.begin(id(name), wish, name);
            all.sent(&id(name), start);
        }
        assert_eq!(all.len(), 2);
        let end = start + RESPONSE_TIMEOUT;
        let mut ends: Vec<_> =
            std::iter::from_fn(|| all.expire(end)).map(|gone| (gone.value, gone.failed)).collect();
        ends.sort_unstable();
        assert_eq!(ends, [("pppp", false), ("yyyy", true)]);
    }

    #[test]
    fn ids_in_use_are_refused_and_the_earliest_deadline_is_told() {
        let start = Instant::now();
        let mut all = Transactions::new(Duration::from_secs(1));
        assert!(all.begin(id("aaaa"), FailureReport::Yes, 1));
        assert!(!all.begin(id("aaaa"), FailureReport::Yes, 2));
        assert!(all.begin(id("bbbb"), FailureReport::Yes, 3));
        all.sent(&id("bbbb"), start);
        all.sent(&id("aaaa"), after(start, 10));
        assert_eq!(all.deadline(), Some(after(start, 1000)));
        all.sent(&id("bbbb"), after(start, 20));
        assert_eq!(all.deadline(), Some(after(start, 1010)), "sent again, timed again");
        assert_eq!(all.answered(&id("aaaa")), Some(1));
        assert_eq!(all.deadline(), Some(after(start, 1020)));
    }
}
