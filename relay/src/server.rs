//! The relay on real sockets: listeners, connections and the tasks that drive them.
//!
//! [`Server::start`] binds the listeners, so that their ports are known, makes the
//! [`Relay`] that calls itself by them, and begins to accept. Each connection is
//! one task: `tcp-transport`'s driver, with `connection::MsrpConnection` or `sip::connection::SipConnection` as the
//! protocol on it.
//! [`Server::stop`] ends it all in order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::Rng as _;
use tcp_transport::hep::SenderError;
use tcp_transport::{BindError, Ledger, Threads};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::admin::{AdminError, AdminServer};
use crate::config::{AdminAddress, Config, ConfigErrors};
use crate::credentials::Credentials as _;
use crate::msrp::{Random, Relay, SettingsError, WallClock};
use crate::records::{Records, RecordsError};
use crate::sip::ShortSecret;

mod connection;
mod control;
mod credentials;
pub mod handover;
mod hep;
mod inherit;
mod leavers;
pub mod lifecycle;
mod listeners;
mod network;
pub mod notify;
mod observer;
pub(crate) mod occasion;
mod pace;
mod reload;
mod room;
mod sip;
mod stop;
pub mod tls;
mod trace;
mod websocket;

use self::control::Parts;
pub use self::control::{ConnectionInfo, Control, Started};
use self::credentials::ChainResolver;
use self::handover::{Endpoint, Generations, Moves};
pub use self::handover::{HandOver, OlderProcess, Takeover, TakeoverError};
use self::hep::Concentrator;
pub use self::hep::HepCounters;
pub use self::inherit::{FromEnv, Inherited};
use self::lifecycle::Lifecycle;
pub use self::lifecycle::{Drain, DrainCause, DrainStatus, Order, Reply};
pub use self::listeners::ReopenError;
use self::listeners::{Listeners, Opened};
use self::network::{Network, RelayDialer};
pub use self::observer::{SessionEvent, SessionEvents, SessionFacts, Way};
pub use self::reload::{NeedsRestart, NotReopened, Reload, Reloaded};
use self::room::RoomMaker;
pub use self::sip::SipCounters;
pub use self::trace::{TraceDestination, TraceSwitches};

/// How often expired sessions are looked for. They forward nothing from the moment they expire; this
/// only frees what they hold.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What the threads for connections are called, with their number.
const THREAD_NAME: &str = "connections";

/// Why connections are closed at the end.
const SHUTDOWN: &str = "shutdown";

/// A relay that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A TLS domain's files are not what they should be.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A listener's host does not resolve.
    #[error("cannot resolve the listener {listener}")]
    Resolve {
        /// The listener.
        listener: String,
        /// What the system says.
        source: io::Error,
    },
    /// A listener's socket cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener of this relay has the address, or a part of it.
    #[error("the listener {listener} of this relay is in the way")]
    InTheWay {
        /// That one.
        listener: String,
        /// What the system says.
        source: BindError,
    },
    /// The collectors cannot be used as they are configured.
    #[error(transparent)]
    Trace(#[from] SenderError),
    /// There are no threads for connections.
    #[error("cannot start the threads for connections (`threads`)")]
    Threads(#[source] io::Error),
    /// The names make no URIs.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The admin interface cannot be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Session records cannot be written.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Another process cannot find this one.
    #[error("cannot listen for the next process at {path} (`upgrade.socket`)")]
    Upgrade {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process that runs does not let this one take over.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// `sip.flow_secret` is too short.
    #[error(transparent)]
    FlowSecret(#[from] ShortSecret),
}

/// A running relay.
#[derive(Debug)]
pub struct Server {
    control: Arc<Control>,
    tasks: JoinSet<()>,
    /// Keep connections to SIP upstreams open, and ask those for their health.
    upstreams: JoinSet<()>,
    /// Listen to the processes before this one, each until that has ended.
    older: JoinSet<()>,
    orders: mpsc::Receiver<Order>,
    /// How it is managed, if that is configured.
    admin: Option<AdminServer>,
    /// Where the next process finds this one, and how that is moved, until it is waited for.
    endpoint: Option<Endpoint>,
    moves: Option<Moves>,
}

impl Server {
    /// Binds the listeners and begins to accept.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left open then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, Inherited::default()).await
    }

    /// As [`start`](Self::start), with sockets for the listeners that somebody else has opened.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left open then.
    pub async fn start_with(config: Config, mut inherited: Inherited) -> Result<Self, StartError> {
        let mut server = Self::begin(config, &mut inherited, None).await?;
        server.wait_for_successor();
        Ok(server)
    }

    /// As [`start`](Self::start), with what another process gives away, which drains from then on.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left open then, and the other process goes on as before.
    pub async fn start_after(config: Config, mut before: Takeover) -> Result<Self, StartError> {
        let mut inherited = std::mem::take(&mut before.inherited);
        let mut server = Self::begin(config, &mut inherited, Some(&mut before)).await?;
        let generations = Arc::clone(&server.control.network().generations);
        let mut taken = inherited.taken().to_vec();
        drop(inherited);
        taken.extend(server.endpoint.as_ref().map(|endpoint| endpoint.path().to_owned()));
        // They are the other process' until it says otherwise, or if this one does not get that far.
        let sockets = server.admin.as_mut().map(|admin| admin.disown(&taken)).unwrap_or_default();
        let control = Arc::clone(&server.control);
        let accept = || {
            control.relay().set_has_kin(true);
            control.listeners().set_accepting(true);
        };
        let all = before.finish(taken, &generations, accept).await?;
        if let Some(admin) = &mut server.admin {
            admin.own(sockets);
        }
        let last = all.last().cloned();
        for generation in all {
            let network = Arc::clone(server.control.network());
            server.older.spawn(Generations::watch(network, generation));
        }
        if let Some(last) = last {
            last.told().await;
        }
        server.wait_for_successor();
        Ok(server)
    }

    /// Lets another process take over.
    fn wait_for_successor(&mut self) {
        let admin = self.admin.as_mut().map(AdminServer::take_held).unwrap_or_default();
        if let Some(moves) = self.moves.take() {
            let endpoint = self.endpoint.take();
            self.tasks.spawn(handover::offer(endpoint, moves, Arc::clone(&self.control), admin));
        }
    }

    /// Everything but waiting for the next process; after another one, nothing is accepted yet.
    async fn begin(
        config: Config,
        inherited: &mut Inherited,
        mut before: Option<&mut Takeover>,
    ) -> Result<Self, StartError> {
        let endpoint = match &config.upgrade {
            None => None,
            Some(settings) => {
                let failed = |source| StartError::Upgrade { path: settings.socket.clone(), source };
                let taken = before.as_mut().map(|before| before.take_endpoint(settings)).transpose();
                match taken.map_err(failed)?.flatten() {
                    Some(endpoint) => Some(endpoint),
                    None => Some(Endpoint::bind(&settings.socket).map_err(failed)?),
                }
            }
        };
        let tags = before.as_ref().map(|before| before.tags()).unwrap_or_default();
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let domains = Arc::new(tls::server_domains(&config)?);
        let client_domains = tls::client_domains(&config)?;
        tls::warn_of_expiry(&domains, &client_domains, config.tls.expiry_warning);

        let concentrator = Concentrator::new(config.hep.clone());
        let mut opened = Vec::new();
        for listener in &config.listeners {
            opened.push(Opened::open(listener, &config, &domains, &concentrator, inherited)?);
        }
        let advertised: Vec<_> = opened.iter().filter_map(|opened| opened.msrp(&config.domain)).collect();
        let sip_advertised = opened.iter().filter_map(|opened| opened.sip(&config.domain)).collect();
        let relay = Relay::beside(
            &tags,
            reload::settings(&config, advertised),
            Arc::new(SystemRandom),
            Box::new(SystemClock),
        )?;
        let threads = NonZeroUsize::new(config.threads)
            .map(|count| Threads::start(count, THREAD_NAME))
            .transpose()
            .map_err(StartError::Threads)?;
        let network = Arc::new(Network::new(
            relay,
            &config,
            Arc::clone(&domains),
            client_domains,
            sip_advertised,
            threads.map(Arc::new),
        )?);
        network.relay.set_dialer(Box::new(RelayDialer::new(&network)));
        network.ledger().set_room_maker(Box::new(RoomMaker::new(&network)));
        let session_events = SessionEvents::default();
        let records = Records::start(&config.records)?;
        let recorder = records.recorder(reload::facts(&config, &network));
        network.relay.set_observer(Box::new((session_events.clone(), recorder.clone())));
        config.auth.credentials.begin();
        network.relay.set_resolver(Box::new(ChainResolver(Arc::downgrade(&network.relay))));

        let tracing = trace::start(&config, listeners::names(&opened), &network)?;
        concentrator.forward_to(tracing.as_ref().map(trace::Tracing::sender).as_ref());
        let mut tasks = JoinSet::new();
        let listeners = Listeners::new(before.is_none());
        let (mut msrp, mut sip) = (0.., 0..);
        for (opened, listener) in opened.into_iter().zip(&config.listeners) {
            let msrp = if listener.serves_msrp() { msrp.next() } else { None };
            let sip = if listener.sip { sip.next() } else { None };
            listeners.run(opened, &network, msrp, sip);
        }
        let mut upstreams = JoinSet::new();
        if let Some(sip) = &network.sip {
            upstreams.spawn(Arc::clone(sip).run(Arc::clone(&network)));
        }
        let sweeper = Arc::clone(&network.relay);
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                sweeper.sweep(now());
            }
        });
        tasks.spawn(recorder.record_lasting(Arc::clone(&network.relay), records.interim()));
        let (lifecycle, orders, moves) = Lifecycle::new();
        let parts = Parts {
            network,
            config,
            sessions: session_events,
            concentrator,
            listeners,
            tracing: Mutex::new(tracing),
            records,
        };
        let control = Arc::new(Control::new(parts, lifecycle));
        tasks.spawn(remind_of_expiry(Arc::clone(&control)));
        let config = control.config();
        let admin = config.admin.as_ref();
        let admin =
            admin.map(|admin| AdminServer::start_with(admin, Arc::clone(&control), inherited)).transpose()?;
        for address in inherited.addresses() {
            error!(address, "no listener is for this socket, which was handed over to us: it serves nobody");
        }
        control.listeners().keep(inherited);
        let older = JoinSet::new();
        let moves = Some(moves);
        Ok(Self { control, tasks, upstreams, older, orders, admin, endpoint, moves })
    }

    /// Where it listens, with the scheme of the listener's URI, in the order of the configuration.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.control.addresses()
    }

    /// Where the admin interface listens.
    pub fn admin_addresses(&self) -> &[AdminAddress] {
        self.admin.as_ref().map_or(&[], AdminServer::addresses)
    }

    /// What can be asked of it and done to it while it runs.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// All connections: limits, events, and those that are not up yet.
    pub fn ledger(&self) -> &Arc<Ledger> {
        self.control.ledger()
    }

    /// The relay itself.
    pub fn relay(&self) -> &Arc<Relay> {
        self.control.relay()
    }
}

/// Where it was not stopped in order.
impl Drop for Server {
    fn drop(&mut self) {
        self.control.listeners().abort();
        if let Some(threads) = &self.control.network().threads {
            threads.end();
        }
    }
}

/// Looks at the certificates once a day, with the domains and the window of that moment. It never completes.
async fn remind_of_expiry(control: Arc<Control>) {
    loop {
        tokio::time::sleep(tls::EXPIRY_INTERVAL).await;
        let window = *control.expiry_warning.lock();
        tls::warn_of_expiry(control.server_domains(), control.client_domains(), window);
    }
}

/// The clock of all connections: tokio's.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Random bytes from the thread's generator, which the system seeds.
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill_bytes(bytes);
    }
}

struct SystemClock;

impl WallClock for SystemClock {
    fn unix_millis(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
