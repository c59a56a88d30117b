//! From the `ready` line to the end of the process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;

use msrp_proto::flag::Flag;
use rustix::process::Signal;
use tests::{Client, Content, Daemon, Scheme, Send, Settings, Site};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

#[tokio::test]
async fn the_ready_line_names_every_bound_address() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    assert_eq!(daemon.addresses().len(), 2);
    assert_eq!(daemon.log().with(&["ready"]).len(), 1);
    for (_, address) in daemon.addresses() {
        assert!(address.ip().is_loopback() && address.port() != 0);
        TcpStream::connect(address).await.unwrap();
    }
}

/// An open chunk is ended with `#`, connections are ended in order, and the process exits with 0.
async fn stops_in_order(signal: Signal) {
    let site = Site::new();
    let settings = Settings { timeouts: "drain_timeout: 200ms".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let mut idle = Client::connect(&daemon, &site, Scheme::Msrp).await;

    let content = Content::new(10_000);
    let unfinished =
        Send { to: from_alice.to(&from_bob), message: "m".into(), range: "1-*/*".into(), ..Send::default() };
    alice.tx.begin(&unfinished).await;
    alice.tx.raw(content.piece(0, 10_000)).await;
    // The receiver has it on its wire.
    let head = bob.rx.head().await;
    assert_eq!(head.message_id().unwrap(), Some("m"));

    daemon.signal(signal);
    let received = bob.rx.rest_of_chunk().await;
    content.check(0, &received.0);
    assert_eq!(received.1, Flag::Abort);
    bob.rx.end().await.expect("TLS ends with close_notify");
    idle.rx.end().await.expect("TCP ends with FIN");
    let rest = alice.rx.rest_in_order().await.expect("TLS ends with close_notify");
    assert!(rest.iter().all(|message| message.status() != 200), "{rest:?}");

    assert_eq!(daemon.exit().await.code(), Some(0), "{:?}", daemon.log());
    for (_, address) in daemon.addresses() {
        assert!(TcpStream::connect(address).await.is_err(), "{address} still accepts");
    }
    assert_eq!(daemon.log().with(&["panicked"]), [""; 0]);
}

#[tokio::test]
async fn sigterm_stops_in_order() {
    stops_in_order(Signal::TERM).await;
}

#[tokio::test]
async fn sigint_stops_in_order() {
    stops_in_order(Signal::INT).await;
}

#[tokio::test]
async fn a_stopping_relay_accepts_nothing_and_lets_a_message_finish() {
    let site = Site::new();
    let settings = Settings { timeouts: "drain_timeout: 60s".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let content = Content::new(10_000);
    let message = Send {
        to: from_alice.to(&from_bob),
        message: "m".into(),
        range: "1-10000/10000".into(),
        ..Send::default()
    };
    let transaction = alice.tx.begin(&message).await;
    alice.tx.raw(content.piece(0, 5_000)).await;
    bob.rx.head().await;

    daemon.signal(Signal::TERM);
    daemon.log().wait_for(&["stopping", "SIGTERM"]).await;
    let refused = async {
        while TcpStream::connect(daemon.address(Scheme::Msrp)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tests::within("new connections to be refused", refused).await;

    alice.tx.raw(content.piece(5_000, 5_000)).await;
    alice.tx.end(&transaction, Flag::Complete).await;
    let (body, flag) = bob.rx.rest_of_chunk().await;
    content.check(0, &body);
    assert_eq!((body.len(), flag), (10_000, Flag::Complete));
    assert_eq!(alice.rx.response(&transaction).await.status(), 200);
    // With the last session it is over, long before its time.
    alice.close().await;
    bob.close().await;
    assert_eq!(daemon.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_hurries() {
    let site = Site::new();
    let settings = Settings { timeouts: "drain_timeout: 1h".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let message =
        Send { to: from_alice.to(&from_bob), message: "m".into(), range: "1-*/*".into(), ..Send::default() };
    alice.tx.begin(&message).await;
    alice.tx.raw(&[b'x'; 5_000]).await;
    bob.rx.head().await;
    daemon.signal(Signal::TERM);
    daemon.log().wait_for(&["stopping"]).await;
    daemon.signal(Signal::INT);
    assert_eq!(bob.rx.rest_of_chunk().await.1, Flag::Abort);
    assert_eq!(daemon.exit().await.code(), Some(0));
}

#[tokio::test]
async fn json_log_is_one_object_per_line() {
    let site = Site::new();
    let settings = Settings { log: "level: debug, format: json".into(), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    // What a peer sends stands escaped in the log.
    let mut stranger = Client::connect(&daemon, &site, Scheme::Msrp).await;
    stranger.tx.raw(b"\"}\n{\"level\": \"FAKE\xff\n\r\n").await;
    stranger.rx.rest().await;
    alice.close().await;
    daemon.signal(Signal::TERM);
    daemon.exit().await;
    let lines = daemon.log().lines();
    assert!(lines.len() > 5, "{lines:?}");
    for line in &lines {
        let event: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event.is_object() && event["level"].is_string() && event["timestamp"].is_string(), "{line}");
    }
    let ready = lines.iter().find(|line| line.contains("\"ready\"")).unwrap();
    let ready: serde_json::Value = serde_json::from_str(ready).unwrap();
    assert_eq!(ready["message"], "ready");
    assert!(ready["listening"].as_str().unwrap().contains("msrps://127.0.0.1:"), "{ready}");
}

#[tokio::test]
async fn the_text_log_takes_no_line_from_a_peer() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let mut stranger = Client::connect(&daemon, &site, Scheme::Msrp).await;
    let uri = daemon.uri(Scheme::Msrp);
    let text =
        format!("MSRP aaaa SEND\r\nTo-Path: {uri}\r\nFrom-Path: msrp://x;tcp\r\nA\x1b[31m\rFAKE LINE: 1\r\n");
    stranger.tx.raw(text.as_bytes()).await;
    stranger.tx.raw(b"\n2026-01-01 FAKE LINE\r\n-------aaaa$\r\n").await;
    stranger.rx.rest().await;
    daemon.log().wait_for(&["connection closed", &stranger.address()]).await;
    for line in daemon.log().lines() {
        assert!(!line.contains(['\x1b', '\r']), "{line:?}");
        assert!(!line.starts_with("2026-01-01 FAKE"), "{line:?}");
    }
    daemon.assert_well();
}

#[tokio::test]
async fn the_log_level_is_honoured() {
    let site = Site::new();
    let settings =
        Settings { log: "level: \"warn,relay::cli=info\", format: text".into(), ..Settings::default() };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let (mut alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let to = [alice.relay_uri().to_owned()];
    assert_eq!(alice.try_auth_at(&to, "alice", "wrong").await.status(), 401);
    daemon.log().wait_for(&["WARN", "AUTH failed"]).await;
    assert_eq!(daemon.log().with(&["session granted"]), [""; 0]);
    assert!(daemon.log().lines().iter().all(|line| line.contains(" WARN ") || line.contains(" INFO ")));
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised() {
    let site = Site::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 128; exec \"$0\" \"$@\"", RELAY]);
    let daemon = Daemon::start_as(command, &site, "relay.yaml", &Settings::default()).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = files.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{files}");
    assert_ne!(words[3], "128", "{files}");
}
