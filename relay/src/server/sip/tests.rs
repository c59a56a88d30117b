//! Connection control works on connections that carry SIP: a server in this process, real sockets.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{CertificateParams, KeyPair};
use tcp_transport::event::{Direction, Subscription};
use tcp_transport::hep::{Packet, PayloadType, TimeOrder};
use tcp_transport::socket::KeepAlive;
use tcp_transport::tls::{ClientDomain, ClientDomainSettings};
use tcp_transport::ws::frame::{Opcode, header};
use tcp_transport::{
    ConnectionId, Connector, OutboundConnection, Registry, ReuseKey, Scheme, Stream, Target, Transport, ws,
};
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::super::network::Carried;
use crate::config::Config;
use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// By index of the listener: `sip://`, `sips://`, `ws://` and `wss://`.
const KINDS: [Scheme; 4] = [Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss];

struct Edge {
    server: Server,
    /// Where its WebSockets are opened, with the query.
    path: String,
    _directory: TempDir,
}

impl Edge {
    /// `listener` is part of each listener's YAML, `rest` more sections. Its upstream is never there.
    async fn start(listener: &str, rest: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), listener, rest);
        Self { server: Server::start(config).await.unwrap(), path: "/".to_owned(), _directory: directory }
    }

    fn registry(&self) -> &Registry<Carried> {
        &self.server.control.network().connections
    }

    /// A client of this kind that has got an answer, and the number that its connection has here.
    async fn client(&self, scheme: Scheme) -> (Stream, ConnectionId) {
        let stream = self.connect(scheme).await;
        let request = "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP c.invalid;branch=z9hG4bK1\r\n\
                       Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: 1\r\n\
                       CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
        let mut bytes = Vec::new();
        if matches!(scheme, Scheme::Ws | Scheme::Wss) {
            // A mask of zeros changes nothing.
            header(&mut bytes, true, Opcode::Text, request.len() as u64, Some([0; 4]));
        }
        bytes.extend_from_slice(request.as_bytes());
        stream.write_all(&bytes).await.unwrap();
        let mut answer = BytesMut::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read(&mut answer, 4096).await.unwrap(), 0, "{scheme:?}");
        }
        let local = stream.local_addr();
        let all = self.registry().snapshot();
        let (handle, _) = all.iter().find(|(handle, _)| handle.entry().remote() == local).unwrap();
        (stream, handle.id())
    }

    async fn connect(&self, scheme: Scheme) -> Stream {
        let index = KINDS.iter().position(|kind| *kind == scheme).unwrap();
        let port = self.server.addresses()[index].1.port();
        let secure = matches!(scheme, Scheme::Sips | Scheme::Wss);
        let transport = if secure { Transport::Tls } else { Transport::Tcp };
        let mut settings = ClientDomainSettings::new("client");
        settings.verify_cert = false;
        let domain = ClientDomain::load(&settings).unwrap();
        let connector = Connector::new(Default::default(), |_, _| true);
        let target = Target { host: "127.0.0.1".into(), port, transport };
        if !matches!(scheme, Scheme::Ws | Scheme::Wss) {
            return connector.connect(&target, Some(&domain)).await.unwrap();
        }
        let offer = ws::Offer { protocols: vec!["sip".into()], ..ws::Offer::to(&target, &self.path) };
        connector.connect_ws(&target, Some(&domain), &offer).await.unwrap().0
    }
}

fn config(directory: &Path, listener: &str, rest: &str) -> Config {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().self_signed(&key).unwrap();
    fs::write(directory.join("crt"), certificate.pem()).unwrap();
    fs::write(directory.join("key"), key.serialize_pem()).unwrap();
    let entry = |scheme: &str, tls: &str| format!("{{ uri: '{scheme}://127.0.0.1:0'{tls}{listener} }}");
    let tls = ", tls_domain: main";
    let text = format!(
        "domain: 127.0.0.1\nlisteners: [ {}, {}, {}, {}, {{ uri: 'msrp://127.0.0.1:0' }} ]\n\
         sip: {{ sip_upstream: [ {{ uri: 'sip://127.0.0.250:1', advertise: '127.0.0.1:5060' }} ] }}\n\
         tls: {{ server_domains: {{ main: {{ certificate: crt, private_key: key }} }} }}\n{rest}",
        entry("sip", ""),
        entry("sips", tls),
        entry("ws", ""),
        entry("wss", tls),
    );
    Config::parse(&text, directory, "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// The next event of a connection that was accepted: its name, what it carries, and why it ended.
async fn event(events: &mut Subscription) -> (&'static str, Option<Scheme>, String) {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").unwrap();
        if event.direction == Direction::Inbound {
            let reason = event.kind.ending().map(|ending| ending.reason.to_string()).unwrap_or_default();
            return (event.kind.name(), event.scheme, reason);
        }
    }
}

#[tokio::test]
async fn events_tell_of_each_connection_from_its_beginning_to_its_end() {
    let edge = Edge::start("", "").await;
    let mut events = edge.server.ledger().events().subscribe();
    for scheme in KINDS {
        let (client, _) = edge.client(scheme).await;
        assert_eq!(event(&mut events).await, ("tcp:accepted", Some(scheme), String::new()));
        drop(client);
        let (name, carried, _) = event(&mut events).await;
        assert!(["tcp:closed", "tcp:reset"].contains(&name) && carried == Some(scheme), "{name} {carried:?}");
    }
}

#[tokio::test]
async fn marked_connections_alone_are_told_of_where_it_is_so_configured() {
    let edge = Edge::start("", "events: { closed_event: marked }\n").await;
    let mut events = edge.server.ledger().events().subscribe();
    for scheme in KINDS {
        let (_quiet, unmarked) = edge.client(scheme).await;
        let (_told, marked) = edge.client(scheme).await;
        assert!(edge.registry().enable_closed_event(marked));
        assert!(edge.registry().close(unmarked) && edge.registry().close(marked));
        let told = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        assert_eq!((told.id, told.kind.name()), (marked, "tcp:closed"), "{scheme:?}");
    }
}

#[tokio::test]
async fn sockets_are_set_as_configured_and_one_by_one() {
    let edge = Edge::start(", tcp: { keepalive: false, dscp: 26 }", "").await;
    for scheme in KINDS {
        let (_client, id) = edge.client(scheme).await;
        let (handle, _) = edge.registry().by_id(id).unwrap();
        assert_eq!(handle.stream().options().tos_v4().unwrap(), 26 << 2, "{scheme:?}");
        assert!(!handle.stream().options().keepalive().unwrap());
        let keepalive =
            KeepAlive { idle: Duration::from_secs(60), count: 5, interval: Duration::from_secs(7) };
        edge.registry().keepalive_enable(id, keepalive).unwrap();
        assert!(handle.stream().options().keepalive().unwrap());
        edge.registry().keepalive_disable(id).unwrap();
        assert!(!handle.stream().options().keepalive().unwrap());
    }
    let edge = Edge::start("", "").await;
    let (_client, id) = edge.client(Scheme::Sip).await;
    assert!(edge.registry().by_id(id).unwrap().0.stream().options().keepalive().unwrap(), "the default");
}

#[tokio::test]
async fn a_lifetime_is_kept_as_configured_and_one_by_one() {
    let edge = Edge::start(", tcp: { lifetime: 300ms }", "websocket: { ping_interval: 0s }\n").await;
    let mut events = edge.server.ledger().events().subscribe();
    for scheme in KINDS {
        let (_client, _) = edge.client(scheme).await;
        assert_eq!(event(&mut events).await.0, "tcp:accepted");
        assert_eq!(event(&mut events).await, ("tcp:timeout", Some(scheme), "idle for too long".to_owned()));
    }
    let edge = Edge::start(", tcp: { lifetime: 1h }", "").await;
    let mut events = edge.server.ledger().events().subscribe();
    for scheme in KINDS {
        let (_client, id) = edge.client(scheme).await;
        assert_eq!(event(&mut events).await.0, "tcp:accepted");
        assert!(edge.registry().set_lifetime(id, Some(Duration::from_millis(300))));
        assert_eq!(event(&mut events).await.0, "tcp:timeout");
    }
}

#[tokio::test]
async fn the_connection_to_send_on_is_found_and_chosen() {
    let edge = Edge::start("", "").await;
    for scheme in KINDS {
        let (client, first) = edge.client(scheme).await;
        let (_other, second) = edge.client(scheme).await;
        let registry = edge.registry();
        let address = client.local_addr();
        assert_eq!(registry.conid(&address.to_string(), scheme), Some(first));
        let key = ReuseKey::new(scheme.as_str(), "127.0.0.1", address.port());
        let on = |conid, override_destination| {
            let choice = OutboundConnection { conid: Some(conid), override_destination };
            registry.outbound(choice, &key).map(|found| found.map(|(handle, _)| handle.id()))
        };
        assert_eq!(on(first, false), Ok(Some(first)));
        assert_eq!(on(second, false), Ok(None), "it leads elsewhere");
        assert_eq!(on(second, true), Ok(Some(second)));
    }
}

#[tokio::test]
async fn connections_are_limited_as_configured() {
    // A listener's own limit, and that of one address. The connections to the upstream count for neither.
    for (listener, rest, word) in [
        (", max_connections: 2", "", "of the listener is reached: 2"),
        ("", "limits: { max_connections_per_address: 2 }\n", "`max_connections_per_address` is reached: 2"),
    ] {
        for scheme in KINDS {
            let edge = Edge::start(listener, rest).await;
            let mut events = edge.server.ledger().events().subscribe();
            let _two = [edge.client(scheme).await, edge.client(scheme).await];
            let index = KINDS.iter().position(|kind| *kind == scheme).unwrap();
            let _third = tokio::net::TcpStream::connect(edge.server.addresses()[index].1).await.unwrap();
            for _ in 0..2 {
                assert_eq!(event(&mut events).await.0, "tcp:accepted");
            }
            let (name, _, reason) = event(&mut events).await;
            assert!(name == "tcp:failed" && reason.contains(word), "{scheme:?}: {name} {reason}");
        }
    }
}

/// The client that the next traced message came from or goes to.
async fn traced(collector: &UdpSocket) -> SocketAddr {
    let mut buffer = vec![0; 65_535];
    loop {
        let len =
            tokio::time::timeout(PATIENCE, collector.recv(&mut buffer)).await.expect("a packet").unwrap();
        let (_, packet) = Packet::decode(&Bytes::copy_from_slice(&buffer[..len]), TimeOrder::Little).unwrap();
        if packet.payload_type == Some(PayloadType::SIP) {
            let came = packet.payload.as_ref().unwrap().starts_with(b"OPTIONS");
            return if came { packet.source() } else { packet.destination() }.unwrap();
        }
    }
}

#[tokio::test]
async fn rules_and_switches_for_a_user_apply_to_whom_the_opening_handshake_proves() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let claims = serde_json::json!({ "sub": "alice", "exp": 4_102_444_800_u64 });
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    for scheme in [Scheme::Ws, Scheme::Wss] {
        let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let rest = format!(
            "websocket: {{ auth: {{ token: {{ secret: '{SECRET}', query: t }} }} }}\n\
             trace: {{ destinations: {{ a: {{ uri: 'hep_udp://{}' }} }}, \
             protocols: {{ ws: {{ messages: true }}, wss: {{ messages: true }} }}, \
             trace_filter: [ {{ trace: false, user: alice }} ] }}\n",
            collector.local_addr().unwrap(),
        );
        let mut edge = Edge::start("", &rest).await;
        edge.path = format!("/?t={token}");
        let (_quiet, _) = edge.client(scheme).await;
        edge.path = "/".to_owned();
        let (nobody, _) = edge.client(scheme).await;
        for _ in ["OPTIONS", "200"] {
            assert_eq!(traced(&collector).await, nobody.local_addr(), "{scheme:?}");
        }
        edge.server.control().trace().unwrap().switch_user("alice", Some(true));
        edge.path = format!("/?t={token}");
        let (told, _) = edge.client(scheme).await;
        for _ in ["OPTIONS", "200"] {
            assert_eq!(traced(&collector).await, told.local_addr(), "{scheme:?}");
        }
    }
}
