//! The patterns by which a domain is chosen: `match_sip_domain` and `match_ip_address`.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::peer::parse_ip;

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?}: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: &'static str,
}

impl PatternError {
    fn new(pattern: &str, reason: &'static str) -> Self {
        Self { pattern: pattern.to_owned(), reason }
    }
}

/// One entry of `match_sip_domain`: which server names (SNI) a server domain serves, and which hosts a
/// client domain is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SniPattern {
    /// `*`: any name, and none.
    Any,
    /// `none`: a client that names no server.
    None,
    /// A whole name, in lower case.
    Exact(String),
    /// `*.example.org`: any name that ends in `.example.org`, however many labels stand before it
    /// (as the shell-style wildcards of tls_mgm). Held in lower case with its leading dot.
    Suffix(String),
}

impl SniPattern {
    /// How specific a match is, or `None` without one. A whole name comes before a wildcard, a long
    /// wildcard before a short one, any before nothing.
    pub(super) fn rank(&self, sni: Option<&str>) -> Option<usize> {
        match (self, sni) {
            (Self::Any, _) => Some(0),
            (Self::None, None) => Some(1),
            (Self::Exact(name), Some(sni)) if name == sni => Some(usize::MAX),
            (Self::Suffix(suffix), Some(sni)) if sni.len() > suffix.len() && sni.ends_with(&**suffix) => {
                Some(suffix.len())
            }
            _ => None,
        }
    }
}

impl FromStr for SniPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "" => Err(PatternError::new(text, "empty")),
            "*" => Ok(Self::Any),
            "none" => Ok(Self::None),
            pattern if !pattern.bytes().all(is_name_byte) => Err(PatternError::new(text, "not a host name")),
            pattern => match pattern.strip_prefix('*') {
                Some(suffix) if suffix.contains('*') || !suffix.starts_with('.') || suffix.len() < 2 => {
                    Err(PatternError::new(text, "`*` stands alone or as the whole leftmost label"))
                }
                Some(suffix) => Ok(Self::Suffix(suffix.to_owned())),
                None if pattern.contains('*') => {
                    Err(PatternError::new(text, "`*` stands alone or as the whole leftmost label"))
                }
                None if parse_ip(pattern).is_some() => {
                    Err(PatternError::new(text, "an address, which goes under match_ip_address"))
                }
                None => Ok(Self::Exact(pattern.strip_suffix('.').unwrap_or(pattern).to_owned())),
            },
        }
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*')
}

/// One entry of `match_ip_address`: which of our addresses a server domain serves, and which of others'
/// a client domain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressPattern {
    /// `*`: any address.
    Any,
    /// `ip`: any port of that address.
    Ip(IpAddr),
    /// `ip:port`.
    Socket(SocketAddr),
}

impl AddressPattern {
    /// How specific a match is, or `None` without one.
    pub(super) fn rank(&self, address: SocketAddr) -> Option<usize> {
        let ip = address.ip().to_canonical();
        let fits = match self {
            Self::Any => true,
            Self::Ip(own) => own.to_canonical() == ip,
            Self::Socket(own) => own.ip().to_canonical() == ip && own.port() == address.port(),
        };
        fits.then(|| self.specificity())
    }

    /// How specific its matches are.
    pub(super) fn specificity(&self) -> usize {
        match self {
            Self::Any => 0,
            Self::Ip(_) => 1,
            Self::Socket(_) => 2,
        }
    }

    pub(super) fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }
}

impl FromStr for AddressPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let trimmed = text.trim();
        if trimmed == "*" {
            return Ok(Self::Any);
        }
        if let Some(ip) = parse_ip(trimmed) {
            return Ok(Self::Ip(ip));
        }
        trimmed
            .parse()
            .map(Self::Socket)
            .map_err(|_| PatternError::new(text, "not an IP address, nor `address:port`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(pattern: &str, sni: Option<&str>) -> Option<usize> {
        pattern.parse::<SniPattern>().unwrap().rank(sni)
    }

    #[test]
    fn the_more_specific_name_ranks_higher() {
        let sni = Some("a.b.example.org");
        let ranks: Vec<_> = ["A.b.Example.org", "*.b.example.org", "*.example.org", "*"]
            .iter()
            .map(|p| rank(p, sni).unwrap())
            .collect();
        assert!(ranks.is_sorted_by(|a, b| a > b), "{ranks:?}");
    }

    #[test]
    fn patterns_match_what_they_say() {
        assert_eq!(rank("*.example.org", Some("example.org")), None);
        assert_eq!(rank("*.example.org", Some("badexample.org")), None);
        assert_eq!(rank("example.org", None), None);
        assert_eq!(rank("none", Some("example.org")), None);
        assert!(rank("none", None) > rank("*", None));
    }

    #[test]
    fn unreadable_patterns_say_why() {
        for bad in ["", "a*.example.org", "*example.org", "*.", "*.*.org", "a.*"] {
            assert!(bad.parse::<SniPattern>().is_err(), "{bad}");
        }
        let error = "10.0.0.300".parse::<AddressPattern>().unwrap_err();
        assert_eq!(error.to_string(), "\"10.0.0.300\": not an IP address, nor `address:port`");
    }

    #[test]
    fn addresses_match_with_and_without_port() {
        let at = |p: &str, a: &str| p.parse::<AddressPattern>().unwrap().rank(a.parse().unwrap());
        assert_eq!(at("10.0.0.1:5061", "10.0.0.1:5061"), Some(2));
        assert_eq!(at("10.0.0.1:5061", "10.0.0.1:5062"), None);
        assert_eq!(at("10.0.0.1", "10.0.0.1:1"), Some(1));
        assert_eq!(at("[2001:db8::1]:5061", "[2001:db8::1]:5061"), Some(2));
        assert_eq!(at("2001:db8::1", "[2001:db8::1]:5061"), Some(1));
        assert_eq!(at("*", "[2001:db8::1]:5061"), Some(0));
    }
}
