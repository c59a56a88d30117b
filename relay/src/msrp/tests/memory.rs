//! What a connection remembers of the message before, and that it is forgotten when it must be.

use std::sync::Arc;
use std::time::Duration;

use super::harness::*;
use crate::msrp::Settings;

/// A message with these header fields besides.
fn sent(world: &mut World, from: &Node, to: &Node, lines: &str) -> (String, Vec<u8>) {
    let tid = world.tid();
    let head = from.paths_to(to) + "Message-ID: m1234\r\nByte-Range: 1-5/5\r\n" + lines;
    (tid.clone(), send(&tid, &head, "hello", '$'))
}

/// Sends, and gives the status that came back.
fn says(world: &mut World, from: &Node, to: &Node) -> Option<u16> {
    says_with(world, from, to, "")
}

/// The same with these header fields besides.
fn says_with(world: &mut World, from: &Node, to: &Node, lines: &str) -> Option<u16> {
    let (tid, message) = sent(world, from, to, lines);
    world.write(from.id, message);
    let answer = world.take_one(from.id);
    assert_eq!(answer.tid(), tid);
    answer.status()
}

fn hears(world: &mut World, node: &Node) {
    let message = world.take_one(node.id);
    assert_eq!(message.method(), "SEND");
    world.write(node.id, respond(&message, "200 OK"));
}

#[test]
fn messages_the_same_way_arrive_until_the_session_ends() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for _ in 0..3 {
        assert_eq!(says(&mut world, &alice, &bob), Some(200));
        hears(&mut world, &bob);
    }
    let relay = Arc::clone(world.relay(0));
    let session = relay.sessions().snapshot().into_iter().find(|session| session.user() == "bob").unwrap();
    assert!(relay.end_session(session.id()));
    assert_eq!(says(&mut world, &alice, &bob), Some(481), "bob's session is over");
    world.nothing_for(bob.id);
}

#[test]
fn messages_the_same_way_are_refused_when_the_time_of_the_session_is_over() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    assert_eq!(says(&mut world, &alice, &bob), Some(200));
    hears(&mut world, &bob);
    // No sweep: the route itself has to know.
    world.advance(Duration::from_secs(24 * 3600));
    world.nothing_for(bob.id);
    assert_eq!(says(&mut world, &alice, &bob), Some(481));
    world.nothing_for(bob.id);
}

#[test]
fn a_peer_that_comes_back_is_reached_over_its_new_connection() {
    let mut world = World::new();
    let alice = world.member("alice");
    let peer_uri = own_uri("peer");
    let hello = |world: &mut World, peer: ClientId| {
        let tid = world.tid();
        let paths = format!("To-Path: {} {}\r\nFrom-Path: {peer_uri}\r\n", alice.relay, alice.uri);
        world.write(peer, send(&tid, &(paths + "Message-ID: p1234\r\nByte-Range: 1-2/2\r\n"), "hi", '$'));
        assert_eq!(world.take_one(peer).status(), Some(200));
        hears(world, &alice);
    };
    let to_peer = |world: &mut World, peer: ClientId| {
        let tid = world.tid();
        let paths = format!("To-Path: {} {peer_uri}\r\nFrom-Path: {}\r\n", alice.relay, alice.uri);
        world.write(alice.id, send(&tid, &(paths + "Message-ID: q1234\r\nByte-Range: 1-2/2\r\n"), "ho", '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(200));
        let message = world.take_one(peer);
        assert_eq!(message.method(), "SEND");
        world.write(peer, respond(&message, "200 OK"));
    };
    let first = world.connect();
    hello(&mut world, first);
    to_peer(&mut world, first);
    to_peer(&mut world, first);
    world.hang_up(first);
    let second = world.connect();
    hello(&mut world, second);
    to_peer(&mut world, second);
}

#[test]
fn limits_that_a_reload_brings_hold_for_the_next_message_the_same_way() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    assert_eq!(says(&mut world, &alice, &bob), Some(200));
    hears(&mut world, &bob);
    let relay = Arc::clone(world.relay(0));
    let mut tight: Settings = settings();
    tight.limits.path_length = 2;
    relay.take_over(relay.prepare(tight).unwrap());
    assert_eq!(says(&mut world, &alice, &bob), Some(400), "three URIs are too many now");
}

#[test]
fn a_longer_head_the_same_way_is_held_against_the_limits() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    assert_eq!(says(&mut world, &alice, &bob), Some(200));
    hears(&mut world, &bob);
    let lines = "X-Y: z\r\n".repeat(settings().limits.headers);
    assert_eq!(says_with(&mut world, &alice, &bob, &lines), Some(400));
    world.nothing_for(bob.id);
}

#[test]
fn a_silent_connection_forgets_and_goes_on() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for round in 0..3 {
        assert_eq!(says(&mut world, &alice, &bob), Some(200));
        if round == 1 {
            // A response is awaited, which is not forgotten.
            world.quiet(bob.id);
        }
        hears(&mut world, &bob);
        world.quiet(alice.id);
        world.quiet(bob.id);
        assert_eq!((world.link(alice.id).queued_bytes(), world.link(bob.id).is_idle()), (0, true));
    }
    // In the middle of a message, and while the reader is slow.
    world.stop_reading(bob.id, 10);
    let (tid, message) = sent(&mut world, &alice, &bob, "");
    let (begin, rest) = message.split_at(message.len() - 14);
    world.write(alice.id, begin);
    world.quiet(alice.id);
    world.quiet(bob.id);
    world.write(alice.id, rest);
    let answer = world.take_one(alice.id);
    assert_eq!((answer.tid(), answer.status()), (tid, Some(200)));
    world.quiet(bob.id);
    world.resume_reading(bob.id);
    let message = world.take_one(bob.id);
    assert_eq!((message.method(), &message.body[..]), ("SEND", &b"hello"[..]));
}

#[test]
fn a_response_that_never_comes_is_told_though_all_was_silent() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    assert_eq!(says(&mut world, &alice, &bob), Some(200));
    assert_eq!(world.take_one(bob.id).method(), "SEND");
    world.quiet(alice.id);
    world.quiet(bob.id);
    world.advance(settings().timeouts.response_timeout + Duration::from_secs(1));
    let report = world.take_one(alice.id);
    assert_eq!((report.method(), report.field("Status")), ("REPORT", "000 408 Request Timeout"));
}

#[test]
fn what_only_asks_takes_no_memory() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    assert_eq!(says(&mut world, &alice, &bob), Some(200));
    hears(&mut world, &bob);
    assert!(world.link(alice.id).has_queue() && world.link(bob.id).has_queue());
    world.quiet_all();
    let has_none = |world: &World| !world.link(alice.id).has_queue() && !world.link(bob.id).has_queue();
    assert!(has_none(&world));
    // What is between messages, an answer to nobody, the rest of a request that goes nowhere.
    world.write(alice.id, "\r\n\r\n");
    let (to, from) = (&bob.relay, &bob.uri);
    world.write(
        bob.id,
        format!("MSRP nobody 481\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------nobody$\r\n"),
    );
    assert!(!world.link(bob.id).websocket_control_waits());
    assert_eq!(world.link(bob.id).backlog(), Default::default());
    assert!(has_none(&world));
}

#[test]
fn of_what_others_write_a_silent_connection_is_woken_once_to_forget_it_again() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let note = |world: &mut World| {
        let (_, message) = sent(world, &alice, &bob, "Failure-Report: no\r\n");
        world.write(alice.id, message);
        assert_eq!(world.take_one(bob.id).method(), "SEND");
    };
    for _ in 0..3 {
        note(&mut world);
        world.quiet_all();
        assert!(!world.link(bob.id).has_queue());
        world.take_wakes(bob.id);
        note(&mut world);
        assert!(world.link(bob.id).has_queue());
        assert_eq!(world.take_wakes(bob.id), 1, "its task has to give that back");
        // Not for each message.
        note(&mut world);
        note(&mut world);
        assert_eq!(world.take_wakes(bob.id), 0);
    }
    // The same where something was left when it was silent.
    let (_, message) = sent(&mut world, &alice, &bob, "Failure-Report: no\r\n");
    let (begin, rest) = message.split_at(message.len() - 14);
    world.write(alice.id, begin);
    world.take_wakes(bob.id);
    world.quiet_all();
    assert!(world.link(bob.id).has_queue(), "a chunk is gathered there");
    world.write(alice.id, rest);
    assert_eq!((world.take_one(bob.id).method(), world.take_wakes(bob.id)), ("SEND", 1));
    world.quiet_all();
    assert!(!world.link(bob.id).has_queue());
}
