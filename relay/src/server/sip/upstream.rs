//! Connections to the upstreams: one each, opened again when it ends, and asked by OPTIONS.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tcp_transport::connection::{CloseReason, Handle};
use tcp_transport::tls::{ChooseClientDomain, PeerCertificate};
use tcp_transport::ws::{Offer, Opened};
use tcp_transport::{ConnectError, Scheme, Stream, Target, Transport};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::super::network::{Carried, Network};
use super::super::now;
use super::{PROTOCOL, Place, SipEdge};
use crate::config::UpstreamUri;
use crate::sip::{Change, Probe, Scratch, Side};

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
    /// Keeps connections to the upstreams, those that a reload adds included, and watches them. It never completes.
    pub(in crate::server) async fn run(self: Arc<Self>, network: Arc<Network>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&self).watch_health());
        loop {
            for (index, place) in &**self.places.load() {
                if place.begin() {
                    let (sip, network, place) = (Arc::clone(&self), Arc::clone(&network), Arc::clone(place));
                    let _entered = network.enter_thread();
                    tasks.spawn(Arc::clone(&sip).keep_connected(Arc::clone(&network), *index, place));
                }
            }
            tokio::select! {
                () = self.moved.notified() => {}
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// Keeps a connection to one upstream open, until it is not wanted any more and nothing uses it.
    async fn keep_connected(self: Arc<Self>, network: Arc<Network>, index: usize, place: Arc<Place>) {
        let mut pauses = Pauses::default();
        let mut told = false;
        loop {
            if !place.is_wanted() {
                if self.accepted_from(index) {
                    place.unused().await;
                }
                if self.forget(index, &place) {
                    return;
                }
                continue;
            }
            let uri = place.uri();
            let dialled = tokio::select! {
                dialled = self.dial(&network, &uri) => dialled,
                () = place.unwanted() => continue,
            };
            let pause = match dialled {
                Ok((stream, opened)) => {
                    let since = now();
                    let tls = stream.tls().map(tracing::field::display);
                    let connection = stream.entry().id();
                    info!(upstream = %uri, %connection, address = %stream.peer_addr(), tls, "SIP upstream connected");
                    told = false;
                    // A task of its own: it takes leave in order when this one is ended.
                    let mut serving = tokio::spawn(self.connected(index, &place, &uri, stream, opened));
                    let reason = tokio::select! {
                        reason = &mut serving => reason,
                        () = place.unused() => {
                            if let Some(link) = place.link() {
                                link.handle().close(gone());
                            }
                            serving.await
                        }
                    };
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
            let pause = tokio::time::sleep(pause.mul_f64(rand::random_range(1.0..1.25)));
            tokio::select! {
                () = pause => {}
                () = place.unwanted() => {}
            }
        }
    }

    /// Whether there are connections that this upstream has opened, or one to it.
    fn accepted_from(&self, index: usize) -> bool {
        !self.connections_of(index).is_empty()
    }

    fn connections_of(&self, index: usize) -> Vec<Handle> {
        let is_its = |carried: &Carried| matches!(carried, Carried::Sip(link) if link.flow().side == Side::Upstream(index));
        let all = self.connections.snapshot().into_iter();
        all.filter(|(_, carried)| is_its(carried)).map(|(handle, _)| handle).collect()
    }

    /// Forgets an upstream that is gone, and closes what is left of its connections. `false`: it is wanted again.
    fn forget(&self, index: usize, place: &Place) -> bool {
        let _one = self.changing.lock();
        if place.is_wanted() {
            return false;
        }
        let mut places = HashMap::clone(&self.places.load());
        places.remove(&index);
        self.places.store(Arc::new(places));
        for handle in self.connections_of(index) {
            handle.close(gone());
        }
        self.edge.store(Arc::new(self.edge.load().without_upstream(index)));
        info!(upstream = %place.uri(), "SIP upstream is not in the configuration any more, and nothing used it: forgotten");
        true
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
                    && let Some(link) = self.place(index).and_then(|place| place.link())
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
        self.edge.load().probe(probe, scratch, &mut out);
        // What does not fit into its queue is not answered, and that is counted.
        if let Some(link) = self.place(probe.upstream).and_then(|place| place.link())
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

fn gone() -> CloseReason {
    CloseReason::Local("the upstream is not in the configuration any more".into())
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
