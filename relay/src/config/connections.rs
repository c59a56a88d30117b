//! `tcp` and `events`: what is common to all connections, whatever they carry.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tcp_transport::event::DEFAULT_EVENT_QUEUE;
use tcp_transport::{DialOptions, Dscp, KeepAlive, Reporting, SocketOptions, Source};

use super::Check;
use super::error::KeyPath;
use super::form;
use super::listener::Listener;
use super::outbound::Network;
use super::value::{count, duration, one_or_many, optional_count};

/// Keep-alive where nothing else is said: after how long without a byte the peer's kernel is asked. A phone that is out of reach for some minutes keeps
/// its session; one that is gone for good holds its descriptor for a quarter of an hour.
pub const DEFAULT_KEEPALIVE: KeepAlive =
    KeepAlive { idle: Duration::from_secs(10 * 60), count: 5, interval: Duration::from_secs(60) };

/// The longest queue of events. See [`EventSettings::queue`].
const MAX_EVENT_QUEUE: usize = 1024 * 1024;

/// What is set on TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// How long one may be idle.
    pub lifetime: Duration,
    /// The options of its socket.
    pub socket: SocketOptions,
}

/// `tcp`: of all connections; of a listener's or a destination's, whatever is not said there is as for all.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileTcp {
    /// Idle for so long, a connection is closed. Default: `timeouts.idle_timeout`.
    #[serde(deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration")]
    lifetime: Option<Duration>,
    /// Whether the kernel asks a silent peer whether it is there.
    #[schemars(extend("default" = true))]
    keepalive: Option<bool>,
    /// After so long without a byte, in whole seconds up to 32767 s,
    #[serde(deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration", extend("default" = DEFAULT_KEEPALIVE.idle))]
    keepidle: Option<Duration>,
    /// and again after so long, likewise,
    #[serde(deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration", extend("default" = DEFAULT_KEEPALIVE.interval))]
    keepinterval: Option<Duration>,
    /// and gives up after so many questions, up to 127.
    #[serde(deserialize_with = "optional_count")]
    #[schemars(with = "form::Count", extend("default" = DEFAULT_KEEPALIVE.count))]
    keepcount: Option<usize>,
    /// Whether small messages leave at once.
    #[schemars(extend("default" = true))]
    nodelay: Option<bool>,
    /// What marks its packets, in IPv4 and IPv6. Default: as the system does.
    #[schemars(range(max = 63))]
    dscp: Option<u8>,
}

impl FileTcp {
    /// Of all connections, which may be idle for `idle_timeout` unless it says otherwise.
    pub(super) fn validate(&self, idle_timeout: Duration, check: &mut Check<'_>) -> Tcp {
        let socket = SocketOptions { nodelay: true, dscp: None, keepalive: Some(DEFAULT_KEEPALIVE) };
        let base = Tcp { lifetime: idle_timeout, socket };
        self.over(&base, &KeyPath::new(&["tcp"]), check)
    }

    /// `base`, with what is said here.
    pub(super) fn over(&self, base: &Tcp, path: &KeyPath, check: &mut Check<'_>) -> Tcp {
        let KeepAlive { idle, count, interval } = base.socket.keepalive.unwrap_or(DEFAULT_KEEPALIVE);
        for (key, value) in [("keepidle", self.keepidle), ("keepinterval", self.keepinterval)] {
            if value.is_some_and(|value| value.subsec_nanos() > 0 || value.as_secs() > 32_767) {
                check.error(path.clone().key(key), "goes from 1s to 32767s, in whole seconds");
            }
        }
        if self.keepcount.is_some_and(|count| count > 127) {
            check.error(path.clone().key("keepcount"), "goes from 1 to 127");
        }
        let keepalive = KeepAlive {
            idle: self.keepidle.unwrap_or(idle),
            count: self.keepcount.and_then(|count| u32::try_from(count).ok()).unwrap_or(count),
            interval: self.keepinterval.unwrap_or(interval),
        };
        let on = self.keepalive.unwrap_or(base.socket.keepalive.is_some());
        if self.keepalive == Some(false)
            && (self.keepidle.is_some() || self.keepinterval.is_some() || self.keepcount.is_some())
        {
            check
                .warn(path.clone().key("keepalive"), "is false, so what else is said about it has no effect");
        }
        let dscp = match self.dscp {
            None => base.socket.dscp,
            Some(value) => {
                let dscp = Dscp::new(value);
                if dscp.is_none() {
                    check.error(path.clone().key("dscp"), format!("is {value}, and goes from 0 to 63"));
                }
                dscp
            }
        };
        let socket = SocketOptions {
            nodelay: self.nodelay.unwrap_or(base.socket.nodelay),
            dscp,
            keepalive: on.then_some(keepalive),
        };
        Tcp { lifetime: self.lifetime.unwrap_or(base.lifetime), socket }
    }
}

/// As [`duration`], for a key that may be left out.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// How connections are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// Where no destination says otherwise.
    pub default: DialOptions,
    /// The first that an address is in counts.
    pub destinations: Vec<Destination>,
}

/// How connections to some networks are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The networks, with or without ports.
    pub to: Vec<Network>,
    /// How.
    pub dial: Arc<DialOptions>,
}

impl Dial {
    /// How connections to this address are opened, if not as by default.
    pub fn to(&self, address: std::net::SocketAddr) -> Option<&Arc<DialOptions>> {
        let destination =
            self.destinations.iter().find(|destination| destination.to.iter().any(|to| to.contains(address)));
        destination.map(|destination| &destination.dial)
    }
}

/// What `outbound` and its destinations have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileDial<'a> {
    pub(super) connect_timeout: Option<Duration>,
    pub(super) bind_address: Option<&'a Vec<IpAddr>>,
    pub(super) source_port: Option<u16>,
    pub(super) no_new_connections: Option<bool>,
    pub(super) tcp: Option<&'a FileTcp>,
}

impl FileDial<'_> {
    /// `base`, with what is said here.
    pub(super) fn over(
        &self,
        base: &DialOptions,
        tcp: &Tcp,
        listeners: &[Listener],
        path: &KeyPath,
        check: &mut Check<'_>,
    ) -> DialOptions {
        let own = self.tcp.map_or(*tcp, |own| own.over(tcp, &path.clone().key("tcp"), check));
        let not_shared =
            |port| listeners.iter().any(|listener| listener.port == port && !listener.reuse_port);
        if self.source_port == Some(0) {
            check.error(path.clone().key("source_port"), "goes from 1 to 65535");
        } else if self.source_port.is_some_and(not_shared) {
            let message = "is the port of a listener that lacks `reuse_port: true`";
            check.error(path.clone().key("source_port"), message);
        }
        DialOptions {
            no_new_connections: self.no_new_connections.unwrap_or(base.no_new_connections),
            connect_timeout: self.connect_timeout.unwrap_or(base.connect_timeout),
            source: Source {
                addresses: self.bind_address.unwrap_or(&base.source.addresses).clone(),
                port: self.source_port.or(base.source.port),
            },
            socket: own.socket,
            lifetime: Some(own.lifetime),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileDestination {
    /// The networks, with or without ports.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::Network>")]
    pub(super) to: Vec<Network>,
    /// As `timeouts.connect_timeout`, for them. Default: that one.
    #[serde(default, deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration")]
    connect_timeout: Option<Duration>,
    /// As `outbound.bind_address`, for them. Default: that one.
    #[serde(default, deserialize_with = "addresses")]
    #[schemars(with = "form::OneOrMany<form::IpAddress>")]
    bind_address: Option<Vec<IpAddr>>,
    /// As `outbound.source_port`, for them. Default: that one.
    #[serde(default)]
    #[schemars(range(min = 1))]
    source_port: Option<u16>,
    /// As `outbound.no_new_connections`, for them. Default: that one.
    #[serde(default)]
    no_new_connections: Option<bool>,
    /// As the section [`tcp`](#tcp), for them.
    #[serde(default)]
    #[schemars(extend("x-as" = "tcp"))]
    tcp: Option<FileTcp>,
}

impl FileDestination {
    pub(super) fn dial(&self) -> FileDial<'_> {
        FileDial {
            connect_timeout: self.connect_timeout,
            bind_address: self.bind_address.as_ref(),
            source_port: self.source_port,
            no_new_connections: self.no_new_connections,
            tcp: self.tcp.as_ref(),
        }
    }
}

/// One address or several, for a key that may be left out.
pub(super) fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IpAddr>>, D::Error> {
    one_or_many(deserializer).map(Some)
}

/// `events`: what is told of connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventSettings {
    /// Which connections are told of. `marked`: those that an operator has marked.
    #[schemars(with = "form::ClosedEvent", extend("default" = "all"))]
    pub closed_event: ClosedEvent,
    /// How many events may wait for a slow subscriber before it loses the oldest, rounded up to a power of two;
    /// at most 1 048 576. Their places are taken from the start, about 32 bytes each. Default 4096.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub queue: usize,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { closed_event: ClosedEvent(Reporting::All), queue: DEFAULT_EVENT_QUEUE }
    }
}

impl EventSettings {
    /// Refuses a queue that would take the memory of the process.
    pub(super) fn validate(&self, check: &mut Check<'_>) {
        if self.queue > MAX_EVENT_QUEUE {
            let message = format!("is {}, and goes from 1 to {MAX_EVENT_QUEUE}", self.queue);
            check.error(KeyPath::new(&["events", "queue"]), message);
        }
    }
}

/// tcpops' `closed_event`: `none`, `all` or `marked`, or its 0, 1, 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedEvent(pub Reporting);

impl FromStr for ClosedEvent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(Reporting::None)),
            "all" => Ok(Self(Reporting::All)),
            "marked" => Ok(Self(Reporting::Marked)),
            _ => Err(format!("`{text}` is none of `none`, `all` and `marked`")),
        }
    }
}

impl<'de> Deserialize<'de> for ClosedEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = ClosedEvent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `all` or `marked` (or 0, 1, 2)")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ClosedEvent, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<ClosedEvent, E> {
                match number {
                    0 => Ok(ClosedEvent(Reporting::None)),
                    1 => Ok(ClosedEvent(Reporting::All)),
                    2 => Ok(ClosedEvent(Reporting::Marked)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Unsigned(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn config(listener: &str, rest: &str) -> Config {
        let text = format!(
            "domain: relay.test\nlisteners: [ {{ uri: \"msrp://127.0.0.1:2855\"{listener} }} ]\n{rest}"
        );
        Config::parse(&text, Path::new("/nonexistent"), "relay.yaml")
            .unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    fn refused(listener: &str, rest: &str) -> String {
        let text = format!(
            "domain: relay.test\nlisteners: [ {{ uri: \"msrp://127.0.0.1:2855\"{listener} }} ]\n{rest}"
        );
        Config::parse(&text, Path::new("/nonexistent"), "relay.yaml").expect_err(&text).to_string()
    }

    #[test]
    fn what_is_said_nearer_counts() {
        let config = config(
            ", tcp: { dscp: 34, lifetime: 5m }",
            "tcp: { nodelay: false, dscp: 26, keepidle: 30s }\ntimeouts: { idle_timeout: 20m, connect_timeout: 2s }\n\
             outbound:\n  bind_address: 192.0.2.7\n  destinations:\n    - { to: '10.0.0.0/8:2855', connect_timeout: 1s, no_new_connections: true, tcp: { keepalive: false } }\n    - { to: ['10.0.0.0/8', '::/0'], bind_address: ['::1', 10.0.0.1], source_port: 4711 }\n",
        );
        assert!(!config.tcp.socket.nodelay);
        assert_eq!(config.tcp.lifetime, Duration::from_secs(1200));
        assert_eq!(config.tcp.socket.dscp, Dscp::new(26));
        assert_eq!(config.tcp.socket.keepalive.unwrap().idle, Duration::from_secs(30));
        assert_eq!(config.tcp.socket.keepalive.unwrap().interval, DEFAULT_KEEPALIVE.interval);

        let listener = &config.listeners[0].tcp;
        assert_eq!((listener.lifetime, listener.socket.dscp), (Duration::from_secs(300), Dscp::new(34)));
        assert!(!listener.socket.nodelay, "as for all");

        let to = |address: &str| config.dial.to(address.parse().unwrap());
        let default = &config.dial.default;
        assert_eq!((default.connect_timeout, default.source.addresses.len()), (Duration::from_secs(2), 1));
        assert_eq!(default.lifetime, Some(Duration::from_secs(1200)));
        assert!(to("192.0.2.1:2855").is_none());
        let first = to("10.0.0.1:2855").unwrap();
        assert!(first.no_new_connections && first.socket.keepalive.is_none());
        assert_eq!((first.connect_timeout, &first.source), (Duration::from_secs(1), &default.source));
        let second = to("10.0.0.1:2856").unwrap();
        assert_eq!((second.source.addresses.len(), second.source.port), (2, Some(4711)));
        assert!(!second.no_new_connections && second.socket.keepalive.is_some());
        assert!(to("[2001:db8::1]:1").is_some());
    }

    #[test]
    fn defaults_are_those_documented() {
        let config = config("", "");
        assert!(config.tcp.socket.nodelay && config.tcp.socket.dscp.is_none());
        let keepalive = config.tcp.socket.keepalive.unwrap();
        assert_eq!((keepalive.idle.as_secs(), keepalive.interval.as_secs(), keepalive.count), (600, 60, 5));
        assert_eq!(config.tcp.lifetime, config.timeouts.idle_timeout);
        let listener = &config.listeners[0];
        assert_eq!((listener.max_connections, listener.backlog), (None, 4096));
        assert!(listener.ipv6_only && !listener.reuse_port && listener.proxy_from.is_empty());
        assert_eq!(config.events.closed_event, ClosedEvent(Reporting::All));
        assert_eq!((config.limits.max_connections, config.limits.max_connections_per_address), (None, None));
        assert_eq!(config.limits.max_msg_chunks, None);
        assert!(!config.dial.default.no_new_connections && config.dial.destinations.is_empty());
        assert_eq!(config.threads, std::thread::available_parallelism().unwrap().get());
    }

    #[test]
    fn limits_are_taken_and_what_is_beyond_them_refused() {
        for (dscp, good) in [(0, true), (63, true), (64, false), (255, false)] {
            let rest = format!("tcp: {{ dscp: {dscp} }}\n");
            if good {
                assert_eq!(config("", &rest).tcp.socket.dscp, Dscp::new(dscp));
            } else {
                let found = refused("", &rest);
                assert_eq!(found, format!("relay.yaml:3:14: tcp.dscp: is {dscp}, and goes from 0 to 63"));
            }
        }
        for (threads, good) in [(0, false), (1, true), (1024, true), (1025, false)] {
            let rest = format!("threads: {threads}\n");
            if good {
                assert_eq!(config("", &rest).threads, threads);
            } else {
                assert!(refused("", &rest).contains("3:10: threads: "), "{}", refused("", &rest));
            }
        }
        assert!(refused("", "tcp: { keepcount: 128 }\n").contains("tcp.keepcount: goes from 1 to 127"));
        config("", "tcp: { keepcount: 127, keepidle: 1s, keepinterval: 32767s }\n");
        assert!(refused("", "tcp: { keepidle: 1500ms }\n").contains("tcp.keepidle: goes from 1s"));
        assert!(refused("", "tcp: { keepinterval: 32768s }\n").contains("tcp.keepinterval: goes from 1s"));
        assert!(refused("", "outbound: { source_port: 0 }\n").contains("goes from 1 to 65535"));
        let found = refused("", "outbound: { source_port: 2855 }\n");
        assert!(
            found.contains("3:26: outbound.source_port: is the port of a listener that lacks `reuse_port"),
            "{found}"
        );
        config(", reuse_port: true", "outbound: { source_port: 2855 }\n");
        assert!(refused(", backlog: 0", "").contains("backlog: expected a count of at least 1"));
        assert!(refused(", backlog: 65536", "").contains("backlog: is more than 65535"));
        config(", backlog: 65535, max_connections: 1", "");
        assert!(
            refused(", proxy_from: ['10.0.0.1/8']", "").contains("proxy_from[0]: `10.0.0.1/8` has bits set")
        );
        assert!(refused("", "outbound: { destinations: [ { tcp: {} } ] }\n").contains("missing key `to`"));
    }

    #[test]
    fn closed_event_is_a_word_or_tcpops_number() {
        for (value, reporting) in [
            ("none", Reporting::None),
            ("all", Reporting::All),
            ("marked", Reporting::Marked),
            ("0", Reporting::None),
            ("1", Reporting::All),
            ("2", Reporting::Marked),
        ] {
            assert_eq!(
                config("", &format!("events: {{ closed_event: {value} }}\n")).events.closed_event,
                ClosedEvent(reporting)
            );
        }
        for value in ["3", "some"] {
            assert!(
                refused("", &format!("events: {{ closed_event: {value} }}\n"))
                    .contains("events.closed_event: ")
            );
        }
    }
}
