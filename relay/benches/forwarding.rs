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

use std::io::Write as _;
use std::time::Instant;

use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use msrp_proto::decoder::{Decoder, Event};
use tcp_transport::connection::MAX_READ_SIZE;

use self::in_memory::{Client, relay};

#[path = "../tests/common/in_memory.rs"]
mod in_memory;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// Messages in one read.
const BATCH: usize = 16;

fn main() {
    divan::main();
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
    let relay = relay();
    let now = Instant::now();
    let alice = Client::connect(&relay, "alice", 0, None, now);
    let bob = Client::connect(&relay, "bob", usize::from(receiver == Receiver::WebSocket), None, now);
    World { now, alice, bob }
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
        world.bob.sink.keep(32 * 1024);
        world.alice.give(&input, now);
        let sent = world.bob.sink.take();
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

/// Chunks of 64 KiB to whom they go whole, as reads without TLS bring them.
#[divan::bench(args = RECEIVERS)]
fn chunks_of_64_kib(bencher: Bencher<'_, '_>, receiver: Receiver) {
    let mut world = world(receiver);
    let input = chunks(&world, BATCH, 64 * 1024, "no");
    bencher.counter(BytesCount::new(input.len())).bench_local(|| {
        for read in input.chunks(MAX_READ_SIZE) {
            world.alice.give(read, world.now);
        }
    });
}
