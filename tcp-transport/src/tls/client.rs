//! Client domains: how we check those we connect to, and what we present to them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::domain::{Domain, Fingerprint, Parts};
use super::expiry::Expiry;
use super::load::{Identity, Trust, TrustFiles};
use super::negotiation::Negotiation;
use super::peer::Judged;
use super::{
    AddressPattern, CertificateFacts, CipherSuite, Curve, PROVIDER, SniPattern, TlsConfigError, TlsMethod,
};

/// A client domain as the configuration says it.
#[derive(Debug, Clone)]
pub struct ClientDomainSettings {
    /// Its name.
    pub name: String,
    /// PEM file: the CAs that servers are checked against; without it and `ca_dir`, the system's.
    pub ca_list: Option<PathBuf>,
    /// Directory of PEM files with more such CAs.
    pub ca_dir: Option<PathBuf>,
    /// Directory of PEM files with CRLs. With one, a server that none of them speaks for, or an
    /// expired one, is refused.
    pub crl_dir: Option<PathBuf>,
    /// Whether the CRLs are asked about the intermediates too, not about the server's certificate
    /// alone.
    pub crl_check_all: bool,
    /// The versions of TLS that are spoken.
    pub tls_method: TlsMethod,
    /// The cipher suites that are offered, the preferred one first; empty: all.
    pub ciphers_list: Vec<CipherSuite>,
    /// The groups for the key exchange, the preferred one first; empty: all, X25519 first.
    pub ec_curve: Vec<Curve>,
    /// Verify the server: its chain, and that it is made for the host we wanted. Off accepts
    /// anything, also an attacker in the middle; it is for tests and logged at start.
    pub verify_cert: bool,
    /// PEM file: the certificate we present when asked; goes with `private_key`.
    pub certificate: Option<PathBuf>,
    /// PEM file: its private key (PKCS#8, PKCS#1 or SEC1).
    pub private_key: Option<PathBuf>,
    /// Hosts this domain is for, as they were wanted. Empty: any. See
    /// [`ClientDomains::select`](super::ClientDomains::select) for these three.
    pub match_sip_domain: Vec<SniPattern>,
    /// Addresses this domain is for, as they are dialled. Empty: any.
    pub match_ip_address: Vec<AddressPattern>,
    /// Listeners this domain is for: what came in there goes out with it. Empty: any.
    pub match_listener: Vec<String>,
}

impl ClientDomainSettings {
    /// A domain that verifies servers against the system's CAs and presents nothing.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ca_list: None,
            ca_dir: None,
            crl_dir: None,
            crl_check_all: false,
            tls_method: TlsMethod::default(),
            ciphers_list: Vec::new(),
            ec_curve: Vec::new(),
            verify_cert: true,
            certificate: None,
            private_key: None,
            match_sip_domain: Vec::new(),
            match_ip_address: Vec::new(),
            match_listener: Vec::new(),
        }
    }
}

/// A loaded client domain.
pub struct ClientDomain {
    name: Arc<str>,
    config: Arc<ClientConfig>,
    verifier: Arc<HostVerifier>,
    parts: Parts,
    pub(super) match_sip_domain: Vec<SniPattern>,
    pub(super) match_ip_address: Vec<AddressPattern>,
    pub(super) match_listener: Vec<String>,
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
            (Some(certificate), Some(key)) => Some(Identity::load(certificate, key)?),
            (None, None) => None,
            _ => return Err(TlsConfigError::HalfIdentity { domain: settings.name.clone() }),
        };
        let trust = if settings.verify_cert {
            Trust::load(TrustFiles {
                domain: &settings.name,
                ca_list: settings.ca_list.as_deref(),
                ca_dir: settings.ca_dir.as_deref(),
                crl_dir: settings.crl_dir.as_deref(),
                crl_check_all: settings.crl_check_all,
            })?
        } else {
            tracing::warn!(
                tls_domain = settings.name,
                "verify_cert is off: any server is accepted, whoever it is"
            );
            Trust::nobody()
        };
        let negotiation = Negotiation {
            tls_method: settings.tls_method,
            ciphers_list: settings.ciphers_list.clone(),
            ec_curve: settings.ec_curve.clone(),
        };
        negotiation.check(&settings.name)?;
        let parts = Parts::new(settings, identity.as_ref(), &trust);
        let verifier = Arc::new(HostVerifier::new(&trust, settings.verify_cert).map_err(refused)?);
        let builder = ClientConfig::builder_with_provider(negotiation.provider())
            .with_protocol_versions(&negotiation.versions())
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let config = match identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key)))
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Self {
            name: settings.name.as_str().into(),
            config: Arc::new(config),
            verifier,
            parts,
            match_sip_domain: settings.match_sip_domain.clone(),
            match_ip_address: settings.match_ip_address.clone(),
            match_listener: settings.match_listener.clone(),
        })
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The facts of its certificate, if it has one.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateFacts> {
        self.parts.own.as_deref()
    }

    /// What in its files ends, and when.
    #[must_use]
    pub fn expiries(&self) -> &[Expiry] {
        &self.parts.expiries
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn own(&self) -> Option<&Arc<CertificateFacts>> {
        self.parts.own.as_ref()
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
    ) -> Result<Judged, rustls::Error> {
        let Some([certificate, intermediates @ ..]) = chain else { return Ok(Judged::nobody()) };
        if !self.verifier.enforce {
            return Ok(Judged::not_checked(certificate));
        }
        self.verifier.check(certificate, intermediates, host, &[], UnixTime::now())?;
        Ok(Judged::new(certificate, Ok(())))
    }
}

impl Domain for ClientDomain {
    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> Fingerprint {
        self.parts.fingerprint
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
    fn new(trust: &Trust, enforce: bool) -> Result<Self, rustls::Error> {
        let webpki = if trust.roots.is_empty() {
            None
        } else {
            let mut builder =
                WebPkiServerVerifier::builder_with_provider(trust.roots.clone(), PROVIDER.clone());
            if !trust.crls.is_empty() {
                builder = builder.with_crls(trust.crls.iter().cloned()).enforce_revocation_expiration();
                if !trust.crl_check_all {
                    builder = builder.only_check_end_entity_revocation();
                }
            }
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
