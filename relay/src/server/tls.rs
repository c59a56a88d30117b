//! From the configuration's TLS domains to loaded ones, with errors that point at the line.

use std::time::{Duration, SystemTime};

use tcp_transport::tls::{
    ClientDomain, ClientDomainSettings, ClientDomains, Expiry, ServerDomain, ServerDomainSettings,
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
        let domain = ServerDomain::load(&server_settings(name, domain))
            .map_err(|error| at(config, "server_domains", name, &error))?;
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
    ClientDomain::load(&client_settings(name, domain))
        .map_err(|error| at(config, "client_domains", name, &error))
}

fn server_settings(name: &str, domain: &config::ServerDomain) -> ServerDomainSettings {
    let config::ServerDomain {
        identity,
        trust,
        negotiation,
        client_certificates,
        match_sip_domain,
        match_ip_address,
    } = domain.clone();
    ServerDomainSettings {
        name: name.to_owned(),
        certificate: identity.certificate,
        private_key: identity.private_key,
        ca_list: trust.ca_list,
        ca_dir: trust.ca_dir,
        crl_dir: trust.crl_dir,
        crl_check_all: trust.crl_check_all,
        tls_method: negotiation.tls_method,
        ciphers_list: negotiation.ciphers_list,
        ec_curve: negotiation.ec_curve,
        verify_cert: client_certificates != ClientCertificates::Ignored,
        require_cert: client_certificates == ClientCertificates::Required,
        match_sip_domain,
        match_ip_address,
    }
}

fn client_settings(name: &str, domain: &config::ClientDomain) -> ClientDomainSettings {
    let config::ClientDomain {
        identity,
        trust,
        negotiation,
        verify_cert,
        match_sip_domain,
        match_ip_address,
        match_listener,
    } = domain.clone();
    let (certificate, private_key) =
        identity.map(|identity| (identity.certificate, identity.private_key)).unzip();
    ClientDomainSettings {
        name: name.to_owned(),
        ca_list: trust.ca_list,
        ca_dir: trust.ca_dir,
        crl_dir: trust.crl_dir,
        crl_check_all: trust.crl_check_all,
        tls_method: negotiation.tls_method,
        ciphers_list: negotiation.ciphers_list,
        ec_curve: negotiation.ec_curve,
        verify_cert,
        certificate,
        private_key,
        match_sip_domain,
        match_ip_address,
        match_listener,
    }
}

fn at(config: &Config, section: &str, name: &str, error: &TlsConfigError) -> ConfigErrors {
    config.source.error_at(&["tls", section, name], error.to_string()).into()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What tls_mgm's rows of `docs/migration.md` are about: no setting is lost on its way.
    #[test]
    fn every_setting_of_a_domain_reaches_it() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["c", "k", "l"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        for name in ["cas", "crls"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let common = "certificate: c, private_key: k, ca_list: l, ca_dir: cas, crl_dir: crls, crl_check_all: true, \
                      tls_method: TLSv1_3, ciphers_list: TLS_AES_128_GCM_SHA256, ec_curve: P-384, \
                      match_sip_domain: a.test, match_ip_address: 192.0.2.1";
        let config = |server: &str, client: &str| {
            let text = format!(
                "domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:0' }} ]\ntls:\n  \
                 server_domains: {{ s: {{ {common}, {server} }} }}\n  client_domains: {{ c: {{ {common}, {client} }} }}\n"
            );
            Config::parse(&text, dir.path(), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"))
        };
        let path = |name: &str| dir.path().join(name);
        let full = config("require_cert: true", "match_listener: 'msrp://127.0.0.1:0'");

        let server = server_settings("s", &full.tls.server_domains["s"]);
        assert_eq!(
            (server.name.as_str(), &server.certificate, &server.private_key),
            ("s", &path("c"), &path("k"))
        );
        assert_eq!((&server.ca_list, &server.ca_dir), (&Some(path("l")), &Some(path("cas"))));
        assert_eq!((&server.crl_dir, server.crl_check_all), (&Some(path("crls")), true));
        assert_eq!(server.tls_method, "TLSv1_3".parse().unwrap());
        assert_eq!(server.ciphers_list, ["TLS_AES_128_GCM_SHA256".parse().unwrap()]);
        assert_eq!(server.ec_curve, ["P-384".parse().unwrap()]);
        assert_eq!(server.match_sip_domain, ["a.test".parse().unwrap()]);
        assert_eq!(server.match_ip_address, ["192.0.2.1".parse().unwrap()]);
        for (text, asked, required) in [
            ("require_cert: true", true, true),
            ("require_cert: false", true, false),
            ("verify_cert: false", false, false),
            ("verify_cert: true", true, false),
        ] {
            let server = server_settings("s", &config(text, "").tls.server_domains["s"]);
            assert_eq!((server.verify_cert, server.require_cert), (asked, required), "{text}");
        }

        let client = client_settings("c", &full.tls.client_domains["c"]);
        assert_eq!(
            (client.name.as_str(), &client.certificate, &client.private_key),
            ("c", &Some(path("c")), &Some(path("k")))
        );
        assert_eq!((&client.ca_list, &client.ca_dir), (&Some(path("l")), &Some(path("cas"))));
        assert_eq!((&client.crl_dir, client.crl_check_all), (&Some(path("crls")), true));
        assert_eq!(client.tls_method, server.tls_method);
        assert_eq!((client.ciphers_list, client.ec_curve), (server.ciphers_list, server.ec_curve));
        assert_eq!(client.match_sip_domain, server.match_sip_domain);
        assert_eq!(client.match_ip_address, server.match_ip_address);
        assert_eq!(client.match_listener, ["msrp://127.0.0.1:0"]);
        for (text, checked) in [("", true), ("verify_cert: true", true), ("verify_cert: false", false)] {
            let client = client_settings("c", &config("", text).tls.client_domains["c"]);
            assert_eq!(client.verify_cert, checked, "{text}");
        }
    }
}
