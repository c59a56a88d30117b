//! What becomes of a chunk on its way: cut through, waited for, interrupted, taken up again.

use msrp_proto::flag::Flag;

use super::harness::*;

/// What went before the body of a message, from the first line after From-Path.
fn lines(message: &Message) -> String {
    String::from_utf8(message.head.bytes_after_paths().to_vec()).unwrap()
}

/// Sends a control message to `to` that has to be forwarded: a REPORT of a third party's session.
fn report(world: &mut World, from: &Node, to: &Node) {
    world.write(
        from.id,
        format!(
            "MSRP r0001 REPORT\r\n{}Message-ID: other\r\nByte-Range: 1-1/1\r\nStatus: 000 200 OK\r\n-------r0001$\r\n",
            from.paths_to(to)
        ),
    );
}

/// The bytes of the fragments of one message, put where their Byte-Range says.
fn reassembled(fragments: &[&Message]) -> Vec<u8> {
    let mut whole = Vec::new();
    for fragment in fragments {
        let start: usize = fragment.range().split('-').next().unwrap().parse().unwrap();
        assert_eq!(start, whole.len() + 1, "{:?}", fragment.range());
        whole.extend_from_slice(&fragment.body);
    }
    whole
}

#[test]
fn a_chunk_goes_out_while_it_comes_in() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-*/10000000000\r\n";
    world.write(alice.id, send_begin("t0001", &head));
    assert!(world.coming(bob.id).is_none());
    world.write(alice.id, "first");
    let coming = world.coming(bob.id).unwrap();
    // One byte is held back, so that what follows is never empty.
    assert_eq!((coming.range(), &*coming.body), ("1-*/10000000000", b"firs".as_slice()));
    world.write(alice.id, " and second");
    assert_eq!(world.coming(bob.id).unwrap().body, b"first and secon");
    world.nothing_for(alice.id);
    world.write(alice.id, end("t0001", '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    let message = world.take_one(bob.id);
    assert_eq!((&*message.body, message.flag), (b"first and second".as_slice(), Some(Flag::Complete)));
}

#[test]
fn a_small_declared_chunk_waits_until_it_is_whole_and_goes_on_as_it_came() {
    for (size, waits) in [(2047, true), (2048, true), (2049, false)] {
        let mut world = World::new();
        let (alice, bob) = world.pair();
        let others = format!("Message-ID: m1\r\nByte-Range: 1-{size}/{size}\r\nX-Odd:no space\r\n");
        let head = alice.paths_to(&bob) + &others;
        let body = content(size);
        world.write(alice.id, send_begin("t0001", &head));
        world.write(alice.id, &body[..size - 1]);
        assert_eq!(world.coming(bob.id).is_none(), waits, "{size}");
        world.write(alice.id, [&body[size - 1..], end("t0001", '$').as_bytes()].concat());
        let message = world.take_one(bob.id);
        let range = if waits { format!("1-{size}/{size}") } else { format!("1-*/{size}") };
        assert_eq!((message.range(), &message.body), (&*range, &body));
        if waits {
            assert_eq!(lines(&message), format!("{others}Content-Type: text/plain\r\n"));
        }
    }
}

#[test]
fn the_interrupt_size_is_the_configured_one() {
    let mut settings = settings();
    settings.limits.interrupt_size = 10;
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    for (size, waits) in [(9, true), (10, true), (11, false)] {
        let head = format!("{}Message-ID: m1\r\nByte-Range: 1-{size}/{size}\r\n", alice.paths_to(&bob));
        world.write(alice.id, send_begin("t0001", &head));
        world.write(alice.id, &content(size)[..size - 1]);
        assert_eq!(world.coming(bob.id).is_none(), waits, "{size}");
        world.write(alice.id, [&content(size)[size - 1..], end("t0001", '$').as_bytes()].concat());
        assert_eq!(world.take_one(bob.id).body, content(size));
    }
}

#[test]
fn an_interrupt_size_larger_than_the_buffer_stops_nothing() {
    let mut settings = settings();
    settings.limits.interrupt_size = 1_000_000;
    settings.limits.session_buffer = 4096;
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    world.read_size = 500;
    for size in [4095, 4096, 4097, 20_000] {
        let head = format!("{}Message-ID: m1\r\nByte-Range: 1-{size}/{size}\r\n", alice.paths_to(&bob));
        world.write(alice.id, send("t0001", &head, content(size), '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(200), "{size}");
        assert_eq!(world.take_one(bob.id).body, content(size));
    }
}

#[test]
fn a_head_larger_than_the_buffer_stops_nothing() {
    let mut settings = settings();
    settings.limits.session_buffer = 4096;
    let mut world = World::with(settings);
    let (alice, bob) = world.pair();
    world.read_size = 500;
    let head = format!("{}Message-ID: m1\r\nX-Long: {}\r\n", alice.paths_to(&bob), "x".repeat(10_000));
    world.write(alice.id, send("t0001", &head, content(30_000), '$'));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    assert_eq!(world.take_one(bob.id).body, content(30_000));
}

#[test]
fn a_byte_range_is_added_only_where_it_is_needed() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
    // Whole at once, and small: as it came.
    for body in [content(0), content(1), content(2048)] {
        world.write(alice.id, send("t0001", &head, &body, '$'));
        let message = world.take_one(bob.id);
        assert_eq!(
            (lines(&message).as_str(), &message.body),
            ("Message-ID: m1\r\nContent-Type: text/plain\r\n", &body)
        );
    }
    // It may have to be interrupted.
    world.write(alice.id, send("t0002", &head, content(2049), '$'));
    assert_eq!(world.take_one(bob.id).range(), "1-*/*");
    world.write(alice.id, [send_begin("t0003", &head), b"ab".to_vec()].concat());
    assert_eq!(world.coming(bob.id).unwrap().range(), "1-*/*");
    world.write(alice.id, end("t0003", '$'));
    assert_eq!(world.take_one(bob.id).body, b"ab");
}

#[test]
fn a_body_that_is_empty_and_one_that_is_missing_stay_what_they_are() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-0/0\r\n";
    world.write(alice.id, send("t0001", &head, "", '$'));
    let message = world.take_one(bob.id);
    assert!(message.head.has_body() && message.body.is_empty());
    assert_eq!(message.flag, Some(Flag::Complete));
    world.write(alice.id, format!("MSRP t0002 SEND\r\n{head}-------t0002$\r\n"));
    let message = world.take_one(bob.id);
    assert!(!message.head.has_body());
    assert_eq!(lines(&message), "Message-ID: m1\r\nByte-Range: 1-0/0\r\n");
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
    world.write(alice.id, format!("MSRP t0003 SEND\r\n{head}-------t0003$\r\n"));
    assert_eq!(lines(&world.take_one(bob.id)), "Message-ID: m1\r\n");
    let statuses: Vec<_> = world.take(alice.id).iter().map(Message::status).collect();
    assert_eq!(statuses, [Some(200); 3]);
}

#[test]
fn the_senders_flag_passes() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for size in [0, 5, 5000, 100_000] {
        for (flag, expected) in [('$', Flag::Complete), ('+', Flag::More), ('#', Flag::Abort)] {
            let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-*/*\r\n";
            world.write(alice.id, send("t0001", &head, content(size), flag));
            let message = world.take_one(bob.id);
            assert_eq!((message.flag, &message.body), (Some(expected), &content(size)));
            assert_eq!(world.take_one(alice.id).status(), Some(200));
        }
    }
}

#[test]
fn unknown_fields_go_on_unchanged_and_in_order() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let before = "Message-ID: m1\r\nX-First: 1\r\ncontent-disposition:attachment; filename=\"a b\"\r\n";
    let after = "X-Last:  \t two  \r\nSuccess-Report: yes\r\nX-First: again\r\nX-Bytes: \u{e9}\u{4e2d}\r\n";
    let kept = format!("{before}Byte-Range: 1-4/4\r\n{after}");
    world.write(alice.id, send("t0001", &(alice.paths_to(&bob) + &kept), "body", '$'));
    assert_eq!(lines(&world.take_one(bob.id)), format!("{kept}Content-Type: text/plain\r\n"));
    // Where the Byte-Range changes, it changes in its place.
    let changed = format!("{before}byte-range:1-4000/4000\r\n{after}");
    world.write(alice.id, send("t0002", &(alice.paths_to(&bob) + &changed), content(4000), '$'));
    let expected = format!("{before}Byte-Range: 1-*/4000\r\n{after}Content-Type: text/plain\r\n");
    assert_eq!(lines(&world.take_one(bob.id)), expected);
}

#[test]
fn bodies_that_look_like_ends_of_messages_are_bodies() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for body in [
        "\r\n-------t0001",
        "\r\n-------t0001$\r",
        "\r\n-------t00011$\r\n",
        "\r\n-------t0002$\r\n",
        "\r\n-------t0001*\r\n",
        "MSRP t0001 SEND\r\nTo-Path: x\r\n\r\n",
        "\r\n\r\n\r\n",
    ] {
        for read_size in [1, 7, 100_000] {
            world.read_size = read_size;
            let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-*/*\r\n";
            world.write(alice.id, send("t0001", &head, body, '$'));
            assert_eq!(world.take_one(alice.id).status(), Some(200));
            assert_eq!(world.take_one(bob.id).body, body.as_bytes(), "{body:?}");
        }
    }
}

#[test]
fn a_response_interrupts_a_chunk_that_waits_for_its_sender() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-*/12\r\n";
    world.write(alice.id, [send_begin("t0001", &head), b"hello ".to_vec()].concat());
    // Bob sends something himself, and his 200 must not wait for Alice.
    world.write(bob.id, send("t0002", &(bob.paths_to(&alice) + "Message-ID: m2\r\n"), "x", '$'));
    let messages = world.take(bob.id);
    assert_eq!(messages.len(), 2);
    assert_eq!(
        (messages[0].flag, &*messages[0].body, messages[0].range()),
        (Some(Flag::More), b"hello".as_slice(), "1-*/12")
    );
    assert_eq!(messages[1].status(), Some(200));
    assert!(world.coming(bob.id).is_none());

    world.write(alice.id, "world");
    let coming = world.coming(bob.id).unwrap();
    assert_eq!((coming.range(), &*coming.body), ("6-*/12", b" worl".as_slice()));
    assert_ne!(coming.tid(), messages[0].tid());
    world.write(alice.id, [b"!".to_vec(), end("t0001", '$').into_bytes()].concat());
    let last = world.take_one(bob.id);
    assert_eq!(reassembled(&[&messages[0], &last]), b"hello world!");
    assert_eq!(lines(&last), "Message-ID: m1\r\nByte-Range: 6-*/12\r\nContent-Type: text/plain\r\n");
    assert_eq!(last.from(), messages[0].from());
}

#[test]
fn a_report_interrupts_a_chunk_after_the_interrupt_size() {
    for interrupt_size in [2048, 5000] {
        let mut settings = settings();
        settings.limits.interrupt_size = interrupt_size;
        let mut world = World::with(settings);
        let (alice, bob) = world.pair();
        // What Bob's connection takes at once is little, and the rest waits.
        world.stop_reading(bob.id, 1000);
        let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-300000/300000\r\n";
        world.write(alice.id, send("t0001", &head, content(300_000), '$'));
        report(&mut world, &alice, &bob);
        world.resume_reading(bob.id);
        let messages = world.take(bob.id);
        let at = messages.iter().position(|message| message.method() == "REPORT").unwrap();
        let before: usize = messages[..at].iter().map(|message| message.body.len()).sum();
        // What was on the wire already goes first: 64 KiB and no more than that.
        assert!((interrupt_size..=64 * 1024 + 16 * 1024).contains(&before), "{before}");
        assert_eq!(messages[at - 1].flag, Some(Flag::More));
        assert!(messages[at + 1].body.len() > 100_000);
        let fragments: Vec<_> = messages.iter().filter(|message| message.method() == "SEND").collect();
        assert_eq!(reassembled(&fragments), content(300_000));
        assert_eq!(fragments.last().unwrap().flag, Some(Flag::Complete));
    }
}

#[test]
fn what_is_small_enough_is_not_interrupted() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for size in [2047, 2048] {
        world.stop_reading(bob.id, 100);
        let head = alice.paths_to(&bob) + "Message-ID: m1\r\n";
        world.write(alice.id, send("t0001", &head, content(size), '$'));
        report(&mut world, &alice, &bob);
        world.resume_reading(bob.id);
        let messages = world.take(bob.id);
        let methods: Vec<_> = messages.iter().map(Message::method).collect();
        assert_eq!(methods, ["SEND", "REPORT"]);
        assert_eq!(messages[0].flag, Some(Flag::Complete));
    }
}

#[test]
fn two_senders_to_one_connection_take_turns() {
    let mut world = World::new();
    // Bob has two sessions on one connection, so that each may have its own sender.
    let bob = world.connect();
    let (first, second) = (world.auth(bob, "bob"), world.auth(bob, "bob"));
    let (alice, carol) = (world.member("alice"), world.member("carol"));
    world.stop_reading(bob, 1000);
    for (from, relay, id) in [(&alice, &first, "from-alice"), (&carol, &second, "from-carol")] {
        let head = format!(
            "To-Path: {} {relay} {}\r\nFrom-Path: {}\r\nMessage-ID: {id}\r\nByte-Range: 1-200000/200000\r\n",
            from.relay,
            own_uri("bob"),
            from.uri
        );
        world.write(from.id, send("t0001", &head, content(200_000), '$'));
    }
    world.resume_reading(bob);
    let messages = world.take(bob);
    let of = |id| messages.iter().filter(|message| message.field("Message-ID") == id).collect::<Vec<_>>();
    for id in ["from-alice", "from-carol"] {
        assert_eq!(reassembled(&of(id)), content(200_000));
        assert_eq!(of(id).last().unwrap().flag, Some(Flag::Complete));
        assert!(of(id).iter().all(|fragment| !fragment.body.is_empty()));
    }
    // Once both are there they alternate, no more than a quantum at a time until one has ended.
    let begun = messages.iter().position(|message| message.field("Message-ID") == "from-carol").unwrap();
    let ended = messages.iter().position(|message| message.flag == Some(Flag::Complete)).unwrap();
    assert!(ended - begun > 10, "{begun} {ended}");
    for pair in messages[begun..ended].windows(2) {
        assert_ne!(pair[0].field("Message-ID"), pair[1].field("Message-ID"));
        assert!(pair[0].body.len() <= 16 * 1024, "{}", pair[0].body.len());
    }
}

#[test]
fn a_short_message_overtakes_a_long_one_of_another_session() {
    let mut world = World::new();
    let bob = world.connect();
    let (first, second) = (world.auth(bob, "bob"), world.auth(bob, "bob"));
    let (alice, carol) = (world.member("alice"), world.member("carol"));
    let head = |from: &Node, relay: &str, id: &str| {
        format!(
            "To-Path: {} {relay} {}\r\nFrom-Path: {}\r\nMessage-ID: {id}\r\n",
            from.relay,
            own_uri("bob"),
            from.uri
        )
    };
    world.write(alice.id, [send_begin("t0001", &head(&alice, &first, "long")), content(5000)].concat());
    assert!(world.coming(bob).is_some());
    world.write(carol.id, send("t0002", &head(&carol, &second, "short"), "hi", '$'));
    let messages = world.take(bob);
    assert_eq!(messages[0].flag, Some(Flag::More));
    assert_eq!(messages[1].body, b"hi");
    world.write(alice.id, end("t0001", '$'));
    let last = world.take_one(bob);
    assert_eq!((last.range(), &*last.body), ("5000-5000/*", &content(5000)[4999..]));
}

#[test]
fn over_tls_an_end_line_is_always_whole_within_a_record() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for size in (16_000..16_500).step_by(3).chain([100_000]) {
        world.take_records(bob.id);
        let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-*/*\r\n";
        world.write(alice.id, send("t0001", &head, content(size), '$'));
        let message = world.take_one(bob.id);
        assert_eq!(message.body.len(), size);
        let end = end(&message.tid(), '$');
        let records = world.take_records(bob.id);
        assert!(records.iter().all(|record| record.len() <= TLS_UNIT));
        assert!(records.last().unwrap().ends_with(end.as_bytes()), "{size}");
    }
}

/// Another request goes as a whole, and may be longer than a record.
#[test]
fn over_tls_the_end_line_of_a_long_request_is_whole_too() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for size in 8_000..8_100 {
        world.take_records(bob.id);
        let long = format!("X: {}\r\nContent-Type: text/plain\r\n\r\n", "y".repeat(8_000));
        let body = String::from_utf8_lossy(&content(size)).replace(|c: char| !c.is_ascii_graphic(), "z");
        let paths = alice.paths_to(&bob);
        world.write(alice.id, format!("MSRP t0001 NICKNAME\r\n{paths}{long}{body}\r\n-------t0001$\r\n"));
        let request = world.take_one(bob.id);
        let end = end(&request.tid(), '$');
        let records = world.take_records(bob.id);
        assert!(records.iter().all(|record| record.len() <= TLS_UNIT));
        assert!(records.last().unwrap().ends_with(end.as_bytes()), "{size}");
    }
}

#[test]
fn slicing_of_what_comes_changes_nothing_of_what_arrives() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    for read_size in [1, 2, 3, 10, 100, 1000, 16_384] {
        world.read_size = read_size;
        let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-3000/3000\r\n";
        world.write(alice.id, send("t0001", &head, content(3000), '$'));
        assert_eq!(world.take_one(alice.id).status(), Some(200));
        let messages = world.take(bob.id);
        assert_eq!(reassembled(&messages.iter().collect::<Vec<_>>()), content(3000));
        assert!(messages.iter().all(|message| !message.body.is_empty()));
    }
}

#[test]
fn one_read_of_many_messages_leaves_in_one_write() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    let mut batch = Vec::new();
    for tid in 0..20 {
        let head = alice.paths_to(&bob) + "Message-ID: m1\r\nByte-Range: 1-2/2\r\n";
        batch.extend(send(&format!("t{tid:04}"), &head, "hi", '$'));
    }
    world.take_records(bob.id);
    world.take_records(alice.id);
    world.write(alice.id, batch);
    assert_eq!(world.take(bob.id).len(), 20);
    assert_eq!(world.take(alice.id).len(), 20);
    assert_eq!(world.take_records(bob.id).len(), 1);
    assert_eq!(world.take_records(alice.id).len(), 1);
}

#[test]
fn chunks_of_two_messages_keep_their_order() {
    let mut world = World::new();
    let (alice, bob) = world.pair();
    world.stop_reading(bob.id, 10);
    for at in 0..50 {
        let (id, start) = (if at % 2 == 0 { "even" } else { "odd" }, at / 2 * 3 + 1);
        let head =
            format!("{}Message-ID: {id}\r\nByte-Range: {start}-{}/75\r\n", alice.paths_to(&bob), start + 2);
        world.write(alice.id, send("t0001", &head, format!("{at:03}"), if at < 48 { '+' } else { '$' }));
    }
    world.resume_reading(bob.id);
    let bodies: Vec<_> =
        world.take(bob.id).into_iter().map(|message| String::from_utf8(message.body).unwrap()).collect();
    assert_eq!(bodies, (0..50).map(|at| format!("{at:03}")).collect::<Vec<_>>());
}
