//! The processes before this one that still have sessions.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::channel::{Channel, Packet};
use super::message::Message;
use super::receive;
use crate::msrp::{ProcessTag, Relay};
use crate::server::network::Network;

/// How long a process that is taken over from is waited for, until it has told who is the service now.
const TOLD_TIMEOUT: Duration = Duration::from_secs(2);

/// How often those that end are counted.
const END_POLL: Duration = Duration::from_millis(10);

/// One of them.
#[derive(Debug)]
pub(in crate::server) struct Generation {
    pub(super) tag: ProcessTag,
    pub(super) pid: u32,
    pub(super) channel: Arc<Channel>,
    /// How many sessions it has, as it has said last.
    sessions: AtomicU64,
    /// It has said something.
    heard: Notify,
}

impl Generation {
    pub(super) fn new(tag: ProcessTag, pid: u32, channel: Channel) -> Arc<Self> {
        let channel = Arc::new(channel);
        Arc::new(Self { tag, pid, channel, sessions: AtomicU64::new(0), heard: Notify::new() })
    }

    /// Waits until it has told the service manager who has taken over, which it does before it says anything here.
    pub(in crate::server) async fn told(&self) {
        // A service manager that hears it the other way round may not believe it, that is all.
        let _ = tokio::time::timeout(TOLD_TIMEOUT, self.heard.notified()).await;
    }
}

/// All of them. While there is none, that is all that a new connection costs: one load.
#[derive(Debug, Default)]
pub(in crate::server) struct Generations {
    count: AtomicUsize,
    table: Mutex<Vec<Arc<Generation>>>,
    /// Connections of which it is not known yet whose they are.
    sorted: AtomicUsize,
    /// Connections whose bytes are relayed to them.
    relayed: AtomicUsize,
    /// Connections handed to them since the start.
    handed: AtomicU64,
    /// The process after this one.
    successor: OnceLock<(u32, Arc<Channel>)>,
    /// They are another process' to care for.
    forgotten: watch::Sender<bool>,
    /// What is relayed or not known yet ends, as this process does.
    ending: watch::Sender<bool>,
}

/// What is known of a process before this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OlderProcess {
    /// Its process number.
    pub pid: u32,
    /// How many sessions it has left, as it has said last.
    pub sessions: u64,
}

impl Generations {
    pub(in crate::server) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// The one whose sessions have this tag.
    pub(super) fn of(&self, tag: ProcessTag) -> Option<Arc<Generation>> {
        self.table.lock().iter().find(|generation| generation.tag == tag).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Generation>> {
        self.table.lock().clone()
    }

    pub(super) fn add(&self, generation: Arc<Generation>) {
        let mut table = self.table.lock();
        table.push(generation);
        self.count.store(table.len(), Ordering::Relaxed);
    }

    /// This one has ended; with the last one no other process has sessions, unless another has taken over meanwhile.
    fn forget(&self, relay: &Relay, tag: ProcessTag) {
        let mut table = self.table.lock();
        table.retain(|generation| generation.tag != tag);
        self.count.store(table.len(), Ordering::Relaxed);
        if table.is_empty() && self.successor.get().is_none() {
            relay.set_has_kin(false);
        }
    }

    /// Whether the sessions of this tag may be in a process that is reached: the one after this one knows all others.
    pub(in crate::server) fn is_reached(&self, tag: ProcessTag) -> bool {
        self.successor.get().is_some() || self.of(tag).is_some()
    }

    /// The channel to the process that has these sessions, or to the one that knows who has, with its number.
    pub(super) fn towards(&self, tag: ProcessTag) -> Option<(u32, Arc<Channel>)> {
        let generation = self.of(tag).map(|generation| (generation.pid, Arc::clone(&generation.channel)));
        generation.or_else(|| self.successor.get().cloned())
    }

    /// The next process has taken over, and has those before this one from now on.
    pub(in crate::server) fn follow(&self, relay: &Relay, pid: u32, channel: Arc<Channel>) {
        // All of it at once, as the last of those before may end at this moment.
        let mut table = self.table.lock();
        let _ = self.successor.set((pid, channel));
        relay.set_has_kin(true);
        table.clear();
        self.count.store(0, Ordering::Relaxed);
        drop(table);
        self.forgotten.send_replace(true);
    }

    pub(in crate::server) fn older(&self) -> Vec<OlderProcess> {
        let of = |generation: &Arc<Generation>| OlderProcess {
            pid: generation.pid,
            sessions: generation.sessions.load(Ordering::Relaxed),
        };
        self.table.lock().iter().map(of).collect()
    }

    /// How many connections were handed over, and how many of them are relayed now.
    pub(in crate::server) fn handed(&self) -> (u64, usize) {
        (self.handed.load(Ordering::Relaxed), self.relayed.load(Ordering::Relaxed))
    }

    pub(super) fn count_handed(&self) {
        self.handed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that is relayed, while what this gives is there.
    pub(super) fn relay(self: &Arc<Self>) -> Underway {
        Underway::new(self, |generations| &generations.relayed)
    }

    /// Likewise one of which it is not known yet whose it is.
    pub(in crate::server) fn sort(self: &Arc<Self>) -> Underway {
        Underway::new(self, |generations| &generations.sorted)
    }

    /// How many connections are relayed, or not known yet.
    pub(in crate::server) fn underway(&self) -> usize {
        self.relayed.load(Ordering::Relaxed) + self.sorted.load(Ordering::Relaxed)
    }

    /// Ends the connections that are relayed or not known yet, in order, and waits until they have ended.
    pub(in crate::server) async fn end_underway(&self) {
        self.ending.send_replace(true);
        while self.underway() > 0 {
            tokio::time::sleep(END_POLL).await;
        }
    }

    /// Waits until [`end_underway`](Self::end_underway).
    pub(super) async fn ending(&self) {
        // It is there for as long as we are.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }

    /// Listens to one of them until it ends, and forgets it then.
    pub(in crate::server) async fn watch(network: Arc<Network>, generation: Arc<Generation>) {
        let generations = &network.generations;
        let (pid, tag) = (generation.pid, generation.tag);
        let mut forgotten = generations.forgotten.subscribe();
        loop {
            let received = tokio::select! {
                received = generation.channel.receive() => received,
                _ = forgotten.wait_for(|forgotten| *forgotten) => return,
            };
            match received {
                Ok(Some(Packet { message: Message::Left { sessions }, .. })) => {
                    generation.heard.notify_one();
                    generation.sessions.store(sessions, Ordering::Relaxed);
                }
                // For a session here, or of another process before this one.
                Ok(Some(packet)) => receive::take_packet(&network, packet),
                Ok(None) => {
                    info!(pid, %tag, "the process before this one has ended");
                    break;
                }
                Err(error) => {
                    warn!(pid, %tag, %error, "the process before this one is not reached any more");
                    break;
                }
            }
        }
        generations.forget(&network.relay, tag);
    }
}

/// See [`Generations::relay`], [`Generations::sort`].
#[derive(Debug)]
pub(in crate::server) struct Underway {
    generations: Arc<Generations>,
    count: fn(&Generations) -> &AtomicUsize,
}

impl Underway {
    fn new(generations: &Arc<Generations>, count: fn(&Generations) -> &AtomicUsize) -> Self {
        count(generations).fetch_add(1, Ordering::Relaxed);
        Self { generations: Arc::clone(generations), count }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        (self.count)(&self.generations).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::server::handover::HandOver;
    use crate::server::{Endpoint, Server};

    const CONFIG: &str = "domain: relay.test\nlisteners: [ { uri: 'msrp://127.0.0.1:0' } ]\n";

    async fn server() -> Server {
        let config = Config::parse(CONFIG, Path::new(""), "relay.yaml");
        Server::start(config.unwrap_or_else(|errors| panic!("{errors}"))).await.unwrap()
    }

    /// A channel, with the end that the other process has.
    async fn channel() -> (Channel, Channel) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let endpoint = Endpoint::bind(&path).unwrap();
        let ours = Channel::connect(&path).unwrap();
        (ours, endpoint.accept().await.unwrap())
    }

    /// The server with one process before it, and what that one has of the channel.
    async fn with_one_before() -> (Server, ProcessTag, Channel) {
        let (server, (ours, theirs)) = (server().await, channel().await);
        let tag: ProcessTag = "ghjkm".parse().unwrap();
        let network = server.control().network();
        network.generations.add(Generation::new(tag, 1, ours));
        network.relay.set_has_kin(true);
        (server, tag, theirs)
    }

    #[tokio::test]
    async fn with_the_last_one_no_other_process_has_sessions() {
        let (server, tag, theirs) = with_one_before().await;
        let network = server.control().network();
        let generation = network.generations.of(tag).unwrap();
        drop(theirs);
        Generations::watch(Arc::clone(network), generation).await;
        assert!(network.generations.is_empty() && !network.relay.has_kin());
    }

    #[tokio::test]
    async fn who_has_taken_over_has_sessions_whenever_the_last_one_before_ends() {
        // In both orders: its end is noticed before another takes over, or after that.
        for noticed_before in [true, false] {
            let (mut server, tag, _theirs) = with_one_before().await;
            let network = Arc::clone(server.control().network());
            if noticed_before {
                network.generations.forget(&network.relay, tag);
            }
            let (channel, _successor) = channel().await;
            server.hand_over(HandOver { pid: 2, channel, taken: Vec::new() });
            if !noticed_before {
                network.generations.forget(&network.relay, tag);
            }
            assert!(network.relay.has_kin(), "noticed before: {noticed_before}");
            assert!(network.generations.is_reached(tag));
        }
    }
}
