//! Control over single connections: what Kamailio's tcpops does, by connection id or by address.
//!
//! The operations are methods of [`Handle`], and of [`Registry`] for whoever has only a number.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::connection::{CloseReason, ConnectionId, Handle};
use crate::event::Direction;
use crate::ledger::Phase;
use crate::registry::{Registry, ReuseKey};
use crate::scheme::Scheme;
use crate::socket::KeepAlive;

/// A connection's state, with the codes of tcpops' `tcp_conid_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum State {
    /// It is up.
    Ok = 1,
    /// It is being accepted: PROXY header, TLS handshake.
    Accepting = 2,
    /// It is being opened.
    Connecting = 3,
    /// It does not exist, or is closed.
    None = -1,
    /// The peer has ended its direction.
    Eof = -2,
    /// Its socket or TLS session broke, or a send timed out; it is being closed.
    Error = -3,
    /// It is being closed for another reason: ours, the protocol's, or a bug.
    Bad = -4,
}

impl State {
    /// tcpops' code.
    #[must_use]
    pub fn code(self) -> i8 {
        self as i8
    }

    fn of_closing(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::PeerClosed => Self::Eof,
            CloseReason::Reset | CloseReason::Io { .. } | CloseReason::Tls(_) | CloseReason::SendTimeout => {
                Self::Error
            }
            CloseReason::IdleTimeout
            | CloseReason::HandshakeTimeout
            | CloseReason::TooSlow(_)
            | CloseReason::Protocol(_)
            | CloseReason::Local(_)
            | CloseReason::Aborted
            | CloseReason::Internal => Self::Bad,
        }
    }
}

impl Handle {
    /// Its state: never [`State::Accepting`] or [`State::Connecting`], as it has a handle only when it is up.
    #[must_use]
    pub fn state(&self) -> State {
        if self.entry().phase() == Phase::Ended {
            return State::None;
        }
        match self.0.close_requested() {
            Some(reason) => State::of_closing(&reason),
            None if self.0.has_ended() => State::Eof,
            None => State::Ok,
        }
    }

    /// tcpops' `tcp_conid_alive`: [`State::Ok`].
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.state() == State::Ok
    }

    /// Turns TCP keep-alive on, or changes it.
    ///
    /// # Errors
    /// Those of `setsockopt`: the connection is gone, or the system does not have it.
    pub fn keepalive_enable(&self, keepalive: KeepAlive) -> io::Result<()> {
        keepalive.apply(&self.stream().options())
    }

    /// Turns TCP keep-alive off.
    ///
    /// # Errors
    /// Those of `setsockopt`.
    pub fn keepalive_disable(&self) -> io::Result<()> {
        self.stream().options().set_keepalive(false)
    }

    /// How long the connection may be idle from now on, before it is closed with
    /// [`CloseReason::IdleTimeout`]; `None`: for ever. A byte in either direction makes it live on for as
    /// long again. Bytes that other tasks write directly are noticed with a delay of up to an eighth of
    /// the lifetime, in the connection's favour.
    pub fn set_lifetime(&self, lifetime: Option<Duration>) {
        self.entry().set_lifetime(lifetime);
        self.0.touch();
        self.wake();
    }

    /// Marks it, so that its events are told where only those of marked connections are
    /// ([`Reporting::Marked`](crate::event::Reporting::Marked)).
    pub fn enable_closed_event(&self) {
        self.entry().mark();
    }
}

/// tcpops' operations by connection id. Where tcpops returns -1, these return `false`, `None` or an error.
impl<T: Clone> Registry<T> {
    /// `tcp_conid_state`.
    #[must_use]
    pub fn state(&self, id: ConnectionId) -> State {
        if let Some((handle, _)) = self.by_id(id) {
            return handle.state();
        }
        match self.ledger().entry(id) {
            Some(entry) if entry.phase() == Phase::Opening => match entry.direction() {
                Direction::Inbound => State::Accepting,
                Direction::Outbound => State::Connecting,
            },
            Some(entry) if entry.phase() == Phase::Open => State::Ok,
            _ => State::None,
        }
    }

    /// `tcp_conid_alive`.
    #[must_use]
    pub fn is_alive(&self, id: ConnectionId) -> bool {
        self.state(id) == State::Ok
    }

    /// `tcp_close_connection`, in order. False: there is no such connection.
    pub fn close(&self, id: ConnectionId) -> bool {
        self.with(id, |handle| handle.close(CloseReason::Local("by an operator".into())))
    }

    /// `tcp_keepalive_enable`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`]: there is no such connection. Else those of `setsockopt`.
    pub fn keepalive_enable(&self, id: ConnectionId, keepalive: KeepAlive) -> io::Result<()> {
        self.by_id(id).ok_or(io::ErrorKind::NotFound)?.0.keepalive_enable(keepalive)
    }

    /// `tcp_keepalive_disable`.
    ///
    /// # Errors
    /// As [`keepalive_enable`](Self::keepalive_enable).
    pub fn keepalive_disable(&self, id: ConnectionId) -> io::Result<()> {
        self.by_id(id).ok_or(io::ErrorKind::NotFound)?.0.keepalive_disable()
    }

    /// `tcp_set_connection_lifetime`; see [`Handle::set_lifetime`]. False: there is no such connection.
    pub fn set_lifetime(&self, id: ConnectionId, lifetime: Option<Duration>) -> bool {
        self.with(id, |handle| handle.set_lifetime(lifetime))
    }

    /// `tcp_enable_closed_event`. False: there is no such connection.
    pub fn enable_closed_event(&self, id: ConnectionId) -> bool {
        self.with(id, Handle::enable_closed_event)
    }

    /// `tcp_get_conid`: the oldest open connection to `host_port` that carries `scheme`. Without a port,
    /// the scheme's own is meant. An IP literal is compared with the peer's address; a name with what
    /// connections were registered for ([`ReuseKey`]), as names are not resolved here.
    #[must_use]
    pub fn conid(&self, host_port: &str, scheme: Scheme) -> Option<ConnectionId> {
        let (host, port) = split_host_port(host_port)?;
        let port = port.unwrap_or_else(|| scheme.default_port());
        if let Some((handle, _)) = self.reusable(&ReuseKey::new(scheme.as_str(), host, port)) {
            return Some(handle.id());
        }
        let address = SocketAddr::new(parse_ip(host)?.to_canonical(), port);
        let leads_there = |handle: &Handle| {
            handle.is_open()
                && handle.stream().peer_addr() == address
                && handle.entry().scheme().is_none_or(|own| own == scheme)
        };
        self.handles().into_iter().filter(leads_there).map(|handle| handle.id()).min()
    }

    /// The connection a message leaves on, where somebody may have chosen one. `Ok(None)`: none leads
    /// there, one has to be opened.
    ///
    /// # Errors
    /// [`ConnectionGone`]: the connection chosen with the override flag is not up any more. Nothing else
    /// is taken for it, as it was chosen for being that one.
    pub fn outbound(
        &self,
        choice: OutboundConnection,
        destination: &ReuseKey,
    ) -> Result<Option<(Handle, T)>, ConnectionGone> {
        let Some(id) = choice.conid else { return Ok(self.reusable(destination)) };
        let chosen = self.by_id(id).filter(|(handle, _)| handle.is_alive());
        match chosen {
            Some(chosen) if choice.override_destination || self.leads_to(&chosen.0, destination) => {
                Ok(Some(chosen))
            }
            None if choice.override_destination => Err(ConnectionGone(id)),
            Some(_) | None => Ok(self.reusable(destination)),
        }
    }

    fn leads_to(&self, handle: &Handle, destination: &ReuseKey) -> bool {
        let address = parse_ip(destination.host()).map(|ip| SocketAddr::new(ip, destination.port()));
        self.has_key(handle.id(), destination)
            || address == Some(handle.stream().peer_addr())
                && handle.entry().scheme().is_some_and(|own| own.as_str() == destination.scheme())
    }

    fn with(&self, id: ConnectionId, operation: impl FnOnce(&Handle)) -> bool {
        self.by_id(id).map(|(handle, _)| operation(&handle)).is_some()
    }
}

/// The connection somebody wants a message to leave on: tcpops' `tcp_set_otcpid` and `tcp_set_otcpid_flag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutboundConnection {
    /// The connection; it is taken if it leads to the message's destination.
    pub conid: Option<ConnectionId>,
    /// Take it wherever it leads, as tcpops' flag does.
    ///
    /// **The risk**: from there on the destination is not looked at. Whoever changes it later and leaves
    /// this set sends the message to somebody it was not meant for, over a connection whose peer was
    /// verified, if at all, as somebody else.
    pub override_destination: bool,
}

/// The connection a message was to leave on is not up any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("connection {0} is not up any more")]
pub struct ConnectionGone(pub ConnectionId);

/// An IP literal, an IPv6 one with or without brackets.
fn parse_ip(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.map_or_else(|| host.parse().ok(), |v6| v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// `host`, `host:port`, `[2001:db8::1]:port`, `2001:db8::1`.
fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let colon = match text.rfind(']') {
        Some(bracket) if bracket + 1 == text.len() => None,
        Some(bracket) => Some(bracket + 1),
        None => text.find(':').filter(|at| !text[at + 1..].contains(':')),
    };
    match colon {
        None => Some((text, None)),
        Some(at) => Some((&text[..at], Some(text[at..].strip_prefix(':')?.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_come_apart() {
        for (text, expected) in [
            ("relay.test", Some(("relay.test", None))),
            ("relay.test:1", Some(("relay.test", Some(1)))),
            ("[::1]", Some(("[::1]", None))),
            ("[::1]:1", Some(("[::1]", Some(1)))),
            ("::1", Some(("::1", None))),
            ("a:", None),
            ("a:65536", None),
            ("[::1]1", None),
        ] {
            assert_eq!(split_host_port(text), expected, "{text}");
        }
    }

    #[test]
    fn codes_are_those_of_tcpops() {
        use State as S;
        let codes = [S::Ok, S::Accepting, S::Connecting, S::None, S::Eof, S::Error, S::Bad].map(State::code);
        assert_eq!(codes, [1, 2, 3, -1, -2, -3, -4]);
    }
}
