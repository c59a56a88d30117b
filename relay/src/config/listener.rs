//! `listeners`: where the relay is reached, and what it calls itself there.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use msrp_proto::uri::Scheme as MsrpScheme;
use serde::{Deserialize, Deserializer};
use tcp_transport::Scheme;
use tcp_transport::listener::DEFAULT_BACKLOG;
use tcp_transport::proxy_protocol::IpNetwork;

use super::Check;
use super::connections::{FileTcp, Tcp};
use super::error::KeyPath;
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
    /// What is set on its connections.
    pub tcp: Tcp,
}

/// What runs on the sockets of a [`Listener`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerTransport {
    /// TCP: `msrp://`, `ws://`.
    Tcp,
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
            (ListenerTransport::Tcp, None) if self.sip => Scheme::Sip,
            (ListenerTransport::Tls { .. }, None) if self.sip => Scheme::Sips,
            (ListenerTransport::Tcp, None) => Scheme::Msrp,
            (ListenerTransport::Tls { .. }, None) => Scheme::Msrps,
            (ListenerTransport::Tcp, Some(_)) => Scheme::Ws,
            (ListenerTransport::Tls { .. }, Some(_)) => Scheme::Wss,
        }
    }

    /// Whether MSRP is served, alone or beside SIP.
    pub fn serves_msrp(&self) -> bool {
        self.websocket.is_some() || !self.sip
    }

    /// The scheme of the MSRP URIs that lead here.
    pub fn msrp_scheme(&self) -> MsrpScheme {
        if self.is_secure() { MsrpScheme::Msrps } else { MsrpScheme::Msrp }
    }

    /// Whether TLS protects its connections.
    pub fn is_secure(&self) -> bool {
        matches!(self.transport, ListenerTransport::Tls { .. })
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
        write!(f, "{}://{}:{}{path}", self.scheme(), self.host, self.port)
    }
}

/// The path of a URI that has one worth showing.
fn shown_path(path: &str) -> &str {
    if path == "/" { "" } else { path }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileListener {
    uri: ListenUri,
    #[serde(default)]
    advertise: Option<HostPort>,
    #[serde(default)]
    tls_domain: Option<String>,
    #[serde(default, deserialize_with = "optional_count")]
    max_connections: Option<usize>,
    #[serde(default, deserialize_with = "optional_count")]
    backlog: Option<usize>,
    #[serde(default = "yes")]
    ipv6_only: bool,
    #[serde(default)]
    reuse_port: bool,
    #[serde(default, deserialize_with = "one_or_many")]
    proxy_from: Vec<IpNetwork>,
    #[serde(default)]
    tcp: FileTcp,
    #[serde(default)]
    websocket: Option<FileWebSocket>,
}

fn yes() -> bool {
    true
}

/// `msrp://host:port`, `msrps://host:port`, `sip://host:port`, `sips://host:port`, `ws://host:port/path` or
/// `wss://host:port/path`. The two of SIP may say `;transport=tcp`, as SIP URIs do; there is no other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListenUri {
    scheme: Scheme,
    host: Host,
    port: u16,
    /// `/` where none is given; always there for WebSocket, else never.
    path: Option<String>,
}

impl fmt::Display for ListenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port, path } = self;
        write!(f, "{scheme}://{host}:{port}{}", path.as_deref().map_or("", shown_path))
    }
}

impl FromStr for ListenUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, address)) = text.split_once("://") else {
            return Err(format!(
                "`{text}` has no scheme: `msrp://`, `msrps://`, `sip://`, `sips://`, `ws://` or `wss://` in front of \
                 the host"
            ));
        };
        let scheme = listen_scheme(scheme)?;
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
        Ok(Self { scheme, host, port, path: websocket.then(|| path.to_owned()) })
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

fn listen_scheme(text: &str) -> Result<Scheme, String> {
    const SERVED: [Scheme; 6] =
        [Scheme::Msrp, Scheme::Msrps, Scheme::Sip, Scheme::Sips, Scheme::Ws, Scheme::Wss];
    let scheme = SERVED.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text));
    scheme.ok_or_else(|| {
        format!("`{text}` is not a scheme served here, those are msrp, msrps, sip, sips, ws and wss")
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
            let address = (listener.uri.host.clone(), listener.uri.port);
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
            let message = "are all WebSocket or SIP, and what clients are given in Use-Path is an `msrps://` or `msrp://` \
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
        let tcp = self.tcp.over(tcp, &path.clone().key("tcp"), check);
        if self.backlog.is_some_and(|backlog| backlog > MAX_BACKLOG) {
            check.error(path.clone().key("backlog"), format!("is more than {MAX_BACKLOG}"));
        }
        let backlog = self.backlog.and_then(|backlog| i32::try_from(backlog).ok()).unwrap_or(DEFAULT_BACKLOG);
        let ListenUri { scheme, host, port, path: request_path } = self.uri;
        if matches!(self.advertise, Some(HostPort { port: Some(0), .. })) {
            check.error(path.clone().key("advertise"), "port 0 cannot be reached");
        }
        let websocket_path = path.clone().key("websocket");
        if request_path.is_none() && self.websocket.is_some() {
            let message = format!("is for `ws://` and `wss://`, and this listener is `{scheme}://`");
            check.error_at_key(websocket_path.clone(), message);
        }
        let own = self.websocket.unwrap_or_default();
        let websocket =
            request_path.map(|path| WebSocket { path, ..own.over(websocket, &websocket_path, check) });
        if is_sip(scheme) && !sip {
            let message = format!("`{scheme}://` needs the section `sip`, which says where SIP goes");
            check.error(path.clone().key("uri"), message);
        }
        let secure = matches!(scheme, Scheme::Msrps | Scheme::Sips | Scheme::Wss);
        let transport = match (secure, self.tls_domain) {
            (false, None) => ListenerTransport::Tcp,
            (false, Some(_)) => {
                let message =
                    format!("is for `msrps://`, `sips://` and `wss://`, and this listener is `{scheme}://`");
                check.error(path.clone().key("tls_domain"), message);
                return None;
            }
            (true, None) => {
                check.error(path.clone(), format!("missing key `tls_domain`: `{scheme}://` needs one"));
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
            advertise: self.advertise,
            max_connections: self.max_connections,
            backlog,
            ipv6_only: self.ipv6_only,
            reuse_port: self.reuse_port,
            proxy_from: self.proxy_from,
            tcp,
        })
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
            advertise: None,
            max_connections: None,
            backlog: DEFAULT_BACKLOG,
            ipv6_only: true,
            reuse_port: false,
            proxy_from: Vec::new(),
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
