//! A connection's life: one task drives one [`Stream`], and a [`Protocol`] says what its bytes mean.
//!
//! ```text
//! let (handle, driver) = connection::open(stream, DriverSettings::default());
//! registry.insert(handle.clone(), key, value);
//! tokio::spawn(driver.run(protocol));
//! ```
//!
//! **What the driver does.** It reads when the socket has something and the protocol wants it,
//! calls [`Protocol::transmit`] when somebody woke the connection, when the socket takes bytes
//! again and after each call that may have produced output, keeps the protocol's one deadline, and
//! ends the connection in order. It never holds more unread data than one read, takes no more than
//! [`READ_BUDGET`] bytes before it lets other tasks run, and an idle connection holds no buffer.
//!
//! **How long a connection lives.** With a lifetime (its listener's, its destination's, or
//! [`Handle::set_lifetime`](crate::Handle::set_lifetime)) it is closed when no byte has gone either way for so long.
//!
//! **What it leaves to the protocol.** Its output queue, and the order within it: other tasks may
//! write to [`Handle::stream`] directly, so a protocol that allows this keeps its queue and its
//! direct writes behind one lock, and calls [`Handle::wake`] after leaving something in the queue
//! or after [`Stream::flush`] said `WouldBlock`.
//!
//! **While reading is paused** ([`Flow::Pause`]) nothing is read at all, so TCP slows the peer down;
//! the price is that a peer who goes away meanwhile is noticed by the next write, the deadline or
//! the resumption, whichever comes first.

use std::time::Instant;
use std::{io, sync::Arc};

use bytes::BytesMut;

use crate::stream::Stream;

mod driver;
mod handle;
mod reason;

pub use driver::{
    CLOSE_LINGER, Driver, DriverSettings, FIRST_QUIET, KEEP_BYTES, MAX_READ_SIZE, MIN_READ_SIZE, QUIET,
    READ_BUDGET, READS_PER_TURN,
};
pub use handle::{ConnectionId, Handle};
pub use reason::CloseReason;

/// What the bytes of a connection mean. All calls come from the connection's own task, one at a
/// time; `now` is the driver's clock, read once per turn.
pub trait Protocol: Send {
    /// Called after every read; `buf` holds what was read and not yet consumed. Take what is
    /// complete off its front (`split_to`, `advance`) and leave the rest. Called again, possibly
    /// with nothing new in `buf`, after each [`Handle::wake`] while reading is paused, to ask
    /// whether it goes on.
    ///
    /// A slice taken by `split_to(..).freeze()` keeps the whole read alive (up to
    /// [`MAX_READ_SIZE`]); who holds small pieces for long copies them.
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow;

    /// The peer has ended its direction; `buf` holds what it left incomplete. [`Flow::Read`] keeps
    /// our own direction open until the protocol closes it; [`Flow::Pause`] too, and has `ended`
    /// called again after a wake.
    fn ended(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        let _ = (buf, now);
        Flow::Close(CloseReason::PeerClosed)
    }

    /// Write what waits, by [`Stream::try_write`] and [`Stream::flush`]. Called after a wake, when the
    /// socket takes bytes again, and after each of the other calls; also while the connection is
    /// being closed in order, then [`Transmit::Idle`] means that nothing is left.
    ///
    /// # Errors
    /// What the stream says, `WouldBlock` excepted, which is [`Transmit::Blocked`]. It ends the
    /// connection.
    fn transmit(&mut self, stream: &Stream, now: Instant) -> io::Result<Transmit>;

    /// When to call [`expired`](Self::expired), if no other thing changes it before. Asked at the
    /// end of each turn, so it must be cheap. A deadline that others change takes effect with a wake.
    fn deadline(&self) -> Option<Instant>;

    /// The deadline has passed. It must be moved or removed, or the next call comes at once.
    /// [`Flow::Read`] changes nothing while reading goes on, and is like a wake while it is paused.
    fn expired(&mut self, now: Instant) -> Flow;

    /// The connection is about to be closed in order for `reason`: queue the last that is to be said. Called
    /// at most once, before the last calls of [`transmit`](Self::transmit), and only where something can
    /// still be sent.
    fn closing(&mut self, reason: &CloseReason, now: Instant) {
        let _ = (reason, now);
    }

    /// No byte has come or gone for [`QUIET`], or [`FIRST_QUIET`] the first time: let go of the memory that is kept to
    /// be used again. Called once, and again when there were bytes, a wake or a deadline since. **What other tasks write
    /// afterwards is seen after a wake**, or, with a lifetime, by and by: who takes memory for that wakes the connection
    /// once.
    fn quiet(&mut self) {}

    /// The last call, exactly once, whatever ends the connection: also when its task is aborted or
    /// one of the calls above has panicked.
    fn closed(&mut self, reason: &CloseReason, now: Instant);
}

/// How to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// Read on.
    Read,
    /// Read nothing until a wake: back-pressure.
    Pause,
    /// End the connection.
    Close(CloseReason),
}

/// What became of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// Nothing waits.
    Idle,
    /// Something waits for the socket: a write or flush said `WouldBlock`.
    Blocked,
}

/// Puts a stream under the care of a driver. The connection has its id from here on; nothing happens
/// on it until [`Driver::run`].
pub fn open(stream: Stream, settings: DriverSettings) -> (Handle, Driver) {
    open_with(stream, settings, BytesMut::new())
}

/// As [`open`], for a stream of which some was read already: `rest` is the first that
/// [`Protocol::received`] gets, before anything is read from the socket.
pub fn open_with(stream: Stream, settings: DriverSettings, rest: BytesMut) -> (Handle, Driver) {
    let shared = Arc::new(handle::Shared::new(stream));
    (Handle(shared.clone()), Driver::new(shared, settings, rest))
}
