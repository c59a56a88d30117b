//! The ledger: every connection of a process, from its first moment until its descriptor is closed.
//!
//! Listeners and connectors that share a [`Ledger`] count against the same limits and tell their events
//! to the same subscribers. It knows connections that are still being accepted or opened, which the
//! [`Registry`](crate::Registry) cannot know, as they have no stream yet.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::connection::{CloseReason, ConnectionId};
use crate::event::{ConnectionEvent, Direction, Ending, EventKind, Events};
use crate::limits::{AddressGroup, ConnectionLimits, LimitReached};
use crate::listener::Transport;
use crate::scheme::Scheme;
use crate::tls::TlsInfo;

mod room;

pub use self::room::MakeRoom;
use self::room::{NO_DESCRIPTORS, Room};

/// See the [module documentation](self).
#[derive(Default)]
pub struct Ledger {
    events: Events,
    limits: Mutex<ConnectionLimits>,
    book: Mutex<Book>,
    room: Room,
}

#[derive(Default)]
struct Book {
    /// In the order they came, so that they can be looked at some at a time.
    entries: BTreeMap<ConnectionId, Arc<Entry>>,
    accepted_from: HashMap<AddressGroup, usize>,
    totals: HashMap<(Option<Scheme>, Direction), Totals>,
    refused: [u64; 3],
    /// How many of the entries are beyond the limit.
    beyond: usize,
}

/// What the connections of one protocol and direction came to since the start. Each is counted in `begun`, in `opened`
/// when it comes up, and in one of the others when it is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Begun to be accepted or opened, those that a limit refused included.
    pub begun: u64,
    /// Came up.
    pub opened: u64,
    /// Were closed in order, having been up.
    pub closed: u64,
    /// Were ended by a time limit, up or not.
    pub timed_out: u64,
    /// Were reset by the peer.
    pub reset: u64,
    /// Did not come up, or broke.
    pub failed: u64,
    /// Bytes received, those of connections that are there included; TLS and lower layers not counted.
    pub bytes_in: u64,
    /// Bytes sent, counted likewise.
    pub bytes_out: u64,
}

/// How many connections were refused for which limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// [`LimitReached::Total`]
    pub total: u64,
    /// [`LimitReached::Listener`]
    pub listener: u64,
    /// [`LimitReached::Address`]
    pub address: u64,
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(limits: ConnectionLimits, events: Events) -> Arc<Self> {
        Arc::new(Self { events, limits: Mutex::new(limits), ..Self::default() })
    }

    /// Where its events are published.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> ConnectionLimits {
        *self.limits.lock()
    }

    /// Changes the limits, for connections that come from now on.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        *self.limits.lock() = limits;
    }

    /// How many connections there are, those that are being accepted or opened included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.book.lock().entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many connections were accepted from this address, or its IPv6 /64, and are still there.
    #[must_use]
    pub fn accepted_from(&self, ip: std::net::IpAddr) -> usize {
        self.book.lock().accepted_from.get(&AddressGroup::of(ip)).copied().unwrap_or(0)
    }

    /// What is known of a connection; `None`: it does not exist (any more).
    #[must_use]
    pub fn entry(&self, id: ConnectionId) -> Option<Arc<Entry>> {
        self.book.lock().entries.get(&id).cloned()
    }

    /// What is known of all connections of this moment.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Arc<Entry>> {
        self.book.lock().entries.values().cloned().collect()
    }

    /// What connections came to since the start, by what they carry and who opened them. Exact at each moment.
    #[must_use]
    pub fn totals(&self) -> Vec<((Option<Scheme>, Direction), Totals)> {
        let book = self.book.lock();
        let mut totals = book.totals.clone();
        for entry in book.entries.values() {
            let totals = totals.entry((entry.scheme, entry.direction)).or_default();
            totals.bytes_in += entry.bytes_in();
            totals.bytes_out += entry.bytes_out();
        }
        totals.into_iter().collect()
    }

    /// How many connections were refused by limits since the start.
    #[must_use]
    pub fn refused(&self) -> Refused {
        let [total, listener, address] = self.book.lock().refused;
        Refused { total, listener, address }
    }

    fn count(&self, entry: &Entry, count: impl FnOnce(&mut Totals)) {
        count(self.book.lock().totals.entry((entry.scheme, entry.direction)).or_default());
    }

    /// Enters a connection a listener has accepted, if the limits allow it: `max` of that listener's `slots` may be taken.
    /// Its address is counted by [`Ticket::count_address`], when it is known.
    pub(crate) fn accepting(
        self: &Arc<Self>,
        entry: Entry,
        slots: &Slots,
        max: Option<usize>,
    ) -> Result<Ticket, LimitReached> {
        let mut ticket = self.enter(entry, false)?;
        // Own count first, then the look: of two at once, at least one sees the other.
        let before = slots.used.fetch_add(1, Ordering::AcqRel);
        ticket.slot = Some(slots.used.clone());
        match max {
            Some(max) if before >= max => Err(ticket.refuse(LimitReached::Listener(max))),
            _ => Ok(ticket),
        }
    }

    /// Enters a connection that begins to be opened, if the limit allows it, or `beyond` it: then it is always
    /// allowed, and takes nobody's place.
    pub(crate) fn connecting(self: &Arc<Self>, entry: Entry, beyond: bool) -> Result<Ticket, LimitReached> {
        let ticket = self.enter(entry, beyond)?;
        ticket.tell(None, EventKind::ConnectStarted);
        Ok(ticket)
    }

    fn enter(self: &Arc<Self>, entry: Entry, beyond: bool) -> Result<Ticket, LimitReached> {
        let limit = self.limits().max_connections.filter(|_| !beyond);
        let entry = Arc::new(entry);
        let mut book = self.book.lock();
        book.totals.entry((entry.scheme, entry.direction)).or_default().begun += 1;
        let full = limit.filter(|max| book.entries.len() - book.beyond >= *max);
        if full.is_none() {
            book.entries.insert(entry.id, entry.clone());
            book.beyond += usize::from(beyond);
        }
        drop(book);
        let ticket = Ticket { entry, ledger: Some(self.clone()), slot: None, group: None, beyond };
        match full {
            Some(max) => Err(ticket.refuse(LimitReached::Total(max))),
            None => Ok(ticket),
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("connections", &self.len())
            .field("limits", &self.limits())
            .field("events", &self.events)
            .finish()
    }
}

/// The connections of one listener.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    used: Arc<AtomicUsize>,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Being accepted or opened: TCP, PROXY header, handshakes of TLS and WebSocket.
    Opening,
    /// Up.
    Open,
    /// Over; its descriptor is closed when the last user lets go of it.
    Ended,
}

/// No lifetime is set.
const NO_LIFETIME: u64 = u64::MAX;

/// What the ledger knows of one connection. It can be looked at from anywhere, at any time.
pub struct Entry {
    id: ConnectionId,
    direction: Direction,
    transport: Transport,
    scheme: Option<Scheme>,
    local: OnceLock<SocketAddr>,
    peer: SocketAddr,
    /// The client that a proxy has named.
    client: OnceLock<SocketAddr>,
    since: Instant,
    phase: AtomicU8,
    marked: AtomicBool,
    /// Something has begun on it and is not over, as its protocol says.
    busy: AtomicBool,
    /// It was asked to leave, to make room.
    leaving: AtomicBool,
    /// Ends its handshake.
    handshake: Mutex<Option<AbortHandle>>,
    /// All bytes, both ways, when it was looked at last.
    moved: AtomicU64,
    /// When they were first seen to be so many: nanoseconds after `since`.
    used: AtomicU64,
    /// Milliseconds.
    lifetime: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
}

impl Entry {
    pub(crate) fn new(
        direction: Direction,
        transport: Transport,
        scheme: Option<Scheme>,
        local: Option<SocketAddr>,
        peer: SocketAddr,
    ) -> Self {
        Self {
            id: ConnectionId::next(),
            direction,
            transport,
            scheme,
            local: local.map(OnceLock::from).unwrap_or_default(),
            peer,
            client: OnceLock::new(),
            since: tokio::time::Instant::now().into_std(),
            phase: AtomicU8::new(Phase::Opening as u8),
            marked: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            handshake: Mutex::default(),
            moved: AtomicU64::new(0),
            used: AtomicU64::new(0),
            lifetime: AtomicU64::new(NO_LIFETIME),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Who opened it.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Plain or TLS.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What it carries, where that was said.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// Our address, once known.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local.get().copied()
    }

    /// The peer's address; behind a proxy that says so, its client's.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.client.get().copied().unwrap_or(self.peer)
    }

    /// The proxy's address, if one has named [`remote`](Self::remote).
    #[must_use]
    pub fn proxy(&self) -> Option<SocketAddr> {
        self.client.get().map(|_| self.peer)
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Opening,
            1 => Phase::Open,
            _ => Phase::Ended,
        }
    }

    /// How long it has been there.
    #[must_use]
    pub fn age(&self) -> Duration {
        tokio::time::Instant::now().into_std().saturating_duration_since(self.since)
    }

    /// Bytes received, TLS and lower layers not counted.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes sent, counted likewise.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Messages received, as whoever reads them has [counted](Self::count_messages_in) them.
    #[must_use]
    pub fn messages_in(&self) -> u64 {
        self.messages_in.load(Ordering::Relaxed)
    }

    /// Messages sent, counted likewise.
    #[must_use]
    pub fn messages_out(&self) -> u64 {
        self.messages_out.load(Ordering::Relaxed)
    }

    /// So many more messages have come, whole. What a message is knows only who reads the bytes; better called once
    /// for a read than once for each message.
    pub fn count_messages_in(&self, messages: u64) {
        self.messages_in.fetch_add(messages, Ordering::Relaxed);
    }

    /// So many more have left, whole.
    pub fn count_messages_out(&self, messages: u64) {
        self.messages_out.fetch_add(messages, Ordering::Relaxed);
    }

    /// How long it may be idle.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        match self.lifetime.load(Ordering::Relaxed) {
            NO_LIFETIME => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    /// Whether its events are told when only those of marked connections are.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.marked.load(Ordering::Relaxed)
    }

    pub(crate) fn mark(&self) {
        self.marked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_lifetime(&self, lifetime: Option<Duration>) {
        let millis = lifetime.map_or(NO_LIFETIME, |lifetime| {
            u64::try_from(lifetime.as_millis()).unwrap_or(NO_LIFETIME).min(NO_LIFETIME - 1)
        });
        self.lifetime.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn count_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_client(&self, client: SocketAddr) {
        let _ = self.client.set(client);
    }

    pub(crate) fn set_local(&self, local: SocketAddr) {
        let _ = self.local.set(local);
    }

    /// Moves on; the phase it was in.
    fn advance(&self, to: Phase) -> Phase {
        match self.phase.swap(to as u8, Ordering::AcqRel) {
            0 => Phase::Opening,
            1 => Phase::Open,
            _ => Phase::Ended,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .field("direction", &self.direction)
            .field("remote", &self.remote())
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

/// A connection's place in the ledger; it leaves with this.
pub(crate) struct Ticket {
    entry: Arc<Entry>,
    ledger: Option<Arc<Ledger>>,
    slot: Option<Arc<AtomicUsize>>,
    group: Option<AddressGroup>,
    /// It does not count for the limit of all.
    beyond: bool,
}

impl Ticket {
    /// For a stream that belongs to no ledger.
    pub(crate) fn detached(transport: Transport, local: SocketAddr, peer: SocketAddr) -> Self {
        let entry = Entry::new(Direction::Inbound, transport, None, Some(local), peer);
        entry.phase.store(Phase::Open as u8, Ordering::Relaxed);
        Self { entry: Arc::new(entry), ledger: None, slot: None, group: None, beyond: false }
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Counts the connection for its address.
    pub(crate) fn count_address(mut self) -> Result<Self, LimitReached> {
        let Some(ledger) = self.ledger.clone() else { return Ok(self) };
        let group = AddressGroup::of(self.entry.remote().ip());
        let limit = ledger.limits().max_connections_per_address;
        let mut book = ledger.book.lock();
        let count = book.accepted_from.entry(group).or_default();
        *count += 1;
        let over = limit.filter(|max| *count > *max);
        drop(book);
        self.group = Some(group);
        match over {
            Some(max) => Err(self.refuse(LimitReached::Address(max))),
            None => Ok(self),
        }
    }

    /// The connection is up.
    pub(crate) fn opened(&self, tls: Option<&TlsInfo>) {
        self.entry.advance(Phase::Open);
        self.entry.forget_handshake();
        self.count(|totals| totals.opened += 1);
        if self.entry.is_leaving()
            && let Some(ledger) = &self.ledger
        {
            // Its handshake was to end, too late. The book's lock, taken since the phase has changed, is also around
            // the mark: one that is set later finds that the connection is up.
            ledger.stays(&self.entry);
        }
        self.tell(
            tls,
            match self.entry.direction {
                Direction::Inbound => EventKind::Accepted,
                Direction::Outbound => EventKind::Connected,
            },
        );
    }

    /// The connection did not come up.
    pub(crate) fn failed(&self, timed_out: bool, reason: &dyn fmt::Display) {
        if self.entry.advance(Phase::Ended) != Phase::Ended {
            self.count(|totals| if timed_out { totals.timed_out += 1 } else { totals.failed += 1 });
            self.tell_with(None, || {
                let ending = self.ending(reason);
                if timed_out { EventKind::TimedOut(ending) } else { EventKind::Failed(ending) }
            });
        }
    }

    /// The connection is over.
    pub(crate) fn ended(&self, reason: &CloseReason, tls: Option<&TlsInfo>) {
        if self.entry.advance(Phase::Ended) != Phase::Ended {
            self.count(|totals| match EventKind::end(reason, Ending::default()) {
                EventKind::TimedOut(_) => totals.timed_out += 1,
                EventKind::Reset(_) => totals.reset += 1,
                EventKind::Failed(_) => totals.failed += 1,
                _ => totals.closed += 1,
            });
            self.tell_with(tls, || EventKind::end(reason, self.ending(reason)));
        }
    }

    fn refuse(self, limit: LimitReached) -> LimitReached {
        if let Some(ledger) = &self.ledger {
            let place = match limit {
                LimitReached::Total(_) => 0,
                LimitReached::Listener(_) => 1,
                LimitReached::Address(_) => 2,
            };
            ledger.book.lock().refused[place] += 1;
        }
        self.failed(false, &limit);
        limit
    }

    fn count(&self, count: impl FnOnce(&mut Totals)) {
        if let Some(ledger) = &self.ledger {
            ledger.count(&self.entry, count);
        }
    }

    fn ending(&self, reason: &dyn fmt::Display) -> Ending {
        Ending {
            reason: reason.to_string().into(),
            bytes_in: self.entry.bytes_in(),
            bytes_out: self.entry.bytes_out(),
            messages_in: self.entry.messages_in(),
            messages_out: self.entry.messages_out(),
            duration: self.entry.age(),
        }
    }

    fn tell(&self, tls: Option<&TlsInfo>, kind: EventKind) {
        self.tell_with(tls, || kind);
    }

    fn tell_with(&self, tls: Option<&TlsInfo>, kind: impl FnOnce() -> EventKind) {
        let Some(ledger) = &self.ledger else { return };
        let entry = &self.entry;
        ledger.events.publish(entry.is_marked(), || ConnectionEvent {
            id: entry.id,
            time: SystemTime::now(),
            direction: entry.direction,
            transport: entry.transport,
            scheme: entry.scheme,
            local: entry.local(),
            remote: entry.remote(),
            proxy: entry.proxy(),
            tls: tls.cloned(),
            kind: kind(),
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match self.entry.phase() {
            Phase::Opening if self.entry.is_leaving() => self.failed(false, &NO_DESCRIPTORS),
            Phase::Opening => self.failed(false, &"given up"),
            Phase::Open => self.ended(&CloseReason::Aborted, None),
            Phase::Ended => {}
        }
        if let Some(slot) = &self.slot {
            slot.fetch_sub(1, Ordering::AcqRel);
        }
        if let Some(ledger) = &self.ledger {
            let mut book = ledger.book.lock();
            if book.entries.remove(&self.entry.id).is_some() {
                let entry = &self.entry;
                let totals = book.totals.entry((entry.scheme, entry.direction)).or_default();
                totals.bytes_in += entry.bytes_in();
                totals.bytes_out += entry.bytes_out();
                book.beyond -= usize::from(self.beyond);
            }
            ledger.room.left(&self.entry);
            if let Some(group) = self.group
                && let Some(count) = book.accepted_from.get_mut(&group)
            {
                *count -= 1;
                if *count == 0 {
                    book.accepted_from.remove(&group);
                }
            }
        }
    }
}
