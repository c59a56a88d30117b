//! AUTH requests for this relay (RFC 4976 §5.1, §6.3, §9.1).
//!
//! # The order of things
//!
//! who asks (a client, or a relay on a client's behalf, which its certificate must prove) → is the
//! channel safe → are the credentials right, or was the client's user known from its WebSocket handshake → is Expires acceptable → a session is made. A certificate
//! authenticates the relay, never the user: a relayed AUTH is challenged like any other.
//!
//! The nonce is stateless; only (nonce, nc) pairs that were used with the right password are
//! remembered, so that nobody can fill that memory without one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use msrp_proto::digest::{
    Algorithm, AuthenticationInfo, Authorization, Challenge, Ha1, NonceState, Replayed,
};
use msrp_proto::encoder::HeadWriter;
use msrp_proto::flag::Flag;
use msrp_proto::head::Head;
use msrp_proto::header::Name;
use msrp_proto::status::StatusCode;
use msrp_proto::uri::{MsrpUri, Scheme, UriRef};
use tracing::{debug, info, warn};

use super::counters::Count;
use super::link::{Link, LinkKind};
use super::session::{self, Owner};
use super::{Relay, millis};
use crate::credentials::Credentials as _;

/// What an AUTH came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthOutcome {
    /// A session was made.
    Granted,
    /// A first request without credentials, or with an outdated nonce: the client tries again.
    Challenged,
    /// The client did wrong.
    Refused,
}

/// Why an AUTH is answered with something else than 200.
enum Denial {
    /// 401: no credentials yet.
    Challenge,
    /// 401 with `stale=true`: right password, old nonce.
    Stale,
    /// 401: wrong user, password, realm or nonce.
    WrongCredentials(&'static str),
    /// Any other status, and why.
    Status(StatusCode, String),
    /// 423 with Min-Expires or Max-Expires.
    Expires(Name, Duration),
}

/// What the confirmed credentials were.
struct Confirmed<'a> {
    authorization: Authorization,
    ha1: Ha1,
    digest_uri: Cow<'a, str>,
}

/// What shows who the user is.
enum Proof<'a> {
    /// Digest, in the AUTH itself.
    Digest(Box<Confirmed<'a>>),
    /// The WebSocket handshake, over which the AUTH came (RFC 7977 §5.3.1).
    Handshake(&'a str),
}

impl Proof<'_> {
    fn user(&self) -> &str {
        match self {
            Self::Digest(confirmed) => confirmed.authorization.username(),
            Self::Handshake(user) => user,
        }
    }
}

impl Relay {
    /// Answers an AUTH of which the one URI in To-Path is ours.
    pub(crate) fn authenticate(&self, head: &Head, link: &Arc<Link>, now: Instant) -> AuthOutcome {
        match self.try_authenticate(head, link, now) {
            Ok(()) => AuthOutcome::Granted,
            Err(denial) => {
                let outcome = match &denial {
                    Denial::Challenge | Denial::Stale => AuthOutcome::Challenged,
                    _ => AuthOutcome::Refused,
                };
                self.deny(head, link, &denial);
                outcome
            }
        }
    }

    fn try_authenticate(&self, head: &Head, link: &Arc<Link>, now: Instant) -> Result<(), Denial> {
        let relay = self.asking_relay(head, link)?;
        let secure = link.peer().is_some_and(|peer| peer.secure);
        if !secure && !self.settings.auth.allow_auth_without_tls {
            let reason = "AUTH over plain TCP is not allowed (`allow_auth_without_tls`)";
            return Err(Denial::Status(StatusCode::FORBIDDEN, reason.into()));
        }
        let principal = link.peer().and_then(|peer| peer.principal.as_deref());
        let proof = match principal {
            // Of the connection's own client only: of whom a relay asks for, its handshake says nothing.
            Some(user) if relay.is_none() && head.value(Name::Authorization).is_none() => {
                Proof::Handshake(user)
            }
            _ => Proof::Digest(Box::new(self.check_credentials(head)?)),
        };
        let lifetime = self.lifetime(head)?;
        let limit = self.settings.limits.sessions_per_connection;
        if relay.is_none() && link.owned_count() >= limit {
            let reason = format!("the connection has {limit} sessions already");
            return Err(Denial::Status(StatusCode::FORBIDDEN, reason));
        }
        self.grant(head, link, relay, &proof, lifetime, now)
    }

    /// The relay that asks on a client's behalf, if one does. Its certificate must name the host in
    /// the first From-Path URI (RFC 4976 §6.3).
    fn asking_relay(&self, head: &Head, link: &Link) -> Result<Option<Box<str>>, Denial> {
        let mut hops = head.from_path();
        let Some(previous) = hops.next().filter(|_| hops.next().is_some()) else { return Ok(None) };
        if link.is_relay(previous.host()) {
            return Ok(Some(previous.host().to_ascii_lowercase().into()));
        }
        let reason = format!("its certificate does not prove that it is the relay {}", previous.host());
        Err(Denial::Status(StatusCode::FORBIDDEN, reason))
    }

    fn check_credentials<'h>(&self, head: &'h Head) -> Result<Confirmed<'h>, Denial> {
        let Some(value) = head.value(Name::Authorization) else { return Err(Denial::Challenge) };
        let bad_request = |reason: String| Denial::Status(StatusCode::BAD_REQUEST, reason);
        let authorization = Authorization::parse(value).map_err(|error| bad_request(error.to_string()))?;
        let digest_uri = digest_uri(head, authorization.uri())
            .ok_or_else(|| bad_request("uri= is not the last URI of To-Path".into()))?;
        let ha1 = self.confirm(&authorization, "AUTH", &digest_uri)?;
        Ok(Confirmed { authorization, ha1, digest_uri })
    }

    /// Whether the credentials are right for a request of this method and URI; gives the hash they prove.
    fn confirm(&self, authorization: &Authorization, method: &str, digest_uri: &str) -> Result<Ha1, Denial> {
        let auth = &self.settings.auth;
        if authorization.realm() != auth.realm {
            return Err(Denial::WrongCredentials("wrong realm"));
        }
        if !auth.algorithms.contains(&authorization.algorithm()) {
            return Err(Denial::WrongCredentials("an algorithm that was not offered"));
        }
        let unix_millis = self.wall_clock.unix_millis();
        let nonce =
            self.nonces.check(unix_millis, &auth.realm, authorization.nonce(), millis(auth.nonce_expire));
        if matches!(nonce, NonceState::Forged) {
            return Err(Denial::WrongCredentials("a nonce that is not ours"));
        }
        let known = auth.credentials.ha1(authorization.username(), &auth.realm, authorization.algorithm());
        let user_known = known.is_some();
        // An unknown user costs the same time as a known one.
        let ha1 = known.unwrap_or_else(|| decoy(authorization.algorithm()));
        if !authorization.verify(&ha1, method, digest_uri) || !user_known {
            return Err(Denial::WrongCredentials(if user_known { "wrong password" } else { "unknown user" }));
        }
        // Only who knows the password learns that the nonce was the trouble (RFC 7616 §3.3).
        let NonceState::Fresh(nonce) = nonce else { return Err(Denial::Stale) };
        let replayed = self.replay.lock().check_and_store(nonce, authorization.nc(), unix_millis);
        match replayed {
            Ok(()) => Ok(ha1),
            Err(Replayed::Count) => Err(Denial::WrongCredentials("a replayed nonce count")),
            Err(_) => Err(Denial::Stale),
        }
    }

    /// Who sent an HTTP request with these credentials: Digest in a WebSocket's opening handshake (RFC 7977 §5.3.1, §7).
    /// `target` is the request's, as it was sent; the users, nonces and replays are those of AUTH.
    ///
    /// # Errors
    /// The challenges to answer with 401, each the value of a WWW-Authenticate field.
    pub fn http_digest(
        &self,
        method: &str,
        target: &str,
        authorization: Option<&str>,
        peer: &str,
    ) -> Result<Arc<str>, Vec<String>> {
        let challenges = |stale| Err(self.challenges(stale).map(|challenge| challenge.to_string()).collect());
        let Some(value) = authorization else { return challenges(false) };
        let parsed = Authorization::parse(value).ok();
        let confirmed = match &parsed {
            None => Err(Denial::WrongCredentials("credentials that cannot be read")),
            Some(parsed) if parsed.uri() != Some(target) => {
                Err(Denial::WrongCredentials("uri= is not what was asked for"))
            }
            Some(parsed) => self.confirm(parsed, method, target).map(|_| parsed.username().into()),
        };
        let user = parsed.as_ref().map(Authorization::username);
        match confirmed {
            Ok(user) => Ok(user),
            Err(Denial::Stale) => {
                info!(peer, "WebSocket handshake with an outdated nonce: challenged anew");
                challenges(true)
            }
            Err(denial) => {
                let reason = if let Denial::WrongCredentials(reason) = denial { reason } else { "refused" };
                warn!(peer, user, reason, "AUTH failed: the WebSocket handshake");
                challenges(false)
            }
        }
    }

    /// How long the session lives: as the client wishes, within our bounds.
    fn lifetime(&self, head: &Head) -> Result<Duration, Denial> {
        let bounds = &self.settings.auth.expires;
        let wish =
            head.expires().map_err(|error| Denial::Status(StatusCode::BAD_REQUEST, error.to_string()))?;
        let Some(wish) = wish.map(Duration::from_secs) else { return Ok(bounds.default) };
        match () {
            () if wish < bounds.min => Err(Denial::Expires(Name::MinExpires, bounds.min)),
            () if wish > bounds.max => Err(Denial::Expires(Name::MaxExpires, bounds.max)),
            () => Ok(wish),
        }
    }

    fn grant(
        &self,
        head: &Head,
        link: &Arc<Link>,
        relay: Option<Box<str>>,
        proof: &Proof<'_>,
        lifetime: Duration,
        now: Instant,
    ) -> Result<(), Denial> {
        let internal = |reason: String| Denial::Status(StatusCode::FORBIDDEN, reason);
        let info = match proof {
            Proof::Digest(confirmed) => {
                let Confirmed { authorization, ha1, digest_uri } = &**confirmed;
                let nextnonce = self.new_nonce();
                let info = AuthenticationInfo::confirm(authorization, ha1, digest_uri, Some(&nextnonce));
                Some(info.map_err(|error| internal(error.to_string()))?)
            }
            Proof::Handshake(_) => None,
        };
        let id = session::new_id(&*self.random);
        let uri = self.session_uri(link, id).ok_or_else(|| internal("no listener to name".into()))?;
        let owner = match relay {
            Some(host) => Owner::Relay { host },
            None => Owner::Client(Arc::clone(link)),
        };
        let time = session::Granted { began: now, unix_millis: self.wall_clock.unix_millis(), lifetime };
        let session = self.sessions.insert(id, uri, owner, proof.user(), time);
        info!(
            link = link.id(),
            peer = link.address(),
            user = session.user(),
            session = %session.uri(),
            expires = lifetime.as_secs(),
            "session granted"
        );
        // The client is the last of From-Path; the relays between it and us are nearest first.
        let mut relays: Vec<UriRef<'_>> = head.from_path().rev().skip(1).collect();
        let own = session.uri().as_ref();
        relays.push(own);
        let sent = link.send_control(|out| {
            let mut response =
                answer(out, head, StatusCode::OK).path(Name::UsePath, relays.iter().map(UriRef::as_str));
            if let Some(info) = &info {
                response = response.field(Name::AuthenticationInfo, info);
            }
            response.field(Name::Expires, lifetime.as_secs()).end(Flag::Complete);
        });
        if sent.is_err() {
            self.sessions.remove(id);
            session.release();
            return Ok(());
        }
        link.count(Count::AuthsGranted, 1);
        link.count_response(StatusCode::OK);
        if let Some(observer) = self.observer.get() {
            observer.began(&session);
        }
        Ok(())
    }

    /// Our URI for a session: as the listener calls itself over which the client came. Over a
    /// connection that we opened, the first listener of the same scheme. Over a WebSocket, the first one
    /// for TLS, else for TCP: the peer has to be able to open a connection there (RFC 7977 §5.2.2).
    fn session_uri(&self, link: &Link, id: u128) -> Option<MsrpUri> {
        let listeners = &self.settings.listeners;
        let reachable = || listeners.iter().filter(|own| own.websocket.is_none());
        let own = match link.kind() {
            LinkKind::Accepted { listener } => listeners.get(*listener).filter(|own| own.websocket.is_none()),
            LinkKind::Dialled { target, .. } => reachable().find(|own| own.scheme == target.scheme),
        };
        let own = own
            .or_else(|| reachable().find(|own| own.scheme == Scheme::Msrps))
            .or_else(|| reachable().next())?;
        format!("{}://{}:{}/{};tcp", own.scheme, own.host, own.port, session::write_id(id)).parse().ok()
    }

    fn new_nonce(&self) -> String {
        let mut bits = [0; 8];
        self.random.fill(&mut bits);
        self.nonces.issue(self.wall_clock.unix_millis(), &self.settings.auth.realm, bits)
    }

    fn deny(&self, head: &Head, link: &Link, denial: &Denial) {
        let peer = link.address();
        match denial {
            Denial::Challenge => {}
            Denial::Stale => info!(link = link.id(), peer, "AUTH with an outdated nonce: challenged anew"),
            Denial::WrongCredentials(reason) => {
                let authorization = head.value(Name::Authorization).map(Authorization::parse);
                let user = authorization.and_then(Result::ok).map(|value| value.username().to_owned());
                warn!(link = link.id(), peer, user, reason, "AUTH failed");
            }
            Denial::Status(status, reason) => warn!(link = link.id(), peer, %status, reason, "AUTH refused"),
            Denial::Expires(bound, value) => {
                debug!(
                    link = link.id(),
                    peer,
                    bound = bound.as_str(),
                    seconds = value.as_secs(),
                    "AUTH answered with 423: Expires out of bounds"
                );
            }
        }
        let (count, status) = match denial {
            Denial::Challenge => (Count::AuthsChallenged, StatusCode::UNAUTHORIZED),
            Denial::Stale => (Count::AuthsStale, StatusCode::UNAUTHORIZED),
            Denial::WrongCredentials(_) => (Count::AuthsFailed, StatusCode::UNAUTHORIZED),
            Denial::Status(status, _) => (Count::AuthsRefused, *status),
            Denial::Expires(..) => (Count::AuthsRefused, StatusCode::OUT_OF_BOUNDS),
        };
        link.count(count, 1);
        link.count_response(status);
        // A connection that is closed needs no answer.
        let _ = link.send_control(|out| match denial {
            Denial::Challenge | Denial::WrongCredentials(_) => self.challenge(out, head, false),
            Denial::Stale => self.challenge(out, head, true),
            Denial::Status(status, _) => answer(out, head, *status).end(Flag::Complete),
            Denial::Expires(bound, value) => {
                answer(out, head, StatusCode::OUT_OF_BOUNDS)
                    .field(*bound, value.as_secs())
                    .end(Flag::Complete);
            }
        });
    }

    /// 401 with one challenge for each algorithm, the same nonce and opaque in all.
    fn challenge(&self, out: &mut Vec<u8>, head: &Head, stale: bool) {
        let mut response = answer(out, head, StatusCode::UNAUTHORIZED);
        for challenge in self.challenges(stale) {
            response = response.field(Name::WwwAuthenticate, challenge);
        }
        response.end(Flag::Complete);
    }

    /// A challenge for each algorithm.
    fn challenges(&self, stale: bool) -> impl Iterator<Item = Challenge> {
        let auth = &self.settings.auth;
        let (nonce, opaque) = (self.new_nonce(), self.nonces.opaque());
        auth.algorithms.iter().filter_map(move |&algorithm| {
            // Realm, nonce and opaque are ours and have no control characters: it never fails.
            let challenge = Challenge::new(algorithm, &auth.realm, &nonce).ok()?.with_opaque(&opaque).ok()?;
            Some(challenge.with_stale(stale))
        })
    }
}

/// Begins the response to an AUTH: it travels the whole way back, and we call ourselves what the
/// client called us.
fn answer<'a>(out: &'a mut Vec<u8>, head: &Head, status: StatusCode) -> HeadWriter<'a, Vec<u8>> {
    HeadWriter::response(out, &head.transaction_id(), status)
        .path(Name::ToPath, [head.from_path_text()])
        .path(Name::FromPath, [head.to_path_text(0)])
}

/// The URI that goes into H(A2): the rightmost of To-Path as it was sent (RFC 4976 §9.1). A client
/// that sends `uri=` may write the same URI otherwise, and has hashed what it wrote.
fn digest_uri<'h>(head: &'h Head, sent: Option<&str>) -> Option<Cow<'h, str>> {
    let last = head.to_path().next_back()?;
    match sent {
        Some(sent) => (UriRef::parse(sent).ok()? == last).then(|| sent.to_owned().into()),
        None => Some(last.as_str().into()),
    }
}

fn decoy(algorithm: Algorithm) -> Ha1 {
    Ha1::from_password(algorithm, "", "", "")
}
