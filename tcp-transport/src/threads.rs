//! Threads for connections: each has readiness, timers and tasks of its own, and a connection stays on the one where it
//! began.
//!
//! On tokio's runtime of several threads one of them waits for all sockets, and any of them runs a task. A message that
//! comes alone wakes a second thread then, which takes the task over, and has its memory in the wrong core's cache.
//! Nothing is gained by that where a connection's task reads its own socket, and writes to others' where it stands
//! ([`Stream`](crate::Stream)). What is lost without is that idle threads take over what a busy one has to do; so a new
//! connection goes where the fewest tasks are.
//!
//! Whatever is made while one is [entered](Threads::enter) belongs to it: sockets, timers and what [`tokio::spawn`]
//! begins, and so does what those make in turn. It may be used from anywhere.
//!
//! # Life
//!
//! *Running* from [`Threads::start`] to [`Threads::end`], which the drop does too. Then each drops its tasks, between two
//! of their turns: connections that are still there end with
//! [`CloseReason::Aborted`](crate::CloseReason::Aborted). After that there
//! are no sockets and no tasks on them.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Handle, RuntimeMetrics};
use tokio::sync::watch;

use crate::listener::MAX_UNSTARTED;

/// After how many turns of tasks a thread looks for sockets that are ready and timers that are over, if it has more to do.
/// A connection that has much to read is back for its next turn at once, which may take some 0.1 ms; others wait for no
/// more than so many of those.
const TURNS_BETWEEN_LOOKS: u32 = 8;

/// After how many turns it takes a task that somebody on another thread has woken or begun.
const TURNS_BETWEEN_OTHERS: u32 = 4;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Threads {
    all: Box<[Thread]>,
    /// Which is asked first, so that of those with equally many tasks it is not always the same.
    first: AtomicUsize,
    /// Heard by each of them until it has ended.
    end: watch::Sender<()>,
}

/// One of them.
#[derive(Debug)]
pub struct Thread {
    handle: Handle,
    metrics: RuntimeMetrics,
    /// Handed out to those that wait for their first turn.
    unstarted: Arc<()>,
}

impl Threads {
    /// Starts so many, which are called `name` and their number.
    ///
    /// # Errors
    /// The system has no thread, or no descriptor, for one of them. None is left running then.
    pub fn start(count: NonZeroUsize, name: &str) -> io::Result<Self> {
        let end = watch::Sender::new(());
        let start = |number| Thread::start(format!("{name}-{number}"), end.subscribe());
        let all = (0..count.get()).map(start).collect::<io::Result<_>>()?;
        Ok(Self { all, first: AtomicUsize::new(0), end })
    }

    /// Enters the one with the fewest tasks, until the guard is dropped.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.least().enter()
    }

    /// The one with the fewest tasks, of those that get round to new ones.
    #[must_use]
    pub fn least(&self) -> &Thread {
        let most = (MAX_UNSTARTED / self.all.len()).max(1);
        let first = self.first.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let (before, from) = self.all.split_at(first);
        let in_turn = from.iter().chain(before);
        // One that hangs would get them all the same, and keep them.
        in_turn.min_by_key(|thread| (thread.unstarted() >= most, thread.tasks())).unwrap_or(&self.all[0])
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Thread] {
        &self.all
    }

    /// Tells them to end.
    pub fn end(&self) {
        self.end.send_replace(());
    }

    /// Tells them to end, and waits until they have dropped their tasks.
    pub async fn stop(&self) {
        self.end();
        self.end.closed().await;
    }
}

impl Thread {
    fn start(name: String, mut end: watch::Receiver<()>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(TURNS_BETWEEN_LOOKS)
            .global_queue_interval(TURNS_BETWEEN_OTHERS)
            .build()?;
        let handle = runtime.handle().clone();
        let metrics = handle.metrics();
        thread::Builder::new().name(name).spawn(move || {
            // Told, or nobody is left who could tell.
            let _ = runtime.block_on(end.changed());
            // Whatever blocks (a lookup of a name) is not waited for.
            runtime.shutdown_background();
            drop(end);
        })?;
        Ok(Self { handle, metrics, unstarted: Arc::default() })
    }

    /// Enters it, until the guard is dropped.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// For a task that waits for its first turn here, which drops it then.
    pub(crate) fn starting(&self) -> Arc<()> {
        Arc::clone(&self.unstarted)
    }

    fn unstarted(&self) -> usize {
        Arc::strong_count(&self.unstarted) - 1
    }

    /// How many tasks it has; that is connections, those in a handshake included, and the little else that they begin.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.metrics.num_alive_tasks()
    }

    /// How long it has been at work since it was started.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.metrics.worker_total_busy_duration(0)
    }

    /// Waits until it has got round to a task behind all that it has to do now.
    ///
    /// # Errors
    /// It has ended.
    pub async fn turn(&self) -> Result<(), Ended> {
        self.handle.spawn(std::future::ready(())).await.map_err(|_| Ended)
    }

    /// Whether it gets from one task to the next: it has a turn for us within this time, or has others before that.
    /// `false` if one of its tasks does not end its turn, or the thread has ended.
    pub async fn gets_on(&self, patience: Duration) -> bool {
        let before = self.busy();
        match tokio::time::timeout(patience, self.turn()).await {
            Ok(turn) => turn.is_ok(),
            // Told after some turns, never within one.
            Err(_) => self.busy() > before,
        }
    }
}

/// The thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread has ended")]
pub struct Ended;
