//! What the system knows about a process.

use std::fs;
use std::time::Duration;

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Resident memory now, bytes.
    pub memory: u64,
    /// The most resident memory there was, bytes.
    pub peak_memory: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
    /// What it has taken of the processors until now, user and system.
    pub cpu: Duration,
}

impl Resources {
    /// The most resident memory that a process had until now, bytes; none: it has ended.
    #[must_use]
    pub fn peak_of(pid: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status of the daemon");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
            number
                .and_then(|number| number.parse::<u64>().ok())
                .expect("a number in the status of the daemon")
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors of the daemon").count();
        Self {
            memory: field("VmRSS") * 1024,
            peak_memory: field("VmHWM") * 1024,
            descriptors,
            threads: field("Threads"),
            cpu: cpu(pid),
        }
    }
}

/// `utime` and `stime` of `/proc/PID/stat`, in ticks, of which Linux has 100 a second (`USER_HZ`).
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat of the daemon");
    // The second field is a name in brackets, which may have anything in it.
    let (_, fields) = stat.rsplit_once(") ").expect("stat of the daemon");
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
