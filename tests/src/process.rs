//! What the system knows about a process.

use std::fs;

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Resident memory now, bytes.
    pub memory: u64,
    /// The most resident memory there was, bytes.
    pub peak_memory: u64,
    /// Open file descriptors.
    pub descriptors: usize,
}

impl Resources {
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status of the daemon");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim_start_matches(':').split_whitespace().next());
            kib.and_then(|kib| kib.parse::<u64>().ok()).expect("memory in the status of the daemon") * 1024
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors of the daemon").count();
        Self { memory: field("VmRSS"), peak_memory: field("VmHWM"), descriptors }
    }
}
