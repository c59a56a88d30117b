//! Sessions, responses and REPORTs between two endpoints, or one and a script (RFC 4975 §5.4, §7).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

use common::{Pair, Side, parse_all, parse_some, uri};
use msrp_proto::decoder::DecodeError;
use msrp_proto::endpoint::{
    CloseReason, Config, Event, IncomingMessage, Message, Outcome, Role, SendError, SessionHandle,
    SessionOptions, UsageError,
};
use msrp_proto::flag::Flag;
use msrp_proto::header::{ByteRange, FailureReport};
use msrp_proto::status::StatusCode;

const A: &str = "msrp://alice.invalid:2855/aaaa;tcp";
const B: &str = "msrp://bob.invalid:2855/bbbb;tcp";

fn alice() -> SessionOptions {
    SessionOptions::new(uri(A), vec![], vec![uri(B)], Role::Active)
}

fn bob() -> SessionOptions {
    SessionOptions::new(uri(B), vec![], vec![uri(A)], Role::Passive)
}

/// Both have the session open and bound, and said so.
fn pair() -> (Pair, SessionHandle, SessionHandle) {
    pair_with(Config::default(), bob())
}

fn pair_with(b: Config, bob: SessionOptions) -> (Pair, SessionHandle, SessionHandle) {
    let mut pair = Pair::with(Config::default(), b);
    let a = pair.a.endpoint.open_session(alice()).unwrap();
    let b = pair.b.endpoint.open_session(bob).unwrap();
    pair.run();
    assert_eq!(pair.b.take_events(), [Event::SessionBound { session: b }]);
    assert!(pair.a.take_events().is_empty());
    pair.a.outputs.clear();
    pair.b.outputs.clear();
    (pair, a, b)
}

fn text(body: &'static str) -> Message {
    Message::new("text/plain", body)
}

/// What one side sent, as messages.
fn sent(side: &Side) -> Vec<common::Wire> {
    parse_all(&side.outputs.concat())
}

/// Bob's side of the session, against what a script writes.
fn script() -> Side {
    let mut side = Side::new(Config::default(), 3);
    side.endpoint.open_session(bob()).unwrap();
    side
}

fn request(method: &str, to: &str, fields: &str, body: Option<&str>, flag: &str) -> String {
    let body = body.map(|body| format!("\r\n{body}\r\n")).unwrap_or_default();
    format!(
        "MSRP scri1234 {method}\r\nTo-Path: {to}\r\nFrom-Path: msrp://relay.test/r;tcp {A}\r\n{fields}{body}-------scri1234{flag}\r\n"
    )
}

/// The start line of each answer.
fn answers(side: &mut Side, input: &str) -> Vec<String> {
    let now = std::time::Instant::now();
    side.feed(input.as_bytes(), now);
    parse_all(&side.transmit_all(now)).iter().map(common::Wire::start).collect()
}

#[test]
fn the_active_side_binds_with_a_bodiless_send_and_the_passive_side_waits_for_it() {
    let mut pair = Pair::new();
    let b = pair.b.endpoint.open_session(bob()).unwrap();
    pair.b.endpoint.send(b, text("early")).unwrap();
    assert!(pair.b.transmit_all(pair.now).is_empty(), "nobody knows who has connected");
    pair.a.endpoint.open_session(alice()).unwrap();
    pair.run();
    let first = &sent(&pair.a)[0];
    assert_eq!((first.start().as_str(), first.flag, first.head.has_body()), ("SEND", Flag::Complete, false));
    assert_eq!((first.head.to_path_text(0), first.head.from_path_text()), (B, A));
    assert_eq!(first.field("Content-Type"), None);
    assert_eq!(pair.b.events[0], Event::SessionBound { session: b });
    assert!(matches!(&pair.a.events[0], Event::Message { body, .. } if body == "early"));
}

#[test]
fn the_passive_side_behind_a_relay_need_not_wait() {
    let mut side = Side::new(Config::default(), 3);
    let relay = uri("msrp://relay.test:2855/r;tcp");
    let options = SessionOptions::new(uri(B), vec![relay.clone()], vec![uri(A)], Role::Passive);
    let session = side.endpoint.open_session(options).unwrap();
    side.endpoint.send(session, text("hello")).unwrap();
    let sent = parse_all(&side.transmit_all(std::time::Instant::now()));
    assert_eq!(sent[0].head.to_path_text(0), format!("{relay} {A}"));
    assert_eq!(sent[0].head.from_path_text(), B);
}

#[test]
fn a_short_message_goes_in_one_chunk_and_is_accepted() {
    let (mut pair, a, b) = pair();
    let mut message = text("hello");
    message.fields.push(("Content-Disposition".into(), "render".into()));
    let handle = pair.a.endpoint.send(a, message).unwrap();
    pair.run();
    let wire = sent(&pair.a);
    assert_eq!(wire.len(), 1);
    assert_eq!(wire[0].field("Byte-Range").as_deref(), Some("1-5/5"));
    assert_eq!(
        wire[0].head.fields().last().map(|(name, _)| name.to_owned()).as_deref(),
        Some("Content-Type")
    );
    assert_eq!(pair.a.take_events(), [Event::Sent { message: handle }, Event::Accepted { message: handle }]);
    let Event::Message { session, message, body } = pair.b.take_events().remove(0) else { panic!() };
    assert_eq!((session, &body[..]), (b, b"hello".as_slice()));
    assert_eq!(message.content_type, "text/plain");
    assert_eq!(message.from_path, A);
    assert_eq!(message.fields, [("Content-Disposition".to_owned(), "render".into())]);
    assert!(pair.a.endpoint.is_idle() && pair.b.endpoint.is_idle());
}

#[test]
fn failure_report_decides_whether_there_is_a_response() {
    for (wish, responses, accepted) in
        [(FailureReport::Yes, 1, true), (FailureReport::Partial, 0, false), (FailureReport::No, 0, false)]
    {
        let (mut pair, a, _) = pair();
        let mut message = text("hello");
        message.failure_report = wish;
        let handle = pair.a.endpoint.send(a, message).unwrap();
        pair.run();
        assert_eq!(sent(&pair.b).len(), responses, "{wish:?}");
        assert_eq!(pair.a.take_events().contains(&Event::Accepted { message: handle }), accepted);
        assert_eq!(pair.b.take_events().len(), 1);
        // Silence is a failure for `yes` alone.
        pair.pass(31);
        assert!(pair.a.take_events().is_empty(), "{wish:?}");
        assert_eq!(pair.a.endpoint.deadline(), None);
    }
}

#[test]
fn responses_go_to_the_previous_hop_and_by_the_senders_wish() {
    let send = |to: &str, fields: &str| {
        request(
            "SEND",
            to,
            &format!("Message-ID: mid12345\r\n{fields}Content-Type: text/plain\r\n"),
            Some("x"),
            "$",
        )
    };
    let elsewhere = "msrp://bob.invalid:2855/other;tcp";
    let two = format!("{B} {A}");
    for (input, answer) in [
        (send(B, ""), vec!["200 OK"]),
        (send(B, "Failure-Report: partial\r\n"), vec![]),
        (send(B, "Failure-Report: no\r\n"), vec![]),
        (send(elsewhere, ""), vec!["481 No Such Session"]),
        (send(elsewhere, "Failure-Report: partial\r\n"), vec!["481 No Such Session"]),
        (send(elsewhere, "Failure-Report: no\r\n"), vec![]),
        (send("msrps://bob.invalid:2855/bbbb;tcp", ""), vec!["481 No Such Session"]),
        (send(&two, ""), vec!["481 No Such Session"]),
        (send(B, "Byte-Range: nonsense\r\n"), vec!["400 Bad Request"]),
        (send(B, "Failure-Report: perhaps\r\n"), vec!["400 Bad Request"]),
        (send(B, "Success-Report: perhaps\r\n"), vec!["400 Bad Request"]),
        (request("SEND", B, "Content-Type: text/plain\r\n", Some("x"), "$"), vec!["400 Bad Request"]),
        (request("SEND", B, "", None, "$"), vec!["200 OK"]),
        (request("FETCH", B, "", None, "$"), vec!["501 Unknown Method"]),
        (request("FETCH", B, "Failure-Report: no\r\n", None, "$"), vec![]),
        (request("AUTH", B, "", None, "$"), vec!["501 Unknown Method"]),
        (request("REPORT", B, "Status: 000 200 OK\r\n", None, "$"), vec![]),
        (request("REPORT", elsewhere, "Status: 000 200 OK\r\n", None, "$"), vec![]),
        (request("REPORT", B, "", Some("odd"), "$"), vec![]),
        (request("200 OK", B, "", None, "$"), vec![]),
    ] {
        assert_eq!(answers(&mut script(), &input), answer, "{input}");
    }
    let mut side = script();
    let now = std::time::Instant::now();
    side.feed(send(B, "").as_bytes(), now);
    side.feed(request("FETCH", B, "", None, "$").as_bytes(), now);
    let answers = parse_all(&side.transmit_all(now));
    assert_eq!(answers[0].head.to_path_text(0), "msrp://relay.test/r;tcp", "the previous hop");
    assert_eq!(answers[1].head.to_path_text(0), format!("msrp://relay.test/r;tcp {A}"), "the whole path");
    for answer in answers {
        assert_eq!((answer.head.from_path_text(), answer.id().as_str()), (B, "scri1234"));
        assert_eq!(answer.flag, Flag::Complete);
    }
}

#[test]
fn a_session_in_use_on_another_connection_is_refused() {
    let mut side = Side::new(Config::default(), 3);
    let session = side.endpoint.open_session(bob()).unwrap();
    side.endpoint.set_bound_elsewhere(session).unwrap();
    assert_eq!(answers(&mut side, &request("SEND", B, "", None, "$")), ["506 Session In Use"]);
    assert!(side.events.is_empty());
}

#[test]
fn media_types_that_are_not_accepted_get_415() {
    let mut options = bob();
    options.accept_types = vec!["text/plain".into(), "image/*".into()];
    let mut side = Side::new(Config::default(), 3);
    side.endpoint.open_session(options).unwrap();
    for (media_type, answer) in [
        ("text/plain", "200 OK"),
        ("TEXT/plain; charset=utf-8", "200 OK"),
        ("image/png", "200 OK"),
        ("text/html", "415 Unsupported Media Type"),
        ("imag", "415 Unsupported Media Type"),
        ("text/plainer", "415 Unsupported Media Type"),
    ] {
        let fields = format!("Message-ID: mid12345\r\nContent-Type: {media_type}\r\n");
        assert_eq!(
            answers(&mut side, &request("SEND", B, &fields, Some("x"), "$")),
            [answer],
            "{media_type}"
        );
    }
}

#[test]
fn a_refusal_reaches_the_sender_and_is_told_once() {
    let mut options = bob();
    options.accept_types = vec!["text/plain".into()];
    let (mut pair, a, _) = pair_with(Config::default(), options);
    let handle = pair.a.endpoint.send(a, Message::new("text/html", "<p>")).unwrap();
    pair.run();
    let error = SendError::Refused(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(
        pair.a.take_events(),
        [Event::Sent { message: handle }, Event::SendFailed { message: handle, error }]
    );
    assert!(pair.b.take_events().is_empty());
}

#[test]
fn a_session_nobody_knows_fails() {
    let mut pair = Pair::new();
    let session = pair.a.endpoint.open_session(alice()).unwrap();
    pair.run();
    let error = SendError::Refused(StatusCode::NO_SUCH_SESSION);
    assert_eq!(pair.a.take_events(), [Event::SessionFailed { session, error }]);
    // And one that nobody answers, in time.
    let mut side = Side::new(Config::default(), 3);
    let session = side.endpoint.open_session(alice()).unwrap();
    side.transmit_all(pair.now);
    side.endpoint.handle_timeout(pair.now + std::time::Duration::from_secs(30));
    side.drain();
    assert_eq!(side.take_events(), [Event::SessionFailed { session, error: SendError::Timeout }]);
}

#[test]
fn success_is_reported_for_the_whole_message_or_for_each_chunk() {
    for each in [false, true] {
        let mut options = bob();
        options.report_each_chunk = each;
        let (mut pair, a, _) = pair_with(Config::default(), options);
        let mut message = Message::new("text/plain", vec![b'x'; 5000]);
        message.success_report = true;
        message.chunking = msrp_proto::chunk::Chunking::Fixed(2048);
        let handle = pair.a.endpoint.send(a, message).unwrap();
        pair.run();
        let wire = sent(&pair.b);
        let reports: Vec<_> = wire.iter().filter(|wire| wire.start() == "REPORT").collect();
        let ranges: Vec<_> = reports.iter().map(|report| report.field("Byte-Range").unwrap()).collect();
        if each {
            assert_eq!(ranges, ["1-2048/5000", "2049-4096/5000", "4097-5000/5000"]);
        } else {
            assert_eq!(ranges, ["1-5000/5000"]);
        }
        for report in reports {
            assert_eq!(report.field("Status").as_deref(), Some("000 200 OK"));
            assert_eq!((report.head.to_path_text(0), report.head.from_path_text()), (A, B));
            assert_eq!((report.field("Success-Report"), report.field("Failure-Report")), (None, None));
        }
        let events = pair.a.take_events();
        let count = |wanted: &Event| events.iter().filter(|event| *event == wanted).count();
        assert_eq!(count(&Event::Delivered { message: handle }), 1);
        assert_eq!(count(&Event::Accepted { message: handle }), 1);
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Report { .. })).count(), ranges.len());
        // No REPORT answers a REPORT, and no response either.
        assert!(sent(&pair.a).iter().all(|wire| wire.start() == "SEND"));
    }
}

#[test]
fn a_failure_report_fails_the_message_and_one_we_do_not_know_is_ignored() {
    let (mut pair, a, b) = pair();
    let handle = pair.a.endpoint.send(a, text("hello")).unwrap();
    pair.run();
    pair.a.take_events();
    let Event::Message { message, .. } = pair.b.take_events().remove(0) else { panic!() };
    let range = ByteRange { start: 1, end: Some(5), total: Some(5) };
    let status = StatusCode::REQUEST_TIMEOUT;
    // Success was not asked for, so it is not reported.
    pair.b.endpoint.report(b, &message, range, StatusCode::OK).unwrap();
    pair.b.endpoint.report(b, &message, range, status).unwrap();
    pair.b.endpoint.report(b, &message, range, status).unwrap();
    let unknown = IncomingMessage { message_id: "unknown1".into(), ..message };
    pair.b.endpoint.report(b, &unknown, range, status).unwrap();
    pair.run();
    let report = Event::Report { message: handle, namespace: 0, status, range };
    let failed = Event::SendFailed { message: handle, error: SendError::Reported(status) };
    assert_eq!(pair.a.take_events(), [report.clone(), failed, report]);
}

#[test]
fn keep_alives_are_answered() {
    let (mut pair, a, _) = pair();
    pair.a.endpoint.keep_alive(a).unwrap();
    pair.run();
    assert_eq!(sent(&pair.b)[0].start(), "200 OK");
    assert!(pair.a.take_events().is_empty() && pair.b.take_events().is_empty());
}

#[test]
fn several_sessions_share_the_connection() {
    let (mut pair, a, b) = pair();
    let (a2, b2) = (uri("msrp://alice.invalid:2855/a222;tcp"), uri("msrp://bob.invalid:2855/b222;tcp"));
    let second = SessionOptions::new(a2.clone(), vec![], vec![b2.clone()], Role::Active);
    let a_second = pair.a.endpoint.open_session(second.clone()).unwrap();
    let again = pair.a.endpoint.open_session(second);
    assert_eq!(again, Err(UsageError::SessionIdInUse("a222".into())));
    let b_second =
        pair.b.endpoint.open_session(SessionOptions::new(b2, vec![], vec![a2], Role::Passive)).unwrap();
    pair.a.endpoint.send(a_second, text("two")).unwrap();
    pair.a.endpoint.send(a, text("one")).unwrap();
    pair.run();
    let heard: Vec<_> = pair
        .b
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Message { session, body, .. } => Some((session, body)),
            _ => None,
        })
        .collect();
    assert_eq!(heard, [(b_second, "two".into()), (b, "one".into())]);
    pair.b.endpoint.close_session(b_second).unwrap();
    let handle = pair.a.endpoint.send(a_second, text("gone")).unwrap();
    pair.run();
    let error = SendError::Refused(StatusCode::NO_SUCH_SESSION);
    assert!(pair.a.take_events().contains(&Event::SendFailed { message: handle, error }));
    assert_eq!(pair.b.endpoint.close_session(b_second), Err(UsageError::UnknownHandle));
}

#[test]
fn what_cannot_be_sent_is_an_error_of_the_caller() {
    let (mut pair, a, _) = pair();
    let with = |name: &str, value: &str| {
        let mut message = text("x");
        message.fields.push((name.into(), value.into()));
        message
    };
    for message in [
        with("To-Path", A),
        with("byte-range", "1-1/1"),
        with("X Y", "z"),
        with("X\r\nY", "z"),
        with("1X", "z"),
        with("", "z"),
        with("X", "a\r\nb"),
        with("Content-Type", "text/html"),
        Message::new("", "x"),
        Message::new("text/plain\r\nX: y", "x"),
        Message { message_id: Some("a b".into()), ..text("x") },
    ] {
        let error = pair.a.endpoint.send(a, message.clone());
        assert!(matches!(error, Err(UsageError::Field(_))), "{message:?}");
    }
    assert!(pair.a.transmit_all(pair.now).is_empty());
    let nobody = SessionOptions::new(uri("msrp://x/y;tcp"), vec![], vec![], Role::Active);
    assert_eq!(pair.a.endpoint.open_session(nobody), Err(UsageError::EmptyPath));
}

#[test]
fn the_number_of_messages_that_wait_is_limited() {
    let mut pair = Pair::with(Config { max_outgoing_messages: 2, ..Config::default() }, Config::default());
    let a = pair.a.endpoint.open_session(alice()).unwrap();
    pair.a.endpoint.send(a, text("1")).unwrap();
    pair.a.endpoint.send(a, text("2")).unwrap();
    assert_eq!(pair.a.endpoint.send(a, text("3")), Err(UsageError::TooManyMessages(2)));
    pair.a.transmit_all(pair.now);
    pair.a.endpoint.send(a, text("3")).unwrap();
}

#[test]
fn no_response_in_30_seconds_is_a_failure_told_once() {
    let (mut pair, a, _) = pair();
    let handle = pair.a.endpoint.send(a, text("hello")).unwrap();
    pair.a.transmit_all(pair.now);
    assert_eq!(pair.a.take_events(), [Event::Sent { message: handle }]);
    pair.pass(29);
    assert!(pair.a.take_events().is_empty());
    pair.pass(1);
    assert_eq!(pair.a.take_events(), [Event::SendFailed { message: handle, error: SendError::Timeout }]);
    assert_eq!(pair.a.endpoint.deadline(), None);
    assert!(pair.a.transmit_all(pair.now).is_empty());
}

#[test]
fn the_end_of_the_connection_fails_what_was_open() {
    let (mut pair, a, _) = pair();
    let answered = pair.a.endpoint.send(a, text("answered")).unwrap();
    pair.run();
    pair.b.take_events();
    let unanswered = pair.a.endpoint.send(a, text("unanswered")).unwrap();
    pair.a.transmit_all(pair.now);
    let file = pair.a.endpoint.send(a, Message::streamed("application/x", Some(1 << 30))).unwrap();
    pair.a.drain();
    pair.a.endpoint.provide_body(file, vec![b'x'; 4000].into()).unwrap();
    let begun = pair.a.transmit_all(pair.now);
    pair.b.feed(&begun, pair.now);
    assert!(matches!(pair.b.events.last(), Some(Event::MessageStart { .. })));
    let unsent = pair.a.endpoint.send(a, text("unsent")).unwrap();
    pair.a.take_events();
    pair.b.take_events();

    pair.a.endpoint.connection_lost();
    pair.a.drain();
    let lost = |message| Event::SendFailed { message, error: SendError::ConnectionLost };
    let closed = Event::Closed { reason: CloseReason::ConnectionLost };
    assert_eq!(pair.a.take_events(), [lost(unanswered), lost(file), lost(unsent), closed.clone()]);
    assert!(answered != unanswered && pair.a.endpoint.is_closed());
    assert_eq!(pair.a.endpoint.send(a, text("late")), Err(UsageError::Closed));
    assert_eq!(pair.a.endpoint.deadline(), None);
    assert!(pair.a.transmit_all(pair.now).is_empty());

    pair.b.endpoint.connection_lost();
    pair.b.endpoint.connection_lost();
    pair.b.drain();
    let events = pair.b.take_events();
    assert!(matches!(events[0], Event::MessageEnd { outcome: Outcome::Lost, .. }));
    assert_eq!(events[1..], [closed]);
}

#[test]
fn success_that_was_never_reported_is_told_at_the_end() {
    let mut side = Side::new(Config::default(), 5);
    let session = side.endpoint.open_session(alice()).unwrap();
    let mut message = text("x");
    (message.success_report, message.failure_report) = (true, FailureReport::No);
    let handle = side.endpoint.send(session, message).unwrap();
    side.transmit_all(std::time::Instant::now());
    side.take_events();
    side.endpoint.close_session(session).unwrap();
    side.drain();
    assert_eq!(side.take_events(), [Event::SendFailed { message: handle, error: SendError::SessionClosed }]);
}

#[test]
fn what_is_not_msrp_closes_the_connection() {
    let mut side = script();
    side.feed(b"GET / HTTP/1.1\r\n", std::time::Instant::now());
    let [Event::Closed { reason: CloseReason::Protocol(DecodeError::NotMsrp(_)) }] = &side.events[..] else {
        panic!("{:?}", side.events)
    };
    assert!(side.endpoint.is_closed());
}

#[test]
fn events_that_are_not_taken_stop_the_input_and_so_does_output_that_is_not_written() {
    let config = Config { max_queued_bytes: 300, ..Config::default() };
    let mut side = Side::new(config, 3);
    side.endpoint.open_session(bob()).unwrap();
    let now = std::time::Instant::now();
    side.input.extend_from_slice(request("SEND", B, "", None, "$").repeat(10).as_bytes());
    assert!(side.endpoint.receive(&mut side.input, now));
    let left = side.input.len();
    assert!(side.endpoint.receive(&mut side.input, now), "the event is still there");
    assert_eq!(side.input.len(), left);
    side.receive(now);
    assert!(!side.input.is_empty(), "three responses are queued");
    let mut answers = 0;
    loop {
        let out = side.transmit_all(now);
        if out.is_empty() {
            break;
        }
        answers += parse_all(&out).len();
        side.receive(now);
    }
    assert_eq!((answers, side.input.len()), (10, 0));
}

#[test]
fn identifiers_differ_even_where_the_random_source_does_not() {
    let mut endpoint = msrp_proto::endpoint::Endpoint::new(Config::default(), |bytes| bytes.fill(7));
    let session = endpoint.open_session(alice()).unwrap();
    for _ in 0..50 {
        endpoint.send(session, text("x")).unwrap();
    }
    let mut out = bytes::BytesMut::new();
    while endpoint.poll_transmit(&mut out, 1000, std::time::Instant::now()) > 0 {}
    let (wire, _) = parse_some(&out);
    let ids: std::collections::HashSet<_> = wire.iter().map(common::Wire::id).collect();
    let messages: std::collections::HashSet<_> = wire.iter().map(|wire| wire.field("Message-ID")).collect();
    assert_eq!((wire.len(), ids.len(), messages.len()), (51, 51, 51));
}
