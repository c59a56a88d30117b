//! Authorization: what the client answers.

use std::fmt;

use subtle::ConstantTimeEq;

use super::algorithm::{Algorithm, Ha1, is_digest};
use super::challenge::Challenge;
use super::error::{BuildError, DigestError, Malformed, Unsupported};
use super::params::{NonceCount, Params, QOP, Quoted, quotable};

/// An answer to a challenge: the value of an Authorization header (RFC 4976 §5.1, §9.1; RFC 7616
/// §3.4).
///
/// That it exists means that it is complete, and not that it is right: that is [`verify`](Self::verify).
/// `Display` writes the header value, with `algorithm`, `qop` and `nc` unquoted and all else quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    username: String,
    realm: String,
    nonce: String,
    uri: Option<String>,
    algorithm: Option<Algorithm>,
    opaque: Option<String>,
    cnonce: String,
    nc: NonceCount,
    response: String,
}

/// What a client brings to answer a challenge.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The user's name in the realm of the challenge.
    pub username: &'a str,
    /// What proves that it is this user.
    pub secret: Secret<'a>,
    /// The request's method: `AUTH`.
    pub method: &'a str,
    /// The rightmost URI of the request's To-Path, as it is sent (RFC 4976 §9.1).
    pub digest_uri: &'a str,
    /// A fresh random text.
    pub cnonce: &'a str,
    /// Which request this is with the nonce of the challenge, from 1.
    pub nc: u32,
    /// Whether to send `uri` too. RFC 4976 §7 has no such parameter and RFC 7616 §3.4 has: there are
    /// relays that do not answer when they see it, and others that want it.
    pub send_uri: bool,
}

/// The client's secret. `Debug` does not show it.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// The password.
    Password(&'a str),
    /// H(A1), of the same user, realm and algorithm.
    Ha1(&'a Ha1),
}

impl Authorization {
    /// Answers a challenge, echoing its `opaque` and, where it names one, its `algorithm`.
    ///
    /// # Errors
    /// [`BuildError::ControlCharacter`] if username, cnonce or URI has one,
    /// [`BuildError::AlgorithmMismatch`] if the HA1 is for another algorithm than the challenge,
    /// [`BuildError::ZeroNonceCount`] if `nc` is 0.
    pub fn answer(challenge: &Challenge, answer: &Answer<'_>) -> Result<Self, BuildError> {
        if answer.nc == 0 {
            return Err(BuildError::ZeroNonceCount);
        }
        let algorithm = challenge.algorithm();
        let from_password;
        let ha1 = match answer.secret {
            Secret::Ha1(ha1) if ha1.algorithm() != algorithm => return Err(BuildError::AlgorithmMismatch),
            Secret::Ha1(ha1) => ha1,
            Secret::Password(password) => {
                from_password = Ha1::from_password(algorithm, answer.username, challenge.realm(), password);
                &from_password
            }
        };
        let mut authorization = Self {
            username: quotable("username", answer.username)?,
            realm: challenge.realm().to_owned(),
            nonce: challenge.nonce().to_owned(),
            uri: answer.send_uri.then(|| quotable("uri", answer.digest_uri)).transpose()?,
            algorithm: challenge.named_algorithm(),
            opaque: challenge.opaque().map(str::to_owned),
            cnonce: quotable("cnonce", answer.cnonce)?,
            nc: NonceCount::new(answer.nc),
            response: String::new(),
        };
        authorization.response = authorization.keyed_digest(ha1, answer.method, answer.digest_uri);
        Ok(authorization)
    }

    /// Reads the value of an Authorization header, everything after the colon.
    ///
    /// Parameters come in any order, quoted or not; unknown ones are ignored.
    ///
    /// # Errors
    /// [`Malformed`] if it breaks the grammar or lacks what RFC 4976 §9.1 requires (username, realm,
    /// nonce, qop, nc, cnonce, response); [`Unsupported`] if the scheme (Basic), the algorithm
    /// (MD5-sess) or the qop (auth-int) is one that it leaves out.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, DigestError> {
        let mut params = Params::after_scheme(value.as_ref())?;
        let username = params.require("username")?;
        if params.take("username*")?.is_some() {
            // RFC 7616 §3.4: both at once "MUST be treated as an error".
            return Err(Malformed::Duplicate("username").into());
        }
        let mut authorization = Self {
            username,
            realm: params.require("realm")?,
            nonce: params.require("nonce")?,
            uri: params.take("uri")?,
            algorithm: params.take_algorithm()?,
            opaque: params.take("opaque")?,
            cnonce: params.require("cnonce")?,
            nc: NonceCount::parse(params.require("nc")?)?,
            response: params.require("response")?,
        };
        if !params.require("qop")?.eq_ignore_ascii_case(QOP) {
            return Err(Unsupported::Qop.into());
        }
        if !is_digest(authorization.algorithm(), &authorization.response) {
            return Err(Malformed::Invalid("response").into());
        }
        authorization.response.make_ascii_lowercase();
        Ok(authorization)
    }

    /// Whether the sender knows the secret behind `ha1` (RFC 7616 §3.4.1).
    ///
    /// `digest_uri` is the rightmost URI of the request's To-Path as it was received (RFC 4976
    /// §9.1); a `uri` parameter has no part in it. The digests are compared in constant time.
    ///
    /// Before, the caller has looked up `ha1` by [`username`](Self::username) and
    /// [`realm`](Self::realm), and checked [`nonce`](Self::nonce) for that realm; after, it has the
    /// nonce count stored. For an unknown user, verifying against any other HA1 takes the same time
    /// and so does not tell that the user is unknown.
    #[must_use]
    pub fn verify(&self, ha1: &Ha1, method: &str, digest_uri: &str) -> bool {
        let expected = self.keyed_digest(ha1, method, digest_uri);
        let equal = bool::from(expected.as_bytes().ct_eq(self.response.as_bytes()));
        equal && ha1.algorithm() == self.algorithm()
    }

    /// The user's name, with quoting undone.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The realm whose password it is about.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The nonce, yet unchecked.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The `uri` parameter, if there is one. RFC 7616 §3.4.6 lets a server refuse a request (400)
    /// whose `uri` is not its own; RFC 4976 does without it.
    pub fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// The algorithm: MD5 unless it names one.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm.unwrap_or(Algorithm::Md5)
    }

    /// What the challenge had as `opaque`.
    pub fn opaque(&self) -> Option<&str> {
        self.opaque.as_deref()
    }

    /// The client's own nonce.
    pub fn cnonce(&self) -> &str {
        &self.cnonce
    }

    /// How many requests the client says to have sent with this nonce, this one included.
    pub fn nc(&self) -> u32 {
        self.nc.value()
    }

    pub(super) fn nonce_count(&self) -> &NonceCount {
        &self.nc
    }

    /// `KD(H(A1), nonce:nc:cnonce:qop:H(A2))` of RFC 7616 §3.4.1, with `method:digest_uri` as A2.
    /// With an empty method it is the `rspauth` of §3.5.
    pub(super) fn keyed_digest(&self, ha1: &Ha1, method: &str, digest_uri: &str) -> String {
        let algorithm = ha1.algorithm();
        let ha2 = algorithm.hash_hex(&[method, digest_uri]);
        algorithm.hash_hex(&[ha1.as_hex(), &self.nonce, self.nc.digits(), &self.cnonce, QOP, &ha2])
    }
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest username={}, realm={}", Quoted(&self.username), Quoted(&self.realm))?;
        write!(f, ", nonce={}", Quoted(&self.nonce))?;
        if let Some(uri) = &self.uri {
            write!(f, ", uri={}", Quoted(uri))?;
        }
        if let Some(algorithm) = self.algorithm {
            write!(f, ", algorithm={algorithm}")?;
        }
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", Quoted(opaque))?;
        }
        let (nc, cnonce) = (self.nc.digits(), Quoted(&self.cnonce));
        write!(f, ", qop={QOP}, nc={nc}, cnonce={cnonce}, response=\"{}\"", self.response)
    }
}

impl fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Ha1(_) => "Ha1(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::super::params::{MAX_PARAMS, any_text, any_value};
    use super::*;

    const URI: &str = "msrps://relay.test:2855;tcp";

    fn challenge() -> Challenge {
        Challenge::new(Algorithm::Sha256, "relay.test", "n0nce").unwrap().with_opaque("0paque").unwrap()
    }

    fn alice() -> Answer<'static> {
        Answer {
            username: "alice",
            secret: Secret::Password("s3cret"),
            method: "AUTH",
            digest_uri: URI,
            cnonce: "0a4f113b",
            nc: 10,
            send_uri: false,
        }
    }

    /// RFC 7616 §3.9.1, both answers; RFC 2617 §3.5 (there with `uri` and without `algorithm`). The
    /// response printed in RFC 7616 §3.9.2 does not follow from its own inputs: the one here is what
    /// Python's hashlib (sha512_256) computes from them. The last vector is ours, from hashlib too.
    #[test]
    fn the_vectors_of_the_rfcs_verify() {
        let mufasa = r#"Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html",
            nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001,
            cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth,
            opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#;
        let rfc2617 = r#"Digest username="Mufasa", realm="testrealm@host.com",
            nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", qop=auth, nc=00000001,
            cnonce="0a4f113b", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        let jason = r#"Digest username="Jäsøn Doe", realm="api@example.org", uri="/doe.json",
            nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", nc=00000001,
            cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v", qop=auth,
            opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS""#;
        let alice = r#"Digest username="alice", realm="relay.test", nonce="n0nce", qop=auth, nc=0000000a,
            cnonce="0a4f113b""#;
        let index = "/dir/index.html";
        for (value, algorithm, response, password, method, uri) in [
            (mufasa, "MD5", "8ca523f5e9506fed4657c9700eebdbec", "Circle of Life", "GET", index),
            (
                mufasa,
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
                "Circle of Life",
                "GET",
                index,
            ),
            (rfc2617, "", "6629fae49393a05397450978507c4ef1", "Circle Of Life", "GET", index),
            (
                jason,
                "SHA-512-256",
                "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
                "Secret, or not?",
                "GET",
                "/doe.json",
            ),
            (alice, "", "f2ea9c10de932a924b9e7707b5a60cdf", "s3cret", "AUTH", URI),
        ] {
            let algorithm =
                if algorithm.is_empty() { String::new() } else { format!("algorithm={algorithm},") };
            // Header values have no line breaks; they are there for the reader.
            let value = format!("{},{algorithm} response=\"{response}\"", value.replace('\n', " "));
            let authorization = Authorization::parse(&value).unwrap();
            let ha1 = |password| {
                let (user, realm) = (authorization.username(), authorization.realm());
                Ha1::from_password(authorization.algorithm(), user, realm, password)
            };
            assert!(authorization.verify(&ha1(password), method, uri), "{value}");
            assert!(!authorization.verify(&ha1("wrong"), method, uri), "{value}");
            assert!(!authorization.verify(&ha1(password), "SEND", uri), "{value}");
            assert!(!authorization.verify(&ha1(password), method, "/other"), "{value}");
        }
    }

    #[test]
    fn the_answer_is_written_as_rfc_4976_wants_it() {
        let written = Authorization::answer(&challenge(), &alice()).unwrap().to_string();
        assert_eq!(
            written,
            "Digest username=\"alice\", realm=\"relay.test\", nonce=\"n0nce\", algorithm=SHA-256, \
             opaque=\"0paque\", qop=auth, nc=0000000a, cnonce=\"0a4f113b\", \
             response=\"7260777f39f8eaef51137dddbbc596eb91dce0e42cfd618f49d605cf2064fc6b\""
        );
        let legacy = Challenge::parse("Digest realm=\"relay.test\", nonce=\"n0nce\", qop=\"auth\"").unwrap();
        let with_uri = Answer { send_uri: true, ..alice() };
        assert_eq!(
            Authorization::answer(&legacy, &with_uri).unwrap().to_string(),
            "Digest username=\"alice\", realm=\"relay.test\", nonce=\"n0nce\", \
             uri=\"msrps://relay.test:2855;tcp\", qop=auth, nc=0000000a, cnonce=\"0a4f113b\", \
             response=\"f2ea9c10de932a924b9e7707b5a60cdf\""
        );
    }

    #[test]
    fn password_and_ha1_give_the_same_answer() {
        let ha1 = Ha1::from_password(Algorithm::Sha256, "alice", "relay.test", "s3cret");
        let by_ha1 = Answer { secret: Secret::Ha1(&ha1), ..alice() };
        assert_eq!(
            Authorization::answer(&challenge(), &by_ha1),
            Authorization::answer(&challenge(), &alice())
        );
    }

    #[test]
    fn answers_that_cannot_be_written_are_refused() {
        let md5 = Ha1::from_password(Algorithm::Md5, "alice", "relay.test", "s3cret");
        let answer = |answer| Authorization::answer(&challenge(), &answer);
        for (answered, error) in [
            (answer(Answer { nc: 0, ..alice() }), BuildError::ZeroNonceCount),
            (answer(Answer { secret: Secret::Ha1(&md5), ..alice() }), BuildError::AlgorithmMismatch),
            (answer(Answer { username: "a\r\n", ..alice() }), BuildError::ControlCharacter("username")),
            (answer(Answer { cnonce: "\0", ..alice() }), BuildError::ControlCharacter("cnonce")),
            (
                answer(Answer { digest_uri: "\n", send_uri: true, ..alice() }),
                BuildError::ControlCharacter("uri"),
            ),
        ] {
            assert_eq!(answered, Err(error));
        }
    }

    #[test]
    fn an_ha1_of_another_algorithm_does_not_verify() {
        let authorization = Authorization::answer(&challenge(), &alice()).unwrap();
        for algorithm in [Algorithm::Md5, Algorithm::Sha512_256] {
            let ha1 = Ha1::from_password(algorithm, "alice", "relay.test", "s3cret");
            assert!(!authorization.verify(&ha1, "AUTH", URI));
        }
        // Neither does an answer that is right but for the algorithm it names.
        let relabelled = authorization.to_string().replace("SHA-256", "SHA-512-256");
        let ha1 = Ha1::from_password(Algorithm::Sha256, "alice", "relay.test", "s3cret");
        assert!(authorization.verify(&ha1, "AUTH", URI));
        assert!(!Authorization::parse(relabelled).unwrap().verify(&ha1, "AUTH", URI));
    }

    #[test]
    fn reading_is_tolerant_and_hashes_what_was_sent() {
        let value = "DIGEST response=F2EA9C10DE932A924B9E7707B5A60CDF,cnonce=0a4f113b , nc=\"0000000a\",\
                     qop=\"auth\", x=y, nonce=n0nce, uri=msrps://relay.test:2855;tcp, realm=relay.test,\
                     userhash=false, username=alice, algorithm=\"md5\"";
        let authorization = Authorization::parse(value).unwrap();
        assert_eq!((authorization.uri(), authorization.opaque()), (Some(URI), None));
        assert_eq!((authorization.cnonce(), authorization.nc()), ("0a4f113b", 10));
        let ha1 = Ha1::from_password(Algorithm::Md5, "alice", "relay.test", "s3cret");
        assert!(authorization.verify(&ha1, "AUTH", URI));

        // A client that counts in upper case also hashes upper case.
        let upper = Authorization::parse(value.replace("0000000a", "0000000A")).unwrap();
        let digits = upper.keyed_digest(&ha1, "AUTH", URI);
        let upper = Authorization::parse(upper.to_string().replace(&upper.response, &digits)).unwrap();
        assert!(upper.verify(&ha1, "AUTH", URI) && upper.nc() == 10);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let all = [
            ("username", "\"alice\""),
            ("realm", "\"r\""),
            ("nonce", "\"n\""),
            ("qop", "auth"),
            ("nc", "00000001"),
            ("cnonce", "\"c\""),
            ("response", "\"00000000000000000000000000000000\""),
        ];
        let write = |params: &[(&str, &str)]| {
            let params: Vec<_> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("Digest {}", params.join(", "))
        };
        let with = |name: &str, value: &str| {
            let params = all.map(|param| if param.0 == name { (name, value) } else { param });
            Authorization::parse(write(&params))
        };
        let plus =
            |name: &str, value: &str| Authorization::parse(write(&[&all[..], &[(name, value)]].concat()));

        assert!(Authorization::parse(write(&all)).is_ok());
        for (index, (name, value)) in all.into_iter().enumerate() {
            let mut without = all.to_vec();
            without.remove(index);
            assert_eq!(Authorization::parse(write(&without)), Err(Malformed::Missing(name).into()));
            assert_eq!(plus(name, value), Err(Malformed::Duplicate(name).into()));
        }
        for optional in ["uri", "algorithm", "opaque"] {
            let twice = write(&[&all[..], &[(optional, "MD5"), (optional, "MD5")]].concat());
            assert_eq!(Authorization::parse(twice), Err(Malformed::Duplicate(optional).into()));
        }
        assert_eq!(plus("username*", "UTF-8''alice"), Err(Malformed::Duplicate("username").into()));
        assert_eq!(with("nc", "1"), Err(Malformed::Invalid("nc").into()));
        assert_eq!(with("nc", "+0000001"), Err(Malformed::Invalid("nc").into()));
        assert_eq!(with("response", "\"00\""), Err(Malformed::Invalid("response").into()));
        assert_eq!(with("response", &"g".repeat(32)), Err(Malformed::Invalid("response").into()));
        assert_eq!(plus("algorithm", "SHA-256"), Err(Malformed::Invalid("response").into()));
        assert_eq!(with("username", "\"alice"), Err(Malformed::Syntax { at: 31 }.into()));
        assert_eq!(with("qop", "auth-int"), Err(Unsupported::Qop.into()));
        assert_eq!(plus("algorithm", "MD5-sess"), Err(Unsupported::Algorithm.into()));
        assert_eq!(Authorization::parse("Basic QWxpY2U6eA=="), Err(Unsupported::Scheme.into()));
        assert_eq!(Authorization::parse(b"Digest \xff"), Err(Malformed::NotUtf8.into()));
        let many: Vec<_> = (0..=MAX_PARAMS).map(|_| ("x", "y")).collect();
        assert_eq!(Authorization::parse(write(&many)), Err(Malformed::TooManyParams.into()));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let shown = format!("{:?}", alice());
        assert!(shown.contains("alice") && !shown.contains("s3cret"), "{shown}");
    }

    proptest! {
        #[test]
        fn what_is_answered_reads_back_and_verifies(
            (username, realm, nonce, cnonce) in (any_text(), any_text(), any_text(), any_text()),
            (opaque, password, uri) in (option::of(any_text()), any_text(), any_text()),
            nc in 1u32..,
            send_uri: bool,
        ) {
            let mut challenge = Challenge::new(Algorithm::Sha512_256, &realm, &nonce).unwrap();
            if let Some(opaque) = opaque {
                challenge = challenge.with_opaque(&opaque).unwrap();
            }
            let answer = Answer {
                username: &username,
                secret: Secret::Password(&password),
                method: "AUTH",
                digest_uri: &uri,
                cnonce: &cnonce,
                nc,
                send_uri,
            };
            let answered = Authorization::answer(&challenge, &answer).unwrap();
            let received = Authorization::parse(answered.to_string()).unwrap();
            let ha1 = Ha1::from_password(Algorithm::Sha512_256, &username, &realm, &password);
            prop_assert!(received.verify(&ha1, "AUTH", &uri));
            prop_assert_eq!(received, answered);
        }

        #[test]
        fn any_bytes_are_read_or_refused(value in any_value()) {
            if let Ok(authorization) = Authorization::parse(value) {
                prop_assert_eq!(Authorization::parse(authorization.to_string()), Ok(authorization));
            }
        }
    }
}
