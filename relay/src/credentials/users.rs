//! Users in memory: those of the YAML file, and of htdigest files.

use std::collections::HashMap;
use std::fmt;

use msrp_proto::digest::{Algorithm, Ha1};

use super::{Credentials, Entry, Lookup, Query, Wants};
use crate::config::UserLimits;

pub(super) const ALGORITHMS: [Algorithm; 3] = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256];

/// Users in memory. Its `Debug` shows how many, not who.
#[derive(Clone, Default)]
pub struct UserTable {
    /// By realm, then user: so that a lookup needs no key of its own.
    realms: HashMap<Box<str>, HashMap<Box<str>, Hashes>>,
}

/// One user's hashes.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashes {
    pub(super) md5: Option<Ha1>,
    pub(super) sha256: Option<Ha1>,
    pub(super) sha512_256: Option<Ha1>,
    /// Of the user's own.
    pub(super) limits: UserLimits,
}

impl Hashes {
    pub(super) fn of(&self, algorithm: Algorithm) -> Option<&Ha1> {
        match algorithm {
            Algorithm::Md5 => self.md5.as_ref(),
            Algorithm::Sha256 => self.sha256.as_ref(),
            Algorithm::Sha512_256 => self.sha512_256.as_ref(),
        }
    }

    pub(super) fn lookup(&self, wants: Wants) -> Lookup {
        match wants {
            Wants::Hash(algorithm) => self.of(algorithm).map_or(Lookup::Unknown, |ha1| {
                Lookup::found(Entry { limits: self.limits.clone(), ..Entry::new(ha1.clone()) })
            }),
            Wants::Limits => Lookup::Limits(Box::new(self.limits.clone())),
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

    /// Limits of this user's own; what they leave open is as for everybody.
    pub fn insert_limits(&mut self, realm: &str, user: &str, limits: UserLimits) {
        self.hashes(realm, user).limits = limits;
    }

    /// The users of `realm`, in no order.
    pub fn names_in(&self, realm: &str) -> impl Iterator<Item = &str> {
        self.realms.get(realm).into_iter().flat_map(|users| users.keys().map(|name| &**name))
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
    fn lookup(&self, query: &Query) -> Lookup {
        let found = self.realms.get(&*query.realm).and_then(|users| users.get(&*query.user));
        found.map_or(Lookup::Unknown, |hashes| hashes.lookup(query.wants))
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
}
