//! The task of a connection.

use std::future::{Future, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::time::Sleep;

use super::handle::Shared;
use super::{CloseReason, Flow, Protocol, Transmit};
use crate::stream::is_transient;

/// The size of a connection's first reads, and of those of one that talks little: 4 KiB, several
/// chat messages.
pub const MIN_READ_SIZE: usize = 4 * 1024;

/// The size that reads without TLS grow to while they are filled: 32 KiB. A file transfer needs few system calls
/// then, and the slices that go on to other connections keep no more than that alive. With 64 KiB what is passed on
/// has left the processor's nearest cache before it is written, and a gigabyte costs half as much again.
pub const MAX_READ_SIZE: usize = 32 * 1024;

/// Bytes read in one turn before other tasks get theirs: 256 KiB, about 0.1 ms of one core's work.
pub const READ_BUDGET: usize = 256 * 1024;

/// Reads in one turn before other tasks get theirs: 16, for those who send in tiny pieces.
pub const READS_PER_TURN: usize = 16;

/// An incomplete message of at most this size is moved to a buffer of its own size when the
/// connection goes idle (1 KiB); a longer one keeps the read it came with.
pub const KEEP_BYTES: usize = 1024;

/// `close_linger`: how long an orderly close may take for sending what is queued and for the peer to
/// end its side: 1 s.
pub const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// After how long without a byte a connection gives back what it keeps for the next message: 10 s. A conversation
/// keeps it.
pub const QUIET: Duration = Duration::from_secs(10);

/// The same for the first time: 200 ms. Of many who log in one after another and then wait, the next ones get the
/// memory of the first ones.
pub const FIRST_QUIET: Duration = Duration::from_millis(200);

/// How often in its lifetime a connection is looked at for bytes that other tasks have written.
const LOOKS_PER_LIFETIME: u32 = 8;

/// Not more often than this.
const MIN_LOOK: Duration = Duration::from_millis(100);

/// Deadlines handled in one turn before other tasks get theirs.
const EXPIRIES_PER_TURN: usize = 16;

/// What may be set about a driver.
#[derive(Debug, Clone)]
pub struct DriverSettings {
    /// See [`CLOSE_LINGER`]. Zero closes at once, and loses what the socket did not take.
    pub close_linger: Duration,
}

impl Default for DriverSettings {
    fn default() -> Self {
        Self { close_linger: CLOSE_LINGER }
    }
}

/// The driver of one connection; see the [module documentation](super).
#[must_use = "a connection does nothing until its driver runs"]
pub struct Driver {
    shared: Arc<Shared>,
    settings: DriverSettings,
    /// What was read before.
    rest: BytesMut,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, settings: DriverSettings, rest: BytesMut) -> Self {
        Self { shared, settings, rest }
    }

    /// Drives the connection to its end, and says why it ended.
    ///
    /// Dropping the future ends the connection at once ([`CloseReason::Aborted`]).
    pub fn run<P: Protocol>(self, protocol: P) -> impl Future<Output = CloseReason> + use<P> {
        // Made here and not in the future, so that one that is dropped unpolled reports the end too.
        let mut life = Life { shared: self.shared, protocol, reason: None };
        let close_linger = self.settings.close_linger;
        let rest = self.rest;
        async move {
            let asked = {
                let mut turns = Turns::new(rest);
                contain(|cx| turns.poll(&mut life, cx)).await
            };
            let reason = life.shared.begin_close(asked);
            // From here on also a panic or an abort reports the reason that counts.
            life.reason = Some(reason.clone());
            if let Some(mut farewell) = Farewell::on(&reason) {
                // Apart: every connection would have room for it all its life.
                let mut limit = Box::pin(tokio::time::sleep(close_linger));
                let mut last_words = matches!(farewell, Farewell::Transmit);
                contain(|cx| {
                    if std::mem::take(&mut last_words) {
                        life.protocol.closing(&reason, clock());
                    }
                    match limit.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(reason.clone()),
                        Poll::Pending => farewell.poll(&mut life, cx).map(|()| reason.clone()),
                    }
                })
                .await;
            }
            reason
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("id", &self.shared.id()).finish_non_exhaustive()
    }
}

/// Polls `turn` until it is ready; a panic in it is this connection's end and nobody else's.
async fn contain(mut turn: impl FnMut(&mut Context<'_>) -> Poll<CloseReason>) -> CloseReason {
    poll_fn(|cx| catch_unwind(AssertUnwindSafe(|| turn(cx))).unwrap_or(Poll::Ready(CloseReason::Internal)))
        .await
}

/// The driver's clock: tokio's, so that a test's virtual time is the protocol's time too.
fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A protocol that will be told the end of its connection, whatever comes: the drop is the one way
/// out that every end takes.
struct Life<P: Protocol> {
    shared: Arc<Shared>,
    protocol: P,
    reason: Option<CloseReason>,
}

impl<P: Protocol> Drop for Life<P> {
    fn drop(&mut self) {
        let reason = self.reason.take().unwrap_or_else(|| self.shared.begin_close(CloseReason::Aborted));
        // A peer that took nothing for so long is not given what the kernel still holds for it.
        self.shared.stream.shutdown_both(reason == CloseReason::SendTimeout);
        self.shared.stream.ended(&reason);
        self.protocol.closed(&reason, clock());
    }
}

/// What the driver does while the connection is open.
struct Turns {
    buf: BytesMut,
    read_size: usize,
    reading: Reading,
    /// `buf` came with the connection, and the protocol has not seen it.
    ahead: bool,
    /// The last write found the socket full.
    blocked: bool,
    /// Something may have produced output since the last transmit.
    dirty: bool,
    /// In this turn the socket had nothing (more), so its readiness will wake the task.
    armed: bool,
    timer: Timer,
    idle: Idle,
}

/// What is to be done with the peer's direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Read what comes.
    Open,
    /// The protocol wants nothing until a wake.
    Paused,
    /// The end came, and the protocol wants to be asked again after a wake.
    EndedPaused,
    /// The end came, and the protocol knows.
    Ended,
}

type Step = ControlFlow<CloseReason>;

impl Turns {
    fn new(rest: BytesMut) -> Self {
        Self {
            ahead: !rest.is_empty(),
            buf: rest,
            read_size: MIN_READ_SIZE,
            reading: Reading::Open,
            blocked: false,
            dirty: true,
            armed: false,
            timer: Timer::default(),
            idle: Idle::default(),
        }
    }

    fn poll<P: Protocol>(&mut self, life: &mut Life<P>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.turn(life, cx) {
            ControlFlow::Continue(()) => Poll::Pending,
            ControlFlow::Break(reason) => Poll::Ready(reason),
        }
    }

    /// One turn. Whatever could wake the connection is registered before it is looked at, so that
    /// nothing falls between.
    fn turn<P: Protocol>(&mut self, life: &mut Life<P>, cx: &mut Context<'_>) -> Step {
        life.shared.waker.register(cx.waker());
        let woken = life.shared.take_woken();
        let now = clock();
        if let Some(reason) = life.shared.close_requested() {
            return ControlFlow::Break(reason);
        }
        if woken {
            self.dirty = true;
            self.idle.rouse(now);
            self.resume(life, now)?;
        }
        self.transmit(life, cx, now)?;
        if std::mem::take(&mut self.ahead) {
            let flow = life.protocol.received(&mut self.buf, now);
            self.follow(flow)?;
        }
        self.read(life, cx, now)?;
        self.transmit(life, cx, now)?;
        self.expire(life, cx, now)?;
        self.transmit(life, cx, now)?;
        if self.reading == Reading::Open && !self.armed {
            // The budget is used up, or a deadline resumed the reading.
            cx.waker().wake_by_ref();
        } else {
            self.settle();
        }
        ControlFlow::Continue(())
    }

    /// Asks a protocol that has paused whether it goes on.
    fn resume<P: Protocol>(&mut self, life: &mut Life<P>, now: Instant) -> Step {
        match self.reading {
            Reading::Paused => {
                let flow = life.protocol.received(&mut self.buf, now);
                self.follow(flow)
            }
            Reading::EndedPaused => self.end(&life.shared, &mut life.protocol, now),
            Reading::Open | Reading::Ended => ControlFlow::Continue(()),
        }
    }

    fn follow(&mut self, flow: Flow) -> Step {
        self.dirty = true;
        self.reading = match flow {
            Flow::Read => Reading::Open,
            Flow::Pause => Reading::Paused,
            Flow::Close(reason) => return ControlFlow::Break(reason),
        };
        ControlFlow::Continue(())
    }

    fn follow_end(&mut self, flow: Flow) -> Step {
        self.dirty = true;
        self.reading = match flow {
            Flow::Read => Reading::Ended,
            Flow::Pause => Reading::EndedPaused,
            Flow::Close(reason) => return ControlFlow::Break(reason),
        };
        ControlFlow::Continue(())
    }

    /// Lets the protocol write if there is a reason to, and the socket room.
    fn transmit<P: Protocol>(&mut self, life: &mut Life<P>, cx: &mut Context<'_>, now: Instant) -> Step {
        let stream = &life.shared.stream;
        loop {
            if self.blocked {
                match stream.poll_write_ready(cx) {
                    Poll::Pending => return ControlFlow::Continue(()),
                    Poll::Ready(Err(e)) => return ControlFlow::Break(CloseReason::from_io(&e)),
                    Poll::Ready(Ok(())) => self.blocked = false,
                }
            } else if !self.dirty {
                return ControlFlow::Continue(());
            }
            self.dirty = false;
            match write_out(&mut life.protocol, stream, now) {
                Ok(Transmit::Idle) => return ControlFlow::Continue(()),
                Ok(Transmit::Blocked) => self.blocked = true,
                Err(e) => return ControlFlow::Break(CloseReason::from_io(&e)),
            }
        }
    }

    /// Reads within the turn's budget.
    fn read<P: Protocol>(&mut self, life: &mut Life<P>, cx: &mut Context<'_>, now: Instant) -> Step {
        let stream = &life.shared.stream;
        let mut budget = READ_BUDGET;
        self.armed = false;
        for _ in 0..READS_PER_TURN {
            if self.reading != Reading::Open || budget == 0 {
                break;
            }
            match stream.poll_read_ready(cx) {
                Poll::Pending => {
                    self.armed = true;
                    break;
                }
                Poll::Ready(Err(e)) => return ControlFlow::Break(CloseReason::from_io(&e)),
                Poll::Ready(Ok(())) => {}
            }
            let wanted = self.make_room(stream.tls().is_some());
            match stream.try_read(&mut self.buf, wanted) {
                Ok(0) => self.end(&life.shared, &mut life.protocol, now)?,
                Ok(n) => {
                    self.adapt(n, wanted);
                    let flow = life.protocol.received(&mut self.buf, now);
                    self.follow(flow)?;
                    budget = budget.saturating_sub(n);
                }
                // Not a whole TLS record yet; but it may have made TLS want to write (a key update).
                Err(e) if is_transient(&e) => self.dirty |= stream.wants_flush(),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::debug!(connection = %life.shared.id(), "TLS ended without close_notify");
                    self.end(&life.shared, &mut life.protocol, now)?;
                }
                Err(e) => return ControlFlow::Break(CloseReason::from_io(&e)),
            }
        }
        ControlFlow::Continue(())
    }

    fn end<P: Protocol>(&mut self, shared: &Shared, protocol: &mut P, now: Instant) -> Step {
        shared.note_end();
        let flow = protocol.ended(&mut self.buf, now);
        self.follow_end(flow)
    }

    /// Makes room for the next read, and says how much to read. A buffer with half the room left is
    /// filled up before a new one is taken. TLS makes its own room, as it knows how much it needs.
    fn make_room(&mut self, tls: bool) -> usize {
        if tls {
            return crate::stream::MAX_READ;
        }
        let spare = self.buf.capacity() - self.buf.len();
        if spare >= self.read_size / 2 {
            return spare.min(self.read_size);
        }
        self.buf.reserve(self.read_size);
        self.read_size
    }

    fn adapt(&mut self, read: usize, wanted: usize) {
        if read >= wanted {
            self.read_size = (self.read_size * 2).min(MAX_READ_SIZE);
        } else if read < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(MIN_READ_SIZE);
        }
    }

    /// Before the connection waits: an idle one holds no buffer, or a small one.
    fn settle(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
        } else if self.buf.len() <= KEEP_BYTES && self.buf.capacity() > 2 * KEEP_BYTES {
            // The one copy of received bytes outside of TLS: at most 1 KiB, once per wait.
            self.buf = BytesMut::from(&self.buf[..]);
        }
    }

    fn expire<P: Protocol>(&mut self, life: &mut Life<P>, cx: &mut Context<'_>, mut now: Instant) -> Step {
        for _ in 0..EXPIRIES_PER_TURN {
            let idle = self.idle.look(&life.shared, now)?;
            if self.idle.becomes_quiet(now) {
                life.protocol.quiet();
                continue;
            }
            let deadline = life.protocol.deadline();
            let Some(next) = [deadline, idle].into_iter().flatten().min() else {
                return ControlFlow::Continue(());
            };
            if next > now {
                if self.timer.poll_until(next, cx).is_pending() {
                    return ControlFlow::Continue(());
                }
                now = clock().max(next);
            }
            if deadline.is_none_or(|deadline| deadline > now) {
                // It was the lifetime's turn.
                continue;
            }
            self.dirty = true;
            self.idle.rouse(now);
            match life.protocol.expired(now) {
                Flow::Close(reason) => return ControlFlow::Break(reason),
                Flow::Read => self.resume(life, now)?,
                Flow::Pause if self.reading == Reading::Open => self.reading = Reading::Paused,
                Flow::Pause => {}
            }
        }
        cx.waker().wake_by_ref();
        ControlFlow::Continue(())
    }
}

/// Looks after the connection's lifetime, and for when nothing happens on it.
#[derive(Default)]
struct Idle {
    /// When it was used last, as of the last look.
    since: Option<Instant>,
    /// When something else happened after the protocol was told that nothing does. That is not a use of it.
    roused: Option<Instant>,
    /// The protocol was told that nothing happens.
    quiet: bool,
    /// It was, once at least.
    before: bool,
}

impl Idle {
    /// Notes when the connection was used last. When to look again, if there is a reason to; a break when its lifetime
    /// is over.
    fn look(&mut self, shared: &Shared, now: Instant) -> ControlFlow<CloseReason, Option<Instant>> {
        let entry = shared.stream.entry();
        let since = entry.used_at(now, shared.take_touched() || self.since.is_none());
        if self.since != Some(since) {
            *self = Self { since: Some(since), roused: None, quiet: false, before: self.before };
        }
        let quiet = self.quiet_at();
        let Some(lifetime) = entry.lifetime() else { return ControlFlow::Continue(quiet) };
        let end = since + lifetime;
        if now >= end {
            return ControlFlow::Break(CloseReason::IdleTimeout);
        }
        // Other tasks write without a turn of ours; that is noticed here.
        let look = end.min(now + (lifetime / LOOKS_PER_LIFETIME).max(MIN_LOOK));
        ControlFlow::Continue(Some(quiet.map_or(look, |quiet| quiet.min(look))))
    }

    /// Whether it is time to tell the protocol that nothing happens; once, until something does.
    fn becomes_quiet(&mut self, now: Instant) -> bool {
        let becomes = self.quiet_at().is_some_and(|at| now >= at);
        self.quiet |= becomes;
        self.before |= becomes;
        becomes
    }

    /// When it is time for that, if it was not told yet.
    fn quiet_at(&self) -> Option<Instant> {
        let last = self.roused.max(self.since).filter(|_| !self.quiet)?;
        Some(last + self.patience())
    }

    /// The protocol does something without a byte that has come: somebody woke it, or a deadline has passed. If it was
    /// told that nothing happens, it is told again. Bytes that others have written since are found by
    /// [`look`](Self::look), at the latest then.
    fn rouse(&mut self, now: Instant) {
        if std::mem::take(&mut self.quiet) {
            self.roused = Some(now);
        }
    }

    fn patience(&self) -> Duration {
        if self.before { QUIET } else { FIRST_QUIET }
    }
}

/// Has the protocol write, and then pushes what TLS still holds, in case nobody did.
fn write_out<P: Protocol>(
    protocol: &mut P,
    stream: &crate::stream::Stream,
    now: Instant,
) -> io::Result<Transmit> {
    let transmit = protocol.transmit(stream, now)?;
    match stream.flush() {
        Ok(()) => Ok(transmit),
        Err(e) if is_transient(&e) => Ok(Transmit::Blocked),
        Err(e) => Err(e),
    }
}

/// A timer that follows a deadline lazily: one that only ever moves away (an idle limit) costs
/// nothing until the time it was first set for.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

/// The steps of an orderly end.
enum Farewell {
    /// The protocol sends what it has queued.
    Transmit,
    /// The socket was full.
    Blocked,
    /// Nothing more can be sent.
    Shutdown,
    /// Our direction is ended; the peer's is read and thrown away until it ends too. Closing with
    /// unread data would send an RST, which takes away from the peer what it has not read yet.
    Discard,
}

impl Farewell {
    /// How the farewell begins; none where there is nobody to take leave of.
    fn on(reason: &CloseReason) -> Option<Self> {
        match reason {
            CloseReason::PeerClosed
            | CloseReason::IdleTimeout
            | CloseReason::HandshakeTimeout
            | CloseReason::TooSlow(_)
            | CloseReason::Protocol(_)
            | CloseReason::Local(_) => Some(Self::Transmit),
            // The alert is on its way, and nothing can follow it.
            CloseReason::Tls(_) => Some(Self::Shutdown),
            CloseReason::Reset
            | CloseReason::Io { .. }
            | CloseReason::SendTimeout
            | CloseReason::Aborted
            | CloseReason::Internal => None,
        }
    }

    fn poll<P: Protocol>(&mut self, life: &mut Life<P>, cx: &mut Context<'_>) -> Poll<()> {
        life.shared.waker.register(cx.waker());
        life.shared.take_woken();
        let stream = &life.shared.stream;
        loop {
            *self = match self {
                Self::Transmit => match say_all(&mut life.protocol, stream) {
                    Ok(Transmit::Idle) | Err(_) => Self::Shutdown,
                    Ok(Transmit::Blocked) => Self::Blocked,
                },
                Self::Blocked => match stream.poll_write_ready(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => Self::Transmit,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                },
                Self::Shutdown => match stream.shutdown_write() {
                    Ok(()) => Self::Discard,
                    Err(_) => return Poll::Ready(()),
                },
                Self::Discard => {
                    if stream.poll_discard_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                    match stream.discard() {
                        Ok(1..) => Self::Discard,
                        Err(e) if is_transient(&e) => Self::Discard,
                        Ok(0) | Err(_) => return Poll::Ready(()),
                    }
                }
            }
        }
    }
}

/// Has the protocol write the last it has, and ends TLS.
fn say_all<P: Protocol>(protocol: &mut P, stream: &crate::stream::Stream) -> io::Result<Transmit> {
    if write_out(protocol, stream, clock())? == Transmit::Blocked {
        return Ok(Transmit::Blocked);
    }
    match stream.close_notify() {
        Ok(()) => Ok(Transmit::Idle),
        Err(e) if is_transient(&e) => Ok(Transmit::Blocked),
        Err(e) => Err(e),
    }
}
