//! What is wanted, as the command line says it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::traffic::STAMP;
use crate::locate::{Place, RelayAddress};
use crate::options::size;

/// Put load on an MSRP relay (RFC 4976), any one of them, and measure what it does.
///
/// With --pid it reads what the relay's processes, and their children, take of CPU and memory. Contents and order are
/// checked; a message that is lost, changed or late is an error, and exit code 1.
#[derive(Parser, Clone, Debug)]
#[command(name = "msrp-load", version, max_term_width = 100)]
pub struct LoadOptions {
    /// What to do.
    #[command(subcommand)]
    pub work: Work,
    /// A process of the relay, on this machine; may be given several times. Its children count too
    #[arg(long, value_name = "PID", global = true)]
    pub pid: Vec<u32>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
    /// Print `ready` when all is open, begin when a line comes, and keep all open until the end of the input
    #[arg(long, global = true)]
    pub hold: bool,
}

/// The kinds of load.
#[derive(Subcommand, Clone, Debug)]
pub enum Work {
    /// Messages from one client to another: chat, files.
    Send(SendOptions),
    /// Clients that connect, log in and go, each on a new connection.
    Login(ComeAndGo),
    /// Clients that connect and go.
    Connect(ComeAndGo),
    /// Sessions that do nothing: what each takes of memory.
    Idle(IdleOptions),
}

/// The relay, and who we are there.
#[derive(Args, Clone, Debug)]
pub struct Site {
    /// The relay, such as msrps://relay.example.com:2855
    #[arg(long, value_name = "URI", default_value = "msrp://localhost")]
    pub relay: RelayAddress,
    /// Reach it over WebSocket: ws://HOST:PORT/PATH or wss://…
    #[arg(long, value_name = "URL")]
    pub websocket: Option<WebSocketUrl>,
    /// Our name at the relay; `%` stands for the number of the client
    #[arg(long, value_name = "NAME", default_value = "a")]
    pub user: String,
    /// Our password at the relay; others see it in the list of processes
    #[arg(long, default_value = "a")]
    pub password: String,
    /// For how many seconds the relay is asked to serve us; it decides without
    #[arg(long, value_name = "SECONDS")]
    pub expires: Option<u64>,
    /// Send `uri` in Authorization, which relays that take it for SIP's want
    #[arg(long)]
    pub send_uri: bool,
    /// The authorities that sign certificates (PEM); without it, the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Connect to this place, whatever the URI says; TLS verifies the host of the URI nevertheless
    #[arg(long, value_name = "HOST:PORT")]
    pub connect: Option<Place>,
}

/// Options of `send`.
#[derive(Args, Clone, Debug)]
pub struct SendOptions {
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub site: Site,
    /// Which ends of a session are clients of the relay
    #[arg(long, value_name = "WHICH", default_value = "both")]
    pub ends: Ends,
    /// Receive here and send to --relay, which is a proxy that passes all on to this address: no MSRP relay, and no
    /// login
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Our certificate (PEM) where we listen, for TLS
    #[arg(long, value_name = "FILE", requires = "listen", requires = "private_key")]
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub private_key: Option<PathBuf>,
    /// Sessions, each of two connections
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = at_least_one)]
    pub sessions: usize,
    /// Bytes of a message, such as 300 or 64MiB
    #[arg(long, value_name = "SIZE", default_value = "300", value_parser = message_size)]
    pub size: u64,
    /// Bytes of a chunk; without it a message is one chunk
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub chunk_size: Option<u64>,
    /// Messages of all sessions together
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, conflicts_with = "duration")]
    pub messages: u64,
    /// Send for so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Messages of a session under way at the same time; with --rate there is no such bound unless it is given
    #[arg(long, value_name = "NUMBER", value_parser = at_least_one)]
    pub window: Option<usize>,
    /// Messages a second of all sessions together, evenly, whether those before have arrived or not; latency counts from
    /// when a message was due
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Seconds without anything happening after which what is under way counts as lost
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub timeout: Duration,
}

/// Which ends of a session are clients of the relay.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Each logs in and sends through it: messages pass the relay twice over.
    Both,
    /// The receiver; the sender connects to its URI as a peer without a relay.
    One,
}

/// Options of `login` and `connect`.
#[derive(Args, Clone, Debug)]
pub struct ComeAndGo {
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub site: Site,
    /// How often, in all
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = at_least_one)]
    pub count: usize,
    /// How many at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = at_least_one)]
    pub sessions: usize,
    /// Resume TLS sessions; without it each handshake is a full one
    #[arg(long)]
    pub resume: bool,
}

/// Options of `idle`.
#[derive(Args, Clone, Debug)]
pub struct IdleOptions {
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would become the help of the program")]
    pub site: Site,
    /// Sessions before memory is measured for the first time
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub from: usize,
    /// Sessions in the end
    #[arg(long, value_name = "NUMBER", default_value_t = 6000, value_parser = at_least_one)]
    pub sessions: usize,
    /// How often memory is measured on the way
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = at_least_one)]
    pub steps: usize,
}

/// `ws://HOST[:PORT][/PATH]` or `wss://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketUrl {
    /// `wss`.
    pub secure: bool,
    /// A name or an address, the latter without brackets.
    pub host: String,
    /// The port, or the scheme's.
    pub port: u16,
    /// It begins with `/`.
    pub path: String,
}

impl std::str::FromStr for WebSocketUrl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = text.split_once("://").context("ws://HOST:PORT/PATH is wanted")?;
        let secure = match scheme {
            "ws" => false,
            "wss" => true,
            _ => bail!("{scheme:?} is neither ws nor wss"),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let has_port = authority.rsplit(']').next().is_some_and(|after| after.contains(':'));
        let default = if secure { 443 } else { 80 };
        let place = if has_port { authority.to_owned() } else { format!("{authority}:{default}") };
        let Place { host, port } = place.parse()?;
        Ok(Self { secure, host, port, path: path.to_owned() })
    }
}

impl SendOptions {
    /// Messages of a session under way at the same time.
    pub fn window(&self) -> u64 {
        match (self.window, self.rate) {
            (Some(window), _) => window as u64,
            (None, Some(_)) => u64::MAX,
            (None, None) => 8,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a number above 0 is wanted".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted")?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn message_size(text: &str) -> anyhow::Result<u64> {
    let size = size(text)?;
    if size < STAMP as u64 {
        bail!("a message has at least {STAMP} bytes: those that say when it was sent");
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        LoadOptions::command().debug_assert();
    }

    #[test]
    fn urls_of_websockets() {
        let url =
            |text: &str| text.parse::<WebSocketUrl>().map(|url| (url.secure, url.host, url.port, url.path));
        assert_eq!(url("ws://a.test").unwrap(), (false, "a.test".into(), 80, "/".into()));
        assert_eq!(url("wss://a.test:8443/msrp?x").unwrap(), (true, "a.test".into(), 8443, "/msrp?x".into()));
        assert_eq!(url("wss://[::1]/").unwrap(), (true, "::1".into(), 443, "/".into()));
        assert_eq!(url("ws://[::1]:81").unwrap(), (false, "::1".into(), 81, "/".into()));
        for text in ["http://a.test", "a.test:80", "ws://:80", "ws://a:b/"] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_bounds_what_has_no_rate() {
        let window = |arguments: &str| {
            let all = format!("msrp-load send {arguments}");
            match LoadOptions::try_parse_from(all.split_whitespace()).map(|options| options.work) {
                Ok(Work::Send(options)) => Some(options.window()),
                _ => None,
            }
        };
        assert_eq!(window(""), Some(8));
        assert_eq!(window("--window 3"), Some(3));
        assert_eq!(window("--rate 10"), Some(u64::MAX));
        assert_eq!(window("--rate 10 --window 3"), Some(3));
        for wrong in [
            "--window 0",
            "--size 15",
            "--rate 0",
            "--duration -1",
            "--messages 1 --duration 1",
            "--sessions 0",
        ] {
            assert_eq!(window(wrong), None, "{wrong}");
        }
    }
}
