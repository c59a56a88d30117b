//! A queue between the traffic's threads and a sink's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::queue::{Pushed, Queue, RecordCounts};
use super::record::SessionRecord;

/// Why it could not be opened.
pub(super) type Opened = Result<(), String>;

/// The queue, and what the sink's thread is told.
#[derive(Debug)]
pub(super) struct Outbox {
    name: String,
    queue: Mutex<Queue>,
    /// Something waits.
    filled: Notify,
    /// It is to be opened again, or to come to an end.
    urgent: Notify,
    /// Who wants it opened again, and waits for what comes of it.
    reopen: Mutex<Vec<SyncSender<Opened>>>,
    closed: AtomicBool,
    hurries: AtomicBool,
    available: AtomicBool,
    end: Mutex<End>,
    /// How many others' heir it is, whose threads have not finished: their records are written before its own.
    held: AtomicUsize,
}

/// How it comes to its end.
#[derive(Debug, Default)]
struct End {
    /// Whoever gets what waits here, once this one's thread has finished what it is at.
    heir: Option<Arc<Outbox>>,
    /// The thread has ended.
    ended: bool,
}

/// When dropped, the thread of an outbox has ended, whatever by.
pub(super) struct Delivery<'a>(&'a Outbox);

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        self.0.deliver();
    }
}

impl Outbox {
    pub(super) fn new(name: &str, limit: usize) -> Self {
        Self {
            name: name.to_owned(),
            queue: Mutex::new(Queue::new(limit)),
            filled: Notify::new(),
            urgent: Notify::new(),
            reopen: Mutex::default(),
            closed: AtomicBool::new(false),
            hurries: AtomicBool::new(false),
            available: AtomicBool::new(true),
            end: Mutex::default(),
            held: AtomicUsize::new(0),
        }
    }

    /// The sink's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Called by the traffic's threads: it waits for nothing but another such call.
    pub(super) fn push(&self, record: Arc<SessionRecord>) {
        let pushed = self.queue.lock().push(record);
        match pushed {
            Pushed::Queued => self.filled.notify_one(),
            Pushed::Skipped | Pushed::Lost { begins: false } => {}
            Pushed::Lost { begins: true } => {
                warn!(sink = self.name, "session records are lost: `records.queue` is full");
            }
        }
    }

    /// See [`Queue::set_limit`].
    pub(super) fn set_limit(&self, limit: usize) {
        self.queue.lock().set_limit(limit);
    }

    /// See [`Queue::oldest`]; none while others' records are to come before.
    pub(super) fn oldest(&self, most: usize) -> Vec<Arc<SessionRecord>> {
        if self.is_held() {
            return Vec::new();
        }
        self.queue.lock().oldest(most)
    }

    /// See [`Queue::written`].
    pub(super) fn written(&self, count: usize) {
        let ended = self.queue.lock().written(count);
        self.tell_end(ended);
    }

    /// See [`Queue::refused`].
    pub(super) fn refused(&self) {
        let ended = self.queue.lock().refused();
        self.tell_end(ended);
    }

    fn tell_end(&self, lost: Option<u64>) {
        if let Some(lost) = lost {
            warn!(sink = self.name, lost, "no more session records are lost: there is room again");
        }
    }

    /// Waits until there may be something to do.
    pub(super) async fn wait(&self) {
        tokio::select! {
            () = self.filled.notified() => {}
            () = self.urgent.notified() => {}
        }
    }

    /// Waits until there is something to do that does not wait for a pause to end.
    pub(super) async fn wait_urgent(&self) {
        self.urgent.notified().await;
    }

    /// Has it opened again. Nobody answers once its thread has ended.
    pub(super) fn reopen(&self) -> Receiver<Opened> {
        let (opened, answer) = sync_channel(1);
        // Its thread ends before or after this.
        let end = self.end.lock();
        if !end.ended {
            self.reopen.lock().push(opened);
        }
        drop(end);
        self.urgent.notify_one();
        answer
    }

    /// Who wants it opened again; told once.
    pub(super) fn take_reopen(&self) -> Vec<SyncSender<Opened>> {
        std::mem::take(&mut self.reopen.lock())
    }

    pub(super) fn set_stopping(&self) {
        self.queue.lock().set_stopping();
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.urgent.notify_one();
    }

    /// Nothing more comes, and the relay waits for what is left.
    pub(super) fn hurry(&self) {
        self.hurries.store(true, Ordering::Release);
        self.close();
    }

    pub(super) fn hurries(&self) -> bool {
        self.hurries.load(Ordering::Acquire)
    }

    /// Nothing more comes, and what waits is another one's.
    pub(super) fn hand_over_to(&self, heir: &Arc<Self>) {
        let mut end = self.end.lock();
        // Else nothing waits, or it is somebody's already.
        if !end.ended && end.heir.is_none() {
            heir.held.fetch_add(1, Ordering::AcqRel);
            end.heir = Some(Arc::clone(heir));
        }
        drop(end);
        self.close();
    }

    /// To be held by its thread.
    pub(super) fn delivery(&self) -> Delivery<'_> {
        Delivery(self)
    }

    /// Its thread has ended: what waits is the heir's now, if there is one.
    fn deliver(&self) {
        let mut end = self.end.lock();
        end.ended = true;
        self.reopen.lock().clear();
        if let Some(heir) = &end.heir {
            heir.queue.lock().adopt(&mut self.queue.lock());
            heir.held.fetch_sub(1, Ordering::AcqRel);
            heir.filled.notify_one();
        }
    }

    fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Whether its thread has nothing more to do: nothing more comes, and nothing waits or it is another one's.
    pub(super) fn is_done(&self) -> bool {
        self.is_ending() && (self.end.lock().heir.is_some() || self.queue.lock().is_empty())
    }

    /// Whether nothing more comes, and nothing waits here.
    pub(super) fn is_over(&self) -> bool {
        self.is_ending() && self.queue.lock().is_empty()
    }

    fn is_ending(&self) -> bool {
        self.closed.load(Ordering::Acquire) && !self.is_held()
    }

    /// See [`Queue::give_up`].
    pub(super) fn give_up(&self) -> usize {
        self.queue.lock().give_up()
    }

    pub(super) fn counts(&self) -> RecordCounts {
        self.queue.lock().counts()
    }

    pub(super) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// The sink does not take records now.
    pub(super) fn is_away(&self, why: &str) {
        if self.available.swap(false, Ordering::Relaxed) {
            let waiting = self.counts().queued;
            warn!(sink = self.name, waiting, error = why, "session records cannot be written, and wait");
        }
    }

    /// It does.
    pub(super) fn is_back(&self) {
        if !self.available.swap(true, Ordering::Relaxed) {
            info!(sink = self.name, "session records are written again");
        }
    }
}
