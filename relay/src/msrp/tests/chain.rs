//! Client – relay – relay – client, over TLS with both relays verified.

use std::time::Duration;

use msrp_proto::digest::Challenge;
use tcp_transport::connection::CloseReason;

use super::harness::*;
use crate::msrp::Owner;

const INNER: &str = "msrps://relay.test:2855;tcp";
const OUTER: &str = "msrps://outer.test:2855;tcp";

/// Two relays: one where Alice and Bob may be clients, and one farther out.
fn two_relays() -> World {
    let mut world = World::new();
    world.add_relay(settings_for("outer.test", 2855));
    world
}

/// Alice has a session at the first relay and, through it, one at the second. `relay` is Use-Path.
fn alice(world: &mut World) -> Node {
    let id = world.connect();
    let inner = world.auth(id, "alice");
    let to = format!("{inner} {OUTER}");
    let (use_path, _) = world.auth_along(id, "alice", &to, &own_uri("alice"));
    Node { id, relay: use_path, uri: own_uri("alice") }
}

/// Bob is a client of the second relay.
fn bob(world: &mut World) -> Node {
    let id = world.connect_to(1, TLS);
    let (relay, _) = world.auth_along(id, "bob", OUTER, &own_uri("bob"));
    Node { id, relay, uri: own_uri("bob") }
}

/// The path that others use to reach who was given `use_path`.
fn reversed(use_path: &str) -> String {
    let hops: Vec<_> = use_path.split(' ').rev().collect();
    hops.join(" ")
}

#[test]
fn auth_goes_through_the_first_relay_to_the_second_and_use_path_has_both() {
    let mut world = two_relays();
    let alice = alice(&mut world);
    let hops: Vec<_> = alice.relay.split(' ').collect();
    assert!(hops.len() == 2, "{hops:?}");
    assert!(hops[0].starts_with("msrps://relay.test:2855/"));
    assert!(hops[1].starts_with("msrps://outer.test:2855/"));
    let outer: msrp_proto::uri::MsrpUri = hops[1].parse().unwrap();
    let session = world.relay(1).sessions().find(&outer.as_ref(), world.now).unwrap();
    assert!(matches!(session.owner(), Owner::Relay { host } if &**host == "relay.test"));
}

#[test]
fn a_relayed_auth_keeps_its_transaction_id_on_each_hop() {
    let mut world = two_relays();
    world.names.remove("outer.test:2855");
    let id = world.connect();
    let inner = world.auth(id, "alice");
    let to = format!("{inner} {OUTER}");
    world.write(id, auth_request("mine1", &to, &own_uri("alice"), "X-Any: thing\r\n"));
    let dial = world.dial(0);
    let outer = world.complete_dial(0, &dial);
    let request = world.take_one(outer);
    assert_ne!(request.tid(), "mine1");
    assert_eq!((request.to(), request.from()), (OUTER, &*format!("{inner} {}", own_uri("alice"))));
    assert_eq!(request.field("X-Any"), "thing");
    world.nothing_for(id);
    let tid = request.tid();
    world.write(outer, format!(
        "MSRP {tid} 401 Who are you\r\nTo-Path: {}\r\nFrom-Path: {OUTER}\r\nWWW-Authenticate: Digest x\r\n-------{tid}$\r\n",
        request.from()
    ));
    let response = world.take_one(id);
    assert_eq!((response.tid().as_str(), response.status()), ("mine1", Some(401)));
    assert_eq!(response.head.after_transaction_id(), b"401 Who are you");
    assert_eq!((response.to(), response.from()), (&*own_uri("alice"), &*format!("{inner} {OUTER}")));
    assert_eq!(response.field("WWW-Authenticate"), "Digest x");
}

#[test]
fn an_auth_that_cannot_reach_the_next_relay_is_answered_408() {
    for answered_by in ["dial", "time", "close"] {
        let mut world = two_relays();
        world.names.remove("outer.test:2855");
        let id = world.connect();
        let inner = world.auth(id, "alice");
        world.write(id, auth_request("mine1", &format!("{inner} {OUTER}"), &own_uri("alice"), ""));
        let dial = world.dial(0);
        match answered_by {
            "dial" => world.fail_dial(0, &dial),
            "time" => {
                world.complete_dial(0, &dial);
                world.advance(Duration::from_secs(30));
            }
            _ => {
                let outer = world.complete_dial(0, &dial);
                world.hang_up(outer);
            }
        }
        let response = world.take_one(id);
        assert_eq!((response.tid().as_str(), response.status()), ("mine1", Some(408)), "{answered_by}");
        assert_eq!((response.to(), response.from()), (&*own_uri("alice"), &*inner));
    }
}

#[test]
fn several_failed_auths_through_us_close_the_clients_connection() {
    let mut world = two_relays();
    let id = world.connect();
    let inner = world.auth(id, "alice");
    let to = format!("{inner} {OUTER}");
    world.write(id, auth_request("t0000", &to, &own_uri("alice"), ""));
    let asked = world.take_one(id);
    let asked = Challenge::parse(asked.field("WWW-Authenticate")).unwrap();
    for nc in 1..=5 {
        world.assert_open(id);
        // Neither a first AUTH nor an outdated nonce counts.
        world.write(id, auth_request("t0001", &to, &own_uri("alice"), ""));
        assert_eq!(world.take_one(id).status(), Some(401));
        let wrong = answer_with(&asked, "alice", "wrong", OUTER, nc, false);
        let lines = format!("Authorization: {wrong}\r\n");
        world.write(id, auth_request("t0002", &to, &own_uri("alice"), &lines));
        assert_eq!(world.take_one(id).status(), Some(401));
    }
    assert!(matches!(world.closed(id), Some(CloseReason::Protocol(_))));
    // The connection between the relays is nobody's fault.
    assert_eq!(world.open_links().len(), 2);
}

#[test]
fn failed_auths_through_us_close_no_connection_of_a_relay() {
    let mut world = two_relays();
    let relay = world.connect_with(0, TLS, verified(&["inner.test"]));
    let from = format!("msrps://inner.test:2855/s1;tcp {}", own_uri("alice"));
    let (use_path, _) = world.auth_along(relay, "alice", INNER, &from);
    let to = format!("{} {OUTER}", use_path.split(' ').next_back().unwrap());
    world.write(relay, auth_request("t0000", &to, &from, ""));
    let asked = Challenge::parse(world.take_one(relay).field("WWW-Authenticate")).unwrap();
    for nc in 1..=20 {
        let wrong = answer_with(&asked, "alice", "wrong", OUTER, nc, false);
        world.write(relay, auth_request("t0001", &to, &from, &format!("Authorization: {wrong}\r\n")));
        assert_eq!(world.take_one(relay).status(), Some(401));
    }
    world.assert_open(relay);
}

#[test]
fn success_of_another_method_does_not_make_failed_auths_forgotten() {
    let mut world = two_relays();
    let id = world.connect();
    let inner = world.auth(id, "alice");
    let bob = world.member("bob");
    let to = format!("{inner} {OUTER}");
    world.write(id, auth_request("t0000", &to, &own_uri("alice"), ""));
    let asked = Challenge::parse(world.take_one(id).field("WWW-Authenticate")).unwrap();
    for nc in 1..=5 {
        world.assert_open(id);
        let wrong = answer_with(&asked, "alice", "wrong", OUTER, nc, false);
        world
            .write(id, auth_request("t0002", &to, &own_uri("alice"), &format!("Authorization: {wrong}\r\n")));
        assert_eq!(world.take_one(id).status(), Some(401));
        let paths = format!("To-Path: {inner} {}\r\nFrom-Path: {}\r\n", bob.path(), own_uri("alice"));
        if world.closed(id).is_none() {
            // Credentials in it make no AUTH of it.
            world.write(id, format!("MSRP t0003 NICKNAME\r\n{paths}Authorization: x\r\n-------t0003$\r\n"));
            let request = world.take_one(bob.id);
            let tid = request.tid();
            world.write(
                bob.id,
                format!(
                    "MSRP {tid} 200 OK\r\nTo-Path: {}\r\nFrom-Path: {}\r\n-------{tid}$\r\n",
                    request.from(),
                    bob.uri
                ),
            );
            assert_eq!(world.take_one(id).status(), Some(200));
        }
    }
    assert!(world.closed(id).is_some());
}

#[test]
fn an_outdated_nonce_at_the_next_relay_is_no_failure() {
    let mut world = two_relays();
    let id = world.connect();
    let inner = world.auth(id, "alice");
    let to = format!("{inner} {OUTER}");
    world.write(id, auth_request("t0000", &to, &own_uri("alice"), ""));
    let asked = Challenge::parse(world.take_one(id).field("WWW-Authenticate")).unwrap();
    world.advance(Duration::from_secs(31));
    for nc in 1..=10 {
        let value = answer(&asked, "alice", OUTER, nc);
        world
            .write(id, auth_request("t0001", &to, &own_uri("alice"), &format!("Authorization: {value}\r\n")));
        assert!(Challenge::parse(world.take_one(id).field("WWW-Authenticate")).unwrap().stale());
    }
    world.assert_open(id);
}

#[test]
fn messages_go_both_ways_with_a_200_on_each_hop_and_reports_from_end_to_end() {
    let mut world = two_relays();
    let alice = alice(&mut world);
    let bob = bob(&mut world);
    let to_bob = format!("{} {}", alice.relay, bob.path());
    let to_alice = format!("{} {} {}", bob.relay, reversed(&alice.relay), alice.uri);
    for (from, to, path) in [(&alice, &bob, &to_bob), (&bob, &alice, &to_alice), (&alice, &bob, &to_bob)] {
        let head = format!(
            "To-Path: {path}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\nSuccess-Report: yes\r\nByte-Range: 1-5/5\r\n",
            from.uri
        );
        world.write(from.id, send("t0001", &head, "hello", '$'));
        let response = world.take_one(from.id);
        assert_eq!((response.status(), response.tid().as_str()), (Some(200), "t0001"));
        let own = from.relay.split(' ').next().unwrap();
        assert_eq!((response.to(), response.from()), (&*from.uri, own));

        let message = world.take_one(to.id);
        assert_eq!((&*message.body, message.to()), (b"hello".as_slice(), &*to.uri));
        let path_back: Vec<_> = path.split(' ').rev().skip(1).collect();
        assert_eq!(message.from(), format!("{} {}", path_back.join(" "), from.uri));
        world.write(to.id, respond(&message, "200 OK"));
        world.nothing_for(from.id);
        world.write(
            to.id,
            format!(
                "MSRP r0001 REPORT\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\nByte-Range: 1-5/5\r\n\
             Status: 000 200 OK\r\n-------r0001$\r\n",
                message.from(),
                to.uri
            ),
        );
        let report = world.take_one(from.id);
        assert_eq!((report.method(), report.field("Status")), ("REPORT", "000 200 OK"));
        assert_eq!(report.to(), from.uri);
        let from_path: Vec<_> = path.split(' ').collect();
        assert_eq!(report.from(), from_path.join(" "));
        world.nothing_for(to.id);
    }
    // One connection between the relays served it all.
    assert_eq!(world.open_links().len(), 4);
    world.advance(Duration::from_secs(60));
    world.nothing_for(alice.id);
    world.nothing_for(bob.id);
}

#[test]
fn an_error_at_the_far_end_comes_back_as_a_report_with_its_code_through_both() {
    for (status, reported) in [
        ("413 enough", "000 413 Stop Sending"),
        ("481 gone", "000 481 No Such Session"),
        ("499 odd", "000 499 "),
    ] {
        let mut world = two_relays();
        let alice = alice(&mut world);
        let bob = bob(&mut world);
        let to_bob = format!("{} {}", alice.relay, bob.path());
        let head = format!(
            "To-Path: {to_bob}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\nByte-Range: 3-7/9\r\n",
            alice.uri
        );
        world.write(alice.id, send("t0001", &head, "hello", '+'));
        world.take(alice.id);
        let message = world.take_one(bob.id);
        world.write(bob.id, respond(&message, status));
        let report = world.take_one(alice.id);
        assert_eq!((report.method(), report.field("Status").trim_end()), ("REPORT", reported.trim_end()));
        assert_eq!((report.range(), report.field("Message-ID")), ("3-7/9", "m1"));
        assert_eq!(report.to(), alice.uri);
        // It comes from the relay that noticed.
        assert_eq!(report.from(), alice.relay);
        world.assert_open(alice.id);
    }
}

#[test]
fn a_client_without_a_relay_reaches_a_client_behind_two() {
    let mut world = two_relays();
    let alice = alice(&mut world);
    let peer = world.connect_to(1, PLAIN);
    let to = format!("{} {}", reversed(&alice.relay), alice.uri);
    let head = format!("To-Path: {to}\r\nFrom-Path: msrp://p.invalid:1/p;tcp\r\nMessage-ID: m1\r\n");
    world.write(peer, send("t0001", &head, content(100_000), '$'));
    assert_eq!(world.take_one(peer).status(), Some(200));
    let received = world.take(alice.id);
    let whole: Vec<u8> = received.iter().flat_map(|message| message.body.clone()).collect();
    assert_eq!(whole, content(100_000));
    // And back, over the connection it made.
    let back = received[0].from().to_owned();
    let head = format!("To-Path: {back}\r\nFrom-Path: {}\r\nMessage-ID: m2\r\n", alice.uri);
    world.write(alice.id, send("t0002", &head, "hello", '$'));
    assert!(world.take(peer).iter().any(|message| message.body == b"hello"));
}

#[test]
fn a_relays_session_outlives_its_connection_and_is_served_by_any_verified_one() {
    let mut world = World::new();
    let first = world.connect_with(0, TLS, verified(&["inner.test"]));
    let from = format!("msrps://inner.test:2855/s1;tcp {}", own_uri("alice"));
    let (use_path, _) = world.auth_along(first, "alice", INNER, &from);
    let session = use_path.split(' ').next_back().unwrap();
    world.hang_up(first);
    assert_eq!(world.relay(0).sessions().len(), 1);

    // Without a connection to it, one is opened, to it and nobody else.
    let peer = world.connect();
    let paths = |to: &str| {
        format!("To-Path: {session} {to}\r\nFrom-Path: msrps://p.test:1/p;tcp\r\nMessage-ID: m1\r\n")
    };
    let other = paths("msrps://victim.test:2855/s1;tcp msrps://a.test:1/a;tcp");
    world.write(peer, send("t0001", &other, "hi", '$'));
    assert_eq!(world.take_one(peer).status(), Some(403));
    assert!(world.dials(0).is_empty());
    world.write(peer, send("t0002", &paths(&from), "hi", '$'));
    assert_eq!(world.dial(0).target().unwrap().to_string(), "msrps://inner.test:2855");

    // With another verified one, that serves, in both directions.
    let second = world.connect_with(0, TLS, verified(&["inner.test"]));
    world.write(peer, send("t0003", &paths(&from), "again", '$'));
    assert_eq!(world.take_one(second).body, b"again");
    // To the relay that owns it, and nobody behind that connection: it would close it on others.
    world.take(peer);
    world.write(peer, send("t0006", &other, "hi", '$'));
    assert_eq!(world.take_one(peer).status(), Some(403));
    world.nothing_for(second);
    let head =
        format!("To-Path: {session} msrps://q.test:7/q;tcp\r\nFrom-Path: {from}\r\nMessage-ID: m2\r\n");
    world.write(second, send("t0004", &head, "out", '$'));
    assert_eq!(world.dial(0).target().unwrap().to_string(), "msrps://q.test:7");
    // A client that merely says so is none.
    let liar = world.connect();
    let head = head.replace("q.test", "r.test");
    world.write(liar, send("t0005", &head, "out", '$'));
    assert!(world.dials(0).is_empty());

    world.advance(Duration::from_secs(1800));
    world.relay(0).sweep(world.now);
    assert!(world.relay(0).sessions().is_empty());
}

#[test]
fn a_connection_between_relays_that_ends_fails_what_is_on_its_way() {
    let mut world = two_relays();
    world.names.remove("outer.test:2855");
    let id = world.connect();
    let inner = world.auth(id, "alice");
    let to = format!("{inner} msrps://outer.test:2855/s;tcp {}", own_uri("bob"));
    let head = format!("To-Path: {to}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\n", own_uri("alice"));
    world.write(id, send("t0001", &head, "1", '$'));
    let dial = world.dial(0);
    let outer = world.complete_dial(0, &dial);
    assert_eq!(world.take_one(id).status(), Some(200));
    assert_eq!(world.take_one(outer).body, b"1");
    world.hang_up(outer);
    let report = world.take_one(id);
    assert_eq!((report.method(), report.field("Status")), ("REPORT", "000 481 No Such Session"));
    assert_eq!(report.range(), "1-1/*");
}
