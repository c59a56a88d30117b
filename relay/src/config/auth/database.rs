//! `auth.database`: where the users' table is, and what its columns are called.

use std::time::Duration;

use msrp_proto::digest::Algorithm;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Check;
use crate::config::database::{DatabaseUrl, Identifier};
use crate::config::error::KeyPath;
use crate::config::form;
use crate::config::value::{FileSecret, count, duration, duration_or_zero};

/// More often, the database would do little else.
const MIN_PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Less often, users would be let in from the cache for long after the database is gone.
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// A database of users. Names of keys and defaults are those of `auth_db` in OpenSIPS and Kamailio.
#[derive(Debug, Clone, PartialEq)]
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
    /// How long an answer may take, connecting included; then the database is away. As long a lookup waits for one of
    /// the connections to be free; then it has no answer, and the database is not away. Default 3 s.
    pub timeout: Duration,
    /// How often the database is asked whether it is there; while it is away, every second at least. Default 5 s.
    pub probe_interval: Duration,
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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialCache {
    /// The most users, those included that are not there. Default 10000, about 5 MiB.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub size: usize,
    /// How long a user is good for while the database is there; `0s`: not at all. Default 60 s. A user who has been
    /// removed can get in for so long.
    #[serde(deserialize_with = "duration_or_zero")]
    #[schemars(with = "form::DurationOrZero")]
    pub expire: Duration,
    /// How long it counts that there is no such user; `0s`: not at all. Default 5 s.
    #[serde(deserialize_with = "duration_or_zero")]
    #[schemars(with = "form::DurationOrZero")]
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

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FileDatabase {
    /// Where it is. A file of SQLite is relative to the configuration.
    #[schemars(with = "form::DatabaseUrl")]
    url: FileSecret,
    /// The table.
    #[serde(default)]
    #[schemars(with = "form::Identifier", extend("default" = "subscriber"))]
    table: Option<Identifier>,
    /// The column with the user name.
    #[serde(default)]
    #[schemars(with = "form::Identifier", extend("default" = "username"))]
    user_column: Option<Identifier>,
    /// The column with the domain, which is the realm here.
    #[serde(default)]
    #[schemars(with = "form::Identifier", extend("default" = "domain"))]
    domain_column: Option<Identifier>,
    /// The column with the MD5 hash; with `calculate_ha1` the one with the password. Default: `ha1`, or `password`.
    #[serde(default)]
    #[schemars(with = "form::Identifier")]
    password_column: Option<Identifier>,
    /// The column with the SHA-256 hash. Default: `ha1_sha256` if `algorithms` has SHA-256, else none.
    #[serde(default)]
    #[schemars(with = "form::Identifier")]
    hash_column_sha256: Option<Identifier>,
    /// The column with the SHA-512-256 hash. Default: `ha1_sha512t256` if `algorithms` has it, else none.
    #[serde(default)]
    #[schemars(with = "form::Identifier")]
    hash_column_sha512: Option<Identifier>,
    /// The column with the user's own `sessions` of [`limits.user`](#limitsuser), a number. Default: none.
    #[serde(default)]
    #[schemars(with = "form::Identifier")]
    sessions_column: Option<Identifier>,
    /// The column with the user's own `message_size`, in bytes. Default: none.
    #[serde(default)]
    #[schemars(with = "form::Identifier")]
    message_size_column: Option<Identifier>,
    /// The column with the user's own `messages_per_second`. Default: none.
    #[serde(default)]
    #[schemars(with = "form::Identifier")]
    messages_per_second_column: Option<Identifier>,
    /// The column with the user's own `bytes_per_second`, in bytes. Default: none.
    #[serde(default)]
    #[schemars(with = "form::Identifier")]
    bytes_per_second_column: Option<Identifier>,
    /// Whether the table has passwords, of which the hashes are made here, for every algorithm.
    #[serde(default)]
    calculate_ha1: bool,
    /// Whether the domain column has to be the realm.
    #[serde(default)]
    use_domain: bool,
    /// The most connections to it, up to 1000.
    #[serde(default = "pool_size", deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pool_size: usize,
    /// How long an answer may take, connecting included, up to 20 s; then the database is away until it answers
    /// again.
    #[serde(default = "timeout", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    timeout: Duration,
    /// How often the database is asked whether it is there, 100 ms to 60 s: that it is away is known before somebody
    /// asks for a user.
    #[serde(default = "probe_interval", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    probe_interval: Duration,
    /// What is remembered of it.
    #[serde(default)]
    cache: CredentialCache,
}

fn pool_size() -> usize {
    4
}

fn timeout() -> Duration {
    Duration::from_secs(3)
}

fn probe_interval() -> Duration {
    Duration::from_secs(5)
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
        if self.probe_interval < MIN_PROBE_INTERVAL || self.probe_interval > MAX_PROBE_INTERVAL {
            check.error(path.clone().key("probe_interval"), "goes from 100ms to 1m");
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
            given.map_or(default.to_owned(), Identifier::into_name)
        };
        let hash = |given: Option<Identifier>, algorithm, default| {
            let wanted = given.is_some() || algorithms.contains(&algorithm);
            (wanted && !self.calculate_ha1).then(|| name(given, default))
        };
        let limit = |given: Option<Identifier>| given.map(Identifier::into_name);
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
            probe_interval: self.probe_interval,
            cache: self.cache,
        })
    }
}
