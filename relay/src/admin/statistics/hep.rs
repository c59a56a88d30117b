//! Tracing, and the HEP of others.

use tcp_transport::hep::Counters;

use super::Family;
use crate::server::Control;

pub(super) fn families(control: &Control) -> Vec<Family> {
    let mut families = Vec::new();
    if let Some(switches) = control.trace() {
        families.extend(destinations(&switches));
    }
    if let Some(counters) = control.hep_counters() {
        let receiver = counters.receiver;
        families.push(
            Family::counter("hep", "received", "Packets of other agents, by what became of them.").by(
                "result",
                [
                    ("forwarded", counters.forwarded),
                    ("filtered", counters.filtered),
                    ("unwanted", counters.unwanted),
                    ("own", counters.own),
                    ("malformed", receiver.malformed),
                    ("refused_sender", receiver.refused_sender),
                    ("refused_auth_key", receiver.refused_auth_key),
                ],
            ),
        );
    }
    families
}

fn destinations(switches: &crate::server::TraceSwitches) -> Vec<Family> {
    let on = switches.state().is_some_and(|state| state.on);
    let destinations = switches.destinations();
    let of = |family: Family, value: fn(&Counters) -> u64| {
        destinations.iter().fold(family, |family, destination| {
            family.with(&[("destination", &destination.name)], value(&destination.counters))
        })
    };
    let mut dropped = Family::counter("trace", "dropped", "Packets that a collector was not told, by why.");
    for destination in &destinations {
        let Counters { dropped_by_queue, dropped_while_down, dropped_unsendable, .. } = destination.counters;
        for (reason, count) in
            [("queue", dropped_by_queue), ("down", dropped_while_down), ("unsendable", dropped_unsendable)]
        {
            dropped = dropped.with(&[("destination", &destination.name), ("reason", reason)], count);
        }
    }
    vec![
        Family::gauge("trace", "on", "Whether tracing is on.").value(u64::from(on)),
        of(Family::counter("trace", "submitted", "Packets meant for a collector."), |counters| {
            counters.submitted
        }),
        of(Family::counter("trace", "sent", "Packets that the system has taken for it."), |counters| {
            counters.sent
        }),
        dropped,
        of(Family::gauge("trace", "waiting", "Packets that wait for it."), |counters| counters.waiting),
        of(
            Family::counter(
                "trace",
                "possibly_lost",
                "An upper bound of what got lost with broken connections.",
            )
            .unit("bytes"),
            |counters| counters.possibly_lost_bytes,
        ),
        of(Family::counter("trace", "connections_broken", "Connections to it that broke."), |counters| {
            counters.broken
        }),
        Family::counter("trace", "events_lost", "Connection events that came too fast to be traced.")
            .value(switches.lost_events()),
    ]
}
