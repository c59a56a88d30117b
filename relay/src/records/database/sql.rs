//! The statements, and what goes into them.

use std::time::{Duration, UNIX_EPOCH};

use super::super::record::{SessionRecord, peers_json, rfc3339};
use crate::config::DatabaseKind;

/// A bound value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Maybe(Option<String>),
    Count(i64),
    Real(f64),
    Truth(bool),
}

/// The columns, and their types in SQLite. `user` is a keyword there, so it is `username`, as in `subscriber`.
const COLUMNS: [(&str, &str); 26] = [
    ("id", "TEXT PRIMARY KEY NOT NULL"),
    ("session", "TEXT"),
    ("uri", "TEXT"),
    ("relay", "TEXT"),
    ("username", "TEXT"),
    ("realm", "TEXT"),
    ("owner", "TEXT"),
    ("by_relay", "INTEGER"),
    ("listener", "TEXT"),
    ("transport", "TEXT"),
    ("peers", "TEXT"),
    ("more_peers", "INTEGER"),
    ("began", "TEXT"),
    ("began_unix", "REAL"),
    ("ended", "TEXT"),
    ("ended_unix", "REAL"),
    ("seconds", "REAL"),
    ("reason", "TEXT"),
    ("sent_messages", "INTEGER"),
    ("sent_chunks", "INTEGER"),
    ("sent_bytes", "INTEGER"),
    ("sent_reports", "INTEGER"),
    ("received_messages", "INTEGER"),
    ("received_chunks", "INTEGER"),
    ("received_bytes", "INTEGER"),
    ("received_reports", "INTEGER"),
];

/// The values of the columns, in their order.
pub(super) fn values(kind: DatabaseKind, record: &SessionRecord) -> Vec<Value> {
    let text = |text: &str| Value::Text(for_column(kind, text));
    let maybe = |text: &Option<String>| Value::Maybe(text.as_deref().map(|text| for_column(kind, text)));
    let count = |count: u64| Value::Count(i64::try_from(count).unwrap_or(i64::MAX));
    let time = |unix: f64| match kind {
        // In the statement it becomes a time.
        DatabaseKind::Postgres => Value::Real(unix),
        DatabaseKind::Sqlite => Value::Text(at(unix)),
        // DATETIME, in UTC as the connection's time zone is.
        DatabaseKind::MySql => Value::Text(at(unix).replace('T', " ").replace('Z', "")),
    };
    let SessionRecord { sent, received, .. } = record;
    vec![
        text(&record.id),
        text(&record.session),
        text(&record.uri),
        text(&record.relay),
        text(&record.user),
        text(&record.realm),
        text(&record.owner),
        Value::Truth(record.by_relay),
        maybe(&record.listener),
        maybe(&record.transport),
        Value::Text(peers_json(&record.peers)),
        Value::Truth(record.more_peers),
        time(record.began_unix),
        Value::Real(record.began_unix),
        time(record.ended_unix),
        Value::Real(record.ended_unix),
        Value::Real(record.seconds),
        text(record.reason),
        count(sent.messages),
        count(sent.chunks),
        count(sent.bytes),
        count(sent.reports),
        count(received.messages),
        count(received.chunks),
        count(received.bytes),
        count(received.reports),
    ]
}

/// PostgreSQL's text has no NUL.
fn for_column(kind: DatabaseKind, text: &str) -> String {
    if kind == DatabaseKind::Postgres { text.replace('\0', "\u{fffd}") } else { text.to_owned() }
}

fn at(unix: f64) -> String {
    let milliseconds = (unix * 1000.0).round().max(0.0) as u64;
    rfc3339(UNIX_EPOCH + Duration::from_millis(milliseconds))
}

/// An identifier, or several with dots, in quotes.
fn quoted(kind: DatabaseKind, name: &str) -> String {
    let quote = if kind == DatabaseKind::MySql { '`' } else { '"' };
    name.split('.').map(|part| format!("{quote}{part}{quote}")).collect::<Vec<_>>().join(".")
}

fn columns(kind: DatabaseKind) -> String {
    COLUMNS.map(|(name, _)| quoted(kind, name)).join(", ")
}

/// Writes a row, in the place of one with the same `id`.
pub(super) fn insert(kind: DatabaseKind, table: &str) -> String {
    let place = |(index, (name, _)): (usize, &(&str, &str))| match (kind, *name) {
        (DatabaseKind::Postgres, "began" | "ended") => format!("to_timestamp(${})", index + 1),
        (DatabaseKind::Postgres, _) => format!("${}", index + 1),
        _ => "?".to_owned(),
    };
    let places: Vec<_> = COLUMNS.iter().enumerate().map(place).collect();
    let new = |(name, _): &(&str, &str)| {
        let name = quoted(kind, name);
        if kind == DatabaseKind::MySql {
            format!("{name} = VALUES({name})")
        } else {
            format!("{name} = excluded.{name}")
        }
    };
    let new: Vec<_> = COLUMNS.iter().skip(1).map(new).collect();
    let on_conflict = if kind == DatabaseKind::MySql {
        "ON DUPLICATE KEY UPDATE".to_owned()
    } else {
        format!("ON CONFLICT ({}) DO UPDATE SET", quoted(kind, "id"))
    };
    format!(
        "INSERT INTO {} ({}) VALUES ({}) {on_conflict} {}",
        quoted(kind, table),
        columns(kind),
        places.join(", "),
        new.join(", ")
    )
}

/// Reads nothing; it fails where the table or a column is not there.
pub(super) fn probe(kind: DatabaseKind, table: &str) -> String {
    format!("SELECT {} FROM {} WHERE 1 = 0", columns(kind), quoted(kind, table))
}

/// Makes the table in SQLite.
pub(super) fn create(table: &str) -> String {
    let columns = COLUMNS.map(|(name, kind)| format!("{} {kind}", quoted(DatabaseKind::Sqlite, name)));
    let table = quoted(DatabaseKind::Sqlite, table);
    format!("CREATE TABLE IF NOT EXISTS {table} ({})", columns.join(", "))
}

/// The names of the columns that a table in SQLite has.
pub(super) fn columns_of(table: &str) -> String {
    match table.split_once('.') {
        Some((schema, table)) => format!("SELECT name FROM pragma_table_info('{table}', '{schema}')"),
        None => format!("SELECT name FROM pragma_table_info('{table}')"),
    }
}

/// Adds to a table in SQLite what it lacks.
pub(super) fn add_missing(table: &str, there: &[String]) -> Vec<String> {
    let table = quoted(DatabaseKind::Sqlite, table);
    let missing = COLUMNS.iter().skip(1).filter(|(name, _)| !there.iter().any(|known| known == name));
    missing
        .map(|(name, kind)| {
            format!("ALTER TABLE {table} ADD COLUMN {} {kind}", quoted(DatabaseKind::Sqlite, name))
        })
        .collect()
}

/// Whether an error is about what was to be written, so that it would be the same the next time.
pub(super) fn is_about_the_values(kind: DatabaseKind, error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let Some(code) = error.and_then(sqlx::error::DatabaseError::code) else { return false };
    match kind {
        // TOOBIG, CONSTRAINT, MISMATCH; further bits say which.
        DatabaseKind::Sqlite => code.parse().is_ok_and(|code: i32| matches!(code & 0xff, 18..=20)),
        // Data exceptions and violated constraints (SQLSTATE). MySQL has values out of range in HY000 too.
        DatabaseKind::Postgres | DatabaseKind::MySql => code.starts_with("22") || code.starts_with("23"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::tests::ended;
    use super::*;

    #[test]
    fn each_column_has_a_value_and_statements_are_in_the_dialect() {
        for kind in [DatabaseKind::Sqlite, DatabaseKind::Postgres, DatabaseKind::MySql] {
            assert_eq!(values(kind, &ended("s")).len(), COLUMNS.len());
        }
        let text = insert(DatabaseKind::Postgres, "cdr.sessions");
        assert!(text.starts_with("INSERT INTO \"cdr\".\"sessions\" (\"id\", \"session\", "), "{text}");
        assert!(
            text.contains("VALUES ($1, $2, ") && text.contains("$12, to_timestamp($13), $14, "),
            "{text}"
        );
        assert!(
            text.contains("ON CONFLICT (\"id\") DO UPDATE SET \"session\" = excluded.\"session\", "),
            "{text}"
        );
        let text = insert(DatabaseKind::MySql, "sessions");
        assert!(text.contains("VALUES (?, ?, "), "{text}");
        assert!(text.contains("ON DUPLICATE KEY UPDATE `session` = VALUES(`session`), "), "{text}");
        let times = values(DatabaseKind::MySql, &ended("s"));
        assert_eq!(times[12], Value::Text("2023-11-14 22:13:20.250".into()));
        assert_eq!(
            values(DatabaseKind::Sqlite, &ended("s"))[12],
            Value::Text("2023-11-14T22:13:20.250Z".into())
        );
    }
}
