//! Server domains: what we present to those who connect to us, and what we ask of them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use super::error::certificate_reason;
use super::{AddressPattern, PROVIDER, PeerCertificate, SniPattern, TlsConfigError, load};

/// A server domain as the configuration says it.
#[derive(Debug, Clone)]
pub struct ServerDomainSettings {
    /// Its name, by which listeners refer to it.
    pub name: String,
    /// PEM file: the certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// PEM file: its private key (PKCS#8, PKCS#1 or SEC1).
    pub private_key: PathBuf,
    /// PEM file: the CAs that client certificates are checked against; without one, the system's.
    pub ca_list: Option<PathBuf>,
    /// Ask clients for a certificate. One that does not verify is recorded, not refused.
    pub verify_cert: bool,
    /// With `verify_cert`: refuse clients without a certificate, or with one that does not verify.
    pub require_cert: bool,
    /// Server names (SNI) this domain serves. Empty: those that no other domain claims.
    pub match_sip_domain: Vec<SniPattern>,
    /// Our addresses this domain serves. Empty: all.
    pub match_ip_address: Vec<AddressPattern>,
}

impl ServerDomainSettings {
    /// A domain with tls_mgm's defaults: `verify_cert` and `require_cert` are on, any name and
    /// address.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        certificate: impl Into<PathBuf>,
        private_key: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            certificate: certificate.into(),
            private_key: private_key.into(),
            ca_list: None,
            verify_cert: true,
            require_cert: true,
            match_sip_domain: Vec::new(),
            match_ip_address: Vec::new(),
        }
    }
}

/// A loaded server domain.
pub struct ServerDomain {
    name: Arc<str>,
    config: Arc<ServerConfig>,
    verifier: Option<Arc<ClientVerifier>>,
    match_sip_domain: Vec<SniPattern>,
    match_ip_address: Vec<AddressPattern>,
}

impl ServerDomain {
    /// Reads the files and builds the one rustls configuration that all connections of this domain
    /// share, with its session store.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not what it should be; a key that does not match.
    pub fn load(settings: &ServerDomainSettings) -> Result<Self, TlsConfigError> {
        let identity = load::identity(&settings.certificate, &settings.private_key)?;
        let refused = |source| TlsConfigError::Refused { domain: settings.name.clone(), source };
        let verifier = if settings.verify_cert {
            let roots = load::roots(&settings.name, settings.ca_list.as_deref())?;
            if settings.require_cert && roots.is_empty() {
                tracing::warn!(
                    tls_domain = settings.name,
                    "require_cert without any CA: every client will be refused"
                );
            }
            // With the system's CAs the hints would be kilobytes in every handshake; no hint means
            // "send what you have".
            let hints = if settings.ca_list.is_some() { roots.subjects() } else { Vec::new() };
            Some(Arc::new(ClientVerifier::new(roots, hints, settings.require_cert).map_err(refused)?))
        } else {
            None
        };
        let client_auth: Arc<dyn ClientCertVerifier> = match &verifier {
            Some(verifier) => verifier.clone(),
            None => Arc::new(NoClientAuth),
        };
        let config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_client_cert_verifier(client_auth)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        Ok(Self {
            name: settings.name.as_str().into(),
            config: Arc::new(config),
            verifier,
            match_sip_domain: settings.match_sip_domain.clone(),
            match_ip_address: settings.match_ip_address.clone(),
        })
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether a client without a verified certificate is refused.
    pub(super) fn requires_certificate(&self) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.mandatory)
    }

    /// What the chain of a finished handshake is worth now.
    pub(super) fn judge(&self, chain: Option<&[CertificateDer<'_>]>) -> PeerCertificate {
        let (Some(verifier), Some([certificate, intermediates @ ..])) = (&self.verifier, chain) else {
            return PeerCertificate::None;
        };
        match verifier.check(certificate, intermediates, UnixTime::now()) {
            Ok(()) => PeerCertificate::verified(certificate),
            Err(rustls::Error::InvalidCertificate(e)) => {
                PeerCertificate::Unverified { reason: certificate_reason(&e) }
            }
            Err(e) => PeerCertificate::Unverified { reason: e.to_string() },
        }
    }

    /// How well the domain fits an address: `None` not at all, more is better.
    fn address_rank(&self, listener: SocketAddr) -> Option<usize> {
        if self.match_ip_address.is_empty() {
            return Some(0);
        }
        self.match_ip_address.iter().filter_map(|p| p.rank(listener)).max()
    }

    /// How well the domain fits a server name: `None` not at all, more is better. A domain that says
    /// nothing takes any name, as tls_mgm's default `*`.
    fn name_rank(&self, sni: Option<&str>) -> Option<usize> {
        if self.match_sip_domain.is_empty() {
            return Some(0);
        }
        self.match_sip_domain.iter().filter_map(|p| p.rank(sni)).max()
    }
}

impl fmt::Debug for ServerDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerDomain").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All server domains of a process, in the order of the configuration.
#[derive(Debug, Default)]
pub struct ServerDomains {
    domains: Vec<Arc<ServerDomain>>,
}

impl ServerDomains {
    /// The domains given.
    ///
    /// # Errors
    /// Two of one name.
    pub fn new(domains: impl IntoIterator<Item = ServerDomain>) -> Result<Self, TlsConfigError> {
        let mut all = Self::default();
        for domain in domains {
            if all.by_name(domain.name()).is_some() {
                return Err(TlsConfigError::Duplicate { domain: domain.name().to_owned() });
            }
            all.domains.push(Arc::new(domain));
        }
        Ok(all)
    }

    /// Loads each of `settings`.
    ///
    /// # Errors
    /// The first one's that cannot be loaded.
    pub fn load(settings: &[ServerDomainSettings]) -> Result<Self, TlsConfigError> {
        Self::new(settings.iter().map(ServerDomain::load).collect::<Result<Vec<_>, _>>()?)
    }

    /// The domain of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<ServerDomain>> {
        self.domains.iter().find(|domain| domain.name() == name)
    }

    /// The domains, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServerDomain>> {
        self.domains.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// The domain that serves a connection to `listener` with the server name `sni`.
    ///
    /// 1. Only domains whose `match_ip_address` includes the listener take part (the listener's own
    ///    `tls_domain` always does).
    /// 2. A domain that claims the name in `match_sip_domain` comes first, the most specific claim
    ///    winning: whole name, longest wildcard; `none` claims those that name nobody. Of equal
    ///    claims the one with the more specific address wins, then the earlier one.
    /// 3. Else the listener's own `tls_domain`.
    /// 4. Else, on a listener without one, the domains that take any name (`*`, or no
    ///    `match_sip_domain`); the more specific address, then the earlier one, winning.
    ///
    /// `None`: the connection is to be refused.
    #[must_use]
    pub fn select(
        &self,
        listener: SocketAddr,
        tls_domain: Option<&str>,
        sni: Option<&str>,
    ) -> Option<&Arc<ServerDomain>> {
        let sni = sni.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
        let own = tls_domain.and_then(|name| self.by_name(name));
        let is_own = |domain: &Arc<ServerDomain>| own.is_some_and(|own| Arc::ptr_eq(own, domain));
        let ranked = self.domains.iter().filter_map(|domain| {
            let address = domain.address_rank(listener).or(is_own(domain).then_some(0))?;
            let name = domain.name_rank(sni.as_deref())?;
            Some(((name, address), domain))
        });
        // `max_by_key` takes the last of equals; the earlier one is wanted.
        let best = ranked.rev().max_by_key(|(rank, _)| *rank);
        match (best, own) {
            (Some(((name, _), domain)), _) if name > 0 => Some(domain),
            (_, Some(own)) => Some(own),
            (best, None) => best.map(|(_, domain)| domain),
        }
    }
}

/// Asks for a client certificate, and refuses a bad one only where one is required.
///
/// In either case the client proves that it holds the key (the handshake's signature is verified):
/// what is left open for optional certificates is only who vouches for it, which
/// [`ServerDomain::judge`] finds out afterwards.
struct ClientVerifier {
    /// `None`: there is no CA at all, so no certificate verifies (webpki wants one at least).
    webpki: Option<Arc<dyn ClientCertVerifier>>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    mandatory: bool,
}

impl ClientVerifier {
    fn new(
        roots: Arc<RootCertStore>,
        hints: Vec<DistinguishedName>,
        mandatory: bool,
    ) -> Result<Self, rustls::Error> {
        let webpki = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiClientVerifier::builder_with_provider(roots, PROVIDER.clone());
            Some(builder.build().map_err(|e| rustls::Error::General(e.to_string()))?)
        };
        Ok(Self { webpki, hints, algorithms: PROVIDER.signature_verification_algorithms, mandatory })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match &self.webpki {
            Some(webpki) => webpki.verify_client_cert(certificate, intermediates, now).map(|_| ()),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("mandatory", &self.mandatory).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.mandatory {
            self.check(end_entity, intermediates, now)?;
        }
        Ok(ClientCertVerified::assertion())
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
