//! MSRP URIs: grammar (RFC 4975 §6, §9) and comparison (§6.1).
//!
//! A [`UriRef`] borrows its text, as found in a head; a [`MsrpUri`] owns it. Either exists only if
//! it is valid by the grammar. Neither changes the text: what was received is what is sent on,
//! because clients in the field compare our URIs as text.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use thiserror::Error;

use crate::grammar;

/// The default port of `msrp:` and `msrps:` URIs (RFC 4975 §15.4).
pub const DEFAULT_PORT: u16 = 2855;

/// The longest URI accepted, in bytes. A head is limited anyway; this keeps offsets small and
/// bounds what one session can make a relay remember.
pub const MAX_URI_LEN: usize = 4096;

/// `msrp:` or `msrps:` (compared in any case).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain: `msrp`.
    Msrp,
    /// Over TLS: `msrps`.
    Msrps,
}

impl Scheme {
    /// The scheme's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Msrp => "msrp",
            Self::Msrps => "msrps",
        }
    }

    /// Whether the hop is protected by TLS.
    pub fn is_secure(self) -> bool {
        self == Self::Msrps
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not an MSRP URI. `at` is the offset where the grammar stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an MSRP URI (RFC 4975 §9): {reason} at offset {at}")]
pub struct UriError {
    /// Offset of the first byte that does not fit.
    pub at: usize,
    /// What was expected there.
    pub reason: &'static str,
}

/// Where the parts of a URI stand in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) scheme: Scheme,
    pub(crate) userinfo: Option<Range<u16>>,
    /// Without the brackets of an IPv6 reference.
    pub(crate) host: Range<u16>,
    pub(crate) port: Option<u16>,
    pub(crate) session_id: Option<Range<u16>>,
    pub(crate) transport: Range<u16>,
    /// What follows the transport, with its leading `;`, or nothing.
    pub(crate) parameters: Range<u16>,
}

/// A valid MSRP URI, borrowed from the text it stands in.
#[derive(Clone, Debug)]
pub struct UriRef<'a> {
    /// ASCII, by the grammar.
    text: &'a [u8],
    parts: Parts,
}

impl<'a> UriRef<'a> {
    /// Parses `text`, which must be one URI and nothing else.
    ///
    /// Tolerant of a session-id with any `pchar` or `/` of RFC 3986, which clients send; strict in
    /// all else.
    ///
    /// # Errors
    /// [`UriError`] with the place and the reason.
    pub fn parse(text: &'a str) -> Result<Self, UriError> {
        let parts = grammar::uri(text.as_bytes())?;
        Ok(Self { text: text.as_bytes(), parts })
    }

    /// `parts` is what the grammar has found in `text`.
    pub(crate) fn from_parts(text: &'a [u8], parts: Parts) -> Self {
        Self { text, parts }
    }

    fn bytes(&self, range: &Range<u16>) -> &'a [u8] {
        &self.text[usize::from(range.start)..usize::from(range.end)]
    }

    fn part(&self, range: &Range<u16>) -> &'a str {
        text(self.bytes(range))
    }

    /// The URI as it was written.
    pub fn as_str(&self) -> &'a str {
        text(self.text)
    }

    /// Its bytes, as they were written: ASCII.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.text
    }

    /// `msrp` or `msrps`.
    pub fn scheme(&self) -> Scheme {
        self.parts.scheme
    }

    /// What stands before the `@`, as written.
    pub fn userinfo(&self) -> Option<&'a str> {
        self.parts.userinfo.as_ref().map(|range| self.part(range))
    }

    /// The host as written, without the brackets of an IPv6 reference.
    pub fn host(&self) -> &'a str {
        self.part(&self.parts.host)
    }

    /// The host's address, when it is an IP literal.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// The port, when it is written.
    pub fn port(&self) -> Option<u16> {
        self.parts.port
    }

    /// The session-id, without its leading `/`.
    pub fn session_id(&self) -> Option<&'a str> {
        self.parts.session_id.as_ref().map(|range| self.part(range))
    }

    /// The transport as written: `tcp`, `ws`, or one we do not know.
    pub fn transport(&self) -> &'a str {
        self.part(&self.parts.transport)
    }

    /// Whether the transport is TCP.
    pub fn is_tcp(&self) -> bool {
        self.bytes(&self.parts.transport).eq_ignore_ascii_case(b"tcp")
    }

    /// Whether the transport is WebSocket (RFC 7977 §6).
    pub fn is_ws(&self) -> bool {
        self.bytes(&self.parts.transport).eq_ignore_ascii_case(b"ws")
    }

    /// The URI parameters after the transport, each `name` or `name=value`.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        self.part(&self.parts.parameters).split(';').filter(|part| !part.is_empty()).map(|part| {
            match part.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (part, None),
            }
        })
    }

    /// Whether the host is the same: an IP literal by address, a name in any case, with
    /// percent-escapes of unreserved characters decoded (RFC 4975 §6.1 rule 2).
    pub fn same_host(&self, other: &UriRef<'_>) -> bool {
        let (a, b) = (self.bytes(&self.parts.host), other.bytes(&other.parts.host));
        // Mostly they are written alike.
        if a == b || a.eq_ignore_ascii_case(b) {
            return true;
        }
        match (self.ip(), other.ip()) {
            (Some(a), Some(b)) => a == b,
            _ => normalised(self.host()).eq(normalised(other.host())),
        }
    }

    /// Whether the transport is the same, in any case.
    pub fn same_transport(&self, other: &UriRef<'_>) -> bool {
        self.bytes(&self.parts.transport).eq_ignore_ascii_case(other.bytes(&other.parts.transport))
    }

    fn same_session_id(&self, other: &UriRef<'_>) -> bool {
        let of = |uri: &Self| uri.parts.session_id.clone();
        match (of(self), other.parts.session_id.clone()) {
            (Some(a), Some(b)) => self.bytes(&a) == other.bytes(&b),
            (None, None) => true,
            _ => false,
        }
    }

    /// Owns the text.
    pub fn to_uri(&self) -> MsrpUri {
        MsrpUri { text: self.as_str().into(), parts: self.parts.clone() }
    }
}

/// Comparison by RFC 4975 §6.1: scheme, host, transport in any case; port exactly; session-id
/// by case; userinfo and other parameters not at all.
impl PartialEq<UriRef<'_>> for UriRef<'_> {
    fn eq(&self, other: &UriRef<'_>) -> bool {
        self.scheme() == other.scheme()
            && self.port() == other.port()
            && self.same_session_id(other)
            && self.same_transport(other)
            && self.same_host(other)
    }
}

impl Eq for UriRef<'_> {}

impl fmt::Display for UriRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A valid MSRP URI that owns its text. See [`UriRef`] for its parts.
#[derive(Clone)]
pub struct MsrpUri {
    text: Box<str>,
    parts: Parts,
}

impl MsrpUri {
    /// The borrowed view, which has the accessors and the comparison.
    pub fn as_ref(&self) -> UriRef<'_> {
        UriRef { text: self.text.as_bytes(), parts: self.parts.clone() }
    }

    /// The URI as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for MsrpUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        UriRef::parse(text).map(|uri| uri.to_uri())
    }
}

impl PartialEq for MsrpUri {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for MsrpUri {}

impl fmt::Display for MsrpUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for MsrpUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

/// What the grammar has found to be ASCII.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The bytes of a host in lower case, with percent-escapes of unreserved characters decoded and
/// the hexadecimal digits of all others in upper case (RFC 3986 §6.2.2).
fn normalised(host: &str) -> impl Iterator<Item = u8> + '_ {
    let bytes = host.as_bytes();
    let mut at = 0;
    // An escape that stays one yields its three bytes one after another.
    let mut kept_escape = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        at += 1;
        if kept_escape > 0 {
            kept_escape -= 1;
            return Some(byte.to_ascii_uppercase());
        }
        if byte == b'%' {
            let digits = bytes.get(at..at + 2).and_then(|hex| std::str::from_utf8(hex).ok());
            if let Some(decoded) = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                if decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded) {
                    at += 2;
                    return Some(decoded.to_ascii_lowercase());
                }
                kept_escape = 2;
            }
        }
        Some(byte.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uri(text: &str) -> UriRef<'_> {
        UriRef::parse(text).unwrap()
    }

    #[test]
    fn every_part_of_a_full_uri_is_found() {
        let uri = uri("MSRPS://al%69ce:x@[2001:db8::1]:9892/98cjs+/=a;TCP;line=1;flag");
        assert_eq!(uri.scheme(), Scheme::Msrps);
        assert_eq!(uri.userinfo(), Some("al%69ce:x"));
        assert_eq!(uri.host(), "2001:db8::1");
        assert_eq!(uri.ip(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(uri.port(), Some(9892));
        assert_eq!(uri.session_id(), Some("98cjs+/=a"));
        assert_eq!(uri.transport(), "TCP");
        assert!(uri.is_tcp() && !uri.is_ws());
        assert_eq!(uri.parameters().collect::<Vec<_>>(), [("line", Some("1")), ("flag", None)]);
    }

    #[test]
    fn optional_parts_may_be_absent() {
        let uri = uri("msrp://relay.example.com;ws");
        assert_eq!(uri.scheme(), Scheme::Msrp);
        assert_eq!((uri.userinfo(), uri.port(), uri.session_id()), (None, None, None));
        assert!(uri.is_ws());
        assert_eq!(uri.parameters().count(), 0);
    }

    #[test]
    fn transports_we_do_not_know_are_uris_all_the_same() {
        assert_eq!(uri("msrp://a.b:1/s;quic9").transport(), "quic9");
    }

    #[test]
    fn what_the_grammar_refuses() {
        for text in [
            "",
            "msrp",
            "msrp:",
            "msrp://",
            "msrp://;tcp",
            "http://a:1/s;tcp",
            "msrpx://a:1/s;tcp",
            "msrp://a:1/s",
            "msrp://a:1/s;",
            "msrp://a:1/s;t-p",
            "msrp://a:1/;tcp",
            "msrp://a:/s;tcp",
            "msrp://a:65536/s;tcp",
            "msrp://a:1/s;tcp ",
            " msrp://a:1/s;tcp",
            "msrp://a b:1/s;tcp",
            "msrp://a:1/s;tcp;",
            "msrp://a:1/s;tcp;=x",
            "msrp://[::1:1/s;tcp",
            "msrp://[::g]:1/s;tcp",
            "msrp://[]:1/s;tcp",
            "msrp://u@:1/s;tcp",
            "msrp://a%4:1/s;tcp",
            "msrp://a%zz:1/s;tcp",
            "msrp://a:1/s\u{e9};tcp",
            "msrp://a:1/s\";tcp",
        ] {
            assert!(UriRef::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn length_limit_is_exact() {
        let at = |len: usize| format!("msrp://a:1/{};tcp", "s".repeat(len - "msrp://a:1/;tcp".len()));
        assert!(UriRef::parse(&at(MAX_URI_LEN - 1)).is_ok());
        assert!(UriRef::parse(&at(MAX_URI_LEN)).is_ok());
        assert!(UriRef::parse(&at(MAX_URI_LEN + 1)).is_err());
    }

    #[test]
    fn comparison_follows_rfc_4975_6_1() {
        let same = [
            ("msrp://A.example:1/s;tcp", "MSRP://a.EXAMPLE:1/s;TCP"),
            ("msrp://bob@a:1/s;tcp", "msrp://alice@a:1/s;tcp"),
            ("msrp://bob@a:1/s;tcp", "msrp://a:1/s;tcp"),
            ("msrp://a:1/s;tcp;x=1", "msrp://a:1/s;tcp"),
            ("msrp://%61.b:1/s;tcp", "msrp://a.b:1/s;tcp"),
            ("msrp://a%2Cb:1/s;tcp", "msrp://a%2cB:1/s;tcp"),
            ("msrp://[2001:DB8:0::1]:1/s;tcp", "msrp://[2001:db8::1]:1/s;tcp"),
        ];
        for (a, b) in same {
            assert_eq!(uri(a), uri(b), "{a} {b}");
        }
        let different = [
            ("msrp://a:1/s;tcp", "msrps://a:1/s;tcp"),
            ("msrp://a:1/s;tcp", "msrp://a:2/s;tcp"),
            ("msrp://a:2855/s;tcp", "msrp://a/s;tcp"),
            ("msrp://a:1/s;tcp", "msrp://a:1/S;tcp"),
            ("msrp://a:1/s;tcp", "msrp://a:1;tcp"),
            ("msrp://a:1/s;tcp", "msrp://a:1/s;ws"),
            ("msrp://a:1/s;tcp", "msrp://b:1/s;tcp"),
            ("msrp://a%2Cb:1/s;tcp", "msrp://a,b:1/s;tcp"),
            ("msrp://a:1/%41;tcp", "msrp://a:1/A;tcp"),
        ];
        for (a, b) in different {
            assert_ne!(uri(a), uri(b), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,80}") {
            let _ = UriRef::parse(&text);
        }

        #[test]
        fn anything_near_a_uri_is_parsed_or_refused(text in "msrps?://[a-z0-9.%@:\\[\\]/;=-]{0,40};tcp[;=a-z]{0,6}") {
            if let Ok(uri) = UriRef::parse(&text) {
                prop_assert_eq!(uri.as_str(), text.as_str());
                let owned = uri.to_uri();
                prop_assert_eq!(&uri, &owned.as_ref());
                prop_assert!(!uri.host().is_empty() && !uri.transport().is_empty());
            }
        }
    }
}
