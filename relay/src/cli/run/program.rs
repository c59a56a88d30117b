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
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::timeout;

/// What a service manager has said to this process, and to no other.
const OURS: &[&str] = &["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How long it may take until the new process has a number, and then until it is the service manager's child. Its program
/// is not asked for anything yet.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process that is killed has to be gone.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(2);

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

    /// Starts it, to take over from this process. Nothing is waited for.
    pub(super) fn start_again(&self) -> io::Result<Starting> {
        let (ours, theirs) = Pair::pair()?;
        ours.set_nonblocking(true)?;
        let alive = UnixStream::from_std(ours)?;
        let mut command = tokio::process::Command::new(OWN);
        command.arg0("msrp-relay").arg("apart").arg("--").arg(&self.path).args(&self.args);
        if !self.args.iter().any(|arg| arg == "--upgrade") {
            command.arg("--upgrade");
        }
        // It is not killed if nobody waits for it any more: it takes the new process away itself then.
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let apart = command.spawn()?;
        Ok(Starting { apart, alive })
    }
}

/// A process that has no number yet.
#[derive(Debug)]
pub(super) struct Starting {
    apart: Child,
    alive: UnixStream,
}

impl Starting {
    /// Waits until it has one, and is the service manager's child.
    ///
    /// # Errors
    /// Why it is not there. One that has a number is taken away then; one whose number was never told, because what
    /// started it was killed before, goes on by itself.
    pub(super) async fn started(self) -> io::Result<Orphan> {
        let Self { mut apart, alive } = self;
        started(alive, async { apart.wait().await.map(drop) }).await
    }
}

/// As [`Starting::started`]; `apart` is ready when `msrp-relay apart` has ended.
async fn started(mut alive: UnixStream, apart: impl Future<Output = io::Result<()>>) -> io::Result<Orphan> {
    let mut text = [0; 512];
    let len = timeout(SPAWN_TIMEOUT, alive.read(&mut text)).await??;
    let told = String::from_utf8_lossy(&text[..len]);
    let pid = match told.split_once(' ') {
        Some(("pid", number)) => number.parse().ok().and_then(Pid::from_raw),
        Some(("error", text)) => return Err(io::Error::other(text.to_owned())),
        _ => None,
    };
    let orphan = Orphan { pid: pid.ok_or(io::ErrorKind::InvalidData)?, alive };
    // From that on the new process is the service manager's child, which is told of it after that.
    match timeout(SPAWN_TIMEOUT, apart).await.unwrap_or_else(|late| Err(late.into())) {
        Ok(()) => Ok(orphan),
        Err(error) => {
            orphan.kill().await;
            Err(error)
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

    /// Takes it away, and waits until it is gone, for [`KILL_TIMEOUT`] at most.
    pub(super) async fn kill(mut self) {
        // It has ended: its number may be another's by now.
        if matches!(recv(&self.alive, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((0, _))) {
            return;
        }
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = timeout(KILL_TIMEOUT, self.ended()).await;
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
    let child = command.spawn();
    let text = match &child {
        Ok(child) => format!("pid {}", child.id()),
        Err(error) => format!("error {error}"),
    };
    // At once, so that it is read at once.
    let told = report.write_all(text.as_bytes());
    let started = child.is_ok();
    if let (Err(_), Ok(mut child)) = (&told, child) {
        // Nobody knows of it: who wanted it has given it up, or has ended.
        child.kill()?;
        child.wait()?;
    }
    told?;
    Ok(if started { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
pub(super) mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Child;

    use super::*;

    /// A process that goes on, and what this one has of it: its number is told, in these words.
    fn started_one(words: impl FnOnce(u32) -> String) -> (Child, UnixStream) {
        let (ours, theirs) = Pair::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut report = theirs.try_clone().unwrap();
        // It reads what nobody writes.
        let child = Command::new("cat").stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn().unwrap();
        report.write_all(words(child.id()).as_bytes()).unwrap();
        (child, UnixStream::from_std(ours).unwrap())
    }

    /// A process that goes on.
    pub(in super::super) fn orphan() -> (Child, Orphan) {
        let (child, alive) = started_one(pid);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
        (child, Orphan { pid, alive })
    }

    fn pid(number: u32) -> String {
        format!("pid {number}")
    }

    #[tokio::test]
    async fn a_process_that_has_a_number_is_taken_away_when_its_start_fails_after_that() {
        let (mut child, alive) = started_one(pid);
        let error = started(alive, async { Err(io::ErrorKind::Interrupted.into()) }).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_is_late_to_be_an_orphan_is_taken_away() {
        let (mut child, alive) = started_one(pid);
        let begin = tokio::time::Instant::now();
        let error = started(alive, std::future::pending()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= SPAWN_TIMEOUT);
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    }

    #[tokio::test]
    async fn what_is_told_of_the_start_is_believed_if_it_is_understood() {
        let (mut child, alive) = started_one(pid);
        let orphan = started(alive, async { Ok(()) }).await.unwrap();
        assert_eq!(orphan.pid(), i32::try_from(child.id()).unwrap());
        orphan.kill().await;
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
        for (words, kind) in [
            ("error No such file", io::ErrorKind::Other),
            ("pid 0", io::ErrorKind::InvalidData),
            ("pid x", io::ErrorKind::InvalidData),
            ("pid", io::ErrorKind::InvalidData),
        ] {
            let (mut child, alive) = started_one(|_| words.to_owned());
            let error = started(alive, async { Ok(()) }).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{words}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn the_number_of_a_process_that_has_ended_is_left_alone() {
        // As if another process had the number by now.
        let mut other = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let number = i32::try_from(other.id()).ok().and_then(Pid::from_raw).unwrap();
        let (ours, theirs) = Pair::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let orphan = Orphan { pid: number, alive: UnixStream::from_std(ours).unwrap() };
        drop(theirs);
        orphan.kill().await;
        drop(other.stdin.take());
        assert_eq!(other.wait().unwrap().code(), Some(0), "it has ended by itself");
    }

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
