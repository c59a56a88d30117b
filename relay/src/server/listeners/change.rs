//! Listeners that come, go and change while the relay runs.
//!
//! A listener is known by where it listens. One whose address is still in the configuration keeps its socket,
//! whatever else has changed: what it serves and how, from the next connection on. Connections that are there keep what
//! they have begun with. What belongs to the socket since it was bound, and to nothing else (`ipv6_only`, `reuse_port`),
//! stays as it is. A host name is not looked up again.
//!
//! One whose address is gone accepts nothing more, and its socket is closed, or [kept](super::kept); handshakes under way
//! end, its connections go on. A new one may have an address that [overlaps](super::overlap) its.

use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use tcp_transport::ListenerSettings;
use tcp_transport::hep::Dispatch;
use tcp_transport::tls::ServerDomains;
use tokio::task::JoinHandle;

use super::{
    Kept, Listeners, Opened, Running, RunningSocket, Shared, accepting, advertised_msrp, advertised_sip,
    listener_settings, overlap, serves,
};
use crate::config::{Config, Listener, ListenerTransport};
use crate::msrp::Advertised;
use crate::server::StartError;
use crate::server::hep::Concentrator;
use crate::server::network::Network;

/// Where each listener of another configuration comes from, in its order.
#[derive(Debug)]
pub(in crate::server) struct Change(Vec<Origin>);

#[derive(Debug)]
enum Origin {
    /// The running one of this number, counted from the first.
    Running {
        index: usize,
        bound_port: u16,
        hep: Option<Arc<Dispatch>>,
    },
    New(Box<Opened>),
}

/// Whether both listen at the same place: a listener on any port is itself only if its URI is the same.
fn is_same_place(one: &Listener, other: &Listener) -> bool {
    let is_udp = |listener: &Listener| listener.transport == ListenerTransport::Udp;
    one.host == other.host
        && one.port == other.port
        && is_udp(one) == is_udp(other)
        && (one.port != 0 || one.to_string() == other.to_string())
}

impl Listeners {
    /// Finds out which of the running listeners are those of `config`, and opens the sockets of the others. Nothing is
    /// accepted on those yet, and they are closed if what is given back is dropped.
    ///
    /// # Errors
    /// Each listener of `config` that cannot be opened, by its number.
    pub(in crate::server) fn prepare(
        &self,
        config: &Config,
        domains: &Arc<ServerDomains>,
        concentrator: &Arc<Concentrator>,
    ) -> Result<Change, Vec<(usize, StartError)>> {
        let mut free: Vec<_> =
            self.0.lock().running.iter().map(Running::place).enumerate().map(Some).collect();
        // Who stays is known before anything is opened.
        let mut stay = |listener: &Listener| {
            let mut places = free.iter_mut();
            let found = places.find(|place| {
                place.as_ref().is_some_and(|(_, place)| is_same_place(&place.listener, listener))
            });
            found.and_then(Option::take)
        };
        let found: Vec<_> = config.listeners.iter().map(&mut stay).collect();
        let goes = |index: usize| free.iter().flatten().any(|(gone, _)| *gone == index);
        let mut inherited = self.kept_again();
        let mut present = None;
        let (mut origins, mut errors) = (Vec::new(), Vec::new());
        for (number, (listener, found)) in config.listeners.iter().zip(found).enumerate() {
            if let Some((index, place)) = found {
                let hep = place.hep.filter(|_| place.listener.to_string() == listener.to_string());
                let dispatch = || concentrator.dispatch(listener.to_string());
                let hep = listener.hep.then(|| hep.unwrap_or_else(dispatch));
                origins.push(Origin::Running { index, bound_port: place.bound_port, hep });
                continue;
            }
            let mut open =
                |listener: &Listener| Opened::open(listener, config, domains, concentrator, &mut inherited);
            // A listener that has just gone may have its address yet.
            let ending = || self.is_ending();
            let opened =
                accepting::until_free(|| open(listener), |error| overlap::taken(error).is_some(), ending);
            let opened = opened.or_else(|error| {
                if overlap::taken(&error).is_none() {
                    return Err(error);
                }
                let present = present.get_or_insert_with(|| self.present());
                overlap::open_beside(listener, present, goes, error, open)
            });
            match opened {
                Ok(opened) => origins.push(Origin::New(Box::new(opened))),
                Err(error) => errors.push((number, error)),
            }
        }
        if errors.is_empty() { Ok(Change(origins)) } else { Err(errors) }
    }

    /// What of the listeners of `config` belongs to sockets that are there, and stays as it was bound: the listener's
    /// number, the setting, and how it is.
    pub(in crate::server) fn unchanged_sockets(&self, config: &Config) -> Vec<(usize, &'static str)> {
        let all = self.0.lock();
        let mut unchanged = Vec::new();
        for (number, listener) in config.listeners.iter().enumerate() {
            let Some(found) = all.running.iter().find(|found| is_same_place(&found.listener, listener))
            else {
                continue;
            };
            let Some(bound) = found.sockets.first().and_then(|socket| socket.socket.settings()) else {
                continue;
            };
            if bound.ipv6_only != listener.ipv6_only {
                unchanged.push((number, "ipv6_only"));
            }
            if bound.reuse_port != listener.reuse_port {
                unchanged.push((number, "reuse_port"));
            }
        }
        unchanged
    }

    /// Where connections come in, with the listeners' names.
    pub(in crate::server) fn names(&self) -> HashMap<SocketAddr, String> {
        let all = self.0.lock();
        let of_one = |running: &Running| {
            let streams = running.sockets.iter().filter(|socket| socket.socket.settings().is_some());
            streams.map(|socket| (socket.address, running.listener.to_string())).collect::<Vec<_>>()
        };
        all.running.iter().flat_map(of_one).collect()
    }

    /// Puts prepared listeners in the place of those there are. `msrp` and `sip` give the numbers there, in the order of
    /// the configuration; of SIP none for those that the edge does not know.
    pub(in crate::server) fn take_over(
        &self,
        change: Change,
        config: &Config,
        network: &Arc<Network>,
        concentrator: &Concentrator,
        msrp: impl IntoIterator<Item = usize>,
        sip: impl IntoIterator<Item = Option<usize>>,
    ) {
        let mut all = self.0.lock();
        let all = &mut *all;
        let mut before: Vec<_> = mem::take(&mut all.running).into_iter().map(Some).collect();
        let (mut msrp, mut sip) = (msrp.into_iter(), sip.into_iter());
        for (origin, listener) in change.0.into_iter().zip(&config.listeners) {
            let msrp = if listener.serves_msrp() { msrp.next() } else { None };
            let sip = if listener.sip { sip.next().flatten() } else { None };
            match origin {
                Origin::New(opened) => {
                    let running = super::running(*opened, network, msrp, sip, all.accepting);
                    // It has the socket itself now.
                    let has = |kept: &Kept| {
                        let is_it = |one: &RunningSocket| one.managed && one.is_at(kept.address, kept.is_udp);
                        running.sockets.iter().any(is_it)
                    };
                    all.kept.retain(|kept| !has(kept));
                    all.running.push(running);
                }
                Origin::Running { index, hep, .. } => {
                    let Some(mut running) = before.get_mut(index).and_then(Option::take) else { continue };
                    running.serves.store(Arc::new(serves(listener, msrp, sip, hep.clone())));
                    for socket in &running.sockets {
                        if let Shared::Stream(control) = &socket.socket {
                            control.update(rebound(listener, config, &control.settings()));
                        }
                    }
                    for closed in &mut running.closed {
                        closed.settings = rebound(listener, config, &closed.settings);
                    }
                    if let Some(former) = mem::replace(&mut running.hep, hep)
                        && !running.hep.as_ref().is_some_and(|hep| Arc::ptr_eq(hep, &former))
                    {
                        concentrator.retire(&former);
                    }
                    running.listener = listener.clone();
                    all.running.push(running);
                }
            }
        }
        for mut gone in before.into_iter().flatten() {
            all.kept.append(&mut gone.keep());
            if let Some(hep) = &gone.hep {
                concentrator.retire(hep);
            }
            all.ending.extend(gone.abort());
        }
    }
}

/// The settings of a socket that stays, for what its listener is now: what it was `bound` with it keeps.
fn rebound(listener: &Listener, config: &Config, bound: &ListenerSettings) -> ListenerSettings {
    let (ipv6_only, reuse_port) = (bound.ipv6_only, bound.reuse_port);
    ListenerSettings { ipv6_only, reuse_port, ..listener_settings(listener, config, bound.addr) }
}

/// What is to be known of a running one without its lock.
struct Place {
    listener: Listener,
    bound_port: u16,
    hep: Option<Arc<Dispatch>>,
}

impl Running {
    fn place(&self) -> Place {
        let open = self.sockets.iter().map(|socket| socket.address);
        let bound = open.chain(self.closed.iter().map(|closed| closed.address)).next();
        let bound_port = bound.map_or(self.listener.port, |address| address.port());
        Place { listener: self.listener.clone(), bound_port, hep: self.hep.clone() }
    }

    /// Ends its tasks; gives those that let go of their sockets when they get a turn.
    fn abort(self) -> impl Iterator<Item = JoinHandle<()>> {
        self.sockets.into_iter().map(|socket| socket.task).inspect(JoinHandle::abort)
    }

    /// The sockets that a service manager keeps open.
    fn keep(&mut self) -> Vec<Kept> {
        let name = self.listener.to_string();
        let managed = self.sockets.iter().filter(|socket| socket.managed);
        let open = managed.filter_map(|one| Kept::of(&one.socket, one.address, name.clone()));
        open.chain(self.closed.iter_mut().filter_map(|closed| closed.kept.take())).collect()
    }
}

impl RunningSocket {
    fn is_at(&self, address: SocketAddr, is_udp: bool) -> bool {
        self.address == address && self.socket.is_udp() == is_udp
    }
}

impl Shared {
    fn settings(&self) -> Option<Arc<ListenerSettings>> {
        match self {
            Self::Stream(control) => Some(control.settings()),
            Self::Datagram(_) => None,
        }
    }
}

impl Change {
    /// As [`msrp`](Self::msrp), for SIP.
    pub(in crate::server) fn sip(&self, config: &Config) -> Vec<crate::sip::Advertised> {
        let both = self.0.iter().zip(&config.listeners);
        let advertised = both.filter_map(|(origin, listener)| match origin {
            Origin::New(opened) => opened.sip(&config.domain),
            Origin::Running { bound_port, .. } => advertised_sip(listener, *bound_port, &config.domain),
        });
        advertised.collect()
    }

    /// What the listeners of `config` call themselves in the URIs of MSRP.
    pub(in crate::server) fn msrp(&self, config: &Config) -> Vec<Advertised> {
        let both = self.0.iter().zip(&config.listeners);
        let advertised = both.filter_map(|(origin, listener)| match origin {
            Origin::New(opened) => opened.msrp(&config.domain),
            Origin::Running { bound_port, .. } => advertised_msrp(listener, *bound_port, &config.domain),
        });
        advertised.collect()
    }
}
