//! Users in a database: SQLite, PostgreSQL, MySQL or MariaDB, with the `subscriber` table of OpenSIPS and Kamailio.
//!
//! # States
//!
//! *there* → a query fails or takes longer than `timeout` → *away* → a probe is answered → *there*. The log has one line
//! for each change. The probe asks for a user nobody is, every `probe_interval`, and at least once a second while the
//! database is away; so both changes are noticed though nobody logs in.
//!
//! While it is away the answer is [`Lookup::Unavailable`], without a query and for whom the cache has too: what it has
//! may not be true any more, and nobody can say. Limits alone ([`Wants::Limits`]) are still given from it, as who asks
//! for them has proved elsewhere who it is.
//!
//! A database whose connections are all in use is not away: who gets none of them within `timeout` is answered
//! [`Lookup::Unanswered`]. Nor is one that cannot do one query and answers the probe right after.
//!
//! # Bounds
//!
//! A user is asked for once, however many wait for the answer ([`MAX_QUERIES`] users at once; beyond that
//! `Unanswered`), for `timeout` to get a connection, and as long for the answer. The cache has `cache.size` entries,
//! users that are not there among them, and forgets those that were asked for least recently.
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
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use super::users::Hashes;
use super::{Credentials, Fetch, Lookup, Query, Wants};
use crate::config::DatabaseSettings;
use crate::recent::Recent;

pub use self::commands::NewUser;
pub use self::store::DatabaseError;

use self::store::{Row, Store};

mod commands;
mod sql;
mod store;

/// The most users that are asked for at once.
const MAX_QUERIES: usize = 1024;

/// The longest user name, in bytes. The tables there are have 64.
const MAX_NAME: usize = 256;

/// How often at least a database that is away is asked whether it is back.
const AWAY_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How a database is doing. Counted since the start; each look-up in one of `cached` to `away`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CredentialStats {
    /// Whether it is there, as far as is known.
    pub available: bool,
    /// Users in the cache, unknown ones among them.
    pub users: usize,
    /// Look-ups that the cache has answered.
    pub cached: u64,
    /// Those that the database has answered. Several that wait for the same user share a query.
    pub queried: u64,
    /// Those without an answer, since no connection to it became free in time or too many users were asked for.
    pub busy: u64,
    /// Those whose query failed or took too long.
    pub failed: u64,
    /// Those for which it was not asked, since it was known to be away.
    pub away: u64,
    /// Queries made for users.
    pub queries: u64,
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
    queries: Queries,
    /// One for each connection of the pool: who waits for one is told from who waits for the database.
    connections: Semaphore,
    away: AtomicBool,
    probing: AtomicBool,
    /// Where it is asked and its connections are, wherever somebody wants to know: they are not for the threads that
    /// traffic is on.
    runtime: OnceLock<Handle>,
    counts: Counts,
}

/// A user who is being asked for, until it is dropped.
struct Asked<'a> {
    queries: &'a Queries,
    user: &'a str,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.queries.lock().remove(self.user);
    }
}

/// The users who are being asked for.
type Queries = Mutex<HashMap<Box<str>, watch::Receiver<Option<Answer>>>>;

/// See [`CredentialStats`].
#[derive(Default)]
struct Counts {
    cached: AtomicU64,
    queried: AtomicU64,
    busy: AtomicU64,
    failed: AtomicU64,
    away: AtomicU64,
    queries: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
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
}

/// What came of a query.
#[derive(Clone)]
enum Answer {
    User(Arc<Hashes>),
    Nobody,
    /// There was no connection to be had.
    Busy,
    /// It failed, and the database is away, or it is not.
    Failed,
    /// None was made, since the database had gone away.
    Away,
}

impl Database {
    /// A database that is opened when it is first used.
    pub fn new(settings: DatabaseSettings) -> Self {
        let cache = Mutex::new(Recent::new(settings.cache.size));
        let connections = Semaphore::new(settings.pool_size);
        Self(Arc::new(Inner {
            settings,
            store: OnceLock::new(),
            cache,
            queries: Mutex::default(),
            connections,
            away: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            runtime: OnceLock::new(),
            counts: Counts::default(),
        }))
    }
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
        (age < good_for).then(|| cached.lookup(query.wants))
    }

    /// What is said while the database is away: see the [module](self).
    fn while_away(&self, query: &Query) -> Lookup {
        if query.wants == Wants::Limits
            && let Some(cached) = self.cache.lock().get(&*query.user)
        {
            count(&self.counts.cached);
            return cached.lookup(query.wants);
        }
        count(&self.counts.away);
        Lookup::Unavailable
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
        let answering = Arc::clone(self).answer(query.user.clone(), query.realm.clone(), tell);
        match self.runtime.get() {
            Some(runtime) => runtime.spawn(answering),
            None => tokio::spawn(answering),
        };
        Some(answer)
    }

    async fn answer(self: Arc<Self>, user: String, realm: String, tell: watch::Sender<Option<Answer>>) {
        // Also if it comes to nothing: who asks next must not wait for an answer that nobody gives.
        let asked = Asked { queries: &self.queries, user: &user };
        let answer = self.query(&user, &realm).await;
        let row = match &answer {
            Answer::User(hashes) => Some(Some(Arc::clone(hashes))),
            Answer::Nobody => Some(None),
            Answer::Busy | Answer::Failed | Answer::Away => None,
        };
        if let Some(row) = row {
            let since = tokio::time::Instant::now().into_std();
            self.cache.lock().insert(user.as_str().into(), Cached { row, since });
        }
        drop(asked);
        tell.send_replace(Some(answer));
    }

    async fn query(self: &Arc<Self>, user: &str, realm: &str) -> Answer {
        let connection = tokio::time::timeout(self.settings.timeout, self.connections.acquire()).await;
        let Ok(Ok(_connection)) = connection else { return Answer::Busy };
        if self.is_away() {
            return Answer::Away;
        }
        count(&self.counts.queries);
        match self.store().find(&self.settings, user, realm).await {
            Ok(found) => {
                self.came_back();
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
            // One that fails may be that one alone; who sends it shall not take the database away from others.
            Err(error) if !matches!(error, DatabaseError::Timeout) && self.ask_for_nobody().await.is_ok() => {
                debug!(%error, "a query of the database of users has failed; others do not");
                Answer::Failed
            }
            Err(error) => {
                self.went_away(&error);
                Answer::Failed
            }
        }
    }

    fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    fn came_back(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            info!(database = %self.settings.url, "the database of users is back");
        }
    }

    fn went_away(self: &Arc<Self>, error: &DatabaseError) {
        if !self.away.swap(true, Ordering::Relaxed) {
            warn!(database = %self.settings.url, %error, "the database of users is away: AUTH is answered 408, but for users that a source before it knows");
        }
        self.begin_probing();
    }

    /// One task that asks now and then whether the database is there, until nobody has the database any more.
    fn begin_probing(self: &Arc<Self>) {
        if self.probing.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(inner) = inner.upgrade() {
                inner.probe().await;
                let pause = inner.pause();
                drop(inner);
                tokio::time::sleep(pause).await;
            }
        });
    }

    /// How long until the next probe.
    fn pause(&self) -> Duration {
        let interval = self.settings.probe_interval;
        if self.is_away() { interval.min(AWAY_PROBE_INTERVAL) } else { interval }
    }

    async fn probe(self: &Arc<Self>) {
        // Where all connections are in use, those who use them notice.
        let connection = tokio::time::timeout(self.settings.timeout, self.connections.acquire()).await;
        let Ok(Ok(_connection)) = connection else { return };
        match self.ask_for_nobody().await {
            Ok(_) => self.came_back(),
            Err(error) => self.went_away(&error),
        }
    }

    /// Nobody's name; the table and its columns are asked for all the same.
    async fn ask_for_nobody(&self) -> Result<Option<Row>, DatabaseError> {
        self.store().find(&self.settings, "", "").await
    }
}

impl Cached {
    fn lookup(&self, wants: Wants) -> Lookup {
        let answer = self.row.as_ref().map_or(Lookup::Unknown, |row| row.lookup(wants));
        match answer {
            Lookup::Found(mut entry) => {
                entry.remembered = true;
                Lookup::Found(entry)
            }
            answer => answer,
        }
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
        let inner = &*self.0;
        if query.wants == Wants::Limits && inner.settings.limit_columns().iter().all(Option::is_none) {
            return Lookup::Unknown;
        }
        if inner.is_away() {
            return inner.while_away(query);
        }
        if !is_name(&query.user) {
            return Lookup::Unknown;
        }
        let cached = inner.cached(query);
        if cached.is_some() {
            count(&inner.counts.cached);
        }
        cached.unwrap_or(Lookup::Later)
    }

    fn fetch<'a>(&'a self, query: &'a Query) -> Fetch<'a> {
        Box::pin(async move {
            let inner = &*self.0;
            let counts = &inner.counts;
            let Some(mut answer) = self.0.ask(query) else {
                count(&counts.busy);
                return Lookup::Unanswered;
            };
            let answer = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
            let (counter, lookup) = match answer {
                Some(Answer::User(row)) => (&counts.queried, row.lookup(query.wants)),
                Some(Answer::Nobody) => (&counts.queried, Lookup::Unknown),
                Some(Answer::Busy) => (&counts.busy, Lookup::Unanswered),
                Some(Answer::Away) => return inner.while_away(query),
                Some(Answer::Failed) if inner.is_away() => (&counts.failed, Lookup::Unavailable),
                Some(Answer::Failed) | None => (&counts.failed, Lookup::Unanswered),
            };
            count(counter);
            lookup
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
        if let Ok(runtime) = Handle::try_current() {
            let _ = self.0.runtime.set(runtime);
        }
        self.0.begin_probing();
    }

    fn stats(&self) -> Option<CredentialStats> {
        let Counts { cached, queried, busy, failed, away, queries } = &self.0.counts;
        let [cached, queried, busy, failed, away, queries] =
            [cached, queried, busy, failed, away, queries].map(|counter| counter.load(Ordering::Relaxed));
        let users = self.0.cache.lock().len();
        let available = !self.0.is_away();
        Some(CredentialStats { available, users, cached, queried, busy, failed, away, queries })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
