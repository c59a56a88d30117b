//! Databases, ephemeral credentials, throttling and users' limits.

use std::time::Duration;

use msrp_proto::digest::Algorithm;

use super::super::{DEFAULT_BURST, DatabaseKind, Throttle, UserLimits};
use super::{accepted, errors, minimal, warnings};

fn auth(rest: &str) -> String {
    minimal(&format!("auth: {{ allow_auth_without_tls: true, {rest} }}\n"))
}

#[test]
fn a_database_has_the_names_of_auth_db_unless_told_otherwise() {
    let config = accepted(&auth("database: { url: 'mysql://relay:s3cret@db.test/opensips' }"));
    let database = config.auth.database.as_ref().unwrap();
    assert_eq!(database.url.kind(), DatabaseKind::MySql);
    let names = [&database.table, &database.user_column, &database.domain_column, &database.password_column];
    assert_eq!(names, ["subscriber", "username", "domain", "ha1"]);
    assert_eq!(
        (database.hash_column_sha256.as_deref(), database.hash_column_sha512.as_deref()),
        (None, None)
    );
    assert_eq!((database.pool_size, database.timeout), (4, Duration::from_secs(3)));
    assert_eq!(database.probe_interval, Duration::from_secs(5));
    let cache = &database.cache;
    assert_eq!((cache.size, cache.expire.as_secs(), cache.negative_expire.as_secs()), (10_000, 60, 5));
    assert!(!database.use_domain && !database.calculate_ha1);
    assert!(!format!("{config:?}").contains("s3cret"));
    assert!(warnings(&config).is_empty());

    let more = "algorithms: [SHA-256, SHA-512-256], database: { url: 'sqlite:users.db' }";
    let config = accepted(&auth(more));
    let database = config.auth.database.as_ref().unwrap();
    assert_eq!(database.hash_column_sha256.as_deref(), Some("ha1_sha256"));
    assert_eq!(database.hash_column_sha512.as_deref(), Some("ha1_sha512t256"));
    assert!(database.serves(Algorithm::Sha512_256));
    assert!(database.url.to_string().ends_with("users.db"));
}

#[test]
fn a_wrong_database_is_located_and_its_url_never_quoted() {
    for (section, expected) in [
        ("{}", "auth.database: missing key `url`"),
        ("{ url: 'oracle://s3cret' }", "auth.database.url: is no URL that begins with `sqlite:`"),
        ("{ url: 'postgres://a:s3cret@[' }", "auth.database.url: is not the URL of a database"),
        ("{ url: 'sqlite::memory:' }", "auth.database.url: names no file"),
        ("{ url: { file: none } }", "auth.database.url: cannot read /nonexistent/none"),
        ("{ url: 'sqlite:x', table: 'a; b' }", "auth.database.table: `a; b` is not a name of letters"),
        ("{ url: 'sqlite:x', user_column: 'a\"' }", "auth.database.user_column: "),
        ("{ url: 'sqlite:x', pool_size: 0 }", "auth.database.pool_size: expected a count"),
        ("{ url: 'sqlite:x', pool_size: 1001 }", "auth.database.pool_size: goes from 1 to 1000"),
        ("{ url: 'sqlite:x', timeout: 21s }", "auth.database.timeout: is longer than 20s"),
        ("{ url: 'sqlite:x', probe_interval: 99ms }", "auth.database.probe_interval: goes from 100ms to 1m"),
        (
            "{ url: 'sqlite:x', probe_interval: 60001ms }",
            "auth.database.probe_interval: goes from 100ms to 1m",
        ),
        ("{ url: 'sqlite:x', cache: { size: 1 } }", "auth.database.cache.size: goes from 2 to 100000000"),
        (
            "{ url: 'sqlite:x', calculate_ha1: true, hash_column_sha256: x }",
            "auth.database.hash_column_sha256: is not used with `calculate_ha1`",
        ),
        ("{ url: 'sqlite:x', db_url: x }", "auth.database.db_url: unknown key"),
    ] {
        let found = errors(&auth(&format!("database: {section}")));
        assert!(found.starts_with("relay.yaml:3:") && found.contains(expected), "{section}\n  {found}");
        assert!(!found.contains("s3cret"), "{found}");
    }
    for good in [
        "pool_size: 1",
        "pool_size: 1000",
        "timeout: 20s",
        "probe_interval: 100ms",
        "probe_interval: 1m",
        "cache: { size: 2, expire: 0s, negative_expire: 0s }",
    ] {
        accepted(&auth(&format!("database: {{ url: 'sqlite:x', {good} }}")));
    }
}

#[test]
fn a_database_with_which_the_right_password_takes_too_long_is_a_warning() {
    for (section, warned) in [
        ("throttle: { max_delay: 8s }, database: { url: 'sqlite:x', timeout: 11s }", false),
        ("throttle: { max_delay: 8s }, database: { url: 'sqlite:x', timeout: 11001ms }", true),
        ("throttle: { enabled: false }, database: { url: 'sqlite:x', timeout: 15s }", false),
        ("throttle: { enabled: false }, database: { url: 'sqlite:x', timeout: 15001ms }", true),
    ] {
        let found = warnings(&accepted(&auth(section)));
        let about =
            found.iter().any(|warning| warning.contains("auth.database.timeout: twice, for a connection"));
        assert_eq!(about, warned, "{section}: {found:?}");
    }
}

#[test]
fn ephemeral_credentials_have_one_secret_or_two() {
    accepted(&auth(
        "ephemeral: { secret: '0123456789abcdef', other_secret: 'fedcba9876543210', algorithm: SHA-256 }",
    ));
    for (section, expected) in [
        ("{}", "auth.ephemeral: missing key `secret`"),
        ("{ secret: '4711456789abcde' }", "auth.ephemeral.secret: is shorter than 16 bytes"),
        (
            "{ secret: '0123456789abcdef', other_secret: '4711' }",
            "auth.ephemeral.other_secret: is shorter than 16",
        ),
        (
            "{ secret: '0123456789abcdef', algorithm: md5 }",
            "auth.ephemeral.algorithm: `md5` is not an algorithm",
        ),
    ] {
        let found = errors(&auth(&format!("ephemeral: {section}")));
        assert!(found.starts_with("relay.yaml:3:") && found.contains(expected), "{section}\n  {found}");
        assert!(!found.contains("4711"), "{found}");
    }
}

#[test]
fn throttling_has_its_ranges() {
    assert_eq!(accepted(&minimal("")).auth.throttle, Throttle::default());
    for good in [
        "enabled: false",
        "free: 1",
        "max_delay: 20s",
        "delay: 8s",
        "forget: 1s",
        "waiting: 1",
        "waiting: 65536",
        "entries: 2",
    ] {
        accepted(&auth(&format!("throttle: {{ {good} }}")));
    }
    for (section, expected) in [
        ("free: 0", "auth.throttle.free: expected a count of at least 1"),
        ("max_delay: 20001ms", "auth.throttle.max_delay: is longer than 20s"),
        ("delay: 8001ms", "auth.throttle.delay: is longer than `max_delay`"),
        ("delay: 0s", "auth.throttle.delay: must be longer than zero"),
        ("forget: 0s", "auth.throttle.forget: must be longer than zero"),
        ("waiting: 0", "auth.throttle.waiting: expected a count of at least 1"),
        ("waiting: 65537", "auth.throttle.waiting: goes from 1 to 65536"),
        ("entries: 1", "auth.throttle.entries: goes from 2 to 16777216"),
        ("entries: 16777217", "auth.throttle.entries: goes from 2 to 16777216"),
    ] {
        let found = errors(&auth(&format!("throttle: {{ {section} }}")));
        assert!(found.starts_with("relay.yaml:3:") && found.contains(expected), "{section}\n  {found}");
    }
}

#[test]
fn a_delay_that_outlasts_the_connection_is_a_warning() {
    let outlasts = |text: &str| {
        let found = warnings(&accepted(text));
        found.iter().any(|warning| warning.contains("auth.throttle.max_delay: is not shorter than"))
    };
    assert!(!outlasts(&auth("max_failures: 5")));
    for (probation, warned) in [("8s", true), ("8001ms", false)] {
        assert_eq!(
            outlasts(&(auth("max_failures: 5") + &format!("timeouts: {{ probation: {probation} }}\n"))),
            warned
        );
    }
    for (websocket, warned) in [
        ("auth: { digest: true }, handshake_timeout: 8s", true),
        ("auth: { digest: true }, handshake_timeout: 9s", false),
        ("handshake_timeout: 8s", false),
    ] {
        let text = format!(
            "domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0' }}, {{ uri: 'ws://127.0.0.1:0/msrp', websocket: {{ {websocket} }} }} ]\n"
        );
        assert_eq!(outlasts(&text), warned, "{websocket}");
        assert!(!outlasts(&(text + "auth: { throttle: { enabled: false } }\n")));
    }
}

#[test]
fn users_have_limits_in_common_and_of_their_own() {
    let config = accepted(&minimal(
        "limits: { user: { sessions: 5, message_size: 1MiB, messages_per_second: 1000000, bytes_per_second: 1B, burst: 10m } }\n\
         auth: { users: { alice: { password: a, limits: { sessions: 9, burst: 1s } } } }\n",
    ));
    let expected = UserLimits {
        sessions: Some(5),
        message_size: Some(1024 * 1024),
        messages_per_second: Some(1_000_000),
        bytes_per_second: Some(1),
        burst: Some(Duration::from_secs(600)),
    };
    assert_eq!(config.limits.user, expected);
    assert_eq!(DEFAULT_BURST, Duration::from_secs(5));
    for (section, expected) in [
        ("sessions: 0", "sessions: expected a count of at least 1"),
        ("message_size: 0B", "message_size: must be larger than zero"),
        ("messages_per_second: 1000001", "messages_per_second: goes from 1 to 1000000"),
        ("bytes_per_second: 0B", "bytes_per_second: must be larger than zero"),
        ("burst: 999ms", "burst: goes from 1s to 10m"),
        ("burst: 601s", "burst: goes from 1s to 10m"),
    ] {
        for (text, path) in [
            (minimal(&format!("limits: {{ user: {{ {section} }} }}\n")), "limits.user."),
            (
                auth(&format!("users: {{ alice: {{ password: a, limits: {{ {section} }} }} }}")),
                "auth.users.alice.limits.",
            ),
        ] {
            let found = errors(&text);
            assert!(
                found.starts_with("relay.yaml:3:") && found.contains(&format!("{path}{expected}")),
                "{found}"
            );
        }
    }
}
