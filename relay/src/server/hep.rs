//! The HEP of others: received, and passed on to the collectors of `trace`.
//!
//! A packet that was received ends in exactly one of the figures of [`HepCounters`]; what becomes of those forwarded is
//! with the destinations ([`Counters`](tcp_transport::hep::Counters)).

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tcp_transport::hep::{Dispatch, HepHandler, Received, ReceiverCounters, Refusal, Sender};
use tracing::{debug, info, warn};

use super::now;
use super::occasion::Occasion;
use crate::config::{Forward, Hep};

/// What has become of the HEP that others have sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HepCounters {
    /// What came, and what of it was refused. Those [received](ReceiverCounters::received) are the four below added up.
    pub receiver: ReceiverCounters,
    /// Packets given to one destination or more.
    pub forwarded: u64,
    /// Packets that a rule of `hep.filter` drops.
    pub filtered: u64,
    /// Packets that we have sent ourselves: a destination leads back here.
    pub own: u64,
    /// Packets that there was no destination for, or none that is switched on.
    pub unwanted: u64,
}

/// Passes on what the listeners for HEP receive.
#[derive(Debug, Default)]
pub(super) struct Concentrator {
    settings: ArcSwap<Hep>,
    /// It belongs to the tracing, which begins after the sockets are there, and ends before the process.
    sender: ArcSwap<Weak<Sender>>,
    /// What the listeners had received that are gone.
    retired: Mutex<ReceiverCounters>,
    forwarded: AtomicU64,
    filtered: AtomicU64,
    own: AtomicU64,
    unwanted: AtomicU64,
    refusals: Occasion,
    loops: Occasion,
}

impl Concentrator {
    pub(super) fn new(settings: Hep) -> Arc<Self> {
        Arc::new(Self { settings: ArcSwap::from_pointee(settings), ..Self::default() })
    }

    /// What takes the packets that come to one listener.
    pub(super) fn dispatch(self: &Arc<Self>, listener: String) -> Arc<Dispatch> {
        let incoming = Incoming { concentrator: self.clone(), listener };
        Arc::new(Dispatch::new(self.settings.load().receiver.clone()).with(incoming))
    }

    /// From now on there is somewhere to send to; or nowhere.
    pub(super) fn forward_to(&self, sender: Option<&Arc<Sender>>) {
        self.sender.store(Arc::new(sender.map(Arc::downgrade).unwrap_or_default()));
    }

    /// Receives and passes on as these say, from the next packet on.
    pub(super) fn reload(&self, settings: Hep, dispatches: &[Arc<Dispatch>]) {
        for dispatch in dispatches {
            dispatch.set_settings(settings.receiver.clone());
        }
        self.settings.store(Arc::new(settings));
    }

    /// A listener is gone.
    pub(super) fn retire(&self, dispatch: &Dispatch) {
        let mut retired = self.retired.lock();
        *retired = retired.plus(dispatch.counters());
    }

    /// With what `dispatches` have received; `None`: there are none.
    pub(super) fn counters(&self, dispatches: &[Arc<Dispatch>]) -> Option<HepCounters> {
        if dispatches.is_empty() {
            return None;
        }
        let receiver = dispatches.iter().map(|dispatch| dispatch.counters());
        Some(HepCounters {
            receiver: receiver.fold(*self.retired.lock(), ReceiverCounters::plus),
            forwarded: self.forwarded.load(Ordering::Relaxed),
            filtered: self.filtered.load(Ordering::Relaxed),
            own: self.own.load(Ordering::Relaxed),
            unwanted: self.unwanted.load(Ordering::Relaxed),
        })
    }

    fn pass_on(&self, received: &Received, listener: &str) -> &AtomicU64 {
        let Some(sender) = self.sender.load().upgrade() else { return &self.unwanted };
        if sender.is_own(received.from) {
            let (from, to) = (received.from, received.to);
            match self.loops.happens(now()) {
                Some(unsaid) => {
                    warn!(%from, listener, unsaid, "HEP of our own comes back: a destination leads here");
                }
                None => debug!(%from, %to, "HEP of our own comes back"),
            }
            return &self.own;
        }
        let settings = self.settings.load();
        let count = match settings.decide(received, listener) {
            Forward::None => return &self.filtered,
            Forward::All => sender.forward(received, |_| true),
            Forward::To(names) => sender.forward(received, |name| names.iter().any(|wanted| wanted == name)),
        };
        if count > 0 { &self.forwarded } else { &self.unwanted }
    }
}

/// What came to one listener.
struct Incoming {
    concentrator: Arc<Concentrator>,
    listener: String,
}

impl HepHandler for Incoming {
    fn received(&self, received: &Received) -> ControlFlow<()> {
        self.concentrator.pass_on(received, &self.listener).fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    }

    fn refused(&self, from: SocketAddr, refusal: &Refusal) {
        // Whoever can send a datagram can have it refused: that is no line of the log each.
        if let Some(unsaid) = self.concentrator.refusals.happens(now()) {
            warn!(%from, listener = self.listener, %refusal, unsaid, "HEP refused");
        }
    }
}

/// Tells the log what has become of it all.
pub(super) fn log_end(counters: &HepCounters) {
    let HepCounters { receiver, forwarded, filtered, own, unwanted } = counters;
    info!(
        received = receiver.received,
        forwarded,
        filtered,
        own,
        unwanted,
        malformed = receiver.malformed,
        refused_sender = receiver.refused_sender,
        refused_auth_key = receiver.refused_auth_key,
        "HEP reception ended"
    );
}
