//! WebSocket on the driver: against tokio-tungstenite, as server and as client, and against raw bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tcp_transport::tls::HandshakeError;
use tcp_transport::ws::frame::{self, Opcode};
use tcp_transport::ws::{
    Answer, Incoming, Offer, Opened, Request, Role, ServerSettings, Settings, UpgradeError,
};
use tcp_transport::{
    Acceptor, BoundListener, CloseReason, Connector, DriverSettings, Flow, Handle, Ledger, ListenerSettings,
    Protocol, Stream, Target, Transmit, Transport, connection,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server as peer;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

use crate::common::{
    LOCALHOST, Outbox, Pki, client_domain, patiently, pattern, plain_pair, read_up_to, server_domains,
    server_settings,
};

/// Sends every message back while it arrives, in fragments as it came, and tells of the messages and
/// of the end.
pub(crate) struct WsEcho {
    incoming: Incoming,
    role: Role,
    outbox: Outbox,
    begun: bool,
    told: UnboundedSender<Told>,
    message: Vec<u8>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Message(Vec<u8>),
    Closed(CloseReason),
}

impl WsEcho {
    pub(crate) fn new(role: Role, settings: Settings) -> (Self, UnboundedReceiver<Told>) {
        let (told, receiver) = unbounded_channel();
        let incoming = Incoming::new(role, settings, Instant::now());
        let (outbox, message) = (Outbox::default(), Vec::new());
        (Self { incoming, role, outbox, begun: false, told, message }, receiver)
    }

    fn queue_control(&mut self) {
        while let Some(frame) = self.incoming.take_output() {
            self.outbox.push(Bytes::copy_from_slice(frame.as_ref()));
        }
    }
}

impl Protocol for WsEcho {
    fn received(&mut self, buf: &mut BytesMut, now: Instant) -> Flow {
        let Self { incoming, role, outbox, begun, told, message } = self;
        let server = matches!(role, Role::Server);
        let flow = incoming.received(buf, now, |payload| {
            let mut data = payload.buf.split();
            message.extend_from_slice(&data);
            if server {
                let opcode = match (*begun, payload.text) {
                    (true, _) => Opcode::Continuation,
                    (false, true) => Opcode::Text,
                    (false, false) => Opcode::Binary,
                };
                let mut head = BytesMut::new();
                let mask = role.mask();
                frame::header(&mut head, payload.end, opcode, data.len() as u64, mask);
                frame::apply_mask(&mut data, mask.unwrap_or_default(), 0);
                outbox.push(head.freeze());
                if !data.is_empty() {
                    outbox.push(data.freeze());
                }
                *begun = !payload.end;
            }
            if payload.end {
                let _ = told.send(Told::Message(std::mem::take(message)));
            }
            Flow::Read
        });
        self.queue_control();
        flow
    }

    fn transmit(&mut self, stream: &Stream, _now: Instant) -> io::Result<Transmit> {
        self.outbox.transmit(stream)
    }

    fn deadline(&self) -> Option<Instant> {
        self.incoming.deadline()
    }

    fn expired(&mut self, now: Instant) -> Flow {
        let flow = self.incoming.expired(now);
        self.queue_control();
        flow
    }

    fn closing(&mut self, reason: &CloseReason, _now: Instant) {
        self.incoming.closing(reason);
        self.queue_control();
    }

    fn closed(&mut self, reason: &CloseReason, _now: Instant) {
        let _ = self.told.send(Told::Closed(reason.clone()));
    }
}

/// Takes every WebSocket for `/echo`, and echoes.
pub(crate) struct Echoing {
    settings: Settings,
    opened: UnboundedSender<Open>,
}

/// A WebSocket that came up at [`Echoing`].
pub(crate) struct Open {
    pub(crate) opened: Opened,
    pub(crate) handle: Handle,
    pub(crate) told: UnboundedReceiver<Told>,
}

impl Acceptor for Echoing {
    fn accepted(&self, stream: Stream) {
        panic!("not a WebSocket: {stream:?}");
    }

    fn handshake_failed(&self, _peer: SocketAddr, error: HandshakeError) {
        panic!("{error}");
    }

    async fn upgrade<'a>(&'a self, request: &'a Request<'a>, _stream: &'a Stream) -> Answer {
        // It may wait, as for a database.
        tokio::task::yield_now().await;
        match request.path() {
            "/echo" => Answer::accept(request.protocols().find(|protocol| *protocol == "echo")),
            _ => Answer::refuse(403, "not here"),
        }
    }

    fn upgraded(&self, stream: Stream, mut opened: Opened) {
        let rest = std::mem::take(&mut opened.rest);
        let (handle, driver) = connection::open_with(stream, DriverSettings::default(), rest);
        let (protocol, told) = WsEcho::new(Role::Server, self.settings.clone());
        tokio::spawn(driver.run(protocol));
        let _ = self.opened.send(Open { opened, handle, told });
    }

    fn upgrade_failed(&self, _peer: SocketAddr, error: UpgradeError) {
        assert_eq!(error.status(), Some(403), "{error}");
    }
}

fn listen(settings: Settings) -> (SocketAddr, UnboundedReceiver<Open>) {
    let mut listener = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tcp);
    listener.websocket = Some(ServerSettings::default());
    let listener = BoundListener::bind(listener, Arc::default()).unwrap();
    let address = listener.local_addr();
    let (opened, receiver) = unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Echoing { settings, opened })));
    (address, receiver)
}

/// A tungstenite client at our server.
async fn client(settings: Settings) -> (WebSocketStream<TcpStream>, Open) {
    let (address, mut opened) = listen(settings);
    let tcp = TcpStream::connect(address).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async("ws://relay.test/echo?a=b", tcp).await.unwrap();
    (socket, patiently("open", opened.recv()).await.unwrap())
}

async fn receive(socket: &mut WebSocketStream<TcpStream>) -> Message {
    patiently("message", socket.next()).await.unwrap().unwrap()
}

async fn end(told: &mut UnboundedReceiver<Told>) -> CloseReason {
    loop {
        match patiently("end", told.recv()).await.unwrap() {
            Told::Closed(reason) => return reason,
            Told::Message(_) => {}
        }
    }
}

#[tokio::test]
async fn a_client_gets_back_what_it_sends() {
    let (mut socket, open) = client(Settings::default()).await;
    assert_eq!((open.opened.path.as_str(), open.opened.query.as_deref()), ("/echo", Some("a=b")));
    assert_eq!((open.opened.host.as_str(), open.opened.protocol.as_deref()), ("relay.test", None));
    for len in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let message = Message::Binary(pattern(len).into());
        let echo = async {
            let (mut write, mut read) = (&mut socket).split();
            // Both at once: neither side holds a whole message back.
            let (sent, got) = tokio::join!(write.send(message.clone()), read.next());
            sent.unwrap();
            got.unwrap().unwrap()
        };
        assert!(patiently("echo", echo).await == message, "{len}");
    }
    let text = Message::text("grüß dich");
    socket.send(text.clone()).await.unwrap();
    assert_eq!(receive(&mut socket).await, text);
}

#[tokio::test]
async fn fragments_with_pings_between_them_make_a_message() {
    let (mut socket, mut open) = client(Settings::default()).await;
    let part =
        |data: &'static str, opcode, fin| Message::Frame(Frame::message(data, OpCode::Data(opcode), fin));
    socket.send(part("one ", Data::Text, false)).await.unwrap();
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    socket.send(part("", Data::Continue, false)).await.unwrap();
    socket.send(part("two", Data::Continue, true)).await.unwrap();
    // What comes first depends on how the bytes were cut.
    let answers = [receive(&mut socket).await, receive(&mut socket).await];
    assert!(answers.contains(&Message::Pong("are you there".into())), "{answers:?}");
    assert!(answers.contains(&Message::text("one two")), "{answers:?}");
    assert_eq!(patiently("message", open.told.recv()).await, Some(Told::Message(b"one two".into())));
}

#[tokio::test]
async fn either_side_closes_in_order() {
    let (mut socket, mut open) = client(Settings::default()).await;
    let close = Some(tokio_tungstenite::tungstenite::protocol::CloseFrame {
        code: CloseCode::from(3001),
        reason: "done".into(),
    });
    socket.send(Message::Close(close)).await.unwrap();
    let Message::Close(Some(answer)) = receive(&mut socket).await else { panic!("no close") };
    assert_eq!(answer.code, CloseCode::from(3001));
    assert_eq!(end(&mut open.told).await, CloseReason::PeerClosed);

    let (mut socket, mut open) = client(Settings::default()).await;
    open.handle.close(CloseReason::Local("shutdown".into()));
    let Message::Close(Some(close)) = receive(&mut socket).await else { panic!("no close") };
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::Away, "closed locally: shutdown"));
    assert!(patiently("end", socket.next()).await.is_none());
    assert_eq!(end(&mut open.told).await, CloseReason::Local("shutdown".into()));
}

#[tokio::test]
async fn a_message_that_is_too_big_ends_with_1009() {
    for (len, fits) in [(99, true), (100, true), (101, false)] {
        let settings = Settings { max_message: 100, ..Settings::default() };
        let (mut socket, mut open) = client(settings).await;
        socket.send(Message::Binary(pattern(len).into())).await.unwrap();
        match receive(&mut socket).await {
            Message::Close(Some(close)) if !fits => assert_eq!(close.code, CloseCode::Size),
            Message::Binary(data) if fits => assert_eq!(data.len(), len),
            other => panic!("{len}: {other:?}"),
        }
        if !fits {
            assert!(matches!(end(&mut open.told).await, CloseReason::Protocol(_)));
        }
    }
}

const REQUEST: &str = "GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A frame of a client.
fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    let mut out = Vec::new();
    frame::header(&mut out, true, opcode, payload.len() as u64, Some(mask));
    let start = out.len();
    out.extend(payload);
    frame::apply_mask(&mut out[start..], mask, 0);
    out
}

async fn raw(address: SocketAddr) -> Stream {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    Stream::plain(tcp, address).unwrap()
}

#[tokio::test]
async fn how_bytes_are_cut_makes_no_difference() {
    let (address, _open) = listen(Settings::default());
    let wire =
        [REQUEST.as_bytes(), &masked(Opcode::Binary, b"hello"), &masked(Opcode::Close, &[3, 232])].concat();
    for size in [1, 7, wire.len()] {
        let client = raw(address).await;
        for piece in wire.chunks(size) {
            client.write_all(piece).await.unwrap();
        }
        let answer = patiently("answer", read_up_to(&client, usize::MAX)).await;
        let frames = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        // It may come back in fragments; the payload is what counts.
        let mut buf = BytesMut::from(&answer[frames..]);
        let mut message = Vec::new();
        let mut incoming = Incoming::new(Role::CLIENT, Settings::default(), Instant::now());
        let flow = incoming.received(&mut buf, Instant::now(), |payload| {
            message.extend(payload.buf.split());
            Flow::Read
        });
        assert_eq!((message, flow), (b"hello".to_vec(), Flow::Close(CloseReason::PeerClosed)));
    }
}

#[tokio::test]
async fn a_client_that_does_not_mask_is_told_so() {
    let (address, mut opened) = listen(Settings::default());
    let client = raw(address).await;
    client.write_all(&[REQUEST.as_bytes(), b"\x81\x01a"].concat()).await.unwrap();
    let answer = patiently("answer", read_up_to(&client, usize::MAX)).await;
    let close = b"\x03\xeaunmasked frame of a client";
    assert!(answer.ends_with(&[&[0x88, close.len() as u8], &close[..]].concat()), "{answer:?}");
    let mut open = patiently("open", opened.recv()).await.unwrap();
    assert!(matches!(end(&mut open.told).await, CloseReason::Protocol(_)));
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_then_closed() {
    let (interval, timeout) = (Duration::from_millis(10), Duration::from_millis(10));
    let settings = Settings { ping_interval: Some(interval), pong_timeout: timeout, ..Settings::default() };
    let (address, mut opened) = listen(settings);
    let client = raw(address).await;
    client.write_all(REQUEST.as_bytes()).await.unwrap();
    let answer = patiently("answer", read_up_to(&client, usize::MAX)).await;
    assert!(answer.ends_with(b"\r\n\r\n\x89\x00\x88\x13\x03\xe9idle for too long"), "{answer:?}");
    let mut open = patiently("open", opened.recv()).await.unwrap();
    assert_eq!(end(&mut open.told).await, CloseReason::IdleTimeout);
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let settings = Settings { ping_interval: Some(Duration::from_millis(5)), ..Settings::default() };
    let (mut socket, open) = client(settings).await;
    for _ in 0..3 {
        // tungstenite answers it by itself.
        assert_eq!(receive(&mut socket).await, Message::Ping(Bytes::new()));
    }
    assert!(open.handle.is_open());
}

// ---- as a client -------------------------------------------------------------------------------

fn connector() -> Connector {
    Connector::new(Default::default(), |_: SocketAddr, _| true)
}

/// A frame of ours, as a client.
async fn send(stream: &Stream, opcode: Opcode, payload: &[u8]) {
    stream.write_all(&masked(opcode, payload)).await.unwrap();
}

#[tokio::test]
async fn we_are_a_client_of_another_server() {
    let listener = TcpListener::bind(LOCALHOST).await.unwrap();
    let target = Target::websocket("127.0.0.1", Some(listener.local_addr().unwrap().port()), Transport::Tcp);
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
        let choose = |request: &peer::Request, mut response: peer::Response| {
            assert_eq!(request.uri().path(), "/chat");
            assert_eq!(request.headers()["Sec-WebSocket-Protocol"], "sip, msrp");
            response.headers_mut().insert("Sec-WebSocket-Protocol", "msrp".parse().unwrap());
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(tcp, choose).await.unwrap();
        // Sent at once: it may arrive with the answer, and in one read with it.
        socket.send(Message::text("welcome")).await.unwrap();
        socket.send(Message::Ping("you?".into())).await.unwrap();
        let pong = receive(&mut socket).await;
        let question = receive(&mut socket).await;
        socket.send(Message::Binary(pattern(300_000).into())).await.unwrap();
        socket.close(None).await.unwrap();
        let answer = receive(&mut socket).await;
        (pong, question, answer)
    };
    let client = async {
        let offer = Offer { protocols: vec!["sip".into(), "msrp".into()], ..Offer::to(&target, "/chat?x") };
        let (stream, opened) = connector().connect_ws(&target, None, &offer).await.unwrap();
        assert_eq!(opened.protocol.as_deref(), Some("msrp"));
        assert_eq!(stream.entry().scheme(), Some(tcp_transport::Scheme::Ws));
        let (protocol, mut told) = WsEcho::new(Role::CLIENT, Settings::default());
        let (handle, driver) = connection::open_with(stream, DriverSettings::default(), opened.rest);
        let driver = tokio::spawn(driver.run(protocol));
        let first = told.recv().await;
        send(handle.stream(), Opcode::Text, b"question").await;
        let second = told.recv().await;
        (first, second, driver.await.unwrap())
    };
    let ((pong, question, answer), (first, second, reason)) =
        patiently("both", async { tokio::join!(server, client) }).await;
    assert_eq!(pong, Message::Pong("you?".into()));
    assert_eq!(question, Message::text("question"));
    assert!(matches!(answer, Message::Close(_)), "{answer:?}");
    assert_eq!(first, Some(Told::Message(b"welcome".into())));
    assert!(second == Some(Told::Message(pattern(300_000))));
    assert_eq!(reason, CloseReason::PeerClosed);
}

#[tokio::test]
async fn our_client_and_our_server_over_tls() {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["localhost"]);
    let mut settings = ListenerSettings::new(LOCALHOST.parse().unwrap(), Transport::Tls);
    settings.websocket = Some(ServerSettings::default());
    let ledger = Arc::<Ledger>::default();
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    let listener = BoundListener::bind(settings, domains).unwrap().with_ledger(ledger);
    let target = Target::websocket("localhost", Some(listener.local_addr().port()), Transport::Tls);
    let (opened, mut receiver) = unbounded_channel();
    tokio::spawn(listener.run(Arc::new(Echoing { settings: Settings::default(), opened })));

    let domain = client_domain(&ca, None);
    let offer = Offer { protocols: vec!["echo".into()], ..Offer::to(&target, "/echo") };
    let (stream, opened) = connector().connect_ws(&target, Some(&domain), &offer).await.unwrap();
    assert_eq!(opened.protocol.as_deref(), Some("echo"));
    let open = patiently("open", receiver.recv()).await.unwrap();
    assert_eq!(open.handle.entry().scheme(), Some(tcp_transport::Scheme::Wss));
    assert_eq!(open.opened.host, format!("localhost:{}", target.port));
    let data = pattern(200_000);
    let frame = masked(Opcode::Binary, &data);
    let mut incoming = Incoming::new(Role::CLIENT, Settings::default(), Instant::now());
    let mut buf = opened.rest;
    let echo = async {
        let (mut message, mut whole) = (Vec::new(), false);
        while !whole {
            stream.read(&mut buf, 65_536).await.unwrap();
            incoming.received(&mut buf, Instant::now(), |payload| {
                message.extend(payload.buf.split());
                whole = payload.end;
                Flow::Read
            });
        }
        message
    };
    let (sent, message) = patiently("echo", async { tokio::join!(stream.write_all(&frame), echo) }).await;
    sent.unwrap();
    assert!(message == data);
    incoming.closing(&CloseReason::Local("done".into()));
    stream.write_all(incoming.take_output().unwrap().as_ref()).await.unwrap();
    let answer = async {
        loop {
            stream.read(&mut buf, 65_536).await.unwrap();
            if let Flow::Close(reason) = incoming.received(&mut buf, Instant::now(), |_| Flow::Read) {
                return reason;
            }
        }
    };
    assert_eq!(patiently("answer", answer).await, CloseReason::PeerClosed);
    let mut open = open;
    assert_eq!(end(&mut open.told).await, CloseReason::PeerClosed);
}

// ---- the driver --------------------------------------------------------------------------------

/// Notes the calls at the end.
struct Ending(UnboundedSender<&'static str>);

impl Protocol for Ending {
    fn received(&mut self, buf: &mut BytesMut, _now: Instant) -> Flow {
        buf.clear();
        Flow::Read
    }

    fn transmit(&mut self, _stream: &Stream, _now: Instant) -> io::Result<Transmit> {
        let _ = self.0.send("transmit");
        Ok(Transmit::Idle)
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn expired(&mut self, _now: Instant) -> Flow {
        Flow::Read
    }

    fn closing(&mut self, _reason: &CloseReason, _now: Instant) {
        let _ = self.0.send("closing");
    }

    fn closed(&mut self, _reason: &CloseReason, _now: Instant) {
        let _ = self.0.send("closed");
    }
}

#[tokio::test]
async fn a_protocol_has_its_last_words_where_they_can_be_heard() {
    for (reason, expected) in [
        (CloseReason::Local("shutdown".into()), &["transmit", "closing", "transmit", "closed"][..]),
        (CloseReason::Reset, &["transmit", "closed"]),
        (CloseReason::SendTimeout, &["transmit", "closed"]),
    ] {
        let (server, client) = plain_pair().await;
        let (calls, mut receiver) = unbounded_channel();
        let (handle, driver) = connection::open(server, DriverSettings::default());
        let driver = tokio::spawn(driver.run(Ending(calls)));
        let mut seen = vec![patiently("first turn", receiver.recv()).await.unwrap()];
        handle.close(reason);
        drop(client);
        patiently("end", driver).await.unwrap();
        while let Some(call) = receiver.recv().await {
            seen.push(call);
        }
        // How often it may write is the driver's business.
        seen.dedup();
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn what_was_read_before_comes_first() {
    let (server, client) = plain_pair().await;
    let rest = BytesMut::from(&masked(Opcode::Text, b"first")[..]);
    let (protocol, mut told) = WsEcho::new(Role::Server, Settings::default());
    let (_handle, driver) = connection::open_with(server, DriverSettings::default(), rest);
    tokio::spawn(driver.run(protocol));
    assert_eq!(patiently("first", told.recv()).await, Some(Told::Message(b"first".into())));
    client.write_all(&masked(Opcode::Text, b"second")).await.unwrap();
    assert_eq!(patiently("second", told.recv()).await, Some(Told::Message(b"second".into())));
}
