//! HTTP Digest authentication as MSRP uses it (RFC 4976 §9.1, over RFC 2617 and RFC 7616), both sides.
//!
//! An AUTH request is challenged ([`Challenge`], the value of WWW-Authenticate), answered
//! ([`Authorization`]) and confirmed ([`AuthenticationInfo`]). What RFC 4976 §9.1 restricts is
//! built into the types: the scheme is Digest, the qop is `auth`, there is no session variant of an
//! algorithm, and cnonce and nc are always there. A value that exists is complete and has one
//! meaning; everything else is an error that says who is to blame for it.
//!
//! The relay keeps no table of the nonces it has issued: [`NonceKey`] makes and recognises them,
//! and [`ReplayGuard`] remembers only those that were used.
//!
//! There is no clock and no source of randomness here: `now`, random bytes, secrets and cnonces are
//! arguments, and all times are milliseconds since the Unix epoch. The length of a header value is
//! bounded by whoever framed it; the number of parameters is bounded here ([`MAX_PARAMS`]).
//!
//! ```
//! use msrp_proto::digest::*;
//!
//! let uri = "msrps://intra.example.com;tcp"; // the rightmost URI of To-Path, as it was sent
//! let (realm, now, lifetime) = ("intra.example.com", 1_700_000_000_000, 60_000);
//! let key = NonceKey::new(b"a secret that the farm may share")?;
//! let mut replays = ReplayGuard::new(lifetime, DEFAULT_REPLAY_ENTRIES);
//! let ha1 = Ha1::from_password(Algorithm::Sha256, "alice", realm, "s3cret");
//!
//! // The relay challenges.
//! let challenge = Challenge::new(Algorithm::Sha256, realm, &key.issue(now, realm, [7; 8]))?
//!     .with_opaque(&key.opaque())?;
//! let header = challenge.to_string();
//!
//! // The client answers.
//! let challenge = Challenge::strongest([&header])?;
//! let answer = Answer {
//!     username: "alice",
//!     secret: Secret::Password("s3cret"),
//!     method: "AUTH",
//!     digest_uri: uri,
//!     cnonce: "0a4f113b",
//!     nc: 1,
//!     send_uri: false,
//! };
//! let authorization = Authorization::answer(&challenge, &answer)?;
//! let header = authorization.to_string();
//!
//! // The relay verifies, refuses replays, and proves in turn that it knows the secret.
//! let received = Authorization::parse(&header)?;
//! let NonceState::Fresh(nonce) = key.check(now, realm, received.nonce(), lifetime) else {
//!     panic!("neither stale nor forged")
//! };
//! assert!(received.verify(&ha1, "AUTH", uri));
//! replays.check_and_store(nonce, received.nc(), now)?;
//! let next = key.issue(now, realm, [8; 8]);
//! let header = AuthenticationInfo::confirm(&received, &ha1, uri, Some(&next))?.to_string();
//!
//! // The client knows the relay by it.
//! assert!(AuthenticationInfo::parse(&header)?.verify(&authorization, &ha1, uri));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod algorithm;
mod authorization;
mod challenge;
mod error;
mod info;
mod nonce;
mod params;
mod replay;

pub use algorithm::{Algorithm, Ha1, InvalidHa1};
pub use authorization::{Answer, Authorization, Secret};
pub use challenge::Challenge;
pub use error::{BuildError, DigestError, Malformed, Unsupported};
pub use info::AuthenticationInfo;
pub use nonce::{CLOCK_SKEW_MILLIS, FreshNonce, MIN_SECRET_LEN, NonceKey, NonceState, ShortSecret};
pub use params::MAX_PARAMS;
pub use replay::{DEFAULT_REPLAY_ENTRIES, ReplayGuard, Replayed};
