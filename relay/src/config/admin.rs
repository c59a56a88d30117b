//! `admin`: how the operator and the monitoring reach the running relay.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::document::{self, Node};
use super::error::{ConfigErrors, KeyPath};
use super::form;
use super::value::{self, FileSecret, Host, HostPort, Secret, from_text, one_or_many};
use super::{Check, MAX_FILE, read};

/// The shortest token: 16 characters, which nobody guesses if they are random.
const MIN_TOKEN: usize = 16;

/// The permissions of a Unix socket where nothing else is said: the relay's own user.
const DEFAULT_SOCKET_MODE: u32 = 0o600;

/// Where the admin interface is, and who may use it.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens; never empty.
    pub listen: Vec<AdminAddress>,
    /// What a request must bring, as `Authorization: Bearer …`. Default: nothing, which is permitted on loopback and
    /// Unix sockets only.
    pub token: Option<Secret>,
    /// The permissions of Unix sockets. Default 0600.
    pub socket_mode: u32,
    /// Names by which browsers may call it, besides IP addresses, `localhost` and the relay's domain. Others are
    /// refused, so that no web page reaches it under a name of its own (DNS rebinding).
    pub allow_hosts: Vec<Host>,
}

impl Admin {
    /// The section `admin` of a configuration file, alone: whoever manages a relay may neither read its keys nor care
    /// for mistakes elsewhere. `None`: there is no such section.
    ///
    /// # Errors
    /// What is wrong with it, at its line; or with the file as a whole.
    pub fn load(path: &Path) -> Result<Option<Self>, ConfigErrors> {
        #[derive(Deserialize)]
        struct FileRelay {
            domain: Host,
            #[serde(default)]
            admin: Option<FileAdmin>,
        }
        let file_name = path.display().to_string();
        let text =
            value::read_text(path, MAX_FILE).map_err(|error| ConfigErrors::whole_file(&file_name, error))?;
        let mut document = document::parse(&file_name, &text)?;
        if let Node::Map(sections) = &mut document {
            sections.retain(|(key, _)| key == "domain" || key == "admin");
        }
        let FileRelay { domain, admin } =
            read::read(&document).map_err(|problems| ConfigErrors::locate(&file_name, &text, problems))?;
        let mut check = Check::new(path.parent().unwrap_or(Path::new("")));
        let admin = admin.map(|admin| admin.validate(&domain, &mut check));
        if check.errors.is_empty() {
            Ok(admin)
        } else {
            Err(ConfigErrors::locate(&file_name, &text, check.errors))
        }
    }
}

/// One place where the admin interface listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// `http://ADDRESS:PORT`
    Http(SocketAddr),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl AdminAddress {
    /// Whether only this machine gets there.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Http(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err("a Unix socket needs a path: `unix:/run/msrp-relay/admin.sock`".to_owned())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(format!(
                "`{text}` is neither `http://ADDRESS:PORT` nor `unix:PATH`; TLS is for a web server in front of it"
            ));
        };
        let HostPort { host, port } = rest.strip_suffix('/').unwrap_or(rest).parse()?;
        let Some(port) = port else { return Err(format!("`{text}` lacks a port")) };
        let ip: IpAddr = match host {
            Host::Ip(ip) => ip,
            Host::Name(name) if name.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
            Host::Name(name) => return Err(format!("`{name}` is a name, and this needs an address")),
        };
        Ok(Self::Http(SocketAddr::new(ip, port)))
    }
}

/// Permissions as `chmod` takes them.
#[derive(Debug, Clone, Copy)]
struct Mode(u32);

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && text.len() >= 3 => Ok(Self(mode)),
            _ => Err(format!("`{text}` is not permissions, such as '0660'")),
        }
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "permissions in quotes, such as '0660'")
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileAdmin {
    /// Where it listens: `http://ADDRESS:PORT`, `unix:PATH`.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::AdminAddress>")]
    listen: Vec<AdminAddress>,
    /// What a request must bring, as `Authorization: Bearer`, or as password; 16 characters or more. Needed beyond
    /// this machine. Default: none.
    #[serde(default)]
    #[schemars(with = "form::Secret")]
    token: Option<FileSecret>,
    /// The permissions of Unix sockets.
    #[serde(default)]
    #[schemars(with = "form::Mode", extend("default" = "0600"))]
    socket_mode: Option<Mode>,
    /// Names by which browsers may call it, besides addresses, `localhost` and `domain`. Default: no others.
    #[serde(default, deserialize_with = "one_or_many")]
    #[schemars(with = "form::OneOrMany<form::HostName>")]
    allow_hosts: Vec<Host>,
}

impl FileAdmin {
    pub(super) fn validate(self, domain: &Host, check: &mut Check<'_>) -> Admin {
        let path = KeyPath::new(&["admin"]);
        if self.listen.is_empty() {
            check.error(path.clone().key("listen"), "names no address");
        }
        let has_token = self.token.is_some();
        let token = self.token.and_then(|token| check.secret(token, &path.clone().key("token")));
        if let Some(token) = &token {
            if token.reveal().len() < MIN_TOKEN {
                check.error(path.clone().key("token"), format!("is shorter than {MIN_TOKEN} characters"));
            }
            if !token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
                check.error(path.clone().key("token"), "is letters, digits and signs, without spaces");
            }
        }
        for address in &self.listen {
            let path = path.clone().key("listen");
            if !address.is_local() && !has_token {
                check.error(path, format!("{address} is open to others, and needs a `token`"));
            } else if !address.is_local() {
                check
                    .warn(path, format!("{address} is not encrypted: whoever is on the way reads the token"));
            }
        }
        if self.socket_mode.is_some() && !self.listen.iter().any(|at| matches!(at, AdminAddress::Unix(_))) {
            check.error(path.clone().key("socket_mode"), "is for a `unix:` address, and there is none");
        }
        let listen = self.listen.into_iter().map(|address| match address {
            AdminAddress::Unix(path) => AdminAddress::Unix(check.base_dir.join(path)),
            http => http,
        });
        let listen = listen.collect();
        let mut allow_hosts = self.allow_hosts;
        allow_hosts.push(domain.clone());
        Admin {
            listen,
            token,
            socket_mode: self.socket_mode.map_or(DEFAULT_SOCKET_MODE, |Mode(mode)| mode),
            allow_hosts,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn plain(text: &str) -> Result<(Admin, Vec<String>), String> {
        let text =
            format!("domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:1' }} ]\nadmin: {{ {text} }}\n");
        let config = Config::parse(&text, Path::new("/etc/relay"), "relay.yaml")
            .map_err(|errors| errors.errors()[0].to_string())?;
        Ok((config.admin.unwrap(), config.warnings.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn addresses_are_read() {
        let (found, _) = plain("listen: 'http://127.0.0.1:8088'").unwrap();
        assert_eq!(found.listen, [AdminAddress::Http("127.0.0.1:8088".parse().unwrap())]);
        assert!(found.token.is_none() && found.socket_mode == 0o600);
        let (found, _) =
            plain("listen: ['http://[::1]:1/', 'http://localhost:0', 'unix:run/a.sock', 'unix:///run/b'], socket_mode: '0660'")
                .unwrap();
        let texts: Vec<_> = found.listen.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["http://[::1]:1", "http://127.0.0.1:0", "unix:/etc/relay/run/a.sock", "unix:/run/b"]
        );
        assert_eq!(found.socket_mode, 0o660);
        let (found, _) = plain("listen: 'unix:a', allow_hosts: relay.example.com").unwrap();
        assert_eq!(found.allow_hosts, ["relay.example.com".parse().unwrap(), "a".parse().unwrap()]);
    }

    #[test]
    fn only_this_machine_gets_in_without_a_token() {
        for open in ["http://0.0.0.0:1", "http://192.0.2.1:1", "http://[::]:1"] {
            let error = plain(&format!("listen: '{open}'")).unwrap_err();
            assert!(error.contains("needs a `token`"), "{error}");
            let (found, warnings) = plain(&format!("listen: '{open}', token: 0123456789abcdef")).unwrap();
            assert_eq!(found.token.unwrap().reveal(), "0123456789abcdef");
            assert!(warnings.iter().any(|warning| warning.contains("not encrypted")), "{warnings:?}");
        }
    }

    #[test]
    fn it_is_read_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.yaml");
        let load = |admin: &str| {
            let text = format!("domain: a\nlisteners: [ wrong ]\nno such key: 1\n{admin}\n");
            std::fs::write(&path, text).unwrap();
            Admin::load(&path).map_err(|errors| errors.to_string())
        };
        let found = load("admin: { listen: 'unix:a.sock', token: 0123456789abcdef }").unwrap().unwrap();
        assert_eq!(found.listen, [AdminAddress::Unix(folder.path().join("a.sock"))]);
        assert_eq!(found.token.unwrap().reveal(), "0123456789abcdef");
        assert!(load("").unwrap().is_none());
        let error = load("admin: { listen: 'http://0.0.0.0:1' }").unwrap_err();
        assert!(error.contains("relay.yaml:4:") && error.contains("needs a `token`"), "{error}");
        let error = load("admin: { liste: 'http://0.0.0.0:1' }").unwrap_err();
        assert!(error.contains("unknown key `liste`"), "{error}");
        assert!(Admin::load(&folder.path().join("none.yaml")).is_err());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, why) in [
            ("token: 0123456789abcdef", "missing key `listen`"),
            ("listen: []", "names no address"),
            ("listen: 'https://127.0.0.1:1'", "neither"),
            ("listen: 'http://127.0.0.1'", "lacks a port"),
            ("listen: 'http://example.com:1'", "needs an address"),
            ("listen: 'unix:'", "needs a path"),
            ("listen: 'http://127.0.0.1:1', token: short-of-16-byt", "shorter than 16"),
            ("listen: 'http://127.0.0.1:1', token: 'with a space in it'", "without spaces"),
            ("listen: 'http://127.0.0.1:1', socket_mode: '0600'", "there is none"),
            ("listen: 'unix:a', socket_mode: '9'", "not permissions"),
            ("listen: 'unix:a', socket_mode: '01777'", "not permissions"),
        ] {
            let error = plain(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
