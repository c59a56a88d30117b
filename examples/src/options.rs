//! What is wanted, as the command line says it.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Parser};
use msrp_proto::endpoint::{Credentials, RelayLogin, relay_uri};
use tcp_transport::tls::{ClientDomain, ClientDomainSettings};

use crate::locate::{Place, RelayAddress, in_uri};
use crate::path::MsrpPath;

/// For how long a relay is asked to serve us: a day. Most grant less; then what they grant is taken.
pub const DEFAULT_EXPIRES: u64 = 24 * 60 * 60;

/// How to get out: through a relay or not, and whom to trust.
#[derive(Args, Clone, Debug)]
pub struct DialOptions {
    /// Our relay, such as msrps://relay.example.com. Without a port it is found by SRV records, or on
    /// port 2855. `msrps` is TLS, `msrp` plain TCP
    #[arg(long, value_name = "URI")]
    pub relay: Option<RelayAddress>,
    /// Our name at the relay
    #[arg(long, value_name = "NAME", requires = "relay")]
    pub user: Option<String>,
    /// Our password at the relay; others see it in the list of processes
    #[arg(long, requires = "relay", conflicts_with = "password_file")]
    pub password: Option<String>,
    /// The file that has the password in its first line
    #[arg(long, value_name = "FILE", requires = "relay")]
    pub password_file: Option<PathBuf>,
    /// For how many seconds the relay is asked to serve us
    #[arg(long, value_name = "SECONDS", requires = "relay", default_value_t = DEFAULT_EXPIRES)]
    pub expires: u64,
    /// The authorities that sign certificates (PEM); without it, the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Connect to this place, whatever the URI says; TLS verifies the host of the URI nevertheless
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: Option<Place>,
}

/// How to be reached without a relay.
#[derive(Args, Clone, Debug)]
pub struct ListenOptions {
    /// Listen here, without a relay; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "relay")]
    pub listen: Option<SocketAddr>,
    /// Where others reach us, if that is not the address we listen on
    #[arg(long, value_name = "HOST:PORT", requires = "listen")]
    pub advertise: Option<Place>,
    /// Our certificate (PEM), for TLS
    #[arg(long, value_name = "FILE", requires = "listen", requires = "private_key")]
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub private_key: Option<PathBuf>,
}

/// Chat on the terminal, through an MSRP relay or without one.
///
/// Prints our path, the line to give to the other side. Only one of the two needs the other's: give
/// it with --peer, or as the first line. Then each line is a message. Ctrl-D ends.
#[derive(Parser, Clone, Debug)]
#[command(name = "chat", version, max_term_width = 100)]
pub struct ChatOptions {
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub dial: DialOptions,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub listen: ListenOptions,
    /// The other side's path, as it printed it
    #[arg(long, value_name = "PATH")]
    pub peer: Option<MsrpPath>,
}

/// Send a file to `receive-file`, or to any other MSRP client.
///
/// Exit code 0 means that the other side has reported the whole file as received.
#[derive(Parser, Clone, Debug)]
#[command(name = "send-file", version, max_term_width = 100)]
pub struct SendFileOptions {
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub dial: DialOptions,
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The receiver's path, as it printed it
    #[arg(long, value_name = "PATH")]
    pub to: MsrpPath,
    /// Send chunks of that size, such as 2KiB; without it, one chunk that may be interrupted
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub chunk_size: Option<u64>,
    /// The media type
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    pub content_type: String,
    /// Seconds to wait for the receiver's report when all is sent
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub report_timeout: u64,
}

/// Receive one file into a folder.
///
/// Prints our path, the line to give to the sender. No file is ever overwritten. Exit code 0 means
/// that the file is complete and, if the sender gave its SHA-256, right.
#[derive(Parser, Clone, Debug)]
#[command(name = "receive-file", version, max_term_width = 100)]
pub struct ReceiveFileOptions {
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub dial: DialOptions,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub listen: ListenOptions,
    /// The folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Refuse files that are larger, such as 100MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Give up when a file that has begun does not go on for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub stall_timeout: u64,
}

impl DialOptions {
    /// Whom we log in to, and as whom.
    ///
    /// # Errors
    /// No relay, no user; no password, and no terminal to ask for it on; the file of the password cannot be read.
    pub fn login(&self) -> anyhow::Result<RelayLogin> {
        self.login_asking(|user| {
            io::stdin().is_terminal().then(|| rpassword::prompt_password(format!("Password of {user}: ")))
        })
    }

    /// The same; `ask` gives what somebody types, if there is a terminal.
    fn login_asking(
        &self,
        ask: impl FnOnce(&str) -> Option<io::Result<String>>,
    ) -> anyhow::Result<RelayLogin> {
        let relay = self.relay.as_ref().context("--relay is missing")?;
        let user = self.user.as_ref().or(relay.user.as_ref()).context("--user is missing")?;
        let password = match (&self.password, &self.password_file) {
            (Some(password), _) => password.clone(),
            (None, Some(file)) => {
                let text =
                    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            (None, None) => ask(user)
                .context("--password-file or --password is missing, and there is no terminal to ask on")?
                .context("cannot read a password")?,
        };
        Ok(RelayLogin {
            relay: relay_uri(relay.scheme, None, &in_uri(&relay.host), relay.port)?,
            credentials: Credentials::new(user, password),
            expires: Some(self.expires),
        })
    }

    /// Whom we trust.
    ///
    /// # Errors
    /// The file of --ca is none.
    pub fn trust(&self) -> anyhow::Result<ClientDomain> {
        Ok(ClientDomain::load(&ClientDomainSettings {
            ca_list: self.ca.clone(),
            ..ClientDomainSettings::new("examples")
        })?)
    }
}

/// `2048`, `2KiB`, `1MiB`, `4GiB`; at least 1.
///
/// # Errors
/// It is not of that form.
pub fn size(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        unit => bail!("{unit:?} is no unit: B, KiB, MiB or GiB"),
    };
    let number: u64 =
        digits.parse().map_err(|_| anyhow!("a size is a number, with or without KiB, MiB or GiB"))?;
    number.checked_mul(1 << shift).filter(|size| *size > 0).context("the size is out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_are_consistent() {
        use clap::CommandFactory as _;
        ChatOptions::command().debug_assert();
        SendFileOptions::command().debug_assert();
        ReceiveFileOptions::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1", 1), ("2KiB", 2048), ("3 MiB", 3 << 20), ("4GiB", 4 << 30), ("7B", 7)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "0", "KiB", "-1", "1.5MiB", "1kb", "99999999999GiB", "1 2"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_relay_needs_a_user_and_a_password() {
        let login = |arguments: &[&str]| {
            let all = ["chat"].iter().chain(arguments);
            // Nobody is there to ask, wherever the test runs.
            ChatOptions::try_parse_from(all).unwrap().dial.login_asking(|_| None)
        };
        let relay = ["--relay", "msrps://alice@r.test"];
        assert!(login(&[]).is_err());
        assert!(login(&relay).unwrap_err().to_string().contains("password"));
        assert!(
            login(&["--relay", "msrps://r.test", "--password", "p"])
                .unwrap_err()
                .to_string()
                .contains("user")
        );
        let good = login(&[&relay[..], &["--password", "p"]].concat()).unwrap();
        assert_eq!(good.credentials.username, "alice");
        assert_eq!(good.relay.as_str(), "msrps://r.test;tcp");
        assert_eq!(good.expires, Some(DEFAULT_EXPIRES));
        let other =
            login(&[&relay[..], &["--user", "bob", "--password", "p", "--expires", "60"]].concat()).unwrap();
        assert_eq!((other.credentials.username.as_str(), other.expires), ("bob", Some(60)));
    }

    #[test]
    fn a_password_that_is_not_given_is_asked_for() {
        let login = |arguments: &[&str], typed: fn(&str) -> io::Result<String>| {
            let all = ["chat", "--relay", "msrps://alice@r.test"].iter().chain(arguments);
            let login =
                ChatOptions::try_parse_from(all).unwrap().dial.login_asking(|user| Some(typed(user)))?;
            let msrp_proto::endpoint::OwnSecret::Password(password) = login.credentials.secret else {
                panic!()
            };
            Ok::<String, anyhow::Error>(password)
        };
        assert_eq!(login(&[], |user| Ok(format!("{user}'s"))).unwrap(), "alice's");
        assert_eq!(login(&["--password", "p"], |_| panic!("it is given")).unwrap(), "p");
        let error = login(&[], |_| Err(io::ErrorKind::UnexpectedEof.into())).unwrap_err();
        assert!(error.to_string().contains("cannot read a password"), "{error}");
    }

    #[test]
    fn the_password_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "secret \r\nmore").unwrap();
        let file = file.to_str().unwrap();
        let options = ["chat", "--relay", "msrps://a@[::1]:1", "--password-file", file];
        let login = ChatOptions::try_parse_from(options).unwrap().dial.login().unwrap();
        assert_eq!(login.relay.as_str(), "msrps://[::1]:1;tcp");
        let msrp_proto::endpoint::OwnSecret::Password(password) = &login.credentials.secret else { panic!() };
        assert_eq!(password, "secret ");
    }

    #[test]
    fn contradictions_are_refused() {
        for arguments in [
            "--relay msrps://r.test --listen 127.0.0.1:0",
            "--relay msrps://r.test --password a --password-file b",
            "--user alice",
            "--advertise a:1",
            "--listen 127.0.0.1:0 --certificate c",
            "--listen localhost",
            "--connect somewhere",
            "--peer hello",
        ] {
            let all = ["chat"].into_iter().chain(arguments.split(' '));
            assert!(ChatOptions::try_parse_from(all).is_err(), "{arguments}");
        }
        let path = "a=path:msrp://a.test:1/x;tcp";
        assert!(SendFileOptions::try_parse_from(["send-file", "f"]).is_err());
        let options =
            SendFileOptions::try_parse_from(["send-file", "f", "--to", path, "--chunk-size", "2KiB"]);
        assert_eq!(options.unwrap().chunk_size, Some(2048));
    }
}
