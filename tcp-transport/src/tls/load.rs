//! Reading certificates and keys from PEM files, with errors that name file and reason.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{PROVIDER, TlsConfigError};

fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    fs::read(path).map_err(|source| TlsConfigError::File { path: path.into(), source })
}

fn content(path: &Path, reason: impl Into<String>) -> TlsConfigError {
    TlsConfigError::Content { path: path.into(), reason: reason.into() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let chain = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| content(path, format!("not valid PEM: {e}")))?;
    if chain.is_empty() {
        return Err(content(path, "no certificate in it (PEM `BEGIN CERTIFICATE`)"));
    }
    Ok(chain)
}

/// The first private key of a file: PKCS#8, PKCS#1 (RSA) or SEC1 (EC).
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|e| match e {
        PemError::NoItemsFound if pem.windows(9).any(|w| w == b"ENCRYPTED") => {
            content(path, "the private key is encrypted; decrypt it first (`openssl pkey`)")
        }
        PemError::NoItemsFound => content(path, "no private key in it (PEM PKCS#8, PKCS#1 or SEC1)"),
        e => content(path, format!("not valid PEM: {e}")),
    })
}

/// A certificate chain with the key of its first certificate.
pub(super) fn identity(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsConfigError> {
    let chain = certificates(certificate)?;
    let key_der = private_key(key)?;
    let signing = PROVIDER
        .key_provider
        .load_private_key(key_der)
        .map_err(|e| content(key, format!("the private key cannot be used: {e}")))?;
    let identity = CertifiedKey::new(chain, signing);
    match identity.keys_match() {
        // "Unknown": a key that does not tell its public half cannot be compared; rustls accepts it too.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Arc::new(identity))
        }
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsConfigError::KeyMismatch { certificate: certificate.into(), private_key: key.into() })
        }
        Err(e) => Err(content(certificate, format!("the certificate cannot be used: {e}"))),
    }
}

/// The CAs of `ca_list`, or the system's where there is none.
pub(super) fn roots(domain: &str, ca_list: Option<&Path>) -> Result<Arc<RootCertStore>, TlsConfigError> {
    ca_list.map_or_else(|| Ok(system_roots(domain)), file_roots).map(Arc::new)
}

fn file_roots(path: &Path) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|e| content(path, format!("certificate {} cannot be used as a CA: {e}", index + 1)))?;
    }
    Ok(roots)
}

/// The system's CAs. A machine without any is no error: it may never meet a peer that needs one.
fn system_roots(domain: &str) -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(tls_domain = domain, %error, "system CA certificates");
    }
    let mut roots = RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::info!(
            tls_domain = domain,
            "no ca_list and no CA certificates in the system: no peer certificate will verify"
        );
    } else {
        tracing::debug!(tls_domain = domain, count = roots.len(), ignored, "system CA certificates loaded");
    }
    roots
}
