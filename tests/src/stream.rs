//! A client's connection: plain, TLS, or WebSocket over one of them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{Identity, Site, WebSocket};

/// A connection.
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<Socket>>),
    /// WebSocket over one of those.
    WebSocket(Box<WebSocket>),
}

impl Stream {
    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.get_ref().0.tcp,
            Self::WebSocket(websocket) => websocket.stream().socket(),
        }
    }

    /// This end's address.
    ///
    /// # Panics
    /// When the socket is gone.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket().local_addr().expect("local address")
    }

    /// Ends it with RST.
    ///
    /// # Panics
    /// When the socket is gone.
    pub fn reset(self) {
        set_reset(self.socket());
    }
}

/// The first bytes of a ClientHello.
pub const CLIENT_HELLO: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];

/// Makes the socket's close a reset.
pub(crate) fn set_reset(socket: &TcpStream) {
    socket.set_zero_linger().expect("SO_LINGER");
}

/// A client's TLS configuration: the site's authority, and a certificate or none.
///
/// # Panics
/// When the files are not there.
#[must_use]
pub fn tls_config(site: &Site, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots(site));
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = load(identity);
            builder.with_client_auth_cert(chain, key).expect("client certificate")
        }
    };
    Arc::new(config)
}

/// A TLS handshake as client for `host`.
///
/// # Errors
/// When it fails.
pub async fn tls_handshake(config: Arc<ClientConfig>, socket: TcpStream, host: &str) -> io::Result<Stream> {
    connect(config, Socket { tcp: socket, record: None }, host).await
}

/// As [`tls_handshake`], and every read gives the content of one TLS record, or of a part of one.
///
/// # Errors
/// When it fails.
pub async fn tls_record_by_record(
    config: Arc<ClientConfig>,
    socket: TcpStream,
    host: &str,
) -> io::Result<Stream> {
    connect(config, Socket { tcp: socket, record: Some(Record::default()) }, host).await
}

async fn connect(config: Arc<ClientConfig>, socket: Socket, host: &str) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).expect("a host name");
    let stream = TlsConnector::from(config).connect(name, socket).await?;
    Ok(Stream::Tls(Box::new(stream.into())))
}

/// A TLS handshake as server.
pub(crate) async fn tls_accept(identity: &Identity, socket: TcpStream) -> io::Result<Stream> {
    let (chain, key) = load(identity);
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("server certificate");
    let stream = TlsAcceptor::from(Arc::new(config)).accept(Socket { tcp: socket, record: None }).await?;
    Ok(Stream::Tls(Box::new(stream.into())))
}

/// What is under TLS: a socket that may be read record by record.
pub struct Socket {
    tcp: TcpStream,
    record: Option<Record>,
}

impl Socket {
    /// The socket.
    pub fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }
}

/// Where in a record the reading stands.
#[derive(Default)]
struct Record {
    /// Of the next record, as far as it has been read.
    header: Vec<u8>,
    /// What is left of the current one.
    left: usize,
    /// It has been read: who asks on within the same read is told to come again.
    done: bool,
}

/// Type, version and length (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, record } = self.get_mut();
        let Some(record) = record else { return Pin::new(tcp).poll_read(cx, buf) };
        if std::mem::take(&mut record.done) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let wanted = if record.left > 0 { record.left } else { RECORD_HEADER - record.header.len() };
        let mut part = vec![0; wanted.min(buf.remaining())];
        let mut part = ReadBuf::new(&mut part);
        ready!(Pin::new(tcp).poll_read(cx, &mut part))?;
        let part = part.filled();
        buf.put_slice(part);
        if record.left > 0 {
            record.left -= part.len();
            record.done = record.left == 0;
        } else {
            record.header.extend_from_slice(part);
            if let [_, _, _, high, low] = record.header[..] {
                record.left = usize::from(u16::from_be_bytes([high, low]));
                record.header.clear();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(site: &Site) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(site.path("ca.pem")).expect("ca.pem");
    roots.add(authority).expect("the authority");
    roots
}

fn load(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::from_pem_file(&identity.certificate).expect("certificate");
    (vec![chain], PrivateKeyDer::from_pem_file(&identity.key).expect("key"))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::WebSocket(websocket) => Pin::new(websocket).poll_shutdown(cx),
        }
    }
}
