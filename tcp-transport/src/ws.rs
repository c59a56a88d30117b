//! WebSocket (RFC 6455), server and client, as a layer of bytes between the connection and what it
//! carries.
//!
//! [`frame`] and [`Incoming`] are the framing, [`handshake`] and [`client`] the opening handshake; they
//! know no sockets and no clock. What a listener and a connector do with them stands in
//! [`ListenerSettings::websocket`](crate::ListenerSettings::websocket) and
//! [`Connector::connect_ws`](crate::Connector::connect_ws).
//!
//! # How it is driven
//! A [`Protocol`](crate::Protocol) over a WebSocket has an [`Incoming`] and calls
//! [`Incoming::received`] in its own `received`, with a closure that takes payload bytes. It writes
//! data as frames of its own making ([`frame::header`]), and whenever the wire stands between two
//! frames it sends what [`Incoming::take_output`] gives. [`Incoming::deadline`] and
//! [`Incoming::expired`] belong into the protocol's, and [`Incoming::closing`] into
//! [`Protocol::closing`](crate::Protocol::closing).
//!
//! # Why framing of our own
//! tungstenite and tokio-websockets own the socket and collect whole frames or messages. Here a
//! message is forwarded while it arrives, in constant memory, and any task writes to the socket where
//! it stands ([`Stream`](crate::Stream)). So frames are taken off the driver's buffer in place: the
//! payload is unmasked where it lies, and slices of it go on to other connections without a copy.
//!
//! # What it does not do
//! Extensions (compression) are not offered and not accepted. Text is not checked to be UTF-8
//! (RFC 7977 §4.2 has the content of text frames taken as bytes).

pub mod client;
mod control;
pub mod frame;
pub mod handshake;
mod head;
mod incoming;
mod open;

pub use client::Offer;
pub use control::SmallFrame;
pub use handshake::{Answer, Request};
pub use head::{DEFAULT_MAX_HEAD, DEFAULT_MAX_HEADERS, HeadLimits, Headers, InvalidHeader};
pub use incoming::{
    DEFAULT_MAX_FRAME, DEFAULT_MAX_MESSAGE, DEFAULT_PING_INTERVAL, DEFAULT_PONG_TIMEOUT, Incoming, Payload,
    Settings,
};
pub use open::{DEFAULT_HANDSHAKE_TIMEOUT, Opened, ServerSettings, UpgradeError};
pub(crate) use open::{accept, connect};

/// Which side of the WebSocket this is.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// It accepted the connection; its frames are not masked, the peer's must be.
    Server,
    /// It opened the connection; its frames are masked, the peer's must not be.
    Client {
        /// Where masks come from. They must be unpredictable (RFC 6455 §10.3).
        mask: fn() -> [u8; 4],
    },
}

impl Role {
    /// A client whose masks come from the process' random generator.
    pub const CLIENT: Self = Self::Client { mask: random_mask };

    /// The mask for the next frame of this side, if it needs one.
    #[must_use]
    pub fn mask(self) -> Option<[u8; 4]> {
        match self {
            Self::Server => None,
            Self::Client { mask } => Some(mask()),
        }
    }

    fn is_server(self) -> bool {
        matches!(self, Self::Server)
    }
}

fn random_mask() -> [u8; 4] {
    rand::random()
}
