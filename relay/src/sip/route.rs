//! The Route of a request: what of it is ours, and what comes after (RFC 3261 §16.4).

use std::ops::Range;

use smallvec::SmallVec;
use tcp_transport::sip::{Address, Field, Head, Name, Rewrite, SipUri};

use super::edge::Edge;

/// The Route of a request, taken apart.
#[derive(Debug)]
pub(super) struct Routes<'a> {
    /// The entries to remove: at the front, and ours.
    own: SmallVec<[(Range<usize>, Field); 4]>,
    /// The user of ours that has one: a flow token.
    pub(super) token: Option<&'a [u8]>,
    /// The entry that comes after.
    next: Option<(Range<usize>, Field)>,
}

impl Edge {
    /// Takes the Route apart. Ours are, at the front, entries without a user, as clients have that were told of an
    /// outbound proxy, then one with a token, and its twin where both sides of the edge have recorded themselves
    /// (RFC 5658). One with another token is for another passage through this edge, after the next hop.
    pub(super) fn routes<'a>(&self, head: &'a Head) -> Routes<'a> {
        let mut routes = Routes { own: SmallVec::new(), token: None, next: None };
        for value in head.values(Name::Route) {
            // The framer has refused what is not by the grammar.
            let Ok((range, field)) = value else { break };
            let ours = uri_of(head, range.clone()).filter(|uri| self.is_own(uri.host, uri.port));
            let belongs = match (ours, routes.token) {
                (None, _) => false,
                (Some(SipUri { user: None, .. }), token) => token.is_none(),
                (Some(SipUri { user: Some(user), .. }), None) => {
                    routes.token = Some(user);
                    true
                }
                (Some(SipUri { user, .. }), token) => user == token,
            };
            if !belongs {
                routes.next = Some((range, field));
                break;
            }
            routes.own.push((range, field));
        }
        routes
    }

    /// The upstream that the next Route entry names.
    pub(super) fn next_upstream(&self, head: &Head, routes: &Routes<'_>) -> Option<usize> {
        let (range, _) = routes.next.clone()?;
        let uri = uri_of(head, range)?;
        self.upstream_at(uri.host, uri.port)
    }
}

impl Routes<'_> {
    /// Whether none of it is ours, and there is some of it.
    pub(super) fn is_foreign(&self) -> bool {
        self.own.is_empty() && self.next.is_some()
    }

    /// Whether nothing of it is left when ours is gone.
    pub(super) fn ends_here(&self) -> bool {
        self.next.is_none()
    }

    /// Removes ours.
    pub(super) fn remove_own(&self, rewrite: &mut Rewrite) {
        remove_values(&self.own, self.next.as_ref(), rewrite);
    }
}

/// Removes the first values of a list, which may stand in several lines, up to `next`.
pub(super) fn remove_values(
    values: &[(Range<usize>, Field)],
    next: Option<&(Range<usize>, Field)>,
    rewrite: &mut Rewrite,
) {
    let mut last = None;
    for (_, field) in values {
        if last == Some(field) {
            continue;
        }
        last = Some(field);
        match next {
            Some((range, other)) if other == field => rewrite.delete(field.value().start..range.start),
            _ => rewrite.delete(field.line()),
        }
    }
}

fn uri_of(head: &Head, range: Range<usize>) -> Option<SipUri<'_>> {
    SipUri::parse(Address::parse(head, range).ok()?.uri()).ok()
}
