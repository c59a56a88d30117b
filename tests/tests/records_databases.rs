//! Session records in PostgreSQL and MariaDB, which are killed and come back in the middle.
//!
//! `tests/interop/run` installs their servers and runs these tests; they are left out of `cargo test`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use serde_json::json;
use tests::{
    Admin, Client, Daemon, DatabaseKind, DatabaseServer, Scheme, Send, Session, Settings, Site, within,
};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// The statement of `docs/records.md` that makes the table.
fn documented(kind: DatabaseKind) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/records.md")).unwrap();
    let title = match kind {
        DatabaseKind::Postgres => "-- PostgreSQL\n",
        DatabaseKind::MariaDb => "-- MySQL, MariaDB",
    };
    let (_, rest) = text.split_once(title).unwrap();
    let statement = &rest[rest.find("CREATE TABLE").unwrap()..];
    statement[..statement.find(";\n").unwrap()].to_owned()
}

fn session_id(session: &Session) -> String {
    session.use_path[0].rsplit('/').next().unwrap().split(';').next().unwrap().to_owned()
}

async fn until(admin: &Admin, name: &str, wanted: u64) {
    let name = format!("msrp_relay_records_{name}{{sink=\"a\",type=\"database\"}}");
    let waiting = async {
        while admin.metric(&name).await as u64 != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(format_args!("{name} {wanted}"), waiting).await;
}

async fn life(kind: DatabaseKind) {
    let mut server = DatabaseServer::start(kind).await;
    let site = Site::new();
    site.write("records.url", &server.url());
    let settings = Settings {
        records: "sinks: { a: { database: { url: { file: records.url }, timeout: 2s } } }".into(),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        ..Settings::default()
    };
    // Without its table it is away, and the log says why.
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    daemon.log().wait_for(&["session records cannot be written", "msrp_sessions"]).await;
    server.execute(&documented(kind)).await;

    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
    for number in 0..3 {
        let message = Send::text(&from_alice.to(&from_bob), &format!("m{number}"), "four");
        assert_eq!(alice.send(&message).await.status(), 200);
        bob.receive().await;
    }
    alice.close().await;
    until(&admin, "written_total", 1).await;
    daemon.log().wait_for(&["session records are written again"]).await;

    server.kill();
    let (carol, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "carol").await;
    carol.close().await;
    bob.close().await;
    until(&admin, "queued", 2).await;
    daemon.log().wait_for_lines(&["session records cannot be written"], 2).await;
    until(&admin, "available", 0).await;
    server.run().await;
    until(&admin, "written_total", 3).await;
    assert_eq!(daemon.log().with(&["session records cannot be written"]).len(), 2, "{:?}", daemon.log());

    let (text, epoch) = match kind {
        DatabaseKind::Postgres => ("TEXT", "EXTRACT(EPOCH FROM began)"),
        DatabaseKind::MariaDb => ("CHAR", "UNIX_TIMESTAMP(began)"),
    };
    let statement = format!(
        "SELECT username, reason, CAST(sent_bytes AS {text}), CAST(received_messages AS {text}), peers, \
         CASE WHEN ABS({epoch} - began_unix) < 0.01 AND ended >= began AND seconds >= 0 THEN 'y' ELSE 'n' END, id \
         FROM msrp_sessions WHERE username <> 'carol' ORDER BY username"
    );
    let peers = |session: &Session| json!([session.use_path[0]]).to_string();
    let id = |session: &Session| format!("{}@relay.test", session_id(session));
    assert_eq!(
        server.rows(&statement).await,
        [
            ["alice", "disconnected", "12", "0", &peers(&from_bob), "y", &id(&from_alice)],
            ["bob", "disconnected", "0", "3", &peers(&from_alice), "y", &id(&from_bob)],
        ]
    );

    // A column that is too short for one user's name, and not for the next one's.
    server.execute("DELETE FROM msrp_sessions").await;
    let alter = match kind {
        DatabaseKind::Postgres => "ALTER TABLE msrp_sessions ALTER username TYPE varchar(3)",
        DatabaseKind::MariaDb => "ALTER TABLE msrp_sessions MODIFY username varchar(3) NOT NULL",
    };
    server.execute(alter).await;
    for user in ["carol", "bob"] {
        Client::with_session(&daemon, &site, Scheme::Msrps, user).await.0.close().await;
    }
    until(&admin, "written_total", 4).await;
    until(&admin, "refused_total", 1).await;
    daemon.log().wait_for(&["ERROR", "a session record is refused", "\"user\":\"carol\""]).await;
    assert_eq!(server.rows("SELECT username FROM msrp_sessions").await, [["bob"]]);
    assert!(daemon.log().with(&["s3cret"]).is_empty());
}

/// An interim record gives way to the last one.
async fn interim(kind: DatabaseKind) {
    let server = DatabaseServer::start(kind).await;
    server.execute(&documented(kind)).await;
    let site = Site::new();
    site.write("records.url", &server.url());
    let settings = Settings {
        records: "interim: 1s, sinks: { a: { database: { url: { file: records.url } } } }".into(),
        ..Settings::default()
    };
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let (_alice, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let reasons = async || server.rows("SELECT reason FROM msrp_sessions").await;
    let written = async {
        while reasons().await != [["interim"]] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("an interim record", written).await;
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.exit().await.code(), Some(0));
    assert_eq!(reasons().await, [["shutdown"]]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/interop/run"]
async fn postgresql() {
    life(DatabaseKind::Postgres).await;
    interim(DatabaseKind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs MariaDB: tests/interop/run"]
async fn mariadb() {
    life(DatabaseKind::MariaDb).await;
    interim(DatabaseKind::MariaDb).await;
}
