//! The two sides of a session, without I/O: messages with contents that can be checked.
//!
//! Both write and read MSRP as the wire has it, and nothing of it is made anew for each message that is the same in
//! all: a load generator that is slower than the relay measures itself.
//!
//! A message's body is the time when it was sent, as [`STAMP`] hexadecimal digits of nanoseconds, and then letters that
//! its receiver knows from their place alone.

use std::fmt::Write as _;

use anyhow::{Context as _, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use hdrhistogram::Histogram;
use msrp_proto::decoder::Event;
use msrp_proto::encoder::HeadWriter;
use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::header::{ByteRange, Name};
use msrp_proto::status::StatusCode;
use msrp_proto::uri::MsrpUri;

/// Bytes of a body that tell when it was sent.
pub const STAMP: usize = 16;

/// Bytes of a body that are written in one go.
const PIECE: u64 = 64 * 1024;

/// Chunks from this size on may be interrupted (RFC 4975 §7.1.1).
const INTERRUPTIBLE: u64 = 2048;

/// The letters repeat after so many: a prime, so that what is out of place by any power of two shows.
const PERIOD: u64 = 65_521;

/// What bodies consist of.
#[derive(Clone, Debug)]
pub struct Pattern(Bytes);

impl Pattern {
    /// The one there is.
    pub fn new() -> Self {
        let letter = |place: u64| {
            b'a' + u8::try_from(place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 59).unwrap_or(0) % 26
        };
        Self((0..PERIOD + PIECE).map(|place| letter(place % PERIOD)).collect())
    }

    /// The `len` bytes from `place` on; at most [`PIECE`].
    fn at(&self, place: u64, len: usize) -> &[u8] {
        let start = usize::try_from(place % PERIOD).unwrap_or_default();
        &self.0[start..start + len]
    }

    /// The first place where `bytes` are not those from `place` on, but for the stamp.
    fn differs(&self, mut place: u64, mut bytes: &[u8]) -> Option<u64> {
        let stamp = bytes.len().min((STAMP as u64).saturating_sub(place) as usize);
        place += stamp as u64;
        bytes = &bytes[stamp..];
        for piece in bytes.chunks(PIECE as usize) {
            let right = self.at(place, piece.len());
            if right != piece {
                let same = right.iter().zip(piece).take_while(|(right, is)| right == is).count();
                return Some(place + same as u64);
            }
            place += piece.len() as u64;
        }
        None
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends messages, all of one size.
#[derive(Debug)]
pub struct Sender {
    pattern: Pattern,
    /// From the path on to where the number of the message stands.
    head: String,
    size: u64,
    chunk_size: u64,
    messages: u64,
    chunks: u64,
    answered: u64,
    current: Option<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    stamp: u64,
    /// Bytes of the body that are written.
    written: u64,
    /// Where the current chunk ends; before one is begun, where the last one did.
    chunk_end: u64,
}

impl Sender {
    /// Sends messages of `size` bytes in chunks of at most `chunk_size` along `to_path`, as `from`.
    pub fn new(pattern: Pattern, to_path: &str, from: &MsrpUri, size: u64, chunk_size: u64) -> Self {
        let head = format!(" SEND\r\nTo-Path: {to_path}\r\nFrom-Path: {from}\r\nMessage-ID: m");
        Self { pattern, head, size, chunk_size, messages: 0, chunks: 0, answered: 0, current: None }
    }

    /// Messages that were begun.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether a message is begun and not written to its end.
    pub fn is_writing(&self) -> bool {
        self.current.is_some()
    }

    /// Whether all that was written has been answered.
    pub fn is_answered(&self) -> bool {
        self.answered == self.chunks
    }

    /// Begins a message that is due at `now`, in nanoseconds since any moment.
    pub fn begin(&mut self, now: u64) {
        self.messages += 1;
        self.current = Some(Outgoing { stamp: now, written: 0, chunk_end: 0 });
    }

    /// Writes on; `true`: what is written ends with a chunk.
    pub fn write(&mut self, out: &mut BytesMut) -> bool {
        let Some(current) = &mut self.current else { return true };
        if current.written == current.chunk_end {
            let start = current.written + 1;
            current.chunk_end = self.size.min(current.written.saturating_add(self.chunk_size));
            let interruptible = current.chunk_end - current.written > INTERRUPTIBLE;
            let range = ByteRange {
                start,
                end: (!interruptible).then_some(current.chunk_end),
                total: Some(self.size),
            };
            self.chunks += 1;
            // Into memory, so it does not fail.
            let _ = write!(
                out,
                "MSRP l{:011x}{}{:08x}\r\nByte-Range: {range}\r\nContent-Type: text/plain\r\n\r\n",
                self.chunks, self.head, self.messages
            );
        }
        if current.written < STAMP as u64 {
            let stamp = format!("{:0STAMP$x}", current.stamp);
            let from = current.written as usize;
            let to = STAMP.min(usize::try_from(current.chunk_end).unwrap_or(STAMP));
            out.put_slice(&stamp.as_bytes()[from..to]);
            current.written = to as u64;
        }
        let len = (current.chunk_end - current.written).min(PIECE);
        out.put_slice(self.pattern.at(current.written, len as usize));
        current.written += len;
        if current.written < current.chunk_end {
            return false;
        }
        let is_whole = current.written == self.size;
        let flag = if is_whole { Flag::Complete } else { Flag::More };
        let _ = write!(out, "\r\n-------l{:011x}{}\r\n", self.chunks, char::from(flag.as_byte()));
        if is_whole {
            self.current = None;
        }
        true
    }

    /// Takes what comes back.
    ///
    /// # Errors
    /// It is not success.
    pub fn received(&mut self, event: &Event) -> anyhow::Result<()> {
        let Event::Head(head) = event else { return Ok(()) };
        match head.kind() {
            Kind::Response(StatusCode::OK) => {
                self.answered += 1;
                Ok(())
            }
            _ => bail!("instead of 200 there came: {}", head.as_bytes().escape_ascii()),
        }
    }
}

/// Receives and checks messages, and answers them.
#[derive(Debug)]
pub struct Receiver {
    pattern: Pattern,
    own: MsrpUri,
    size: u64,
    delivered: u64,
    bytes: u64,
    /// Of the message under way.
    received: u64,
    stamp: [u8; STAMP],
    /// The request that is being read.
    request: Option<Head>,
    latencies: Histogram<u64>,
}

impl Receiver {
    /// Receives messages of `size` bytes as `own`.
    ///
    /// # Errors
    /// None that is known.
    pub fn new(pattern: Pattern, own: MsrpUri, size: u64) -> anyhow::Result<Self> {
        Ok(Self {
            pattern,
            own,
            size,
            delivered: 0,
            bytes: 0,
            received: 0,
            stamp: [b'0'; STAMP],
            request: None,
            // Up to an hour, to 1/1000.
            latencies: Histogram::new_with_bounds(1, 3_600_000_000_000, 3)?,
        })
    }

    /// Messages that have arrived whole.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes of bodies that have arrived.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long each message took, in nanoseconds.
    pub fn latencies(&self) -> &Histogram<u64> {
        &self.latencies
    }

    /// Takes what has come at `now`; writes the answer that is due into `out`.
    ///
    /// # Errors
    /// It is not what was sent, or not in that order.
    pub fn received(&mut self, event: Event, now: u64, out: &mut BytesMut) -> anyhow::Result<()> {
        match event {
            Event::Head(head) => {
                ensure!(head.kind() == Kind::Request(Method::Send), "there came {:?}", head.kind());
                let range = head.byte_range()?.unwrap_or_default();
                let number =
                    head.message_id()?.and_then(|id| u64::from_str_radix(id.strip_prefix('m')?, 16).ok());
                let awaited = self.delivered + 1;
                ensure!(
                    number == Some(awaited),
                    "message {awaited} was due, there came {:?}",
                    head.message_id()
                );
                ensure!(
                    range.start == self.received + 1 && range.total.is_none_or(|total| total == self.size),
                    "message {awaited} goes on at {range} after {} bytes",
                    self.received
                );
                self.request = Some(head);
            }
            Event::Body(body) => {
                if self.received < STAMP as u64 {
                    let at = self.received as usize;
                    let len = body.len().min(STAMP - at);
                    self.stamp[at..at + len].copy_from_slice(&body[..len]);
                }
                if let Some(place) = self.pattern.differs(self.received, &body) {
                    bail!("message {} was changed at byte {place}", self.delivered + 1);
                }
                self.received += body.len() as u64;
                self.bytes += body.len() as u64;
            }
            Event::End(flag) => {
                let request = self.request.take().context("an end without a beginning")?;
                self.answer(&request, out);
                match flag {
                    Flag::Complete => self.whole(now)?,
                    Flag::More => {}
                    Flag::Abort => bail!("message {} was given up", self.delivered + 1),
                }
            }
        }
        Ok(())
    }

    fn whole(&mut self, now: u64) -> anyhow::Result<()> {
        ensure!(self.received == self.size, "message {} has {} bytes", self.delivered + 1, self.received);
        let sent = u64::from_str_radix(std::str::from_utf8(&self.stamp)?, 16)?;
        self.latencies.saturating_record(now.saturating_sub(sent).max(1));
        self.delivered += 1;
        self.received = 0;
        Ok(())
    }

    fn answer(&self, request: &Head, out: &mut BytesMut) {
        let before = request.from_path().next().map(|uri| uri.to_string()).unwrap_or_default();
        HeadWriter::response(out, &request.transaction_id(), StatusCode::OK)
            .field(Name::ToPath, before)
            .field(Name::FromPath, &self.own)
            .end(Flag::Complete);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use msrp_proto::decoder::{Decoder, Limits};

    fn uri(text: &str) -> MsrpUri {
        text.parse().unwrap()
    }

    /// Passes `messages` on, after `change` of the bytes that one writes.
    fn pass(
        size: u64,
        chunk: u64,
        messages: u64,
        change: impl Fn(&mut BytesMut),
    ) -> anyhow::Result<Receiver> {
        let (own, other) = (uri("msrp://a.invalid:1/a;tcp"), uri("msrp://b.invalid:1/b;tcp"));
        let mut sender = Sender::new(Pattern::new(), own.as_str(), &other, size, chunk);
        let mut receiver = Receiver::new(Pattern::new(), own, size)?;
        let (mut there, mut back) = (Decoder::new(Limits::default()), Decoder::new(Limits::default()));
        let (mut wire, mut answers) = (BytesMut::new(), BytesMut::new());
        for number in 0..messages {
            sender.begin(number);
            while sender.is_writing() {
                sender.write(&mut wire);
            }
        }
        change(&mut wire);
        while let Some(event) = there.decode(&mut wire)? {
            receiver.received(event, 1000, &mut answers)?;
        }
        while let Some(event) = back.decode(&mut answers)? {
            sender.received(&event)?;
        }
        ensure!(sender.is_answered(), "not all is answered");
        Ok(receiver)
    }

    #[test]
    fn what_is_sent_arrives_in_any_cut() {
        for (size, chunk) in [
            (16, 16),
            (300, 2048),
            (300, 7),
            (5000, 2048),
            (200_000, 200_000),
            (200_000, 65_536),
            (9 << 20, 9 << 20),
        ] {
            let receiver = pass(size, chunk, 3, |_| {}).unwrap();
            assert_eq!((receiver.delivered(), receiver.bytes()), (3, 3 * size), "{size} in {chunk}");
            assert_eq!((receiver.latencies().len(), receiver.latencies().max()), (3, 1000));
        }
    }

    #[test]
    fn the_pattern_is_the_same_however_it_is_cut() {
        let pattern = Pattern::new();
        for place in [0, 1, 15, PERIOD - 1, PERIOD, 3 * PERIOD - 7] {
            for len in [1, 100, PERIOD as usize, PIECE as usize] {
                let bytes = pattern.at(place, len);
                for (offset, byte) in bytes.iter().enumerate() {
                    assert_eq!(pattern.at(place + offset as u64, 1), [*byte], "{place} {offset}");
                }
            }
        }
    }

    #[test]
    fn what_is_changed_lost_or_doubled_is_noticed() {
        let at = |wire: &BytesMut, text: &str| {
            wire.windows(text.len()).position(|part| part == text.as_bytes()).unwrap()
        };
        let changed = pass(300, 300, 1, |wire| {
            let end = at(wire, "\r\n-------");
            wire[end - 1] ^= 1;
        });
        assert!(changed.unwrap_err().to_string().contains("changed"));
        let second = |wire: &BytesMut| 1 + at(&BytesMut::from(&wire[1..]), "MSRP l");
        let lost = pass(300, 300, 3, |wire| *wire = BytesMut::from(&wire[second(wire)..]));
        assert!(lost.unwrap_err().to_string().contains("message 1 was due"));
        let doubled = pass(300, 300, 1, |wire| *wire = BytesMut::from(wire.repeat(2).as_slice()));
        assert!(doubled.unwrap_err().to_string().contains("message 2 was due"));
        let chunk_lost = pass(300, 100, 1, |wire| *wire = BytesMut::from(&wire[second(wire)..]));
        assert!(chunk_lost.unwrap_err().to_string().contains("goes on at"));
    }

    #[test]
    fn anything_but_success_is_an_error() {
        let own = uri("msrp://a.invalid:1/a;tcp");
        let mut sender = Sender::new(Pattern::new(), own.as_str(), &own, 300, 300);
        let mut wire = BytesMut::from(
            "MSRP abcd 481 Gone\r\nTo-Path: msrp://a:1/a;tcp\r\nFrom-Path: msrp://a:1/b;tcp\r\n-------abcd$\r\n",
        );
        let event = Decoder::new(Limits::default()).decode(&mut wire).unwrap().unwrap();
        assert!(sender.received(&event).unwrap_err().to_string().contains("481 Gone"));
    }
}
