//! Which upstreams are alive, and which of them a request goes to.
//!
//! Each is asked by OPTIONS every `probe_interval`. After `probe_failures` in a row that fail (no answer in
//! `probe_timeout`, a connection that fails, a 503) it is down until one succeeds. Any other answer is a sign of life:
//! a proxy that says 404 or 483 to the probe takes requests all the same. All are up when the edge starts, as nobody
//! would be served otherwise until the first answer. One without a connection takes no requests meanwhile
//! ([`Upstreams::disconnected`]), and no probes; that is no failure by itself. A new connection is probed at once
//! ([`Upstreams::connected`]).
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
    /// In the order of their numbers.
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Node {
    /// Its number.
    upstream: usize,
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
    fn new(upstream: usize, settings: &UpstreamSettings, now: Instant) -> Self {
        Self {
            upstream,
            priority: settings.priority,
            weight: settings.weight.max(1),
            up: true,
            connected: true,
            failures: 0,
            sequence: 0,
            next: now,
            waiting: None,
        }
    }

    fn takes_requests(&self) -> bool {
        self.up && self.connected
    }

    fn failed(&mut self, settings: HealthSettings) -> Option<Change> {
        self.waiting = None;
        self.failures = self.failures.saturating_add(1);
        if self.failures < settings.probe_failures {
            return None;
        }
        let was_up = std::mem::replace(&mut self.up, false);
        was_up.then_some(Change::Down(self.upstream))
    }
}

impl Upstreams {
    /// All up, and each about to be probed, one after the other over the first interval.
    #[must_use]
    pub fn new(upstreams: &[UpstreamSettings], settings: HealthSettings, now: Instant) -> Self {
        let count = u32::try_from(upstreams.len()).unwrap_or(u32::MAX).max(1);
        let nodes = upstreams.iter().enumerate().zip(0u32..).map(|((number, upstream), index)| Node {
            next: now + settings.probe_interval / count * index,
            ..Node::new(number, upstream, now)
        });
        Self { nodes: nodes.collect(), settings }
    }

    /// Has these upstreams and no others, by their numbers, and probes them so. Those that are there are as they were;
    /// others are up, and not connected. Gives the numbers of the latter.
    pub fn change<'a>(
        &mut self,
        upstreams: impl IntoIterator<Item = (usize, &'a UpstreamSettings)>,
        settings: HealthSettings,
        now: Instant,
    ) -> Vec<usize> {
        let (mut nodes, mut others) = (Vec::new(), Vec::new());
        for (number, upstream) in upstreams {
            let fresh = Node { connected: false, ..Node::new(number, upstream, now) };
            let node = match self.node(number) {
                // An interval that has become shorter holds for the one that runs, too.
                Some(node) => Node {
                    priority: fresh.priority,
                    weight: fresh.weight,
                    next: node.next.min(now + settings.probe_interval),
                    ..node.clone()
                },
                None => {
                    others.push(number);
                    fresh
                }
            };
            nodes.push(node);
        }
        nodes.sort_unstable_by_key(|node| node.upstream);
        (self.nodes, self.settings) = (nodes, settings);
        others
    }

    fn node(&self, upstream: usize) -> Option<&Node> {
        let at = self.nodes.binary_search_by_key(&upstream, |node| node.upstream).ok()?;
        self.nodes.get(at)
    }

    fn node_mut(&mut self, upstream: usize) -> Option<&mut Node> {
        let at = self.nodes.binary_search_by_key(&upstream, |node| node.upstream).ok()?;
        self.nodes.get_mut(at)
    }

    /// Whether this one takes requests: it is up, and there is a connection.
    #[must_use]
    pub fn is_up(&self, upstream: usize) -> bool {
        self.node(upstream).is_some_and(Node::takes_requests)
    }

    /// There is a connection to this one. It is probed at once: one that was down is up with its answer, one that was up
    /// takes requests already. A connection alone is no success: one that ends as soon as it is there adds to the
    /// failures.
    pub fn connected(&mut self, upstream: usize, now: Instant) {
        if let Some(node) = self.node_mut(upstream) {
            node.connected = true;
            node.waiting = None;
            node.next = now;
        }
    }

    /// There is no connection to this one, or none any more. All are taken for connected until this is told.
    pub fn disconnected(&mut self, upstream: usize) {
        if let Some(node) = self.node_mut(upstream) {
            node.connected = false;
            node.waiting = None;
        }
    }

    /// When [`poll`](Self::poll) has something to do next. `None`: not before one is [`connected`](Self::connected).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let connected = self.nodes.iter().filter(|node| node.connected);
        connected.map(|node| node.waiting.map_or(node.next, |until| until.min(node.next))).min()
    }

    /// What is due: probes to send, and who has come or gone because an answer has not come.
    pub fn poll(&mut self, now: Instant, probes: &mut Vec<Probe>, changes: &mut Vec<Change>) {
        let settings = self.settings;
        for node in &mut self.nodes {
            let upstream = node.upstream;
            if node.waiting.is_some_and(|until| until <= now) {
                changes.extend(node.failed(settings));
            }
            // Without a connection there is nothing to ask over; that it cannot be had is told by `failed`.
            if node.connected && node.next <= now {
                node.sequence += 1;
                // Not from when it was due: a process that slept owes no probes.
                node.next = now + settings.probe_interval;
                node.waiting = Some(now + settings.probe_timeout);
                probes.push(Probe { upstream, sequence: node.sequence });
            }
        }
    }

    /// A probe was answered with this status. Answers to older ones count for nothing.
    pub fn answered(&mut self, probe: Probe, status: u16) -> Option<Change> {
        let settings = self.settings;
        let node = self.node_mut(probe.upstream)?;
        if node.sequence != probe.sequence || node.waiting.is_none() || status < 200 {
            return None;
        }
        if status == 503 {
            return node.failed(settings);
        }
        node.waiting = None;
        node.failures = 0;
        let was_up = std::mem::replace(&mut node.up, true);
        (!was_up).then_some(Change::Up(probe.upstream))
    }

    /// A connection to it failed, or a probe had no answer.
    pub fn failed(&mut self, upstream: usize) -> Option<Change> {
        let settings = self.settings;
        self.node_mut(upstream)?.failed(settings)
    }

    /// The upstream for a Call-ID, of those that may be `asked`: `preferred` if it is up, else by priority, weight and
    /// Call-ID. `None`: all are down.
    #[must_use]
    pub fn choose(
        &self,
        call_id: &[u8],
        preferred: Option<usize>,
        asked: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if let Some(upstream) = preferred.filter(|&upstream| self.is_up(upstream) && asked(upstream)) {
            return Some(upstream);
        }
        let nodes = || self.nodes.iter().map(|node| (node.upstream, node));
        let up = || nodes().filter(|(upstream, node)| node.takes_requests() && asked(*upstream));
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
