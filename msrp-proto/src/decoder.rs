//! The streaming decoder: bytes of one connection in, heads, body slices and ends out.
//!
//! # Contract
//!
//! The caller owns the buffer. It appends what it read, calls [`Decoder::decode`] until that gives
//! `None`, and reads on. The decoder takes from the front of the buffer what it has understood:
//!
//! * [`Event::Head`] once the head is complete: after the blank line before a body, or when the
//!   end-line follows the last header field directly.
//! * [`Event::Body`] for body bytes as soon as they are known to be body. They are slices of the
//!   buffer, never copied. Only what may be the beginning of the end-line is held back, at most 44
//!   bytes.
//! * [`Event::End`] with the continuation flag when the whole end-line with its CRLF has arrived.
//!
//! After an error the connection cannot be understood any more: close it.
//!
//! # Cost
//!
//! Linear in the bytes, however they are sliced. An incomplete head is searched for its next line
//! from where the last search ended; a candidate for an end-line is compared on from the byte where
//! the last comparison ended.
//!
//! # What ends a body
//!
//! CRLF, seven hyphens, the transaction id of the start line, a flag, CRLF. All else is body: other
//! transaction ids, a longer id that begins with ours, an end-line without its CRLF. Directly after
//! the blank line the first CRLF is not asked for: there the end-line ends an empty body, since no
//! body may contain its own end-line (RFC 4975 §7.1).

use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memmem};
use thiserror::Error;

use crate::flag::Flag;
use crate::grammar::{self, Start};
use crate::head::{Field, Head, Hop, Hops, Layout, StartLine};
use crate::header::Name;
use crate::ident::TransactionId;
use crate::uri::UriError;

use self::memory::Memory;

mod memory;

const HYPHENS: &[u8] = b"-------";
/// What begins an end-line after a body.
const BODY_END: &[u8] = b"\r\n-------";
/// Made once: to make one costs as much as to search some hundred bytes.
static BODY_END_FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(BODY_END));
/// Every message begins so.
const MAGIC: &[u8] = b"MSRP ";
/// Hyphens, the longest transaction id, flag, CRLF.
const LONGEST_END_LINE: usize = 7 + crate::ident::MAX_LEN + 3;

/// What the decoder found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message begins.
    Head(Head),
    /// Body bytes of the message, in order; never empty.
    Body(Bytes),
    /// The message, or rather this chunk of it, ends.
    End(Flag),
}

/// How much of a head and of a body that is not a SEND's the decoder takes. What exceeds a limit is
/// an error at the byte that exceeds it; no memory is taken for more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from the start line to the CRLF of the last header field. Default 16384: the longest
    /// line that a client in the field accepts.
    pub head_bytes: usize,
    /// Header fields, To-Path and From-Path included. Default 64, as clients in the field have it.
    pub headers: usize,
    /// URIs in one path. Default 32.
    pub path_len: usize,
    /// Body bytes of a message that is not a SEND. Default 10240 (RFC 4975 §7.1).
    pub other_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 16 * 1024, headers: 64, path_len: 32, other_body: 10_240 }
    }
}

/// Input that is not MSRP, or exceeds a limit. The connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// What arrived does not begin like a message.
    #[error("not MSRP: it begins with {}", .0.escape_ascii())]
    NotMsrp(Bytes),
    /// The start line is not by the grammar.
    #[error("malformed start line: {}", .0.escape_ascii())]
    StartLine(Bytes),
    /// A header line is not by the grammar.
    #[error("malformed header line: {}", .0.escape_ascii())]
    HeaderLine(Bytes),
    /// A line ends with LF alone.
    #[error("a line ends without CR")]
    BareLineFeed,
    /// To-Path and then From-Path must be the first two header fields.
    #[error("{} is not where RFC 4975 §7.1 wants it", .0.as_str())]
    PathOrder(Name),
    /// A path holds something that is no URI.
    #[error("bad {} : {error}", .name.as_str())]
    Uri {
        /// To-Path or From-Path.
        name: Name,
        /// What is wrong.
        error: UriError,
    },
    /// The head exceeds [`Limits::head_bytes`].
    #[error("head exceeds {0} bytes")]
    HeadTooLong(usize),
    /// The head has more fields than [`Limits::headers`].
    #[error("more than {0} header fields")]
    TooManyHeaders(usize),
    /// A path has more URIs than [`Limits::path_len`].
    #[error("a path of more than {0} URIs")]
    PathTooLong(usize),
    /// A body that is not a SEND's exceeds [`Limits::other_body`].
    #[error("body of a message that is not a SEND exceeds {0} bytes")]
    BodyTooLong(usize),
}

/// The decoder of one direction of one connection. See the [module](self) for its contract.
#[derive(Debug, Default)]
pub struct Decoder {
    limits: Limits,
    state: State,
    memory: Memory,
}

#[derive(Debug, Default)]
enum State {
    /// Between messages.
    #[default]
    Between,
    /// Within a head that is not complete.
    Head(PartialHead),
    /// The head is out and had no body; the end is owed.
    Bodiless(Flag),
    /// Within a body.
    Body(BodyScan),
}

#[derive(Debug, Default)]
struct PartialHead {
    /// Where the line to parse next begins.
    line_start: usize,
    /// How far that line was searched for its end.
    searched: usize,
    /// Known after the start line.
    layout: Option<Box<Layout>>,
}

#[derive(Debug)]
struct BodyScan {
    transaction: TransactionId,
    /// A candidate for the end-line stands at the front of the buffer.
    candidate: Option<Candidate>,
    /// How much more body is allowed.
    allowed: u64,
}

#[derive(Debug)]
struct Candidate {
    /// How much of the end-line has been found equal.
    matched: usize,
    /// The CRLF before the hyphens is that of the blank line, and not in the buffer any more.
    implied_crlf: bool,
}

impl Decoder {
    /// A decoder with other limits than the default ones.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Between, memory: Memory::default() }
    }

    /// Gives back a head that is not needed any more: the next one need not allocate, and of its lines those
    /// that are the same need not be parsed.
    pub fn recycle(&mut self, head: Head) {
        self.memory.recycle(head);
    }

    /// Forgets what [`recycle`](Self::recycle) was given, of a connection that is silent: about 2 KiB.
    pub fn forget(&mut self) {
        self.memory.forget();
    }

    /// Whether the decoder stands between two messages: a connection that ends here ends in order.
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// Takes the next event from the front of `buf`, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`DecodeError`]; the decoder must not be used afterwards.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Event>, DecodeError> {
        loop {
            match &mut self.state {
                State::Between => {
                    // Blank lines between messages are met in the field as keep-alives.
                    while buf.starts_with(b"\r\n") {
                        buf.advance(2);
                    }
                    if buf.is_empty() || buf[..] == b"\r"[..] {
                        return Ok(None);
                    }
                    self.state = State::Head(PartialHead::default());
                }
                State::Head(head) => {
                    let Some((layout, flag, end)) = head.advance(buf, &self.limits, &mut self.memory)? else {
                        return Ok(None);
                    };
                    let fields_end = layout.fields.last().map_or(0, |field| field.line.end as usize);
                    let bytes = buf.split_to(fields_end).freeze();
                    buf.advance(end - fields_end);
                    self.state = match flag {
                        Some(flag) => State::Bodiless(flag),
                        None => State::Body(BodyScan {
                            transaction: layout.transaction,
                            candidate: Some(Candidate { matched: 2, implied_crlf: true }),
                            allowed: match layout.start {
                                StartLine::Send => u64::MAX,
                                _ => self.limits.other_body as u64,
                            },
                        }),
                    };
                    return Ok(Some(Event::Head(Head { bytes, layout })));
                }
                State::Bodiless(flag) => {
                    let flag = *flag;
                    self.state = State::Between;
                    return Ok(Some(Event::End(flag)));
                }
                State::Body(scan) => {
                    let event = scan.advance(buf);
                    match &event {
                        Some(Event::Body(bytes)) => {
                            scan.allowed = scan
                                .allowed
                                .checked_sub(bytes.len() as u64)
                                .ok_or(DecodeError::BodyTooLong(self.limits.other_body))?;
                        }
                        Some(Event::End(_)) => self.state = State::Between,
                        Some(Event::Head(_)) | None => {}
                    }
                    return Ok(event);
                }
            }
        }
    }
}

/// A complete head: its layout, the flag of the end-line if it followed directly, and where in the
/// buffer the body or the next message begins.
type Complete = (Box<Layout>, Option<Flag>, usize);

impl PartialHead {
    /// Parses the lines that are complete.
    fn advance(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        memory: &mut Memory,
    ) -> Result<Option<Complete>, DecodeError> {
        if self.layout.is_none() && !buf.iter().zip(MAGIC).all(|(a, b)| a == b) {
            return Err(DecodeError::NotMsrp(excerpt(buf)));
        }
        loop {
            if let Some(layout) = &mut self.layout
                && self.searched == self.line_start
                && let Some(next) = memory.known_line(layout, buf, self.line_start, limits)
            {
                if next > limits.head_bytes {
                    return Err(DecodeError::HeadTooLong(limits.head_bytes));
                }
                self.line_start = next;
                self.searched = next;
                continue;
            }
            let Some(found) = memchr(b'\n', &buf[self.searched..]) else {
                self.searched = buf.len();
                // What exceeds the limit may still be the end-line, which does not count.
                let pending = &buf[self.line_start..];
                let may_end = self.layout.is_some()
                    && pending.len() < LONGEST_END_LINE
                    && pending.iter().all(|&byte| byte != b':');
                if buf.len() > limits.head_bytes && !may_end {
                    return Err(DecodeError::HeadTooLong(limits.head_bytes));
                }
                return Ok(None);
            };
            let line_end = self.searched + found;
            let line = buf[self.line_start..line_end].strip_suffix(b"\r").ok_or(DecodeError::BareLineFeed)?;
            let next = line_end + 1;
            let range = self.line_start as u32..next as u32;
            match &mut self.layout {
                None => {
                    let mut layout = memory.blank();
                    start_line(&mut layout, line)?;
                    self.layout = Some(layout);
                }
                Some(layout) => {
                    let end = if line.is_empty() {
                        Some(None)
                    } else {
                        end_line(line, &layout.transaction).map(Some)
                    };
                    if let Some(flag) = end {
                        if layout.fields.len() < 2 {
                            return Err(DecodeError::PathOrder(if layout.fields.is_empty() {
                                Name::ToPath
                            } else {
                                Name::FromPath
                            }));
                        }
                        layout.has_body = flag.is_none();
                        memory.number(layout);
                        let Some(layout) = self.layout.take() else { return Ok(None) };
                        return Ok(Some((layout, flag, next)));
                    }
                    header_line(layout, line, range, limits)?;
                }
            }
            if next > limits.head_bytes {
                return Err(DecodeError::HeadTooLong(limits.head_bytes));
            }
            self.line_start = next;
            self.searched = next;
        }
    }
}

fn start_line(layout: &mut Layout, line: &[u8]) -> Result<(), DecodeError> {
    let (transaction, start) =
        grammar::start_line(line).ok_or_else(|| DecodeError::StartLine(excerpt(line)))?;
    layout.transaction = transaction;
    layout.start = match start {
        Start::Response { code } => StartLine::Response(code),
        Start::Request { method: b"SEND" } => StartLine::Send,
        Start::Request { method: b"REPORT" } => StartLine::Report,
        Start::Request { method: b"AUTH" } => StartLine::Auth,
        Start::Request { .. } => StartLine::Other,
    };
    let before = MAGIC.len() + transaction.as_bytes().len() + 1;
    layout.after_transaction = before as u32..line.len() as u32;
    layout.to_path.clear();
    layout.from_path.clear();
    layout.fields.clear();
    layout.known_paths = 0;
    Ok(())
}

fn header_line(
    layout: &mut Layout,
    line: &[u8],
    range: std::ops::Range<u32>,
    limits: &Limits,
) -> Result<(), DecodeError> {
    let (name_len, value) =
        grammar::header_line(line).ok_or_else(|| DecodeError::HeaderLine(excerpt(line)))?;
    if layout.fields.len() >= limits.headers {
        return Err(DecodeError::TooManyHeaders(limits.headers));
    }
    let name = Name::from_bytes(&line[..name_len]);
    let value_start = range.start + value.start as u32;
    match (layout.fields.len(), name) {
        (0, Name::ToPath) => {
            path(&mut layout.to_path, name, &line[value.clone()], value_start, limits)?;
        }
        (1, Name::FromPath) => {
            path(&mut layout.from_path, name, &line[value.clone()], value_start, limits)?;
        }
        (0, _) => return Err(DecodeError::PathOrder(Name::ToPath)),
        (1, _) => return Err(DecodeError::PathOrder(Name::FromPath)),
        (_, Name::ToPath | Name::FromPath) => return Err(DecodeError::PathOrder(name)),
        _ => {}
    }
    layout.fields.push(Field {
        name,
        value: value_start..value_start + value.len() as u32,
        line: range,
        name_len: name_len as u32,
    });
    Ok(())
}

/// `MSRP-URI *(SP MSRP-URI)`; `start` is where the value stands in the head.
fn path(hops: &mut Hops, name: Name, value: &[u8], start: u32, limits: &Limits) -> Result<(), DecodeError> {
    let bad = |at, reason| DecodeError::Uri { name, error: UriError { at, reason } };
    let mut at = 0;
    while at <= value.len() {
        let len = memchr(b' ', &value[at..]).unwrap_or(value.len() - at);
        // More than one space between two URIs is tolerated.
        if len > 0 {
            if hops.len() >= limits.path_len {
                return Err(DecodeError::PathTooLong(limits.path_len));
            }
            let parts =
                grammar::uri(&value[at..at + len]).map_err(|error| bad(at + error.at, error.reason))?;
            let begin = start + at as u32;
            hops.push(Hop { at: begin..begin + len as u32, parts });
        }
        at += len + 1;
    }
    if hops.is_empty() { Err(bad(0, "at least one URI")) } else { Ok(()) }
}

/// The flag, if `line` is the end-line of the transaction.
fn end_line(line: &[u8], transaction: &TransactionId) -> Option<Flag> {
    match line.strip_prefix(HYPHENS)?.strip_prefix(transaction.as_bytes())? {
        [flag] => Flag::from_byte(*flag),
        _ => None,
    }
}

impl BodyScan {
    fn advance(&mut self, buf: &mut BytesMut) -> Option<Event> {
        loop {
            let mut search_from = 0;
            if let Some(candidate) = &mut self.candidate {
                match candidate.compare(buf, &self.transaction) {
                    Comparison::Unfinished => return None,
                    Comparison::Equal { len, flag } => {
                        buf.advance(len);
                        return Some(Event::End(flag));
                    }
                    Comparison::Different => {
                        // The candidate's own CR is body now; an implied one is not in the buffer.
                        search_from = usize::from(!candidate.implied_crlf);
                        self.candidate = None;
                    }
                }
            }
            let (body, matched) = match BODY_END_FINDER.find(&buf[search_from..]) {
                Some(found) => (search_from + found, BODY_END.len()),
                None => {
                    let held = held_back(&buf[search_from..]);
                    (buf.len() - held, held)
                }
            };
            if matched > 0 {
                self.candidate = Some(Candidate { matched, implied_crlf: false });
            }
            if body > 0 {
                return Some(Event::Body(buf.split_to(body).freeze()));
            }
            self.candidate.as_ref()?;
        }
    }
}

enum Comparison {
    Unfinished,
    Different,
    /// The end-line is `len` bytes of the buffer.
    Equal {
        len: usize,
        flag: Flag,
    },
}

impl Candidate {
    /// Compares on from where the last comparison ended.
    fn compare(&mut self, buf: &[u8], transaction: &TransactionId) -> Comparison {
        let gone = if self.implied_crlf { 2 } else { 0 };
        let id = transaction.as_bytes();
        let flag_at = BODY_END.len() + id.len();
        while self.matched < flag_at + 3 {
            let Some(&byte) = buf.get(self.matched - gone) else { return Comparison::Unfinished };
            let fits = match self.matched {
                at if at < BODY_END.len() => byte == BODY_END[at],
                at if at < flag_at => byte == id[at - BODY_END.len()],
                at if at == flag_at => Flag::from_byte(byte).is_some(),
                at if at == flag_at + 1 => byte == b'\r',
                _ => byte == b'\n',
            };
            if !fits {
                return Comparison::Different;
            }
            self.matched += 1;
        }
        match buf.get(flag_at - gone).and_then(|&byte| Flag::from_byte(byte)) {
            Some(flag) => Comparison::Equal { len: flag_at + 3 - gone, flag },
            None => Comparison::Different,
        }
    }
}

/// How many of the last bytes of `buf` may be the beginning of [`BODY_END`].
fn held_back(buf: &[u8]) -> usize {
    let longest = buf.len().min(BODY_END.len() - 1);
    (1..=longest).rev().find(|&len| buf.ends_with(&BODY_END[..len])).unwrap_or(0)
}

/// The beginning of what was received, for an error message.
fn excerpt(bytes: &[u8]) -> Bytes {
    const LONGEST: usize = 40;
    Bytes::copy_from_slice(&bytes[..bytes.len().min(LONGEST)])
}

#[cfg(test)]
mod tests {
    //! What cannot be seen from outside: that work is not done twice. All else is in `tests/`.

    use super::*;

    const HEAD: &str = "MSRP abcd SEND\r\nTo-Path: msrp://a/b;tcp\r\nFrom-Path: msrp://c/d;tcp\r\n";

    #[test]
    fn a_partial_head_is_searched_once_and_its_lines_are_parsed_once() {
        let (mut decoder, mut buf) = (Decoder::default(), BytesMut::new());
        let wire = format!("{HEAD}X: {}\r\nY: z\r\n", "y".repeat(9000));
        for byte in wire.bytes() {
            buf.extend_from_slice(&[byte]);
            assert_eq!(decoder.decode(&mut buf), Ok(None));
            let State::Head(head) = &decoder.state else { panic!("{:?}", decoder.state) };
            assert_eq!(head.searched, buf.len(), "the next search begins behind all that was searched");
            let last_line = buf.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            assert_eq!(head.line_start, last_line, "all complete lines are done with");
        }
    }

    #[test]
    fn a_partial_end_line_is_compared_on_from_where_the_comparison_ended() {
        let (mut decoder, mut buf) = (Decoder::default(), BytesMut::from(format!("{HEAD}\r\nx").as_bytes()));
        while decoder.decode(&mut buf).unwrap().is_some() {}
        let end_line = b"\r\n-------abcd$\r\n";
        for (place, byte) in end_line.iter().enumerate() {
            buf.extend_from_slice(&[*byte]);
            let decoded = decoder.decode(&mut buf);
            if place + 1 == end_line.len() {
                assert_eq!(decoded, Ok(Some(Event::End(Flag::Complete))));
                break;
            }
            assert_eq!(decoded, Ok(None));
            let State::Body(BodyScan { candidate: Some(candidate), .. }) = &decoder.state else { panic!() };
            assert_eq!((candidate.matched, buf.len()), (place + 1, place + 1));
        }
    }
}
