//! What an upgrade is to those around: another relay, SIP clients and their proxy, capture agents and collectors.

use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use tcp_transport::hep::{Encoding, Packet, PayloadType, TimeOrder};
use tests::{
    Client, Content, Daemon, Proxy, Scheme, Send, Settings, SipPeer, SipUpstream, Site, request, response,
    within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::{RELAY, chat, settings, tag, transfer, upgrade_to};

#[tokio::test]
async fn one_of_two_relays_is_upgraded_in_the_middle_of_a_transfer() {
    let site = Site::new();
    site.issue("a", &["localhost"]);
    site.issue("b", &["127.0.0.1"]);
    let (to_a, to_b) = (Proxy::new().await, Proxy::new().await);
    let relay = |name: &str, domain: &str, proxy: &Proxy| Settings {
        domain: domain.into(),
        tls: Some(format!("127.0.0.1:0, advertise: \"{domain}:{}\"", proxy.port())),
        identity: name.into(),
        client_domain: format!("ca_list: ca.pem, certificate: {name}.crt, private_key: {name}.key"),
        upgrade: Some(format!("socket: {name}.upgrade.sock")),
        admin: None,
        ..settings()
    };
    let (of_a, of_b) = (relay("a", "localhost", &to_a), relay("b", "127.0.0.1", &to_b));
    let mut a = Daemon::start_as(Command::new(RELAY), &site, "a.yaml", &of_a).await;
    let mut old = Daemon::start_as(Command::new(RELAY), &site, "b.yaml", &of_b).await;
    to_a.lead_to(a.address(Scheme::Msrps));
    to_b.lead_to(old.address(Scheme::Msrps));
    let (at_a, at_b) =
        (format!("msrps://localhost:{};tcp", to_a.port()), format!("msrps://127.0.0.1:{};tcp", to_b.port()));
    let client = async |relay: &Daemon, at: &str, user: &str| {
        let mut client = Client::connect(relay, &site, Scheme::Msrps).await;
        let session = client.auth_at(&[at.to_owned()], user, &format!("{user}pw")).await;
        (client, session)
    };
    let (mut alice, from_alice) = client(&a, &at_a, "alice").await;
    let (bob, from_bob) = client(&old, &at_b, "bob").await;

    let len = 20 * 1024 * 1024;
    let ends = ((&mut alice, &from_alice), (bob, &from_bob));
    let next = async || upgrade_to(&site, "b.yaml", &old, &of_b).await;
    let (mut bob, mut new) = transfer(ends.0, ends.1, len, next).await;

    let (mut carol, from_carol) = client(&new, &at_b, "carol").await;
    assert_ne!(tag(&from_carol), tag(&from_bob));
    chat((&mut bob, &from_bob), (&mut alice, &from_alice), "from the old process").await;
    chat((&mut alice, &from_alice), (&mut bob, &from_bob), "to the old process").await;
    // The other relay knows of one process, and has one connection: to the old one.
    let (mut dave, from_dave) = client(&a, &at_a, "dave").await;
    let message = Send::text(&from_dave.to(&from_carol), "m1", "to the new process");
    assert_eq!(dave.send(&message.with("Success-Report: yes")).await.status(), 200);
    let received = carol.receive().await;
    assert_eq!(received.text(), "to the new process");
    assert_eq!(
        received.from_path(),
        [&from_carol.use_path[0], &from_dave.use_path[0], dave.uri()],
        "nobody else is on the way"
    );
    carol.tx.report(&received, 200).await;
    assert_eq!(dave.receive_report().await.reported(), 200);
    chat((&mut carol, &from_carol), (&mut dave, &from_dave), "from the new process").await;
    let content = Content::new(3_000_000);
    let file = Send { to: from_dave.to(&from_carol), message: "large".into(), ..Send::default() };
    let ((), answered) =
        tokio::join!(dave.tx.file(&file, &content, None), carol.rx.file(&content, Some(&mut carol.tx)));
    assert!(answered.is_empty(), "{answered:?}");
    assert_eq!(dave.rx.next().await.status(), 200);
    // That is for relays, which have proved to be one.
    let strange = Send::text(&bob.without_relay().to(&from_carol), "m3", "not for this process");
    assert_eq!(bob.send(&strange).await.status(), 481);
    // A failure there comes back the same way.
    carol.close().await;
    let failure = Send::text(&from_dave.to(&from_carol), "m2", "gone");
    assert_eq!(dave.send(&failure).await.status(), 200);
    let report = dave.receive_report().await;
    assert_eq!((report.reported(), report.header("Message-ID")), (481, "m2".into()));
    assert_eq!(to_b.accepted(), 1);
    // When the other relay's connection to the old process is gone, its next one leads to the new process.
    bob.close().await;
    old.exit().await;
    let (mut erin, from_erin) = client(&new, &at_b, "carol").await;
    chat((&mut dave, &from_dave), (&mut erin, &from_erin), "directly").await;
    assert_eq!(to_b.accepted(), 2);
    a.assert_well();
    new.assert_well();
}

/// The edge's next connection to its proxy, which it asks at once.
async fn upstream_connection(upstream: &SipUpstream) -> SipPeer {
    let mut proxy = upstream.accept().await.answering_probes();
    proxy.probed().await;
    proxy.send(&request("OPTIONS", "sip:edge.test:5060", "ready", "", "")).await;
    proxy.expect("200").await;
    proxy
}

/// A request of a client, as the proxy sees it.
async fn pass(client: &mut SipPeer, proxy: &mut SipPeer, method: &str, branch: &str) -> tests::SipMessage {
    client.send(&request(method, "sip:bob@example.com", branch, "Supported: path, outbound\r\n", "")).await;
    proxy.expect(method).await
}

#[tokio::test]
async fn a_sip_clients_flow_ends_in_order_when_its_transactions_are_over() {
    let site = Site::new();
    let upstream = SipUpstream::bind(Scheme::Sip, &site).await;
    let any_port = || Some("127.0.0.1:0".to_owned());
    let settings = Settings {
        sip_tcp: any_port(),
        sip_tls: any_port(),
        sip: Some(format!(
            "probe_interval: 1h, sip_upstream: [ {{ uri: '{}', advertise: 'edge.test:5060' }} ]",
            upstream.uri()
        )),
        ..settings()
    };
    let mut old = Daemon::start(RELAY, &site, &settings).await;
    let mut proxy = upstream_connection(&upstream).await;
    let mut client = SipPeer::connect(&old, &site, Scheme::Sip).await;
    let asked = pass(&mut client, &mut proxy, "REGISTER", "registered").await;
    let old_flow = asked.field("Path").to_owned();
    let to_old_flow =
        |branch: &str| request("MESSAGE", "sip:a@x.invalid", branch, &format!("Route: {old_flow}\r\n"), "");
    proxy.send(&response(&asked, "200 OK", "")).await;
    client.expect("200").await;
    proxy.send(&to_old_flow("before")).await;
    client.expect("MESSAGE").await;
    let mut clients = Vec::new();
    for scheme in [Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss] {
        let mut client = SipPeer::connect(&old, &site, scheme).await;
        let asked = pass(&mut client, &mut proxy, "MESSAGE", &format!("{scheme:?}")).await;
        clients.push((scheme, client, asked));
    }
    // What is under way ends where it began.
    let mut new = upgrade_to(&site, "relay.yaml", &old, &settings).await;
    for (scheme, client, asked) in &mut clients {
        proxy.send(&response(asked, "200 OK", "")).await;
        assert_eq!(client.expect("200").await.field("Call-ID"), format!("{scheme:?}@client.invalid"));
    }
    let mut next = upstream_connection(&upstream).await;
    // The flow of a client that the old process still has: it is to register again.
    next.send(&to_old_flow("other")).await;
    next.expect("430").await;
    // Then it is over, and whoever comes back comes to the next process and its connection.
    for (scheme, mut client, _) in clients {
        assert_eq!(client.next().await, None, "{scheme:?}");
        let mut client = SipPeer::connect(&new, &site, scheme).await;
        let asked = pass(&mut client, &mut next, "REGISTER", &format!("again{scheme:?}")).await;
        let path = asked.field("Path").to_owned();
        next.send(&response(&asked, "200 OK", "")).await;
        client.expect("200").await;
        next.send(&request("MESSAGE", "sip:a@x.invalid", "in", &format!("Route: {path}\r\n"), "")).await;
        client.expect("MESSAGE").await;
    }
    assert_eq!(client.next().await, None);
    assert_eq!(proxy.next().await, None);
    assert_eq!(old.exit().await.code(), Some(0));
    assert_eq!(old.log().with(&["SIP upstream connected"]).len(), 1, "it does not come back");
    assert_eq!(old.log().with(&["panicked"]), [""; 0]);
    new.assert_well();
}

/// A collector over UDP.
struct Collector(UdpSocket);

impl Collector {
    async fn next(&self) -> Packet {
        let mut buffer = vec![0; 65_535];
        let len = within("a packet", self.0.recv(&mut buffer)).await.unwrap();
        Packet::decode(&Bytes::copy_from_slice(&buffer[..len]), TimeOrder::Little).unwrap().1
    }

    /// Waits for the event of this peer's connection.
    async fn event(&self, event: &str, peer: &str) {
        loop {
            let packet = self.next().await;
            let payload = serde_json::from_slice(packet.payload.as_ref().unwrap()).unwrap_or(Value::Null);
            if payload["Event"] == event && packet.source().unwrap().to_string() == peer {
                return;
            }
        }
    }

    /// Waits for what an agent has sent.
    async fn forwarded(&self, text: &str) {
        while self.next().await.payload.unwrap() != text {}
    }
}

fn hep(text: &str) -> Bytes {
    let (from, to) = ("192.0.2.1:5060".parse().unwrap(), "192.0.2.2:5060".parse().unwrap());
    let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let packet = Packet::new(from, to, time, PayloadType::SIP, Bytes::copy_from_slice(text.as_bytes()));
    packet.encode(Encoding::default()).unwrap()
}

#[tokio::test]
async fn a_collector_hears_of_both_processes_and_agents_go_on_to_the_next() {
    let site = Site::new();
    let collector = Collector(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let any_port = || Some("127.0.0.1:0".to_owned());
    let settings = Settings {
        hep_udp: any_port(),
        hep_tcp: any_port(),
        hep: Some(String::new()),
        trace: format!("destinations: {{ a: {{ uri: 'hep_udp://{}' }} }}", collector.0.local_addr().unwrap()),
        ..settings()
    };
    let mut old = Daemon::start(RELAY, &site, &settings).await;
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    datagrams.connect(old.address(Scheme::HepUdp)).await.unwrap();
    let mut agent = TcpStream::connect(old.address(Scheme::HepTcp)).await.unwrap();
    let (alice, _) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let of_alice = alice.address();
    collector.event("ACCEPTED", &of_alice).await;
    datagrams.send(&hep("datagram to the old one")).await.unwrap();
    collector.forwarded("datagram to the old one").await;
    agent.write_all(&hep("stream to the old one")).await.unwrap();
    collector.forwarded("stream to the old one").await;

    let mut new = upgrade_to(&site, "relay.yaml", &old, &settings).await;
    // To the same address: the socket is the next process'.
    datagrams.send(&hep("datagram to the new one")).await.unwrap();
    collector.forwarded("datagram to the new one").await;
    assert_eq!(within("the end", agent.read(&mut [0; 1])).await.unwrap(), 0);
    let mut agent = TcpStream::connect(new.address(Scheme::HepTcp)).await.unwrap();
    agent.write_all(&hep("stream to the new one")).await.unwrap();
    collector.forwarded("stream to the new one").await;
    let (bob, _) = Client::with_session(&new, &site, Scheme::Msrps, "bob").await;
    collector.event("ACCEPTED", &bob.address()).await;
    alice.close().await;
    collector.event("CLOSED", &of_alice).await;
    assert_eq!(old.exit().await.code(), Some(0));
    drop(bob);
    new.assert_well();
}
