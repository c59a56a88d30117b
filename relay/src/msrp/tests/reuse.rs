//! Which connections are used again, where the dialler asks for more than scheme, host and port
//! (`cert_check_on_conn_reusage`).

use super::harness::*;

const PEER: &str = "msrps://peer.test:2855/p";

/// Alice is a client on the TLS listener, Bob on the plain one. Each sends to two sessions of one peer; the
/// listeners for which connections are opened.
fn dials(by_listener: bool) -> Vec<Option<usize>> {
    let mut settings = settings();
    settings.auth.allow_auth_without_tls = true;
    let mut world = World::with(settings);
    if by_listener {
        world.reuse_by_listener(0);
    }
    let alice = world.connect();
    let alices = world.auth(alice, "alice");
    let bob = world.connect_to(0, PLAIN);
    let (bobs, _) = world.auth_along(bob, "bob", "msrp://relay.test:2856;tcp", &own_uri("bob"));
    for (id, session, user, tid) in [
        (alice, &alices, "alice", "t0001"),
        (bob, &bobs, "bob", "t0002"),
        (alice, &alices, "alice", "t0003"),
        (bob, &bobs, "bob", "t0004"),
    ] {
        let head = format!(
            "To-Path: {session} {PEER}{tid};tcp\r\nFrom-Path: {}\r\nMessage-ID: {tid}\r\n",
            own_uri(user)
        );
        world.write(id, send(tid, &head, "hi", '$'));
    }
    world.dials(0).iter().map(|link| link.listener()).collect()
}

#[test]
fn a_connection_is_opened_once_for_all_listeners_or_once_for_each() {
    assert_eq!(dials(false), [Some(TLS)]);
    assert_eq!(dials(true), [Some(TLS), Some(PLAIN)]);
}

#[test]
fn a_session_stays_on_the_connection_it_uses() {
    let mut world = World::new();
    let alice = world.connect();
    let session = world.auth(alice, "alice");
    let head =
        format!("To-Path: {session} {PEER};tcp\r\nFrom-Path: {}\r\nMessage-ID: m\r\n", own_uri("alice"));
    world.write(alice, send("t0001", &head, "1", '$'));
    assert_eq!(world.dials(0).len(), 1);
    // As when a reload changes what new connections are made with.
    world.reuse_by_listener(0);
    world.write(alice, send("t0002", &head, "2", '$'));
    assert_eq!(world.dials(0).len(), 0);
}

#[test]
fn a_connection_that_was_accepted_always_matches() {
    let mut world = World::new();
    world.add_relay(settings_for("outer.test", 2855));
    world.reuse_by_listener(1);
    let alice = world.connect();
    let inner = world.auth(alice, "alice");
    let to = format!("{inner} msrps://outer.test:2855;tcp");
    let (use_path, _) = world.auth_along(alice, "alice", &to, &own_uri("alice"));
    let links = world.open_links().len();
    // The session belongs to the first relay, whose connection came in on the TLS listener.
    let peer = world.connect_to(1, PLAIN);
    let hops: Vec<_> = use_path.split(' ').rev().collect();
    let head = format!(
        "To-Path: {} {}\r\nFrom-Path: msrp://p.invalid:1/p;tcp\r\nMessage-ID: m1\r\n",
        hops.join(" "),
        own_uri("alice")
    );
    world.write(peer, send("t0001", &head, "hi", '$'));
    assert_eq!(world.take_one(peer).status(), Some(200));
    assert_eq!(world.take_one(alice).body, b"hi");
    assert!(world.dials(1).is_empty());
    assert_eq!(world.open_links().len(), links + 1, "the peer's own");
}

/// Two relays may have connected to each other: then what one sends comes over either connection, and what goes to it
/// stays on one of them, since chunks are to be sent on in order.
#[test]
fn what_goes_to_a_relay_stays_on_its_connection_whichever_it_uses_itself() {
    let mut world = World::new();
    let alice = world.member("alice");
    let first = world.connect_with(0, TLS, verified(&["b.test"]));
    let second = world.connect_with(0, TLS, verified(&["b.test"]));
    let theirs = "msrps://b.test:2855/s2;tcp";
    let to_peer = format!(
        "To-Path: {} {theirs} {}\r\nFrom-Path: {}\r\nMessage-ID: m\r\n",
        alice.relay,
        own_uri("bob"),
        alice.uri
    );
    let to_alice =
        format!("To-Path: {}\r\nFrom-Path: {theirs} {}\r\nMessage-ID: n\r\n", alice.path(), own_uri("bob"));
    let expect = |world: &mut World, over: ClientId, other: ClientId| {
        let tid = world.tid();
        world.write(alice.id, send(&tid, &to_peer, "hello", '$'));
        assert_eq!(world.take_one(alice.id).tid(), tid);
        let message = world.take_one(over);
        assert_eq!(message.method(), "SEND");
        world.write(over, respond(&message, "200 OK"));
        world.nothing_for(other);
    };
    for (from, tid) in [(first, "t0001"), (second, "t0002"), (first, "t0003"), (second, "t0004")] {
        world.write(from, send(tid, &to_alice, "hi", '$'));
        assert_eq!(world.take_one(from).status(), Some(200));
        let message = world.take_one(alice.id);
        world.write(alice.id, respond(&message, "200 OK"));
        expect(&mut world, first, second);
    }
    assert!(world.link(second).sessions() > 0, "it is used too");
    world.hang_up(first);
    expect(&mut world, second, first);
    world.hang_up(alice.id);
    assert_eq!(world.link(second).sessions(), 0);
}

/// What a relay that has connected several times sends to a client and is sent by it.
struct Between {
    world: World,
    alice: Node,
}

impl Between {
    fn new() -> Self {
        let mut world = World::new();
        let alice = world.member("alice");
        Self { world, alice }
    }

    fn connect(&mut self) -> ClientId {
        self.world.connect_with(0, TLS, verified(&["b.test"]))
    }

    /// The peer of this number sends over this connection.
    fn claim(&mut self, peer: usize, over: ClientId) {
        let Self { world, alice } = self;
        let tid = world.tid();
        let head = format!(
            "To-Path: {}\r\nFrom-Path: msrps://b.test:2855/{peer};tcp\r\nMessage-ID: n\r\n",
            alice.path()
        );
        world.write(over, send(&tid, &head, "hi", '$'));
        assert_eq!(world.take_one(over).status(), Some(200));
        let message = world.take_one(alice.id);
        world.write(alice.id, respond(&message, "200 OK"));
    }

    /// What goes to that peer goes over this connection.
    fn expect(&mut self, peer: usize, over: ClientId) {
        let Self { world, alice } = self;
        let tid = world.tid();
        let head = format!(
            "To-Path: {} msrps://b.test:2855/{peer};tcp\r\nFrom-Path: {}\r\nMessage-ID: m\r\n",
            alice.relay, alice.uri
        );
        world.write(alice.id, send(&tid, &head, "hello", '$'));
        assert_eq!(world.take_one(alice.id).tid(), tid);
        let message = world.take_one(over);
        assert_eq!(message.method(), "SEND");
        world.write(over, respond(&message, "200 OK"));
    }

    fn uses(&self, link: ClientId) -> bool {
        self.world.link(link).sessions() > 0
    }
}

#[test]
fn connections_that_a_relay_has_closed_are_not_kept_while_another_one_stays() {
    let mut between = Between::new();
    let first = between.connect();
    between.claim(1, first);
    let mut closed = Vec::new();
    for _ in 0..70 {
        let next = between.connect();
        between.claim(1, next);
        assert!(!closed.iter().any(|&link| between.uses(link)), "{} came before", closed.len());
        between.expect(1, first);
        between.world.hang_up(next);
        closed.push(next);
    }
}

#[test]
fn at_the_limit_what_goes_to_a_peer_stays_on_its_connection_too() {
    // So many are remembered, and of those the first is the one in use.
    let mut between = Between::new();
    let links: Vec<ClientId> = (0..65).map(|_| between.connect()).collect();
    for (number, &link) in links.iter().enumerate() {
        between.claim(1, link);
        between.expect(1, links[0]);
        let used = links.iter().filter(|&&link| between.uses(link)).count();
        assert_eq!(used, (number + 1).min(64));
    }
    assert!(between.uses(links[0]) && !between.uses(links[1]) && between.uses(links[2]));
    // With others, the oldest of those gives way.
    for others in [62, 63, 64] {
        let mut between = Between::new();
        let (first, second, third) = (between.connect(), between.connect(), between.connect());
        between.claim(1, first);
        for peer in 2..others + 2 {
            between.claim(peer, third);
        }
        // At 64 the peer itself has given way to a newer one.
        between.claim(1, second);
        between.expect(1, if others < 64 { first } else { second });
        let session = between.world.relay(0).sessions().snapshot().pop().unwrap();
        assert_eq!(session.peers().0.len(), others + 1, "who gave way is remembered");
    }
}
