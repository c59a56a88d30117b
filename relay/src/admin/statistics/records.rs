//! Session records, by sink.

use super::Family;
use crate::records::SinkStats;
use crate::server::Control;

pub(super) fn families(control: &Control) -> Vec<Family> {
    let sinks = control.records().stats();
    if sinks.is_empty() {
        return Vec::new();
    }
    let of = |family: Family, value: fn(&SinkStats) -> u64| {
        sinks.iter().fold(family, |family, sink| {
            family.with(&[("sink", sink.name.as_str()), ("type", sink.kind)], value(sink))
        })
    };
    let counter = |short, help| Family::counter("records", short, help);
    let gauge = |short, help| Family::gauge("records", short, help);
    vec![
        of(counter("written", "Session records that their sink has taken."), |sink| sink.counts.written),
        of(counter("lost", "Session records lost, since the queue was full."), |sink| sink.counts.lost),
        of(counter("refused", "Session records that their sink refused; they are in the log."), |sink| {
            sink.counts.refused
        }),
        of(counter("skipped", "Interim records left out, since the queue was half full."), |sink| {
            sink.counts.skipped
        }),
        of(gauge("queued", "Session records that wait for their sink."), |sink| sink.counts.queued as u64),
        of(gauge("available", "Whether the sink took what it was last given."), |sink| {
            u64::from(sink.available)
        }),
    ]
}
