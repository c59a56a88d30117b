//! Tracing: where messages are seen as they go by.
//!
//! # Where
//! A message is traced where its bytes are at hand anyway, so nothing is copied for a trace that is not wanted:
//!
//! | what | where | when |
//! |---|---|---|
//! | SEND that came | `Inbound`, on its head, once it is decided where it goes | now, or when as much of its body has come as is traced |
//! | other request that came | `Inbound`, at its end, once it is answered or sent on | now |
//! | response that came | `Inbound`, once its transaction is found | now |
//! | SEND, or a fragment of one, that leaves | `outbound`, when its head goes on the wire | now, or when as much of its body has |
//! | anything else that leaves | `outbound`, when it goes on the wire | now |
//!
//! *On the wire* is at most [`FILL_TARGET`](super::outbound::FILL_TARGET) bytes ahead of the socket. What waits in a
//! queue is not traced until its turn comes, and never if the connection ends before. A message is traced with the
//! time at which its head was looked at or written; with what the head says, and without the end-line. A SEND that we
//! interrupt is several chunks on the wire, and so it is in the trace. What came is handed over before what it causes
//! is written: the trace has both in their order.
//!
//! # What belongs together
//! The correlation id is a session-id of ours. Where a message passes through two sessions of this relay (both
//! parties are its clients), its path names both, in this order in one direction and in the other order in the other;
//! a hop's response names only one of them. All are given the smaller of the two, so that both legs and both
//! directions share it. It is taken along where it costs nothing: from the [`Route`](super::route::Route), into the
//! [`Origin`](super::origin::Origin), from there to responses and REPORTs. AUTH for this relay belongs to no session.
//!
//! # What it costs
//! With nothing traced: one load of an atomic for each message that comes, and for each fragment or batch of control
//! messages that leaves. Nothing is allocated, which `tests/tap_allocations.rs` counts, and messages are counted once
//! for each read and write. What is traced is copied once for the trace, heads and as much of bodies as is wanted.

use std::sync::Arc;
use std::time::SystemTime;

use tcp_transport::hep::trace::SentBy;

use super::session;
use super::tag::ProcessTag;

/// Whoever sees the messages of one connection.
pub trait Tap: Send + Sync {
    /// Whether messages are traced; asked for each.
    fn is_on(&self) -> bool;

    /// How many bytes of a body are traced with its head.
    fn body(&self) -> usize;

    /// The time of day, for what is traced now.
    fn now(&self) -> SystemTime;

    /// A message. `session` is empty where it belongs to none.
    fn message(&self, by: SentBy, time: SystemTime, session: &str, head: &[u8], body: &[u8]);

    /// So many messages have come, or left.
    fn count(&self, by: SentBy, messages: u64);

    /// The client at the other end has authenticated as this user.
    fn authenticated(&self, user: &str);

    /// The connection is used by somebody who need not authenticate.
    fn anonymous(&self);
}

/// One direction of a connection, under a tap.
pub(super) struct Watch {
    tap: Arc<dyn Tap>,
    by: SentBy,
    tag: ProcessTag,
    /// A message of whose body more is to be traced.
    open: Option<Box<Open>>,
    /// Messages not told yet.
    counted: u64,
}

struct Open {
    time: SystemTime,
    session: Option<u128>,
    head: Vec<u8>,
    body: Vec<u8>,
    /// How much of it is traced.
    limit: usize,
}

impl Watch {
    pub(super) fn new(tap: Arc<dyn Tap>, by: SentBy, tag: ProcessTag) -> Self {
        Self { tap, by, tag, open: None, counted: 0 }
    }

    pub(super) fn tap(&self) -> &dyn Tap {
        &*self.tap
    }

    /// Whether messages are traced.
    pub(super) fn is_on(&self) -> bool {
        self.tap.is_on()
    }

    /// A message whose body is still to come, if it has one; `head` ends with its last field.
    #[cold]
    pub(super) fn begin(&mut self, session: Option<u128>, head: &[u8], has_body: bool) {
        self.end();
        let limit = self.tap.body();
        if limit == 0 || !has_body {
            return self.send(self.tap.now(), session, head, &[]);
        }
        let (time, head) = (self.tap.now(), head.to_vec());
        self.open = Some(Box::new(Open { time, session, head, body: Vec::new(), limit }));
    }

    /// Whether bytes of a body are waited for.
    pub(super) fn wants_body(&self) -> bool {
        self.open.is_some()
    }

    /// Bytes of its body.
    pub(super) fn body(&mut self, bytes: &[u8]) {
        let Some(open) = &mut self.open else { return };
        let wanted = open.limit - open.body.len();
        open.body.extend_from_slice(bytes.get(..wanted).unwrap_or(bytes));
        if open.body.len() >= open.limit {
            self.end();
        }
    }

    /// No more of it comes.
    pub(super) fn end(&mut self) {
        if let Some(open) = self.open.take() {
            let Open { time, session, head, body, .. } = *open;
            self.send(time, session, &head, &body);
        }
    }

    /// A message that is there as a whole.
    #[cold]
    pub(super) fn whole(&self, session: Option<u128>, head: &[u8], body: &[u8]) {
        let body = body.get(..self.tap.body()).unwrap_or(body);
        self.send(self.tap.now(), session, head, body);
    }

    /// The same, as it goes over the wire, end-line and all.
    #[cold]
    pub(super) fn wire(&self, session: Option<u128>, bytes: &[u8]) {
        // The last one: a body may have others.
        let end_line = bytes.windows(9).rposition(|bytes| bytes == b"\r\n-------").unwrap_or(bytes.len());
        let blank = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let (head, body) = match blank {
            Some(blank) => (blank + 2, bytes.get(blank + 4..end_line).unwrap_or_default()),
            None => ((end_line + 2).min(bytes.len()), &[][..]),
        };
        self.whole(session, &bytes[..head], body);
    }

    fn send(&self, time: SystemTime, session: Option<u128>, head: &[u8], body: &[u8]) {
        let session = session.map(|id| session::write_id(self.tag, id)).unwrap_or_default();
        self.tap.message(self.by, time, &session, head, body);
    }

    /// One more message has come, or left, whole.
    pub(super) fn count(&mut self, messages: u64) {
        self.counted += messages;
    }

    /// Whether all has been told.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_none() && self.counted == 0
    }

    /// Tells how many.
    pub(super) fn tell_count(&mut self) {
        if self.counted > 0 {
            self.tap.count(self.by, std::mem::take(&mut self.counted));
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("by", &self.by).finish_non_exhaustive()
    }
}

/// What a message through these sessions is told by.
pub(super) fn correlation(sessions: impl Iterator<Item = u128>) -> Option<u128> {
    sessions.min()
}
