//! `msrp-relay ctl`: what the [admin interface](crate::admin) can do, from the command line.
//!
//! Answers go to standard output, as tables or as JSON; what is wrong goes to standard error. The exit code says how it
//! went: 0 done; 1 the relay refuses it, or there is no such thing; 2 the command line or the configuration is wrong;
//! 3 no relay is reached.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

mod client;
mod connections;
mod drain;
mod events;
mod output;
mod process;
mod sessions;
mod status;
mod table;
mod target;
mod text;

use self::client::Client;
use self::output::Output;
use self::target::{Address, Target};

const AFTER_HELP: &str = "Exit codes: 0 done, 1 refused or not found, 2 wrong usage, 3 no relay is reached.\n\n\
    Without --address and --config: unix:/run/msrp-relay/admin.sock if it is there, else http://127.0.0.1:8088.";

/// The options of `msrp-relay ctl`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct CtlArgs {
    /// Where the relay's admin interface is: http://HOST:PORT or unix:PATH.
    #[arg(long, short, value_name = "ADDRESS", env = "MSRP_RELAY_ADMIN", global = true)]
    address: Option<Address>,
    /// The relay's configuration: address and token are taken from its section `admin`.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The file that holds the token.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Answer as JSON, for programs; what is followed comes as one object in each line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How the relay is: listeners, sessions, connections, throughput, errors, certificates.
    Status,
    /// Connections: list, show, close, and settings of a single one.
    #[command(visible_alias = "conns")]
    Connections(connections::ConnectionsArgs),
    /// Sessions: list, show, end.
    Sessions(sessions::SessionsArgs),
    /// Users who have sessions: list them, end their sessions.
    Users {
        #[command(subcommand)]
        command: Option<sessions::UsersCommand>,
    },
    /// TLS domains and certificates: list, reload.
    Tls {
        #[command(subcommand)]
        command: Option<TlsCommand>,
    },
    /// Read the configuration again, and take over what can be while running: TLS domains and certificates.
    Reload,
    /// Take nothing new, and stop when the last session has ended; or take that back.
    Drain(drain::DrainArgs),
    /// Start the relay's program again, which takes over without a gap; the one that runs drains.
    Upgrade,
    /// Numbers: all, a group with its colon (`msrp:`), or by name.
    Stats {
        /// Names or groups; without any, all.
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show how much is logged, or change it until the next start.
    LogLevel {
        /// `info`, or by part: `info,relay::sip=debug`; `reset`: as configured.
        level: Option<String>,
    },
    /// The configuration that the relay was started with, without its secrets.
    Config,
    /// Follow what happens to connections and sessions.
    Events {
        /// Only these.
        #[arg(long, value_enum)]
        kind: Option<EventKind>,
    },
    /// Call any command of the admin interface; `ctl mi which` lists them.
    Mi {
        /// The command.
        method: String,
        /// Its parameters: all as NAME=VALUE, or all as VALUE in their order.
        #[arg(value_name = "PARAM")]
        params: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum TlsCommand {
    /// The TLS domains and their certificates.
    List,
    /// Read the TLS domains and certificates again, for new connections.
    Reload,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventKind {
    Connection,
    Session,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Session => "session",
        }
    }
}

/// What keeps a command from its end.
#[derive(Debug)]
enum Failure {
    /// Nothing: nobody wants to read the rest.
    Done,
    /// The relay says no: exit code 1.
    Refused(String),
    /// What was asked for cannot be: exit code 2.
    Usage(String),
    /// There is no relay: exit code 3.
    Unreachable(String),
}

type Outcome = Result<(), Failure>;

/// Runs the command; what goes wrong is told on standard error.
///
/// # Errors
/// If the runtime cannot be started.
#[expect(clippy::print_stderr, reason = "the user reads it there")]
pub(super) fn run(args: &CtlArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (code, message) = match runtime.block_on(command(args)) {
        Ok(()) | Err(Failure::Done) => return Ok(ExitCode::SUCCESS),
        Err(Failure::Refused(message)) => (1, message),
        Err(Failure::Usage(message)) => (2, message),
        Err(Failure::Unreachable(message)) => (3, message),
    };
    eprintln!("msrp-relay ctl: {}", text::safe(&message));
    Ok(ExitCode::from(code))
}

async fn command(args: &CtlArgs) -> Outcome {
    let target = Target::find(args.address.as_ref(), args.config.as_deref(), args.token_file.as_deref())?;
    let (client, output) = (Client::new(target), Output::new(args.json));
    match &args.command {
        Command::Status => status::run(&client, &output).await,
        Command::Connections(args) => connections::run(&client, &output, args).await,
        Command::Sessions(args) => sessions::run(&client, &output, args).await,
        Command::Users { command } => sessions::users(&client, &output, command.as_ref()).await,
        Command::Tls { command: None | Some(TlsCommand::List) } => process::domains(&client, &output).await,
        Command::Tls { command: Some(TlsCommand::Reload) } | Command::Reload => {
            process::reload(&client, &output).await
        }
        Command::Drain(args) => drain::run(&client, &output, args).await,
        Command::Upgrade => drain::upgrade(&client, &output).await,
        Command::Stats { names } => process::stats(&client, &output, names).await,
        Command::LogLevel { level } => process::log_level(&client, &output, level.as_deref()).await,
        Command::Config => process::config(&client, &output).await,
        Command::Events { kind } => events::run(&client, &output, kind.map(EventKind::as_str)).await,
        Command::Mi { method, params } => output.json(&client.mi(method, mi_params(params)?).await?),
    }
}

/// `NAME=VALUE` or values. A value that is JSON of its own, such as a list, is taken as such.
fn mi_params(params: &[String]) -> Result<Value, Failure> {
    let value = |text: &str| match serde_json::from_str(text) {
        Ok(value @ (Value::Array(_) | Value::Object(_))) => value,
        _ => Value::from(text),
    };
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    let named = |param: &String| match param.split_once('=') {
        Some((name, text)) if is_name(name) => Some((name.to_owned(), value(text))),
        _ => None,
    };
    let names: Vec<_> = params.iter().map(named).collect();
    match names.iter().flatten().count() {
        0 => Ok(params.iter().map(|text| value(text)).collect()),
        count if count == params.len() => Ok(Value::Object(names.into_iter().flatten().collect())),
        _ => Err(Failure::Usage("parameters are all NAME=VALUE, or all without names".to_owned())),
    }
}

/// Does the same to each of some; what goes wrong with one does not keep the others from it.
#[expect(clippy::print_stderr, reason = "the user reads it there")]
async fn each<T: std::fmt::Display>(
    output: &Output,
    things: &[T],
    done: &str,
    act: impl AsyncFn(&T) -> Result<Value, Failure>,
) -> Outcome {
    let (mut answers, mut refused) = (Vec::new(), Vec::new());
    for thing in things {
        let shown = thing.to_string();
        match act(thing).await {
            Ok(answer) => {
                answers.push(json!({ "id": shown, "result": answer }));
                if !output.wants_json() {
                    output.line(&text::safe(&format!("{done} {shown}")))?;
                }
            }
            Err(Failure::Refused(message)) => {
                answers.push(json!({ "id": shown, "error": message }));
                refused.push(message);
            }
            Err(other) => return Err(other),
        }
    }
    if output.wants_json() {
        output.json(&answers.into())?;
    }
    let Some(last) = refused.pop() else { return Ok(()) };
    for message in refused {
        eprintln!("msrp-relay ctl: {}", text::safe(&message));
    }
    Err(Failure::Refused(last))
}

/// A field as text: empty if there is none.
fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_default()
}

fn real(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_default()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_named_or_in_their_order() {
        let params =
            |texts: &[&str]| mi_params(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(params(&[]).unwrap(), json!([]));
        assert_eq!(params(&["7", "on"]).unwrap(), json!(["7", "on"]));
        assert_eq!(params(&["id=7", "mode=on=off"]).unwrap(), json!({ "id": "7", "mode": "on=off" }));
        assert_eq!(params(&[r#"["a", "b"]"#]).unwrap(), json!([["a", "b"]]));
        assert_eq!(params(&["=7"]).unwrap(), json!(["=7"]));
        assert!(matches!(params(&["id=7", "on"]), Err(Failure::Usage(_))));
    }
}
