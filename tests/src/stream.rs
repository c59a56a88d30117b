//! A client's connection, plain or TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{Identity, Site};

/// A connection.
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
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
    let stream = TlsAcceptor::from(Arc::new(config)).accept(socket).await?;
    Ok(Stream::Tls(Box::new(stream.into())))
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
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
