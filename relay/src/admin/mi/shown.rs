//! How things look in JSON.

use std::time::SystemTime;

use serde_json::{Value, json};
use tcp_transport::event::Direction;
use tcp_transport::ledger::Phase;

use super::super::statistics::unix_seconds;
use crate::server::{ConnectionInfo, SessionFacts, Way};

/// A session.
#[must_use]
pub(in crate::admin) fn session(facts: &SessionFacts) -> Value {
    json!({
        "id": facts.id,
        "uri": facts.uri,
        "user": facts.user,
        "owner": facts.owner,
        "by_relay": facts.by_relay,
        "peers": facts.peers,
        "began": time(facts.began),
        "seconds": rounded(facts.seconds),
        "expires_in": rounded(facts.expires_in),
        "sent": way(&facts.from_owner),
        "received": way(&facts.to_owner),
    })
}

fn way(way: &Way) -> Value {
    json!({ "messages": way.messages, "chunks": way.chunks, "bytes": way.bytes, "reports": way.reports })
}

/// A connection.
pub(super) fn connection(info: &ConnectionInfo) -> Value {
    let entry = &info.entry;
    json!({
        "id": entry.id().as_u64(),
        "protocol": entry.scheme().map_or(entry.transport().as_str(), |scheme| scheme.as_str()),
        "direction": match entry.direction() { Direction::Inbound => "in", Direction::Outbound => "out" },
        "phase": match entry.phase() {
            Phase::Opening => "opening",
            Phase::Open => "open",
            Phase::Ended => "closing",
        },
        "state": info.state.code(),
        "local": entry.local().map(|local| local.to_string()),
        "remote": entry.remote().to_string(),
        "proxy": entry.proxy().map(|proxy| proxy.to_string()),
        "seconds": rounded(entry.age().as_secs_f64()),
        "lifetime": entry.lifetime().map(|lifetime| lifetime.as_secs()),
        "bytes_in": entry.bytes_in(),
        "bytes_out": entry.bytes_out(),
        "queued": info.queued_bytes,
        "link": info.link,
        "sessions": info.sessions,
    })
}

/// Seconds since the epoch, to the millisecond.
pub(super) fn time(time: SystemTime) -> f64 {
    rounded(unix_seconds(time))
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
