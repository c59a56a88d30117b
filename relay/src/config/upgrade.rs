//! `upgrade`: how another process takes over from the one that runs.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Check;
use super::form;
use super::value::duration;

/// How another process takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The Unix socket where the next process finds this one. Its permissions are 0600, and only a process of the same
    /// user, or of root, is talked to.
    pub socket: PathBuf,
    /// How long sessions of the process before may live on. Default 1 h: as long as a session lasts by default at most.
    pub drain_timeout: Duration,
    /// How long the next process may take until it serves; then it is given up, and everything is as before. Default
    /// 1 min.
    pub start_timeout: Duration,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileUpgrade {
    /// The Unix socket where the next process finds this one. Its permissions are 0600, and only a process of the same
    /// user, or of root, is talked to.
    #[schemars(with = "form::Path")]
    socket: PathBuf,
    /// How long sessions of the process before may live on.
    #[serde(default = "default_drain_timeout", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    drain_timeout: Duration,
    /// How long the next process may take until it serves; then it is given up, and everything is as before.
    #[serde(default = "default_start_timeout", deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    start_timeout: Duration,
}

fn default_drain_timeout() -> Duration {
    Duration::from_secs(60 * 60)
}

fn default_start_timeout() -> Duration {
    Duration::from_secs(60)
}

impl FileUpgrade {
    pub(super) fn validate(self, check: &Check<'_>) -> Upgrade {
        let Self { socket, drain_timeout, start_timeout } = self;
        Upgrade { socket: check.base_dir.join(socket), drain_timeout, start_timeout }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    fn upgrade(text: &str) -> Option<Upgrade> {
        let text = format!("domain: a\nlisteners: [ {{ uri: 'msrp://127.0.0.1:1' }} ]\n{text}\n");
        let config = Config::parse(&text, Path::new("/etc/relay"), "relay.yaml");
        config.unwrap_or_else(|errors| panic!("{errors}")).upgrade
    }

    #[test]
    fn without_the_section_nobody_takes_over() {
        assert_eq!(upgrade(""), None);
    }

    #[test]
    fn all_but_the_socket_has_a_default() {
        let (drain_timeout, start_timeout) = (Duration::from_secs(3600), Duration::from_secs(60));
        let socket = "/etc/relay/up.sock".into();
        let found = upgrade("upgrade: { socket: up.sock }");
        assert_eq!(found, Some(Upgrade { socket, drain_timeout, start_timeout }));
        let found = upgrade("upgrade: { socket: /run/up.sock, drain_timeout: 5m, start_timeout: 2s }");
        let (drain_timeout, start_timeout) = (Duration::from_secs(300), Duration::from_secs(2));
        assert_eq!(found, Some(Upgrade { socket: "/run/up.sock".into(), drain_timeout, start_timeout }));
    }
}
