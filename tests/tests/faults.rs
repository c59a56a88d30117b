//! A network that fails, and what a relay needs besides it: whoever it happens to is told or can tell, and nobody else
//! notices. Clients that go by themselves are in `vanishing.rs`; a collector that does not take its packets in
//! `trace.rs`, disks that are full under session records in `records.rs`, databases that go away in `credentials.rs`
//! and `databases.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "figures, and what could not run, are for whoever runs it")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use msrp_proto::flag::Flag;
use rustix::process::Signal;
use serde_json::json;
use tcp_transport::connector::MAX_LOOKUPS;
use tests::{
    Admin, Client, Content, Daemon, Fault, FaultProxy, Listener, Neighbours, Scheme, Send, Session, Settings,
    Site, Toward, tls_config, within,
};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// A file that goes from one neighbour to another again and again, and is compared byte by byte.
struct Transfer {
    files: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

impl Transfer {
    async fn begin(daemon: &Daemon, site: &Site) -> Self {
        let (mut alice, from_alice) = Client::with_session(daemon, site, Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = Client::with_session(daemon, site, Scheme::Msrp, "bob").await;
        let to = from_alice.to(&from_bob);
        let (stop, stopped) = watch::channel(false);
        let (count, files) = watch::channel(0);
        let task = tokio::spawn(async move {
            let content = Content::new(200_000);
            let mut sent = 0;
            while !*stopped.borrow() {
                sent += 1;
                let message = Send::text(&to, &format!("f{sent}"), "").with("Failure-Report: no");
                tokio::join!(
                    alice.tx.file(&message, &content, Some(20_000)),
                    bob.rx.file(&content, Some(&mut bob.tx))
                );
                let _ = count.send(sent);
            }
            sent
        });
        Self { files, stop, task }
    }

    /// It goes on now.
    async fn goes_on(&mut self) {
        self.files.borrow_and_update();
        within("the next file", self.files.changed()).await.unwrap();
    }

    async fn end(self) -> u64 {
        self.stop.send_replace(true);
        within("the last file", self.task).await.expect("the transfer, byte by byte")
    }
}

/// A client that logs in and sends a message in three chunks, of which each is answered: that goes to `answers`.
async fn visit(
    daemon: &Daemon,
    site: &Site,
    proxy: &FaultProxy,
    scheme: Scheme,
    to: &Session,
    answers: &mut Vec<u16>,
) -> io::Result<()> {
    let mut client = Client::try_connect(daemon, proxy.address(), tls_config(site, None), scheme).await?;
    let own = client.try_session("carol", "carolpw").await?;
    let content = Content::new(3000);
    for start in [0, 1000, 2000] {
        let transaction = client.tx.transaction();
        let message = Send {
            range: format!("{}-{}/3000", start + 1, start + 1000),
            ..Send::text(&own.to(to), "m", "")
        };
        let mut bytes = client.tx.head_text(&message, &transaction).into_bytes();
        bytes.extend_from_slice(content.piece(start, 1000));
        let flag = char::from(if start == 2000 { Flag::Complete } else { Flag::More }.as_byte());
        bytes.extend_from_slice(format!("\r\n-------{transaction}{flag}\r\n").as_bytes());
        client.tx.try_raw(&bytes).await?;
        let answer = client.rx.try_next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        answers.push(answer.status());
    }
    client.close().await;
    Ok(())
}

/// At how many places each way a connection breaks, evenly from its first byte to its last: within the handshakes of TLS
/// and WebSocket, AUTH, heads, bodies, between chunks, at answers.
const PLACES: u64 = 16;

async fn breaks_anywhere(scheme: Scheme) {
    let site = Site::new();
    let settings = Settings {
        wss: Some("127.0.0.1:0".into()),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        ..Settings::default()
    };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let mut transfer = Transfer::begin(&daemon, &site).await;
    let (mut dave, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "dave").await;
    let before = admin.metric("msrp_relay_msrp_sessions").await;

    // Once without a fault, to know how long it is.
    let proxy = FaultProxy::to(daemon.address(scheme)).await;
    let to_dave = dave.auth("dave", "davepw").await;
    let receive = async {
        loop {
            let message = dave.rx.next().await;
            if message.method() == "SEND" {
                dave.tx.respond(&message, 200).await;
            }
        }
    };
    let visits = async {
        let mut answers = Vec::new();
        visit(&daemon, &site, &proxy, scheme, &to_dave, &mut answers).await.expect("without a fault");
        assert_eq!(std::mem::take(&mut answers), [200; 3]);
        let (there, back) = proxy.carried();
        let mut broken = 0;
        for fault in [Fault::Reset, Fault::Truncate] {
            for (toward, bytes) in [(Toward::Target, there), (Toward::Source, back)] {
                for place in 0..PLACES {
                    let proxy = FaultProxy::to(daemon.address(scheme)).await;
                    proxy.plan(toward, bytes * place / PLACES, fault);
                    let outcome = visit(&daemon, &site, &proxy, scheme, &to_dave, &mut answers).await;
                    broken += usize::from(outcome.is_err());
                }
                transfer.goes_on().await;
            }
        }
        // 506: another visitor has the receiver's session still. `bind` is not what this is about.
        assert!(answers.iter().all(|status| matches!(status, 200 | 506)), "{answers:?}");
        assert!(answers.contains(&200), "{answers:?}");
        broken
    };
    let broken = tokio::select! {
        broken = visits => broken,
        () = receive => unreachable!(),
    };
    assert!(broken > 3 * PLACES as usize, "{broken}: most visits end early");
    let files = transfer.end().await;
    println!("{scheme:?}: {broken} connections broken, {files} files of 200 kB meanwhile");
    // The two that transferred have gone too, and dave has one session more.
    let left = async {
        while admin.metric("msrp_relay_msrp_sessions").await > before - 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the sessions of broken connections to end", left).await;
    daemon.assert_well();
}

#[tokio::test]
async fn a_plain_connection_that_breaks_anywhere_is_its_own_affair() {
    breaks_anywhere(Scheme::Msrp).await;
}

#[tokio::test]
async fn a_tls_connection_that_breaks_anywhere_is_its_own_affair() {
    breaks_anywhere(Scheme::Msrps).await;
}

#[tokio::test]
async fn a_websocket_that_breaks_anywhere_is_its_own_affair() {
    breaks_anywhere(Scheme::Wss).await;
}

/// Every message that is sent arrives, or its sender is told that it does not.
#[tokio::test]
async fn what_a_next_hop_did_not_answer_is_told_whatever_befell_the_way_there() {
    let site = Site::new();
    let timeouts = "response_timeout: 1s, send_timeout: 2s, stall_timeout: 1s".into();
    let mut daemon = Daemon::start(RELAY, &site, &Settings { timeouts, ..Settings::default() }).await;
    let mut transfer = Transfer::begin(&daemon, &site).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    // Toward the next hop: its first byte, within the head, within the body; back: the answer's first byte, and within it.
    let places = [0, 100, 1500].map(|after| (Toward::Target, after)).into_iter();
    let places: Vec<_> = places.chain([0, 50].map(|after| (Toward::Source, after))).collect();
    for (round, fault) in
        [Fault::Reset, Fault::Truncate, Fault::Silence, Fault::Stall].into_iter().enumerate()
    {
        for (toward, after) in &places {
            let listener = Listener::bind("127.0.0.1", None).await.unwrap();
            let proxy = FaultProxy::to(format!("127.0.0.1:{}", listener.port()).parse().unwrap()).await;
            proxy.plan(*toward, *after, fault);
            let uri = format!("msrp://127.0.0.1:{}/peer;tcp", proxy.address().port());
            let id = format!("m{round}{toward:?}{after}");
            let message = Send::text(&from_alice.to(&Session::without_relay(&uri)), &id, &"x".repeat(2000));
            let transaction = alice.tx.send(&message).await;
            let serve = tokio::spawn(async move {
                let mut peer = listener.accept(&uri).await;
                while let Ok(Some(message)) = peer.rx.try_next().await {
                    let _ = peer.tx.try_respond(&message, 200).await;
                }
            });
            let answer = alice.rx.response(&transaction).await;
            let status = match answer.status() {
                200 => {
                    let report = alice.receive_report().await;
                    assert_eq!(report.header("Message-ID"), id);
                    report.reported()
                }
                status => status,
            };
            assert!(matches!(status, 408 | 481), "{id}: {status}");
            serve.abort();
        }
        transfer.goes_on().await;
    }
    transfer.end().await;
    daemon.assert_well();
}

/// 20 ms each way on every piece: slower, and nothing else.
#[tokio::test]
async fn a_slow_way_is_slow_and_loses_nothing() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let proxy = FaultProxy::to(daemon.address(Scheme::Msrps)).await;
    proxy.plan(Toward::Target, 0, Fault::Latency(Duration::from_millis(20)));
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let config = tls_config(&site, None);
    let mut alice = Client::try_connect(&daemon, proxy.address(), config, Scheme::Msrps).await.unwrap();
    let from_alice = alice.auth("alice", "alicepw").await;
    let content = Content::new(1_000_000);
    let message = Send::text(&from_alice.to(&from_bob), "m", "").with("Failure-Report: no");
    tokio::join!(alice.tx.file(&message, &content, Some(100_000)), bob.rx.file(&content, Some(&mut bob.tx)));
    daemon.assert_well();
}

/// A name server that does not answer, for more names than there are threads to ask with: who needs no name waits for
/// none, and neither does who asks the relay how it is.
#[tokio::test]
async fn a_name_server_that_hangs_keeps_nobody_else_waiting() {
    // Which one is asked stands in a file of the whole machine, so the relay gets one of its own.
    const SERVER: &str = "127.53.53.53";
    let namespace = Command::new("unshare").args(["-rm", "true"]).status();
    let socket = UdpSocket::bind((SERVER, 53)).await;
    let (Ok(true), Ok(silent)) = (namespace.map(|status| status.success()), socket) else {
        println!("not run: it takes a mount namespace, and port 53");
        return;
    };
    let site = Site::new();
    let resolver = site.write("resolv.conf", &format!("nameserver {SERVER}\noptions timeout:5 attempts:2\n"));
    let mut command = Command::new("unshare");
    let script = format!("mount --bind '{}' /etc/resolv.conf && exec \"$0\" \"$@\"", resolver.display());
    command.args(["-rm", "sh", "-c", &script, RELAY]);
    let settings = Settings { admin: Some("listen: 'http://127.0.0.1:0'".into()), ..Settings::default() };
    let mut daemon = Daemon::start_as(command, &site, "relay.yaml", &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let mut transfer = Transfer::begin(&daemon, &site).await;
    let mut neighbours = Neighbours::join(&daemon, &site).await;

    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    const NAMES: usize = 700;
    let before = daemon.resources().threads;
    for number in 0..NAMES {
        let uri = format!("msrp://host{number}.example.com:2855/peer;tcp");
        let message = Send::text(&from_alice.to(&Session::without_relay(&uri)), &format!("m{number}"), "x");
        assert_eq!(alice.send(&message).await.status(), 200);
    }
    let mut question = [0; 512];
    within("a question for a name", silent.recv(&mut question)).await.unwrap();
    // Commands of the admin interface take threads of the same kind: there are some for it.
    let statistics = admin.mi("get_statistics", json!({ "statistics": ["all"] }));
    within("an answer of the admin interface", statistics).await;
    // A few more for what goes on besides.
    let threads = daemon.resources().threads - before;
    assert!(threads <= MAX_LOOKUPS as u64 + 16, "{threads}: one for each name");
    neighbours.chat().await;
    transfer.goes_on().await;
    // All of them in vain: the whole of connecting has 15 s.
    let mut told = BTreeSet::new();
    while told.len() < NAMES {
        let report = alice.receive_report().await;
        assert_eq!(report.reported(), 408);
        assert!(told.insert(report.header("Message-ID").to_owned()), "{report:?}: once");
    }
    neighbours.chat().await;
    transfer.end().await;
    daemon.assert_well();
}

/// The log's disk is full: the relay goes on, and when there is room again the log says what it lacks.
#[tokio::test]
async fn a_full_disk_under_the_log_costs_its_lines_and_nothing_else() {
    let site = Site::new();
    let log = site.path("relay.log");
    let admin = || Settings { admin: Some("listen: 'http://127.0.0.1:0'".into()), ..Settings::default() };
    let mut daemon = Daemon::start(RELAY, &site, &admin()).await;
    let metrics = Admin::of(&daemon).await.remove(0);
    let mut transfer = Transfer::begin(&daemon, &site).await;
    // As a full disk answers: each write to /dev/full fails with ENOSPC.
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    let to_file = Settings { log: "to: 'file:relay.log'".into(), ..admin() };
    site.write("relay.yaml", &to_file.to_yaml());
    daemon.signal(Signal::HUP);
    let lost = async || metrics.metric("msrp_relay_log_lines_lost_total").await;
    let reloaded = async {
        while lost().await == 0.0 {
            Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await.0.close().await;
        }
    };
    within("the first line to be lost", reloaded).await;
    let mut neighbours = Neighbours::join(&daemon, &site).await;
    for _ in 0..20 {
        let (client, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        client.close().await;
        neighbours.chat().await;
    }
    transfer.goes_on().await;
    assert!(lost().await >= 20.0, "a line for each of them, at least: {}", lost().await);
    fs::remove_file(&log).unwrap();
    daemon.signal(Signal::HUP);
    let told = async {
        loop {
            Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await.0.close().await;
            if fs::read_to_string(&log).unwrap_or_default().contains("lines of the log were lost") {
                return;
            }
        }
    };
    within(format_args!("the log to say what it lacks, {:?}", daemon.log()), told).await;
    transfer.end().await;
    daemon.assert_well();
}

/// SIGKILL, and a new process on the same ports: clients see their connections end, what they had is gone, and they log
/// in again.
#[tokio::test]
async fn a_relay_that_was_killed_serves_again_after_a_restart() {
    let site = Site::new();
    let config = Arc::new(site.path("relay.yaml"));
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let at = |scheme| Some(daemon.address(scheme).to_string());
    let ports = Settings { tls: at(Scheme::Msrps), plain: at(Scheme::Msrp), ..Settings::default() }.to_yaml();
    for round in 0..3 {
        let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
        let message = Send { range: "1-*/*".into(), ..Send::text(&from_alice.to(&from_bob), "m", "") };
        alice.tx.begin(&message).await;
        alice.tx.raw(&[b'x'; 5000]).await;
        bob.rx.head().await;
        daemon.signal(Signal::KILL);
        daemon.exit().await;
        assert!(!matches!(alice.rx.try_next().await, Ok(Some(_))), "{round}");
        let mut rest = bob.rx.event().await;
        while let Ok(Some(_)) = rest {
            rest = bob.rx.event().await;
        }
        site.write("relay.yaml", &ports);
        let next = Daemon::spawn(Command::new(RELAY), &config);
        next.log().wait_for(&["ready", "listening"]).await;
        daemon = next.at_the_addresses_of(&daemon);
        let (mut alice, again) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        assert_ne!(again.use_path, from_alice.use_path);
        let lost = alice.send(&Send::text(&again.to(&from_bob), "m", "x")).await;
        assert_eq!(lost.status(), 481, "its session went with the process");
    }
    daemon.assert_well();
}
