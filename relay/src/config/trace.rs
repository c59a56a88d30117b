//! `trace`: what collectors are told by HEP, and which.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tcp_transport::Scheme;
use tcp_transport::event::Direction;
use tcp_transport::hep::trace::{DEFAULT_MSRP_PAYLOAD_TYPE, Filter, MAX_MESSAGE, Rule, What};
use tcp_transport::hep::{
    DEFAULT_CAPTURE_ID, DEFAULT_HEP_SEND_TIMEOUT, DEFAULT_MAX_RETRIES, DEFAULT_QUEUE_PACKETS,
    DEFAULT_RETRY_COOLDOWN, DestinationSettings, EventFormat, HepTransport, HepUri, PayloadType, TimeOrder,
    Version,
};
use tcp_transport::proxy_protocol::IpNetwork;
use tcp_transport::tls::SniPattern;

use super::Check;
use super::error::KeyPath;
use super::form;
use super::listener::{Listener, normal_uri};
use super::outbound::port_range;
use super::tls::Tls;
use super::value::{FileSecret, Parsed, count, duration, one_or_many, size_or_zero};

/// The most bytes of a capture name or key: what collectors show.
const MAX_NAME: usize = 255;

/// What is traced, and where to.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Whether tracing is on at start.
    pub trace_on: bool,
    /// The collectors.
    pub destinations: Vec<DestinationSettings>,
    /// What is traced of a protocol; of one that is not here, its connection events.
    pub protocols: HashMap<Scheme, What>,
    /// Which connections are traced.
    pub filter: Filter,
    /// Bytes of an MSRP body that are traced with its head.
    pub msrp_body: usize,
    /// The payload type of MSRP messages.
    pub msrp_payload_type: PayloadType,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileTrace {
    /// Whether tracing is on at start. `msrp-relay ctl mi trace on` switches it while the relay runs.
    trace_on: bool,
    /// The collectors, by a name of your choice. Each gets all that is traced.
    destinations: BTreeMap<String, FileDestination>,
    /// What is traced, by what connections carry: `msrp`, `msrps`, `ws`, `wss`, `sip`, `sips`, `hep`.
    #[schemars(extend("propertyNames" = form::choices(&["msrp", "msrps", "ws", "wss", "sip", "sips", "hep"])))]
    protocols: BTreeMap<String, FileWhat>,
    /// The first rule that matches says whether a connection is traced. None does: it is.
    trace_filter: Vec<FileRule>,
    /// Bytes of MSRP bodies that go with the head, up to 64000. They are private.
    #[serde(deserialize_with = "size_or_zero")]
    #[schemars(with = "form::SizeOrZero")]
    msrp_body: usize,
    /// The payload type of MSRP messages, which have none of their own. 100 are logs, which collectors store and
    /// show.
    msrp_payload_type: u8,
}

impl Default for FileTrace {
    fn default() -> Self {
        Self {
            trace_on: true,
            destinations: BTreeMap::new(),
            protocols: BTreeMap::new(),
            trace_filter: Vec::new(),
            msrp_body: 0,
            msrp_payload_type: DEFAULT_MSRP_PAYLOAD_TYPE.0,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileDestination {
    /// Where it is. Without a port: 5656.
    #[schemars(with = "form::HepUri")]
    uri: Parsed<HepUri>,
    /// The version of HEP; 1 and 2 over `hep_udp` only.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 3))]
    version: u8,
    /// The byte order of version 2's time: `little` (Kamailio, sngrep) or `big` (heplify-server).
    #[serde(default)]
    #[schemars(with = "form::ByteOrder", extend("default" = "little"))]
    time_order: Parsed<FileTimeOrder>,
    /// Who we are, as a number.
    #[serde(default = "default_capture_id")]
    hep_capture_id: u32,
    /// Who we are, as a name.
    #[serde(default)]
    capture_name: Option<String>,
    /// What the collector asks for. It travels as it is: a secret over `hep_tls` only.
    #[serde(default)]
    #[schemars(with = "form::Secret")]
    auth_key: Option<FileSecret>,
    /// How events are written: `json` (Homer 7 and later), or `text` (Homer 5).
    #[serde(default)]
    #[schemars(with = "form::EventPayload", extend("default" = "json"))]
    payload: Parsed<FilePayload>,
    /// What stands between the values of `text`, one character.
    #[serde(default)]
    #[schemars(extend("default" = ":"))]
    delimiter: Option<char>,
    /// The one of `tls.client_domains`. Default: the one for the host.
    #[serde(default)]
    tls_domain: Option<String>,
    /// Packets that may wait; then the next ones are dropped, and counted.
    #[serde(default = "default_queue", deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    hep_async_max_postponed_chunks: usize,
    /// A collector that takes no byte for so long while packets wait is connected to anew.
    #[serde(default = "default_send_timeout", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    hep_send_timeout: Duration,
    /// Attempts to connect; then it is left alone for `retry_cooldown`.
    #[serde(default = "default_retries")]
    max_retries: u32,
    /// How long that is; what comes meanwhile is dropped.
    #[serde(default = "default_cooldown", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    retry_cooldown: Duration,
}

fn three() -> u8 {
    3
}

fn default_capture_id() -> u32 {
    DEFAULT_CAPTURE_ID
}

fn default_queue() -> usize {
    DEFAULT_QUEUE_PACKETS
}

fn default_send_timeout() -> Duration {
    DEFAULT_HEP_SEND_TIMEOUT
}

fn default_retries() -> u32 {
    DEFAULT_MAX_RETRIES
}

fn default_cooldown() -> Duration {
    DEFAULT_RETRY_COOLDOWN
}

/// What of a protocol is traced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct FileWhat {
    /// Whether connection events are traced.
    events: bool,
    /// Whether messages are: the head of MSRP, all of SIP, without what proves passwords.
    messages: bool,
}

impl Default for FileWhat {
    fn default() -> Self {
        let What { events, messages } = What::default();
        Self { events, messages }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileRule {
    /// Whether connections are traced that all of this holds for.
    trace: bool,
    /// The other side's address. Default: any.
    #[serde(default)]
    #[schemars(with = "form::IpNetwork")]
    remote: Option<Parsed<IpNetwork>>,
    /// The other side's port, or a range. Default: any.
    #[serde(default)]
    #[schemars(with = "form::PortRange")]
    remote_port: Option<Parsed<Ports>>,
    /// Our address. Default: any.
    #[serde(default)]
    #[schemars(with = "form::IpNetwork")]
    local: Option<Parsed<IpNetwork>>,
    /// Our port, or a range. Default: any.
    #[serde(default)]
    #[schemars(with = "form::PortRange")]
    local_port: Option<Parsed<Ports>>,
    /// What the connection carries: `msrp`, `msrps`, `ws`, `wss`, `sip`, `sips`, `hep`. Default: anything.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::Protocol>")]
    protocol: Vec<FileScheme>,
    /// Who opened it: `in`, others; `out`, we. Default: either.
    #[serde(default)]
    #[schemars(with = "form::Direction")]
    direction: Option<Parsed<FileDirection>>,
    /// The `uri` of the listener that accepted it. Default: any.
    #[serde(default)]
    #[schemars(with = "form::ListenUri")]
    listener: Option<Parsed<FileListenerUri>>,
    /// The server name its client has asked for. Default: any.
    #[serde(default)]
    #[schemars(with = "form::HostPattern")]
    sni: Option<Parsed<SniPattern>>,
    /// Who has authenticated on it. No message is traced while that may still decide. Default: anybody.
    #[serde(default)]
    user: Option<String>,
}

#[derive(Debug)]
struct Ports(RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        port_range(text).map(Self)
    }
}

#[derive(Debug)]
struct FileScheme(Scheme);

impl FromStr for FileScheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Scheme::ALL.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text));
        let names = Scheme::ALL.map(Scheme::as_str).join(", ");
        found.map(Self).ok_or_else(|| format!("`{text}` is not a protocol traced here, those are {names}"))
    }
}

#[derive(Debug)]
struct FileDirection(Direction);

impl FromStr for FileDirection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "in" => Ok(Self(Direction::Inbound)),
            "out" => Ok(Self(Direction::Outbound)),
            _ => Err(format!("`{text}` is not a direction, those are in and out")),
        }
    }
}

/// The URI of a listener, as [`Listener`] shows itself.
#[derive(Debug)]
pub(super) struct FileListenerUri(pub(super) String);

impl FromStr for FileListenerUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        normal_uri(text).map(Self)
    }
}

/// How the payload of an event is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FilePayload {
    #[default]
    Json,
    Text,
}

impl FromStr for FilePayload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(format!("`{text}` is not a payload, those are json and text")),
        }
    }
}

/// The byte order of version 2's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FileTimeOrder(pub(super) TimeOrder);

impl FromStr for FileTimeOrder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "little" => Ok(Self(TimeOrder::Little)),
            "big" => Ok(Self(TimeOrder::Big)),
            _ => Err(format!("`{text}` is not a byte order, those are little and big")),
        }
    }
}

impl FileTrace {
    pub(super) fn validate(self, tls: &Tls, listeners: &[Listener], check: &mut Check<'_>) -> Trace {
        let path = KeyPath::new(&["trace"]);
        if self.destinations.is_empty() && !(self.protocols.is_empty() && self.trace_filter.is_empty()) {
            check.warn(path.clone(), "has no destinations, and no effect");
        }
        let at = path.clone().key("destinations");
        let destinations = self.destinations.into_iter().map(|(name, destination)| {
            let path = at.clone().key(&name);
            destination.validate(name, tls, &path, check)
        });
        let destinations = destinations.collect();
        let mut protocols = HashMap::new();
        for (name, FileWhat { events, messages }) in self.protocols {
            match name.parse() {
                Ok(FileScheme(scheme)) => {
                    if scheme == Scheme::Hep && messages {
                        let at = path.clone().key("protocols").key(&name).key("messages");
                        check.error(at, "is for what is traced, and HEP is what carries that");
                    }
                    protocols.insert(scheme, What { events, messages });
                }
                Err(message) => check.error_at_key(path.clone().key("protocols").key(&name), message),
            }
        }
        let rules = self.trace_filter.into_iter().enumerate().map(|(index, rule)| {
            let path = path.clone().key("trace_filter").index(index);
            rule.validate(listeners, &path, check)
        });
        let filter = Filter { rules: rules.collect() };
        if self.msrp_body > MAX_MESSAGE {
            check.error(path.clone().key("msrp_body"), format!("is more than a packet takes, {MAX_MESSAGE}"));
        }
        let msrp_payload_type = PayloadType(self.msrp_payload_type);
        if msrp_payload_type == PayloadType::SIP {
            let message = "is 1, by which collectors take it for SIP, and throw it away or fail";
            check.error(path.clone().key("msrp_payload_type"), message);
        }
        let Self { trace_on, msrp_body, .. } = self;
        Trace { trace_on, destinations, protocols, filter, msrp_body, msrp_payload_type }
    }
}

impl FileDestination {
    fn validate(self, name: String, tls: &Tls, path: &KeyPath, check: &mut Check<'_>) -> DestinationSettings {
        let Parsed(uri) = self.uri;
        let transport = uri.transport;
        let mut settings = DestinationSettings::new(name, uri);
        settings.encoding.version = match self.version {
            1 => Version::V1,
            2 => Version::V2,
            3 => Version::V3,
            other => {
                check.error(path.clone().key("version"), format!("is {other}, and those are 1, 2 and 3"));
                Version::V3
            }
        };
        if transport != HepTransport::Udp && settings.encoding.version != Version::V3 {
            let message = format!("goes over hep_udp only, and this is {transport}");
            check.error(path.clone().key("version"), message);
        }
        settings.encoding.time_order = self.time_order.0.0;
        settings.capture_id = self.hep_capture_id;
        if settings.encoding.version == Version::V2 && self.hep_capture_id > u32::from(u16::MAX) {
            check.error(path.clone().key("hep_capture_id"), "goes up to 65535 in version 2");
        }
        if self.capture_name.as_ref().is_some_and(|name| name.len() > MAX_NAME) {
            check.error(path.clone().key("capture_name"), format!("is longer than {MAX_NAME} bytes"));
        }
        settings.capture_name = self.capture_name.map(Into::into);
        settings.auth_key = self.auth_key.and_then(|key| {
            let key = check.secret(key, &path.clone().key("auth_key"))?;
            Some(key.reveal().as_bytes().to_vec().into())
        });
        if settings.auth_key.is_some() && transport != HepTransport::Tls && !is_loopback(&settings.uri.host) {
            let message = format!("everybody on the way can read it, as this is {transport}: use hep_tls");
            check.warn(path.clone().key("auth_key"), message);
        }
        if self.delimiter.is_some() && self.payload.0 != FilePayload::Text {
            check.error(path.clone().key("delimiter"), "is for `payload: text`");
        }
        settings.format = match self.payload.0 {
            FilePayload::Json => EventFormat::Json,
            FilePayload::Text => EventFormat::Text(self.delimiter.unwrap_or(':')),
        };
        if let Some(domain) = &self.tls_domain {
            if transport != HepTransport::Tls {
                check.error(
                    path.clone().key("tls_domain"),
                    format!("is for hep_tls, and this is {transport}"),
                );
            } else if !tls.client_domains.contains_key(domain) {
                let message = format!("there is no `{domain}` in tls.client_domains");
                check.error(path.clone().key("tls_domain"), message);
            }
        }
        settings.tls_domain = self.tls_domain;
        settings.queue_packets = self.hep_async_max_postponed_chunks;
        settings.send_timeout = self.hep_send_timeout;
        settings.max_retries = Some(self.max_retries);
        settings.retry_cooldown = self.retry_cooldown;
        settings
    }
}

/// Whether only this machine reads what goes there.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback())
}

impl FileRule {
    fn validate(self, listeners: &[Listener], path: &KeyPath, check: &mut Check<'_>) -> Rule {
        let listener = self.listener.map(|Parsed(FileListenerUri(uri))| uri);
        if let Some(uri) = &listener
            && !listeners.iter().any(|listener| listener.to_string() == *uri)
        {
            check.error(path.clone().key("listener"), format!("there is no listener `{uri}`"));
        }
        Rule {
            remote: self.remote.map(|Parsed(network)| network),
            remote_port: self.remote_port.map(|Parsed(Ports(ports))| ports),
            local: self.local.map(|Parsed(network)| network),
            local_port: self.local_port.map(|Parsed(Ports(ports))| ports),
            protocols: self.protocol.into_iter().map(|FileScheme(scheme)| scheme).collect(),
            direction: self.direction.map(|Parsed(FileDirection(direction))| direction),
            listener,
            sni: self.sni.map(|Parsed(pattern)| pattern),
            user: self.user,
            ..Rule::any(self.trace)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn trace(text: &str) -> Trace {
        let text =
            format!("domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:1' }} ]\ntrace: {{ {text} }}\n");
        Config::parse(&text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}")).trace
    }

    #[test]
    fn every_setting_of_a_destination_reaches_it() {
        let all = trace(
            "destinations: { a: { uri: 'hep_udp://192.0.2.1:9', version: 2, time_order: big, hep_capture_id: 65535, \
             capture_name: relay1, auth_key: k3y, payload: text, delimiter: ';', hep_async_max_postponed_chunks: 7, \
             hep_send_timeout: 2s, max_retries: 3, retry_cooldown: 4s } }",
        );
        let [found] = &all.destinations[..] else { panic!("one") };
        assert_eq!((found.name.as_str(), found.uri.to_string().as_str()), ("a", "hep_udp://192.0.2.1:9"));
        assert_eq!((found.encoding.version, found.encoding.time_order), (Version::V2, TimeOrder::Big));
        assert_eq!((found.capture_id, found.format.clone()), (65_535, EventFormat::Text(';')));
        assert_eq!(
            (found.capture_name.as_deref(), found.auth_key.as_deref()),
            (Some(&b"relay1"[..]), Some(&b"k3y"[..]))
        );
        assert_eq!((found.queue_packets, found.max_retries), (7, Some(3)));
        assert_eq!(
            (found.send_timeout, found.retry_cooldown),
            (Duration::from_secs(2), Duration::from_secs(4))
        );
        let plain = trace("destinations: { a: { uri: 'hep_udp://192.0.2.1' } }");
        assert_eq!(
            plain.destinations,
            [DestinationSettings::new("a", "hep_udp://192.0.2.1".parse().unwrap())]
        );
        assert!(plain.trace_on && !trace("trace_on: false").trace_on);
    }

    #[test]
    fn every_condition_of_a_rule_reaches_it() {
        let all = trace(
            "destinations: { a: { uri: 'hep_udp://192.0.2.1' } }, protocols: { ws: { events: false }, sip: { messages: true } }, \
             msrp_body: 1KiB, msrp_payload_type: 55, trace_filter: [ \
             { trace: true, remote: 10.0.0.0/8, remote_port: '80-90', local: '::1', local_port: '5', protocol: [sip, wss], \
             direction: out, listener: 'msrp://127.0.0.1:1', sni: '*.example.com', user: alice }, { trace: false } ]",
        );
        assert_eq!(all.protocols[&Scheme::Ws], What { events: false, messages: false });
        assert_eq!(all.protocols[&Scheme::Sip], What { events: true, messages: true });
        assert_eq!((all.msrp_body, all.msrp_payload_type), (1024, PayloadType(55)));
        let plain = trace("trace_on: true");
        assert_eq!((plain.msrp_body, plain.msrp_payload_type), (0, DEFAULT_MSRP_PAYLOAD_TYPE));
        let [rule, last] = &all.filter.rules[..] else { panic!("two") };
        assert_eq!((rule.trace, last.trace), (true, false));
        assert_eq!(
            (rule.remote, rule.local),
            (Some("10.0.0.0/8".parse().unwrap()), Some("::1".parse().unwrap()))
        );
        assert_eq!((rule.remote_port.clone(), rule.local_port.clone()), (Some(80..=90), Some(5..=5)));
        assert_eq!(
            (&*rule.protocols, rule.direction),
            (&[Scheme::Sip, Scheme::Wss][..], Some(Direction::Outbound))
        );
        assert_eq!(rule.listener.as_deref(), Some("msrp://127.0.0.1:1"));
        assert_eq!(rule.sni, Some("*.example.com".parse().unwrap()));
        assert_eq!(rule.user.as_deref(), Some("alice"));
        assert_eq!(format!("{last:?}"), format!("{:?}", Rule::any(false)));
    }

    #[test]
    fn a_body_may_be_as_long_as_a_packet_takes() {
        let with = |size: usize| {
            let text = format!(
                "domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:1' }} ]\ntrace: {{ msrp_body: {size}B }}\n"
            );
            Config::parse(&text, Path::new(""), "relay.yaml").map(|config| config.trace.msrp_body).ok()
        };
        assert_eq!(with(0), Some(0));
        assert_eq!(with(MAX_MESSAGE), Some(MAX_MESSAGE));
        assert_eq!(with(MAX_MESSAGE + 1), None);
    }
}
