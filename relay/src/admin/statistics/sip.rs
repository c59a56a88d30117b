//! The SIP edge.

use super::Family;
use crate::server::Control;

pub(super) fn families(control: &Control) -> Vec<Family> {
    let Some((counters, upstreams)) = control.sip() else { return Vec::new() };
    let [success, client_error, server_error] = counters.answered;
    let results = [
        ("to_upstream", counters.to_upstreams),
        ("to_client", counters.to_clients),
        ("answered_2xx", success),
        ("answered_4xx", client_error),
        ("answered_5xx", server_error),
        ("probe_answer", counters.probed),
        ("dropped", counters.dropped),
        ("connection_closed", counters.closed),
    ];
    let up = Family::gauge("sip", "upstream_up", "Whether an upstream takes requests.");
    vec![
        Family::counter("sip", "messages", "Messages that came, by what became of them.")
            .by("result", results),
        upstreams.iter().fold(up, |family, (name, up)| family.with(&[("upstream", name)], u64::from(*up))),
    ]
}
