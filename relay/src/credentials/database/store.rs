//! One pool of connections to one of the three databases.

use std::sync::Arc;

use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{Database, Row as _};

use super::sql;
use crate::config::{ConnectOptions, DatabaseSettings, UserLimits};

/// What can be wrong with a database.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// It cannot be reached, or breaks off.
    #[error("{0}")]
    Connection(Arc<sqlx::Error>),
    /// It does not do what it is asked.
    #[error("{0}")]
    Query(Arc<sqlx::Error>),
    /// It takes longer than `auth.database.timeout`.
    #[error("no answer in time")]
    Timeout,
    /// There is such a user already.
    #[error("there is such a user already")]
    Exists,
    /// There is no such user.
    #[error("there is no such user")]
    Unknown,
    /// Several rows have that name; in these domains.
    #[error("several rows have that user name, in the domains {}: `--domain` says which one is meant", .0.join(", "))]
    Several(Vec<String>),
    /// Several rows have that name and domain, or that are the same to the database.
    #[error("several rows have that user name and domain; nothing was changed")]
    Alike,
    /// With `use_domain` there is only this one.
    #[error("with `auth.database.use_domain` there are only users of the domain {0}")]
    OtherDomain(String),
    /// Nobody can have that name.
    #[error("a user name has at most 256 bytes, and no `:`, quotes, backslashes or control characters")]
    Name,
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            // It could not be connected to in time: `Database` asks the pool for no more than it has.
            sqlx::Error::PoolTimedOut => Self::Timeout,
            error @ sqlx::Error::Database(_) => Self::Query(Arc::new(error)),
            error => Self::Connection(Arc::new(error)),
        }
    }
}

/// A user's row: the columns after the name, in this order.
#[derive(Default)]
pub(super) struct Row {
    /// The MD5 hash, or with `calculate_ha1` the password.
    pub(super) password: Option<String>,
    pub(super) sha256: Option<String>,
    pub(super) sha512_256: Option<String>,
    pub(super) limits: UserLimits,
}

pub(super) enum Store {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    MySql(MySqlPool),
}

/// The same for each of them: sqlx has a type of its own for each.
macro_rules! on_pool {
    ($store:expr, $pool:ident => $action:expr) => {
        match $store {
            $crate::credentials::database::store::Store::Sqlite($pool) => $action,
            $crate::credentials::database::store::Store::Postgres($pool) => $action,
            $crate::credentials::database::store::Store::MySql($pool) => $action,
        }
    };
}

pub(super) use on_pool;

impl Store {
    /// Opens nothing yet: connections are made when they are needed. It needs a tokio runtime.
    pub(super) fn open(settings: &DatabaseSettings) -> Self {
        match settings.url.options() {
            ConnectOptions::Sqlite(options) => {
                Self::Sqlite(with(settings, SqlitePoolOptions::new()).connect_lazy_with(options))
            }
            ConnectOptions::Postgres(options) => {
                Self::Postgres(with(settings, PgPoolOptions::new()).connect_lazy_with(options))
            }
            ConnectOptions::MySql(options) => {
                Self::MySql(with(settings, MySqlPoolOptions::new()).connect_lazy_with(options))
            }
        }
    }

    /// The row of exactly this user, if there is one. It takes `timeout`, connecting included.
    pub(super) async fn find(
        &self,
        settings: &DatabaseSettings,
        user: &str,
        realm: &str,
    ) -> Result<Option<Row>, DatabaseError> {
        let text = sql::select(settings);
        let end = tokio::time::Instant::now() + settings.timeout;
        on_pool!(self, pool => {
            let mut connection = pool.acquire().await?;
            let mut query = sqlx::query(&text).bind(user);
            if settings.use_domain {
                query = query.bind(realm);
            }
            let Ok(rows) = tokio::time::timeout_at(end, query.fetch_all(&mut *connection)).await else {
                // Closed without a farewell, for which the pool would wait as long as the database is silent.
                drop(connection.detach());
                return Err(DatabaseError::Timeout);
            };
            for row in rows? {
                let column = |index: usize| row.try_get::<Option<String>, _>(index);
                if column(0)?.as_deref() != Some(user) {
                    continue;
                }
                let number = |index| Ok::<_, sqlx::Error>(column(index)?.and_then(|text| text.trim().parse().ok()));
                return Ok(Some(Row {
                    password: column(1)?,
                    sha256: column(2)?,
                    sha512_256: column(3)?,
                    limits: UserLimits::of_columns([number(4)?, number(5)?, number(6)?, number(7)?]),
                }));
            }
            Ok(None)
        })
    }
}

fn with<D: Database>(settings: &DatabaseSettings, options: PoolOptions<D>) -> PoolOptions<D> {
    let size = u32::try_from(settings.pool_size).unwrap_or(u32::MAX);
    options.max_connections(size).acquire_timeout(settings.timeout)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_pool_is_as_large_and_as_patient_as_configured() {
        let text = "domain: a\nlisteners: [ { uri: 'msrp://127.0.0.1:0' } ]\n\
                    auth: { database: { url: 'sqlite:x', pool_size: 7, timeout: 2s } }\n";
        let config =
            Config::parse(text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        let options = with(&config.auth.database.unwrap(), PgPoolOptions::new());
        assert_eq!(options.get_max_connections(), 7);
        assert_eq!(options.get_acquire_timeout(), Duration::from_secs(2));
    }
}
