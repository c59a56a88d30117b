//! Any message, any slicing: encoder and decoder against each other and against a simple reference;
//! and what decoding costs.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod reference;

use bytes::BytesMut;
use msrp_proto::decoder::{Decoder, Event, Limits};
use msrp_proto::encoder::{self, HeadWriter};
use msrp_proto::first_hop::{FirstHop, first_hop};
use msrp_proto::flag::Flag;
use msrp_proto::header::Name;
use msrp_proto::ident::TransactionId;
use msrp_proto::status::StatusCode;
use proptest::prelude::*;
use reference::{compare, decode, parse, unlimited};

/// A message to be encoded.
#[derive(Clone, Debug)]
struct Sample {
    id: TransactionId,
    start: Start,
    to_path: Vec<String>,
    from_path: Vec<String>,
    fields: Vec<Vec<u8>>,
    body: Option<Vec<u8>>,
    flag: Flag,
}

#[derive(Clone, Debug)]
enum Start {
    Request(String),
    Response(StatusCode),
    Forwarded(Vec<u8>),
}

fn id() -> impl Strategy<Value = TransactionId> {
    "[A-Za-z0-9][A-Za-z0-9.+%=-]{3,31}".prop_map(|text| TransactionId::new(text.as_bytes()).unwrap())
}

fn uri() -> impl Strategy<Value = String> {
    "msrps?://([a-z]{1,5}@)?([a-z0-9]{1,8}(\\.[a-z]{1,4})?|\\[::[0-9]\\]):[1-9][0-9]{0,3}/[A-Za-z0-9]{0,9}x;(tcp|ws)(;[a-z]{1,3}=[0-9]{1,2})?"
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        4 => Just(Start::Request("SEND".into())),
        1 => Just(Start::Request("REPORT".into())),
        1 => Just(Start::Request("AUTH".into())),
        1 => "[A-Z]{1,12}".prop_map(Start::Request),
        2 => (0u16..1000).prop_map(|code| Start::Response(StatusCode::new(code).unwrap())),
        1 => "[0-9]{3}( [ -~]{0,12})?".prop_map(|text| Start::Forwarded(text.into_bytes())),
    ]
}

/// A line of a header field, of known and unknown name, with any bytes that may stand there.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        "X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,10}",
        prop::sample::select(vec![
            "Message-ID",
            "byte-range",
            "STATUS",
            "Use-Path",
            "Content-Type",
            "Content-ID"
        ])
        .prop_map(str::to_owned),
    ];
    let byte = any::<u8>().prop_filter("text", |byte| !byte.is_ascii_control() || *byte == b'\t');
    (name, "[ \t]{0,2}", prop::collection::vec(byte, 0..20))
        .prop_map(|(name, space, value)| [name.as_bytes(), b":", space.as_bytes(), &value, b"\r\n"].concat())
}

/// Bodies with all that looks like an end-line and is none.
fn body(id: TransactionId) -> impl Strategy<Value = Vec<u8>> {
    let text = id.to_string();
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..30),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"-------".to_vec()),
        Just(text.clone().into_bytes()),
        Just(b"$".to_vec()),
        Just(b"+\r\n".to_vec()),
        Just(b"MSRP ".to_vec()),
        Just(format!("\r\n-------{text}").into_bytes()),
        Just(format!("\r\n-------{text}$").into_bytes()),
        Just(format!("\r\n-------{text}$\r").into_bytes()),
        Just(format!("\r\n-------{text}$x\r\n").into_bytes()),
        Just(format!("\r\n-------{text}x$\r\n").into_bytes()),
        Just(format!("\r\n------{text}$\r\n").into_bytes()),
        Just(format!("\n-------{text}#\r\n").into_bytes()),
        (0..text.len()).prop_map(move |cut| format!("\r\n-------{}", &text[..cut]).into_bytes()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat()).prop_filter(
        "holds its end-line",
        move |body| {
            let mut whole = b"\r\n".to_vec();
            whole.extend_from_slice(body);
            encoder::end_line(&mut whole, &id, Flag::Complete);
            let begin = format!("\r\n-------{id}");
            let first = (0..whole.len()).find(|at| {
                whole[*at..]
                    .strip_prefix(begin.as_bytes())
                    .is_some_and(|rest| matches!(rest, [b'$' | b'+' | b'#', b'\r', b'\n', ..]))
            });
            first == Some(body.len() + 2)
        },
    )
}

fn sample() -> impl Strategy<Value = Sample> {
    let flag = prop::sample::select(vec![Flag::Complete, Flag::More, Flag::Abort]);
    let path = || prop::collection::vec(uri(), 1..4);
    (id(), start(), path(), path(), prop::collection::vec(field(), 0..6), flag, any::<bool>()).prop_flat_map(
        |(id, start, to_path, from_path, fields, flag, has_body)| {
            let body = if has_body { body(id).prop_map(Some).boxed() } else { Just(None).boxed() };
            body.prop_map(move |body| Sample {
                id,
                start: start.clone(),
                to_path: to_path.clone(),
                from_path: from_path.clone(),
                fields: fields.clone(),
                body,
                flag,
            })
        },
    )
}

impl Sample {
    fn encode(&self, out: &mut Vec<u8>) {
        let head = match &self.start {
            Start::Request(method) => HeadWriter::request(out, &self.id, method),
            Start::Response(status) => HeadWriter::response(out, &self.id, *status),
            Start::Forwarded(text) => HeadWriter::forwarded(out, &self.id, text),
        };
        let mut head = head
            .path(Name::ToPath, self.to_path.iter().map(String::as_str))
            .field(Name::FromPath, self.from_path.join(" "));
        for line in &self.fields {
            head = head.lines(line);
        }
        match &self.body {
            None => head.end(self.flag),
            Some(body) => {
                head.body();
                out.extend_from_slice(body);
                let before = out.len();
                encoder::end_line(out, &self.id, self.flag);
                assert_eq!(out.len() - before, encoder::end_line_len(self.id.as_bytes().len()));
            }
        }
    }

    fn check(&self, message: &reference::Message) {
        assert_eq!(message.head.id, self.id.as_bytes());
        assert_eq!(message.head.to_path, self.to_path);
        assert_eq!(message.head.from_path, self.from_path);
        assert_eq!(message.head.has_body, self.body.is_some());
        assert_eq!(message.body, self.body.clone().unwrap_or_default());
        assert_eq!(message.flag, self.flag.as_byte());
        assert!(message.head.bytes.ends_with(&self.fields.concat()), "kept byte for byte and in order");
        assert_eq!(message.head.fields.len(), self.fields.len() + 2);
    }
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![prop::collection::vec(1usize..12, 1..20), prop::collection::vec(1usize..200, 1..10),]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_first_hop_is_known_before_the_head_is(sample in sample()) {
        let mut bytes = Vec::new();
        sample.encode(&mut bytes);
        let known = first_hop(&bytes);
        match &sample.start {
            Start::Request(_) => {
                let FirstHop::Uri(uri) = &known else { panic!("{known:?}") };
                prop_assert_eq!(uri.as_str(), &sample.to_path[0]);
            }
            _ => prop_assert_eq!(&known, &FirstHop::Other),
        }
        for len in 0..bytes.len() {
            let part = first_hop(&bytes[..len]);
            prop_assert!(part == FirstHop::More || part == known, "{}: {:?}", len, part);
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_however_it_is_sliced(
        samples in prop::collection::vec((sample(), 0usize..3), 1..5),
        sizes in sizes(),
    ) {
        let mut wire = Vec::new();
        for (sample, blank_lines) in &samples {
            wire.extend_from_slice(b"\r\n".repeat(*blank_lines).as_slice());
            sample.encode(&mut wire);
        }
        for sizes in [&sizes[..], &[1], &[]] {
            let decoded = decode(&wire, sizes, Limits::default());
            prop_assert!(!decoded.malformed && decoded.open.is_none());
            prop_assert_eq!(decoded.messages.len(), samples.len());
            for ((sample, _), message) in samples.iter().zip(&decoded.messages) {
                sample.check(message);
            }
            compare(&decoded, &parse(&wire));
        }
    }

    #[test]
    fn what_is_truncated_or_spoilt_is_taken_as_by_the_reference(
        samples in prop::collection::vec(sample(), 1..3),
        sizes in sizes(),
        cut in any::<prop::sample::Index>(),
        spoilt in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(), prop::sample::select(b"\r\n-$+#: ".to_vec())
        ]), 0..4),
    ) {
        let mut wire = Vec::new();
        for sample in &samples {
            sample.encode(&mut wire);
        }
        for (place, byte) in spoilt {
            let place = place.index(wire.len());
            wire[place] = byte;
        }
        wire.truncate(cut.index(wire.len() + 1));
        let expected = parse(&wire);
        for sizes in [&sizes[..], &[1], &[]] {
            compare(&decode(&wire, sizes, unlimited()), &expected);
        }
    }

    #[test]
    fn any_bytes_are_taken_as_by_the_reference(
        wire in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "(MSRP |abcd|SEND| |\r\n|-------|\\$|To-Path: msrp://a/b;tcp\r\n|From-Path: msrp://a/b;tcp\r\n|x){0,30}"
                .prop_map(String::into_bytes),
        ],
        sizes in sizes(),
    ) {
        let expected = parse(&wire);
        for sizes in [&sizes[..], &[1], &[]] {
            compare(&decode(&wire, sizes, unlimited()), &expected);
        }
    }
}

const HEAD: &str = "MSRP abcd1234 SEND\r\nTo-Path: msrp://a.b:1/s;tcp\r\nFrom-Path: msrp://c.d:2/t;tcp\r\n";

#[test]
fn a_body_fed_byte_by_byte_takes_at_most_three_calls_a_byte_and_holds_back_at_most_44() {
    for filling in ["x", "\r\n-------abcd1234x", "\r\n-------abcd1234$\r", "\r", "-", "\r\n------"] {
        let body = filling.repeat((1 << 20) / filling.len());
        let (mut decoder, mut buf) = (Decoder::default(), BytesMut::from(format!("{HEAD}\r\n").as_bytes()));
        assert!(matches!(decoder.decode(&mut buf), Ok(Some(Event::Head(_)))));
        let (mut calls, mut got) = (0, 0);
        for byte in body.bytes() {
            buf.extend_from_slice(&[byte]);
            loop {
                calls += 1;
                match decoder.decode(&mut buf).unwrap() {
                    None => break,
                    Some(Event::Body(bytes)) => got += bytes.len(),
                    Some(event) => panic!("{event:?}"),
                }
            }
            // Each call sees no more than this, so the work of all is linear in their number.
            assert!(buf.len() <= 44, "{} held back", buf.len());
        }
        assert!(calls <= 3 * body.len(), "{filling:?}: {calls} calls");
        assert!(got + 44 >= body.len());
    }
}

#[test]
fn a_head_of_16_kib_fed_byte_by_byte_takes_one_call_a_byte() {
    let mut wire = HEAD.to_owned();
    while wire.len() < 16_000 {
        wire.push_str(&format!("X-Filling: {}\r\n", "y".repeat(400)));
    }
    wire.push_str("\r\n");
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::new());
    for (place, byte) in wire.bytes().enumerate() {
        buf.extend_from_slice(&[byte]);
        let decoded = decoder.decode(&mut buf).unwrap();
        assert_eq!(decoded.is_some(), place + 1 == wire.len());
    }
}

#[test]
fn bodies_and_heads_are_slices_of_the_buffer() {
    let body = "z".repeat(100_000);
    let wire = format!("{HEAD}\r\n{body}\r\n-------abcd1234$\r\n").repeat(3);
    let mut buf = BytesMut::from(wire.as_bytes());
    let memory = buf.as_ptr() as usize..buf.as_ptr() as usize + buf.len();
    let mut decoder = Decoder::default();
    let mut kept = Vec::new();
    while let Some(event) = decoder.decode(&mut buf).unwrap() {
        match event {
            Event::Body(bytes) => kept.push(bytes),
            Event::Head(head) => kept.push(head.as_bytes().clone()),
            Event::End(_) => {}
        }
    }
    assert_eq!(kept.len(), 6, "one slice for each body");
    for bytes in kept {
        let start = bytes.as_ptr() as usize;
        assert!(memory.contains(&start) && memory.contains(&(start + bytes.len() - 1)));
    }
}
