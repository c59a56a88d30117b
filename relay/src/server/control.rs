//! What can be asked of a running relay, and done to it, from outside of its traffic.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tcp_transport::ledger::{Entry, Phase};
use tcp_transport::threads::Thread;
use tcp_transport::tls::{ClientDomains, ServerDomains};
use tcp_transport::{ConnectionId, KeepAlive, Ledger, State};
use tokio::runtime::Handle;

use super::handover::OlderProcess;
use super::hep::{Concentrator, HepCounters};
use super::lifecycle::Lifecycle;
use super::listeners::Listeners;
use super::network::{Carried, Network};
use super::now;
use super::observer::SessionEvents;
use super::sip::SipCounters;
use super::trace::{TraceSwitches, Tracing};
use crate::config::Config;
use crate::credentials::CredentialChain;
use crate::msrp::Relay;
use crate::records::Records;

/// A running relay, for whoever manages it: the command line, the admin interface. It may be asked from any thread,
/// and nothing here waits for traffic.
#[derive(Debug)]
pub struct Control {
    parts: Parts,
    /// What counts now.
    config: ArcSwap<Config>,
    /// Held by who reads the configuration again, begins or ends a drain, or gives the listeners to another process: one
    /// after the other.
    pub(super) reloading: Mutex<()>,
    /// `tls.expiry_warning`.
    pub(super) expiry_warning: Arc<Mutex<Duration>>,
    started: Started,
    /// What the relay was started on: whatever is begun by order of the admin interface, which has a runtime of its own,
    /// belongs there.
    pub(super) runtime: Handle,
    pub(super) lifecycle: Lifecycle,
}

/// What a running relay consists of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) network: Arc<Network>,
    /// What it was started with, but its credentials.
    pub(super) config: Config,
    pub(super) sessions: SessionEvents,
    pub(super) concentrator: Arc<Concentrator>,
    /// Where it listens.
    pub(super) listeners: Listeners,
    pub(super) tracing: Mutex<Option<Tracing>>,
    pub(super) records: Records,
}

/// When the relay was started.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// By the clock of its connections.
    pub at: Instant,
    /// By the clock on the wall.
    pub time: SystemTime,
}

/// What is known of one connection.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// What the ledger knows.
    pub entry: Arc<Entry>,
    /// Its state in tcpops' words.
    pub state: State,
    /// How many bytes wait to be written; of one that is up.
    pub queued_bytes: Option<usize>,
    /// The number of its MSRP link, by which log lines name it.
    pub link: Option<u64>,
    /// How many MSRP sessions use it.
    pub sessions: Option<usize>,
}

impl Control {
    /// To be called on the runtime that the relay is started on.
    pub(super) fn new(mut parts: Parts, lifecycle: Lifecycle) -> Self {
        let config = parts.config.clone();
        // Those that a reload replaces are to end: a database is probed for as long as it is there.
        parts.config.auth.credentials = CredentialChain::default();
        Self {
            expiry_warning: Arc::new(Mutex::new(config.tls.expiry_warning)),
            config: ArcSwap::from_pointee(config),
            runtime: Handle::current(),
            reloading: Mutex::default(),
            parts,
            started: Started { at: now(), time: SystemTime::now() },
            lifecycle,
        }
    }

    pub(super) fn network(&self) -> &Arc<Network> {
        &self.parts.network
    }

    pub(super) fn listeners(&self) -> &Listeners {
        &self.parts.listeners
    }

    pub(super) fn concentrator(&self) -> &Arc<Concentrator> {
        &self.parts.concentrator
    }

    pub(super) fn tracing(&self) -> &Mutex<Option<Tracing>> {
        &self.parts.tracing
    }

    /// For its end.
    pub(super) fn take_tracing(&self) -> Option<Tracing> {
        self.parts.tracing.lock().take()
    }

    /// The configuration as it was last read and taken over. What of it needs a restart is not what counts.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub(super) fn set_config(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    /// What it was started with, but [`credentials`](crate::config::Auth::credentials), of which there are none here.
    pub fn started_with(&self) -> &Config {
        &self.parts.config
    }

    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.parts.listeners.addresses()
    }

    /// When it was started.
    pub fn started(&self) -> Started {
        self.started
    }

    /// The clock of its connections and sessions.
    pub fn now(&self) -> Instant {
        now()
    }

    /// The relay itself: its sessions and counters.
    pub fn relay(&self) -> &Arc<Relay> {
        &self.parts.network.relay
    }

    /// All connections: limits, events, totals, and those that are not up yet.
    pub fn ledger(&self) -> &Arc<Ledger> {
        self.parts.network.ledger()
    }

    /// The TLS domains of listeners.
    pub fn server_domains(&self) -> &ServerDomains {
        &self.parts.network.server_domains
    }

    /// The TLS domains of connections that the relay opens.
    pub fn client_domains(&self) -> &ClientDomains {
        &self.parts.network.client_domains
    }

    /// `tls.expiry_warning` of this moment.
    pub fn expiry_warning(&self) -> Duration {
        *self.expiry_warning.lock()
    }

    /// What happens to sessions, for whoever wants to hear of it.
    pub fn session_events(&self) -> &SessionEvents {
        &self.parts.sessions
    }

    /// What collectors are told; `None`: there is none.
    pub fn trace(&self) -> Option<TraceSwitches> {
        self.parts.tracing.lock().as_ref().map(Tracing::switches)
    }

    /// What has become of the HEP that others have sent; `None`: no listener is for it.
    pub fn hep_counters(&self) -> Option<HepCounters> {
        self.parts.concentrator.counters(&self.parts.listeners.hep())
    }

    /// What the SIP edge has done, and its upstreams with whether each takes requests; `None`: there is no edge.
    pub fn sip(&self) -> Option<(SipCounters, Vec<(String, bool)>)> {
        self.parts.network.sip.as_ref().map(|sip| (sip.counters(), sip.upstreams_up()))
    }

    /// The threads for connections; none where those are on the runtime that the relay was started on.
    pub fn threads(&self) -> &[Thread] {
        self.parts.network.threads.as_ref().map_or(&[], |threads| threads.all())
    }

    /// The processes before this one that still have sessions.
    pub fn older_processes(&self) -> Vec<OlderProcess> {
        self.parts.network.generations.older()
    }

    /// How many connections were handed to other processes since the start.
    pub fn handed_connections(&self) -> u64 {
        self.parts.network.generations.handed().0
    }

    /// What is written of sessions.
    pub fn records(&self) -> &Records {
        &self.parts.records
    }

    /// All connections of this moment, by number.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let mut entries = self.ledger().snapshot();
        entries.retain(|entry| entry.phase() != Phase::Ended);
        entries.sort_unstable_by_key(|entry| entry.id());
        entries.into_iter().map(|entry| self.info(entry)).collect()
    }

    /// One connection, if it is there.
    pub fn connection(&self, id: ConnectionId) -> Option<ConnectionInfo> {
        self.ledger().entry(id).filter(|entry| entry.phase() != Phase::Ended).map(|entry| self.info(entry))
    }

    fn info(&self, entry: Arc<Entry>) -> ConnectionInfo {
        let connections = &self.parts.network.connections;
        let carried = connections.by_id(entry.id()).map(|(_, carried)| carried);
        let link = match &carried {
            Some(Carried::Msrp(link)) => Some(link),
            _ => None,
        };
        ConnectionInfo {
            state: connections.state(entry.id()),
            queued_bytes: carried.as_ref().map(Carried::queued_bytes),
            link: link.map(|link| link.id()),
            sessions: link.map(|link| link.sessions()),
            entry,
        }
    }

    /// Closes a connection in order; its sessions end. `false`: there is none of that number.
    pub fn close_connection(&self, id: ConnectionId) -> bool {
        // One that has ended is still listed until its task is done with it.
        self.ledger().entry(id).is_some_and(|entry| entry.phase() != Phase::Ended)
            && self.parts.network.connections.close(id)
    }

    /// Sets how long a connection may be idle; `None`: for ever. `false`: there is none of that number.
    pub fn set_connection_lifetime(&self, id: ConnectionId, lifetime: Option<Duration>) -> bool {
        self.parts.network.connections.set_lifetime(id, lifetime)
    }

    /// Turns TCP keep-alive of a connection on, or off with `None`.
    ///
    /// # Errors
    /// [`std::io::ErrorKind::NotFound`]: there is no such connection. Else what the system says.
    pub fn set_connection_keepalive(
        &self,
        id: ConnectionId,
        keepalive: Option<KeepAlive>,
    ) -> std::io::Result<()> {
        match keepalive {
            Some(keepalive) => self.parts.network.connections.keepalive_enable(id, keepalive),
            None => self.parts.network.connections.keepalive_disable(id),
        }
    }

    /// Has the events of a connection told where only those of marked ones are. `false`: there is none of that number.
    pub fn mark_connection(&self, id: ConnectionId) -> bool {
        self.parts.network.connections.enable_closed_event(id)
    }
}
