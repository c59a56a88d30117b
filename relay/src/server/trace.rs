//! HEP: what collectors are told of this process' connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tcp_transport::hep::trace::{TraceSettings, Tracer};
use tcp_transport::hep::{Sender, SenderError};
use tracing::{info, warn};

use super::network::Network;
use crate::config::Config;

/// How long the end of the process waits for what collectors have not been told.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The sender and what gives it something to send.
#[derive(Debug)]
pub(super) struct Tracing {
    tracer: Tracer,
    sender: Arc<Sender>,
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
    for destination in &trace.destinations {
        info!(destination = destination.name, uri = %destination.uri, on = trace.trace_on, "tracing");
    }
    let sender = Sender::start(trace.destinations.clone(), network.ledger(), Some(&network.client_domains))?;
    let sender = Arc::new(sender);
    let settings = TraceSettings {
        trace_on: trace.trace_on,
        protocols: trace.protocols.clone(),
        filter: trace.filter.clone(),
        listeners,
        ..TraceSettings::default()
    };
    Ok(Some(Tracing { tracer: Tracer::start(settings, sender.clone(), network.ledger()), sender }))
}

impl Tracing {
    /// What sends to the collectors; for as long as this is there.
    pub(super) fn sender(&self) -> &Arc<Sender> {
        &self.sender
    }

    /// Tells collectors the rest, and the log what they were not told.
    pub(super) async fn stop(mut self) {
        self.tracer.stop().await;
        let lost = self.tracer.lost_events();
        if lost > 0 {
            warn!(lost, "connection events came too fast to be traced");
        }
        let Self { tracer, sender } = self;
        drop(tracer);
        // Nobody else sends any more.
        let Some(sender) = Arc::into_inner(sender) else { return };
        for (destination, counters) in sender.close(CLOSE_TIMEOUT).await {
            let sent = counters.sent;
            let dropped =
                counters.dropped_by_queue + counters.dropped_while_down + counters.dropped_unsendable;
            if dropped > 0 || counters.possibly_lost_bytes > 0 {
                let possibly_lost_bytes = counters.possibly_lost_bytes;
                warn!(destination, sent, dropped, possibly_lost_bytes, "the trace has gaps");
            } else {
                info!(destination, sent, "tracing ended");
            }
        }
    }
}
