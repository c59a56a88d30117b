//! Both sides of the handshake: a connected socket goes in, a [`Stream`] comes out.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::peer::parse_ip;
use super::{ClientDomain, HandshakeError, ServerDomains, TlsInfo};
use crate::stream::Stream;

/// `tls_handshake_timeout`, in and out: 5 s. Two round trips of a bad mobile link fit many times
/// over; a peer that needs longer holds a descriptor for nothing. (tls_mgm's default is 100 ms,
/// which is for a blocking process, not for us.)
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a peer that does not speak TLS that are quoted in the error.
const QUOTED_BYTES: usize = 16;

/// Every TLS conversation starts with a record of this type (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// A fatal `unrecognized_name` alert (RFC 6066 §3). rustls has no configuration yet to make one from.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The server's side of a handshake on an accepted socket. The TLS domain is chosen by
/// [`ServerDomains::select`], with `tls_domain` as the listener's own.
///
/// # Errors
/// A [`HandshakeError`]; the socket is closed then.
pub async fn accept(
    tcp: TcpStream,
    peer: SocketAddr,
    domains: &ServerDomains,
    tls_domain: Option<&str>,
    limit: Duration,
) -> Result<Stream, HandshakeError> {
    tokio::time::timeout(limit, accept_unlimited(tcp, peer, domains, tls_domain))
        .await
        .unwrap_or(Err(HandshakeError::Timeout(limit)))
}

async fn accept_unlimited(
    tcp: TcpStream,
    peer: SocketAddr,
    domains: &ServerDomains,
    tls_domain: Option<&str>,
) -> Result<Stream, HandshakeError> {
    let mut first = [0; QUOTED_BYTES];
    let n = tcp.peek(&mut first).await.map_err(HandshakeError::Io)?;
    match first[..n] {
        [] => return Err(HandshakeError::Closed),
        [HANDSHAKE_RECORD, ..] => {}
        ref plain => return Err(HandshakeError::NotTls { first_bytes: plain.to_vec() }),
    }

    let listener = tcp.local_addr().map_err(HandshakeError::Io)?;
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
    let sni = start.client_hello().server_name().map(str::to_owned);
    let Some(domain) = domains.select(listener, tls_domain, sni.as_deref()) else {
        // As much courtesy as the socket takes; the error is ours to report in any case.
        let _ = start.io.try_write(&UNRECOGNIZED_NAME);
        return Err(HandshakeError::NoDomain { sni, listener });
    };
    let (tcp, session) = start.into_stream(domain.config()).await?.into_inner();

    let judged = domain.judge(session.peer_certificates());
    if domain.requires_certificate() && !judged.peer.is_verified() {
        // Only a resumed session comes here: its certificate was good when the session was made.
        return Err(match judged.peer {
            super::PeerCertificate::Unverified { reason } => HandshakeError::PeerCertificate(reason),
            _ => HandshakeError::CertificateRequired,
        });
    }
    let info = TlsInfo::new(domain.shared_name(), domain.own(), &session, sni, judged);
    Stream::secured(tcp, peer, session.into(), info).map_err(HandshakeError::Io)
}

/// The client's side of a handshake with `host`, the name or IP literal that was wanted, whatever
/// address it led to.
///
/// # Errors
/// A [`HandshakeError`]; the socket is closed then.
pub async fn connect(
    tcp: TcpStream,
    peer: SocketAddr,
    domain: &ClientDomain,
    host: &str,
    limit: Duration,
) -> Result<Stream, HandshakeError> {
    let name = server_name(host)?;
    let handshake = async {
        let (tcp, session) =
            TlsConnector::from(domain.config()).connect(name.clone(), tcp).await?.into_inner();
        let judged = domain.judge(session.peer_certificates(), &name)?;
        let sni = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let info = TlsInfo::new(domain.shared_name(), domain.own(), &session, sni, judged);
        Stream::secured(tcp, peer, session.into(), info).map_err(HandshakeError::Io)
    };
    tokio::time::timeout(limit, handshake).await.unwrap_or(Err(HandshakeError::Timeout(limit)))
}

/// The name a server's certificate is checked against.
fn server_name(host: &str) -> Result<ServerName<'static>, HandshakeError> {
    if let Some(ip) = parse_ip(host) {
        return Ok(ServerName::IpAddress(ip.to_canonical().into()));
    }
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned())
        .map_err(|_| HandshakeError::InvalidName(host.to_owned()))
}
