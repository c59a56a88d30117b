//! HEP versions 1 and 2: a fixed header before the payload, for UDP.
//!
//! ```text
//! octet  0        version
//!        1        length of the header: 16 (IPv4) or 40 (IPv6), 12 more in version 2
//!        2        address family: 2 or 10
//!        3        IP protocol
//!        4  6     source and destination port
//!        8        source and destination address
//!                 version 2: seconds, microseconds (4 octets each), capture id (2), 2 octets of nothing
//!                 payload
//! ```
//!
//! The last two octets are what C's alignment adds to the struct that agents and collectors send as it lies in
//! memory; for the same reason time and capture id are in the byte order of the agent's machine.

use std::net::IpAddr;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::codec::{MAX_PACKET, Version};
use super::error::{DecodeError, EncodeError};
use super::packet::{FAMILY_IPV4, FAMILY_IPV6, Packet, PayloadType};

/// Version, length, family, protocol, ports.
const FIXED: usize = 8;

/// Seconds, microseconds, capture id, and two octets of nothing.
const TIME: usize = 12;

/// The byte order of version 2's time and capture id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimeOrder {
    /// That of the C programs on all of today's machines: Kamailio, OpenSIPS, sngrep.
    #[default]
    Little,
    /// Network byte order: heplify-server.
    Big,
}

pub(super) fn encode(packet: &Packet, version: Version, order: TimeOrder) -> Result<Bytes, EncodeError> {
    let (Some(source), Some(destination)) = (packet.source(), packet.destination()) else {
        return Err(EncodeError::Addresses);
    };
    let (family, addresses) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => (FAMILY_IPV4, 8),
        (IpAddr::V6(_), IpAddr::V6(_)) => (FAMILY_IPV6, 32),
        _ => return Err(EncodeError::Addresses),
    };
    let payload = match (&packet.payload, &packet.compressed_payload) {
        (Some(payload), _) => payload.as_ref(),
        (None, Some(_)) => return Err(EncodeError::Compressed),
        (None, None) => &[],
    };
    let header = FIXED + addresses + if version == Version::V2 { TIME } else { 0 };
    let length = header + payload.len();
    if length > MAX_PACKET {
        return Err(EncodeError::TooLong(length));
    }
    let mut out = BytesMut::with_capacity(length);
    out.put_u8(version.number());
    out.put_u8(header as u8); // 52 at most
    out.put_u8(family);
    out.put_u8(packet.protocol.unwrap_or(0));
    out.put_u16(source.port());
    out.put_u16(destination.port());
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(v4) => out.put_slice(&v4.octets()),
            IpAddr::V6(v6) => out.put_slice(&v6.octets()),
        }
    }
    if version == Version::V2 {
        let (seconds, microseconds) = (packet.seconds.unwrap_or(0), packet.microseconds.unwrap_or(0));
        // OpenSIPS' limitation, which is the format's: the lower 16 bits.
        let id = packet.capture_id.unwrap_or(0) as u16;
        match order {
            TimeOrder::Little => {
                out.put_u32_le(seconds);
                out.put_u32_le(microseconds);
                out.put_u16_le(id);
            }
            TimeOrder::Big => {
                out.put_u32(seconds);
                out.put_u32(microseconds);
                out.put_u16(id);
            }
        }
        out.put_u16(0);
    }
    out.put_slice(payload);
    Ok(out.freeze())
}

pub(super) fn decode(datagram: &Bytes, version: Version, order: TimeOrder) -> Result<Packet, DecodeError> {
    let truncated = |expected| DecodeError::Truncated { present: datagram.len(), expected };
    let &[_, length, family, ..] = datagram.as_ref() else { return Err(truncated(FIXED)) };
    let addresses: u8 = match family {
        FAMILY_IPV4 => 8,
        FAMILY_IPV6 => 32,
        other => return Err(DecodeError::Family(other)),
    };
    let expected = FIXED as u8 + addresses + if version == Version::V2 { TIME as u8 } else { 0 };
    if length != expected {
        return Err(DecodeError::HeaderLength { length, expected });
    }
    if datagram.len() < usize::from(expected) {
        return Err(truncated(expected.into()));
    }
    let mut rest = datagram.slice(3..);
    let mut packet = Packet { family: Some(family), protocol: Some(rest.get_u8()), ..Packet::default() };
    packet.source_port = Some(rest.get_u16());
    packet.destination_port = Some(rest.get_u16());
    for ip in [&mut packet.source_ip, &mut packet.destination_ip] {
        *ip = Some(match family {
            FAMILY_IPV4 => IpAddr::from(rest.get_u32().to_be_bytes()),
            _ => IpAddr::from(rest.get_u128().to_be_bytes()),
        });
    }
    if version == Version::V2 {
        let (seconds, microseconds, id) = match order {
            TimeOrder::Little => (rest.get_u32_le(), rest.get_u32_le(), rest.get_u16_le()),
            TimeOrder::Big => (rest.get_u32(), rest.get_u32(), rest.get_u16()),
        };
        rest.advance(2);
        packet.seconds = Some(seconds);
        packet.microseconds = Some(microseconds);
        packet.capture_id = Some(id.into());
    }
    // What these versions carry is SIP, which needs no saying there.
    packet.payload_type = Some(PayloadType::SIP);
    packet.payload = Some(rest);
    Ok(packet)
}
