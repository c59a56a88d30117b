//! `tls`: the server and client domains, named sets of certificate, key and verification rules, as in OpenSIPS
//! tls_mgm.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tcp_transport::tls::{AddressPattern, SniPattern};

use super::Check;
use super::error::KeyPath;
use super::value::{duration, one_or_many};

/// The client domain taken when there are several.
const DEFAULT_CLIENT_DOMAIN: &str = "default";

/// The TLS settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// For connections accepted, by name.
    pub server_domains: BTreeMap<String, ServerDomain>,
    /// For connections opened, by name. See [`Tls::client_domain`].
    pub client_domains: BTreeMap<String, ClientDomain>,
    /// How long a handshake may take, either way. Default 5 s: several round trips on a poor mobile network; a
    /// connection that is not done by then is closed.
    pub tls_handshake_timeout: Duration,
}

impl Tls {
    /// The domain for connections this relay opens, and its name: the one named `default`, else the only one, else
    /// [`ClientDomain::default`].
    pub fn client_domain(&self) -> (&str, ClientDomain) {
        let named = self.client_domains.get_key_value(DEFAULT_CLIENT_DOMAIN);
        let only = self.client_domains.iter().next().filter(|_| self.client_domains.len() == 1);
        match named.or(only) {
            Some((name, domain)) => (name, domain.clone()),
            None => (DEFAULT_CLIENT_DOMAIN, ClientDomain::default()),
        }
    }
}

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The PEM file of the certificate chain, the own certificate first.
    pub certificate: PathBuf,
    /// The PEM file of the private key.
    pub private_key: PathBuf,
}

/// A TLS domain for connections accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDomain {
    /// What this relay shows.
    pub identity: Identity,
    /// The PEM file of the authorities that client certificates are verified against; nothing: the system's.
    pub ca_list: Option<PathBuf>,
    /// What is asked of clients.
    pub client_certificates: ClientCertificates,
    /// Server names (SNI) this domain is for, besides those that reach it by a listener's `tls_domain`.
    pub match_sip_domain: Vec<SniPattern>,
    /// Listening addresses this domain is for; empty: any.
    pub match_ip_address: Vec<AddressPattern>,
}

/// What a server domain asks of clients: `verify_cert` and `require_cert` together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// `verify_cert: false`: none is requested, so no connection gets relay rights.
    Ignored,
    /// `verify_cert: true, require_cert: false`, the default: requested (RFC 4976 §6.1); a client with none, or
    /// with one that does not verify, is served as a client and gets no relay rights.
    Requested,
    /// `require_cert: true`: a connection without a certificate that verifies is closed.
    Required,
}

/// A TLS domain for connections opened. The default verifies the server against the system's authorities and
/// shows no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientDomain {
    /// The PEM file of the authorities that the server's certificate is verified against; nothing: the system's.
    pub ca_list: Option<PathBuf>,
    /// Whether the server's certificate is verified, its name included. Default true; false is for trying out.
    pub verify_cert: bool,
    /// What this relay shows to be recognised as a relay (mutual TLS, RFC 4976 §6.1).
    pub identity: Option<Identity>,
}

impl Default for ClientDomain {
    fn default() -> Self {
        Self { ca_list: None, verify_cert: true, identity: None }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileTls {
    server_domains: BTreeMap<String, FileServerDomain>,
    client_domains: BTreeMap<String, FileClientDomain>,
    #[serde(deserialize_with = "duration")]
    tls_handshake_timeout: Duration,
}

impl Default for FileTls {
    fn default() -> Self {
        Self {
            server_domains: BTreeMap::new(),
            client_domains: BTreeMap::new(),
            tls_handshake_timeout: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileServerDomain {
    certificate: PathBuf,
    private_key: PathBuf,
    #[serde(default)]
    ca_list: Option<PathBuf>,
    #[serde(default = "yes")]
    verify_cert: bool,
    #[serde(default)]
    require_cert: bool,
    #[serde(default, deserialize_with = "one_or_many")]
    match_sip_domain: Vec<SniPattern>,
    #[serde(default, deserialize_with = "one_or_many")]
    match_ip_address: Vec<AddressPattern>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileClientDomain {
    #[serde(default)]
    ca_list: Option<PathBuf>,
    #[serde(default = "yes")]
    verify_cert: bool,
    #[serde(default)]
    certificate: Option<PathBuf>,
    #[serde(default)]
    private_key: Option<PathBuf>,
}

fn yes() -> bool {
    true
}

impl FileTls {
    pub(super) fn validate(self, check: &mut Check<'_>) -> Tls {
        let path = KeyPath::new(&["tls", "server_domains"]);
        let server_domains = self.server_domains.into_iter().map(|(name, domain)| {
            let domain = domain.validate(&path.clone().key(&name), check);
            (name, domain)
        });
        let server_domains = server_domains.collect();

        let path = KeyPath::new(&["tls", "client_domains"]);
        if self.client_domains.len() > 1 && !self.client_domains.contains_key(DEFAULT_CLIENT_DOMAIN) {
            let message = "none of the domains is named `default`, so none is used: the relay connects without a \
                           certificate of its own and trusts the system's authorities";
            check.warn(path.clone(), message);
        }
        let client_domains = self.client_domains.into_iter().map(|(name, domain)| {
            let domain = domain.validate(&path.clone().key(&name), check);
            (name, domain)
        });
        Tls {
            server_domains,
            client_domains: client_domains.collect(),
            tls_handshake_timeout: self.tls_handshake_timeout,
        }
    }
}

impl FileServerDomain {
    fn validate(self, path: &KeyPath, check: &mut Check<'_>) -> ServerDomain {
        let client_certificates = match (self.verify_cert, self.require_cert) {
            (false, false) => ClientCertificates::Ignored,
            (true, false) => ClientCertificates::Requested,
            (true, true) => ClientCertificates::Required,
            (false, true) => {
                check.error(path.clone().key("require_cert"), "needs `verify_cert: true`");
                ClientCertificates::Required
            }
        };
        ServerDomain {
            identity: Identity {
                certificate: readable(self.certificate, path, "certificate", check),
                private_key: readable(self.private_key, path, "private_key", check),
            },
            ca_list: self.ca_list.map(|file| readable(file, path, "ca_list", check)),
            client_certificates,
            match_sip_domain: self.match_sip_domain,
            match_ip_address: self.match_ip_address,
        }
    }
}

impl FileClientDomain {
    fn validate(self, path: &KeyPath, check: &mut Check<'_>) -> ClientDomain {
        let identity = match (self.certificate, self.private_key) {
            (None, None) => None,
            (Some(certificate), Some(private_key)) => Some(Identity {
                certificate: readable(certificate, path, "certificate", check),
                private_key: readable(private_key, path, "private_key", check),
            }),
            (Some(_), None) => {
                check.error(path.clone().key("certificate"), "needs its `private_key` beside it");
                None
            }
            (None, Some(_)) => {
                check.error(path.clone().key("private_key"), "needs its `certificate` beside it");
                None
            }
        };
        let ca_list = self.ca_list.map(|file| readable(file, path, "ca_list", check));
        if !self.verify_cert && ca_list.is_some() {
            check.warn(path.clone().key("ca_list"), "is not used, since `verify_cert` is false");
        }
        ClientDomain { ca_list, verify_cert: self.verify_cert, identity }
    }
}

/// The file's full path, after a look that it can be read. What is in it is judged by who loads it.
fn readable(file: PathBuf, domain: &KeyPath, key: &str, check: &mut Check<'_>) -> PathBuf {
    let full = check.base_dir.join(file);
    let problem = match File::open(&full).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_dir() => Some("it is a directory".to_owned()),
        Ok(_) => None,
        Err(err) => Some(err.to_string()),
    };
    if let Some(problem) = problem {
        check.error(domain.clone().key(key), format!("cannot read {}: {problem}", full.display()));
    }
    full
}
