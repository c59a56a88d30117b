//! The route of the SEND before: on one connection most messages go the way of the one before.
//!
//! A route is decided anew unless nothing that could change it has changed:
//!
//! | what could change it | how that is seen |
//! |---|---|
//! | other paths in the head | [`Head::paths`] |
//! | a session's end | its time, and whether it is over |
//! | another connection to the peer, or to the client | the session's count of changes ([`Session::changes`](crate::msrp::Session)) |
//! | the connection is lost | whoever uses the route finds it closed, and asks again |
//! | a reload | the number of the settings |
//! | the limits of a head | looked at each time |
//!
//! Not remembered are routes through sessions that a relay owns, whose connection may be another one, and any while
//! another process of this relay has sessions.

use std::time::Instant;

use msrp_proto::head::Head;

use crate::msrp::route::{Changes, Route};
use crate::msrp::{Owner, Relay};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Memo {
    paths: u64,
    settings: u64,
    changes: Changes,
    route: Route,
}

impl Memo {
    /// Remembers how a head was routed under the settings of this number, if that may be. The changes are those that
    /// came with the route.
    pub(super) fn of(
        relay: &Relay,
        head: &Head,
        route: &Route,
        changes: Changes,
        settings: u64,
    ) -> Option<Self> {
        let sessions = route.through.sessions();
        let owned_by_clients = !sessions.is_empty()
            && sessions.iter().all(|session| matches!(session.owner(), Owner::Client(_)));
        (owned_by_clients && !relay.has_kin()).then(|| Self {
            paths: head.paths(),
            settings,
            changes,
            route: route.clone(),
        })
    }

    /// The route of this head, if it is the same.
    pub(super) fn route(&self, relay: &Relay, head: &Head, now: Instant) -> Option<Route> {
        let route = &self.route;
        let holds = self.paths == head.paths()
            && route.through.is_unchanged(&self.changes)
            && now < route.expires
            && !route.through.is_over()
            && self.settings == relay.current().number()
            && !relay.has_kin()
            && relay.keeps_to_limits(head);
        holds.then(|| route.clone())
    }
}
