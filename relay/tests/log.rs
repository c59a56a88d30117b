//! What the log says of connections and certificates: once where once is enough, and again where it must.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::future::ready;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use relay::config::Config;
use relay::server::Server;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tracing_subscriber::prelude::*;

const PATIENCE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The lines that this thread has logged. Each runtime here has but this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Installs it, with the configuration's filter.
    fn of(config: &Config) -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(config.log.level.filter()).with(layer);
        (lines, tracing::subscriber::set_default(subscriber))
    }

    /// Those with all of these words in them.
    fn with(&self, words: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let found = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parse(text: &str, directory: &Path) -> Config {
    let mut config =
        Config::parse(text, directory, "relay.yaml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    // Lines are caught on the test's own thread, and one test has a clock of its own.
    config.threads = 0;
    config
}

fn plain(listener: &str, rest: &str) -> Config {
    let text = format!(
        "domain: 127.0.0.1\nlisteners: [ {{ uri: \"msrp://127.0.0.1:0\"{listener} }} ]\n\
         auth: {{ allow_auth_without_tls: true, users: {{ alice: {{ password: a }} }} }}\n{rest}"
    );
    parse(&text, Path::new(""))
}

/// Closes a connection, and waits until its ledger knows.
async fn leave(server: &Server, client: TcpStream) {
    let address = client.local_addr().unwrap();
    drop(client);
    let gone = async {
        while server.ledger().snapshot().iter().any(|entry| entry.remote() == address) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it leaves");
}

async fn refused(address: SocketAddr) {
    let mut over = TcpStream::connect(address).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, over.read(&mut [0])).await.expect("the relay closes it");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn the_log_is_reminded_daily_of_certificates_that_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut soon = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    // The days of the test pass on the runtime's clock alone.
    soon.not_after = (SystemTime::now() + 20 * DAY + DAY / 2).into();
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(dir.path().join("crt"), soon.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.path().join("key"), key.serialize_pem()).unwrap();
    let config = |window: &str| {
        let text = format!(
            "domain: 127.0.0.1\nlisteners: [ {{ uri: \"msrps://127.0.0.1:0\", tls_domain: main }} ]\n\
             tls: {{ expiry_warning: {window}, server_domains: {{ main: {{ certificate: crt, private_key: key }} }} }}\n\
             auth: {{ users: {{ alice: {{ password: a }} }} }}\n"
        );
        parse(&text, dir.path())
    };
    let (lines, _guard) = Lines::of(&config("30d"));
    let warned = || lines.with(&["WARN", "TLS server domain main", "expires in 20 days"]).len();
    let server = Server::start(config("30d")).await.unwrap();
    assert_eq!(warned(), 1, "at the start");
    tokio::time::sleep(DAY - Duration::from_secs(1)).await;
    assert_eq!(warned(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(warned(), 2, "a day later");
    tokio::time::sleep(2 * DAY).await;
    assert_eq!(warned(), 4, "and each day");
    // A reload says so once by itself, and the reminder keeps to what it has set.
    server.control().reload_to(config("25d")).unwrap();
    assert_eq!(warned(), 5);
    tokio::time::sleep(DAY).await;
    assert_eq!(warned(), 6);
    server.control().reload_to(config("10d")).unwrap();
    tokio::time::sleep(3 * DAY).await;
    assert_eq!(warned(), 6);
    server.stop(ready(())).await;
}

#[tokio::test]
async fn a_reached_limit_is_a_line_a_minute() {
    for (listener, rest, limit) in [
        ("", "limits: { max_connections: 2 }\n", "`max_connections` is reached: 2"),
        (", max_connections: 2", "", "`max_connections` of the listener is reached: 2"),
        ("", "limits: { max_connections_per_address: 2 }\n", "`max_connections_per_address` is reached: 2"),
    ] {
        let config = plain(listener, &format!("{rest}timeouts: {{ probation: 1h }}\n"));
        let (lines, _guard) = Lines::of(&config);
        let server = Server::start(config).await.unwrap();
        let address = server.addresses()[0].1;
        let told = || lines.with(&["WARN", limit, "no room for more"]).len();
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        for _ in 0..5 {
            refused(address).await;
        }
        assert_eq!(told(), 1, "{limit}");
        // Room, and then none again, and so on.
        for _ in 0..3 {
            leave(&server, clients.remove(0)).await;
            clients.push(TcpStream::connect(address).await.unwrap());
            refused(address).await;
        }
        assert_eq!(told(), 1, "{limit}");
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
        refused(address).await;
        refused(address).await;
        assert_eq!(told(), 2, "{limit}");
        assert_eq!(lines.with(&["WARN", limit, "unsaid=7"]).len(), 1, "{limit}");
        assert_eq!(lines.with(&["WARN", "reached"]).len(), 2, "nothing else is");
    }
}

#[tokio::test]
async fn each_connection_event_is_a_line_at_level_debug() {
    for (log, lines_of_each) in [
        ("", 0),
        ("log: { level: debug }\n", 2),
        ("log: { level: 'info,connection_event=debug' }\n", 2),
        ("log: { level: debug }\nevents: { closed_event: none }\n", 0),
        ("log: { level: debug }\nevents: { closed_event: marked }\n", 0),
    ] {
        let config = plain("", log);
        let (lines, _guard) = Lines::of(&config);
        let server = Server::start(config).await.unwrap();
        let address = server.addresses()[0].1;
        let client = TcpStream::connect(address).await.unwrap();
        let remote = format!("remote={}", client.local_addr().unwrap());
        while server.ledger().is_empty() {
            tokio::task::yield_now().await;
        }
        leave(&server, client).await;
        let events = lines.with(&["DEBUG", "connection_event: "]);
        assert_eq!(events.len(), lines_of_each, "{log}: {events:?}");
        let local = format!("local={address}");
        for (event, parts) in events.iter().zip([
            &["tcp:accepted connection=", " protocol=msrp "][..],
            &["tcp:closed connection=", " in=0 out=0 ", " duration=", " reason="],
        ]) {
            for part in parts.iter().copied().chain([&*remote, &*local]) {
                assert!(event.contains(part), "{part} in {event}");
            }
        }
    }
}
