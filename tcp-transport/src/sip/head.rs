//! A head: the bytes as they came, and where in them the fields stand that an edge asks for.

use std::fmt;
use std::ops::{Deref, Range};

use bytes::Bytes;

use super::address::Address;
use super::defect::Defect;
use super::grammar::{Cursor, Malformed, number, trim};
use super::via::Via;

/// The header fields that are looked for. All others pass unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Name {
    /// Via, v (RFC 3261 §20.42).
    Via,
    /// Route (RFC 3261 §20.34).
    Route,
    /// Record-Route (RFC 3261 §20.30).
    RecordRoute,
    /// Path (RFC 3327).
    Path,
    /// Max-Forwards (RFC 3261 §20.22).
    MaxForwards,
    /// To, t (RFC 3261 §20.39).
    To,
    /// From, f (RFC 3261 §20.20).
    From,
    /// Call-ID, i (RFC 3261 §20.8).
    CallId,
    /// CSeq (RFC 3261 §20.16).
    CSeq,
    /// Content-Length, l (RFC 3261 §20.14).
    ContentLength,
    /// Contact, m (RFC 3261 §20.10).
    Contact,
    /// Require (RFC 3261 §20.32).
    Require,
    /// Proxy-Require (RFC 3261 §20.29).
    ProxyRequire,
    /// Supported, k (RFC 3261 §20.37).
    Supported,
}

impl Name {
    const ALL: [Self; 14] = [
        Self::Via,
        Self::Route,
        Self::RecordRoute,
        Self::Path,
        Self::MaxForwards,
        Self::To,
        Self::From,
        Self::CallId,
        Self::CSeq,
        Self::ContentLength,
        Self::Contact,
        Self::Require,
        Self::ProxyRequire,
        Self::Supported,
    ];

    /// Its long form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Via => "Via",
            Self::Route => "Route",
            Self::RecordRoute => "Record-Route",
            Self::Path => "Path",
            Self::MaxForwards => "Max-Forwards",
            Self::To => "To",
            Self::From => "From",
            Self::CallId => "Call-ID",
            Self::CSeq => "CSeq",
            Self::ContentLength => "Content-Length",
            Self::Contact => "Contact",
            Self::Require => "Require",
            Self::ProxyRequire => "Proxy-Require",
            Self::Supported => "Supported",
        }
    }

    /// The field of this name, long or compact (RFC 3261 §7.3.3), in any case.
    pub(super) fn read(name: &[u8]) -> Option<Self> {
        if let [letter] = name {
            return match letter.to_ascii_lowercase() {
                b'v' => Some(Self::Via),
                b't' => Some(Self::To),
                b'f' => Some(Self::From),
                b'i' => Some(Self::CallId),
                b'l' => Some(Self::ContentLength),
                b'm' => Some(Self::Contact),
                b'k' => Some(Self::Supported),
                _ => None,
            };
        }
        Self::ALL.into_iter().find(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Whether it may stand in a head once only.
    pub(super) fn is_single(self) -> bool {
        matches!(
            self,
            Self::MaxForwards | Self::To | Self::From | Self::CallId | Self::CSeq | Self::ContentLength
        )
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a field stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which one it is.
    pub name: Name,
    pub(super) line: (u32, u32),
    pub(super) value: (u32, u32),
}

impl Field {
    /// The whole of it: name, folded lines, and the last line break.
    #[must_use]
    pub fn line(&self) -> Range<usize> {
        self.line.0 as usize..self.line.1 as usize
    }

    /// The value without the white space around it. Line breaks in it are those of folds.
    #[must_use]
    pub fn value(&self) -> Range<usize> {
        self.value.0 as usize..self.value.1 as usize
    }
}

/// The first line, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// A request (RFC 3261 §7.1).
    Request {
        /// The method, which is a token; case matters.
        method: &'a [u8],
        /// The Request-URI.
        uri: &'a [u8],
    },
    /// A response (RFC 3261 §7.2).
    Response {
        /// The status, from 100 to 699; 0 in a head with [`Defect::StartLine`].
        status: u16,
    },
}

/// A CSeq, taken apart (RFC 3261 §20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CSeq<'a> {
    /// The number, below 2³¹.
    pub number: u32,
    /// The method.
    pub method: &'a [u8],
}

/// The places found in a head. Kept from one message to the next, so that a message allocates none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) is_request: bool,
    pub(super) status: u16,
    pub(super) method: (u32, u32),
    pub(super) uri: (u32, u32),
    /// Where the header fields begin, and where they end: at the empty line.
    pub(super) fields_start: u32,
    pub(super) fields_end: u32,
    pub(super) fields: Vec<Field>,
    pub(super) content_length: Option<u32>,
    pub(super) defect: Option<Defect>,
    /// Nobody can say where the message ends, and the next one of a stream begins.
    pub(super) lost: bool,
}

/// A head, from its start line to the empty line; it dereferences to its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    pub(super) bytes: Bytes,
    pub(super) layout: Box<Layout>,
}

impl Head {
    /// The bytes, as they came.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What its first line says.
    #[must_use]
    pub fn start(&self) -> Start<'_> {
        let layout = &self.layout;
        if layout.is_request {
            let part = |(from, to): (u32, u32)| &self.bytes[from as usize..to as usize];
            Start::Request { method: part(layout.method), uri: part(layout.uri) }
        } else {
            Start::Response { status: layout.status }
        }
    }

    /// The method, if it is a request.
    #[must_use]
    pub fn method(&self) -> Option<&[u8]> {
        match self.start() {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// Where the Request-URI stands; empty in a response.
    #[must_use]
    pub fn uri_range(&self) -> Range<usize> {
        self.layout.uri.0 as usize..self.layout.uri.1 as usize
    }

    /// Where the first header field begins: after the start line.
    #[must_use]
    pub fn fields_start(&self) -> usize {
        self.layout.fields_start as usize
    }

    /// Where one more header field may be put: before the empty line.
    #[must_use]
    pub fn fields_end(&self) -> usize {
        self.layout.fields_end as usize
    }

    /// All the fields that are looked for, in their order.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.layout.fields
    }

    /// Those of one name, in their order.
    pub fn fields_of(&self, name: Name) -> impl Iterator<Item = &Field> {
        self.layout.fields.iter().filter(move |field| field.name == name)
    }

    /// The first of one name.
    #[must_use]
    pub fn field(&self, name: Name) -> Option<&Field> {
        self.layout.fields.iter().find(|field| field.name == name)
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn value(&self, name: Name) -> Option<&[u8]> {
        self.field(name).map(|field| &self.bytes[field.value()])
    }

    /// The values of all fields of this name: those of a list in one line one by one.
    #[must_use]
    pub fn values(&self, name: Name) -> Values<'_> {
        Values { bytes: &self.bytes, name, fields: &self.layout.fields, line: None }
    }

    /// The top Via.
    #[must_use]
    pub fn top_via(&self) -> Option<Via<'_>> {
        let (range, _) = self.values(Name::Via).next()?.ok()?;
        Via::parse(&self.bytes, range).ok()
    }

    /// From or To.
    #[must_use]
    pub fn address(&self, name: Name) -> Option<Address<'_>> {
        Address::parse(&self.bytes, self.field(name)?.value()).ok()
    }

    /// CSeq.
    #[must_use]
    pub fn cseq(&self) -> Option<CSeq<'_>> {
        cseq(&self.bytes, self.field(Name::CSeq)?.value())
    }

    /// Max-Forwards.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u8> {
        max_forwards(self.value(Name::MaxForwards)?)
    }

    /// Content-Length.
    #[must_use]
    pub fn content_length(&self) -> Option<u32> {
        self.layout.content_length
    }

    /// Whether a list of option tags (Supported, Require, Proxy-Require) has this one.
    #[must_use]
    pub fn has_option(&self, name: Name, tag: &str) -> bool {
        self.values(name)
            .filter_map(Result::ok)
            .any(|(range, _)| self.bytes[range].eq_ignore_ascii_case(tag.as_bytes()))
    }

    /// Whether a response to it can be built: it is a request and no ACK, and has what a response
    /// takes from it (RFC 3261 §8.2.6.2).
    #[must_use]
    pub fn is_answerable(&self) -> bool {
        let needed = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq];
        self.layout.is_request
            && self.method() != Some(b"ACK")
            && needed.into_iter().all(|name| self.value(name).is_some_and(|value| !value.is_empty()))
    }

    /// Takes it apart for [`Framer::recycle`](super::Framer::recycle).
    pub(super) fn into_layout(self) -> Box<Layout> {
        self.layout
    }
}

impl Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head(\"{}\")", self.bytes.escape_ascii())
    }
}

pub(super) fn cseq(bytes: &[u8], range: Range<usize>) -> Option<CSeq<'_>> {
    let mut cursor = Cursor::new(bytes, range);
    let digits = cursor.run(|byte| byte.is_ascii_digit());
    let number = number(&bytes[digits], u32::MAX >> 1)?;
    let before = cursor.at;
    cursor.skip_space();
    let spaced = cursor.at > before;
    let method = cursor.token().ok()?;
    (spaced && cursor.peek().is_none()).then_some(CSeq { number, method: &bytes[method] })
}

pub(super) fn max_forwards(value: &[u8]) -> Option<u8> {
    number(value, 255).and_then(|hops| u8::try_from(hops).ok())
}

/// The values of a field that may have several, in one line or in many. Each is its place in the head,
/// and the field it stands in. Ends with an error at what is not by the grammar.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    bytes: &'a [u8],
    name: Name,
    fields: &'a [Field],
    line: Option<(Cursor<'a>, Field)>,
}

impl<'a> Values<'a> {
    pub(super) fn of_field(bytes: &'a [u8], field: Field) -> Self {
        let cursor = Cursor::new(bytes, field.value());
        Self { bytes, name: field.name, fields: &[], line: Some((cursor, field)) }
    }
}

impl Iterator for Values<'_> {
    type Item = Result<(Range<usize>, Field), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.line.is_none() {
            let at = self.fields.iter().position(|field| field.name == self.name)?;
            let field = self.fields[at];
            self.fields = &self.fields[at + 1..];
            self.line = Some((Cursor::new(self.bytes, field.value()), field));
        }
        let (cursor, field) = self.line.as_mut()?;
        let field = *field;
        // Comments stood in Via once (RFC 2543 §6.40); elsewhere parentheses may belong to a URI.
        let value = cursor.list_value(self.name == Name::Via);
        let at_end = cursor.peek().is_none();
        // A list that ends with a comma has one more value, which is empty.
        if at_end && !self.bytes[..cursor.at].ends_with(b",") || value.is_err() {
            self.line = None;
        }
        match value {
            Ok(range) if range.is_empty() => {
                self.line = None;
                self.fields = &[];
                Some(Err(Malformed))
            }
            Ok(range) => Some(Ok((trim(self.bytes, range), field))),
            Err(error) => {
                self.fields = &[];
                Some(Err(error))
            }
        }
    }
}
