//! Why a connection ended.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

/// Why a connection ended. The first reason counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed it in order.
    #[error("closed by the peer")]
    PeerClosed,
    /// The peer reset it.
    #[error("reset by the peer")]
    Reset,
    /// The socket failed.
    #[error("{text}")]
    Io {
        /// The error's kind.
        kind: io::ErrorKind,
        /// The error's text.
        text: Arc<str>,
    },
    /// The peer broke TLS or ended it with an alert.
    #[error("TLS: {0}")]
    Tls(Arc<str>),
    /// Nothing happened for too long.
    #[error("idle for too long")]
    IdleTimeout,
    /// Data waited and the peer took none of it for `send_timeout`.
    #[error("the peer took no data for too long")]
    SendTimeout,
    /// A message took too long to arrive, or came in too many pieces.
    #[error("too slow: {0}")]
    TooSlow(Cow<'static, str>),
    /// The peer did not show in time that it speaks the protocol.
    #[error("no valid request in time")]
    HandshakeTimeout,
    /// The peer broke the protocol, or what it did ends the connection by the protocol's rules.
    #[error("{0}")]
    Protocol(Cow<'static, str>),
    /// We wanted it: shutdown, an administrator, a limit.
    #[error("closed locally: {0}")]
    Local(Cow<'static, str>),
    /// The connection's task was ended from outside, with the runtime for example.
    #[error("its task was ended")]
    Aborted,
    /// A bug: the protocol panicked. The log has the panic.
    #[error("internal error")]
    Internal,
}

impl CloseReason {
    /// The reason that a socket error is.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            K::ConnectionReset | K::BrokenPipe | K::ConnectionAborted => Self::Reset,
            K::InvalidData => Self::Tls(error.to_string().into()),
            kind => Self::Io { kind, text: error.to_string().into() },
        }
    }
}
