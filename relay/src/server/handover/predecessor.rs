//! The process that runs, while another one takes over from it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::channel::{Channel, Endpoint, MAX_DESCRIPTORS};
use super::door::{self, Moves};
use super::message::{Message, Thing, VERSION};
use crate::admin::{ADMIN, Held};
use crate::config::AdminAddress;
use crate::server::lifecycle::Succession;
use crate::server::listeners::Duplicate;
use crate::server::{Control, Order};

/// How long nothing is accepted for when the socket does not let us, for want of descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the next process may take to serve once nothing is accepted here, which takes it no work.
const SERVING_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked at whether a reload is over.
const RELOAD_POLL: Duration = Duration::from_millis(5);

/// Another process has taken over.
#[derive(Debug)]
pub struct HandOver {
    /// Its process number.
    pub pid: u32,
    /// What connects both.
    pub(in crate::server) channel: Channel,
    /// The Unix sockets that are its own now.
    pub(in crate::server) taken: Vec<PathBuf>,
}

/// Why another process does not take over.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it ended before it served")]
    Ended,
    #[error("it did not get ready in time")]
    Late,
    #[error("it did not serve in time")]
    Hangs,
    #[error("the relay that runs stops already")]
    Stops,
    #[error("it was refused: {0}")]
    Refused(String),
    #[error("it says what is not understood")]
    Misunderstood,
}

/// Waits for a process that takes over, one after the other, until one has; where, a reload may change. `admin` are the
/// sockets of the admin interface.
pub(in crate::server) async fn serve(
    mut endpoint: Option<Endpoint>,
    mut moves: Moves,
    control: Arc<Control>,
    admin: Vec<Held>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            Some(moved) = moves.recv() => {
                if let Some(before) = std::mem::replace(&mut endpoint, moved) {
                    door::remove(before.path());
                }
                continue;
            }
            accepted = door::accept(endpoint.as_ref()) => accepted,
        };
        let Some(endpoint) = &endpoint else { continue };
        let channel = match accepted {
            Ok(channel) => channel,
            Err(error) => {
                warn!(%error, "cannot accept a process that takes over");
                sleep(PAUSE).await;
                continue;
            }
        };
        if !channel.is_trusted() {
            warn!("another user's process wants to take over: refused");
            continue;
        }
        match hand_over(&channel, endpoint, &control, &admin).await {
            Ok(Some((pid, taken))) => {
                info!(pid, "the next process serves");
                if !taken.iter().any(|path| path == endpoint.path()) {
                    door::remove(endpoint.path());
                }
                control.give(Order::HandOver(HandOver { pid, channel, taken })).await;
                control.set_succession(Succession::Handed);
                return;
            }
            // Somebody has only looked whether we are there.
            Ok(None) => {}
            Err(error) => {
                control.listeners().set_accepting(true);
                // Else it would think that we have died, and serve.
                let refused = Message::Refused { reason: error.to_string() };
                let _ = timeout(PAUSE, channel.send(&refused, &[], &[])).await;
                control.set_succession(Succession::None);
                warn!(%error, "another process wanted to take over and has not: everything goes on as before");
            }
        }
    }
}

async fn hand_over(
    channel: &Channel,
    endpoint: &Endpoint,
    control: &Arc<Control>,
    admin: &[Held],
) -> Result<Option<(u32, Vec<PathBuf>)>, Failure> {
    let start_timeout = control.config().upgrade.as_ref().map_or(PAUSE, |upgrade| upgrade.start_timeout);
    let prepared = async {
        let pid = match next(channel).await {
            Ok(Message::Hello { version: VERSION, pid }) => pid,
            Ok(Message::Hello { version, .. }) => {
                let reason = format!("version {version} of the upgrade is not understood, {VERSION} is");
                return refuse(channel, reason).await;
            }
            Ok(_) => return Err(Failure::Misunderstood),
            Err(Failure::Ended) => return Ok(None),
            Err(error) => return Err(error),
        };
        let things = loop {
            // What is offered stays as it is: no reload changes the listeners from here on. One may be under way for as
            // long as disks and names take; no thread of the traffic's waits for that.
            if let Some(_no_reload) = control.reloading.try_lock() {
                if !control.set_succession(Succession::Offered) {
                    return Err(Failure::Stops);
                }
                break offered(endpoint, control, admin)?;
            }
            sleep(RELOAD_POLL).await;
        };
        info!(pid, "a process takes over");
        offer(channel, &things, control).await?;
        match next(channel).await? {
            Message::Ready { taken } => Ok(Some((pid, taken))),
            _ => Err(Failure::Misunderstood),
        }
    };
    let prepared = tokio::select! {
        prepared = timeout(start_timeout, prepared) => prepared.map_err(|_| Failure::Late)??,
        () = control.succession_closed() => return Err(Failure::Stops),
    };
    let Some((pid, taken)) = prepared else { return Ok(None) };
    // From here on a stop waits for what comes of it.
    if !control.set_succession(Succession::Paused) {
        return Err(Failure::Stops);
    }
    // Whoever comes now waits until the next process accepts.
    control.listeners().set_accepting(false);
    channel.send(&Message::Paused, &[], &[]).await?;
    // It has all it needs, so it serves or ends.
    match timeout(SERVING_TIMEOUT, next(channel)).await.map_err(|_| Failure::Hangs)?? {
        Message::Serving => Ok(Some((pid, taken))),
        _ => Err(Failure::Misunderstood),
    }
}

async fn refuse<T>(channel: &Channel, reason: String) -> Result<T, Failure> {
    channel.send(&Message::Refused { reason: reason.clone() }, &[], &[]).await?;
    Err(Failure::Refused(reason))
}

async fn next(channel: &Channel) -> Result<Message, Failure> {
    Ok(channel.receive().await?.ok_or(Failure::Ended)?.message)
}

/// Everything there is to give away.
fn offered(endpoint: &Endpoint, control: &Control, admin: &[Held]) -> io::Result<Vec<(Thing, OwnedFd)>> {
    let mut offered = Vec::new();
    for Duplicate { listener, socket, managed } in control.listeners().duplicates()? {
        let is_datagram = socket_type(&socket)? == SocketType::DGRAM;
        let thing =
            if is_datagram { Thing::Udp { listener, managed } } else { Thing::Tcp { listener, managed } };
        offered.push((thing, socket));
    }
    for Held { address, socket, managed } in admin {
        let thing = match address {
            AdminAddress::Http(_) => Thing::Tcp { listener: ADMIN.to_owned(), managed: *managed },
            AdminAddress::Unix(path) => Thing::AdminUnix { path: path.clone(), managed: *managed },
        };
        offered.push((thing, socket.try_clone()?));
    }
    let path = endpoint.path().to_owned();
    offered.push((Thing::Endpoint { path }, endpoint.as_fd().try_clone_to_owned()?));
    for generation in control.network().generations.all() {
        let thing = Thing::Process { tag: generation.tag.to_string(), pid: generation.pid };
        offered.push((thing, generation.channel.as_fd().try_clone_to_owned()?));
    }
    Ok(offered)
}

async fn offer(channel: &Channel, offered: &[(Thing, OwnedFd)], control: &Control) -> io::Result<()> {
    let batches = offered.chunks(MAX_DESCRIPTORS);
    let last = batches.len();
    for (number, batch) in batches.enumerate() {
        let things = batch.iter().map(|(thing, _)| thing.clone()).collect();
        let descriptors: Vec<_> = batch.iter().map(|(_, socket)| socket.as_fd()).collect();
        let (tag, pid) = (control.relay().sessions().tag().to_string(), std::process::id());
        let message = Message::Offer { tag, pid, things, more: number + 1 < last };
        channel.send(&message, &[], &descriptors).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::config::Config;
    use crate::server::Server;

    #[tokio::test]
    async fn a_reload_that_takes_long_holds_up_no_thread_of_the_traffic() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let folder = tempfile::tempdir().unwrap();
        let text = "domain: relay.test\nlisteners: [ { uri: 'msrp://127.0.0.1:0' } ]\nupgrade: { socket: u, start_timeout: 1m }\n";
        let config = Config::parse(text, folder.path(), "a").unwrap_or_else(|errors| panic!("{errors}"));
        let server = Server::start(config).await.unwrap();
        let control = Arc::clone(server.control());
        let (begins, began) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let reloads = Arc::clone(&control);
        let reload = thread::spawn(move || {
            let _reload = reloads.reloading.lock();
            begins.send(()).unwrap();
            ends.recv_timeout(PATIENCE).is_ok()
        });
        began.recv().unwrap();
        let endpoint = Endpoint::bind(&folder.path().join("socket")).unwrap();
        let next_process = Channel::connect(endpoint.path()).unwrap();
        let channel = endpoint.accept().await.unwrap();
        let hello = Message::Hello { version: VERSION, pid: 1 };
        next_process.send(&hello, &[], &[]).await.unwrap();
        let next_process = async move {
            // The only thread of the traffic goes on, so this does.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            end.send(()).unwrap();
            let offer = next(&next_process).await.unwrap();
            assert!(matches!(offer, Message::Offer { .. }), "{offer:?}");
        };
        let (outcome, ()) = tokio::join!(hand_over(&channel, &endpoint, &control, &[]), next_process);
        // It has ended after it had what it wanted.
        assert!(matches!(outcome, Err(Failure::Ended)), "{outcome:?}");
        assert!(reload.join().unwrap(), "the reload was over before the next process gave up");
    }
}
