//! The opening handshake at a listener and from a connector: refusals, limits, challenges.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tcp_transport::connector::AttemptError;
use tcp_transport::tls::HandshakeError;
use tcp_transport::ws::handshake::{MAX_REQUESTS, RequestError};
use tcp_transport::ws::{Answer, HeadLimits, Headers, Offer, Opened, Request, ServerSettings, UpgradeError};
use tcp_transport::{
    Acceptor, BoundListener, ConnectError, ConnectSettings, ConnectionLimits, Connector, Events, Ledger,
    ListenerSettings, Reporting, Scheme, Stream, Target, Transport,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::common::{LOCALHOST, patiently, read_up_to};

#[expect(clippy::large_enum_variant, reason = "one for each test")]
enum Told {
    Opened(Stream, Opened),
    Failed(UpgradeError),
}

/// Asks for a password on `/private`, takes `/public`, never answers on `/slow`.
struct Door(UnboundedSender<Told>);

impl Acceptor for Door {
    fn accepted(&self, stream: Stream) {
        panic!("not a WebSocket: {stream:?}");
    }

    fn handshake_failed(&self, _peer: SocketAddr, error: HandshakeError) {
        panic!("{error}");
    }

    async fn upgrade<'a>(&'a self, request: &'a Request<'a>, stream: &'a Stream) -> Answer {
        assert_eq!(stream.entry().scheme(), Some(Scheme::Ws));
        match (request.path(), request.header("authorization")) {
            ("/public", _) => Answer::accept(None),
            ("/private", Some("Basic right")) => {
                Answer::Accept { protocol: None, headers: Headers::new(), principal: Some("alice".into()) }
            }
            ("/private", _) => Answer::Refuse {
                status: 401,
                headers: Headers::new().with("WWW-Authenticate", "Basic realm=\"a\"").unwrap(),
                body: "who are you?".into(),
            },
            ("/slow", _) => std::future::pending().await,
            ("/wrong", _) => Answer::accept(Some("never offered")),
            _ => Answer::refuse(404, "no such thing\n"),
        }
    }

    fn upgraded(&self, stream: Stream, opened: Opened) {
        let _ = self.0.send(Told::Opened(stream, opened));
    }

    fn upgrade_failed(&self, _peer: SocketAddr, error: UpgradeError) {
        let _ = self.0.send(Told::Failed(error));
    }
}

/// One that says nothing of WebSockets.
struct Nobody;

impl Acceptor for Nobody {
    fn accepted(&self, _stream: Stream) {}

    fn handshake_failed(&self, _peer: SocketAddr, _error: HandshakeError) {}
}

fn listen_with<A: Acceptor>(settings: ServerSettings, ledger: &Arc<Ledger>, acceptor: A) -> SocketAddr {
    let mut listener = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp);
    listener.websocket = Some(settings);
    let listener = BoundListener::bind(listener, Arc::default()).unwrap().with_ledger(ledger.clone());
    let address = listener.local_addr();
    tokio::spawn(listener.run(Arc::new(acceptor)));
    address
}

fn listen(settings: ServerSettings) -> (SocketAddr, UnboundedReceiver<Told>) {
    let (told, receiver) = unbounded_channel();
    (listen_with(settings, &Arc::default(), Door(told)), receiver)
}

async fn connect(address: SocketAddr) -> Stream {
    Stream::plain(TcpStream::connect(address).await.unwrap(), address).unwrap()
}

fn request(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{fields}\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

async fn failed(told: &mut UnboundedReceiver<Told>) -> UpgradeError {
    match patiently("failure", told.recv()).await.unwrap() {
        Told::Failed(error) => error,
        Told::Opened(_, opened) => panic!("{opened:?}"),
    }
}

/// Everything the server says to `bytes` until it closes.
async fn answer(address: SocketAddr, bytes: &[u8]) -> String {
    let client = connect(address).await;
    client.write_all(bytes).await.unwrap();
    let answer = patiently("answer and end", read_up_to(&client, usize::MAX)).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_challenge_is_answered_on_the_same_connection() {
    let (address, mut told) = listen(ServerSettings::default());
    let client = connect(address).await;
    let mut seen = BytesMut::new();
    for fields in ["", "Authorization: Basic wrong\r\n"] {
        client.write_all(request("/private", fields).as_bytes()).await.unwrap();
        while !seen.ends_with(b"who are you?") {
            patiently("challenge", client.read(&mut seen, 4096)).await.unwrap();
        }
        let text = String::from_utf8(seen.split().to_vec()).unwrap();
        assert!(text.starts_with("HTTP/1.1 401 ") && text.contains("Connection: keep-alive\r\n"), "{text}");
        assert!(text.contains("WWW-Authenticate: Basic realm=\"a\"\r\n"));
    }
    let last = request("/private", "Authorization: Basic right\r\n") + "more";
    client.write_all(last.as_bytes()).await.unwrap();
    let Some(Told::Opened(_stream, opened)) = patiently("open", told.recv()).await else { panic!("refused") };
    assert_eq!((opened.principal.as_deref(), opened.path.as_str()), (Some("alice"), "/private"));
    assert_eq!(&opened.rest[..], b"more");
}

#[tokio::test]
async fn a_connection_may_ask_so_often() {
    let (address, mut told) = listen(ServerSettings::default());
    let wrong = request("/private", "");
    // All in one go: each is answered, and none of them twice.
    let text = answer(address, wrong.repeat(MAX_REQUESTS + 1).as_bytes()).await;
    assert_eq!(text.matches("HTTP/1.1 401 ").count(), MAX_REQUESTS);
    assert_eq!(text.matches("Connection: close\r\n").count(), 1);
    assert_eq!(failed(&mut told).await.status(), Some(401));
    // The last one may still be right.
    let right = request("/private", "Authorization: Basic right\r\n");
    let client = connect(address).await;
    client.write_all((wrong.repeat(MAX_REQUESTS - 1) + &right).as_bytes()).await.unwrap();
    assert!(matches!(patiently("open", told.recv()).await, Some(Told::Opened(..))));
}

#[tokio::test]
async fn refusals_are_answered_and_the_connection_ends() {
    let settings =
        ServerSettings { head: HeadLimits { max_bytes: 300, max_headers: 7 }, ..Default::default() };
    let (address, mut told) = listen(settings);
    for (text, status) in [
        (request("/nowhere", ""), 404),
        (request("/wrong", ""), 500),
        (request("/public", "").replace("GET", "PUT"), 405),
        (request("/public", "").replace("Upgrade: websocket\r\n", ""), 426),
        (request("/public", "").replace("Host: a\r\n", ""), 400),
        (request("/public", "A b\r\n"), 400),
        (request("/public", &format!("A: {}\r\n", "b".repeat(300))), 431),
        (request("/public", &"A: b\r\n".repeat(3)), 431),
    ] {
        let answer = answer(address, text.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("close\r\n"), "{answer}");
        assert_eq!(failed(&mut told).await.status(), Some(status));
    }
    // At the limit of fields.
    let client = connect(address).await;
    client.write_all(request("/public", &"A: b\r\n".repeat(2)).as_bytes()).await.unwrap();
    assert!(matches!(patiently("open", told.recv()).await, Some(Told::Opened(..))));
}

#[tokio::test]
async fn what_is_not_http_gets_no_answer() {
    let (address, mut told) = listen(ServerSettings::default());
    assert_eq!(answer(address, b"MSRP a786hjs2 SEND\r\n").await, "");
    let error = failed(&mut told).await;
    assert!(matches!(error, UpgradeError::Request(RequestError::NotHttp(_))), "{error}");
    drop(connect(address).await);
    assert!(matches!(failed(&mut told).await, UpgradeError::Closed));
}

#[tokio::test]
async fn an_acceptor_that_knows_no_websocket_refuses() {
    let address = listen_with(ServerSettings::default(), &Arc::default(), Nobody);
    assert!(answer(address, request("/", "").as_bytes()).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_slow_handshake_ends_and_keeps_nobody_waiting() {
    let ledger = Ledger::new(ConnectionLimits::default(), Events::new(100, Reporting::All));
    let mut events = ledger.events().subscribe();
    let limit = Duration::from_millis(50);
    let (told, mut receiver) = unbounded_channel();
    let settings = ServerSettings { handshake_timeout: limit, ..Default::default() };
    let address = listen_with(settings, &ledger, Door(told));
    // One that sends half a head, and one whose password nobody finds.
    for text in [&request("/public", "")[..50], &request("/slow", "")] {
        assert_eq!(answer(address, text.as_bytes()).await, "");
        let error = failed(&mut receiver).await;
        assert!(matches!(error, UpgradeError::Timeout(after) if after == limit), "{error}");
        let event = patiently("event", events.next()).await.unwrap();
        assert_eq!((event.kind.name(), event.scheme), ("tcp:timeout", Some(Scheme::Ws)));
    }

    let (address, mut told) = listen(ServerSettings::default());
    let slow = connect(address).await;
    slow.write_all(b"GET ").await.unwrap();
    let quick = connect(address).await;
    quick.write_all(request("/public", "").as_bytes()).await.unwrap();
    assert!(matches!(patiently("open", told.recv()).await, Some(Told::Opened(..))));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_its_time_and_no_more() {
    let limit = Duration::from_secs(7);
    let tick = Duration::from_millis(2);
    for (after, opens) in [(limit - tick, true), (limit + tick, false)] {
        let (address, mut told) = listen(ServerSettings { handshake_timeout: limit, ..Default::default() });
        let client = connect(address).await;
        let text = request("/public", "");
        client.write_all(&text.as_bytes()[..50]).await.unwrap();
        tokio::time::sleep(after).await;
        // It fails once the connection is closed.
        let _ = client.write_all(&text.as_bytes()[50..]).await;
        match told.recv().await {
            Some(Told::Opened(..)) => assert!(opens, "{after:?}"),
            Some(Told::Failed(UpgradeError::Timeout(time))) => assert_eq!((opens, time), (false, limit)),
            _ => panic!("{after:?}"),
        }
    }
}

#[tokio::test]
async fn events_tell_of_websockets_that_came_up_and_that_did_not() {
    let ledger = Ledger::new(ConnectionLimits::default(), Events::new(100, Reporting::All));
    let mut events = ledger.events().subscribe();
    let (told, mut receiver) = unbounded_channel();
    let address = listen_with(ServerSettings::default(), &ledger, Door(told));
    let _ = answer(address, request("/nowhere", "").as_bytes()).await;
    let event = patiently("event", events.next()).await.unwrap();
    assert_eq!((event.kind.name(), event.scheme), ("tcp:failed", Some(Scheme::Ws)));
    let ending = event.kind.ending().unwrap();
    assert_eq!(&*ending.reason, "refused with status 404");
    assert!(ending.bytes_in > 100 && ending.bytes_out > 100);
    let client = connect(address).await;
    client.write_all(request("/public", "").as_bytes()).await.unwrap();
    let Some(Told::Failed(_)) = receiver.recv().await else { panic!("accepted") };
    let Some(Told::Opened(stream, _)) = patiently("open", receiver.recv()).await else { panic!("refused") };
    let event = patiently("event", events.next()).await.unwrap();
    assert_eq!((event.kind.name(), event.id), ("tcp:accepted", stream.entry().id()));
}

// ---- as a client -------------------------------------------------------------------------------

fn target(address: SocketAddr) -> Target {
    Target::websocket(address.ip().to_string(), Some(address.port()), Transport::Tcp)
}

fn attempt(error: ConnectError) -> UpgradeError {
    let ConnectError::Failed { mut attempts, .. } = error else { panic!("{error}") };
    match attempts.pop().unwrap().error {
        AttemptError::WebSocket(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_client_learns_why_there_is_no_websocket() {
    let ledger = Ledger::new(ConnectionLimits::default(), Events::new(100, Reporting::All));
    let mut events = ledger.events().subscribe();
    let (address, _told) = listen(ServerSettings::default());
    let limit = Duration::from_millis(50);
    let settings = ConnectSettings { ws_handshake_timeout: limit, ..ConnectSettings::default() };
    let connector = Connector::new(settings, |_: SocketAddr, _| true).with_ledger(ledger.clone());
    let target = target(address);
    let ask = async |path: &str| connector.connect_ws(&target, None, &Offer::to(&target, path)).await;

    let error = attempt(ask("/nowhere").await.unwrap_err());
    assert_eq!(
        (error.status(), error.to_string().as_str()),
        (Some(404), "the server answered 404 Not Found")
    );
    assert!(
        matches!(attempt(ask("/slow").await.unwrap_err()), UpgradeError::Timeout(after) if after == limit)
    );
    assert!(matches!(attempt(ask("no path").await.unwrap_err()), UpgradeError::Offer(_)));
    let (stream, opened) = ask("/public").await.unwrap();
    assert_eq!((opened.path.as_str(), opened.host.as_str()), ("/public", &*address.to_string()));
    assert_eq!(stream.entry().scheme(), Some(Scheme::Ws));
    let mut names = Vec::new();
    while let Some(event) = events.try_next() {
        names.push(event.kind.name());
    }
    let expected = ["failed", "timeout", "failed", "connected"];
    let expected: Vec<_> =
        expected.iter().flat_map(|end| ["tcp:connecting".to_owned(), format!("tcp:{end}")]).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_server_that_closes_opens_nothing() {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let target = target(listener.local_addr().unwrap());
    let server = async { drop(listener.accept().await.unwrap()) };
    let connector = Connector::new(Default::default(), |_: SocketAddr, _| true);
    let offer = Offer::to(&target, "/");
    let (_, result) = tokio::join!(server, connector.connect_ws(&target, None, &offer));
    let error = attempt(result.unwrap_err());
    assert!(matches!(error, UpgradeError::Closed | UpgradeError::Io(_)), "{error}");
}

#[test]
fn default_ports_are_left_out() {
    for (host, port, transport, expected) in [
        ("relay.test", None, Transport::Tcp, ("relay.test", 80)),
        ("relay.test", None, Transport::Tls, ("relay.test", 443)),
        ("relay.test", Some(443), Transport::Tls, ("relay.test", 443)),
        ("relay.test", Some(443), Transport::Tcp, ("relay.test:443", 443)),
        ("::1", None, Transport::Tcp, ("[::1]", 80)),
        ("[::1]", Some(81), Transport::Tcp, ("[::1]:81", 81)),
    ] {
        let target = Target::websocket(host, port, transport);
        assert_eq!((target.websocket_host().as_str(), target.port), expected);
    }
}
