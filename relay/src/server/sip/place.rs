//! The place of one upstream: where it is reached, the connection to it, and whether it is wanted any more.
//!
//! A reload may take an upstream away. Its connection stays for as long as requests that have gone over it may be
//! answered: the edge keeps no transactions, so it is closed after [`QUIET`] without a message that was sent on.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;

use super::SipLink;
use crate::config::UpstreamUri;

/// How long nothing is sent on over the connection of an upstream that is not wanted any more before it is closed. No
/// proxy waits longer for the next response to an INVITE than this: timer C (RFC 3261 §16.6 step 11) is longer than three
/// minutes.
pub(super) const QUIET: Duration = Duration::from_secs(200);

#[derive(Debug)]
pub(super) struct Place {
    uri: RwLock<UpstreamUri>,
    link: RwLock<Option<Arc<SipLink>>>,
    /// Where its name led last.
    dialled: RwLock<Option<IpAddr>>,
    /// Messages that were sent on to it, or from it, since it was not wanted any more.
    used: AtomicU64,
    wanted: watch::Sender<bool>,
    /// The opposite, for whoever sends a message on: to read it disturbs nobody else who does.
    going: AtomicBool,
    /// It has a task.
    begun: AtomicBool,
}

impl Place {
    pub(super) fn new(uri: UpstreamUri) -> Self {
        Self {
            uri: RwLock::new(uri),
            link: RwLock::default(),
            dialled: RwLock::default(),
            used: AtomicU64::new(0),
            wanted: watch::Sender::new(true),
            going: AtomicBool::new(false),
            begun: AtomicBool::new(false),
        }
    }

    pub(super) fn uri(&self) -> UpstreamUri {
        self.uri.read().clone()
    }

    /// Whether it leads elsewhere now.
    pub(super) fn set_uri(&self, uri: &UpstreamUri) -> bool {
        let changed = *self.uri.read() != *uri;
        if changed {
            self.uri.write().clone_from(uri);
        }
        changed
    }

    pub(super) fn link(&self) -> Option<Arc<SipLink>> {
        self.link.read().clone()
    }

    pub(super) fn set_link(&self, link: Arc<SipLink>) {
        *self.link.write() = Some(link);
    }

    /// Its connection is over. `false`: this one was not it.
    pub(super) fn take_link(&self, ended: &Arc<SipLink>) -> bool {
        self.link.write().take_if(|link| Arc::ptr_eq(link, ended)).is_some()
    }

    pub(super) fn dialled(&self) -> Option<IpAddr> {
        *self.dialled.read()
    }

    pub(super) fn set_dialled(&self, address: IpAddr) {
        *self.dialled.write() = Some(address);
    }

    /// Notes that a message was sent on; that is of interest only when it is not wanted any more.
    pub(super) fn is_used(&self) {
        if self.going.load(Ordering::Relaxed) {
            self.used.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn set_wanted(&self, wanted: bool) {
        // Before anybody begins to wait for quiet: what is not counted was sent on before.
        self.going.store(!wanted, Ordering::Relaxed);
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
    }

    pub(super) fn is_wanted(&self) -> bool {
        *self.wanted.borrow()
    }

    /// Waits until it is not wanted.
    pub(super) async fn unwanted(&self) {
        // It is there for as long as we are.
        let _ = self.wanted.subscribe().wait_for(|wanted| !wanted).await;
    }

    /// Waits until it is not wanted, and was not used for as long as [`QUIET`].
    pub(super) async fn unused(&self) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let _ = wanted.wait_for(|wanted| !wanted).await;
            let before = self.used.load(Ordering::Relaxed);
            let again = wanted.wait_for(|wanted| *wanted);
            if tokio::time::timeout(QUIET, again).await.is_err()
                && self.used.load(Ordering::Relaxed) == before
            {
                return;
            }
        }
    }

    /// Whether a task is to be begun for it: once.
    pub(super) fn begin(&self) -> bool {
        !self.begun.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_wanted_is_kept_until_nothing_uses_it() {
        let place = Place::new("sip://192.0.2.1".parse().unwrap());
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let script = async {
            sleep(QUIET * 2).await;
            // While it is wanted nobody asks how often, so nothing is written that all threads share.
            place.is_used();
            assert_eq!(place.used.load(Ordering::Relaxed), 0);
            place.set_wanted(false);
            sleep(QUIET - second).await;
            // A late response; then it is wanted again, and after all it is not.
            place.is_used();
            sleep(QUIET).await;
            place.set_wanted(true);
            sleep(QUIET * 3).await;
            place.set_wanted(false);
        };
        tokio::join!(place.unused(), script);
        assert_eq!(start.elapsed(), QUIET * 8 - second);
        assert!(place.begin() && !place.begin());
    }
}
