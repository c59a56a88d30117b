//! All connections of a process, by number and by where they lead.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::connection::{CloseReason, ConnectionId, Handle};
use crate::ledger::Ledger;

/// What a connection can be reused for: the same scheme, host and port (RFC 4975 §5.4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReuseKey {
    scheme: Cow<'static, str>,
    host: String,
    port: u16,
}

impl ReuseKey {
    /// A key; scheme and host are compared without regard to case, and a trailing dot of the host
    /// means nothing. `scheme` says all that two connections must have in common to be exchangeable,
    /// TLS and WebSocket included: `msrp`, `msrps`, `ws`, `sips`, …
    #[must_use]
    pub fn new(scheme: impl Into<Cow<'static, str>>, host: &str, port: u16) -> Self {
        let mut scheme = scheme.into();
        if scheme.bytes().any(|b| b.is_ascii_uppercase()) {
            scheme.to_mut().make_ascii_lowercase();
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Self { scheme, host, port }
    }

    /// The scheme, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The host, in lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ReuseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// The open connections of a process, each with a value of the protocol's own (an `Arc`, as a rule:
/// values are cloned out). No lock is held while anything is called.
pub struct Registry<T> {
    ledger: Arc<Ledger>,
    tables: RwLock<Tables<T>>,
    emptied: Notify,
}

struct Tables<T> {
    connections: HashMap<ConnectionId, Entry<T>>,
    by_key: HashMap<ReuseKey, Vec<ConnectionId>>,
}

struct Entry<T> {
    handle: Handle,
    value: T,
    keys: Vec<ReuseKey>,
}

impl<T: Clone> Registry<T> {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::with_ledger(Arc::default())
    }

    /// An empty registry, which looks in `ledger` for connections that are not up yet.
    #[must_use]
    pub fn with_ledger(ledger: Arc<Ledger>) -> Self {
        let tables = Tables { connections: HashMap::new(), by_key: HashMap::new() };
        Self { ledger, tables: RwLock::new(tables), emptied: Notify::new() }
    }

    /// Enters a connection; with a key it can be found for reuse. It is left in
    /// [`Protocol::closed`](crate::Protocol::closed), by [`remove`](Self::remove).
    pub fn insert(&self, handle: Handle, key: Option<ReuseKey>, value: T) {
        let id = handle.id();
        self.tables.write().connections.insert(id, Entry { handle, value, keys: Vec::new() });
        if let Some(key) = key {
            self.add_key(id, key);
        }
    }

    /// Makes a connection available under one more key. False: it is not registered (any more).
    pub fn add_key(&self, id: ConnectionId, key: ReuseKey) -> bool {
        let mut tables = self.tables.write();
        let Tables { connections, by_key } = &mut *tables;
        let Some(entry) = connections.get_mut(&id) else { return false };
        if !entry.keys.contains(&key) {
            entry.keys.push(key.clone());
            by_key.entry(key).or_default().push(id);
        }
        true
    }

    /// Takes a connection out.
    pub fn remove(&self, id: ConnectionId) -> Option<T> {
        let mut tables = self.tables.write();
        let Tables { connections, by_key } = &mut *tables;
        let entry = connections.remove(&id)?;
        for key in &entry.keys {
            if let Some(ids) = by_key.get_mut(key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    by_key.remove(key);
                }
            }
        }
        let empty = connections.is_empty();
        drop(tables);
        if empty {
            self.emptied.notify_waiters();
        }
        Some(entry.value)
    }

    /// The connection of that number.
    #[must_use]
    pub fn by_id(&self, id: ConnectionId) -> Option<(Handle, T)> {
        let tables = self.tables.read();
        tables.connections.get(&id).map(Entry::pair)
    }

    /// The oldest open connection under `key`; one that is being closed is not offered.
    #[must_use]
    pub fn reusable(&self, key: &ReuseKey) -> Option<(Handle, T)> {
        let tables = self.tables.read();
        let ids = tables.by_key.get(key)?;
        ids.iter().filter_map(|id| tables.connections.get(id)).find(|e| e.handle.is_open()).map(Entry::pair)
    }

    /// All connections of this moment.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Handle, T)> {
        self.tables.read().connections.values().map(Entry::pair).collect()
    }

    /// All handles of this moment.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.tables.read().connections.values().map(|entry| entry.handle.clone()).collect()
    }

    /// Whether the connection was registered for `key`.
    pub(crate) fn has_key(&self, id: ConnectionId, key: &ReuseKey) -> bool {
        self.tables.read().connections.get(&id).is_some_and(|entry| entry.keys.contains(key))
    }

    /// The ledger of the connections here.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.read().connections.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks every connection to close for `reason` and waits until all have left, for up to `limit`.
    /// Returns how many are still there.
    pub async fn close_all(&self, reason: CloseReason, limit: Duration) -> usize {
        for (handle, _) in self.snapshot() {
            handle.close(reason.clone());
        }
        let all_left = async {
            loop {
                let emptied = self.emptied.notified();
                if self.is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        // Who is left after the limit is the result.
        let _ = tokio::time::timeout(limit, all_left).await;
        self.len()
    }
}

impl<T: Clone> Entry<T> {
    fn pair(&self) -> (Handle, T) {
        (self.handle.clone(), self.value.clone())
    }
}

impl<T: Clone> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("connections", &self.tables.read().connections.len()).finish()
    }
}
