//! Authentication-Info: how the relay confirms.

use std::fmt;

use subtle::ConstantTimeEq;

use super::algorithm::Ha1;
use super::authorization::Authorization;
use super::error::{BuildError, DigestError, Malformed, Unsupported};
use super::params::{NonceCount, Params, QOP, Quoted, quotable};

/// A confirmation: the value of the Authentication-Info header that every 200 to an AUTH carries
/// (RFC 4976 §9.1, RFC 7616 §3.5).
///
/// `Display` writes the header value, with `qop` and `nc` unquoted and all else quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationInfo {
    nextnonce: Option<String>,
    rspauth: String,
    cnonce: String,
    nc: NonceCount,
}

impl AuthenticationInfo {
    /// The relay's proof that it knows the secret too, for an answer that it has verified with the
    /// same `ha1` and `digest_uri`. `nextnonce` is the nonce the client should use next.
    ///
    /// # Errors
    /// [`BuildError::AlgorithmMismatch`] if the HA1 is for another algorithm than the answer,
    /// [`BuildError::ControlCharacter`] if `nextnonce` has one.
    pub fn confirm(
        authorization: &Authorization,
        ha1: &Ha1,
        digest_uri: &str,
        nextnonce: Option<&str>,
    ) -> Result<Self, BuildError> {
        if ha1.algorithm() != authorization.algorithm() {
            return Err(BuildError::AlgorithmMismatch);
        }
        Ok(Self {
            nextnonce: nextnonce.map(|nonce| quotable("nextnonce", nonce)).transpose()?,
            rspauth: authorization.keyed_digest(ha1, "", digest_uri),
            cnonce: authorization.cnonce().to_owned(),
            nc: authorization.nonce_count().clone(),
        })
    }

    /// Reads the value of an Authentication-Info header, everything after the colon.
    ///
    /// Parameters come in any order, quoted or not; unknown ones are ignored, and a missing `qop`
    /// is taken for the only one there can be.
    ///
    /// # Errors
    /// [`Malformed`] if it breaks the grammar or lacks rspauth, cnonce or nc (RFC 4976 §9.1);
    /// [`Unsupported::Qop`] if it has a qop other than `auth`.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, DigestError> {
        let mut params = Params::without_scheme(value.as_ref())?;
        let mut info = Self {
            nextnonce: params.take("nextnonce")?,
            rspauth: params.require("rspauth")?,
            cnonce: params.require("cnonce")?,
            nc: NonceCount::parse(params.require("nc")?)?,
        };
        if params.take("qop")?.is_some_and(|qop| !qop.eq_ignore_ascii_case(QOP)) {
            return Err(Unsupported::Qop.into());
        }
        if !info.rspauth.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Malformed::Invalid("rspauth").into());
        }
        info.rspauth.make_ascii_lowercase();
        Ok(info)
    }

    /// Whether this confirms the `authorization` that the client sent, by someone who knows the
    /// secret behind `ha1` (RFC 7616 §3.5). The digests are compared in constant time.
    #[must_use]
    pub fn verify(&self, authorization: &Authorization, ha1: &Ha1, digest_uri: &str) -> bool {
        let expected = authorization.keyed_digest(ha1, "", digest_uri);
        let equal = bool::from(expected.as_bytes().ct_eq(self.rspauth.as_bytes()));
        equal
            && ha1.algorithm() == authorization.algorithm()
            && self.cnonce == authorization.cnonce()
            && self.nc.value() == authorization.nc()
    }

    /// The nonce to use for the next request, with a nonce count of 1.
    pub fn nextnonce(&self) -> Option<&str> {
        self.nextnonce.as_deref()
    }
}

impl fmt::Display for AuthenticationInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(nextnonce) = &self.nextnonce {
            write!(f, "nextnonce={}, ", Quoted(nextnonce))?;
        }
        let (nc, cnonce) = (self.nc.digits(), Quoted(&self.cnonce));
        write!(f, "rspauth=\"{}\", cnonce={cnonce}, nc={nc}, qop={QOP}", self.rspauth)
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::super::algorithm::Algorithm;
    use super::super::params::{any_text, any_value};
    use super::*;

    const URI: &str = "msrps://relay.test:2855;tcp";

    fn ha1(algorithm: Algorithm) -> Ha1 {
        Ha1::from_password(algorithm, "alice", "relay.test", "s3cret")
    }

    fn authorization(cnonce: &str) -> Authorization {
        let value = "Digest username=alice, realm=relay.test, nonce=n0nce, qop=auth, nc=0000000a, \
                     response=f2ea9c10de932a924b9e7707b5a60cdf";
        Authorization::parse(format!("{value}, cnonce={}", Quoted(cnonce))).unwrap()
    }

    /// Expected value computed with Python's hashlib.
    #[test]
    fn is_written_as_rfc_4976_wants_it_and_verifies() {
        let authorization = authorization("0a4f113b");
        let confirm =
            |next| AuthenticationInfo::confirm(&authorization, &ha1(Algorithm::Md5), URI, next).unwrap();
        let bare = "rspauth=\"4ee138687592f4eef193de596c87712d\", cnonce=\"0a4f113b\", nc=0000000a, qop=auth";
        assert_eq!(confirm(None).to_string(), bare);
        assert_eq!(confirm(Some("n3xt")).to_string(), format!("nextnonce=\"n3xt\", {bare}"));

        let received = AuthenticationInfo::parse(bare.replace("4ee", "4EE")).unwrap();
        assert_eq!(received.nextnonce(), None);
        assert!(received.verify(&authorization, &ha1(Algorithm::Md5), URI));
        assert!(!received.verify(&authorization, &ha1(Algorithm::Sha256), URI));
        assert!(!received.verify(&authorization, &ha1(Algorithm::Md5), "msrps://other.test:2855;tcp"));
        for (from, to) in [("4ee", "4ef"), ("0a4f113b", "other"), ("0000000a", "0000000b"), ("712d", "")] {
            let altered = AuthenticationInfo::parse(bare.replace(from, to)).unwrap();
            assert!(!altered.verify(&authorization, &ha1(Algorithm::Md5), URI), "{to}");
        }
    }

    /// The example of RFC 4976 §5.1, in its own order and separators.
    #[test]
    fn reading_is_tolerant() {
        let value = "nextnonce=\"40f2e879449675f288476d772627370a\",\
                     rspauth=\"7327570c586207eca2afae94fc20903d\", \
                     cnonce=\"0a4f113b\", nc=00000001, qop=auth, x=y";
        let info = AuthenticationInfo::parse(value).unwrap();
        assert_eq!(info.nextnonce(), Some("40f2e879449675f288476d772627370a"));
        assert!(AuthenticationInfo::parse("rspauth=00, cnonce=c, nc=\"00000001\"").is_ok());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (value, error) in [
            ("", Malformed::Missing("rspauth").into()),
            ("nextnonce=\"n\"", Malformed::Missing("rspauth").into()),
            ("rspauth=00, nc=00000001", Malformed::Missing("cnonce").into()),
            ("rspauth=00, cnonce=c", Malformed::Missing("nc").into()),
            ("rspauth=00, cnonce=c, nc=1", Malformed::Invalid("nc").into()),
            ("rspauth=xy, cnonce=c, nc=00000001", Malformed::Invalid("rspauth").into()),
            ("rspauth=00, rspauth=00", Malformed::Duplicate("rspauth").into()),
            ("rspauth=00, cnonce=c, nc=00000001, qop=auth-int", Unsupported::Qop.into()),
            ("rspauth=\"00", DigestError::from(Malformed::Syntax { at: 0 })),
        ] {
            assert_eq!(AuthenticationInfo::parse(value), Err(error), "{value}");
        }
        let (authorization, md5) = (authorization("c"), ha1(Algorithm::Md5));
        assert_eq!(
            AuthenticationInfo::confirm(&authorization, &ha1(Algorithm::Sha256), URI, None),
            Err(BuildError::AlgorithmMismatch)
        );
        assert_eq!(
            AuthenticationInfo::confirm(&authorization, &md5, URI, Some("\r\n")),
            Err(BuildError::ControlCharacter("nextnonce"))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(cnonce in any_text(), nextnonce in option::of(any_text())) {
            let (authorization, ha1) = (authorization(&cnonce), ha1(Algorithm::Md5));
            let info = AuthenticationInfo::confirm(&authorization, &ha1, URI, nextnonce.as_deref()).unwrap();
            let received = AuthenticationInfo::parse(info.to_string()).unwrap();
            prop_assert!(received.verify(&authorization, &ha1, URI));
            prop_assert_eq!(received, info);
        }

        #[test]
        fn any_bytes_are_read_or_refused(value in any_value()) {
            if let Ok(info) = AuthenticationInfo::parse(value) {
                prop_assert_eq!(AuthenticationInfo::parse(info.to_string()), Ok(info));
            }
        }
    }
}
