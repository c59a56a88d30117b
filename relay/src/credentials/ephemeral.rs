//! Credentials that a web back end makes for its users, good for a while: the scheme of TURN servers
//! (draft-uberti-behave-turn-rest, coturn's `use-auth-secret`).
//!
//! The user name is `expiry:user`, with the expiry in seconds since the Unix epoch, and the password is the base64 of
//! an HMAC of that whole name under a secret that the back end and the relay share. So nothing is stored, and nobody
//! is asked. The session is `user`'s, and ends with the credentials at the latest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use msrp_proto::digest::{Algorithm, Ha1};
use sha1::Sha1;
use sha2::Sha256;

use super::{Credentials, Entry, Lookup, Query, Wants};
use crate::config::Secret;

/// The longest user name.
const MAX_USER: usize = 256;

/// The hash function of the HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EphemeralAlgorithm {
    /// HMAC-SHA-1: what the scheme says, and every implementation has.
    #[default]
    Sha1,
    /// HMAC-SHA-256.
    Sha256,
}

/// Credentials that a web back end makes for its users: `expiry:user`, and an HMAC of that.
#[derive(Debug, Clone)]
pub struct Ephemeral {
    algorithm: EphemeralAlgorithm,
    secret: Secret,
    /// The one before, or the next one, while they are exchanged.
    other: Option<Secret>,
}

impl Ephemeral {
    /// Credentials made with `secret`; with `other` too, where there is one, so that a secret can be replaced while
    /// credentials made with it are about.
    pub fn new(algorithm: EphemeralAlgorithm, secret: Secret, other: Option<Secret>) -> Self {
        Self { algorithm, secret, other }
    }

    /// The password of a user name such as `1700000000:alice`, with the first secret.
    pub fn password(&self, username: &str) -> String {
        self.password_with(&self.secret, username)
    }

    fn password_with(&self, secret: &Secret, username: &str) -> String {
        match self.algorithm {
            EphemeralAlgorithm::Sha1 => STANDARD.encode(mac::<Hmac<Sha1>>(secret, username)),
            EphemeralAlgorithm::Sha256 => STANDARD.encode(mac::<Hmac<Sha256>>(secret, username)),
        }
    }
}

fn mac<M: Mac + KeyInit>(secret: &Secret, text: &str) -> Vec<u8> {
    // HMAC takes keys of every length.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(secret.reveal().as_bytes()) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `expiry:user`: when, in milliseconds since the Unix epoch, and who.
fn parse(username: &str) -> Option<(u64, &str)> {
    let (expiry, user) = username.split_once(':')?;
    let digits = !expiry.is_empty() && expiry.bytes().all(|byte| byte.is_ascii_digit());
    let fits = !user.is_empty() && user.len() <= MAX_USER && !user.contains(char::is_control);
    let expiry: u64 = expiry.parse().ok().filter(|_| digits && fits)?;
    Some((expiry.checked_mul(1000)?, user))
}

impl Credentials for Ephemeral {
    fn lookup(&self, query: &Query) -> Lookup {
        let Wants::Hash(algorithm) = query.wants else { return Lookup::Unknown };
        let Some((expires, user)) = parse(&query.user) else { return Lookup::Unknown };
        let ha1 = |secret: &Secret| {
            let password = self.password_with(secret, &query.user);
            Ha1::from_password(algorithm, &query.user, &query.realm, &password)
        };
        let other = self.other.as_ref().map(ha1);
        let entry = Entry::new(ha1(&self.secret));
        // Whether they are over is said to those alone who know the password.
        Lookup::found(Entry { other, user: Some(user.into()), expires: Some(expires), ..entry })
    }

    fn supports(&self, _: Algorithm) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn ephemeral(algorithm: EphemeralAlgorithm) -> Ephemeral {
        Ephemeral::new(algorithm, Secret::new("north"), None)
    }

    /// Expected values: `printf %s 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64`.
    #[test]
    fn passwords_are_those_of_the_scheme() {
        assert_eq!(
            ephemeral(EphemeralAlgorithm::Sha1).password("1700000000:alice"),
            "Cd/49soE35ICqcJF/bCTn8Z4OyE="
        );
        assert_eq!(
            ephemeral(EphemeralAlgorithm::Sha256).password("1700000000:alice"),
            "EuME0Xh0HllnbpbObfs8aBsd78Vr1EMwxArqbyCrGl8="
        );
    }

    #[test]
    fn names_are_an_expiry_and_a_user() {
        assert_eq!(parse("1700000000:alice"), Some((1_700_000_000_000, "alice")));
        assert_eq!(parse("0:a:b"), Some((0, "a:b")));
        for bad in ["", ":", "1", "1:", ":alice", "x:alice", "-1:alice", "+1:alice", "1 :alice", "1:a\nb"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("18446744073709551615:alice"), None);
        assert!(parse(&format!("1:{}", "a".repeat(MAX_USER))).is_some());
        assert_eq!(parse(&format!("1:{}", "a".repeat(MAX_USER + 1))), None);
    }

    #[test]
    fn both_secrets_are_good_while_they_are_exchanged() {
        let algorithm = EphemeralAlgorithm::Sha1;
        let both = Ephemeral::new(algorithm, Secret::new("new"), Some(Secret::new("north")));
        let (user, realm) = ("1700000000:alice".to_owned(), "r".to_owned());
        let wants = Wants::Hash(Algorithm::Md5);
        let query = Query { user, realm, wants, now: Instant::now(), again: false };
        let hashes = |source: &Ephemeral| match source.lookup(&query) {
            Lookup::Found(entry) => {
                assert_eq!((entry.user.as_deref(), entry.expires), (Some("alice"), Some(1_700_000_000_000)));
                (entry.ha1.as_hex().to_owned(), entry.other.map(|other| other.as_hex().to_owned()))
            }
            other => panic!("{other:?}"),
        };
        let (old, none) = hashes(&ephemeral(algorithm));
        assert_eq!(none, None);
        let (new, other) = hashes(&both);
        assert_eq!(other, Some(old.clone()));
        assert_ne!(new, old);
    }
}
