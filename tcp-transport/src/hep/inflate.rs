//! Compressed payloads (chunk 0x0010).

use std::io::{self, Read};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use flate2::write::ZlibEncoder;

use super::error::DecodeError;
use super::packet::Packet;

/// What a compressed payload may inflate to: 64 KiB, as much as one that is not compressed could hold. More is
/// no captured message but an attempt at our memory.
pub const DEFAULT_INFLATE_LIMIT: usize = 64 * 1024;

impl Packet {
    /// What was captured: the payload, or the compressed one inflated to at most `limit` octets
    /// ([`DEFAULT_INFLATE_LIMIT`]). The specification says "gzip/inflate", and agents send gzip, zlib
    /// and raw deflate; all are taken. `None`: the packet has neither.
    ///
    /// # Errors
    /// What is compressed is broken, or too long.
    pub fn content(&self, limit: usize) -> Result<Option<Bytes>, DecodeError> {
        match (&self.payload, &self.compressed_payload) {
            (Some(payload), _) => Ok(Some(payload.clone())),
            (None, Some(compressed)) => inflate(compressed, limit).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The packet with its compressed payload inflated (versions 1 and 2 know no other), if that can be done within
    /// [`DEFAULT_INFLATE_LIMIT`]; `None`: it has none, or one that is broken or too long.
    pub(super) fn inflated(&self) -> Option<Self> {
        if self.payload.is_some() || self.compressed_payload.is_none() {
            return None;
        }
        let payload = self.content(DEFAULT_INFLATE_LIMIT).ok()?;
        Some(Self { payload, compressed_payload: None, ..self.clone() })
    }

    /// Moves the payload to the compressed one (zlib), if that makes it shorter.
    ///
    /// # Errors
    /// None that a buffer in memory can have.
    pub fn compress(&mut self) -> io::Result<()> {
        let Some(payload) = &self.payload else { return Ok(()) };
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(payload.len() / 2), Compression::fast());
        io::Write::write_all(&mut encoder, payload)?;
        let compressed = encoder.finish()?;
        if compressed.len() < payload.len() {
            self.compressed_payload = Some(compressed.into());
            self.payload = None;
        }
        Ok(())
    }
}

fn inflate(compressed: &[u8], limit: usize) -> Result<Bytes, DecodeError> {
    match compressed {
        [0x1f, 0x8b, ..] => read(GzDecoder::new(compressed), limit),
        // RFC 1950 §2.2: method 8, a window of at most 32 KiB, and a multiple of 31.
        [cmf, flg, ..] if cmf & 0x0f == 8 && cmf >> 4 <= 7 && u16::from_be_bytes([*cmf, *flg]) % 31 == 0 => {
            read(ZlibDecoder::new(compressed), limit)
        }
        _ => read(DeflateDecoder::new(compressed), limit),
    }
}

fn read(decoder: impl Read, limit: usize) -> Result<Bytes, DecodeError> {
    let mut out = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(most).read_to_end(&mut out).map_err(|e| DecodeError::Compressed(e.to_string()))?;
    if out.len() > limit { Err(DecodeError::Inflated(limit)) } else { Ok(out.into()) }
}

#[cfg(test)]
mod tests {
    use flate2::write::{DeflateEncoder, GzEncoder};

    use super::*;

    fn compressed(text: &[u8]) -> [Vec<u8>; 3] {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        io::Write::write_all(&mut gzip, text).unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        io::Write::write_all(&mut zlib, text).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        io::Write::write_all(&mut raw, text).unwrap();
        [gzip.finish().unwrap(), zlib.finish().unwrap(), raw.finish().unwrap()]
    }

    fn packet(compressed: Vec<u8>) -> Packet {
        Packet { compressed_payload: Some(compressed.into()), ..Packet::default() }
    }

    #[test]
    fn gzip_zlib_and_raw_deflate_inflate() {
        let text = b"INVITE sip:bob@example.org SIP/2.0\r\n".repeat(20);
        for compressed in compressed(&text) {
            assert_eq!(packet(compressed).content(DEFAULT_INFLATE_LIMIT).unwrap().unwrap(), text);
        }
    }

    #[test]
    fn what_inflates_to_more_than_the_limit_is_an_error() {
        let text = vec![b'a'; 10_000];
        for compressed in compressed(&text) {
            let packet = packet(compressed);
            assert_eq!(packet.content(10_001).unwrap().unwrap().len(), 10_000);
            assert_eq!(packet.content(10_000).unwrap().unwrap().len(), 10_000);
            assert_eq!(packet.content(9_999), Err(DecodeError::Inflated(9_999)));
        }
    }

    #[test]
    fn what_is_broken_is_an_error() {
        let text = b"INVITE sip:bob@example.org SIP/2.0\r\n".repeat(20);
        for compressed in compressed(&text) {
            let half = compressed[..compressed.len() / 2].to_vec();
            assert!(matches!(packet(half).content(1000), Err(DecodeError::Compressed(_))));
        }
        assert!(packet(b"\xff\xff\xff".to_vec()).content(1000).is_err());
        assert_eq!(Packet::default().content(1000), Ok(None));
    }

    #[test]
    fn a_payload_is_compressed_where_that_is_shorter() {
        let mut long = Packet { payload: Some(vec![b'x'; 500].into()), ..Packet::default() };
        long.compress().unwrap();
        assert!(long.payload.is_none() && long.compressed_payload.as_ref().unwrap().len() < 100);
        assert_eq!(long.content(500).unwrap().unwrap(), vec![b'x'; 500]);
        let mut short = Packet { payload: Some(Bytes::from_static(b"x")), ..Packet::default() };
        short.compress().unwrap();
        assert_eq!(short.payload.as_deref(), Some(&b"x"[..]));
    }
}
