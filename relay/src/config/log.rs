//! `log`: how much is logged, and in what form.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

use super::form;
use super::value::from_text;

/// The log settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How much is logged. Default `info`.
    #[schemars(with = "form::LogLevel", extend("default" = "info"))]
    pub level: LogLevel,
    /// In what form. Default text.
    #[schemars(with = "form::LogFormat", extend("default" = "text"))]
    pub format: LogFormat,
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
    fn a_mistyped_level_is_refused() {
        for text in ["info", "OFF", "warn,relay=debug", "relay[session]=trace,error"] {
            assert_eq!(text.parse::<LogLevel>().unwrap().as_str(), text);
        }
        for text in ["", "inof", "INFOO", "info,relay", "relay=loud"] {
            assert!(text.parse::<LogLevel>().is_err(), "{text}");
        }
    }
}
