//! `tls`: the server and client domains, named sets of certificate, key and verification rules, as in OpenSIPS
//! tls_mgm.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use tcp_transport::tls::{
    AddressPattern, CipherSuite, Curve, DEFAULT_EXPIRY_WARNING, NegotiationError, SniPattern, TlsMethod,
};

use super::error::KeyPath;
use super::form;
use super::listener::Listener;
use super::value::{duration, duration_or_zero, from_text, one_or_many};
use super::{Check, listener};

/// The client domain taken where no other one is for a connection.
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
    /// Whether a connection this relay opened is used again only for what would be sent with the same client
    /// domain. Default false, as in OpenSIPS: scheme, host and port decide. Connections accepted always match.
    pub cert_check_on_conn_reusage: bool,
    /// How long before the end of a certificate the log warns. Default 30 days; zero: only when it is over.
    pub expiry_warning: Duration,
}

impl Tls {
    /// The domain for connections this relay opens that no other one is for, and its name: the one named
    /// `default`, else the only one if it has no `match_…`, else [`ClientDomain::default`].
    pub fn client_domain(&self) -> (&str, ClientDomain) {
        let named = self.client_domains.get_key_value(DEFAULT_CLIENT_DOMAIN);
        let mut unconditional = self.client_domains.iter().filter(|(_, domain)| !domain.is_conditional());
        let only = unconditional.next().filter(|_| unconditional.next().is_none());
        match named.or(only) {
            Some((name, domain)) => (name, domain.clone()),
            None => (DEFAULT_CLIENT_DOMAIN, ClientDomain::default()),
        }
    }

    /// The client domains that are for certain hosts, addresses or listeners, by name.
    pub fn conditional_client_domains(&self) -> impl Iterator<Item = (&str, &ClientDomain)> {
        let conditional = self.client_domains.iter().filter(|(_, domain)| domain.is_conditional());
        conditional.map(|(name, domain)| (name.as_str(), domain))
    }

    /// Says which `match_listener` names no listener.
    pub(super) fn check_listeners(&self, listeners: &[Listener], check: &mut Check<'_>) {
        let known: Vec<_> = listeners.iter().map(Listener::to_string).collect();
        for (name, domain) in &self.client_domains {
            for wanted in
                domain.match_listener.iter().filter(|wanted| *wanted != "*" && !known.contains(wanted))
            {
                let path = KeyPath::new(&["tls", "client_domains", name, "match_listener"]);
                check.error(
                    path,
                    format!("there is no `{wanted}` in listeners, those are {}", known.join(", ")),
                );
            }
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

/// Whose certificates verify.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The PEM file of the authorities that certificates are verified against; neither it nor `ca_dir`: the
    /// system's.
    pub ca_list: Option<PathBuf>,
    /// A directory of PEM files with such authorities, in addition.
    pub ca_dir: Option<PathBuf>,
    /// A directory of PEM files with revocation lists.
    pub crl_dir: Option<PathBuf>,
    /// Whether they are asked about the whole chain, not about the peer's own certificate alone. Default false.
    pub crl_check_all: bool,
}

/// What a handshake may settle on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Negotiation {
    /// The versions of TLS. Default 1.2 and 1.3.
    pub tls_method: TlsMethod,
    /// The cipher suites; empty: all there are.
    pub ciphers_list: Vec<CipherSuite>,
    /// The curves for the key exchange; empty: all there are, X25519 first.
    pub ec_curve: Vec<Curve>,
}

/// A TLS domain for connections accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDomain {
    /// What this relay shows.
    pub identity: Identity,
    /// Whose client certificates verify.
    pub trust: Trust,
    /// What a handshake may settle on.
    pub negotiation: Negotiation,
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
    /// Whose server certificates verify.
    pub trust: Trust,
    /// What a handshake may settle on.
    pub negotiation: Negotiation,
    /// Whether the server's certificate is verified, its name included. Default true; false is for trying out.
    pub verify_cert: bool,
    /// What this relay shows to be recognised as a relay (mutual TLS, RFC 4976 §6.1).
    pub identity: Option<Identity>,
    /// Next hops it is for, as their URIs name them; empty: any. Of several domains that fit, the most specific
    /// host decides, then the most specific address, then the listener.
    pub match_sip_domain: Vec<SniPattern>,
    /// Addresses of next hops it is for; empty: any.
    pub match_ip_address: Vec<AddressPattern>,
    /// Listeners, by their `uri`, of the messages it is for; empty: any.
    pub match_listener: Vec<String>,
}

impl ClientDomain {
    /// Whether it is for certain connections only.
    pub fn is_conditional(&self) -> bool {
        !self.match_sip_domain.is_empty()
            || !self.match_ip_address.is_empty()
            || !self.match_listener.is_empty()
    }
}

impl Default for ClientDomain {
    fn default() -> Self {
        Self {
            trust: Trust::default(),
            negotiation: Negotiation::default(),
            verify_cert: true,
            identity: None,
            match_sip_domain: Vec::new(),
            match_ip_address: Vec::new(),
            match_listener: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileTls {
    /// For connections accepted, by a name of your choice. The client's server name (SNI) and the listening address
    /// decide which one serves a connection; else it is the listener's `tls_domain`.
    server_domains: BTreeMap<String, FileServerDomain>,
    /// For connections opened, by a name of your choice: for the next hop's host, then its address, then the
    /// listener where the message came in; else `default`, or the only one without `match_…`. Without any: the
    /// system's authorities, and no certificate of our own.
    client_domains: BTreeMap<String, FileClientDomain>,
    /// How long a handshake may take, either way.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    tls_handshake_timeout: Duration,
    /// Whether a connection we opened is used again only for what would be sent with the same client domain.
    /// `false`: host, port and scheme decide. Connections accepted always match.
    cert_check_on_conn_reusage: bool,
    /// How long before a certificate's end the log warns, daily; `0s`: at its end.
    #[serde(deserialize_with = "duration_or_zero")]
    #[schemars(with = "form::DurationOrZero")]
    expiry_warning: Duration,
}

impl Default for FileTls {
    fn default() -> Self {
        Self {
            server_domains: BTreeMap::new(),
            client_domains: BTreeMap::new(),
            tls_handshake_timeout: Duration::from_secs(5),
            cert_check_on_conn_reusage: false,
            expiry_warning: DEFAULT_EXPIRY_WARNING,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileServerDomain {
    /// The PEM file of the certificate chain, our own certificate first.
    #[schemars(with = "form::Path")]
    certificate: PathBuf,
    /// The PEM file of its key.
    #[schemars(with = "form::Path")]
    private_key: PathBuf,
    /// A PEM file of authorities that may sign the other side's certificate. Default: the system's, unless `ca_dir`
    /// is given.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    ca_list: Option<PathBuf>,
    /// A directory of such files, in addition.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    ca_dir: Option<PathBuf>,
    /// A directory of PEM files with revocation lists. With it, each certificate that is asked about needs a list
    /// that is valid.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    crl_dir: Option<PathBuf>,
    /// Ask the lists about the whole chain, not about the other side's own certificate alone.
    #[serde(default)]
    crl_check_all: bool,
    /// The version of TLS, or a range. There are 1.2 and 1.3.
    #[serde(default, deserialize_with = "method")]
    #[schemars(with = "form::TlsVersions", extend("default" = "TLSv1_2-TLSv1_3"))]
    tls_method: TlsMethod,
    /// The cipher suites, by OpenSSL's or IANA's names. Default: all there are.
    #[serde(default, deserialize_with = "suites")]
    #[schemars(with = "form::OneOrMany<form::CipherSuite>")]
    ciphers_list: Vec<CipherSuite>,
    /// The groups for the key exchange, the preferred one first. Default: X25519, P-256, P-384, then
    /// X25519MLKEM768.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::Curve>")]
    ec_curve: Vec<Curve>,
    /// Not taken, with an error that says why: there is no key exchange here that has such parameters.
    #[serde(default)]
    #[schemars(with = "form::Refused")]
    dh_params: Option<IgnoredAny>,
    /// Not taken, with an error that says why: the length of chains has a limit of its own.
    #[serde(default)]
    #[schemars(with = "form::Refused")]
    verify_depth: Option<IgnoredAny>,
    /// Whether clients are asked for a certificate. One that verifies makes a relay of them (RFC 4976 §6.1);
    /// without one they are clients.
    #[serde(default = "yes")]
    verify_cert: bool,
    /// Whether connections without a certificate that verifies are closed.
    #[serde(default)]
    require_cert: bool,
    /// Also for these server names (SNI): `*` any, `none` no name. Default: for those that reach it by a listener's
    /// `tls_domain`.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::HostPattern>")]
    match_sip_domain: Vec<SniPattern>,
    /// Only on these listening addresses, with or without port. Default: any.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::AddressPattern>")]
    match_ip_address: Vec<AddressPattern>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileClientDomain {
    /// A PEM file of authorities that may sign the other side's certificate. Default: the system's, unless `ca_dir`
    /// is given.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    ca_list: Option<PathBuf>,
    /// A directory of such files, in addition.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    ca_dir: Option<PathBuf>,
    /// A directory of PEM files with revocation lists. With it, each certificate that is asked about needs a list
    /// that is valid.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    crl_dir: Option<PathBuf>,
    /// Ask the lists about the whole chain, not about the other side's own certificate alone.
    #[serde(default)]
    crl_check_all: bool,
    /// The version of TLS, or a range. There are 1.2 and 1.3.
    #[serde(default, deserialize_with = "method")]
    #[schemars(with = "form::TlsVersions", extend("default" = "TLSv1_2-TLSv1_3"))]
    tls_method: TlsMethod,
    /// The cipher suites, by OpenSSL's or IANA's names. Default: all there are.
    #[serde(default, deserialize_with = "suites")]
    #[schemars(with = "form::OneOrMany<form::CipherSuite>")]
    ciphers_list: Vec<CipherSuite>,
    /// The groups for the key exchange, the preferred one first. Default: X25519, P-256, P-384, then
    /// X25519MLKEM768.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::Curve>")]
    ec_curve: Vec<Curve>,
    /// Not taken, with an error that says why: there is no key exchange here that has such parameters.
    #[serde(default)]
    #[schemars(with = "form::Refused")]
    dh_params: Option<IgnoredAny>,
    /// Not taken, with an error that says why: the length of chains has a limit of its own.
    #[serde(default)]
    #[schemars(with = "form::Refused")]
    verify_depth: Option<IgnoredAny>,
    /// Whether the server's certificate is verified, its name included. `false` trusts whoever answers.
    #[serde(default = "yes")]
    verify_cert: bool,
    /// The PEM file of our own certificate chain: what makes a relay of us to others. Default: none.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    certificate: Option<PathBuf>,
    /// The PEM file of its key.
    #[serde(default)]
    #[schemars(with = "form::Path")]
    private_key: Option<PathBuf>,
    /// Only to these hosts: `*` any. Default: any.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::HostPattern>")]
    match_sip_domain: Vec<SniPattern>,
    /// Only to these addresses, with or without port. Default: any.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::AddressPattern>")]
    match_ip_address: Vec<AddressPattern>,
    /// Only for what came in at these listeners, by their `uri`. Default: any.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::ListenUri>")]
    match_listener: Vec<ListenerPattern>,
}

fn yes() -> bool {
    true
}

fn method<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TlsMethod, D::Error> {
    from_text(deserializer, "a TLS version or a range, such as `TLSv1_2-TLSv1_3` (in quotes, if it is `1.2`)")
}

/// Suites in a list, or in one text as OpenSSL writes them, with colons.
fn suites<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CipherSuite>, D::Error> {
    struct Suites(Vec<CipherSuite>);

    impl FromStr for Suites {
        type Err = NegotiationError;

        fn from_str(text: &str) -> Result<Self, NegotiationError> {
            text.split(':').map(str::parse).collect::<Result<_, _>>().map(Self)
        }
    }

    let lists: Vec<Suites> = one_or_many(deserializer)?;
    Ok(lists.into_iter().flat_map(|list| list.0).collect())
}

/// A listener's `uri`, or `*`.
#[derive(Debug)]
struct ListenerPattern(String);

impl FromStr for ListenerPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self(text.to_owned())),
            uri => listener::normal_uri(uri).map(Self),
        }
    }
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
        let client_domains: BTreeMap<_, _> = self
            .client_domains
            .into_iter()
            .map(|(name, domain)| {
                let domain = domain.validate(&path.clone().key(&name), check);
                (name, domain)
            })
            .collect();
        if let Some(default) = client_domains.get(DEFAULT_CLIENT_DOMAIN) {
            if default.is_conditional() {
                let message = "is what is used where no other domain fits, so it has no `match_…` of its own";
                check.error_at_key(path.key(DEFAULT_CLIENT_DOMAIN), message);
            }
        } else if client_domains.values().filter(|domain| !domain.is_conditional()).count() > 1 {
            let message = "several domains have no `match_…` and none of them is named `default`, so none of these \
                           is used: the relay connects without a certificate of its own and trusts the system's \
                           authorities";
            check.warn(path, message);
        }
        Tls {
            server_domains,
            client_domains,
            tls_handshake_timeout: self.tls_handshake_timeout,
            cert_check_on_conn_reusage: self.cert_check_on_conn_reusage,
            expiry_warning: self.expiry_warning,
        }
    }
}

/// What server and client domains have in common, before it is looked at.
struct FileTrust {
    ca_list: Option<PathBuf>,
    ca_dir: Option<PathBuf>,
    crl_dir: Option<PathBuf>,
    crl_check_all: bool,
}

impl FileTrust {
    fn validate(self, verify_cert: bool, path: &KeyPath, check: &mut Check<'_>) -> Trust {
        if !verify_cert {
            let given = [
                ("ca_list", self.ca_list.is_some()),
                ("ca_dir", self.ca_dir.is_some()),
                ("crl_dir", self.crl_dir.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                check.warn(path.clone().key(key), "is not used, since `verify_cert` is false");
            }
        }
        if self.crl_check_all && self.crl_dir.is_none() {
            check.error(path.clone().key("crl_check_all"), "needs `crl_dir`, where the lists are");
        }
        Trust {
            ca_list: self.ca_list.map(|file| readable(file, path, "ca_list", check)),
            ca_dir: self.ca_dir.map(|file| directory(file, path, "ca_dir", check)),
            crl_dir: self.crl_dir.map(|file| directory(file, path, "crl_dir", check)),
            crl_check_all: self.crl_check_all,
        }
    }
}

/// Refuses what tls_mgm, or Kamailio, has and rustls has not.
fn refuse(
    dh_params: Option<IgnoredAny>,
    verify_depth: Option<IgnoredAny>,
    path: &KeyPath,
    check: &mut Check<'_>,
) {
    if dh_params.is_some() {
        let message = "is not taken: there is no Diffie-Hellman over prime fields here, the key exchange is always \
                       over elliptic curves, see `ec_curve`";
        check.error_at_key(path.clone().key("dh_params"), message);
    }
    if verify_depth.is_some() {
        let message = "is not taken: a chain may have six intermediates, and who may sign them is said by \
                       `ca_list` and the CAs' own path length";
        check.error_at_key(path.clone().key("verify_depth"), message);
    }
}

/// Refuses suites that no version spoken has; `TlsMethod` and `ciphers_list` each are fine then.
fn check_suites(negotiation: &Negotiation, path: &KeyPath, check: &mut Check<'_>) {
    let Negotiation { tls_method, ciphers_list, .. } = negotiation;
    if !ciphers_list.is_empty() && !ciphers_list.iter().any(|suite| tls_method.includes(suite.version())) {
        let message = format!("has no suite of {tls_method}, which `tls_method` asks for");
        check.error(path.clone().key("ciphers_list"), message);
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
        refuse(self.dh_params, self.verify_depth, path, check);
        let Self { ca_list, ca_dir, crl_dir, crl_check_all, .. } = self;
        let trust = FileTrust { ca_list, ca_dir, crl_dir, crl_check_all };
        let negotiation = Negotiation {
            tls_method: self.tls_method,
            ciphers_list: self.ciphers_list,
            ec_curve: self.ec_curve,
        };
        check_suites(&negotiation, path, check);
        ServerDomain {
            identity: Identity {
                certificate: readable(self.certificate, path, "certificate", check),
                private_key: readable(self.private_key, path, "private_key", check),
            },
            trust: trust.validate(self.verify_cert, path, check),
            negotiation,
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
        refuse(self.dh_params, self.verify_depth, path, check);
        if self.match_sip_domain.contains(&SniPattern::None) {
            let message = "`none` is for server domains: every next hop has a host";
            check.error(path.clone().key("match_sip_domain"), message);
        }
        let Self { ca_list, ca_dir, crl_dir, crl_check_all, .. } = self;
        let trust = FileTrust { ca_list, ca_dir, crl_dir, crl_check_all };
        let negotiation = Negotiation {
            tls_method: self.tls_method,
            ciphers_list: self.ciphers_list,
            ec_curve: self.ec_curve,
        };
        check_suites(&negotiation, path, check);
        ClientDomain {
            trust: trust.validate(self.verify_cert, path, check),
            negotiation,
            verify_cert: self.verify_cert,
            identity,
            match_sip_domain: self.match_sip_domain,
            match_ip_address: self.match_ip_address,
            match_listener: self.match_listener.into_iter().map(|pattern| pattern.0).collect(),
        }
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

/// The directory's full path, after a look that it can be read.
fn directory(directory: PathBuf, domain: &KeyPath, key: &str, check: &mut Check<'_>) -> PathBuf {
    let full = check.base_dir.join(directory);
    if let Err(problem) = fs::read_dir(&full) {
        let message = format!("cannot read the directory {}: {problem}", full.display());
        check.error(domain.clone().key(key), message);
    }
    full
}
