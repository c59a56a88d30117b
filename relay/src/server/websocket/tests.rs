use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use serde_json::json;
use tcp_transport::ws::HeadLimits;

use super::*;
use crate::config::{Secret, WebSocketAuth};

/// Digest that knows one answer, and remembers what it was asked.
#[derive(Default)]
struct Fake(RefCell<Vec<(String, String, Option<String>)>>);

impl Fake {
    fn check(
        &self,
        method: &str,
        target: &str,
        authorization: Option<&str>,
    ) -> Result<Arc<str>, HandshakeDenial> {
        self.0.borrow_mut().push((method.to_owned(), target.to_owned(), authorization.map(str::to_owned)));
        match authorization {
            Some("right") => Ok("dave".into()),
            Some("anybody") => Err(HandshakeDenial::Unavailable),
            _ => Err(HandshakeDenial::Challenge(vec!["Digest a".to_owned(), "Digest b".to_owned()])),
        }
    }
}

/// Status, header fields and all: what goes on the wire; and who it is.
fn ask(settings: &WebSocket, target: &str, lines: &str) -> (String, Option<String>) {
    ask_with(settings, &Fake::default(), target, lines)
}

fn ask_with(settings: &WebSocket, digest: &Fake, target: &str, lines: &str) -> (String, Option<String>) {
    let text = format!(
        "GET {target} HTTP/1.1\r\nHost: relay.test:443\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    );
    let (request, _) = Request::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap();
    request.check().unwrap();
    let digest = |method: String, target: String, value: Option<String>| {
        std::future::ready(digest.check(&method, &target, value.as_deref()))
    };
    let answer = answer(settings, [MSRP].into_iter(), digest, &request, None, "peer", || true);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answer = runtime.block_on(answer);
    let mut out = BytesMut::new();
    assert!(answer.write(&request, answer.keeps_connection(&request), &mut out));
    let principal = match answer {
        Answer::Accept { principal, .. } => principal.map(|user| user.to_string()),
        Answer::Refuse { .. } => None,
    };
    (String::from_utf8(out.to_vec()).unwrap(), principal)
}

fn status(settings: &WebSocket, target: &str, lines: &str) -> String {
    ask(settings, target, lines).0[9..12].to_owned()
}

const PROTOCOL: &str = "Sec-WebSocket-Protocol: msrp\r\n";

fn settings() -> WebSocket {
    WebSocket { path: "/msrp".to_owned(), ..WebSocket::default() }
}

#[test]
fn the_path_is_compared_exactly_and_without_the_query() {
    assert_eq!(status(&settings(), "/msrp", PROTOCOL), "101");
    assert_eq!(status(&settings(), "/msrp?a=b", PROTOCOL), "101");
    for wrong in ["/", "/msrp/", "/MSRP", "/msrp/x", "/%6dsrp"] {
        assert_eq!(status(&settings(), wrong, PROTOCOL), "404", "{wrong}");
    }
}

#[test]
fn of_two_subprotocols_the_first_of_the_client_counts() {
    for (lines, expected) in [
        ("msrp", "msrp"),
        ("sip", "sip"),
        ("msrp, sip", "msrp"),
        ("sip, msrp", "sip"),
        ("chat, sip\r\nSec-WebSocket-Protocol: msrp", "sip"),
    ] {
        let text = format!(
            "GET /msrp HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: {lines}\r\n\r\n"
        );
        let (request, _) = Request::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap();
        assert_eq!(admit(&settings(), ["msrp", "sip"].into_iter(), &request).ok(), Some(expected));
    }
}

#[test]
fn one_of_the_subprotocols_must_be_ours() {
    for (lines, expected) in [
        ("", "400"),
        ("Sec-WebSocket-Protocol: sip\r\n", "400"),
        ("Sec-WebSocket-Protocol: MSRP\r\n", "400"),
        ("Sec-WebSocket-Protocol: sip, msrp\r\n", "101"),
        ("Sec-WebSocket-Protocol: sip\r\nSec-WebSocket-Protocol: msrp\r\n", "101"),
    ] {
        let (answer, _) = ask(&settings(), "/msrp", lines);
        assert_eq!(&answer[9..12], expected, "{lines}");
        assert_eq!(answer.contains("\r\nSec-WebSocket-Protocol: msrp\r\n"), expected == "101", "{answer}");
    }
}

#[test]
fn origins_are_a_policy_and_are_told_back() {
    let origin = |origin: &str| format!("{PROTOCOL}Origin: {origin}\r\n");
    let (answer, _) = ask(&settings(), "/msrp", &origin("https://any.test"));
    assert!(answer.contains("\r\nAccess-Control-Allow-Origin: https://any.test\r\n"), "{answer}");
    assert!(!ask(&settings(), "/msrp", PROTOCOL).0.contains("Access-Control"), "nobody asked");

    let strict = WebSocket { require_origin: true, ..settings() };
    assert_eq!(status(&strict, "/msrp", PROTOCOL), "403");
    assert_eq!(status(&strict, "/msrp", &origin("https://any.test")), "101");

    let listed = WebSocket {
        allow_origins: Some(vec![
            "https://chat.test".parse().unwrap(),
            "http://b.test:8080".parse().unwrap(),
        ]),
        ..settings()
    };
    for (from, expected) in [
        ("https://chat.test", "101"),
        ("HTTPS://CHAT.test", "101"),
        ("http://b.test:8080", "101"),
        ("http://b.test", "403"),
        ("https://chat.test.evil", "403"),
        ("https://chat.test/", "403"),
        ("null", "403"),
        ("", "403"),
    ] {
        assert_eq!(status(&listed, "/msrp", &origin(from)), expected, "{from:?}");
    }
    assert_eq!(status(&listed, "/msrp", PROTOCOL), "101", "a program sends none, and none is required");
    let two = format!("{}Origin: https://evil.test\r\n", origin("https://chat.test"));
    assert_eq!(status(&listed, "/msrp", &two), "400");
}

#[test]
fn hosts_are_a_policy() {
    let with = |host: &str| WebSocket { allow_hosts: Some(vec![host.parse().unwrap()]), ..settings() };
    assert_eq!(status(&with("relay.test"), "/msrp", PROTOCOL), "101");
    assert_eq!(status(&with("RELAY.test"), "/msrp", PROTOCOL), "101");
    assert_eq!(status(&with("other.test"), "/msrp", PROTOCOL), "421");
    assert_eq!(status(&with("192.0.2.1"), "/msrp", PROTOCOL), "421");
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn token(user: &str) -> String {
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &json!({ "sub": user, "exp": exp }), &key).unwrap()
}

fn with_token(digest: bool) -> WebSocket {
    let token = TokenAuth {
        secret: Secret::new(SECRET),
        cookie: Some("msrp".to_owned()),
        query: Some("token".to_owned()),
        audience: None,
    };
    let auth = WebSocketAuth { digest, client_certificate: None, token: Some(Arc::new(token)) };
    WebSocket { auth, ..settings() }
}

#[test]
fn a_token_in_the_cookie_or_the_query_says_who_it_is() {
    let settings = with_token(false);
    let user = |target: &str, lines: &str| ask(&settings, target, &format!("{PROTOCOL}{lines}")).1;
    let (alice, bob) = (token("alice"), token("bob"));
    assert_eq!(user(&format!("/msrp?a=b&token={bob}&c"), "").as_deref(), Some("bob"));
    for cookies in [
        format!("Cookie: msrp={alice}\r\n"),
        format!("Cookie: a=b; msrp={alice}; c=d\r\n"),
        format!("Cookie: msrp=\"{alice}\"\r\n"),
        format!("Cookie: a=b\r\nCookie: msrp={alice}\r\n"),
    ] {
        assert_eq!(user(&format!("/msrp?token={bob}"), &cookies).as_deref(), Some("alice"), "{cookies}");
    }
    let outdated = "Cookie: msrp=outdated\r\n";
    assert_eq!(user(&format!("/msrp?token={bob}"), outdated).as_deref(), Some("bob"));
    for (target, cookies) in [
        ("/msrp".to_owned(), String::new()),
        (format!("/msrp?Token={bob}"), String::new()),
        ("/msrp?token=".to_owned(), "Cookie: msrp\r\n".to_owned()),
        ("/msrp".to_owned(), format!("Cookie: msrp={}x\r\n", &alice[..alice.len() - 1])),
        ("/msrp".to_owned(), format!("Cookie: xmsrp={alice}\r\n")),
    ] {
        assert_eq!(user(&target, &cookies), None, "{target} {cookies}");
    }
}

#[test]
fn digest_is_asked_for_what_nothing_else_proves() {
    let off = Fake::default();
    ask_with(&settings(), &off, "/msrp", PROTOCOL);
    assert!(off.0.borrow().is_empty(), "it is off by default");

    let settings = with_token(true);
    let digest = Fake::default();
    let with = |lines: &str| ask_with(&settings, &digest, "/msrp?a=b", &format!("{PROTOCOL}{lines}"));
    let (challenged, _) = with("");
    assert!(challenged.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{challenged}");
    assert!(
        challenged.contains("WWW-Authenticate: Digest a\r\nWWW-Authenticate: Digest b\r\n"),
        "{challenged}"
    );
    assert!(challenged.contains("\r\nConnection: keep-alive\r\n"), "{challenged}");
    assert_eq!(with("Authorization: wrong\r\n").0[9..12], *"401");
    assert_eq!(with("Authorization: right\r\n").1.as_deref(), Some("dave"));
    // Nobody can say: the browser may try again, and has not been let in.
    let (answer, principal) =
        ask(&settings, "/msrp?room=1", &format!("{PROTOCOL}Authorization: anybody\r\n"));
    assert!(answer.starts_with("HTTP/1.1 503 ") && !answer.contains("WWW-Authenticate"), "{answer}");
    assert_eq!(principal, None);
    assert_eq!(with(&format!("Cookie: msrp={}\r\n", token("alice"))).1.as_deref(), Some("alice"));
    let asked = digest.0.borrow();
    assert_eq!(asked.len(), 3, "not for the one with a token");
    assert!(asked.iter().all(|(method, target, _)| method == "GET" && target == "/msrp?a=b"));
}

#[test]
fn every_limit_reaches_the_layer_that_enforces_it() {
    let own = WebSocket {
        handshake_timeout: Duration::from_secs(1),
        handshake_size: 1025,
        max_frame_size: 1026,
        max_message_size: 1027,
        max_msg_chunks: Some(4),
        ping_interval: Some(Duration::from_secs(5)),
        pong_timeout: Duration::from_secs(6),
        ..settings()
    };
    let (opening, open) = (handshake(&own), session(&own));
    assert_eq!((opening.handshake_timeout, opening.head.max_bytes), (own.handshake_timeout, 1025));
    assert_eq!((open.max_frame, open.max_message), (1026, 1027));
    assert_eq!(open.max_msg_chunks.map(std::num::NonZero::get), Some(4));
    assert_eq!((open.ping_interval, open.pong_timeout), (own.ping_interval, own.pong_timeout));
    let (opening, open) = (handshake(&settings()), session(&settings()));
    let (default, of_messages) = (ws::ServerSettings::default(), ws::Settings::default());
    assert_eq!(opening, default);
    assert_eq!((open.max_frame, open.max_message), (of_messages.max_frame, of_messages.max_message));
    assert_eq!((open.max_msg_chunks, open.ping_interval), (None, of_messages.ping_interval));
    assert_eq!(open.pong_timeout, of_messages.pong_timeout);
    assert_eq!(session(&WebSocket { ping_interval: None, ..settings() }).ping_interval, None);
}
