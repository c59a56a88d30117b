//! Whether threads stand in each other's way: the same forwarding on one thread and on two, each with sessions of its own on
//! one relay in memory. Without sockets, so that it is the relay's locks and counters that are looked at, and nothing of
//! the system. `cargo bench -p relay --bench threads` prints how many times the messages two threads forward in the time.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark may panic"
)]

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use relay::msrp::Relay;

use self::in_memory::relay;
use self::work::{Case, World};

#[path = "../tests/common/in_memory.rs"]
mod in_memory;
#[path = "work/forward.rs"]
mod work;

const CASE: Case = Case {
    name: "16 messages of 300 bytes in a read",
    chunk: 300,
    chunks: 16,
    answered: true,
    websocket: false,
};
/// Pieces of work for each thread and round.
const TIMES: usize = 20_000;
const ROUNDS: usize = 9;

/// Messages a second of so many threads together.
fn rate(relay: &Arc<Relay>, threads: usize, times: usize) -> f64 {
    let start = Barrier::new(threads + 1);
    let worlds: Vec<_> = (0..threads).map(|_| World::new(&CASE, relay)).collect();
    thread::scope(|scope| {
        let working: Vec<_> = worlds
            .into_iter()
            .map(|mut world| {
                let start = &start;
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    start.wait();
                    for _ in 0..times {
                        world.work(&CASE, &mut answers);
                    }
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        working.into_iter().for_each(|thread| thread.join().unwrap());
        (threads * times * CASE.chunks) as f64 / began.elapsed().as_secs_f64()
    })
}

fn main() {
    // `cargo test` runs it for a moment, `cargo bench` with `--bench`.
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, times) = if measured { (ROUNDS, TIMES) } else { (1, 1) };
    let relay = relay();
    let mut ratios: Vec<f64> = Vec::new();
    for _ in 0..rounds {
        let (one, two) = (rate(&relay, 1, times), rate(&relay, 2, times));
        println!("one thread {one:.0}, two threads {two:.0} messages a second: {:.2}", two / one);
        ratios.push(two / one);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{}: two threads forward {:.2} times as many as one, the middle of {rounds} rounds",
        CASE.name,
        ratios[rounds / 2]
    );
}
