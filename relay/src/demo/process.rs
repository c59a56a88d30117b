//! The relay as a child process, with everything it needs in a folder that goes away with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tcp_transport::tls::{ClientDomain, ClientDomainSettings};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// The host under which the relay is reached, which its certificate names.
pub(super) const HOST: &str = "localhost";

/// Its users.
pub(super) const USERS: [(&str, &str); 2] = [("alice", "wonderland"), ("bob", "builder")];

/// A running relay.
pub(super) struct RelayProcess {
    child: Child,
    port: u16,
    folder: TempDir,
    /// Kept, so that the child can write its log.
    _log: Lines<BufReader<ChildStderr>>,
}

impl RelayProcess {
    /// Makes certificates and a configuration, starts this same program with them and waits until it
    /// is ready.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let config = write_files(folder.path())?;
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
        let port = loop {
            let Some(line) = log.next_line().await? else {
                bail!("the relay did not start:\n{}", seen.join("\n"));
            };
            let port = line.contains("ready").then(|| line.rsplit_once(':')).flatten();
            if let Some(port) = port.and_then(|(_, port)| port.trim_end_matches('"').parse().ok()) {
                break port;
            }
            seen.push(line);
        };
        Ok(Self { child, port, folder, _log: log })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The port it listens on.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens, as a URI's beginning.
    pub(super) fn address(&self) -> String {
        format!("msrps://{HOST}:{}", self.port)
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

    /// Ends it as an operator would, and checks that it went in order.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let id = self.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().await.context("cannot send SIGTERM")?;
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

    let users: String =
        USERS.iter().map(|(user, password)| format!("    {user}: {{ password: {password} }}\n")).collect();
    let config = format!(
        "domain: {HOST}\n\
         listeners:\n  - {{ uri: \"msrps://127.0.0.1:0\", tls_domain: demo }}\n\
         tls:\n  server_domains:\n    \
         demo: {{ certificate: relay.crt, private_key: relay.key, ca_list: ca.pem }}\n\
         auth:\n  users:\n{users}"
    );
    for (name, content) in [
        ("ca.pem", ca_certificate.pem()),
        ("relay.crt", certificate.pem()),
        ("relay.key", key.serialize_pem()),
        ("relay.yaml", config),
    ] {
        std::fs::write(folder.join(name), content).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(folder.join("relay.yaml"))
}
