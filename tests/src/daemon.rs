//! The daemon as a child process.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Log, Resources, Settings, Site, within};

/// The path of the WebSocket listeners.
pub(crate) const WEBSOCKET_PATH: &str = "/msrp";

/// The kinds of listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain TCP.
    Msrp,
    /// TLS.
    Msrps,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// SIP over TCP.
    Sip,
    /// SIP over TLS.
    Sips,
    /// HEP over UDP.
    HepUdp,
    /// HEP over TCP.
    HepTcp,
    /// HEP over TLS.
    HepTls,
}

impl Scheme {
    /// As it stands in an MSRP URI.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        if self.is_secure() { "msrps" } else { "msrp" }
    }

    /// The transport in a URI.
    #[must_use]
    pub fn transport(self) -> &'static str {
        match self {
            Self::Msrp | Self::Msrps | Self::Sip | Self::Sips | Self::HepTcp | Self::HepTls => "tcp",
            Self::HepUdp => "udp",
            Self::Ws | Self::Wss => "ws",
        }
    }

    /// Whether TLS is under it.
    #[must_use]
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Msrps | Self::Wss | Self::Sips | Self::HepTls)
    }
}

/// The command for a `binary` that takes over from the one that runs: `--upgrade` follows the other arguments.
#[must_use]
pub fn successor(binary: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" --upgrade", binary]);
    command
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    log: Log,
    addresses: Vec<(Scheme, SocketAddr)>,
    domain: String,
}

impl Daemon {
    /// Starts `binary` in `site`, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(binary: &str, site: &Site, settings: &Settings) -> Self {
        Self::start_as(Command::new(binary), site, "relay.yaml", settings).await
    }

    /// As [`start`](Self::start), with a command that takes the daemon's arguments, and a file name.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_as(command: Command, site: &Site, file: &str, settings: &Settings) -> Self {
        let config = site.write(file, &settings.to_yaml());
        let mut daemon = Self::spawn(command, &config);
        daemon.domain.clone_from(&settings.domain);
        let ready = daemon.log.wait_for(&["ready", "listening"]).await;
        daemon.addresses = addresses(&ready);
        daemon
    }

    /// Starts a daemon, ready or not.
    ///
    /// # Panics
    /// When the command cannot be run at all.
    pub fn spawn(mut command: Command, config: &Path) -> Self {
        command.args(["run", "--config"]).arg(config).env_remove("RUST_LOG");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the daemon");
        let log = Log::collect(child.stderr.take().expect("standard error"));
        Self { child, log, addresses: Vec::new(), domain: String::new() }
    }

    /// A daemon that was [spawned](Self::spawn) with the ports and the domain of another one.
    #[must_use]
    pub fn at_the_addresses_of(mut self, other: &Self) -> Self {
        self.addresses.clone_from(&other.addresses);
        self.domain.clone_from(&other.domain);
        self
    }

    /// What it logs.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// All addresses it listens on, as its `ready` line says.
    #[must_use]
    pub fn addresses(&self) -> &[(Scheme, SocketAddr)] {
        &self.addresses
    }

    /// Where it listens for this scheme.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn address(&self, scheme: Scheme) -> SocketAddr {
        let found = self.addresses.iter().find(|(own, _)| *own == scheme);
        found.unwrap_or_else(|| panic!("no listener for {scheme:?}")).1
    }

    /// What it is called: the domain of its settings.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The URI that AUTH requests go to.
    #[must_use]
    pub fn uri(&self, scheme: Scheme) -> String {
        let (port, transport) = (self.address(scheme).port(), scheme.transport());
        format!("{}://{}:{port};{transport}", scheme.as_str(), self.domain)
    }

    /// Where browsers connect.
    #[must_use]
    pub fn websocket_url(&self, scheme: Scheme) -> String {
        let scheme_name = if scheme.is_secure() { "wss" } else { "ws" };
        format!("{scheme_name}://{}:{}{WEBSOCKET_PATH}", self.domain, self.address(scheme).port())
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it uses.
    #[must_use]
    pub fn resources(&self) -> Resources {
        Resources::of(self.pid())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("process id");
        kill_process(pid, signal).expect("send a signal");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn exit(&mut self) -> ExitStatus {
        within(format_args!("the daemon's end, {:?}", self.log), self.log.ended()).await;
        // Its standard error is closed: what is left is the kernel's work.
        self.child.wait().expect("wait for the daemon")
    }

    /// Fails if it has ended, or if something in it panicked.
    ///
    /// # Panics
    /// Then.
    pub fn assert_well(&mut self) {
        let ended = self.child.try_wait().expect("look after the daemon");
        assert_eq!(ended, None, "the daemon has ended: {:?}", self.log);
        for word in ["panicked", "internal error", " ERROR "] {
            assert_eq!(self.log.with(&[word]), [""; 0]);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `… listening="msrps://127.0.0.1:40000 msrp://127.0.0.1:40001"`, in text or JSON.
fn addresses(ready: &str) -> Vec<(Scheme, SocketAddr)> {
    let words = ready.split([' ', '"']);
    words
        .filter_map(|word| {
            let (scheme, address) = word.split_once("://")?;
            let scheme = match scheme {
                "msrp" => Scheme::Msrp,
                "msrps" => Scheme::Msrps,
                "ws" => Scheme::Ws,
                "wss" => Scheme::Wss,
                "sip" => Scheme::Sip,
                "sips" => Scheme::Sips,
                "hep_udp" => Scheme::HepUdp,
                "hep_tcp" => Scheme::HepTcp,
                "hep_tls" => Scheme::HepTls,
                _ => return None,
            };
            let address = address.split('/').next().unwrap_or_default();
            Some((scheme, address.parse().expect("an address in the ready line")))
        })
        .collect()
}
