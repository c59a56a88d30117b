//! Listeners: bound sockets, the accept loop, and the handshakes it starts.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::stream::Stream;
use crate::tls::{self, DEFAULT_HANDSHAKE_TIMEOUT, HandshakeError, ServerDomains};

/// Connections the kernel may hold for us between two accepts: 4096. A relay that restarts gets all
/// its clients back within a second; the kernel cuts the figure to `net.core.somaxconn` anyway.
pub const DEFAULT_BACKLOG: i32 = 4096;

/// The first and the longest pause after an accept that failed for want of resources. Nothing else
/// can be done than to wait for connections to end, and trying on without a pause burns a core.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

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
    /// Where to listen; port 0 takes a free one. An IPv6 address takes IPv6 alone.
    pub addr: SocketAddr,
    /// Plain or TLS.
    pub transport: Transport,
    /// The TLS domain that serves whatever no other domain claims; see [`ServerDomains::select`].
    pub tls_domain: Option<String>,
    /// How long a TLS handshake may take; [`DEFAULT_HANDSHAKE_TIMEOUT`].
    pub tls_handshake_timeout: Duration,
    /// Connections waiting to be accepted; [`DEFAULT_BACKLOG`].
    pub backlog: i32,
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
        }
    }
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The socket cannot be made, bound or listened on.
    #[error("cannot listen on {addr}: {source}")]
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

/// What a listener tells, and whom it asks. Called from the accept loop and from handshake tasks, so
/// an implementation does not block.
pub trait Acceptor: Send + Sync + 'static {
    /// Whether a connection from `peer` is taken at all; asked before any handshake. `false` closes
    /// it at once.
    fn admit(&self, peer: SocketAddr) -> bool {
        let _ = peer;
        true
    }

    /// A connection is there, its handshake (if any) done: start its driver.
    fn accepted(&self, stream: Stream);

    /// A handshake came to nothing; the connection is closed.
    fn handshake_failed(&self, peer: SocketAddr, error: HandshakeError);

    /// Accepting pauses because of `error` (descriptors or memory ran out). Told once until it works
    /// again; it is logged already.
    fn accept_paused(&self, error: &io::Error) {
        let _ = error;
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct BoundListener {
    socket: TcpListener,
    local: SocketAddr,
    settings: ListenerSettings,
    domains: Arc<ServerDomains>,
}

impl BoundListener {
    /// Binds and listens; from here on the kernel takes connections. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address is in use or not ours; the TLS domain does not exist.
    pub fn bind(settings: ListenerSettings, domains: Arc<ServerDomains>) -> Result<Self, BindError> {
        let addr = settings.addr;
        if settings.transport == Transport::Tls {
            if let Some(domain) =
                settings.tls_domain.as_deref().filter(|name| domains.by_name(name).is_none())
            {
                return Err(BindError::UnknownDomain { addr, domain: domain.to_owned() });
            }
            if domains.is_empty() {
                return Err(BindError::NoDomain { addr });
            }
        }
        let socket = listen(addr, settings.backlog).map_err(|source| BindError::Socket { addr, source })?;
        let local = socket.local_addr().map_err(|source| BindError::Socket { addr, source })?;
        Ok(Self { socket, local, settings, domains })
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &ListenerSettings {
        &self.settings
    }

    /// Accepts until the future is dropped; it never completes. Each handshake is a task of its own,
    /// so a slow one keeps nobody waiting; they end with the future. Errors of single connections
    /// and want of resources are survived.
    pub async fn run<A: Acceptor>(self, acceptor: Arc<A>) {
        let mut handshakes = JoinSet::new();
        let mut pause = Pause::default();
        loop {
            let (tcp, peer) = tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok(connection) => {
                        pause.over(self.local);
                        connection
                    }
                    Err(e) if is_connections_own(&e) => {
                        tracing::debug!(listener = %self.local, error = %e, "connection was gone before accept");
                        continue;
                    }
                    Err(e) => {
                        if pause.begins(self.local, &e) {
                            acceptor.accept_paused(&e);
                        }
                        tokio::time::sleep(pause.next()).await;
                        continue;
                    }
                },
                Some(_) = handshakes.join_next() => continue,
            };
            if !acceptor.admit(peer) {
                continue;
            }
            // Small answers must not wait for Nagle. It fails only on a socket that is dead already.
            let _ = SockRef::from(&tcp).set_tcp_nodelay(true);
            match self.settings.transport {
                Transport::Tcp => match Stream::plain(tcp, peer) {
                    Ok(stream) => acceptor.accepted(stream),
                    Err(e) => acceptor.handshake_failed(peer, HandshakeError::Io(e)),
                },
                Transport::Tls => {
                    handshakes.spawn(self.handshake(tcp, peer, acceptor.clone()));
                }
            }
        }
    }

    fn handshake<A: Acceptor>(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        acceptor: Arc<A>,
    ) -> impl Future<Output = ()> + Send + use<A> {
        let domains = self.domains.clone();
        let tls_domain = self.settings.tls_domain.clone();
        let limit = self.settings.tls_handshake_timeout;
        async move {
            match tls::accept(tcp, peer, &domains, tls_domain.as_deref(), limit).await {
                Ok(stream) => acceptor.accepted(stream),
                Err(error) => acceptor.handshake_failed(peer, error),
            }
        }
    }
}

fn listen(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the TIME_WAIT of the former process' connections.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // An IPv4 listener is one of its own, so that policies see IPv4 addresses as such.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(socket.into())
}

/// Errors of accept(2) that belong to one connection, the next may be fine. Linux passes on pending
/// network errors of the new socket.
fn is_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::Interrupted
            | K::PermissionDenied
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::TimedOut
    )
}

/// The pause after an accept that failed for want of resources.
#[derive(Debug, Default)]
struct Pause {
    last: Option<Duration>,
}

impl Pause {
    /// An accept failed; true (and one log line) if it is the first.
    fn begins(&self, listener: SocketAddr, error: &io::Error) -> bool {
        let first = self.last.is_none();
        if first {
            tracing::warn!(%listener, %error, "cannot accept connections; trying again until it works");
        }
        first
    }

    fn next(&mut self) -> Duration {
        let next = self.last.map_or(PAUSE.0, |last| (last * 2).min(PAUSE.1));
        self.last = Some(next);
        next
    }

    fn over(&mut self, listener: SocketAddr) {
        if self.last.take().is_some() {
            tracing::info!(%listener, "accepting connections again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_start_anew() {
        let listener = "127.0.0.1:1".parse().unwrap();
        let error = io::Error::other("descriptors");
        let mut pause = Pause::default();
        assert!(pause.begins(listener, &error));
        assert_eq!(pause.next(), PAUSE.0);
        assert!(!pause.begins(listener, &error));
        assert_eq!(pause.next(), PAUSE.0 * 2);
        for _ in 0..10 {
            pause.next();
        }
        assert_eq!(pause.next(), PAUSE.1);
        pause.over(listener);
        assert!(pause.begins(listener, &error));
        assert_eq!(pause.next(), PAUSE.0);
    }

    #[test]
    fn an_aborted_connection_does_not_pause_the_listener() {
        assert!(is_connections_own(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_connections_own(&io::Error::other("too many open files")));
    }
}
