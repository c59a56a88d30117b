//! How a relay ends: it drains, and then stops.
//!
//! | | SIGTERM, SIGINT | `ctl drain` | an upgrade |
//! |---|---|---|---|
//! | listeners | closed | closed | the next process has them |
//! | sockets of a service manager | who connects is closed at once (`listeners::kept`) | likewise | the next process has them |
//! | a new AUTH | 408 | 408 | 408; of a verified relay: granted until the drain ends |
//! | sessions and messages | go on | go on | go on, and their peers still get there (`server::handover`) |
//! | connections without a session | closed when idle | closed when idle | closed when idle, those of SIP and HEP too (`server::leavers`) |
//! | how long | `timeouts.drain_timeout` | until the last session ends; `--timeout` | `upgrade.drain_timeout` |
//! | what ends it sooner | a second signal | a signal hurries as on the left | a signal leaves it `timeouts.drain_timeout`; SIGINT after that ends it at once |
//!
//! When no session is left and nothing is under way, or the time is over, [`Server::stop`] ends the rest: what is under
//! way with `#`, sessions, connections in order, and then everything that tells others of it.
//!
//! The newest process waits for older ones as it does for sessions of its own (`server::handover`): their peers' TLS may
//! be here, and to a service manager the newest one's end is the service's. When that time is over they have
//! [`OLDER_TIMEOUT`] more, and what is relayed to them ends last.
//!
//! SIP clients and HEP agents hold connections for as long as they live, so nobody waits for them, or for long: they come
//! back, to whoever listens then.

use std::sync::Arc;
use std::time::Duration;

use tcp_transport::Registry;
use tcp_transport::connection::CloseReason;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::handover::{self, HandOver};
use super::leavers::Leavers;
use super::lifecycle::{Drain, DrainCause};
use super::listeners::ReopenError;
use super::network::Carried;
use super::{Order, SHUTDOWN, Server, hep};
use crate::msrp::Drains;

/// How often a draining relay looks whether it is empty.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long connections have to close in order once nothing is under way any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long older processes have after that: told to stop when this one was, they close their connections and write
/// their records then. One that was told nothing is waited for as long, and goes on.
const OLDER_TIMEOUT: Duration = Duration::from_secs(5);

impl Server {
    /// What others want of whoever holds the server ([`Control::order`](super::Control::order)). It is given away once;
    /// whoever asks again gets none.
    pub fn take_orders(&mut self) -> mpsc::Receiver<Order> {
        std::mem::replace(&mut self.orders, mpsc::channel(1).1)
    }

    /// Begins to drain, or goes on with another end. Handshakes under way are finished.
    pub fn drain(&self, drain: Drain) {
        let control = &self.control;
        let _runtime = control.runtime.enter();
        // A reload is over, or comes after it: it opens nothing that was closed here.
        let _no_reload = control.reloading.lock();
        let relays_until = if drain.cause == DrainCause::Upgrade { drain.until } else { None };
        control.relay().set_draining(Some(Drains { relays_until }));
        control.lifecycle.set(Some(drain));
        control.listeners().close(drain.cause == DrainCause::Upgrade);
        let (sessions, cause) = (control.relay().sessions().len(), drain.cause.as_str());
        let seconds = drain.left().map(|left| left.as_secs());
        info!(cause, sessions, seconds, "draining: nothing new is taken");
    }

    /// Another process has taken over: drains what is left here, and lets go of what is that one's now.
    pub fn hand_over(&mut self, handed: HandOver) {
        let HandOver { channel, taken, pid } = handed;
        let channel = Arc::new(channel);
        let config = self.control.config();
        let upgrade = config.upgrade.as_ref();
        let timeout = upgrade.map_or(config.timeouts.drain_timeout, |upgrade| upgrade.drain_timeout);
        self.drain(Drain::now(DrainCause::Upgrade, Some(timeout)));
        let network = self.control.network();
        network.generations.follow(&network.relay, pid, Arc::clone(&channel));
        self.tasks.spawn(handover::receive(Arc::clone(network), channel));
        // The next process has connections of its own to SIP upstreams, which may take one of ours for one of its.
        self.upstreams.abort_all();
        if let Some(mut admin) = self.admin.take() {
            admin.disown(&taken);
            tokio::spawn(admin.stop());
        }
    }

    /// Takes a drain back: listens again where it did.
    ///
    /// # Errors
    /// An address cannot be listened on any more. It goes on draining then.
    pub fn cancel_drain(&self) -> Result<(), ReopenError> {
        let control = &self.control;
        let _runtime = control.runtime.enter();
        let _no_reload = control.reloading.lock();
        control.listeners().reopen(control.network())?;
        control.relay().set_draining(None);
        control.lifecycle.set(None);
        info!("not draining any more");
        Ok(())
    }

    /// Waits until a drain is over: nothing is left, or its time has passed. Never completes without one.
    pub async fn drained(&self) {
        let mut drains = self.control.drains();
        loop {
            let drain = *drains.borrow_and_update();
            let over = async {
                match drain {
                    None => std::future::pending().await,
                    Some(Drain { until: None, cause, .. }) => self.empty(cause).await,
                    Some(Drain { until: Some(until), cause, .. }) => {
                        let _ = tokio::time::timeout_at(until.into(), self.empty(cause)).await;
                    }
                }
            };
            tokio::select! {
                () = over => return,
                // It is there for as long as we are.
                _ = drains.changed() => {}
            }
        }
    }

    /// Waits until no session is left and nothing is under way, here and in the processes before this one.
    async fn empty(&self, cause: DrainCause) {
        let relay = self.control.relay();
        let (connections, generations) =
            (&self.control.network().connections, &self.control.network().generations);
        let mut leavers = Leavers::new(cause);
        loop {
            let stay = leavers.let_go(connections);
            // In the order in which a connection goes from one to the next, so that none is missed between two.
            let opening = self.control.listeners().is_opening();
            let underway = generations.underway() > 0 || !generations.is_empty();
            let idle = || connections.snapshot().iter().all(|(_, carried)| carried.is_idle());
            if !opening && !underway && !stay && relay.sessions().is_empty() && idle() {
                return;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    /// Stops: drains for up to `timeouts.drain_timeout` (or what is left of a drain that ends earlier) or until `hurry`
    /// is ready, ends what is left with `#`, and closes every connection in order. Older processes have 5 s more then, or
    /// until they have ended or `hurry` is ready. Last, session records get the time that `records.flush_timeout` gives
    /// them, or until `hurry` is ready.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let mut drain = Drain::now(DrainCause::Signal, Some(self.control.config().timeouts.drain_timeout));
        let before = self.control.drain();
        if let Some(before) = before {
            drain.until = before.until.into_iter().chain(drain.until).min();
        }
        self.drain(drain);
        let mut hurry = std::pin::pin!(hurry);
        let mut hurried = tokio::select! {
            biased;
            () = self.drained() => false,
            () = &mut hurry => true,
        };
        self.control.listeners().stop().await;
        self.tasks.shutdown().await;
        self.upstreams.shutdown().await;
        let connections = &self.control.network().connections;
        for (_, carried) in connections.snapshot() {
            carried.wind_up();
        }
        // Before their connections end, so that their end says why.
        self.control.records().set_stopping();
        self.control.relay().end_all_sessions();
        close_all(connections).await;
        if !self.older.is_empty() {
            if !hurried {
                let older = async { while self.older.join_next().await.is_some() {} };
                tokio::select! {
                    biased;
                    _ = tokio::time::timeout(OLDER_TIMEOUT, older) => {}
                    () = &mut hurry => hurried = true,
                }
            }
            // They give us no connection any more. After that, so that the last of what they have to say arrives.
            self.older.shutdown().await;
            let underway = self.control.network().generations.end_underway();
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, underway).await;
            // Whoever has turned out to be for none of them meanwhile is served here.
            close_all(connections).await;
        }
        if let Some(threads) = &self.control.network().threads
            && tokio::time::timeout(CLOSE_TIMEOUT, threads.stop()).await.is_err()
        {
            warn!("a thread for connections does not end: it is left");
        }
        if let Some(counters) = self.control.hep_counters() {
            hep::log_end(&counters);
        }
        if let Some(tracing) = self.control.take_tracing() {
            tracing.stop().await;
        }
        // Asked to hurry before, it has done so.
        let hurry = async {
            match hurried {
                true => std::future::pending().await,
                false => hurry.await,
            }
        };
        self.control.records().stop(hurry).await;
        let is_ours = before.is_none_or(|before| before.cause != DrainCause::Upgrade);
        if let Some(upgrade) = self.control.config().upgrade.as_ref().filter(|_| is_ours) {
            handover::remove(&upgrade.socket);
        }
        if let Some(admin) = self.admin.take() {
            admin.stop().await;
        }
    }
}

/// Closes the connections that there are, in order.
async fn close_all(connections: &Registry<Carried>) {
    let left = connections.close_all(CloseReason::Local(SHUTDOWN.into()), CLOSE_TIMEOUT).await;
    if left > 0 {
        info!(left, "connections did not close in time");
    }
}
