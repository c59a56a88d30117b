//! The load generator `msrp-load` against the real relay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use clap::Parser as _;
use examples::load::{self, options::LoadOptions};
use serde_json::{Map, Value};
use tests::{Daemon, Scheme, Settings, Site};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

async fn start(site: &Site) -> Daemon {
    let settings = Settings {
        domain: "localhost".into(),
        ws: Some("127.0.0.1:0".into()),
        wss: Some("127.0.0.1:0".into()),
        outbound: "allow: [127.0.0.0/8]".into(),
        ..Settings::default()
    };
    Daemon::start(RELAY, site, &settings).await
}

/// The arguments by which it finds the daemon over `scheme`.
fn relay(daemon: &Daemon, site: &Site, scheme: Scheme) -> String {
    let under = if scheme.is_secure() { Scheme::Msrps } else { Scheme::Msrp };
    let port = daemon.address(under).port();
    let (name, ca, pid) = (under.as_str(), site.path("ca.pem"), daemon.pid());
    let websocket = match scheme {
        Scheme::Ws | Scheme::Wss => {
            let port = daemon.address(scheme).port();
            let name = if scheme == Scheme::Wss { "wss" } else { "ws" };
            format!("--websocket {name}://localhost:{port}/msrp --connect 127.0.0.1:{port}")
        }
        _ => format!("--connect 127.0.0.1:{port}"),
    };
    format!(
        "--relay {name}://localhost:{port} {websocket} --user alice --password alicepw --ca {} --pid {pid}",
        ca.display()
    )
}

async fn run(arguments: &str) -> anyhow::Result<Map<String, Value>> {
    let all = ["msrp-load"].into_iter().chain(arguments.split_whitespace());
    load::run(LoadOptions::try_parse_from(all)?, |_| {}).await
}

fn number(result: &Map<String, Value>, name: &str) -> f64 {
    result.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {name} in {result:?}"))
}

#[tokio::test]
async fn chats_and_files_go_over_every_transport() {
    let site = Site::new();
    let mut daemon = start(&site).await;
    for scheme in [Scheme::Msrp, Scheme::Msrps, Scheme::Ws, Scheme::Wss] {
        let relay = relay(&daemon, &site, scheme);
        for (load, count, bytes) in [
            ("--sessions 3 --messages 100", 100, 30_000),
            ("--sessions 2 --messages 4 --size 1MiB --chunk-size 64KiB --window 1", 4, 4 << 20),
            ("--sessions 1 --messages 1 --size 4MiB", 1, 4 << 20),
        ] {
            let result = run(&format!("send {relay} {load}")).await.unwrap();
            assert_eq!(
                (number(&result, "count"), number(&result, "bytes")),
                (f64::from(count), f64::from(bytes))
            );
            assert!(number(&result, "latency_p50_us") <= number(&result, "latency_max_us"));
            assert!(number(&result, "cpu_seconds_per_million") > 0.0);
        }
    }
    daemon.assert_well();
}

#[tokio::test]
async fn one_end_may_be_a_peer_without_a_relay() {
    let site = Site::new();
    let daemon = start(&site).await;
    for scheme in [Scheme::Msrp, Scheme::Msrps] {
        let relay = relay(&daemon, &site, scheme);
        let result = run(&format!("send {relay} --ends one --messages 50")).await.unwrap();
        assert_eq!(number(&result, "count"), 50.0);
    }
}

#[tokio::test]
async fn messages_leave_at_the_rate_that_is_wanted() {
    let site = Site::new();
    let daemon = start(&site).await;
    let relay = relay(&daemon, &site, Scheme::Msrp);
    // The last one is due 49/100 s after the first: no machine is too slow for that to be true.
    let result = run(&format!("send {relay} --rate 100 --messages 50 --sessions 5")).await.unwrap();
    assert!(number(&result, "seconds") >= 0.45 && number(&result, "count") == 50.0, "{result:?}");
    let result = run(&format!("send {relay} --duration 0.3 --sessions 2")).await.unwrap();
    assert!(number(&result, "seconds") >= 0.3 && number(&result, "count") > 0.0, "{result:?}");
}

#[tokio::test]
async fn clients_come_and_go_and_do_nothing() {
    let site = Site::new();
    let daemon = start(&site).await;
    let relay = relay(&daemon, &site, Scheme::Msrps);
    let result = run(&format!("login {relay} --count 7 --sessions 3")).await.unwrap();
    assert_eq!(number(&result, "count"), 7.0);
    let result = run(&format!("connect {relay} --count 5")).await.unwrap();
    assert_eq!(number(&result, "count"), 5.0);
    let result = run(&format!("idle {relay} --from 5 --sessions 20 --steps 3")).await.unwrap();
    let memory = result["memory"].as_array().unwrap();
    let sessions: Vec<_> = memory.iter().map(|step| step["sessions"].as_f64().unwrap()).collect();
    assert_eq!(sessions, [5.0, 10.0, 15.0, 20.0]);
    assert!(memory.iter().all(|step| step["bytes"].as_f64().unwrap() > 1e5));
}

#[tokio::test]
async fn who_is_not_let_in_is_told() {
    let site = Site::new();
    let daemon = start(&site).await;
    let relay = relay(&daemon, &site, Scheme::Msrp).replace("alicepw", "wrong");
    let error = run(&format!("send {relay}")).await.unwrap_err();
    assert!(error.to_string().contains("not let in"), "{error:#}");
}

#[tokio::test]
async fn without_a_relay_it_goes_through_a_proxy() {
    let site = Site::new();
    // The proxy: what connects to it is connected to where msrp-load listens.
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (from, to) = (front.local_addr().unwrap(), free.local_addr().unwrap());
    drop(free);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = front.accept().await.unwrap();
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    let result =
        run(&format!("send --relay msrp://{from} --listen {to} --sessions 3 --messages 30")).await.unwrap();
    assert_eq!((number(&result, "count"), number(&result, "bytes")), (30.0, 9000.0));
    drop(site);
}
