//! An edge with three listeners and two upstreams, and messages as text.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use tcp_transport::sip::{Event, Framer, Head, Message, Name};

use crate::sip::{
    Advertised, Destination, Edge, Flow, Flows, HealthSettings, Keys, Outcome, Scratch, Settings, Side,
    Transport, UpstreamSettings, Upstreams,
};

pub(super) const SECRET: &[u8] = b"a secret of the edge";

/// Listeners, by index.
pub(super) const WSS: usize = 0;
pub(super) const TLS: usize = 1;
pub(super) const TCP: usize = 2;

pub(super) struct Net {
    pub(super) edge: Edge,
    pub(super) upstreams: Upstreams,
    /// The clients' connections that are open.
    pub(super) open: HashMap<u64, Flow>,
    pub(super) scratch: Scratch,
    pub(super) now: Instant,
}

impl Flows for HashMap<u64, Flow> {
    fn client(&self, connection: u64) -> Option<Flow> {
        self.get(&connection).copied()
    }
}

fn advertised(transport: Transport, host: &str, port: u16) -> Advertised {
    Advertised { transport, host: host.into(), port }
}

pub(super) fn settings() -> Settings {
    let upstream = |host| UpstreamSettings {
        peer: advertised(Transport::Tcp, host, 5060),
        local: advertised(Transport::Tcp, "edge.example.com", 5060),
        priority: 0,
        weight: 1,
    };
    Settings {
        listeners: vec![
            advertised(Transport::Wss, "edge.example.com", 443),
            advertised(Transport::Tls, "edge.example.com", 5061),
            advertised(Transport::Tcp, "edge.example.com", 5060),
        ],
        upstreams: vec![upstream("10.0.0.1"), upstream("10.0.0.2")],
        retry_after: 10,
        crlf_pingpong: true,
    }
}

impl Net {
    pub(super) fn new() -> Self {
        Self::with(settings(), 1)
    }

    /// With these settings, in the process with this number.
    pub(super) fn with(settings: Settings, instance: u64) -> Self {
        let now = Instant::now();
        let upstreams = Upstreams::new(&settings.upstreams, HealthSettings::default(), now);
        let edge = Edge::new(settings, Keys::new(SECRET, instance).unwrap());
        Self { edge, upstreams, open: HashMap::new(), scratch: Scratch::default(), now }
    }

    /// A client's connection.
    pub(super) fn client(&mut self, connection: u64, listener: usize) -> Flow {
        let remote = format!("203.0.113.{}:40000", connection % 250).parse().unwrap();
        // Those of the settings: WSS, TLS, TCP.
        let secure = listener != TCP;
        let flow = Flow { connection, side: Side::Client(listener), remote, local: None, secure };
        self.open.insert(connection, flow);
        flow
    }

    /// A connection to an upstream.
    pub(super) fn upstream(&self, index: usize) -> Flow {
        let remote = format!("10.0.0.{}:5060", index + 1).parse().unwrap();
        let secure = self.edge.settings.upstreams[index].peer.transport.is_secure();
        Flow { connection: 1000 + index as u64, side: Side::Upstream(index), remote, local: None, secure }
    }

    /// What becomes of a message that comes over `from`, and what is written.
    pub(super) fn receive(&mut self, from: &Flow, text: &str) -> (Outcome, String) {
        let event = Framer::default().whole(Bytes::copy_from_slice(text.as_bytes())).unwrap().unwrap();
        let mut out = Vec::new();
        let outcome =
            self.edge.received(&event, from, &self.open, &self.upstreams, &mut self.scratch, &mut out);
        let written = String::from_utf8(out.concat()).unwrap();
        if !written.is_empty() {
            // Whatever is sent is in order, over a stream too.
            let message = parse(&written);
            assert_eq!(message.head.content_length().map(|length| length as usize), Some(message.body.len()));
        }
        (outcome, written)
    }

    /// As [`receive`](Self::receive), for what is sent on.
    #[track_caller]
    pub(super) fn sent(&mut self, from: &Flow, text: &str) -> (Destination, String) {
        match self.receive(from, text) {
            (Outcome::Send(to), text) => (to, text),
            (other, answer) => panic!("{other:?}\n{answer}\n{text}"),
        }
    }

    /// As [`receive`](Self::receive), for what goes to an upstream: which, and the message.
    #[track_caller]
    pub(super) fn upwards(&mut self, from: &Flow, text: &str) -> (usize, String) {
        match self.sent(from, text) {
            (Destination::Upstream { index, .. }, text) => (index, text),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// As [`receive`](Self::receive), for what is answered: the status and the answer.
    #[track_caller]
    pub(super) fn answered(&mut self, from: &Flow, text: &str) -> (u16, String) {
        match self.receive(from, text) {
            (Outcome::Respond { status, close: false }, answer) => {
                assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{answer}");
                (status, answer)
            }
            (other, sent) => panic!("{other:?}\n{sent}"),
        }
    }
}

pub(super) fn parse(text: &str) -> Message {
    match Framer::default().whole(Bytes::copy_from_slice(text.as_bytes())) {
        Ok(Some(Event::Message(message))) => message,
        other => panic!("{other:?}\n{text}"),
    }
}

/// A request as text, by its fields; the rest is as everybody has it.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
    pub(super) via: &'a str,
    pub(super) to_tag: &'a str,
    /// Further lines, each with its CRLF.
    pub(super) fields: &'a str,
    pub(super) body: &'a str,
}

pub(super) const VIA_OF_BROWSER: &str = "SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK56sdasks";
pub(super) const VIA_OF_PHONE: &str = "SIP/2.0/TLS 192.168.0.7:5061;rport;branch=z9hG4bKnashds";
pub(super) const VIA_OF_UPSTREAM: &str = "SIP/2.0/TCP 10.0.0.1;branch=z9hG4bK1d32hash4";

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            method: "MESSAGE",
            uri: "sip:bob@example.com",
            via: VIA_OF_BROWSER,
            to_tag: "",
            fields: "",
            body: "",
        }
    }
}

impl Request<'_> {
    pub(super) fn text(&self) -> String {
        let Self { method, uri, via, to_tag, fields, body } = self;
        let cseq_method = method;
        format!(
            "{method} {uri} SIP/2.0\r\nVia: {via}\r\n{fields}Max-Forwards: 70\r\nTo: <sip:bob@example.com>{to_tag}\r\n\
             From: <sip:alice@example.com>;tag=a1\r\nCall-ID: c1@client.invalid\r\nCSeq: 1 {cseq_method}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}

/// The response to a request that was forwarded, as its receiver builds it.
pub(super) fn response(request: &str, status: &str, fields: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.lines() {
        let name = line.split(':').next().unwrap();
        if ["Via", "From", "Call-ID", "CSeq", "Record-Route", "Path"].contains(&name) {
            text += &format!("{line}\r\n");
        } else if name == "To" {
            let tag = if line.contains("tag=") { "" } else { ";tag=b1" };
            text += &format!("{line}{tag}\r\n");
        }
    }
    text + fields + "Content-Length: 0\r\n\r\n"
}

/// All values of a field.
pub(super) fn values(text: &str, name: Name) -> Vec<String> {
    let message = parse(text);
    let head: &Head = &message.head;
    head.values(name).map(|value| String::from_utf8(head[value.unwrap().0].to_vec()).unwrap()).collect()
}

/// The branch of the top Via.
pub(super) fn branch(text: &str) -> String {
    let message = parse(text);
    let via = message.head.top_via().unwrap();
    String::from_utf8(via.branch().unwrap().to_vec()).unwrap()
}

/// The user of the URI in the first value of a field: the flow token.
pub(super) fn token(text: &str, name: Name) -> String {
    let value = values(text, name).remove(0);
    value.split_once(':').unwrap().1.split_once('@').unwrap().0.to_owned()
}

/// A Route line for these entries.
pub(super) fn route(entries: &[String]) -> String {
    format!("Route: {}\r\n", entries.join(", "))
}
