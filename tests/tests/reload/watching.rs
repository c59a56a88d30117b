//! Who watches: records, HEP, events.

use std::net::UdpSocket;
use std::path::Path;

use super::*;

async fn records(path: &Path, wanted: usize) -> Vec<Value> {
    let found = async {
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= wanted {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let text = within(format_args!("{wanted} records in {path:?}"), found).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn records_go_to_the_sinks_there_are() {
    let sinks = |sinks: &str| Settings { records: format!("sinks: {{ {sinks} }}"), ..Settings::default() };
    let running = Running::start(&Settings::default()).await;
    let visit = async |user: &str| {
        let (client, _) = Client::with_session(&running.daemon, &running.site, Scheme::Msrp, user).await;
        client.close().await;
    };
    visit("carol").await;
    running.reload(&sinks("a: { file: { path: a.jsonl } }")).await;
    visit("carol").await;
    let first = records(&running.site.path("a.jsonl"), 1).await;
    assert_eq!(first[0]["user"], "carol");
    running.reload(&sinks("a: { file: { path: a.jsonl } }, b: { file: { path: b.jsonl } }")).await;
    visit("dave").await;
    records(&running.site.path("a.jsonl"), 2).await;
    running.reload(&sinks("b: { file: { path: b.jsonl } }")).await;
    visit("carol").await;
    let users = |records: &[Value]| records.iter().map(|one| one["user"].to_string()).collect::<String>();
    assert_eq!(users(&records(&running.site.path("b.jsonl"), 2).await), r#""dave""carol""#);
    assert_eq!(users(&records(&running.site.path("a.jsonl"), 2).await), r#""carol""dave""#);
    running.goes_on().await;
}

#[tokio::test]
async fn what_waits_for_a_sink_that_changes_or_goes_is_not_forgotten() {
    let with = |sinks: &str| Settings {
        records: format!("sinks: {{ {sinks} }}"),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        ..Settings::default()
    };
    let away = |name: &str| format!("{name}: {{ syslog: {{ address: 'unix:nobody' }} }}");
    let running = Running::start(&with(&format!("{}, {}", away("a"), away("b")))).await;
    let admin = Admin::of(&running.daemon).await.remove(0);
    let queued = async |name: &str, wanted: f64| {
        let name = format!("msrp_relay_records_queued{{sink=\"{name}\",type=\"syslog\"}}");
        let waiting = async {
            while admin.metric(&name).await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(format_args!("{name} {wanted}"), waiting).await;
    };
    let (client, _) = Client::with_session(&running.daemon, &running.site, Scheme::Msrp, "carol").await;
    client.close().await;
    queued("a", 1.0).await;
    running.reload(&with("a: { file: { path: a.jsonl } }")).await;
    assert_eq!(records(&running.site.path("a.jsonl"), 1).await[0]["user"], "carol");
    queued("b", 1.0).await;
    // It is there again, and gets what waited for the former one.
    running.reload(&with("b: { file: { path: b.jsonl } }")).await;
    assert_eq!(records(&running.site.path("b.jsonl"), 1).await[0]["user"], "carol");
    running.goes_on().await;
}

/// Until a packet with these words comes.
async fn traced(collector: &UdpSocket, words: &str) {
    let found = async {
        let mut buffer = vec![0; 65_536];
        loop {
            match collector.recv(&mut buffer) {
                Ok(length) if String::from_utf8_lossy(&buffer[..length]).contains(words) => return,
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    within(format_args!("{words:?}"), found).await;
}

fn collector() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[tokio::test]
async fn tracing_is_switched_and_moved_on_connections_that_are_there() {
    let ((one, first), (other, second)) = (collector(), collector());
    let trace = |port: u16, more: &str| Settings {
        trace: format!(
            "destinations: {{ a: {{ uri: 'hep_udp://127.0.0.1:{port}' }} }}, \
             protocols: {{ msrp: {{ messages: true }} }}{more}"
        ),
        ..Settings::default()
    };
    let mut running = Running::start(&trace(first, ", trace_on: false")).await;
    let message =
        |id: &str, running: &Running| Send::text(&running.from_bob.to(&running.from_bob), id, "hello");
    running.reload(&trace(first, "")).await;
    let sent = message("switched", &running);
    running.bob.tx.send(&sent).await;
    traced(&one, "Message-ID: switched").await;
    running.reload(&trace(second, "")).await;
    let sent = message("moved", &running);
    running.bob.tx.send(&sent).await;
    traced(&other, "Message-ID: moved").await;
    running.reload(&trace(second, ", trace_filter: [ { trace: false, remote: 127.0.0.0/8 } ]")).await;
    running.reload(&Settings::default()).await;
    running.reload(&trace(first, "")).await;
    // One that has come since.
    let (mut carol, session) =
        Client::with_session(&running.daemon, &running.site, Scheme::Msrp, "carol").await;
    carol.tx.send(&Send::text(&session.to(&session), "anew", "hello")).await;
    traced(&one, "Message-ID: anew").await;
}

#[tokio::test]
async fn others_hep_is_received_as_the_file_says() {
    let (socket, port) = collector();
    let hep = |from: &str| Settings {
        trace: format!("destinations: {{ a: {{ uri: 'hep_udp://127.0.0.1:{port}' }} }}"),
        hep_udp: Some("127.0.0.1:0".into()),
        hep: Some(format!("from: {from}")),
        ..Settings::default()
    };
    let running = Running::start(&hep("192.0.2.1")).await;
    let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
    agent.connect(running.daemon.address(Scheme::HepUdp)).unwrap();
    let mut packet = b"HEP3\0\0".to_vec();
    let mut chunk = |kind: u16, value: &[u8]| {
        packet.extend(0_u16.to_be_bytes());
        packet.extend(kind.to_be_bytes());
        packet.extend((value.len() as u16 + 6).to_be_bytes());
        packet.extend(value);
    };
    chunk(1, &[2]);
    chunk(2, &[17]);
    chunk(3, &[127, 0, 0, 1]);
    chunk(4, &[127, 0, 0, 2]);
    chunk(7, &[0x13, 0xc4]);
    chunk(8, &[0x13, 0xc4]);
    chunk(9, &[0, 0, 0, 1]);
    chunk(10, &[0, 0, 0, 0]);
    chunk(11, &[1]);
    chunk(12, &[0, 0, 0, 1]);
    chunk(15, b"OPTIONS sip:passed-on SIP/2.0\r\n\r\n");
    let length = (packet.len() as u16).to_be_bytes();
    packet[4..6].copy_from_slice(&length);
    agent.send(&packet).unwrap();
    running.daemon.log().wait_for(&["HEP refused"]).await;
    running.reload(&hep("127.0.0.1")).await;
    agent.send(&packet).unwrap();
    traced(&socket, "sip:passed-on").await;
    running.goes_on().await;
}

#[tokio::test]
async fn events_are_told_as_the_file_says() {
    let admin = Some("listen: 'http://127.0.0.1:0'".to_owned());
    let settings = Settings { admin, ..Settings::default() };
    let running = Running::start(&settings).await;
    let admin = Admin::of(&running.daemon).await.remove(0);
    let mut events = admin.events("").await;
    let quiet = format!("{}events: {{ closed_event: none }}\n", settings.to_yaml());
    running.site.write("relay.yaml", &quiet);
    hup(&running.daemon, "configuration reloaded").await;
    let (unseen, _) = Client::with_session(&running.daemon, &running.site, Scheme::Msrp, "dave").await;
    running.reload(&settings).await;
    let seen = Client::connect(&running.daemon, &running.site, Scheme::Msrp).await;
    let event = events.until(|name, _| name == "connection").await;
    assert_eq!(event["remote"], seen.address(), "and not {}", unseen.address());
    running.goes_on().await;
}
