//! Packets out of a stream: version 3 over TCP and TLS.

use bytes::{Bytes, BytesMut};

use super::codec::{MAX_PACKET, packet_length};
use super::error::DecodeError;

/// In how many reads one packet may come (`hep_max_msg_chunks`): 32, as OpenSIPS.
pub const DEFAULT_MAX_MSG_CHUNKS: u32 = 32;

/// What one peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// `hep_max_msg_chunks`: in how many reads a packet may come; [`DEFAULT_MAX_MSG_CHUNKS`].
    pub max_msg_chunks: u32,
    /// The longest packet, in octets; [`MAX_PACKET`].
    pub max_packet: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { max_msg_chunks: DEFAULT_MAX_MSG_CHUNKS, max_packet: MAX_PACKET }
    }
}

/// A stream that cannot be read on: there is no next packet to be found in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// What comes is no HEP.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// [`FrameLimits::max_msg_chunks`].
    #[error("a packet came in more than {0} pieces")]
    TooManyChunks(u32),
    /// [`FrameLimits::max_packet`].
    #[error("a packet of {length} octets, where {limit} are allowed")]
    TooLong {
        /// What it says.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// Finds packets in a stream.
///
/// ```
/// use bytes::BytesMut;
/// use tcp_transport::hep::{FrameLimits, Framer};
///
/// let mut framer = Framer::new(FrameLimits::default());
/// let mut buf = BytesMut::from(&b"HEP3\x00\x06HEP3\x00"[..]);
/// framer.was_read();
/// assert_eq!(framer.next(&mut buf)?.as_deref(), Some(&b"HEP3\x00\x06"[..]));
/// assert_eq!(framer.next(&mut buf)?, None);
/// # Ok::<_, tcp_transport::hep::FrameError>(())
/// ```
#[derive(Debug)]
pub struct Framer {
    limits: FrameLimits,
    /// Reads in which the packet that is at the front of the buffer came, until now.
    reads: u32,
}

impl Framer {
    /// For a stream at its begin.
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, reads: 0 }
    }

    /// To be called once after each read, before [`next`](Self::next): this is how pieces are counted.
    pub fn was_read(&mut self) {
        self.reads += 1;
    }

    /// Takes the next packet, whole, off the front of `buf`; `None`: it is not all there.
    ///
    /// # Errors
    /// The stream cannot be read on.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        if buf.is_empty() {
            self.reads = 0;
            return Ok(None);
        }
        let length = packet_length(buf)?;
        if let Some(length) = length.filter(|length| *length > self.limits.max_packet) {
            return Err(FrameError::TooLong { length, limit: self.limits.max_packet });
        }
        match length.filter(|length| *length <= buf.len()) {
            Some(length) => {
                // What follows it came with the same read.
                self.reads = 1;
                Ok(Some(buf.split_to(length).freeze()))
            }
            None if self.reads >= self.limits.max_msg_chunks => {
                Err(FrameError::TooManyChunks(self.limits.max_msg_chunks))
            }
            None => Ok(None),
        }
    }

    /// Whether a packet has begun and is not all there.
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.reads > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: &[u8] = b"HEP3\x00\x0d\0\0\0\x01\0\x07\x02";

    /// Feeds the pieces one by one; how many packets came of it.
    fn feed<'a>(
        framer: &mut Framer,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<usize, FrameError> {
        let mut buf = BytesMut::new();
        let mut packets = 0;
        for piece in pieces {
            buf.extend_from_slice(piece);
            framer.was_read();
            while let Some(packet) = framer.next(&mut buf)? {
                assert_eq!(packet, PACKET);
                packets += 1;
            }
        }
        assert!(buf.is_empty() != framer.is_within());
        Ok(packets)
    }

    #[test]
    fn packets_are_found_however_the_stream_is_cut() {
        let stream = PACKET.repeat(3);
        for size in 1..=stream.len() {
            let mut framer = Framer::new(FrameLimits::default());
            assert_eq!(feed(&mut framer, stream.chunks(size)), Ok(3), "pieces of {size}");
        }
    }

    #[test]
    fn pieces_of_one_packet_are_counted_below_at_and_above_the_limit() {
        let pieces = |n: usize| {
            let (single, rest) = PACKET.split_at(n - 1);
            single.chunks(1).chain([rest])
        };
        for (count, fits) in [(3, true), (4, true), (5, false)] {
            let limits = FrameLimits { max_msg_chunks: 4, ..FrameLimits::default() };
            let result = feed(&mut Framer::new(limits), pieces(count));
            assert_eq!(result, if fits { Ok(1) } else { Err(FrameError::TooManyChunks(4)) });
        }
        let limits = FrameLimits { max_msg_chunks: 4, ..FrameLimits::default() };
        let all = (0..5).flat_map(|_| pieces(4));
        assert_eq!(feed(&mut Framer::new(limits), all), Ok(5), "each packet is counted on its own");
    }

    #[test]
    fn a_packet_is_as_long_as_it_may_be() {
        let limits = |max_packet| FrameLimits { max_packet, ..FrameLimits::default() };
        assert_eq!(feed(&mut Framer::new(limits(14)), [PACKET]), Ok(1));
        assert_eq!(feed(&mut Framer::new(limits(13)), [PACKET]), Ok(1));
        let too_long = FrameError::TooLong { length: 13, limit: 12 };
        assert_eq!(feed(&mut Framer::new(limits(12)), [&PACKET[..6]]), Err(too_long));
    }

    #[test]
    fn what_is_no_hep_is_known_by_its_first_octets() {
        let mut framer = Framer::new(FrameLimits::default());
        assert_eq!(feed(&mut framer, [&b"HEX"[..]]), Err(DecodeError::NotHep.into()));
        let mut framer = Framer::new(FrameLimits::default());
        assert_eq!(feed(&mut framer, [&b"HEP3\0\x05"[..]]), Err(DecodeError::PacketLength(5).into()));
    }
}
