//! Seeded simulation: clients that talk through one or two relays, with any slicing, any room in the
//! sockets, any answers, and hang-ups. One seed is one run, byte for byte.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use msrp_proto::flag::Flag;

use super::harness::*;
use crate::msrp::WebSocketLink;

/// How many runs; `SEEDS=n` asks for more, `SEED=n` for that one.
const SEEDS: u64 = 200;
const STEPS: usize = 150;

/// A message that somebody sends.
struct Sent {
    to: usize,
    content: Vec<u8>,
    wish: &'static str,
    /// The transaction ids of its chunks, and how far each was written.
    chunks: Vec<String>,
}

struct Party {
    node: Node,
    /// Who it talks to, and the paths of what it sends.
    peer: usize,
    paths: String,
    /// Chunks and responses to write, each whole before the next; responses go first.
    chunks: VecDeque<Vec<u8>>,
    responses: VecDeque<Vec<u8>>,
    /// What it is writing, and how much of that is done.
    writing: Option<(Vec<u8>, usize)>,
    received: Vec<Message>,
    reads: bool,
    gone: bool,
}

struct Run {
    world: World,
    random: Seeded,
    parties: Vec<Party>,
    sent: Vec<Sent>,
    /// Whether everything must arrive: nobody hangs up, refuses or takes too long.
    calm: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        let random = Seeded::new(seed);
        let mut settings = settings();
        settings.limits.session_buffer = 4096 << random.below(5);
        settings.limits.interrupt_size = [10, 500, 2048, 20_000][random.below(4)];
        settings.limits.async_max_postponed_chunks = [1, 3, 4096][random.below(3)];
        let chunk_size = [300, 2000, 9000, 64 * 1024][random.below(4)];
        settings.listeners[WSS].websocket = Some(WebSocketLink { chunk_size });
        // Which clients come by WebSocket.
        let web: [bool; 4] = std::array::from_fn(|_| random.below(3) == 0);
        let relays = 1 + random.below(2);
        let mut world = World::seeded(seed, settings.clone());
        if relays == 2 {
            let mut outer = settings_for("outer.test", 2855);
            outer.limits = settings.limits;
            outer.listeners[WSS].websocket = Some(WebSocketLink { chunk_size });
            world.add_relay(outer);
        }
        let users = ["alice", "bob", "carol", "alice"];
        let count = 2 + 2 * random.below(2);
        // Two of the clients may be users behind one connection.
        let gateway = count == 4 && random.below(3) == 0;
        let mut parties: Vec<Party> = Vec::new();
        for (index, user) in users.into_iter().enumerate().take(count) {
            let relay = if relays == 2 { index % 2 } else { 0 };
            let host = ["relay.test", "outer.test"][relay];
            // A client behind another's connection comes as that one does.
            let web = if gateway && index == 2 { web[0] } else { web[index] };
            let (listener, port, transport) = if web { (WSS, 443, "ws") } else { (TLS, 2855, "tcp") };
            let id =
                if gateway && index == 2 { parties[0].node.id } else { world.connect_to(relay, listener) };
            let uri = format!("msrps://client{index}.invalid:2855/c{index};{transport}");
            let (relay, _) = world.auth_along(id, user, &format!("msrps://{host}:{port};{transport}"), &uri);
            parties.push(Party {
                node: Node { id, relay, uri },
                peer: index ^ 1,
                paths: String::new(),
                chunks: VecDeque::new(),
                responses: VecDeque::new(),
                writing: None,
                received: Vec::new(),
                reads: true,
                gone: false,
            });
        }
        for index in 0..count {
            parties[index].paths = parties[index].node.paths_to(&parties[index ^ 1].node);
        }
        let calm = random.below(3) > 0;
        Self { world, random, parties, sent: Vec::new(), calm }
    }

    /// Everybody's messages, cut into chunks.
    fn compose(&mut self) {
        for from in 0..self.parties.len() {
            for _ in 0..1 + self.random.below(6) {
                let random = &self.random;
                let size = match random.below(5) {
                    0 => random.below(3),
                    1 | 2 => random.below(400),
                    3 => random.below(6000),
                    _ => random.below(100_000),
                };
                let wish =
                    ["", "Failure-Report: yes\r\n", "Failure-Report: partial\r\n", "Failure-Report: no\r\n"]
                        [random.below(4)];
                let number = self.sent.len();
                let content: Vec<u8> = (0..size).map(|_| b"ab\r\n-x"[random.below(6)]).collect();
                let mut chunks = Vec::new();
                let largest = if random.below(2) == 0 { size.max(1) } else { 1 + random.below(5000) };
                let mut at = 0;
                loop {
                    let len = largest.min(size - at);
                    let last = at + len == size;
                    let tid = self.world.tid();
                    let range = match random.below(4) {
                        0 if last && at == 0 => String::new(),
                        1 => format!("Byte-Range: {}-*/*\r\n", at + 1),
                        2 => format!("Byte-Range: {}-*/{size}\r\n", at + 1),
                        _ => format!("Byte-Range: {}-{}/{size}\r\n", at + 1, at + len),
                    };
                    let head =
                        format!("{}Message-ID: m{number:05}\r\n{range}{wish}", self.parties[from].paths);
                    let flag = if last { '$' } else { '+' };
                    self.parties[from].chunks.push_back(send(&tid, &head, &content[at..at + len], flag));
                    chunks.push(tid);
                    at += len;
                    if last {
                        break;
                    }
                }
                let to = self.parties[from].peer;
                self.sent.push(Sent { to, content, wish, chunks });
            }
        }
    }

    /// Users behind one connection write to it one after another, message by message.
    fn may_write(&self, index: usize) -> bool {
        let id = self.parties[index].node.id;
        let busy = |other: &Party| other.node.id == id && other.writing.is_some();
        self.parties[index].writing.is_some() || !self.parties.iter().any(busy)
    }

    /// Writes some of what one party has to say. Says whether there was anything.
    fn write_some(&mut self, index: usize) -> bool {
        if self.parties[index].gone || !self.may_write(index) {
            return false;
        }
        let party = &mut self.parties[index];
        if party.writing.is_none() {
            let next = party.responses.pop_front().or_else(|| party.chunks.pop_front());
            let Some(next) = next else { return false };
            let next = self.world.as_written(party.node.id, &next);
            party.writing = Some((next, 0));
        }
        let Some((bytes, at)) = &mut party.writing else { return false };
        let most = [3, 300, 5000, 200_000][self.random.below(4)];
        let len = (1 + self.random.below(most)).min(bytes.len() - *at);
        let slice = bytes[*at..*at + len].to_vec();
        *at += len;
        if *at == bytes.len() {
            party.writing = None;
        }
        let id = party.node.id;
        self.world.read_size = 1 + self.random.below(20_000);
        self.world.write_raw(id, slice);
        true
    }

    /// Everybody looks at what came, and answers.
    fn look(&mut self) {
        for index in 0..self.parties.len() {
            let id = self.parties[index].node.id;
            for message in self.world.take(id) {
                // Which of the users behind the connection it is for.
                let owner = (0..self.parties.len())
                    .find(|&at| self.parties[at].node.id == id && self.parties[at].node.uri == message.to());
                let owner = owner.unwrap_or_else(|| panic!("{message:?}"));
                if message.method() == "SEND" && message.field("Failure-Report") != "no" {
                    let status = match self.random.below(30) {
                        0 if !self.calm => Some("413 enough"),
                        1 if !self.calm => None,
                        _ if message.field("Failure-Report") == "partial" => None,
                        _ => Some("200 OK"),
                    };
                    let response = status.map(|status| respond(&message, status).into_bytes());
                    self.parties[owner].responses.extend(response);
                }
                self.parties[owner].received.push(message);
            }
        }
    }

    fn disturb(&mut self) {
        let index = self.random.below(self.parties.len());
        let id = self.parties[index].node.id;
        match self.random.below(12) {
            0 | 1 => {
                self.world.stop_reading(id, self.random.below(30_000));
                self.parties[index].reads = false;
            }
            2 | 3 => {
                self.world.resume_reading(id);
                self.parties[index].reads = true;
            }
            4..=6 => {
                let len = self.random.below(10_000);
                self.world.read_some(id, len);
            }
            7 if !self.calm => self.world.advance(Duration::from_millis(self.random.below(3000) as u64)),
            8 if !self.calm && self.random.below(10) == 0 => self.hang_up(index),
            _ => {}
        }
    }

    fn hang_up(&mut self, index: usize) {
        let id = self.parties[index].node.id;
        self.world.hang_up(id);
        for party in self.parties.iter_mut().filter(|party| party.node.id == id) {
            party.gone = true;
        }
    }

    /// Notes who was closed by a relay.
    fn notice(&mut self) {
        for index in 0..self.parties.len() {
            let closed = self.world.closed(self.parties[index].node.id);
            if closed.is_some() && !self.parties[index].gone {
                assert!(!self.calm, "{closed:?}");
                self.parties[index].gone = true;
            }
        }
    }

    fn play(&mut self) {
        self.compose();
        for _ in 0..STEPS {
            let index = self.random.below(self.parties.len());
            self.write_some(index);
            self.disturb();
            self.notice();
            self.look();
        }
        // The rest in order.
        for index in 0..self.parties.len() {
            self.world.resume_reading(self.parties[index].node.id);
        }
        loop {
            self.notice();
            self.look();
            let mut wrote = false;
            for index in 0..self.parties.len() {
                wrote |= self.write_some(index);
            }
            if !wrote {
                break;
            }
        }
        self.look();
        self.world.advance(Duration::from_secs(31));
        self.notice();
        self.look();
    }

    fn check(&self) {
        for link in self.world.open_links() {
            assert!(link.is_idle(), "{link:?}");
            assert_eq!(link.queued_bytes(), 0);
        }
        let mut responses: HashMap<String, Vec<u16>> = HashMap::new();
        for message in self.parties.iter().flat_map(|party| &party.received) {
            if let Some(status) = message.status() {
                responses.entry(message.tid()).or_default().push(status);
            }
        }
        for (number, sent) in self.sent.iter().enumerate() {
            let id = format!("m{number:05}");
            let from = self.parties[sent.to].peer;
            let any_gone = self.parties[from].gone || self.parties[sent.to].gone;
            let mut failed = false;
            for tid in &sent.chunks {
                let statuses = responses.get(tid).map_or(&[][..], Vec::as_slice);
                failed |= statuses.iter().any(|&status| status != 200);
                let right = match sent.wish {
                    "Failure-Report: no\r\n" => statuses.is_empty(),
                    "Failure-Report: partial\r\n" => statuses.len() <= 1 && !statuses.contains(&200),
                    _ => statuses.len() == 1 || statuses.is_empty() && self.parties[from].gone,
                };
                assert!(right, "{id} {tid} {:?}: {statuses:?}", sent.wish);
            }
            let of_it = |message: &&Message| message.field("Message-ID") == id;
            failed |=
                self.parties[from].received.iter().filter(of_it).any(|message| message.method() == "REPORT");
            let fragments = || self.parties[sent.to].received.iter().filter(of_it);
            failed |= fragments().any(|fragment| fragment.flag == Some(Flag::Abort));

            // What is lost of it need not be told.
            let untold = sent.wish == "Failure-Report: no\r\n" && !self.calm;
            let mut at = 0;
            let mut complete = false;
            for fragment in fragments() {
                let start: usize = match fragment.range() {
                    "" => 1,
                    range => range.split('-').next().unwrap().parse().unwrap(),
                };
                let bytes = &sent.content[start - 1..];
                assert!(bytes.starts_with(&fragment.body), "{id} at {start}");
                assert!(start > at, "{id}: {start} after {at}");
                assert!(start == at + 1 || failed || untold, "{id}: {start} after {at}");
                if start == at + 1 {
                    at += fragment.body.len();
                }
                complete = fragment.flag == Some(Flag::Complete);
            }
            let whole = complete && at == sent.content.len();
            let excused = failed || any_gone || untold;
            assert!(whole || excused, "{id} from {from}: {at} of {} arrived", sent.content.len());
            assert!(!self.calm || whole, "{id} did not arrive though nothing was in its way");
        }
    }
}

#[test]
fn what_is_sent_arrives_or_is_accounted_for() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = number("SEED").map_or(0..number("SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            run.play();
            run.check();
        });
        if let Err(panic) = result {
            eprintln!("SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let received = |seed| {
        let mut run = Run::new(seed);
        run.play();
        run.parties.into_iter().map(|party| party.received).collect::<Vec<_>>()
    };
    for seed in [3, 5] {
        assert!(received(seed) == received(seed));
    }
}
