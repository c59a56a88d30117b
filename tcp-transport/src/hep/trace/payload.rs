//! What a connection event says, as JSON or as text.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::event::{ConnectionEvent, Direction, EventKind};
use crate::hep::EventFormat;
use crate::scheme::Scheme;

/// `up`: the connection had come up.
pub(super) fn render(event: &ConnectionEvent, up: bool, format: &EventFormat) -> Bytes {
    let values = values(event, up);
    match format {
        // Text keys and plain values: nothing of it can fail.
        EventFormat::Json => serde_json::to_vec(&values).unwrap_or_default().into(),
        EventFormat::Text(delimiter) => text(&values, *delimiter).into(),
    }
}

/// Keys and values in their order, which the text form lives on.
struct Values(Vec<(Cow<'static, str>, Value)>);

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

fn values(event: &ConnectionEvent, up: bool) -> Values {
    let mut values = Vec::with_capacity(24);
    let mut put = |key: &'static str, value: Value| values.push((Cow::Borrowed(key), value));
    let protocol = event.scheme.map_or(event.transport.as_str(), Scheme::as_str);
    let (name, success) = outcome(event, up);
    put("Protocol", protocol.to_ascii_uppercase().into());
    put("Event", name.into());
    put("Status", if success { "SUCCESS" } else { "FAILURE" }.into());
    let ending = event.kind.ending();
    put("Message", ending.map_or_else(|| message(&event.kind), |ending| ending.reason.as_ref()).into());
    put("Kind", event.kind.name().into());
    let direction = match event.direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    };
    put("Direction", direction.into());
    if let Some(proxy) = event.proxy {
        put("Proxy", proxy.to_string().into());
    }
    if let Some(ending) = ending {
        put("BytesIn", ending.bytes_in.into());
        put("BytesOut", ending.bytes_out.into());
        put("MessagesIn", ending.messages_in.into());
        put("MessagesOut", ending.messages_out.into());
        put("Duration", ending.duration.as_secs_f64().into());
    }
    if let Some(tls) = &event.tls {
        put("TlsVersion", tls.version().into());
        put("TlsCipher", tls.cipher().into());
        put("TlsDomain", tls.domain().into());
        put("TlsResumed", tls.resumed().into());
        if let Some(group) = tls.key_exchange() {
            put("TlsKeyExchange", group.into());
        }
        if let Some(sni) = tls.sni() {
            put("Sni", sni.into());
        }
        // Who is server and who client, in OpenSIPS' words.
        let own = tls.own_certificate();
        let peer = tls.peer_facts().map(|facts| &facts.certificate);
        let (server, client) = match event.direction {
            Direction::Inbound => (own, peer),
            Direction::Outbound => (peer, own),
        };
        if let Some(server) = server {
            put("server-subject", server.subject.name.as_str().into());
            put("server-issuer", server.issuer.name.as_str().into());
        }
        if let Some(client) = client {
            put("client-subject", client.subject.name.as_str().into());
            put("client-issuer", client.issuer.name.as_str().into());
        }
        if tls.peer_facts().is_some() {
            put("PeerVerified", tls.peer().is_verified().into());
        }
    }
    Values(values)
}

/// The event in OpenSIPS' words, and whether it is a good one.
fn outcome(event: &ConnectionEvent, up: bool) -> (&'static str, bool) {
    let begin = match event.direction {
        Direction::Inbound => "ACCEPTED",
        Direction::Outbound => "CONNECTED",
    };
    match event.kind {
        EventKind::Accepted => ("ACCEPTED", true),
        EventKind::ConnectStarted => ("CONNECT_START", true),
        EventKind::Connected => ("CONNECTED", true),
        EventKind::Closed(_) => ("CLOSED", true),
        EventKind::Reset(_) => ("CLOSED", false),
        EventKind::TimedOut(_) | EventKind::Failed(_) => (if up { "CLOSED" } else { begin }, false),
    }
}

fn message(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Accepted => "Connection accepted",
        EventKind::ConnectStarted => "Connecting",
        _ => "Successfully connected",
    }
}

/// The values in their order. A delimiter within one becomes a space, or they could not be told apart.
fn text(Values(values): &Values, delimiter: char) -> String {
    let mut out = String::new();
    for (i, (_, value)) in values.iter().enumerate() {
        if i > 0 {
            out.push(delimiter);
        }
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.extend(value.chars().map(|c| if c == delimiter || c.is_control() { ' ' } else { c }));
    }
    out
}
