//! Drives the two ends of each session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use msrp_proto::endpoint::Config;
use msrp_proto::uri::{MsrpUri, Scheme};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::options::{Ends, SendOptions};
use super::traffic::{Pattern, Receiver, Sender};
use super::wire::{Dialer, Wire};
use super::{Stage, log_in_all};
use crate::client;
use crate::locate::in_uri;
use crate::options::ListenOptions;
use crate::path::MsrpPath;
use crate::rendezvous::Listening;

/// Bytes that wait to be written from which on no more is written into memory.
const OUTPUT: usize = 128 * 1024;

/// Opens the sessions, sends, and tells.
///
/// # Errors
/// Something was lost, changed or refused.
pub async fn run(options: &SendOptions, stage: &mut Stage<'_>) -> anyhow::Result<Map<String, Value>> {
    let pairs = open(options).await?;
    let clock = Clock(Instant::now());
    let plans = plans(options, pairs.len());
    let outcomes = stage
        .measure(async {
            let mut working = JoinSet::new();
            let start = clock.now();
            for (pair, plan) in pairs.into_iter().zip(plans) {
                working.spawn(pair.drive(plan, clock, start));
            }
            let mut outcomes = Vec::new();
            while let Some(done) = working.join_next().await {
                outcomes.push(done??);
            }
            Ok(outcomes)
        })
        .await?;
    let mut latencies = Histogram::<u64>::new(3)?;
    let (mut count, mut bytes) = (0, 0);
    for pair in &outcomes {
        latencies.add(pair.receiver.latencies())?;
        count += pair.receiver.delivered();
        bytes += pair.receiver.bytes();
    }
    let at = |part| json!(latencies.value_at_quantile(part) as f64 / 1000.0);
    let mut result = Map::new();
    for (name, value) in [
        ("work", json!("send")),
        ("sessions", json!(outcomes.len())),
        ("count", json!(count)),
        ("bytes", json!(bytes)),
        ("latency_p50_us", at(0.5)),
        ("latency_p99_us", at(0.99)),
        ("latency_p999_us", at(0.999)),
        ("latency_max_us", at(1.0)),
    ] {
        result.insert(name.to_owned(), value);
    }
    if stage.hold {
        // With their connections open until the end.
        std::mem::forget(outcomes);
    }
    Ok(result)
}

/// Nanoseconds since the start.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What one session has to do.
struct Plan {
    messages: u64,
    until: Option<Duration>,
    window: u64,
    /// From one message to the next, and to the first.
    pace: Option<(Duration, Duration)>,
    timeout: Duration,
}

fn plans(options: &SendOptions, sessions: usize) -> Vec<Plan> {
    let all = sessions as u64;
    let plan = |number: u64| Plan {
        messages: match options.duration {
            Some(_) => u64::MAX,
            None => options.messages / all + u64::from(number < options.messages % all),
        },
        until: options.duration,
        window: options.window(),
        pace: options.rate.map(|rate| {
            let pace = Duration::from_secs_f64(all as f64 / f64::from(rate));
            (pace, pace.mul_f64(number as f64 / all as f64))
        }),
        timeout: options.timeout,
    };
    (0..all).map(plan).collect()
}

/// A session.
struct Pair {
    there: Wire,
    sender: Sender,
    here: Wire,
    receiver: Receiver,
}

async fn open(options: &SendOptions) -> anyhow::Result<Vec<Pair>> {
    let pattern = Pattern::new();
    let chunk_size = options.chunk_size.unwrap_or(u64::MAX);
    let pair = |there, path: &str, from: &MsrpUri, here, own: MsrpUri| {
        let sender = Sender::new(pattern.clone(), path, from, options.size, chunk_size);
        let receiver = Receiver::new(pattern.clone(), own, options.size)?;
        anyhow::Ok(Pair { there, sender, here, receiver })
    };
    let mut pairs = Vec::with_capacity(options.sessions);
    let dialer = Arc::new(Dialer::new(&options.site, true).await?);
    if let Some(listen) = options.listen {
        let listen = ListenOptions {
            listen: Some(listen),
            advertise: None,
            certificate: options.certificate.clone(),
            private_key: options.private_key.clone(),
        };
        let mut listening = Listening::open(&listen)?;
        for _ in 0..options.sessions {
            let there = dialer.open().await?;
            // A proxy connects when it is connected to, so the next one is its.
            let here = tokio::time::timeout(options.timeout, listening.arrival())
                .await
                .context("nobody connects to us")??;
            let (from, own) = (own_uri(&there, options.site.relay.scheme)?, listening.uri().clone());
            pairs.push(pair(there, own.as_str(), &from, Wire::new(here, None), own.clone())?);
        }
        return Ok(pairs);
    }
    let receivers = log_in_all(&dialer, 0, options.sessions).await?;
    let mut senders = match options.ends {
        Ends::Both => log_in_all(&dialer, options.sessions, options.sessions).await?.into(),
        Ends::One => VecDeque::new(),
    };
    for receiver in receivers {
        let path = MsrpPath::to_own(&receiver.own, &receiver.use_path);
        match senders.pop_front() {
            Some(sender) => {
                let relays: String = sender.use_path.iter().map(|uri| format!("{uri} ")).collect();
                pairs.push(pair(
                    sender.wire,
                    &format!("{relays}{path}"),
                    &sender.own,
                    receiver.wire,
                    receiver.own,
                )?);
            }
            None => {
                let first = path.first();
                let there = dialer.open_to(first).await?;
                let from = own_uri(&there, first.as_ref().scheme())?;
                pairs.push(pair(there, &path.to_string(), &from, receiver.wire, receiver.own)?);
            }
        }
    }
    Ok(pairs)
}

/// What we call ourselves on a connection that we have opened.
fn own_uri(wire: &Wire, scheme: Scheme) -> anyhow::Result<MsrpUri> {
    let local = wire.local_addr();
    Ok(client::endpoint(Config::default()).own_uri(scheme, &in_uri(&local.ip().to_string()), local.port())?)
}

impl Pair {
    async fn drive(mut self, plan: Plan, clock: Clock, start: u64) -> anyhow::Result<Self> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut due = start + plan.pace.map_or(0, |(_, first)| nanos(first));
        let end = plan.until.map_or(u64::MAX, |until| start.saturating_add(nanos(until)));
        loop {
            let now = clock.now();
            let mut more = self.sender.messages() < plan.messages && due < end && now < end;
            while self.there.waiting() < OUTPUT {
                if !self.sender.is_writing() {
                    let under_way = self.sender.messages() - self.receiver.delivered();
                    more &= self.sender.messages() < plan.messages && due < end;
                    if !more || under_way >= plan.window || plan.pace.is_some() && due > now {
                        break;
                    }
                    // What is late counts from when it was due.
                    self.sender.begin(if plan.pace.is_some() { due } else { now });
                    due += plan.pace.map_or(0, |(pace, _)| nanos(pace));
                }
                self.there.put(|out| self.sender.write(out));
            }
            let is_done = self.sender.messages() == self.receiver.delivered() && self.sender.is_answered();
            if !more && is_done && self.there.waiting() + self.here.waiting() == 0 {
                return Ok(self);
            }
            let waits = plan.pace.filter(|_| more && due > now).map(|_| Duration::from_nanos(due - now));
            tokio::select! {
                moved = self.there.exchange() => { moved.context("the sender's connection")?; }
                moved = self.here.exchange() => { moved.context("the receiver's connection")?; }
                () = tokio::time::sleep(waits.unwrap_or(plan.timeout)) => {
                    if waits.is_none() {
                        bail!(
                            "nothing has happened for {:?}: {} messages were sent, {} have arrived",
                            plan.timeout,
                            self.sender.messages(),
                            self.receiver.delivered()
                        );
                    }
                }
            }
            self.there.events(|event| self.sender.received(&event))?;
            let (mut answers, receiver) = (Vec::new(), &mut self.receiver);
            self.here.events(|event| {
                let mut answer = bytes::BytesMut::new();
                receiver.received(event, clock.now(), &mut answer)?;
                if !answer.is_empty() {
                    answers.push(answer);
                }
                Ok(())
            })?;
            for answer in answers {
                self.here.put(|out| {
                    out.extend_from_slice(&answer);
                    true
                });
            }
        }
    }
}
