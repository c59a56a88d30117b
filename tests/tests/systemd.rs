//! The daemon under a service manager: what it tells it, and the sockets it is given.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use rustix::process::Signal;
use tests::{Client, Daemon, Scheme, ServiceManager, Settings, Site};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

fn relay(manager: &ServiceManager) -> Command {
    let mut command = Command::new(RELAY);
    command.env("NOTIFY_SOCKET", manager.path());
    command
}

fn has(lines: &[String], line: &str) -> bool {
    lines.iter().any(|known| known == line)
}

#[tokio::test]
async fn it_says_when_it_is_ready_reloads_and_stops() {
    let site = Site::new();
    let manager = ServiceManager::new(&site);
    let settings = Settings { timeouts: "drain_timeout: 1h".into(), ..Settings::default() };
    let mut daemon = Daemon::start_as(relay(&manager), &site, "relay.yaml", &settings).await;
    let ready = manager.next().await;
    assert!(has(&ready, "READY=1") && has(&ready, &format!("MAINPID={}", daemon.pid())), "{ready:?}");
    assert!(ready.iter().any(|line| line.starts_with("STATUS=serving at msrps://")), "{ready:?}");

    daemon.signal(Signal::HUP);
    let reloading = manager.next().await;
    assert!(has(&reloading, "RELOADING=1"), "{reloading:?}");
    let micros = reloading.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(micros.parse::<u64>().unwrap() > 0);
    assert!(has(&manager.next().await, "READY=1"));

    site.write("relay.yaml", "domain: [");
    daemon.signal(Signal::HUP);
    manager.until("RELOADING=1").await;
    let refused = manager.next().await;
    assert!(has(&refused, "READY=1") && refused[2].contains("refused"), "{refused:?}");

    let (alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    daemon.signal(Signal::TERM);
    assert_eq!(manager.next().await, ["STOPPING=1"]);
    let draining = manager.next().await;
    assert!(draining[0].starts_with("EXTEND_TIMEOUT_USEC="), "{draining:?}");
    assert!(draining[1].starts_with("STATUS=draining: 1 sessions, "), "{draining:?}");
    // As long as it takes.
    manager.until("EXTEND_TIMEOUT_USEC=").await;
    alice.close().await;
    assert_eq!(daemon.exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_watchdog_is_fed_if_it_is_for_this_process() {
    let site = Site::new();
    let manager = ServiceManager::new(&site);
    let mut command = relay(&manager);
    command.env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::start_as(command, &site, "relay.yaml", &Settings::default()).await;
    for _ in 0..3 {
        assert_eq!(manager.until("WATCHDOG=").await, ["WATCHDOG=1"]);
    }
    drop(daemon);

    let other = Site::new();
    let manager = ServiceManager::new(&other);
    let mut command = relay(&manager);
    command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let daemon = Daemon::start_as(command, &other, "relay.yaml", &Settings::default()).await;
    manager.until("READY=1").await;
    daemon.signal(Signal::HUP);
    // Nothing else comes between.
    assert!(manager.next().await.contains(&"RELOADING=1".to_owned()));
}
