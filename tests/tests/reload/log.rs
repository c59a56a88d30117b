//! Where the log goes.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;

use tests::until;

use super::*;

fn to(target: &str) -> Settings {
    Settings { log: target.to_owned(), ..Settings::default() }
}

#[tokio::test]
async fn a_file_is_opened_again_after_logrotate_has_moved_it() {
    let running = Running::start(&Settings::default()).await;
    let (path, moved) = (running.site.path("relay.log"), running.site.path("relay.log.1"));
    running.write(&to("to: 'file:relay.log'"));
    running.daemon.signal(Signal::HUP);
    let text = until(&path, "configuration reloaded").await;
    assert!(!text.contains('\u{1b}'), "no colours in a file: {text}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    auth(&running, "carol").await;
    until(&path, "session granted").await;

    fs::rename(&path, &moved).unwrap();
    running.daemon.signal(Signal::HUP);
    until(&path, "configuration reloaded").await;
    auth(&running, "dave").await;
    assert!(until(&path, "user=\"dave\"").await.lines().count() >= 3);
    assert!(!fs::read_to_string(&moved).unwrap().contains("user=\"dave\""));

    // In JSON, and then to standard error again.
    running.write(&to("to: 'file:relay.log', format: json"));
    running.daemon.signal(Signal::HUP);
    let text = until(&path, "\"message\":\"configuration reloaded\"").await;
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "INFO");
    // What is told of it is told there already.
    running.write(&Settings::default());
    let before = running.daemon.log().with(&["configuration reloaded"]).len();
    running.daemon.signal(Signal::HUP);
    running.daemon.log().wait_for_lines(&["configuration reloaded"], before + 1).await;
    running.goes_on().await;
}

#[tokio::test]
async fn the_level_is_taken_over_unless_it_was_changed_by_hand_and_not_in_the_file() {
    let admin = Some("listen: 'http://127.0.0.1:0'".to_owned());
    let settings = |level: &str| Settings {
        log: format!("level: {level}, format: text"),
        admin: admin.clone(),
        ..Settings::default()
    };
    let running = Running::start(&settings("info")).await;
    let admin = Admin::of(&running.daemon).await.remove(0);
    assert_eq!(running.daemon.log().with(&["DEBUG"]), [""; 0]);
    running.reload(&settings("debug")).await;
    auth(&running, "carol").await;
    running.daemon.log().wait_for(&["DEBUG", "accepted"]).await;
    admin.mi("log_level", json!(["warn,relay::server::reload=info"])).await;
    running.reload(&Settings { limits: "headers: 60".into(), ..settings("debug") }).await;
    let level = admin.mi("log_level", Value::Null).await;
    assert_eq!(level["Log level"], "warn,relay::server::reload=info");
    running.reload(&settings("info")).await;
    assert_eq!(admin.mi("log_level", Value::Null).await["Log level"], "info");
    running.goes_on().await;
}

/// What comes to a socket, until one has these words.
async fn received(socket: &UnixDatagram, words: &str) -> Vec<u8> {
    let found = async {
        let mut buffer = vec![0; 65_536];
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) if String::from_utf8_lossy(&buffer[..length]).contains(words) => {
                    return buffer[..length].to_vec();
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    within(format_args!("{words:?}"), found).await
}

#[tokio::test]
async fn syslog_and_the_journal_get_it_and_nobody_waits_for_them() {
    let running = Running::start(&Settings::default()).await;
    let path = running.site.path("dev-log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_nonblocking(true).unwrap();
    running.write(&to(&format!("to: 'syslog:unix:{}', facility: local3, tag: edge", path.display())));
    running.daemon.signal(Signal::HUP);
    let told = String::from_utf8(received(&daemon, "configuration reloaded").await).unwrap();
    // local3.info
    assert!(
        told.starts_with("<158>1 ") && told.contains(&format!(" edge {} - - ", running.daemon.pid())),
        "{told}"
    );
    running.site.write("relay.yaml", "nonsense");
    running.daemon.signal(Signal::HUP);
    let told = String::from_utf8(received(&daemon, "not reloaded").await).unwrap();
    assert!(told.starts_with("<155>1 "), "{told}");
    // It is away, and traffic goes on.
    drop(daemon);
    fs::remove_file(&path).unwrap();
    assert_eq!(auth(&running, "carol").await, 200);

    let path = running.site.path("journal");
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_nonblocking(true).unwrap();
    running.write(&to(&format!("to: 'journald:{}'", path.display())));
    running.daemon.signal(Signal::HUP);
    received(&journal, "configuration reloaded").await;
    assert_eq!(auth(&running, "dave").await, 200);
    let told = String::from_utf8(received(&journal, "session granted").await).unwrap();
    let fields: Vec<_> = told.lines().collect();
    for field in ["PRIORITY=6", "SYSLOG_IDENTIFIER=msrp-relay", "RELAY_USER=dave", "RELAY_EXPIRES=1800"] {
        assert!(fields.contains(&field), "{field} in {told}");
    }
    assert!(fields.iter().any(|field| field.starts_with("MESSAGE=session granted link=")), "{told}");
    // A journal that does not read: what it has no room for is lost, and nobody waits.
    for _ in 0..300 {
        assert_eq!(auth(&running, "dave").await, 200);
    }
    running.goes_on().await;
}

/// Whether it goes well, and what it says.
fn ctl(site: &Site, args: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(RELAY);
    command.arg("ctl").args(["--address", &format!("unix:{}", site.path("admin.sock").display())]);
    let done = command.args(args).output().unwrap();
    (done.status.success(), String::from_utf8([done.stdout, done.stderr].concat()).unwrap())
}

#[tokio::test]
async fn session_records_that_cannot_be_opened_again_are_told_each_time() {
    let site = Site::new();
    fs::create_dir(site.path("cdr")).unwrap();
    let settings = Settings {
        records: "sinks: { a: { file: { path: cdr/s.jsonl } } }".into(),
        admin: Some("listen: 'unix:admin.sock'".into()),
        ..Settings::default()
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    // Its name leads to a disk that is not there any more.
    fs::rename(site.path("cdr/s.jsonl"), site.path("cdr/moved")).unwrap();
    std::os::unix::fs::symlink("gone/s.jsonl", site.path("cdr/s.jsonl")).unwrap();
    for round in 1..=2 {
        let (done, told) = ctl(&site, &["reload"]);
        assert!(done && told.contains("session records were not opened again, and wait: a: "), "{told}");
        assert!(told.contains("cdr/s.jsonl: No such file"), "{told}");
        let words = ["ERROR session records were not opened again, and wait", "sink=\"a\"", "cdr/s.jsonl"];
        daemon.log().wait_for_lines(&words, round).await;
    }
    // By SIGHUP, and where the reload itself is refused.
    site.write("relay.yaml", "nonsense");
    hup(&daemon, "session records were not opened again").await;
    let (done, told) = ctl(&site, &["reload"]);
    assert!(!done && told.contains("session records were not opened again: a: "), "{told}");

    fs::remove_file(site.path("cdr/s.jsonl")).unwrap();
    site.write("relay.yaml", &settings.to_yaml());
    let (done, told) = ctl(&site, &["reload"]);
    assert!(done && !told.contains("not opened"), "{told}");
    assert!(site.path("cdr/s.jsonl").is_file());
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_again_is_told_and_written_to() {
    let site = Site::new();
    fs::create_dir(site.path("logs")).unwrap();
    let settings = Settings {
        log: "to: 'file:logs/relay.log'".into(),
        admin: Some("listen: 'unix:admin.sock'".into()),
        ..Settings::default()
    };
    // What tells when it is ready goes to the file, too.
    let config = site.write("relay.yaml", &settings.to_yaml());
    let daemon = Daemon::spawn(std::process::Command::new(RELAY), &config);
    until(&site.path("logs/relay.log"), "ready").await;
    let ctl = |args: &[&str]| ctl(&site, args);
    let failures = || {
        let (_, told) = ctl(&["stats", "core:log_reopen_failures"]);
        let number = told.split_whitespace().last().unwrap_or_default().parse::<u64>();
        number.unwrap_or_else(|error| panic!("{error}: {told}"))
    };
    assert_eq!(failures(), 0);

    fs::rename(site.path("logs"), site.path("moved")).unwrap();
    let (done, told) = ctl(&["reload"]);
    assert!(done && told.contains("the log was not opened again"), "{told}");
    assert!(told.contains("logs/relay.log: No such file"), "{told}");
    daemon.log().wait_for(&["the log cannot be opened again", "logs/relay.log"]).await;
    let text = until(&site.path("moved/relay.log"), "configuration reloaded").await;
    assert!(text.contains("ERROR the log was not opened again"), "{text}");
    assert!(failures() > 0);
    // Also where the reload itself is refused.
    site.write("relay.yaml", "nonsense");
    let (done, told) = ctl(&["reload"]);
    assert!(!done && told.contains("the log was not opened again"), "{told}");

    fs::create_dir(site.path("logs")).unwrap();
    site.write("relay.yaml", &settings.to_yaml());
    let (done, told) = ctl(&["reload"]);
    assert!(done && !told.contains("not opened"), "{told}");
    until(&site.path("logs/relay.log"), "configuration reloaded").await;
}
