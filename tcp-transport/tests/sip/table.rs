//! Valid, torn and malformed messages, each with what is specified for it. Many have their idea from RFC 4475,
//! whose section is named.

use crate::common::{START, message, outcome, over_websocket};

/// A request with one field changed.
fn with(name: &str, line: &str) -> String {
    message(START, &[(name, line)])
}

fn start(line: &str) -> String {
    message(line, &[])
}

const GOOD: &str = "message 5";

#[test]
fn every_message_ends_in_the_specified_result() {
    let good = message(START, &[]);
    let response = message("SIP/2.0 200 OK", &[]);
    let two = format!("{good}{good}");
    let long_value = format!("Subject: {}", "x".repeat(8000));
    let table: Vec<(&str, String, &str)> = vec![
        // Valid.
        ("plain", good.clone(), GOOD),
        ("two in one read", two.clone(), "message 5, message 5"),
        ("response", response.clone(), GOOD),
        ("response without a reason", message("SIP/2.0 200 ", &[]), GOOD),
        (
            "reason with UTF-8 (§3.1.1.12)",
            message("SIP/2.0 200 = 2**3 * 5**2 но сто девяносто девять", &[]),
            GOOD,
        ),
        (
            "no body",
            with("Content-Length", "Content-Length: 0").replace("\r\n\r\nhello", "\r\n\r\n"),
            "message 0",
        ),
        ("compact Content-Length", with("Content-Length", "l: 5"), GOOD),
        (
            "compact names (§3.1.1.1)",
            message(
                START,
                &[
                    ("Via", "v: SIP/2.0/TCP a.test;branch=z9hG4bK1"),
                    ("To", "t: sip:bob@example.com"),
                    ("From", "f: sip:alice@example.com;tag=1"),
                    ("Call-ID", "i: 1"),
                ],
            ),
            GOOD,
        ),
        ("names in any case", with("Call-ID", "cALL-iD: 1"), GOOD),
        ("space before the colon (§3.1.1.1)", with("Content-Length", "Content-Length \t : \t 5 "), GOOD),
        (
            "leading zeros (§3.1.1.1)",
            message(
                START,
                &[
                    ("Content-Length", "Content-Length: 0005"),
                    ("Max-Forwards", "MAX-FORWARDS: 0068"),
                    ("CSeq", "CSeq: 0009 MESSAGE"),
                ],
            ),
            GOOD,
        ),
        ("folded (§3.1.1.1)", with("Content-Length", "Content-Length:\r\n\t5"), GOOD),
        ("folded within a value", with("CSeq", "CSeq: 7\r\n MESSAGE"), GOOD),
        (
            "folded twice over",
            with("Via", "Via:\r\n \r\n SIP / 2.0\r\n / TCP\r\n a.test\r\n ; branch\r\n = z9hG4bK1"),
            GOOD,
        ),
        (
            "several Vias in one line",
            with("Via", "Via: SIP/2.0/TCP a.test;branch=z9hG4bK1, SIP/2.0/UDP b.test"),
            GOOD,
        ),
        (
            "Via of another protocol below (§3.1.1.1)",
            with("Via", "Via: SIP/2.0/TCP a.test;branch=z9hG4bK1\r\nv: FTTP/9.9/QQ b.test"),
            GOOD,
        ),
        (
            "a comment in Via",
            with("Via", "Via: SIP/2.0/TCP a.test;branch=z9hG4bK1, SIP/2.0/TCP b.test (a, comment)"),
            GOOD,
        ),
        (
            "IPv6 in Via",
            with("Via", "Via: SIP/2.0/TCP [2001:db8::9]:5060;branch=z9hG4bK1;received=[2001:db8::1]"),
            GOOD,
        ),
        (
            "quotes and commas in a display name",
            with("To", r#"To: "J \"X\" <sip:a>, B" <sip:bob@example.com>"#),
            GOOD,
        ),
        ("escaped nulls in a URI (§3.1.1.4)", start("MESSAGE sip:null-%00-null@example.com SIP/2.0"), GOOD),
        (
            "semicolon in the user (§3.1.1.9)",
            start("MESSAGE sip:user;par=u%40example.net@example.com SIP/2.0"),
            GOOD,
        ),
        (
            "method of odd letters (§3.1.1.2)",
            message(
                "!interesting-Method0123456789_*+`.%indeed'~ sip:b@e.com SIP/2.0",
                &[("CSeq", "CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~")],
            ),
            GOOD,
        ),
        ("unknown fields pass", with("X", "X-Unknown: ;;,,;=\""), GOOD),
        ("long value (§3.1.1.7)", with("Subject", &long_value), GOOD),
        (
            "unknown scheme (§3.3.3)",
            start("MESSAGE nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0"),
            GOOD,
        ),
        ("tel URI", start("MESSAGE tel:+493012345 SIP/2.0"), GOOD),
        ("Max-Forwards 0 (§3.3.11)", with("Max-Forwards", "Max-Forwards: 0"), GOOD),
        ("no Max-Forwards", with("Max-Forwards", ""), GOOD),
        ("Contact: *", with("Contact", "Contact: *"), GOOD),
        (
            "body that looks like a message",
            message(START, &[("Content-Length", "l: 25")]) + " sip:x SIP/2.0\r\n\r\nxx",
            "message 25",
        ),
        // Between messages.
        ("CRLF before a message", format!("\r\n{good}"), "pong, message 5"),
        ("ping before a message", format!("\r\n\r\n{good}"), "pong, ping, message 5"),
        ("ping after a message", format!("{good}\r\n\r\n"), "message 5, pong, ping"),
        ("three CRLF", "\r\n\r\n\r\n".into(), "pong, ping, pong"),
        ("CRLF, message, CRLF are no ping", format!("\r\n{good}\r\n"), "pong, message 5, pong"),
        // Torn.
        ("nothing", String::new(), ""),
        ("half a CRLF", "\r".into(), "waits"),
        ("half a start line", "MESSAGE sip:bo".into(), "waits"),
        ("half a head", good[..60].into(), "waits"),
        ("a head without its empty line", good[..good.len() - 7].into(), "waits"),
        ("half a body", good[..good.len() - 2].into(), "waits"),
        ("one and a half", two[..two.len() - 3].into(), "message 5, waits"),
        (
            "Content-Length beyond the message (§3.1.2.2)",
            with("Content-Length", "Content-Length: 9999"),
            "waits",
        ),
        // What is wrong and leaves the next message in its place.
        ("Via missing", with("Via", "") + &good, "400 no Via +mute, message 5"),
        ("To missing (§3.3.1)", with("To", "") + &good, "400 no To +mute, message 5"),
        ("From missing (§3.3.1)", with("From", ""), "400 no From +mute"),
        ("Call-ID missing", with("Call-ID", ""), "400 no Call-ID +mute"),
        ("CSeq missing", with("CSeq", ""), "400 no CSeq +mute"),
        (
            "two of From (§3.3.8)",
            with("From", "From: sip:a@b;tag=1\r\nf: sip:a@c;tag=2"),
            "400 more than one From",
        ),
        (
            "two of CSeq (§3.3.8)",
            with("CSeq", "CSeq: 1 MESSAGE\r\nCSeq: 2 MESSAGE"),
            "400 more than one CSeq",
        ),
        (
            "two of Max-Forwards (§3.3.8)",
            with("Max-Forwards", "Max-Forwards: 1\r\nMax-Forwards: 2"),
            "400 more than one Max-Forwards",
        ),
        (
            "CSeq of another method (§3.1.2.17)",
            with("CSeq", "CSeq: 8 INVITE") + &good,
            "400 CSeq names another method, message 5",
        ),
        (
            "CSeq too large (§3.1.2.4)",
            with("CSeq", "CSeq: 36893488147419103232 MESSAGE"),
            "400 malformed CSeq",
        ),
        ("CSeq of 2^31", with("CSeq", "CSeq: 2147483648 MESSAGE"), "400 malformed CSeq"),
        ("CSeq without a number", with("CSeq", "CSeq: MESSAGE"), "400 malformed CSeq"),
        (
            "Max-Forwards of 300 (§3.1.2.4)",
            with("Max-Forwards", "Max-Forwards: 300"),
            "400 malformed Max-Forwards",
        ),
        ("Max-Forwards of words", with("Max-Forwards", "Max-Forwards: many"), "400 malformed Max-Forwards"),
        (
            "unterminated quote (§3.1.2.6)",
            with("To", "To: \"Mr. J. User <sip:j.user@example.com>"),
            "400 malformed To",
        ),
        (
            "no brackets around a URI with headers (§3.1.2.13)",
            with("Contact", "Contact: sip:u@e.com?Route=%3Csip:s.example.com%3E"),
            "400 malformed Contact",
        ),
        (
            "comma in a display name without quotes (§3.1.2.15)",
            with("To", "To: Bell, Alexander <sip:a.g.bell@example.com>"),
            "400 malformed To",
        ),
        (
            "space within brackets (§3.1.2.14)",
            with("To", "To: \"Watson\" < sip:t.watson @example.org >"),
            "400 malformed To",
        ),
        (
            "extra separators in Via (§3.1.2.1)",
            with("Via", "Via: SIP/2.0/TCP a.test;;,;,,"),
            "400 malformed Via",
        ),
        ("Via without sent-by", with("Via", "Via: SIP/2.0/TCP"), "400 malformed Via"),
        ("an empty Via", with("Via", "Via:"), "400 malformed Via +mute"),
        ("bad second Via", with("Via", "Via: SIP/2.0/TCP a.test\r\nVia: x"), "400 malformed Via"),
        ("bad Route", with("Route", "Route: <sip:a.test;lr>, nonsense"), "400 malformed Route"),
        ("bad Proxy-Require", with("Proxy-Require", "Proxy-Require: a b"), "400 malformed Proxy-Require"),
        ("an empty Call-ID", with("Call-ID", "Call-ID:"), "400 malformed Call-ID +mute"),
        ("a line without a colon", with("X", "nonsense"), "400 malformed header line"),
        ("a line without a name", with("X", ": x"), "400 malformed header line"),
        ("a control character", with("X", "Subject: a\0b"), "400 control character in the head"),
        (
            "brackets around the Request-URI (§3.1.2.7)",
            start("MESSAGE <sip:user@example.com> SIP/2.0"),
            "400 malformed start line",
        ),
        (
            "space in the Request-URI (§3.1.2.8)",
            start("MESSAGE sip:user@example.com; lr SIP/2.0"),
            "400 malformed start line",
        ),
        (
            "two spaces in the start line (§3.1.2.9)",
            start("MESSAGE  sip:user@example.com  SIP/2.0"),
            "400 malformed start line",
        ),
        (
            "space after the version (§3.1.2.10)",
            start("MESSAGE sip:user@example.com SIP/2.0  "),
            "400 malformed start line",
        ),
        ("no scheme", start("MESSAGE bob SIP/2.0"), "400 malformed start line"),
        (
            "another version (§3.1.2.16)",
            start("MESSAGE sip:user@example.com SIP/7.0"),
            "505 version not supported",
        ),
        (
            "version without numbers",
            start("MESSAGE sip:user@example.com SIP/two"),
            "400 malformed start line",
        ),
        (
            "status too large (§3.1.2.19)",
            message("SIP/2.0 4294967301 better not break the receiver", &[]),
            "400 malformed start line +mute",
        ),
        ("status 099", message("SIP/2.0 099 Low", &[]), "400 malformed start line +mute"),
        (
            "bad ACK is not answered",
            message("ACK sip:a@b SIP/2.0", &[("CSeq", "CSeq: x")]),
            "400 malformed CSeq +mute",
        ),
        (
            "bad response is not answered",
            message("SIP/2.0 200 OK", &[("To", "To: \"")]),
            "400 malformed To +mute",
        ),
        // What is wrong and hides the next message.
        (
            "Content-Length missing (RFC 3261 §18.3)",
            with("Content-Length", "") + &good,
            "400 no Content-Length +last",
        ),
        (
            "Content-Length negative (§3.1.2.3)",
            with("Content-Length", "Content-Length: -999"),
            "400 malformed Content-Length +last",
        ),
        (
            "Content-Length with a sign",
            with("Content-Length", "Content-Length: +5"),
            "400 malformed Content-Length +last",
        ),
        (
            "Content-Length of a list",
            with("Content-Length", "Content-Length: 5, 5"),
            "400 malformed Content-Length +last",
        ),
        (
            "Content-Length beyond 32 bits",
            with("Content-Length", "Content-Length: 4294967296"),
            "400 malformed Content-Length +last",
        ),
        (
            "two of Content-Length (§3.3.9)",
            with("Content-Length", "Content-Length: 5\r\nl: 7"),
            "400 more than one Content-Length +last",
        ),
        (
            "two of Content-Length that agree",
            with("Content-Length", "Content-Length: 5\r\nl: 5"),
            "400 more than one Content-Length",
        ),
        ("LF alone ends a line", with("X", "Subject: x\nContent-Length: 0"), "400 CR or LF alone +last"),
        ("CR alone in a line", with("X", "Subject: x\rContent-Length: 0"), "400 CR or LF alone +last"),
        // What is no SIP.
        ("HTTP", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), "not SIP"),
        ("MSRP", "MSRP d93kswow SEND\r\n".into(), "not SIP"),
        ("a TLS handshake", "\x16\x03\x01\x02\0\x01\0".into(), "not SIP"),
        ("a start line that is none", "hello\r\n".into(), "not SIP"),
        ("a version alone", " SIP/2.0\r\n\r\n".into(), "400 no Content-Length +last +mute"),
        ("CR and no LF", "\rMESSAGE sip:a SIP/2.0\r\n\r\n".into(), "400 CR or LF alone +last +mute"),
        ("garbage after a message", format!("{good}\u{1}"), "message 5, not SIP"),
    ];
    assert!(table.len() >= 90, "{}", table.len());
    let mut wrong = String::new();
    for (name, bytes, expected) in &table {
        let outcome = outcome(bytes.as_bytes());
        if outcome != *expected {
            wrong += &format!("{name}:\n  is   {outcome}\n  want {expected}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn over_websocket_one_message_is_one_message() {
    let good = message(START, &[]);
    let table = [
        ("plain", good.clone(), GOOD),
        ("no Content-Length", with("Content-Length", ""), GOOD),
        ("more than Content-Length (RFC 3261 §18.3)", good.clone() + "more", GOOD),
        (
            "less than Content-Length (RFC 3261 §18.3)",
            good[..good.len() - 1].into(),
            "400 body shorter than Content-Length",
        ),
        ("no empty line", good[..good.len() - 9].into(), "400 no empty line after the head"),
        ("two of Content-Length", with("Content-Length", "l: 5\r\nl: 5"), "400 more than one Content-Length"),
        ("a bad field", with("To", "To: \""), "400 malformed To"),
        ("a keep-alive", "\r\n\r\n".into(), "ping"),
        ("its answer", "\r\n".into(), "pong"),
        ("nothing", String::new(), ""),
        ("three CRLF", "\r\n\r\n\r\n".into(), "not SIP"),
        ("text", "hello".into(), "not SIP"),
    ];
    for (name, bytes, expected) in table {
        assert_eq!(over_websocket(bytes.as_bytes()), expected, "{name}");
    }
}
