//! Where the next process finds this one. A reload may move it: it is opened there first, and the task that waits for the
//! next process takes it when everything else of the reload is sure.

use std::io;
use std::path::Path;

use tokio::sync::mpsc;

use super::channel::{Channel, Endpoint};
use crate::config::Upgrade;

/// What whoever waits for the next process hears of: another endpoint, or that there is none any more.
pub(in crate::server) type Moves = mpsc::UnboundedReceiver<Option<Endpoint>>;

/// By which the endpoint is moved.
#[derive(Debug)]
pub(in crate::server) struct Door(mpsc::UnboundedSender<Option<Endpoint>>);

impl Door {
    /// One, and what comes of it, for the one who waits for the next process.
    pub(in crate::server) fn new() -> (Self, Moves) {
        let (moves, heard) = mpsc::unbounded_channel();
        (Self(moves), heard)
    }

    /// Opens what `now` says, if `before` said otherwise.
    ///
    /// # Errors
    /// Somebody listens there already; or what the system says.
    pub(in crate::server) fn prepare(
        before: Option<&Upgrade>,
        now: Option<&Upgrade>,
    ) -> io::Result<Prepared> {
        let path = |upgrade: Option<&Upgrade>| upgrade.map(|upgrade| upgrade.socket.clone());
        if path(before) == path(now) {
            return Ok(Prepared(None));
        }
        let endpoint = now.map(|now| Endpoint::bind(&now.socket)).transpose()?;
        Ok(Prepared(Some(endpoint)))
    }

    pub(in crate::server) fn take_over(&self, mut prepared: Prepared) {
        if let Some(endpoint) = prepared.0.take() {
            // Where nobody waits any more, the process ends.
            let _ = self.0.send(endpoint);
        }
    }
}

/// Another endpoint, or none, that does not count yet. It is taken away again when this is dropped.
#[derive(Debug)]
pub(in crate::server) struct Prepared(Option<Option<Endpoint>>);

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(Some(endpoint)) = &self.0 {
            remove(endpoint.path());
        }
    }
}

/// Takes a path away where we have listened.
pub(in crate::server) fn remove(path: &Path) {
    // It has gone already, at worst.
    let _ = std::fs::remove_file(path);
}

/// The next process that wants something; never, where nobody is waited for.
pub(super) async fn accept(endpoint: Option<&Endpoint>) -> io::Result<Channel> {
    match endpoint {
        Some(endpoint) => endpoint.accept().await,
        None => std::future::pending().await,
    }
}
