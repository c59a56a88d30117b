//! What a connection carries, and the port where that is found when nobody names one.

use std::fmt;
use std::str::FromStr;

/// What a connection carries, named as in URIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scheme {
    /// MSRP over TCP (RFC 4975).
    Msrp,
    /// MSRP over TLS.
    Msrps,
    /// SIP over TCP (RFC 3261 §18).
    Sip,
    /// SIP over TLS.
    Sips,
    /// WebSocket (RFC 6455).
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// HEP, towards capture agents and from them.
    Hep,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Msrp, Self::Msrps, Self::Sip, Self::Sips, Self::Ws, Self::Wss, Self::Hep];

    /// The port of listeners and destinations that name none.
    ///
    /// ```
    /// use tcp_transport::Scheme;
    ///
    /// let ports: Vec<u16> = Scheme::ALL.iter().map(|scheme| scheme.default_port()).collect();
    /// assert_eq!(ports, [2855, 2855, 5060, 5061, 80, 443, 5656]);
    /// ```
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Msrp | Self::Msrps => 2855,
            Self::Sip => 5060,
            Self::Sips => 5061,
            Self::Ws => 80,
            Self::Wss => 443,
            Self::Hep => 5656,
        }
    }

    /// As it stands in a URI.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Msrp => "msrp",
            Self::Msrps => "msrps",
            Self::Sip => "sip",
            Self::Sips => "sips",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Hep => "hep",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no [`Scheme`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scheme, those are msrp, msrps, sip, sips, ws, wss and hep")]
pub struct UnknownScheme(String);

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(text: &str) -> Result<Self, UnknownScheme> {
        let found = Self::ALL.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownScheme(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_read_back_in_any_case() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.to_string().to_uppercase().parse(), Ok(scheme));
        }
        assert!("udp".parse::<Scheme>().unwrap_err().to_string().contains("no scheme"));
    }
}
