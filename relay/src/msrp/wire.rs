//! What the core asks of the world: a socket to write to, a way to wake who drives it, somebody who
//! opens connections, and random numbers. The daemon gives real ones, the tests others.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use msrp_proto::uri::Scheme;
use tcp_transport::connection::CloseReason;

use super::link::Link;
use super::session::{Session, SessionEnd};
use super::tag::ProcessTag;
use super::tap::Tap;
use crate::credentials::Query;

/// The writing side of one connection.
pub trait Wire: Send + Sync {
    /// Writes what the socket takes now. One call of at most [`write_unit`](Wire::write_unit) bytes
    /// goes out in one piece: one TLS record.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; anything else is the end of the connection.
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Pushes out what [`try_write`](Wire::try_write) took but the socket did not: ciphertext.
    ///
    /// # Errors
    /// `WouldBlock` when some of it is still there.
    fn flush(&self) -> io::Result<()>;

    /// The most bytes that leave in one piece.
    fn write_unit(&self) -> usize;

    /// Makes the task that drives the connection look again.
    fn wake(&self);

    /// Asks that task to close the connection, in order.
    fn close(&self, reason: CloseReason);

    /// Who sees its messages. Asked once for each direction.
    fn tap(&self) -> Option<Arc<dyn Tap>> {
        None
    }
}

impl fmt::Debug for dyn Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// Opens a connection for a link that waits for one.
pub trait Dialer: Send + Sync {
    /// Begins to connect to the link's [`target`](Link::target). The outcome comes as
    /// [`Link::attach`] or [`Link::close`].
    fn dial(&self, link: Arc<Link>);

    /// What a connection to this scheme, host and port must have in common with another one to be used in
    /// its place, for what came in on `listener`: the TLS client domain, if the settings ask for that.
    /// `None`: any connection there will do.
    fn reuse_key(&self, scheme: Scheme, host: &str, port: u16, listener: Option<usize>) -> Option<Box<str>> {
        let _ = (scheme, host, port, listener);
        None
    }

    /// Whether there is another process of this relay, at the same addresses, that has the sessions of this tag. Asked
    /// only while there is any ([`Relay::set_has_kin`](super::Relay::set_has_kin)).
    fn is_kin(&self, tag: ProcessTag) -> bool {
        let _ = tag;
        false
    }
}

/// Is told of sessions. It is called on the traffic's threads, and must not wait for anything.
pub trait SessionObserver: Send + Sync {
    /// A session was granted.
    fn began(&self, session: &Session);

    /// It is over, and was taken out of the table.
    fn ended(&self, session: &Session, end: SessionEnd);
}

/// Several observers.
impl<A: SessionObserver, B: SessionObserver> SessionObserver for (A, B) {
    fn began(&self, session: &Session) {
        self.0.began(session);
        self.1.began(session);
    }

    fn ended(&self, session: &Session, end: SessionEnd) {
        self.0.ended(session, end);
        self.1.ended(session, end);
    }
}

/// Perhaps one.
impl<A: SessionObserver> SessionObserver for Option<A> {
    fn began(&self, session: &Session) {
        if let Some(observer) = self {
            observer.began(session);
        }
    }

    fn ended(&self, session: &Session, end: SessionEnd) {
        if let Some(observer) = self {
            observer.ended(session, end);
        }
    }
}

/// Asks a source of credentials that takes its time.
pub trait Resolver: Send + Sync {
    /// Begins to ask. The outcome comes as [`Link::resolved`] with the same ticket.
    fn resolve(&self, query: Query, link: Arc<Link>, ticket: u64);
}

/// The time of day, in milliseconds since the Unix epoch: nonces carry it, so that relays that share
/// a secret can read each other's.
pub trait WallClock: Send + Sync {
    /// Now.
    fn unix_millis(&self) -> u64;
}

/// A source of cryptographically random bytes.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}
