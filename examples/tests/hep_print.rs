//! The collector as it is run: what is sent over UDP, TCP and TLS is printed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use tcp_transport::hep::{Chunk, Encoding, Packet, PayloadType, Version};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it with both sockets, and returns where they are: UDP, TCP.
fn start(more: &[&str]) -> (Running, [SocketAddr; 2]) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hep-print"))
        .args(["--udp", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--count", "3"])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let addresses = [0; 2].map(|_| {
        let line = lines.next().unwrap().unwrap();
        line.rsplit('/').next().unwrap().parse().unwrap()
    });
    (Running(child), addresses)
}

fn packet(payload: &'static [u8]) -> Packet {
    let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
    let (from, to) = ("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:2855".parse().unwrap());
    let mut packet = Packet::new(from, to, time, PayloadType::LOG, Bytes::from_static(payload));
    packet.capture_id = Some(7);
    packet.correlation_id = Some(Bytes::from_static(b"42"));
    packet
}

/// Sends three packets, one after the other has been printed, and returns what was printed.
fn printed(more: &[&str]) -> Vec<String> {
    let (mut running, [udp, tcp]) = start(more);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut text = String::new();
    let mut shown = |end: &str| {
        text.clear();
        while !text.ends_with(end) {
            text.push_str(&lines.next().unwrap().unwrap());
        }
        text.clone()
    };
    let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let v2 = Encoding { version: Version::V2, ..Encoding::default() };
    agent.send_to(&packet("first\x1b[2J\u{9b}2J\u{202e} end".as_bytes()).encode(v2).unwrap(), udp).unwrap();
    let end = if more.contains(&"--json") { "}" } else { "end" };
    let first = shown(end);
    let mut stream = TcpStream::connect(tcp).unwrap();
    let mut second = packet(b"second end");
    second.others.push(Chunk { vendor: 3, kind: 0x101, value: Bytes::from_static(b"ours") });
    // An authentication key, and one more.
    second.auth_key = Some(Bytes::from_static(b"s3cret"));
    second.others.push(Chunk { vendor: 0, kind: 0x0e, value: Bytes::from_static(b"s3cret") });
    stream.write_all(&second.encode(Encoding::default()).unwrap()).unwrap();
    let second = shown(end);
    let mut third = packet(b"third, third, third, third, third, third, third end");
    third.compress().unwrap();
    stream.write_all(&third.encode(Encoding::default()).unwrap()).unwrap();
    let third = shown(end);
    assert!(running.0.wait().unwrap().success());
    for shown in [&first, &second] {
        assert!(!shown.contains(['\u{9b}', '\u{202e}']) && !shown.contains("s3cret"), "{shown}");
    }
    vec![first, second, third]
}

#[test]
fn packets_are_printed_as_text_that_no_terminal_obeys() {
    let printed = printed(&[]);
    let head =
        "2023-11-14T22:13:20.123456Z log 192.0.2.1:1000 -> 192.0.2.2:2855 id=42 agent=7 v3 hep_tcp from ";
    assert!(
        printed[0].contains(" SIP 192.0.2.1:1000")
            && printed[0].contains(r"first\u{1b}[2J\u{9b}2J\u{202e} end")
    );
    assert!(
        printed[1].starts_with(head) && printed[1].contains("chunk 0x0003/0x0101 ours"),
        "{}",
        printed[1]
    );
    assert!(printed[2].contains("third, third"));
}

#[test]
fn an_msrp_message_is_printed_by_its_method_and_connection() {
    let (mut running, [udp, _]) = start(&[]);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let link =
        |value: &'static [u8]| Chunk { vendor: 0, kind: Chunk::LINKS, value: Bytes::from_static(value) };
    for (payload, net, head, chunk) in [
        (
            &b"MSRP a786 SEND\r\nTo-Path: x\r\n"[..],
            &b"{\"net\":\"7\"}"[..],
            "Z MSRP SEND 192.0.2.1:1000 -> 192.0.2.2:2855 id=42 connection=7 ",
            None,
        ),
        // Its own number says nothing more, and what is no such link is shown as it is.
        (
            b"MSRP a786 200 OK\r\nTo-Path: x\r\n",
            b"{\"net\":\"42\"}",
            "Z MSRP 200 OK 192.0.2.1:1000 -> 192.0.2.2:2855 id=42 agent",
            None,
        ),
        (
            b"MSRP\r\nTo-Path: x",
            b"{\"sip\":\"1\"}",
            "Z log 192.0.2.1:1000",
            Some("    chunk 0x0000/0x0065 {\"sip\":\"1\"}"),
        ),
    ] {
        let mut packet = packet(payload);
        packet.others.push(link(net));
        agent.send_to(&packet.encode(Encoding::default()).unwrap(), udp).unwrap();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains(head), "{first}");
        if let Some(chunk) = chunk {
            assert_eq!(lines.next().unwrap().unwrap(), chunk);
        }
        assert!(lines.next().unwrap().unwrap().starts_with("    MSRP"));
        assert_eq!(lines.next().unwrap().unwrap(), "    To-Path: x");
    }
}

#[test]
fn packets_are_printed_as_json_a_line() {
    let printed: Vec<Value> =
        printed(&["--json"]).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(printed[0]["version"], 2);
    assert_eq!(printed[0]["payload"], "first\x1b[2J\u{9b}2J\u{202e} end");
    assert_eq!(printed[1]["source"], "192.0.2.1:1000");
    assert_eq!((&printed[1]["payload_type"], &printed[1]["payload_name"]), (&100.into(), &"log".into()));
    assert_eq!(printed[1]["chunks"][0]["value"], "ours");
    assert_eq!((&printed[2]["capture_id"], &printed[2]["correlation_id"]), (&7.into(), &"42".into()));
    assert!(printed[2]["payload"].as_str().unwrap().starts_with("third"));
}

#[test]
fn colours_are_used_when_asked_for() {
    assert!(printed(&["--color", "always"])[1].contains("\x1b[1mlog\x1b[0m"));
    assert!(!printed(&["--color", "auto"])[1].contains('\x1b'), "it is no terminal");
}
