//! One connection, as the core sees it.
//!
//! A [`Link`] exists from the moment a connection was accepted or began to be opened, so requests can
//! wait for one that is not up yet. Its outbound queue, transactions and timers are behind one mutex
//! of its own. **No code holds the locks of two links**: whatever concerns a second one is collected
//! and done after the first lock is released.
//!
//! # States
//!
//! *connecting* (dialled, no wire yet: things queue up) → *open* ([`Link::attach`]) → *closed*
//! ([`Link::close`], for good: everything queued and every transaction ends there, each with the
//! answer or REPORT it is owed). A dialled link that never comes up goes from connecting to closed.
//!
//! # Writing
//!
//! Whoever put something in calls [`Link::flush`], which writes until nothing is left or the socket
//! takes no more. In the second case the link is *blocked*: only its own task writes then, when the
//! socket is writable again ([`Link::transmit`]); others just add to the queue.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use msrp_proto::head::Method;
use msrp_proto::ident::TransactionId;
use msrp_proto::status::StatusCode;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tcp_transport::connection::CloseReason;
use tcp_transport::tls::PeerCertificate;
use tracing::debug;

use super::counters::{Count, Counters};
use super::failures::tell_lost;
use super::kin::Standing;
#[cfg(test)]
use super::outbound::Backlog;
use super::outbound::{Outbound, Pushed, Queue, QueueSettings};
use super::peer::{LinkKind, Peer, Target};
use super::session_uses::SessionUses;
use super::tap::Tap;
use super::wire::{Random, Wire};
use crate::credentials::Lookup;

/// The settings a link needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkSettings {
    pub(crate) queue: QueueSettings,
    pub(crate) send_timeout: Duration,
}

/// The link is closed: nothing can be put in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits.
    Idle,
    /// The socket takes no more.
    Blocked,
}

/// By the relay's URI.
type FailedElsewhere = HashMap<Box<str>, u32>;

/// One connection; see the module for its states, and for who writes.
pub struct Link {
    id: u64,
    kind: LinkKind,
    send_timeout: Duration,
    random: Arc<dyn Random>,
    counters: Arc<Counters>,
    peer: OnceLock<Peer>,
    /// A relay's, for which it stands at another process.
    stands_for: OnceLock<Weak<Link>>,
    /// Those that stand for it at other processes.
    standing: Standing,
    state: Mutex<State>,
    /// The sessions that use the link (its client's own, its peer's, those of the relay it leads to),
    /// and how often each does.
    sessions: Mutex<SessionUses>,
    /// The sessions its client has obtained.
    owned: Mutex<SmallVec<[u128; 1]>>,
    failed_auths: AtomicU32,
    /// What sources of credentials have said, for its own task to find.
    resolved: Mutex<Vec<(u64, Lookup)>>,
    /// How often AUTH failed at which other relay.
    failed_elsewhere: Mutex<Option<Box<FailedElsewhere>>>,
}

struct State {
    /// The writing side while the link is open. It goes with the closing, since sessions and
    /// transactions may remember the link for long, and a wire keeps a descriptor.
    wire: Option<Arc<dyn Wire>>,
    queue: Queue,
    open: bool,
    /// A write was refused; the link's own task waits for the socket.
    blocked: bool,
    /// Since when the socket has taken nothing although something waits.
    stuck_since: Option<Instant>,
    /// Why writing failed, for the link's own task to find.
    broken: Option<io::Error>,
    /// The earliest deadline that the link's own task knows of.
    announced: Option<Instant>,
    /// Keeps the listener known that it came in by, while it is open.
    used: Option<Arc<()>>,
}

/// What [`Link::write`] came to.
struct Written {
    flushed: Flushed,
    /// A deadline came up that the link's own task does not know of, or memory that it has to give back.
    unannounced: bool,
}

impl Link {
    pub(crate) fn new(
        id: u64,
        kind: LinkKind,
        settings: LinkSettings,
        used: Option<Arc<()>>,
        random: Arc<dyn Random>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            kind,
            send_timeout: settings.send_timeout,
            random,
            counters,
            peer: OnceLock::new(),
            stands_for: OnceLock::new(),
            standing: Standing::default(),
            state: Mutex::new(State {
                wire: None,
                queue: Queue::new(settings.queue),
                open: true,
                blocked: false,
                stuck_since: None,
                broken: None,
                announced: None,
                used,
            }),
            sessions: Mutex::default(),
            owned: Mutex::default(),
            failed_auths: AtomicU32::new(0),
            resolved: Mutex::default(),
            failed_elsewhere: Mutex::default(),
        })
    }

    /// The link's number, never reused within a process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How it came to be.
    pub fn kind(&self) -> &LinkKind {
        &self.kind
    }

    /// The relay's link for which it stands at another process, if it does that.
    pub fn stands_for(&self) -> Option<&Weak<Self>> {
        self.stands_for.get()
    }

    /// See [`stands_for`](Self::stands_for). To be said once, before it is used.
    pub(crate) fn set_stands_for(&self, link: &Arc<Self>) {
        let _ = self.stands_for.set(Arc::downgrade(link));
    }

    /// Those that stand for it at other processes.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Where it leads, if we opened it.
    pub fn target(&self) -> Option<&Target> {
        match &self.kind {
            LinkKind::Dialled { target, .. } => Some(target),
            LinkKind::Accepted { .. } => None,
        }
    }

    /// The listener it belongs to: that accepted it, or whose message it was opened for.
    pub fn listener(&self) -> Option<usize> {
        match self.kind {
            LinkKind::Accepted { listener } => Some(listener),
            LinkKind::Dialled { listener, .. } => listener,
        }
    }

    /// Who is at the other end; `None` while it is being connected.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.get()
    }

    /// The other end's address, for logs.
    pub(crate) fn address(&self) -> Option<&str> {
        self.peer().map(|peer| &*peer.address)
    }

    /// Whether the other end has proved to be the relay of this name (RFC 4976 §6.3).
    pub fn is_relay(&self, host: &str) -> bool {
        self.peer().is_some_and(|peer| peer.certificate.matches_host(host))
    }

    /// Whether the other end has proved to be some relay.
    pub fn is_verified(&self) -> bool {
        self.peer().is_some_and(|peer| peer.certificate.is_verified())
    }

    /// Whether both links lead to holders of a certificate for the same name.
    pub fn is_same_relay(&self, other: &Self) -> bool {
        match other.peer().map(|peer| &peer.certificate) {
            Some(PeerCertificate::Verified { dns_names, ip_addresses }) => {
                dns_names.iter().any(|name| self.is_relay(name))
                    || ip_addresses.iter().any(|address| self.is_relay(&address.to_string()))
            }
            _ => false,
        }
    }

    /// The connection is up: gives it to the link, and writes what has been waiting.
    pub fn attach(&self, peer: Peer, wire: Box<dyn Wire>, now: Instant) {
        let _ = self.peer.set(peer);
        {
            let mut state = self.state.lock();
            if !state.open {
                drop(state);
                return wire.close(CloseReason::Local("not needed any more".into()));
            }
            state.queue.watch(wire.tap());
            state.wire = Some(Arc::from(wire));
        }
        self.flush(now);
    }

    /// Whether the link is not closed.
    pub fn is_open(&self) -> bool {
        self.state.lock().open
    }

    /// Counts something this link has to do with.
    pub(crate) fn count(&self, count: Count, n: u64) {
        self.counters.add(self.id, count, n);
    }

    /// Counts a request that it has brought.
    pub(crate) fn count_received(&self, method: Method<'_>) {
        self.counters.received(self.id, method);
    }

    /// Counts a response of our own that it was given.
    pub(crate) fn count_response(&self, status: StatusCode) {
        self.counters.responded(self.id, status);
    }

    /// Makes the task that drives the connection look again.
    pub fn wake(&self) {
        if let Some(wire) = self.wire() {
            wire.wake();
        }
    }

    /// Who sees its messages, while it is open.
    pub(crate) fn tap(&self) -> Option<Arc<dyn Tap>> {
        self.wire()?.tap()
    }

    fn wire(&self) -> Option<Arc<dyn Wire>> {
        self.state.lock().wire.clone()
    }

    /// A transaction id of our own (RFC 4975 §7.1).
    pub(crate) fn new_transaction(&self) -> TransactionId {
        let mut bits = [0; 10];
        self.random.fill(&mut bits);
        TransactionId::from_random(bits)
    }

    /// Does something with the queue. The caller flushes afterwards.
    pub(crate) fn with_queue<T>(&self, action: impl FnOnce(&mut Outbound) -> T) -> Result<T, Closed> {
        let mut state = self.state.lock();
        if state.open { Ok(action(state.queue.get())) } else { Err(Closed) }
    }

    /// Asks the queue something, or changes what is in it; `None` if there is nothing in it. Unlike
    /// [`with_queue`](Self::with_queue) it takes no memory.
    pub(crate) fn with_used_queue<T>(&self, action: impl FnOnce(&mut Outbound) -> T) -> Option<T> {
        self.state.lock().queue.used_mut().map(action)
    }

    /// What waits.
    #[cfg(test)]
    pub(crate) fn backlog(&self) -> Backlog {
        self.with_used_queue(|queue| queue.backlog()).unwrap_or_default()
    }

    /// Whether it holds a queue, be it an empty one.
    #[cfg(test)]
    pub(crate) fn has_queue(&self) -> bool {
        self.with_used_queue(|_| ()).is_some()
    }

    /// Puts in a whole control message of no session. The caller flushes afterwards.
    pub(crate) fn send_control(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<Pushed, Closed> {
        self.send_control_of(None, write)
    }

    /// Puts in a whole control message of this session. The caller flushes afterwards.
    pub(crate) fn send_control_of(
        &self,
        session: Option<u128>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Pushed, Closed> {
        self.with_queue(|queue| queue.control(session, write))
    }

    /// Adds a WebSocket ping or pong, ready to be written, which goes out before any message that is not on the
    /// wire yet; [`transmit`](Self::transmit) afterwards. The caller sees to it that at most a few wait. Ignored on
    /// a link that is no WebSocket, or is closed.
    pub fn websocket_control(&self, frame: &[u8]) {
        let _ = self.with_queue(|queue| queue.frame(frame, false));
    }

    /// Whether a frame added by [`websocket_control`](Self::websocket_control) still waits for its place.
    pub fn websocket_control_waits(&self) -> bool {
        self.with_used_queue(|queue| queue.frame_waits()).unwrap_or(false)
    }

    /// Adds a WebSocket close in the same way: nothing follows it (RFC 6455 §5.5.1).
    pub fn websocket_close(&self, frame: &[u8]) {
        let _ = self.with_queue(|queue| queue.frame(frame, true));
    }

    /// Writes what waits, unless the socket is known to take nothing.
    pub(crate) fn flush(&self, now: Instant) {
        if self.state.lock().blocked {
            return;
        }
        match self.write(now) {
            Ok(Written { flushed: Flushed::Idle, unannounced: false }) => {}
            // Its own task waits for the socket and sets its timer, or finds the error.
            Ok(_) => self.wake(),
            Err(error) => {
                self.state.lock().broken = Some(error);
                self.wake();
            }
        }
    }

    /// The link's own task: the socket may take more now, or somebody woke it.
    ///
    /// # Errors
    /// What the socket says: the connection is to be closed.
    pub fn transmit(&self, now: Instant) -> io::Result<Flushed> {
        if let Some(error) = self.state.lock().broken.take() {
            return Err(error);
        }
        self.write(now).map(|written| written.flushed)
    }

    fn write(&self, now: Instant) -> io::Result<Written> {
        const NOTHING: Written = Written { flushed: Flushed::Idle, unannounced: false };
        let mut state = self.state.lock();
        // Not open yet, or not any more.
        let Some(wire) = state.wire.clone() else { return Ok(NOTHING) };
        let result = state.write_to(&*wire, &*self.random, now);
        let unannounced = state
            .queue
            .used()
            .and_then(Outbound::deadline)
            .is_some_and(|deadline| state.announced.is_none_or(|announced| deadline < announced));
        let unannounced = state.queue.take_roused() || unannounced;
        let wakes = state.queue.used_mut().map(Outbound::take_wakes).unwrap_or_default();
        drop(state);
        for link in wakes {
            link.wake();
        }
        result.map(|flushed| Written { flushed, unannounced })
    }

    /// Nothing has gone over it for a while. Of what is written after that its own task hears once.
    pub(crate) fn quiet(&self) {
        self.state.lock().queue.quiet();
    }

    /// When [`expire`](Self::expire) wants to be called: the earliest of what this link waits for, a
    /// response or the socket. Never later than said before while that has not passed, so that those
    /// who write here need not wake the link's own task for each message to set its timer again.
    pub fn deadline(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let stuck = state.stuck_since.map(|since| since + self.send_timeout);
        let deadline = state.queue.used().and_then(Outbound::deadline);
        state.announced = [state.announced, deadline, stuck].into_iter().flatten().min();
        state.announced
    }

    /// Ends the transactions whose time is over: REPORT 408 to the sender (RFC 4976 §6.4.1). Says
    /// whether the link must be closed because the socket has taken nothing for `send_timeout`.
    pub fn expire(&self, now: Instant) -> bool {
        let (expired, stuck) = {
            let mut state = self.state.lock();
            state.announced = state.announced.filter(|&announced| announced > now);
            let stuck = state.stuck_since.is_some_and(|since| now >= since + self.send_timeout);
            (state.queue.used_mut().map(|queue| queue.expired(now)).unwrap_or_default(), stuck)
        };
        self.count(Count::TransactionsTimedOut, expired.len() as u64);
        for transaction in expired {
            tell_lost(transaction, StatusCode::REQUEST_TIMEOUT, now);
        }
        stuck
    }

    /// Closes the link for good. Every chunk that waits and every transaction ends with `status`
    /// towards its sender: an error response while the chunk is unanswered, a REPORT afterwards.
    pub fn close(&self, status: StatusCode, now: Instant) {
        let (lost, wakes) = {
            let mut state = self.state.lock();
            if !state.open {
                return;
            }
            state.open = false;
            state.wire = None;
            state.stuck_since = None;
            state.announced = None;
            state.used = None;
            state.queue.close()
        };
        if !lost.is_empty() {
            debug!(link = self.id, lost = lost.len(), %status, "transactions end with the connection");
        }
        for transaction in lost {
            tell_lost(transaction, status, now);
        }
        for link in wakes {
            link.wake();
        }
    }

    /// For an orderly stop: ends what is open on the wire with `#` and begins nothing new.
    pub fn wind_up(&self, now: Instant) {
        let _ = self.with_queue(Outbound::wind_up);
        self.flush(now);
    }

    /// Whether nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        !state.open || state.queue.used().is_none_or(Outbound::is_idle)
    }

    /// Whether nothing waits to be written, nor for a response.
    pub fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        let quiet = |queue: &Outbound| queue.is_idle() && queue.deadline().is_none();
        !state.open || state.queue.used().is_none_or(quiet)
    }

    /// How many bytes wait here, on the wire and before it.
    pub fn queued_bytes(&self) -> usize {
        self.state.lock().queue.used().map_or(0, Outbound::queued_bytes)
    }

    /// The session uses the link, in one way more.
    pub(crate) fn add_session(&self, session: u128) {
        self.sessions.lock().add(session);
    }

    /// The session uses it in one way less.
    pub(crate) fn remove_session(&self, session: u128) {
        self.sessions.lock().remove(session);
    }

    /// How many sessions use the link.
    pub fn sessions(&self) -> usize {
        self.sessions.lock().len()
    }

    /// The client has obtained a session.
    pub(crate) fn own(&self, session: u128) {
        self.owned.lock().push(session);
        self.add_session(session);
    }

    /// One of its sessions has ended.
    pub(crate) fn disown(&self, session: u128) {
        self.owned.lock().retain(|owned| *owned != session);
        self.remove_session(session);
    }

    /// The sessions its client has obtained.
    pub(crate) fn owned(&self) -> Vec<u128> {
        self.owned.lock().to_vec()
    }

    /// How many sessions its client has obtained.
    pub(crate) fn owned_count(&self) -> usize {
        self.owned.lock().len()
    }

    /// A source of credentials has answered what was asked with this ticket.
    pub fn resolved(&self, ticket: u64, found: Lookup) {
        // A link that is closed has nobody who takes it.
        if self.is_open() {
            self.resolved.lock().push((ticket, found));
            self.wake();
        }
    }

    /// What sources of credentials have said meanwhile.
    pub(crate) fn take_resolved(&self) -> Vec<(u64, Lookup)> {
        std::mem::take(&mut self.resolved.lock())
    }

    /// Asks the task that drives the connection to close it.
    pub(crate) fn request_close(&self, reason: CloseReason) {
        if let Some(wire) = self.wire() {
            wire.close(reason);
        }
    }

    /// One more AUTH at this relay has failed; gives how many have on this connection. Success does not
    /// wipe them out: who has a password may try others'.
    pub(crate) fn auth_failed(&self) -> u32 {
        self.failed_auths.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many AUTHs at this relay have failed on this connection.
    pub(crate) fn failed_auths(&self) -> u32 {
        self.failed_auths.load(Ordering::Relaxed)
    }

    /// One more AUTH at another relay has failed; gives how many have there since one succeeded, or
    /// at how many relays some have, whichever is more.
    pub(crate) fn auth_failed_at(&self, relay: &str) -> u32 {
        let mut failed = self.failed_elsewhere.lock();
        let failed = failed.get_or_insert_default();
        let count = failed.entry(relay.into()).or_default();
        *count += 1;
        let count = *count;
        count.max(u32::try_from(failed.len()).unwrap_or(u32::MAX))
    }

    /// An AUTH at another relay has succeeded.
    pub(crate) fn auth_succeeded_at(&self, relay: &str) {
        if let Some(failed) = &mut *self.failed_elsewhere.lock() {
            failed.remove(relay);
        }
    }
}

impl State {
    fn write_to(&mut self, wire: &dyn Wire, random: &dyn Random, now: Instant) -> io::Result<Flushed> {
        let unit = wire.write_unit();
        let mut refused = false;
        while let Some(queue) = self.queue.used_mut() {
            queue.fill(random);
            if !queue.has_wire() {
                break;
            }
            let taken = {
                let mut slices = SmallVec::new();
                queue.slices(unit, &mut slices);
                wire.try_write(&slices)
            };
            match taken {
                Ok(len) => {
                    queue.written(len, now);
                    self.stuck_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    refused = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match wire.flush() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => refused = true,
            Err(error) => return Err(error),
        }
        self.blocked = refused;
        if refused {
            self.stuck_since.get_or_insert(now);
            Ok(Flushed::Blocked)
        } else {
            self.stuck_since = None;
            Ok(Flushed::Idle)
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}
