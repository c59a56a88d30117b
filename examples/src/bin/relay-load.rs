//! Load for measurements: pairs of clients that chat through a relay, or clients that come and go.
//!
//! Prints `ready`, waits for a line, works, prints one JSON object, and waits for the end of its input with its
//! connections open: whoever measures the relay reads its CPU time between the two.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to its user")]

use std::io::stdin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use examples::client::Client;
use examples::options::DialOptions;
use examples::rendezvous::Line;
use msrp_proto::endpoint::{Config, Event, Message, Role, SessionHandle};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes that a message begins with: when it was sent, in nanoseconds since the start, in hexadecimal.
const STAMP: usize = 16;

/// Load for measurements: pairs of clients that chat through a relay, or clients that come and go.
#[derive(Parser, Clone, Debug)]
#[command(version)]
struct Options {
    #[command(flatten)]
    dial: DialOptions,
    /// What the clients do
    #[arg(long, value_name = "WHAT", default_value = "chat")]
    load: Load,
    /// Pairs of clients, or clients that come and go at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    sessions: usize,
    /// Messages of each pair that are under way at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    window: usize,
    /// Messages, or connections, of all together
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    count: usize,
    /// Messages a second of all together, evenly; default: as many as the window lets through
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = clap::value_parser!(u16).range(STAMP as i64..))]
    size: u16,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Each pair's first client sends to its second one.
    Chat,
    /// Connect and close.
    Connect,
    /// Connect, log in and close.
    Login,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let options = Arc::new(options);
    let mut pairs = Vec::new();
    if options.load == Load::Chat {
        for _ in 0..options.sessions {
            pairs.push(Pair::open(&options).await?);
        }
    }
    println!("ready");
    tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new())).await??;
    let start = Instant::now();
    let each = options.count / options.sessions;
    let mut result = match options.load {
        Load::Chat => chat(&options, &mut pairs, each, start).await?,
        Load::Connect | Load::Login => come_and_go(&options, each).await?,
    };
    let seconds = start.elapsed().as_secs_f64();
    result["count"] = (each * options.sessions).into();
    result["seconds"] = seconds.into();
    println!("{result}");
    // With the connections open.
    tokio::task::spawn_blocking(|| std::io::copy(&mut stdin(), &mut std::io::sink())).await??;
    Ok(())
}

/// Two clients, of which the first sends to the second.
struct Pair {
    sender: Client,
    session: SessionHandle,
    receiver: Client,
}

impl Pair {
    async fn open(options: &Options) -> anyhow::Result<Self> {
        let mut receiver = Line::through_relay(&options.dial, Config::default()).await?;
        receiver.open_for_anyone(|_| {})?;
        let mut sender = Line::through_relay(&options.dial, Config::default()).await?;
        let session = sender.session(&receiver.path(), Role::Active);
        let session = sender.client.endpoint().open_session(session)?;
        Ok(Self { sender: sender.client, session, receiver: receiver.client })
    }
}

async fn chat(
    options: &Options,
    pairs: &mut Vec<Pair>,
    each: usize,
    start: Instant,
) -> anyhow::Result<Value> {
    let mut working = JoinSet::new();
    for Pair { mut sender, session, mut receiver } in pairs.drain(..) {
        let (window, size) = (Arc::new(Semaphore::new(options.window)), usize::from(options.size));
        let credit = window.clone();
        let pace = options.rate.map(|rate| Duration::from_secs(1) * options.sessions as u32 / rate);
        working.spawn(async move {
            let mut left = each;
            let mut next = tokio::time::Instant::now();
            while left > 0 {
                let permit = async {
                    tokio::time::sleep_until(next).await;
                    window.acquire().await
                };
                tokio::select! {
                    permit = permit => {
                        permit?.forget();
                        left -= 1;
                        next += pace.unwrap_or_default();
                        let mut body = format!("{:0STAMP$x}", start.elapsed().as_nanos());
                        body.extend(std::iter::repeat_n('m', size - STAMP));
                        sender.endpoint().send(session, Message::new("text/plain", Bytes::from(body)))?;
                    }
                    event = sender.next() => watch(&event?)?,
                }
            }
            // Until all are answered; the other half ends this.
            loop {
                watch(&sender.next().await?)?;
            }
        });
        working.spawn(async move {
            let mut latencies = Vec::with_capacity(each);
            while latencies.len() < each {
                let event = receiver.next().await?;
                watch(&event)?;
                if let Event::Message { body, .. } = event
                    && let Some(stamp) = body.get(..STAMP)
                {
                    let sent = u64::from_str_radix(std::str::from_utf8(stamp)?, 16)?;
                    latencies.push(start.elapsed().saturating_sub(Duration::from_nanos(sent)));
                    credit.add_permits(1);
                }
            }
            Ok::<_, anyhow::Error>((latencies, receiver))
        });
    }
    let (mut latencies, mut kept) = (Vec::with_capacity(options.count), Vec::new());
    while kept.len() < options.sessions {
        let (of_pair, receiver) = working.join_next().await.context("no task is left")??.context("a pair")?;
        latencies.extend(of_pair);
        kept.push(receiver);
    }
    latencies.sort_unstable();
    let at = |part: f64| {
        let index = (latencies.len() as f64 * part) as usize;
        latencies.get(index).map(|latency| latency.as_secs_f64() * 1e6)
    };
    Ok(json!({ "p50_us": at(0.5), "p99_us": at(0.99) }))
}

/// An error if what happened should not have.
fn watch(event: &Event) -> anyhow::Result<()> {
    match event {
        Event::Closed { .. } | Event::SendFailed { .. } | Event::SessionFailed { .. } => bail!("{event:?}"),
        _ => Ok(()),
    }
}

async fn come_and_go(options: &Arc<Options>, each: usize) -> anyhow::Result<Value> {
    let mut working = JoinSet::new();
    for _ in 0..options.sessions {
        let options = options.clone();
        working.spawn(async move {
            for _ in 0..each {
                if options.load == Load::Login {
                    Line::through_relay(&options.dial, Config::default()).await?;
                } else {
                    let place = options.dial.connect.as_ref().context("--connect is missing")?;
                    tokio::net::TcpStream::connect((&*place.host, place.port)).await?;
                }
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(done) = working.join_next().await {
        done??;
    }
    Ok(json!({}))
}
