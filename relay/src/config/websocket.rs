//! `websocket`: what is asked of browsers, and how they are served.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::Check;
use super::connections::optional_duration;
use super::error::KeyPath;
use super::form;
use super::value::{FileSecret, Host, Secret, count, duration_or_zero, from_text, one_or_many};

/// The largest MSRP chunk sent to a browser by default: 64 KiB. Browsers hand over whole messages, and some
/// clients parse them in one go.
const CHUNK_SIZE: usize = 64 * 1024;

/// A secret for tokens must not be shorter (RFC 7518 §3.2: as long as the hash).
const MIN_TOKEN_SECRET_LEN: usize = 32;

/// What holds for the connections of a `ws://` or `wss://` listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// The path of the handshake's request, exactly; it begins with `/`.
    pub path: String,
    /// Whether a handshake without an Origin is refused; programs send none. Default false.
    pub require_origin: bool,
    /// The origins that pages may come from. Default: any.
    pub allow_origins: Option<Vec<Origin>>,
    /// The hosts that the handshake may be addressed to. Default: any.
    pub allow_hosts: Option<Vec<Host>>,
    /// How long the opening handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// The largest request of the opening handshake, in bytes. Default 16 KiB.
    pub handshake_size: usize,
    /// The largest frame taken, in bytes. Default 16 MiB; nothing of that size is ever held.
    pub max_frame_size: usize,
    /// The largest message taken, in bytes, whatever its frames. Default 16 MiB.
    pub max_message_size: usize,
    /// The most reads in which one message may arrive. Default: no limit; `head_timeout` and `progress_timeout`
    /// protect.
    pub max_msg_chunks: Option<usize>,
    /// How long nothing may come before the peer is asked by a ping. Default 30 s; `None`: it is never asked.
    pub ping_interval: Option<Duration>,
    /// How long it may take to answer; then the connection is closed. Default 10 s.
    pub pong_timeout: Duration,
    /// The largest chunk sent in one WebSocket message, its head not counted. Default 64 KiB.
    pub chunk_size: usize,
    /// Who is known by the handshake already (RFC 7977 §5.3.1).
    pub auth: WebSocketAuth,
}

/// How the handshake may prove who a client is. All off by default: then each AUTH is challenged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebSocketAuth {
    /// Whether a handshake without valid credentials is challenged (401, Digest) and refused.
    pub digest: bool,
    /// The part of a verified client certificate that is the user's name.
    pub client_certificate: Option<CertificateUser>,
    /// Tokens that a web application gives its users.
    pub token: Option<Arc<TokenAuth>>,
}

impl WebSocketAuth {
    /// Whether it takes what a browser sends along by itself, whatever page has asked for the WebSocket
    /// (RFC 6455 §10.2).
    pub(super) fn is_ambient(&self) -> bool {
        let cookie = self.token.as_ref().is_some_and(|token| token.cookie.is_some());
        self.digest || self.client_certificate.is_some() || cookie
    }
}

/// Which part of a client certificate is the user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUser {
    /// The subject's common name.
    CommonName,
    /// The one `rfc822Name` of subjectAltName.
    Email,
    /// The one `dNSName` of subjectAltName.
    DnsName,
}

impl FromStr for CertificateUser {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "common_name" => Ok(Self::CommonName),
            "email" => Ok(Self::Email),
            "dns_name" => Ok(Self::DnsName),
            _ => Err(format!(
                "`{text}` is not a name in a certificate, those are common_name, email and dns_name"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for CertificateUser {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a name in a certificate, such as `email`")
    }
}

/// Tokens: JSON Web Tokens signed with a shared secret (RFC 7519, HS256), with `sub` the user and `exp` the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAuth {
    /// What they are signed with.
    pub secret: Secret,
    /// The cookie that carries one.
    pub cookie: Option<String>,
    /// The query parameter that carries one.
    pub query: Option<String>,
    /// The audience (`aud`) they must name, if any.
    pub audience: Option<String>,
}

/// Where a page comes from: scheme, host and port (RFC 6454 §6.2), such as `https://chat.example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Whether the value of an Origin header is this one.
    pub fn matches(&self, origin: &str) -> bool {
        self.0.eq_ignore_ascii_case(origin)
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an origin, such as `https://chat.example.com` or `null`");
        if text == "null" {
            return Ok(Self(text.to_owned()));
        }
        let (scheme, address) = text.split_once("://").ok_or_else(wrong)?;
        let scheme_ok = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let host_ok = address.parse::<super::HostPort>().is_ok();
        if !scheme_ok || !host_ok {
            return Err(wrong());
        }
        // A browser leaves the scheme's own port out (RFC 6454 §6.2).
        let origin = text.to_ascii_lowercase();
        let own_port = match &*scheme.to_ascii_lowercase() {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        Ok(Self(origin.strip_suffix(own_port).unwrap_or(&origin).to_owned()))
    }
}

/// `websocket`: of all listeners; of one, whatever is not said there is as for all.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileWebSocket {
    /// Whether a handshake without Origin is refused. Every browser sends one; programs do not.
    #[schemars(extend("default" = false))]
    require_origin: Option<bool>,
    /// Where pages may come from. Default: anywhere.
    #[serde(deserialize_with = "some_list")]
    #[schemars(with = "form::OneOrMany<form::Origin>")]
    allow_origins: Option<Vec<Origin>>,
    /// What the handshake may be addressed to. Default: anything.
    #[serde(deserialize_with = "some_list")]
    #[schemars(with = "form::OneOrMany<form::HostName>")]
    allow_hosts: Option<Vec<Host>>,
    /// From the connection, its TLS handshake done, to the end of the opening handshake.
    #[serde(deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration", extend("default" = WebSocket::default().handshake_timeout))]
    handshake_timeout: Option<Duration>,
    /// The longest request of the opening handshake, 512 B to 1 MiB.
    #[schemars(with = "form::Size", extend("default" = WebSocket::default().handshake_size))]
    handshake_size: Option<FileSize>,
    /// The longest frame taken, 1 KiB or more. Nothing of that size is ever held: frames go on while they arrive.
    #[schemars(with = "form::Size", extend("default" = WebSocket::default().max_frame_size))]
    max_frame_size: Option<FileSize>,
    /// The longest message taken, all its frames together, 1 KiB or more.
    #[schemars(with = "form::Size", extend("default" = WebSocket::default().max_message_size))]
    max_message_size: Option<FileSize>,
    /// Reads in which one message may come. Default: no limit; `timeouts.head_timeout` and
    /// `timeouts.progress_timeout` protect.
    #[serde(deserialize_with = "some_count")]
    #[schemars(with = "form::Count")]
    max_msg_chunks: Option<usize>,
    /// Larger chunks for a browser are split into chunks of that, 2 KiB to 16 MiB, their heads not counted.
    #[schemars(with = "form::Size", extend("default" = WebSocket::default().chunk_size))]
    chunk_size: Option<FileSize>,
    /// Silent for so long, the browser is asked by a ping; `0s`: never.
    #[serde(deserialize_with = "some_duration_or_zero")]
    #[schemars(with = "form::DurationOrZero", extend("default" = WebSocket::default().ping_interval))]
    ping_interval: Option<Duration>,
    /// How long it may take to answer; then the connection is closed.
    #[serde(deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration", extend("default" = WebSocket::default().pong_timeout))]
    pong_timeout: Option<Duration>,
    /// Who is known by the handshake already, and gets a session without a challenge (RFC 7977 §5.3.1). All off by
    /// default.
    auth: Option<FileWebSocketAuth>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct FileWebSocketAuth {
    /// HTTP Digest, with the users of `auth`: a handshake without proof is challenged (401).
    digest: bool,
    /// A certificate that verifies: which name in it is the user's. Default: none.
    #[schemars(with = "form::CertificateName")]
    client_certificate: Option<CertificateUser>,
    /// A JSON Web Token (HS256) made by a web application: `sub` the user, `exp` until when it opens a WebSocket.
    token: Option<FileToken>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileToken {
    /// What tokens are signed with, 32 bytes or more.
    #[schemars(with = "form::Secret")]
    secret: FileSecret,
    /// The cookie that carries one. This or `query` is needed, or both.
    #[serde(default)]
    cookie: Option<String>,
    /// The query parameter that carries one.
    #[serde(default)]
    query: Option<String>,
    /// The `aud` that tokens must have. Default: any, or none.
    #[serde(default)]
    audience: Option<String>,
}

/// A size of at least one byte.
#[derive(Debug, Clone, Copy)]
struct FileSize(usize);

impl<'de> Deserialize<'de> for FileSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::value::size(deserializer).map(Self)
    }
}

fn some_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    one_or_many(deserializer).map(Some)
}

fn some_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    count(deserializer).map(Some)
}

fn some_duration_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration_or_zero(deserializer).map(Some)
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            require_origin: false,
            allow_origins: None,
            allow_hosts: None,
            handshake_timeout: Duration::from_secs(10),
            handshake_size: 16 * 1024,
            max_frame_size: 16 * 1024 * 1024,
            max_message_size: 16 * 1024 * 1024,
            max_msg_chunks: None,
            chunk_size: CHUNK_SIZE,
            ping_interval: Some(Duration::from_secs(30)),
            pong_timeout: Duration::from_secs(10),
            auth: WebSocketAuth::default(),
        }
    }
}

impl FileWebSocket {
    /// `base`, with what is said here.
    pub(super) fn over(&self, base: &WebSocket, path: &KeyPath, check: &mut Check<'_>) -> WebSocket {
        let sizes = [
            ("handshake_size", self.handshake_size, 512, 1024 * 1024),
            ("max_frame_size", self.max_frame_size, 1024, usize::MAX),
            ("max_message_size", self.max_message_size, 1024, usize::MAX),
            ("chunk_size", self.chunk_size, 2048, 16 * 1024 * 1024),
        ];
        for (key, value, min, max) in sizes {
            if value.is_some_and(|FileSize(value)| value < min || value > max) {
                let most = if max == usize::MAX { String::new() } else { format!(" to {max}") };
                check.error(path.clone().key(key), format!("goes from {min}{most} bytes"));
            }
        }
        let size = |own: Option<FileSize>, base| own.map_or(base, |FileSize(size)| size);
        let socket = WebSocket {
            path: base.path.clone(),
            require_origin: self.require_origin.unwrap_or(base.require_origin),
            allow_origins: self.allow_origins.clone().or_else(|| base.allow_origins.clone()),
            allow_hosts: self.allow_hosts.clone().or_else(|| base.allow_hosts.clone()),
            handshake_timeout: self.handshake_timeout.unwrap_or(base.handshake_timeout),
            handshake_size: size(self.handshake_size, base.handshake_size),
            max_frame_size: size(self.max_frame_size, base.max_frame_size),
            max_message_size: size(self.max_message_size, base.max_message_size),
            max_msg_chunks: self.max_msg_chunks.or(base.max_msg_chunks),
            chunk_size: size(self.chunk_size, base.chunk_size),
            ping_interval: match self.ping_interval {
                None => base.ping_interval,
                Some(Duration::ZERO) => None,
                own => own,
            },
            pong_timeout: self.pong_timeout.unwrap_or(base.pong_timeout),
            auth: match &self.auth {
                Some(auth) => auth.validate(&path.clone().key("auth"), check),
                None => base.auth.clone(),
            },
        };
        if socket.max_frame_size > socket.max_message_size && self.max_frame_size.is_some() {
            check.warn(path.clone().key("max_frame_size"), "is more than max_message_size, which counts");
        }
        socket
    }
}

impl FileWebSocketAuth {
    fn validate(&self, path: &KeyPath, check: &mut Check<'_>) -> WebSocketAuth {
        let token = self.token.as_ref().and_then(|token| token.validate(&path.clone().key("token"), check));
        WebSocketAuth {
            digest: self.digest,
            client_certificate: self.client_certificate,
            token: token.map(Arc::new),
        }
    }
}

impl FileToken {
    fn validate(&self, path: &KeyPath, check: &mut Check<'_>) -> Option<TokenAuth> {
        if self.cookie.is_none() && self.query.is_none() {
            check.error_at_key(path.clone(), "needs `cookie` or `query`, the name of what carries the token");
        }
        for (key, name) in [("cookie", &self.cookie), ("query", &self.query)] {
            let bad = |b: u8| !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if name.as_ref().is_some_and(|name| name.is_empty() || name.bytes().any(bad)) {
                check.error(path.clone().key(key), "is a name of letters, digits, `-`, `_` and `.`");
            }
        }
        let path = path.clone().key("secret");
        let secret = check.secret(self.secret.clone(), &path)?;
        if secret.reveal().len() < MIN_TOKEN_SECRET_LEN {
            check.error(path, format!("is shorter than {MIN_TOKEN_SECRET_LEN} bytes"));
        }
        Some(TokenAuth {
            secret,
            cookie: self.cookie.clone(),
            query: self.query.clone(),
            audience: self.audience.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    const HEAD: &str = "domain: a\nlisteners:\n  - uri: 'msrp://127.0.0.1:1'\n";

    fn config(text: &str) -> Config {
        let text = format!("{HEAD}{text}");
        Config::parse(&text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn errors(text: &str) -> String {
        Config::parse(text, Path::new(""), "relay.yaml").expect_err("this should be refused").to_string()
    }

    #[test]
    fn a_listener_takes_what_it_does_not_say_from_all() {
        let config = config(
            "  - { uri: 'ws://127.0.0.1:2/chat', websocket: { ping_interval: 0s, allow_origins: 'http://b, null' } }\n\
             \x20 - uri: 'ws://127.0.0.1:3'\n\
             websocket: { require_origin: true, allow_origins: 'https://A.example:444', chunk_size: 8KiB, \
             allow_hosts: [a.test, '127.0.0.1'], handshake_timeout: 1s, handshake_size: 1KiB, max_frame_size: 2KiB, \
             max_message_size: 3KiB, max_msg_chunks: 9, ping_interval: 5s, pong_timeout: 2s }\n",
        );
        assert!(config.listeners[0].websocket.is_none());
        let [chat, plain] = [1, 2].map(|index| config.listeners[index].websocket.as_ref().unwrap());
        assert_eq!((&*chat.path, &*plain.path), ("/chat", "/"));
        let shown = [1, 2].map(|index| config.listeners[index].to_string());
        assert_eq!(shown, ["ws://127.0.0.1:2/chat", "ws://127.0.0.1:3"]);
        assert_eq!((chat.ping_interval, plain.ping_interval), (None, Some(Duration::from_secs(5))));
        let matches = |websocket: &WebSocket, origin| {
            websocket.allow_origins.iter().flatten().any(|allowed: &Origin| allowed.matches(origin))
        };
        assert!(
            matches(chat, "null") && matches(chat, "HTTP://b") && !matches(chat, "https://a.example:444")
        );
        assert!(matches(plain, "https://a.example:444") && !matches(plain, "https://a.example"));
        for websocket in [chat, plain] {
            assert!(websocket.require_origin);
            assert_eq!(websocket.allow_hosts.as_ref().unwrap().len(), 2);
            assert_eq!((websocket.chunk_size, websocket.handshake_size), (8192, 1024));
            assert_eq!((websocket.max_frame_size, websocket.max_message_size), (2048, 3072));
            assert_eq!(
                (websocket.max_msg_chunks, websocket.handshake_timeout),
                (Some(9), Duration::from_secs(1))
            );
            assert_eq!(websocket.pong_timeout, Duration::from_secs(2));
        }
    }

    #[test]
    fn the_port_of_an_origin_is_left_out_where_browsers_do() {
        for (text, origin) in [
            ("https://A.test:443", "https://a.test"),
            ("HTTP://a.test:80", "http://a.test"),
            ("https://a.test:80", "https://a.test:80"),
            ("https://[::1]:443", "https://[::1]"),
            ("https://a.test:8443", "https://a.test:8443"),
            ("https://a.test", "https://a.test"),
        ] {
            assert!(text.parse::<Origin>().unwrap().matches(origin), "{text}");
        }
    }

    #[test]
    fn what_any_page_could_use_without_an_origin_policy_is_warned_of() {
        let token = "token: { secret: '01234567890123456789012345678901', ";
        for (auth, warned) in [
            ("digest: true".to_owned(), true),
            ("client_certificate: email".to_owned(), true),
            (format!("{token}cookie: t }}"), true),
            (format!("{token}cookie: t, query: t }}"), true),
            (format!("{token}query: t }}"), false),
            ("digest: false".to_owned(), false),
        ] {
            for (origins, allowed) in [("", false), (", allow_origins: 'https://a.test'", true)] {
                let text =
                    format!("  - uri: 'ws://127.0.0.1:2'\nwebsocket: {{ auth: {{ {auth} }}{origins} }}\n");
                let warnings = config(&text).warnings.iter().map(ToString::to_string).collect::<String>();
                let found =
                    warnings.contains("listeners[1].uri: its `websocket.auth` takes what browsers send");
                assert_eq!(found, warned && !allowed, "{auth}{origins}: {warnings}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        let with = |text: &str| errors(&format!("{HEAD}{text}"));
        let on_msrp = with("    websocket: {}\n");
        assert!(on_msrp.contains("listeners[0].websocket: is for `ws://` and `wss://`"), "{on_msrp}");
        let alone = errors("domain: a\nlisteners: [ { uri: 'ws://127.0.0.1:2' } ]\n");
        assert!(alone.contains("relay.yaml:2:12: listeners: are all WebSocket"), "{alone}");
        let no_domain = with("  - uri: 'wss://127.0.0.1:2'\n");
        assert!(no_domain.contains("missing key `tls_domain`: `wss://` needs one"), "{no_domain}");
        let domain = with("  - { uri: 'ws://127.0.0.1:2', tls_domain: x }\n");
        assert!(domain.contains("is for `msrps://`, `sips://`, `wss://` and `hep_tls://`"), "{domain}");
        for (text, message) in [
            ("chunk_size: 2047B", "websocket.chunk_size: goes from 2048 to 16777216 bytes"),
            ("chunk_size: 17MiB", "websocket.chunk_size: goes from 2048 to 16777216 bytes"),
            ("handshake_size: 511B", "websocket.handshake_size: goes from 512 to 1048576 bytes"),
            ("max_frame_size: 1023B", "websocket.max_frame_size: goes from 1024 bytes"),
            ("max_message_size: 1023B", "websocket.max_message_size: goes from 1024 bytes"),
            ("max_msg_chunks: 0", "a count of at least 1"),
            ("allow_origins: chat.example.com", "is not an origin"),
            ("allow_origins: 'https://a/b'", "is not an origin"),
            ("auth: { client_certificate: serial }", "`serial` is not a name in a certificate"),
            ("auth: { token: { secret: short, query: t } }", "auth.token.secret: is shorter than 32 bytes"),
            ("auth: { token: { secret: '01234567890123456789012345678901' } }", "needs `cookie` or `query`"),
            (
                "auth: { token: { secret: '01234567890123456789012345678901', cookie: 'a b' } }",
                "auth.token.cookie: is a name of letters",
            ),
        ] {
            let found = with(&format!("websocket: {{ {text} }}\n"));
            assert!(found.contains(message), "{text}: {found}");
        }
        for fits in
            ["chunk_size: 2048B", "chunk_size: 16MiB", "handshake_size: 512B", "max_message_size: 1KiB"]
        {
            config(&format!("websocket: {{ {fits} }}\n"));
        }
    }
}
