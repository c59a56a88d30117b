//! The log: `tracing` events to standard error, as text or as JSON, one event per line. How much of them can be changed
//! while the process runs.

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::prelude::*;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// The log that was installed, and its level of this moment.
static INSTALLED: OnceLock<(reload::Handle<EnvFilter, Registry>, Mutex<LogLevel>)> = OnceLock::new();

/// Installs the log for the whole process.
///
/// # Errors
/// If one is installed already.
pub fn install(log: &Log) -> Result<(), TryInitError> {
    let (filter, handle) = reload::Layer::new(log.level.filter());
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal();
            let layer = fmt::layer().with_target(false).with_ansi(colours).with_writer(io::stderr);
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(layer).try_init()
        }
    }?;
    // It was the first: a second one is refused above.
    let _ = INSTALLED.set((handle, Mutex::new(log.level.clone())));
    Ok(())
}

/// How much is logged now; `None`: [`install`] was not called.
#[must_use]
pub fn level() -> Option<LogLevel> {
    INSTALLED.get().map(|(_, level)| level.lock().clone())
}

/// Changes how much is logged. `false`: [`install`] was not called.
pub fn set_level(level: &LogLevel) -> bool {
    let Some((handle, current)) = INSTALLED.get() else { return false };
    let mut current = current.lock();
    let changed = handle.reload(level.filter()).is_ok();
    if changed {
        *current = level.clone();
    }
    changed
}

/// stub
pub(crate) fn reopen() {}
/// stub
pub(crate) fn prepare(_: &Log) -> Result<(), String> {
    Ok(())
}
/// stub
pub(crate) fn take_over((): (), _: &Log, _: &Log) {}
