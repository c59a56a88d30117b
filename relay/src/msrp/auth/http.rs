//! HTTP Digest in a WebSocket's opening handshake (RFC 7977 §5.3.1, §7).

use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::Authorization;
use tracing::{debug, info, warn};

use super::confirm::Claim;
use super::{Attempt, Denial, Later};
use crate::msrp::Relay;

/// Why a handshake is not accepted.
#[derive(Debug)]
pub enum HandshakeDenial {
    /// 401, with these challenges: each the value of a WWW-Authenticate field.
    Challenge(Vec<String>),
    /// 503: whoever knows is away, or so many others of this user wait that it was not looked at.
    Unavailable,
    /// It is not decided yet; to be asked again with what it waits for.
    Later(Later),
}

impl Relay {
    /// Who sent an HTTP request with these credentials. `target` is the request's, as it was sent; the users, nonces,
    /// replays and delays are those of AUTH. What it gives is for [`Peer::principal`](crate::msrp::Peer::principal).
    ///
    /// # Errors
    /// What to answer, or what to wait for.
    pub fn http_digest(
        &self,
        method: &str,
        target: &str,
        authorization: Option<&str>,
        peer: &str,
        attempt: &mut Attempt,
        now: Instant,
    ) -> Result<Arc<str>, HandshakeDenial> {
        let challenges = |stale| {
            let challenges = self.challenges(stale).into_iter().map(|challenge| challenge.to_string());
            Err(HandshakeDenial::Challenge(challenges.collect()))
        };
        let Some(value) = authorization else { return challenges(false) };
        let parsed = Authorization::parse(value).ok();
        let confirmed = match &parsed {
            None => Err(Denial::WrongCredentials("credentials that cannot be read")),
            Some(parsed) if parsed.uri() != Some(target) => {
                Err(Denial::WrongCredentials("uri= is not what was asked for"))
            }
            Some(authorization) => {
                let claim = Claim { authorization, method, digest_uri: target, address: peer, now };
                self.confirm(&claim, attempt).map(|(_, identity)| identity.to_principal())
            }
        };
        let user = parsed.as_ref().map(Authorization::username);
        match confirmed {
            Ok(principal) => Ok(principal),
            Err(Denial::Later(later)) => Err(HandshakeDenial::Later(later)),
            Err(Denial::Unavailable | Denial::Unproved(_) | Denial::Throttled) => {
                debug!(peer, "WebSocket handshake answered with 503: nobody can say, or too many wait");
                Err(HandshakeDenial::Unavailable)
            }
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
}
