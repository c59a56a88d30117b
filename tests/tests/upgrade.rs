//! Another process takes over from the daemon: nobody is cut off, nobody is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use msrp_proto::flag::Flag;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Admin, Client, Content, Daemon, Scheme, Send, ServiceManager, Session, Settings, Site, within};
use tokio::net::TcpStream;

#[path = "upgrade/failures.rs"]
mod failures;
#[path = "upgrade/neighbours.rs"]
mod neighbours;
#[path = "upgrade/service.rs"]
mod service;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

fn settings() -> Settings {
    let any_port = || Some("127.0.0.1:0".to_owned());
    Settings {
        ws: any_port(),
        wss: any_port(),
        admin: Some("listen: ['unix:admin.sock', 'http://127.0.0.1:0']".into()),
        upgrade: Some("socket: upgrade.sock".into()),
        timeouts: "drain_timeout: 1h".into(),
        ..Settings::default()
    }
}

/// The relay with `--upgrade`.
fn successor() -> Command {
    tests::successor(RELAY)
}

async fn start(site: &Site) -> Daemon {
    Daemon::start(RELAY, site, &settings()).await
}

/// A process at `upgrade.socket` that says what a test has it say.
struct Silent(std::os::fd::OwnedFd);

impl Silent {
    fn at(site: &Site) -> Self {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket, sockopt};
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        bind(&socket, &SocketAddrUnix::new(site.path("upgrade.sock")).unwrap()).unwrap();
        listen(&socket, 1).unwrap();
        // For accept, too.
        let long = std::time::Duration::from_secs(60);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(long)).unwrap();
        Self(socket)
    }

    fn accept(&self) -> std::os::fd::OwnedFd {
        rustix::net::accept(&self.0).unwrap()
    }
}

/// Starts another process, which takes over from `old`.
async fn upgrade(site: &Site, old: &Daemon) -> Daemon {
    upgrade_to(site, "relay.yaml", old, &settings()).await
}

/// As [`upgrade`], of a relay with other settings.
async fn upgrade_to(site: &Site, file: &str, old: &Daemon, settings: &Settings) -> Daemon {
    let new = Daemon::start_as(successor(), site, file, settings).await;
    old.log().wait_for(&["draining", "upgrade"]).await;
    assert_eq!(new.addresses(), old.addresses());
    new
}

fn tag(session: &Session) -> &str {
    let id = session.use_path[0].rsplit('/').next().unwrap().split(';').next().unwrap();
    &id[..5]
}

/// One message from one to the other, answered.
async fn chat(from: (&mut Client, &Session), to: (&mut Client, &Session), body: &str) {
    let transaction = from.0.tx.send(&Send::text(&from.1.to(to.1), &body.replace(' ', "-"), body)).await;
    assert_eq!(to.0.receive().await.text(), body);
    assert_eq!(from.0.rx.response(&transaction).await.status(), 200);
}

/// A file of so many bytes from one to the other, in one chunk, with `halfway` when half of it was sent.
async fn transfer<T>(
    from: (&mut Client, &Session),
    to: (Client, &Session),
    len: u64,
    halfway: impl AsyncFnOnce() -> T,
) -> (Client, T) {
    const PIECE: usize = 64 * 1024;
    let content = Arc::new(Content::new(len));
    let message = Send {
        to: from.1.to(to.1),
        message: "file".into(),
        range: format!("1-{len}/{len}"),
        ..Send::default()
    };
    let transaction = from.0.tx.begin(&message).await;
    let (expected, mut receiver) = (Arc::clone(&content), to.0);
    let receiving = tokio::spawn(async move {
        receiver.rx.head().await;
        let (body, flag) = receiver.rx.rest_of_chunk().await;
        expected.check(0, &body);
        assert_eq!((body.len() as u64, flag), (len, Flag::Complete));
        receiver
    });
    let mut sent = 0;
    let mut send = async |until: u64| {
        while sent < until {
            let piece = content.piece(sent, PIECE);
            from.0.tx.raw(piece).await;
            sent += piece.len() as u64;
        }
    };
    send(len / 2).await;
    let done = halfway().await;
    send(len).await;
    from.0.tx.end(&transaction, Flag::Complete).await;
    let receiver = receiving.await.unwrap();
    assert_eq!(from.0.rx.response(&transaction).await.status(), 200);
    (receiver, done)
}

#[tokio::test]
async fn a_transfer_goes_on_and_new_sessions_are_the_next_process() {
    let site = Site::new();
    let mut old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let (bob, from_bob) = Client::with_session(&old, &site, Scheme::Msrps, "bob").await;
    let len = 50 * 1024 * 1024;
    let ends = ((&mut alice, &from_alice), (bob, &from_bob));
    let (bob, mut new) = transfer(ends.0, ends.1, len, async || upgrade(&site, &old).await).await;

    let (carol, from_carol) = Client::with_session(&new, &site, Scheme::Msrps, "carol").await;
    assert_ne!(tag(&from_carol), tag(&from_alice));
    assert_eq!(tag(&from_bob), tag(&from_alice));
    // Who wants a new session of the old process gets it where there are some.
    let to = [alice.relay_uri().to_owned()];
    assert_eq!(alice.request("AUTH", &to, "").await.status(), 408);

    alice.close().await;
    bob.close().await;
    assert_eq!(old.exit().await.code(), Some(0));
    assert_eq!(old.log().with(&["panicked"]), [""; 0]);
    new.log().wait_for(&["the process before this one has ended"]).await;
    carol.close().await;
    new.assert_well();
}

/// The admin interface has a runtime of its own, which ends when another process takes over.
#[tokio::test]
async fn connections_of_a_listener_that_a_reload_has_added_live_on() {
    let site = Site::new();
    let old = start(&site).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let moved = Settings { plain: Some(format!("127.0.0.1:{port}")), ..settings() };
    site.write("relay.yaml", &moved.to_yaml());
    Admin::of(&old).await.remove(0).mi("tls_mgm:reload", Value::Null).await;
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let relay = format!("msrp://relay.test:{port};tcp");
    let mut carol = Client::over(tests::Stream::Plain(socket), "msrp://client.invalid:1/a;tcp", &relay);
    let from_carol = carol.auth("carol", "carolpw").await;

    let new = Daemon::start_as(successor(), &site, "relay.yaml", &moved).await;
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", old.pid())).unwrap().flatten();
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect::<Vec<_>>()
    };
    let ended = async {
        while threads().iter().any(|name| name == "admin\n") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within("the old process' admin interface ends", ended).await;
    let to_self = Send::text(&from_carol.to(&from_carol), "m", "still here");
    assert_eq!(carol.send(&to_self).await.status(), 200);
    assert_eq!(carol.receive().await.body, b"still here");
    drop(new);
}

#[tokio::test]
async fn peers_reach_the_sessions_that_are_left() {
    let site = Site::new();
    let old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let mut new = upgrade(&site, &old).await;
    let admin = Admin::of(&new).await.remove(0);
    for (number, scheme) in [Scheme::Msrp, Scheme::Msrps].into_iter().enumerate() {
        // It has no session anywhere: the relay is reached by the path that alice has told it.
        let mut peer = Client::connect(&new, &site, scheme).await;
        let to_peer = peer.without_relay();
        chat((&mut peer, &to_peer), (&mut alice, &from_alice), "there").await;
        chat((&mut alice, &from_alice), (&mut peer, &to_peer), "back").await;
        assert_eq!(admin.metric("msrp_relay_handed_connections_total").await, number as f64 + 1.0);
        // A large message, both ways at once.
        let content = Content::new(3_000_000);
        let whole = Send { to: to_peer.to(&from_alice), message: "large".into(), ..Send::default() };
        let (_, answered) =
            tokio::join!(peer.tx.file(&whole, &content, None), alice.rx.file(&content, Some(&mut alice.tx)));
        assert!(answered.is_empty(), "{answered:?}");
        peer.close().await;
        // The next peer is another one.
        old.log().wait_for(&["connection closed", "closed by the peer"]).await;
    }
    let status: Value = serde_json::from_str(&admin.get("/status.json").await.body).unwrap();
    assert_eq!(status["older_processes"][0]["pid"], old.pid());
    assert_eq!(admin.metric("msrp_relay_older_processes").await, 1.0);
    new.assert_well();
}

#[tokio::test]
async fn browsers_reach_the_sessions_that_are_left() {
    let site = Site::new();
    let old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let mut new = upgrade(&site, &old).await;
    for scheme in [Scheme::Ws, Scheme::Wss] {
        let mut peer = Client::connect(&new, &site, scheme).await;
        let to_peer = peer.without_relay();
        chat((&mut peer, &to_peer), (&mut alice, &from_alice), "there").await;
        chat((&mut alice, &from_alice), (&mut peer, &to_peer), "back").await;
        peer.close().await;
    }
    new.assert_well();
}

#[tokio::test]
async fn sessions_of_two_processes_talk_to_each_other() {
    let site = Site::new();
    let old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let (mut dave, from_dave) = Client::with_session(&old, &site, Scheme::Msrp, "dave").await;
    let mut new = upgrade(&site, &old).await;
    let (mut bob, from_bob) = Client::with_session(&new, &site, Scheme::Msrps, "bob").await;
    let (mut carol, from_carol) = Client::with_session(&new, &site, Scheme::Wss, "carol").await;
    // Whoever speaks first.
    chat((&mut alice, &from_alice), (&mut bob, &from_bob), "old to new").await;
    chat((&mut bob, &from_bob), (&mut alice, &from_alice), "new to old").await;
    chat((&mut carol, &from_carol), (&mut dave, &from_dave), "new to old").await;
    chat((&mut dave, &from_dave), (&mut carol, &from_carol), "old to new").await;
    new.assert_well();
}

#[tokio::test]
async fn several_generations_live_side_by_side() {
    let site = Site::new();
    let mut first = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&first, &site, Scheme::Msrps, "alice").await;
    let mut second = upgrade(&site, &first).await;
    let (mut bob, from_bob) = Client::with_session(&second, &site, Scheme::Msrps, "bob").await;
    let (mut dave, from_dave) = Client::with_session(&second, &site, Scheme::Msrp, "dave").await;
    let mut third = upgrade(&site, &second).await;
    let (mut carol, from_carol) = Client::with_session(&third, &site, Scheme::Msrps, "carol").await;
    let admin = Admin::of(&third).await.remove(0);
    assert_eq!(admin.metric("msrp_relay_older_processes").await, 2.0);
    chat((&mut carol, &from_carol), (&mut alice, &from_alice), "third to first").await;
    chat((&mut alice, &from_alice), (&mut bob, &from_bob), "first to second").await;
    chat((&mut bob, &from_bob), (&mut carol, &from_carol), "second to third").await;
    let mut peer = Client::connect(&third, &site, Scheme::Msrps).await;
    let to_peer = peer.without_relay();
    chat((&mut peer, &to_peer), (&mut dave, &from_dave), "to the second").await;

    alice.close().await;
    assert_eq!(first.exit().await.code(), Some(0));
    bob.close().await;
    dave.close().await;
    assert_eq!(second.exit().await.code(), Some(0));
    within("both to be forgotten", async {
        while admin.metric("msrp_relay_older_processes").await > 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // A session of a process that has ended is one that there is not.
    let mut peer = Client::connect(&third, &site, Scheme::Msrps).await;
    let gone = Send::text(&peer.without_relay().to(&from_alice), "m", "anybody?");
    assert_eq!(peer.send(&gone).await.status(), 481);
    third.assert_well();
}

#[tokio::test]
async fn a_process_that_cannot_start_changes_nothing() {
    let site = Site::new();
    let mut old = start(&site).await;
    let (mut alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    // One that cannot listen: the port is taken by another listener of its own.
    let wrong = Settings { sip_tcp: None, plain: Some("192.0.2.1:9".into()), ..settings() };
    let config = site.write("wrong.yaml", &wrong.to_yaml());
    let mut new = Daemon::spawn(successor(), &config);
    assert_eq!(new.exit().await.code(), Some(1));
    old.log().wait_for(&["everything goes on as before"]).await;
    // One that does not want to take over.
    let mut new = Daemon::spawn(Command::new(RELAY), &site.path("relay.yaml"));
    assert_eq!(new.exit().await.code(), Some(1));
    assert_eq!(new.log().with(&["a relay runs already", "run --upgrade"]).len(), 1, "{:?}", new.log());

    let (mut bob, from_bob) = Client::with_session(&old, &site, Scheme::Msrps, "bob").await;
    chat((&mut alice, &from_alice), (&mut bob, &from_bob), "there").await;
    let admin = Admin::of(&old).await;
    for admin in admin {
        assert_eq!(admin.get("/readyz").await.status, 200);
    }
    old.assert_well();
    // And then one that can.
    upgrade(&site, &old).await;
}

#[tokio::test]
async fn who_is_late_takes_nothing_along() {
    let site = Site::new();
    let hasty = Settings { upgrade: Some("socket: upgrade.sock, start_timeout: 1ms".into()), ..settings() };
    let mut old = Daemon::start(RELAY, &site, &hasty).await;
    let mut new = Daemon::spawn(successor(), &site.path("relay.yaml"));
    assert_eq!(new.exit().await.code(), Some(1));
    assert_eq!(new.log().with(&["the relay that runs refuses", "in time"]).len(), 1, "{:?}", new.log());
    for admin in Admin::of(&old).await {
        assert_eq!(admin.get("/readyz").await.status, 200);
    }
    Client::with_session(&old, &site, Scheme::Wss, "alice").await;
    old.assert_well();
    old.signal(Signal::TERM);
    assert_eq!(old.exit().await.code(), Some(0));
    for path in ["upgrade.sock", "admin.sock"] {
        assert!(!site.path(path).exists(), "{path}");
    }
}

#[tokio::test]
async fn nobody_is_refused_meanwhile() {
    let site = Site::new();
    let first = start(&site).await;
    let stop = Arc::new(AtomicBool::new(false));
    let connected = Arc::new(AtomicUsize::new(0));
    let mut flood = Vec::new();
    for scheme in [Scheme::Msrp, Scheme::Msrps, Scheme::Msrps, Scheme::Msrp] {
        let (address, stop, connected) = (first.address(scheme), Arc::clone(&stop), Arc::clone(&connected));
        let config = tests::tls_config(&site, None);
        flood.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let socket = TcpStream::connect(address).await.expect("nobody is refused");
                if scheme == Scheme::Msrps {
                    let handshake = tests::tls_handshake(Arc::clone(&config), socket, "relay.test");
                    handshake.await.expect("each handshake is finished");
                }
                connected.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let progress = async |wanted: usize| {
        let begin = connected.load(Ordering::Relaxed);
        within("connections", async {
            while connected.load(Ordering::Relaxed) < begin + wanted {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    progress(20).await;
    let second = upgrade(&site, &first).await;
    progress(20).await;
    let third = upgrade(&site, &second).await;
    progress(20).await;
    stop.store(true, Ordering::Relaxed);
    for one in flood {
        one.await.unwrap();
    }
    drop(third);
}

#[tokio::test]
async fn the_program_is_started_again_by_order_and_the_service_manager_hears_of_it() {
    let site = Site::new();
    let manager = ServiceManager::new(&site);
    let mut command = Command::new(RELAY);
    command.env("NOTIFY_SOCKET", manager.path());
    let old = Daemon::start_as(command, &site, "relay.yaml", &settings()).await;
    manager.until("READY=1").await;
    let (_alice, from_alice) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let admin = Admin::of(&old).await.remove(0);

    // A configuration that cannot be: told to who has asked.
    let good = std::fs::read_to_string(site.path("relay.yaml")).unwrap();
    site.write("relay.yaml", "domain: [");
    let (code, why) = admin.call("upgrade", json!([])).await.unwrap_err();
    assert!(code == 500 && why.contains("everything goes on as before"), "{why}");
    site.write("relay.yaml", &good);

    let answer = admin.mi("upgrade", json!([])).await;
    let pid = answer["State"].as_str().unwrap().split(' ').nth(1).unwrap().to_owned();
    assert_ne!(pid, old.pid().to_string());
    // The old one names the new one, who says the rest.
    let main = format!("MAINPID={pid}");
    assert_eq!(manager.until("MAINPID=").await, std::slice::from_ref(&main));
    assert!(manager.until("READY=1").await.contains(&main));
    // The same address, another process.
    assert_eq!(admin.mi("ps", json!([])).await["Processes"][0]["PID"].to_string(), pid);
    let (bob, from_bob) = Client::with_session(&old, &site, Scheme::Msrps, "bob").await;
    assert_ne!(tag(&from_bob), tag(&from_alice));
    bob.close().await;

    // And again, by a signal.
    let process = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(process, Signal::USR2).unwrap();
    let lines = manager.until("MAINPID=").await;
    assert_ne!(lines, [main]);
    let last = lines[0].strip_prefix("MAINPID=").unwrap().to_owned();
    manager.until("READY=1").await;
    for pid in [pid, last] {
        let process = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        let _ = rustix::process::kill_process(process, Signal::KILL);
    }
}

#[tokio::test]
async fn without_the_section_nobody_takes_over() {
    let site = Site::new();
    let plain = Settings { upgrade: None, ..settings() };
    let mut old = Daemon::start(RELAY, &site, &plain).await;
    let admin = Admin::of(&old).await.remove(0);
    let (code, why) = admin.call("upgrade", json!([])).await.unwrap_err();
    assert!(code == 500 && why.contains("`upgrade`"), "{why}");
    let mut new = Daemon::spawn(successor(), &site.path("relay.yaml"));
    assert_eq!(new.exit().await.code(), Some(1));
    assert_eq!(new.log().with(&["--upgrade needs the section"]).len(), 1, "{:?}", new.log());
    let lines = old.log().with(&[" ERROR "]);
    assert!(lines.iter().all(|line| line.contains("no upgrade")), "{lines:?}");
    old.signal(Signal::TERM);
    assert_eq!(old.exit().await.code(), Some(0));
}

#[tokio::test]
async fn sessions_of_the_process_before_live_on_for_so_long() {
    let site = Site::new();
    let brief = Settings { upgrade: Some("socket: upgrade.sock, drain_timeout: 300ms".into()), ..settings() };
    let mut old = Daemon::start(RELAY, &site, &brief).await;
    let (mut alice, _) = Client::with_session(&old, &site, Scheme::Msrps, "alice").await;
    let mut new = upgrade(&site, &old).await;
    alice.rx.end().await.expect("TLS ends with close_notify");
    assert_eq!(old.exit().await.code(), Some(0));
    new.assert_well();
}

#[tokio::test]
async fn who_does_not_get_ready_is_not_waited_for_longer_than_that() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let site = Site::new();
    let brief = Settings { upgrade: Some("socket: upgrade.sock, start_timeout: 300ms".into()), ..settings() };
    let old = Daemon::start(RELAY, &site, &brief).await;
    let silent = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&silent, &SocketAddrUnix::new(site.path("upgrade.sock")).unwrap()).unwrap();
    // It is the next one's turn after that, far sooner than it gives up.
    upgrade(&site, &old).await;
    assert_eq!(old.log().with(&["did not get ready in time"]).len(), 1);
}

#[tokio::test]
async fn a_stop_waits_for_nobody_who_is_to_take_over() {
    let site = Site::new();
    let mut old = start(&site).await;
    let admin = Admin::of(&old).await.remove(0);
    // The next process hangs: nobody ever writes the configuration that it reads.
    let config = site.path("relay.yaml");
    std::fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    let asked = admin.call("upgrade", json!([]));
    let stopped = async {
        old.log().wait_for(&["started the process that takes over"]).await;
        old.signal(Signal::TERM);
    };
    let (answer, ()) = tokio::join!(asked, stopped);
    let (code, why) = answer.unwrap_err();
    assert!(code == 500 && why.contains("the relay stops"), "{why}");
    // Its end is that of the other one, too, which has the same standard error.
    assert_eq!(old.exit().await.code(), Some(0));
}

#[tokio::test]
async fn signals_during_the_start_wait_or_end_it() {
    use std::os::unix::fs::FileTypeExt as _;
    let site = Site::new();
    let config = site.write("relay.yaml", &settings().to_yaml());
    // The relay that runs never answers.
    let silent = Silent::at(&site);
    let mut new = Daemon::spawn(successor(), &config);
    let _asks = silent.accept();
    new.signal(Signal::HUP);
    new.signal(Signal::USR2);
    new.signal(Signal::TERM);
    assert_eq!(new.exit().await.code(), Some(0));
    new.log().wait_for(&["stopped before it served", "SIGTERM"]).await;
    // What is another one's stays.
    assert!(std::fs::metadata(site.path("upgrade.sock")).unwrap().file_type().is_socket());
}

/// A process that takes over, in the words of a test.
struct Other(std::os::fd::OwnedFd);

impl Other {
    fn connect(site: &Site) -> Self {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(site.path("upgrade.sock")).unwrap()).unwrap();
        let long = std::time::Duration::from_secs(60);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(long)).unwrap();
        let other = Self(socket);
        other.say(&json!({ "is": "hello", "version": 1, "pid": std::process::id() }));
        assert_eq!(other.hear()["is"], "offer");
        other
    }

    fn say(&self, message: &Value) {
        let json = message.to_string();
        let len = u32::try_from(json.len()).unwrap().to_be_bytes();
        let packet = [&len[..], json.as_bytes()].concat();
        rustix::net::send(&self.0, &packet, rustix::net::SendFlags::NOSIGNAL).unwrap();
    }

    fn hear(&self) -> Value {
        let mut buffer = vec![0; 96 * 1024];
        let (len, _) = rustix::net::recv(&self.0, &mut buffer[..], rustix::net::RecvFlags::empty()).unwrap();
        serde_json::from_slice(&buffer[4..len]).unwrap()
    }
}

#[tokio::test]
async fn a_relay_that_stops_tells_who_is_about_to_take_over() {
    let site = Site::new();
    let mut old = start(&site).await;
    let other = Other::connect(&site);
    old.signal(Signal::TERM);
    let refused = other.hear();
    assert_eq!(
        (&refused["is"], &refused["reason"]),
        (&json!("refused"), &json!("the relay that runs stops already"))
    );
    assert_eq!(old.exit().await.code(), Some(0));
    for path in ["upgrade.sock", "admin.sock"] {
        assert!(!site.path(path).exists(), "{path}");
    }
}

#[tokio::test]
async fn a_relay_that_is_told_to_stop_while_another_begins_to_serve_leaves_all_to_that_one() {
    let site = Site::new();
    let mut old = start(&site).await;
    let other = Other::connect(&site);
    let paths = [site.path("upgrade.sock"), site.path("admin.sock")];
    other.say(&json!({ "is": "ready", "taken": paths }));
    assert_eq!(other.hear()["is"], "paused");
    old.signal(Signal::TERM);
    old.log().wait_for(&["stopping", "SIGTERM"]).await;
    other.say(&json!({ "is": "serving" }));
    assert_eq!(old.exit().await.code(), Some(0));
    old.log().wait_for(&["draining", "upgrade"]).await;
    for path in paths {
        assert!(path.exists(), "{path:?}");
    }
}

#[tokio::test]
async fn ctl_upgrade_waits_for_what_comes_of_it() {
    let site = Site::new();
    let mut old = start(&site).await;
    let ctl = Command::new(RELAY).args(["ctl", "upgrade", "--config"]).arg(site.path("relay.yaml")).output();
    let ctl = ctl.unwrap();
    let said = String::from_utf8_lossy(&ctl.stdout);
    assert!(ctl.status.success() && said.contains("has taken over"), "{ctl:?}");
    let pid = said.split(' ').nth(1).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(old.exit().await.code(), Some(0));
}
