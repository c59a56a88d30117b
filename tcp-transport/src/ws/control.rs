//! Control frames that wait to be sent: at most one pong, one ping, one Close.

use std::fmt;

use bytes::BufMut as _;

use super::Role;
use super::frame::{self, CloseCode, MAX_CONTROL_PAYLOAD, MAX_HEADER, Opcode};

/// Bytes of text in a Close frame at most: what its code leaves of the payload.
const MAX_CLOSE_TEXT: usize = MAX_CONTROL_PAYLOAD - 2;

/// A whole control frame, ready for the wire, masked if need be.
#[derive(Clone, Copy)]
pub struct SmallFrame {
    bytes: [u8; MAX_HEADER + MAX_CONTROL_PAYLOAD],
    len: usize,
    closes: bool,
}

impl SmallFrame {
    fn new(role: Role, opcode: Opcode, payload: [&[u8]; 2]) -> Self {
        let mut bytes = [0; MAX_HEADER + MAX_CONTROL_PAYLOAD];
        let whole = bytes.len();
        let mask = role.mask();
        let len = payload.iter().map(|part| part.len()).sum::<usize>();
        let mut rest = &mut bytes[..];
        frame::header(&mut rest, true, opcode, len as u64, mask);
        for part in payload {
            rest.put_slice(part);
        }
        let end = whole - rest.len();
        if let Some(mask) = mask {
            frame::apply_mask(&mut bytes[end - len..end], mask, 0);
        }
        Self { bytes, len: end, closes: matches!(opcode, Opcode::Close) }
    }
}

impl SmallFrame {
    /// Whether it is a Close, after which nothing may follow.
    #[must_use]
    pub fn is_close(&self) -> bool {
        self.closes
    }
}

impl AsRef<[u8]> for SmallFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for SmallFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SmallFrame").field(&self.as_ref()).finish()
    }
}

/// The payload of the ping to be answered.
#[derive(Debug)]
struct Pong {
    bytes: [u8; MAX_CONTROL_PAYLOAD],
    len: usize,
}

/// Our side of the closing handshake.
#[derive(Debug)]
enum Closing {
    No,
    Queued(CloseCode, Box<str>),
    Sent,
}

/// What waits.
#[derive(Debug)]
pub(super) struct Control {
    /// Allocated by a ping, freed with its pong: an idle connection holds none.
    pong: Option<Box<Pong>>,
    ping: bool,
    closing: Closing,
}

impl Control {
    pub(super) fn new() -> Self {
        Self { pong: None, ping: false, closing: Closing::No }
    }

    /// A ping to be answered. One that still waits is not (RFC 6455 §5.5.3), so whoever sends many
    /// pings makes no queue of them.
    pub(super) fn answer(&mut self, payload: &[u8]) {
        if self.is_closing() {
            return;
        }
        let pong = self.pong.get_or_insert_with(|| Box::new(Pong { bytes: [0; _], len: 0 }));
        pong.len = payload.len().min(MAX_CONTROL_PAYLOAD);
        pong.bytes[..pong.len].copy_from_slice(&payload[..pong.len]);
    }

    pub(super) fn ping(&mut self) {
        self.ping = true;
    }

    /// Queues our Close, the first time.
    pub(super) fn close(&mut self, code: CloseCode, text: &str) {
        if !self.is_closing() {
            let fits = |(at, c): (usize, char)| (at + c.len_utf8() <= MAX_CLOSE_TEXT).then_some(c);
            self.closing = Closing::Queued(code, text.char_indices().map_while(fits).collect());
            self.ping = false;
        }
    }

    /// Whether our Close is queued or sent.
    pub(super) fn is_closing(&self) -> bool {
        !matches!(self.closing, Closing::No)
    }

    pub(super) fn has_output(&self) -> bool {
        self.pong.is_some() || self.ping || matches!(self.closing, Closing::Queued(..))
    }

    /// The next frame to send; Close comes last.
    pub(super) fn take(&mut self, role: Role) -> Option<SmallFrame> {
        if let Some(pong) = self.pong.take() {
            return Some(SmallFrame::new(role, Opcode::Pong, [&pong.bytes[..pong.len], &[]]));
        }
        if std::mem::take(&mut self.ping) {
            return Some(SmallFrame::new(role, Opcode::Ping, [&[], &[]]));
        }
        if let Closing::Queued(code, text) = &self.closing {
            let frame = SmallFrame::new(role, Opcode::Close, [&code.get().to_be_bytes(), text.as_bytes()]);
            self.closing = Closing::Sent;
            return Some(frame);
        }
        None
    }
}
