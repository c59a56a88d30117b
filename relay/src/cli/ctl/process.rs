//! `ctl tls`, `ctl reload`, `ctl stats`, `ctl log-level`, `ctl config`.

use serde_json::{Value, json};

use super::client::Client;
use super::output::Output;
use super::table::{Cell, Table, Tone};
use super::{Failure, Outcome, field, list, real, text};

/// How many days before its end a certificate is pointed out.
const DAYS: i64 = 30;

pub(super) fn expiry_tone(days_left: i64) -> Tone {
    match days_left {
        ..0 => Tone::Bad,
        0..DAYS => Tone::Warning,
        _ => Tone::Good,
    }
}

pub(super) async fn domains(client: &Client, output: &Output) -> Outcome {
    let answer = client.mi("tls_mgm:list", Value::Null).await?;
    if output.wants_json() {
        return output.json(&answer);
    }
    let mut table = Table::new(&["DOMAIN", "FOR", "SUBJECT", "NAMES", "UNTIL", ">DAYS LEFT", "ISSUER"]);
    for domain in list(&answer, "Domains") {
        let certificate = &domain["certificate"];
        let names: Vec<_> = list(certificate, "dns_names").iter().filter_map(Value::as_str).collect();
        let days = certificate["days_left"].as_i64();
        let until = certificate["not_after"].as_f64().map(text::time).unwrap_or_default();
        table.row([
            field(domain, "ID").into(),
            if domain["TYPE"] == "TLS_DOMAIN_SRV" { "listeners" } else { "connections from here" }.into(),
            field(certificate, "subject").into(),
            names.join(" ").into(),
            until.split(' ').next().unwrap_or_default().into(),
            Cell::toned(
                days.map(|days| days.to_string()).unwrap_or_default(),
                days.map_or(Tone::Plain, expiry_tone),
            ),
            field(certificate, "issuer").into(),
        ]);
    }
    if table.is_empty() { output.line("no TLS domains") } else { output.table(&table) }
}

pub(super) async fn reload(client: &Client, output: &Output) -> Outcome {
    let answer = client.mi("tls_mgm:reload", Value::Null).await?;
    if output.wants_json() {
        return output.json(&answer);
    }
    output.line(&text::safe(&format!("reloaded: {}", field(&answer, "Reloaded"))))?;
    for change in list(&answer, "Changed") {
        let shown = |key| change.get(key).and_then(Value::as_str).unwrap_or("(not set)");
        let line = format!("{}: {} -> {}", shown("Setting"), shown("From"), shown("To"));
        output.line(&text::safe(&line))?;
    }
    if let Some(why) = answer.get("LogNotReopened").and_then(Value::as_str) {
        let warning =
            format!("the log was not opened again, what was open is written to: {}", text::safe(why));
        output.line(&output.paint(&warning, Tone::Warning))?;
    }
    for file in list(&answer, "RecordsNotReopened").iter().filter_map(Value::as_str) {
        let warning = format!("session records were not opened again, and wait: {}", text::safe(file));
        output.line(&output.paint(&warning, Tone::Warning))?;
    }
    let sections: Vec<_> = list(&answer, "NeedsRestart").iter().filter_map(Value::as_str).collect();
    if !sections.is_empty() {
        let warning = format!(
            "changed in the file, and taken over only when the relay starts again: {}",
            text::safe(&sections.join(", "))
        );
        output.line(&output.paint(&warning, Tone::Warning))?;
    }
    Ok(())
}

pub(super) async fn stats(client: &Client, output: &Output, names: &[String]) -> Outcome {
    let params = if names.is_empty() { json!([]) } else { json!([names]) };
    let answer = client.mi("get_statistics", params).await?;
    if output.wants_json() {
        return output.json(&answer);
    }
    let mut table = Table::new(&["STATISTIC", ">VALUE"]);
    for (name, value) in answer.as_object().into_iter().flatten() {
        table.row([name.into(), value.to_string().into()]);
    }
    output.table(&table)
}

pub(super) async fn log_level(client: &Client, output: &Output, level: Option<&str>) -> Outcome {
    let answer = client.mi("log_level", level.map_or(json!([]), |level| json!([level]))).await?;
    if output.wants_json() {
        return output.json(&answer);
    }
    let (now, configured) = (field(&answer, "Log level"), field(&answer, "Configured"));
    let also = if configured.is_empty() || configured == now {
        String::new()
    } else {
        format!(" (configured: {configured})")
    };
    output.line(&text::safe(&format!("{now}{also}")))
}

pub(super) async fn config(client: &Client, output: &Output) -> Outcome {
    let answer = client.mi("config:show", Value::Null).await?;
    if output.wants_json() {
        return output.json(&answer);
    }
    let yaml = serde_yaml::to_string(&answer["Configuration"])
        .map_err(|error| Failure::Refused(format!("the configuration cannot be shown: {error}")))?;
    let yaml: String = yaml.lines().map(|line| text::safe(line) + "\n").collect();
    output.text(&format!("# {}\n{yaml}", text::safe(&field(&answer, "File"))))
}

/// The days until then, whole ones.
pub(super) fn days_until(unix_seconds: f64, now: &Value) -> i64 {
    ((unix_seconds - real(now, "time")) / 86_400.0).floor() as i64
}
