//! The relay as a child process, with everything it needs in a folder that goes away with it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tcp_transport::tls::{ClientDomain, ClientDomainSettings};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The host under which the relay is reached, which its certificate names.
pub(super) const HOST: &str = "localhost";

/// Its users.
pub(super) const USERS: [(&str, &str); 2] = [("alice", "wonderland"), ("bob", "builder")];

/// The name of its configuration.
const CONFIG: &str = "relay.yaml";

/// A running relay.
pub(super) struct RelayProcess {
    child: Child,
    /// Schemes and ports of its listeners.
    listening: Vec<(String, u16)>,
    folder: TempDir,
}

impl RelayProcess {
    /// A relay for TLS, with certificates.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let config = write_files(folder.path())?;
        Self::start_with(folder, &config).await
    }

    /// A relay without TLS for a page that comes from `origin`, and for programs.
    pub(super) async fn start_for_browsers(origin: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let config = format!(
            "domain: {HOST}\n\
             listeners:\n  - {{ uri: \"msrp://127.0.0.1:0\" }}\n  \
             - {{ uri: \"ws://127.0.0.1:0/msrp\", websocket: {{ allow_origins: [\"{origin}\"] }} }}\n\
             auth:\n  allow_auth_without_tls: true\n  users:\n{}",
            users()
        );
        write_file(folder.path(), CONFIG, config)?;
        let config = folder.path().join(CONFIG);
        Self::start_with(folder, &config).await
    }

    /// Starts this same program with a configuration, and waits until it is ready.
    async fn start_with(folder: TempDir, config: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["run", "--config"])
            .arg(config)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the relay")?;
        let stderr = child.stderr.take().context("the relay has no standard error")?;
        let mut log = BufReader::new(stderr).lines();
        let mut seen = Vec::new();
        let listening = loop {
            let Some(line) = log.next_line().await? else {
                bail!("the relay did not start:\n{}", seen.join("\n"));
            };
            let listening = listeners(&line);
            if line.contains("ready") && !listening.is_empty() {
                break listening;
            }
            seen.push(line);
        };
        // A relay whose log nobody reads would stop at the pipe's end.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Ok(Self { child, listening, folder })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The port on which it listens with that scheme.
    pub(super) fn port(&self, scheme: &str) -> anyhow::Result<u16> {
        let found = self.listening.iter().find(|(of_listener, _)| of_listener == scheme);
        found.map(|&(_, port)| port).with_context(|| format!("the relay has no {scheme} listener"))
    }

    /// Where it listens, as a URI's beginning.
    pub(super) fn address(&self) -> anyhow::Result<String> {
        Ok(format!("msrps://{HOST}:{}", self.port("msrps")?))
    }

    /// What clients trust: the authority that signed the relay's certificate.
    pub(super) fn trust(&self) -> anyhow::Result<ClientDomain> {
        let settings = ClientDomainSettings {
            ca_list: Some(self.folder.path().join("ca.pem")),
            ..ClientDomainSettings::new("demo")
        };
        Ok(ClientDomain::load(&settings)?)
    }

    /// The most memory it ever had, in bytes, as Linux tells.
    pub(super) fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")).context("no VmHWM in /proc")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// Waits until it ends by itself. Dropping the future loses nothing.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends it as an operator would, and checks that it went in order.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        // It may have ended: Ctrl-C reaches all processes of a terminal.
        if let Some(id) = self.child.id() {
            let mut kill = Command::new("kill");
            kill.args(["-TERM", &id.to_string()]).stderr(Stdio::null());
            kill.status().await.context("cannot send SIGTERM")?;
        }
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the relay ended with {status}");
        }
        Ok(())
    }
}

/// Writes the authority, the relay's certificate and key, and the configuration; gives the latter's
/// path.
fn write_files(folder: &Path) -> anyhow::Result<PathBuf> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &issuer)?;

    let config = format!(
        "domain: {HOST}\n\
         listeners:\n  - {{ uri: \"msrps://127.0.0.1:0\", tls_domain: demo }}\n\
         tls:\n  server_domains:\n    \
         demo: {{ certificate: relay.crt, private_key: relay.key, ca_list: ca.pem }}\n\
         auth:\n  users:\n{}",
        users()
    );
    for (name, content) in [
        ("ca.pem", ca_certificate.pem()),
        ("relay.crt", certificate.pem()),
        ("relay.key", key.serialize_pem()),
        (CONFIG, config),
    ] {
        write_file(folder, name, content)?;
    }
    Ok(folder.join(CONFIG))
}

fn write_file(folder: &Path, name: &str, content: String) -> anyhow::Result<()> {
    std::fs::write(folder.join(name), content).with_context(|| format!("cannot write {name}"))
}

/// The users as lines of the configuration.
fn users() -> String {
    USERS.iter().map(|(user, password)| format!("    {user}: {{ password: {password} }}\n")).collect()
}

/// Schemes and ports of the addresses in a line of the log.
fn listeners(line: &str) -> Vec<(String, u16)> {
    let addresses = line.split([' ', '"']).filter_map(|word| word.split_once("://"));
    let listener = |(scheme, address): (&str, &str)| {
        Some((scheme.to_owned(), address.parse::<SocketAddr>().ok()?.port()))
    };
    addresses.filter_map(listener).collect()
}
