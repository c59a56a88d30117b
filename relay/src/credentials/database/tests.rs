use std::path::Path;

use msrp_proto::digest::{Algorithm, Ha1};
use tempfile::TempDir;

use super::*;
use crate::config::{Config, DatabaseKind, DatabaseUrl, UserLimits};

const REALM: &str = "relay.test";

/// A database in a directory of its own, with what goes into the section.
struct Site {
    dir: TempDir,
    settings: DatabaseSettings,
}

impl Site {
    fn new(section: &str) -> Self {
        Self::with("[MD5]", section)
    }

    fn with(algorithms: &str, section: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "domain: {REALM}\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0' }} ]\n\
             auth: {{ algorithms: {algorithms}, database: {{ url: 'sqlite:users.db', {section} }} }}\n"
        );
        let config =
            Config::parse(&text, dir.path(), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        Self { dir, settings: config.auth.database.unwrap() }
    }

    /// The database, with its table.
    async fn database(&self) -> Database {
        let mut settings = self.settings.clone();
        settings.url = settings.url.create_if_missing();
        Database::new(settings.clone()).create().await.unwrap();
        Database::new(self.settings.clone())
    }

    /// Does something to it beside the relay.
    async fn execute(&self, statement: &str) {
        let path = self.dir.path().join("users.db").display().to_string();
        let pool = sqlx::SqlitePool::connect(&path).await.unwrap();
        sqlx::query(statement).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

fn user<'a>(name: &'a str, password: &'a str) -> NewUser<'a> {
    NewUser { name, realm: REALM, password }
}

fn query(user: &str, algorithm: Algorithm, now: Instant) -> Query {
    Query { user: user.to_owned(), realm: REALM.to_owned(), algorithm, now, again: false }
}

/// Asks as an AUTH does: what is at hand, else the database.
async fn ask(database: &Database, query: &Query) -> Lookup {
    match database.lookup(query) {
        Lookup::Later => database.fetch(query).await,
        found => found,
    }
}

/// Whether this is the user's password, by the database.
async fn knows(database: &Database, name: &str, password: &str, algorithm: Algorithm) -> bool {
    let now = tokio::time::Instant::now().into_std();
    match ask(database, &query(name, algorithm, now)).await {
        Lookup::Found(entry) => {
            entry.ha1.as_hex() == Ha1::from_password(algorithm, name, REALM, password).as_hex()
        }
        Lookup::Unknown => false,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn users_are_added_changed_listed_and_removed() {
    let site = Site::with("[MD5, SHA-256, SHA-512-256]", "");
    let database = site.database().await;
    database.add(&user("bob", "bobpw")).await.unwrap();
    database.add(&user("alice", "alicepw")).await.unwrap();
    assert!(matches!(database.add(&user("bob", "x")).await, Err(DatabaseError::Exists)));
    for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
        assert!(knows(&database, "alice", "alicepw", algorithm).await, "{algorithm}");
    }
    assert_eq!(database.list(REALM).await.unwrap(), ["alice", "bob"]);

    database.set_password(&user("bob", "new")).await.unwrap();
    assert!(knows(&database, "bob", "new", Algorithm::Md5).await);
    database.remove("alice", REALM).await.unwrap();
    assert_eq!(database.list(REALM).await.unwrap(), ["bob"]);
    assert!(matches!(database.remove("alice", REALM).await, Err(DatabaseError::Unknown)));
    assert!(matches!(database.set_password(&user("alice", "x")).await, Err(DatabaseError::Unknown)));
    for name in ["", "a:b", "a\"b", "a\nb", &"a".repeat(MAX_NAME + 1)] {
        assert!(matches!(database.add(&user(name, "x")).await, Err(DatabaseError::Name)), "{name}");
    }
    database.add(&user(&"a".repeat(MAX_NAME), "x")).await.unwrap();
}

#[tokio::test]
async fn names_of_table_and_columns_are_those_configured() {
    let site = Site::with(
        "[MD5, SHA-256, SHA-512-256]",
        "table: people, user_column: who, domain_column: realm, password_column: h1, hash_column_sha256: h2, \
         hash_column_sha512: h3, sessions_column: s, message_size_column: m, messages_per_second_column: r, \
         bytes_per_second_column: b",
    );
    let database = site.database().await;
    database.add(&user("alice", "alicepw")).await.unwrap();
    site.execute(
        "UPDATE people SET s = 3, m = 1000, r = 5, b = 2000 WHERE who = 'alice' AND realm = 'relay.test'",
    )
    .await;
    for (column, algorithm) in
        [("h1", Algorithm::Md5), ("h2", Algorithm::Sha256), ("h3", Algorithm::Sha512_256)]
    {
        let now = Instant::now();
        let Lookup::Found(entry) = ask(&database, &query("alice", algorithm, now)).await else { panic!() };
        let expected = UserLimits::of_columns([Some(3), Some(1000), Some(5), Some(2000)]);
        assert_eq!(entry.limits, expected);
        site.execute(&format!("UPDATE people SET {column} = '' WHERE {column} = '{}'", entry.ha1.as_hex()))
            .await;
        let database = Database::new(site.settings.clone());
        assert!(matches!(ask(&database, &query("alice", algorithm, now)).await, Lookup::Unknown), "{column}");
    }
}

#[tokio::test]
async fn passwords_make_all_hashes_with_calculate_ha1() {
    let site = Site::with("[MD5, SHA-256]", "calculate_ha1: true");
    assert_eq!(site.settings.password_column, "password");
    let database = site.database().await;
    database.add(&user("alice", "alicepw")).await.unwrap();
    for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
        assert!(knows(&database, "alice", "alicepw", algorithm).await, "{algorithm}");
    }
    site.execute("UPDATE subscriber SET password = 'other' WHERE password = 'alicepw'").await;
    assert!(knows(&Database::new(site.settings.clone()), "alice", "other", Algorithm::Md5).await);
    // A row that has hashes alone has an empty password, and nobody gets in with that.
    site.execute("UPDATE subscriber SET password = ''").await;
    let database = Database::new(site.settings.clone());
    assert!(!knows(&database, "alice", "", Algorithm::Md5).await);
}

#[tokio::test]
async fn the_domain_counts_with_use_domain() {
    for (section, known) in [("use_domain: true", false), ("use_domain: false", true)] {
        let site = Site::new(section);
        let database = site.database().await;
        database.add(&user("alice", "alicepw")).await.unwrap();
        site.execute("UPDATE subscriber SET domain = 'other.test'").await;
        assert_eq!(knows(&database, "alice", "alicepw", Algorithm::Md5).await, known, "{section}");
        assert_eq!(database.list(REALM).await.unwrap().len(), usize::from(known), "{section}");
    }
}

#[tokio::test]
async fn a_name_is_a_value_and_never_part_of_a_statement() {
    let site = Site::new("");
    let database = site.database().await;
    for name in ["x' OR '1'='1", "x'; DROP TABLE subscriber; --", "%", "_", "ümläut", "名前"] {
        assert!(!knows(&database, name, "x", Algorithm::Md5).await, "{name}");
        database.add(&user(name, "pw")).await.unwrap();
        assert!(knows(&Database::new(site.settings.clone()), name, "pw", Algorithm::Md5).await, "{name}");
    }
    // Nobody's names are not even asked for.
    let before = database.stats().unwrap().queries;
    for name in ["", "a\0b", "a\nb", &"x".repeat(MAX_NAME + 1)] {
        assert!(!knows(&database, name, "x", Algorithm::Md5).await);
    }
    assert_eq!(database.stats().unwrap().queries, before);
}

#[tokio::test]
async fn the_cache_is_good_for_as_long_as_it_says() {
    let site = Site::new("cache: { expire: 60s, negative_expire: 5s }");
    let database = site.database().await;
    database.add(&user("alice", "old")).await.unwrap();
    for name in ["alice", "bob"] {
        let first = query(name, Algorithm::Md5, Instant::now());
        assert!(matches!(database.lookup(&first), Lookup::Later));
        database.fetch(&first).await;
    }
    let just_before = |seconds| Duration::from_secs(seconds) - Duration::from_nanos(1);
    for (name, seconds, again) in
        [("alice", 60, false), ("alice", 5, true), ("bob", 5, false), ("bob", 5, true)]
    {
        let since = database.0.cache.lock().get(name).unwrap().since;
        let asked = |after| Query { again, ..query(name, Algorithm::Md5, since + after) };
        let found = database.lookup(&asked(just_before(seconds)));
        assert!(
            matches!((name, found), ("alice", Lookup::Found(_)) | ("bob", Lookup::Unknown)),
            "{name} {again}"
        );
        assert!(
            matches!(database.lookup(&asked(Duration::from_secs(seconds))), Lookup::Later),
            "{name} {again}"
        );
    }
    assert_eq!(database.stats().unwrap().cached, 2);
}

#[tokio::test]
async fn nothing_is_remembered_with_zero_and_never_more_than_the_size() {
    let site = Site::new("cache: { size: 10, expire: 0s, negative_expire: 0s }");
    let database = site.database().await;
    for index in 0..30 {
        assert!(!knows(&database, &format!("user{index}"), "x", Algorithm::Md5).await);
    }
    assert!(!knows(&database, "user29", "x", Algorithm::Md5).await);
    let stats = database.stats().unwrap();
    assert_eq!((stats.queries, stats.hits), (31, 0));
    assert!(stats.cached <= 10, "{stats:?}");
}

#[tokio::test]
async fn who_asks_for_the_same_user_shares_one_query() {
    let site = Site::new("");
    let database = site.database().await;
    database.add(&user("alice", "alicepw")).await.unwrap();
    let asked = query("alice", Algorithm::Md5, Instant::now());
    let (first, second, third) =
        tokio::join!(database.fetch(&asked), database.fetch(&asked), database.fetch(&asked));
    for answer in [first, second, third] {
        assert!(matches!(answer, Lookup::Found(_)));
    }
    assert_eq!(database.stats().unwrap().queries, 1);
}

#[tokio::test]
async fn a_database_that_is_away_lets_in_who_is_in_the_cache_and_comes_back() {
    let site = Site::new("cache: { negative_expire: 1ms }");
    let database = site.database().await;
    database.add(&user("alice", "alicepw")).await.unwrap();
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);

    site.execute("ALTER TABLE subscriber RENAME TO elsewhere").await;
    let now = || tokio::time::Instant::now().into_std();
    assert!(matches!(ask(&database, &query("bob", Algorithm::Md5, now())).await, Lookup::Unavailable));
    let stats = database.stats().unwrap();
    assert_eq!((stats.available, stats.failures, stats.unanswered), (false, 1, 1));
    // Now at once, and without a query.
    assert!(matches!(database.lookup(&query("bob", Algorithm::Md5, now())), Lookup::Unavailable));
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);
    assert_eq!(database.stats().unwrap().queries, stats.queries);

    site.execute("ALTER TABLE elsewhere RENAME TO subscriber").await;
    while !database.stats().unwrap().available {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!knows(&database, "bob", "bobpw", Algorithm::Md5).await);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_a_database_that_is_away() {
    let site = Site::new("");
    let database = Database::new(site.settings.clone());
    let asked = query("alice", Algorithm::Md5, Instant::now());
    assert!(matches!(database.fetch(&asked).await, Lookup::Unavailable));
    assert!(!site.dir.path().join("users.db").exists());
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_none() {
    // Whoever accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = Site::new("timeout: 100ms").settings;
    let url = format!("postgres://relay:s3cret@{}/sip", silent.local_addr().unwrap());
    settings.url = DatabaseUrl::parse(&url, Path::new("")).unwrap();
    let database = Database::new(settings);
    assert!(matches!(
        database.fetch(&query("alice", Algorithm::Md5, Instant::now())).await,
        Lookup::Unavailable
    ));
    assert!(!format!("{database:?}").contains("s3cret"));
}

#[tokio::test]
async fn so_many_users_are_asked_for_at_once_and_no_more() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = Site::new("timeout: 20s").settings;
    let url = format!("postgres://relay@{}/sip", silent.local_addr().unwrap());
    settings.url = DatabaseUrl::parse(&url, Path::new("")).unwrap();
    let database = Database::new(settings);
    let asked = |index: usize| query(&format!("user{index}"), Algorithm::Md5, Instant::now());
    for index in 0..MAX_QUERIES {
        assert!(database.0.ask(&asked(index)).is_some(), "{index}");
    }
    assert!(database.0.ask(&asked(MAX_QUERIES)).is_none());
    assert!(matches!(database.fetch(&asked(MAX_QUERIES)).await, Lookup::Unavailable));
    assert!(database.0.ask(&asked(0)).is_some(), "who waits for one already asked for");
}

#[test]
fn statements_have_places_for_values_in_each_dialect() {
    let mut settings = Site::with("[MD5, SHA-256]", "table: sip.subscriber, use_domain: true").settings;
    let mut shown = Vec::new();
    for url in ["sqlite:x", "postgres://h/d", "mysql://h/d"] {
        settings.url = DatabaseUrl::parse(url, Path::new("")).unwrap();
        shown.push((
            settings.url.kind(),
            sql::select(&settings),
            sql::update(&settings),
            sql::insert(&settings),
        ));
    }
    let (kind, select, update, insert) = &shown[1];
    assert_eq!(*kind, DatabaseKind::Postgres);
    assert_eq!(
        select,
        "SELECT CAST(\"username\" AS TEXT), CAST(\"ha1\" AS TEXT), CAST(\"ha1_sha256\" AS TEXT), NULL, NULL, NULL, NULL, \
         NULL FROM \"sip\".\"subscriber\" WHERE \"username\" = $1 AND \"domain\" = $2 LIMIT 16"
    );
    assert_eq!(
        update,
        "UPDATE \"sip\".\"subscriber\" SET \"ha1\" = $1, \"ha1_sha256\" = $2 WHERE \"username\" = $3 AND \"domain\" = $4"
    );
    assert!(insert.ends_with("(\"username\", \"domain\", \"ha1\", \"ha1_sha256\") VALUES ($1, $2, $3, $4)"));
    assert!(shown[2].1.starts_with("SELECT CAST(`username` AS CHAR)") && shown[2].1.contains("`domain` = ?"));
    assert!(shown[0].1.contains("\"username\" = ? AND"));
}
