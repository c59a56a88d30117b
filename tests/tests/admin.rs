//! The admin interface of a running daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{
    Admin, Client, Daemon, Scheme, Send, Settings, SipPeer, SipUpstream, Site, request, response, within,
};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

fn settings(admin: &str) -> Settings {
    Settings { admin: Some(admin.into()), ..Settings::default() }
}

async fn start(site: &Site) -> (Daemon, Admin) {
    let daemon = Daemon::start(RELAY, site, &settings("listen: 'http://127.0.0.1:0'")).await;
    let admin = Admin::of(&daemon).await.remove(0);
    (daemon, admin)
}

#[tokio::test]
async fn what_is_counted_is_what_happened() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    let metric = async |name: &str| admin.metric(name).await as u64;
    assert_eq!(metric("msrp_relay_msrp_sessions").await, 0);

    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    assert_eq!(metric("msrp_relay_msrp_sessions").await, 2);
    let to_bob = from_alice.to(&from_bob);
    for number in 0..7 {
        let text = "x".repeat(100);
        let message = Send::text(&to_bob, &format!("m{number}"), &text).with("Success-Report: yes");
        assert_eq!(alice.send(&message).await.status(), 200);
        let message = bob.receive().await;
        bob.tx.report(&message, 200).await;
        alice.receive_report().await;
    }
    assert_eq!(alice.send(&Send::text(&to_bob, "bad", "unwanted")).await.status(), 200);
    let unwanted = bob.rx.next().await;
    bob.tx.respond(&unwanted, 413).await;
    assert_eq!(alice.receive_report().await.reported(), 413);
    let mut mallory = Client::connect(&daemon, &site, Scheme::Msrps).await;
    assert_eq!(mallory.send(&Send::text(&to_bob, "no", "let me in")).await.status(), 403);
    let refused = mallory.try_auth_at(&[mallory.relay_uri().to_owned()], "alice", "wrong").await;
    assert_eq!(refused.status(), 401);

    for (name, expected) in [
        (r#"msrp_relay_msrp_auths_total{result="granted"}"#, 2),
        (r#"msrp_relay_msrp_auths_total{result="challenged"}"#, 3),
        (r#"msrp_relay_msrp_auths_total{result="failed"}"#, 1),
        (r#"msrp_relay_msrp_requests_received_total{method="AUTH"}"#, 6),
        (r#"msrp_relay_msrp_requests_received_total{method="SEND"}"#, 9),
        (r#"msrp_relay_msrp_requests_received_total{method="REPORT"}"#, 7),
        (r#"msrp_relay_msrp_requests_forwarded_total{method="REPORT"}"#, 7),
        (r#"msrp_relay_msrp_responses_received_total{result="success"}"#, 7),
        (r#"msrp_relay_msrp_responses_received_total{result="error"}"#, 1),
        (r#"msrp_relay_msrp_responses_sent_total{status="200"}"#, 10),
        (r#"msrp_relay_msrp_responses_sent_total{status="401"}"#, 4),
        (r#"msrp_relay_msrp_responses_sent_total{status="403"}"#, 1),
        ("msrp_relay_msrp_chunks_forwarded_total", 8),
        ("msrp_relay_msrp_messages_forwarded_total", 8),
        ("msrp_relay_msrp_body_received_bytes_total", 708),
        ("msrp_relay_msrp_body_forwarded_bytes_total", 708),
        ("msrp_relay_msrp_failures_reported_total", 1),
        ("msrp_relay_msrp_reports_dropped_total", 0),
        (r#"msrp_relay_connections_opened_total{protocol="msrps",direction="in"}"#, 2),
        (r#"msrp_relay_connections_opened_total{protocol="msrp",direction="in"}"#, 1),
        (r#"msrp_relay_connections_current{protocol="msrps",direction="in",state="open"}"#, 2),
        ("msrp_relay_connections_queued_bytes", 0),
    ] {
        assert_eq!(metric(name).await, expected, "{name}");
    }

    let list = admin.mi("session:list", Value::Null).await;
    assert_eq!(list["Count"], 2);
    let session = |user: &str| {
        let all = list["Sessions"].as_array().unwrap();
        all.iter().find(|session| session["user"] == user).unwrap().clone()
    };
    let (of_alice, of_bob) = (session("alice"), session("bob"));
    assert_eq!(of_alice["sent"], json!({ "messages": 8, "chunks": 8, "bytes": 708, "reports": 0 }));
    assert_eq!(of_alice["received"], json!({ "messages": 0, "chunks": 0, "bytes": 0, "reports": 7 }));
    assert_eq!(of_bob["received"], json!({ "messages": 8, "chunks": 8, "bytes": 708, "reports": 0 }));
    assert_eq!(of_bob["sent"]["reports"], 7);
    assert_eq!(of_alice["uri"], from_alice.use_path[0].as_str());
    assert_eq!(of_alice["owner"], alice.address());
}

#[tokio::test]
async fn sessions_and_connections_are_ended_by_hand() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    let mut events = admin.events("").await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let accepted = events.until(|name, data| name == "connection" && data["event"] == "tcp:accepted").await;
    assert_eq!((&accepted["remote"], &accepted["protocol"]), (&json!(alice.address()), &json!("msrps")));
    assert_eq!(accepted["tls"]["domain"], "main");
    let began = events.until(|name, data| name == "session" && data["event"] == "began").await;
    let id = began["session"]["id"].as_str().unwrap();
    assert_eq!(
        admin.mi("user:list", Value::Null).await["Users"],
        json!([{ "user": "alice", "sessions": 1 }])
    );

    assert_eq!(admin.mi("session:end", json!([id])).await, "OK");
    let ended = events.until(|name, data| name == "session" && data["event"] == "ended").await;
    assert_eq!((&ended["reason"], &ended["session"]["id"]), (&json!("terminated"), &json!(id)));
    let to_self = from_alice.to(&from_alice);
    assert_eq!(alice.send(&Send::text(&to_self, "m", "too late")).await.status(), 481);
    assert_eq!(admin.call("session:end", json!([id])).await.unwrap_err().0, 404);

    // The connection goes on, and takes another session.
    alice.auth("alice", "alicepw").await;
    assert_eq!(admin.mi("user:end", json!(["alice"])).await, json!({ "Ended": 1 }));
    let connections = admin.mi("connection:list", json!({ "protocol": "msrps" })).await;
    let [connection] = &connections["Connections"].as_array().unwrap()[..] else { panic!("{connections}") };
    assert_eq!((&connection["remote"], &connection["state"]), (&json!(alice.address()), &json!(1)));
    assert_eq!(connection["sessions"], 0);
    let number = connection["id"].as_u64().unwrap();
    assert_eq!(accepted["connection"], number);
    let listed = admin.mi("list_tcp_conns", Value::Null).await;
    assert_eq!(listed["Connections"][0]["ID"], number);

    admin.mi("connection:lifetime", json!([number, 77])).await;
    admin.mi("connection:keepalive", json!({ "id": number, "mode": "on", "idle": 30 })).await;
    admin.mi("connection:mark", json!([number])).await;
    assert_eq!(admin.mi("connection:show", json!([number])).await["lifetime"], 77);
    assert_eq!(admin.mi("tcp_close", json!([number.to_string()])).await, "OK");
    alice.rx.end().await.unwrap();
    let closed = events.until(|name, data| name == "connection" && data["event"] == "tcp:closed").await;
    assert_eq!(
        (&closed["connection"], &closed["reason"]),
        (&json!(number), &json!("closed locally: by an operator"))
    );
    assert_eq!(admin.call("tcp_close", json!([number])).await.unwrap_err().0, 404);
}

#[tokio::test]
async fn only_who_may_gets_in() {
    let site = Site::new();
    let socket = site.path("admin.sock");
    let admin = format!(
        "listen: ['http://127.0.0.1:0', 'unix:{}'], token: 0123456789abcdef, allow_hosts: admin.example, socket_mode: '0660'",
        socket.display()
    );
    let mut daemon = Daemon::start(RELAY, &site, &settings(&admin)).await;
    let [http, unix] = &Admin::of(&daemon).await[..] else { panic!("two") };
    let call = r#"{"jsonrpc":"2.0","method":"version","id":1}"#;
    let json = "Content-Type: application/json\r\n";
    let bearer = "Authorization: Bearer 0123456789abcdef\r\n";
    for admin in [http, unix] {
        let post = async |headers: String| admin.request("POST", "/mi", &headers, call).await.status;
        assert_eq!(post(json.to_owned()).await, 401);
        assert_eq!(post(format!("{json}Authorization: Bearer wrong\r\n")).await, 401);
        assert_eq!(post(format!("{json}{bearer}")).await, 200);
        assert_eq!(post(format!("{json}{bearer}Host: admin.example\r\n")).await, 200);
        assert_eq!(post(format!("{json}{bearer}Host: evil.example\r\n")).await, 421);
        assert_eq!(post(format!("{json}{bearer}Origin: http://evil.example\r\n")).await, 403);
        assert_eq!(post(bearer.to_owned()).await, 415);
        assert_eq!(post(format!("{bearer}Content-Type: text/plain\r\n")).await, 415);
        for path in ["/", "/status.json", "/metrics", "/events", "/nothing"] {
            assert_eq!(admin.get(path).await.status, 401, "{path}");
        }
        for path in ["/healthz", "/readyz"] {
            let answer = admin.get(path).await;
            assert_eq!(answer.status, 200, "{path}");
            assert!(answer.head.contains("cache-control: no-store"), "{answer:?}");
        }
        assert_eq!(admin.request("GET", "/nothing", bearer, "").await.status, 404);
        assert_eq!(admin.request("GET", "/mi", bearer, "").await.status, 405);
        // One byte over the limit, and one at it, which is no JSON.
        let body = |len: usize| "x".repeat(len);
        let sized = async |len: usize| {
            admin.request("POST", "/mi", &format!("{json}{bearer}"), &body(len)).await.status
        };
        assert_eq!((sized(256 * 1024).await, sized(256 * 1024 + 1).await), (200, 413));
    }
    daemon.log().wait_for(&["admin request refused: wrong token", "path=\"/mi\""]).await;
    // Each was refused on both addresses: one line a minute.
    for line in ["wrong token", "by a name that is not in", "from a page of another origin"] {
        assert_eq!(daemon.log().with(&["admin request refused", line]).len(), 1, "{line}");
    }
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    daemon.signal(Signal::TERM);
    assert!(daemon.exit().await.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_socket_left_behind_is_taken_over_and_one_in_use_is_not() {
    let site = Site::new();
    let unix = format!("listen: 'unix:{}'", site.path("admin.sock").display());
    let mut killed = Daemon::start(RELAY, &site, &settings(&unix)).await;
    killed.signal(Signal::KILL);
    killed.exit().await;
    let daemon = Daemon::start(RELAY, &site, &settings(&unix)).await;
    let admin = Admin::of(&daemon).await.remove(0);
    assert_eq!(admin.get("/healthz").await.body, "ok\n");
    let config = site.write("second.yaml", &settings(&unix).to_yaml());
    let mut second = Daemon::spawn(std::process::Command::new(RELAY), &config);
    assert!(!second.exit().await.success());
    second.log().wait_for(&["cannot open the admin interface", "in use"]).await;
    assert_eq!(admin.get("/healthz").await.body, "ok\n");
}

#[tokio::test]
async fn the_log_level_changes_while_the_relay_runs() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    assert_eq!(
        admin.mi("log_level", Value::Null).await,
        json!({ "Log level": "info", "Configured": "info" })
    );
    let (alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    admin.mi("log_level", json!(["debug"])).await;
    let (bob, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    daemon.log().wait_for(&["DEBUG", "accepted", &bob.address()]).await;
    assert!(daemon.log().with(&["DEBUG", &alice.address()]).is_empty());
    admin.mi("log_level", json!(["reset"])).await;
    assert_eq!(admin.mi("log_level", Value::Null).await["Log level"], "info");
}

#[tokio::test]
async fn certificates_are_listed_and_read_again() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    let domains = async || {
        let list = admin.mi("tls_list", Value::Null).await;
        list["Domains"].as_array().unwrap().clone()
    };
    let main = domains().await.into_iter().find(|domain| domain["ID"] == "main").unwrap();
    assert_eq!(main["TYPE"], "TLS_DOMAIN_SRV");
    let serial = main["certificate"]["serial"].clone();
    assert!(main["certificate"]["days_left"].as_i64().unwrap() > 0);
    assert!(admin.get("/metrics").await.body.contains(
        r#"msrp_relay_tls_expiry_timestamp_seconds{role="server",domain="main",kind="certificate""#
    ));

    site.issue("relay", &["relay.test"]);
    let reloaded = admin.mi("tls_reload", Value::Null).await;
    assert!(reloaded["Reloaded"].as_str().unwrap().contains("main"), "{reloaded}");
    let main = domains().await.into_iter().find(|domain| domain["ID"] == "main").unwrap();
    assert_ne!(main["certificate"]["serial"], serial);
    site.write("relay.crt", "no certificate");
    let (code, message) = admin.call("tls_reload", Value::Null).await.unwrap_err();
    assert!(code == 500 && message.contains("everything stays as it was"), "{message}");
    Client::connect(&daemon, &site, Scheme::Msrps).await;
}

#[tokio::test]
async fn streams_end_when_the_relay_stops() {
    let site = Site::new();
    let (mut daemon, admin) = start(&site).await;
    let mut events = admin.events("?kind=session").await;
    let (_alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (name, data) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &data["event"]), ("session", &json!("began")));
    daemon.signal(Signal::TERM);
    let ended = events.until(|_, data| data["event"] == "ended").await;
    assert_eq!(ended["reason"], "shutdown");
    while within("the end of the stream", events.next()).await.is_some() {}
    assert!(daemon.exit().await.success());
}

#[tokio::test]
async fn a_relay_that_stops_is_alive_and_not_ready() {
    let site = Site::new();
    let settings =
        Settings { timeouts: "drain_timeout: 1h".into(), ..settings("listen: 'http://127.0.0.1:0'") };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    assert_eq!(admin.get("/readyz").await.status, 200);
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    // A message under way keeps it from ending.
    let message =
        Send { to: from_alice.to(&from_bob), message: "m".into(), range: "1-*/*".into(), ..Send::default() };
    alice.tx.begin(&message).await;
    alice.tx.raw(&[b'x'; 5_000]).await;
    bob.rx.head().await;
    daemon.signal(Signal::TERM);
    daemon.log().wait_for(&["stopping"]).await;
    let not_ready = async {
        while admin.get("/readyz").await.status != 503 {
            tokio::task::yield_now().await;
        }
    };
    within("readiness to end", not_ready).await;
    assert_eq!(admin.get("/healthz").await.status, 200);
    assert_eq!(admin.metric("msrp_relay_ready").await, 0.0);
    daemon.signal(Signal::TERM);
    assert!(daemon.exit().await.success());
}

#[tokio::test]
async fn a_stream_too_many_is_refused_and_told_once() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(admin.events("").await);
    }
    for _ in 0..3 {
        assert_eq!(admin.get("/events").await.status, 503);
    }
    assert_eq!(admin.get("/healthz").await.status, 200);
    assert_eq!(daemon.log().with(&["no more streams of events", "limit=16"]).len(), 1);
}

#[tokio::test]
async fn tracing_is_switched_and_its_figures_add_up() {
    let site = Site::new();
    let collector = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("hep_udp://{}", collector.local_addr().unwrap());
    let settings = Settings {
        trace: format!(
            "destinations: {{ homer: {{ uri: '{uri}' }} }}, protocols: {{ hep: {{ events: false }} }}"
        ),
        ..settings("listen: 'http://127.0.0.1:0'")
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let sent = r#"msrp_relay_trace_sent_total{destination="homer"}"#;
    let packet = async || {
        let mut buffer = vec![0; 65_535];
        let len = within("a packet", collector.recv(&mut buffer)).await.unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };

    assert_eq!(admin.mi("msrp_trace", Value::Null).await, json!({ "MSRP tracing": "on" }));
    admin.mi("msrp_trace", json!({ "trace_mode": "off" })).await;
    assert_eq!(admin.mi("msrp_trace", Value::Null).await, json!({ "MSRP tracing": "off" }));
    let (unseen, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    assert_eq!(admin.metric(sent).await, 0.0);
    admin.mi("msrp_trace", json!(["on"])).await;
    let (bob, _) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let told = packet().await;
    assert!(told.contains("ACCEPTED") && !told.contains(&unseen.address()), "{told}");

    admin.mi("trace:protocol", json!({ "protocol": "msrp", "events": "off", "messages": "on" })).await;
    admin.mi("trace:user", json!(["carol", "off"])).await;
    let connections = admin.mi("connection:list", json!({ "protocol": "msrp" })).await;
    let number = connections["Connections"][0]["id"].clone();
    admin.mi("trace:connection", json!([number, "on"])).await;
    let state = admin.mi("trace:show", Value::Null).await;
    assert_eq!(state["protocols"]["msrp"], json!({ "events": false, "messages": true }));
    assert_eq!(state["users"], json!({ "carol": "off" }));
    assert_eq!(state["connections"], json!({ number.to_string(): "on" }));
    admin.mi("trace:connection", json!([number])).await;
    admin.mi("trace:user", json!(["carol"])).await;
    let state = admin.mi("trace:show", Value::Null).await;
    assert_eq!((&state["users"], &state["connections"]), (&json!({}), &json!({})));
    for (method, params) in
        [("trace:destination", json!(["nobody", "off"])), ("trace:connection", json!([99_999, "off"]))]
    {
        assert_eq!(admin.call(method, params).await.unwrap_err().0, 404, "{method}");
    }
    assert_eq!(admin.call("trace:protocol", json!(["ftp"])).await.unwrap_err().0, 400);

    let before = admin.metric(sent).await;
    assert!(before >= 1.0);
    admin.mi("trace:destination", json!(["homer", "off"])).await;
    bob.close().await;
    daemon.log().wait_for(&["connection closed", "closed by the peer"]).await;
    assert_eq!(admin.metric(sent).await, before);
    let submitted = admin.metric(r#"msrp_relay_trace_submitted_total{destination="homer"}"#).await;
    assert_eq!(submitted, before);
}

#[tokio::test]
async fn without_collectors_there_is_nothing_to_switch() {
    let site = Site::new();
    let (_daemon, admin) = start(&site).await;
    for method in ["msrp_trace", "trace:show"] {
        assert_eq!(admin.call(method, Value::Null).await.unwrap_err().0, 404, "{method}");
    }
}

#[tokio::test]
async fn what_the_sip_edge_does_is_counted() {
    let site = Site::new();
    let upstream = SipUpstream::bind(Scheme::Sip, &site).await;
    let sip = format!(
        "probe_interval: 1h, sip_upstream: [{{ uri: '{}', advertise: 'edge.test:5060' }}]",
        upstream.uri()
    );
    let settings = Settings {
        sip_tcp: Some("127.0.0.1:0".into()),
        sip: Some(sip),
        ..settings("listen: 'http://127.0.0.1:0'")
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let up = format!(r#"msrp_relay_sip_upstream_up{{upstream="{}"}}"#, upstream.uri());
    let mut proxy = upstream.accept().await;
    proxy.probed().await;
    let mut proxy = proxy.answering_probes();
    let mut phone = SipPeer::connect(&daemon, &site, Scheme::Sip).await;
    for number in 0..3 {
        let branch = format!("z9hG4bK{number}");
        phone.send(&request("MESSAGE", "sip:bob@example.com", &branch, "", "")).await;
        let message = proxy.next().await.unwrap();
        proxy.send(&response(&message, "200 OK", "")).await;
        assert_eq!(phone.next().await.unwrap().kind(), "200");
    }
    phone
        .send(&request("MESSAGE", "sip:bob@example.com", "z9hG4bKr", "Route: <sip:192.0.2.1;lr>\r\n", ""))
        .await;
    assert_eq!(phone.next().await.unwrap().kind(), "403");
    for (result, expected) in [
        ("to_upstream", 3.0),
        ("to_client", 3.0),
        ("answered_4xx", 1.0),
        ("answered_5xx", 0.0),
        ("probe_answer", 1.0),
    ] {
        let name = format!(r#"msrp_relay_sip_messages_total{{result="{result}"}}"#);
        assert_eq!(admin.metric(&name).await, expected, "{result}");
    }
    assert_eq!(admin.metric(&up).await, 1.0);
    drop((proxy, upstream));
    daemon.log().wait_for(&["SIP upstream is down"]).await;
    assert_eq!(admin.metric(&up).await, 0.0);
}

#[tokio::test]
async fn the_status_page_is_served_with_a_strict_policy() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    let page = admin.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.body.starts_with("<!doctype html>") && page.body.contains("<title>msrp-relay</title>"));
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy: ")).unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.head.contains("content-type: text/html; charset=utf-8"), "{}", page.head);
    assert_eq!(admin.request("POST", "/", "", "").await.status, 405);

    let (_alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let status: Value = serde_json::from_str(&admin.get("/status.json").await.body).unwrap();
    assert_eq!((&status["domain"], &status["ready"]), (&json!("relay.test"), &json!(true)));
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["listeners"][0], format!("msrps://{}", daemon.address(Scheme::Msrps)));
    assert_eq!(status["expiry_warning_seconds"], 30 * 86_400);
    assert_eq!(
        (&status["history"]["interval_seconds"], &status["history"]["length"]),
        (&json!(5), &json!(180))
    );
    let families = status["statistics"].as_array().unwrap();
    let sessions = families.iter().find(|family| family["metric"] == "msrp_relay_msrp_sessions").unwrap();
    assert_eq!(sessions["samples"], json!([{ "labels": {}, "value": 1 }]));
}
