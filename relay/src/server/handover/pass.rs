//! Connections that have come to this process and are for sessions of one before it.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as Pair;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use msrp_proto::first_hop::{FirstHop, first_hop};
use tcp_transport::connection::{CloseReason, Flow};
use tcp_transport::{Stream, ws};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tracing::{debug, info};

use super::channel::MAX_BYTES;
use super::generations::{Generation, Underway};
use super::message::{Connection, Message};
use super::pump;
use crate::msrp::{Peer, ProcessTag};
use crate::server::network::Network;
use crate::server::{SHUTDOWN, now};

/// How many bytes are looked at for the first request's To-Path. Who brings more without one is served here.
const MAX_FIRST: usize = 16 * 1024;

/// How long they may take. Then whoever it is is served here, with what has come.
const FIRST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long another process may take to take one.
const HAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of one read while the first request is waited for.
const READ: usize = 4 * 1024;

/// A connection of MSRP that has just come up.
pub(in crate::server) struct Arrival {
    /// The listener it came in by.
    pub(in crate::server) listener: usize,
    pub(in crate::server) stream: Stream,
    pub(in crate::server) peer: Peer,
    /// What was read of it already.
    pub(in crate::server) rest: BytesMut,
    /// Of a WebSocket.
    pub(in crate::server) incoming: Option<ws::Incoming>,
}

/// Takes a connection to the process whose sessions its first request is for; to this one if it is for none of those
/// before. `_underway` is what counts it as long.
pub(in crate::server) async fn sort(network: Arc<Network>, mut arrival: Arrival, _underway: Underway) {
    let first = tokio::select! {
        first = timeout(FIRST_TIMEOUT, first_tag(&mut arrival)) => first,
        () = network.generations.ending() => {
            pump::take_leave(&arrival.stream).await;
            return arrival.stream.let_go(&CloseReason::Local(SHUTDOWN.into()));
        }
    };
    let tag = match first {
        Ok(Ok(tag)) => tag,
        Ok(Err(error)) => return arrival.stream.let_go(&CloseReason::from_io(&error)),
        Err(_) => None,
    };
    match tag.and_then(|tag| network.generations.of(tag)) {
        Some(generation) => hand(&network, arrival, &generation).await,
        None => network.serve(arrival),
    }
}

/// Reads until it is known whose session the first request is for; `None`: nobody's in particular.
async fn first_tag(arrival: &mut Arrival) -> io::Result<Option<ProcessTag>> {
    let websocket = arrival.incoming.is_some();
    loop {
        let payload = websocket.then(|| payload(&arrival.rest));
        match first_hop(payload.as_deref().unwrap_or(&arrival.rest)) {
            FirstHop::Uri(uri) => return Ok(uri.session_id().and_then(ProcessTag::of_session_id)),
            FirstHop::Other => return Ok(None),
            FirstHop::More if arrival.rest.len() >= MAX_FIRST => return Ok(None),
            FirstHop::More => {}
        }
        if arrival.stream.read(&mut arrival.rest, READ).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What the first frames of a WebSocket carry.
fn payload(raw: &[u8]) -> Vec<u8> {
    let mut incoming = ws::Incoming::new(ws::Role::Server, ws::Settings::default(), now());
    let mut payload = Vec::new();
    // A copy, as it is unmasked in place: whoever gets the connection reads the frames as they came.
    let _ = incoming.received(&mut BytesMut::from(raw), now(), |part| {
        payload.extend_from_slice(part.buf);
        part.buf.clear();
        Flow::Read
    });
    payload
}

/// Gives a connection to another process; if that cannot have it, it is served here, and its request answered with 481.
async fn hand(network: &Arc<Network>, arrival: Arrival, generation: &Generation) {
    let Arrival { listener, stream, peer, rest, incoming } = &arrival;
    let tls = stream.tls().is_some();
    let message = Message::Connection(Box::new(Connection {
        peer: stream.peer_addr(),
        local: stream.local_addr(),
        listener: network.listener_name(Some(*listener)).unwrap_or_default(),
        tls,
        scheme: stream.entry().scheme().map(|scheme| scheme.as_str().to_owned()).unwrap_or_default(),
        websocket: incoming.is_some(),
        who: peer.into(),
    }));
    let pair = if tls { Pair::pair().map(Some) } else { Ok(None) };
    let handed = match &pair {
        Err(error) => Err(io::Error::from(error.kind())),
        Ok(_) if rest.len() > MAX_BYTES => Err(io::ErrorKind::InvalidInput.into()),
        Ok(pair) => {
            let theirs = pair.as_ref().map_or_else(|| stream.as_fd(), |(_, theirs)| theirs.as_fd());
            let theirs = [theirs];
            let send = generation.channel.send(&message, rest, &theirs);
            timeout(HAND_TIMEOUT, send).await.unwrap_or_else(|late| Err(late.into()))
        }
    };
    let (pid, tag, address) = (generation.pid, generation.tag, &*peer.address);
    if let Err(error) = handed {
        info!(peer = address, pid, %tag, %error, "a connection for a session of the process before stays here");
        return network.serve(arrival);
    }
    debug!(peer = address, pid, %tag, tls, "connection handed to the process before");
    network.generations.count_handed();
    match pair {
        Ok(Some((ours, _theirs))) => {
            let relayed = network.generations.relay();
            let ours = ours.set_nonblocking(true).and_then(|()| UnixStream::from_std(ours));
            if let Ok(ours) = ours {
                let network = Arc::clone(network);
                tokio::spawn(async move {
                    pump::run(arrival.stream, ours, network.generations.ending()).await;
                    drop(relayed);
                });
            }
        }
        _ => arrival.stream.let_go(&CloseReason::Local("handed to the process before".into())),
    }
}
