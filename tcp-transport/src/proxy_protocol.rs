//! The PROXY protocol, versions 1 and 2: how a load balancer says whose connection it passes on.
//!
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>
//!
//! A header is believed only from addresses the listener trusts
//! ([`ListenerSettings::proxy_from`](crate::ListenerSettings::proxy_from)): whoever may send one may
//! claim to be anybody. From those it is required, as the specification demands: who guesses whether
//! there is one can be fooled by a client. All others are direct clients, and a header of theirs is what
//! any other bytes are that are not the protocol's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// How long a proxy may take to send the header: 5 s. It sends it before anything else.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest header of version 1, its line break included (§2.1).
pub const MAX_V1: usize = 107;

/// The longest header of version 2 that is taken: 4 KiB, many times what a proxy adds to the 52 bytes
/// of IPv6 addresses (names, TLS facts, ids). The format could hold 64 KiB.
pub const MAX_V2: usize = 4096;

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V1_PREFIX: &[u8] = b"PROXY ";

/// A header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client, if the proxy speaks for one: not in its own health checks (`LOCAL`), nor where it
    /// does not know (`UNKNOWN`, `UNSPEC`, Unix sockets).
    pub client: Option<SocketAddr>,
    /// How many bytes the header has.
    pub len: usize,
}

/// Bytes that are no header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// They begin otherwise.
    #[error("no PROXY protocol header")]
    Missing,
    /// They begin like one and go on otherwise.
    #[error("malformed PROXY protocol header: {0}")]
    Malformed(&'static str),
    /// The header is longer than [`MAX_V1`] or [`MAX_V2`].
    #[error("PROXY protocol header of more than {0} bytes")]
    TooLong(usize),
    /// The connection ended before the header did.
    #[error("the connection ended within the PROXY protocol header")]
    Closed,
    /// [`PROXY_HEADER_TIMEOUT`] has passed.
    #[error("no PROXY protocol header in {0:?}")]
    Timeout(Duration),
    /// The socket failed.
    #[error("{0}")]
    Io(std::io::Error),
}

/// Reads a header off the front of `bytes`; `None`: it is good so far and goes on.
///
/// # Errors
/// A [`ProxyError`]; never `Closed`, `Timeout` or `Io`.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if begins(bytes, &V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

/// Whether `bytes` begins like `prefix`, as far as it goes.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(a, b)| a == b)
}

/// `PROXY TCP4 192.0.2.1 192.0.2.7 40000 2855\r\n` (§2.1).
fn parse_v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let seen = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_V1 { Ok(None) } else { Err(ProxyError::TooLong(MAX_V1)) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(ProxyError::Malformed("no CR before its LF"))?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed("not ASCII"))?;
    let len = end + 1;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Some(ProxyHeader { client: None, len }));
    }
    let mut address = || -> Result<IpAddr, ProxyError> {
        let text = words.next().unwrap_or_default();
        let address = match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
            _ => return Err(ProxyError::Malformed("neither TCP4 nor TCP6 nor UNKNOWN")),
        };
        address.ok_or(ProxyError::Malformed("not an address of its family"))
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || -> Result<u16, ProxyError> {
        let text = words.next().unwrap_or_default();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or(ProxyError::Malformed("not a port"))
    };
    let (source_port, _destination_port) = (port()?, port()?);
    if words.next().is_some() {
        return Err(ProxyError::Malformed("more than two addresses and ports"));
    }
    let client = SocketAddr::new(source.to_canonical(), source_port);
    Ok(Some(ProxyHeader { client: Some(client), len }))
}

/// Signature, version and command, family and protocol, length, addresses, TLVs (§2.2).
fn parse_v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some((fixed, rest)) = bytes.split_at_checked(16) else {
        // What is there of the version must be right already.
        return match bytes.get(12) {
            Some(version) if version >> 4 != 2 => Err(ProxyError::Malformed("not version 2")),
            _ => Ok(None),
        };
    };
    let (version_command, family, length) =
        (fixed[12], fixed[13], usize::from(u16::from_be_bytes([fixed[14], fixed[15]])));
    if version_command >> 4 != 2 {
        return Err(ProxyError::Malformed("not version 2"));
    }
    let len = 16 + length;
    if len > MAX_V2 {
        return Err(ProxyError::TooLong(MAX_V2));
    }
    let local = match version_command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(ProxyError::Malformed("neither LOCAL nor PROXY")),
    };
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    let too_short = ProxyError::Malformed("too short for its addresses");
    let client = match family {
        _ if local => None,
        0x11 => {
            let Some((source, _)) = rest.split_first_chunk::<12>() else { return Err(too_short) };
            let [a, b, c, d, _, _, _, _, port @ .., _, _] = *source;
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes(port)))
        }
        0x21 => {
            let Some((addresses, _)) = rest.split_first_chunk::<36>() else { return Err(too_short) };
            let mut ip = [0; 16];
            ip.copy_from_slice(&addresses[..16]);
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Some(SocketAddr::new(IpAddr::from(ip).to_canonical(), port))
        }
        // UNSPEC, and what has no address of ours: the connection is the proxy's own.
        0x00 | 0x31 | 0x32 => None,
        _ => return Err(ProxyError::Malformed("a family or protocol other than TCP over IPv4 or IPv6")),
    };
    Ok(Some(ProxyHeader { client, len }))
}

/// Reads the header from a socket, and not a byte more.
pub(crate) async fn read(tcp: &mut TcpStream, limit: Duration) -> Result<ProxyHeader, ProxyError> {
    tokio::time::timeout(limit, read_unlimited(tcp)).await.unwrap_or(Err(ProxyError::Timeout(limit)))
}

async fn read_unlimited(tcp: &mut TcpStream) -> Result<ProxyHeader, ProxyError> {
    let mut head = [0; MAX_V2];
    let mut taken = 0;
    loop {
        // Looking first, as what follows the header must stay for TLS.
        let seen = tcp.peek(&mut head[taken..]).await.map_err(ProxyError::Io)?;
        if seen == 0 {
            return Err(ProxyError::Closed);
        }
        let parsed = parse(&head[..taken + seen])?;
        let end = parsed.map_or(taken + seen, |header| header.len);
        tcp.read_exact(&mut head[taken..end]).await.map_err(ProxyError::Io)?;
        taken = end;
        if let Some(header) = parsed {
            return Ok(header);
        }
    }
}

/// A network, such as `10.0.0.0/8` or `2001:db8::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNetwork {
    bits: u128,
    prefix: u32,
    v4: bool,
}

impl IpNetwork {
    /// Whether `ip` is in it. An IPv4-mapped IPv6 address is the IPv4 address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (bits, v4) = bits(ip.to_canonical());
        v4 == self.v4 && (bits ^ self.bits).leading_zeros() >= self.prefix
    }
}

/// The address' bits at the upper end, and whether it is IPv4.
fn bits(ip: IpAddr) -> (u128, bool) {
    match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    }
}

impl FromStr for IpNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_network = || format!("`{text}` is not a network, such as `10.0.0.0/8`");
        let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().map_err(|_| no_network())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(no_network)?
            }
            Some(_) => return Err(no_network()),
        };
        let (bits, v4) = bits(ip);
        if bits.checked_shl(prefix).is_some_and(|host| host != 0) {
            return Err(format!("`{text}` has bits set after its prefix"));
        }
        Ok(Self { bits, prefix, v4 })
    }
}

impl fmt::Display for IpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v4 {
            write!(f, "{}/{}", Ipv4Addr::from_bits((self.bits >> 96) as u32), self.prefix)
        } else {
            write!(f, "{}/{}", Ipv6Addr::from_bits(self.bits), self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        header.extend(addresses);
        header
    }

    fn client(bytes: &[u8]) -> Option<String> {
        parse(bytes).unwrap().expect("whole").client.map(|client| client.to_string())
    }

    #[test]
    fn version_1_names_the_client() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.7 40000 2855\r\n", Some("192.0.2.1:40000")),
            ("PROXY TCP6 2001:db8::1 ::1 40000 2855\r\n", Some("[2001:db8::1]:40000")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some("192.0.2.1:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN whatever it likes to say\r\n", None),
        ] {
            assert_eq!(client(line.as_bytes()).as_deref(), expected, "{line}");
            assert_eq!(parse(line.as_bytes()).unwrap().unwrap().len, line.len());
            for cut in 0..line.len() {
                assert_eq!(parse(&line.as_bytes()[..cut]).unwrap(), None, "{line} to {cut}");
            }
        }
    }

    #[test]
    fn version_1_is_refused_where_it_is_wrong() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.7 40000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.7 40000 2855 1\r\n",
            "PROXY TCP4 2001:db8::1 ::1 40000 2855\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.7 40000 2855\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.7 +1 2855\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.7 65536 2855\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.7 1 2855\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.7 1 2855\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.7 40000 2855\n",
            "PROXY \r\n",
        ] {
            assert!(matches!(parse(line.as_bytes()), Err(ProxyError::Malformed(_))), "{line}");
        }
        for bytes in ["GET / HTTP/1.1\r\n", "MSRP a SEND\r\n", "\x16\x03\x01", "PROXX", "\r\n\r\nX"] {
            assert!(matches!(parse(bytes.as_bytes()), Err(ProxyError::Missing)), "{bytes}");
        }
    }

    #[test]
    fn version_1_ends_at_its_longest_line() {
        let line = |len: usize| format!("PROXY UNKNOWN{}\r\n", "x".repeat(len - 15));
        // Below, at and above.
        for len in [MAX_V1 - 1, MAX_V1] {
            let text = line(len).replacen('x', " ", 1);
            assert_eq!(parse(text.as_bytes()).unwrap().unwrap().len, len);
        }
        let text = line(MAX_V1 + 1).replacen('x', " ", 1);
        assert!(matches!(parse(text.as_bytes()), Err(ProxyError::TooLong(MAX_V1))));
        assert!(matches!(parse(&text.as_bytes()[..MAX_V1]), Err(ProxyError::TooLong(_))));
        assert_eq!(parse(&text.as_bytes()[..MAX_V1 - 1]).unwrap(), None);
    }

    #[test]
    fn version_2_names_the_client() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 7, 0x9c, 0x40, 0x0b, 0x27];
        assert_eq!(client(&v2(1, 0x11, &v4)).as_deref(), Some("192.0.2.1:40000"));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        (v6[15], v6[32], v6[33]) = (1, 0x9c, 0x40);
        assert_eq!(client(&v2(1, 0x21, &v6)).as_deref(), Some("[2001:db8::1]:40000"));
        // TLVs are passed over; LOCAL, UNSPEC and Unix sockets name nobody.
        let with_tlv = [&v4[..], &[4, 0, 2, 9, 9]].concat();
        let header = parse(&[&v2(1, 0x11, &with_tlv)[..], b"MSRP"].concat()).unwrap().unwrap();
        assert_eq!((header.client.unwrap().port(), header.len), (40000, 16 + 17));
        assert_eq!(client(&v2(0, 0x11, &v4)), None);
        assert_eq!(client(&v2(0, 0, &[])), None);
        assert_eq!(client(&v2(1, 0, &[1, 2, 3])), None);
        assert_eq!(client(&v2(1, 0x31, &[0; 216])), None);
    }

    #[test]
    fn version_2_is_refused_where_it_is_wrong() {
        for bytes in
            [v2(2, 0x11, &[0; 12]), v2(1, 0x11, &[0; 11]), v2(1, 0x21, &[0; 35]), v2(1, 0x12, &[0; 12])]
        {
            assert!(matches!(parse(&bytes), Err(ProxyError::Malformed(_))), "{bytes:?}");
        }
        let mut version_3 = v2(1, 0x11, &[0; 12]);
        version_3[12] = 0x31;
        assert!(matches!(parse(&version_3), Err(ProxyError::Malformed(_))));
        assert!(matches!(parse(&version_3[..13]), Err(ProxyError::Malformed(_))));
        // Below, at and above the limit.
        for len in [MAX_V2 - 17, MAX_V2 - 16] {
            assert_eq!(parse(&v2(1, 0x11, &vec![0; len])).unwrap().unwrap().len, len + 16);
        }
        let too_long = v2(1, 0x11, &[0; MAX_V2 - 15]);
        assert!(matches!(parse(&too_long), Err(ProxyError::TooLong(MAX_V2))));
        assert!(matches!(parse(&too_long[..16]), Err(ProxyError::TooLong(MAX_V2))));
    }

    #[test]
    fn networks_contain_what_they_say() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
        ] {
            let parsed: IpNetwork = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network} {outside}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "10.0.0.0/+8", "a", "::/129"] {
            assert!(bad.parse::<IpNetwork>().is_err(), "{bad}");
        }
    }

    /// What can be read can be read in pieces, and nothing panics or reads beyond its limit.
    fn holds_for(bytes: &[u8]) {
        let whole = parse(bytes);
        if let Ok(Some(header)) = whole {
            assert!(header.len <= bytes.len() && header.len <= MAX_V2);
            for cut in 0..header.len {
                assert!(matches!(parse(&bytes[..cut]), Ok(None)), "cut at {cut}");
            }
            assert_eq!(parse(&bytes[..header.len]).unwrap(), Some(header));
        }
        if bytes.len() >= MAX_V2 {
            assert!(!matches!(whole, Ok(None)), "without an end");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            holds_for(&bytes);
        }

        #[test]
        fn any_text_after_the_prefix_is_read_or_refused(text in "PROXY (TCP4|TCP6|UNKNOWN)[ 0-9a-f:.]{0,120}\r\n.{0,9}") {
            holds_for(text.as_bytes());
        }

        #[test]
        fn any_version_2_is_read_or_refused(
            command in 0u8..4, family in prop::sample::select(vec![0u8, 0x11, 0x12, 0x21, 0x22, 0x31, 0xff]),
            body in prop::collection::vec(any::<u8>(), 0..100), after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = v2(command, family, &body);
            bytes.extend(after);
            holds_for(&bytes);
        }

        #[test]
        fn what_is_written_is_read(source: SocketAddr, destination: SocketAddr) {
            let (source, destination) = (source.ip().to_canonical(), destination.ip().to_canonical());
            prop_assume!(source.is_ipv4() == destination.is_ipv4());
            let family = if source.is_ipv4() { 4 } else { 6 };
            let line = format!("PROXY TCP{family} {source} {destination} 1 2\r\nMSRP");
            let header = parse(line.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(header, ProxyHeader { client: Some(SocketAddr::new(source, 1)), len: line.len() - 4 });
        }
    }
}
