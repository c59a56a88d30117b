//! Session records of a running daemon: files, syslog, a table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tests::{Admin, Client, Daemon, Scheme, Send, Session, Settings, Site, within};
use tokio::net::{UdpSocket, UnixDatagram};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// Settings with this `records`, and an admin interface.
fn settings(records: &str) -> Settings {
    Settings {
        records: records.into(),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        ..Settings::default()
    }
}

async fn start(site: &Site, records: &str) -> (Daemon, Admin) {
    let daemon = Daemon::start(RELAY, site, &settings(records)).await;
    let admin = Admin::of(&daemon).await.remove(0);
    (daemon, admin)
}

const FILE: &str = "sinks: { a: { file: { path: sessions.jsonl } } }";

fn file(site: &Site) -> PathBuf {
    site.path("sessions.jsonl")
}

/// The records in a file, as soon as there are so many.
async fn records(path: &Path, count: usize) -> Vec<Value> {
    let lines = async {
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.ends_with('\n') && text.lines().count() >= count {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let text = within(format_args!("{count} records in {path:?}"), lines).await;
    let records: Vec<_> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(records.len(), count, "{text}");
    records
}

/// Obtains a session and gives it up again.
async fn visit(daemon: &Daemon, site: &Site) -> Session {
    let (alice, session) = Client::with_session(daemon, site, Scheme::Msrps, "alice").await;
    alice.close().await;
    session
}

/// The session-id in a session's URI.
fn session_id(session: &Session) -> String {
    let uri = session.use_path.last().unwrap();
    uri.rsplit('/').next().unwrap().split(';').next().unwrap().to_owned()
}

fn ids(records: &[Value]) -> Vec<String> {
    records.iter().map(|record| record["session"].as_str().unwrap().to_owned()).collect()
}

async fn metric(admin: &Admin, name: &str, kind: &str) -> u64 {
    admin.metric(&format!("msrp_relay_records_{name}{{sink=\"a\",type=\"{kind}\"}}")).await as u64
}

/// Waits until a metric is so.
async fn until_metric(admin: &Admin, name: &str, kind: &str, wanted: u64) {
    let waiting = async {
        while metric(admin, name, kind).await != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(format_args!("{name} {wanted}"), waiting).await;
}

#[tokio::test]
async fn a_record_says_exactly_what_a_session_did() {
    let site = Site::new();
    let (mut daemon, admin) = start(&site, FILE).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    let (mut carol, from_carol) = Client::with_session(&daemon, &site, Scheme::Msrp, "carol").await;
    for number in 0..7 {
        let message = Send::text(&from_alice.to(&from_bob), &format!("m{number}"), &"x".repeat(100));
        assert_eq!(alice.send(&message.with("Success-Report: yes")).await.status(), 200);
        let message = bob.receive().await;
        bob.tx.report(&message, 200).await;
        alice.receive_report().await;
    }
    let back = Send::text(&from_bob.to(&from_alice), "back", "12345");
    assert_eq!(bob.send(&back).await.status(), 200);
    alice.receive().await;
    let addresses = [alice.address(), bob.address(), carol.address()];
    bob.close().await;
    records(&file(&site), 1).await;
    // Two chunks; bob is gone, and still among the peers.
    for (range, flag) in [("1-3/6", "+"), ("4-6/6", "$")] {
        let flag = if flag == "+" { msrp_proto::flag::Flag::More } else { msrp_proto::flag::Flag::Complete };
        let to = from_alice.to(&from_carol);
        let chunk = Send { range: range.into(), ..Send::text(&to, "two", "") };
        let transaction = alice.tx.begin(&chunk).await;
        alice.tx.raw(b"abc").await;
        alice.tx.end(&transaction, flag).await;
        assert_eq!(alice.rx.response(&transaction).await.status(), 200);
        carol.receive().await;
    }
    admin.mi("session:end", json!([session_id(&from_alice)])).await;
    records(&file(&site), 2).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit().await.code(), Some(0));

    let found = records(&file(&site), 3).await;
    assert_eq!(ids(&found), [&from_bob, &from_alice, &from_carol].map(session_id));
    let way = |messages: u64, chunks: u64, bytes: u64, reports: u64| json!({ "messages": messages, "chunks": chunks, "bytes": bytes, "reports": reports });
    let [tls, plain] = ["msrps", "msrp"].map(|scheme| format!("{scheme}://127.0.0.1:0"));
    for (record, user, owner, listener, reason, sent, received) in [
        (&found[0], "bob", &addresses[1], &plain, "disconnected", way(1, 1, 5, 7), way(7, 7, 700, 0)),
        (&found[1], "alice", &addresses[0], &tls, "terminated", way(8, 9, 706, 0), way(1, 1, 5, 7)),
        (&found[2], "carol", &addresses[2], &plain, "shutdown", way(0, 0, 0, 0), way(1, 2, 6, 0)),
    ] {
        assert_eq!(record["user"], user);
        assert_eq!(record["reason"], reason, "{record}");
        assert_eq!(record["owner"], owner.as_str());
        assert_eq!((&record["sent"], &record["received"]), (&sent, &received), "{record}");
        assert_eq!(record["listener"].as_str(), Some(listener.as_str()));
        assert_eq!(record["transport"].as_str(), listener.split(':').next());
        assert_eq!((&record["realm"], &record["relay"]), (&json!("relay.test"), &json!("relay.test")));
        assert_eq!(record["id"], format!("{}@relay.test", record["session"].as_str().unwrap()));
        assert_eq!((&record["by_relay"], &record["more_peers"]), (&json!(false), &json!(false)));
        let [began, ended] = ["began_unix", "ended_unix"].map(|key| record[key].as_f64().unwrap());
        assert!(began > 1.7e9 && began <= ended && record["seconds"].as_f64().unwrap() >= 0.0, "{record}");
        for key in ["began", "ended"] {
            let text = record[key].as_str().unwrap();
            assert!(text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T', "{record}");
        }
        assert_eq!(record.as_object().unwrap().len(), 20, "{record}");
    }
    assert_eq!(found[1]["uri"], from_alice.use_path[0]);
    // Those it has sent to, and those that have sent to it: bob is gone, and is told all the same.
    let mut peers = [&from_bob, &from_carol].map(|session| session.use_path[0].clone());
    peers.sort_unstable();
    let mut told: Vec<_> =
        found[1]["peers"].as_array().unwrap().iter().map(|peer| peer.as_str().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, peers);
    assert_eq!(found[2]["peers"], json!([from_alice.use_path[0]]));
    let text = fs::read_to_string(file(&site)).unwrap();
    assert!(
        !text.contains("xxx") && !text.contains("12345\"") && !text.contains("abc\""),
        "no contents: {text}"
    );
}

#[tokio::test]
async fn a_session_that_a_relay_obtained_is_that_relays() {
    let site = Site::new();
    site.issue("a", &["localhost"]);
    site.issue("b", &["127.0.0.1"]);
    let of = |name: &str, domain: &str, records: &str| Settings {
        domain: domain.into(),
        identity: name.into(),
        client_domain: format!("ca_list: ca.pem, certificate: {name}.crt, private_key: {name}.key"),
        records: records.into(),
        ..Settings::default()
    };
    let near = Daemon::start_as(Command::new(RELAY), &site, "a.yaml", &of("a", "localhost", "")).await;
    let mut far = Daemon::start_as(Command::new(RELAY), &site, "b.yaml", &of("b", "127.0.0.1", FILE)).await;
    let mut alice = Client::connect(&near, &site, Scheme::Msrps).await;
    let first = alice.auth("alice", "alicepw").await;
    let to = [first.use_path[0].clone(), far.uri(Scheme::Msrps)];
    let from_alice = alice.auth_at(&to, "alice", "alicepw").await;
    let (mut bob, from_bob) = Client::with_session(&far, &site, Scheme::Msrp, "bob").await;
    assert_eq!(alice.send(&Send::text(&from_alice.to(&from_bob), "m", "four")).await.status(), 200);
    bob.receive().await;
    far.signal(Signal::TERM);
    assert_eq!(far.exit().await.code(), Some(0));
    let found = records(&file(&site), 2).await;
    let record = found.iter().find(|record| record["user"] == "alice").unwrap();
    assert_eq!((&record["by_relay"], &record["owner"]), (&json!(true), &json!("localhost")));
    assert_eq!((&record["listener"], &record["transport"]), (&json!("msrps://127.0.0.1:0"), &json!("msrps")));
    assert_eq!((&record["sent"]["bytes"], &record["peers"]), (&json!(4), &json!([from_bob.use_path[0]])));
}

#[tokio::test]
async fn a_file_may_be_moved_at_any_time_and_sighup_makes_a_new_one() {
    let site = Site::new();
    let (daemon, _) = start(&site, FILE).await;
    let (path, old, older) = (file(&site), site.path("old"), site.path("older"));
    let first = visit(&daemon, &site).await;
    assert_eq!(ids(&records(&path, 1).await), [session_id(&first)]);
    fs::rename(&path, &older).unwrap();
    let second = visit(&daemon, &site).await;
    assert_eq!(ids(&records(&path, 1).await), [session_id(&second)]);
    fs::rename(&path, &old).unwrap();
    daemon.signal(Signal::HUP);
    let made = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("a new file", made).await;
    let third = visit(&daemon, &site).await;
    assert_eq!(ids(&records(&path, 1).await), [session_id(&third)]);
    assert_eq!((records(&old, 1).await.len(), records(&older, 1).await.len()), (1, 1));
}

#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let site = Site::new();
    symlink("/dev/full", file(&site)).unwrap();
    let (daemon, admin) = start(&site, FILE).await;
    let mut wanted = Vec::new();
    for _ in 0..3 {
        wanted.push(session_id(&visit(&daemon, &site).await));
    }
    daemon.log().wait_for(&["WARN", "session records cannot be written", "No space left"]).await;
    until_metric(&admin, "queued", "file", 3).await;
    assert_eq!(
        (metric(&admin, "available", "file").await, metric(&admin, "written_total", "file").await),
        (0, 0)
    );
    fs::remove_file(file(&site)).unwrap();
    assert_eq!(ids(&records(&file(&site), 3).await), wanted);
    daemon.log().wait_for(&["session records are written again"]).await;
    assert_eq!(daemon.log().with(&["cannot be written"]).len(), 1, "{:?}", daemon.log());
    until_metric(&admin, "queued", "file", 0).await;
    assert_eq!(
        (metric(&admin, "available", "file").await, metric(&admin, "written_total", "file").await),
        (1, 3)
    );
    assert_eq!(metric(&admin, "lost_total", "file").await, 0);
}

#[tokio::test]
async fn a_disk_that_is_full_within_a_line_leaves_no_half_line() {
    let site = Site::new();
    // In blocks of 512 or 1024 bytes, as the shell pleases: room for a few records, and never for a whole number.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 5; exec \"$0\" \"$@\"", RELAY]);
    let daemon = Daemon::start_as(command, &site, "relay.yaml", &settings(FILE)).await;
    let mut wanted = Vec::new();
    while daemon.log().with(&["session records cannot be written"]).is_empty() {
        wanted.push(session_id(&visit(&daemon, &site).await));
    }
    let old = site.path("old");
    fs::rename(file(&site), &old).unwrap();
    let first = fs::read_to_string(&old).unwrap();
    assert!(first.ends_with("}\n"), "{first}");
    let rest = wanted.len() - first.lines().count();
    assert!(rest > 0 && rest < wanted.len());
    let mut found = records(&old, wanted.len() - rest).await;
    found.extend(records(&file(&site), rest).await);
    assert_eq!(ids(&found), wanted);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_keeps_the_relay_from_starting() {
    let site = Site::new();
    symlink("not/there", file(&site)).unwrap();
    let config = site.write("relay.yaml", &settings(FILE).to_yaml());
    let mut daemon = Daemon::spawn(Command::new(RELAY), &config);
    assert_ne!(daemon.exit().await.code(), Some(0));
    daemon.log().wait_for(&["cannot open", "sessions.jsonl"]).await;
}

#[tokio::test]
async fn syslog_over_a_unix_socket() {
    let site = Site::new();
    let socket = UnixDatagram::bind(site.path("log")).unwrap();
    let records = "sinks: { a: { syslog: { address: 'unix:log', facility: daemon, tag: billing } } }";
    let (daemon, _) = start(&site, records).await;
    let session = visit(&daemon, &site).await;
    let mut buffer = vec![0; 65_536];
    let len = within("a message", socket.recv(&mut buffer)).await.unwrap();
    check_message(&buffer[..len], "<30>1 ", " billing ", &daemon, &session);
}

#[tokio::test]
async fn syslog_over_udp() {
    let site = Site::new();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (daemon, _) =
        start(&site, &format!("sinks: {{ a: {{ syslog: {{ address: 'udp://{address}' }} }} }}")).await;
    let session = visit(&daemon, &site).await;
    let mut buffer = vec![0; 65_536];
    let len = within("a message", socket.recv(&mut buffer)).await.unwrap();
    check_message(&buffer[..len], "<134>1 ", " msrp-relay ", &daemon, &session);
}

fn check_message(message: &[u8], begin: &str, tag: &str, daemon: &Daemon, session: &Session) {
    let message = std::str::from_utf8(message).unwrap();
    let rest = message.strip_prefix(begin).unwrap_or_else(|| panic!("{message}"));
    let (head, json) = rest.split_once(" - {").unwrap();
    let json: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
    assert_eq!(json["session"], session_id(session));
    let time = json["ended"].as_str().unwrap();
    assert!(head.starts_with(time) && head.ends_with(&format!("{tag}{} session", daemon.pid())), "{message}");
}

async fn table(site: &Site, text: &str) -> Vec<BTreeMap<String, String>> {
    use sqlx::{Column as _, Row as _};

    let options = SqliteConnectOptions::new().filename(site.path("cdr.db"));
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let rows = sqlx::query(text).fetch_all(&pool).await.unwrap();
    let row = |row: &sqlx::sqlite::SqliteRow| {
        let columns = row.columns().iter().map(|column| column.name().to_owned());
        columns.map(|name| (name.clone(), row.get_unchecked::<String, _>(name.as_str()))).collect()
    };
    rows.iter().map(row).collect()
}

#[tokio::test]
async fn a_table_has_one_row_for_a_session_with_its_figures() {
    let site = Site::new();
    let records = "sinks: { a: { database: { url: 'sqlite:cdr.db', table: cdr } } }";
    let (mut daemon, admin) = start(&site, records).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    for number in 0..3 {
        let message = Send::text(&from_alice.to(&from_bob), &format!("m{number}"), "four");
        assert_eq!(alice.send(&message).await.status(), 200);
        bob.receive().await;
    }
    alice.close().await;
    until_metric(&admin, "written_total", "database", 1).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit().await.code(), Some(0));
    let rows = table(&site, "SELECT session, username, reason, CAST(sent_messages AS TEXT) AS sent, CAST(sent_bytes AS TEXT) AS bytes, CAST(received_chunks AS TEXT) AS received FROM cdr ORDER BY username").await;
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.values().map(String::as_str).collect()).collect();
    // In the order of the names of the columns.
    let (alice, bob) = (session_id(&from_alice), session_id(&from_bob));
    assert_eq!(
        rows,
        [
            ["12", "disconnected", "0", "3", alice.as_str(), "alice"],
            ["0", "shutdown", "3", "0", bob.as_str(), "bob"],
        ]
    );
}

#[tokio::test]
async fn a_full_queue_loses_the_newest_and_says_how_many() {
    let site = Site::new();
    let (daemon, admin) = start(&site, "queue: 2, sinks: { a: { syslog: { address: 'unix:log' } } }").await;
    daemon.log().wait_for(&["session records cannot be written"]).await;
    let mut wanted = Vec::new();
    for number in 1..=5 {
        wanted.push(session_id(&visit(&daemon, &site).await));
        match number {
            0..=2 => until_metric(&admin, "queued", "syslog", number).await,
            _ => until_metric(&admin, "lost_total", "syslog", number - 2).await,
        }
    }
    assert_eq!(daemon.log().with(&["session records are lost"]).len(), 1, "{:?}", daemon.log());
    let socket = UnixDatagram::bind(site.path("log")).unwrap();
    let mut buffer = vec![0; 65_536];
    for wanted in &wanted[..2] {
        let len = within("a message", socket.recv(&mut buffer)).await.unwrap();
        assert!(String::from_utf8_lossy(&buffer[..len]).contains(wanted));
    }
    daemon.log().wait_for(&["no more session records are lost", "lost=3"]).await;
    until_metric(&admin, "written_total", "syslog", 2).await;
    assert_eq!(metric(&admin, "lost_total", "syslog").await, 3);
}

#[tokio::test]
async fn a_stopping_relay_waits_for_its_sinks() {
    let site = Site::new();
    symlink("/dev/full", file(&site)).unwrap();
    // Above the limit too: these end since the relay does.
    let records_of = format!("queue: 1, flush_timeout: 1h, {FILE}");
    let (mut daemon, _) = start(&site, &records_of).await;
    let (_alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (_bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    daemon.signal(Signal::TERM);
    daemon.log().wait_for(&["session records cannot be written"]).await;
    fs::remove_file(file(&site)).unwrap();
    assert_eq!(daemon.exit().await.code(), Some(0));
    let mut found = ids(&records(&file(&site), 2).await);
    found.sort_unstable();
    let mut wanted = [&from_alice, &from_bob].map(session_id);
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    assert_eq!(daemon.log().with(&["lost"]), [""; 0]);
}

#[tokio::test]
async fn a_stopping_relay_does_not_wait_longer_than_it_may() {
    for hurried in [false, true] {
        let site = Site::new();
        symlink("/dev/full", file(&site)).unwrap();
        let time = if hurried { "1h" } else { "0s" };
        let (mut daemon, _) = start(&site, &format!("flush_timeout: {time}, {FILE}")).await;
        let (_alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        daemon.signal(Signal::TERM);
        if hurried {
            daemon.log().wait_for(&["session records cannot be written"]).await;
            daemon.signal(Signal::INT);
        }
        assert_eq!(daemon.exit().await.code(), Some(0));
        daemon.log().wait_for(&["ERROR", "session records lost", "records=1"]).await;
    }
}

#[tokio::test]
async fn a_session_that_lasts_has_interim_records() {
    let site = Site::new();
    let sinks = "interim: 1s, sinks: { a: { file: { path: sessions.jsonl } }, b: { database: { url: 'sqlite:cdr.db' } } }";
    let (mut daemon, _) = start(&site, sinks).await;
    let (_alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let found = records(&file(&site), 1).await;
    assert_eq!((&found[0]["reason"], &ids(&found)[0]), (&json!("interim"), &session_id(&from_alice)));
    assert!(found[0]["seconds"].as_f64().unwrap() >= 1.0, "{found:?}");
    daemon.signal(Signal::TERM);
    daemon.exit().await;
    let text = fs::read_to_string(file(&site)).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["reason"], &last["id"]), (&json!("shutdown"), &found[0]["id"]));
    let rows = table(&site, "SELECT id, reason FROM msrp_sessions").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["reason"], "shutdown");
}
