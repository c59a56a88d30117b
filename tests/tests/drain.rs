//! A relay that drains: what there is goes on, and nothing new begins.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use msrp_proto::flag::Flag;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Admin, Client, Daemon, Scheme, Send, Session, Settings, Site, is_shared, until, within};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

async fn start(site: &Site, timeouts: &str) -> (Daemon, Admin) {
    let admin = Some("listen: 'http://127.0.0.1:0'".into());
    let settings = Settings { admin, timeouts: timeouts.into(), ..Settings::default() };
    let daemon = Daemon::start(RELAY, site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    (daemon, admin)
}

/// One message from one to the other, answered.
async fn chat(from: (&mut Client, &Session), to: (&mut Client, &Session), body: &str) {
    let transaction = from.0.tx.send(&Send::text(&from.1.to(to.1), body, body)).await;
    assert_eq!(to.0.receive().await.text(), body);
    assert_eq!(from.0.rx.response(&transaction).await.status(), 200);
}

async fn is_refused(daemon: &Daemon) {
    let refused = async {
        while TcpStream::connect(daemon.address(Scheme::Msrp)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within("new connections to be refused", refused).await;
}

/// Sessions go on, new ones are not granted, and the relay ends with the last one.
async fn lets_sessions_go_on(begin: impl AsyncFnOnce(&Daemon, &Admin)) {
    let site = Site::new();
    let (mut daemon, admin) = start(&site, "drain_timeout: 1h").await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let mut idle = Client::connect(&daemon, &site, Scheme::Msrp).await;
    assert_eq!(admin.get("/readyz").await.status, 200);
    begin(&daemon, &admin).await;
    daemon.log().wait_for(&["draining", "sessions=2"]).await;
    is_refused(&daemon).await;

    for path in ["/readyz", "/healthz"] {
        assert_eq!(admin.get(path).await.status, if path == "/readyz" { 503 } else { 200 });
    }
    let status: Value = serde_json::from_str(&admin.get("/status.json").await.body).unwrap();
    assert_eq!((&status["ready"], &status["drain"]["sessions"]), (&json!(false), &json!(2)));
    assert_eq!(admin.metric("msrp_relay_draining").await, 1.0);
    assert_eq!(admin.metric("msrp_relay_ready").await, 0.0);

    chat((&mut alice, &from_alice), (&mut bob, &from_bob), "there").await;
    // Not for good: the client asks again, elsewhere.
    let to = [alice.relay_uri().to_owned()];
    assert_eq!(alice.request("AUTH", &to, "").await.status(), 408);
    chat((&mut bob, &from_bob), (&mut alice, &from_alice), "back").await;
    // Nobody needs it any more.
    idle.rx.end().await.expect("TCP ends with FIN");

    alice.close().await;
    within("the session's end", async {
        while admin.metric("msrp_relay_msrp_sessions").await != 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bob.close().await;
    assert_eq!(daemon.exit().await.code(), Some(0));
    assert_eq!(daemon.log().with(&["panicked"]), [""; 0]);
}

#[tokio::test]
async fn sigterm_lets_sessions_go_on() {
    lets_sessions_go_on(async |daemon, _| daemon.signal(Signal::TERM)).await;
}

#[tokio::test]
async fn an_operators_drain_lets_sessions_go_on() {
    lets_sessions_go_on(async |_, admin| {
        let answer = admin.mi("drain", json!([])).await;
        assert_eq!((&answer["State"], &answer["Drain"]["cause"]), (&json!("draining"), &json!("operator")));
        assert_eq!(answer["Drain"]["seconds_left"], Value::Null);
    })
    .await;
}

#[tokio::test]
async fn what_is_left_after_the_time_is_ended() {
    for by_signal in [true, false] {
        let site = Site::new();
        let (mut daemon, admin) = start(&site, "drain_timeout: 300ms").await;
        let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
        let message = Send {
            to: from_alice.to(&from_bob),
            message: "m".into(),
            range: "1-*/*".into(),
            ..Send::default()
        };
        alice.tx.begin(&message).await;
        alice.tx.raw(&[b'x'; 5_000]).await;
        bob.rx.head().await;
        if by_signal {
            daemon.signal(Signal::TERM);
        } else {
            let answer = admin.mi("drain", json!({ "timeout": 0 })).await;
            assert_eq!(answer["Drain"]["seconds_left"], 0);
        }
        assert_eq!(bob.rx.rest_of_chunk().await.1, Flag::Abort);
        assert_eq!(daemon.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn an_operator_takes_a_drain_back() {
    let site = Site::new();
    let (mut daemon, admin) = start(&site, "drain_timeout: 1h").await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    assert_eq!(admin.call("drain:cancel", json!([])).await.unwrap_err().0, 500);
    admin.mi("drain", json!([3600])).await;
    is_refused(&daemon).await;
    let answer = admin.mi("drain:cancel", json!([])).await;
    assert_eq!((&answer["State"], &answer["Drain"]), (&json!("serving"), &Value::Null));
    assert_eq!(admin.get("/readyz").await.status, 200);
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    chat((&mut alice, &from_alice), (&mut bob, &from_bob), "there").await;
    daemon.assert_well();
    // What a signal has begun is not taken back.
    daemon.signal(Signal::TERM);
    daemon.log().wait_for(&["draining", "signal"]).await;
    let (_, why) = admin.call("drain:cancel", json!([])).await.unwrap_err();
    assert!(!why.is_empty());
}

#[tokio::test]
async fn the_command_line_drains() {
    let site = Site::new();
    let (daemon, admin) = start(&site, "").await;
    let Admin::Http(address) = &admin else { panic!() };
    let (_alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let ctl = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(RELAY);
        command.arg("ctl").args(args).args(["--address", &format!("http://{address}")]);
        let output = within("ctl", command.output()).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        ctl(&["drain", "--timeout", "90m"]).await,
        "draining: 1 sessions, 0 busy connections, 1h 29m at most\n"
    );
    let status = ctl(&["status"]).await;
    assert!(status.contains("draining: 1 sessions"), "{status}");
    assert_eq!(ctl(&["drain", "--cancel"]).await, "serving\n");
    assert!(ctl(&["status"]).await.contains("running"));
}

#[tokio::test]
async fn a_stopping_relay_opens_its_log_again_and_says_that_it_does_not_reload() {
    let site = Site::new();
    let (mut daemon, _) = start(&site, "drain_timeout: 1h").await;
    let (alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let log = site.path("relay.log");
    let settings = Settings {
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        timeouts: "drain_timeout: 1h".into(),
        log: "to: 'file:relay.log'".into(),
        ..Settings::default()
    };
    site.write("relay.yaml", &settings.to_yaml());
    daemon.signal(Signal::HUP);
    until(&log, "configuration reloaded").await;
    daemon.signal(Signal::TERM);
    until(&log, "draining").await;
    std::fs::rename(&log, site.path("relay.log.1")).unwrap();
    site.write("relay.yaml", "nonsense");
    daemon.signal(Signal::HUP);
    until(&log, "SIGHUP: the relay stops, so the configuration is not read again").await;
    alice.close().await;
    assert_eq!(daemon.exit().await.code(), Some(0));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("not reloaded"), "{text}");
}

#[tokio::test]
async fn sockets_are_opened_again_as_they_were_configured() {
    let site = Site::new();
    for shared in [false, true] {
        let settings = Settings {
            admin: Some("listen: 'http://127.0.0.1:0'".into()),
            hep_udp: Some(format!("127.0.0.1:0, reuse_port: {shared}")),
            hep: Some(String::new()),
            ..Settings::default()
        };
        let daemon = Daemon::start(RELAY, &site, &settings).await;
        let admin = Admin::of(&daemon).await.remove(0);
        let address = daemon.address(Scheme::HepUdp);
        assert_eq!(is_shared(address), shared);
        // Somebody keeps it from being empty, and so from ending.
        let (_alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        admin.mi("drain", json!([])).await;
        admin.mi("drain:cancel", json!([])).await;
        assert_eq!(is_shared(address), shared);
    }
}
