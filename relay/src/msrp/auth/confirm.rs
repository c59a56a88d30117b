//! Whether credentials are right, and what is known of who sent them: for AUTH, and for a WebSocket's handshake.

use std::time::Instant;

use msrp_proto::digest::{Algorithm, Authorization, Ha1, NonceState, Replayed};
use tracing::{debug, warn};

use super::Denial;
use super::identity::Identity;
use crate::credentials::{Credentials as _, Entry, Lookup, Query, Wants};
use crate::msrp::Relay;
use crate::msrp::throttle::{NoPlace, Place};

/// Why credentials are not decided about yet.
#[derive(Debug)]
pub enum Later {
    /// They wait until then.
    Until(Instant),
    /// A source is to be asked: [`Credentials::fetch`](crate::credentials::Credentials::fetch).
    Lookup(Query),
}

/// What there is of credentials that were put aside.
#[derive(Debug, Default)]
pub struct Attempt {
    /// How much has been tried over the connection before: failures, and what waits.
    tried: u32,
    /// They have waited as long as they had to.
    waited: bool,
    /// Where they wait.
    place: Option<Place>,
    /// What was at hand, and was not what the client knows, if they were asked for it again.
    at_hand: Option<Lookup>,
    /// What the sources said of the user's password.
    found: Option<Lookup>,
    /// What they said of the user's limits.
    limits: Option<Lookup>,
}

impl Attempt {
    /// Over a connection over which so much has been tried.
    pub(crate) fn after(tried: u32) -> Self {
        Self { tried, ..Self::default() }
    }

    /// The time has come. What was known before may not be true any more.
    pub fn has_waited(&mut self) {
        *self = Self { tried: self.tried, waited: true, place: self.place.take(), ..Self::default() };
    }

    /// The sources have said what was asked.
    pub fn answered(&mut self, wants: Wants, found: Lookup) {
        match wants {
            Wants::Hash(_) => self.found = Some(found),
            Wants::Limits => self.limits = Some(found),
        }
    }
}

/// A request with credentials, for [`Relay::confirm`].
pub(super) struct Claim<'a> {
    pub(super) authorization: &'a Authorization,
    pub(super) method: &'a str,
    pub(super) digest_uri: &'a str,
    /// Where it comes from.
    pub(super) address: &'a str,
    pub(super) now: Instant,
}

/// What was proved: the hash, and the user's entry; or why nothing was.
type Proved = Result<(Ha1, Entry), &'static str>;

impl Relay {
    /// Whether the credentials are right; gives the hash they prove, and who it is.
    pub(super) fn confirm(
        &self,
        claim: &Claim<'_>,
        attempt: &mut Attempt,
    ) -> Result<(Ha1, Identity), Denial> {
        let current = self.current();
        let auth = &current.auth;
        let Claim { authorization, address, now, .. } = *claim;
        let user = authorization.username();
        if authorization.realm() != auth.realm {
            return Err(Denial::WrongCredentials("wrong realm"));
        }
        if !auth.algorithms.contains(&authorization.algorithm()) {
            return Err(Denial::WrongCredentials("an algorithm that was not offered"));
        }
        let unix_millis = self.wall_clock.unix_millis();
        let nonces_now = self.nonce_clock.now(unix_millis);
        let nonce = current.nonce_state(nonces_now, authorization.nonce());
        if matches!(nonce, NonceState::Forged) {
            return Err(Denial::WrongCredentials("a nonce that is not ours"));
        }
        if !attempt.waited {
            let entered = self.throttle.enter(address, user, attempt.tried, &*self.random, now);
            if let Some((until, place)) = entered.map_err(|NoPlace| Denial::Throttled)? {
                attempt.place = Some(place);
                return Err(Denial::Later(Later::Until(until)));
            }
        }
        if attempt.place.take().is_some_and(|place| !place.is_kept()) {
            return Err(Denial::Throttled);
        }
        let proved = match self.prove(claim, attempt) {
            Err(Denial::Unproved(reason)) => {
                self.throttle.failed(address, user, now);
                warn!(peer = address, user, reason, "AUTH failed");
                return Err(Denial::Unproved(reason));
            }
            other => other?,
        };
        let proved = match proved {
            Ok((_, entry)) if entry.expires.is_some_and(|at| at <= unix_millis) => Err("expired credentials"),
            proved => proved,
        };
        let (ha1, entry) = match proved {
            Ok(proved) => proved,
            Err(reason) => {
                self.throttle.failed(address, user, now);
                return Err(Denial::WrongCredentials(reason));
            }
        };
        // Only who knows the password learns that the nonce was the trouble (RFC 7616 §3.3).
        let NonceState::Fresh(nonce) = nonce else { return Err(Denial::Stale) };
        let identity = self.with_limits(Identity::of_entry(user, &entry), attempt, now)?;
        let replayed = self.replay.lock().check_and_store(nonce, authorization.nc(), nonces_now);
        match replayed {
            Ok(()) => {
                self.throttle.succeeded(address, user);
                Ok((ha1, identity))
            }
            Err(Replayed::Count) => Err(Denial::WrongCredentials("a replayed nonce count")),
            Err(_) => Err(Denial::Stale),
        }
    }

    /// Whether who sent it knows the password. As much is computed for a user nobody knows.
    fn prove(&self, claim: &Claim<'_>, attempt: &mut Attempt) -> Result<Proved, Denial> {
        let Claim { authorization, method, digest_uri, now, .. } = *claim;
        let current = self.current();
        let auth = &current.auth;
        let query = |again| Query {
            user: authorization.username().to_owned(),
            realm: auth.realm.clone(),
            wants: Wants::Hash(authorization.algorithm()),
            now,
            again,
        };
        let verify = |entry: &Entry| -> Proved {
            let right = |ha1: &&Ha1| authorization.verify(ha1, method, digest_uri);
            // Both are looked at, whichever is right.
            let (first, other) = (Some(&entry.ha1).filter(right), entry.other.as_ref().filter(right));
            first.or(other).cloned().map(|ha1| (ha1, entry.clone())).ok_or("wrong password")
        };
        let unknown = || {
            let _ = authorization.verify(&decoy(authorization.algorithm()), method, digest_uri);
            "unknown user"
        };
        // What is wrong by what is at hand, when nobody else can say more.
        let unproved = |at_hand: Option<&Lookup>, away: bool| {
            // For all of them as much is computed.
            unknown();
            match at_hand {
                Some(Lookup::Found(entry)) if !entry.remembered => Denial::Unproved("wrong password"),
                Some(Lookup::Found(_)) if !away => Denial::Unproved("wrong password, by what is remembered"),
                _ => Denial::Unavailable,
            }
        };
        if let Some(found) = &attempt.found {
            return match found {
                Lookup::Found(entry) => Ok(verify(entry)),
                Lookup::Unknown | Lookup::Limits(_) => Ok(Err(unknown())),
                Lookup::Unanswered => Err(unproved(attempt.at_hand.as_ref(), false)),
                // Nobody is asked twice.
                Lookup::Unavailable | Lookup::Later => Err(unproved(attempt.at_hand.as_ref(), true)),
            };
        }
        let at_hand = auth.credentials.lookup(&query(false));
        match &at_hand {
            Lookup::Found(entry) => {
                if let Ok(proved) = verify(entry) {
                    return Ok(Ok(proved));
                }
            }
            Lookup::Unknown | Lookup::Limits(_) => drop(unknown()),
            Lookup::Later => return Err(Denial::Later(Later::Lookup(query(false)))),
            Lookup::Unavailable | Lookup::Unanswered => return Err(unproved(None, true)),
        }
        // Unknown users too: what is done for both must take the same time.
        match auth.credentials.lookup(&query(true)) {
            Lookup::Found(entry) => Ok(verify(&entry)),
            Lookup::Unknown | Lookup::Limits(_) => Ok(Err(unknown())),
            Lookup::Later => {
                attempt.at_hand = Some(at_hand);
                Err(Denial::Later(Later::Lookup(query(true))))
            }
            Lookup::Unavailable => Err(unproved(Some(&at_hand), true)),
            Lookup::Unanswered => Err(unproved(Some(&at_hand), false)),
        }
    }

    /// With the user's own limits, if who the user is was not proved by the entry that has them. Where nobody can say
    /// what they are, those of all users count: who it is has been proved.
    pub(super) fn with_limits(
        &self,
        identity: Identity,
        attempt: &Attempt,
        now: Instant,
    ) -> Result<Identity, Denial> {
        if identity.limits.is_some() {
            return Ok(identity);
        }
        let current = self.current();
        let auth = &current.auth;
        let found = attempt.limits.clone().map_or_else(
            || {
                let (user, realm) = (identity.user.to_string(), auth.realm.clone());
                let query = Query { user, realm, wants: Wants::Limits, now, again: false };
                match auth.credentials.lookup(&query) {
                    Lookup::Later => Err(Denial::Later(Later::Lookup(query))),
                    found => Ok(found),
                }
            },
            Ok,
        )?;
        let limits = match found {
            Lookup::Limits(limits) => Some(*limits),
            Lookup::Unavailable | Lookup::Unanswered => {
                debug!(user = &*identity.user, "the user's own limits are not known now: those of all count");
                None
            }
            _ => None,
        };
        Ok(Identity { limits, ..identity })
    }
}

fn decoy(algorithm: Algorithm) -> Ha1 {
    Ha1::from_password(algorithm, "", "", "")
}
