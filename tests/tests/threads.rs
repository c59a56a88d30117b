//! The threads for connections, of the daemon as it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::thread;

use tests::{Admin, Client, Daemon, Listener, Scheme, Send, Session, Settings, Site, within};
use tokio::net::TcpListener;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// The names of its threads for connections.
fn threads(daemon: &Daemon) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    // Some end meanwhile.
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let mut names: Vec<_> = names.map(|name| name.trim().to_owned()).collect();
    names.retain(|name| name.starts_with("connections-"));
    names.sort_unstable();
    names
}

/// Waits until it has these threads: each takes its name when it begins to run.
async fn has_threads(daemon: &Daemon, count: usize) {
    let mut wanted: Vec<_> = (0..count).map(|number| format!("connections-{number}")).collect();
    wanted.sort_unstable();
    within(format!("{count} threads"), async {
        while threads(daemon) != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn tasks(admin: &Admin, thread: usize) -> f64 {
    admin.metric(&format!("msrp_relay_thread_tasks{{thread=\"{thread}\"}}")).await
}

fn with_admin() -> Settings {
    Settings { admin: Some("listen: 'http://127.0.0.1:0'".to_owned()), ..Settings::default() }
}

#[tokio::test]
async fn connections_are_spread_over_as_many_as_the_configuration_says() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings { threads: Some(3), ..with_admin() }).await;
    has_threads(&daemon, 3).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let mut clients = Vec::new();
    for scheme in [Scheme::Msrp, Scheme::Msrps].into_iter().cycle().take(6) {
        clients.push(Client::with_session(&daemon, &site, scheme, "alice").await);
    }
    for thread in 0..3 {
        assert_eq!(tasks(&admin, thread).await, 2.0, "of thread {thread}");
    }
    // Two are on one thread, the others on two.
    for (one, other) in [(0, 3), (1, 2), (4, 5)] {
        for (from, to) in [(one, other), (other, one)] {
            let text = format!("from {from} to {to}");
            let message = Send::text(&clients[from].1.to(&clients[to].1), "m", &text);
            assert_eq!(clients[from].0.send(&message).await.status(), 200);
            assert_eq!(clients[to].0.receive().await.text(), text);
        }
    }
    for thread in 0..3 {
        let busy = format!("msrp_relay_thread_busy_seconds_total{{thread=\"{thread}\"}}");
        assert!(admin.metric(&busy).await > 0.0, "thread {thread}");
    }
    drop(clients);
    within("the connections to end", async {
        while tasks(&admin, 0).await + tasks(&admin, 1).await + tasks(&admin, 2).await > 0.0 {}
    })
    .await;
    daemon.assert_well();
}

#[tokio::test]
async fn without_the_setting_there_is_one_for_each_processor() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    has_threads(&daemon, thread::available_parallelism().unwrap().get()).await;
}

#[tokio::test]
async fn a_connection_that_is_opened_goes_where_the_fewest_are() {
    let site = Site::new();
    let daemon = Daemon::start(RELAY, &site, &Settings { threads: Some(2), ..with_admin() }).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let (mut alice, session) = Client::with_session(&daemon, &site, Scheme::Msrp, "alice").await;
    let peer = Listener::bind("127.0.0.1", None).await.unwrap();
    let uri = peer.uri("127.0.0.1");
    let message = Send::text(&session.to(&Session::without_relay(&uri)), "m", "hello");
    assert_eq!(alice.send(&message).await.status(), 200);
    let mut bob = peer.accept(&uri).await;
    assert_eq!(bob.receive().await.text(), "hello");
    // Lookups of names and the like end.
    within("one connection on each", async {
        while (tasks(&admin, 0).await, tasks(&admin, 1).await) != (1.0, 1.0) {}
    })
    .await;
}

#[tokio::test]
async fn connections_to_sip_upstreams_are_on_them_too() {
    let site = Site::new();
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        threads: Some(1),
        sip_tcp: Some("127.0.0.1:0".into()),
        sip: Some(format!("sip_upstream: [ {{ uri: 'sip://{}' }} ]", upstream.local_addr().unwrap())),
        ..with_admin()
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let _connection = within("the edge to connect", upstream.accept()).await.unwrap();
    let admin = Admin::of(&daemon).await.remove(0);
    // Nobody else is there: the one is the connection's, the other opens it anew when it ends.
    within("its tasks", async { while tasks(&admin, 0).await != 2.0 {} }).await;
}
