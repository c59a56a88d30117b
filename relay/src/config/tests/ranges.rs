//! Every number of the connection layer that has a range: just inside of it, and just outside.

use super::{accepted, errors, minimal};

/// Section, key, what is taken, and what is refused with this reason.
type Row = (&'static str, &'static str, Vec<&'static str>, Vec<(&'static str, &'static str)>);

/// A section's key: values that are taken, each with one beside it that is refused for this reason.
fn table() -> Vec<Row> {
    const COUNT: &str = "expected a count of at least 1";
    const ZERO: &str = "must be longer than zero";
    const LONGEST: &str = "is longer than the longest duration taken, `366d`";
    let mut table = vec![
        (
            "limits",
            "head_size",
            vec!["1024B", "1MiB"],
            vec![
                ("1023B", "is 1023 bytes, and goes from 1024 to 1048576"),
                ("1048577B", "is 1048577 bytes, and goes from 1024 to 1048576"),
            ],
        ),
        (
            "limits",
            "non_send_body_size",
            vec!["1B", "1MiB"],
            vec![("0B", "must be larger than zero"), ("1048577B", "goes from 1 to 1048576")],
        ),
        (
            "limits",
            "session_buffer",
            vec!["4096B", "1GiB"],
            vec![("4095B", "goes from 4096 to 1073741824"), ("1073741825B", "goes from 4096 to 1073741824")],
        ),
        ("limits", "interrupt_size", vec!["1B", "1024GiB"], vec![("0B", "must be larger than zero")]),
        (
            "limits",
            "min_progress",
            vec!["1B", "1MiB"],
            vec![("0B", "must be larger than zero"), ("1048577B", "goes from 1 to 1048576")],
        ),
        (
            "limits",
            "headers",
            vec!["16", "10000"],
            vec![
                ("15", "is 15, and goes from 16 to 10000"),
                ("10001", "is 10001, and goes from 16 to 10000"),
            ],
        ),
        (
            "limits",
            "path_length",
            vec!["4", "1000"],
            vec![("3", "is 3, and goes from 4 to 1000"), ("1001", "is 1001, and goes from 4 to 1000")],
        ),
        (
            "tcp",
            "keepidle",
            vec!["1s", "32767s"],
            vec![
                ("0s", ZERO),
                ("1500ms", "goes from 1s to 32767s, in whole seconds"),
                ("32768s", "goes from 1s to 32767s, in whole seconds"),
            ],
        ),
        (
            "tcp",
            "keepinterval",
            vec!["1s", "32767s"],
            vec![
                ("0s", ZERO),
                ("999ms", "goes from 1s to 32767s, in whole seconds"),
                ("32768s", "goes from 1s to 32767s, in whole seconds"),
            ],
        ),
        ("tcp", "keepcount", vec!["1", "127"], vec![("0", COUNT), ("128", "goes from 1 to 127")]),
        (
            "tcp",
            "dscp",
            vec!["0", "63"],
            vec![
                ("-1", "expected a number"),
                ("64", "is 64, and goes from 0 to 63"),
                ("256", "expected a number from 0 to 255"),
            ],
        ),
        (
            "outbound",
            "source_port",
            vec!["1", "65535"],
            vec![("0", "goes from 1 to 65535"), ("65536", "expected a number from 0 to 65535")],
        ),
        (
            "events",
            "queue",
            vec!["1", "1048576"],
            vec![("0", COUNT), ("1048577", "is 1048577, and goes from 1 to 1048576")],
        ),
        ("tls", "expiry_warning", vec!["0s", "366d"], vec![("367d", LONGEST)]),
        ("tls", "tls_handshake_timeout", vec!["1ms", "366d"], vec![("0s", ZERO), ("367d", LONGEST)]),
        ("timeouts", "drain_timeout", vec!["0s", "366d"], vec![("367d", LONGEST)]),
        ("timeouts", "reclaim_after", vec!["0s", "366d"], vec![("367d", LONGEST)]),
        ("tcp", "lifetime", vec!["1ms", "366d"], vec![("0s", ZERO), ("367d", LONGEST)]),
        ("hep", "hep_max_msg_chunks", vec!["1", "1000000000"], vec![("0", COUNT)]),
        ("hep", "packet_timeout", vec!["1ms", "366d"], vec![("0s", ZERO), ("367d", LONGEST)]),
        (
            "hep",
            "packet_size",
            vec!["6B", "65535B"],
            vec![
                ("5B", "is 5 bytes, and goes from 6 to 65535"),
                ("64KiB", "is 65536 bytes, and goes from 6 to 65535"),
            ],
        ),
    ];
    for key in ["sessions_per_connection", "own_hops", "max_connections", "max_connections_per_address"] {
        table.push(("limits", key, vec!["1", "1000000000"], vec![("0", COUNT)]));
    }
    table.push(("limits", "max_msg_chunks", vec!["1", "1000000000"], vec![("0", COUNT)]));
    for key in [
        "probation",
        "head_timeout",
        "progress_timeout",
        "stall_timeout",
        "send_timeout",
        "response_timeout",
        "connect_timeout",
        "idle_timeout",
    ] {
        table.push(("timeouts", key, vec!["1ms", "366d"], vec![("0s", ZERO), ("367d", LONGEST)]));
    }
    table.extend(websocket());
    table
}

fn websocket() -> Vec<Row> {
    const ZERO: &str = "must be longer than zero";
    const LONGEST: &str = "is longer than the longest duration taken, `366d`";
    let of = |key, good, bad| ("websocket", key, good, bad);
    vec![
        of(
            "handshake_size",
            vec!["512B", "1MiB"],
            vec![("511B", "goes from 512 to 1048576 bytes"), ("1048577B", "goes from 512 to 1048576 bytes")],
        ),
        of("max_frame_size", vec!["1KiB", "1024GiB"], vec![("1023B", "goes from 1024 bytes")]),
        of("max_message_size", vec!["1KiB", "1024GiB"], vec![("1023B", "goes from 1024 bytes")]),
        of(
            "chunk_size",
            vec!["2KiB", "16MiB"],
            vec![
                ("2047B", "goes from 2048 to 16777216 bytes"),
                ("16777217B", "goes from 2048 to 16777216 bytes"),
            ],
        ),
        of("max_msg_chunks", vec!["1", "4294967295"], vec![("0", "expected a count of at least 1")]),
        of("handshake_timeout", vec!["1ms", "366d"], vec![("0s", ZERO), ("367d", LONGEST)]),
        of("pong_timeout", vec!["1ms", "366d"], vec![("0s", ZERO), ("367d", LONGEST)]),
        of("ping_interval", vec!["0s", "1ms", "366d"], vec![("367d", LONGEST)]),
    ]
}

#[test]
fn every_number_is_taken_at_the_ends_of_its_range_and_refused_beyond() {
    for (section, key, good, bad) in table() {
        let text = |value: &str| minimal(&format!("{section}: {{ {key}: {value} }}\n"));
        for value in good {
            accepted(&text(value));
        }
        for (value, reason) in bad {
            let found = errors(&text(value));
            assert!(
                found.starts_with("relay.yaml:3:")
                    && found.contains(&format!("{section}.{key}: "))
                    && found.contains(reason),
                "{section}.{key}: {value}: {found}"
            );
            assert_eq!(found.lines().count(), 1, "{found}");
        }
    }
}

#[test]
fn the_numbers_of_a_listener_have_the_same_ranges() {
    let listener =
        |rest: &str| format!("domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0', {rest} }} ]\n");
    for good in ["backlog: 1", "backlog: 65535", "max_connections: 1", "tcp: { keepcount: 127, dscp: 63 }"] {
        accepted(&listener(good));
    }
    for (bad, reason) in [
        ("backlog: 0", "listeners[0].backlog: expected a count of at least 1"),
        ("backlog: 65536", "listeners[0].backlog: is more than 65535"),
        ("max_connections: 0", "listeners[0].max_connections: expected a count of at least 1"),
        ("tcp: { keepcount: 128 }", "listeners[0].tcp.keepcount: goes from 1 to 127"),
        ("tcp: { dscp: 64 }", "listeners[0].tcp.dscp: is 64, and goes from 0 to 63"),
    ] {
        let found = errors(&listener(bad));
        assert!(found.contains(reason), "{bad}: {found}");
    }
}
