//! Chunks of HEPv3: type, length, value; and which generic one is which field of a packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::error::DecodeError;
use super::packet::{Packet, PayloadType};

/// Octets of a chunk before its value: vendor, type, length.
pub(super) const CHUNK_HEADER: usize = 6;

/// A chunk as it is: one that this crate has no field for.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Who has defined it; 0: the specification.
    pub vendor: u16,
    /// Its type. Collectors that ignore the vendor take a small one for the generic chunk of that number; those
    /// above 0x100 are safe.
    pub kind: u16,
    /// Its value.
    pub value: Bytes,
}

impl Chunk {
    /// OpenSIPS' vendor-less chunk 0x0065: JSON that names what the payload belongs to.
    pub const LINKS: u16 = 0x0065;

    /// The generic chunk of the authentication key.
    pub(super) const AUTH_KEY: u16 = 0x000e;

    /// Whether it is an authentication key: a second one, as the first has [its field](Packet::auth_key). It is
    /// a secret as that is.
    #[must_use]
    pub fn is_auth_key(&self) -> bool {
        (self.vendor, self.kind) == (0, Self::AUTH_KEY)
    }
}

/// Without an authentication key.
impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Chunk");
        shown.field("vendor", &self.vendor).field("kind", &self.kind);
        if self.is_auth_key() {
            return shown.finish_non_exhaustive();
        }
        shown.field("value", &self.value).finish()
    }
}

/// In which order the chunks of a packet are written. Every reader takes any; some people's tools compare bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ChunkOrder {
    /// As in the specification's example, by number.
    #[default]
    Specification,
    /// As OpenSIPS: the addresses after the capture id, the payload after them.
    OpenSips,
}

/// All generic chunks with a field, by number.
const BY_NUMBER: [u16; 34] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11,
    0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29,
];

const AS_OPENSIPS: [u16; 34] = [
    0x01, 0x02, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x03, 0x04, 0x05, 0x06, 0x0f, 0x10, 0x11, 0x0d, 0x0e,
    0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29,
];

impl ChunkOrder {
    pub(super) fn kinds(self) -> &'static [u16] {
        match self {
            Self::Specification => &BY_NUMBER,
            Self::OpenSips => &AS_OPENSIPS,
        }
    }
}

/// The value of a field, in the types the specification has.
pub(super) enum Value<'a> {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Octets(&'a [u8]),
}

impl Value<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::U8(_) => 1,
            Self::U16(_) => 2,
            Self::U32(_) | Self::V4(_) => 4,
            Self::U64(_) => 8,
            Self::V6(_) => 16,
            Self::Octets(octets) => octets.len(),
        }
    }

    pub(super) fn put(&self, out: &mut BytesMut) {
        match self {
            Self::U8(value) => out.put_u8(*value),
            Self::U16(value) => out.put_u16(*value),
            Self::U32(value) => out.put_u32(*value),
            Self::U64(value) => out.put_u64(*value),
            Self::V4(ip) => out.put_slice(&ip.octets()),
            Self::V6(ip) => out.put_slice(&ip.octets()),
            Self::Octets(octets) => out.put_slice(octets),
        }
    }
}

/// The field that is the generic chunk `kind`, if it is set.
pub(super) fn field(packet: &Packet, kind: u16) -> Option<Value<'_>> {
    match kind {
        0x01 => packet.family.map(Value::U8),
        0x02 => packet.protocol.map(Value::U8),
        0x03 => v4(packet.source_ip),
        0x04 => v4(packet.destination_ip),
        0x05 => v6(packet.source_ip),
        0x06 => v6(packet.destination_ip),
        0x07 => packet.source_port.map(Value::U16),
        0x08 => packet.destination_port.map(Value::U16),
        0x09 => packet.seconds.map(Value::U32),
        0x0a => packet.microseconds.map(Value::U32),
        0x0b => packet.payload_type.map(|PayloadType(number)| Value::U8(number)),
        0x0c => packet.capture_id.map(Value::U32),
        0x0d => packet.keep_alive.map(Value::U16),
        0x0e => octets(packet.auth_key.as_ref()),
        0x0f => octets(packet.payload.as_ref()),
        0x10 => octets(packet.compressed_payload.as_ref()),
        0x11 => octets(packet.correlation_id.as_ref()),
        0x12 => packet.vlan.map(Value::U16),
        0x13 => octets(packet.capture_name.as_ref()),
        0x14 => packet.source_mac.map(Value::U64),
        0x15 => packet.destination_mac.map(Value::U64),
        0x16 => packet.ethernet_type.map(Value::U16),
        0x17 => packet.tcp_flags.map(Value::U8),
        0x18 => packet.ip_tos.map(Value::U8),
        0x20 => packet.mos.map(Value::U16),
        0x21 => packet.r_factor.map(Value::U16),
        0x22 => octets(packet.geo_location.as_ref()),
        0x23 => packet.jitter.map(Value::U32),
        0x24 => octets(packet.transaction_type.as_ref()),
        0x25 => octets(packet.payload_json_keys.as_ref()),
        0x26 => octets(packet.tag_values.as_ref()),
        0x27 => packet.tag_type.map(Value::U16),
        0x28 => packet.event_type.map(Value::U16),
        0x29 => octets(packet.group_id.as_ref()),
        _ => None,
    }
}

fn octets(field: Option<&Bytes>) -> Option<Value<'_>> {
    field.map(|octets| Value::Octets(octets))
}

fn v4(ip: Option<IpAddr>) -> Option<Value<'static>> {
    match ip {
        Some(IpAddr::V4(v4)) => Some(Value::V4(v4)),
        _ => None,
    }
}

fn v6(ip: Option<IpAddr>) -> Option<Value<'static>> {
    match ip {
        Some(IpAddr::V6(v6)) => Some(Value::V6(v6)),
        _ => None,
    }
}

/// Puts the chunk that was read where it belongs: into its field, or if that is set already, or there is none,
/// among the others.
///
/// # Errors
/// The value's length is not that of its type.
pub(super) fn keep(packet: &mut Packet, chunk: Chunk) -> Result<(), DecodeError> {
    if chunk.vendor != 0 {
        packet.others.push(chunk);
        return Ok(());
    }
    let kind = chunk.kind;
    let rest = match kind {
        0x01 => set(&mut packet.family, chunk, u8::from_be_bytes),
        0x02 => set(&mut packet.protocol, chunk, u8::from_be_bytes),
        0x03 => set(&mut packet.source_ip, chunk, |ip: [u8; 4]| ip.into()),
        0x04 => set(&mut packet.destination_ip, chunk, |ip: [u8; 4]| ip.into()),
        0x05 => set(&mut packet.source_ip, chunk, |ip: [u8; 16]| ip.into()),
        0x06 => set(&mut packet.destination_ip, chunk, |ip: [u8; 16]| ip.into()),
        0x07 => set(&mut packet.source_port, chunk, u16::from_be_bytes),
        0x08 => set(&mut packet.destination_port, chunk, u16::from_be_bytes),
        0x09 => set(&mut packet.seconds, chunk, u32::from_be_bytes),
        0x0a => set(&mut packet.microseconds, chunk, u32::from_be_bytes),
        0x0b => set(&mut packet.payload_type, chunk, |[number]| PayloadType(number)),
        0x0c => set(&mut packet.capture_id, chunk, u32::from_be_bytes),
        0x0d => set(&mut packet.keep_alive, chunk, u16::from_be_bytes),
        0x0e => Ok(take(&mut packet.auth_key, chunk)),
        0x0f => Ok(take(&mut packet.payload, chunk)),
        0x10 => Ok(take(&mut packet.compressed_payload, chunk)),
        0x11 => Ok(take(&mut packet.correlation_id, chunk)),
        0x12 => set(&mut packet.vlan, chunk, u16::from_be_bytes),
        0x13 => Ok(take(&mut packet.capture_name, chunk)),
        0x14 => set(&mut packet.source_mac, chunk, u64::from_be_bytes),
        0x15 => set(&mut packet.destination_mac, chunk, u64::from_be_bytes),
        0x16 => set(&mut packet.ethernet_type, chunk, u16::from_be_bytes),
        0x17 => set(&mut packet.tcp_flags, chunk, u8::from_be_bytes),
        0x18 => set(&mut packet.ip_tos, chunk, u8::from_be_bytes),
        0x20 => set(&mut packet.mos, chunk, u16::from_be_bytes),
        0x21 => set(&mut packet.r_factor, chunk, u16::from_be_bytes),
        0x22 => Ok(take(&mut packet.geo_location, chunk)),
        0x23 => set(&mut packet.jitter, chunk, u32::from_be_bytes),
        0x24 => Ok(take(&mut packet.transaction_type, chunk)),
        0x25 => Ok(take(&mut packet.payload_json_keys, chunk)),
        0x26 => Ok(take(&mut packet.tag_values, chunk)),
        0x27 => set(&mut packet.tag_type, chunk, u16::from_be_bytes),
        0x28 => set(&mut packet.event_type, chunk, u16::from_be_bytes),
        0x29 => Ok(take(&mut packet.group_id, chunk)),
        _ => Ok(Some(chunk)),
    };
    packet.others.extend(rest?);
    Ok(())
}

/// Sets a field of fixed length; gives the chunk back if it is set already.
fn set<T, const N: usize>(
    field: &mut Option<T>,
    chunk: Chunk,
    read: impl FnOnce([u8; N]) -> T,
) -> Result<Option<Chunk>, DecodeError> {
    let octets: [u8; N] = (&*chunk.value).try_into().map_err(|_| DecodeError::ValueLength {
        kind: chunk.kind,
        length: chunk.value.len(),
        expected: N,
    })?;
    if field.is_some() {
        return Ok(Some(chunk));
    }
    *field = Some(read(octets));
    Ok(None)
}

fn take(field: &mut Option<Bytes>, chunk: Chunk) -> Option<Chunk> {
    if field.is_some() {
        return Some(chunk);
    }
    *field = Some(chunk.value);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_name_every_generic_chunk_once() {
        let mut other = AS_OPENSIPS;
        other.sort_unstable();
        assert_eq!(other, BY_NUMBER);
    }
}
