//! Listeners: bound sockets, the accept loop, and the handshakes it starts.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::event::Direction;
use crate::ledger::{Entry, Ledger, Slots, Ticket};
use crate::proxy_protocol::{self, IpNetwork, PROXY_HEADER_TIMEOUT, ProxyError};
use crate::scheme::Scheme;
use crate::socket::{SocketOptions, set_reuse_port};
use crate::stream::Stream;
use crate::threads::{Thread, Threads};
use crate::tls::{self, DEFAULT_HANDSHAKE_TIMEOUT, HandshakeError, ServerDomains};
use crate::ws;

mod acceptor;
mod pause;

pub use self::acceptor::Acceptor;
pub(crate) use self::pause::{Pause, is_want_of_descriptors};
use self::pause::{Told, is_connections_own};

/// Connections the kernel may hold for us between two accepts: 4096. A relay that restarts gets all
/// its clients back within a second; the kernel cuts the figure to `net.core.somaxconn` anyway.
pub const DEFAULT_BACKLOG: i32 = 4096;

/// Handshakes of a listener that may wait for their first turn. While there are so many, further connections wait in the
/// kernel's backlog: who comes to a relay that has no time is better told so by TCP than by a handshake that is silent.
/// A thread for connections gets its share of them, so that one that hangs does not keep others from them.
pub const MAX_UNSTARTED: usize = 256;

/// What runs directly on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
}

impl Transport {
    /// `tcp` or `tls`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A listener as the configuration says it.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Plain or TLS.
    pub transport: Transport,
    /// The TLS domain that serves whatever no other domain claims; see [`ServerDomains::select`].
    pub tls_domain: Option<String>,
    /// How long a TLS handshake may take; [`DEFAULT_HANDSHAKE_TIMEOUT`].
    pub tls_handshake_timeout: Duration,
    /// Connections waiting to be accepted; [`DEFAULT_BACKLOG`].
    pub backlog: i32,
    /// WebSocket runs over it, and what runs over that is told to [`Acceptor::upgraded`].
    pub websocket: Option<ws::ServerSettings>,
    /// What its connections carry, for events and look-ups. `None` with [`websocket`](Self::websocket) is
    /// [`Scheme::Ws`] or [`Scheme::Wss`].
    pub scheme: Option<Scheme>,
    /// Whether an IPv6 address takes IPv6 alone, so that an IPv4 listener can be one of its own (the
    /// default). Otherwise `[::]` takes IPv4 too; such peers are shown by their IPv4 addresses.
    pub ipv6_only: bool,
    /// SO_REUSEPORT: other sockets that set it too may be on the same address and port: a second process
    /// that takes over, or connections opened from here ([`Source::port`](crate::Source::port)). Off by
    /// default, as it keeps a second process from being noticed.
    pub reuse_port: bool,
    /// The most connections of this listener at once, those in a handshake included; one more is closed
    /// as soon as it is accepted. `None`: no limit of its own.
    pub max_connections: Option<usize>,
    /// What is set on each accepted socket.
    pub socket: SocketOptions,
    /// How long its connections may be idle; `None`: for ever, as far as this layer is concerned.
    pub lifetime: Option<Duration>,
    /// Proxies that say by the PROXY protocol whose connection they pass on. They must; nobody else is
    /// believed. Empty by default.
    pub proxy_from: Vec<IpNetwork>,
}

impl ListenerSettings {
    /// A listener with the default limits and no TLS domain of its own.
    #[must_use]
    pub fn new(addr: SocketAddr, transport: Transport) -> Self {
        Self {
            addr,
            transport,
            tls_domain: None,
            tls_handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            backlog: DEFAULT_BACKLOG,
            websocket: None,
            scheme: None,
            ipv6_only: true,
            reuse_port: false,
            max_connections: None,
            socket: SocketOptions::default(),
            lifetime: None,
            proxy_from: Vec::new(),
        }
    }

    /// What its connections carry.
    fn scheme(&self) -> Option<Scheme> {
        let websocket = self.websocket.as_ref().map(|_| match self.transport {
            Transport::Tcp => Scheme::Ws,
            Transport::Tls => Scheme::Wss,
        });
        self.scheme.or(websocket)
    }
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The socket cannot be made, bound or listened on.
    #[error("cannot listen on {addr}")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The listener's TLS domain does not exist.
    #[error("listener {addr}: there is no TLS server domain {domain:?}")]
    UnknownDomain {
        /// The address.
        addr: SocketAddr,
        /// The name.
        domain: String,
    },
    /// A TLS listener, and no TLS domain at all.
    #[error("listener {addr} is TLS and there is no TLS server domain")]
    NoDomain {
        /// The address.
        addr: SocketAddr,
    },
}

/// A socket that listens.
#[derive(Debug)]
pub struct BoundListener {
    control: ListenerControl,
    domains: Arc<ServerDomains>,
    ledger: Arc<Ledger>,
    slots: Slots,
    threads: Option<Arc<Threads>>,
}

/// The socket of a [`BoundListener`] and its settings, for whoever manages it while it runs. The socket stays open, and
/// the kernel takes connections on it, for as long as one of these is there.
#[derive(Debug, Clone)]
pub struct ListenerControl {
    socket: Arc<TcpListener>,
    local: SocketAddr,
    settings: Arc<ArcSwap<ListenerSettings>>,
    accepting: Arc<watch::Sender<Accepting>>,
}

/// Whether a listener takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepting {
    /// It does.
    On,
    /// Not now: those that come wait in the socket's backlog. Handshakes under way go on.
    Paused,
    /// Never again: [`BoundListener::run`] lets go of the socket, and is done when the handshakes are that are under way.
    /// Connections in the backlog are closed with it, unless another process has the socket.
    Off,
}

impl ListenerControl {
    /// Has it take connections, or not. After [`Accepting::Off`] nothing changes it any more.
    pub fn set_accepting(&self, accepting: Accepting) {
        self.accepting.send_if_modified(|now| {
            let changes = *now != Accepting::Off && *now != accepting;
            if changes {
                *now = accepting;
            }
            changes
        });
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Its settings of this moment.
    #[must_use]
    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.settings.load_full()
    }

    /// Changes its settings, from the next connection on. What belongs to the socket itself (`addr`, `ipv6_only` and
    /// `reuse_port`) is as it was bound; a `backlog` that the system does not take stays as it was.
    pub fn update(&self, settings: ListenerSettings) {
        if settings.backlog != self.settings.load().backlog {
            let _ = SockRef::from(&*self.socket).listen(settings.backlog);
        }
        self.settings.store(Arc::new(settings));
    }

    /// The same socket once more, for a listener that takes its place.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn duplicate(&self) -> io::Result<std::net::TcpListener> {
        Ok(self.socket.as_fd().try_clone_to_owned()?.into())
    }
}

impl AsFd for ListenerControl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl BoundListener {
    /// Binds and listens; from here on the kernel takes connections. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address is in use or not ours; the TLS domain does not exist.
    pub fn bind(settings: ListenerSettings, domains: Arc<ServerDomains>) -> Result<Self, BindError> {
        check_domain(&settings, &domains)?;
        let addr = settings.addr;
        let socket = listen(&settings).map_err(|source| BindError::Socket { addr, source })?;
        Self::on(socket, settings, domains)
    }

    /// As [`bind`](Self::bind), with a socket that somebody else has bound and listens on: the process before this one,
    /// or a service manager. It is as they have bound it, but for the `backlog`.
    ///
    /// # Errors
    /// It is not a socket that can listen; the TLS domain does not exist.
    pub fn adopt(
        socket: std::net::TcpListener,
        settings: ListenerSettings,
        domains: Arc<ServerDomains>,
    ) -> Result<Self, BindError> {
        check_domain(&settings, &domains)?;
        let addr = settings.addr;
        let adopt = || {
            socket.set_nonblocking(true)?;
            SockRef::from(&socket).listen(settings.backlog)?;
            TcpListener::from_std(socket)
        };
        let socket = adopt().map_err(|source| BindError::Socket { addr, source })?;
        Self::on(socket, settings, domains)
    }

    fn on(
        socket: TcpListener,
        settings: ListenerSettings,
        domains: Arc<ServerDomains>,
    ) -> Result<Self, BindError> {
        let addr = settings.addr;
        let local = socket.local_addr().map_err(|source| BindError::Socket { addr, source })?;
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let accepting = Arc::new(watch::Sender::new(Accepting::On));
        let control = ListenerControl { socket: Arc::new(socket), local, settings, accepting };
        Ok(Self { control, domains, ledger: Arc::default(), slots: Slots::default(), threads: None })
    }

    /// Has its handshakes take these domains, and not those it was bound with; they have its own among them.
    #[must_use]
    pub fn with_domains(self, domains: Arc<ServerDomains>) -> Self {
        Self { domains, ..self }
    }

    /// Enters its connections in `ledger`, whose limits and events then are theirs.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<Ledger>) -> Self {
        Self { ledger, ..self }
    }

    /// Has its connections on these threads, their handshakes included; without, they are tasks of the runtime that it
    /// runs on itself.
    #[must_use]
    pub fn with_threads(self, threads: Arc<Threads>) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.control.local
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> Arc<ListenerSettings> {
        self.control.settings()
    }

    /// By which it is managed while it runs.
    #[must_use]
    pub fn control(&self) -> &ListenerControl {
        &self.control
    }

    /// Accepts until the future is dropped, or until [`ListenerControl::set_accepting`] ends it. Each handshake is a task
    /// of its own, so a slow one keeps nobody waiting; they end with the future. Errors of single connections
    /// and want of resources are survived.
    pub async fn run<A: Acceptor>(self, acceptor: Arc<A>) {
        let mut handshakes = JoinSet::new();
        self.accept(&mut handshakes, &acceptor).await;
        drop(self);
        while handshakes.join_next().await.is_some() {}
    }

    /// Accepts until that is over.
    async fn accept<A: Acceptor>(&self, handshakes: &mut JoinSet<()>, acceptor: &Arc<A>) {
        let mut accepting = self.control.accepting.subscribe();
        let unstarted = Arc::new(Semaphore::new(MAX_UNSTARTED));
        let mut pause = Pause::default();
        let mut told = Told::default();
        loop {
            let now = *accepting.borrow_and_update();
            if now == Accepting::Off {
                return;
            }
            if unstarted.available_permits() == 0 {
                told.no_time(self.control.local);
            }
            let (tcp, peer, place) = tokio::select! {
                _ = accepting.changed() => continue,
                accepted = self.next(&unstarted), if now == Accepting::On => match accepted {
                    Ok(connection) => {
                        pause.over(self.control.local);
                        connection
                    }
                    Err(e) if is_connections_own(&e) => {
                        tracing::debug!(listener = %self.control.local, error = %e, "connection was gone before accept");
                        continue;
                    }
                    Err(e) => {
                        if pause.begins(self.control.local, &e) {
                            acceptor.accept_paused(&e);
                        }
                        // Before anybody is asked to leave, so as not to miss that.
                        let one_left = self.ledger.one_left();
                        if is_want_of_descriptors(&e) {
                            self.ledger.make_room();
                        }
                        tokio::select! {
                            () = tokio::time::sleep(pause.next()) => {}
                            () = one_left => {}
                        }
                        continue;
                    }
                },
                Some(_) = handshakes.join_next() => continue,
            };
            self.take(tcp, canonical(peer), place, handshakes, acceptor);
        }
    }

    /// The next connection, when there is a place for its handshake.
    async fn next(
        &self,
        unstarted: &Arc<Semaphore>,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = Arc::clone(unstarted).acquire_owned().await.map_err(io::Error::other)?;
        let (tcp, peer) = self.control.socket.accept().await?;
        Ok((tcp, peer, place))
    }

    /// Takes one connection in, or begins its handshake.
    fn take<A: Acceptor>(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
        handshakes: &mut JoinSet<()>,
        acceptor: &Arc<A>,
    ) {
        if !acceptor.admit(peer) {
            return;
        }
        let settings = self.control.settings();
        let entry = Entry::new(
            Direction::Inbound,
            settings.transport,
            settings.scheme(),
            Some(self.address_of(&tcp)),
            peer,
        );
        let ticket = match self.ledger.accepting(entry, &self.slots, settings.max_connections) {
            Ok(ticket) => ticket,
            Err(limit) => return acceptor.limit_reached(peer, limit),
        };
        ticket.entry().set_lifetime(settings.lifetime);
        // It fails only on a socket that is dead already, which shows itself below.
        let _ = settings.socket.apply(&SockRef::from(&tcp), &self.control.local);
        let thread = self.threads.as_ref().map(|threads| threads.least());
        let _entered = thread.map(Thread::enter);
        let tcp = match self.placed(tcp) {
            Ok(tcp) => tcp,
            Err(error) => return fail(HandshakeError::Io(error), &ticket, &**acceptor),
        };
        if is_proxy(&settings, peer) || settings.transport == Transport::Tls || settings.websocket.is_some() {
            let entry = Arc::clone(ticket.entry());
            let places = (place, thread.map(Thread::starting));
            let handshake = self.handshake(tcp, peer, ticket, places, settings, acceptor.clone());
            entry.set_handshake(handshakes.spawn(handshake));
            return;
        }
        let Some(ticket) = counted(ticket, &**acceptor) else { return };
        match Stream::plain(tcp, peer) {
            Ok(stream) => enter(stream, ticket, &**acceptor),
            Err(error) => fail(HandshakeError::Io(error), &ticket, &**acceptor),
        }
    }

    /// The socket on the thread that was entered: until now it was waited for by the one that accepts.
    fn placed(&self, tcp: TcpStream) -> io::Result<TcpStream> {
        if self.threads.is_none() { Ok(tcp) } else { TcpStream::from_std(tcp.into_std()?) }
    }

    /// Where the client reached us: on a wildcard address that is for the socket to say.
    fn address_of(&self, tcp: &TcpStream) -> SocketAddr {
        let told = if self.control.local.ip().is_unspecified() { tcp.local_addr().ok() } else { None };
        told.map_or(self.control.local, canonical)
    }

    fn handshake<A: Acceptor>(
        &self,
        mut tcp: TcpStream,
        mut peer: SocketAddr,
        ticket: Ticket,
        places: (OwnedSemaphorePermit, Option<Arc<()>>),
        settings: Arc<ListenerSettings>,
        acceptor: Arc<A>,
    ) -> impl Future<Output = ()> + Send + use<A> {
        let domains = self.domains.clone();
        async move {
            // Its first turn.
            drop(places);
            if is_proxy(&settings, peer) {
                match proxy_protocol::read(&mut tcp, PROXY_HEADER_TIMEOUT).await {
                    Ok(header) => {
                        if let Some(client) = header.client {
                            ticket.entry().set_client(client);
                            peer = client;
                        }
                    }
                    Err(error) => {
                        ticket.failed(matches!(error, ProxyError::Timeout(_)), &error);
                        return acceptor.proxy_failed(peer, error);
                    }
                }
            }
            let Some(ticket) = counted(ticket, &*acceptor) else { return };
            let stream = match settings.transport {
                Transport::Tcp => Stream::plain(tcp, peer).map_err(HandshakeError::Io),
                Transport::Tls => {
                    let (domain, limit) = (settings.tls_domain.as_deref(), settings.tls_handshake_timeout);
                    tls::accept(tcp, peer, &domains, domain, limit).await
                }
            };
            match (stream, &settings.websocket) {
                (Ok(stream), None) => enter(stream, ticket, &*acceptor),
                (Ok(stream), Some(settings)) => upgrade(stream, ticket, settings, &*acceptor).await,
                (Err(error), _) => fail(error, &ticket, &*acceptor),
            }
        }
    }
}

/// Whether the peer is a proxy that says whose connection it passes on.
fn is_proxy(settings: &ListenerSettings, peer: SocketAddr) -> bool {
    settings.proxy_from.iter().any(|network| network.contains(peer.ip()))
}

/// Whether the domain of a TLS listener is there.
fn check_domain(settings: &ListenerSettings, domains: &ServerDomains) -> Result<(), BindError> {
    let addr = settings.addr;
    if settings.transport != Transport::Tls {
        return Ok(());
    }
    if let Some(domain) = settings.tls_domain.as_deref().filter(|name| domains.by_name(name).is_none()) {
        return Err(BindError::UnknownDomain { addr, domain: domain.to_owned() });
    }
    if domains.is_empty() { Err(BindError::NoDomain { addr }) } else { Ok(()) }
}

/// Counts the connection for its address; none if there are too many of that.
fn counted<A: Acceptor>(ticket: Ticket, acceptor: &A) -> Option<Ticket> {
    let peer = ticket.entry().remote();
    ticket.count_address().map_err(|limit| acceptor.limit_reached(peer, limit)).ok()
}

fn enter<A: Acceptor>(mut stream: Stream, ticket: Ticket, acceptor: &A) {
    stream.enter(ticket);
    acceptor.accepted(stream);
}

/// The opening handshake of a WebSocket.
async fn upgrade<A: Acceptor>(
    mut stream: Stream,
    ticket: Ticket,
    settings: &ws::ServerSettings,
    acceptor: &A,
) {
    stream.attach(ticket);
    match ws::accept(&stream, settings, acceptor).await {
        Ok(opened) => {
            stream.opened();
            acceptor.upgraded(stream, opened);
        }
        Err(error) => {
            stream.failed(error.is_timeout(), &error);
            acceptor.upgrade_failed(stream.entry().remote(), error);
        }
    }
}

fn fail<A: Acceptor>(error: HandshakeError, ticket: &Ticket, acceptor: &A) {
    ticket.failed(matches!(error, HandshakeError::Timeout(_)), &error);
    acceptor.handshake_failed(ticket.entry().remote(), error);
}

/// What a dual-stack socket shows as an IPv4-mapped address is the IPv4 address.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        ip if ip == peer.ip() => peer,
        ip => SocketAddr::new(ip, peer.port()),
    }
}

fn listen(settings: &ListenerSettings) -> io::Result<TcpListener> {
    let addr = settings.addr;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the TIME_WAIT of the former process' connections.
    socket.set_reuse_address(true)?;
    if settings.reuse_port {
        set_reuse_port(&SockRef::from(&socket))?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(settings.ipv6_only)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(settings.backlog)?;
    TcpListener::from_std(socket.into())
}
