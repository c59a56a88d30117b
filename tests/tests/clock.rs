//! The wall clock jumps, forth and back: sessions go on, and whoever logs in gets in. The relay runs under libfaketime
//! (`apt-get install libfaketime`), without which there is nothing to see here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "figures, and what could not run, are for whoever runs it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use msrp_proto::digest::Challenge;
use rustix::process::Signal;
use tests::{Admin, Client, Daemon, Scheme, Send, Settings, Site, tls_config};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// Where Debian and others put it.
fn libfaketime() -> Option<PathBuf> {
    let places = fs::read_dir("/usr/lib").ok()?.flatten().map(|place| place.path());
    let library = |place: PathBuf| place.join("faketime/libfaketimeMT.so.1");
    places
        .chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")])
        .map(library)
        .find(|path| path.exists())
}

/// A relay whose clock is as far off as `file` says.
fn under(library: &Path, file: &Path) -> Command {
    let mut command = Command::new(RELAY);
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", file);
    // Its clock is looked at anew each time; that of intervals is left alone, as the system's does not jump.
    command
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    command
}

#[tokio::test]
async fn sessions_go_on_and_logins_work_after_the_wall_clock_has_jumped() {
    let Some(library) = libfaketime() else {
        println!("not run: there is no libfaketime");
        return;
    };
    let site = Site::new();
    let file = site.write("offset", "+0\n");
    let settings = Settings { admin: Some("listen: 'http://127.0.0.1:0'".into()), ..Settings::default() };
    let mut daemon = Daemon::start_as(under(&library, &file), &site, "relay.yaml", &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let mut dates = Vec::new();
    for (round, offset) in ["+2h", "-2h", "+20d", "+0", "-20d", "+1s"].into_iter().enumerate() {
        let mut waiting = Client::connect(&daemon, &site, Scheme::Msrps).await;
        let to = [waiting.relay_uri().to_owned()];
        let challenge = waiting.challenge(&to).await;
        fs::write(&file, format!("{offset}\n")).unwrap();

        let to_bob = Send::text(&from_alice.to(&from_bob), "m", &format!("round {round}"));
        assert_eq!(
            alice.send(&to_bob).await.status(),
            200,
            "{offset}: a session is granted for some time, not until"
        );
        assert_eq!(bob.receive().await.text(), format!("round {round}"));
        // The challenge of before is of another time: there is a new one, if it is too far off.
        let answered = waiting.answer(&to, &challenge, "carol", "carolpw", "").await;
        if answered.status() != 200 {
            assert_eq!(
                (answered.status(), answered.headers("WWW-Authenticate").len()),
                (401, 1),
                "{answered:?}"
            );
            let challenge = Challenge::strongest(answered.headers("WWW-Authenticate")).unwrap();
            assert_eq!(
                waiting.answer(&to, &challenge, "carol", "carolpw", "").await.status(),
                200,
                "{offset}"
            );
        }
        for (scheme, user) in [(Scheme::Msrps, "carol"), (Scheme::Msrp, "dave")] {
            let (mut client, session) = Client::with_session(&daemon, &site, scheme, user).await;
            assert_eq!(client.send(&Send::text(&session.to(&session), "m", "to myself")).await.status(), 200);
            assert_eq!(client.receive().await.text(), "to myself");
            client.auth(user, &format!("{user}pw")).await;
        }
        let uptime = admin.mi("uptime", serde_json::Value::Null).await;
        dates.push(uptime["Now"].as_str().unwrap_or_default().to_owned());
    }
    dates.sort();
    dates.dedup();
    assert!(dates.len() >= 5, "the relay's clock has jumped: {dates:?}");
    daemon.assert_well();
}

/// Certificates of the relay and of a client that are good for 40 days more.
#[tokio::test]
async fn certificates_end_by_the_clock_of_the_moment() {
    let Some(library) = libfaketime() else {
        println!("not run: there is no libfaketime");
        return;
    };
    let site = Site::new();
    let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60 + 3600);
    site.issue_for("short", &["relay.test", "localhost", "127.0.0.1"], days(40));
    let visitor = site.issue_for("visitor", &["visitor.test"], days(40));
    let file = site.write("offset", "+0\n");
    let settings = Settings {
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        identity: "short".into(),
        log: "level: debug, format: text".into(),
        ..Settings::default()
    };
    let mut daemon = Daemon::start_as(under(&library, &file), &site, "relay.yaml", &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    // The same for all, which offers the TLS sessions of before.
    let known = tls_config(&site, Some(&visitor));
    let (mut unverified, mut ended) = (0, 0);
    let refused = ["INFO", "client certificate does not verify", "expired"];
    // 962 h are 40 days and 2 hours: the sessions that `known` offers then are two hours old.
    let offsets =
        [("+0", 40), ("+39d", 1), ("+40d", 0), ("+962h", -1), ("+0", 40), ("+400d", -360), ("+20d", 20)];
    for (offset, left) in offsets {
        fs::write(&file, format!("{offset}\n")).unwrap();
        let told = admin.mi("tls_list", serde_json::Value::Null).await;
        let domain = told["Domains"].as_array().unwrap().iter().find(|domain| domain["ID"] == "main");
        assert_eq!(domain.unwrap()["certificate"]["days_left"], left, "{offset}: {told}");
        let resumed = daemon.log().with(&["DEBUG accepted", " resumed"]).len();
        for config in [tls_config(&site, Some(&visitor)), known.clone()] {
            let mut client = Client::connect_with(&daemon, config, Scheme::Msrps).await;
            client.auth("alice", "alicepw").await;
            client.close().await;
            unverified += usize::from(left < 0);
            daemon.log().wait_for_lines(&refused, unverified).await;
        }
        if offset == "+962h" {
            daemon.log().wait_for_lines(&["DEBUG accepted", " resumed"], resumed + 1).await;
        }
        // What the log says daily, it says at a reload, too.
        let reloads = daemon.log().with(&["configuration reloaded"]).len();
        daemon.signal(Signal::HUP);
        daemon.log().wait_for_lines(&["configuration reloaded"], reloads + 1).await;
        ended += usize::from(left < 0);
        let over = ["WARN", "server domain main: certificate", "short.crt", "has expired on"];
        assert_eq!(daemon.log().with(&over).len(), ended, "{offset}");
        // A session of the domain as it is now.
        let mut client = Client::connect_with(&daemon, known.clone(), Scheme::Msrps).await;
        client.auth("alice", "alicepw").await;
        client.close().await;
        unverified += usize::from(left < 0);
    }
    // The log is written by another task; what it has now, it has of all of them.
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit().await.code(), Some(0));
    assert_eq!(daemon.log().with(&refused).len(), unverified);
    let soon = ["WARN", "server domain main: certificate", "short.crt", "expires in 1 day"];
    assert_eq!(daemon.log().with(&soon).len(), 1);
    assert_eq!(daemon.log().with(&[" ERROR "]), [""; 0]);
}
