//! Settings of sockets, listeners and destinations; limits below, at and above.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tcp_transport::connector::AttemptError;
use tcp_transport::proxy_protocol::ProxyError;
use tcp_transport::{
    Acceptor, BindError, BoundListener, ConnectError, ConnectSettings, ConnectionLimits, Connector,
    DialOptions, Dscp, Events, KeepAlive, Ledger, LimitReached, ListenerSettings, OutboundPolicy,
    SocketOptions, Source, Stream, Target, Transport,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::common::{LOCALHOST, Pki, client_domain, patiently, read_up_to, server_domains, server_settings};

#[derive(Debug)]
enum Said {
    Accepted(Stream),
    Limit(SocketAddr, LimitReached),
    Proxy(ProxyError),
    Failed,
}

struct Everything(UnboundedSender<Said>);

impl Acceptor for Everything {
    fn accepted(&self, stream: Stream) {
        let _ = self.0.send(Said::Accepted(stream));
    }

    fn handshake_failed(&self, _peer: SocketAddr, _error: tcp_transport::tls::HandshakeError) {
        let _ = self.0.send(Said::Failed);
    }

    fn limit_reached(&self, peer: SocketAddr, limit: LimitReached) {
        let _ = self.0.send(Said::Limit(peer, limit));
    }

    fn proxy_failed(&self, _proxy: SocketAddr, error: ProxyError) {
        let _ = self.0.send(Said::Proxy(error));
    }
}

fn plain() -> ListenerSettings {
    ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp)
}

fn start(settings: ListenerSettings, ledger: &Arc<Ledger>) -> (SocketAddr, UnboundedReceiver<Said>) {
    let listener = BoundListener::bind(settings, Arc::default()).unwrap().with_ledger(ledger.clone());
    (listener.local_addr(), run(listener))
}

fn run(listener: BoundListener) -> UnboundedReceiver<Said> {
    let (sender, said) = unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Everything(sender))));
    said
}

async fn accepted(said: &mut UnboundedReceiver<Said>) -> Stream {
    match patiently("accept", said.recv()).await {
        Some(Said::Accepted(stream)) => stream,
        other => panic!("{other:?}"),
    }
}

async fn limit(said: &mut UnboundedReceiver<Said>) -> LimitReached {
    match patiently("limit", said.recv()).await {
        Some(Said::Limit(_, limit)) => limit,
        other => panic!("{other:?}"),
    }
}

/// Waits until the peer has closed.
async fn end(stream: &mut TcpStream) {
    let end = patiently("end", stream.read(&mut [0; 10])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

fn target(address: SocketAddr) -> Target {
    Target { host: address.ip().to_string(), port: address.port(), transport: Transport::Tcp }
}

fn options() -> SocketOptions {
    let keepalive = KeepAlive { idle: Duration::from_secs(77), count: 3, interval: Duration::from_secs(9) };
    SocketOptions { nodelay: false, dscp: Dscp::new(26), keepalive: Some(keepalive) }
}

/// The options as the kernel has them.
fn set(socket: &SockRef<'_>) -> (bool, u32, bool) {
    (socket.tcp_nodelay().unwrap(), socket.tos_v4().unwrap(), socket.keepalive().unwrap())
}

#[tokio::test]
async fn socket_options_are_set_on_what_is_accepted_and_opened() {
    let ledger: Arc<Ledger> = Arc::default();
    for (socket, expected) in
        [(SocketOptions::default(), (true, 0, false)), (options(), (false, 26 << 2, true))]
    {
        let (address, mut said) = start(ListenerSettings { socket, ..plain() }, &ledger);
        let dial = DialOptions { socket, ..DialOptions::default() };
        let settings = ConnectSettings { dial, ..ConnectSettings::default() };
        let connector = Connector::new(settings, |_: SocketAddr, _| true);
        let client = connector.connect(&target(address), None).await.unwrap();
        let server = accepted(&mut said).await;
        for stream in [&client, &server] {
            assert_eq!(set(&stream.options()), expected);
            assert_eq!(stream.options().tcp_notsent_lowat().unwrap(), tcp_transport::socket::NOTSENT_LOWAT);
            if expected.2 {
                let socket = stream.options();
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(9));
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
            }
        }
    }
}

#[tokio::test]
async fn the_dscp_is_the_traffic_class_of_ipv6() {
    let settings = ListenerSettings {
        socket: options(),
        ..ListenerSettings::new("[::1]:0".parse().unwrap(), Transport::Tcp)
    };
    let Ok(listener) = BoundListener::bind(settings, Arc::default()) else {
        println!("no IPv6 here");
        return;
    };
    let address = listener.local_addr();
    let (sender, mut said) = unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Everything(sender))));
    let _client = TcpStream::connect(address).await.unwrap();
    assert_eq!(accepted(&mut said).await.options().tclass_v6().unwrap(), 26 << 2);
}

#[tokio::test]
async fn a_dual_stack_listener_shows_ipv4_peers_as_such() {
    let any = |ipv6_only| ListenerSettings {
        ipv6_only,
        ..ListenerSettings::new("[::]:0".parse().unwrap(), Transport::Tcp)
    };
    let ledger: Arc<Ledger> = Arc::default();
    if BoundListener::bind(any(true), Arc::default()).is_err() {
        println!("no IPv6 here");
        return;
    }
    let (address, mut said) = start(any(false), &ledger);
    let client = TcpStream::connect(("127.0.0.1", address.port())).await.unwrap();
    assert_eq!(accepted(&mut said).await.peer_addr(), client.local_addr().unwrap());
    let (address, _said) = start(any(true), &ledger);
    assert!(TcpStream::connect(("127.0.0.1", address.port())).await.is_err());
}

#[tokio::test]
async fn a_port_is_shared_only_by_those_who_say_so() {
    let bind = |addr, reuse_port| {
        BoundListener::bind(ListenerSettings { addr, reuse_port, ..plain() }, Arc::default())
    };
    let first = bind(LOCALHOST.parse().unwrap(), true).unwrap();
    bind(first.local_addr(), true).unwrap();
    assert!(matches!(bind(first.local_addr(), false), Err(BindError::Socket { .. })));
    let alone = bind(LOCALHOST.parse().unwrap(), false).unwrap();
    assert!(bind(alone.local_addr(), true).is_err());
}

#[tokio::test]
async fn the_backlog_bounds_what_waits_for_accept() {
    let waiting = async |backlog| {
        // Bound and never run: nothing is accepted.
        let listener = BoundListener::bind(ListenerSettings { backlog, ..plain() }, Arc::default()).unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(listener.local_addr())).await
        {
            waiting.push(stream);
            if waiting.len() == 20 {
                break;
            }
        }
        waiting.len()
    };
    // Linux takes one more than it is told.
    assert_eq!(waiting(2).await, 3);
    assert_eq!(waiting(100).await, 20);
}

#[tokio::test]
async fn connections_come_from_the_source_that_is_set() {
    let ledger: Arc<Ledger> = Arc::default();
    let own = BoundListener::bind(ListenerSettings { reuse_port: true, ..plain() }, Arc::default()).unwrap();
    let (address, mut said) = start(plain(), &ledger);
    for (source, expected) in [
        (Source { addresses: vec!["127.0.0.5".parse().unwrap()], port: None }, ("127.0.0.5", None)),
        (
            Source { addresses: vec!["127.0.0.1".parse().unwrap()], port: Some(own.local_addr().port()) },
            ("127.0.0.1", Some(own.local_addr().port())),
        ),
        // None of the destination's family.
        (Source { addresses: vec!["::1".parse().unwrap()], port: None }, ("127.0.0.1", None)),
    ] {
        let dial = DialOptions { source, ..DialOptions::default() };
        let connector =
            Connector::new(ConnectSettings { dial, ..ConnectSettings::default() }, |_: SocketAddr, _| true);
        let _client = connector.connect(&target(address), None).await.unwrap();
        let peer = accepted(&mut said).await.peer_addr();
        assert_eq!(peer.ip().to_string(), expected.0);
        assert!(expected.1.is_none_or(|port| port == peer.port()), "{peer}");
    }
}

/// Options for one port, none for others.
struct ForPort(u16, DialOptions);

impl OutboundPolicy for ForPort {
    fn allows(&self, _address: SocketAddr, _transport: Transport) -> bool {
        true
    }

    fn dial(&self, address: SocketAddr, _transport: Transport) -> Option<Arc<DialOptions>> {
        (address.port() == self.0).then(|| Arc::new(self.1.clone()))
    }
}

#[tokio::test]
async fn a_destination_has_options_of_its_own() {
    let ledger: Arc<Ledger> = Arc::default();
    let (closed_off, _said) = start(plain(), &ledger);
    let (open, _said_too) = start(plain(), &ledger);
    let dial = DialOptions { no_new_connections: true, ..DialOptions::default() };
    let connector = Connector::new(ConnectSettings::default(), ForPort(closed_off.port(), dial));
    connector.connect(&target(open), None).await.unwrap();
    let error = connector.connect(&target(closed_off), None).await.unwrap_err();
    assert!(error.to_string().ends_with("no new connections are opened there"), "{error}");

    let lifetime = Some(Duration::from_secs(7));
    let dial = DialOptions { lifetime, socket: options(), ..DialOptions::default() };
    let connector = Connector::new(ConnectSettings::default(), ForPort(closed_off.port(), dial));
    let own = connector.connect(&target(closed_off), None).await.unwrap();
    let other = connector.connect(&target(open), None).await.unwrap();
    assert_eq!((own.entry().lifetime(), other.entry().lifetime()), (lifetime, None));
    assert_eq!((set(&own.options()).0, set(&other.options()).0), (false, true));
}

#[tokio::test(start_paused = true)]
async fn a_connect_takes_no_longer_than_its_destination_allows() {
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&LOCALHOST.parse::<SocketAddr>().unwrap().into()).unwrap();
    deaf.listen(0).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await
    {
        fill.push(stream);
    }
    let connect_timeout = Duration::from_millis(700);
    let dial = DialOptions { connect_timeout, ..DialOptions::default() };
    let connector = Connector::new(ConnectSettings::default(), ForPort(address.port(), dial));
    let start = tokio::time::Instant::now();
    let error = connector.connect(&target(address), None).await.unwrap_err();
    let ConnectError::Failed { attempts, .. } = error else { panic!("{error:?}") };
    assert!(matches!(attempts[0].error, AttemptError::Timeout(limit) if limit == connect_timeout));
    assert!(start.elapsed() >= connect_timeout && start.elapsed() < 2 * connect_timeout);
}

fn limited(max_connections: Option<usize>, max_connections_per_address: Option<usize>) -> Arc<Ledger> {
    Ledger::new(ConnectionLimits { max_connections, max_connections_per_address }, Events::default())
}

#[tokio::test]
async fn the_number_of_connections_is_limited_in_all_and_for_a_listener() {
    // In all: accepted and opened together.
    let ledger = limited(Some(3), None);
    let (address, mut said) = start(plain(), &ledger);
    let (other, mut said_too) = start(plain(), &ledger);
    let connector = Connector::new(Default::default(), |_: SocketAddr, _| true).with_ledger(ledger.clone());
    let elsewhere = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let elsewhere = target(elsewhere.local_addr().unwrap());
    let _one = TcpStream::connect(address).await.unwrap();
    let first = accepted(&mut said).await;
    let _two = TcpStream::connect(other).await.unwrap();
    let _second = accepted(&mut said_too).await;
    // Below the limit, at it, above it.
    assert_eq!(ledger.len(), 2);
    let third = connector.connect(&elsewhere, None).await.unwrap();
    let mut four = TcpStream::connect(address).await.unwrap();
    assert_eq!(limit(&mut said).await, LimitReached::Total(3));
    end(&mut four).await;
    let error = connector.connect(&elsewhere, None).await.unwrap_err().to_string();
    assert!(error.ends_with("`max_connections` is reached: 3"), "{error}");
    assert_eq!(ledger.refused().total, 2);
    drop(first);
    let _five = TcpStream::connect(address).await.unwrap();
    let _fifth = accepted(&mut said).await;
    ledger.set_limits(ConnectionLimits::default());
    drop(third);
    let _six = TcpStream::connect(address).await.unwrap();
    let _sixth = accepted(&mut said).await;

    // Per listener.
    let ledger = limited(None, None);
    let (address, mut said) = start(ListenerSettings { max_connections: Some(2), ..plain() }, &ledger);
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..2 {
        clients.push(TcpStream::connect(address).await.unwrap());
        streams.push(accepted(&mut said).await);
    }
    let mut over = TcpStream::connect(address).await.unwrap();
    assert_eq!(limit(&mut said).await, LimitReached::Listener(2));
    end(&mut over).await;
    assert_eq!(ledger.refused().listener, 1);
    streams.pop();
    clients.push(TcpStream::connect(address).await.unwrap());
    accepted(&mut said).await;
}

#[tokio::test]
async fn the_number_of_connections_from_one_address_is_limited() {
    let ledger = limited(None, Some(2));
    let (address, mut said) = start(plain(), &ledger);
    let from = async |ip: &str| {
        let source = Source { addresses: vec![ip.parse().unwrap()], port: None };
        let dial = DialOptions { source, ..DialOptions::default() };
        let settings = ConnectSettings { dial, ..ConnectSettings::default() };
        Connector::new(settings, |_: SocketAddr, _| true).connect(&target(address), None).await.unwrap()
    };
    let _a = from("127.0.0.2").await;
    let first = accepted(&mut said).await;
    let _b = from("127.0.0.2").await;
    let _second = accepted(&mut said).await;
    let _c = from("127.0.0.2").await;
    assert_eq!(limit(&mut said).await, LimitReached::Address(2));
    let refused = ledger.refused();
    assert_eq!((refused.total, refused.listener, refused.address), (0, 0, 1));
    let _d = from("127.0.0.3").await;
    let _fourth = accepted(&mut said).await;
    drop(first);
    let _e = from("127.0.0.2").await;
    let fifth = accepted(&mut said).await;
    assert_eq!(ledger.accepted_from(fifth.peer_addr().ip()), 2);
}

fn behind_proxy() -> ListenerSettings {
    ListenerSettings { proxy_from: vec!["127.0.0.1".parse().unwrap()], ..plain() }
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_and_what_follows_is_the_protocols() {
    let ledger = limited(None, Some(1));
    let mut events = ledger.events().subscribe();
    let (address, mut said) = start(behind_proxy(), &ledger);
    let mut proxy = TcpStream::connect(address).await.unwrap();
    // In pieces, and with the first bytes of the protocol behind it.
    for piece in [&b"PROXY TCP4 203.0.113"[..], b".9 192.0.2.7 40000 2855\r", b"\nMSRP"] {
        proxy.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let stream = accepted(&mut said).await;
    assert_eq!(stream.peer_addr(), "203.0.113.9:40000".parse().unwrap());
    assert_eq!(stream.entry().proxy(), Some(proxy.local_addr().unwrap()));
    assert_eq!(patiently("protocol", read_up_to(&stream, 4)).await, b"MSRP");
    let event = patiently("event", events.next()).await.unwrap();
    assert_eq!((event.remote, event.proxy), (stream.peer_addr(), Some(proxy.local_addr().unwrap())));

    // The limit counts clients, not the proxy.
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"PROXY TCP4 203.0.113.10 192.0.2.7 40000 2855\r\n").await.unwrap();
    let _other = accepted(&mut said).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    third.write_all(b"PROXY TCP4 203.0.113.9 192.0.2.7 40001 2855\r\n").await.unwrap();
    match patiently("limit", said.recv()).await {
        Some(Said::Limit(peer, LimitReached::Address(1))) => {
            assert_eq!(peer, "203.0.113.9:40001".parse().unwrap());
        }
        other => panic!("{other:?}"),
    }
    // A health check of the proxy itself.
    let mut check = TcpStream::connect(address).await.unwrap();
    check.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await.unwrap();
    assert_eq!(accepted(&mut said).await.peer_addr(), check.local_addr().unwrap());
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let ledger: Arc<Ledger> = Arc::default();
    let trusting = ListenerSettings { proxy_from: vec!["192.0.2.0/24".parse().unwrap()], ..plain() };
    let (address, mut said) = start(trusting, &ledger);
    let mut client = TcpStream::connect(address).await.unwrap();
    let claim = b"PROXY TCP4 203.0.113.9 192.0.2.7 40000 2855\r\n";
    client.write_all(claim).await.unwrap();
    let stream = accepted(&mut said).await;
    assert_eq!(stream.peer_addr(), client.local_addr().unwrap());
    assert_eq!(patiently("bytes", read_up_to(&stream, claim.len())).await, claim, "bytes like any other");
}

#[tokio::test]
async fn a_trusted_proxy_must_send_a_header() {
    let ledger: Arc<Ledger> = Arc::default();
    let (address, mut said) = start(behind_proxy(), &ledger);
    for bytes in [&b"MSRP a AUTH\r\n"[..], b"PROXY TCP4 x\r\n", b"PROXY UNKNOWN"] {
        let mut proxy = TcpStream::connect(address).await.unwrap();
        proxy.write_all(bytes).await.unwrap();
        proxy.shutdown().await.unwrap();
        assert!(matches!(patiently("failure", said.recv()).await, Some(Said::Proxy(_))));
        end(&mut proxy).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_says_nothing_is_not_waited_for() {
    let ledger: Arc<Ledger> = Arc::default();
    let (address, mut said) = start(behind_proxy(), &ledger);
    let _silent = TcpStream::connect(address).await.unwrap();
    let start = tokio::time::Instant::now();
    assert!(matches!(said.recv().await, Some(Said::Proxy(ProxyError::Timeout(_)))));
    assert!(start.elapsed() >= tcp_transport::proxy_protocol::PROXY_HEADER_TIMEOUT);
    assert!(ledger.is_empty());
}

#[tokio::test]
async fn tls_begins_behind_the_header() -> io::Result<()> {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["relay.test"]);
    let settings = ListenerSettings { transport: Transport::Tls, ..behind_proxy() };
    let listener =
        BoundListener::bind(settings, server_domains(&server_settings("relay", &identity, &ca))).unwrap();
    let address = listener.local_addr();
    let (sender, mut said) = unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Everything(sender))));
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_all(b"PROXY TCP6 2001:db8::9 ::1 40000 2855\r\n").await?;
    let limit = Duration::from_secs(30);
    let domain = client_domain(&ca, None);
    let client = tcp_transport::tls::connect(tcp, address, &domain, "relay.test", limit).await.unwrap();
    let server = accepted(&mut said).await;
    assert_eq!(server.peer_addr(), "[2001:db8::9]:40000".parse().unwrap());
    client.write_all(b"hello").await?;
    assert_eq!(patiently("hello", read_up_to(&server, 5)).await, b"hello");
    Ok(())
}

#[tokio::test]
async fn lifetimes_are_those_of_the_listener() {
    let ledger: Arc<Ledger> = Arc::default();
    let lifetime = Some(Duration::from_secs(5));
    let (address, mut said) = start(ListenerSettings { lifetime, ..plain() }, &ledger);
    let _client = TcpStream::connect(address).await.unwrap();
    assert_eq!(accepted(&mut said).await.entry().lifetime(), lifetime);
    let seen = Mutex::new(ledger.snapshot());
    assert_eq!(seen.lock().len(), 0, "the stream was dropped");
}

#[tokio::test]
async fn a_running_listener_takes_other_settings_for_its_next_connection() {
    let ledger = limited(None, None);
    let listener = BoundListener::bind(plain(), Arc::default()).unwrap().with_ledger(ledger.clone());
    let (control, address) = (listener.control().clone(), listener.local_addr());
    let mut said = run(listener);
    let _first = TcpStream::connect(address).await.unwrap();
    let first = accepted(&mut said).await;
    let lifetime = Some(Duration::from_secs(7));
    control.update(ListenerSettings { max_connections: Some(2), lifetime, backlog: 1, ..plain() });
    let _second = TcpStream::connect(address).await.unwrap();
    let second = accepted(&mut said).await;
    assert_eq!((first.entry().lifetime(), second.entry().lifetime()), (None, lifetime));
    let mut third = TcpStream::connect(address).await.unwrap();
    assert_eq!(limit(&mut said).await, LimitReached::Listener(2), "those that were there count");
    end(&mut third).await;
    assert_eq!(control.settings().max_connections, Some(2));
}

#[tokio::test]
async fn a_socket_that_somebody_else_has_opened_is_listened_on() {
    let socket = std::net::TcpListener::bind(LOCALHOST).unwrap();
    let address = socket.local_addr().unwrap();
    let early = TcpStream::connect(address).await.unwrap();
    let listener = BoundListener::adopt(socket, plain(), Arc::default()).unwrap();
    assert_eq!(listener.local_addr(), address);
    let again = listener.control().duplicate().unwrap();
    let mut said = run(listener.with_ledger(limited(None, None)));
    let stream = accepted(&mut said).await;
    assert_eq!(stream.peer_addr(), early.local_addr().unwrap(), "who came before waits in its backlog");
    assert_eq!(again.local_addr().unwrap(), address);
}
