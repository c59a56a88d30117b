//! The server's side of the opening handshake (RFC 6455 §4.2): a request in, an answer out, no sockets.
//!
//! [`Request::parse`] reads a head, [`Request::check`] refuses what is no opening handshake, somebody
//! who knows the paths and protocols makes an [`Answer`], and [`Answer::write`] puts it on the wire.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};

use super::head::{Fields, HeadLimits, Headers, accept_value, is_key, is_token, within};

/// The version of the protocol, and the only one.
const VERSION: &str = "13";

const NO_WEBSOCKET: &str = "This port speaks WebSocket (RFC 6455), and nothing else.\n";

/// Requests that one connection may make before it is closed: 4. One is answered with a challenge, the
/// next has the credentials; a user may mistype them.
pub const MAX_REQUESTS: usize = 4;

/// A request for a WebSocket, as its head says it.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    /// The digit after `HTTP/1.`.
    minor: u8,
    fields: Vec<httparse::Header<'a>>,
}

/// A head that is no request, or none that can be answered otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not HTTP at all: there is nothing to answer.
    #[error("not HTTP: {0}")]
    NotHttp(&'static str),
    /// A request line of HTTP, and something else after it; the answer is 400.
    #[error("malformed request head: {0}")]
    Malformed(&'static str),
    /// More than [`HeadLimits`] allow; the answer is 431.
    #[error("request head too large")]
    TooLarge,
}

impl RequestError {
    /// What is answered; `None`: nothing, the connection is closed.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        match self {
            Self::NotHttp(_) => None,
            Self::Malformed(_) => Some(Answer::refuse(400, "The head of the request is malformed.\n")),
            Self::TooLarge => Some(Answer::refuse(431, "The head of the request is too large.\n")),
        }
    }
}

impl<'a> Request<'a> {
    /// Reads the head at the front of `bytes`, and says how many bytes it has. `None`: it is not
    /// complete.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn parse(bytes: &'a [u8], limits: &HeadLimits) -> Result<Option<(Self, usize)>, RequestError> {
        use httparse::Error as E;
        let mut fields = vec![httparse::EMPTY_HEADER; limits.max_headers];
        let mut request = httparse::Request::new(&mut fields);
        let status = request.parse(within(bytes, limits)).map_err(|error| match error {
            E::HeaderName => RequestError::Malformed("header name"),
            E::HeaderValue => RequestError::Malformed("header value"),
            E::TooManyHeaders => RequestError::TooLarge,
            // A line end that is none can be anywhere; with a version before it, it was HTTP.
            E::NewLine | E::Status if request.version.is_some() => RequestError::Malformed("line end"),
            E::NewLine | E::Status => RequestError::NotHttp("line end"),
            E::Token => RequestError::NotHttp("no request line"),
            E::Version => RequestError::NotHttp("no version"),
        })?;
        let size = match status {
            httparse::Status::Complete(size) => size,
            httparse::Status::Partial if bytes.len() >= limits.max_bytes => {
                return Err(RequestError::TooLarge);
            }
            httparse::Status::Partial => return Ok(None),
        };
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(RequestError::NotHttp("no request line"));
        };
        let count = request.headers.len();
        fields.truncate(count);
        let resource = resource(target).ok_or(RequestError::Malformed("request target"))?;
        let (path, query) = match resource.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (resource, None),
        };
        Ok(Some((Self { method, path, query, minor, fields }, size)))
    }

    /// Refuses what is no opening handshake (RFC 6455 §4.2.1), with the answer for it.
    ///
    /// # Errors
    /// The answer: 405, 400 or 426.
    pub fn check(&self) -> Result<(), Answer> {
        let fields = self.fields();
        if self.method != "GET" {
            let answer = Answer::refuse(405, "A WebSocket is opened by GET.\n");
            return Err(answer.with_headers("Allow: GET\r\n"));
        }
        if self.minor == 0 {
            return Err(Answer::refuse(400, "A WebSocket needs HTTP/1.1.\n"));
        }
        if fields.only("Host").is_none() {
            return Err(Answer::refuse(400, "There must be one Host.\n"));
        }
        if !fields.lists("Upgrade", "websocket") || !fields.lists("Connection", "upgrade") {
            return Err(upgrade_required(NO_WEBSOCKET));
        }
        if fields.only("Sec-WebSocket-Version") != Some(VERSION) {
            return Err(upgrade_required("Only version 13 of WebSocket (RFC 6455) is spoken here.\n"));
        }
        if self.key().is_none() {
            return Err(Answer::refuse(400, "Sec-WebSocket-Key must be 16 bytes in base64.\n"));
        }
        let length = fields.raw("Content-Length").any(|value| value.iter().any(|byte| *byte != b'0'));
        if length || fields.raw("Transfer-Encoding").next().is_some() {
            return Err(Answer::refuse(400, "A request for a WebSocket has no body.\n"));
        }
        Ok(())
    }

    /// The method, `GET` once [`check`](Self::check) has passed.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The path, without the query, as it came: nothing is decoded.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// What follows the path's `?`.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The host (and port) it was sent to.
    #[must_use]
    pub fn host(&self) -> Option<&'a str> {
        self.header("Host")
    }

    /// The origin of the page that a browser made the request for (RFC 6455 §10.2). There may be more
    /// than one only by fault; then there is none.
    #[must_use]
    pub fn origin(&self) -> Option<&'a str> {
        self.header("Origin")
    }

    /// The value of the header field, whose name is compared without case, if there is exactly one and
    /// it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.fields().only(name)
    }

    /// The values of all header fields of that name, those that are not UTF-8 left out.
    pub fn headers<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.fields().raw(name).filter_map(|value| std::str::from_utf8(value).ok())
    }

    /// The elements of all comma-separated lists of that name.
    pub fn header_list<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a str> + 's {
        self.fields().list(name)
    }

    /// The subprotocols the client speaks, in its order of preference.
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.header_list("Sec-WebSocket-Protocol").filter(|protocol| is_token(protocol))
    }

    fn key(&self) -> Option<&'a str> {
        self.header("Sec-WebSocket-Key").filter(|key| is_key(key))
    }

    /// Whether the client will close the connection after the answer.
    fn wants_close(&self) -> bool {
        self.fields().lists("Connection", "close") || self.minor == 0
    }

    fn fields(&self) -> Fields<'a, '_> {
        Fields(&self.fields)
    }
}

/// The resource in a request target: it is a path, or a URI that has one (RFC 6455 §3, §4.2.1).
fn resource(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !["ws", "wss", "http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    let path = rest.find(['/', '?']).map_or("/", |at| &rest[at..]);
    Some(path).filter(|path| path.starts_with('/'))
}

/// What a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 101: the WebSocket is open.
    Accept {
        /// The subprotocol, one of [`Request::protocols`].
        protocol: Option<String>,
        /// More header fields.
        headers: Headers,
        /// Who the handshake has proved the client to be; handed on as it is.
        principal: Option<Arc<str>>,
    },
    /// No WebSocket.
    Refuse {
        /// The status, 300 to 599; anything else is sent as 500.
        status: u16,
        /// More header fields.
        headers: Headers,
        /// Text for whoever looks at the answer.
        body: Cow<'static, str>,
    },
}

impl Answer {
    /// A refusal with nothing but a text.
    pub fn refuse(status: u16, body: impl Into<Cow<'static, str>>) -> Self {
        Self::Refuse { status, headers: Headers::new(), body: body.into() }
    }

    /// Takes the client in.
    #[must_use]
    pub fn accept(protocol: Option<&str>) -> Self {
        Self::Accept { protocol: protocol.map(str::to_owned), headers: Headers::new(), principal: None }
    }

    fn with_headers(self, lines: &'static str) -> Self {
        let Self::Refuse { status, body, .. } = self else { return self };
        Self::Refuse { status, headers: Headers::of_lines(lines), body }
    }

    /// Whether the connection goes on after this answer to `request`: with a WebSocket, or with another
    /// request, as after a 401, which the client answers on the same connection.
    #[must_use]
    pub fn keeps_connection(&self, request: &Request<'_>) -> bool {
        match self {
            Self::Accept { .. } => true,
            Self::Refuse { status, .. } => *status == 401 && !request.wants_close(),
        }
    }

    /// Writes the answer to a request that has passed [`Request::check`]. An acceptance that names a
    /// protocol the client did not offer would break RFC 6455 §4.2.2; it goes out as a 500, and `false`
    /// comes back. `keep` is for refusals: the connection stays open for another request.
    pub fn write(&self, request: &Request<'_>, keep: bool, out: &mut BytesMut) -> bool {
        match self {
            Self::Accept { protocol, headers, .. } => {
                let offered = |protocol: &String| request.protocols().any(|offered| offered == protocol);
                let (Some(key), true) = (request.key(), protocol.as_ref().is_none_or(offered)) else {
                    write_refusal(500, &Headers::new(), "Internal error.\n", false, out);
                    return false;
                };
                put(out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
                for part in ["Sec-WebSocket-Accept: ", &accept_value(key), "\r\n"] {
                    put(out, part);
                }
                if let Some(protocol) = protocol {
                    for part in ["Sec-WebSocket-Protocol: ", protocol, "\r\n"] {
                        put(out, part);
                    }
                }
                put(out, headers.as_str());
                put(out, "\r\n");
            }
            Self::Refuse { status, headers, body } => write_refusal(*status, headers, body, keep, out),
        }
        true
    }

    /// Writes a refusal of what could not be read as a request. Nothing follows it.
    pub fn write_last(&self, out: &mut BytesMut) {
        if let Self::Refuse { status, headers, body } = self {
            write_refusal(*status, headers, body, false, out);
        }
    }
}

fn upgrade_required(text: &'static str) -> Answer {
    Answer::refuse(426, text).with_headers("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
}

fn write_refusal(status: u16, headers: &Headers, body: &str, keep: bool, out: &mut BytesMut) {
    let status = if (300..600).contains(&status) { status } else { 500 };
    // RFC 9110 §7.8: what offers an upgrade names it in Connection too.
    let connection = match (status, keep) {
        (426, _) => "upgrade, close",
        (_, true) => "keep-alive",
        (_, false) => "close",
    };
    let reason = reason(status);
    // Writing to a BytesMut does not fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {reason}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
        body.len()
    );
}

fn put(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
}

/// The usual words for a status.
fn reason(status: u16) -> &'static str {
    match status {
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests;
