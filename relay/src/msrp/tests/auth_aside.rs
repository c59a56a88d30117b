//! AUTH whose user has to be asked for.

use std::sync::Arc;
use std::time::Duration;

use msrp_proto::digest::{Algorithm, Ha1};
use parking_lot::Mutex;
use tcp_transport::connection::CloseReason;

use super::harness::*;
use crate::credentials::{Credentials, Entry, Lookup, Query};
use crate::msrp::Settings;

/// A source that has to be asked; `at_hand` is what it says before, and `again` what it is asked for again.
#[derive(Debug, Clone)]
struct Slow {
    at_hand: Arc<Mutex<Lookup>>,
    again: Arc<Mutex<Lookup>>,
}

impl Credentials for Slow {
    fn lookup(&self, query: &Query) -> Lookup {
        if query.again { self.again.lock().clone() } else { self.at_hand.lock().clone() }
    }

    fn supports(&self, _: Algorithm) -> bool {
        true
    }
}

/// A relay with the usual users, and a source that has to be asked for others.
fn slow() -> (Settings, Slow) {
    let source =
        Slow { at_hand: Arc::new(Mutex::new(Lookup::Later)), again: Arc::new(Mutex::new(Lookup::Later)) };
    let mut settings = settings();
    settings.auth.credentials.push(Arc::new(source.clone()));
    (settings, source)
}

fn found(user: &str, password: &str) -> Lookup {
    Lookup::found(Entry::new(Ha1::from_password(Algorithm::Md5, user, REALM, password)))
}

#[test]
fn an_auth_waits_for_its_user_and_everything_else_goes_on() {
    let (settings, _) = slow();
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    let tid = world.credentials(alice.id, "dave", "davepw", "");
    world.nothing_for(alice.id);
    assert_eq!(world.lookups(), ["dave"]);

    // On the same connection: a message, and an AUTH of somebody who is known.
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-2/2\r\n";
    world.write(alice.id, send("t0001", &head, "hi", '$'));
    assert_eq!(world.take_one(bob.id).body, b"hi");
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    let other = world.credentials(alice.id, "carol", "carolpw", "");
    let response = world.take_one(alice.id);
    assert_eq!((response.status(), response.tid()), (Some(200), other));

    world.resolve(found("dave", "davepw"));
    let response = world.take_one(alice.id);
    assert_eq!((response.status(), response.tid()), (Some(200), tid));
    assert_eq!(world.relay(0).sessions().len(), 4);
}

#[test]
fn what_a_source_says_decides() {
    let (settings, _) = slow();
    let mut world = World::with(settings);
    let client = world.connect();
    for (lookup, status) in [
        (found("dave", "davepw"), 200),
        (found("dave", "otherpw"), 401),
        (Lookup::Unknown, 401),
        (Lookup::Unavailable, 408),
        (Lookup::Later, 408),
    ] {
        world.credentials(client, "dave", "davepw", "");
        world.resolve(lookup);
        assert_eq!(world.take_one(client).status(), Some(status));
    }
    assert_eq!(world.relay(0).sessions().len(), 1);
}

#[test]
fn what_nobody_could_say_is_no_failure_and_what_is_wrong_is_one() {
    let (settings, _) = slow();
    let mut world = World::with(settings);
    let client = world.connect();
    for _ in 0..10 {
        world.credentials(client, "dave", "davepw", "");
        world.resolve(Lookup::Unavailable);
        assert_eq!(world.take_one(client).status(), Some(408));
    }
    world.assert_open(client);
    for failure in 1..=5 {
        world.credentials(client, &format!("nobody{failure}"), "x", "");
        world.resolve(Lookup::Unknown);
        world.take(client);
    }
    let closed = world.closed(client);
    assert!(
        matches!(&closed, Some(CloseReason::Protocol(reason)) if reason.contains("5 AUTH")),
        "{closed:?}"
    );
}

#[test]
fn four_are_put_aside_and_then_the_connection_is_not_read() {
    let (settings, _) = slow();
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    for index in 1..=3 {
        world.credentials(alice.id, &format!("user{index}"), "x", "");
    }
    assert!(!world.is_paused(alice.id));
    world.credentials(alice.id, "user4", "user4pw", "");
    assert_eq!((world.is_paused(alice.id), world.lookups().len()), (true, 4));
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-2/2\r\n";
    world.write(alice.id, send("t0001", &head, "hi", '$'));
    world.nothing_for(bob.id);

    world.resolve(Lookup::Unknown);
    assert_eq!(world.take_one(bob.id).body, b"hi");
    assert_eq!(world.take(alice.id).len(), 2);
    assert!(!world.is_paused(alice.id));
}

#[test]
fn a_relay_may_have_more_of_them() {
    let (settings, _) = slow();
    let mut world = World::with(settings);
    let relay = world.connect_with(0, TLS, verified(&["outer.test"]));
    for index in 0..63 {
        world.credentials(relay, &format!("user{index}"), "x", "");
    }
    assert!(!world.is_paused(relay));
    world.credentials(relay, "user63", "x", "");
    assert_eq!((world.is_paused(relay), world.lookups().len()), (true, 64));
}

#[test]
fn a_connection_that_ends_takes_them_along() {
    let (settings, _) = slow();
    let mut world = World::with(settings);
    let client = world.connect();
    world.credentials(client, "dave", "davepw", "");
    world.hang_up(client);
    world.resolve(found("dave", "davepw"));
    assert!(world.relay(0).sessions().is_empty());
}

#[test]
fn waiting_for_a_user_ends_with_probation() {
    let (settings, _) = slow();
    let mut world = World::with(settings);
    let client = world.connect();
    world.credentials(client, "dave", "davepw", "");
    world.advance(Duration::from_secs(30));
    assert_eq!(world.closed(client), Some(CloseReason::HandshakeTimeout));
}

#[test]
fn a_password_that_is_wrong_by_what_is_at_hand_is_asked_for_again() {
    let (settings, source) = slow();
    let mut world = World::with(settings);
    let client = world.connect();
    *source.at_hand.lock() = found("dave", "oldpw");
    world.credentials(client, "dave", "oldpw", "");
    assert_eq!(world.take_one(client).status(), Some(200));
    assert!(world.lookups().is_empty());

    // The password has been changed since.
    world.credentials(client, "dave", "newpw", "");
    world.nothing_for(client);
    world.resolve(found("dave", "newpw"));
    assert_eq!(world.take_one(client).status(), Some(200));

    // It has just been asked for.
    *source.again.lock() = found("dave", "oldpw");
    world.credentials(client, "dave", "newpw", "");
    assert_eq!(world.take_one(client).status(), Some(401));
    assert!(world.lookups().is_empty());
    // Who has to be asked is away: nobody can say that it is wrong.
    *source.again.lock() = Lookup::Unavailable;
    world.credentials(client, "dave", "newpw", "");
    assert_eq!(world.take_one(client).status(), Some(408));
}
