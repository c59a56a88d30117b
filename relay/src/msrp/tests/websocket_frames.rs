//! WebSocket frames as the harness reads and writes them: unmasked both ways, one frame for each message.

use bytes::{Buf, BytesMut};

/// A frame that is a whole binary message.
pub(super) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x82];
    match payload.len() {
        len @ 0..126 => out.push(len as u8),
        len @ 126..65_536 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

/// A frame's opcode, where its payload begins, and how long that is. The length must be written as short as
/// it can be.
fn header(buf: &[u8]) -> Option<(u8, usize, usize)> {
    let (&first, &second) = (buf.first()?, buf.get(1)?);
    assert_eq!(first & 0xf0, 0x80, "a frame is whole, without extensions");
    assert_eq!(second & 0x80, 0, "a server masks nothing");
    let (begin, len) = match second {
        126 => (4, usize::from(u16::from_be_bytes(buf.get(2..4)?.try_into().unwrap()))),
        127 => (10, u64::from_be_bytes(buf.get(2..10)?.try_into().unwrap()) as usize),
        len => (2, usize::from(len)),
    };
    let shortest = match len {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    assert_eq!(begin, shortest, "{len}");
    Some((first & 0x0f, begin, len))
}

/// Takes a whole frame, or nothing: its opcode and payload.
pub(super) fn take_frame(buf: &mut BytesMut) -> Option<(u8, BytesMut)> {
    let (opcode, begin, len) = header(buf)?;
    if buf.len() < begin + len {
        return None;
    }
    buf.advance(begin);
    Some((opcode, buf.split_to(len)))
}

/// The receiving side of a WebSocket: frames in, their payload out.
#[derive(Default)]
pub(super) struct Unframer {
    pub(super) input: BytesMut,
    /// How much of the current message has not been given.
    pub(super) left: Option<usize>,
}

impl Unframer {
    /// Moves what there is of the current message, or begins the next. Says whether there was anything.
    pub(super) fn give(&mut self, out: &mut BytesMut) -> bool {
        if self.left.is_none()
            && let Some((_, begin, len)) = header(&self.input)
        {
            self.input.advance(begin);
            self.left = Some(len);
        }
        let Some(left) = &mut self.left else { return false };
        let len = (*left).min(self.input.len());
        *left -= len;
        out.extend_from_slice(&self.input.split_to(len));
        len > 0 || *left == 0
    }
}
