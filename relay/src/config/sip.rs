//! `sip`: the SIP edge beside the relay, and the upstreams it leads to.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tcp_transport::Scheme;
use tcp_transport::proxy_protocol::IpNetwork;
use tcp_transport::sip::Limits;

use super::Check;
use super::connections::optional_duration;
use super::error::KeyPath;
use super::form;
use super::value::{FileSecret, Host, HostPort, Secret, count, duration, from_text, one_or_many, size};
use super::websocket::WebSocket;
use crate::sip::{Advertised, HealthSettings, MIN_SECRET_LEN, Transport, UpstreamSettings};

/// The most upstreams: many times what a cluster has, and what a probe each second still reaches.
const MAX_UPSTREAMS: usize = 64;

/// The SIP edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sip {
    /// Where requests of clients go; never empty.
    pub sip_upstream: Vec<SipUpstream>,
    /// What flow tokens are signed with, 16 bytes or more, the same on each of several edges. Default: drawn at start; then
    /// a forged token cannot be told from one of the process before, and either gets 430.
    pub flow_secret: Option<Secret>,
    /// Whether a double CRLF is answered with a single one. Default true.
    pub crlf_pingpong: bool,
    /// How much a client's message may be, and in how many small reads it may come.
    pub limits: Limits,
    /// How long a message may take from its first byte to its last; then the connection is closed. Default 4 s, as
    /// OpenSIPS' `tcp_max_msg_time`.
    pub max_msg_time: Duration,
    /// How upstreams are probed.
    pub health: HealthSettings,
    /// How long nothing may come from an upstream over TCP or TLS before a double CRLF asks whether it is there
    /// (RFC 5626 §3.5.1). Default: it is not asked, as probes do that too.
    pub crlf_ping_interval: Option<Duration>,
    /// How long it may take to answer that; then the connection is closed and opened anew. Default 10 s (RFC 5626
    /// §4.4.1).
    pub crlf_pong_timeout: Duration,
    /// The section `websocket`. To upstreams over WebSocket its `handshake_timeout`, `ping_interval` and `pong_timeout` apply.
    pub websocket: WebSocket,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipUpstream {
    /// How it is reached.
    pub uri: UpstreamUri,
    /// How the edge calls itself towards it. Default: `domain`, and the default port of the upstream's scheme.
    pub advertise: Option<HostPort>,
    /// The lowest that is up is taken. Default 0.
    pub priority: u16,
    /// Its share among those of the same priority. Default 1.
    pub weight: u16,
    /// From where it opens connections of its own. Default: from its address, if it is reached without TLS and that is
    /// not an address of the edge.
    pub connects_from: Option<Vec<IpNetwork>>,
}

impl SipUpstream {
    /// As the edge wants it, for a relay of this domain.
    pub fn settings(&self, domain: &Host) -> UpstreamSettings {
        let transport = match self.uri.scheme {
            Scheme::Sips => Transport::Tls,
            Scheme::Ws => Transport::Ws,
            Scheme::Wss => Transport::Wss,
            _ => Transport::Tcp,
        };
        let advertised = |host: &Host, port| Advertised { transport, host: host.to_string().into(), port };
        let default_port = self.uri.scheme.default_port();
        UpstreamSettings {
            peer: advertised(&self.uri.host, self.uri.port),
            local: match &self.advertise {
                Some(HostPort { host, port }) => advertised(host, port.unwrap_or(default_port)),
                None => advertised(domain, default_port),
            },
            priority: self.priority,
            weight: self.weight,
        }
    }
}

/// `sip://host:port`, `sips://host:port`, `ws://host:port/path` or `wss://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamUri {
    /// `sip` (TCP), `sips` (TLS), `ws` or `wss`.
    pub scheme: Scheme,
    /// The host; a name is resolved when a connection is opened.
    pub host: Host,
    /// The port. Default: 5060, 5061, 80, 443.
    pub port: u16,
    /// The path of the WebSocket; `/` if none is given, and elsewhere.
    pub path: String,
}

impl fmt::Display for UpstreamUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port, path } = self;
        write!(f, "{scheme}://{host}:{port}{}", if path == "/" { "" } else { path })
    }
}

impl FromStr for UpstreamUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SCHEMES: &str = "`sip://`, `sips://`, `ws://` or `wss://`";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("`{text}` has no scheme: {SCHEMES} in front of the host"));
        };
        let Ok(scheme @ (Scheme::Sip | Scheme::Sips | Scheme::Ws | Scheme::Wss)) = scheme.parse() else {
            return Err(format!("`{scheme}` is not a scheme of upstreams, those are {SCHEMES}"));
        };
        let (address, path) = match rest.find('/') {
            Some(slash) if matches!(scheme, Scheme::Ws | Scheme::Wss) => rest.split_at(slash),
            _ => (rest, "/"),
        };
        if address.contains(['/', '@', ';', '?', '#'])
            || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        {
            return Err(format!("`{text}` is more than a scheme, a host, a port and, for WebSocket, a path"));
        }
        let HostPort { host, port } = address.parse()?;
        if port == Some(0) {
            return Err("port 0 cannot be reached".to_owned());
        }
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.default_port()), path: path.to_owned() })
    }
}

impl<'de> Deserialize<'de> for UpstreamUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the URI of an upstream, such as `sip://10.0.0.1:5060`")
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSip {
    /// Where SIP of clients goes, 1 to 64.
    sip_upstream: Vec<FileUpstream>,
    /// What the way back to clients is signed with, 16 bytes or more, the same on each of several edges. Default:
    /// drawn at start; then a forged token cannot be told from one of the process before.
    #[serde(default)]
    #[schemars(with = "form::Secret")]
    flow_secret: Option<FileSecret>,
    /// Whether a double CRLF is answered with a single one (RFC 5626 §3.5.1).
    #[serde(default = "yes")]
    crlf_pingpong: bool,
    /// Whether a single CRLF is dropped and counts as no sign of life.
    #[serde(default)]
    crlf_drop: bool,
    /// Reads of less than 512 bytes in which one message may come.
    #[serde(default = "default_chunks", deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    max_msg_chunks: usize,
    /// From a message's first byte to its last; then the connection is closed.
    #[serde(default = "default_msg_time", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    max_msg_time: Duration,
    /// The longest head, 1 KiB to 1 MiB; a longer one is refused with 513, and the connection ends.
    #[serde(default = "default_head", deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    head_size: usize,
    /// The longest message, head and body, 1 KiB to 16 MiB; a longer one is refused with 413.
    #[serde(default = "default_message", deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    message_size: usize,
    /// The most header fields in a head, 16 to 10000.
    #[serde(default = "default_headers", deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    headers: usize,
    /// How often each upstream is asked by OPTIONS.
    #[serde(default = "default_interval", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    probe_interval: Duration,
    /// How long an answer is waited for.
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    probe_timeout: Duration,
    /// Failures in a row until an upstream is down, 1 to 1000.
    #[serde(default = "default_failures", deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    probe_failures: usize,
    /// An upstream over TCP or TLS that is silent for so long is asked by a double CRLF too (RFC 5626 §3.5.1).
    /// Default: it is not.
    #[serde(default, deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration")]
    crlf_ping_interval: Option<Duration>,
    /// How long it may take to answer that; then the connection is opened anew.
    #[serde(default = "default_pong_timeout", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    crlf_pong_timeout: Duration,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileUpstream {
    /// Where it is: `sip` (TCP), `sips` (TLS), `ws` or `wss` with a path. Without a port: 5060, 5061, 80, 443. What
    /// is for SIPS URIs goes to `sips` and `wss` alone.
    #[schemars(with = "form::UpstreamUri")]
    uri: UpstreamUri,
    /// What it calls us. Default: `domain`, and the default port of its scheme.
    #[serde(default)]
    #[schemars(with = "form::HostPort")]
    advertise: Option<HostPort>,
    /// Of the upstreams that are up, those with the lowest are taken.
    #[serde(default)]
    priority: u16,
    /// Its share among those of the same priority, by Call-ID; 1 to 1000.
    #[serde(default = "default_weight", deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    weight: usize,
    /// Where it opens connections of its own from. Default: its address, if that is not ours too and it is reached
    /// without TLS. A certificate for its host is enough anywhere.
    #[serde(default, deserialize_with = "some_networks")]
    #[schemars(with = "form::OneOrMany<form::IpNetwork>")]
    connects_from: Option<Vec<IpNetwork>>,
}

fn some_networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNetwork>>, D::Error> {
    one_or_many(deserializer).map(Some)
}

fn yes() -> bool {
    true
}

fn default_weight() -> usize {
    1
}

fn default_chunks() -> usize {
    Limits::default().max_msg_chunks.unwrap_or(4)
}

fn default_msg_time() -> Duration {
    Duration::from_secs(4)
}

fn default_head() -> usize {
    Limits::default().head_bytes
}

fn default_message() -> usize {
    Limits::default().message_bytes
}

fn default_headers() -> usize {
    Limits::default().headers
}

fn default_interval() -> Duration {
    HealthSettings::default().probe_interval
}

fn default_timeout() -> Duration {
    HealthSettings::default().probe_timeout
}

fn default_pong_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_failures() -> usize {
    HealthSettings::default().probe_failures as usize
}

impl FileSip {
    /// `websocket` is the section of that name.
    pub(super) fn validate(self, websocket: &WebSocket, check: &mut Check<'_>) -> Sip {
        let path = KeyPath::new(&["sip"]);
        let flow_secret = self.flow_secret.and_then(|secret| {
            let path = path.clone().key("flow_secret");
            let secret = check.secret(secret, &path)?;
            if secret.reveal().len() < MIN_SECRET_LEN {
                check.error(path, format!("is shorter than {MIN_SECRET_LEN} bytes"));
            }
            Some(secret)
        });
        for (key, value, min, max) in [
            ("head_size", self.head_size, 1024, 1024 * 1024),
            ("message_size", self.message_size, 1024, 16 * 1024 * 1024),
        ] {
            if value < min || value > max {
                let message = format!("is {value} bytes, and goes from {min} to {max}");
                check.error(path.clone().key(key), message);
            }
        }
        if self.message_size < self.head_size {
            check.error(path.clone().key("message_size"), "is less than `head_size`, which is a part of it");
        }
        // A request has six fields that it must have, and one Via and one Record-Route for each proxy.
        for (key, value, min, max) in
            [("headers", self.headers, 16, 10_000), ("probe_failures", self.probe_failures, 1, 1000)]
        {
            if value < min || value > max {
                check.error(path.clone().key(key), format!("is {value}, and goes from {min} to {max}"));
            }
        }
        if self.probe_timeout > self.probe_interval {
            let message =
                "is longer than `probe_interval`: the next probe would not wait for the answer to the last";
            check.error(path.clone().key("probe_timeout"), message);
        }
        if self.crlf_drop && !self.crlf_pingpong {
            let message = "is true and `crlf_pingpong` false: keep-alives of clients get no answer";
            check.warn(path.clone().key("crlf_drop"), message);
        }
        Sip {
            sip_upstream: validate_upstreams(self.sip_upstream, &path.key("sip_upstream"), check),
            flow_secret,
            crlf_pingpong: self.crlf_pingpong,
            limits: Limits {
                head_bytes: self.head_size,
                message_bytes: self.message_size,
                headers: self.headers,
                max_msg_chunks: Some(self.max_msg_chunks),
                crlf_drop: self.crlf_drop,
                lenient: false,
            },
            max_msg_time: self.max_msg_time,
            health: HealthSettings {
                probe_interval: self.probe_interval,
                probe_timeout: self.probe_timeout,
                probe_failures: u32::try_from(self.probe_failures).unwrap_or(u32::MAX),
            },
            crlf_ping_interval: self.crlf_ping_interval,
            crlf_pong_timeout: self.crlf_pong_timeout,
            websocket: websocket.clone(),
        }
    }
}

fn validate_upstreams(list: Vec<FileUpstream>, path: &KeyPath, check: &mut Check<'_>) -> Vec<SipUpstream> {
    if list.is_empty() {
        check.error(path.clone(), "is empty: SIP has to go somewhere");
    } else if list.len() > MAX_UPSTREAMS {
        check.error(path.clone(), format!("has more than {MAX_UPSTREAMS} upstreams"));
    }
    let mut first_use = BTreeMap::new();
    let upstreams = list.into_iter().enumerate().map(|(index, upstream)| {
        let path = path.clone().index(index);
        let FileUpstream { uri, advertise, priority, weight, connects_from } = upstream;
        // A Route names an upstream by host and port.
        if let Some(first) = first_use.insert((uri.host.clone(), uri.port), index) {
            check.error(path.clone().key("uri"), format!("sip_upstream[{first}] has the same address"));
        }
        if matches!(advertise, Some(HostPort { port: Some(0), .. })) {
            check.error(path.clone().key("advertise"), "port 0 cannot be reached");
        }
        if weight > 1000 {
            check.error(path.key("weight"), format!("is {weight}, and goes from 1 to 1000"));
        }
        let weight = u16::try_from(weight).unwrap_or(u16::MAX);
        SipUpstream { uri, advertise, priority, weight, connects_from }
    });
    upstreams.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn text(sip: &str) -> String {
        format!("domain: relay.test\nlisteners: [ {{ uri: \"msrp://127.0.0.1:2855\" }} ]\nsip:\n{sip}")
    }

    fn sip_in(dir: &Path, sip: &str) -> Sip {
        let config =
            Config::parse(&text(sip), dir, "relay.yaml").unwrap_or_else(|errors| panic!("{errors}\n{sip}"));
        config.sip.unwrap()
    }

    fn accepted(sip: &str) -> Sip {
        sip_in(Path::new("/nonexistent"), sip)
    }

    fn refused(sip: &str) -> String {
        Config::parse(&text(sip), Path::new("/nonexistent"), "relay.yaml").expect_err(sip).to_string()
    }

    const ONE: &str = "  sip_upstream: [ { uri: \"sip://10.0.0.1\" } ]\n";

    #[test]
    fn without_it_there_is_no_edge() {
        let text = "domain: relay.test\nlisteners: [ { uri: \"msrp://127.0.0.1:2855\" } ]\n";
        assert_eq!(Config::parse(text, Path::new(""), "relay.yaml").unwrap().sip, None);
    }

    #[test]
    fn what_is_not_said_is_as_documented() {
        let sip = accepted(ONE);
        assert_eq!((sip.limits, sip.health), (Limits::default(), HealthSettings::default()));
        assert_eq!(sip.limits.max_msg_chunks, Some(4));
        assert!(sip.crlf_pingpong && !sip.limits.crlf_drop);
        assert_eq!((sip.max_msg_time, sip.flow_secret), (Duration::from_secs(4), None));
        assert_eq!((sip.crlf_ping_interval, sip.crlf_pong_timeout), (None, Duration::from_secs(10)));
        let upstream = &sip.sip_upstream[0];
        assert_eq!((upstream.priority, upstream.weight, &upstream.advertise), (0, 1, &None));
        assert_eq!((&upstream.connects_from, &sip.websocket), (&None, &WebSocket::default()));
        let settings = upstream.settings(&"relay.test".parse().unwrap());
        assert_eq!((&*settings.peer.host, settings.peer.port), ("10.0.0.1", 5060));
        assert_eq!((&*settings.local.host, settings.local.port), ("relay.test", 5060));
        assert_eq!(settings.local.transport, Transport::Tcp);
    }

    #[test]
    fn every_setting_is_taken() {
        let sip = accepted(
            "  sip_upstream:\n    - { uri: \"wss://[2001:db8::1]:8443/sip\", advertise: \"edge.test:9\", priority: 2, weight: 1000, connects_from: 10.0.0.0/8 }\n    \
             - { uri: \"SIPS://proxy.test\" }\n  flow_secret: 0123456789abcdef\n  crlf_pingpong: false\n  crlf_drop: true\n  \
             max_msg_chunks: 7\n  max_msg_time: 2s\n  head_size: 1KiB\n  message_size: 2KiB\n  headers: 16\n  \
             probe_interval: 5s\n  probe_timeout: 5s\n  probe_failures: 1\n  crlf_ping_interval: 95s\n  \
             crlf_pong_timeout: 3s\n",
        );
        let expected = Limits {
            head_bytes: 1024,
            message_bytes: 2048,
            headers: 16,
            max_msg_chunks: Some(7),
            crlf_drop: true,
            lenient: false,
        };
        assert_eq!(
            (sip.limits, sip.crlf_pingpong, sip.max_msg_time),
            (expected, false, Duration::from_secs(2))
        );
        assert_eq!(sip.flow_secret.unwrap().reveal(), "0123456789abcdef");
        let seconds = Duration::from_secs;
        assert_eq!((sip.crlf_ping_interval, sip.crlf_pong_timeout), (Some(seconds(95)), seconds(3)));
        let five = seconds(5);
        assert_eq!(
            sip.health,
            HealthSettings { probe_interval: five, probe_timeout: five, probe_failures: 1 }
        );
        let [first, second] = &sip.sip_upstream[..] else { panic!() };
        assert_eq!(first.uri.to_string(), "wss://[2001:db8::1]:8443/sip");
        assert_eq!((first.priority, first.weight), (2, 1000));
        assert_eq!(first.connects_from, Some(vec!["10.0.0.0/8".parse().unwrap()]));
        let settings = first.settings(&"relay.test".parse().unwrap());
        assert_eq!((&*settings.peer.host, settings.peer.transport), ("[2001:db8::1]", Transport::Wss));
        assert_eq!((&*settings.local.host, settings.local.port), ("edge.test", 9));
        assert_eq!(second.uri.to_string(), "sips://proxy.test:5061");
        assert_eq!(second.settings(&"relay.test".parse().unwrap()).local.port, 5061);
    }

    #[test]
    fn secrets_come_from_files_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("flow.secret"), "0123456789abcdef\n").unwrap();
        let sip = sip_in(dir.path(), &format!("{ONE}  flow_secret: {{ file: flow.secret }}\n"));
        assert_eq!(sip.flow_secret.unwrap().reveal().len(), 16);
    }

    #[test]
    fn what_makes_no_edge_is_refused_where_it_stands() {
        for (sip, expected) in [
            ("  crlf_drop: true\n", "sip_upstream"),
            ("  sip_upstream: []\n", "is empty"),
            ("  sip_upstream: [ { uri: \"10.0.0.1\" } ]\n", "has no scheme"),
            ("  sip_upstream: [ { uri: \"msrp://10.0.0.1\" } ]\n", "not a scheme of upstreams"),
            ("  sip_upstream: [ { uri: \"sip://a@10.0.0.1\" } ]\n", "more than a scheme"),
            ("  sip_upstream: [ { uri: \"sip://10.0.0.1/x\" } ]\n", "more than a scheme"),
            ("  sip_upstream: [ { uri: \"ws://10.0.0.1/a b\" } ]\n", "more than a scheme"),
            ("  sip_upstream: [ { uri: \"sip://10.0.0.1:0\" } ]\n", "port 0"),
            ("  sip_upstream: [ { uri: \"sip://a\", advertise: \"b:0\" } ]\n", "port 0"),
            ("  sip_upstream: [ { uri: \"sip://a\", weight: 0 } ]\n", "weight"),
            ("  sip_upstream: [ { uri: \"sip://a\", connects_from: here } ]\n", "connects_from"),
            ("  sip_upstream: [ { uri: \"sip://a\", weight: 1001 } ]\n", "from 1 to 1000"),
            ("  sip_upstream: [ { uri: \"sip://a\", priorty: 1 } ]\n", "did you mean `priority`"),
            (
                "  sip_upstream: [ { uri: \"sip://a\" }, { uri: \"sip://a:5060\" } ]\n",
                "sip_upstream[0] has the same address",
            ),
        ] {
            let errors = refused(sip);
            assert!(errors.contains(expected), "{sip}: {errors}");
            assert!(errors.contains("sip"), "{errors}");
        }
        for (line, expected) in [
            ("flow_secret: 0123456789abcde", "sip.flow_secret: is shorter than 16 bytes"),
            ("flow_secret: { file: none }", "cannot read"),
            ("max_msg_chunks: 0", "max_msg_chunks"),
            ("max_msg_time: 0s", "max_msg_time"),
            ("head_size: 1023B", "goes from 1024"),
            ("message_size: 8KiB", "less than `head_size`"),
            ("message_size: 17MiB", "goes from 1024 to 16777216"),
            ("headers: 15", "from 16 to 10000"),
            ("probe_failures: 1001", "from 1 to 1000"),
            ("probe_timeout: 11s", "longer than `probe_interval`"),
            ("crlf_pingpong: maybe", "crlf_pingpong"),
            ("crlf_pingpng: true", "did you mean `crlf_"),
        ] {
            let errors = refused(&format!("{ONE}  {line}\n"));
            assert!(errors.contains(expected), "{line}: {errors}");
        }
    }

    #[test]
    fn limits_are_taken_at_their_ends() {
        let at = |line: &str| accepted(&format!("{ONE}  {line}\n"));
        assert_eq!(at("head_size: 1KiB").limits.head_bytes, 1024);
        assert_eq!(at("message_size: 16KiB").limits.message_bytes, 16 * 1024);
        assert_eq!(at("message_size: 16MiB").limits.message_bytes, 16 * 1024 * 1024);
        assert_eq!(at("headers: 10000").limits.headers, 10_000);
        assert_eq!(at("max_msg_chunks: 1").limits.max_msg_chunks, Some(1));
        assert_eq!(at("probe_timeout: 10s").health.probe_timeout, Duration::from_secs(10));
        assert_eq!(at("probe_failures: 1000").health.probe_failures, 1000);
    }

    #[test]
    fn listeners_of_sip_are_beside_those_of_msrp() {
        let listeners = |list: &str, sip: &str| {
            let text = format!("domain: relay.test\nlisteners: [ {list} ]\n{sip}");
            Config::parse(&text, Path::new(""), "relay.yaml").map_err(|errors| errors.to_string())
        };
        let sip = format!("sip:\n{ONE}");
        let msrp = "{ uri: 'msrp://127.0.0.1:1' }";
        let all =
            format!("{msrp}, {{ uri: 'sip://127.0.0.1;transport=tcp' }}, {{ uri: 'ws://127.0.0.1:3' }}");
        let config = listeners(&all, &sip).unwrap();
        let found = |get: fn(&super::super::Listener) -> bool| -> Vec<bool> {
            config.listeners.iter().map(get).collect()
        };
        assert_eq!(found(|listener| listener.sip), [false, true, true]);
        assert_eq!(found(super::super::Listener::serves_msrp), [true, false, true]);
        assert_eq!(config.listeners[1].to_string(), "sip://127.0.0.1:5060");
        assert!(!config.warnings.iter().any(|warning| warning.to_string().contains("sip")));
        // Without the section a WebSocket carries MSRP alone, and SIP has no listeners.
        let config = listeners(&format!("{msrp}, {{ uri: 'ws://127.0.0.1:3' }}"), "").unwrap();
        assert!(!config.listeners[1].sip);
        let errors = listeners(&all, "").unwrap_err();
        assert!(errors.contains("listeners[1].uri: `sip://` needs the section `sip`"), "{errors}");
        let errors = listeners("{ uri: 'sip://127.0.0.1' }", &sip).unwrap_err();
        assert!(errors.contains("are all WebSocket, SIP or HEP"), "{errors}");
        let errors = listeners(&format!("{msrp}, {{ uri: 'sips://127.0.0.1' }}"), &sip).unwrap_err();
        assert!(errors.contains("`sips://` needs one"), "{errors}");
        let config = listeners(msrp, &sip).unwrap();
        assert!(config.warnings.iter().any(|warning| warning.to_string().contains("no listener for SIP")));
    }

    #[test]
    fn clients_without_any_answer_are_warned_of() {
        let config = |rest: &str| {
            Config::parse(&text(&format!("{ONE}{rest}")), Path::new(""), "relay.yaml").unwrap().warnings.len()
        };
        assert_eq!(config("  crlf_drop: true\n  crlf_pingpong: false\n"), config("") + 1);
    }
}
