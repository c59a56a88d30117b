//! The sender: that everything arrives, and that everything that does not is counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tcp_transport::hep::{
    Chunk, ChunkOrder, Counters, DestinationSettings, Encoding, EventFormat, FrameLimits, Framer,
    HepTransport, Packet, Received, ReceiverSettings, Sender, SenderError, TimeOrder, Version,
};
use tcp_transport::ledger::Phase;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::common::{
    Collector, LOCALHOST, add_up, destination, ledger, packet, patiently, sender, tls, until,
};

#[tokio::test]
async fn packets_arrive_in_order_over_udp_tcp_and_tls() {
    let (server, client, _dir) = tls();
    let mut server = Some(server);
    for transport in [HepTransport::Udp, HepTransport::Tcp, HepTransport::Tls] {
        let domains = server.take_if(|_| transport == HepTransport::Tls).unwrap_or_default();
        let mut collector = Collector::start(transport, ReceiverSettings::default(), domains);
        let settings = DestinationSettings {
            capture_id: 2001,
            capture_name: Some(Bytes::from_static(b"relay1")),
            auth_key: Some(Bytes::from_static(b"key")),
            ..destination(transport, collector.address)
        };
        let sender = Sender::start(vec![settings], &ledger(), Some(&client)).unwrap();
        for i in 0..100 {
            sender.send(&packet(format!("message {i}")));
        }
        for i in 0..100 {
            let received = collector.next().await;
            assert_eq!(received.packet.payload.as_deref(), Some(format!("message {i}").as_bytes()));
            assert_eq!(received.packet.capture_id, Some(2001));
            assert_eq!(received.packet.capture_name.as_deref(), Some(&b"relay1"[..]));
            assert_eq!(received.packet.auth_key.as_deref(), Some(&b"key"[..]));
            assert_eq!((received.transport, received.version), (transport, Version::V3));
        }
        let counters = patiently("close", sender.close(Duration::from_secs(30))).await[0].1;
        assert_eq!((counters.submitted, counters.sent, counters.waiting), (100, 100, 0), "{transport}");
        assert_eq!((counters.connected, counters.possibly_lost_bytes), (1, 0));
    }
}

/// Far more than is taken off the queue at once, before the connection is up and while it is, and then the end.
#[tokio::test]
async fn a_burst_leaves_nothing_behind() {
    let mut collector = Collector::of(HepTransport::Tcp);
    let sender = sender(destination(HepTransport::Tcp, collector.address));
    let burst = 1000;
    for _ in 0..burst {
        sender.send(&packet("first"));
    }
    for _ in 0..burst {
        collector.next().await;
    }
    for _ in 0..burst {
        sender.send(&packet("second"));
    }
    for _ in 0..burst {
        collector.next().await;
    }
    for _ in 0..burst {
        sender.send(&packet("last"));
    }
    let counters = patiently("close", sender.close(Duration::from_secs(30))).await[0].1;
    assert_eq!((counters.sent, counters.waiting, counters.dropped_while_down), (3 * burst, 0, 0));
}

#[tokio::test]
async fn each_destination_gets_its_own_version_format_and_capture_id() {
    let mut collectors = [0; 3].map(|_| Collector::of(HepTransport::Udp));
    let versions = [Version::V1, Version::V2, Version::V3];
    let settings =
        collectors.iter().zip(versions).enumerate().map(|(i, (collector, version))| DestinationSettings {
            name: format!("collector {i}"),
            encoding: Encoding { version, ..Encoding::default() },
            capture_id: 70_000 + i as u32,
            format: if i == 1 { EventFormat::Text(':') } else { EventFormat::Json },
            ..destination(HepTransport::Udp, collector.address)
        });
    let sender = Sender::start(settings.collect(), &ledger(), None).unwrap();
    sender.send_with(|format| packet(format!("{format:?}")));
    let ids = [None, Some((70_001_u32) & 0xffff), Some(70_002)];
    let texts = ["Json", "Text(':')", "Json"];
    for (((collector, version), id), text) in collectors.iter_mut().zip(versions).zip(ids).zip(texts) {
        let received = collector.next().await;
        assert_eq!((received.version, received.packet.capture_id), (version, id));
        assert_eq!(received.packet.payload.as_deref(), Some(text.as_bytes()));
    }
    assert!(sender.set_enabled("collector 1", false) && !sender.set_enabled("nobody", false));
    sender.send(&packet("two"));
    assert_eq!(collectors[2].next().await.packet.payload.as_deref(), Some(&b"two"[..]));
    assert_eq!(sender.counters()[1].1.submitted, 1);
    assert!(sender.is_enabled());
}

/// What an agent sends to a concentrator, as the concentrator gets it.
async fn received(wire: &Bytes) -> Received {
    let mut concentrator = Collector::of(HepTransport::Udp);
    let agent = UdpSocket::bind(LOCALHOST).await.unwrap();
    agent.send_to(wire, concentrator.address).await.unwrap();
    concentrator.next().await
}

#[tokio::test]
async fn what_others_have_captured_is_passed_on_as_it_came() {
    let mut collector = Collector::of(HepTransport::Tcp);
    let sender = sender(destination(HepTransport::Tcp, collector.address));
    let mut original = packet("theirs");
    original.capture_id = Some(77);
    let as_opensips = Encoding { order: ChunkOrder::OpenSips, ..Encoding::default() };
    let wire = original.encode(as_opensips).unwrap();
    assert_eq!(sender.forward(&received(&wire).await, |_| true), 1);
    assert_eq!(collector.next().await.wire, wire);
    let v2 = Encoding { version: Version::V2, ..Encoding::default() };
    let old = received(&original.encode(v2).unwrap()).await;
    sender.forward(&old, |name| name == "collector");
    let arrived = collector.next().await;
    assert_eq!((arrived.version, arrived.packet), (Version::V3, old.packet.clone()));
    // Those that are not wanted, or switched off, get nothing.
    assert_eq!(sender.forward(&old, |name| name == "another"), 0);
    sender.set_enabled("collector", false);
    assert_eq!((sender.forward(&old, |_| true), sender.counters()[0].1.submitted), (0, 2));
}

#[tokio::test]
async fn a_key_is_between_two_neighbours_and_a_compressed_payload_is_inflated_for_old_versions() {
    let versions =
        [(Version::V3, None), (Version::V3, Some("ours")), (Version::V2, Some("ours")), (Version::V1, None)];
    let mut collectors = versions.map(|_| Collector::of(HepTransport::Udp));
    let settings = versions.iter().zip(&collectors).enumerate().map(|(i, ((version, key), collector))| {
        DestinationSettings {
            name: format!("collector {i}"),
            encoding: Encoding { version: *version, ..Encoding::default() },
            auth_key: key.map(Into::into),
            ..destination(HepTransport::Udp, collector.address)
        }
    });
    let sender = Sender::start(settings.collect(), &ledger(), None).unwrap();
    let text = "INVITE sip:bob@example.org SIP/2.0\r\n".repeat(50);
    let mut theirs = packet(text.clone());
    theirs.auth_key = Some(Bytes::from_static(b"theirs"));
    theirs.others.push(Chunk { vendor: 0, kind: 0x0e, value: Bytes::from_static(b"theirs too") });
    theirs.compress().unwrap();
    assert!(theirs.payload.is_none());
    let theirs = received(&theirs.encode(Encoding::default()).unwrap()).await;
    assert!(!format!("{theirs:?}").contains("theirs"), "{theirs:?}");
    assert_eq!(sender.forward(&theirs, |_| true), 4);
    for ((version, key), collector) in versions.into_iter().zip(&mut collectors) {
        let arrived = collector.next().await;
        assert_eq!(arrived.version, version);
        assert!(!arrived.wire.windows(6).any(|window| window == b"theirs"), "{version:?}");
        let key = key.filter(|_| version == Version::V3);
        assert_eq!(arrived.packet.auth_key.as_deref(), key.map(str::as_bytes));
        assert_eq!(arrived.packet.content(4096).unwrap().unwrap(), text);
        assert_eq!(arrived.packet.payload.is_some(), version != Version::V3);
    }
    // What is broken cannot be sent there; where it need not be looked into, it can.
    let mut broken = packet("");
    (broken.payload, broken.compressed_payload) = (None, Some(Bytes::from_static(b"\x1f\x8bbroken")));
    sender.forward(&received(&broken.encode(Encoding::default()).unwrap()).await, |_| true);
    let unsendable = sender.counters().into_iter().map(|(_, counters)| counters.dropped_unsendable);
    assert_eq!(unsendable.sum::<u64>(), 2);
    // And what others have sent in an old version gets our key.
    let old = Encoding { version: Version::V1, ..Encoding::default() };
    sender.forward(&received(&packet("old").encode(old).unwrap()).await, |name| name == "collector 1");
    assert!(collectors[1].next().await.packet.compressed_payload.is_some());
    assert_eq!(collectors[1].next().await.packet.auth_key.as_deref(), Some(&b"ours"[..]));
}

#[tokio::test]
async fn packets_of_our_own_are_known() {
    for transport in [HepTransport::Udp, HepTransport::Tcp] {
        let mut collector = Collector::of(transport);
        let sender = sender(destination(transport, collector.address));
        sender.send(&packet("ours"));
        let ours = collector.next().await;
        assert!(sender.is_own(ours.from), "{transport}");
        assert!(!sender.is_own(received(&ours.wire).await.from));
    }
}

#[test]
fn destinations_that_cannot_work_are_refused() {
    let at = |uri: &str| DestinationSettings::new("x", uri.parse().unwrap());
    let start = |list: Vec<DestinationSettings>| Sender::start(list, &ledger(), None).unwrap_err();
    let old = Encoding { version: Version::V2, ..Encoding::default() };
    let old = DestinationSettings { encoding: old, ..at("hep_tcp://127.0.0.1") };
    assert_eq!(start(vec![old]), SenderError::Version("x".into(), 2));
    let two = vec![at("hep_udp://127.0.0.1"), at("hep_udp://127.0.0.2")];
    assert_eq!(start(two), SenderError::DuplicateName("x".into()));
    assert!(matches!(start(vec![at("hep_tls://127.0.0.1")]), SenderError::NoTlsDomain(..)));
}

/// An address where nobody listens.
async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind(LOCALHOST).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_collector_that_refuses_is_down_after_its_retries_and_what_waits_is_dropped() {
    let settings = DestinationSettings {
        max_retries: Some(3),
        retry_cooldown: Duration::from_secs(3600),
        ..destination(HepTransport::Tcp, nobody().await)
    };
    let sender = sender(settings);
    sender.send(&packet("one"));
    let counters = until(&sender, "down", |c| c.dropped_while_down == 1).await;
    assert_eq!((counters.failed_attempts, counters.connected, counters.waiting), (4, 0, 0));
    sender.send(&packet("two"));
    assert_eq!(sender.counters()[0].1.dropped_while_down, 2);
    let last = patiently("close, in the cooldown", sender.close(Duration::from_secs(3600))).await;
    add_up(&last[0].1);
}

#[tokio::test]
async fn a_collector_that_comes_gets_what_waited_for_it() {
    let address = nobody().await;
    let sender = sender(destination(HepTransport::Tcp, address));
    for i in 0..10 {
        sender.send(&packet(format!("{i}")));
    }
    until(&sender, "refused", |c| c.failed_attempts >= 3).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (mut stream, _) = patiently("connect", listener.accept()).await.unwrap();
    let mut reader = Reader::default();
    for i in 0..10 {
        assert_eq!(reader.next(&mut stream).await.unwrap(), format!("{i}"));
    }
    let counters = until(&sender, "sent", |c| c.waiting == 0).await;
    assert_eq!((counters.sent, counters.dropped_while_down), (10, 0));
}

/// Reads payloads off a plain connection.
#[derive(Default)]
struct Reader {
    buf: BytesMut,
}

impl Reader {
    /// `None` at the end.
    async fn next(&mut self, stream: &mut TcpStream) -> Option<Bytes> {
        let limits = FrameLimits { max_msg_chunks: u32::MAX, ..FrameLimits::default() };
        let mut framer = Framer::new(limits);
        loop {
            if let Some(wire) = framer.next(&mut self.buf).unwrap() {
                return Packet::decode(&wire, TimeOrder::Little).unwrap().1.payload;
            }
            if patiently("packet", stream.read_buf(&mut self.buf)).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}

#[tokio::test]
async fn a_collector_that_dies_and_comes_back_gets_everything_but_what_the_kernel_had() {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let sender = sender(destination(HepTransport::Tcp, listener.local_addr().unwrap()));
    let mut received = 0_u64;
    let mut received_bytes = 0_u64;
    let mut sent = 0;
    for round in 0..5 {
        let (mut stream, _) = patiently("connect", listener.accept()).await.unwrap();
        let mut reader = Reader::default();
        for _ in 0..50 {
            sender.send(&packet(vec![b'x'; 1000]));
            sent += 1;
        }
        // It reads some, and dies with the rest unread: the kernel resets the connection.
        for _ in 0..10 {
            received_bytes += reader.next(&mut stream).await.unwrap().len() as u64;
            received += 1;
        }
        drop(stream);
        until(&sender, "broken", |c| c.broken > round).await;
    }
    let (mut stream, _) = patiently("connect", listener.accept()).await.unwrap();
    until(&sender, "sent", |c| c.waiting == 0).await;
    let counters = sender.close(Duration::from_secs(30));
    let read_all = async {
        let mut reader = Reader::default();
        while let Some(payload) = reader.next(&mut stream).await {
            received += 1;
            received_bytes += payload.len() as u64;
        }
        drop(stream);
    };
    let (counters, ()) = patiently("the rest", async { tokio::join!(counters, read_all) }).await;
    let counters = counters[0].1;
    add_up(&counters);
    assert_eq!((counters.submitted, counters.dropped_by_queue, counters.dropped_while_down), (sent, 0, 0));
    assert_eq!((counters.connected, counters.broken), (6, 5));
    let lost = counters.sent_bytes - received_bytes / 1000 * (counters.sent_bytes / counters.sent);
    assert!(counters.sent >= received && lost <= counters.possibly_lost_bytes, "{counters:?} {received}");
}

#[tokio::test]
async fn a_collector_that_stalls_fills_the_queue_and_its_connection_ends_at_the_send_timeout() {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let settings = DestinationSettings {
        queue_packets: 100,
        queue_bytes: usize::MAX,
        send_timeout: Duration::from_millis(50),
        retry_pause: Duration::from_secs(3600),
        retry_cooldown: Duration::from_secs(3600),
        ..destination(HepTransport::Tcp, listener.local_addr().unwrap())
    };
    let sender = sender(settings);
    let (stream, _) = patiently("connect", listener.accept()).await.unwrap();
    // More than both kernels take.
    let large = packet(vec![b'x'; 60_000]);
    let counters = patiently("a full queue", async {
        loop {
            sender.send(&large);
            let counters = sender.counters()[0].1;
            if counters.dropped_by_queue > 0 {
                return counters;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((counters.waiting, counters.dropped_by_queue), (100, 1));
    let counters = until(&sender, "the send timeout", |c| c.broken == 1).await;
    // What was not taken still waits for the next connection.
    assert_eq!(counters.waiting, 100);
    assert!(counters.sent_bytes <= counters.possibly_lost_bytes, "nothing was read: {counters:?}");
    drop(stream);
}

#[tokio::test]
async fn a_send_timeout_is_long_enough_for_a_collector_that_reads_slowly() {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let sender = sender(destination(HepTransport::Tcp, listener.local_addr().unwrap()));
    let (mut stream, _) = patiently("connect", listener.accept()).await.unwrap();
    let large = packet(vec![b'x'; 60_000]);
    let mut reader = Reader::default();
    for _ in 0..300 {
        sender.send(&large);
    }
    let submitted = sender.counters()[0].1;
    let kept = submitted.submitted - submitted.dropped_by_queue;
    for _ in 0..kept {
        assert_eq!(reader.next(&mut stream).await.unwrap().len(), 60_000);
    }
    let counters = until(&sender, "sent", |c| c.waiting == 0).await;
    assert_eq!((counters.sent, counters.broken), (kept, 0));
}

#[tokio::test]
async fn udp_counts_what_it_hears_of_a_collector_that_is_not_there() {
    let socket = UdpSocket::bind(LOCALHOST).await.unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let sender = sender(destination(HepTransport::Udp, address));
    patiently("ICMP", async {
        while sender.counters()[0].1.refused == 0 {
            sender.send(&packet("anybody?"));
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut late = UdpSocket::bind(address).await;
    assert!(late.as_mut().is_ok());
    sender.send(&packet("now"));
    let mut buf = [0; 2000];
    patiently("a datagram", async {
        loop {
            let n = late.as_ref().unwrap().recv(&mut buf).await.unwrap();
            if buf[..n].ends_with(b"now") || buf[..n].windows(3).any(|w| w == b"now") {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_too_long_for_udp_is_counted_apart() {
    let mut collector = Collector::of(HepTransport::Udp);
    let sender = sender(destination(HepTransport::Udp, collector.address));
    sender.send(&packet(vec![0; 65_450]));
    sender.send(&packet(vec![0; 66_000]));
    sender.send(&packet("short"));
    assert_eq!(collector.next().await.packet.payload.as_deref(), Some(&b"short"[..]));
    let Counters { dropped_unsendable, sent, .. } = until(&sender, "sent", |c| c.waiting == 0).await;
    assert_eq!((dropped_unsendable, sent), (2, 1));
}

#[tokio::test]
async fn its_connections_are_in_the_ledger_while_they_last() {
    let collector = Collector::of(HepTransport::Tcp);
    let ledger = ledger();
    let mut events = ledger.events().subscribe();
    let settings = destination(HepTransport::Tcp, collector.address);
    let sender = Sender::start(vec![settings], &ledger, None).unwrap();
    until(&sender, "connected", |c| c.connected == 1).await;
    let entries = ledger.snapshot();
    assert!(entries.iter().all(|entry| entry.phase() == Phase::Open) && entries.len() == 1);
    drop(patiently("close", sender.close(Duration::from_secs(30))).await);
    let mut names = Vec::new();
    while names.len() < 3 {
        names.push(patiently("event", events.next()).await.unwrap().kind.name());
    }
    assert_eq!(names, ["tcp:connecting", "tcp:connected", "tcp:closed"]);
    assert!(Arc::strong_count(&ledger) >= 1 && ledger.is_empty());
}
