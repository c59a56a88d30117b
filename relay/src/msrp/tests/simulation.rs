//! Seeded simulation: clients, one to three relays, and a network that does what networks do. One seed is one run.
//!
//! * `model`: who takes part, what they send, and what is remembered of it.
//! * `network`: the steps of a run, and what goes wrong in them.
//! * `wires`: what every relay writes, decoded and held against what was asked.
//! * `invariants`: what must hold after every step, at the end, and when all is closed.
//!
//! A third of the seeds is *calm*: slices, stalls, other readiness, hostile clients, reloads, but no time passes and
//! nothing is lost. There everything has to arrive. In the others connections break at any byte, sessions end, time
//! flies: there every byte has to arrive or be accounted for to its sender.
//!
//! `MSRP_SIM_SEEDS=n` runs n seeds, `MSRP_SIM_SEED=n` that one, and tells its steps (`--nocapture`).
//!
//! Tried mutations, each noticed within the usual seeds (`docs/reliability.md`): lane not released, answer twice, no
//! end-line at an interruption, another's session as one's own, no report of what a closing link holds, sessions and
//! routes that stay, no wake when a lane or the control queue drains or its link closes, lanes without a bound, wrong
//! Byte-Range, `$` for `#`, silent timeouts, users that stay, transactions answered again, unwanted answers, a response
//! for a REPORT, bodies lost or in the wrong order, chunks that outlive their session, sessions taken over, links counted
//! as used, chunks that go on after an error, the rest of an interrupted chunk lost, a session more than a user may have,
//! bytes beyond what a message may have.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use self::network::Run;

mod invariants;
mod model;
mod network;
mod wires;

/// How many runs, unless `MSRP_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 1000;
/// How many steps are told of a run that failed.
const TOLD: usize = 60;

fn run(seed: u64, trace: Trace) -> Run {
    let mut run = Run::new(seed, trace);
    run.play();
    run
}

/// What is told of a run's steps.
#[derive(Clone, Debug, Default)]
enum Trace {
    #[default]
    Nothing,
    /// As they happen.
    Printed,
    /// For later.
    Kept(std::sync::Arc<parking_lot::Mutex<Vec<String>>>),
}

impl Trace {
    fn tell(&self, step: impl FnOnce() -> String) {
        match self {
            Self::Nothing => {}
            Self::Printed => println!("{}", step()),
            Self::Kept(steps) => steps.lock().push(step()),
        }
    }
}

/// Runs it again, to tell its last steps and how to see all of them.
fn tell_failure(seed: u64) {
    let steps = Trace::Kept(std::sync::Arc::default());
    let _ = catch_unwind(AssertUnwindSafe(|| run(seed, steps.clone()).finish()));
    if let Trace::Kept(steps) = &steps {
        let steps = steps.lock();
        for step in &steps[steps.len().saturating_sub(TOLD)..] {
            eprintln!("  {step}");
        }
    }
    eprintln!(
        "seed {seed} fails: MSRP_SIM_SEED={seed} cargo test -p relay --lib msrp::tests::simulation -- --nocapture"
    );
}

#[test]
fn whatever_happens_everything_arrives_or_is_accounted_for() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("MSRP_SIM_SEED") {
        return run(seed, Trace::Printed).finish();
    }
    let seeds = number("MSRP_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        while failed.load(Ordering::Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            if catch_unwind(|| run(seed, Trace::Nothing).finish()).is_err() {
                failed.fetch_min(seed, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |many| many.get().min(8)) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    if failed < u64::MAX {
        tell_failure(failed);
        panic!("seed {failed} fails");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let steps = |seed| {
        let kept = Trace::Kept(std::sync::Arc::default());
        run(seed, kept.clone()).finish();
        if let Trace::Kept(steps) = kept { std::mem::take(&mut *steps.lock()) } else { Vec::new() }
    };
    for seed in [3, 5, 8] {
        assert_eq!(steps(seed), steps(seed), "{seed}");
    }
}
