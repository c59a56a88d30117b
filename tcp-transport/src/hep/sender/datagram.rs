//! A socket for one collector, UDP.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use tokio::net::UdpSocket;

use super::End;
use super::queue::Queue;
use crate::hep::HepUri;

/// How often a packet is tried again at once, when sending it tells the fate of an earlier one.
const TRIES: usize = 3;

/// A socket towards the first address of `uri` that one can be opened for.
pub(super) async fn open(uri: &HepUri) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((uri.host.as_str(), uri.port)).await? {
        match connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

pub(super) async fn serve(socket: &UdpSocket, queue: &Queue, batch: &mut VecDeque<Bytes>) -> End {
    loop {
        queue.take(batch);
        let Some(packet) = batch.front() else {
            if queue.is_closing() {
                return End::Finished;
            }
            queue.woken().await;
            continue;
        };
        let length = packet.len();
        match send(socket, queue, packet).await {
            Ok(()) => queue.sent(1, length),
            Err(e) if is_too_long(&e) => queue.unsendable(length),
            Err(e) => {
                queue.count(|counters| counters.broken += 1);
                return End::Broken(e.to_string());
            }
        }
        batch.pop_front();
    }
}

async fn send(socket: &UdpSocket, queue: &Queue, packet: &[u8]) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match socket.send(packet).await {
            Ok(_) => return Ok(()),
            // ICMP about an earlier packet; this one has not been sent. Nobody may be listening for now, and
            // the next one is sent nevertheless, as UDP does.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                queue.count(|counters| counters.refused += 1);
                tries += 1;
                if tries == TRIES {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// EMSGSIZE: UDP takes 65 507 octets over IPv4.
fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(90) && cfg!(target_os = "linux")
        || error.kind() == io::ErrorKind::InvalidInput
}
