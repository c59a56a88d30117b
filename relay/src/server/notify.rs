//! What the service manager is told (sd_notify(3)): systemd, or whoever else has set `NOTIFY_SOCKET`. Without that,
//! nothing.
//!
//! | when | what |
//! |---|---|
//! | every listener accepts | `READY=1`, `MAINPID` |
//! | a reload begins, ends | `RELOADING=1` with `MONOTONIC_USEC`, then `READY=1` (`Type=notify-reload`) |
//! | it stops | `STOPPING=1`, and while it drains `EXTEND_TIMEOUT_USEC` every second |
//! | it drains | `STATUS=` with what is left, in older processes too, every second |
//! | it has stopped | `STATUS=stopped` |
//! | every half of `WATCHDOG_USEC` | `WATCHDOG=1`, by [`watchdog`] |
//! | the next process has taken over | `MAINPID=` with its number, and nothing any more |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{Control, DrainCause, DrainStatus};

/// How often what is left is told while the relay drains, and by how much more than that the time to stop is extended.
const TICK: Duration = Duration::from_secs(1);
const EXTENSION: Duration = Duration::from_secs(30);

/// Who tells it.
#[derive(Debug, Default)]
pub struct Notifier {
    silent: AtomicBool,
}

impl Notifier {
    /// It serves.
    pub fn ready(&self, status: &str) {
        // Whoever was started by the process before it is not known to the service manager yet.
        let pid = std::process::id();
        self.tell(&[NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// It reads its configuration again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!(%error, "no monotonic time"),
        }
    }

    /// How it is, in a line for people.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// It stops.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Another process is the service from now on: nothing more is told by this one.
    pub fn hand_over(&self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
        self.silent.store(true, Ordering::Release);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.silent.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            warn!(%error, "the service manager cannot be told");
        }
    }
}

/// One line for people: what is left.
#[must_use]
pub fn drain_line(status: &DrainStatus) -> String {
    let DrainStatus { drain, sessions, busy, older_processes, older_sessions } = status;
    let older = match older_processes {
        0 => String::new(),
        _ => format!(", {older_sessions} sessions in {older_processes} older processes"),
    };
    let left = drain.left().map(|left| format!(", {} s at most", left.as_secs())).unwrap_or_default();
    format!("draining: {sessions} sessions, {busy} busy connections{older}{left}")
}

/// Tells how a drain is going, whenever there is one, until it is dropped.
pub async fn drains(control: Arc<Control>, notifier: Arc<Notifier>) {
    let mut drains = control.drains();
    loop {
        let drain = *drains.borrow_and_update();
        match drain {
            Some(drain) => {
                if let Some(status) = control.drain_status() {
                    let line = drain_line(&status);
                    if drain.cause == DrainCause::Signal {
                        let micros = u32::try_from((TICK + EXTENSION).as_micros()).unwrap_or(u32::MAX);
                        notifier.tell(&[NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status(&line)]);
                    } else {
                        notifier.status(&line);
                    }
                }
                let _ = tokio::time::timeout(TICK, drains.changed()).await;
            }
            None => {
                if drains.changed().await.is_err() {
                    return;
                }
                if drains.borrow().is_none() {
                    notifier.status("serving");
                }
            }
        }
    }
}

/// Feeds the service manager's watchdog, if it has one for this process, until it is dropped.
///
/// What it proves: the runtime runs tasks, on some other thread than this one as it comes, no lock around the sessions is
/// held for ever, and every thread for connections gets from one task to the next. Traffic that is slow for want of
/// processors does not keep it from that.
pub async fn watchdog(control: Arc<Control>, notifier: Arc<Notifier>) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(timeout / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let control = Arc::clone(&control);
        if is_alive(control, timeout / 4).await {
            notifier.tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Whether all of it gets on, within the time.
async fn is_alive(control: Arc<Control>, patience: Duration) -> bool {
    let mut all = JoinSet::new();
    for number in 0..control.threads().len() {
        let control = Arc::clone(&control);
        all.spawn(async move {
            match control.threads().get(number) {
                Some(thread) if !thread.gets_on(patience).await => {
                    warn!(thread = number, "a thread for connections hangs");
                    false
                }
                _ => true,
            }
        });
    }
    all.spawn(async move {
        control.relay().sessions().len();
        true
    });
    while let Some(alive) = all.join_next().await {
        if !alive.unwrap_or(false) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::server::Server;

    #[tokio::test]
    async fn a_thread_that_hangs_ends_the_watchdogs_food_and_a_server_that_is_dropped_its_threads() {
        let text = "domain: relay.test\nthreads: 2\nlisteners: [ { uri: 'msrp://127.0.0.1:0' } ]\n";
        let config = Config::parse(text, Path::new(""), "relay.yaml");
        let server = Server::start(config.unwrap_or_else(|errors| panic!("{errors}"))).await.unwrap();
        let control = Arc::clone(server.control());
        assert!(is_alive(Arc::clone(&control), Duration::from_secs(60)).await);
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (dropped, ended) = tokio::sync::oneshot::channel::<()>();
        {
            let _entered = control.network().enter_thread();
            tokio::spawn(async move {
                let _ = wait.recv();
                let _dropped = dropped;
                std::future::pending::<()>().await;
            });
        }
        assert!(!is_alive(Arc::clone(&control), Duration::from_millis(100)).await);
        drop(done);
        assert!(is_alive(Arc::clone(&control), Duration::from_secs(60)).await);
        // Without `stop`: its connections do not go on without it.
        drop(server);
        assert!(ended.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_hangs_does_not_keep_the_relay_from_ending() {
        let text = "domain: relay.test\nthreads: 1\nlisteners: [ { uri: 'msrp://127.0.0.1:0' } ]\n";
        let config = Config::parse(text, Path::new(""), "relay.yaml");
        let server = Server::start(config.unwrap_or_else(|errors| panic!("{errors}"))).await.unwrap();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        {
            let _entered = server.control().network().enter_thread();
            tokio::spawn(async move {
                let _ = wait.recv();
            });
        }
        server.stop(std::future::pending()).await;
        drop(done);
    }
}
