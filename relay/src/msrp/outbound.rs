//! What waits to be written to one connection, and in which order it leaves.
//!
//! # Who owns what
//!
//! [`Outbound`] belongs to one [`Link`], behind that link's mutex. It does no
//! I/O and reads no clock. Whoever has something to send puts it in, calls [`Outbound::fill`], and
//! writes what [`Outbound::slices`] shows until the socket takes no more.
//!
//! # The parts
//!
//! * **control**: whole small messages (responses, REPORTs, AUTH, unknown methods), in order.
//! * **lanes**: one for each (source connection, session): the SEND chunks of one sender, in order.
//!   Lanes whose first chunk can be sent stand in `ready` and take turns.
//! * **wire**: what is already decided and only waits for the socket, at most about
//!   [`FILL_TARGET`] bytes. A decision is taken as late as that, so that what arrives meanwhile
//!   does not wait behind megabytes.
//!
//! # A chunk's states
//!
//! *gathering*: its sender declared at most `interrupt_size` bytes: it waits until it is whole and
//! goes on as it came. *ready*: it is whole, or may be cut through: it declared more, or nothing.
//! *current*: its head is on the wire, body bytes follow as they arrive. It leaves that state by its
//! end-line (`$`, `+`, `#` as the sender wrote it), or by an *interruption*: `+`, and the rest goes
//! on later under a new transaction id with its own Byte-Range. What interrupts it is control when
//! the fragment has `interrupt_size` bytes, another lane when it has [`LANE_QUANTUM`], and either
//! at once when no body byte is there to be sent. One byte of an unfinished chunk is always held
//! back, so that the last fragment is never empty.
//!
//! # Message mode
//!
//! Where the connection is a WebSocket, each message leaves as one frame (RFC 7977 §5.1): a fragment is decided
//! whole, so no chunk is ever *current*. It begins when it has ended or when enough of it is there for a fragment
//! of `chunk_size`; then other lanes and control have their turn. See [`message`].
//!
//! # Limits
//!
//! | what | limit | at the limit |
//! |---|---|---|
//! | bytes waiting in one lane | `session_buffer` | the source stops reading ([`Pushed::full`]) until half of them have gone |
//! | whole chunks waiting in one lane | `async_max_postponed_chunks` | the same |
//! | control bytes waiting | [`CONTROL_LIMIT`](control::CONTROL_LIMIT) | sources that produce more stop reading until half of them have gone |
//! | control messages waiting | `async_max_postponed_chunks` | the same |
//! | requests without a response | those of [`transactions`](super::transactions) | no further SEND is begun, other requests are refused |

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use msrp_proto::flag::Flag;
use msrp_proto::header::ByteRange;
use msrp_proto::ident::TransactionId;
use smallvec::SmallVec;
use tcp_transport::hep::trace::SentBy;

use self::control::Control;
use self::fragment::Current;
use self::lane::{Chunk, Lanes};
use self::message::Frames;
use self::segments::Segments;
use super::link::Link;
use super::origin::Origin;
use super::tag::ProcessTag;
use super::tap::{Tap, Watch};
use super::transactions::{Failure, Transaction, Transactions};
use super::wire::Random;

#[cfg(test)]
pub(crate) use self::backlog::Backlog;
#[cfg(test)]
pub(crate) use self::control::CONTROL_LIMIT;
pub(crate) use self::lane::{ChunkId, LaneKey};
pub(crate) use self::queue::Queue;
pub(crate) use self::segments::MAX_SLICES;

#[cfg(test)]
mod backlog;
mod control;
mod fragment;
mod lane;
mod message;
mod queue;
mod segments;

/// How many bytes are put on the wire ahead of the socket.
pub(crate) const FILL_TARGET: usize = 64 * 1024;
/// How many bytes a chunk may send before another lane gets its turn.
pub(crate) const LANE_QUANTUM: u64 = 16 * 1024;
/// How many used objects are kept for the next message, until the connection is silent: as many messages may wait for
/// their responses before others are allocated.
const MAX_SPARE: usize = 256;
/// A larger one is not kept: few messages are so long, and an idle connection should be small.
const MAX_SPARE_BYTES: usize = 2 * 1024;

/// The chunk is not open any more: it failed and has been answered, or the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// What came of putting something in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// The source must stop reading until it is woken.
    pub(crate) full: bool,
}

/// The settings of a link that matter here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueSettings {
    /// How many bytes may wait in one lane.
    pub(crate) session_buffer: usize,
    /// How many whole messages may wait in one lane, and as control.
    pub(crate) max_messages: usize,
    /// A chunk of more bytes can be interrupted (RFC 4975 §7.1.1).
    pub(crate) interrupt_size: u64,
    pub(crate) response_timeout: Duration,
    /// The connection is a WebSocket, and a fragment has at most so many body bytes (RFC 7977 §5.1).
    pub(crate) chunk_size: Option<u64>,
    /// The process in the session-ids that messages are traced with.
    pub(crate) tag: ProcessTag,
}

impl QueueSettings {
    /// A chunk that declares no more than this is waited for until it is whole.
    fn gather_size(&self) -> u64 {
        // What fills the buffer cannot be waited for.
        self.interrupt_size.min(self.session_buffer.saturating_sub(1) as u64)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Outbound {
    settings: QueueSettings,
    control: Control,
    lanes: Lanes,
    current: Option<Current>,
    winding_up: bool,
    next_chunk: ChunkId,
    wire: Segments,
    /// Where each message leaves as one frame.
    frames: Option<Frames>,
    transactions: Transactions,
    /// Where messages are counted and traced.
    watch: Option<Watch>,
    wake: Vec<Arc<Link>>,
    #[expect(clippy::vec_box, reason = "chunks and transactions hold them boxed, and pass the box on")]
    spare_origins: Vec<Box<Origin>>,
    spare_chunks: Vec<Chunk>,
}

impl Outbound {
    pub(crate) fn new(settings: QueueSettings) -> Self {
        Self {
            settings,
            control: Control::new(settings.max_messages),
            lanes: Lanes::default(),
            current: None,
            winding_up: false,
            next_chunk: 1,
            wire: Segments::default(),
            frames: Frames::new(&settings),
            transactions: Transactions::new(settings.response_timeout),
            watch: None,
            wake: Vec::new(),
            spare_origins: Vec::new(),
            spare_chunks: Vec::new(),
        }
    }

    /// The connection is up, and its messages are seen from now on.
    pub(crate) fn watch(&mut self, tap: Option<Arc<dyn Tap>>) {
        self.watch = tap.map(|tap| Watch::new(tap, SentBy::Us, self.settings.tag));
    }

    /// An object to fill for the next request.
    pub(crate) fn spare_origin(&mut self) -> Box<Origin> {
        self.spare_origins.pop().unwrap_or_default()
    }

    /// Takes an object back.
    pub(crate) fn recycle(&mut self, mut origin: Box<Origin>) {
        if self.spare_origins.len() < MAX_SPARE && origin.capacity() <= MAX_SPARE_BYTES {
            origin.source = None;
            self.spare_origins.push(origin);
        }
    }

    /// Whether a new one would do as well: nothing waits, nothing is open and nobody is awaited.
    fn is_spent(&self) -> bool {
        self.current.is_none()
            && !self.winding_up
            && !self.is_closing()
            && self.wire.is_empty()
            && self.waiting_frames() == 0
            && self.control.is_unused()
            && self.lanes.is_empty()
            && self.transactions.is_empty()
            && self.wake.is_empty()
            && self.watch.as_ref().is_none_or(Watch::is_idle)
    }

    /// Nothing has gone for a while: lets go of what is kept for the next message.
    pub(crate) fn quiet(&mut self) {
        self.spare_origins = Vec::new();
        self.spare_chunks = Vec::new();
        self.wire.quiet();
        self.control.quiet();
        self.lanes.quiet();
        self.transactions.quiet();
        if self.wake.is_empty() {
            self.wake = Vec::new();
        }
    }

    /// Adds a whole control message of this session.
    pub(crate) fn control(&mut self, session: Option<u128>, write: impl FnOnce(&mut Vec<u8>)) -> Pushed {
        self.control.push(session, write);
        Pushed { full: self.control.is_full() }
    }

    /// Adds a whole control message whose end-line leaves in a piece of its own: with its body the
    /// message may be longer than a TLS record, and an end-line is not to be split.
    pub(crate) fn control_with_end_line(
        &mut self,
        session: Option<u128>,
        write: impl FnOnce(&mut Vec<u8>),
        write_end_line: impl FnOnce(&mut Vec<u8>),
    ) -> Pushed {
        self.control.push_with_end_line(session, write, write_end_line);
        Pushed { full: self.control.is_full() }
    }

    /// Whether so many control messages wait that those who cause them must stop reading.
    pub(crate) fn is_full_of_control(&self) -> bool {
        self.control.is_full()
    }

    /// Whether so few wait that they may read on.
    pub(crate) fn is_relieved_of_control(&self) -> bool {
        self.control.is_relieved()
    }

    /// Whether body bytes that are added now must wait: for the socket, or, where each message leaves as one
    /// frame, for more of their chunk, of which `end` says whether it comes with them.
    pub(crate) fn must_wait(&self, end: Option<Flag>) -> bool {
        !self.wire.is_empty() || self.is_in_message_mode() && end.is_none()
    }

    /// Wakes `link` when the control backlog has gone down.
    pub(crate) fn wait_for_control(&mut self, link: &Arc<Link>) {
        self.control.wait(link);
    }

    /// Whether so many requests are without a response that no more may be added.
    pub(crate) fn is_full_of_transactions(&self) -> bool {
        self.transactions.is_full()
    }

    /// Remembers a forwarded AUTH or unknown method, whose time runs from now.
    pub(crate) fn await_path_response(
        &mut self,
        transaction: TransactionId,
        origin: Box<Origin>,
        now: Instant,
    ) {
        self.transactions.await_path_response(transaction, origin, now);
    }

    /// Begins a chunk.
    ///
    /// # Errors
    /// The origin, if the lane refuses chunks because it has been full for too long.
    pub(crate) fn begin(
        &mut self,
        key: LaneKey,
        source: &Arc<Link>,
        origin: Box<Origin>,
        has_body: bool,
    ) -> Result<ChunkId, Box<Origin>> {
        let index = self.lanes.open(key, source);
        let lane = self.lanes.at(index);
        if lane.stalled {
            return Err(origin);
        }
        let id = self.next_chunk;
        self.next_chunk += 1;
        let mut chunk = self.spare_chunks.pop().unwrap_or_default();
        chunk.id = id;
        chunk.position = origin.range.start;
        chunk.has_body = has_body;
        lane.queued += origin.len();
        chunk.origin = Some(origin);
        lane.chunks.push_back(chunk);
        Ok(id)
    }

    /// Adds body bytes to a chunk that was begun.
    ///
    /// # Errors
    /// [`Gone`] if the chunk has failed meanwhile.
    pub(crate) fn body(&mut self, key: LaneKey, id: ChunkId, bytes: Bytes) -> Result<Pushed, Gone> {
        let (index, chunk) = self.lanes.open_chunk(key, id)?;
        chunk.buffered += bytes.len() as u64;
        let len = bytes.len();
        chunk.body.push_back(bytes);
        self.lanes.at(index).queued += len;
        Ok(self.pushed(index))
    }

    /// Ends a chunk as its sender ended it. Its sender is answered from here on.
    ///
    /// # Errors
    /// [`Gone`] if the chunk has failed meanwhile.
    pub(crate) fn end(&mut self, key: LaneKey, id: ChunkId, flag: Flag) -> Result<Pushed, Gone> {
        let (index, chunk) = self.lanes.open_chunk(key, id)?;
        chunk.end = Some(flag);
        chunk.answered = true;
        Ok(self.pushed(index))
    }

    fn pushed(&mut self, index: usize) -> Pushed {
        let full = self.lanes.at(index).is_full(&self.settings);
        self.make_ready(index);
        Pushed { full }
    }

    /// Ends a chunk with `#`: its sender vanished, its session ended, or it stalled. With `drop`,
    /// what waits of it is forgotten. Says whether the chunk was still open.
    pub(crate) fn abandon(&mut self, key: LaneKey, id: ChunkId, drop: bool) -> bool {
        let Ok((index, chunk)) = self.lanes.open_chunk(key, id) else { return false };
        chunk.end = Some(Flag::Abort);
        chunk.silent = true;
        if drop {
            let dropped = chunk.buffered as usize;
            chunk.body.clear();
            chunk.buffered = 0;
            self.lanes.at(index).queued -= dropped;
        }
        self.make_ready(index);
        true
    }

    /// The lane's source stops reading; it is woken when half of the lane has gone.
    pub(crate) fn wait_for_lane(&mut self, key: LaneKey) -> bool {
        let Some(index) = self.lanes.find(key) else { return false };
        let lane = self.lanes.at(index);
        lane.source_waits = lane.is_full(&self.settings);
        lane.source_waits
    }

    /// The lane has been full for too long: it takes nothing until half of it has gone.
    pub(crate) fn stall(&mut self, key: LaneKey) {
        if let Some(index) = self.lanes.find(key) {
            let lane = self.lanes.at(index);
            lane.stalled = !lane.is_relieved(&self.settings);
            lane.source_waits = false;
        }
    }

    /// Puts on the wire what may go now.
    pub(crate) fn fill(&mut self, random: &dyn Random) {
        while self.wire.len() < FILL_TARGET {
            let went_on = match self.current {
                Some(current) => self.advance(current),
                None if self.is_in_message_mode() => {
                    self.send_frames()
                        || !self.is_closing() && (self.send_control() || self.send_fragment(random))
                }
                None => self.send_control() || self.begin_fragment(random),
            };
            if !went_on {
                break;
            }
        }
    }

    fn send_control(&mut self) -> bool {
        if self.control.is_empty() {
            return false;
        }
        if let Some(watch) = self.watch.as_ref().filter(|watch| watch.is_on()) {
            self.control.each(|session, bytes| watch.wire(session, bytes));
        }
        if self.is_in_message_mode() {
            self.control.place_framed(&mut self.wire);
        } else {
            self.control.place(&mut self.wire);
        }
        true
    }

    /// Whether nothing waits for the socket or for its turn.
    pub(crate) fn is_idle(&self) -> bool {
        if !self.wire.is_empty() || self.waiting_frames() > 0 {
            return false;
        }
        let no_chunk = if self.winding_up {
            self.current.is_none() && !(self.is_in_message_mode() && self.lanes.any_begun())
        } else {
            self.lanes.is_empty()
        };
        self.is_closing() || self.control.is_empty() && no_chunk
    }

    /// How many bytes wait: bodies, heads and control messages.
    pub(crate) fn queued_bytes(&self) -> usize {
        let lanes: usize = self.lanes.iter().map(|lane| lane.queued).sum();
        self.wire.len() + self.waiting_frames() + self.control.len() + lanes
    }

    /// Whether something is on the wire.
    pub(crate) fn has_wire(&self) -> bool {
        !self.wire.is_empty()
    }

    /// The next bytes to write, at most `unit` of them and without a part of a head, control message
    /// or end-line that does not fit whole.
    pub(crate) fn slices<'a>(&'a self, unit: usize, out: &mut SmallVec<[IoSlice<'a>; MAX_SLICES]>) {
        self.wire.slices(unit, out);
    }

    /// The socket took so many bytes.
    pub(crate) fn written(&mut self, len: usize, now: Instant) {
        let ended = self.wire.written(len);
        if let Some(watch) = &mut self.watch {
            watch.count(ended);
            watch.tell_count();
        }
        for forgotten in self.transactions.sent(self.wire.taken(), now) {
            if let Transaction::Chunk(failure) = forgotten {
                self.recycle(failure.origin);
            }
        }
    }

    /// Takes those who may read on. Wake them when the lock is released.
    pub(crate) fn take_wakes(&mut self) -> Vec<Arc<Link>> {
        if self.control.is_relieved() {
            self.control.release(&mut self.wake);
        }
        std::mem::take(&mut self.wake)
    }

    /// The transaction a response answers.
    pub(crate) fn response(&mut self, transaction: &TransactionId) -> Option<Transaction> {
        let found = self.transactions.answered(transaction);
        if let Some(current) = self.current.as_mut().filter(|current| current.transaction == *transaction) {
            current.answered = true;
        }
        found
    }

    /// An error response to the fragment that is still being written: the chunk ends with `#`.
    /// Gives what to tell its sender.
    pub(crate) fn fail_current(&mut self, transaction: &TransactionId) -> Option<Failure> {
        let current = self.current.filter(|current| current.transaction == *transaction)?;
        let mut copy = self.spare_origin();
        let lane = self.lanes.at(current.lane);
        let chunk = lane.chunks.front_mut()?;
        if chunk.silent {
            return None;
        }
        let origin = chunk.origin.as_ref()?;
        copy.copy_from(origin);
        let range = ByteRange {
            start: current.start,
            // What still waits is dropped with it.
            end: Some((chunk.position + chunk.buffered).saturating_sub(1)),
            total: origin.range.total,
        };
        let failure = Failure { origin: copy, answered: chunk.answered, range };
        lane.queued -= chunk.buffered as usize;
        chunk.body.clear();
        chunk.buffered = 0;
        chunk.end = Some(Flag::Abort);
        chunk.silent = true;
        Some(failure)
    }

    /// How many timers are held.
    #[cfg(test)]
    pub(crate) fn timer_count(&self) -> usize {
        self.transactions.timer_count()
    }

    /// When the oldest transaction's time is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.transactions.deadline()
    }

    /// Takes the transactions whose time is over.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<Transaction> {
        self.transactions.expired(now)
    }

    /// The connection is closed: takes everything that will not arrive, and everyone who waits.
    pub(crate) fn close(&mut self) -> (Vec<Transaction>, Vec<Arc<Link>>) {
        if let Some(watch) = &mut self.watch {
            watch.end();
        }
        let mut lost = self.transactions.close();
        for mut lane in self.lanes.drain() {
            for mut chunk in lane.chunks.drain(..) {
                let Some(origin) = chunk.origin.take().filter(|_| !chunk.silent) else { continue };
                let start = chunk.position - chunk.fragment;
                let end = chunk.position + chunk.buffered;
                let range = ByteRange { start, end: Some(end.saturating_sub(1)), total: origin.range.total };
                lost.push(Transaction::Chunk(Failure { origin, answered: chunk.answered, range }));
            }
            if let Some(source) = lane.source.take() {
                self.wake.push(source);
            }
        }
        self.control.release(&mut self.wake);
        let wake = std::mem::take(&mut self.wake);
        *self = Self::new(self.settings);
        (lost, wake)
    }

    /// Ends with `#` what is open on the wire and begins nothing any more, for an orderly stop. What
    /// waits fails when the connection closes.
    pub(crate) fn wind_up(&mut self) {
        self.winding_up = true;
        if self.is_in_message_mode() {
            return self.end_begun();
        }
        let Some(current) = self.current else { return };
        if let Some(chunk) =
            self.lanes.at(current.lane).chunks.front_mut().filter(|chunk| chunk.end.is_none())
        {
            chunk.end = Some(Flag::Abort);
        }
    }

    fn is_current(&self, index: usize) -> bool {
        self.current.is_some_and(|current| current.lane == index)
    }

    /// Lets the lane take its turn if its first chunk can begin.
    fn make_ready(&mut self, index: usize) {
        if !self.is_current(index) {
            self.lanes.make_ready(index, &self.settings);
        }
    }

    /// Lets the source of a lane read on when half of the lane has gone.
    fn relieve(&mut self, index: usize) {
        let lane = self.lanes.at(index);
        if lane.is_relieved(&self.settings) {
            lane.stalled = false;
            if std::mem::take(&mut lane.source_waits) {
                self.wake.extend(lane.source.clone());
            }
        }
    }
}
