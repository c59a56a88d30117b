//! Connections that another process has accepted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Stream;
use crate::event::Direction;
use crate::ledger::{Entry, Ledger, Slots, Ticket};
use crate::limits::LimitReached;
use crate::listener::Transport;
use crate::scheme::Scheme;

/// What the process says of a connection that it has accepted and passes on.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// The peer's address.
    pub peer: SocketAddr,
    /// Our own, by which the peer has reached us.
    pub local: SocketAddr,
    /// What the peer sees.
    pub transport: Transport,
    /// What it carries.
    pub scheme: Option<Scheme>,
    /// How long it may be idle.
    pub lifetime: Option<Duration>,
}

/// A connection that cannot be adopted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// There are too many.
    #[error(transparent)]
    Limit(#[from] LimitReached),
    /// It is no socket that bytes can be read from.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Stream {
    /// A connection that another process has accepted: its socket, or one end of a pair over the other end of which that
    /// process relays its bytes (then without the TLS that it keeps). Needs a tokio runtime.
    ///
    /// It is entered in `ledger`, whose limits hold but for those of listeners.
    ///
    /// # Errors
    /// [`AdoptError`]; the socket is closed then.
    pub fn adopt(socket: OwnedFd, adopted: &Adopted, ledger: &Arc<Ledger>) -> Result<Self, AdoptError> {
        let Adopted { peer, local, transport, scheme, lifetime } = *adopted;
        let socket = std::net::TcpStream::from(socket);
        socket.set_nonblocking(true)?;
        let tcp = TcpStream::from_std(socket)?;
        let entry = Entry::new(Direction::Inbound, transport, scheme, Some(local), peer);
        let ticket = ledger.accepting(entry, &Slots::default(), None)?.count_address()?;
        ticket.entry().set_lifetime(lifetime);
        // Its own one is for a moment: it says nothing to anybody.
        let detached = Ticket::detached(transport, local, peer);
        let mut stream = Self { tcp, tls: None, peer, local, ticket: detached };
        stream.enter(ticket);
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use bytes::BytesMut;

    use super::*;
    use crate::event::Events;
    use crate::limits::ConnectionLimits;

    fn adopted() -> Adopted {
        Adopted {
            peer: "192.0.2.1:5000".parse().unwrap(),
            local: "192.0.2.9:2856".parse().unwrap(),
            transport: Transport::Tls,
            scheme: Some(Scheme::Msrps),
            lifetime: Some(Duration::from_secs(60)),
        }
    }

    #[tokio::test]
    async fn one_end_of_a_pair_is_a_connection_from_the_peer() {
        let ledger = Ledger::new(ConnectionLimits::default(), Events::default());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stream = Stream::adopt(theirs.into(), &adopted(), &ledger).unwrap();
        assert_eq!(stream.peer_addr().to_string(), "192.0.2.1:5000");
        assert_eq!(stream.local_addr().to_string(), "192.0.2.9:2856");
        assert_eq!(ledger.accepted_from("192.0.2.1".parse().unwrap()), 1);
        assert_eq!(stream.entry().lifetime(), Some(Duration::from_secs(60)));

        stream.write_all(b"there").await.unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut ours = tokio::net::UnixStream::from_std(ours).unwrap();
        let mut there = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut ours, &mut there).await.unwrap();
        assert_eq!(&there, b"there");
        tokio::io::AsyncWriteExt::write_all(&mut ours, b"back").await.unwrap();
        let mut back = BytesMut::new();
        assert_eq!(stream.read(&mut back, 100).await.unwrap(), 4);
        drop(ours);
        assert_eq!(stream.read(&mut back, 100).await.unwrap(), 0);
        drop(stream);
        assert!(ledger.is_empty());
    }

    #[tokio::test]
    async fn the_limits_hold() {
        let limits = ConnectionLimits { max_connections: Some(1), ..ConnectionLimits::default() };
        let ledger = Ledger::new(limits, Events::default());
        let adopt = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (ours, Stream::adopt(theirs.into(), &adopted(), &ledger))
        };
        let (_ours, first) = adopt();
        let (_others, second) = adopt();
        assert!(first.is_ok());
        assert!(matches!(second, Err(AdoptError::Limit(LimitReached::Total(1)))), "{second:?}");
    }
}
