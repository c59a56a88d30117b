//! The log: `tracing` events, as text or as JSON, one event per line, to standard error, to a file, to a syslog daemon or
//! to the journal. How much is logged, in what form, and where to can be changed while the process runs.
//!
//! Standard error is written to as it is, by whoever logs. The others have a queue and a thread (`outlet`), so that no
//! disk or daemon that hangs holds anybody up: what there is no room for is lost, counted, and told when there is.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Layered;
use tracing_subscriber::prelude::*;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use self::journal::JournalLayer;
use self::outlet::{Line, Outlet};
use self::sinks::{FileSink, JournalSink, SyslogSink};
use crate::config::{Log, LogFormat, LogLevel, LogTarget};

mod journal;
mod outlet;
mod sinks;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a reload waits until what is written to is open again.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// What the output is put on.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

type Output = Box<dyn Layer<Filtered> + Send + Sync>;

/// The log that was installed, and how it is at this moment.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Mutex<LogLevel>,
    output: reload::Handle<Output, Filtered>,
    current: Mutex<Current>,
}

struct Current {
    log: Log,
    outlet: Option<Outlet>,
    /// By outlets that are gone.
    lost: u64,
    /// Likewise.
    reopen_failures: u64,
}

/// A log that cannot be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// What it is written to cannot be opened.
    #[error("log: {0}")]
    Output(String),
    /// There is one already.
    #[error(transparent)]
    Installed(#[from] TryInitError),
}

/// Installs the log for the whole process.
///
/// # Errors
/// [`LogError`].
pub fn install(log: &Log) -> Result<(), LogError> {
    let (layer, outlet) = output(log).map_err(LogError::Output)?;
    let (filter, filter_handle) = reload::Layer::new(log.level.filter());
    let (layer, output_handle) = reload::Layer::new(layer);
    tracing_subscriber::registry().with(filter).with(layer).try_init()?;
    // It was the first: a second one is refused above.
    let _ = INSTALLED.set(Installed {
        filter: filter_handle,
        level: Mutex::new(log.level.clone()),
        output: output_handle,
        current: Mutex::new(Current { log: log.clone(), outlet, lost: 0, reopen_failures: 0 }),
    });
    Ok(())
}

/// How much is logged now; `None`: [`install`] was not called.
#[must_use]
pub fn level() -> Option<LogLevel> {
    INSTALLED.get().map(|installed| installed.level.lock().clone())
}

/// Changes how much is logged. `false`: [`install`] was not called.
pub fn set_level(level: &LogLevel) -> bool {
    let Some(installed) = INSTALLED.get() else { return false };
    let mut current = installed.level.lock();
    let changed = installed.filter.reload(level.filter()).is_ok();
    if changed {
        *current = level.clone();
    }
    changed
}

/// How many lines were lost since the start: what they go to took none, or not so many.
#[must_use]
pub fn lost() -> u64 {
    INSTALLED.get().map_or(0, |installed| {
        let current = installed.current.lock();
        current.lost + current.outlet.as_ref().map_or(0, Outlet::lost)
    })
}

/// How often the file could not be opened again since the start.
#[must_use]
pub fn reopen_failures() -> u64 {
    INSTALLED.get().map_or(0, |installed| {
        let current = installed.current.lock();
        current.reopen_failures + current.outlet.as_ref().map_or(0, Outlet::reopen_failures)
    })
}

/// Has the file opened again, for whoever has moved it; of a daemon, the connection. Waits for that, for a second at
/// most.
///
/// # Errors
/// It cannot be opened, and what was open is written to: that is told on standard error already. Or what it is written to
/// hangs, and it is opened when that is over.
pub fn reopen() -> io::Result<()> {
    outlet().map_or(Ok(()), |outlet| outlet.reopen(REOPEN_TIMEOUT))
}

/// Waits until the last lines are written, for a second at most: the process is about to end.
pub fn flush() {
    if let Some(outlet) = outlet() {
        outlet.flush(FLUSH_TIMEOUT);
    }
}

fn outlet() -> Option<Outlet> {
    INSTALLED.get().and_then(|installed| installed.current.lock().outlet.clone())
}

/// An output that is open, for [`take_over`]; none if the one there is will do.
pub(crate) struct Prepared(Option<(Output, Option<Outlet>)>);

/// Opens what `log` says, if it is something else than what there is.
///
/// # Errors
/// Why it cannot be opened; nothing has changed.
pub(crate) fn prepare(log: &Log) -> Result<Prepared, String> {
    let Some(installed) = INSTALLED.get() else { return Ok(Prepared(None)) };
    let same = installed.current.lock().log.is_as(log);
    if same { Ok(Prepared(None)) } else { output(log).map(|output| Prepared(Some(output))) }
}

/// Logs as `log` says from now on. A level that was changed since the start stays, unless it is another one than in
/// `before`.
pub(crate) fn take_over(prepared: Prepared, before: &Log, log: &Log) {
    if log.level != before.level {
        set_level(&log.level);
    }
    let (Some(installed), Some((layer, outlet))) = (INSTALLED.get(), prepared.0) else { return };
    if installed.output.reload(layer).is_err() {
        return;
    }
    let mut current = installed.current.lock();
    let gone = std::mem::replace(&mut current.outlet, outlet);
    current.lost += gone.as_ref().map_or(0, Outlet::lost);
    current.reopen_failures += gone.as_ref().map_or(0, Outlet::reopen_failures);
    current.log = log.clone();
}

/// Opens what `log` says.
fn output(log: &Log) -> Result<(Output, Option<Outlet>), String> {
    let started =
        |outlet: io::Result<Outlet>| outlet.map_err(|error| format!("no thread to write with: {error}"));
    match &log.to {
        LogTarget::Stderr => Ok((lines(log.format, Writer::Stderr), None)),
        LogTarget::File(path) => {
            let sink = FileSink::open(path, log.format);
            let sink = sink.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
            let outlet = started(Outlet::start(sink))?;
            Ok((lines(log.format, Writer::Queue(outlet.clone())), Some(outlet)))
        }
        LogTarget::Syslog(settings) => {
            let sink = SyslogSink::new(settings.clone(), log.facility, log.tag.clone());
            let outlet = started(Outlet::start(sink))?;
            Ok((messages(log.format, Writer::Queue(outlet.clone())), Some(outlet)))
        }
        LogTarget::Journald(path) => {
            let outlet = started(Outlet::start(JournalSink::new(Path::new(path))))?;
            Ok((Box::new(JournalLayer(outlet.clone())), Some(outlet)))
        }
    }
}

/// Each event a line, with its time and level.
fn lines(format: LogFormat, writer: Writer) -> Output {
    let colours = matches!(writer, Writer::Stderr) && io::stderr().is_terminal();
    match format {
        LogFormat::Text => Box::new(fmt::layer().with_target(false).with_ansi(colours).with_writer(writer)),
        LogFormat::Json => Box::new(fmt::layer().json().flatten_event(true).with_writer(writer)),
    }
}

/// Each event without its time and level, which whoever gets it is told otherwise.
fn messages(format: LogFormat, writer: Writer) -> Output {
    let layer = fmt::layer().without_time().with_level(false).with_ansi(false);
    match format {
        LogFormat::Text => Box::new(layer.with_target(false).with_writer(writer)),
        LogFormat::Json => Box::new(layer.json().flatten_event(true).with_writer(writer)),
    }
}

/// Where formatted events go.
enum Writer {
    Stderr,
    Queue(Outlet),
}

/// One event's way there.
enum EventWriter<'a> {
    Stderr(io::Stderr),
    Queue(&'a Outlet, Level),
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = EventWriter<'a>;

    fn make_writer(&'a self) -> EventWriter<'a> {
        match self {
            Self::Stderr => EventWriter::Stderr(io::stderr()),
            Self::Queue(outlet) => EventWriter::Queue(outlet, Level::INFO),
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> EventWriter<'a> {
        match self {
            Self::Stderr => EventWriter::Stderr(io::stderr()),
            Self::Queue(outlet) => EventWriter::Queue(outlet, *meta.level()),
        }
    }
}

/// An event is written at once.
impl io::Write for EventWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stderr(stderr) => stderr.write(bytes),
            Self::Queue(outlet, level) => {
                outlet.put(Line { level: *level, bytes: bytes.to_vec() });
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stderr(stderr) => stderr.flush(),
            Self::Queue(..) => Ok(()),
        }
    }
}
