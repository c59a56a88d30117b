//! What collectors are told by HEP: connection events and messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::Value;
use tcp_transport::hep::{Packet, PayloadType, TimeOrder, Version};
use tests::{
    Client, Daemon, Listener, Scheme, Send, Session, Settings, SipMessage, SipPeer, SipUpstream, Site,
    Stream, WebSocket, request, response, within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

#[path = "trace/hep_print.rs"]
mod hep_print;
#[path = "trace/switches.rs"]
mod switches;

/// HS256 over {"sub":"alice","exp":4102444800} with the secret below; the end is in the year 2100.
const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.\
                     UwANaTMXAKSHt8g5xDKvpGjOTg_c_DY4S5Gn5hmF3Gs";

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

    /// The next message, and the text of what was told of it.
    async fn message(&self) -> (Packet, String) {
        loop {
            let (_, packet, _) = self.next().await;
            if packet.payload_type != Some(PayloadType::CONNECTION_EVENT) {
                let text = String::from_utf8(packet.payload.as_ref().unwrap().to_vec()).unwrap();
                return (packet, text);
            }
        }
    }

    /// The next message of this correlation.
    async fn message_of(&self, correlation: &str) -> (Packet, String) {
        loop {
            let (packet, text) = self.message().await;
            if correlation_of(&packet) == correlation {
                return (packet, text);
            }
        }
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

fn correlation_of(packet: &Packet) -> &str {
    std::str::from_utf8(packet.correlation_id.as_deref().unwrap()).unwrap()
}

/// The number of the connection that a message went over.
fn net(packet: &Packet) -> String {
    let chunk = packet.others.iter().find(|chunk| (chunk.vendor, chunk.kind) == (0, 0x65)).unwrap();
    let value: Value = serde_json::from_slice(&chunk.value).unwrap();
    value["net"].as_str().unwrap().to_owned()
}

/// Source and destination.
fn ends(packet: &Packet) -> (String, String) {
    (packet.source().unwrap().to_string(), packet.destination().unwrap().to_string())
}

/// The method or status.
fn kind(text: &str) -> &str {
    text.lines().next().unwrap().split(' ').nth(2).unwrap()
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
    // Two AUTHs and their responses; no message itself is told unless it is asked for.
    assert_eq!((&payload["MessagesIn"], &payload["MessagesOut"]), (&2.into(), &2.into()), "{payload}");
    assert_eq!(payload["Message"], "closed by the peer");
}

#[tokio::test]
async fn how_connections_fail_and_end_is_told_of_each_protocol() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let any_port = || Some("127.0.0.1:0".to_owned());
    let settings = Settings {
        wss: any_port(),
        sip_tcp: any_port(),
        sip_tls: any_port(),
        sip: Some(
            "sip_upstream: [{ uri: 'sip://127.0.0.1:9', advertise: 'edge.test:5060' }], probe_interval: 1h"
                .into(),
        ),
        timeouts: "probation: 700ms".into(),
        ..settings(&format!("destinations: {{ homer: {{ uri: '{uri}' }} }}"))
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let connect = async |scheme| {
        within("a connection", tokio::net::TcpStream::connect(daemon.address(scheme))).await.unwrap()
    };
    for (scheme, name) in [(Scheme::Msrps, "MSRPS"), (Scheme::Wss, "WSS"), (Scheme::Sips, "SIPS")] {
        let mut socket = connect(scheme).await;
        socket.write_all(b"this is no TLS at all\r\n\r\n").await.unwrap();
        let (packet, payload) = collector.event("ACCEPTED", name).await;
        assert_eq!(payload["Status"], "FAILURE", "{payload}");
        assert_eq!(ends(&packet).0, socket.local_addr().unwrap().to_string(), "{name}");
    }
    // What is no handshake of WebSocket.
    let mut socket = connect(Scheme::Ws).await;
    socket.write_all(b"MSRP a786hjs2 SEND\r\n\r\n").await.unwrap();
    assert_eq!(collector.event("ACCEPTED", "WS").await.1["Status"], "FAILURE");
    for (scheme, name) in [(Scheme::Msrp, "MSRP"), (Scheme::Sip, "SIP")] {
        let socket = connect(scheme).await;
        collector.event("ACCEPTED", name).await;
        // Closed like this, it is reset.
        socket.set_zero_linger().unwrap();
        drop(socket);
        let (_, payload) = collector.event("CLOSED", name).await;
        assert_eq!(
            (&payload["Status"], &payload["Kind"]),
            (&"FAILURE".into(), &"tcp:reset".into()),
            "{payload}"
        );
        // And one that says nothing has its time.
        let _silent = connect(scheme).await;
        let (_, payload) = collector.event("CLOSED", name).await;
        assert_eq!(
            (&payload["Status"], &payload["Kind"]),
            (&"FAILURE".into(), &"tcp:timeout".into()),
            "{payload}"
        );
    }
}

#[tokio::test]
async fn no_message_is_told_unless_it_is_asked_for() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let trace =
        format!("destinations: {{ a: {{ uri: '{uri}' }} }}, protocols: {{ msrp: {{ messages: true }} }}");
    let daemon = Daemon::start(RELAY, &site, &settings(&trace)).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    alice.send(&Send::text(&from_alice.to(&from_bob), "m", "secret")).await;
    bob.receive().await;
    bob.close().await;
    let mut told = Vec::new();
    loop {
        let (_, packet, payload) = collector.next().await;
        if payload["Event"] == "CLOSED" {
            break;
        }
        if payload.is_null() {
            // By default: the type of logs, and no body.
            assert_eq!(packet.payload_type, Some(PayloadType::LOG));
            let text = String::from_utf8(packet.payload.unwrap().to_vec()).unwrap();
            assert!(!text.contains("secret"), "{text}");
            told.push(kind(&text).to_owned());
        }
    }
    // Bob's alone.
    assert_eq!(told, ["AUTH", "401", "AUTH", "200", "SEND", "200"]);
}

#[tokio::test]
async fn a_rule_for_a_user_traces_from_the_auth_on_that_decides_it() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let trace = format!(
        "destinations: {{ a: {{ uri: '{uri}' }} }}, protocols: {{ msrp: {{ messages: true }} }}, \
         trace_filter: [ {{ trace: true, user: alice }}, {{ trace: false }} ]"
    );
    let daemon = Daemon::start(RELAY, &site, &settings(&trace)).await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    bob.send(&Send::text(&from_bob.to(&from_alice), "m", "hello")).await;
    alice.receive().await;
    let address = alice.address();
    for wanted in ["AUTH", "200", "SEND", "200"] {
        // Nothing else, neither messages nor events: nobody knew when her connection began.
        let (_, packet, _) = collector.next().await;
        let text = String::from_utf8(packet.payload.clone().unwrap().to_vec()).unwrap();
        assert_eq!(kind(&text), wanted);
        assert_eq!(text.contains("Authorization: "), wanted == "AUTH", "{text}");
        let (from, to) = ends(&packet);
        assert!([from, to].contains(&address), "alice's connection alone");
    }
    alice.close().await;
    let (_, _, payload) = collector.next().await;
    assert_eq!(payload["Event"], "CLOSED");
}

#[tokio::test]
async fn a_user_whom_the_opening_handshake_proves_needs_no_auth_to_be_known() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let trace = format!(
        "destinations: {{ a: {{ uri: '{uri}' }} }}, protocols: {{ ws: {{ messages: true }} }}, \
         trace_filter: [ {{ trace: true, user: alice }}, {{ trace: false }} ]"
    );
    let websocket = "auth: { token: { secret: '0123456789abcdef0123456789abcdef', query: t } }".into();
    let daemon = Daemon::start(RELAY, &site, &Settings { websocket, ..settings(&trace) }).await;
    let socket = tokio::net::TcpStream::connect(daemon.address(Scheme::Ws)).await.unwrap();
    let url = format!("{}?t={TOKEN}", daemon.websocket_url(Scheme::Ws));
    let opened = WebSocket::open(Stream::Plain(socket), &url, &[("Sec-WebSocket-Protocol", "msrp")]);
    let stream = Stream::WebSocket(Box::new(within("a WebSocket", opened).await.unwrap().0));
    let mut alice = Client::over(stream, "msrp://alice.invalid:2855/s;ws", &daemon.uri(Scheme::Ws));
    // Before any AUTH. Its session-id is one of this process, and nobody's.
    let (_bob, session) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let id = session.use_path[0].rsplit('/').next().unwrap().trim_end_matches(";tcp");
    let id = format!("{}{}", &id[..id.len() - 32], "0".repeat(32));
    let nowhere = format!("{}/{id};ws", daemon.uri(Scheme::Ws).trim_end_matches(";ws"));
    let to = [nowhere, "msrp://bob.invalid:2855/s;tcp".into()];
    assert_eq!(alice.request("NICK", &to, "").await.status(), 481);
    for wanted in ["NICK", "481"] {
        let (packet, text) = collector.message().await;
        assert_eq!((kind(&text), correlation_of(&packet)), (wanted, &*id));
    }
}

#[tokio::test]
async fn what_goes_to_a_peer_that_we_connect_to_is_told_from_us() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    // Nobody authenticates there, so the rule does not hold it up.
    let trace = format!(
        "destinations: {{ a: {{ uri: '{uri}' }} }}, protocols: {{ msrp: {{ messages: true }} }}, \
         trace_filter: [ {{ trace: false, user: alice }} ]"
    );
    let daemon = Daemon::start(RELAY, &site, &settings(&trace)).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    let listener = Listener::bind("127.0.0.1", None).await.unwrap();
    let peer_uri = listener.uri("127.0.0.1");
    alice.send(&Send::text(&from_alice.to(&Session::without_relay(&peer_uri)), "m", "hello")).await;
    let mut peer = listener.accept(&peer_uri).await;
    peer.receive().await;
    let (sent, text) = collector.message().await;
    assert_eq!((kind(&text), ends(&sent).1), ("SEND", format!("127.0.0.1:{}", listener.port())));
    let (answer, text) = collector.message().await;
    assert_eq!((kind(&text), ends(&answer)), ("200", (ends(&sent).1, ends(&sent).0)));
    assert_eq!((correlation_of(&sent), net(&sent)), (correlation_of(&answer), net(&answer)));
    assert_ne!(sent.source().unwrap().port(), 0);
}

/// An edge whose SIP is told, with a client of this kind that has registered under the Call-ID
/// `r1@client.invalid`.
async fn registered(scheme: Scheme, what: &str) -> (Collector, Daemon, SipUpstream, SipPeer, SipPeer) {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let upstream = SipUpstream::bind(Scheme::Sip, &site).await;
    let any_port = || Some("127.0.0.1:0".to_owned());
    let settings = Settings {
        sip_tcp: any_port(),
        sip_tls: any_port(),
        wss: any_port(),
        sip: Some(format!("probe_interval: 1h, sip_upstream: [ {{ uri: \"{}\" }} ]", upstream.uri())),
        ..settings(&format!("destinations: {{ a: {{ uri: '{uri}' }} }}, protocols: {{ {what} }}"))
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut proxy = upstream.accept().await.answering_probes();
    proxy.send(&request("OPTIONS", "sip:edge.test:5060", "ready", "", "")).await;
    proxy.next().await.unwrap();
    let mut client = SipPeer::connect(&daemon, &site, scheme).await;
    let fields = "Contact: <sip:alice@x7.invalid;transport=ws;ob>;reg-id=1\r\nSupported: path, outbound\r\n\
                  Authorization: Digest username=\"alice\", response=\"c0ffee\"\r\n";
    client.send(&request("REGISTER", "sip:example.com", "r1", fields, "body")).await;
    let seen = proxy.expect("REGISTER").await;
    proxy.send(&response(&seen, "200 OK", "")).await;
    client.expect("200").await;
    (collector, daemon, upstream, proxy, client)
}

#[tokio::test]
async fn sip_messages_are_told_whole_by_their_call_id() {
    for scheme in [Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss] {
        let what =
            ["sip", "sips", "ws", "wss"].map(|kind| format!("{kind}: {{ messages: true }}")).join(", ");
        let (collector, daemon, upstream, proxy, client) = registered(scheme, &what).await;
        let edge = daemon.address(scheme).to_string();
        let here = client.socket().local_addr().unwrap().to_string();
        let behind = proxy.socket().local_addr().unwrap().to_string();
        assert!(upstream.uri().ends_with(&behind));
        let dialled = proxy.socket().peer_addr().unwrap().to_string();
        let mut numbers = Vec::new();
        for (wanted, from, to, vias) in [
            ("REGISTER", &here, &edge, 1),
            ("REGISTER", &dialled, &behind, 2),
            ("200", &behind, &dialled, 2),
            ("200", &edge, &here, 1),
        ] {
            let (packet, text) = collector.message_of("r1@client.invalid").await;
            assert_eq!(packet.payload_type, Some(PayloadType::SIP));
            assert_eq!(ends(&packet), (from.clone(), to.clone()), "{text}");
            let message = SipMessage(text);
            assert_eq!((message.kind(), message.fields("Via").len()), (wanted, vias), "{}", message.0);
            if wanted == "REGISTER" {
                assert_eq!(message.body(), "body");
                assert!(message.field("Authorization").ends_with("response=\"xxxxxx\""), "{}", message.0);
            }
            numbers.push(net(&packet));
        }
        assert_eq!((&numbers[0], &numbers[1]), (&numbers[3], &numbers[2]));
        drop(client);
        loop {
            let (_, packet, payload) = collector.next().await;
            if payload["BytesIn"].is_u64() && ends(&packet).0 == here {
                assert_eq!(correlation_of(&packet), numbers[0]);
                assert_eq!((&payload["MessagesIn"], &payload["MessagesOut"]), (&1.into(), &1.into()));
                break;
            }
        }
    }

    // Only what was asked for; and keep-alives are no messages.
    let (collector, _daemon, _upstream, _proxy, mut client) =
        registered(Scheme::Sip, "ws: { messages: true }").await;
    client.send("\r\n\r\n").await;
    assert_eq!(client.keep_alive().await, "pong");
    drop(client);
    loop {
        let (_, packet, payload) = collector.next().await;
        assert_eq!(packet.payload_type, Some(PayloadType::CONNECTION_EVENT));
        if payload["Protocol"] == "SIP" && payload["Direction"] == "inbound" && payload["BytesIn"].is_u64() {
            assert_eq!((&payload["MessagesIn"], &payload["MessagesOut"]), (&1.into(), &1.into()));
            break;
        }
    }
}

#[tokio::test]
async fn msrp_messages_are_told_by_their_session_over_every_transport() {
    let site = Site::new();
    let (collector, uri) = Collector::start().await;
    let kinds = ["msrp", "msrps", "ws", "wss"].map(|kind| format!("{kind}: {{ messages: true }}")).join(", ");
    let trace = format!(
        "destinations: {{ a: {{ uri: '{uri}' }} }}, protocols: {{ {kinds} }}, msrp_body: 3B, msrp_payload_type: 55"
    );
    let daemon =
        Daemon::start(RELAY, &site, &Settings { wss: Some("127.0.0.1:0".into()), ..settings(&trace) }).await;
    for scheme in [Scheme::Msrp, Scheme::Msrps, Scheme::Ws, Scheme::Wss] {
        let (mut alice, from_alice) = Client::with_session(&daemon, &site, scheme, "alice").await;
        let mut number = None;
        let (here, there) = (alice.address(), daemon.address(scheme).to_string());
        for (wanted, from, to) in
            [("AUTH", &here, &there), ("401", &there, &here), ("AUTH", &here, &there), ("200", &there, &here)]
        {
            let (packet, text) = collector.message().await;
            assert_eq!((kind(&text), packet.payload_type), (wanted, Some(PayloadType(55))));
            assert_eq!(ends(&packet), (from.clone(), to.clone()));
            // It belongs to no session yet.
            let number = number.get_or_insert_with(|| net(&packet));
            assert_eq!((correlation_of(&packet), &net(&packet)), (&**number, &*number));
            if let Some((_, response)) = text.split_once("response=\"") {
                assert!(response.starts_with("xxxxxxxxxxxxxxxx"), "{text}");
                assert!(text.contains("username=\"alice\""), "{text}");
            }
        }

        let number = number.unwrap();
        let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
        alice.send(&Send::text(&from_alice.to(&from_bob), "m1", "hello")).await;
        bob.receive().await;
        bob.send(&Send::text(&from_bob.to(&from_alice), "m2", "world")).await;
        alice.receive().await;
        let mut seen = Vec::new();
        while seen.len() < 8 {
            let (packet, text) = collector.message().await;
            // Not Bob's AUTHs.
            if correlation_of(&packet).len() > 32 {
                seen.push((packet, text));
            }
        }
        let id = correlation_of(&seen[0].0).to_owned();
        assert!(seen.iter().all(|(packet, _)| correlation_of(packet) == id), "one session: {seen:#?}");
        let of_alice = seen.iter().filter(|(packet, _)| net(packet) == number);
        let of_alice: Vec<_> = of_alice.map(|(packet, text)| (kind(text), ends(packet))).collect();
        let (inward, outward) = ((here.clone(), there.clone()), (there, here.clone()));
        assert_eq!(
            of_alice,
            [("SEND", inward.clone()), ("200", outward.clone()), ("SEND", outward), ("200", inward)]
        );
        let bodies: Vec<_> =
            seen.iter().filter_map(|(_, text)| text.split_once("\r\n\r\n")).map(|(_, body)| body).collect();
        assert_eq!(bodies, ["hel", "hel", "wor", "wor"]);
        alice.close().await;
        loop {
            let (_, packet, payload) = collector.next().await;
            if payload["Event"] == "CLOSED" && ends(&packet).0 == here {
                assert_eq!(correlation_of(&packet), number, "the connection that the messages name");
                // Two AUTHs, a SEND and a 200 each way.
                assert_eq!((&payload["MessagesIn"], &payload["MessagesOut"]), (&4.into(), &4.into()));
                break;
            }
        }
    }
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
    // It is accepted for certain, and that is something to be told.
    let _client = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
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
    let hello = Send::text(&from_alice.to(&from_bob), "m", "hello");
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
        ("protocols: { hep: { messages: true } }", "HEP is what carries that"),
        ("msrp_body: 64001B", "is more than a packet takes, 64000"),
        ("msrp_payload_type: 1", "collectors take it for SIP"),
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
