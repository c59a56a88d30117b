//! Tracing: connection events and messages of this process, as HEP.
//!
//! A [`Tracer`] reads the [events](crate::event) of a [`Ledger`] and makes packets of them; whoever carries
//! messages asks it for a [`ConnectionTrace`] and gives it the messages. Traffic waits for neither: events come
//! over their own bounded queue, whose losses are [counted](Tracer::lost_events), packets go into
//! the [`Sender`]'s, and where nothing is traced a message costs one load of an atomic.
//!
//! # What goes out
//! *Connection events*: payload type 89, the connection's number as correlation id, the time of the event, and as
//! source whoever opened the connection, the peer of one we accepted, or we. Both addresses stay true to the end.
//! (Of one that we open ours is not known before it is up, and 0 until then.) The payload is
//! a JSON object, or its values with a delimiter ([`EventFormat`](super::EventFormat)):
//!
//! ```json
//! {"Protocol":"MSRPS","Event":"CLOSED","Status":"SUCCESS","Message":"closed by the peer",
//!  "Kind":"tcp:closed","Direction":"inbound","BytesIn":1200,"BytesOut":800,"MessagesIn":6,
//!  "MessagesOut":6,"Duration":12.5,
//!  "TlsVersion":"TLSv1.3","TlsCipher":"TLS13_AES_256_GCM_SHA384","TlsDomain":"relay","Sni":"relay.test"}
//! ```
//!
//! `Event` is one of OpenSIPS' words, `ACCEPTED`, `CONNECT_START`, `CONNECTED`, `CLOSED`: a connection that did not
//! come up is `ACCEPTED` or `CONNECTED` with `FAILURE`, one that broke, was reset or ran into a time limit `CLOSED`
//! with `FAILURE`. `Kind` tells them apart ([`EventKind::name`](crate::EventKind::name)). No key of TLS is ever in it.
//!
//! *MSRP messages*: the head as it went over the wire, and of the body no more than
//! [`TraceSettings::msrp_body`]; correlation id is the session, or the connection's number for what belongs to none.
//! *SIP messages*: type 1 as they are; correlation id is the Call-ID. Both carry chunk 0x65,
//! `{"net":"<number of the connection>"}`. Either is cut at [`MAX_MESSAGE`].
//!
//! *Credentials* are masked in both, by as many `x`: the `response` and `rspauth` of Digest, by which passwords can be
//! guessed, and all that follows any other scheme in Authorization and Proxy-Authorization. Nothing switches that off.
//!
//! # What is traced
//! The switches, the nearest one first: of the [connection](Tracer::switch_connection), of the
//! [user](Tracer::switch_user), of [all](Tracer::switch_all) together with the [`Filter`]. Switching all forgets
//! the nearer ones. Below that each [protocol](Tracer::switch_protocol) says whether its events and its messages are
//! wanted; who names a single connection or user wants both. Destinations are
//! [switched](super::Sender::set_enabled) by themselves. [`Tracer::state`] reads it all.
//!
//! # Users
//! Whose a connection is shows only when somebody [authenticates](ConnectionTrace::authenticated) on it. Until then
//! the rules for users match nothing, as far as *events* go: those are told as the other rules say. *Messages* are
//! not traced while a rule for a user may still decide. With the authentication the filter decides anew, and
//! for whoever calls it before handing over the message that authenticated, that message is the first one traced. A
//! connection that is [used without](ConnectionTrace::anonymous), or that we opened, or that carries SIP or HEP, is
//! nobody's: rules for users do not match it.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::packet::{Packet, PayloadType};
use super::sender::Sender;
use crate::connection::ConnectionId;
use crate::event::{ConnectionEvent, Direction, EventKind, Subscription};
use crate::ledger::{Entry, Ledger};
use crate::scheme::Scheme;
use crate::tls::TlsInfo;

mod connection;
mod filter;
mod mask;
mod payload;

pub use connection::{ConnectionTrace, Message, SentBy};
pub use filter::{Facts, Filter, Rule, Verdict};

use connection::State;

/// The payload type of MSRP messages: 100. Nobody has assigned one to MSRP. SIP's (1) would have them thrown away by
/// heplify-server and kill sipcapture's parser; 100, the type of logs, is stored and shown by Homer, found there
/// by its correlation id, and passed over by SIP tools.
pub const DEFAULT_MSRP_PAYLOAD_TYPE: PayloadType = PayloadType::LOG;

/// Octets of one message that are sent at most, whatever the settings say: what UDP takes, and some for the rest
/// of the packet.
pub const MAX_MESSAGE: usize = 64_000;

/// What of one protocol is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct What {
    /// Connection events.
    pub events: bool,
    /// Messages.
    pub messages: bool,
}

impl Default for What {
    /// Events: they are few, and nobody's secret.
    fn default() -> Self {
        Self { events: true, messages: false }
    }
}

/// What is traced, as the configuration says it.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// `trace_on`: the switch of all at start.
    pub trace_on: bool,
    /// For protocols whose default is not wanted.
    pub protocols: HashMap<Scheme, What>,
    /// `trace_filter`.
    pub filter: Filter,
    /// Listeners by the address they are bound to, for the filter.
    pub listeners: HashMap<SocketAddr, String>,
    /// Octets of a body that are sent with its head: 0, as content is private.
    pub msrp_body: usize,
    /// See [`DEFAULT_MSRP_PAYLOAD_TYPE`].
    pub msrp_payload_type: PayloadType,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            trace_on: true,
            protocols: HashMap::new(),
            filter: Filter::default(),
            listeners: HashMap::new(),
            msrp_body: 0,
            msrp_payload_type: DEFAULT_MSRP_PAYLOAD_TYPE,
        }
    }
}

/// How a [`Tracer`] is switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceState {
    /// Everything.
    pub on: bool,
    /// What is traced of each protocol, of all of them.
    pub protocols: Vec<(Scheme, What)>,
    /// The users who are switched by themselves, by name.
    pub users: Vec<(String, bool)>,
    /// The connections that are, by number.
    pub connections: Vec<(ConnectionId, bool)>,
}

/// Traces the connections of one ledger. See the [module documentation](self).
#[derive(Debug)]
pub struct Tracer {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<Notify>,
}

struct Shared {
    settings: ArcSwap<TraceSettings>,
    sender: ArcSwap<Sender>,
    switches: Mutex<Switches>,
    /// Of those somebody still wants something of; each leaves with its last user.
    connections: Mutex<HashMap<ConnectionId, Weak<State>>>,
    lost: AtomicU64,
}

/// The switches of this moment; those of single connections are with them.
#[derive(Debug, Clone)]
struct Switches {
    all: bool,
    protocols: HashMap<Scheme, What>,
    users: HashMap<String, bool>,
}

impl Tracer {
    /// Traces what happens from now on. Needs a tokio runtime; ends when it is dropped.
    #[must_use]
    pub fn start(settings: TraceSettings, sender: Arc<Sender>, ledger: &Arc<Ledger>) -> Self {
        let switches =
            Switches { all: settings.trace_on, protocols: settings.protocols.clone(), users: HashMap::new() };
        let shared = Arc::new(Shared {
            settings: ArcSwap::from_pointee(settings),
            sender: ArcSwap::new(sender),
            switches: Mutex::new(switches),
            connections: Mutex::default(),
            lost: AtomicU64::new(0),
        });
        // Subscribed here and not in the task: what happens until that runs is traced too.
        let subscription = ledger.events().subscribe();
        let stop = Arc::new(Notify::new());
        let task =
            tokio::spawn(trace_events(shared.clone(), subscription, Arc::downgrade(ledger), stop.clone()));
        Self { shared, task: Mutex::new(Some(task)), stop }
    }

    /// Traces what has happened until now, and nothing after that.
    pub async fn stop(&self) {
        self.stop.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // It ends by a panic at worst, which is logged.
            let _ = task.await;
        }
    }

    /// What sends what it traces.
    #[must_use]
    pub fn sender(&self) -> Arc<Sender> {
        self.shared.sender.load_full()
    }

    /// Traces by these settings from now on, on the connections that are there too, and with another `sender` if there
    /// is one. What was switched of everything and of protocols since the start is forgotten; what was of users and
    /// connections is not. The sender before is given back, for its end.
    pub fn reconfigure(&self, settings: TraceSettings, sender: Option<Arc<Sender>>) -> Option<Arc<Sender>> {
        {
            let mut switches = self.shared.switches.lock();
            switches.all = settings.trace_on;
            switches.protocols.clone_from(&settings.protocols);
        }
        self.shared.settings.store(Arc::new(settings));
        let before = sender.map(|sender| self.shared.sender.swap(sender));
        for state in self.shared.states() {
            state.decide_again(&self.shared);
        }
        before
    }

    /// What a connection's messages are given to. To be asked for once, when it is up, and kept with it.
    #[must_use]
    pub fn connection(&self, entry: &Entry, tls: Option<&TlsInfo>) -> ConnectionTrace {
        let facts = self.shared.facts(
            entry.scheme(),
            entry.direction(),
            entry.remote(),
            entry.local(),
            Some(tls.and_then(TlsInfo::sni)),
        );
        let state = self.shared.state(entry.id(), facts);
        state.decide(&self.shared, true);
        ConnectionTrace::new(state)
    }

    /// Switches everything: `trace_on`, MI `msrp_trace`. Switches of single users and connections are forgotten.
    pub fn switch_all(&self, on: bool) {
        let mut switches = self.shared.switches.lock();
        switches.all = on;
        switches.users.clear();
        drop(switches);
        for state in self.shared.states() {
            state.switch(None);
            state.refresh(&self.shared);
        }
    }

    /// Whether everything is switched on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.shared.switches.lock().all
    }

    /// Says what is traced of a protocol.
    pub fn switch_protocol(&self, protocol: Scheme, what: What) {
        self.shared.switches.lock().protocols.insert(protocol, what);
        self.refresh();
    }

    /// Switches one user, on all connections there are and will be; `None`: nothing is said about it any more.
    pub fn switch_user(&self, user: &str, on: Option<bool>) {
        let mut switches = self.shared.switches.lock();
        match on {
            Some(on) => switches.users.insert(user.to_owned(), on),
            None => switches.users.remove(user),
        };
        drop(switches);
        self.refresh();
    }

    /// Switches one connection; `None`: nothing is said about it any more. `false`: there is none of that number.
    pub fn switch_connection(&self, id: ConnectionId, on: Option<bool>) -> bool {
        let state = self.shared.connections.lock().get(&id).and_then(Weak::upgrade);
        state.inspect(|state| state.switch(on)).map(|state| state.refresh(&self.shared)).is_some()
    }

    /// How everything is switched.
    #[must_use]
    pub fn state(&self) -> TraceState {
        let connections = self.shared.states();
        let mut connections: Vec<_> =
            connections.iter().filter_map(|state| Some((state.id(), state.switched()?))).collect();
        connections.sort_unstable_by_key(|(id, _)| id.as_u64());
        let switches = self.shared.switches.lock();
        let mut users: Vec<_> = switches.users.iter().map(|(user, on)| (user.clone(), *on)).collect();
        users.sort_unstable();
        let what = |scheme: Scheme| switches.protocols.get(&scheme).copied().unwrap_or_default();
        let protocols = Scheme::ALL.into_iter().map(|scheme| (scheme, what(scheme))).collect();
        TraceState { on: switches.all, protocols, users, connections }
    }

    /// Events that were lost before they could be traced, because too many came at once. Packets that the queues of
    /// the destinations did not take are counted [there](super::Counters).
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn refresh(&self) {
        for state in self.shared.states() {
            state.refresh(&self.shared);
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut() {
            task.abort();
        }
    }
}

impl Shared {
    /// All states of this moment. They are let go of outside of the lock, which their end takes.
    fn states(&self) -> Vec<Arc<State>> {
        self.connections.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// The state of a connection, made if there is none, with what is known of it now.
    fn state(self: &Arc<Self>, id: ConnectionId, facts: Facts) -> Arc<State> {
        let mut connections = self.connections.lock();
        let found = connections.get(&id).and_then(Weak::upgrade);
        let state = found.unwrap_or_else(|| {
            let state = Arc::new(State::new(id, facts.clone(), Arc::downgrade(self)));
            connections.insert(id, Arc::downgrade(&state));
            state
        });
        drop(connections);
        state.learn(facts);
        state
    }

    fn forget(&self, id: ConnectionId) {
        let mut connections = self.connections.lock();
        // Another state of the same number may have been made meanwhile.
        if connections.get(&id).is_some_and(|state| state.strong_count() == 0) {
            connections.remove(&id);
        }
    }

    /// `sni`: `None` while it is not known whether there is one.
    fn facts(
        &self,
        protocol: Option<Scheme>,
        direction: Direction,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        sni: Option<Option<&str>>,
    ) -> Facts {
        let listener = local.filter(|_| direction == Direction::Inbound).and_then(|local| {
            let settings = self.settings.load();
            let listeners = &settings.listeners;
            // One on a wildcard address: of this family, or one that takes both.
            let any = |of_family: bool| {
                let mut all = listeners.iter();
                let found = all.find(|(at, _)| {
                    let takes = at.ip().is_unspecified() && at.port() == local.port();
                    takes && (at.is_ipv4() == local.is_ipv4()) == of_family
                });
                found.map(|(_, name)| name)
            };
            listeners.get(&local).or_else(|| any(true)).or_else(|| any(false)).cloned()
        });
        let sni = sni.map(|sni| sni.map(str::to_owned));
        // Nobody authenticates to us where we are the client, or where we do not ask.
        let asks = matches!(protocol, None | Some(Scheme::Msrp | Scheme::Msrps | Scheme::Ws | Scheme::Wss));
        let user = (direction == Direction::Outbound || !asks).then_some(None);
        Facts { protocol, direction, remote, local, listener, sni, user }
    }

    fn send_event(&self, event: &ConnectionEvent, up: bool) {
        self.sender.load().send_with(|format| event_packet(event, payload::render(event, up, format)));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("switches", &*self.switches.lock())
            .field("connections", &self.connections.lock().len())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// What the task knows of a connection that is there.
struct Known {
    state: Arc<State>,
    /// It has come up.
    up: bool,
    /// The beginning of a connect, until it is known whether it is traced.
    held: Option<Arc<ConnectionEvent>>,
}

async fn trace_events(
    shared: Arc<Shared>,
    mut subscription: Subscription,
    ledger: Weak<Ledger>,
    stop: Arc<Notify>,
) {
    let mut known: HashMap<ConnectionId, Known> = HashMap::new();
    loop {
        let event = tokio::select! {
            // What has happened comes before the end.
            biased;
            event = subscription.next() => event,
            () = stop.notified() => None,
        };
        let Some(event) = event else { return };
        if subscription.lost() != shared.lost.swap(subscription.lost(), Ordering::Relaxed) {
            // Ends may be among what was lost: those connections are over, and would be known for ever.
            let Some(ledger) = ledger.upgrade() else { return };
            known.retain(|id, _| *id == event.id || ledger.entry(*id).is_some());
        }
        let ends = event.kind.ending().is_some();
        trace_event(&shared, &mut known, &event);
        if ends {
            known.remove(&event.id);
        }
    }
}

fn trace_event(shared: &Arc<Shared>, known: &mut HashMap<ConnectionId, Known>, event: &Arc<ConnectionEvent>) {
    let started = matches!(event.kind, EventKind::ConnectStarted);
    let sni = (!started).then(|| event.tls.as_ref().and_then(TlsInfo::sni));
    let facts = shared.facts(event.scheme, event.direction, event.remote, event.local, sni);
    let state = shared.state(event.id, facts);
    let one = known.entry(event.id).or_insert(Known { state, up: false, held: None });
    if matches!(event.kind, EventKind::Accepted | EventKind::Connected) {
        one.up = true;
    }
    if !one.state.decide(shared, !started) {
        one.held = Some(event.clone());
        return;
    }
    let up = one.up;
    let held = one.held.take();
    if one.state.events() {
        if let Some(held) = held {
            shared.send_event(&held, false);
        }
        shared.send_event(event, up);
    }
}

fn event_packet(event: &ConnectionEvent, payload: Bytes) -> Packet {
    let (source, destination) = ends(event.direction, event.remote, event.local);
    let mut packet = Packet::new(source, destination, event.time, PayloadType::CONNECTION_EVENT, payload);
    packet.correlation_id = Some(event.id.to_string().into());
    packet
}

/// Who opened a connection, and to whom; ours is 0 while nobody knows it.
fn ends(direction: Direction, remote: SocketAddr, local: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let local = local.unwrap_or_else(|| match remote {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    });
    match direction {
        Direction::Inbound => (remote, local),
        Direction::Outbound => (local, remote),
    }
}
