//! The `ident` rule (RFC 4975 §9), which names transactions and messages.

use std::fmt;
use std::hash::{Hash, Hasher};

use thiserror::Error;

/// The shortest `ident`.
pub const MIN_LEN: usize = 4;
/// The longest `ident`.
pub const MAX_LEN: usize = 32;

/// Whether `text` is an `ident`: 4 to 32 characters, the first a letter or digit, the others also
/// `.`, `-`, `+`, `%` or `=`.
pub fn is_ident(text: &[u8]) -> bool {
    (MIN_LEN..=MAX_LEN).contains(&text.len())
        && text[0].is_ascii_alphanumeric()
        && text[1..].iter().all(|&byte| is_ident_byte(byte))
}

/// Whether `byte` may stand in an `ident` after its first place.
pub(crate) fn is_ident_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'%' | b'=')
}

/// A transaction id (RFC 4975 §7.1), held in place: forwarding a message allocates nothing for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId {
    len: u8,
    bytes: [u8; MAX_LEN],
}

/// The bytes in two numbers: what follows the id are zeros, so its length says nothing more.
impl Hash for TransactionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (a, b) = self.bytes.split_at(MAX_LEN / 2);
        for half in [a, b] {
            state.write_u128(u128::from_ne_bytes(half.try_into().unwrap_or_default()));
        }
    }
}

/// A text that is no `ident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a transaction id has 4 to 32 letters, digits or .-+%=, the first a letter or digit (RFC 4975 §9)")]
pub struct IdentError;

impl TransactionId {
    /// Takes `text` if it is an `ident`.
    ///
    /// # Errors
    /// [`IdentError`] if it is not.
    pub fn new(text: &[u8]) -> Result<Self, IdentError> {
        if !is_ident(text) {
            return Err(IdentError);
        }
        let mut bytes = [0; MAX_LEN];
        bytes[..text.len()].copy_from_slice(text);
        Ok(Self { len: text.len() as u8, bytes })
    }

    /// A transaction id of 16 characters out of 80 random bits, which the caller draws. RFC 4975
    /// §7.1 asks for at least 64 bits.
    pub fn from_random(random: [u8; 10]) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut bytes = [0; MAX_LEN];
        let mut bits = [0; 16];
        bits[6..].copy_from_slice(&random);
        let bits = u128::from_be_bytes(bits);
        for (place, out) in bytes[..16].iter_mut().enumerate() {
            *out = ALPHABET[(bits >> (75 - 5 * place)) as usize & 31];
        }
        Self { len: 16, bytes }
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// A placeholder that equals no transaction id on the wire.
impl Default for TransactionId {
    fn default() -> Self {
        Self { len: 0, bytes: [0; MAX_LEN] }
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_limits_are_exact() {
        for (len, valid) in [(3, false), (4, true), (5, true), (31, true), (32, true), (33, false)] {
            assert_eq!(is_ident("a".repeat(len).as_bytes()), valid, "{len}");
        }
    }

    #[test]
    fn only_the_alphabet_is_taken_and_the_first_is_alphanumeric() {
        assert!(is_ident(b"0.-+%="));
        for text in ["-abc", ".abc", "ab_c", "ab c", "abc$", "ab\u{e9}d"] {
            assert!(!is_ident(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn random_ids_use_all_their_bits() {
        assert_eq!(TransactionId::from_random([0; 10]).as_str(), "aaaaaaaaaaaaaaaa");
        assert_eq!(TransactionId::from_random([0xff; 10]).as_str(), "7777777777777777");
        let mut random = [0; 10];
        random[9] = 1;
        assert_eq!(TransactionId::from_random(random).as_str(), "aaaaaaaaaaaaaaab");
        assert!(is_ident(TransactionId::from_random([0x5a; 10]).as_bytes()));
    }
}
