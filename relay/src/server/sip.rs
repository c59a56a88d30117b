//! SIP on real sockets: the edge of [`crate::sip`] with its connections.
//!
//! * [`link`]: the writing side of one connection, for whoever has something for it;
//! * [`connection`]: what arrives on one, for `tcp-transport`'s driver;
//! * [`clock`]: how long a peer may take;
//! * [`peer`]: who has opened a connection: a client or an upstream;
//! * [`upstream`]: connections to the upstreams, kept open, and their health.
//!
//! A message is written where it was read: what a read brings is decided message by message, put into the queues it
//! is for, and each queue is written once at the end. What a socket does not take waits for the task of its connection,
//! up to the limits in [`link`]; beyond them a request is refused with 480 or 503 and a response dropped, and whoever sends
//! is never waited for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;
use rand::Rng as _;
use tcp_transport::tls::PeerCertificate;
use tcp_transport::ws::{self, Opened, Role};
use tcp_transport::{ConnectionId, Connector, DriverSettings, Registry, Stream, connection as driver};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use self::clock::Clock;
use self::connection::SipConnection;
use self::counters::Counting;
pub use self::counters::SipCounters;
use self::link::{Framing, QueueLimits, SipLink};
use self::peer::Accepted;
use super::network::{Carried, upstream_connector};
use super::trace::Traces;
use super::{now, websocket};
use crate::config::{Config, Listener, Sip};
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
    edge: Edge,
    upstreams: RwLock<Upstreams>,
    /// The connection to each upstream.
    peers: Vec<RwLock<Option<Arc<SipLink>>>>,
    /// Where each was last reached.
    dialled: Vec<RwLock<Option<IpAddr>>>,
    /// A probe is due that was not when [`Upstreams::deadline`] was last asked.
    probe: Notify,
    connections: Arc<Registry<Carried>>,
    traces: Arc<Traces>,
    counters: Counting,
    /// What the next connection is made with.
    tuning: ArcSwap<Tuning>,
}

/// What of the edge's settings may change while it runs.
struct Tuning {
    /// Those for SIP, by the edge's index.
    listeners: HashMap<usize, Listener>,
    /// The upstreams and their health are those of the start.
    config: Sip,
    connector: Connector,
    /// `timeouts.probation`
    probation: Duration,
    /// `timeouts.send_timeout`
    send_timeout: Duration,
    /// For a client.
    queue: QueueLimits,
}

impl Tuning {
    fn new(config: &Config, sip: &Sip, listeners: HashMap<usize, Listener>, connector: Connector) -> Self {
        Self {
            listeners,
            config: sip.clone(),
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
        let drawn: [u8; 32] = rand::random();
        let secret = sip.flow_secret.as_ref().map_or(&drawn[..], |secret| secret.reveal().as_bytes());
        let keys = Keys::new(secret, rand::rng().next_u64())?;
        let keys = if sip.flow_secret.is_none() { keys.drawn() } else { keys };
        let seconds = sip.health.probe_interval.as_secs().max(1);
        let settings = Settings {
            listeners,
            upstreams: sip.sip_upstream.iter().map(|upstream| upstream.settings(&config.domain)).collect(),
            retry_after: u32::try_from(seconds).unwrap_or(u32::MAX),
            crlf_pingpong: sip.crlf_pingpong,
        };
        let mut upstreams = Upstreams::new(&settings.upstreams, sip.health, now());
        for index in 0..settings.upstreams.len() {
            upstreams.disconnected(index);
        }
        Ok(Self {
            peers: settings.upstreams.iter().map(|_| RwLock::default()).collect(),
            dialled: settings.upstreams.iter().map(|_| RwLock::default()).collect(),
            probe: Notify::new(),
            edge: Edge::new(settings, keys),
            upstreams: RwLock::new(upstreams),
            connections,
            traces,
            counters: Counting::default(),
            tuning: ArcSwap::from_pointee(Tuning::new(config, sip, sip_listeners(config, 0..), connector)),
        })
    }

    /// Takes over what may change, for the next connection; `listeners` call themselves so. Gives their indexes.
    pub(super) fn reload(&self, config: &Config, listeners: &[Advertised]) -> Vec<Option<usize>> {
        let before = self.tuning.load_full();
        let indexes = self.edge.listeners(listeners);
        let sip = Sip {
            sip_upstream: before.config.sip_upstream.clone(),
            health: before.config.health,
            ..config.sip.as_ref().unwrap_or(&before.config).clone()
        };
        let connector = upstream_connector(config, &sip).with_ledger(Arc::clone(self.connections.ledger()));
        let mut listeners = before.listeners.clone();
        listeners.extend(sip_listeners(config, indexes.iter().copied()));
        self.tuning.store(Arc::new(Tuning::new(config, &sip, listeners, connector)));
        indexes.into_iter().map(Some).collect()
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
        names.enumerate().map(|(index, name)| (name, upstreams.is_up(index))).collect()
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
        accepted.upstream(&self.tuning.load().config.sip_upstream, |index| *self.dialled.get(index)?.read())
    }

    /// Takes in the connection that was opened to an upstream. It ends with the future that is returned.
    fn connected(
        self: &Arc<Self>,
        upstream: usize,
        stream: Stream,
        opened: Option<Opened>,
    ) -> impl Future<Output = tcp_transport::CloseReason> + use<> {
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
        if let Some(dialled) = self.dialled.get(upstream) {
            *dialled.write() = Some(stream.peer_addr().ip());
        }
        let side = Side::Upstream(upstream);
        let (link, driver, protocol) =
            self.open(stream, rest, None, side, framing, incoming, tuning.upstream_queue(), clock);
        if let Some(peer) = self.peers.get(upstream) {
            *peer.write() = Some(link);
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
    fn send(&self, to: Destination, slices: &[Bytes], now: Instant) -> Result<Arc<SipLink>, Unsendable> {
        let link = match to {
            Destination::Client(connection) => self.link(connection),
            Destination::Upstream { index, over } => over
                .and_then(|connection| self.link(connection))
                .filter(|link| link.flow().side == Side::Upstream(index))
                .or_else(|| self.peer(index)),
        };
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

    /// The connection to an upstream.
    fn peer(&self, upstream: usize) -> Option<Arc<SipLink>> {
        self.peers.get(upstream)?.read().clone()
    }

    /// A connection is over.
    fn closed(&self, link: &Arc<SipLink>) {
        self.connections.remove(link.handle().id());
        let Side::Upstream(index) = link.flow().side else { return };
        let Some(mut peer) = self.peers.get(index).map(RwLock::write) else { return };
        if peer.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            *peer = None;
            let mut upstreams = self.upstreams.write();
            upstreams.disconnected(index);
            let change = upstreams.failed(index);
            drop((upstreams, peer));
            self.tell(change);
        }
    }

    fn name(&self, upstream: usize) -> String {
        let tuning = self.tuning.load();
        tuning.config.sip_upstream.get(upstream).map(|upstream| upstream.uri.to_string()).unwrap_or_default()
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
