//! What must hold: after every step, when all has come to rest, and when all is closed.

use std::sync::Arc;
use std::time::Duration;

use msrp_proto::flag::Flag;

use super::super::harness::*;
use super::model::{Asked, Kind, Meaning, Sent, SentChunk, Wish};
use super::network::Run;
use crate::msrp::outbound::{CONTROL_LIMIT, FILL_TARGET};
use crate::msrp::{Count, Owner, Session};

/// One control message may come on top of the limit from everybody who is read from.
const CONTROL_MARGIN: usize = 64 * 1024;
/// What is decided as one: a fragment in message mode, or what may not be interrupted.
const LARGEST_FRAGMENT: usize = 64 * 1024 + 20_000;

impl Run {
    /// Notes who was closed by a relay, and which connections between relays are gone.
    pub(super) fn notice(&mut self) {
        for party in self.parties.iter_mut().filter(|party| !party.gone) {
            if let Some(reason) = self.world.closed_now(party.node.id) {
                self.trace.tell(|| format!("  {} is closed: {reason:?}", party.node.uri));
                assert!(!self.calm, "{reason:?}");
                party.gone = true;
            }
        }
        for conn in 0..self.world.connections() {
            if self.world.link_at(conn).target().is_some() && !self.world.is_open_at(conn) {
                assert!(!self.calm);
                self.hop_trouble = true;
            }
        }
    }

    /// Everybody looks at what came, and answers.
    pub(super) fn look(&mut self) {
        for index in 0..self.parties.len() {
            let id = self.parties[index].node.id;
            if self.parties[..index].iter().any(|party| party.node.id == id) {
                continue;
            }
            for message in self.world.take_now(id) {
                match message.status() {
                    Some(status) => self.answered(id, status, &message),
                    None => self.received(id, &message),
                }
            }
            // One in a while has enough of what is still coming.
            if !self.calm
                && self.random.below(40) == 0
                && let Some(message) = self.world.coming_now(id).cloned()
                && message.method() == "SEND"
                && message.field("Failure-Report") != "no"
                && let Some(owner) = self.owner(id, message.to())
            {
                self.parties[owner].answers.push_back(respond(&message, "413 enough").into_bytes());
            }
        }
        for visitor in self.visitors.clone() {
            for message in self.world.take_now(visitor) {
                let refused = message.status().is_some_and(|status| status >= 400);
                assert!(refused, "a stranger got {message:?}");
            }
        }
    }

    /// Which of the users behind a connection has this URI.
    fn owner(&self, id: ClientId, uri: &str) -> Option<usize> {
        self.parties.iter().position(|party| party.node.id == id && party.node.uri == uri)
    }

    fn answered(&mut self, id: ClientId, status: u16, message: &Message) {
        let tid = message.tid();
        let Some(&(asked_over, meaning)) = self.tids.get(&tid) else {
            panic!("nobody asked {tid}: {message:?}")
        };
        assert!(asked_over == id, "{tid} is answered over another connection");
        self.trace.tell(|| format!("  {tid} is answered {status}"));
        match meaning {
            Meaning::Chunk(number, chunk) => self.sent[number].chunks[chunk].statuses.push(status),
            Meaning::Asked(number) => {
                self.asked[number].statuses.push(status);
                if matches!(self.asked[number].kind, Kind::Challenged | Kind::Authorized) {
                    self.authenticated(number, message);
                }
            }
        }
    }

    fn received(&mut self, id: ClientId, message: &Message) {
        let owner = self.owner(id, message.to()).unwrap_or_else(|| panic!("for nobody here: {message:?}"));
        match message.method() {
            "SEND" => self.received_send(owner, message),
            "REPORT" => self.received_report(owner, message),
            "XASK" => {
                assert_eq!(message.field("X-Check"), "asked");
                let (tid, back, own) = (message.tid(), message.from(), message.to());
                let answer =
                    format!("MSRP {tid} 200 OK\r\nTo-Path: {back}\r\nFrom-Path: {own}\r\n-------{tid}$\r\n");
                if self.calm || self.random.below(10) > 0 {
                    self.parties[owner].answers.push_back(answer.into_bytes());
                }
            }
            method => panic!("a relay made {method}: {message:?}"),
        }
    }

    fn number_of(message: &Message) -> usize {
        let id = message.field("Message-ID");
        id.strip_prefix('m').and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("not sent: {message:?}"))
    }

    fn received_send(&mut self, owner: usize, message: &Message) {
        let number = Self::number_of(message);
        let own_uri = self.parties[owner].node.uri.clone();
        let sent = &mut self.sent[number];
        assert_eq!(sent.to, owner, "{message:?}");
        assert_eq!(message.from(), sent.arrives_from, "{message:?}");
        assert_eq!(message.field("X-Check"), format!("of m{number:05}"));
        let (at, end) = place(sent, message);
        self.trace.tell(|| format!("  m{number:05}: {at} to {end} arrives, {:?}", message.flag));
        let twice = sent.arrived.iter().any(|&(from, until)| at < until && from < end);
        assert!(!twice, "m{number:05}: {at} to {end} arrives twice: {:?}", sent.arrived);
        // Over another connection between relays it may overtake what is left on the lost one.
        let last = sent.arrived.last().map_or(0, |&(_, until)| until);
        assert!(self.hop_trouble || at >= last, "m{number:05}: {at} arrives after {last}");
        let cut_off =
            |chunk: &SentChunk| chunk.cut_off && chunk.len > 0 && end == chunk.at + chunk.len && at < end;
        assert!(!sent.chunks.iter().any(cut_off), "m{number:05}: {end} arrives after its session's end");
        sent.arrived.push((at, end));
        if message.flag == Some(Flag::Complete) {
            assert_eq!(end, sent.size, "m{number:05} ends too early");
            assert!(!sent.complete, "m{number:05} ends twice");
            sent.complete = true;
            if sent.wants_success {
                let (tid, size) = (self.world.tid(), sent.size);
                let report = format!(
                    "MSRP {tid} REPORT\r\nTo-Path: {}\r\nFrom-Path: {own_uri}\r\nMessage-ID: m{number:05}\r\n\
                     Byte-Range: 1-{size}/{size}\r\nStatus: 000 200 OK\r\n-------{tid}$\r\n",
                    message.from()
                );
                self.parties[owner].requests.push_back((None, report.into_bytes()));
            }
        }
        let wish = message.field("Failure-Report");
        if wish == "no" {
            return;
        }
        let status = match self.random.below(30) {
            0 if !self.calm => Some("413 enough"),
            1 if !self.calm => None,
            _ if wish == "partial" => None,
            _ => Some("200 OK"),
        };
        let Some(status) = status else { return };
        let response = respond(message, status).into_bytes();
        // Who answers twice is heard once.
        if self.random.below(12) == 0 {
            self.parties[owner].answers.push_back(response.clone());
        }
        self.parties[owner].answers.push_back(response);
    }

    fn received_report(&mut self, owner: usize, message: &Message) {
        let number = Self::number_of(message);
        let sent = &mut self.sent[number];
        assert_eq!(sent.from, owner, "{message:?}");
        assert!(message.body.is_empty());
        let status = message.field("Status");
        self.trace.tell(|| format!("  m{number:05}: REPORT {status}, {}", message.range()));
        if status == "000 200 OK" {
            assert!(sent.wants_success && sent.complete, "{message:?}");
            sent.successes += 1;
            return;
        }
        assert_ne!(sent.wish, Wish::No, "{message:?}");
        let (start, rest) = message.range().split_once('-').unwrap();
        let end = rest.split('/').next().unwrap().parse().unwrap_or(sent.size);
        sent.reported.push((start.parse::<usize>().unwrap() - 1, end));
    }

    /// What holds after every step: the wires, and the bounds of what waits.
    pub(super) fn watch(&mut self) {
        self.wires.look(&mut self.world, &self.trace);
        // What came in one read is put in as a whole, with its heads.
        let margin = 3 * self.largest_read + 4096;
        for conn in 0..self.world.connections() {
            assert!(
                self.world.unread_at(conn) <= margin,
                "{} bytes are not understood",
                self.world.unread_at(conn)
            );
            let backlog = self.world.link_at(conn).backlog();
            assert!(backlog.fullest_lane <= self.largest_buffer + margin, "{backlog:?}");
            assert!(backlog.control <= CONTROL_LIMIT + CONTROL_MARGIN, "{backlog:?}");
            let placed = FILL_TARGET + LARGEST_FRAGMENT + CONTROL_MARGIN;
            assert!(backlog.wire <= placed, "{backlog:?}");
        }
    }

    /// When everybody reads, nobody waits. Where nothing was in the way, everything is there before any time has passed.
    pub(super) fn check_rest(&self) {
        for conn in (0..self.world.connections()).filter(|&conn| self.world.is_open_at(conn)) {
            assert!(!self.world.is_paused_at(conn), "{:?} waits for nothing", self.world.link_at(conn));
        }
        if !self.calm {
            return;
        }
        for (number, sent) in self.sent.iter().enumerate() {
            let last = sent.chunks.last().unwrap();
            let arrived: usize = sent.arrived.iter().map(|(at, end)| end - at).sum();
            assert_eq!(arrived, last.at + last.len, "m{number:05} did not arrive: {sent:?}");
            assert_eq!(sent.complete, last.flag == '$', "m{number:05}");
            assert_eq!(sent.successes, usize::from(sent.wants_success && sent.complete), "m{number:05}");
            assert!(sent.reported.is_empty(), "{sent:?}");
            let good = |chunk: &SentChunk| {
                chunk.statuses == if sent.wish.is_full() { vec![200] } else { Vec::new() }
            };
            assert!(sent.chunks.iter().all(good), "{sent:?}");
        }
        let unknown = self.asked.iter().filter(|asked| asked.kind == Kind::Unknown);
        assert!(unknown.into_iter().all(|asked| asked.statuses == [200]), "{:?}", self.asked);
    }

    /// What holds at the end, and when all is closed.
    pub(super) fn finish(mut self) {
        let dropped: u64 =
            (0..self.relays).map(|relay| self.world.relay(relay).counters().get(Count::ReportsDropped)).sum();
        for (number, sent) in self.sent.iter().enumerate() {
            self.check_answers(number, sent);
            let receiver_stayed = !self.parties[sent.to].gone;
            // Nobody tells of what is lost with a connection to who had only errors to tell.
            let is_told = sent.wish.is_full() || sent.wish == Wish::Partial && receiver_stayed;
            if is_told && !self.parties[sent.from].gone && !self.hop_trouble && dropped == 0 {
                check_accounted(number, sent);
            }
        }
        for asked in &self.asked {
            let Asked { from, kind, statuses } = asked;
            let stayed = !self.parties[*from].gone;
            assert!(statuses.len() == 1 || statuses.is_empty() && !stayed, "{asked:?}");
            assert!(*kind != Kind::Evil || statuses.iter().all(|&status| status >= 400), "{asked:?}");
        }
        self.wires.check_answered(|conn| self.world.is_open_at(conn));
        for conn in 0..self.world.connections() {
            let link = self.world.link_at(conn);
            let backlog = link.backlog();
            let is_at_rest = link.is_idle() && link.queued_bytes() == 0 && backlog.transactions == 0;
            assert!(is_at_rest, "{link:?} {backlog:?}");
        }
        self.check_nothing_is_left();
    }

    /// Each chunk is answered as its sender wanted it.
    fn check_answers(&self, number: usize, sent: &Sent) {
        let gone = self.parties[sent.from].gone;
        for chunk in &sent.chunks {
            let right = match (sent.wish, &chunk.statuses[..]) {
                (Wish::No, statuses) => statuses.is_empty(),
                (Wish::Partial, statuses) => statuses.len() <= 1 && !statuses.contains(&200),
                (_, statuses) => statuses.len() == 1 || statuses.is_empty() && gone,
            };
            assert!(right, "m{number:05}: {chunk:?} {:?}", sent.wish);
        }
    }

    /// All connections close, and all time passes: what the relays remember is gone, and so are the links.
    fn check_nothing_is_left(&mut self) {
        if self.random.below(2) == 0 {
            for relay in 0..self.relays {
                self.world.relay(relay).end_all_sessions();
            }
            for conn in 0..self.world.connections() {
                let link = self.world.link_at(conn);
                assert_eq!(link.sessions(), 0, "{link:?}");
            }
        }
        let links = self.world.close_everything();
        for index in 0..self.relays {
            let relay = self.world.relay(index);
            let of_client = |session: &Arc<Session>| matches!(session.owner(), Owner::Client(_));
            assert!(!relay.sessions().snapshot().iter().any(of_client), "a client's session outlives it");
        }
        self.world.advance(Duration::from_secs(4000));
        for index in 0..self.relays {
            let relay = self.world.relay(index);
            relay.sweep(self.world.now);
            assert!(relay.sessions().is_empty());
            assert_eq!(relay.users.len(), 0);
            assert!(relay.routes.is_empty());
        }
        for link in links {
            assert!(link.upgrade().is_none(), "{:?} is held by somebody", link.upgrade());
        }
    }
}

/// Which bytes a SEND brings, which must be those that were sent.
fn place(sent: &Sent, message: &Message) -> (usize, usize) {
    let at = match message.range() {
        "" => 0,
        range => range.split('-').next().unwrap().parse::<usize>().unwrap() - 1,
    };
    let end = at + message.body.len();
    assert!(sent.content().get(at..end) == Some(&message.body), "not what was sent at {at}: {message:?}");
    (at, end)
}

/// Every byte of every chunk has arrived, or its sender knows that it has not.
fn check_accounted(number: usize, sent: &Sent) {
    let mut known: Vec<(usize, usize)> = sent.arrived.iter().chain(&sent.reported).copied().collect();
    let refused = |status: &u16| *status != 200;
    let failed = sent.chunks.iter().filter(|chunk| chunk.statuses.iter().any(refused));
    known.extend(failed.map(|chunk| (chunk.at, chunk.at + chunk.len)));
    known.sort_unstable();
    for chunk in &sent.chunks {
        let mut at = chunk.at;
        for &(from, until) in &known {
            if from <= at {
                at = at.max(until);
            }
        }
        assert!(at >= chunk.at + chunk.len, "m{number:05} lost its byte {at}, and nobody says so: {sent:?}");
    }
    let last = sent.chunks.last().unwrap();
    let told = last.statuses.iter().any(refused) || !sent.reported.is_empty();
    assert!(last.flag != '$' || sent.complete || told, "m{number:05} never ends: {sent:?}");
}
