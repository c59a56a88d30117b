//! `listeners`: where the relay is reached, and what it calls itself there.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use msrp_proto::uri::Scheme as MsrpScheme;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tcp_transport::Scheme;
use tcp_transport::hep::HepTransport;
use tcp_transport::listener::DEFAULT_BACKLOG;
use tcp_transport::proxy_protocol::IpNetwork;

use super::Check;
use super::connections::{FileTcp, Tcp};
use super::error::KeyPath;
use super::form;
use super::tls::Tls;
use super::value::{Host, HostPort, from_text, one_or_many, optional_count};
use super::websocket::{FileWebSocket, WebSocket};

/// The longest backlog: more than a second of a storm of returning clients, and more than the kernel gives.
const MAX_BACKLOG: usize = 65_535;

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The host to listen on; a name is resolved when the relay starts.
    pub host: Host,
    /// The port to listen on; 0 lets the system choose.
    pub port: u16,
    /// What runs on its sockets.
    pub transport: ListenerTransport,
    /// WebSocket on top of that, where it is `ws://` or `wss://`.
    pub websocket: Option<WebSocket>,
    /// Whether SIP is served: alone, where it is `sip://` or `sips://`; beside MSRP, by the subprotocol of the
    /// handshake, on a WebSocket of a relay that has a `sip` section.
    pub sip: bool,
    /// Whether HEP is received, and nothing else served: `hep_udp://`, `hep_tcp://`, `hep_tls://`.
    pub hep: bool,
    /// What clients and relays see in URIs, where it differs from `domain` and the port: behind NAT, or a load
    /// balancer. See [`Listener::advertised`].
    pub advertise: Option<HostPort>,
    /// The most connections of this listener at once. Default: no limit of its own.
    pub max_connections: Option<usize>,
    /// How many connections may wait to be accepted. Default 4096.
    pub backlog: i32,
    /// Whether an IPv6 address takes IPv6 alone, the default, or IPv4 too.
    pub ipv6_only: bool,
    /// Whether others may listen on the same address and port, and connections be opened from it. Default false.
    pub reuse_port: bool,
    /// Proxies that name their clients by the PROXY protocol; default none.
    pub proxy_from: Vec<IpNetwork>,
    /// Whether a proxy in front of a listener without TLS ends the clients' TLS, so that to them, and in URIs, it is
    /// `msrps`. Default false.
    pub behind_tls: bool,
    /// What is set on its connections.
    pub tcp: Tcp,
}

/// What runs on the sockets of a [`Listener`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerTransport {
    /// TCP: `msrp://`, `ws://`.
    Tcp,
    /// UDP: `hep_udp://`.
    Udp,
    /// TLS: `msrps://`, `wss://`.
    Tls {
        /// The TLS server domain used, unless another one matches the connection better; it exists in
        /// [`Tls::server_domains`].
        domain: String,
    },
}

impl Listener {
    /// What it serves, as the scheme of its `uri` says it.
    pub fn scheme(&self) -> Scheme {
        match (&self.transport, &self.websocket) {
            _ if self.hep => Scheme::Hep,
            (ListenerTransport::Tcp, None) if self.sip => Scheme::Sip,
            (ListenerTransport::Tls { .. }, None) if self.sip => Scheme::Sips,
            (ListenerTransport::Tcp | ListenerTransport::Udp, None) => Scheme::Msrp,
            (ListenerTransport::Tls { .. }, None) => Scheme::Msrps,
            (ListenerTransport::Tcp | ListenerTransport::Udp, Some(_)) => Scheme::Ws,
            (ListenerTransport::Tls { .. }, Some(_)) => Scheme::Wss,
        }
    }

    /// The scheme as it stands in its `uri`, where that of HEP says the transport too.
    pub fn uri_scheme(&self) -> &'static str {
        match &self.transport {
            _ if !self.hep => self.scheme().as_str(),
            ListenerTransport::Udp => HepTransport::Udp.as_str(),
            ListenerTransport::Tcp => HepTransport::Tcp.as_str(),
            ListenerTransport::Tls { .. } => HepTransport::Tls.as_str(),
        }
    }

    /// Whether MSRP is served, alone or beside SIP.
    pub fn serves_msrp(&self) -> bool {
        self.websocket.is_some() || !self.sip && !self.hep
    }

    /// Whether only this machine reaches it.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// The scheme of the MSRP URIs that lead here.
    pub fn msrp_scheme(&self) -> MsrpScheme {
        if self.is_secure() { MsrpScheme::Msrps } else { MsrpScheme::Msrp }
    }

    /// Whether TLS protects its clients' connections: here, or in front of a proxy.
    pub fn is_secure(&self) -> bool {
        self.behind_tls || matches!(self.transport, ListenerTransport::Tls { .. })
    }

    /// Whether a client has come by TLS that ended before this listener, over a connection that a proxy named the
    /// client of or not. With [`proxy_from`](Self::proxy_from), whoever went around the proxy has not.
    pub fn is_secure_before(&self, proxied: bool) -> bool {
        self.behind_tls && (proxied || self.proxy_from.is_empty())
    }

    /// The host and port of the URIs that lead here, once the socket is bound to `bound_port`.
    pub fn advertised(&self, domain: &Host, bound_port: u16) -> (Host, u16) {
        match &self.advertise {
            Some(HostPort { host, port }) => (host.clone(), port.unwrap_or(bound_port)),
            None => (domain.clone(), bound_port),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.websocket.as_ref().map_or("", |websocket| shown_path(&websocket.path));
        write!(f, "{}://{}:{}{path}", self.uri_scheme(), self.host, self.port)
    }
}

/// The path of a URI that has one worth showing.
fn shown_path(path: &str) -> &str {
    if path == "/" { "" } else { path }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileListener {
    /// What is served, and where: scheme, address or name, port, and for WebSocket the path. `msrp` (TCP), `msrps`
    /// (TLS), `ws`, `wss` (WebSocket); with the section `sip` also `sip`, `sips`, and with `hep` `hep_udp`,
    /// `hep_tcp`, `hep_tls`. Without a port: 2855, 80, 443, 5060, 5061, 5656. Port 0: the system chooses.
    #[schemars(with = "form::ListenUri")]
    uri: ListenUri,
    /// What others see in URIs where that differs from `domain` and the port: behind NAT or a load balancer, or for
    /// several listeners with a name each.
    #[serde(default)]
    #[schemars(with = "form::HostPort")]
    advertise: Option<HostPort>,
    /// The one of `tls.server_domains` that serves it, unless another one matches the connection better. Required
    /// for `msrps`, `sips`, `wss` and `hep_tls`, and for nothing else.
    #[serde(default)]
    tls_domain: Option<String>,
    /// The most connections of this listener at once. Default: no limit of its own.
    #[serde(default, deserialize_with = "optional_count")]
    #[schemars(with = "form::Count")]
    max_connections: Option<usize>,
    /// How many connections may wait to be accepted; up to 65535, and the system's limit.
    #[serde(default, deserialize_with = "optional_count")]
    #[schemars(with = "form::Count", extend("default" = DEFAULT_BACKLOG))]
    backlog: Option<usize>,
    /// Whether an IPv6 address takes IPv6 alone. `false`: IPv4 too.
    #[serde(default = "yes")]
    ipv6_only: bool,
    /// Whether others may listen on the same address and port, and connections be opened from it.
    #[serde(default)]
    reuse_port: bool,
    /// Load balancers that name their clients by the PROXY protocol, version 1 or 2. From them it is required, and
    /// from nobody else believed. Default: none.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::IpNetwork>")]
    proxy_from: Vec<IpNetwork>,
    /// Whether a proxy in front ends the clients' TLS: then URIs are `msrps`, and AUTH counts as over TLS. For
    /// `msrp` and `ws`.
    #[serde(default)]
    behind_tls: bool,
    /// As the section [`tcp`](#tcp), for this listener; what is not said here is as there.
    #[serde(default)]
    #[schemars(extend("x-as" = "tcp"))]
    tcp: Option<FileTcp>,
    /// As the section [`websocket`](#websocket), for this listener; what is not said here is as there. For `ws` and
    /// `wss`.
    #[serde(default)]
    #[schemars(extend("x-as" = "websocket"))]
    websocket: Option<FileWebSocket>,
}

fn yes() -> bool {
    true
}

/// `msrp://host:port`, `msrps://host:port`, `sip://host:port`, `sips://host:port`, `ws://host:port/path` or
/// `wss://host:port/path`; `hep_udp://host:port`, `hep_tcp://host:port` or `hep_tls://host:port`. The two of SIP may say
/// `;transport=tcp`, as SIP URIs do; there is no other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListenUri {
    scheme: Scheme,
    /// With [`Scheme::Hep`], and only there.
    hep: Option<HepTransport>,
    host: Host,
    port: u16,
    /// `/` where none is given; always there for WebSocket, else never.
    path: Option<String>,
}

impl fmt::Display for ListenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path, .. } = self;
        write!(f, "{}://{host}:{port}{}", self.shown_scheme(), path.as_deref().map_or("", shown_path))
    }
}

impl ListenUri {
    fn shown_scheme(&self) -> &'static str {
        self.hep.map_or(self.scheme.as_str(), HepTransport::as_str)
    }
}

impl FromStr for ListenUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, address)) = text.split_once("://") else {
            return Err(format!(
                "`{text}` has no scheme: `msrp://`, `msrps://`, `sip://`, `sips://`, `ws://`, `wss://`, `hep_udp://`, \
                 `hep_tcp://` or `hep_tls://` in front of the host"
            ));
        };
        let (scheme, hep) = listen_scheme(scheme)?;
        let websocket = matches!(scheme, Scheme::Ws | Scheme::Wss);
        let (address, path) = match address.find('/') {
            Some(slash) if websocket => address.split_at(slash),
            _ => (address, "/"),
        };
        let address = match address.split_once(';') {
            Some((address, transport))
                if is_sip(scheme) && transport.eq_ignore_ascii_case("transport=tcp") =>
            {
                address
            }
            _ => address,
        };
        if address.contains(['/', '@', ';', '?']) {
            return Err(format!("`{text}` is more than a scheme, a host and a port"));
        }
        let pchar = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&b);
        if !path.bytes().all(pchar) {
            return Err(format!("`{path}` is not the path of a URI"));
        }
        let HostPort { host, port } = address.parse()?;
        let port = port.unwrap_or(scheme.default_port());
        Ok(Self { scheme, hep, host, port, path: websocket.then(|| path.to_owned()) })
    }
}

impl<'de> Deserialize<'de> for ListenUri {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a URI to listen on, such as `msrps://0.0.0.0:2855`")
    }
}

/// A listener's `uri` as [`Listener`] shows it, for those who refer to one.
pub(super) fn normal_uri(text: &str) -> Result<String, String> {
    text.parse().map(|uri: ListenUri| uri.to_string())
}

/// The scheme of an MSRP URI.
pub(super) fn parse_scheme(text: &str) -> Result<MsrpScheme, String> {
    match text.to_ascii_lowercase().as_str() {
        "msrp" => Ok(MsrpScheme::Msrp),
        "msrps" => Ok(MsrpScheme::Msrps),
        _ => Err(format!("`{text}` is not a scheme dialled here, those are msrp and msrps")),
    }
}

fn listen_scheme(text: &str) -> Result<(Scheme, Option<HepTransport>), String> {
    const SERVED: [Scheme; 6] =
        [Scheme::Msrp, Scheme::Msrps, Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss];
    let scheme = SERVED.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text));
    let hep = [HepTransport::Udp, HepTransport::Tcp, HepTransport::Tls];
    let hep = hep.into_iter().find(|transport| transport.as_str().eq_ignore_ascii_case(text));
    let found = scheme.map(|scheme| (scheme, None)).or(hep.map(|hep| (Scheme::Hep, Some(hep))));
    found.ok_or_else(|| {
        format!(
            "`{text}` is not a scheme served here, those are msrp, msrps, sip, sips, ws, wss, hep_udp, hep_tcp and \
             hep_tls"
        )
    })
}

fn is_sip(scheme: Scheme) -> bool {
    matches!(scheme, Scheme::Sip | Scheme::Sips)
}

impl FileListener {
    pub(super) fn validate_all(
        listeners: Vec<Self>,
        tls: &Tls,
        tcp: &Tcp,
        websocket: &WebSocket,
        sip: bool,
        check: &mut Check<'_>,
    ) -> Vec<Listener> {
        let path = KeyPath::new(&["listeners"]);
        if listeners.is_empty() {
            check.error(path.clone(), "is empty: at least one listener is needed");
        }
        let mut first_use = BTreeMap::new();
        let validated = listeners.into_iter().enumerate().filter_map(|(index, listener)| {
            let path = path.clone().index(index);
            let is_udp = listener.uri.hep == Some(HepTransport::Udp);
            let address = (listener.uri.host.clone(), listener.uri.port, is_udp);
            if address.1 != 0
                && let Some(first) = first_use.insert(address, index)
            {
                check.error(path.clone().key("uri"), format!("listeners[{first}] has the same address"));
            }
            listener.validate(&path, tls, tcp, websocket, sip, check)
        });
        let validated: Vec<Listener> = validated.collect();
        // The URIs handed out are for everybody, and others cannot connect to a WebSocket (RFC 7977 §5.2.2).
        let reachable = |listener: &Listener| listener.serves_msrp() && listener.websocket.is_none();
        if !validated.is_empty() && !validated.iter().any(reachable) {
            let message = "are all WebSocket, SIP or HEP, and what clients are given in Use-Path is an `msrps://` or `msrp://` \
                           listener: at least one is needed";
            check.error(path, message);
        }
        validated
    }

    fn validate(
        self,
        path: &KeyPath,
        tls: &Tls,
        tcp: &Tcp,
        websocket: &WebSocket,
        sip: bool,
        check: &mut Check<'_>,
    ) -> Option<Listener> {
        self.check_hep(path, check);
        let tcp = self.tcp.unwrap_or_default().over(tcp, &path.clone().key("tcp"), check);
        if self.backlog.is_some_and(|backlog| backlog > MAX_BACKLOG) {
            check.error(path.clone().key("backlog"), format!("is more than {MAX_BACKLOG}"));
        }
        let backlog = self.backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(DEFAULT_BACKLOG);
        let shown = self.uri.shown_scheme();
        let ListenUri { scheme, hep, host, port, path: request_path } = self.uri;
        if matches!(self.advertise, Some(HostPort { port: Some(0), .. })) {
            check.error(path.clone().key("advertise"), "port 0 cannot be reached");
        }
        let websocket_path = path.clone().key("websocket");
        if request_path.is_none() && self.websocket.is_some() {
            let message = format!("is for `ws://` and `wss://`, and this listener is `{shown}://`");
            check.error_at_key(websocket_path.clone(), message);
        }
        let own = self.websocket.unwrap_or_default();
        let websocket =
            request_path.map(|path| WebSocket { path, ..own.over(websocket, &websocket_path, check) });
        if is_sip(scheme) && !sip {
            let message = format!("`{scheme}://` needs the section `sip`, which says where SIP goes");
            check.error(path.clone().key("uri"), message);
        }
        if websocket.as_ref().is_some_and(|own| own.auth.is_ambient() && own.allow_origins.is_none()) {
            let message = "its `websocket.auth` takes what browsers send along by themselves (a cookie, a certificate, \
                           a password), and without `allow_origins` any page they visit can use that";
            check.warn(path.clone().key("uri"), message);
        }
        let secure =
            matches!(scheme, Scheme::Msrps | Scheme::Sips | Scheme::Wss) || hep == Some(HepTransport::Tls);
        if self.behind_tls && hep.is_none() {
            let path = path.clone().key("behind_tls");
            if secure {
                check
                    .error(path, format!("is for `msrp://` and `ws://`, and this listener is `{scheme}://`"));
            } else if self.proxy_from.is_empty() && !is_loopback(&host) {
                let message =
                    "trusts whoever connects to have come by TLS, and without `proxy_from` anybody may";
                check.warn(path, message);
            }
        }
        let transport = match (secure, self.tls_domain) {
            (false, None) if hep == Some(HepTransport::Udp) => ListenerTransport::Udp,
            (false, None) => ListenerTransport::Tcp,
            (false, Some(_)) => {
                let message = format!(
                    "is for `msrps://`, `sips://`, `wss://` and `hep_tls://`, and this listener is `{shown}://`"
                );
                check.error(path.clone().key("tls_domain"), message);
                return None;
            }
            (true, None) => {
                check.error(path.clone(), format!("missing key `tls_domain`: `{shown}://` needs one"));
                return None;
            }
            (true, Some(domain)) if tls.server_domains.contains_key(&domain) => {
                ListenerTransport::Tls { domain }
            }
            (true, Some(domain)) => {
                let message = format!("there is no `{domain}` in tls.server_domains");
                check.error(path.clone().key("tls_domain"), message);
                return None;
            }
        };
        Some(Listener {
            host,
            port,
            transport,
            sip: is_sip(scheme) || websocket.is_some() && sip,
            websocket,
            hep: hep.is_some(),
            advertise: self.advertise,
            max_connections: self.max_connections,
            backlog,
            ipv6_only: self.ipv6_only,
            reuse_port: self.reuse_port,
            proxy_from: self.proxy_from,
            behind_tls: self.behind_tls,
            tcp,
        })
    }
}

impl FileListener {
    /// What is not for listeners of HEP, or not for those without connections.
    fn check_hep(&self, path: &KeyPath, check: &mut Check<'_>) {
        let Some(transport) = self.uri.hep else { return };
        for (key, given) in [("advertise", self.advertise.is_some()), ("behind_tls", self.behind_tls)] {
            if given {
                let message =
                    format!("is for what has URIs of its own, and this listener is `{transport}://`");
                check.error_at_key(path.clone().key(key), message);
            }
        }
        let of_connections = [
            ("max_connections", self.max_connections.is_some()),
            ("backlog", self.backlog.is_some()),
            ("proxy_from", !self.proxy_from.is_empty()),
            ("tcp", self.tcp.is_some()),
        ];
        for (key, _) in of_connections.iter().filter(|(_, given)| *given && transport == HepTransport::Udp) {
            check.error_at_key(path.clone().key(key), "is for connections, and `hep_udp://` has none");
        }
    }
}

/// Whether only this machine reaches what listens there.
fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => ip.to_canonical().is_loopback(),
        Host::Name(name) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
impl Listener {
    /// A plain listener with the defaults.
    pub(super) fn for_test(host: &str, port: u16) -> Self {
        let mut check = Check::new(std::path::Path::new(""));
        Self {
            host: host.parse().unwrap(),
            port,
            transport: ListenerTransport::Tcp,
            websocket: None,
            sip: false,
            hep: false,
            advertise: None,
            max_connections: None,
            backlog: DEFAULT_BACKLOG,
            ipv6_only: true,
            reuse_port: false,
            proxy_from: Vec::new(),
            behind_tls: false,
            tcp: FileTcp::default().validate(std::time::Duration::from_secs(3600), &mut check),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_uri_is_scheme_host_port() {
        for (text, shown) in [
            ("msrp://127.0.0.1:2855", "msrp://127.0.0.1:2855"),
            ("MSRPS://relay.test", "msrps://relay.test:2855"),
            ("msrps://[::]:0", "msrps://[::]:0"),
            ("ws://relay.test", "ws://relay.test:80"),
            ("wss://relay.test/", "wss://relay.test:443"),
            ("wss://[::1]:8443/msrp/chat", "wss://[::1]:8443/msrp/chat"),
            ("sip://relay.test", "sip://relay.test:5060"),
            ("sip://[::1]:6000;transport=TCP", "sip://[::1]:6000"),
            ("sips://relay.test;transport=tcp", "sips://relay.test:5061"),
            ("hep_udp://[::1]", "hep_udp://[::1]:5656"),
            ("HEP_TCP://relay.test", "hep_tcp://relay.test:5656"),
            ("hep_tls://0.0.0.0:9061", "hep_tls://0.0.0.0:9061"),
        ] {
            let uri: ListenUri = text.parse().unwrap();
            assert_eq!(uri.to_string(), shown);
        }
        for text in [
            "127.0.0.1:2855",
            "sip://a:1;transport=udp",
            "sip://a:1;lr",
            "sip://u@a:1",
            "sip://a:1/",
            "sctp://a:1",
            "hep://a:1",
            "hep_udp://a/b",
            "hep_udp://a;transport=tcp",
            "msrp://",
            "msrp://a/b",
            "msrp://u@a",
            "msrp://a;tcp",
            "msrp://::1",
            "wss://a/b?c",
            "wss://a/b#c",
            "wss://a/b c",
            "ws://u@a/b",
            "http://a",
        ] {
            assert!(text.parse::<ListenUri>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_listener_behind_tls_is_msrps_to_others() {
        let parse = |text: &str| {
            let text = format!("domain: a\nlisteners: [ {{ {text} }}, {{ uri: 'msrp://127.0.0.1:1' }} ]\n");
            super::super::Config::parse(&text, std::path::Path::new(""), "relay.yaml")
        };
        for (uri, more, warned) in [
            ("ws://127.0.0.1:2", "", false),
            ("ws://[::1]:2", "", false),
            ("ws://localhost:2", "", false),
            ("msrp://127.0.0.1:2", "", false),
            ("ws://0.0.0.0:2", "", true),
            ("ws://192.0.2.1:2", "", true),
            ("ws://relay.test:2", "", true),
            ("msrp://192.0.2.1:2", "", true),
            ("ws://192.0.2.1:2", ", proxy_from: 192.0.2.2", false),
        ] {
            let config = parse(&format!("uri: '{uri}', behind_tls: true{more}")).unwrap();
            let [listener, plain] = &*config.listeners else { panic!("{config:?}") };
            assert_eq!((listener.msrp_scheme(), listener.is_secure()), (MsrpScheme::Msrps, true), "{uri}");
            assert_eq!((plain.msrp_scheme(), plain.is_secure()), (MsrpScheme::Msrp, false));
            assert_eq!(listener.is_secure_before(false), listener.proxy_from.is_empty(), "around the proxy");
            assert!(listener.is_secure_before(true) && !plain.is_secure_before(true));
            let warnings = config.warnings.iter().map(ToString::to_string).collect::<String>();
            assert_eq!(
                warnings.contains("listeners[0].behind_tls: trusts whoever connects"),
                warned,
                "{uri} {warnings}"
            );
            assert!(!warnings.contains("no listener is msrps"), "{warnings}");
        }
        let tls = parse("uri: 'wss://127.0.0.1:2', tls_domain: x, behind_tls: true").unwrap_err().to_string();
        assert!(tls.contains("listeners[0].behind_tls: is for `msrp://` and `ws://`"), "{tls}");
    }

    #[test]
    fn the_advertised_address_falls_back_on_domain_and_bound_port() {
        let domain = Host::Name("relay.test".to_owned());
        let mut listener = Listener::for_test("127.0.0.1", 0);
        assert_eq!(listener.advertised(&domain, 4711), (domain.clone(), 4711));
        listener.advertise = Some("msrp.example.com".parse().unwrap());
        assert_eq!(listener.advertised(&domain, 4711), ("msrp.example.com".parse().unwrap(), 4711));
        listener.advertise = Some("msrp.example.com:443".parse().unwrap());
        assert_eq!(listener.advertised(&domain, 4711), ("msrp.example.com".parse().unwrap(), 443));
    }
}
