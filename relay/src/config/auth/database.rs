//! `auth.database`: where the users' table is, and what its columns are called.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use msrp_proto::digest::Algorithm;
use serde::{Deserialize, Deserializer};
use sqlx::ConnectOptions as _;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::config::Check;
use crate::config::error::KeyPath;
use crate::config::value::{FileSecret, count, duration, duration_or_zero, from_text};

/// A database of users. Names of keys and defaults are those of `auth_db` in OpenSIPS and Kamailio.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// Where it is.
    pub url: DatabaseUrl,
    /// The table. Default `subscriber`.
    pub table: String,
    /// The column with the user name. Default `username`.
    pub user_column: String,
    /// The column with the domain, which is the realm here. Default `domain`.
    pub domain_column: String,
    /// The column with the MD5 hash, default `ha1`; with `calculate_ha1` that with the password, default `password`.
    pub password_column: String,
    /// The column with the SHA-256 hash. Default `ha1_sha256` where SHA-256 is offered; else none.
    pub hash_column_sha256: Option<String>,
    /// The column with the SHA-512-256 hash. Default `ha1_sha512t256` where that is offered; else none.
    pub hash_column_sha512: Option<String>,
    /// The columns with the users' own limits. Default: none.
    pub limits: LimitColumns,
    /// The table has passwords, of which the hashes are made here. Default false.
    pub calculate_ha1: bool,
    /// The domain column has to be the realm. Default false: there are only users of this realm.
    pub use_domain: bool,
    /// The most connections to it. Default 4.
    pub pool_size: usize,
    /// How long an answer may take, connecting included; then the database is away. Default 3 s.
    pub timeout: Duration,
    /// What is remembered of it.
    pub cache: CredentialCache,
}

/// The columns with the users' own limits: see [`UserLimits`](crate::config::UserLimits).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitColumns {
    /// Of `sessions`.
    pub sessions: Option<String>,
    /// Of `message_size`, in bytes.
    pub message_size: Option<String>,
    /// Of `messages_per_second`.
    pub messages_per_second: Option<String>,
    /// Of `bytes_per_second`, in bytes.
    pub bytes_per_second: Option<String>,
}

/// What is remembered of a database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialCache {
    /// The most users, those included that are not there. Default 10000, about 5 MiB.
    #[serde(deserialize_with = "count")]
    pub size: usize,
    /// How long a user is good for, and can still get in when the database is away; `0s`: not at all. Default 60 s. A
    /// user who has been removed can get in for so long.
    #[serde(deserialize_with = "duration_or_zero")]
    pub expire: Duration,
    /// How long it counts that there is no such user; `0s`: not at all. Default 5 s.
    #[serde(deserialize_with = "duration_or_zero")]
    pub negative_expire: Duration,
}

impl Default for CredentialCache {
    fn default() -> Self {
        Self { size: 10_000, expire: Duration::from_secs(60), negative_expire: Duration::from_secs(5) }
    }
}

impl DatabaseSettings {
    /// Whether it can have hashes of that algorithm.
    pub fn serves(&self, algorithm: Algorithm) -> bool {
        self.calculate_ha1
            || match algorithm {
                Algorithm::Md5 => true,
                Algorithm::Sha256 => self.hash_column_sha256.is_some(),
                Algorithm::Sha512_256 => self.hash_column_sha512.is_some(),
            }
    }

    /// The columns with limits, in the order of [`UserLimits`](crate::config::UserLimits).
    pub(crate) fn limit_columns(&self) -> [Option<&str>; 4] {
        let LimitColumns { sessions, message_size, messages_per_second, bytes_per_second } = &self.limits;
        [sessions, message_size, messages_per_second, bytes_per_second].map(Option::as_deref)
    }
}

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
        Ok(Self { shown: format!("{scheme}:{place}"), options })
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
struct Identifier(String);

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

impl<'de> Deserialize<'de> for Identifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the name of a table or column")
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FileDatabase {
    url: FileSecret,
    #[serde(default)]
    table: Option<Identifier>,
    #[serde(default)]
    user_column: Option<Identifier>,
    #[serde(default)]
    domain_column: Option<Identifier>,
    #[serde(default)]
    password_column: Option<Identifier>,
    #[serde(default)]
    hash_column_sha256: Option<Identifier>,
    #[serde(default)]
    hash_column_sha512: Option<Identifier>,
    #[serde(default)]
    sessions_column: Option<Identifier>,
    #[serde(default)]
    message_size_column: Option<Identifier>,
    #[serde(default)]
    messages_per_second_column: Option<Identifier>,
    #[serde(default)]
    bytes_per_second_column: Option<Identifier>,
    #[serde(default)]
    calculate_ha1: bool,
    #[serde(default)]
    use_domain: bool,
    #[serde(default = "pool_size", deserialize_with = "count")]
    pool_size: usize,
    #[serde(default = "timeout", deserialize_with = "duration")]
    timeout: Duration,
    #[serde(default)]
    cache: CredentialCache,
}

fn pool_size() -> usize {
    4
}

fn timeout() -> Duration {
    Duration::from_secs(3)
}

impl FileDatabase {
    pub(super) fn validate(
        self,
        algorithms: &[Algorithm],
        path: &KeyPath,
        check: &mut Check<'_>,
    ) -> Option<DatabaseSettings> {
        if self.pool_size > 1000 {
            check.error(path.clone().key("pool_size"), "goes from 1 to 1000");
        }
        if self.timeout > Duration::from_secs(20) {
            check.error(
                path.clone().key("timeout"),
                "is longer than 20s: a client does not wait for an AUTH much longer",
            );
        }
        if self.cache.size > 100_000_000 || self.cache.size < 2 {
            check.error(path.clone().key("cache").key("size"), "goes from 2 to 100000000");
        }
        if self.calculate_ha1 {
            for (key, column) in [
                ("hash_column_sha256", &self.hash_column_sha256),
                ("hash_column_sha512", &self.hash_column_sha512),
            ] {
                if column.is_some() {
                    check.error(
                        path.clone().key(key),
                        "is not used with `calculate_ha1`, which makes all hashes of the password",
                    );
                }
            }
        }
        let name = |given: Option<Identifier>, default: &str| {
            given.map_or(default.to_owned(), |Identifier(name)| name)
        };
        let hash = |given: Option<Identifier>, algorithm, default| {
            let wanted = given.is_some() || algorithms.contains(&algorithm);
            (wanted && !self.calculate_ha1).then(|| name(given, default))
        };
        let limit = |given: Option<Identifier>| given.map(|Identifier(name)| name);
        let path = path.clone().key("url");
        let url = check.secret(self.url, &path)?;
        let url = DatabaseUrl::parse(url.reveal(), check.base_dir);
        let url = url.map_err(|message| check.error(path, message)).ok()?;
        Some(DatabaseSettings {
            url,
            table: name(self.table, "subscriber"),
            user_column: name(self.user_column, "username"),
            domain_column: name(self.domain_column, "domain"),
            password_column: name(self.password_column, if self.calculate_ha1 { "password" } else { "ha1" }),
            hash_column_sha256: hash(self.hash_column_sha256, Algorithm::Sha256, "ha1_sha256"),
            hash_column_sha512: hash(self.hash_column_sha512, Algorithm::Sha512_256, "ha1_sha512t256"),
            limits: LimitColumns {
                sessions: limit(self.sessions_column),
                message_size: limit(self.message_size_column),
                messages_per_second: limit(self.messages_per_second_column),
                bytes_per_second: limit(self.bytes_per_second_column),
            },
            calculate_ha1: self.calculate_ha1,
            use_domain: self.use_domain,
            pool_size: self.pool_size,
            timeout: self.timeout,
            cache: self.cache,
        })
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
