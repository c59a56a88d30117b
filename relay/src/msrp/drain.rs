//! A relay that drains: what it has goes on, and nothing new begins.
//!
//! MSRP has no status for "not now" (RFC 4975 §10). An AUTH is answered with 408, which a client takes as an answer that
//! did not come (§10.4): it tries again, elsewhere if it can; 403 would tell it never to ask again. Who shuts the
//! connections that have no session left is `server::stop`.

use std::time::Instant;

use parking_lot::Mutex;

use super::Relay;

/// What a relay that drains still grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drains {
    /// Until then at most, sessions that verified relays ask for on behalf of their clients. A relay has one connection
    /// here, for all of its clients; it cannot take those elsewhere that come now as long as it has others here. `None`:
    /// those are refused too.
    pub relays_until: Option<Instant>,
}

/// Whether the relay drains.
#[derive(Debug, Default)]
pub(super) struct Draining(Mutex<Option<Drains>>);

impl Relay {
    /// From now on it grants only what `drains` says; with `None`, everything again.
    pub fn set_draining(&self, drains: Option<Drains>) {
        *self.draining.0.lock() = drains;
    }

    /// Until when a session may last that is asked for now, by a relay or by a client of its own: `Ok(None)` is without
    /// a limit.
    ///
    /// # Errors
    /// None is granted.
    pub(super) fn grants_until(&self, to_relay: bool) -> Result<Option<Instant>, NotNow> {
        match *self.draining.0.lock() {
            None => Ok(None),
            Some(Drains { relays_until: Some(until) }) if to_relay => Ok(Some(until)),
            Some(_) => Err(NotNow),
        }
    }
}

/// It drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotNow;
