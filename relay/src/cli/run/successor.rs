//! The process that is started to take over from this one.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::server::{Control, Reply, Server};

/// What a service manager has said to this process, and to no other.
const OURS: &[&str] = &["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// How this process was started.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// To be asked at the start: later another file may be there under the same name, and that is the one to be started.
    pub(super) fn of_this_process() -> io::Result<Self> {
        Ok(Self { path: env::current_exe()?, args: env::args_os().skip(1).collect() })
    }

    fn start_again(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).stdin(Stdio::null());
        if !self.args.iter().any(|arg| arg == "--upgrade") {
            command.arg("--upgrade");
        }
        for name in OURS {
            command.env_remove(name);
        }
        command.spawn()
    }
}

/// How long a process that is killed has to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The process that was started last, until it serves or has failed.
#[derive(Debug, Default)]
pub(super) struct Successor(Option<Started>);

#[derive(Debug)]
struct Started {
    reply: Option<Reply>,
    /// Why it does not take over.
    failed: JoinHandle<String>,
    /// Says that it does; dropped, that it is not wanted any more.
    serves: oneshot::Sender<()>,
}

impl Successor {
    /// Starts one; `reply` is told what comes of it.
    pub(super) fn start(&mut self, server: &Server, program: &Program, reply: Option<Reply>) {
        let refused = match (server.control().drain(), server.control().config().upgrade.as_ref(), &self.0) {
            (Some(_), ..) => Some("the relay stops already".to_owned()),
            (None, None, _) => Some("the configuration has no section `upgrade`".to_owned()),
            (None, Some(_), Some(_)) => Some("a process that takes over has been started already".to_owned()),
            (None, Some(upgrade), None) => match program.start_again() {
                Ok(child) => {
                    info!(pid = child.id(), path = %program.path.display(), "started the process that takes over");
                    let (serves, settled) = oneshot::channel();
                    let failed = tokio::spawn(look_after(
                        child,
                        upgrade.start_timeout,
                        Arc::clone(server.control()),
                        settled,
                    ));
                    self.0 = Some(Started { reply, failed, serves });
                    return;
                }
                Err(error) => Some(format!("{} cannot be started: {error}", program.path.display())),
            },
        };
        let Some(why) = refused else { return };
        error!("no upgrade: {why}");
        if let Some(reply) = reply {
            // Who has asked may have gone.
            let _ = reply.send(Err(why));
        }
    }

    /// Waits until it has failed; never completes without one.
    pub(super) async fn failed(&mut self) -> String {
        match &mut self.0 {
            Some(started) => (&mut started.failed).await.unwrap_or_else(|error| error.to_string()),
            None => std::future::pending().await,
        }
    }

    /// It has failed.
    pub(super) fn fails(&mut self, why: &str) {
        error!("no upgrade, everything goes on as before: {why}");
        if let Some(reply) = self.0.take().and_then(|started| started.reply) {
            let _ = reply.send(Err(format!("everything goes on as before: {why}")));
        }
    }

    /// A process has taken over, this one as a rule.
    pub(super) fn serves(&mut self, pid: u32) {
        let Some(Started { reply, serves, .. }) = self.0.take() else { return };
        let _ = serves.send(());
        if let Some(reply) = reply {
            let _ = reply.send(Ok(format!("process {pid} has taken over")));
        }
    }

    /// This process stops: one that does not serve yet ends with it, and who has asked for it hears of that.
    pub(super) async fn stops(&mut self) {
        let Some(Started { reply, serves, failed }) = self.0.take() else { return };
        if let Some(reply) = reply {
            let _ = reply.send(Err("the relay stops".to_owned()));
        }
        drop(serves);
        if let Ok(Ok(why)) = tokio::time::timeout(KILL_TIMEOUT, failed).await {
            info!("no upgrade: {why}");
        }
    }
}

/// Waits for the end of a process that must not end, and takes it away if it does not get ready.
async fn look_after(
    mut child: Child,
    start_timeout: Duration,
    control: Arc<Control>,
    mut settled: oneshot::Receiver<()>,
) -> String {
    tokio::select! {
        biased;
        serves = &mut settled => {
            if serves.is_err() {
                let _ = child.kill().await;
                return "the relay stops".to_owned();
            }
            // When it has ended some day while we are there, nothing is left of it.
            let _ = child.wait().await;
            String::new()
        }
        ended = child.wait() => match ended {
            Ok(status) => format!("the process that was started has ended: {status}; the log says why"),
            Err(error) => format!("the process that was started cannot be waited for: {error}"),
        },
        // Once it takes over, who talks to it decides when it is late: it may serve already.
        () = async {
            tokio::time::sleep(start_timeout).await;
            control.succession_failed().await;
        } => {
            let _ = child.kill().await;
            format!("the process that was started did not serve within {start_timeout:?}")
        }
    }
}
