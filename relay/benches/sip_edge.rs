//! The SIP edge in memory, no sockets: framing and forwarding of a MESSAGE up, and of its response down. Shows
//! messages/s and allocations.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a benchmark may panic")]

use std::time::Instant;

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use relay::sip::{
    Advertised, Edge, Flow, Flows, HealthSettings, Keys, Outcome, Scratch, Settings, Side, Transport,
    UpstreamSettings, Upstreams,
};
use tcp_transport::sip::{Event, Framer, Limits};

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

/// Messages in one read.
const BATCH: usize = 16;

fn main() {
    divan::main();
}

struct Open;

impl Flows for Open {
    fn client(&self, connection: u64) -> Option<Flow> {
        let remote = SocketAddr::from(([203, 0, 113, 7], 40_000));
        Some(Flow { connection, side: Side::Client(0), remote, local: None, secure: true })
    }
}

struct Bench {
    edge: Edge,
    upstreams: Upstreams,
    framer: Framer,
    scratch: Scratch,
    out: Vec<Bytes>,
}

impl Bench {
    fn new() -> Self {
        let at = |transport, host: &str, port| Advertised { transport, host: host.into(), port };
        let settings = Settings {
            listeners: vec![at(Transport::Tls, "edge.example.com", 5061)],
            upstreams: vec![UpstreamSettings {
                peer: at(Transport::Tcp, "10.0.0.1", 5060),
                local: at(Transport::Tcp, "edge.example.com", 5060),
                priority: 0,
                weight: 1,
            }],
            retry_after: 10,
            crlf_pingpong: true,
        };
        Self {
            upstreams: Upstreams::new(&settings.upstreams, HealthSettings::default(), Instant::now()),
            edge: Edge::new(settings, Keys::new(b"0123456789abcdef", 1).unwrap()),
            framer: Framer::new(Limits::default().shared()),
            scratch: Scratch::default(),
            out: Vec::new(),
        }
    }

    /// Frames and forwards all that is in `buf`; says how many.
    fn run(&mut self, buf: &mut BytesMut, from: &Flow) -> usize {
        let mut forwarded = 0;
        while let Some(event) = self.framer.decode(buf).unwrap() {
            let outcome =
                self.edge.received(&event, from, &Open, &self.upstreams, &mut self.scratch, &mut self.out);
            assert!(matches!(outcome, Outcome::Send(_)));
            forwarded += 1;
            if let Event::Message(message) = event {
                self.framer.recycle(message.head);
            }
            black_box(&self.out);
            self.out.clear();
        }
        forwarded
    }
}

const MESSAGE: &str = "MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 192.168.0.7:5061;rport;branch=z9hG4bKnashds\r\n\
    Max-Forwards: 70\r\nTo: <sip:bob@example.com>\r\nFrom: \"Alice\" <sip:alice@example.com>;tag=49583\r\n\
    Call-ID: asd88asd77a@192.168.0.7\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: 18\r\n\r\nWatson, come here.";

#[divan::bench]
fn request_up(bencher: Bencher<'_, '_>) {
    let mut bench = Bench::new();
    let from = Flow {
        connection: 7,
        side: Side::Client(0),
        remote: "203.0.113.7:40000".parse().unwrap(),
        local: None,
        secure: true,
    };
    let stream = MESSAGE.repeat(BATCH);
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| BytesMut::from(&*stream))
        .bench_local_values(|mut buf| assert_eq!(bench.run(&mut buf, &from), BATCH));
}

#[divan::bench]
fn response_down(bencher: Bencher<'_, '_>) {
    let mut bench = Bench::new();
    let client = Flow {
        connection: 7,
        side: Side::Client(0),
        remote: "203.0.113.7:40000".parse().unwrap(),
        local: None,
        secure: true,
    };
    let Ok(Some(event)) = bench.framer.decode(&mut BytesMut::from(MESSAGE)) else { panic!() };
    let Bench { edge, upstreams, scratch, out, .. } = &mut bench;
    assert!(matches!(edge.received(&event, &client, &Open, upstreams, scratch, out), Outcome::Send(_)));
    let sent = String::from_utf8(out.concat()).unwrap();
    out.clear();
    let head = sent.split_once("\r\n").unwrap().1.replace("Content-Length: 18", "Content-Length: 0");
    let response = format!("SIP/2.0 200 OK\r\n{}", head.strip_suffix("Watson, come here.").unwrap());
    let upstream = Flow {
        connection: 9,
        side: Side::Upstream(0),
        remote: "10.0.0.1:5060".parse().unwrap(),
        local: None,
        secure: true,
    };
    let stream = response.repeat(BATCH);
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| BytesMut::from(&*stream))
        .bench_local_values(|mut buf| assert_eq!(bench.run(&mut buf, &upstream), BATCH));
}
