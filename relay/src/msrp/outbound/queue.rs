//! A link's [`Outbound`], which is there while there is something to send: most connections of a relay wait, and should
//! be small.

use std::sync::Arc;

use super::{Outbound, QueueSettings};
use crate::msrp::link::Link;
use crate::msrp::tap::Tap;
use crate::msrp::transactions::Transaction;

/// See the [module](self).
pub(crate) struct Queue {
    settings: QueueSettings,
    outbound: Option<Box<Outbound>>,
    tap: Option<Arc<dyn Tap>>,
    /// The number for the next chunk, while there is no `Outbound` that knows: none is given twice.
    next_chunk: u64,
    /// There is something to give back that the link's own task does not know of.
    roused: bool,
}

impl Queue {
    pub(crate) fn new(settings: QueueSettings) -> Self {
        Self { settings, outbound: None, tap: None, next_chunk: 1, roused: false }
    }

    /// The connection is up, and its messages are seen from now on.
    pub(crate) fn watch(&mut self, tap: Option<Arc<dyn Tap>>) {
        if let Some(outbound) = &mut self.outbound {
            outbound.watch(tap.clone());
        }
        self.tap = tap;
    }

    /// To put something in.
    pub(crate) fn get(&mut self) -> &mut Outbound {
        self.outbound.get_or_insert_with(|| {
            let mut outbound = Box::new(Outbound::new(self.settings));
            outbound.next_chunk = self.next_chunk;
            outbound.watch(self.tap.clone());
            self.roused = true;
            outbound
        })
    }

    /// If there may be something in it.
    pub(crate) fn used(&self) -> Option<&Outbound> {
        self.outbound.as_deref()
    }

    /// Likewise.
    pub(crate) fn used_mut(&mut self) -> Option<&mut Outbound> {
        self.outbound.as_deref_mut()
    }

    /// The connection is closed: as [`Outbound::close`]. Nothing is kept of the tap, which keeps a descriptor.
    pub(crate) fn close(&mut self) -> (Vec<Transaction>, Vec<Arc<Link>>) {
        self.tap = None;
        self.outbound.take().map(|mut outbound| outbound.close()).unwrap_or_default()
    }

    /// Nothing has gone for a while: lets go of what is not needed.
    pub(crate) fn quiet(&mut self) {
        match &mut self.outbound {
            Some(outbound) if outbound.is_spent() => {
                self.next_chunk = outbound.next_chunk;
                self.outbound = None;
            }
            Some(outbound) => {
                outbound.quiet();
                // What is in it leaves later, and then the rest is to be given back.
                self.roused = true;
            }
            None => {}
        }
    }

    /// Whether the link's own task has to hear that there is something to give back, when nothing has gone for a
    /// while: others may have put it in.
    pub(crate) fn take_roused(&mut self) -> bool {
        std::mem::take(&mut self.roused)
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("outbound", &self.outbound).finish_non_exhaustive()
    }
}
