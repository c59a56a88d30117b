//! Where users come from, with the real daemon: SQLite and the commands that write to it, ephemeral credentials, and
//! what happens to those who fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use msrp_proto::digest::{Answer, Authorization, Challenge, Secret as DigestSecret};
use relay::config::Secret;
use relay::credentials::{Ephemeral, EphemeralAlgorithm};
use rustix::process::Signal;
use sqlx::Connection as _;
use tests::{Admin, Client, Daemon, Scheme, Send, Settings, Site, Stream, WebSocket, within};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const DATABASE: &str = "allow_auth_without_tls: true, \
                        database: { url: 'sqlite:users.db', cache: { negative_expire: 1ms, expire: 1h } }";

fn settings(auth: &str) -> Settings {
    Settings { auth: auth.into(), ..Settings::default() }
}

/// Runs a command with this standard input.
fn relay(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(RELAY);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Runs `msrp-relay user` on a configuration; gives its exit code, and what it says.
fn user(site: &Site, action: &[&str], input: &str) -> (i32, String) {
    let config = site.path("relay.yaml").display().to_string();
    let output = relay(&[&["user"], action, &["--config", &config]].concat(), input);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

async fn status(daemon: &Daemon, site: &Site, user: &str, password: &str) -> u16 {
    let mut client = Client::connect(daemon, site, Scheme::Msrps).await;
    let to = [client.relay_uri().to_owned()];
    client.try_auth_at(&to, user, password).await.status()
}

#[tokio::test]
async fn users_of_sqlite_are_made_by_commands_and_get_in() {
    let site = Site::new();
    site.write("relay.yaml", &settings(DATABASE).to_yaml());
    let none = (0, String::new());
    assert_eq!(user(&site, &["add", "erin"], "erinpw\n"), none);
    assert_eq!(user(&site, &["add", "frank"], "frankpw"), none);
    let daemon = Daemon::start(RELAY, &site, &settings(DATABASE)).await;

    assert_eq!(user(&site, &["list"], ""), (0, "erin\nfrank\n".into()));
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200);
    assert_eq!(status(&daemon, &site, "erin", "wrong").await, 401);
    assert_eq!(status(&daemon, &site, "alice", "alicepw").await, 200, "a user of the file");
    assert_eq!(status(&daemon, &site, "grace", "gracepw").await, 401);

    // While it runs: a new user, a new password, and one user less.
    assert_eq!(user(&site, &["add", "grace"], "gracepw\n"), none);
    assert_eq!(status(&daemon, &site, "grace", "gracepw").await, 200);
    assert_eq!(user(&site, &["passwd", "erin"], "newpw\n"), none);
    assert_eq!(status(&daemon, &site, "erin", "newpw").await, 200, "a new password counts at once");
    assert_eq!(user(&site, &["del", "frank"], ""), none);
    assert_eq!(status(&daemon, &site, "frank", "frankpw").await, 401);

    for (action, input, said) in [
        (["add", "erin"], "x\n", "there is such a user already"),
        (["passwd", "nobody"], "x\n", "there is no such user"),
        (["del", "nobody"], "", "there is no such user"),
        (["add", "henry"], "\n", "the password is empty"),
        (["add", "a:b"], "x\n", "a user name has"),
    ] {
        let (code, text) = user(&site, &action, input);
        assert!(code == 1 && text.contains(said), "{action:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    // Only the file's owner may read what lets everybody in.
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(site.path("users.db")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn users_without_a_database_are_in_the_file() {
    let site = Site::new();
    site.write("relay.yaml", &settings("").to_yaml());
    let (code, said) = user(&site, &["list"], "");
    assert!(code == 1 && said.contains("there is no `auth.database`"), "{said}");
}

#[test]
fn a_password_is_never_an_argument() {
    let site = Site::new();
    site.write("relay.yaml", &settings(DATABASE).to_yaml());
    assert_eq!(user(&site, &["add", "erin", "erinpw"], "").0, 2);
    assert_eq!(user(&site, &["add", "erin", "--password", "erinpw"], "").0, 2);
}

#[test]
fn a_hash_is_printed_for_user_realm_and_algorithm() {
    // printf 'alice:relay.test:alicepw' | md5sum
    for (algorithm, hash) in [
        (&[][..], "96bdcbf245e83503b762a2b6b977b630"),
        (&["--algorithm", "md5"][..], "96bdcbf245e83503b762a2b6b977b630"),
        (&["--algorithm", "SHA-256"][..], "b78366791acd840de46f61e542d82ccc1d0373fdba148d9c0ec3c3ee9eb0f678"),
    ] {
        let output =
            relay(&[&["hash", "--user", "alice", "--realm", "relay.test"], algorithm].concat(), "alicepw\n");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{hash}\n"));
    }
    assert_eq!(relay(&["hash", "--user", "a:b", "--realm", "r"], "x\n").status.code(), Some(1));
    assert_eq!(
        relay(&["hash", "--user", "a", "--realm", "r", "--algorithm", "x"], "x\n").status.code(),
        Some(2)
    );
}

#[tokio::test]
async fn a_database_that_is_away_lets_nobody_in_and_its_return_is_seen() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &settings(DATABASE)).await;
    daemon.log().wait_for(&["WARN", "the database of users is away"]).await;
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 408);
    // Users of the file do not need it, and their sessions go on.
    let (mut alice, from) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, to) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let path = from.to(&to);
    let sent = Send::text(&path, "m1", "hello");
    assert_eq!(alice.send(&sent).await.status(), 200);
    assert_eq!(bob.receive().await.body, b"hello");

    assert_eq!(user(&site, &["add", "erin"], "erinpw\n").0, 0);
    daemon.log().wait_for(&["INFO", "the database of users is back"]).await;
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200);
    assert_eq!(daemon.log().with(&["the database of users"]).len(), 2, "{:?}", daemon.log());
    daemon.assert_well();
}

/// Does something to a database of SQLite, beside the relay.
async fn execute(site: &Site, statement: &str) {
    let url = format!("sqlite:{}", site.path("users.db").display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn in_an_outage_nobody_gets_in_sessions_go_on_and_log_and_metrics_say_so() {
    let site = Site::new();
    let auth = "allow_auth_without_tls: true, throttle: { free: 1, delay: 20s, max_delay: 20s }, \
                database: { url: 'sqlite:users.db', probe_interval: 100ms, cache: { expire: 1h, negative_expire: 1h } }";
    let settings = Settings { admin: Some("listen: 'http://127.0.0.1:0'".into()), ..settings(auth) };
    site.write("relay.yaml", &settings.to_yaml());
    for name in ["erin", "frank"] {
        assert_eq!(user(&site, &["add", name], &format!("{name}pw\n")).0, 0);
    }
    let mut daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let up = async || admin.metric("msrp_relay_auth_database_up").await;
    let count = async |result: &str| {
        admin.metric(&format!("msrp_relay_auth_lookups_total{{result=\"{result}\"}}")).await
    };
    let (mut erin, from) = Client::with_session(&daemon, &site, Scheme::Msrps, "erin").await;
    let (mut frank, to) = Client::with_session(&daemon, &site, Scheme::Msrps, "frank").await;
    let path = from.to(&to);
    let mut chat = async |id: &str| {
        assert_eq!(erin.send(&Send::text(&path, id, id)).await.status(), 200);
        assert_eq!(frank.receive().await.body, id.as_bytes());
    };
    chat("before").await;
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200);
    assert_eq!((up().await, count("queried").await, count("cached").await), (1.0, 2.0, 1.0));

    // Nobody logs in; the probe notices.
    execute(&site, "ALTER TABLE subscriber RENAME TO elsewhere").await;
    daemon.log().wait_for(&["WARN", "the database of users is away"]).await;
    assert_eq!(up().await, 0.0);
    for (name, password) in [("erin", "erinpw"), ("erin", "wrong"), ("erin", "wrong"), ("nobody", "x")] {
        assert_eq!(status(&daemon, &site, name, password).await, 408, "{name} {password}");
    }
    chat("meanwhile").await;
    assert_eq!((count("away").await, count("failed").await, count("cached").await), (4.0, 0.0, 1.0));
    // Users of the file get in, and who does not know their password cannot tell that there are any.
    assert_eq!(status(&daemon, &site, "alice", "alicepw").await, 200);
    assert!(daemon.log().with(&["AUTH failed"]).is_empty());
    assert_eq!(status(&daemon, &site, "bob", "wrong").await, 408);
    daemon.log().wait_for(&["AUTH failed", "user=\"bob\""]).await;

    execute(&site, "ALTER TABLE elsewhere RENAME TO subscriber").await;
    daemon.log().wait_for(&["INFO", "the database of users is back"]).await;
    assert_eq!(up().await, 1.0);
    // At once: the wrong passwords meanwhile count against nobody.
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200);
    chat("after").await;
    assert_eq!(daemon.log().with(&["the database of users"]).len(), 2, "{:?}", daemon.log());
    let sum = count("cached").await + count("queried").await + count("busy").await + count("failed").await;
    assert_eq!(
        sum + count("away").await,
        9.0,
        "each look-up once: 4 before, 4 of unknown or away, and one after"
    );
    daemon.assert_well();
}

#[tokio::test]
async fn one_row_of_several_is_changed_and_the_refusal_names_their_domains() {
    let site = Site::new();
    site.write("relay.yaml", &settings(DATABASE).to_yaml());
    assert_eq!(user(&site, &["add", "erin", "--domain", "a.test"], "erinpw\n"), (0, String::new()));
    execute(&site, "INSERT INTO subscriber (username, domain, ha1) VALUES ('erin', 'b.test', 'x')").await;
    for action in ["passwd", "del"] {
        let (code, said) = user(&site, &[action, "erin"], "newpw\n");
        assert!(code == 1 && said.contains("in the domains a.test, b.test: `--domain` says which"), "{said}");
        let (code, said) = user(&site, &[action, "erin", "--domain", "c.test"], "newpw\n");
        assert!(code == 1 && said.contains("there is no such user"), "{said}");
    }
    assert_eq!(user(&site, &["list"], ""), (0, "erin\nerin\n".into()));
    assert_eq!(user(&site, &["del", "erin", "--domain", "b.test"], ""), (0, String::new()));
    assert_eq!(user(&site, &["passwd", "erin"], "newpw\n"), (0, String::new()));
    let daemon = Daemon::start(RELAY, &site, &settings(DATABASE)).await;
    assert_eq!(status(&daemon, &site, "erin", "newpw").await, 200);
}

#[test]
fn help_says_where_passwords_come_from_and_what_the_realm_and_htdigest_lines_are() {
    for (args, expected) in [
        (
            &["hash", "--help"][..],
            &["auth.realm", "first line of standard input", "NAME:REALM:HASH", "ha1_sha256"][..],
        ),
        (&["user", "add", "--help"][..], &["auth.realm", "first line of standard input", "--domain"][..]),
        (&["user", "passwd", "--help"][..], &["cache.expire", "ha1_sha256", "--domain"][..]),
    ] {
        let said = String::from_utf8(relay(args, "").stdout).unwrap();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in expected {
            assert!(said.contains(part), "{args:?}: {part}: {said}");
        }
    }
}

#[tokio::test]
async fn a_browser_proves_with_the_handshake_who_it_is_in_the_database() {
    let site = Site::new();
    let settings = Settings {
        ws: Some("127.0.0.1:0".into()),
        websocket: "auth: { digest: true }".into(),
        ..settings(DATABASE)
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    daemon.log().wait_for(&["the database of users is away"]).await;
    let open = async |authorization: Option<&str>| {
        let address = daemon.address(Scheme::Ws);
        let stream = Stream::Plain(within("a connection", TcpStream::connect(address)).await.unwrap());
        let mut headers = vec![("Sec-WebSocket-Protocol", "msrp")];
        headers.extend(authorization.map(|value| ("Authorization", value)));
        let url = daemon.websocket_url(Scheme::Ws);
        match within("a handshake", WebSocket::open(stream, &url, &headers)).await {
            Ok(_) => (101, None),
            Err(error) => {
                let Error::Http(response) = *error else { panic!("an answer") };
                let challenge = response.headers().get("WWW-Authenticate");
                (response.status().as_u16(), challenge.map(|value| value.to_str().unwrap().to_owned()))
            }
        }
    };
    let attempt = async |password: &str| {
        let (status, challenge) = open(None).await;
        assert_eq!(status, 401);
        let answer = Answer {
            username: "erin",
            secret: DigestSecret::Password(password),
            method: "GET",
            digest_uri: "/msrp",
            cnonce: "page",
            nc: 1,
            send_uri: true,
        };
        let challenge = Challenge::parse(challenge.unwrap()).unwrap();
        open(Some(&Authorization::answer(&challenge, &answer).unwrap().to_string())).await.0
    };
    assert_eq!(attempt("erinpw").await, 503);
    assert_eq!(user(&site, &["add", "erin"], "erinpw\n").0, 0);
    daemon.log().wait_for(&["the database of users is back"]).await;
    assert_eq!((attempt("wrong").await, attempt("erinpw").await), (401, 101));
}

#[tokio::test]
async fn ephemeral_credentials_open_sessions_until_they_expire() {
    let site = Site::new();
    let auth = "allow_auth_without_tls: true, ephemeral: { secret: '0123456789abcdef', \
                other_secret: 'fedcba9876543210', algorithm: sha256 }";
    let daemon = Daemon::start(RELAY, &site, &settings(auth)).await;
    let source = Ephemeral::new(EphemeralAlgorithm::Sha256, Secret::new("0123456789abcdef"), None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (good, over) = (format!("{}:zoe", now + 3600), format!("{}:zoe", now - 1));
    assert_eq!(status(&daemon, &site, &good, &source.password(&good)).await, 200);
    let other = Ephemeral::new(EphemeralAlgorithm::Sha256, Secret::new("fedcba9876543210"), None);
    assert_eq!(status(&daemon, &site, &good, &other.password(&good)).await, 200);
    let sha1 = Ephemeral::new(EphemeralAlgorithm::Sha1, Secret::new("0123456789abcdef"), None);
    assert_eq!(status(&daemon, &site, &good, &sha1.password(&good)).await, 401);
    assert_eq!(status(&daemon, &site, &over, &source.password(&over)).await, 401);
    daemon.log().wait_for(&["session granted", "user=\"zoe\""]).await;
    daemon.log().wait_for(&["AUTH failed", "expired credentials"]).await;
}

#[tokio::test]
async fn ephemeral_credentials_have_the_limits_of_the_users_row() {
    let site = Site::new();
    let auth = "allow_auth_without_tls: true, ephemeral: { secret: '0123456789abcdef' }, \
                database: { url: 'sqlite:users.db', sessions_column: most, probe_interval: 100ms }";
    site.write("relay.yaml", &settings(auth).to_yaml());
    assert_eq!(user(&site, &["add", "zoe"], "unused\n").0, 0);
    execute(&site, "UPDATE subscriber SET most = 1").await;
    let daemon = Daemon::start(RELAY, &site, &settings(auth)).await;
    let source = Ephemeral::new(EphemeralAlgorithm::Sha1, Secret::new("0123456789abcdef"), None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (name, statuses) in [("zoe", [200, 403]), ("yves", [200, 200])] {
        let name = format!("{}:{name}", now + 3600);
        let mut client = Client::connect(&daemon, &site, Scheme::Msrps).await;
        let to = [client.relay_uri().to_owned()];
        for status in statuses {
            let answer = client.try_auth_at(&to, &name, &source.password(&name)).await;
            assert_eq!(answer.status(), status, "{name}");
        }
    }
}

#[tokio::test]
async fn a_user_has_the_limits_of_its_row() {
    let site = Site::new();
    let auth = "allow_auth_without_tls: true, database: { url: 'sqlite:users.db', sessions_column: most }";
    site.write("relay.yaml", &settings(auth).to_yaml());
    assert_eq!(user(&site, &["add", "erin"], "erinpw\n").0, 0);
    let limits = "user: { sessions: 1 }";
    let daemon = Daemon::start(RELAY, &site, &Settings { limits: limits.into(), ..settings(auth) }).await;
    let (_first, _) = Client::with_session(&daemon, &site, Scheme::Msrps, "erin").await;
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 403);
    daemon.log().wait_for(&["AUTH refused", "the user has 1 sessions already"]).await;
}

/// The beginning of the line is what `examples/fail2ban/filter.d/msrp-relay.conf` looks for.
#[tokio::test]
async fn a_failed_auth_has_a_line_that_fail2ban_knows() {
    for (format, begins) in [
        ("text", "WARN AUTH failed link="),
        ("json", "\"level\":\"WARN\",\"message\":\"AUTH failed\",\"link\":"),
    ] {
        let site = Site::new();
        let log = format!("level: info, format: {format}");
        let daemon = Daemon::start(RELAY, &site, &Settings { log, ..settings("") }).await;
        let mut client = Client::connect(&daemon, &site, Scheme::Msrps).await;
        let to = [client.relay_uri().to_owned()];
        let name = r#"x peer=192.0.2.1:1"#;
        assert_eq!(client.try_auth_at(&to, name, "wrong").await.status(), 401);
        let line = daemon.log().wait_for(&["AUTH failed"]).await;
        let (_, rest) = line.split_once(begins).unwrap_or_else(|| panic!("{line}"));
        let address = client.address();
        let peer = if format == "text" {
            format!(" peer=\"{address}\"")
        } else {
            format!(",\"peer\":\"{address}\"")
        };
        let number = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        assert!(rest[number..].starts_with(&peer), "{line}");
    }
}

#[tokio::test]
async fn who_keeps_failing_waits_and_others_do_not() {
    let site = Site::new();
    let auth =
        "allow_auth_without_tls: true, max_failures: 100, throttle: { free: 1, delay: 20s, max_delay: 20s }";
    let daemon = Daemon::start(RELAY, &site, &settings(auth)).await;
    assert_eq!(status(&daemon, &site, "alice", "wrong").await, 401);
    let mut waiting = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let to = [waiting.relay_uri().to_owned()];
    let answer = waiting.try_auth_at(&to, "alice", "alicepw");
    // It is still waiting when others have come and gone; the delay is longer than any of that takes.
    tokio::select! {
        answer = answer => panic!("{answer:?}"),
        () = async {
            for _ in 0..3 {
                assert_eq!(status(&daemon, &site, "bob", "bobpw").await, 200);
            }
        } => {}
    }
}

#[tokio::test]
async fn a_database_whose_settings_stay_keeps_its_connections_over_a_reload() {
    let site = Site::new();
    let database = |more: &str| {
        settings(&format!("allow_auth_without_tls: true, database: {{ url: 'sqlite:users.db'{more} }}"))
    };
    site.write("relay.yaml", &database("").to_yaml());
    for name in ["erin", "frank", "grace"] {
        assert_eq!(user(&site, &["add", name], &format!("{name}pw\n")).0, 0);
    }
    let daemon = Daemon::start(RELAY, &site, &database("")).await;
    assert_eq!(status(&daemon, &site, "erin", "erinpw").await, 200);
    // A connection that is there has the file, whatever its name leads to.
    std::fs::remove_file(site.path("users.db")).unwrap();
    let reload = async |settings: &Settings| {
        let before = daemon.log().with(&["configuration reloaded"]).len();
        site.write("relay.yaml", &settings.to_yaml());
        daemon.signal(Signal::HUP);
        daemon.log().wait_for_lines(&["configuration reloaded"], before + 1).await;
    };
    reload(&Settings { users: ", henry: { password: henrypw }".into(), ..database("") }).await;
    assert_eq!(status(&daemon, &site, "henry", "henrypw").await, 200);
    assert_eq!(status(&daemon, &site, "frank", "frankpw").await, 200);
    // With other settings it is another pool, which finds no file.
    reload(&database(", pool_size: 3")).await;
    assert_eq!(status(&daemon, &site, "grace", "gracepw").await, 408);
}
