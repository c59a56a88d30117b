//! Client domains: how we check those we connect to, and what we present to them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{PROVIDER, PeerCertificate, TlsConfigError, load};

/// A client domain as the configuration says it.
#[derive(Debug, Clone)]
pub struct ClientDomainSettings {
    /// Its name.
    pub name: String,
    /// PEM file: the CAs that servers are checked against; without one, the system's.
    pub ca_list: Option<PathBuf>,
    /// Verify the server: its chain, and that it is made for the host we wanted. Off accepts
    /// anything, also an attacker in the middle; it is for tests and logged at start.
    pub verify_cert: bool,
    /// PEM file: the certificate we present when asked; goes with `private_key`.
    pub certificate: Option<PathBuf>,
    /// PEM file: its private key (PKCS#8, PKCS#1 or SEC1).
    pub private_key: Option<PathBuf>,
}

impl ClientDomainSettings {
    /// A domain that verifies servers against the system's CAs and presents nothing.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ca_list: None, verify_cert: true, certificate: None, private_key: None }
    }
}

/// A loaded client domain.
pub struct ClientDomain {
    name: Arc<str>,
    config: Arc<ClientConfig>,
    verifier: Arc<HostVerifier>,
}

impl ClientDomain {
    /// Reads the files and builds the one rustls configuration that all connections of this domain
    /// share, with its session store.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not what it should be; a key that does not match, or
    /// is missing.
    pub fn load(settings: &ClientDomainSettings) -> Result<Self, TlsConfigError> {
        let refused = |source| TlsConfigError::Refused { domain: settings.name.clone(), source };
        let identity = match (&settings.certificate, &settings.private_key) {
            (Some(certificate), Some(key)) => Some(load::identity(certificate, key)?),
            (None, None) => None,
            _ => return Err(TlsConfigError::HalfIdentity { domain: settings.name.clone() }),
        };
        let roots = if settings.verify_cert {
            load::roots(&settings.name, settings.ca_list.as_deref())?
        } else {
            tracing::warn!(
                tls_domain = settings.name,
                "verify_cert is off: any server is accepted, whoever it is"
            );
            Arc::new(RootCertStore::empty())
        };
        let verifier = Arc::new(HostVerifier::new(roots, settings.verify_cert).map_err(refused)?);
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let config = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
            None => builder.with_no_client_auth(),
        };
        Ok(Self { name: settings.name.as_str().into(), config: Arc::new(config), verifier })
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// What the chain of a finished handshake is worth now.
    ///
    /// # Errors
    /// A resumed session's certificate has ceased to verify (expired, most likely).
    pub(super) fn judge(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        host: &ServerName<'_>,
    ) -> Result<PeerCertificate, rustls::Error> {
        let Some([certificate, intermediates @ ..]) = chain else { return Ok(PeerCertificate::None) };
        if !self.verifier.enforce {
            return Ok(PeerCertificate::Unverified { reason: "verify_cert is off".into() });
        }
        self.verifier.check(certificate, intermediates, host, &[], UnixTime::now())?;
        Ok(PeerCertificate::verified(certificate))
    }
}

impl fmt::Debug for ClientDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientDomain").field("name", &self.name).finish_non_exhaustive()
    }
}

/// webpki's rules for servers, switched off by `verify_cert: false`. The server proves in either
/// case that it holds its key.
struct HostVerifier {
    /// `None`: there is no CA at all, so no certificate verifies (webpki wants one at least).
    webpki: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    enforce: bool,
}

impl HostVerifier {
    fn new(roots: Arc<RootCertStore>, enforce: bool) -> Result<Self, rustls::Error> {
        let webpki = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(roots, PROVIDER.clone());
            Some(builder.build().map_err(|e| rustls::Error::General(e.to_string()))?)
        };
        Ok(Self { webpki, algorithms: PROVIDER.signature_verification_algorithms, enforce })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match &self.webpki {
            Some(webpki) => {
                webpki.verify_server_cert(certificate, intermediates, host, ocsp, now).map(|_| ())
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

impl fmt::Debug for HostVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostVerifier").field("enforce", &self.enforce).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for HostVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.enforce {
            self.check(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
