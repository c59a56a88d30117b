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
    NewUser { name, realm: REALM, domain: None, password }
}

fn query(user: &str, algorithm: Algorithm, now: Instant) -> Query {
    let wants = Wants::Hash(algorithm);
    Query { user: user.to_owned(), realm: REALM.to_owned(), wants, now, again: false }
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
    database.remove("alice", None, REALM).await.unwrap();
    assert_eq!(database.list(REALM).await.unwrap(), ["bob"]);
    assert!(matches!(database.remove("alice", None, REALM).await, Err(DatabaseError::Unknown)));
    assert!(matches!(database.set_password(&user("alice", "x")).await, Err(DatabaseError::Unknown)));
    for name in ["", "a:b", "a\"b", "a\nb", &"a".repeat(MAX_NAME + 1)] {
        assert!(matches!(database.add(&user(name, "x")).await, Err(DatabaseError::Name)), "{name}");
    }
    database.add(&user(&"a".repeat(MAX_NAME), "x")).await.unwrap();
}

#[tokio::test]
async fn it_is_asked_where_it_was_begun_whoever_wants_to_know() {
    let site = Site::new("");
    let database = Arc::new(site.database().await);
    database.add(&user("alice", "alicepw")).await.unwrap();
    database.begin();
    // A thread for connections, which ends as soon as it has asked.
    let asking = Arc::clone(&database);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let query = query("alice", Algorithm::Md5, tokio::time::Instant::now().into_std());
            let mut fetch = std::pin::pin!(asking.fetch(&query));
            std::future::poll_fn(|cx| {
                let _ = fetch.as_mut().poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
        });
    })
    .join()
    .unwrap();
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);
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

/// What is in a table, row by row.
async fn rows(site: &Site, statement: &str) -> Vec<Vec<Option<String>>> {
    let path = site.dir.path().join("users.db").display().to_string();
    let pool = sqlx::SqlitePool::connect(&path).await.unwrap();
    let rows = sqlx::query(statement).fetch_all(&pool).await.unwrap();
    pool.close().await;
    let row = |row: &_| (0..sqlx::Row::len(row)).map(|index| sqlx::Row::get(row, index)).collect();
    rows.iter().map(row).collect()
}

#[tokio::test]
async fn of_several_rows_of_a_name_one_is_changed_or_none() {
    for (section, given, done) in [
        (
            "use_domain: false",
            None,
            Err("several rows have that user name, in the domains , a.test, b.test: "),
        ),
        ("use_domain: false", Some("a.test"), Ok("a.test")),
        ("use_domain: false", Some("A.Test"), Ok("a.test")),
        ("use_domain: false", Some(""), Ok("")),
        ("use_domain: false", Some("c.test"), Err("there is no such user")),
        ("use_domain: true", None, Err("there is no such user")),
        ("use_domain: true", Some("a.test"), Err("there are only users of the domain relay.test")),
    ] {
        let site = Site::new(section);
        let database = site.database().await;
        site.execute(
            "INSERT INTO subscriber (username, domain, ha1) VALUES \
             ('alice', 'a.test', '1'), ('alice', 'b.test', '1'), ('alice', '', '1'), ('bob', 'a.test', '1')",
        )
        .await;
        let new = NewUser { domain: given, ..user("alice", "new") };
        let set = database.set_password(&new).await;
        let changed = rows(&site, "SELECT username, domain FROM subscriber WHERE ha1 <> '1'").await;
        let removed = database.remove("alice", given, REALM).await;
        let left = rows(&site, "SELECT username, domain FROM subscriber WHERE username = 'alice'").await;
        match done {
            Ok(domain) => {
                set.unwrap();
                removed.unwrap();
                assert_eq!(changed, [["alice", domain].map(|text| Some(text.to_owned()))], "{given:?}");
                assert!(left.len() == 2 && left.iter().all(|row| row[1].as_deref() != Some(domain)));
            }
            Err(expected) => {
                for said in [set, removed] {
                    let said = said.unwrap_err().to_string();
                    assert!(said.contains(expected), "{said}");
                }
                assert!(changed.is_empty() && left.len() == 3, "{section} {given:?}");
            }
        }
    }
}

#[tokio::test]
async fn rows_that_cannot_be_told_apart_are_left_alone() {
    let site = Site::new("");
    let database = site.database().await;
    site.execute("DROP TABLE subscriber").await;
    site.execute("CREATE TABLE subscriber (username TEXT, domain TEXT, ha1 TEXT)").await;
    site.execute(
        "INSERT INTO subscriber VALUES ('alice', 'a', '1'), ('alice', 'a', '2'), ('bob', NULL, '3')",
    )
    .await;
    for domain in [None, Some("a")] {
        let new = NewUser { domain, ..user("alice", "new") };
        assert!(matches!(database.set_password(&new).await, Err(DatabaseError::Alike)));
        assert!(matches!(database.remove("alice", domain, REALM).await, Err(DatabaseError::Alike)));
    }
    // A row without a domain is one too.
    database.set_password(&user("bob", "new")).await.unwrap();
    let left = rows(&site, "SELECT ha1 FROM subscriber ORDER BY ha1").await;
    assert_eq!((left[0][0].as_deref(), left[1][0].as_deref(), left.len()), (Some("1"), Some("2"), 3));
    database.remove("bob", None, REALM).await.unwrap();
}

#[tokio::test]
async fn a_new_row_is_in_the_domain_that_is_given_or_in_the_realm() {
    for (section, given, expected) in [
        ("", None, Ok(REALM)),
        ("", Some("sip.test"), Ok("sip.test")),
        ("use_domain: true", None, Ok(REALM)),
        ("use_domain: true", Some(REALM), Ok(REALM)),
        ("use_domain: true", Some("sip.test"), Err(())),
    ] {
        let site = Site::new(section);
        let database = site.database().await;
        let added = database.add(&NewUser { domain: given, ..user("alice", "alicepw") }).await;
        let found = rows(&site, "SELECT domain FROM subscriber").await;
        let found: Vec<_> = found.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!((added.map_err(drop).is_ok(), found), (expected.is_ok(), expected.into_iter().collect()));
    }
}

#[tokio::test]
async fn a_new_password_replaces_every_secret_that_a_row_has() {
    const SECRETS: &str = "SELECT password, ha1, ha1b, ha1_sha256, ha1_sha512t256 FROM subscriber";
    let hash = |algorithm, name: &str| Ha1::from_password(algorithm, name, REALM, "new").as_hex().to_owned();
    let new = [
        "new".to_owned(),
        hash(Algorithm::Md5, "alice"),
        hash(Algorithm::Md5, "alice@sip.test"),
        hash(Algorithm::Sha256, "alice"),
        hash(Algorithm::Sha512_256, "alice"),
    ];
    // What the configuration names is written always, the others where they are not empty.
    for (section, always) in [("", 1), ("calculate_ha1: true", 0), ("hash_column_sha256: ha1_sha256", 3)] {
        for filled in 0..5 {
            let site = Site::new(section);
            let database = site.database().await;
            site.execute("DROP TABLE subscriber").await;
            site.execute(
                "CREATE TABLE subscriber (id INTEGER PRIMARY KEY, username TEXT, domain TEXT, password TEXT DEFAULT '', \
                 HA1 TEXT DEFAULT '', ha1b TEXT, ha1_sha256 TEXT DEFAULT '', ha1_sha512t256 TEXT DEFAULT '')",
            )
            .await;
            site.execute("INSERT INTO subscriber (username, domain) VALUES ('alice', 'sip.test')").await;
            let column = ["password", "ha1", "ha1b", "ha1_sha256", "ha1_sha512t256"][filled];
            site.execute(&format!("UPDATE subscriber SET {column} = 'old'")).await;
            database.set_password(&user("alice", "new")).await.unwrap();
            let found = rows(&site, SECRETS).await.remove(0);
            for (index, value) in found.into_iter().enumerate() {
                let written = index == filled || index == always || (always == 3 && index == 1);
                let expected = if written { new[index].as_str() } else { "" };
                assert_eq!(value.unwrap_or_default(), expected, "{section} {column} {index}");
            }
        }
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
    assert_eq!(database.stats().unwrap().users, 2);
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
    assert_eq!((stats.queries, stats.queried, stats.cached), (31, 31, 0));
    assert!(stats.users <= 10, "{stats:?}");
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
    let stats = database.stats().unwrap();
    assert_eq!((stats.queries, stats.queried), (1, 3));
}

/// A database that has an Alice, whom the cache knows.
async fn with_alice(section: &str) -> (Site, Database) {
    let site = Site::new(section);
    let database = site.database().await;
    database.add(&user("alice", "alicepw")).await.unwrap();
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);
    (site, database)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn wait_until(database: &Database, available: bool) {
    while database.stats().unwrap().available != available {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_database_that_is_away_lets_nobody_in_who_is_in_the_cache_either_and_comes_back() {
    let (site, database) = with_alice("cache: { expire: 1h, negative_expire: 1ms }").await;
    site.execute("ALTER TABLE subscriber RENAME TO elsewhere").await;
    assert!(matches!(ask(&database, &query("bob", Algorithm::Md5, now())).await, Lookup::Unavailable));
    let stats = database.stats().unwrap();
    assert_eq!((stats.available, stats.failed, stats.away), (false, 1, 0));
    // Now at once, and without a query.
    for name in ["bob", "alice", "a\nb"] {
        let answer = database.lookup(&query(name, Algorithm::Md5, now()));
        assert!(matches!(answer, Lookup::Unavailable), "{name}");
    }
    // So is what was about to be asked for.
    assert!(matches!(database.fetch(&query("alice", Algorithm::Md5, now())).await, Lookup::Unavailable));
    let after = database.stats().unwrap();
    assert_eq!((after.queries, after.cached, after.away), (stats.queries, stats.cached, 4));

    site.execute("ALTER TABLE elsewhere RENAME TO subscriber").await;
    wait_until(&database, true).await;
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);
    assert!(!knows(&database, "bob", "bobpw", Algorithm::Md5).await);
}

#[tokio::test]
async fn that_a_database_is_away_is_noticed_though_nobody_logs_in() {
    let (site, database) = with_alice("probe_interval: 100ms").await;
    database.begin();
    let queries = database.stats().unwrap().queries;
    for table in [["subscriber", "elsewhere"], ["elsewhere", "subscriber"]] {
        site.execute(&format!("ALTER TABLE {} RENAME TO {}", table[0], table[1])).await;
        wait_until(&database, table[0] == "elsewhere").await;
    }
    assert_eq!(database.stats().unwrap().queries, queries);
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);
}

#[tokio::test]
async fn it_is_probed_as_often_as_configured_and_every_second_while_it_is_away() {
    for (section, there, away) in [
        ("", Duration::from_secs(5), Duration::from_secs(1)),
        ("probe_interval: 1m", Duration::from_secs(60), Duration::from_secs(1)),
        ("probe_interval: 100ms", Duration::from_millis(100), Duration::from_millis(100)),
    ] {
        let database = Database::new(Site::new(section).settings);
        assert_eq!(database.0.pause(), there);
        database.0.went_away(&DatabaseError::Timeout);
        assert_eq!(database.0.pause(), away);
    }
}

#[tokio::test]
async fn who_finds_all_connections_in_use_gets_no_answer_and_the_database_is_not_away() {
    let (_site, database) = with_alice("timeout: 50ms, pool_size: 2, probe_interval: 100ms").await;
    let in_use = database.0.connections.acquire_many(2).await.unwrap();
    let bob = query("bob", Algorithm::Md5, now());
    assert!(matches!(database.lookup(&bob), Lookup::Later));
    assert!(matches!(database.fetch(&bob).await, Lookup::Unanswered));
    database.0.probe().await;
    let stats = database.stats().unwrap();
    assert_eq!((stats.available, stats.busy, stats.failed, stats.away), (true, 1, 0, 0));
    // The cache is asked as ever.
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);
    drop(in_use);
    assert!(!knows(&database, "bob", "bobpw", Algorithm::Md5).await);
}

#[tokio::test]
async fn a_query_that_alone_fails_does_not_take_the_database_away() {
    let (site, database) = with_alice("cache: { expire: 0s, negative_expire: 0s }").await;
    // Names in Latin-1, of which the one with bytes that are no UTF-8 cannot be read.
    site.execute("INSERT INTO subscriber (username, domain, ha1) VALUES ('bob', 'x', CAST(x'ff' AS TEXT))")
        .await;
    assert!(matches!(ask(&database, &query("bob", Algorithm::Md5, now())).await, Lookup::Unanswered));
    let stats = database.stats().unwrap();
    assert_eq!((stats.available, stats.failed), (true, 1));
    assert!(knows(&database, "alice", "alicepw", Algorithm::Md5).await);
}

#[tokio::test]
async fn each_look_up_is_counted_once() {
    let (site, database) = with_alice("timeout: 50ms, pool_size: 1, cache: { negative_expire: 0s }").await;
    let mut look_ups = 1;
    let mut look = async |name: &str| {
        look_ups += 1;
        ask(&database, &query(name, Algorithm::Md5, now())).await
    };
    for name in ["alice", "alice", "bob", "bob"] {
        look(name).await;
    }
    let in_use = database.0.connections.acquire().await.unwrap();
    look("bob").await;
    drop(in_use);
    site.execute("ALTER TABLE subscriber RENAME TO elsewhere").await;
    for name in ["bob", "bob", "alice"] {
        look(name).await;
    }
    let CredentialStats { cached, queried, busy, failed, away, .. } = database.stats().unwrap();
    assert_eq!((cached, queried, busy, failed, away), (2, 3, 1, 1, 2));
    assert_eq!(cached + queried + busy + failed + away, look_ups);
}

#[tokio::test]
async fn limits_are_looked_up_by_name_where_there_are_columns_of_them() {
    let limits_of = |name: &str| Query { wants: Wants::Limits, ..query(name, Algorithm::Md5, now()) };
    let (_site, database) = with_alice("").await;
    assert!(matches!(ask(&database, &limits_of("alice")).await, Lookup::Unknown));
    assert_eq!(database.stats().unwrap().queries, 1, "no column, no query");

    let (site, database) = with_alice("sessions_column: most").await;
    site.execute("UPDATE subscriber SET most = 3").await;
    let database = Database::new(database.0.settings.clone());
    for _ in 0..2 {
        let answer = ask(&database, &limits_of("alice")).await;
        assert!(matches!(answer, Lookup::Limits(limits) if limits.sessions == Some(3)));
        assert!(matches!(ask(&database, &limits_of("bob")).await, Lookup::Unknown));
    }
    assert_eq!(database.stats().unwrap().queries, 2, "from the cache");
    // While the database is away, what is remembered counts: who asks has proved elsewhere who it is.
    site.execute("ALTER TABLE subscriber RENAME TO elsewhere").await;
    assert!(matches!(ask(&database, &limits_of("carol")).await, Lookup::Unavailable));
    let answer = ask(&database, &limits_of("alice")).await;
    assert!(matches!(answer, Lookup::Limits(limits) if limits.sessions == Some(3)));
    assert!(matches!(ask(&database, &query("alice", Algorithm::Md5, now())).await, Lookup::Unavailable));
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
    assert!(matches!(database.fetch(&asked(MAX_QUERIES)).await, Lookup::Unanswered));
    assert_eq!(database.stats().unwrap().busy, 1);
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
            sql::update(&settings, &[("ha1", true), ("ha1_sha256", false)]),
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
        "UPDATE \"sip\".\"subscriber\" SET \"ha1\" = $1, \"ha1_sha256\" = CASE WHEN COALESCE(\"ha1_sha256\", '') = '' \
         THEN \"ha1_sha256\" ELSE $2 END WHERE \"username\" = $3 AND COALESCE(\"domain\", '') = $4"
    );
    assert!(insert.ends_with("(\"username\", \"domain\", \"ha1\", \"ha1_sha256\") VALUES ($1, $2, $3, $4)"));
    assert!(shown[2].1.starts_with("SELECT CAST(`username` AS CHAR)") && shown[2].1.contains("`domain` = ?"));
    assert!(shown[0].1.contains("\"username\" = ? AND"));
}
