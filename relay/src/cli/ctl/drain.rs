//! `ctl drain` and `ctl upgrade`.

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::output::Output;
use super::{Outcome, field, number, text};

/// The options of `ctl drain`.
#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// How long at most: `10m`, `30s`, seconds; without it, until the last session has ended.
    #[arg(long, value_name = "DURATION", value_parser = text::lifetime, conflicts_with = "cancel")]
    timeout: Option<u64>,
    /// Take new connections and sessions again.
    #[arg(long)]
    cancel: bool,
}

pub(super) async fn run(client: &Client, output: &Output, args: &DrainArgs) -> Outcome {
    let answer = if args.cancel {
        client.mi("drain:cancel", Value::Null).await?
    } else {
        // `forever` is 0 there.
        let seconds = args.timeout.filter(|seconds| *seconds > 0);
        client.mi("drain", json!({ "timeout": seconds })).await?
    };
    if output.wants_json() {
        return output.json(&answer);
    }
    match line(&answer["Drain"]) {
        Some(line) => output.line(&line),
        None => output.line(&text::safe(&field(&answer, "State"))),
    }
}

pub(super) async fn upgrade(client: &Client, output: &Output) -> Outcome {
    let answer = client.mi("upgrade", Value::Null).await?;
    if output.wants_json() {
        output.json(&answer)
    } else {
        output.line(&text::safe(&field(&answer, "State")))
    }
}

/// A drain in a line.
pub(super) fn line(drain: &Value) -> Option<String> {
    let left = drain["seconds_left"].as_u64();
    let left = left.map(|left| format!(", {} at most", text::duration(left as f64))).unwrap_or_default();
    let (sessions, busy) = (number(drain, "sessions"), number(drain, "busy_connections"));
    (!drain.is_null()).then(|| format!("draining: {sessions} sessions, {busy} busy connections{left}"))
}
