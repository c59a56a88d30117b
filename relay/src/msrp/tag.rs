//! The process in a session-id.
//!
//! A session-id is a tag of [`ProcessTag::LEN`] characters, then the 32 hexadecimal digits of 128 random bits. The tag is
//! drawn when the process starts. While two processes of one relay serve the same address (an upgrade, see
//! `server::handover`), it tells whose session a request is for. It is no secret, and nothing is trusted for it: a
//! session is found by all of its URI.

use std::fmt;
use std::str::FromStr;

use super::wire::Random;

/// The letters of a tag, none of them a hexadecimal digit: where it ends is plain to see.
const LETTERS: &[u8; 16] = b"ghjkmnpqrstvwxyz";

/// The process that a session-id is of: one in 2^20. It is drawn again where another process that still has sessions has
/// the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessTag([u8; Self::LEN]);

impl ProcessTag {
    /// How many characters it has: five, of the `unreserved` ones that a session-id may have (RFC 4975 §9).
    pub const LEN: usize = 5;

    /// Draws one that is none of `taken`.
    #[must_use]
    pub fn draw(random: &dyn Random, taken: &[Self]) -> Self {
        loop {
            let mut bits = [0; Self::LEN];
            random.fill(&mut bits);
            let tag = Self(bits.map(|bits| LETTERS[usize::from(bits % 16)]));
            if !taken.contains(&tag) {
                return tag;
            }
        }
    }

    /// The tag of a session-id, if it has the form of one of ours.
    #[must_use]
    pub fn of_session_id(session_id: &str) -> Option<Self> {
        let (tag, digits) = session_id.split_at_checked(Self::LEN)?;
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (digits.len() == 32 && digits.bytes().all(is_digit)).then(|| tag.parse().ok()).flatten()
    }

    /// As it stands in a session-id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // They are letters of ours.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ProcessTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ProcessTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a tag of {} letters", ProcessTag::LEN)]
pub struct NoTag;

impl FromStr for ProcessTag {
    type Err = NoTag;

    fn from_str(text: &str) -> Result<Self, NoTag> {
        let tag: [u8; Self::LEN] = text.as_bytes().try_into().map_err(|_| NoTag)?;
        if tag.iter().all(|letter| LETTERS.contains(letter)) { Ok(Self(tag)) } else { Err(NoTag) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    struct Counting(AtomicU8);

    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    #[test]
    fn a_tag_that_is_taken_is_drawn_again() {
        let random = Counting(AtomicU8::new(0));
        let first = ProcessTag::draw(&random, &[]);
        assert_eq!(first.as_str(), "ggggg");
        let random = Counting(AtomicU8::new(0));
        let second = ProcessTag::draw(&random, &[first, "hhhhh".parse().unwrap()]);
        assert_eq!(second.as_str(), "jjjjj");
    }

    #[test]
    fn only_session_ids_of_our_form_have_one() {
        let digits = "0123456789abcdef0123456789abcdef";
        let tag = |id: &str| ProcessTag::of_session_id(id).map(|tag| tag.to_string());
        assert_eq!(tag(&format!("kmzxg{digits}")).as_deref(), Some("kmzxg"));
        for id in ["", "kmzxg", digits, "kmzxé0123456789abcdef0123456789abcde"] {
            assert_eq!(tag(id), None, "{id}");
        }
        for tag_of in ["KMZXG", "abcde", "kmzx", "kmzxgg", "kmz0g"] {
            assert_eq!(tag(&format!("{tag_of}{digits}")), None, "{tag_of}");
        }
        assert_eq!(tag(&format!("kmzxg{}", digits.to_uppercase())), None);
        assert_eq!(tag(&format!("kmzxg{digits}0")), None);
    }
}
