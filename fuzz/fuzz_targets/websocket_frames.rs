//! WebSocket frames: whole, byte by byte and cut as the input says, the same messages, answers and end
//! come of them, however much the consumer takes at once and however often it pauses; and they are those
//! that a simple reader of frames finds. The first byte says the role, and how many of the following ones
//! are the sizes of the pieces.
#![no_main]

use std::time::Instant;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tcp_transport::ws::frame::{Header, Opcode, apply_mask};
use tcp_transport::ws::{Incoming, Role, Settings};
use tcp_transport::{CloseReason, Flow};

#[derive(Debug, Default, PartialEq)]
struct Told {
    messages: Vec<(bool, Vec<u8>)>,
    end: Option<CloseReason>,
    output: Vec<u8>,
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    let (sizes, wire) = input.split_at(usize::from(choice % 8).min(input.len()));
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size)).collect();
    let server = choice & 8 == 0;
    let role = if server { Role::Server } else { Role::Client { mask: || [1, 2, 3, 4] } };
    let at_once = feed(role, wire, &[]);
    assert_eq!(feed(role, wire, &[1]), at_once);
    assert_eq!(feed(role, wire, &sizes), at_once);
    let expected = messages(wire, server);
    assert!(expected.starts_with(&at_once.messages));
    if at_once.end.is_none() {
        assert_eq!(at_once.messages, expected);
    }
});

/// A piece for each size, over and over. What the consumer does comes of the sizes too.
fn feed(role: Role, wire: &[u8], sizes: &[usize]) -> Told {
    let now = Instant::now();
    let mut incoming = Incoming::new(role, Settings::default(), now);
    let mut told = Told::default();
    let mut part = Vec::new();
    let mut buf = BytesMut::new();
    let mut rest = wire;
    let mut sizes = sizes.iter().copied().cycle();
    while !rest.is_empty() && told.end.is_none() {
        let size = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        buf.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        let mut pauses = size % 3;
        loop {
            let flow = incoming.received(&mut buf, now, |payload| {
                if pauses > 0 {
                    pauses -= 1;
                    return Flow::Pause;
                }
                let len = payload.buf.len();
                let take = if payload.end { len } else { sizes.next().unwrap_or(len).min(len) };
                part.extend(payload.buf.split_to(take));
                if payload.end {
                    told.messages.push((payload.text, std::mem::take(&mut part)));
                }
                Flow::Read
            });
            match flow {
                Flow::Pause => {}
                Flow::Read => break,
                Flow::Close(reason) => {
                    told.end = Some(reason);
                    break;
                }
            }
        }
    }
    while let Some(frame) = incoming.take_output() {
        told.output.extend(frame.as_ref());
    }
    told
}

/// The whole messages in `wire`, found without any state or limit, as far as its headers are good.
fn messages(mut wire: &[u8], masked: bool) -> Vec<(bool, Vec<u8>)> {
    let mut found = Vec::new();
    let mut message: Option<(bool, Vec<u8>)> = None;
    while let Ok(Some(header)) = Header::parse(wire, masked) {
        let Some(end) = usize::try_from(header.len).ok().and_then(|len| len.checked_add(header.size)) else {
            break;
        };
        let Some(payload) = wire.get(header.size..end) else { break };
        wire = &wire[end..];
        if header.opcode.is_control() {
            continue;
        }
        let mut payload = payload.to_vec();
        apply_mask(&mut payload, header.mask.unwrap_or_default(), 0);
        message.get_or_insert((header.opcode == Opcode::Text, Vec::new())).1.extend(payload);
        if header.fin {
            found.extend(message.take());
        }
    }
    found
}
