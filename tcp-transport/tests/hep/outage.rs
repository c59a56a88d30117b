//! Collectors over TCP and TLS that stall, die and come back: everything that was offered is accounted for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tcp_transport::hep::{
    Counters, DestinationSettings, FrameLimits, Framer, HepTransport, Packet, Sender, TimeOrder,
};
use tcp_transport::tls::{HandshakeError, ServerDomains};
use tcp_transport::{Acceptor, BoundListener, ConnectionLimits, Ledger, ListenerSettings, Stream, Transport};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::common::{LOCALHOST, add_up, destination, ledger, packet, patiently, tls, until};

/// A collector whose connections the test reads, or does not.
struct Collector {
    address: SocketAddr,
    streams: UnboundedReceiver<Stream>,
    task: JoinHandle<()>,
}

struct Streams(UnboundedSender<Stream>);

impl Acceptor for Streams {
    fn accepted(&self, stream: Stream) {
        let _ = self.0.send(stream);
    }

    fn handshake_failed(&self, _: SocketAddr, _: HandshakeError) {}
}

impl Collector {
    fn start(address: SocketAddr, transport: Transport, domains: &Arc<ServerDomains>) -> Self {
        let settings = ListenerSettings::new(address, transport);
        let listener = BoundListener::bind(settings, domains.clone()).unwrap();
        let address = listener.local_addr();
        let (sender, streams) = unbounded_channel();
        let task = tokio::spawn(listener.run(Arc::new(Streams(sender))));
        Self { address, streams, task }
    }

    async fn next(&mut self) -> Stream {
        patiently("a connection", self.streams.recv()).await.unwrap()
    }

    /// Its socket and its connections are gone, what it has not read too.
    async fn die(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

/// What a collector has read, over all its connections.
#[derive(Default)]
struct Read {
    numbers: BTreeSet<u64>,
    bytes: u64,
    count: u64,
}

impl Read {
    /// Reads `most` packets of a connection; fewer if it ends before.
    async fn packets(&mut self, stream: &Stream, most: usize) {
        let mut framer = Framer::new(FrameLimits { max_msg_chunks: u32::MAX, ..FrameLimits::default() });
        let mut buf = BytesMut::new();
        let mut left = most;
        while left > 0 {
            while left > 0
                && let Some(wire) = framer.next(&mut buf).unwrap()
            {
                let payload = Packet::decode(&wire, TimeOrder::Little).unwrap().1.payload.unwrap();
                self.numbers.insert(u64::from_be_bytes(payload[..8].try_into().unwrap()));
                self.bytes += wire.len() as u64;
                self.count += 1;
                left -= 1;
            }
            if left > 0 && patiently("a packet", stream.read(&mut buf, 65_536)).await.unwrap_or(0) == 0 {
                return;
            }
        }
    }
}

/// Numbers what it offers.
struct Agent {
    sender: Sender,
    offered: u64,
}

impl Agent {
    fn offer(&mut self, length: usize) -> Counters {
        let mut payload = vec![b'x'; length.max(8)];
        payload[..8].copy_from_slice(&self.offered.to_be_bytes());
        self.sender.send(&packet(payload));
        self.offered += 1;
        let counters = self.sender.counters()[0].1;
        assert_eq!(counters.submitted, self.offered);
        add_up(&counters);
        counters
    }

    async fn offer_until(&mut self, length: usize, wanted: impl Fn(&Counters) -> bool) {
        patiently("a counter", async {
            while !wanted(&self.offer(length)) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_collector_that_stalls_dies_and_comes_back_leaves_counters_that_add_up() {
    let (domains, client, _dir) = tls();
    let domains = Arc::new(domains);
    for (transport, over) in [(HepTransport::Tcp, Transport::Tcp), (HepTransport::Tls, Transport::Tls)] {
        let mut collector = Collector::start(LOCALHOST.parse().unwrap(), over, &domains);
        let settings = DestinationSettings {
            queue_packets: 50,
            send_timeout: Duration::from_millis(50),
            max_retries: Some(2),
            ..destination(transport, collector.address)
        };
        let mut agent =
            Agent { sender: Sender::start(vec![settings], &ledger(), Some(&client)).unwrap(), offered: 0 };
        let mut read = Read::default();
        let stream = collector.next().await;
        for _ in 0..40 {
            agent.offer(1000);
        }
        read.packets(&stream, 30).await;
        // It stalls: its queue fills, and its connection ends.
        agent.offer_until(60_000, |c| c.dropped_by_queue > 0).await;
        let before = agent.sender.counters()[0].1.dropped_by_queue;
        agent.offer_until(60_000, |c| c.broken > 0 && c.dropped_by_queue > before).await;
        // A packet that none can carry.
        agent.offer(70_000);
        // It dies.
        drop(stream);
        let address = collector.die().await;
        agent.offer_until(1000, |c| c.dropped_while_down > 0).await;
        // It comes back, and gets what is offered from then on.
        let mut collector = Collector::start(address, over, &domains);
        let stream = collector.next().await;
        for _ in 0..20 {
            agent.offer(1000);
        }
        // All of it in the end: reading goes on while the sender closes.
        let closing = agent.sender.close(Duration::from_secs(30));
        let reading = async {
            read.packets(&stream, usize::MAX).await;
            drop(stream);
        };
        let (counters, ()) = patiently("close", async { tokio::join!(closing, reading) }).await;
        let counters = counters[0].1;
        assert_eq!(counters.submitted, agent.offered, "{transport}");
        let dropped = counters.dropped_by_queue + counters.dropped_while_down + counters.dropped_unsendable;
        assert_eq!(counters.submitted, counters.sent + dropped + counters.waiting, "{counters:?}");
        assert_eq!((counters.waiting, counters.dropped_unsendable), (0, 1));
        assert!(
            counters.broken > 0 && counters.failed_attempts > 0 && counters.connected > 1,
            "{counters:?}"
        );
        // Nobody gets a packet twice, and who got fewer than were sent lost no more than was said.
        assert_eq!(read.numbers.len() as u64, read.count);
        assert!(read.count <= counters.sent, "{counters:?}");
        assert!(
            counters.sent_bytes - read.bytes <= counters.possibly_lost_bytes,
            "{counters:?} {}",
            read.bytes
        );
    }
}

/// Collectors that stall: nobody knows what of the octets that the kernel took will ever be read.
#[tokio::test]
async fn a_close_that_is_cut_short_counts_what_may_be_lost() {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let sender = crate::common::sender(destination(HepTransport::Tcp, listener.local_addr().unwrap()));
    let (mut stream, _) = patiently("connect", listener.accept()).await.unwrap();
    sender.send(&packet("read by nobody"));
    let sent = until(&sender, "sent", |c| c.sent == 1).await;
    assert_eq!(sent.possibly_lost_bytes, 0, "it is there");
    // No time for the collector's answer to our end.
    let closed = sender.close(Duration::ZERO).await[0].1;
    assert_eq!(closed.possibly_lost_bytes, sent.sent_bytes);

    // With time, and an answer, nothing is.
    let sender = crate::common::sender(destination(HepTransport::Tcp, listener.local_addr().unwrap()));
    let (mut second, _) = patiently("connect", listener.accept()).await.unwrap();
    sender.send(&packet("read"));
    let reads = async {
        let mut all = Vec::new();
        second.read_to_end(&mut all).await.unwrap();
        drop(second);
    };
    let (closed, ()) =
        patiently("close", async { tokio::join!(sender.close(Duration::from_secs(60)), reads) }).await;
    assert_eq!((closed[0].1.sent, closed[0].1.possibly_lost_bytes), (1, 0));
    let mut all = Vec::new();
    let _ = patiently("the first one's end", stream.read_to_end(&mut all)).await;
}

/// The server takes the connection and never answers the handshake.
#[tokio::test]
async fn closing_does_not_wait_for_a_connect_under_way() {
    let (_, client, _dir) = tls();
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let settings = destination(HepTransport::Tls, listener.local_addr().unwrap());
    let sender = Sender::start(vec![settings], &ledger(), Some(&client)).unwrap();
    let (_silent, _) = patiently("connect", listener.accept()).await.unwrap();
    sender.send(&packet("too late"));
    // From here on time is virtual, as nothing more comes from the network.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let closed = sender.close(Duration::from_secs(3600)).await[0].1;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "not as long as a handshake may take: {took:?}");
    assert_eq!((closed.connected, closed.dropped_while_down, closed.waiting), (0, 1, 0));
    assert_eq!(closed.failed_attempts, 1, "it was given up, not cut off: {closed:?}");
}

#[tokio::test]
async fn a_process_that_is_full_reaches_its_collector_and_collectors_take_nobodys_place() {
    let limits = ConnectionLimits { max_connections: Some(1), max_connections_per_address: None };
    let ledger = Ledger::new(limits, tcp_transport::Events::default());
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let clients = BoundListener::bind(
        ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp),
        Arc::default(),
    )
    .unwrap()
    .with_ledger(ledger.clone());
    let clients_at = clients.local_addr();
    let (streams, mut accepted) = unbounded_channel();
    tokio::spawn(clients.run(Arc::new(Streams(streams))));
    let _client = tokio::net::TcpStream::connect(clients_at).await.unwrap();
    let first = patiently("a client", accepted.recv()).await.unwrap();

    let settings = destination(HepTransport::Tcp, listener.local_addr().unwrap());
    let sender = Sender::start(vec![settings], &ledger, None).unwrap();
    let _collector = patiently("the collector's", listener.accept()).await.unwrap();
    until(&sender, "connected", |c| c.connected == 1).await;
    assert_eq!(ledger.len(), 2);

    // The place of the first client is free again for another one, though the collector's connection stays.
    drop(first);
    let _client = tokio::net::TcpStream::connect(clients_at).await.unwrap();
    let second = patiently("the next client", accepted.recv()).await.unwrap();
    assert_eq!(ledger.len(), 2);
    drop(patiently("close", sender.close(Duration::from_secs(30))).await);
    // With the collector's connection gone there is no more room than before.
    let mut refused = tokio::net::TcpStream::connect(clients_at).await.unwrap();
    assert_eq!(patiently("the end", refused.read(&mut [0])).await.unwrap_or(0), 0);
    drop(second);
}
