//! The relay itself: sessions, authentication and forwarding, without a socket or a clock of its own.
//!
//! # Who owns what
//!
//! ```text
//! Relay ── sessions (sharded table) ── Session ── owner: Link or relay name; bound peers: Links
//!   └──── routes (dialled and verified links)
//! Link ─── one per connection: Outbound queue, transactions, timers, behind one mutex
//! Inbound ─ one per connection, owned by its task: decoder, what becomes of the current message
//! ```
//!
//! A connection's task gives the bytes it read to [`Inbound::received`], which decodes them, decides
//! once on each head (in `route` or `auth`), puts bodies into the next hop's queue, and flushes
//! every link it touched once at the end. Time is an argument everywhere. The world (sockets, dialling,
//! randomness) is behind the traits of `wire`, so a flow over four nodes is a unit test.
//!
//! # Locks
//!
//! A link's lock, a shard of the session table, a session's bindings, the route table: never two of
//! them at once, but for the link locks taken, one at a time, under a session's bindings to see
//! whether a peer's link is still open.
//!
//! # What a request can become
//!
//! | what arrives | what becomes of it |
//! |---|---|
//! | first To-Path URI is not ours | the connection is closed (RFC 4976 §6.2) |
//! | ours, but no valid session | discarded, 481 unless Failure-Report is `no`, the connection stays |
//! | SEND | 200 to the previous hop when the chunk is whole; forwarded while it arrives |
//! | REPORT | forwarded, never answered |
//! | AUTH for us alone | answered in `auth`, now or later |
//! | AUTH for others, unknown methods | forwarded; the response travels the whole way back |
//! | response | ends a transaction; an error to a SEND becomes a REPORT |

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use msrp_proto::digest::ReplayGuard;
use msrp_proto::status::StatusCode;
use msrp_proto::uri::{Scheme, UriRef};
use parking_lot::Mutex;
use tracing::{debug, info};

use crate::config::{Auth, Limits, Timeouts};

pub(crate) use self::auth::user_of_principal;
pub use self::auth::{Attempt, HandshakeDenial, Later};
pub use self::counters::{Count, Counters};
pub use self::current::{Current, Prepared};
pub use self::drain::Drains;
pub use self::inbound::Inbound;
pub use self::link::{Flushed, Link};
pub use self::peer::{LinkKind, Peer, Target};
pub use self::session::{Owner, Session, SessionEnd, Sessions, Traffic};
pub use self::tag::{NoTag, ProcessTag};
pub use self::tap::Tap;
pub use self::user::User;
pub use self::wire::{Dialer, Random, Resolver, SessionObserver, WallClock, Wire};

mod auth;
mod counters;
mod current;
mod drain;
mod failures;
mod inbound;
mod kin;
mod link;
mod nonce_clock;
mod origin;
mod outbound;
mod peer;
mod response;
mod route;
mod session;
mod session_uses;
mod tag;
mod tap;
#[cfg(test)]
mod tests;
mod throttle;
mod transactions;
mod user;
mod wire;

use self::link::LinkSettings;
use self::nonce_clock::NonceClock;
use self::outbound::QueueSettings;
use self::route::Routes;
use self::throttle::Throttle;
use self::user::Users;

/// What one listener calls itself in URIs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// `msrp` or `msrps`.
    pub scheme: Scheme,
    /// The host, exactly as it stands in the URIs handed out; an IPv6 literal in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The port the listener is really bound to, by which AUTH may name us too.
    pub bound_port: u16,
    /// Its connections are WebSockets, and its URIs end in `;ws` (RFC 7977 §5.2.1).
    pub websocket: Option<WebSocketLink>,
}

impl Advertised {
    /// Whether both are the same to others: only how messages leave may differ.
    fn is_known_as(&self, other: &Self) -> bool {
        let names = |own: &Self| (own.scheme, own.port, own.bound_port, own.websocket.is_some());
        names(self) == names(other) && self.host == other.host
    }

    /// The transport in its URIs.
    fn transport(&self) -> &'static str {
        if self.websocket.is_some() { "ws" } else { "tcp" }
    }
}

/// How messages leave over a WebSocket: each is one WebSocket message (RFC 7977 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketLink {
    /// The most body bytes in one of them; longer chunks are split. More than zero.
    pub chunk_size: usize,
}

/// What the core needs to know; see [`Relay::prepare`] for what of it may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host that AUTH requests may name without a port.
    pub domain: String,
    /// One for each listener, in their order.
    pub listeners: Vec<Advertised>,
    /// Who may obtain sessions.
    pub auth: Auth,
    /// How much is taken.
    pub limits: Limits,
    /// How long is waited.
    pub timeouts: Timeouts,
}

/// Settings that make no relay.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A listener's advertised name, or the domain, makes no URI.
    #[error("`{0}` makes no MSRP URI")]
    Advertised(String),
    /// All listeners are for WebSocket.
    #[error(
        "WebSocket clients are reached by a URI for TCP or TLS (RFC 7977 §5.2.2), and no listener has one"
    )]
    NoTcpListener,
    /// The nonce secret is too short.
    #[error(transparent)]
    Secret(#[from] msrp_proto::digest::ShortSecret),
}

/// See the [module](self).
pub struct Relay {
    current: ArcSwap<Current>,
    sessions: Sessions,
    routes: Routes,
    next_link: AtomicU64,
    random: Arc<dyn Random>,
    wall_clock: Box<dyn WallClock>,
    nonce_clock: NonceClock,
    dialer: OnceLock<Box<dyn Dialer>>,
    observer: OnceLock<Box<dyn SessionObserver>>,
    counters: Arc<Counters>,
    resolver: OnceLock<Box<dyn Resolver>>,
    users: Users,
    throttle: Throttle,
    replay: Mutex<ReplayGuard>,
    draining: drain::Draining,
    has_kin: AtomicBool,
}

impl Relay {
    /// A relay without connections.
    ///
    /// # Errors
    /// [`SettingsError`] if an advertised name makes no URI, or the nonce secret is too short.
    pub fn new(
        settings: Settings,
        random: Arc<dyn Random>,
        wall_clock: Box<dyn WallClock>,
    ) -> Result<Arc<Self>, SettingsError> {
        Self::beside(&[], settings, random, wall_clock)
    }

    /// As [`new`](Self::new), while the processes with these tags still have sessions at the same addresses.
    ///
    /// # Errors
    /// Likewise.
    pub fn beside(
        taken: &[ProcessTag],
        settings: Settings,
        random: Arc<dyn Random>,
        wall_clock: Box<dyn WallClock>,
    ) -> Result<Arc<Self>, SettingsError> {
        let current = Current::new(settings, &*random)?;
        let mut replay = current::replay_guard(&current.auth);
        if current.auth.nonce_secret.is_some() {
            // What was used with the process before this one must not be used again.
            replay = replay.with_floor(wall_clock.unix_millis());
        }
        let throttle = Throttle::new(current.auth.throttle.clone(), &*random);
        let tag = ProcessTag::draw(&*random, taken);
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(current),
            sessions: Sessions::new(tag),
            routes: Routes::default(),
            next_link: AtomicU64::new(1),
            random,
            nonce_clock: NonceClock::new(wall_clock.unix_millis()),
            wall_clock,
            dialer: OnceLock::new(),
            observer: OnceLock::new(),
            counters: Arc::default(),
            resolver: OnceLock::new(),
            users: Users::default(),
            throttle,
            replay: Mutex::new(replay),
            draining: drain::Draining::default(),
            has_kin: AtomicBool::new(false),
        }))
    }

    /// Names who opens connections; once, before the first request.
    pub fn set_dialer(&self, dialer: Box<dyn Dialer>) {
        let _ = self.dialer.set(dialer);
    }

    /// Names who is told of sessions; once, before the first request.
    pub fn set_observer(&self, observer: Box<dyn SessionObserver>) {
        let _ = self.observer.set(observer);
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Names who asks sources of credentials that take their time; once, before the first request.
    pub fn set_resolver(&self, resolver: Box<dyn Resolver>) {
        let _ = self.resolver.set(resolver);
    }

    /// The settings of this moment.
    pub fn settings(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// As [`settings`](Self::settings), for a moment.
    pub(crate) fn current(&self) -> Guard<Arc<Current>> {
        self.current.load()
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// A connection that a listener accepted.
    pub fn accepted(&self, listener: usize, peer: Peer, wire: Box<dyn Wire>, now: Instant) -> Arc<Link> {
        let link = self.new_link(LinkKind::Accepted { listener });
        link.attach(peer, wire, now);
        self.routes.add_verified(&link);
        link
    }

    /// A connection that was being opened is up.
    pub fn connected(&self, link: &Arc<Link>, peer: Peer, wire: Box<dyn Wire>, now: Instant) {
        link.attach(peer, wire, now);
        self.routes.add_verified(link);
        self.end_if_alone(link);
    }

    /// A connection that was being opened never came up.
    pub fn connect_failed(&self, link: &Arc<Link>, now: Instant) {
        self.closed(link, StatusCode::REQUEST_TIMEOUT, now);
    }

    /// A connection is gone: its sessions end, and what waited for it fails with `status`.
    pub fn closed(&self, link: &Arc<Link>, status: StatusCode, now: Instant) {
        self.routes.remove(link);
        for id in link.owned() {
            if let Some(session) = self.sessions.remove(id) {
                debug!(link = link.id(), user = session.user(), session = %session.uri(), "session ends with its connection");
                self.session_ended(&session, SessionEnd::Disconnected);
            }
        }
        link.close(status, now);
        self.end_standing(link);
    }

    /// Ends the sessions whose time is over. To be called every few seconds; an expired session
    /// forwards nothing even before.
    pub fn sweep(&self, now: Instant) {
        for session in self.sessions.remove_if(|session| session.expires() <= now) {
            info!(user = session.user(), session = %session.uri(), "session expired");
            self.session_ended(&session, SessionEnd::Expired);
        }
        self.users.sweep(now);
        self.forget_listeners(now);
    }

    /// Ends one session: what is under way in it ends with `#`, and what comes for it is answered with 481. `false`:
    /// there is none of that number.
    pub fn end_session(&self, id: u128) -> bool {
        let Some(session) = self.sessions.remove(id) else { return false };
        info!(user = session.user(), session = %session.uri(), "session ended by the operator");
        self.session_ended(&session, SessionEnd::Terminated);
        true
    }

    /// The relay stops: all sessions end, for whoever observes them.
    pub fn end_all_sessions(&self) {
        for session in self.sessions.remove_if(|_| true) {
            self.session_ended(&session, SessionEnd::ShutDown);
        }
    }

    fn session_ended(&self, session: &Session, end: SessionEnd) {
        session.is_over_now();
        self.counters.add(session.id() as u64, end.count(), 1);
        if let Some(observer) = self.observer.get() {
            observer.ended(session, end);
        }
        session.release();
    }

    fn new_link(&self, kind: LinkKind) -> Arc<Link> {
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let current = self.current();
        let Limits { session_buffer, async_max_postponed_chunks, interrupt_size, .. } = current.limits;
        let own = match &kind {
            LinkKind::Accepted { listener } => current.listener(*listener),
            LinkKind::Dialled { .. } => None,
        };
        let websocket = own.and_then(|own| own.advertised.websocket);
        let settings = LinkSettings {
            queue: QueueSettings {
                session_buffer,
                max_messages: async_max_postponed_chunks,
                interrupt_size: interrupt_size as u64,
                response_timeout: current.timeouts.response_timeout,
                chunk_size: websocket.map(|websocket| websocket.chunk_size.max(1) as u64),
                tag: self.sessions.tag(),
            },
            send_timeout: current.timeouts.send_timeout,
        };
        let used = own.map(|own| Arc::clone(&own.used));
        Link::new(id, kind, settings, used, Arc::clone(&self.random), Arc::clone(&self.counters))
    }

    /// Whether the URI leads to one of our listeners, whatever its session-id.
    fn is_us(&self, uri: &UriRef<'_>) -> bool {
        self.current().is_us(uri)
    }

    /// The session that a message belongs to whose path begins with these URIs: see [`tap`].
    fn session_of<'a>(&self, path: impl Iterator<Item = UriRef<'a>>) -> Option<u128> {
        let ours = path.take_while(|uri| self.is_us(uri));
        tap::correlation(ours.filter_map(|uri| session::parse_id(self.sessions.tag(), uri.session_id()?)))
    }

    /// Whether an AUTH for this URI is for us: one of our listeners, or our domain, without a port or
    /// with one of a listener of that scheme and transport (RFC 4976 §5.1, §8; RFC 7977 §5.2.1). Userinfo never matters (RFC 4975 §6.1).
    fn is_us_for_auth(&self, uri: &UriRef<'_>) -> bool {
        self.current().is_us_for_auth(uri)
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("settings", &**self.current()).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
