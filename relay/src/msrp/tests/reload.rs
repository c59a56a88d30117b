//! Settings that take the place of others while connections and sessions are there.

use std::time::Duration;

use msrp_proto::uri::Scheme;

use super::harness::*;
use crate::config::{Secret, UserLimits};
use crate::msrp::{Advertised, Relay, Settings, SettingsError, WebSocketLink};

fn reload(relay: &Relay, settings: Settings) {
    relay.take_over(relay.prepare(settings).unwrap());
}

fn ids(relay: &Relay) -> (Vec<usize>, Vec<usize>) {
    let current = relay.settings();
    (current.listener_ids().collect(), current.retired_ids().collect())
}

fn listener(port: u16) -> Advertised {
    let host = "relay.test".to_owned();
    Advertised { scheme: Scheme::Msrps, host, port, bound_port: port, websocket: None }
}

#[test]
fn a_listener_that_is_gone_is_known_for_as_long_as_it_is_used() {
    let mut world = World::new();
    let relay = world.relay(0).clone();
    let alice = world.member("alice");
    let bob = world.member("bob");
    let (before, _) = ids(&relay);
    let other = Settings { listeners: vec![listener(9000)], ..settings() };
    reload(&relay, other.clone());
    assert_eq!(ids(&relay), (vec![4], vec![0]), "clients came in by the first one, and by no other");

    // By its old name messages go on, and AUTH over the connection of then gives a session of the new one.
    let tid = world.tid();
    let head = alice.paths_to(&bob) + "Message-ID: m\r\nByte-Range: 1-5/5\r\n";
    world.write(alice.id, send(&tid, &head, "hello", '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    assert_eq!(world.take_one(bob.id).method(), "SEND");
    world.credentials(alice.id, "alice", "alicepw", "");
    let granted = world.take_one(alice.id);
    assert_eq!(granted.status(), Some(200));
    assert!(
        granted.field("Use-Path").starts_with("msrps://relay.test:9000/"),
        "{}",
        granted.field("Use-Path")
    );

    // It comes back as what it was, and new ones never are.
    reload(&relay, settings());
    assert_eq!(ids(&relay).0[0], before[0]);
    reload(&relay, Settings { listeners: vec![listener(9001)], ..settings() });
    let (now, retired) = ids(&relay);
    assert!(now.iter().all(|id| *id > 4) && retired.contains(&0), "{now:?} {retired:?}");

    world.hang_up(alice.id);
    relay.sweep(world.now);
    assert!(ids(&relay).1.contains(&0), "bob is there");
    world.hang_up(bob.id);
    relay.sweep(world.now);
    assert_eq!(ids(&relay).1, [0; 0], "nobody is");
}

#[test]
fn a_websocket_is_the_same_listener_whatever_the_size_of_its_pieces() {
    let world = World::new();
    let relay = world.relay(0);
    let before = ids(relay);
    let mut other = settings();
    for listener in &mut other.listeners {
        listener.websocket = listener.websocket.map(|_| WebSocketLink { chunk_size: 77 });
    }
    reload(relay, other);
    assert_eq!(ids(relay), before);
    assert_eq!(relay.current().listener(2).unwrap().advertised.websocket.unwrap().chunk_size, 77);
}

#[test]
fn what_makes_no_relay_changes_nothing() {
    let world = World::new();
    let relay = world.relay(0);
    let mut none = settings();
    none.listeners.retain(|listener| listener.websocket.is_some());
    none.limits.headers = 3;
    assert!(matches!(relay.prepare(none), Err(SettingsError::NoTcpListener)));
    let mut short = settings();
    short.auth.nonce_secret = Some(Secret::new("short"));
    assert!(matches!(relay.prepare(short), Err(SettingsError::Secret(_))));
    assert_eq!(relay.settings().limits.headers, settings().limits.headers);
}

#[test]
fn nonces_of_the_secret_before_are_stale_and_those_of_the_same_one_go_on() {
    for (change, status) in [("none", 200), ("limits", 200), ("secret", 401), ("expire", 401)] {
        let mut world = World::new();
        let client = world.connect();
        let challenge = world.challenged(client);
        let mut other = settings();
        match change {
            "limits" => other.limits.headers += 1,
            "secret" => other.auth.nonce_secret = Some(Secret::new("x".repeat(40))),
            "expire" => other.auth.nonce_expire = Duration::from_secs(60),
            _ => {}
        }
        // What is issued after the reload is later than it.
        world.advance(Duration::from_millis(10));
        reload(world.relay(0), other);
        let authorization = answer(&challenge, "alice", "msrps://relay.test:2855;tcp", 1);
        let tid = world.tid();
        let request = auth_request(
            &tid,
            "msrps://relay.test:2855;tcp",
            &own_uri("alice"),
            &format!("Authorization: {authorization}\r\n"),
        );
        world.write(client, request);
        let response = world.take_one(client);
        assert_eq!(response.status(), Some(status), "{change}");
        assert_eq!(
            status == 401,
            response.fields("WWW-Authenticate").concat().contains("stale=true"),
            "{change}"
        );
        world.credentials(client, "alice", "alicepw", "");
    }
}

#[test]
fn limits_of_users_who_are_there_change_at_once() {
    let mut world = World::new();
    let alice = world.member("alice");
    let session = || {
        let all = world.relay(0).sessions().snapshot();
        all[0].account().limits()
    };
    assert_eq!(session(), UserLimits::default());
    let mut other = settings();
    other.limits.user.sessions = Some(1);
    reload(world.relay(0), other);
    assert_eq!(session().sessions, Some(1));
    reload(world.relay(0), settings());
    assert_eq!(session(), UserLimits::default());
    drop(alice);
}
