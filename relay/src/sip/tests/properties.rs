//! Whatever is in a message, it goes where it may and nowhere else.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use tcp_transport::sip::{Event, Framer, Limits, Name};

use super::harness::*;
use crate::sip::{Destination, Outcome};

/// Lines that may lead somewhere, in place or not.
fn line() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        Just("edge.example.com"),
        Just("edge.example.com:5060"),
        Just("8@edge.example.com:5061"),
        Just("10.0.0.2"),
        Just("198.51.100.1"),
        Just("x.invalid"),
    ];
    let name = prop_oneof![
        Just("Route"),
        Just("Via"),
        Just("v"),
        Just("Record-Route"),
        Just("Path"),
        Just("Max-Forwards"),
        Just("Proxy-Require"),
        Just("Contact"),
        Just("To")
    ];
    let value = prop_oneof![
        3 => host.clone().prop_map(|host| format!("<sip:{host};lr>")),
        1 => host.clone().prop_map(|host| format!("SIP/2.0/TCP {host};branch=z9hG4bK1.0123456789abcdef;rt=AAAA;rport")),
        1 => (host, "[A-Za-z0-9_-]{0,60}").prop_map(|(host, user)| format!("<sip:{user}@{host};lr>, <sip:a>")),
        1 => "[ -~]{0,30}",
        1 => "[0-9]{1,4}",
    ];
    (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"))
}

fn request() -> impl Strategy<Value = String> {
    let method = prop_oneof![Just("INVITE"), Just("REGISTER"), Just("OPTIONS"), Just("ACK"), Just("MESSAGE")];
    let uri = prop_oneof![
        Just("sip:bob@example.com"),
        Just("sip:edge.example.com"),
        Just("tel:+1"),
        Just("sip:victim@198.51.100.1"),
    ];
    (method, uri, vec(line(), 0..6)).prop_map(|(method, uri, lines)| {
        Request { method, uri, fields: &lines.concat(), body: "x", ..Request::default() }.text()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_finds_a_way_that_is_not_signed(text in request(), status in "SIP/2.0 [1-6][0-9]{2} x") {
        let mut net = Net::new();
        let (phone, proxy) = (net.client(8, TLS), net.upstream(0));
        let answer = text.replacen(text.lines().next().unwrap(), &status, 1);
        for text in [text, answer] {
            for from in [&phone, &proxy] {
                let mut stream = BytesMut::from(&*text);
                let event = Framer::new(Limits { max_msg_chunks: None, ..Limits::default() }).decode(&mut stream);
                let Ok(Some(event)) = event else { continue };
                let mut out: Vec<Bytes> = Vec::new();
                let outcome =
                    net.edge.received(&event, from, &net.open, &net.upstreams, &mut net.scratch, &mut out);
                match outcome {
                    Outcome::Send(Destination::Upstream { over: None, .. }) => {
                        prop_assert_eq!(from, &phone);
                    }
                    Outcome::Send(to) => prop_assert!(false, "{:?}", to),
                    Outcome::Respond { .. } | Outcome::Drop(_) | Outcome::Close(_) => {}
                    other => prop_assert!(false, "{:?}", other),
                }
                // What is written is one message, of which the framer of the next hop thinks the same.
                let mut written = BytesMut::from(&*out.concat());
                if let (Event::Message(_), false) = (&event, written.is_empty()) {
                    let mut framer = Framer::new(Limits::default().shared());
                    let again = framer.decode(&mut written);
                    let Ok(Some(Event::Message(again))) = again else {
                        return Err(TestCaseError::fail(format!("{again:?}")));
                    };
                    prop_assert!(written.is_empty());
                    prop_assert_eq!(again.head.fields_of(Name::CallId).count(), 1);
                }
            }
        }
    }
}
