//! What a running relay is about to become, and who wants it to.
//!
//! # States
//!
//! *serving* → *draining* (nothing new begins: [`Drain`]) → *stopped*, when it is empty or its time is over.
//! An operator may take a drain back that an operator has begun; one that a signal or an upgrade has begun ends in any
//! case. What is done in each state is in `server::stop`; who does it is the one task that holds the
//! [`Server`](super::Server), so nothing happens twice at once. Whoever else wants something gives an [`Order`].

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::handover::{Door, HandOver, Moves};
use super::{Control, now};

/// How many orders wait at most; one more is refused.
const ORDERS: usize = 16;

/// Who has begun it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainCause {
    /// SIGTERM or SIGINT.
    Signal,
    /// An operator, by the admin interface.
    Operator,
    /// A process that has taken over.
    Upgrade,
}

impl DrainCause {
    /// One word, for people and programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Operator => "operator",
            Self::Upgrade => "upgrade",
        }
    }
}

/// What there is goes on, and nothing new begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Who has begun it.
    pub cause: DrainCause,
    /// When.
    pub since: Instant,
    /// When what is left ends; `None`: by itself alone, which is when the last session expires.
    pub until: Option<Instant>,
}

impl Drain {
    /// One that begins now.
    #[must_use]
    pub fn now(cause: DrainCause, timeout: Option<Duration>) -> Self {
        let since = now();
        // What is too far away to be a time is never.
        Self { cause, since, until: timeout.and_then(|timeout| since.checked_add(timeout)) }
    }

    /// How long is left.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now()))
    }
}

/// How a drain is going.
#[derive(Debug, Clone, Copy)]
pub struct DrainStatus {
    /// Who has begun it, when, and until when.
    pub drain: Drain,
    /// Sessions that there are.
    pub sessions: usize,
    /// Connections with something under way, and those that are relayed to older processes.
    pub busy: usize,
    /// Older processes that are waited for.
    pub older_processes: usize,
    /// Sessions that those have left.
    pub older_sessions: u64,
}

/// What somebody wants of the task that holds the server.
#[derive(Debug)]
pub enum Order {
    /// To begin a drain.
    Drain(Option<Duration>, Reply),
    /// To take it back.
    CancelDrain(Reply),
    /// To start a process that takes over.
    Upgrade(Reply),
    /// Nothing, but to know that another process has taken over.
    HandOver(HandOver),
}

/// Who is told what came of it, in words.
pub type Reply = oneshot::Sender<Result<String, String>>;

/// How far another process is with taking over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Succession {
    /// There is none.
    #[default]
    None,
    /// It gets ready.
    Offered,
    /// It has been told that nothing is accepted here any more: it serves, or ends.
    Paused,
    /// It serves.
    Handed,
}

/// [`Succession`], and whether there may be one.
#[derive(Debug, Clone, Copy, Default)]
struct Next {
    stage: Succession,
    /// This process stops: nobody takes over who has not done so.
    closed: bool,
}

/// Where the state is kept, and where orders come in.
#[derive(Debug)]
pub(super) struct Lifecycle {
    drain: watch::Sender<Option<Drain>>,
    orders: mpsc::Sender<Order>,
    next: watch::Sender<Next>,
    pub(super) door: Door,
}

impl Lifecycle {
    /// One, with what whoever holds the server is to follow, and what whoever waits for the next process is to hear.
    pub(super) fn new() -> (Self, mpsc::Receiver<Order>, Moves) {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let (drain, next) = (watch::Sender::new(None), watch::Sender::default());
        let (door, moves) = Door::new();
        (Self { drain, orders, next, door }, receiver, moves)
    }

    pub(super) fn set(&self, drain: Option<Drain>) {
        self.drain.send_replace(drain);
    }
}

impl Control {
    /// Whether it takes new connections and sessions: not while it drains or stops.
    pub fn is_ready(&self) -> bool {
        self.drain().is_none()
    }

    /// The drain, while there is one.
    pub fn drain(&self) -> Option<Drain> {
        *self.lifecycle.drain.borrow()
    }

    /// The drain, and each that comes or goes.
    pub fn drains(&self) -> watch::Receiver<Option<Drain>> {
        self.lifecycle.drain.subscribe()
    }

    /// The drain with what is left, while there is one. It looks at every connection.
    pub fn drain_status(&self) -> Option<DrainStatus> {
        let drain = self.drain()?;
        let carried = self.network().connections.snapshot();
        let busy = carried.iter().filter(|(_, carried)| !carried.is_idle()).count();
        let older = self.older_processes();
        Some(DrainStatus {
            drain,
            sessions: self.relay().sessions().len(),
            busy: busy + self.network().generations.underway(),
            older_processes: older.len(),
            older_sessions: older.iter().map(|older| older.sessions).sum(),
        })
    }

    /// Notes how far another process is; `false`, and nothing is noted, if it may get no further as this one drains or
    /// stops.
    pub(super) fn set_succession(&self, stage: Succession) -> bool {
        let goes_on = matches!(stage, Succession::Offered | Succession::Paused);
        let is_ready = self.is_ready();
        self.lifecycle.next.send_if_modified(|next| {
            let may = !goes_on || (is_ready && !next.closed);
            if may {
                next.stage = stage;
            }
            may
        })
    }

    /// Whether another process has the listeners, and does not serve yet.
    pub(super) fn is_being_succeeded(&self) -> bool {
        matches!(self.lifecycle.next.borrow().stage, Succession::Offered | Succession::Paused)
    }

    /// Waits until nobody may take over any more, as this one stops.
    pub(super) async fn succession_closed(&self) {
        // It is there for as long as we are.
        let _ = self.lifecycle.next.subscribe().wait_for(|next| next.closed).await;
    }

    /// Waits until no other process is about to take over, nor has.
    pub async fn succession_failed(&self) {
        let _ = self.lifecycle.next.subscribe().wait_for(|next| next.stage == Succession::None).await;
    }

    /// This process stops: whoever was about to take over is told so, and who does already is waited for. Gives it then,
    /// if it comes by `orders`; what else comes is not followed.
    pub async fn close_succession(&self, orders: &mut mpsc::Receiver<Order>) -> Option<HandOver> {
        self.lifecycle.next.send_modify(|next| next.closed = true);
        let mut next = self.lifecycle.next.subscribe();
        let settled = next.wait_for(|next| matches!(next.stage, Succession::None | Succession::Handed));
        let mut settled = std::pin::pin!(settled);
        loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => if let Order::HandOver(handed) = order {
                    return Some(handed);
                },
                _ = &mut settled => return None,
            }
        }
    }

    /// Gives an order that nobody waits for.
    pub(super) async fn give(&self, order: Order) {
        // Who holds the server has stopped it, or is about to.
        let _ = self.lifecycle.orders.send(order).await;
    }

    /// Gives an order, and waits for what comes of it. Not to be called from a task.
    ///
    /// # Errors
    /// Why it is not followed.
    pub fn order(&self, order: impl FnOnce(Reply) -> Order) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        let refused = |_| "the relay is about to stop, or has too much to do".to_owned();
        self.lifecycle.orders.try_send(order(reply)).map_err(refused)?;
        answer.blocking_recv().unwrap_or_else(|_| Err("the relay stops".to_owned()))
    }
}
