//! Where passwords come from: sources of HA1 hashes, asked in order.
//!
//! Digest authentication needs H(A1), the hash of user, realm and password (RFC 7616 §3.4.2), never the password
//! itself. The sources here hold those hashes ready, so that a lookup reads a table.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use msrp_proto::digest::{Algorithm, Ha1};

pub use self::htdigest::{HtdigestError, HtdigestFile};

mod htdigest;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256];

/// A source of HA1 hashes.
pub trait Credentials: fmt::Debug + Send + Sync {
    /// The hash of `user` in `realm`, both compared by case; nothing if the user is not known here, or not with
    /// this algorithm.
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1>;

    /// Whether every user known here has a hash for `algorithm`.
    fn supports(&self, algorithm: Algorithm) -> bool;
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

    /// Whether there is no source, so that nobody can authenticate.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
}

impl Credentials for CredentialChain {
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        self.sources.iter().find_map(|source| source.ha1(user, realm, algorithm))
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.sources.iter().all(|source| source.supports(algorithm))
    }
}

/// Users in memory. Its `Debug` shows how many, not who.
#[derive(Clone, Default)]
pub struct UserTable {
    /// By realm, then user: so that a lookup needs no key of its own.
    realms: HashMap<Box<str>, HashMap<Box<str>, Hashes>>,
}

/// One user's hashes.
#[derive(Clone, Default)]
struct Hashes {
    md5: Option<Ha1>,
    sha256: Option<Ha1>,
    sha512_256: Option<Ha1>,
}

impl Hashes {
    fn of(&self, algorithm: Algorithm) -> Option<&Ha1> {
        match algorithm {
            Algorithm::Md5 => self.md5.as_ref(),
            Algorithm::Sha256 => self.sha256.as_ref(),
            Algorithm::Sha512_256 => self.sha512_256.as_ref(),
        }
    }

    fn of_mut(&mut self, algorithm: Algorithm) -> &mut Option<Ha1> {
        match algorithm {
            Algorithm::Md5 => &mut self.md5,
            Algorithm::Sha256 => &mut self.sha256,
            Algorithm::Sha512_256 => &mut self.sha512_256,
        }
    }
}

impl UserTable {
    /// Adds a user's hash for one algorithm, in place of one already there.
    pub fn insert(&mut self, realm: &str, user: &str, algorithm: Algorithm, ha1: Ha1) {
        *self.hashes(realm, user).of_mut(algorithm) = Some(ha1);
    }

    /// Adds a user's hashes for all algorithms; the password itself is not kept.
    pub fn insert_password(&mut self, realm: &str, user: &str, password: &str) {
        for algorithm in ALGORITHMS {
            self.insert(realm, user, algorithm, Ha1::from_password(algorithm, user, realm, password));
        }
    }

    /// How many users of `realm` are known.
    pub fn users_in(&self, realm: &str) -> usize {
        self.realms.get(realm).map_or(0, HashMap::len)
    }

    fn hashes(&mut self, realm: &str, user: &str) -> &mut Hashes {
        self.realms.entry(realm.into()).or_default().entry(user.into()).or_default()
    }
}

impl Credentials for UserTable {
    fn ha1(&self, user: &str, realm: &str, algorithm: Algorithm) -> Option<Ha1> {
        self.realms.get(realm)?.get(user)?.of(algorithm).cloned()
    }

    fn supports(&self, algorithm: Algorithm) -> bool {
        self.realms.values().flat_map(HashMap::values).all(|hashes| hashes.of(algorithm).is_some())
    }
}

impl fmt::Debug for UserTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users: usize = self.realms.values().map(HashMap::len).sum();
        f.debug_struct("UserTable").field("users", &users).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn md5(digit: char) -> Ha1 {
        Ha1::from_hex(Algorithm::Md5, &digit.to_string().repeat(32)).unwrap()
    }

    #[test]
    fn a_password_serves_every_algorithm_and_a_hash_its_own() {
        let mut users = UserTable::default();
        users.insert_password("relay.test", "alice", "alicepw");
        assert!(ALGORITHMS.into_iter().all(|algorithm| users.supports(algorithm)));
        for algorithm in ALGORITHMS {
            assert!(users.ha1("alice", "relay.test", algorithm).is_some());
        }

        users.insert("relay.test", "bob", Algorithm::Md5, md5('b'));
        assert!(users.supports(Algorithm::Md5) && !users.supports(Algorithm::Sha256));
        assert!(users.ha1("bob", "relay.test", Algorithm::Md5).is_some());
        assert!(users.ha1("bob", "relay.test", Algorithm::Sha256).is_none());
    }

    #[test]
    fn users_and_realms_are_compared_by_case() {
        let mut users = UserTable::default();
        users.insert("relay.test", "alice", Algorithm::Md5, md5('a'));
        for (user, realm) in
            [("Alice", "relay.test"), ("alice", "Relay.test"), ("alice", ""), ("", "relay.test")]
        {
            assert!(users.ha1(user, realm, Algorithm::Md5).is_none(), "{user} {realm}");
        }
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
