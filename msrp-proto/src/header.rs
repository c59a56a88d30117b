//! Typed header values (RFC 4975 §9, RFC 4976 §7).

use std::fmt;

use thiserror::Error;

use crate::grammar;
use crate::status::StatusCode;

/// The header fields this crate knows. Names compare in any case; all others are kept as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Name {
    /// The hops to go (RFC 4975 §7.1).
    ToPath,
    /// The hops behind.
    FromPath,
    /// Names the message a chunk or a REPORT belongs to.
    MessageId,
    /// Which bytes of the message the chunk holds.
    ByteRange,
    /// Whether the sender wants a REPORT of success.
    SuccessReport,
    /// Which failures the sender wants to hear of.
    FailureReport,
    /// What a REPORT reports.
    Status,
    /// The URIs a client may use (RFC 4976 §5.1).
    UsePath,
    /// How many seconds a URI stays valid.
    Expires,
    /// The least Expires a relay accepts.
    MinExpires,
    /// The greatest Expires a relay accepts.
    MaxExpires,
    /// The relay's challenge.
    WwwAuthenticate,
    /// The client's answer.
    Authorization,
    /// The relay's proof, and the next nonce.
    AuthenticationInfo,
    /// The media type; the last header field before a body.
    ContentType,
    /// Any other.
    Other,
}

impl Name {
    /// The name as it is written, for the fields we know; empty for [`Name::Other`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToPath => "To-Path",
            Self::FromPath => "From-Path",
            Self::MessageId => "Message-ID",
            Self::ByteRange => "Byte-Range",
            Self::SuccessReport => "Success-Report",
            Self::FailureReport => "Failure-Report",
            Self::Status => "Status",
            Self::UsePath => "Use-Path",
            Self::Expires => "Expires",
            Self::MinExpires => "Min-Expires",
            Self::MaxExpires => "Max-Expires",
            Self::WwwAuthenticate => "WWW-Authenticate",
            Self::Authorization => "Authorization",
            Self::AuthenticationInfo => "Authentication-Info",
            Self::ContentType => "Content-Type",
            Self::Other => "",
        }
    }

    pub(crate) fn from_bytes(name: &[u8]) -> Self {
        // By length first: most messages carry six fields, and most names differ in it.
        let candidates: &[Self] = match name.len() {
            6 => &[Self::Status],
            7 => &[Self::ToPath, Self::Expires],
            8 => &[Self::UsePath],
            9 => &[Self::FromPath],
            10 => &[Self::MessageId, Self::ByteRange],
            11 => &[Self::MinExpires, Self::MaxExpires],
            12 => &[Self::ContentType],
            13 => &[Self::Authorization],
            14 => &[Self::SuccessReport, Self::FailureReport],
            16 => &[Self::WwwAuthenticate],
            19 => &[Self::AuthenticationInfo],
            _ => &[],
        };
        // Mostly they are written as we write them.
        let known = |candidate: &&Self| {
            let known = candidate.as_str().as_bytes();
            name == known || name.eq_ignore_ascii_case(known)
        };
        candidates.iter().find(known).copied().unwrap_or(Self::Other)
    }
}

/// A header value that its grammar does not allow: the request is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("bad value of {0}")]
pub struct ValueError(pub &'static str);

/// `Byte-Range: start-end/total`; `None` stands for `*` (RFC 4975 §7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The place of the chunk's first byte in the message; the first is 1.
    pub start: u64,
    /// The place of its last byte, if the sender knows and will not interrupt.
    pub end: Option<u64>,
    /// The length of the message, if the sender knows.
    pub total: Option<u64>,
}

impl ByteRange {
    /// The range of a chunk that says nothing of itself.
    pub const UNKNOWN: Self = Self { start: 1, end: None, total: None };

    /// Parses a value.
    ///
    /// # Errors
    /// [`ValueError`] if it is not of the form, or a number exceeds 64 bits, or the start is 0.
    pub fn parse(value: &[u8]) -> Result<Self, ValueError> {
        grammar::byte_range(value).filter(|range| range.start > 0).ok_or(ValueError("Byte-Range"))
    }

    /// How many bytes the chunk says it holds, when it says so: `1-0/0` is none.
    pub fn declared_len(&self) -> Option<u64> {
        self.end.map(|end| end.saturating_add(1).saturating_sub(self.start))
    }
}

/// [`ByteRange::UNKNOWN`]: what the absence of the field means.
impl Default for ByteRange {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.start)?;
        match self.end {
            Some(end) => write!(f, "{end}/")?,
            None => f.write_str("*/")?,
        }
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

/// Which failures the sender wants to hear of (RFC 4975 §7.1.1). Absent means `yes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailureReport {
    /// Every response, and a REPORT of a later failure.
    #[default]
    Yes,
    /// Errors only, and no timer.
    Partial,
    /// Nothing at all.
    No,
}

impl FailureReport {
    /// Parses a value, in any case.
    ///
    /// # Errors
    /// [`ValueError`] for any other word.
    pub fn parse(value: &[u8]) -> Result<Self, ValueError> {
        match () {
            () if value.eq_ignore_ascii_case(b"yes") => Ok(Self::Yes),
            () if value.eq_ignore_ascii_case(b"partial") => Ok(Self::Partial),
            () if value.eq_ignore_ascii_case(b"no") => Ok(Self::No),
            () => Err(ValueError("Failure-Report")),
        }
    }
}

/// `Status: namespace code [comment]` of a REPORT (RFC 4975 §7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status<'a> {
    /// 0 for the codes of RFC 4975 §10.
    pub namespace: u16,
    /// The code.
    pub code: StatusCode,
    /// For humans; often empty.
    pub comment: &'a [u8],
}

impl<'a> Status<'a> {
    /// Parses a value.
    ///
    /// # Errors
    /// [`ValueError`] if it is not of the form.
    pub fn parse(value: &'a [u8]) -> Result<Self, ValueError> {
        grammar::status(value).ok_or(ValueError("Status"))
    }
}

/// Parses `yes` or `no` of Success-Report.
///
/// # Errors
/// [`ValueError`] for any other word.
pub fn parse_success_report(value: &[u8]) -> Result<bool, ValueError> {
    match () {
        () if value.eq_ignore_ascii_case(b"yes") => Ok(true),
        () if value.eq_ignore_ascii_case(b"no") => Ok(false),
        () => Err(ValueError("Success-Report")),
    }
}

/// Parses a whole number of seconds: Expires, Min-Expires, Max-Expires (RFC 4976 §7).
///
/// # Errors
/// [`ValueError`] if it is not digits alone, or exceeds 64 bits.
pub fn parse_seconds(value: &[u8]) -> Result<u64, ValueError> {
    grammar::whole_number(value).ok_or(ValueError("Expires"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for name in [
            Name::ToPath,
            Name::FromPath,
            Name::MessageId,
            Name::ByteRange,
            Name::SuccessReport,
            Name::FailureReport,
            Name::Status,
            Name::UsePath,
            Name::Expires,
            Name::MinExpires,
            Name::MaxExpires,
            Name::WwwAuthenticate,
            Name::Authorization,
            Name::AuthenticationInfo,
            Name::ContentType,
        ] {
            assert_eq!(Name::from_bytes(name.as_str().as_bytes()), name);
            assert_eq!(Name::from_bytes(name.as_str().to_ascii_uppercase().as_bytes()), name);
        }
        assert_eq!(Name::from_bytes(b"Content-ID"), Name::Other);
    }

    #[test]
    fn byte_ranges() {
        let range = |text: &str| ByteRange::parse(text.as_bytes());
        assert_eq!(range("1-16/16"), Ok(ByteRange { start: 1, end: Some(16), total: Some(16) }));
        assert_eq!(range("1-*/*"), Ok(ByteRange::UNKNOWN));
        assert_eq!(range("1-0/0").unwrap().declared_len(), Some(0));
        assert_eq!(range("5-6/9").unwrap().declared_len(), Some(2));
        assert_eq!(range("9-1/9").unwrap().declared_len(), Some(0));
        assert_eq!(range("1-18446744073709551615/*").unwrap().declared_len(), Some(u64::MAX - 1));
        for text in [
            "",
            "1",
            "1-",
            "1-2",
            "1-2/",
            "-2/3",
            "*-2/3",
            "0-2/3",
            "1-2/3 ",
            "1 - 2/3",
            "1-x/3",
            "1-18446744073709551616/*",
        ] {
            assert!(range(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn statuses() {
        let status = Status::parse(b"000 200 OK then").unwrap();
        assert_eq!(
            (status.namespace, status.code, status.comment),
            (0, StatusCode::OK, b"OK then".as_slice())
        );
        assert_eq!(Status::parse(b"000 408").unwrap().comment, b"");
        for text in ["", "000", "0 200", "000 20", "000 2000", "000  200", "000 200x"] {
            assert!(Status::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn report_wishes() {
        assert_eq!(FailureReport::parse(b"Partial"), Ok(FailureReport::Partial));
        assert!(FailureReport::parse(b"maybe").is_err());
        assert_eq!(parse_success_report(b"YES"), Ok(true));
        assert!(parse_success_report(b"partial").is_err());
        assert_eq!(parse_seconds(b"900"), Ok(900));
        assert!(
            parse_seconds(b"-1").is_err() && parse_seconds(b"1.5").is_err() && parse_seconds(b"").is_err()
        );
    }

    proptest! {
        #[test]
        fn a_byte_range_reads_back_what_it_writes(start in 1u64.., end: Option<u64>, total: Option<u64>) {
            let range = ByteRange { start, end, total };
            prop_assert_eq!(ByteRange::parse(range.to_string().as_bytes()), Ok(range));
        }
    }
}
