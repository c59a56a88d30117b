//! AUTH requests for this relay (RFC 4976 §5.1, §6.3, §9.1).
//!
//! # The order of things
//!
//! who asks (a client, or a relay on a client's behalf, which its certificate must prove) → is the
//! channel safe → are the credentials right, or was the client's user known from its WebSocket handshake → is Expires
//! acceptable → a session is made. A certificate authenticates the relay, never the user: a relayed AUTH is challenged
//! like any other.
//!
//! Two things take time: a user and address that keep failing wait before they are looked at (see `throttle`), and a
//! database has to be asked, for a hash or for the limits of a user known by other means. The AUTH comes to
//! [`AuthOutcome::Later`] then, is put aside (see `inbound::aside`), and is looked at again from the beginning with what
//! is known by then ([`Attempt`]). If the database is away, or has too much to do, it is answered with 408, which a
//! client takes as an answer that did not come (RFC 4975 §10.4): it tries again, and has not been let in.
//!
//! What nobody could say counts against nobody. What is wrong by what is at hand does, though it is answered 408 too
//! ([`Denial::Unproved`]): else passwords could be tried at will while the database is busy, and those of the file while
//! it is away.
//!
//! Credentials that are good until some time, and the sessions obtained with them, end then: a client that asks for
//! longer gets that, and `Expires` says so.
//!
//! The nonce is stateless; only (nonce, nc) pairs that were used with the right password are
//! remembered, so that nobody can fill that memory without one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use msrp_proto::digest::{Algorithm, AuthenticationInfo, Authorization, Challenge, Ha1};
use msrp_proto::encoder::HeadWriter;
use msrp_proto::flag::Flag;
use msrp_proto::head::Head;
use msrp_proto::header::Name;
use msrp_proto::status::StatusCode;
use msrp_proto::uri::{MsrpUri, Scheme, UriRef};
use tracing::{debug, info, warn};

use self::confirm::Claim;
use self::identity::Identity;
use super::counters::Count;
use super::drain::NotNow;
use super::link::Link;
use super::peer::LinkKind;
use super::session::{self, Owner};
use super::user::TooManySessions;
use super::{Advertised, Relay};

mod confirm;
mod http;
mod identity;

pub use self::confirm::{Attempt, Later};
pub use self::http::HandshakeDenial;
pub(crate) use self::identity::user_of_principal;

/// What an AUTH came to.
#[derive(Debug)]
pub(crate) enum AuthOutcome {
    /// A session was made.
    Granted,
    /// A first request without credentials, or with an outdated nonce: the client tries again.
    Challenged,
    /// The client did wrong.
    Refused,
    /// Nobody could say whether it did; answered with 408.
    Unanswered,
    /// It is not answered yet.
    Later(Later),
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
    /// 408: whoever knows is away, or did not answer.
    Unavailable,
    /// 408 too, as for a user nobody could say anything of; but the password is wrong by what is at hand.
    Unproved(&'static str),
    /// 408: so many others of this user wait that it was not looked at.
    Throttled,
    /// 408: the relay drains.
    Draining,
    /// No answer yet.
    Later(Later),
}

impl From<NotNow> for Denial {
    fn from(_: NotNow) -> Self {
        Self::Draining
    }
}

/// What the confirmed credentials were.
struct Confirmed<'a> {
    authorization: Authorization,
    ha1: Ha1,
    identity: Identity,
    digest_uri: Cow<'a, str>,
}

/// What shows who the user is.
enum Proof<'a> {
    /// Digest, in the AUTH itself.
    Digest(Box<Confirmed<'a>>),
    /// The WebSocket handshake, over which the AUTH came (RFC 7977 §5.3.1).
    Handshake(Identity),
}

impl Proof<'_> {
    fn identity(&self) -> &Identity {
        match self {
            Self::Digest(confirmed) => &confirmed.identity,
            Self::Handshake(identity) => identity,
        }
    }
}

impl Relay {
    /// Answers an AUTH of which the one URI in To-Path is ours, or says what it waits for. Then it is to be called
    /// again with that in `attempt`.
    pub(crate) fn authenticate(
        &self,
        head: &Head,
        link: &Arc<Link>,
        attempt: &mut Attempt,
        now: Instant,
    ) -> AuthOutcome {
        match self.try_authenticate(head, link, attempt, now) {
            Ok(()) => AuthOutcome::Granted,
            Err(Denial::Later(later)) => AuthOutcome::Later(later),
            Err(denial) => {
                let outcome = match &denial {
                    Denial::Challenge | Denial::Stale => AuthOutcome::Challenged,
                    // A connection that is closed for one of them would tell them apart.
                    Denial::Unavailable | Denial::Unproved(_) | Denial::Draining => AuthOutcome::Unanswered,
                    _ => AuthOutcome::Refused,
                };
                self.deny(head, link, &denial);
                outcome
            }
        }
    }

    fn try_authenticate(
        &self,
        head: &Head,
        link: &Arc<Link>,
        attempt: &mut Attempt,
        now: Instant,
    ) -> Result<(), Denial> {
        let relay = self.asking_relay(head, link)?;
        let until = self.grants_until(relay.is_some())?;
        let secure = link.peer().is_some_and(|peer| peer.secure);
        if !secure && !self.current().auth.allow_auth_without_tls {
            let reason = "AUTH over plain TCP is not allowed (`allow_auth_without_tls`)";
            return Err(Denial::Status(StatusCode::FORBIDDEN, reason.into()));
        }
        let principal = link.peer().and_then(|peer| peer.principal.as_deref());
        let proof = match principal {
            // Of the connection's own client only: of whom a relay asks for, its handshake says nothing.
            Some(user) if relay.is_none() && head.value(Name::Authorization).is_none() => {
                let identity = Identity::of_principal(user);
                Proof::Handshake(self.with_limits(identity, attempt, now)?)
            }
            _ => {
                let address = link.address().unwrap_or_default();
                Proof::Digest(Box::new(self.check_credentials(head, address, attempt, now)?))
            }
        };
        let lifetime = self.lifetime(head)?;
        let lifetime = self.time_left(proof.identity()).map_or(lifetime, |left| lifetime.min(left));
        let lifetime = match until {
            None => lifetime,
            Some(until) => match until.saturating_duration_since(now).as_secs() {
                0 => return Err(Denial::Draining),
                left => lifetime.min(Duration::from_secs(left)),
            },
        };
        if lifetime.is_zero() {
            let reason = "the credentials of the WebSocket handshake have expired";
            return Err(Denial::Status(StatusCode::FORBIDDEN, reason.into()));
        }
        let limit = self.current().limits.sessions_per_connection;
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

    fn check_credentials<'h>(
        &self,
        head: &'h Head,
        address: &str,
        attempt: &mut Attempt,
        now: Instant,
    ) -> Result<Confirmed<'h>, Denial> {
        let Some(value) = head.value(Name::Authorization) else { return Err(Denial::Challenge) };
        let bad_request = |reason: String| Denial::Status(StatusCode::BAD_REQUEST, reason);
        let authorization = Authorization::parse(value).map_err(|error| bad_request(error.to_string()))?;
        let digest_uri = digest_uri(head, authorization.uri())
            .ok_or_else(|| bad_request("uri= is not the last URI of To-Path".into()))?;
        let claim =
            Claim { authorization: &authorization, method: "AUTH", digest_uri: &digest_uri, address, now };
        let (ha1, identity) = self.confirm(&claim, attempt)?;
        Ok(Confirmed { authorization, ha1, identity, digest_uri })
    }

    /// How long what the user has proved is good for, in whole seconds, if it ends at all.
    fn time_left(&self, identity: &Identity) -> Option<Duration> {
        let left = identity.until?.saturating_sub(self.wall_clock.unix_millis());
        Some(Duration::from_secs(left / 1000))
    }

    /// How long the session lives: as the client wishes, within our bounds.
    fn lifetime(&self, head: &Head) -> Result<Duration, Denial> {
        let current = self.current();
        let bounds = &current.auth.expires;
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
        let identity = proof.identity();
        let info = match proof {
            Proof::Digest(confirmed) => {
                let Confirmed { authorization, ha1, digest_uri, .. } = &**confirmed;
                let nextnonce = self.new_nonce();
                let info = AuthenticationInfo::confirm(authorization, ha1, digest_uri, Some(&nextnonce));
                Some(info.map_err(|error| internal(error.to_string()))?)
            }
            Proof::Handshake(_) => None,
        };
        let id = session::new_id(&*self.random);
        let (uri, used) = self.session_uri(link, id).ok_or_else(|| internal("no listener to name".into()))?;
        let own = identity.limits.clone().unwrap_or_default();
        let user = self.users.enter(&identity.user, own, &self.current().limits.user, now);
        let user =
            user.map_err(|TooManySessions(most)| internal(format!("the user has {most} sessions already")))?;
        let owner = match relay {
            Some(host) => Owner::Relay { host },
            None => Owner::Client(Arc::clone(link)),
        };
        let time =
            session::Granted { began: now, unix_millis: self.wall_clock.unix_millis(), lifetime, used };
        let session = self.sessions.insert(id, uri, owner, user, time);
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

    /// Our URI for a session: as the listener calls itself over which the client came, if it is still there. Over a
    /// connection that we opened, the first listener of the same scheme. Over a WebSocket, the first one
    /// for TLS, else for TCP: the peer has to be able to open a connection there (RFC 7977 §5.2.2).
    fn session_uri(&self, link: &Link, id: u128) -> Option<(MsrpUri, Arc<()>)> {
        let current = self.current();
        let reachable = || current.present().filter(|own| own.advertised.websocket.is_none());
        let own = match link.kind() {
            LinkKind::Accepted { listener } => reachable().find(|own| own.id == *listener),
            LinkKind::Dialled { target, .. } => {
                reachable().find(|own| own.advertised.scheme == target.scheme)
            }
        };
        let own = own
            .or_else(|| reachable().find(|own| own.advertised.scheme == Scheme::Msrps))
            .or_else(|| reachable().next())?;
        let Advertised { scheme, host, port, .. } = &own.advertised;
        let uri = format!("{scheme}://{host}:{port}/{};tcp", session::write_id(self.sessions.tag(), id))
            .parse()
            .ok()?;
        Some((uri, Arc::clone(&own.used)))
    }

    fn new_nonce(&self) -> String {
        let mut bits = [0; 8];
        self.random.fill(&mut bits);
        self.current().issue(self.nonce_clock.issue(self.wall_clock.unix_millis()), bits)
    }

    /// Refuses an AUTH that would have to wait, where no more can.
    pub(crate) fn refuse_to_wait(&self, head: &Head, link: &Link) {
        self.deny(head, link, &Denial::Throttled);
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
            // The log has it already.
            Denial::Unproved(_) => {}
            // Of the database being away the log says it once, when that begins.
            Denial::Unavailable => debug!(link = link.id(), peer, "AUTH answered with 408: nobody can say"),
            Denial::Throttled => {
                debug!(link = link.id(), peer, "AUTH answered with 408: others of the user wait");
            }
            Denial::Draining => debug!(link = link.id(), peer, "AUTH answered with 408: the relay drains"),
            Denial::Later(_) => return,
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
            Denial::Unavailable => (Count::AuthsUndecided, StatusCode::REQUEST_TIMEOUT),
            Denial::Unproved(_) => (Count::AuthsFailed, StatusCode::REQUEST_TIMEOUT),
            Denial::Throttled => (Count::AuthsRefused, StatusCode::REQUEST_TIMEOUT),
            Denial::Draining => (Count::AuthsRefused, StatusCode::REQUEST_TIMEOUT),
            Denial::Later(_) => return,
        };
        link.count(count, 1);
        link.count_response(status);
        // A connection that is closed needs no answer.
        let _ = link.send_control(|out| match denial {
            Denial::Challenge | Denial::WrongCredentials(_) => self.challenge(out, head, false),
            Denial::Stale => self.challenge(out, head, true),
            Denial::Status(status, _) => answer(out, head, *status).end(Flag::Complete),
            Denial::Unavailable | Denial::Unproved(_) | Denial::Throttled | Denial::Draining => {
                answer(out, head, StatusCode::REQUEST_TIMEOUT).end(Flag::Complete);
            }
            Denial::Later(_) => {}
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
    fn challenges(&self, stale: bool) -> Vec<Challenge> {
        let (current, nonce) = (self.current(), self.new_nonce());
        let (auth, opaque) = (&current.auth, current.opaque());
        let of = |algorithm: &Algorithm| {
            // Realm, nonce and opaque are ours and have no control characters: it never fails.
            let challenge =
                Challenge::new(*algorithm, &auth.realm, &nonce).ok()?.with_opaque(&opaque).ok()?;
            Some(challenge.with_stale(stale))
        };
        auth.algorithms.iter().filter_map(of).collect()
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
