//! The decoder alone: bytes/s for 64 KiB chunks, messages/s for 300-byte messages, and allocations.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark may panic"
)]

use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use msrp_proto::decoder::{Decoder, Event};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// Messages in the input of one iteration.
const BATCH: usize = 16;

fn main() {
    divan::main();
}

/// A sequence of SEND chunks; `byte` fills the bodies.
fn messages(count: usize, len: usize, fill: &[u8]) -> Vec<u8> {
    let body: Vec<u8> = fill.iter().copied().cycle().take(len).collect();
    let mut input = Vec::new();
    for number in 0..count {
        input.extend_from_slice(
            format!(
                "MSRP tr{number:06} SEND\r\n\
                 To-Path: msrps://relay.example.com:2855/61af7be00cb15e1e168f6553887e2988;tcp msrps://bob.example.com:8888/9di4ea;tcp\r\n\
                 From-Path: msrps://alice.example.com:7777/iau39;tcp\r\n\
                 Message-ID: m{number:06}\r\nByte-Range: 1-{len}/{len}\r\nContent-Type: text/plain\r\n\r\n"
            )
            .as_bytes(),
        );
        input.extend_from_slice(&body);
        input.extend_from_slice(format!("\r\n-------tr{number:06}$\r\n").as_bytes());
    }
    input
}

/// Decodes `input`, given in reads of at most `read` bytes.
fn decode(decoder: &mut Decoder, buf: &mut BytesMut, input: &[u8], read: usize) -> usize {
    let mut body = 0;
    for piece in input.chunks(read) {
        buf.extend_from_slice(piece);
        while let Some(event) = decoder.decode(buf).unwrap() {
            match event {
                Event::Head(head) => decoder.recycle(head),
                Event::Body(bytes) => body += bytes.len(),
                Event::End(_) => {}
            }
        }
    }
    body
}

#[divan::bench]
fn messages_of_300_bytes(bencher: Bencher<'_, '_>) {
    let input = messages(BATCH, 300, b"x");
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::with_capacity(1 << 20));
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| decode(&mut decoder, &mut buf, divan::black_box(&input), usize::MAX));
}

/// The copy into the buffer, which a socket's read makes, is part of the figure.
#[divan::bench]
fn chunks_of_64_kib(bencher: Bencher<'_, '_>) {
    let input = messages(BATCH, 64 * 1024, b"x");
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::with_capacity(1 << 20));
    bencher
        .counter(BytesCount::new(input.len()))
        .bench_local(|| decode(&mut decoder, &mut buf, divan::black_box(&input), 64 * 1024));
}

/// The worst body there is: beginnings of end-lines all the way.
#[divan::bench]
fn chunks_of_64_kib_full_of_look_alikes(bencher: Bencher<'_, '_>) {
    let input = messages(BATCH, 64 * 1024, b"\r\n-------tr00");
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::with_capacity(1 << 20));
    bencher
        .counter(BytesCount::new(input.len()))
        .bench_local(|| decode(&mut decoder, &mut buf, divan::black_box(&input), 64 * 1024));
}
