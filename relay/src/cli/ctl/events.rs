//! `ctl events`, and what `--watch` shows.

use serde_json::Value;

use super::client::Client;
use super::output::Output;
use super::sessions::{SHORT_ID, short};
use super::table::Tone;
use super::{Outcome, connections, field, number, real, text};

pub(super) async fn run(client: &Client, output: &Output, kind: Option<&str>) -> Outcome {
    let mut events = client.events(kind).await?;
    loop {
        let (name, event) = events.next().await?;
        print(output, &name, &event)?;
    }
}

/// One event as a line.
pub(super) fn print(output: &Output, name: &str, event: &Value) -> Outcome {
    if output.wants_json() {
        let mut event = event.clone();
        if let Some(fields) = event.as_object_mut() {
            fields.insert("kind".to_owned(), name.into());
        }
        return output.json_line(&event);
    }
    let time = text::time(real(event, "time"));
    match name {
        "session" => output.line(&format!("{time}  {}", session(output, event))),
        "connection" => output.line(&format!("{time}  {}", connection(output, event))),
        "lost" => output.line(&output.paint(
            &format!("{} events were lost: this terminal is too slow", number(event, "events")),
            Tone::Warning,
        )),
        // A newer relay tells more.
        other => output.line(&text::safe(&format!("{time}  {other}  {event}"))),
    }
}

/// The event's name at a column's width, and in its colour.
fn told(output: &Output, event: &Value) -> String {
    let name = text::safe(&field(event, "event"));
    let tone = match name.as_str() {
        "began" | "tcp:accepted" | "tcp:connected" => Tone::Good,
        "tcp:timeout" | "tcp:reset" | "tcp:failed" => Tone::Bad,
        _ => Tone::Plain,
    };
    output.paint(&format!("{name:<14}"), tone)
}

fn session(output: &Output, event: &Value) -> String {
    let session = &event["session"];
    let mut line = format!(
        "{:<SHORT_ID$}  {:<12}  {}",
        text::safe(short(&field(session, "id"))),
        text::safe(&field(session, "user")),
        text::safe(&field(session, "owner"))
    );
    if event["event"] == "ended" {
        let (sent, received) = (&session["sent"], &session["received"]);
        line += &format!(
            "  {} after {}, sent {} ({}), received {} ({})",
            text::safe(&field(event, "reason")),
            text::duration(real(session, "seconds")),
            number(sent, "messages"),
            text::bytes(number(sent, "bytes")),
            number(received, "messages"),
            text::bytes(number(received, "bytes"))
        );
    }
    format!("session     {}  {line}", told(output, event))
}

fn connection(output: &Output, event: &Value) -> String {
    let mut line = format!(
        "{:<6}  {:<5}  from {:<7}  {}",
        field(event, "connection"),
        text::safe(&field(event, "protocol")),
        connections::from(event),
        text::safe(&field(event, "remote"))
    );
    if event["reason"].is_string() {
        line += &format!(
            "  {}, after {}, in {}, out {}",
            text::safe(&field(event, "reason")),
            text::duration(real(event, "seconds")),
            text::bytes(number(event, "bytes_in")),
            text::bytes(number(event, "bytes_out"))
        );
    }
    format!("connection  {}  {line}", told(output, event))
}
