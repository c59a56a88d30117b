//! The hash functions, and the secret they make of a password.

use std::fmt;
use std::str::FromStr;

use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};
use thiserror::Error;

use super::error::Unsupported;

/// A digest algorithm (RFC 7616 §3.3 `algorithm`), ordered from the weakest to the strongest.
///
/// Parsing ignores case and refuses all others, the `-sess` variants among them (RFC 4976 §9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// MD5: what a header without `algorithm` means, and all that most MSRP clients know.
    Md5,
    /// SHA-256.
    Sha256,
    /// SHA-512/256 (FIPS 180-4), written `SHA-512-256`. It is not SHA-512 cut short.
    Sha512_256,
}

impl Algorithm {
    /// The name as it stands in a header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// The length of a digest written in hexadecimal.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha256 | Self::Sha512_256 => 64,
        }
    }

    /// H of `parts` joined by colons, in lower-case hexadecimal: every string that RFC 7616 §3.4
    /// hashes has that form.
    pub fn hash_hex(self, parts: &[&str]) -> String {
        match self {
            Self::Md5 => joined_hex::<Md5>(parts),
            Self::Sha256 => joined_hex::<Sha256>(parts),
            Self::Sha512_256 => joined_hex::<Sha512_256>(parts),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = Unsupported;

    fn from_str(name: &str) -> Result<Self, Unsupported> {
        [Self::Md5, Self::Sha256, Self::Sha512_256]
            .into_iter()
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
            .ok_or(Unsupported::Algorithm)
    }
}

/// H(A1): what a password becomes for one user, one realm and one algorithm (RFC 7616 §3.4.2).
///
/// Whoever knows it can authenticate as that user in that realm, so it is a secret: `Debug` does
/// not show it, and there is no `==`.
#[derive(Clone)]
pub struct Ha1 {
    algorithm: Algorithm,
    hex: String,
}

impl Ha1 {
    /// H(`user:realm:password`).
    pub fn from_password(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> Self {
        Self { algorithm, hex: algorithm.hash_hex(&[user, realm, password]) }
    }

    /// An HA1 as credential files and databases hold it, in hexadecimal of either case.
    ///
    /// # Errors
    /// [`InvalidHa1`] if it is not as long as the algorithm's digest or not hexadecimal.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self, InvalidHa1> {
        if is_digest(algorithm, hex) {
            Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
        } else {
            Err(InvalidHa1 { algorithm })
        }
    }

    /// The algorithm it was made with, and the only one it can be used with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The secret itself, in lower-case hexadecimal.
    pub fn as_hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ha1").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The text is not an HA1 of that algorithm. It does not show the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an HA1 for {algorithm} is {} hexadecimal digits", algorithm.hex_len())]
pub struct InvalidHa1 {
    /// The algorithm it was to be used with.
    pub algorithm: Algorithm,
}

/// Whether `text` has the form of a digest of `algorithm`, in either case.
pub(super) fn is_digest(algorithm: Algorithm, text: &str) -> bool {
    text.len() == algorithm.hex_len() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `bytes` in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

fn joined_hex<D: Digest>(parts: &[&str]) -> String {
    let mut digest = D::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            digest.update(b":");
        }
        digest.update(part.as_bytes());
    }
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256];

    #[test]
    fn names_parse_in_any_case_and_back() {
        for algorithm in ALL {
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
            assert_eq!(algorithm.as_str().to_lowercase().parse(), Ok(algorithm));
            assert_eq!(algorithm.to_string(), algorithm.as_str());
            assert_eq!(algorithm.hash_hex(&["x"]).len(), algorithm.hex_len());
        }
        for name in ["MD5-sess", "SHA-256-sess", "SHA-512", "SHA-512/256", "SHA1", "", "MD5 "] {
            assert_eq!(name.parse::<Algorithm>(), Err(Unsupported::Algorithm), "{name}");
        }
        assert!(Algorithm::Md5 < Algorithm::Sha256 && Algorithm::Sha256 < Algorithm::Sha512_256);
    }

    /// Expected values computed with Python's hashlib.
    #[test]
    fn ha1_is_the_hash_of_user_realm_and_password() {
        for (algorithm, expected) in [
            (Algorithm::Md5, "2d15da24431ec5a9782f50071d548f8c"),
            (Algorithm::Sha256, "0d20692786ab38f953f6873a9321d41e4c79173a681c55140ca4b1c223db8072"),
            (Algorithm::Sha512_256, "0707a58188d11c775595de1e095a3bd369300cee46afe74c5770c64bc828e096"),
        ] {
            let ha1 = Ha1::from_password(algorithm, "alice", "relay.test", "s3cret");
            assert_eq!((ha1.algorithm(), ha1.as_hex()), (algorithm, expected));
        }
    }

    #[test]
    fn ha1_from_hex_is_checked_and_normalised() {
        let upper = "2D15DA24431EC5A9782F50071D548F8C";
        let ha1 = Ha1::from_hex(Algorithm::Md5, upper).unwrap();
        assert_eq!(ha1.as_hex(), upper.to_lowercase());
        for bad in ["", &upper[1..], &format!("{upper}0"), &upper.replace('D', "g"), &"é".repeat(16)] {
            let error = Ha1::from_hex(Algorithm::Md5, bad).unwrap_err();
            assert_eq!(error.to_string(), "an HA1 for MD5 is 32 hexadecimal digits");
        }
        assert!(Ha1::from_hex(Algorithm::Sha256, upper).is_err());
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let ha1 = Ha1::from_password(Algorithm::Md5, "alice", "relay.test", "s3cret");
        assert_eq!(format!("{ha1:?}"), "Ha1 { algorithm: Md5, .. }");
    }
}
