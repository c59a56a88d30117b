//! The header of a WebSocket frame as a server writes it: unmasked (RFC 6455 §5.2).

use smallvec::SmallVec;

/// FIN, and the opcode of a binary message.
const WHOLE_BINARY: u8 = 0x82;
/// These in the length's place say that it follows in 2 or in 8 bytes.
const LEN_16: u8 = 126;
const LEN_64: u8 = 127;

/// The header of a binary message of `len` bytes that is one frame: 2, 4 or 10 bytes, as few as possible.
pub(super) fn header(len: u64) -> SmallVec<[u8; 10]> {
    let mut header = SmallVec::new();
    header.push(WHOLE_BINARY);
    if let Some(short) = u8::try_from(len).ok().filter(|&len| len < LEN_16) {
        header.push(short);
    } else if let Ok(medium) = u16::try_from(len) {
        header.push(LEN_16);
        header.extend_from_slice(&medium.to_be_bytes());
    } else {
        header.push(LEN_64);
        header.extend_from_slice(&len.to_be_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_takes_as_few_bytes_as_it_can() {
        for (len, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(header(len).as_slice(), expected, "{len}");
        }
    }
}
