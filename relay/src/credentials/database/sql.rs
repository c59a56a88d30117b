//! The statements, in the dialect of each database. Names are identifiers from the configuration; values are bound.

use std::fmt::Write as _;

use crate::config::{DatabaseKind, DatabaseSettings};

/// The most rows looked at for one user: those that differ in case, and those of several domains.
const MAX_ROWS: usize = 16;

impl DatabaseKind {
    /// An identifier, or several with dots, in quotes.
    fn quoted(self, name: &str) -> String {
        let quote = if self == Self::MySql { '`' } else { '"' };
        name.split('.').map(|part| format!("{quote}{part}{quote}")).collect::<Vec<_>>().join(".")
    }

    /// The place of the bound value of this number, from 1.
    fn place(self, number: usize) -> String {
        if self == Self::Postgres { format!("${number}") } else { "?".to_owned() }
    }

    /// A column as text, whatever its type is.
    fn text(self, column: &str) -> String {
        let kind = if self == Self::MySql { "CHAR" } else { "TEXT" };
        format!("CAST({} AS {kind})", self.quoted(column))
    }
}

/// `WHERE` for one user: binds the name, and with `use_domain` the realm.
fn of_user(settings: &DatabaseSettings, first: usize) -> String {
    let kind = settings.url.kind();
    let mut text = format!(" WHERE {} = {}", kind.quoted(&settings.user_column), kind.place(first));
    if settings.use_domain {
        let _ = write!(text, " AND {} = {}", kind.quoted(&settings.domain_column), kind.place(first + 1));
    }
    text
}

/// The columns with hashes: of MD5 or the password itself, of SHA-256, of SHA-512-256.
fn secrets(settings: &DatabaseSettings) -> [Option<&str>; 3] {
    let (sha256, sha512) = if settings.calculate_ha1 {
        (None, None)
    } else {
        (settings.hash_column_sha256.as_deref(), settings.hash_column_sha512.as_deref())
    };
    [Some(&settings.password_column), sha256, sha512]
}

/// One user: the name, and what [`Row`](super::store::Row) has, in its order; `NULL` for columns there are none of.
pub(super) fn select(settings: &DatabaseSettings) -> String {
    let kind = settings.url.kind();
    let limits = settings.limit_columns();
    let columns = secrets(settings).into_iter().chain(limits);
    let column = |column: Option<&str>| column.map_or("NULL".to_owned(), |column| kind.text(column));
    let columns: Vec<_> = columns.map(column).collect();
    format!(
        "SELECT {}, {} FROM {}{} LIMIT {MAX_ROWS}",
        kind.text(&settings.user_column),
        columns.join(", "),
        kind.quoted(&settings.table),
        of_user(settings, 1)
    )
}

/// The columns of a new user's password, with its values in the order of [`secrets`].
fn written(settings: &DatabaseSettings) -> impl Iterator<Item = &str> {
    secrets(settings).into_iter().flatten()
}

/// A new user: binds the name, the domain, and what is [`written`].
pub(super) fn insert(settings: &DatabaseSettings) -> String {
    let kind = settings.url.kind();
    let columns: Vec<_> = [&*settings.user_column, &*settings.domain_column]
        .into_iter()
        .chain(written(settings))
        .map(|column| kind.quoted(column))
        .collect();
    let places: Vec<_> = (1..=columns.len()).map(|number| kind.place(number)).collect();
    format!(
        "INSERT INTO {} ({}) VALUES ({})",
        kind.quoted(&settings.table),
        columns.join(", "),
        places.join(", ")
    )
}

/// The names and domains of the rows that may be a user's: binds the name.
pub(super) fn rows(settings: &DatabaseSettings) -> String {
    let kind = settings.url.kind();
    format!(
        "SELECT {}, {} FROM {} WHERE {} = {} LIMIT {MAX_ROWS}",
        kind.text(&settings.user_column),
        kind.text(&settings.domain_column),
        kind.quoted(&settings.table),
        kind.quoted(&settings.user_column),
        kind.place(1)
    )
}

/// `WHERE` for one row: binds the name and the domain, which is empty where there is none.
fn of_row(settings: &DatabaseSettings, first: usize) -> String {
    let kind = settings.url.kind();
    format!(
        " WHERE {} = {} AND COALESCE({}, '') = {}",
        kind.quoted(&settings.user_column),
        kind.place(first),
        kind.quoted(&settings.domain_column),
        kind.place(first + 1)
    )
}

/// All columns of a row, for their names: binds it as [`of_row`] does.
pub(super) fn columns(settings: &DatabaseSettings) -> String {
    format!("SELECT * FROM {}{} LIMIT 1", settings.url.kind().quoted(&settings.table), of_row(settings, 1))
}

/// Another password: binds its values for `columns`, each of which is written always or where it is not empty, then the
/// row as [`of_row`] does.
pub(super) fn update(settings: &DatabaseSettings, columns: &[(&str, bool)]) -> String {
    let kind = settings.url.kind();
    let sets: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(index, (column, always))| {
            let (column, place) = (kind.quoted(column), kind.place(index + 1));
            if *always {
                format!("{column} = {place}")
            } else {
                format!("{column} = CASE WHEN COALESCE({column}, '') = '' THEN {column} ELSE {place} END")
            }
        })
        .collect();
    let table = kind.quoted(&settings.table);
    format!("UPDATE {table} SET {}{}", sets.join(", "), of_row(settings, columns.len() + 1))
}

/// Removes a user: binds its row as [`of_row`] does.
pub(super) fn delete(settings: &DatabaseSettings) -> String {
    format!("DELETE FROM {}{}", settings.url.kind().quoted(&settings.table), of_row(settings, 1))
}

/// All users; with `use_domain` it binds the realm.
pub(super) fn list(settings: &DatabaseSettings) -> String {
    let kind = settings.url.kind();
    let name = kind.text(&settings.user_column);
    let table = kind.quoted(&settings.table);
    let mut text = format!("SELECT {name} FROM {table}");
    if settings.use_domain {
        let _ = write!(text, " WHERE {} = {}", kind.quoted(&settings.domain_column), kind.place(1));
    }
    text + " ORDER BY 1"
}

/// The table of OpenSIPS and Kamailio, with the columns that are used here.
pub(super) fn create(settings: &DatabaseSettings) -> String {
    let kind = settings.url.kind();
    let (user, domain) = (kind.quoted(&settings.user_column), kind.quoted(&settings.domain_column));
    let mut text = format!(
        "CREATE TABLE IF NOT EXISTS {} (id INTEGER PRIMARY KEY, {user} TEXT NOT NULL, {domain} TEXT NOT NULL DEFAULT ''",
        kind.quoted(&settings.table)
    );
    for column in written(settings) {
        let _ = write!(text, ", {} TEXT NOT NULL DEFAULT ''", kind.quoted(column));
    }
    for column in settings.limit_columns().into_iter().flatten() {
        let _ = write!(text, ", {} INTEGER", kind.quoted(column));
    }
    text + &format!(", UNIQUE ({user}, {domain}))")
}
