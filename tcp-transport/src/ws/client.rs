//! The client's side of the opening handshake (RFC 6455 §4.1), without sockets.

use bytes::{BufMut as _, BytesMut};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::connector::Target;

use super::head::{Fields, HeadLimits, Headers, accept_value, is_token, is_value, within};

/// Characters of a server's reason that an error quotes.
const QUOTED: usize = 100;

/// The WebSocket that a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Host and port as they stand in the URI: the port is left out where it is the scheme's own.
    pub host: String,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// For servers that ask where a request comes from; programs that are no browsers need none.
    pub origin: Option<String>,
    /// Subprotocols, the best first.
    pub protocols: Vec<String>,
    /// More header fields: Authorization, cookies.
    pub headers: Headers,
}

/// An offer that cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot ask for a WebSocket: {0}")]
pub struct InvalidOffer(&'static str);

/// The key of one request, which its response must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Of 16 bytes, drawn at random for each request.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(STANDARD.encode(random))
    }
}

impl Offer {
    /// For `path` at `host`, with nothing else.
    pub fn new(host: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            path: path.into(),
            origin: None,
            protocols: Vec::new(),
            headers: Headers::new(),
        }
    }

    /// For `path` at a target, whose port is named where it is not the default.
    pub fn to(target: &Target, path: impl Into<String>) -> Self {
        Self::new(target.websocket_host(), path)
    }

    /// Writes the request.
    ///
    /// # Errors
    /// Something in it cannot stand in a request.
    pub fn write(&self, key: &Key, out: &mut BytesMut) -> Result<(), InvalidOffer> {
        let graphic = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.path.starts_with('/') || !graphic(&self.path) || self.path.contains('#') {
            return Err(InvalidOffer("the path must begin with / and be made of visible ASCII characters"));
        }
        if !graphic(&self.host) {
            return Err(InvalidOffer("the host must be made of visible ASCII characters"));
        }
        if !self.origin.as_deref().is_none_or(is_value) {
            return Err(InvalidOffer("control characters in the origin"));
        }
        if !self.protocols.iter().all(|protocol| is_token(protocol)) {
            return Err(InvalidOffer("a protocol is no token"));
        }
        let mut put = |parts: &[&str]| parts.iter().for_each(|part| out.put_slice(part.as_bytes()));
        put(&["GET ", &self.path, " HTTP/1.1\r\nHost: ", &self.host]);
        put(&["\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"]);
        put(&["Sec-WebSocket-Key: ", &key.0, "\r\n"]);
        if let Some(origin) = &self.origin {
            put(&["Origin: ", origin, "\r\n"]);
        }
        if !self.protocols.is_empty() {
            put(&["Sec-WebSocket-Protocol: ", &self.protocols.join(", "), "\r\n"]);
        }
        put(&[self.headers.as_str(), "\r\n"]);
        Ok(())
    }

    /// Reads the response at the front of `bytes` and checks it (RFC 6455 §4.1). `None`: it is not
    /// complete. Otherwise the subprotocol the server chose, if it did, and the bytes of the head.
    ///
    /// # Errors
    /// See [`ResponseError`].
    pub fn check_response(
        &self,
        key: &Key,
        bytes: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<(Option<String>, usize)>, ResponseError> {
        let mut fields = vec![httparse::EMPTY_HEADER; limits.max_headers];
        let mut response = httparse::Response::new(&mut fields);
        let size = match response.parse(within(bytes, limits)) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) if bytes.len() >= limits.max_bytes => {
                return Err(ResponseError::TooLarge);
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooLarge),
            Err(_) => return Err(ResponseError::Malformed),
        };
        let status = response.code.ok_or(ResponseError::Malformed)?;
        if status != 101 {
            let reason = response.reason.unwrap_or_default();
            return Err(ResponseError::Refused { status, reason: reason.chars().take(QUOTED).collect() });
        }
        let fields = Fields(response.headers);
        if !fields.lists("Upgrade", "websocket") || !fields.lists("Connection", "upgrade") {
            return Err(ResponseError::NoUpgrade);
        }
        if fields.only("Sec-WebSocket-Accept") != Some(&accept_value(&key.0)) {
            return Err(ResponseError::WrongAccept);
        }
        if fields.list("Sec-WebSocket-Extensions").next().is_some() {
            return Err(ResponseError::Extension);
        }
        let protocol = fields.only("Sec-WebSocket-Protocol").map(str::to_owned);
        let answered = fields.raw("Sec-WebSocket-Protocol").next().is_some();
        match protocol {
            Some(protocol) if self.protocols.contains(&protocol) => Ok(Some((Some(protocol), size))),
            None if !answered => Ok(Some((None, size))),
            _ => Err(ResponseError::UnknownProtocol),
        }
    }
}

/// A response that opens no WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The server does not want to.
    #[error("the server answered {status} {reason}")]
    Refused {
        /// Its status.
        status: u16,
        /// Its words, the first hundred characters.
        reason: String,
    },
    /// Not HTTP.
    #[error("the answer is no HTTP response")]
    Malformed,
    /// More than [`HeadLimits`] allow.
    #[error("the head of the answer is too large")]
    TooLarge,
    /// 101 without what makes it one of ours.
    #[error("the answer switches to something else than WebSocket")]
    NoUpgrade,
    /// It answers another key: a cache, or no WebSocket server.
    #[error("the answer does not match the request's key")]
    WrongAccept,
    /// An extension nobody asked for.
    #[error("the server wants an extension that was not offered")]
    Extension,
    /// A subprotocol nobody asked for.
    #[error("the server wants a subprotocol that was not offered")]
    UnknownProtocol,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::{Answer, Request};

    fn key() -> Key {
        Key::new(*b"the sample nonce")
    }

    fn offer() -> Offer {
        Offer { protocols: vec!["msrp".into(), "chat".into()], ..Offer::new("relay.test:8080", "/a?b=c") }
    }

    fn check(response: &str) -> Result<Option<(Option<String>, usize)>, ResponseError> {
        offer().check_response(&key(), response.as_bytes(), &HeadLimits::default())
    }

    const ACCEPT: &str = "HTTP/1.1 101 OK\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    #[test]
    fn our_server_understands_our_client() {
        let mut offer = offer();
        offer.origin = Some("https://chat.test".into());
        offer.headers.add("Cookie", "a=b").unwrap();
        let mut request = BytesMut::new();
        offer.write(&key(), &mut request).unwrap();
        let (parsed, size) = Request::parse(&request, &HeadLimits::default()).unwrap().unwrap();
        assert_eq!(size, request.len());
        assert_eq!((parsed.path(), parsed.query()), ("/a", Some("b=c")));
        assert_eq!((parsed.host(), parsed.origin()), (Some("relay.test:8080"), Some("https://chat.test")));
        assert_eq!(parsed.protocols().collect::<Vec<_>>(), ["msrp", "chat"]);
        assert_eq!(parsed.header("cookie"), Some("a=b"));
        parsed.check().unwrap();
        let mut response = BytesMut::new();
        assert!(Answer::accept(Some("chat")).write(&parsed, false, &mut response));
        let whole = response.len();
        response.extend_from_slice(b"\x81\0");
        let limits = HeadLimits::default();
        for cut in 0..whole {
            assert_eq!(offer.check_response(&key(), &response[..cut], &limits), Ok(None));
        }
        let checked = offer.check_response(&key(), &response, &limits);
        assert_eq!(checked, Ok(Some((Some("chat".into()), whole))));
    }

    #[test]
    fn offers_that_cannot_be_sent() {
        for offer in [
            Offer::new("relay.test", "a"),
            Offer::new("relay.test", "/a b"),
            Offer::new("relay.test", "/a#b"),
            Offer::new("relay.test", "/\r\nX: y"),
            Offer::new("relay.test\r\n", "/"),
            Offer::new("", "/"),
            Offer { origin: Some("\n".into()), ..offer() },
            Offer { protocols: vec!["a,b".into()], ..offer() },
        ] {
            assert!(offer.write(&key(), &mut BytesMut::new()).is_err(), "{offer:?}");
        }
    }

    #[test]
    fn responses_that_open_no_websocket() {
        use ResponseError as E;
        assert_eq!(check(&format!("{ACCEPT}\r\n")).unwrap().unwrap().0, None);
        let refused = E::Refused { status: 403, reason: "Forbidden".into() };
        for (response, error) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n".to_owned(), refused),
            ("SSH-2.0-OpenSSH\r\n".to_owned(), E::Malformed),
            (ACCEPT.replace("Upgrade: WebSocket\r\n", "") + "\r\n", E::NoUpgrade),
            (ACCEPT.replace("keep-alive, Upgrade", "keep-alive") + "\r\n", E::NoUpgrade),
            (ACCEPT.replace("s3p", "s3q") + "\r\n", E::WrongAccept),
            (format!("{ACCEPT}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), E::Extension),
            (format!("{ACCEPT}Sec-WebSocket-Protocol: sip\r\n\r\n"), E::UnknownProtocol),
            (
                format!("{ACCEPT}Sec-WebSocket-Protocol: msrp\r\nSec-WebSocket-Protocol: chat\r\n\r\n"),
                E::UnknownProtocol,
            ),
            (format!("HTTP/1.1 101 {}", "x".repeat(16 * 1024)), E::TooLarge),
            (format!("HTTP/1.1 101 x\r\n{}\r\n", "A: b\r\n".repeat(65)), E::TooLarge),
        ] {
            assert_eq!(check(&response), Err(error), "{response:.200}");
        }
    }
}
