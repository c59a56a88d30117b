//! Where HEP goes, and how.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::codec::Encoding;
use crate::connector::DEFAULT_CONNECT_TIMEOUT;
use crate::scheme::Scheme;

/// Packets that may wait for a destination: 4096, half a minute of a relay's connection events, or a second of
/// a busy one's messages. OpenSIPS' `hep_async_max_postponed_chunks` is 32, after which it drops the connection;
/// here the packet is dropped, and the connection goes on.
pub const DEFAULT_QUEUE_PACKETS: usize = 4096;

/// Octets that may wait for a destination: 4 MiB, which bounds a queue of large packets.
pub const DEFAULT_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// `hep_send_timeout`: 5 s without a byte taken while packets wait end the connection. OpenSIPS has 100 ms, as
/// a process waits for it there; here nobody does.
pub const DEFAULT_HEP_SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// `max_retries`: 5 attempts after the first one, 15 s with the default back-off.
pub const DEFAULT_MAX_RETRIES: u32 = 5;

/// `retry_cooldown`: 30 s of silence after those.
pub const DEFAULT_RETRY_COOLDOWN: Duration = Duration::from_secs(30);

/// The pause before the first retry: 500 ms; it doubles with each up to `retry_cooldown`.
pub const DEFAULT_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// `hep_capture_id`: 1, as OpenSIPS.
pub const DEFAULT_CAPTURE_ID: u32 = 1;

/// What HEP runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HepTransport {
    /// One datagram for each packet; all versions.
    Udp,
    /// A stream of packets; version 3.
    Tcp,
    /// The same over TLS.
    Tls,
}

impl HepTransport {
    /// As the scheme of a URI: `hep_udp`, `hep_tcp`, `hep_tls`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "hep_udp",
            Self::Tcp => "hep_tcp",
            Self::Tls => "hep_tls",
        }
    }
}

impl fmt::Display for HepTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `hep_udp://host[:port]`, `hep_tcp://…` or `hep_tls://…`; the default port is 5656 (`hep_port`).
///
/// ```
/// use tcp_transport::hep::{HepTransport, HepUri};
///
/// let uri: HepUri = "hep_tcp://[2001:db8::1]".parse()?;
/// assert_eq!((uri.transport, uri.host.as_str(), uri.port), (HepTransport::Tcp, "2001:db8::1", 5656));
/// assert_eq!(uri.to_string(), "hep_tcp://[2001:db8::1]:5656");
/// # Ok::<_, tcp_transport::hep::BadHepUri>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HepUri {
    /// What it runs over.
    pub transport: HepTransport,
    /// A name or an IP literal, an IPv6 one without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HepUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.transport, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.transport, self.host, self.port)
        }
    }
}

/// Text that is no [`HepUri`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of `hep_udp://host[:port]`, `hep_tcp://host[:port]`, `hep_tls://host[:port]`")]
pub struct BadHepUri(String);

impl FromStr for HepUri {
    type Err = BadHepUri;

    fn from_str(text: &str) -> Result<Self, BadHepUri> {
        let parsed = || {
            let (scheme, rest) = text.split_once("://")?;
            let transport = [HepTransport::Udp, HepTransport::Tcp, HepTransport::Tls]
                .into_iter()
                .find(|transport| transport.as_str().eq_ignore_ascii_case(scheme))?;
            let (host, port) = match rest.strip_prefix('[') {
                Some(rest) => {
                    let (host, port) = rest.split_once(']')?;
                    host.parse::<std::net::Ipv6Addr>().ok()?;
                    (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
                }
                None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
            };
            let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
            let port = match port {
                None => Scheme::Hep.default_port(),
                Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
                Some(_) => return None,
            };
            let good = !host.is_empty() && host.chars().all(named) && port != 0;
            good.then(|| Self { transport, host: host.to_owned(), port })
        };
        parsed().ok_or_else(|| BadHepUri(text.to_owned()))
    }
}

/// How the payload of a connection event is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum EventFormat {
    /// A JSON object: Homer 7 and later.
    #[default]
    Json,
    /// The values alone, with this between them: Homer 5. OpenSIPS has `:`.
    Text(char),
}

/// A destination as the configuration says it.
#[derive(Clone, PartialEq, Eq)]
pub struct DestinationSettings {
    /// Its name, by which it is switched and counted.
    pub name: String,
    /// Where it is.
    pub uri: HepUri,
    /// Version, order of chunks, byte order. TCP and TLS take version 3 alone.
    pub encoding: Encoding,
    /// `hep_capture_id`, of which version 2 sends the lower 16 bits; [`DEFAULT_CAPTURE_ID`].
    pub capture_id: u32,
    /// Chunk 0x0013: our name.
    pub capture_name: Option<Bytes>,
    /// Chunk 0x000e. It travels in plain text: a secret over [`HepTransport::Tls`] only.
    pub auth_key: Option<Bytes>,
    /// How connection events are written.
    pub format: EventFormat,
    /// The TLS client domain; `None`: the one that fits the host.
    pub tls_domain: Option<String>,
    /// Packets that may wait; [`DEFAULT_QUEUE_PACKETS`].
    pub queue_packets: usize,
    /// Octets that may wait; [`DEFAULT_QUEUE_BYTES`].
    pub queue_bytes: usize,
    /// For each address; [`DEFAULT_CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// `hep_send_timeout`; [`DEFAULT_HEP_SEND_TIMEOUT`].
    pub send_timeout: Duration,
    /// Attempts after one that failed, before the destination counts as down; `None`: it never does, and its
    /// queue waits. [`DEFAULT_MAX_RETRIES`].
    pub max_retries: Option<u32>,
    /// The pause before the first retry; [`DEFAULT_RETRY_PAUSE`].
    pub retry_pause: Duration,
    /// How long a destination is down: what is submitted meanwhile is dropped, and then it is tried anew.
    /// Pauses between retries are no longer either. [`DEFAULT_RETRY_COOLDOWN`].
    pub retry_cooldown: Duration,
}

impl DestinationSettings {
    /// One with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, uri: HepUri) -> Self {
        Self {
            name: name.into(),
            uri,
            encoding: Encoding::default(),
            capture_id: DEFAULT_CAPTURE_ID,
            capture_name: None,
            auth_key: None,
            format: EventFormat::default(),
            tls_domain: None,
            queue_packets: DEFAULT_QUEUE_PACKETS,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            send_timeout: DEFAULT_HEP_SEND_TIMEOUT,
            max_retries: Some(DEFAULT_MAX_RETRIES),
            retry_pause: DEFAULT_RETRY_PAUSE,
            retry_cooldown: DEFAULT_RETRY_COOLDOWN,
        }
    }
}

/// Without the authentication key.
impl fmt::Debug for DestinationSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DestinationSettings")
            .field("name", &self.name)
            .field("uri", &self.uri)
            .field("encoding", &self.encoding)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_read_back_and_have_the_port_of_hep() {
        for (text, full) in [
            ("hep_udp://127.0.0.1", "hep_udp://127.0.0.1:5656"),
            ("HEP_TLS://collector.example.org:9061", "hep_tls://collector.example.org:9061"),
            ("hep_tcp://[::1]:1", "hep_tcp://[::1]:1"),
        ] {
            assert_eq!(text.parse::<HepUri>().unwrap().to_string(), full);
        }
        for bad in [
            "",
            "hep://a",
            "hep_udp:a",
            "hep_udp://",
            "hep_udp://:5",
            "hep_tcp://a:",
            "hep_tcp://a:0",
            "hep_tcp://a:65536",
            "hep_tcp://a:+1",
            "hep_tcp://::1",
            "hep_tcp://[::1",
            "hep_tcp://[::1]5",
            "hep_tcp://[a]",
            "hep_tcp://a/b",
            "hep_tcp://a b",
        ] {
            assert!(bad.parse::<HepUri>().is_err(), "{bad}");
        }
    }
}
