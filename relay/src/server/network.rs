//! Where connections come from: accepted by a listener, or opened for a link that waits for one.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use msrp_proto::uri::Scheme;
use tcp_transport::tls::{ClientDomain, HandshakeError, PeerCertificate};
use tcp_transport::{
    Acceptor, ConnectSettings, Connector, DialOptions, DriverSettings, Registry, Stream, Target, Transport,
    connection,
};
use tracing::{debug, info, warn};

use super::connection::{ConnectionWire, MsrpConnection};
use super::now;
use crate::config::Config;
use crate::msrp::{Dialer, Inbound, Link, Peer, Relay};

/// All connections of the process, and what opening one needs.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) relay: Arc<Relay>,
    pub(super) connections: Registry<Arc<Link>>,
    connector: Connector,
    client_domain: ClientDomain,
    /// The most connections at once.
    limit: Option<usize>,
}

impl Network {
    pub(super) fn new(relay: Arc<Relay>, config: &Config, client_domain: ClientDomain) -> Self {
        let policy = config.outbound.clone();
        let permits = move |address: SocketAddr, transport: Transport| {
            let scheme = match transport {
                Transport::Tcp => Scheme::Msrp,
                Transport::Tls => Scheme::Msrps,
            };
            let permitted = policy.permits(scheme, address);
            if let Err(denied) = &permitted {
                warn!(%address, %denied, "the outbound policy forbids a connection");
            }
            permitted.is_ok()
        };
        let settings = ConnectSettings {
            dial: DialOptions { connect_timeout: config.timeouts.connect_timeout, ..DialOptions::default() },
            tls_handshake_timeout: config.tls.tls_handshake_timeout,
            ..ConnectSettings::default()
        };
        Self {
            relay,
            connections: Registry::new(),
            connector: Connector::new(settings, permits),
            client_domain,
            limit: config.limits.connections,
        }
    }

    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.connections.len() < limit)
    }

    fn accept(self: &Arc<Self>, listener: usize, stream: Stream) {
        let peer = peer_of(&stream);
        let (handle, driver) = connection::open(stream, DriverSettings::default());
        let now = now();
        let link = self.relay.accepted(listener, peer, Box::new(ConnectionWire(handle.clone())), now);
        debug!(link = link.id(), connection = %handle.id(), peer = ?link.peer(), "accepted");
        self.connections.insert(handle.clone(), None, Arc::clone(&link));
        let inbound = Inbound::new(Arc::clone(&self.relay), link, now);
        tokio::spawn(driver.run(MsrpConnection::new(Arc::clone(self), handle, inbound)));
    }

    async fn connect(self: Arc<Self>, link: Arc<Link>) {
        let Some(target) = link.target() else { return };
        if !self.has_room() {
            warn!(link = link.id(), %target, "not connecting: `limits.connections` is reached");
            return self.relay.connect_failed(&link, now());
        }
        let transport = if target.scheme.is_secure() { Transport::Tls } else { Transport::Tcp };
        let to = Target { host: target.host.to_string(), port: target.port, transport };
        match self.connector.connect(&to, Some(&self.client_domain)).await {
            Ok(stream) => {
                let peer = peer_of(&stream);
                let (handle, driver) = connection::open(stream, DriverSettings::default());
                info!(link = link.id(), connection = %handle.id(), %target, address = peer.address, "connected");
                self.connections.insert(handle.clone(), None, Arc::clone(&link));
                let now = now();
                let inbound = Inbound::new(Arc::clone(&self.relay), Arc::clone(&link), now);
                let protocol = MsrpConnection::new(Arc::clone(&self), handle.clone(), inbound);
                self.relay.connected(&link, peer, Box::new(ConnectionWire(handle)), now);
                tokio::spawn(driver.run(protocol));
            }
            Err(error) => {
                warn!(link = link.id(), %target, %error, "connection failed");
                self.relay.connect_failed(&link, now());
            }
        }
    }
}

fn peer_of(stream: &Stream) -> Peer {
    Peer {
        address: stream.peer_addr().to_string(),
        secure: stream.tls().is_some(),
        certificate: stream.tls().map_or(PeerCertificate::None, |tls| tls.peer().clone()),
    }
}

/// What one listener tells.
pub(super) struct ListenerAcceptor {
    network: Arc<Network>,
    index: usize,
    local: SocketAddr,
}

impl ListenerAcceptor {
    pub(super) fn new(network: Arc<Network>, index: usize, local: SocketAddr) -> Self {
        Self { network, index, local }
    }
}

impl Acceptor for ListenerAcceptor {
    fn admit(&self, peer: SocketAddr) -> bool {
        let room = self.network.has_room();
        if !room {
            warn!(%peer, local = %self.local, "connection closed: `limits.connections` is reached");
        }
        room
    }

    fn accepted(&self, stream: Stream) {
        self.network.accept(self.index, stream);
    }

    fn handshake_failed(&self, peer: SocketAddr, error: HandshakeError) {
        warn!(%peer, local = %self.local, %error, "connection closed: TLS handshake failed");
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
    fn dial(&self, link: Arc<Link>) {
        if let Some(network) = self.0.upgrade() {
            tokio::spawn(network.connect(link));
        }
    }
}
