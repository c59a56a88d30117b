//! The daemon under a service manager: what it tells it, and the sockets it is given.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::process::Signal;
use tests::{Admin, Client, Daemon, Scheme, ServiceManager, Settings, Site, successor};

#[path = "systemd/turned_away.rs"]
mod turned_away;

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
    assert_eq!(manager.until("STATUS=stopped").await, ["STATUS=stopped"]);
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

/// The relay with these sockets, from descriptor 3 on.
fn activated(sockets: &[BorrowedFd<'_>], names: &str) -> Command {
    let mut script = format!("LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={names} ", sockets.len());
    script.push_str("exec \"$0\" \"$@\"");
    for (number, socket) in sockets.iter().enumerate() {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
        write!(script, " {}<&{}", number + 3, socket.as_raw_fd()).unwrap();
    }
    let mut command = Command::new("bash");
    command.args(["-c", &script, RELAY]);
    command
}

#[tokio::test]
async fn sockets_of_the_service_manager_serve_the_listeners_that_they_fit() {
    let site = Site::new();
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (msrp, stray) = (tcp(), tcp());
    let hep = UdpSocket::bind("127.0.0.1:0").unwrap();
    let admin = UnixListener::bind(site.path("admin.sock")).unwrap();
    let address = |socket: &TcpListener| socket.local_addr().unwrap();
    let settings = Settings {
        plain: Some(address(&msrp).to_string()),
        hep_udp: Some(hep.local_addr().unwrap().to_string()),
        hep: Some(String::new()),
        admin: Some(format!("listen: 'unix:{}'", site.path("admin.sock").display())),
        ..Settings::default()
    };
    let sockets = [msrp.as_fd(), hep.as_fd(), admin.as_fd(), stray.as_fd()];
    let command = activated(&sockets, "msrp:hep:admin:stray");
    // Nobody else listens there while it starts, and whoever connects waits.
    let early = tokio::net::TcpStream::connect(address(&msrp)).await.unwrap();
    let mut daemon = Daemon::start_as(command, &site, "relay.yaml", &settings).await;
    // The TLS listener was bound as usual.
    assert_eq!(daemon.addresses().len(), 3);
    assert_eq!(daemon.address(Scheme::Msrp), address(&msrp));
    let lines = daemon.log().with(&["ERROR", "no listener is for this socket"]);
    assert!(lines.len() == 1 && lines[0].contains(&address(&stray).to_string()), "{lines:?}");
    for name in ["msrp", "hep", "admin", "stray"] {
        assert_eq!(
            daemon.log().with(&["socket of the service manager", &format!("name={name:?}")]).len(),
            1,
            "{name}"
        );
    }
    drop((msrp, hep, admin, stray));

    let uri = daemon.uri(Scheme::Msrp);
    let mut early = Client::over(tests::Stream::Plain(early), "msrp://early.invalid:2855/s;tcp", &uri);
    early.auth("alice", "alicepw").await;
    let (_bob, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    assert_eq!(Admin::of(&daemon).await[0].get("/readyz").await.status, 200);
    early.close().await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit().await.code(), Some(0));
    // The service manager listens there on.
    assert!(site.path("admin.sock").exists());
}

#[tokio::test]
async fn a_socket_of_the_service_manager_keeps_its_path_after_upgrades() {
    let site = Site::new();
    let path = site.path("admin.sock");
    let admin = UnixListener::bind(&path).unwrap();
    let settings = Settings {
        admin: Some(format!("listen: 'unix:{}'", path.display())),
        upgrade: Some("socket: upgrade.sock".into()),
        ..Settings::default()
    };
    let mut old =
        Daemon::start_as(activated(&[admin.as_fd()], "admin"), &site, "relay.yaml", &settings).await;
    drop(admin);
    for _ in 0..2 {
        let new = Daemon::start_as(successor(RELAY), &site, "relay.yaml", &settings).await;
        assert_eq!(old.exit().await.code(), Some(0));
        old = new;
        assert_eq!(Admin::of(&old).await[0].get("/readyz").await.status, 200);
    }
    old.signal(Signal::TERM);
    assert_eq!(old.exit().await.code(), Some(0));
    assert!(path.exists());
    assert!(!site.path("upgrade.sock").exists());
}

#[tokio::test]
async fn sockets_for_another_process_are_left_alone() {
    let site = Site::new();
    let mut command = Command::new(RELAY);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let daemon = Daemon::start_as(command, &site, "relay.yaml", &Settings::default()).await;
    assert_eq!(daemon.log().with(&["service manager"]), [""; 0]);
}
