//! What two processes say to each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tcp_transport::tls::PeerCertificate;

use crate::msrp::Peer;

/// The version of this. Processes of different versions do not upgrade each other.
pub(super) const VERSION: u32 = 1;

/// A message, in the order of an upgrade.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Message {
    /// The next process: wants to take over.
    Hello { version: u32, pid: u32 },
    /// The process that runs: no.
    Refused { reason: String },
    /// The process that runs: who it is, and what there is, with a descriptor for each thing. There may be several.
    Offer { tag: String, pid: u32, things: Vec<Thing>, more: bool },
    /// The next process: it has all it needs, and accepts nothing yet. These Unix sockets are its own now.
    Ready { taken: Vec<PathBuf> },
    /// The process that runs: it accepts nothing any more.
    Paused,
    /// The next process: it serves.
    Serving,
    /// The next process: here is a connection for one of your sessions, and the first bytes of it.
    Connection(Box<Connection>),
    /// The process before: so many sessions are left.
    Left { sessions: u64 },
}

/// Something that is offered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Thing {
    /// The socket of a listener of this name; or of the admin interface. A service manager may have it open, too.
    Tcp {
        listener: String,
        #[serde(default)]
        managed: bool,
    },
    /// A listener's socket, for HEP.
    Udp {
        listener: String,
        #[serde(default)]
        managed: bool,
    },
    /// A socket of the admin interface.
    AdminUnix {
        path: PathBuf,
        /// A service manager has opened it, and keeps it: nobody takes its path away.
        #[serde(default)]
        managed: bool,
    },
    /// Where the next process finds this one.
    Endpoint { path: PathBuf },
    /// A channel to a process before the one that offers it, which still has sessions.
    Process { tag: String, pid: u32 },
}

/// A connection that another process has accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Connection {
    /// The peer's address, and the one it has reached.
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// The listener it came in by, as the configuration names it.
    pub(super) listener: String,
    /// Whether TLS is on the socket that the peer has; the accepting process keeps that.
    pub(super) tls: bool,
    /// What it carries, as in the listener's URI.
    pub(super) scheme: String,
    /// It is a WebSocket, whose handshake is done.
    pub(super) websocket: bool,
    pub(super) who: Who,
}

/// [`Peer`], as it goes over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Who {
    address: String,
    secure: bool,
    certificate: Certificate,
    principal: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Certificate {
    None,
    Unverified { reason: String },
    Verified { dns_names: Vec<String>, ip_addresses: Vec<std::net::IpAddr> },
}

impl From<&Peer> for Who {
    fn from(peer: &Peer) -> Self {
        let certificate = match peer.certificate.clone() {
            PeerCertificate::None => Certificate::None,
            PeerCertificate::Unverified { reason } => Certificate::Unverified { reason },
            PeerCertificate::Verified { dns_names, ip_addresses } => {
                Certificate::Verified { dns_names, ip_addresses }
            }
        };
        let principal = peer.principal.as_deref().map(str::to_owned);
        Self { address: peer.address.clone(), secure: peer.secure, certificate, principal }
    }
}

impl From<Who> for Peer {
    fn from(who: Who) -> Self {
        let certificate = match who.certificate {
            Certificate::None => PeerCertificate::None,
            Certificate::Unverified { reason } => PeerCertificate::Unverified { reason },
            Certificate::Verified { dns_names, ip_addresses } => {
                PeerCertificate::Verified { dns_names, ip_addresses }
            }
        };
        let principal = who.principal.map(Arc::from);
        Self { address: who.address, secure: who.secure, certificate, principal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_peer_goes_over_whole() {
        let verified = PeerCertificate::Verified {
            dns_names: vec!["a.test".into()],
            ip_addresses: vec!["2001:db8::1".parse().unwrap()],
        };
        let unverified = PeerCertificate::Unverified { reason: "expired".into() };
        for certificate in [PeerCertificate::None, unverified, verified] {
            let peer = Peer {
                address: "192.0.2.1:5".into(),
                secure: true,
                certificate,
                principal: Some("alice".into()),
            };
            let json = serde_json::to_string(&Who::from(&peer)).unwrap();
            let back = Peer::from(serde_json::from_str::<Who>(&json).unwrap());
            assert_eq!((&back.address, back.secure, &back.principal), (&peer.address, true, &peer.principal));
            assert_eq!(back.certificate, peer.certificate);
        }
    }

    #[test]
    fn what_an_older_process_does_not_say_is_not_so() {
        let thing = |json: &str| serde_json::from_str::<Thing>(json).unwrap();
        let (listener, managed) = ("x".to_owned(), false);
        assert_eq!(
            thing(r#"{"is":"tcp","listener":"x"}"#),
            Thing::Tcp { listener: listener.clone(), managed }
        );
        assert_eq!(thing(r#"{"is":"udp","listener":"x"}"#), Thing::Udp { listener, managed });
        let path = PathBuf::from("/x");
        assert_eq!(thing(r#"{"is":"admin_unix","path":"/x"}"#), Thing::AdminUnix { path, managed });
        // In a whole message, too.
        let offer =
            r#"{"is":"offer","tag":"ghjkm","pid":1,"things":[{"is":"tcp","listener":"x"}],"more":false}"#;
        let Message::Offer { things, .. } = serde_json::from_str(offer).unwrap() else { panic!("{offer}") };
        assert_eq!(things, [Thing::Tcp { listener: "x".into(), managed }]);
    }
}
