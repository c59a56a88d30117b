//! A connection as the rest of the process sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use super::CloseReason;
use crate::ledger::Entry;
use crate::stream::Stream;

/// The number of a connection, never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The next number: 1, 2, …
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// As a plain number, for logs and operators.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for ConnectionId {
    /// An id as an operator names it; it may be nobody's.
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection from outside its task. Clones are cheap and mean the same connection.
///
/// The socket's descriptor lives until the last handle is gone; the connection on it ends when its
/// driver does.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    /// The connection's number.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.0.id
    }

    /// What the ledger knows of it: addresses, bytes, age.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        self.0.stream.entry()
    }

    /// The stream, for writing from where the data is. Reading is the driver's.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.0.stream
    }

    /// Has the driver take a turn: it calls [`Protocol::transmit`](super::Protocol::transmit), and
    /// [`Protocol::received`](super::Protocol::received) if reading is paused. What was stored
    /// before the wake is seen in that turn; several wakes may become one turn.
    pub fn wake(&self) {
        // Whoever finds it set already relies on the wake of the one who set it: that turn has not
        // begun, or it would have cleared it, so it will see everything stored until now.
        if !self.0.woken.swap(true, Ordering::AcqRel) {
            self.0.waker.wake();
        }
    }

    /// Asks for the end of the connection. An orderly reason lets the protocol send what it has
    /// queued, for up to the linger time. Later reasons are ignored.
    pub fn close(&self, reason: CloseReason) {
        self.0.begin_close(reason);
        self.wake();
    }

    /// Whether the connection is neither closed nor being closed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.0.closing.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("id", &self.0.id).field("stream", &self.0.stream).finish()
    }
}

/// What handles and driver share.
pub(crate) struct Shared {
    id: ConnectionId,
    pub(super) stream: Stream,
    pub(super) waker: AtomicWaker,
    woken: AtomicBool,
    closing: AtomicBool,
    /// The peer has ended its direction.
    ended: AtomicBool,
    /// Somebody gave the connection a new lifetime, which begins with that.
    touched: AtomicBool,
    reason: Mutex<Option<CloseReason>>,
}

impl Shared {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            id: stream.entry().id(),
            stream,
            waker: AtomicWaker::new(),
            woken: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            reason: Mutex::new(None),
        }
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether there was a wake since the last call.
    pub(super) fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::AcqRel)
    }

    /// The peer has ended its direction.
    pub(super) fn note_end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Something other than a byte counts as activity.
    pub(crate) fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    pub(super) fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::AcqRel)
    }

    /// Notes why the connection ends, unless that is known already; returns the reason that counts.
    pub(super) fn begin_close(&self, reason: CloseReason) -> CloseReason {
        let mut first = self.reason.lock();
        let reason = first.get_or_insert(reason).clone();
        self.closing.store(true, Ordering::Release);
        reason
    }

    /// The reason somebody asked for, if anybody did.
    pub(crate) fn close_requested(&self) -> Option<CloseReason> {
        if self.closing.load(Ordering::Acquire) { self.reason.lock().clone() } else { None }
    }
}
