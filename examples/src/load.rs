//! Load for a relay, and what it does under it: the program `msrp-load`.
//!
//! [`options`] says what is wanted; [`wire`] opens connections and logs in; [`traffic`] has the two sides of a session,
//! without I/O; [`send`] drives them; [`measure`] reads what the relay takes meanwhile.
//!
//! Each session is one task, which drives both its ends: what one costs is the system's calls and little more, so that
//! the relay is what is measured, on two cores too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

pub mod measure;
pub mod options;
pub mod send;
pub mod traffic;
pub mod wire;

use measure::{Processes, slope};
use options::{ComeAndGo, IdleOptions, LoadOptions, Work};
use wire::{Dialer, Wire};

/// Does what is wanted and prints it; gives the figures too.
///
/// # Errors
/// Something was lost, changed or refused; or it could not begin.
pub async fn run(options: LoadOptions, print: impl Fn(&str)) -> anyhow::Result<Map<String, Value>> {
    let mut stage =
        Stage { processes: Processes::new(&options.pid), hold: options.hold, print: &print, measured: None };
    let mut result = match &options.work {
        Work::Send(send) => send::run(send, &mut stage).await?,
        Work::Login(login) => come_and_go(login, true, &mut stage).await?,
        Work::Connect(connect) => come_and_go(connect, false, &mut stage).await?,
        Work::Idle(idle) => self::idle(idle, &mut stage).await?,
    };
    let cpu = stage.measured.map(|(seconds, cpu)| {
        result.insert("seconds".to_owned(), json!(seconds.as_secs_f64()));
        cpu
    });
    let cpu = cpu.flatten();
    derive(&mut result, cpu);
    if options.json || options.hold {
        print(&Value::Object(result.clone()).to_string());
    } else {
        print(&table(&result));
    }
    if options.hold {
        line().await?;
    }
    Ok(result)
}

/// What goes on around the work: waiting for a word to begin, and measuring.
pub struct Stage<'a> {
    processes: Processes,
    hold: bool,
    print: &'a dyn Fn(&str),
    measured: Option<(Duration, Option<Duration>)>,
}

impl Stage<'_> {
    /// Does `work`, whose connections are open, when it is time to, and measures meanwhile.
    async fn measure<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        if self.hold {
            (self.print)("ready");
            line().await?;
        }
        let cpu = |processes: &Processes| match processes.is_empty() {
            true => Ok(None),
            false => processes.cpu().map(Some),
        };
        let (before, start) = (cpu(&self.processes)?, Instant::now());
        let done = work.await?;
        let (seconds, after) = (start.elapsed(), cpu(&self.processes)?);
        self.measured =
            Some((seconds, after.zip(before).map(|(after, before)| after.saturating_sub(before))));
        Ok(done)
    }
}

/// Waits for a line, or for the end of the input.
async fn line() -> anyhow::Result<()> {
    BufReader::new(tokio::io::stdin()).read_line(&mut String::new()).await?;
    Ok(())
}

/// Adds what follows from the figures there are.
fn derive(result: &mut Map<String, Value>, cpu: Option<Duration>) {
    let number = |name: &str| result.get(name).and_then(Value::as_f64);
    let (seconds, count, bytes) = (number("seconds"), number("count"), number("bytes"));
    let mut more = Vec::new();
    if let (Some(seconds), Some(count)) = (seconds, count) {
        more.push(("per_second", json!(count / seconds)));
    }
    if let (Some(seconds), Some(bytes)) = (seconds, bytes) {
        more.push(("megabytes_per_second", json!(bytes / 1e6 / seconds)));
    }
    if let Some(cpu) = cpu {
        let cpu = cpu.as_secs_f64();
        more.push(("cpu_seconds", json!(cpu)));
        if let Some(count) = count {
            more.push(("cpu_seconds_per_million", json!(cpu / count * 1e6)));
        }
        if let Some(bytes) = bytes {
            more.push(("cpu_seconds_per_gigabyte", json!(cpu / bytes * 1e9)));
        }
    }
    result.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
}

/// One figure a line, with its unit.
fn table(result: &Map<String, Value>) -> String {
    const NAMES: &[(&str, &str, usize)] = &[
        ("count", "", 0),
        ("seconds", " s", 3),
        ("per_second", " /s", 0),
        ("megabytes_per_second", " MB/s", 1),
        ("latency_p50_us", " µs, half of them", 0),
        ("latency_p99_us", " µs, 99 %", 0),
        ("latency_p999_us", " µs, 99.9 %", 0),
        ("latency_max_us", " µs, all", 0),
        ("cpu_seconds", " s of CPU", 3),
        ("cpu_seconds_per_million", " s of CPU for a million", 2),
        ("cpu_seconds_per_gigabyte", " s of CPU for a GB", 2),
        ("bytes_per_session", " bytes for each session", 0),
    ];
    let line = |&(name, unit, digits): &(&str, &str, usize)| {
        let value = result.get(name)?.as_f64()?;
        Some(format!("{value:>14.digits$}{unit}"))
    };
    let what = result.get("work").and_then(Value::as_str).unwrap_or_default();
    let lines: Vec<String> = NAMES.iter().filter_map(line).collect();
    format!("{what}\n{}", lines.join("\n"))
}

async fn come_and_go(
    options: &ComeAndGo,
    login: bool,
    stage: &mut Stage<'_>,
) -> anyhow::Result<Map<String, Value>> {
    let dialer = Arc::new(Dialer::new(&options.site, options.resume).await?);
    stage
        .measure(async {
            let mut working = JoinSet::new();
            let sessions = options.sessions.min(options.count);
            for number in 0..sessions {
                let (dialer, share) = (Arc::clone(&dialer), options.count / sessions);
                let share = share + usize::from(number < options.count % sessions);
                working.spawn(async move {
                    for _ in 0..share {
                        let mut wire = dialer.open().await?;
                        if login {
                            dialer.log_in(&mut wire, number).await?;
                        }
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(done) = working.join_next().await {
                done??;
            }
            Ok(())
        })
        .await?;
    let work = if login { "login" } else { "connect" };
    Ok(Map::from_iter([("work".to_owned(), json!(work)), ("count".to_owned(), json!(options.count))]))
}

/// Opens so many connections at a time.
const AT_ONCE: usize = 16;

/// Logs `count` clients in, from the number `first` on.
///
/// # Errors
/// One is not let in.
async fn log_in_all(dialer: &Arc<Dialer>, first: usize, count: usize) -> anyhow::Result<Vec<Client>> {
    let mut working = JoinSet::new();
    let mut clients = Vec::with_capacity(count);
    let mut next = first;
    while clients.len() < count {
        while next < first + count && working.len() < AT_ONCE {
            let (dialer, number) = (Arc::clone(dialer), next);
            working.spawn(async move {
                let mut wire = dialer.open().await?;
                let (own, use_path) = dialer.log_in(&mut wire, number).await?;
                anyhow::Ok(Client { wire, own, use_path })
            });
            next += 1;
        }
        clients.push(working.join_next().await.context("no task is left")???);
    }
    Ok(clients)
}

/// A client that is logged in.
struct Client {
    wire: Wire,
    own: msrp_proto::uri::MsrpUri,
    use_path: Vec<msrp_proto::uri::MsrpUri>,
}

async fn idle(options: &IdleOptions, stage: &mut Stage<'_>) -> anyhow::Result<Map<String, Value>> {
    let dialer = Arc::new(Dialer::new(&options.site, true).await?);
    let from = options.from.min(options.sessions);
    let mut clients = log_in_all(&dialer, 0, from).await?;
    let mut points = Vec::new();
    for step in 0..=options.steps {
        let goal = from + (options.sessions - from) * step / options.steps;
        clients.extend(log_in_all(&dialer, clients.len(), goal - clients.len()).await?);
        if !stage.processes.is_empty() {
            points.push((clients.len() as f64, stage.processes.memory()? as f64));
        }
    }
    let steps: Vec<_> =
        points.iter().map(|(sessions, bytes)| json!({ "sessions": sessions, "bytes": bytes })).collect();
    let mut result = Map::from_iter([
        ("work".to_owned(), json!("idle")),
        ("count".to_owned(), json!(clients.len())),
        ("memory".to_owned(), json!(steps)),
    ]);
    if let Some(slope) = slope(&points) {
        result.insert("bytes_per_session".to_owned(), json!(slope));
    }
    if stage.hold {
        (stage.print)("ready");
        line().await?;
    }
    Ok(result)
}
