//! Where a request may go (RFC 4976 §6.2, §6.4), and what is said about it.

use std::time::Duration;

use tcp_transport::connection::CloseReason;

use super::harness::*;

/// To-Path, From-Path and Message-ID.
fn head(to: &str, from: &str) -> String {
    format!("To-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: m0001\r\n")
}

const PEER: &str = "msrps://peer.test:7777/p1;tcp";

#[test]
fn between_two_clients_of_this_relay_both_uris_move_to_from_path() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for (from, to) in [(&alice, &bob), (&bob, &alice)] {
        world.write(from.id, send("t0001", &(from.paths_to(to) + "Message-ID: m0001\r\n"), "hi", '$'));
        let response = world.take_one(from.id);
        assert_eq!((response.status(), response.tid().as_str()), (Some(200), "t0001"));
        assert_eq!((response.to(), response.from()), (&*from.uri, &*from.relay));

        let message = world.take_one(to.id);
        assert_eq!((message.method(), &*message.body), ("SEND", b"hi".as_slice()));
        assert_eq!(message.to(), to.uri);
        // The URI that was removed last stands first.
        assert_eq!(message.from(), format!("{} {} {}", to.relay, from.relay, from.uri));
        assert_ne!(message.tid(), "t0001");
        assert_eq!(message.tid().len(), 16);

        // The receiver's 200 ends here, its REPORT goes all the way.
        world.write(to.id, respond(&message, "200 OK"));
        world.nothing_for(from.id);
        let report = format!(
            "MSRP r0001 REPORT\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: m0001\r\nByte-Range: 1-2/2\r\n\
             Status: 000 200 OK\r\n-------r0001$\r\n",
            message.from(),
            to.uri
        );
        world.write(to.id, report);
        let report = world.take_one(from.id);
        assert_eq!(
            (report.method(), report.field("Status"), report.range()),
            ("REPORT", "000 200 OK", "1-2/2")
        );
        assert_eq!(report.to(), from.uri);
        assert_eq!(report.from(), format!("{} {} {}", from.relay, to.relay, to.uri));
        assert_ne!(report.tid(), "r0001");
        world.nothing_for(to.id);
    }
    world.advance(Duration::from_secs(100));
    world.nothing_for(alice.id);
    world.nothing_for(bob.id);
}

#[test]
fn the_owner_reaches_anybody_and_the_answers_come_back_the_same_way() {
    let mut world = World::new();
    let alice = world.member("alice");
    world.write(alice.id, send("t0001", &head(&format!("{} {PEER}", alice.relay), &alice.uri), "hi", '$'));
    let dial = world.dial(0);
    assert_eq!(dial.target().unwrap().to_string(), "msrps://peer.test:7777");
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    let peer = world.complete_dial(0, &dial);
    let message = world.take_one(peer);
    assert_eq!((message.to(), message.from()), (PEER, &*format!("{} {}", alice.relay, alice.uri)));
    world.write(peer, respond(&message, "200 OK"));

    // What the peer sends over this connection is of this session.
    world.write(peer, send("t0002", &head(&alice.path(), PEER), "hello", '$'));
    assert_eq!(world.take_one(peer).status(), Some(200));
    assert_eq!(world.take_one(alice.id).body, b"hello");

    // The next message opens no other connection.
    world.write(alice.id, send("t0003", &head(&format!("{} {PEER}", alice.relay), &alice.uri), "again", '$'));
    assert!(world.dials(0).is_empty());
    assert_eq!(world.take_one(peer).body, b"again");
}

#[test]
fn hosts_are_dialled_in_lower_case_and_once() {
    let mut world = World::new();
    let alice = world.member("alice");
    for (tid, uri) in [
        ("t0001", "msrp://PEER.test:2855/p1;tcp"),
        ("t0002", "msrp://peer.TEST:2855/p2;tcp"),
        ("t0003", "msrps://peer.test:2855/p3;tcp"),
    ] {
        world.write(alice.id, send(tid, &head(&format!("{} {uri}", alice.relay), &alice.uri), "hi", '$'));
    }
    let targets: Vec<_> = world.dials(0).iter().map(|link| link.target().unwrap().to_string()).collect();
    assert_eq!(targets, ["msrp://peer.test:2855", "msrps://peer.test:2855"]);
}

/// A relay closes the connection over which it is called by a name it does not know: that must not be
/// one that others use.
#[test]
fn only_auth_goes_to_a_hop_without_a_port_and_over_a_connection_of_its_own() {
    let mut world = World::new();
    let alice = world.member("alice");
    let to = format!("{} msrps://peer.test/p1;tcp", alice.relay);
    world.write(alice.id, send("t0001", &head(&to, &alice.uri), "hi", '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(400));
    for (tid, to) in [("t0002", "msrps://peer.test:2855;tcp"), ("t0003", "msrps://peer.test;tcp")] {
        let paths = format!("To-Path: {} {to}\r\nFrom-Path: {}\r\n", alice.relay, alice.uri);
        world.write(alice.id, format!("MSRP {tid} AUTH\r\n{paths}-------{tid}$\r\n"));
    }
    let targets: Vec<_> = world.dials(0).iter().map(|link| link.target().unwrap().to_string()).collect();
    assert_eq!(targets, ["msrps://peer.test:2855", "msrps://peer.test:2855"]);
}

/// What keeps to the limits grows on its way: the next relay answers, and closes no connection that
/// others share.
#[test]
fn a_head_beyond_the_limits_is_refused_and_one_far_beyond_closes() {
    use crate::msrp::route::MARGIN;
    let limits = settings().limits;
    // To-Path, From-Path, Message-ID and, in `send`, Content-Type are there already.
    const FIELDS: usize = 4;
    const SENT: usize = "MSRP t0001 SEND\r\nContent-Type: text/plain\r\n".len();
    for kind in ["hops", "fields", "bytes"] {
        let (limit, margin) = match kind {
            "hops" => (limits.path_length, MARGIN.path_length),
            "fields" => (limits.headers, MARGIN.headers),
            _ => (limits.head_size, MARGIN.head_size),
        };
        for (size, status) in [
            (limit - 1, Some(200)),
            (limit, Some(200)),
            (limit + 1, Some(400)),
            (limit + margin, Some(400)),
            (limit + margin + 1, None),
        ] {
            let mut world = World::new();
            let (alice, bob) = world.pair();
            let plain = head(&format!("{} {}", alice.relay, bob.path()), &alice.uri);
            let lines = match kind {
                "hops" => plain.replace(&alice.uri, &vec![alice.uri.as_str(); size].join(" ")),
                "fields" => plain + &"X: y\r\n".repeat(size - FIELDS),
                _ => {
                    let room = size - SENT - plain.len() - "X: \r\n".len();
                    plain + &format!("X: {}\r\n", "y".repeat(room))
                }
            };
            world.write(alice.id, send("t0001", &lines, "hi", '$'));
            match status {
                Some(status) => assert_eq!(world.take_one(alice.id).status(), Some(status), "{kind} {size}"),
                None => assert!(matches!(world.closed(alice.id), Some(CloseReason::Protocol(_))), "{kind}"),
            }
            assert_eq!(world.take(bob.id).len(), usize::from(status == Some(200)), "{kind} {size}");
        }
    }
}

#[test]
fn an_ipv6_peer_is_dialled_without_brackets() {
    let mut world = World::new();
    let alice = world.member("alice");
    let to = format!("{} msrp://[2001:DB8::1]:99/p;tcp", alice.relay);
    world.write(alice.id, send("t0001", &head(&to, &alice.uri), "hi", '$'));
    let dial = world.dial(0);
    assert_eq!(&*dial.target().unwrap().host, "2001:db8::1");
    assert_eq!(dial.target().unwrap().to_string(), "msrp://[2001:db8::1]:99");
}

#[test]
fn a_transport_that_cannot_be_opened_is_refused() {
    let mut world = World::new();
    let alice = world.member("alice");
    // A WebSocket client cannot be dialled (RFC 7977 §5.1): it is here, or nowhere.
    for (transport, status) in [("sctp", 403), ("ws", 481), ("WS", 481)] {
        let to = format!("{} msrps://peer.invalid:2855/p;{transport}", alice.relay);
        world.write(alice.id, send("t0001", &head(&to, &alice.uri), "hi", '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(status), "{transport}");
    }
    assert!(world.dials(0).is_empty());
}

#[test]
fn a_stranger_reaches_the_owner_and_nobody_else() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let stranger = world.connect();
    world.write(stranger, send("t0001", &head(&alice.path(), PEER), "hi", '$'));
    assert_eq!(world.take_one(stranger).status(), Some(200));
    assert_eq!(world.take_one(alice.id).body, b"hi");

    // By way of a stranger's session to some other session here.
    let through = format!("{} {} {}", alice.relay, bob.relay, bob.uri);
    world.write(stranger, send("t0002", &head(&through, PEER), "hi", '$'));
    assert_eq!(world.take_one(stranger).status(), Some(403));
    world.nothing_for(bob.id);
    // Whatever next hop the stranger names, it goes to the owner's connection.
    world.write(stranger, send("t0003", &head(&format!("{} {PEER}", alice.relay), PEER), "hi", '$'));
    assert!(world.dials(0).is_empty());
    world.assert_open(stranger);
}

#[test]
fn a_request_for_another_relay_closes_the_connection_and_its_sessions() {
    for (first, method) in [
        ("msrps://other.test:2855/s;tcp", "SEND"),
        ("msrps://relay.test:2857/s;tcp", "SEND"),
        ("msrp://relay.test:2855/s;tcp", "SEND"),
        ("msrps://relay.test/s;tcp", "SEND"),
        ("msrps://relay.test:2855/s;ws", "SEND"),
        ("msrps://other.test:2855/s;tcp", "REPORT"),
        ("msrps://other.test:2855/s;tcp", "NICKNAME"),
        ("msrps://other.test:2855/s;tcp", "AUTH"),
        ("msrps://relay.test/s;tcp", "REPORT"),
    ] {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        let head = head(&format!("{first} {PEER}"), &alice.uri);
        world.write(alice.id, format!("MSRP t0001 {method}\r\n{head}-------t0001$\r\n"));
        assert!(matches!(world.closed(alice.id), Some(CloseReason::Protocol(_))), "{first}");
        world.nothing_for(alice.id);
        assert_eq!(world.relay(0).sessions().len(), 1, "{first}");
        // Nobody reaches it any more.
        world.write(bob.id, send("t0002", &(bob.paths_to(&alice) + "Message-ID: m1\r\n"), "hi", '$'));
        assert_eq!(world.take_one(bob.id).status(), Some(481));
    }
}

#[test]
fn userinfo_and_case_do_not_make_another_relay_and_it_goes_on_under_the_uri_handed_out() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let written = alice.relay.replace("msrps://relay.test", "MSRPS://alice@RELAY.Test");
    let to = format!("{written} {}", bob.path());
    world.write(alice.id, send("t0001", &head(&to, &alice.uri), "hi", '$'));
    let response = world.take_one(alice.id);
    // It calls itself what it was called.
    assert_eq!((response.status(), response.from()), (Some(200), &*written));
    // Clients in the field compare From-Path with Use-Path as text.
    assert_eq!(world.take_one(bob.id).from(), format!("{} {} {}", bob.relay, alice.relay, alice.uri));
}

#[test]
fn a_session_that_is_not_valid_is_answered_481_where_that_is_wanted_and_the_connection_stays() {
    for (wish, answered) in [
        ("", true),
        ("Failure-Report: yes\r\n", true),
        ("Failure-Report: partial\r\n", true),
        ("Failure-Report: no\r\n", false),
    ] {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        let upper = alice.relay.replace(&alice.relay[24..56], &alice.relay[24..56].to_uppercase());
        assert_ne!(upper, alice.relay);
        for session in [
            "msrps://relay.test:2855/none;tcp",
            "msrps://relay.test:2855;tcp",
            "msrps://relay.test:2855/00000000000000000000000000000000;tcp",
            &upper,
            // It was handed out at another listener.
            &alice.relay.replace("msrps://relay.test:2855", "msrp://relay.test:2856"),
        ] {
            let head = head(&format!("{session} {}", bob.path()), &alice.uri) + wish;
            world.write(alice.id, send("t0001", &head, "lost", '$'));
            if answered {
                let response = world.take_one(alice.id);
                assert_eq!(response.status(), Some(481), "{session} {wish}");
                assert_eq!((response.to(), response.from()), (&*alice.uri, session));
            }
            world.nothing_for(alice.id);
            world.nothing_for(bob.id);
            world.assert_open(alice.id);
        }
        // A second URI of ours that is not valid.
        let to = format!("{} msrps://relay.test:2855/none;tcp {}", alice.relay, bob.uri);
        world.write(alice.id, send("t0001", &(head(&to, &alice.uri) + wish), "lost", '$'));
        assert_eq!(world.take(alice.id).len(), usize::from(answered));
        // And the sessions are still good.
        world.write(alice.id, send("t0002", &(alice.paths_to(&bob) + "Message-ID: m2\r\n"), "hi", '$'));
        assert_eq!(world.take_one(bob.id).body, b"hi");
    }
}

#[test]
fn a_session_ends_at_its_expiry() {
    for (millis, status) in [(59_999, 200), (60_000, 481), (60_001, 481)] {
        for direction in ["from", "to"] {
            for sweep in [false, true] {
                let mut world = World::new();
                let bob = world.member("bob");
                let id = world.connect();
                world.write(id, auth_request("t0001", "msrps://relay.test:2855;tcp", &own_uri("alice"), ""));
                let asked = world.take_one(id);
                let asked = msrp_proto::digest::Challenge::parse(asked.field("WWW-Authenticate")).unwrap();
                let value = answer(&asked, "alice", "msrps://relay.test:2855;tcp", 1);
                let lines = format!("Expires: 60\r\nAuthorization: {value}\r\n");
                world.write(
                    id,
                    auth_request("t0002", "msrps://relay.test:2855;tcp", &own_uri("alice"), &lines),
                );
                let relay = world.take_one(id).field("Use-Path").to_owned();
                let alice = Node { id, relay, uri: own_uri("alice") };
                world.advance(Duration::from_millis(millis));
                if sweep {
                    world.relay(0).sweep(world.now);
                    assert_eq!(world.relay(0).sessions().len(), if status == 200 { 2 } else { 1 });
                }
                let (from, to) = if direction == "from" { (&alice, &bob) } else { (&bob, &alice) };
                world.write(from.id, send("t0003", &(from.paths_to(to) + "Message-ID: m1\r\n"), "hi", '$'));
                assert_eq!(world.take_one(from.id).status(), Some(status), "{millis} {direction}");
                world.assert_open(alice.id);
            }
        }
    }
}

#[test]
fn a_clients_session_is_good_on_its_own_connection_only_and_ends_with_it() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    // Somebody else who learnt Alice's URI cannot send as her.
    let thief = world.connect();
    let to = format!("{} {PEER}", alice.relay);
    world.write(thief, send("t0001", &head(&to, &alice.uri), "hi", '$'));
    assert!(world.dials(0).is_empty());
    world.hang_up(alice.id);
    assert_eq!(world.relay(0).sessions().len(), 1);
    let again = world.connect();
    world.write(again, send("t0002", &head(&to, &alice.uri), "hi", '$'));
    assert_eq!(world.take_one(again).status(), Some(481));
    world.write(bob.id, send("t0003", &(bob.paths_to(&alice) + "Message-ID: m1\r\n"), "hi", '$'));
    assert_eq!(world.take_one(bob.id).status(), Some(481));
}

#[test]
fn a_peer_that_connected_to_us_is_answered_over_its_connection() {
    let mut world = World::new();
    let alice = world.member("alice");
    let peer = world.connect_to(0, PLAIN);
    world.write(peer, send("t0001", &head(&alice.path(), PEER), "hi", '$'));
    let message = world.take_one(alice.id);
    assert_eq!(message.from(), format!("{} {PEER}", alice.relay));
    world.write(alice.id, send("t0002", &head(message.from(), &alice.uri), "hello", '$'));
    assert!(world.dials(0).is_empty());
    let messages = world.take(peer);
    assert_eq!(messages[1].body, b"hello");
    assert_eq!((messages[1].to(), messages[1].from()), (PEER, &*format!("{} {}", alice.relay, alice.uri)));

    // When it has gone it must be dialled.
    world.hang_up(peer);
    world.write(alice.id, send("t0003", &head(message.from(), &alice.uri), "hello", '$'));
    assert_eq!(world.dial(0).target().unwrap().to_string(), "msrps://peer.test:7777");
}

#[test]
fn a_second_connection_that_claims_a_session_is_refused_while_the_first_is_open() {
    let mut world = World::new();
    let alice = world.member("alice");
    let (first, second) = (world.connect(), world.connect());
    world.write(first, send("t0001", &head(&alice.path(), PEER), "1", '$'));
    assert_eq!(world.take_one(first).status(), Some(200));
    for (from, wish, answers) in [
        (PEER, "", 1),
        ("msrps://q.test:1/q;tcp", "", 1),
        (PEER, "Failure-Report: partial\r\n", 1),
        (PEER, "Failure-Report: no\r\n", 0),
    ] {
        world.write(second, send("t0002", &(head(&alice.path(), from) + wish), "2", '$'));
        let responses = world.take(second);
        assert_eq!(responses.len(), answers);
        assert!(responses.iter().all(|response| response.status() == Some(506)));
    }
    assert_eq!(world.take(alice.id).len(), 1);
    // The first goes on, and when it has closed the second may.
    world.write(first, send("t0003", &head(&alice.path(), PEER), "3", '$'));
    assert_eq!(world.take(alice.id).len(), 1);
    world.hang_up(first);
    world.write(second, send("t0004", &head(&alice.path(), PEER), "4", '$'));
    assert_eq!(world.take_one(second).status(), Some(200));
    assert_eq!(world.take_one(alice.id).body, b"4");
}

#[test]
fn a_verified_relay_may_use_any_of_its_connections() {
    let mut world = World::new();
    let alice = world.member("alice");
    let relay = verified(&["far.test", "far2.test"]);
    let first = world.connect_with(0, TLS, relay.clone());
    let second = world.connect_with(0, TLS, verified(&["FAR2.test"]));
    let other = world.connect_with(0, TLS, verified(&["else.test"]));
    for (client, status) in [(first, 200), (second, 200), (other, 506), (first, 200)] {
        world.write(client, send("t0001", &head(&alice.path(), PEER), "hi", '$'));
        assert_eq!(world.take_one(client).status(), Some(status));
    }
}

#[test]
fn a_dial_that_has_not_succeeded_does_not_keep_the_peer_out() {
    let mut world = World::new();
    let alice = world.member("alice");
    // The peer is behind a NAT: it can connect to us, and we not to it.
    world.write(alice.id, send("t0001", &head(&format!("{} {PEER}", alice.relay), &alice.uri), "1", '$'));
    let dial = world.dial(0);
    let peer = world.connect();
    world.write(peer, send("t0002", &head(&alice.path(), PEER), "2", '$'));
    assert_eq!(world.take_one(peer).status(), Some(200));
    world.take(alice.id);
    // From now on its connection serves.
    world.write(alice.id, send("t0003", &head(&format!("{} {PEER}", alice.relay), &alice.uri), "3", '$'));
    assert_eq!(world.take_one(peer).body, b"3");
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.fail_dial(0, &dial);
    let report = world.take_one(alice.id);
    assert_eq!((report.method(), report.field("Status")), ("REPORT", "000 408 Request Timeout"));
}

#[test]
fn two_users_behind_one_connection_reach_each_other() {
    let mut world = World::new();
    let gateway = world.connect();
    let alice = world.auth(gateway, "alice");
    let bob = world.auth(gateway, "bob");
    let (a, b) = (own_uri("alice"), own_uri("bob"));
    world.write(gateway, send("t0001", &head(&format!("{alice} {bob} {b}"), &a), "hi", '$'));
    assert!(world.dials(0).is_empty());
    let mut messages = world.take(gateway);
    messages.sort_by_key(Message::status);
    assert_eq!((messages[0].method(), messages[0].to()), ("SEND", &*b));
    assert_eq!(messages[0].from(), format!("{bob} {alice} {a}"));
    assert_eq!(messages[1].status(), Some(200));
    world.write(gateway, respond(&messages[0], "200 OK"));
    world.nothing_for(gateway);
}

#[test]
fn own_uris_in_a_row_are_gone_through_up_to_the_limit() {
    for limit in [2, 8] {
        for uris in [limit - 1, limit, limit + 1] {
            let mut settings = settings();
            settings.limits.own_hops = limit;
            let mut world = World::with(settings);
            let bob = world.connect();
            let hops: Vec<_> = (0..uris).map(|_| world.auth(bob, "bob")).collect();
            let to = format!("{} {}", hops.join(" "), own_uri("bob"));
            let stranger = world.connect();
            world.write(stranger, send("t0001", &head(&to, PEER), "hi", '$'));
            let status = if uris > limit { 403 } else { 200 };
            assert_eq!(world.take_one(stranger).status(), Some(status), "{uris} of {limit}");
            if status == 200 {
                let reversed: Vec<_> = hops.iter().rev().map(String::as_str).collect();
                assert_eq!(world.take_one(bob).from(), format!("{} {PEER}", reversed.join(" ")));
            }
        }
    }
}

#[test]
fn a_loop_through_this_relay_ends() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for hops in [
        vec![&alice.relay; 20],
        vec![&alice.relay, &bob.relay, &alice.relay, &bob.relay],
        vec![&bob.relay, &alice.relay, &bob.relay],
    ] {
        let to: Vec<_> = hops.iter().map(|hop| hop.as_str()).collect();
        let to = format!("{} {}", to.join(" "), bob.uri);
        world.write(alice.id, send("t0001", &head(&to, &alice.uri), "hi", '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(403), "{to}");
        world.nothing_for(bob.id);
    }
}

#[test]
fn without_a_hop_after_this_relay_nothing_is_forwarded() {
    for (method, answers) in [("SEND", 1), ("NICKNAME", 1), ("REPORT", 0)] {
        let mut world = World::new();
        let alice = world.member("alice");
        let head = head(&alice.relay, &alice.uri);
        world.write(alice.id, format!("MSRP t0001 {method}\r\n{head}-------t0001$\r\n"));
        let responses = world.take(alice.id);
        assert_eq!(responses.len(), answers, "{method}");
        assert!(responses.iter().all(|response| response.status() == Some(403)));
        world.assert_open(alice.id);
    }
}

#[test]
fn an_unknown_method_is_forwarded_whole_and_its_response_comes_back() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let lines = "Use-Nickname: \"Al\"\r\nX-Other:  spaced \r\n";
    let head = format!("{}{lines}", alice.paths_to(&bob));
    world.write(
        alice.id,
        format!("MSRP t0001 NICKNAME\r\n{head}Content-Type: a/b\r\n\r\nbody\r\n-------t0001$\r\n"),
    );
    let request = world.take_one(bob.id);
    assert_eq!((request.method(), &*request.body), ("NICKNAME", b"body".as_slice()));
    assert_eq!(request.head.bytes_after_paths(), format!("{lines}Content-Type: a/b\r\n").as_bytes());
    assert_ne!(request.tid(), "t0001");
    world.nothing_for(alice.id);

    let tid = request.tid();
    world.write(
        bob.id,
        format!(
            "MSRP {tid} 425 Nickname reserved\r\nTo-Path: {}\r\nFrom-Path: {}\r\nX-Why: so\r\n-------{tid}$\r\n",
            request.from(),
            bob.uri
        ),
    );
    let response = world.take_one(alice.id);
    assert_eq!((response.tid().as_str(), response.status()), ("t0001", Some(425)));
    assert_eq!(response.head.after_transaction_id(), b"425 Nickname reserved");
    assert_eq!(response.to(), alice.uri);
    assert_eq!(response.from(), format!("{} {} {}", alice.relay, bob.relay, bob.uri));
    assert_eq!(response.field("X-Why"), "so");
    // A second one answers nothing.
    world.write(bob.id, respond(&request, "200 OK"));
    world.nothing_for(alice.id);
}

#[test]
fn an_unknown_method_that_nobody_answers_is_answered_408_in_the_end() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.write(alice.id, format!("MSRP t0001 NICKNAME\r\n{}-------t0001$\r\n", alice.paths_to(&bob)));
    world.advance(Duration::from_millis(29_999));
    world.nothing_for(alice.id);
    world.advance(Duration::from_millis(1));
    let response = world.take_one(alice.id);
    assert_eq!((response.tid().as_str(), response.status()), ("t0001", Some(408)));
    assert_eq!((response.to(), response.from()), (&*alice.uri, &*alice.relay));
}

#[test]
fn a_refused_request_of_another_method_is_answered_along_the_path_and_a_report_never() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let stranger = world.connect();
    let to = format!("msrps://relay.test:2855/none;tcp {}", bob.uri);
    let from = format!("msrps://x.test:1/x;tcp {PEER}");
    world.write(stranger, format!("MSRP t0001 NICKNAME\r\n{}-------t0001$\r\n", head(&to, &from)));
    let response = world.take_one(stranger);
    assert_eq!((response.status(), response.to()), (Some(481), &*from));
    world.write(stranger, format!("MSRP t0002 REPORT\r\n{}-------t0002$\r\n", head(&to, &from)));
    world.nothing_for(stranger);
    // Nor one that arrives.
    world.write(alice.id, format!("MSRP t0003 REPORT\r\n{}Message-ID: m\r\nByte-Range: 1-2/2\r\nStatus: 000 200 OK\r\n-------t0003$\r\n", alice.paths_to(&bob)));
    assert_eq!(world.take_one(bob.id).method(), "REPORT");
    world.advance(Duration::from_secs(60));
    world.nothing_for(alice.id);
}

#[test]
fn an_auth_for_a_relay_behind_this_one_needs_a_session_here() {
    let mut world = World::new();
    let client = world.connect();
    for first in ["msrps://relay.test;tcp", "msrps://alice@relay.test:2855;tcp"] {
        let to = format!("{first} msrps://outer.test:2855;tcp");
        world.write(client, auth_request("t0001", &to, &own_uri("alice"), ""));
        let response = world.take_one(client);
        assert_eq!((response.status(), response.to()), (Some(481), &*own_uri("alice")), "{first}");
        world.assert_open(client);
    }
    assert!(world.dials(0).is_empty());
}

#[test]
fn responses_that_answer_nothing_are_dropped() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for (to, from) in [
        (&alice.relay, &alice.uri),
        (&format!("{} {}", alice.relay, bob.uri), &alice.uri),
        (&"msrps://other.test:1/x;tcp".to_owned(), &alice.uri),
    ] {
        for status in ["200 OK", "481 gone", "999"] {
            world.write(
                alice.id,
                format!("MSRP t0001 {status}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------t0001$\r\n"),
            );
        }
    }
    world.nothing_for(alice.id);
    world.nothing_for(bob.id);
    world.assert_open(alice.id);
}

#[test]
fn a_response_counts_on_the_connection_of_its_request_only() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.write(alice.id, send("t0001", &(alice.paths_to(&bob) + "Message-ID: m1\r\n"), "hi", '$'));
    let message = world.take_one(bob.id);
    world.take(alice.id);
    let stranger = world.connect();
    world.write(stranger, respond(&message, "413 stop"));
    world.nothing_for(alice.id);
    world.write(bob.id, respond(&message, "413 stop"));
    assert_eq!(world.take_one(alice.id).field("Status"), "000 413 Stop Sending");
}

#[test]
fn what_a_send_needs_is_checked() {
    for (lines, status) in [
        ("", 400),
        ("Message-ID: \r\n", 400),
        ("Message-ID: m1\r\nByte-Range: x\r\n", 400),
        ("Message-ID: m1\r\nByte-Range: 0-1/1\r\n", 400),
        ("Message-ID: m1\r\nByte-Range: 4611686018427387905-*/*\r\n", 400),
        ("Message-ID: m1\r\nByte-Range: 18446744073709551615-*/*\r\n", 400),
        ("Message-ID: m1\r\nFailure-Report: maybe\r\n", 400),
        ("Message-ID: m1\r\nSuccess-Report: maybe\r\n", 400),
        ("Message-ID: m1\r\nByte-Range: 4611686018427387904-*/*\r\n", 200),
        ("Message-ID: m1\r\nByte-Range: 1-18446744073709551615/18446744073709551615\r\n", 200),
        ("Message-ID: m1\r\n", 200),
    ] {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        world.write(alice.id, send("t0001", &(alice.paths_to(&bob) + lines), "hi", '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(status), "{lines}");
        assert_eq!(world.take(bob.id).len(), usize::from(status == 200), "{lines}");
    }
    // A stranger to this relay learns nothing but that.
    let mut world = World::new();
    let alice = world.member("alice");
    let head = format!("To-Path: {PEER}\r\nFrom-Path: {}\r\n", alice.uri);
    world.write(alice.id, send("t0001", &head, "hi", '$'));
    world.nothing_for(alice.id);
    assert!(world.closed(alice.id).is_some());
}
