//! What each user may have and send.

use std::sync::Arc;
use std::time::Duration;

use super::harness::*;
use crate::config::UserLimits;
use crate::credentials::{CredentialChain, UserTable};
use crate::msrp::Settings;

fn limited(limits: UserLimits) -> Settings {
    let mut settings = settings();
    settings.limits.user = limits;
    settings
}

fn head(from: &Node, to: &Node, id: &str, range: &str) -> String {
    from.paths_to(to) + &format!("Message-ID: {id}\r\nByte-Range: {range}\r\n")
}

/// Sends a message of `len` bytes in one chunk.
fn message(world: &mut World, from: &Node, to: &Node, len: usize) {
    let tid = world.tid();
    let head = head(from, to, &tid, &format!("1-{len}/{len}"));
    world.write(from.id, send(&tid, &head, content(len), '$'));
}

#[test]
fn a_user_has_so_many_sessions_on_all_connections_and_gets_another_when_one_ends() {
    let mut world = World::with(limited(UserLimits { sessions: Some(2), ..UserLimits::default() }));
    let first = world.member("alice");
    let second = world.member("alice");
    let third = world.connect();
    world.credentials(third, "alice", "alicepw", "");
    assert_eq!(world.take_one(third).status(), Some(403));
    world.member("bob");

    world.hang_up(first.id);
    world.credentials(third, "alice", "alicepw", "");
    assert_eq!(world.take_one(third).status(), Some(200));
    // One that has expired does not count either.
    world.credentials(second.id, "alice", "alicepw", "");
    assert_eq!(world.take_one(second.id).status(), Some(403));
    world.advance(Duration::from_secs(1800));
    world.relay(0).sweep(world.now);
    world.credentials(second.id, "alice", "alicepw", "");
    assert_eq!(world.take_one(second.id).status(), Some(200));
}

#[test]
fn a_user_has_limits_of_its_own() {
    let mut users = UserTable::default();
    for user in ["alice", "bob"] {
        users.insert_password(REALM, user, &format!("{user}pw"));
    }
    let own = UserLimits { sessions: Some(3), ..UserLimits::default() };
    users.insert_limits(REALM, "alice", own);
    let mut settings = limited(UserLimits { sessions: Some(1), ..UserLimits::default() });
    settings.auth.credentials = CredentialChain::default();
    settings.auth.credentials.push(Arc::new(users));
    let mut world = World::with(settings);
    // By a token or a certificate too: then by the name alone.
    let handshake = world.connect_as("alice", WSS, tcp_transport::tls::PeerCertificate::None);
    world.write(handshake, auth_request("t0001", "msrps://relay.test:443;ws", &web_uri("alice"), ""));
    assert_eq!(world.take_one(handshake).status(), Some(200));
    for (user, status) in [("alice", 200), ("alice", 200), ("alice", 403), ("bob", 200), ("bob", 403)] {
        let client = world.connect();
        world.credentials(client, user, &format!("{user}pw"), "");
        assert_eq!(world.take_one(client).status(), Some(status), "{user}");
    }
}

#[test]
fn a_message_is_so_large_and_no_larger() {
    let mut world = World::with(limited(UserLimits { message_size: Some(1000), ..UserLimits::default() }));
    let (alice, bob) = world.pair();
    for (len, status) in [(999, 200), (1000, 200), (1001, 413)] {
        message(&mut world, &alice, &bob, len);
        assert_eq!(world.take_one(alice.id).status(), Some(status), "{len}");
        assert_eq!(world.take(bob.id).len(), usize::from(status == 200), "{len}");
    }
    // Its first chunk says how large the message is; a later one where it is.
    for (range, status) in [("1-10/1000", 200), ("1-10/1001", 413), ("991-1000/*", 200), ("992-1001/*", 413)]
    {
        let tid = world.tid();
        world.write(alice.id, send(&tid, &head(&alice, &bob, &tid, range), content(10), '+'));
        assert_eq!(world.take_one(alice.id).status(), Some(status), "{range}");
    }
    world.assert_open(alice.id);
    // Nothing went to him, and his connection need not be larger for that.
    world.quiet_all();
    world.take_wakes(bob.id);
    message(&mut world, &alice, &bob, 1001);
    assert!(world.take_wakes(bob.id) > 0 || !world.link(bob.id).has_queue());
}

#[test]
fn a_message_that_does_not_say_its_size_is_refused_where_it_becomes_too_large() {
    let mut world = World::with(limited(UserLimits { message_size: Some(5000), ..UserLimits::default() }));
    let (alice, bob) = world.pair();
    for (len, status) in [(5000, 200), (5001, 413)] {
        world.take(bob.id);
        let tid = world.tid();
        world.write(alice.id, send_begin(&tid, &head(&alice, &bob, &tid, "1-*/*")));
        world.write(alice.id, &content(len)[..3000]);
        world.write(alice.id, &content(len)[3000..]);
        world.write(alice.id, end(&tid, '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(status), "{len}");
        let message = world.take(bob.id).pop().unwrap();
        let flag =
            if status == 200 { msrp_proto::flag::Flag::Complete } else { msrp_proto::flag::Flag::Abort };
        assert_eq!(message.flag, Some(flag), "{len}");
    }
    // What goes on is not disturbed.
    message(&mut world, &alice, &bob, 10);
    assert_eq!(world.take_one(alice.id).status(), Some(200));
}

#[test]
fn messages_beyond_the_rate_wait_and_nobody_else_does() {
    let limits = UserLimits {
        messages_per_second: Some(2),
        burst: Some(Duration::from_secs(2)),
        ..UserLimits::default()
    };
    let mut world = World::with(limited(limits));
    let (alice, bob) = world.pair();
    for _ in 0..6 {
        message(&mut world, &alice, &bob, 10);
    }
    // Two a second for two seconds.
    assert_eq!((world.take(bob.id).len(), world.is_paused(alice.id)), (4, true));
    message(&mut world, &bob, &alice, 10);
    assert_eq!(world.take(alice.id).iter().filter(|message| message.method() == "SEND").count(), 1);
    for _ in 0..2 {
        world.advance(Duration::from_millis(499));
        assert_eq!(world.take(bob.id).iter().filter(|message| message.method() == "SEND").count(), 0);
        world.advance(Duration::from_millis(1));
        assert_eq!(world.take(bob.id).iter().filter(|message| message.method() == "SEND").count(), 1);
    }
    world.assert_open(alice.id);
}

#[test]
fn bytes_beyond_the_rate_wait() {
    let limits = UserLimits {
        bytes_per_second: Some(1000),
        burst: Some(Duration::from_secs(2)),
        ..UserLimits::default()
    };
    let mut world = World::with(limited(limits));
    let (alice, bob) = world.pair();
    message(&mut world, &alice, &bob, 2000);
    assert!(!world.is_paused(alice.id));
    world.advance(Duration::from_secs(10));
    message(&mut world, &alice, &bob, 2500);
    assert!(world.is_paused(alice.id));
    message(&mut world, &alice, &bob, 1);
    world.advance(Duration::from_millis(499));
    assert!(world.is_paused(alice.id));
    world.advance(Duration::from_millis(1));
    let bodies: usize = world.take(bob.id).iter().map(|message| message.body.len()).sum();
    assert_eq!(bodies, 4501);
}

#[test]
fn over_a_relays_connection_what_is_too_fast_is_refused_and_nobody_waits() {
    let limits = UserLimits {
        messages_per_second: Some(1),
        burst: Some(Duration::from_secs(1)),
        ..UserLimits::default()
    };
    let mut world = World::with(limited(limits));
    let bob = world.member("bob");
    let relay = world.connect_with(0, TLS, verified(&["outer.test"]));
    let from = format!("msrps://outer.test:2855/s;tcp {}", own_uri("alice"));
    let (use_path, _) = world.auth_along(relay, "alice", RELAY, &from);
    let session = use_path.split(' ').next_back().unwrap().to_owned();
    let head = |id: &str| {
        format!(
            "To-Path: {session} {}\r\nFrom-Path: {from}\r\nMessage-ID: {id}\r\nByte-Range: 1-2/2\r\n",
            bob.path()
        )
    };
    for (tid, status) in [("t0001", 200), ("t0002", 413), ("t0003", 413)] {
        world.write(relay, send(tid, &head(tid), "hi", '$'));
        assert_eq!(world.take_one(relay).status(), Some(status), "{tid}");
        assert!(!world.is_paused(relay));
    }
    world.advance(Duration::from_secs(1));
    world.write(relay, send("t0004", &head("m4"), "hi", '$'));
    assert_eq!(world.take_one(relay).status(), Some(200));
}
