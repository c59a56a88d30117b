//! Properties: cuts do not matter, nothing panics, ranges are within, rewriting is by the byte.

use proptest::collection::vec;
use proptest::prelude::*;
use tcp_transport::sip::{Event, Limits, Name, Rewrite};

use crate::common::{START, frame, message, patient};

fn piece() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("Route: <sip:a;lr>, sip:b".to_owned()),
        Just("To: \"x".to_owned()),
        Just("l: 3".to_owned()),
        Just("Content-Length: 5".to_owned()),
        Just(String::new()),
        "[a-zA-Z-]{1,8} ?: ?[ -~]{0,20}",
        "(\r\n|\n|\r|[ -~\t\u{0}é]){0,12}",
    ];
    let name = prop_oneof![Just("Via"), Just("To"), Just("Content-Length"), Just("CSeq"), Just("X")];
    prop_oneof![
        4 => (name, line).prop_map(|(name, line)| message(START, &[(name, &line)])),
        1 => Just("\r\n".to_owned()),
        1 => Just("SIP/2.0 200 OK\r\nl: 0\r\n\r\n".to_owned()),
    ]
}

fn cut<'a>(stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let (mut rest, mut pieces) = (stream, Vec::new());
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

proptest! {
    #[test]
    fn cuts_do_not_matter(pieces in vec(piece(), 0..5), sizes in vec(1usize..80, 1..5), small: bool) {
        let stream = pieces.concat();
        let limits = if small { Limits { head_bytes: 300, message_bytes: 310, ..patient() } } else { patient() };
        let expected = frame([stream.as_bytes()], limits);
        prop_assert_eq!(frame(cut(stream.as_bytes(), &sizes), limits), expected);
    }

    #[test]
    fn what_is_a_message_is_the_bytes_as_they_came(pieces in vec(piece(), 0..5)) {
        let stream = pieces.concat();
        let mut rest = stream.as_bytes();
        for event in frame([stream.as_bytes()], patient()).0 {
            let Event::Message(message) = event else { continue };
            let bytes = [&message.head[..], &message.body[..]].concat();
            let at = rest.windows(bytes.len()).position(|window| window == bytes);
            prop_assert!(at.is_some());
            rest = &rest[at.unwrap() + bytes.len()..];
            for field in message.head.fields() {
                prop_assert!(field.line().end <= message.head.len());
                prop_assert!(field.line().start <= field.value().start && field.value().end <= field.line().end);
            }
            prop_assert!(message.head.is_answerable() || message.head.method().is_none());
            prop_assert!(message.head.top_via().is_some());
            for name in [Name::Via, Name::Route] {
                prop_assert!(message.head.values(name).all(|value| value.is_ok()) || message.head.method().is_none());
            }
        }
    }

    #[test]
    fn a_rewrite_is_what_it_says(edits in vec((0usize..400, 0usize..20, "[a-z]{0,5}"), 0..6)) {
        let text = message(START, &[]);
        let (events, _) = frame([text.as_bytes()], patient());
        let [Event::Message(message)] = &events[..] else { panic!() };
        let head = &message.head;
        // Ranges in order and apart from each other.
        let (mut rewrite, mut expected, mut done) = (Rewrite::default(), String::new(), 0);
        let mut ranges: Vec<_> = edits.iter().map(|(at, len, new)| (at % head.len(), *len, new)).collect();
        ranges.sort_by_key(|(at, ..)| *at);
        let mut kept = Vec::new();
        for (at, len, new) in ranges {
            if at < done { continue; }
            let end = (at + len).min(head.len());
            expected += &text[done..at];
            expected += new;
            done = end;
            kept.push((at..end, new));
        }
        expected += &text[done..head.len()];
        // A place may hold several; their order is that of the calls, so only different ones are swapped.
        kept.dedup_by_key(|(range, _)| range.start);
        if kept.len() != edits.len() { return Ok(()); }
        for (range, new) in kept.iter().rev() {
            rewrite.replace(range.clone(), new.as_bytes());
        }
        let mut out = Vec::new();
        rewrite.apply(head, &mut out);
        prop_assert_eq!(String::from_utf8(out.concat()).unwrap(), expected);
    }
}
