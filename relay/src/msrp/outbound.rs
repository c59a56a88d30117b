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
//! # Limits
//!
//! | what | limit | at the limit |
//! |---|---|---|
//! | bytes waiting in one lane | `session_buffer` | the source stops reading ([`Pushed::full`]) |
//! | control bytes waiting | [`CONTROL_LIMIT`] | sources that produce more stop reading |
//! | requests without a response | those of [`transactions`](super::transactions) | no further SEND is begun, other requests are refused |

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use hashbrown::HashMap;
use msrp_proto::encoder;
use msrp_proto::flag::Flag;
use msrp_proto::header::{ByteRange, FailureReport};
use msrp_proto::ident::TransactionId;

use super::link::Link;
use super::origin::Origin;
use super::transactions::{Failure, Transaction, Transactions};
use super::wire::Random;

/// How many bytes are put on the wire ahead of the socket.
pub(crate) const FILL_TARGET: usize = 64 * 1024;
/// How many bytes a chunk may send before another lane gets its turn.
pub(crate) const LANE_QUANTUM: u64 = 16 * 1024;
/// How many bytes of control messages may wait before those who cause them stop reading.
pub(crate) const CONTROL_LIMIT: usize = 256 * 1024;
/// How many used objects are kept for the next message.
const MAX_SPARE: usize = 64;
/// A larger one is not kept: few messages are so long, and an idle connection should be small.
const MAX_SPARE_BYTES: usize = 2 * 1024;
/// The most pieces given to one write.
pub(crate) const MAX_SLICES: usize = 64;

/// Names a lane: the connection the chunks come from, and the session they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneKey {
    pub(crate) source: u64,
    pub(crate) session: u128,
}

/// Names a chunk within its lane.
pub(crate) type ChunkId = u64;

/// The chunk is not open any more: it failed and has been answered, or the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// What came of putting something in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// The source must stop reading until it is woken.
    pub(crate) full: bool,
}

#[derive(Debug)]
enum Segment {
    /// So many bytes of `scratch`: a head, an end-line, a control message. Never split.
    Scratch(usize),
    Body(Bytes),
}

#[derive(Debug, Default)]
struct Chunk {
    id: ChunkId,
    origin: Option<Box<Origin>>,
    has_body: bool,
    body: VecDeque<Bytes>,
    buffered: u64,
    /// Known once the sender, or something that befell it, has ended the chunk.
    end: Option<Flag>,
    /// The sender ended it, and has its 200 if it wanted one.
    answered: bool,
    /// The place in the message of the first byte not yet put on the wire.
    position: u64,
    /// Bytes of the current fragment on the wire.
    fragment: u64,
    /// Whether a fragment went before: the Byte-Range must be ours.
    interrupted: bool,
    /// An abandoned chunk: what becomes of it concerns nobody.
    silent: bool,
}

impl Chunk {
    fn declared_small(&self, gather_size: u64) -> bool {
        let declared = self.origin.as_ref().and_then(|origin| origin.range.declared_len());
        declared.is_some_and(|len| len <= gather_size)
    }

    /// Body bytes that may go now: all if the chunk has ended, else all but one.
    fn sendable(&self) -> u64 {
        if self.end.is_some() { self.buffered } else { self.buffered.saturating_sub(1) }
    }

    fn can_begin(&self, gather_size: u64) -> bool {
        let gathering = self.declared_small(gather_size) && self.buffered <= gather_size;
        self.end.is_some() || self.sendable() > 0 && !gathering
    }

    fn reset(&mut self) {
        self.body.clear();
        *self = Self { body: std::mem::take(&mut self.body), ..Self::default() };
    }
}

#[derive(Debug, Default)]
struct Lane {
    key: Option<LaneKey>,
    chunks: VecDeque<Chunk>,
    /// Bytes held by the chunks.
    queued: usize,
    source: Option<Arc<Link>>,
    /// The source stopped reading and waits to be woken.
    source_waits: bool,
    in_ready: bool,
    /// The lane was full for too long: what comes is refused until it drains.
    stalled: bool,
}

impl Lane {
    /// What counts against `session_buffer`. The head of a chunk that is still coming does not: it goes
    /// with the chunk's end only, and a long one would keep that from coming.
    fn held(&self) -> usize {
        let open = self.chunks.back().filter(|chunk| chunk.end.is_none());
        self.queued - open.and_then(|chunk| chunk.origin.as_ref()).map_or(0, |origin| origin.len())
    }
}

#[derive(Clone, Copy, Debug)]
struct Current {
    lane: usize,
    transaction: TransactionId,
    /// The place in the message of the fragment's first byte.
    start: u64,
    /// Whether the head says that the chunk may end anywhere.
    interruptible: bool,
    /// The next hop has answered before the end: nothing is awaited any more.
    answered: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Outbound {
    session_buffer: usize,
    /// A chunk of more bytes can be interrupted (RFC 4975 §7.1.1).
    interrupt_size: u64,
    /// A chunk that declares no more than this is waited for until it is whole.
    gather_size: u64,
    response_timeout: Duration,

    control: Vec<u8>,
    control_ends: VecDeque<usize>,
    control_waiters: Vec<Arc<Link>>,

    lanes: Vec<Lane>,
    free_lanes: Vec<usize>,
    by_key: HashMap<LaneKey, usize>,
    ready: VecDeque<usize>,
    current: Option<Current>,
    winding_up: bool,
    next_chunk: ChunkId,

    wire: VecDeque<Segment>,
    wire_bytes: usize,
    scratch: BytesMut,
    /// Bytes ever put on the wire, and ever taken by the socket.
    placed: u64,
    taken: u64,

    transactions: Transactions,

    wake: Vec<Arc<Link>>,
    #[expect(clippy::vec_box, reason = "chunks and transactions hold them boxed, and pass the box on")]
    spare_origins: Vec<Box<Origin>>,
    spare_chunks: Vec<Chunk>,
}

impl Outbound {
    pub(crate) fn new(session_buffer: usize, interrupt_size: u64, response_timeout: Duration) -> Self {
        Self {
            session_buffer,
            interrupt_size,
            // What fills the buffer cannot be waited for.
            gather_size: interrupt_size.min(session_buffer.saturating_sub(1) as u64),
            response_timeout,
            control: Vec::new(),
            control_ends: VecDeque::new(),
            control_waiters: Vec::new(),
            lanes: Vec::new(),
            free_lanes: Vec::new(),
            by_key: HashMap::new(),
            ready: VecDeque::new(),
            current: None,
            winding_up: false,
            next_chunk: 1,
            wire: VecDeque::new(),
            wire_bytes: 0,
            scratch: BytesMut::new(),
            placed: 0,
            taken: 0,
            transactions: Transactions::new(response_timeout),
            wake: Vec::new(),
            spare_origins: Vec::new(),
            spare_chunks: Vec::new(),
        }
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

    /// Adds a whole control message.
    pub(crate) fn control(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Pushed {
        write(&mut self.control);
        self.control_ends.push_back(self.control.len());
        Pushed { full: self.control.len() >= CONTROL_LIMIT }
    }

    /// Bytes of control messages that wait.
    pub(crate) fn control_len(&self) -> usize {
        self.control.len()
    }

    /// Whether the socket has not taken what was put on the wire: what is added now must wait.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.wire.is_empty()
    }

    /// Wakes `link` when the control backlog has gone down.
    pub(crate) fn wait_for_control(&mut self, link: &Arc<Link>) {
        if !self.control_waiters.iter().any(|waiter| waiter.id() == link.id()) {
            self.control_waiters.push(Arc::clone(link));
        }
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
        let index = self.lane(key, source);
        if self.lanes[index].stalled {
            return Err(origin);
        }
        let id = self.next_chunk;
        self.next_chunk += 1;
        let mut chunk = self.spare_chunks.pop().unwrap_or_default();
        chunk.id = id;
        chunk.position = origin.range.start;
        chunk.has_body = has_body;
        let lane = &mut self.lanes[index];
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
        let session_buffer = self.session_buffer;
        let (index, chunk) = self.open_chunk(key, id)?;
        chunk.buffered += bytes.len() as u64;
        let len = bytes.len();
        chunk.body.push_back(bytes);
        let lane = &mut self.lanes[index];
        lane.queued += len;
        let full = lane.held() >= session_buffer;
        self.make_ready(index);
        Ok(Pushed { full })
    }

    /// Ends a chunk as its sender ended it. Its sender is answered from here on.
    ///
    /// # Errors
    /// [`Gone`] if the chunk has failed meanwhile.
    pub(crate) fn end(&mut self, key: LaneKey, id: ChunkId, flag: Flag) -> Result<Pushed, Gone> {
        let session_buffer = self.session_buffer;
        let (index, chunk) = self.open_chunk(key, id)?;
        chunk.end = Some(flag);
        chunk.answered = true;
        let full = self.lanes[index].held() >= session_buffer;
        self.make_ready(index);
        Ok(Pushed { full })
    }

    /// Ends a chunk with `#`: its sender vanished, its session ended, or it stalled. With `drop`,
    /// what waits of it is forgotten. Says whether the chunk was still open.
    pub(crate) fn abandon(&mut self, key: LaneKey, id: ChunkId, drop: bool) -> bool {
        let Ok((index, chunk)) = self.open_chunk(key, id) else { return false };
        chunk.end = Some(Flag::Abort);
        chunk.silent = true;
        if drop {
            let dropped = chunk.buffered as usize;
            chunk.body.clear();
            chunk.buffered = 0;
            self.lanes[index].queued -= dropped;
        }
        self.make_ready(index);
        true
    }

    /// The lane's source stops reading; it is woken when half of the lane has gone.
    pub(crate) fn wait_for_lane(&mut self, key: LaneKey) -> bool {
        let Some(&index) = self.by_key.get(&key) else { return false };
        let lane = &mut self.lanes[index];
        lane.source_waits = lane.held() >= self.session_buffer;
        lane.source_waits
    }

    /// The lane has been full for too long: it takes nothing until half of it has gone.
    pub(crate) fn stall(&mut self, key: LaneKey) {
        if let Some(&index) = self.by_key.get(&key) {
            let lane = &mut self.lanes[index];
            lane.stalled = lane.held() > self.session_buffer / 2;
            lane.source_waits = false;
        }
    }

    /// Puts on the wire what may go now.
    pub(crate) fn fill(&mut self, random: &dyn Random) {
        while self.wire_bytes < FILL_TARGET {
            let went_on = match self.current {
                Some(current) => self.advance(current),
                None => self.send_control() || self.begin_fragment(random),
            };
            if !went_on {
                break;
            }
        }
    }

    /// Whether nothing waits for the socket or for its turn.
    pub(crate) fn is_idle(&self) -> bool {
        let no_chunk = if self.winding_up { self.current.is_none() } else { self.by_key.is_empty() };
        self.wire.is_empty() && self.control_ends.is_empty() && no_chunk
    }

    /// How many bytes wait: bodies, heads and control messages.
    pub(crate) fn queued_bytes(&self) -> usize {
        let lanes: usize = self.by_key.values().map(|&index| self.lanes[index].queued).sum();
        self.wire_bytes + self.control.len() + lanes
    }

    /// Whether something is on the wire.
    pub(crate) fn has_wire(&self) -> bool {
        !self.wire.is_empty()
    }

    /// The next bytes to write, at most `unit` of them and without a part of a head, control message
    /// or end-line that does not fit whole.
    pub(crate) fn slices<'a>(&'a self, unit: usize, out: &mut smallvec::SmallVec<[IoSlice<'a>; MAX_SLICES]>) {
        let mut scratch: &[u8] = &self.scratch;
        let mut left = unit;
        for segment in &self.wire {
            if left == 0 || out.len() >= MAX_SLICES {
                break;
            }
            match segment {
                Segment::Body(body) => {
                    let len = body.len().min(left);
                    out.push(IoSlice::new(&body[..len]));
                    left -= len;
                }
                Segment::Scratch(len) => {
                    if *len > left && left < unit {
                        break;
                    }
                    let len = (*len).min(left);
                    out.push(IoSlice::new(&scratch[..len]));
                    scratch = &scratch[len..];
                    left -= len;
                }
            }
        }
    }

    /// The socket took so many bytes.
    pub(crate) fn written(&mut self, mut len: usize, now: Instant) {
        self.taken += len as u64;
        self.wire_bytes -= len;
        while len > 0 {
            match self.wire.front_mut() {
                Some(Segment::Body(body)) if body.len() > len => {
                    body.advance(len);
                    len = 0;
                }
                Some(Segment::Body(body)) => {
                    len -= body.len();
                    self.wire.pop_front();
                }
                Some(Segment::Scratch(rest)) => {
                    let gone = len.min(*rest);
                    *rest -= gone;
                    len -= gone;
                    let spent = *rest == 0;
                    self.scratch.advance(gone);
                    if spent {
                        self.wire.pop_front();
                    }
                }
                None => break,
            }
        }
        for forgotten in self.transactions.sent(self.taken, now) {
            if let Transaction::Chunk(failure) = forgotten {
                self.recycle(failure.origin);
            }
        }
    }

    /// Takes those who may read on. Wake them when the lock is released.
    pub(crate) fn take_wakes(&mut self) -> Vec<Arc<Link>> {
        if self.control.len() < CONTROL_LIMIT / 2 && !self.control_waiters.is_empty() {
            self.wake.append(&mut self.control_waiters);
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
        let lane = &mut self.lanes[current.lane];
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
        let mut lost = self.transactions.close();
        for lane in &mut self.lanes {
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
        self.wake.append(&mut self.control_waiters);
        let wake = std::mem::take(&mut self.wake);
        *self = Self::new(self.session_buffer, self.interrupt_size, self.response_timeout);
        (lost, wake)
    }

    /// Ends with `#` what is open on the wire and begins nothing any more, for an orderly stop. What
    /// waits fails when the connection closes.
    pub(crate) fn wind_up(&mut self) {
        self.winding_up = true;
        let Some(current) = self.current else { return };
        if let Some(chunk) = self.lanes[current.lane].chunks.front_mut().filter(|chunk| chunk.end.is_none()) {
            chunk.end = Some(Flag::Abort);
        }
    }

    fn lane(&mut self, key: LaneKey, source: &Arc<Link>) -> usize {
        if let Some(&index) = self.by_key.get(&key) {
            return index;
        }
        let index = self.free_lanes.pop().unwrap_or_else(|| {
            self.lanes.push(Lane::default());
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[index];
        lane.key = Some(key);
        lane.source = Some(Arc::clone(source));
        self.by_key.insert(key, index);
        index
    }

    fn open_chunk(&mut self, key: LaneKey, id: ChunkId) -> Result<(usize, &mut Chunk), Gone> {
        let index = *self.by_key.get(&key).ok_or(Gone)?;
        let chunk = self.lanes[index].chunks.back_mut().ok_or(Gone)?;
        if chunk.id == id && chunk.end.is_none() { Ok((index, chunk)) } else { Err(Gone) }
    }

    fn is_current(&self, index: usize) -> bool {
        self.current.is_some_and(|current| current.lane == index)
    }

    /// Lets the lane take its turn if its first chunk can begin.
    fn make_ready(&mut self, index: usize) {
        let is_current = self.is_current(index);
        let lane = &mut self.lanes[index];
        if !lane.in_ready
            && !is_current
            && lane.chunks.front().is_some_and(|chunk| chunk.can_begin(self.gather_size))
        {
            lane.in_ready = true;
            self.ready.push_back(index);
        }
    }

    fn something_waits(&self) -> bool {
        !self.control_ends.is_empty() || !self.ready.is_empty()
    }

    fn send_control(&mut self) -> bool {
        if self.control_ends.is_empty() {
            return false;
        }
        let mut start = 0;
        for end in self.control_ends.drain(..) {
            self.wire.push_back(Segment::Scratch(end - start));
            start = end;
        }
        self.scratch.extend_from_slice(&self.control);
        self.place(self.control.len());
        self.control.clear();
        true
    }

    fn place(&mut self, len: usize) {
        self.wire_bytes += len;
        self.placed += len as u64;
    }

    /// Puts the head of the next lane's first chunk on the wire.
    fn begin_fragment(&mut self, random: &dyn Random) -> bool {
        if self.is_full_of_transactions() || self.winding_up {
            return false;
        }
        let Some(index) = self.ready.pop_front() else { return false };
        let lane = &mut self.lanes[index];
        lane.in_ready = false;
        let Some(chunk) = lane.chunks.front_mut() else { return true };
        let Some(origin) = &chunk.origin else { return true };

        let mut bits = [0; 10];
        random.fill(&mut bits);
        let transaction = TransactionId::from_random(bits);
        // A chunk that is whole and small goes on as it came, or as the rest of what it was. One that
        // will never be whole must not say where it ends.
        let interruptible = chunk.silent || chunk.end.is_none() || chunk.buffered > self.interrupt_size;
        let open = origin.range.end.is_none();
        let range = match (chunk.interrupted, interruptible) {
            (false, false) => None,
            // As it came, but the end is open: it says so already.
            (false, true) if open && origin.has_range() => None,
            (_, true) => Some(ByteRange { start: chunk.position, end: None, total: origin.range.total }),
            (true, false) => {
                let last = (chunk.position + chunk.buffered).saturating_sub(1);
                let end = (chunk.buffered > 0).then_some(last);
                Some(ByteRange { start: chunk.position, end, total: origin.range.total })
            }
        };
        let before = self.scratch.len();
        let head = origin.write_head(&mut self.scratch, &transaction, range);
        if chunk.has_body {
            head.body();
        } else {
            head.no_body();
        }
        let len = self.scratch.len() - before;
        self.wire.push_back(Segment::Scratch(len));
        chunk.fragment = 0;
        self.current =
            Some(Current { lane: index, transaction, start: chunk.position, interruptible, answered: false });
        self.place(len);
        true
    }

    /// Goes on with the current fragment; `false` if nothing of it can go now.
    fn advance(&mut self, current: Current) -> bool {
        let waits_control = !self.control_ends.is_empty();
        // In an orderly stop nothing would go on after an interruption.
        let waits = self.something_waits() && !self.winding_up;
        let lane = &mut self.lanes[current.lane];
        let Some(chunk) = lane.chunks.front_mut() else {
            self.current = None;
            return true;
        };
        let sendable = chunk.sendable();
        if sendable == 0 {
            if let Some(flag) = chunk.end {
                self.finish(current, flag);
                return true;
            }
            if waits && current.interruptible && chunk.fragment > 0 {
                self.finish(current, Flag::More);
                return true;
            }
            return false;
        }
        let turn = if waits_control { self.interrupt_size } else { LANE_QUANTUM };
        let nearly_done = chunk.end.is_some() && chunk.buffered <= self.interrupt_size;
        if waits && current.interruptible && chunk.fragment >= turn && !nearly_done {
            self.finish(current, Flag::More);
            return true;
        }
        // Up to where a turn may end, so that the question is asked again there.
        let to_turn = if waits { turn.saturating_sub(chunk.fragment).max(1) } else { LANE_QUANTUM };
        let mut left = if current.interruptible && !nearly_done { sendable.min(to_turn) } else { sendable };
        let mut placed = 0;
        while left > 0 {
            let Some(front) = chunk.body.front_mut() else { break };
            let piece = if front.len() as u64 <= left {
                chunk.body.pop_front().unwrap_or_default()
            } else {
                front.split_to(left as usize)
            };
            left -= piece.len() as u64;
            placed += piece.len();
            self.wire.push_back(Segment::Body(piece));
        }
        chunk.buffered -= placed as u64;
        chunk.position += placed as u64;
        chunk.fragment += placed as u64;
        lane.queued -= placed;
        self.place(placed);
        self.relieve(current.lane);
        true
    }

    /// Writes the end-line of the current fragment.
    fn finish(&mut self, current: Current, flag: Flag) {
        self.current = None;
        let lane = &mut self.lanes[current.lane];
        let Some(chunk) = lane.chunks.front_mut() else { return };
        let before = self.scratch.len();
        if chunk.has_body {
            encoder::end_line(&mut self.scratch, &current.transaction, flag);
        } else {
            encoder::end_line_after_head(&mut self.scratch, &current.transaction, flag);
        }
        let len = self.scratch.len() - before;
        self.wire.push_back(Segment::Scratch(len));
        self.wire_bytes += len;
        self.placed += len as u64;

        let interrupted = chunk.end != Some(flag) || chunk.buffered > 0;
        let end = chunk.position.saturating_sub(1);
        let silent = chunk.silent || current.answered;
        // A fragment that has left is reported on, even while the rest still arrives.
        let answered = chunk.answered || interrupted;
        let wanted = chunk.origin.as_ref().map_or(FailureReport::No, |origin| origin.failure_report);
        let origin = if interrupted {
            chunk.interrupted = true;
            chunk.fragment = 0;
            (!silent && wanted != FailureReport::No).then(|| {
                let mut copy = self.spare_origins.pop().unwrap_or_default();
                if let Some(origin) = &chunk.origin {
                    copy.copy_from(origin);
                }
                copy
            })
        } else {
            let origin = chunk.origin.take();
            if let Some(mut chunk) = lane.chunks.pop_front()
                && self.spare_chunks.len() < MAX_SPARE
            {
                chunk.reset();
                self.spare_chunks.push(chunk);
            }
            lane.queued -= origin.as_ref().map_or(0, |origin| origin.len());
            origin
        };
        self.relieve(current.lane);
        if let Some(origin) = origin {
            if silent || wanted == FailureReport::No {
                self.recycle(origin);
            } else {
                let range = ByteRange { start: current.start, end: Some(end), total: origin.range.total };
                let failure = Failure { origin, answered, range };
                self.transactions.await_chunk_response(current.transaction, failure, self.placed);
            }
        }
        self.make_ready(current.lane);
        self.retire_lane(current.lane);
    }

    /// Lets the source of a lane read on when half of the lane has gone.
    fn relieve(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if lane.held() <= self.session_buffer / 2 {
            lane.stalled = false;
            if std::mem::take(&mut lane.source_waits) {
                self.wake.extend(lane.source.clone());
            }
        }
    }

    /// Lets go of an empty lane.
    fn retire_lane(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if !lane.chunks.is_empty() {
            return;
        }
        if let Some(key) = lane.key.take() {
            self.by_key.remove(&key);
            lane.source = None;
            lane.queued = 0;
            self.free_lanes.push(index);
        }
    }
}
