//! The relay's program, to be started again: which file that is, and whose child the process becomes.
//!
//! # Which file
//! The path by which this process was started: its `argv[0]`, along PATH if it is a mere name. A symlink in it is
//! followed when the program is started, not before: where a new version is put in place by switching one, it is the new
//! version that starts. Where `argv[0]` is not the program's path (a name that somebody has made up), it is the file that
//! this process runs, by its name.
//!
//! # Whose child
//! Nobody's who goes away: the new process outlives this one, and a service manager wants to hear of its end. So this
//! program starts itself once more as [`apart`], which starts the new process and ends. The new process gets another
//! parent then: the nearest one that takes orphans (PR_SET_CHILD_SUBREAPER(2const)), and that is the service manager, or
//! process 1.
//!
//! What this process would know of a child it learns from a pair of sockets. The other end is the standard input of the
//! new process, which reads nothing: `apart` tells its number there, and when that end is closed it has ended.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream as Pair;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// What a service manager has said to this process, and to no other.
const OURS: &[&str] = &["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How long it may take until the new process has a number. Its program is not asked for anything yet.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(10);

/// This process' own program, also when another file is there under its name by now.
const OWN: &str = "/proc/self/exe";

/// What the kernel adds to the name of a file that is gone.
const DELETED: &[u8] = b" (deleted)";

/// How this process was started.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// To be asked at the start: later another file may be there under the same name, and that is the one to be started.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut args = env::args_os();
        let started_as = args.next().unwrap_or_default();
        let current = without_deleted(env::current_exe()?);
        let search = env::var_os("PATH").unwrap_or_default();
        let dir = env::current_dir().unwrap_or_default();
        let path = named(Path::new(&started_as), &dir, &search, &current);
        Ok(Self { path: path.unwrap_or(current), args: args.collect() })
    }

    /// The file that is started.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it, to take over from this process.
    pub(super) async fn start_again(&self) -> io::Result<Orphan> {
        let (ours, theirs) = Pair::pair()?;
        ours.set_nonblocking(true)?;
        let mut alive = UnixStream::from_std(ours)?;
        let mut command = tokio::process::Command::new(OWN);
        command.arg0("msrp-relay").arg("apart").arg("--").arg(&self.path).args(&self.args);
        if !self.args.iter().any(|arg| arg == "--upgrade") {
            command.arg("--upgrade");
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).kill_on_drop(true);
        let mut child = command.spawn()?;
        // It holds the other end, too.
        drop(command);
        let told = async {
            let mut text = [0; 512];
            let len = alive.read(&mut text).await?;
            // From its end on the new process is the service manager's child, which is told of it after that.
            child.wait().await?;
            Ok(String::from_utf8_lossy(&text[..len]).into_owned())
        };
        let told: io::Result<String> =
            timeout(SPAWN_TIMEOUT, told).await.unwrap_or_else(|late| Err(late.into()));
        match told?.split_once(' ') {
            Some(("pid", number)) => {
                let pid = number.parse().ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
                Ok(Orphan { pid, alive })
            }
            Some(("error", text)) => Err(io::Error::other(text.to_owned())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A process that is not this one's child.
#[derive(Debug)]
pub(super) struct Orphan {
    pid: Pid,
    /// Ends with it.
    alive: UnixStream,
}

impl Orphan {
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) {
        let mut text = [0; 64];
        // It says nothing.
        while self.alive.read(&mut text).await.is_ok_and(|len| len > 0) {}
    }

    /// Takes it away, and waits until it is gone.
    pub(super) async fn kill(mut self) {
        // As long as it is there the number is its own.
        let _ = kill_process(self.pid, Signal::KILL);
        self.ended().await;
    }
}

/// The options of `msrp-relay apart`, which no user needs.
#[derive(Debug, Args)]
pub(in crate::cli) struct ApartArgs {
    program: PathBuf,
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    args: Vec<OsString>,
}

/// Starts a program, tells whoever has the other end of standard input which process that is, and ends.
pub(in crate::cli) fn apart(args: &ApartArgs) -> anyhow::Result<ExitCode> {
    let report = io::stdin().as_fd().try_clone_to_owned()?;
    let mut report = Pair::from(report);
    // Its end is told by standard input, so that stays as it is.
    let mut command = Command::new(&args.program);
    command.args(&args.args);
    for name in OURS {
        command.env_remove(name);
    }
    let (text, code) = match command.spawn() {
        Ok(child) => (format!("pid {}", child.id()), ExitCode::SUCCESS),
        Err(error) => (format!("error {error}"), ExitCode::FAILURE),
    };
    // At once, so that it is read at once.
    report.write_all(text.as_bytes())?;
    Ok(code)
}

/// The path that `argv[0]` names, with its symlinks, if that leads to the file that runs.
fn named(started_as: &Path, dir: &Path, search: &OsStr, current: &Path) -> Option<PathBuf> {
    // A name with a slash is a path, from where the process was started on; any other one is looked for.
    let paths: Vec<PathBuf> = if started_as.as_os_str().as_bytes().contains(&b'/') {
        vec![dir.join(started_as)]
    } else {
        env::split_paths(search).map(|folder| dir.join(folder).join(started_as)).collect()
    };
    paths.into_iter().find(|path| path.canonicalize().is_ok_and(|found| found == current))
}

fn without_deleted(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(name) => PathBuf::from(OsStr::from_bytes(name)),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_path_by_which_it_was_started_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (first, second) = (dir.join("1"), dir.join("2"));
        for version in [&first, &second] {
            std::fs::create_dir(version).unwrap();
            std::fs::write(version.join("relay"), "").unwrap();
        }
        symlink(&first, dir.join("current")).unwrap();
        let current = first.join("relay");
        let search = env::join_paths([dir.join("none"), second.clone(), dir.join("current")]).unwrap();
        let named = |started_as: &str| named(Path::new(started_as), &dir, &search, &current);
        let by_symlink = Some(dir.join("current/relay"));
        assert_eq!(named(by_symlink.as_ref().unwrap().to_str().unwrap()), by_symlink);
        assert_eq!(named("current/relay"), by_symlink);
        // The first one of that name is another file.
        assert_eq!(named("relay"), by_symlink);
        for made_up in ["", "-relay", "2/relay", "none/relay"] {
            assert_eq!(named(made_up), None, "{made_up}");
        }
        let deleted = PathBuf::from("/usr/bin/msrp-relay (deleted)");
        assert_eq!(without_deleted(deleted), Path::new("/usr/bin/msrp-relay"));
        assert_eq!(without_deleted(current.clone()), current);
    }
}
