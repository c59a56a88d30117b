//! What the parts of an endpoint have in common: identifiers, events, transactions, and the queue of
//! what goes out whole.

use std::collections::VecDeque;

use super::event::{AuthHandle, Event, OutgoingHandle, SessionHandle};
use crate::header::FailureReport;
use crate::ident::TransactionId;
use crate::transaction::Transactions;

/// What a transaction is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Auth(AuthHandle),
    /// A SEND without a body.
    Bodiless(SessionHandle),
    Chunk(OutgoingHandle),
}

pub(super) struct Shared {
    pub(super) ids: Identifiers,
    pub(super) events: VecDeque<Event>,
    pub(super) transactions: Transactions<Purpose>,
    pub(super) control: ControlQueue,
}

impl Shared {
    /// Begins a transaction under a new id.
    pub(super) fn begin(&mut self, wish: FailureReport, purpose: Purpose) -> TransactionId {
        loop {
            let id = self.ids.transaction();
            if self.transactions.begin(id, wish, purpose) {
                return id;
            }
        }
    }
}

type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// Draws identifiers from the randomness the driver gave us.
pub(super) struct Identifiers {
    random: Random,
    drawn: u64,
}

impl Identifiers {
    pub(super) fn new(random: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        Self { random: Box::new(random), drawn: 0 }
    }

    /// 80 random bits. A count is mixed in, which takes nothing from them: even a source that
    /// repeats itself gives no id twice.
    pub(super) fn transaction(&mut self) -> TransactionId {
        let mut random = [0; 10];
        (self.random)(&mut random);
        self.drawn = self.drawn.wrapping_add(1);
        for (byte, count) in random.iter_mut().rev().zip(self.drawn.to_le_bytes()) {
            *byte ^= count;
        }
        TransactionId::from_random(random)
    }

    /// The same as text, for Message-IDs, session-ids and cnonces.
    pub(super) fn text(&mut self) -> String {
        self.transaction().as_str().to_owned()
    }
}

/// Messages that are short and go out whole, before anything else: responses, REPORTs, AUTHs,
/// bodiless SENDs.
#[derive(Default)]
pub(super) struct ControlQueue {
    queue: VecDeque<Control>,
    bytes: usize,
}

pub(super) struct Control {
    pub(super) bytes: Vec<u8>,
    /// Its time begins when it is sent.
    pub(super) transaction: Option<TransactionId>,
}

impl ControlQueue {
    pub(super) fn push(&mut self, bytes: Vec<u8>, transaction: Option<TransactionId>) {
        self.bytes += bytes.len();
        self.queue.push_back(Control { bytes, transaction });
    }

    pub(super) fn next_len(&self) -> Option<usize> {
        self.queue.front().map(|control| control.bytes.len())
    }

    pub(super) fn pop(&mut self) -> Option<Control> {
        let control = self.queue.pop_front()?;
        self.bytes -= control.bytes.len();
        Some(control)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}
