//! What collectors are told by HEP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::Value;
use tcp_transport::hep::{Packet, PayloadType, TimeOrder, Version};
use tests::{Client, Daemon, Scheme, Settings, Site, within};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UdpSocket};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

fn settings(trace: &str) -> Settings {
    Settings { trace: trace.into(), ws: Some("127.0.0.1:0".into()), ..Settings::default() }
}

/// A collector that gets datagrams.
struct Collector(UdpSocket);

impl Collector {
    async fn start() -> (Self, String) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("hep_udp://{}", socket.local_addr().unwrap());
        (Self(socket), uri)
    }

    async fn next(&self) -> (Version, Packet, Value) {
        let mut buffer = vec![0; 65_535];
        let len = within("a packet", self.0.recv(&mut buffer)).await.unwrap();
        let (version, packet) =
            Packet::decode(&Bytes::copy_from_slice(&buffer[..len]), TimeOrder::Little).unwrap();
        let payload = serde_json::from_slice(packet.payload.as_ref().unwrap()).unwrap_or(Value::Null);
        (version, packet, payload)
    }

    /// The next event of this kind and protocol; the connections of collectors are traced too.
    async fn event(&self, event: &str, protocol: &str) -> (Packet, Value) {
        loop {
            let (_, packet, payload) = self.next().await;
            if payload["Event"] == event && payload["Protocol"] == protocol {
                return (packet, payload);
            }
        }
    }
}

#[tokio::test]
async fn a_collector_sees_a_connection_begin_and_end() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let homer = format!("hep_capture_id: 77, capture_name: relay1, auth_key: k3y, uri: '{uri}'");
    let daemon =
        Daemon::start(RELAY, &site, &settings(&format!("destinations: {{ homer: {{ {homer} }} }}"))).await;
    let (client, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (accepted, payload) = collector.event("ACCEPTED", "MSRPS").await;
    assert_eq!(accepted.payload_type, Some(PayloadType::CONNECTION_EVENT));
    assert_eq!(accepted.capture_id, Some(77));
    assert_eq!(accepted.capture_name.as_deref(), Some(&b"relay1"[..]));
    assert_eq!(accepted.auth_key.as_deref(), Some(&b"k3y"[..]));
    assert_eq!(accepted.source().unwrap().to_string(), client.address(), "who opened it");
    assert_eq!(accepted.destination().unwrap(), daemon.address(Scheme::Msrps));
    assert_eq!((&payload["Status"], &payload["TlsVersion"]), (&"SUCCESS".into(), &"TLSv1.3".into()));
    let address = client.address();
    client.close().await;
    let (closed, payload) = collector.event("CLOSED", "MSRPS").await;
    assert_eq!(closed.correlation_id, accepted.correlation_id);
    assert_eq!(closed.source().unwrap().to_string(), address, "true to the end");
    assert!(payload["BytesIn"].as_u64() > Some(100) && payload["BytesOut"].as_u64() > Some(100), "{payload}");
    assert_eq!(payload["Message"], "closed by the peer");
}

#[tokio::test]
async fn the_filter_and_the_switches_say_what_is_told() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let trace = format!(
        "destinations: {{ a: {{ uri: '{uri}', payload: text, delimiter: '|' }} }}, protocols: {{ msrp: {{ events: false }} }}, \
         trace_filter: [ {{ trace: false, remote: 127.0.0.0/8, protocol: msrps, direction: in }} ]"
    );
    let daemon = Daemon::start(RELAY, &site, &settings(&trace)).await;
    for scheme in [Scheme::Msrp, Scheme::Msrps, Scheme::Ws] {
        Client::connect(&daemon, &site, scheme).await.close().await;
    }
    loop {
        let (_, packet, _) = collector.next().await;
        let text = String::from_utf8(packet.payload.unwrap().to_vec()).unwrap();
        let protocol = text.split('|').next().unwrap().to_owned();
        assert!(!protocol.starts_with("MSRP"), "{text}");
        if protocol == "WS" {
            break;
        }
    }

    let (silent, uri) = Collector::start().await;
    let off = settings(&format!("trace_on: false, destinations: {{ a: {{ uri: '{uri}' }} }}"));
    let daemon = Daemon::start(RELAY, &site, &off).await;
    Client::connect(&daemon, &site, Scheme::Msrp).await.close().await;
    let mut daemon = daemon;
    daemon.signal(Signal::TERM);
    assert!(daemon.exit().await.success());
    let mut buffer = [0; 1];
    assert!(silent.0.try_recv(&mut buffer).is_err(), "nothing was to be told");
}

#[tokio::test]
async fn versions_one_and_two_go_over_udp() {
    let site = Site::new();
    for (number, version) in [(1, Version::V1), (2, Version::V2)] {
        let (collector, uri) = Collector::start().await;
        let trace =
            format!("destinations: {{ old: {{ uri: '{uri}', version: {number}, hep_capture_id: 9 }} }}");
        let daemon = Daemon::start(RELAY, &site, &settings(&trace)).await;
        Client::connect(&daemon, &site, Scheme::Msrp).await.close().await;
        let (found, packet, _) = collector.next().await;
        assert_eq!(found, version);
        assert_eq!(packet.capture_id, (number == 2).then_some(9));
    }
}

#[tokio::test]
async fn a_collector_over_tcp_gets_the_rest_before_the_relay_ends() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("hep_tcp://{}", listener.local_addr().unwrap());
    let mut daemon =
        Daemon::start(RELAY, &site, &settings(&format!("destinations: {{ a: {{ uri: '{uri}' }} }}"))).await;
    let (mut collector, _) = within("the relay", listener.accept()).await.unwrap();
    let _client = Client::connect(&daemon, &site, Scheme::Msrp).await;
    daemon.log().wait_for(&["ready"]).await;
    daemon.signal(Signal::TERM);
    let mut bytes = Vec::new();
    within("the end", collector.read_to_end(&mut bytes)).await.unwrap();
    // As a collector that has read everything does: until then nobody knows that it has.
    drop(collector);
    assert!(daemon.exit().await.success());
    let text = String::from_utf8_lossy(&bytes);
    for wanted in ["HEP3", "\"ACCEPTED\"", "closed locally: shutdown"] {
        assert!(text.contains(wanted), "no {wanted} in {text}");
    }
    daemon.log().wait_for(&["tracing ended", "destination=\"a\""]).await;
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_its_packets_and_nothing_else() {
    let site = Site::new();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let trace = format!(
        "destinations: {{ a: {{ uri: 'hep_tcp://{gone}', max_retries: 0, retry_cooldown: 1h, \
         hep_async_max_postponed_chunks: 1, hep_send_timeout: 1s }} }}"
    );
    let mut daemon = Daemon::start(RELAY, &site, &settings(&trace)).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let hello = tests::Send::text(&from_alice.to(&from_bob), "m", "hello");
    assert_eq!(alice.send(&hello).await.status(), 200);
    assert_eq!(bob.receive().await.text(), "hello");
    daemon.signal(Signal::TERM);
    alice.tx.try_raw(b"").await.ok();
    daemon.log().wait_for(&["the trace has gaps", "destination=\"a\""]).await;
    assert!(daemon.exit().await.success());
}

#[tokio::test]
async fn what_is_wrong_with_a_collector_is_told_where_it_stands() {
    let site = Site::new();
    for (trace, message) in [
        ("destinations: { a: { uri: 'http://b' } }", "is none of `hep_udp://host[:port]`"),
        ("destinations: { a: { uri: 'hep_udp://b', version: 4 } }", "is 4, and those are 1, 2 and 3"),
        ("destinations: { a: { uri: 'hep_tcp://b', version: 2 } }", "goes over hep_udp only"),
        ("destinations: { a: { uri: 'hep_tcp://b', tls_domain: x } }", "is for hep_tls"),
        (
            "destinations: { a: { uri: 'hep_tls://b', tls_domain: x } }",
            "there is no `x` in tls.client_domains",
        ),
        ("destinations: { a: { uri: 'hep_udp://b', delimiter: ';' } }", "is for `payload: text`"),
        (
            "destinations: { a: { uri: 'hep_udp://b', version: 2, hep_capture_id: 65536 } }",
            "goes up to 65535",
        ),
        ("protocols: { http: { events: true } }", "`http` is not a protocol traced here"),
        ("trace_filter: [ { trace: true, listener: 'msrp://nowhere' } ]", "there is no listener"),
        ("trace_filter: [ { trace: true, direction: up } ]", "is not a direction"),
        ("trace_filter: [ { remote: 10.0.0.0/8 } ]", "missing key `trace`"),
    ] {
        let config = site.write("wrong.yaml", &settings(trace).to_yaml());
        let checked =
            std::process::Command::new(RELAY).arg("check").arg("--config").arg(&config).output().unwrap();
        let text =
            String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        assert!(!checked.status.success() && text.contains(message), "{trace}: {text}");
    }
}

#[tokio::test]
async fn the_example_runs_as_it_is() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hep-tracing.yaml");
    let checked = std::process::Command::new(RELAY).args(["check", "--config", example]).status().unwrap();
    assert!(checked.success());

    // The same, with free ports.
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let text = std::fs::read_to_string(example).unwrap();
    let text = text.replace("hep_udp://127.0.0.1:9060", &uri).replace("127.0.0.1:2855", "127.0.0.1:0");
    let mut daemon = Daemon::spawn(std::process::Command::new(RELAY), &site.write("hep-tracing.yaml", &text));
    let ready = daemon.log().wait_for(&["ready", "msrp://"]).await;
    let address = ready.split("msrp://").nth(1).unwrap().trim_end_matches('"').to_owned();
    let client = within("a connection", tokio::net::TcpStream::connect(&address)).await.unwrap();
    let (accepted, _) = collector.event("ACCEPTED", "MSRP").await;
    assert_eq!(accepted.source().unwrap(), client.local_addr().unwrap());
    assert_eq!((accepted.capture_id, accepted.capture_name.as_deref()), (Some(2001), Some(&b"relay1"[..])));
    daemon.assert_well();
}
