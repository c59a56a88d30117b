//! MSRP over WebSocket (RFC 7977) as a stream of bytes, by an independent WebSocket library.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use msrp_proto::decoder::{Decoder, Event, Limits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::Stream;

/// A WebSocket that carries each MSRP message written to it in a WebSocket message of its own, and insists
/// that each one it reads holds exactly one.
pub struct WebSocket {
    socket: WebSocketStream<Stream>,
    /// Read, and not yet taken.
    rest: Bytes,
    /// Written, and not yet a whole message.
    partial: BytesMut,
    /// Finds the ends in it: what of `partial` it has not seen.
    unseen: BytesMut,
    seen: usize,
    decoder: Decoder,
    /// Whole messages to be sent.
    queue: VecDeque<Message>,
    closed: Option<CloseFrame>,
}

impl WebSocket {
    /// The opening handshake, with more header fields.
    ///
    /// # Errors
    /// The server's refusal among others.
    pub async fn open(
        stream: Stream,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Self, Response<Option<Vec<u8>>>), Box<Error>> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).expect("a header field's name");
            request.headers_mut().append(name, HeaderValue::try_from(*value).expect("a value"));
        }
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
        let socket = Self {
            socket,
            rest: Bytes::new(),
            partial: BytesMut::new(),
            unseen: BytesMut::new(),
            seen: 0,
            decoder: decoder(),
            queue: VecDeque::new(),
            closed: None,
        };
        Ok((socket, response))
    }

    /// What is under it.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        self.socket.get_ref()
    }

    /// The library's view of it, for anything out of the ordinary.
    pub fn library(&mut self) -> &mut WebSocketStream<Stream> {
        &mut self.socket
    }

    /// The code and reason of the other side's Close, once it was read.
    #[must_use]
    pub fn closed(&self) -> Option<(u16, &str)> {
        self.closed.as_ref().map(|frame| (frame.code.into(), frame.reason.as_str()))
    }

    /// Cuts what was written into messages.
    fn cut(&mut self) {
        loop {
            let before = self.unseen.len();
            let event = self.decoder.decode(&mut self.unseen);
            self.seen += before - self.unseen.len();
            match event {
                Ok(Some(Event::End(_))) => {
                    let message = self.partial.split_to(self.seen).freeze();
                    self.seen = 0;
                    self.queue.push_back(Message::Binary(message));
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                // No MSRP, as some tests want it.
                Err(_) => {
                    self.unseen.clear();
                    self.seen = 0;
                    self.decoder = decoder();
                    self.queue.push_back(Message::Binary(self.partial.split().freeze()));
                    return;
                }
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(to_io)?;
            if let Some(message) = self.queue.pop_front() {
                Pin::new(&mut self.socket).start_send(message).map_err(to_io)?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn decoder() -> Decoder {
    Decoder::new(Limits { head_bytes: 1 << 20, headers: 10_000, ..Limits::default() })
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

/// Whether these bytes are one MSRP message and nothing else.
fn is_one_message(bytes: &[u8]) -> bool {
    let (mut decoder, mut buffer, mut ends) = (decoder(), BytesMut::from(bytes), 0);
    loop {
        match decoder.decode(&mut buffer) {
            Ok(Some(Event::End(_))) => ends += 1,
            Ok(Some(Event::Head(_))) if ends > 0 => return false,
            Ok(Some(_)) => {}
            Ok(None) => return ends == 1 && buffer.is_empty(),
            Err(_) => return false,
        }
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            let message = match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(message) => message.map_err(to_io)?,
            };
            match message {
                Message::Binary(bytes) => this.rest = bytes,
                Message::Text(text) => this.rest = text.into(),
                Message::Close(frame) => {
                    this.closed = frame;
                    continue;
                }
                _ => continue,
            }
            if !is_one_message(&this.rest) {
                let text = String::from_utf8_lossy(&this.rest).into_owned();
                return Poll::Ready(Err(io::Error::other(format!("not one MSRP message: {text:?}"))));
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(buf.remaining()));
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        this.partial.extend_from_slice(bytes);
        this.unseen.extend_from_slice(bytes);
        this.cut();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_close(cx).map_err(to_io)
    }
}
