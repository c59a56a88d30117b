//! Where passwords come from: sources of HA1 hashes, asked in order.
//!
//! Digest authentication needs H(A1), the hash of user, realm and password (RFC 7616 §3.4.2), never the password
//! itself. Sources hold those hashes, or make them.
//!
//! # The sources and their order
//!
//! `auth.users` → `auth.htdigest` → `auth.ephemeral` → `auth.database`. The first that knows the user with the
//! algorithm asked for answers. One that cannot say ([`Lookup::Unavailable`], [`Lookup::Unanswered`]) ends the walk: it
//! may be the one that knows the user, with another password than a source after it has. So while a source is away,
//! those get in whom a source before it knows, and nobody else.
//!
//! # Now or later
//!
//! A lookup in memory answers at once; so does one in the database's cache. What has to ask the database says
//! [`Lookup::Later`]: the AUTH is put aside (see `msrp::auth`), [`Credentials::fetch`] is awaited by a task of its
//! own, and the AUTH goes on with what that gives. No thread that carries traffic waits, and no lock is held
//! meanwhile.
//!
//! # What others can learn
//!
//! An unknown user is answered as a wrong password is, after as many digests. What is wrong by what is at hand is asked
//! for again ([`Query::again`]), of every source, also of those after one that knows the user: so a wrong password
//! takes as long as an unknown user does, whichever source has it, and while a source is away both are answered in the
//! same way. The database's cache answers that only within `negative_expire`, so a changed password counts at once.
//! What is left: while a source is away, who tries passwords is slowed down for users of sources before it, and not for
//! others, of whom nobody can say that they are wrong.
//!
//! # Limits
//!
//! A user's own limits count however it logs in. Who is known by other means than a password (ephemeral credentials, a
//! token, a client certificate) is looked up by name ([`Wants::Limits`]), in the same order.

use std::any::Any;
use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::{Algorithm, Ha1};

use crate::config::UserLimits;

pub use self::database::{CredentialStats, Database, DatabaseError, NewUser};
pub use self::ephemeral::{Ephemeral, EphemeralAlgorithm};
pub use self::htdigest::{HtdigestError, HtdigestFile};
pub use self::users::UserTable;

mod database;
mod ephemeral;
mod htdigest;
mod users;

/// Who is looked for.
#[derive(Debug, Clone)]
pub struct Query {
    /// The user name, as the client sent it; compared by case.
    pub user: String,
    /// The realm, compared by case.
    pub realm: String,
    /// What is asked for.
    pub wants: Wants,
    /// The time, for what is remembered.
    pub now: Instant,
    /// What is remembered has just not been what the client knows: it is to be asked for again, unless that has
    /// been done a short time ago.
    pub again: bool,
}

/// What is asked for of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A hash of this algorithm: [`Lookup::Found`].
    Hash(Algorithm),
    /// The limits of a user who has proved in some other way who it is: [`Lookup::Limits`].
    Limits,
}

/// What a source says.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// It knows the user.
    Found(Box<Entry>),
    /// It knows the user, of whom no more than this was asked for ([`Wants::Limits`]).
    Limits(Box<UserLimits>),
    /// It does not know the user, or not with that algorithm.
    Unknown,
    /// It has to ask somebody: [`Credentials::fetch`].
    Later,
    /// It cannot say, since whom it has to ask is away. Nobody is let in on that.
    Unavailable,
    /// It cannot say this time, though whom it has to ask is there: there is too much to ask for, or this one question
    /// came to nothing. Nobody is let in on that either.
    Unanswered,
}

impl Lookup {
    /// A user who is known.
    pub fn found(entry: Entry) -> Self {
        Self::Found(Box::new(entry))
    }
}

/// A user who is known.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The hash of the password.
    pub ha1: Ha1,
    /// The hash of another password that is right too, while a secret is being replaced by another.
    pub other: Option<Ha1>,
    /// Whose session it will be, if that is not the name the client sent.
    pub user: Option<Box<str>>,
    /// Until when, in milliseconds since the Unix epoch, the credentials are good, and sessions may last.
    pub expires: Option<u64>,
    /// The user's own limits.
    pub limits: UserLimits,
    /// It is what the source was told some time ago, and may have changed there.
    pub remembered: bool,
}

impl Entry {
    /// A user with this password hash, and nothing special.
    pub fn new(ha1: Ha1) -> Self {
        Self { ha1, other: None, user: None, expires: None, limits: UserLimits::default(), remembered: false }
    }
}

/// What [`Credentials::fetch`] gives: an answer, in a while.
pub type Fetch<'a> = Pin<Box<dyn Future<Output = Lookup> + Send + 'a>>;

/// A source of HA1 hashes.
pub trait Credentials: Any + fmt::Debug + Send + Sync {
    /// What is asked for, if it is at hand. It does not wait for anything.
    fn lookup(&self, query: &Query) -> Lookup;

    /// What is asked for, after [`lookup`](Self::lookup) has said [`Lookup::Later`]. It needs a tokio runtime, and
    /// never says [`Lookup::Later`].
    fn fetch<'a>(&'a self, query: &'a Query) -> Fetch<'a> {
        Box::pin(ready(self.lookup(query)))
    }

    /// Whether every user known here has a hash for `algorithm`.
    fn supports(&self, algorithm: Algorithm) -> bool;

    /// Whether `former` is configured as this one is, and remembers what is not to be forgotten when the configuration is
    /// read again: it is kept then in the place of this one.
    fn is_as(&self, former: &dyn Credentials) -> bool {
        let _ = former;
        false
    }

    /// Begins to look after whom it asks, so that the log says early that they are away. It needs a tokio runtime.
    fn begin(&self) {}

    /// How a source that asks others is doing.
    fn stats(&self) -> Option<CredentialStats> {
        None
    }

    /// The hash, if it is at hand.
    #[cfg(test)]
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        let (user, realm) = (user.to_owned(), realm.to_owned());
        let wants = Wants::Hash(algorithm);
        match self.lookup(&Query { user, realm, wants, now: Instant::now(), again: false }) {
            Lookup::Found(entry) => Some(entry.ha1),
            _ => None,
        }
    }

    /// The user's own limits, if they are at hand.
    fn limits(&self, user: &str, realm: &str) -> Option<UserLimits> {
        let (user, realm) = (user.to_owned(), realm.to_owned());
        match self.lookup(&Query { user, realm, wants: Wants::Limits, now: Instant::now(), again: false }) {
            Lookup::Limits(limits) => Some(*limits),
            _ => None,
        }
    }
}

/// Several sources; the first that knows the user with the algorithm asked for answers.
#[derive(Debug, Clone, Default)]
pub struct CredentialChain {
    sources: Vec<Arc<dyn Credentials>>,
}

impl CredentialChain {
    /// Adds a source, to be asked after those before it.
    pub fn push(&mut self, source: Arc<dyn Credentials>) {
        self.sources.push(source);
    }

    /// Keeps those sources of `former` that are configured as the ones in their places here, for what they remember.
    pub fn keep_of(&mut self, former: &Self) {
        for source in &mut self.sources {
            if let Some(kept) = former.sources.iter().find(|former| source.is_as(&***former)) {
                *source = Arc::clone(kept);
            }
        }
    }

    /// As [`begin`](Credentials::begin), for those that are not sources of `former`.
    pub fn begin_beside(&self, former: &Self) {
        let is_new =
            |source: &&Arc<dyn Credentials>| !former.sources.iter().any(|known| Arc::ptr_eq(known, source));
        self.sources.iter().filter(is_new).for_each(|source| source.begin());
    }

    /// Whether there is no source, so that nobody can authenticate.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}

/// A walk along the sources.
struct Walk {
    /// All are asked, also after one that knows the user.
    all: bool,
    /// What the first said that knows the user.
    first: Lookup,
}

impl Walk {
    fn new(query: &Query) -> Self {
        Self { all: query.again, first: Lookup::Unknown }
    }

    /// Takes what a source says. Gives what ends the walk.
    fn step(&mut self, answer: Lookup) -> Option<Lookup> {
        match answer {
            Lookup::Unknown => None,
            Lookup::Found(_) | Lookup::Limits(_) if self.all => {
                if matches!(self.first, Lookup::Unknown) {
                    self.first = answer;
                }
                None
            }
            answer => Some(answer),
        }
    }
}

impl Credentials for CredentialChain {
    fn lookup(&self, query: &Query) -> Lookup {
        let mut walk = Walk::new(query);
        let end = self.sources.iter().find_map(|source| walk.step(source.lookup(query)));
        end.unwrap_or(walk.first)
    }

    fn fetch<'a>(&'a self, query: &'a Query) -> Fetch<'a> {
        Box::pin(async move {
            let mut walk = Walk::new(query);
            for source in &self.sources {
                let answer = match source.lookup(query) {
                    Lookup::Later => source.fetch(query).await,
                    answer => answer,
                };
                if let Some(end) = walk.step(answer) {
                    return end;
                }
            }
            walk.first
        })
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.sources.iter().all(|source| source.supports(algorithm))
    }

    fn begin(&self) {
        for source in &self.sources {
            source.begin();
        }
    }

    fn stats(&self) -> Option<CredentialStats> {
        self.sources.iter().find_map(|source| source.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn md5(digit: char) -> Ha1 {
        Ha1::from_hex(Algorithm::Md5, &digit.to_string().repeat(32)).unwrap()
    }

    fn query(user: &str) -> Query {
        let (user, realm) = (user.to_owned(), "r".to_owned());
        Query { user, realm, wants: Wants::Hash(Algorithm::Md5), now: Instant::now(), again: false }
    }

    /// A source that always says the same, first and then.
    #[derive(Debug)]
    struct Says(Lookup, Lookup);

    impl Credentials for Says {
        fn lookup(&self, _: &Query) -> Lookup {
            self.0.clone()
        }

        fn fetch<'a>(&'a self, _: &'a Query) -> Fetch<'a> {
            Box::pin(ready(self.1.clone()))
        }

        fn supports(&self, _: Algorithm) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn a_source_that_cannot_say_ends_the_walk() {
        let mut users = UserTable::default();
        users.insert("r", "alice", Algorithm::Md5, md5('1'));
        let users: Arc<dyn Credentials> = Arc::new(users);
        let chain = |sources: &[Arc<dyn Credentials>]| {
            let mut chain = CredentialChain::default();
            sources.iter().for_each(|source| chain.push(Arc::clone(source)));
            chain
        };
        let away: Arc<dyn Credentials> = Arc::new(Says(Lookup::Later, Lookup::Unavailable));
        let empty: Arc<dyn Credentials> = Arc::new(Says(Lookup::Later, Lookup::Unknown));

        // Before it, what is known is known without it.
        let first = chain(&[users.clone(), away.clone()]);
        assert!(matches!(first.lookup(&query("alice")), Lookup::Found(_)));
        assert!(matches!(first.lookup(&query("bob")), Lookup::Later));
        assert!(matches!(first.fetch(&query("bob")).await, Lookup::Unavailable));
        // Nobody after it answers for it.
        let last = chain(&[away, users.clone()]);
        assert!(matches!(last.lookup(&query("alice")), Lookup::Later));
        assert!(matches!(last.fetch(&query("alice")).await, Lookup::Unavailable));
        // One that does not know the user leaves it to the next.
        let next = chain(&[empty, users]);
        assert!(matches!(next.fetch(&query("alice")).await, Lookup::Found(_)));
        assert!(matches!(next.fetch(&query("bob")).await, Lookup::Unknown));
    }

    #[tokio::test]
    async fn what_was_wrong_is_asked_of_all_so_that_the_time_does_not_say_who_knows_the_user() {
        let mut users = UserTable::default();
        users.insert("r", "alice", Algorithm::Md5, md5('1'));
        let users: Arc<dyn Credentials> = Arc::new(users);
        for (said, of_alice, of_bob) in [
            (Lookup::Unknown, "found", "unknown"),
            (Lookup::found(Entry::new(md5('2'))), "found", "other"),
            (Lookup::Unavailable, "unavailable", "unavailable"),
            (Lookup::Unanswered, "unanswered", "unanswered"),
        ] {
            let mut chain = CredentialChain::default();
            chain.push(Arc::clone(&users));
            chain.push(Arc::new(Says(Lookup::Later, said)));
            for (user, expected) in [("alice", of_alice), ("bob", of_bob)] {
                let again = Query { again: true, ..query(user) };
                assert!(matches!(chain.lookup(&again), Lookup::Later), "{user} {expected}");
                let found = match chain.fetch(&again).await {
                    Lookup::Found(entry) if entry.ha1.as_hex() == md5('1').as_hex() => "found",
                    Lookup::Found(_) => "other",
                    Lookup::Unknown => "unknown",
                    Lookup::Unavailable => "unavailable",
                    Lookup::Unanswered => "unanswered",
                    answer => panic!("{answer:?}"),
                };
                assert_eq!(found, expected, "{user}");
            }
        }
    }

    #[test]
    fn limits_are_those_of_the_first_source_that_knows_the_user() {
        let limits = |sessions| UserLimits { sessions: Some(sessions), ..UserLimits::default() };
        let (mut first, mut second) = (UserTable::default(), UserTable::default());
        first.insert_limits("r", "alice", limits(1));
        second.insert_limits("r", "alice", limits(2));
        second.insert_limits("r", "bob", limits(3));
        let mut chain = CredentialChain::default();
        let secret = crate::config::Secret::new("0123456789abcdef");
        chain.push(Arc::new(first));
        chain.push(Arc::new(Ephemeral::new(EphemeralAlgorithm::Sha1, secret, None)));
        chain.push(Arc::new(second));
        assert_eq!(chain.limits("alice", "r"), Some(limits(1)));
        assert_eq!(chain.limits("bob", "r"), Some(limits(3)));
        assert_eq!((chain.limits("1700000000:bob", "r"), chain.limits("carol", "r")), (None, None));
    }

    #[test]
    fn the_first_source_that_knows_the_user_answers() {
        let (mut first, mut second) = (UserTable::default(), UserTable::default());
        first.insert("r", "alice", Algorithm::Md5, md5('1'));
        second.insert("r", "alice", Algorithm::Md5, md5('2'));
        second.insert_password("r", "bob", "bobpw");
        let mut chain = CredentialChain::default();
        assert!(chain.is_empty());
        chain.push(Arc::new(first));
        chain.push(Arc::new(second));

        assert!(chain.ha1("alice", "r", Algorithm::Md5).is_some_and(|ha1| ha1.as_hex() == md5('1').as_hex()));
        assert!(chain.ha1("bob", "r", Algorithm::Sha256).is_some());
        assert!(chain.supports(Algorithm::Md5) && !chain.supports(Algorithm::Sha256));
        assert!(!format!("{chain:?}").contains("alice"));
    }
}
