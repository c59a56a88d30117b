//! The process before: connections that the next one has accepted, for sessions that are here.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tcp_transport::{AdoptError, Adopted, Stream, Transport, ws};
use tracing::{debug, info, warn};

use super::channel::{Channel, Packet};
use super::message::{Connection, Message};
use super::pass::Arrival;
use crate::config::WebSocket;
use crate::server::network::Network;
use crate::server::{now, websocket};

/// How often the next process is told how many sessions are left.
const REPORT: Duration = Duration::from_secs(1);

/// Takes what the next process sends until that ends. Whatever becomes of it, this process drains.
pub(in crate::server) async fn serve(network: Arc<Network>, channel: Arc<Channel>) {
    let mut reports = tokio::time::interval(REPORT);
    loop {
        tokio::select! {
            received = channel.receive() => match received {
                Ok(Some(packet)) => take_packet(&network, packet),
                Ok(None) => {
                    info!("the next process has ended: nobody new gets to the sessions that are left here");
                    return;
                }
                Err(error) => {
                    warn!(%error, "the next process is not reached any more");
                    return;
                }
            },
            _ = reports.tick() => {
                let sessions = network.relay.sessions().len() as u64;
                // If there is no room, it has others to read.
                let left = Message::Left { sessions };
                let send = channel.send(&left, &[], &[]);
                let _ = tokio::time::timeout(REPORT, send).await;
            }
        }
    }
}

pub(super) fn take_packet(network: &Arc<Network>, packet: Packet) {
    let Packet { message, bytes, descriptors } = packet;
    let (Message::Connection(connection), Some(socket)) = (message, descriptors.into_iter().next()) else {
        return warn!("another process sends what is not understood");
    };
    let peer = connection.peer;
    match take(network, *connection, &bytes, socket) {
        Ok(()) => debug!(%peer, "connection taken from another process"),
        Err(error) => warn!(%peer, %error, "a connection of another process is closed"),
    }
}

fn take(
    network: &Arc<Network>,
    connection: Connection,
    bytes: &[u8],
    socket: OwnedFd,
) -> Result<(), AdoptError> {
    let (id, listener) = network.listener_like(&connection.listener, &connection.scheme);
    let adopted = Adopted {
        peer: connection.peer,
        local: connection.local,
        transport: if connection.tls { Transport::Tls } else { Transport::Tcp },
        scheme: connection.scheme.parse().ok(),
        lifetime: listener.as_ref().map(|listener| listener.tcp.lifetime),
    };
    let _entered = network.enter_thread();
    let stream = Stream::adopt(socket, &adopted, network.ledger())?;
    let incoming = connection.websocket.then(|| {
        let settings = listener.and_then(|listener| listener.websocket);
        let settings = websocket::session(&settings.unwrap_or_else(WebSocket::default));
        ws::Incoming::new(ws::Role::Server, settings, now())
    });
    let (peer, rest) = (connection.who.into(), BytesMut::from(bytes));
    network.arrive(Arrival { listener: id, stream, peer, rest, incoming });
    Ok(())
}
