//! The Route of a request: what of it is ours, and what comes after (RFC 3261 §16.4).

use std::ops::Range;

use smallvec::SmallVec;
use tcp_transport::sip::{Address, Field, Head, Name, Rewrite, SipUri, Start, scheme};

use super::edge::{Edge, Flow};
use super::keys::BadToken;

/// The Route of a request, taken apart.
#[derive(Debug)]
pub(super) struct Routes<'a> {
    /// The entries to remove: at the front, and ours.
    own: SmallVec<[(Range<usize>, Field); 4]>,
    /// The user of ours that has one: a flow token.
    pub(super) token: Option<&'a [u8]>,
    /// The entry that comes after.
    next: Option<(Range<usize>, Field)>,
    /// Known if the last hop was a strict router.
    strict: Option<Strict>,
}

/// What a strict router (RFC 2543) left: our URI as the Request-URI, and what should stand there as the last entry.
#[derive(Debug)]
struct Strict {
    /// The URI of the last entry.
    target: Range<usize>,
    /// The entries that stay.
    kept: SmallVec<[Range<usize>; 8]>,
}

impl Edge {
    /// Takes the Route apart. Ours are, at the front, entries without a user, as clients have that were told of an
    /// outbound proxy, then one with a token, and its twin where both sides of the edge have recorded themselves
    /// (RFC 5658). One with another token is for another passage through this edge, after the next hop.
    pub(super) fn routes<'a>(&self, head: &'a Head, from: &Flow) -> Routes<'a> {
        let mut routes = Routes { own: SmallVec::new(), token: None, next: None, strict: None };
        // The framer has refused what is not by the grammar.
        let mut entries = head.values(Name::Route).map_while(Result::ok);
        let strict = self.own_request_uri(head, from).and_then(|token| {
            let (last, _) = head.values(Name::Route).map_while(Result::ok).last()?;
            let target = Address::parse(head, last.clone()).ok()?.uri_range();
            Some((token, last, target))
        });
        if let Some((token, ..)) = &strict {
            routes.token = Some(token);
        }
        for (range, field) in &mut entries {
            if strict.as_ref().is_some_and(|(_, last, _)| *last == range) {
                break;
            }
            let ours = uri_of(head, range.clone()).filter(|uri| self.is_own(uri, from));
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
        routes.strict = strict.map(|(_, last, target)| {
            let first = routes.next.iter().map(|(range, _)| range.clone());
            let rest = entries.map(|(range, _)| range).filter(|range| *range != last);
            Strict { target, kept: first.chain(rest).collect() }
        });
        routes
    }

    /// The flow token in a Request-URI that this edge once put into Record-Route (RFC 3261 §16.4).
    fn own_request_uri<'a>(&self, head: &'a Head, from: &Flow) -> Option<&'a [u8]> {
        let Start::Request { uri, .. } = head.start() else { return None };
        let uri = SipUri::parse(uri).ok().filter(|uri| self.is_own(uri, from))?;
        // A user of the domain is none, nor is a forged one, which leads nowhere as an address either.
        uri.user.filter(|user| self.keys.read_flow(user) != Err(BadToken::Forged))
    }

    /// Whether a request with this Route must go over TLS: where it goes is said by a SIPS URI (RFC 3261 §16.6 step 4,
    /// §26.2.2).
    pub(super) fn is_sips(&self, head: &Head, routes: &Routes<'_>) -> bool {
        let is_sips = |uri: &[u8]| scheme(uri).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"sips"));
        let target = match (&routes.strict, head.start()) {
            (Some(strict), _) => &head[strict.target.clone()],
            (None, Start::Request { uri, .. }) => uri,
            (None, Start::Response { .. }) => return false,
        };
        let next = routes.next.as_ref().and_then(|(range, _)| Address::parse(head, range.clone()).ok());
        is_sips(target) || next.is_some_and(|next| is_sips(next.uri()))
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
        self.own.is_empty() && self.next.is_some() && self.strict.is_none()
    }

    /// Whether nothing of it is left when ours is gone.
    pub(super) fn ends_here(&self) -> bool {
        self.next.is_none()
    }

    /// Removes ours; and undoes what a strict router did.
    pub(super) fn remove_own(&self, head: &Head, rewrite: &mut Rewrite) {
        let Some(Strict { target, kept }) = &self.strict else {
            return remove_values(&self.own, self.next.as_ref(), rewrite);
        };
        rewrite.replace(head.uri_range(), &head[target.clone()]);
        for field in head.fields_of(Name::Route) {
            rewrite.delete(field.line());
        }
        let Some(at) = head.field(Name::Route).map(|field| field.line().start) else { return };
        for (index, range) in kept.iter().enumerate() {
            rewrite.insert(at, if index == 0 { b"Route: " } else { b", " });
            rewrite.insert(at, &head[range.clone()]);
        }
        if !kept.is_empty() {
            rewrite.insert(at, b"\r\n");
        }
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
