//! Receivers that do not read: who waits, who does not, and how much is held meanwhile.

use std::time::Duration;

use msrp_proto::flag::Flag;
use tcp_transport::connection::CloseReason;

use super::harness::*;
use crate::msrp::outbound::{CONTROL_LIMIT, FILL_TARGET};

/// To-Path, From-Path and Message-ID from a client to one of the sessions of a connection.
fn head(from: &Node, relay: &str, user: &str) -> String {
    format!(
        "To-Path: {} {relay} {}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\nByte-Range: 1-*/*\r\n",
        from.relay,
        own_uri(user),
        from.uri
    )
}

/// A connection with two sessions, to two receivers with a connection each.
struct Shared {
    world: World,
    gateway: Node,
    other: Node,
    slow: Node,
    quick: Node,
}

fn shared(settings: crate::msrp::Settings) -> Shared {
    let mut world = World::with(settings);
    let id = world.connect();
    let (first, second) = (world.auth(id, "alice"), world.auth(id, "alice"));
    let gateway = Node { id, relay: first, uri: own_uri("alice") };
    let other = Node { id, relay: second, uri: own_uri("alice") };
    let (slow, quick) = (world.member("bob"), world.member("carol"));
    Shared { world, gateway, other, slow, quick }
}

#[test]
fn a_source_pauses_at_the_session_buffer_and_no_more_than_that_is_held() {
    for session_buffer in [16 * 1024, 256 * 1024] {
        let mut settings = settings();
        settings.limits.session_buffer = session_buffer;
        let mut world = World::with(settings);
        let (alice, bob) = world.pair();
        world.stop_reading(bob.id, 0);
        world.read_size = 4096;
        let body = content(3_000_000);
        world.write(alice.id, send("t0001", &head(&alice, &bob.relay, "bob"), &body, '$'));
        assert!(world.is_paused(alice.id));
        let taken = body.len() - world.unsent(alice.id);
        let most = session_buffer + FILL_TARGET + 16 * 1024 + 2 * 4096;
        assert!((session_buffer..=most).contains(&taken), "{taken}");
        assert!(world.link(bob.id).queued_bytes() <= most);
        // It stays like that.
        world.advance(Duration::from_secs(29));
        assert_eq!(body.len() - world.unsent(alice.id), taken);
        world.nothing_for(alice.id);
        // And goes on without loss.
        world.resume_reading(bob.id);
        assert!(!world.is_paused(alice.id));
        assert_eq!(world.take_one(bob.id).body, body);
        assert_eq!(world.take_one(alice.id).status(), Some(200));
    }
}

#[test]
fn a_paused_source_resumes_when_half_of_the_buffer_has_gone() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 32 * 1024);
    world.read_size = 4096;
    world.write(alice.id, send("t0001", &head(&alice, &bob.relay, "bob"), content(3_000_000), '$'));
    let mut before = world.unsent(alice.id);
    let mut pauses = 0;
    while before > 0 {
        assert!(world.is_paused(alice.id));
        let mut read = 0;
        while world.unsent(alice.id) == before {
            world.read_some(bob.id, 4096);
            read += 4096;
            assert!(read < 300_000, "it never resumes");
        }
        // Half of the buffer, but for what the wire takes.
        assert!(read >= 128 * 1024 - FILL_TARGET, "it resumes too early: {read}");
        before = world.unsent(alice.id);
        pauses += 1;
    }
    assert!(pauses > 10);
    world.resume_reading(bob.id);
    assert_eq!(world.take_one(bob.id).body, content(3_000_000));
}

#[test]
fn small_messages_to_a_stalled_receiver_are_bounded_with_their_heads() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 0);
    let mut batch = Vec::new();
    for at in 0..20_000 {
        let head = head(&alice, &bob.relay, "bob").replace("m1", &format!("m{at}"));
        batch.extend(send("t0001", &head, "x", '$'));
    }
    world.write(alice.id, batch);
    assert!(world.is_paused(alice.id));
    let held = world.link(bob.id).queued_bytes();
    assert!(held < 256 * 1024 + FILL_TARGET + 64 * 1024, "{held}");
    world.resume_reading(bob.id);
    let ids: Vec<_> =
        world.take(bob.id).iter().map(|message| message.field("Message-ID").to_owned()).collect();
    // As many as may be without a response.
    assert_eq!(ids, (0..16 * 1024).map(|at| format!("m{at}")).collect::<Vec<_>>());
}

#[test]
fn another_session_on_another_connection_flows() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let carol = world.member("carol");
    let dave = world.member("alice");
    world.stop_reading(bob.id, 0);
    world.write(alice.id, send("t0001", &head(&alice, &bob.relay, "bob"), content(3_000_000), '$'));
    assert!(world.is_paused(alice.id));
    world.write(carol.id, send("t0001", &head(&carol, &dave.relay, "alice"), content(3_000_000), '$'));
    assert_eq!(world.take_one(dave.id).body, content(3_000_000));
    assert_eq!(world.take_one(carol.id).status(), Some(200));
}

#[test]
fn on_a_shared_connection_a_stalled_message_ends_and_the_others_go_on() {
    for (wish, errors) in [("", 1), ("Failure-Report: partial\r\n", 1), ("Failure-Report: no\r\n", 0)] {
        let Shared { mut world, gateway, other, slow, quick } = shared(settings());
        world.stop_reading(slow.id, 0);
        let long = head(&gateway, &slow.relay, "bob") + wish;
        world.write(gateway.id, [send_begin("t0001", &long), content(400_000)].concat());
        assert!(world.is_paused(gateway.id));
        world.write_later(gateway.id, [content(100_000), end("t0001", '$').into_bytes()].concat());
        world
            .write_later(gateway.id, send("t0002", &(head(&other, &quick.relay, "carol") + wish), "hi", '$'));
        world.advance(Duration::from_millis(4_999));
        world.nothing_for(gateway.id);
        world.nothing_for(quick.id);
        world.advance(Duration::from_millis(1));
        let responses: Vec<_> =
            world.take(gateway.id).iter().map(|message| (message.tid(), message.status())).collect();
        assert_eq!(responses.iter().filter(|(_, status)| *status == Some(408)).count(), errors, "{wish}");
        assert!(errors == 0 || responses[0] == ("t0001".into(), Some(408)));
        assert_eq!(world.take_one(quick.id).body, b"hi");

        // What comes for the stalled one is refused until some of it has gone.
        world.write(gateway.id, send("t0003", &(head(&gateway, &slow.relay, "bob") + wish), "late", '$'));
        assert!(world.take(gateway.id).iter().all(|response| response.status() == Some(408)));
        assert!(!world.is_paused(gateway.id));
        world.resume_reading(slow.id);
        let message = world.take_one(slow.id);
        assert_eq!(message.flag, Some(Flag::Abort));
        world.write(gateway.id, send("t0004", &(head(&gateway, &slow.relay, "bob") + wish), "new", '$'));
        assert_eq!(world.take_one(slow.id).body, b"new");
    }
}

#[test]
fn the_stall_timeout_is_the_configured_one() {
    let mut settings = settings();
    settings.timeouts.stall_timeout = Duration::from_secs(2);
    let Shared { mut world, gateway, slow, .. } = shared(settings);
    world.stop_reading(slow.id, 0);
    world.write(gateway.id, send("t0001", &head(&gateway, &slow.relay, "bob"), content(3_000_000), '$'));
    world.advance(Duration::from_millis(1_999));
    world.nothing_for(gateway.id);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.take_one(gateway.id).status(), Some(408));
}

#[test]
fn a_message_that_was_answered_before_the_stall_is_kept() {
    let Shared { mut world, gateway, slow, .. } = shared(settings());
    world.stop_reading(slow.id, 0);
    world.write(gateway.id, send("t0001", &head(&gateway, &slow.relay, "bob"), content(400_000), '$'));
    assert_eq!(world.take(gateway.id).len(), usize::from(!world.is_paused(gateway.id)));
    world.write(gateway.id, send("t0002", &head(&gateway, &slow.relay, "bob"), content(400_000), '$'));
    world.advance(Duration::from_secs(6));
    let told = world.take(gateway.id);
    world.resume_reading(slow.id);
    let bodies: Vec<_> =
        world.take(slow.id).iter().map(|message| (message.body.len(), message.flag)).collect();
    let whole = bodies.iter().filter(|(len, flag)| *len == 400_000 && *flag == Some(Flag::Complete)).count();
    let good = told.iter().filter(|message| message.status() == Some(200)).count();
    assert_eq!(whole, good, "{bodies:?}");
}

#[test]
fn on_a_connection_of_one_session_a_stall_ends_nothing_until_send_timeout() {
    // Whether the receiver is a client of this relay, or we connected to it, or it to us.
    for way in ["client", "dialled", "accepted"] {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        let (receiver, to) = match way {
            "client" => (bob.id, format!("{} {}", alice.relay, bob.path())),
            _ => {
                let peer = "msrps://peer.test:7/p;tcp";
                let to = format!("{} {peer}", alice.relay);
                let lines = format!("From-Path: {peer}\r\nMessage-ID: m1\r\n");
                let hello = send("t0000", &format!("To-Path: {}\r\n{lines}", alice.path()), "x", '$');
                let id = if way == "accepted" {
                    world.connect()
                } else {
                    let lines = format!("To-Path: {to}\r\nFrom-Path: {}\r\nMessage-ID: m0\r\n", alice.uri);
                    world.write(alice.id, send("t0000", &lines, "x", '$'));
                    let dial = world.dial(0);
                    world.complete_dial(0, &dial)
                };
                world.write(id, hello);
                (id, to)
            }
        };
        for client in [alice.id, receiver] {
            for message in world.take(client) {
                if message.method() == "SEND" {
                    world.write(client, respond(&message, "200 OK"));
                }
            }
        }
        world.stop_reading(receiver, 0);
        let lines = format!("To-Path: {to}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\n", alice.uri);
        world.write(alice.id, send("t0001", &lines, content(3_000_000), '$'));
        assert!(world.is_paused(alice.id), "{way}");
        world.advance(Duration::from_millis(29_999));
        world.nothing_for(alice.id);
        assert_eq!(world.closed(receiver), None);
        world.advance(Duration::from_millis(1));
        assert_eq!(world.closed(receiver), Some(CloseReason::SendTimeout));
        let told = world.take_one(alice.id);
        assert_eq!((told.status(), told.tid().as_str()), (Some(408), "t0001"), "{way}");
        assert!(!world.is_paused(alice.id));
        world.assert_open(alice.id);
    }
}

#[test]
fn another_deadline_of_a_connection_of_one_session_ends_no_message_either() {
    let mut settings = settings();
    settings.timeouts.response_timeout = Duration::from_secs(10);
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 0);
    world.write(alice.id, send("t0001", &head(&alice, &bob.relay, "bob"), content(3_000_000), '$'));
    // What Alice does not answer has its time on her connection.
    world.write(bob.id, send("t0002", &head(&bob, &alice.relay, "alice"), "hi", '$'));
    assert_eq!(world.take_one(alice.id).body, b"hi");
    world.advance(Duration::from_secs(20));
    world.nothing_for(alice.id);
    world.resume_reading(bob.id);
    let whole: usize = world
        .take(bob.id)
        .iter()
        .filter(|message| message.method() == "SEND")
        .map(|message| message.body.len())
        .sum();
    assert_eq!(whole, 3_000_000);
    assert_eq!(world.take_one(alice.id).status(), Some(200));
}

#[test]
fn a_connection_between_relays_is_shared_by_the_sessions_that_go_over_it() {
    for sessions in [1, 2] {
        let mut world = World::new();
        let relay = world.connect_with(0, TLS, verified(&["inner.test"]));
        let mut own = Vec::new();
        for number in 0..sessions {
            let from = format!("msrps://inner.test:2855/s{number};tcp {}", own_uri("alice"));
            let (session, _) = world.auth_along(relay, "alice", "msrps://relay.test:2855;tcp", &from);
            let relay = session.split(' ').next_back().unwrap().to_owned();
            own.push(Node { id: world.connect(), relay, uri: from });
        }
        let (bob, carol) = (world.member("bob"), world.member("carol"));
        if let Some(second) = own.get(1) {
            world.write(relay, send("t0001", &head(second, &carol.relay, "carol"), "hi", '$'));
            assert_eq!(world.take(carol.id).len(), 1);
        }
        world.stop_reading(bob.id, 0);
        world.take(relay);
        world.write(relay, send("t0002", &head(&own[0], &bob.relay, "bob"), content(3_000_000), '$'));
        assert!(world.is_paused(relay));
        world.advance(Duration::from_secs(6));
        assert_eq!(world.is_paused(relay), sessions == 1);
        assert_eq!(world.take(relay).len(), sessions - 1);
    }
}

#[test]
fn sessions_of_a_relay_that_lead_elsewhere_share_its_connection_too() {
    for sessions in [1, 2] {
        let mut world = World::new();
        let relay = world.connect_with(0, TLS, verified(&["inner.test"]));
        let mut peers = Vec::new();
        for number in 0..sessions {
            let from = format!("msrps://inner.test:2855/s{number};tcp {}", own_uri("alice"));
            let (session, _) = world.auth_along(relay, "alice", "msrps://relay.test:2855;tcp", &from);
            let session = session.split(' ').next_back().unwrap();
            let lines = format!(
                "To-Path: {session} msrps://peer{number}.test:7/p;tcp\r\nFrom-Path: {from}\r\nMessage-ID: m1\r\n"
            );
            world.write(relay, send("t0001", &lines, "hi", '$'));
            world.take(relay);
            let dial = world.dial(0);
            peers.push((world.complete_dial(0, &dial), lines));
        }
        world.stop_reading(peers[0].0, 0);
        world.take(relay);
        world.write(relay, send("t0002", &peers[0].1, content(3_000_000), '$'));
        assert!(world.is_paused(relay));
        world.advance(Duration::from_secs(6));
        assert_eq!(world.is_paused(relay), sessions == 1);
        assert_eq!(world.take(relay).len(), sessions - 1);
    }
}

#[test]
fn the_send_timeout_is_the_configured_one_and_runs_from_the_last_byte_taken() {
    let mut settings = settings();
    settings.timeouts.send_timeout = Duration::from_secs(7);
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 20_000);
    world.write(alice.id, send("t0001", &head(&alice, &bob.relay, "bob"), content(3_000_000), '$'));
    for _ in 0..5 {
        world.advance(Duration::from_millis(6_999));
        world.read_some(bob.id, 20_000);
        world.assert_open(bob.id);
    }
    world.advance(Duration::from_millis(6_999));
    world.assert_open(bob.id);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.closed(bob.id), Some(CloseReason::SendTimeout));
}

#[test]
fn a_receiver_that_is_slow_but_reads_is_never_given_up() {
    for alone in [true, false] {
        let Shared { mut world, gateway, other, slow, quick } = shared(settings());
        let from = if alone { world.member("alice") } else { gateway.clone() };
        world.stop_reading(slow.id, 40_000);
        let body = content(1_000_000);
        world.write(from.id, send("t0001", &head(&from, &slow.relay, "bob"), &body, '$'));
        for _ in 0..60 {
            world.advance(Duration::from_secs(2));
            world.read_some(slow.id, 40_000);
        }
        world.resume_reading(slow.id);
        if alone {
            assert_eq!(world.take_one(slow.id).body, body);
        }
        world.write(other.id, send("t0002", &head(&other, &quick.relay, "carol"), "hi", '$'));
        assert_eq!(world.take_one(quick.id).body, b"hi");
    }
}

#[test]
fn a_peer_that_does_not_read_its_answers_is_not_read_from() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.stop_reading(alice.id, 0);
    let refused = "To-Path: msrps://relay.test:2855/none;tcp msrps://x.test:1/x;tcp\r\nFrom-Path: msrps://y.test:1/y;tcp\r\nMessage-ID: m1\r\n";
    world.write(alice.id, send("t0001", refused, "x", '$').repeat(20_000));
    assert!(world.is_paused(alice.id));
    let held = world.link(alice.id).queued_bytes();
    assert!(held <= 2 * (CONTROL_LIMIT + FILL_TARGET), "{held}");
    // Nobody else is held up.
    world.write(bob.id, send("t0001", refused, "x", '$'));
    assert_eq!(world.take_one(bob.id).status(), Some(481));
    world.resume_reading(alice.id);
    assert!(!world.is_paused(alice.id));
    assert_eq!(world.take(alice.id).len(), 20_000);
}

#[test]
fn requests_other_than_send_pause_their_source_when_they_pile_up() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 0);
    let report = format!(
        "MSRP t0001 REPORT\r\n{}Message-ID: m1\r\nStatus: 000 200 OK\r\n-------t0001$\r\n",
        alice.paths_to(&bob)
    );
    world.write(alice.id, report.repeat(10_000));
    assert!(world.is_paused(alice.id));
    let held = world.link(bob.id).queued_bytes();
    assert!(held <= 2 * (CONTROL_LIMIT + FILL_TARGET), "{held}");
    world.resume_reading(bob.id);
    assert!(!world.is_paused(alice.id));
    assert_eq!(world.take(bob.id).len(), 10_000);
}

#[test]
fn on_a_shared_connection_requests_that_pile_up_are_refused_and_the_others_go_on() {
    let Shared { mut world, gateway, other, slow, quick } = shared(settings());
    world.stop_reading(slow.id, 0);
    let request =
        |method: &str| format!("MSRP t0001 {method}\r\n{}-------t0001$\r\n", gateway.paths_to(&slow));
    world.read_size = 4096;
    world.write(gateway.id, request("REPORT").repeat(1_500));
    assert!(world.is_paused(gateway.id));
    world.write_later(gateway.id, request("NICKNAME"));
    world.write_later(gateway.id, send("t0002", &head(&other, &quick.relay, "carol"), "hi", '$'));
    world.advance(Duration::from_millis(4_999));
    world.nothing_for(quick.id);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.take_one(quick.id).body, b"hi");
    let statuses: Vec<_> =
        world.take(gateway.id).iter().map(|message| (message.tid(), message.status())).collect();
    assert_eq!(statuses, [("t0001".into(), Some(408)), ("t0002".into(), Some(200))]);
    assert!(world.link(slow.id).queued_bytes() <= 2 * (CONTROL_LIMIT + FILL_TARGET));
    // When they have gone, others may follow.
    world.resume_reading(slow.id);
    world.take(slow.id);
    world.write(gateway.id, request("REPORT"));
    assert_eq!(world.take_one(slow.id).method(), "REPORT");
}

#[test]
fn a_connection_that_is_still_being_opened_holds_no_more_than_an_open_one() {
    let mut world = World::new();
    let alice = world.member("alice");
    let lines = format!(
        "To-Path: {} msrps://peer.test:7/p;tcp\r\nFrom-Path: {}\r\nMessage-ID: m1\r\n",
        alice.relay, alice.uri
    );
    world.write(alice.id, send("t0001", &lines, content(1_000_000), '$'));
    assert!(world.is_paused(alice.id));
    let dial = world.dial(0);
    assert!(dial.queued_bytes() < 256 * 1024 + 2 * FILL_TARGET);
    let peer = world.complete_dial(0, &dial);
    assert_eq!(world.take_one(peer).body, content(1_000_000));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
}

#[test]
fn so_many_sends_may_be_unanswered_and_not_one_more() {
    const MOST: usize = crate::msrp::transactions::MAX_TRANSACTIONS;
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let one = send("t0001", &head(&alice, &bob.relay, "bob"), "x", '$');
    world.write(alice.id, one.repeat(MOST + 1));
    let received = world.take(bob.id);
    assert_eq!(received.len(), MOST);
    assert_eq!(world.take(alice.id).len(), MOST + 1);
    // Neither does a request of another kind go, and that is told.
    world.write(alice.id, format!("MSRP t0002 NICKNAME\r\n{}-------t0002$\r\n", alice.paths_to(&bob)));
    assert_eq!(world.take_one(alice.id).status(), Some(408));
    // A response makes room for one.
    world.write(bob.id, respond(&received[7], "200 OK"));
    assert_eq!(world.take_one(bob.id).body, b"x");
    // And when their time is over there is room for all.
    world.advance(Duration::from_secs(31));
    assert_eq!(world.take(alice.id).len(), MOST);
    world.write(alice.id, one);
    assert_eq!(world.take(bob.id).len(), 1);
}

#[test]
fn so_many_bytes_are_remembered_of_unanswered_sends_and_no_more() {
    const MOST: usize = crate::msrp::transactions::MAX_REMEMBERED_BYTES;
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let long = format!("X-Long: {}\r\n", "x".repeat(10_000));
    let one = send("t0001", &(head(&alice, &bob.relay, "bob") + &long), "x", '$');
    // Each is remembered with its head, which is somewhat longer than the long line.
    let fits = MOST / 10_500..=MOST / 10_000 + 1;
    world.write(alice.id, one.repeat(fits.end() + 10));
    let received = world.take(bob.id);
    assert!(fits.contains(&received.len()), "{}", received.len());
    world.write(bob.id, respond(&received[0], "200 OK"));
    assert_eq!(world.take(bob.id).len(), 1);
}

/// The relay's settings with these limits, as its configuration file says them.
fn limited(max_chunks: usize) -> crate::msrp::Settings {
    let text = format!(
        "domain: relay.test\nlisteners: [{{uri: 'msrp://127.0.0.1:2855'}}]\n\
         auth: {{allow_auth_without_tls: true, users: {{u: {{password: p}}}}}}\n\
         limits: {{async_max_postponed_chunks: {max_chunks}}}\n"
    );
    let config = crate::config::Config::parse(&text, std::path::Path::new("."), "test.yaml").unwrap();
    crate::msrp::Settings { limits: config.limits, ..settings() }
}

#[test]
fn chunks_that_wait_in_a_lane_are_counted_below_at_and_above_async_max_postponed_chunks() {
    const MOST: usize = 10;
    for (sent, pauses) in [(MOST - 2, false), (MOST - 1, true), (MOST, true)] {
        let mut world = World::with(limited(MOST));
        let (alice, bob) = world.pair();
        world.stop_reading(bob.id, 0);
        // It fills the wire, but for its end-line: that counts as one of those that wait.
        world.write(alice.id, send("t0000", &head(&alice, &bob.relay, "bob"), content(FILL_TARGET), '$'));
        let small = send("t0001", &head(&alice, &bob.relay, "bob"), "x", '$');
        world.write(alice.id, small.repeat(sent));
        assert_eq!(world.is_paused(alice.id), pauses, "{sent}");
        // Those that were read have their answers.
        assert_eq!(world.take(alice.id).len(), (1 + sent).min(MOST));
        world.resume_reading(bob.id);
        assert!(!world.is_paused(alice.id));
        assert_eq!(world.take(bob.id).len(), 1 + sent);
    }
}

#[test]
fn a_source_at_async_max_postponed_chunks_reads_on_when_half_of_them_have_gone() {
    let mut world = World::with(limited(10));
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 0);
    // One on the wire, ten behind it, four that are not read.
    let one = send("t0000", &head(&alice, &bob.relay, "bob"), content(20_000), '$');
    world.write(alice.id, one.repeat(15));
    assert!(world.is_paused(alice.id));
    let before = world.link(bob.id).queued_bytes();
    let mut gone = 0;
    while world.is_paused(alice.id) {
        gone = before - world.link(bob.id).queued_bytes();
        world.read_some(bob.id, 20_000);
        world.socket_takes(bob.id, 1000);
    }
    // Of the eleven, the wire takes some three ahead, and more than five were there until then.
    assert!((2 * 20_000..6 * 20_000).contains(&gone), "{gone}");
    world.resume_reading(bob.id);
    assert_eq!(world.take(bob.id).len(), 15);
}

#[test]
fn control_messages_that_wait_are_counted_below_at_and_above_async_max_postponed_chunks() {
    const MOST: usize = 10;
    for (sent, pauses) in [(MOST - 1, false), (MOST, true), (MOST + 1, true)] {
        let mut world = World::with(limited(MOST));
        let (alice, bob) = world.pair();
        world.stop_reading(bob.id, 0);
        // What fills the wire does not wait as control any more.
        let wall = head(&alice, &bob.relay, "bob") + "Failure-Report: no\r\n";
        world.write(alice.id, send("t0000", &wall, content(FILL_TARGET), '$'));
        let report = format!(
            "MSRP t0001 REPORT\r\n{}Message-ID: m1\r\nStatus: 000 200 OK\r\n-------t0001$\r\n",
            alice.paths_to(&bob)
        );
        world.write(alice.id, report.repeat(sent));
        assert_eq!(world.is_paused(alice.id), pauses, "{sent}");
        world.resume_reading(bob.id);
        assert!(!world.is_paused(alice.id));
        assert_eq!(world.take(bob.id).len(), 1 + sent);
    }
}
