//! `auth.throttle`: how those are slowed down who try passwords.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::DatabaseSettings;
use crate::config::error::KeyPath;
use crate::config::form;
use crate::config::value::{count, duration};
use crate::config::{Check, Listener, Timeouts};

/// The longest delay there can be: with it a right password still gets in within 30 s.
const LONGEST: Duration = Duration::from_secs(20);

/// How long the right password may take to get in.
const PROMISED: Duration = Duration::from_secs(30);

/// How an address that fails for a user is slowed down. It concerns that pair alone: others from there, and that user
/// from elsewhere, notice nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// Whether to do it. Default true.
    pub enabled: bool,
    /// Failures of a pair before its next AUTH is delayed. Default 3: a user mistypes.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub free: usize,
    /// The first delay; each further failure doubles it. Default 1 s.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub delay: Duration,
    /// The longest delay. Default 8 s: the right password, from a fresh connection, gets in within 30 s even while
    /// others go on trying from the same address.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub max_delay: Duration,
    /// After how long without a failure a pair is as any other. Default 15 min. Success does that too.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub forget: Duration,
    /// The most AUTHs of a pair that wait at once, over all connections: so many passwords can be tried for one user in
    /// `max_delay`. Beyond that, those wait on whose connections least has been tried. Default 1024: the right password
    /// gets in for sure while others open up to 128 connections a second from the same address to try theirs.
    #[serde(deserialize_with = "count")]
    pub waiting: usize,
    /// The most pairs remembered; beyond that, those whose last failure is longest ago are forgotten. Default 65536,
    /// about 3 MiB.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    pub entries: usize,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            enabled: true,
            free: 3,
            delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(8),
            forget: Duration::from_secs(15 * 60),
            waiting: 1024,
            entries: 65536,
        }
    }
}

impl Throttle {
    /// A right password that has to wait must still come in time.
    pub(in crate::config) fn check_times(
        &self,
        timeouts: &Timeouts,
        listeners: &[Listener],
        check: &mut Check<'_>,
    ) {
        let handshakes = listeners.iter().filter_map(|listener| listener.websocket.as_ref());
        let handshakes =
            handshakes.filter(|websocket| websocket.auth.digest).map(|own| own.handshake_timeout);
        let first = std::iter::once(timeouts.probation).chain(handshakes).min();
        if self.enabled && first.is_some_and(|first| first <= self.max_delay) {
            let message = "is not shorter than `timeouts.probation`, and `handshake_timeout` of a WebSocket listener \
                           with `digest`: who has to wait so long is closed before";
            check.warn(KeyPath::new(&["auth", "throttle", "max_delay"]), message);
        }
    }

    /// Likewise if its user has to be asked for.
    pub(super) fn check_database(&self, database: &DatabaseSettings, path: &KeyPath, check: &mut Check<'_>) {
        let delay = if self.enabled { self.max_delay } else { Duration::ZERO };
        if delay + 2 * database.timeout > PROMISED {
            let message = "twice, for a connection and for an answer, and `auth.throttle.max_delay` are longer than \
                           30s: the right password may take as long";
            check.warn(path.clone().key("timeout"), message);
        }
    }

    pub(super) fn validate(&self, path: &KeyPath, check: &mut Check<'_>) {
        if self.max_delay > LONGEST {
            check.error(
                path.clone().key("max_delay"),
                "is longer than 20s: the right password would take too long",
            );
        }
        if self.delay > self.max_delay {
            check.error(path.clone().key("delay"), "is longer than `max_delay`");
        }
        if self.waiting > 65536 {
            check.error(path.clone().key("waiting"), "goes from 1 to 65536");
        }
        if self.entries < 2 || self.entries > 16 * 1024 * 1024 {
            check.error(path.clone().key("entries"), "goes from 2 to 16777216");
        }
    }
}
