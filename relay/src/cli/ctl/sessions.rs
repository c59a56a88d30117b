//! `ctl sessions` and `ctl users`.

use std::collections::HashSet;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::output::Output;
use super::table::{Cell, Table, Tone};
use super::{Outcome, each, events, field, list, number, real, text};

/// How much of a session-id is shown in tables; that much is enough to name one.
pub(super) const SHORT_ID: usize = 12;

/// A session that is about to expire.
const SOON: f64 = 60.0;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    list: ListArgs,
    #[command(subcommand)]
    command: Option<SessionsCommand>,
}

#[derive(Debug, Args, Default, Clone)]
struct ListArgs {
    /// Only those of this user.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// At most so many, those that began last.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Then follow: which begin and end, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// The sessions, those that began last first.
    List(ListArgs),
    /// All that is known of one session.
    Show {
        /// Its session-id, or the first 8 characters or more.
        id: String,
    },
    /// End sessions: their clients get 481 from then on.
    End {
        /// Their session-ids, or the first 8 characters or more.
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum UsersCommand {
    /// The users, and how many sessions each has.
    List,
    /// End all sessions of users.
    End {
        /// The users.
        #[arg(required = true)]
        users: Vec<String>,
    },
}

pub(super) async fn run(client: &Client, output: &Output, args: &SessionsArgs) -> Outcome {
    match &args.command {
        None => print_list(client, output, &args.list).await,
        Some(SessionsCommand::List(args)) => print_list(client, output, args).await,
        Some(SessionsCommand::Show { id }) => {
            let session = client.mi("session:show", json!([id])).await?;
            if output.wants_json() { output.json(&session) } else { show(output, &session) }
        }
        Some(SessionsCommand::End { ids }) => {
            each(output, ids, "ended session", async |id| client.mi("session:end", json!([id])).await).await
        }
    }
}

async fn print_list(client: &Client, output: &Output, args: &ListArgs) -> Outcome {
    // Before the list, so that nothing gets lost between the two.
    let mut follow = if args.watch { Some(client.events(Some("session")).await?) } else { None };
    let answer = client.mi("session:list", json!({ "user": args.user, "limit": args.limit })).await?;
    let sessions = list(&answer, "Sessions");
    match (&follow, output.wants_json()) {
        (Some(_), true) => {
            for session in sessions {
                output.json_line(&json!({ "event": "present", "session": session }))?;
            }
        }
        (None, true) => output.json(&answer)?,
        (_, false) => {
            let table = table(sessions);
            if table.is_empty() {
                output.line("no sessions")?;
            } else {
                output.table(&table)?;
            }
            let (shown, all) = (sessions.len() as u64, number(&answer, "Count"));
            if shown < all {
                output.line(&format!("… {shown} of {all} are shown"))?;
            }
        }
    }
    let mut known: HashSet<String> = sessions.iter().map(|session| field(session, "id")).collect();
    while let Some(events) = &mut follow {
        let (name, event) = events.next().await?;
        let is_wanted = args.user.as_ref().is_none_or(|user| event["session"]["user"] == user.as_str());
        let is_told = event["event"] == "began" && known.remove(&field(&event["session"], "id"));
        if name == "lost" || is_wanted && !is_told {
            events::print(output, &name, &event)?;
        }
    }
    Ok(())
}

fn table(sessions: &[Value]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "USER",
        "CLIENT",
        ">AGE",
        ">EXPIRES",
        ">SENT",
        ">BYTES",
        ">RECEIVED",
        ">BYTES",
        "PEERS",
    ]);
    for session in sessions {
        let left = real(session, "expires_in");
        let tone = if left < SOON { Tone::Warning } else { Tone::Plain };
        let (sent, received) = (&session["sent"], &session["received"]);
        let peers: Vec<_> = list(session, "peers").iter().filter_map(Value::as_str).collect();
        table.row([
            short(&field(session, "id")).into(),
            field(session, "user").into(),
            field(session, "owner").into(),
            text::duration(real(session, "seconds")).into(),
            Cell::toned(text::duration(left), tone),
            field(sent, "messages").into(),
            text::bytes(number(sent, "bytes")).into(),
            field(received, "messages").into(),
            text::bytes(number(received, "bytes")).into(),
            peers.join(" ").into(),
        ]);
    }
    table
}

pub(super) fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

fn show(output: &Output, session: &Value) -> Outcome {
    let way = |way: &Value| {
        format!(
            "{} messages in {} chunks, {}, {} reports",
            number(way, "messages"),
            number(way, "chunks"),
            text::bytes(number(way, "bytes")),
            number(way, "reports")
        )
    };
    let by = if session["by_relay"] == true { " (a relay)" } else { "" };
    let mut table = Table::new(&["SESSION", ""]);
    let mut row = |name: &str, value: String| table.row([name.into(), value.into()]);
    row("id", field(session, "id"));
    row("uri", field(session, "uri"));
    row("user", field(session, "user"));
    row("client", field(session, "owner") + by);
    row("began", text::time(real(session, "began")));
    row("age", text::duration(real(session, "seconds")));
    row("expires in", text::duration(real(session, "expires_in")));
    row("sent", way(&session["sent"]));
    row("received", way(&session["received"]));
    for peer in list(session, "peers").iter().filter_map(Value::as_str) {
        row("peer", peer.to_owned());
    }
    output.table(&table)
}

pub(super) async fn users(client: &Client, output: &Output, command: Option<&UsersCommand>) -> Outcome {
    match command {
        None | Some(UsersCommand::List) => {
            let answer = client.mi("user:list", Value::Null).await?;
            if output.wants_json() {
                return output.json(&answer);
            }
            let mut table = Table::new(&["USER", ">SESSIONS"]);
            for user in list(&answer, "Users") {
                table.row([field(user, "user").into(), field(user, "sessions").into()]);
            }
            if table.is_empty() { output.line("no user has a session") } else { output.table(&table) }
        }
        Some(UsersCommand::End { users }) => {
            let end = async |user: &String| client.mi("user:end", json!([user])).await;
            each(output, users, "ended all sessions of", end).await
        }
    }
}
