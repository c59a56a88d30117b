//! A party that speaks SIP: a client, or a scripted proxy behind the edge. What it reads and writes is text.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use crate::stream::tls_accept;
use crate::{Daemon, Identity, Scheme, Site, Stream, tls_config, tls_handshake, within};

/// A SIP message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipMessage(pub String);

impl SipMessage {
    /// The first line.
    #[must_use]
    pub fn start(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The status of a response, or the method of a request.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self.start().strip_prefix("SIP/2.0 ") {
            Some(status) => status.split(' ').next().unwrap_or_default(),
            None => self.start().split(' ').next().unwrap_or_default(),
        }
    }

    /// The values of all fields with this name, which is compared without case.
    #[must_use]
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let head = self.0.split("\r\n\r\n").next().unwrap_or_default();
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields
            .filter(|(own, _)| own.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The first of them.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields(name).first().copied().unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    /// What follows the empty line.
    #[must_use]
    pub fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }
}

/// A request with what it must have; `fields` are lines with their ends.
#[must_use]
pub fn request(method: &str, uri: &str, branch: &str, fields: &str, body: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TCP client.invalid;branch=z9hG4bK{branch};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\n\
         Call-ID: {branch}@client.invalid\r\nCSeq: 1 {method}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The response to a request: its Via, From, To, Call-ID and CSeq, and `fields`.
#[must_use]
pub fn response(request: &SipMessage, status: &str, fields: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
        for value in request.fields(name) {
            text += &format!("{name}: {value}\r\n");
        }
    }
    text + fields + "Content-Length: 0\r\n\r\n"
}

/// One connection.
pub struct SipPeer {
    wire: Wire,
    read: Vec<u8>,
    /// Double CRLFs that came, and single ones.
    keep_alives: VecDeque<&'static str>,
    answers_probes: bool,
}

enum Wire {
    Stream(Stream),
    WebSocket(Box<WebSocketStream<Stream>>),
}

impl SipPeer {
    /// A client's connection to the daemon's listener of this kind.
    ///
    /// # Panics
    /// When there is none.
    pub async fn connect(daemon: &Daemon, site: &Site, scheme: Scheme) -> Self {
        let socket = within("a connection", TcpStream::connect(daemon.address(scheme))).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let stream = match scheme.is_secure() {
            false => Stream::Plain(socket),
            true => within("TLS", tls_handshake(tls_config(site, None), socket, "relay.test")).await.unwrap(),
        };
        let wire = match scheme {
            Scheme::Ws | Scheme::Wss => {
                let mut request = daemon.websocket_url(scheme).into_client_request().unwrap();
                request.headers_mut().append("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
                let opened = within("a WebSocket", tokio_tungstenite::client_async(request, stream)).await;
                let (socket, response) = opened.unwrap();
                assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "sip");
                Wire::WebSocket(Box::new(socket))
            }
            _ => Wire::Stream(stream),
        };
        Self::over(wire)
    }

    /// A connection from this address to an address, of TCP.
    ///
    /// # Panics
    /// When there is none.
    pub async fn connect_from(source: &str, to: SocketAddr) -> Self {
        Self::over_stream(Stream::Plain(socket_from(source, to).await))
    }

    /// The same of TLS, with a certificate or none.
    ///
    /// # Panics
    /// When there is none.
    pub async fn connect_tls_from(
        source: &str,
        to: SocketAddr,
        site: &Site,
        identity: Option<&Identity>,
    ) -> Self {
        let socket = socket_from(source, to).await;
        let handshake = tls_handshake(tls_config(site, identity), socket, "relay.test");
        Self::over_stream(within("TLS", handshake).await.unwrap())
    }

    /// Over a stream that is there.
    #[must_use]
    pub fn over_stream(stream: Stream) -> Self {
        Self::over(Wire::Stream(stream))
    }

    /// Over a WebSocket to be opened on a stream, with more header fields than the subprotocol.
    ///
    /// # Errors
    /// The status with which it is refused.
    ///
    /// # Panics
    /// When it fails in another way.
    pub async fn open_websocket(
        stream: Stream,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in [("Sec-WebSocket-Protocol", "sip")].iter().chain(headers) {
            let name = HeaderName::try_from(*name).unwrap();
            request.headers_mut().append(name, HeaderValue::try_from(*value).unwrap());
        }
        match within("a WebSocket", tokio_tungstenite::client_async(request, stream)).await {
            Ok((socket, response)) => {
                assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "sip");
                Ok(Self::over(Wire::WebSocket(Box::new(socket))))
            }
            Err(Error::Http(response)) => Err(Refused {
                status: response.status().as_u16(),
                challenges: response
                    .headers()
                    .get_all("WWW-Authenticate")
                    .iter()
                    .map(|value| value.to_str().expect("text").to_owned())
                    .collect(),
            }),
            Err(error) => panic!("{error}"),
        }
    }

    /// The library's view of its WebSocket.
    ///
    /// # Panics
    /// If it is none.
    pub fn websocket(&mut self) -> &mut WebSocketStream<Stream> {
        match &mut self.wire {
            Wire::WebSocket(socket) => socket,
            Wire::Stream(_) => panic!("no WebSocket"),
        }
    }

    fn over(wire: Wire) -> Self {
        Self { wire, read: Vec::new(), keep_alives: VecDeque::new(), answers_probes: false }
    }

    /// Sends bytes as they are; over WebSocket as one message.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn try_send(&mut self, text: &str) -> io::Result<()> {
        match &mut self.wire {
            Wire::Stream(stream) => {
                stream.write_all(text.as_bytes()).await?;
                stream.flush().await
            }
            Wire::WebSocket(socket) => socket.send(Frame::text(text)).await.map_err(io::Error::other),
        }
    }

    /// As [`try_send`](Self::try_send).
    ///
    /// # Panics
    /// When that fails.
    pub async fn send(&mut self, text: &str) {
        within("the sending", self.try_send(text)).await.unwrap();
    }

    /// From here on the edge's probes are answered, and not shown.
    #[must_use]
    pub fn answering_probes(self) -> Self {
        Self { answers_probes: true, ..self }
    }

    /// Answers the edge's next probe.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn probed(&mut self) {
        let probe = within("a probe", self.read_message()).await.expect("a probe, and not the end");
        assert!(is_probe(&probe), "{}", probe.0);
        self.send(&response(&probe, "200 OK", "")).await;
    }

    /// The next message; `None`: the end.
    pub async fn next(&mut self) -> Option<SipMessage> {
        loop {
            let message = within("a SIP message", self.read_message()).await?;
            if !self.answers_probes || !is_probe(&message) {
                return Some(message);
            }
            // The end shows with the next one.
            let _ = self.try_send(&response(&message, "200 OK", "")).await;
        }
    }

    /// Waits until the other side has read all that was sent.
    ///
    /// # Panics
    /// When it does not.
    pub async fn read_by_other(&self) {
        let socket = self.socket();
        let ports = (socket.local_addr().unwrap().port(), socket.peer_addr().unwrap().port());
        let read = async {
            // No byte is on its way, and none waits there.
            while queue(ports).is_some_and(|(sending, _)| sending > 0)
                || queue((ports.1, ports.0)).is_some_and(|(_, unread)| unread > 0)
            {
                tokio::task::yield_now().await;
            }
        };
        within("the other side's reading", read).await;
    }

    /// The next message.
    ///
    /// # Panics
    /// At the end.
    pub async fn message(&mut self) -> SipMessage {
        self.next().await.expect("a message, and not the end")
    }

    /// The next message, which must be this response or request.
    ///
    /// # Panics
    /// When it is another.
    pub async fn expect(&mut self, kind: &str) -> SipMessage {
        let message = self.message().await;
        assert_eq!(message.kind(), kind, "{}", message.0);
        message
    }

    /// The next keep-alive between messages.
    ///
    /// # Panics
    /// When a message comes, or the end.
    pub async fn keep_alive(&mut self) -> &'static str {
        let next = async {
            loop {
                if let Some(keep_alive) = self.keep_alives.pop_front() {
                    return keep_alive;
                }
                assert!(self.read_some().await, "the end instead of a keep-alive");
                assert!(self.take().is_none(), "a message instead of a keep-alive");
            }
        };
        within("a keep-alive", next).await
    }

    /// Reads nothing any more, and keeps the connection.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match &self.wire {
            Wire::Stream(stream) => stream.socket(),
            Wire::WebSocket(socket) => socket.get_ref().socket(),
        }
    }

    async fn read_message(&mut self) -> Option<SipMessage> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            if !self.read_some().await {
                return None;
            }
        }
    }

    /// A whole message off the front of what was read.
    fn take(&mut self) -> Option<SipMessage> {
        loop {
            for (bytes, name) in [(&b"\r\n\r\n"[..], "ping"), (b"\r\n", "pong")] {
                // A ping may come in halves; the tests that ask for keep-alives send nothing of that kind.
                if self.read.starts_with(bytes) {
                    self.read.drain(..bytes.len());
                    self.keep_alives.push_back(name);
                }
            }
            if !self.read.starts_with(b"\r\n") {
                break;
            }
        }
        let head = self.read.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = String::from_utf8(self.read[..head].to_vec()).expect("text");
        let length: usize = SipMessage(text).field("Content-Length").parse().expect("a length");
        if self.read.len() < head + length {
            return None;
        }
        let whole: Vec<u8> = self.read.drain(..head + length).collect();
        Some(SipMessage(String::from_utf8(whole).expect("text")))
    }

    async fn read_some(&mut self) -> bool {
        match &mut self.wire {
            Wire::Stream(stream) => !matches!(stream.read_buf(&mut self.read).await, Ok(0) | Err(_)),
            Wire::WebSocket(socket) => loop {
                match socket.next().await {
                    Some(Ok(Frame::Text(text))) => {
                        self.read.extend_from_slice(text.as_bytes());
                        return true;
                    }
                    Some(Ok(Frame::Binary(_))) => panic!("UTF-8 goes as text"),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return false,
                }
            },
        }
    }
}

fn is_probe(message: &SipMessage) -> bool {
    message.start().starts_with("OPTIONS sip:127.0.0.")
}

/// A WebSocket that was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The status of the answer.
    pub status: u16,
    /// Its values of WWW-Authenticate.
    pub challenges: Vec<String>,
}

async fn socket_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(source.parse().expect("an address"), 0)).expect("an address of this machine");
    let socket = within("a connection", socket.connect(to)).await.expect("a connection");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    socket
}

/// What waits in the socket with these ports of 127.0.0.1, to be sent and to be read; `None`: it is gone.
fn queue((local, remote): (u16, u16)) -> Option<(u32, u32)> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let (local, remote) = (format!("0100007F:{local:04X}"), format!("0100007F:{remote:04X}"));
    let queues = table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let ours = words.next() == Some(&local) && words.next() == Some(&remote);
        if ours { words.nth(1) } else { None }
    })?;
    let (sending, unread) = queues.split_once(':')?;
    Some((u32::from_str_radix(sending, 16).ok()?, u32::from_str_radix(unread, 16).ok()?))
}

/// A scripted proxy: accepts the edge's connections.
pub struct SipUpstream {
    listener: TcpListener,
    scheme: Scheme,
    identity: Option<Identity>,
}

impl SipUpstream {
    /// On a free port. `Sips` and `Wss` are TLS, with the identity `relay` of the site.
    ///
    /// # Panics
    /// When there is none.
    pub async fn bind(scheme: Scheme, site: &Site) -> Self {
        Self::bind_at(scheme, site, "127.0.0.1:0").await
    }

    /// At an address.
    ///
    /// # Panics
    /// When it is taken.
    pub async fn bind_at(scheme: Scheme, site: &Site, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        Self { listener, scheme, identity: scheme.is_secure().then(|| site.identity("relay")) }
    }

    /// Its URI in the configuration.
    ///
    /// # Panics
    /// When the socket is gone.
    #[must_use]
    pub fn uri(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Sips => "sips",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
            _ => "sip",
        };
        let path = if scheme.starts_with('w') { "/proxy" } else { "" };
        format!("{scheme}://{}{path}", self.listener.local_addr().expect("an address"))
    }

    /// The next connection of the edge.
    ///
    /// # Panics
    /// When none comes.
    pub async fn accept(&self) -> SipPeer {
        within("the edge's connection", self.accept_now()).await
    }

    async fn accept_now(&self) -> SipPeer {
        let (socket, _) = self.listener.accept().await.expect("a connection");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        let stream = match &self.identity {
            None => Stream::Plain(socket),
            Some(identity) => tls_accept(identity, socket).await.expect("TLS"),
        };
        if !matches!(self.scheme, Scheme::Ws | Scheme::Wss) {
            return SipPeer::over(Wire::Stream(stream));
        }
        #[expect(clippy::result_large_err, reason = "as the library has it")]
        let check = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().path(), "/proxy");
            let protocol = request.headers()["Sec-WebSocket-Protocol"].clone();
            assert_eq!(protocol, "sip");
            response.headers_mut().append("Sec-WebSocket-Protocol", protocol);
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, check).await.expect("a WebSocket");
        SipPeer::over(Wire::WebSocket(Box::new(socket)))
    }
}
