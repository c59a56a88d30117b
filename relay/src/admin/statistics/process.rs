//! What the system knows of this process, under the names that Prometheus' client libraries gave it. Linux only; elsewhere
//! there is nothing.

use std::fs;

use super::Family;

pub(super) fn families() -> Vec<Family> {
    read().unwrap_or_default()
}

fn read() -> Option<Vec<Family>> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in brackets, and may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let page = rustix::param::page_size() as u64;
    let descriptors = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    let limit = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(0, |(soft, _)| soft);
    Some(vec![
        Family::counter("process", "cpu", "Processor time used, by user and system.")
            .unit("seconds")
            .value((field(14)? + field(15)?) as f64 / ticks),
        Family::gauge("process", "resident_memory", "Memory in use.").unit("bytes").value(field(24)? * page),
        Family::gauge("process", "virtual_memory", "Memory reserved.").unit("bytes").value(field(23)?),
        Family::gauge("process", "threads", "Threads.").value(field(20)?),
        Family::gauge("process", "open_fds", "Open descriptors.").value(descriptors),
        Family::gauge("process", "max_fds", "Descriptors there may be.").value(limit),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::*;

    #[test]
    fn the_process_knows_itself() {
        let families = families();
        let value = |short: &str| {
            let family = families.iter().find(|family| family.short == short).unwrap();
            match family.samples[0].value {
                Value::Count(value) => value as f64,
                Value::Real(value) => value,
            }
        };
        assert!(value("resident_memory") > 100_000.0 && value("resident_memory") < value("virtual_memory"));
        assert!(value("threads") >= 1.0 && value("open_fds") >= 3.0 && value("max_fds") > value("open_fds"));
        assert!(value("cpu") >= 0.0);
    }
}
