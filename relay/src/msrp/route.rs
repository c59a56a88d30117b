//! Where a request goes next, and whether it may (RFC 4976 §6.2, §6.4).

use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use msrp_proto::head::{Head, Kind, Method};
use msrp_proto::status::StatusCode;
use msrp_proto::uri::{DEFAULT_PORT, Scheme, UriRef};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tcp_transport::tls::PeerCertificate;
use tracing::debug;

use super::Relay;
use super::link::Link;
use super::peer::{LinkKind, Target};
use super::session::{Owner, Session, Traffic};
use super::tag::ProcessTag;
use super::tap;

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The next hop's connection, which may still be being opened.
    pub(crate) link: Arc<Link>,
    /// The sessions that the URIs at the beginning of To-Path name, one for each that is ours.
    pub(crate) through: Through,
    /// The session the previous hop addressed: it names the lane.
    pub(crate) session: u128,
    /// When the first of the sessions it goes through ends.
    pub(crate) expires: Instant,
}

impl Route {
    /// Our URIs at the beginning of To-Path, as we handed them out.
    pub(crate) fn own_uris(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.through.sessions.iter().map(|session| session.uri().as_str())
    }

    /// One that is passed on as it is (`super::kin`), and belongs to no session here.
    pub(crate) fn passing(link: Arc<Link>, session: u128, expires: Instant) -> Self {
        Self { link, through: Through { sessions: SmallVec::new(), outgoing: 0 }, session, expires }
    }

    /// The session it is traced under.
    pub(crate) fn correlation(&self) -> Option<u128> {
        tap::correlation(self.through.sessions.iter().map(|session| session.id()))
    }
}

/// Of each session that a request goes through, its [`Session::changes`] before it was asked which connections it has.
pub(crate) type Changes = SmallVec<[u64; 2]>;

/// The sessions that a request goes through.
#[derive(Clone, Debug)]
pub(crate) struct Through {
    /// Two clients of one relay make two; with more it is an allocation for each message.
    sessions: SmallVec<[Arc<Session>; 2]>,
    /// How many of them, from the first on, it comes from the owner of; to the owner of the others it is on its way.
    outgoing: usize,
}

impl Through {
    /// All of them, in the order of the path.
    pub(crate) fn sessions(&self) -> &[Arc<Session>] {
        &self.sessions
    }

    /// Whether they have the connections that they had then.
    pub(crate) fn is_unchanged(&self, since: &Changes) -> bool {
        self.sessions.iter().zip(since).all(|(session, before)| session.changes() == *before)
    }

    /// The first of them.
    pub(crate) fn first(&self) -> Option<&Arc<Session>> {
        self.sessions.first()
    }

    /// Whether one of them is over.
    pub(crate) fn is_over(&self) -> bool {
        self.sessions.iter().any(|session| session.is_over())
    }

    /// Counts it in each of them.
    pub(crate) fn count(&self, count: impl Fn(&Traffic)) {
        for (index, session) in self.sessions.iter().enumerate() {
            count(if index < self.outgoing { session.from_owner() } else { session.to_owner() });
        }
    }
}

/// Why a request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not for this relay: the connection is closed at once (RFC 4976 §6.2).
    Foreign,
    /// It is refused with this status, and the reason for the log.
    Status(StatusCode, &'static str),
}

/// The links a request may use besides those its session is bound to.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// Those we opened, or are opening.
    dialled: Mutex<HashMap<Target, Arc<Link>>>,
    /// Those whose other end has proved to be a relay, by each name in its certificate.
    verified: Mutex<HashMap<Box<str>, Vec<Arc<Link>>>>,
}

impl Routes {
    fn open_to(&self, target: &Target) -> Option<Arc<Link>> {
        self.dialled.lock().get(target).cloned()
    }

    /// The links of the relay with this name, those verified first first.
    fn verified(&self, host: &str) -> SmallVec<[Arc<Link>; 2]> {
        let verified = self.verified.lock();
        verified.get(&*host.to_ascii_lowercase()).into_iter().flatten().cloned().collect()
    }

    /// Remembers a link by the names its certificate proves.
    pub(crate) fn add_verified(&self, link: &Arc<Link>) {
        let names = names(link);
        let mut verified = self.verified.lock();
        for name in names {
            verified.entry(name).or_default().push(Arc::clone(link));
        }
    }

    /// Whether no link is known.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.dialled.lock().is_empty() && self.verified.lock().is_empty()
    }

    /// Forgets a link.
    pub(crate) fn remove(&self, link: &Arc<Link>) {
        if let Some(target) = link.target() {
            let mut dialled = self.dialled.lock();
            if dialled.get(target).is_some_and(|known| known.id() == link.id()) {
                dialled.remove(target);
            }
        }
        let names = names(link);
        let mut verified = self.verified.lock();
        for name in names {
            if let Some(links) = verified.get_mut(&name) {
                links.retain(|known| known.id() != link.id());
                if links.is_empty() {
                    verified.remove(&name);
                }
            }
        }
    }
}

fn names(link: &Link) -> Vec<Box<str>> {
    match link.peer().map(|peer| &peer.certificate) {
        Some(PeerCertificate::Verified { dns_names, ip_addresses }) => {
            let addresses = ip_addresses.iter().map(|address| address.to_string().into());
            dns_names.iter().map(|name| name.to_ascii_lowercase().into()).chain(addresses).collect()
        }
        _ => Vec::new(),
    }
}

/// What the decoder takes beyond the limits: more than a message grows on its way through a relay, by
/// URIs of ours, a Byte-Range, a longer transaction id.
pub(crate) struct Margin {
    pub(crate) head_size: usize,
    pub(crate) headers: usize,
    pub(crate) path_length: usize,
}

/// See [`Margin`].
pub(crate) const MARGIN: Margin = Margin { head_size: 1024, headers: 8, path_length: 8 };

impl Relay {
    /// Decides where a request from `from` goes. A request of the session's owner goes to any next
    /// hop, anyone else's goes to the owner only. URIs of ours that follow one another are gone
    /// through here, without a connection to ourselves. With the route come the changes by which it can be seen
    /// whether it still holds.
    pub(crate) fn route(
        &self,
        head: &Head,
        from: &Arc<Link>,
        now: Instant,
    ) -> Result<(Route, Changes), Refusal> {
        const NO_SESSION: Refusal = Refusal::Status(StatusCode::NO_SUCH_SESSION, "no such session");
        const NO_NEXT_HOP: Refusal = Refusal::Status(StatusCode::FORBIDDEN, "no hop after this relay");
        const TOO_MANY: Refusal = Refusal::Status(StatusCode::FORBIDDEN, "too many URIs of this relay");
        const NOT_THE_OWNER: Refusal =
            Refusal::Status(StatusCode::FORBIDDEN, "next hop is not the way back to the session's owner");
        const TOO_LONG: Refusal = Refusal::Status(StatusCode::BAD_REQUEST, "the head exceeds our limits");
        const NO_PORT: Refusal = Refusal::Status(StatusCode::BAD_REQUEST, "next hop without a port");
        const IN_USE: Refusal =
            Refusal::Status(StatusCode::SESSION_IN_USE, "session is in use by another peer");

        if let Some(passed) = self.pass(head, from, now) {
            return Ok((passed, Changes::new()));
        }
        let mut hops = head.to_path();
        let Some(mut uri) = hops.next().filter(|uri| self.is_us(uri)) else { return Err(Refusal::Foreign) };
        let Some(mut previous) = head.from_path().next() else { return Err(Refusal::Foreign) };
        if !self.keeps_to_limits(head) {
            return Err(TOO_LONG);
        }
        let mut claims: SmallVec<[(Arc<Session>, UriRef<'_>); 2]> = SmallVec::new();
        let mut first = None;
        let mut own: SmallVec<[Arc<Session>; 2]> = SmallVec::new();
        let mut changes = Changes::new();
        let mut expires = None;

        let link = loop {
            let session = self.sessions.find(&uri, now).ok_or(NO_SESSION)?;
            let id = *first.get_or_insert(session.id());
            expires = expires.map_or(Some(session.expires()), |at: Instant| Some(at.min(session.expires())));
            changes.push(session.changes());
            own.push(Arc::clone(&session));
            let next = hops.next().ok_or(NO_NEXT_HOP)?;
            // Only AUTH finds relays by name alone (RFC 4976 §8).
            if next.port().is_none() && head.kind() != Kind::Request(Method::Auth) {
                return Err(NO_PORT);
            }
            let outgoing = claims.is_empty() && session.is_owned_by(from);
            // What another process of ours has is behind a connection, as what another relay has is.
            let inside = self.kin_of(&next).is_none() && self.is_us(&next);
            if inside && own.len() >= self.current().limits.own_hops {
                return Err(TOO_MANY);
            }
            if outgoing && matches!(session.owner(), Owner::Relay { .. }) {
                session.serve_over(from);
            }
            match (outgoing, inside) {
                (true, true) => {}
                // After a hop inside it is on its way to the owner, even if that is who sent it: two
                // users behind one connection.
                (true, false) if own.len() == 1 => break (self.outgoing(&session, &next, from, now)?, id),
                (false, true) => {
                    // On its way to the owner through another session of the same owner.
                    let further = self.sessions.find(&next, now).ok_or(NO_SESSION)?;
                    if !same_owner(&session, &further) {
                        return Err(NOT_THE_OWNER);
                    }
                    claims.push((session, previous));
                }
                (_, false) => {
                    let link = self.towards_owner(&session, &next, from, now).ok_or(NOT_THE_OWNER)?;
                    claims.push((session, previous));
                    break (link, id);
                }
            }
            previous = uri;
            uri = next;
        };
        let (link, session) = link;
        for (claimed, peer) in &claims {
            claimed.claim(peer, from, session).map_err(|_| IN_USE)?;
        }
        let outgoing = own.len() - claims.len();
        for pair in own.windows(2).take(outgoing) {
            pair[0].reaches(&pair[1]);
        }
        let through = Through { sessions: own, outgoing };
        Ok((Route { link, through, session, expires: expires.unwrap_or(now) }, changes))
    }

    /// Whether the head keeps to our limits. The decoder takes somewhat more ([`MARGIN`]): what keeps to
    /// the limits grows when it goes on, and the next relay, which may have the same limits, should
    /// answer that and not close a connection that others share.
    pub(crate) fn keeps_to_limits(&self, head: &Head) -> bool {
        let current = self.current();
        let limits = &current.limits;
        head.from_path().len() <= limits.path_length
            && head.to_path().len() <= limits.path_length
            && head.field_count() <= limits.headers
            && head.as_bytes().len() <= limits.head_size
    }

    /// The connection for what the owner of `session` sends to `next`.
    fn outgoing(
        &self,
        session: &Session,
        next: &UriRef<'_>,
        from: &Link,
        now: Instant,
    ) -> Result<Arc<Link>, Refusal> {
        if let Some(link) = session.link_to(next) {
            return Ok(link);
        }
        if next.is_ws() {
            // A WebSocket client is reached over the connection it opened, or not at all (RFC 7977 §5.1).
            return Err(Refusal::Status(
                StatusCode::NO_SUCH_SESSION,
                "next hop is a WebSocket client that is not connected here",
            ));
        }
        if !next.is_tcp() {
            return Err(Refusal::Status(
                StatusCode::FORBIDDEN,
                "next hop's transport is not one we can open",
            ));
        }
        let link = self.link_to(next, from.listener(), now);
        session.bind(next, &link);
        Ok(link)
    }

    /// The connection towards the owner of `session`; `None` if `next` is not on it.
    fn towards_owner(
        &self,
        session: &Session,
        next: &UriRef<'_>,
        from: &Link,
        now: Instant,
    ) -> Option<Arc<Link>> {
        match session.owner() {
            Owner::Client(link) => Some(Arc::clone(link)),
            Owner::Relay { host } => {
                // To it and nobody else: what is not for it makes it close the connection (§6.2).
                if !next.is_tcp() || !next.host().eq_ignore_ascii_case(host) {
                    return None;
                }
                let listener = from.listener();
                let may_reuse = |link: &Link| self.may_reuse(link, listener);
                // It stays on its connection when there is a newer one, as chunks are to be sent on in order (§3).
                let is_up = |link: &Link| link.peer().is_some() && link.is_open() && link.is_relay(host);
                let used = session.relay_link(|link| is_up(link) && may_reuse(link));
                // If the relay closed all its connections, we open one.
                let link = used
                    .or_else(|| self.routes.verified(host).into_iter().rev().find(|link| may_reuse(link)))
                    .unwrap_or_else(|| self.link_to(next, listener, now));
                session.serve_over(&link);
                Some(link)
            }
        }
    }

    /// Whether a connection that is there may carry what came in on `listener`. One that we accepted
    /// always may.
    fn may_reuse(&self, link: &Link, listener: Option<usize>) -> bool {
        link.target().is_none_or(|target| {
            self.reuse_key(target.scheme, &target.host, target.port, listener) == target.reuse_key
        })
    }

    fn reuse_key(&self, scheme: Scheme, host: &str, port: u16, listener: Option<usize>) -> Option<Box<str>> {
        self.dialer.get().and_then(|dialer| dialer.reuse_key(scheme, host, port, listener))
    }

    /// The connection we opened to the URI's host and port, or open now, for what came in on `listener`.
    fn link_to(&self, uri: &UriRef<'_>, listener: Option<usize>, now: Instant) -> Arc<Link> {
        let process = self.kin_of(uri).filter(|_| self.is_us(uri));
        let target = self.target(uri, process, listener);
        self.dialled(target, listener, now)
    }

    pub(super) fn target(
        &self,
        uri: &UriRef<'_>,
        process: Option<ProcessTag>,
        listener: Option<usize>,
    ) -> Target {
        let (scheme, port) = (uri.scheme(), uri.port().unwrap_or(DEFAULT_PORT));
        let host: Box<str> = uri.host().to_ascii_lowercase().into();
        let reuse_key = self.reuse_key(scheme, &host, port, listener);
        let explicit_port = uri.port().is_some();
        Target { scheme, host, port, explicit_port, reuse_key, process }
    }

    fn dialled(&self, target: Target, listener: Option<usize>, now: Instant) -> Arc<Link> {
        if let Some(link) = self.routes.open_to(&target).filter(|link| link.is_open()) {
            return link;
        }
        let link = self.new_link(LinkKind::Dialled { target: Box::new(target.clone()), listener });
        // Two requests may come here at once: one connection serves both.
        let winner = {
            let mut dialled = self.routes.dialled.lock();
            let known = dialled.entry(target.clone()).or_insert_with(|| Arc::clone(&link));
            Arc::clone(known)
        };
        if winner.id() != link.id() && winner.is_open() {
            return winner;
        }
        if winner.id() != link.id() {
            self.routes.remove(&winner);
            return self.dialled(target, listener, now);
        }
        self.dial(&link, now);
        link
    }

    /// Has the connection opened.
    pub(super) fn dial(&self, link: &Arc<Link>, now: Instant) {
        debug!(link = link.id(), target = link.target().map(tracing::field::display), "opening a connection");
        match self.dialer.get() {
            Some(dialer) => dialer.dial(Arc::clone(link)),
            None => self.connect_failed(link, now),
        }
    }
}

fn same_owner(a: &Session, b: &Session) -> bool {
    match (a.owner(), b.owner()) {
        (Owner::Client(a), Owner::Client(b)) => a.id() == b.id(),
        (Owner::Relay { host: a }, Owner::Relay { host: b }) => a.eq_ignore_ascii_case(b),
        _ => false,
    }
}
