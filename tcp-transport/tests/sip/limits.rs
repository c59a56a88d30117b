//! Each limit, at it, below it and above it.

use bytes::{Bytes, BytesMut};
use tcp_transport::sip::{Event, FrameError, Framer, LARGE_READ, Limits, Name};

use crate::common::{START, frame, message, outcome, patient, shown};

fn with_limits(stream: &str, limits: Limits) -> String {
    let (events, end) = frame([stream.as_bytes()], limits);
    let text = shown(&events, end.as_ref().copied());
    let (again, _) = frame(stream.as_bytes().chunks(7), limits);
    assert_eq!(events, again);
    text
}

#[test]
fn a_head_may_be_as_long_as_the_limit() {
    let good = message(START, &[]);
    let head = good.len() - 5;
    let at = |head_bytes| with_limits(&good, Limits { head_bytes, ..patient() });
    assert_eq!(at(head + 1), "message 5");
    assert_eq!(at(head), "message 5");
    // What is needed for an answer stands before the limit here, and not there.
    assert_eq!(at(head - 1), "513 head too long +last");
    assert_eq!(at(120), "513 head too long +last +mute");
    assert_eq!(at(20), "not SIP", "there is no whole start line");
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_a_longer_one_is_passed_over() {
    let good = message(START, &[]);
    let stream = format!("{good}{good}");
    let at = |message_bytes| with_limits(&stream, Limits { message_bytes, ..patient() });
    assert_eq!(at(good.len()), "message 5, message 5");
    assert_eq!(at(good.len() - 1), "413 message too long, 413 message too long");
    let long = message(START, &[("Content-Length", "l: 70000")]) + &"x".repeat(70_000 - 5) + &good;
    assert_eq!(outcome(long.as_bytes()), "413 message too long, message 5");
    let mut framer = Framer::default();
    let over = Bytes::from(message(START, &[("Content-Length", "")]) + &"x".repeat(65_536));
    assert!(
        matches!(framer.whole(over), Ok(Some(Event::Refused(refused))) if refused.defect.status().0 == 413)
    );
}

#[test]
fn a_head_may_have_as_many_fields_as_the_limit() {
    let at = |headers| {
        with_limits(&message(START, &[("X", "X: 1\r\nY: 2\r\nZ: 3")]), Limits { headers, ..patient() })
    };
    assert_eq!(at(11), "message 5");
    assert_eq!(at(10), "message 5");
    assert_eq!(at(9), "400 too many header fields");
    // Content-Length is found behind the limit too, so the connection goes on.
    assert_eq!(at(5), "400 too many header fields +mute");
}

#[test]
fn a_message_may_come_in_as_many_reads_as_the_limit() {
    let good = message(START, &[]);
    let reads = |max, reads: usize| {
        let size = good.len().div_ceil(reads);
        let limits = Limits { max_msg_chunks: max, ..Limits::default() };
        let pieces: Vec<_> = good.as_bytes().chunks(size).collect();
        assert_eq!(pieces.len(), reads);
        frame(pieces, limits).1
    };
    assert_eq!(Limits::default().max_msg_chunks, Some(4));
    assert_eq!(reads(Some(4), 3), Ok(true));
    assert_eq!(reads(Some(4), 4), Ok(true));
    assert_eq!(reads(Some(4), 5), Err(FrameError::TooManyChunks(4)));
    assert_eq!(reads(Some(1), 1), Ok(true));
    assert_eq!(reads(Some(1), 2), Err(FrameError::TooManyChunks(1)));
    assert_eq!(reads(None, good.len()), Ok(true));
}

#[test]
fn reads_are_counted_for_each_message_and_not_for_calls_without_new_bytes() {
    let good = message(START, &[]);
    let stream = good.repeat(20);
    // Every message in four reads at most, but for the twenty together many more.
    let pieces: Vec<_> = stream.as_bytes().chunks(good.len() / 3 + 1).collect();
    let (events, end) = frame(pieces, Limits::default());
    assert_eq!((events.len(), end), (20, Ok(true)));
    let mut framer = Framer::default();
    let mut buf = BytesMut::from(&good.as_bytes()[..50]);
    for _ in 0..10 {
        assert_eq!(framer.decode(&mut buf), Ok(None));
    }
    assert!(!framer.is_between_messages());
    // Keep-alives are no messages.
    let crlf: Vec<_> =
        std::iter::repeat_n(&b"\r"[..], 1).chain(std::iter::repeat_n(&b"\n\r"[..], 9)).collect();
    assert_eq!(frame(crlf, Limits::default()).0.len(), 9);
}

#[test]
fn single_crlf_can_be_dropped_and_pings_are_told_still() {
    let limits = Limits { crlf_drop: true, ..patient() };
    let good = message(START, &[]);
    assert_eq!(with_limits("\r\n", limits), "");
    assert_eq!(with_limits("\r\n\r\n", limits), "ping");
    assert_eq!(with_limits(&format!("\r\n{good}\r\n{good}"), limits), "message 5, message 5");
    assert_eq!(Framer::new(limits).whole(Bytes::from_static(b"\r\n")), Ok(None));
    assert_eq!(Framer::new(limits).whole(Bytes::from_static(b"\r\n\r\n")), Ok(Some(Event::Ping)));
}

#[test]
fn a_shared_connection_takes_what_has_grown_on_its_way() {
    let shared = Limits::default().shared();
    let fat = message(START, &[("X", &format!("X: {}", "x".repeat(20_000)))]);
    assert_eq!(outcome(fat.as_bytes()), "513 head too long +last");
    let (events, end) = frame(fat.as_bytes().chunks(1000), shared);
    assert_eq!(shown(&events, end.as_ref().copied()), "message 5");
}

#[test]
fn after_the_last_message_nothing_is_taken() {
    let good = message(START, &[]);
    let mut framer = Framer::default();
    let mut buf = BytesMut::from(&*(message(START, &[("Content-Length", "")]) + &good));
    assert!(matches!(framer.decode(&mut buf), Ok(Some(Event::Refused(refused))) if refused.last));
    for _ in 0..3 {
        assert_eq!(framer.decode(&mut buf), Ok(None));
        assert!(buf.is_empty(), "and memory is not kept for it");
        buf.extend_from_slice(good.as_bytes());
    }
}

#[test]
fn heads_are_recycled_without_traces_of_what_they_held() {
    let mut framer = Framer::default();
    let first = message(START, &[("Route", "Route: <sip:a;lr>"), ("To", "To: \"")]);
    let Ok(Some(Event::Refused(refused))) = framer.decode(&mut BytesMut::from(&*first)) else { panic!() };
    framer.recycle(refused.head);
    let mut buf = BytesMut::from("hello");
    assert_eq!(framer.decode(&mut buf), Ok(None));
    buf.extend_from_slice(message("SIP/2.0 180 Ringing", &[]).as_bytes());
    let Ok(Some(Event::Message(message))) = framer.decode(&mut buf) else { panic!() };
    assert_eq!((message.head.method(), message.head.field(Name::Route)), (None, None));
}

/// What comes out of a shared connection, in one piece and byte by byte.
fn of_shared(stream: &str) -> String {
    let shared = Limits::default().shared();
    let (events, end) = frame([stream.as_bytes()], shared);
    let text = shown(&events, end.as_ref().copied());
    let (again, end) = frame(stream.as_bytes().chunks(1), shared);
    assert_eq!(shown(&again, end.as_ref().copied()), text, "byte by byte");
    text
}

#[test]
fn on_a_shared_connection_a_bad_message_ends_where_it_can_be_known() {
    let good = message(START, &[]);
    let with = |lines: &str| message(START, &[("Content-Length", lines)]);
    let unix = good.replace("\r\n", "\n");
    let long = |length: &str| {
        let fields = format!("X: {}\r\n{length}Y: 1", format!("{}\r\nZ: ", "x".repeat(9000)).repeat(9));
        with(&fields).replace("To: ", "t: ")
    };
    for (name, bad, expected) in [
        ("LF line ends", unix.clone(), "400 CR or LF alone"),
        ("one LF", message(START, &[("X", "X: 1\nY: 2")]), "400 CR or LF alone"),
        ("CR alone", message(START, &[("X", "X: 1\rY: 2")]), "400 CR or LF alone"),
        ("LF and an empty line of CRLF", unix.replace("\n\n", "\n\r\n"), "400 CR or LF alone"),
        ("LF between messages", format!("\n\n{good}\n"), "message 5"),
        ("two equal lengths", with("l: 5\r\nContent-Length: 5"), "400 more than one Content-Length"),
        ("a long head", long("l: 5\r\n"), "513 head too long"),
        ("a long head with LF", long("l: 5\r\n").replace("\r\n", "\n"), "400 CR or LF alone"),
        ("its length twice", long("l: 5\r\nContent-Length : 5\r\n"), "513 head too long"),
        ("a fold that looks like a length", long("l: 5\r\nX: 1\r\n l: 9\r\n"), "513 head too long"),
    ] {
        assert_eq!(of_shared(&(bad + &good)), format!("{expected}, message 5"), "{name}");
    }
    // Where it cannot be known, nothing more is taken.
    for (name, bad, expected) in [
        ("no length", with(""), "400 no Content-Length +last"),
        ("two lengths", with("l: 5\r\nContent-Length: 6"), "400 more than one Content-Length +last"),
        ("a bad length", with("l: five"), "400 malformed Content-Length +last"),
        ("a long head without", long(""), "513 head too long, lost"),
        ("a long head with two", long("l: 5\r\nl: 6\r\n"), "513 head too long, lost"),
        ("a long head with a bad one", long("l: five\r\n"), "513 head too long, lost"),
    ] {
        assert_eq!(of_shared(&(bad + &good)), expected, "{name}");
    }
    // A client's is not understood that way.
    assert_eq!(outcome((unix + &good).as_bytes()), "400 CR or LF alone +last");
}

#[test]
fn a_long_head_that_is_passed_over_takes_no_memory() {
    let mut framer = Framer::new(Limits::default().shared());
    let mut buf = BytesMut::from(&*format!("{START}\r\nX: "));
    let mut refused = 0;
    for _ in 0..1000 {
        buf.extend_from_slice(&[b'x'; 4096]);
        refused += usize::from(framer.decode(&mut buf).unwrap().is_some());
        assert_eq!(framer.decode(&mut buf), Ok(None));
        assert!(buf.len() <= 2 * Limits::default().head_bytes, "{}", buf.len());
    }
    assert_eq!(refused, 1);
    buf.extend_from_slice(b"\r\nl: 3\r\n\r\nabc\r\n\r\n");
    assert_eq!(framer.decode(&mut buf), Ok(Some(Event::Pong)));
    assert_eq!(framer.decode(&mut buf), Ok(Some(Event::Ping)));
}

#[test]
fn over_a_shared_websocket_what_is_no_sip_is_refused_alone() {
    let garbage = Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n");
    let mut framer = Framer::new(Limits::default().shared());
    let Ok(Some(Event::Refused(refused))) = framer.whole(garbage.clone()) else { panic!() };
    assert!(!refused.last && !refused.head.is_answerable());
    assert!(matches!(Framer::default().whole(garbage), Err(FrameError::NotSip(_))));
}

#[test]
fn only_small_reads_are_counted() {
    let body = "x".repeat(100_000);
    let large = message(START, &[("Content-Length", "l: 100000")]).replace("hello", &body);
    let limits = Limits { message_bytes: 128 * 1024, ..Limits::default() };
    for (size, expected) in [
        (1460, Ok(true)),
        (536, Ok(true)),
        (LARGE_READ, Ok(true)),
        (LARGE_READ - 1, Err(FrameError::TooManyChunks(4))),
        (1, Err(FrameError::TooManyChunks(4))),
    ] {
        assert_eq!(frame(large.as_bytes().chunks(size), limits).1, expected, "{size}");
    }
    // Who has sent much, and then drips, is too slow all the same.
    let (much, rest) = large.as_bytes().split_at(90_000);
    let pieces = std::iter::once(much).chain(rest.chunks(1));
    assert_eq!(frame(pieces, limits).1, Err(FrameError::TooManyChunks(4)));
}

#[test]
fn many_content_lengths_are_neither_kept_nor_compared_with_each_other() {
    let lengths = "l: 5\r\n".repeat(2000);
    let head = message(START, &[("Content-Length", lengths.trim_end())]);
    let mut framer = Framer::new(Limits { headers: 10, ..patient() });
    let Ok(Some(Event::Refused(refused))) = framer.decode(&mut BytesMut::from(&*head)) else { panic!() };
    assert!(refused.head.fields().len() <= 10, "{}", refused.head.fields().len());
    // In time that grows with the head, and not with its square: 150 000 of them.
    let lengths = "l:5\r\n".repeat(150_000);
    let head = message(START, &[("Content-Length", lengths.trim_end())]);
    let limits = Limits { head_bytes: 1 << 20, message_bytes: 1 << 20, ..patient() };
    let mut framer = Framer::new(limits);
    assert!(matches!(framer.decode(&mut BytesMut::from(&*head)), Ok(Some(Event::Refused(_)))));
}
