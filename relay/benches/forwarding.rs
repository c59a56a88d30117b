//! Forwarding in memory: two clients on one relay, no sockets. Shows bytes/s for 64 KiB chunks,
//! messages/s for 300-byte messages with their responses, and allocations for each forwarded message. Each is done
//! for a receiver on TCP and for one on a WebSocket, whose messages leave in frames: the ratio of the two is what
//! RFC 7977 costs.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark may panic"
)]

use std::io::{self, IoSlice, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use msrp_proto::decoder::{Decoder, Event};
use msrp_proto::digest::{Answer, Authorization, Challenge, Secret};
use msrp_proto::header::Name;
use relay::config::Config;
use relay::msrp::{Advertised, Inbound, Peer, Random, Relay, Settings, WallClock, WebSocketLink, Wire};
use tcp_transport::PeerCertificate;
use tcp_transport::connection::{CloseReason, Flow};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// Messages in one read.
const BATCH: usize = 16;

fn main() {
    divan::main();
}

/// A wire that takes everything and keeps it while `keep` is set.
#[derive(Default)]
struct Sink {
    keep: Mutex<Option<Vec<u8>>>,
}

struct SinkWire(Arc<Sink>);

impl Wire for SinkWire {
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if let Some(kept) = self.0.keep.lock().unwrap().as_mut() {
            bufs.iter().for_each(|buf| kept.extend_from_slice(buf));
        }
        Ok(len)
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn write_unit(&self) -> usize {
        usize::MAX
    }
    fn wake(&self) {}
    fn close(&self, _: CloseReason) {}
}

/// Distinct, and cheap, so that it does not hide what is measured.
struct Counter(AtomicU64);

impl Random for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        let next = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(next.iter().cycle()).for_each(|(byte, next)| *byte = *next);
    }
}

struct Epoch;

impl WallClock for Epoch {
    fn unix_millis(&self) -> u64 {
        1_000_000
    }
}

/// A client's connection to the relay.
struct Client {
    inbound: Inbound,
    sink: Arc<Sink>,
    buf: BytesMut,
    uri: String,
    relay_uri: String,
}

impl Client {
    fn give(&mut self, bytes: &[u8], now: Instant) {
        self.buf.extend_from_slice(bytes);
        assert_eq!(self.inbound.received(&mut self.buf, now), Flow::Read);
    }

    /// Gives `bytes`, and the head of what comes back, behind the header of its frame if it has one.
    fn ask(&mut self, bytes: &str, now: Instant) -> msrp_proto::head::Head {
        *self.sink.keep.lock().unwrap() = Some(Vec::new());
        self.give(bytes.as_bytes(), now);
        let answer = self.sink.keep.lock().unwrap().take().unwrap();
        let start = answer.windows(5).position(|bytes| bytes == b"MSRP ").unwrap();
        match Decoder::default().decode(&mut BytesMut::from(&answer[start..])) {
            Ok(Some(Event::Head(head))) => head,
            other => panic!("{other:?}"),
        }
    }
}

/// What the receiver's connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    Tcp,
    WebSocket,
}

const RECEIVERS: [Receiver; 2] = [Receiver::Tcp, Receiver::WebSocket];

struct World {
    now: Instant,
    alice: Client,
    bob: Client,
}

fn world(receiver: Receiver) -> World {
    let text = "domain: relay.test\nlisteners: [{uri: 'msrp://127.0.0.1:2855'}]\n\
                auth: {allow_auth_without_tls: true, users: {u: {password: p}}}\n";
    let config = Config::parse(text, Path::new("."), "bench.yaml").unwrap();
    let tcp = Advertised {
        scheme: config.listeners[0].msrp_scheme(),
        host: "relay.test".into(),
        port: 2855,
        bound_port: 2855,
        websocket: None,
    };
    let websocket = Some(WebSocketLink { chunk_size: 64 * 1024 });
    let listeners = vec![tcp.clone(), Advertised { port: 80, bound_port: 80, websocket, ..tcp }];
    let settings = Settings {
        domain: config.domain.to_string(),
        listeners,
        auth: config.auth,
        limits: config.limits,
        timeouts: config.timeouts,
    };
    let relay = Relay::new(settings, Arc::new(Counter(AtomicU64::new(1))), Box::new(Epoch)).unwrap();
    let now = Instant::now();
    let alice = connect(&relay, "alice", Receiver::Tcp, now);
    let bob = connect(&relay, "bob", receiver, now);
    World { now, alice, bob }
}

fn connect(relay: &Arc<Relay>, name: &str, receiver: Receiver, now: Instant) -> Client {
    let sink = Arc::new(Sink::default());
    let peer =
        Peer { address: name.into(), secure: false, certificate: PeerCertificate::None, principal: None };
    let link = relay.accepted(
        usize::from(receiver == Receiver::WebSocket),
        peer,
        Box::new(SinkWire(Arc::clone(&sink))),
        now,
    );
    let mut client = Client {
        inbound: Inbound::new(Arc::clone(relay), link, now),
        sink,
        buf: BytesMut::with_capacity(4 << 20),
        uri: format!("msrp://{name}.example.com:7777/iau39;tcp"),
        relay_uri: String::new(),
    };
    let to = "msrp://relay.test:2855;tcp";
    let paths = format!("To-Path: {to}\r\nFrom-Path: {}\r\n", client.uri);
    let challenged = client.ask(&format!("MSRP a001 AUTH\r\n{paths}-------a001$\r\n"), now);
    let challenge = Challenge::parse(challenged.value(Name::WwwAuthenticate).unwrap()).unwrap();
    let answer = Answer {
        username: "u",
        secret: Secret::Password("p"),
        method: "AUTH",
        digest_uri: to,
        cnonce: "cnonce",
        nc: 1,
        send_uri: false,
    };
    let authorization = Authorization::answer(&challenge, &answer).unwrap();
    let granted = client
        .ask(&format!("MSRP a002 AUTH\r\n{paths}Authorization: {authorization}\r\n-------a002$\r\n"), now);
    let use_path = granted.value(Name::UsePath).unwrap();
    client.relay_uri = String::from_utf8(use_path.to_vec()).unwrap();
    client
}

/// `count` chunks of `len` bytes from Alice to Bob.
fn chunks(world: &World, count: usize, len: usize, failure_report: &str) -> Vec<u8> {
    let mut input = Vec::new();
    let body = vec![b'x'; len];
    for number in 0..count {
        let id = format!("tr{number:06}");
        input.extend_from_slice(
            format!(
                "MSRP {id} SEND\r\nTo-Path: {} {} {}\r\nFrom-Path: {}\r\nMessage-ID: m{number:06}\r\n\
                 Failure-Report: {failure_report}\r\nByte-Range: 1-{len}/{len}\r\nContent-Type: text/plain\r\n\r\n",
                world.alice.relay_uri, world.bob.relay_uri, world.bob.uri, world.alice.uri
            )
            .as_bytes(),
        );
        input.extend_from_slice(&body);
        input.extend_from_slice(format!("\r\n-------{id}$\r\n").as_bytes());
    }
    input
}

/// Bob's responses to what reached him.
fn responses(sent: &[u8], receiver: Receiver, world: &World) -> Vec<u8> {
    let mut buf = BytesMut::with_capacity(sent.len());
    let mut rest = sent;
    while receiver == Receiver::WebSocket && !rest.is_empty() {
        // Messages of this size have a header of four bytes (RFC 6455 §5.2).
        let len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        buf.extend_from_slice(&rest[4..4 + len]);
        rest = &rest[4 + len..];
    }
    buf.extend_from_slice(rest);
    let mut decoder = Decoder::default();
    let mut out = Vec::with_capacity(8 * 1024);
    while let Some(event) = decoder.decode(&mut buf).unwrap() {
        if let Event::Head(head) = event {
            let id = head.transaction_id();
            write!(
                out,
                "MSRP {id} 200 OK\r\nTo-Path: {}\r\nFrom-Path: {}\r\n-------{id}$\r\n",
                world.bob.relay_uri, world.bob.uri
            )
            .unwrap();
            decoder.recycle(head);
        }
    }
    out
}

/// Each message is forwarded, answered to Alice, answered by Bob; counted per message.
#[divan::bench(args = RECEIVERS)]
fn messages_of_300_bytes_with_responses(bencher: Bencher<'_, '_>, receiver: Receiver) {
    let mut world = world(receiver);
    let input = chunks(&world, BATCH, 300, "yes");
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        let now = world.now;
        *world.bob.sink.keep.lock().unwrap() = Some(Vec::with_capacity(32 * 1024));
        world.alice.give(&input, now);
        let sent = world.bob.sink.keep.lock().unwrap().take().unwrap();
        let answers = responses(&sent, receiver, &world);
        world.bob.give(&answers, now);
    });
}

/// The same without responses: what forwarding alone costs, and allocates.
#[divan::bench(args = RECEIVERS)]
fn messages_of_300_bytes_forwarded_only(bencher: Bencher<'_, '_>, receiver: Receiver) {
    let mut world = world(receiver);
    let input = chunks(&world, BATCH, 300, "no");
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| world.alice.give(&input, world.now));
}

/// One message in each read, as a chat has it.
#[divan::bench(args = RECEIVERS)]
fn one_message_of_300_bytes_forwarded_only(bencher: Bencher<'_, '_>, receiver: Receiver) {
    let mut world = world(receiver);
    let input = chunks(&world, 1, 300, "no");
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| world.alice.give(&input, world.now));
}

/// Chunks of 64 KiB to whom they go whole, as reads of 64 KiB bring them.
#[divan::bench(args = RECEIVERS)]
fn chunks_of_64_kib(bencher: Bencher<'_, '_>, receiver: Receiver) {
    let mut world = world(receiver);
    let input = chunks(&world, BATCH, 64 * 1024, "no");
    bencher.counter(BytesCount::new(input.len())).bench_local(|| {
        for read in input.chunks(64 * 1024) {
            world.alice.give(read, world.now);
        }
    });
}
