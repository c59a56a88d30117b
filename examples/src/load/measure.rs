//! What processes take, as `/proc` tells.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Ticks of a second in `/proc/PID/stat`: the same everywhere on Linux.
const TICKS: u64 = 100;

/// Processes to be watched, with all that descend from them.
#[derive(Clone, Debug)]
pub struct Processes(Vec<u32>);

impl Processes {
    /// Those of `pids`.
    pub fn new(pids: &[u32]) -> Self {
        Self(pids.to_vec())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much CPU time they have used, all threads, to the nanosecond where the kernel says so.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        self.all()?.into_iter().map(cpu_of).sum()
    }

    /// The memory they have for themselves, and their part of what they share (PSS), in bytes.
    ///
    /// # Errors
    /// One of them is not there, or its memory is not for us to see.
    pub fn memory(&self) -> anyhow::Result<u64> {
        self.all()?.into_iter().map(memory_of).sum()
    }

    fn all(&self) -> anyhow::Result<HashSet<u32>> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may have ended meanwhile.
            let Ok(stat) = fields(pid) else { continue };
            let parent = stat.get(1).and_then(|field| field.parse().ok()).unwrap_or(0);
            children.entry(parent).or_default().push(pid);
        }
        let mut found = HashSet::new();
        let mut left = self.0.clone();
        while let Some(pid) = left.pop() {
            if found.insert(pid) {
                left.extend(children.get(&pid).into_iter().flatten());
            }
        }
        Ok(found)
    }
}

/// The fields of `/proc/PID/stat` after the name: the state is the first.
fn fields(pid: u32) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let (_, after) = text.rsplit_once(") ").context("no process")?;
    Ok(after.split_whitespace().map(str::to_owned).collect())
}

fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let of_thread = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
    let by_threads: Option<Duration> = tasks.flatten().map(of_thread).sum();
    // A kernel without that figure says 0.
    if let Some(time) = by_threads.filter(|time| !time.is_zero()) {
        return Ok(time);
    }
    let stat = fields(pid)?;
    let ticks = |at: usize| stat.get(at).and_then(|field| field.parse::<u64>().ok()).context("no times");
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS))
}

fn memory_of(pid: u32) -> anyhow::Result<u64> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("the kernel does not tell")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// The slope of a line through points: how much `y` grows with each of `x` (least squares).
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let together: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (spread > 0.0).then(|| together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let own = Processes::new(&[std::process::id()]);
        assert!(own.memory().unwrap() > 100_000);
        let before = own.cpu().unwrap();
        while own.cpu().unwrap() <= before {
            std::hint::black_box((0..10_000).sum::<u64>());
        }
    }

    #[test]
    fn children_count_and_strangers_do_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = Processes::new(&[std::process::id()]).all().unwrap();
        assert!(found.contains(&std::process::id()) && found.contains(&child.id()) && !found.contains(&1));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn nobody_is_an_error() {
        let nobody = Processes::new(&[u32::MAX]);
        assert!(nobody.cpu().is_err() && nobody.memory().is_err());
    }

    #[test]
    fn a_slope_is_that_of_the_line() {
        assert_eq!(slope(&[(1.0, 5.0), (2.0, 7.0), (3.0, 9.0)]), Some(2.0));
        assert_eq!(slope(&[(1.0, 5.0)]), None);
    }
}
