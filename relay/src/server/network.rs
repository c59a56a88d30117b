//! Where connections come from: accepted by a listener, or opened for a link that waits for one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use msrp_proto::uri::Scheme;
use tcp_transport::hep::{self, Dispatch};
use tcp_transport::proxy_protocol::ProxyError;
use tcp_transport::tls::{ClientDomains, HandshakeError, PeerCertificate, ServerDomains};
use tcp_transport::ws::{self, Answer, Opened, Request, UpgradeError};
use tcp_transport::{
    Acceptor, ConnectSettings, ConnectionLimits, Connector, DialOptions, DriverSettings, Events, Ledger,
    LimitReached, OutboundPolicy, Registry, ReuseKey, Stream, Target, Threads, Transport, connection,
};
use tokio::runtime::EnterGuard;
use tracing::{debug, info, warn};

use super::connection::{ConnectionWire, MsrpConnection};
use super::handover::{self, Arrival, Generations};
use super::occasion::{Failures, Flood, Occasion};
use super::sip::SipEdge;
use super::sip::link::SipLink;
use super::trace::Traces;
use super::{credentials, now, sip, websocket};
use crate::config::{Config, Dial, Listener, Sip, WebSocket};
use crate::msrp::{Dialer, Inbound, Link, Peer, ProcessTag, Relay, user_of_principal};
use crate::sip::ShortSecret;

/// What a connection carries.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    Msrp(Arc<Link>),
    Sip(Arc<SipLink>),
    /// HEP of an agent.
    Hep,
}

impl Carried {
    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::Msrp(link) => link.is_idle(),
            Self::Sip(link) => link.is_idle(),
            // What is under way goes on to collectors, or is not there yet: nobody waits for an answer.
            Self::Hep => true,
        }
    }

    /// Whether nothing waits, for the socket or for a response.
    pub(super) fn is_quiet(&self) -> bool {
        match self {
            Self::Msrp(link) => link.is_quiet(),
            Self::Sip(_) | Self::Hep => self.is_idle(),
        }
    }

    /// How many bytes wait to be written.
    pub(super) fn queued_bytes(&self) -> usize {
        match self {
            Self::Msrp(link) => link.queued_bytes(),
            Self::Sip(link) => link.queued_bytes(),
            // It is only read from.
            Self::Hep => 0,
        }
    }

    /// Ends what is under way, before the connection is closed.
    pub(super) fn wind_up(&self) {
        match self {
            Self::Msrp(link) => link.wind_up(now()),
            // Its messages wait whole, and leave while the connection closes.
            Self::Sip(_) | Self::Hep => {}
        }
    }
}

/// All connections of the process, and what opening one needs.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) relay: Arc<Relay>,
    pub(super) connections: Arc<Registry<Carried>>,
    /// The SIP edge, if there is one.
    pub(super) sip: Option<Arc<SipEdge>>,
    /// Who traces messages.
    pub(super) traces: Arc<Traces>,
    /// The processes before this one.
    pub(super) generations: Arc<Generations>,
    connector: ArcSwap<Connector>,
    pub(super) server_domains: Arc<ServerDomains>,
    pub(super) client_domains: Arc<ClientDomains>,
    /// `tls.cert_check_on_conn_reusage`.
    pub(super) cert_check_on_conn_reusage: AtomicBool,
    /// The listeners of MSRP, by their numbers.
    listeners: ArcSwap<HashMap<usize, Listener>>,
    /// Connections break off on which nobody has a session: anybody may have many do so.
    pub(super) broken: Arc<Flood>,
    /// Where connections are, if not on this runtime.
    pub(super) threads: Option<Arc<Threads>>,
}

impl Network {
    /// With a SIP edge if the configuration has one, whose listeners call themselves `sip_listeners`.
    pub(super) fn new(
        relay: Arc<Relay>,
        config: &Config,
        server_domains: Arc<ServerDomains>,
        client_domains: ClientDomains,
        sip_listeners: Vec<crate::sip::Advertised>,
        threads: Option<Arc<Threads>>,
    ) -> Result<Self, ShortSecret> {
        let limits = connection_limits(config);
        let events = Events::new(config.events.queue, config.events.closed_event.0);
        let ledger = Ledger::new(limits, events);
        let connections = Arc::new(Registry::with_ledger(Arc::clone(&ledger)));
        let traces = Arc::new(Traces::default());
        let edge = |sip| {
            let connector = upstream_connector(config, sip).with_ledger(Arc::clone(&ledger));
            let (connections, traces) = (Arc::clone(&connections), Arc::clone(&traces));
            SipEdge::new(config, sip, sip_listeners, connections, connector, traces).map(Arc::new)
        };
        let sip = config.sip.as_ref().map(edge).transpose()?;
        let listeners = config.listeners.iter().filter(|listener| listener.serves_msrp());
        let listeners = relay.current().listener_ids().zip(listeners.cloned()).collect();
        Ok(Self {
            relay,
            connections,
            sip,
            traces,
            generations: Arc::default(),
            connector: ArcSwap::from_pointee(connector(config).with_ledger(ledger)),
            server_domains,
            client_domains: Arc::new(client_domains),
            cert_check_on_conn_reusage: AtomicBool::new(config.tls.cert_check_on_conn_reusage),
            listeners: ArcSwap::from_pointee(listeners),
            broken: Arc::default(),
            threads,
        })
    }

    /// Takes over what connections are held against, and how they are opened, from the next one on. The core knows the
    /// listeners already.
    pub(super) fn reload(&self, config: &Config) {
        self.ledger().set_limits(connection_limits(config));
        self.ledger().events().set_reporting(config.events.closed_event.0);
        self.connector.store(Arc::new(connector(config).with_ledger(Arc::clone(self.ledger()))));
        self.cert_check_on_conn_reusage.store(config.tls.cert_check_on_conn_reusage, Ordering::Relaxed);
        let (current, before) = (self.relay.current(), self.listeners.load());
        let listeners = config.listeners.iter().filter(|listener| listener.serves_msrp()).cloned();
        let retired = current.retired_ids().filter_map(|id| Some((id, before.get(&id)?.clone())));
        self.listeners.store(Arc::new(retired.chain(current.listener_ids().zip(listeners)).collect()));
    }

    /// A connection that is made while the guard is there is on a thread for connections.
    pub(super) fn enter_thread(&self) -> Option<EnterGuard<'_>> {
        self.threads.as_ref().map(|threads| threads.enter())
    }

    /// The name and the scheme of each listener of MSRP, by its number.
    pub(super) fn listener_facts(&self) -> HashMap<usize, (String, String)> {
        let listeners = self.listeners.load();
        let facts = |listener: &Listener| (listener.to_string(), listener.scheme().as_str().to_owned());
        listeners.iter().map(|(id, listener)| (*id, facts(listener))).collect()
    }

    /// All connections, those included that are not up yet.
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        self.connections.ledger()
    }

    pub(super) fn listener_name(&self, listener: Option<usize>) -> Option<String> {
        self.listeners.load().get(&listener?).map(ToString::to_string)
    }

    /// The listener of MSRP of that name, or of that scheme, or any, with its number.
    pub(super) fn listener_like(&self, name: &str, scheme: &str) -> (usize, Option<Listener>) {
        let listeners = self.listeners.load();
        let likeness = |listener: &Listener| {
            (listener.to_string() != name, listener.scheme().as_str() != scheme, listener.websocket.is_some())
        };
        let best = listeners.iter().min_by_key(|(id, listener)| (likeness(listener), **id));
        best.map_or((0, None), |(id, listener)| (*id, Some(listener.clone())))
    }

    /// Takes a connection in; with `websocket` one of those.
    fn accept(self: &Arc<Self>, listener: usize, stream: Stream, websocket: Option<(ws::Incoming, Opened)>) {
        let mut peer = peer_of(&stream);
        let proxied = stream.entry().proxy().is_some();
        peer.secure |= self.listeners.load().get(&listener).is_some_and(|own| own.is_secure_before(proxied));
        let (peer, rest, incoming) = match websocket {
            None => (peer, BytesMut::new(), None),
            // A client's certificate makes a user of it, at most: relays speak TCP and TLS (RFC 7977 §5.1).
            Some((incoming, opened)) => {
                let peer = Peer { certificate: PeerCertificate::None, principal: opened.principal, ..peer };
                (peer, opened.rest, Some(incoming))
            }
        };
        self.arrive(Arrival { listener, stream, peer, rest, incoming });
    }

    /// Serves a connection of MSRP here, or has the process serve it whose sessions it is for.
    pub(super) fn arrive(self: &Arc<Self>, arrival: Arrival) {
        if self.generations.is_empty() {
            self.serve(arrival);
        } else {
            let underway = self.generations.sort();
            tokio::spawn(handover::sort(Arc::clone(self), arrival, underway));
        }
    }

    /// Serves a connection of MSRP.
    pub(super) fn serve(self: &Arc<Self>, arrival: Arrival) {
        let Arrival { listener, stream, peer, rest, incoming } = arrival;
        let now = now();
        let trace = self.traces.connection(&stream);
        if let (Some(trace), Some(user)) = (&trace, &peer.principal) {
            trace.authenticated(user_of_principal(user));
        }
        let (handle, driver) = connection::open_with(stream, DriverSettings::default(), rest);
        let wire = Box::new(ConnectionWire::new(handle.clone(), trace));
        let link = self.relay.accepted(listener, peer, wire, now);
        let tls = handle.stream().tls().map(tracing::field::display);
        debug!(link = link.id(), connection = %handle.id(), peer = ?link.peer(), tls, "accepted");
        if let Some(Peer { certificate: PeerCertificate::Unverified { reason }, address, .. }) = link.peer() {
            info!(
                link = link.id(),
                peer = address,
                reason,
                "client certificate does not verify: no relay rights"
            );
        }
        self.connections.insert(handle.clone(), None, Carried::Msrp(Arc::clone(&link)));
        let inbound = Inbound::new(Arc::clone(&self.relay), link, now);
        let msrp = MsrpConnection::new(Arc::clone(self), handle, inbound);
        tokio::spawn(driver.run(match incoming {
            Some(incoming) => msrp.over_websocket(incoming),
            None => msrp,
        }));
    }

    /// Takes the connection of an agent in, whose HEP goes to `dispatch`.
    fn accept_hep(self: &Arc<Self>, stream: Stream, dispatch: &Arc<Dispatch>) {
        // Asked here again: a proxy may have named the agent meanwhile.
        if !dispatch.admits(stream.peer_addr()) {
            return;
        }
        let (handle, receiving) = hep::receive(stream, Arc::clone(dispatch));
        let tls = handle.stream().tls().map(tracing::field::display);
        debug!(connection = %handle.id(), peer = %handle.stream().peer_addr(), tls, "HEP agent accepted");
        let (id, network) = (handle.id(), Arc::clone(self));
        self.connections.insert(handle, None, Carried::Hep);
        tokio::spawn(async move {
            receiving.await;
            network.connections.remove(id);
        });
    }

    /// A connection that was being opened is up.
    fn connected(self: &Arc<Self>, link: &Arc<Link>, stream: Stream, peer: Peer, key: Option<ReuseKey>) {
        let trace = self.traces.connection(&stream);
        let (handle, driver) = connection::open(stream, DriverSettings::default());
        let tls = handle.stream().tls().map(tracing::field::display);
        let target = link.target().map(tracing::field::display);
        info!(link = link.id(), connection = %handle.id(), target, address = peer.address, tls, "connected");
        self.connections.insert(handle.clone(), key, Carried::Msrp(Arc::clone(link)));
        let now = now();
        let wire = Box::new(ConnectionWire::new(handle.clone(), trace));
        self.relay.connected(link, peer, wire, now);
        let inbound = Inbound::new(Arc::clone(&self.relay), Arc::clone(link), now);
        let protocol = MsrpConnection::new(Arc::clone(self), handle, inbound);
        tokio::spawn(driver.run(protocol));
    }

    async fn connect(self: Arc<Self>, link: Arc<Link>) {
        let Some(target) = link.target() else { return };
        if let Some(tag) = target.process {
            match handover::connect(&self, tag, &link).await {
                Ok((stream, peer)) => self.connected(&link, stream, peer, None),
                Err(error) => {
                    warn!(link = link.id(), %target, %tag, %error, "the other process is not reached");
                    self.relay.connect_failed(&link, now());
                }
            }
            return;
        }
        let transport = if target.scheme.is_secure() { Transport::Tls } else { Transport::Tcp };
        let to = Target { host: target.host.to_string(), port: target.port, transport };
        let scheme = transport_scheme(target.scheme);
        let listener = self.listener_name(link.listener());
        let domains = self.client_domains.for_listener(listener.as_deref());
        let connector = self.connector.load_full();
        match connector.connect_for(&to, Some(&domains), Some(scheme)).await {
            Ok(stream) => {
                let peer = peer_of(&stream);
                let key = ReuseKey::new(target.scheme.as_str(), &target.host, target.port);
                self.connected(&link, stream, peer, Some(key));
            }
            Err(error) => {
                warn!(link = link.id(), %target, %error, "connection failed");
                self.relay.connect_failed(&link, now());
            }
        }
    }
}

fn connection_limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        max_connections: config.limits.max_connections,
        max_connections_per_address: config.limits.max_connections_per_address,
    }
}

/// Opens connections as the configuration says.
fn connector(config: &Config) -> Connector {
    let policy = Policy { rules: config.outbound.clone(), dial: config.dial.clone() };
    Connector::new(connect_settings(config, config.dial.default.clone()), policy)
}

/// Opens connections to the SIP upstreams. The rules of `outbound` are about what others may make this relay connect
/// to; upstreams are named by the configuration alone, so they are always permitted. How they are connected to
/// (addresses, ports, socket options, times) is as for all.
pub(super) fn upstream_connector(config: &Config, sip: &Sip) -> Connector {
    let always = |dial: &DialOptions| DialOptions { no_new_connections: false, ..dial.clone() };
    let mut dial = config.dial.clone();
    for destination in &mut dial.destinations {
        destination.dial = Arc::new(always(&destination.dial));
    }
    let settings = ConnectSettings {
        ws_handshake_timeout: sip.websocket.handshake_timeout,
        ..connect_settings(config, always(&config.dial.default))
    };
    Connector::new(settings, UpstreamPolicy(dial))
}

fn connect_settings(config: &Config, dial: DialOptions) -> ConnectSettings {
    ConnectSettings {
        dial,
        tls_handshake_timeout: config.tls.tls_handshake_timeout,
        ..ConnectSettings::default()
    }
}

/// As [`Policy`], for the SIP upstreams.
struct UpstreamPolicy(Dial);

impl OutboundPolicy for UpstreamPolicy {
    fn allows(&self, _: SocketAddr, _: Transport) -> bool {
        true
    }

    fn dial(&self, address: SocketAddr, _: Transport) -> Option<Arc<DialOptions>> {
        self.0.to(address).cloned()
    }
}

/// What may be dialled, and how.
struct Policy {
    rules: crate::config::OutboundPolicy,
    dial: Dial,
}

impl OutboundPolicy for Policy {
    fn allows(&self, address: SocketAddr, transport: Transport) -> bool {
        let scheme = match transport {
            Transport::Tcp => Scheme::Msrp,
            Transport::Tls => Scheme::Msrps,
        };
        let permitted = self.rules.permits(scheme, address);
        if let Err(denied) = &permitted {
            warn!(%address, %denied, "the outbound policy forbids a connection");
        }
        permitted.is_ok()
    }

    fn dial(&self, address: SocketAddr, _transport: Transport) -> Option<Arc<DialOptions>> {
        self.dial.to(address).cloned()
    }
}

/// The scheme of the connections of an MSRP listener or target.
pub(super) fn transport_scheme(scheme: Scheme) -> tcp_transport::Scheme {
    match scheme {
        Scheme::Msrp => tcp_transport::Scheme::Msrp,
        Scheme::Msrps => tcp_transport::Scheme::Msrps,
    }
}

fn peer_of(stream: &Stream) -> Peer {
    Peer {
        address: stream.peer_addr().to_string(),
        secure: stream.tls().is_some(),
        certificate: stream.tls().map_or(PeerCertificate::None, |tls| tls.peer().clone()),
        principal: None,
    }
}

/// What one listener serves.
#[derive(Clone, Debug, Default)]
pub(super) struct Serves {
    /// MSRP: its index among the listeners that do.
    pub(super) msrp: Option<usize>,
    /// SIP: likewise.
    pub(super) sip: Option<usize>,
    /// WebSocket under that; which of the two it is, the handshake says.
    pub(super) websocket: Option<WebSocket>,
    /// HEP: where it goes.
    pub(super) hep: Option<Arc<Dispatch>>,
    /// Whether a proxy in front may name who connects.
    pub(super) proxied: bool,
}

impl Serves {
    /// The subprotocols of WebSocket that carry it.
    fn protocols(&self) -> impl Iterator<Item = &'static str> + Clone {
        [self.msrp.map(|_| websocket::MSRP), self.sip.map(|_| sip::PROTOCOL)].into_iter().flatten()
    }
}

/// What one listener tells.
pub(super) struct ListenerAcceptor {
    network: Arc<Network>,
    /// What it serves at this moment.
    serves: Arc<ArcSwap<Serves>>,
    local: SocketAddr,
    /// A limit is reached.
    full: Occasion,
    failed: Failures,
}

impl ListenerAcceptor {
    pub(super) fn new(network: Arc<Network>, serves: Arc<ArcSwap<Serves>>, local: SocketAddr) -> Self {
        let failed = Failures::of(local);
        Self { network, serves, local, full: Occasion::default(), failed }
    }
}

impl Acceptor for ListenerAcceptor {
    fn admit(&self, peer: SocketAddr) -> bool {
        match &**self.serves.load() {
            Serves { hep: Some(dispatch), proxied: false, .. } => dispatch.admits(peer),
            _ => true,
        }
    }

    fn accepted(&self, stream: Stream) {
        match (&**self.serves.load(), &self.network.sip) {
            (Serves { hep: Some(dispatch), .. }, _) => self.network.accept_hep(stream, dispatch),
            (Serves { msrp: Some(index), .. }, _) => self.network.accept(*index, stream, None),
            (Serves { sip: Some(index), .. }, Some(sip)) => sip.accept(*index, stream, None),
            _ => {}
        }
    }

    async fn upgrade(&self, request: &Request<'_>, stream: &Stream) -> Answer {
        let serves = self.serves.load_full();
        let Some(settings) = &serves.websocket else { return Answer::refuse(404, "") };
        let peer = stream.peer_addr().to_string();
        let relay = &self.network.relay;
        let digest = async |method: String, target: String, authorization: Option<String>| {
            credentials::http_digest(relay, &method, &target, authorization.as_deref(), &peer).await
        };
        let has_line = || self.failed.tells();
        websocket::answer(settings, serves.protocols(), digest, request, stream.tls(), &peer, has_line).await
    }

    fn upgraded(&self, stream: Stream, opened: Opened) {
        let serves = self.serves.load();
        let Some(settings) = serves.websocket.as_ref().map(websocket::session) else { return };
        match (opened.protocol.as_deref(), serves.sip, &self.network.sip) {
            (Some(sip::PROTOCOL), Some(index), Some(sip)) => {
                sip.accept(index, stream, Some((settings, opened)));
            }
            _ => {
                let Some(index) = serves.msrp else { return };
                let incoming = ws::Incoming::new(ws::Role::Server, settings, now());
                self.network.accept(index, stream, Some((incoming, opened)));
            }
        }
    }

    fn upgrade_failed(&self, peer: SocketAddr, error: UpgradeError) {
        match error {
            // No opening handshake: a browser's address bar, or a proxy in front that speaks HTTP/1.0 or drops Upgrade.
            UpgradeError::Refused { status: status @ (400 | 405 | 426) } if self.failed.tells() => {
                info!(%peer, local = %self.local, status, "connection closed: no WebSocket handshake");
            }
            // A challenge that was not answered, or a reason that was logged where it was found.
            UpgradeError::Refused { status } => {
                debug!(%peer, local = %self.local, status, "connection closed");
            }
            error if self.failed.tells() => {
                warn!(%peer, local = %self.local, %error, "connection closed: WebSocket handshake failed");
            }
            error => debug!(%peer, local = %self.local, %error, "connection closed"),
        }
    }

    fn limit_reached(&self, peer: SocketAddr, limit: LimitReached) {
        // A flood does not become one of the log, nor does one that hovers at the limit.
        match self.full.happens(now()) {
            Some(unsaid) => {
                warn!(%peer, local = %self.local, %limit, unsaid, "connection closed: no room for more");
            }
            None => debug!(%peer, local = %self.local, %limit, "connection closed"),
        }
    }

    fn proxy_failed(&self, proxy: SocketAddr, error: ProxyError) {
        if self.failed.tells() {
            warn!(%proxy, local = %self.local, %error, "connection closed: a proxy must say whose it is");
        } else {
            debug!(%proxy, local = %self.local, %error, "connection closed");
        }
    }

    fn handshake_failed(&self, peer: SocketAddr, error: HandshakeError) {
        if self.failed.tells() {
            warn!(%peer, local = %self.local, %error, "connection closed: TLS handshake failed");
        } else {
            debug!(%peer, local = %self.local, %error, "connection closed");
        }
    }
}

/// Opens connections for the relay. It knows the network weakly: the relay belongs to it.
pub(super) struct RelayDialer(Weak<Network>);

impl RelayDialer {
    pub(super) fn new(network: &Arc<Network>) -> Self {
        Self(Arc::downgrade(network))
    }
}

impl Dialer for RelayDialer {
    fn is_kin(&self, tag: ProcessTag) -> bool {
        self.0.upgrade().is_some_and(|network| network.generations.is_reached(tag))
    }

    fn dial(&self, link: Arc<Link>) {
        if let Some(network) = self.0.upgrade() {
            // In a turn of its own on this thread: what is being read now is in the link's queue then, and a connection that
            // fails at once ends all of it alike.
            tokio::spawn(async move {
                let _entered = network.enter_thread();
                tokio::spawn(Arc::clone(&network).connect(link));
            });
        }
    }

    fn reuse_key(&self, scheme: Scheme, host: &str, port: u16, listener: Option<usize>) -> Option<Box<str>> {
        let network = self.0.upgrade()?;
        let asked = scheme.is_secure() && network.cert_check_on_conn_reusage.load(Ordering::Relaxed);
        let key = || {
            network.client_domains.reuse_key(host, port, network.listener_name(listener).as_deref()).into()
        };
        asked.then(key)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_outbound_says_is_how_connections_are_opened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = async |outbound: &str| {
            let text = format!(
                "domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0' }} ]\ntcp: {{ dscp: 26, lifetime: 5m }}\noutbound: {{ {outbound} }}\n"
            );
            let config =
                Config::parse(&text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
            let target = Target { host: "127.0.0.1".into(), port: address.port(), transport: Transport::Tcp };
            connector(&config).connect(&target, None).await
        };
        let plain = connect("").await.unwrap();
        assert_eq!(plain.options().tos_v4().unwrap(), 26 << 2);
        assert!(plain.options().keepalive().unwrap());
        assert_eq!(plain.entry().lifetime(), Some(Duration::from_secs(300)));
        assert_eq!(
            connect("bind_address: 127.0.0.5").await.unwrap().local_addr().ip().to_string(),
            "127.0.0.5"
        );
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let fixed = connect(&format!("source_port: {free}")).await.unwrap();
        assert_eq!(fixed.local_addr().port(), free);

        let refused = |outcome: Result<Stream, _>| format!("{}", outcome.unwrap_err());
        let none = "no new connections are opened there";
        assert!(refused(connect("no_new_connections: true").await).ends_with(none));
        let destination = |to: &str, what: &str| format!("destinations: [ {{ to: '{to}', {what} }} ]");
        let to_us = format!("127.0.0.1:{}", address.port());
        assert!(refused(connect(&destination(&to_us, "no_new_connections: true")).await).ends_with(none));
        connect(&destination("127.0.0.1:1", "no_new_connections: true")).await.unwrap();
        let own =
            connect(&destination(&to_us, "tcp: { dscp: 0, keepalive: false, lifetime: 1m }")).await.unwrap();
        assert_eq!((own.options().tos_v4().unwrap(), own.options().keepalive().unwrap()), (0, false));
        assert_eq!(own.entry().lifetime(), Some(Duration::from_secs(60)));
        assert!(refused(connect("deny: ['127.0.0.1']").await).contains("outbound policy"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_handshakes_we_begin_have_the_time_that_is_configured() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let config = Config::parse(
            "domain: a\nlisteners: [ { uri: 'msrp://127.0.0.1:0' } ]\ntls: { tls_handshake_timeout: 2s }\n",
            Path::new(""),
            "relay.yaml",
        )
        .unwrap_or_else(|errors| panic!("{errors}"));
        let mut settings = tcp_transport::tls::ClientDomainSettings::new("default");
        settings.verify_cert = false;
        let domain = tcp_transport::tls::ClientDomain::load(&settings).unwrap();
        let target = Target { host: "127.0.0.1".into(), port, transport: Transport::Tls };
        let error = connector(&config).connect(&target, Some(&domain)).await.unwrap_err().to_string();
        assert!(error.ends_with("TLS handshake not complete after 2s"), "{error}");
    }
}
