//! Other processes of this relay, which have sessions at the same addresses while one takes over from another
//! (`server::handover`).
//!
//! To the routing, a URI of ours with another process' tag is another relay ([`Relay::kin_of`]).
//!
//! # What comes to the wrong process
//!
//! Another relay has one connection to us for all of its clients, and cannot know that there are two processes. What
//! comes over it for a session of another process of ours is passed on as it is: no URI of ours is taken off, or put in
//! front. For each such connection and process there is one of ours that stands for it: the other process takes it for
//! the relay's own, by that one's certificate, and whatever it sends over it goes back to the relay. It ends with
//! the one that it stands for.
//!
//! That is for relays alone, which have proved to be one: a client's connection is at the process where its session is.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use msrp_proto::head::Head;
use msrp_proto::uri::UriRef;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tcp_transport::connection::CloseReason;

use super::Relay;
use super::link::Link;
use super::peer::LinkKind;
use super::route::Route;
use super::session;
use super::tag::ProcessTag;

/// How long a message that is passed on may take, as the session that it is for may last for longer than this process
/// knows: as long as the longest drain that is sensible.
const PASSING: Duration = Duration::from_secs(24 * 60 * 60);

/// Those that stand for one connection, each at another process. Most connections never have any.
#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<Option<Box<Links>>>);

/// By the process where they do. There are few.
type Links = SmallVec<[(ProcessTag, Arc<Link>); 2]>;

impl Standing {
    /// The one at this process.
    pub(super) fn at(&self, process: ProcessTag) -> Option<Arc<Link>> {
        let standing = self.0.lock();
        let found = standing.iter().flat_map(|all| all.iter()).find(|(at, _)| *at == process);
        found.map(|(_, link)| Arc::clone(link))
    }

    /// From now on it is this one.
    fn set(&self, process: ProcessTag, link: &Arc<Link>) {
        let mut standing = self.0.lock();
        let all = standing.get_or_insert_default();
        all.retain(|(at, _)| *at != process);
        all.push((process, Arc::clone(link)));
    }

    /// The one of this number does not any more.
    fn forget(&self, link: u64) {
        if let Some(all) = &mut *self.0.lock() {
            all.retain(|(_, standing)| standing.id() != link);
        }
    }

    /// All of them, which do not any more.
    fn take(&self) -> Links {
        self.0.lock().take().map(|all| *all).unwrap_or_default()
    }
}

impl Relay {
    /// The other process of this relay that the session of this URI of ours belongs to, if it does.
    pub(super) fn kin_of(&self, uri: &UriRef<'_>) -> Option<ProcessTag> {
        if !self.has_kin() {
            return None;
        }
        let tag = ProcessTag::of_session_id(uri.session_id()?).filter(|tag| *tag != self.sessions.tag())?;
        self.dialer.get().is_some_and(|dialer| dialer.is_kin(tag)).then_some(tag)
    }

    /// Whether another process of this relay has sessions too.
    pub(crate) fn has_kin(&self) -> bool {
        self.has_kin.load(Ordering::Relaxed)
    }

    /// Says so ([`Dialer::is_kin`](super::Dialer::is_kin)).
    pub fn set_has_kin(&self, has_kin: bool) {
        self.has_kin.store(has_kin, Ordering::Relaxed);
    }

    /// Where a request goes that is passed on to another process, or back; `None` if it is not one of those.
    pub(super) fn pass(&self, head: &Head, from: &Arc<Link>, now: Instant) -> Option<Route> {
        if !self.has_kin() {
            return None;
        }
        let uri = head.to_path().next()?;
        let is_us = self.is_us(&uri);
        let tag = uri.session_id().and_then(ProcessTag::of_session_id);
        let link = match from.stands_for() {
            Some(relay) => Some(relay).filter(|_| !is_us)?.upgrade()?,
            None if is_us && from.is_verified() && self.keeps_to_limits(head) => {
                // Where there is one already, nothing is asked that all connections share.
                match from.standing().at(tag?).filter(|standing| standing.is_open()) {
                    Some(standing) => standing,
                    None => self.stand_for(from, self.kin_of(&uri)?, &uri, now),
                }
            }
            None => return None,
        };
        let session = tag.and_then(|tag| session::parse_id(tag, uri.session_id()?)).unwrap_or_default();
        Some(Route::passing(link, session, now.checked_add(PASSING).unwrap_or(now)))
    }

    /// Opens the connection that stands for `relay` at another process, whose URI this is.
    fn stand_for(&self, relay: &Arc<Link>, process: ProcessTag, uri: &UriRef<'_>, now: Instant) -> Arc<Link> {
        let (target, listener) = (self.target(uri, Some(process), relay.listener()), relay.listener());
        let link = self.new_link(LinkKind::Dialled { target: Box::new(target), listener });
        link.set_stands_for(relay);
        relay.standing().set(process, &link);
        self.dial(&link, now);
        link
    }

    /// A connection has ended, and is closed: so do those that stand for it, and it stands for none any more.
    pub(super) fn end_standing(&self, link: &Link) {
        for (_, standing) in link.standing().take() {
            end_without(&standing);
        }
        if let Some(relay) = link.stands_for().and_then(Weak::upgrade) {
            relay.standing().forget(link.id());
        }
    }

    /// A connection is up. One that stands for another is not needed if that has ended meanwhile.
    pub(super) fn end_if_alone(&self, link: &Link) {
        let gone = |relay: &Weak<Link>| relay.upgrade().is_none_or(|relay| !relay.is_open());
        if link.stands_for().is_some_and(gone) {
            end_without(link);
        }
    }
}

fn end_without(standing: &Link) {
    standing.request_close(CloseReason::Local("the relay's own connection has ended".into()));
}
