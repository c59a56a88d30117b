//! Sessions: what one AUTH creates (RFC 4976 §6.3).

use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use msrp_proto::uri::{MsrpUri, UriRef};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use uuid::Uuid;

use super::link::Link;
use super::user::User;
use super::wire::Random;

/// How many locks the table is spread over.
const SHARDS: usize = 64;

/// The most peers one session remembers.
const MAX_BINDINGS: usize = 64;

/// Who obtained a session.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A client: the session belongs to its connection and ends with it.
    Client(Arc<Link>),
    /// A mutually authenticated relay: any connection verified for its name serves the session.
    Relay {
        /// The host of its URI, which its certificate names.
        host: Box<str>,
    },
}

/// One session.
#[derive(Debug)]
pub struct Session {
    id: u128,
    uri: MsrpUri,
    owner: Owner,
    user: Arc<User>,
    expires: Instant,
    bindings: Mutex<SmallVec<[Binding; 1]>>,
    /// The connections that an owning relay has used for it.
    relay_links: Mutex<SmallVec<[Arc<Link>; 1]>>,
}

/// A peer and the connection it is reached by.
#[derive(Debug)]
struct Binding {
    uri: MsrpUri,
    link: Arc<Link>,
    /// The session that the link counts for this: the first one of ours on the peer's way, which is
    /// the peer's own where both are clients of this relay.
    counted_as: u128,
}

/// The session is in use over another connection (RFC 4975 §10: 506).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InUse;

impl Session {
    /// The URI handed out in Use-Path.
    pub fn uri(&self) -> &MsrpUri {
        &self.uri
    }

    /// The 128 random bits in it.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// Who obtained it.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The user who authenticated.
    pub fn user(&self) -> &str {
        self.user.name()
    }

    /// That user, with all sessions.
    pub(crate) fn account(&self) -> &Arc<User> {
        &self.user
    }

    /// When it ends.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    /// Whether `link` leads towards the client that obtained it.
    pub(crate) fn is_owned_by(&self, link: &Link) -> bool {
        match &self.owner {
            Owner::Client(owner) => owner.id() == link.id(),
            Owner::Relay { host } => link.is_relay(host),
        }
    }

    /// The open connection to the peer with this URI.
    pub(crate) fn link_to(&self, peer: &UriRef<'_>) -> Option<Arc<Link>> {
        let bindings = self.bindings.lock();
        let bound = bindings.iter().find(|binding| binding.uri.as_ref() == *peer && binding.link.is_open());
        bound.map(|binding| Arc::clone(&binding.link))
    }

    /// The owner sends to this peer over this connection.
    pub(crate) fn bind(&self, peer: &UriRef<'_>, link: &Arc<Link>) {
        bind_in(&mut self.bindings.lock(), peer, link, self.id);
    }

    /// The relay that owns the session uses this connection for it.
    pub(crate) fn serve_over(&self, link: &Arc<Link>) {
        let mut links = self.relay_links.lock();
        if links.iter().any(|known| known.id() == link.id()) {
            return;
        }
        links.retain(|known| {
            let open = known.is_open();
            if !open {
                known.remove_session(self.id);
            }
            open
        });
        link.add_session(self.id);
        links.push(Arc::clone(link));
    }

    /// Somebody who is not the owner sends into the session. While the connection of one peer is
    /// open, another connection is refused, unless both lead to the same authenticated relay. A
    /// connection that we are only trying to open claims nothing: the peer may be out of our reach.
    /// `first` is the session by which the previous hop addressed us.
    pub(crate) fn claim(&self, peer: &UriRef<'_>, link: &Arc<Link>, first: u128) -> Result<(), InUse> {
        // Held throughout: of two connections that claim the session at once, one is first.
        let mut bindings = self.bindings.lock();
        if bindings.iter().any(|binding| binding.link.id() == link.id() && binding.uri.as_ref() == *peer) {
            return Ok(());
        }
        let is_up = |link: &Link| link.peer().is_some() && link.is_open();
        let mut open = bindings.iter().filter(|binding| is_up(&binding.link)).peekable();
        let free = open.peek().is_none();
        let known = open.any(|binding| binding.link.id() == link.id() || binding.link.is_same_relay(link));
        if !free && !known {
            return Err(InUse);
        }
        bind_in(&mut bindings, peer, link, first);
        Ok(())
    }

    /// Lets go of the connections it uses.
    fn release(&self) {
        self.user.leaves();
        if let Owner::Client(link) = &self.owner {
            link.disown(self.id);
        }
        for binding in self.bindings.lock().drain(..) {
            binding.link.remove_session(binding.counted_as);
        }
        for link in self.relay_links.lock().drain(..) {
            link.remove_session(self.id);
        }
    }
}

fn bind_in(bindings: &mut SmallVec<[Binding; 1]>, peer: &UriRef<'_>, link: &Arc<Link>, counted_as: u128) {
    // Those that are closed serve nobody any more; of those that are open, the oldest gives way.
    bindings.retain(|binding| {
        let keep = binding.link.is_open() && binding.uri.as_ref() != *peer;
        if !keep {
            binding.link.remove_session(binding.counted_as);
        }
        keep
    });
    if bindings.len() >= MAX_BINDINGS {
        let oldest = bindings.remove(0);
        oldest.link.remove_session(oldest.counted_as);
    }
    link.add_session(counted_as);
    bindings.push(Binding { uri: peer.to_uri(), link: Arc::clone(link), counted_as });
}

/// All sessions of the process.
#[derive(Debug)]
pub struct Sessions {
    shards: [RwLock<HashMap<u128, Arc<Session>>>; SHARDS],
}

impl Default for Sessions {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()) }
    }
}

impl Sessions {
    fn shard(&self, id: u128) -> &RwLock<HashMap<u128, Arc<Session>>> {
        &self.shards[id as usize % SHARDS]
    }

    /// The session this URI names, if it was handed out and has not expired.
    pub fn find(&self, uri: &UriRef<'_>, now: Instant) -> Option<Arc<Session>> {
        let id = parse_id(uri.session_id()?)?;
        let session = self.shard(id).read().get(&id).cloned()?;
        (session.expires > now && session.uri.as_ref() == *uri).then_some(session)
    }

    /// Adds a session, of a user who has been counted with it.
    pub(crate) fn insert(
        &self,
        id: u128,
        uri: MsrpUri,
        owner: Owner,
        user: Arc<User>,
        expires: Instant,
    ) -> Arc<Session> {
        if let Owner::Client(link) = &owner {
            link.own(id);
        }
        let session = Arc::new(Session {
            id,
            uri,
            owner,
            user,
            expires,
            bindings: Mutex::default(),
            relay_links: Mutex::default(),
        });
        self.shard(id).write().insert(id, Arc::clone(&session));
        session
    }

    /// Ends the sessions for which `over` holds, and gives them.
    pub(crate) fn remove_if(&self, over: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let mut removed = Vec::new();
        for shard in &self.shards {
            shard.write().retain(|_, session| {
                let over = over(session);
                if over {
                    removed.push(Arc::clone(session));
                }
                !over
            });
        }
        for session in &removed {
            session.release();
        }
        removed
    }

    /// Ends one session.
    pub(crate) fn remove(&self, id: u128) -> Option<Arc<Session>> {
        let session = self.shard(id).write().remove(&id)?;
        session.release();
        Some(session)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Draws the 128 random bits of a session-id (RFC 4976 §6.3 asks for at least 64).
pub(crate) fn new_id(random: &dyn Random) -> u128 {
    let mut bits = [0; 16];
    random.fill(&mut bits);
    u128::from_be_bytes(bits)
}

/// The session-id as it stands in the URI: 32 hexadecimal digits.
pub(crate) fn write_id(id: u128) -> String {
    Uuid::from_u128(id).simple().to_string()
}

/// Reads it back; only the form we write is a valid one.
fn parse_id(text: &str) -> Option<u128> {
    let canonical = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}
