//! Users in real databases: PostgreSQL and MariaDB, which are killed and come back in the middle.
//!
//! `tests/interop/run` installs their servers and runs these tests; they are left out of `cargo test`. Each starts a
//! server of its own in a temporary directory, on a Unix socket, as a user who is not root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use tests::{Admin, Client, Daemon, DatabaseKind, DatabaseServer, Scheme, Send, Settings, Site};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// The `subscriber` table of Kamailio for PostgreSQL, as its scripts make it.
const KAMAILIO_POSTGRES: &str = "CREATE TABLE subscriber (\
    id SERIAL PRIMARY KEY NOT NULL, username VARCHAR(64) DEFAULT '' NOT NULL, domain VARCHAR(64) DEFAULT '' NOT NULL, \
    password VARCHAR(64) DEFAULT '' NOT NULL, ha1 VARCHAR(128) DEFAULT '' NOT NULL, \
    ha1b VARCHAR(128) DEFAULT '' NOT NULL, CONSTRAINT subscriber_account_idx UNIQUE (username, domain))";

/// That of OpenSIPS for MySQL, likewise.
const OPENSIPS_MYSQL: &str = "CREATE TABLE subscriber (\
    id INT(10) UNSIGNED AUTO_INCREMENT PRIMARY KEY NOT NULL, username CHAR(64) DEFAULT '' NOT NULL, \
    domain CHAR(64) DEFAULT '' NOT NULL, password CHAR(25) DEFAULT '' NOT NULL, ha1 CHAR(64) DEFAULT '' NOT NULL, \
    ha1_sha256 CHAR(64) DEFAULT '' NOT NULL, ha1_sha512t256 CHAR(64) DEFAULT '' NOT NULL, rpid CHAR(64) DEFAULT NULL, \
    CONSTRAINT account_idx UNIQUE (username, domain)) ENGINE=InnoDB";

/// A server whose database has the table of users.
async fn start(kind: DatabaseKind) -> DatabaseServer {
    let server = DatabaseServer::start(kind).await;
    server
        .execute(match kind {
            DatabaseKind::Postgres => KAMAILIO_POSTGRES,
            DatabaseKind::MariaDb => OPENSIPS_MYSQL,
        })
        .await;
    server
}

async fn status(daemon: &Daemon, site: &Site, user: &str, password: &str) -> u16 {
    let mut client = Client::connect(daemon, site, Scheme::Msrps).await;
    let to = [client.relay_uri().to_owned()];
    client.try_auth_at(&to, user, password).await.status()
}

/// Runs `msrp-relay user`; gives what it prints.
fn user(site: &Site, action: &[&str], input: &str) -> String {
    let mut command = Command::new(RELAY);
    command.arg("user").args(action).arg("--config").arg(site.path("relay.yaml"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{action:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The life of a relay with a database that goes and comes back.
async fn life(kind: DatabaseKind, section: &str) {
    let mut server = start(kind).await;
    let site = Site::new();
    site.write("database.url", &server.url());
    let auth = format!(
        "algorithms: [MD5], throttle: {{ enabled: false }}, database: {{ url: {{ file: database.url }}, timeout: 2s, \
         probe_interval: 200ms, cache: {{ expire: 1h, negative_expire: 1ms }}, {section} }}"
    );
    let admin = Some("listen: 'http://127.0.0.1:0'".to_owned());
    let settings = Settings { auth, admin, ..Settings::default() };
    site.write("relay.yaml", &settings.to_yaml());

    // The table belongs to others; the commands write to it.
    for name in ["erin", "frank", "grace"] {
        assert_eq!(user(&site, &["add", name], &format!("{name}pw\n")), "");
    }
    user(&site, &["add", "gone"], "x\n");
    user(&site, &["del", "gone"], "");
    assert_eq!(user(&site, &["list"], ""), "erin\nfrank\ngrace\n");

    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let up = async || admin.metric("msrp_relay_auth_database_up").await;
    let (mut erin, from) = Client::with_session(&daemon, &site, Scheme::Msrps, "erin").await;
    let (mut frank, to) = Client::with_session(&daemon, &site, Scheme::Msrps, "frank").await;
    let path = from.to(&to);
    let mut number = 0;
    let mut chat = async || {
        number += 1;
        let id = format!("m{number}");
        assert_eq!(erin.send(&Send::text(&path, &id, &id)).await.status(), 200);
        assert_eq!(frank.receive().await.body, id.as_bytes());
    };
    chat().await;
    for (user, password) in
        [("erin", "wrong"), ("nobody", "x"), ("ERIN", "erinpw"), ("erin ", "erinpw"), ("名前", "x")]
    {
        assert_eq!(status(&daemon, &site, user, password).await, 401, "{user}");
    }
    // A row made by others, with no more than they write.
    let hash = msrp_proto::digest::Ha1::from_password(
        msrp_proto::digest::Algorithm::Md5,
        "henry",
        "relay.test",
        "henrypw",
    );
    let secret = if section.contains("calculate_ha1: true") { "henrypw" } else { hash.as_hex() };
    let column = if section.contains("calculate_ha1: true") { "password" } else { "ha1" };
    server
        .execute(&format!(
            "INSERT INTO subscriber (username, domain, {column}) VALUES ('henry', 'relay.test', '{secret}')"
        ))
        .await;
    assert_eq!(status(&daemon, &site, "henry", "henrypw").await, 200);

    assert_eq!(up().await, 1.0);

    // Noticed though nobody logs in.
    server.kill();
    daemon.log().wait_for(&["WARN", "the database of users is away"]).await;
    assert_eq!(up().await, 0.0);
    chat().await;
    for (name, password) in [("erin", "erinpw"), ("erin", "wrong"), ("grace", "gracepw"), ("nobody", "x")] {
        assert_eq!(status(&daemon, &site, name, password).await, 408, "{name}: the cache is not asked");
    }

    server.run().await;
    daemon.log().wait_for(&["INFO", "the database of users is back"]).await;
    assert_eq!(up().await, 1.0);
    assert_eq!(status(&daemon, &site, "grace", "gracepw").await, 200);
    user(&site, &["passwd", "erin"], "newpw\n");
    assert_eq!(status(&daemon, &site, "erin", "newpw").await, 200);
    chat().await;
    assert_eq!(daemon.log().with(&["the database of users"]).len(), 2, "{:?}", daemon.log());
    assert!(daemon.log().with(&["s3cret"]).is_empty());
    daemon.assert_well();
}

#[tokio::test]
#[ignore = "needs MariaDB: tests/interop/run"]
async fn a_database_that_hangs_is_away_until_it_answers() {
    let server = start(DatabaseKind::MariaDb).await;
    let site = Site::new();
    site.write("database.url", &server.url());
    let auth = "database: { url: { file: database.url }, timeout: 500ms, probe_interval: 200ms }".to_owned();
    let settings = Settings { auth, ..Settings::default() };
    site.write("relay.yaml", &settings.to_yaml());
    user(&site, &["add", "erin"], "erinpw\n");
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200);
    for times in 1..=2 {
        server.freeze();
        daemon
            .log()
            .wait_for_lines(&["WARN", "the database of users is away", "no answer in time"], times)
            .await;
        assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 408);
        server.thaw();
        daemon.log().wait_for_lines(&["INFO", "the database of users is back"], times).await;
        assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200);
    }
    daemon.assert_well();
}

/// The columns with secrets of a table, and a user of whom two domains have a row.
async fn rows_of_two_domains(kind: DatabaseKind, columns: &[&str]) {
    let server = start(kind).await;
    let site = Site::new();
    site.write("database.url", &server.url());
    let auth = "database: { url: { file: database.url } }".to_owned();
    let settings = Settings { auth, ..Settings::default() };
    site.write("relay.yaml", &settings.to_yaml());
    for domain in ["a.test", "b.test"] {
        let names = columns.join(", ");
        let values = vec!["'old'"; columns.len()].join(", ");
        let text = format!(
            "INSERT INTO subscriber (username, domain, {names}) VALUES ('erin', '{domain}', {values})"
        );
        server.execute(&text).await;
    }
    let refused = |action: &str| {
        let mut command = Command::new(RELAY);
        command.args(["user", action, "erin", "--config"]).arg(site.path("relay.yaml"));
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"new\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for action in ["passwd", "del"] {
        assert!(refused(action).contains("in the domains a.test, b.test"), "{action}");
    }
    let old = async |domain: &str| {
        let values: Vec<_> = columns.iter().map(|column| format!("CAST({column} AS CHAR(128))")).collect();
        let text = format!("SELECT {} FROM subscriber WHERE domain = '{domain}'", values.join(", "));
        let rows = server.rows(&text).await;
        rows.iter().flatten().filter(|value| value.trim() == "old").count()
    };
    user(&site, &["passwd", "erin", "--domain", "b.test"], "new\n");
    assert_eq!((old("a.test").await, old("b.test").await), (columns.len(), 0));
    user(&site, &["del", "erin", "--domain", "b.test"], "");
    assert_eq!(server.rows("SELECT domain FROM subscriber").await, [["a.test"]]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/interop/run"]
async fn postgresql_changes_one_row_and_all_its_secrets() {
    rows_of_two_domains(DatabaseKind::Postgres, &["password", "ha1", "ha1b"]).await;
}

#[tokio::test]
#[ignore = "needs MariaDB: tests/interop/run"]
async fn mariadb_changes_one_row_and_all_its_secrets() {
    rows_of_two_domains(DatabaseKind::MariaDb, &["password", "ha1", "ha1_sha256", "ha1_sha512t256"]).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/interop/run"]
async fn postgresql_with_kamailios_table() {
    life(DatabaseKind::Postgres, "use_domain: true").await;
}

#[tokio::test]
#[ignore = "needs MariaDB: tests/interop/run"]
async fn mariadb_with_opensips_table() {
    life(DatabaseKind::MariaDb, "use_domain: false").await;
}

#[tokio::test]
#[ignore = "needs MariaDB: tests/interop/run"]
async fn mariadb_with_passwords() {
    life(DatabaseKind::MariaDb, "calculate_ha1: true, use_domain: true").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/interop/run"]
async fn postgresql_with_passwords() {
    life(DatabaseKind::Postgres, "calculate_ha1: true").await;
}

/// The log as it is, and `fail2ban-regex` on it.
#[tokio::test]
#[ignore = "needs fail2ban: tests/interop/run"]
async fn fail2ban_finds_who_fails() {
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/fail2ban/filter.d/msrp-relay.conf");
    for format in ["text", "json"] {
        let site = Site::new();
        let log = format!("level: info, format: {format}");
        let auth = "max_failures: 100".to_owned();
        let ws = Some("127.0.0.1:0".to_owned());
        let daemon = Daemon::start(RELAY, &site, &Settings { log, auth, ws, ..Settings::default() }).await;
        // The second one would like to have another address banned.
        for name in ["alice", "x peer=\"192.0.2.1:1\" AUTH failed link=1 peer=\"192.0.2.2:1\""] {
            assert_eq!(status(&daemon, &site, name, "wrong").await, 401);
        }
        assert_eq!(status(&daemon, &site, "alice", "alicepw").await, 200);
        daemon.log().wait_for_lines(&["AUTH failed"], 2).await;
        let mut lines = daemon.log().lines();
        let failed = daemon.log().with(&["AUTH failed"]).remove(0);
        let mut more = String::new();
        if format == "text" {
            lines.push(failed.replace("127.0.0.1", "[2001:db8::7]"));
            more.push_str("2001:db8::7\n");
        }
        // Those of `log.to: journald` and `syslog`: the message has no time and no level, and whoever keeps it writes a
        // time of its own before it, or none.
        let message = match format {
            "text" => failed[failed.find("AUTH failed").unwrap()..].to_owned(),
            _ => format!("{{{}", &failed[failed.find("\"message\"").unwrap()..]),
        };
        let beginnings = [
            "host msrp-relay[17]: ",
            "2026-11-21T19:30:32.125000+00:00 host msrp-relay[17]: ",
            "Nov 21 19:30:32 host msrp-relay[17]: ",
        ];
        for (number, begin) in (1..).zip(beginnings) {
            let address = format!("192.0.2.10{number}");
            lines.push(format!("{begin}{}", message.replace("127.0.0.1", &address)));
            more.push_str(&format!("{address}\n"));
        }
        let file = site.write("relay.log", &(lines.join("\n") + "\n"));
        let output =
            Command::new("fail2ban-regex").args(["--out", "ip"]).arg(&file).arg(filter).output().unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        assert_eq!(found, format!("127.0.0.1\n127.0.0.1\n{more}"), "{format}: {lines:#?}");
    }
}
