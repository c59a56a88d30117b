//! The relay on real sockets: listeners, connections and the tasks that drive them.
//!
//! [`Server::start`] binds the listeners, so that their ports are known, makes the
//! [`Relay`] that calls itself by them, and begins to accept. Each connection is
//! one task: `tcp-transport`'s driver, with `connection::MsrpConnection` or `sip::connection::SipConnection` as the
//! protocol on it.
//! [`Server::stop`] ends it all in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use tcp_transport::connection::CloseReason;
use tcp_transport::hep::{Dispatch, Receiver, SenderError};
use tcp_transport::tls::ServerDomains;
use tcp_transport::{BindError, BoundListener, Ledger, ListenerSettings, Scheme, Transport};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::admin::{AdminError, AdminServer};
use crate::config::{AdminAddress, Config, ConfigErrors, Host, Listener, ListenerTransport, WebSocket};
use crate::credentials::Credentials as _;
use crate::msrp::{Advertised, Random, Relay, Settings, SettingsError, WallClock, WebSocketLink};
use crate::records::{Facts, Records, RecordsError};
use crate::sip::ShortSecret;

mod connection;
mod control;
mod credentials;
mod hep;
mod network;
mod observer;
pub(crate) mod occasion;
mod pace;
mod sip;
pub mod tls;
mod trace;
mod websocket;

use self::control::Parts;
pub use self::control::{ConnectionInfo, Control, Started};
use self::credentials::ChainResolver;
pub use self::hep::HepCounters;
use self::hep::{Concentrator, Reception};
use self::network::{ListenerAcceptor, Network, RelayDialer, Serves};
pub use self::observer::{SessionEvent, SessionEvents, SessionFacts, Way};
pub use self::sip::SipCounters;
pub use self::tls::Reloaded;
pub use self::trace::{TraceDestination, TraceSwitches};

/// How often expired sessions are looked for. They forward nothing from the moment they expire; this
/// only frees what they hold.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How often a stopping relay looks whether messages are still under way.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long connections have to close in order once nothing is under way any more.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// The collectors cannot be used as they are configured.
    #[error(transparent)]
    Trace(#[from] SenderError),
    /// The names make no URIs.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The admin interface cannot be opened.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Session records cannot be written.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// `sip.flow_secret` is too short.
    #[error(transparent)]
    FlowSecret(#[from] ShortSecret),
}

/// A running relay.
#[derive(Debug)]
pub struct Server {
    control: Arc<Control>,
    drain_timeout: Duration,
    tasks: JoinSet<()>,
    /// How it is managed, if that is configured.
    admin: Option<AdminServer>,
    /// What collectors are told, if there are any.
    tracing: Option<trace::Tracing>,
}

impl Server {
    /// Binds the listeners and begins to accept.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left open then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let domains = Arc::new(tls::server_domains(&config)?);
        let client_domains = tls::client_domains(&config)?;
        tls::warn_of_expiry(&domains, &client_domains, config.tls.expiry_warning);

        let concentrator = Concentrator::new(config.hep.clone());
        let mut hep = Vec::new();
        let mut bound = Vec::new();
        let mut advertised = Vec::new();
        let mut sip_advertised = Vec::new();
        let mut msrp_listeners = Vec::new();
        for listener in &config.listeners {
            let dispatch = listener.hep.then(|| concentrator.dispatch(listener.to_string()));
            hep.extend(dispatch.clone());
            let sockets = bind(listener, &config, &domains, dispatch.as_ref()).await?;
            let bound_port = sockets.first().map_or(listener.port, |socket| socket.local_addr().port());
            let (host, port) = listener.advertised(&config.domain, bound_port);
            let mut serves = Serves {
                name: listener.to_string(),
                websocket: listener.websocket.clone(),
                proxied: !listener.proxy_from.is_empty(),
                hep: dispatch,
                ..Serves::default()
            };
            if listener.sip {
                serves.sip = Some(sip_advertised.len());
                let host = host.to_string().into();
                sip_advertised.push(crate::sip::Advertised {
                    transport: sip_transport(listener),
                    host,
                    port,
                });
            }
            if listener.serves_msrp() {
                serves.msrp = Some(advertised.len());
                msrp_listeners.push((serves.name.clone(), listener.scheme().as_str().to_owned()));
                let chunk_size = |websocket: &WebSocket| WebSocketLink { chunk_size: websocket.chunk_size };
                advertised.push(Advertised {
                    scheme: listener.msrp_scheme(),
                    host: host.to_string(),
                    port,
                    bound_port,
                    websocket: listener.websocket.as_ref().map(chunk_size),
                });
            }
            bound.extend(sockets.into_iter().map(|socket| (serves.clone(), listener.uri_scheme(), socket)));
        }
        let drain_timeout = config.timeouts.drain_timeout;
        let settings = Settings {
            domain: config.domain.to_string(),
            listeners: advertised,
            auth: config.auth.clone(),
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
        };
        let relay = Relay::new(settings, Arc::new(SystemRandom), Box::new(SystemClock))?;
        let network = Arc::new(Network::new(relay, &config, client_domains, sip_advertised)?);
        network.relay.set_dialer(Box::new(RelayDialer::new(&network)));
        let session_events = SessionEvents::default();
        let records = Records::start(&config.records)?;
        let facts = Facts {
            domain: config.domain.to_string(),
            realm: config.auth.realm.clone(),
            listeners: msrp_listeners,
        };
        let recorder = records.recorder(facts);
        network.relay.set_observer(Box::new((session_events.clone(), recorder.clone())));
        let credentials = config.auth.credentials.clone();
        credentials.begin();
        network.relay.set_resolver(Box::new(ChainResolver(credentials)));

        // Datagrams have no connections to be traced.
        let streams = bound.iter().filter(|(_, _, socket)| matches!(socket, Socket::Stream(_)));
        let names = streams.map(|(serves, _, socket)| (socket.local_addr(), serves.name.clone()));
        let tracing = trace::start(&config, names.collect(), &network)?;
        if let Some(tracing) = &tracing {
            concentrator.forward_to(tracing.sender());
        }
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for (serves, scheme, socket) in bound {
            addresses.push((scheme, socket.local_addr()));
            let socket = match socket {
                Socket::Stream(socket) => socket,
                Socket::Datagram(receiver) => {
                    tasks.spawn(receiver.run());
                    continue;
                }
            };
            let acceptor = ListenerAcceptor::new(Arc::clone(&network), serves, socket.local_addr());
            tasks.spawn(socket.with_ledger(Arc::clone(network.ledger())).run(Arc::new(acceptor)));
        }
        for task in network.sip.iter().flat_map(|sip| sip.tasks(&network)) {
            tasks.spawn(task);
        }
        let sweeper = Arc::clone(&network.relay);
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                sweeper.sweep(now());
            }
        });
        let reception = Reception { concentrator, dispatches: hep };
        if let (Some(recorder), Some(interval)) = (recorder, records.interim()) {
            tasks.spawn(recorder.record_lasting(Arc::clone(&network.relay), interval));
        }
        let control = Arc::new(Control::new(Parts {
            network,
            domains,
            config,
            sessions: session_events,
            reception,
            trace: tracing.as_ref().map(trace::Tracing::switches),
            records,
            addresses,
        }));
        tasks.spawn(remind_of_expiry(Arc::clone(&control)));
        let admin = control.config().admin.as_ref();
        let admin = admin.map(|admin| AdminServer::start(admin, Arc::clone(&control))).transpose()?;
        Ok(Self { control, drain_timeout, tasks, admin, tracing })
    }

    /// Where it listens, with the scheme of the listener's URI, in the order of the configuration.
    pub fn addresses(&self) -> &[(&'static str, SocketAddr)] {
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

    /// Stops: accepts nothing more, lets messages under way finish for up to `drain_timeout` or
    /// until `hurry` is ready, ends what is left with `#`, and closes every connection in order. Then session
    /// records get the time that `records.flush_timeout` gives them, or until `hurry` is ready.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.control.set_stopping();
        self.tasks.shutdown().await;
        let connections = &self.control.network().connections;
        let all_idle = async {
            while connections.snapshot().iter().any(|(_, carried)| !carried.is_idle()) {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        let mut hurry = std::pin::pin!(hurry);
        let hurried = tokio::select! {
            () = all_idle => false,
            () = tokio::time::sleep(self.drain_timeout) => false,
            () = &mut hurry => true,
        };
        for (_, carried) in connections.snapshot() {
            carried.wind_up();
        }
        // Before their connections end, so that their end says why.
        self.control.records().set_stopping();
        self.control.relay().end_all_sessions();
        let left = connections.close_all(CloseReason::Local("shutdown".into()), CLOSE_TIMEOUT).await;
        if left > 0 {
            info!(left, "connections did not close in time");
        }
        if let Some(counters) = self.control.hep_counters() {
            hep::log_end(&counters);
        }
        if let Some(tracing) = self.tracing.take() {
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
        if let Some(admin) = self.admin.take() {
            admin.stop().await;
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

/// How SIP is carried over a listener.
fn sip_transport(listener: &Listener) -> crate::sip::Transport {
    use crate::sip::Transport as Sip;
    match listener.scheme() {
        Scheme::Sips => Sip::Tls,
        // What clients see, who end their TLS at a proxy in front.
        Scheme::Ws if listener.is_secure() => Sip::Wss,
        Scheme::Ws => Sip::Ws,
        Scheme::Wss => Sip::Wss,
        _ => Sip::Tcp,
    }
}

/// A socket of a listener.
enum Socket {
    Stream(Box<BoundListener>),
    /// HEP over UDP.
    Datagram(Receiver),
}

impl Socket {
    fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Stream(listener) => listener.local_addr(),
            Self::Datagram(receiver) => receiver.local_addr(),
        }
    }
}

/// Opens the sockets of a listener; `hep` takes what comes to it, if it is one for HEP.
async fn bind(
    listener: &Listener,
    config: &Config,
    domains: &Arc<ServerDomains>,
    hep: Option<&Arc<Dispatch>>,
) -> Result<Vec<Socket>, StartError> {
    let mut addresses = match &listener.host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, listener.port)],
        Host::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), listener.port)).await;
            let found =
                found.map_err(|source| StartError::Resolve { listener: listener.to_string(), source })?;
            found.collect()
        }
    };
    addresses.sort_unstable();
    addresses.dedup();
    if listener.port == 0 {
        // One port is advertised, so there is one socket.
        addresses.truncate(1);
    }
    let open = |addr| {
        let settings = listener_settings(listener, config, addr);
        match hep.filter(|_| listener.transport == ListenerTransport::Udp) {
            Some(dispatch) => Receiver::udp_with(&settings, Arc::clone(dispatch))
                .map(Socket::Datagram)
                .map_err(|source| BindError::Socket { addr, source }),
            None => BoundListener::bind(settings, Arc::clone(domains))
                .map(|socket| Socket::Stream(Box::new(socket))),
        }
    };
    Ok(addresses.into_iter().map(open).collect::<Result<_, _>>()?)
}

fn listener_settings(listener: &Listener, config: &Config, addr: SocketAddr) -> ListenerSettings {
    let (transport, tls_domain) = match &listener.transport {
        ListenerTransport::Tcp | ListenerTransport::Udp => (Transport::Tcp, None),
        ListenerTransport::Tls { domain } => (Transport::Tls, Some(domain.clone())),
    };
    ListenerSettings {
        addr,
        transport,
        tls_domain,
        tls_handshake_timeout: config.tls.tls_handshake_timeout,
        backlog: listener.backlog,
        websocket: listener.websocket.as_ref().map(websocket::handshake),
        scheme: Some(listener.scheme()),
        ipv6_only: listener.ipv6_only,
        reuse_port: listener.reuse_port,
        max_connections: listener.max_connections,
        socket: listener.tcp.socket,
        lifetime: Some(listener.tcp.lifetime),
        proxy_from: listener.proxy_from.clone(),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_setting_of_a_listener_reaches_its_socket() {
        let text = "domain: a\nlisteners:\n  - { uri: 'msrp://[::1]:1', max_connections: 7, backlog: 9, ipv6_only: false, \
                    reuse_port: true, proxy_from: 10.0.0.0/8, tcp: { lifetime: 5m, keepidle: 30s, nodelay: false, dscp: 26 } }\n\
                    tls: { tls_handshake_timeout: 2s }\n";
        let config =
            Config::parse(text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        let settings = listener_settings(&config.listeners[0], &config, "[::1]:1".parse().unwrap());
        assert_eq!((settings.max_connections, settings.backlog), (Some(7), 9));
        assert!(!settings.ipv6_only && settings.reuse_port && !settings.socket.nodelay);
        assert_eq!(settings.proxy_from, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(settings.lifetime, Some(Duration::from_secs(300)));
        assert_eq!(settings.socket.keepalive.unwrap().idle, Duration::from_secs(30));
        assert_eq!(settings.socket.dscp, tcp_transport::Dscp::new(26));
        assert_eq!(settings.scheme, Some(Scheme::Msrp));
        assert_eq!(settings.tls_handshake_timeout, Duration::from_secs(2));
    }
}
