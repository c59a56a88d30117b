//! Outbound connections: name, addresses, policy, time limits.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::event::Direction;
use crate::ledger::{Entry, Ledger, Ticket};
use crate::limits::LimitReached;
use crate::listener::{Pause, Transport, is_want_of_descriptors};
use crate::scheme::Scheme;
use crate::socket::{self, SocketOptions, Source};
use crate::stream::Stream;
use crate::tls::{self, ChooseClientDomain, ClientDomain, DEFAULT_HANDSHAKE_TIMEOUT, HandshakeError};
use crate::ws;

pub use self::resolver::{MAX_LOOKUPS, Resolver, SystemResolver};

pub(crate) mod resolver;

/// How long one address may take to accept a TCP connection: 3 s, which is two lost SYNs (1 s and
/// 2 s apart on Linux); then the next address gets its turn.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the whole may take, name resolution and all addresses: 15 s, half of the 30 s in which
/// an MSRP sender expects its answer.
pub const DEFAULT_CONNECT_TIME_LIMIT: Duration = Duration::from_secs(15);

/// How long a connection that there is no descriptor for waits for another one to leave: 2 s, one more than a peer that
/// does not answer takes to be rid of ([`CLOSE_LINGER`](crate::connection::CLOSE_LINGER)).
const WAIT_FOR_ROOM: Duration = Duration::from_secs(2);

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name, or an IP literal (an IPv6 one with or without brackets). With TLS the server's
    /// certificate must be made for it.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Plain or TLS.
    pub transport: Transport,
}

impl Target {
    /// For a WebSocket, `wss` with TLS and `ws` without; no port is the scheme's own, 443 or 80.
    pub fn websocket(host: impl Into<String>, port: Option<u16>, transport: Transport) -> Self {
        let port = port.unwrap_or_else(|| websocket_scheme(transport).default_port());
        Self { host: host.into(), port, transport }
    }

    /// The host, and the port where it is not the WebSocket scheme's own, as they stand in a URI and in
    /// an HTTP request's Host (RFC 6455 §4.1).
    #[must_use]
    pub fn websocket_host(&self) -> String {
        let brackets = self.host.contains(':') && !self.host.starts_with('[');
        let host = if brackets { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            port if port == websocket_scheme(self.transport).default_port() => host,
            port => format!("{host}:{port}"),
        }
    }
}

fn websocket_scheme(transport: Transport) -> Scheme {
    match transport {
        Transport::Tcp => Scheme::Ws,
        Transport::Tls => Scheme::Wss,
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = self.host.contains(':') && !self.host.starts_with('[');
        if brackets {
            write!(f, "{}:[{}]:{}", self.transport, self.host, self.port)
        } else {
            write!(f, "{}:{}:{}", self.transport, self.host, self.port)
        }
    }
}

/// How connections to one destination, or a network of them, are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialOptions {
    /// Open none: only connections that are there already, or that the other side opens, are used.
    pub no_new_connections: bool,
    /// For the TCP connect; [`DEFAULT_CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// Where they come from.
    pub source: Source,
    /// What is set on each socket, before its first packet.
    pub socket: SocketOptions,
    /// How long they may be idle; `None`: for ever, as far as this layer is concerned.
    pub lifetime: Option<Duration>,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            no_new_connections: false,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            source: Source::default(),
            socket: SocketOptions::default(),
            lifetime: None,
        }
    }
}

/// How connections are opened, and the time limits of it.
#[derive(Debug, Clone)]
pub struct ConnectSettings {
    /// For each address that [`OutboundPolicy::dial`] says nothing about.
    pub dial: DialOptions,
    /// For each TLS handshake; [`DEFAULT_HANDSHAKE_TIMEOUT`].
    pub tls_handshake_timeout: Duration,
    /// For each WebSocket opening handshake; [`ws::DEFAULT_HANDSHAKE_TIMEOUT`].
    pub ws_handshake_timeout: Duration,
    /// For everything together, name resolution included; [`DEFAULT_CONNECT_TIME_LIMIT`].
    pub connect_time_limit: Duration,
}

impl Default for ConnectSettings {
    fn default() -> Self {
        Self {
            dial: DialOptions::default(),
            tls_handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            ws_handshake_timeout: ws::DEFAULT_HANDSHAKE_TIMEOUT,
            connect_time_limit: DEFAULT_CONNECT_TIME_LIMIT,
        }
    }
}

/// What may be dialled. Asked for each resolved address right before it is dialled, so a name that
/// resolves to an inner address does not slip through. An IPv4-mapped IPv6 address is shown, and
/// dialled, as the IPv4 address it is.
pub trait OutboundPolicy: Send + Sync {
    /// Whether a connection to `address` may be opened.
    fn allows(&self, address: SocketAddr, transport: Transport) -> bool;

    /// How connections to `address` are opened, where that differs from the connector's own
    /// [`ConnectSettings::dial`].
    fn dial(&self, address: SocketAddr, transport: Transport) -> Option<Arc<DialOptions>> {
        let _ = (address, transport);
        None
    }
}

impl<F: Fn(SocketAddr, Transport) -> bool + Send + Sync> OutboundPolicy for F {
    fn allows(&self, address: SocketAddr, transport: Transport) -> bool {
        self(address, transport)
    }
}

/// One address that was tried, and what came of it.
#[derive(Debug)]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// Why there is no connection.
    pub error: AttemptError,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.error)
    }
}

/// Why one address gave no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// The outbound policy does not allow it.
    #[error("denied by the outbound policy")]
    Denied,
    /// [`DialOptions::no_new_connections`].
    #[error("no new connections are opened there")]
    NoNewConnections,
    /// There are too many connections.
    #[error("{0}")]
    Limit(LimitReached),
    /// No answer in `connect_timeout`.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    /// The connect failed.
    #[error("{0}")]
    Io(io::Error),
    /// TCP was there; the TLS handshake failed.
    #[error("{0}")]
    Tls(HandshakeError),
    /// TCP, and TLS where it was wanted, were there; the server opened no WebSocket.
    #[error("{0}")]
    WebSocket(ws::UpgradeError),
}

impl AttemptError {
    fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Tls(HandshakeError::Timeout(_)) => true,
            Self::WebSocket(error) => error.is_timeout(),
            _ => false,
        }
    }
}

/// No connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// The name has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// The outbound policy allows none of the addresses.
    #[error("the outbound policy denies every address of {host}: {}", list(addresses))]
    Denied {
        /// The name.
        host: String,
        /// Its addresses.
        addresses: Vec<SocketAddr>,
    },
    /// TLS is wanted and there is no client domain for it.
    #[error("no TLS client domain for {target}")]
    NoTlsDomain {
        /// Where to.
        target: Target,
    },
    /// Every address failed.
    #[error("cannot connect to {target}: {}", list(attempts))]
    Failed {
        /// Where to.
        target: Target,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// The time for the whole was over first.
    #[error("cannot connect to {target} in {limit:?}: {}", list_or(attempts, "no answer yet"))]
    TimeLimit {
        /// Where to.
        target: Target,
        /// The limit.
        limit: Duration,
        /// What was tried to its end until then.
        attempts: Vec<Attempt>,
    },
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join("; ")
}

fn list_or<T: fmt::Display>(items: &[T], none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { list(items) }
}

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Connector<R = SystemResolver> {
    settings: ConnectSettings,
    policy: Arc<dyn OutboundPolicy>,
    resolver: R,
    ledger: Arc<Ledger>,
    beyond_the_limit: bool,
}

impl Connector {
    /// A connector that resolves as the system does.
    pub fn new(settings: ConnectSettings, policy: impl OutboundPolicy + 'static) -> Self {
        Self::with_resolver(settings, policy, SystemResolver)
    }
}

impl<R: Resolver> Connector<R> {
    /// A connector with a resolver of its own.
    pub fn with_resolver(
        settings: ConnectSettings,
        policy: impl OutboundPolicy + 'static,
        resolver: R,
    ) -> Self {
        Self { settings, policy: Arc::new(policy), resolver, ledger: Arc::default(), beyond_the_limit: false }
    }

    /// Enters its connections in `ledger`, whose limits and events then are theirs.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<Ledger>) -> Self {
        Self { ledger, ..self }
    }

    /// Its connections are opened even if the ledger's
    /// [`max_connections`](crate::ConnectionLimits::max_connections) is reached, and do not count for it: for few that
    /// must be there, as those of a trace, and whose number something else bounds.
    #[must_use]
    pub fn beyond_the_limit(self) -> Self {
        Self { beyond_the_limit: true, ..self }
    }

    /// Connects to the first address of `target` that answers (RFC 4975 §6.2: A and AAAA are tried in
    /// order); with TLS, the first one whose server proves to be `target.host`. `tls_domain` is
    /// needed for TLS only.
    ///
    /// # Errors
    /// A [`ConnectError`] that lists what was tried.
    pub async fn connect(
        &self,
        target: &Target,
        tls_domain: Option<&ClientDomain>,
    ) -> Result<Stream, ConnectError> {
        let tls_domain = tls_domain.map(|domain| domain as &dyn ChooseClientDomain);
        self.connect_for(target, tls_domain, None).await
    }

    /// As [`connect`](Self::connect), for a connection that will carry `scheme`, which events and look-ups
    /// then know, and with one TLS domain or [several](tls::ClientDomains::for_listener) to choose from by
    /// the address.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_for(
        &self,
        target: &Target,
        tls_domain: Option<&dyn ChooseClientDomain>,
        scheme: Option<Scheme>,
    ) -> Result<Stream, ConnectError> {
        let wanted = Wanted { target, tls_domain, scheme, offer: None };
        self.connect_to(&wanted).await.map(|(stream, _)| stream)
    }

    /// As [`connect_for`](Self::connect_for), and opens a WebSocket on the connection: `wss` where the
    /// target is TLS, `ws` otherwise. [`Target::websocket`] and [`Offer::to`](ws::Offer::to) know the default
    /// ports. An address that opens none has failed, and the next one is tried.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); [`AttemptError::WebSocket`] has the server's status and words.
    pub async fn connect_ws(
        &self,
        target: &Target,
        tls_domain: Option<&dyn ChooseClientDomain>,
        offer: &ws::Offer,
    ) -> Result<(Stream, ws::Opened), ConnectError> {
        let scheme = Some(websocket_scheme(target.transport));
        self.connect_to(&Wanted { target, tls_domain, scheme, offer: Some(offer) }).await
    }

    async fn connect_to(&self, wanted: &Wanted<'_>) -> Result<(Stream, ws::Opened), ConnectError> {
        let target = wanted.target;
        // Outside of the future, for the error to know them if the time is over.
        let attempts = Mutex::new(Vec::new());
        let limit = self.settings.connect_time_limit;
        let result = tokio::time::timeout(limit, self.try_all(wanted, &attempts)).await;
        result.unwrap_or_else(|_| {
            let attempts = std::mem::take(&mut *attempts.lock());
            Err(ConnectError::TimeLimit { target: target.clone(), limit, attempts })
        })
    }

    async fn try_all(
        &self,
        wanted: &Wanted<'_>,
        attempts: &Mutex<Vec<Attempt>>,
    ) -> Result<(Stream, ws::Opened), ConnectError> {
        let target = wanted.target;
        let host = target.host.trim_start_matches('[').trim_end_matches(']');
        let tls_domain = match (target.transport, wanted.tls_domain) {
            (Transport::Tcp, _) => None,
            (Transport::Tls, Some(domain)) => Some(domain),
            (Transport::Tls, None) => return Err(ConnectError::NoTlsDomain { target: target.clone() }),
        };
        let addresses: Vec<SocketAddr> = match host.parse() {
            Ok(ip) => vec![SocketAddr::new(ip, target.port)],
            Err(_) => self
                .resolver
                .resolve(host, target.port)
                .await
                .map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?,
        };
        if addresses.is_empty() {
            return Err(ConnectError::NoAddress { host: host.to_owned() });
        }

        let mut denied = 0;
        for address in &addresses {
            let address = canonical(*address);
            let error = if self.policy.allows(address, target.transport) {
                match self.try_one(address, host, tls_domain, wanted).await {
                    Ok(connected) => return Ok(connected),
                    Err(error) => error,
                }
            } else {
                denied += 1;
                AttemptError::Denied
            };
            tracing::debug!(%target, %address, %error, "connect attempt failed");
            attempts.lock().push(Attempt { address, error });
        }
        if denied == addresses.len() {
            return Err(ConnectError::Denied { host: host.to_owned(), addresses });
        }
        let attempts = std::mem::take(&mut *attempts.lock());
        Err(ConnectError::Failed { target: target.clone(), attempts })
    }

    async fn try_one(
        &self,
        address: SocketAddr,
        host: &str,
        tls_domain: Option<&dyn ChooseClientDomain>,
        wanted: &Wanted<'_>,
    ) -> Result<(Stream, ws::Opened), AttemptError> {
        let transport = if tls_domain.is_some() { Transport::Tls } else { Transport::Tcp };
        let own = self.policy.dial(address, transport);
        let dial = own.as_deref().unwrap_or(&self.settings.dial);
        if dial.no_new_connections {
            return Err(AttemptError::NoNewConnections);
        }
        let entry = Entry::new(Direction::Outbound, transport, wanted.scheme, None, address);
        let ticket = self.ledger.connecting(entry, self.beyond_the_limit).map_err(AttemptError::Limit)?;
        ticket.entry().set_lifetime(dial.lifetime);
        let mut stream = self
            .open(address, host, tls_domain, dial, &ticket)
            .await
            .inspect_err(|error| ticket.failed(error.is_timeout(), error))?;
        stream.attach(ticket);
        let opened = match wanted.offer {
            None => ws::Opened::default(),
            Some(offer) => ws::connect(&stream, offer, self.settings.ws_handshake_timeout)
                .await
                .map_err(AttemptError::WebSocket)
                .inspect_err(|error| stream.failed(error.is_timeout(), error))?,
        };
        stream.opened();
        Ok((stream, opened))
    }

    async fn open(
        &self,
        address: SocketAddr,
        host: &str,
        tls_domain: Option<&dyn ChooseClientDomain>,
        dial: &DialOptions,
        ticket: &Ticket,
    ) -> Result<Stream, AttemptError> {
        let limit = dial.connect_timeout;
        let connect = || async {
            tokio::time::timeout(limit, socket::connect(address, &dial.source, &dial.socket))
                .await
                .map_err(|_| AttemptError::Timeout(limit))?
                .map_err(AttemptError::Io)
        };
        let tcp = self.with_room(connect).await?;
        if let Ok(local) = tcp.local_addr() {
            ticket.entry().set_local(local);
        }
        match tls_domain {
            None => Stream::plain(tcp, address).map_err(AttemptError::Io),
            Some(choice) => {
                let domain = choice.choose(host, address);
                tls::connect(tcp, address, &domain, host, self.settings.tls_handshake_timeout)
                    .await
                    .map_err(AttemptError::Tls)
            }
        }
    }
}

impl<R> Connector<R> {
    /// Calls `connect`, and where it lacks a descriptor again when a connection has left: others may want the one that is
    /// free then, and who has left may have had none. It has [`WAIT_FOR_ROOM`], if anybody leaves.
    async fn with_room<T, F: Future<Output = Result<T, AttemptError>>>(
        &self,
        connect: impl Fn() -> F,
    ) -> Result<T, AttemptError> {
        let mut over = None;
        let mut pause = Pause::default();
        // Nobody is asked to leave because the one before is not gone yet.
        let mut ask = true;
        loop {
            // Before anybody is asked to leave, so as not to miss that.
            let one_left = self.ledger.one_left();
            let error = match connect().await {
                Err(AttemptError::Io(error)) if is_want_of_descriptors(&error) => error,
                outcome => return outcome,
            };
            let late = over.is_some_and(|over| Instant::now() >= over);
            if late || !(ask && self.ledger.make_room() || over.is_some()) {
                return Err(AttemptError::Io(error));
            }
            let over = *over.get_or_insert_with(|| Instant::now() + WAIT_FOR_ROOM);
            // What is no connection has descriptors, too, and tells nobody when it lets go of one.
            let again = over.min(Instant::now() + pause.next());
            ask = tokio::time::timeout_at(again, one_left).await.is_ok() || !self.ledger.some_leave();
        }
    }
}

/// What one call wants.
struct Wanted<'a> {
    target: &'a Target,
    tls_domain: Option<&'a dyn ChooseClientDomain>,
    scheme: Option<Scheme>,
    offer: Option<&'a ws::Offer>,
}

impl<R> fmt::Debug for Connector<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ledger::{MakeRoom, Slots};

    #[test]
    fn a_mapped_address_is_shown_as_the_one_it_is() {
        assert_eq!(canonical("[::ffff:127.0.0.1]:5".parse().unwrap()), "127.0.0.1:5".parse().unwrap());
        let scoped = "[fe80::1%3]:5".parse().unwrap();
        assert_eq!(canonical(scoped), scoped);
    }

    /// Asks all there are.
    struct All;

    impl MakeRoom for All {
        fn make_room(&self, ledger: &Ledger, most: usize) {
            for entry in ledger.next_round(most) {
                ledger.leave(&entry, || true);
            }
        }
    }

    fn connector(tickets: usize) -> (Connector, Vec<Ticket>) {
        let connector = Connector::new(ConnectSettings::default(), |_, _| true);
        connector.ledger.set_room_maker(Box::new(All));
        let enter = |_| {
            let peer = "192.0.2.1:1".parse().unwrap();
            let entry = Entry::new(Direction::Inbound, Transport::Tcp, None, None, peer);
            let ticket = connector.ledger.accepting(entry, &Slots::default(), None).unwrap();
            ticket.opened(None);
            ticket
        };
        let tickets = (0..tickets).map(enter).collect();
        (connector, tickets)
    }

    /// Takes one of the free descriptors.
    async fn take(free: &Cell<u32>) -> Result<(), AttemptError> {
        let left = free.get().checked_sub(1).ok_or(AttemptError::Io(io::Error::from_raw_os_error(24)))?;
        free.set(left);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_lacks_a_descriptor_waits_for_one_that_others_leave_it() {
        let (connector, mut tickets) = connector(4);
        let free = Cell::new(0);
        let begin = Instant::now();
        let leave = async {
            // One that had none, one whose descriptor a listener takes, and one for each of the two.
            for more in [0, 0, 1, 1] {
                tokio::time::sleep(Duration::from_millis(490)).await;
                free.set(free.get() + more);
                tickets.pop();
            }
        };
        let dial = || connector.with_room(|| take(&free));
        let (one, other, ()) = tokio::join!(dial(), dial(), leave);
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        assert!(begin.elapsed() < WAIT_FOR_ROOM);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_asks_one_to_leave_and_the_next_when_that_is_gone() {
        let (connector, mut tickets) = connector(512);
        let free = Cell::new(0);
        let dial = async {
            assert!(connector.with_room(|| take(&free)).await.is_err());
            assert_eq!(connector.ledger.made_room(), 2);
        };
        let leave = async {
            tokio::time::sleep(WAIT_FOR_ROOM / 2).await;
            assert_eq!(connector.ledger.made_room(), 1);
            drop(tickets.remove(0));
        };
        tokio::join!(dial, leave);
    }

    #[tokio::test(start_paused = true)]
    async fn a_descriptor_that_nobody_tells_of_is_found_and_none_ends_the_wait() {
        let (connector, tickets) = connector(1);
        let free = Cell::new(0);
        let dial = || connector.with_room(|| take(&free));
        let begin = Instant::now();
        assert!(matches!(dial().await, Err(AttemptError::Io(error)) if is_want_of_descriptors(&error)));
        assert_eq!(begin.elapsed(), WAIT_FOR_ROOM);
        let silent = async {
            tokio::time::sleep(WAIT_FOR_ROOM / 2).await;
            free.set(1);
        };
        assert!(tokio::join!(dial(), silent).0.is_ok());
        drop(tickets);
        let begin = Instant::now();
        assert!(dial().await.is_err(), "there is nobody who could leave");
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[test]
    fn targets_read_well() {
        let target = |host: &str| Target { host: host.into(), port: 2855, transport: Transport::Tls };
        assert_eq!(target("relay.test").to_string(), "tls:relay.test:2855");
        assert_eq!(target("2001:db8::1").to_string(), "tls:[2001:db8::1]:2855");
        assert_eq!(target("[2001:db8::1]").to_string(), "tls:[2001:db8::1]:2855");
    }
}
