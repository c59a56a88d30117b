//! An upgrade under a service manager: whose child the next process is, what a stop of the service means to the
//! processes before it, and which program is started.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};
use serde_json::json;
use tests::{Admin, Client, Daemon, Scheme, ServiceManager, Site, within};

use crate::{RELAY, chat, settings, start, successor, upgrade};

/// Has the relay start its program again; the next process' number.
async fn upgraded(admin: &Admin) -> Pid {
    let answer = admin.mi("upgrade", json!([])).await;
    let pid = answer["State"].as_str().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    Pid::from_raw(pid).unwrap()
}

fn parent(pid: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    Pid::from_raw(parent.trim().parse().unwrap())
}

#[tokio::test]
async fn the_service_manager_is_the_next_process_parent_and_hears_of_its_end() {
    // As systemd is: orphans become its children.
    set_child_subreaper(Some(getpid())).unwrap();
    let site = Site::new();
    let old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let next = upgraded(&Admin::of(&old).await.remove(0)).await;
    assert_eq!(parent(next), Some(getpid()));
    kill_process(next, Signal::KILL).unwrap();
    let ended = async {
        loop {
            match waitpid(Some(next), WaitOptions::NOHANG).unwrap() {
                Some((_, status)) => return status.terminating_signal(),
                None => tokio::task::yield_now().await,
            }
        }
    };
    assert_eq!(within("the end of its child", ended).await, Some(Signal::KILL.as_raw()));
    old.log().wait_for(&["the next process has ended"]).await;
    let to_self = tests::Send::text(&from_alice.to(&from_alice), "m", "still here");
    assert_eq!(alice.send(&to_self).await.status(), 200);
}

/// What systemd does: each process of the service gets SIGTERM, and once more those that are left when the main one has
/// ended.
#[tokio::test]
async fn a_stop_of_the_service_waits_for_sessions_of_older_processes() {
    let site = Site::new();
    let manager = ServiceManager::new(&site);
    let mut old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let mut command = successor();
    command.env("NOTIFY_SOCKET", manager.path());
    let mut new = Daemon::start_as(command, &site, "relay.yaml", &settings()).await;
    old.log().wait_for(&["draining", "upgrade"]).await;
    manager.until("READY=1").await;

    for process in [&old, &new] {
        process.signal(Signal::TERM);
        process.log().wait_for(&["draining", "signal"]).await;
    }
    old.signal(Signal::TERM);
    manager.until("STOPPING=1").await;
    for _ in 0..2 {
        let lines = manager.until("EXTEND_TIMEOUT_USEC=").await;
        let status = "STATUS=draining: 0 sessions, 0 busy connections, 1 sessions in 1 older processes, ";
        assert!(lines.iter().any(|line| line.starts_with(status)), "{lines:?}");
    }
    let to_self = tests::Send::text(&from_alice.to(&from_alice), "m", "still here");
    assert_eq!(alice.send(&to_self).await.status(), 200);
    assert_eq!(alice.receive().await.text(), "still here");
    new.assert_well();

    alice.close().await;
    assert_eq!(old.exit().await.code(), Some(0));
    assert_eq!(new.exit().await.code(), Some(0));
}

#[tokio::test]
async fn sigint_hurries_a_process_that_was_handed_over() {
    let site = Site::new();
    let mut old = start(&site).await;
    let (mut alice, _) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let mut new = upgrade(&site, &old).await;
    old.signal(Signal::TERM);
    old.log().wait_for(&["draining", "signal"]).await;
    old.signal(Signal::INT);
    alice.rx.end().await.expect("TLS ends with close_notify");
    assert_eq!(old.exit().await.code(), Some(0));
    new.assert_well();
}

#[tokio::test]
async fn an_operators_drain_waits_for_sessions_of_older_processes() {
    let site = Site::new();
    let mut old = start(&site).await;
    let (alice, _) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let mut new = upgrade(&site, &old).await;
    let mut idle = Client::connect(&new, &site, Scheme::Msrp).await;
    Admin::of(&new).await.remove(0).mi("drain", json!([])).await;
    // It sees that it has nothing left of its own: it lets go of who has no session, and stays.
    idle.rx.end().await.expect("TCP ends with FIN");
    new.assert_well();
    alice.close().await;
    assert_eq!(old.exit().await.code(), Some(0));
    assert_eq!(new.exit().await.code(), Some(0));
}

#[tokio::test]
async fn who_is_relayed_to_an_older_process_is_not_cut_off_by_the_new_ones_stop() {
    let site = Site::new();
    let mut old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&old, &site, Scheme::Msrps, "bob").await;
    let mut new = upgrade(&site, &old).await;
    let mut peer = Client::connect(&new, &site, Scheme::Msrps).await;
    let to_peer = peer.without_relay();
    chat((&mut peer, &to_peer), (&mut alice, &from_alice), "before").await;
    // Nobody knows yet whom this one is for.
    let mut late = Client::connect(&new, &site, Scheme::Msrps).await;
    let to_late = late.without_relay();
    new.signal(Signal::TERM);
    new.log().wait_for(&["draining", "signal"]).await;
    chat((&mut late, &to_late), (&mut bob, &from_bob), "late").await;
    chat((&mut peer, &to_peer), (&mut alice, &from_alice), "there").await;
    chat((&mut alice, &from_alice), (&mut peer, &to_peer), "back").await;
    new.assert_well();
    alice.close().await;
    bob.close().await;
    for mut peer in [peer, late] {
        peer.rx.end().await.expect("TLS ends with close_notify");
    }
    assert_eq!(old.exit().await.code(), Some(0));
    assert_eq!(new.exit().await.code(), Some(0));
}

#[tokio::test]
async fn who_is_still_relayed_after_that_time_is_let_go_in_order() {
    let site = Site::new();
    let brief = tests::Settings { timeouts: "drain_timeout: 300ms".into(), ..settings() };
    let mut old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let mut new = Daemon::start_as(successor(), &site, "relay.yaml", &brief).await;
    let mut peer = Client::connect(&new, &site, Scheme::Msrps).await;
    let to_peer = peer.without_relay();
    chat((&mut peer, &to_peer), (&mut alice, &from_alice), "before").await;
    let mut silent = Client::connect(&new, &site, Scheme::Msrps).await;
    let mut late = Client::connect(&new, &site, Scheme::Msrps).await;
    let (mut carol, _) = Client::with_session(&new, &site, Scheme::Msrps, "carol").await;
    new.signal(Signal::TERM);
    // The drain is over, and the older process is waited for.
    carol.rx.end().await.expect("TLS ends with close_notify");
    // It turns out now that this one is for nobody older.
    let to = [late.relay_uri().to_owned()];
    late.tx.request("AUTH", &to, "").await;
    let answers = late.rx.rest_in_order().await.expect("TLS ends with close_notify");
    let statuses: Vec<_> = answers.iter().map(tests::Message::status).collect();
    // None at all, if it came too late.
    assert!([&[][..], &[408]].contains(&&statuses[..]), "{statuses:?}");
    for peer in [&mut peer, &mut silent] {
        peer.rx.end().await.expect("TLS ends with close_notify");
    }
    assert_eq!(new.exit().await.code(), Some(0));
    // It was told nothing, and goes on.
    let to_self = tests::Send::text(&from_alice.to(&from_alice), "m", "still here");
    assert_eq!(alice.send(&to_self).await.status(), 200);
    old.assert_well();
}

#[tokio::test]
async fn what_a_switched_symlink_leads_to_by_then_is_started() {
    let site = Site::new();
    let path = |name: &str| site.path(name);
    for version in ["v1", "v2"] {
        std::fs::create_dir(path(version)).unwrap();
    }
    std::fs::copy(RELAY, path("v1/msrp-relay")).unwrap();
    // The new version leaves a mark, and is the relay.
    let marked = path("marked");
    let script = format!("#!/bin/sh\ntouch '{}'\nexec {RELAY} \"$@\"\n", marked.display());
    std::fs::write(path("v2/msrp-relay"), script).unwrap();
    std::fs::set_permissions(path("v2/msrp-relay"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("v1", path("current")).unwrap();
    let command = Command::new(path("current/msrp-relay"));
    let old = Daemon::start_as(command, &site, "relay.yaml", &settings()).await;

    // As installers do it. Of the old version nothing is left.
    symlink("v2", path("next")).unwrap();
    std::fs::rename(path("next"), path("current")).unwrap();
    std::fs::remove_dir_all(path("v1")).unwrap();
    let admin = Admin::of(&old).await.remove(0);
    let next = upgraded(&admin).await;
    assert!(marked.exists());
    assert_eq!(admin.mi("ps", json!([])).await["Processes"][0]["PID"].to_string(), next.to_string());
    kill_process(next, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_to_who_has_asked() {
    let site = Site::new();
    std::fs::copy(RELAY, site.path("msrp-relay")).unwrap();
    let command = Command::new(site.path("msrp-relay"));
    let mut old = Daemon::start_as(command, &site, "relay.yaml", &settings()).await;
    std::fs::remove_file(site.path("msrp-relay")).unwrap();
    let (code, why) = Admin::of(&old).await.remove(0).call("upgrade", json!([])).await.unwrap_err();
    assert!(code == 500 && why.contains("cannot be started: No such file"), "{why}");
    old.signal(Signal::TERM);
    assert_eq!(old.exit().await.code(), Some(0));
}

/// Who wanted it has gone before it was told that the program was started.
#[tokio::test]
async fn a_program_that_nobody_hears_of_is_taken_away() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    drop(ours);
    let mut apart = tokio::process::Command::new(RELAY);
    apart.args(["apart", "--", "sleep", "1000"]).stdin(std::os::fd::OwnedFd::from(theirs));
    // The program has the same standard error.
    let output = within("the end of both", apart.output()).await.unwrap();
    assert!(!output.status.success(), "{output:?}");
}
