//! The receiver: handlers in their order, and limits.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tcp_transport::hep::{
    Dispatch, Encoding, FrameLimits, HepHandler, HepTransport, Received, Receiver, ReceiverSettings, Refusal,
    Version,
};
use tcp_transport::tls::ServerDomains;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc::unbounded_channel;

use crate::common::{Collector, LOCALHOST, packet, patiently};

fn wire(payload: &'static str, version: Version) -> bytes::Bytes {
    packet(payload).encode(Encoding { version, ..Encoding::default() }).unwrap()
}

#[tokio::test]
async fn handlers_are_called_in_order_until_one_stops_it_and_a_panic_stops_nothing() {
    let (forward, mut seen) = unbounded_channel();
    let after_panic = Arc::new(AtomicUsize::new(0));
    let count = after_panic.clone();
    let dispatch = Dispatch::new(ReceiverSettings::default())
        .with(|received: &Received| {
            assert!(received.packet.payload.as_deref() != Some(&b"panic"[..]), "as the test wants it");
            if received.packet.payload.as_deref() == Some(&b"stop"[..]) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .with(move |_: &Received| {
            count.fetch_add(1, Ordering::Relaxed);
            ControlFlow::Continue(())
        })
        .with(move |received: &Received| {
            let _ = forward.send(received.packet.payload.clone().unwrap());
            ControlFlow::Continue(())
        });
    let receiver = Receiver::udp(LOCALHOST.parse().unwrap(), Arc::new(dispatch)).unwrap();
    let address = receiver.local_addr();
    tokio::spawn(receiver.run());
    let agent = UdpSocket::bind(LOCALHOST).await.unwrap();
    for payload in ["stop", "panic", "last"] {
        agent.send_to(&wire(payload, Version::V3), address).await.unwrap();
    }
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "last") {
        got.push(patiently("a packet", seen.recv()).await.unwrap());
    }
    assert_eq!(got, ["panic", "last"]);
    assert_eq!(after_panic.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn all_versions_come_over_udp_and_what_is_none_is_counted() {
    let mut collector = Collector::of(HepTransport::Udp);
    let agent = UdpSocket::bind(LOCALHOST).await.unwrap();
    agent.send_to(b"no HEP", collector.address).await.unwrap();
    for version in [Version::V1, Version::V2, Version::V3] {
        agent.send_to(&wire("x", version), collector.address).await.unwrap();
        let received = collector.next().await;
        assert_eq!(received.version, version);
        assert_eq!((received.from, received.to), (agent.local_addr().unwrap(), collector.address));
    }
    let counters = collector.dispatch.counters();
    assert_eq!((counters.received, counters.malformed), (3, 1));
    assert!(collector.got_nothing_more());
}

/// Waits for the end of the connection.
async fn ended(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = patiently("the end", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_stream_is_read_however_it_is_cut_and_ended_when_it_is_none() {
    let mut collector = Collector::of(HepTransport::Tcp);
    let mut agent = TcpStream::connect(collector.address).await.unwrap();
    let two = [wire("one", Version::V3), wire("two", Version::V3)].concat();
    let (head, tail) = two.split_at(40);
    agent.write_all(head).await.unwrap();
    agent.write_all(tail).await.unwrap();
    assert_eq!(collector.next().await.packet.payload.unwrap(), "one");
    assert_eq!(collector.next().await.packet.payload.unwrap(), "two");
    // Well framed, and broken within: it is counted, and the next one is read.
    let mut broken = wire("bad", Version::V3).to_vec();
    broken[11] = 3;
    agent.write_all(&broken).await.unwrap();
    agent.write_all(&wire("three", Version::V3)).await.unwrap();
    assert_eq!(collector.next().await.packet.payload.unwrap(), "three");
    assert_eq!(collector.dispatch.counters().malformed, 1);
    agent.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    ended(&mut agent).await;
    assert_eq!(collector.dispatch.counters().malformed, 2);
}

#[tokio::test]
async fn a_packet_must_come_in_time_and_be_as_long_as_it_may() {
    let settings = ReceiverSettings {
        packet_timeout: Duration::from_millis(20),
        frame: FrameLimits { max_packet: 200, ..FrameLimits::default() },
        ..ReceiverSettings::default()
    };
    let mut collector = Collector::start(HepTransport::Tcp, settings, ServerDomains::default());
    let mut slow = TcpStream::connect(collector.address).await.unwrap();
    slow.write_all(&wire("whole", Version::V3)).await.unwrap();
    assert_eq!(collector.next().await.packet.payload.unwrap(), "whole");
    slow.write_all(&wire("half", Version::V3)[..50]).await.unwrap();
    ended(&mut slow).await;
    let mut long = TcpStream::connect(collector.address).await.unwrap();
    long.write_all(b"HEP3\x00\xc9").await.unwrap();
    ended(&mut long).await;
    assert_eq!(collector.dispatch.counters().malformed, 1);
}

#[tokio::test]
async fn who_may_not_send_or_has_no_key_is_refused_and_counted() {
    let settings = ReceiverSettings {
        from: vec!["127.0.0.2".parse().unwrap()],
        auth_key: Some("k3y".into()),
        frame: FrameLimits { max_packet: 300, ..FrameLimits::default() },
        ..ReceiverSettings::default()
    };
    let keyed = |key: Option<&'static str>, payload: &str| {
        let mut packet = packet(payload.to_owned());
        packet.auth_key = key.map(Into::into);
        packet.encode(Encoding::default()).unwrap()
    };
    let (forward, mut refused) = unbounded_channel();
    struct Watch(tokio::sync::mpsc::UnboundedSender<Refusal>);
    impl HepHandler for Watch {
        fn received(&self, _: &Received) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
        fn refused(&self, _: std::net::SocketAddr, refusal: &Refusal) {
            let _ = self.0.send(refusal.clone());
        }
    }
    let dispatch = Arc::new(Dispatch::new(settings.clone()).with(Watch(forward)));
    let receiver = Receiver::udp(LOCALHOST.parse().unwrap(), dispatch.clone()).unwrap();
    let to = receiver.local_addr();
    tokio::spawn(receiver.run());
    let stranger = UdpSocket::bind(LOCALHOST).await.unwrap();
    let agent = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    stranger.send_to(&keyed(Some("k3y"), "x"), to).await.unwrap();
    assert_eq!(patiently("a stranger", refused.recv()).await, Some(Refusal::Sender));
    for key in [None, Some("key"), Some("k3y ")] {
        agent.send_to(&keyed(key, "x"), to).await.unwrap();
        assert_eq!(patiently("no key", refused.recv()).await, Some(Refusal::AuthKey));
    }
    agent.send_to(&wire("old", Version::V2), to).await.unwrap();
    assert_eq!(patiently("no place for a key", refused.recv()).await, Some(Refusal::AuthKey));
    agent.send_to(&keyed(Some("k3y"), &"x".repeat(300)), to).await.unwrap();
    assert!(matches!(patiently("too long", refused.recv()).await, Some(Refusal::Malformed(_))));
    agent.send_to(&keyed(Some("k3y"), "x"), to).await.unwrap();
    agent.send_to(b"end", to).await.unwrap();
    assert!(matches!(patiently("no HEP", refused.recv()).await, Some(Refusal::Malformed(_))));
    let counters = dispatch.counters();
    assert_eq!((counters.received, counters.malformed), (1, 2));
    assert_eq!((counters.refused_sender, counters.refused_auth_key), (1, 4));
    assert_eq!(counters.plus(counters).refused_auth_key, 8);

    // Over TCP a stranger's connection ends, and one without the key goes on.
    let mut collector = Collector::start(HepTransport::Tcp, settings, ServerDomains::default());
    ended(&mut TcpStream::connect(collector.address).await.unwrap()).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut agent = socket.connect(collector.address).await.unwrap();
    agent.write_all(&keyed(None, "no")).await.unwrap();
    agent.write_all(&keyed(Some("k3y"), "yes")).await.unwrap();
    assert_eq!(collector.next().await.packet.payload.unwrap(), "yes");
    let counters = collector.dispatch.counters();
    assert_eq!((counters.received, counters.refused_sender, counters.refused_auth_key), (1, 1, 1));
}
