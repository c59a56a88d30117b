//! What the relay can say of itself in numbers: one list, which `/metrics`, `get_statistics` and the status page show.
//!
//! Names and units follow OpenMetrics: base units, `_total` on counters (added when they are written), a label for what
//! splits a number up. Everything but gauges is counted since the start and never goes down.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use tcp_transport::event::Direction;
use tcp_transport::ledger::Phase;
use tcp_transport::tls::ExpiryKind;
use tcp_transport::{Scheme, Totals};

use crate::msrp::Count;
use crate::server::Control;

mod credentials;
mod hep;
mod process;
mod records;
mod sip;

/// What the value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It is what it is now.
    Gauge,
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// A measure.
    Real(f64),
}

impl Value {
    pub(super) fn to_json(self) -> serde_json::Value {
        match self {
            Self::Count(count) => count.into(),
            Self::Real(real) => real.into(),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Count(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// One value, and what it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// How much.
    pub value: Value,
}

/// Values of one meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The group that `get_statistics` shows it in.
    pub group: &'static str,
    /// The name within that group, without unit.
    pub short: &'static str,
    /// The name in OpenMetrics, without unit and `_total`.
    pub name: String,
    /// What it says.
    pub help: &'static str,
    /// Its unit, where it has one.
    pub unit: Option<&'static str>,
    /// What it does.
    pub kind: Kind,
    /// One for each combination of labels.
    pub samples: Vec<Sample>,
}

impl Family {
    fn new(group: &'static str, short: &'static str, kind: Kind, help: &'static str) -> Self {
        let name = match group {
            "process" => format!("process_{short}"),
            "core" => format!("msrp_relay_{short}"),
            _ => format!("msrp_relay_{group}_{short}"),
        };
        Self { group, short, name, help, unit: None, kind, samples: Vec::new() }
    }

    /// The name as `/metrics` has it, with unit and `_total`.
    #[must_use]
    pub fn exported_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.name)
    }

    fn counter(group: &'static str, short: &'static str, help: &'static str) -> Self {
        Self::new(group, short, Kind::Counter, help)
    }

    fn gauge(group: &'static str, short: &'static str, help: &'static str) -> Self {
        Self::new(group, short, Kind::Gauge, help)
    }

    fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    fn value(mut self, value: impl Into<Value>) -> Self {
        self.samples.push(Sample { labels: Vec::new(), value: value.into() });
        self
    }

    fn with(mut self, labels: &[(&'static str, &str)], value: impl Into<Value>) -> Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.samples.push(Sample { labels, value: value.into() });
        self
    }

    fn by<'l>(self, label: &'static str, values: impl IntoIterator<Item = (&'l str, u64)>) -> Self {
        values.into_iter().fold(self, |family, (value, count)| family.with(&[(label, value)], count))
    }
}

/// All there is to say at this moment.
#[must_use]
pub fn collect(control: &Control) -> Vec<Family> {
    let mut families = core(control);
    families.extend(threads(control));
    families.extend(connections(control));
    families.extend(msrp(control));
    families.extend(credentials::families(control));
    families.extend(sip::families(control));
    families.extend(hep::families(control));
    families.extend(tls(control));
    families.extend(records::families(control));
    families.extend(process::families());
    families
}

fn core(control: &Control) -> Vec<Family> {
    let (started, drain) = (control.started().time, control.drain_status());
    let older = control.older_processes();
    vec![
        Family::gauge("core", "build_info", "What runs: always 1.")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64),
        Family::gauge("core", "start_time", "When the relay was started, since the epoch.")
            .unit("seconds")
            .value(unix_seconds(started)),
        Family::gauge("core", "ready", "Whether it takes new clients: 0 while it stops.")
            .value(u64::from(control.is_ready())),
        Family::gauge(
            "core",
            "draining",
            "Whether it drains: what there is goes on, and nothing new begins.",
        )
        .value(u64::from(drain.is_some())),
        Family::gauge(
            "core",
            "draining_busy_connections",
            "Connections with something under way, while it drains.",
        )
        .value(drain.map_or(0, |drain| drain.busy) as u64),
        Family::gauge("core", "older_processes", "Processes before this one that still have sessions.")
            .value(older.len() as u64),
        Family::gauge("core", "older_sessions", "Sessions that those have left.")
            .value(older.iter().map(|older| older.sessions).sum::<u64>()),
        Family::counter(
            "core",
            "handed_connections",
            "Connections handed to the process whose sessions they are for.",
        )
        .value(control.handed_connections()),
        Family::counter(
            "core",
            "log_lines_lost",
            "Lines of the log that were lost: what they go to took none.",
        )
        .value(crate::logging::lost()),
        Family::counter(
            "core",
            "log_reopen_failures",
            "How often the log's file could not be opened again; what was open is written to.",
        )
        .value(crate::logging::reopen_failures()),
    ]
}

/// Of the threads for connections: one that is always busy slows its connections down, whatever the others do.
fn threads(control: &Control) -> [Family; 2] {
    let busy = Family::counter("core", "thread_busy", "How long a thread for connections has been at work.");
    let tasks = Family::gauge(
        "core",
        "thread_tasks",
        "Tasks of a thread for connections: its connections, and the little else they begin.",
    );
    control.threads().iter().enumerate().fold(
        [busy.unit("seconds"), tasks],
        |[busy, tasks], (number, thread)| {
            let number = number.to_string();
            let label = [("thread", number.as_str())];
            [busy.with(&label, thread.busy().as_secs_f64()), tasks.with(&label, thread.tasks())]
        },
    )
}

fn scheme_name(scheme: Option<Scheme>) -> &'static str {
    scheme.map_or("other", Scheme::as_str)
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

fn connections(control: &Control) -> Vec<Family> {
    let ledger = control.ledger();
    let mut now: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for entry in ledger.snapshot() {
        let state = match entry.phase() {
            Phase::Opening => "opening",
            Phase::Open => "open",
            Phase::Ended => "closing",
        };
        let key = (scheme_name(entry.scheme()), direction_name(entry.direction()), state);
        *now.entry(key).or_default() += 1;
    }
    let current = now.into_iter().fold(
        Family::gauge("connections", "current", "Connections that are there."),
        |family, ((protocol, direction, state), count)| {
            family.with(&[("protocol", protocol), ("direction", direction), ("state", state)], count)
        },
    );
    let mut totals: Vec<_> = ledger.totals();
    totals
        .sort_unstable_by_key(|((scheme, direction), _)| (scheme_name(*scheme), direction_name(*direction)));
    let of = |family: Family, value: fn(&Totals) -> u64| {
        totals.iter().fold(family, |family, ((scheme, direction), totals)| {
            let labels = [("protocol", scheme_name(*scheme)), ("direction", direction_name(*direction))];
            family.with(&labels, value(totals))
        })
    };
    let mut ended = Family::counter("connections", "ended", "Connections that are over, by how they ended.");
    for ((scheme, direction), totals) in &totals {
        let Totals { closed, timed_out, reset, failed, .. } = *totals;
        for (result, count) in
            [("closed", closed), ("timeout", timed_out), ("reset", reset), ("failed", failed)]
        {
            let labels = [
                ("protocol", scheme_name(*scheme)),
                ("direction", direction_name(*direction)),
                ("result", result),
            ];
            ended = ended.with(&labels, count);
        }
    }
    let refused = ledger.refused();
    let queued: usize = control.connections().iter().filter_map(|connection| connection.queued_bytes).sum();
    vec![
        current,
        of(
            Family::counter("connections", "begun", "Connections that began to be accepted or opened."),
            |totals| totals.begun,
        ),
        of(Family::counter("connections", "opened", "Connections that came up."), |totals| totals.opened),
        ended,
        Family::counter("connections", "refused", "Connections that a limit kept out.").by(
            "limit",
            [
                ("max_connections", refused.total),
                ("listener", refused.listener),
                ("max_connections_per_address", refused.address),
            ],
        ),
        Family::counter(
            "connections",
            "reclaimed",
            "Connections closed to make room for others where no descriptors were left.",
        )
        .value(ledger.made_room()),
        of(
            Family::counter("connections", "received", "Bytes received, TLS and lower layers not counted.")
                .unit("bytes"),
            |totals| totals.bytes_in,
        ),
        of(
            Family::counter("connections", "sent", "Bytes sent, TLS and lower layers not counted.")
                .unit("bytes"),
            |totals| totals.bytes_out,
        ),
        Family::gauge("connections", "queued", "Bytes that wait for slow receivers.")
            .unit("bytes")
            .value(queued),
        Family::counter("connections", "events_lost", "Connection events that slow subscribers have lost.")
            .value(ledger.events().lost()),
    ]
}

fn msrp(control: &Control) -> Vec<Family> {
    let relay = control.relay();
    let counters = relay.counters();
    let get = |count| counters.get(count);
    let statuses: Vec<_> = counters
        .responses()
        .map(|(status, count)| (if status == 0 { "other".to_owned() } else { status.to_string() }, count))
        .collect();
    vec![
        Family::gauge("msrp", "sessions", "Sessions that are there.").value(relay.sessions().len()),
        Family::counter("msrp", "auths", "AUTH requests for this relay, by what came of them.").by(
            "result",
            [
                ("granted", get(Count::AuthsGranted)),
                ("challenged", get(Count::AuthsChallenged)),
                ("stale", get(Count::AuthsStale)),
                ("failed", get(Count::AuthsFailed)),
                ("undecided", get(Count::AuthsUndecided)),
                ("refused", get(Count::AuthsRefused)),
            ],
        ),
        Family::counter("msrp", "sessions_ended", "Sessions that are over, by why.").by(
            "reason",
            [
                ("expired", get(Count::SessionsExpired)),
                ("disconnected", get(Count::SessionsDisconnected)),
                ("terminated", get(Count::SessionsTerminated)),
                ("shutdown", get(Count::SessionsShutDown)),
            ],
        ),
        Family::counter("msrp", "requests_received", "Requests whose head has come.").by(
            "method",
            [
                ("SEND", get(Count::SendsReceived)),
                ("REPORT", get(Count::ReportsReceived)),
                ("AUTH", get(Count::AuthsReceived)),
                ("other", get(Count::OthersReceived)),
            ],
        ),
        Family::counter("msrp", "responses_received", "Responses that have come.").by(
            "result",
            [("success", get(Count::SuccessesReceived)), ("error", get(Count::ErrorsReceived))],
        ),
        Family::counter("msrp", "responses_sent", "Responses of this relay's own, by status.")
            .by("status", statuses.iter().map(|(status, count)| (status.as_str(), *count))),
        Family::counter("msrp", "body_received", "Body bytes of SENDs that came and were not refused.")
            .unit("bytes")
            .value(get(Count::BodyBytesReceived)),
        Family::counter("msrp", "body_forwarded", "Body bytes of SENDs given to the next hop's queue.")
            .unit("bytes")
            .value(get(Count::BodyBytesForwarded)),
        Family::counter("msrp", "chunks_forwarded", "SENDs given whole to the next hop's queue.")
            .value(get(Count::ChunksForwarded)),
        Family::counter(
            "msrp",
            "messages_forwarded",
            "Messages whose last SEND was given whole to the next hop's queue.",
        )
        .value(get(Count::MessagesForwarded)),
        Family::counter("msrp", "chunks_abandoned", "SENDs begun at the next hop and ended early.")
            .value(get(Count::ChunksAbandoned)),
        Family::counter("msrp", "requests_forwarded", "Requests other than SEND that were sent on.")
            .by("method", [("REPORT", get(Count::ReportsForwarded)), ("other", get(Count::OthersForwarded))]),
        Family::counter("msrp", "reports_dropped", "REPORTs that led nowhere.")
            .value(get(Count::ReportsDropped)),
        Family::counter("msrp", "failures_reported", "REPORTs of a failure by this relay itself.")
            .value(get(Count::FailuresReported)),
        Family::counter("msrp", "transactions_timed_out", "Requests that nobody has answered in time.")
            .value(get(Count::TransactionsTimedOut)),
    ]
}

fn tls(control: &Control) -> Vec<Family> {
    let mut expiry =
        Family::gauge("tls", "expiry_timestamp", "When what a TLS domain is made of ends, since the epoch.")
            .unit("seconds");
    let servers = control.server_domains().snapshot();
    let clients = control.client_domains().snapshot();
    let servers = servers.iter().map(|domain| ("server", domain.name(), domain.expiries()));
    let clients = clients.iter().map(|domain| ("client", domain.name(), domain.expiries()));
    let mut known = std::collections::HashSet::new();
    for (role, domain, expiries) in servers.chain(clients) {
        for end in expiries {
            let kind = match end.kind {
                ExpiryKind::Certificate => "certificate",
                ExpiryKind::Authority => "ca",
                ExpiryKind::Crl => "crl",
            };
            let file = end.file.display().to_string();
            // The system's CAs would be some hundred, and are not the operator's to renew.
            if kind == "ca" && known.len() > 64 {
                continue;
            }
            let labels = [
                ("role", role),
                ("domain", domain),
                ("kind", kind),
                ("name", end.name.as_str()),
                ("file", &file),
            ];
            if known.insert(labels.map(|(_, value)| value.to_owned())) {
                expiry = expiry.with(&labels, unix_seconds(end.at));
            }
        }
    }
    vec![expiry]
}

/// Seconds since the epoch; before it, negative.
pub(super) fn unix_seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}
