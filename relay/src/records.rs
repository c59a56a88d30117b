//! Session records: one for each session, written when it ends, by which operators bill and audit. Who, when, how long,
//! with whom, how much; never what was said. `docs/records.md` describes every field.
//!
//! # The way of a record
//!
//! ```text
//! traffic's threads            one thread for each sink
//!   Recorder ──▶ Queue ──▶ writer ──▶ file | syslog | database
//!            ╲─▶ Queue ──▶ writer ──▶ …
//! ```
//!
//! Whoever ends a session makes the record, puts it into the queue of each sink and goes on: that is all that
//! traffic's threads do, and they wait for nothing. Turning it into text, and writing it, is a thread of the sink's own;
//! so a disk that hangs holds up neither traffic nor the other sinks.
//!
//! # When it cannot be written
//!
//! Unlike events (`server::SessionEvents`), records are not lost silently, and not because of a sink that is away for a
//! while:
//!
//! * A record leaves the queue when its sink has it: what failed is tried again, at first after [`FIRST_PAUSE`], then
//!   after twice as long each time, [`MAX_PAUSE`] at most. The log has a line when a sink is away, and one when it is back.
//! * The queue has a limit, `records.queue`. At it, the newest records are lost: each is counted, and the log has a line
//!   when that begins, and one with their number when half of the queue is free again.
//! * A record that its sink will never take (a value that the table's column refuses) would hold up all behind it. It is
//!   written to the log, whole, and counted as refused.
//! * At shutdown, sessions that end with the relay are taken above the limit: there are no more of them than there were
//!   sessions. `records.flush_timeout` is what the sinks have to take what waits, without pauses longer than
//!   [`STOP_PAUSE`]. What is left then is lost, and its number is in the log.
//!
//! What was written is not always known: a connection may break between a COMMIT and its answer. In doubt a record is
//! written again. All records of a session have the same `id`, and the last one counts: in a table that is one row, in a
//! file a line more.
//!
//! # When the relay is killed
//!
//! `kill -9`, or a machine without power, takes with it the records that wait (with sinks that are well: a few
//! milliseconds' worth; with `fsync: false` and no power also what the system had not put on the disk), and those of
//! sessions that were there. `records.interim` is against that: with `5m`, a session that lasts is written every five
//! minutes, with reason `interim` and the figures so far, so that so much is lost at most. Such a record is replaced by the
//! next one of the session, so it is not worth losing another for: it is left out while the queue is more than half full.

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tracing::{error, info};

use crate::config::{RecordSink, RecordTarget, Records as Settings};

mod database;
mod file;
mod outbox;
mod queue;
mod record;
mod recorder;
mod syslog;
mod writer;

pub use self::queue::RecordCounts;
pub use self::record::SessionRecord;
pub use self::recorder::{Facts, Recorder};

use self::database::DatabaseSink;
use self::file::FileSink;
use self::outbox::Outbox;
use self::syslog::SyslogSink;

/// The first pause after a failure.
pub const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause between attempts.
pub const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The longest pause between attempts while the relay stops.
pub const STOP_PAUSE: Duration = Duration::from_millis(100);

/// How long [`Records::reopen`] waits.
pub const REOPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Records that cannot be written as they are configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// A file cannot be opened.
    #[error("records: cannot open {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("records: no thread to write with: {0}")]
    Thread(io::Error),
}

/// A file of session records that was not opened again, or of which that is not known yet. Records wait until it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsNotReopened {
    /// The name of the sink.
    pub sink: String,
    /// Why.
    pub error: String,
}

/// For people: `billing: /var/log/msrp/sessions.jsonl: No such file or directory`.
impl fmt::Display for RecordsNotReopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sink, self.error)
    }
}

/// How one sink is doing.
#[derive(Debug, Clone)]
pub struct SinkStats {
    /// Its name.
    pub name: String,
    /// What it is: `file`, `syslog` or `database`.
    pub kind: &'static str,
    /// Whether it took what it was last given.
    pub available: bool,
    /// What it was given since the start, and what waits.
    pub counts: RecordCounts,
}

/// All sinks, each with its thread. When dropped, the threads end once they have written what waits.
#[derive(Debug)]
pub struct Records {
    sinks: Mutex<Vec<Arc<Running>>>,
    /// Those that are gone from the configuration and have something left to do.
    retiring: Mutex<Vec<Arc<Running>>>,
    flush_timeout: Mutex<Duration>,
    interim: watch::Sender<Option<Duration>>,
    recorder: OnceLock<Recorder>,
}

#[derive(Debug)]
struct Running {
    sink: RecordSink,
    kind: &'static str,
    outbox: Arc<Outbox>,
    /// Ready when the thread has nothing left to do.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Running {
    fn name(&self) -> &str {
        &self.sink.name
    }
}

/// Sinks that are open, for [`Records::take_over`]. When it is dropped instead, the new ones of them end.
#[derive(Debug)]
pub struct PreparedRecords(Vec<Arc<Running>>);

impl Records {
    /// Opens files, and starts the threads. Daemons and databases may be away.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn start(settings: &Settings) -> Result<Self, RecordsError> {
        let sinks = settings.sinks.iter().map(|sink| open(sink, settings.queue)).collect::<Result<_, _>>()?;
        Ok(Self {
            sinks: Mutex::new(sinks),
            retiring: Mutex::default(),
            flush_timeout: Mutex::new(settings.flush_timeout),
            interim: watch::Sender::new(settings.interim),
            recorder: OnceLock::new(),
        })
    }

    /// Opens what is not there yet of these. A sink that is there and is the same goes on as it is; one of which
    /// anything is different is another one.
    ///
    /// # Errors
    /// [`RecordsError`]; nothing has changed.
    pub fn prepare(&self, settings: &Settings) -> Result<PreparedRecords, RecordsError> {
        let mut prepared = PreparedRecords(Vec::new());
        for sink in &settings.sinks {
            let known = self.sinks.lock().iter().find(|known| known.sink == *sink).cloned();
            prepared.0.push(match known {
                Some(known) => known,
                None => open(sink, settings.queue)?,
            });
        }
        Ok(prepared)
    }

    /// Writes to these from the next record on. Of those that are not among them, what waits is taken by the one of the
    /// same name, if there is one; else they take it themselves, and end.
    pub fn take_over(&self, mut prepared: PreparedRecords, settings: &Settings) {
        *self.flush_timeout.lock() = settings.flush_timeout;
        self.interim.send_replace(settings.interim);
        let sinks = std::mem::take(&mut prepared.0);
        for sink in &sinks {
            sink.outbox.set_limit(settings.queue);
        }
        if let Some(recorder) = self.recorder.get() {
            recorder.set_outboxes(outboxes(&sinks));
        }
        let former = std::mem::replace(&mut *self.sinks.lock(), sinks.clone());
        let mut retiring = self.retiring.lock();
        retiring.extend(former.into_iter().filter(|one| !sinks.iter().any(|kept| Arc::ptr_eq(kept, one))));
        retiring.retain(|gone| {
            match sinks.iter().find(|sink| sink.name() == gone.name()) {
                Some(heir) => gone.outbox.hand_over_to(&heir.outbox),
                None => gone.outbox.close(),
            }
            !gone.outbox.is_over()
        });
    }

    /// Those that are configured, and those that are gone and have something left to do.
    fn all(&self) -> Vec<Arc<Running>> {
        let mut all = self.sinks.lock().clone();
        all.extend(self.retiring.lock().iter().filter(|gone| !gone.outbox.is_over()).cloned());
        all
    }

    /// What makes records; to be asked for once.
    pub fn recorder(&self, facts: Facts) -> Recorder {
        self.recorder.get_or_init(|| Recorder::new(facts, outboxes(&self.sinks.lock()))).clone()
    }

    /// How often sessions that last are to be written; `None`: never.
    pub fn interim(&self) -> watch::Receiver<Option<Duration>> {
        self.interim.subscribe()
    }

    /// Has the files opened again, for whoever has moved them; and those tried at once that are away. Waits for the files,
    /// for [`REOPEN_TIMEOUT`] at most: those that were not opened, or of which that is not known yet. Daemons and
    /// databases may be away, and may take longer to say so, which the log has then.
    pub fn reopen(&self) -> Vec<RecordsNotReopened> {
        self.reopen_within(REOPEN_TIMEOUT)
    }

    fn reopen_within(&self, limit: Duration) -> Vec<RecordsNotReopened> {
        let until = Instant::now() + limit;
        let mut asked: Vec<_> = self.all().into_iter().map(|sink| (sink.outbox.reopen(), sink)).collect();
        asked.retain(|(_, sink)| matches!(sink.sink.target, RecordTarget::File(_)));
        let failed = asked.into_iter().filter_map(|(answer, sink)| {
            let error = match answer.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(opened) => opened.err()?,
                Err(RecvTimeoutError::Timeout) => "what it is written to hangs".to_owned(),
                // It has nothing left to write.
                Err(RecvTimeoutError::Disconnected) => return None,
            };
            Some(RecordsNotReopened { sink: sink.name().to_owned(), error })
        });
        failed.collect()
    }

    /// How the sinks are doing; those that are gone, too, until they have taken what waits for them. Each name once.
    pub fn stats(&self) -> Vec<SinkStats> {
        let mut stats: Vec<SinkStats> = Vec::new();
        for sink in self.all() {
            let (counts, available) = (sink.outbox.counts(), sink.outbox.is_available());
            match stats.iter_mut().find(|known| known.name == sink.name()) {
                Some(known) => {
                    known.available &= available;
                    known.counts += counts;
                }
                None => {
                    stats.push(SinkStats {
                        name: sink.name().to_owned(),
                        kind: sink.kind,
                        available,
                        counts,
                    });
                }
            }
        }
        stats
    }

    /// The relay stops: from here on the limit does not count.
    pub fn set_stopping(&self) {
        for sink in &*self.sinks.lock() {
            sink.outbox.set_stopping();
        }
    }

    /// Waits until all is written, for `records.flush_timeout` at most, or until `hurry` is ready.
    pub async fn stop(&self, hurry: impl Future<Output = ()>) {
        let sinks = self.all();
        for sink in &sinks {
            sink.outbox.hurry();
        }
        let flush_timeout = *self.flush_timeout.lock();
        let ended: Vec<_> = sinks.iter().filter_map(|sink| sink.ended.lock().take()).collect();
        let all = async {
            for ended in ended {
                // An error is a thread that has ended, too.
                let _ = ended.await;
            }
        };
        tokio::select! {
            biased;
            () = all => {}
            () = tokio::time::sleep(flush_timeout) => {}
            () = hurry => {}
        }
        for sink in &sinks {
            let left = sink.outbox.give_up();
            if left > 0 {
                error!(
                    sink = sink.name(),
                    records = left,
                    "session records lost: not written before the end"
                );
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.outbox.hurry();
    }
}

fn outboxes(sinks: &[Arc<Running>]) -> Vec<Arc<Outbox>> {
    sinks.iter().map(|sink| Arc::clone(&sink.outbox)).collect()
}

/// Opens a sink, of which `queue` records may wait, and starts its thread.
fn open(sink: &RecordSink, queue: usize) -> Result<Arc<Running>, RecordsError> {
    let outbox = Arc::new(Outbox::new(&sink.name, queue));
    let (end, ended) = oneshot::channel();
    let kind = match &sink.target {
        RecordTarget::File(file) => {
            let opened = FileSink::open(file);
            let opened = opened.map_err(|source| RecordsError::File { path: file.path.clone(), source })?;
            spawn(opened, &outbox, end)?;
            "file"
        }
        RecordTarget::Syslog(syslog) => {
            spawn(SyslogSink::new(syslog.clone()), &outbox, end)?;
            "syslog"
        }
        RecordTarget::Database(database) => {
            spawn(DatabaseSink::new((**database).clone()), &outbox, end)?;
            "database"
        }
    };
    info!(sink = sink.name, kind, "session records");
    Ok(Arc::new(Running { sink: sink.clone(), kind, outbox, ended: Mutex::new(Some(ended)) }))
}

/// Writes to `sink` on a thread of its own: it may wait there, for disks and networks.
fn spawn<S: writer::Sink + Send + 'static>(
    sink: S,
    outbox: &Arc<Outbox>,
    end: oneshot::Sender<()>,
) -> Result<(), RecordsError> {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(RecordsError::Thread)?;
    let outbox = Arc::clone(outbox);
    let thread = thread::Builder::new().name("records".to_owned());
    let run = move || {
        let delivery = outbox.delivery();
        runtime.block_on(writer::run(&outbox, sink));
        drop(delivery);
        // Whoever asked may be gone.
        let _ = end.send(());
    };
    thread.spawn(run).map(drop).map_err(RecordsError::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RecordFile;

    #[test]
    fn files_that_cannot_be_opened_again_and_those_that_hang_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (logs, moved) = (folder.path().join("logs"), folder.path().join("moved"));
        std::fs::create_dir(&logs).unwrap();
        let file = RecordFile { path: logs.join("a.jsonl"), fsync: false };
        let sink =
            |name: &str| RecordSink { name: name.to_owned(), target: RecordTarget::File(file.clone()) };
        let (sinks, long) = (vec![sink("a")], Duration::from_secs(60));
        let settings = Settings { sinks, queue: 1, flush_timeout: long, interim: None };
        let records = Records::start(&settings).unwrap();
        assert_eq!(records.reopen_within(long), []);
        std::fs::rename(&logs, &moved).unwrap();
        for _ in 0..2 {
            let told = records.reopen_within(long);
            assert_eq!(told.len(), 1, "each time");
            let (told, path) = (told[0].to_string(), file.path.display());
            assert!(told.starts_with(&format!("a: {path}: No such file")), "{told}");
        }
        std::fs::create_dir(&logs).unwrap();
        assert_eq!(records.reopen_within(long), []);
        // Nobody gets to it.
        let outbox = Arc::new(Outbox::new("b", 1));
        let hangs = Running { sink: sink("b"), kind: "file", outbox, ended: Mutex::default() };
        // Alone: another one's thread may not get to it either in so short a time.
        let healthy = std::mem::replace(&mut *records.sinks.lock(), vec![Arc::new(hangs)]);
        let told = records.reopen_within(Duration::from_millis(1));
        assert_eq!(
            told,
            [RecordsNotReopened { sink: "b".into(), error: "what it is written to hangs".into() }]
        );
        // Nor does it hold up anybody when its thread has ended.
        drop(records.sinks.lock()[0].outbox.delivery());
        records.sinks.lock().extend(healthy);
        assert_eq!(records.reopen_within(long), []);
    }
}
