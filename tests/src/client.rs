//! An MSRP endpoint that writes and reads single messages, right or wrong as the test wants them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use msrp_proto::decoder::{Decoder, Event, Limits};
use msrp_proto::digest::{Answer, Authorization, Challenge, Secret};
use msrp_proto::flag::Flag;
use msrp_proto::head::Head;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::stream::tls_accept;
use crate::{
    Content, Daemon, Identity, Message, Scheme, Send, Site, Stream, WebSocket, tls_config, tls_handshake,
    within,
};

/// How much of a file is written at once.
const PIECE: usize = 64 * 1024;

/// Numbers everything that must differ from everything else in this process.
static NUMBER: AtomicU64 = AtomicU64::new(1);

fn number() -> u64 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// An endpoint on one connection. Its halves can be used at the same time.
pub struct Client {
    /// What it sends.
    pub tx: Sender,
    /// What it receives.
    pub rx: Receiver,
    relay: String,
    local: SocketAddr,
}

/// The writing half.
pub struct Sender {
    half: WriteHalf<Stream>,
    uri: String,
}

/// The reading half.
pub struct Receiver {
    half: ReadHalf<Stream>,
    buffer: BytesMut,
    decoder: Decoder,
}

/// What an AUTH gave, or a peer's URI: how others reach an endpoint, and it others.
#[derive(Clone, Debug)]
pub struct Session {
    /// The relays, the endpoint's own first.
    pub use_path: Vec<String>,
    /// The endpoint.
    pub uri: String,
}

impl Session {
    /// An endpoint without a relay.
    #[must_use]
    pub fn without_relay(uri: &str) -> Self {
        Self { use_path: Vec::new(), uri: uri.to_owned() }
    }

    /// The path that leads to it: what it would say in its SDP.
    #[must_use]
    pub fn inward(&self) -> Vec<String> {
        self.use_path.iter().rev().chain([&self.uri]).cloned().collect()
    }

    /// The whole path from this endpoint to another one.
    #[must_use]
    pub fn to(&self, other: &Self) -> Vec<String> {
        self.use_path.iter().cloned().chain(other.inward()).collect()
    }
}

impl Client {
    /// Connects to a listener of `daemon`, for TLS without a certificate of its own.
    ///
    /// # Panics
    /// When that fails.
    pub async fn connect(daemon: &Daemon, site: &Site, scheme: Scheme) -> Self {
        Self::connect_with(daemon, tls_config(site, None), scheme).await
    }

    /// Connects to a listener of `daemon`.
    ///
    /// # Panics
    /// When that fails.
    pub async fn connect_with(daemon: &Daemon, config: Arc<ClientConfig>, scheme: Scheme) -> Self {
        Self::try_connect(daemon, daemon.address(scheme), config, scheme).await.expect("connect")
    }

    /// Connects to a listener of `daemon` by way of `address`.
    ///
    /// # Errors
    /// When TCP, or a handshake over it, fails.
    pub async fn try_connect(
        daemon: &Daemon,
        address: SocketAddr,
        config: Arc<ClientConfig>,
        scheme: Scheme,
    ) -> io::Result<Self> {
        let socket = within("a connection", TcpStream::connect(address)).await?;
        socket.set_nodelay(true)?;
        let mut stream = if scheme.is_secure() {
            let handshake = tls_handshake(config, socket, daemon.domain());
            within("a TLS handshake", handshake).await?
        } else {
            Stream::Plain(socket)
        };
        if matches!(scheme, Scheme::Ws | Scheme::Wss) {
            let url = daemon.websocket_url(scheme);
            let handshake = WebSocket::open(stream, &url, &[("Sec-WebSocket-Protocol", "msrp")]);
            let (websocket, _) =
                within("a WebSocket handshake", handshake).await.map_err(io::Error::other)?;
            stream = Stream::WebSocket(Box::new(websocket));
        }
        let uri = format!("{}://c{}.invalid:2855/s;{}", scheme.as_str(), number(), scheme.transport());
        Ok(Self::over(stream, &uri, &daemon.uri(scheme)))
    }

    /// Obtains a session, over a connection that may break.
    ///
    /// # Errors
    /// When it does, or the answer is another one.
    pub async fn try_session(&mut self, user: &str, password: &str) -> io::Result<Session> {
        let to = [self.relay.clone()];
        let refused = self.try_request("AUTH", &to, "").await?;
        let challenge = Challenge::strongest(refused.headers("WWW-Authenticate"));
        let challenge = challenge.map_err(|_| io::Error::other(format!("{refused:?}")))?;
        let authorization = authorization(&challenge, &to, user, password, 1);
        let granted = self.try_request("AUTH", &to, &format!("Authorization: {authorization}\r\n")).await?;
        if granted.status() != 200 {
            return Err(io::Error::other(format!("{granted:?}")));
        }
        Ok(self.session(&granted))
    }

    /// Sends a request without a body, and gives the next message, over a connection that may break.
    ///
    /// # Errors
    /// When it does.
    pub async fn try_request(&mut self, method: &str, to: &[String], headers: &str) -> io::Result<Message> {
        let transaction = self.tx.transaction();
        self.tx.try_raw(self.tx.request_text(method, to, headers, &transaction).as_bytes()).await?;
        self.rx.try_next().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// An endpoint on a connection that is there.
    #[must_use]
    pub fn over(stream: Stream, uri: &str, relay: &str) -> Self {
        let local = stream.local_addr();
        let (rx, tx) = tokio::io::split(stream);
        // A client takes what the relay may send: paths are longer after it than before.
        let limits = Limits { head_bytes: 1 << 20, headers: 10_000, ..Limits::default() };
        Self {
            tx: Sender { half: tx, uri: uri.to_owned() },
            rx: Receiver { half: rx, buffer: BytesMut::new(), decoder: Decoder::new(limits) },
            relay: relay.to_owned(),
            local,
        }
    }

    /// Its URI.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.tx.uri
    }

    /// Its address, as the relay logs it.
    #[must_use]
    pub fn address(&self) -> String {
        self.local.to_string()
    }

    /// Its URI as a path without relays.
    #[must_use]
    pub fn without_relay(&self) -> Session {
        Session::without_relay(self.uri())
    }

    /// The URI it sends AUTH requests to.
    #[must_use]
    pub fn relay_uri(&self) -> &str {
        &self.relay
    }

    /// Connects to a listener of `daemon` and obtains a session as `user`, whose password the
    /// [settings](crate::Settings) make of the name.
    ///
    /// # Panics
    /// When it does not get one.
    pub async fn with_session(daemon: &Daemon, site: &Site, scheme: Scheme, user: &str) -> (Self, Session) {
        let mut client = Self::connect(daemon, site, scheme).await;
        let session = client.auth(user, &format!("{user}pw")).await;
        (client, session)
    }

    /// Obtains a session.
    ///
    /// # Panics
    /// When it does not get one.
    pub async fn auth(&mut self, user: &str, password: &str) -> Session {
        let to = [self.relay.clone()];
        self.auth_at(&to, user, password).await
    }

    /// Obtains a session of the relay at the end of a path.
    ///
    /// # Panics
    /// When it does not get one.
    pub async fn auth_at(&mut self, to: &[String], user: &str, password: &str) -> Session {
        let granted = self.try_auth_at(to, user, password).await;
        assert_eq!(granted.status(), 200, "{granted:?}");
        self.session(&granted)
    }

    /// The session that a 200 to an AUTH grants.
    #[must_use]
    pub fn session(&self, granted: &Message) -> Session {
        let use_path = granted.header("Use-Path").split(' ').map(str::to_owned).collect();
        Session { use_path, uri: self.uri().to_owned() }
    }

    /// Asks for a session, and gives the answer to the request with credentials.
    pub async fn try_auth_at(&mut self, to: &[String], user: &str, password: &str) -> Message {
        let challenge = self.challenge(to).await;
        self.answer(to, &challenge, user, password, "").await
    }

    /// The challenge to an AUTH without credentials: the strongest one.
    ///
    /// # Panics
    /// When it is not challenged.
    pub async fn challenge(&mut self, to: &[String]) -> Challenge {
        let refused = self.request("AUTH", to, "").await;
        assert_eq!(refused.status(), 401, "{refused:?}");
        Challenge::strongest(refused.headers("WWW-Authenticate")).expect("a challenge")
    }

    /// Sends an AUTH with the answer to a challenge and more header lines, and gives the response.
    pub async fn answer(
        &mut self,
        to: &[String],
        challenge: &Challenge,
        user: &str,
        password: &str,
        headers: &str,
    ) -> Message {
        let authorization = authorization(challenge, to, user, password, 1);
        self.request("AUTH", to, &format!("{headers}Authorization: {authorization}\r\n")).await
    }

    /// Sends a request without a body, and gives the response.
    pub async fn request(&mut self, method: &str, to: &[String], headers: &str) -> Message {
        let transaction = self.tx.request(method, to, headers).await;
        self.rx.response(&transaction).await
    }

    /// Sends a message, and gives the response.
    pub async fn send(&mut self, message: &Send) -> Message {
        let transaction = self.tx.send(message).await;
        self.rx.response(&transaction).await
    }

    /// Receives a SEND and answers it with 200.
    ///
    /// # Panics
    /// When something else arrives.
    pub async fn receive(&mut self) -> Message {
        let message = self.rx.next().await;
        assert_eq!(message.method(), "SEND", "{message:?}");
        self.tx.respond(&message, 200).await;
        message
    }

    /// Receives a REPORT.
    ///
    /// # Panics
    /// When something else arrives.
    pub async fn receive_report(&mut self) -> Message {
        let report = self.rx.next().await;
        assert_eq!(report.method(), "REPORT", "{report:?}");
        report
    }

    /// Ends it in order: TLS close_notify, then FIN.
    pub async fn close(self) {
        let mut stream = self.into_stream();
        // The other side may be gone already.
        let _ = within("a connection's end", stream.shutdown()).await;
    }

    /// Ends it with RST.
    pub fn reset(self) {
        self.into_stream().reset();
    }

    /// The connection alone.
    #[must_use]
    pub fn into_stream(self) -> Stream {
        self.rx.half.unsplit(self.tx.half)
    }
}

/// The credentials that answer a challenge.
///
/// # Panics
/// When the challenge cannot be answered.
fn authorization(challenge: &Challenge, to: &[String], user: &str, password: &str, nc: u32) -> String {
    let answer = Answer {
        username: user,
        secret: Secret::Password(password),
        method: "AUTH",
        digest_uri: to.last().expect("To-Path"),
        cnonce: "c1i3nt",
        nc,
        send_uri: false,
    };
    Authorization::answer(challenge, &answer).expect("credentials").to_string()
}

impl Sender {
    /// The endpoint's URI.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// When they cannot be written.
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.try_raw(bytes).await.expect("write");
    }

    /// Writes bytes, to someone who may have hung up.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn try_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.half.write_all(bytes).await?;
            self.half.flush().await
        };
        within("bytes to be written", write).await
    }

    /// Writes some of the bytes, and waits for that as long as it takes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.half.write(bytes).await?;
        self.half.flush().await?;
        Ok(written)
    }

    /// A transaction id that was never used.
    #[must_use]
    pub fn transaction(&self) -> String {
        format!("t{:011}", number())
    }

    /// Writes a request without a body, and gives its transaction id.
    pub async fn request(&mut self, method: &str, to: &[String], headers: &str) -> String {
        let transaction = self.transaction();
        let text = self.request_text(method, to, headers, &transaction);
        self.raw(text.as_bytes()).await;
        transaction
    }

    fn request_text(&self, method: &str, to: &[String], headers: &str, transaction: &str) -> String {
        format!(
            "MSRP {transaction} {method}\r\nTo-Path: {}\r\nFrom-Path: {}\r\n{headers}-------{transaction}$\r\n",
            to.join(" "),
            self.uri
        )
    }

    /// Writes a whole message as one chunk, and gives its transaction id.
    pub async fn send(&mut self, message: &Send) -> String {
        let transaction = self.transaction();
        let mut bytes = self.head_text(message, &transaction).into_bytes();
        bytes.extend_from_slice(&message.body);
        bytes.extend_from_slice(end_line(&transaction, Flag::Complete).as_bytes());
        self.raw(&bytes).await;
        transaction
    }

    /// Writes the head of a chunk up to its body, and gives its transaction id.
    pub async fn begin(&mut self, message: &Send) -> String {
        let transaction = self.transaction();
        let head = self.head_text(message, &transaction);
        self.raw(head.as_bytes()).await;
        transaction
    }

    /// Writes the end-line of a chunk with a body.
    pub async fn end(&mut self, transaction: &str, flag: Flag) {
        self.raw(end_line(transaction, flag).as_bytes()).await;
    }

    /// The head of a chunk up to its body.
    #[must_use]
    pub fn head_text(&self, message: &Send, transaction: &str) -> String {
        let len = message.body.len();
        let range = if message.range.is_empty() { format!("1-{len}/{len}") } else { message.range.clone() };
        format!(
            "MSRP {transaction} SEND\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: {}\r\nByte-Range: {range}\r\n\
             {}Content-Type: text/plain\r\n\r\n",
            message.to.join(" "),
            self.uri,
            message.message,
            message.headers
        )
    }

    /// Answers a request: a SEND to the previous hop, any other along its whole path.
    pub async fn respond(&mut self, request: &Message, status: u16) {
        self.try_respond(request, status).await.expect("write");
    }

    /// Answers a request of someone who may have hung up.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn try_respond(&mut self, request: &Message, status: u16) -> io::Result<()> {
        let back = match request.method() {
            "SEND" => request.from_path()[..1].join(" "),
            _ => request.head.from_path_text().to_owned(),
        };
        self.try_raw(response(&request.transaction(), &back, &self.uri, status).as_bytes()).await
    }

    /// Sends a REPORT on a message to its sender.
    pub async fn report(&mut self, message: &Message, status: u16) {
        let headers = format!(
            "Message-ID: {}\r\nByte-Range: {}\r\nStatus: 000 {status}\r\n",
            message.header("Message-ID"),
            message.range()
        );
        self.request("REPORT", &message.from_path(), &headers).await;
    }

    /// Sends a file as one message, in one chunk or in chunks of this size.
    pub async fn file(&mut self, message: &Send, content: &Content, chunk: Option<u64>) {
        let total = content.len();
        let chunk = chunk.unwrap_or(total);
        let mut pending = Vec::new();
        let mut sent = 0;
        while sent < total {
            let end = (sent + chunk).min(total);
            let transaction = self.transaction();
            let head = Send { range: format!("{}-{end}/{total}", sent + 1), ..message.clone() };
            pending.extend_from_slice(self.head_text(&head, &transaction).as_bytes());
            while sent < end {
                let piece =
                    content.piece(sent, usize::try_from(end - sent).map_or(PIECE, |left| left.min(PIECE)));
                pending.extend_from_slice(piece);
                sent += piece.len() as u64;
                if pending.len() >= PIECE {
                    self.raw(&pending).await;
                    pending.clear();
                }
            }
            let flag = if end == total { Flag::Complete } else { Flag::More };
            pending.extend_from_slice(end_line(&transaction, flag).as_bytes());
        }
        self.raw(&pending).await;
    }
}

fn end_line(transaction: &str, flag: Flag) -> String {
    format!("\r\n-------{transaction}{}\r\n", char::from(flag.as_byte()))
}

fn response(transaction: &str, to: &str, from: &str, status: u16) -> String {
    format!("MSRP {transaction} {status}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n-------{transaction}$\r\n")
}

impl Receiver {
    /// The next event, or none at the connection's orderly end.
    ///
    /// # Errors
    /// When the connection breaks, or what arrives is no MSRP.
    pub async fn event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.decoder.decode(&mut self.buffer).map_err(io::Error::other)? {
                return Ok(Some(event));
            }
            self.buffer.reserve(PIECE);
            if within("something to read", self.half.read_buf(&mut self.buffer)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// What one read gives, undecoded; empty at the connection's orderly end.
    ///
    /// # Panics
    /// When the connection breaks, or when something is decoded already and waits.
    pub async fn raw(&mut self) -> Vec<u8> {
        assert!(self.buffer.is_empty() && self.decoder.is_between_messages(), "messages wait");
        let mut bytes = Vec::with_capacity(PIECE);
        within("something to read", self.half.read_buf(&mut bytes)).await.expect("read");
        bytes
    }

    /// The next message, or none at the connection's orderly end.
    ///
    /// # Errors
    /// When the connection breaks, or what arrives is no MSRP.
    pub async fn try_next(&mut self) -> io::Result<Option<Message>> {
        let Some(event) = self.event().await? else { return Ok(None) };
        let Event::Head(head) = event else { panic!("{event:?} without a head") };
        let mut body = Vec::new();
        loop {
            match self.event().await?.ok_or(io::ErrorKind::UnexpectedEof)? {
                Event::Body(bytes) => body.extend_from_slice(&bytes),
                Event::End(flag) => return Ok(Some(Message { head, body, flag })),
                Event::Head(head) => panic!("{head:?} within a message"),
            }
        }
    }

    /// The next message.
    ///
    /// # Panics
    /// When the connection ends.
    pub async fn next(&mut self) -> Message {
        self.try_next().await.expect("read").expect("a message, and not the connection's end")
    }

    /// The next head; its body and end follow as events.
    ///
    /// # Panics
    /// When the connection ends.
    pub async fn head(&mut self) -> Head {
        match self.event().await.expect("read") {
            Some(Event::Head(head)) => head,
            other => panic!("{other:?} is not a head"),
        }
    }

    /// What is left of the chunk whose head was read, and its flag.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn rest_of_chunk(&mut self) -> (Vec<u8>, Flag) {
        let mut body = Vec::new();
        loop {
            match self.event().await.expect("read").expect("the end of a chunk") {
                Event::Body(bytes) => body.extend_from_slice(&bytes),
                Event::End(flag) => return (body, flag),
                Event::Head(head) => panic!("{head:?} within a message"),
            }
        }
    }

    /// The response to this request, which must be the next message.
    ///
    /// # Panics
    /// When another message comes.
    pub async fn response(&mut self, transaction: &str) -> Message {
        let message = self.next().await;
        assert_eq!((message.method(), message.transaction().as_str()), ("", transaction), "{message:?}");
        message
    }

    /// Reads on, and throws away, until a message is as wanted.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn until(&mut self, wanted: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.next().await;
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Reads to the connection's end, where no message may come any more.
    ///
    /// # Errors
    /// When it does not end in order: with a reset, or without TLS close_notify.
    ///
    /// # Panics
    /// When a message comes.
    pub async fn end(&mut self) -> io::Result<()> {
        match self.try_next().await? {
            None => Ok(()),
            Some(message) => panic!("the connection should have ended, and not brought {message:?}"),
        }
    }

    /// Reads to the connection's end, and gives what came before.
    ///
    /// # Errors
    /// When it does not end in order: with a reset, or without TLS close_notify.
    pub async fn rest_in_order(&mut self) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        while let Some(message) = self.try_next().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Reads to the connection's end, however it ends, and gives what came before.
    pub async fn rest(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Ok(Some(message)) = self.try_next().await {
            messages.push(message);
        }
        messages
    }

    /// Receives a file, in whatever chunks it comes, compares it, and answers the chunks over `tx`
    /// unless that is none. Other messages in between are given back, answered too.
    ///
    /// # Panics
    /// When it is not the file, or not whole.
    pub async fn file(&mut self, content: &Content, mut tx: Option<&mut Sender>) -> Vec<Message> {
        let mut others = Vec::new();
        let mut received = 0;
        while received < content.len() {
            let head = self.head().await;
            let start = head.byte_range().expect("Byte-Range").unwrap_or_default();
            let ours = start.total == Some(content.len());
            let mut place = start.start - 1;
            let mut body = Vec::new();
            let flag = loop {
                match self.event().await.expect("read").expect("the end of a chunk") {
                    Event::Body(bytes) if ours => {
                        content.check(place, &bytes);
                        place += bytes.len() as u64;
                        received += bytes.len() as u64;
                    }
                    Event::Body(bytes) => body.extend_from_slice(&bytes),
                    Event::End(flag) => break flag,
                    Event::Head(head) => panic!("{head:?} within a message"),
                }
            };
            let message = Message { head, body, flag };
            if let Some(tx) = tx.as_mut().filter(|_| message.method() == "SEND") {
                tx.respond(&message, 200).await;
            }
            if ours {
                let expected = if place == content.len() { Flag::Complete } else { Flag::More };
                assert_eq!(flag, expected, "{:?}", message.head);
                if let Some(end) = start.end {
                    assert_eq!(place, end, "the chunk is as long as its Byte-Range says");
                }
            } else {
                others.push(message);
            }
        }
        others
    }
}

/// A peer without a relay, which waits to be connected to.
pub struct Listener {
    socket: TcpListener,
    identity: Option<Identity>,
}

impl Listener {
    /// Listens on a free port of this address, plain or, with an identity, TLS.
    ///
    /// # Errors
    /// When the address is not there.
    pub async fn bind(address: &str, identity: Option<Identity>) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind((address, 0)).await?, identity })
    }

    /// Its port.
    ///
    /// # Panics
    /// When the socket is gone.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.socket.local_addr().expect("local address").port()
    }

    /// Its URI, with this host.
    #[must_use]
    pub fn uri(&self, host: &str) -> String {
        let scheme = if self.identity.is_some() { "msrps" } else { "msrp" };
        format!("{scheme}://{host}:{}/peer;tcp", self.port())
    }

    /// Waits for the relay's connection.
    ///
    /// # Panics
    /// When it does not come, or its TLS handshake fails.
    pub async fn accept(&self, uri: &str) -> Client {
        let socket = self.accept_socket().await;
        let stream = match &self.identity {
            None => Stream::Plain(socket),
            Some(identity) => {
                within("a TLS handshake", tls_accept(identity, socket)).await.expect("TLS handshake")
            }
        };
        Client::over(stream, uri, "")
    }

    /// Waits for the relay's connection, and leaves the TLS handshake undone.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn accept_socket(&self) -> TcpStream {
        within("the relay's connection", self.socket.accept()).await.expect("accept").0
    }

    /// Waits for a TLS handshake that fails.
    ///
    /// # Panics
    /// When it does not fail.
    pub async fn refuse(&self) {
        let socket = self.accept_socket().await;
        let identity = self.identity.as_ref().expect("a TLS listener");
        // In TLS 1.3 the client's refusal comes after the server is done.
        let Ok(mut stream) = within("a TLS handshake", tls_accept(identity, socket)).await else { return };
        let mut byte = [0];
        let read = within("the relay's refusal", stream.read(&mut byte)).await;
        assert!(
            read.is_err() || read.is_ok_and(|len| len == 0),
            "the relay goes on with a wrong certificate"
        );
    }
}
