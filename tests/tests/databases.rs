//! Users in real databases: PostgreSQL and MariaDB, which are killed and come back in the middle.
//!
//! `tests/interop/run` installs their servers and runs these tests; they are left out of `cargo test`. Each starts a
//! server of its own in a temporary directory, on a Unix socket, as a user who is not root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::{Connection as _, Executor as _};
use tests::{Client, Daemon, Scheme, Send, Settings, Site, within};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// `nobody`, whom Debian has: servers of databases refuse to be root.
const NOBODY: u32 = 65534;

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

/// Which server it is, and what it needs.
#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    MariaDb,
}

/// A database server; killed when dropped.
struct Server {
    kind: Kind,
    directory: tempfile::TempDir,
    process: Option<Child>,
}

/// A command that is run as nobody if we are root. What it says goes to a file in `directory`, as do its temporary
/// files: a MariaDB that starts removes those of another one in the same place.
fn as_nobody(program: &Path, directory: &Path) -> Command {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir("/");
    command.env("TMPDIR", directory);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A program of a database server, which is not always in the path.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    places.extend(["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from));
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}

impl Server {
    async fn start(kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = directory.path().join("data");
        let made = match kind {
            Kind::Postgres => {
                let mut command = as_nobody(&program("initdb"), directory.path());
                command
                    .args(["-U", "relay", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
                    .arg(&data);
                command.status()
            }
            Kind::MariaDb => {
                let mut command = as_nobody(&program("mariadb-install-db"), directory.path());
                command.args([
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--verbose",
                ]);
                command.arg(format!("--datadir={}", data.display())).status()
            }
        };
        let said = || std::fs::read_to_string(directory.path().join("log"));
        assert!(made.unwrap().success(), "cannot make the database: {:?}", said());
        let mut server = Self { kind, directory, process: None };
        server.run().await;
        match kind {
            Kind::Postgres => {
                server.execute("postgres", "CREATE DATABASE sip").await;
                server.execute("sip", KAMAILIO_POSTGRES).await;
            }
            Kind::MariaDb => {
                server.execute("mysql", "CREATE DATABASE sip CHARACTER SET utf8mb4").await;
                server.execute("sip", OPENSIPS_MYSQL).await;
                server.execute("mysql", "CREATE USER 'relay'@'localhost' IDENTIFIED BY 's3cret'").await;
                server.execute("mysql", "GRANT ALL ON sip.* TO 'relay'@'localhost'").await;
            }
        }
        server
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("mariadb.sock")
    }

    /// The URL for whoever runs it.
    fn own_url(&self, database: &str) -> String {
        match self.kind {
            Kind::Postgres => {
                format!("postgres:///{database}?host={}&user=relay", self.directory.path().display())
            }
            Kind::MariaDb => format!("mysql://root@localhost/{database}?socket={}", self.socket().display()),
        }
    }

    /// The URL for the relay.
    fn url(&self) -> String {
        match self.kind {
            Kind::Postgres => self.own_url("sip"),
            Kind::MariaDb => format!("mysql://relay:s3cret@localhost/sip?socket={}", self.socket().display()),
        }
    }

    /// Starts it, and waits until it answers.
    async fn run(&mut self) {
        let data = self.directory.path().join("data");
        within("the database", async {
            loop {
                // One that was killed may leave behind what the next one waits for, and gives up on.
                if self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some()) {
                    let mut command = match self.kind {
                        Kind::Postgres => {
                            let mut command = as_nobody(&program("postgres"), self.directory.path());
                            command.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c"]);
                            command
                                .arg(format!("unix_socket_directories={}", self.directory.path().display()));
                            command
                        }
                        Kind::MariaDb => {
                            let mut command = as_nobody(&program("mariadbd"), self.directory.path());
                            command.args(["--no-defaults", "--skip-networking"]);
                            command.arg(format!("--datadir={}", data.display()));
                            command.arg(format!("--socket={}", self.socket().display()));
                            command
                        }
                    };
                    self.process = Some(command.spawn().unwrap());
                }
                if self.try_execute("", "SELECT 1").await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// As when the machine loses power.
    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    async fn execute(&self, database: &str, statement: &str) {
        self.try_execute(database, statement).await.unwrap();
    }

    async fn try_execute(&self, database: &str, statement: &str) -> Result<(), sqlx::Error> {
        match self.kind {
            Kind::Postgres => {
                let database = if database.is_empty() { "postgres" } else { database };
                let mut connection = sqlx::PgConnection::connect(&self.own_url(database)).await?;
                connection.execute(statement).await?;
                connection.close().await
            }
            Kind::MariaDb => {
                let database = if database.is_empty() { "mysql" } else { database };
                let mut connection = sqlx::MySqlConnection::connect(&self.own_url(database)).await?;
                connection.execute(statement).await?;
                connection.close().await
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
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
async fn life(kind: Kind, section: &str) {
    let mut server = Server::start(kind).await;
    let site = Site::new();
    site.write("database.url", &server.url());
    let auth = format!(
        "algorithms: [MD5], throttle: {{ enabled: false }}, database: {{ url: {{ file: database.url }}, timeout: 2s, \
         cache: {{ expire: 1h, negative_expire: 1ms }}, {section} }}"
    );
    let settings = Settings { auth, ..Settings::default() };
    site.write("relay.yaml", &settings.to_yaml());

    // The table belongs to others; the commands write to it.
    for name in ["erin", "frank", "grace"] {
        assert_eq!(user(&site, &["add", name], &format!("{name}pw\n")), "");
    }
    user(&site, &["add", "gone"], "x\n");
    user(&site, &["del", "gone"], "");
    assert_eq!(user(&site, &["list"], ""), "erin\nfrank\ngrace\n");

    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
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
        .execute("sip", &format!("INSERT INTO subscriber (username, domain, {column}) VALUES ('henry', 'relay.test', '{secret}')"))
        .await;
    assert_eq!(status(&daemon, &site, "henry", "henrypw").await, 200);

    server.kill();
    assert_eq!(status(&daemon, &site, "grace", "gracepw").await, 408, "nobody knows");
    daemon.log().wait_for(&["WARN", "the database of users is away"]).await;
    chat().await;
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200, "from the cache");
    assert_eq!(status(&daemon, &site, "grace", "gracepw").await, 408);
    assert_eq!(status(&daemon, &site, "erin", "wrong").await, 408, "nobody can say that it has not changed");

    server.run().await;
    daemon.log().wait_for(&["INFO", "the database of users is back"]).await;
    assert_eq!(status(&daemon, &site, "grace", "gracepw").await, 200);
    user(&site, &["passwd", "erin"], "newpw\n");
    assert_eq!(status(&daemon, &site, "erin", "newpw").await, 200);
    chat().await;
    assert_eq!(daemon.log().with(&["the database of users"]).len(), 2, "{:?}", daemon.log());
    assert!(daemon.log().with(&["s3cret"]).is_empty());
    daemon.assert_well();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/interop/run"]
async fn postgresql_with_kamailios_table() {
    life(Kind::Postgres, "use_domain: true").await;
}

#[tokio::test]
#[ignore = "needs MariaDB: tests/interop/run"]
async fn mariadb_with_opensips_table() {
    life(Kind::MariaDb, "use_domain: false").await;
}

#[tokio::test]
#[ignore = "needs MariaDB: tests/interop/run"]
async fn mariadb_with_passwords() {
    life(Kind::MariaDb, "calculate_ha1: true, use_domain: true").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/interop/run"]
async fn postgresql_with_passwords() {
    life(Kind::Postgres, "calculate_ha1: true").await;
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
        // As systemd's journal gives them.
        if format == "text" {
            let failed = daemon.log().with(&["AUTH failed"]).remove(0);
            lines.push(failed.replace("127.0.0.1", "[2001:db8::7]"));
        }
        let file = site.write("relay.log", &(lines.join("\n") + "\n"));
        let output =
            Command::new("fail2ban-regex").args(["--out", "ip"]).arg(&file).arg(filter).output().unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        let more = if format == "text" { "2001:db8::7\n" } else { "" };
        assert_eq!(found, format!("127.0.0.1\n127.0.0.1\n{more}"), "{format}: {lines:#?}");
    }
}
