//! AUTH whose user has to be asked for.

use std::sync::Arc;
use std::time::Duration;

use msrp_proto::digest::{Algorithm, Ha1};
use parking_lot::Mutex;
use tcp_transport::connection::CloseReason;

use super::harness::*;
use crate::config::{Throttle, UserLimits};
use crate::credentials::{Credentials, Entry, Lookup, Query, Wants};
use crate::msrp::Settings;

/// A source that has to be asked; `at_hand` is what it says before, and `again` what it is asked for again.
#[derive(Debug, Clone)]
struct Slow {
    at_hand: Arc<Mutex<Lookup>>,
    again: Arc<Mutex<Lookup>>,
}

impl Credentials for Slow {
    fn lookup(&self, query: &Query) -> Lookup {
        if query.wants == Wants::Limits {
            return Lookup::Later;
        }
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
        (Lookup::Unanswered, 408),
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

/// A relay that counts failures, and a source that has to be asked.
fn strict() -> (World, Slow) {
    let (mut settings, source) = slow();
    settings.auth.throttle = Throttle { free: 1, ..Throttle::default() };
    settings.auth.max_failures = 1000;
    (World::with(settings), source)
}

/// The remembered hash of Dave, as the cache of a database has it.
fn remembered(password: &str) -> Lookup {
    let Lookup::Found(mut entry) = found("dave", password) else { panic!() };
    entry.remembered = true;
    Lookup::Found(entry)
}

#[test]
fn what_is_wrong_while_a_source_is_away_counts_against_nobody() {
    // As it is told at once, and after it was asked.
    for asked in [false, true] {
        let (mut world, source) = strict();
        *source.at_hand.lock() = remembered("davepw");
        *source.again.lock() = if asked { Lookup::Later } else { Lookup::Unavailable };
        for _ in 0..10 {
            let client = world.connect();
            world.credentials(client, "dave", "wrong", "");
            if asked {
                world.resolve(Lookup::Unavailable);
            }
            assert_eq!(world.take_one(client).status(), Some(408));
        }
        // Nobody waits.
        let client = world.connect();
        world.credentials(client, "dave", "davepw", "");
        assert_eq!(world.take_one(client).status(), Some(200), "{asked}");
        // With nothing at hand likewise.
        *source.at_hand.lock() = Lookup::Unavailable;
        for password in ["wrong", "davepw"].repeat(5) {
            world.credentials(client, "dave", password, "");
            assert_eq!(world.take_one(client).status(), Some(408));
        }
    }
}

#[test]
fn what_is_wrong_by_what_is_remembered_counts_while_a_source_has_too_much_to_do() {
    for asked in [false, true] {
        let (mut world, source) = strict();
        *source.at_hand.lock() = remembered("davepw");
        *source.again.lock() = if asked { Lookup::Later } else { Lookup::Unanswered };
        let client = world.connect();
        world.credentials(client, "dave", "wrong", "");
        if asked {
            world.resolve(Lookup::Unanswered);
        }
        assert_eq!(world.take_one(client).status(), Some(408));
        // Else passwords could be tried against what is remembered.
        let client = world.connect();
        world.credentials(client, "dave", "wrong", "");
        world.nothing_for(client);
        world.hang_up(client);
        // Of whom nothing is known, nothing counts.
        *source.at_hand.lock() = Lookup::Later;
        for _ in 0..3 {
            let client = world.connect();
            world.credentials(client, "erin", "wrong", "");
            world.resolve(Lookup::Unanswered);
            assert_eq!(world.take_one(client).status(), Some(408));
        }
    }
}

#[test]
fn an_unknown_user_is_answered_as_a_wrong_password_whichever_source_knows_the_user() {
    let shape = |message: &Message| {
        let challenge =
            |value: &&str| value.split(',').map(|part| part.split('=').next().unwrap().to_owned()).collect();
        let challenges: Vec<Vec<String>> = message.fields("WWW-Authenticate").iter().map(challenge).collect();
        (message.status(), challenges, message.fields("Expires").len(), message.fields("Use-Path").len())
    };
    for (said, status) in [(Lookup::Unknown, 401), (Lookup::Unavailable, 408), (Lookup::Unanswered, 408)] {
        let (mut world, _) = strict();
        let mut shapes = Vec::new();
        // Alice is known by a source before the one that is asked, Dave by that one, and nobody knows Zoe.
        for user in ["alice", "dave", "zoe"] {
            let client = world.connect();
            world.credentials(client, user, "wrong", "");
            world.nothing_for(client);
            let found = if user == "dave" && status == 401 { found("dave", "davepw") } else { said.clone() };
            world.resolve(if user == "alice" && status == 401 { found_again("alice") } else { found });
            shapes.push(shape(&world.take_one(client)));
            world.assert_open(client);
        }
        assert_eq!(shapes[0].0, Some(status));
        assert!(shapes.iter().all(|shape| *shape == shapes[0]), "{shapes:?}");
    }
}

/// What a chain says after all its sources were asked.
fn found_again(user: &str) -> Lookup {
    found(user, &format!("{user}pw"))
}

#[test]
fn a_wrong_password_of_a_user_who_is_known_for_sure_counts_while_a_source_after_it_is_away() {
    let (mut world, source) = strict();
    *source.again.lock() = Lookup::Unavailable;
    *source.at_hand.lock() = Lookup::Unavailable;
    let client = world.connect();
    world.credentials(client, "alice", "wrong", "");
    assert_eq!(world.take_one(client).status(), Some(408));
    world.credentials(client, "alice", "alicepw", "");
    world.nothing_for(client);
    world.advance(Throttle::default().delay);
    assert_eq!(world.take_one(client).status(), Some(200));
}

#[test]
fn who_was_asked_for_before_others_failed_waits_as_they_do() {
    let (mut world, _) = strict();
    let clients: Vec<_> = (0..5).map(|_| world.connect()).collect();
    for client in &clients {
        world.credentials(*client, "dave", "wrong", "");
    }
    // All of them are asked for at once; when the first has failed, the others have not waited yet.
    for _ in &clients {
        world.resolve(found("dave", "davepw"));
    }
    assert_eq!(world.take_one(clients[0]).status(), Some(401));
    for client in &clients[1..] {
        world.nothing_for(*client);
    }
}

#[test]
fn limits_are_looked_up_for_who_did_not_log_in_with_a_password_of_that_source() {
    let (mut settings, _) = slow();
    settings.limits.user = UserLimits { sessions: Some(3), ..UserLimits::default() };
    let secret = crate::config::Secret::new("0123456789abcdef");
    let algorithm = crate::credentials::EphemeralAlgorithm::Sha1;
    let ephemeral = crate::credentials::Ephemeral::new(algorithm, secret, None);
    // Before the source that is to be asked, as in the configuration.
    let mut chain = crate::credentials::CredentialChain::default();
    chain.push(Arc::new(ephemeral.clone()));
    chain.push(Arc::new(settings.auth.credentials));
    settings.auth.credentials = chain;
    let one = Lookup::Limits(Box::new(UserLimits { sessions: Some(1), ..UserLimits::default() }));
    // What is said of the limits, and how many sessions there can be.
    for (said, most) in [(one, 1), (Lookup::Unknown, 3), (Lookup::Unavailable, 3), (Lookup::Unanswered, 3)] {
        // By ephemeral credentials.
        let mut world = World::with(settings.clone());
        let name = "1700000600:zoe";
        let client = world.connect();
        for session in 0..=most {
            world.credentials(client, name, &ephemeral.password(name), "");
            world.nothing_for(client);
            assert_eq!(world.lookups(), ["zoe"]);
            world.resolve(said.clone());
            let expected = if session < most { 200 } else { 403 };
            assert_eq!(world.take_one(client).status(), Some(expected), "{said:?} {session}");
        }
        // By a token or a certificate in the handshake.
        let mut world = World::with(settings.clone());
        let client = world.connect_as("zoe", WSS, tcp_transport::tls::PeerCertificate::None);
        for session in 0..=most {
            let tid = world.tid();
            world.write(client, auth_request(&tid, "msrps://relay.test:443;ws", &web_uri("zoe"), ""));
            world.nothing_for(client);
            world.resolve(said.clone());
            let expected = if session < most { 200 } else { 403 };
            assert_eq!(world.take_one(client).status(), Some(expected), "{said:?} {session}");
        }
    }
}
