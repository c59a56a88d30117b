//! One pool of connections to one of the three databases.

use std::sync::Arc;

use msrp_proto::digest::{Algorithm, Ha1};
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
    /// Nobody can have that name.
    #[error("a user name has at most 256 bytes, and no `:`, quotes, backslashes or control characters")]
    Name,
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::Timeout,
            error @ sqlx::Error::Database(_) => Self::Query(Arc::new(error)),
            error => Self::Connection(Arc::new(error)),
        }
    }
}

/// A user to be written.
#[derive(Clone, Copy)]
pub struct NewUser<'a> {
    /// The user name.
    pub name: &'a str,
    /// The realm, which goes into the hashes and the domain column.
    pub realm: &'a str,
    /// The password.
    pub password: &'a str,
}

impl std::fmt::Debug for NewUser<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewUser")
            .field("name", &self.name)
            .field("realm", &self.realm)
            .finish_non_exhaustive()
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
            Store::Sqlite($pool) => $action,
            Store::Postgres($pool) => $action,
            Store::MySql($pool) => $action,
        }
    };
}

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

    /// The row of exactly this user, if there is one.
    pub(super) async fn find(
        &self,
        settings: &DatabaseSettings,
        user: &str,
        realm: &str,
    ) -> Result<Option<Row>, DatabaseError> {
        let text = sql::select(settings);
        on_pool!(self, pool => {
            let mut query = sqlx::query(&text).bind(user);
            if settings.use_domain {
                query = query.bind(realm);
            }
            for row in query.fetch_all(pool).await? {
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

    pub(super) async fn create(&self, settings: &DatabaseSettings) -> Result<(), DatabaseError> {
        if let Self::Sqlite(pool) = self {
            sqlx::query(&sql::create(settings)).execute(pool).await?;
        }
        Ok(())
    }

    pub(super) async fn add(
        &self,
        settings: &DatabaseSettings,
        user: &NewUser<'_>,
    ) -> Result<(), DatabaseError> {
        let text = sql::insert(settings);
        on_pool!(self, pool => {
            let mut query = sqlx::query(&text).bind(user.name).bind(user.realm);
            for value in secrets(settings, user) {
                query = query.bind(value);
            }
            query.execute(pool).await?;
        });
        Ok(())
    }

    pub(super) async fn set_password(
        &self,
        settings: &DatabaseSettings,
        user: &NewUser<'_>,
    ) -> Result<(), DatabaseError> {
        let text = sql::update(settings);
        on_pool!(self, pool => {
            let mut query = sqlx::query(&text);
            for value in secrets(settings, user) {
                query = query.bind(value);
            }
            query = query.bind(user.name);
            if settings.use_domain {
                query = query.bind(user.realm);
            }
            query.execute(pool).await?;
        });
        Ok(())
    }

    pub(super) async fn remove(
        &self,
        settings: &DatabaseSettings,
        user: &str,
        realm: &str,
    ) -> Result<(), DatabaseError> {
        let text = sql::delete(settings);
        on_pool!(self, pool => {
            let mut query = sqlx::query(&text).bind(user);
            if settings.use_domain {
                query = query.bind(realm);
            }
            query.execute(pool).await?;
        });
        Ok(())
    }

    pub(super) async fn list(
        &self,
        settings: &DatabaseSettings,
        realm: &str,
    ) -> Result<Vec<String>, DatabaseError> {
        let text = sql::list(settings);
        on_pool!(self, pool => {
            let mut query = sqlx::query(&text);
            if settings.use_domain {
                query = query.bind(realm);
            }
            let rows = query.fetch_all(pool).await?;
            Ok(rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<_, _>>()?)
        })
    }
}

/// What is written of a password, in the order of its columns.
fn secrets(settings: &DatabaseSettings, user: &NewUser<'_>) -> Vec<String> {
    let hash =
        |algorithm| Ha1::from_password(algorithm, user.name, user.realm, user.password).as_hex().to_owned();
    if settings.calculate_ha1 {
        return vec![user.password.to_owned()];
    }
    let sha256 = settings.hash_column_sha256.is_some().then(|| hash(Algorithm::Sha256));
    let sha512 = settings.hash_column_sha512.is_some().then(|| hash(Algorithm::Sha512_256));
    [Some(hash(Algorithm::Md5)), sha256, sha512].into_iter().flatten().collect()
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
