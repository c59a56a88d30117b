//! Frames on the wire (RFC 6455 §5.2): the header, the mask, the codes.

use bytes::BufMut;

/// The longest header: 2 bytes, 8 of extended length, 4 of mask.
pub const MAX_HEADER: usize = 14;

/// The longest payload of a control frame, in bytes (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame is (RFC 6455 §5.2). Reserved ones do not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message that a text or binary frame began.
    Continuation,
    /// Begins a text message.
    Text,
    /// Begins a binary message.
    Binary,
    /// Begins or answers the closing handshake.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping, or stands alone.
    Pong,
}

impl Opcode {
    /// The opcode of that number; `None`: reserved.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Its number on the wire.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    /// Whether it is a control frame, which may stand between the frames of a message.
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why a WebSocket ends, as it may stand in a Close frame (RFC 6455 §7.4). 1005, 1006 and 1015 never
/// stand there and are no values of this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: it served its purpose.
    pub const NORMAL: Self = Self(1000);
    /// 1001: this side goes away, a server shuts down for example.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1007: text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: against this side's rules.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message that is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: a fault on this side.
    pub const INTERNAL: Self = Self(1011);

    /// The code of that number; `None`: it must not stand on the wire. Allowed are those of RFC 6455
    /// §7.4.1, those registered since (1012 to 1014), and 3000 to 4999 (§7.4.2).
    #[must_use]
    pub fn new(code: u16) -> Option<Self> {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then_some(Self(code))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// Writes a frame's header; `len` bytes of payload must follow, masked with `mask` (§5.3) if there is
/// one: a client's frames must be, a server's must not. The length is written in the shortest form.
///
/// ```
/// use tcp_transport::ws::frame::{MAX_HEADER, Opcode, header};
///
/// let mut head = [0; MAX_HEADER];
/// let mut rest = &mut head[..];
/// header(&mut rest, true, Opcode::Binary, 300, None);
/// let len = MAX_HEADER - rest.len();
/// assert_eq!(head[..len], [0x82, 126, 1, 44]);
/// ```
pub fn header(out: &mut impl BufMut, fin: bool, opcode: Opcode, len: u64, mask: Option<[u8; 4]>) {
    out.put_u8(opcode.bits() | if fin { FIN } else { 0 });
    let masked = if mask.is_some() { MASKED } else { 0 };
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => out.put_u8(masked | len),
        (_, Ok(len)) => {
            out.put_u8(masked | 126);
            out.put_u16(len);
        }
        _ => {
            out.put_u8(masked | 127);
            out.put_u64(len);
        }
    }
    if let Some(mask) = mask {
        out.put_slice(&mask);
    }
}

/// Masks or unmasks `bytes` in place (RFC 6455 §5.3), which are the payload's from its byte `offset` on.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4], offset: u64) {
    let mut mask = mask;
    mask.rotate_left((offset % 4) as usize);
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// What is wrong with what the peer sent, and the code that says so to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("WebSocket: {text}")]
pub struct Violation {
    /// For the Close frame.
    pub code: CloseCode,
    /// For the log, and for the Close frame's reason.
    pub text: &'static str,
}

impl Violation {
    pub(super) fn protocol(text: &'static str) -> Self {
        Self { code: CloseCode::PROTOCOL, text }
    }
}

/// A frame's header as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message ends with this frame.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// Bytes of payload.
    pub len: u64,
    /// The mask of its payload.
    pub mask: Option<[u8; 4]>,
    /// Bytes of the header itself.
    pub size: usize,
}

impl Header {
    /// Reads the header at the front of `bytes`; `masked` says whether frames of this peer must be
    /// masked or must not (§5.1). `None`: it is not complete yet.
    ///
    /// # Errors
    /// What RFC 6455 §5.2 and §5.5 rule out in a header that stands alone, as soon as its byte is there.
    pub fn parse(bytes: &[u8], masked: bool) -> Result<Option<Self>, Violation> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & RSV != 0 {
            return Err(Violation::protocol("reserved bits without an extension"));
        }
        let opcode = Opcode::from_bits(first & 0xf).ok_or(Violation::protocol("reserved opcode"))?;
        let fin = first & FIN != 0;
        if opcode.is_control() && !fin {
            return Err(Violation::protocol("fragmented control frame"));
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        match (second & MASKED != 0, masked) {
            (false, true) => return Err(Violation::protocol("unmasked frame of a client")),
            (true, false) => return Err(Violation::protocol("masked frame of a server")),
            _ => {}
        }
        let short = second & !MASKED;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL_PAYLOAD {
            return Err(Violation::protocol("control frame of more than 125 bytes"));
        }
        let (len, mut size) = match short {
            126 => match bytes.get(2..).and_then(<[u8]>::first_chunk) {
                None => return Ok(None),
                Some(len) => (u64::from(u16::from_be_bytes(*len)), 4),
            },
            127 => match bytes.get(2..).and_then(<[u8]>::first_chunk) {
                None => return Ok(None),
                Some(len) => (u64::from_be_bytes(*len), 10),
            },
            short => (u64::from(short), 2),
        };
        if len >> 63 != 0 {
            return Err(Violation::protocol("length with its top bit set"));
        }
        if short == 126 && len < 126 || short == 127 && len <= u64::from(u16::MAX) {
            return Err(Violation::protocol("length not in its shortest form"));
        }
        let mut mask = None;
        if masked {
            let Some(key) = bytes.get(size..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            mask = Some(*key);
            size += 4;
        }
        Ok(Some(Self { fin, opcode, len, mask, size }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(fin: bool, opcode: Opcode, len: u64, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut out = Vec::new();
        header(&mut out, fin, opcode, len, mask);
        out
    }

    #[test]
    fn lengths_take_their_shortest_form() {
        for (len, expected) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 0xff, 0xff]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(written(true, Opcode::Text, len, None), expected);
        }
        assert_eq!(written(true, Opcode::Text, 1 << 40, Some([1; 4])).len(), MAX_HEADER);
    }

    #[test]
    fn what_a_header_must_not_be() {
        for (bytes, text) in [
            (&[0xc1][..], "reserved bits"),
            (&[0xa1], "reserved bits"),
            (&[0x91], "reserved bits"),
            (&[0x83], "reserved opcode"),
            (&[0x8f], "reserved opcode"),
            (&[0x09], "fragmented control"),
            (&[0x08], "fragmented control"),
            (&[0x81, 0x85], "masked frame of a server"),
            (&[0x89, 126], "more than 125"),
            (&[0x88, 127], "more than 125"),
            (&[0x81, 126, 0, 125], "shortest form"),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], "shortest form"),
            (&[0x81, 127, 0x80, 0, 0, 0, 0, 1, 0, 0], "top bit"),
        ] {
            let violation = Header::parse(bytes, false).unwrap_err();
            assert!(violation.text.contains(text), "{bytes:x?}: {violation}");
            assert_eq!(violation.code, CloseCode::PROTOCOL);
        }
        assert!(Header::parse(&[0x81, 5], true).unwrap_err().text.contains("unmasked"));
    }

    #[test]
    fn codes_that_may_stand_on_the_wire() {
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
            assert_eq!(CloseCode::new(code).unwrap().get(), code);
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            assert_eq!(CloseCode::new(code), None, "{code}");
        }
    }

    proptest! {
        #[test]
        fn headers_read_back(fin: bool, bits in 0u8..16, shift in 1u32..64, len: u64, mask: Option<[u8; 4]>) {
            let Some(opcode) = Opcode::from_bits(bits) else { return Ok(()) };
            let (fin, len) = if opcode.is_control() { (true, len % 126) } else { (fin, len >> shift) };
            let bytes = written(fin, opcode, len, mask);
            let expected = Header { fin, opcode, len, mask, size: bytes.len() };
            prop_assert_eq!(Header::parse(&bytes, mask.is_some()), Ok(Some(expected)));
            for cut in 0..bytes.len() {
                prop_assert_eq!(Header::parse(&bytes[..cut], mask.is_some()), Ok(None));
            }
        }

        #[test]
        fn an_error_stays_one_and_a_header_does_not_change(bytes in prop::collection::vec(any::<u8>(), 0..20), masked: bool) {
            let whole = Header::parse(&bytes, masked);
            for cut in 0..bytes.len() {
                match Header::parse(&bytes[..cut], masked) {
                    Ok(None) => {}
                    early => prop_assert_eq!(early, whole),
                }
            }
        }

        #[test]
        fn masking_is_its_own_inverse_wherever_it_is_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..100), mask: [u8; 4], cut in 0usize..100, offset: u32,
        ) {
            let expected: Vec<u8> =
                bytes.iter().enumerate().map(|(i, b)| b ^ mask[(i + offset as usize) % 4]).collect();
            let cut = cut.min(bytes.len());
            let mut masked = bytes.clone();
            let (front, back) = masked.split_at_mut(cut);
            apply_mask(front, mask, u64::from(offset));
            apply_mask(back, mask, u64::from(offset) + cut as u64);
            prop_assert_eq!(&masked, &expected);
            apply_mask(&mut masked, mask, u64::from(offset));
            prop_assert_eq!(masked, bytes);
        }
    }
}
