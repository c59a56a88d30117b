//! chat without a relay.

mod common;

use common::{CHAT, Certificates, Running, run, text};

#[test]
fn both_sides_exchange_lines_and_hear_of_their_delivery() {
    let mut bob = Running::start(CHAT, &["--listen", "127.0.0.1:0"]);
    let path = bob.path();
    // Typed before anybody is there.
    bob.write("is anybody there?");
    let mut alice = Running::start(CHAT, &["--peer", &path]);
    assert_eq!(alice.line("<< "), "is anybody there?");
    assert_eq!(bob.line("-- delivered: "), "is anybody there?");
    alice.write("yes, Ålice");
    assert_eq!(bob.line("<< "), "yes, Ålice");
    assert_eq!(alice.line("-- delivered: "), "yes, Ålice");
    for number in 0..100 {
        alice.write(&format!("line {number}"));
    }
    for number in 0..100 {
        assert_eq!(bob.line("<< "), format!("line {number}"));
    }
    alice.write("last words");
    alice.close_input();
    assert!(alice.end().0.success());
    assert_eq!(bob.line("<< "), "last words");
    bob.line("-- the other side has left");
    assert!(bob.end().0.success());
}

#[test]
fn over_tls_the_listener_proves_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let Certificates { ca, certificate, key } = Certificates::make(folder.path());
    let tls = ["--certificate", text(&certificate), "--private-key", text(&key)];
    let mut bob = Running::start(CHAT, &[&["--listen", "127.0.0.1:0"], &tls[..]].concat());
    let path = bob.path();
    assert!(path.starts_with("msrps://"));
    let untrusting = run(CHAT, &["--peer", &path]);
    assert!(!untrusting.status.success());
    let mut alice = Running::start(CHAT, &["--peer", &path, "--ca", text(&ca)]);
    alice.write("hello");
    assert_eq!(bob.line("<< "), "hello");
    bob.write("hello yourself");
    assert_eq!(alice.line("<< "), "hello yourself");
    bob.close_input();
    assert!(bob.end().0.success());
    alice.line("-- the other side has left");
    assert!(alice.end().0.success());
}

#[test]
fn a_line_that_is_too_long_is_not_delivered_and_nothing_else_is_lost() {
    let mut bob = Running::start(CHAT, &["--listen", "127.0.0.1:0"]);
    let path = bob.path();
    let mut alice = Running::start(CHAT, &["--peer", &path]);
    alice.write(&"x".repeat(100_000));
    assert!(alice.line("-- not delivered: ").contains("413"));
    alice.write("short");
    assert_eq!(bob.line("<< "), "short");
    assert_eq!(alice.line("-- delivered: "), "short");
}

#[test]
fn nothing_to_do_is_an_error_and_nobody_to_wait_for_is_none() {
    assert!(!run(CHAT, &[]).status.success());
    assert!(!run(CHAT, &["--peer", "msrp://127.0.0.1:1/x;tcp"]).status.success());
    // Ctrl-D before anybody has come.
    assert!(run(CHAT, &["--listen", "127.0.0.1:0"]).status.success());
}
