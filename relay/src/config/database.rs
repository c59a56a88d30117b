//! Where a database is, and the names in it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use sqlx::ConnectOptions as _;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::value::{Secret, from_text};

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// SQLite: a file.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MySQL, or MariaDB.
    MySql,
}

/// How to connect, for the driver.
#[derive(Clone)]
pub(crate) enum ConnectOptions {
    Sqlite(SqliteConnectOptions),
    Postgres(PgConnectOptions),
    MySql(MySqlConnectOptions),
}

/// Where a database is. It is shown without user, password and parameters.
#[derive(Clone)]
pub struct DatabaseUrl {
    shown: String,
    options: ConnectOptions,
    /// As it was written, to compare with.
    text: Secret,
}

impl PartialEq for DatabaseUrl {
    fn eq(&self, other: &Self) -> bool {
        self.shown == other.shown && self.text == other.text
    }
}

impl DatabaseUrl {
    /// `sqlite:FILE`, `postgres://USER:PASSWORD@HOST/DATABASE` or `mysql://…`; a file is relative to `base_dir`.
    ///
    /// # Errors
    /// What is wrong with it. The URL is not quoted.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Self, String> {
        let wrong = |error: sqlx::Error| format!("is not the URL of a database: {error}");
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        let options = match scheme {
            "sqlite" => {
                let options = SqliteConnectOptions::from_str(text).map_err(wrong)?;
                let file = options.get_filename().to_path_buf();
                let in_memory = file.as_os_str().is_empty() || text.contains(":memory:");
                if in_memory {
                    return Err("names no file".to_owned());
                }
                ConnectOptions::Sqlite(options.filename(base_dir.join(file)).disable_statement_logging())
            }
            "postgres" | "postgresql" if rest.starts_with("//") => {
                let options = PgConnectOptions::from_str(text).map_err(wrong)?;
                ConnectOptions::Postgres(options.application_name("msrp-relay").disable_statement_logging())
            }
            "mysql" | "mariadb" if rest.starts_with("//") => {
                let options = MySqlConnectOptions::from_str(text).map_err(wrong)?;
                ConnectOptions::MySql(options.disable_statement_logging())
            }
            _ => return Err("is no URL that begins with `sqlite:`, `postgres://` or `mysql://`".to_owned()),
        };
        let place = rest.split('?').next().unwrap_or_default();
        let place = place.rsplit_once('@').map_or(place.trim_start_matches('/'), |(_, place)| place);
        Ok(Self { shown: format!("{scheme}:{place}"), options, text: Secret::new(text.to_owned()) })
    }

    /// Which database it is.
    pub fn kind(&self) -> DatabaseKind {
        match self.options {
            ConnectOptions::Sqlite(_) => DatabaseKind::Sqlite,
            ConnectOptions::Postgres(_) => DatabaseKind::Postgres,
            ConnectOptions::MySql(_) => DatabaseKind::MySql,
        }
    }

    /// The same, and a file of SQLite is made where there is none.
    #[must_use]
    pub fn create_if_missing(self) -> Self {
        let options = match self.options {
            ConnectOptions::Sqlite(options) => ConnectOptions::Sqlite(options.create_if_missing(true)),
            other => other,
        };
        Self { options, ..self }
    }

    /// The file of SQLite.
    pub fn file(&self) -> Option<PathBuf> {
        match &self.options {
            ConnectOptions::Sqlite(options) => Some(options.get_filename().to_path_buf()),
            _ => None,
        }
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        self.options.clone()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({})", self.shown)
    }
}

/// A name that goes into a statement as it is: letters, digits and `_`; a table may have a schema before a dot.
#[derive(Debug, Clone)]
pub(in crate::config) struct Identifier(String);

impl FromStr for Identifier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |part: &str| {
            part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && part.len() <= 63
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if text.split('.').all(part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{text}` is not a name of letters, digits and `_`"))
        }
    }
}

impl Identifier {
    pub(in crate::config) fn into_name(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for Identifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the name of a table or column")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<DatabaseUrl, String> {
        DatabaseUrl::parse(text, Path::new("/etc/msrp-relay"))
    }

    #[test]
    fn a_url_says_which_database_and_is_shown_without_secrets() {
        for (text, kind, shown) in [
            ("sqlite:users.db", DatabaseKind::Sqlite, "sqlite:users.db"),
            ("sqlite:///var/users.db", DatabaseKind::Sqlite, "sqlite:var/users.db"),
            ("postgres://relay:s3cret@db.test:5433/sip", DatabaseKind::Postgres, "postgres:db.test:5433/sip"),
            ("postgresql:///sip?host=/run/x&password=s3cret", DatabaseKind::Postgres, "postgresql:sip"),
            ("mysql://relay:s3%40cret@db.test/sip", DatabaseKind::MySql, "mysql:db.test/sip"),
            ("mariadb://relay:s3cret@db.test/sip", DatabaseKind::MySql, "mariadb:db.test/sip"),
        ] {
            let url = url(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.kind(), url.to_string().as_str()), (kind, shown), "{text}");
            assert!(!format!("{url:?}{url}").contains("cret"), "{url:?}");
        }
        for bad in
            ["", "users.db", "oracle://s3cret@db", "sqlite::memory:", "postgres://a:s3cret@[", "mysql:s3cret"]
        {
            let error = url(bad).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn names_are_plain_identifiers() {
        for good in ["subscriber", "_x1", "sip.subscriber"] {
            assert!(good.parse::<Identifier>().is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in ["", "1a", "a b", "a;b", "a\"b", "a`b", "a--", "é", "a.", ".a", "a..b", long.as_str()] {
            assert!(bad.parse::<Identifier>().is_err(), "{bad}");
        }
    }
}
