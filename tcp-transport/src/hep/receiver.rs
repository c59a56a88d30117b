//! The receiver: packets of other agents, over UDP, TCP and TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use socket2::{Domain, Protocol as IpProtocol, SockRef, Socket as RawSocket, Type};
use tokio::net::UdpSocket;

use super::codec::Version;
use super::destination::HepTransport;
use super::framer::{FrameError, FrameLimits, Framer};
use super::legacy::TimeOrder;
use super::packet::Packet;
use crate::connection::{self, CloseReason, DriverSettings, Flow, Handle, Protocol, Transmit};
use crate::ledger::Ledger;
use crate::listener::{Acceptor, BindError, BoundListener, ListenerSettings, Transport};
use crate::proxy_protocol::IpNetwork;
use crate::scheme::Scheme;
use crate::socket::set_reuse_port;
use crate::stream::Stream;
use crate::tls::{HandshakeError, ServerDomains};

/// How long a packet may take to arrive whole over TCP or TLS: 10 s.
pub const DEFAULT_PACKET_TIMEOUT: Duration = Duration::from_secs(10);

/// More than any datagram has, so that one which is cut would be seen.
const DATAGRAM: usize = 65_536;

/// A packet of less than this is copied out of the buffer it was read into: who keeps it keeps no more than
/// four times its size alive.
const COPIED: usize = DATAGRAM / 4;

/// A packet, and how it came.
#[derive(Clone)]
#[non_exhaustive]
pub struct Received {
    /// The version it was written in.
    pub version: Version,
    /// What it says.
    pub packet: Packet,
    /// Its octets.
    pub wire: Bytes,
    /// The agent.
    pub from: SocketAddr,
    /// Our listener, or our address of the connection.
    pub to: SocketAddr,
    /// How it came.
    pub transport: HepTransport,
}

/// Without the authentication key.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("version", &self.version)
            .field("packet", &self.packet)
            .field("octets", &self.wire.len())
            .field("from", &self.from)
            .field("to", &self.to)
            .field("transport", &self.transport)
            .finish()
    }
}

/// Why nobody was given what came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no packet.
    #[error("{0}")]
    Malformed(String),
    /// [`ReceiverSettings::from`] does not have its sender.
    #[error("not from there")]
    Sender,
    /// It has not [`ReceiverSettings::auth_key`].
    #[error("without the right authentication key")]
    AuthKey,
}

/// Somebody who wants the packets. Called from the receiving task: it does not block.
pub trait HepHandler: Send + Sync + 'static {
    /// A packet came. [`ControlFlow::Break`] keeps it from the handlers that were registered later (OpenSIPS'
    /// `HEP_SCRIPT_SKIP`).
    fn received(&self, received: &Received) -> ControlFlow<()>;

    /// A packet or (TCP, TLS) a connection of `from` was refused. A flood calls it for each.
    fn refused(&self, from: SocketAddr, refusal: &Refusal) {
        let _ = (from, refusal);
    }
}

impl<F: Fn(&Received) -> ControlFlow<()> + Send + Sync + 'static> HepHandler for F {
    fn received(&self, received: &Received) -> ControlFlow<()> {
        self(received)
    }
}

/// How packets are received.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiverSettings {
    /// Whose packets are taken, by address; empty, the default: everybody's. Over UDP anybody can write any
    /// address into a datagram.
    pub from: Vec<IpNetwork>,
    /// The authentication key (chunk 0x000e) that each packet must have; `None`, the default: none is asked for.
    /// Versions 1 and 2 have no place for one, so with a key they are refused.
    pub auth_key: Option<Bytes>,
    /// The byte order that version 2's time is read in.
    pub time_order: TimeOrder,
    /// What one packet may be; pieces are for TCP and TLS.
    pub frame: FrameLimits,
    /// TCP and TLS: how long one packet may take; [`DEFAULT_PACKET_TIMEOUT`].
    pub packet_timeout: Duration,
}

impl Default for ReceiverSettings {
    fn default() -> Self {
        Self {
            from: Vec::new(),
            auth_key: None,
            time_order: TimeOrder::default(),
            frame: FrameLimits::default(),
            packet_timeout: DEFAULT_PACKET_TIMEOUT,
        }
    }
}

impl ReceiverSettings {
    fn admits(&self, from: SocketAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(from.ip()))
    }

    fn has_key(&self, packet: &Packet) -> bool {
        let Some(wanted) = &self.auth_key else { return true };
        packet.auth_key.as_ref().is_some_and(|found| {
            // How long it takes tells nothing about where they differ.
            let differ = wanted.iter().zip(found).fold(0, |differ, (a, b)| differ | (a ^ b));
            wanted.len() == found.len() && differ == 0
        })
    }
}

/// Without the authentication key.
impl fmt::Debug for ReceiverSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverSettings")
            .field("from", &self.from)
            .field("time_order", &self.time_order)
            .field("frame", &self.frame)
            .field("packet_timeout", &self.packet_timeout)
            .finish_non_exhaustive()
    }
}

/// What a receiver has seen. Every packet is in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReceiverCounters {
    /// Packets that were given to the handlers.
    pub received: u64,
    /// Packets that were none. Over TCP and TLS one that has no end in the stream ends the connection.
    pub malformed: u64,
    /// Packets (UDP) and connections (TCP, TLS) of senders that [`ReceiverSettings::from`] does not have.
    pub refused_sender: u64,
    /// Packets without the right [`ReceiverSettings::auth_key`].
    pub refused_auth_key: u64,
}

impl ReceiverCounters {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            malformed: self.malformed + other.malformed,
            refused_sender: self.refused_sender + other.refused_sender,
            refused_auth_key: self.refused_auth_key + other.refused_auth_key,
        }
    }
}

/// What the handlers get, and what is counted. Shared by any number of receivers.
pub struct Dispatch {
    handlers: Vec<Box<dyn HepHandler>>,
    settings: ArcSwap<ReceiverSettings>,
    received: AtomicU64,
    malformed: AtomicU64,
    refused_sender: AtomicU64,
    refused_auth_key: AtomicU64,
}

impl Dispatch {
    /// Without handlers.
    #[must_use]
    pub fn new(settings: ReceiverSettings) -> Self {
        Self {
            handlers: Vec::new(),
            settings: ArcSwap::from_pointee(settings),
            received: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            refused_sender: AtomicU64::new(0),
            refused_auth_key: AtomicU64::new(0),
        }
    }

    /// Registers a handler, after those that are there.
    #[must_use]
    pub fn with(mut self, handler: impl HepHandler) -> Self {
        self.handlers.push(Box::new(handler));
        self
    }

    /// Changes how packets are received, from the next one on; of TCP and TLS the limits of a frame, from the next
    /// connection on.
    pub fn set_settings(&self, settings: ReceiverSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// What was seen until now.
    #[must_use]
    pub fn counters(&self) -> ReceiverCounters {
        ReceiverCounters {
            received: self.received.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            refused_sender: self.refused_sender.load(Ordering::Relaxed),
            refused_auth_key: self.refused_auth_key.load(Ordering::Relaxed),
        }
    }

    /// Whether connections of this address are taken; if not, it is counted. For [`Acceptor::admit`].
    pub fn admits(&self, from: SocketAddr) -> bool {
        let admitted = self.settings.load().admits(from);
        if !admitted {
            self.refuse(from, &Refusal::Sender);
        }
        admitted
    }

    fn datagram(&self, wire: Bytes, from: SocketAddr, to: SocketAddr) {
        if !self.admits(from) {
            return;
        }
        let limit = self.settings.load().frame.max_packet;
        if wire.len() > limit {
            return self.malformed(from, &FrameError::TooLong { length: wire.len(), limit });
        }
        self.wire(wire, from, to, HepTransport::Udp);
    }

    fn wire(&self, wire: Bytes, from: SocketAddr, to: SocketAddr, transport: HepTransport) {
        let (version, packet) = match Packet::decode(&wire, self.settings.load().time_order) {
            Ok(decoded) => decoded,
            Err(error) => return self.malformed(from, &error),
        };
        if !self.settings.load().has_key(&packet) {
            return self.refuse(from, &Refusal::AuthKey);
        }
        self.received.fetch_add(1, Ordering::Relaxed);
        let received = Received { version, packet, wire, from, to, transport };
        for handler in &self.handlers {
            // A handler that panics has seen the packet; the next one has not.
            match catch_unwind(AssertUnwindSafe(|| handler.received(&received))) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return,
                Err(_) => tracing::error!(%from, "a handler for HEP packets panicked"),
            }
        }
    }

    fn malformed(&self, from: SocketAddr, error: &dyn fmt::Display) {
        self.refuse(from, &Refusal::Malformed(error.to_string()));
    }

    fn refuse(&self, from: SocketAddr, refusal: &Refusal) {
        let counter = match refusal {
            Refusal::Malformed(_) => &self.malformed,
            Refusal::Sender => &self.refused_sender,
            Refusal::AuthKey => &self.refused_auth_key,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%from, %refusal, "HEP: refused");
        for handler in &self.handlers {
            if catch_unwind(AssertUnwindSafe(|| handler.refused(from, refusal))).is_err() {
                tracing::error!(%from, "a handler for HEP packets panicked");
            }
        }
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch")
            .field("handlers", &self.handlers.len())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

/// A socket that receives HEP: all versions over UDP, version 3 over TCP and TLS.
#[derive(Debug)]
pub struct Receiver {
    socket: Socket,
    dispatch: Arc<Dispatch>,
    local: SocketAddr,
}

#[derive(Debug)]
enum Socket {
    Udp(Arc<UdpSocket>),
    Stream(Box<BoundListener>),
}

impl Receiver {
    /// `hep_udp`. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub fn udp(addr: SocketAddr, dispatch: Arc<Dispatch>) -> io::Result<Self> {
        Self::udp_with(&ListenerSettings::new(addr, Transport::Tcp), dispatch)
    }

    /// `hep_udp`, with what of the settings is for datagrams too: `addr`, `ipv6_only` and `reuse_port`.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub fn udp_with(settings: &ListenerSettings, dispatch: Arc<Dispatch>) -> io::Result<Self> {
        let addr = settings.addr;
        let socket = RawSocket::new(Domain::for_address(addr), Type::DGRAM, Some(IpProtocol::UDP))?;
        if settings.reuse_port {
            set_reuse_port(&SockRef::from(&socket))?;
        }
        if addr.is_ipv6() {
            socket.set_only_v6(settings.ipv6_only)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        Self::udp_adopt(socket.into(), dispatch)
    }

    /// `hep_udp` on a socket that somebody else has bound.
    ///
    /// # Errors
    /// It is no such socket.
    pub fn udp_adopt(socket: std::net::UdpSocket, dispatch: Arc<Dispatch>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let local = socket.local_addr()?;
        Ok(Self { socket: Socket::Udp(socket), dispatch, local })
    }

    /// The socket of `hep_udp`. It stays open for as long as one of these is there.
    #[must_use]
    pub fn udp_socket(&self) -> Option<Arc<UdpSocket>> {
        match &self.socket {
            Socket::Udp(socket) => Some(Arc::clone(socket)),
            Socket::Stream(_) => None,
        }
    }

    /// `hep_tcp` or `hep_tls`, as the settings' transport says; their limits (connections, idle time) hold, and
    /// its connections are entered in `ledger`.
    ///
    /// # Errors
    /// As [`BoundListener::bind`].
    pub fn stream(
        settings: ListenerSettings,
        domains: Arc<ServerDomains>,
        ledger: &Arc<Ledger>,
        dispatch: Arc<Dispatch>,
    ) -> Result<Self, BindError> {
        let settings = ListenerSettings { scheme: Some(Scheme::Hep), ..settings };
        let listener = BoundListener::bind(settings, domains)?.with_ledger(ledger.clone());
        let local = listener.local_addr();
        Ok(Self { socket: Socket::Stream(Box::new(listener)), dispatch, local })
    }

    /// The address it receives on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Receives until the future is dropped. Connections that are there then go on: they end with the runtime,
    /// or by the agents.
    pub async fn run(self) {
        match self.socket {
            Socket::Udp(socket) => datagrams(&socket, self.local, &self.dispatch).await,
            Socket::Stream(listener) => listener.run(Arc::new(Agents(self.dispatch))).await,
        }
    }
}

async fn datagrams(socket: &UdpSocket, local: SocketAddr, dispatch: &Dispatch) {
    let mut buf = BytesMut::new();
    loop {
        // Allocates only if a handler has kept something of a large one.
        buf.clear();
        buf.reserve(DATAGRAM);
        match socket.recv_buf_from(&mut buf).await {
            Ok((_, from)) => dispatch.datagram(compact(buf.split().freeze()), canonical(from), local),
            Err(error) => {
                // Nothing of a single datagram is told here; what is, passes.
                tracing::debug!(listener = %local, %error, "HEP: cannot receive");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// A packet to be kept: a small one does not keep the whole buffer.
fn compact(packet: Bytes) -> Bytes {
    if packet.len() < COPIED { Bytes::copy_from_slice(&packet) } else { packet }
}

/// What a dual-stack socket shows as an IPv4-mapped address is the IPv4 address.
fn canonical(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

/// Receives from an agent that has connected: the future runs until the connection ends, by the agent or by the
/// handle. For who has listeners of their own instead of a [`Receiver`]. Whose connection it is was to be
/// [asked](Dispatch::admits) before.
pub fn receive(
    stream: Stream,
    dispatch: Arc<Dispatch>,
) -> (Handle, impl Future<Output = CloseReason> + Send + use<>) {
    let transport = match stream.entry().transport() {
        Transport::Tcp => HepTransport::Tcp,
        Transport::Tls => HepTransport::Tls,
    };
    let agent = Agent {
        framer: Framer::new(dispatch.settings.load().frame),
        from: stream.peer_addr(),
        to: stream.local_addr(),
        transport,
        deadline: None,
        dispatch,
    };
    let (handle, driver) = connection::open(stream, DriverSettings::default());
    (handle, driver.run(agent))
}

/// Takes the connections of agents.
struct Agents(Arc<Dispatch>);

impl Acceptor for Agents {
    fn accepted(&self, stream: Stream) {
        // Here and not before: a proxy may have named the agent meanwhile.
        if self.0.admits(stream.peer_addr()) {
            tokio::spawn(receive(stream, self.0.clone()).1);
        }
    }

    fn handshake_failed(&self, peer: SocketAddr, error: HandshakeError) {
        tracing::debug!(%peer, %error, "HEP: handshake failed");
    }
}

/// The connection of an agent.
struct Agent {
    dispatch: Arc<Dispatch>,
    framer: Framer,
    from: SocketAddr,
    to: SocketAddr,
    transport: HepTransport,
    /// When the packet that has begun must be there.
    deadline: Option<Instant>,
}

impl Protocol for Agent {
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        self.framer.was_read();
        loop {
            match self.framer.next(buf) {
                Ok(Some(wire)) => {
                    self.dispatch.wire(compact(wire), self.from, self.to, self.transport);
                    self.deadline = None;
                }
                Ok(None) => break,
                Err(error) => {
                    self.dispatch.malformed(self.from, &error);
                    return Flow::Close(CloseReason::Protocol(error.to_string().into()));
                }
            }
        }
        if !self.framer.is_within() {
            self.deadline = None;
        } else if self.deadline.is_none() {
            self.deadline = now.checked_add(self.dispatch.settings.load().packet_timeout);
        }
        Flow::Read
    }

    fn transmit(&mut self, _stream: &Stream, _now: Instant) -> io::Result<Transmit> {
        Ok(Transmit::Idle)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn expired(&mut self, _now: Instant) -> Flow {
        self.deadline = None;
        Flow::Close(CloseReason::TooSlow("a HEP packet did not arrive in time".into()))
    }

    fn closed(&mut self, reason: &CloseReason, _now: Instant) {
        tracing::debug!(from = %self.from, %reason, "HEP: connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_packet_that_is_kept_does_not_keep_the_buffer_it_came_in() {
        for (length, copied) in [(1, true), (COPIED - 1, true), (COPIED, false), (COPIED + 1, false)] {
            let mut buf = BytesMut::with_capacity(DATAGRAM);
            buf.resize(length, 7);
            let read = buf.split().freeze();
            let at = read.as_ptr();
            let kept = compact(read);
            assert_eq!((kept.len(), kept.as_ptr() != at), (length, copied), "{length}");
        }
    }

    #[test]
    fn a_key_is_right_or_wrong() {
        let key = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let settings = ReceiverSettings { auth_key: key("key"), ..ReceiverSettings::default() };
        for (found, right) in [
            (key("key"), true),
            (key("kex"), false),
            (key("ke"), false),
            (key("keys"), false),
            (key(""), false),
            (None, false),
        ] {
            assert_eq!(
                settings.has_key(&Packet { auth_key: found.clone(), ..Packet::default() }),
                right,
                "{found:?}"
            );
        }
        assert!(ReceiverSettings::default().has_key(&Packet::default()));
        assert!(
            !format!("{settings:?}").contains("107, 101, 121") && !format!("{settings:?}").contains("key\"")
        );
    }
}
