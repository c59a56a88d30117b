//! AUTH: asking relays for a URI to use (RFC 4976 §5.1, §9.1).
//!
//! An authentication goes along a chain of relays, one after another: the second AUTH goes through
//! the first relay, by the Use-Path it gave. At each relay it is *asking*, with or without an
//! Authorization, until the response decides: a challenge is answered, a success leads to the next
//! relay or to the end, all else fails the whole.
//!
//! What a relay said last about nonces is kept for the next AUTH to it, which then needs one round
//! less.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::event::{AuthHandle, Event, UsageError};
use super::shared::{Purpose, Shared};
use crate::digest::{
    Algorithm, Answer, AuthenticationInfo, Authorization, BuildError, Challenge, DigestError, Ha1, Secret,
};
use crate::encoder::HeadWriter;
use crate::flag::Flag;
use crate::head::Head;
use crate::header::{self, FailureReport, Name};
use crate::status::StatusCode;
use crate::uri::{MsrpUri, Scheme, UriError};

/// How often one relay may challenge one authentication: once at first, and again when our nonce has
/// become stale. One that never has enough is not obeyed for ever.
pub const MAX_CHALLENGES: u32 = 4;

/// Who we are at a relay.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// What proves it.
    pub secret: OwnSecret,
    /// Whether to send the `uri` parameter, see [`Answer::send_uri`].
    pub send_uri: bool,
}

/// What proves who we are.
#[derive(Clone)]
pub enum OwnSecret {
    /// The password: serves every algorithm.
    Password(String),
    /// H(A1): serves its own algorithm and its own realm.
    Ha1(Ha1),
}

/// Does not tell the secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// A user with a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        let secret = OwnSecret::Password(password.into());
        Self { username: username.into(), secret, send_uri: false }
    }

    fn serve(&self, algorithm: Algorithm) -> bool {
        match &self.secret {
            OwnSecret::Password(_) => true,
            OwnSecret::Ha1(ha1) => ha1.algorithm() == algorithm,
        }
    }

    fn ha1(&self, challenge: &Challenge) -> Ha1 {
        match &self.secret {
            OwnSecret::Password(password) => {
                Ha1::from_password(challenge.algorithm(), &self.username, challenge.realm(), password)
            }
            OwnSecret::Ha1(ha1) => ha1.clone(),
        }
    }
}

/// A relay to ask.
#[derive(Clone, Debug)]
pub struct RelayLogin {
    /// The relay, as its last To-Path URI: see [`relay_uri`].
    pub relay: MsrpUri,
    /// Who we are there.
    pub credentials: Credentials,
    /// For how many seconds we wish to use it; the relay decides.
    pub expires: Option<u64>,
}

/// The URI by which a relay is asked: `msrps://[user@]domain[:port];tcp` (RFC 4976 §5.1). `domain`
/// may be an IP literal, one of IPv6 in brackets.
///
/// # Errors
/// [`UriError`] if that is no URI.
pub fn relay_uri(
    scheme: Scheme,
    user: Option<&str>,
    domain: &str,
    port: Option<u16>,
) -> Result<MsrpUri, UriError> {
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{user}{domain}{port};tcp").parse()
}

/// What the relays gave us to use, the nearest relay first. Our requests' To-Path begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsePath(Vec<MsrpUri>);

impl UsePath {
    /// The URIs in the order of Use-Path, as
    /// [`SessionOptions::use_path`](super::SessionOptions::use_path) wants them.
    pub fn uris(&self) -> &[MsrpUri] {
        &self.0
    }

    /// The value of SDP's `path` attribute: the relays in reverse, and our own URI last
    /// (RFC 4976 §5.1).
    pub fn path_for_sdp(&self, own: &MsrpUri) -> String {
        let mut path = String::new();
        for uri in self.0.iter().rev() {
            path.push_str(uri.as_str());
            path.push(' ');
        }
        path + own.as_str()
    }
}

/// Why a relay has not let us in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The relay challenged us again though our answer was fresh: name or secret is wrong.
    #[error("the relay does not accept the credentials")]
    WrongCredentials,
    /// There is no challenge that we could answer.
    #[error("no challenge that can be answered: {0}")]
    Challenge(DigestError),
    /// A challenge came [`MAX_CHALLENGES`] times.
    #[error("the relay keeps challenging")]
    TooManyChallenges,
    /// The credentials cannot be sent.
    #[error("the credentials cannot be sent: {0}")]
    Credentials(BuildError),
    /// 423: ask for another time (RFC 4976 §6.3).
    #[error("Expires is out of bounds: at least {min:?} s, at most {max:?} s")]
    ExpiresOutOfBounds {
        /// Min-Expires in seconds.
        min: Option<u64>,
        /// Max-Expires in seconds.
        max: Option<u64>,
    },
    /// Any other response that is no success.
    #[error("refused: {0}")]
    Refused(StatusCode),
    /// A success without a valid Use-Path.
    #[error("the relay gave no valid Use-Path")]
    UsePath,
    /// The relay's proof that it knows the secret too is wrong: it is not the one we meant.
    #[error("the relay does not know the secret")]
    RelayNotVerified,
    /// No response in time.
    #[error("no response in time")]
    Timeout,
    /// The connection was lost.
    #[error("connection lost")]
    ConnectionLost,
}

#[derive(Default)]
pub(super) struct Auths {
    open: HashMap<AuthHandle, Auth>,
    /// By relay and user: what the next AUTH can answer without being asked.
    known: HashMap<(String, String), Known>,
    expiring: Vec<(Instant, Instant, AuthHandle)>,
    begun: u64,
}

/// A challenge, and how often it has been answered.
#[derive(Clone)]
struct Known {
    challenge: Challenge,
    nc: u32,
}

struct Auth {
    own: MsrpUri,
    relays: Vec<RelayLogin>,
    /// Which of them is being asked.
    at: usize,
    /// How to get there.
    through: Vec<MsrpUri>,
    answered: Option<Answered>,
    challenges: u32,
    expires: Option<Instant>,
    verified: bool,
}

/// The Authorization that was sent last.
struct Answered {
    known: Known,
    authorization: Authorization,
    ha1: Ha1,
    /// It answered an earlier challenge, which the relay may have forgotten.
    unasked: bool,
}

impl Auths {
    pub(super) fn begin(
        &mut self,
        own: MsrpUri,
        relays: Vec<RelayLogin>,
        shared: &mut Shared,
    ) -> Result<AuthHandle, UsageError> {
        if relays.is_empty() {
            return Err(UsageError::EmptyPath);
        }
        self.begun += 1;
        let handle = AuthHandle(self.begun);
        let auth = Auth {
            own,
            relays,
            at: 0,
            through: Vec::new(),
            answered: None,
            challenges: 0,
            expires: None,
            verified: true,
        };
        self.open.insert(handle, auth);
        self.ask_next(handle, shared);
        Ok(handle)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.expiring.iter().map(|(warn, ..)| *warn).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, shared: &mut Shared) {
        self.expiring.retain(|&(warn, at, auth)| {
            let due = warn <= now;
            if due {
                shared.events.push_back(Event::AuthExpiring { auth, at });
            }
            !due
        });
    }

    pub(super) fn timed_out(&mut self, handle: AuthHandle, shared: &mut Shared) {
        self.fail(handle, AuthError::Timeout, shared);
    }

    pub(super) fn connection_lost(&mut self, shared: &mut Shared) {
        let mut open: Vec<_> = self.open.keys().copied().collect();
        open.sort_unstable();
        for handle in open {
            self.fail(handle, AuthError::ConnectionLost, shared);
        }
        self.expiring.clear();
    }

    pub(super) fn on_response(
        &mut self,
        handle: AuthHandle,
        head: &Head,
        status: StatusCode,
        now: Instant,
        margin: Duration,
        shared: &mut Shared,
    ) {
        let done = match status {
            StatusCode::UNAUTHORIZED => self.challenged(handle, head, shared),
            _ if status.is_success() => self.succeeded(handle, head, now, margin, shared),
            StatusCode::OUT_OF_BOUNDS => {
                let seconds = |name| head.value(name).and_then(|value| header::parse_seconds(value).ok());
                let (min, max) = (seconds(Name::MinExpires), seconds(Name::MaxExpires));
                Err(AuthError::ExpiresOutOfBounds { min, max })
            }
            _ => Err(AuthError::Refused(status)),
        };
        if let Err(error) = done {
            self.fail(handle, error, shared);
        }
    }

    fn challenged(&mut self, handle: AuthHandle, head: &Head, shared: &mut Shared) -> Result<(), AuthError> {
        let Some(auth) = self.open.get_mut(&handle) else { return Ok(()) };
        let relay = &auth.relays[auth.at];
        let challenge = choose(head, &relay.credentials).map_err(AuthError::Challenge)?;
        if let Some(before) = auth.answered.take() {
            self.known.remove(&relay.key());
            let renewed = challenge.stale() && challenge.nonce() != before.known.challenge.nonce();
            if !before.unasked && !renewed {
                return Err(AuthError::WrongCredentials);
            }
        }
        auth.challenges += 1;
        if auth.challenges > MAX_CHALLENGES {
            return Err(AuthError::TooManyChallenges);
        }
        self.ask(handle, Some((Known { challenge, nc: 0 }, false)), shared)
    }

    fn succeeded(
        &mut self,
        handle: AuthHandle,
        head: &Head,
        now: Instant,
        margin: Duration,
        shared: &mut Shared,
    ) -> Result<(), AuthError> {
        let Some(auth) = self.open.get_mut(&handle) else { return Ok(()) };
        let relay = &auth.relays[auth.at];
        let info = head.value(Name::AuthenticationInfo).and_then(|v| AuthenticationInfo::parse(v).ok());
        match (info, auth.answered.take()) {
            (Some(info), Some(answered)) => {
                if !info.verify(&answered.authorization, &answered.ha1, relay.relay.as_str()) {
                    return Err(AuthError::RelayNotVerified);
                }
                let known = match answered.known.challenge.renewed(&info) {
                    Some(challenge) => Known { challenge, nc: 0 },
                    None => answered.known,
                };
                self.known.insert(relay.key(), known);
            }
            (_, answered) => {
                auth.verified = false;
                if let Some(answered) = answered {
                    self.known.insert(relay.key(), answered.known);
                }
            }
        }
        auth.through = head.value(Name::UsePath).and_then(parse_path).ok_or(AuthError::UsePath)?;
        if let Some(at) = expiry(head, now) {
            auth.expires = Some(auth.expires.map_or(at, |before| before.min(at)));
        }
        auth.at += 1;
        if auth.at < auth.relays.len() {
            auth.challenges = 0;
            self.ask_next(handle, shared);
            return Ok(());
        }
        let Some(auth) = self.open.remove(&handle) else { return Ok(()) };
        let expires = auth.expires.map(|at| at.saturating_duration_since(now));
        if let (Some(at), Some(left)) = (auth.expires, expires) {
            self.expiring.push((at - margin.min(left / 2), at, handle));
        }
        shared.events.push_back(Event::Authenticated {
            auth: handle,
            use_path: UsePath(auth.through),
            expires,
            verified: auth.verified,
        });
        Ok(())
    }

    /// Asks the relay whose turn it is, with what we know of it.
    fn ask_next(&mut self, handle: AuthHandle, shared: &mut Shared) {
        let Some(auth) = self.open.get(&handle) else { return };
        let known = self.known.get(&auth.relays[auth.at].key()).cloned().map(|known| (known, true));
        if let Err(error) = self.ask(handle, known, shared) {
            self.fail(handle, error, shared);
        }
    }

    fn ask(
        &mut self,
        handle: AuthHandle,
        known: Option<(Known, bool)>,
        shared: &mut Shared,
    ) -> Result<(), AuthError> {
        let Some(auth) = self.open.get_mut(&handle) else { return Ok(()) };
        let relay = &auth.relays[auth.at];
        if let Some((mut known, unasked)) = known {
            known.nc += 1;
            let ha1 = relay.credentials.ha1(&known.challenge);
            let cnonce = shared.ids.text();
            let answer = Answer {
                username: &relay.credentials.username,
                secret: Secret::Ha1(&ha1),
                method: "AUTH",
                digest_uri: relay.relay.as_str(),
                cnonce: &cnonce,
                nc: known.nc,
                send_uri: relay.credentials.send_uri,
            };
            let authorization =
                Authorization::answer(&known.challenge, &answer).map_err(AuthError::Credentials)?;
            auth.answered = Some(Answered { known, authorization, ha1, unasked });
        }
        let id = shared.begin(FailureReport::Yes, Purpose::Auth(handle));
        let mut bytes = Vec::new();
        let to_path = auth.through.iter().chain([&relay.relay]).map(MsrpUri::as_str);
        let mut head = HeadWriter::request(&mut bytes, &id, "AUTH")
            .path(Name::ToPath, to_path)
            .field(Name::FromPath, &auth.own);
        if let Some(answered) = &auth.answered {
            head = head.field(Name::Authorization, &answered.authorization);
        }
        if let Some(seconds) = relay.expires {
            head = head.field(Name::Expires, seconds);
        }
        head.end(Flag::Complete);
        shared.control.push(bytes, Some(id));
        Ok(())
    }

    fn fail(&mut self, handle: AuthHandle, error: AuthError, shared: &mut Shared) {
        if let Some(auth) = self.open.remove(&handle) {
            shared.events.push_back(Event::AuthFailed { auth: handle, relay: auth.at, error });
        }
    }
}

impl RelayLogin {
    fn key(&self) -> (String, String) {
        (self.relay.as_str().to_owned(), self.credentials.username.clone())
    }
}

/// The strongest of the challenges that our credentials serve.
fn choose(head: &Head, credentials: &Credentials) -> Result<Challenge, DigestError> {
    let values = || head.values(Name::WwwAuthenticate);
    let served = |value: &&[u8]| {
        Challenge::parse(value).is_ok_and(|challenge| credentials.serve(challenge.algorithm()))
    };
    // If none can be served, the error is about all that came.
    if values().any(|value| served(&value)) {
        Challenge::strongest(values().filter(served))
    } else {
        Challenge::strongest(values())
    }
}

fn parse_path(value: &[u8]) -> Option<Vec<MsrpUri>> {
    let text = std::str::from_utf8(value).ok()?;
    let path = text.split_ascii_whitespace().map(|uri| uri.parse().ok()).collect::<Option<Vec<_>>>()?;
    (!path.is_empty()).then_some(path)
}

fn expiry(head: &Head, now: Instant) -> Option<Instant> {
    now.checked_add(Duration::from_secs(head.expires().ok()??))
}
