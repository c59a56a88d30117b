//! Connections between sessions of two processes of one relay.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tcp_transport::tls::PeerCertificate;
use tcp_transport::{AdoptError, Adopted, Stream, Transport};
use tokio::time::timeout;

use super::message::{Connection, Message};
use crate::msrp::{Link, Peer, ProcessTag};
use crate::server::network::Network;

/// How long another process may take to take one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The name by which processes of one relay know each other, as relays do by their certificates. Nobody else can have it
/// (RFC 6761 §6.4).
const NAME: &str = "process.invalid";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum KinError {
    #[error("it has ended")]
    Gone,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
}

/// Opens a connection to the process that has the sessions of this tag. If `link` stands for a relay's, the other process
/// takes it for that one.
pub(in crate::server) async fn connect(
    network: &Arc<Network>,
    tag: ProcessTag,
    link: &Link,
) -> Result<(Stream, Peer), KinError> {
    let relay = link.stands_for().map(|relay| relay.upgrade().ok_or(KinError::Gone)).transpose()?;
    let who = relay.as_ref().and_then(|relay| relay.peer().cloned());
    let who = who.unwrap_or_else(|| peer(std::process::id()));
    let listener = network.listener_name(relay.and_then(|relay| relay.listener())).unwrap_or_default();
    let (pid, channel) = network.generations.towards(tag).ok_or(KinError::Gone)?;
    let (ours, theirs) = UnixStream::pair()?;
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let message = Message::Connection(Box::new(Connection {
        peer: here,
        local: here,
        listener,
        tls: false,
        scheme: "msrp".to_owned(),
        websocket: false,
        who: (&who).into(),
    }));
    let theirs = [theirs.as_fd()];
    let sent = timeout(CONNECT_TIMEOUT, channel.send(&message, &[], &theirs)).await;
    sent.unwrap_or_else(|late| Err(late.into()))?;
    let adopted =
        Adopted { peer: here, local: here, transport: Transport::Tcp, scheme: None, lifetime: None };
    let stream = Stream::adopt(ours.into(), &adopted, network.ledger())?;
    Ok((stream, peer(pid)))
}

fn peer(pid: u32) -> Peer {
    Peer {
        address: format!("process {pid}"),
        secure: true,
        certificate: PeerCertificate::Verified { dns_names: vec![NAME.to_owned()], ip_addresses: Vec::new() },
        principal: None,
    }
}
