//! Connections for text protocols over TCP, TLS and WebSocket.
//!
//! The layer between sockets and a protocol. It listens and connects, speaks TLS, moves bytes and
//! ends connections in order; what the bytes mean is the business of whoever drives it. MSRP, SIP and
//! HEP run over it.
//!
//! # How it is driven
//! 1. **Connections come** from a [`BoundListener`] (its [`Acceptor`] is told of each, handshake
//!    done) or from a [`Connector`] (addresses in order, time limits, an [`OutboundPolicy`] before
//!    each of them). Either way the result is a [`Stream`]. Who the peer is stands in
//!    [`Stream::tls`]: see [`PeerCertificate`]. Certificates and rules are [TLS domains](tls).
//!    Where [WebSocket](ws) runs over it, its opening handshake is done there too, and
//!    [`Acceptor::upgraded`] or [`Connector::connect_ws`] has the result.
//! 2. **[`connection::open`]** makes a [`Handle`] and a [`Driver`] of it. The handle goes into the
//!    [`Registry`], and to everybody who may have something to send.
//! 3. **[`Driver::run`]** is the connection's one task. It calls a [`Protocol`]: what was read, when
//!    to write, when its deadline has passed, and at last, exactly once, why it ended.
//! 4. **Control.** A [`Ledger`] shared by listeners, connector and registry knows every connection from
//!    its first moment: it keeps the limits ([`ConnectionLimits`]) and publishes [events](event). Single
//!    connections are looked at and changed by [`Handle`] and [`Registry`], as tcpops (Kamailio's module) does: see
//!    [`control`]. What a socket, a listener or a destination can be set to stands in
//!    [`ListenerSettings`], [`DialOptions`] and [`SocketOptions`]. `docs/migration.md` has it all beside the
//!    names OpenSIPS and Kamailio give it.
//!
//! Whoever has data for a connection may write it where it stands, by [`Handle::stream`] and
//! [`Stream::try_write`]; what the socket does not take goes into the protocol's own queue, and
//! [`Handle::wake`] has the connection's task see to the rest. Queue and direct writes need one lock
//! of the protocol's, or bytes overtake each other.
//!
//! ```
//! use std::io::{self, IoSlice};
//! use std::net::SocketAddr;
//! use std::sync::Arc;
//! use std::time::Instant;
//!
//! use bytes::BytesMut;
//! use tcp_transport::tls::HandshakeError;
//! use tcp_transport::{
//!     Acceptor, BoundListener, CloseReason, Connector, DriverSettings, Flow, ListenerSettings, Protocol, Stream,
//!     Target, Transmit, Transport, connection,
//! };
//!
//! /// Answers every line with the same line in capitals.
//! #[derive(Default)]
//! struct Capitals {
//!     outgoing: BytesMut,
//! }
//!
//! impl Protocol for Capitals {
//!     fn received(&mut self, buf: &mut BytesMut, _now: Instant) -> Flow {
//!         while let Some(end) = buf.iter().position(|b| *b == b'\n') {
//!             self.outgoing.extend(buf.split_to(end + 1).to_ascii_uppercase());
//!         }
//!         if buf.len() > 1000 { Flow::Close(CloseReason::Protocol("line too long".into())) } else { Flow::Read }
//!     }
//!
//!     fn transmit(&mut self, stream: &Stream, _now: Instant) -> io::Result<Transmit> {
//!         while !self.outgoing.is_empty() {
//!             match stream.try_write(&[IoSlice::new(&self.outgoing)]) {
//!                 Ok(n) => drop(self.outgoing.split_to(n)),
//!                 Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Transmit::Blocked),
//!                 Err(e) => return Err(e),
//!             }
//!         }
//!         Ok(Transmit::Idle) // The driver flushes what TLS holds.
//!     }
//!
//!     fn deadline(&self) -> Option<Instant> {
//!         None
//!     }
//!
//!     fn expired(&mut self, _now: Instant) -> Flow {
//!         Flow::Read
//!     }
//!
//!     fn closed(&mut self, reason: &CloseReason, _now: Instant) {
//!         assert_eq!(*reason, CloseReason::PeerClosed);
//!     }
//! }
//!
//! struct Server;
//!
//! impl Acceptor for Server {
//!     fn accepted(&self, stream: Stream) {
//!         let (_handle, driver) = connection::open(stream, DriverSettings::default());
//!         tokio::spawn(driver.run(Capitals::default()));
//!     }
//!
//!     fn handshake_failed(&self, _peer: SocketAddr, _error: HandshakeError) {}
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = ListenerSettings::new("127.0.0.1:0".parse()?, Transport::Tcp);
//! let listener = BoundListener::bind(settings, Arc::default())?;
//! let port = listener.local_addr().port();
//! tokio::spawn(listener.run(Arc::new(Server)));
//!
//! let connector = Connector::new(Default::default(), |address: SocketAddr, _| address.ip().is_loopback());
//! let target = Target { host: "127.0.0.1".into(), port, transport: Transport::Tcp };
//! let client = connector.connect(&target, None).await?;
//! client.write_all(b"hello\n").await?;
//! let mut answer = BytesMut::new();
//! while !answer.ends_with(b"\n") {
//!     client.read(&mut answer, 100).await?;
//! }
//! assert_eq!(&answer[..], b"HELLO\n");
//! # Ok(())
//! # }
//! ```
//!
//! # What it never does
//! - It parses nothing of what it carries (WebSocket frames have their own layer, which a protocol may
//!   use), and queues nothing that was not handed to TLS (at most
//!   [`MAX_PENDING_CIPHERTEXT`](stream::MAX_PENDING_CIPHERTEXT) and one record).
//! - It does not read ahead: unread data of one connection is at most one read, and none while its
//!   protocol pauses; the rest waits with the peer.
//! - It does not panic on anything a peer sends, and a panic of one protocol ends one connection.
//! - It believes no PROXY header but from addresses it was told to trust, and no event delays a byte.
//! - It opens no connection without asking the outbound policy about the very address.
//! - It never logs key material, and never takes a certificate's common name for a host.

pub mod connection;
pub mod connector;
pub mod control;
pub mod event;
pub mod hep;
pub mod ledger;
pub mod limits;
pub mod listener;
pub mod proxy_protocol;
pub mod registry;
mod scheme;
pub mod sip;
pub mod socket;
pub mod stream;
pub mod threads;
pub mod tls;
pub mod ws;

pub use connection::{CloseReason, ConnectionId, Driver, DriverSettings, Flow, Handle, Protocol, Transmit};
pub use connector::{ConnectError, ConnectSettings, Connector, DialOptions, OutboundPolicy, Target};
pub use control::{OutboundConnection, State};
pub use event::{ConnectionEvent, EventKind, Events, Reporting};
pub use ledger::{Ledger, MakeRoom, Refused, Totals};
pub use limits::{ConnectionLimits, LimitReached};
pub use listener::{
    Accepting, Acceptor, BindError, BoundListener, ListenerControl, ListenerSettings, Transport,
};
pub use registry::{Registry, ReuseKey};
pub use scheme::{Scheme, UnknownScheme};
pub use socket::{Dscp, KeepAlive, SocketOptions, Source};
pub use stream::{AdoptError, Adopted, Stream};
pub use threads::Threads;
pub use tls::{PeerCertificate, TlsInfo};
