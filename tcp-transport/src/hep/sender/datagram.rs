//! A socket for one collector, UDP.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;

use super::End;
use super::queue::Queue;
use crate::connector::{Resolver as _, SystemResolver};
use crate::hep::HepUri;

/// How often a packet is tried again at once, when sending it tells the fate of an earlier one.
const TRIES: usize = 3;

/// How often the name of a collector is looked up anew. The system's resolver tells nothing of how long an answer
/// may be kept, and most names of services may be for about that.
const LOOK_UP: Duration = Duration::from_secs(60);

/// A socket towards the first address of `uri` that one can be opened for.
pub(super) async fn open(uri: &HepUri) -> io::Result<UdpSocket> {
    open_any(&look_up(uri).await?).await
}

async fn look_up(uri: &HepUri) -> io::Result<Vec<SocketAddr>> {
    SystemResolver.resolve(&uri.host, uri.port).await
}

async fn open_any(addresses: &[SocketAddr]) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match connect(*address).await {
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

/// Sends over `socket` until there is an end. No datagram says that a collector has moved, so a name is
/// [looked up](LOOK_UP) from time to time while packets go out, and when the network says that nobody listens. `opened`
/// is told our address of each socket.
pub(super) async fn serve(
    socket: UdpSocket,
    uri: &HepUri,
    queue: &Queue,
    batch: &mut VecDeque<Bytes>,
    opened: impl FnMut(Option<SocketAddr>),
) -> End {
    let is_name = uri.host.parse::<IpAddr>().is_err();
    serve_with(socket, is_name.then_some(LOOK_UP), || look_up(uri), queue, batch, opened).await
}

async fn serve_with<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
    mut socket: UdpSocket,
    every: Option<Duration>,
    look_up: impl Fn() -> F,
    queue: &Queue,
    batch: &mut VecDeque<Bytes>,
    mut opened: impl FnMut(Option<SocketAddr>),
) -> End {
    loop {
        opened(socket.local_addr().ok());
        let to = socket.peer_addr().ok();
        tokio::select! {
            end = send_all(&socket, queue, batch) => return end,
            // What has been sent is counted in the same moment, so nothing is lost between the two.
            next = moved(to, every, &look_up) => socket = next,
        }
    }
}

/// A socket to where the collector is now, as soon as `to` is none of its addresses any more. While its name cannot be
/// looked up it stays where it was.
async fn moved<F: Future<Output = io::Result<Vec<SocketAddr>>>>(
    to: Option<SocketAddr>,
    every: Option<Duration>,
    look_up: impl Fn() -> F,
) -> UdpSocket {
    let Some(every) = every else { return std::future::pending().await };
    loop {
        tokio::time::sleep(every).await;
        let Ok(addresses) = look_up().await else { continue };
        if addresses.iter().any(|address| Some(*address) == to) {
            continue;
        }
        if let Ok(socket) = open_any(&addresses).await {
            return socket;
        }
    }
}

async fn send_all(socket: &UdpSocket, queue: &Queue, batch: &mut VecDeque<Bytes>) -> End {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::connector::MAX_LOOKUPS;
    use crate::connector::resolver::LOOKUPS;
    use crate::hep::DestinationSettings;

    #[tokio::test]
    async fn a_collector_s_name_waits_for_its_turn_among_others() {
        let uri: HepUri = "hep_udp://localhost:9060".parse().unwrap();
        // Tried and not waited for: others in this process want all of them, too, and wait for each.
        let turns = loop {
            match LOOKUPS.try_acquire_many(MAX_LOOKUPS as u32) {
                Ok(turns) => break turns,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        let mut looked_up = Box::pin(look_up(&uri));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut looked_up).await;
        assert!(early.is_err(), "{early:?}");
        drop(turns);
        assert!(looked_up.await.unwrap().iter().all(|address| address.port() == 9060));
    }

    #[tokio::test]
    async fn a_collector_whose_name_leads_elsewhere_is_followed() {
        let mut collectors = Vec::new();
        for _ in 0..2 {
            collectors.push(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        }
        let at = [0, 1].map(|i: usize| collectors[i].local_addr().unwrap());
        let looked_up = AtomicUsize::new(0);
        // First no answer, then the same address beside another one, then only another one.
        let look_up = || {
            let answer = match looked_up.fetch_add(1, Ordering::Relaxed) {
                0 => Err(io::ErrorKind::TimedOut.into()),
                1 => Ok(vec![at[1], at[0]]),
                _ => Ok(vec![at[1]]),
            };
            std::future::ready(answer)
        };
        let settings = DestinationSettings::new("x", "hep_udp://127.0.0.1".parse().unwrap());
        let queue = Queue::new(&settings);
        let (mut batch, mut sockets) = (VecDeque::new(), Vec::new());
        let socket = connect(at[0]).await.unwrap();
        let every = Some(Duration::from_millis(1));
        let serve = serve_with(socket, every, look_up, &queue, &mut batch, |local| sockets.push(local));
        let test = async {
            let (mut first, mut second) = ([0; 10], [0; 10]);
            loop {
                queue.push(&Ok(Bytes::from_static(b"x")));
                tokio::select! {
                    n = collectors[0].recv(&mut first) => { n.unwrap(); }
                    n = collectors[1].recv(&mut second) => { n.unwrap(); break; }
                }
            }
            queue.close();
        };
        let both = async { tokio::join!(serve, test) };
        let (end, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        assert!(matches!(end, End::Finished));
        assert!(looked_up.load(Ordering::Relaxed) >= 3);
        assert!(matches!(sockets[..], [Some(first), Some(second)] if first != second), "{sockets:?}");
    }
}
