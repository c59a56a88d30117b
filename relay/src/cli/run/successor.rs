//! The process that is started to take over from this one.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::program::{KILL_TIMEOUT, Orphan, Program};
use crate::server::{Reply, Server};

/// Why one that was started is not wanted any more.
const STOPS: &str = "the relay stops";

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
    /// Starts one; `reply` is told what comes of it. Nothing is waited for here, so that nobody else has to wait.
    pub(super) fn start(&mut self, server: &Server, program: &Program, reply: Option<Reply>) {
        let refused = match (server.control().drain(), server.control().config().upgrade.as_ref(), &self.0) {
            (Some(_), ..) => "the relay stops already".to_owned(),
            (None, None, _) => "the configuration has no section `upgrade`".to_owned(),
            (None, Some(_), Some(_)) => "a process that takes over has been started already".to_owned(),
            (None, Some(upgrade), None) => match program.start_again() {
                Ok(starting) => {
                    let path = program.path().display().to_string();
                    let (start_timeout, control) = (upgrade.start_timeout, Arc::clone(server.control()));
                    // Once it takes over, who talks to it decides when it is late: it may serve already.
                    let late = async move {
                        tokio::time::sleep(start_timeout).await;
                        control.succession_failed().await;
                        format!("the process that was started did not serve within {start_timeout:?}")
                    };
                    let started = async move {
                        let orphan = starting.started().await.map_err(|error| cannot_start(&path, &error))?;
                        info!(pid = orphan.pid(), path, "started the process that takes over");
                        Ok(orphan)
                    };
                    self.look_after(started, late, reply);
                    return;
                }
                Err(error) => cannot_start(&program.path().display(), &error),
            },
        };
        error!("no upgrade: {refused}");
        if let Some(reply) = reply {
            // Who has asked may have gone.
            let _ = reply.send(Err(refused));
        }
    }

    /// Looks after one until it serves or has failed, `late` at the latest.
    fn look_after(
        &mut self,
        started: impl Future<Output = Result<Orphan, String>> + Send + 'static,
        late: impl Future<Output = String> + Send + 'static,
        reply: Option<Reply>,
    ) {
        let (serves, settled) = oneshot::channel();
        let failed = tokio::spawn(look_after(started, late, settled));
        self.0 = Some(Started { reply, failed, serves });
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
            let _ = reply.send(Err(STOPS.to_owned()));
        }
        drop(serves);
        if let Ok(Ok(why)) = tokio::time::timeout(KILL_TIMEOUT, failed).await {
            info!("no upgrade: {why}");
        }
    }
}

fn cannot_start(path: &dyn std::fmt::Display, error: &std::io::Error) -> String {
    format!("{path} cannot be started: {error}")
}

/// Waits for the end of a process that must not end, and takes it away if it does not get ready.
async fn look_after(
    started: impl Future<Output = Result<Orphan, String>>,
    late: impl Future<Output = String>,
    mut settled: oneshot::Receiver<()>,
) -> String {
    tokio::pin!(started);
    let (found, wanted) = tokio::select! {
        biased;
        serves = &mut settled => match serves {
            // Whatever becomes of who started it.
            Ok(()) => return String::new(),
            // Whoever does not want it any more gets to know which process it is, to take it away.
            Err(_) => (started.await, false),
        },
        found = &mut started => (found, true),
    };
    let mut orphan = match found {
        Ok(orphan) => orphan,
        Err(why) => return why,
    };
    if !wanted {
        orphan.kill().await;
        return STOPS.to_owned();
    }
    tokio::select! {
        biased;
        serves = &mut settled => {
            if serves.is_err() {
                orphan.kill().await;
                return STOPS.to_owned();
            }
            String::new()
        }
        () = orphan.ended() => {
            "the process that was started has ended; the log says why, or the service manager by which signal".to_owned()
        }
        why = late => {
            orphan.kill().await;
            why
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::super::program::tests::orphan;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_for_a_process_without_a_number_which_ends_when_it_has_one() {
        let mut successor = Successor::default();
        let ((number, started), (reply, answer)) = (oneshot::channel(), oneshot::channel());
        successor.look_after(async { started.await.unwrap() }, pending(), Some(reply));
        let begin = tokio::time::Instant::now();
        successor.stops().await;
        assert_eq!(begin.elapsed(), KILL_TIMEOUT);
        assert_eq!(answer.await.unwrap(), Err("the relay stops".to_owned()));

        let (mut child, orphan) = orphan();
        number.send(Ok(orphan)).unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
        assert!(ended.await.unwrap().code().is_none(), "it was taken away");
    }

    #[tokio::test(start_paused = true)]
    async fn who_serves_is_left_alone_whatever_becomes_of_who_started_it() {
        let (serves, settled) = oneshot::channel();
        let late = || async { panic!("it serves") };
        // As when `apart` hangs.
        let started = pending::<Result<Orphan, String>>();
        serves.send(()).unwrap();
        assert_eq!(look_after(started, late(), settled).await, "");
        let ((serves, settled), (mut child, orphan)) = (oneshot::channel(), orphan());
        let looking = look_after(async { Ok(orphan) }, pending(), settled);
        serves.send(()).unwrap();
        assert_eq!(looking.await, "");
        assert!(child.try_wait().unwrap().is_none(), "it goes on");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_late_or_cannot_be_started_fails() {
        let mut successor = Successor::default();
        let (mut child, orphan) = orphan();
        let late = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "late".to_owned()
        };
        successor.look_after(async { Ok(orphan) }, late, None);
        assert_eq!(successor.failed().await, "late");
        assert!(child.wait().unwrap().code().is_none(), "it was taken away");
        successor.look_after(async { Err("not there".to_owned()) }, pending(), None);
        assert_eq!(successor.failed().await, "not there");
    }
}
