//! Which upstreams are alive, and which of them a request goes to.
//!
//! Each is asked by OPTIONS every `probe_interval`. After `probe_failures` in a row that fail (no answer in
//! `probe_timeout`, a connection that fails, a 503) it is down until one succeeds. Any other answer is a sign of life:
//! a proxy that says 404 or 483 to the probe takes requests all the same. All are up when the edge starts, as nobody
//! would be served otherwise until the first answer. One without a connection takes no requests meanwhile
//! ([`Upstreams::set_connected`]); that is no failure by itself.
//!
//! A request goes to an upstream that is up, of those with the lowest `priority`, in proportion to their `weight`, and
//! by its Call-ID: so all of a dialog goes to one, and when one fails only its share goes elsewhere (rendezvous
//! hashing).

use std::time::{Duration, Instant};

use super::edge::UpstreamSettings;

/// How upstreams are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// From one probe to the next. Default 10 s.
    pub probe_interval: Duration,
    /// How long an answer is waited for. Default 3 s.
    pub probe_timeout: Duration,
    /// After how many failures in a row an upstream is down. Default 3.
    pub probe_failures: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { probe_interval: seconds(10), probe_timeout: seconds(3), probe_failures: 3 }
    }
}

/// A probe to send: see [`Edge::probe`](super::Edge::probe).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which upstream.
    pub upstream: usize,
    /// Which of its probes.
    pub sequence: u64,
}

/// An upstream has come or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It takes requests again.
    Up(usize),
    /// It takes none.
    Down(usize),
}

/// The upstreams and how they are.
#[derive(Clone, Debug)]
pub struct Upstreams {
    settings: HealthSettings,
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Node {
    priority: u16,
    weight: u16,
    up: bool,
    connected: bool,
    failures: u32,
    sequence: u64,
    next: Instant,
    /// Until when the answer to the last probe may come.
    waiting: Option<Instant>,
}

impl Node {
    fn takes_requests(&self) -> bool {
        self.up && self.connected
    }
}

impl Upstreams {
    /// All up, and each about to be probed, one after the other over the first interval.
    #[must_use]
    pub fn new(upstreams: &[UpstreamSettings], settings: HealthSettings, now: Instant) -> Self {
        let count = u32::try_from(upstreams.len()).unwrap_or(u32::MAX).max(1);
        let nodes = upstreams.iter().zip(0u32..).map(|(upstream, index)| Node {
            priority: upstream.priority,
            weight: upstream.weight.max(1),
            up: true,
            connected: true,
            failures: 0,
            sequence: 0,
            next: now + settings.probe_interval / count * index,
            waiting: None,
        });
        Self { nodes: nodes.collect(), settings }
    }

    /// Whether this one takes requests: it is up, and there is a connection.
    #[must_use]
    pub fn is_up(&self, upstream: usize) -> bool {
        self.nodes.get(upstream).is_some_and(Node::takes_requests)
    }

    /// There is a connection to this one, or none any more. All are taken for connected until this is told.
    ///
    /// A new connection is not blamed for a probe that it never carried: that one's answer is not waited for any more.
    pub fn set_connected(&mut self, upstream: usize, connected: bool) {
        if let Some(node) = self.nodes.get_mut(upstream) {
            node.connected = connected;
            if connected {
                node.waiting = None;
            }
        }
    }

    /// When [`poll`](Self::poll) has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.nodes.iter().map(|node| node.waiting.map_or(node.next, |until| until.min(node.next))).min()
    }

    /// What is due: probes to send, and who has come or gone because an answer has not come.
    pub fn poll(&mut self, now: Instant, probes: &mut Vec<Probe>, changes: &mut Vec<Change>) {
        for upstream in 0..self.nodes.len() {
            if self.nodes[upstream].waiting.is_some_and(|until| until <= now) {
                changes.extend(self.failed(upstream));
            }
            let node = &mut self.nodes[upstream];
            if node.next <= now {
                node.sequence += 1;
                // Not from when it was due: a process that slept owes no probes.
                node.next = now + self.settings.probe_interval;
                node.waiting = Some(now + self.settings.probe_timeout);
                probes.push(Probe { upstream, sequence: node.sequence });
            }
        }
    }

    /// A probe was answered with this status. Answers to older ones count for nothing.
    pub fn answered(&mut self, probe: Probe, status: u16) -> Option<Change> {
        let node = self.nodes.get_mut(probe.upstream)?;
        if node.sequence != probe.sequence || node.waiting.is_none() || status < 200 {
            return None;
        }
        if status == 503 {
            return self.failed(probe.upstream);
        }
        node.waiting = None;
        node.failures = 0;
        let was_up = std::mem::replace(&mut node.up, true);
        (!was_up).then_some(Change::Up(probe.upstream))
    }

    /// A connection to it failed, or a probe had no answer.
    pub fn failed(&mut self, upstream: usize) -> Option<Change> {
        let node = self.nodes.get_mut(upstream)?;
        node.waiting = None;
        node.failures = node.failures.saturating_add(1);
        if node.failures < self.settings.probe_failures {
            return None;
        }
        let was_up = std::mem::replace(&mut node.up, false);
        was_up.then_some(Change::Down(upstream))
    }

    /// The upstream for a Call-ID: `preferred` if it is up, else by priority, weight and Call-ID. `None`: all are
    /// down.
    #[must_use]
    pub fn choose(&self, call_id: &[u8], preferred: Option<usize>) -> Option<usize> {
        if let Some(upstream) = preferred.filter(|&upstream| self.is_up(upstream)) {
            return Some(upstream);
        }
        let up = || self.nodes.iter().enumerate().filter(|(_, node)| node.takes_requests());
        let priority = up().map(|(_, node)| node.priority).min()?;
        let hash = call_id.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let score = |(upstream, node): (usize, &Node)| {
            // A number within (0, 1) for each pair, and -weight / ln of it: the greatest wins as often as its weight
            // says.
            let mixed = mix(hash ^ mix(upstream as u64 + 1));
            let drawn = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            (-f64::from(node.weight) / drawn.ln(), upstream)
        };
        let candidates = up().filter(|(_, node)| node.priority == priority).map(score);
        candidates.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, upstream)| upstream)
    }
}

/// SplitMix64's last steps.
fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
