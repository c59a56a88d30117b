//! One connection under trace.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::filter::{Facts, Verdict};
use super::mask::mask;
use super::{MAX_MESSAGE, Shared, ends};
use crate::connection::ConnectionId;
use crate::event::Direction;
use crate::hep::{Chunk, Packet, PayloadType};

const EVENTS: u8 = 1;
const MESSAGES: u8 = 2;

/// Around the number of a connection, in what links a message with it.
const LINK_BEGIN: &str = r#"{"net":""#;
const LINK_END: &str = r#""}"#;

/// Whether a connection is traced, and why.
pub(super) struct State {
    id: ConnectionId,
    /// [`EVENTS`] and [`MESSAGES`], as all switches together say.
    traced: AtomicU8,
    known: Mutex<Known>,
    /// Chunk 0x65 of its messages, once there is one.
    link: OnceLock<Bytes>,
    shared: Weak<Shared>,
}

struct Known {
    facts: Facts,
    /// What the filter says, once it has decided.
    filtered: Option<bool>,
    /// It may say otherwise when it is known whose the connection is. No message is traced until then.
    awaits_user: bool,
    /// The connection's own switch.
    switch: Option<bool>,
}

impl State {
    pub(super) fn new(id: ConnectionId, facts: Facts, shared: Weak<Shared>) -> Self {
        let known = Mutex::new(Known { facts, filtered: None, awaits_user: false, switch: None });
        Self { id, traced: AtomicU8::new(0), known, link: OnceLock::new(), shared }
    }

    fn link(&self) -> &Bytes {
        self.link.get_or_init(|| format!("{LINK_BEGIN}{}{LINK_END}", self.id).into())
    }

    /// The connection's number, in decimal.
    fn number(&self) -> Bytes {
        let link = self.link();
        link.slice(LINK_BEGIN.len()..link.len() - LINK_END.len())
    }

    /// Adds what is known now and was not before.
    pub(super) fn learn(&self, facts: Facts) {
        let mut known = self.known.lock();
        let user = known.facts.user.take().or(facts.user);
        // The end of a connection may be told without what TLS was.
        let sni = match known.facts.sni.take() {
            Some(Some(name)) => Some(Some(name)),
            before => facts.sni.or(before),
        };
        let local = facts.local.or(known.facts.local);
        let listener = facts.listener.or_else(|| known.facts.listener.take());
        known.facts = Facts { user, sni, local, listener, ..facts };
    }

    /// Has the filter decide, once; `true`: it has. The `last` time it must.
    pub(super) fn decide(&self, shared: &Shared, last: bool) -> bool {
        let mut known = self.known.lock();
        if known.filtered.is_none() {
            let settings = shared.settings.load();
            let filter = &settings.filter;
            known.filtered = match filter.verdict(&known.facts) {
                Verdict::Trace => Some(true),
                Verdict::Skip => Some(false),
                Verdict::Undecided if last => {
                    known.awaits_user = known.facts.user.is_none();
                    Some(filter.last_verdict(&known.facts))
                }
                Verdict::Undecided => None,
            };
        } else {
            return true;
        }
        let decided = known.filtered.is_some();
        drop(known);
        self.refresh(shared);
        decided
    }

    /// Has the filter decide once more, if it has: it is another one now.
    pub(super) fn decide_again(&self, shared: &Shared) {
        let mut known = self.known.lock();
        if known.filtered.take().is_some() {
            known.awaits_user = false;
            drop(known);
            self.decide(shared, true);
        }
    }

    /// It is known whose the connection is, or that it is nobody's; that only if nobody has come before.
    fn used_by(&self, user: Option<&str>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut known = self.known.lock();
        if user.is_none() && known.facts.user.is_some() {
            return;
        }
        known.facts.user = Some(user.map(str::to_owned));
        known.filtered = Some(shared.settings.load().filter.last_verdict(&known.facts));
        known.awaits_user = false;
        drop(known);
        self.refresh(&shared);
    }

    /// The connection's own switch.
    pub(super) fn switched(&self) -> Option<bool> {
        self.known.lock().switch
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.id
    }

    pub(super) fn switch(&self, on: Option<bool>) {
        self.known.lock().switch = on;
    }

    /// Puts all switches together anew.
    pub(super) fn refresh(&self, shared: &Shared) {
        // Held to the end, or of two changes at once the earlier one might be written last.
        let known = self.known.lock();
        let switches = shared.switches.lock();
        let user = known.facts.user.as_ref().and_then(Option::as_ref);
        let user = user.and_then(|user| switches.users.get(user)).copied();
        let traced = match known.switch.or(user) {
            Some(true) => EVENTS | MESSAGES,
            Some(false) => 0,
            None if switches.all && known.filtered == Some(true) => {
                let protocol = known.facts.protocol.and_then(|protocol| switches.protocols.get(&protocol));
                let what = protocol.copied().unwrap_or_default();
                let messages = what.messages && !known.awaits_user;
                (if what.events { EVENTS } else { 0 }) | (if messages { MESSAGES } else { 0 })
            }
            None => 0,
        };
        self.traced.store(traced, Ordering::Relaxed);
    }

    pub(super) fn events(&self) -> bool {
        self.traced.load(Ordering::Relaxed) & EVENTS != 0
    }

    fn messages(&self) -> bool {
        self.traced.load(Ordering::Relaxed) & MESSAGES != 0
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.forget(self.id);
        }
    }
}

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentBy {
    /// It came.
    Peer,
    /// It left.
    Us,
}

/// A message that went over a connection.
#[derive(Debug, Clone, Copy)]
pub enum Message<'a> {
    /// One of MSRP: a request, or a chunk of one, or a response.
    Msrp {
        /// What belongs together: the session. Empty for what belongs to none: the connection's number stands for it
        /// then, as in events.
        session: &'a str,
        /// The head as it went over the wire, from the start line to the CRLF of the last field.
        head: &'a [u8],
        /// The body, or its beginning, of which the settings allow so much. What there is of it follows the head
        /// after an empty line.
        body: &'a [u8],
    },
    /// One of SIP.
    Sip {
        /// Its Call-ID. Empty, if it has none, as above.
        call_id: &'a str,
        /// All of it, in pieces.
        message: &'a [Bytes],
    },
}

/// What a connection's messages are given to. Cheap to clone; once the tracer is gone it traces nothing.
#[derive(Clone)]
pub struct ConnectionTrace {
    state: Arc<State>,
}

impl ConnectionTrace {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state }
    }

    /// Whether messages are traced: one load of an atomic.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.state.messages()
    }

    /// How much of a body is traced: [`TraceSettings::msrp_body`](super::TraceSettings::msrp_body).
    #[must_use]
    pub fn msrp_body(&self) -> usize {
        self.state.shared.upgrade().map_or(0, |shared| shared.settings.load().msrp_body)
    }

    /// Whoever uses the connection has authenticated: the rules and switches for users apply from now on. Of several
    /// users, those of the last one.
    pub fn authenticated(&self, user: &str) {
        self.state.used_by(Some(user));
    }

    /// The connection is in use, and nobody has authenticated: no rule for a user matches, until somebody does.
    pub fn anonymous(&self) {
        self.state.used_by(None);
    }

    /// Traces a message, if messages are traced; it is only made then.
    pub fn message<'a>(&self, by: SentBy, time: SystemTime, message: impl FnOnce() -> Message<'a>) {
        if self.is_on() {
            self.send(by, time, message());
        }
    }

    #[cold]
    fn send(&self, by: SentBy, time: SystemTime, message: Message<'_>) {
        let Some(shared) = self.state.shared.upgrade() else { return };
        let (remote, local) = {
            let known = self.state.known.lock();
            (known.facts.remote, known.facts.local)
        };
        // As if the sender of the message had opened the connection.
        let direction = match by {
            SentBy::Peer => Direction::Inbound,
            SentBy::Us => Direction::Outbound,
        };
        let (source, destination) = ends(direction, remote, local);
        // Made anew for each group of destinations: mostly there is one, and what is not cloned is not counted.
        let settings = shared.settings.load();
        shared.sender.load().send_with(|_| {
            let (kind, correlation, payload) = match message {
                Message::Msrp { session, head, body } => {
                    let body = body.get(..settings.msrp_body).unwrap_or(body);
                    let between: &[u8] = if body.is_empty() { b"" } else { b"\r\n" };
                    (settings.msrp_payload_type, session, joined([head, between, body]))
                }
                Message::Sip { call_id, message } => {
                    (PayloadType::SIP, call_id, joined(message.iter().map(|part| &part[..])))
                }
            };
            let mut packet = Packet::new(source, destination, time, kind, payload);
            packet.correlation_id = Some(match correlation {
                "" => self.state.number(),
                correlation => Bytes::copy_from_slice(correlation.as_bytes()),
            });
            packet.others = vec![Chunk { vendor: 0, kind: Chunk::LINKS, value: self.state.link().clone() }];
            packet
        });
    }
}

impl fmt::Debug for ConnectionTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTrace").field("id", &self.state.id).field("is_on", &self.is_on()).finish()
    }
}

/// Copied, as the packet outlives the buffers of the traffic; cut at [`MAX_MESSAGE`], and without credentials.
fn joined<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut payload = BytesMut::new();
    for part in parts {
        let room = MAX_MESSAGE - payload.len();
        payload.extend_from_slice(part.get(..room).unwrap_or(part));
    }
    mask(&mut payload);
    payload.freeze()
}
