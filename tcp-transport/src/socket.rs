//! What can be set on a TCP socket. Everything that is Linux only, or nearly so, stands here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// What is set on every socket of a listener, or towards a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// TCP_NODELAY: small answers do not wait for Nagle's algorithm. On by default.
    pub nodelay: bool,
    /// The DSCP of what we send (RFC 2474); `None` leaves it to the system.
    pub dscp: Option<Dscp>,
    /// TCP keep-alive; `None` leaves it off.
    pub keepalive: Option<KeepAlive>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { nodelay: true, dscp: None, keepalive: None }
    }
}

impl SocketOptions {
    /// Sets them on a socket that may be connected already.
    pub(crate) fn apply(&self, socket: &SockRef<'_>, family: &SocketAddr) -> io::Result<()> {
        // Off is written too: an accepted socket has what its listener has.
        socket.set_tcp_nodelay(self.nodelay)?;
        // What the kernel holds beyond that is of no use to anybody, and keeps a peer that reads slowly
        // from being seen to read: the socket would be writable again only when a third of it has gone.
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        if let Some(dscp) = self.dscp {
            if family.is_ipv6() {
                socket.set_tclass_v6(dscp.traffic_class())?;
                // What goes to IPv4-mapped addresses of a dual-stack socket; elsewhere it means nothing.
                let _ = socket.set_tos_v4(dscp.traffic_class());
            } else {
                socket.set_tos_v4(dscp.traffic_class())?;
            }
        }
        if let Some(keepalive) = self.keepalive {
            keepalive.apply(socket)?;
        }
        Ok(())
    }
}

/// How many bytes the kernel takes that it cannot send yet (`TCP_NOTSENT_LOWAT`): 128 KiB.
pub const NOTSENT_LOWAT: u32 = 128 * 1024;

/// A differentiated services code point: 0 to 63 (RFC 2474).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dscp(u8);

impl Dscp {
    /// `None` for more than 63.
    #[must_use]
    pub fn new(value: u8) -> Option<Self> {
        (value < 64).then_some(Self(value))
    }

    /// The IPv4 TOS or IPv6 traffic class that carries it.
    fn traffic_class(self) -> u32 {
        u32::from(self.0) << 2
    }
}

/// TCP keep-alive: after `idle` without a byte the peer's kernel is asked every `interval`; after
/// `count` questions without an answer the connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Whole seconds, at least one; less is rounded up.
    pub idle: Duration,
    /// How many questions.
    pub count: u32,
    /// Whole seconds, at least one; less is rounded up.
    pub interval: Duration,
}

impl KeepAlive {
    pub(crate) fn apply(self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(whole_seconds(self.idle))
                .with_interval(whole_seconds(self.interval))
                .with_retries(self.count.max(1)),
        )
    }
}

/// The kernel counts seconds, and refuses none.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_millis().div_ceil(1000).clamp(1, 32_767) as u64)
}

/// Where connections that we open come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Our addresses: the first one of the destination's family is bound. Without one of that family,
    /// the system chooses.
    pub addresses: Vec<IpAddr>,
    /// Our port: a listener's, for firewalls and peers that know us by it. That listener must have
    /// `reuse_port` set. Two connections to one address and port cannot share it. `None`: any.
    pub port: Option<u16>,
}

impl Source {
    fn bound(&self, to: SocketAddr) -> Option<SocketAddr> {
        let address = self.addresses.iter().find(|own| own.is_ipv4() == to.is_ipv4()).copied();
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        match (address, self.port) {
            (None, None) => None,
            (address, port) => Some(SocketAddr::new(address.unwrap_or(any), port.unwrap_or(0))),
        }
    }
}

/// Connects, with everything set before the first packet leaves.
pub(crate) async fn connect(
    to: SocketAddr,
    source: &Source,
    options: &SocketOptions,
) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    options.apply(&SockRef::from(&socket), &to)?;
    if let Some(from) = source.bound(to) {
        if source.port.is_some() {
            socket.set_reuseaddr(true)?;
            set_reuse_port(&SockRef::from(&socket))?;
        }
        socket.bind(from)?;
    }
    socket.connect(to).await
}

/// Several sockets on one address and port.
pub(crate) fn set_reuse_port(socket: &SockRef<'_>) -> io::Result<()> {
    #[cfg(unix)]
    return socket.set_reuse_port(true);
    #[cfg(not(unix))]
    return Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no SO_REUSEPORT"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dscp_has_six_bits() {
        assert_eq!(Dscp::new(0).map(Dscp::traffic_class), Some(0));
        assert_eq!(Dscp::new(63).map(Dscp::traffic_class), Some(252));
        assert_eq!(Dscp::new(64), None);
    }

    #[test]
    fn keep_alive_counts_in_whole_seconds() {
        for (given, set) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (u64::MAX, 32_767)] {
            assert_eq!(whole_seconds(Duration::from_millis(given)), Duration::from_secs(set));
        }
    }

    #[test]
    fn the_source_is_of_the_destinations_family() {
        let (v4, v6) = ("192.0.2.1:2855".parse().unwrap(), "[2001:db8::1]:2855".parse().unwrap());
        let source = Source { addresses: vec!["192.0.2.7".parse().unwrap()], port: None };
        assert_eq!(source.bound(v4), Some("192.0.2.7:0".parse().unwrap()));
        assert_eq!(source.bound(v6), None);
        let source = Source { port: Some(5), ..source };
        assert_eq!(source.bound(v4), Some("192.0.2.7:5".parse().unwrap()));
        assert_eq!(source.bound(v6), Some("[::]:5".parse().unwrap()));
        assert_eq!(Source::default().bound(v4), None);
    }
}
