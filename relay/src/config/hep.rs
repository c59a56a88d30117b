//! `hep`: how others' HEP is received, and which of it goes on to the collectors of `trace`.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tcp_transport::hep::{
    DEFAULT_MAX_MSG_CHUNKS, DEFAULT_PACKET_TIMEOUT, DestinationSettings, FrameLimits, HepTransport,
    MAX_PACKET, PROTOCOL_TCP, PROTOCOL_UDP, PayloadType, Received, ReceiverSettings,
};
use tcp_transport::proxy_protocol::IpNetwork;

use super::Check;
use super::error::KeyPath;
use super::form;
use super::listener::{Listener, ListenerTransport};
use super::trace::{FileListenerUri, FileTimeOrder, Trace};
use super::value::{FileSecret, Host, Parsed, count, duration, one_or_many, size};

#[cfg(test)]
mod tests;

/// Who may send where nothing else is said: this machine, and addresses that no packet from the public network should
/// have. They are private ones (RFC 1918, RFC 4193), link-local ones, and those of carrier-grade NAT (RFC 6598).
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "::1",
    "fc00::/7",
    "fe80::/10",
];

/// The shortest packet there is: its header.
const MIN_PACKET: usize = 6;

/// IP protocol SCTP.
const PROTOCOL_SCTP: u8 = 132;

/// How HEP is received, and where it goes.
#[derive(Debug, Clone, Default)]
pub struct Hep {
    /// What agents may send.
    pub receiver: ReceiverSettings,
    /// What is done with a packet: as the first rule that matches it says; none does: it goes to all destinations.
    pub filter: Vec<HepRule>,
}

impl Hep {
    /// What is done with a packet that came to `listener`, which is named as [`Listener`] shows itself.
    pub fn decide(&self, received: &Received, listener: &str) -> &Forward {
        let rule = self.filter.iter().find(|rule| rule.matches(received, listener));
        rule.map_or(&Forward::All, |rule| &rule.forward)
    }
}

/// Where a packet goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// To all of `trace.destinations`.
    All,
    /// Nowhere.
    None,
    /// To those of these names.
    To(Vec<String>),
}

/// A rule about the packets that all its conditions hold for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HepRule {
    /// What is done with them.
    pub forward: Forward,
    /// The agent's address.
    pub remote: Option<IpNetwork>,
    /// The listener it came to.
    pub listener: Option<String>,
    /// What the packet came over; empty: anything.
    pub transport: Vec<HepTransport>,
    /// The IP protocol of what was captured (chunk 0x0002); empty: any.
    pub protocol: Vec<u8>,
    /// What was captured (chunk 0x000b); empty: anything.
    pub payload_type: Vec<PayloadType>,
    /// The agent's number (chunk 0x000c); empty: any, or none.
    pub capture_id: Vec<u32>,
}

impl HepRule {
    fn matches(&self, received: &Received, listener: &str) -> bool {
        fn among<T: PartialEq>(wanted: &[T], found: Option<T>) -> bool {
            wanted.is_empty() || found.is_some_and(|found| wanted.contains(&found))
        }
        let packet = &received.packet;
        self.remote.is_none_or(|network| network.contains(received.from.ip()))
            && self.listener.as_deref().is_none_or(|wanted| wanted == listener)
            && among(&self.transport, Some(received.transport))
            && among(&self.protocol, packet.protocol)
            && among(&self.payload_type, packet.payload_type)
            && among(&self.capture_id, packet.capture_id)
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileHep {
    /// Reads in which one packet may come over TCP and TLS; then the connection is closed.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    hep_max_msg_chunks: usize,
    /// The longest packet.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "form::Size")]
    packet_size: usize,
    /// From a packet's first byte to its last, over TCP and TLS; then the connection is closed.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    packet_timeout: Duration,
    /// The byte order of version 2's time: `little` (Kamailio, OpenSIPS) or `big` (heplify).
    #[schemars(with = "form::ByteOrder", extend("default" = "little"))]
    time_order: Parsed<FileTimeOrder>,
    /// Who may send. A datagram's source is easily forged: over UDP nothing but a network of one's own protects
    /// from that. Default: this machine, private and link-local networks, and those of carrier-grade NAT.
    #[serde(deserialize_with = "networks")]
    #[schemars(with = "form::OneOrMany<form::IpNetwork>")]
    from: Option<Vec<IpNetwork>>,
    /// What each packet must bring; versions 1 and 2 cannot. It travels as it is: a secret over `hep_tls` only.
    #[schemars(with = "form::Secret")]
    auth_key: Option<FileSecret>,
    /// The first rule that matches a packet says where it goes. None does: to all destinations.
    filter: Vec<FileRule>,
}

impl Default for FileHep {
    fn default() -> Self {
        Self {
            hep_max_msg_chunks: DEFAULT_MAX_MSG_CHUNKS as usize,
            packet_size: MAX_PACKET,
            packet_timeout: DEFAULT_PACKET_TIMEOUT,
            time_order: Parsed::default(),
            from: None,
            auth_key: None,
            filter: Vec::new(),
        }
    }
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpNetwork>>, D::Error> {
    one_or_many(deserializer).map(Some)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileRule {
    /// Where packets go that all of this holds for: `all`, `none`, or names of `trace.destinations`.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::Name>")]
    forward: Vec<String>,
    /// The agent's address. Default: any.
    #[serde(default)]
    #[schemars(with = "form::IpNetwork")]
    remote: Option<Parsed<IpNetwork>>,
    /// The `uri` of the listener it came to. Default: any.
    #[serde(default)]
    #[schemars(with = "form::ListenUri")]
    listener: Option<Parsed<FileListenerUri>>,
    /// What it came over. Default: anything.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::HepTransport>")]
    transport: Vec<FileTransport>,
    /// The IP protocol of what was captured: `tcp`, `udp`, `sctp` or its number. Default: any.
    #[serde(default)]
    #[schemars(with = "form::ProtocolNumbers")]
    protocol: Numbers<FileProtocol>,
    /// What was captured: `sip`, `xmpp`, `sdp`, `rtp`, `rtcp`, `rest`, `event`, `log` or its number. Default:
    /// anything.
    #[serde(default)]
    #[schemars(with = "form::PayloadNumbers")]
    payload_type: Numbers<FilePayloadType>,
    /// The agent's number. Default: any, or none.
    #[serde(default)]
    #[schemars(with = "form::CaptureNumbers")]
    capture_id: Numbers<FileCaptureId>,
}

#[derive(Debug)]
struct FileTransport(HepTransport);

impl FromStr for FileTransport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "udp" => Ok(Self(HepTransport::Udp)),
            "tcp" => Ok(Self(HepTransport::Tcp)),
            "tls" => Ok(Self(HepTransport::Tls)),
            _ => Err(format!("`{text}` is not a transport of HEP, those are udp, tcp and tls")),
        }
    }
}

/// Something with a number, and perhaps a name.
trait Numbered: Sized {
    /// What it is, for messages.
    const EXPECTED: &'static str;
    /// Those with names.
    const NAMES: &'static [(&'static str, u8)];

    fn from_number(number: u64) -> Option<Self>;
}

#[derive(Debug)]
struct FileProtocol(u8);

impl Numbered for FileProtocol {
    const EXPECTED: &'static str = "an IP protocol: tcp, udp, sctp or a number up to 255";
    const NAMES: &'static [(&'static str, u8)] =
        &[("tcp", PROTOCOL_TCP), ("udp", PROTOCOL_UDP), ("sctp", PROTOCOL_SCTP)];

    fn from_number(number: u64) -> Option<Self> {
        u8::try_from(number).ok().map(Self)
    }
}

#[derive(Debug)]
struct FilePayloadType(u8);

impl Numbered for FilePayloadType {
    const EXPECTED: &'static str =
        "a payload type: sip, xmpp, sdp, rtp, rtcp, rest, event, log or a number up to 255";
    const NAMES: &'static [(&'static str, u8)] = &[
        ("sip", PayloadType::SIP.0),
        ("xmpp", PayloadType::XMPP.0),
        ("sdp", PayloadType::SDP.0),
        ("rtp", PayloadType::RTP.0),
        ("rtcp", PayloadType::RTCP.0),
        ("rest", PayloadType::REST.0),
        ("event", PayloadType::CONNECTION_EVENT.0),
        ("log", PayloadType::LOG.0),
    ];

    fn from_number(number: u64) -> Option<Self> {
        u8::try_from(number).ok().map(Self)
    }
}

#[derive(Debug)]
struct FileCaptureId(u32);

impl Numbered for FileCaptureId {
    const EXPECTED: &'static str = "a capture id: a number up to 4294967295";
    const NAMES: &'static [(&'static str, u8)] = &[];

    fn from_number(number: u64) -> Option<Self> {
        u32::try_from(number).ok().map(Self)
    }
}

/// One of them, or a list.
#[derive(Debug)]
struct Numbers<T>(Vec<T>);

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Numbered> Deserialize<'de> for Numbers<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One<T>(PhantomData<T>);
        struct Many<T>(PhantomData<T>);
        struct Item<T>(T);

        impl<'de, T: Numbered> Deserialize<'de> for Item<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(One(PhantomData)).map(Self)
            }
        }

        impl<T: Numbered> Visitor<'_> for One<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
                T::from_number(number)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                let found = T::NAMES.iter().find(|(name, _)| *name == text);
                found
                    .and_then(|(_, number)| T::from_number(u64::from(*number)))
                    .ok_or_else(|| E::custom(format!("`{text}` is not {}", T::EXPECTED)))
            }
        }

        impl<'de, T: Numbered> Visitor<'de> for Many<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}; or a list of those", T::EXPECTED)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<T>, E> {
                One(PhantomData).visit_u64(number).map(|item| vec![item])
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
                One(PhantomData).visit_str(text).map(|item| vec![item])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(Item(item)) = items.next_element()? {
                    list.push(item);
                }
                Ok(list)
            }
        }

        deserializer.deserialize_any(Many(PhantomData)).map(Self)
    }
}

impl FileHep {
    pub(super) fn validate(
        section: Option<Self>,
        listeners: &[Listener],
        trace: &Trace,
        check: &mut Check<'_>,
    ) -> Hep {
        let path = KeyPath::new(&["hep"]);
        refuse_loops(listeners, &trace.destinations, check);
        if !listeners.iter().any(|listener| listener.hep) {
            if section.is_some() {
                let message =
                    "has no effect: there is no listener for HEP (`hep_udp://`, `hep_tcp://`, `hep_tls://`)";
                check.warn(path.clone(), message);
            }
        } else if trace.destinations.is_empty() {
            check.warn(path.clone(), "what is received goes nowhere: there are no `trace.destinations`");
        }
        let file = section.unwrap_or_default();
        if file.from.is_none() && file.auth_key.is_none() {
            let open = listeners.iter().position(|listener| listener.hep && !listener.is_loopback());
            if let Some(index) = open {
                let message = "takes HEP of everybody with a private address, as `hep` has neither `from` nor \
                               `auth_key`: they can put anything into the trace";
                check.warn(KeyPath::new(&["listeners"]).index(index).key("uri"), message);
            }
        }
        if file.from.as_ref().is_some_and(Vec::is_empty) {
            check.error(path.clone().key("from"), "is empty: nobody could send anything");
        }
        if !(MIN_PACKET..=MAX_PACKET).contains(&file.packet_size) {
            let message =
                format!("is {} bytes, and goes from {MIN_PACKET} to {MAX_PACKET}", file.packet_size);
            check.error(path.clone().key("packet_size"), message);
        }
        let private = || PRIVATE.iter().filter_map(|network| network.parse().ok()).collect();
        let auth_key = file.auth_key.and_then(|key| check.secret(key, &path.clone().key("auth_key")));
        let receiver = ReceiverSettings {
            from: file.from.unwrap_or_else(private),
            auth_key: auth_key.map(|key| key.reveal().as_bytes().to_vec().into()),
            time_order: file.time_order.0.0,
            frame: FrameLimits {
                max_msg_chunks: u32::try_from(file.hep_max_msg_chunks).unwrap_or(u32::MAX),
                max_packet: file.packet_size,
            },
            packet_timeout: file.packet_timeout,
        };
        let rules = file.filter.into_iter().enumerate().map(|(index, rule)| {
            rule.validate(listeners, trace, &path.clone().key("filter").index(index), check)
        });
        let filter = rules.collect();
        Hep { receiver, filter }
    }
}

impl FileRule {
    fn validate(
        self,
        listeners: &[Listener],
        trace: &Trace,
        path: &KeyPath,
        check: &mut Check<'_>,
    ) -> HepRule {
        let forward = match self.forward.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["all"] => Forward::All,
            ["none"] => Forward::None,
            _ => {
                if self.forward.is_empty() {
                    check.error(path.clone().key("forward"), "is empty: `none` drops what the rule matches");
                }
                for name in &self.forward {
                    if !trace.destinations.iter().any(|destination| destination.name == *name) {
                        let message = format!(
                            "there is no `{name}` in trace.destinations; `all` is all of them, `none` drops, each alone"
                        );
                        check.error(path.clone().key("forward"), message);
                    }
                }
                Forward::To(self.forward)
            }
        };
        let listener = self.listener.map(|Parsed(FileListenerUri(uri))| uri);
        if let Some(uri) = &listener
            && !listeners.iter().any(|listener| listener.hep && listener.to_string() == *uri)
        {
            check.error(path.clone().key("listener"), format!("there is no listener `{uri}` for HEP"));
        }
        HepRule {
            forward,
            remote: self.remote.map(|Parsed(network)| network),
            listener,
            transport: self.transport.into_iter().map(|FileTransport(transport)| transport).collect(),
            protocol: self.protocol.0.into_iter().map(|FileProtocol(number)| number).collect(),
            payload_type: self
                .payload_type
                .0
                .into_iter()
                .map(|FilePayloadType(number)| PayloadType(number))
                .collect(),
            capture_id: self.capture_id.0.into_iter().map(|FileCaptureId(id)| id).collect(),
        }
    }
}

/// A destination that is one of our own listeners would get everything again and again.
fn refuse_loops(listeners: &[Listener], destinations: &[DestinationSettings], check: &mut Check<'_>) {
    for destination in destinations {
        let uri = &destination.uri;
        let own = listeners.iter().find(|listener| {
            let udp = listener.transport == ListenerTransport::Udp;
            listener.hep
                && listener.port == uri.port
                && udp == (uri.transport == HepTransport::Udp)
                && leads_to(&uri.host, listener)
        });
        if let Some(own) = own {
            let message = format!("is our own listener `{own}`: what it gets would go round for ever");
            check.error(KeyPath::new(&["trace", "destinations", &destination.name, "uri"]), message);
        }
    }
}

/// Whether who connects to `host` gets to a socket on `listener`, as far as that is known without a resolver and
/// the machine's addresses. (For the rest a packet's source tells, when it has come back.)
fn leads_to(host: &str, listener: &Listener) -> bool {
    let ip = |name: &str| match name.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_canonical()),
        Err(_) if name.eq_ignore_ascii_case("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
        Err(_) => None,
    };
    let (to, at) = match &listener.host {
        Host::Ip(at) => (ip(host), Some(at.to_canonical())),
        Host::Name(name) if name.eq_ignore_ascii_case(host) => return true,
        Host::Name(name) => (ip(host), ip(name)),
    };
    let (Some(to), Some(at)) = (to, at) else { return false };
    // Connecting to the unspecified address is connecting to this machine.
    let here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let of_family = to.is_ipv4() == at.is_ipv4() || to.is_ipv4() && !listener.ipv6_only;
    to == at || of_family && here(to) && (at.is_unspecified() || to.is_unspecified() && at.is_loopback())
}
