//! A relay that drains.

use std::time::Duration;

use msrp_proto::digest::Challenge;

use super::harness::*;
use crate::msrp::Drains;

const RELAYS: &str = "msrps://b.test:2855/s2;tcp";

/// Sends an AUTH without credentials, and gives the status of the answer.
fn asks(world: &mut World, client: ClientId, from: &str) -> Option<u16> {
    let tid = world.tid();
    world.write(client, auth_request(&tid, RELAY, from, ""));
    world.take_one(client).status()
}

#[test]
fn nothing_new_is_granted_and_what_there_is_goes_on() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let idle = world.connect();
    let challenge = world.challenged(idle);
    world.relay(0).set_draining(Some(Drains::default()));
    assert_eq!(asks(&mut world, idle, &own_uri("carol")), Some(408));
    // Who was challenged before too: nobody is let in any more.
    let tid = world.tid();
    let authorization = answer(&challenge, "alice", RELAY, 1);
    world.write(
        idle,
        auth_request(&tid, RELAY, &own_uri("alice"), &format!("Authorization: {authorization}\r\n")),
    );
    assert_eq!(world.take_one(idle).status(), Some(408));
    world.assert_open(idle);

    let head = format!("{}Message-ID: m\r\n", alice.paths_to(&bob));
    world.write(alice.id, send("t0001", &head, "hello", '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    assert_eq!(world.take_one(bob.id).method(), "SEND");

    world.relay(0).set_draining(None);
    assert_eq!(asks(&mut world, idle, &own_uri("carol")), Some(401));
}

#[test]
fn verified_relays_get_sessions_until_then() {
    let mut world = World::new();
    let relay = world.connect_with(0, TLS, verified(&["b.test"]));
    let client = world.connect();
    let until = world.now + Duration::from_millis(600_500);
    world.relay(0).set_draining(Some(Drains { relays_until: Some(until) }));
    assert_eq!(asks(&mut world, client, &own_uri("alice")), Some(408));

    let from = format!("{RELAYS} {}", own_uri("alice"));
    let ask = |world: &mut World| {
        let tid = world.tid();
        world.write(relay, auth_request(&tid, RELAY, &from, ""));
        let response = world.take_one(relay);
        let challenge = Challenge::parse(response.field("WWW-Authenticate")).ok()?;
        let tid = world.tid();
        let authorization = answer(&challenge, "alice", RELAY, 1);
        world.write(relay, auth_request(&tid, RELAY, &from, &format!("Authorization: {authorization}\r\n")));
        Some(world.take_one(relay))
    };
    let granted = ask(&mut world).unwrap();
    assert_eq!((granted.status(), granted.field("Expires")), (Some(200), "600"));
    world.advance(Duration::from_secs(600));
    let late = ask(&mut world).unwrap();
    assert_eq!(late.status(), Some(408), "less than a second is left");
    world.assert_open(relay);
}
