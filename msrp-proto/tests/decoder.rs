//! The decoder's rules, one by one (RFC 4975 §7.1, §9).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod reference;

use bytes::BytesMut;
use msrp_proto::decoder::{DecodeError, Decoder, Event, Limits};
use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::header::Name;
use msrp_proto::status::StatusCode;

const TO: &str = "To-Path: msrp://a.b:1/s;tcp\r\n";
const FROM: &str = "From-Path: msrp://c.d:2/t;tcp\r\n";

/// Heads, bodies put together, flags, and the error if there was one.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    heads: Vec<Head>,
    bodies: Vec<Vec<u8>>,
    flags: Vec<Flag>,
    error: Option<DecodeError>,
}

fn feed(wire: &[u8], size: usize, limits: &Limits) -> Seen {
    let (mut decoder, mut buf, mut seen) = (Decoder::new(limits.clone()), BytesMut::new(), Seen::default());
    for slice in wire.chunks(size) {
        buf.extend_from_slice(slice);
        loop {
            match decoder.decode(&mut buf) {
                Ok(None) => break,
                Ok(Some(Event::Head(head))) => {
                    seen.heads.push(head);
                    seen.bodies.push(Vec::new());
                }
                Ok(Some(Event::Body(bytes))) => seen.bodies.last_mut().unwrap().extend_from_slice(&bytes),
                Ok(Some(Event::End(flag))) => seen.flags.push(flag),
                Err(error) => {
                    seen.error = Some(error);
                    return seen;
                }
            }
        }
    }
    seen
}

/// The same at once and byte by byte.
fn both(wire: impl AsRef<[u8]>) -> Seen {
    both_with(wire, &Limits::default())
}

fn both_with(wire: impl AsRef<[u8]>, limits: &Limits) -> Seen {
    let wire = wire.as_ref();
    let (whole, bytewise) = (feed(wire, usize::MAX, limits), feed(wire, 1, limits));
    if whole.error.is_none() {
        assert_eq!(whole, bytewise);
    } else {
        assert_eq!(whole.heads, bytewise.heads);
        assert!(bytewise.error.is_some());
    }
    whole
}

fn error(wire: impl AsRef<[u8]>) -> DecodeError {
    both(wire.as_ref()).error.unwrap_or_else(|| panic!("{}", wire.as_ref().escape_ascii()))
}

fn with_body(body: &str) -> String {
    format!("MSRP abcd SEND\r\n{TO}{FROM}Content-Type: text/plain\r\n\r\n{body}\r\n-------abcd$\r\n")
}

#[test]
fn empty_body_no_body_and_a_body_of_crlf_are_told_apart() {
    for (after_head, has_body, body) in [
        ("-------abcd$\r\n", false, ""),
        ("\r\n-------abcd$\r\n", true, ""),
        ("\r\n\r\n-------abcd$\r\n", true, ""),
        ("\r\n\r\n\r\n-------abcd$\r\n", true, "\r\n"),
        ("\r\n \r\n-------abcd$\r\n", true, " "),
    ] {
        let seen = both(format!("MSRP abcd SEND\r\n{TO}{FROM}{after_head}"));
        assert_eq!((seen.error, seen.flags), (None, vec![Flag::Complete]), "{after_head:?}");
        assert_eq!(
            (seen.heads[0].has_body(), &seen.bodies[0][..]),
            (has_body, body.as_bytes()),
            "{after_head:?}"
        );
    }
}

#[test]
fn look_alikes_are_body() {
    for body in [
        "\r\n-------abce$\r\n",
        "\r\n-------abcde$\r\n",
        "\r\n-------abc$\r\n",
        "\r\n-------ABCD$\r\n",
        "\r\n-------abcd+x$\r\n",
        "\r\n-------abcd$ \r\n",
        "\r\n-------abcd$",
        "\r\n-------abcd$\n",
        "\r\n-------abcd$\rx",
        "\r\n-------abcd\r\n",
        "\r\n-------abcd*\r\n",
        "\r\n-------abcd$$\r\n",
        "\r\n------abcd$\r\n",
        "\r\n--------abcd$\r\n",
        "\n-------abcd$\r\n",
        "\r-------abcd$\r\n",
        "x-------abcd$\r\n",
        "x\r\n -------abcd$\r\n",
        "\r\r\n-------abcx",
        "\r\n\r\n-------abcd",
        "\r\n-------\r\n-------abc",
        "\r\n-------abcd$\r\r\n",
        "--------abcd$\r\n",
        "-------abcde$\r\n",
        "MSRP efgh SEND\r\n",
        "\r",
        "\r\n",
        "\r\n-------",
    ] {
        // What ends with a flag would be completed by the end-line's own CRLF.
        let filled = format!("{body}.");
        for body in [body, &filled] {
            if body.ends_with("abcd$") {
                continue;
            }
            let seen = both(with_body(body));
            assert_eq!((seen.error, seen.flags), (None, vec![Flag::Complete]), "{body:?}");
            assert_eq!(seen.bodies[0], body.as_bytes(), "{body:?}");
        }
    }
}

#[test]
fn the_first_end_line_ends_the_body_whatever_stands_before() {
    for before in
        ["", "\r\n", "\r", "\r\n-------abc", "\r\n-------abcd$", "\r\n-------abcd$\r", "-------abcx"]
    {
        if before.ends_with('$') {
            // This one is completed by the CRLF behind it: there the body ends.
            let seen = feed(with_body(before).as_bytes(), 1, &Limits::default());
            assert_eq!((seen.bodies[0].len(), seen.flags.len()), (0, 1));
            continue;
        }
        for (flag, parsed) in [("$", Flag::Complete), ("+", Flag::More), ("#", Flag::Abort)] {
            let wire = format!("MSRP abcd SEND\r\n{TO}{FROM}\r\n{before}\r\n-------abcd{flag}\r\n");
            let seen = both(wire);
            assert_eq!((seen.error, &seen.flags[..]), (None, [parsed].as_slice()), "{before:?}");
            assert_eq!(seen.bodies[0], before.as_bytes());
        }
    }
}

#[test]
fn blank_lines_between_messages_are_skipped_and_nothing_else_is() {
    let message = with_body("x");
    for between in ["", "\r\n", "\r\n\r\n\r\n"] {
        let seen = both(format!("{between}{message}{between}{message}{between}"));
        assert_eq!((seen.error, seen.flags.len()), (None, 2));
    }
    for between in ["\n", "\r", " ", "\r\n ", "\r\r\n", "\0"] {
        let seen = both(format!("{message}{between}{message}"));
        assert!(matches!(seen.error, Some(DecodeError::NotMsrp(_))), "{between:?} {seen:?}");
        assert_eq!(seen.flags.len(), 1);
    }
}

#[test]
fn what_is_not_msrp_is_refused_at_its_first_wrong_byte() {
    for wire in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"POST",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"M\0",
        b"MSR ",
        b"MSRPS ",
        b"MSRP\r\n",
        b"MSRP\t",
        b"msrp abcd SEND\r\n",
        b"\0",
        b"\xff\xfe",
        b"SIP/2.0 200 OK\r\n",
    ] {
        let wrong = wire.iter().zip(b"MSRP ").take_while(|(a, b)| a == b).count();
        let (mut decoder, mut buf) = (Decoder::default(), BytesMut::new());
        for (place, byte) in wire.iter().enumerate() {
            buf.extend_from_slice(&[*byte]);
            let decoded = decoder.decode(&mut buf);
            if place < wrong {
                assert_eq!(decoded, Ok(None));
            } else {
                assert!(matches!(decoded, Err(DecodeError::NotMsrp(_))), "{}", wire.escape_ascii());
                break;
            }
        }
    }
}

#[test]
fn start_lines_by_the_grammar() {
    for (line, kind) in [
        ("abcd SEND", Kind::Request(Method::Send)),
        ("abcd REPORT", Kind::Request(Method::Report)),
        ("abcd AUTH", Kind::Request(Method::Auth)),
        ("abcd NICKNAME", Kind::Request(Method::Other("NICKNAME"))),
        ("abcd SENDX", Kind::Request(Method::Other("SENDX"))),
        ("abcd X", Kind::Request(Method::Other("X"))),
        ("abcd 200", Kind::Response(StatusCode::OK)),
        ("abcd 200 ", Kind::Response(StatusCode::OK)),
        ("abcd 200 OK", Kind::Response(StatusCode::OK)),
        ("abcd 200 \u{fc}ber alles", Kind::Response(StatusCode::OK)),
        ("abcd 000", Kind::Response(StatusCode::new(0).unwrap())),
    ] {
        let seen = both(format!("MSRP {line}\r\n{TO}{FROM}-------abcd$\r\n"));
        assert_eq!(seen.error, None, "{line}");
        assert_eq!(seen.heads[0].kind(), kind);
        assert_eq!(seen.heads[0].after_transaction_id(), &line.as_bytes()[5..]);
    }
    for line in [
        "abcd",
        "abcd ",
        "abcd send",
        "abcd SEND ",
        "abcd SEND x",
        " SEND",
        "abcd  SEND",
        "abcd 20",
        "abcd 2000",
        "abcd 200OK",
        "abcd 20x",
        "abcd SEND1",
        "ab cd SEND",
        "ab$d SEND",
        "-bcd SEND",
        "",
    ] {
        let wire = format!("MSRP {line}\r\n{TO}{FROM}-------abcd$\r\n");
        assert!(matches!(error(wire), DecodeError::StartLine(_)), "{line:?}");
    }
}

#[test]
fn transaction_ids_have_4_to_32_characters() {
    for (len, fits) in
        [(1, false), (3, false), (4, true), (5, true), (31, true), (32, true), (33, false), (200, false)]
    {
        let id = "a".repeat(len);
        let seen = both(format!("MSRP {id} SEND\r\n{TO}{FROM}\r\nx\r\n-------{id}$\r\n"));
        assert_eq!(seen.error.is_none(), fits, "{len}");
        assert_eq!(seen.flags.len(), usize::from(fits));
    }
}

#[test]
fn the_paths_come_first_and_once_and_in_order() {
    let wrong = |fields: &str, name: Name| {
        for end in ["-------abcd$\r\n", "\r\nx\r\n-------abcd$\r\n"] {
            let wire = format!("MSRP abcd SEND\r\n{fields}{end}");
            assert_eq!(error(wire), DecodeError::PathOrder(name), "{fields:?}");
        }
    };
    wrong("", Name::ToPath);
    wrong(TO, Name::FromPath);
    wrong(FROM, Name::ToPath);
    wrong(&format!("{FROM}{TO}"), Name::ToPath);
    wrong(&format!("X: y\r\n{TO}{FROM}"), Name::ToPath);
    wrong(&format!("{TO}X: y\r\n{FROM}"), Name::FromPath);
    wrong(&format!("{TO}{TO}{FROM}"), Name::FromPath);
    wrong(&format!("{TO}{FROM}{TO}"), Name::ToPath);
    wrong(&format!("{TO}{FROM}X: y\r\n{FROM}"), Name::FromPath);
}

#[test]
fn paths_hold_uris_and_nothing_else() {
    let paths = |to: &str| format!("MSRP abcd SEND\r\nTo-Path:{to}\r\n{FROM}-------abcd$\r\n");
    for (to, count) in [
        ("msrp://a/b;tcp", 1),
        (" msrp://a/b;tcp ", 1),
        (" msrp://a/b;tcp msrps://c:1/d;ws", 2),
        (" msrp://a/b;tcp  msrps://c:1/d;ws", 2),
        ("\tmsrp://a/b;quic9", 1),
    ] {
        let seen = both(paths(to));
        assert_eq!(seen.heads[0].to_path().len(), count, "{to:?}");
    }
    for to in [
        "",
        " ",
        " x",
        " http://a/b;tcp",
        " msrp://a/b",
        " msrp://a/b;tcp,msrp://c/d;tcp",
        " msrp://a/b;tcp x",
        " msrp://a/b;tcp\tmsrp://a/b;tcp",
        " msrp://\u{fc}/b;tcp",
    ] {
        assert!(matches!(error(paths(to)), DecodeError::Uri { name: Name::ToPath, .. }), "{to:?}");
    }
}

#[test]
fn header_lines_are_taken_as_they_are_met() {
    let fields =
        b"message-id:mid12345\r\nX-Unknown:  two spaces \t\r\nX-Bytes: \xff\xfe\x80\r\nbyte-RANGE: 1-*/*\r\n\
        X-Empty:\r\nX-Unknown: again\r\nX-Tab: a\tb\r\nContent-Type:text/plain\r\n";
    let wire = [
        b"MSRP abcd SEND\r\nto-path:msrp://a.b:1/s;tcp\r\nFROM-PATH:msrp://c.d:2/t;tcp\r\n",
        &fields[..],
        b"\r\nx\r\n-------abcd$\r\n",
    ]
    .concat();
    let seen = both(wire);
    let head = &seen.heads[0];
    assert_eq!(head.message_id(), Ok(Some("mid12345")));
    assert_eq!(head.byte_range().unwrap().unwrap().to_string(), "1-*/*");
    assert_eq!(head.value(Name::ContentType), Some(b"text/plain".as_slice()));
    assert_eq!(head.bytes_after_paths(), fields, "byte for byte");
    let lines: Vec<u8> = head.lines_after_paths().flat_map(|(_, line)| line).copied().collect();
    assert_eq!(lines, fields);
    let unknown: Vec<_> = head.fields().filter(|(name, _)| name.starts_with("X-")).collect();
    assert_eq!(
        unknown,
        [
            ("X-Unknown", b"two spaces".as_slice()),
            ("X-Bytes", b"\xff\xfe\x80"),
            ("X-Empty", b""),
            ("X-Unknown", b"again"),
            ("X-Tab", b"a\tb"),
        ]
    );
}

#[test]
fn header_lines_that_are_none() {
    for line in [
        "X",
        "X y",
        ": y",
        " X: y",
        "X : y",
        "X y: z",
        "1X: y",
        "X\u{fc}: y",
        "X: \0",
        "X: a\rb",
        "X: \x7f",
        "-------abcd",
        "-------abce$",
        "-------abcd$ ",
        "(X): y",
        "X: \x1b",
    ] {
        let wire = format!("MSRP abcd SEND\r\n{TO}{FROM}{line}\r\n-------abcd$\r\n");
        assert!(matches!(error(wire), DecodeError::HeaderLine(_)), "{line:?}");
    }
}

#[test]
fn a_bare_line_feed_is_an_error_in_a_head_and_body_in_a_body() {
    for wire in [
        format!("MSRP abcd SEND\n{TO}{FROM}-------abcd$\r\n"),
        format!("MSRP abcd SEND\r\nTo-Path: msrp://a.b:1/s;tcp\n{FROM}-------abcd$\r\n"),
        format!("MSRP abcd SEND\r\n{TO}{FROM}-------abcd$\n"),
        format!("MSRP abcd SEND\r\n{TO}{FROM}\nx\r\n-------abcd$\r\n"),
    ] {
        assert_eq!(error(wire), DecodeError::BareLineFeed);
    }
    assert_eq!(both(with_body("a\nb\n")).bodies[0], b"a\nb\n");
}

#[test]
fn the_limit_of_the_head_is_exact_and_does_not_count_its_end() {
    let fixed = format!("MSRP abcd SEND\r\n{TO}{FROM}");
    for limit in [fixed.len() + 10, 16 * 1024] {
        let limits = Limits { head_bytes: limit, ..Limits::default() };
        for (len, fits) in [(limit - 1, true), (limit, true), (limit + 1, false), (limit + 60, false)] {
            let filling = "y".repeat(len - fixed.len() - "X: \r\n".len());
            for end in ["-------abcd$\r\n", "\r\nx\r\n-------abcd$\r\n"] {
                let wire = format!("{fixed}X: {filling}\r\n{end}");
                let seen = both_with(&wire, &limits);
                assert_eq!(seen.error.is_none(), fits, "{limit} {len} {end:?}");
                if fits {
                    assert_eq!(seen.heads[0].as_bytes().len(), len);
                } else {
                    assert_eq!(seen.error, Some(DecodeError::HeadTooLong(limit)));
                }
            }
        }
    }
}

#[test]
fn the_longest_end_line_fits_behind_a_head_at_its_limit() {
    let id = "i".repeat(32);
    let fixed = format!("MSRP {id} SEND\r\n{TO}{FROM}");
    let limits = Limits { head_bytes: fixed.len(), ..Limits::default() };
    assert_eq!(both_with(format!("{fixed}-------{id}$\r\n"), &limits).flags, [Flag::Complete]);
    assert!(both_with(format!("{fixed}-------{id}x$\r\n"), &limits).error.is_some());
    assert!(both_with(format!("{fixed}X: y\r\n-------{id}$\r\n"), &limits).error.is_some());
}

#[test]
fn a_head_that_never_ends_takes_no_memory_beyond_the_limit() {
    for begin in
        ["MSRP abcd SEND\r\nTo-Path: ".to_owned(), format!("MSRP abcd SEND\r\n{TO}{FROM}"), "MSRP ".into()]
    {
        let (mut decoder, mut buf) = (Decoder::default(), BytesMut::from(begin.as_bytes()));
        let error = loop {
            buf.extend_from_slice(b"y");
            match decoder.decode(&mut buf) {
                Ok(None) => assert!(buf.len() < 17_000),
                Ok(event) => panic!("{event:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, DecodeError::HeadTooLong(16_384));
        assert!(buf.len() <= 16_384 + 42);
    }
}

#[test]
fn the_number_of_fields_is_limited() {
    for (fields, fits) in [(63, true), (64, true), (65, false)] {
        let more = "X: y\r\n".repeat(fields - 2);
        let seen = both(format!("MSRP abcd SEND\r\n{TO}{FROM}{more}-------abcd$\r\n"));
        assert_eq!(seen.error, (!fits).then_some(DecodeError::TooManyHeaders(64)), "{fields}");
    }
}

#[test]
fn the_length_of_each_path_is_limited() {
    for (len, fits) in [(31, true), (32, true), (33, false)] {
        let path = vec!["msrp://a/b;tcp"; len].join(" ");
        for paths in [format!("To-Path: {path}\r\n{FROM}"), format!("{TO}From-Path: {path}\r\n")] {
            let seen = both(format!("MSRP abcd SEND\r\n{paths}-------abcd$\r\n"));
            assert_eq!(seen.error, (!fits).then_some(DecodeError::PathTooLong(32)), "{len}");
        }
    }
}

#[test]
fn only_a_send_may_have_a_body_over_10240_bytes() {
    for start in ["REPORT", "AUTH", "NICKNAME", "200 OK", "SEND"] {
        for (len, fits) in [(10_239, true), (10_240, true), (10_241, start == "SEND")] {
            let body = "x".repeat(len);
            let seen = both(format!("MSRP abcd {start}\r\n{TO}{FROM}\r\n{body}\r\n-------abcd$\r\n"));
            assert_eq!(seen.error, (!fits).then_some(DecodeError::BodyTooLong(10_240)), "{start} {len}");
            assert_eq!(seen.flags.len(), usize::from(fits));
        }
    }
}

#[test]
fn errors_name_the_beginning_of_what_was_wrong_and_no_more() {
    let long = format!("MSRP {}\r\n", "\u{1}".repeat(500));
    let DecodeError::StartLine(excerpt) = error(long) else { panic!() };
    assert_eq!(excerpt.len(), 40);
    let text = error("GET /\r\n").to_string();
    assert!(text.contains("GET /"), "{text}");
}

#[test]
fn recycled_heads_leave_no_trace() {
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::new());
    for fields in ["X: y\r\nMessage-ID: mid12345\r\n", "", "Y: z\r\n"] {
        buf.extend_from_slice(format!("MSRP abcd SEND\r\n{TO}{FROM}{fields}-------abcd$\r\n").as_bytes());
        let Ok(Some(Event::Head(head))) = decoder.decode(&mut buf) else { panic!() };
        assert_eq!(head.bytes_after_paths(), fields.as_bytes());
        assert_eq!((head.to_path().len(), head.has_body()), (1, false));
        decoder.recycle(head);
        assert_eq!(decoder.decode(&mut buf), Ok(Some(Event::End(Flag::Complete))));
        assert!(decoder.is_between_messages());
    }
}

#[test]
fn a_connection_that_ends_within_a_message_is_seen() {
    let wire = with_body("hello");
    for cut in 1..wire.len() {
        let (mut decoder, mut buf) = (Decoder::default(), BytesMut::from(&wire.as_bytes()[..cut]));
        while decoder.decode(&mut buf).unwrap().is_some() {}
        assert!(!decoder.is_between_messages(), "{cut}");
    }
}

#[test]
fn every_two_cuts_give_the_same() {
    for body in ["", "\r\n-------abcdx", "\r\r\n------"] {
        let wire = [with_body(body), with_body("")].concat();
        let wire = wire.as_bytes();
        let whole = reference::decode(wire, &[], Limits::default());
        assert_eq!((whole.messages.len(), &whole.messages[0].body[..]), (2, body.as_bytes()));
        for first in 1..wire.len() {
            for second in 1..wire.len() - first {
                let cut = reference::decode(wire, &[first, second, usize::MAX], Limits::default());
                assert_eq!(cut, whole, "{body:?} cut after {first} and {second} more");
            }
        }
    }
}

#[test]
fn the_reference_agrees_on_the_simplest() {
    let wire = with_body("hello");
    let parsed = reference::parse(wire.as_bytes());
    assert_eq!((parsed.messages.len(), &parsed.messages[0].body[..]), (1, b"hello".as_slice()));
    reference::compare(&reference::decode(wire.as_bytes(), &[3, 1], Limits::default()), &parsed);
}

#[test]
fn a_start_line_with_a_control_character_is_refused() {
    for (comment, fits) in
        [("all is \u{e9}ll\tright", true), ("a\rb", false), ("a\0b", false), ("a\x7fb", false)]
    {
        let seen = both(format!("MSRP abcd 200 {comment}\r\n{TO}{FROM}-------abcd$\r\n"));
        assert_eq!(seen.error.is_none(), fits, "{comment:?}");
    }
}
