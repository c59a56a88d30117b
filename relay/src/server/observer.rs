//! What happens to sessions, told to whoever wants to hear of it: event streams. [`crate::records`] hear of it beside
//! them.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use super::now;
use crate::msrp::{Owner, Session, SessionEnd, SessionObserver};

/// How many events may wait for a slow subscriber before it loses the oldest.
const QUEUE: usize = 4096;

/// A session began or ended.
#[derive(Debug, Clone)]
pub struct SessionEvent {
    /// When.
    pub time: SystemTime,
    /// The session, with what went through it.
    pub session: SessionFacts,
    /// Why it is over; `None`: it began.
    pub end: Option<SessionEnd>,
}

/// What there is to say of one session.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// Its session-id.
    pub id: String,
    /// Its URI here.
    pub uri: String,
    /// Who obtained it.
    pub user: String,
    /// The client's address, or the relay that obtained it for one.
    pub owner: String,
    /// Whether the owner is a relay.
    pub by_relay: bool,
    /// The URIs of those it is or was in use with.
    pub peers: Vec<String>,
    /// Whether there were more than are remembered.
    pub more_peers: bool,
    /// When it was granted.
    pub began: SystemTime,
    /// Seconds since then.
    pub seconds: f64,
    /// Seconds until it expires; 0 once it has.
    pub expires_in: f64,
    /// What its owner has sent.
    pub from_owner: Way,
    /// What its owner was sent.
    pub to_owner: Way,
}

/// What went one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// Messages.
    pub messages: u64,
    /// SENDs.
    pub chunks: u64,
    /// Body bytes.
    pub bytes: u64,
    /// REPORTs.
    pub reports: u64,
}

impl From<&crate::msrp::Traffic> for Way {
    fn from(traffic: &crate::msrp::Traffic) -> Self {
        Self {
            messages: traffic.messages(),
            chunks: traffic.chunks(),
            bytes: traffic.bytes(),
            reports: traffic.reports(),
        }
    }
}

impl SessionFacts {
    /// What is true of `session` now.
    pub fn of(session: &Session, now: Instant) -> Self {
        let uri = session.uri();
        let (peers, more_peers) = session.peers();
        let (owner, by_relay) = match session.owner() {
            Owner::Client(link) => (link.peer().map(|peer| peer.address.clone()).unwrap_or_default(), false),
            Owner::Relay { host } => (host.to_string(), true),
        };
        Self {
            id: uri.as_ref().session_id().unwrap_or_default().to_owned(),
            uri: uri.to_string(),
            user: session.user().to_owned(),
            owner,
            by_relay,
            peers: peers.iter().map(ToString::to_string).collect(),
            more_peers,
            began: UNIX_EPOCH + std::time::Duration::from_millis(session.began_unix_millis()),
            seconds: now.saturating_duration_since(session.began()).as_secs_f64(),
            expires_in: session.expires().saturating_duration_since(now).as_secs_f64(),
            from_owner: session.from_owner().into(),
            to_owner: session.to_owner().into(),
        }
    }
}

/// Where session events are published. Clones mean the same. Traffic waits for no subscriber: who is too slow loses
/// the oldest events, and is told how many. An event that nobody listens to is not even made.
#[derive(Debug, Clone)]
pub struct SessionEvents(broadcast::Sender<Arc<SessionEvent>>);

impl Default for SessionEvents {
    fn default() -> Self {
        Self(broadcast::Sender::new(QUEUE))
    }
}

impl SessionEvents {
    /// Everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<SessionEvent>> {
        self.0.subscribe()
    }

    fn publish(&self, session: &Session, end: Option<SessionEnd>) {
        if self.0.receiver_count() > 0 {
            let session = SessionFacts::of(session, now());
            // The last subscriber may just have left.
            let _ = self.0.send(Arc::new(SessionEvent { time: SystemTime::now(), session, end }));
        }
    }
}

impl SessionObserver for SessionEvents {
    fn began(&self, session: &Session) {
        self.publish(session, None);
    }

    fn ended(&self, session: &Session, end: SessionEnd) {
        self.publish(session, Some(end));
    }
}
