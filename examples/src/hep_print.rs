//! A HEP collector for the terminal: [`run`] receives, [`text`] and [`json()`] are how a packet is shown.
//!
//! What agents send is untrusted: control characters of payloads and names never reach the terminal.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};
use tcp_transport::hep::{
    Chunk, DEFAULT_INFLATE_LIMIT, Dispatch, PROTOCOL_TCP, PROTOCOL_UDP, Packet, PayloadType, Received,
    Receiver, ReceiverSettings, TimeOrder,
};
use tcp_transport::tls::{ServerDomain, ServerDomainSettings, ServerDomains};
use tcp_transport::{Ledger, ListenerSettings, Transport};

/// Packets that may wait for the terminal: 4096. More are passed over, and counted.
pub const QUEUE: usize = 4096;

/// A HEP collector for the terminal. Without --udp, --tcp and --tls it listens on 127.0.0.1:5656, UDP and TCP.
#[derive(Parser, Clone, Debug)]
#[command(version)]
pub struct HepPrintOptions {
    /// Receive over UDP here (HEP versions 1, 2 and 3); may be given several times
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub udp: Vec<SocketAddr>,
    /// Receive over TCP here (version 3)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub tcp: Vec<SocketAddr>,
    /// Receive over TLS here (version 3)
    #[arg(long, value_name = "ADDRESS:PORT", requires = "certificate")]
    pub tls: Vec<SocketAddr>,
    /// Our certificate (PEM), for TLS
    #[arg(long, value_name = "FILE", requires = "private_key")]
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub private_key: Option<PathBuf>,
    /// One JSON object a line, instead of text
    #[arg(long)]
    pub json: bool,
    /// Colours; auto: if the output is a terminal
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// End after so many packets
    #[arg(long, value_name = "PACKETS")]
    pub count: Option<u64>,
    /// Version 2 with its time in network byte order, as heplify-server has it
    #[arg(long)]
    pub big_endian_time: bool,
}

/// When there are colours.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// If the output is a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Receives for ever and gives the packets to `packets`; `ready` is told of each address we listen on. What the
/// queue does not take is counted in `dropped`.
///
/// # Errors
/// An address cannot be listened on, or the certificate cannot be read.
pub async fn run(
    options: &HepPrintOptions,
    packets: SyncSender<Received>,
    dropped: Arc<AtomicU64>,
    ready: impl Fn(&str, SocketAddr),
) -> anyhow::Result<()> {
    let time_order = if options.big_endian_time { TimeOrder::Big } else { TimeOrder::Little };
    let settings = ReceiverSettings { time_order, ..ReceiverSettings::default() };
    let dispatch = Dispatch::new(settings).with(move |received: &Received| {
        match packets.try_send(received.clone()) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        ControlFlow::Continue(())
    });
    let dispatch = Arc::new(dispatch);
    let default = [SocketAddr::from(([127, 0, 0, 1], 5656))];
    let nothing_said = options.udp.is_empty() && options.tcp.is_empty() && options.tls.is_empty();
    let (udp, tcp) = if nothing_said { (&default[..], &default[..]) } else { (&*options.udp, &*options.tcp) };
    let mut receivers = tokio::task::JoinSet::new();
    for addr in udp {
        let receiver =
            Receiver::udp(*addr, dispatch.clone()).with_context(|| format!("cannot listen on {addr}"))?;
        ready("hep_udp", receiver.local_addr());
        receivers.spawn(receiver.run());
    }
    let ledger: Arc<Ledger> = Arc::default();
    let stream = |addr: &SocketAddr, transport, domains| {
        Receiver::stream(ListenerSettings::new(*addr, transport), domains, &ledger, dispatch.clone())
    };
    for addr in tcp {
        let receiver = stream(addr, Transport::Tcp, Arc::default())?;
        ready("hep_tcp", receiver.local_addr());
        receivers.spawn(receiver.run());
    }
    if !options.tls.is_empty() {
        let domains = Arc::new(domains(options)?);
        for addr in &options.tls {
            let receiver = stream(addr, Transport::Tls, domains.clone())?;
            ready("hep_tls", receiver.local_addr());
            receivers.spawn(receiver.run());
        }
    }
    while receivers.join_next().await.is_some() {}
    Ok(())
}

fn domains(options: &HepPrintOptions) -> anyhow::Result<ServerDomains> {
    let (Some(certificate), Some(key)) = (&options.certificate, &options.private_key) else {
        bail!("--tls needs --certificate and --private-key");
    };
    let mut settings = ServerDomainSettings::new("hep-print", certificate, key);
    (settings.verify_cert, settings.require_cert) = (false, false);
    Ok(ServerDomains::new([ServerDomain::load(&settings)?])?)
}

/// One line about the packet, and its payload indented below.
#[must_use]
pub fn text(received: &Received, color: bool) -> String {
    let mut packet = received.packet.clone();
    let connection = take_link(&mut packet);
    let (dim, bold, cyan, green, off) =
        if color { ("\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[32m", "\x1b[0m") } else { ("", "", "", "", "") };
    let time = packet.time().map_or_else(|| "(no time)".to_owned(), utc);
    let kind = msrp(&packet).unwrap_or_else(|| {
        packet.payload_type.map_or_else(|| "(no type)".to_owned(), |kind| kind.to_string())
    });
    let end = |end: Option<SocketAddr>| end.map_or_else(|| "?".to_owned(), |end| end.to_string());
    let mut out = format!(
        "{dim}{time}{off} {bold}{kind}{off} {cyan}{} -> {}{off}",
        end(packet.source()),
        end(packet.destination())
    );
    if let Some(id) = &packet.correlation_id {
        let _ = write!(out, " id={green}{}{off}", line(id));
    }
    if let Some(connection) = connection.filter(|id| packet.correlation_id.as_deref() != Some(id.as_bytes()))
    {
        let _ = write!(out, " connection={}", line(connection.as_bytes()));
    }
    if let Some(agent) = packet.capture_id {
        let _ = write!(out, " agent={agent}");
    }
    if let Some(name) = &packet.capture_name {
        let _ = write!(out, " name={}", line(name));
    }
    let _ = write!(
        out,
        "{dim} v{} {} from {}{off}",
        received.version.number(),
        received.transport,
        received.from
    );
    for chunk in &packet.others {
        let value = line(value(chunk).as_bytes());
        let _ = write!(out, "\n    chunk {:#06x}/{:#06x} {value}", chunk.vendor, chunk.kind);
    }
    match packet.content(DEFAULT_INFLATE_LIMIT) {
        Ok(Some(payload)) => {
            for part in String::from_utf8_lossy(&payload).lines() {
                let _ = write!(out, "\n    {}", line(part.as_bytes()));
            }
        }
        Ok(None) => {}
        Err(error) => {
            let _ = write!(out, "\n    ({error})");
        }
    }
    out
}

/// The packet as one line of JSON: [`json()`], with everything escaped that a terminal would obey or be misled by. What
/// is read back is the same.
#[must_use]
pub fn json_line(received: &Received) -> String {
    let mut out = String::new();
    for c in json(received).to_string().chars() {
        // All of those are in the first plane, and within strings, where alone they can stand.
        if is_unsafe(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// What an MSRP message is, its method or status, in place of the type, as MSRP has none of its own.
fn msrp(packet: &Packet) -> Option<String> {
    let start = packet.payload.as_ref()?.strip_prefix(b"MSRP ")?;
    let end = start.iter().position(|octet| matches!(octet, b'\r' | b'\n')).unwrap_or(start.len());
    let transaction = start[..end].iter().position(|octet| *octet == b' ')?;
    Some(format!("MSRP {}", line(&start[transaction + 1..end])))
}

/// Takes the chunk that names the connection of a message, as OpenSIPS and we send it, and gives that name.
fn take_link(packet: &mut Packet) -> Option<String> {
    let at = packet.others.iter().position(|chunk| (chunk.vendor, chunk.kind) == (0, Chunk::LINKS))?;
    let links: Value = serde_json::from_slice(&packet.others[at].value).ok()?;
    // With anything else in it the chunk is shown as it is.
    let name = links.as_object().filter(|links| links.len() == 1)?.get("net")?.as_str()?.to_owned();
    packet.others.remove(at);
    Some(name)
}

/// The packet as one JSON object. Keys that are not there were not in the packet; `payload` is text, and
/// `payload_hex` is there instead if it is none.
#[must_use]
pub fn json(received: &Received) -> Value {
    let packet = &received.packet;
    let mut object = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(key.to_owned(), value);
        }
    };
    put("version", Some(received.version.number().into()));
    put("transport", Some(received.transport.as_str().into()));
    put("agent", Some(received.from.to_string().into()));
    put("time", packet.time().map(|time| utc(time).into()));
    put("source", packet.source().map(|end| end.to_string().into()));
    put("destination", packet.destination().map(|end| end.to_string().into()));
    let protocol = packet.protocol.map(|protocol| match protocol {
        PROTOCOL_TCP => "tcp".into(),
        PROTOCOL_UDP => "udp".into(),
        other => other.into(),
    });
    put("protocol", protocol);
    put("payload_type", packet.payload_type.map(|kind| kind.0.into()));
    put("payload_name", packet.payload_type.and_then(PayloadType::name).map(Into::into));
    put("capture_id", packet.capture_id.map(Into::into));
    let octets = |octets: &Option<bytes::Bytes>| -> Option<Value> {
        octets.as_ref().map(|octets| String::from_utf8_lossy(octets).into())
    };
    put("capture_name", octets(&packet.capture_name));
    put("correlation_id", octets(&packet.correlation_id));
    match packet.content(DEFAULT_INFLATE_LIMIT) {
        Ok(Some(payload)) => match std::str::from_utf8(&payload) {
            Ok(text) => put("payload", Some(text.into())),
            Err(_) => put("payload_hex", Some(hex(&payload).into())),
        },
        Ok(None) => {}
        Err(error) => put("payload_error", Some(error.to_string().into())),
    }
    let others = packet
        .others
        .iter()
        .map(|chunk| json!({ "vendor": chunk.vendor, "type": chunk.kind, "value": value(chunk) }));
    put("chunks", (!packet.others.is_empty()).then(|| others.collect()));
    Value::Object(object)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut out, octet| {
        let _ = write!(out, "{octet:02x}");
        out
    })
}

/// Text for the terminal: what a terminal would obey or be misled by is escaped.
fn line(octets: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(octets).chars() {
        if is_unsafe(c) && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Control characters (those from U+0080 to U+009F begin escape sequences too), line and paragraph separators, and what
/// turns the direction of text around, so that it reads as something else.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The value of a chunk without a field, for people to read: text, or hexadecimal. An authentication key is a secret.
fn value(chunk: &Chunk) -> String {
    if chunk.is_auth_key() {
        return "(authentication key)".to_owned();
    }
    std::str::from_utf8(&chunk.value).map_or_else(|_| hex(&chunk.value), str::to_owned)
}

/// RFC 3339, in UTC, to the microsecond.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0 of a 400-year cycle, so that leap days end years.
    let days = day + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (date, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_700_000_000, "2023-11-14T22:13:20.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_294_967_295, "2106-02-07T06:28:15.000000Z"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn nothing_reaches_the_terminal_that_it_would_obey() {
        assert_eq!(line(b"a\x1b[31mb\r\n\x07\xff\tc\xc2\x9b"), "a\\u{1b}[31mb\\r\\n\\u{7}\u{fffd}\tc\\u{9b}");
        // Text that would run backwards, and lines that are none.
        assert_eq!(
            line("a\u{202e}b\u{2066}c\u{200f}d\u{2028}é".as_bytes()),
            "a\\u{202e}b\\u{2066}c\\u{200f}d\\u{2028}é"
        );
    }
}
