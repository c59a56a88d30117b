//! `msrp-relay ctl` against a running daemon: tables for people, JSON for programs, exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Admin, Client, Daemon, Scheme, Send, Settings, Site, within};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// What a command came to.
#[derive(Debug)]
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    fn json(&self) -> Value {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The lines of a table, as words.
    fn rows(&self) -> Vec<Vec<&str>> {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self.stdout
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect())
            .collect()
    }

    fn refused(&self, code: i32, why: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        assert!(self.stderr.starts_with("msrp-relay ctl: ") && self.stderr.contains(why), "{self:?}");
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(RELAY);
    command.arg("ctl").args(args).env_remove("MSRP_RELAY_ADMIN").env_remove("COLUMNS").kill_on_drop(true);
    command
}

async fn done(mut command: Command) -> Done {
    let shown = format!("{command:?}");
    let output = within(shown, command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A daemon, and how it is called.
struct Operated {
    daemon: Daemon,
    address: String,
}

impl Operated {
    async fn start(site: &Site) -> Self {
        let admin = Some("listen: 'http://127.0.0.1:0'".into());
        let daemon = Daemon::start(RELAY, site, &Settings { admin, ..Settings::default() }).await;
        let Admin::Http(address) = Admin::of(&daemon).await.remove(0) else { panic!() };
        Self { daemon, address: format!("http://{address}") }
    }

    async fn ctl(&self, args: &[&str]) -> Done {
        let mut command = command(args);
        command.env("MSRP_RELAY_ADMIN", &self.address);
        done(command).await
    }

    fn follow(&self, args: &[&str]) -> Followed {
        let mut command = command(args);
        command.args(["--address", &self.address]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Followed { child, lines }
    }
}

/// A command that goes on.
struct Followed {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Followed {
    async fn line(&mut self) -> String {
        within("a line", self.lines.next_line()).await.unwrap().expect("a line")
    }

    async fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.line().await;
            if wanted(&line) {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn sessions_are_shown_as_a_table_and_as_json() {
    let site = Site::new();
    let relay = Operated::start(&site).await;
    assert_eq!(relay.ctl(&["sessions"]).await.stdout, "no sessions\n");
    assert_eq!(relay.ctl(&["users", "list"]).await.stdout, "no user has a session\n");
    let (mut alice, from_alice) = Client::with_session(&relay.daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&relay.daemon, &site, Scheme::Msrp, "bob").await;
    let to_bob = from_alice.to(&from_bob);
    for id in ["m1", "m2"] {
        assert_eq!(alice.send(&Send::text(&to_bob, id, &"x".repeat(1024))).await.status(), 200);
        bob.receive().await;
    }

    let listed = relay.ctl(&["sessions", "list", "--json"]).await.json();
    assert_eq!(listed["Count"], 2);
    let of_alice = listed["Sessions"].as_array().unwrap().iter().find(|one| one["user"] == "alice").unwrap();
    assert_eq!((&of_alice["sent"]["messages"], &of_alice["sent"]["bytes"]), (&json!(2), &json!(2048)));
    let id = of_alice["id"].as_str().unwrap();
    let done = relay.ctl(&["sessions", "--user", "alice"]).await;
    let [titles, row] = &done.rows()[..] else { panic!("{done:?}") };
    assert_eq!(
        titles,
        &["ID", "USER", "CLIENT", "AGE", "EXPIRES", "SENT", "BYTES", "RECEIVED", "BYTES", "PEERS"]
    );
    let address = alice.address();
    assert_eq!((row[0], row[1], row[2]), (&id[..12], "alice", address.as_str()));
    let mut rest = vec!["2", "2.0 KiB", "0", "0 B"];
    rest.extend(of_alice["peers"].as_array().unwrap().iter().map(|peer| peer.as_str().unwrap()));
    assert_eq!(row[5..], rest);
    assert!(!done.stdout.contains('\u{1b}'), "no colours but for a terminal");
    let done = relay.ctl(&["sessions", "list", "--limit", "1"]).await;
    assert!(done.stdout.ends_with("… 1 of 2 are shown\n") && done.rows().len() == 3, "{done:?}");

    let shown = relay.ctl(&["sessions", "show", &id[..8], "--json"]).await.json();
    assert_eq!((&shown["id"], &shown["uri"]), (&of_alice["id"], &of_alice["uri"]));
    let shown = relay.ctl(&["sessions", "show", id]).await;
    assert!(shown.rows().contains(&vec!["sent", "2 messages in 2 chunks, 2.0 KiB, 0 reports"]), "{shown:?}");
    let users = relay.ctl(&["users"]).await;
    assert_eq!(users.rows(), [["USER", "SESSIONS"], ["alice", "1"], ["bob", "1"]]);

    // As wide as the terminal, not wider.
    let mut narrow = command(&["sessions", "--address", &relay.address]);
    narrow.env("COLUMNS", "60");
    let narrow = self::done(narrow).await;
    assert!(narrow.stdout.lines().all(|line| line.chars().count() <= 60), "{narrow:?}");
    assert!(narrow.stdout.contains('…'), "{narrow:?}");

    assert_eq!(relay.ctl(&["sessions", "end", id]).await.stdout, format!("ended session {id}\n"));
    relay.ctl(&["sessions", "end", id]).await.refused(1, "there is no session");
    relay.ctl(&["sessions", "show", "abc"]).await.refused(1, "is not a session-id");
    assert_eq!(relay.ctl(&["users", "end", "bob"]).await.stdout, "ended all sessions of bob\n");
    relay.ctl(&["users", "end", "bob"]).await.refused(1, "bob has no session");
    assert_eq!(relay.ctl(&["sessions", "--json"]).await.json(), json!({ "Sessions": [], "Count": 0 }));
}

#[tokio::test]
async fn connections_are_shown_changed_and_closed() {
    let site = Site::new();
    let relay = Operated::start(&site).await;
    let (mut alice, _) = Client::with_session(&relay.daemon, &site, Scheme::Msrps, "alice").await;
    let _bob = Client::connect(&relay.daemon, &site, Scheme::Msrp).await;
    let listed = relay.ctl(&["connections", "--json", "--protocol", "msrps"]).await.json();
    let connection = &listed["Connections"][0];
    assert_eq!((&listed["Count"], &connection["remote"]), (&json!(1), &json!(alice.address())));
    let id = connection["id"].to_string();
    let done = relay.ctl(&["conns", "list", "--protocol", "msrps"]).await;
    let [_, row] = &done.rows()[..] else { panic!("{done:?}") };
    let local = connection["local"].as_str().unwrap();
    assert_eq!(row[..6], [&id, "msrps", "outside", "open", &alice.address(), local]);
    assert_eq!((row[7], row[11], row[12]), ("1h", "1", connection["link"].to_string().as_str()));

    // From here to the log, and back.
    let shown = relay.ctl(&["connections", "show", &id, "--json"]).await.json();
    let link = shown["link"].to_string();
    let shown = relay.ctl(&["connections", "show", &id]).await;
    assert!(shown.rows().contains(&vec!["link in the log", &link]), "{shown:?}");

    let done = relay.ctl(&["connections", "lifetime", &id, "90m"]).await;
    assert_eq!(done.stdout, format!("connection {id} may be idle 1h 30m\n"));
    assert_eq!(relay.ctl(&["connections", "show", &id, "--json"]).await.json()["lifetime"], 5400);
    relay.ctl(&["connections", "lifetime", &id, "forever"]).await;
    let shown = relay.ctl(&["connections", "show", &id]).await;
    assert!(shown.rows().contains(&vec!["may be idle", "forever"]), "{shown:?}");
    let done = relay.ctl(&["connections", "keepalive", &id, "on", "--idle", "30", "--count", "3"]).await;
    assert_eq!(done.stdout, format!("keep-alive of connection {id} is on\n"));
    relay
        .ctl(&["connections", "keepalive", &id, "on", "--idle", "0"])
        .await
        .refused(1, "`idle` is from 1 to");
    assert_eq!(relay.ctl(&["connections", "keepalive", &id, "off", "--json"]).await.json(), "OK");
    assert_eq!(relay.ctl(&["connections", "mark", &id]).await.code, 0);

    let done = relay.ctl(&["connections", "close", &id, "999"]).await;
    assert_eq!((done.code, done.stdout), (1, format!("closed connection {id}\n")));
    assert!(done.stderr.contains("there is no connection 999"), "{}", done.stderr);
    alice.rx.end().await.unwrap();
    let (of_link, of_connection) = (format!("link={link} "), format!("connection={id} "));
    relay.daemon.log().wait_for(&["connection closed", &of_link, &of_connection]).await;
    let done = relay.ctl(&["connections", "close", "998", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&done.stdout).unwrap(),
        json!([{ "id": "998", "error": "there is no connection 998" }])
    );
    assert_eq!(done.code, 1);
}

#[tokio::test]
async fn what_happens_is_followed() {
    let site = Site::new();
    let mut relay = Operated::start(&site).await;
    let (_alice, _) = Client::with_session(&relay.daemon, &site, Scheme::Msrps, "alice").await;
    let (_other_bob, _) = Client::with_session(&relay.daemon, &site, Scheme::Msrps, "bob").await;
    let mut sessions = relay.follow(&["sessions", "--watch"]);
    let mut of_bob = relay.follow(&["sessions", "list", "--watch", "--user", "bob", "--json"]);
    let mut events = relay.follow(&["events", "--json", "--kind", "connection"]);
    let mut connections = relay.follow(&["connections", "--watch", "--json"]);
    // Whoever shows the list is subscribed already.
    assert!(sessions.line().await.starts_with("ID "));
    // The one that began last stands first.
    assert!(sessions.line().await.contains("  bob "));
    assert!(sessions.line().await.contains("  alice "));
    let present: Value = serde_json::from_str(&of_bob.line().await).unwrap();
    assert_eq!((&present["event"], &present["session"]["user"]), (&json!("present"), &json!("bob")));
    connections.until(|line| line.contains("present") && line.contains("msrps")).await;

    // `events` has no list to wait for: until it tells of a connection, more are made.
    let mut others = Vec::new();
    let mut early = None;
    while early.is_none() {
        others.push(Client::connect(&relay.daemon, &site, Scheme::Msrp).await);
        early = tokio::time::timeout(std::time::Duration::from_millis(200), events.line()).await.ok();
    }
    let (bob, _) = Client::with_session(&relay.daemon, &site, Scheme::Msrps, "bob").await;
    let line = sessions.until(|line| line.contains("  began ")).await;
    assert!(line.contains("  bob ") && line.contains(&bob.address()), "{line}");
    let began: Value = serde_json::from_str(&of_bob.line().await).unwrap();
    assert_eq!(
        (&began["kind"], &began["event"], &began["session"]["user"]),
        (&json!("session"), &json!("began"), &json!("bob"))
    );
    let line = events.until(|line| line.contains(&bob.address())).await;
    let accepted: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&accepted["kind"], &accepted["event"]), (&json!("connection"), &json!("tcp:accepted")));
    let address = bob.address();
    drop(bob);
    let line = sessions.until(|line| line.contains("ended")).await;
    assert!(line.contains("  bob ") && line.contains("disconnected after"), "{line}");
    let line = connections.until(|line| line.contains(&address) && line.contains("tcp:closed")).await;
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["protocol"], "msrps");

    relay.daemon.signal(Signal::TERM);
    relay.daemon.exit().await;
    for mut followed in [sessions, of_bob, events, connections] {
        while within("the end", followed.lines.next_line()).await.unwrap().is_some() {}
        let status = within("the end", followed.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(3));
    }
}

#[tokio::test]
async fn the_relay_itself_is_shown_and_changed() {
    let site = Site::new();
    let relay = Operated::start(&site).await;
    let (_alice, _) = Client::with_session(&relay.daemon, &site, Scheme::Msrps, "alice").await;
    let status = relay.ctl(&["status"]).await;
    let json = relay.ctl(&["status", "--json"]).await.json();
    let rows = status.rows();
    for row in [
        vec!["domain", "relay.test"],
        vec!["state", "running"],
        vec!["version", json["version"].as_str().unwrap()],
        vec!["process", &relay.daemon.pid().to_string()],
        vec!["listening", json["listeners"][0].as_str().unwrap()],
        vec!["sessions", "1"],
        vec!["connections", "1 (msrps 1)"],
    ] {
        assert!(rows.contains(&row), "{row:?} {status:?}");
    }
    assert!(status.stdout.contains("certificate of main (server): "), "{status:?}");
    assert_eq!(json["pid"], relay.daemon.pid());
    assert!(json["history"]["messages"].is_array());

    let stats = relay.ctl(&["stats", "msrp:sessions", "msrp:auths_granted"]).await;
    assert_eq!(stats.rows(), [["STATISTIC", "VALUE"], ["msrp:auths_granted", "1"], ["msrp:sessions", "1"]]);
    assert_eq!(relay.ctl(&["stats", "msrp:sessions", "--json"]).await.json(), json!({ "msrp:sessions": 1 }));
    assert!(relay.ctl(&["stats"]).await.rows().len() > 50);
    relay.ctl(&["stats", "nothing"]).await.refused(1, "Statistics Not Found");
    relay.ctl(&["stats", "mrsp:sesions"]).await.refused(1, "did you mean `msrp:sessions`?");
    let mut streams = Vec::new();
    for _ in 0..16 {
        let admin = Admin::Http(relay.address.trim_start_matches("http://").to_owned());
        streams.push(admin.events("").await);
    }
    relay.ctl(&["events"]).await.refused(1, "as many streams of events as it takes");
    drop(streams);

    assert_eq!(relay.ctl(&["log-level"]).await.stdout, "info\n");
    assert_eq!(relay.ctl(&["log-level", "debug"]).await.stdout, "debug\n");
    assert_eq!(relay.ctl(&["log-level"]).await.stdout, "debug (configured: info)\n");
    relay.ctl(&["log-level", "loud"]).await.refused(1, "loud");
    assert_eq!(relay.ctl(&["log-level", "reset"]).await.stdout, "info\n");

    let config = relay.ctl(&["config"]).await.stdout;
    assert!(config.contains("domain: relay.test") && !config.contains("alicepw"), "{config}");
    let config = relay.ctl(&["config", "--json"]).await.json();
    assert_eq!(config["Configuration"]["auth"]["users"]["alice"]["password"], "***");

    let domains = relay.ctl(&["tls"]).await;
    let main = domains.rows().into_iter().find(|row| row[0] == "main").unwrap();
    assert_eq!(main[1], "listeners");
    let listed = relay.ctl(&["tls", "list", "--json"]).await.json();
    assert!(listed["Domains"].as_array().unwrap().iter().any(|domain| domain["ID"] == "main"));
    for reload in [&["tls", "reload"][..], &["reload"]] {
        let done = relay.ctl(reload).await;
        assert_eq!((done.code, done.stdout.as_str()), (0, "reloaded: nothing has changed\n"), "{done:?}");
    }
    site.issue("relay", &["relay.test"]);
    let done = relay.ctl(&["reload"]).await;
    assert!(done.code == 0 && done.stdout.starts_with("reloaded: server domains: changed main"), "{done:?}");
    site.write("relay.crt", "no certificate");
    relay.ctl(&["reload"]).await.refused(1, "everything stays as it was");

    assert!(relay.ctl(&["mi", "which"]).await.json().as_array().unwrap().len() > 20);
    let named = relay.ctl(&["mi", "get_statistics", "statistics=msrp:sessions"]).await.json();
    assert_eq!(named, json!({ "msrp:sessions": 1 }));
    assert_eq!(relay.ctl(&["mi", "connection:list", "msrps"]).await.json()["Count"], 1);
    relay.ctl(&["mi", "nothing"]).await.refused(1, "`which` lists what there is");
}

#[tokio::test]
async fn it_finds_the_relay_and_its_token() {
    let site = Site::new();
    let socket = site.path("admin.sock");
    let admin = format!("listen: 'unix:{}', token: {{ file: token }}", socket.display());
    let token = site.write("token", "0123456789abcdef\n");
    let settings = Settings { admin: Some(admin), ..Settings::default() };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    daemon.log().wait_for(&["admin interface"]).await;
    let config = site.path("relay.yaml");
    let (config, token) = (config.to_str().unwrap(), token.to_str().unwrap());
    let address = format!("unix:{}", socket.display());

    let version = |done: Done| done.json()["Server"].as_str().unwrap().starts_with("msrp-relay (");
    assert!(version(done(command(&["--config", config, "mi", "version"])).await));
    assert!(version(done(command(&["mi", "version", "-a", &address, "--token-file", token])).await));
    done(command(&["status", "-a", &address])).await.refused(1, "give --token-file FILE, or --config FILE");
    done(command(&["events", "-a", &address])).await.refused(1, "wants its token");
    let wrong = site.write("wrong", "fedcba9876543210");
    let wrong = ["status", "--config", config, "--token-file", wrong.to_str().unwrap()];
    done(command(&wrong)).await.refused(1, "does not take this token");

    // Nobody there; somebody else there; nothing configured; nothing meant.
    let nobody = format!("unix:{}", site.path("nobody.sock").display());
    done(command(&["status", "-a", &nobody])).await.refused(3, "cannot reach the relay at unix:");
    done(command(&["sessions", "--watch", "-a", "http://127.0.0.1:1"])).await.refused(3, "Does it run");
    let stranger = format!("http://{}", daemon.address(Scheme::Msrp));
    done(command(&["status", "-a", &stranger])).await.refused(3, "127.0.0.1");
    let none = site.write("none.yaml", "domain: a\nlisteners: []\n");
    done(command(&["status", "--config", none.to_str().unwrap()])).await.refused(2, "has no section `admin`");
    for wrong in [
        &["status", "-a", "127.0.0.1:1"][..],
        &["connections", "show", "x"],
        &["connections", "lifetime", "1", "1w"],
        &["connections", "close"],
        &["sessions", "--watch", "show", "1"],
        &["nothing"],
        &[],
    ] {
        let done = done(command(wrong)).await;
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{wrong:?} {done:?}");
    }
}

#[tokio::test]
async fn who_reads_no_further_is_no_error() {
    let site = Site::new();
    let relay = Operated::start(&site).await;
    let mut followed = relay.follow(&["events"]);
    drop(followed.lines);
    // As `ctl events | head`: it ends with the first event that nobody reads.
    while followed.child.try_wait().unwrap().is_none() {
        Client::connect(&relay.daemon, &site, Scheme::Msrp).await;
    }
    assert_eq!(followed.child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn colours_are_for_terminals_and_not_with_no_color() {
    let site = Site::new();
    let relay = Operated::start(&site).await;
    // `script` of util-linux gives it a terminal.
    let on_terminal = async |variables: &[(&str, &str)]| {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("'{RELAY}' ctl -a {} status", relay.address), "/dev/null"]);
        command.env_remove("NO_COLOR").env_remove("COLUMNS").env("TERM", "xterm").stdin(Stdio::null());
        command.envs(variables.iter().copied());
        let done = done(command).await;
        assert_eq!(done.code, 0, "{done:?}");
        done.stdout
    };
    let plain = on_terminal(&[("NO_COLOR", "1")]).await;
    assert!(plain.contains("running") && !plain.contains('\u{1b}'), "{plain:?}");
    assert!(on_terminal(&[]).await.contains("\u{1b}[32mrunning\u{1b}[0m"));
    assert!(on_terminal(&[("NO_COLOR", "")]).await.contains("\u{1b}[32mrunning"));
    assert!(!on_terminal(&[("TERM", "dumb")]).await.contains('\u{1b}'));
}
