use std::path::Path;
use std::time::Duration;

use sqlx::{Row as _, SqlitePool};
use tempfile::TempDir;

use super::super::record::tests::{ended, interim};
use super::*;
use crate::config::DatabaseUrl;

fn settings(dir: &Path, table: &str) -> RecordDatabase {
    let url = DatabaseUrl::parse("sqlite:r.db", dir).unwrap().create_if_missing();
    RecordDatabase { url, table: table.into(), timeout: Duration::from_secs(60) }
}

async fn pool(dir: &TempDir) -> SqlitePool {
    let path = dir.path().join("r.db").display().to_string();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqlitePool::connect_with(options).await.unwrap()
}

/// Session-ids and reasons, in order.
async fn rows(dir: &TempDir, table: &str) -> Vec<(String, String)> {
    let text = format!("SELECT session, reason FROM {table} ORDER BY session");
    sqlx::query_as(&text).fetch_all(&pool(dir).await).await.unwrap()
}

fn row(session: &str, reason: &str) -> (String, String) {
    (session.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_session_has_one_row_with_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = DatabaseSink::new(settings(dir.path(), "cdr"));
    sink.open().await.unwrap();
    assert_eq!(sink.write(&[interim("a"), ended("b"), ended("a"), ended("b")]).await.records, 4);
    assert_eq!(rows(&dir, "cdr").await, [row("a", "expired"), row("b", "expired")]);
    let found =
        sqlx::query("SELECT * FROM cdr WHERE session = 'a'").fetch_one(&pool(&dir).await).await.unwrap();
    let text = |column: &str| found.get::<String, _>(column);
    let count = |column: &str| found.get::<i64, _>(column);
    let real = |column: &str| found.get::<f64, _>(column);
    assert_eq!((text("id"), text("uri")), ("a@relay.test".into(), "msrp://relay.test:2855/a;tcp".into()));
    assert_eq!((text("relay"), text("username")), ("relay.test".into(), "alice".into()));
    assert_eq!((text("realm"), text("owner")), ("relay.test".into(), "127.0.0.1:4000".into()));
    assert_eq!((text("listener"), text("transport")), ("msrp://127.0.0.1:2855".into(), "msrp".into()));
    assert_eq!((text("peers"), count("more_peers")), (r#"["msrp://127.0.0.1:4001/b;tcp"]"#.into(), 0));
    assert_eq!((text("began"), real("began_unix")), ("2023-11-14T22:13:20.250Z".into(), 1_700_000_000.25));
    assert_eq!((text("ended"), real("ended_unix")), ("2023-11-14T22:13:21.750Z".into(), 1_700_000_001.75));
    assert_eq!((real("seconds"), text("reason"), count("by_relay")), (1.5, "expired".into(), 0));
    let ways = ["sent", "received"]
        .map(|way| ["messages", "chunks", "bytes", "reports"].map(|what| count(&format!("{way}_{what}"))));
    assert_eq!(ways, [[1, 2, 3, 4], [5, 6, 7, 8]]);
}

#[tokio::test]
async fn a_table_without_a_column_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(&dir).await;
    sqlx::query("CREATE TABLE old (id TEXT PRIMARY KEY, session TEXT, ours TEXT)")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO old VALUES ('z', 'z', 'kept')").execute(&pool).await.unwrap();
    let mut sink = DatabaseSink::new(settings(dir.path(), "old"));
    assert_eq!(sink.write(&[ended("a")]).await.records, 1);
    assert_eq!(rows(&dir, "old WHERE reason IS NOT NULL").await, [row("a", "expired")]);
    let kept: String =
        sqlx::query_scalar("SELECT ours FROM old WHERE id = 'z'").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, "kept");
}

#[tokio::test]
async fn values_are_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = DatabaseSink::new(settings(dir.path(), "cdr"));
    let user = "'); DROP TABLE cdr; --\n\0\u{1b}\"";
    let record = SessionRecord { user: user.into(), ..(*ended("a")).clone() };
    assert_eq!(sink.write(&[record.into()]).await.records, 1);
    let found: String =
        sqlx::query_scalar("SELECT username FROM cdr").fetch_one(&pool(&dir).await).await.unwrap();
    assert_eq!(found, user);
}

#[tokio::test]
async fn a_record_that_the_table_refuses_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = DatabaseSink::new(settings(dir.path(), "cdr"));
    sink.open().await.unwrap();
    let pool = pool(&dir).await;
    let trigger = "CREATE TRIGGER no BEFORE INSERT ON cdr WHEN NEW.session = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END";
    sqlx::query(trigger).execute(&pool).await.unwrap();
    let taken = sink.write(&[ended("a"), ended("bad"), ended("c")]).await;
    assert!(matches!(taken, Taken { records: 1, failure: Some(Failure::Refused(_)) }), "{taken:?}");
    let taken = sink.write(&[ended("bad"), ended("c")]).await;
    assert!(matches!(taken, Taken { records: 0, failure: Some(Failure::Refused(_)) }), "{taken:?}");
    assert_eq!(rows(&dir, "cdr").await, [row("a", "expired")]);
    // Another failure concerns all.
    sqlx::query("DROP TABLE cdr").execute(&pool).await.unwrap();
    let taken = sink.write(&[ended("c")]).await;
    assert!(matches!(taken, Taken { records: 0, failure: Some(Failure::Away(_)) }), "{taken:?}");
    assert_eq!(sink.write(&[ended("c")]).await.records, 1);
    assert_eq!(rows(&dir, "cdr").await, [row("c", "expired")]);
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_away_after_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    // It accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for scheme in ["postgres", "mysql"] {
        let url = format!("{scheme}://a:b@{}/c", silent.local_addr().unwrap());
        let url = DatabaseUrl::parse(&url, dir.path()).unwrap();
        let timeout = Duration::from_millis(20);
        let mut sink = DatabaseSink::new(RecordDatabase { url, table: "cdr".into(), timeout });
        let taken = sink.write(&[ended("a")]).await;
        let Taken { records: 0, failure: Some(Failure::Away(why)) } = taken else { panic!("{taken:?}") };
        assert!(why.contains("no answer in 20ms") && !why.contains("a:b"), "{why}");
    }
}
