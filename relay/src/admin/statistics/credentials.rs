//! Users who are looked up in a database.

use super::Family;
use crate::credentials::{CredentialStats, Credentials as _};
use crate::server::Control;

pub(super) fn families(control: &Control) -> Vec<Family> {
    let config = control.config();
    let Some(stats) = config.auth.credentials.stats() else { return Vec::new() };
    let CredentialStats { available, users, cached, queried, busy, failed, away, queries: _ } = stats;
    vec![
        Family::gauge("auth", "database_up", "Whether the database answers, as far as is known.")
            .value(u64::from(available)),
        Family::gauge("auth", "cached_users", "Users in the cache, unknown ones among them.").value(users),
        Family::counter("auth", "lookups", "Look-ups of users in the database, each by what became of it.")
            .by(
                "result",
                [
                    ("cached", cached),
                    ("queried", queried),
                    ("busy", busy),
                    ("failed", failed),
                    ("away", away),
                ],
            ),
    ]
}
