use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

fn client() -> Role {
    Role::Client { mask: || MASK }
}

fn now() -> Instant {
    Instant::now()
}

/// A frame as a client sends it to us, a server.
fn masked(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::header(&mut out, fin, opcode, payload.len() as u64, Some(MASK));
    let start = out.len();
    out.extend(payload);
    frame::apply_mask(&mut out[start..], MASK, 0);
    out
}

/// A frame as a server sends it.
fn unmasked(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::header(&mut out, fin, opcode, payload.len() as u64, None);
    out.extend(payload);
    out
}

fn server() -> Incoming {
    Incoming::new(Role::Server, Settings::default(), now())
}

fn limited(change: impl FnOnce(&mut Settings)) -> Incoming {
    let mut settings = Settings::default();
    change(&mut settings);
    Incoming::new(Role::Server, settings, now())
}

/// What came of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    messages: Vec<(bool, Vec<u8>)>,
    /// Of a message that has not ended.
    part: Vec<u8>,
    flow: Option<Flow>,
    output: Vec<u8>,
}

/// Feeds `wire` in pieces. The consumer takes as many bytes of each offer as `takes` says, and what is
/// left at the end of a message; where `pauses` says so it asks to be called again first.
fn feed(incoming: &mut Incoming, wire: &[u8], pieces: &[usize], takes: &[usize], pauses: &[bool]) -> Told {
    let mut told = Told::default();
    let mut buf = BytesMut::new();
    let mut rest = wire;
    let mut pieces = pieces.iter().copied().cycle();
    let (mut takes, mut pauses) = (takes.iter().copied().cycle(), pauses.iter().copied().cycle());
    // Slices that are kept alive, as those that went on to other connections.
    let mut alive: Vec<Bytes> = Vec::new();
    while !rest.is_empty() {
        let n = pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        buf.extend_from_slice(&rest[..n]);
        rest = &rest[n..];
        let mut paused = false;
        loop {
            let mut consumed_to_end = false;
            let flow = incoming.received(&mut buf, now(), |payload| {
                assert!(!consumed_to_end || !paused, "something was handed over after a pause");
                if !paused && pauses.next().unwrap_or(false) {
                    paused = true;
                    consumed_to_end = true;
                    return Flow::Pause;
                }
                paused = false;
                let len = payload.buf.len();
                let n = if payload.end { len } else { takes.next().unwrap_or(len).min(len) };
                let slice = payload.buf.split_to(n).freeze();
                told.part.extend_from_slice(&slice);
                alive.push(slice);
                if payload.end {
                    told.messages.push((payload.text, std::mem::take(&mut told.part)));
                }
                Flow::Read
            });
            match flow {
                Flow::Pause => assert!(paused),
                Flow::Read => break,
                close => {
                    told.flow = Some(close);
                    break;
                }
            }
        }
        if told.flow.is_some() {
            break;
        }
    }
    // What waits unconsumed is part of the message too.
    told.part.extend_from_slice(&buf[..incoming.kept]);
    while let Some(frame) = incoming.take_output() {
        told.output.extend(frame.as_ref());
    }
    told
}

fn whole(incoming: &mut Incoming, wire: &[u8]) -> Told {
    feed(incoming, wire, &[], &[], &[])
}

/// The code of the Close that is queued, and the reason for the end.
fn refused(incoming: &mut Incoming, wire: &[u8]) -> (u16, CloseReason) {
    let told = whole(incoming, wire);
    let Some(Flow::Close(reason)) = told.flow.clone() else { panic!("{told:?}") };
    assert_eq!(told.output[0], 0x88, "{told:?}");
    (u16::from_be_bytes([told.output[2], told.output[3]]), reason)
}

#[test]
fn it_is_small() {
    assert!(size_of::<Incoming>() < 200, "{}", size_of::<Incoming>());
}

#[test]
fn messages_come_out_whole_empty_and_in_fragments() {
    let wire = [
        masked(true, Opcode::Binary, b"one"),
        masked(true, Opcode::Text, b""),
        masked(false, Opcode::Text, b"fr"),
        masked(true, Opcode::Ping, b"are you there"),
        masked(false, Opcode::Continuation, b""),
        masked(false, Opcode::Continuation, b"agmen"),
        masked(true, Opcode::Pong, b""),
        masked(true, Opcode::Continuation, b"ted"),
        masked(false, Opcode::Binary, b"un"),
    ]
    .concat();
    for pieces in [&[][..], &[1], &[2, 3], &[7]] {
        let told = feed(&mut server(), &wire, pieces, &[2, 0, 1], &[false, true, true, false, false]);
        let expected = [(false, &b"one"[..]), (true, b""), (true, b"fragmented")];
        let expected: Vec<_> = expected.map(|(text, body)| (text, body.to_vec())).into();
        assert_eq!(told.messages, expected, "{pieces:?}");
        assert_eq!((told.part, told.flow), (b"un".to_vec(), None));
        assert_eq!(told.output, unmasked(true, Opcode::Pong, b"are you there"));
    }
}

#[test]
fn what_is_left_is_joined_without_copying_the_body() {
    let wire =
        [masked(false, Opcode::Binary, &[b'x'; 1000]), masked(true, Opcode::Continuation, b"yz")].concat();
    let mut buf = BytesMut::from(&wire[..]);
    let start = buf.as_ptr() as usize;
    let mut seen = Vec::new();
    server().received(&mut buf, now(), |payload| {
        seen.push((payload.buf.as_ptr() as usize - start, payload.buf.len(), payload.end));
        payload.buf.advance(payload.buf.len().min(990));
        Flow::Read
    });
    // The header of 8 bytes, then the payload where it lies; two bytes moved to the ten that are left.
    assert_eq!(seen, [(8, 1000, false), (8 + 990, 12, true)]);
    assert!(buf.is_empty());
}

#[test]
fn the_smaller_part_is_moved() {
    let wire =
        [masked(false, Opcode::Binary, b"left"), masked(true, Opcode::Continuation, &[b'x'; 1000])].concat();
    let mut buf = BytesMut::from(&wire[..]);
    let start = buf.as_ptr() as usize;
    let mut seen = Vec::new();
    server().received(&mut buf, now(), |payload| {
        seen.push((payload.buf.as_ptr() as usize - start, payload.buf.len()));
        Flow::Read
    });
    // The four bytes, over the header of 8 between them and the rest.
    assert_eq!(seen, [(6, 4), (6 + 8, 1004)]);

    // Many tiny frames behind a long remainder: it stays where it is.
    let first = masked(false, Opcode::Binary, &[b'x'; 1000]);
    let mut buf =
        BytesMut::from(&[&first[..], &masked(false, Opcode::Continuation, b"y").repeat(100)].concat()[..]);
    let start = buf.as_ptr() as usize;
    let mut offers = 0;
    server().received(&mut buf, now(), |payload| {
        assert_eq!((payload.buf.as_ptr() as usize - start, payload.buf.len()), (8, 1000 + offers));
        offers += 1;
        Flow::Read
    });
    assert_eq!((offers, buf.len()), (101, 1100));
}

#[test]
fn a_pause_hands_over_nothing_until_the_next_call() {
    let wire = [masked(true, Opcode::Binary, b"one"), masked(true, Opcode::Binary, b"two")].concat();
    let mut incoming = server();
    let mut buf = BytesMut::from(&wire[..]);
    let mut seen = Vec::new();
    for take in [1, 0, 2, 0, 3] {
        let flow = incoming.received(&mut buf, now(), |payload| {
            let left = payload.buf.to_vec();
            payload.buf.advance(take.min(payload.buf.len()));
            let empty = payload.buf.is_empty();
            seen.push((left, payload.end));
            if empty { Flow::Read } else { Flow::Pause }
        });
        assert_eq!(flow, if seen.len() == 6 { Flow::Read } else { Flow::Pause });
        assert_eq!(incoming.deadline().is_none(), flow == Flow::Pause);
    }
    let texts: Vec<_> = seen.iter().map(|(left, end)| (std::str::from_utf8(left).unwrap(), *end)).collect();
    assert_eq!(texts, [("one", true), ("ne", true), ("ne", true), ("two", true), ("o", true), ("o", true)]);
}

#[test]
fn what_the_consumer_leaves_at_the_end_is_thrown_away() {
    let mut buf = BytesMut::from(&masked(true, Opcode::Binary, b"left")[..]);
    buf.extend(masked(true, Opcode::Binary, b"next"));
    let mut seen = Vec::new();
    server().received(&mut buf, now(), |payload| {
        seen.push(payload.buf.to_vec());
        Flow::Read
    });
    assert_eq!(seen, [b"left", b"next"]);
}

#[test]
fn violations_have_their_codes() {
    let close = |payload: &[u8]| masked(true, Opcode::Close, payload);
    for (wire, code) in [
        (unmasked(true, Opcode::Text, b"a"), 1002),
        (vec![0xc1], 1002),
        (vec![0x83], 1002),
        (vec![0x09], 1002),
        (vec![0x89, 0x80 | 126], 1002),
        (vec![0x81, 0x80 | 126, 0, 5], 1002),
        (masked(true, Opcode::Continuation, b"a"), 1002),
        ([masked(false, Opcode::Text, b"a"), masked(true, Opcode::Text, b"a")].concat(), 1002),
        ([masked(false, Opcode::Text, b"a"), masked(false, Opcode::Binary, b"a")].concat(), 1002),
        (close(b"\x03"), 1002),
        (close(&1005u16.to_be_bytes()), 1002),
        (close(&[0x03, 0xe8, 0xff]), 1007),
    ] {
        let (sent, reason) = refused(&mut server(), &wire);
        assert_eq!(sent, code, "{wire:x?}");
        assert!(matches!(reason, CloseReason::Protocol(_)), "{reason}");
    }
    let mut incoming = Incoming::new(client(), Settings::default(), now());
    let told = whole(&mut incoming, &masked(true, Opcode::Text, b"a"));
    assert!(matches!(told.flow, Some(Flow::Close(CloseReason::Protocol(_)))));
    assert_eq!(&told.output[..6], [&[0x88, told.output[1]], &MASK[..]].concat());
    frame::apply_mask(&mut told.output[6..8].to_vec(), MASK, 0);
}

#[test]
fn sizes_are_limited_by_the_header() {
    let head = |fin, opcode, len| {
        let mut out = Vec::new();
        frame::header(&mut out, fin, opcode, len, Some(MASK));
        out
    };
    let small = || limited(|s| (s.max_frame, s.max_message) = (10, 15));
    for len in [9, 10] {
        assert_eq!(whole(&mut small(), &head(true, Opcode::Text, len)).flow, None);
    }
    assert_eq!(refused(&mut small(), &head(true, Opcode::Text, 11)).0, 1009);
    let first = masked(false, Opcode::Text, &[0; 10]);
    for len in [4, 5] {
        let wire = [&first[..], &head(true, Opcode::Continuation, len)].concat();
        assert_eq!(whole(&mut small(), &wire).flow, None);
    }
    let wire = [&first[..], &head(true, Opcode::Continuation, 6)].concat();
    assert_eq!(refused(&mut small(), &wire).0, 1009);
    // Each message has its own count, and the longest lengths do not overflow it.
    let wire = [masked(true, Opcode::Text, &[0; 10]), masked(true, Opcode::Text, &[0; 10])].concat();
    assert_eq!(whole(&mut small(), &wire).messages.len(), 2);
    let mut open = limited(|s| (s.max_frame, s.max_message) = (u64::MAX, u64::MAX));
    let wire = [&masked(false, Opcode::Text, b"a")[..], &head(true, Opcode::Continuation, u64::MAX >> 1)];
    assert_eq!(whole(&mut open, &wire.concat()).flow, None);
}

#[test]
fn the_default_limits_are_where_they_say() {
    for (len, taken) in
        [(DEFAULT_MAX_FRAME - 1, true), (DEFAULT_MAX_FRAME, true), (DEFAULT_MAX_FRAME + 1, false)]
    {
        let mut out = Vec::new();
        frame::header(&mut out, true, Opcode::Binary, len, Some(MASK));
        assert_eq!(whole(&mut server(), &out).flow.is_none(), taken);
        // The same for a message, of which one byte came before.
        let last = len + DEFAULT_MAX_MESSAGE - DEFAULT_MAX_FRAME - 1;
        let mut out = masked(false, Opcode::Binary, b"a");
        frame::header(&mut out, true, Opcode::Continuation, last, Some(MASK));
        assert_eq!(whole(&mut server(), &out).flow.is_none(), taken, "{last}");
    }
    // What clients may count on.
    const { assert!(DEFAULT_MAX_MESSAGE >= 2 * 1024 * 1024) };
}

#[test]
fn payload_alone_counts_as_such() {
    let mut incoming = server();
    let wire = [masked(false, Opcode::Text, b"ab"), masked(true, Opcode::Ping, b"ping"), vec![0x80]].concat();
    let mut buf = BytesMut::from(&wire[..]);
    assert_eq!(incoming.received(&mut buf, now(), |_| Flow::Read), Flow::Read);
    assert_eq!((incoming.payload_bytes(), incoming.kept(), buf.len()), (2, 2, 3));
    buf.extend_from_slice(&masked(true, Opcode::Continuation, b"cde")[1..]);
    assert_eq!(incoming.received(&mut buf, now(), |_| Flow::Read), Flow::Read);
    assert_eq!((incoming.payload_bytes(), incoming.kept(), buf.len()), (5, 0, 0));
}

#[test]
fn a_message_may_take_so_many_reads() {
    let wire = masked(true, Opcode::Text, b"abc");
    // The header comes whole with the first byte, then one byte a read: three reads.
    let run = |limit| {
        let mut incoming = limited(|s| s.max_msg_chunks = NonZeroU32::new(limit));
        feed(&mut incoming, &[&wire[..], &wire].concat(), &[7, 1, 1], &[], &[])
    };
    for limit in [3, 4] {
        assert_eq!(run(limit).messages.len(), 2);
    }
    let told = run(2);
    assert!(matches!(told.flow, Some(Flow::Close(CloseReason::TooSlow(_)))), "{told:?}");
    assert_eq!(told.output[2..4], 1008u16.to_be_bytes());
}

#[test]
fn only_the_latest_ping_is_answered() {
    let pings: Vec<u8> = (0..1000u32).flat_map(|i| masked(true, Opcode::Ping, &i.to_be_bytes())).collect();
    let told = whole(&mut server(), &pings);
    assert_eq!(told.output, unmasked(true, Opcode::Pong, &999u32.to_be_bytes()));
    for payload in [&[7; 125][..], &[]] {
        let told = whole(&mut server(), &masked(true, Opcode::Ping, payload));
        assert_eq!(told.output, unmasked(true, Opcode::Pong, payload));
    }
}

#[test]
fn a_close_is_answered_with_its_code() {
    for (payload, answer) in [
        (&b""[..], &[3, 0xe8][..]),
        (&[3, 0xe9], &[3, 0xe9]),
        (&[0x0b, 0xb8, b'b', b'y', b'e'], &[0x0b, 0xb8]),
    ] {
        let mut incoming = server();
        let wire = [masked(true, Opcode::Ping, b"p"), masked(true, Opcode::Close, payload)].concat();
        let told = whole(&mut incoming, &[wire, masked(true, Opcode::Text, b"ignored")].concat());
        assert_eq!(told.flow, Some(Flow::Close(CloseReason::PeerClosed)));
        let expected = [unmasked(true, Opcode::Pong, b"p"), unmasked(true, Opcode::Close, answer)].concat();
        assert_eq!(told.output, expected);
        assert!(told.messages.is_empty() && incoming.is_closing());
        // Whatever comes later changes nothing.
        incoming.closing(&CloseReason::Internal);
        assert!(!incoming.has_output());
        let later = whole(&mut incoming, &masked(true, Opcode::Close, b""));
        assert_eq!((later.flow, later.output), (Some(Flow::Close(CloseReason::PeerClosed)), vec![]));
    }
}

#[test]
fn our_close_has_the_code_of_its_reason() {
    for (reason, code) in [
        (CloseReason::Local("shutdown".into()), Some(1001u16)),
        (CloseReason::IdleTimeout, Some(1001)),
        (CloseReason::Protocol("é".repeat(100).into()), Some(1002)),
        (CloseReason::TooSlow("one byte a minute".into()), Some(1008)),
        (CloseReason::HandshakeTimeout, Some(1008)),
        (CloseReason::Internal, Some(1011)),
        (CloseReason::PeerClosed, None),
        (CloseReason::Reset, None),
    ] {
        let mut incoming = server();
        incoming.closing(&reason);
        let frame = incoming.take_output();
        assert_eq!(frame.is_some(), code.is_some(), "{reason}");
        if let (Some(frame), Some(code)) = (frame, code) {
            let bytes = frame.as_ref();
            assert_eq!(bytes[2..4], code.to_be_bytes());
            assert!(bytes.len() <= 2 + 125 && std::str::from_utf8(&bytes[4..]).is_ok());
            // The peer's answer ends it, and is not answered again.
            let told = whole(&mut incoming, &masked(true, Opcode::Close, &code.to_be_bytes()));
            assert_eq!((told.flow, told.output), (Some(Flow::Close(CloseReason::PeerClosed)), vec![]));
        }
    }
}

#[test]
fn silence_is_asked_about_and_then_ends_it() {
    let start = now();
    let (interval, timeout) = (DEFAULT_PING_INTERVAL, DEFAULT_PONG_TIMEOUT);
    let tick = Duration::from_millis(1);
    let mut incoming = Incoming::new(Role::Server, Settings::default(), start);
    assert_eq!(incoming.deadline(), Some(start + interval));
    assert_eq!(incoming.expired(start + interval - tick), Flow::Read);
    assert!(!incoming.has_output());
    let asked = start + interval;
    assert_eq!(incoming.expired(asked), Flow::Read);
    assert_eq!(incoming.take_output().unwrap().as_ref(), [0x89, 0]);
    assert_eq!(incoming.deadline(), Some(asked + timeout));
    // Anything counts as an answer.
    let heard = asked + timeout - tick;
    let mut buf = BytesMut::from(&masked(true, Opcode::Pong, b"")[..1]);
    assert_eq!(incoming.received(&mut buf, heard, |_| Flow::Read), Flow::Read);
    assert_eq!(incoming.deadline(), Some(heard + interval));
    let asked = heard + interval;
    assert_eq!(incoming.expired(asked), Flow::Read);
    assert_eq!(incoming.expired(asked + timeout - tick), Flow::Read);
    assert_eq!(incoming.expired(asked + timeout), Flow::Close(CloseReason::IdleTimeout));
    incoming.seen_alive(asked + timeout);
    assert_eq!(incoming.deadline(), Some(asked + timeout + interval));
    incoming.closing(&CloseReason::Local("".into()));
    assert_eq!(incoming.deadline(), None);
    assert_eq!(limited(|s| s.ping_interval = None).deadline(), None);
}

#[derive(Debug, Clone)]
struct Sample {
    text: bool,
    fragments: Vec<Vec<u8>>,
    pings: Vec<bool>,
}

fn sample() -> impl Strategy<Value = Sample> {
    let len = prop_oneof![3 => 0usize..40, 1 => 100usize..400, 1 => Just(70_000)];
    let body = len.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len..=len));
    (any::<bool>(), prop::collection::vec(body, 1..4), prop::collection::vec(any::<bool>(), 4))
        .prop_map(|(text, fragments, pings)| Sample { text, fragments, pings })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn messages_arrive_however_they_are_cut(
        samples in prop::collection::vec(sample(), 1..5),
        pieces in prop::collection::vec(1usize..5000, 1..5),
        takes in prop::collection::vec(0usize..300, 1..5),
        pauses in prop::collection::vec(any::<bool>(), 1..7),
        by_client: bool,
    ) {
        let encode = if by_client { masked } else { unmasked };
        let role = if by_client { Role::Server } else { client() };
        let mut wire = Vec::new();
        for sample in &samples {
            let last = sample.fragments.len() - 1;
            for (i, fragment) in sample.fragments.iter().enumerate() {
                if sample.pings[i] {
                    wire.extend(encode(true, Opcode::Ping, b"x"));
                }
                let opcode = match (i, sample.text) {
                    (0, true) => Opcode::Text,
                    (0, false) => Opcode::Binary,
                    _ => Opcode::Continuation,
                };
                wire.extend(encode(i == last, opcode, fragment));
            }
        }
        let mut incoming = Incoming::new(role, Settings::default(), now());
        let told = feed(&mut incoming, &wire, &pieces, &takes, &pauses);
        let expected: Vec<_> = samples.iter().map(|s| (s.text, s.fragments.concat())).collect();
        prop_assert_eq!(told.flow, None);
        prop_assert!(told.messages == expected);
        prop_assert_eq!(told.part, Vec::<u8>::new());
    }

    #[test]
    fn any_bytes_give_the_same_however_they_are_cut(
        bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => prop::sample::select(vec![0x00, 0x01, 0x81, 0x82, 0x80, 0x83, 0x89])], 0..200),
        pieces in prop::collection::vec(1usize..9, 1..5),
        takes in prop::collection::vec(0usize..9, 1..5),
        pauses in prop::collection::vec(any::<bool>(), 1..7),
        server: bool,
    ) {
        let role = if server { Role::Server } else { client() };
        let new = || Incoming::new(role, Settings::default(), now());
        let at_once = whole(&mut new(), &bytes);
        let cut = feed(&mut new(), &bytes, &pieces, &takes, &pauses);
        if at_once.flow.is_none() {
            prop_assert_eq!(cut, at_once);
        } else {
            // What is left of a message is thrown away with its connection.
            prop_assert_eq!((cut.messages, cut.flow, cut.output), (at_once.messages, at_once.flow, at_once.output));
        }
    }
}
