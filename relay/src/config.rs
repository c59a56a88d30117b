//! The YAML configuration: strict, and precise about what is wrong where.
//!
//! [`Config::load`] reads a file, [`Config::parse`] a text. Either gives a [`Config`] that can be run, its users
//! and secrets loaded, or everything found wrong with file, line, column and key:
//!
//! ```
//! use std::path::Path;
//! use relay::config::Config;
//!
//! let text = "domain: relay.test\nlistners:\n  - uri: msrp://127.0.0.1:2855\n";
//! let errors = Config::parse(text, Path::new("."), "relay.yaml").unwrap_err();
//! assert_eq!(
//!     errors.errors()[1].to_string(),
//!     "relay.yaml:2:1: listners: unknown key `listners` at the top, did you mean `listeners`?",
//! );
//! ```
//!
//! Durations and sizes carry their unit (`30s`, `64KiB`). Paths are relative to the YAML file. Instead of a secret,
//! `{ file: PATH }` names the file that holds it. `examples/relay.yaml` explains every key.
//!
//! # How it is read
//!
//! YAML text → `document` (a tree, no duplicate keys) → `read` (serde, the `File…` types: no unknown keys,
//! values that parse) → `validate` (what concerns several keys, or other files) → [`Config`].

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use schemars::JsonSchema;
use serde::Deserialize;

pub use self::admin::{Admin, AdminAddress};
pub use self::auth::{Auth, CredentialCache, DatabaseSettings, Expires, LimitColumns, Throttle};
pub use self::changes::Change;
pub use self::connections::{ClosedEvent, DEFAULT_KEEPALIVE, Destination, Dial, EventSettings, Tcp};
pub(crate) use self::database::ConnectOptions;
pub use self::database::{DatabaseKind, DatabaseUrl};
pub use self::error::{ConfigError, ConfigErrors, Position};
pub use self::hep::{Forward, Hep, HepRule};
pub use self::limits::{Limits, Timeouts};
pub use self::listener::{Listener, ListenerTransport};
pub use self::log::{Log, LogFormat, LogLevel, LogSyslog, LogTarget};
pub use self::outbound::{Denied, Network, OutboundPolicy};
pub use self::records::{
    Facility, RecordDatabase, RecordFile, RecordSink, RecordSyslog, RecordTarget, Records, SyslogAddress,
};
pub use self::reference::markdown as markdown_reference;
pub use self::schema::json_schema;
pub use self::sip::{Sip, SipUpstream, UpstreamUri};
pub use self::tls::{ClientCertificates, ClientDomain, Identity, Negotiation, ServerDomain, Tls, Trust};
pub use self::trace::Trace;
pub use self::upgrade::Upgrade;
pub use self::user_limits::{DEFAULT_BURST, UserLimits};
pub(crate) use self::value::parse_duration;
pub use self::value::{ByteSize, Host, HostPort, Secret};
pub use self::websocket::{CertificateUser, Origin, TokenAuth, WebSocket, WebSocketAuth};

use self::admin::FileAdmin;
use self::auth::FileAuth;
use self::connections::FileTcp;
use self::error::{KeyPath, Problem, Segment, Spot};
use self::hep::FileHep;
use self::listener::FileListener;
use self::outbound::FileOutbound;
use self::records::FileRecords;
use self::sip::FileSip;
use self::tls::FileTls;
use self::trace::FileTrace;
use self::upgrade::FileUpgrade;
use self::value::{FileSecret, optional_count};
use self::websocket::FileWebSocket;

mod admin;
mod auth;
mod changes;
mod connections;
mod database;
mod document;
mod error;
mod form;
mod hep;
mod keys;
mod limits;
mod listener;
mod log;
mod masked;
mod outbound;
mod read;
mod records;
mod reference;
mod schema;
mod sip;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod upgrade;
mod user_limits;
mod value;
mod websocket;

/// The largest configuration file. Some ten thousand users; more belong in an htdigest file.
const MAX_FILE: u64 = 1024 * 1024;

/// The most threads for connections. See [`Config::threads`].
const MAX_THREADS: usize = 1024;

/// How often a file is read again for the mistakes behind a wrong value.
const MAX_READS: usize = 50;

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// What this relay is called: the host in AUTH requests, and in its URIs where a listener does not say
    /// otherwise. As written, for clients that compare literally.
    pub domain: Host,
    /// Where it listens; never empty.
    pub listeners: Vec<Listener>,
    /// The TLS domains.
    pub tls: Tls,
    /// Who may obtain sessions.
    pub auth: Auth,
    /// How much it takes from others.
    pub limits: Limits,
    /// How long it waits for others.
    pub timeouts: Timeouts,
    /// How many threads its connections are on. 0, which a file cannot say: on those of the runtime that it is started on.
    pub threads: usize,
    /// What is set on its connections.
    pub tcp: Tcp,
    /// What is told of them.
    pub events: EventSettings,
    /// What it connects to.
    pub outbound: OutboundPolicy,
    /// How it connects.
    pub dial: Dial,
    /// The SIP edge, if there is one.
    pub sip: Option<Sip>,
    /// What collectors are told.
    pub trace: Trace,
    /// What is written of sessions.
    pub records: Records,
    /// How it is managed, if it is.
    pub admin: Option<Admin>,
    /// How another process takes over, if one may.
    pub upgrade: Option<Upgrade>,
    /// How others' HEP is received and passed on to them.
    pub hep: Hep,
    /// How it logs.
    pub log: Log,
    /// What is permitted but probably not meant, to be logged at start.
    pub warnings: Vec<ConfigError>,
    /// For errors found later.
    pub source: Source,
}

impl Config {
    /// Reads the configuration file at `path`, and the files it names.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        match Self::examine(path)? {
            (config, None) => Ok(config),
            (_, Some(errors)) => Err(errors),
        }
    }

    /// Reads a configuration from `text`. Files it names are looked for from `base_dir`; errors call it
    /// `file_name`.
    pub fn parse(text: &str, base_dir: &Path, file_name: &str) -> Result<Self, ConfigErrors> {
        match Self::examine_text(text, base_dir, file_name)? {
            (config, None) => Ok(config),
            (_, Some(errors)) => Err(errors),
        }
    }

    /// Like [`load`](Self::load), for whoever wants to look for more mistakes: a configuration with some is not to be
    /// run, but shows what else is wrong.
    ///
    /// # Errors
    /// What keeps it from being read at all.
    pub(crate) fn examine(path: &Path) -> Result<(Self, Option<ConfigErrors>), ConfigErrors> {
        let file_name = path.display().to_string();
        let text =
            value::read_text(path, MAX_FILE).map_err(|err| ConfigErrors::whole_file(&file_name, err))?;
        let base_dir = path.parent().unwrap_or(Path::new(""));
        let (mut config, errors) = Self::examine_text(&text, base_dir, &file_name)?;
        config.source.path = Some(path.into());
        Ok((config, errors))
    }

    fn examine_text(
        text: &str,
        base_dir: &Path,
        file_name: &str,
    ) -> Result<(Self, Option<ConfigErrors>), ConfigErrors> {
        let mut document = document::parse(file_name, text)?;
        let file = FileConfig::read(&mut document)
            .map_err(|problems| ConfigErrors::locate(file_name, text, problems))?;
        let source = Source { file: file_name.into(), text: text.into(), path: None, files: Arc::default() };
        let (config, problems) = file.validate(base_dir, source);
        let errors = (!problems.is_empty()).then(|| ConfigErrors::locate(file_name, text, problems));
        Ok((config, errors))
    }
}

/// The text a configuration was read from, to point at a line when something turns out wrong later, such as a
/// certificate that does not fit its key. Its `Debug` does not show the text, which may hold passwords.
#[derive(Clone)]
pub struct Source {
    file: Arc<str>,
    text: Arc<str>,
    /// Where it can be read again.
    path: Option<Arc<Path>>,
    /// Of the files it names, those with secrets and users: the setting, and a hash of the content.
    files: Arc<BTreeMap<String, u64>>,
}

impl Source {
    /// What is different in `other`, as both are written, secrets masked; and the files with secrets and users whose
    /// content is.
    pub fn changes(&self, other: &Self) -> Vec<Change> {
        // They have been read before.
        let read =
            |source: &Self| document::parse(&source.file, &source.text).unwrap_or(document::Node::Null);
        changes::changes(&read(self), &read(other), (&self.files, &other.files))
    }

    /// An error about the value at `key`, which is given as its path: `&["tls", "server_domains", "relay",
    /// "certificate"]`. A list's item is named by its number, from 0.
    pub fn error_at(&self, key: &[&str], message: impl Into<String>) -> ConfigError {
        // Those are lists. Elsewhere a number may be a name, of a user for example.
        let lists = [KeyPath::new(&["listeners"]), KeyPath::new(&["admin", "listen"])];
        let path = key.iter().fold(KeyPath::default(), |path, segment| match segment.parse() {
            Ok(index) if lists.contains(&path) => path.index(index),
            _ => path.key(segment),
        });
        Problem { path, spot: Spot::Value, message: message.into() }.locate(&self.file, &self.text)
    }

    /// The configuration as it was read, without its secrets.
    pub fn masked(&self) -> serde_json::Value {
        // It has been read before.
        document::parse(&self.file, &self.text).map_or(serde_json::Value::Null, |node| masked::masked(&node))
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// What is wrong with it now; or that it was no file.
    pub fn reload(&self) -> Result<Config, ConfigErrors> {
        match &self.path {
            Some(path) => Config::load(path),
            None => Err(ConfigErrors::whole_file(
                &self.file,
                "is not a file, and cannot be read again".to_owned(),
            )),
        }
    }

    /// An error about all of it.
    pub fn error(&self, message: impl Into<String>) -> ConfigErrors {
        ConfigErrors::whole_file(&self.file, message.into())
    }

    /// The file's name, as it was given.
    pub fn file_name(&self) -> &str {
        &self.file
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    /// What this relay is called: the host in AUTH requests, and in its URIs where a listener does not say
    /// otherwise.
    #[schemars(with = "form::HostName")]
    domain: Host,
    /// Where the relay listens. At least one of them is `msrp` or `msrps`, as others cannot connect to a WebSocket.
    #[schemars(length(min = 1))]
    listeners: Vec<FileListener>,
    /// Certificates, keys and how peers are verified.
    #[serde(default)]
    tls: FileTls,
    /// Who may obtain sessions. Sources of credentials are asked in this order: `users`, `htdigest`, `ephemeral`,
    /// `database`.
    #[serde(default)]
    auth: FileAuth,
    /// How much is taken from others.
    #[serde(default)]
    limits: Limits,
    /// How long others are waited for.
    #[serde(default)]
    timeouts: Timeouts,
    /// How many threads the connections are on; each stays on the one that has the fewest when it comes. Default: one
    /// for each processor that the relay may use. At most 1024.
    #[serde(default, deserialize_with = "optional_count")]
    #[schemars(with = "form::Count")]
    threads: Option<usize>,
    /// What is set on TCP connections; a listener and an outbound destination may say otherwise for theirs.
    #[serde(default)]
    tcp: FileTcp,
    /// What is told of connections: accepted, connecting, connected, closed, timeout, reset, failed.
    #[serde(default)]
    events: EventSettings,
    /// What this relay connects to: everything but multicast, unspecified and broadcast addresses. That is too much
    /// for a relay on the public network: `examples/outbound-public.yaml` has rules for one. Networks may carry
    /// ports. The longest prefix decides; of equally long ones, one with ports, then `deny`.
    #[serde(default)]
    outbound: FileOutbound,
    /// What is asked of browsers, and how they are served (RFC 6455, RFC 7977).
    #[serde(default)]
    websocket: FileWebSocket,
    /// The SIP edge: clients' SIP goes to the upstreams and theirs to the clients, and nowhere else. None without
    /// this section.
    #[serde(default)]
    sip: Option<FileSip>,
    /// What collectors are told by HEP.
    #[serde(default)]
    trace: FileTrace,
    /// One record for each session when it ends, to bill and audit by.
    #[serde(default)]
    records: FileRecords,
    /// The admin interface. None without this section. Whoever reaches it may do everything: it is for this
    /// machine, or wants the token.
    #[serde(default)]
    admin: Option<FileAdmin>,
    /// How another process takes over from the one that runs. None does without this section.
    #[serde(default)]
    upgrade: Option<FileUpgrade>,
    /// The HEP of other agents, for listeners `hep_udp`, `hep_tcp` and `hep_tls`: it goes on to
    /// `trace.destinations`.
    #[serde(default)]
    hep: Option<FileHep>,
    /// The log.
    #[serde(default)]
    log: Log,
}

impl FileConfig {
    /// Reads all of it. A value that is wrong is taken out of `document`, so that what comes after it tells its mistakes
    /// too.
    fn read(document: &mut document::Node) -> Result<Self, Vec<Problem>> {
        let (mut problems, mut known) = (Vec::new(), HashSet::new());
        let mut removed: Vec<KeyPath> = Vec::new();
        loop {
            let mut found = match read::read(document) {
                Ok(file) if problems.is_empty() => return Ok(file),
                Ok(_) => return Err(problems),
                Err(found) => found,
            };
            // Unknown keys are told each time, and one wrong value.
            let error = found.pop_if(|problem| problem.spot == Spot::Value);
            found.retain(|problem| known.insert(problem.path.to_string()));
            problems.extend(found);
            let Some(error) = error else { return Err(problems) };
            // What was taken out is missing since.
            let is_missing = |path: &KeyPath| match path.segments().split_last() {
                Some((Segment::Key(key), parent)) => {
                    parent == error.path.segments() && error.message == read::missing_key(key)
                }
                _ => false,
            };
            let path = document.remove(&error.path);
            if !removed.iter().any(is_missing) {
                problems.push(error);
            }
            match path {
                Some(path) if removed.len() < MAX_READS => removed.push(path),
                _ => return Err(problems),
            }
        }
    }

    /// The configuration, and what is wrong with it: then it is not to be run.
    fn validate(self, base_dir: &Path, source: Source) -> (Config, Vec<Problem>) {
        let mut check = Check::new(base_dir);
        let tls = self.tls.validate(&mut check);
        let tcp = self.tcp.validate(self.timeouts.idle_timeout, &mut check);
        let websocket = self.websocket.over(&WebSocket::default(), &KeyPath::new(&["websocket"]), &mut check);
        let listeners = FileListener::validate_all(
            self.listeners,
            &tls,
            &tcp,
            &websocket,
            self.sip.is_some(),
            &mut check,
        );
        tls.check_listeners(&listeners, &mut check);
        let auth = self.auth.validate(&self.domain, &mut check);
        self.limits.validate(&mut check);
        let threads = self.threads.unwrap_or_else(processors);
        if threads > MAX_THREADS {
            let message = format!("is {threads}, and goes from 1 to {MAX_THREADS}");
            check.error(KeyPath::new(&["threads"]), message);
        }
        self.events.validate(&mut check);
        if !auth.allow_auth_without_tls
            && !listeners.iter().any(|listener| listener.serves_msrp() && listener.is_secure())
        {
            let message = "is false and no listener is msrps:// or wss://: every AUTH will be refused";
            check.warn(KeyPath::new(&["auth", "allow_auth_without_tls"]), message);
        }
        auth.throttle.check_times(&self.timeouts, &listeners, &mut check);
        let dial = self.outbound.dial(&listeners, &tcp, &self.timeouts, &mut check);
        let outbound = self.outbound.validate(&listeners, &mut check);
        let sip = self.sip.map(|sip| sip.validate(&websocket, &mut check));
        if sip.is_some() && !listeners.iter().any(|listener| listener.sip) {
            let message =
                "has no effect: there is no listener for SIP (`sip://`, `sips://`, `ws://` or `wss://`)";
            check.warn(KeyPath::new(&["sip"]), message);
        }

        let trace = self.trace.validate(&tls, &listeners, &mut check);
        if !trace.destinations.is_empty() && self.events.closed_event != EventSettings::default().closed_event
        {
            let message = "is not `all`: collectors are told of what is told at all";
            check.warn(KeyPath::new(&["events", "closed_event"]), message);
        }

        let records = self.records.validate(&mut check);
        let admin = self.admin.map(|admin| admin.validate(&self.domain, &mut check));
        let upgrade = self.upgrade.map(|upgrade| upgrade.validate(&check));
        let hep = FileHep::validate(self.hep, &listeners, &trace, &mut check);
        let log = self.log.validate(&mut check);

        let Check { errors, warnings, files, .. } = check;
        let source = Source { files: Arc::new(files), ..source };
        let warnings =
            warnings.into_iter().map(|warning| warning.locate(&source.file, &source.text)).collect();
        let config = Config {
            domain: self.domain,
            listeners,
            tls,
            auth,
            limits: self.limits,
            timeouts: self.timeouts,
            threads,
            tcp,
            events: self.events,
            outbound,
            dial,
            sip,
            trace,
            records,
            admin,
            upgrade,
            hep,
            log,
            warnings,
            source,
        };
        (config, errors)
    }
}

/// How many processors the process may use.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_THREADS)
}

/// What validation finds.
struct Check<'a> {
    base_dir: &'a Path,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// See [`Source::files`].
    files: BTreeMap<String, u64>,
}

impl<'a> Check<'a> {
    fn new(base_dir: &'a Path) -> Self {
        Self { base_dir, errors: Vec::new(), warnings: Vec::new(), files: BTreeMap::new() }
    }

    /// The value at `path` is wrong.
    fn error(&mut self, path: KeyPath, message: impl Into<String>) {
        self.errors.push(Problem { path, spot: Spot::Value, message: message.into() });
    }

    /// The key itself, or what is under it as a whole, is wrong.
    fn error_at_key(&mut self, path: KeyPath, message: impl Into<String>) {
        self.errors.push(Problem { path, spot: Spot::Key, message: message.into() });
    }

    /// What `path` says is permitted but probably not meant.
    fn warn(&mut self, path: KeyPath, message: impl Into<String>) {
        self.warnings.push(Problem { path, spot: Spot::Key, message: message.into() });
    }

    /// Loads a secret, or reports why that fails.
    fn secret(&mut self, secret: FileSecret, path: &KeyPath) -> Option<Secret> {
        let in_file = secret.is_in_file();
        match secret.load(self.base_dir) {
            Ok(secret) => {
                if in_file {
                    self.read_file(path, secret.reveal());
                }
                Some(secret)
            }
            Err(message) => {
                self.error(path.clone(), message);
                None
            }
        }
    }

    /// The file that `path` names has been read, for a reload to see that it is another one.
    fn read_file(&mut self, path: &KeyPath, content: &str) {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        self.files.insert(path.to_string(), hasher.finish());
    }
}
