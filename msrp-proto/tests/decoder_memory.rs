//! A decoder that remembers the heads before finds in each head what one finds that has seen nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use bytes::BytesMut;
use msrp_proto::decoder::{DecodeError, Decoder, Event, Limits};
use msrp_proto::head::Head;
use msrp_proto::header::Name;
use proptest::prelude::*;
use proptest::sample::select;

const LIMITS: Limits = Limits { head_bytes: 400, headers: 6, path_len: 3, other_body: 100 };

/// Lines that repeat, in any order, good ones and bad ones.
fn line() -> impl Strategy<Value = &'static str> {
    select(vec![
        "To-Path: msrp://a/1;tcp",
        "To-Path: msrp://a/1;tcp msrp://b/2;tcp",
        "to-path:  msrp://a/1;tcp  msrp://b/2;tcp ",
        "From-Path: msrp://c/3;tcp",
        "From-Path: msrp://c/3;tcp msrp://[::1]:9/4;tcp;x=y",
        "From-Path: msrp://c/",
        "Message-ID: m1234",
        "Message-ID: m12345",
        "Byte-Range: 1-5/5",
        "Content-Type: text/plain",
        "X:",
        "no colon",
    ])
}

/// One message: mostly the paths stand where they have to.
fn message() -> impl Strategy<Value = String> {
    let paths = prop_oneof![
        9 => (select(vec!["To-Path: msrp://a/1;tcp", "To-Path: msrp://d/5;ws msrp://a/1;tcp"]),
              select(vec!["From-Path: msrp://c/3;tcp", "From-Path: msrp://c/33;tcp"]))
            .prop_map(|(to, from)| vec![to, from]),
        1 => prop::collection::vec(line(), 0..3),
    ];
    let start = select(vec!["SEND", "REPORT", "200 OK", "481", "AUTH"]);
    let id = select(vec!["abcd", "abcdefgh", "x123"]);
    (id, start, paths, prop::collection::vec(line(), 0..5), any::<bool>()).prop_map(
        |(id, start, paths, lines, body)| {
            let lines = paths.into_iter().chain(lines).map(|line| format!("{line}\r\n")).collect::<String>();
            let body = if body { "\r\nbody\r\n" } else { "" };
            format!("MSRP {id} {start}\r\n{lines}{body}-------{id}$\r\n")
        },
    )
}

/// All that can be asked of a head.
fn facts(head: &Head) -> String {
    let uris = |uris: Vec<msrp_proto::uri::UriRef<'_>>| {
        uris.iter()
            .map(|uri| {
                let parts = (uri.host(), uri.port(), uri.session_id(), uri.transport());
                format!("{uri} {parts:?} {:?}", uri.parameters().collect::<Vec<_>>())
            })
            .collect::<Vec<_>>()
    };
    format!(
        "{:?} {:?} {} {:?} {:?} {:?} {} {} {:?} {:?}",
        head.kind(),
        head.transaction_id(),
        head.has_body(),
        uris(head.to_path().collect()),
        uris(head.from_path().collect()),
        head.fields().collect::<Vec<_>>(),
        head.to_path_text(0),
        head.from_path_text(),
        head.lines_after_paths().collect::<Vec<_>>(),
        (head.value(Name::MessageId), head.byte_range(), head.bytes_after_paths()),
    )
}

/// What the decoder makes of these bytes, given in pieces of `step`, and the numbers of the paths.
fn decode(
    decoder: &mut Decoder,
    message: &str,
    step: usize,
    recycle: bool,
) -> (Vec<String>, Option<DecodeError>, Option<(u64, Head)>) {
    let (mut facts_of, mut paths, mut buf) = (Vec::new(), None, BytesMut::new());
    for piece in message.as_bytes().chunks(step) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(None) => break,
                Ok(Some(Event::Head(head))) => {
                    facts_of.push(facts(&head));
                    paths = Some((head.paths(), head.clone()));
                    if recycle {
                        decoder.recycle(head);
                    }
                }
                Ok(Some(Event::Body(bytes))) => facts_of.push(format!("{bytes:?}")),
                Ok(Some(Event::End(flag))) => facts_of.push(format!("{flag:?}")),
                Err(error) => return (facts_of, Some(error), paths),
            }
        }
    }
    (facts_of, None, paths)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn what_is_remembered_changes_nothing(
        messages in prop::collection::vec((message(), 1usize..600, any::<bool>(), 0u8..10), 1..12),
    ) {
        let mut one = Decoder::new(LIMITS);
        let mut numbered: Vec<(u64, Head)> = Vec::new();
        for (message, step, recycle, forget) in messages {
            if forget == 0 {
                one.forget();
            }
            let (found, error, paths) = decode(&mut one, &message, step, recycle);
            let (fresh, fresh_error, _) = decode(&mut Decoder::new(LIMITS), &message, step, true);
            // How bodies are cut depends on the pieces alone.
            prop_assert_eq!(found, fresh, "{}", message);
            prop_assert_eq!(&error, &fresh_error, "{}", message);
            if let Some((paths, head)) = paths {
                for (number, before) in &numbered {
                    if *number == paths {
                        prop_assert_eq!(before.to_path_text(0), head.to_path_text(0));
                        prop_assert_eq!(before.from_path_text(), head.from_path_text());
                    }
                }
                numbered.push((paths, head));
            }
            if error.is_some() {
                break;
            }
        }
    }
}

#[test]
fn the_same_paths_have_the_same_number_until_others_come() {
    let mut decoder = Decoder::default();
    let mut number = |to: &str, id: &str| {
        let text = format!(
            "MSRP {id} SEND\r\nTo-Path: {to}\r\nFrom-Path: msrp://c/3;tcp\r\nMessage-ID: {id}\r\n-------{id}$\r\n"
        );
        decode(&mut decoder, &text, 1000, true).2.unwrap().0
    };
    let first = number("msrp://a/1;tcp", "aaaa");
    assert_eq!(number("msrp://a/1;tcp", "bbbbbb"), first);
    let other = number("msrp://a/2;tcp", "aaaa");
    assert_ne!(other, first);
    // Numbers are not given again: who remembers one would take other paths for those.
    let again = number("msrp://a/1;tcp", "aaaa");
    assert!(again != first && again != other);
    assert_eq!(number("msrp://a/1;tcp", "cccc"), again);
}

/// Only a head that is kept lends its number to the next one with the same paths.
#[test]
fn a_head_is_kept_up_to_its_longest() {
    for (len, kept) in [(2047, true), (2048, true), (2049, false)] {
        let head = |filling: &str| {
            format!(
                "MSRP abcd SEND\r\nTo-Path: msrp://a/1;tcp\r\nFrom-Path: msrp://c/3;tcp\r\nX: {filling}\r\n-------abcd$\r\n"
            )
        };
        let mut decoder = Decoder::default();
        let numbered = |decoder: &mut Decoder, text: &str| decode(decoder, text, 4000, true).2.unwrap();
        let (_, empty) = numbered(&mut decoder, &head(""));
        let long = head(&"x".repeat(len - empty.as_bytes().len()));
        let mut decoder = Decoder::default();
        let (first, read) = numbered(&mut decoder, &long);
        assert_eq!(read.as_bytes().len(), len);
        assert_eq!(numbered(&mut decoder, &long).0 == first, kept, "{len}");
    }
}

#[test]
fn a_head_that_is_recycled_within_another_one_does_not_lend_its_number() {
    let text = |to: &str| {
        format!("MSRP abcd SEND\r\nTo-Path: {to}\r\nFrom-Path: msrp://c/3;tcp\r\nX: y\r\n-------abcd$\r\n")
    };
    let mut decoder = Decoder::default();
    let head = |decoder: &mut Decoder, bytes: &mut BytesMut| loop {
        match decoder.decode(bytes).unwrap() {
            Some(Event::Head(head)) => return head,
            Some(_) => {}
            None => panic!("no head"),
        }
    };
    let mut bytes = BytesMut::from(text("msrp://a/1;tcp").as_bytes());
    let first = head(&mut decoder, &mut bytes);
    let mut bytes = BytesMut::from(text("msrp://a/2;tcp").as_bytes());
    let second = head(&mut decoder, &mut bytes);
    decoder.recycle(first.clone());
    // The paths of the first one; then the second one takes its place; then the rest.
    let third = text("msrp://a/1;tcp");
    let (begin, rest) = third.split_at(third.find("X:").unwrap());
    let mut bytes = BytesMut::from(begin.as_bytes());
    while decoder.decode(&mut bytes).unwrap().is_some() {}
    decoder.recycle(second.clone());
    bytes.extend_from_slice(rest.as_bytes());
    let third = head(&mut decoder, &mut bytes);
    assert_eq!(third.paths(), first.paths());
    assert_ne!(third.paths(), second.paths());
}
