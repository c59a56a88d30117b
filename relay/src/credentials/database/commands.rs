//! What `msrp-relay user` does: users are written here, and nowhere else.
//!
//! A change is made to one row, or to none: in a transaction, which is taken back if the database changes more than one.
//!
//! # All secrets of a row
//!
//! The `subscriber` tables that there are keep up to five secrets of a user ([`COMMON`]), and which of them a server
//! looks at is its own setting. A new password is written to the columns of the configuration, and to each of the others
//! that the table has, where it is not empty: else the old password would go on working elsewhere, or here after
//! another setting. An empty one stays empty, so that no password is written where there were only hashes.

use msrp_proto::digest::{Algorithm, Ha1};
use sqlx::{Column as _, Row as _};

use super::store::{DatabaseError, on_pool};
use super::{Database, is_name, sql};
use crate::config::DatabaseSettings;

/// A user to be written.
#[derive(Clone, Copy)]
pub struct NewUser<'a> {
    /// The user name.
    pub name: &'a str,
    /// The realm, which goes into the hashes.
    pub realm: &'a str,
    /// The domain of the row. A new one has the realm if this is not given; of those that are there, it says which.
    pub domain: Option<&'a str>,
    /// The password.
    pub password: &'a str,
}

impl std::fmt::Debug for NewUser<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewUser")
            .field("name", &self.name)
            .field("realm", &self.realm)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// What a column keeps of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Password,
    Hash(Algorithm),
    /// The MD5 hash for clients that call themselves `user@domain`.
    HashWithDomain,
}

/// The columns that OpenSIPS and Kamailio keep secrets in, unless told otherwise.
const COMMON: [(&str, Kept); 5] = [
    ("password", Kept::Password),
    ("ha1", Kept::Hash(Algorithm::Md5)),
    ("ha1b", Kept::HashWithDomain),
    ("ha1_sha256", Kept::Hash(Algorithm::Sha256)),
    ("ha1_sha512t256", Kept::Hash(Algorithm::Sha512_256)),
];

impl Kept {
    fn of(self, user: &NewUser<'_>, domain: &str) -> String {
        let NewUser { name, realm, password, .. } = *user;
        let hash =
            |algorithm, name: &str| Ha1::from_password(algorithm, name, realm, password).as_hex().to_owned();
        match self {
            Self::Password => password.to_owned(),
            Self::Hash(algorithm) => hash(algorithm, name),
            Self::HashWithDomain => hash(Algorithm::Md5, &format!("{name}@{domain}")),
        }
    }
}

/// The columns that the relay looks at itself, in the order of their statements.
fn configured(settings: &DatabaseSettings) -> Vec<(&str, Kept)> {
    let password = &*settings.password_column;
    if settings.calculate_ha1 {
        return vec![(password, Kept::Password)];
    }
    let columns = [
        (Some(password), Algorithm::Md5),
        (settings.hash_column_sha256.as_deref(), Algorithm::Sha256),
        (settings.hash_column_sha512.as_deref(), Algorithm::Sha512_256),
    ];
    columns.into_iter().filter_map(|(column, algorithm)| Some((column?, Kept::Hash(algorithm)))).collect()
}

/// One row among those of a name.
enum Action<'a> {
    SetPassword(&'a NewUser<'a>),
    Remove,
}

impl Database {
    /// Makes the users' table where there is none: in SQLite. Elsewhere it is made by the tools of whom it belongs to.
    ///
    /// # Errors
    /// What the database says.
    pub async fn create(&self) -> Result<(), DatabaseError> {
        if let super::store::Store::Sqlite(pool) = self.0.store() {
            sqlx::query(&sql::create(&self.0.settings)).execute(pool).await?;
        }
        Ok(())
    }

    /// Adds a user, of whom there is none yet; without `use_domain`, in no domain.
    ///
    /// # Errors
    /// [`DatabaseError::Exists`], or what the database says.
    pub async fn add(&self, user: &NewUser<'_>) -> Result<(), DatabaseError> {
        let (store, settings) = (self.0.store(), &self.0.settings);
        check_name(user.name)?;
        let domain = self.domain(user.domain, user.realm)?.unwrap_or(user.realm);
        if store.find(settings, user.name, user.realm).await?.is_some() {
            return Err(DatabaseError::Exists);
        }
        let text = sql::insert(settings);
        on_pool!(store, pool => {
            let mut query = sqlx::query(&text).bind(user.name).bind(domain);
            for (_, kept) in configured(settings) {
                query = query.bind(kept.of(user, domain));
            }
            query.execute(pool).await?;
        });
        Ok(())
    }

    /// Changes a user's password: all secrets of its row.
    ///
    /// # Errors
    /// [`DatabaseError::Unknown`], [`DatabaseError::Several`], or what the database says.
    pub async fn set_password(&self, user: &NewUser<'_>) -> Result<(), DatabaseError> {
        self.change(user.name, user.domain, user.realm, &Action::SetPassword(user)).await
    }

    /// Removes a user: one row. `domain` says which, if there are several of that name.
    ///
    /// # Errors
    /// [`DatabaseError::Unknown`], [`DatabaseError::Several`], or what the database says.
    pub async fn remove(&self, user: &str, domain: Option<&str>, realm: &str) -> Result<(), DatabaseError> {
        self.change(user, domain, realm, &Action::Remove).await
    }

    /// The names of all users, in order.
    ///
    /// # Errors
    /// What the database says.
    pub async fn list(&self, realm: &str) -> Result<Vec<String>, DatabaseError> {
        let settings = &self.0.settings;
        let text = sql::list(settings);
        on_pool!(self.0.store(), pool => {
            let mut query = sqlx::query(&text);
            if settings.use_domain {
                query = query.bind(realm);
            }
            let rows = query.fetch_all(pool).await?;
            Ok(rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<_, _>>()?)
        })
    }

    /// The domain that a row is to have, if that is said.
    fn domain<'a>(&self, given: Option<&'a str>, realm: &'a str) -> Result<Option<&'a str>, DatabaseError> {
        match given {
            Some(domain) if self.0.settings.use_domain && domain != realm => {
                Err(DatabaseError::OtherDomain(realm.to_owned()))
            }
            None if self.0.settings.use_domain => Ok(Some(realm)),
            given => Ok(given),
        }
    }

    async fn change(
        &self,
        user: &str,
        domain: Option<&str>,
        realm: &str,
        action: &Action<'_>,
    ) -> Result<(), DatabaseError> {
        check_name(user)?;
        let settings = &self.0.settings;
        let domain = self.domain(domain, realm)?;
        on_pool!(self.0.store(), pool => {
            let mut transaction = pool.begin().await?;
            let text = sql::rows(settings);
            let mut domains = Vec::new();
            for row in sqlx::query(&text).bind(user).fetch_all(&mut *transaction).await? {
                let column = |index: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<String>, _>(index)?.unwrap_or_default());
                if column(0)? == user {
                    domains.push(column(1)?);
                }
            }
            let domain = the_one(domains, domain)?;
            let changed = match action {
                Action::Remove => {
                    let text = sql::delete(settings);
                    sqlx::query(&text).bind(user).bind(&domain).execute(&mut *transaction).await?
                }
                Action::SetPassword(new) => {
                    let text = sql::columns(settings);
                    let row = sqlx::query(&text).bind(user).bind(&domain).fetch_one(&mut *transaction).await?;
                    let names: Vec<_> = row.columns().iter().map(|column| column.name().to_owned()).collect();
                    let columns = secrets(settings, &names);
                    let names: Vec<_> = columns.iter().map(|(name, _, always)| (*name, *always)).collect();
                    let text = sql::update(settings, &names);
                    let mut query = sqlx::query(&text);
                    for (_, kept, _) in &columns {
                        query = query.bind(kept.of(new, &domain));
                    }
                    query.bind(user).bind(&domain).execute(&mut *transaction).await?
                }
            };
            if changed.rows_affected() != 1 {
                transaction.rollback().await?;
                return Err(DatabaseError::Alike);
            }
            transaction.commit().await?;
        });
        Ok(())
    }
}

/// The domain of the only row, or of the only one in `domain`; how that is written counts only between several.
fn the_one(mut domains: Vec<String>, domain: Option<&str>) -> Result<String, DatabaseError> {
    if let Some(domain) = domain {
        domains.retain(|found| found.eq_ignore_ascii_case(domain));
        if domains.iter().any(|found| found == domain) {
            domains.retain(|found| found == domain);
        }
    }
    let found = domains.pop().ok_or(DatabaseError::Unknown)?;
    if domains.is_empty() {
        return Ok(found);
    }
    domains.push(found);
    domains.sort();
    let rows = domains.len();
    domains.dedup();
    Err(if domains.len() < rows { DatabaseError::Alike } else { DatabaseError::Several(domains) })
}

/// The columns with secrets among those of a table, what they keep, and whether they are written though they are empty.
fn secrets<'a>(settings: &'a DatabaseSettings, table: &'a [String]) -> Vec<(&'a str, Kept, bool)> {
    let mut columns: Vec<_> =
        configured(settings).into_iter().map(|(name, kept)| (name, kept, true)).collect();
    let others: Vec<_> = COMMON
        .iter()
        .filter(|(name, _)| !columns.iter().any(|(own, ..)| own.eq_ignore_ascii_case(name)))
        .filter_map(|(name, kept)| {
            Some((table.iter().find(|column| column.eq_ignore_ascii_case(name))?, *kept))
        })
        .collect();
    columns.extend(others.into_iter().map(|(name, kept)| (name.as_str(), kept, false)));
    columns
}

fn check_name(user: &str) -> Result<(), DatabaseError> {
    let quotes = user.contains([':', '"', '\\']);
    if is_name(user) && !quotes { Ok(()) } else { Err(DatabaseError::Name) }
}
