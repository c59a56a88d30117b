//! Chats and files between clients of one relay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::Range;

use msrp_proto::decoder::Event;
use msrp_proto::flag::Flag;
use tests::{
    Client, Content, Daemon, Message, Scheme, Send, Settings, Site, tls_config, tls_record_by_record,
};
use tokio::net::TcpStream;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

const MIB: u64 = 1024 * 1024;

/// How much the daemon's memory may grow while a file goes through it.
const MEMORY: u64 = 64 * MIB;

/// A relay with a listener of each kind.
fn settings() -> Settings {
    let any_port = || Some("127.0.0.1:0".to_owned());
    Settings { ws: any_port(), wss: any_port(), ..Settings::default() }
}

/// Two clients exchange messages, a success REPORT and a failure.
async fn chat(of_alice: Scheme, of_bob: Scheme) {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &settings()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, of_alice, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, of_bob, "bob").await;

    let to_bob = from_alice.to(&from_bob);
    let wanted =
        Send::text(&to_bob, "m1", "Hello, Bob!").with("Success-Report: yes").with("X-Unknown:  kept ");
    let taken = alice.send(&wanted).await;
    assert_eq!(taken.status(), 200);
    assert_eq!(taken.to_path(), [alice.uri()]);
    assert_eq!(taken.from_path(), from_alice.use_path);

    let message = bob.receive().await;
    assert_eq!(message.text(), "Hello, Bob!");
    assert_eq!(message.flag, Flag::Complete);
    assert_eq!(message.to_path(), [bob.uri()]);
    assert_eq!(message.from_path(), [&from_bob.use_path[0], &from_alice.use_path[0], alice.uri()]);
    assert_eq!(message.header("Message-ID"), "m1");
    assert_eq!(message.header("Byte-Range"), "1-11/11");
    assert!(message.headers("X-Unknown")[0].contains("kept"), "{message:?}");

    bob.tx.report(&message, 200).await;
    let report = alice.receive_report().await;
    assert_eq!((report.reported(), report.header("Message-ID")), (200, "m1".into()));
    assert_eq!(report.header("Byte-Range"), "1-11/11");
    assert_eq!(report.from_path(), [&from_alice.use_path[0], &from_bob.use_path[0], bob.uri()]);

    // Of usual length for a chat.
    let answer = "Hello, Alice! ".repeat(22)[..300].to_owned();
    let back = bob.send(&Send::text(&from_bob.to(&from_alice), "m2", &answer)).await;
    assert_eq!(back.status(), 200);
    assert_eq!(alice.receive().await.text(), answer);

    assert_eq!(alice.send(&Send::text(&to_bob, "m3", "unwanted")).await.status(), 200);
    let unwanted = bob.rx.next().await;
    bob.tx.respond(&unwanted, 415).await;
    let report = alice.receive_report().await;
    assert_eq!((report.reported(), report.header("Message-ID")), (415, "m3".into()));
    assert_eq!(report.header("Byte-Range"), "1-8/8");
    daemon.assert_well();
}

#[tokio::test]
async fn two_clients_chat_over_tls() {
    chat(Scheme::Msrps, Scheme::Msrps).await;
}

#[tokio::test]
async fn two_clients_chat_over_plain_tcp() {
    chat(Scheme::Msrp, Scheme::Msrp).await;
}

#[tokio::test]
async fn a_client_on_tls_chats_with_one_on_plain_tcp() {
    chat(Scheme::Msrps, Scheme::Msrp).await;
}

#[tokio::test]
async fn two_browsers_chat() {
    chat(Scheme::Wss, Scheme::Wss).await;
}

#[tokio::test]
async fn two_browsers_chat_without_tls() {
    chat(Scheme::Ws, Scheme::Ws).await;
}

#[tokio::test]
async fn a_browser_chats_with_a_client_on_tls() {
    chat(Scheme::Wss, Scheme::Msrps).await;
    chat(Scheme::Msrps, Scheme::Wss).await;
}

#[tokio::test]
async fn a_browser_chats_with_a_client_on_plain_tcp() {
    chat(Scheme::Ws, Scheme::Msrp).await;
    chat(Scheme::Msrp, Scheme::Ws).await;
}

/// A file arrives whole, and the relay holds little of it.
async fn file(of_alice: Scheme, of_bob: Scheme, chunk: Option<u64>) {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &settings()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, of_alice, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, of_bob, "bob").await;
    let content = Content::new(50 * MIB);
    let before = daemon.resources();

    let message = Send { to: from_alice.to(&from_bob), message: "file".into(), ..Send::default() };
    let chunks = chunk.map_or(1, |chunk| content.len().div_ceil(chunk));
    let answers = async {
        for _ in 0..chunks {
            assert_eq!(alice.rx.next().await.status(), 200);
        }
    };
    let (_, others, ()) = tokio::join!(
        alice.tx.file(&message, &content, chunk),
        bob.rx.file(&content, Some(&mut bob.tx)),
        answers
    );
    assert_eq!(others.len(), 0);
    let grown = daemon.resources().peak_memory.saturating_sub(before.memory);
    assert!(grown < MEMORY, "the daemon grew by {grown} bytes");
    daemon.assert_well();
}

#[tokio::test]
async fn a_file_in_one_chunk_arrives_whole() {
    file(Scheme::Msrps, Scheme::Msrps, None).await;
}

#[tokio::test]
async fn a_file_in_small_chunks_arrives_whole() {
    file(Scheme::Msrp, Scheme::Msrp, Some(2048)).await;
}

#[tokio::test]
async fn a_file_goes_from_browser_to_browser() {
    file(Scheme::Wss, Scheme::Wss, Some(64 * 1024)).await;
}

#[tokio::test]
async fn a_file_goes_from_a_browser_to_a_client() {
    file(Scheme::Wss, Scheme::Msrps, Some(MIB)).await;
    file(Scheme::Ws, Scheme::Msrp, Some(2048)).await;
}

#[tokio::test]
async fn a_file_in_one_chunk_is_split_for_a_browser() {
    file(Scheme::Msrps, Scheme::Wss, None).await;
    file(Scheme::Msrp, Scheme::Ws, None).await;
}

#[tokio::test]
async fn a_chat_interrupts_a_file_on_the_receivers_connection() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut carol, from_carol) = Client::with_session(&daemon, &site, Scheme::Msrps, "carol").await;
    // Two sessions on one connection: one for the file, one for the chat.
    let (mut bob, for_file) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let for_chat = bob.auth("bob", "bobpw").await;
    assert_ne!(for_file.use_path, for_chat.use_path);

    let content = Content::new(50 * MIB);
    let half = content.len() / 2;
    let file = Send {
        to: from_alice.to(&for_file),
        message: "file".into(),
        range: format!("1-*/{}", content.len()),
        ..Send::default()
    };
    let transaction = alice.tx.begin(&file).await;
    let write = async |tx: &mut tests::Sender, from: u64, to: u64| {
        let mut sent = from;
        while sent < to {
            let piece = content.piece(sent, usize::try_from(to - sent).unwrap());
            tx.raw(piece).await;
            sent += piece.len() as u64;
        }
    };
    // All that was sent arrives, but for the one byte that an interruption must leave.
    let head = async {
        let head = bob.rx.head().await;
        let mut place = 0;
        while place < half - 1 {
            let Some(Event::Body(bytes)) = bob.rx.event().await.unwrap() else {
                panic!("the chunk has ended")
            };
            content.check(place, &bytes);
            place += bytes.len() as u64;
        }
        (head, place)
    };
    let (_, (head, mut place)) = tokio::join!(write(&mut alice.tx, 0, half), head);
    let range = head.byte_range().unwrap().unwrap();
    assert_eq!((range.start, range.end, range.total), (1, None, Some(content.len())));

    // The file's sender is silent now: the chat must not wait for it.
    let chat = Send::text(&from_carol.to(&for_chat), "chat", "between two halves");
    assert_eq!(carol.send(&chat).await.status(), 200);
    loop {
        match bob.rx.event().await.unwrap().unwrap() {
            Event::Body(bytes) => {
                content.check(place, &bytes);
                place += bytes.len() as u64;
            }
            Event::End(flag) => break assert_eq!(flag, Flag::More),
            Event::Head(head) => panic!("{head:?} within a chunk"),
        }
    }
    let message = bob.receive().await;
    assert_eq!((message.text(), message.header("Message-ID")), ("between two halves", "chat".into()));

    let rest = async {
        while place < content.len() {
            let head = bob.rx.head().await;
            assert_eq!(head.byte_range().unwrap().unwrap().start, place + 1, "it goes on where it stopped");
            assert_eq!(head.message_id().unwrap(), Some("file"));
            loop {
                match bob.rx.event().await.unwrap().unwrap() {
                    Event::Body(bytes) => {
                        content.check(place, &bytes);
                        place += bytes.len() as u64;
                    }
                    Event::End(flag) => break assert_eq!(flag == Flag::Complete, place == content.len()),
                    Event::Head(head) => panic!("{head:?} within a chunk"),
                }
            }
        }
    };
    let finish = async {
        write(&mut alice.tx, half, content.len()).await;
        alice.tx.end(&transaction, Flag::Complete).await;
    };
    tokio::join!(rest, finish);
    assert_eq!(alice.rx.response(&transaction).await.status(), 200);
    daemon.assert_well();
}

/// RFC 4975 §7.1.1: the first SEND may have no Byte-Range; RFC 4976 §6.4.1: none is answered where
/// Failure-Report is `no`, and `partial` asks for errors alone.
#[tokio::test]
async fn a_response_comes_as_failure_report_wants_it() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let to_bob = from_alice.to(&from_bob);

    // Neither is answered: the next thing alice reads is the answer to the third.
    alice.tx.send(&Send::text(&to_bob, "no", "1").with("Failure-Report: no")).await;
    alice.tx.send(&Send::text(&to_bob, "partial", "2").with("Failure-Report: partial")).await;
    assert_eq!(alice.send(&Send::text(&to_bob, "yes", "3").with("Failure-Report: yes")).await.status(), 200);

    let messages = [bob.rx.next().await, bob.rx.next().await, bob.rx.next().await];
    assert_eq!(messages.each_ref().map(Message::text), ["1", "2", "3"]);
    for message in &messages {
        bob.tx.respond(message, 413).await;
    }
    // Of the first, nothing is reported.
    for id in ["partial", "yes"] {
        let report = alice.receive_report().await;
        assert_eq!((report.reported(), report.header("Message-ID").as_str()), (413, id));
    }
    daemon.assert_well();
}

#[tokio::test]
async fn a_send_without_byte_range_and_one_without_body_arrive_as_they_are() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let to = from_alice.to(&from_bob);

    assert_eq!(alice.request("SEND", &to, "Message-ID: empty\r\n").await.status(), 200);
    let message = bob.receive().await;
    assert!(!message.head.has_body() && message.headers("Byte-Range").is_empty(), "{message:?}");

    let (tid, to) = (alice.tx.transaction(), to.join(" "));
    let text = format!(
        "MSRP {tid} SEND\r\nto-path:{to}\r\nFROM-PATH: {}\r\nmessage-id:m\r\nContent-Type: text/plain\r\n\r\n\
         hello\r\n-------{tid}$\r\n",
        alice.uri()
    );
    alice.tx.raw(text.as_bytes()).await;
    assert_eq!(alice.rx.response(&tid).await.status(), 200);
    let message = bob.receive().await;
    assert_eq!(message.text(), "hello");
    assert!(message.headers("Byte-Range").is_empty(), "{message:?}");
    assert_ne!(message.transaction(), tid, "the relay's transaction ids are its own");
    daemon.assert_well();
}

#[tokio::test]
async fn an_unknown_method_goes_to_the_peer_and_its_response_comes_back() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let (mut bob, from_bob) = Client::with_session(&daemon, &site, Scheme::Msrps, "bob").await;
    let transaction =
        alice.tx.request("NICKNAME", &from_alice.to(&from_bob), "Use-Nickname: \"a\"\r\n").await;
    let request = bob.rx.next().await;
    assert_eq!((request.method(), request.header("Use-Nickname")), ("NICKNAME", "\"a\"".into()));
    bob.tx.respond(&request, 425).await;
    let response = alice.rx.response(&transaction).await;
    assert_eq!(response.status(), 425);
    assert_eq!(response.from_path(), [&from_alice.use_path[0], &from_bob.use_path[0], bob.uri()]);
    daemon.assert_well();
}

/// One client in the field loses the flag of an end-line that is split over two reads.
#[tokio::test]
async fn an_end_line_is_in_one_tls_record() {
    let site = Site::new();
    let mut daemon = Daemon::start(RELAY, &site, &Settings::default()).await;
    let (mut alice, from_alice) = Client::with_session(&daemon, &site, Scheme::Msrps, "alice").await;
    let socket = TcpStream::connect(daemon.address(Scheme::Msrps)).await.unwrap();
    let stream = tls_record_by_record(tls_config(&site, None), socket, "relay.test").await.unwrap();
    let mut bob = Client::over(stream, "msrps://bob.invalid:2855/s;tcp", &daemon.uri(Scheme::Msrps));
    let from_bob = bob.auth("bob", "bobpw").await;

    // Lengths around those of a record, and the responses of bob's own messages in between.
    let to_bob = from_alice.to(&from_bob);
    let to_alice = from_bob.to(&from_alice);
    let lengths =
        (0..40).map(|n| n * 7).chain((0..60).map(|n| 15_900 + n * 9)).chain((0..40).map(|n| 32_000 + n * 13));
    let lengths: Vec<usize> = lengths.collect();
    let content = Content::new(100_000);
    let send = async {
        for len in &lengths {
            let message = Send { body: content.piece(0, *len).to_vec(), ..Send::text(&to_bob, "m", "") };
            alice.tx.send(&message.with("Failure-Report: no")).await;
        }
    };
    let interject = async {
        for _ in 0..200 {
            bob.tx.send(&Send::text(&to_alice, "b", "x")).await;
        }
    };
    let receive = async {
        let (mut stream, mut boundaries, mut end_lines) =
            (Vec::new(), Vec::new(), Vec::<Range<usize>>::new());
        while end_lines.len() < lengths.len() + 200 {
            stream.extend(bob.rx.raw().await);
            boundaries.push(stream.len());
            let last = |end_lines: &[Range<usize>]| end_lines.last().map_or(0, |last| last.end);
            while let Some(end_line) = end_line(&stream, last(&end_lines)) {
                end_lines.push(end_line);
            }
        }
        (boundaries, end_lines)
    };
    let ((), (), (boundaries, end_lines)) = tokio::join!(send, interject, receive);
    let largest = boundaries.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(largest <= Some(16_384), "one read gives one record: {largest:?}");
    for end_line in end_lines {
        let split = boundaries.iter().find(|boundary| (end_line.start + 1..end_line.end).contains(*boundary));
        assert_eq!(split, None, "the end-line at {end_line:?} is split");
    }
    daemon.assert_well();
}

/// Where the next end-line is: seven hyphens to the line's end.
fn end_line(stream: &[u8], from: usize) -> Option<Range<usize>> {
    let start = from + find(&stream[from..], b"-------")?;
    let end = start + find(&stream[start..], b"\r\n")? + 2;
    Some(start..end)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
