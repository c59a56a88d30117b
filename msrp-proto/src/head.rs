//! The head of a message: start line and header fields (RFC 4975 §9).
//!
//! A [`Head`] owns its bytes as one slice of the input and remembers where its parts stand. What it
//! does not understand it keeps: a relay forwards those lines byte for byte, in order. Paths are
//! parsed when the head is, so a head that exists has valid ones; the other values are parsed on
//! access, since a relay needs few of them and a bad one is answered, not fatal.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::header::{self, ByteRange, FailureReport, Name, Status, ValueError};
use crate::ident::{self, TransactionId};
use crate::status::StatusCode;
use crate::uri::{Parts, UriRef};

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// A message, or a chunk of one (RFC 4975 §7.1.1).
    Send,
    /// What became of a message (RFC 4975 §7.1.2).
    Report,
    /// A client asks a relay for a URI (RFC 4976 §5.1).
    Auth,
    /// Any other; forwarded like a REPORT (RFC 4976 §6.4.2).
    Other(&'a str),
}

impl<'a> Method<'a> {
    /// The name on the wire.
    pub fn as_str(&self) -> &'a str {
        match self {
            Self::Send => "SEND",
            Self::Report => "REPORT",
            Self::Auth => "AUTH",
            Self::Other(name) => name,
        }
    }
}

/// What kind of message a head begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A request with this method.
    Request(Method<'a>),
    /// A response with this status.
    Response(StatusCode),
}

/// One header field: where its line, name and value stand in the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: Name,
    /// The whole line, with its CRLF.
    pub(crate) line: Range<u32>,
    pub(crate) name_len: u32,
    pub(crate) value: Range<u32>,
}

/// One URI of a path: where it stands in the head, and its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) at: Range<u32>,
    pub(crate) parts: Parts,
}

pub(crate) type Hops = SmallVec<[Hop; 4]>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StartLine {
    #[default]
    Send,
    Report,
    Auth,
    Other,
    Response(StatusCode),
}

/// Everything of a head but its bytes; the decoder fills it line by line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) transaction: TransactionId,
    pub(crate) start: StartLine,
    /// What stands in the start line after the transaction id and its space.
    pub(crate) after_transaction: Range<u32>,
    pub(crate) to_path: Hops,
    pub(crate) from_path: Hops,
    /// To-Path and From-Path are the first two.
    pub(crate) fields: SmallVec<[Field; 10]>,
    pub(crate) has_body: bool,
    /// How many of the two paths are those of the head before.
    pub(crate) known_paths: u8,
    /// See [`Head::paths`].
    pub(crate) paths: u64,
}

/// The head of one message.
#[derive(Clone)]
pub struct Head {
    pub(crate) bytes: Bytes,
    pub(crate) layout: Box<Layout>,
}

/// The same bytes, with or without a body.
impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.has_body() == other.has_body()
    }
}

impl Eq for Head {}

impl Head {
    /// The transaction id of the start line.
    pub fn transaction_id(&self) -> TransactionId {
        self.layout.transaction
    }

    /// A copy with bytes of its own, to be kept: it does not keep the buffer alive that this one came in.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), layout: self.layout.clone() }
    }

    /// Request or response, and which.
    pub fn kind(&self) -> Kind<'_> {
        match self.layout.start {
            StartLine::Send => Kind::Request(Method::Send),
            StartLine::Report => Kind::Request(Method::Report),
            StartLine::Auth => Kind::Request(Method::Auth),
            StartLine::Other => Kind::Request(Method::Other(self.text(&self.layout.after_transaction))),
            StartLine::Response(code) => Kind::Response(code),
        }
    }

    /// The start line after the transaction id: the method, or the status code and its comment.
    pub fn after_transaction_id(&self) -> &[u8] {
        self.slice(&self.layout.after_transaction)
    }

    /// Whether a body follows, if only an empty one. A SEND without a body is no message to show
    /// (RFC 4975 §7.1).
    pub fn has_body(&self) -> bool {
        self.layout.has_body
    }

    /// The number of its two paths: heads of one decoder that have the same number have the same paths, byte for byte.
    /// The opposite does not hold.
    pub fn paths(&self) -> u64 {
        self.layout.paths
    }

    /// The hops to go; never empty.
    pub fn to_path(&self) -> impl DoubleEndedIterator<Item = UriRef<'_>> + ExactSizeIterator {
        self.hops(&self.layout.to_path)
    }

    /// The hops behind, the nearest first; never empty.
    pub fn from_path(&self) -> impl DoubleEndedIterator<Item = UriRef<'_>> + ExactSizeIterator {
        self.hops(&self.layout.from_path)
    }

    /// The To-Path's text from its `skip`th URI on; empty when there is none.
    pub fn to_path_text(&self, skip: usize) -> &str {
        self.path_text(&self.layout.to_path, skip)
    }

    /// The From-Path's text.
    pub fn from_path_text(&self) -> &str {
        self.path_text(&self.layout.from_path, 0)
    }

    /// The value of the first field of that name.
    pub fn value(&self, name: Name) -> Option<&[u8]> {
        self.layout.fields.iter().find(|field| field.name == name).map(|field| self.slice(&field.value))
    }

    /// The values of all fields of that name, in order: a challenge may come for each algorithm.
    pub fn values(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.layout
            .fields
            .iter()
            .filter(move |field| field.name == name)
            .map(|field| self.slice(&field.value))
    }

    /// All fields in order: name and value as they were written.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.layout.fields.iter().map(|field| {
            let name = field.line.start..field.line.start + field.name_len;
            (self.text(&name), self.slice(&field.value))
        })
    }

    /// How many fields there are, To-Path and From-Path included.
    pub fn field_count(&self) -> usize {
        self.layout.fields.len()
    }

    /// The lines of all fields but To-Path and From-Path, as they came, each with its CRLF.
    pub fn lines_after_paths(&self) -> impl Iterator<Item = (Name, &[u8])> {
        self.layout.fields.iter().skip(2).map(|field| (field.name, self.slice(&field.line)))
    }

    /// The bytes of all lines after To-Path and From-Path, as they came.
    pub fn bytes_after_paths(&self) -> &[u8] {
        let start = self.layout.fields.get(1).map_or(0, |field| field.line.end);
        let end = self.layout.fields.last().map_or(start, |field| field.line.end);
        self.slice(&(start..end))
    }

    /// Message-ID, if present.
    ///
    /// # Errors
    /// [`ValueError`] if it is no `ident`. Longer ones are met in the field and accepted up to 256
    /// bytes of visible ASCII, since nothing but comparison depends on it.
    pub fn message_id(&self) -> Result<Option<&str>, ValueError> {
        self.value(Name::MessageId).map(parse_message_id).transpose()
    }

    /// Byte-Range, if present.
    ///
    /// # Errors
    /// [`ValueError`] if it is malformed.
    pub fn byte_range(&self) -> Result<Option<ByteRange>, ValueError> {
        self.value(Name::ByteRange).map(ByteRange::parse).transpose()
    }

    /// Failure-Report; `yes` if absent.
    ///
    /// # Errors
    /// [`ValueError`] if it is malformed.
    pub fn failure_report(&self) -> Result<FailureReport, ValueError> {
        self.value(Name::FailureReport).map_or(Ok(FailureReport::default()), FailureReport::parse)
    }

    /// Success-Report; `no` if absent.
    ///
    /// # Errors
    /// [`ValueError`] if it is malformed.
    pub fn success_report(&self) -> Result<bool, ValueError> {
        self.value(Name::SuccessReport).map_or(Ok(false), header::parse_success_report)
    }

    /// Status of a REPORT, if present.
    ///
    /// # Errors
    /// [`ValueError`] if it is malformed.
    pub fn status(&self) -> Result<Option<Status<'_>>, ValueError> {
        self.value(Name::Status).map(Status::parse).transpose()
    }

    /// Expires in seconds, if present.
    ///
    /// # Errors
    /// [`ValueError`] if it is malformed.
    pub fn expires(&self) -> Result<Option<u64>, ValueError> {
        self.value(Name::Expires).map(header::parse_seconds).transpose()
    }

    /// The head's bytes as they came, from the start line to the CRLF of the last field.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn hops<'a>(&'a self, hops: &'a Hops) -> impl DoubleEndedIterator<Item = UriRef<'a>> + ExactSizeIterator {
        hops.iter().map(|hop| UriRef::from_parts(self.slice(&hop.at), hop.parts.clone()))
    }

    fn path_text(&self, hops: &Hops, skip: usize) -> &str {
        match (hops.get(skip), hops.last()) {
            (Some(first), Some(last)) => self.text(&(first.at.start..last.at.end)),
            _ => "",
        }
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// For ranges that the grammar has found to be ASCII.
    fn text(&self, range: &Range<u32>) -> &str {
        std::str::from_utf8(self.slice(range)).unwrap_or_default()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("bytes", &self.bytes)
            .field("has_body", &self.layout.has_body)
            .finish_non_exhaustive()
    }
}

fn parse_message_id(value: &[u8]) -> Result<&str, ValueError> {
    const LONGEST: usize = 256;
    let fits = ident::is_ident(value)
        || (!value.is_empty() && value.len() <= LONGEST && value.iter().all(u8::is_ascii_graphic));
    std::str::from_utf8(value).ok().filter(|_| fits).ok_or(ValueError("Message-ID"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::decoder::{Decoder, Event};

    fn head(fields: &str) -> Head {
        let mut wire = BytesMut::from(
            format!(
                "MSRP abcd SEND\r\nTo-Path: msrp://a/1;tcp  msrp://b/2;tcp msrp://c/3;tcp\r\n\
                 From-Path:msrp://d/4;tcp\r\n{fields}-------abcd$\r\n"
            )
            .as_bytes(),
        );
        match Decoder::default().decode(&mut wire) {
            Ok(Some(Event::Head(head))) => head,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_given_as_uris_and_as_text_from_any_of_them_on() {
        let head = head("");
        let sessions: Vec<_> = head.to_path().filter_map(|uri| uri.session_id()).collect();
        assert_eq!(sessions, ["1", "2", "3"]);
        assert_eq!(head.to_path().next_back().unwrap().as_str(), "msrp://c/3;tcp");
        assert_eq!(head.to_path_text(0), "msrp://a/1;tcp  msrp://b/2;tcp msrp://c/3;tcp");
        assert_eq!(head.to_path_text(1), "msrp://b/2;tcp msrp://c/3;tcp");
        assert_eq!(head.to_path_text(2), "msrp://c/3;tcp");
        assert_eq!((head.to_path_text(3), head.to_path_text(99)), ("", ""));
        assert_eq!(head.from_path_text(), "msrp://d/4;tcp");
        assert_eq!((head.bytes_after_paths(), head.lines_after_paths().count()), (b"".as_slice(), 0));
    }

    #[test]
    fn what_is_absent_has_the_meaning_the_rfc_gives_it() {
        let head = head("");
        assert_eq!(head.failure_report(), Ok(FailureReport::Yes));
        assert_eq!(head.success_report(), Ok(false));
        assert_eq!((head.message_id(), head.byte_range()), (Ok(None), Ok(None)));
        assert_eq!((head.status(), head.expires()), (Ok(None), Ok(None)));
        assert_eq!(head.value(Name::ContentType), None);
    }

    #[test]
    fn of_several_fields_the_first_counts_and_all_are_given() {
        let head = head("Expires: 1\r\nWWW-Authenticate: a\r\nexpires: 2\r\nwww-authenticate: b\r\n");
        assert_eq!(head.expires(), Ok(Some(1)));
        let challenges: Vec<_> = head.values(Name::WwwAuthenticate).collect();
        assert_eq!(challenges, [b"a", b"b"]);
    }

    #[test]
    fn values_that_are_malformed_are_errors_of_the_value_alone() {
        let head = head(
            "Message-ID: a b\r\nByte-Range: 0-1/1\r\nFailure-Report: x\r\nSuccess-Report: x\r\n\
             Status: 200\r\nExpires: soon\r\n",
        );
        assert!(head.message_id().is_err() && head.byte_range().is_err());
        assert!(head.failure_report().is_err() && head.success_report().is_err());
        assert!(head.status().is_err() && head.expires().is_err());
    }

    #[test]
    fn message_ids_are_taken_up_to_256_visible_characters() {
        for (len, fits) in [(1, true), (3, true), (33, true), (256, true), (257, false)] {
            let head = head(&format!("Message-ID: {}\r\n", "_".repeat(len)));
            assert_eq!(head.message_id().is_ok(), fits, "{len}");
        }
        assert!(head("Message-ID:\r\n").message_id().is_err());
        assert!(head("Message-ID: \u{fc}ber\r\n").message_id().is_err());
    }
}
