//! `ctl drain` and `ctl upgrade`.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::output::Output;
use super::{Outcome, field, number, text};
use crate::config::parse_duration;

/// `upgrade.start_timeout`, where the configuration does not have it.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What the relay needs for an upgrade beside `start_timeout`, at most.
const MARGIN: Duration = Duration::from_secs(30);

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
    let running = client.mi("config:show", Value::Null).await?;
    let limit = upgrade_limit(&running["Configuration"]["upgrade"]["start_timeout"]);
    let answer = client.mi_within(limit, "upgrade", Value::Null).await?;
    if output.wants_json() {
        output.json(&answer)
    } else {
        output.line(&text::safe(&field(&answer, "State")))
    }
}

/// How long an upgrade may take: the next process may use up its time before it asks the one that runs, and once more
/// from there.
fn upgrade_limit(start_timeout: &Value) -> Duration {
    let start_timeout = start_timeout.as_str().and_then(parse_duration).unwrap_or(START_TIMEOUT);
    start_timeout.saturating_mul(2).saturating_add(MARGIN)
}

/// A drain in a line.
pub(super) fn line(drain: &Value) -> Option<String> {
    let left = drain["seconds_left"].as_u64();
    let left = left.map(|left| format!(", {} at most", text::duration(left as f64))).unwrap_or_default();
    let (sessions, busy) = (number(drain, "sessions"), number(drain, "busy_connections"));
    (!drain.is_null()).then(|| format!("draining: {sessions} sessions, {busy} busy connections{left}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_waited_for_as_long_as_it_may_take() {
        for (configured, seconds) in [(json!("5m"), 630), (json!("500ms"), 31), (Value::Null, 150)] {
            assert_eq!(upgrade_limit(&configured).as_secs(), seconds, "{configured}");
        }
    }
}
