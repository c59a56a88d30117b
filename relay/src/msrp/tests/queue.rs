//! The outbound queue by itself, under any order of what comes in and what the socket takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use msrp_proto::decoder::{Decoder, Event};
use msrp_proto::flag::Flag;
use msrp_proto::head::Head;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::harness::*;
use super::websocket_frames::take_frame;
use crate::msrp::link::{Link, LinkSettings};
use crate::msrp::outbound::{ChunkId, LaneKey, Outbound, QueueSettings};
use crate::msrp::peer::LinkKind;

const LANES: usize = 3;
const INTERRUPT_SIZE: u64 = 100;
const SESSION_BUFFER: usize = 64 * 1024;

#[derive(Clone, Debug)]
enum Action {
    /// The lane's sender begins a chunk, if none is open, and declares this.
    Begin {
        lane: usize,
        declared: Option<u64>,
        has_range: bool,
        start: u64,
    },
    Body {
        lane: usize,
        len: usize,
    },
    End {
        lane: usize,
        flag: Flag,
    },
    Abandon {
        lane: usize,
        drop: bool,
    },
    /// A response or REPORT.
    Control,
    /// The socket takes so much.
    Write {
        len: usize,
    },
    /// The next hop answers what it has got whole.
    Respond,
}

fn action() -> impl Strategy<Value = Action> {
    let lane = 0..LANES;
    let flag = prop_oneof![4 => Just(Flag::Complete), 2 => Just(Flag::More), 1 => Just(Flag::Abort)];
    prop_oneof![
        4 => (lane.clone(), proptest::option::of(0u64..300), any::<bool>(), 1u64..500)
            .prop_map(|(lane, declared, has_range, start)| Action::Begin { lane, declared, has_range, start }),
        8 => (lane.clone(), prop_oneof![1usize..10, 50usize..150, 1usize..40_000])
            .prop_map(|(lane, len)| Action::Body { lane, len }),
        4 => (lane.clone(), flag).prop_map(|(lane, flag)| Action::End { lane, flag }),
        1 => (lane, any::<bool>()).prop_map(|(lane, drop)| Action::Abandon { lane, drop }),
        3 => Just(Action::Control),
        8 => prop_oneof![1usize..100, 1usize..20_000].prop_map(|len| Action::Write { len }),
        2 => Just(Action::Respond),
    ]
}

/// What one chunk was when it was put in.
struct Put {
    start: usize,
    bytes: Vec<u8>,
    end: Option<Flag>,
    /// Bytes may be missing at its end.
    dropped: bool,
}

/// A fragment as it left: where it begins, its bytes, its end.
type Fragment = (u64, Vec<u8>, Option<Flag>);

struct Harness {
    queue: Outbound,
    framed: bool,
    source: Arc<Link>,
    random: Seeded,
    now: Instant,
    out: BytesMut,
    controls: usize,
    /// The chunk that is open in each lane: its number among `puts`.
    open: [Option<(ChunkId, usize)>; LANES],
    puts: Vec<Put>,
}

fn key(lane: usize) -> LaneKey {
    LaneKey { source: 1, session: lane as u128 }
}

fn head_of(bytes: &[u8]) -> Head {
    match Decoder::default().decode(&mut BytesMut::from(bytes)) {
        Ok(Some(Event::Head(head))) => head,
        other => panic!("{other:?}"),
    }
}

impl Harness {
    fn new() -> Self {
        Self::with(None)
    }

    /// A queue in message mode, with fragments of so many bytes.
    fn with(chunk_size: Option<u64>) -> Self {
        let queue = QueueSettings {
            session_buffer: SESSION_BUFFER,
            max_messages: 4096,
            interrupt_size: INTERRUPT_SIZE,
            response_timeout: Duration::from_secs(30),
            chunk_size,
            tag: "ggggg".parse().unwrap(),
        };
        let settings = LinkSettings { queue, send_timeout: Duration::from_secs(30) };
        let source = Link::new(
            1,
            LinkKind::Accepted { listener: 0 },
            settings,
            None,
            Arc::new(Seeded::new(1)),
            Arc::default(),
        );
        Self {
            queue: Outbound::new(queue),
            framed: chunk_size.is_some(),
            source,
            random: Seeded::new(2),
            now: Instant::now(),
            out: BytesMut::new(),
            controls: 0,
            open: [None; LANES],
            puts: Vec::new(),
        }
    }

    fn begin(&mut self, lane: usize, declared: Option<u64>, has_range: bool, start: u64) {
        if self.open[lane].is_some() {
            return;
        }
        let number = self.puts.len();
        let start = if has_range { start } else { 1 };
        let mut lines = format!(
            "To-Path: msrp://us.test:1/s;tcp msrp://b.test:1/b;tcp\r\nFrom-Path: msrp://a.test:1/a;tcp\r\nMessage-ID: m{number:04}\r\n"
        );
        if has_range {
            let end = declared.map_or("*".to_owned(), |len| (start + len - 1).to_string());
            lines += &format!("Byte-Range: {start}-{end}/*\r\n");
        }
        let head = head_of(&send_begin("t0001", &lines));
        let mut origin = self.queue.spare_origin();
        let wishes = (head.failure_report().unwrap(), head.byte_range().unwrap());
        let own = head.to_path().take(1).map(|uri| uri.as_str());
        origin.set(Arc::clone(&self.source), &head, wishes, own, None);
        let id = self.queue.begin(key(lane), &self.source, origin, true).unwrap();
        self.open[lane] = Some((id, number));
        self.puts.push(Put { start: start as usize, bytes: Vec::new(), end: None, dropped: false });
    }

    fn body(&mut self, lane: usize, len: usize) {
        let Some((id, number)) = self.open[lane] else { return };
        let put = &mut self.puts[number];
        let bytes = content(put.bytes.len() + len).split_off(put.bytes.len());
        put.bytes.extend_from_slice(&bytes);
        self.queue.body(key(lane), id, Bytes::from(bytes)).unwrap();
    }

    fn end(&mut self, lane: usize, flag: Flag) {
        let Some((id, number)) = self.open[lane].take() else { return };
        self.puts[number].end = Some(flag);
        self.queue.end(key(lane), id, flag).unwrap();
    }

    fn abandon(&mut self, lane: usize, drop: bool) {
        let Some((id, number)) = self.open[lane].take() else { return };
        self.puts[number].end = Some(Flag::Abort);
        self.puts[number].dropped = drop;
        assert!(self.queue.abandon(key(lane), id, drop));
    }

    fn control(&mut self) {
        let number = self.controls;
        self.controls += 1;
        self.queue.control(None, |out| {
            let text = format!("MSRP c{number:04} 200 OK\r\nTo-Path: msrp://b.test:1/b;tcp\r\nFrom-Path: msrp://us.test:1/s;tcp\r\n-------c{number:04}$\r\n");
            out.extend_from_slice(text.as_bytes());
        });
    }

    /// Says whether anything was there to write.
    fn write(&mut self, len: usize) -> bool {
        self.queue.fill(&self.random);
        let mut slices = SmallVec::new();
        self.queue.slices(TLS_UNIT, &mut slices);
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        assert!(bytes.len() <= TLS_UNIT);
        bytes.truncate(len);
        drop(slices);
        self.out.extend_from_slice(&bytes);
        self.queue.written(bytes.len(), self.now);
        !bytes.is_empty()
    }

    /// What was written, without frames. Each whole one must hold one message, and hold it whole.
    fn messages(&self) -> BytesMut {
        let mut out = self.out.clone();
        if !self.framed {
            return out;
        }
        let mut messages = BytesMut::new();
        while let Some((opcode, mut payload)) = take_frame(&mut out) {
            assert_eq!(opcode, 2);
            messages.extend_from_slice(&payload);
            let mut decoder = Decoder::default();
            let mut ends = 0;
            while let Some(event) = decoder.decode(&mut payload).unwrap() {
                ends += usize::from(matches!(event, Event::End(_)));
            }
            assert!(ends == 1 && payload.is_empty() && decoder.is_between_messages());
        }
        messages
    }

    fn respond(&mut self) {
        let mut buf = self.messages();
        let mut decoder = Decoder::default();
        let mut last = None;
        while let Some(event) = decoder.decode(&mut buf).unwrap() {
            match event {
                Event::Head(head) => last = Some(head.transaction_id()),
                Event::End(_) => {
                    let _ = self.queue.response(&last.unwrap());
                }
                Event::Body(_) => {}
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Begin { lane, declared, has_range, start } => {
                self.begin(lane, declared, has_range, start);
            }
            Action::Body { lane, len } => self.body(lane, len),
            Action::End { lane, flag } => self.end(lane, flag),
            Action::Abandon { lane, drop } => self.abandon(lane, drop),
            Action::Control => self.control(),
            Action::Write { len } => {
                self.write(len);
            }
            Action::Respond => self.respond(),
        }
    }

    /// Ends everything, writes everything, and compares what went in with what came out.
    fn check(mut self) {
        for lane in 0..LANES {
            self.end(lane, Flag::Complete);
        }
        while self.write(usize::MAX) {}
        assert!(self.queue.is_idle());
        assert_eq!(self.queue.queued_bytes(), 0);

        let mut out = self.messages();
        let mut decoder = Decoder::default();
        let mut fragments: BTreeMap<String, Vec<Fragment>> = BTreeMap::new();
        let (mut controls, mut current, mut tids) = (0, None, Vec::new());
        while let Some(event) = decoder.decode(&mut out).unwrap() {
            match event {
                Event::Head(head) => {
                    tids.push(head.transaction_id());
                    current = head.message_id().unwrap().map(str::to_owned);
                    let Some(id) = &current else { continue };
                    let start = head.byte_range().unwrap().map_or(1, |range| range.start);
                    fragments.entry(id.clone()).or_default().push((start, Vec::new(), None));
                }
                Event::Body(bytes) => {
                    let fragment = fragments.get_mut(current.as_ref().unwrap()).unwrap().last_mut().unwrap();
                    fragment.1.extend_from_slice(&bytes);
                }
                Event::End(flag) => match &current {
                    Some(id) => fragments.get_mut(id).unwrap().last_mut().unwrap().2 = Some(flag),
                    None => controls += 1,
                },
            }
        }
        assert!(decoder.is_between_messages() && out.is_empty());
        assert_eq!(controls, self.controls);
        let all = tids.len();
        tids.sort_unstable();
        tids.dedup();
        assert_eq!(tids.len(), all, "a transaction id was used twice");

        assert_eq!(fragments.len(), self.puts.len());
        for (number, put) in self.puts.iter().enumerate() {
            let fragments = &fragments[&format!("m{number:04}")];
            let mut whole = Vec::new();
            for (at, (start, bytes, flag)) in fragments.iter().enumerate() {
                assert_eq!(*start as usize, put.start + whole.len(), "m{number:04}");
                whole.extend_from_slice(bytes);
                let is_last = at + 1 == fragments.len();
                assert_eq!(*flag, if is_last { put.end } else { Some(Flag::More) }, "m{number:04}");
                assert!(!bytes.is_empty() || put.bytes.is_empty() || put.dropped, "m{number:04}: empty");
            }
            assert!(put.bytes.starts_with(&whole));
            assert!(put.dropped || whole == put.bytes, "m{number:04}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_all_that_goes_in_comes_out(actions in proptest::collection::vec(action(), 0..120)) {
        let mut harness = Harness::new();
        for action in &actions {
            harness.act(action);
        }
        harness.check();
    }

    #[test]
    fn in_message_mode_it_comes_out_as_whole_messages(
        actions in proptest::collection::vec(action(), 0..120),
        chunk_size in prop_oneof![200u64..400, 1000u64..100_000],
    ) {
        let mut harness = Harness::with(Some(chunk_size));
        for action in &actions {
            harness.act(action);
        }
        harness.check();
    }
}

#[test]
fn timers_of_answered_transactions_do_not_pile_up_behind_one_that_is_not() {
    let mut harness = Harness::new();
    let send_one = |harness: &mut Harness| {
        harness.begin(0, None, true, 1);
        harness.body(0, 2);
        harness.end(0, Flag::Complete);
        while harness.write(usize::MAX) {}
    };
    send_one(&mut harness);
    harness.out.clear();
    for _ in 0..2000 {
        send_one(&mut harness);
        harness.respond();
        harness.out.clear();
    }
    assert!(harness.queue.timer_count() < 100, "{}", harness.queue.timer_count());
    assert_eq!(harness.queue.expired(harness.now + Duration::from_secs(30)).len(), 1);
    assert_eq!(harness.queue.deadline(), None);
}

#[test]
fn control_interrupts_a_chunk_that_has_sent_the_interrupt_size() {
    for (sent, interrupted) in
        [(INTERRUPT_SIZE - 1, false), (INTERRUPT_SIZE, true), (INTERRUPT_SIZE + 1, true)]
    {
        let mut harness = Harness::new();
        harness.begin(0, None, true, 1);
        // One byte is held back.
        harness.body(0, sent as usize + 1);
        harness.write(usize::MAX);
        harness.body(0, 1000);
        harness.control();
        harness.out.clear();
        harness.write(usize::MAX);
        let next = harness.out.starts_with(b"\r\n-------");
        assert_eq!(next, interrupted, "{sent}");
        // At the latest after as many bytes as make up for it.
        let text = String::from_utf8_lossy(&harness.out).into_owned();
        let end = text.find("\r\n-------").unwrap();
        assert_eq!(end, (INTERRUPT_SIZE.saturating_sub(sent)) as usize);
        assert!(text[end..].contains("MSRP c0000 200 OK"), "{text}");
    }
}

#[test]
fn used_objects_are_kept_up_to_so_many() {
    for (used, kept) in [(255, 255), (256, 256), (257, 256)] {
        let mut harness = Harness::new();
        for _ in 0..used {
            harness.begin(0, Some(2), true, 1);
            harness.body(0, 2);
            harness.end(0, Flag::Complete);
        }
        while harness.write(usize::MAX) {}
        assert_eq!(harness.queue.spares(), (0, kept), "{used} wait for their responses");
        for _ in 0..used {
            harness.queue.recycle(Box::default());
        }
        assert_eq!(harness.queue.spares(), (kept, kept), "{used}");
        harness.queue.quiet();
        assert_eq!(harness.queue.spares(), (0, 0));
    }
}
