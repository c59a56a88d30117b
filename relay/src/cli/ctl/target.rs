//! Where the admin interface is, and what opens it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Failure;
use crate::config::{Admin, AdminAddress, Host, HostPort, Secret};

/// Where it is looked for if nothing is said: the socket that a packaged relay opens, then
const DEFAULT_SOCKET: &str = "/run/msrp-relay/admin.sock";

/// the address that the example configuration has.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8088";

/// The largest file that a token is read from.
const MAX_TOKEN_FILE: u64 = 64 * 1024;

/// Where the admin interface is, for who connects to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// `http://HOST:PORT`
    Http(Host, u16),
    /// `unix:PATH`
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(host, port) => write!(f, "http://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err("`unix:` needs a path".to_owned())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let Some(rest) = text.strip_prefix("http://") else {
            return Err("an address is `http://HOST:PORT` or `unix:PATH`".to_owned());
        };
        let HostPort { host, port } = rest.strip_suffix('/').unwrap_or(rest).parse()?;
        Ok(Self::Http(host, port.ok_or("the address lacks a port, such as `http://127.0.0.1:8088`")?))
    }
}

impl From<&AdminAddress> for Address {
    fn from(address: &AdminAddress) -> Self {
        match address {
            AdminAddress::Unix(path) => Self::Unix(path.clone()),
            // Who listens everywhere is reached on this machine.
            AdminAddress::Http(socket) if socket.ip().is_unspecified() => {
                let ip = if socket.is_ipv4() { "127.0.0.1" } else { "::1" };
                Self::Http(ip.parse().map_or(Host::Ip(socket.ip()), Host::Ip), socket.port())
            }
            AdminAddress::Http(socket) => Self::Http(Host::Ip(socket.ip()), socket.port()),
        }
    }
}

/// Which interface is meant, and the token for it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) token: Option<Secret>,
}

impl Target {
    /// From what the command line says; the address given there counts more than that of the configuration, and so does
    /// the token.
    pub(super) fn find(
        address: Option<&Address>,
        config: Option<&Path>,
        token_file: Option<&Path>,
    ) -> Result<Self, Failure> {
        let (configured, token) = match config {
            None => (None, None),
            Some(path) => match Admin::load(path) {
                Err(errors) => return Err(Failure::Usage(errors.to_string())),
                Ok(None) => {
                    let message = format!(
                        "{}: has no section `admin`, so that the relay has no admin interface (examples/relay.yaml \
                         shows one)",
                        path.display()
                    );
                    return Err(Failure::Usage(message));
                }
                Ok(Some(admin)) => (admin.listen.first().map(Address::from), admin.token),
            },
        };
        let token = match token_file {
            Some(path) => Some(read_token(path)?),
            None => token,
        };
        let address = address.cloned().or(configured).unwrap_or_else(default_address);
        Ok(Self { address, token })
    }
}

fn default_address() -> Address {
    let socket = Path::new(DEFAULT_SOCKET);
    match DEFAULT_ADDRESS.parse() {
        Ok(address) if !socket.exists() => address,
        _ => Address::Unix(socket.to_owned()),
    }
}

fn read_token(path: &Path) -> Result<Secret, Failure> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_TOKEN_FILE).read_to_string(&mut text));
    read.map_err(|error| Failure::Usage(format!("cannot read the token from {}: {error}", path.display())))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::Usage(format!("{} holds no token: one line is expected", path.display())));
    }
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in [
            ("http://127.0.0.1:8088", "http://127.0.0.1:8088"),
            ("http://[::1]:1/", "http://[::1]:1"),
            ("http://relay.example.com:80", "http://relay.example.com:80"),
            ("unix:/run/a", "unix:/run/a"),
            ("unix:///run/a", "unix:/run/a"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in ["", "127.0.0.1:1", "https://a:1", "http://a", "http://a:0x", "http://a:1/mi", "unix:"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_configuration_says_where_and_the_command_line_says_better() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let config =
            write("a", "domain: a\nadmin: { listen: ['http://0.0.0.0:7'], token: 0123456789abcdef }");
        let found = Target::find(None, Some(&config), None).unwrap();
        assert_eq!(found.address.to_string(), "http://127.0.0.1:7");
        assert_eq!(found.token.unwrap().reveal(), "0123456789abcdef");
        let token = write("t", "fedcba9876543210\n");
        let address = "unix:x".parse().unwrap();
        let found = Target::find(Some(&address), Some(&config), Some(&token)).unwrap();
        assert_eq!(found.address, address);
        assert_eq!(found.token.unwrap().reveal(), "fedcba9876543210");
        for (name, text, why) in
            [("b", "domain: a", "has no section `admin`"), ("c", "domain: a\nadmin: { listen: 7 }", ":2:")]
        {
            let Err(Failure::Usage(error)) = Target::find(None, Some(&write(name, text)), None) else {
                panic!()
            };
            assert!(error.contains(why), "{error}");
        }
        for text in ["", "two words"] {
            let token = write("u", text);
            assert!(matches!(Target::find(None, None, Some(&token)), Err(Failure::Usage(_))), "{text}");
        }
    }
}
