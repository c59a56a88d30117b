//! Connection control as the configuration sets it: a relay in this process, real sockets, the clock as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::ready;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use relay::config::Config;
use relay::server::Server;
use tcp_transport::event::Subscription;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);

/// A relay with one listener; `listener` and `rest` are parts of its YAML.
async fn start(listener: &str, rest: &str) -> (Server, SocketAddr) {
    let text = format!(
        "domain: 127.0.0.1\nlisteners: [ {{ uri: \"msrp://127.0.0.1:0\"{listener} }} ]\n\
         auth: {{ allow_auth_without_tls: true, users: {{ alice: {{ password: a }} }} }}\n{rest}"
    );
    let config =
        Config::parse(&text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let server = Server::start(config).await.unwrap();
    let address = server.addresses()[0].1;
    (server, address)
}

async fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads to the end; how long it took.
async fn end(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the relay closes it");
    start.elapsed()
}

/// The next event that ends a connection: its name and reason.
async fn ended(events: &mut Subscription) -> (&'static str, String) {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").unwrap();
        if let Some(ending) = event.kind.ending() {
            return (event.kind.name(), ending.reason.to_string());
        }
    }
}

fn head(address: SocketAddr) -> String {
    format!(
        "MSRP abcd1234 SEND\r\nTo-Path: msrp://{address}/nosession;tcp\r\nFrom-Path: msrp://c.test:1/x;tcp\r\n\
         Message-ID: 1\r\nByte-Range: 1-*/*\r\nContent-Type: text/plain\r\n\r\n"
    )
}

#[tokio::test]
async fn a_head_that_does_not_end_is_closed_at_head_timeout() {
    let (server, address) = start("", "timeouts: { head_timeout: 500ms }\n").await;
    let mut events = server.ledger().events().subscribe();
    let mut slow = client(address).await;
    slow.write_all(b"MSRP abcd1234 SE").await.unwrap();
    let took = end(&mut slow).await;
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(10), "{took:?}");
    let (name, reason) = ended(&mut events).await;
    assert!(name == "tcp:timeout" && reason.contains("head_timeout"), "{name} {reason}");

    // A head in many pieces, in time.
    let (server, address) = start("", "timeouts: { head_timeout: 20s }\n").await;
    let mut events = server.ledger().events().subscribe();
    let mut fine = client(address).await;
    for byte in head(address).bytes() {
        fine.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    fine.write_all(b"x\r\n-------abcd1234$\r\n").await.unwrap();
    let mut answer = [0; 17];
    tokio::time::timeout(PATIENCE, fine.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"MSRP abcd1234 481");
    drop(fine);
    assert_ne!(ended(&mut events).await.0, "tcp:timeout");
}

#[tokio::test]
async fn a_head_in_more_reads_than_max_msg_chunks_is_closed() {
    let (server, address) = start("", "limits: { max_msg_chunks: 3 }\n").await;
    let mut events = server.ledger().events().subscribe();
    let head = head(address);
    let bytes = head.as_bytes();
    for (pieces, good) in [(2, true), (3, true), (4, false)] {
        let mut stream = client(address).await;
        for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
            stream.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        // What comes after the head does not count.
        for _ in 0..5 {
            let _ = stream.write_all(b"x").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = stream.write_all(b"\r\n-------abcd1234$\r\n").await;
        let _ = stream.shutdown().await;
        end(&mut stream).await;
        let (name, reason) = ended(&mut events).await;
        let closed = name == "tcp:timeout" && reason.contains("max_msg_chunks");
        assert_eq!(closed, !good, "{pieces}: {name} {reason}");
    }
}

#[tokio::test]
async fn a_message_that_makes_no_progress_is_closed() {
    let (server, address) =
        start("", "limits: { min_progress: 50B }\ntimeouts: { progress_timeout: 600ms }\n").await;
    let mut events = server.ledger().events().subscribe();
    // Too slow: five bytes in each interval.
    let mut slow = client(address).await;
    slow.write_all(head(address).as_bytes()).await.unwrap();
    let start = Instant::now();
    while slow.write_all(b"x").await.is_ok() && start.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let (name, reason) = ended(&mut events).await;
    assert!(name == "tcp:timeout" && reason.contains("min_progress"), "{name} {reason}");
    // Slow, and fast enough.
    let mut fine = client(address).await;
    fine.write_all(head(address).as_bytes()).await.unwrap();
    for _ in 0..15 {
        fine.write_all(&[b'x'; 50]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    fine.write_all(b"\r\n-------abcd1234$\r\n").await.unwrap();
    drop(fine);
    assert_ne!(ended(&mut events).await.0, "tcp:timeout");
}

#[tokio::test]
async fn an_idle_connection_lives_as_long_as_its_listener_says() {
    for (listener, rest) in [
        ("", "timeouts: { idle_timeout: 500ms }\n"),
        ("", "tcp: { lifetime: 500ms }\n"),
        (", tcp: { lifetime: 500ms }", "tcp: { lifetime: 1h }\n"),
    ] {
        let (server, address) = start(listener, rest).await;
        let mut events = server.ledger().events().subscribe();
        let mut idle = client(address).await;
        let took = end(&mut idle).await;
        assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(10), "{took:?} {rest}");
        assert_eq!(ended(&mut events).await, ("tcp:timeout", "idle for too long".to_owned()));
    }
    // And longer than for all where its own says so.
    let (_server, address) = start(", tcp: { lifetime: 1h }", "timeouts: { idle_timeout: 300ms }\n").await;
    let mut idle = client(address).await;
    let open = tokio::time::timeout(Duration::from_secs(1), idle.read(&mut [0])).await;
    assert!(open.is_err(), "{open:?}");
}

#[tokio::test]
async fn connections_are_limited_as_configured() {
    for (listener, rest, word) in [
        ("", "limits: { max_connections: 2 }\n", "`max_connections` is reached: 2"),
        (", max_connections: 2", "", "of the listener is reached: 2"),
        ("", "limits: { max_connections_per_address: 2 }\n", "`max_connections_per_address` is reached: 2"),
    ] {
        let (server, address) = start(listener, rest).await;
        let mut events = server.ledger().events().subscribe();
        let _two = [client(address).await, client(address).await];
        let mut third = client(address).await;
        end(&mut third).await;
        let (name, reason) = ended(&mut events).await;
        assert!(name == "tcp:failed" && reason.contains(word), "{name} {reason}");
        assert_eq!(server.ledger().len(), 2);
    }
}

#[tokio::test]
async fn a_proxy_is_believed_where_the_listener_trusts_it() {
    for (listener, believed) in
        [(", proxy_from: 127.0.0.0/8", true), (", proxy_from: 10.0.0.0/8", false), ("", false)]
    {
        let (server, address) = start(listener, "").await;
        let mut proxy = client(address).await;
        proxy.write_all(b"PROXY TCP4 203.0.113.9 192.0.2.7 40000 2855\r\nMSRP").await.unwrap();
        if believed {
            let named = async {
                while !server.ledger().snapshot().iter().any(|entry| entry.proxy().is_some()) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, named).await.unwrap();
            assert_eq!(server.ledger().snapshot()[0].remote(), "203.0.113.9:40000".parse().unwrap());
        } else {
            // It is no MSRP.
            end(&mut proxy).await;
        }
    }
}

#[tokio::test]
async fn events_are_told_as_configured() {
    for (rest, told) in
        [("", 2), ("events: { closed_event: none }\n", 0), ("events: { closed_event: marked }\n", 0)]
    {
        let (server, address) = start("", rest).await;
        let mut events = server.ledger().events().subscribe();
        drop(client(address).await);
        let ledger = server.ledger().clone();
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.stop(ready(())).await;
        assert!(ledger.is_empty());
        assert_eq!(std::iter::from_fn(|| events.try_next()).count(), told, "{rest}");
    }
    let (server, address) = start("", "events: { queue: 1 }\n").await;
    let mut events = server.ledger().events().subscribe();
    drop(client(address).await);
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.stop(ready(())).await;
    assert_eq!((events.try_next().is_some(), events.lost()), (true, 1));
}
