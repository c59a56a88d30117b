//! Two endpoints back to back, or one against a script: in-memory pipes and a virtual clock.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use msrp_proto::decoder::{self, Decoder};
use msrp_proto::endpoint::{Config, Endpoint, Event, IncomingHandle, OutgoingHandle};
use msrp_proto::flag::Flag;
use msrp_proto::head::Head;
use msrp_proto::uri::MsrpUri;

pub fn uri(text: &str) -> MsrpUri {
    text.parse().unwrap()
}

/// Random bytes by a seed: one seed, one run.
pub fn random(seed: u64) -> impl FnMut(&mut [u8]) + Send {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |bytes| {
        for byte in bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 24) as u8;
        }
    }
}

/// One side: the endpoint, what has come for it, and what it told.
pub struct Side {
    pub endpoint: Endpoint,
    pub input: BytesMut,
    pub events: Vec<Event>,
    /// Bodies to be streamed, by message.
    pub sources: HashMap<OutgoingHandle, Vec<u8>>,
    /// Bodies received piece by piece.
    pub received: HashMap<IncomingHandle, Vec<u8>>,
    /// Every output that was not empty.
    pub outputs: Vec<Bytes>,
}

impl Side {
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            endpoint: Endpoint::new(config, random(seed)),
            input: BytesMut::new(),
            events: Vec::new(),
            sources: HashMap::new(),
            received: HashMap::new(),
            outputs: Vec::new(),
        }
    }

    /// Takes all events, serves bodies and collects them.
    pub fn drain(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match &event {
                Event::BodyWanted { message, offset, len } => {
                    let Some(source) = self.sources.get(message) else {
                        self.events.push(event);
                        continue;
                    };
                    let (start, end) = (*offset as usize, (*offset as usize + len).min(source.len()));
                    let bytes = Bytes::copy_from_slice(&source[start..end]);
                    self.endpoint.provide_body(*message, bytes).unwrap();
                    if end == source.len() {
                        self.endpoint.finish_body(*message).unwrap();
                    }
                    continue;
                }
                Event::MessageData { handle, offset, bytes } => {
                    let body = self.received.entry(*handle).or_default();
                    let end = *offset as usize + bytes.len();
                    body.resize(body.len().max(end), 0);
                    body[*offset as usize..end].copy_from_slice(bytes);
                    continue;
                }
                _ => {}
            }
            self.events.push(event);
        }
    }

    /// Takes all input.
    pub fn receive(&mut self, now: Instant) {
        self.drain();
        while self.endpoint.receive(&mut self.input, now) {
            self.drain();
        }
    }

    /// One output.
    pub fn transmit(&mut self, max: usize, now: Instant) -> Bytes {
        self.drain();
        let mut out = BytesMut::new();
        let written = self.endpoint.poll_transmit(&mut out, max, now);
        assert_eq!(written, out.len());
        assert!(written <= max.max(2048), "{written} bytes where {max} were asked for");
        self.drain();
        let out = out.freeze();
        if !out.is_empty() {
            self.outputs.push(out.clone());
        }
        out
    }

    /// All outputs, one behind the other.
    pub fn transmit_all(&mut self, now: Instant) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let out = self.transmit(16_384, now);
            if out.is_empty() {
                return all;
            }
            all.extend_from_slice(&out);
        }
    }

    pub fn feed(&mut self, bytes: &[u8], now: Instant) {
        self.input.extend_from_slice(bytes);
        self.receive(now);
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

/// Two sides and their clock.
pub struct Pair {
    pub a: Side,
    pub b: Side,
    pub now: Instant,
    /// How much goes over in one output.
    pub max: usize,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(Config::default(), Config::default())
    }

    pub fn with(a: Config, b: Config) -> Self {
        Self { a: Side::new(a, 1), b: Side::new(b, 2), now: Instant::now(), max: 16_384 }
    }

    /// One output each way.
    pub fn step(&mut self) -> bool {
        let from_a = self.a.transmit(self.max, self.now);
        let from_b = self.b.transmit(self.max, self.now);
        self.b.feed(&from_a, self.now);
        self.a.feed(&from_b, self.now);
        !(from_a.is_empty() && from_b.is_empty())
    }

    /// Until nothing moves.
    pub fn run(&mut self) {
        while self.step() {}
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        for side in [&mut self.a, &mut self.b] {
            side.endpoint.handle_timeout(self.now);
            side.drain();
        }
    }
}

/// A message as it stood on the wire.
#[derive(Debug)]
pub struct Wire {
    pub head: Head,
    pub body: Vec<u8>,
    pub flag: Flag,
}

impl Wire {
    pub fn field(&self, name: &str) -> Option<String> {
        let found = self.head.fields().find(|(held, _)| held.eq_ignore_ascii_case(name));
        found.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
    }

    pub fn start(&self) -> String {
        String::from_utf8(self.head.after_transaction_id().to_vec()).unwrap()
    }

    pub fn id(&self) -> String {
        self.head.transaction_id().to_string()
    }
}

/// All complete messages in `bytes`, which must not end within one.
pub fn parse_all(bytes: &[u8]) -> Vec<Wire> {
    let (messages, rest) = parse_some(bytes);
    assert!(rest, "ends within a message");
    messages
}

/// All messages in `bytes`, and whether it ends between two.
pub fn parse_some(bytes: &[u8]) -> (Vec<Wire>, bool) {
    let mut decoder = Decoder::default();
    let mut buf = BytesMut::from(bytes);
    let (mut all, mut open) = (Vec::new(), None);
    while let Some(event) = decoder.decode(&mut buf).unwrap() {
        match event {
            decoder::Event::Head(head) => open = Some((head, Vec::new())),
            decoder::Event::Body(bytes) => open.as_mut().unwrap().1.extend_from_slice(&bytes),
            decoder::Event::End(flag) => {
                let (head, body) = open.take().unwrap();
                all.push(Wire { head, body, flag });
            }
        }
    }
    (all, buf.is_empty() && decoder.is_between_messages())
}
