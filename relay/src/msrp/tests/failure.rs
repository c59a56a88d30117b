//! What is said, and to whom, when something does not arrive (RFC 4976 §6.4.1, §6.4.3).

use std::time::Duration;

use msrp_proto::flag::Flag;
use tcp_transport::connection::CloseReason;

use super::harness::*;

const PEER: &str = "msrps://peer.test:7777/p1;tcp";
/// Failure-Report, and whether errors are told, and whether success is.
const WISHES: [(&str, bool, bool); 4] = [
    ("", true, true),
    ("Failure-Report: yes\r\n", true, true),
    ("Failure-Report: partial\r\n", true, false),
    ("Failure-Report: no\r\n", false, false),
];

fn to_peer(from: &Node, lines: &str) -> String {
    format!("To-Path: {} {PEER}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\n{lines}", from.relay, from.uri)
}

fn assert_report(report: &Message, from: &Node, status: &str, range: &str) {
    assert_eq!((report.method(), report.field("Status"), report.range()), ("REPORT", status, range));
    assert_eq!((report.to(), report.from(), report.field("Message-ID")), (&*from.uri, &*from.relay, "m1"));
}

#[test]
fn what_was_answered_and_cannot_be_sent_is_reported() {
    for (wish, errors, success) in WISHES {
        let mut world = World::new();
        let alice = world.member("alice");
        world.write(
            alice.id,
            send("t0001", &to_peer(&alice, &format!("Byte-Range: 3-7/9\r\n{wish}")), "hello", '+'),
        );
        let dial = world.dial(0);
        assert_eq!(world.take(alice.id).len(), usize::from(success), "{wish}");
        world.fail_dial(0, &dial);
        let reports = world.take(alice.id);
        assert_eq!(reports.len(), usize::from(errors), "{wish}");
        for report in &reports {
            assert_report(report, &alice, "000 408 Request Timeout", "3-7/9");
        }
        world.assert_open(alice.id);
    }
}

#[test]
fn a_report_goes_the_whole_way_back() {
    let mut world = World::new();
    let alice = world.member("alice");
    // Alice is behind something whose URI she puts after her own.
    let from = format!("{} msrps://behind.test:1/b;tcp", alice.uri);
    let head = format!("To-Path: {} {PEER}\r\nFrom-Path: {from}\r\nMessage-ID: m1\r\n", alice.relay);
    world.write(alice.id, send("t0001", &head, "hello", '$'));
    assert_eq!(world.take_one(alice.id).to(), alice.uri);
    let dial = world.dial(0);
    world.fail_dial(0, &dial);
    let report = world.take_one(alice.id);
    assert_eq!((report.to(), report.from()), (&*from, &*alice.relay));
    assert_eq!(report.range(), "1-5/*");
}

#[test]
fn what_was_not_answered_and_cannot_be_sent_is_answered_with_the_error() {
    for (wish, errors, _) in WISHES {
        let mut world = World::new();
        let alice = world.member("alice");
        world.write(alice.id, [send_begin("t0001", &to_peer(&alice, wish)), content(10_000)].concat());
        let dial = world.dial(0);
        world.fail_dial(0, &dial);
        let responses = world.take(alice.id);
        assert_eq!(responses.len(), usize::from(errors), "{wish}");
        for response in &responses {
            assert_eq!((response.status(), response.tid().as_str()), (Some(408), "t0001"));
            assert_eq!((response.to(), response.from()), (&*alice.uri, &*alice.relay));
        }
        // The rest is thrown away, without another answer or dial.
        world.write(alice.id, [content(10_000), end("t0001", '$').into_bytes()].concat());
        world.nothing_for(alice.id);
        assert!(world.dials(0).is_empty());
        world.assert_open(alice.id);
    }
}

#[test]
fn a_dial_that_fails_at_once_is_answered_408_for_every_message() {
    for (wish, errors, _) in WISHES {
        let mut world = World::new();
        let alice = world.member("alice");
        world.refuse_dials(0);
        for tid in ["t0001", "t0002"] {
            world.write(alice.id, send(tid, &to_peer(&alice, wish), "hello", '$'));
            let responses = world.take(alice.id);
            assert_eq!(responses.len(), usize::from(errors), "{wish}");
            assert!(responses.iter().all(|response| response.status() == Some(408) && response.tid() == tid));
        }
        let head = to_peer(&alice, "");
        world.write(alice.id, format!("MSRP t0003 NICKNAME\r\n{head}-------t0003$\r\n"));
        assert_eq!(world.take_one(alice.id).status(), Some(408));
    }
}

#[test]
fn every_chunk_that_waits_for_a_failed_dial_is_accounted_for() {
    let mut world = World::new();
    let alice = world.member("alice");
    for at in 0..10 {
        let range = format!("Byte-Range: {0}-{0}/*\r\n", at + 1);
        world.write(alice.id, send(&format!("t{at:04}"), &to_peer(&alice, &range), "x", '+'));
    }
    assert_eq!(world.take(alice.id).len(), 10);
    let dial = world.dial(0);
    world.fail_dial(0, &dial);
    let mut ranges: Vec<_> = world.take(alice.id).iter().map(|report| report.range().to_owned()).collect();
    ranges.sort_by_key(String::len);
    assert_eq!(ranges, (1..=10).map(|at| format!("{at}-{at}/*")).collect::<Vec<_>>());
}

#[test]
fn an_answer_that_does_not_come_is_reported_after_30_seconds() {
    for (wish, _, timed) in WISHES {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        let head = format!("{}Message-ID: m1\r\n{wish}", alice.paths_to(&bob));
        world.write(alice.id, send("t0001", &head, "hello", '$'));
        assert_eq!(world.take(alice.id).len(), usize::from(timed));
        assert_eq!(world.take_one(bob.id).body, b"hello");
        world.advance(Duration::from_millis(29_999));
        world.nothing_for(alice.id);
        world.advance(Duration::from_millis(1));
        let reports = world.take(alice.id);
        assert_eq!(reports.len(), usize::from(timed), "{wish}");
        for report in &reports {
            assert_report(report, &alice, "000 408 Request Timeout", "1-5/*");
        }
        world.advance(Duration::from_secs(100));
        world.nothing_for(alice.id);
    }
}

#[test]
fn the_response_timeout_is_the_configured_one() {
    let mut settings = settings();
    settings.timeouts.response_timeout = Duration::from_secs(4);
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    world.write(alice.id, send("t0001", &(alice.paths_to(&bob) + "Message-ID: m1\r\n"), "hello", '$'));
    world.take(alice.id);
    world.advance(Duration::from_millis(3_999));
    world.nothing_for(alice.id);
    world.advance(Duration::from_millis(1));
    assert_report(&world.take_one(alice.id), &alice, "000 408 Request Timeout", "1-5/*");
}

#[test]
fn the_30_seconds_run_from_the_last_byte_that_was_written() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    // All but the end of it is taken at once.
    world.stop_reading(bob.id, 20_000);
    world
        .write(alice.id, send("t0001", &(alice.paths_to(&bob) + "Message-ID: m1\r\n"), content(40_000), '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.advance(Duration::from_secs(20));
    world.resume_reading(bob.id);
    assert_eq!(world.take_one(bob.id).body, content(40_000));
    world.advance(Duration::from_millis(29_999));
    world.nothing_for(alice.id);
    world.advance(Duration::from_millis(1));
    assert_report(&world.take_one(alice.id), &alice, "000 408 Request Timeout", "1-40000/*");
}

#[test]
fn each_message_has_its_own_30_seconds() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let mut unanswered = Vec::new();
    for at in 0..10 {
        let head = format!("{}Message-ID: m1\r\nByte-Range: {1}-{1}/*\r\n", alice.paths_to(&bob), at + 1,);
        world.write(alice.id, send("t0001", &head, "x", '+'));
        assert_eq!(world.take_one(alice.id).status(), Some(200));
        let message = world.take_one(bob.id);
        if at % 3 == 0 {
            unanswered.push((world.now, format!("{0}-{0}/*", at + 1)));
        } else {
            world.write(bob.id, respond(&message, "200 OK"));
        }
        world.advance(Duration::from_secs(2));
    }
    for (sent, range) in unanswered {
        world.advance(sent + Duration::from_millis(29_999) - world.now);
        world.nothing_for(alice.id);
        world.advance(Duration::from_millis(1));
        assert_report(&world.take_one(alice.id), &alice, "000 408 Request Timeout", &range);
    }
}

#[test]
fn an_error_from_the_next_hop_becomes_a_report_with_its_code() {
    for (wish, errors, success) in WISHES {
        for code in [400, 403, 408, 413, 415, 423, 481, 501, 506, 599] {
            let mut world = World::new();
            let (alice, bob) = world.pair();
            let head = format!("{}Message-ID: m1\r\nByte-Range: 1-5/5\r\n{wish}", alice.paths_to(&bob));
            world.write(alice.id, send("t0001", &head, "hello", '$'));
            assert_eq!(world.take(alice.id).len(), usize::from(success));
            let message = world.take_one(bob.id);
            world.write(bob.id, respond(&message, &format!("{code} whatever it says")));
            let reports = world.take(alice.id);
            assert_eq!(reports.len(), usize::from(errors), "{wish}");
            for report in &reports {
                let status = report.field("Status").to_owned();
                assert!(status.starts_with(&format!("000 {code}")), "{status}");
                assert_report(report, &alice, &status, "1-5/5");
            }
            // Only once.
            world.write(bob.id, respond(&message, "413 still"));
            world.advance(Duration::from_secs(60));
            world.nothing_for(alice.id);
        }
    }
}

#[test]
fn an_error_within_a_chunk_ends_it_on_both_sides() {
    for (wish, errors, _) in WISHES {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        let head = format!("{}Message-ID: m1\r\nByte-Range: 1-*/*\r\n{wish}", alice.paths_to(&bob));
        world.write(alice.id, [send_begin("t0001", &head), content(5000)].concat());
        let coming = world.coming(bob.id).unwrap();
        world.write(bob.id, respond(&coming, "413 enough"));
        let message = world.take_one(bob.id);
        assert_eq!((message.flag, message.tid()), (Some(Flag::Abort), coming.tid()));
        let responses = world.take(alice.id);
        assert_eq!(responses.len(), usize::from(errors), "{wish}");
        assert!(responses.iter().all(|response| response.status() == Some(413) && response.tid() == "t0001"));
        world.write(alice.id, [content(5000), end("t0001", '$').into_bytes()].concat());
        world.nothing_for(alice.id);
        world.nothing_for(bob.id);
        // The next message passes.
        world.write(alice.id, send("t0002", &head.replace("m1", "m2"), "hi", '$'));
        assert_eq!(world.take_one(bob.id).body, b"hi");
    }
}

#[test]
fn an_error_within_a_chunk_that_has_come_whole_reports_all_that_is_dropped() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 1000);
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-200000/200000\r\n";
    world.write(alice.id, send("t0001", &head, content(200_000), '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.read_some(bob.id, 1000);
    let coming = world.coming(bob.id).unwrap();
    world.write(bob.id, respond(&coming, "413 enough"));
    assert_report(&world.take_one(alice.id), &alice, "000 413 Stop Sending", "1-200000/200000");
    world.resume_reading(bob.id);
    let message = world.take_one(bob.id);
    assert_eq!(message.flag, Some(Flag::Abort));
    assert!(message.body.len() < 100_000);
}

#[test]
fn an_early_200_is_no_error_and_ends_the_wait() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-*/*\r\n";
    world.write(alice.id, [send_begin("t0001", &head), content(5000)].concat());
    let coming = world.coming(bob.id).unwrap();
    world.write(bob.id, respond(&coming, "200 early"));
    world.write(alice.id, end("t0001", '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    assert_eq!(world.take_one(bob.id).flag, Some(Flag::Complete));
    world.advance(Duration::from_secs(60));
    world.nothing_for(alice.id);
}

#[test]
fn a_next_hop_that_is_lost_within_a_chunk_is_answered_or_reported() {
    for (wish, errors, success) in WISHES {
        for whole in [false, true] {
            for lost in ["closes", "breaks", "takes nothing"] {
                let mut world = World::new();
                let (alice, bob) = world.pair();
                world.stop_reading(bob.id, 1000);
                let head = format!("{}Message-ID: m1\r\nByte-Range: 11-*/*\r\n{wish}", alice.paths_to(&bob));
                world.write(alice.id, [send_begin("t0001", &head), content(40_000)].concat());
                if whole {
                    world.write(alice.id, end("t0001", '$'));
                    assert_eq!(world.take(alice.id).len(), usize::from(success));
                }
                let code = match lost {
                    "closes" => {
                        world.hang_up(bob.id);
                        "481"
                    }
                    "breaks" => {
                        world.break_socket(bob.id);
                        world.read_some(bob.id, 1);
                        "481"
                    }
                    _ => {
                        world.advance(Duration::from_secs(30));
                        assert_eq!(world.closed(bob.id), Some(CloseReason::SendTimeout));
                        "408"
                    }
                };
                assert!(world.closed(bob.id).is_some());
                let told = world.take(alice.id);
                assert_eq!(told.len(), usize::from(errors), "{wish} {whole} {lost}");
                for message in &told {
                    if whole {
                        let status = message.field("Status").to_owned();
                        assert!(status.starts_with(&format!("000 {code}")), "{status}");
                        assert_report(message, &alice, &status, "11-40010/*");
                    } else {
                        assert_eq!(message.status().map(|status| status.to_string()).as_deref(), Some(code));
                        assert_eq!(message.tid(), "t0001");
                    }
                }
                if !whole {
                    world.write(alice.id, [content(100), end("t0001", '$').into_bytes()].concat());
                    world.nothing_for(alice.id);
                }
                world.assert_open(alice.id);
            }
        }
    }
}

#[test]
fn partial_messages_that_were_sent_are_not_reported_when_the_connection_ends() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nFailure-Report: partial\r\n";
    for _ in 0..10 {
        world.write(alice.id, send("t0001", &head, "hi", '$'));
    }
    assert_eq!(world.take(bob.id).len(), 10);
    // One that was not: it is told.
    world.stop_reading(bob.id, 0);
    world.write(alice.id, send("t0002", &head, "lost", '$'));
    world.nothing_for(alice.id);
    world.hang_up(bob.id);
    assert_report(&world.take_one(alice.id), &alice, "000 481 No Such Session", "1-4/*");
}

#[test]
fn a_sender_that_vanishes_within_a_chunk_leaves_an_abandoned_one() {
    for (declared, sent) in
        [("1-*/*", 5000), ("1-1000/1000", 500), ("1-100000/100000", 50_000), ("1-*/10", 0)]
    {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        let head = format!("{}Message-ID: m1\r\nByte-Range: {declared}\r\n", alice.paths_to(&bob));
        world.write(alice.id, [send_begin("t0001", &head), content(sent)].concat());
        world.hang_up(alice.id);
        let message = world.take_one(bob.id);
        assert_eq!((message.flag, &message.body), (Some(Flag::Abort), &content(sent)), "{declared}");
        // It does not claim to end where it does not.
        assert!(message.range().starts_with("1-*/"), "{}", message.range());
        world.assert_open(bob.id);
        world.write(bob.id, respond(&message, "200 OK"));
        world.advance(Duration::from_secs(60));
        world.nothing_for(bob.id);
    }
}

#[test]
fn a_sender_that_writes_garbage_within_a_chunk_leaves_an_abandoned_one_and_its_neighbours_alone() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let carol = world.member("carol");
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
    world.write(alice.id, [send("t0001", &head, "hi", '$'), b"GET / HTTP/1.1\r\n\r\n".to_vec()].concat());
    assert!(matches!(world.closed(alice.id), Some(CloseReason::Protocol(_))));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    assert_eq!(world.take_one(bob.id).body, b"hi");
    let head = carol.paths_to(&bob) + "Message-ID: m1\r\n";
    world.write(carol.id, send("t0002", &head, "hi", '$'));
    assert_eq!(world.take_one(bob.id).body, b"hi");
}

#[test]
fn an_owner_that_vanishes_before_auth_is_done_leaves_nothing() {
    let mut world = World::new();
    let client = world.connect();
    world.write(client, auth_request("t0001", "msrps://relay.test:2855;tcp", &own_uri("alice"), ""));
    world.hang_up(client);
    assert!(world.relay(0).sessions().is_empty());
    // Nor one whose AUTH through us is under way.
    let alice = world.member("alice");
    let to = format!("{} msrps://outer.test:2855;tcp", alice.relay);
    world.write(alice.id, auth_request("t0002", &to, &alice.uri, ""));
    let dial = world.dial(0);
    world.hang_up(alice.id);
    let outer = world.complete_dial(0, &dial);
    let request = world.take_one(outer);
    world.write(
        outer,
        format!(
            "MSRP {0} 401 no\r\nTo-Path: {1}\r\nFrom-Path: msrps://outer.test:2855;tcp\r\n-------{0}$\r\n",
            request.tid(),
            request.from()
        ),
    );
    world.assert_open(outer);
    assert!(world.relay(0).sessions().is_empty());
}

#[test]
fn an_owner_that_vanishes_fails_what_is_sent_to_it() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
    world.write(alice.id, send("t0001", &head, "whole", '$'));
    world.write(alice.id, [send_begin("t0002", &head), content(5000)].concat());
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.hang_up(bob.id);
    let mut told = world.take(alice.id);
    told.sort_by_key(Message::status);
    assert_report(&told[0], &alice, "000 481 No Such Session", "1-5/*");
    assert_eq!((told[1].status(), told[1].tid().as_str()), (Some(481), "t0002"));
    assert_eq!(told.len(), 2);
}

#[test]
fn a_session_that_expires_within_a_chunk_ends_it() {
    for (wish, errors, _) in WISHES {
        for (end_comes, late) in [(false, false), (true, false), (false, true)] {
            let mut world = World::new();
            let (alice, bob) = world.pair();
            let head = format!("{}Message-ID: m1\r\nByte-Range: 1-*/*\r\n{wish}", alice.paths_to(&bob));
            // Nothing else happens, so that only the chunk knows the time.
            world.advance(Duration::from_secs(1799));
            world.write(alice.id, [send_begin("t0001", &head), content(5000)].concat());
            world.advance(Duration::from_millis(999));
            assert_eq!(world.coming(bob.id).unwrap().flag, None);
            if late {
                // Its sender says nothing more.
                world.advance(Duration::from_millis(1));
            } else {
                world.now += Duration::from_millis(1);
                world.write(alice.id, content(10));
                if end_comes {
                    world.write(alice.id, end("t0001", '$'));
                }
            }
            assert_eq!(world.take_one(bob.id).flag, Some(Flag::Abort), "{wish} {end_comes} {late}");
            let responses = world.take(alice.id);
            assert_eq!(responses.len(), usize::from(errors));
            assert!(
                responses.iter().all(|response| response.status() == Some(481) && response.tid() == "t0001")
            );
            if !end_comes {
                world.write(alice.id, end("t0001", '$'));
            }
            world.nothing_for(alice.id);
            world.nothing_for(bob.id);
        }
    }
}

#[test]
fn a_chunk_that_was_refused_already_is_not_answered_again_for_what_its_receiver_says() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
    world.advance(Duration::from_secs(1795));
    world.write(alice.id, [send_begin("t0001", &head), content(10)].concat());
    let coming = world.coming(bob.id).unwrap();
    // The end of the chunk stays in the queue behind what the receiver does not take.
    world.stop_reading(bob.id, 0);
    world.write(alice.id, content(10));
    world.advance(Duration::from_secs(5));
    assert_eq!(world.take_one(alice.id).status(), Some(481));
    world.write(bob.id, respond(&coming, "413 enough"));
    world.nothing_for(alice.id);
    world.resume_reading(bob.id);
    assert_eq!(world.take_one(bob.id).flag, Some(Flag::Abort));
}

#[test]
fn the_earlier_of_two_sessions_counts() {
    let mut world = World::new();
    let alice = world.member("alice");
    world.advance(Duration::from_secs(100));
    let bob = world.member("bob");
    let head = bob.paths_to(&alice) + "Message-ID: m1\r\n";
    world.advance(Duration::from_secs(1699));
    world.write(bob.id, [send_begin("t0001", &head), content(5000)].concat());
    world.advance(Duration::from_secs(1));
    assert_eq!(world.take_one(bob.id).status(), Some(481));
    assert_eq!(world.take_one(alice.id).flag, Some(Flag::Abort));
}

#[test]
fn an_interrupted_chunk_reports_each_fragment_by_its_own_range() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-*/20\r\n";
    world.write(alice.id, [send_begin("t0001", &head), b"hello ".to_vec()].concat());
    world.write(bob.id, send("t0002", &(bob.paths_to(&alice) + "Message-ID: m2\r\n"), "x", '$'));
    let first = world.take(bob.id).remove(0);
    world.write(alice.id, [b"world".to_vec(), end("t0001", '+').into_bytes()].concat());
    let second = world.take_one(bob.id);
    world.take(alice.id);
    world.write(bob.id, respond(&second, "413 no"));
    assert_report(&world.take_one(alice.id), &alice, "000 413 Stop Sending", "6-11/20");
    world.write(bob.id, respond(&first, "413 no"));
    assert_report(&world.take_one(alice.id), &alice, "000 413 Stop Sending", "1-5/20");
    assert_eq!(second.flag, Some(Flag::More));
}

#[test]
fn an_orderly_stop_ends_the_chunk_that_is_open_and_begins_no_other() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
    world.write(alice.id, [send_begin("t0001", &head), content(5000)].concat());
    assert!(world.coming(bob.id).is_some());
    let link = world.link(bob.id).clone();
    assert!(!link.is_idle());
    link.wind_up(world.now);
    assert_eq!(world.take_one(bob.id).flag, Some(Flag::Abort));
    assert!(link.is_idle());
    // What comes now is held, and fails with the connection.
    world.write(alice.id, end("t0001", '$'));
    world.nothing_for(alice.id);
    world.write(alice.id, send("t0002", &head, "late", '$'));
    world.nothing_for(bob.id);
    assert!(link.is_idle());
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.hang_up(bob.id);
    let mut told = world.take(alice.id);
    told.sort_by_key(Message::status);
    assert_report(&told[0], &alice, "000 481 No Such Session", "1-4/*");
    assert_eq!((told[1].status(), told[1].tid().as_str()), (Some(481), "t0001"));
    assert_eq!(told.len(), 2);
}

#[test]
fn an_orderly_stop_finishes_a_chunk_that_has_come_whole() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 1000);
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
    world.write(alice.id, send("t0001", &head, content(200_000), '$'));
    world.link(bob.id).clone().wind_up(world.now);
    world.write(bob.id, send("t0002", &(bob.paths_to(&alice) + "Message-ID: m2\r\n"), "x", '$'));
    world.resume_reading(bob.id);
    let messages = world.take(bob.id);
    assert_eq!((messages[0].flag, &messages[0].body), (Some(Flag::Complete), &content(200_000)));
    assert_eq!(messages[1].status(), Some(200));
}
