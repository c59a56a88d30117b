//! HEP of others: received by the daemon, and passed on to its collectors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use rustix::process::Signal;
use tcp_transport::hep::{Encoding, HepTransport, HepUri, Packet, PayloadType, TimeOrder, Version};
use tests::{Daemon, Scheme, Settings, Site, tls_config, tls_handshake, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// A concentrator: all three listeners for HEP, and nothing of its own to tell.
fn settings(trace: &str, hep: &str) -> Settings {
    let free = || Some("127.0.0.1:0".to_owned());
    let protocols =
        ["msrp", "msrps", "ws", "wss", "hep"].map(|protocol| format!("{protocol}: {{ events: false }}"));
    Settings {
        trace: format!("{trace}, protocols: {{ {} }}", protocols.join(", ")),
        hep: Some(hep.to_owned()),
        hep_udp: free(),
        hep_tcp: free(),
        hep_tls: free(),
        ..Settings::default()
    }
}

/// A collector over UDP.
struct Collector(UdpSocket);

impl Collector {
    async fn start() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    fn uri(&self) -> String {
        format!("hep_udp://{}", self.0.local_addr().unwrap())
    }

    async fn wire(&self) -> Bytes {
        let mut buffer = vec![0; 65_535];
        let len = within("a packet", self.0.recv(&mut buffer)).await.unwrap();
        Bytes::copy_from_slice(&buffer[..len])
    }

    async fn packet(&self) -> Packet {
        Packet::decode(&self.wire().await, TimeOrder::Little).unwrap().1
    }

    async fn text(&self) -> String {
        String::from_utf8(self.packet().await.payload.unwrap().to_vec()).unwrap()
    }
}

fn packet(text: &str) -> Packet {
    let (from, to) = ("192.0.2.1:5060".parse().unwrap(), "192.0.2.2:5060".parse().unwrap());
    let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
    let mut packet = Packet::new(from, to, time, PayloadType::SIP, Bytes::copy_from_slice(text.as_bytes()));
    packet.capture_id = Some(2001);
    packet
}

fn wire(packet: &Packet, version: Version) -> Bytes {
    packet.encode(Encoding { version, ..Encoding::default() }).unwrap()
}

/// A capture agent over UDP.
struct Agent(UdpSocket, SocketAddr);

impl Agent {
    async fn at(ip: &str, daemon: &Daemon) -> Self {
        Self(UdpSocket::bind((ip, 0)).await.unwrap(), daemon.address(Scheme::HepUdp))
    }

    async fn send(&self, packet: &Packet) {
        self.0.send_to(&wire(packet, Version::V3), self.1).await.unwrap();
    }
}

/// Stops the daemon; its figures of the HEP it has received, as `received=1 forwarded=1 …`.
async fn figures(daemon: &mut Daemon) -> String {
    daemon.signal(Signal::TERM);
    let line = daemon.log().wait_for(&["HEP reception ended"]).await;
    assert!(daemon.exit().await.success());
    line
}

fn assert_figures(line: &str, wanted: &[(&str, u64)]) {
    for (name, value) in wanted {
        let figure = format!("{name}={value}");
        assert!(line.split_whitespace().any(|word| word == figure), "no {figure} in {line}");
    }
}

#[tokio::test]
async fn what_agents_send_over_udp_tcp_and_tls_goes_on_as_it_came() {
    let site = Site::new();
    let collector = Collector::start().await;
    let trace =
        format!("destinations: {{ a: {{ uri: '{}', hep_capture_id: 9, auth_key: ours }} }}", collector.uri());
    let mut daemon = Daemon::start(RELAY, &site, &settings(&trace, "")).await;
    let mut theirs = packet("theirs");
    theirs.auth_key = Some(Bytes::from_static(b"theirs"));
    let sent = wire(&theirs, Version::V3);
    theirs.auth_key = Some(Bytes::from_static(b"ours"));

    let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = daemon.address(Scheme::HepUdp);
    agent.send_to(&sent, to).await.unwrap();
    assert_eq!(collector.packet().await, theirs, "the agent's capture id, and our key");
    for version in [Version::V1, Version::V2] {
        agent.send_to(&wire(&packet("old"), version), to).await.unwrap();
        assert_eq!(collector.packet().await.capture_id, (version == Version::V2).then_some(2001));
    }
    let mut tcp = TcpStream::connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    tcp.write_all(&sent).await.unwrap();
    assert_eq!(collector.packet().await, theirs);
    let socket = TcpStream::connect(daemon.address(Scheme::HepTls)).await.unwrap();
    let mut tls = tls_handshake(tls_config(&site, None), socket, "relay.test").await.unwrap();
    tls.write_all(&sent).await.unwrap();
    assert_eq!(collector.packet().await, theirs);

    let line = figures(&mut daemon).await;
    assert_figures(
        &line,
        &[("received", 5), ("forwarded", 5), ("filtered", 0), ("own", 0), ("malformed", 0)],
    );
    // Agents' connections end in order.
    assert_eq!(within("the end", tcp.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(within("the end", tls.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn the_filter_says_what_goes_where() {
    let site = Site::new();
    let (a, b) = (Collector::start().await, Collector::start().await);
    // The listener is named by its port, so that has to be known.
    let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let trace = format!("destinations: {{ a: {{ uri: '{}' }}, b: {{ uri: '{}' }} }}", a.uri(), b.uri());
    let hep = format!(
        "filter: [ {{ forward: none, remote: 127.0.0.2 }}, {{ forward: a, payload_type: [rtp, 58] }}, \
         {{ forward: b, capture_id: [7, 8] }}, {{ forward: a, protocol: sctp }}, {{ forward: [a], transport: tcp }}, \
         {{ forward: b, listener: 'hep_udp://127.0.0.1:{port}' }}, {{ forward: none }} ]"
    );
    let hep = hep.replace("{ forward: none } ]", "{ forward: all, transport: tls }, { forward: none } ]");
    let settings = Settings { hep_udp: Some(format!("127.0.0.1:{port}")), ..settings(&trace, &hep) };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let agent = Agent::at("127.0.0.1", &daemon).await;
    Agent::at("127.0.0.2", &daemon).await.send(&packet("remote")).await;
    for kind in [PayloadType::RTP, PayloadType(58)] {
        agent.send(&Packet { payload_type: Some(kind), capture_id: Some(7), ..packet("type") }).await;
        assert_eq!(a.text().await, "type");
    }
    agent.send(&Packet { capture_id: Some(8), ..packet("id") }).await;
    assert_eq!(b.text().await, "id");
    agent.send(&Packet { protocol: Some(132), ..packet("sctp") }).await;
    assert_eq!(a.text().await, "sctp");
    let mut tcp = TcpStream::connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    tcp.write_all(&wire(&packet("tcp"), Version::V3)).await.unwrap();
    assert_eq!(a.text().await, "tcp");
    agent.send(&packet("listener")).await;
    assert_eq!(b.text().await, "listener");
    let socket = TcpStream::connect(daemon.address(Scheme::HepTls)).await.unwrap();
    let mut tls = tls_handshake(tls_config(&site, None), socket, "relay.test").await.unwrap();
    tls.write_all(&wire(&packet("all"), Version::V3)).await.unwrap();
    assert_eq!((a.text().await, b.text().await), ("all".into(), "all".into()));
    let line = figures(&mut daemon).await;
    assert_figures(&line, &[("received", 8), ("forwarded", 7), ("filtered", 1)]);
    let mut buffer = [0; 1];
    assert!(a.0.try_recv(&mut buffer).is_err() && b.0.try_recv(&mut buffer).is_err(), "nothing else");
}

#[tokio::test]
async fn who_may_not_send_is_refused_counted_and_told_in_the_log() {
    let site = Site::new();
    let collector = Collector::start().await;
    let trace = format!("destinations: {{ a: {{ uri: '{}' }} }}", collector.uri());
    let hep = "from: 127.0.0.2, auth_key: k3y, packet_size: 200B, time_order: big";
    let mut daemon = Daemon::start(RELAY, &site, &settings(&trace, hep)).await;
    let keyed = |key: &'static str, text: &str| Packet { auth_key: Some(key.into()), ..packet(text) };
    Agent::at("127.0.0.1", &daemon).await.send(&keyed("k3y", "no")).await;
    daemon.log().wait_for(&["HEP refused", "from=127.0.0.1:", "not from there"]).await;
    let agent = Agent::at("127.0.0.2", &daemon).await;
    agent.send(&packet("no")).await;
    agent.send(&keyed("other", "no")).await;
    agent.send(&keyed("k3y", &"long".repeat(50))).await;
    agent.0.send_to(b"no HEP", agent.1).await.unwrap();
    agent.send(&keyed("k3y", "yes")).await;
    let arrived = collector.packet().await;
    assert_eq!((arrived.payload.unwrap(), arrived.auth_key), ("yes".into(), None));
    // Over TCP: a stranger's connection ends at once.
    let mut stranger = TcpStream::connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    assert_eq!(within("the end", stranger.read(&mut [0])).await.unwrap_or(0), 0);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut tcp = socket.connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    tcp.write_all(&wire(&keyed("k3y", "tcp"), Version::V3)).await.unwrap();
    assert_eq!(collector.text().await, "tcp");
    let line = figures(&mut daemon).await;
    assert_figures(
        &line,
        &[
            ("received", 2),
            ("forwarded", 2),
            ("malformed", 2),
            ("refused_sender", 2),
            ("refused_auth_key", 2),
        ],
    );
    assert_eq!(daemon.log().with(&["HEP refused"]).len(), 1, "a flood is none of the log");
    assert!(daemon.log().with(&["k3y"]).is_empty());
}

#[tokio::test]
async fn times_of_version_2_are_read_in_the_byte_order_that_is_configured() {
    let site = Site::new();
    for (order, name) in [(TimeOrder::Big, "big"), (TimeOrder::Little, "little")] {
        let collector = Collector::start().await;
        let trace = format!("destinations: {{ a: {{ uri: '{}' }} }}", collector.uri());
        let daemon = Daemon::start(RELAY, &site, &settings(&trace, &format!("time_order: {name}"))).await;
        let agent = Agent::at("127.0.0.1", &daemon).await;
        let encoding = Encoding { version: Version::V2, time_order: order, ..Encoding::default() };
        agent.0.send_to(&packet("x").encode(encoding).unwrap(), agent.1).await.unwrap();
        assert_eq!(collector.packet().await.seconds, Some(1_700_000_000), "{name}");
    }
}

#[tokio::test]
async fn a_packet_over_tcp_has_to_come_in_time_and_the_limits_of_a_listener_hold() {
    let site = Site::new();
    let collector = Collector::start().await;
    let trace = format!("destinations: {{ a: {{ uri: '{}' }} }}", collector.uri());
    let mut settings = settings(&trace, "packet_timeout: 50ms");
    settings.hep_tcp = Some("127.0.0.1:0, max_connections: 1".into());
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let mut slow = TcpStream::connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    slow.write_all(&wire(&packet("whole"), Version::V3)).await.unwrap();
    assert_eq!(collector.text().await, "whole");
    let mut second = TcpStream::connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    assert_eq!(within("no room", second.read(&mut [0])).await.unwrap_or(0), 0);
    daemon.log().wait_for(&["no room for more"]).await;
    slow.write_all(&wire(&packet("half"), Version::V3)[..20]).await.unwrap();
    assert_eq!(within("too slow", slow.read(&mut [0])).await.unwrap_or(0), 0);
    assert_figures(&figures(&mut daemon).await, &[("received", 1), ("malformed", 0)]);
}

#[tokio::test]
async fn the_connections_of_agents_are_told_as_any_other() {
    let site = Site::new();
    let collector = Collector::start().await;
    let settings = Settings {
        trace: format!("destinations: {{ a: {{ uri: '{}' }} }}", collector.uri()),
        ..settings("destinations: {}", "")
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let agent = TcpStream::connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    let accepted = collector.packet().await;
    assert_eq!(accepted.source(), Some(agent.local_addr().unwrap()));
    let payload = String::from_utf8_lossy(accepted.payload.as_ref().unwrap()).into_owned();
    assert!(payload.contains("\"HEP\"") && payload.contains("\"ACCEPTED\""), "{payload}");
    drop(agent);
    let payload = collector.text().await;
    assert!(payload.contains("\"CLOSED\"") && payload.contains("closed by the peer"), "{payload}");
}

#[tokio::test]
async fn a_destination_that_leads_back_here_is_refused_or_gets_nothing_twice() {
    let site = Site::new();
    let collector = Collector::start().await;
    let port = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let concentrator = |host: &str| {
        let own = HepUri { transport: HepTransport::Udp, host: host.to_owned(), port };
        let trace =
            format!("destinations: {{ a: {{ uri: '{}' }}, own: {{ uri: '{own}' }} }}", collector.uri());
        Settings { hep_udp: Some(format!("127.0.0.1:{port}")), ..settings(&trace, "") }
    };
    let config = site.write("wrong.yaml", &concentrator("localhost").to_yaml());
    let checked =
        std::process::Command::new(RELAY).args(["check", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(!checked.status.success() && said.contains("is our own listener"), "{said}");

    // A name that only a resolver knows: the check cannot see it.
    let mut daemon = Daemon::start(RELAY, &site, &concentrator("127.1")).await;
    let agent = Agent::at("127.0.0.1", &daemon).await;
    agent.send(&packet("round")).await;
    assert_eq!(collector.text().await, "round");
    daemon.log().wait_for(&["HEP of our own comes back", &format!("hep_udp://127.0.0.1:{port}")]).await;
    let line = figures(&mut daemon).await;
    assert_figures(&line, &[("received", 2), ("forwarded", 1), ("own", 1)]);
    assert!(collector.0.try_recv(&mut [0; 1]).is_err(), "once");
}

/// Both ends' figures: what came in is forwarded, and what was forwarded is sent or dropped.
#[tokio::test]
async fn a_collector_that_is_not_there_costs_its_packets_and_all_are_accounted_for() {
    let site = Site::new();
    let (there, gone) = (Collector::start().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let trace = format!(
        "destinations: {{ there: {{ uri: '{}' }}, gone: {{ uri: 'hep_tcp://{}', max_retries: 0, retry_cooldown: 1h, \
         hep_async_max_postponed_chunks: 10 }} }}",
        there.uri(),
        gone.local_addr().unwrap()
    );
    drop(gone);
    let mut daemon = Daemon::start(RELAY, &site, &settings(&trace, "")).await;
    let mut agent = TcpStream::connect(daemon.address(Scheme::HepTcp)).await.unwrap();
    for number in 0..100 {
        agent.write_all(&wire(&packet(&number.to_string()), Version::V3)).await.unwrap();
        assert_eq!(there.text().await, number.to_string());
    }
    let line = figures(&mut daemon).await;
    assert_figures(&line, &[("received", 100), ("forwarded", 100), ("unwanted", 0)]);
    let gaps = daemon.log().wait_for(&["the trace has gaps", "destination=\"gone\""]).await;
    assert_figures(&gaps, &[("sent", 0), ("dropped", 100)]);
    let ended = daemon.log().wait_for(&["tracing ended", "destination=\"there\""]).await;
    assert_figures(&ended, &[("sent", 100)]);
}

#[tokio::test]
async fn the_example_runs_as_it_is() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hep-concentrator.yaml");
    let checked = std::process::Command::new(RELAY).args(["check", "--config", example]).status().unwrap();
    assert!(checked.success());

    // The same, with free ports.
    let site = Site::new();
    let collector = Collector::start().await;
    let text = std::fs::read_to_string(example).unwrap();
    let text = text.replace("hep_udp://127.0.0.1:9060", &collector.uri());
    let text = text.replace("127.0.0.1:5656\"", "127.0.0.1:0\"").replace("127.0.0.1:2855", "127.0.0.1:0");
    let mut daemon =
        Daemon::spawn(std::process::Command::new(RELAY), &site.write("concentrator.yaml", &text));
    let ready = daemon.log().wait_for(&["ready", "hep_udp://", "hep_tcp://"]).await;
    let to = ready.split("hep_udp://").nth(1).unwrap().split([' ', '"']).next().unwrap();
    let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (kind, text) in
        [(PayloadType::RTCP, "dropped"), (PayloadType::LOG, "MSRP"), (PayloadType::SIP, "INVITE")]
    {
        let packet = Packet { payload_type: Some(kind), ..packet(text) };
        agent.send_to(&wire(&packet, Version::V3), to).await.unwrap();
    }
    // MSRP messages of a relay like this one come as logs.
    assert_eq!((collector.text().await, collector.text().await), ("MSRP".into(), "INVITE".into()));
    let line = figures(&mut daemon).await;
    assert_figures(&line, &[("received", 3), ("forwarded", 2), ("filtered", 1)]);
}
