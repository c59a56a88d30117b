//! `outbound`: which addresses this relay connects to.
//!
//! A relay dials what a path tells it, and a path comes from a client. Without a policy, a client can reach
//! through the relay what it cannot reach itself: `examples/outbound-public.yaml` has one for the public network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use msrp_proto::uri::Scheme;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tcp_transport::DialOptions;

use super::Check;
use super::connections::{Destination, Dial, FileDestination, FileDial, Tcp, addresses};
use super::error::KeyPath;
use super::form;
use super::limits::Timeouts;
use super::listener::{Listener, parse_scheme};
use super::value::{Host, from_text, port_number};

/// Nobody's address: multicast, "this network" (which Linux takes for its own loopback), broadcast.
const ALWAYS_DENIED: [(IpAddr, u8); 5] = [
    (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::BROADCAST), 32),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// Which addresses this relay connects to: every one, except
///
/// - over a scheme that is not in `schemes`,
/// - in the networks of `deny`, and
/// - multicast, unspecified and broadcast addresses, which are nobody's,
///
/// where the last ones give way to the networks of `allow`. A relay that is reached from outside and has neither
/// `allow` nor `deny` gets a warning. Of several networks that an address is in, the one
/// with the longest prefix decides; of equally long ones, one with ports; then `deny` before `allow`, before what
/// is built in. So `deny: ["0.0.0.0/0", "::/0"], allow: ["10.0.0.0/8"]` connects to 10.0.0.0/8 only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundPolicy {
    schemes: Vec<Scheme>,
    rules: Vec<Rule>,
}

/// Why a connection is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The scheme is not in `outbound.schemes`.
    #[error("outbound.schemes does not list {0}")]
    Scheme(Scheme),
    /// The address is in a denied network.
    #[error("{address} is in {network}, denied by {by}")]
    Network {
        /// The address that was to be dialled.
        address: SocketAddr,
        /// The network that decided.
        network: Network,
        /// Where that network is listed.
        by: &'static str,
    },
}

impl OutboundPolicy {
    /// Whether a connection of `scheme` to `address` may be opened. To be asked for each address a name resolves
    /// to, right before it is dialled.
    pub fn permits(&self, scheme: Scheme, address: SocketAddr) -> Result<(), Denied> {
        if !self.schemes.contains(&scheme) {
            return Err(Denied::Scheme(scheme));
        }
        let decisive = self
            .rules
            .iter()
            .filter(|rule| rule.network.contains(address))
            .max_by_key(|rule| (rule.network.prefix, rule.network.ports.is_some(), rule.verdict));
        match decisive {
            None | Some(Rule { verdict: Verdict::Allow, .. }) => Ok(()),
            Some(Rule { verdict: Verdict::Deny, network }) => {
                Err(Denied::Network { address, network: network.clone(), by: "outbound.deny" })
            }
            Some(Rule { verdict: Verdict::DenyByDefault, network }) => {
                Err(Denied::Network { address, network: network.clone(), by: "default" })
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    network: Network,
    verdict: Verdict,
}

/// In the order in which one gives way to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    DenyByDefault,
    Allow,
    Deny,
}

/// A network, with or without ports: `10.0.0.0/8`, `192.0.2.1:2855`, `[2001:db8::]/32:2855-2900`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
    ports: Option<RangeInclusive<u16>>,
}

impl Network {
    /// Whether `address` is in it. An IPv4-mapped IPv6 address is the IPv4 address.
    pub fn contains(&self, address: SocketAddr) -> bool {
        let same_network = match (self.address, address.ip().to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (network.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                (network.to_bits() ^ ip.to_bits()).leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        };
        same_network && self.ports.as_ref().is_none_or(|ports| ports.contains(&address.port()))
    }

    /// The address with the bits after the prefix cleared.
    fn base(&self) -> IpAddr {
        let prefix = u32::from(self.prefix);
        match self.address {
            IpAddr::V4(ip) => {
                Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0)).into()
            }
            IpAddr::V6(ip) => {
                Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(128 - prefix).unwrap_or(0)).into()
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Host::Ip(self.address), self.prefix)?;
        match &self.ports {
            Some(ports) if ports.start() == ports.end() => write!(f, ":{}", ports.start()),
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end()),
            None => Ok(()),
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, rest) = split_address(text)?;
        let (prefix, ports) = match rest.split_once(':') {
            Some((prefix, ports)) => (prefix, Some(port_range(ports)?)),
            None => (rest, None),
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix.strip_prefix('/') {
            None if prefix.is_empty() => longest,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
                Ok(prefix) if prefix <= longest => prefix,
                _ => return Err(format!("`{digits}` is not a prefix length, those are 0 to {longest}")),
            },
            _ => return Err(not_a_network(text)),
        };
        let network = Self { address, prefix, ports };
        if network.base() == address {
            Ok(network)
        } else {
            let meant = Self { address: network.base(), ..network };
            Err(format!("`{text}` has bits set after its prefix, did you mean `{meant}`?"))
        }
    }
}

/// The address, and what follows it. An IPv6 address needs brackets only in front of a port.
fn split_address(text: &str) -> Result<(IpAddr, &str), String> {
    let (address, rest) = match text.strip_prefix('[') {
        Some(text) => text.split_once(']').ok_or_else(|| not_a_network(text))?,
        None if text.matches(':').count() > 1 => text.split_at(text.find('/').unwrap_or(text.len())),
        None => text.split_at(text.find(['/', ':']).unwrap_or(text.len())),
    };
    let ip: IpAddr = address.parse().map_err(|_| not_a_network(text))?;
    Ok((ip, rest))
}

fn not_a_network(text: &str) -> String {
    format!("`{text}` is not a network, such as `10.0.0.0/8` or `[2001:db8::]/32:2855`")
}

pub(super) fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port_number(first)?, port_number(last)?);
    if first <= last { Ok(first..=last) } else { Err(format!("`{text}` ends before it begins")) }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a network, such as `10.0.0.0/8`")
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileOutbound {
    /// By which schemes. Empty: it forwards only between those who connect to it.
    #[schemars(with = "Vec<form::DialScheme>", extend("default" = ["msrp", "msrps"]))]
    schemes: Vec<FileScheme>,
    /// Opens what is closed by default, or within `deny`.
    #[schemars(with = "Vec<form::Network>", extend("default" = []))]
    allow: Vec<Network>,
    /// Where it does not connect to.
    #[schemars(with = "Vec<form::Network>", extend("default" = []))]
    deny: Vec<Network>,
    /// Where connections come from, one address for each family. Default: the system chooses.
    #[serde(deserialize_with = "addresses")]
    #[schemars(with = "form::OneOrMany<form::IpAddress>")]
    bind_address: Option<Vec<IpAddr>>,
    /// And from which port: that of a listener with `reuse_port`, or a free one. Default: the system chooses.
    #[schemars(range(min = 1))]
    source_port: Option<u16>,
    /// Whether only connections that others open are used.
    no_new_connections: bool,
    /// The same for some networks: the first one that an address is in counts.
    destinations: Vec<FileDestination>,
}

impl Default for FileOutbound {
    fn default() -> Self {
        let schemes = [Scheme::Msrp, Scheme::Msrps].map(FileScheme).into();
        Self {
            schemes,
            allow: Vec::new(),
            deny: Vec::new(),
            bind_address: None,
            source_port: None,
            no_new_connections: false,
            destinations: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct FileScheme(Scheme);

impl FromStr for FileScheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_scheme(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for FileScheme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a scheme, `msrp` or `msrps`")
    }
}

impl FileOutbound {
    /// How connections are opened.
    pub(super) fn dial(
        &self,
        listeners: &[Listener],
        tcp: &Tcp,
        timeouts: &Timeouts,
        check: &mut Check<'_>,
    ) -> Dial {
        let path = KeyPath::new(&["outbound"]);
        let own = FileDial {
            connect_timeout: Some(timeouts.connect_timeout),
            bind_address: self.bind_address.as_ref(),
            source_port: self.source_port,
            no_new_connections: Some(self.no_new_connections),
            tcp: None,
        };
        let default = own.over(&DialOptions::default(), tcp, listeners, &path, check);
        let destinations = self.destinations.iter().enumerate().map(|(index, destination)| {
            let path = path.clone().key("destinations").index(index);
            if destination.to.is_empty() {
                check.error(path.clone().key("to"), "is empty");
            }
            let dial = destination.dial().over(&default, tcp, listeners, &path, check);
            Destination { to: destination.to.clone(), dial: dial.into() }
        });
        let destinations = destinations.collect();
        Dial { default, destinations }
    }

    pub(super) fn validate(self, listeners: &[Listener], check: &mut Check<'_>) -> OutboundPolicy {
        let reached_from_outside =
            listeners.iter().any(|listener| !listener.hep && !is_loopback(&listener.host));
        let silent = self.allow.is_empty() && self.deny.is_empty() && !self.schemes.is_empty();
        if reached_from_outside && silent {
            let message = "has no `allow` or `deny`: whoever has a session makes this relay connect to any address, \
                           this machine's and its network's included; examples/outbound-public.yaml has rules \
                           against that (`allow: [\"0.0.0.0/0\", \"::/0\"]` if it is meant)";
            check.warn(KeyPath::new(&["outbound"]), message);
        }
        if self.schemes.is_empty() {
            let message =
                "is empty: the relay connects to nobody, and forwards only between those who connect to it";
            check.warn(KeyPath::new(&["outbound", "schemes"]), message);
        }
        let built_in = ALWAYS_DENIED.into_iter().map(|(address, prefix)| Rule {
            network: Network { address, prefix, ports: None },
            verdict: Verdict::DenyByDefault,
        });
        let allow = self.allow.into_iter().map(|network| Rule { network, verdict: Verdict::Allow });
        let deny = self.deny.into_iter().map(|network| Rule { network, verdict: Verdict::Deny });
        OutboundPolicy {
            schemes: self.schemes.into_iter().map(|FileScheme(scheme)| scheme).collect(),
            rules: built_in.chain(allow).chain(deny).collect(),
        }
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => ip.to_canonical().is_loopback(),
        Host::Name(name) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn policy(listen: &str, allow: &[&str], deny: &[&str]) -> OutboundPolicy {
        let networks = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let file = FileOutbound { allow: networks(allow), deny: networks(deny), ..FileOutbound::default() };
        file.validate(&[Listener::for_test(listen, 2855)], &mut Check::new(Path::new("")))
    }

    fn permits(policy: &OutboundPolicy, address: &str) -> bool {
        policy.permits(Scheme::Msrps, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn networks_read_back_as_shown() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "[::]/0"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.1:2855", "192.0.2.1/32:2855"),
            ("10.0.0.0/8:2855-2900", "10.0.0.0/8:2855-2900"),
            ("2001:db8::/32", "[2001:db8::]/32"),
            ("[2001:db8::]/32:2855", "[2001:db8::]/32:2855"),
            ("[::1]:2855", "[::1]/128:2855"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), shown);
            assert_eq!(shown.parse(), Ok(network));
        }
        let bad = "|/8|10/8|10.0.0.0/33|10.0.0.0/|10.0.0.0/+8|10.0.0.0/8:|10.0.0.0/8:2-1|[::1|::/129|a.test|1.2.3.4/8/8";
        for text in bad.split('|') {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        assert!("10.1.2.3/8".parse::<Network>().unwrap_err().contains("did you mean `10.0.0.0/8`"));
        assert!("2001:db8::1/32".parse::<Network>().unwrap_err().contains("did you mean `[2001:db8::]/32`"));
    }

    #[test]
    fn every_address_is_dialled_by_default_that_is_somebodys() {
        let policy = policy("0.0.0.0", &[], &[]);
        for address in [
            "192.0.2.1:2855",
            "10.0.0.1:1",
            "127.0.0.1:22",
            "169.254.169.254:80",
            "[2001:db8::1]:2855",
            "[fd00::1]:2855",
            "[::1]:22",
            "[fe80::1]:2855",
        ] {
            assert!(permits(&policy, address), "{address}");
        }
        for address in [
            "0.0.0.0:2855",
            "0.1.2.3:2855",
            "224.0.0.1:2855",
            "239.255.255.255:2855",
            "255.255.255.255:2855",
            "[::]:2855",
            "[::ffff:0.0.0.0]:22",
            "[ff02::1]:2855",
        ] {
            assert!(!permits(&policy, address), "{address}");
        }
    }

    #[test]
    fn a_relay_reached_from_outside_is_warned_of_having_no_rules() {
        let warnings = |listen: &str, allow: &[&str], schemes: usize| {
            let mut check = Check::new(Path::new(""));
            let allow = allow.iter().map(|text| text.parse().unwrap()).collect();
            let mut file = FileOutbound { allow, ..FileOutbound::default() };
            file.schemes.truncate(schemes);
            file.validate(&[Listener::for_test(listen, 2855)], &mut check);
            check.warnings.iter().filter(|warning| warning.message.contains("outbound-public.yaml")).count()
        };
        assert_eq!(warnings("0.0.0.0", &[], 2), 1);
        assert_eq!(warnings("relay.test", &[], 2), 1);
        for listen in ["127.0.0.1", "::1", "localhost"] {
            let host = if listen == "::1" { "[::1]" } else { listen };
            assert_eq!(warnings(host, &[], 2), 0, "{listen}: only this machine reaches it");
        }
        assert_eq!(warnings("0.0.0.0", &["0.0.0.0/0"], 2), 0, "it is meant");
        assert_eq!(warnings("0.0.0.0", &[], 0), 0, "it dials nobody");
    }

    #[test]
    fn the_ready_rules_close_what_is_not_public() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/outbound-public.yaml");
        let config = super::super::Config::load(&file).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!config.warnings.iter().any(|warning| warning.key.starts_with("outbound")));
        for address in [
            "127.0.0.1:22",
            "10.0.0.1:2855",
            "172.16.0.1:2855",
            "172.31.255.255:1",
            "192.168.0.1:2855",
            "169.254.169.254:80",
            "100.64.0.1:2855",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "198.18.0.1:1",
            "[::1]:22",
            "[fe80::1]:2855",
            "[fd00::1]:2855",
            "[ff02::1]:1",
            "[::ffff:127.0.0.1]:22",
            "[64:ff9b::7f00:1]:22",
            "[2002:7f00:1::]:22",
        ] {
            assert!(!permits(&config.outbound, address), "{address}");
        }
        for address in ["8.8.8.8:2855", "172.32.0.1:2855", "[2a00::1]:2855"] {
            assert!(permits(&config.outbound, address), "{address}");
        }
        assert!(!permits(&config.outbound, "8.8.8.8:25"), "ports below 1024 are other services");
        assert!(permits(&config.outbound, "8.8.8.8:443"));
    }

    #[test]
    fn allow_opens_what_is_closed_by_default_and_only_by_naming_it() {
        let named = policy("0.0.0.0", &["224.0.0.0/8", "0.0.0.1:2855"], &[]);
        assert!(permits(&named, "224.1.1.1:1") && permits(&named, "0.0.0.1:2855"));
        assert!(!permits(&named, "0.0.0.1:22") && !permits(&named, "0.0.0.2:2855"));
        let everything = policy("0.0.0.0", &["0.0.0.0/0"], &[]);
        assert!(!permits(&everything, "0.0.0.1:2855"));
    }

    #[test]
    fn the_longest_prefix_decides_then_ports_then_deny() {
        let only_ten = policy("0.0.0.0", &["10.0.0.0/8"], &["0.0.0.0/0", "::/0", "10.6.6.0/24"]);
        assert!(permits(&only_ten, "10.0.0.1:2855"));
        assert!(!permits(&only_ten, "10.6.6.1:2855"));
        assert!(!permits(&only_ten, "192.0.2.1:2855"));
        assert!(!permits(&only_ten, "[2001:db8::1]:2855"));

        let one_port = policy("0.0.0.0", &["10.0.0.0/8:2855-2856"], &["10.0.0.0/8"]);
        assert!(permits(&one_port, "10.0.0.1:2855") && permits(&one_port, "10.0.0.1:2856"));
        assert!(!permits(&one_port, "10.0.0.1:2857"));

        let contradiction = policy("0.0.0.0", &["10.0.0.0/8"], &["10.0.0.0/8"]);
        assert!(!permits(&contradiction, "10.0.0.1:2855"));
    }

    #[test]
    fn a_refusal_says_which_rule_it_was() {
        let policy = policy("0.0.0.0", &[], &["10.0.0.0/8:22"]);
        let refusal =
            |address: &str| policy.permits(Scheme::Msrp, address.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(refusal("10.0.0.1:22"), "10.0.0.1:22 is in 10.0.0.0/8:22, denied by outbound.deny");
        assert_eq!(refusal("[ff02::1]:22"), "[ff02::1]:22 is in [ff00::]/8, denied by default");

        let tls_only = OutboundPolicy { schemes: vec![Scheme::Msrps], ..policy.clone() };
        let address = "192.0.2.1:2855".parse().unwrap();
        assert_eq!(tls_only.permits(Scheme::Msrp, address), Err(Denied::Scheme(Scheme::Msrp)));
        assert_eq!(tls_only.permits(Scheme::Msrps, address), Ok(()));
    }
}
