//! Who has authenticated, and what counts for that user.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

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
        match &entry.user {
            // The entry is not that of the user, who may be known elsewhere.
            Some(user) => Self { user: user.clone(), until: entry.expires, limits: None },
            None => Self { user: username.into(), until: entry.expires, limits: Some(entry.limits.clone()) },
        }
    }

    /// As it goes through a WebSocket's handshake, which takes one text: the user, and what else there is after a line
    /// feed, which no user name has.
    pub(crate) fn to_principal(&self) -> Arc<str> {
        let mut text = self.user.to_string();
        let mut line = |number: Option<u64>| {
            text.push('\n');
            text.extend(number.map(|number| number.to_string()));
        };
        line(self.until);
        if let Some(UserLimits { sessions, message_size, messages_per_second, bytes_per_second, burst }) =
            &self.limits
        {
            for number in [sessions, message_size, messages_per_second, bytes_per_second] {
                line(number.map(|number| number as u64));
            }
            line(burst.map(|burst| u64::try_from(burst.as_millis()).unwrap_or(u64::MAX)));
        }
        text.into()
    }

    /// The user of a handshake: as [`to_principal`](Self::to_principal) wrote it, or a name alone.
    pub(crate) fn of_principal(principal: &str) -> Self {
        let mut lines = principal.split('\n');
        let user = lines.next().unwrap_or_default().into();
        let until = lines.next().and_then(|until| until.parse().ok());
        let numbers: SmallVec<[Option<u64>; 5]> = lines.map(|number| number.parse().ok()).collect();
        let limits = (!numbers.is_empty()).then(|| {
            let number = |index: usize| numbers.get(index).copied().flatten();
            let size = |index| number(index).and_then(|number| usize::try_from(number).ok());
            UserLimits {
                sessions: size(0),
                message_size: size(1),
                messages_per_second: size(2),
                bytes_per_second: size(3),
                burst: number(4).map(Duration::from_millis),
            }
        });
        Self { user, until, limits }
    }
}

/// The name of a handshake's user, as [`Identity::of_principal`] reads it.
pub(crate) fn user_of_principal(principal: &str) -> &str {
    principal.split_once('\n').map_or(principal, |(user, _)| user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_handshakes_user_is_found_with_and_without_more() {
        let identity = Identity { user: "alice".into(), until: None, limits: None };
        assert_eq!(user_of_principal(&identity.to_principal()), "alice");
        let identity = Identity { until: Some(1), limits: Some(UserLimits::default()), ..identity };
        assert_eq!(user_of_principal(&identity.to_principal()), "alice");
        assert_eq!(user_of_principal("bob"), "bob");
    }

    #[test]
    fn it_goes_through_a_handshake_as_it_is() {
        let limits = UserLimits {
            sessions: Some(3),
            bytes_per_second: Some(9),
            burst: Some(Duration::from_millis(1500)),
            ..UserLimits::default()
        };
        for identity in [
            Identity { user: "alice".into(), until: Some(17), limits: Some(limits) },
            Identity { user: "bob".into(), until: None, limits: Some(UserLimits::default()) },
            Identity { user: "zoe".into(), until: Some(18), limits: None },
        ] {
            assert_eq!(Identity::of_principal(&identity.to_principal()), identity);
        }
        let token = Identity { user: "carol".into(), until: None, limits: None };
        assert_eq!(Identity::of_principal("carol"), token);
    }
}
