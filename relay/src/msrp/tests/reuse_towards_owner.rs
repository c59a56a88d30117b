//! Which connection leads back to a relay that owns a session, where the dialler asks for more than scheme,
//! host and port (`cert_check_on_conn_reusage`).

use super::harness::*;

/// A relay gets three sessions and closes its connection. Peers then send to one of them each, from these
/// listeners; those for which connections to the relay were opened.
fn dials(by_listener: bool, peers: [usize; 3]) -> Vec<Option<usize>> {
    let mut world = World::new();
    world.add_relay(settings_for("inner.test", 2855));
    if by_listener {
        world.reuse_by_listener(0);
    }
    let relay = world.connect_with(0, TLS, verified(&["inner.test"]));
    let sessions = [0, 1, 2].map(|number| {
        let from = format!("msrps://inner.test:2855/s{number};tcp {}", own_uri("alice"));
        let (session, _) = world.auth_along(relay, "alice", "msrps://relay.test:2855;tcp", &from);
        format!("{} {from}", session.split(' ').next_back().unwrap())
    });
    world.hang_up(relay);
    for (listener, path) in peers.into_iter().zip(sessions) {
        let peer = world.connect_to(0, listener);
        let head = format!("To-Path: {path}\r\nFrom-Path: msrp://p.invalid:1/p;tcp\r\nMessage-ID: m1\r\n");
        world.write(peer, send("t0001", &head, "hi", '$'));
        // It is forwarded. (That its next hop knows no such session is told later.)
        assert_eq!(world.take(peer)[0].status(), Some(200));
    }
    let links = world.open_links();
    let opened = links.iter().filter(|link| link.target().is_some());
    assert!(opened.clone().all(|link| link.is_relay("inner.test")), "each is verified");
    opened.map(|link| link.listener()).collect()
}

#[test]
fn a_verified_connection_of_another_client_domain_is_not_used_for_the_owner() {
    assert_eq!(dials(false, [TLS, PLAIN, TLS]), [Some(TLS)]);
    assert_eq!(dials(true, [TLS, PLAIN, TLS]), [Some(TLS), Some(PLAIN)]);
    assert_eq!(dials(true, [PLAIN, PLAIN, PLAIN]), [Some(PLAIN)]);
}

/// Chunks are to be sent on in order, so what goes to the owner does not change over when there is a newer connection.
#[test]
fn what_goes_to_the_owner_stays_on_its_connection_when_there_is_a_newer_one() {
    let mut world = World::new();
    let bob = world.member("bob");
    let first = world.connect_with(0, TLS, verified(&["b.test"]));
    let theirs = format!("msrps://b.test:2855/s2;tcp {}", own_uri("alice"));
    let (use_path, _) = world.auth_along(first, "alice", RELAY, &theirs);
    let session = use_path.split(' ').next_back().unwrap();
    let head =
        format!("To-Path: {} {session} {theirs}\r\nFrom-Path: {}\r\nMessage-ID: m\r\n", bob.relay, bob.uri);
    let expect = |world: &mut World, over: ClientId| {
        let tid = world.tid();
        world.write(bob.id, send(&tid, &head, "hello", '$'));
        assert_eq!(world.take_one(bob.id).tid(), tid);
        let message = world.take_one(over);
        world.write(over, respond(&message, "200 OK"));
    };
    expect(&mut world, first);
    let second = world.connect_with(0, TLS, verified(&["b.test"]));
    expect(&mut world, first);
    world.hang_up(first);
    expect(&mut world, second);
}
