//! Who tries passwords is slowed down, and nobody else.

use std::time::Duration;

use super::harness::*;
use crate::config::Throttle;

fn relay() -> World {
    let mut settings = settings();
    settings.auth.throttle = Throttle::default();
    settings.auth.max_failures = 1000;
    World::with(settings)
}

/// A wrong password from a connection of its own; the answer may still be to come.
fn fail(world: &mut World, user: &str) -> ClientId {
    let client = world.connect();
    world.credentials(client, user, "wrong", "");
    client
}

#[test]
fn the_fourth_try_waits_and_the_next_one_longer() {
    let mut world = relay();
    for _ in 0..3 {
        let client = fail(&mut world, "alice");
        assert_eq!(world.take_one(client).status(), Some(401));
    }
    for seconds in [1, 2, 4, 8, 8] {
        let client = fail(&mut world, "alice");
        world.advance(Duration::from_secs(seconds) - Duration::from_millis(1));
        world.nothing_for(client);
        world.advance(Duration::from_millis(1));
        assert_eq!(world.take_one(client).status(), Some(401));
    }
    // Others from the same address notice nothing.
    world.member("bob");
    // A challenge is given at once.
    let client = world.connect();
    world.challenged(client);
}

#[test]
fn an_unknown_user_is_slowed_down_as_a_known_one_is() {
    let mut world = relay();
    for _ in 0..3 {
        let client = fail(&mut world, "nobody");
        assert_eq!(world.take_one(client).status(), Some(401));
    }
    let client = fail(&mut world, "nobody");
    world.nothing_for(client);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take_one(client).status(), Some(401));
}

#[test]
fn the_right_password_gets_in_within_30_seconds_of_an_attack_that_goes_on() {
    let mut world = relay();
    for _ in 0..100 {
        fail(&mut world, "alice");
        world.advance(Duration::from_millis(100));
    }
    let client = world.connect();
    let tid = world.credentials(client, "alice", "alicepw", "");
    let mut waited = Duration::ZERO;
    let response = loop {
        if let Some(response) = world.take(client).pop() {
            break response;
        }
        fail(&mut world, "alice");
        world.advance(Duration::from_millis(100));
        waited += Duration::from_millis(100);
        assert!(waited < Duration::from_secs(30));
    };
    assert_eq!((response.status(), response.tid(), waited), (Some(200), tid, Duration::from_secs(8)));
}

#[test]
fn success_and_time_make_a_pair_as_any_other() {
    let mut world = relay();
    for _ in 0..4 {
        fail(&mut world, "alice");
    }
    let client = world.connect();
    world.credentials(client, "alice", "alicepw", "");
    world.advance(Duration::from_secs(2));
    assert_eq!(world.take_one(client).status(), Some(200));
    world.credentials(client, "alice", "alicepw", "");
    assert_eq!(world.take_one(client).status(), Some(200));

    for _ in 0..4 {
        fail(&mut world, "bob");
    }
    world.advance(Throttle::default().forget + Duration::from_secs(1));
    world.member("bob");
}

#[test]
fn one_connection_has_few_tries_waiting_and_nothing_else_is_delayed() {
    let mut world = relay();
    let (alice, bob) = world.pair();
    for _ in 0..3 {
        fail(&mut world, "carol");
    }
    for _ in 0..4 {
        world.credentials(alice.id, "carol", "wrong", "");
    }
    world.nothing_for(alice.id);
    // The fifth is refused without being looked at, and the connection goes on.
    world.credentials(alice.id, "carol", "carolpw", "");
    assert_eq!(world.take_one(alice.id).status(), Some(408));
    assert!(!world.is_paused(alice.id));
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-2/2\r\n";
    world.write(alice.id, send("t0001", &head, "hi", '$'));
    assert_eq!(world.take_one(bob.id).body, b"hi");
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.credentials(alice.id, "bob", "bobpw", "");
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take(alice.id).len(), 4);
}

#[test]
fn what_is_refused_unseen_counts_as_a_failure_of_the_connection() {
    let mut settings = settings();
    settings.auth.throttle = Throttle { free: 1, ..Throttle::default() };
    settings.auth.max_failures = 5;
    let mut world = World::with(settings);
    fail(&mut world, "alice");
    let client = world.connect();
    for sent in 1..=9 {
        world.assert_open(client);
        world.credentials(client, "alice", "wrong", "");
        // Four wait.
        assert_eq!(world.take(client).len(), usize::from(sent > 4));
    }
    assert!(world.closed(client).is_some());
}

#[test]
fn over_a_relays_connection_failing_users_delay_nobody_else() {
    let mut world = relay();
    let relay = world.connect_with(0, TLS, verified(&["outer.test"]));
    for _ in 0..3 {
        world.credentials(relay, "alice", "wrong", "");
        assert_eq!(world.take_one(relay).status(), Some(401));
    }
    for _ in 0..64 {
        world.credentials(relay, "alice", "wrong", "");
        world.nothing_for(relay);
    }
    world.credentials(relay, "alice", "wrong", "");
    assert_eq!(world.take_one(relay).status(), Some(408));
    assert!(!world.is_paused(relay));
    world.credentials(relay, "bob", "bobpw", "");
    assert_eq!(world.take_one(relay).status(), Some(200));
}

#[test]
fn so_many_passwords_are_tried_for_a_user_whatever_the_number_of_connections() {
    let mut settings = settings();
    settings.auth.throttle = Throttle { waiting: 10, ..Throttle::default() };
    settings.auth.max_failures = 1000;
    let mut world = World::with(settings);
    // 30 connections with four tries each, for eight seconds.
    for _ in 0..20 {
        fail(&mut world, "alice");
        world.advance(Duration::from_secs(8));
    }
    let clients: Vec<_> = (0..30).map(|_| world.connect()).collect();
    let mut answers = Vec::new();
    for client in &clients {
        for _ in 0..4 {
            world.credentials(*client, "alice", "wrong", "");
            answers.extend(world.take(*client));
        }
    }
    world.advance(Duration::from_secs(8));
    answers.extend(clients.iter().flat_map(|client| world.take(*client)));
    let answers: Vec<_> = answers.iter().map(Message::status).collect();
    let looked_at = answers.iter().filter(|status| **status == Some(401)).count();
    let refused = answers.iter().filter(|status| **status == Some(408)).count();
    assert_eq!((answers.len(), looked_at, refused), (120, 10, 110));
}

#[test]
fn a_fresh_connection_gets_in_though_more_is_tried_than_can_wait() {
    let mut settings = settings();
    settings.auth.throttle = Throttle { waiting: 10, ..Throttle::default() };
    settings.auth.max_failures = 1000;
    let mut world = World::with(settings);
    let attackers: Vec<_> = (0..50).map(|_| world.connect()).collect();
    let hammer = |world: &mut World| {
        for client in &attackers {
            world.take(*client);
            world.credentials(*client, "alice", "wrong", "");
        }
        world.advance(Duration::from_secs(1));
    };
    for _ in 0..20 {
        hammer(&mut world);
    }
    let client = world.connect();
    world.credentials(client, "alice", "alicepw", "");
    for _ in 0..8 {
        world.nothing_for(client);
        hammer(&mut world);
    }
    assert_eq!(world.take_one(client).status(), Some(200));
}

#[test]
fn it_can_be_switched_off() {
    let mut settings = settings();
    settings.auth.max_failures = 1000;
    settings.auth.throttle.enabled = false;
    let mut world = World::with(settings);
    for _ in 0..20 {
        let client = fail(&mut world, "alice");
        assert_eq!(world.take_one(client).status(), Some(401));
    }
}
