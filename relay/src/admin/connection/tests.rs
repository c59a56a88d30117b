//! With a clock that stands still while anything can be done: what ends a connection is a time limit, and which.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, advance, pause};

use super::super::testing::{Connection, Interface};
use super::super::{BODY_TIMEOUT, MAX_BODY};
use super::*;

const A_MOMENT: Duration = Duration::from_millis(1);

async fn interface() -> Interface {
    let interface = Interface::start().await;
    pause();
    interface
}

/// Lets all tasks do what they can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Until the connection is closed: after how long, and what came before that.
async fn end(connection: &mut Connection) -> (Duration, String) {
    let begin = Instant::now();
    let text = connection.rest().await;
    (begin.elapsed(), text)
}

fn is_about(found: Duration, expected: Duration) {
    // tokio's timers are of milliseconds.
    assert!(found >= expected && found <= expected + 2 * A_MOMENT, "{found:?} instead of {expected:?}");
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &str = "\r\n\r\nok\n";

#[tokio::test]
async fn a_head_has_its_time_and_not_more() {
    let interface = interface().await;
    let mut silent = interface.connect(1024);
    is_about(end(&mut silent).await.0, HEAD_TIMEOUT);

    let mut slow = interface.connect(1024);
    slow.send(&HEALTH[..20]).await;
    settle().await;
    advance(HEAD_TIMEOUT - A_MOMENT).await;
    slow.send(&HEALTH[20..]).await;
    assert!(slow.until(OK).await.starts_with("HTTP/1.1 200 "));

    // One byte now and then is no excuse.
    let mut dripping = interface.connect(1024);
    let begin = Instant::now();
    for byte in HEALTH.bytes() {
        if dripping.0.write_all(&[byte]).await.is_err() {
            break;
        }
        settle().await;
        advance(HEAD_TIMEOUT / 10).await;
    }
    assert_eq!(end(&mut dripping).await.1, "");
    assert!(begin.elapsed() < HEAD_TIMEOUT * 2);
}

#[tokio::test]
async fn a_connection_may_be_idle_between_requests_for_as_long_as_a_head_may_take() {
    let interface = interface().await;
    let mut client = interface.connect(1024);
    client.send(HEALTH).await;
    client.until(OK).await;
    settle().await;
    advance(HEAD_TIMEOUT - A_MOMENT).await;
    client.send(HEALTH).await;
    client.until(OK).await;
    is_about(end(&mut client).await.0, HEAD_TIMEOUT);
}

#[tokio::test]
async fn a_head_is_taken_up_to_its_limit() {
    let interface = interface().await;
    let status = async |size: usize| {
        let client = interface.connect(1024);
        let begin = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: ";
        let head = format!("{begin}{}\r\n\r\n", "x".repeat(size - begin.len() - 4));
        assert_eq!(head.len(), size);
        // It may be closed before all of it is sent.
        let (mut reader, mut writer) = tokio::io::split(client.0);
        let write = async { writer.write_all(head.as_bytes()).await.is_ok() };
        let read = async {
            let mut text = String::new();
            reader.read_to_string(&mut text).await.unwrap();
            text
        };
        let (_, text) = tokio::join!(write, read);
        text.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status(MAX_HEAD - 1).await, "200");
    assert_eq!(status(MAX_HEAD).await, "200");
    assert_eq!(status(MAX_HEAD * 2).await, "431");
}

const CALL: &str = r#"{"jsonrpc":"2.0","method":"uptime","id":1}"#;

fn call(length: usize) -> String {
    format!(
        "POST /mi HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_has_its_time_and_not_more() {
    let interface = interface().await;
    let mut late = interface.connect(1024);
    late.send(&call(CALL.len())).await;
    late.send(&CALL[..10]).await;
    let (after, text) = end(&mut late).await;
    is_about(after, BODY_TIMEOUT);
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("connection: close"), "{text}");

    let mut in_time = interface.connect(1024);
    in_time.send(&call(CALL.len())).await;
    in_time.send(&CALL[..10]).await;
    settle().await;
    advance(BODY_TIMEOUT - A_MOMENT).await;
    in_time.send(&CALL[10..]).await;
    assert!(in_time.until("}").await.starts_with("HTTP/1.1 200 "));

    // Nor does it help to go on, byte by byte.
    let mut dripping = interface.connect(MAX_BODY);
    let begin = Instant::now();
    dripping.send(&call(MAX_BODY)).await;
    while dripping.0.write_all(b"x").await.is_ok() {
        settle().await;
        advance(BODY_TIMEOUT / 10).await;
        assert!(begin.elapsed() < 2 * BODY_TIMEOUT);
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_keeps_no_connection() {
    let interface = interface().await;
    for request in [
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx",
        "POST /mi HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx",
        "POST /mi HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 100000\r\n\r\nx",
    ] {
        let mut client = interface.connect(1024);
        client.send(request).await;
        let (after, text) = end(&mut client).await;
        assert!(after <= HEAD_TIMEOUT, "{request}: {after:?}");
        assert!(text.starts_with("HTTP/1.1 "), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_read_ends_its_connection() {
    let interface = interface().await;
    let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut client = interface.connect(1024);
    client.send(metrics).await;
    settle().await;
    advance(ANSWER_TIMEOUT - A_MOMENT).await;
    client.until("# EOF\n").await;

    // Nor is it read if a byte of it is, now and then.
    let mut client = interface.connect(1024);
    client.send(metrics).await;
    settle().await;
    let mut read = 0;
    for _ in 0..15 {
        advance(ANSWER_TIMEOUT / 10).await;
        read += usize::from(client.0.read_u8().await.is_ok());
        settle().await;
    }
    assert_eq!(read, 15);
    let rest = client.rest().await;
    assert!(!rest.contains("# EOF"), "{rest}");
}

#[tokio::test]
async fn a_stream_of_events_is_closed_only_if_it_is_not_read() {
    let interface = interface().await;
    let request = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut reading = interface.connect(256);
    reading.send(request).await;
    reading.until("\r\n\r\n").await;
    // An hour of comments.
    for _ in 0..240 {
        reading.until(":\n\n").await;
    }
    let mut stuck = interface.connect(256);
    stuck.send(request).await;
    // Comments of 15 s each fill what may be under way.
    advance(Duration::from_secs(3600)).await;
    for _ in 0..240 {
        reading.until(":\n\n").await;
    }
    assert!(stuck.rest().await.len() <= 256 + 1024);
}
