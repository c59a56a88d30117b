//! The admin interface: HTTP on loopback or a Unix socket, for operators, monitoring and scripts.
//!
//! | path | what |
//! |---|---|
//! | `GET /`, `GET /status.json` | the status page, for people, and what it shows: `status` |
//! | `POST /mi` | JSON-RPC 2.0: [`mi`] |
//! | `GET /metrics` | OpenMetrics: [`metrics`] |
//! | `GET /events` | what happens to connections and sessions, as server-sent events: [`events`] |
//! | `GET /healthz`, `GET /readyz` | the process lives; it takes new clients (503 while it stops) |
//!
//! # Off the traffic
//! It has a thread and a tokio runtime of its own. What it asks of the relay takes short locks at most, one connection
//! or shard at a time. It holds at most [`MAX_CONNECTIONS`] connections, [`MAX_STREAMS`] of them with events; a request has
//! at most [`MAX_HEAD`] and [`MAX_BODY`] bytes, and how long a client may take for what is said in `connection`.
//!
//! # Who may
//! Off unless configured. Whoever reaches it may do everything, so it is bound to this machine, or wants the token
//! (`Authorization: Bearer`; or Basic with the token as password, for browsers). A web page that an operator looks at
//! must not use it in passing: a request from another origin is refused by its `Origin`, a name that is not ours in
//! `Host` (DNS rebinding) likewise, and `/mi` takes `application/json` only, which no HTML form can send. `/healthz` and
//! `/readyz` tell nothing, and want no token.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::history::History;
use crate::config::{Admin, AdminAddress};
use crate::server::{Control, Inherited};

mod connection;
pub mod events;
mod guard;
mod history;
mod http;
pub mod metrics;
pub mod mi;
pub mod statistics;
mod status;
#[cfg(test)]
mod testing;
mod unix_socket;

/// What its sockets are called among those of listeners.
pub(crate) const ADMIN: &str = "admin";

/// How many connections it holds at once; one more waits.
pub const MAX_CONNECTIONS: usize = 64;

/// How many of them may be streams of events; one more is answered with 503. The others stay free for requests, which end.
pub const MAX_STREAMS: usize = 16;

/// The largest head of a request that is always taken: 16 KiB. Twice as much never is (431), what lies between depends on
/// how it comes.
pub const MAX_HEAD: usize = 16 * 1024;

/// The largest request body: 256 KiB; more is answered with 413.
pub const MAX_BODY: usize = 256 * 1024;

/// How long a request's head may take, from where it can begin: so a connection may be idle for as long.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request's body may take, from the end of its head.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read an answer, from where the system's buffers are full of it. A list of 100 000 sessions
/// has some 100 MB, for which this is enough on this machine and its network.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers under way have when the relay has stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a command may still run after that, which nobody hears of any more; and then how long its thread has to end.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// An admin interface that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the admin interface at {address}")]
pub struct AdminError {
    /// Where.
    pub address: AdminAddress,
    /// Why.
    pub source: io::Error,
}

/// The socket of one address once more, for the process that comes after this one.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) address: AdminAddress,
    pub(crate) socket: OwnedFd,
    /// A service manager listens there on: its path is never taken away.
    pub(crate) managed: bool,
}

/// The running admin interface.
#[derive(Debug)]
pub struct AdminServer {
    addresses: Vec<AdminAddress>,
    /// The Unix sockets that are taken away when it ends.
    sockets: Vec<PathBuf>,
    held: Vec<Held>,
    stop: watch::Sender<bool>,
    /// Its thread has ended.
    ended: Option<oneshot::Receiver<()>>,
}

enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl AdminServer {
    /// Opens it. Everything is bound when this returns.
    ///
    /// # Errors
    /// [`AdminError`] for the first address that cannot be listened on; nothing is left open then.
    pub fn start(settings: &Admin, control: Arc<Control>) -> Result<Self, AdminError> {
        Self::start_with(settings, control, &mut Inherited::default())
    }

    /// As [`start`](Self::start), with sockets that somebody else has opened.
    ///
    /// # Errors
    /// [`AdminError`] for the first address that cannot be listened on; nothing is left open then.
    pub fn start_with(
        settings: &Admin,
        control: Arc<Control>,
        inherited: &mut Inherited,
    ) -> Result<Self, AdminError> {
        let mut bound = Vec::new();
        let mut held = Vec::new();
        let mut addresses = Vec::new();
        let mut sockets = Vec::new();
        for address in &settings.listen {
            let failed = |source| AdminError { address: address.clone(), source };
            match address {
                AdminAddress::Http(socket) => {
                    let inherited = inherited.take_tcp(*socket, ADMIN).map(Ok);
                    let listener = inherited.unwrap_or_else(|| std::net::TcpListener::bind(socket));
                    let listener = listener.map_err(failed)?;
                    listener.set_nonblocking(true).map_err(failed)?;
                    let own = AdminAddress::Http(listener.local_addr().map_err(failed)?);
                    let socket = listener.try_clone().map_err(failed)?.into();
                    held.push(Held { address: own.clone(), socket, managed: false });
                    addresses.push(own);
                    bound.push(Bound::Tcp(listener));
                }
                AdminAddress::Unix(path) => {
                    let listener = match inherited.take_unix(path) {
                        Some(listener) => listener,
                        None => unix_socket::bind(path, settings.socket_mode).map_err(failed)?,
                    };
                    listener.set_nonblocking(true).map_err(failed)?;
                    let socket = listener.try_clone().map_err(failed)?.into();
                    let managed = inherited.is_managed(path);
                    held.push(Held { address: address.clone(), socket, managed });
                    addresses.push(address.clone());
                    if !managed {
                        sockets.push(path.clone());
                    }
                    bound.push(Bound::Unix(listener));
                }
            }
        }
        let (stop, stopped) = watch::channel(false);
        let history = Arc::new(Mutex::new(History::default()));
        let sampler = status::sample(Arc::clone(&control), Arc::clone(&history));
        let router = http::router(settings, control, history, stopped.clone());
        let first = addresses.first().cloned();
        let failed =
            move |source| AdminError { address: first.unwrap_or(AdminAddress::Unix(PathBuf::new())), source };
        let (ending, ended) = oneshot::channel::<()>();
        let spawned =
            tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                let run = move || {
                    runtime.block_on(serve(bound, router, sampler, stopped));
                    // A command that waits for something must not hold up the end of the process.
                    runtime.shutdown_timeout(COMMAND_TIMEOUT);
                    drop(ending);
                };
                thread::Builder::new().name("admin".to_owned()).spawn(run)
            });
        spawned.map_err(failed)?;
        let told: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        info!(listening = told.join(" "), "admin interface");
        Ok(Self { addresses, sockets, held, stop, ended: Some(ended) })
    }

    /// Where it listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[AdminAddress] {
        &self.addresses
    }

    /// Its sockets once more, for the process that comes after this one. They are not to be held for longer than this.
    pub(crate) fn take_held(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held)
    }

    /// These Unix sockets are another process': they are not taken away when this ends. Gives those that it had.
    pub(crate) fn disown(&mut self, taken: &[PathBuf]) -> Vec<PathBuf> {
        self.sockets.extract_if(.., |socket| taken.contains(socket)).collect()
    }

    /// These are its own now.
    pub(crate) fn own(&mut self, sockets: Vec<PathBuf>) {
        self.sockets.extend(sockets);
    }

    /// Ends it: answers under way have a second.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(ended) = self.ended.take() {
            // It ends by a panic at worst, which has been logged; one that hangs is left alone.
            let _ = tokio::time::timeout(STOP_TIMEOUT + 2 * COMMAND_TIMEOUT, ended).await;
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for socket in &self.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
}

async fn serve(
    bound: Vec<Bound>,
    router: Router,
    sampler: impl Future<Output = ()> + Send + 'static,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut listeners = JoinSet::new();
    listeners.spawn(sampler);
    for bound in bound {
        let (router, slots, stopped) = (router.clone(), Arc::clone(&slots), stopped.clone());
        match bound {
            Bound::Tcp(listener) => match TcpListener::from_std(listener) {
                Ok(listener) => {
                    listeners.spawn(accept(router, slots, stopped, async move || {
                        listener.accept().await.map(|(stream, _)| stream)
                    }));
                }
                Err(error) => warn!(%error, "the admin interface is incomplete"),
            },
            Bound::Unix(listener) => match UnixListener::from_std(listener) {
                Ok(listener) => {
                    listeners.spawn(accept(router, slots, stopped, async move || {
                        listener.accept().await.map(|(stream, _)| stream)
                    }));
                }
                Err(error) => warn!(%error, "the admin interface is incomplete"),
            },
        }
    }
    let _ = stopped.wait_for(|stopped| *stopped).await;
    listeners.shutdown().await;
    // Answers under way.
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(STOP_TIMEOUT, slots.acquire_many(all)).await;
}

/// Accepts until it is dropped.
async fn accept<S>(
    router: Router,
    slots: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
    next: impl AsyncFn() -> io::Result<S>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match next().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, mostly: they come back.
                warn!(%error, "the admin interface cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (router, stopped) = (router.clone(), stopped.clone());
        tokio::spawn(async move {
            connection::serve(stream, router, stopped).await;
            drop(slot);
        });
    }
}
