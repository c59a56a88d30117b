//! A relay under mixed load for a long time: chat and files over TCP, TLS and WebSocket, clients that come and go, in
//! order or not. Memory and descriptors stay level, the log warns of nothing, and the relay has counted exactly what the
//! clients have done.
//!
//! `SOAK_SECONDS=1800 cargo test -p tests --test soak -- --ignored --nocapture`; without it, two minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "figures, and what could not run, are for whoever runs it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use msrp_proto::flag::Flag;
use rustls::ClientConfig;
use tests::{Admin, Client, Content, Daemon, Scheme, Send, Session, Settings, Site, tls_config, within};
use tokio::task::JoinSet;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const SCHEMES: [Scheme; 3] = [Scheme::Msrp, Scheme::Msrps, Scheme::Wss];

const MIB: f64 = 1024.0 * 1024.0;

/// How much more memory the relay may have at the end than after the first quarter, by the line through all samples:
/// what an allocator leaves between. In two minutes it is 0.05 MiB. One connection in a hundred that is not let go of (13 kB
/// of memory) would make 1.3 MiB where 115 come each second, as on the machine of `docs/reliability.md`, and 40 bytes of
/// each message as much; what is smaller takes a longer run to be seen.
const GROWTH: f64 = MIB;

/// What the clients have done.
#[derive(Default)]
struct Done {
    auths: AtomicU64,
    sends: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    resets: AtomicU64,
    connections: AtomicU64,
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn counted(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

struct Soak {
    daemon: Daemon,
    config: Arc<ClientConfig>,
    done: Done,
    over: AtomicBool,
}

impl Soak {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    async fn client(&self, scheme: Scheme, user: &str) -> (Client, Session) {
        let mut client = Client::connect_with(&self.daemon, Arc::clone(&self.config), scheme).await;
        let session = client.auth(user, &format!("{user}pw")).await;
        count(&self.done.connections, 1);
        count(&self.done.auths, 1);
        (client, session)
    }

    /// One message, whole, answered at both ends.
    async fn message(&self, from: &mut Client, to: &mut Client, path: &[String], text: &str) {
        assert_eq!(from.send(&Send::text(path, "m", text)).await.status(), 200);
        assert_eq!(to.receive().await.text(), text);
        count(&self.done.sends, 1);
        count(&self.done.messages, 1);
        count(&self.done.bytes, text.len() as u64);
    }

    /// Two who chat for as long as it lasts.
    async fn chat(self: Arc<Self>, one: Scheme, other: Scheme) {
        let (mut alice, from_alice) = self.client(one, "alice").await;
        let (mut bob, from_bob) = self.client(other, "bob").await;
        let (there, back) = (from_alice.to(&from_bob), from_bob.to(&from_alice));
        for round in 0.. {
            if !self.goes_on() {
                break;
            }
            let text = format!("{round} {}", "la ".repeat(round % 300));
            self.message(&mut alice, &mut bob, &there, &text).await;
            self.message(&mut bob, &mut alice, &back, &text).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::join!(alice.close(), bob.close());
    }

    /// Files, one after another, each on fresh connections.
    async fn files(self: Arc<Self>, one: Scheme, other: Scheme) {
        const LEN: u64 = 400_000;
        const CHUNK: u64 = 50_000;
        let content = Content::new(LEN);
        while self.goes_on() {
            let (mut alice, from_alice) = self.client(one, "alice").await;
            let (mut bob, from_bob) = self.client(other, "bob").await;
            let message = Send::text(&from_alice.to(&from_bob), "f", "").with("Failure-Report: no");
            tokio::join!(
                alice.tx.file(&message, &content, Some(CHUNK)),
                bob.rx.file(&content, Some(&mut bob.tx))
            );
            count(&self.done.sends, LEN / CHUNK);
            count(&self.done.messages, 1);
            count(&self.done.bytes, LEN);
            tokio::join!(alice.close(), bob.close());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Clients that come, say something, and go: in order, without a word, with a reset, or in the middle of a message.
    async fn come_and_go(self: Arc<Self>, one: Scheme, other: Scheme) {
        let mut way = 0;
        while self.goes_on() {
            let (mut carol, from_carol) = self.client(one, "carol").await;
            let (mut dave, from_dave) = self.client(other, "dave").await;
            let path = from_carol.to(&from_dave);
            self.message(&mut carol, &mut dave, &path, "hello").await;
            way += 1;
            // Half a message stays in a WebSocket client, which sends whole ones.
            match way % if one == Scheme::Wss { 3 } else { 4 } {
                0 => {
                    tokio::join!(carol.close(), dave.close());
                }
                1 => {
                    drop(carol);
                    dave.close().await;
                }
                2 => {
                    carol.reset();
                    count(&self.done.resets, 1);
                    dave.close().await;
                }
                _ => {
                    let message = Send { range: "1-10/10".into(), ..Send::text(&path, "half", "") };
                    carol.tx.begin(&message).await;
                    carol.tx.raw(b"12345").await;
                    carol.close().await;
                    // It gets what there was, and learns that no more comes.
                    dave.rx.head().await;
                    let (body, flag) = dave.rx.rest_of_chunk().await;
                    assert_eq!((&*body, flag), (&b"12345"[..], Flag::Abort));
                    count(&self.done.sends, 1);
                    count(&self.done.bytes, 5);
                    dave.close().await;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Of the straight line that fits best, per second.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let n = samples.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let above: f64 = samples.iter().map(|(at, value)| (at - x) * (value - y)).sum();
    let below: f64 = samples.iter().map(|(at, _)| (at - x).powi(2)).sum();
    above / below
}

#[test]
fn the_slope_is_that_of_a_line() {
    assert!((slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) - 2.0).abs() < 1e-9);
    assert!(slope(&[(0.0, 5.0), (1.0, 6.0), (2.0, 5.0)]).abs() < 1e-9);
}

#[tokio::test]
#[ignore = "takes SOAK_SECONDS, or two minutes; `.ci/run` runs it"]
async fn memory_and_descriptors_stay_level_and_every_count_is_right() {
    let seconds = std::env::var("SOAK_SECONDS").ok().map_or(120, |text| text.parse().expect("SOAK_SECONDS"));
    let site = Site::new();
    let settings = Settings {
        wss: Some("127.0.0.1:0".into()),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        // Those who chat do so for as long as it lasts.
        auth: "allow_auth_without_tls: true, expires: { default: 1d, max: 1d }".into(),
        ..Settings::default()
    };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    let idle = daemon.resources();
    let config = tls_config(&site, None);
    let soak = Arc::new(Soak { daemon, config, done: Done::default(), over: AtomicBool::new(false) });

    let mut load = JoinSet::new();
    for one in SCHEMES {
        for other in SCHEMES {
            load.spawn(Arc::clone(&soak).chat(one, other));
            load.spawn(Arc::clone(&soak).come_and_go(one, other));
        }
        load.spawn(Arc::clone(&soak).files(one, Scheme::Msrps));
    }
    let begin = Instant::now();
    let end = Duration::from_secs(seconds);
    let (mut memory, mut descriptors) = (Vec::new(), Vec::new());
    while begin.elapsed() < end {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if let Some(ended) = load.try_join_next() {
            panic!("{ended:?}");
        }
        // The first quarter is for what grows to its size and stays.
        if begin.elapsed() > end / 4 {
            let (at, now) = (begin.elapsed().as_secs_f64(), soak.daemon.resources());
            memory.push((at, now.memory as f64));
            descriptors.push((at, now.descriptors as f64));
        }
    }
    soak.over.store(true, Ordering::Relaxed);
    within("the load to end", load.join_all()).await;

    let still = async {
        while soak.daemon.resources().descriptors > idle.descriptors {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("all connections to be closed", still).await;
    let done = &soak.done;
    let measured = 0.75 * seconds as f64;
    let growth = slope(&memory) * measured;
    let (first, last) = (memory.first().unwrap().1 / MIB, memory.last().unwrap().1 / MIB);
    println!(
        "{seconds} s: {} connections, {} messages, {:.0} MB; memory {first:.1} MiB after a quarter, {last:.1} MiB at the \
         end, slope {:.1} KiB/min; descriptors {} and {} at those times, slope {:.2}/min, {} when idle",
        counted(&done.connections),
        counted(&done.messages),
        counted(&done.bytes) / 1e6,
        slope(&memory) * 60.0 / 1024.0,
        descriptors.first().unwrap().1,
        descriptors.last().unwrap().1,
        slope(&descriptors) * 60.0,
        idle.descriptors,
    );
    assert!(growth < GROWTH, "memory grows by {:.1} MiB in {measured} s", growth / MIB);
    // What is open at the same time goes up and down with the clients.
    assert!(slope(&descriptors) * measured < 10.0, "descriptors grow");

    for (metric, expected) in [
        ("msrp_relay_msrp_auths_total{result=\"granted\"}", counted(&done.auths)),
        ("msrp_relay_msrp_auths_total{result=\"challenged\"}", counted(&done.auths)),
        ("msrp_relay_msrp_auths_total{result=\"failed\"}", 0.0),
        ("msrp_relay_msrp_requests_received_total{method=\"AUTH\"}", 2.0 * counted(&done.auths)),
        ("msrp_relay_msrp_requests_received_total{method=\"SEND\"}", counted(&done.sends)),
        ("msrp_relay_msrp_body_received_bytes_total", counted(&done.bytes)),
        ("msrp_relay_msrp_body_forwarded_bytes_total", counted(&done.bytes)),
        ("msrp_relay_msrp_messages_forwarded_total", counted(&done.messages)),
        ("msrp_relay_msrp_transactions_timed_out_total", 0.0),
        ("msrp_relay_msrp_sessions", 0.0),
        ("msrp_relay_connections_queued_bytes", 0.0),
    ] {
        assert_eq!(admin.metric(metric).await, expected, "{metric}");
    }
    let mut opened = 0.0;
    for protocol in ["msrp", "msrps", "wss"] {
        let labels = format!("protocol=\"{protocol}\",direction=\"in\"");
        opened += admin.metric(&format!("msrp_relay_connections_opened_total{{{labels}}}")).await;
    }
    assert_eq!(opened, counted(&done.connections));

    // One line for each client that has reset its connection, as it should be, and nothing else.
    let warnings = soak.daemon.log().with(&[" WARN "]);
    let (resets, others): (Vec<_>, Vec<_>) =
        warnings.into_iter().partition(|line| line.contains("reset by the peer"));
    assert_eq!(others, [""; 0]);
    println!("{} lines about {} resets", resets.len(), counted(&done.resets));
    // One that the relay has written to at that very moment may end as another's error.
    assert!(resets.len() as f64 >= 0.9 * counted(&done.resets), "{} resets", resets.len());
    assert!(resets.len() as f64 <= counted(&done.resets), "{} resets", resets.len());
    assert_eq!(soak.daemon.log().with(&[" ERROR "]), [""; 0]);
}
