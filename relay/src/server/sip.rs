//! SIP on real sockets: the edge of [`crate::sip`] with its connections.
//!
//! * [`link`]: the writing side of one connection, for whoever has something for it;
//! * [`connection`]: what arrives on one, for `tcp-transport`'s driver;
//! * [`clock`]: how long a peer may take;
//! * [`peer`]: who has opened a connection: a client or an upstream;
//! * [`upstream`]: connections to the upstreams, kept open, and their health; [`place`]: what there is of one.
//!
//! A message is written where it was read: what a read brings is decided message by message, put into the queues it
//! is for, and each queue is written once at the end. What a socket does not take waits for the task of its connection,
//! up to the limits in [`link`]; beyond them a request is refused with 480 or 503 and a response dropped, and whoever sends
//! is never waited for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use rand::Rng as _;
use tcp_transport::tls::PeerCertificate;
use tcp_transport::ws::{self, Opened, Role};
use tcp_transport::{
    CloseReason, ConnectionId, Connector, DriverSettings, Registry, Stream, connection as driver,
};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use self::clock::Clock;
use self::connection::SipConnection;
use self::counters::Counting;
pub use self::counters::SipCounters;
use self::link::{Framing, QueueLimits, SipLink};
use self::peer::Accepted;
use self::place::Place;
use super::network::{Carried, upstream_connector};
use super::occasion::Flood;
use super::trace::Traces;
use super::{now, websocket};
use crate::config::{Config, Listener, Sip, SipUpstream, UpstreamUri};
use crate::msrp::user_of_principal;
use crate::sip::{
    Advertised, Change, Destination, Edge, Flow, Flows, Keys, Settings, ShortSecret, Side, Unsendable,
    Upstreams,
};

mod clock;
mod connection;
mod counters;
pub(super) mod link;
mod peer;
mod place;
#[cfg(test)]
mod tests;
mod upstream;

/// The subprotocol that carries SIP (RFC 7118 §4).
pub(super) const PROTOCOL: &str = "sip";

/// How much more may wait for an upstream than for a client, as all clients share it: with the defaults 4 MiB, some
/// 4000 requests.
const UPSTREAM_SHARE: usize = 16;

/// The edge, its connections and its upstreams.
pub(super) struct SipEdge {
    edge: ArcSwap<Edge>,
    upstreams: RwLock<Upstreams>,
    /// The places of the upstreams, by number, with those that are going.
    places: ArcSwap<HashMap<usize, Arc<Place>>>,
    /// There are others.
    moved: Notify,
    /// Held by who changes them, or the edge.
    changing: Mutex<()>,
    /// A probe is due that was not when [`Upstreams::deadline`] was last asked.
    probe: Notify,
    connections: Arc<Registry<Carried>>,
    traces: Arc<Traces>,
    counters: Counting,
    /// What the next connection is made with.
    tuning: ArcSwap<Tuning>,
    /// Connections of clients break off: anybody may have many do so.
    broken: Arc<Flood>,
}

/// What of the edge's settings may change while it runs.
struct Tuning {
    /// Those for SIP, by the edge's index.
    listeners: HashMap<usize, Listener>,
    config: Sip,
    /// The numbers of its upstreams.
    numbers: Vec<usize>,
    connector: Connector,
    /// `timeouts.probation`
    probation: Duration,
    /// `timeouts.send_timeout`
    send_timeout: Duration,
    /// For a client.
    queue: QueueLimits,
}

impl Tuning {
    fn new(
        config: &Config,
        sip: &Sip,
        listeners: HashMap<usize, Listener>,
        numbers: Vec<usize>,
        connector: Connector,
    ) -> Self {
        Self {
            listeners,
            config: sip.clone(),
            numbers,
            connector,
            probation: config.timeouts.probation,
            send_timeout: config.timeouts.send_timeout,
            queue: QueueLimits {
                bytes: config.limits.session_buffer,
                messages: config.limits.async_max_postponed_chunks,
            },
        }
    }

    fn upstream_queue(&self) -> QueueLimits {
        QueueLimits { bytes: self.queue.bytes.saturating_mul(UPSTREAM_SHARE), ..self.queue }
    }
}

impl std::fmt::Debug for SipEdge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SipEdge")
            .field("upstreams", &self.tuning.load().config.sip_upstream)
            .finish_non_exhaustive()
    }
}

impl SipEdge {
    /// The edge of this configuration, whose SIP listeners call themselves `listeners`.
    pub(super) fn new(
        config: &Config,
        sip: &Sip,
        listeners: Vec<Advertised>,
        connections: Arc<Registry<Carried>>,
        connector: Connector,
        traces: Arc<Traces>,
    ) -> Result<Self, ShortSecret> {
        let keys = match &sip.flow_secret {
            Some(secret) => Keys::new(secret.reveal().as_bytes(), rand::rng().next_u64())?,
            None => Keys::new(&rand::random::<[u8; 32]>(), rand::rng().next_u64())?.drawn(),
        };
        let settings = settings(config, sip, listeners);
        let mut upstreams = Upstreams::new(&settings.upstreams, sip.health, now());
        for index in 0..settings.upstreams.len() {
            upstreams.disconnected(index);
        }
        let edge = Edge::new(settings, keys);
        let numbers = edge.upstream_numbers();
        let place = |upstream: &SipUpstream| Arc::new(Place::new(upstream.uri.clone()));
        let places = numbers.iter().copied().zip(sip.sip_upstream.iter().map(place)).collect();
        let listeners = sip_listeners(config, edge.listener_numbers());
        Ok(Self {
            edge: ArcSwap::from_pointee(edge),
            upstreams: RwLock::new(upstreams),
            places: ArcSwap::from_pointee(places),
            moved: Notify::new(),
            changing: Mutex::default(),
            probe: Notify::new(),
            connections,
            traces,
            counters: Counting::default(),
            tuning: ArcSwap::from_pointee(Tuning::new(config, sip, listeners, numbers, connector)),
            broken: Arc::default(),
        })
    }

    /// Whether a reload can give these upstreams numbers of their own.
    pub(super) fn has_numbers_for(&self, config: &Config) -> bool {
        let upstreams = config.sip.iter().flat_map(|sip| &sip.sip_upstream);
        let settings: Vec<_> = upstreams.map(|upstream| upstream.settings(&config.domain)).collect();
        self.edge.load().has_numbers_for(&settings)
    }

    /// Takes other settings over; `listeners` call themselves so. Gives their numbers.
    ///
    /// What connections are made with counts for the next one. Upstreams that are new are connected to, those that are
    /// gone get no new requests, and their connections are closed when nothing uses them any more.
    pub(super) fn reload(&self, config: &Config, listeners: &[Advertised]) -> Vec<Option<usize>> {
        let _one = self.changing.lock();
        let before = self.tuning.load_full();
        let sip = config.sip.as_ref().unwrap_or(&before.config);
        let edge = {
            let edge = self.edge.load();
            let keys = renewed(edge.keys(), &before.config, sip);
            let used = self.used_listeners();
            edge.changed(settings(config, sip, listeners.to_vec()), keys, |number| used.contains(&number))
        };
        let (numbers, indexes) = (edge.upstream_numbers(), edge.listener_numbers());
        let mut known: HashMap<_, _> = before
            .listeners
            .iter()
            .filter(|(number, _)| edge.has_listener(**number))
            .map(|(number, listener)| (*number, listener.clone()))
            .collect();
        known.extend(sip_listeners(config, indexes.iter().copied()));
        let connector = upstream_connector(config, sip).with_ledger(Arc::clone(self.connections.ledger()));

        // A request finds the settings of whatever it is sent to: first those, then who is chosen. And whoever is connected
        // to is known by then.
        let wanted = edge.settings().upstreams.clone();
        self.edge.store(Arc::new(edge));
        self.tuning.store(Arc::new(Tuning::new(config, sip, known, numbers.clone(), connector)));
        {
            let mut upstreams = self.upstreams.write();
            let both = numbers.iter().copied().zip(&wanted);
            for back in upstreams.change(both, sip.health, now()) {
                // It was gone, and its connection is still there.
                if self.place(back).is_some_and(|place| place.link().is_some()) {
                    upstreams.connected(back, now());
                }
            }
        }
        self.move_to(&numbers, sip);
        self.probe.notify_one();
        indexes.into_iter().map(Some).collect()
    }

    /// Gives each of these upstreams a place, and wants no others.
    fn move_to(&self, numbers: &[usize], sip: &Sip) {
        let mut places = HashMap::clone(&self.places.load());
        for (number, place) in &places {
            place.set_wanted(numbers.contains(number));
        }
        for (number, upstream) in numbers.iter().zip(&sip.sip_upstream) {
            let place = places.entry(*number).or_insert_with(|| Arc::new(Place::new(upstream.uri.clone())));
            if place.set_uri(&upstream.uri)
                && let Some(link) = place.link()
            {
                close_moved(&link);
            }
        }
        self.places.store(Arc::new(places));
        self.moved.notify_one();
    }

    /// The numbers of the listeners whose clients are connected.
    fn used_listeners(&self) -> HashSet<usize> {
        let all = self.connections.snapshot();
        let used = all.iter().filter_map(|(_, carried)| match carried {
            Carried::Sip(link) => match link.flow().side {
                Side::Client(number) => Some(number),
                Side::Upstream(_) => None,
            },
            _ => None,
        });
        used.collect()
    }

    /// What it has done.
    pub(super) fn counters(&self) -> SipCounters {
        self.counters.get()
    }

    /// The upstreams, and whether each takes requests.
    pub(super) fn upstreams_up(&self) -> Vec<(String, bool)> {
        let upstreams = self.upstreams.read();
        let tuning = self.tuning.load();
        let names = tuning.config.sip_upstream.iter().map(|upstream| upstream.uri.to_string());
        names.zip(&tuning.numbers).map(|(name, number)| (name, upstreams.is_up(*number))).collect()
    }

    /// Takes a connection in that came over the listener of this index, a client's or an upstream's; with `websocket` one
    /// of those.
    pub(super) fn accept(
        self: &Arc<Self>,
        listener: usize,
        stream: Stream,
        websocket: Option<(ws::Settings, Opened)>,
    ) {
        let upstream = self.upstream_of(&stream, websocket.is_some());
        let tuning = self.tuning.load_full();
        let limits = if upstream.is_some() { tuning.config.limits.shared() } else { tuning.config.limits };
        let (incoming, rest, principal) = match websocket {
            None => (None, BytesMut::new(), None),
            Some((settings, opened)) => {
                let settings = frame_limits(&settings, limits.message_bytes);
                (Some(ws::Incoming::new(Role::Server, settings, now())), opened.rest, opened.principal)
            }
        };
        let framing = if incoming.is_some() { Framing::WebSocket(Role::Server) } else { Framing::Stream };
        let (side, queue, clock) = match upstream {
            Some(index) => {
                let clock = Clock::of_upstream(
                    now(),
                    tuning.config.max_msg_time,
                    None,
                    tuning.config.crlf_pong_timeout,
                );
                (Side::Upstream(index), tuning.upstream_queue(), clock)
            }
            None => {
                let clock = Clock::of_client(now(), tuning.probation, tuning.config.max_msg_time);
                (Side::Client(listener), tuning.queue, clock)
            }
        };
        let user = principal.as_deref().map(user_of_principal);
        let (link, driver, protocol) = self.open(stream, rest, user, side, framing, incoming, queue, clock);
        let (connection, peer) = (link.handle().id(), link.flow().remote);
        let tls = link.handle().stream().tls().map(tracing::field::display);
        match upstream {
            Some(index) => {
                info!(upstream = self.name(index), %connection, %peer, tls, "SIP upstream connected to us");
            }
            None => debug!(%connection, %peer, tls, "accepted for SIP"),
        }
        tokio::spawn(driver.run(protocol));
    }

    /// The upstream that has opened this connection.
    fn upstream_of(&self, stream: &Stream, websocket: bool) -> Option<usize> {
        let secure = stream.tls().is_some();
        let accepted = Accepted {
            remote: stream.entry().remote().ip(),
            local: stream.local_addr().ip(),
            certificate: stream.tls().map_or(&PeerCertificate::None, |tls| tls.peer()),
            secure,
            direct: !websocket && stream.entry().proxy().is_none(),
        };
        let tuning = self.tuning.load();
        let number = |position: usize| tuning.numbers.get(position).copied();
        let dialled = |position| self.place(number(position)?)?.dialled();
        accepted.upstream(&tuning.config.sip_upstream, dialled).and_then(number)
    }

    /// Takes in the connection that was opened to an upstream at `uri`. It ends with the future that is returned.
    fn connected(
        self: &Arc<Self>,
        upstream: usize,
        place: &Place,
        uri: &UpstreamUri,
        stream: Stream,
        opened: Option<Opened>,
    ) -> impl Future<Output = CloseReason> + use<> {
        let rest = opened.as_ref().map(|opened| opened.rest.clone()).unwrap_or_default();
        let tuning = self.tuning.load_full();
        let incoming = opened.map(|_| {
            // However many reads a message takes, as over TCP.
            let own = ws::Settings { max_msg_chunks: None, ..websocket::session(&tuning.config.websocket) };
            let most = (tuning.config.limits.shared().message_bytes as u64).saturating_mul(2);
            let settings = ws::Settings { max_frame: most, max_message: most, ..own };
            ws::Incoming::new(Role::CLIENT, settings, now())
        });
        let framing = if incoming.is_some() { Framing::WebSocket(Role::CLIENT) } else { Framing::Stream };
        // A WebSocket is asked by its own pings.
        let interval = tuning.config.crlf_ping_interval.filter(|_| incoming.is_none());
        let clock =
            Clock::of_upstream(now(), tuning.config.max_msg_time, interval, tuning.config.crlf_pong_timeout);
        place.set_dialled(stream.peer_addr().ip());
        let side = Side::Upstream(upstream);
        let (link, driver, protocol) =
            self.open(stream, rest, None, side, framing, incoming, tuning.upstream_queue(), clock);
        place.set_link(Arc::clone(&link));
        // A reload that has changed it while this was dialled found no connection to close.
        if place.uri() != *uri {
            close_moved(&link);
        }
        self.upstreams.write().connected(upstream, now());
        self.probe.notify_one();
        driver.run(protocol)
    }

    #[expect(clippy::too_many_arguments, reason = "what a connection consists of")]
    fn open(
        self: &Arc<Self>,
        stream: Stream,
        rest: BytesMut,
        user: Option<&str>,
        side: Side,
        framing: Framing,
        incoming: Option<ws::Incoming>,
        queue: QueueLimits,
        clock: Clock,
    ) -> (Arc<SipLink>, tcp_transport::Driver, SipConnection) {
        let trace = self.traces.connection(&stream);
        let tuning = self.tuning.load_full();
        let (handle, driver) = driver::open_with(stream, DriverSettings::default(), rest);
        let entry = handle.entry();
        let behind_tls = |listener: usize| {
            let listener = tuning.listeners.get(&listener);
            listener.is_some_and(|listener| listener.is_secure_before(entry.proxy().is_some()))
        };
        let flow = Flow {
            connection: handle.id().as_u64(),
            side,
            remote: entry.remote(),
            local: entry.local(),
            secure: handle.stream().tls().is_some()
                || matches!(side, Side::Client(index) if behind_tls(index)),
        };
        let link = SipLink::new(handle.clone(), flow, framing, queue, tuning.send_timeout);
        let link = Arc::new(link.with_trace(trace, user));
        self.connections.insert(handle, None, Carried::Sip(Arc::clone(&link)));
        let protocol = SipConnection::new(Arc::clone(self), Arc::clone(&link), incoming, clock);
        (link, driver, protocol)
    }

    /// Puts a message into the queue it is for; that has to be written afterwards.
    fn send(
        &self,
        from: Side,
        to: Destination,
        slices: &[Bytes],
        now: Instant,
    ) -> Result<Arc<SipLink>, Unsendable> {
        let link = match to {
            Destination::Client(connection) => self.link(connection),
            Destination::Upstream { index, over } => {
                let places = self.places.load();
                let place = places.get(&index);
                if let Some(place) = place {
                    place.is_used();
                }
                over.and_then(|connection| self.link(connection))
                    .filter(|link| link.flow().side == Side::Upstream(index))
                    .or_else(|| place?.link())
            }
        };
        if let Side::Upstream(index) = from
            && let Some(place) = self.places.load().get(&index)
        {
            place.is_used();
        }
        let link = link.ok_or(Unsendable::Gone)?;
        link.push(slices, now)?;
        Ok(link)
    }

    /// The open connection with this number.
    fn link(&self, connection: u64) -> Option<Arc<SipLink>> {
        match self.connections.by_id(ConnectionId::from(connection))? {
            (handle, Carried::Sip(link)) if handle.is_open() => Some(link),
            _ => None,
        }
    }

    /// The place of an upstream.
    fn place(&self, upstream: usize) -> Option<Arc<Place>> {
        self.places.load().get(&upstream).cloned()
    }

    /// A connection is over.
    fn closed(&self, link: &Arc<SipLink>) {
        self.connections.remove(link.handle().id());
        let Side::Upstream(index) = link.flow().side else { return };
        let Some(place) = self.place(index) else { return };
        let mut upstreams = self.upstreams.write();
        if place.take_link(link) {
            upstreams.disconnected(index);
            let change = upstreams.failed(index);
            drop(upstreams);
            self.tell(change);
        }
    }

    fn name(&self, upstream: usize) -> String {
        self.place(upstream).map(|place| place.uri().to_string()).unwrap_or_default()
    }

    /// Says in the log who has come or gone.
    fn tell(&self, change: impl IntoIterator<Item = Change>) {
        for change in change {
            match change {
                Change::Up(index) => info!(upstream = self.name(index), "SIP upstream is up"),
                Change::Down(index) => warn!(upstream = self.name(index), "SIP upstream is down"),
            }
        }
    }
}

impl Flows for SipEdge {
    fn client(&self, connection: u64) -> Option<Flow> {
        let flow = *self.link(connection)?.flow();
        matches!(flow.side, Side::Client(_)).then_some(flow)
    }
}

/// Closes a connection to where its upstream is not any more.
fn close_moved(link: &SipLink) {
    link.handle().close(CloseReason::Local("the upstream's URI has changed".into()));
}

/// What the edge is to know.
fn settings(config: &Config, sip: &Sip, listeners: Vec<Advertised>) -> Settings {
    let seconds = sip.health.probe_interval.as_secs().max(1);
    Settings {
        listeners,
        upstreams: sip.sip_upstream.iter().map(|upstream| upstream.settings(&config.domain)).collect(),
        retry_after: u32::try_from(seconds).unwrap_or(u32::MAX),
        crlf_pingpong: sip.crlf_pingpong,
    }
}

/// The keys after a reload.
fn renewed(keys: &Keys, before: &Sip, now: &Sip) -> Keys {
    if before.flow_secret == now.flow_secret {
        return keys.clone();
    }
    let renewed = match &now.flow_secret {
        Some(secret) => keys.renewed(secret.reveal().as_bytes()),
        None => keys.renewed(&rand::random::<[u8; 32]>()).map(Keys::drawn),
    };
    // The configuration has no short one.
    renewed.unwrap_or_else(|_| keys.clone())
}

/// The listeners for SIP, by these indexes.
fn sip_listeners(config: &Config, indexes: impl IntoIterator<Item = usize>) -> HashMap<usize, Listener> {
    indexes.into_iter().zip(config.listeners.iter().filter(|listener| listener.sip).cloned()).collect()
}

/// A SIP message is collected before it is looked at, so no more is taken than what can be refused with 413.
fn frame_limits(settings: &ws::Settings, message: usize) -> ws::Settings {
    let most = (message as u64).saturating_mul(2);
    ws::Settings {
        max_frame: settings.max_frame.min(most),
        max_message: settings.max_message.min(most),
        ..settings.clone()
    }
}
