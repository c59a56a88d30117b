//! The receiver: packets of other agents, over UDP, TCP and TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::net::UdpSocket;

use super::codec::Version;
use super::destination::HepTransport;
use super::framer::{FrameLimits, Framer};
use super::legacy::TimeOrder;
use super::packet::Packet;
use crate::connection::{self, CloseReason, DriverSettings, Flow, Protocol, Transmit};
use crate::ledger::Ledger;
use crate::listener::{Acceptor, BindError, BoundListener, ListenerSettings, Transport};
use crate::scheme::Scheme;
use crate::stream::Stream;
use crate::tls::{HandshakeError, ServerDomains};

/// How long a packet may take to arrive whole over TCP or TLS: 10 s.
pub const DEFAULT_PACKET_TIMEOUT: Duration = Duration::from_secs(10);

/// More than any datagram has, so that one which is cut would be seen.
const DATAGRAM: usize = 65_536;

/// A packet, and how it came.
#[derive(Debug, Clone)]
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

/// Somebody who wants the packets. Called from the receiving task: it does not block.
pub trait HepHandler: Send + Sync + 'static {
    /// A packet came. [`ControlFlow::Break`] keeps it from the handlers that were registered later (OpenSIPS'
    /// `HEP_SCRIPT_SKIP`).
    fn received(&self, received: &Received) -> ControlFlow<()>;
}

impl<F: Fn(&Received) -> ControlFlow<()> + Send + Sync + 'static> HepHandler for F {
    fn received(&self, received: &Received) -> ControlFlow<()> {
        self(received)
    }
}

/// How packets are received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverSettings {
    /// The byte order that version 2's time is read in.
    pub time_order: TimeOrder,
    /// TCP and TLS: what one packet may be.
    pub frame: FrameLimits,
    /// TCP and TLS: how long one packet may take; [`DEFAULT_PACKET_TIMEOUT`].
    pub packet_timeout: Duration,
}

impl Default for ReceiverSettings {
    fn default() -> Self {
        Self {
            time_order: TimeOrder::default(),
            frame: FrameLimits::default(),
            packet_timeout: DEFAULT_PACKET_TIMEOUT,
        }
    }
}

/// What a receiver has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReceiverCounters {
    /// Packets that were given to the handlers.
    pub received: u64,
    /// Packets that were none. Over TCP and TLS one that has no end in the stream ends the connection.
    pub malformed: u64,
}

/// What the handlers get, and what is counted. Shared by any number of receivers.
pub struct Dispatch {
    handlers: Vec<Box<dyn HepHandler>>,
    settings: ReceiverSettings,
    received: AtomicU64,
    malformed: AtomicU64,
}

impl Dispatch {
    /// Without handlers.
    #[must_use]
    pub fn new(settings: ReceiverSettings) -> Self {
        Self { handlers: Vec::new(), settings, received: AtomicU64::new(0), malformed: AtomicU64::new(0) }
    }

    /// Registers a handler, after those that are there.
    #[must_use]
    pub fn with(mut self, handler: impl HepHandler) -> Self {
        self.handlers.push(Box::new(handler));
        self
    }

    /// What was seen until now.
    #[must_use]
    pub fn counters(&self) -> ReceiverCounters {
        ReceiverCounters {
            received: self.received.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
        }
    }

    fn wire(&self, wire: Bytes, from: SocketAddr, to: SocketAddr, transport: HepTransport) {
        let (version, packet) = match Packet::decode(&wire, self.settings.time_order) {
            Ok(decoded) => decoded,
            Err(error) => return self.malformed(from, &error),
        };
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
        self.malformed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%from, %error, "HEP: malformed packet");
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
    Udp(UdpSocket),
    Stream(Box<BoundListener>),
}

impl Receiver {
    /// `hep_udp`. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub fn udp(addr: SocketAddr, dispatch: Arc<Dispatch>) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(addr)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let local = socket.local_addr()?;
        Ok(Self { socket: Socket::Udp(socket), dispatch, local })
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
        // Allocates only if a handler has kept something of the last one.
        buf.clear();
        buf.reserve(DATAGRAM);
        match socket.recv_buf_from(&mut buf).await {
            Ok((_, from)) => dispatch.wire(buf.split().freeze(), from, local, HepTransport::Udp),
            Err(error) => {
                // Nothing of a single datagram is told here; what is, passes.
                tracing::debug!(listener = %local, %error, "HEP: cannot receive");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Takes the connections of agents.
struct Agents(Arc<Dispatch>);

impl Acceptor for Agents {
    fn accepted(&self, stream: Stream) {
        let transport = match stream.entry().transport() {
            Transport::Tcp => HepTransport::Tcp,
            Transport::Tls => HepTransport::Tls,
        };
        let agent = Agent {
            framer: Framer::new(self.0.settings.frame),
            from: stream.peer_addr(),
            to: stream.local_addr(),
            transport,
            deadline: None,
            dispatch: self.0.clone(),
        };
        let (_, driver) = connection::open(stream, DriverSettings::default());
        tokio::spawn(driver.run(agent));
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
                    self.dispatch.wire(wire, self.from, self.to, self.transport);
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
            self.deadline = now.checked_add(self.dispatch.settings.packet_timeout);
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
