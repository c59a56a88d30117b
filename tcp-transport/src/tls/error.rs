//! What can go wrong: in the configuration, and in a handshake.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// A TLS domain that cannot be loaded. Each variant names the domain's file and the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key does not belong to the certificate.
    #[error("the key in {} does not match the certificate in {}", private_key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        private_key: PathBuf,
    },
    /// A client domain has a certificate without a key, or a key without a certificate.
    #[error("TLS domain {domain}: `certificate` and `private_key` go together; only one is set")]
    HalfIdentity {
        /// The domain.
        domain: String,
    },
    /// Two domains of one kind have the same name.
    #[error("TLS domain {domain} is defined twice")]
    Duplicate {
        /// The domain.
        domain: String,
    },
    /// No suite of `ciphers_list` belongs to a version of `tls_method`.
    #[error("TLS domain {domain}: no suite in `ciphers_list` is one of {tls_method} (`tls_method`)")]
    NoSuite {
        /// The domain.
        domain: String,
        /// The versions it speaks.
        tls_method: super::TlsMethod,
    },
    /// rustls refuses what it was given.
    #[error("TLS domain {domain}: {source}")]
    Refused {
        /// The domain.
        domain: String,
        /// Why.
        source: rustls::Error,
    },
}

/// A handshake that did not come to its end, in words for an operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer took too long; our `tls_handshake_timeout` ended it.
    #[error("TLS handshake not complete after {0:?}")]
    Timeout(Duration),
    /// The peer does not speak TLS.
    #[error("not TLS: first bytes {}", quoted(first_bytes))]
    NotTls {
        /// What it sent first; empty where that is not known (outbound connections).
        first_bytes: Vec<u8>,
    },
    /// The peer closed the connection in the middle.
    #[error("peer closed the connection during the TLS handshake")]
    Closed,
    /// No server domain serves this name on this listener.
    #[error("no TLS domain for server name {} on {listener}", sni.as_deref().unwrap_or("(none)"))]
    NoDomain {
        /// The name the client asked for (SNI).
        sni: Option<String>,
        /// The listener's address.
        listener: std::net::SocketAddr,
    },
    /// The domain requires a certificate, and the client has none.
    #[error("the TLS domain requires a client certificate and the client presented none")]
    CertificateRequired,
    /// The peer's certificate does not verify.
    #[error("peer certificate refused: {0}")]
    PeerCertificate(String),
    /// The peer refused us, by a TLS alert.
    #[error("peer refused the TLS handshake: {}", alert(*.0))]
    Alert(AlertDescription),
    /// The host is neither a DNS name nor an IP literal, so no certificate can be checked against it.
    #[error("{0:?} is not a name a certificate can be checked against")]
    InvalidName(String),
    /// Nothing in common, or the peer broke TLS.
    #[error("TLS handshake failed: {0}")]
    Tls(rustls::Error),
    /// The socket failed.
    #[error("TLS handshake failed: {0}")]
    Io(io::Error),
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                Self::NotTls { first_bytes: Vec::new() }
            }
            rustls::Error::NoCertificatesPresented => Self::CertificateRequired,
            rustls::Error::InvalidCertificate(e) => Self::PeerCertificate(certificate_reason(&e)),
            rustls::Error::AlertReceived(alert) => Self::Alert(alert),
            other => Self::Tls(other),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Closed;
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => tls.clone().into(),
            None => Self::Io(error),
        }
    }
}

/// Why a certificate does not verify, for logs.
pub(super) fn certificate_reason(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => "not issued by a known CA".into(),
        E::Expired | E::ExpiredContext { .. } => "expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => "not valid yet".into(),
        E::Revoked => "revoked".into(),
        E::UnknownRevocationStatus => "no CRL in crl_dir speaks for its issuer".into(),
        E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
            "the CRL of its issuer has expired".into()
        }
        E::BadEncoding => "not a well-formed certificate".into(),
        E::BadSignature => "its signature is not its issuer's".into(),
        E::NotValidForName => "made for another host".into(),
        E::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            format!("it names no host in subjectAltName, {} is wanted", expected.to_str())
        }
        E::NotValidForNameContext { expected, presented } => {
            format!("made for {}, not for {}", presented.join(", "), expected.to_str())
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "its extended key usage does not allow this use".into()
        }
        other => format!("{other:?}"),
    }
}

fn alert(description: AlertDescription) -> String {
    description.as_str().map_or_else(|| format!("alert {}", u8::from(description)), str::to_owned)
}

fn quoted(bytes: &[u8]) -> String {
    if bytes.is_empty() { "(unknown)".into() } else { format!("\"{}\"", bytes.escape_ascii()) }
}
