//! What is found in a head, and that all else stays as it came.

use bytes::{Bytes, BytesMut};
use tcp_transport::sip::{Event, Framer, Head, Message, Name, Rewrite, Start};

use crate::common::{START, message};

fn parse(text: &str) -> Message {
    match Framer::default().decode(&mut BytesMut::from(text)) {
        Ok(Some(Event::Message(message))) => message,
        other => panic!("{other:?}"),
    }
}

fn values(head: &Head, name: Name) -> Vec<&str> {
    head.values(name).map(|value| std::str::from_utf8(&head[value.unwrap().0]).unwrap()).collect()
}

#[test]
fn the_values_of_a_list_are_found_in_one_line_and_in_many() {
    let lines =
        "Route: <sip:a;lr> ,\r\n <sip:b,c@d;lr>;x=\"1,2\"\r\nRoute:\"a, b\" <sip:e>\r\nX: 1\r\nRoute: sip:f";
    let message = parse(&message(START, &[("Route", lines), ("k", "k: path,outbound\r\nSupported: GRUU")]));
    let head = &message.head;
    assert_eq!(
        values(head, Name::Route),
        ["<sip:a;lr>", "<sip:b,c@d;lr>;x=\"1,2\"", "\"a, b\" <sip:e>", "sip:f"]
    );
    assert!(head.has_option(Name::Supported, "PATH") && head.has_option(Name::Supported, "gruu"));
    assert!(!head.has_option(Name::Supported, "100rel"));
    let lines: Vec<_> = head.fields_of(Name::Route).map(|field| head[field.line()].len()).collect();
    assert_eq!(lines.len(), 3);
    assert!(
        head[head.field(Name::Route).unwrap().line()].ends_with(b"\"1,2\"\r\n"),
        "folds belong to the line"
    );
}

#[test]
fn what_an_edge_asks_for_is_there() {
    let message = parse(&message(
        "REGISTER sips:example.com;x=y SIP/2.0",
        &[
            ("CSeq", "CSeq:  12\tREGISTER "),
            ("Via", "v: SIP/2.0/WSS x.invalid:1;rport;branch=z9hG4bK1 (a, comment), SIP/2.0/TCP b.test"),
        ],
    ));
    let head = &message.head;
    assert_eq!(head.start(), Start::Request { method: b"REGISTER", uri: b"sips:example.com;x=y" });
    assert_eq!(&head[head.uri_range()], b"sips:example.com;x=y");
    assert_eq!(head.max_forwards(), Some(70));
    let cseq = head.cseq().unwrap();
    assert_eq!((cseq.number, cseq.method), (12, &b"REGISTER"[..]));
    let via = head.top_via().unwrap();
    assert_eq!(
        (via.transport(), via.host(), via.branch()),
        (&b"WSS"[..], &b"x.invalid"[..], Some(&b"z9hG4bK1"[..]))
    );
    assert_eq!(values(head, Name::Via).len(), 2);
    assert_eq!(head.address(Name::From).unwrap().tag(), Some(&b"1928301774"[..]));
    assert_eq!(head.address(Name::To).unwrap().tag(), None);
    assert_eq!(head.value(Name::CallId), Some(&b"a84b4c76e66710@ua.example.com"[..]));
    assert_eq!((head.content_length(), &message.body[..]), (Some(5), &b"hello"[..]));
    let response = parse(&crate::common::message("SIP/2.0 404 Not Found", &[]));
    assert_eq!(response.head.start(), Start::Response { status: 404 });
    assert_eq!(response.head.method(), None);
}

#[test]
fn head_and_body_are_slices_of_what_was_read() {
    let text = message(START, &[]);
    let mut buf = BytesMut::from(&*text);
    let at = buf.as_ptr();
    let Ok(Some(Event::Message(message))) = Framer::default().decode(&mut buf) else { panic!() };
    assert_eq!(message.head.bytes().as_ptr(), at);
    assert_eq!(message.body.as_ptr(), at.wrapping_add(message.head.len()));
    let whole = Bytes::from(text);
    let Ok(Some(Event::Message(message))) = Framer::default().whole(whole.clone()) else { panic!() };
    assert_eq!(message.head.bytes().as_ptr(), whole.as_ptr());
}

#[test]
fn a_rewrite_leaves_every_other_byte_as_it_came() {
    let odd = "X-ODD :  \r\n\t a;;b \r\nSUBJECT:no\tspace ";
    let text = message(START, &[("X", odd)]);
    let message = parse(&text);
    let head = &message.head;
    let mut rewrite = Rewrite::default();
    rewrite.insert(head.fields_start(), b"Via: new\r\n");
    rewrite.replace(head.field(Name::MaxForwards).unwrap().value(), b"69");
    rewrite.delete(head.field(Name::To).unwrap().line());
    rewrite.insert(head.fields_end(), b"Z: z\r\n");
    let mut slices = Vec::new();
    rewrite.apply(head, &mut slices);
    slices.push(message.body.clone());
    let expected = text
        .replace("SIP/2.0\r\nVia", "SIP/2.0\r\nVia: new\r\nVia")
        .replace("Forwards: 70", "Forwards: 69")
        .replace("To: Bob <sip:bob@example.com>\r\n", "")
        .replace("space \r\n\r\n", "space \r\nZ: z\r\n\r\n");
    assert_eq!(String::from_utf8(slices.concat()).unwrap(), expected);
}
