//! `msrp-relay run`: the relay as a process, and what it does when it is told something: signals, orders of the admin
//! interface.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::config::Config;
use crate::logging;
use crate::server::notify::{self, Notifier};
use crate::server::{Drain, DrainCause, Inherited, Order, Server, StartError, Takeover};

mod program;
mod successor;

use self::program::Program;
pub(super) use self::program::{ApartArgs, apart};
use self::successor::Successor;

/// The options of `msrp-relay run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The YAML configuration.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Take over from the relay that runs with the same `upgrade.socket`, which drains then. Without one, start as usual.
    #[arg(long)]
    upgrade: bool,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    // There is one thread yet.
    let inherited = Inherited::from_env();
    // Connections are on threads of their own (`threads`). This is for the rest: one is enough, unless something blocks it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // From here on none of them ends the process by itself.
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let config = Config::load(&args.config)?;
    logging::install(&config.log)?;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => info!(limit, "open files"),
        Err(error) => warn!(%error, "the limit of open files stays as it was"),
    }
    let inherited = inherited.take();
    runtime.block_on(async {
        let successor = Program::of_this_process();
        let server = tokio::select! {
            biased;
            signal = signals.stop.next() => {
                info!(signal, "stopped before it served");
                return Ok(ExitCode::SUCCESS);
            }
            server = start(args, config, inherited) => server?,
        };
        serve(server, successor?, signals).await
    })
}

/// Starts the relay, in the place of the one that runs if that is wanted.
async fn start(args: &RunArgs, config: Config, inherited: Inherited) -> anyhow::Result<Server> {
    let before = match (&config.upgrade, args.upgrade) {
        (Some(settings), true) => Takeover::ask(settings).await?,
        (None, true) => anyhow::bail!("--upgrade needs the section `upgrade` in the configuration"),
        (_, false) => None,
    };
    match before {
        Some(before) => Ok(Server::start_after(config, before).await?),
        None => {
            let server = Server::start_with(config, inherited).await;
            match server {
                Err(StartError::Upgrade { path, source }) if source.kind() == io::ErrorKind::AddrInUse => {
                    let path = path.display();
                    anyhow::bail!(
                        "a relay runs already, and answers at {path}: `run --upgrade` takes over from it"
                    )
                }
                started => Ok(started?),
            }
        }
    }
}

/// The signals that mean something to it. What comes before it is asked for waits.
struct Signals {
    stop: Stop,
    /// To read the configuration again.
    hangup: Signal,
    /// To have the program started again.
    again: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let stop =
            Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { stop, hangup: signal(SignalKind::hangup())?, again: signal(SignalKind::user_defined2())? })
    }
}

/// Those by which it is told to stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// The next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Waits until it is told to hurry, after the first one. To a process that has been handed over SIGTERM does not say
    /// that: a service manager sends it to all processes of the service, and once more to those that are left when the
    /// main one has ended.
    async fn hurries(&mut self, handed_over: bool) {
        match handed_over {
            true => _ = self.interrupt.recv().await,
            false => _ = self.next().await,
        }
    }
}

async fn serve(mut server: Server, program: Program, signals: Signals) -> anyhow::Result<ExitCode> {
    let Signals { mut stop, mut hangup, mut again } = signals;
    let mut successor = Successor::default();
    let mut orders = server.take_orders();
    let control = Arc::clone(server.control());
    let notifier = Arc::new(Notifier::default());
    let addresses: Vec<_> =
        server.addresses().iter().map(|(scheme, address)| format!("{scheme}://{address}")).collect();
    let listening = addresses.join(" ");
    info!(listening, "ready");
    notifier.ready(&format!("serving at {listening}"));
    let telling = tokio::spawn(notify::drains(Arc::clone(&control), Arc::clone(&notifier)));
    let watchdog = tokio::spawn(notify::watchdog(Arc::clone(&control), Arc::clone(&notifier)));
    loop {
        tokio::select! {
            signal = stop.next() => {
                info!(signal, "stopping");
                break;
            }
            _ = hangup.recv() => reload(&server, &notifier),
            _ = again.recv() => successor.start(&server, &program, None),
            Some(order) = orders.recv() => match order {
                Order::Upgrade(reply) => successor.start(&server, &program, Some(reply)),
                Order::HandOver(handed) => {
                    notifier.hand_over(handed.pid);
                    successor.serves(handed.pid);
                    server.hand_over(handed);
                }
                order => follow(&server, order),
            },
            why = successor.failed() => successor.fails(&why),
            () = server.drained() => {
                info!("stopping: the drain is over");
                break;
            }
        }
    }
    // Who takes over at this moment either does, and the drain is an upgrade's, or not at all.
    if let Some(handed) = control.close_succession(&mut orders).await {
        notifier.hand_over(handed.pid);
        successor.serves(handed.pid);
        server.hand_over(handed);
    }
    // Nobody is answered any more.
    drop(orders);
    successor.stops().await;
    notifier.stopping();
    let stopping = Arc::clone(&control);
    let hangups = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // It waits for disks, and others have to do on this thread.
            let stopping = Arc::clone(&stopping);
            let _ = tokio::task::spawn_blocking(move || stopping.reopen_files()).await;
            info!(
                "SIGHUP: the relay stops, so the configuration is not read again; its files are opened again"
            );
        }
    });
    let handed_over = matches!(control.drain(), Some(Drain { cause: DrainCause::Upgrade, .. }));
    server.stop(stop.hurries(handed_over)).await;
    hangups.abort();
    telling.abort();
    watchdog.abort();
    notifier.status("stopped");
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Does what somebody wants, and answers.
fn follow(server: &Server, order: Order) {
    let before = server.control().drain();
    let (reply, answer) = match order {
        Order::Drain(timeout, reply) => {
            let answer = match before {
                Some(Drain { cause: DrainCause::Signal | DrainCause::Upgrade, .. }) => {
                    Err("the relay stops already".to_owned())
                }
                _ => {
                    server.drain(Drain::now(DrainCause::Operator, timeout));
                    Ok("draining".to_owned())
                }
            };
            (reply, answer)
        }
        Order::CancelDrain(reply) => {
            let answer = match before {
                Some(Drain { cause: DrainCause::Operator, .. }) => match server.cancel_drain() {
                    Ok(()) => Ok("serving".to_owned()),
                    Err(error) => Err(format!("{:#}", anyhow::Error::new(error))),
                },
                Some(_) => Err("the relay stops, which cannot be taken back".to_owned()),
                None => Err("the relay does not drain".to_owned()),
            };
            (reply, answer)
        }
        Order::Upgrade(_) | Order::HandOver(_) => return,
    };
    // Who has asked may have gone.
    let _ = reply.send(answer);
}

/// Reads the configuration again and takes over what can be taken over while running.
fn reload(server: &Server, notifier: &Notifier) {
    notifier.reloading();
    // It tells the log what came of it.
    let status = match server.control().reload().configuration {
        Ok(_) => "serving, reloaded",
        Err(_) => "serving; the last reload was refused",
    };
    notifier.ready(status);
}
