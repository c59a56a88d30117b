//! The SHA-256 of a file.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A SHA-256. Shown in lower-case hexadecimal, as by `sha256sum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHash([u8; 32]);

/// Hashes bytes as they come.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

const ALGORITHM: &str = "sha-256";

impl FileHash {
    /// As the words of RFC 5547 §6: `sha-256:0A:1B:…`, upper-case hexadecimal with colons. (The RFC
    /// itself knows SHA-1 only, and foresees others.)
    pub fn selector(&self) -> String {
        let bytes: Vec<_> = self.0.iter().map(|byte| format!("{byte:02X}")).collect();
        format!("{ALGORITHM}:{}", bytes.join(":"))
    }

    /// Reads what [`selector`](Self::selector) writes, in any case. Nothing for another algorithm.
    pub fn from_selector(text: &str) -> Option<Self> {
        let (algorithm, value) = text.split_once(':')?;
        if !algorithm.eq_ignore_ascii_case(ALGORITHM) {
            return None;
        }
        let mut hash = [0; 32];
        let mut pairs = value.split(':');
        for byte in &mut hash {
            let pair =
                pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(Self(hash))
    }
}

impl fmt::Display for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all of them.
    pub fn finish(self) -> FileHash {
        FileHash(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_as_sha256sum_says_and_as_rfc_5547_does() {
        let hash = Hasher::default().finish();
        assert_eq!(hash.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(hash.selector().starts_with("sha-256:E3:B0:C4:"));
        assert_eq!(FileHash::from_selector(&hash.selector()), Some(hash));
        assert_eq!(FileHash::from_selector(&hash.selector().to_lowercase()), Some(hash));
    }

    #[test]
    fn what_is_no_sha_256_is_none() {
        let good = Hasher::default().finish().selector();
        for text in [
            "",
            "sha-256",
            "sha-256:",
            "sha-1:AA:BB",
            &good[..good.len() - 1],
            &format!("{good}:00"),
            &good.replace("E3", "+3"),
        ] {
            assert_eq!(FileHash::from_selector(text), None, "{text}");
        }
    }
}
