//! Input that is wrong: each kind gets its answer, or a close with one line that says who and why,
//! and the neighbours do not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use msrp_proto::digest::{Answer, Authorization, Secret};
use tests::{Client, Daemon, Neighbours, Scheme, Send, Session, Settings, Site, Stream, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// What must come of some bytes.
enum Outcome {
    /// The connection is closed, and the one line about it has these words.
    Closed(&'static str),
    /// This response, and the connection stays.
    Answered(u16),
    /// No response, and the connection stays.
    Ignored,
}

use Outcome::{Answered, Closed, Ignored};

/// A client with a session, which does something wrong.
struct Scene {
    site: Site,
    daemon: Daemon,
    neighbours: Neighbours,
}

/// What a request needs to be right but for one thing.
struct Mallory {
    client: Client,
    session: Session,
    /// From its session to a neighbour.
    path: String,
}

impl Mallory {
    /// A request with this start line, these paths and these lines, all with CRLF.
    fn request(&self, method: &str, to: &str, lines: &str) -> Vec<u8> {
        let from = self.client.uri();
        format!("MSRP abcd1234 {method}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{lines}-------abcd1234$\r\n")
            .into()
    }

    /// A bodiless SEND to a neighbour with these lines.
    fn send(&self, lines: &str) -> Vec<u8> {
        self.request("SEND", &self.path, lines)
    }

    /// A SEND with a body to a neighbour, which is right but for its Byte-Range.
    fn with_range(&self, range: &str) -> Vec<u8> {
        let lines =
            format!("Message-ID: m\r\nByte-Range: {range}\r\nContent-Type: text/plain\r\n\r\n12345\r\n");
        self.send(&lines)
    }

    /// A SEND of which the head, from `MSRP` to the last field's CRLF, has this length.
    fn with_head(&self, len: usize) -> Vec<u8> {
        let short = self.send("Message-ID: m\r\nX-Pad: \r\n");
        let padding = len - (short.len() - "-------abcd1234$\r\n".len());
        self.send(&format!("Message-ID: m\r\nX-Pad: {}\r\n", "x".repeat(padding)))
    }

    /// The URI of the relay with another session-id.
    fn unknown_session(&self) -> String {
        self.client.relay_uri().replace(";tcp", "/0123456789abcdef0123456789abcdef;tcp")
    }
}

impl Scene {
    async fn new() -> Self {
        let site = Site::new();
        let daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
        let neighbours = Neighbours::join(&daemon, &site).await;
        Self { site, daemon, neighbours }
    }

    async fn mallory(&mut self, scheme: Scheme) -> Mallory {
        let (client, session) = Client::with_session(&self.daemon, &self.site, scheme, "alice").await;
        let path = session.to(&self.neighbours.guest_session().await).join(" ");
        Mallory { client, session, path }
    }

    /// What names the connection of a session in the log. Its address does not: the system gives the same port to
    /// connections to different listeners.
    async fn link(&self, session: &Session) -> String {
        let granted = self.daemon.log().wait_for(&["session granted", &session.use_path[0]]).await;
        let link = granted.split(' ').find(|word| word.starts_with("link=")).expect("a link's number");
        format!(" {link} ")
    }

    /// Sends bytes over a connection that has a session, and sees what comes of them.
    async fn check(&mut self, name: &str, bytes: impl Fn(&Mallory) -> Vec<u8>, outcome: Outcome) {
        for scheme in [Scheme::Msrp, Scheme::Msrps] {
            let mut mallory = self.mallory(scheme).await;
            let bytes = bytes(&mallory);
            let link = self.link(&mallory.session).await;
            // It may hang up before it has read all.
            let _ = mallory.client.tx.try_raw(&bytes).await;
            match outcome {
                Closed(why) => {
                    let rest = mallory.client.rx.rest().await;
                    assert!(rest.is_empty(), "{name}: {rest:?}");
                    mallory.client.close().await;
                    self.daemon.log().wait_for(&["connection closed", &link, why]).await;
                    // Its session was granted; the next line about it is the last.
                    self.daemon.log().wait_for_lines(&[&link], 2).await;
                }
                Answered(status) => {
                    let response = mallory.client.rx.next().await;
                    assert_eq!(
                        (response.status(), response.transaction().as_str()),
                        (status, "abcd1234"),
                        "{name}"
                    );
                    mallory.client.auth("alice", "alicepw").await;
                }
                Ignored => {
                    mallory.client.auth("alice", "alicepw").await;
                }
            }
            self.daemon.assert_well();
        }
        self.neighbours.chat().await;
    }

    /// A SEND that is answered with 200 and arrives at the neighbour.
    async fn check_good(&mut self, name: &str, bytes: impl Fn(&Mallory) -> Vec<u8>) {
        let mut mallory = self.mallory(Scheme::Msrps).await;
        let bytes = bytes(&mallory);
        mallory.client.tx.raw(&bytes).await;
        let response = mallory.client.rx.next().await;
        assert_eq!((response.status(), response.transaction().as_str()), (200, "abcd1234"), "{name}");
        self.neighbours.dave().receive().await;
        self.neighbours.chat().await;
    }
}

#[tokio::test]
async fn uris_that_lead_nowhere() {
    let mut scene = Scene::new().await;
    let id = "Message-ID: m\r\n";
    scene.check("unknown session", |m| m.request("SEND", &m.unknown_session(), id), Answered(481)).await;
    scene.check("no session", |m| m.request("SEND", m.client.relay_uri(), id), Answered(481)).await;
    let silent =
        |m: &Mallory| m.request("SEND", &m.unknown_session(), "Message-ID: m\r\nFailure-Report: no\r\n");
    scene.check("unknown session, no reports", silent, Ignored).await;
    scene
        .check("REPORT to an unknown session", |m| m.request("REPORT", &m.unknown_session(), id), Ignored)
        .await;
    scene.check("unknown method", |m| m.request("NICKNAME", &m.unknown_session(), id), Answered(481)).await;
    scene.check("no next hop", |m| m.request("SEND", &m.session.use_path[0], id), Answered(403)).await;
    let round = |m: &Mallory| {
        m.request("SEND", &format!("{} {}", [&*m.session.use_path[0]; 9].join(" "), m.path), id)
    };
    scene.check("round and round", round, Answered(403)).await;

    let foreign = "not this relay";
    let elsewhere = "msrps://other.test:2855/abcd;tcp";
    scene.check("foreign SEND", |m| m.request("SEND", elsewhere, id), Closed(foreign)).await;
    scene.check("foreign AUTH", |m| m.request("AUTH", "msrps://other.test;tcp", ""), Closed(foreign)).await;
    scene.check("foreign REPORT", |m| m.request("REPORT", elsewhere, id), Closed(foreign)).await;
    scene.check("foreign method", |m| m.request("NICKNAME", elsewhere, id), Closed(foreign)).await;
    let without_body = |m: &Mallory| m.request("SEND", &format!("{elsewhere} {}", m.path), "");
    scene.check("foreign first hop, and a bad request", without_body, Closed(foreign)).await;
    let other_port = |m: &Mallory| {
        m.request("SEND", "msrps://relay.test:1/abcd;tcp", id).into_iter().chain(m.send(id)).collect()
    };
    scene.check("other port, and a good request behind", other_port, Closed(foreign)).await;
}

#[tokio::test]
async fn values_that_a_relay_acts_on() {
    let mut scene = Scene::new().await;
    scene.check("no Message-ID", |m| m.send(""), Answered(400)).await;
    for failure_report in ["maybe", "", "yes no"] {
        let lines = format!("Message-ID: m\r\nFailure-Report: {failure_report}\r\n");
        scene.check(failure_report, |m| m.send(&lines), Answered(400)).await;
    }
    scene.check("Success-Report", |m| m.send("Message-ID: m\r\nSuccess-Report: 1\r\n"), Answered(400)).await;
    for range in [
        "-1-5/5",
        "1--5/5",
        "0-5/5",
        "1-5",
        "1-5/",
        "",
        "*-5/5",
        "one-five/five",
        "1-99999999999999999999999/5",
        "99999999999999999999999-*/*",
    ] {
        scene.check(range, |m| m.with_range(range), Answered(400)).await;
    }
    scene.check_good("as it should be", |m| m.with_range("1-5/5")).await;
    scene.check_good("open", |m| m.with_range("1-*/*")).await;
}

/// A body that is not what its Byte-Range says is passed on or refused; the relay's own arithmetic
/// does not break over it.
#[tokio::test]
async fn ranges_that_contradict_their_bodies() {
    let mut scene = Scene::new().await;
    let ranges = [
        "1-5/5",
        "1-0/0",
        "5-1/10",
        "7-5/3",
        "1-18446744073709551615/18446744073709551615",
        "1-18446744073709551615/*",
        "18446744073709551610-*/*",
        "18446744073709551615-*/*",
        "18446744073709551610-18446744073709551615/1",
        "18446744073709551615-18446744073709551615/1",
    ];
    for range in ranges {
        for len in [6, 100, 3_000, 100_000] {
            let mut mallory = scene.mallory(Scheme::Msrp).await;
            let body = "x".repeat(len);
            let lines =
                format!("Message-ID: r\r\nByte-Range: {range}\r\nContent-Type: text/plain\r\n\r\n{body}\r\n");
            let bytes = mallory.send(&lines);
            mallory.client.tx.raw(&bytes).await;
            // Either way its sender is told.
            let response = mallory.client.rx.next().await;
            assert_eq!(response.transaction(), "abcd1234", "{range}: {response:?}");
            if response.status() == 200 {
                let mut received = 0;
                while received < len {
                    let message = scene.neighbours.dave().rx.next().await;
                    scene.neighbours.dave().tx.respond(&message, 200).await;
                    received += message.body.len();
                }
                assert_eq!(received, len, "{range}");
            } else {
                assert_eq!(response.status(), 400, "{range}");
            }
            scene.daemon.assert_well();
            scene.neighbours.chat().await;
        }
    }
}

#[tokio::test]
async fn heads_at_their_limits() {
    let mut scene = Scene::new().await;
    const LIMIT: usize = 16 * 1024;
    scene.check_good("one below", |m| m.with_head(LIMIT - 1)).await;
    scene.check_good("the limit", |m| m.with_head(LIMIT)).await;
    scene.check("one above", |m| m.with_head(LIMIT + 1), Answered(400)).await;
    scene.check("beyond the margin", |m| m.with_head(LIMIT + 1025), Closed("head exceeds 17408 bytes")).await;
    scene.check("far above", |m| m.with_head(10 * LIMIT), Closed("head exceeds 17408 bytes")).await;

    let endless = |m: &Mallory| {
        let head = format!("MSRP abcd1234 SEND\r\nTo-Path: {}\r\nX-Endless: ", m.path);
        [head.as_bytes(), &[b'x'; 100_000]].concat()
    };
    scene.check("a line without an end", endless, Closed("head exceeds")).await;
    let start = |_: &Mallory| [b"MSRP ".as_slice(), &[b'a'; 100_000]].concat();
    scene.check("a start line without an end", start, Closed("head exceeds")).await;
    let content_type =
        |m: &Mallory| m.send(&format!("Message-ID: m\r\nContent-Type: {}\r\n\r\n\r\n", "x".repeat(50_000)));
    scene.check("Content-Type", content_type, Closed("head exceeds")).await;
    let content_type = |m: &Mallory| {
        m.send(&format!("Message-ID: m\r\nContent-Type: text/{}\r\n\r\nx\r\n", "x".repeat(15_000)))
    };
    scene.check_good("a long Content-Type", content_type).await;

    // To-Path, From-Path and Message-ID are three.
    let headers =
        |m: &Mallory, count: usize| m.send(&format!("Message-ID: m\r\n{}", "X: y\r\n".repeat(count - 3)));
    scene.check_good("64 fields", |m| headers(m, 64)).await;
    scene.check("65 fields", |m| headers(m, 65), Answered(400)).await;
    scene.check("73 fields", |m| headers(m, 73), Closed("more than 72 header fields")).await;

    let path = |m: &Mallory, count: usize| {
        let from = vec!["msrp://a:1/b;tcp"; count].join(" ");
        let to = &m.path;
        format!("MSRP abcd1234 SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: m\r\n-------abcd1234$\r\n")
            .into_bytes()
    };
    scene.check("33 URIs", |m| path(m, 33), Answered(400)).await;
    scene.check("41 URIs", |m| path(m, 41), Closed("a path of more than 40 URIs")).await;

    let auth = |m: &Mallory, len: usize| {
        let lines = format!("Content-Type: text/plain\r\n\r\n{}\r\n", "x".repeat(len));
        m.request("AUTH", m.client.relay_uri(), &lines)
    };
    scene.check("a body of 10240 bytes", |m| auth(m, 10_240), Answered(401)).await;
    scene.check("a body of 10241 bytes", |m| auth(m, 10_241), Closed("exceeds 10240 bytes")).await;
}

#[tokio::test]
async fn bytes_that_are_no_msrp() {
    let mut scene = Scene::new().await;
    let table: [(&str, &[u8], &'static str); 12] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n", "not MSRP"),
        ("SIP", b"OPTIONS sip:relay.test SIP/2.0\r\n\r\n", "not MSRP"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not MSRP"),
        ("NUL", &[0; 1000], "not MSRP"),
        ("noise", &[0xff, 0xfe, 0x80, 0x7f, 0x1b, 0x5b, 0x41, 0x0a], "not MSRP"),
        ("lower case", b"msrp abcd1234 SEND\r\n", "not MSRP"),
        ("line feeds", b"\n\n\n", "not MSRP"),
        ("short transaction", b"MSRP abc SEND\r\n", "malformed start line"),
        ("long transaction", b"MSRP abcdefghijklmnopqrstuvwxyz0123456 SEND\r\n", "malformed start line"),
        ("strange transaction", b"MSRP ab\x00d1234 SEND\r\n", "malformed start line"),
        ("no method", b"MSRP abcd1234\r\n", "malformed start line"),
        ("strange status", b"MSRP abcd1234 2000 OK\r\n", "malformed start line"),
    ];
    for (name, bytes, why) in table {
        scene.check(name, |_| bytes.to_vec(), Closed(why)).await;
    }
    scene.check("empty lines between messages", |_| b"\r\n\r\n\r\n".to_vec(), Ignored).await;
}

#[tokio::test]
async fn heads_that_are_no_msrp() {
    let mut scene = Scene::new().await;
    let head = |lines: &str| format!("MSRP abcd1234 SEND\r\n{lines}-------abcd1234$\r\n").into_bytes();
    let to = |m: &Mallory| format!("To-Path: {}\r\n", m.path);
    let from = |m: &Mallory| format!("From-Path: {}\r\n", m.client.uri());
    let wanted = "is not where";
    scene.check("no path", |_| head(""), Closed(wanted)).await;
    scene.check("no From-Path", |m| head(&to(m)), Closed(wanted)).await;
    scene.check("From-Path first", |m| head(&(from(m) + &to(m))), Closed(wanted)).await;
    scene.check("To-Path twice", |m| head(&(to(m) + &from(m) + &to(m))), Closed(wanted)).await;
    scene
        .check(
            "a field first",
            |m| head(&("Message-ID: m\r\n".to_owned() + &to(m) + &from(m))),
            Closed(wanted),
        )
        .await;
    scene.check("an empty path", |m| head(&("To-Path: \r\n".to_owned() + &from(m))), Closed("To-Path")).await;
    for uri in
        ["sip:x@relay.test", "msrp://relay.test", "msrp://[::1:2855/a;tcp", "msrp://a:99999/b;tcp", "x\u{e9}"]
    {
        let line = format!("To-Path: {uri}\r\n");
        scene.check(uri, |m| head(&(line.clone() + &from(m))), Closed("To-Path")).await;
    }
    let line_feed =
        |m: &Mallory| m.send("Message-ID: m\r\n").into_iter().filter(|byte| *byte != b'\r').collect();
    scene.check("bare line feeds", line_feed, Closed("a line ends without CR")).await;
    scene.check("no colon", |m| m.send("Message-ID\r\n"), Closed("malformed header line")).await;
    scene.check("no name", |m| m.send(": m\r\n"), Closed("malformed header line")).await;
    scene.check("a NUL in a name", |m| m.send("Mess\0age-ID: m\r\n"), Closed("malformed header line")).await;
    scene.check("a space in a name", |m| m.send("Message ID: m\r\n"), Closed("malformed header line")).await;
    scene
        .check(
            "a NUL in a value",
            |m| m.send("Message-ID: m\r\nX: a\0b\r\n"),
            Closed("malformed header line"),
        )
        .await;
}

#[tokio::test]
async fn responses_nobody_waits_for() {
    let mut scene = Scene::new().await;
    let response = |to: &str| {
        format!(
            "MSRP abcd1234 200 OK\r\nTo-Path: {to}\r\nFrom-Path: msrp://a:1/b;tcp\r\n-------abcd1234$\r\n"
        )
    };
    scene.check("to the relay", |m| response(m.client.relay_uri()).into(), Ignored).await;
    scene.check("to its session", |m| response(&m.session.use_path[0]).into(), Ignored).await;
    scene.check("to another", |_| response("msrp://other.test:1/x;tcp").into(), Ignored).await;
    let body = |m: &Mallory| {
        let to = m.client.relay_uri();
        format!(
            "MSRP abcd1234 481\r\nTo-Path: {to}\r\nFrom-Path: msrp://a:1/b;tcp\r\nContent-Type: a/b\r\n\r\nx\r\n\
             -------abcd1234$\r\n"
        )
        .into_bytes()
    };
    scene.check("with a body", body, Ignored).await;
}

#[tokio::test]
async fn plain_bytes_on_the_tls_port() {
    let mut scene = Scene::new().await;
    for bytes in
        [b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n".as_slice(), b"MSRP abcd AUTH\r\n", &[0; 100], b"\x16"]
    {
        let mut socket = TcpStream::connect(scene.daemon.address(Scheme::Msrps)).await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        // It is closed, with or without a TLS alert, and nothing that is MSRP.
        let mut rest = Vec::new();
        let _ = within("the connection's end", socket.read_to_end(&mut rest)).await;
        assert!(!rest.starts_with(b"MSRP"), "{rest:?}");
        let line = scene.daemon.log().wait_for(&["connection closed", &address]).await;
        assert_eq!(line.contains("not TLS"), bytes != b"\x16", "{line}");
        scene.neighbours.chat().await;
        scene.daemon.log().wait_for_lines(&[&address], 1).await;
    }
    scene.daemon.assert_well();
}

#[tokio::test]
async fn broken_tls_records_after_the_handshake() {
    let mut scene = Scene::new().await;
    for bytes in
        [b"MSRP abcd1234 AUTH\r\n".as_slice(), b"\x17\x03\x03\x00\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
    {
        let Mallory { client, session, .. } = scene.mallory(Scheme::Msrps).await;
        let link = scene.link(&session).await;
        let Stream::Tls(mut tls) = client.into_stream() else { panic!("a TLS connection") };
        tls.get_mut().0.tcp().write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the connection's end", tls.get_mut().0.tcp().read_to_end(&mut rest)).await;
        drop(tls);
        scene.daemon.log().wait_for(&["connection closed", &link, "TLS"]).await;
        scene.daemon.log().wait_for_lines(&[&link], 2).await;
        scene.neighbours.chat().await;
    }
    scene.daemon.assert_well();
}

/// Every beginning of a valid exchange, and then the end of the connection.
#[tokio::test]
async fn truncated_everything() {
    let mut scene = Scene::new().await;
    let to = scene.daemon.uri(Scheme::Msrp);
    let from = "msrp://truncated.invalid:2855/s;tcp";
    let guest = scene.neighbours.guest_session().await;
    let mut sent = 0;
    // The last connection stays, so that its line is not among those of the others.
    let _last;
    for cut in 0.. {
        let socket = TcpStream::connect(scene.daemon.address(Scheme::Msrp)).await.unwrap();
        let mut client = Client::over(Stream::Plain(socket), from, &to);
        let mut budget = cut;
        // Writes what the budget allows, and says whether that was all.
        let mut write = async |client: &mut Client, text: &str| {
            let len = text.len().min(budget);
            budget -= len;
            client.tx.raw(&text.as_bytes()[..len]).await;
            len == text.len()
        };
        let auth = format!("MSRP trunc001 AUTH\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n");
        let whole = async {
            if !write(&mut client, &format!("{auth}-------trunc001$\r\n")).await {
                return false;
            }
            let refused = client.rx.next().await;
            let challenge = msrp_proto::digest::Challenge::parse(refused.header("WWW-Authenticate")).unwrap();
            let secret = Secret::Password("alicepw");
            let answer = Answer {
                username: "alice",
                secret,
                method: "AUTH",
                digest_uri: &to,
                cnonce: "c",
                nc: 1,
                send_uri: false,
            };
            let answer = Authorization::answer(&challenge, &answer).unwrap();
            if !write(&mut client, &format!("{auth}Authorization: {answer}\r\n-------trunc001$\r\n")).await {
                return false;
            }
            let granted = client.rx.next().await;
            let path = client.session(&granted).to(&guest);
            let head = client.tx.head_text(&Send::text(&path, "m", "truncated"), "trunc002");
            write(&mut client, &format!("{head}truncated\r\n-------trunc002$\r\n")).await
        };
        sent += 1;
        if whole.await {
            assert_eq!(client.rx.response("trunc002").await.status(), 200);
            _last = client;
            break;
        }
        client.close().await;
    }
    assert!(sent > 800, "{sent} connections");
    // Each connection has its line, and what the neighbour got were beginnings, ended with `#`.
    scene.daemon.log().wait_for_lines(&["connection closed"], sent - 1).await;
    let dave = scene.neighbours.dave();
    let last = dave.rx.until(|message| message.flag == msrp_proto::flag::Flag::Complete).await;
    assert_eq!(last.text(), "truncated");
    dave.tx.respond(&last, 200).await;
    scene.neighbours.chat().await;
    scene.daemon.assert_well();
}

/// A right exchange, in writes of one byte.
#[tokio::test]
async fn one_byte_at_a_time_is_slow_and_right() {
    let mut scene = Scene::new().await;
    let mut mallory = scene.mallory(Scheme::Msrps).await;
    for byte in mallory.with_range("1-5/5") {
        mallory.client.tx.raw(&[byte]).await;
    }
    assert_eq!(mallory.client.rx.next().await.status(), 200);
    assert_eq!(scene.neighbours.dave().receive().await.text(), "12345");
    scene.daemon.assert_well();
}

#[tokio::test]
async fn what_anybody_can_have_break_off_does_not_fill_the_log() {
    const MANY: usize = 250;
    let site = Site::new();
    let settings = Settings {
        sip_tcp: Some("127.0.0.1:0".into()),
        sip: Some("sip_upstream: [ { uri: 'sip://127.0.0.250:1', advertise: 'edge.test:5060' } ]".into()),
        ws: Some("127.0.0.1:0".into()),
        ..Settings::default()
    };
    let upgrade = "GET /none HTTP/1.1\r\nHost: relay.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for (scheme, bytes, line) in [
        (Scheme::Msrp, "GET / HTTP/1.1\r\n\r\n", "WARN connection closed link="),
        (Scheme::Sip, "GET / HTTP/1.1\r\n\r\n", "WARN SIP connection closed"),
        (Scheme::Ws, upgrade, "WARN WebSocket refused"),
        (Scheme::Ws, "GET / HTTP/1.0\r\n\r\n", "INFO connection closed: no WebSocket handshake"),
    ] {
        let daemon = Daemon::start(RELAY, &site, &settings).await;
        for _ in 0..MANY {
            let mut socket = TcpStream::connect(daemon.address(scheme)).await.unwrap();
            socket.write_all(bytes.as_bytes()).await.unwrap();
            let _ = within("the connection's end", socket.read_to_end(&mut Vec::new())).await;
        }
        // A hundred in a minute; another one may begin meanwhile.
        let enough = async {
            while daemon.log().with(&[line]).len() < 100 {
                tokio::task::yield_now().await;
            }
        };
        within("a hundred lines", enough).await;
        let lines = daemon.log().with(&[line]).len();
        assert!((100..=200).contains(&lines), "{scheme:?}: {lines}");
    }
}
