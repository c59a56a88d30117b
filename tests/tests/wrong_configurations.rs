//! What `check` says of wrong configurations: a table. Each has one mistake, and `«` where the error has to point.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;

use tests::Site;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// What is right in all of them; a case replaces or follows it.
const BASE: &str = r#"domain: relay.test
listeners:
  - { uri: "msrps://127.0.0.1:2855", tls_domain: relay }
tls:
  server_domains:
    relay: { certificate: relay.crt, private_key: relay.key }
"#;

/// The mistake, and words of the sentence that tells it.
const WRONG: &[(&str, &str)] = &[
    // YAML itself.
    ("auth: { realm: a, «realm: b }\n", "duplicate key `realm`"),
    ("auth: [\n«", ""),
    // Keys.
    ("«lisener: []\n", "unknown key `lisener` at the top"),
    ("auth: { «nonce_expires: 30s }\n", "did you mean `nonce_expire`?"),
    ("log: { «levels: info }\n", "did you mean `level`?"),
    ("sip: { sip_upstream: [ { uri: 'sip://127.0.0.1', «wieght: 1 } ] }\n", "did you mean `weight`?"),
    // Durations, sizes, counts.
    ("timeouts: { idle_timeout: «30 }\n", "unit"),
    ("timeouts: { idle_timeout: «30x }\n", "`x` is not a unit of time"),
    ("timeouts: { idle_timeout: «0s }\n", "longer than zero"),
    ("timeouts: { idle_timeout: «soon }\n", "is not a duration"),
    ("timeouts: { idle_timeout: «400d }\n", "366d"),
    ("limits: { head_size: «16KB }\n", "`KB` is not a unit of size"),
    ("limits: { head_size: «16384 }\n", "unit"),
    ("limits: { headers: «0 }\n", "at least 1"),
    ("limits: { headers: «-1 }\n", "at least 1"),
    ("limits: { headers: «many }\n", "at least 1"),
    // Listeners.
    ("listeners: «[]\n", "at least one"),
    ("listeners: [ { uri: «'http://127.0.0.1:1' } ]\n", "http"),
    ("listeners: [ { uri: «'sip://127.0.0.1:' } ]\n", "port"),
    ("listeners: [ { uri: «'msrp://127.0.0.1:99999' } ]\n", "is not a port"),
    ("listeners: [ { uri: «'msrp://300.0.0.1:1' } ]\n", "host"),
    ("listeners: [ «{ uri: 'msrps://127.0.0.1:1' } ]\n", "tls_domain"),
    ("listeners: [ { uri: 'msrp://127.0.0.1:1', tls_domain: «relay } ]\n", "tls_domain"),
    ("listeners: [ { uri: 'msrps://127.0.0.1:1', tls_domain: «relais } ]\n", "relais"),
    ("listeners: [ { uri: 'msrp://127.0.0.1:1' }, { uri: «'msrp://127.0.0.1:1' } ]\n", "the same address"),
    ("listeners: [ { uri: 'msrp://127.0.0.1:1' }, { uri: «'sip://127.0.0.1:2' } ]\n", "sip"),
    ("listeners: [ { uri: 'msrp://127.0.0.1:1', proxy_from: «'10.0.0.0/33' } ]\n", "10.0.0.0/33"),
    // Users.
    ("auth: { users: { «alice: {} } }\n", "password"),
    ("auth: { users: { alice: { ha1: «abc } } }\n", "32"),
    ("auth: { algorithms: [ «SHA1 ] }\n", "`SHA1` is not an algorithm"),
    ("auth: { algorithms: «[] }\n", "algorithm"),
    ("auth: { nonce_secret: «short }\n", "shorter than"),
    ("auth: { realm: «'a\"b' }\n", "quotes"),
    ("auth: { htdigest: «nobody.htdigest }\n", "nobody.htdigest"),
    ("auth: { expires: { min: «2h, max: 1h } }\n", "min"),
    ("auth: { database: { url: «'oracle://db' } }\n", "sqlite:"),
    ("auth: { database: { url: 'sqlite:a.db', table: «'users; drop' } }\n", "letters, digits"),
    ("auth: { ephemeral: { secret: «{ file: nothing } } }\n", "nothing"),
    // TLS.
    ("tls: { server_domains: { relay: { certificate: «none.crt, private_key: relay.key } } }\n", "none.crt"),
    ("tls: { server_domains: { relay: «{ certificate: relay.crt, private_key: relay.crt } } }\n", "key"),
    (
        "tls: { server_domains: { relay: { certificate: relay.crt, private_key: relay.key, tls_method: «SSLv3 } } }\n",
        "SSLv3",
    ),
    (
        "tls: { server_domains: { relay: { certificate: relay.crt, private_key: relay.key, ciphers_list: «NULL-MD5 } } }\n",
        "NULL-MD5",
    ),
    // Others.
    ("outbound: { deny: [ «'10.0.0.300' ] }\n", "10.0.0.300"),
    ("outbound: { schemes: [ «http ] }\n", "http"),
    ("trace: { destinations: { a: { uri: «'udp://127.0.0.1' } } }\n", "hep_udp"),
    ("trace: { destinations: { a: { uri: 'hep_udp://127.0.0.1', version: «4 } } }\n", "1, 2 and 3"),
    ("trace: { protocols: { «ftp: { events: true } } }\n", "is not a protocol"),
    ("sip: { sip_upstream: «[] }\n", "upstream"),
    ("sip: { sip_upstream: [ { uri: «'sip:127.0.0.1' } ] }\n", "sip"),
    ("admin: { listen: «'http://0.0.0.0:8088' }\n", "needs a `token`"),
    ("admin: { listen: 'http://127.0.0.1:8088', token: «short }\n", "shorter than 16"),
    ("log: { to: «'file:nowhere/relay.log' }\n", "there is no directory"),
    ("admin: { listen: «'unix:nowhere/admin.sock' }\n", "there is no directory"),
    (
        "admin: { listen: ['http://127.0.0.1:8088', «'unix:/nowhere/admin.sock'] }\n",
        "there is no directory /nowhere",
    ),
    ("records: { sinks: { «a: {} } }\n", "file"),
    ("records: { sinks: { a: { file: { path: «nowhere/records.jsonl } } } }\n", "there is no directory"),
    ("records: { sinks: { a: { file: { path: «'' } } } }\n", "is empty"),
    ("records: { sinks: { a: { syslog: { facility: «local9 } } } }\n", "`local9` is not a facility"),
    ("records: { queue: «10000001 }\n", "goes from 1 to 10000000"),
    ("admin: { listen: 'http://127.0.0.1:8088', socket_mode: «'0600' }\n", "there is none"),
    (
        "trace: { trace_filter: [ { trace: true, listener: «'msrp://127.0.0.1:9' } ] }\n",
        "there is no listener",
    ),
    ("hep: { filter: [ { forward: «homer } ] }\n", "there is no `homer`"),
    ("records: { sinks: { a: { syslog: { address: «'tcp://127.0.0.1:1' } } } }\n", "udp"),
    ("log: { level: «loud }\n", "`loud` is not a level"),
    ("log: { format: «xml }\n", "xml"),
];

/// What the relay would start with, and what is told as a warning: the sign is where it has to point.
const DOUBTFUL: &[(&str, &str)] = &[
    ("auth: { database: { url: «'sqlite:users.db' } }\n", "`msrp-relay user add` makes it"),
    ("auth: { database: { url: «'sqlite:nowhere/users.db' } }\n", "there is no directory"),
    (
        "records: { sinks: { a: { database: { url: «'sqlite:nowhere/r.db' } } } }\n",
        "records wait until there is",
    ),
    ("admin: { listen: «'unix:/run/no such relay/admin.sock' }\n", "RuntimeDirectory"),
    ("«sip: { sip_upstream: [ { uri: 'sip://127.0.0.1' } ] }\n", "has no effect"),
];

/// The base, without the section that the case has; the place of the mark, from 1; and the text without it.
fn whole(case: &str) -> (String, usize, usize) {
    let section = case.trim_start_matches('«').split(':').next().unwrap();
    let mut text = String::new();
    let mut left_out = false;
    for line in BASE.lines() {
        if !line.starts_with([' ', '-']) {
            left_out = line.starts_with(&format!("{section}:"));
        }
        if !left_out {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str(case);
    let before = text.split('«').next().unwrap();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    (text.replace('«', ""), line, column)
}

#[test]
fn every_mistake_is_told_with_its_place_and_a_sentence() {
    assert!(WRONG.len() >= 40);
    let site = Site::new();
    let mut misses = Vec::new();
    for (case, words) in WRONG {
        let (text, line, column) = whole(case);
        let file = site.write("wrong.yaml", &text);
        let output = Command::new(RELAY).args(["check", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let place = format!("wrong.yaml:{line}:{column}: ");
        let told = said.lines().any(|said| {
            said.split_once(&place)
                .is_some_and(|(_, sentence)| sentence.contains(words) && sentence.len() > 10)
        });
        if output.status.code() != Some(1) || !told || said.contains("panicked") {
            misses.push(format!("{case}  wanted {place}…{words}…\n  said {said}"));
        }
    }
    assert!(misses.is_empty(), "{} of {}:\n{}", misses.len(), WRONG.len(), misses.join("\n"));
}

#[test]
fn what_is_doubtful_is_told_with_its_place_and_keeps_nothing_from_starting() {
    let site = Site::new();
    for (case, words) in DOUBTFUL {
        let (text, line, column) = whole(case);
        let file = site.write("doubtful.yaml", &text);
        let output = Command::new(RELAY).args(["check", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let place = format!("doubtful.yaml:{line}:{column}: ");
        let told = said.lines().any(|said| {
            said.starts_with("warning: ")
                && said.split_once(&place).is_some_and(|(_, sentence)| sentence.contains(words))
        });
        assert!(told && output.status.code() == Some(0), "{case}  wanted {place}…{words}…\n  said {said}");
    }
    // The package's own folder is made at the start, and is not there before the first one.
    let (text, ..) = whole("admin: { listen: «'unix:/run/msrp-relay/admin.sock' }\n");
    let file = site.write("packaged.yaml", &text);
    let output = Command::new(RELAY).args(["check", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !said.contains("there is no directory"), "{said}");
    // Where there is what was missing, nothing is told.
    site.write("users.db", "");
    let (text, ..) = whole(DOUBTFUL[0].0);
    let file = site.write("right.yaml", &text);
    let output = Command::new(RELAY).args(["check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches("warning").count(), 0);
}

#[test]
fn a_running_relay_goes_on_without_the_folders_that_a_start_needs() {
    let site = Site::new();
    for (case, reloads) in [
        ("log: { to: «'file:nowhere/relay.log' }\n", true),
        ("admin: { listen: «'unix:nowhere/admin.sock' }\n", true),
        ("log: { «levle: info }\n", false),
    ] {
        let (text, ..) = whole(case);
        let file = site.write("reload.yaml", &text);
        let output = Command::new(RELAY).args(["check", "--reload", "--config"]).arg(&file).output().unwrap();
        let warned = String::from_utf8(output.stdout).unwrap().contains("there is no directory");
        assert_eq!((output.status.success(), warned), (reloads, reloads), "{case}");
    }
}

/// What the package's unit does before the relay reads its configuration again: `systemctl reload` fails if this does.
#[test]
fn the_unit_of_the_package_refuses_to_reload_what_is_wrong() {
    let unit =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/debian/msrp-relay.service"));
    let unit = unit.unwrap();
    let first = unit.lines().find_map(|line| line.strip_prefix("ExecReload=/usr/bin/msrp-relay ")).unwrap();
    let (options, path) = first.rsplit_once(' ').unwrap();
    assert_eq!(path, "/etc/msrp-relay/relay.yaml");
    let site = Site::new();
    let reloads = |case: &str| {
        let file = site.write("unit.yaml", &whole(case).0);
        Command::new(RELAY).args(options.split(' ')).arg(&file).output().unwrap().status.success()
    };
    assert!(reloads("log: { level: «info }\n"));
    assert!(!reloads("log: { levle: «info }\n"));
    // The kill that follows is for a relay that has the configuration checked.
    assert!(
        unit.find("ExecReload=/usr/bin").unwrap() < unit.find("ExecReload=/bin/kill -HUP $MAINPID").unwrap()
    );
}

/// Mistakes of different kinds, which are found one after the other when the relay starts.
const SEVERAL: &str = r#"domain: relay.test
listeners:
  - { uri: "msrps://127.0.0.1:2855", tls_domain: «relais }
tls:
  server_domains:
    relay: { certificate: «none.crt, private_key: «none.key }
    other: «{ certificate: relay.crt, private_key: relay.crt }
    third: «{ certificate: relay.key, private_key: relay.key }
auth:
  htdigest: «nobody.htdigest
admin:
  listen: «"unix:nowhere/admin.sock"
records:
  sinks:
    a: { file: { path: «nowhere/a.jsonl } }
"#;

/// Mistakes that keep the file's sections from being read.
const SEVERAL_UNREADABLE: &str = r#"domain: relay.test
listeners:
  - { uri: «"http://127.0.0.1:1" }
«lisener: []
timeouts: { idle_timeout: «30, send_timeout: «soon, «conect_timeout: 1s }
auth: { «realms: a, algorithms: [ MD5, «SHA1 ], nonce_expire: «0s }
records: { sinks: { a: { file: { path: «[] } }, b: { syslog: { facility: «local9 } } } }
log: { level: «loud, format: «xml }
"#;

#[test]
fn all_mistakes_are_told_at_once() {
    let site = Site::new();
    for several in [SEVERAL, SEVERAL_UNREADABLE] {
        let places: Vec<_> = several
            .match_indices('«')
            .map(|(at, _)| {
                let before = several[..at].replace('«', "");
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
                format!("several.yaml:{line}:{column}: ")
            })
            .collect();
        let file = site.write("several.yaml", &several.replace('«', ""));
        let output = Command::new(RELAY).args(["check", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), places.len(), "{said}");
        for (line, place) in lines.iter().zip(&places) {
            assert!(line.contains(place), "wanted {place} in the order of the file:\n{said}");
        }
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn without_the_mistake_it_is_accepted() {
    let site = Site::new();
    let file = site.write("right.yaml", BASE);
    let output = Command::new(RELAY).args(["check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
