//! How many connections may be open at once.

use std::net::{IpAddr, Ipv6Addr};

/// How many connections may be open at once, in a whole process. See also
/// [`ListenerSettings::max_connections`](crate::ListenerSettings::max_connections). A connection counts
/// from its accept, or from the start of connecting, until its descriptor is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionLimits {
    /// Accepted and opened together, but for connections to HEP collectors
    /// ([`Connector::beyond_the_limit`](crate::Connector::beyond_the_limit)). `None`: as many as the system has descriptors.
    pub max_connections: Option<usize>,
    /// Accepted from one address: an IPv4 address, or an IPv6 /64, which is what one subscriber gets.
    /// `None`: no limit. Off by default, since thousands may share the address of one NAT.
    pub max_connections_per_address: Option<usize>,
}

/// A connection that a limit keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitReached {
    /// [`ConnectionLimits::max_connections`].
    #[error("`max_connections` is reached: {0}")]
    Total(usize),
    /// [`ListenerSettings::max_connections`](crate::ListenerSettings::max_connections).
    #[error("`max_connections` of the listener is reached: {0}")]
    Listener(usize),
    /// [`ConnectionLimits::max_connections_per_address`].
    #[error("`max_connections_per_address` is reached: {0}")]
    Address(usize),
}

/// What counts as one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressGroup(IpAddr);

impl AddressGroup {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into()),
            v4 => Self(v4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscriber_is_one_address() {
        let group = |text: &str| AddressGroup::of(text.parse().unwrap());
        assert_eq!(group("192.0.2.1"), group("::ffff:192.0.2.1"));
        assert_ne!(group("192.0.2.1"), group("192.0.2.2"));
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:1"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
    }
}
