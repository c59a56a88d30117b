//! `ctl connections`.

use std::collections::HashSet;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::Client;
use super::output::Output;
use super::table::{Cell, Table, Tone};
use super::{Outcome, each, events, field, list, number, real, text};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ConnectionsArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    command: Option<ConnectionsCommand>,
}

#[derive(Debug, Args, Default, Clone)]
struct ListArgs {
    /// Only those of this protocol: msrp, msrps, ws, wss, sip, sips.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// Then follow: which are accepted, opened and closed, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Subcommand)]
enum ConnectionsCommand {
    /// The connections, oldest first.
    List(ListArgs),
    /// All that is known of one connection.
    Show {
        /// Its number.
        id: u64,
    },
    /// Close connections in order; their sessions end.
    Close {
        /// Their numbers.
        #[arg(required = true)]
        ids: Vec<u64>,
    },
    /// Set how long a connection may be idle.
    Lifetime {
        /// Its number.
        id: u64,
        /// `10m`, `30s`, seconds; `forever`.
        #[arg(value_name = "DURATION", value_parser = text::lifetime)]
        seconds: u64,
    },
    /// Turn a connection's TCP keep-alive on or off.
    Keepalive {
        /// Its number.
        id: u64,
        mode: Switch,
        /// Silent for so many seconds, it is asked.
        #[arg(long, value_name = "SECONDS")]
        idle: Option<u32>,
        /// So many questions without an answer end it.
        #[arg(long, value_name = "NUMBER")]
        count: Option<u32>,
        /// Seconds between two questions.
        #[arg(long, value_name = "SECONDS")]
        interval: Option<u32>,
    },
    /// Have a connection's events told where `events.closed_event` is `marked`.
    Mark {
        /// Its number.
        id: u64,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(super) async fn run(client: &Client, output: &Output, args: &ConnectionsArgs) -> Outcome {
    let done = |answer: Result<Value, super::Failure>, text: String| {
        let answer = answer?;
        if output.wants_json() { output.json(&answer) } else { output.line(&text) }
    };
    match &args.command {
        None => print_list(client, output, &args.list).await,
        Some(ConnectionsCommand::List(args)) => print_list(client, output, args).await,
        Some(ConnectionsCommand::Show { id }) => {
            let connection = client.mi("connection:show", json!([id])).await?;
            if output.wants_json() { output.json(&connection) } else { show(output, &connection) }
        }
        Some(ConnectionsCommand::Close { ids }) => {
            let close = async |id: &u64| client.mi("connection:close", json!([id])).await;
            each(output, ids, "closed connection", close).await
        }
        Some(ConnectionsCommand::Lifetime { id, seconds }) => {
            let answer = client.mi("connection:lifetime", json!([id, seconds])).await;
            let shown = if *seconds == 0 { "for ever".to_owned() } else { text::duration(*seconds as f64) };
            done(answer, format!("connection {id} may be idle {shown}"))
        }
        Some(ConnectionsCommand::Keepalive { id, mode, idle, count, interval }) => {
            let mode = match mode {
                Switch::On => "on",
                Switch::Off => "off",
            };
            let params =
                json!({ "id": id, "mode": mode, "idle": idle, "count": count, "interval": interval });
            let answer = client.mi("connection:keepalive", params).await;
            done(answer, format!("keep-alive of connection {id} is {mode}"))
        }
        Some(ConnectionsCommand::Mark { id }) => {
            let answer = client.mi("connection:mark", json!([id])).await;
            done(answer, format!("connection {id} is marked"))
        }
    }
}

async fn print_list(client: &Client, output: &Output, args: &ListArgs) -> Outcome {
    // Before the list, so that nothing gets lost between the two.
    let mut follow = if args.watch { Some(client.events(Some("connection")).await?) } else { None };
    let answer = client.mi("connection:list", json!({ "protocol": args.protocol })).await?;
    let connections = list(&answer, "Connections");
    match (&follow, output.wants_json()) {
        (Some(_), true) => {
            for connection in connections {
                output.json_line(&json!({ "event": "present", "connection": connection }))?;
            }
        }
        (None, true) => output.json(&answer)?,
        (_, false) => {
            let table = table(connections);
            if table.is_empty() {
                output.line("no connections")?;
            } else {
                output.table(&table)?;
            }
        }
    }
    let mut known: HashSet<u64> =
        connections.iter().filter(|one| one["phase"] == "open").map(|one| number(one, "id")).collect();
    while let Some(events) = &mut follow {
        let (name, event) = events.next().await?;
        let is_wanted = args.protocol.as_ref().is_none_or(|wanted| event["protocol"] == wanted.as_str());
        let came_up = event["event"] == "tcp:accepted" || event["event"] == "tcp:connected";
        let is_told = came_up && known.remove(&number(&event, "connection"));
        if name == "lost" || is_wanted && !is_told {
            events::print(output, &name, &event)?;
        }
    }
    Ok(())
}

fn table(connections: &[Value]) -> Table {
    let mut table = Table::new(&[
        ">ID",
        "PROTOCOL",
        "FROM",
        "PHASE",
        "REMOTE",
        "LOCAL",
        ">AGE",
        ">MAX IDLE",
        ">IN",
        ">OUT",
        ">QUEUED",
        ">SESSIONS",
        // By which lines of the log name it too.
        ">LINK",
    ]);
    for connection in connections {
        let phase = field(connection, "phase");
        let tone = if phase == "open" { Tone::Plain } else { Tone::Warning };
        let queued = number(connection, "queued");
        table.row([
            field(connection, "id").into(),
            field(connection, "protocol").into(),
            from(connection).into(),
            Cell::toned(phase, tone),
            field(connection, "remote").into(),
            field(connection, "local").into(),
            text::duration(real(connection, "seconds")).into(),
            max_idle(connection).into(),
            text::bytes(number(connection, "bytes_in")).into(),
            text::bytes(number(connection, "bytes_out")).into(),
            Cell::toned(text::bytes(queued), if queued > 0 { Tone::Warning } else { Tone::Plain }),
            field(connection, "sessions").into(),
            field(connection, "link").into(),
        ]);
    }
    table
}

/// Who opened it.
pub(super) fn from(value: &Value) -> &'static str {
    if value["direction"] == "in" { "outside" } else { "here" }
}

fn max_idle(connection: &Value) -> String {
    connection["lifetime"].as_f64().map_or_else(|| "forever".to_owned(), text::duration)
}

fn show(output: &Output, connection: &Value) -> Outcome {
    let mut table = Table::new(&["CONNECTION", ""]);
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            table.row([name.into(), value.into()]);
        }
    };
    row("id", field(connection, "id"));
    row("protocol", field(connection, "protocol"));
    row("opened from", from(connection).to_owned());
    row("phase", field(connection, "phase"));
    row("remote", field(connection, "remote"));
    row("local", field(connection, "local"));
    row("proxy", field(connection, "proxy"));
    row("age", text::duration(real(connection, "seconds")));
    row("may be idle", max_idle(connection));
    row("bytes in", text::bytes(number(connection, "bytes_in")));
    row("bytes out", text::bytes(number(connection, "bytes_out")));
    row("waiting", text::bytes(number(connection, "queued")));
    row("link in the log", field(connection, "link"));
    row("sessions", field(connection, "sessions"));
    output.table(&table)
}
