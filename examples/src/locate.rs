//! Finding a relay (RFC 4976 §8).
//!
//! 1. A host with a port: its addresses, and that port.
//! 2. A domain without a port: the SRV records of `_msrps._tcp`, in the order of RFC 2782.
//! 3. None of these, or an IP address, or `msrp:` (for which no SRV service is defined): the
//!    addresses, and port 2855. The same if DNS does not answer: `/etc/hosts` may know the name.
//!
//! In all cases TLS verifies the host of the URI, never a name out of DNS (RFC 4976 §9.2).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use msrp_proto::uri::{DEFAULT_PORT, MsrpUri, Scheme};
use rand::RngExt as _;

/// How long DNS may take to tell the SRV records: 5 s.
const SRV_TIMEOUT: Duration = Duration::from_secs(5);

/// A relay as users name it: `msrps://relay.example.com`, with or without user, port and `;tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// `msrps` for TLS.
    pub scheme: Scheme,
    /// Who we are there, if it was given with it.
    pub user: Option<String>,
    /// A domain or an address, the latter without brackets.
    pub host: String,
    /// The port, if it was given.
    pub port: Option<u16>,
}

/// Where to dial. Shown as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A name or an address, the latter without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A service record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// Lower ones come first.
    pub priority: u16,
    /// Among those of one priority: how likely it comes first.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host; `.` says that there is no such service.
    pub target: String,
}

/// Where `relay` may be, in the order it is to be tried.
///
/// # Errors
/// The domain says that it has no relay.
pub async fn locate(relay: &RelayAddress) -> anyhow::Result<Vec<Place>> {
    locate_by(relay, srv_records, |max| rand::rng().random_range(0..=max)).await
}

/// The same with another DNS, and with another chance: `random` gives a number from 0 to its
/// argument, inclusive.
///
/// # Errors
/// The domain says that it has no relay.
pub async fn locate_by(
    relay: &RelayAddress,
    srv: impl AsyncFnOnce(&str) -> anyhow::Result<Vec<SrvRecord>>,
    random: impl FnMut(u32) -> u32,
) -> anyhow::Result<Vec<Place>> {
    let host = &relay.host;
    let by_address = |port| vec![Place { host: host.clone(), port }];
    if let Some(port) = relay.port {
        return Ok(by_address(port));
    }
    if relay.scheme == Scheme::Msrp || host.parse::<IpAddr>().is_ok() {
        return Ok(by_address(DEFAULT_PORT));
    }
    let records = srv(&format!("_msrps._tcp.{}.", host.trim_end_matches('.'))).await.unwrap_or_default();
    if records.is_empty() {
        return Ok(by_address(DEFAULT_PORT));
    }
    let offered: Vec<_> = records.into_iter().filter(|record| record.target != ".").collect();
    ensure!(!offered.is_empty(), "{host} says in DNS that it has no MSRP relay");
    let place =
        |record: SrvRecord| Place { host: record.target.trim_end_matches('.').to_owned(), port: record.port };
    Ok(in_order(offered, random).into_iter().map(place).collect())
}

/// The order of RFC 2782: by priority; within one, drawn by weight. `random` gives a number from 0 to
/// its argument, inclusive.
pub fn in_order(mut records: Vec<SrvRecord>, mut random: impl FnMut(u32) -> u32) -> Vec<SrvRecord> {
    // Those of weight 0 in front, so that they have a very small chance.
    records.sort_by_key(|record| (record.priority, record.weight != 0));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let priority = first.priority;
        let among = records.iter().take_while(|record| record.priority == priority);
        let sums: Vec<u32> = among
            .scan(0, |sum, record| {
                *sum += u32::from(record.weight);
                Some(*sum)
            })
            .collect();
        let drawn = random(sums.last().copied().unwrap_or_default());
        let chosen = sums.iter().position(|sum| *sum >= drawn).unwrap_or_default();
        ordered.push(records.remove(chosen));
    }
    ordered
}

async fn srv_records(name: &str) -> anyhow::Result<Vec<SrvRecord>> {
    ask(&TokioResolver::builder_tokio()?.build()?, name).await
}

async fn ask(resolver: &TokioResolver, name: &str) -> anyhow::Result<Vec<SrvRecord>> {
    let lookup = tokio::time::timeout(SRV_TIMEOUT, resolver.srv_lookup(name)).await??;
    let records = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(SrvRecord {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: srv.target.to_ascii(),
        }),
        _ => None,
    });
    Ok(records.collect())
}

impl FromStr for RelayAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let text = text.trim().trim_end_matches('/');
        let uri: MsrpUri = match text.parse() {
            Ok(uri) => uri,
            Err(_) => format!("{text};tcp")
                .parse()
                .context("a relay is named like msrps://relay.example.com:2855")?,
        };
        let uri = uri.as_ref();
        if uri.session_id().is_some() {
            bail!("a relay's address has no session-id");
        }
        ensure!(uri.is_tcp(), "only relays over TCP and TLS can be reached");
        Ok(Self {
            scheme: uri.scheme(),
            user: uri.userinfo().map(str::to_owned),
            host: uri.host().to_owned(),
            port: uri.port(),
        })
    }
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (host, port) = text.rsplit_once(':').context("HOST:PORT is wanted")?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        ensure!(!bare.is_empty() && (bare == host) != bare.contains(':'), "an IPv6 address goes in brackets");
        Ok(Self { host: bare.to_owned(), port: port.parse().context("the port is no port")? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", in_uri(&self.host), self.port)
    }
}

/// A host as it stands in a URI: an IPv6 address in brackets.
pub fn in_uri(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16, target: &str) -> SrvRecord {
        SrvRecord { priority, weight, port: 9000, target: target.into() }
    }

    fn order(records: &[SrvRecord], mut drawn: Vec<u32>) -> String {
        drawn.reverse();
        let random = |max: u32| drawn.pop().unwrap_or_default().min(max);
        let ordered = in_order(records.to_vec(), random);
        ordered.iter().map(|record| record.target.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn priority_comes_before_weight() {
        let records = [record(20, 60_000, "c"), record(10, 1, "a"), record(10, 0, "b")];
        assert_eq!(order(&records, vec![1, 0, 0]), "a b c");
        assert_eq!(order(&records, vec![0, 0, 0]), "b a c");
        assert_eq!(order(&[], vec![]), "");
    }

    #[test]
    fn weight_is_the_chance_to_be_first() {
        // Of RFC 4976 §8: 1 and 2 of weight 1 and 2; the running sums are 1 and 3.
        let records = [record(0, 1, "1"), record(0, 2, "2")];
        let first: Vec<_> = (0..=3).map(|drawn| order(&records, vec![drawn])).collect();
        assert_eq!(first, ["1 2", "1 2", "2 1", "2 1"]);
        let all_zero = [record(0, 0, "a"), record(0, 0, "b")];
        assert_eq!(order(&all_zero, vec![]), "a b");
        let heavy: Vec<_> = (0..100).map(|_| record(0, u16::MAX, "x")).collect();
        assert_eq!(in_order(heavy, |max| max).len(), 100);
    }

    #[test]
    fn what_is_drawn_is_within_the_sum_of_those_that_are_left() {
        let mut sums = Vec::new();
        let records = vec![record(0, 5, "a"), record(0, 7, "b"), record(1, 3, "c")];
        in_order(records, |max| {
            sums.push(max);
            max
        });
        assert_eq!(sums, [12, 5, 3]);
    }

    async fn places(relay: &str, records: &[SrvRecord]) -> String {
        let mut asked = "-".to_owned();
        let dns = async |name: &str| {
            name.clone_into(&mut asked);
            Ok(records.to_vec())
        };
        let found = locate_by(&relay.parse().unwrap(), dns, |_| 0).await;
        let found = found.map_or_else(
            |error| error.to_string(),
            |places| places.iter().map(Place::to_string).collect::<Vec<_>>().join(" "),
        );
        format!("{asked} {found}")
    }

    #[tokio::test]
    async fn a_domain_without_port_is_looked_up_and_all_else_is_not() {
        let records = [record(2, 0, "s2.r.test."), record(1, 0, "s1.r.test.")];
        assert_eq!(
            places("msrps://r.test", &records).await,
            "_msrps._tcp.r.test. s1.r.test:9000 s2.r.test:9000"
        );
        assert_eq!(places("msrps://r.test", &[]).await, "_msrps._tcp.r.test. r.test:2855");
        assert_eq!(places("msrps://r.test:1", &records).await, "- r.test:1");
        assert_eq!(places("msrp://r.test", &records).await, "- r.test:2855");
        assert_eq!(places("msrps://192.0.2.1", &records).await, "- 192.0.2.1:2855");
        assert_eq!(places("msrps://[2001:db8::1]", &records).await, "- [2001:db8::1]:2855");
        let none = places("msrps://r.test", &[record(0, 0, ".")]).await;
        assert!(none.ends_with("has no MSRP relay"), "{none}");
    }

    /// A server that answers one question over UDP with these two records.
    #[tokio::test]
    async fn records_are_read_as_a_server_writes_them() {
        use hickory_resolver::config::{NameServerConfig, ResolverConfig};
        use hickory_resolver::net::runtime::TokioRuntimeProvider;

        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut config = NameServerConfig::udp("127.0.0.1".parse().unwrap());
        config.connections[0].port = server.local_addr().unwrap().port();
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![config]);
        let resolver =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        tokio::spawn(async move {
            let mut question = [0; 512];
            let (len, from) = server.recv_from(&mut question).await.unwrap();
            // The header, with two answers and nothing else, and the question, without what may follow.
            let name = b"\x06_msrps\x04_tcp\x01r\x04test\0";
            let mut answer = question[..len.min(12 + name.len() + 4)].to_vec();
            answer[2..12].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
            for (priority, target) in [(2u8, b"\x02s2"), (1, b"\x02s1")] {
                answer.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 17, 0, priority, 0, 3, 0x23, 0x28]);
                answer.extend([&target[..], b"\x01r\x04test\0"].concat());
            }
            server.send_to(&answer, from).await.unwrap();
        });
        let relay = "msrps://r.test".parse().unwrap();
        let found = locate_by(&relay, async |name: &str| ask(&resolver, name).await, |_| 0).await.unwrap();
        let found: Vec<_> = found.iter().map(Place::to_string).collect();
        assert_eq!(found, ["s1.r.test:9000", "s2.r.test:9000"]);
    }

    #[tokio::test]
    async fn dns_that_fails_leaves_the_addresses() {
        let dns = async |_: &str| bail!("no answer");
        let found = locate_by(&"msrps://r.test".parse().unwrap(), dns, |_| 0).await.unwrap();
        assert_eq!(found, [Place { host: "r.test".into(), port: 2855 }]);
    }

    #[test]
    fn relays_are_named_with_or_without_all_parts() {
        let relay: RelayAddress = "msrps://alice@r.test:1;tcp".parse().unwrap();
        assert_eq!(relay.user.as_deref(), Some("alice"));
        assert_eq!((relay.host.as_str(), relay.port, relay.scheme), ("r.test", Some(1), Scheme::Msrps));
        assert_eq!("msrp://r.test/".parse::<RelayAddress>().unwrap().port, None);
        for text in ["r.test", "sip:r.test", "msrps://r.test/abc;tcp", "msrps://r.test;ws", ""] {
            assert!(text.parse::<RelayAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn places_are_host_and_port() {
        for text in ["r.test:1", "192.0.2.1:65535", "[::1]:2855"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["r.test", ":1", "::1:1", "[r.test]:1", "r.test:65536", "r.test:"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
