//! From the configuration's TLS domains to loaded ones, with errors that point at the line; and what changes when
//! they are loaded again.

use std::fmt;
use std::time::{Duration, SystemTime};

use tcp_transport::tls::{
    Changes, ClientDomain, ClientDomainSettings, ClientDomains, Expiry, ServerDomain, ServerDomainSettings,
    ServerDomains, TlsConfigError,
};
use tracing::warn;

use crate::config::{self, ClientCertificates, Config, ConfigErrors};

/// How often the log is reminded of certificates that are about to expire.
pub(super) const EXPIRY_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Loads every server domain.
///
/// # Errors
/// The file or key that cannot be used, at the domain's line.
pub fn server_domains(config: &Config) -> Result<ServerDomains, ConfigErrors> {
    let mut loaded = Vec::new();
    for (name, domain) in &config.tls.server_domains {
        let config::ServerDomain { identity, trust, negotiation, .. } = domain.clone();
        let settings = ServerDomainSettings {
            name: name.clone(),
            certificate: identity.certificate,
            private_key: identity.private_key,
            ca_list: trust.ca_list,
            ca_dir: trust.ca_dir,
            crl_dir: trust.crl_dir,
            crl_check_all: trust.crl_check_all,
            tls_method: negotiation.tls_method,
            ciphers_list: negotiation.ciphers_list,
            ec_curve: negotiation.ec_curve,
            verify_cert: domain.client_certificates != ClientCertificates::Ignored,
            require_cert: domain.client_certificates == ClientCertificates::Required,
            match_sip_domain: domain.match_sip_domain.clone(),
            match_ip_address: domain.match_ip_address.clone(),
        };
        let domain =
            ServerDomain::load(&settings).map_err(|error| at(config, "server_domains", name, &error))?;
        loaded.push(domain);
    }
    // Names are the keys of a map: no two are alike.
    ServerDomains::new(loaded).map_err(|error| at(config, "server_domains", "", &error))
}

/// Loads the client domains.
///
/// # Errors
/// The file or key that cannot be used, at the domain's line.
pub fn client_domains(config: &Config) -> Result<ClientDomains, ConfigErrors> {
    let (name, default) = config.tls.client_domain();
    let default = client_domain(config, name, &default)?;
    let mut others = Vec::new();
    for (name, domain) in config.tls.conditional_client_domains() {
        others.push(client_domain(config, name, domain)?);
    }
    ClientDomains::new(default, others).map_err(|error| at(config, "client_domains", "", &error))
}

fn client_domain(
    config: &Config,
    name: &str,
    domain: &config::ClientDomain,
) -> Result<ClientDomain, ConfigErrors> {
    let config::ClientDomain { trust, negotiation, .. } = domain.clone();
    let settings = ClientDomainSettings {
        name: name.to_owned(),
        ca_list: trust.ca_list,
        ca_dir: trust.ca_dir,
        crl_dir: trust.crl_dir,
        crl_check_all: trust.crl_check_all,
        tls_method: negotiation.tls_method,
        ciphers_list: negotiation.ciphers_list,
        ec_curve: negotiation.ec_curve,
        verify_cert: domain.verify_cert,
        certificate: domain.identity.as_ref().map(|identity| identity.certificate.clone()),
        private_key: domain.identity.as_ref().map(|identity| identity.private_key.clone()),
        match_sip_domain: domain.match_sip_domain.clone(),
        match_ip_address: domain.match_ip_address.clone(),
        match_listener: domain.match_listener.clone(),
    };
    ClientDomain::load(&settings).map_err(|error| at(config, "client_domains", name, &error))
}

fn at(config: &Config, section: &str, name: &str, error: &TlsConfigError) -> ConfigErrors {
    config.source.error_at(&["tls", section, name], error.to_string()).into()
}

/// What a reload came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What has changed among the server domains.
    pub server_domains: Changes,
    /// What has changed among the client domains.
    pub client_domains: Changes,
    /// What the file says otherwise than when the relay started, and what takes effect only when it starts again.
    pub needs_restart: Vec<String>,
}

/// For logs: `server domains: changed relay; client domains: nothing`.
impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server domains: {}; client domains: {}", self.server_domains, self.client_domains)
    }
}

/// What an operator should know at `now` about the ends of certificates, one line each.
pub fn expiry_warnings(
    servers: &ServerDomains,
    clients: &ClientDomains,
    now: SystemTime,
    window: Duration,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut add = |kind: &str, name: &str, expiries: &[Expiry]| {
        let told = expiries.iter().filter_map(|expiry| expiry.warning(now, window));
        warnings.extend(told.map(|text| format!("{kind} domain {name}: {text}")));
    };
    for domain in servers.snapshot().iter() {
        add("server", domain.name(), domain.expiries());
    }
    for domain in clients.snapshot() {
        add("client", domain.name(), domain.expiries());
    }
    warnings
}

/// Says so in the log.
pub(super) fn warn_of_expiry(servers: &ServerDomains, clients: &ClientDomains, window: Duration) {
    for warning in expiry_warnings(servers, clients, SystemTime::now(), window) {
        warn!("TLS {warning}");
    }
}
