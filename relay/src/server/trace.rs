//! HEP: what collectors are told of this process' connections and messages.
//!
//! Messages come from where they are read and written: MSRP through a [`ConnectionTap`] (see
//! [`msrp::Tap`](crate::msrp::Tap)), SIP from `sip::connection` and `sip::link`. A SIP message that leaves is traced when
//! it takes its place in the queue of its connection: what waits there when the connection ends is traced and was
//! never sent. What carries neither message, keep-alives and the frames of WebSocket, is not traced.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tcp_transport::connection::Handle;
use tcp_transport::hep::trace::{ConnectionTrace, Message, SentBy, TraceSettings, TraceState, Tracer, What};
use tcp_transport::hep::{Counters, Sender, SenderError};
use tcp_transport::{ConnectionId, Scheme, Stream};
use tracing::{error, info, warn};

use super::network::Network;
use crate::config::Config;
use crate::msrp::Tap;

/// How long the end of the process waits for what collectors have not been told.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What gives the sender something to send.
#[derive(Debug)]
pub(super) struct Tracing {
    tracer: Arc<Tracer>,
}

/// Where new connections find the tracer, once there is one. It keeps none alive.
#[derive(Debug, Default)]
pub(super) struct Traces(ArcSwap<Weak<Tracer>>);

impl Traces {
    /// What the messages of a new connection are given to.
    pub(super) fn connection(&self, stream: &Stream) -> Option<ConnectionTrace> {
        let tracer = self.0.load().upgrade()?;
        Some(tracer.connection(stream.entry(), stream.tls()))
    }
}

/// Begins to trace, if there is a collector. `listeners` are those bound, with their names.
pub(super) fn start(
    config: &Config,
    listeners: HashMap<SocketAddr, String>,
    network: &Network,
) -> Result<Option<Tracing>, SenderError> {
    let trace = &config.trace;
    if trace.destinations.is_empty() {
        return Ok(None);
    }
    let sender = sender(config, network)?;
    let tracer = Arc::new(Tracer::start(settings(config, listeners), sender, network.ledger()));
    network.traces.0.store(Arc::new(Arc::downgrade(&tracer)));
    Ok(Some(Tracing { tracer }))
}

fn sender(config: &Config, network: &Network) -> Result<Arc<Sender>, SenderError> {
    let trace = &config.trace;
    for destination in &trace.destinations {
        info!(destination = destination.name, uri = %destination.uri, on = trace.trace_on, "tracing");
    }
    let destinations = trace.destinations.clone();
    Sender::start(destinations, network.ledger(), Some(&network.client_domains)).map(Arc::new)
}

fn settings(config: &Config, listeners: HashMap<SocketAddr, String>) -> TraceSettings {
    let trace = &config.trace;
    TraceSettings {
        trace_on: trace.trace_on,
        protocols: trace.protocols.clone(),
        filter: trace.filter.clone(),
        listeners,
        msrp_body: trace.msrp_body,
        msrp_payload_type: trace.msrp_payload_type,
    }
}

/// Traces as `config` says, in the place of what `tracing` did; its collectors were [checked](Sender::check) before.
/// `listeners` are those there are now.
pub(super) fn reload(
    tracing: &mut Option<Tracing>,
    config: &Config,
    before: &Config,
    listeners: HashMap<SocketAddr, String>,
    network: &Network,
) {
    let destinations = &config.trace.destinations;
    match tracing {
        Some(running) if !destinations.is_empty() => {
            let sender = if *destinations == before.trace.destinations {
                None
            } else {
                match sender(config, network) {
                    Ok(sender) => Some(sender),
                    // They were checked.
                    Err(error) => return error!(%error, "the collectors stay as they were"),
                }
            };
            if let Some(before) = running.tracer.reconfigure(settings(config, listeners), sender) {
                tokio::spawn(end(before));
            }
        }
        Some(_) => {
            network.traces.0.store(Arc::default());
            if let Some(ended) = tracing.take() {
                tokio::spawn(ended.stop());
            }
        }
        None => match start(config, listeners, network) {
            Ok(started) => *tracing = started,
            Err(error) => error!(%error, "tracing does not begin"),
        },
    }
}

impl Tracing {
    /// The switches.
    pub(super) fn switches(&self) -> TraceSwitches {
        TraceSwitches { tracer: Arc::downgrade(&self.tracer) }
    }

    /// What sends to the collectors now.
    pub(super) fn sender(&self) -> Arc<Sender> {
        self.tracer.sender()
    }

    /// Tells collectors the rest, and the log what they were not told.
    pub(super) async fn stop(self) {
        self.tracer.stop().await;
        let lost = self.tracer.lost_events();
        if lost > 0 {
            warn!(lost, "connection events came too fast to be traced");
        }
        let sender = self.sender();
        drop(self);
        end(sender).await;
    }
}

/// Sends what waits, and tells the log what collectors were not told.
async fn end(sender: Arc<Sender>) {
    let Ok(sender) = tokio::time::timeout(CLOSE_TIMEOUT, alone(sender)).await else {
        warn!("somebody still traces: collectors are not told the rest");
        return;
    };
    for (destination, counters) in sender.close(CLOSE_TIMEOUT).await {
        let sent = counters.sent;
        let dropped = counters.dropped_by_queue + counters.dropped_while_down + counters.dropped_unsendable;
        if dropped > 0 || counters.possibly_lost_bytes > 0 {
            let possibly_lost_bytes = counters.possibly_lost_bytes;
            warn!(destination, sent, dropped, possibly_lost_bytes, "the trace has gaps");
        } else {
            info!(destination, sent, "tracing ended");
        }
    }
}

/// The sender, when nobody else has it: a connection that has not closed in time may be about to trace something.
async fn alone(mut sender: Arc<Sender>) -> Sender {
    loop {
        match Arc::try_unwrap(sender) {
            Ok(sender) => return sender,
            Err(shared) => sender = shared,
        }
        tokio::task::yield_now().await;
    }
}

/// What is traced, read and switched while the relay runs. The nearest switch counts: that of a connection, then of a
/// user, then of everything together with `trace_filter` and what is said of the protocol. Once tracing has ended
/// nothing is switched any more.
#[derive(Debug, Clone)]
pub struct TraceSwitches {
    tracer: Weak<Tracer>,
}

/// A collector, and whether it is told anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceDestination {
    /// Its name in `trace.destinations`.
    pub name: String,
    /// Whether it is switched on.
    pub on: bool,
    /// Its figures.
    pub counters: Counters,
}

impl TraceSwitches {
    /// How everything is switched; `None`: tracing has ended.
    #[must_use]
    pub fn state(&self) -> Option<TraceState> {
        Some(self.tracer.upgrade()?.state())
    }

    /// The collectors, in the order of their names.
    #[must_use]
    pub fn destinations(&self) -> Vec<TraceDestination> {
        let Some(sender) = self.with(Tracer::sender) else { return Vec::new() };
        let counters = sender.counters().into_iter();
        let one = |(name, counters): (&str, Counters)| {
            let on = sender.is_destination_enabled(name).unwrap_or(false);
            TraceDestination { name: name.to_owned(), on, counters }
        };
        let mut destinations: Vec<_> = counters.map(one).collect();
        destinations.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        destinations
    }

    /// Switches everything, as MI `msrp_trace` does; what was said of single users and connections is forgotten.
    pub fn switch_all(&self, on: bool) {
        self.with(|tracer| tracer.switch_all(on));
    }

    /// Says what is traced of a protocol.
    pub fn switch_protocol(&self, protocol: Scheme, what: What) {
        self.with(|tracer| tracer.switch_protocol(protocol, what));
    }

    /// Switches a collector. `false`: there is none of that name.
    #[must_use]
    pub fn switch_destination(&self, name: &str, on: bool) -> bool {
        self.with(Tracer::sender).is_some_and(|sender| sender.set_enabled(name, on))
    }

    /// Switches a connection, by the number that its events have; `None`: nothing is said about it any more.
    /// `false`: there is none of that number.
    #[must_use]
    pub fn switch_connection(&self, id: ConnectionId, on: Option<bool>) -> bool {
        self.with(|tracer| tracer.switch_connection(id, on)).unwrap_or(false)
    }

    /// Switches a user, on all connections there are and will be on which this user authenticates; `None`: nothing is
    /// said about it any more.
    pub fn switch_user(&self, user: &str, on: Option<bool>) {
        self.with(|tracer| tracer.switch_user(user, on));
    }

    /// Connection events that were lost before they could be traced.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.with(Tracer::lost_events).unwrap_or(0)
    }

    fn with<T>(&self, action: impl FnOnce(&Tracer) -> T) -> Option<T> {
        self.tracer.upgrade().map(|tracer| action(&tracer))
    }
}

/// Counts the messages of an MSRP connection, and traces them where that is wanted.
pub(super) struct ConnectionTap {
    handle: Handle,
    trace: Option<ConnectionTrace>,
}

impl ConnectionTap {
    pub(super) fn new(handle: Handle, trace: Option<ConnectionTrace>) -> Arc<Self> {
        Arc::new(Self { handle, trace })
    }
}

impl Tap for ConnectionTap {
    fn is_on(&self) -> bool {
        self.trace.as_ref().is_some_and(ConnectionTrace::is_on)
    }

    fn body(&self) -> usize {
        self.trace.as_ref().map_or(0, ConnectionTrace::msrp_body)
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn message(&self, by: SentBy, time: SystemTime, session: &str, head: &[u8], body: &[u8]) {
        if let Some(trace) = &self.trace {
            trace.message(by, time, || Message::Msrp { session, head, body });
        }
    }

    fn count(&self, by: SentBy, messages: u64) {
        match by {
            SentBy::Peer => self.handle.entry().count_messages_in(messages),
            SentBy::Us => self.handle.entry().count_messages_out(messages),
        }
    }

    fn authenticated(&self, user: &str) {
        if let Some(trace) = &self.trace {
            trace.authenticated(user);
        }
    }

    fn anonymous(&self) {
        if let Some(trace) = &self.trace {
            trace.anonymous();
        }
    }
}
