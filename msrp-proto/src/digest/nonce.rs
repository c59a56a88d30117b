//! Nonces that the relay need not remember.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use super::algorithm::hex;

/// How far in the future a nonce may have been issued, in milliseconds: the clocks of a farm that
/// shares a secret differ. One issued later than that is [`Forged`](NonceState::Forged).
pub const CLOCK_SKEW_MILLIS: u64 = 30_000;

/// How many bytes a secret has at least. Shorter ones can be searched for by whoever holds one nonce.
pub const MIN_SECRET_LEN: usize = 16;

const TIME_LEN: usize = 8;
const RANDOM_LEN: usize = 8;
const TAG_LEN: usize = 16;
const NONCE_LEN: usize = TIME_LEN + RANDOM_LEN + TAG_LEN;
/// The length of [`NONCE_LEN`] bytes in base64 without padding.
const TEXT_LEN: usize = (NONCE_LEN * 4).div_ceil(3);

/// The secret that makes nonces, and recognises them without a table (RFC 7616 §3.3 `nonce`).
///
/// A nonce is, in base64url without padding: the time of issue (milliseconds since the Unix epoch, 8
/// bytes, big-endian), 8 random bytes, and the first 16 bytes of HMAC-SHA256 over both and the realm.
/// Relays that share the secret recognise each other's nonces. `Debug` does not show the secret.
#[derive(Clone)]
pub struct NonceKey(Hmac<Sha256>);

/// What a nonce is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonceState {
    /// It is ours and within its lifetime.
    Fresh(FreshNonce),
    /// It was ours, and its lifetime is over: the client gets a challenge with `stale=true`.
    Stale,
    /// It was not issued under this secret for this realm, or in the future: the client gets an
    /// ordinary challenge.
    Forged,
}

/// A nonce that [`NonceKey::check`] found to be ours and within its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FreshNonce {
    // The order of the fields is the order of age, which `ReplayGuard` sorts by.
    issued: u64,
    random: [u8; RANDOM_LEN],
}

/// The secret is shorter than [`MIN_SECRET_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a nonce secret has at least {MIN_SECRET_LEN} bytes")]
pub struct ShortSecret;

impl NonceKey {
    /// A key from a secret of any length from [`MIN_SECRET_LEN`] bytes.
    ///
    /// # Errors
    /// [`ShortSecret`] if it is shorter.
    pub fn new(secret: &[u8]) -> Result<Self, ShortSecret> {
        if secret.len() < MIN_SECRET_LEN {
            return Err(ShortSecret);
        }
        Hmac::new_from_slice(secret).map(Self).map_err(|_| ShortSecret)
    }

    /// A nonce for `realm`. `random` has to differ from nonce to nonce: two that are alike share
    /// one nonce count, and so one of the two clients would be taken for a replay.
    pub fn issue(&self, now_unix_millis: u64, realm: &str, random: [u8; 8]) -> String {
        let mut nonce = [0; NONCE_LEN];
        nonce[..TIME_LEN].copy_from_slice(&now_unix_millis.to_be_bytes());
        nonce[TIME_LEN..][..RANDOM_LEN].copy_from_slice(&random);
        let (head, tag) = nonce.split_at_mut(TIME_LEN + RANDOM_LEN);
        tag.copy_from_slice(&self.mac(head, realm).finalize().into_bytes()[..TAG_LEN]);
        URL_SAFE_NO_PAD.encode(nonce)
    }

    /// What a nonce that a client sent for `realm` is worth at `now_unix_millis`.
    ///
    /// It is fresh for less than `lifetime_millis`, and stale from then on. The HMAC is compared in
    /// constant time, before anything else is believed.
    pub fn check(&self, now_unix_millis: u64, realm: &str, nonce: &str, lifetime_millis: u64) -> NonceState {
        let Some(FreshNonce { issued, random }) = self.recognise(realm, nonce) else {
            return NonceState::Forged;
        };
        if issued > now_unix_millis.saturating_add(CLOCK_SKEW_MILLIS) {
            return NonceState::Forged;
        }
        if now_unix_millis.saturating_sub(issued) >= lifetime_millis {
            return NonceState::Stale;
        }
        NonceState::Fresh(FreshNonce { issued, random })
    }

    /// An `opaque` that is the same for all challenges under this secret and says nothing about it.
    pub fn opaque(&self) -> String {
        hex(&self.mac(b"opaque", "").finalize().into_bytes()[..TAG_LEN])
    }

    fn recognise(&self, realm: &str, nonce: &str) -> Option<FreshNonce> {
        if nonce.len() != TEXT_LEN {
            return None;
        }
        // The engine refuses non-canonical endings, so that a nonce has one spelling only.
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let (head, tag) = bytes.split_at_checked(TIME_LEN + RANDOM_LEN)?;
        self.mac(head, realm).verify_truncated_left(tag).ok()?;
        let (time, random) = head.split_first_chunk()?;
        Some(FreshNonce { issued: u64::from_be_bytes(*time), random: random.try_into().ok()? })
    }

    /// The HMAC over `head`, which has a fixed length for each use, and `realm`.
    fn mac(&self, head: &[u8], realm: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(head).chain_update(realm)
    }
}

impl FreshNonce {
    /// When it was issued, in milliseconds since the Unix epoch.
    pub fn issued(self) -> u64 {
        self.issued
    }
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const LIFETIME: u64 = 60_000;
    const REALM: &str = "relay.test";

    fn key() -> NonceKey {
        NonceKey::new(b"0123456789abcdef0123456789abcdef").unwrap()
    }

    fn issued(state: NonceState) -> Option<u64> {
        match state {
            NonceState::Fresh(nonce) => Some(nonce.issued()),
            NonceState::Stale | NonceState::Forged => None,
        }
    }

    /// Expected values computed with Python's hmac and hashlib.
    #[test]
    fn the_format_is_the_documented_one() {
        let nonce = key().issue(NOW, REALM, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(nonce, "AAABi8_laAAAAQIDBAUGB_LbPQ1a5moNkNSZQvt4-0M");
        assert_eq!(nonce.len(), TEXT_LEN);
        assert_eq!(key().opaque(), "b015f1ba0ef5a5efa67104d18148f23e");
    }

    #[test]
    fn a_nonce_is_fresh_until_its_lifetime_is_over() {
        let nonce = key().issue(NOW, REALM, [1; 8]);
        let check = |now| key().check(now, REALM, &nonce, LIFETIME);
        for now in [NOW, NOW + 1, NOW + LIFETIME - 1] {
            assert_eq!(issued(check(now)), Some(NOW));
        }
        for now in [NOW + LIFETIME, NOW + LIFETIME + 1, u64::MAX] {
            assert_eq!(check(now), NonceState::Stale);
        }
        assert_eq!(key().check(NOW, REALM, &nonce, 0), NonceState::Stale);
        assert_eq!(issued(key().check(u64::MAX - 1, REALM, &nonce, u64::MAX)), Some(NOW));
    }

    #[test]
    fn a_nonce_from_the_future_is_forged_beyond_the_skew_of_clocks() {
        let nonce = key().issue(NOW, REALM, [1; 8]);
        let check = |now| key().check(now, REALM, &nonce, LIFETIME);
        assert_eq!(issued(check(NOW - CLOCK_SKEW_MILLIS)), Some(NOW));
        assert_eq!(check(NOW - CLOCK_SKEW_MILLIS - 1), NonceState::Forged);
        assert_eq!(check(0), NonceState::Forged);
    }

    #[test]
    fn a_nonce_of_another_realm_or_secret_is_forged() {
        let nonce = key().issue(NOW, REALM, [1; 8]);
        let other = NonceKey::new(b"another secret of fair length").unwrap();
        assert_eq!(key().check(NOW, "other.test", &nonce, LIFETIME), NonceState::Forged);
        assert_eq!(other.check(NOW, REALM, &nonce, LIFETIME), NonceState::Forged);
        // A forged nonce is not told apart by its age.
        assert_eq!(other.check(NOW + LIFETIME, REALM, &nonce, LIFETIME), NonceState::Forged);
        assert_ne!(other.opaque(), key().opaque());
        // One realm more in a farm does not move bytes between the fields.
        assert_ne!(key().issue(NOW, "", [1; 8]), nonce);
    }

    #[test]
    fn every_altered_character_makes_it_forged() {
        let nonce = key().issue(NOW, REALM, [1; 8]);
        for index in 0..nonce.len() {
            for replacement in "ABab09-_=é".chars().filter(|char| !nonce[index..].starts_with(*char)) {
                let altered = format!("{}{replacement}{}", &nonce[..index], &nonce[index + 1..]);
                assert_eq!(key().check(NOW, REALM, &altered, LIFETIME), NonceState::Forged, "{altered}");
            }
        }
        for altered in ["", &nonce[1..], &format!("{nonce}="), &format!("{nonce}A"), &format!(" {nonce}")] {
            assert_eq!(key().check(NOW, REALM, altered, LIFETIME), NonceState::Forged, "{altered}");
        }
    }

    #[test]
    fn short_secrets_are_refused_and_none_is_shown() {
        assert_eq!(NonceKey::new(&[b'x'; MIN_SECRET_LEN - 1]).err(), Some(ShortSecret));
        assert!(NonceKey::new(&[b'x'; MIN_SECRET_LEN]).is_ok());
        assert!(NonceKey::new(&[b'x'; 1000]).is_ok());
        assert_eq!(format!("{:?}", key()), "NonceKey(..)");
    }

    proptest! {
        #[test]
        fn what_is_issued_is_fresh(now: u64, realm: String, random: [u8; 8]) {
            let nonce = key().issue(now, &realm, random);
            let fresh = FreshNonce { issued: now, random };
            prop_assert_eq!(key().check(now, &realm, &nonce, 1), NonceState::Fresh(fresh));
        }

        #[test]
        fn any_text_is_forged(nonce in prop_oneof![any::<String>(), "[A-Za-z0-9_-]{43}"], now: u64) {
            prop_assert_eq!(key().check(now, REALM, &nonce, LIFETIME), NonceState::Forged);
        }
    }
}
