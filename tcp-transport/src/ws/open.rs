//! The opening handshake on a connected stream, both sides.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};

use super::client::{InvalidOffer, Key, Offer, ResponseError};
use super::handshake::{Answer, MAX_REQUESTS, Request, RequestError};
use super::head::HeadLimits;
use crate::connection::CLOSE_LINGER;
use crate::listener::Acceptor;
use crate::stream::{Stream, is_transient};

/// How long an opening handshake may take, in and out: 10 s from the end of the TLS handshake to the
/// end of the answer. A challenge and its answer fit, over a bad mobile link too.
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of one read while a head is collected.
const READ: usize = 4 * 1024;

/// What may be set about a listener's WebSockets. What happens on them afterwards is set with
/// [`Incoming`](super::Incoming).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// For the whole opening handshake, [`Acceptor::upgrade`] included; [`DEFAULT_HANDSHAKE_TIMEOUT`].
    pub handshake_timeout: Duration,
    /// For each request's head.
    pub head: HeadLimits,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { handshake_timeout: DEFAULT_HANDSHAKE_TIMEOUT, head: HeadLimits::default() }
    }
}

/// What came of an opening handshake.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Opened {
    /// The subprotocol both sides agreed on.
    pub protocol: Option<String>,
    /// Who the handshake has proved the client to be ([`Answer::Accept`]).
    pub principal: Option<Arc<str>>,
    /// The path, without the query.
    pub path: String,
    /// What follows the path's `?`.
    pub query: Option<String>,
    /// The host, and the port if it was named, that the request was for.
    pub host: String,
    /// Where a browser's request came from.
    pub origin: Option<String>,
    /// What was read beyond the handshake: the first bytes of the first frames. They go to
    /// [`connection::open_with`](crate::connection::open_with).
    pub rest: BytesMut,
}

/// No WebSocket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// It took longer than this.
    #[error("no WebSocket within {0:?}")]
    Timeout(Duration),
    /// The peer went away.
    #[error("closed by the peer during the WebSocket handshake")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Io(io::Error),
    /// As a server: what came could not be read.
    #[error("{0}")]
    Request(RequestError),
    /// As a server: we have refused.
    #[error("refused with status {status}")]
    Refused {
        /// The status.
        status: u16,
    },
    /// As a client: the server's answer opens no WebSocket.
    #[error("{0}")]
    Response(ResponseError),
    /// As a client: what should be asked for cannot be.
    #[error("{0}")]
    Offer(InvalidOffer),
}

impl UpgradeError {
    /// The HTTP status that the handshake ended with, if it came that far.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status } | Self::Response(ResponseError::Refused { status, .. }) => Some(*status),
            Self::Request(error) => match error.answer() {
                Some(Answer::Refuse { status, .. }) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout(_))
    }
}

impl From<io::Error> for UpgradeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The server's side.
pub(crate) async fn accept<A: Acceptor>(
    stream: &Stream,
    settings: &ServerSettings,
    acceptor: &A,
) -> Result<Opened, UpgradeError> {
    let limit = settings.handshake_timeout;
    let result = tokio::time::timeout(limit, accept_unlimited(stream, settings, acceptor)).await;
    let error = match result {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(error)) => error,
        Err(_) => UpgradeError::Timeout(limit),
    };
    if error.status().is_some() {
        // The answer is worth nothing if an RST overtakes it.
        let _ = tokio::time::timeout(CLOSE_LINGER, take_leave(stream)).await;
    }
    Err(error)
}

async fn accept_unlimited<A: Acceptor>(
    stream: &Stream,
    settings: &ServerSettings,
    acceptor: &A,
) -> Result<Opened, UpgradeError> {
    let mut buf = BytesMut::new();
    let mut out = BytesMut::new();
    for turn in 1..=MAX_REQUESTS {
        let (size, answer, keep) = loop {
            match Request::parse(&buf, &settings.head) {
                Ok(None) => read_more(stream, &mut buf, &settings.head).await?,
                Ok(Some((request, size))) => {
                    let answer = match request.check() {
                        Ok(()) => acceptor.upgrade(&request, stream).await,
                        Err(answer) => answer,
                    };
                    let keep = turn < MAX_REQUESTS && answer.keeps_connection(&request);
                    if !answer.write(&request, keep, &mut out) {
                        stream.write_all(&out).await?;
                        return Err(UpgradeError::Refused { status: 500 });
                    }
                    let opened = opened(&request, answer);
                    break (size, opened, keep);
                }
                Err(error) => {
                    if let Some(answer) = error.answer() {
                        answer.write_last(&mut out);
                        stream.write_all(&out).await?;
                    }
                    return Err(UpgradeError::Request(error));
                }
            }
        };
        stream.write_all(&out).await?;
        out.clear();
        let _head = buf.split_to(size);
        match answer {
            Ok(opened) => return Ok(Opened { rest: buf, ..opened }),
            Err(status) if !keep => return Err(UpgradeError::Refused { status }),
            Err(_) => {}
        }
    }
    // The last turn never keeps the connection.
    Err(UpgradeError::Closed)
}

/// What the owner of the WebSocket learns of its request; or the status of its refusal.
fn opened(request: &Request<'_>, answer: Answer) -> Result<Opened, u16> {
    match answer {
        Answer::Refuse { status, .. } => Err(status),
        Answer::Accept { protocol, principal, .. } => Ok(Opened {
            protocol,
            principal,
            path: request.path().to_owned(),
            query: request.query().map(str::to_owned),
            host: request.host().unwrap_or_default().to_owned(),
            origin: request.origin().map(str::to_owned),
            rest: BytesMut::new(),
        }),
    }
}

/// The client's side.
pub(crate) async fn connect(stream: &Stream, offer: &Offer, limit: Duration) -> Result<Opened, UpgradeError> {
    tokio::time::timeout(limit, connect_unlimited(stream, offer))
        .await
        .unwrap_or(Err(UpgradeError::Timeout(limit)))
}

async fn connect_unlimited(stream: &Stream, offer: &Offer) -> Result<Opened, UpgradeError> {
    let key = Key::new(rand::random());
    let mut buf = BytesMut::new();
    offer.write(&key, &mut buf).map_err(UpgradeError::Offer)?;
    stream.write_all(&buf).await?;
    buf.clear();
    let limits = HeadLimits::default();
    loop {
        let checked = offer.check_response(&key, &buf, &limits).map_err(UpgradeError::Response)?;
        let Some((protocol, size)) = checked else {
            read_more(stream, &mut buf, &limits).await?;
            continue;
        };
        let _head = buf.split_to(size);
        let (path, query) = match offer.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (offer.path.as_str(), None),
        };
        return Ok(Opened {
            protocol,
            principal: None,
            path: path.to_owned(),
            query: query.map(str::to_owned),
            host: offer.host.clone(),
            origin: offer.origin.clone(),
            rest: buf,
        });
    }
}

/// Reads until there is something to parse again: at first, at the end of a line, at the limit. So
/// whoever sends a head byte by byte has it parsed once a line, and not once a byte.
async fn read_more(stream: &Stream, buf: &mut BytesMut, limits: &HeadLimits) -> Result<(), UpgradeError> {
    let first = buf.is_empty();
    loop {
        let seen = buf.len();
        match stream.read(buf, READ).await {
            Ok(0) => return Err(UpgradeError::Closed),
            Ok(_) => {}
            // TCP was ended without TLS' own end.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(UpgradeError::Closed),
            Err(e) => return Err(e.into()),
        }
        // Empty lines before a request do not count (RFC 9112 §2.2), and are not kept to be parsed again.
        while buf.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            buf.advance(1);
        }
        let fresh = buf.get(seen..).unwrap_or_default();
        if first || fresh.contains(&b'\n') || buf.len() >= limits.max_bytes {
            return Ok(());
        }
    }
}

/// Ends our direction, and reads until the peer has ended its own.
async fn take_leave(stream: &Stream) -> io::Result<()> {
    while let Err(e) = stream.close_notify() {
        if !is_transient(&e) {
            return Err(e);
        }
        poll_fn(|cx| stream.poll_write_ready(cx)).await?;
    }
    stream.shutdown_write()?;
    loop {
        poll_fn(|cx| stream.poll_discard_ready(cx)).await?;
        match stream.discard() {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if is_transient(&e) => {}
            Err(e) => return Err(e),
        }
    }
}
