//! Connections to the upstreams: one each, opened again when it ends, and asked by OPTIONS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tcp_transport::connection::CloseReason;
use tcp_transport::tls::{ChooseClientDomain, PeerCertificate};
use tcp_transport::ws::{Offer, Opened};
use tcp_transport::{ConnectError, Scheme, Stream, Target, Transport};
use tracing::{debug, info, warn};

use super::super::network::Network;
use super::super::now;
use super::{PROTOCOL, SipEdge};
use crate::config::UpstreamUri;
use crate::sip::{Change, Probe, Scratch};

/// How long after the end of a connection the next one is opened, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// And at most, after it has doubled with each failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A connection that lasted so long was a good one: the pauses begin anew.
const GOOD: Duration = Duration::from_secs(10);

/// How long to wait before the next connection.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    /// When there was none the last time.
    none_at: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, none_at: None }
    }
}

impl Pauses {
    /// After a connection that did not come up.
    fn failed(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    /// After one that was there from `since` to `now`. None if the upstream is there and only what it has sent was not
    /// understood, unless that happens again and again.
    fn ended(&mut self, misread: bool, since: Instant, now: Instant) -> Duration {
        if now.saturating_duration_since(since) >= GOOD {
            self.next = FIRST_PAUSE;
        }
        let again = self.none_at.is_some_and(|last| now.saturating_duration_since(last) < GOOD);
        if misread && !again {
            self.none_at = Some(now);
            return Duration::ZERO;
        }
        self.failed()
    }
}

/// No connection.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the server's WebSocket does not carry SIP")]
    Protocol,
    #[error(
        "the server's certificate names {0} by a wildcard alone, which stands for nobody in SIP (RFC 5922 §7.2)"
    )]
    Wildcard(String),
}

impl SipEdge {
    /// The tasks of the upstreams. They end with the process.
    pub(in crate::server) fn tasks(
        self: &Arc<Self>,
        network: &Arc<Network>,
    ) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let connections = (0..self.peers.len()).map(|index| Task::Connection {
            sip: Arc::clone(self),
            network: Arc::clone(network),
            index,
        });
        connections.chain([Task::Health(Arc::clone(self))]).map(Task::run).collect()
    }

    /// Keeps a connection to one upstream open.
    async fn keep_connected(self: Arc<Self>, network: Arc<Network>, index: usize) {
        let uri = self.tuning.load().config.sip_upstream.get(index).map(|upstream| upstream.uri.clone());
        let Some(uri) = uri else { return };
        let mut pauses = Pauses::default();
        let mut told = false;
        loop {
            let pause = match self.dial(&network, &uri).await {
                Ok((stream, opened)) => {
                    let since = now();
                    let tls = stream.tls().map(tracing::field::display);
                    let connection = stream.entry().id();
                    info!(upstream = %uri, %connection, address = %stream.peer_addr(), tls, "SIP upstream connected");
                    told = false;
                    // A task of its own: it takes leave in order when this one is ended.
                    let reason = tokio::spawn(self.connected(index, stream, opened)).await;
                    debug!(upstream = %uri, ?reason, "SIP upstream disconnected");
                    let misread = matches!(reason, Ok(CloseReason::Protocol(_)));
                    pauses.ended(misread, since, now())
                }
                Err(error) => {
                    // An outage is told once, however long it is.
                    if std::mem::replace(&mut told, true) {
                        debug!(upstream = %uri, %error, "SIP upstream not connected");
                    } else {
                        warn!(upstream = %uri, %error, "SIP upstream not connected");
                    }
                    let change = self.upstreams.write().failed(index);
                    self.tell(change);
                    pauses.failed()
                }
            };
            // Up to a quarter more, drawn at random: edges that lost their upstream together come back one by one.
            tokio::time::sleep(pause.mul_f64(rand::random_range(1.0..1.25))).await;
        }
    }

    async fn dial(
        &self,
        network: &Network,
        uri: &UpstreamUri,
    ) -> Result<(Stream, Option<Opened>), NoConnection> {
        let transport = match uri.scheme {
            Scheme::Sips | Scheme::Wss => Transport::Tls,
            _ => Transport::Tcp,
        };
        let target = Target { host: uri.host.to_string(), port: uri.port, transport };
        let domains = network.client_domains.for_listener(None);
        let domains = Some(&domains as &dyn ChooseClientDomain);
        if !matches!(uri.scheme, Scheme::Ws | Scheme::Wss) {
            let stream =
                self.tuning.load_full().connector.connect_for(&target, domains, Some(uri.scheme)).await?;
            check_certificate(&stream, &target)?;
            return Ok((stream, None));
        }
        let mut offer = Offer::to(&target, uri.path.clone());
        offer.protocols.push(PROTOCOL.to_owned());
        let (stream, opened) = self.tuning.load_full().connector.connect_ws(&target, domains, &offer).await?;
        check_certificate(&stream, &target)?;
        if opened.protocol.as_deref() != Some(PROTOCOL) {
            return Err(NoConnection::Protocol);
        }
        Ok((stream, Some(opened)))
    }

    /// Asks the upstreams whether they are there.
    async fn watch_health(self: Arc<Self>) {
        let (mut probes, mut changes, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
        loop {
            let due = async {
                // Not across the wait.
                let next = self.upstreams.read().deadline();
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.probe.notified() => {}
            }
            let now = now();
            self.upstreams.write().poll(now, &mut probes, &mut changes);
            for change in changes.drain(..) {
                self.tell([change]);
                // It may have gone without a word. A new connection shows.
                if let Change::Down(index) = change
                    && let Some(link) = self.peer(index)
                {
                    link.handle().close(CloseReason::Local("no answer to OPTIONS".into()));
                }
            }
            for probe in probes.drain(..) {
                self.probe(probe, &mut scratch, now);
            }
        }
    }

    fn probe(&self, probe: Probe, scratch: &mut Scratch, now: Instant) {
        let mut out: Vec<Bytes> = Vec::new();
        self.edge.probe(probe, scratch, &mut out);
        // What does not fit into its queue is not answered, and that is counted.
        if let Some(link) = self.peer(probe.upstream)
            && link.push(&out, now).is_ok()
        {
            link.flush(now);
        }
    }
}

/// TLS takes a wildcard for any name that it covers; SIP does not (RFC 5922 §7.2).
fn check_certificate(stream: &Stream, target: &Target) -> Result<(), NoConnection> {
    match stream.tls() {
        Some(tls) if is_wildcard(tls.peer(), &target.host) => {
            Err(NoConnection::Wildcard(target.host.clone()))
        }
        _ => Ok(()),
    }
}

/// Whether this certificate, which was taken for that of `host`, does not name it. Of one that nobody was to look at
/// nothing is known.
fn is_wildcard(certificate: &PeerCertificate, host: &str) -> bool {
    certificate.is_verified() && !certificate.matches_host(host)
}

enum Task {
    Connection { sip: Arc<SipEdge>, network: Arc<Network>, index: usize },
    Health(Arc<SipEdge>),
}

impl Task {
    async fn run(self) {
        match self {
            Self::Connection { sip, network, index } => sip.keep_connected(network, index).await,
            Self::Health(sip) => sip.watch_health().await,
        }
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn an_upstream_that_was_misread_is_connected_to_at_once_but_not_again_and_again() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pauses = Pauses::default();
        assert_eq!(pauses.ended(true, start, start + second), Duration::ZERO);
        assert_eq!(pauses.ended(true, start + second, start + 2 * second), FIRST_PAUSE);
        assert_eq!(pauses.ended(true, start + 3 * second, start + 4 * second), 2 * FIRST_PAUSE);
        let later = start + second + GOOD;
        assert_eq!(pauses.ended(true, later - second, later), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_until_a_connection_was_good() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pauses = Pauses::default();
        let grown: Vec<_> = (0..9).map(|_| pauses.failed().as_millis()).collect();
        assert_eq!(grown, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
        assert_eq!(pauses.ended(false, start, start + GOOD - second), LONGEST_PAUSE);
        assert_eq!(pauses.ended(false, start, start + GOOD), FIRST_PAUSE);
    }

    #[test]
    fn a_wildcard_stands_for_no_upstream() {
        let verified = |names: &[&str]| PeerCertificate::Verified {
            dns_names: names.iter().map(|&name| name.to_owned()).collect(),
            ip_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        };
        for (certificate, host, expected) in [
            (verified(&["*.example.com"]), "proxy.example.com", true),
            (verified(&["*.example.com", "proxy.example.com"]), "PROXY.example.com", false),
            (verified(&[]), "192.0.2.1", false),
            (verified(&[]), "[2001:db8::1]", false),
            (PeerCertificate::Unverified { reason: "verify_cert is off".into() }, "a.test", false),
        ] {
            assert_eq!(is_wildcard(&certificate, host), expected, "{certificate:?} {host}");
        }
    }
}
