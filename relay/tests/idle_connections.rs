//! What an idle TLS connection costs the relay, and one for WebSocket with a session, and that they leave nothing
//! behind. A process of its own with one
//! test in it: the allocator counts for all of it. What aws-lc allocates by itself is not in the count.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::alloc::System;
use std::collections::BTreeMap;
use std::fs;
use std::future::ready;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use rcgen::{CertificateParams, KeyPair};
use relay::config::Config;
use relay::server::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tcp_transport::connection::FIRST_QUIET;
use tcp_transport::tls::{ClientDomain, ClientDomainSettings};
use tcp_transport::ws::frame::{Opcode, header};
use tcp_transport::{Connector, Stream, Target, Transport, ws};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes allocated and not freed.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn config(directory: &Path) -> Config {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().self_signed(&key).unwrap();
    fs::write(directory.join("crt"), certificate.pem()).unwrap();
    fs::write(directory.join("key"), key.serialize_pem()).unwrap();
    let text = "domain: 127.0.0.1\nlisteners: [ { uri: 'msrps://127.0.0.1:0', tls_domain: main }, { uri: 'msrp://127.0.0.1:0' },\n\
                { uri: 'wss://127.0.0.1:0', tls_domain: main } ]\n\
                websocket: { ping_interval: 0s, auth: { token: { secret: '0123456789abcdef0123456789abcdef', query: t } } }\n\
                tls: { server_domains: { main: { certificate: crt, private_key: key, ca_list: crt } } }\n\
                auth: { users: { alice: { password: a } } }\ntimeouts: { probation: 1h, idle_timeout: 1d }\n";
    let mut config = Config::parse(text, directory, "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    // The test moves the clock, which is that of its own runtime.
    config.threads = 0;
    config
}

/// HS256 over {"sub":"alice","exp":4102444800} with the secret of the configuration; the end is in the year 2100.
const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.\
                     UwANaTMXAKSHt8g5xDKvpGjOTg_c_DY4S5Gn5hmF3Gs";

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// TLS, no session.
    Tls,
    /// WebSocket over TLS, with a session.
    Wss,
}

struct Clients {
    connector: Connector,
    domain: ClientDomain,
}

impl Clients {
    fn new() -> Self {
        let mut settings = ClientDomainSettings::new("client");
        settings.verify_cert = false;
        let domain = ClientDomain::load(&settings).unwrap();
        Self { connector: Connector::new(Default::default(), |_, _| true), domain }
    }

    async fn connect(&self, kind: Kind, server: &Server) -> Stream {
        match kind {
            Kind::Tls => self.connect_tls(server.addresses()[0].1.port()).await,
            Kind::Wss => self.connect_wss(server.addresses()[2].1.port()).await,
        }
    }

    /// One that sends one request, which the relay refuses, and then nothing.
    async fn connect_tls(&self, port: u16) -> Stream {
        let target = Target { host: "127.0.0.1".into(), port, transport: Transport::Tls };
        let stream = self.connector.connect(&target, Some(&self.domain)).await.unwrap();
        let request = format!(
            "MSRP abcd1234 SEND\r\nTo-Path: msrps://127.0.0.1:{port}/nosession;tcp\r\n\
             From-Path: msrps://c.invalid:1/x;tcp\r\nMessage-ID: 1\r\nByte-Range: 1-1/1\r\n\
             Content-Type: text/plain\r\n\r\nx\r\n-------abcd1234$\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&stream).await;
        assert!(answer.starts_with(b"MSRP abcd1234 481"), "{answer:?}");
        stream
    }

    /// One that gets a session, and then does nothing.
    async fn connect_wss(&self, port: u16) -> Stream {
        let target = Target::websocket("127.0.0.1", Some(port), Transport::Tls);
        let offer =
            ws::Offer { protocols: vec!["msrp".into()], ..ws::Offer::to(&target, format!("/?t={TOKEN}")) };
        let (stream, opened) = self.connector.connect_ws(&target, Some(&self.domain), &offer).await.unwrap();
        assert!(opened.rest.is_empty());
        let request = "MSRP abcd1234 AUTH\r\nTo-Path: msrps://127.0.0.1;ws\r\n\
                       From-Path: msrps://c.invalid:1/x;ws\r\n-------abcd1234$\r\n";
        let mut frame = Vec::new();
        // A mask of zeros changes nothing.
        header(&mut frame, true, Opcode::Binary, request.len() as u64, Some([0; 4]));
        frame.extend_from_slice(request.as_bytes());
        stream.write_all(&frame).await.unwrap();
        let answer = answer(&stream).await;
        assert!(answer[4..].starts_with(b"MSRP abcd1234 200"), "{answer:?}");
        stream
    }
}

async fn answer(stream: &Stream) -> BytesMut {
    let mut answer = BytesMut::new();
    while !answer.ends_with(b"-------abcd1234$\r\n") {
        assert_ne!(stream.read(&mut answer, 4096).await.unwrap(), 0, "the relay answers");
    }
    answer
}

async fn settle(server: &Server) {
    let empty = async {
        while !server.ledger().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.expect("all connections end");
    // What the runtime has for a socket is freed when it next looks for events.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// So long that each connection has given back what it keeps for the next message, and no socket is waited for.
async fn silence() {
    tokio::time::pause();
    tokio::time::advance(2 * FIRST_QUIET).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

/// Opens so many, one after the other, and lets go of them: what the relay's end of each takes.
async fn held(server: &Server, clients: &Clients, kind: Kind, connections: usize) -> BTreeMap<usize, usize> {
    // Each client is like the others, so its own end is that of the first.
    drop(clients.connect(kind, server).await);
    settle(server).await;
    let first = clients.connect(kind, server).await;
    silence().await;
    let before = live();
    drop(first);
    let own = before - live();
    settle(server).await;

    let mut sizes = BTreeMap::new();
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let before = live();
        held.push(clients.connect(kind, server).await);
        silence().await;
        *sizes.entry(live() - before - own).or_default() += 1;
    }
    assert_eq!(server.ledger().len(), connections);
    drop(held);
    settle(server).await;
    sizes
}

#[tokio::test]
async fn idle_connections_are_held_with_the_memory_of_each_known() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(config(dir.path())).await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    // Session stores that are full, and tables that have twice the room of what follows, so that they never
    // grow for the sake of order alone.
    let clients = Clients::new();
    held(&server, &clients, Kind::Tls, CONNECTIONS).await;
    let plain = server.addresses()[1].1.port();
    let target = Target { host: "127.0.0.1".into(), port: plain, transport: Transport::Tcp };
    let mut at_once = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        at_once.push(clients.connector.connect(&target, None).await.unwrap());
    }
    drop(at_once);
    settle(&server).await;
    // The relay's table of sessions grows, here and there, by the random ids it has: less than this.
    for (kind, table, average_limit) in [(Kind::Tls, 0, 16 * 1024), (Kind::Wss, 64 * 1024, 16 * 1024)] {
        held(&server, &clients, kind, 1).await;
        // rustls' table of sessions grows once, at a moment that depends on random keys; what leaks does so each time.
        let mut left = Vec::new();
        for _ in 0..3 {
            let before = (descriptors(), tasks(), live());
            let sizes = held(&server, &clients, kind, CONNECTIONS).await;
            let average = sizes.iter().map(|(bytes, times)| bytes * times).sum::<usize>() / CONNECTIONS;
            let (min, max) = (*sizes.keys().next().unwrap(), *sizes.keys().next_back().unwrap());
            let before_output = live();
            println!(
                "{CONNECTIONS} idle {kind:?} connections of the relay: min {min}, average {average}, max {max} bytes"
            );
            sizes.iter().for_each(|(bytes, times)| println!("  {times} of {bytes} bytes"));
            // The test harness keeps it.
            let output = live() - before_output;
            assert!(average < average_limit && max < 64 * 1024, "{kind:?}: {sizes:?}");
            drop(sizes);
            let after = (descriptors(), tasks(), live() - output);
            println!("before {before:?}, after {after:?} descriptors, tasks, bytes");
            assert_eq!((after.0, after.1), (before.0, before.1), "descriptors, tasks");
            left.push((before.2, after.2));
            if after.2 <= before.2 + table {
                break;
            }
        }
        let settled = left.iter().any(|(before, after)| *after <= before + table);
        assert!(settled, "{kind:?}: bytes are left each time: {left:?}");
    }
    server.stop(ready(())).await;
}
