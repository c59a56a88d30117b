//! Users in a database: SQLite, PostgreSQL, MySQL or MariaDB, with the `subscriber` table of OpenSIPS and Kamailio.
//!
//! # States
//!
//! *there* → a query fails or takes longer than `timeout` → *away*: no query is made but one that asks whether it is
//! back, every second → it answers → *there*. The log has one line for each change. While it is away, what is in the
//! cache is still good until it expires there; for everybody else the answer is [`Lookup::Unavailable`].
//!
//! # Bounds
//!
//! A user is asked for once, however many wait for the answer ([`MAX_QUERIES`] users at once; beyond that
//! `Unavailable`). The cache has `cache.size` entries, users that are not there among them, and forgets those that
//! were asked for least recently.
//!
//! # What goes into a query
//!
//! Table and column names come from the configuration, where they have to be plain identifiers; user and realm are
//! bound values, always. A name of more than [`MAX_NAME`] bytes, or with control characters, is nobody's, and is not
//! asked for. The row counts whose user name is the same byte for byte, since MySQL ignores case and trailing
//! spaces.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use msrp_proto::digest::{Algorithm, Ha1};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::users::Hashes;
use super::{Credentials, Entry, Fetch, Lookup, Query};
use crate::config::DatabaseSettings;
use crate::recent::Recent;

pub use self::store::{DatabaseError, NewUser};

use self::store::{Row, Store};

mod sql;
mod store;

/// The most users that are asked for at once.
const MAX_QUERIES: usize = 1024;

/// The longest user name, in bytes. The tables there are have 64.
const MAX_NAME: usize = 256;

/// How often a database that is away is asked whether it is back.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How a database is doing. Counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CredentialStats {
    /// Whether it is there, as far as is known.
    pub available: bool,
    /// Users in the cache, unknown ones among them.
    pub cached: usize,
    /// Lookups that the cache has answered.
    pub hits: u64,
    /// Queries made for a user.
    pub queries: u64,
    /// Those of them that failed or took too long.
    pub failures: u64,
    /// Lookups that got no answer, since the database was away or had too much to do.
    pub unanswered: u64,
}

/// Users in a database, with a cache; it is opened when it is first used. Cloning gives the same one.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    settings: DatabaseSettings,
    /// Opened when it is first used: a pool needs a runtime, and `check` has none.
    store: OnceLock<Store>,
    cache: Mutex<Recent<Box<str>, Cached>>,
    /// The users who are being asked for.
    queries: Mutex<HashMap<Box<str>, watch::Receiver<Option<Answer>>>>,
    away: AtomicBool,
    hits: AtomicU64,
    asked: AtomicU64,
    failures: AtomicU64,
    unanswered: AtomicU64,
}

/// What the database said of a user: nothing, if there is none.
#[derive(Clone)]
struct Cached {
    row: Option<Arc<Hashes>>,
    since: Instant,
}

impl Hashes {
    fn of_row(row: Row, user: &str, realm: &str, calculate: bool) -> Self {
        let Row { password, sha256, sha512_256, limits } = row;
        let of = |algorithm, text: Option<String>| match (calculate, text, &password) {
            // A row with hashes alone has an empty password: with that one nobody gets in.
            (true, _, Some(password)) if !password.is_empty() => {
                Some(Ha1::from_password(algorithm, user, realm, password))
            }
            (true, ..) | (false, None, _) => None,
            (false, Some(hex), _) => Ha1::from_hex(algorithm, hex.trim()).ok(),
        };
        Self {
            md5: of(Algorithm::Md5, password.clone()),
            sha256: of(Algorithm::Sha256, sha256),
            sha512_256: of(Algorithm::Sha512_256, sha512_256),
            limits,
        }
    }

    fn lookup(&self, algorithm: Algorithm) -> Lookup {
        match self.of(algorithm) {
            Some(ha1) => Lookup::found(Entry { limits: self.limits.clone(), ..Entry::new(ha1.clone()) }),
            None => Lookup::Unknown,
        }
    }
}

/// What came of a query.
#[derive(Clone)]
enum Answer {
    User(Arc<Hashes>),
    Nobody,
    Failed,
}

impl Answer {
    fn lookup(&self, algorithm: Algorithm) -> Lookup {
        match self {
            Self::User(hashes) => hashes.lookup(algorithm),
            Self::Nobody => Lookup::Unknown,
            Self::Failed => Lookup::Unavailable,
        }
    }
}

impl Database {
    /// A database that is opened when it is first used.
    pub fn new(settings: DatabaseSettings) -> Self {
        let cache = Mutex::new(Recent::new(settings.cache.size));
        Self(Arc::new(Inner {
            settings,
            store: OnceLock::new(),
            cache,
            queries: Mutex::default(),
            away: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
        }))
    }

    /// Makes the users' table where there is none: in SQLite. Elsewhere it is made by the tools of whom it belongs to.
    ///
    /// # Errors
    /// What the database says.
    pub async fn create(&self) -> Result<(), DatabaseError> {
        self.0.store().create(&self.0.settings).await
    }

    /// Adds a user.
    ///
    /// # Errors
    /// [`DatabaseError::Exists`], or what the database says.
    pub async fn add(&self, user: &NewUser<'_>) -> Result<(), DatabaseError> {
        let (store, settings) = (self.0.store(), &self.0.settings);
        check_name(user.name)?;
        if store.find(settings, user.name, user.realm).await?.is_some() {
            return Err(DatabaseError::Exists);
        }
        store.add(settings, user).await
    }

    /// Changes a user's password.
    ///
    /// # Errors
    /// [`DatabaseError::Unknown`], or what the database says.
    pub async fn set_password(&self, user: &NewUser<'_>) -> Result<(), DatabaseError> {
        self.must_exist(user.name, user.realm).await?;
        self.0.store().set_password(&self.0.settings, user).await
    }

    /// Removes a user.
    ///
    /// # Errors
    /// [`DatabaseError::Unknown`], or what the database says.
    pub async fn remove(&self, user: &str, realm: &str) -> Result<(), DatabaseError> {
        self.must_exist(user, realm).await?;
        self.0.store().remove(&self.0.settings, user, realm).await
    }

    /// The names of all users, in order.
    ///
    /// # Errors
    /// What the database says.
    pub async fn list(&self, realm: &str) -> Result<Vec<String>, DatabaseError> {
        self.0.store().list(&self.0.settings, realm).await
    }

    async fn must_exist(&self, user: &str, realm: &str) -> Result<(), DatabaseError> {
        check_name(user)?;
        let found = self.0.store().find(&self.0.settings, user, realm).await?;
        found.map(drop).ok_or(DatabaseError::Unknown)
    }
}

fn check_name(user: &str) -> Result<(), DatabaseError> {
    let quotes = user.contains([':', '"', '\\']);
    if is_name(user) && !quotes { Ok(()) } else { Err(DatabaseError::Name) }
}

/// Whether there can be such a user.
fn is_name(user: &str) -> bool {
    !user.is_empty() && user.len() <= MAX_NAME && !user.contains(char::is_control)
}

impl Inner {
    fn store(&self) -> &Store {
        self.store.get_or_init(|| Store::open(&self.settings))
    }

    fn cached(&self, query: &Query) -> Option<Lookup> {
        let cached = self.cache.lock().get(&*query.user)?.clone();
        let settings = &self.settings.cache;
        let good_for =
            if cached.row.is_none() || query.again { settings.negative_expire } else { settings.expire };
        let age = query.now.saturating_duration_since(cached.since);
        let answer = || cached.row.as_ref().map_or(Lookup::Unknown, |row| row.lookup(query.algorithm));
        (age < good_for).then(answer)
    }

    /// Asks for a user, or joins those who wait for the same one.
    fn ask(self: &Arc<Self>, query: &Query) -> Option<watch::Receiver<Option<Answer>>> {
        let mut queries = self.queries.lock();
        if let Some(answer) = queries.get(&*query.user) {
            return Some(answer.clone());
        }
        if queries.len() >= MAX_QUERIES {
            return None;
        }
        let (tell, answer) = watch::channel(None);
        queries.insert(query.user.as_str().into(), answer.clone());
        drop(queries);
        // Of its own, so that it ends whoever else ends.
        tokio::spawn(Arc::clone(self).answer(query.user.clone(), query.realm.clone(), tell));
        Some(answer)
    }

    async fn answer(self: Arc<Self>, user: String, realm: String, tell: watch::Sender<Option<Answer>>) {
        let answer = self.query(&user, &realm).await;
        let row = match &answer {
            Answer::User(hashes) => Some(Some(Arc::clone(hashes))),
            Answer::Nobody => Some(None),
            Answer::Failed => None,
        };
        if let Some(row) = row {
            let since = tokio::time::Instant::now().into_std();
            self.cache.lock().insert(user.as_str().into(), Cached { row, since });
        }
        self.queries.lock().remove(&*user);
        tell.send_replace(Some(answer));
    }

    async fn query(self: &Arc<Self>, user: &str, realm: &str) -> Answer {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.find(user, realm).await {
            Ok(found) => {
                self.is_there();
                let calculate = self.settings.calculate_ha1;
                found.map_or(Answer::Nobody, |row| {
                    Answer::User(Arc::new(Hashes::of_row(row, user, realm, calculate)))
                })
            }
            // Characters that the table's encoding does not have: nobody there has such a name.
            Err(DatabaseError::Query(error)) if !user.is_ascii() && is_about_characters(&error) => {
                debug!(%error, "the database does not take a user name");
                Answer::Nobody
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.is_away(&error);
                Answer::Failed
            }
        }
    }

    async fn find(&self, user: &str, realm: &str) -> Result<Option<Row>, DatabaseError> {
        let find = self.store().find(&self.settings, user, realm);
        tokio::time::timeout(self.settings.timeout, find).await.unwrap_or(Err(DatabaseError::Timeout))
    }

    fn is_there(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            info!(database = %self.settings.url, "the database of users is back");
        }
    }

    fn is_away(self: &Arc<Self>, error: &DatabaseError) {
        if self.away.swap(true, Ordering::Relaxed) {
            return;
        }
        warn!(database = %self.settings.url, %error, "the database of users is away: AUTH is answered 408 for users who are not in its cache");
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROBE_INTERVAL).await;
                let Some(inner) = inner.upgrade() else { return };
                // Nobody's name; the table and its columns are asked for all the same.
                if inner.find("", "").await.is_ok() {
                    inner.is_there();
                }
                if !inner.away.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
}

/// Whether the database says that text has characters which its encoding does not have; not, that it is shutting down
/// or that there is no such table.
fn is_about_characters(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // Invalid character string, illegal mix of collations, incorrect string value, conversion impossible.
        return matches!(error.number(), 1300 | 1267 | 1366 | 3988);
    }
    // PostgreSQL: character_not_in_repertoire, untranslatable_character.
    error.code().is_some_and(|code| matches!(&*code, "22021" | "22P05"))
}

impl Credentials for Database {
    fn lookup(&self, query: &Query) -> Lookup {
        if !is_name(&query.user) {
            return Lookup::Unknown;
        }
        if let Some(answer) = self.0.cached(query) {
            self.0.hits.fetch_add(1, Ordering::Relaxed);
            return answer;
        }
        if self.0.away.load(Ordering::Relaxed) {
            self.0.unanswered.fetch_add(1, Ordering::Relaxed);
            return Lookup::Unavailable;
        }
        Lookup::Later
    }

    fn fetch<'a>(&'a self, query: &'a Query) -> Fetch<'a> {
        Box::pin(async move {
            let answer = match self.0.ask(query) {
                Some(mut answer) => {
                    answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
                }
                None => None,
            };
            let answer = answer.map_or(Lookup::Unavailable, |answer| answer.lookup(query.algorithm));
            if matches!(answer, Lookup::Unavailable) {
                self.0.unanswered.fetch_add(1, Ordering::Relaxed);
            }
            answer
        })
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.0.settings.serves(algorithm)
    }

    fn is_as(&self, former: &dyn Credentials) -> bool {
        let former: &dyn Any = former;
        former.downcast_ref::<Self>().is_some_and(|former| former.0.settings == self.0.settings)
    }

    fn begin(&self) {
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(error) = inner.find("", "").await {
                inner.is_away(&error);
            }
        });
    }

    fn stats(&self) -> Option<CredentialStats> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(CredentialStats {
            available: !self.0.away.load(Ordering::Relaxed),
            cached: self.0.cache.lock().len(),
            hits: count(&self.0.hits),
            queries: count(&self.0.asked),
            failures: count(&self.0.failures),
            unanswered: count(&self.0.unanswered),
        })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
