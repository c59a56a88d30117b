//! Connections for text protocols over TCP and TLS.
//!
//! The layer between sockets and a protocol: it listens and connects, speaks TLS, drives each
//! connection in one task and ends it in order, and it knows nothing of what is said over it.
pub mod connection;
pub mod connector;
pub mod listener;
pub mod registry;
pub mod stream;
pub mod tls;

pub use connection::{CloseReason, ConnectionId, Driver, DriverSettings, Flow, Handle, Protocol, Transmit};
pub use connector::{ConnectError, ConnectSettings, Connector, OutboundPolicy, Target};
pub use listener::{Acceptor, BindError, BoundListener, ListenerSettings, Transport};
pub use registry::{Registry, ReuseKey};
pub use stream::Stream;
pub use tls::{PeerCertificate, TlsInfo};
