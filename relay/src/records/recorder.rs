//! What makes records: it hears of each session that ends, and goes round those that last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::outbox::Outbox;
use super::record::{INTERIM, SessionRecord, milliseconds, rfc3339, unix};
use crate::msrp::{Relay, Session, SessionEnd, SessionObserver};
use crate::server::SessionFacts;

/// In how many parts the sessions are gone round, so that their interim records do not come all at once.
const PARTS: u32 = 64;

/// What records say that sessions do not know.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `domain`.
    pub domain: String,
    /// `auth.realm`.
    pub realm: String,
    /// The name of each listener for MSRP, and what it carries, by its number.
    pub listeners: HashMap<usize, (String, String)>,
}

/// Makes records, for all sinks.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    facts: ArcSwap<Facts>,
    outboxes: ArcSwap<Vec<Arc<Outbox>>>,
    /// Held while a record is put: the last record of a session is the last one.
    order: Mutex<()>,
}

impl Recorder {
    pub(super) fn new(facts: Facts, outboxes: Vec<Arc<Outbox>>) -> Self {
        let (facts, outboxes) = (ArcSwap::from_pointee(facts), ArcSwap::from_pointee(outboxes));
        Self(Arc::new(Inner { facts, outboxes, order: Mutex::new(()) }))
    }

    /// From the next record on they say this.
    pub fn set_facts(&self, facts: Facts) {
        self.0.facts.store(Arc::new(facts));
    }

    /// From the next record on they go there.
    pub(super) fn set_outboxes(&self, outboxes: Vec<Arc<Outbox>>) {
        // No record is put into one that is closed meanwhile.
        let _order = self.0.order.lock();
        self.0.outboxes.store(Arc::new(outboxes));
    }

    fn is_idle(&self) -> bool {
        self.0.outboxes.load().is_empty()
    }

    /// `unless` is asked while no other record is put.
    fn put(&self, record: SessionRecord, unless: impl FnOnce() -> bool) {
        let record = Arc::new(record);
        let _order = self.0.order.lock();
        if unless() {
            return;
        }
        for outbox in &**self.0.outboxes.load() {
            outbox.push(Arc::clone(&record));
        }
    }

    fn record(&self, session: &Session, reason: &'static str) -> SessionRecord {
        let facts = SessionFacts::of(session, tokio::time::Instant::now().into_std());
        let about = self.0.facts.load();
        let listener = session.listener().and_then(|id| about.listeners.get(&id));
        let now = SystemTime::now();
        SessionRecord {
            id: format!("{}@{}", facts.id, about.domain),
            session: facts.id,
            uri: facts.uri,
            relay: about.domain.clone(),
            user: facts.user,
            realm: about.realm.clone(),
            owner: facts.owner,
            by_relay: facts.by_relay,
            listener: listener.map(|(name, _)| name.clone()),
            transport: listener.map(|(_, transport)| transport.clone()),
            peers: facts.peers,
            more_peers: facts.more_peers,
            began: rfc3339(facts.began),
            began_unix: unix(facts.began),
            ended: rfc3339(now),
            ended_unix: unix(now),
            seconds: milliseconds(facts.seconds),
            reason,
            sent: facts.from_owner.into(),
            received: facts.to_owner.into(),
        }
    }

    /// Makes interim records of the sessions that have lasted for `interval`, each of them once in it; `None`: of none.
    /// It ends with the sender of `interval`.
    pub async fn record_lasting(
        self,
        relay: Arc<Relay>,
        mut interval: tokio::sync::watch::Receiver<Option<Duration>>,
    ) {
        let mut part = 0;
        loop {
            let now = *interval.borrow_and_update();
            let pause = async {
                match now {
                    Some(interval) => tokio::time::sleep(interval / PARTS).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                changed = interval.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            let Some(interval) = now.filter(|_| !self.is_idle()) else { continue };
            let now = tokio::time::Instant::now().into_std();
            for session in relay.sessions().snapshot() {
                let lasts = now.saturating_duration_since(session.began()) >= interval;
                if lasts && session.id() % u128::from(PARTS) == part {
                    // One that has left the table has its last record, or is about to wait for its turn here.
                    let id = session.id();
                    self.put(self.record(&session, INTERIM), || relay.sessions().get(id).is_none());
                }
            }
            part = (part + 1) % u128::from(PARTS);
        }
    }
}

impl SessionObserver for Recorder {
    fn began(&self, _: &Session) {}

    fn ended(&self, session: &Session, end: SessionEnd) {
        if !self.is_idle() {
            self.put(self.record(session, end.as_str()), || false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::super::record::tests::{ended, interim};
    use super::*;

    fn recorder() -> (Recorder, Arc<Outbox>) {
        let outbox = Arc::new(Outbox::new("a", 10));
        let facts = Facts { domain: "a".into(), realm: "a".into(), listeners: HashMap::new() };
        (Recorder::new(facts, vec![Arc::clone(&outbox)]), outbox)
    }

    fn reasons(outbox: &Outbox) -> Vec<&'static str> {
        outbox.oldest(10).iter().map(|record| record.reason).collect()
    }

    #[test]
    fn the_last_record_of_a_session_waits_for_an_interim_one_that_is_being_put() {
        let (recorder, outbox) = recorder();
        let (begun, begins) = mpsc::channel();
        let mut last = None;
        let still_there = || {
            // The session ends in this very moment.
            let (other, begun) = (recorder.clone(), begun.clone());
            last = Some(thread::spawn(move || {
                begun.send(()).unwrap();
                other.put((*ended("s")).clone(), || false);
            }));
            begins.recv().unwrap();
            assert!(recorder.0.order.is_locked(), "the last record could come first");
            false
        };
        recorder.put((*interim("s")).clone(), still_there);
        last.unwrap().join().unwrap();
        assert_eq!(reasons(&outbox), [INTERIM, "expired"]);
    }

    #[test]
    fn a_session_that_has_its_last_record_gets_no_interim_one() {
        let (recorder, outbox) = recorder();
        recorder.put((*ended("s")).clone(), || false);
        recorder.put((*interim("s")).clone(), || true);
        assert_eq!(reasons(&outbox), ["expired"]);
    }
}
