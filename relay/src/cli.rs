//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::demo::{self, DemoArgs};
use crate::logging;

mod check;
mod ctl;
mod generate;
mod hash;
mod password;
mod run;
mod user;

use self::ctl::CtlArgs;
use self::generate::{CompletionsArgs, ManArgs, SchemaArgs};
use self::hash::HashArgs;
use self::run::{ApartArgs, RunArgs};
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
    /// session records again. SIGUSR2 starts the program again, which takes over without a gap.
    Run(RunArgs),
    /// Check a configuration and the files it names: exit code 0 if the relay would start with it.
    Check {
        /// The YAML configuration.
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
        /// As a relay that runs would take it: a folder of the log or of a socket that is not there is a warning.
        #[arg(long)]
        reload: bool,
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
    /// Print the JSON Schema of the configuration, for editors, or the reference of its keys.
    Schema(SchemaArgs),
    /// Start the process that takes over (`run` does).
    #[command(hide = true)]
    Apart(ApartArgs),
}

/// Runs the command line of this process.
///
/// # Errors
/// Whatever keeps the command from doing its work; to be shown to the user.
pub fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run(args) => {
            let ended = run::run(&args);
            // The last words are said.
            logging::flush();
            ended
        }
        Command::Check { config, reload } => check::run(&config, reload),
        Command::Demo(args) => demo::run(&args),
        Command::User(args) => user::run(&args),
        Command::Hash(args) => hash::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Completions(args) => generate::completions(&args, Cli::command()),
        Command::Man(args) => generate::man(&args, Cli::command()),
        Command::Schema(args) => generate::schema(&args),
        Command::Apart(args) => run::apart(&args),
    }
}
