//! Message mode: the connection is a WebSocket, and each message is one frame on it (RFC 7977 §5.1).
//!
//! A frame says its length at its beginning, so a fragment is decided at once and nothing stays open: its
//! head, as many body bytes as are there and fit in, its end-line. It waits for a chunk to end, or for
//! enough of it to make a fragment as long as the settings permit.

use msrp_proto::encoder;
use msrp_proto::flag::Flag;
use msrp_proto::header::ByteRange;

use super::fragment::{Current, head_of, new_transaction};
use super::lane::Chunk;
use super::{Outbound, QueueSettings};
use crate::msrp::wire::Random;

/// The settings of message mode, and the frames that are no messages.
#[derive(Debug)]
pub(super) struct Frames {
    /// The most body bytes in one fragment.
    chunk_size: u64,
    /// Pings, pongs and closes that wait, ready to be written.
    control: Vec<u8>,
    /// One of them was a close: nothing follows it.
    closing: bool,
}

impl Frames {
    pub(super) fn new(settings: &QueueSettings) -> Option<Self> {
        let chunk_size = settings.chunk_size?;
        Some(Self { chunk_size, control: Vec::new(), closing: false })
    }
}

/// Whether a fragment of an unfinished chunk can be made: it is as long as it may be, or half of the lane is
/// full. With more than that the source may have paused, and reads on only when half has gone. One byte is
/// held back, so that the last fragment is never empty.
pub(super) fn is_enough(chunk: &Chunk, chunk_size: u64, settings: &QueueSettings) -> bool {
    chunk.sendable() >= chunk_size.min(settings.session_buffer as u64 / 2).max(1)
}

impl Outbound {
    /// Whether each message leaves as one frame.
    pub(super) fn is_in_message_mode(&self) -> bool {
        self.frames.is_some()
    }

    /// Whether a close frame is on its way: nothing follows it.
    pub(super) fn is_closing(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| frames.closing)
    }

    /// Whether a ping, pong or close waits for the next boundary of frames.
    pub(super) fn waiting_frames(&self) -> usize {
        self.frames.as_ref().map_or(0, |frames| frames.control.len())
    }

    /// Adds a whole WebSocket frame that is no message: it goes before all that is not on the wire yet.
    /// After a close nothing else is begun. Ignored where messages are no frames.
    pub(crate) fn frame(&mut self, frame: &[u8], closes: bool) {
        if let Some(frames) = self.frames.as_mut().filter(|frames| !frames.closing) {
            frames.control.extend_from_slice(frame);
            frames.closing = closes;
        }
    }

    /// Whether one of those frames is not on the wire yet.
    pub(crate) fn frame_waits(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| !frames.control.is_empty())
    }

    /// Puts those frames on the wire.
    pub(super) fn send_frames(&mut self) -> bool {
        let Some(frames) = self.frames.as_mut().filter(|frames| !frames.control.is_empty()) else {
            return false;
        };
        self.wire.text(|out| out.extend_from_slice(&frames.control));
        frames.control.clear();
        true
    }

    /// Puts the next lane's turn on the wire: one fragment, whole.
    pub(super) fn send_fragment(&mut self, random: &dyn Random) -> bool {
        let Some(chunk_size) = self.frames.as_ref().map(|frames| frames.chunk_size) else { return false };
        if self.is_full_of_transactions() {
            return false;
        }
        let Some(index) = self.lanes.next_turn() else { return false };
        let lane = self.lanes.at(index);
        let Some(chunk) = lane.chunks.front_mut() else { return true };
        // In an orderly stop only what has begun goes on.
        if self.winding_up && !chunk.interrupted {
            return true;
        }
        let Some(origin) = &chunk.origin else { return true };

        let transaction = new_transaction(random);
        let len = chunk.sendable().min(chunk_size);
        let last = chunk.end.filter(|_| len == chunk.buffered);
        let flag = last.unwrap_or(Flag::More);
        let goes_as_it_came = last.is_some() && !chunk.interrupted && !chunk.silent;
        let range = (!goes_as_it_came).then(|| ByteRange {
            start: chunk.position,
            end: (len > 0).then(|| (chunk.position + len).saturating_sub(1)),
            total: origin.range.total,
        });
        let has_body = chunk.has_body;
        let end_line = encoder::end_line_len(transaction.as_bytes().len());
        // Without a body the CRLF before it is the head's.
        let end_line = if has_body { end_line } else { end_line - 2 };
        let head = self.wire.framed(len as usize + end_line, false, |out| {
            let head = origin.write_head(out, &transaction, range);
            if has_body {
                head.body();
            } else {
                head.no_body();
            }
        });
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.is_on()) {
            watch.begin(origin.session, head_of(head, has_body), has_body);
        }
        let start = chunk.position;
        let current = Current { lane: index, transaction, start, interruptible: false, answered: false };
        self.place_body(index, len);
        self.finish(current, flag);
        true
    }

    /// For an orderly stop: ends with `#` the chunks that have begun and whose rest has not come.
    pub(super) fn end_begun(&mut self) {
        for index in self.lanes.begun() {
            if let Some(chunk) = self.lanes.at(index).chunks.front_mut().filter(|chunk| chunk.end.is_none()) {
                chunk.end = Some(Flag::Abort);
            }
            self.make_ready(index);
        }
    }
}
