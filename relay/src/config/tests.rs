//! Whole files: what is accepted, what is refused, and where the errors point.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use msrp_proto::digest::{Algorithm, Ha1};
use msrp_proto::uri::Scheme;
use tempfile::TempDir;

use super::*;
use crate::credentials::Credentials;

mod credentials;
mod ranges;
mod schema;

/// As an operator would see them: one line each.
fn errors(text: &str) -> String {
    errors_in(Path::new("/nonexistent"), text)
}

fn errors_in(dir: &Path, text: &str) -> String {
    Config::parse(text, dir, "relay.yaml").expect_err("this should be refused").to_string()
}

fn accepted(text: &str) -> Config {
    Config::parse(text, Path::new("/nonexistent"), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// The shortest file that is accepted, and `rest` from its third line on.
fn minimal(rest: &str) -> String {
    format!("domain: relay.test\nlisteners: [ {{ uri: \"msrp://127.0.0.1:0\" }} ]\n{rest}")
}

fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().map(ToString::to_string).collect()
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn example_file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/relay.yaml")
}

const SHAPE: &str = r#"domain: relay.test
listeners:
  - { uri: "msrps://127.0.0.1:2855", advertise: "relay.test:2855", tls_domain: relay }
  - { uri: "msrp://127.0.0.1:2856",  advertise: "relay.test:2856" }
tls:
  server_domains:
    relay: { certificate: relay.crt, private_key: relay.key, ca_list: ca.pem, verify_cert: true, require_cert: false }
  client_domains:
    default: { ca_list: ca.pem, verify_cert: true, certificate: relay.crt, private_key: relay.key }
auth:
  realm: relay.test
  allow_auth_without_tls: false
  nonce_expire: 30s
  expires: { default: 30m, min: 60s, max: 1h }
  users:
    alice: { password: alicepw }
    bob:   { ha1: "0123456789abcdef0123456789abcdef" }
  htdigest: users.htdigest
log: { level: info, format: text }
"#;

#[test]
fn the_documented_shape_is_accepted_as_it_stands() {
    let carol = Ha1::from_password(Algorithm::Md5, "carol", "relay.test", "x");
    let dir = directory(&[
        ("relay.crt", ""),
        ("relay.key", ""),
        ("ca.pem", ""),
        ("users.htdigest", "carol:relay.test:0123456789abcdef0123456789abcdef\n"),
        ("relay.yaml", SHAPE),
    ]);
    let config = Config::load(&dir.path().join("relay.yaml")).unwrap();

    assert_eq!(config.domain.to_string(), "relay.test");
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[0].to_string(), "msrps://127.0.0.1:2855");
    assert_eq!(config.listeners[0].transport, ListenerTransport::Tls { domain: "relay".to_owned() });
    assert_eq!(config.listeners[1].transport, ListenerTransport::Tcp);
    let relay = &config.tls.server_domains["relay"];
    assert_eq!(relay.identity.certificate, dir.path().join("relay.crt"));
    assert_eq!(relay.client_certificates, ClientCertificates::Requested);
    let (_, client) = config.tls.client_domain();
    assert_eq!(client.trust.ca_list, Some(dir.path().join("ca.pem")));
    assert_eq!(client.identity.as_ref(), Some(&relay.identity));
    assert_eq!(config.auth.expires, Expires::default());
    assert_eq!(config.auth.nonce_expire, Duration::from_secs(30));
    assert!(!config.auth.allow_auth_without_tls);
    assert_eq!(config.log, Log::default());
    let known = |user: &str| config.auth.credentials.ha1(user, "relay.test", Algorithm::Md5);
    assert!(known("alice").is_some() && known("bob").is_some() && known("dave").is_none());
    assert!(known("carol").is_some_and(|ha1| ha1.as_hex() != carol.as_hex()));
    assert_eq!(warnings(&config), Vec::<String>::new());
}

#[test]
fn the_example_runs_as_it_is() {
    let config = Config::load(&example_file()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.listeners[0].to_string(), "msrp://127.0.0.1:2855");
    assert!(config.auth.allow_auth_without_tls);
    let bob = Ha1::from_password(Algorithm::Md5, "bob", "localhost", "bobpw");
    assert!(
        config
            .auth
            .credentials
            .ha1("bob", "localhost", Algorithm::Md5)
            .is_some_and(|ha1| ha1.as_hex() == bob.as_hex())
    );
    assert_eq!(warnings(&config), Vec::<String>::new());

    // What it shows as defaults are the defaults.
    let default = accepted(&minimal(""));
    assert_eq!(config.limits, default.limits);
    assert_eq!(config.timeouts, default.timeouts);
    assert_eq!(config.log, default.log);
    assert_eq!(config.outbound, default.outbound);
    assert_eq!(config.tcp, default.tcp);
    assert_eq!(config.dial, default.dial);
    assert_eq!(config.events, default.events);
    assert_eq!(config.records, default.records);
    assert_eq!(config.listeners[0].tcp, default.listeners[0].tcp);
    assert_eq!(config.auth.expires, default.auth.expires);
    assert_eq!(config.auth.nonce_expire, default.auth.nonce_expire);
    assert_eq!(config.auth.max_failures, default.auth.max_failures);
    assert_eq!(config.auth.throttle, default.auth.throttle);
    assert_eq!(config.tls.tls_handshake_timeout, default.tls.tls_handshake_timeout);
    assert_eq!(config.tls.cert_check_on_conn_reusage, default.tls.cert_check_on_conn_reusage);
    assert_eq!(config.tls.expiry_warning, default.tls.expiry_warning);
}

#[test]
fn the_example_runs_with_its_commented_settings_too() {
    let text = fs::read_to_string(example_file()).unwrap();
    // A commented line is a setting if what follows the `#` is a key or list item; prose and commands are not.
    let uncommented = text.lines().map(|line| {
        let (indent, rest) = line.split_at(line.find('#').unwrap_or(line.len()));
        let Some(setting) = rest.strip_prefix("# ").filter(|_| indent.trim().is_empty()) else {
            return line.to_owned();
        };
        let key = setting.trim_start().trim_start_matches("- ").split(':').next().unwrap_or_default();
        let is_setting = setting.contains(':') && known_keys().iter().any(|known| known.ends_with(key));
        let is_name = matches!(
            setting.trim(),
            "relay:" | "default:" | "partner:" | "homer:" | "billing:" | "audit:" | "table:"
        ) || setting.starts_with("carol: ")
            || setting.starts_with("dora: ");
        if !key.contains(' ') && (is_setting || is_name) {
            format!("{indent}{setting}")
        } else {
            line.to_owned()
        }
    });
    let text = uncommented.collect::<Vec<_>>().join("\n");
    let dir = directory(&[
        ("relay.crt", ""),
        ("relay.key", ""),
        ("ca.pem", ""),
        ("nonce.secret", "0123456789abcdef\n"),
        ("flow.secret", "0123456789abcdef\n"),
        ("admin.token", "0123456789abcdef\n"),
        ("carol.sha256", &"ab".repeat(32)),
        ("old.secret", "fedcba9876543210\n"),
        ("users.htdigest", "dave:localhost:0123456789abcdef0123456789abcdef\n"),
    ]);
    for directory in ["ca", "crl"] {
        fs::create_dir(dir.path().join(directory)).unwrap();
    }
    let config =
        Config::parse(&text, dir.path(), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    assert_eq!(config.listeners.len(), 4);
    let hep = &config.hep.receiver;
    let default = tcp_transport::hep::ReceiverSettings {
        from: hep.from.clone(),
        auth_key: hep.auth_key.clone(),
        ..Default::default()
    };
    assert!(config.listeners[3].hep && *hep == default && hep.auth_key.is_some() && hep.from.len() == 3);
    assert_eq!(config.hep.filter.len(), 2);
    let websocket = config.listeners[2].websocket.as_ref().unwrap();
    assert!(
        websocket.require_origin && websocket.auth.token.is_some() && websocket.max_msg_chunks == Some(100)
    );
    assert_eq!(config.listeners[0].advertise, Some("relay.example.com:2855".parse().unwrap()));
    assert_eq!((config.tls.server_domains.len(), config.tls.client_domains.len()), (1, 2));
    let relay = &config.tls.server_domains["relay"];
    assert_eq!((relay.negotiation.ciphers_list.len(), relay.negotiation.ec_curve.len()), (2, 3));
    assert_eq!(config.tls.client_domains["partner"].match_listener, ["msrps://0.0.0.0:2856"]);
    assert_eq!(config.auth.nonce_secret.as_ref().map(Secret::reveal), Some("0123456789abcdef"));
    assert!(config.auth.credentials.ha1("carol", "localhost", Algorithm::Sha256).is_some());
    let database = config.auth.database.as_ref().unwrap();
    assert_eq!((database.url.to_string().as_str(), database.pool_size), ("sqlite:users.db", 4));
    assert_eq!(database.limits.sessions.as_deref(), Some("max_sessions"));
    assert_eq!(config.limits.user.message_size, Some(100 * 1024 * 1024));
    assert_eq!(config.limits.user.burst, Some(DEFAULT_BURST));
    let dora = config.auth.credentials.limits("dora", "localhost").unwrap();
    assert_eq!((dora.sessions, dora.message_size), (Some(20), None));
    assert_eq!(config.limits.max_connections, Some(10000));
    let found = warnings(&config);
    assert_eq!(found.len(), 2, "carol cannot answer MD5, and anything is dialled: {found:?}");
    assert!(config.sip.is_some() && config.listeners[2].sip && !config.listeners[0].sip);
    assert_eq!(
        (config.records.sinks.len(), config.records.interim.map(|time| time.as_secs())),
        (3, Some(300))
    );
}

#[test]
fn the_example_of_a_hep_concentrator_runs_as_it_is() {
    let config = Config::load(&example_file().with_file_name("hep-concentrator.yaml"));
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.listeners.iter().map(|listener| listener.hep).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(config.hep.filter.len(), 2);
    assert_eq!(warnings(&config), Vec::<String>::new());
}

#[test]
fn the_example_of_the_sip_edge_runs_as_it_is() {
    let config = Config::load(&example_file().with_file_name("sip-edge.yaml"));
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let served = config.listeners.iter().map(|listener| (listener.serves_msrp(), listener.sip));
    assert_eq!(served.collect::<Vec<_>>(), [(true, false), (false, true), (true, true)]);
    assert_eq!(warnings(&config), Vec::<String>::new());
}

#[test]
fn every_key_is_in_the_example() {
    let text = fs::read_to_string(example_file()).unwrap();
    for path in known_keys() {
        let key = path.rsplit('.').next().unwrap();
        let is_shown = text.match_indices(&format!("{key}:")).any(|(at, _)| {
            !text[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_')
        });
        assert!(is_shown, "examples/relay.yaml does not show {path}");
    }
}

fn known_keys() -> Vec<String> {
    keys::of::<FileConfig>().into_iter().filter(|path| !path.ends_with('*')).collect()
}

#[test]
fn the_search_for_known_keys_sees_all_levels() {
    let keys = known_keys();
    for key in [
        "domain",
        "listeners.uri",
        "tls.server_domains.*.match_ip_address",
        "tls.client_domains.*.private_key",
        "auth.expires.max",
        "auth.users.*.ha1_sha256",
        "timeouts.drain_timeout",
        "log.format",
    ] {
        assert!(keys.iter().any(|known| known == key), "{key} in {keys:?}");
    }
}

#[test]
fn unknown_keys_are_located_and_the_nearest_known_one_named() {
    assert_eq!(
        errors("domain: relay.test\nliseners: []\n"),
        "relay.yaml:1:1: missing key `listeners`\n\
         relay.yaml:2:1: liseners: unknown key `liseners` at the top, did you mean `listeners`?"
    );
    let nested = minimal("tls:\n  server_domains:\n    relay:\n      certficate: a\n      private_key: b\n");
    assert_eq!(
        errors(&nested),
        "relay.yaml:6:7: tls.server_domains.relay.certficate: unknown key `certficate` in \
         `tls.server_domains.relay`, did you mean `certificate`?\n\
         relay.yaml:6:7: tls.server_domains.relay: missing key `certificate`"
    );
    assert_eq!(
        errors(&minimal("auth: { expires: { defualt: 5m } }\nlog: { colour: always }\n")),
        "relay.yaml:3:20: auth.expires.defualt: unknown key `defualt` in `auth.expires`, did you mean `default`?\n\
         relay.yaml:4:8: log.colour: unknown key `colour` in `log`, known are `level`, `format`, `to`, `facility`, `tag`"
    );
    assert_eq!(
        errors("domain: a\nlisteners:\n  - uri: msrp://a\n    advertize: b\n"),
        "relay.yaml:4:5: listeners[0].advertize: unknown key `advertize` in `listeners[0]`, did you mean `advertise`?"
    );
    // In a secret's mapping too.
    assert_eq!(
        errors(&minimal("auth:\n  users:\n    alice:\n      password: { fil: a }\n")),
        "relay.yaml:6:17: auth.users.alice.password: unknown key `fil` here, did you mean `file`?"
    );
}

#[test]
fn wrong_values_are_located() {
    for (rest, expected) in [
        (
            "auth:\n  nonce_expire: 30\n",
            "4:17: auth.nonce_expire: expected a duration with its unit, such as `30s`, found an integer",
        ),
        (
            "auth:\n  nonce_expire: 30 sec\n",
            "4:17: auth.nonce_expire: `sec` is not a unit of time, those are ms, s, m, h and d",
        ),
        ("auth: { nonce_expire: 0s }\n", "3:23: auth.nonce_expire: must be longer than zero"),
        (
            "auth:\n  nonce_expire:\n",
            "4:16: auth.nonce_expire: expected a duration with its unit, such as `30s`, found nothing",
        ),
        ("auth:\n  realm:\n", "4:9: auth.realm: has no value: give it one, or leave the key out"),
        (
            "auth:\n  realm: 5\n",
            "4:10: auth.realm: expected text (a number goes in quotes), found an integer",
        ),
        (
            "auth:\n  allow_auth_without_tls: yes\n",
            "4:27: auth.allow_auth_without_tls: expected `true` or `false`, found text",
        ),
        ("auth: [ MD5 ]\n", "3:7: auth: expected a mapping with keys among "),
        ("auth: { algorithms: MD5 }\n", "3:21: auth.algorithms: expected a list, found text"),
        (
            "auth:\n  algorithms:\n    - MD5\n    - MD6\n",
            "6:7: auth.algorithms[1]: `MD6` is not an algorithm served here",
        ),
        ("auth:\n  algorithms: [MD5, md5]\n", "4:21: auth.algorithms[1]: MD5 is listed twice"),
        ("auth:\n  algorithms: []\n", "4:15: auth.algorithms: is empty"),
        (
            "limits:\n  head_size: 16384\n",
            "4:14: limits.head_size: expected a size with its unit, such as `64KiB` or `2048B`, found an integer",
        ),
        (
            "limits:\n  head_size: 16KB\n",
            "4:14: limits.head_size: `KB` is not a unit of size, those are B, KiB, MiB and GiB",
        ),
        (
            "limits:\n  head_size: 512B\n",
            "4:14: limits.head_size: is 512 bytes, and goes from 1024 to 1048576",
        ),
        ("limits:\n  session_buffer: 0B\n", "4:19: limits.session_buffer: must be larger than zero"),
        (
            "limits:\n  headers: 0\n",
            "4:12: limits.headers: expected a count of at least 1, which this integer is not",
        ),
        (
            "limits:\n  headers: -1\n",
            "4:12: limits.headers: expected a count of at least 1, found an integer",
        ),
        (
            "limits:\n  headers: 99999999999999999999999\n",
            "4:12: limits.headers: expected a count of at least 1, found an integer",
        ),
        ("limits:\n  path_length: 2\n", "4:16: limits.path_length: is 2, and goes from 4 to 1000"),
        (
            "outbound:\n  deny:\n    - 10.0.0.1/8\n",
            "5:7: outbound.deny[0]: `10.0.0.1/8` has bits set after its prefix, did you mean `10.0.0.0/8`?",
        ),
        ("outbound: { schemes: [sip] }\n", "3:23: outbound.schemes[0]: `sip` is not a scheme dialled here"),
        ("log: { level: inof }\n", "3:15: log.level: `inof` is not a level"),
        ("log: { format: xml }\n", "3:16: log.format: `xml` is not a format, those are text and json"),
        ("log: !json { level: info }\n", "3:6: log: invalid type: enum, expected a YAML value without a tag"),
        ("auth:\n  nonce_secret: short\n", "4:17: auth.nonce_secret: is shorter than 16 bytes"),
        ("auth:\n  realm: 'a\"b'\n", "4:10: auth.realm: is text without quotes"),
        ("auth:\n  expires: { min: 2h }\n", "4:19: auth.expires.min: is longer than `max`"),
        ("auth:\n  expires:\n    default: 59s\n", "5:14: auth.expires.default: is shorter than `min`"),
        ("auth:\n  expires:\n    default: 61m\n", "5:14: auth.expires.default: is longer than `max`"),
        ("auth:\n  expires:\n    min: 1500ms\n", "5:10: auth.expires.min: is not in whole seconds"),
    ] {
        let found = errors(&minimal(rest));
        assert!(
            found.starts_with(&format!("relay.yaml:{expected}")),
            "{rest}\n  found    {found}\n  expected {expected}"
        );
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn wrong_listeners_are_located() {
    for (listeners, expected) in [
        ("listeners: []", "2:12: listeners: is empty"),
        ("listeners:", "2:11: listeners: expected a list, found nothing"),
        ("listeners: msrp://a", "2:12: listeners: expected a list, found text"),
        (
            "listeners:\n  - msrp://a",
            "3:5: listeners[0]: expected a mapping with keys among `uri`, `advertise`, `tls_domain`, ",
        ),
        ("listeners:\n  - advertise: a", "3:5: listeners[0]: missing key `uri`"),
        ("listeners:\n  - uri: 127.0.0.1:2855", "3:10: listeners[0].uri: `127.0.0.1:2855` has no scheme"),
        ("listeners:\n  - uri: http://a", "3:10: listeners[0].uri: `http` is not a scheme served here"),
        (
            "listeners:\n  - uri: msrp://::1",
            "3:10: listeners[0].uri: an IPv6 address goes in brackets: `[::1]`",
        ),
        ("listeners:\n  - uri: msrp://a:70000", "3:10: listeners[0].uri: `70000` is not a port"),
        ("listeners:\n  - uri: msrps://a", "3:5: listeners[0]: missing key `tls_domain`"),
        (
            "listeners:\n  - { uri: 'msrps://a', tls_domain: x }",
            "3:37: listeners[0].tls_domain: there is no `x` in tls.server_domains",
        ),
        (
            "listeners:\n  - { uri: 'msrp://a', tls_domain: x }",
            "3:36: listeners[0].tls_domain: is for `msrps://`",
        ),
        (
            "listeners:\n  - { uri: 'msrp://a', advertise: 'b:0' }",
            "3:35: listeners[0].advertise: port 0 cannot be reached",
        ),
        (
            "listeners:\n  - uri: msrp://a\n  - uri: msrp://b\n  - uri: msrp://a:2855",
            "5:10: listeners[2].uri: listeners[0] has the same address",
        ),
    ] {
        let found = errors(&format!("domain: relay.test\n{listeners}\n"));
        assert!(found.starts_with(&format!("relay.yaml:{expected}")), "{found}\n  expected {expected}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    accepted(
        "domain: a\nlisteners: [ { uri: 'msrp://a:0' }, { uri: 'msrp://a:0' }, { uri: 'msrp://[::1]' } ]",
    );
}

#[test]
fn what_is_not_yaml_is_located() {
    for (text, expected) in [
        ("domain: relay.test\nlisteners: [\n", "relay.yaml:3:1: "),
        ("domain: \"relay.test\nlisteners: x\n", "relay.yaml:"),
        ("domain: a\n\tlisteners: b\n", "relay.yaml:2:1: "),
        ("domain: a\ndomain: b\n", "relay.yaml:2:1: duplicate key `domain`"),
        (
            "auth:\n  users:\n    alice: { password: a }\n    bob: {}\n    alice: {}\n",
            "relay.yaml:5:5: auth.users: duplicate key `alice`",
        ),
        ("domain: *nowhere\n", "relay.yaml:1:9: unknown anchor"),
        ("domain: a\n---\ndomain: b\n", "relay.yaml: "),
        ("", "relay.yaml:1:1: missing key `domain`"),
        ("# only\n\n  # comments\n", "relay.yaml:4:1: missing key `domain`"),
        ("- a\n", "relay.yaml:1:1: expected a mapping with keys among `domain`"),
        ("domain: a\u{0}b\n", "relay.yaml:"),
    ] {
        let found = errors(text);
        assert!(found.starts_with(expected), "{text:?}\n  found    {found}\n  expected {expected}");
    }
}

#[test]
fn a_missing_key_is_reported_where_it_is_missing() {
    assert_eq!(
        errors("# a comment\nlisteners: [ { uri: 'msrp://a' } ]\n"),
        "relay.yaml:2:1: missing key `domain`"
    );
    let relay = "tls:\n  server_domains:\n    relay: { certificate: a }\n";
    assert_eq!(
        errors(&minimal(relay)),
        "relay.yaml:5:12: tls.server_domains.relay: missing key `private_key`"
    );
}

#[test]
fn several_errors_are_listed_in_the_order_of_the_file() {
    let text = "domain: relay.test\nlisteners: []\nlimits: { head_size: 2MiB }\nauth:\n  expires: { min: 2h }\n  htdigest: none\n";
    assert_eq!(
        errors(text).lines().map(|line| line.split(": ").nth(1).unwrap()).collect::<Vec<_>>(),
        ["listeners", "limits.head_size", "auth.expires.min", "auth.htdigest"]
    );
    let text = format!(
        "domain: a\nlisteners: [ {{ uri: 'msrp://a' }} ]\n{}",
        (0..50).map(|n| format!("x{n}: 1\n")).collect::<String>()
    );
    assert_eq!(errors(&text).lines().count(), 21);
    assert!(errors(&text).ends_with("relay.yaml: and 30 more errors"));
}

#[test]
fn users_and_secrets_are_checked_and_their_errors_never_quote_them() {
    let dir = directory(&[("ok", "filepw\r\n"), ("empty", "\n"), ("big", &"x".repeat(70_000))]);
    let path = dir.path().display();
    for (user, expected) in [
        ("alice: { password: 4711 }", "5:24: auth.users.alice.password: expected text (a number goes in quotes) or `{ file: PATH }`, found an integer".to_owned()),
        ("alice: { password: '' }", "5:24: auth.users.alice.password: is empty".to_owned()),
        ("alice: { password: pw4711, ha1: 'x' }", "5:24: auth.users.alice.password: is not given beside".to_owned()),
        ("alice: { ha1: 'pw4711' }", "5:19: auth.users.alice.ha1: is not 32 hex digits".to_owned()),
        ("alice: { ha1_sha256: pw4711 }", "5:26: auth.users.alice.ha1_sha256: is not 64 hex digits".to_owned()),
        ("alice: {}", "5:5: auth.users.alice: needs `password`, `ha1` or `ha1_sha256`".to_owned()),
        ("alice:", "5:5: auth.users.alice: needs `password`".to_owned()),
        ("alice: pw4711", "5:12: auth.users.alice: expected a mapping with keys among `password`".to_owned()),
        ("'a:b': { password: pw4711 }", "5:5: auth.users.a:b: a user name is text without `:`".to_owned()),
        ("alice: { password: { file: none } }", format!("5:24: auth.users.alice.password: cannot read {path}/none: No such file")),
        ("alice: { password: { file: empty } }", format!("5:24: auth.users.alice.password: {path}/empty is empty")),
        ("alice: { password: { file: big } }", format!("5:24: auth.users.alice.password: {path}/big is larger than 64 KiB")),
        ("alice: { password: { file: . } }", "5:24: auth.users.alice.password: cannot read ".to_owned()),
        ("alice: { password: {} }", "5:24: auth.users.alice.password: missing key `file`".to_owned()),
    ] {
        let found = errors_in(dir.path(), &minimal(&format!("auth:\n  users:\n    {user}\n")));
        assert!(found.starts_with(&format!("relay.yaml:{expected}")), "{user}\n  found    {found}\n  expected {expected}");
        assert!(!found.contains("4711"), "{found}");
    }

    let text =
        minimal("auth:\n  users:\n    1001: { password: { file: ok } }\n    Anna: { password: 'p w#' }\n");
    let config = Config::parse(&text, dir.path(), "relay.yaml").unwrap();
    for (user, password) in [("1001", "filepw"), ("Anna", "p w#")] {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
            let expected = Ha1::from_password(algorithm, user, "relay.test", password);
            assert!(
                config
                    .auth
                    .credentials
                    .ha1(user, "relay.test", algorithm)
                    .is_some_and(|ha1| ha1.as_hex() == expected.as_hex())
            );
        }
    }
    let shown = format!("{config:?}");
    assert!(!shown.contains("p w#") && !shown.contains("filepw"), "{shown}");
}

#[test]
fn a_wrong_htdigest_file_is_located_in_both_files() {
    let dir = directory(&[("users", "alice:relay.test:0123456789abcdef0123456789abcdef\n\nbob\n")]);
    let text = minimal("auth:\n  htdigest: users\n");
    let users = dir.path().join("users");
    assert_eq!(
        errors_in(dir.path(), &text),
        format!("relay.yaml:4:13: auth.htdigest: {}:3: is not `user:realm:hash`", users.display())
    );
    fs::write(&users, b"alice:relay.test:0123456789abcdef0123456789abcdef\n\xff").unwrap();
    let expected =
        format!("relay.yaml:4:13: auth.htdigest: {} is not UTF-8 text, see its line 2", users.display());
    assert_eq!(errors_in(dir.path(), &text), expected);
}

#[test]
fn tls_domains_are_checked() {
    let dir = directory(&[("c", ""), ("k", "")]);
    let server = "tls:\n  server_domains:\n    relay: { certificate: c, private_key: k";
    for (rest, expected) in [
        (
            "tls: { client_domains: { a: { certificate: c } } }",
            "3:44: tls.client_domains.a.certificate: needs its `private_key`".to_owned(),
        ),
        (
            "tls: { client_domains: { a: { private_key: k } } }",
            "3:44: tls.client_domains.a.private_key: needs its `certificate`".to_owned(),
        ),
        (
            "tls: { tls_handshake_timeout: 0s }",
            "3:31: tls.tls_handshake_timeout: must be longer than zero".to_owned(),
        ),
        (
            &format!("{server}, ca_list: none }}"),
            format!("5:55: tls.server_domains.relay.ca_list: cannot read {}/none", dir.path().display()),
        ),
        (
            &format!("{server}, ca_list: . }}"),
            "5:55: tls.server_domains.relay.ca_list: cannot read ".to_owned(),
        ),
        (
            &format!("{server}, verify_cert: false, require_cert: true }}"),
            "5:80: tls.server_domains.relay.require_cert: needs `verify_cert: true`".to_owned(),
        ),
        (
            &format!("{server}, match_ip_address: a }}"),
            "5:64: tls.server_domains.relay.match_ip_address: \"a\": not an IP address, nor `address:port`"
                .to_owned(),
        ),
        (
            &format!("{server}, match_sip_domain: [a, 'b c'] }}"),
            "5:68: tls.server_domains.relay.match_sip_domain[1]: \"b c\": not a host name".to_owned(),
        ),
    ] {
        let found = errors_in(dir.path(), &minimal(rest));
        assert!(
            found.starts_with(&format!("relay.yaml:{expected}")),
            "{rest}\n  found    {found}\n  expected {expected}"
        );
    }
    let text = minimal(&format!(
        "{server}, match_sip_domain: 'a.test, *.b.test', match_ip_address: ['::1', '192.0.2.1:1'] }}"
    ));
    let config = Config::parse(&text, dir.path(), "relay.yaml").unwrap();
    let relay = &config.tls.server_domains["relay"];
    assert_eq!(relay.match_sip_domain, ["a.test".parse().unwrap(), "*.b.test".parse().unwrap()]);
    assert_eq!(relay.match_ip_address, ["::1".parse().unwrap(), "192.0.2.1:1".parse().unwrap()]);
}

/// The example's certificates, made here under the names that its script makes them.
#[test]
fn the_example_of_tls_domains_has_the_domains_it_says() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, date_time_ymd};

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join("tls").join(name);
    for name in ["authorities", "revoked"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(path(name), issuer.pem()).unwrap();
        issuer
    };
    let (ca, relays) = (authority("ca.pem"), authority("authorities/relay-ca.pem"));
    for (name, issuer) in [("atlanta", &ca), ("biloxi", &ca), ("fallback", &ca), ("relay", &relays)] {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![format!("{name}.test")]).unwrap();
        fs::write(path(&format!("{name}.crt")), certificate.signed_by(&key, issuer).unwrap().pem()).unwrap();
        fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let crl = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2099, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    fs::write(path("revoked/relay-ca.pem"), crl.signed_by(&relays).unwrap().pem().unwrap()).unwrap();

    let text = fs::read_to_string(example_file().with_file_name("tls-domains.yaml")).unwrap();
    let config =
        Config::parse(&text, dir.path(), "tls-domains.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings(&config), [""; 0]);
    assert!(config.tls.cert_check_on_conn_reusage);
    let servers = crate::server::tls::server_domains(&config).unwrap();
    let server = |listener: usize, sni: Option<&str>| {
        let Listener { host: Host::Ip(ip), port, transport: ListenerTransport::Tls { domain }, .. } =
            &config.listeners[listener]
        else {
            panic!("{listener}")
        };
        servers.select(SocketAddr::new(*ip, *port), Some(domain), sni).unwrap().name().to_owned()
    };
    assert_eq!(server(0, Some("atlanta.example.com")), "atlanta");
    assert_eq!(server(0, Some("chat.atlanta.example.com")), "atlanta");
    assert_eq!(server(0, Some("biloxi.example.com")), "biloxi");
    assert_eq!((server(0, None), server(0, Some("other.test"))), ("fallback".into(), "fallback".into()));
    assert_eq!((server(1, None), server(1, Some("biloxi.example.com"))), ("relays".into(), "relays".into()));

    let clients = crate::server::tls::client_domains(&config).unwrap();
    let client = |host: &str, address: &str, listener: usize| {
        let listener = config.listeners[listener].to_string();
        clients.select(host, address.parse().unwrap(), Some(&listener)).name().to_owned()
    };
    assert_eq!(client("peer.test", "192.0.2.1:2855", 0), "default");
    assert_eq!(client("peer.test", "192.0.2.1:2855", 1), "inner");
    assert_eq!(client("peer.test", "192.0.2.9:2855", 1), "gateway");
    assert_eq!(client("relay.partner.example.net", "192.0.2.9:2855", 1), "partners");
    assert_eq!(client("relay.partner.example.net", "192.0.2.1:2855", 0), "partners");
    for domain in clients.snapshot() {
        assert_eq!(domain.certificate().is_some(), domain.name() != "default", "{}", domain.name());
    }
}

/// tls_mgm's rows that are about settings: what is taken, and what is refused with the reason.
#[test]
fn tls_parameters_are_read_or_refused_with_the_reason() {
    let dir = directory(&[("c", ""), ("k", "")]);
    for name in ["ca", "crl"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let server = |rest: &str| {
        minimal(&format!(
            "tls:\n  server_domains:\n    relay: {{ certificate: c, private_key: k, {rest} }}\n"
        ))
    };
    let client = |rest: &str| minimal(&format!("tls:\n  client_domains:\n    hop: {{ {rest} }}\n"));
    for (rest, key, reason) in [
        ("tls_method: TLSv1", "tls_method", "`TLSv1` asks for TLS 1.0 or 1.1"),
        ("tls_method: SSLv23", "tls_method", "`SSLv23` asks for SSL"),
        ("tls_method: 1.2", "tls_method", "expected a TLS version or a range"),
        ("ciphers_list: TLS_RSA_WITH_AES_128_CBC_SHA", "ciphers_list", "RFC 4976 §9.2"),
        ("ciphers_list: 'HIGH:!aNULL'", "ciphers_list", "an OpenSSL rule"),
        ("ciphers_list: nonsense", "ciphers_list", "is not a cipher suite there is. Known are TLS_AES_256"),
        (
            "tls_method: TLSv1_3, ciphers_list: ECDHE-RSA-AES128-GCM-SHA256",
            "ciphers_list",
            "has no suite of TLSv1.3",
        ),
        ("ec_curve: secp521r1", "ec_curve", "Known are X25519, P-256, P-384"),
        ("dh_params: dh.pem", "dh_params", "no Diffie-Hellman over prime fields"),
        ("verify_depth: 3", "verify_depth", "six intermediates"),
        ("ca_dir: none", "ca_dir", "cannot read the directory"),
        ("ca_dir: c", "ca_dir", "cannot read the directory"),
        ("crl_dir: none", "crl_dir", "cannot read the directory"),
        ("crl_check_all: true", "crl_check_all", "needs `crl_dir`"),
        ("db_url: mysql", "db_url", "unknown key `db_url`"),
        ("tls_library: openssl", "tls_library", "unknown key `tls_library`"),
        ("client_tls_domain_avp: x", "client_tls_domain_avp", "unknown key"),
    ] {
        for (text, domain) in [(server(rest), "server_domains.relay"), (client(rest), "client_domains.hop")] {
            let found = errors_in(dir.path(), &text);
            assert!(
                found.contains(&format!("tls.{domain}.{key}")) && found.contains(reason),
                "{rest}: {found}"
            );
            assert!(found.starts_with("relay.yaml:5:"), "{found}");
        }
    }
    let all = "ca_list: c, ca_dir: ca, crl_dir: crl, crl_check_all: true, tls_method: '1.2-1.3', \
               ciphers_list: 'TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256', ec_curve: [X25519, prime256v1]";
    let trust = Trust {
        ca_list: Some(dir.path().join("c")),
        ca_dir: Some(dir.path().join("ca")),
        crl_dir: Some(dir.path().join("crl")),
        crl_check_all: true,
    };
    let negotiation = Negotiation {
        tls_method: "-".parse().unwrap(),
        ciphers_list: ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]
            .map(|name| name.parse().unwrap())
            .to_vec(),
        ec_curve: ["X25519", "P-256"].map(|name| name.parse().unwrap()).to_vec(),
    };
    let parse = |text: &str| {
        Config::parse(text, dir.path(), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    };
    let domain = parse(&server(all)).tls.server_domains["relay"].clone();
    assert_eq!((domain.trust, domain.negotiation), (trust.clone(), negotiation.clone()));
    let domain = parse(&client(all)).tls.client_domains["hop"].clone();
    assert_eq!((domain.trust, domain.negotiation), (trust, negotiation));
    let unused = parse(&client("verify_cert: false, ca_dir: ca, crl_dir: crl"));
    assert_eq!(warnings(&unused).iter().filter(|text| text.contains("is not used")).count(), 2);

    let settings = parse(&minimal("tls: { cert_check_on_conn_reusage: true, expiry_warning: 0s }"));
    assert!(settings.tls.cert_check_on_conn_reusage);
    assert_eq!(settings.tls.expiry_warning, Duration::ZERO);
}

#[test]
fn client_domains_are_for_hosts_addresses_and_listeners() {
    let domains = |text: &str| minimal(&format!("tls:\n  client_domains:\n{text}\n"));
    for (text, expected) in [
        (
            "    a: { match_sip_domain: none }",
            "5:28: tls.client_domains.a.match_sip_domain: `none` is for server",
        ),
        (
            "    a: { match_listener: 'msrp://b' }",
            "5:26: tls.client_domains.a.match_listener: there is no `msrp://b:2855` in listeners, those are msrp://127.0.0.1:0",
        ),
        ("    a: { match_listener: b }", "5:26: tls.client_domains.a.match_listener: `b` has no scheme"),
        (
            "    default: { match_sip_domain: b }",
            "5:5: tls.client_domains.default: is what is used where no other",
        ),
        ("    a: { require_cert: true }", "5:10: tls.client_domains.a.require_cert: unknown key"),
    ] {
        let found = errors(&domains(text));
        assert!(found.starts_with(&format!("relay.yaml:{expected}")), "{found}");
    }
    let config = accepted(&domains(
        "    a: { match_sip_domain: 'a.test, *.b.test', match_ip_address: '192.0.2.1:5', match_listener: ['*', 'MSRP://127.0.0.1:0'] }\n    b: { verify_cert: false }",
    ));
    let a = &config.tls.client_domains["a"];
    assert_eq!(a.match_sip_domain, ["a.test".parse().unwrap(), "*.b.test".parse().unwrap()]);
    assert_eq!(a.match_ip_address, ["192.0.2.1:5".parse().unwrap()]);
    assert_eq!(a.match_listener, ["*", "msrp://127.0.0.1:0"]);
    let conditional: Vec<_> = config.tls.conditional_client_domains().map(|(name, _)| name).collect();
    assert_eq!((conditional, config.tls.client_domain().0), (vec!["a"], "b"));
    // Only a conditional one: what it is not for goes the built-in way.
    let config = accepted(&domains("    a: { match_sip_domain: a.test, verify_cert: false }"));
    assert!(config.tls.client_domain().1.verify_cert);
}

#[test]
fn the_client_domain_is_default_or_the_only_one_or_built_in() {
    let chosen = |domains: &str| {
        let config = accepted(&minimal(&format!("tls: {{ client_domains: {{ {domains} }} }}")));
        (
            config.tls.client_domain().1.verify_cert,
            config.warnings.iter().any(|warning| warning.key.starts_with("tls")),
        )
    };
    assert_eq!(chosen(""), (true, false));
    assert_eq!(chosen("a: { verify_cert: false }"), (false, false));
    assert_eq!(chosen("a: {}, default: { verify_cert: false }"), (false, false));
    assert_eq!(chosen("a: { verify_cert: false }, b: { verify_cert: false }"), (true, true));
    assert_eq!(accepted(&minimal("tls:")).tls.client_domain().1, ClientDomain::default());
}

#[test]
fn an_algorithm_that_a_user_cannot_answer_is_a_warning() {
    let user = "users: { alice: { password: a }, bob: { ha1: '0123456789abcdef0123456789abcdef' } }";
    let plain = "allow_auth_without_tls: true";
    assert_eq!(warnings(&accepted(&minimal(&format!("auth: {{ {plain}, {user} }}")))), Vec::<String>::new());
    let config = accepted(&minimal(&format!("auth:\n  algorithms: [SHA-256, MD5]\n  {user}\n  {plain}\n")));
    assert_eq!(config.auth.algorithms, [Algorithm::Sha256, Algorithm::Md5]);
    assert_eq!(
        warnings(&config),
        [
            "relay.yaml:4:3: auth.algorithms: SHA-256 is offered, but auth.users has users without a hash for it"
        ]
    );
    assert_eq!(
        warnings(&accepted(&minimal(&format!("auth: {{ {plain} }}")))).len(),
        1,
        "no credentials at all"
    );
}

#[test]
fn that_nobody_can_log_in_without_tls_is_a_warning() {
    let found = warnings(&accepted(&minimal("auth: { users: { alice: { password: a } } }")));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("auth.allow_auth_without_tls: is false and no listener is msrps://"),
        "{found:?}"
    );
}

#[test]
fn defaults_are_those_documented() {
    let config = accepted("domain: Relay.Test\nlisteners: [ { uri: 'msrp://0.0.0.0' } ]\n");
    assert_eq!(config.listeners[0].port, 2855);
    assert_eq!(
        config.listeners[0].advertised(&config.domain, 2855),
        (Host::Name("Relay.Test".to_owned()), 2855)
    );
    assert_eq!(config.auth.realm, "Relay.Test");
    assert_eq!(config.auth.algorithms, [Algorithm::Md5]);
    assert_eq!((config.auth.max_failures, config.auth.allow_auth_without_tls), (5, false));
    assert_eq!(config.tls.tls_handshake_timeout, Duration::from_secs(5));
    assert_eq!((config.limits.head_size, config.limits.interrupt_size), (16384, 2048));
    assert_eq!((config.timeouts.stall_timeout.as_secs(), config.timeouts.send_timeout.as_secs()), (5, 30));
    let loopback: SocketAddr = "127.0.0.1:22".parse().unwrap();
    assert!(config.outbound.permits(Scheme::Msrp, loopback).is_ok());
    assert!(warnings(&config).iter().any(|warning| warning.contains("outbound-public.yaml")));
    assert_eq!(
        (config.timeouts.head_timeout.as_secs(), config.timeouts.progress_timeout.as_secs()),
        (30, 120)
    );
    assert_eq!(accepted(&minimal("timeouts: { drain_timeout: 0s }")).timeouts.drain_timeout, Duration::ZERO);
}

#[test]
fn aliases_work_and_errors_point_at_what_they_stand_for() {
    let config = accepted(&minimal("timeouts: { send_timeout: &long 7m, idle_timeout: *long }\n"));
    assert_eq!(config.timeouts.idle_timeout, Duration::from_secs(420));
    let found = errors(&minimal(
        "timeouts:\n  send_timeout: 7m\nlog: { level: &name x, format: text }\nauth: { nonce_expire: *name }\n",
    ));
    assert!(found.starts_with("relay.yaml:5:"), "{found}");
}

#[test]
fn files_built_to_explode_are_refused_at_once() {
    let started = Instant::now();
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..=9 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(150_000));
    let deep_flow = "[".repeat(100_000);
    let deep_block = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    for text in
        [laughs, wide, deep_flow, deep_block, "a: &a [*a]\n".to_owned(), "a: &a { b: *a }\n".to_owned()]
    {
        let found = errors(&text);
        println!("{:?} {}", started.elapsed(), &found[..found.len().min(200)]);
    }
    // Generous, for a debug build on a loaded machine: what explodes takes hours.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let dir = directory(&[("big.yaml", &"# x\n".repeat(300_000)), ("relay.yaml", "domain: a\n")]);
    let load = |name: &str| Config::load(&dir.path().join(name)).unwrap_err().to_string();
    assert!(load("none.yaml").contains("none.yaml: No such file"), "{}", load("none.yaml"));
    assert!(load("big.yaml").ends_with("is larger than 1024 KiB"), "{}", load("big.yaml"));
    fs::write(dir.path().join("relay.yaml"), b"domain: a\n# \xff\n").unwrap();
    assert!(load("relay.yaml").ends_with("is not UTF-8 text, see its line 2"), "{}", load("relay.yaml"));
}

#[test]
fn a_reload_sees_which_sections_differ() {
    let (old, new) = ("log: { level: info }\ntls:\n", "log: { level: 'info' }\nlimits: { headers: 50 }\n");
    let (old, new) = (accepted(&minimal(old)), accepted(&minimal(new)));
    let settings: Vec<_> = old.source.changes(&new.source).into_iter().map(|change| change.setting).collect();
    assert_eq!(settings, ["limits.headers", "tls"]);
    assert!(old.source.changes(&old.source).is_empty());
}

#[test]
fn later_errors_can_point_at_a_key() {
    let config = accepted(&minimal("auth:\n  realm: r\n"));
    let shown = |key: &[&str]| config.source.error_at(key, "no").to_string();
    assert_eq!(shown(&["auth", "realm"]), "relay.yaml:4:10: auth.realm: no");
    assert_eq!(shown(&["listeners", "0", "uri"]), "relay.yaml:2:21: listeners[0].uri: no");
    assert_eq!(shown(&["tls", "server_domains"]), "relay.yaml:1:1: tls.server_domains: no");
}
