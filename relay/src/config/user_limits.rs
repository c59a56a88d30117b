//! `limits.user`, and the limits of one user: how much each user may have and send.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::Check;
use super::error::KeyPath;
use super::form;
use super::value::{duration, optional_count, size};

/// How much a user may have and send. What is not set is not limited.
///
/// It counts for all sessions of a user together, whatever connections they are on. A user's own limits come from
/// `auth.users.*.limits` or the database, and replace those of `limits.user` one by one; they count however the user logs
/// in. While the database is away, those of users with ephemeral credentials, a token or a certificate are as it said
/// last, and where that is not remembered those of `limits.user`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UserLimits {
    /// The most sessions at once; one more AUTH is refused with 403.
    #[serde(deserialize_with = "optional_count")]
    #[schemars(with = "form::Count")]
    pub sessions: Option<usize>,
    /// The largest message that the user may send, in bytes; of a larger one the chunk is refused with 413 (RFC 4975
    /// §10.5), on its head where that says the size.
    #[serde(deserialize_with = "optional_size")]
    #[schemars(with = "form::Size")]
    pub message_size: Option<usize>,
    /// SEND requests a second that the user may send, a chunk counting as one; beyond that the connection is not read
    /// from for as long as needed.
    #[serde(deserialize_with = "optional_count")]
    #[schemars(with = "form::Count")]
    pub messages_per_second: Option<usize>,
    /// Body bytes a second that the user may send; beyond that likewise.
    #[serde(deserialize_with = "optional_size")]
    #[schemars(with = "form::Size")]
    pub bytes_per_second: Option<usize>,
    /// For how long the user may save up what it has not sent. Default 5 s.
    #[serde(deserialize_with = "optional_duration")]
    #[schemars(with = "form::Duration", extend("default" = DEFAULT_BURST))]
    pub burst: Option<Duration>,
}

/// [`UserLimits::burst`] where it is not set.
pub const DEFAULT_BURST: Duration = Duration::from_secs(5);

impl UserLimits {
    /// These, and where they say nothing those.
    pub fn over(&self, those: &Self) -> Self {
        Self {
            sessions: self.sessions.or(those.sessions),
            message_size: self.message_size.or(those.message_size),
            messages_per_second: self.messages_per_second.or(those.messages_per_second),
            bytes_per_second: self.bytes_per_second.or(those.bytes_per_second),
            burst: self.burst.or(those.burst),
        }
    }

    /// From the columns of a database, in the order of the fields. What is not positive is not set.
    pub(crate) fn of_columns(columns: [Option<i64>; 4]) -> Self {
        let positive = |number: Option<i64>| usize::try_from(number?).ok().filter(|number| *number > 0);
        let [sessions, message_size, messages_per_second, bytes_per_second] = columns.map(positive);
        Self { sessions, message_size, messages_per_second, bytes_per_second, burst: None }
    }

    /// Refuses values with which nothing could be sent.
    pub(super) fn validate(&self, path: &KeyPath, check: &mut Check<'_>) {
        let minutes = Duration::from_secs(60);
        if self.burst.is_some_and(|burst| burst < Duration::from_secs(1) || burst > 10 * minutes) {
            check.error(path.clone().key("burst"), "goes from 1s to 10m");
        }
        // A time is kept for each: beyond this it would be less than a nanosecond.
        if self.messages_per_second.is_some_and(|rate| rate > 1_000_000) {
            check.error(path.clone().key("messages_per_second"), "goes from 1 to 1000000");
        }
    }
}

fn optional_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    size(deserializer).map(Some)
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_own_limits_replace_those_of_all_one_by_one() {
        let all = UserLimits { sessions: Some(5), message_size: Some(1000), ..UserLimits::default() };
        let own = UserLimits { sessions: Some(9), bytes_per_second: Some(7), ..UserLimits::default() };
        let expected = UserLimits {
            sessions: Some(9),
            message_size: Some(1000),
            bytes_per_second: Some(7),
            ..UserLimits::default()
        };
        assert_eq!(own.over(&all), expected);
    }

    #[test]
    fn columns_that_are_not_positive_set_nothing() {
        let limits = UserLimits::of_columns([Some(3), Some(0), Some(-1), None]);
        assert_eq!(limits, UserLimits { sessions: Some(3), ..UserLimits::default() });
    }
}
