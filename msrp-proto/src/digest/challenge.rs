//! WWW-Authenticate: what the relay asks for.

use std::fmt;

use super::algorithm::Algorithm;
use super::error::{BuildError, DigestError, Malformed, Unsupported};
use super::info::AuthenticationInfo;
use super::params::{Params, QOP, Quoted, quotable};

/// A challenge: the value of one WWW-Authenticate header (RFC 4976 §5.1, §9.1; RFC 7616 §3.3).
///
/// `Display` writes the header value, with `qop="auth"` and never a `domain` (RFC 4976 §9.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    stale: bool,
    algorithm: Option<Algorithm>,
}

impl Challenge {
    /// A relay's challenge, with neither `opaque` nor `stale`.
    ///
    /// # Errors
    /// [`BuildError::ControlCharacter`] if the realm or the nonce has one.
    pub fn new(algorithm: Algorithm, realm: &str, nonce: &str) -> Result<Self, BuildError> {
        Ok(Self {
            realm: quotable("realm", realm)?,
            nonce: quotable("nonce", nonce)?,
            opaque: None,
            stale: false,
            algorithm: Some(algorithm),
        })
    }

    /// Adds `opaque`, which the client returns unchanged. Some clients refuse a challenge without it.
    ///
    /// # Errors
    /// [`BuildError::ControlCharacter`] if it has one.
    pub fn with_opaque(mut self, opaque: &str) -> Result<Self, BuildError> {
        self.opaque = Some(quotable("opaque", opaque)?);
        Ok(self)
    }

    /// Says whether only the nonce was at fault, and the client may retry with the same password.
    #[must_use]
    pub fn with_stale(mut self, stale: bool) -> Self {
        self.stale = stale;
        self
    }

    /// Reads the value of a WWW-Authenticate header, everything after the colon.
    ///
    /// Parameters come in any order, unknown ones and `domain` are ignored, and `auth` may be one
    /// of several qop values.
    ///
    /// # Errors
    /// [`Malformed`] if it breaks the grammar or lacks realm, nonce or qop; [`Unsupported`] if the
    /// scheme, the algorithm or every offered qop is one that RFC 4976 §9.1 leaves out.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, DigestError> {
        let mut params = Params::after_scheme(value.as_ref())?;
        let challenge = Self {
            realm: params.require("realm")?,
            nonce: params.require("nonce")?,
            opaque: params.take("opaque")?,
            stale: params.take("stale")?.is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
            algorithm: params.take_algorithm()?,
        };
        if !params.require("qop")?.split(',').any(|qop| qop.trim().eq_ignore_ascii_case(QOP)) {
            return Err(Unsupported::Qop.into());
        }
        Ok(challenge)
    }

    /// Chooses among the WWW-Authenticate headers of one response: the strongest algorithm that is
    /// supported, and the first of several that are alike (RFC 7616 §3.7). Those that cannot be
    /// read or are not supported are passed over.
    ///
    /// # Errors
    /// What was wrong with the first of them if none remains; `Missing("WWW-Authenticate")` if
    /// there was none.
    pub fn strongest<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Result<Self, DigestError> {
        let mut best = Err(Malformed::Missing("WWW-Authenticate").into());
        for (index, value) in values.into_iter().enumerate() {
            match (Self::parse(value), &best) {
                (Ok(candidate), Ok(chosen)) if candidate.algorithm() <= Self::algorithm(chosen) => {}
                (Ok(candidate), _) => best = Ok(candidate),
                (Err(error), Err(_)) if index == 0 => best = Err(error),
                (Err(_), _) => {}
            }
        }
        best
    }

    /// The challenge as renewed by the `nextnonce` of a confirmation, if it has one (RFC 7616
    /// §3.5): the client's nonce count starts at 1 again.
    pub fn renewed(&self, info: &AuthenticationInfo) -> Option<Self> {
        let nonce = info.nextnonce()?.to_owned();
        Some(Self { nonce, stale: false, ..self.clone() })
    }

    /// The protection space, which selects the user's password.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The nonce.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// What the client has to return unchanged.
    pub fn opaque(&self) -> Option<&str> {
        self.opaque.as_deref()
    }

    /// Whether only the nonce was at fault, and not the password. Anything but `true` is no.
    pub fn stale(&self) -> bool {
        self.stale
    }

    /// The algorithm: MD5 unless it names one.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm.unwrap_or(Algorithm::Md5)
    }

    /// The algorithm to be echoed: only what was named.
    pub(super) fn named_algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest realm={}, qop=\"{QOP}\", nonce={}", Quoted(&self.realm), Quoted(&self.nonce))?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", Quoted(opaque))?;
        }
        if self.stale {
            f.write_str(", stale=true")?;
        }
        if let Some(algorithm) = self.algorithm {
            write!(f, ", algorithm={algorithm}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::super::params::{any_text, any_value};
    use super::*;

    #[test]
    fn is_written_as_rfc_4976_wants_it() {
        let challenge = Challenge::new(Algorithm::Sha256, "a \"b\" \\c", "n0nce").unwrap();
        assert_eq!(
            challenge.to_string(),
            r#"Digest realm="a \"b\" \\c", qop="auth", nonce="n0nce", algorithm=SHA-256"#
        );
        assert_eq!(
            challenge.with_opaque("0p").unwrap().with_stale(true).to_string(),
            "Digest realm=\"a \\\"b\\\" \\\\c\", qop=\"auth\", nonce=\"n0nce\", opaque=\"0p\", stale=true, \
             algorithm=SHA-256"
        );
    }

    #[test]
    fn a_header_cannot_be_injected() {
        let injected = "x\r\nUse-Path: msrps://evil.test;tcp";
        let good = Challenge::new(Algorithm::Md5, "r", "n").unwrap();
        for (built, name) in [
            (Challenge::new(Algorithm::Md5, injected, "n"), "realm"),
            (Challenge::new(Algorithm::Md5, "r", injected), "nonce"),
            (good.with_opaque(injected), "opaque"),
        ] {
            assert_eq!(built, Err(BuildError::ControlCharacter(name)));
        }
    }

    /// RFC 4976 §5.1.
    #[test]
    fn without_algorithm_it_is_md5_and_opaque_may_be_missing() {
        let value =
            r#"Digest realm="intra.example.com", qop="auth", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093""#;
        let challenge = Challenge::parse(value).unwrap();
        assert_eq!(challenge.realm(), "intra.example.com");
        assert_eq!(challenge.nonce(), "dcd98b7102dd2f0e8b11d0f600bfb0c093");
        assert_eq!((challenge.opaque(), challenge.stale()), (None, false));
        assert_eq!(challenge.algorithm(), Algorithm::Md5);
        assert_eq!(challenge.to_string(), value);
    }

    #[test]
    fn reading_is_tolerant() {
        let value = "digest  STALE=TRUE,charset=UTF-8 ,\tqop=\"auth-int,  AUTH\" , opaque=\"o\",\
                     domain=\"/\", nonce=abc/d==, Algorithm=\"sha-512-256\", realm=\"r\"";
        let challenge = Challenge::parse(value).unwrap();
        assert_eq!((challenge.realm(), challenge.nonce(), challenge.opaque()), ("r", "abc/d==", Some("o")));
        assert!(challenge.stale());
        assert_eq!(challenge.algorithm(), Algorithm::Sha512_256);
        assert!(!challenge.to_string().contains("domain"));
        for stale in ["false", "yes", "\"\""] {
            let value = format!("Digest realm=r, nonce=n, qop=auth, stale={stale}");
            assert!(!Challenge::parse(value).unwrap().stale(), "{stale}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (value, error) in [
            ("Digest", Malformed::Missing("realm").into()),
            ("Digest realm=r, qop=auth", Malformed::Missing("nonce").into()),
            ("Digest realm=r, nonce=n", Malformed::Missing("qop").into()),
            ("Digest realm=r, nonce=n, nonce=m, qop=auth", Malformed::Duplicate("nonce").into()),
            ("Digest realm=r, nonce=n, qop=auth, qop=auth", Malformed::Duplicate("qop").into()),
            ("Digest realm=r, nonce=n, qop=\"auth", Malformed::Syntax { at: 25 }.into()),
            ("Digest realm=r, nonce=n, qop=auth-int", Unsupported::Qop.into()),
            ("Digest realm=r, nonce=n, qop=\"\"", Unsupported::Qop.into()),
            ("Digest realm=r, nonce=n, qop=auth, algorithm=MD5-sess", Unsupported::Algorithm.into()),
            ("Basic realm=r", DigestError::from(Unsupported::Scheme)),
        ] {
            assert_eq!(Challenge::parse(value), Err(error), "{value}");
        }
    }

    #[test]
    fn the_strongest_supported_challenge_is_chosen() {
        let md5 = "Digest realm=r, nonce=1, qop=auth";
        let sha256 = "Digest realm=r, nonce=2, qop=auth, algorithm=SHA-256";
        let again = "Digest realm=r, nonce=3, qop=auth, algorithm=SHA-256";
        let sess = "Digest realm=r, nonce=4, qop=auth, algorithm=SHA-512-256-sess";
        let basic = "Basic realm=r";
        let nonce = |values: &[&str]| Challenge::strongest(values).map(|chosen| chosen.nonce().to_owned());
        assert_eq!(nonce(&[basic, md5, sess, sha256, again]).as_deref(), Ok("2"));
        assert_eq!(nonce(&[again, sha256, md5]).as_deref(), Ok("3"));
        assert_eq!(nonce(&[md5, ""]).as_deref(), Ok("1"));
        assert_eq!(nonce(&[sess, basic]), Err(Unsupported::Algorithm.into()));
        assert_eq!(nonce(&[]), Err(Malformed::Missing("WWW-Authenticate").into()));
    }

    #[test]
    fn nextnonce_renews_the_challenge() {
        let challenge = Challenge::parse("Digest realm=r, nonce=1, qop=auth, opaque=o, stale=true").unwrap();
        let info = |more: &str| {
            AuthenticationInfo::parse(format!("rspauth=\"00\", cnonce=\"c\", nc=00000001, qop=auth{more}"))
                .unwrap()
        };
        let renewed = challenge.renewed(&info(", nextnonce=\"2\"")).unwrap();
        assert_eq!(renewed.to_string(), r#"Digest realm="r", qop="auth", nonce="2", opaque="o""#);
        assert_eq!(challenge.renewed(&info("")), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            realm in any_text(),
            nonce in any_text(),
            opaque in option::of(any_text()),
            stale: bool,
        ) {
            let mut challenge = Challenge::new(Algorithm::Sha256, &realm, &nonce).unwrap().with_stale(stale);
            if let Some(opaque) = opaque {
                challenge = challenge.with_opaque(&opaque).unwrap();
            }
            prop_assert_eq!(Challenge::parse(challenge.to_string()), Ok(challenge));
        }

        #[test]
        fn any_bytes_are_read_or_refused(value in any_value()) {
            if let Ok(challenge) = Challenge::parse(value) {
                prop_assert_eq!(Challenge::parse(challenge.to_string()), Ok(challenge));
            }
        }
    }
}
