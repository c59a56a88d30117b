//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::config::Config;
use crate::demo::{self, DemoArgs};
use crate::logging;
use crate::server::{Server, tls};

mod ctl;
mod generate;
mod hash;
mod password;
mod user;

use self::ctl::CtlArgs;
use self::generate::{CompletionsArgs, ManArgs};
use self::hash::HashArgs;
use self::user::UserArgs;

/// An MSRP relay server (RFC 4975, RFC 4976).
#[derive(Debug, Parser)]
#[command(name = "msrp-relay", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGTERM or SIGINT; SIGHUP reads the configuration again, and opens the files of the log and of
    /// session records again.
    Run {
        /// The YAML configuration.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration and the files it names: exit code 0 if the relay would start with it.
    Check {
        /// The YAML configuration.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// Start a relay on loopback and send a chat and a file through it, or serve a chat page for browsers.
    Demo(DemoArgs),
    /// Add, change, list and remove the users in the database of a configuration.
    User(UserArgs),
    /// Print the hash of a password for one user and realm, as `ha1`, `ha1_sha256` and htdigest files have it.
    Hash(HashArgs),
    /// Ask and manage a running relay, by its admin interface.
    Ctl(CtlArgs),
    /// Print the script by which a shell completes this command line.
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands into a folder.
    Man(ManArgs),
}

/// Runs the command line of this process.
///
/// # Errors
/// Whatever keeps the command from doing its work; to be shown to the user.
pub fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run { config } => {
            let ended = run(&config);
            // The last words are said.
            logging::flush();
            ended
        }
        Command::Check { config } => check(&Config::load(&config)?),
        Command::Demo(args) => demo::run(&args),
        Command::User(args) => user::run(&args),
        Command::Hash(args) => hash::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Completions(args) => generate::completions(&args, Cli::command()),
        Command::Man(args) => generate::man(&args, Cli::command()),
    }
}

fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(path)?;
    logging::install(&config.log)?;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => info!(limit, "open files"),
        Err(error) => warn!(%error, "the limit of open files stays as it was"),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let server = Server::start(config).await?;
        let addresses: Vec<_> =
            server.addresses().iter().map(|(scheme, address)| format!("{scheme}://{address}")).collect();
        info!(listening = addresses.join(" "), "ready");
        let signal = loop {
            tokio::select! {
                _ = terminate.recv() => break "SIGTERM",
                _ = interrupt.recv() => break "SIGINT",
                _ = hangup.recv() => {
                    // It tells the log what came of it.
                    let _ = server.control().reload();
                }
            }
        };
        info!(signal, "stopping");
        let again = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.stop(again).await;
        info!("stopped");
        Ok(ExitCode::SUCCESS)
    })
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let (servers, clients) = (tls::server_domains(config)?, tls::client_domains(config)?);
    for warning in &config.warnings {
        println!("warning: {warning}");
    }
    for warning in tls::expiry_warnings(&servers, &clients, SystemTime::now(), config.tls.expiry_warning) {
        println!("warning: TLS {warning}");
    }
    println!("{}: ok", config.source.file_name());
    Ok(ExitCode::SUCCESS)
}
