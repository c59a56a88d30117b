//! Who is at the other end of a connection, and how it came to be.

use std::fmt;
use std::sync::Arc;

use msrp_proto::uri::Scheme;
use tcp_transport::tls::PeerCertificate;

use super::tag::ProcessTag;

/// Where a link leads that we open ourselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `msrp` or `msrps`.
    pub scheme: Scheme,
    /// A name or an IP literal without brackets, in lower case.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// Whether the URI said so, or it is the default one. A relay that does not take a request by its
    /// name alone closes the connection: then it is one that nobody else uses.
    pub explicit_port: bool,
    /// What it must have in common with another connection there besides: see [`Dialer::reuse_key`](super::Dialer::reuse_key).
    pub reuse_key: Option<Box<str>>,
    /// It is the process of this relay that has the sessions of this tag.
    pub process: Option<ProcessTag>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.scheme, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
        }
    }
}

/// How a link came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Accepted by the listener of this number in [`Settings::listeners`](super::Settings::listeners).
    Accepted {
        /// The listener's number.
        listener: usize,
    },
    /// Opened by us.
    Dialled {
        /// Where to.
        target: Box<Target>,
        /// The listener of the message it was opened for.
        listener: Option<usize>,
    },
}

/// Who is at the other end, known once the link is open.
#[derive(Clone, Debug)]
pub struct Peer {
    /// For logs.
    pub address: String,
    /// Whether TLS protects the connection.
    pub secure: bool,
    /// What TLS found out about the peer.
    pub certificate: PeerCertificate,
    /// The user that the WebSocket handshake has proved (RFC 7977 §5.3.1): its AUTH needs no credentials. A name
    /// without control characters, or what [`Relay::http_digest`](super::Relay::http_digest) has given.
    pub principal: Option<Arc<str>>,
}
