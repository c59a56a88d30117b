//! Where a message begins and ends (RFC 3261 §18.3), and the keep-alives between messages
//! (RFC 5626 §3.5.1).
//!
//! # What comes out
//!
//! | bytes | event |
//! |---|---|
//! | a message within the limits, its head in order | [`Event::Message`] |
//! | a message with a [`Defect`] | [`Event::Refused`]; its body is passed over |
//! | the same, but where it ends is not known | [`Event::Refused`] with `last` set, then no more |
//! | a head that is too long, with [`Limits::lenient`] | [`Event::Refused`]; the rest of it and its body are passed over |
//! | CRLF | [`Event::Pong`], or nothing with [`Limits::crlf_drop`] |
//! | a second CRLF directly after it | [`Event::Ping`] |
//! | what does not begin like SIP | [`FrameError::NotSip`] |
//!
//! The events are the same however the bytes are cut, with the one exception of
//! [`Limits::max_msg_chunks`], which is about just that. Therefore the first half of a ping is told as
//! a pong: whoever waits for one learns that the peer is alive, and to anybody else it means nothing.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memrchr};

use super::defect::Defect;
use super::head::{Head, Layout, Name};
use super::scan::{StartLine, head_end, kind_of, length_line, scan};

/// A read that brings so many bytes of a message is no sign of a slow sender: [`Limits::max_msg_chunks`] does not count
/// it. 512, as no path has smaller packets: the least that a host must take is a segment of 536 bytes (RFC 9293
/// §3.7.1), options included.
pub const LARGE_READ: usize = 512;

/// The longest line that is looked at beyond a head's limit; a Content-Length is shorter.
const LONG_LINE: usize = 4096;

/// How much a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, from the start line to the empty line. Default 16 KiB: a request through ten
    /// proxies has less than half of it. A longer one is refused with 513, and the connection ends.
    pub head_bytes: usize,
    /// Bytes of a head and a body together. Default 64 KiB, the most that fits a datagram, which
    /// many a SIP stack takes for the most there is. A longer one is refused with 413 and passed over.
    pub message_bytes: usize,
    /// Header fields of all names. Default 128. More are refused with 400.
    pub headers: usize,
    /// In how many small reads one message may arrive, `None`: any number. Default 4, as OpenSIPS'
    /// `tcp_max_msg_chunks`; in more, the connection ends. A read that brings [`LARGE_READ`] bytes of the
    /// message or more is not counted: who sends so much at a time is not slow, however long the message is.
    /// Not asked over WebSocket.
    pub max_msg_chunks: Option<usize>,
    /// Whether a CRLF alone is dropped without an event, as by OpenSIPS' `tcp_crlf_drop`. Two in a row
    /// are a ping nevertheless. Default no.
    pub crlf_drop: bool,
    /// Whether one bad message less ends the connection, as is right where many share it. LF alone ends a
    /// line then, as Kamailio and OpenSIPS read it, and the end of a head that is too long is looked for. The
    /// message is refused all the same, and it is for the next one to be understood. Default no: of a client
    /// nothing is taken that another reader might take for something else.
    pub lenient: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 16 * 1024,
            message_bytes: 64 * 1024,
            headers: 128,
            max_msg_chunks: Some(4),
            crlf_drop: false,
            lenient: false,
        }
    }
}

impl Limits {
    /// Limits for a connection that many users share, such as that to an upstream: twice as much, in
    /// any number of reads, and [lenient](Self::lenient). A message within the limits where it came in grows
    /// on its way, and what one user sends must not end the connection of all.
    #[must_use]
    pub fn shared(self) -> Self {
        Self {
            head_bytes: self.head_bytes.saturating_mul(2),
            message_bytes: self.message_bytes.saturating_mul(2),
            headers: self.headers.saturating_mul(2),
            max_msg_chunks: None,
            crlf_drop: self.crlf_drop,
            lenient: true,
        }
    }
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its head, to the empty line.
    pub head: Head,
    /// Its body.
    pub body: Bytes,
}

/// A message that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its head, as far as it is there. Whether an answer can be built from it says
    /// [`Head::is_answerable`].
    pub head: Head,
    /// What is wrong with it.
    pub defect: Defect,
    /// The connection has to be closed after the answer: nobody can say where the next message begins.
    pub last: bool,
}

/// What the framer found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Message),
    /// A message that is not taken: a request is answered with [`Defect::status`] where it
    /// [can be](Head::is_answerable), a response is dropped.
    Refused(Refused),
    /// A double CRLF, to be answered with a single one (RFC 5626 §3.5.1).
    Ping,
    /// A single CRLF.
    Pong,
}

/// Input after which the connection must be closed, without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// What arrived does not begin like a message.
    #[error("not SIP: it begins with {}", .0.escape_ascii())]
    NotSip(Bytes),
    /// One message arrived in more reads than [`Limits::max_msg_chunks`].
    #[error("a message in more than {0} reads of less than {LARGE_READ} bytes")]
    TooManyChunks(usize),
    /// A message was passed over, and its end cannot be found.
    #[error("nobody can say where the next message begins: {0}")]
    Lost(Defect),
}

/// The framer of one direction of one connection. See [`sip`](super) for how it is driven, and above
/// for what it does.
#[derive(Debug, Default)]
pub struct Framer {
    limits: Limits,
    state: State,
    /// The last thing was a CRLF that has not become a ping.
    after_crlf: bool,
    /// In how many small reads the message came so far, and how much of it was there after the last one.
    reads: usize,
    seen: usize,
    /// Kept for the next head: see [`Framer::recycle`].
    spare: Option<Box<Layout>>,
}

#[derive(Debug, Default)]
enum State {
    /// Between messages, or within a head.
    #[default]
    Head,
    /// Within a head that begins well, searched so far for its end.
    Searched(StartLine, usize),
    /// The head is there, its body not yet.
    Body { layout: Box<Layout>, head_len: usize, len: usize },
    /// A body that nobody takes.
    PassedOver(u64),
    /// A head that is too long, whose end is looked for.
    TooLong(LongHead),
    /// Where the next message would begin is not known.
    Lost,
}

/// What is known of a head that nobody takes.
#[derive(Debug)]
struct LongHead {
    /// Content-Length, as far as it was seen.
    length: Option<u32>,
    /// Content-Length is malformed, or there are two that differ.
    doubt: Option<Defect>,
    /// The beginning of a long line is gone.
    within_line: bool,
}

impl LongHead {
    /// Takes lines off `buf`. `None`: its end has not come. Else the length of the body.
    fn pass_over(&mut self, buf: &mut BytesMut) -> Option<Result<u32, Defect>> {
        while let Some(end) = memchr(b'\n', buf) {
            let line = buf.split_to(end + 1);
            if std::mem::take(&mut self.within_line) {
                continue;
            }
            match &line[..] {
                b"\n" | b"\r\n" => {
                    let missing = Defect::Missing(Name::ContentLength);
                    return Some(self.doubt.map_or(self.length.ok_or(missing), Err));
                }
                // Belongs to the line before.
                [b' ' | b'\t', ..] => {}
                line if line.len() <= LONG_LINE + 1 => self.look_at(line),
                _ => {}
            }
        }
        if buf.len() > LONG_LINE {
            self.within_line = true;
            buf.clear();
        }
        None
    }

    fn look_at(&mut self, line: &[u8]) {
        match length_line(line) {
            None => {}
            Some(None) => self.doubt = Some(Defect::Field(Name::ContentLength)),
            Some(length) if self.length.is_some() && self.length != length => {
                self.doubt = Some(Defect::Repeated(Name::ContentLength));
            }
            Some(length) => self.length = length,
        }
    }
}

impl Framer {
    /// A framer with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Gives back a head that is not needed any more, so that the next one need not allocate.
    pub fn recycle(&mut self, head: Head) {
        self.spare = Some(head.into_layout());
    }

    /// Whether it stands between two messages: a connection that ends here ends in order, and a message
    /// takes no time.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Head) && self.seen == 0
    }

    /// Takes the next event from the front of `buf`, or `None` when more bytes are needed. To be called
    /// after each read until that.
    ///
    /// # Errors
    /// [`FrameError`]; the framer must not be used afterwards.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        loop {
            match &mut self.state {
                State::Head => {
                    if buf.starts_with(b"\r\n") {
                        buf.advance(2);
                        match self.crlf() {
                            Some(event) => return Ok(Some(event)),
                            None => continue,
                        }
                    }
                    if buf.is_empty() || buf[..] == b"\r"[..] {
                        return Ok(None);
                    }
                    if self.limits.lenient && buf[0] == b'\n' {
                        buf.advance(1);
                        continue;
                    }
                    self.after_crlf = false;
                    let Some(kind) = self.begins(buf)? else { return self.wait(buf) };
                    self.state = State::Searched(kind, 0);
                }
                State::Searched(kind, searched) => {
                    let kind = *kind;
                    let view = &buf[..buf.len().min(self.limits.head_bytes)];
                    let from = searched.saturating_sub(3);
                    if let Some(end) = head_end(view, from, self.limits.lenient) {
                        if let Some(event) = self.head(kind, end, buf) {
                            return Ok(Some(event));
                        }
                    } else if buf.len() >= self.limits.head_bytes {
                        return Ok(Some(self.too_long(kind, buf)));
                    } else {
                        *searched = view.len();
                        return self.wait(buf);
                    }
                }
                State::Body { head_len, len, .. } => {
                    if buf.len() < *len {
                        return self.wait(buf);
                    }
                    let (head_len, mut all) = (*head_len, buf.split_to(*len).freeze());
                    let State::Body { layout, .. } = std::mem::take(&mut self.state) else { return Ok(None) };
                    self.ended();
                    let bytes = all.split_to(head_len);
                    return Ok(Some(Event::Message(Message { head: Head { bytes, layout }, body: all })));
                }
                State::PassedOver(left) => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    buf.advance(now);
                    *left -= now as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::Head;
                }
                State::TooLong(head) => match head.pass_over(buf) {
                    None => return Ok(None),
                    Some(Ok(length)) => self.state = State::PassedOver(u64::from(length)),
                    Some(Err(defect)) => {
                        self.state = State::Lost;
                        return Err(FrameError::Lost(defect));
                    }
                },
                State::Lost => {
                    buf.clear();
                    return Ok(None);
                }
            }
        }
    }

    /// Takes one WebSocket message (RFC 7118 §5): one SIP message, or a keep-alive. `None`: it is empty
    /// or a dropped CRLF. [`Refused::last`] is never set.
    ///
    /// # Errors
    /// [`FrameError::NotSip`]
    pub fn whole(&mut self, mut bytes: Bytes) -> Result<Option<Event>, FrameError> {
        match &bytes[..] {
            b"" => return Ok(None),
            b"\r\n" if self.limits.crlf_drop => return Ok(None),
            b"\r\n" => return Ok(Some(Event::Pong)),
            b"\r\n\r\n" => return Ok(Some(Event::Ping)),
            _ => {}
        }
        let line_end = memchr(b'\n', &bytes).unwrap_or(bytes.len());
        let kind = match kind_of(&bytes[..line_end]) {
            Some(kind) => kind,
            // It ends with its message, whatever it is; that of nobody's request is dropped without an answer.
            None if self.limits.lenient => StartLine::Response,
            None => return Err(FrameError::NotSip(excerpt(&bytes))),
        };
        let view = &bytes[..bytes.len().min(self.limits.head_bytes)];
        let end = head_end(view, 0, self.limits.lenient);
        let head_len = end.unwrap_or_else(|| whole_lines(view));
        let mut layout = self.spare.take().unwrap_or_default();
        scan(&bytes[..head_len], kind, self.limits.headers, self.limits.lenient, &mut layout);
        let there = bytes.len() - head_len;
        let defect = match (end, layout.content_length) {
            _ if layout.defect == Some(Defect::BareLineBreak) => layout.defect,
            (None, _) if bytes.len() >= self.limits.head_bytes => Some(Defect::HeadTooLong),
            (None, _) => Some(Defect::HeadIncomplete),
            _ if bytes.len() > self.limits.message_bytes => Some(Defect::MessageTooLong),
            (Some(_), Some(length)) if length as usize > there => {
                layout.defect.or(Some(Defect::BodyTooShort))
            }
            (Some(_), _) => layout.defect,
        };
        // What is more than Content-Length says does not belong to it (RFC 3261 §18.3).
        let len = layout.content_length.map_or(there, |length| there.min(length as usize));
        let mut body = bytes.split_off(head_len);
        body.truncate(len);
        let head = Head { bytes, layout };
        Ok(Some(match defect {
            Some(defect) => Event::Refused(Refused { head, defect, last: false }),
            None => Event::Message(Message { head, body }),
        }))
    }

    fn crlf(&mut self) -> Option<Event> {
        self.after_crlf = !self.after_crlf;
        if !self.after_crlf {
            Some(Event::Ping)
        } else if self.limits.crlf_drop {
            None
        } else {
            Some(Event::Pong)
        }
    }

    /// What kind of message begins here; `None`: not known before the end of the first line.
    fn begins(&self, buf: &[u8]) -> Result<Option<StartLine>, FrameError> {
        let view = &buf[..buf.len().min(self.limits.head_bytes)];
        let not_sip = || FrameError::NotSip(excerpt(buf));
        match memchr(b'\n', view) {
            Some(end) => kind_of(&view[..end]).map(Some).ok_or_else(not_sip),
            // Binary is not waited for: a TLS handshake on the plain port ends at once.
            None if view.iter().any(|&byte| byte < b' ' && !matches!(byte, b'\t' | b'\r')) => Err(not_sip()),
            None if buf.len() >= self.limits.head_bytes => Err(not_sip()),
            None => Ok(None),
        }
    }

    /// A head of `head_len` bytes is there.
    fn head(&mut self, kind: StartLine, head_len: usize, buf: &mut BytesMut) -> Option<Event> {
        let mut layout = self.spare.take().unwrap_or_default();
        scan(&buf[..head_len], kind, self.limits.headers, self.limits.lenient, &mut layout);
        let defect = match (layout.defect, layout.content_length) {
            (Some(defect), _) if layout.lost => Some(defect),
            (_, None) => Some(Defect::Missing(Name::ContentLength)),
            (Some(defect), _) => Some(defect),
            (None, Some(length)) => (head_len as u64 + u64::from(length) > self.limits.message_bytes as u64)
                .then_some(Defect::MessageTooLong),
        };
        let body = layout.content_length.unwrap_or(0);
        let Some(defect) = defect else {
            self.state = State::Body { layout, head_len, len: head_len + body as usize };
            return None;
        };
        let last = layout.lost || layout.content_length.is_none();
        self.ended();
        self.state = if last { State::Lost } else { State::PassedOver(u64::from(body)) };
        let head = Head { bytes: buf.split_to(head_len).freeze(), layout };
        Some(Event::Refused(Refused { head, defect, last }))
    }

    /// The head is longer than it may be. What is there of it may do for an answer.
    fn too_long(&mut self, kind: StartLine, buf: &mut BytesMut) -> Event {
        let head_len = whole_lines(&buf[..self.limits.head_bytes]);
        let mut layout = self.spare.take().unwrap_or_default();
        scan(&buf[..head_len], kind, self.limits.headers, self.limits.lenient, &mut layout);
        self.ended();
        let last = !self.limits.lenient;
        self.state = if last {
            State::Lost
        } else {
            let doubt = layout.defect.filter(|_| layout.lost);
            State::TooLong(LongHead { length: layout.content_length, doubt, within_line: false })
        };
        let defect = layout.defect.filter(|defect| *defect == Defect::BareLineBreak);
        let head = Head { bytes: buf.split_to(head_len).freeze(), layout };
        Event::Refused(Refused { head, defect: defect.unwrap_or(Defect::HeadTooLong), last })
    }

    /// More bytes are needed for this message.
    fn wait(&mut self, buf: &[u8]) -> Result<Option<Event>, FrameError> {
        if buf.len() > self.seen {
            self.reads += usize::from(buf.len() - self.seen < LARGE_READ);
            self.seen = buf.len();
            if let Some(max) = self.limits.max_msg_chunks.filter(|&max| self.reads >= max) {
                return Err(FrameError::TooManyChunks(max));
            }
        }
        Ok(None)
    }

    fn ended(&mut self) {
        self.reads = 0;
        self.seen = 0;
    }
}

/// How long the whole lines are with which `bytes` begins.
fn whole_lines(bytes: &[u8]) -> usize {
    memrchr(b'\n', bytes).map_or(0, |at| at + 1)
}

fn excerpt(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&bytes[..bytes.len().min(32)])
}
