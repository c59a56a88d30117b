//! The steps of a run, and what goes wrong in them.

use std::collections::HashMap;
use std::time::Duration;

use msrp_proto::digest::Challenge;

use super::super::harness::*;
use super::Trace;
use super::model::{self, Asked, Kind, Meaning, Party, Scale, Sent, Writing};
use super::wires::Wires;
use crate::config::Expires;
use crate::msrp::{Drains, Settings, WebSocketLink};

const HOSTS: [&str; 3] = ["relay.test", "outer.test", "third.test"];
const STEPS: usize = 160;

/// One run of the simulation.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) random: Seeded,
    pub(super) trace: Trace,
    /// Nothing is lost, and no time passes until the end.
    pub(super) calm: bool,
    scale: Scale,
    pub(super) relays: usize,
    pub(super) parties: Vec<Party>,
    /// Strangers, who are up to no good.
    pub(super) visitors: Vec<ClientId>,
    pub(super) sent: Vec<Sent>,
    pub(super) asked: Vec<Asked>,
    pub(super) tids: HashMap<String, (ClientId, Meaning)>,
    challenges: HashMap<String, Challenge>,
    pub(super) wires: Wires,
    /// A connection between relays was lost or not made, and what was on it with it.
    pub(super) hop_trouble: bool,
    draining: Vec<bool>,
    /// The most that any of the settings has allowed.
    pub(super) largest_buffer: usize,
    pub(super) largest_read: usize,
}

/// Settings that a reload may bring too.
fn vary(settings: &mut Settings, random: &Seeded) {
    settings.limits.session_buffer = 4096 << random.below(4);
    settings.limits.interrupt_size = [10, 500, 2048, 20_000][random.below(4)];
    settings.limits.async_max_postponed_chunks = [1, 3, 4096][random.below(3)];
    let chunk_size = [300, 2000, 9000, 64 * 1024][random.below(4)];
    settings.listeners[WSS].websocket = Some(WebSocketLink { chunk_size });
}

impl Run {
    pub(super) fn new(seed: u64, trace: Trace) -> Self {
        let random = Seeded::new(seed);
        let calm = random.below(3) == 0;
        let scale = if random.below(4) == 0 { Scale::Large } else { Scale::Small };
        let relays = 1 + random.below(3);
        let mut expires = Expires::default();
        if !calm && random.below(4) == 0 {
            expires = Expires { default: Duration::from_secs(35), min: Duration::from_secs(1), ..expires };
        }
        let settings = |relay: usize| {
            let mut settings = settings_for(HOSTS[relay], 2855);
            vary(&mut settings, &random);
            settings.auth.expires = expires.clone();
            settings
        };
        let mut world = World::seeded(seed, settings(0));
        for relay in 1..relays {
            world.add_relay(settings(relay));
        }
        let mut run = Self {
            world,
            random,
            trace,
            calm,
            scale,
            relays,
            parties: Vec::new(),
            visitors: Vec::new(),
            sent: Vec::new(),
            asked: Vec::new(),
            tids: HashMap::new(),
            challenges: HashMap::new(),
            wires: Wires::default(),
            hop_trouble: false,
            draining: vec![false; relays],
            largest_buffer: 4096 << 3,
            largest_read: 0,
        };
        run.trace.tell(|| format!("seed {seed}, calm: {calm}, {scale:?}, relays: {relays}"));
        run.invite();
        run
    }

    /// Clients come and get their sessions.
    fn invite(&mut self) {
        let count = 2 + 2 * self.random.below(2);
        // Two of the clients may be users behind one connection.
        let gateway = count == 4 && self.random.below(3) == 0;
        for (index, user) in ["alice", "bob", "carol", "alice"].into_iter().enumerate().take(count) {
            let shares = gateway && index == 2;
            let relay = if shares { self.parties[0].relay } else { self.random.below(self.relays) };
            let web = match shares {
                true => self.world.is_websocket_at(self.world.number(self.parties[0].node.id)),
                false => self.random.below(3) == 0,
            };
            let (listener, port, transport) = if web { (WSS, 443, "ws") } else { (TLS, 2855, "tcp") };
            let id = if shares { self.parties[0].node.id } else { self.world.connect_to(relay, listener) };
            let uri = format!("msrps://client{index}.invalid:2855/c{index};{transport}");
            let auth_uri = format!("msrps://{}:{port};{transport}", HOSTS[relay]);
            let (mut path, _) = self.world.auth_along(id, user, &auth_uri, &uri);
            if self.relays > 1 && self.random.below(4) == 0 {
                // It has its session at another relay, behind the one it is connected to.
                let far = (relay + 1 + self.random.below(self.relays - 1)) % self.relays;
                let to = format!("{path} msrps://{}:2855;tcp", HOSTS[far]);
                (path, _) = self.world.auth_along(id, user, &to, &uri);
            }
            self.trace.tell(|| format!("party {index}: {path} for {uri}"));
            self.parties.push(Party {
                node: Node { id, relay: path, uri },
                auth_uri,
                user,
                relay,
                requests: Default::default(),
                answers: Default::default(),
                writing: None,
                left_to_say: 1 + self.random.below(5),
                gone: false,
            });
        }
    }

    pub(super) fn play(&mut self) {
        for number in 0..STEPS {
            self.step(number);
            self.notice();
            self.watch();
            self.look();
        }
        self.settle();
    }

    fn step(&mut self, number: usize) {
        let index = self.random.below(self.parties.len());
        let what = self.random.below(100);
        // To read byte by byte until all is at rest would take for ever.
        let least = if (55..=79).contains(&what) { 1 } else { 100 };
        self.world.read_size = least + self.random.below([50, 1500, 20_000][self.random.below(3)]);
        self.largest_read = self.largest_read.max(self.world.read_size);
        self.trace.tell(|| format!("step {number}: {what} of party {index}"));
        match what {
            0 if !self.calm => self.fail_a_dial(),
            0..=14 => self.speak(index),
            15..=54 => drop(self.write_some(index)),
            55..=79 => {
                for _ in 0..=self.random.below(12) {
                    self.world.nudge(&self.random);
                }
            }
            80..=85 => self.world.run(),
            _ => self.disturb(index),
        }
    }

    /// A party has something to say.
    fn speak(&mut self, from: usize) {
        if self.parties[from].left_to_say == 0 || self.parties[from].gone {
            return;
        }
        self.parties[from].left_to_say -= 1;
        let mut to = from ^ 1;
        if !self.calm && self.random.below(6) == 0 {
            to = self.random.below(self.parties.len());
        }
        if to == from {
            return;
        }
        let mut sent = model::draw(&self.random, self.scale, from, to, &self.parties);
        let number = self.sent.len();
        let party = &mut self.parties[from];
        let world = &mut self.world;
        for (place, (tid, bytes, chunk)) in
            model::cut(&self.random, number, &sent, &party.node.uri, || world.tid()).into_iter().enumerate()
        {
            self.tids.insert(tid, (party.node.id, Meaning::Chunk(number, place)));
            party.requests.push_back((Some(Meaning::Chunk(number, place)), bytes));
            sent.chunks.push(chunk);
        }
        self.trace.tell(|| {
            let Sent { from, to, size, wish, chunks, .. } = &sent;
            let flag = chunks.last().map(|chunk| chunk.flag);
            format!(
                "  m{number:05}: {from} to {to}, {size} bytes in {} chunks, {wish:?}, {flag:?}",
                chunks.len()
            )
        });
        self.sent.push(sent);
    }

    /// Users behind one connection write to it one after another, message by message.
    fn may_write(&self, index: usize) -> bool {
        let id = self.parties[index].node.id;
        let busy = |other: &Party| other.node.id == id && other.writing.is_some();
        self.parties[index].writing.is_some() || !self.parties.iter().any(busy)
    }

    /// Writes some of what a party has to say. Says whether there was anything.
    fn write_some(&mut self, index: usize) -> bool {
        if self.parties[index].gone || !self.may_write(index) {
            return false;
        }
        let party = &mut self.parties[index];
        if party.writing.is_none() {
            let answer = party.answers.pop_front().map(|answer| (None, answer));
            let Some((what, next)) = answer.or_else(|| party.requests.pop_front()) else { return false };
            let bytes = self.world.as_written(party.node.id, &next);
            party.writing = Some(Writing { what, bytes, at: 0 });
        }
        let Some(Writing { bytes, at, .. }) = &mut party.writing else { return false };
        let most = [3, 300, 5000, 200_000][self.random.below(4)];
        let len = (1 + self.random.below(most)).min(bytes.len() - *at);
        self.world.write_raw_later(party.node.id, &bytes[*at..*at + len]);
        *at += len;
        if *at == bytes.len() {
            party.writing = None;
        }
        true
    }

    fn disturb(&mut self, index: usize) {
        let id = self.parties[index].node.id;
        let hops = self.world.hops();
        let hop = (!hops.is_empty()).then(|| hops[self.random.below(hops.len())]);
        let what = self.random.below(if self.calm { 18 } else { 30 });
        self.trace.tell(|| format!("  disturbance {what}, hop {hop:?}"));
        if self.random.below(3) == 0 {
            // What is only kept for speed may be missing at any moment.
            self.world.quiet_all();
            for conn in 0..self.world.connections() {
                let link = self.world.link_at(conn);
                let needs_none = link.is_quiet() && link.backlog().remembered == 0;
                assert!(!link.has_queue() || !needs_none, "{link:?} is silent, and keeps a queue");
            }
        }
        match (what, hop) {
            (0..=7, _) if self.parties[index].gone => {}
            (0..=2, _) => self.world.stop_reading(id, self.random.below(30_000)),
            (3 | 4, _) => self.world.resume_reading(id),
            (5 | 6, _) => {
                let len = self.random.below(10_000);
                self.world.read_some(id, len);
            }
            (7, _) => self.world.socket_takes(id, self.random.below(5000)),
            (8..=10, Some(hop)) => self.world.hold(hop, true),
            (11, Some(hop)) => {
                if let Some(other) = self.world.other_end(hop) {
                    self.world.hold(other, true);
                }
            }
            (12, _) => self.release_hops(),
            (13, _) => self.reload(),
            (14 | 15, _) => self.misbehave(index),
            (16, _) => self.visit(),
            (17, _) => self.ask(index),
            (18 | 19, _) => self.pass(Duration::from_millis(self.random.below(4000) as u64)),
            (20, _) if self.random.below(3) == 0 => self.pass(Duration::from_secs(31)),
            (21, _) => self.leave(index),
            (22 | 23, Some(hop)) => {
                let seen = self.random.below(3) > 0;
                let (here, there) = (hop, self.world.other_end(hop));
                let end = if self.random.below(2) == 0 { here } else { there.unwrap_or(here) };
                self.world.cut(end, seen);
                self.hop_trouble = true;
            }
            (24, _) => self.fail_a_dial(),
            (25, _) => self.end_a_session(),
            (26, _) => self.drain(),
            (27, _) => self.authenticate(index),
            (28, _) => {
                for relay in 0..self.relays {
                    self.world.relay(relay).sweep(self.world.now);
                }
            }
            _ => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        self.world.advance(time);
    }

    fn fail_a_dial(&mut self) {
        let relay = self.random.below(self.relays);
        self.hop_trouble |= self.world.fail_a_dial(relay);
    }

    fn release_hops(&mut self) {
        for conn in 0..self.world.connections() {
            self.world.hold(conn, false);
        }
    }

    /// A relay's settings are replaced.
    fn reload(&mut self) {
        let index = self.random.below(self.relays);
        let relay = self.world.relay(index).clone();
        let current = relay.settings();
        let mut settings = settings_for(HOSTS[index], 2855);
        settings.auth.expires = current.auth.expires.clone();
        vary(&mut settings, &self.random);
        relay.take_over(relay.prepare(settings).unwrap());
    }

    fn drain(&mut self) {
        let relay = self.random.below(self.relays);
        self.draining[relay] ^= true;
        let drains = self.draining[relay].then(Drains::default);
        self.world.relay(relay).set_draining(drains);
    }

    fn end_a_session(&mut self) {
        let relay = self.random.below(self.relays);
        let mut sessions = self.world.relay(relay).sessions().snapshot();
        sessions.sort_unstable_by_key(|session| session.id());
        if sessions.is_empty() || self.random.below(3) > 0 {
            return;
        }
        let session = &sessions[self.random.below(sessions.len())];
        assert!(self.world.relay(relay).end_session(session.id()));
        self.trace.tell(|| format!("  {} is ended", session.uri()));
        // What of its messages is not written yet must not arrive.
        for party in &self.parties {
            let Some(Writing { what: Some(Meaning::Chunk(number, chunk)), .. }) = party.writing else {
                continue;
            };
            if self.sent[number].to_path.split(' ').any(|uri| uri == session.uri().as_str()) {
                self.sent[number].chunks[chunk].cut_off = true;
            }
        }
    }

    /// A party goes, in one way or another.
    fn leave(&mut self, index: usize) {
        if self.scale == Scale::Small && self.random.below(3) > 0 {
            return;
        }
        let id = self.parties[index].node.id;
        match self.random.below(3) {
            0 => self.world.hang_up(id),
            1 => self.world.reset(id),
            _ => self.world.vanish(id),
        }
        for party in self.parties.iter_mut().filter(|party| party.node.id == id) {
            party.gone = true;
        }
    }

    /// A party asks something that must get exactly one answer.
    pub(super) fn request(&mut self, from: usize, kind: Kind, write: impl FnOnce(&str) -> Vec<u8>) -> String {
        let tid = self.world.tid();
        self.tids.insert(tid.clone(), (self.parties[from].node.id, Meaning::Asked(self.asked.len())));
        self.asked.push(Asked { from, kind, statuses: Vec::new() });
        self.parties[from].requests.push_back((None, write(&tid)));
        tid
    }

    /// A request of an unknown method, which goes the whole way, as its response does.
    fn ask(&mut self, from: usize) {
        let (to_path, _) = model::paths(&self.parties[from], &self.parties[from ^ 1]);
        let own = self.parties[from].node.uri.clone();
        let body = "?".repeat(self.random.below(3) * 700);
        self.request(from, Kind::Unknown, |tid| {
            format!(
                "MSRP {tid} XASK\r\nTo-Path: {to_path}\r\nFrom-Path: {own}\r\nX-Check: asked\r\nContent-Type: text/plain\r\n\r\n{body}{}",
                end(tid, '$')
            )
            .into_bytes()
        });
    }

    /// It wants another session.
    fn authenticate(&mut self, from: usize) {
        let party = &self.parties[from];
        if !party.is_near() {
            return;
        }
        let (to, own) = (party.auth_uri.clone(), party.node.uri.clone());
        self.request(from, Kind::Challenged, |tid| auth_request(tid, &to, &own, "").into_bytes());
    }

    /// An AUTH was answered.
    pub(super) fn authenticated(&mut self, number: usize, message: &Message) {
        let Asked { from, kind, .. } = self.asked[number];
        let status = message.status().unwrap_or_default();
        let party = &self.parties[from];
        let (to, own, user) = (party.auth_uri.clone(), party.node.uri.clone(), party.user);
        match (kind, status) {
            (Kind::Challenged, 401) => {
                let challenge = Challenge::parse(message.field("WWW-Authenticate")).unwrap();
                let authorization = format!("Authorization: {}\r\n", answer(&challenge, user, &to, 1));
                let tid = self.request(from, Kind::Authorized, |tid| {
                    auth_request(tid, &to, &own, &authorization).into_bytes()
                });
                self.challenges.insert(tid, challenge);
            }
            (Kind::Authorized, 200) => {
                self.parties[from].node.relay = message.field("Use-Path").to_owned();
            }
            // Stale by now, or nobody is let in.
            (Kind::Authorized, 401) | (Kind::Challenged | Kind::Authorized, 408) => {}
            (kind, status) => panic!("{kind:?} was answered {status}"),
        }
    }

    /// A party does what it must not: it gets an error, and nobody hears of it.
    fn misbehave(&mut self, from: usize) {
        let party = &self.parties[from];
        if !party.is_near() {
            return;
        }
        let (own, own_session, host) = (party.node.uri.clone(), party.node.relay.clone(), HOSTS[party.relay]);
        let number = self.random.below(self.parties.len());
        let (victim, other) = (&self.parties[number], &self.parties[number ^ 1]);
        let strange = format!("msrps://{host}:2855/ggggg{:032x};tcp", self.random.next());
        // Without a port nobody is reached but by AUTH, and to nowhere nothing leads.
        let (to_path, lines) = match self.random.below(6) {
            0 => (format!("{strange} {}", victim.path()), ""),
            1 => (format!("{own_session} {}", victim.path()), "Failure-Report: maybe\r\n"),
            2 => (format!("{own_session} msrps://nowhere.test/x;tcp"), ""),
            3 => (own_session, ""),
            // Into a session that is in use.
            4 if self.is_in_use(number, from) => (format!("{own_session} {}", victim.path()), ""),
            // Out of another's session.
            _ => {
                let from_elsewhere = victim.node.id != party.node.id && victim.node.id != other.node.id;
                let near = victim.relay == other.relay && victim.relay == party.relay;
                if !from_elsewhere || !near || !victim.is_near() || !other.is_near() {
                    return;
                }
                (format!("{} {}", victim.node.relay, other.path()), "")
            }
        };
        self.trace.tell(|| format!("  {from} does evil: {to_path} {lines}"));
        self.request(from, Kind::Evil, |tid| {
            let head = format!("To-Path: {to_path}\r\nFrom-Path: {own}\r\nMessage-ID: evil\r\n{lines}");
            send(tid, &head, "evil", '$')
        });
    }

    /// Whether nobody but the one whom it talks to may send to this party.
    fn is_in_use(&self, number: usize, by: usize) -> bool {
        let [party, peer, other] = [number, number ^ 1, by].map(|index| &self.parties[index]);
        let all_here =
            [party, peer, other].iter().all(|who| who.is_near() && who.relay == party.relay && !who.gone);
        let strange = other.node.id != party.node.id && other.node.id != peer.node.id;
        let (to_path, _) = model::paths(peer, party);
        let in_use = |sent: &Sent| sent.to_path == to_path && !sent.arrived.is_empty();
        all_here && strange && self.sent.iter().any(in_use)
    }

    /// A stranger comes, and is up to no good.
    fn visit(&mut self) {
        if self.visitors.len() >= 3 {
            return;
        }
        let relay = self.random.below(self.relays);
        let web = self.random.below(3) == 0;
        let (listener, port, transport) = if web { (WSS, 443, "ws") } else { (TLS, 2855, "tcp") };
        let id = self.world.connect_to(relay, listener);
        self.visitors.push(id);
        let own = format!("msrps://visitor.invalid:2855/v;{transport}");
        let victim = &self.parties[self.random.below(self.parties.len())];
        let us = format!("msrps://{}:{port}", HOSTS[relay]);
        let head = |to: &str| format!("To-Path: {to}\r\nFrom-Path: {own}\r\nMessage-ID: evil\r\n");
        let strange = format!("{us}/ggggg{:032x};{transport}", self.random.next());
        let evil = match self.random.below(6) {
            0 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            1 => send("evil1", &head("msrps://foreign.test:2855/x;tcp"), "evil", '$'),
            2 => (0..7).flat_map(|_| send("evil2", &head(&strange), "evil", '$')).collect(),
            3 => auth_request("evil3", &format!("{us};{transport}"), &own, "Authorization: Digest x\r\n")
                .into(),
            4 => {
                format!("MSRP evil4 SEND\r\nTo-Path: {us};{transport}\r\n{}", "X: y\r\n".repeat(5000)).into()
            }
            // Only the beginning of a message, and nothing after it.
            _ => send_begin("evil5", &head(&format!("{strange} {}", victim.path()))),
        };
        let evil = self.world.as_written(id, &evil);
        self.world.write_raw_later(id, &evil);
    }

    /// All goes on again, and time passes, until nothing is left to wait for.
    fn settle(&mut self) {
        self.trace.tell(|| "settling".to_owned());
        self.world.read_size = self.largest_read;
        for round in 0..4 {
            for index in 0..self.parties.len() {
                if !self.parties[index].gone {
                    self.world.resume_reading(self.parties[index].node.id);
                }
            }
            self.release_hops();
            for relay in 0..self.relays {
                self.world.relay(relay).set_draining(None);
            }
            loop {
                self.world.run();
                self.notice();
                self.look();
                let mut wrote = false;
                for index in 0..self.parties.len() {
                    wrote |= self.write_some(index);
                }
                self.watch();
                if !wrote {
                    break;
                }
            }
            if round == 0 {
                // What nobody waits for any more has arrived by now, and what was not answered is told.
                self.check_rest();
            }
            self.pass(Duration::from_secs(31));
            // Who has gone without a word is missed by now: below all this, the daemon bounds how long a message takes.
            self.world.miss_the_lost();
        }
        self.world.run();
        self.notice();
        self.look();
        self.watch();
    }
}
