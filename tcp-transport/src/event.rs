//! Connection events: what happens to connections, for whoever wants to know.
//!
//! Every connection that comes up is told of once when it is up ([`EventKind::Accepted`],
//! [`EventKind::Connected`]) and once when it is over ([`EventKind::Closed`], [`EventKind::TimedOut`],
//! [`EventKind::Reset`] or [`EventKind::Failed`]); one that is being opened also when that begins
//! ([`EventKind::ConnectStarted`]), and one that never comes up ends by `Failed` or `TimedOut` alone.
//!
//! **An event never blocks traffic.** Subscribers read from one bounded queue; who is too slow loses the
//! oldest events, and [`Subscription::lost`] and [`Events::lost`] count them. An event that nobody
//! listens to is not even made.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinHandle;

use crate::connection::{CloseReason, ConnectionId};
use crate::listener::Transport;
use crate::scheme::Scheme;
use crate::tls::TlsInfo;

/// Events that wait for a slow subscriber before the oldest is lost: 4096, some seconds of a relay
/// whose clients all come back at once, and less than 2 MiB.
pub const DEFAULT_EVENT_QUEUE: usize = 4096;

/// Something happened to a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionEvent {
    /// The connection.
    pub id: ConnectionId,
    /// When.
    pub time: SystemTime,
    /// Who opened it.
    pub direction: Direction,
    /// Plain or TLS.
    pub transport: Transport,
    /// What it carries, where the listener or whoever connects has said.
    pub scheme: Option<Scheme>,
    /// Our address, once known.
    pub local: Option<SocketAddr>,
    /// The peer's; behind a proxy that says so, the one of its client.
    pub remote: SocketAddr,
    /// The proxy's, if one has named `remote` (PROXY protocol).
    pub proxy: Option<SocketAddr>,
    /// Facts of the TLS session, once there is one.
    pub tls: Option<TlsInfo>,
    /// What happened.
    pub kind: EventKind,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer; we accepted it.
    Inbound,
    /// We did.
    Outbound,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A listener accepted it, and its handshake, if any, is done.
    Accepted,
    /// We begin to open it.
    ConnectStarted,
    /// We have opened it, and its handshake, if any, is done.
    Connected,
    /// It was closed in order, by the peer or by us.
    Closed(Ending),
    /// A time limit ended it: connecting, handshake, lifetime, sending, progress.
    TimedOut(Ending),
    /// The peer reset it.
    Reset(Ending),
    /// It did not come up, or its socket or TLS session broke.
    Failed(Ending),
}

/// What there is to say of a connection that is over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// Why it ended.
    pub reason: Arc<str>,
    /// Bytes received, TLS and lower layers not counted.
    pub bytes_in: u64,
    /// Bytes sent, counted likewise.
    pub bytes_out: u64,
    /// Messages received, where somebody [counts](crate::ledger::Entry::count_messages_in) them.
    pub messages_in: u64,
    /// Messages sent, likewise.
    pub messages_out: u64,
    /// From accepting it, or beginning to connect.
    pub duration: Duration,
}

impl EventKind {
    /// The name that tcpops' `event_callback` would get, in its manner: `tcp:closed`, `tcp:timeout`,
    /// `tcp:reset`; and `tcp:accepted`, `tcp:connecting`, `tcp:connected`, `tcp:failed`, which it lacks.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "tcp:accepted",
            Self::ConnectStarted => "tcp:connecting",
            Self::Connected => "tcp:connected",
            Self::Closed(_) => "tcp:closed",
            Self::TimedOut(_) => "tcp:timeout",
            Self::Reset(_) => "tcp:reset",
            Self::Failed(_) => "tcp:failed",
        }
    }

    /// What there is to say of the end, if this is one.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        match self {
            Self::Accepted | Self::ConnectStarted | Self::Connected => None,
            Self::Closed(ending) | Self::TimedOut(ending) | Self::Reset(ending) | Self::Failed(ending) => {
                Some(ending)
            }
        }
    }

    /// The event of an open connection that ends for `reason`.
    pub(crate) fn end(reason: &CloseReason, ending: Ending) -> Self {
        use CloseReason as R;
        match reason {
            R::PeerClosed | R::Protocol(_) | R::Local(_) | R::Aborted => Self::Closed(ending),
            R::IdleTimeout | R::SendTimeout | R::HandshakeTimeout | R::TooSlow(_) => Self::TimedOut(ending),
            R::Reset => Self::Reset(ending),
            R::Io { .. } | R::Tls(_) | R::Internal => Self::Failed(ending),
        }
    }
}

/// Which connections are told of: tcpops' `closed_event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Reporting {
    /// `closed_event` 0: none.
    None = 0,
    /// `closed_event` 1: all.
    #[default]
    All = 1,
    /// `closed_event` 2: those that were marked, by [`Handle::enable_closed_event`](crate::Handle),
    /// from then on.
    Marked = 2,
}

impl Reporting {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::None,
            2 => Self::Marked,
            _ => Self::All,
        }
    }
}

/// Where events are published. Clones mean the same.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    queue: broadcast::Sender<Arc<ConnectionEvent>>,
    reporting: AtomicU8,
    lost: Arc<AtomicU64>,
}

impl Events {
    /// A publisher whose subscribers may lag by `queue` events.
    #[must_use]
    pub fn new(queue: usize, reporting: Reporting) -> Self {
        Self(Arc::new(Inner {
            queue: broadcast::Sender::new(queue.max(1)),
            reporting: AtomicU8::new(reporting as u8),
            lost: Arc::default(),
        }))
    }

    /// Everything from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.0.queue.subscribe(), lost: 0, lost_by_all: self.0.lost.clone() }
    }

    /// Has `callback` called with each event: tcpops' `event_callback`. It runs in a task of its own, so
    /// a slow one loses events and delays no traffic; one that panics is called for the next event again.
    /// It ends with the returned guard. Needs a tokio runtime.
    pub fn on_event(&self, callback: impl Fn(&ConnectionEvent) + Send + Sync + 'static) -> CallbackGuard {
        let mut subscription = self.subscribe();
        CallbackGuard(tokio::spawn(async move {
            while let Some(event) = subscription.next().await {
                if catch_unwind(AssertUnwindSafe(|| callback(&event))).is_err() {
                    tracing::error!(event = event.kind.name(), "a callback for connection events panicked");
                }
            }
        }))
    }

    /// Which connections are told of.
    #[must_use]
    pub fn reporting(&self) -> Reporting {
        Reporting::from_u8(self.0.reporting.load(Ordering::Relaxed))
    }

    /// Changes which connections are told of.
    pub fn set_reporting(&self, reporting: Reporting) {
        self.0.reporting.store(reporting as u8, Ordering::Relaxed);
    }

    /// Events that slow subscribers have lost, all together.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Publishes what `event` makes, if anybody wants it.
    pub(crate) fn publish(&self, marked: bool, event: impl FnOnce() -> ConnectionEvent) {
        let wanted = match self.reporting() {
            Reporting::None => false,
            Reporting::All => true,
            Reporting::Marked => marked,
        };
        let logged = tracing::enabled!(target: "connection_event", tracing::Level::DEBUG);
        if !wanted || (self.0.queue.receiver_count() == 0 && !logged) {
            return;
        }
        let event = event();
        if logged {
            tracing::debug!(target: "connection_event", "{event}");
        }
        // The last subscriber may just have left.
        let _ = self.0.queue.send(Arc::new(event));
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new(DEFAULT_EVENT_QUEUE, Reporting::default())
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("reporting", &self.reporting())
            .field("subscribers", &self.0.queue.receiver_count())
            .field("lost", &self.lost())
            .finish()
    }
}

/// One reader of events.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<ConnectionEvent>>,
    lost: u64,
    lost_by_all: Arc<AtomicU64>,
}

impl Subscription {
    /// The next event; `None` when there will be no more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Arc<ConnectionEvent>> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(n)) => self.count_lost(n),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next event that is there already.
    pub fn try_next(&mut self) -> Option<Arc<ConnectionEvent>> {
        loop {
            match self.receiver.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(n)) => self.count_lost(n),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// Events this subscriber has lost until the last call of [`next`](Self::next), by being too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn count_lost(&mut self, n: u64) {
        self.lost += n;
        self.lost_by_all.fetch_add(n, Ordering::Relaxed);
    }
}

/// Keeps a callback of [`Events::on_event`] in place until it is dropped.
#[derive(Debug)]
#[must_use = "the callback ends with its guard"]
pub struct CallbackGuard(JoinHandle<()>);

impl Drop for CallbackGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One line for the log.
impl fmt::Display for ConnectionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, transport, remote, .. } = self;
        let protocol = self.scheme.map_or(transport.as_str(), Scheme::as_str);
        write!(f, "{} connection={id} protocol={protocol} remote={remote}", self.kind.name())?;
        if let Some(local) = self.local {
            write!(f, " local={local}")?;
        }
        if let Some(proxy) = self.proxy {
            write!(f, " proxy={proxy}")?;
        }
        if let Some(tls) = &self.tls {
            write!(f, " tls={} cipher={} domain={}", tls.version(), tls.cipher(), tls.domain())?;
        }
        if let Some(ending) = self.kind.ending() {
            let Ending { reason, bytes_in, bytes_out, messages_in, messages_out, duration } = ending;
            write!(f, " in={bytes_in} out={bytes_out} messages={messages_in}/{messages_out}")?;
            write!(f, " duration={duration:.1?} reason={reason:?}")?;
        }
        Ok(())
    }
}
