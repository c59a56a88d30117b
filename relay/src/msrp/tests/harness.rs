//! A world of relays, connections and clients in memory. It drives each connection as the daemon does:
//! a woken connection that has paused is asked again, one that a socket refused writes when there is
//! room, deadlines are those the connection told at the end of its last turn.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use msrp_proto::decoder::{self, Decoder, Event};
use msrp_proto::digest::{Algorithm, Answer, AuthenticationInfo, Authorization, Challenge, Secret};
use msrp_proto::flag::Flag;
use msrp_proto::head::{Head, Kind};
use msrp_proto::status::StatusCode;
use msrp_proto::uri::Scheme;
use parking_lot::Mutex;
use tcp_transport::connection::{CloseReason, Flow};
use tcp_transport::tls::PeerCertificate;

use crate::config::{Auth, Expires, Limits, Throttle, Timeouts};
use crate::credentials::{CredentialChain, Lookup, Query, UserTable};
use crate::msrp::{
    Advertised, Dialer, Flushed, Inbound, Link, LinkKind, Peer, ProcessTag, Random, Relay, Resolver,
    Settings, Tap, WallClock, WebSocketLink, Wire,
};

mod faults;

use super::tap::Recorder;
use super::websocket_frames::{Unframer, frame, take_frame};

/// What `write_unit` is over TLS.
pub(super) const TLS_UNIT: usize = 16_384;
pub(super) const REALM: &str = "relay.test";
/// The URI by which clients over TLS ask the first relay.
pub(super) const RELAY: &str = "msrps://relay.test:2855;tcp";
/// The listeners' numbers.
pub(super) const TLS: usize = 0;
pub(super) const PLAIN: usize = 1;
pub(super) const WSS: usize = 2;
pub(super) const WS: usize = 3;

/// A generator that gives the same numbers for the same seed (splitmix64).
pub(super) struct Seeded(Mutex<u64>);

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    pub(super) fn next(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The virtual time, for the relays' wall clocks.
#[derive(Clone)]
struct Clock {
    start: Instant,
    now: Arc<Mutex<Instant>>,
}

impl WallClock for Clock {
    fn unix_millis(&self) -> u64 {
        1_700_000_000_000 + self.now.lock().duration_since(self.start).as_millis() as u64
    }
}

/// One direction of a connection: what the relay has written and the other end has not read.
pub(super) struct Socket(Mutex<SocketState>);

struct SocketState {
    unread: Vec<u8>,
    /// How much may be unread before writes are refused.
    room: usize,
    tls: bool,
    /// What each write was, over TLS: one record.
    records: Vec<Vec<u8>>,
    broken: bool,
    woken: bool,
    /// How often it was woken since a test asked.
    wakes: usize,
    close: Option<CloseReason>,
}

struct SocketWire(Arc<Socket>, Option<Arc<dyn Tap>>);

impl Wire for SocketWire {
    fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.0.lock();
        if state.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let free = state.room.saturating_sub(state.unread.len());
        if free == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes: Vec<u8> = bufs.iter().map(|buf| &**buf).collect::<Vec<_>>().concat();
        assert!(!bytes.is_empty(), "nothing to write was written");
        let len = if state.tls { bytes.len().min(TLS_UNIT) } else { bytes.len().min(free) };
        state.unread.extend_from_slice(&bytes[..len]);
        state.records.push(bytes[..len].to_vec());
        Ok(len)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_unit(&self) -> usize {
        if self.0.0.lock().tls { TLS_UNIT } else { 1024 * 1024 }
    }

    fn wake(&self) {
        let mut state = self.0.0.lock();
        state.woken = true;
        state.wakes += 1;
    }

    fn close(&self, reason: CloseReason) {
        let mut state = self.0.0.lock();
        state.close.get_or_insert(reason);
        state.woken = true;
    }

    fn tap(&self) -> Option<Arc<dyn Tap>> {
        self.1.clone()
    }
}

/// Dials are kept until the test, or the world's name table, settles them.
#[derive(Clone, Default)]
struct Dials {
    waiting: Arc<Mutex<VecDeque<Arc<Link>>>>,
    /// Set: every dial fails at once.
    refused_at: Arc<Mutex<Option<Instant>>>,
    /// Set: each listener has connections of its own.
    by_listener: Arc<Mutex<bool>>,
    /// The other processes of the same relay.
    kin: Arc<Mutex<Vec<ProcessTag>>>,
}

impl Dialer for Dials {
    fn dial(&self, link: Arc<Link>) {
        match *self.refused_at.lock() {
            Some(now) => link.close(StatusCode::REQUEST_TIMEOUT, now),
            None => self.waiting.lock().push_back(link),
        }
    }

    fn reuse_key(&self, _: Scheme, _: &str, _: u16, listener: Option<usize>) -> Option<Box<str>> {
        self.by_listener.lock().then(|| format!("{listener:?}").into())
    }

    fn is_kin(&self, tag: ProcessTag) -> bool {
        self.kin.lock().contains(&tag)
    }
}

/// Lookups are kept until the test answers them.
#[derive(Clone, Default)]
struct Lookups(Arc<Mutex<VecDeque<Asked>>>);

/// Who is looked for, and where the answer goes.
type Asked = (Query, Arc<Link>, u64);

impl Resolver for Lookups {
    fn resolve(&self, query: Query, link: Arc<Link>, ticket: u64) {
        self.0.lock().push_back((query, link, ticket));
    }
}

struct RelayNode {
    relay: Arc<Relay>,
    dials: Dials,
    lookups: Lookups,
    certificate: PeerCertificate,
}

/// One end of a connection that a relay drives.
struct Conn {
    inbound: Inbound,
    link: Arc<Link>,
    socket: Arc<Socket>,
    /// Where it is a WebSocket.
    unframer: Option<Unframer>,
    buf: BytesMut,
    paused: bool,
    blocked: bool,
    deadline: Option<Instant>,
    closed: Option<CloseReason>,
    /// What the other end has written and this one has not read.
    incoming: BytesMut,
    /// The network carries nothing from here at the moment.
    held: bool,
    other: Other,
}

#[derive(Clone, Copy)]
enum Other {
    Client(usize),
    Relay(usize),
    /// It is gone, and nobody has said so.
    Nobody,
}

/// A message as a client received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    /// `None` while it is still coming.
    pub(super) flag: Option<Flag>,
}

impl Message {
    pub(super) fn status(&self) -> Option<u16> {
        match self.head.kind() {
            Kind::Response(status) => Some(status.as_u16()),
            Kind::Request(_) => None,
        }
    }

    pub(super) fn method(&self) -> &str {
        match self.head.kind() {
            Kind::Response(_) => "",
            Kind::Request(method) => method.as_str(),
        }
    }

    pub(super) fn tid(&self) -> String {
        self.head.transaction_id().to_string()
    }

    /// The value of the first field of that name, or nothing.
    pub(super) fn field(&self, name: &str) -> &str {
        self.fields(name).first().copied().unwrap_or("")
    }

    pub(super) fn fields(&self, name: &str) -> Vec<&str> {
        let named = self.head.fields().filter(|(field, _)| *field == name);
        named.map(|(_, value)| std::str::from_utf8(value).unwrap()).collect()
    }

    pub(super) fn to(&self) -> &str {
        self.field("To-Path")
    }

    pub(super) fn from(&self) -> &str {
        self.field("From-Path")
    }

    pub(super) fn range(&self) -> &str {
        self.field("Byte-Range")
    }
}

struct ClientNode {
    conn: usize,
    /// What came of frames, where it is a WebSocket.
    frames: Option<BytesMut>,
    /// The frames that were no messages: how many messages came before, and which.
    control_frames: Vec<(usize, u8, Vec<u8>)>,
    decoder: Decoder,
    buf: BytesMut,
    messages: VecDeque<Message>,
    reads: bool,
}

/// Names a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientId(usize);

pub(super) struct World {
    clock: Clock,
    pub(super) now: Instant,
    relays: Vec<RelayNode>,
    conns: Vec<Conn>,
    clients: Vec<ClientNode>,
    /// Which relay answers under which `host:port`.
    pub(super) names: HashMap<String, usize>,
    /// The most bytes per read.
    pub(super) read_size: usize,
    next_tid: u64,
    seed: u64,
    /// Set: no dial comes to anything.
    pub(super) holds_dials: bool,
    /// Where messages are traced, if they are.
    pub(super) tapped: Option<Recorder>,
}

/// What most tests start from.
pub(super) fn settings() -> Settings {
    settings_for("relay.test", 2855)
}

pub(super) fn settings_for(host: &str, port: u16) -> Settings {
    let mut users = UserTable::default();
    for user in ["alice", "bob", "carol"] {
        users.insert_password(REALM, user, &format!("{user}pw"));
    }
    let mut credentials = CredentialChain::default();
    credentials.push(Arc::new(users));
    let advertised =
        |scheme, port| Advertised { scheme, host: host.into(), port, bound_port: port, websocket: None };
    let websocket = |scheme, port| Advertised {
        websocket: Some(WebSocketLink { chunk_size: 64 * 1024 }),
        ..advertised(scheme, port)
    };
    Settings {
        domain: host.into(),
        listeners: vec![
            advertised(Scheme::Msrps, port),
            advertised(Scheme::Msrp, port + 1),
            websocket(Scheme::Msrps, 443),
            websocket(Scheme::Msrp, 80),
        ],
        auth: Auth {
            realm: REALM.into(),
            allow_auth_without_tls: false,
            nonce_expire: Duration::from_secs(30),
            nonce_secret: None,
            expires: Expires::default(),
            algorithms: vec![Algorithm::Md5],
            max_failures: 5,
            // Tests of other things fail as often as they like.
            throttle: Throttle { enabled: false, ..Throttle::default() },
            credentials,
            database: None,
        },
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    }
}

/// A certificate that has verified, for these names.
pub(super) fn verified(names: &[&str]) -> PeerCertificate {
    PeerCertificate::Verified {
        dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ip_addresses: Vec::new(),
    }
}

impl World {
    /// One relay with the usual settings.
    pub(super) fn new() -> Self {
        Self::with(settings())
    }

    pub(super) fn with(settings: Settings) -> Self {
        Self::seeded(1, settings)
    }

    pub(super) fn seeded(seed: u64, settings: Settings) -> Self {
        let start = Instant::now();
        let mut world = Self {
            clock: Clock { start, now: Arc::new(Mutex::new(start)) },
            now: start,
            relays: Vec::new(),
            conns: Vec::new(),
            clients: Vec::new(),
            names: HashMap::new(),
            read_size: 64 * 1024,
            next_tid: 0,
            seed,
            holds_dials: false,
            tapped: None,
        };
        world.add_relay(settings);
        world
    }

    /// Another relay, found under its listeners' names.
    pub(super) fn add_relay(&mut self, settings: Settings) -> usize {
        let index = self.relays.len();
        let random = Arc::new(Seeded::new(self.seed * 1000 + index as u64));
        let certificate = verified(&[&settings.domain]);
        for own in &settings.listeners {
            self.names.insert(format!("{}:{}", own.host, own.port), index);
        }
        let relay = Relay::new(settings, random, Box::new(self.clock.clone())).unwrap();
        let dials = Dials::default();
        relay.set_dialer(Box::new(dials.clone()));
        let lookups = Lookups::default();
        relay.set_resolver(Box::new(lookups.clone()));
        self.relays.push(RelayNode { relay, dials, lookups, certificate });
        index
    }

    /// Another process of the first relay, at the same addresses.
    pub(super) fn add_process(&mut self) -> usize {
        let added = self.add_relay(settings());
        let tags = [0, added].map(|index| self.relay(index).sessions().tag());
        assert_ne!(tags[0], tags[1]);
        for (index, kin) in [(0, tags[1]), (added, tags[0])] {
            self.relays[index].dials.kin.lock().push(kin);
            self.relay(index).set_has_kin(true);
        }
        added
    }

    /// Whom the first relay asks for and has no answer yet.
    pub(super) fn lookups(&self) -> Vec<String> {
        self.relays[0].lookups.0.lock().iter().map(|(query, ..)| query.user.clone()).collect()
    }

    /// The oldest of these lookups is answered.
    pub(super) fn resolve(&mut self, found: Lookup) {
        let (_, link, ticket) = self.relays[0].lookups.0.lock().pop_front().unwrap();
        link.resolved(ticket, found);
        self.run();
    }

    pub(super) fn relay(&self, index: usize) -> &Arc<Relay> {
        &self.relays[index].relay
    }

    // Connections.

    fn add_conn(&mut self, relay: usize, link: Arc<Link>, socket: Arc<Socket>, other: Other) -> usize {
        let inbound = Inbound::new(Arc::clone(&self.relays[relay].relay), Arc::clone(&link), self.now);
        let websocket = matches!(link.kind(), LinkKind::Accepted { listener: WSS | WS });
        self.conns.push(Conn {
            inbound,
            link,
            socket,
            unframer: websocket.then(Unframer::default),
            buf: BytesMut::new(),
            paused: false,
            blocked: false,
            deadline: None,
            closed: None,
            incoming: BytesMut::new(),
            held: false,
            other,
        });
        let index = self.conns.len() - 1;
        self.conns[index].deadline = deadline_of(&self.conns[index]);
        index
    }

    fn socket(tls: bool) -> Arc<Socket> {
        Arc::new(Socket(Mutex::new(SocketState {
            unread: Vec::new(),
            room: usize::MAX,
            tls,
            records: Vec::new(),
            broken: false,
            woken: true,
            wakes: 0,
            close: None,
        })))
    }

    fn accept_with(
        &mut self,
        relay: usize,
        listener: usize,
        certificate: PeerCertificate,
        principal: Option<&str>,
        other: Other,
    ) -> usize {
        let tls = matches!(listener, TLS | WSS);
        let socket = Self::socket(tls);
        let principal = principal.map(Into::into);
        let peer = Peer { address: "192.0.2.1:40000".into(), secure: tls, certificate, principal };
        let wire = Box::new(SocketWire(Arc::clone(&socket), self.next_tap()));
        let link = self.relays[relay].relay.accepted(listener, peer, wire, self.now);
        self.add_conn(relay, link, socket, other)
    }

    fn next_tap(&self) -> Option<Arc<dyn Tap>> {
        Some(self.tapped.as_ref()?.of(self.conns.len()))
    }

    fn add_client(&mut self, conn: usize) -> ClientId {
        self.clients.push(ClientNode {
            conn,
            frames: self.conns[conn].unframer.is_some().then(BytesMut::new),
            control_frames: Vec::new(),
            decoder: generous_decoder(),
            buf: BytesMut::new(),
            messages: VecDeque::new(),
            reads: true,
        });
        ClientId(self.clients.len() - 1)
    }

    /// From now on what a relay dials is used again only for what came in on the same listener.
    pub(super) fn reuse_by_listener(&self, relay: usize) {
        *self.relays[relay].dials.by_listener.lock() = true;
    }

    /// A client connects to a relay's listener.
    pub(super) fn connect_to(&mut self, relay: usize, listener: usize) -> ClientId {
        self.connect_with(relay, listener, PeerCertificate::None)
    }

    pub(super) fn connect_with(
        &mut self,
        relay: usize,
        listener: usize,
        certificate: PeerCertificate,
    ) -> ClientId {
        let conn = self.accept_with(relay, listener, certificate, None, Other::Client(self.clients.len()));
        self.add_client(conn)
    }

    /// A client connects whose WebSocket handshake proves that it is this user.
    pub(super) fn connect_as(
        &mut self,
        user: &str,
        listener: usize,
        certificate: PeerCertificate,
    ) -> ClientId {
        let other = Other::Client(self.clients.len());
        let conn = self.accept_with(0, listener, certificate, Some(user), other);
        self.add_client(conn)
    }

    /// A client connects to the first relay over TLS.
    pub(super) fn connect(&mut self) -> ClientId {
        self.connect_to(0, TLS)
    }

    /// The connections the relay wants opened, to hosts that no relay of this world answers.
    pub(super) fn dials(&mut self, relay: usize) -> Vec<Arc<Link>> {
        self.run();
        self.relays[relay].dials.waiting.lock().drain(..).collect()
    }

    /// The one connection the relay wants opened.
    pub(super) fn dial(&mut self, relay: usize) -> Arc<Link> {
        let mut dials = self.dials(relay);
        assert_eq!(dials.len(), 1, "{dials:?}");
        dials.remove(0)
    }

    /// The dial succeeds, and leads to a client.
    pub(super) fn complete_dial(&mut self, relay: usize, link: &Arc<Link>) -> ClientId {
        let tls = link.target().unwrap().scheme == Scheme::Msrps;
        let socket = Self::socket(tls);
        let peer = Peer {
            address: link.target().unwrap().to_string(),
            secure: tls,
            certificate: PeerCertificate::None,
            principal: None,
        };
        let wire = Box::new(SocketWire(Arc::clone(&socket), self.next_tap()));
        self.relays[relay].relay.connected(link, peer, wire, self.now);
        let conn = self.add_conn(relay, Arc::clone(link), socket, Other::Client(self.clients.len()));
        let client = self.add_client(conn);
        self.run();
        client
    }

    /// From now on every dial of the relay fails before it has begun: the policy forbids it.
    pub(super) fn refuse_dials(&mut self, relay: usize) {
        *self.relays[relay].dials.refused_at.lock() = Some(self.now);
    }

    pub(super) fn fail_dial(&mut self, relay: usize, link: &Arc<Link>) {
        self.relays[relay].relay.connect_failed(link, self.now);
        self.run();
    }

    /// A dial leads to another relay of this world.
    fn join(&mut self, from: usize, link: &Arc<Link>, to: usize) {
        let target = link.target().unwrap().clone();
        let tls = target.scheme == Scheme::Msrps;
        let listener = if tls { TLS } else { PLAIN };
        let (ours, theirs) = if target.process.is_some() {
            (Self::shown_to_kin(link), verified(&["process.invalid"]))
        } else if tls {
            (self.relays[from].certificate.clone(), self.relays[to].certificate.clone())
        } else {
            (PeerCertificate::None, PeerCertificate::None)
        };
        let socket = Self::socket(tls);
        let peer = Peer { address: target.to_string(), secure: tls, certificate: theirs, principal: None };
        let wire = Box::new(SocketWire(Arc::clone(&socket), self.next_tap()));
        socket.0.lock().room = 64 * 1024;
        self.relays[from].relay.connected(link, peer, wire, self.now);
        let here = self.conns.len();
        self.add_conn(from, Arc::clone(link), socket, Other::Relay(here + 1));
        let there = self.accept_with(to, listener, ours, None, Other::Relay(here));
        self.conns[there].socket.0.lock().room = 64 * 1024;
    }

    /// What a process shows to another of the same relay: for a relay's connection that one's certificate.
    fn shown_to_kin(link: &Link) -> PeerCertificate {
        let relay = link.stands_for().and_then(std::sync::Weak::upgrade);
        let peer = relay.and_then(|relay| relay.peer().cloned());
        peer.map_or_else(|| verified(&["process.invalid"]), |peer| peer.certificate)
    }

    // Driving.

    /// Lets everybody do what they can, at this instant.
    pub(super) fn run(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "the world never comes to rest");
            let mut busy = self.settle_dials();
            for index in 0..self.conns.len() {
                busy |= self.turn(index);
                busy |= self.carry(index);
            }
            if !busy {
                return;
            }
        }
    }

    fn settle_dials(&mut self) -> bool {
        let mut settled = false;
        for from in 0..self.relays.len() {
            let dials: Vec<_> = self.relays[from].dials.waiting.lock().drain(..).collect();
            for link in dials {
                let target = link.target().unwrap();
                let found = match target.process {
                    Some(tag) => self.relays.iter().position(|node| node.relay.sessions().tag() == tag),
                    None => self.names.get(&format!("{}:{}", target.host, target.port)).copied(),
                };
                match found.filter(|_| !self.holds_dials) {
                    Some(to) => {
                        self.join(from, &link, to);
                        settled = true;
                    }
                    None => self.relays[from].dials.waiting.lock().push_back(link),
                }
            }
        }
        settled
    }

    /// One turn of a connection's task, if it has a reason for one.
    fn turn(&mut self, index: usize) -> bool {
        let now = self.now;
        let conn = &mut self.conns[index];
        if conn.closed.is_some() {
            return false;
        }
        let (woken, close, room, broken) = {
            let mut state = conn.socket.0.lock();
            let room = state.unread.len() < state.room;
            (std::mem::take(&mut state.woken), state.close.clone(), room, state.broken)
        };
        if let Some(reason) = close {
            self.close(index, reason);
            return true;
        }
        let writable = conn.blocked && (room || broken);
        let readable = !conn.paused && !conn.incoming.is_empty();
        if !woken && !writable && !readable {
            return false;
        }
        if woken
            && conn.paused
            && let Some(reason) = receive(conn, now)
        {
            self.close(index, reason);
            return true;
        }
        if !self.transmit(index) {
            return true;
        }
        let read_size = self.read_size;
        let conn = &mut self.conns[index];
        if !conn.paused && !conn.incoming.is_empty() {
            let len = conn.incoming.len().min(read_size);
            let bytes = conn.incoming.split_to(len);
            let buf = conn.unframer.as_mut().map_or(&mut conn.buf, |unframer| &mut unframer.input);
            buf.extend_from_slice(&bytes);
            if let Some(reason) = receive(conn, now) {
                self.close(index, reason);
                return true;
            }
        }
        if !self.transmit(index) {
            return true;
        }
        let conn = &mut self.conns[index];
        conn.deadline = deadline_of(conn);
        true
    }

    /// Says whether the connection is still open.
    fn transmit(&mut self, index: usize) -> bool {
        let conn = &mut self.conns[index];
        if let Err(reason) = conn.inbound.resume(self.now) {
            self.close(index, reason);
            return false;
        }
        let conn = &mut self.conns[index];
        match conn.link.transmit(self.now) {
            Ok(Flushed::Idle) => conn.blocked = false,
            Ok(Flushed::Blocked) => conn.blocked = true,
            Err(error) => {
                self.close(index, CloseReason::from_io(&error));
                return false;
            }
        }
        true
    }

    /// Takes what a relay wrote to the other end.
    fn carry(&mut self, index: usize) -> bool {
        let conn = &mut self.conns[index];
        let reads = match conn.other {
            Other::Client(client) => self.clients[client].reads,
            Other::Relay(other) => !self.conns[other].paused,
            Other::Nobody => true,
        };
        let conn = &mut self.conns[index];
        if !reads || conn.held {
            return false;
        }
        let bytes = std::mem::take(&mut conn.socket.0.lock().unread);
        if bytes.is_empty() {
            return false;
        }
        match conn.other {
            Other::Client(client) => self.clients[client].receive(&bytes),
            Other::Relay(other) => self.conns[other].incoming.extend_from_slice(&bytes),
            Other::Nobody => {}
        }
        true
    }

    /// Ends a connection as the driver does: what can still be said is said.
    fn close(&mut self, index: usize, reason: CloseReason) {
        let conn = &mut self.conns[index];
        if conn.closed.is_some() {
            return;
        }
        let orderly =
            !matches!(reason, CloseReason::SendTimeout | CloseReason::Reset | CloseReason::Io { .. });
        if orderly {
            let _ = conn.link.transmit(self.now);
        }
        let status = match reason {
            CloseReason::SendTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::NO_SUCH_SESSION,
        };
        conn.closed = Some(reason);
        conn.inbound.closed(status, self.now);
        self.carry(index);
        if let Other::Relay(other) = self.conns[index].other {
            // It reads what is on the way, and then the end.
            while self.conns[other].closed.is_none() && self.turn(other) {}
            self.close(other, CloseReason::PeerClosed);
        }
    }

    /// Lets time pass, with every deadline at its instant.
    pub(super) fn advance(&mut self, duration: Duration) {
        self.run();
        let until = self.now + duration;
        for round in 0.. {
            assert!(round < 100_000, "a deadline never moves");
            let open = self.conns.iter().filter(|conn| conn.closed.is_none());
            let next = open.filter_map(|conn| conn.deadline).min();
            let Some(next) = next.filter(|&next| next <= until) else { break };
            self.set_now(next.max(self.now));
            for index in 0..self.conns.len() {
                self.expire(index);
            }
            self.run();
        }
        self.set_now(until);
        self.run();
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        *self.clock.now.lock() = now;
    }

    fn expire(&mut self, index: usize) {
        let now = self.now;
        let conn = &mut self.conns[index];
        if conn.closed.is_some() || conn.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        if conn.link.expire(now) {
            self.close(index, CloseReason::SendTimeout);
            return;
        }
        let flow = conn.inbound.expired(now);
        match flow {
            Flow::Close(reason) => {
                self.close(index, reason);
                return;
            }
            Flow::Read if conn.paused => {
                if let Some(reason) = receive(conn, now) {
                    self.close(index, reason);
                    return;
                }
            }
            Flow::Read => {}
            Flow::Pause => conn.paused = true,
        }
        if self.transmit(index) {
            let conn = &mut self.conns[index];
            conn.deadline = deadline_of(conn);
        }
    }

    // Clients.

    /// The client writes bytes, over a WebSocket as one message, and everybody does what they can.
    pub(super) fn write(&mut self, client: ClientId, bytes: impl AsRef<[u8]>) {
        self.write_later(client, bytes);
        self.run();
    }

    /// The client writes bytes, over a WebSocket as one message, that nobody reads yet.
    pub(super) fn write_later(&mut self, client: ClientId, bytes: impl AsRef<[u8]>) {
        let bytes = self.as_written(client, bytes.as_ref());
        let conn = self.clients[client.0].conn;
        self.conns[conn].incoming.extend_from_slice(&bytes);
    }

    /// The client writes these bytes and no others.
    pub(super) fn write_raw(&mut self, client: ClientId, bytes: impl AsRef<[u8]>) {
        let conn = self.clients[client.0].conn;
        self.conns[conn].incoming.extend_from_slice(bytes.as_ref());
        self.run();
    }

    /// The bytes by which the client writes a message.
    pub(super) fn as_written(&self, client: ClientId, message: &[u8]) -> Vec<u8> {
        if self.clients[client.0].frames.is_some() { frame(message) } else { message.to_vec() }
    }

    /// The WebSocket frames that came since the last call and were no messages: after how many messages, opcode
    /// and payload.
    pub(super) fn take_control_frames(&mut self, client: ClientId) -> Vec<(usize, u8, Vec<u8>)> {
        self.run();
        std::mem::take(&mut self.clients[client.0].control_frames)
    }

    /// The complete messages that came since the last call.
    pub(super) fn take(&mut self, client: ClientId) -> Vec<Message> {
        self.run();
        let messages = &mut self.clients[client.0].messages;
        let complete = messages.iter().take_while(|message| message.flag.is_some()).count();
        messages.drain(..complete).collect()
    }

    /// The one message that came.
    pub(super) fn take_one(&mut self, client: ClientId) -> Message {
        let mut messages = self.take(client);
        assert_eq!(messages.len(), 1, "{messages:#?}");
        messages.remove(0)
    }

    /// The message that is coming, if its end has not arrived.
    pub(super) fn coming(&mut self, client: ClientId) -> Option<Message> {
        self.run();
        self.clients[client.0].messages.back().filter(|message| message.flag.is_none()).cloned()
    }

    /// The records that the relay wrote to the client.
    pub(super) fn take_records(&mut self, client: ClientId) -> Vec<Vec<u8>> {
        let conn = self.clients[client.0].conn;
        std::mem::take(&mut self.conns[conn].socket.0.lock().records)
    }

    /// Nothing came since the last call.
    pub(super) fn nothing_for(&mut self, client: ClientId) {
        let messages = self.take(client);
        assert!(messages.is_empty(), "{messages:#?}");
    }

    /// Nothing has come or gone over the client's connection for a while.
    pub(super) fn quiet(&mut self, client: ClientId) {
        self.conns[self.clients[client.0].conn].inbound.quiet();
    }

    /// The same over all connections.
    pub(super) fn quiet_all(&mut self) {
        self.conns.iter_mut().for_each(|conn| conn.inbound.quiet());
    }

    /// From now on the client reads nothing, and the socket takes so many bytes more.
    pub(super) fn stop_reading(&mut self, client: ClientId, room: usize) {
        self.clients[client.0].reads = false;
        self.socket_of(client).0.lock().room = room;
    }

    /// The client reads so many bytes, and no more.
    pub(super) fn read_some(&mut self, client: ClientId, len: usize) {
        let socket = self.socket_of(client);
        let bytes: Vec<u8> = {
            let mut state = socket.0.lock();
            let len = len.min(state.unread.len());
            state.unread.drain(..len).collect()
        };
        self.clients[client.0].receive(&bytes);
        self.run();
    }

    /// The socket of a client that does not read takes so many bytes more.
    pub(super) fn socket_takes(&mut self, client: ClientId, len: usize) {
        let socket = self.socket_of(client);
        let mut state = socket.0.lock();
        state.room = state.unread.len() + len;
        drop(state);
        self.run();
    }

    /// The client reads again.
    pub(super) fn resume_reading(&mut self, client: ClientId) {
        self.clients[client.0].reads = true;
        self.socket_of(client).0.lock().room = usize::MAX;
        self.run();
    }

    /// The client closes its connection.
    pub(super) fn hang_up(&mut self, client: ClientId) {
        self.run();
        self.close(self.clients[client.0].conn, CloseReason::PeerClosed);
        self.run();
    }

    /// The connection of this link ends, by the other end.
    pub(super) fn close_link(&mut self, link: &Arc<Link>) {
        let index =
            self.conns.iter().position(|conn| conn.link.id() == link.id() && Arc::ptr_eq(&conn.link, link));
        self.close(index.unwrap(), CloseReason::PeerClosed);
        self.run();
    }

    /// Writing to the client fails from now on.
    pub(super) fn break_socket(&mut self, client: ClientId) {
        self.socket_of(client).0.lock().broken = true;
    }

    /// Why the relay closed the client's connection, if it did.
    pub(super) fn closed(&mut self, client: ClientId) -> Option<CloseReason> {
        self.run();
        self.conns[self.clients[client.0].conn].closed.clone()
    }

    pub(super) fn assert_open(&mut self, client: ClientId) {
        assert_eq!(self.closed(client), None);
    }

    /// Whether the relay has stopped reading from the client.
    pub(super) fn is_paused(&self, client: ClientId) -> bool {
        self.conns[self.clients[client.0].conn].paused
    }

    /// What the client has written and the relay has not read.
    pub(super) fn unsent(&self, client: ClientId) -> usize {
        self.conns[self.clients[client.0].conn].incoming.len()
    }

    pub(super) fn link(&self, client: ClientId) -> &Arc<Link> {
        &self.conns[self.clients[client.0].conn].link
    }

    fn socket_of(&self, client: ClientId) -> Arc<Socket> {
        Arc::clone(&self.conns[self.clients[client.0].conn].socket)
    }

    /// The number of the client's connection, by which a recorder knows it.
    pub(super) fn number(&self, client: ClientId) -> usize {
        self.clients[client.0].conn
    }

    /// Every open connection, for what holds of all of them at the end.
    pub(super) fn open_links(&self) -> Vec<Arc<Link>> {
        let open = self.conns.iter().filter(|conn| conn.closed.is_none());
        open.map(|conn| Arc::clone(&conn.link)).collect()
    }

    /// A transaction id that no other has.
    pub(super) fn tid(&mut self) -> String {
        self.next_tid += 1;
        format!("tid{:05}", self.next_tid)
    }

    /// AUTHs at the relay it is connected to, and gives the URI it may use.
    pub(super) fn auth(&mut self, client: ClientId, user: &str) -> String {
        let (session, _) = self.auth_along(client, user, "msrps://relay.test:2855;tcp", &own_uri(user));
        session.split(' ').next_back().unwrap().to_owned()
    }

    /// AUTHs with this To-Path, in two steps; gives Use-Path, and the nonce for the next.
    pub(super) fn auth_along(
        &mut self,
        client: ClientId,
        user: &str,
        to: &str,
        from: &str,
    ) -> (String, Option<Challenge>) {
        let tid = self.tid();
        self.write(client, auth_request(&tid, to, from, ""));
        let response = self.take_one(client);
        assert_eq!((response.status(), response.tid()), (Some(401), tid));
        let challenge = Challenge::parse(response.field("WWW-Authenticate")).unwrap();
        let tid = self.tid();
        let authorization = answer(&challenge, user, last(to), 1);
        self.write(client, auth_request(&tid, to, from, &format!("Authorization: {authorization}\r\n")));
        let response = self.take_one(client);
        assert_eq!((response.status(), response.tid()), (Some(200), tid), "{response:?}");
        let info = AuthenticationInfo::parse(response.field("Authentication-Info")).unwrap();
        (response.field("Use-Path").to_owned(), challenge.renewed(&info))
    }

    /// Sends an AUTH without credentials to the first relay, and gives the challenge.
    pub(super) fn challenged(&mut self, client: ClientId) -> Challenge {
        let tid = self.tid();
        self.write(client, auth_request(&tid, RELAY, &own_uri("alice"), ""));
        Challenge::parse(self.take_one(client).field("WWW-Authenticate")).unwrap()
    }

    /// Sends an AUTH with these credentials, and these lines, to the first relay; gives its transaction id.
    pub(super) fn credentials(
        &mut self,
        client: ClientId,
        user: &str,
        password: &str,
        lines: &str,
    ) -> String {
        let challenge = self.challenged(client);
        let tid = self.tid();
        let authorization = answer_with(&challenge, user, password, RELAY, 1, false);
        let lines = format!("{lines}Authorization: {authorization}\r\n");
        self.write(client, auth_request(&tid, RELAY, &own_uri("alice"), &lines));
        tid
    }

    /// A client that has a session on the first relay.
    pub(super) fn member(&mut self, user: &str) -> Node {
        let id = self.connect();
        let relay = self.auth(id, user);
        Node { id, relay, uri: own_uri(user) }
    }

    /// A WebSocket client that has a session on the first relay.
    pub(super) fn web_member(&mut self, user: &str) -> Node {
        let id = self.connect_to(0, WSS);
        let uri = web_uri(user);
        let (relay, _) = self.auth_along(id, user, "msrps://relay.test:443;ws", &uri);
        Node { id, relay, uri }
    }

    /// Two clients of the first relay.
    pub(super) fn pair(&mut self) -> (Node, Node) {
        (self.member("alice"), self.member("bob"))
    }
}

/// A client and the session it obtained.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) id: ClientId,
    /// What Use-Path said.
    pub(super) relay: String,
    pub(super) uri: String,
}

impl Node {
    /// The path to this client, for others.
    pub(super) fn path(&self) -> String {
        format!("{} {}", self.relay, self.uri)
    }

    /// To-Path and From-Path of what this one sends to `other`, whose relay is the same.
    pub(super) fn paths_to(&self, other: &Self) -> String {
        format!("To-Path: {} {}\r\nFrom-Path: {}\r\n", self.relay, other.path(), self.uri)
    }
}

impl ClientNode {
    fn receive(&mut self, bytes: &[u8]) {
        let Some(frames) = &mut self.frames else { return self.decode(bytes) };
        frames.extend_from_slice(bytes);
        while let Some((opcode, payload)) = self.frames.as_mut().and_then(take_frame) {
            if opcode != 2 {
                self.control_frames.push((self.messages.len(), opcode, payload.to_vec()));
                continue;
            }
            let before = self.messages.len();
            self.decode(&payload);
            assert_eq!(self.messages.len(), before + 1, "a frame holds one message");
            assert!(self.messages.back().unwrap().flag.is_some() && self.buf.is_empty(), "it holds it whole");
        }
    }

    fn decode(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
        while let Some(event) = self.decoder.decode(&mut self.buf).expect("what a relay writes is MSRP") {
            match event {
                Event::Head(head) => {
                    self.messages.push_back(Message { head, body: Vec::new(), flag: None });
                }
                Event::Body(bytes) => self.messages.back_mut().unwrap().body.extend_from_slice(&bytes),
                Event::End(flag) => self.messages.back_mut().unwrap().flag = Some(flag),
            }
        }
    }
}

fn deadline_of(conn: &Conn) -> Option<Instant> {
    [conn.inbound.deadline(), conn.link.deadline()].into_iter().flatten().min()
}

/// Gives what was read to the receiving side, over a WebSocket message by message.
fn receive(conn: &mut Conn, now: Instant) -> Option<CloseReason> {
    loop {
        let flow = conn.inbound.received(&mut conn.buf, now);
        if let Some(reason) = follow(conn, flow) {
            return Some(reason);
        }
        let unframer = conn.unframer.as_mut()?;
        if conn.paused && !conn.buf.is_empty() {
            return None;
        }
        if unframer.left == Some(0) {
            unframer.left = None;
            if let Err(reason) = conn.inbound.message_ended(&conn.buf) {
                return Some(reason);
            }
        }
        if conn.paused || !unframer.give(&mut conn.buf) {
            return None;
        }
    }
}

fn follow(conn: &mut Conn, flow: Flow) -> Option<CloseReason> {
    match flow {
        Flow::Read => conn.paused = false,
        Flow::Pause => conn.paused = true,
        Flow::Close(reason) => return Some(reason),
    }
    None
}

fn last(path: &str) -> &str {
    path.split(' ').next_back().unwrap()
}

/// What a client calls itself.
pub(super) fn own_uri(user: &str) -> String {
    format!("msrps://{user}.invalid:2855/{user}1;tcp")
}

/// What a WebSocket client calls itself.
pub(super) fn web_uri(user: &str) -> String {
    format!("msrps://{user}.invalid:2855/{user}1;ws")
}

pub(super) fn auth_request(tid: &str, to: &str, from: &str, lines: &str) -> String {
    format!("MSRP {tid} AUTH\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{lines}-------{tid}$\r\n")
}

/// An Authorization value with the user's right password.
pub(super) fn answer(challenge: &Challenge, user: &str, uri: &str, nc: u32) -> Authorization {
    answer_with(challenge, user, &format!("{user}pw"), uri, nc, false)
}

pub(super) fn answer_with(
    challenge: &Challenge,
    user: &str,
    password: &str,
    uri: &str,
    nc: u32,
    send_uri: bool,
) -> Authorization {
    let secret = Secret::Password(password);
    let answer =
        Answer { username: user, secret, method: "AUTH", digest_uri: uri, cnonce: "c0ffee", nc, send_uri };
    Authorization::answer(challenge, &answer).unwrap()
}

/// A SEND with a body. `head` holds the paths and all other lines up to Content-Type.
pub(super) fn send(tid: &str, head: &str, body: impl AsRef<[u8]>, flag: char) -> Vec<u8> {
    let mut out = send_begin(tid, head);
    out.extend_from_slice(body.as_ref());
    out.extend_from_slice(end(tid, flag).as_bytes());
    out
}

/// A SEND up to where its body begins.
pub(super) fn send_begin(tid: &str, head: &str) -> Vec<u8> {
    format!("MSRP {tid} SEND\r\n{head}Content-Type: text/plain\r\n\r\n").into_bytes()
}

/// What ends a body.
pub(super) fn end(tid: &str, flag: char) -> String {
    format!("\r\n-------{tid}{flag}\r\n")
}

/// A response to a request that a client received, to the previous hop.
pub(super) fn respond(request: &Message, status: &str) -> String {
    let (tid, previous) = (request.tid(), request.from().split(' ').next().unwrap());
    let own = request.to();
    format!("MSRP {tid} {status}\r\nTo-Path: {previous}\r\nFrom-Path: {own}\r\n-------{tid}$\r\n")
}

/// Bytes that differ from place to place, without anything like an end-line.
pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| b'a' + (at % 23) as u8 + ((at / 1024) % 3) as u8).collect()
}

/// It takes what the relay under test would find too much.
pub(super) fn generous_decoder() -> Decoder {
    Decoder::new(decoder::Limits {
        head_bytes: 1 << 20,
        headers: 1000,
        path_len: 1000,
        ..decoder::Limits::default()
    })
}
