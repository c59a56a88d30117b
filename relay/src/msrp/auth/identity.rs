//! Who has authenticated, and what counts for that user.

use std::sync::Arc;

use crate::config::UserLimits;
use crate::credentials::Entry;

/// Who has authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user's name.
    pub(crate) user: Box<str>,
    /// Until when sessions may last, in milliseconds since the Unix epoch.
    pub(crate) until: Option<u64>,
    /// The user's own limits; none if they are not known.
    pub(crate) limits: Option<UserLimits>,
}

impl Identity {
    /// Of the user who sent this name and knows the password of this entry.
    pub(crate) fn of_entry(username: &str, entry: &Entry) -> Self {
        let user = entry.user.clone().unwrap_or_else(|| username.into());
        Self { user, until: entry.expires, limits: Some(entry.limits.clone()) }
    }

    /// As it goes through a WebSocket's handshake, which takes one text: the user, and what else there is after a line
    /// feed, which no user name has.
    pub(crate) fn to_principal(&self) -> Arc<str> {
        let UserLimits { sessions, message_size, messages_per_second, bytes_per_second, burst: _ } =
            self.limits.clone().unwrap_or_default();
        let numbers = [sessions, message_size, messages_per_second, bytes_per_second];
        let until = self.until.map_or(String::new(), |until| until.to_string());
        let numbers = numbers.map(|number| number.map_or(String::new(), |number| number.to_string()));
        format!("{}\n{until}\n{}", self.user, numbers.join("\n")).into()
    }

    /// The user of a handshake: as [`to_principal`](Self::to_principal) wrote it, or a name alone.
    pub(crate) fn of_principal(principal: &str) -> Self {
        let mut lines = principal.split('\n');
        let user = lines.next().unwrap_or_default().into();
        let Some(until) = lines.next() else { return Self { user, until: None, limits: None } };
        let mut number = || lines.next().and_then(|number| number.parse().ok());
        let limits = UserLimits {
            sessions: number(),
            message_size: number(),
            messages_per_second: number(),
            bytes_per_second: number(),
            burst: None,
        };
        Self { user, until: until.parse().ok(), limits: Some(limits) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_through_a_handshake_as_it_is() {
        let limits = UserLimits { sessions: Some(3), bytes_per_second: Some(9), ..UserLimits::default() };
        for identity in [
            Identity { user: "alice".into(), until: Some(17), limits: Some(limits) },
            Identity { user: "bob".into(), until: None, limits: Some(UserLimits::default()) },
        ] {
            assert_eq!(Identity::of_principal(&identity.to_principal()), identity);
        }
        let token = Identity { user: "carol".into(), until: None, limits: None };
        assert_eq!(Identity::of_principal("carol"), token);
    }
}
