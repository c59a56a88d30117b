//! Browsers: the handshake, what may stand in a WebSocket message, keep-alive and the end (RFC 6455, RFC 7977).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use futures_util::{SinkExt as _, StreamExt as _};
use msrp_proto::digest::{Answer, Authorization, Challenge, Secret};
use rustix::process::Signal;
use tests::{
    Client, Daemon, Neighbours, Scheme, Send, Settings, Site, Stream, WebSocket, tls_config, tls_handshake,
    within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const SUBPROTOCOL: (&str, &str) = ("Sec-WebSocket-Protocol", "msrp");

fn settings(websocket: &str) -> Settings {
    let any_port = || Some("127.0.0.1:0".to_owned());
    Settings { ws: any_port(), wss: any_port(), websocket: websocket.into(), ..Settings::default() }
}

async fn socket(daemon: &Daemon, scheme: Scheme) -> TcpStream {
    within("a connection", TcpStream::connect(daemon.address(scheme))).await.unwrap()
}

/// A WebSocket without TLS, or the status of the refusal.
async fn open(daemon: &Daemon, target: &str, headers: &[(&str, &str)]) -> Result<WebSocket, u16> {
    let stream = Stream::Plain(socket(daemon, Scheme::Ws).await);
    let url = daemon.websocket_url(Scheme::Ws).replace("/msrp", target);
    match within("a handshake", WebSocket::open(stream, &url, headers)).await {
        Ok((websocket, _)) => Ok(websocket),
        Err(error) => match *error {
            Error::Http(response) => Err(response.status().as_u16()),
            error => panic!("{error}"),
        },
    }
}

fn client(daemon: &Daemon, websocket: WebSocket) -> Client {
    let stream = Stream::WebSocket(Box::new(websocket));
    Client::over(stream, "msrp://page.invalid:2855/s;ws", &daemon.uri(Scheme::Ws))
}

/// The code of the Close frame that the relay sends, after whatever else it sends.
async fn close_code(websocket: &mut WebSocket) -> Option<u16> {
    let close = async {
        while let Some(message) = websocket.library().next().await {
            match message {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(error) => panic!("{error} instead of a Close"),
            }
        }
        panic!("the end without a Close");
    };
    within("a Close", close).await
}

#[tokio::test]
async fn the_handshake_is_for_one_path_and_one_subprotocol() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("")).await;
    assert!(open(&daemon, "/msrp", &[SUBPROTOCOL]).await.is_ok());
    assert_eq!(open(&daemon, "/", &[SUBPROTOCOL]).await.err(), Some(404));
    assert_eq!(open(&daemon, "/msrp", &[("Sec-WebSocket-Protocol", "sip")]).await.err(), Some(400));
    daemon.log().wait_for(&["WebSocket refused", "an unknown path", "path=\"/\""]).await;
}

#[tokio::test]
async fn origins_and_hosts_are_those_configured() {
    let site = Site::new();
    let policy = "require_origin: true, allow_origins: 'https://chat.test', allow_hosts: relay.test";
    let daemon = Daemon::start(RELAY, &site, &settings(policy)).await;
    let origin = |origin| [SUBPROTOCOL, ("Origin", origin)];
    assert!(open(&daemon, "/msrp", &origin("https://chat.test")).await.is_ok());
    assert_eq!(open(&daemon, "/msrp", &origin("https://evil.test")).await.err(), Some(403));
    assert_eq!(open(&daemon, "/msrp", &[SUBPROTOCOL]).await.err(), Some(403));
    daemon.log().wait_for(&["WebSocket refused", "https://evil.test"]).await;

    let stream = Stream::Plain(socket(&daemon, Scheme::Ws).await);
    let url = "ws://other.test/msrp";
    let refused = within("a handshake", WebSocket::open(stream, url, &origin("https://chat.test"))).await;
    let Error::Http(response) = *refused.err().unwrap() else { panic!("an answer") };
    assert_eq!(response.status().as_u16(), 421);
}

/// What is answered to these bytes, to the end of the connection.
async fn answered(daemon: &Daemon, request: &str) -> String {
    let mut socket = socket(daemon, Scheme::Ws).await;
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer and the end", socket.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_plain_request_gets_a_useful_answer() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("handshake_size: 1KiB")).await;
    let answer = answered(&daemon, "GET /msrp HTTP/1.1\r\nHost: relay.test\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
    assert!(
        answer.contains("\r\nUpgrade: websocket\r\n") && answer.contains("WebSocket (RFC 6455)"),
        "{answer}"
    );
    daemon.log().wait_for(&["INFO", "no WebSocket handshake", "status=426"]).await;
    let long = format!("GET /msrp HTTP/1.1\r\nHost: relay.test\r\nCookie: {}\r\n\r\n", "c".repeat(1000));
    assert!(answered(&daemon, &long).await.starts_with("HTTP/1.1 431 "));
    let msrp = answered(&daemon, "MSRP 1234 AUTH\r\nTo-Path: msrp://relay.test;tcp\r\n").await;
    assert_eq!(msrp, "", "that is no HTTP");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("handshake_timeout: 300ms")).await;
    answered(&daemon, "GET /msrp HTTP/1.1\r\nHost: relay.test\r\n").await;
    daemon.log().wait_for(&["WebSocket handshake failed", "no WebSocket within 300ms"]).await;
}

const AUTH: &str = "MSRP a123 AUTH\r\nTo-Path: msrp://relay.test;ws\r\n\
                    From-Path: msrp://page.invalid:2855/s;ws\r\n-------a123$\r\n";

#[tokio::test]
async fn a_websocket_message_is_one_msrp_message() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("")).await;
    let two = AUTH.repeat(2);
    for (what, text) in [
        ("half a message", &AUTH[..40]),
        ("two messages", &two),
        ("one and a half", &two[..AUTH.len() + 9]),
        ("nothing", ""),
    ] {
        let mut websocket = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
        websocket.library().send(Message::text(text)).await.unwrap();
        assert_eq!(close_code(&mut websocket).await, Some(1002), "{what}");
    }
    // Text or binary, in one frame or in many.
    for message in [Message::text(AUTH), Message::binary(AUTH)] {
        let mut websocket = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
        websocket.library().send(message).await.unwrap();
        let answer = within("an answer", websocket.library().next()).await.unwrap().unwrap();
        let Message::Binary(answer) = answer else { panic!("{answer:?}") };
        assert!(answer.starts_with(b"MSRP a123 401 "), "{answer:?}");
    }
}

#[tokio::test]
async fn messages_and_frames_have_their_limits() {
    let site = Site::new();
    let limits = "max_message_size: 2048B, max_frame_size: 1024B, handshake_size: 1KiB";
    let daemon = Daemon::start(RELAY, &site, &settings(limits)).await;
    // An MSRP message of that length, in frames that are all full but the last.
    let frames = |len: usize, frame: usize| {
        let text = AUTH.replacen("\r\n-", "\r\nPad: {}\r\n-", 1);
        let text = text.replace("{}", &"p".repeat(len + 2 - text.len()));
        let count = text.len().div_ceil(frame);
        let opcode = |at| OpCode::Data(if at == 0 { Data::Binary } else { Data::Continue });
        let parts = text.as_bytes().chunks(frame).enumerate();
        parts.map(|(at, part)| Frame::message(part.to_vec(), opcode(at), at + 1 == count)).collect::<Vec<_>>()
    };
    for (len, frame, refused) in [
        (1023, 1023, None),
        (1024, 1024, None),
        (1025, 1025, Some("frame too big")),
        (2047, 1024, None),
        (2048, 1024, None),
        (2049, 1024, Some("message too big")),
    ] {
        let mut websocket = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
        for part in frames(len, frame) {
            websocket.library().send(Message::Frame(part)).await.unwrap();
        }
        if let Some(reason) = refused {
            assert_eq!(close_code(&mut websocket).await, Some(1009), "{len}");
            daemon.log().wait_for(&["connection closed", reason]).await;
            continue;
        }
        let answer = within("an answer", websocket.library().next()).await.unwrap().unwrap();
        assert!(answer.into_data().starts_with(b"MSRP a123 401 "), "{len}");
    }
    for (len, status) in [(1023, "101"), (1024, "101"), (1025, "431")] {
        let text = "GET /msrp HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Protocol: msrp\r\nPad: {}\r\n\r\n";
        let mut socket = socket(&daemon, Scheme::Ws).await;
        socket.write_all(text.replace("{}", &"p".repeat(len + 2 - text.len())).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        within("an answer", socket.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer[9..], *status.as_bytes(), "{len}");
    }
}

#[tokio::test]
async fn large_chunks_for_a_browser_are_split_at_chunk_size() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("chunk_size: 2KiB")).await;
    let (mut alice, from) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    let (mut bob, to) = Client::with_session(&daemon, &site, Scheme::Ws, "bob").await;
    for (len, fragments) in [(2047, vec![2047]), (2048, vec![2048]), (2049, vec![2048, 1])] {
        alice.tx.send(&Send::text(&from.to(&to), &format!("m{len}"), &"x".repeat(len))).await;
        for expected in fragments {
            let got = bob.rx.next().await;
            assert_eq!(got.body.len(), expected, "{len}");
            bob.tx.respond(&got, 200).await;
        }
    }
}

#[tokio::test]
async fn a_message_in_more_reads_than_max_msg_chunks_is_closed() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("max_msg_chunks: 2")).await;
    let mut neighbours = Neighbours::join(&daemon, &site).await;
    let websocket = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
    let mut client = client(&daemon, websocket);
    client.auth("alice", "alicepw").await;
    let Stream::WebSocket(mut websocket) = client.into_stream() else { panic!("a WebSocket") };
    // A masked frame, byte by byte. Some of them may be read together, but not all: between two of them
    // somebody else's message has passed through the relay.
    let Stream::Plain(socket) = websocket.library().get_mut() else { panic!("plain") };
    socket.set_nodelay(true).unwrap();
    socket.write_all(&[0x82, 0x80 | 100, 0, 0, 0, 0]).await.unwrap();
    for byte in AUTH.as_bytes() {
        if socket.write_all(&[*byte]).await.is_err() {
            break;
        }
        neighbours.chat().await;
    }
    daemon.log().wait_for(&["connection closed", "message in too many pieces"]).await;
}

#[tokio::test]
async fn a_ping_is_answered_and_a_silent_browser_is_asked() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("ping_interval: 200ms, pong_timeout: 300ms")).await;
    let mut websocket = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
    websocket.library().send(Message::Ping("are you there".into())).await.unwrap();
    let pong = within("a pong", websocket.library().next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("are you there".into()));
    // The library answers pings when it is asked to read, and only then.
    for _ in 0..3 {
        let ping = within("a ping", websocket.library().next()).await.unwrap().unwrap();
        assert_eq!(ping, Message::Ping(Bytes::new()));
    }
    daemon.log().wait_for(&["connection closed", "idle for too long"]).await;
    // The last ping and the Close are there to read.
    assert_eq!(close_code(&mut websocket).await, Some(1001));
}

#[tokio::test]
async fn pings_give_no_more_time_for_a_message() {
    let site = Site::new();
    let timeouts = "head_timeout: 300ms, progress_timeout: 300ms".into();
    let daemon = Daemon::start(RELAY, &site, &Settings { timeouts, ..settings("") }).await;
    let head = format!(
        "MSRP a123 SEND\r\nTo-Path: {}\r\nFrom-Path: msrp://p.invalid:1/s;ws\r\nMessage-ID: 1\r\n\
         Byte-Range: 1-9/9\r\nContent-Type: text/plain\r\n\r\nabc",
        daemon.uri(Scheme::Msrp).replace(";tcp", "/x;tcp")
    );
    for (begun, reason) in [(&head[..30], "head_timeout"), (&head, "min_progress")] {
        let mut websocket = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
        let begun = Frame::message(begun.to_owned(), OpCode::Data(Data::Binary), false);
        websocket.library().send(Message::Frame(begun)).await.unwrap();
        let pings = async {
            loop {
                // It fails once the relay has closed.
                let _ = websocket.library().send(Message::Ping(Bytes::from_static(&[b'p'; 125]))).await;
                match websocket.library().next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| u16::from(frame.code)),
                    Some(Ok(_)) => {}
                    end => panic!("{end:?} instead of a Close"),
                }
            }
        };
        assert_eq!(within("a Close", pings).await, Some(1008));
        daemon.log().wait_for(&["connection closed", reason]).await;
    }
}

#[tokio::test]
async fn the_close_handshake_works_both_ways() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &settings("")).await;
    let mut websocket = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
    let frame = CloseFrame { code: 4000.into(), reason: "bye".into() };
    websocket.library().close(Some(frame)).await.unwrap();
    assert_eq!(close_code(&mut websocket).await, Some(4000));
    daemon.log().wait_for(&["connection closed", "closed by the peer"]).await;

    let mut stays = open(&daemon, "/msrp", &[SUBPROTOCOL]).await.unwrap();
    daemon.signal(Signal::TERM);
    assert_eq!(close_code(&mut stays).await, Some(1001), "the relay goes away");
    drop(stays);
    assert!(daemon.exit().await.success());
}

#[tokio::test]
async fn use_path_names_a_listener_that_others_can_reach() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("")).await;
    let tls = daemon.address(Scheme::Msrps).port();
    for scheme in [Scheme::Wss, Scheme::Ws] {
        let (client, session) = Client::with_session(&daemon, &site, scheme, "alice").await;
        let own = &session.use_path[0];
        assert!(own.starts_with(&format!("msrps://relay.test:{tls}/")) && own.ends_with(";tcp"), "{own}");
        client.close().await;
    }
    let plain = Settings { tls: None, wss: None, ..settings("") };
    let daemon = Daemon::start(RELAY, &site, &plain).await;
    let port = daemon.address(Scheme::Msrp).port();
    let (_client, session) = Client::with_session(&daemon, &site, Scheme::Ws, "alice").await;
    assert!(session.use_path[0].starts_with(&format!("msrp://relay.test:{port}/")), "{session:?}");
}

#[tokio::test]
async fn auth_over_ws_is_over_plain_tcp_and_over_wss_is_secure() {
    let site = Site::new();
    let strict = Settings { auth: String::new(), ..settings("") };
    let daemon = Daemon::start(RELAY, &site, &strict).await;
    let mut plain = Client::connect(&daemon, &site, Scheme::Ws).await;
    let to = [plain.relay_uri().to_owned()];
    assert_eq!(plain.request("AUTH", &to, "").await.status(), 403);
    Client::with_session(&daemon, &site, Scheme::Wss, "alice").await;
}

#[tokio::test]
async fn behind_a_proxy_that_ends_tls_a_plain_listener_is_msrps() {
    let site = Site::new();
    let to = ["msrps://relay.test:443;ws".to_owned()];
    let behind = async |more: &str| {
        let listener = format!("127.0.0.1:0, behind_tls: true, advertise: 'relay.test:443'{more}");
        let settings = Settings { ws: Some(listener), auth: String::new(), ..settings("") };
        Daemon::start(RELAY, &site, &settings).await
    };
    let page = async |daemon: &Daemon, header: &str| {
        let mut socket = socket(daemon, Scheme::Ws).await;
        socket.write_all(header.as_bytes()).await.unwrap();
        let stream = Stream::Plain(socket);
        let opened = WebSocket::open(stream, "ws://relay.test/msrp", &[SUBPROTOCOL]);
        let stream = Stream::WebSocket(Box::new(within("a handshake", opened).await.unwrap().0));
        Client::over(stream, "msrps://page.invalid:2855/s;ws", &to[0])
    };
    let daemon = behind("").await;
    let mut alice = page(&daemon, "").await;
    let session = alice.auth("alice", "alicepw").await;
    assert!(session.use_path[0].starts_with("msrps://relay.test:"), "{session:?}");
    // By the scheme of the socket alone nobody is reached there.
    let mut plain = page(&daemon, "").await;
    plain.tx.raw(b"MSRP a123 SEND\r\nTo-Path: msrp://relay.test:443/x;ws\r\nFrom-Path: msrp://p.invalid:1/s;ws\r\nMessage-ID: 1\r\n-------a123$\r\n").await;
    daemon.log().wait_for(&["connection closed", "which is not this relay"]).await;

    // Who goes around the proxy has not come by TLS.
    let around = behind(", proxy_from: 192.0.2.1").await;
    assert_eq!(page(&around, "").await.request("AUTH", &to, "").await.status(), 403);
    let through = behind(", proxy_from: 127.0.0.1").await;
    let header = "PROXY TCP4 203.0.113.9 192.0.2.7 40000 443\r\n";
    assert_eq!(page(&through, header).await.request("AUTH", &to, "").await.status(), 401);
}

#[tokio::test]
async fn a_token_in_the_handshake_saves_the_challenge() {
    let site = Site::new();
    let token = "auth: { token: { secret: '0123456789abcdef0123456789abcdef', cookie: t, query: t } }";
    let daemon = Daemon::start(RELAY, &site, &settings(token)).await;
    // HS256 over {"sub":"alice","exp":4102444800} with that secret; the end is in the year 2100.
    let alice = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.\
                 UwANaTMXAKSHt8g5xDKvpGjOTg_c_DY4S5Gn5hmF3Gs";
    let cookie = format!("t={alice}");
    let old_cookie = format!("t={alice}x");
    for (target, headers) in [
        (format!("/msrp?t={alice}"), vec![SUBPROTOCOL]),
        ("/msrp".to_owned(), vec![SUBPROTOCOL, ("Cookie", &cookie)]),
        (format!("/msrp?t={alice}"), vec![SUBPROTOCOL, ("Cookie", &old_cookie)]),
    ] {
        let mut page = client(&daemon, open(&daemon, &target, &headers).await.unwrap());
        let to = [page.relay_uri().to_owned()];
        let granted = page.request("AUTH", &to, "").await;
        assert_eq!(granted.status(), 200, "{granted:?}");
        let session = page.session(&granted);
        daemon.log().wait_for(&["session granted", "user=\"alice\"", &session.use_path[0]]).await;
    }
    // For a failure an address is banned: it is none where the other token is good.
    assert_eq!(daemon.log().with(&["AUTH failed"]), [""; 0]);
    // One that proves nothing is challenged as ever, and its right credentials count.
    let mut forged =
        client(&daemon, open(&daemon, &format!("/msrp?t={alice}x"), &[SUBPROTOCOL]).await.unwrap());
    daemon.log().wait_for(&["AUTH failed", "token"]).await;
    forged.auth("bob", "bobpw").await;
    let leaked = daemon.log().with(&["eyJ"]);
    assert!(leaked.is_empty(), "a token is in the log: {leaked:?}");
}

#[tokio::test]
async fn digest_in_the_handshake_saves_the_challenge() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &settings("auth: { digest: true }")).await;
    let stream = Stream::Plain(socket(&daemon, Scheme::Ws).await);
    let url = daemon.websocket_url(Scheme::Ws);
    let refused = within("a handshake", WebSocket::open(stream, &url, &[SUBPROTOCOL])).await.err().unwrap();
    let Error::Http(response) = *refused else { panic!("an answer") };
    assert_eq!(response.status().as_u16(), 401);
    let challenges =
        response.headers().get_all("WWW-Authenticate").iter().map(|value| value.to_str().unwrap());
    let challenge = Challenge::strongest(challenges.collect::<Vec<_>>()).unwrap();
    let credentials = |password| {
        let answer = Answer {
            username: "alice",
            secret: Secret::Password(password),
            method: "GET",
            digest_uri: "/msrp",
            cnonce: "page",
            nc: 1,
            send_uri: true,
        };
        Authorization::answer(&challenge, &answer).unwrap().to_string()
    };
    let wrong = credentials("bobpw");
    assert_eq!(open(&daemon, "/msrp", &[SUBPROTOCOL, ("Authorization", &wrong)]).await.err(), Some(401));
    daemon.log().wait_for(&["AUTH failed", "alice", "wrong password"]).await;
    let right = credentials("alicepw");
    let right = [SUBPROTOCOL, ("Authorization", &right)];
    let mut page = client(&daemon, open(&daemon, "/msrp", &right).await.unwrap());
    let to = [page.relay_uri().to_owned()];
    assert_eq!(page.request("AUTH", &to, "").await.status(), 200);
    assert_eq!(open(&daemon, "/msrp", &right).await.err(), Some(401), "a replay");
}

#[tokio::test]
async fn a_client_certificate_in_the_handshake_saves_the_challenge() {
    let site = Site::new();
    let names = settings("auth: { client_certificate: dns_name }");
    let daemon = Daemon::start(RELAY, &site, &names).await;
    let with = async |identity| {
        let config = tls_config(&site, identity);
        let stream =
            within("TLS", tls_handshake(config, socket(&daemon, Scheme::Wss).await, "relay.test")).await;
        let url = daemon.websocket_url(Scheme::Wss);
        let opened = within("a handshake", WebSocket::open(stream.unwrap(), &url, &[SUBPROTOCOL])).await;
        let stream = Stream::WebSocket(Box::new(opened.unwrap().0));
        let mut page = Client::over(stream, "msrps://page.invalid:2855/s;ws", &daemon.uri(Scheme::Wss));
        let to = [page.relay_uri().to_owned()];
        page.request("AUTH", &to, "").await.status()
    };
    let identity = site.issue("alice", &["alice.test"]);
    assert_eq!(with(Some(&identity)).await, 200);
    daemon.log().wait_for(&["session granted", "user=\"alice.test\""]).await;
    assert_eq!(with(None).await, 401);
}

/// A verified certificate makes a relay of a peer on TCP and TLS, which may take its time; of a browser it does not.
#[tokio::test]
async fn a_browser_with_a_certificate_may_not_take_its_time() {
    let site = Site::new();
    let hasty = Settings { timeouts: "progress_timeout: 300ms".into(), ..settings("") };
    let daemon = Daemon::start(RELAY, &site, &hasty).await;
    let config = tls_config(&site, Some(&site.issue("browser", &["browser.test"])));
    let mut client = Client::connect_with(&daemon, config, Scheme::Wss).await;
    let session = client.auth("alice", "alicepw").await;
    let to = Send::text(&session.to(&session), "m", "");
    let head = client.tx.head_text(&to, "abcd1234");
    let Stream::WebSocket(mut websocket) = client.into_stream() else { panic!("a WebSocket") };
    // The beginning of a frame of 60000 bytes, masked with zeros, and nothing after it.
    let mut frame = vec![0x82, 0x80 | 126, 0xea, 0x60, 0, 0, 0, 0];
    frame.extend_from_slice(head.as_bytes());
    frame.extend_from_slice(b"the rest never comes");
    websocket.library().get_mut().write_all(&frame).await.unwrap();
    websocket.library().get_mut().flush().await.unwrap();
    daemon.log().wait_for(&["connection closed", "too slow"]).await;
}
