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
fn one_connection_has_few_tries_waiting() {
    let mut world = relay();
    for _ in 0..3 {
        fail(&mut world, "alice");
    }
    let client = world.connect();
    for _ in 0..4 {
        assert!(!world.is_paused(client));
        world.credentials(client, "alice", "wrong", "");
    }
    assert!(world.is_paused(client));
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take(client).len(), 4);
    assert!(!world.is_paused(client));
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
