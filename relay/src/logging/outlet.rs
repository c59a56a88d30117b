//! Lines on their way to a file, to syslog or to the journal: a queue of bounded size, and a thread that writes.
//!
//! Whoever logs waits for nothing: where there is no room in the queue, the line is lost and counted. The thread tells
//! how many were lost as soon as it can write again. A line that cannot be written (the disk is full, the daemon is
//! away) is lost too; what comes after it is tried anew.
//!
//! A file that cannot be opened again is written to as it is. That is counted, and told on standard error: whoever moved it
//! does not look there.

use std::io::{self, Write as _};
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

    /// Opens anew what it writes to. Where that fails, what was open is written to.
    fn reopen(&mut self) -> io::Result<()>;

    /// Why it could not open anew by itself what it writes to; said once.
    fn complaint(&mut self) -> Option<io::Error> {
        None
    }

    /// What it has to say itself, in the form that its lines have.
    fn own(&self, text: &str) -> Line;
}

enum Order {
    Line(Line),
    /// All that came before is written.
    Flush(SyncSender<()>),
    /// What is written to is opened anew.
    Reopen(SyncSender<io::Result<()>>),
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
    /// What is written to is to be opened anew, and nobody waits for it.
    reopen: AtomicBool,
    reopen_failures: AtomicU64,
}

impl Shared {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.lost_in_all.fetch_add(1, Ordering::Relaxed);
    }

    /// What came of opening it anew. A failure is counted and told; gives the words.
    fn reopened(&self, result: &io::Result<()>) -> Option<String> {
        let error = result.as_ref().err()?;
        self.reopen_failures.fetch_add(1, Ordering::Relaxed);
        let text = format!("the log cannot be opened again: {error}; what was open is written to");
        let _ = writeln!(io::stderr(), "{text}");
        Some(text)
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

    /// Has opened anew what is written to, after the lines that were taken already, and waits for that, for so long at
    /// most. Where the queue is full, it is done before the next line that is written.
    ///
    /// # Errors
    /// It could not be opened; or that is not known yet.
    pub(super) fn reopen(&self, limit: Duration) -> io::Result<()> {
        let (done, answer) = sync_channel(1);
        if self.queue.try_send(Order::Reopen(done)).is_err() {
            self.shared.reopen.store(true, Ordering::Release);
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "too many lines wait to be written"));
        }
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "what it is written to hangs");
        answer.recv_timeout(limit).map_err(late)?
    }

    /// How often what is written to could not be opened anew.
    pub(super) fn reopen_failures(&self) -> u64 {
        self.shared.reopen_failures.load(Ordering::Relaxed)
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
            Order::Reopen(done) => {
                let result = sink.reopen();
                // Whoever wanted it tells the log, and may not wait any more.
                shared.reopened(&result);
                let _ = done.try_send(result);
                continue;
            }
        };
        if shared.reopen.swap(false, Ordering::AcqRel) {
            let result = sink.reopen();
            tell(sink, shared.reopened(&result));
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
        if let Some(error) = sink.complaint() {
            tell(sink, shared.reopened(&Err(error)));
        }
    }
}

fn tell(sink: &mut impl Sink, text: Option<String>) {
    if let Some(text) = text {
        // That is said on standard error, too.
        let _ = sink.write(&sink.own(&text));
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
        /// It cannot be opened.
        gone: AtomicBool,
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
            if self.disk.gone.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.disk.written.lock().push("(reopened)".to_owned());
            Ok(())
        }

        fn own(&self, text: &str) -> Line {
            line(text)
        }
    }

    type Gate = Arc<Mutex<()>>;

    /// An outlet for so many lines, to a disk behind a gate, and who hears that a write begins.
    fn gated(room: usize) -> (Arc<Disk>, Gate, Receiver<()>, Outlet) {
        let (disk, gate) = (Arc::new(Disk::default()), Gate::default());
        let (began, writes) = sync_channel(1);
        let sink = Gated { disk: Arc::clone(&disk), gate: Arc::clone(&gate), began };
        (disk, gate, writes, Outlet::with_room(sink, room).unwrap())
    }

    fn line(text: &str) -> Line {
        Line { level: Level::INFO, bytes: text.into() }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn nobody_waits_for_a_disk_that_hangs_and_what_is_lost_is_told() {
        let (disk, gate, writes, outlet) = gated(2);
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
        let (disk, _gate, _writes, outlet) = gated(QUEUE);
        disk.fails.store(true, Ordering::Relaxed);
        outlet.put(line("a"));
        outlet.put(line("b"));
        outlet.flush(LONG);
        disk.fails.store(false, Ordering::Relaxed);
        outlet.reopen(LONG).unwrap();
        outlet.put(line("c"));
        outlet.flush(LONG);
        assert_eq!(*disk.written.lock(), ["(reopened)", "2 lines of the log were lost", "c"]);
        assert_eq!(outlet.lost(), 2);
    }

    #[test]
    fn what_cannot_be_opened_again_is_written_to_and_that_is_counted_and_told() {
        let (disk, gate, writes, outlet) = gated(1);
        assert_eq!(outlet.reopen_failures(), 0);
        disk.gone.store(true, Ordering::Relaxed);
        assert_eq!(outlet.reopen(LONG).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(outlet.reopen_failures(), 1);
        outlet.put(line("a"));
        while disk.written.lock().is_empty() {
            thread::yield_now();
        }
        assert_eq!(*disk.written.lock(), ["a"]);
        // Where it hangs and the queue is full, it is opened when it is over.
        while writes.try_recv().is_ok() {}
        let hangs = gate.lock();
        outlet.put(line("b"));
        writes.recv_timeout(LONG).unwrap();
        outlet.put(line("c"));
        assert_eq!(outlet.reopen(LONG).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(hangs);
        while disk.written.lock().len() < 4 {
            thread::yield_now();
        }
        let told = disk.written.lock().clone();
        assert_eq!((&*told[1], &*told[3]), ("b", "c"));
        assert!(told[2].starts_with("the log cannot be opened again: "), "{told:?}");
        assert_eq!(outlet.reopen_failures(), 2);
        disk.gone.store(false, Ordering::Relaxed);
        outlet.reopen(LONG).unwrap();
        assert_eq!(outlet.reopen_failures(), 2);
    }

    #[test]
    fn what_hangs_is_waited_for_no_longer_than_is_said_and_opened_when_that_is_over() {
        let (disk, gate, writes, outlet) = gated(2);
        let hangs = gate.lock();
        outlet.put(line("a"));
        writes.recv_timeout(LONG).unwrap();
        let late = outlet.reopen(Duration::from_millis(1)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        drop(hangs);
        outlet.put(line("b"));
        while disk.written.lock().len() < 3 {
            thread::yield_now();
        }
        assert_eq!(*disk.written.lock(), ["a", "(reopened)", "b"]);
        assert_eq!(outlet.reopen_failures(), 0);
    }
}
