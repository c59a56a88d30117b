//! Long messages: chunks, interruption, streams, abortion, reassembly (RFC 4975 §5.1, §7.1.1, §7.3).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::{Pair, Side, Wire, parse_all, parse_some, uri};
use msrp_proto::chunk::Chunking;
use msrp_proto::decoder::{self, Decoder};
use msrp_proto::endpoint::{
    Config, Event, Message, Outcome, Role, SendError, SessionHandle, SessionOptions, UsageError,
};
use msrp_proto::flag::Flag;
use msrp_proto::status::StatusCode;
use proptest::prelude::*;

const A: &str = "msrp://alice.invalid:2855/aaaa;tcp";
const B: &str = "msrp://bob.invalid:2855/bbbb;tcp";

fn open(pair: &mut Pair) -> (SessionHandle, SessionHandle) {
    open_with(pair, SessionOptions::new(uri(B), vec![], vec![uri(A)], Role::Passive))
}

fn open_with(pair: &mut Pair, bob: SessionOptions) -> (SessionHandle, SessionHandle) {
    let alice = SessionOptions::new(uri(A), vec![], vec![uri(B)], Role::Active);
    let a = pair.a.endpoint.open_session(alice).unwrap();
    let b = pair.b.endpoint.open_session(bob).unwrap();
    pair.run();
    pair.a.take_events();
    pair.b.take_events();
    pair.a.outputs.clear();
    pair.b.outputs.clear();
    (a, b)
}

/// Bytes that tell their place.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn sends(bytes: &[u8]) -> Vec<Wire> {
    parse_some(bytes).0.into_iter().filter(|wire| wire.start() == "SEND").collect()
}

fn chunks_of<'w>(wire: &'w [Wire], media_type: &str) -> Vec<&'w Wire> {
    wire.iter().filter(|wire| wire.field("Content-Type").as_deref() == Some(media_type)).collect()
}

/// The ranges lie one behind the other, say what the bodies hold, and all flags but the last are `+`.
fn check_chunks(chunks: &[&Wire], content: &[u8]) {
    let mut at = 0;
    for (place, chunk) in chunks.iter().enumerate() {
        let range = chunk.head.byte_range().unwrap().unwrap();
        assert_eq!(range.start, at + 1);
        let end = at + chunk.body.len() as u64;
        assert_eq!(chunk.body, content[at as usize..end as usize]);
        assert!(range.end.is_none_or(|declared| declared == end), "{range}");
        assert!(range.end.is_none() || chunk.body.len() <= 2048, "over 2048 must be interruptible");
        let last = place + 1 == chunks.len();
        assert_eq!(chunk.flag, if last { Flag::Complete } else { Flag::More });
        assert!(last || chunk.body.len() >= 2048, "too short: {}", chunk.body.len());
        at = end;
    }
    assert_eq!(at, content.len() as u64);
}

/// No output ends within an end-line.
fn end_lines_are_whole(outputs: &[Bytes]) {
    let mut decoder = Decoder::default();
    let (mut buf, mut id) = (BytesMut::new(), None);
    for output in outputs {
        buf.extend_from_slice(output);
        while let Some(event) = decoder.decode(&mut buf).unwrap() {
            match event {
                decoder::Event::Head(head) => id = Some(head.transaction_id()),
                decoder::Event::Body(_) => {}
                decoder::Event::End(_) => id = None,
            }
        }
        // What the decoder holds back may be the beginning of an end-line, or body.
        if let Some(id) = id {
            let end_line = format!("\r\n-------{id}");
            assert!(!(buf.len() > 8 && end_line.as_bytes().starts_with(&buf)), "{buf:?}");
        }
    }
}

#[test]
fn a_file_goes_in_one_chunk_when_nothing_else_waits() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let file = content(300_000);
    let handle = pair.a.endpoint.send(a, Message::new("application/x", file.clone())).unwrap();
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    assert_eq!(wire.len(), 1);
    assert_eq!(wire[0].field("Byte-Range").as_deref(), Some("1-*/300000"));
    check_chunks(&[&wire[0]], &file);
    end_lines_are_whole(&pair.a.outputs);
    let events = pair.b.take_events();
    let Event::MessageStart { handle: incoming, message, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!(message.total, Some(300_000));
    assert_eq!(
        events[1],
        Event::MessageEnd { handle: *incoming, outcome: Outcome::Complete { total: 300_000 } }
    );
    assert_eq!(pair.b.received[incoming], file);
    assert_eq!(pair.a.take_events(), [Event::Sent { message: handle }, Event::Accepted { message: handle }]);
}

#[test]
fn a_chat_message_interrupts_a_file_at_once() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let file = content(200_000);
    pair.a.endpoint.send(a, Message::new("application/x", file.clone())).unwrap();
    pair.step();
    pair.step();
    let before = pair.a.outputs.concat().len();
    pair.a.endpoint.send(a, Message::new("text/plain", "hello")).unwrap();
    pair.step();
    let after = pair.a.outputs.concat();
    let hello = memchr::memmem::find(&after, b"hello").expect("in the next output");
    assert!(hello - before < 1000, "after {} bytes", hello - before);
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    assert_eq!(wire.len(), 3);
    let chunks = chunks_of(&wire, "application/x");
    check_chunks(&chunks, &file);
    assert_ne!(chunks[0].id(), chunks[1].id());
    assert_eq!(chunks[0].field("Message-ID"), chunks[1].field("Message-ID"));
    end_lines_are_whole(&pair.a.outputs);
    assert!(pair.b.received.values().any(|received| *received == file));
}

#[test]
fn a_response_interrupts_a_file_after_2048_bytes() {
    let mut pair = Pair::new();
    let (a, b) = open(&mut pair);
    let file = content(100_000);
    pair.a.endpoint.send(a, Message::new("application/x", file.clone())).unwrap();
    // The chunk has just begun when the response is to be sent.
    pair.a.transmit(500, pair.now);
    pair.b.endpoint.send(b, Message::new("text/plain", "hello")).unwrap();
    let hello = pair.b.transmit_all(pair.now);
    pair.a.feed(&hello, pair.now);
    pair.a.transmit_all(pair.now);
    let (wire, _) = parse_some(&pair.a.outputs.concat());
    assert_eq!(wire[0].body.len(), 2048);
    assert_eq!((wire[0].flag, wire[1].start().as_str()), (Flag::More, "200 OK"));
    check_chunks(&chunks_of(&wire, "application/x"), &file);
}

#[test]
fn a_report_interrupts_too_and_a_chunk_that_declares_its_end_is_not_interrupted() {
    let mut pair = Pair::new();
    let (a, b) = open(&mut pair);
    pair.a.endpoint.send(a, Message::new("application/x", content(2048))).unwrap();
    pair.a.transmit(500, pair.now);
    let mut message = Message::new("text/plain", "hello");
    message.success_report = true;
    message.failure_report = msrp_proto::header::FailureReport::No;
    pair.b.endpoint.send(b, message.clone()).unwrap();
    let hello = pair.b.transmit_all(pair.now);
    pair.a.feed(&hello, pair.now);
    pair.a.transmit_all(pair.now);
    let (wire, _) = parse_some(&pair.a.outputs.concat());
    assert_eq!(
        (wire[0].flag, wire[0].body.len(), wire[1].start().as_str()),
        (Flag::Complete, 2048, "REPORT")
    );

    pair.a.outputs.clear();
    pair.a.endpoint.send(a, Message::new("application/x", content(50_000))).unwrap();
    pair.a.transmit(5000, pair.now);
    pair.b.endpoint.send(b, message).unwrap();
    let hello = pair.b.transmit_all(pair.now);
    pair.a.feed(&hello, pair.now);
    pair.a.transmit_all(pair.now);
    let (wire, _) = parse_some(&pair.a.outputs.concat());
    assert_eq!((wire[0].flag, wire[1].start().as_str()), (Flag::More, "REPORT"));
    assert!(wire[0].body.len() <= 5000);
}

#[test]
fn two_files_take_turns() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let (one, two) = (content(400_000), content(300_000));
    pair.a.endpoint.send(a, Message::new("application/one", one.clone())).unwrap();
    pair.a.endpoint.send(a, Message::new("application/two", two.clone())).unwrap();
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    let (first, second) = (chunks_of(&wire, "application/one"), chunks_of(&wire, "application/two"));
    check_chunks(&first, &one);
    check_chunks(&second, &two);
    assert!((4..12).contains(&second.len()), "{}", second.len());
    let longest = wire.iter().map(|wire| wire.body.len()).take(wire.len() - 2).max().unwrap();
    assert!(longest <= 64 * 1024 + 16_384, "{longest}");
}

#[test]
fn a_chat_message_overtakes_the_files_that_wait_their_turn() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    for media_type in ["application/one", "application/two", "application/three"] {
        pair.a.endpoint.send(a, Message::new(media_type, content(300_000))).unwrap();
    }
    for _ in 0..10 {
        pair.step();
    }
    let before = sends(&pair.a.outputs.concat()).len();
    pair.a.endpoint.send(a, Message::new("text/plain", "hello")).unwrap();
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    assert_eq!(wire[before + 1].body, b"hello", "right after the chunk that was open");
}

#[test]
fn fixed_chunks_are_as_long_as_asked_and_let_others_through() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let file = content(20_000);
    let message = Message { chunking: Chunking::Fixed(2048), ..Message::new("application/x", file.clone()) };
    pair.a.endpoint.send(a, message).unwrap();
    pair.a.transmit(5000, pair.now);
    pair.a.endpoint.send(a, Message::new("text/plain", "hello")).unwrap();
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    let chunks = chunks_of(&wire, "application/x");
    check_chunks(&chunks, &file);
    assert_eq!(chunks.len(), 10);
    assert_eq!(chunks[9].field("Byte-Range").as_deref(), Some("18433-20000/20000"));
    let hello = wire.iter().position(|wire| wire.body == b"hello").unwrap();
    assert!(hello <= 3, "{hello}");
}

#[test]
fn a_streamed_body_is_asked_for_in_pieces_and_never_held_whole() {
    for (total, chunking) in [
        (Some(3_000_000), Chunking::Interruptible),
        (None, Chunking::Interruptible),
        (None, Chunking::Fixed(2048)),
        (Some(3_000_000), Chunking::Fixed(5000)),
    ] {
        let mut pair = Pair::new();
        let (a, _) = open(&mut pair);
        let file = content(3_000_000);
        let message = Message { chunking, ..Message::streamed("application/x", total) };
        let handle = pair.a.endpoint.send(a, message).unwrap();
        // By hand, to see how much is asked for ahead.
        let (mut provided, mut wire) = (0, 0);
        loop {
            while let Some(event) = pair.a.endpoint.poll_event() {
                if let Event::BodyWanted { offset, len, .. } = event {
                    assert_eq!(offset as usize, provided);
                    assert!(provided + len <= wire + 64 * 1024 + 2048, "held: {}", provided + len - wire);
                    let end = file.len().min(provided + len.min(10_000));
                    let bytes = Bytes::copy_from_slice(&file[provided..end]);
                    pair.a.endpoint.provide_body(handle, bytes).unwrap();
                    provided = end;
                    if provided == file.len() {
                        pair.a.endpoint.finish_body(handle).unwrap();
                    }
                }
            }
            let mut out = BytesMut::new();
            if pair.a.endpoint.poll_transmit(&mut out, 16_384, pair.now) == 0 {
                break;
            }
            wire += out.len();
            pair.a.outputs.push(out.clone().freeze());
            pair.b.feed(&out, pair.now);
        }
        let sent = sends(&pair.a.outputs.concat());
        let chunks: Vec<_> = sent.iter().collect();
        check_chunks(&chunks, &file);
        end_lines_are_whole(&pair.a.outputs);
        assert!(pair.b.received.values().any(|received| *received == file), "{total:?} {chunking:?}");
        assert_eq!(sent[0].head.byte_range().unwrap().unwrap().total, total);
    }
}

#[test]
fn a_slow_source_does_not_hold_up_others() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let file = pair.a.endpoint.send(a, Message::streamed("application/x", None)).unwrap();
    pair.a.drain();
    // Too little to begin with.
    pair.a.endpoint.provide_body(file, vec![b'x'; 2048].into()).unwrap();
    pair.a.endpoint.send(a, Message::new("text/plain", "first")).unwrap();
    assert_eq!(parse_all(&pair.a.transmit_all(pair.now))[0].body, b"first");
    // One byte more is enough, and the chunk stays open while the source is silent.
    pair.a.endpoint.provide_body(file, vec![b'x'; 1].into()).unwrap();
    let (begun, between) = parse_some(&pair.a.transmit_all(pair.now));
    assert!(begun.is_empty() && !between);
    pair.a.endpoint.send(a, Message::new("text/plain", "second")).unwrap();
    pair.a.transmit_all(pair.now);
    let wire = sends(&pair.a.outputs.concat());
    assert_eq!((wire[1].body.len(), wire[1].flag), (2048, Flag::More));
    assert_eq!(wire[2].body, b"second");
    // The byte that was held back is the last one.
    pair.a.endpoint.finish_body(file).unwrap();
    let last = &parse_all(&pair.a.transmit_all(pair.now))[0];
    assert_eq!(last.field("Byte-Range").as_deref(), Some("2049-2049/2049"));
    assert_eq!((last.body.as_slice(), last.flag), (b"x".as_slice(), Flag::Complete));
}

#[test]
fn empty_messages_are_messages() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    pair.a.endpoint.send(a, Message::new("text/plain", "")).unwrap();
    let streamed = pair.a.endpoint.send(a, Message::streamed("text/plain", None)).unwrap();
    pair.a.endpoint.finish_body(streamed).unwrap();
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    assert_eq!(wire.len(), 2);
    for wire in wire {
        assert_eq!((wire.field("Byte-Range").as_deref(), wire.head.has_body()), (Some("1-0/0"), true));
        assert_eq!(wire.flag, Flag::Complete);
    }
    let events = pair.b.take_events();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| matches!(event, Event::Message { body, .. } if body.is_empty())));
}

#[test]
fn wrong_amounts_of_body_are_errors_of_the_caller() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let known = pair.a.endpoint.send(a, Message::streamed("text/plain", Some(4))).unwrap();
    let endpoint = &mut pair.a.endpoint;
    assert_eq!(endpoint.provide_body(known, "12345".into()), Err(UsageError::BodyTooLong));
    endpoint.provide_body(known, "123".into()).unwrap();
    assert_eq!(endpoint.finish_body(known), Err(UsageError::BodyTooShort));
    endpoint.provide_body(known, "4".into()).unwrap();
    endpoint.finish_body(known).unwrap();
    let unknown = endpoint.send(a, Message::streamed("text/plain", None)).unwrap();
    endpoint.finish_body(unknown).unwrap();
    assert_eq!(endpoint.provide_body(unknown, "1".into()), Err(UsageError::BodyTooLong));
}

#[test]
fn the_end_line_in_the_body_ends_the_chunk_before_it() {
    for place in [0, 100, 2020, 2040, 2046, 2048, 2060, 9000] {
        let mut pair = Pair::new();
        let (a, _) = open(&mut pair);
        let message =
            |body| Message { message_id: Some("mid12345".into()), ..Message::new("text/plain", body) };
        // The same seed draws the same ids: this one will be drawn.
        let probe = {
            let mut pair = Pair::new();
            let (a, _) = open(&mut pair);
            pair.a.endpoint.send(a, message(vec![b'x'; 10_000])).unwrap();
            sends(&pair.a.transmit_all(pair.now))[0].id()
        };
        let mut body = vec![b'x'; 10_000];
        let end_line = format!("\r\n-------{probe}$\r\n");
        body[place..place + end_line.len()].copy_from_slice(end_line.as_bytes());
        pair.a.endpoint.send(a, message(body.clone())).unwrap();
        pair.max = 1000;
        pair.run();
        let wire = sends(&pair.a.outputs.concat());
        let chunks: Vec<_> = wire.iter().collect();
        check_chunks(&chunks, &body);
        for chunk in &wire {
            let own = format!("-------{}", chunk.id());
            assert!(memchr::memmem::find(&chunk.body, own.as_bytes()).is_none(), "{place}");
        }
        // Where the beginning holds it, another id is drawn; further on, the chunk ends.
        assert_eq!(wire.len(), if place <= 2048 { 1 } else { 2 }, "{place}");
        assert!(
            pair.b
                .events
                .iter()
                .any(|event| matches!(event, Event::Message { body: got, .. } if *got == body))
        );
    }
}

#[test]
fn abort_tells_the_receiver_within_a_chunk_and_between_two() {
    for between in [false, true] {
        let mut pair = Pair::new();
        let (a, _) = open(&mut pair);
        let handle = pair.a.endpoint.send(a, Message::new("application/x", content(200_000))).unwrap();
        pair.step();
        if between {
            pair.a.endpoint.send(a, Message::new("text/plain", "hello")).unwrap();
            // The file's chunk ends, and no new one has begun.
            pair.a.transmit(200, pair.now);
            let out = pair.a.outputs[1..].concat();
            pair.b.feed(&out, pair.now);
        }
        pair.a.endpoint.abort(handle).unwrap();
        pair.a.endpoint.abort(handle).unwrap();
        pair.run();
        let wire = sends(&pair.a.outputs.concat());
        let chunks = chunks_of(&wire, "application/x");
        let last = chunks.last().unwrap();
        assert_eq!(last.flag, Flag::Abort);
        assert_eq!((chunks.len(), last.body.is_empty()), if between { (2, true) } else { (1, false) });
        let failed = Event::SendFailed { message: handle, error: SendError::Aborted };
        let events = pair.a.take_events();
        assert_eq!(events.iter().filter(|event| **event == failed).count(), 1, "{events:?}");
        let ends: Vec<_> =
            pair.b.events.iter().filter(|event| matches!(event, Event::MessageEnd { .. })).collect();
        assert!(matches!(ends[..], [Event::MessageEnd { outcome: Outcome::Aborted, .. }]), "{ends:?}");
        assert!(pair.a.endpoint.is_idle());
    }
}

#[test]
fn abort_before_anything_was_sent_sends_nothing_and_afterwards_does_nothing() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let handle = pair.a.endpoint.send(a, Message::new("text/plain", "x")).unwrap();
    pair.a.endpoint.abort(handle).unwrap();
    assert!(pair.a.transmit_all(pair.now).is_empty());
    assert_eq!(pair.a.take_events(), [Event::SendFailed { message: handle, error: SendError::Aborted }]);
    let handle = pair.a.endpoint.send(a, Message::new("text/plain", "x")).unwrap();
    pair.run();
    pair.a.take_events();
    pair.a.endpoint.abort(handle).unwrap();
    pair.run();
    assert!(pair.a.take_events().is_empty());
}

#[test]
fn a_failure_while_sending_aborts_the_message() {
    // The receiver stops it; a failure REPORT says so; nobody answers an earlier chunk.
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let handle = pair.a.endpoint.send(a, Message::new("application/x", content(500_000))).unwrap();
    pair.step();
    let Some(Event::MessageStart { handle: incoming, .. }) = pair.b.events.last() else { panic!() };
    let incoming = *incoming;
    pair.b.endpoint.refuse(incoming, StatusCode::STOP_SENDING).unwrap();
    pair.b.endpoint.refuse(incoming, StatusCode::STOP_SENDING).unwrap();
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    assert_eq!((wire.len(), wire[0].flag), (1, Flag::Abort));
    assert!(wire[0].body.len() < 100_000);
    let error = SendError::Refused(StatusCode::STOP_SENDING);
    assert_eq!(pair.a.take_events(), [Event::SendFailed { message: handle, error }]);
    let refused = Outcome::Refused(StatusCode::STOP_SENDING);
    assert_eq!(pair.b.events.last(), Some(&Event::MessageEnd { handle: incoming, outcome: refused }));
    let answers = parse_all(&pair.b.outputs.concat());
    assert_eq!(answers.iter().map(Wire::start).collect::<Vec<_>>(), ["413 Stop Sending"]);
    assert_eq!(pair.b.endpoint.refuse(incoming, StatusCode::STOP_SENDING), Err(UsageError::UnknownHandle));
}

#[test]
fn a_refused_message_is_refused_in_every_chunk_to_come() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let message =
        Message { chunking: Chunking::Fixed(2048), ..Message::new("application/x", content(100_000)) };
    pair.a.endpoint.send(a, message).unwrap();
    // One chunk arrives, and more are on the way before the sender hears of it.
    let out = pair.a.transmit_all(pair.now);
    let first = memchr::memmem::find(&out, b"+\r\nMSRP").unwrap() + 3;
    pair.b.feed(&out[..first], pair.now);
    let Some(Event::MessageStart { handle, .. }) = pair.b.events.last() else { panic!() };
    let handle = *handle;
    pair.b.endpoint.refuse(handle, StatusCode::UNSUPPORTED_MEDIA_TYPE).unwrap();
    pair.b.feed(&out[first..], pair.now);
    let answers: Vec<_> = parse_all(&pair.b.transmit_all(pair.now)).iter().map(Wire::start).collect();
    assert_eq!(answers.len(), 49);
    assert_eq!(answers[0], "200 OK");
    assert!(answers[1..].iter().all(|answer| answer == "415 Unsupported Media Type"));
}

#[test]
fn a_timed_out_chunk_aborts_the_message() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let handle = pair.a.endpoint.send(a, Message::streamed("application/x", None)).unwrap();
    pair.a.drain();
    pair.a.endpoint.provide_body(handle, content(10_000).into()).unwrap();
    pair.a.transmit_all(pair.now);
    let chat = pair.a.endpoint.send(a, Message::new("text/plain", "x")).unwrap();
    pair.a.transmit_all(pair.now);
    assert_eq!(pair.a.endpoint.deadline(), Some(pair.now + Duration::from_secs(30)));
    pair.a.take_events();
    pair.pass(30);
    let failed = |message| Event::SendFailed { message, error: SendError::Timeout };
    let mut events = pair.a.take_events();
    events.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(events, [failed(handle), failed(chat)]);
    let last = parse_all(&pair.a.transmit_all(pair.now));
    assert_eq!((last.len(), last[0].flag, last[0].body.len()), (1, Flag::Abort, 0));
    assert_eq!(last[0].field("Byte-Range").as_deref(), Some("1-0/*"));
}

#[test]
fn limits_of_the_receiver_are_answered_with_413() {
    // The length is announced, or shows only as it comes.
    for total in [Some(10_001), None] {
        for (limit, fits) in [(10_000, false), (10_001, true), (10_002, true)] {
            let mut pair = Pair::with(Config::default(), Config { assemble_up_to: 0, ..Config::default() });
            let mut bob = SessionOptions::new(uri(B), vec![], vec![uri(A)], Role::Passive);
            bob.max_message_bytes = limit;
            let (a, _) = open_with(&mut pair, bob);
            let handle = pair.a.endpoint.send(a, Message::streamed("application/x", total)).unwrap();
            pair.a.sources.insert(handle, content(10_001));
            pair.run();
            let error = SendError::Refused(StatusCode::STOP_SENDING);
            let failed = pair.a.events.contains(&Event::SendFailed { message: handle, error });
            assert_eq!(failed, !fits, "{total:?} {limit}");
            let whole = pair.b.events.iter().any(|event| {
                matches!(event, Event::MessageEnd { outcome: Outcome::Complete { total: 10_001 }, .. })
            });
            assert_eq!(whole, fits);
        }
    }
}

#[test]
fn the_number_of_incomplete_messages_is_limited() {
    let config = Config { max_incoming_messages: 2, ..Config::default() };
    let mut side = Side::new(config, 3);
    side.endpoint.open_session(SessionOptions::new(uri(B), vec![], vec![uri(A)], Role::Passive)).unwrap();
    let now = Instant::now();
    let mut answer = |message: u32, range: &str, flag: &str| {
        let text = format!(
            "MSRP scri1234 SEND\r\nTo-Path: {B}\r\nFrom-Path: {A}\r\nMessage-ID: mid{message:05}\r\n\
             Byte-Range: {range}\r\nContent-Type: text/plain\r\n\r\nx\r\n-------scri1234{flag}\r\n"
        );
        side.feed(text.as_bytes(), now);
        parse_all(&side.transmit_all(now))[0].start()
    };
    assert_eq!(answer(1, "1-*/9", "+"), "200 OK");
    assert_eq!(answer(2, "1-*/9", "+"), "200 OK");
    assert_eq!(answer(3, "1-*/9", "+"), "413 Stop Sending");
    assert_eq!(answer(2, "2-*/9", "#"), "200 OK");
    assert_eq!(answer(3, "1-*/9", "+"), "200 OK");
    assert_eq!(answer(1, "2-2/2", "$"), "200 OK");
    assert_eq!(answer(4, "1-1/1", "$"), "200 OK");
}

/// What the application is told of a message of `len` bytes in two chunks, the second first.
fn told(assemble_up_to: u64, len: usize, announced: bool) -> Vec<Event> {
    let mut side = Side::new(Config { assemble_up_to, ..Config::default() }, 3);
    side.endpoint.open_session(SessionOptions::new(uri(B), vec![], vec![uri(A)], Role::Passive)).unwrap();
    let body = content(len);
    let half = len / 2;
    let total = if announced { len.to_string() } else { "*".to_owned() };
    for (range, flag) in [(half..len, "$"), (0..half, "+")] {
        let mut text = format!(
            "MSRP scri1234 SEND\r\nTo-Path: {B}\r\nFrom-Path: {A}\r\nMessage-ID: mid12345\r\n\
             Byte-Range: {}-*/{total}\r\nContent-Type: text/plain\r\n\r\n",
            range.start + 1
        )
        .into_bytes();
        text.extend_from_slice(&body[range]);
        text.extend_from_slice(format!("\r\n-------scri1234{flag}\r\n").as_bytes());
        side.feed(&text, Instant::now());
    }
    let mut events = side.take_events();
    assert!(matches!(events.remove(0), Event::SessionBound { .. }));
    let whole = match events.last() {
        Some(Event::Message { body, .. }) => body.to_vec(),
        Some(Event::MessageEnd { handle, .. }) => side.received[handle].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(whole, body);
    events
}

#[test]
fn what_is_short_is_given_whole_and_what_is_not_is_streamed() {
    for announced in [true, false] {
        for (limit, whole) in [(99, false), (100, true), (101, true), (0, false)] {
            let events = told(limit, 100, announced);
            assert_eq!(matches!(events[..], [Event::Message { .. }]), whole, "{limit} {announced}");
            let streamed = matches!(
                events[..],
                [
                    Event::MessageStart { .. },
                    Event::MessageEnd { outcome: Outcome::Complete { total: 100 }, .. }
                ]
            );
            assert_eq!(streamed, !whole, "{limit} {announced} {events:?}");
        }
    }
}

#[test]
fn a_message_without_byte_range_is_whole() {
    let mut side = Side::new(Config::default(), 3);
    side.endpoint.open_session(SessionOptions::new(uri(B), vec![], vec![uri(A)], Role::Passive)).unwrap();
    let text = format!(
        "MSRP scri1234 SEND\r\nTo-Path: {B}\r\nFrom-Path: {A}\r\nMessage-ID: mid12345\r\n\
         Content-Type: text/plain\r\n\r\nhello\r\n-------scri1234$\r\n"
    );
    side.feed(text.as_bytes(), Instant::now());
    assert!(matches!(side.events.last(), Some(Event::Message { body, .. }) if body == "hello"));
}

#[test]
fn closing_a_session_ends_its_open_chunk() {
    let mut pair = Pair::new();
    let (a, _) = open(&mut pair);
    let handle = pair.a.endpoint.send(a, Message::new("application/x", content(200_000))).unwrap();
    let waiting = pair.a.endpoint.send(a, Message::streamed("text/plain", None)).unwrap();
    pair.a.transmit(10_000, pair.now);
    pair.a.take_events();
    pair.a.endpoint.close_session(a).unwrap();
    pair.run();
    let wire = sends(&pair.a.outputs.concat());
    assert_eq!((wire.len(), wire[0].flag), (1, Flag::Abort));
    let failed = |message| Event::SendFailed { message, error: SendError::SessionClosed };
    assert_eq!(pair.a.take_events(), [failed(handle), failed(waiting)]);
}

/// A relay that cuts every chunk again, and lets chunks overtake one another.
fn rechunked(wire: &[Wire], size: usize, order: &[usize]) -> Vec<u8> {
    let mut pieces = Vec::new();
    for chunk in wire {
        let range = chunk.head.byte_range().unwrap().unwrap();
        let parts: Vec<_> = chunk.body.chunks(size).collect();
        for (place, part) in parts.iter().enumerate() {
            let last = place + 1 == parts.len();
            let start = range.start as usize + place * size;
            let total = range.total.map_or("*".to_owned(), |total| total.to_string());
            let id = format!("relay{:05}", pieces.len());
            let flag = if last { chunk.flag } else { Flag::More }.as_byte() as char;
            let mut text = format!(
                "MSRP {id} SEND\r\nTo-Path: {B}\r\nFrom-Path: msrp://relay.test/r;tcp {A}\r\nMessage-ID: {}\r\n\
                 Byte-Range: {start}-{}/{total}\r\nContent-Type: application/x\r\n\r\n",
                chunk.field("Message-ID").unwrap(),
                start + part.len() - 1,
            )
            .into_bytes();
            text.extend_from_slice(part);
            text.extend_from_slice(format!("\r\n-------{id}{flag}\r\n").as_bytes());
            pieces.push(text);
        }
    }
    for (place, other) in order.iter().enumerate() {
        let count = pieces.len();
        pieces.swap(place % count, other % count);
    }
    pieces.concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_relay_cut_again_and_reordered_is_the_same_message(
        len in 1usize..40_000,
        size in 200usize..5000,
        order in prop::collection::vec(any::<usize>(), 0..40),
        assemble: bool,
    ) {
        let file = content(len);
        let mut pair = Pair::new();
        let (a, _) = open(&mut pair);
        pair.a.endpoint.send(a, Message::new("application/x", file.clone())).unwrap();
        let wire = sends(&pair.a.transmit_all(pair.now));
        let config = Config { assemble_up_to: if assemble { 65_536 } else { 0 }, ..Config::default() };
        let mut side = Side::new(config, 3);
        let bob = SessionOptions::new(uri(B), vec![], vec![uri(A)], Role::Passive);
        side.endpoint.open_session(bob).unwrap();
        side.feed(&rechunked(&wire, size, &order), pair.now);
        match side.events.last() {
            Some(Event::Message { body, .. }) => prop_assert_eq!(&body[..], &file[..]),
            Some(Event::MessageEnd { handle, outcome }) => {
                prop_assert_eq!(*outcome, Outcome::Complete { total: len as u64 });
                prop_assert_eq!(&side.received[handle], &file);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn whatever_is_sent_in_whatever_pieces_arrives(
        messages in prop::collection::vec((0usize..30_000, any::<bool>(), prop::option::of(1u64..6000), any::<bool>()), 1..8),
        max in 20usize..20_000,
        slow in 0usize..4,
    ) {
        let mut pair = Pair::with(Config::default(), Config { assemble_up_to: 3000, ..Config::default() });
        let (a, b) = open(&mut pair);
        pair.max = max;
        let mut expected = Vec::new();
        for (place, (len, streamed, size, backwards)) in messages.into_iter().enumerate() {
            let file = content(len);
            let media_type = format!("application/{place}");
            let mut message = if streamed {
                Message::streamed(media_type, (place % 2 == 0).then_some(len as u64))
            } else {
                Message::new(media_type, file.clone())
            };
            message.chunking = size.map_or(Chunking::Interruptible, Chunking::Fixed);
            message.success_report = true;
            let (side, session) = if backwards { (&mut pair.b, b) } else { (&mut pair.a, a) };
            let handle = side.endpoint.send(session, message).unwrap();
            side.sources.insert(handle, file.clone());
            if streamed && len == 0 {
                side.endpoint.finish_body(handle).unwrap();
            }
            expected.push((backwards, handle, file));
            for _ in 0..slow {
                pair.step();
            }
        }
        pair.run();
        for (backwards, handle, file) in expected {
            let (from, to) = if backwards { (&pair.b, &pair.a) } else { (&pair.a, &pair.b) };
            let (from, to) = (&from.events, to);
            for wanted in [
                Event::Sent { message: handle },
                Event::Accepted { message: handle },
                Event::Delivered { message: handle },
            ] {
                prop_assert_eq!(from.iter().filter(|event| **event == wanted).count(), 1, "{:?}", wanted);
            }
            let whole = to.events.iter().any(|event| matches!(event, Event::Message { body, .. } if *body == file));
            prop_assert!(whole || to.received.values().any(|received| *received == file));
        }
        end_lines_are_whole(&pair.a.outputs);
        prop_assert!(pair.a.endpoint.is_idle() && pair.b.endpoint.is_idle());
        prop_assert_eq!(pair.a.endpoint.deadline(), None);
    }
}
