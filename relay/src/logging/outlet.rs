//! Lines on their way to a file, to syslog or to the journal: a queue of bounded size, and a thread that writes.
//!
//! Whoever logs waits for nothing: where there is no room in the queue, the line is lost and counted. The thread tells
//! how many were lost as soon as it can write again. A line that cannot be written (the disk is full, the daemon is
//! away) is lost too; what comes after it is tried anew.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::Level;

/// The most lines that wait: a few megabytes.
pub(super) const QUEUE: usize = 8192;

/// One line, or one message.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) bytes: Vec<u8>,
}

/// Where lines go. It may wait, on the thread that it belongs to.
pub(super) trait Sink: Send {
    /// Writes one line.
    fn write(&mut self, line: &Line) -> io::Result<()>;

    /// Opens anew what it writes to.
    fn reopen(&mut self) -> io::Result<()>;

    /// What it has to say itself, in the form that its lines have.
    fn own(&self, text: &str) -> Line;
}

enum Order {
    Line(Line),
    /// All that came before is written.
    Flush(SyncSender<()>),
}

/// The queue's end for those who log. Cloning gives the same one; the thread ends with the last of them.
#[derive(Clone)]
pub(super) struct Outlet {
    queue: SyncSender<Order>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Not told yet.
    lost: AtomicU64,
    lost_in_all: AtomicU64,
    reopen: AtomicBool,
}

impl Shared {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.lost_in_all.fetch_add(1, Ordering::Relaxed);
    }
}

impl Outlet {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives none.
    pub(super) fn start(sink: impl Sink + 'static) -> io::Result<Self> {
        Self::with_room(sink, QUEUE)
    }

    fn with_room(mut sink: impl Sink + 'static, room: usize) -> io::Result<Self> {
        let (queue, orders) = sync_channel(room);
        let shared = Arc::new(Shared::default());
        let outlet = Self { queue, shared: Arc::clone(&shared) };
        thread::Builder::new().name("log".to_owned()).spawn(move || run(&mut sink, &orders, &shared))?;
        Ok(outlet)
    }

    /// Takes a line, if there is room.
    pub(super) fn put(&self, line: Line) {
        match self.queue.try_send(Order::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.shared.lose(),
        }
    }

    /// Has opened anew what is written to, before the next line.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
    }

    /// Lines that were lost.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost_in_all.load(Ordering::Relaxed)
    }

    /// Waits until all that was taken is written, for so long at most.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, all) = sync_channel(1);
        if self.queue.try_send(Order::Flush(done)).is_ok() {
            let _ = all.recv_timeout(limit);
        }
    }
}

fn run(sink: &mut impl Sink, orders: &Receiver<Order>, shared: &Shared) {
    while let Ok(order) = orders.recv() {
        let line = match order {
            Order::Line(line) => line,
            Order::Flush(done) => {
                let _ = done.try_send(());
                continue;
            }
        };
        if shared.reopen.swap(false, Ordering::AcqRel) {
            // Where that fails, what was open is written to.
            let _ = sink.reopen();
        }
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let own = sink.own(&format!("{lost} lines of the log were lost"));
            if sink.write(&own).is_err() {
                shared.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        if sink.write(&line).is_err() {
            shared.lose();
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[derive(Default)]
    struct Disk {
        written: Mutex<Vec<String>>,
        /// What a write of a real one does.
        fails: AtomicBool,
    }

    /// It writes while its gate is open.
    struct Gated {
        disk: Arc<Disk>,
        gate: Arc<Mutex<()>>,
        began: SyncSender<()>,
    }

    impl Sink for Gated {
        fn write(&mut self, line: &Line) -> io::Result<()> {
            let _ = self.began.try_send(());
            let _open = self.gate.lock();
            if self.disk.fails.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.disk.written.lock().push(String::from_utf8_lossy(&line.bytes).into_owned());
            Ok(())
        }

        fn reopen(&mut self) -> io::Result<()> {
            self.disk.written.lock().push("(reopened)".to_owned());
            Ok(())
        }

        fn own(&self, text: &str) -> Line {
            line(text)
        }
    }

    fn line(text: &str) -> Line {
        Line { level: Level::INFO, bytes: text.into() }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn nobody_waits_for_a_disk_that_hangs_and_what_is_lost_is_told() {
        let (disk, gate) = (Arc::new(Disk::default()), Arc::new(Mutex::new(())));
        let (began, writes) = sync_channel(1);
        let sink = Gated { disk: Arc::clone(&disk), gate: Arc::clone(&gate), began };
        let outlet = Outlet::with_room(sink, 2).unwrap();
        let hangs = gate.lock();
        outlet.put(line("a"));
        writes.recv_timeout(LONG).unwrap();
        // The thread hangs with the first one; two wait.
        for text in ["b", "c", "d", "e"] {
            outlet.put(line(text));
        }
        assert_eq!(outlet.lost(), 2);
        drop(hangs);
        while disk.written.lock().len() < 4 {
            thread::yield_now();
        }
        outlet.flush(LONG);
        assert_eq!(*disk.written.lock(), ["a", "2 lines of the log were lost", "b", "c"]);
    }

    #[test]
    fn a_full_disk_loses_lines_until_there_is_room_and_reopening_comes_before_the_next_line() {
        let (disk, gate) = (Arc::new(Disk::default()), Arc::new(Mutex::new(())));
        let (began, _writes) = sync_channel(1);
        let outlet = Outlet::start(Gated { disk: Arc::clone(&disk), gate, began }).unwrap();
        disk.fails.store(true, Ordering::Relaxed);
        outlet.put(line("a"));
        outlet.put(line("b"));
        outlet.flush(LONG);
        disk.fails.store(false, Ordering::Relaxed);
        outlet.reopen();
        outlet.put(line("c"));
        outlet.flush(LONG);
        assert_eq!(*disk.written.lock(), ["(reopened)", "2 lines of the log were lost", "c"]);
        assert_eq!(outlet.lost(), 2);
    }
}
