//! The process that is started to take over from this one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::program::{Orphan, Program};
use crate::server::{Control, Reply, Server};

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
    pub(super) async fn start(&mut self, server: &Server, program: &Program, reply: Option<Reply>) {
        let refused = match (server.control().drain(), server.control().config().upgrade.as_ref(), &self.0) {
            (Some(_), ..) => Some("the relay stops already".to_owned()),
            (None, None, _) => Some("the configuration has no section `upgrade`".to_owned()),
            (None, Some(_), Some(_)) => Some("a process that takes over has been started already".to_owned()),
            (None, Some(upgrade), None) => match program.start_again().await {
                Ok(orphan) => {
                    let (pid, path) = (orphan.pid(), program.path().display());
                    info!(pid, %path, "started the process that takes over");
                    let (serves, settled) = oneshot::channel();
                    let failed = tokio::spawn(look_after(
                        orphan,
                        upgrade.start_timeout,
                        Arc::clone(server.control()),
                        settled,
                    ));
                    self.0 = Some(Started { reply, failed, serves });
                    return;
                }
                Err(error) => Some(format!("{} cannot be started: {error}", program.path().display())),
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
    mut orphan: Orphan,
    start_timeout: Duration,
    control: Arc<Control>,
    mut settled: oneshot::Receiver<()>,
) -> String {
    tokio::select! {
        biased;
        serves = &mut settled => {
            if serves.is_err() {
                orphan.kill().await;
                return "the relay stops".to_owned();
            }
            String::new()
        }
        () = orphan.ended() => "the process that was started has ended; the log says why".to_owned(),
        // Once it takes over, who talks to it decides when it is late: it may serve already.
        () = async {
            tokio::time::sleep(start_timeout).await;
            control.succession_failed().await;
        } => {
            orphan.kill().await;
            format!("the process that was started did not serve within {start_timeout:?}")
        }
    }
}
