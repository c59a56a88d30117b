//! Asks sources of credentials that take their time, off the connections' tasks.

use std::sync::{Arc, Weak};

use crate::credentials::{Credentials as _, Query};
use crate::msrp::{Attempt, HandshakeDenial, Later, Link, Relay, Resolver};

use super::now;

/// Asks for AUTH requests, each in a task of its own. How many there can be is bounded by what each connection may put
/// aside, and by the source.
pub(super) struct ChainResolver(pub(super) Weak<Relay>);

impl Resolver for ChainResolver {
    fn resolve(&self, query: Query, link: Arc<Link>, ticket: u64) {
        let Some(relay) = self.0.upgrade() else { return };
        let chain = relay.settings().auth.credentials.clone();
        drop(relay);
        tokio::spawn(async move {
            let found = chain.fetch(&query).await;
            link.resolved(ticket, found);
        });
    }
}

/// Who sent an HTTP request, with all the waiting there is.
pub(super) async fn http_digest(
    relay: &Relay,
    method: &str,
    target: &str,
    authorization: Option<&str>,
    peer: &str,
) -> Result<Arc<str>, HandshakeDenial> {
    let mut attempt = Attempt::default();
    loop {
        match relay.http_digest(method, target, authorization, peer, &mut attempt, now()) {
            Err(HandshakeDenial::Later(Later::Until(time))) => {
                tokio::time::sleep_until(time.into()).await;
                attempt.has_waited();
            }
            Err(HandshakeDenial::Later(Later::Lookup(query))) => {
                let found = relay.settings().auth.credentials.clone().fetch(&query).await;
                attempt.answered(query.wants, found);
            }
            decided => return decided,
        }
    }
}
