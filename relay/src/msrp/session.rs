//! Sessions: what one AUTH creates (RFC 4976 §6.3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use msrp_proto::flag::Flag;
use msrp_proto::uri::{MsrpUri, UriRef};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::counters::Count;
use super::link::Link;
use super::tag::ProcessTag;
use super::user::User;
use super::wire::Random;

/// How many locks the table is spread over.
const SHARDS: usize = 64;

/// The most peers one session remembers; and of those it has no binding for, as many again.
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

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// Its time is over.
    Expired,
    /// Its client's connection is.
    Disconnected,
    /// The operator ended it.
    Terminated,
    /// The relay stops.
    ShutDown,
}

impl SessionEnd {
    /// One word, for records and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Disconnected => "disconnected",
            Self::Terminated => "terminated",
            Self::ShutDown => "shutdown",
        }
    }

    pub(crate) fn count(self) -> Count {
        match self {
            Self::Expired => Count::SessionsExpired,
            Self::Disconnected => Count::SessionsDisconnected,
            Self::Terminated => Count::SessionsTerminated,
            Self::ShutDown => Count::SessionsShutDown,
        }
    }
}

/// What went through a session one way. All of it was given to the next hop's queue; what of that failed later is
/// in REPORTs.
#[derive(Debug, Default)]
pub struct Traffic {
    messages: AtomicU64,
    chunks: AtomicU64,
    bytes: AtomicU64,
    reports: AtomicU64,
}

impl Traffic {
    /// SENDs that end a message (`$`).
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Whole SENDs.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Body bytes of SENDs.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// REPORTs.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    pub(crate) fn count_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_chunk(&self, flag: Flag) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        if flag == Flag::Complete {
            self.messages.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_report(&self) {
        self.reports.fetch_add(1, Ordering::Relaxed);
    }
}

/// One session.
#[derive(Debug)]
pub struct Session {
    id: u128,
    uri: MsrpUri,
    owner: Owner,
    user: Arc<User>,
    /// Keeps the listener known whose URI it has, until it is over.
    used: Mutex<Option<Arc<()>>>,
    began: Instant,
    began_unix_millis: u64,
    expires: Instant,
    over: AtomicBool,
    /// How often its bindings have changed.
    changes: AtomicU64,
    from_owner: Traffic,
    to_owner: Traffic,
    bindings: Mutex<Vec<Binding>>,
    /// Locked within the bindings' lock, or without it.
    others: Mutex<OtherPeers>,
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

/// Peers that a session has no binding for: those it had one for, and those that are clients of this relay too.
#[derive(Debug, Default)]
struct OtherPeers {
    peers: Vec<MsrpUri>,
    /// There were more than are remembered.
    more: bool,
}

impl OtherPeers {
    fn add(&mut self, peer: &MsrpUri) {
        if self.peers.contains(peer) {
            return;
        }
        if self.peers.len() < MAX_BINDINGS {
            self.peers.push(peer.clone());
        } else {
            self.more = true;
        }
    }
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

    /// When it was granted.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// When it was granted by the clock on the wall, in milliseconds since the Unix epoch.
    pub fn began_unix_millis(&self) -> u64 {
        self.began_unix_millis
    }

    /// Whether it has ended before its time.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// It has ended: nothing goes through it any more.
    pub(crate) fn is_over_now(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// A number that changes when it gets another connection to somebody.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What its owner has sent.
    pub fn from_owner(&self) -> &Traffic {
        &self.from_owner
    }

    /// What its owner was sent.
    pub fn to_owner(&self) -> &Traffic {
        &self.to_owner
    }

    /// All peers that it is or was in use with, and whether there were more than are remembered.
    pub fn peers(&self) -> (Vec<MsrpUri>, bool) {
        let bindings = self.bindings.lock();
        let others = self.others.lock();
        let mut peers = others.peers.clone();
        for Binding { uri, .. } in bindings.iter() {
            if !peers.contains(uri) {
                peers.push(uri.clone());
            }
        }
        (peers, others.more)
    }

    /// Its owner sends to this session of the same relay.
    pub(crate) fn reaches(&self, other: &Self) {
        self.others.lock().add(&other.uri);
    }

    /// The listener that its owner came in by, if the owner came in. Of a relay, the connection first used for it that
    /// is still open.
    pub fn listener(&self) -> Option<usize> {
        match &self.owner {
            Owner::Client(link) => link.listener(),
            Owner::Relay { .. } => self.relay_links.lock().iter().find_map(|link| link.listener()),
        }
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
        let mut bindings = self.bindings.lock();
        if self.is_over() {
            // It has let go of its connections, and takes no other.
            return;
        }
        bind_in(&mut bindings, &self.others, peer, link, self.id, Others::Replaced);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The relay that owns the session uses this connection for it.
    pub(crate) fn serve_over(&self, link: &Arc<Link>) {
        let mut links = self.relay_links.lock();
        if self.is_over() || links.iter().any(|known| known.id() == link.id()) {
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

    /// Of the connections that the relay that owns it has been reached by, or has used, the first one that will do.
    pub(crate) fn relay_link(&self, will_do: impl Fn(&Link) -> bool) -> Option<Arc<Link>> {
        self.relay_links.lock().iter().find(|link| will_do(link)).cloned()
    }

    /// Somebody who is not the owner sends into the session. While the connection of one peer is
    /// open, another connection is refused, unless both lead to the same authenticated relay. A
    /// connection that we are only trying to open claims nothing: the peer may be out of our reach.
    /// Where two relays have connected to each other, what the peer sends may come over either: what goes to
    /// it stays on the one it has gone over, as chunks are to be sent on in order (RFC 4976 §3).
    /// `first` is the session by which the previous hop addressed us.
    pub(crate) fn claim(&self, peer: &UriRef<'_>, link: &Arc<Link>, first: u128) -> Result<(), InUse> {
        // Held throughout: of two connections that claim the session at once, one is first.
        let mut bindings = self.bindings.lock();
        // Of one that is over the message will hear by itself.
        if self.is_over()
            || bindings.iter().any(|binding| binding.link.id() == link.id() && binding.uri.as_ref() == *peer)
        {
            return Ok(());
        }
        let is_up = |link: &Link| link.peer().is_some() && link.is_open();
        let mut open = bindings.iter().filter(|binding| is_up(&binding.link)).peekable();
        let free = open.peek().is_none();
        let known = open.any(|binding| binding.link.id() == link.id() || binding.link.is_same_relay(link));
        if !free && !known {
            return Err(InUse);
        }
        let reached = |binding: &Binding| is_up(&binding.link) && binding.uri.as_ref() == *peer;
        let others = if bindings.iter().any(reached) { Others::Kept } else { Others::Replaced };
        bind_in(&mut bindings, &self.others, peer, link, first, others);
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Lets go of the connections it uses: it is over.
    pub(crate) fn release(&self) {
        self.is_over_now();
        self.used.lock().take();
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

/// What becomes of a peer's other bindings when it gets one more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They are gone: it is reached over the new one.
    Replaced,
    /// Those that are open stay, and it is reached over the first of them.
    Kept,
}

fn bind_in(
    bindings: &mut Vec<Binding>,
    other_peers: &Mutex<OtherPeers>,
    peer: &UriRef<'_>,
    link: &Arc<Link>,
    counted_as: u128,
    others: Others,
) {
    let is_of_peer = |binding: &Binding| binding.uri.as_ref() == *peer;
    let let_go = |binding: &Binding| {
        binding.link.remove_session(binding.counted_as);
        if !is_of_peer(binding) {
            other_peers.lock().add(&binding.uri);
        }
    };
    // Those that are closed serve nobody any more; of those that are open, the oldest gives way.
    bindings.retain(|binding| {
        let keep = binding.link.is_open() && (others == Others::Kept || !is_of_peer(binding));
        if !keep {
            let_go(binding);
        }
        keep
    });
    if bindings.len() >= MAX_BINDINGS {
        // Where all are this peer's, the first is the one it is reached over.
        let oldest = bindings.iter().position(|binding| !is_of_peer(binding)).unwrap_or(1);
        let_go(&bindings.remove(oldest));
    }
    link.add_session(counted_as);
    // Most sessions have one peer.
    if bindings.len() == bindings.capacity() {
        bindings.reserve_exact(1);
    }
    bindings.push(Binding { uri: peer.to_uri(), link: Arc::clone(link), counted_as });
}

/// From when a session lasts, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) began: Instant,
    /// The same by the clock on the wall.
    pub(crate) unix_millis: u64,
    pub(crate) lifetime: Duration,
    /// Of the listener whose URI it has.
    pub(crate) used: Arc<()>,
}

/// All sessions of the process.
#[derive(Debug)]
pub struct Sessions {
    tag: ProcessTag,
    shards: [RwLock<HashMap<u128, Arc<Session>>>; SHARDS],
}

impl Sessions {
    /// None yet, of the process with this tag.
    pub(crate) fn new(tag: ProcessTag) -> Self {
        Self { tag, shards: std::array::from_fn(|_| RwLock::default()) }
    }

    /// The process in their session-ids.
    pub fn tag(&self) -> ProcessTag {
        self.tag
    }

    fn shard(&self, id: u128) -> &RwLock<HashMap<u128, Arc<Session>>> {
        &self.shards[id as usize % SHARDS]
    }

    /// The session this URI names, if it was handed out and has not expired.
    pub fn find(&self, uri: &UriRef<'_>, now: Instant) -> Option<Arc<Session>> {
        let id = parse_id(self.tag, uri.session_id()?)?;
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
        time: Granted,
    ) -> Arc<Session> {
        if let Owner::Client(link) = &owner {
            link.own(id);
        }
        let session = Arc::new(Session {
            id,
            uri,
            owner,
            user,
            used: Mutex::new(Some(time.used)),
            began: time.began,
            began_unix_millis: time.unix_millis,
            expires: time.began + time.lifetime,
            over: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            from_owner: Traffic::default(),
            to_owner: Traffic::default(),
            bindings: Mutex::default(),
            others: Mutex::default(),
            relay_links: Mutex::default(),
        });
        self.shard(id).write().insert(id, Arc::clone(&session));
        session
    }

    /// Takes out the sessions for which `over` holds; they are to be [released](Session::release).
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
        removed
    }

    /// Takes out one session, which is to be [released](Session::release).
    pub(crate) fn remove(&self, id: u128) -> Option<Arc<Session>> {
        self.shard(id).write().remove(&id)
    }

    /// Those of this moment.
    pub fn snapshot(&self) -> Vec<Arc<Session>> {
        self.shards.iter().flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// The session of this number.
    pub fn get(&self, id: u128) -> Option<Arc<Session>> {
        self.shard(id).read().get(&id).cloned()
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

/// The session-id as it stands in the URI: the process' tag, then 32 hexadecimal digits.
pub(crate) fn write_id(tag: ProcessTag, id: u128) -> String {
    format!("{tag}{id:032x}")
}

/// Reads it back; only the form that this process writes is a valid one.
pub(crate) fn parse_id(tag: ProcessTag, text: &str) -> Option<u128> {
    let digits = text.strip_prefix(tag.as_str())?;
    let canonical =
        digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_session_ids_of_this_process_are_read() {
        let (tag, other): (ProcessTag, ProcessTag) = ("kmzxg".parse().unwrap(), "ggggg".parse().unwrap());
        let id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        let text = write_id(tag, id);
        assert_eq!((text.as_str(), text.len()), ("kmzxg0123456789abcdef0123456789abcdef", 37));
        assert_eq!(parse_id(tag, &text), Some(id));
        assert_eq!(parse_id(other, &text), None);
        for wrong in [&text[5..], &text[..36], &text.to_uppercase(), &format!("{text}0"), ""] {
            assert_eq!(parse_id(tag, wrong), None, "{wrong}");
        }
        assert_eq!(write_id(tag, 1).len(), 37);
    }

    #[test]
    fn peers_are_remembered_once_each_up_to_the_limit() {
        let mut others = OtherPeers::default();
        let peer = |number: usize| format!("msrp://192.0.2.1:{}/x;tcp", number + 1).parse().unwrap();
        for number in (0..MAX_BINDINGS).chain(0..MAX_BINDINGS) {
            others.add(&peer(number));
        }
        assert_eq!((others.peers.len(), others.more), (MAX_BINDINGS, false));
        others.add(&peer(MAX_BINDINGS));
        assert_eq!((others.peers.len(), others.more), (MAX_BINDINGS, true));
    }
}
