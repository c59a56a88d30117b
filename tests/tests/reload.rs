//! The configuration, read again while the daemon runs: SIGHUP, and `ctl reload`. In each test a message is under way
//! while it is read, and arrives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use msrp_proto::digest::{Algorithm, Ha1};
use msrp_proto::flag::Flag;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Admin, Client, Content, Daemon, Listener, Scheme, Send, Session, Settings, Site, within};
use tokio::net::TcpStream;

#[path = "reload/listeners.rs"]
mod listeners;
#[path = "reload/log.rs"]
mod log;
#[path = "reload/sip.rs"]
mod sip;
#[path = "reload/upgrade.rs"]
mod upgrade;
#[path = "reload/watching.rs"]
mod watching;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// A daemon, and two users of it with a message between them that is half sent.
struct Running {
    site: Site,
    daemon: Daemon,
    alice: Client,
    bob: Client,
    from_alice: Session,
    from_bob: Session,
    content: Content,
    transaction: String,
}

const LENGTH: usize = 20_000;

impl Running {
    async fn start(settings: &Settings) -> Self {
        let site = Site::new();
        let daemon = Daemon::start(RELAY, &site, settings).await;
        let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
        let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrp, "bob").await;
        let content = Content::new(LENGTH as u64);
        let message = Send {
            to: from_alice.to(&from_bob),
            message: "under-way".into(),
            range: format!("1-{LENGTH}/{LENGTH}"),
            ..Send::default()
        };
        let transaction = alice.tx.begin(&message).await;
        alice.tx.raw(content.piece(0, LENGTH / 2)).await;
        bob.rx.head().await;
        Self { site, daemon, alice, bob, from_alice, from_bob, content, transaction }
    }

    fn write(&self, settings: &Settings) {
        self.site.write("relay.yaml", &settings.to_yaml());
    }

    /// Has the daemon read `settings`, which it takes over; gives what it logged of that.
    async fn reload(&self, settings: &Settings) -> Vec<String> {
        self.write(settings);
        let before = self.daemon.log().lines().len();
        hup(&self.daemon, "configuration reloaded").await;
        self.daemon.log().lines().split_off(before)
    }

    /// Has the daemon read `settings`, which it refuses.
    async fn refuse(&self, settings: &Settings, words: &[&str]) {
        self.write(settings);
        let line = hup(&self.daemon, "not reloaded, everything stays as it was").await;
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}");
    }

    /// The message arrives, and another one after it; nothing went wrong.
    async fn goes_on(mut self) {
        self.arrives().await;
        self.daemon.assert_well();
    }

    /// As [`goes_on`](Self::goes_on), where a reload was refused.
    async fn arrives(&mut self) {
        self.alice.tx.raw(self.content.piece(LENGTH as u64 / 2, LENGTH)).await;
        self.alice.tx.end(&self.transaction, Flag::Complete).await;
        assert_eq!(self.alice.rx.response(&self.transaction).await.status(), 200);
        let (body, flag) = self.bob.rx.rest_of_chunk().await;
        self.content.check(0, &body);
        assert_eq!((body.len(), flag), (LENGTH, Flag::Complete));
        let more = Send::text(&self.from_bob.to(&self.from_alice), "more", "and back");
        assert_eq!(self.bob.send(&more).await.status(), 200);
        assert_eq!(self.alice.receive().await.body, b"and back");
    }
}

/// Sends SIGHUP, and gives the line with these words that answers it.
async fn hup(daemon: &Daemon, words: &str) -> String {
    let before = daemon.log().with(&[words]).len();
    daemon.signal(Signal::HUP);
    daemon.log().wait_for_lines(&[words], before + 1).await.swap_remove(before)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The status of an AUTH over a new connection.
async fn auth(running: &Running, user: &str) -> u16 {
    let mut client = Client::connect(&running.daemon, &running.site, Scheme::Msrps).await;
    let to = [client.relay_uri().to_owned()];
    client.try_auth_at(&to, user, &format!("{user}pw")).await.status()
}

/// Waits until the daemon has closed it.
async fn closes(socket: &mut TcpStream) {
    let mut byte = [0];
    let end = within("a close", tokio::io::AsyncReadExt::read(socket, &mut byte)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// Waits until nobody accepts there.
async fn until_closed(address: SocketAddr) {
    let closed = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(format_args!("{address} closes"), closed).await;
}

#[tokio::test]
async fn users_come_and_go_and_who_has_a_session_keeps_it() {
    let settings = Settings { users: ", old: { password: oldpw }".into(), ..Settings::default() };
    let running = Running::start(&settings).await;
    let mut old = Client::connect(&running.daemon, &running.site, Scheme::Msrps).await;
    let session = old.auth("old", "oldpw").await;
    assert_eq!((auth(&running, "old").await, auth(&running, "new").await), (200, 401));
    let lines =
        running.reload(&Settings { users: ", new: { password: newpw }".into(), ..Settings::default() }).await;
    assert_eq!((auth(&running, "old").await, auth(&running, "new").await), (401, 200));
    let to_self = Send::text(&session.to(&session), "m", "still here");
    assert_eq!(old.send(&to_self).await.status(), 200);
    assert_eq!(old.receive().await.body, b"still here");
    let told = lines.join("\n");
    assert!(!told.contains("newpw") && !told.contains("oldpw"), "{told}");
    for line in [
        r#"reloaded setting="auth.users.new.password" from="(not set)" to="***""#,
        r#"reloaded setting="auth.users.old.password" from="***" to="(not set)""#,
        "configuration reloaded changed=2 needs_restart=0",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
    running.goes_on().await;
}

#[tokio::test]
async fn files_with_users_and_secrets_are_read_again() {
    let site_settings = |auth: &str| Settings {
        auth: format!("allow_auth_without_tls: true, {auth}"),
        ..Settings::default()
    };
    let running = Running::start(&Settings::default()).await;
    let hash = |user: &str| Ha1::from_password(Algorithm::Md5, user, "relay.test", &format!("{user}pw"));
    running.site.write("users.htdigest", &format!("erin:relay.test:{}\n", hash("erin").as_hex()));
    let with_file = site_settings("htdigest: users.htdigest");
    running.reload(&with_file).await;
    assert_eq!((auth(&running, "erin").await, auth(&running, "frank").await), (200, 401));
    running.site.write("users.htdigest", &format!("frank:relay.test:{}\n", hash("frank").as_hex()));
    let lines = running.reload(&with_file).await;
    assert_eq!((auth(&running, "erin").await, auth(&running, "frank").await), (401, 200));
    assert!(lines.iter().any(|line| line.contains(r#"setting="auth.htdigest""#)), "{lines:?}");
    running.goes_on().await;
}

#[tokio::test]
async fn a_challenge_of_the_secret_before_is_renewed() {
    let with_secret = |secret: &str| Settings {
        auth: format!("allow_auth_without_tls: true, nonce_secret: {secret}"),
        ..Settings::default()
    };
    let (one, other) = ("a".repeat(32), "b".repeat(32));
    let running = Running::start(&with_secret(&one)).await;
    let mut client = Client::connect(&running.daemon, &running.site, Scheme::Msrps).await;
    let to = [client.relay_uri().to_owned()];
    let challenge = client.challenge(&to).await;
    let lines = running.reload(&with_secret(&other)).await;
    let told = lines.join("\n");
    assert!(told.contains(r#"setting="auth.nonce_secret" from="***" to="***""#), "{told}");
    assert!(!told.contains(&one) && !told.contains(&other), "{told}");
    let stale = client.answer(&to, &challenge, "alice", "alicepw", "").await;
    assert_eq!(stale.status(), 401);
    let told = stale.header("WWW-Authenticate");
    assert!(told.contains("stale=true"), "{told}");
    client.auth("alice", "alicepw").await;
    running.goes_on().await;
}

#[tokio::test]
async fn limits_count_for_what_comes_then() {
    let running = Running::start(&Settings::default()).await;
    let mut client = Client::connect(&running.daemon, &running.site, Scheme::Msrps).await;
    client.auth("carol", "carolpw").await;
    let limits = |limits: &str| Settings { limits: limits.into(), ..Settings::default() };
    running.reload(&limits("sessions_per_connection: 1")).await;
    let to = [client.relay_uri().to_owned()];
    assert_eq!(client.try_auth_at(&to, "carol", "carolpw").await.status(), 403);
    // Everybody's limits count at once; whoever has more sessions keeps them.
    running.reload(&limits("user: { sessions: 1 }")).await;
    assert_eq!(client.try_auth_at(&to, "carol", "carolpw").await.status(), 403);
    running.reload(&limits("user: { message_size: 10B }")).await;
    assert_eq!(client.try_auth_at(&to, "carol", "carolpw").await.status(), 200);
    // Connections of one address, those that are there included.
    running.reload(&limits("max_connections_per_address: 3")).await;
    let mut refused = TcpStream::connect(running.daemon.address(Scheme::Msrp)).await.unwrap();
    closes(&mut refused).await;
    running.reload(&Settings::default()).await;
    Client::with_session(&running.daemon, &running.site, Scheme::Msrps, "dave").await;
    running.goes_on().await;
}

#[tokio::test]
async fn a_users_limit_counts_for_a_session_that_is_there() {
    let running = Running::start(&Settings::default()).await;
    let (mut carol, session) =
        Client::with_session(&running.daemon, &running.site, Scheme::Msrps, "carol").await;
    running.reload(&Settings { limits: "user: { message_size: 10B }".into(), ..Settings::default() }).await;
    let message = Send::text(&session.to(&session), "m", "more than ten bytes");
    assert_eq!(carol.send(&message).await.status(), 413);
    running.reload(&Settings::default()).await;
    let message = Send::text(&session.to(&session), "n", "more than ten bytes");
    assert_eq!(carol.send(&message).await.status(), 200);
    running.goes_on().await;
}

#[tokio::test]
async fn timeouts_count_for_connections_that_come_then() {
    let running = Running::start(&Settings::default()).await;
    running.reload(&Settings { timeouts: "probation: 100ms".into(), ..Settings::default() }).await;
    let mut idle = Client::connect(&running.daemon, &running.site, Scheme::Msrp).await;
    let _ = idle.rx.end().await;
    // A handshake has the time of the listener, which is there already.
    let settings = Settings::default();
    let yaml = settings.to_yaml().replace("tls:\n", "tls:\n  tls_handshake_timeout: 100ms\n");
    running.site.write("relay.yaml", &yaml);
    hup(&running.daemon, "configuration reloaded").await;
    let mut silent = TcpStream::connect(running.daemon.address(Scheme::Msrps)).await.unwrap();
    closes(&mut silent).await;
    running.goes_on().await;
}

#[tokio::test]
async fn the_outbound_policy_counts_for_the_next_connection() {
    let denied = Settings { outbound: "deny: ['127.0.0.0/8']".into(), ..Settings::default() };
    let running = Running::start(&denied).await;
    let (mut dave, from_dave) =
        Client::with_session(&running.daemon, &running.site, Scheme::Msrp, "dave").await;
    let peer = Listener::bind("127.0.0.1", None).await.unwrap();
    let uri = peer.uri("127.0.0.1");
    let message = |id: &str| Send::text(&from_dave.to(&Session::without_relay(&uri)), id, "hello");
    assert_eq!(dave.send(&message("first")).await.status(), 200);
    assert_eq!(dave.receive_report().await.reported(), 408);
    running.reload(&Settings::default()).await;
    assert_eq!(dave.send(&message("second")).await.status(), 200);
    let mut accepted = peer.accept(&uri).await;
    assert_eq!(accepted.receive().await.body, b"hello");
    running.reload(&denied).await;
    assert_eq!(dave.send(&message("third")).await.status(), 200);
    // The connection that is there goes on.
    assert_eq!(accepted.receive().await.header("Message-ID"), "third");
    running.goes_on().await;
}

#[tokio::test]
async fn a_mistake_anywhere_leaves_all_as_it_was() {
    let mut running = Running::start(&Settings::default()).await;
    let more_users = ", new: { password: newpw }".to_owned();
    let with_user = Settings { users: more_users.clone(), ..Settings::default() };
    // The file itself.
    running
        .refuse(&Settings { limits: "headers: many".into(), ..with_user.clone() }, &["limits.headers"])
        .await;
    // A file that it names: one of the two, so that there is one line.
    fs::copy(running.site.path("relay.key"), running.site.path("nobody.key")).unwrap();
    running.refuse(&Settings { identity: "nobody".into(), ..with_user.clone() }, &["nobody.crt"]).await;
    // A port that is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let tls = Settings { ws: Some(format!("127.0.0.1:{port}")), ..with_user.clone() };
    running.refuse(&tls, &["listeners[2].uri", &port.to_string(), "in use"]).await;
    // One after another new listener, whose socket is closed again.
    let free = free_port();
    let both = tls
        .to_yaml()
        .replace("listeners:\n", &format!("listeners:\n  - {{ uri: 'msrp://127.0.0.1:{free}' }}\n"));
    running.site.write("relay.yaml", &both);
    hup(&running.daemon, "not reloaded").await;
    until_closed(([127, 0, 0, 1], free).into()).await;
    // Files to write to.
    let records = "sinks: { a: { file: { path: none/such/folder } } }";
    running
        .refuse(
            &Settings { records: records.into(), ..with_user.clone() },
            &["records.sinks.a.file.path", "none/such"],
        )
        .await;
    let log = "to: 'file:none/such/folder'";
    running.refuse(&Settings { log: log.into(), ..with_user.clone() }, &["log.to", "none/such/folder"]).await;
    // Several mistakes are all told.
    running.site.write("broken.crt", "nonsense");
    running.site.write("broken.key", "nonsense");
    let before = running.daemon.log().with(&["not reloaded"]).len();
    running.write(&Settings { identity: "broken".into(), ..tls.clone() });
    running.daemon.signal(Signal::HUP);
    let told = running.daemon.log().wait_for_lines(&["not reloaded"], before + 2).await;
    assert!(told[before].contains("broken.crt"), "{told:?}");
    assert!(told[before + 1].contains("in use"), "{told:?}");

    assert_eq!(auth(&running, "new").await, 401, "not even the users have changed");
    running.reload(&with_user).await;
    assert_eq!(auth(&running, "new").await, 200);
    running.arrives().await;
    assert!(running.daemon.log().with(&["panicked"]).is_empty());
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_told_each_time_with_the_reason() {
    let admin = Some("listen: 'http://127.0.0.1:0'".to_owned());
    let settings = Settings { admin, ..Settings::default() };
    let running = Running::start(&settings).await;
    let changed =
        Settings { admin: Some("listen: ['http://127.0.0.1:0', 'unix:a.sock']".into()), ..settings.clone() };
    let yaml = format!("{}events: {{ queue: 77 }}\nthreads: 5\n", changed.to_yaml());
    running.site.write("relay.yaml", &yaml);
    let admin = Admin::of(&running.daemon).await.remove(0);
    for round in 0..2 {
        let answer = admin.mi("tls_mgm:reload", Value::Null).await;
        let told = answer["NeedsRestart"].as_array().unwrap();
        let told: Vec<_> = told.iter().map(|one| one.as_str().unwrap()).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].starts_with("admin.listen (")
                && told[1].starts_with("events.queue (the queue")
                && told[2].starts_with("threads ("),
            "{told:?}"
        );
        let all = json!([
            { "Setting": "admin.listen", "From": "http://127.0.0.1:0", "To": r#"["http://127.0.0.1:0","unix:a.sock"]"# },
            { "Setting": "events.queue", "From": null, "To": "77" },
            { "Setting": "threads", "From": null, "To": "5" },
        ]);
        assert_eq!(answer["Changed"], if round == 0 { all } else { json!([]) });
    }
    running
        .daemon
        .log()
        .wait_for_lines(&["taken over only when the relay starts again", "events.queue"], 2)
        .await;
    running.write(&settings);
    let answer = admin.mi("tls_mgm:reload", Value::Null).await;
    assert_eq!(answer["NeedsRestart"], json!([]), "it is again as it was");
    running.goes_on().await;
}

#[tokio::test]
async fn the_admin_interfaces_token_is_taken_over_and_never_taken_away() {
    let with = |more: &str| Settings {
        admin: Some(format!("listen: 'http://127.0.0.1:0'{more}")),
        ..Settings::default()
    };
    let running = Running::start(&with("")).await;
    let admin = Admin::of(&running.daemon).await.remove(0);
    let status = async |token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        admin.request("GET", "/metrics", &header, "").await.status
    };
    assert_eq!(status("").await, 200);
    running.reload(&with(", token: first-token-of-some-length")).await;
    assert_eq!((status("").await, status("first-token-of-some-length").await), (401, 200));
    running.reload(&with(", token: other-token-of-some-length")).await;
    let after = (status("first-token-of-some-length").await, status("other-token-of-some-length").await);
    assert_eq!(after, (401, 200));
    running.reload(&with("")).await;
    assert_eq!(status("").await, 200, "it had none when it started");
    running.goes_on().await;

    let running = Running::start(&with(", token: first-token-of-some-length")).await;
    let admin = Admin::of(&running.daemon).await.remove(0);
    let lines = running.reload(&with("")).await;
    assert!(
        lines.iter().any(|line| line.contains("admin.token") && line.contains("starts again")),
        "{lines:?}"
    );
    assert_eq!(admin.request("GET", "/metrics", "", "").await.status, 401);
    // What counts then is the last one, not the first.
    let status = async |token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        admin.request("GET", "/metrics", &header, "").await.status
    };
    running.reload(&with(", token: other-token-of-some-length")).await;
    for gone in [with(""), Settings::default(), with("")] {
        running.reload(&gone).await;
        let after = (status("first-token-of-some-length").await, status("other-token-of-some-length").await);
        assert_eq!(after, (401, 200));
    }
    running.goes_on().await;
}

#[tokio::test]
async fn ctl_reload_shows_what_changed() {
    let site = Site::new();
    let settings = Settings { admin: Some("listen: 'unix:admin.sock'".into()), ..Settings::default() };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let ctl = |json: bool| {
        let mut command = std::process::Command::new(RELAY);
        command.args(["ctl", "--address", &format!("unix:{}", site.path("admin.sock").display()), "reload"]);
        if json {
            command.arg("--json");
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    site.write("relay.yaml", &Settings { limits: "headers: 33".into(), ..settings.clone() }.to_yaml());
    let shown = ctl(false);
    assert!(shown.contains("limits.headers: (not set) -> 33\n"), "{shown}");
    site.write("relay.yaml", &Settings { limits: "headers: 34".into(), ..settings }.to_yaml());
    let shown: Value = serde_json::from_str(&ctl(true)).unwrap();
    assert_eq!(shown["Changed"], json!([{ "Setting": "limits.headers", "From": "33", "To": "34" }]));
    drop(daemon);
}

#[tokio::test]
async fn a_hundred_reloads_leave_nothing_behind() {
    let records = |name: &str| format!("sinks: {{ a: {{ file: {{ path: {name}.jsonl }} }} }}");
    let settings = |number: usize| {
        let odd = number % 2 == 1;
        let name = if odd { "odd" } else { "even" };
        Settings {
            ws: odd.then(|| "127.0.0.1:0".to_owned()),
            hep_tcp: (!odd).then(|| "127.0.0.1:0".to_owned()),
            users: format!(", {name}: {{ password: {name}pw }}"),
            limits: format!("headers: {}", 50 + number),
            trace: format!("destinations: {{ {name}: {{ uri: 'hep_udp://127.0.0.1:9' }} }}"),
            hep: (!odd).then(|| "from: 127.0.0.1".to_owned()),
            records: records(name),
            log: format!("to: 'file:{name}.log'"),
            ..Settings::default()
        }
    };
    // The log goes to files, which tell when it is done.
    let start = Settings { log: "level: info".into(), ..settings(0) };
    let running = Running::start(&start).await;
    let threads = || fs::read_dir(format!("/proc/{}/task", running.daemon.pid())).unwrap().count();
    let reloads = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let name = if number % 2 == 1 { "odd.log" } else { "even.log" };
            running.write(&settings(number));
            let told = || {
                let text = fs::read_to_string(running.site.path(name)).unwrap_or_default();
                text.matches("configuration reloaded").count()
            };
            let before = told();
            running.daemon.signal(Signal::HUP);
            let done = async {
                while told() == before {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            within(format_args!("reload {number}"), done).await;
        }
    };
    reloads(1..21).await;
    let (before, threads_before) = (running.daemon.resources(), threads());
    reloads(21..121).await;
    let settled = async {
        loop {
            let now = running.daemon.resources();
            if now.descriptors <= before.descriptors + 2 && threads() <= threads_before + 2 {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let after = within("descriptors and threads", settled).await;
    let growth = after.memory.saturating_sub(before.memory);
    assert!(growth < 12 * 1024 * 1024, "{growth} more bytes after 100 reloads");
    // And a hundred in a row, faster than they are done.
    for _ in 0..100 {
        running.daemon.signal(Signal::HUP);
    }
    assert_eq!(auth(&running, "even").await, 200);
    running.goes_on().await;
}
