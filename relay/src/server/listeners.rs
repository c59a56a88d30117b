//! The listeners: their sockets are opened first ([`Opened`]), and then each is run by a task of its own
//! ([`Listeners`]), which ends when the listener is taken away or the relay stops. Between the two nothing is
//! accepted, though the kernel takes connections already.
//!
//! A socket is bound here, or taken from [`Inherited`], where there are those that somebody else has opened. What becomes
//! of one that a service manager keeps open, too, while no listener accepts on it, is in [`kept`].
//!
//! What clients of a listener are is known by numbers that connections and sessions keep: [`Serves::msrp`] and
//! [`Serves::sip`]. They are never those of another listener, also not when it is gone.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tcp_transport::hep::{Dispatch, Receiver};
use tcp_transport::tls::ServerDomains;
use tcp_transport::{
    Accepting, BindError, BoundListener, ListenerControl, ListenerSettings, Scheme, Transport,
};
use tokio::task::JoinHandle;

use super::hep::Concentrator;
use super::network::{ListenerAcceptor, Network, Serves};
use super::{Inherited, StartError, websocket};
use crate::config::{Config, Host, Listener, ListenerTransport, WebSocket};
use crate::msrp::{Advertised, WebSocketLink};

mod accepting;

use self::accepting::Closed;
pub use self::accepting::ReopenError;
mod change;
mod kept;
mod overlap;

use self::kept::Kept;

/// A socket of a listener, before it is run.
#[derive(Debug)]
struct OpenSocket {
    socket: Socket,
    /// A service manager has it open, too.
    managed: bool,
}

#[derive(Debug)]
enum Socket {
    Stream(Box<BoundListener>),
    /// HEP over UDP.
    Datagram(Receiver),
}

impl Socket {
    fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Stream(listener) => listener.local_addr(),
            Self::Datagram(receiver) => receiver.local_addr(),
        }
    }

    fn is_udp(&self) -> bool {
        matches!(self, Self::Datagram(_))
    }
}

/// A listener whose sockets are open, and which accepts nothing yet.
#[derive(Debug)]
pub(super) struct Opened {
    listener: Listener,
    sockets: Vec<OpenSocket>,
    hep: Option<Arc<Dispatch>>,
}

impl Opened {
    /// Opens the sockets of a listener: those of `inherited` that fit, and what is not there is bound.
    pub(super) fn open(
        listener: &Listener,
        config: &Config,
        domains: &Arc<ServerDomains>,
        concentrator: &Arc<Concentrator>,
        inherited: &mut Inherited,
    ) -> Result<Self, StartError> {
        let hep = listener.hep.then(|| concentrator.dispatch(listener.to_string()));
        let mut addresses = match &listener.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, listener.port)],
            Host::Name(name) => {
                // Rare enough, and short enough, to be waited for: names of this machine.
                let found = (name.as_str(), listener.port).to_socket_addrs();
                let found =
                    found.map_err(|source| StartError::Resolve { listener: listener.to_string(), source })?;
                found.collect()
            }
        };
        addresses.sort_unstable();
        addresses.dedup();
        if listener.port == 0 {
            // One port is advertised, so there is one socket.
            addresses.truncate(1);
        }
        let mut open = |addr| {
            let settings = listener_settings(listener, config, addr);
            let domains = Arc::clone(domains);
            match hep.as_ref().filter(|_| listener.transport == ListenerTransport::Udp).cloned() {
                Some(dispatch) => match inherited.take_udp(addr, &listener.to_string()) {
                    Some(socket) => Receiver::udp_adopt(socket, dispatch),
                    None => Receiver::udp_with(&settings, dispatch),
                }
                .map(Socket::Datagram)
                .map_err(|source| BindError::Socket { addr, source }),
                None => match inherited.take_tcp(addr, &listener.to_string()) {
                    Some(socket) => BoundListener::adopt(socket, settings, domains),
                    None => BoundListener::bind(settings, domains),
                }
                .map(|socket| Socket::Stream(Box::new(socket))),
            }
            .map(|socket| {
                let managed = inherited.is_managed_at(socket.local_addr(), socket.is_udp());
                OpenSocket { socket, managed }
            })
        };
        let sockets = addresses.into_iter().map(&mut open).collect::<Result<_, _>>()?;
        Ok(Self { listener: listener.clone(), sockets, hep })
    }

    fn bound_port(&self) -> u16 {
        self.sockets.first().map_or(self.listener.port, |open| open.socket.local_addr().port())
    }

    /// What it calls itself in the URIs of MSRP, if it serves that; `domain` is the relay's.
    pub(super) fn msrp(&self, domain: &Host) -> Option<Advertised> {
        advertised_msrp(&self.listener, self.bound_port(), domain)
    }

    /// Likewise for SIP.
    pub(super) fn sip(&self, domain: &Host) -> Option<crate::sip::Advertised> {
        advertised_sip(&self.listener, self.bound_port(), domain)
    }

    /// Where its connections come in, with its name; datagrams have none.
    pub(super) fn names(&self) -> impl Iterator<Item = (SocketAddr, String)> {
        let streams = self.sockets.iter().filter(|open| !open.socket.is_udp());
        streams.map(|open| (open.socket.local_addr(), self.listener.to_string()))
    }
}

/// What a listener calls itself in the URIs of MSRP, if it serves that.
fn advertised_msrp(listener: &Listener, bound_port: u16, domain: &Host) -> Option<Advertised> {
    let (host, port) = listener.advertised(domain, bound_port);
    let chunk_size = |websocket: &WebSocket| WebSocketLink { chunk_size: websocket.chunk_size };
    listener.serves_msrp().then(|| Advertised {
        scheme: listener.msrp_scheme(),
        host: host.to_string(),
        port,
        bound_port,
        websocket: listener.websocket.as_ref().map(chunk_size),
    })
}

/// Likewise for SIP.
fn advertised_sip(listener: &Listener, bound_port: u16, domain: &Host) -> Option<crate::sip::Advertised> {
    let (host, port) = listener.advertised(domain, bound_port);
    let transport = sip_transport(listener);
    listener.sip.then(|| crate::sip::Advertised { transport, host: host.to_string().into(), port })
}

/// All listeners.
#[derive(Debug)]
pub(super) struct Listeners(Mutex<All>);

#[derive(Debug)]
struct All {
    /// Those that run, in the order in which they were begun.
    running: Vec<Running>,
    /// Sockets that no listener is for.
    kept: Vec<Kept>,
    /// Whether those that are begun accept at once.
    accepting: bool,
    /// Tasks that were told to end, and have their sockets until they get a turn.
    ending: Vec<JoinHandle<()>>,
}

/// One that runs.
#[derive(Debug)]
struct Running {
    listener: Listener,
    /// Shared with its tasks.
    serves: Arc<ArcSwap<Serves>>,
    hep: Option<Arc<Dispatch>>,
    sockets: Vec<RunningSocket>,
    /// Those that were closed, and may be opened again.
    closed: Vec<Closed>,
    /// What is left of their tasks: handshakes that were under way.
    handshakes: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct RunningSocket {
    address: SocketAddr,
    socket: Shared,
    /// A service manager has it open, too.
    managed: bool,
    task: JoinHandle<()>,
}

/// The socket, which its task reads from.
#[derive(Debug)]
enum Shared {
    Stream(ListenerControl),
    Datagram(Arc<tokio::net::UdpSocket>),
}

impl Listeners {
    /// None yet. Those that are begun accept at once, or not before [`set_accepting`](Self::set_accepting) says so.
    pub(super) fn new(accepting: bool) -> Self {
        Self(Mutex::new(All { running: Vec::new(), kept: Vec::new(), accepting, ending: Vec::new() }))
    }

    /// Begins to accept; `msrp` and `sip` are its numbers there.
    pub(super) fn run(
        &self,
        opened: Opened,
        network: &Arc<Network>,
        msrp: Option<usize>,
        sip: Option<usize>,
    ) {
        let mut all = self.0.lock();
        let running = running(opened, network, msrp, sip, all.accepting);
        all.running.push(running);
    }

    /// Where they listen, with the scheme of the listener's URI.
    pub(super) fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let all = self.0.lock();
        let of_one = |running: &Running| {
            let scheme = running.listener.uri_scheme();
            running.sockets.iter().map(move |socket| (scheme, socket.address)).collect::<Vec<_>>()
        };
        all.running.iter().flat_map(of_one).collect()
    }

    /// The sockets once more, each with the listener's name: for the process that comes after this one. They stay open
    /// here too.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(super) fn duplicates(&self) -> std::io::Result<Vec<Duplicate>> {
        let all = self.0.lock();
        let mut duplicates = Vec::new();
        for Running { listener, sockets, .. } in &all.running {
            for RunningSocket { socket, managed, .. } in sockets {
                let (listener, managed) = (listener.to_string(), *managed);
                duplicates.push(Duplicate { listener, socket: socket.duplicate()?, managed });
            }
        }
        for kept in &all.kept {
            let listener = kept.listener.clone();
            duplicates.push(Duplicate { listener, socket: kept.duplicate()?, managed: true });
        }
        Ok(duplicates)
    }

    /// What receives HEP, one for each listener for it.
    pub(super) fn hep(&self) -> Vec<Arc<Dispatch>> {
        self.0.lock().running.iter().filter_map(|running| running.hep.clone()).collect()
    }

    /// Ends all: nothing is accepted any more, handshakes under way end, and the sockets are closed.
    /// Connections that are there go on.
    pub(super) async fn stop(&self) {
        let mut ended = Vec::new();
        // What they have counted is still asked for.
        let mut handshakes = Vec::new();
        {
            let mut all = self.0.lock();
            for running in &mut all.running {
                ended.append(&mut running.sockets);
                handshakes.append(&mut running.handshakes);
                running.closed.clear();
            }
            all.kept.clear();
        }
        for socket in ended {
            socket.end().await;
        }
        for task in handshakes {
            task.abort();
            let _ = task.await;
        }
    }

    /// As [`stop`](Self::stop), without waiting until it is so.
    pub(super) fn abort(&self) {
        let mut all = self.0.lock();
        all.kept.clear();
        for running in &mut all.running {
            running.closed.clear();
            running
                .sockets
                .iter()
                .map(|socket| &socket.task)
                .chain(&running.handshakes)
                .for_each(JoinHandle::abort);
        }
    }
}

/// A socket for another process.
#[derive(Debug)]
pub(super) struct Duplicate {
    /// The name of its listener.
    pub(super) listener: String,
    pub(super) socket: OwnedFd,
    /// A service manager has it open, too.
    pub(super) managed: bool,
}

impl Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(control) => control.as_fd(),
            Self::Datagram(socket) => socket.as_fd(),
        }
    }

    fn duplicate(&self) -> std::io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    fn is_udp(&self) -> bool {
        matches!(self, Self::Datagram(_))
    }
}

impl RunningSocket {
    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn serves(
    listener: &Listener,
    msrp: Option<usize>,
    sip: Option<usize>,
    hep: Option<Arc<Dispatch>>,
) -> Serves {
    let (websocket, proxied) = (listener.websocket.clone(), !listener.proxy_from.is_empty());
    Serves { msrp, sip, websocket, hep, proxied }
}

/// Begins to accept, if it is `accepting`; `msrp` and `sip` are its numbers there.
fn running(
    opened: Opened,
    network: &Arc<Network>,
    msrp: Option<usize>,
    sip: Option<usize>,
    accepting: bool,
) -> Running {
    let Opened { listener, sockets, hep } = opened;
    let serves = Arc::new(ArcSwap::from_pointee(serves(&listener, msrp, sip, hep.clone())));
    let run = |open: OpenSocket| run(open, &serves, network, accepting);
    let sockets = sockets.into_iter().filter_map(run).collect();
    let (closed, handshakes) = (Vec::new(), Vec::new());
    Running { listener, serves, hep, sockets, closed, handshakes }
}

/// Begins to accept on one socket.
fn run(
    OpenSocket { socket, managed }: OpenSocket,
    serves: &Arc<ArcSwap<Serves>>,
    network: &Arc<Network>,
    accepting: bool,
) -> Option<RunningSocket> {
    let address = socket.local_addr();
    match socket {
        Socket::Stream(socket) => {
            let acceptor = ListenerAcceptor::new(Arc::clone(network), Arc::clone(serves), address);
            let control = socket.control().clone();
            if !accepting {
                control.set_accepting(Accepting::Paused);
            }
            let running = socket.with_domains(Arc::clone(&network.server_domains));
            let running = match &network.threads {
                Some(threads) => running.with_threads(Arc::clone(threads)),
                None => running,
            };
            let running = running.with_ledger(Arc::clone(network.ledger())).run(Arc::new(acceptor));
            let task = tokio::spawn(running);
            Some(RunningSocket { address, socket: Shared::Stream(control), managed, task })
        }
        Socket::Datagram(receiver) => {
            let socket = Shared::Datagram(receiver.udp_socket()?);
            Some(RunningSocket { address, socket, managed, task: tokio::spawn(receiver.run()) })
        }
    }
}

/// The names of those given, by where their connections come in.
pub(super) fn names(opened: &[Opened]) -> HashMap<SocketAddr, String> {
    opened.iter().flat_map(Opened::names).collect()
}

/// How SIP is carried over a listener.
fn sip_transport(listener: &Listener) -> crate::sip::Transport {
    use crate::sip::Transport as Sip;
    match listener.scheme() {
        Scheme::Sips => Sip::Tls,
        // What clients see, who end their TLS at a proxy in front.
        Scheme::Ws if listener.is_secure() => Sip::Wss,
        Scheme::Ws => Sip::Ws,
        Scheme::Wss => Sip::Wss,
        _ => Sip::Tcp,
    }
}

fn listener_settings(listener: &Listener, config: &Config, addr: SocketAddr) -> ListenerSettings {
    let (transport, tls_domain) = match &listener.transport {
        ListenerTransport::Tcp | ListenerTransport::Udp => (Transport::Tcp, None),
        ListenerTransport::Tls { domain } => (Transport::Tls, Some(domain.clone())),
    };
    ListenerSettings {
        addr,
        transport,
        tls_domain,
        tls_handshake_timeout: config.tls.tls_handshake_timeout,
        backlog: listener.backlog,
        websocket: listener.websocket.as_ref().map(websocket::handshake),
        scheme: Some(listener.scheme()),
        ipv6_only: listener.ipv6_only,
        reuse_port: listener.reuse_port,
        max_connections: listener.max_connections,
        socket: listener.tcp.socket,
        lifetime: Some(listener.tcp.lifetime),
        proxy_from: listener.proxy_from.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_setting_of_a_listener_reaches_its_socket() {
        let text = "domain: a\nlisteners:\n  - { uri: 'msrp://[::1]:1', max_connections: 7, backlog: 9, ipv6_only: false, \
                    reuse_port: true, proxy_from: 10.0.0.0/8, tcp: { lifetime: 5m, keepidle: 30s, nodelay: false, dscp: 26 } }\n\
                    tls: { tls_handshake_timeout: 2s }\n";
        let config =
            Config::parse(text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        let settings = listener_settings(&config.listeners[0], &config, "[::1]:1".parse().unwrap());
        assert_eq!((settings.max_connections, settings.backlog), (Some(7), 9));
        assert!(!settings.ipv6_only && settings.reuse_port && !settings.socket.nodelay);
        assert_eq!(settings.proxy_from, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(settings.lifetime, Some(Duration::from_secs(300)));
        assert_eq!(settings.socket.keepalive.unwrap().idle, Duration::from_secs(30));
        assert_eq!(settings.socket.dscp, tcp_transport::Dscp::new(26));
        assert_eq!(settings.scheme, Some(Scheme::Msrp));
        assert_eq!(settings.tls_handshake_timeout, Duration::from_secs(2));
    }
}
