//! `ctl status`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::client::Client;
use super::output::Output;
use super::process::{days_until, expiry_tone};
use super::table::{Cell, Table, Tone};
use super::{Outcome, field, list, number, text};

/// How many certificates are shown: those that end first.
const CERTIFICATES: usize = 5;

pub(super) async fn run(client: &Client, output: &Output) -> Outcome {
    let status = client.status().await?;
    if output.wants_json() {
        return output.json(&status);
    }
    let (state, tone) =
        if status["ready"] == true { ("running", Tone::Good) } else { ("draining", Tone::Warning) };
    let state = super::drain::line(&status["drain"]).unwrap_or_else(|| state.to_owned());
    let mut table = Table::new(&["RELAY", ""]);
    let mut row = |name: &str, value: Cell| table.row([name.into(), value]);
    row("domain", field(&status, "domain").into());
    row("state", Cell::toned(state, tone));
    row("version", field(&status, "version").into());
    row("process", field(&status, "pid").into());
    for older in list(&status, "older_processes") {
        let left = format!("{}, {} sessions left", number(older, "pid"), number(older, "sessions"));
        row("older process", left.into());
    }
    row("up", text::duration(number(&status, "uptime_seconds") as f64).into());
    for address in list(&status, "listeners").iter().filter_map(Value::as_str) {
        row("listening", address.into());
    }
    row("sessions", format!("{}", total(&status, "msrp", "sessions")).into());
    row("connections", connections(&status).into());
    for (name, shown) in throughput(&status) {
        row(name, shown.into());
    }
    row("errors", errors(&status));
    let mut ends: Vec<_> = samples(&status, "tls", "expiry_timestamp")
        .iter()
        .filter_map(|sample| Some((sample["value"].as_f64()?, &sample["labels"])))
        .collect();
    ends.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    for (at, labels) in ends.into_iter().take(CERTIFICATES) {
        let days = days_until(at, &status);
        let what =
            format!("{} of {} ({})", field(labels, "kind"), field(labels, "domain"), field(labels, "role"));
        let when = if days < 0 { "has ended".to_owned() } else { format!("{days} days left") };
        row("TLS", Cell::toned(format!("{what}: {when}"), expiry_tone(days)));
    }
    output.table(&table)
}

fn samples<'v>(status: &'v Value, group: &str, name: &str) -> &'v [Value] {
    let family =
        list(status, "statistics").iter().find(|family| family["group"] == group && family["name"] == name);
    family.map(|family| list(family, "samples")).unwrap_or_default()
}

fn total(status: &Value, group: &str, name: &str) -> u64 {
    samples(status, group, name).iter().map(|sample| number(sample, "value")).sum()
}

/// `7 (msrps 5, ws 2)`
fn connections(status: &Value) -> String {
    let mut protocols: BTreeMap<&str, u64> = BTreeMap::new();
    for sample in samples(status, "connections", "current") {
        let protocol = sample["labels"]["protocol"].as_str().unwrap_or_default();
        *protocols.entry(protocol).or_default() += number(sample, "value");
    }
    let parts: Vec<_> = protocols.iter().map(|(protocol, count)| format!("{protocol} {count}")).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    format!("{}{parts}", protocols.values().sum::<u64>())
}

/// What goes through it: by the second of the last few, and since the start.
fn throughput(status: &Value) -> [(&'static str, String); 3] {
    let history = &status["history"];
    let seconds = list(history, "seconds").last().and_then(Value::as_f64).filter(|seconds| *seconds > 0.0);
    let rate = |series: &str| {
        let last = list(history, series).last().and_then(Value::as_f64)?;
        seconds.map(|seconds| last / seconds)
    };
    let messages = rate("messages").map(|rate| format!("{}/s, ", text::rate(rate))).unwrap_or_default();
    let bytes = |series: &str| {
        rate(series).map(|rate| format!("{}/s, ", text::bytes(rate.round() as u64))).unwrap_or_default()
    };
    let all = |name| text::bytes(total(status, "connections", name));
    [
        ("messages", format!("{messages}{} in all", total(status, "msrp", "messages_forwarded"))),
        ("received", format!("{}{} in all", bytes("bytes_in"), all("received"))),
        ("sent", format!("{}{} in all", bytes("bytes_out"), all("sent"))),
    ]
}

fn errors(status: &Value) -> Cell {
    let history = &status["history"];
    let sum = |series: &str| list(history, series).iter().filter_map(Value::as_u64).sum::<u64>();
    let (refused, failed, broken) = (sum("refused"), sum("failed"), sum("broken"));
    let steps = list(history, "seconds").iter().filter_map(Value::as_f64).sum::<f64>();
    let tone = if refused + failed + broken > 0 { Tone::Warning } else { Tone::Plain };
    Cell::toned(
        format!(
            "{refused} refused, {failed} failed further on, {broken} connections broken, in the last {}",
            text::duration(steps)
        ),
        tone,
    )
}
