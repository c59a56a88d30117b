//! Encoding and decoding of all three versions.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::chunk::{CHUNK_HEADER, Chunk, ChunkOrder, field, keep};
use super::error::{DecodeError, EncodeError};
use super::legacy::{self, TimeOrder};
use super::packet::Packet;

/// What a packet of version 3 begins with.
pub const MAGIC: [u8; 4] = *b"HEP3";

/// The same, as some agents write it (Extensible Encapsulation Protocol).
pub const MAGIC_EEP: [u8; 4] = *b"EEP3";

/// Octets of the header of version 3: identifier and length.
pub(super) const HEADER: usize = 6;

/// The longest packet: what two octets of length can say.
pub const MAX_PACKET: usize = 65_535;

/// Octets of what a trace has besides octet strings: the header, addresses of IPv6, ports, time, types, capture id, and the
/// headers of the chunks.
const NUMBERS: usize = 160;

/// A version of HEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Version {
    /// Addresses and payload; UDP only.
    V1,
    /// Time and 16 bits of capture id too; UDP only.
    V2,
    /// Chunks; UDP, TCP, TLS.
    #[default]
    V3,
}

impl Version {
    /// 1, 2 or 3.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// How packets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Encoding {
    /// The version.
    pub version: Version,
    /// Version 3: the order of the chunks.
    pub order: ChunkOrder,
    /// Version 2: the byte order of time and capture id.
    pub time_order: TimeOrder,
}

impl Packet {
    /// The packet as it goes on the wire.
    ///
    /// Versions 1 and 2 carry what they know; the rest of the packet is left out without a word, as nothing
    /// could be done about it.
    ///
    /// # Errors
    /// It is too long; versions 1 and 2: it has no addresses.
    pub fn encode(&self, encoding: Encoding) -> Result<Bytes, EncodeError> {
        match encoding.version {
            Version::V1 | Version::V2 => legacy::encode(self, encoding.version, encoding.time_order),
            Version::V3 => encode(self, encoding.order),
        }
    }

    /// Reads one datagram, which must be one packet and nothing else. Values are slices of it.
    /// `time_order` is what version 2 is believed to be written in.
    ///
    /// # Errors
    /// It is no HEP, or a length in it is wrong. Chunks nobody knows are none.
    pub fn decode(datagram: &Bytes, time_order: TimeOrder) -> Result<(Version, Self), DecodeError> {
        match datagram.first() {
            Some(1) => legacy::decode(datagram, Version::V1, time_order).map(|packet| (Version::V1, packet)),
            Some(2) => legacy::decode(datagram, Version::V2, time_order).map(|packet| (Version::V2, packet)),
            _ => decode(datagram).map(|packet| (Version::V3, packet)),
        }
    }
}

/// A packet of version 3 that was decoded from `wire`, with `key` for the authentication keys it has. All else stays as
/// it is, octet by octet.
///
/// # Errors
/// With the key it is too long.
pub(super) fn with_auth_key(
    wire: &Bytes,
    packet: &Packet,
    key: Option<&Bytes>,
) -> Result<Bytes, EncodeError> {
    if packet.auth_key.as_ref() == key && !packet.others.iter().any(Chunk::is_auth_key) {
        return Ok(wire.clone());
    }
    let mut out = BytesMut::with_capacity(wire.len() + key.map_or(0, |key| CHUNK_HEADER + key.len()));
    out.extend_from_slice(wire.get(..HEADER).unwrap_or_default());
    let mut rest = wire.get(HEADER..).unwrap_or_default();
    while let &[v, w, k, l, high, low, ..] = rest {
        let length = usize::from(u16::from_be_bytes([high, low])).clamp(CHUNK_HEADER, rest.len());
        let (chunk, after) = rest.split_at(length);
        if (u16::from_be_bytes([v, w]), u16::from_be_bytes([k, l])) != (0, Chunk::AUTH_KEY) {
            out.extend_from_slice(chunk);
        }
        rest = after;
    }
    let length = out.len() + key.map_or(0, |key| CHUNK_HEADER + key.len());
    let total = u16::try_from(length).map_err(|_| EncodeError::TooLong(length))?;
    if let Some(key) = key {
        put_header(&mut out, 0, Chunk::AUTH_KEY, key.len());
        out.put_slice(key);
    }
    if let Some(field) = out.get_mut(MAGIC.len()..HEADER) {
        field.copy_from_slice(&total.to_be_bytes());
    }
    Ok(out.freeze())
}

/// The length of the packet of version 3 that begins here; `None`: too little is there to know.
///
/// # Errors
/// None begins here, or one of an impossible length.
pub(super) fn packet_length(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] && bytes[..known] != MAGIC_EEP[..known] {
        return Err(DecodeError::NotHep);
    }
    let Some(&[high, low]) = bytes.get(MAGIC.len()..HEADER) else { return Ok(None) };
    match usize::from(u16::from_be_bytes([high, low])) {
        length if length < HEADER => Err(DecodeError::PacketLength(length)),
        length => Ok(Some(length)),
    }
}

fn decode(datagram: &Bytes) -> Result<Packet, DecodeError> {
    if datagram.is_empty() {
        return Err(DecodeError::NotHep);
    }
    let present = datagram.len();
    let expected = packet_length(datagram)?.unwrap_or(HEADER);
    if present < expected {
        return Err(DecodeError::Truncated { present, expected });
    }
    if present > expected {
        return Err(DecodeError::Trailing(present - expected));
    }
    let mut rest = datagram.slice(HEADER..);
    let mut packet = Packet::default();
    while !rest.is_empty() {
        let room = rest.len();
        if room < CHUNK_HEADER {
            return Err(DecodeError::ChunkHeader(room));
        }
        let (vendor, kind, length) = (rest.get_u16(), rest.get_u16(), usize::from(rest.get_u16()));
        if length < CHUNK_HEADER || length > room {
            return Err(DecodeError::ChunkLength { vendor, kind, length, room });
        }
        keep(&mut packet, Chunk { vendor, kind, value: rest.split_to(length - CHUNK_HEADER) })?;
    }
    Ok(packet)
}

fn encode(packet: &Packet, order: ChunkOrder) -> Result<Bytes, EncodeError> {
    // Room for all that a trace has, so that it is written in one pass; anything else makes it grow.
    let octets = [&packet.payload, &packet.correlation_id, &packet.capture_name, &packet.auth_key];
    let octets: usize = octets.into_iter().flatten().map(Bytes::len).sum();
    let others: usize = packet.others.iter().map(|chunk| CHUNK_HEADER + chunk.value.len()).sum();
    let mut out = BytesMut::with_capacity(NUMBERS + octets + others);
    out.put_slice(&MAGIC);
    out.put_u16(0);
    for kind in order.kinds() {
        if let Some(value) = field(packet, *kind) {
            put_header(&mut out, 0, *kind, value.len());
            value.put(&mut out);
        }
    }
    for Chunk { vendor, kind, value } in &packet.others {
        put_header(&mut out, *vendor, *kind, value.len());
        out.put_slice(value);
    }
    let total = u16::try_from(out.len()).map_err(|_| EncodeError::TooLong(out.len()))?;
    if let Some(length) = out.get_mut(MAGIC.len()..HEADER) {
        length.copy_from_slice(&total.to_be_bytes());
    }
    Ok(out.freeze())
}

fn put_header(out: &mut BytesMut, vendor: u16, kind: u16, length: usize) {
    out.put_u16(vendor);
    out.put_u16(kind);
    // If this does not fit into 16 bits the whole packet does not, which is seen at its end.
    out.put_u16((CHUNK_HEADER + length) as u16);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &'static [u8]) -> Chunk {
        Chunk { vendor: 0, kind: Chunk::AUTH_KEY, value: Bytes::from_static(value) }
    }

    #[test]
    fn a_packet_gets_another_key_and_stays_as_it_is_otherwise() {
        let plain = Packet {
            capture_id: Some(7),
            payload: Some(Bytes::from_static(b"x")),
            others: vec![Chunk { vendor: 9, kind: Chunk::AUTH_KEY, value: Bytes::from_static(b"no key") }],
            ..Packet::default()
        };
        // The key in the midst, and a second one at the end.
        let order = Encoding { order: ChunkOrder::OpenSips, ..Encoding::default() };
        let mut keyed = Packet { auth_key: Some(Bytes::from_static(b"theirs")), ..plain.clone() };
        keyed.others.push(key(b"theirs too"));
        let wire = keyed.encode(order).unwrap();
        assert_eq!(with_auth_key(&wire, &keyed, None), plain.encode(order));
        let ours = Bytes::from_static(b"ours");
        let changed = with_auth_key(&wire, &keyed, Some(&ours)).unwrap();
        let expected = Packet { auth_key: Some(ours), ..plain.clone() };
        assert_eq!(Packet::decode(&changed, TimeOrder::Little), Ok((Version::V3, expected)));
        // Without any, or with the same one, it is the same memory.
        let wire = plain.encode(order).unwrap();
        assert_eq!(with_auth_key(&wire, &plain, None).unwrap().as_ptr(), wire.as_ptr());
    }

    #[test]
    fn a_packet_has_room_for_a_key_or_cannot_be_sent() {
        for (payload, fits) in
            [(MAX_PACKET - HEADER - CHUNK_HEADER - 9, true), (MAX_PACKET - HEADER - CHUNK_HEADER - 8, false)]
        {
            let packet = Packet { payload: Some(vec![0; payload].into()), ..Packet::default() };
            let wire = packet.encode(Encoding::default()).unwrap();
            let key = Bytes::from_static(b"key");
            assert_eq!(with_auth_key(&wire, &packet, Some(&key)).is_ok(), fits, "{payload}");
        }
    }

    #[test]
    fn no_key_is_shown() {
        let mut packet = Packet { auth_key: Some(Bytes::from_static(b"s3cret")), ..Packet::default() };
        packet.others.push(key(b"s3cret"));
        assert!(!format!("{packet:?}").contains("s3cret"));
        assert!(format!("{:?}", Chunk { kind: 1, ..key(b"shown") }).contains("shown"));
    }
}
