//! The sender: packets to any number of collectors, and traffic waits for none of them.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::codec::{Encoding, Version, with_auth_key};
use super::destination::{DestinationSettings, EventFormat, HepTransport};
use super::packet::Packet;
use super::receiver::Received;
use crate::connector::{ConnectSettings, Connector, DialOptions, Target};
use crate::ledger::Ledger;
use crate::listener::Transport;
use crate::scheme::Scheme;
use crate::tls::{ChooseClientDomain, ClientDomains};

mod datagram;
mod queue;
mod retry;
mod stream;

pub use queue::Counters;
pub use stream::PEER_BUFFER;

use queue::Queue;
use retry::{Next, Retry};

/// How long a connection that is being opened when the sender is [closed](Sender::close) may still take: a second,
/// far more than a collector that is there needs.
const LAST_CONNECT: Duration = Duration::from_secs(1);

/// Destinations that cannot be used as they are said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SenderError {
    /// Two of one name.
    #[error("there are two HEP destinations {0:?}")]
    DuplicateName(String),
    /// Versions 1 and 2 are for UDP.
    #[error("HEP destination {0:?}: version {1} goes over UDP only")]
    Version(String, u8),
    /// No TLS client domain of that name, or none at all.
    #[error("HEP destination {0:?}: there is no TLS client domain {1:?}")]
    NoTlsDomain(String, String),
}

/// Sends packets to any number of destinations, each with a task, a queue and (TCP, TLS) a connection of its own.
///
/// **Nobody waits**: [`send`](Self::send) encodes, once for all destinations that want the same octets, puts it
/// into their queues and returns. A full queue drops the packet and counts it. What was being written when
/// a connection broke is written anew, from its begin, to the next one.
///
/// Dropping it ends all tasks at once; [`close`](Self::close) sends what waits before.
pub struct Sender {
    /// Destinations that get the same octets are together.
    groups: Vec<Group>,
    tasks: Vec<JoinHandle<()>>,
}

struct Group {
    profile: Profile,
    destinations: Vec<Arc<Destination>>,
}

/// What decides about the octets of a packet.
#[derive(PartialEq, Eq)]
struct Profile {
    encoding: Encoding,
    capture_id: u32,
    capture_name: Option<Bytes>,
    auth_key: Option<Bytes>,
    format: EventFormat,
}

struct Destination {
    name: String,
    enabled: AtomicBool,
    queue: Queue,
    /// Our address of the connection (UDP: socket) that is there.
    local: Mutex<Option<SocketAddr>>,
}

impl Destination {
    fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }
}

impl Sender {
    /// Begins to connect to all of them. Their connections are entered in `ledger`, as any other, but beyond its
    /// [`max_connections`](crate::ConnectionLimits::max_connections): a process that is full tells so. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// Two destinations have one name; one wants a version over TCP, or a TLS domain, that does not exist.
    pub fn start(
        destinations: Vec<DestinationSettings>,
        ledger: &Arc<Ledger>,
        tls: Option<&Arc<ClientDomains>>,
    ) -> Result<Self, SenderError> {
        Self::check(&destinations, tls.map(|tls| &**tls))?;
        let mut sender = Self { groups: Vec::new(), tasks: Vec::new() };
        for settings in destinations {
            let destination = Arc::new(Destination {
                name: settings.name.clone(),
                enabled: AtomicBool::new(true),
                queue: Queue::new(&settings),
                local: Mutex::new(None),
            });
            let profile = Profile {
                encoding: settings.encoding,
                capture_id: settings.capture_id,
                capture_name: settings.capture_name.clone(),
                auth_key: settings.auth_key.clone(),
                format: settings.format.clone(),
            };
            match sender.groups.iter_mut().find(|group| group.profile == profile) {
                Some(group) => group.destinations.push(destination.clone()),
                None => sender.groups.push(Group { profile, destinations: vec![destination.clone()] }),
            }
            let link = Link::new(&settings, ledger, tls);
            sender.tasks.push(tokio::spawn(run(destination, settings, link)));
        }
        Ok(sender)
    }

    /// Whether [`start`](Self::start) would take these.
    ///
    /// # Errors
    /// As there.
    pub fn check(
        destinations: &[DestinationSettings],
        tls: Option<&ClientDomains>,
    ) -> Result<(), SenderError> {
        let mut all = destinations.iter().enumerate();
        all.try_for_each(|(i, settings)| check(settings, &destinations[..i], tls))
    }

    /// Sends a packet to all destinations that are switched on, with the capture id, name and key of each.
    pub fn send(&self, packet: &Packet) {
        self.send_with(|_| packet.clone());
    }

    /// As [`send`](Self::send), with a packet that is made for each format that is wanted, and only if there is
    /// anybody to get it.
    pub fn send_with(&self, mut make: impl FnMut(&EventFormat) -> Packet) {
        let encode = |profile: &Profile| {
            let mut packet = make(&profile.format);
            packet.capture_id = Some(profile.capture_id);
            packet.capture_name.clone_from(&profile.capture_name);
            packet.auth_key.clone_from(&profile.auth_key);
            packet.encode(profile.encoding)
        };
        self.to_groups(|_| true, encode);
    }

    /// Passes on what somebody else has captured, as a concentrator does: version 3 as it came to the destinations
    /// of that version, all else encoded anew, a compressed payload inflated for versions 1 and 2. Capture id and
    /// name stay those of who captured it; the authentication key is the destination's, never the agent's.
    ///
    /// `wanted` says which destinations get it, by name; how many of those that are switched on did is returned.
    pub fn forward(&self, received: &Received, wanted: impl Fn(&str) -> bool) -> usize {
        let Received { version, packet, wire, .. } = received;
        let mut inflated = None;
        let encode = |profile: &Profile| match (version, profile.encoding.version) {
            (Version::V3, Version::V3) => with_auth_key(wire, packet, profile.auth_key.as_ref()),
            (_, Version::V3) => {
                let packet = Packet { auth_key: profile.auth_key.clone(), ..packet.clone() };
                packet.encode(profile.encoding)
            }
            _ => {
                let inflated = inflated.get_or_insert_with(|| packet.inflated());
                inflated.as_ref().unwrap_or(packet).encode(profile.encoding)
            }
        };
        self.to_groups(wanted, encode)
    }

    /// Whether a packet from this address is our own: it is that of the socket to one of the destinations, which then
    /// leads back here.
    #[must_use]
    pub fn is_own(&self, from: SocketAddr) -> bool {
        self.destinations().any(|destination| *destination.local.lock() == Some(from))
    }

    fn to_groups(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut encode: impl FnMut(&Profile) -> Result<Bytes, super::EncodeError>,
    ) -> usize {
        let mut count = 0;
        for group in &self.groups {
            // Once for the group, and only if there is anybody to get it.
            let mut wire = None;
            for destination in &group.destinations {
                if destination.is_enabled() && wanted(&destination.name) {
                    destination.queue.push(wire.get_or_insert_with(|| encode(&group.profile)));
                    count += 1;
                }
            }
        }
        count
    }

    /// Whether there is a destination that is switched on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.destinations().any(Destination::is_enabled)
    }

    /// Switches a destination on or off; what waits for it is sent in either case. `false`: there is none of
    /// that name.
    pub fn set_enabled(&self, name: &str, enabled: bool) -> bool {
        let found = self.destinations().find(|destination| destination.name == name);
        found.map(|destination| destination.enabled.store(enabled, Ordering::Relaxed)).is_some()
    }

    /// Whether the destination of this name is switched on; `None`: there is none.
    #[must_use]
    pub fn is_destination_enabled(&self, name: &str) -> Option<bool> {
        self.destinations().find(|destination| destination.name == name).map(Destination::is_enabled)
    }

    /// The figures of each destination, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(&str, Counters)> {
        self.destinations().map(|each| (each.name.as_str(), each.queue.counters())).collect()
    }

    /// Takes nothing more, sends what waits, and ends the connections in order; all of it in `limit`. What waits
    /// for a destination that is not connected is dropped at once, or within a second if a connection is just being
    /// opened. Returns the last figures.
    pub async fn close(mut self, limit: Duration) -> Vec<(String, Counters)> {
        self.destinations().for_each(|destination| destination.queue.close());
        let end = Instant::now() + limit;
        for mut task in std::mem::take(&mut self.tasks) {
            if timeout(end.saturating_duration_since(Instant::now()), &mut task).await.is_err() {
                task.abort();
                // Only when it has ended does nobody count any more.
                let _ = task.await;
            }
        }
        self.destinations()
            .map(|destination| {
                destination.queue.down();
                (destination.name.clone(), destination.queue.counters())
            })
            .collect()
    }

    fn destinations(&self) -> impl Iterator<Item = &Destination> {
        self.groups.iter().flat_map(|group| group.destinations.iter().map(|destination| &**destination))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.counters()).finish()
    }
}

fn check(
    settings: &DestinationSettings,
    before: &[DestinationSettings],
    tls: Option<&ClientDomains>,
) -> Result<(), SenderError> {
    let name = || settings.name.clone();
    if before.iter().any(|other| other.name == settings.name) {
        return Err(SenderError::DuplicateName(name()));
    }
    if settings.uri.transport != HepTransport::Udp && settings.encoding.version != Version::V3 {
        return Err(SenderError::Version(name(), settings.encoding.version.number()));
    }
    if settings.uri.transport == HepTransport::Tls {
        let wanted = settings.tls_domain.as_deref();
        let found = tls.is_some_and(|tls| wanted.is_none_or(|wanted| tls.by_name(wanted).is_some()));
        if !found {
            return Err(SenderError::NoTlsDomain(name(), wanted.unwrap_or_default().to_owned()));
        }
    }
    Ok(())
}

/// How a link to a collector ended.
enum End {
    /// Everything is sent, and nothing more will come.
    Finished,
    /// It broke.
    Broken(String),
}

/// How links to one collector are opened.
enum Link {
    Udp,
    Stream { connector: Box<Connector>, target: Target, tls: Option<Arc<ClientDomains>> },
}

impl Link {
    fn new(settings: &DestinationSettings, ledger: &Arc<Ledger>, tls: Option<&Arc<ClientDomains>>) -> Self {
        let transport = match settings.uri.transport {
            HepTransport::Udp => return Self::Udp,
            HepTransport::Tcp => Transport::Tcp,
            HepTransport::Tls => Transport::Tls,
        };
        let dial = DialOptions { connect_timeout: settings.connect_timeout, ..DialOptions::default() };
        // Collectors are named by the configuration, not by a peer: there is nothing to be asked of a policy.
        let connector = Connector::new(ConnectSettings { dial, ..ConnectSettings::default() }, |_, _| true)
            .with_ledger(ledger.clone())
            .beyond_the_limit();
        let target = Target { host: settings.uri.host.clone(), port: settings.uri.port, transport };
        Self::Stream { connector: Box::new(connector), target, tls: tls.cloned() }
    }

    /// Opens one and sends over it until it ends; the error if none can be opened. `up` is when it was.
    async fn serve(
        &self,
        destination: &Destination,
        batch: &mut VecDeque<Bytes>,
        settings: &DestinationSettings,
        up: &mut Option<Instant>,
    ) -> Result<End, String> {
        let queue = &destination.queue;
        let mut opened = |local| {
            queue.count(|counters| counters.connected += 1);
            *destination.local.lock() = local;
            *up = Some(Instant::now());
        };
        match self {
            Self::Udp => {
                let socket = until_closed(queue, datagram::open(&settings.uri)).await?;
                let socket = socket.map_err(|e| e.to_string())?;
                Ok(datagram::serve(socket, &settings.uri, queue, batch, opened).await)
            }
            Self::Stream { connector, target, tls } => {
                // Looked up each time: a reload may have replaced it.
                let named = settings.tls_domain.as_deref();
                let named = named.and_then(|name| tls.as_ref().and_then(|tls| tls.by_name(name)));
                let fitting = tls.as_ref().map(|tls| tls.for_listener(None));
                let domain: Option<&dyn ChooseClientDomain> = match (&named, &fitting) {
                    (Some(domain), _) => Some(&**domain),
                    (None, Some(fitting)) => Some(fitting),
                    (None, None) => None,
                };
                let connect = connector.connect_for(target, domain, Some(Scheme::Hep));
                let stream = until_closed(queue, connect).await?.map_err(|e| e.to_string())?;
                opened(Some(stream.local_addr()));
                Ok(stream::serve(&stream, queue, batch, settings.send_timeout).await)
            }
        }
    }
}

/// What comes of opening a connection, unless the sender is closed meanwhile and it still takes [`LAST_CONNECT`].
async fn until_closed<T>(queue: &Queue, opening: impl Future<Output = T>) -> Result<T, String> {
    let closed = async {
        while !queue.is_closing() {
            queue.woken().await;
        }
        tokio::time::sleep(LAST_CONNECT).await;
    };
    tokio::select! {
        opened = opening => Ok(opened),
        () = closed => Err("the sender was closed".to_owned()),
    }
}

/// The task of a destination.
async fn run(destination: Arc<Destination>, settings: DestinationSettings, link: Link) {
    let Destination { name, queue, local, .. } = &*destination;
    let mut retry = Retry::new(settings.max_retries, settings.retry_pause, settings.retry_cooldown);
    let mut batch = VecDeque::new();
    loop {
        let mut up = None;
        let served = link.serve(&destination, &mut batch, &settings, &mut up).await;
        *local.lock() = None;
        let reason = match served {
            Ok(End::Finished) => return,
            Ok(End::Broken(reason)) => reason,
            Err(reason) => {
                queue.count(|counters| counters.failed_attempts += 1);
                reason
            }
        };
        if queue.is_closing() {
            // `Sender::close` counts what waits as dropped.
            return;
        }
        match retry.failed(up.map(|up| up.elapsed())) {
            Next::Retry(pause) => {
                tracing::debug!(destination = %name, uri = %settings.uri, reason, ?pause, "HEP: no connection");
                sleep(queue, pause).await;
            }
            Next::Down(cooldown) => {
                tracing::warn!(destination = %name, uri = %settings.uri, reason, ?cooldown, "HEP: destination down");
                batch.clear();
                queue.down();
                sleep(queue, cooldown).await;
                queue.up();
            }
        }
    }
}

/// Sleeps, but not past the end.
async fn sleep(queue: &Queue, pause: Duration) {
    let sleep = tokio::time::sleep(pause);
    tokio::pin!(sleep);
    loop {
        tokio::select! {
            () = &mut sleep => return,
            () = queue.woken() => if queue.is_closing() { return },
        }
    }
}
