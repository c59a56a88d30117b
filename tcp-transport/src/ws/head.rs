//! What requests and responses of the opening handshake have in common: header fields, limits, the
//! accept value.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// Bytes of a request's or response's head at most: 16 KiB, as common web servers take. Tokens and
/// cookies fit.
pub const DEFAULT_MAX_HEAD: usize = 16 * 1024;

/// Header fields of a head at most: 64.
pub const DEFAULT_MAX_HEADERS: usize = 64;

/// Limits for the head of a request or response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, the empty line at the end included; [`DEFAULT_MAX_HEAD`].
    pub max_bytes: usize,
    /// Header fields; [`DEFAULT_MAX_HEADERS`].
    pub max_headers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { max_bytes: DEFAULT_MAX_HEAD, max_headers: DEFAULT_MAX_HEADERS }
    }
}

/// Header fields as they came.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a, 'h>(pub(super) &'h [httparse::Header<'a>]);

impl<'a, 'h> Fields<'a, 'h> {
    /// The values of all fields of that name, in order, as bytes.
    pub(super) fn raw(self, name: &'h str) -> impl Iterator<Item = &'a [u8]> + 'h {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The value if there is exactly one field of that name, and it is text.
    pub(super) fn only(self, name: &'h str) -> Option<&'a str> {
        let mut values = self.raw(name);
        let value = values.next().filter(|_| values.next().is_none())?;
        std::str::from_utf8(value).ok()
    }

    /// The elements of all lists of that name (RFC 9110 §5.6.1), empty ones left out.
    pub(super) fn list(self, name: &'h str) -> impl Iterator<Item = &'a str> + 'h {
        self.raw(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(|element| element.trim_matches([' ', '\t']))
            .filter(|element| !element.is_empty())
    }

    pub(super) fn lists(self, name: &'h str, wanted: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(wanted))
    }
}

/// Header fields to be sent. What is in here is well formed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(String);

impl Headers {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field.
    ///
    /// # Errors
    /// The name is no token (RFC 9110 §5.6.2), or the value has control characters: whoever puts
    /// foreign text into a header field cannot be made to send another one.
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        if !is_token(name) || !is_value(value) {
            return Err(InvalidHeader(name.to_owned()));
        }
        for part in [name, ": ", value, "\r\n"] {
            self.0.push_str(part);
        }
        Ok(())
    }

    /// As [`add`](Self::add), for a chain of them.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn with(mut self, name: &str, value: &str) -> Result<Self, InvalidHeader> {
        self.add(name, value)?;
        Ok(self)
    }

    /// Of whole lines, ours.
    pub(super) fn of_lines(lines: &'static str) -> Self {
        Self(lines.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name or value that cannot stand in a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be sent as a header field with that value")]
pub struct InvalidHeader(String);

pub(super) fn is_token(text: &str) -> bool {
    let special = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || special(byte))
}

/// Text that may stand in a header field: nothing that would end it.
pub(super) fn is_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

/// The value of Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 §4.2.2).
pub(super) fn accept_value(key: &str) -> String {
    let hash = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    STANDARD.encode(hash)
}

/// Whether `key` is base64 of 16 bytes, as a Sec-WebSocket-Key must be (RFC 6455 §4.1).
pub(super) fn is_key(key: &str) -> bool {
    // Sixteen bytes make 24 characters.
    key.len() == 24 && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// The empty line that ends a head may not be searched for beyond the limit.
pub(super) fn within<'a>(bytes: &'a [u8], limits: &HeadLimits) -> &'a [u8] {
    &bytes[..bytes.len().min(limits.max_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_value("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_are_base64_of_sixteen_bytes() {
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ=="));
        for bad in
            ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ=a", "AAAAAAAAAAAAAAAAAAAAAAA=", "AAAA"]
        {
            assert!(!is_key(bad), "{bad}");
        }
    }

    #[test]
    fn a_header_cannot_smuggle_another() {
        let mut headers = Headers::new();
        headers.add("WWW-Authenticate", "Digest realm=\"é\"").unwrap();
        for (name, value) in [("A", "b\r\nC: d"), ("A", "b\n"), ("A: b\r\nC", "d"), ("", "a"), ("A", "\0")] {
            assert!(headers.add(name, value).is_err(), "{name:?} {value:?}");
        }
        assert_eq!(headers.as_str(), "WWW-Authenticate: Digest realm=\"é\"\r\n");
    }
}
