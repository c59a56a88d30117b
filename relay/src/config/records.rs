//! `records`: where the record of each session goes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::Check;
use super::database::{DatabaseUrl, Identifier};
use super::error::KeyPath;
use super::form;
use super::value::{FileSecret, HostPort, count, duration, duration_or_zero, from_text};

/// The port of syslog over UDP (RFC 5426 §3.3).
pub(super) const SYSLOG_PORT: u16 = 514;

/// The longest APP-NAME (RFC 5424 §6).
const MAX_TAG: usize = 48;

/// The most records that may be told to wait: some ten gigabytes.
const MAX_QUEUE: usize = 10_000_000;

/// What is written of sessions, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// How many records may wait for a sink, for each of them. Default 65536: 64 MiB at most, with usual peers.
    pub queue: usize,
    /// How long a stopping relay waits for the sinks to take the last records. Default 5 s.
    pub flush_timeout: Duration,
    /// How often a session that lasts is written in between; default: never.
    pub interim: Option<Duration>,
    /// Where records go, by name.
    pub sinks: Vec<RecordSink>,
}

/// One place where records go.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordSink {
    /// What the log and the statistics call it.
    pub name: String,
    /// What it is.
    pub target: RecordTarget,
}

/// What a sink is.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordTarget {
    /// A file of JSON lines.
    File(RecordFile),
    /// A syslog daemon.
    Syslog(RecordSyslog),
    /// A table.
    Database(Box<RecordDatabase>),
}

/// A file of JSON lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFile {
    /// The file; it is made where there is none.
    pub path: PathBuf,
    /// Whether a record only counts as written once the disk has it. Default false: once the system has it.
    pub fsync: bool,
}

/// A syslog daemon (RFC 5424).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSyslog {
    /// Where it is. Default `unix:/dev/log`.
    pub address: SyslogAddress,
    /// The facility. Default `local0`.
    pub facility: Facility,
    /// The APP-NAME. Default `msrp-relay`.
    pub tag: String,
}

/// A table with one row for each session.
#[derive(Debug, Clone)]
pub struct RecordDatabase {
    /// The database.
    pub url: DatabaseUrl,
    /// The table. Default `msrp_sessions`.
    pub table: String,
    /// How long it may take for one lot of records, connecting included; then it is away. Default 10 s.
    pub timeout: Duration,
}

impl PartialEq for RecordDatabase {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && (&self.table, self.timeout) == (&other.table, other.timeout)
    }
}

/// Whether it can be an APP-NAME; if not, why.
pub(super) fn check_tag(tag: &str) -> Result<(), String> {
    if tag.is_empty() || tag.len() > MAX_TAG || !tag.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("is 1 to {MAX_TAG} letters, digits and signs, without spaces"));
    }
    Ok(())
}

/// Where a syslog daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// `unix:PATH`, a datagram socket.
    Unix(PathBuf),
    /// `udp://HOST:PORT` (RFC 5426).
    Udp(HostPort),
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp://{address}"),
        }
    }
}

impl FromStr for SyslogAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.strip_prefix("//").unwrap_or(path) {
                "" => Err("a Unix socket needs a path: `unix:/dev/log`".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let Some(address) = text.strip_prefix("udp://") else {
            return Err(format!("`{text}` is neither `unix:PATH` nor `udp://HOST:PORT`"));
        };
        let HostPort { host, port } = address.parse()?;
        match port {
            Some(0) => Err("port 0 is nobody's".to_owned()),
            port => Ok(Self::Udp(HostPort { host, port: Some(port.unwrap_or(SYSLOG_PORT)) })),
        }
    }
}

impl<'de> Deserialize<'de> for SyslogAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the address of a syslog daemon, such as `unix:/dev/log`")
    }
}

/// A facility (RFC 5424 §6.2.1), by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(pub u8);

impl Facility {
    /// Their names, in the order of their numbers, as syslog daemons write them.
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
        "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5",
        "local6", "local7",
    ];
}

impl Default for Facility {
    fn default() -> Self {
        Self(16)
    }
}

impl FromStr for Facility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = Self::NAMES.iter().position(|name| *name == text).and_then(|at| u8::try_from(at).ok());
        number
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a facility: those are {}", Self::NAMES.join(", ")))
    }
}

impl<'de> Deserialize<'de> for Facility {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a facility, such as `local0`")
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileRecords {
    /// Records that may wait for a sink, for each of them, up to 10 000 000; then the newest are lost, and counted.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    queue: usize,
    /// How long a stopping relay waits for the sinks to take the last ones; `0s`: not at all.
    #[serde(deserialize_with = "duration_or_zero")]
    #[schemars(with = "form::DurationOrZero")]
    flush_timeout: Duration,
    /// How often a session that lasts is written in between, 1 s or more: what a crash can lose. Default: never.
    #[serde(deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration")]
    interim: Option<Duration>,
    /// Where records go, by a name of your choice. Each is one of `file`, `syslog` and `database`. None without.
    sinks: BTreeMap<String, FileSink>,
}

impl Default for FileRecords {
    fn default() -> Self {
        Self { queue: 65_536, flush_timeout: Duration::from_secs(5), interim: None, sinks: BTreeMap::new() }
    }
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct FileSink {
    /// A file, with a line of JSON for each record.
    file: Option<FileFile>,
    /// A syslog daemon (RFC 5424).
    syslog: Option<FileSyslog>,
    /// A table, with a row for each session.
    database: Option<FileDatabase>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileFile {
    /// The file; it is made where there is none, and opened again by SIGHUP, or when it was moved.
    #[schemars(with = "form::Path")]
    path: PathBuf,
    /// Whether a record counts as written only once the disk has it.
    #[serde(default)]
    fsync: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileSyslog {
    /// Where it is: `unix:PATH` or `udp://HOST:PORT`.
    #[serde(default = "default_address")]
    #[schemars(with = "form::SyslogAddress", extend("default" = "unix:/dev/log"))]
    address: SyslogAddress,
    /// The facility.
    #[serde(default)]
    #[schemars(with = "form::Facility", extend("default" = "local0"))]
    facility: Facility,
    /// The APP-NAME, up to 48 characters.
    #[serde(default = "default_tag")]
    tag: String,
}

fn default_address() -> SyslogAddress {
    SyslogAddress::Unix("/dev/log".into())
}

fn default_tag() -> String {
    "msrp-relay".to_owned()
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileDatabase {
    /// Where it is. A file of SQLite is relative to the configuration.
    #[schemars(with = "form::DatabaseUrl")]
    url: FileSecret,
    /// The table. In SQLite it is made.
    #[serde(default)]
    #[schemars(with = "form::Identifier", extend("default" = "msrp_sessions"))]
    table: Option<Identifier>,
    /// How long it may take for one lot of records, connecting included; then it is away.
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    timeout: Duration,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

impl FileRecords {
    pub(super) fn validate(self, check: &mut Check<'_>) -> Records {
        let path = KeyPath::new(&["records"]);
        if self.queue > MAX_QUEUE {
            check.error(
                path.clone().key("queue"),
                format!("is {}, and goes from 1 to {MAX_QUEUE}", self.queue),
            );
        }
        if self.interim.is_some_and(|interim| interim < Duration::from_secs(1)) {
            check.error(path.clone().key("interim"), "is shorter than 1s");
        }
        let names = path.key("sinks");
        let sinks = self.sinks.into_iter().filter_map(|(name, sink)| {
            let path = names.clone().key(&name);
            let target = sink.validate(&path, check)?;
            Some(RecordSink { name, target })
        });
        let sinks: Vec<_> = sinks.collect();
        let mut files: Vec<_> = sinks
            .iter()
            .filter_map(|sink| match &sink.target {
                RecordTarget::File(file) => Some((&file.path, &sink.name)),
                _ => None,
            })
            .collect();
        files.sort_unstable();
        for pair in files.windows(2) {
            if pair[0].0 == pair[1].0 {
                let message = format!("writes to the same file as `{}`", pair[0].1);
                check.error_at_key(names.clone().key(pair[1].1), message);
            }
        }
        Records { queue: self.queue, flush_timeout: self.flush_timeout, interim: self.interim, sinks }
    }
}

impl FileSink {
    fn validate(self, path: &KeyPath, check: &mut Check<'_>) -> Option<RecordTarget> {
        match self {
            Self { file: Some(file), syslog: None, database: None } => {
                let key = path.clone().key("file").key("path");
                let path = check.base_dir.join(&file.path);
                // Of a bare name it is the one that this process is in.
                let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                let directory = directory.unwrap_or(Path::new("."));
                if file.path.as_os_str().is_empty() {
                    check.error(key, "is empty");
                } else if path.is_dir() {
                    check.error(key, "is a directory");
                } else if !directory.is_dir() {
                    check.error(key, format!("there is no directory {}", directory.display()));
                }
                Some(RecordTarget::File(RecordFile { path, fsync: file.fsync }))
            }
            Self { file: None, syslog: Some(syslog), database: None } => {
                let tag = syslog.tag;
                if let Err(message) = check_tag(&tag) {
                    check.error(path.clone().key("syslog").key("tag"), message);
                }
                let address = match syslog.address {
                    SyslogAddress::Unix(path) => SyslogAddress::Unix(check.base_dir.join(path)),
                    udp @ SyslogAddress::Udp(_) => udp,
                };
                Some(RecordTarget::Syslog(RecordSyslog { address, facility: syslog.facility, tag }))
            }
            Self { file: None, syslog: None, database: Some(database) } => {
                let path = path.clone().key("database").key("url");
                let url = check.secret(database.url, &path)?;
                let url = DatabaseUrl::parse(url.reveal(), check.base_dir);
                let url = url.map_err(|message| check.error(path, message)).ok()?;
                let table = database.table.map_or("msrp_sessions".to_owned(), Identifier::into_name);
                let timeout = database.timeout;
                let url = url.create_if_missing();
                Some(RecordTarget::Database(Box::new(RecordDatabase { url, table, timeout })))
            }
            _ => {
                check.error_at_key(path.clone(), "is one of `file`, `syslog` and `database`");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use super::super::Config;
    use super::*;

    fn read(text: &str) -> Result<Records, String> {
        let text =
            format!("domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:1' }} ]\nrecords: {{ {text} }}\n");
        let config = Config::parse(&text, Path::new("/"), "relay.yaml")
            .map_err(|errors| errors.errors()[0].to_string())?;
        Ok(config.records)
    }

    fn one(text: &str) -> RecordTarget {
        read(&format!("sinks: {{ a: {{ {text} }} }}")).unwrap().sinks.remove(0).target
    }

    #[test]
    fn sinks_are_read() {
        let none = read("").unwrap();
        assert_eq!((none.queue, none.interim, none.sinks.len()), (65_536, None, 0));
        assert_eq!(none.flush_timeout, Duration::from_secs(5));
        let found = read("queue: 7, flush_timeout: 0s, interim: 5m").unwrap();
        assert_eq!((found.queue, found.flush_timeout), (7, Duration::ZERO));
        assert_eq!(found.interim, Some(Duration::from_secs(300)));

        let path = "/s.jsonl".into();
        assert_eq!(one("file: { path: s.jsonl }"), RecordTarget::File(RecordFile { path, fsync: false }));
        let path = "/s".into();
        assert_eq!(
            one("file: { path: /s, fsync: true }"),
            RecordTarget::File(RecordFile { path, fsync: true })
        );
        let syslog = |address: &str, facility, tag: &str| {
            let (address, tag) = (address.parse().unwrap(), tag.to_owned());
            RecordTarget::Syslog(RecordSyslog { address, facility: Facility(facility), tag })
        };
        assert_eq!(one("syslog: {}"), syslog("unix:/dev/log", 16, "msrp-relay"));
        let text = "syslog: { address: 'udp://log.test', facility: daemon, tag: billing }";
        assert_eq!(one(text), syslog("udp://log.test:514", 3, "billing"));
        assert_eq!(
            one("syslog: { address: 'unix:x', facility: local7 }"),
            syslog("unix:/x", 23, "msrp-relay")
        );
        let RecordTarget::Database(found) = one("database: { url: 'mysql://a:HUSH@db/cdr' }") else {
            panic!()
        };
        assert_eq!((found.table.as_str(), found.timeout), ("msrp_sessions", Duration::from_secs(10)));
        assert_eq!(found.url.to_string(), "mysql:db/cdr");
        let text = "database: { url: 'sqlite:x.db', table: cdr.sessions, timeout: 250ms }";
        let RecordTarget::Database(found) = one(text) else { panic!() };
        assert_eq!((found.table.as_str(), found.timeout), ("cdr.sessions", Duration::from_millis(250)));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, why) in [
            ("queue: 0", "records.queue: expected a count of at least 1"),
            ("queue: 10000001", "goes from 1 to 10000000"),
            ("interim: 999ms", "records.interim: is shorter than 1s"),
            ("interim: 0s", "longer than zero"),
            ("sinks: { a: {} }", "records.sinks.a: is one of"),
            ("sinks: { a: { file: { path: x }, syslog: {} } }", "records.sinks.a: is one of"),
            ("sinks: { a: { file: {} } }", "missing key `path`"),
            ("sinks: { a: { file: { path: '' } } }", "is empty"),
            ("sinks: { a: { file: { path: tmp } } }", "a.file.path: is a directory"),
            ("sinks: { a: { file: { path: not/there } } }", "there is no directory /not"),
            (
                "sinks: { a: { file: { path: x } }, b: { file: { path: x } } }",
                "records.sinks.b: writes to the same file as `a`",
            ),
            ("sinks: { a: { syslog: { facility: local8 } } }", "not a facility"),
            ("sinks: { a: { syslog: { tag: 'a b' } } }", "without spaces"),
            ("sinks: { a: { syslog: { tag: '' } } }", "1 to 48"),
            (
                "sinks: { a: { syslog: { tag: 'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeee' } } }",
                "1 to 48",
            ),
            ("sinks: { a: { syslog: { address: 'tcp://a' } } }", "neither"),
            ("sinks: { a: { syslog: { address: 'unix:' } } }", "needs a path"),
            ("sinks: { a: { syslog: { address: 'udp://a:0' } } }", "nobody's"),
            ("sinks: { a: { database: { url: 'oracle://HUSH@a' } } }", "`sqlite:`"),
            ("sinks: { a: { database: { url: 'sqlite:a', table: 'a b' } } }", "is not a name"),
            ("sinks: { a: { database: { url: 'sqlite:a', timeout: 0s } } }", "longer than zero"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("HUSH"), "{text}: {error}");
        }
        for good in ["queue: 1", "queue: 10000000", "interim: 1s"] {
            read(good).unwrap();
        }
    }
}
