//! What of the configuration counts at this moment, and how another one takes its place while the relay runs.
//!
//! All of it is one snapshot behind one atomic pointer: who decides something loads it once, and decides by that. So a
//! reload takes no lock on the way of messages, and nobody sees half of it. It has two steps: [`Relay::prepare`] checks
//! and may fail, [`Relay::take_over`] only puts the new snapshot in the place of the old one.
//!
//! | setting | from when on it counts |
//! |---|---|
//! | `auth` | the next AUTH; sessions that there are last until they expire, also those of a user who is gone |
//! | `auth.nonce_secret`, `auth.nonce_expire` | at once; who answers an older challenge is challenged anew (`stale=true`) |
//! | `auth.throttle` | the next AUTH; who has failed is not forgotten |
//! | `limits.user`, the users' own | at once; who has more sessions than that keeps them, and gets no more |
//! | `limits`, `timeouts` | what each message is held against: the next one. What a connection is made with (its decoder, its queue and their times): the next connection |
//! | `domain`, listeners | the next AUTH. Old names stay ours as long as a session or connection has them |

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use msrp_proto::digest::{DEFAULT_REPLAY_ENTRIES, NonceKey, NonceState, ReplayGuard};
use msrp_proto::uri::{MsrpUri, UriRef};

use super::wire::Random;
use super::{Advertised, Relay, Settings, SettingsError, millis};
use crate::config::Auth;
use crate::credentials::Credentials as _;

/// How many bytes of a nonce secret are drawn when none is configured.
const NONCE_SECRET_LEN: usize = 32;

/// A listener as others see it.
#[derive(Debug)]
pub(crate) struct Own {
    /// By which sessions and connections know it. Never that of another one within a process.
    pub(crate) id: usize,
    pub(crate) advertised: Advertised,
    /// Its URI without a session, to compare with.
    pub(crate) uri: MsrpUri,
    /// Shared by the sessions that have its URI, and the connections that came in there.
    pub(crate) used: Arc<()>,
    /// It is gone, and known for those who still use it.
    pub(crate) retired: bool,
}

impl Own {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.used) > 1
    }
}

/// What of the configuration counts at this moment: one snapshot, which a reload replaces.
#[derive(Debug)]
pub struct Current {
    /// Each that takes another's place has a greater one.
    number: u64,
    settings: Settings,
    /// In the order of `settings.listeners`, and after those the ones that are gone.
    listeners: Vec<Arc<Own>>,
    /// The next number for a listener.
    next_listener: usize,
    /// The domain as the host of a URI, to compare with.
    domain: MsrpUri,
    nonces: Arc<NonceKey>,
    /// Of the secret before: who answers such a nonce knew the password of then.
    former_nonces: Option<Arc<NonceKey>>,
}

impl Deref for Current {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Current {
    pub(super) fn new(settings: Settings, random: &dyn Random) -> Result<Self, SettingsError> {
        let nonces = Arc::new(nonce_key(&settings.auth, random)?);
        let mut current = Self {
            number: 0,
            domain: domain_uri(&settings)?,
            settings,
            listeners: Vec::new(),
            next_listener: 0,
            nonces,
            former_nonces: None,
        };
        (current.listeners, current.next_listener) = current.listed(&current.settings)?;
        Ok(current)
    }

    /// The listeners of `settings`: those that are there already, as what they are, and new ones.
    fn listed(&self, settings: &Settings) -> Result<(Vec<Arc<Own>>, usize), SettingsError> {
        if settings.listeners.iter().all(|own| own.websocket.is_some()) {
            return Err(SettingsError::NoTcpListener);
        }
        let mut before = self.listeners.clone();
        let mut next = self.next_listener;
        let mut listed = Vec::new();
        for advertised in &settings.listeners {
            let known = before.iter().position(|own| own.advertised.is_known_as(advertised));
            let own = match known.map(|index| before.remove(index)) {
                Some(own) => Own {
                    id: own.id,
                    advertised: advertised.clone(),
                    uri: own.uri.clone(),
                    used: Arc::clone(&own.used),
                    retired: false,
                },
                None => {
                    let Advertised { scheme, host, port, .. } = advertised;
                    let uri = parse(format!("{scheme}://{host}:{port};{}", advertised.transport()))?;
                    let id = next;
                    next += 1;
                    Own { id, advertised: advertised.clone(), uri, used: Arc::default(), retired: false }
                }
            };
            listed.push(Arc::new(own));
        }
        let gone = before.into_iter().filter(|own| own.is_used()).map(|own| {
            let Own { id, advertised, uri, used, .. } = &*own;
            let (advertised, uri, used) = (advertised.clone(), uri.clone(), Arc::clone(used));
            Arc::new(Own { id: *id, advertised, uri, used, retired: true })
        });
        listed.extend(gone);
        Ok((listed, next))
    }

    /// Not that of any snapshot before.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The numbers of the listeners, in the order of the settings.
    pub fn listener_ids(&self) -> impl Iterator<Item = usize> {
        self.listeners.iter().filter(|own| !own.retired).map(|own| own.id)
    }

    /// Those that are gone, and still used.
    pub fn retired_ids(&self) -> impl Iterator<Item = usize> {
        self.listeners.iter().filter(|own| own.retired).map(|own| own.id)
    }

    /// The listener of this number.
    pub(crate) fn listener(&self, id: usize) -> Option<&Arc<Own>> {
        self.listeners.iter().find(|own| own.id == id)
    }

    /// The listeners that are there, in the order of the settings.
    pub(crate) fn present(&self) -> impl Iterator<Item = &Arc<Own>> {
        self.listeners.iter().filter(|own| !own.retired)
    }

    /// A new nonce.
    pub(super) fn issue(&self, now_millis: u64, bits: [u8; 8]) -> String {
        self.nonces.issue(now_millis, &self.auth.realm, bits)
    }

    /// What goes with each challenge.
    pub(super) fn opaque(&self) -> String {
        self.nonces.opaque()
    }

    /// What is to be thought of a nonce.
    pub(super) fn nonce_state(&self, now_millis: u64, nonce: &str) -> NonceState {
        let (realm, expire) = (&self.auth.realm, millis(self.auth.nonce_expire));
        let of = |key: &NonceKey| key.check(now_millis, realm, nonce, expire);
        match (of(&self.nonces), &self.former_nonces) {
            (NonceState::Forged, Some(former)) if !matches!(of(former), NonceState::Forged) => {
                NonceState::Stale
            }
            (state, _) => state,
        }
    }

    /// Whether the URI leads to one of our listeners, whatever its session-id.
    pub(super) fn is_us(&self, uri: &UriRef<'_>) -> bool {
        self.listeners.iter().any(|own| {
            let own = own.uri.as_ref();
            own.scheme() == uri.scheme()
                && own.port() == uri.port()
                && own.same_transport(uri)
                && own.same_host(uri)
        })
    }

    /// See [`Relay::is_us_for_auth`].
    pub(super) fn is_us_for_auth(&self, uri: &UriRef<'_>) -> bool {
        let mut of_kind = self.listeners.iter().filter(|own| {
            let listener = &own.advertised;
            listener.scheme == uri.scheme() && uri.transport().eq_ignore_ascii_case(listener.transport())
        });
        let our_host = self.domain.as_ref().same_host(uri);
        match uri.port() {
            None if our_host && uri.is_tcp() => true,
            None => of_kind.any(|own| our_host || own.uri.as_ref().same_host(uri)),
            Some(port) => of_kind.any(|own| {
                let our_port = port == own.advertised.port || our_host && port == own.advertised.bound_port;
                our_port && (our_host || own.uri.as_ref().same_host(uri))
            }),
        }
    }
}

/// A snapshot that has been checked, for [`Relay::take_over`].
#[derive(Debug)]
pub struct Prepared {
    current: Current,
    /// Nonces that were issued until now are not to be used any more.
    replay: Option<ReplayGuard>,
}

impl Prepared {
    /// What it will be.
    pub fn current(&self) -> &Current {
        &self.current
    }
}

impl Relay {
    /// Checks settings that are to take the place of those there are. One reload at a time.
    ///
    /// # Errors
    /// As [`Relay::new`]; nothing has changed.
    pub fn prepare(&self, settings: Settings) -> Result<Prepared, SettingsError> {
        let now = self.current();
        let (listeners, next_listener) = now.listed(&settings)?;
        let secret = |auth: &Auth| auth.nonce_secret.as_ref().map(|secret| secret.reveal().to_owned());
        let same_secret = secret(&settings.auth) == secret(&now.auth);
        let (nonces, former_nonces) = if same_secret {
            (Arc::clone(&now.nonces), now.former_nonces.clone())
        } else {
            (Arc::new(nonce_key(&settings.auth, &*self.random)?), Some(Arc::clone(&now.nonces)))
        };
        let guard = || replay_guard(&settings.auth).with_floor(self.wall_clock.unix_millis());
        let replay = (!same_secret || settings.auth.nonce_expire != now.auth.nonce_expire).then(guard);
        let domain = domain_uri(&settings)?;
        let number = now.number + 1;
        let current = Current { number, settings, listeners, next_listener, domain, nonces, former_nonces };
        Ok(Prepared { current, replay })
    }

    /// Puts prepared settings in the place of those there are. It cannot fail.
    pub fn take_over(&self, prepared: Prepared) {
        let Prepared { current, replay } = prepared;
        self.current.swap(Arc::new(current));
        if let Some(replay) = replay {
            *self.replay.lock() = replay;
        }
        let now = self.current();
        self.throttle.set(now.auth.throttle.clone());
        // What a database has said may not be at hand.
        let own = |user: &str| now.auth.credentials.limits(user, &now.auth.realm);
        self.users.relimit(&now.limits.user, own);
    }

    /// Forgets the listeners that are gone and that nobody uses any more.
    pub(super) fn forget_listeners(&self, _now: Instant) {
        let unused = |own: &Arc<Own>| own.retired && !own.is_used();
        if !self.current().listeners.iter().any(unused) {
            return;
        }
        self.current.rcu(|current| Current {
            number: current.number + 1,
            settings: current.settings.clone(),
            listeners: current.listeners.iter().filter(|own| !unused(own)).cloned().collect(),
            next_listener: current.next_listener,
            domain: current.domain.clone(),
            nonces: Arc::clone(&current.nonces),
            former_nonces: current.former_nonces.clone(),
        });
    }
}

/// Remembers the nonces that were used.
pub(super) fn replay_guard(auth: &Auth) -> ReplayGuard {
    ReplayGuard::new(millis(auth.nonce_expire), DEFAULT_REPLAY_ENTRIES)
}

fn nonce_key(auth: &Auth, random: &dyn Random) -> Result<NonceKey, SettingsError> {
    Ok(match &auth.nonce_secret {
        Some(secret) => NonceKey::new(secret.reveal().as_bytes())?,
        None => {
            let mut secret = [0; NONCE_SECRET_LEN];
            random.fill(&mut secret);
            NonceKey::new(&secret)?
        }
    })
}

fn domain_uri(settings: &Settings) -> Result<MsrpUri, SettingsError> {
    parse(format!("msrps://{};tcp", settings.domain))
}

fn parse(text: String) -> Result<MsrpUri, SettingsError> {
    text.parse().map_err(|_| SettingsError::Advertised(text))
}
