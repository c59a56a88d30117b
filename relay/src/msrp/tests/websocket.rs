//! Clients that come by WebSocket (RFC 7977): one message in each frame, whatever the other side is. That each
//! frame holds one message, and holds it whole, the harness asserts of all that a WebSocket client gets.

use std::time::Duration;

use msrp_proto::flag::Flag;
use tcp_transport::PeerCertificate;
use tcp_transport::connection::CloseReason;

use super::harness::*;
use super::websocket_frames::frame;
use crate::msrp::{Relay, SettingsError};

const CHUNK: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;

fn head(from: &Node, to: &Node, lines: &str) -> String {
    format!("{}Message-ID: m1\r\n{lines}", from.paths_to(to))
}

/// Two clients, of which each comes by WebSocket or not.
fn pair(world: &mut World, web: [bool; 2]) -> [Node; 2] {
    let mut join = |user, web| if web { world.web_member(user) } else { world.member(user) };
    [join("alice", web[0]), join("bob", web[1])]
}

const PAIRS: [[bool; 2]; 3] = [[true, false], [false, true], [true, true]];

/// First and last place of a Byte-Range with both.
fn range(message: &Message) -> (usize, usize) {
    let (start, rest) = message.range().split_once('-').unwrap();
    (start.parse().unwrap(), rest.split_once('/').unwrap().0.parse().unwrap())
}

#[test]
fn a_small_chunk_goes_on_as_it_came() {
    for web in PAIRS {
        let mut world = World::new();
        let [alice, bob] = pair(&mut world, web);
        for line in ["", "Byte-Range: 1-*/*\r\n", "Byte-Range: 1-5/5\r\n"] {
            world.write(alice.id, send("t0001", &head(&alice, &bob, line), "hello", '$'));
            let got = world.take_one(bob.id);
            assert_eq!((&got.body[..], got.flag), (&b"hello"[..], Some(Flag::Complete)), "{web:?}");
            assert_eq!(got.range(), line.trim_end().strip_prefix("Byte-Range: ").unwrap_or(""));
            assert_eq!(world.take_one(alice.id).status(), Some(200));
            world.write(bob.id, respond(&got, "200 OK"));
        }
        // Nothing is missed.
        world.advance(Duration::from_secs(31));
        world.nothing_for(alice.id);
    }
}

#[test]
fn a_chunk_without_a_body_goes_on() {
    for web in PAIRS {
        let mut world = World::new();
        let [alice, bob] = pair(&mut world, web);
        let text = format!("MSRP t0001 SEND\r\n{}-------t0001$\r\n", head(&alice, &bob, ""));
        world.write(alice.id, text);
        let got = world.take_one(bob.id);
        assert!(!got.head.has_body() && got.flag == Some(Flag::Complete), "{got:?}");
    }
}

#[test]
fn other_requests_and_their_responses_go_on_with_or_without_a_body() {
    for web in PAIRS {
        let mut world = World::new();
        let [alice, bob] = pair(&mut world, web);
        for content in ["", "Content-Type: text/plain\r\n\r\nhello\r\n"] {
            let text = format!("MSRP t0001 NICKNAME\r\n{}{content}-------t0001$\r\n", alice.paths_to(&bob));
            world.write(alice.id, text);
            let got = world.take_one(bob.id);
            assert_eq!(got.body, if content.is_empty() { &b""[..] } else { b"hello" });
            let response = format!(
                "MSRP {} 200 OK\r\nTo-Path: {}\r\nFrom-Path: {}\r\n-------{}$\r\n",
                got.tid(),
                got.from(),
                got.to(),
                got.tid()
            );
            world.write(bob.id, response);
            let answer = world.take_one(alice.id);
            assert_eq!((answer.status(), answer.tid().as_str()), (Some(200), "t0001"));
        }
    }
}

#[test]
fn byte_ranges_of_a_large_chunk_join_exactly() {
    for web in PAIRS {
        for (line, total) in
            [("", "*"), ("Byte-Range: 1-*/*\r\n", "*"), ("Byte-Range: 1-1048576/1048576\r\n", "1048576")]
        {
            let mut world = World::new();
            let [alice, bob] = pair(&mut world, web);
            let body = content(MIB);
            world.write(alice.id, send("t0001", &head(&alice, &bob, line), &body, '$'));
            assert_eq!(world.take_one(alice.id).status(), Some(200));
            let got = world.take(bob.id);
            let last = got.len() - 1;
            let mut whole = Vec::new();
            for (at, fragment) in got.iter().enumerate() {
                if web[1] {
                    let (start, end) = range(fragment);
                    assert_eq!((start, end), (whole.len() + 1, whole.len() + fragment.body.len()));
                    assert!(fragment.range().ends_with(&format!("/{total}")), "{}", fragment.range());
                    assert!((1..=CHUNK).contains(&fragment.body.len()));
                }
                whole.extend_from_slice(&fragment.body);
                assert_eq!(fragment.flag, Some(if at == last { Flag::Complete } else { Flag::More }));
                world.write(bob.id, respond(fragment, "200 OK"));
            }
            assert!(whole == body);
            assert_eq!(got.len(), if web[1] { MIB / CHUNK } else { 1 });
            world.advance(Duration::from_secs(31));
            world.nothing_for(alice.id);
            assert!(world.link(bob.id).is_idle());
        }
    }
}

#[test]
fn the_length_of_a_fragment_is_at_most_chunk_size() {
    for (len, fragments) in [(CHUNK - 1, 1), (CHUNK, 1), (CHUNK + 1, 2)] {
        let mut world = World::new();
        let [alice, bob] = pair(&mut world, [false, true]);
        world.write(alice.id, send("t0001", &head(&alice, &bob, ""), content(len), '$'));
        assert_eq!(world.take(bob.id).len(), fragments, "{len}");
    }
}

#[test]
fn a_chunk_is_split_while_it_arrives() {
    // With a buffer that is larger than a fragment, and with one that is smaller.
    for (session_buffer, least) in [(256 * 1024, CHUNK), (16 * 1024, 8 * 1024)] {
        let mut settings = settings();
        settings.limits.session_buffer = session_buffer;
        let mut world = World::with(settings);
        let [alice, bob] = pair(&mut world, [false, true]);
        world.read_size = 1000;
        let body = content(200_000);
        world.write(alice.id, send_begin("t0001", &head(&alice, &bob, "Byte-Range: 1-*/*\r\n")));
        world.write(alice.id, &body);
        let got = world.take(bob.id);
        assert!((200_000 / (least + 2000)..=200_000 / least).contains(&got.len()), "{session_buffer}");
        assert!(got.iter().all(|fragment| fragment.body.len() >= least && fragment.flag == Some(Flag::More)));
        world.write(alice.id, end("t0001", '$'));
        let rest = world.take_one(bob.id);
        assert_eq!(rest.flag, Some(Flag::Complete));
        assert_eq!(got.iter().map(|fragment| fragment.body.len()).sum::<usize>() + rest.body.len(), 200_000);
        assert_eq!(range(&rest).1, 200_000);
    }
}

#[test]
fn a_slow_reader_pauses_the_sender_at_the_session_buffer() {
    for web in [[false, true], [true, true]] {
        let mut world = World::new();
        let [alice, bob] = pair(&mut world, web);
        world.stop_reading(bob.id, 0);
        world.read_size = 4096;
        let body = content(3 * MIB);
        world.write(alice.id, send("t0001", &head(&alice, &bob, ""), &body, '$'));
        assert!(world.is_paused(alice.id));
        let held = world.link(bob.id).queued_bytes();
        assert!((256 * 1024..256 * 1024 + 2 * CHUNK + 4 * 4096).contains(&held), "{held}");
        world.resume_reading(bob.id);
        assert!(!world.is_paused(alice.id));
        let whole: Vec<u8> = world.take(bob.id).into_iter().flat_map(|fragment| fragment.body).collect();
        assert!(whole == body);
    }
}

#[test]
fn lanes_take_turns_and_control_goes_between() {
    let mut world = World::new();
    let [alice, bob] = pair(&mut world, [false, true]);
    let carol = world.member("carol");
    // Each sender has a session of his own to send to.
    let (second, _) = world.auth_along(bob.id, "bob", "msrps://relay.test:443;ws", &bob.uri);
    let other = Node { relay: second, ..bob.clone() };
    world.stop_reading(bob.id, 0);
    for (from, to, id) in [(&alice, &bob, "a"), (&carol, &other, "c")] {
        let head = head(from, to, "").replace("m1", id);
        world.write(from.id, send("t0001", &head, content(200_000), '$'));
    }
    // He is refused, and learns it before all that.
    let nowhere = "To-Path: msrps://relay.test:2855/none;tcp msrps://x.test:1/x;tcp\r\nFrom-Path: msrps://y.test:1/y;tcp\r\nMessage-ID: m1\r\n";
    world.write(bob.id, send("t0001", nowhere, "x", '$'));
    world.resume_reading(bob.id);
    let order: Vec<_> = world
        .take(bob.id)
        .iter()
        .map(|message| {
            message.status().map_or(message.field("Message-ID").to_owned(), |status| status.to_string())
        })
        .collect();
    assert_eq!(order, ["a", "481", "a", "c", "a", "c", "a", "c", "c"]);
}

#[test]
fn the_chunk_of_a_sender_that_vanishes_ends_in_a_message_of_its_own() {
    for web in [[false, true], [true, true]] {
        let mut world = World::new();
        let [alice, bob] = pair(&mut world, web);
        let whole = send("t0001", &head(&alice, &bob, ""), content(MIB), '$');
        let written = world.as_written(alice.id, &whole);
        world.write_raw(alice.id, &written[..100_000]);
        assert_eq!(world.take_one(bob.id).flag, Some(Flag::More));
        world.hang_up(alice.id);
        let last = world.take_one(bob.id);
        assert_eq!(last.flag, Some(Flag::Abort));
        assert_eq!(range(&last), (CHUNK + 1, CHUNK + last.body.len()));
        world.assert_open(bob.id);
    }
}

#[test]
fn an_error_answer_becomes_a_report_with_the_fragments_range() {
    for web in PAIRS {
        let mut world = World::new();
        let [alice, bob] = pair(&mut world, web);
        world.write(alice.id, send("t0001", &head(&alice, &bob, ""), content(150_000), '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(200));
        let got = world.take(bob.id);
        let second = got.get(1).unwrap_or(&got[0]);
        world.write(bob.id, respond(second, "413 enough"));
        let report = world.take_one(alice.id);
        assert_eq!(report.method(), "REPORT");
        assert!(report.field("Status").starts_with("000 413"), "{report:?}");
        assert_eq!(range(&report), if web[1] { (CHUNK + 1, 2 * CHUNK) } else { (1, 150_000) });
    }
}

#[test]
fn a_fragment_that_is_not_answered_is_reported_with_its_range() {
    let mut world = World::new();
    let [alice, bob] = pair(&mut world, [true, true]);
    world.write(alice.id, send("t0001", &head(&alice, &bob, ""), content(100_000), '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    let got = world.take(bob.id);
    world.write(bob.id, respond(&got[0], "200 OK"));
    world.advance(Duration::from_secs(30));
    let report = world.take_one(alice.id);
    assert!(report.field("Status").starts_with("000 408"), "{report:?}");
    assert_eq!(range(&report), (CHUNK + 1, 100_000));
}

#[test]
fn a_report_of_a_websocket_client_reaches_the_sender() {
    let mut world = World::new();
    let [alice, bob] = pair(&mut world, [false, true]);
    world.write(alice.id, send("t0001", &head(&alice, &bob, "Success-Report: yes\r\n"), "hello", '$'));
    let got = world.take_one(bob.id);
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    let report = format!(
        "MSRP r0001 REPORT\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: m1\r\nByte-Range: 1-5/5\r\nStatus: 000 200 OK\r\n-------r0001$\r\n",
        got.from(),
        got.to()
    );
    world.write(bob.id, report);
    assert_eq!(world.take_one(alice.id).method(), "REPORT");
}

#[test]
fn an_orderly_stop_ends_what_has_begun() {
    let mut world = World::new();
    let [alice, bob] = pair(&mut world, [false, true]);
    world.write(alice.id, send_begin("t0001", &head(&alice, &bob, "")));
    world.write(alice.id, content(100_000));
    assert_eq!(world.take_one(bob.id).flag, Some(Flag::More));
    world.link(bob.id).clone().wind_up(world.now);
    let last = world.take_one(bob.id);
    assert_eq!((last.flag, range(&last)), (Some(Flag::Abort), (CHUNK + 1, 100_000)));
    assert!(world.link(bob.id).is_idle());
    // Nothing is begun any more.
    world.write(alice.id, end("t0001", '$'));
    world.write(alice.id, send("t0002", &head(&alice, &bob, ""), "late", '$'));
    world.nothing_for(bob.id);
    assert!(world.link(bob.id).is_idle());
}

#[test]
fn an_orderly_stop_goes_on_with_what_has_come_whole() {
    let mut world = World::new();
    let [alice, bob] = pair(&mut world, [false, true]);
    world.stop_reading(bob.id, 0);
    world.write(alice.id, send("t0001", &head(&alice, &bob, ""), content(200_000), '$'));
    world.write(alice.id, send("t0002", &head(&alice, &bob, ""), "late", '$'));
    world.link(bob.id).clone().wind_up(world.now);
    assert!(!world.link(bob.id).is_idle());
    world.resume_reading(bob.id);
    let got = world.take(bob.id);
    assert_eq!((got.len(), got.last().unwrap().flag), (4, Some(Flag::Complete)));
    assert!(world.link(bob.id).is_idle());
}

#[test]
fn pings_and_pongs_go_before_what_is_not_on_the_wire() {
    let mut world = World::new();
    let [alice, bob] = pair(&mut world, [false, true]);
    world.take_control_frames(bob.id);
    world.stop_reading(bob.id, 0);
    world.write(alice.id, send("t0001", &head(&alice, &bob, ""), content(200_000), '$'));
    world.link(bob.id).websocket_control(&[0x89, 2, b'h', b'i']);
    world.resume_reading(bob.id);
    assert_eq!(world.take_control_frames(bob.id), [(1, 9, b"hi".to_vec())]);
    assert_eq!(world.take(bob.id).len(), 4);
    // With nothing to write besides.
    world.link(bob.id).websocket_control(&[0x8a, 0]);
    assert!(!world.link(bob.id).is_idle());
    world.link(bob.id).wake();
    assert_eq!(world.take_control_frames(bob.id), [(0, 10, Vec::new())]);
    // Where there are no frames it is nothing.
    world.link(alice.id).websocket_control(&[0x8a, 0]);
    assert!(world.link(alice.id).is_idle());
}

#[test]
fn nothing_follows_a_close() {
    let mut world = World::new();
    let [alice, bob] = pair(&mut world, [false, true]);
    world.stop_reading(bob.id, 0);
    world.write(alice.id, send("t0001", &head(&alice, &bob, ""), content(200_000), '$'));
    world.link(bob.id).websocket_close(&[0x88, 2, 3, 0xe8]);
    world.link(bob.id).websocket_control(&[0x89, 0]);
    world.resume_reading(bob.id);
    assert_eq!(world.take_control_frames(bob.id), [(1, 8, vec![3, 0xe8])]);
    assert_eq!(world.take(bob.id).len(), 1);
    assert!(world.link(bob.id).is_idle());
}

#[test]
fn a_websocket_message_is_one_msrp_message() {
    let one = send(
        "t0001",
        "To-Path: msrps://relay.test:2855/none;tcp\r\nFrom-Path: msrps://y.test:1/y;tcp\r\nMessage-ID: m1\r\n",
        "x",
        '$',
    );
    let (start, rest) = one.split_at(20);
    let (body, end) = one.split_at(one.len() - 5);
    let cases = [
        (vec![frame(&one), frame(&one)], true),
        (vec![frame(b"")], false),
        (vec![frame(&[&one[..], &one[..]].concat())], false),
        (vec![frame(start), frame(rest)], false),
        (vec![frame(body), frame(end)], false),
        (vec![frame(&[&one[..], b"MSRP"].concat())], false),
    ];
    for (number, (frames, good)) in cases.into_iter().enumerate() {
        for read_size in [1, 7, 1000] {
            let mut world = World::new();
            world.read_size = read_size;
            let client = world.connect_to(0, WSS);
            world.write_raw(client, frames.concat());
            let closed = world.closed(client);
            assert_eq!(closed.is_none(), good, "{number}: {closed:?}");
            assert!(good || matches!(closed, Some(CloseReason::Protocol(_))));
        }
    }
}

#[test]
fn use_path_is_a_uri_that_peers_can_open() {
    // TLS before TCP, the first before the second, and never the WebSocket's own.
    for (drop, begins) in [(None, "msrps://relay.test:2855/"), (Some(TLS), "msrp://relay.test:2856/")] {
        let mut settings = settings();
        if let Some(listener) = drop {
            settings.listeners[listener].websocket = settings.listeners[WSS].websocket;
        }
        let mut world = World::with(settings);
        let client = world.connect_to(0, WSS);
        let (session, _) = world.auth_along(client, "alice", "msrps://relay.test:443;ws", &web_uri("alice"));
        assert!(session.starts_with(begins) && session.ends_with(";tcp"), "{session}");
    }
}

#[test]
fn a_relay_with_websockets_only_is_none() {
    let mut settings = settings();
    settings.listeners.retain(|own| own.websocket.is_some());
    struct Epoch;
    impl crate::msrp::WallClock for Epoch {
        fn unix_millis(&self) -> u64 {
            0
        }
    }
    let refused = Relay::new(settings, std::sync::Arc::new(Seeded::new(1)), Box::new(Epoch));
    assert!(matches!(refused, Err(SettingsError::NoTcpListener)));
}

#[test]
fn our_own_websocket_uri_names_no_session() {
    let mut world = World::new();
    let alice = world.web_member("alice");
    let id = alice.relay.rsplit_once('/').unwrap().1.trim_end_matches(";tcp");
    for to in
        [format!("msrps://relay.test:443/{id};ws"), format!("{} msrps://relay.test:443/x;ws", alice.relay)]
    {
        let head =
            format!("To-Path: {to} msrps://x.test:1/x;tcp\r\nFrom-Path: {}\r\nMessage-ID: m1\r\n", alice.uri);
        world.write(alice.id, send("t0001", &head, "hi", '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(481), "{to}");
    }
    world.assert_open(alice.id);
}

#[test]
fn a_websocket_client_without_a_session_is_answered_over_its_connection() {
    let mut world = World::new();
    let alice = world.member("alice");
    let stranger = world.connect_to(0, WSS);
    let uri = "msrps://df7jal23ls0d.invalid:2855/98cjs;ws";
    let head = format!("To-Path: {}\r\nFrom-Path: {uri}\r\nMessage-ID: m1\r\n", alice.path());
    world.write(stranger, send("t0001", &head, "hi", '$'));
    assert_eq!(world.take_one(stranger).status(), Some(200));
    assert_eq!(world.take_one(alice.id).body, b"hi");
    let head = format!("To-Path: {} {uri}\r\nFrom-Path: {}\r\nMessage-ID: m2\r\n", alice.relay, alice.uri);
    world.write(alice.id, send("t0001", &head, "hello", '$'));
    assert_eq!(world.take_one(stranger).body, b"hello");
    // Once it is gone, nobody dials it.
    world.hang_up(stranger);
    world.take(alice.id);
    world.write(alice.id, send("t0002", &head, "hello?", '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(481));
    assert!(world.dials(0).is_empty());
}

fn auth_without_credentials(world: &mut World, client: ClientId, from: &str) -> Message {
    world.write(client, auth_request("t0001", "msrps://relay.test;ws", from, ""));
    world.take_one(client)
}

#[test]
fn the_user_of_the_handshake_needs_no_credentials() {
    let mut world = World::new();
    let client = world.connect_as("carol", WSS, PeerCertificate::None);
    let response = auth_without_credentials(&mut world, client, &web_uri("carol"));
    assert_eq!((response.status(), response.field("Authentication-Info")), (Some(200), ""));
    let session = response.field("Use-Path").parse::<msrp_proto::uri::MsrpUri>().unwrap();
    let session = world.relay(0).sessions().find(&session.as_ref(), world.now).unwrap();
    assert_eq!(session.user(), "carol");
    // Credentials that are there are checked as always, and may be another's.
    let other = world.connect_as("carol", WSS, PeerCertificate::None);
    let wrong = "Authorization: Digest username=\"alice\", realm=\"relay.test\", nonce=\"x\", response=\"00000000000000000000000000000000\", qop=auth, cnonce=\"c\", nc=00000001\r\n";
    world.write(other, auth_request("t0002", "msrps://relay.test;ws", &web_uri("carol"), wrong));
    assert_eq!(world.take_one(other).status(), Some(401));
    // Nobody else's handshake proves anything.
    let stranger = world.connect_to(0, WSS);
    assert_eq!(auth_without_credentials(&mut world, stranger, &web_uri("carol")).status(), Some(401));
}

#[test]
fn a_handshake_proves_nothing_in_the_clear_nor_of_whom_a_relay_asks_for() {
    for allowed in [false, true] {
        let mut settings = settings();
        settings.auth.allow_auth_without_tls = allowed;
        let mut world = World::with(settings);
        let client = world.connect_as("carol", WS, PeerCertificate::None);
        world.write(client, auth_request("t0001", "msrp://relay.test:80;ws", &web_uri("carol"), ""));
        assert_eq!(world.take_one(client).status(), Some(if allowed { 200 } else { 403 }));
    }
    let mut world = World::new();
    let relay = world.connect_as("carol", WSS, verified(&["outer.test"]));
    let from = format!("msrps://outer.test:2855/s;tcp {}", web_uri("carol"));
    assert_eq!(auth_without_credentials(&mut world, relay, &from).status(), Some(401));
}

#[test]
fn behind_a_proxy_that_ends_tls_a_listener_is_found_under_msrps() {
    let mut settings = settings();
    (settings.listeners[WS].scheme, settings.listeners[WS].port) = (msrp_proto::uri::Scheme::Msrps, 8443);
    let mut world = World::with(settings);
    // Known by its URI to others; who has come around the proxy is not secure for all that.
    for to in ["msrps://relay.test:8443;ws", "msrps://alice@relay.test:8443;ws", "msrps://relay.test;ws"] {
        let around = world.connect_to(0, WS);
        world.write(around, auth_request("t0001", to, &web_uri("alice"), ""));
        assert_eq!(world.take_one(around).status(), Some(403), "{to}");
    }
    let through = world.connect_to(0, WSS);
    let (session, _) = world.auth_along(through, "alice", "msrps://relay.test:8443;ws", &web_uri("alice"));
    assert!(session.starts_with("msrps://relay.test:2855/"), "{session}");
    let client = world.connect_to(0, WSS);
    world.write(client, auth_request("t0001", "msrp://relay.test:8443;ws", &web_uri("alice"), ""));
    assert!(matches!(world.closed(client), Some(CloseReason::Protocol(_))), "the scheme counts");
}
