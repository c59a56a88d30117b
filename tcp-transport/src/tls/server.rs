//! Server domains: what we present to those who connect to us, and what we ask of them.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use super::domain::{Changes, Domain, Fingerprint, Parts};
use super::expiry::Expiry;
use super::load::{Identity, Trust, TrustFiles};
use super::negotiation::Negotiation;
use super::peer::Judged;
use super::{
    AddressPattern, CertificateFacts, CipherSuite, Curve, PROVIDER, SniPattern, TlsConfigError, TlsMethod,
};

/// A server domain as the configuration says it.
#[derive(Debug, Clone)]
pub struct ServerDomainSettings {
    /// Its name, by which listeners refer to it.
    pub name: String,
    /// PEM file: the certificate, followed by its intermediates.
    pub certificate: PathBuf,
    /// PEM file: its private key (PKCS#8, PKCS#1 or SEC1).
    pub private_key: PathBuf,
    /// PEM file: the CAs that client certificates are checked against; without it and `ca_dir`, the
    /// system's.
    pub ca_list: Option<PathBuf>,
    /// Directory of PEM files with more such CAs.
    pub ca_dir: Option<PathBuf>,
    /// Directory of PEM files with CRLs. With one, a certificate that none of them speaks for, or an
    /// expired one, is not verified.
    pub crl_dir: Option<PathBuf>,
    /// Whether the CRLs are asked about the intermediates too, not about the client's certificate
    /// alone.
    pub crl_check_all: bool,
    /// The versions of TLS that are spoken.
    pub tls_method: TlsMethod,
    /// The cipher suites that are offered; empty: all.
    pub ciphers_list: Vec<CipherSuite>,
    /// The groups for the key exchange; empty: all, X25519 first.
    pub ec_curve: Vec<Curve>,
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
            ca_dir: None,
            crl_dir: None,
            crl_check_all: false,
            tls_method: TlsMethod::default(),
            ciphers_list: Vec::new(),
            ec_curve: Vec::new(),
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
    parts: Parts,
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
        let identity = Identity::load(&settings.certificate, &settings.private_key)?;
        let refused = |source| TlsConfigError::Refused { domain: settings.name.clone(), source };
        let trust = if settings.verify_cert {
            Trust::load(TrustFiles {
                domain: &settings.name,
                ca_list: settings.ca_list.as_deref(),
                ca_dir: settings.ca_dir.as_deref(),
                crl_dir: settings.crl_dir.as_deref(),
                crl_check_all: settings.crl_check_all,
            })?
        } else {
            Trust::nobody()
        };
        if settings.verify_cert && settings.require_cert && trust.roots.is_empty() {
            tracing::warn!(
                tls_domain = settings.name,
                "require_cert without any CA: every client will be refused"
            );
        }
        let negotiation = Negotiation {
            tls_method: settings.tls_method,
            ciphers_list: settings.ciphers_list.clone(),
            ec_curve: settings.ec_curve.clone(),
        };
        negotiation.check(&settings.name)?;
        let parts = Parts::new(settings, Some(&identity), &trust);
        let verifier = if settings.verify_cert {
            Some(Arc::new(ClientVerifier::new(&trust, settings.require_cert).map_err(refused)?))
        } else {
            None
        };
        let client_auth: Arc<dyn ClientCertVerifier> = match &verifier {
            Some(verifier) => verifier.clone(),
            None => Arc::new(NoClientAuth),
        };
        let config = ServerConfig::builder_with_provider(negotiation.provider())
            .with_protocol_versions(&negotiation.versions())
            .map_err(refused)?
            .with_client_cert_verifier(client_auth)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key)));
        Ok(Self {
            name: settings.name.as_str().into(),
            config: Arc::new(config),
            verifier,
            parts,
            match_sip_domain: settings.match_sip_domain.clone(),
            match_ip_address: settings.match_ip_address.clone(),
        })
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The facts of its certificate.
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

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether a client without a verified certificate is refused.
    pub(super) fn requires_certificate(&self) -> bool {
        self.verifier.as_ref().is_some_and(|verifier| verifier.mandatory)
    }

    /// What the chain of a finished handshake is worth now.
    pub(super) fn judge(&self, chain: Option<&[CertificateDer<'_>]>) -> Judged {
        let (Some(verifier), Some([certificate, intermediates @ ..])) = (&self.verifier, chain) else {
            return Judged::nobody();
        };
        Judged::new(certificate, verifier.check(certificate, intermediates, UnixTime::now()))
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

impl Domain for ServerDomain {
    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> Fingerprint {
        self.parts.fingerprint
    }
}

/// All server domains of a process, in the order of the configuration. They can be
/// [replaced](Self::replace) while connections are served.
#[derive(Debug, Default)]
pub struct ServerDomains {
    domains: RwLock<Arc<[Arc<ServerDomain>]>>,
}

impl ServerDomains {
    /// The domains given.
    ///
    /// # Errors
    /// Two of one name.
    pub fn new(domains: impl IntoIterator<Item = ServerDomain>) -> Result<Self, TlsConfigError> {
        Ok(Self { domains: RwLock::new(super::domain::unique(domains)?.into()) })
    }

    /// Loads each of `settings`.
    ///
    /// # Errors
    /// The first one's that cannot be loaded.
    pub fn load(settings: &[ServerDomainSettings]) -> Result<Self, TlsConfigError> {
        Self::new(settings.iter().map(ServerDomain::load).collect::<Result<Vec<_>, _>>()?)
    }

    /// Puts `new` in the place of what is there: handshakes that begin from now on see it, those
    /// under way and connections go on as they are. Domains that are the same in both, files
    /// included, stay, and their session stores with them; a changed one starts with an empty store,
    /// so nobody resumes what the new rules would refuse.
    pub fn replace(&self, new: Self) -> Changes {
        let mut current = self.domains.write();
        let (domains, changes) = super::domain::merge(&current, &new.domains.into_inner());
        *current = domains.into();
        changes
    }

    /// The domains of this moment, in the order of the configuration.
    #[must_use]
    pub fn snapshot(&self) -> Arc<[Arc<ServerDomain>]> {
        self.domains.read().clone()
    }

    /// The domain of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<ServerDomain>> {
        self.domains.read().iter().find(|domain| domain.name() == name).cloned()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.domains.read().is_empty()
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
    ) -> Option<Arc<ServerDomain>> {
        let domains = self.snapshot();
        let sni = sni.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
        let own = tls_domain.and_then(|name| domains.iter().find(|domain| domain.name() == name));
        let is_own = |domain: &Arc<ServerDomain>| own.is_some_and(|own| Arc::ptr_eq(own, domain));
        let ranked = domains.iter().filter_map(|domain| {
            let address = domain.address_rank(listener).or(is_own(domain).then_some(0))?;
            let name = domain.name_rank(sni.as_deref())?;
            Some(((name, address), domain))
        });
        // `max_by_key` takes the last of equals; the earlier one is wanted.
        let best = ranked.rev().max_by_key(|(rank, _)| *rank);
        let chosen = match (best, own) {
            (Some(((name, _), domain)), _) if name > 0 => Some(domain),
            (_, Some(own)) => Some(own),
            (best, None) => best.map(|(_, domain)| domain),
        };
        chosen.cloned()
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
    fn new(trust: &Trust, mandatory: bool) -> Result<Self, rustls::Error> {
        let webpki = if trust.roots.is_empty() {
            None
        } else {
            let mut builder =
                WebPkiClientVerifier::builder_with_provider(trust.roots.clone(), PROVIDER.clone());
            if !trust.crls.is_empty() {
                builder = builder.with_crls(trust.crls.iter().cloned()).enforce_revocation_expiration();
                if !trust.crl_check_all {
                    builder = builder.only_check_end_entity_revocation();
                }
            }
            Some(builder.build().map_err(|e| rustls::Error::General(e.to_string()))?)
        };
        let hints = trust.hints.clone();
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
