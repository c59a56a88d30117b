//! From the configuration's TLS domains to loaded ones, with errors that point at the line.

use tcp_transport::tls::{
    ClientDomain, ClientDomainSettings, ServerDomain, ServerDomainSettings, ServerDomains, TlsConfigError,
};

use crate::config::{ClientCertificates, Config, ConfigErrors};

/// Loads every server domain.
///
/// # Errors
/// The file or key that cannot be used, at the domain's line.
pub fn server_domains(config: &Config) -> Result<ServerDomains, ConfigErrors> {
    let mut loaded = Vec::new();
    for (name, domain) in &config.tls.server_domains {
        let settings = ServerDomainSettings {
            name: name.clone(),
            certificate: domain.identity.certificate.clone(),
            private_key: domain.identity.private_key.clone(),
            ca_list: domain.ca_list.clone(),
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

/// Loads the client domain that connections use which this relay opens.
///
/// # Errors
/// The file or key that cannot be used, at the domain's line.
pub fn client_domain(config: &Config) -> Result<ClientDomain, ConfigErrors> {
    let (name, domain) = config.tls.client_domain();
    let settings = ClientDomainSettings {
        name: name.to_owned(),
        ca_list: domain.ca_list,
        verify_cert: domain.verify_cert,
        certificate: domain.identity.as_ref().map(|identity| identity.certificate.clone()),
        private_key: domain.identity.map(|identity| identity.private_key),
    };
    ClientDomain::load(&settings).map_err(|error| at(config, "client_domains", name, &error))
}

fn at(config: &Config, section: &str, name: &str, error: &TlsConfigError) -> ConfigErrors {
    config.source.error_at(&["tls", section, name], error.to_string()).into()
}
