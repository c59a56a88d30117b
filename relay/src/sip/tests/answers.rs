//! What the edge answers itself.

use bytes::{Bytes, BytesMut};
use tcp_transport::sip::{Event, Framer, Name};

use super::harness::*;
use crate::sip::{Destination, Outcome, Unsendable};

fn of(method: &'static str, uri: &'static str) -> Request<'static> {
    Request { method, uri, ..Request::default() }
}

#[test]
fn options_for_the_edge_is_answered_by_it() {
    let mut net = Net::new();
    let (alice, proxy) = (net.client(7, WSS), net.upstream(0));
    for flow in [&alice, &proxy] {
        for uri in
            ["sip:edge.example.com", "sip:EDGE.example.com:5061;transport=tls", "sips:edge.example.com:443"]
        {
            let (status, answer) = net.answered(flow, &of("OPTIONS", uri).text());
            assert_eq!(status, 200);
            for field in ["Allow: OPTIONS", "Accept: */*", "Supported: path, outbound", "CSeq: 1 OPTIONS"] {
                assert!(answer.contains(&format!("\r\n{field}\r\n")), "{answer}");
            }
        }
    }
    let preloaded = Request {
        fields: "Route: <sip:edge.example.com:443;lr>\r\n",
        ..of("OPTIONS", "sip:edge.example.com")
    };
    assert_eq!(net.answered(&alice, &preloaded.text()).0, 200);
    // For users, other hosts, other ports, and what only has our name in its domain, it is not.
    for uri in ["sip:a@edge.example.com", "sip:example.com", "sip:edge.example.com:9"] {
        net.upwards(&alice, &of("OPTIONS", uri).text());
        assert_eq!(net.answered(&proxy, &of("OPTIONS", uri).text()).0, 404);
    }
    net.upwards(&alice, &of("REGISTER", "sip:edge.example.com").text());
}

#[test]
fn answers_have_what_the_request_had_and_a_tag_that_stays() {
    let mut net = Net::new();
    let phone = net.client(8, TLS);
    let fields = "Subject: none of this\r\nRoute: <sip:edge.example.com;lr>\r\n";
    let via = format!("{VIA_OF_PHONE}\r\nVia: SIP/2.0/UDP ua.test;branch=z9hG4bK0");
    let request = Request { fields, via: &via, ..of("OPTIONS", "sip:edge.example.com") }.text();
    let (_, answer) = net.answered(&phone, &request);
    assert_eq!(
        values(&answer, Name::Via),
        [
            "SIP/2.0/TLS 192.168.0.7:5061;rport=40000;branch=z9hG4bKnashds;received=203.0.113.8",
            "SIP/2.0/UDP ua.test;branch=z9hG4bK0",
        ]
    );
    assert!(!answer.contains("Subject") && !answer.contains("Route") && !answer.contains("Max-Forwards"));
    assert!(answer.contains("\r\nFrom: <sip:alice@example.com>;tag=a1\r\nCall-ID: c1@client.invalid\r\n"));
    let to = values(&answer, Name::To).remove(0);
    assert!(to.starts_with("<sip:bob@example.com>;tag=") && to.len() == 26 + 16, "{to}");
    assert_eq!(net.answered(&phone, &request).1, answer, "the same to a retransmission");
    let tagged = Request { to_tag: ";tag=b1", ..of("OPTIONS", "sip:edge.example.com") }.text();
    assert_eq!(values(&net.answered(&phone, &tagged).1, Name::To), ["<sip:bob@example.com>;tag=b1"]);
}

#[test]
fn hops_are_counted_and_none_left_is_483() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    let with = |line: &str| Request::default().text().replace("Max-Forwards: 70\r\n", line);
    assert_eq!(net.answered(&alice, &with("Max-Forwards: 0\r\n")).0, 483);
    assert!(net.upwards(&alice, &with("Max-Forwards: 1\r\n")).1.contains("Max-Forwards: 0\r\n"));
    assert!(
        net.upwards(&alice, &with("MAX-FORWARDS :\r\n 255\r\n")).1.contains("MAX-FORWARDS :\r\n 254\r\n")
    );
    assert!(net.upwards(&alice, &with("")).1.contains("\r\nMax-Forwards: 70\r\n"), "added");
}

#[test]
fn a_request_that_comes_back_the_same_is_in_a_loop() {
    let mut net = Net::new();
    let (alice, bob) = (net.client(7, WSS), net.client(8, TLS));
    let (index, sent) = net.upwards(&alice, &Request::default().text());
    // A client, thought to be an end, sends it on to where it came from.
    let through = sent.replacen("Via: ", "Via: SIP/2.0/TLS b.test;branch=z9hG4bK9\r\nVia: ", 1);
    assert_eq!(net.answered(&bob, &through).0, 482);
    // Elsewhere to it is a spiral (RFC 3261 §16.3 step 4), and so is the way down after the way up.
    net.upwards(&bob, &through.replacen("sip:bob@", "sip:carol@", 1));
    let path = route(&values(&net.upwards(&bob, &of("REGISTER", "sip:x").text()).1, Name::Path));
    let proxy = net.upstream(index);
    let down = sent.replacen("Via: ", &format!("Via: {VIA_OF_UPSTREAM}\r\n{path}Via: "), 1);
    let (_, sent) = net.sent(&proxy, &down);
    let again = sent.replacen("Via: ", &format!("Via: {VIA_OF_UPSTREAM}\r\n{path}Via: "), 1);
    assert_eq!(net.answered(&proxy, &again).0, 482);
}

#[test]
fn extensions_required_of_proxies_are_420_but_not_of_cancel() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    let fields = "Proxy-Require: gum, path\r\nProxy-Require: resin\r\n";
    let (status, answer) = net.answered(&alice, &Request { fields, ..Request::default() }.text());
    assert_eq!(status, 420);
    assert!(answer.contains("\r\nUnsupported: gum, path, resin\r\n"), "{answer}");
    for method in ["CANCEL", "ACK"] {
        net.upwards(&alice, &Request { fields, method, ..Request::default() }.text());
    }
    net.upwards(&alice, &Request { fields: "Require: gum\r\n", ..Request::default() }.text());
}

#[test]
fn request_uris_of_no_telephone_are_refused() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    for (uri, status) in [
        ("nobodyKnowsThisScheme:totallyopaquecontent", 416),
        ("http://example.com/", 416),
        ("sip:bob@example.com?Route=%3Csip:evil.test%3E", 400),
        ("sip:", 400),
        ("sip:bob@", 400),
        ("sips:bob@[::1", 400),
    ] {
        let request = Request { uri, ..Request::default() }.text();
        assert_eq!(net.receive(&alice, &request).0, Outcome::Respond { status, close: false }, "{uri}");
    }
    for uri in ["tel:+493012345", "urn:service:sos", "sip:[::1];x=y"] {
        net.upwards(&alice, &Request { uri, ..Request::default() }.text());
    }
    // Known, but not without TLS.
    let sips = Request { uri: "SIPS:bob@example.com", ..Request::default() };
    assert_eq!(net.answered(&alice, &sips.text()).0, 480);
}

#[test]
fn what_cannot_be_sent_is_answered() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    let request = parse(&Request::default().text());
    let mut out = Vec::new();
    let up = Destination::Upstream { index: 0, over: None };
    let outcome = net.edge.unsendable(&request, &alice, up, Unsendable::Gone, &mut net.scratch, &mut out);
    assert_eq!(outcome, Outcome::Respond { status: 503, close: false });
    assert!(String::from_utf8(out.concat()).unwrap().contains("\r\nRetry-After: 10\r\n"));
    let mut out = Vec::new();
    let down = Destination::Client(8);
    let outcome =
        net.edge.unsendable(&request, &net.upstream(0), down, Unsendable::Gone, &mut net.scratch, &mut out);
    assert_eq!(outcome, Outcome::Respond { status: 430, close: false });
    // An upstream that does not read is a server that is not there; of the edge a client says nothing.
    for (from, to, expected) in [(&alice, up, 503), (&net.upstream(0), down, 480)] {
        let mut out = Vec::new();
        let outcome = net.edge.unsendable(&request, from, to, Unsendable::Full, &mut net.scratch, &mut out);
        assert_eq!(outcome, Outcome::Respond { status: expected, close: false });
        let retry = String::from_utf8(out.concat()).unwrap().contains("\r\nRetry-After:");
        assert_eq!(retry, expected == 503);
    }
    let ok = parse(&response(&Request::default().text(), "200 OK", ""));
    assert!(matches!(
        net.edge.unsendable(&ok, &alice, down, Unsendable::Gone, &mut net.scratch, &mut out),
        Outcome::Drop(_)
    ));
}

/// What becomes of the first thing in a stream.
fn stream(net: &mut Net, from: &crate::sip::Flow, text: &str) -> (Outcome, String) {
    let event = Framer::default().decode(&mut BytesMut::from(text)).unwrap().unwrap();
    let mut out: Vec<Bytes> = Vec::new();
    let outcome = net.edge.received(&event, from, &net.open, &net.upstreams, &mut net.scratch, &mut out);
    (outcome, String::from_utf8(out.concat()).unwrap())
}

#[test]
fn malformed_requests_are_answered_where_that_can_be_and_end_the_connection_where_they_must() {
    let mut net = Net::new();
    let (phone, proxy) = (net.client(8, TLS), net.upstream(0));
    let good = Request::default().text();
    let respond = |status, close| Some(Outcome::Respond { status, close });
    let ack = good.replace("MESSAGE", "ACK");
    for (what, text, of_client, of_upstream) in [
        ("no length", good.replace("Content-Length: 0\r\n", ""), respond(400, true), respond(400, true)),
        ("two From", good.replace("CSeq", "From: <sip:x>\r\nCSeq"), respond(400, false), respond(400, false)),
        (
            "version",
            good.replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"),
            respond(505, false),
            respond(505, false),
        ),
        ("long body", good.replace("Length: 0", "Length: 100000"), respond(413, false), respond(413, false)),
        ("long head", good.replace("CSeq", &format!("X: {}\r\nCSeq", "x".repeat(20_000))), None, None),
        (
            "bad To",
            good.replace("<sip:bob@example.com>", "\"<sip:bob@example.com>"),
            respond(400, false),
            respond(400, false),
        ),
        ("no To", good.replace("To: <sip:bob@example.com>\r\n", ""), None, Some(drop_of("no To"))),
        ("bare LF", good.replace("CSeq", "X: y\nCSeq"), None, None),
        (
            "bad ACK",
            ack.replace("1 ACK", "x"),
            Some(drop_of("malformed CSeq")),
            Some(drop_of("malformed CSeq")),
        ),
        (
            "bad response",
            "SIP/2.0 200 OK\r\nl: 0\r\n\r\n".into(),
            Some(drop_of("no Via")),
            Some(drop_of("no Via")),
        ),
    ] {
        for (from, expected) in [(&phone, of_client), (&proxy, of_upstream)] {
            let (outcome, answer) = stream(&mut net, from, &text);
            match expected {
                Some(expected) => assert_eq!(outcome, expected, "{what}"),
                None => assert!(matches!(outcome, Outcome::Close(_)), "{what}: {outcome:?}"),
            }
            if let Outcome::Respond { status, .. } = outcome {
                let head = answer.split("\r\n\r\n").collect::<Vec<_>>();
                assert_eq!((head.len(), head[1]), (2, ""), "{what}: {answer}");
                assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{answer}");
                assert_eq!(answer.matches("From:").count(), 1, "{answer}");
            }
        }
    }
    assert_eq!(stream(&mut net, &phone, "\r\n").0, Outcome::Alive);
    let ping = Framer::default().whole(Bytes::from_static(b"\r\n\r\n")).unwrap().unwrap();
    assert_eq!(ping, Event::Ping);
    let outcome =
        net.edge.received(&ping, &phone, &net.open, &net.upstreams, &mut net.scratch, &mut Vec::new());
    assert_eq!(outcome, Outcome::Pong);
    let mut silent = Net::with(crate::sip::Settings { crlf_pingpong: false, ..settings() }, 1);
    let Net { edge, open, upstreams, scratch, .. } = &mut silent;
    assert_eq!(edge.received(&ping, &phone, open, upstreams, scratch, &mut Vec::new()), Outcome::Alive);
}

fn drop_of(text: &str) -> Outcome {
    use crate::sip::Reason;
    use tcp_transport::sip::Defect;
    let defects = [Defect::Missing(Name::To), Defect::Missing(Name::Via), Defect::Field(Name::CSeq)];
    let defect = defects.into_iter().find(|defect| defect.to_string() == text);
    Outcome::Drop(Reason::Defect(defect.unwrap()))
}
