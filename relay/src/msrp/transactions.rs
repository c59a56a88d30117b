//! Requests that were sent on over one link and are not answered.
//!
//! # States of a transaction
//!
//! *unsent* (a SEND whose last byte the socket has not taken) → *timed* (the response must come within
//! `response_timeout`, RFC 4976 §6.4.1) or, with Failure-Report `partial`, *remembered* without a time
//! → gone, with the response, its time, or the link. AUTH and unknown methods are timed from the start.
//!
//! # Limits
//!
//! [`MAX_TRANSACTIONS`] and [`MAX_REMEMBERED_BYTES`] bound what a next hop that never answers can make
//! us keep: at either the owner of this begins nothing new. [`MAX_PARTIAL`] are remembered; then the
//! oldest is forgotten.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use msrp_proto::header::{ByteRange, FailureReport};
use msrp_proto::ident::TransactionId;

use super::origin::Origin;

/// How many requests may be without a response on one connection.
pub(crate) const MAX_TRANSACTIONS: usize = 16 * 1024;
/// How many bytes may be remembered of them: 16 MiB, 1 KiB for each, twice the usual size.
pub(crate) const MAX_REMEMBERED_BYTES: usize = 16 * 1024 * 1024;
/// How many SENDs with Failure-Report `partial` are remembered in case an error comes back.
pub(crate) const MAX_PARTIAL: usize = 1024;
/// How many timers of answered transactions may stand behind one that is not answered, for each
/// transaction that is not and in all: then they are swept out.
const MAX_STALE_TIMERS: usize = 64;

/// A SEND, or a fragment of one, that will not arrive.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) origin: Box<Origin>,
    /// Whether its sender has already been told 200, so that a REPORT must follow; otherwise an
    /// error response will do.
    pub(crate) answered: bool,
    /// Which bytes.
    pub(crate) range: ByteRange,
}

/// A request that was sent on and may be answered.
#[derive(Debug)]
pub(crate) enum Transaction {
    /// A SEND: an error becomes a REPORT.
    Chunk(Failure),
    /// AUTH or an unknown method: the response goes back the whole path.
    Path(Box<Origin>),
}

impl Transaction {
    pub(crate) fn origin(&self) -> &Origin {
        match self {
            Self::Chunk(failure) => &failure.origin,
            Self::Path(origin) => origin,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Transactions {
    response_timeout: Duration,
    open: HashMap<TransactionId, Transaction>,
    /// Bytes that `open` remembers.
    bytes: usize,
    /// SENDs whose last byte the socket has not taken yet: where it stands.
    unsent: VecDeque<(u64, TransactionId)>,
    /// Those whose time runs, the oldest first.
    timers: VecDeque<(Instant, TransactionId)>,
    partial: VecDeque<TransactionId>,
}

impl Transactions {
    pub(crate) fn new(response_timeout: Duration) -> Self {
        Self {
            response_timeout,
            open: HashMap::new(),
            bytes: 0,
            unsent: VecDeque::new(),
            timers: VecDeque::new(),
            partial: VecDeque::new(),
        }
    }

    /// Whether nobody is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Gives back the room that nothing stands in.
    pub(crate) fn quiet(&mut self) {
        if self.open.is_empty() {
            self.open = HashMap::new();
        }
        if self.unsent.is_empty() {
            self.unsent = VecDeque::new();
        }
        if self.timers.is_empty() {
            self.timers = VecDeque::new();
        }
        if self.partial.is_empty() {
            self.partial = VecDeque::new();
        }
    }

    /// Whether so many requests are without a response that no more may be added.
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() >= MAX_TRANSACTIONS || self.bytes >= MAX_REMEMBERED_BYTES
    }

    /// Remembers a SEND whose last byte is the `end`th that goes to the socket.
    pub(crate) fn await_chunk_response(&mut self, id: TransactionId, failure: Failure, end: u64) {
        self.insert(id, Transaction::Chunk(failure));
        self.unsent.push_back((end, id));
    }

    /// Remembers a forwarded AUTH or unknown method, whose time runs from now.
    pub(crate) fn await_path_response(&mut self, id: TransactionId, origin: Box<Origin>, now: Instant) {
        self.insert(id, Transaction::Path(origin));
        self.timers.push_back((now + self.response_timeout, id));
    }

    /// The socket has taken so many bytes. Gives the transaction that is forgotten over it.
    pub(crate) fn sent(&mut self, taken: u64, now: Instant) -> Vec<Transaction> {
        let mut forgotten = Vec::new();
        while let Some(&(end, id)) = self.unsent.front() {
            if end > taken {
                break;
            }
            self.unsent.pop_front();
            match self.open.get(&id) {
                // Nobody answers these unless they fail, so there is no time after which they are
                // forgotten.
                Some(Transaction::Chunk(failure))
                    if failure.origin.failure_report == FailureReport::Partial =>
                {
                    self.partial.push_back(id);
                    if self.partial.len() > MAX_PARTIAL {
                        let oldest = self.partial.pop_front();
                        forgotten.extend(oldest.and_then(|oldest| self.remove(&oldest)));
                    }
                }
                Some(_) => self.timers.push_back((now + self.response_timeout, id)),
                None => {}
            }
        }
        forgotten
    }

    /// Takes the transaction that a response answers.
    pub(crate) fn answered(&mut self, id: &TransactionId) -> Option<Transaction> {
        let found = self.remove(id);
        self.forget_stale();
        found
    }

    /// When the oldest transaction's time is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.front().map(|&(at, _)| at)
    }

    /// Takes the transactions whose time is over.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<Transaction> {
        let mut expired = Vec::new();
        while let Some(&(at, id)) = self.timers.front() {
            if at > now {
                break;
            }
            self.timers.pop_front();
            expired.extend(self.remove(&id));
        }
        self.forget_stale();
        expired
    }

    /// Takes all that are owed an answer. That nobody has answered those that are merely remembered
    /// is as it should be: they are taken for delivered.
    pub(crate) fn close(&mut self) -> Vec<Transaction> {
        for id in std::mem::take(&mut self.partial) {
            self.remove(&id);
        }
        let lost = self.open.drain().map(|(_, transaction)| transaction).collect();
        *self = Self::new(self.response_timeout);
        lost
    }

    /// How many timers are held.
    #[cfg(test)]
    pub(crate) fn timer_count(&self) -> usize {
        self.timers.len()
    }

    /// How many are owed an answer: not those that are merely remembered.
    #[cfg(test)]
    pub(crate) fn owed(&self) -> usize {
        self.open.len() - self.remembered()
    }

    /// How many are merely remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.partial.iter().filter(|id| self.open.contains_key(*id)).count()
    }

    fn insert(&mut self, id: TransactionId, transaction: Transaction) {
        self.bytes += transaction.origin().len();
        self.open.insert(id, transaction);
    }

    fn remove(&mut self, id: &TransactionId) -> Option<Transaction> {
        let transaction = self.open.remove(id)?;
        self.bytes -= transaction.origin().len();
        Some(transaction)
    }

    /// Responses mostly come in the order of the requests: what is answered need not wait for its
    /// time in the queue.
    fn forget_stale(&mut self) {
        while self.timers.front().is_some_and(|(_, id)| !self.open.contains_key(id)) {
            self.timers.pop_front();
        }
        if self.timers.len() > 2 * self.open.len() + MAX_STALE_TIMERS {
            self.timers.retain(|(_, id)| self.open.contains_key(id));
        }
        while self.partial.front().is_some_and(|id| !self.open.contains_key(id)) {
            self.partial.pop_front();
        }
    }
}
