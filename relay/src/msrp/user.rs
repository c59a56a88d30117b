//! Users who have sessions: how many, and how fast they send.
//!
//! Rates are kept by the generic cell rate algorithm: for each one instant, which is how far ahead of its rate a user
//! has sent. Each message or byte moves it on by what it takes at that rate; at most `burst` ahead of now is free.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::config::{DEFAULT_BURST, UserLimits};

/// One user, over all sessions.
#[derive(Debug)]
pub struct User {
    name: Box<str>,
    /// Whether what it sends is limited, so that nobody else's messages take a lock.
    limits_sending: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Its own, as they were last known.
    own: UserLimits,
    /// Those that count: its own over everybody's.
    limits: UserLimits,
    sessions: usize,
    /// Until when it has used up its rate of messages, and of bytes.
    messages: Instant,
    bytes: Instant,
}

/// The user has as many sessions as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManySessions(pub(crate) usize);

impl User {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many sessions it has.
    pub fn sessions(&self) -> usize {
        self.state.lock().sessions
    }

    /// The limits that count for it.
    pub fn limits(&self) -> UserLimits {
        self.state.lock().limits.clone()
    }

    /// Whether anything limits what it sends.
    pub(crate) fn limits_sending(&self) -> bool {
        self.limits_sending.load(Ordering::Relaxed)
    }

    /// The largest message it may send.
    pub(crate) fn message_size(&self) -> Option<u64> {
        self.state.lock().limits.message_size.map(|size| size as u64)
    }

    /// It sends a SEND request. Until when the next one has to wait, if it has to.
    pub(crate) fn sends(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        let cost =
            Duration::from_secs(1) / u32::try_from(state.limits.messages_per_second?).unwrap_or(u32::MAX);
        let burst = state.burst();
        state.messages = state.messages.max(now) + cost;
        later(state.messages + cost, burst, now)
    }

    /// It has sent so many body bytes. Until when the next ones have to wait, if they have to.
    pub(crate) fn has_sent(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        let rate = state.limits.bytes_per_second? as u128;
        let nanos = (bytes as u128).saturating_mul(1_000_000_000) / rate;
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(LONGEST_DEBT);
        let burst = state.burst();
        state.bytes = state.bytes.max(now) + cost;
        later(state.bytes, burst, now)
    }

    /// Until when it has to wait, if it has to.
    pub(crate) fn waits(&self, now: Instant) -> Option<Instant> {
        let state = self.state.lock();
        let burst = state.burst();
        let UserLimits { messages_per_second, bytes_per_second, .. } = &state.limits;
        let cost =
            messages_per_second.map(|rate| Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX));
        let messages = cost.and_then(|cost| later(state.messages + cost, burst, now));
        let bytes = bytes_per_second.and_then(|_| later(state.bytes, burst, now));
        messages.max(bytes)
    }

    /// One of its sessions has ended.
    pub(crate) fn leaves(&self) {
        let mut state = self.state.lock();
        state.sessions = state.sessions.saturating_sub(1);
    }
}

/// What one read may cost at most, so that nothing overflows: one of 64 KiB at 1 byte a second.
const LONGEST_DEBT: Duration = Duration::from_secs(24 * 60 * 60);

impl State {
    fn burst(&self) -> Duration {
        self.limits.burst.unwrap_or(DEFAULT_BURST)
    }
}

/// When `ahead` is not more than `burst` ahead any more, if that is not now.
fn later(ahead: Instant, burst: Duration, now: Instant) -> Option<Instant> {
    let until = ahead.checked_sub(burst)?;
    (until > now).then_some(until)
}

/// The users who have sessions, and those who have just had some.
#[derive(Debug, Default)]
pub(crate) struct Users(Mutex<HashMap<Box<str>, Arc<User>>>);

impl Users {
    /// One more session of a user with these limits of its own, over everybody's.
    pub(crate) fn enter(
        &self,
        name: &str,
        own: UserLimits,
        everybody: &UserLimits,
        now: Instant,
    ) -> Result<Arc<User>, TooManySessions> {
        let limits = own.over(everybody);
        let mut users = self.0.lock();
        if let Some(user) = users.get(name) {
            let mut state = user.state.lock();
            user.limits_sending.store(limits_sending(&limits), Ordering::Relaxed);
            (state.own, state.limits) = (own, limits);
            if let Some(most) = state.limits.sessions.filter(|most| state.sessions >= *most) {
                return Err(TooManySessions(most));
            }
            state.sessions += 1;
            drop(state);
            return Ok(Arc::clone(user));
        }
        let user = Arc::new(User {
            name: name.into(),
            limits_sending: AtomicBool::new(limits_sending(&limits)),
            state: Mutex::new(State { own, limits, sessions: 1, messages: now, bytes: now }),
        });
        users.insert(name.into(), Arc::clone(&user));
        Ok(user)
    }

    /// Gives those who are there other limits: `own` says a user's own ones by name, where they are known; else it keeps
    /// its own ones.
    pub(crate) fn relimit(&self, everybody: &UserLimits, own: impl Fn(&str) -> Option<UserLimits>) {
        // Who comes meanwhile, or comes again, has what was asked for then, and everybody's: both are set below.
        let names: Vec<Box<str>> = self.0.lock().keys().cloned().collect();
        // A source may take its time, and nobody who logs in is to wait for that.
        let mut known: HashMap<Box<str>, UserLimits> =
            names.into_iter().filter_map(|name| own(&name).map(|own| (name, own))).collect();
        for user in self.0.lock().values() {
            let mut state = user.state.lock();
            if let Some(own) = known.remove(&user.name) {
                state.own = own;
            }
            state.limits = state.own.over(everybody);
            user.limits_sending.store(limits_sending(&state.limits), Ordering::Relaxed);
        }
    }

    /// Forgets those without a session, once they are not ahead of their rates any more.
    pub(crate) fn sweep(&self, now: Instant) {
        self.0.lock().retain(|_, user| {
            let state = user.state.lock();
            state.sessions > 0 || state.messages > now || state.bytes > now
        });
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

fn limits_sending(limits: &UserLimits) -> bool {
    limits.message_size.is_some() || limits.messages_per_second.is_some() || limits.bytes_per_second.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(users: &Users, limits: &UserLimits, now: Instant) -> Arc<User> {
        users.enter("alice", limits.clone(), &UserLimits::default(), now).unwrap()
    }

    #[test]
    fn so_many_sessions_and_no_more() {
        let users = Users::default();
        let now = Instant::now();
        let limits = UserLimits { sessions: Some(2), ..UserLimits::default() };
        let first = user(&users, &limits, now);
        user(&users, &limits, now);
        let all = UserLimits::default();
        assert_eq!(users.enter("alice", limits.clone(), &all, now).unwrap_err(), TooManySessions(2));
        assert!(users.enter("bob", limits.clone(), &all, now).is_ok());
        first.leaves();
        assert_eq!(user(&users, &limits, now).sessions(), 2);
        // Who has more than are allowed by now keeps them, and gets none.
        let fewer = UserLimits { sessions: Some(1), ..UserLimits::default() };
        assert_eq!(users.enter("alice", fewer, &all, now).unwrap_err(), TooManySessions(1));
        assert_eq!(first.sessions(), 2);
    }

    #[test]
    fn everybodys_limits_change_under_those_of_a_user() {
        let users = Users::default();
        let own = UserLimits { sessions: Some(5), ..UserLimits::default() };
        let everybody = |messages_per_second| UserLimits {
            sessions: Some(1),
            messages_per_second,
            ..UserLimits::default()
        };
        let alice = users.enter("alice", own, &everybody(Some(10)), Instant::now()).unwrap();
        let counts = |user: &User| (user.limits().sessions, user.limits().messages_per_second);
        assert_eq!((counts(&alice), alice.limits_sending()), ((Some(5), Some(10)), true));
        // Its own ones are not at hand.
        users.relimit(&everybody(Some(20)), |_| None);
        assert_eq!(counts(&alice), (Some(5), Some(20)));
        users.relimit(&everybody(None), |_| None);
        assert_eq!((counts(&alice), alice.limits_sending()), ((Some(5), None), false));
        users.relimit(&everybody(Some(20)), |_| Some(UserLimits::default()));
        assert_eq!(counts(&alice), (Some(1), Some(20)));
    }

    #[test]
    fn nobody_waits_for_a_source_that_is_asked_for_limits() {
        let users = Users::default();
        let (now, everybody) = (Instant::now(), UserLimits::default());
        let alice = users.enter("alice", UserLimits::default(), &everybody, now).unwrap();
        let fewer = UserLimits { sessions: Some(3), ..UserLimits::default() };
        users.relimit(&fewer, |name| {
            // Somebody logs in while the source is asked: both locks are free.
            let bob = users.enter("bob", UserLimits::default(), &everybody, now).unwrap();
            assert_eq!((name, alice.sessions(), bob.sessions()), ("alice", 1, 1));
            Some(UserLimits { sessions: Some(7), ..UserLimits::default() })
        });
        let bob = users.enter("bob", UserLimits::default(), &fewer, now).unwrap();
        assert_eq!((alice.limits().sessions, bob.limits().sessions), (Some(7), Some(3)));
    }

    #[test]
    fn messages_go_at_their_rate_after_a_burst() {
        let users = Users::default();
        let now = Instant::now();
        let limits = UserLimits {
            messages_per_second: Some(10),
            burst: Some(Duration::from_secs(2)),
            ..UserLimits::default()
        };
        let alice = user(&users, &limits, now);
        for sent in 1..20 {
            assert_eq!(alice.sends(now), None, "{sent}");
        }
        // The twentieth is the last of the burst, and says when the next one may go.
        let next = now + Duration::from_millis(100);
        assert_eq!((alice.sends(now), alice.waits(now)), (Some(next), Some(next)));
        assert_eq!(alice.waits(next - Duration::from_nanos(1)), Some(next));
        assert_eq!(alice.waits(next), None);
        assert_eq!(alice.sends(next), Some(next + Duration::from_millis(100)));
    }

    #[test]
    fn bytes_go_at_their_rate_after_a_burst() {
        let users = Users::default();
        let now = Instant::now();
        let limits = UserLimits {
            bytes_per_second: Some(1000),
            burst: Some(Duration::from_secs(2)),
            ..UserLimits::default()
        };
        let alice = user(&users, &limits, now);
        assert_eq!(alice.has_sent(1999, now), None);
        assert_eq!(alice.has_sent(1, now), None);
        assert_eq!(alice.has_sent(500, now), Some(now + Duration::from_millis(500)));
        assert_eq!(alice.waits(now + Duration::from_millis(500)), None);
        // What was used up is there again after a while, and no more than the burst.
        let later = now + Duration::from_secs(100);
        assert_eq!(alice.has_sent(2000, later), None);
        assert_eq!(alice.has_sent(1, later), Some(later + Duration::from_millis(1)));
        assert!(alice.has_sent(usize::MAX, later).is_some());
    }

    #[test]
    fn nobody_gets_another_burst_by_leaving() {
        let users = Users::default();
        let now = Instant::now();
        let limits = UserLimits { bytes_per_second: Some(1000), ..UserLimits::default() };
        let alice = user(&users, &limits, now);
        assert!(alice.has_sent(6000, now).is_some());
        alice.leaves();
        users.sweep(now + Duration::from_secs(5));
        assert_eq!(users.len(), 1);
        assert!(user(&users, &limits, now).waits(now).is_some());
        alice.leaves();
        users.sweep(now + Duration::from_secs(6));
        assert_eq!(users.len(), 0);
    }
}
