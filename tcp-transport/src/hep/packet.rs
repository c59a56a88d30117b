//! What a HEP packet says, in whichever version it travels.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::chunk::Chunk;

/// Address family of IPv4 (`AF_INET`).
pub const FAMILY_IPV4: u8 = 2;

/// Address family of IPv6 (`AF_INET6` of Linux, which all agents send).
pub const FAMILY_IPV6: u8 = 10;

/// IP protocol TCP. What runs above it (TLS, WebSocket) is none: OpenSIPS' 22 and 50 are other protocols'
/// numbers.
pub const PROTOCOL_TCP: u8 = 6;

/// IP protocol UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// A HEP packet: the fields of the generic chunks of HEPv3 (revision 37), and what is none of them. What is
/// `None` was not there, or is not sent. Version 1 knows the addresses, ports and payload alone, version 2 also
/// the time and 16 bits of the capture id.
///
/// [`Packet::new`] makes one with what every collector wants; the rest are plain fields.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Packet {
    /// 0x0001: [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: Option<u8>,
    /// 0x0002: IP protocol, [`PROTOCOL_TCP`] for instance.
    pub protocol: Option<u8>,
    /// 0x0003 or 0x0005: who sent the payload.
    pub source_ip: Option<IpAddr>,
    /// 0x0004 or 0x0006: to whom it was sent.
    pub destination_ip: Option<IpAddr>,
    /// 0x0007.
    pub source_port: Option<u16>,
    /// 0x0008.
    pub destination_port: Option<u16>,
    /// 0x0009: seconds since 1970. See [`time`](Self::time).
    pub seconds: Option<u32>,
    /// 0x000a: microseconds to be added to that.
    pub microseconds: Option<u32>,
    /// 0x000b: what the payload is.
    pub payload_type: Option<PayloadType>,
    /// 0x000c: the capture agent's number.
    pub capture_id: Option<u32>,
    /// 0x000d: keep-alive timer, in seconds.
    pub keep_alive: Option<u16>,
    /// 0x000e: what the collector knows the agent by, in plain text.
    pub auth_key: Option<Bytes>,
    /// 0x000f: what was captured. See [`content`](Self::content).
    pub payload: Option<Bytes>,
    /// 0x0010: the same, compressed (gzip, zlib or raw deflate).
    pub compressed_payload: Option<Bytes>,
    /// 0x0011: what belongs together has the same.
    pub correlation_id: Option<Bytes>,
    /// 0x0012.
    pub vlan: Option<u16>,
    /// 0x0013: the capture agent's name.
    pub capture_name: Option<Bytes>,
    /// 0x0014.
    pub source_mac: Option<u64>,
    /// 0x0015.
    pub destination_mac: Option<u64>,
    /// 0x0016.
    pub ethernet_type: Option<u16>,
    /// 0x0017.
    pub tcp_flags: Option<u8>,
    /// 0x0018.
    pub ip_tos: Option<u8>,
    /// 0x0020: MOS value.
    pub mos: Option<u16>,
    /// 0x0021.
    pub r_factor: Option<u16>,
    /// 0x0022.
    pub geo_location: Option<Bytes>,
    /// 0x0023.
    pub jitter: Option<u32>,
    /// 0x0024: `call` or `registration`.
    pub transaction_type: Option<Bytes>,
    /// 0x0025.
    pub payload_json_keys: Option<Bytes>,
    /// 0x0026.
    pub tag_values: Option<Bytes>,
    /// 0x0027.
    pub tag_type: Option<u16>,
    /// 0x0028: 1 is recording, 2 recording for lawful interception.
    pub event_type: Option<u16>,
    /// 0x0029.
    pub group_id: Option<Bytes>,
    /// Chunks of vendors, unknown generic ones, and generic ones that came a second time; in their order, sent
    /// after all others.
    pub others: Vec<Chunk>,
}

impl Packet {
    /// What every collector wants to know: from where to where, when, and what. The protocol is TCP.
    #[must_use]
    pub fn new(
        source: SocketAddr,
        destination: SocketAddr,
        time: SystemTime,
        payload_type: PayloadType,
        payload: Bytes,
    ) -> Self {
        let (source_ip, destination_ip) = same_family(source.ip(), destination.ip());
        let mut packet = Self {
            family: Some(if source_ip.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 }),
            protocol: Some(PROTOCOL_TCP),
            source_ip: Some(source_ip),
            destination_ip: Some(destination_ip),
            source_port: Some(source.port()),
            destination_port: Some(destination.port()),
            payload_type: Some(payload_type),
            payload: Some(payload),
            ..Self::default()
        };
        packet.set_time(time);
        packet
    }

    /// Who sent the payload, if both address and port are there.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.source_ip?, self.source_port?))
    }

    /// To whom it was sent.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.destination_ip?, self.destination_port?))
    }

    /// When it was captured.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        let microseconds = Duration::from_micros(self.microseconds.unwrap_or(0).into());
        Some(UNIX_EPOCH + Duration::from_secs(self.seconds?.into()) + microseconds)
    }

    /// Sets when it was captured, to the microsecond. HEP's seconds end in 2106; what is before 1970 or after
    /// that becomes the nearest time it can say.
    pub fn set_time(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.seconds = Some(u32::try_from(since.as_secs()).unwrap_or(u32::MAX));
        self.microseconds = Some(since.subsec_micros());
    }
}

/// Addresses as one family: an IPv4 address beside an IPv6 one becomes an IPv4-mapped one, as HEP has one family
/// for both; an IPv4-mapped pair is what it is, IPv4.
fn same_family(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    };
    match (a.to_canonical(), b.to_canonical()) {
        (a, b) if a.is_ipv4() == b.is_ipv4() => (a, b),
        (a, b) => (mapped(a), mapped(b)),
    }
}

/// Without the authentication key, and with the payload as text.
impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("source", &self.source())
            .field("destination", &self.destination())
            .field("time", &(self.seconds, self.microseconds))
            .field("payload_type", &self.payload_type)
            .field("capture_id", &self.capture_id)
            .field("correlation_id", &self.correlation_id)
            .field("payload", &self.payload)
            .field("others", &self.others)
            .finish_non_exhaustive()
    }
}

/// What a payload is: chunk 0x000b.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PayloadType(pub u8);

impl PayloadType {
    /// SIP.
    pub const SIP: Self = Self(0x01);
    /// XMPP.
    pub const XMPP: Self = Self(0x02);
    /// SDP.
    pub const SDP: Self = Self(0x03);
    /// RTP.
    pub const RTP: Self = Self(0x04);
    /// RTCP, as JSON.
    pub const RTCP: Self = Self(0x05);
    /// OpenSIPS' REST client.
    pub const REST: Self = Self(0x58);
    /// Connection events, as OpenSIPS sends them.
    pub const CONNECTION_EVENT: Self = Self(0x59);
    /// Logs (Homer), `xlog` (OpenSIPS).
    pub const LOG: Self = Self(0x64);

    /// Its name, in the specification (revision 37) or in what agents send; `None`: it has none.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x01 => "SIP",
            0x02 => "XMPP",
            0x03 => "SDP",
            0x04 => "RTP",
            0x05 => "RTCP",
            0x06 => "MGCP",
            0x07 => "MEGACO",
            0x08 => "M2UA",
            0x09 => "M3UA",
            0x0a => "IAX",
            0x0b => "H322",
            0x0c => "H321",
            0x0d => "M2PA",
            0x22 => "MOS full report",
            0x23 => "MOS short report",
            0x32 => "SIP JSON",
            0x35 => "DNS",
            0x36 => "M3UA JSON",
            0x37 => "RTSP",
            0x38 => "DIAMETER",
            0x39 => "GSM MAP",
            0x3a => "RTCP PION",
            0x3c => "CDR",
            0x3d => "Verto",
            0x57 => "MI",
            0x58 => "REST",
            0x59 => "connection event",
            0x60 => "control",
            0x64 => "log",
            _ => return None,
        })
    }
}

impl fmt::Display for PayloadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

impl fmt::Debug for PayloadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} ({self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_ends_are_of_one_family() {
        let packet = |a: &str, b: &str| {
            Packet::new(
                a.parse().unwrap(),
                b.parse().unwrap(),
                UNIX_EPOCH,
                PayloadType::SIP,
                Bytes::from_static(b"x"),
            )
        };
        let mixed = packet("192.0.2.1:1", "[2001:db8::1]:2");
        assert_eq!(mixed.family, Some(FAMILY_IPV6));
        assert_eq!(mixed.source(), Some("[::ffff:192.0.2.1]:1".parse().unwrap()));
        let mapped = packet("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2");
        assert_eq!(mapped.family, Some(FAMILY_IPV4));
        assert_eq!(mapped.destination(), Some("192.0.2.2:2".parse().unwrap()));
    }

    #[test]
    fn times_are_kept_to_the_microsecond_and_within_what_hep_can_say() {
        let mut packet = Packet::default();
        assert_eq!(packet.time(), None);
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        packet.set_time(time);
        assert_eq!(packet.time(), Some(UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_000)));
        packet.set_time(UNIX_EPOCH - Duration::from_secs(5));
        assert_eq!(packet.seconds, Some(0));
        packet.set_time(UNIX_EPOCH + Duration::from_secs(1 << 40));
        assert_eq!(packet.seconds, Some(u32::MAX));
    }
}
