//! Whole small messages that wait: responses, REPORTs, AUTH, unknown methods.

use std::collections::VecDeque;
use std::sync::Arc;

use super::segments::Segments;
use crate::msrp::link::Link;

/// How many bytes of control messages may wait before those who cause them stop reading.
pub(crate) const CONTROL_LIMIT: usize = 256 * 1024;

/// A part of a message that leaves in one piece.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it ends in the buffer.
    end: usize,
    ends_message: bool,
    /// The session its message belongs to.
    session: Option<u128>,
}

/// Control messages in the order in which they leave, and who waits for them to.
#[derive(Debug)]
pub(super) struct Control {
    bytes: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// How many messages wait.
    messages: usize,
    /// At how many their sources stop reading.
    max_messages: usize,
    waiters: Vec<Arc<Link>>,
}

impl Control {
    pub(super) fn new(max_messages: usize) -> Self {
        Self { bytes: Vec::new(), pieces: VecDeque::new(), messages: 0, max_messages, waiters: Vec::new() }
    }

    /// Gives back the room that nothing stands in.
    pub(super) fn quiet(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
            self.pieces = VecDeque::new();
        }
        if self.waiters.is_empty() {
            self.waiters = Vec::new();
        }
    }

    /// Whether nothing waits, and nobody waits for it to leave.
    pub(super) fn is_unused(&self) -> bool {
        self.is_empty() && self.waiters.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a message.
    pub(super) fn push(&mut self, session: Option<u128>, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.end_message(session);
    }

    /// Adds a message whose end-line is a piece of its own.
    pub(super) fn push_with_end_line(
        &mut self,
        session: Option<u128>,
        write: impl FnOnce(&mut Vec<u8>),
        write_end_line: impl FnOnce(&mut Vec<u8>),
    ) {
        write(&mut self.bytes);
        self.pieces.push_back(Piece { end: self.bytes.len(), ends_message: false, session });
        write_end_line(&mut self.bytes);
        self.end_message(session);
    }

    fn end_message(&mut self, session: Option<u128>) {
        self.pieces.push_back(Piece { end: self.bytes.len(), ends_message: true, session });
        self.messages += 1;
    }

    /// Whether so much waits that sources must stop reading.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= CONTROL_LIMIT || self.messages >= self.max_messages
    }

    /// Whether so little waits that they may read on.
    pub(super) fn is_relieved(&self) -> bool {
        self.bytes.len() < CONTROL_LIMIT / 2 && self.messages <= self.max_messages / 2
    }

    /// Wakes `link` once [`is_relieved`](Self::is_relieved).
    pub(super) fn wait(&mut self, link: &Arc<Link>) {
        if !self.waiters.iter().any(|waiter| waiter.id() == link.id()) {
            self.waiters.push(Arc::clone(link));
        }
    }

    /// Moves everybody who waits to `wake`.
    pub(super) fn release(&mut self, wake: &mut Vec<Arc<Link>>) {
        wake.append(&mut self.waiters);
    }

    /// Shows each message, with the session it belongs to.
    pub(super) fn each(&self, mut show: impl FnMut(Option<u128>, &[u8])) {
        let mut start = 0;
        for piece in self.pieces.iter().filter(|piece| piece.ends_message) {
            show(piece.session, &self.bytes[start..piece.end]);
            start = piece.end;
        }
    }

    /// Puts everything on the wire.
    pub(super) fn place(&mut self, wire: &mut Segments) {
        wire.pieces(&self.bytes, self.pieces.drain(..).map(|piece| (piece.end, piece.ends_message)));
        self.clear();
    }

    /// Puts everything on the wire, each message in a frame.
    pub(super) fn place_framed(&mut self, wire: &mut Segments) {
        let mut start = 0;
        let mut ends = self.pieces.drain(..);
        while let Some(first) = ends.next() {
            let end_line = if first.ends_message { None } else { ends.next() };
            let rest = end_line.map_or(0, |piece| piece.end - first.end);
            wire.framed(rest, first.ends_message, |out| out.extend_from_slice(&self.bytes[start..first.end]));
            start = first.end;
            if let Some(piece) = end_line {
                wire.end(|out| out.extend_from_slice(&self.bytes[start..piece.end]));
                start = piece.end;
            }
        }
        drop(ends);
        self.clear();
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.messages = 0;
    }
}
