//! Reading certificates and keys from PEM files, with errors that name file and reason.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, RootCertStore};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{CertificateRevocationList as X509Crl, FromDer as _, X509Version};

use super::certificate::{CertificateFacts, system_time};
use super::expiry::{Expiry, ExpiryKind};
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
pub(super) struct Identity {
    pub(super) key: Arc<CertifiedKey>,
    /// Of its first certificate.
    pub(super) facts: Option<Arc<CertificateFacts>>,
    /// Of all its certificates.
    pub(super) expiries: Vec<Expiry>,
}

impl Identity {
    pub(super) fn load(certificate: &Path, key: &Path) -> Result<Self, TlsConfigError> {
        let chain = certificates(certificate)?;
        let key_der = private_key(key)?;
        let signing = PROVIDER
            .key_provider
            .load_private_key(key_der)
            .map_err(|e| content(key, format!("the private key cannot be used: {e}")))?;
        let identity = CertifiedKey::new(chain, signing);
        match identity.keys_match() {
            // "Unknown": a key that does not tell its public half cannot be compared; rustls accepts it too.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(TlsConfigError::KeyMismatch {
                    certificate: certificate.into(),
                    private_key: key.into(),
                });
            }
            Err(e) => return Err(content(certificate, format!("the certificate cannot be used: {e}"))),
        }
        let expiries = identity
            .cert
            .iter()
            .filter_map(|link| certificate_expiry(link, certificate, ExpiryKind::Certificate))
            .collect();
        let facts = identity.cert.first().and_then(|own| CertificateFacts::of(own).ok()).map(Arc::new);
        Ok(Self { key: Arc::new(identity), facts, expiries })
    }
}

/// Where a domain takes its CAs and CRLs from.
#[derive(Debug, Clone, Copy)]
pub(super) struct TrustFiles<'a> {
    pub(super) domain: &'a str,
    pub(super) ca_list: Option<&'a Path>,
    pub(super) ca_dir: Option<&'a Path>,
    pub(super) crl_dir: Option<&'a Path>,
    pub(super) crl_check_all: bool,
}

/// Whom a domain believes, and whom not any more.
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    /// The subjects of `ca_list`, to be sent as a hint to clients. Those of a directory, or of the
    /// system, would be kilobytes in every handshake; no hint means "send what you have".
    pub(super) hints: Vec<DistinguishedName>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
    pub(super) crl_check_all: bool,
    pub(super) expiries: Vec<Expiry>,
}

impl Trust {
    /// Nobody is believed, nobody is asked.
    pub(super) fn nobody() -> Self {
        Self {
            roots: Arc::new(RootCertStore::empty()),
            hints: Vec::new(),
            crls: Vec::new(),
            crl_check_all: false,
            expiries: Vec::new(),
        }
    }

    /// Reads the CAs of `ca_list` and `ca_dir` together, or the system's where there is neither, and
    /// the CRLs of `crl_dir`.
    pub(super) fn load(files: TrustFiles<'_>) -> Result<Self, TlsConfigError> {
        let mut expiries = Vec::new();
        let mut hints = Vec::new();
        let mut roots = RootCertStore::empty();
        if let Some(path) = files.ca_list {
            for (index, certificate) in certificates(path)?.into_iter().enumerate() {
                expiries.extend(certificate_expiry(&certificate, path, ExpiryKind::Authority));
                roots.add(certificate).map_err(|e| {
                    content(path, format!("certificate {} cannot be used as a CA: {e}", index + 1))
                })?;
            }
            hints = roots.subjects();
        }
        if let Some(directory) = files.ca_dir {
            directory_roots(directory, &mut roots, &mut expiries)?;
        }
        if files.ca_list.is_none() && files.ca_dir.is_none() {
            roots = system_roots(files.domain);
        }
        let roots = Arc::new(roots);
        let mut crls = Vec::new();
        if let Some(directory) = files.crl_dir {
            crls = directory_crls(directory, &roots, &mut expiries)?;
        }
        Ok(Self { roots, hints, crls, crl_check_all: files.crl_check_all, expiries })
    }

    /// What is trusted, for finding out whether it has changed.
    pub(super) fn add_to(&self, digest: &mut Sha256) {
        for root in &self.roots.roots {
            digest.update(&root.subject);
            digest.update(&root.subject_public_key_info);
        }
        for crl in &self.crls {
            digest.update(crl);
        }
    }
}

/// The regular files of a directory, in the order of their names. Sub-directories and hidden files
/// are not looked into; symbolic links are, since that is how OpenSSL hashes a directory.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, TlsConfigError> {
    let failed = |source| TlsConfigError::File { path: directory.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The CAs of a directory: every certificate of every file, each once. A file without one (a CRL, a
/// note) is passed over; so is, with a word in the log, one that is no CA for us, since such a
/// directory is often the system's or shared.
fn directory_roots(
    directory: &Path,
    roots: &mut RootCertStore,
    expiries: &mut Vec<Expiry>,
) -> Result<(), TlsConfigError> {
    let mut seen = HashSet::new();
    for path in files_of(directory)? {
        for certificate in CertificateDer::pem_slice_iter(&read(&path)?) {
            let certificate = certificate.map_err(|e| content(&path, format!("not valid PEM: {e}")))?;
            if !seen.insert(certificate.clone()) {
                continue;
            }
            match roots.add(certificate.clone()) {
                Ok(()) => expiries.extend(certificate_expiry(&certificate, &path, ExpiryKind::Authority)),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a certificate cannot be used as a CA");
                }
            }
        }
    }
    if seen.is_empty() {
        return Err(content(directory, "no certificate in any of its files (PEM `BEGIN CERTIFICATE`)"));
    }
    Ok(())
}

/// The CRLs of a directory. A file without one is passed over.
fn directory_crls(
    directory: &Path,
    roots: &Arc<RootCertStore>,
    expiries: &mut Vec<Expiry>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
    let mut crls = Vec::new();
    for path in files_of(directory)? {
        for crl in CertificateRevocationListDer::pem_slice_iter(&read(&path)?) {
            let crl = crl.map_err(|e| content(&path, format!("not valid PEM: {e}")))?;
            let (_, parsed) =
                X509Crl::from_der(&crl).map_err(|e| content(&path, format!("not a well-formed CRL: {e}")))?;
            if parsed.version() != Some(X509Version(1)) {
                let reason = "a CRL of version 1, but version 2 is wanted (RFC 5280 §5.1.2.1; with `openssl ca`, \
                              set `crlnumber` and `crl_extensions`)";
                return Err(content(&path, reason));
            }
            check_crl(&crl, roots).map_err(|reason| content(&path, reason))?;
            expiries.extend(parsed.next_update().map(|at| Expiry {
                kind: ExpiryKind::Crl,
                name: parsed.issuer().to_string(),
                file: path.clone(),
                at: system_time(at),
            }));
            if !crls.contains(&crl) {
                crls.push(crl);
            }
        }
    }
    if crls.is_empty() {
        return Err(content(directory, "no CRL in any of its files (PEM `BEGIN X509 CRL`)"));
    }
    Ok(crls)
}

/// Whether webpki takes a CRL, by itself: with all of them together it does not tell which one it refuses.
fn check_crl(crl: &CertificateRevocationListDer<'static>, roots: &Arc<RootCertStore>) -> Result<(), String> {
    if roots.is_empty() {
        // Nothing verifies, and webpki makes no verifier.
        return Ok(());
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), PROVIDER.clone());
    match verifier.with_crls([crl.clone()]).build() {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("a CRL that cannot be used: {e}")),
    }
}

/// When a certificate ends. One that cannot be read is judged elsewhere.
pub(super) fn certificate_expiry(
    certificate: &CertificateDer<'_>,
    file: &Path,
    kind: ExpiryKind,
) -> Option<Expiry> {
    let facts = CertificateFacts::of(certificate).ok()?;
    Some(Expiry { kind, name: facts.subject.name, file: file.into(), at: facts.not_after })
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
            "no ca_list, no ca_dir and no CA certificates in the system: no peer certificate will verify"
        );
    } else {
        tracing::debug!(tls_domain = domain, count = roots.len(), ignored, "system CA certificates loaded");
    }
    roots
}
