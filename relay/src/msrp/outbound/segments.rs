//! What is decided and only waits for the socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use tcp_transport::ws::frame;

/// The most pieces given to one write.
pub(crate) const MAX_SLICES: usize = 64;

/// Bodies up to this size are copied, beside the head before them: cheaper than a slice of their own, which the system
/// and TLS handle one by one, and which keeps the buffer of a read alive.
const COPIED: usize = 512;

#[derive(Debug)]
enum Segment {
    /// So many bytes of `text`: a head, an end-line, a control message, a small body. Never split where it fits whole.
    Text {
        len: usize,
        ends_message: bool,
    },
    Body(Bytes),
}

/// Bytes in the order in which the socket gets them: bodies as slices of what was read, all else, and bodies that
/// are small, in one buffer that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Segments {
    queue: VecDeque<Segment>,
    text: BytesMut,
    len: usize,
    /// Bytes ever put in, and ever taken by the socket.
    placed: u64,
    taken: u64,
}

impl Segments {
    /// Gives back the room that nothing stands in.
    pub(super) fn quiet(&mut self) {
        if self.is_empty() {
            self.queue = VecDeque::new();
            self.text = BytesMut::new();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes ever put in.
    pub(super) fn placed(&self) -> u64 {
        self.placed
    }

    /// Bytes ever taken by the socket.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Puts in what `write` writes, in one piece; gives it.
    pub(super) fn text(&mut self, write: impl FnOnce(&mut BytesMut)) -> &[u8] {
        self.piece(false, write)
    }

    /// Puts in the end of a message.
    pub(super) fn end(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.piece(true, write);
    }

    fn piece(&mut self, ends_message: bool, write: impl FnOnce(&mut BytesMut)) -> &[u8] {
        let before = self.text.len();
        write(&mut self.text);
        let len = self.text.len() - before;
        self.queue.push_back(Segment::Text { len, ends_message });
        self.place(len);
        &self.text[before..]
    }

    /// Puts in what `write` writes, in one piece, with the header of a frame before it that ends `rest`
    /// bytes later; gives what was written, without that header.
    pub(super) fn framed(
        &mut self,
        rest: usize,
        ends_message: bool,
        write: impl FnOnce(&mut BytesMut),
    ) -> &[u8] {
        let mut header = 0;
        let piece = self.piece(ends_message, |out| {
            let before = out.len();
            write(out);
            // How long it is, and its header with it, is known only now.
            let end = out.len();
            frame::header(out, true, frame::Opcode::Binary, (end - before + rest) as u64, None);
            header = out.len() - end;
            out[before..].rotate_right(header);
        });
        &piece[header..]
    }

    /// Puts in `bytes` as pieces that end at `ends`, each of which may be the end of a message.
    pub(super) fn pieces(&mut self, bytes: &[u8], ends: impl Iterator<Item = (usize, bool)>) {
        let mut start = 0;
        for (end, ends_message) in ends {
            self.queue.push_back(Segment::Text { len: end - start, ends_message });
            start = end;
        }
        self.text.extend_from_slice(bytes);
        self.place(bytes.len());
    }

    /// Takes up to `len` bytes off the front of `body` and puts them in. Gives how many they were.
    pub(super) fn body(&mut self, body: &mut VecDeque<Bytes>, len: u64) -> usize {
        let mut left = len;
        let mut placed = 0;
        while left > 0 {
            let Some(front) = body.front_mut() else { break };
            let piece = if front.len() as u64 <= left {
                body.pop_front().unwrap_or_default()
            } else {
                front.split_to(left as usize)
            };
            left -= piece.len() as u64;
            placed += piece.len();
            self.queue.push_back(if piece.len() <= COPIED {
                self.text.extend_from_slice(&piece);
                Segment::Text { len: piece.len(), ends_message: false }
            } else {
                Segment::Body(piece)
            });
        }
        self.place(placed);
        placed
    }

    fn place(&mut self, len: usize) {
        self.len += len;
        self.placed += len as u64;
    }

    /// The next bytes to write, at most `unit` of them and without a part of a head, control message
    /// or end-line that does not fit whole.
    pub(super) fn slices<'a>(&'a self, unit: usize, out: &mut SmallVec<[IoSlice<'a>; MAX_SLICES]>) {
        let mut text: &[u8] = &self.text;
        // What stands together in `text`, from its beginning, is one slice: an end-line and the next head.
        let mut together = 0;
        let mut left = unit;
        for segment in &self.queue {
            if left == 0 {
                break;
            }
            match segment {
                Segment::Body(body) => {
                    if together > 0 {
                        let (slice, rest) = text.split_at(std::mem::take(&mut together));
                        out.push(IoSlice::new(slice));
                        text = rest;
                    }
                    if out.len() == MAX_SLICES {
                        break;
                    }
                    let len = body.len().min(left);
                    out.push(IoSlice::new(&body[..len]));
                    left -= len;
                }
                Segment::Text { len, .. } => {
                    if out.len() == MAX_SLICES || *len > left && left < unit {
                        break;
                    }
                    let len = (*len).min(left);
                    together += len;
                    left -= len;
                }
            }
        }
        if together > 0 {
            out.push(IoSlice::new(&text[..together]));
        }
    }

    /// The socket took so many bytes. Gives how many messages ended among them.
    pub(super) fn written(&mut self, mut len: usize) -> u64 {
        let (mut ended, mut text) = (0, 0);
        self.taken += len as u64;
        self.len -= len;
        while len > 0 {
            match self.queue.front_mut() {
                Some(Segment::Body(body)) if body.len() > len => {
                    body.advance(len);
                    len = 0;
                }
                Some(Segment::Body(body)) => {
                    len -= body.len();
                    self.queue.pop_front();
                }
                Some(Segment::Text { len: rest, ends_message }) => {
                    let gone = len.min(*rest);
                    *rest -= gone;
                    len -= gone;
                    let spent = *rest == 0;
                    text += gone;
                    if spent {
                        ended += u64::from(*ends_message);
                        self.queue.pop_front();
                    }
                }
                None => break,
            }
        }
        self.text.advance(text);
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(segments: &mut Segments, body: usize) {
        segments.text(|out| out.extend_from_slice(b"head\r\n"));
        let mut body = VecDeque::from([Bytes::from(vec![b'x'; body])]);
        segments.body(&mut body, u64::MAX);
        segments.end(|out| out.extend_from_slice(b"end$\r\n"));
    }

    /// How long the slices of the next write are.
    fn next(segments: &Segments, unit: usize) -> Vec<usize> {
        let mut slices = SmallVec::new();
        segments.slices(unit, &mut slices);
        slices.iter().map(|slice| slice.len()).collect()
    }

    #[test]
    fn what_stands_together_leaves_in_one_slice_and_so_do_small_bodies() {
        let mut segments = Segments::default();
        put(&mut segments, COPIED + 1);
        put(&mut segments, COPIED + 1);
        assert_eq!(next(&segments, usize::MAX), [6, COPIED + 1, 12, COPIED + 1, 6]);
        let mut segments = Segments::default();
        put(&mut segments, COPIED);
        put(&mut segments, COPIED - 1);
        assert_eq!(next(&segments, usize::MAX), [12 + COPIED + 12 + COPIED - 1]);
        // Of a unit that has no room for it whole, a head is left out, and a small body too.
        assert_eq!(next(&segments, 12 + COPIED + 5), [12 + COPIED]);
        assert_eq!(next(&segments, COPIED), [6]);
        assert_eq!(segments.written(6 + 3), 0);
        assert_eq!(next(&segments, COPIED - 3), [COPIED - 3]);
        assert_eq!(segments.written(COPIED - 3 + 6), 1);
        assert_eq!(segments.written(12 + COPIED - 1), 1);
        assert!(segments.is_empty() && segments.text.is_empty());
    }

    #[test]
    fn a_write_has_no_more_slices_than_it_may() {
        // Two for each message but the first, which has its head before, and the last end-line behind.
        for (messages, slices) in
            [(MAX_SLICES / 2 - 1, MAX_SLICES - 1), (MAX_SLICES / 2, MAX_SLICES), (MAX_SLICES, MAX_SLICES)]
        {
            let mut segments = Segments::default();
            (0..messages).for_each(|_| put(&mut segments, COPIED + 1));
            let lens = next(&segments, usize::MAX);
            assert_eq!(lens.len(), slices, "{messages}");
            let rest = segments.len() - lens.iter().sum::<usize>();
            assert_eq!(rest == 0, messages < MAX_SLICES / 2, "{messages}");
        }
    }
}
