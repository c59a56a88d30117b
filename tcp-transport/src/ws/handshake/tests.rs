use proptest::prelude::*;

use super::*;

const GOOD: &str = "GET /chat?a=b HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\n\
     Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Version: 13\r\n";

fn parse(text: &str) -> Request<'_> {
    let (request, size) = Request::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap();
    assert_eq!(size, text.len());
    request
}

fn written(answer: &Answer, request: &Request<'_>, keep: bool) -> String {
    let mut out = BytesMut::new();
    answer.write(request, keep, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn a_request_is_read_in_parts() {
    let text = format!(
        "{GOOD}Sec-WebSocket-Protocol: msrp, ,chat\r\norigin: https://a.test\r\n\
         Sec-WebSocket-Protocol: b@d,last\r\nX: 1\r\nx: 2\r\n\r\n"
    );
    let request = parse(&text);
    request.check().unwrap();
    assert_eq!((request.method(), request.path(), request.query()), ("GET", "/chat", Some("a=b")));
    assert_eq!((request.host(), request.origin()), (Some("relay.test"), Some("https://a.test")));
    assert_eq!(request.protocols().collect::<Vec<_>>(), ["msrp", "chat", "last"]);
    assert_eq!(request.headers("X").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((request.header("X"), request.header("Y")), (None, None));
    for (target, path) in [
        ("ws://relay.test/a", Some("/a")),
        ("HTTPS://relay.test", Some("/")),
        ("ftp://relay.test/a", None),
        ("relay.test:80", None),
        ("*", None),
    ] {
        assert_eq!(resource(target), path, "{target}");
    }
}

#[test]
fn what_is_no_opening_handshake_is_told_so() {
    let change = |from: &str, to: &str| GOOD.replacen(from, to, 1) + "\r\n";
    for (text, status, part) in [
        (change("GET", "POST"), 405, "Allow: GET\r\n"),
        (change("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
        (change("Host: relay.test\r\n", ""), 400, "Host"),
        (change("Host: relay.test", "Host: a\r\nhost: b"), 400, "Host"),
        (change("Upgrade: websocket\r\n", ""), 426, "Upgrade: websocket\r\n"),
        (change("Upgrade: websocket", "Upgrade: h2c"), 426, "speaks WebSocket"),
        (change("keep-alive, Upgrade", "keep-alive"), 426, "Sec-WebSocket-Version: 13\r\n"),
        (change("Version: 13", "Version: 8"), 426, "Sec-WebSocket-Version: 13\r\n"),
        (change("Sec-WebSocket-Version: 13\r\n", ""), 426, "version 13"),
        (change("Bub25j", "Bub25"), 400, "Sec-WebSocket-Key"),
        (change("Sec-WebSocket-Key", "X"), 400, "Sec-WebSocket-Key"),
        (change("Host: relay.test", "Host: a\r\nContent-Length: 1"), 400, "no body"),
        (change("Host: relay.test", "Host: a\r\nTransfer-Encoding: chunked"), 400, "no body"),
    ] {
        let request = parse(&text);
        let answer = request.check().unwrap_err();
        let Answer::Refuse { status: found, .. } = answer else { panic!("{answer:?}") };
        let response = written(&answer, &request, false);
        assert_eq!(found, status, "{text}");
        assert!(
            response.contains(part) && response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
        assert!(response.contains("close\r\n"), "{response}");
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(response.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(response.contains("Content-Type: text/plain; charset=utf-8\r\n"));
    }
    parse(&change("Host: relay.test", "Host: a\r\nContent-Length: 0")).check().unwrap();
}

#[test]
fn what_is_not_http_gets_no_answer() {
    let limits = HeadLimits::default();
    for text in ["MSRP a786hjs2 SEND\r\n", "\x16\x03\x01\x02", "GET /\r\n", "GET / HTTP/2.0\r\n"] {
        let error = Request::parse(text.as_bytes(), &limits).unwrap_err();
        assert!(matches!(error, RequestError::NotHttp(_)) && error.answer().is_none(), "{text}: {error}");
    }
    for text in ["GET / HTTP/1.1\r\nA b\r\n", "GET / HTTP/1.1\r\nA: \0\r\n", "GET x HTTP/1.1\r\n\r\n"] {
        let error = Request::parse(text.as_bytes(), &limits).unwrap_err();
        assert!(matches!(error, RequestError::Malformed(_)), "{text}: {error}");
        let mut out = BytesMut::new();
        error.answer().unwrap().write_last(&mut out);
        assert!(out.starts_with(b"HTTP/1.1 400 "));
    }
}

#[test]
fn a_head_is_limited_in_bytes_and_fields() {
    let padded = |len: usize| {
        let text = format!("{GOOD}X: {{}}\r\n\r\n");
        text.replace("{}", &"x".repeat(len + 2 - text.len()))
    };
    let limits = HeadLimits::default();
    for len in [DEFAULT - 1, DEFAULT] {
        let text = padded(len);
        assert_eq!(Request::parse(text.as_bytes(), &limits).unwrap().unwrap().1, len);
    }
    let text = padded(DEFAULT + 1);
    assert_eq!(Request::parse(text.as_bytes(), &limits).unwrap_err(), RequestError::TooLarge);
    assert_eq!(Request::parse(&text.as_bytes()[..DEFAULT], &limits).unwrap_err(), RequestError::TooLarge);
    assert!(Request::parse(&text.as_bytes()[..DEFAULT - 1], &limits).unwrap().is_none());
    // What follows the head does not count.
    let text = padded(DEFAULT) + "more";
    assert_eq!(Request::parse(text.as_bytes(), &limits).unwrap().unwrap().1, DEFAULT);
    for (count, fits) in [(63, true), (64, true), (65, false)] {
        let text = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert_eq!(Request::parse(text.as_bytes(), &limits).is_ok(), fits, "{count}");
    }
    let mut out = BytesMut::new();
    RequestError::TooLarge.answer().unwrap().write_last(&mut out);
    assert!(out.starts_with(b"HTTP/1.1 431 "));
}

const DEFAULT: usize = crate::ws::DEFAULT_MAX_HEAD;

#[test]
fn an_acceptance_has_the_key_and_the_protocol() {
    let text = format!("{GOOD}Sec-WebSocket-Protocol: msrp\r\n\r\n");
    let request = parse(&text);
    assert_eq!(
        written(&Answer::accept(Some("msrp")), &request, false),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: msrp\r\n\r\n"
    );
    // One that nobody offered is a fault of ours.
    assert!(written(&Answer::accept(Some("sip")), &request, false).starts_with("HTTP/1.1 500 "));
    let headers = Headers::new().with("Set-Cookie", "a=b").unwrap();
    let answer = Answer::Accept { protocol: None, headers, principal: None };
    assert!(written(&answer, &request, false).contains("\r\nSet-Cookie: a=b\r\n\r\n"));
}

#[test]
fn only_a_challenge_keeps_the_connection() {
    let good = GOOD.to_owned() + "\r\n";
    let request = parse(&good);
    for (status, kept) in [(401, true), (403, false), (404, false), (503, false)] {
        assert_eq!(Answer::refuse(status, "").keeps_connection(&request), kept);
    }
    let closing = good.replace("keep-alive", "close");
    assert!(!Answer::refuse(401, "").keeps_connection(&parse(&closing)));
    let response = written(&Answer::refuse(401, "who?"), &request, true);
    assert!(response.contains("Connection: keep-alive\r\n") && response.ends_with("\r\n\r\nwho?"));
    // A status that is none is a fault of ours.
    assert!(written(&Answer::refuse(200, ""), &request, false).starts_with("HTTP/1.1 500 "));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_however_they_are_cut(
        text in prop_oneof![
            any::<String>(),
            "(GET|PUT|MSRP) [/a-z?:]{0,9} (HTTP/1.[01]|SEND)\r?\n([A-Za-z-]{0,9}:? ?[ -~]{0,9}\r?\n){0,5}(\r\n)?.{0,5}",
        ],
        max_bytes in 1usize..200, max_headers in 0usize..5,
    ) {
        let limits = HeadLimits { max_bytes, max_headers };
        let bytes = text.as_bytes();
        let whole = Request::parse(bytes, &limits);
        let size = whole.as_ref().ok().and_then(|found| found.as_ref()).map(|(_, size)| *size);
        if let Ok(Some((request, size))) = &whole {
            prop_assert!(*size <= max_bytes && request.path().starts_with('/'));
            let _ = request.check();
        }
        for cut in 0..bytes.len() {
            match Request::parse(&bytes[..cut], &limits) {
                Ok(None) => {}
                Ok(Some((_, early))) => prop_assert_eq!(Some(early), size),
                Err(early) => prop_assert_eq!(Some(&early), whole.as_ref().err()),
            }
        }
    }
}
