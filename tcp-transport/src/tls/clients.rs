//! All client domains of a process, and which of them a connection is made with.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::RwLock;

use super::domain::{Changes, Domain as _, merge, unique};
use super::peer::parse_ip;
use super::{ClientDomain, ClientDomainSettings, TlsConfigError};

/// The client domains of a process, in the order of the configuration, one of them for what no other
/// is for. They can be [replaced](Self::replace) while connections are served.
#[derive(Debug)]
pub struct ClientDomains {
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    /// Its `match_…` settings are not looked at.
    default: Arc<ClientDomain>,
    others: Arc<[Arc<ClientDomain>]>,
}

/// How well a domain fits: host, address, listener; the first difference decides.
type Rank = (usize, usize, usize);

impl ClientDomains {
    /// `default` for whatever none of `others` is for.
    ///
    /// # Errors
    /// Two of one name.
    pub fn new(
        default: ClientDomain,
        others: impl IntoIterator<Item = ClientDomain>,
    ) -> Result<Self, TlsConfigError> {
        let mut all = unique([default].into_iter().chain(others))?;
        let default = all.remove(0);
        Ok(Self { current: RwLock::new(Current { default, others: all.into() }) })
    }

    /// Loads them.
    ///
    /// # Errors
    /// The first one's that cannot be loaded.
    pub fn load(
        default: &ClientDomainSettings,
        others: &[ClientDomainSettings],
    ) -> Result<Self, TlsConfigError> {
        let others = others.iter().map(ClientDomain::load).collect::<Result<Vec<_>, _>>()?;
        Self::new(ClientDomain::load(default)?, others)
    }

    /// Puts `new` in the place of what is there: connections made from now on see it, those there are
    /// go on as they are. Domains that are the same in both, files included, stay, and their session
    /// stores with them.
    pub fn replace(&self, new: Self) -> Changes {
        let new = new.current.into_inner();
        let flat = |set: &Current| -> Vec<Arc<ClientDomain>> {
            [set.default.clone()].into_iter().chain(set.others.iter().cloned()).collect()
        };
        let mut current = self.current.write();
        let (mut merged, changes) = merge(&flat(&current), &flat(&new));
        let default = merged.remove(0);
        *current = Current { default, others: merged.into() };
        changes
    }

    /// The domains of this moment, the default one first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Arc<ClientDomain>> {
        let current = self.current.read();
        [current.default.clone()].into_iter().chain(current.others.iter().cloned()).collect()
    }

    /// The domain of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<ClientDomain>> {
        self.snapshot().into_iter().find(|domain| domain.name() == name)
    }

    /// The domain for a connection to `host` (a name or an IP literal, as it was wanted) at `address`,
    /// for something that came in on `listener`.
    ///
    /// A domain fits if each of `match_sip_domain`, `match_ip_address` and `match_listener` that it
    /// has includes what is given; `*` includes everything. Of several that fit, the one with the most
    /// specific host wins (whole name, longest wildcard, `*` or nothing), then the one with the most
    /// specific address (with port, without, `*` or nothing), then the one that names the listener,
    /// then the earlier one. If none fits, it is the default one.
    #[must_use]
    pub fn select(&self, host: &str, address: SocketAddr, listener: Option<&str>) -> Arc<ClientDomain> {
        let Current { default, others } = self.current.read().clone();
        let host = normal(host);
        let ranked = others.iter().filter_map(|domain| {
            let (host, listener) = domain.host_and_listener(host.as_deref(), listener)?;
            Some(((host, domain.address_rank(address)?, listener), domain))
        });
        // `max_by_key` takes the last of equals; the earlier one is wanted.
        let best = ranked.rev().max_by_key(|(rank, _): &(Rank, _)| *rank);
        best.map_or(default, |(_, domain)| domain.clone())
    }

    /// As [`select`](Self::select), for a [`Connector`](crate::Connector): for what came in on
    /// `listener`, or for what came in nowhere.
    #[must_use]
    pub fn for_listener<'a>(&'a self, listener: Option<&'a str>) -> ForListener<'a> {
        ForListener { domains: self, listener }
    }

    /// What a connection must have in common with another one to the same host and port to be made
    /// with the same domain, for `cert_check_on_conn_reusage`. Equal texts mean the same choice of the
    /// same domains (as they are now: a reload that changes one changes the text), whatever address
    /// `host` resolves to.
    #[must_use]
    pub fn reuse_key(&self, host: &str, port: u16, listener: Option<&str>) -> String {
        if let Some(ip) = parse_ip(host) {
            return self.select(host, SocketAddr::new(ip.to_canonical(), port), listener).tag();
        }
        let Current { default, others } = self.current.read().clone();
        let host = normal(host);
        // Which of them it is will depend on the address; so all that may come into question count.
        let mut candidates: Vec<(Rank, &Arc<ClientDomain>)> = others
            .iter()
            .filter_map(|domain| {
                let (host, listener) = domain.host_and_listener(host.as_deref(), listener)?;
                Some(((host, domain.most_specific_address(), listener), domain))
            })
            .collect();
        let certain = candidates
            .iter()
            .filter(|(_, domain)| domain.takes_any_address())
            .map(|((host, _, listener), _)| (*host, 0, *listener))
            .max();
        if let Some(certain) = certain {
            // Whoever is worse than one that fits in any case is never chosen.
            candidates.retain(|(rank, _)| *rank >= certain);
        }
        // Stable: equals stay in the order of the configuration.
        candidates.sort_by(|(a, _), (b, _)| b.cmp(a));
        let mut tags: Vec<_> = candidates
            .iter()
            .map(|((host, _, listener), domain)| format!("{}/{host}/{listener}", domain.tag()))
            .collect();
        match (&tags[..], &candidates[..]) {
            ([_], [(_, only)]) if only.takes_any_address() => return only.tag(),
            _ if certain.is_none() => tags.push(default.tag()),
            _ => {}
        }
        tags.join(" ")
    }
}

/// Who says which client domain a connection is made with, once its address is known.
pub trait ChooseClientDomain: Send + Sync {
    /// The domain for a connection to `host`, the name or IP literal that was wanted, at `address`.
    fn choose(&self, host: &str, address: SocketAddr) -> ChosenDomain<'_>;
}

/// A domain that was chosen.
#[derive(Debug)]
pub enum ChosenDomain<'a> {
    /// The one there is.
    Only(&'a ClientDomain),
    /// One of several.
    Among(Arc<ClientDomain>),
}

impl Deref for ChosenDomain<'_> {
    type Target = ClientDomain;

    fn deref(&self) -> &ClientDomain {
        match self {
            Self::Only(domain) => domain,
            Self::Among(domain) => domain,
        }
    }
}

/// It is the one for everything.
impl ChooseClientDomain for ClientDomain {
    fn choose(&self, _: &str, _: SocketAddr) -> ChosenDomain<'_> {
        ChosenDomain::Only(self)
    }
}

/// See [`ClientDomains::for_listener`].
#[derive(Debug, Clone, Copy)]
pub struct ForListener<'a> {
    domains: &'a ClientDomains,
    listener: Option<&'a str>,
}

impl ChooseClientDomain for ForListener<'_> {
    fn choose(&self, host: &str, address: SocketAddr) -> ChosenDomain<'_> {
        ChosenDomain::Among(self.domains.select(host, address, self.listener))
    }
}

/// A host as patterns are compared with it; an address has no name.
fn normal(host: &str) -> Option<String> {
    match parse_ip(host) {
        Some(_) => None,
        None => Some(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()),
    }
}

impl ClientDomain {
    /// Its name, and what it was loaded from in short.
    fn tag(&self) -> String {
        format!("{}#{}", self.name(), self.fingerprint().short())
    }

    fn host_and_listener(&self, host: Option<&str>, listener: Option<&str>) -> Option<(usize, usize)> {
        let host = best(&self.match_sip_domain, |pattern| pattern.rank(host))?;
        let listener = best(&self.match_listener, |pattern| match listener {
            _ if pattern == "*" => Some(0),
            Some(listener) if pattern == listener => Some(1),
            _ => None,
        })?;
        Some((host, listener))
    }

    fn address_rank(&self, address: SocketAddr) -> Option<usize> {
        best(&self.match_ip_address, |pattern| pattern.rank(address))
    }

    fn takes_any_address(&self) -> bool {
        self.match_ip_address.is_empty() || self.match_ip_address.iter().any(super::AddressPattern::is_any)
    }

    fn most_specific_address(&self) -> usize {
        self.match_ip_address.iter().map(super::AddressPattern::specificity).max().unwrap_or(0)
    }
}

/// The rank of the best of `patterns`; without patterns, anything fits.
fn best<P>(patterns: &[P], rank: impl Fn(&P) -> Option<usize>) -> Option<usize> {
    if patterns.is_empty() { Some(0) } else { patterns.iter().filter_map(rank).max() }
}
