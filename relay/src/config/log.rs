//! `log`: how much is logged, in what form, and where to.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

use super::Check;
use super::error::KeyPath;
use super::form;
use super::records::{Facility, SYSLOG_PORT, check_tag};
use super::value::{HostPort, from_text};

/// Where syslog daemons of this machine listen.
const SYSLOG_SOCKET: &str = "/dev/log";

/// Where the journal listens.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// The log settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How much is logged. Default `info`.
    #[schemars(with = "form::LogLevel", extend("default" = "info"))]
    pub level: LogLevel,
    /// In what form. Default text. The journal has its own.
    #[schemars(with = "form::LogFormat", extend("default" = "text"))]
    pub format: LogFormat,
    /// Where to. Default `stderr`.
    #[schemars(with = "form::LogTarget", extend("default" = "stderr"))]
    pub to: LogTarget,
    /// The facility, for syslog. Default `daemon`.
    #[schemars(with = "form::Facility", extend("default" = "daemon"))]
    pub facility: Facility,
    /// The APP-NAME, for syslog. Default `msrp-relay`.
    #[schemars(extend("default" = "msrp-relay"))]
    pub tag: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::default(),
            format: LogFormat::default(),
            to: LogTarget::default(),
            facility: Facility(3),
            tag: "msrp-relay".to_owned(),
        }
    }
}

impl Log {
    /// Whether both go to the same place in the same form.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        *self == Self { level: self.level.clone(), ..other.clone() }
    }

    pub(super) fn validate(mut self, check: &mut Check<'_>) -> Self {
        let path = KeyPath::new(&["log"]);
        if let LogTarget::File(file) = &mut self.to {
            *file = check.base_dir.join(&file);
        }
        if let Err(message) = check_tag(&self.tag) {
            check.error(path.clone().key("tag"), message);
        }
        if matches!(self.to, LogTarget::Journald(_)) && self.format == LogFormat::Json {
            check.warn(path.key("format"), "has no effect: the journal has a form of its own");
        }
        self
    }
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// `stderr`.
    #[default]
    Stderr,
    /// `file:PATH`, opened again on SIGHUP.
    File(PathBuf),
    /// `syslog`, `syslog:unix:PATH`, `syslog:udp://HOST:PORT`, `syslog:tcp://HOST:PORT`.
    Syslog(LogSyslog),
    /// `journald`, or `journald:PATH` for a socket elsewhere.
    Journald(PathBuf),
}

/// Where a syslog daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogSyslog {
    /// A datagram socket of this machine.
    Unix(PathBuf),
    /// UDP (RFC 5426).
    Udp(HostPort),
    /// TCP, each message with its length in front (RFC 6587 §3.4.1).
    Tcp(HostPort),
}

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "`{text}` is no place for a log, those are `stderr`, `file:PATH`, `syslog`, `syslog:unix:PATH`, \
                 `syslog:udp://HOST:PORT`, `syslog:tcp://HOST:PORT` and `journald`"
            )
        };
        let address = |address: &str| {
            let HostPort { host, port } = address.parse()?;
            match port {
                Some(0) => Err("port 0 is nobody's".to_owned()),
                port => Ok(HostPort { host, port: Some(port.unwrap_or(SYSLOG_PORT)) }),
            }
        };
        let (kind, place) = text.split_once(':').map_or((text, None), |(kind, place)| (kind, Some(place)));
        match (kind, place) {
            (_, Some("")) => Err(unknown()),
            ("stderr", None) => Ok(Self::Stderr),
            ("file", Some(path)) => Ok(Self::File(path.into())),
            ("syslog", None) => Ok(Self::Syslog(LogSyslog::Unix(SYSLOG_SOCKET.into()))),
            ("syslog", Some(place)) => match (
                place.strip_prefix("unix:").filter(|path| Path::new(path).is_absolute()),
                place.strip_prefix("udp://"),
                place.strip_prefix("tcp://"),
            ) {
                (Some(path), ..) => Ok(Self::Syslog(LogSyslog::Unix(path.into()))),
                (_, Some(udp), _) => Ok(Self::Syslog(LogSyslog::Udp(address(udp)?))),
                (.., Some(tcp)) => Ok(Self::Syslog(LogSyslog::Tcp(address(tcp)?))),
                _ => Err(unknown()),
            },
            ("journald", None) => Ok(Self::Journald(JOURNAL_SOCKET.into())),
            ("journald", Some(path)) if Path::new(path).is_absolute() => Ok(Self::Journald(path.into())),
            _ => Err(unknown()),
        }
    }
}

impl<'de> Deserialize<'de> for LogTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "where the log goes, such as `file:/var/log/msrp-relay/relay.log`")
    }
}

/// `error`, `warn`, `info`, `debug`, `trace` or `off`; or directives for parts of the program, such as
/// `info,relay::session=debug`. One that exists is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// The filter to install.
    pub fn filter(&self) -> EnvFilter {
        // It was parsed when it was read; what does not parse would be left out.
        EnvFilter::new(&self.0)
    }

    /// The text, as `tracing_subscriber`'s directives.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A word alone would pass as the name of a part of the program, a mistyped level with it.
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let is_level = |word: &str| levels.iter().any(|level| level.eq_ignore_ascii_case(word));
        let mistyped = text.split(',').find(|word| !word.contains(['=', '[']) && !is_level(word));
        match (mistyped, EnvFilter::try_new(text)) {
            (None, Ok(_)) => Ok(Self(text.to_owned())),
            (Some(word), _) => {
                Err(format!("`{word}` is not a level, those are error, warn, info, debug, trace and off"))
            }
            (None, Err(err)) => Err(format!("`{text}`: {err}")),
        }
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a log level, such as `info`")
    }
}

/// One event per line, as text or as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is not a format, those are text and json")),
        }
    }
}

impl<'de> Deserialize<'de> for LogFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "`text` or `json`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_to_one_of_these_places() {
        for (text, target) in [
            ("stderr", LogTarget::Stderr),
            ("file:relay.log", LogTarget::File("relay.log".into())),
            ("syslog", LogTarget::Syslog(LogSyslog::Unix("/dev/log".into()))),
            ("syslog:unix:/run/log", LogTarget::Syslog(LogSyslog::Unix("/run/log".into()))),
            ("syslog:udp://log.test", LogTarget::Syslog(LogSyslog::Udp("log.test:514".parse().unwrap()))),
            ("syslog:tcp://[::1]:601", LogTarget::Syslog(LogSyslog::Tcp("[::1]:601".parse().unwrap()))),
            ("journald", LogTarget::Journald("/run/systemd/journal/socket".into())),
            ("journald:/run/socket", LogTarget::Journald("/run/socket".into())),
        ] {
            assert_eq!(text.parse::<LogTarget>().as_ref(), Ok(&target), "{text}");
        }
        for text in [
            "",
            "file",
            "file:",
            "stdout",
            "stderr:1",
            "syslog:",
            "syslog:/dev/log",
            "syslog:unix:log",
            "syslog:udp://a:0",
            "journald:a",
        ] {
            assert!(text.parse::<LogTarget>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_place_and_the_form_make_the_output_and_not_the_level() {
        let log = Log::default();
        assert!(log.is_as(&Log { level: "debug".parse().unwrap(), ..Log::default() }));
        for other in [
            Log { format: LogFormat::Json, ..Log::default() },
            Log { to: LogTarget::File("a".into()), ..Log::default() },
            Log { facility: Facility(16), ..Log::default() },
            Log { tag: "other".into(), ..Log::default() },
        ] {
            assert!(!log.is_as(&other), "{other:?}");
        }
    }

    #[test]
    fn a_mistyped_level_is_refused() {
        for text in ["info", "OFF", "warn,relay=debug", "relay[session]=trace,error"] {
            assert_eq!(text.parse::<LogLevel>().unwrap().as_str(), text);
        }
        for text in ["", "inof", "INFOO", "info,relay", "relay=loud"] {
            assert!(text.parse::<LogLevel>().is_err(), "{text}");
        }
    }
}
