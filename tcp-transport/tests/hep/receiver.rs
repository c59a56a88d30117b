//! The receiver: handlers in their order, and limits.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tcp_transport::hep::{
    Dispatch, Encoding, FrameLimits, HepTransport, Received, Receiver, ReceiverSettings, Version,
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
