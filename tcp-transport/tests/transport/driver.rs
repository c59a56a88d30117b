//! The driver: reading, writing, pausing, deadlines and the ends of a connection.

use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{
    Echo, Event, PATIENCE, Probe, Seen, pair, patiently, pattern, plain_pair, read_up_to, tcp_pair,
};
use bytes::{Bytes, BytesMut};
use tcp_transport::connection::{FIRST_QUIET, QUIET};
use tcp_transport::{
    CloseReason, Driver, DriverSettings, Handle, Registry, ReuseKey, Stream, Transport, connection,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Tls];

fn open(stream: Stream) -> (Handle, Driver) {
    connection::open(stream, DriverSettings::default())
}

fn drive(stream: Stream, seen: Seen) -> (Handle, Arc<parking_lot::Mutex<Seen>>, UnboundedReceiver<Event>) {
    let (handle, driver) = open(stream);
    let (probe, seen, events) = Probe::new(seen);
    tokio::spawn(driver.run(probe));
    (handle, seen, events)
}

/// The reason of the end, and that nothing comes after it.
async fn closed(events: &mut UnboundedReceiver<Event>) -> CloseReason {
    let reason = loop {
        match patiently("close", events.recv()).await.expect("closed is called") {
            Event::Closed(reason) => break reason,
            _ => continue,
        }
    };
    assert_eq!(patiently("drop of the protocol", events.recv()).await, None, "closed is the last call");
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_returns_every_byte() {
    for transport in BOTH {
        for len in [1, 4095, 16_385, 5_000_000] {
            let (server, client) = pair(transport).await;
            let (_handle, driver) = open(server);
            let task = tokio::spawn(driver.run(Echo::default()));
            let client = Arc::new(client);
            let data = pattern(len);
            let writer: JoinHandle<()> = tokio::spawn({
                let (client, data) = (client.clone(), data.clone());
                async move { client.write_all(&data).await.unwrap() }
            });
            let back = patiently("echo", read_up_to(&client, len)).await;
            assert!(back == data, "{transport} {len}: {} bytes came back", back.len());
            writer.await.unwrap();
            client.close_notify().unwrap();
            client.shutdown_write().unwrap();
            assert_eq!(patiently("end", task).await.unwrap(), CloseReason::PeerClosed);
        }
    }
}

#[tokio::test]
async fn bytes_that_come_one_at_a_time_all_arrive() {
    for transport in BOTH {
        let (server, client) = pair(transport).await;
        let (_handle, driver) = open(server);
        tokio::spawn(driver.run(Echo::default()));
        for byte in pattern(300) {
            client.write_all(&[byte]).await.unwrap();
            assert_eq!(patiently("one byte", read_up_to(&client, 1)).await, [byte]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_slows_the_peer_and_a_wake_resumes_without_loss() {
    for transport in BOTH {
        let (server, client) = pair(transport).await;
        let (handle, seen, mut events) = drive(server, Seen { paused: true, keep: true, ..Seen::default() });
        let data = pattern(20_000_000);
        let writer = tokio::spawn({
            let data = data.clone();
            async move {
                client.write_all(&data).await.unwrap();
                client
            }
        });
        // One read, and no more until the wake: the rest stays with the kernel and the peer.
        assert!(matches!(patiently("first read", events.recv()).await, Some(Event::Received(1..))));
        handle.wake();
        let held = patiently("the question", events.recv()).await;
        assert!(matches!(held, Some(Event::Received(n)) if n <= 128 * 1024), "{held:?}");
        assert!(!writer.is_finished(), "20 MB do not fit in the buffers of a kernel");
        seen.lock().paused = false;
        handle.wake();
        let client = patiently("writer", writer).await.unwrap();
        client.close_notify().unwrap();
        client.shutdown_write().unwrap();
        assert_eq!(closed(&mut events).await, CloseReason::PeerClosed);
        assert!(seen.lock().received == data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_tasks_write_directly_and_leave_the_rest_to_the_driver() {
    const LINES: usize = 4000;
    for transport in BOTH {
        let (server, client) = pair(transport).await;
        let (handle, seen, _events) = drive(server, Seen::default());
        let writers: Vec<_> = (0..4_u8)
            .map(|who| {
                let (handle, seen) = (handle.clone(), seen.clone());
                tokio::spawn(async move {
                    for n in 0..LINES {
                        let line = Bytes::from(format!("{who}:{n:06}:{}\n", "x".repeat(n % 700)));
                        {
                            let mut seen = seen.lock();
                            let mut taken = 0;
                            if seen.outbox.len == 0 {
                                taken = handle.stream().try_write(&[IoSlice::new(&line)]).unwrap_or(0);
                                if handle.stream().flush().is_err() {
                                    handle.wake();
                                }
                            }
                            if taken < line.len() {
                                seen.outbox.push(line.slice(taken..));
                                handle.wake();
                            }
                        }
                        if n % 16 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                })
            })
            .collect();
        let total: usize = 4 * (0..LINES).map(|n| 10 + n % 700).sum::<usize>();
        let text = patiently("lines", read_up_to(&client, total)).await;
        for writer in writers {
            writer.await.unwrap();
        }
        let mut next = [0; 4];
        for line in String::from_utf8(text).unwrap().lines() {
            let who: usize = line[..1].parse().unwrap();
            let n: usize = line[2..8].parse().unwrap();
            assert_eq!((n, line.len()), (next[who], 9 + n % 700), "{transport}: order within a writer");
            next[who] += 1;
        }
        assert_eq!(next, [LINES; 4]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_is_lost() {
    const WAKES: usize = 10_000;
    let (server, client) = plain_pair().await;
    let (handle, seen, _events) = drive(server, Seen::default());
    let wakers: Vec<_> = (0..2)
        .map(|_| {
            let (handle, seen) = (handle.clone(), seen.clone());
            tokio::task::spawn_blocking(move || {
                for _ in 0..WAKES {
                    seen.lock().outbox.push(Bytes::from_static(b"."));
                    handle.wake();
                }
            })
        })
        .collect();
    // Nothing but the wakes makes the driver write, so one lost at the end would hang this.
    let got = patiently("all that was queued", read_up_to(&client, 2 * WAKES)).await;
    assert_eq!(got.len(), 2 * WAKES);
    for waker in wakers {
        waker.await.unwrap();
    }
    // One at a time, each waited for: here every single wake counts.
    for _ in 0..WAKES {
        seen.lock().outbox.push(Bytes::from_static(b"!"));
        handle.wake();
        assert_eq!(patiently("one wake", read_up_to(&client, 1)).await, b"!");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_fires_at_its_time() {
    let (server, _client) = plain_pair().await;
    let start = tokio::time::Instant::now().into_std();
    let deadline = start + Duration::from_secs(30);
    let (handle, seen, mut events) = drive(server, Seen { deadline: Some(deadline), ..Seen::default() });
    match patiently("deadline", events.recv()).await {
        Some(Event::Expired(now)) => assert!(now >= deadline && now < deadline + Duration::from_millis(10)),
        other => panic!("{other:?}"),
    }
    // An earlier deadline set later takes effect with a wake, a later one replaces an earlier one.
    let later = start + Duration::from_secs(80);
    seen.lock().deadline = Some(later);
    handle.wake();
    tokio::task::yield_now().await;
    let earlier = start + Duration::from_secs(40);
    seen.lock().deadline = Some(earlier);
    handle.wake();
    match events.recv().await {
        Some(Event::Expired(now)) => assert!(now >= earlier && now < earlier + Duration::from_millis(10)),
        other => panic!("{other:?}"),
    }
    seen.lock().deadline = Some(earlier + Duration::from_secs(1));
    handle.wake();
    tokio::task::yield_now().await;
    seen.lock().deadline = Some(later);
    handle.wake();
    match events.recv().await {
        Some(Event::Expired(now)) => assert!(now >= later && now < later + Duration::from_millis(10)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_happens_is_told_once_each_time() {
    let (server, client) = plain_pair().await;
    let start = tokio::time::Instant::now();
    let (_handle, seen, mut events) = drive(server, Seen { tell_quiet: true, ..Seen::default() });
    assert_eq!(events.recv().await, Some(Event::Quiet));
    assert!(start.elapsed() >= FIRST_QUIET && start.elapsed() < 2 * FIRST_QUIET, "{:?}", start.elapsed());
    // Not again while nothing happens.
    seen.lock().tell_quiet = true;
    assert!(tokio::time::timeout(1000 * QUIET, events.recv()).await.is_err());
    client.write_all(b"x").await.unwrap();
    assert_eq!(events.recv().await, Some(Event::Received(1)));
    let received = tokio::time::Instant::now();
    assert_eq!(events.recv().await, Some(Event::Quiet));
    // Who has talked may well talk again.
    assert!(received.elapsed() >= QUIET && received.elapsed() < 2 * QUIET, "{:?}", received.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_others_do_with_a_quiet_connection_is_followed_by_quiet_again() {
    let (server, client) = plain_pair().await;
    // Without a lifetime nobody looks by the clock.
    assert_eq!(server.entry().lifetime(), None);
    let (handle, seen, mut events) = drive(server, Seen { tell_quiet: true, ..Seen::default() });
    assert_eq!(events.recv().await, Some(Event::Quiet));
    for writes in [true, false] {
        tokio::time::advance(5 * QUIET).await;
        seen.lock().tell_quiet = true;
        if writes {
            handle.stream().try_write(&[IoSlice::new(b"from another task")]).unwrap();
            assert!(!read_up_to(&client, 1).await.is_empty());
        }
        let woken = tokio::time::Instant::now();
        handle.wake();
        assert_eq!(patiently("quiet", events.recv()).await, Some(Event::Quiet), "{writes}");
        assert!(woken.elapsed() >= QUIET && woken.elapsed() < 2 * QUIET, "{:?}", woken.elapsed());
    }
    // Who is woken again and again is told all the same.
    tokio::time::advance(5 * QUIET).await;
    seen.lock().tell_quiet = true;
    let woken = tokio::time::Instant::now();
    while woken.elapsed() < 2 * QUIET {
        handle.wake();
        tokio::time::sleep(QUIET / 4).await;
    }
    assert_eq!(events.try_recv(), Ok(Event::Quiet));
    // After a deadline too: what was waited for need not be kept any more.
    seen.lock().tell_quiet = false;
    tokio::time::sleep(5 * QUIET).await;
    seen.lock().tell_quiet = true;
    seen.lock().deadline = Some((tokio::time::Instant::now() + 2 * QUIET).into_std());
    handle.wake();
    assert_eq!(events.recv().await, Some(Event::Quiet));
    assert!(matches!(events.recv().await, Some(Event::Expired(_))));
    seen.lock().tell_quiet = true;
    assert_eq!(patiently("quiet", events.recv()).await, Some(Event::Quiet));
    // And then no more.
    seen.lock().tell_quiet = true;
    assert!(tokio::time::timeout(1000 * QUIET, events.recv()).await.is_err());
}

#[tokio::test]
async fn a_deadline_resumes_a_paused_connection() {
    let (server, client) = plain_pair().await;
    let (_handle, seen, mut events) = drive(server, Seen { paused: true, keep: true, ..Seen::default() });
    client.write_all(b"kept").await.unwrap();
    assert_eq!(patiently("read", events.recv()).await, Some(Event::Received(4)));
    {
        let mut seen = seen.lock();
        seen.paused = false;
        seen.deadline = Some(std::time::Instant::now());
    }
    // Somebody must tell the driver of the deadline; from there on the deadline does it.
    let handle = _handle;
    handle.wake();
    client.write_all(b" and more").await.unwrap();
    drop(client);
    assert_eq!(closed(&mut events).await, CloseReason::PeerClosed);
    assert_eq!(seen.lock().received, b"kept and more");
}

#[tokio::test]
async fn the_last_answer_arrives_though_the_peer_has_more_to_say() {
    for transport in BOTH {
        let (server, client) = pair(transport).await;
        let (handle, driver) = connection::open(server, DriverSettings { close_linger: PATIENCE });
        let (probe, seen, mut events) = Probe::new(Seen { close_on: Some(b'Q'), ..Seen::default() });
        tokio::spawn(driver.run(probe));
        seen.lock().outbox.push(pattern(3_000_000).into());
        let client = Arc::new(client);
        // Unread bytes at a close become an RST, and that destroys what the peer has not read yet.
        client.write_all(b"Q and bytes that nobody will read").await.unwrap();
        let talker = tokio::spawn({
            let client = client.clone();
            async move { while client.write_all(&[b'x'; 1000]).await.is_ok() {} }
        });
        let got = patiently("answer", read_up_to(&client, usize::MAX)).await;
        assert!(got == pattern(3_000_000), "{transport}: {} bytes", got.len());
        assert!(!handle.is_open());
        client.close_notify().ok();
        talker.abort();
        drop((client, talker.await));
        assert_eq!(closed(&mut events).await, CloseReason::Protocol("the byte came".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_close_is_waited_for_no_longer_than_the_linger() {
    let (server, client) = plain_pair().await;
    let (handle, _seen, mut events) = drive(server, Seen::default());
    let start = tokio::time::Instant::now();
    handle.close(CloseReason::Local("shutdown".into()));
    handle.close(CloseReason::IdleTimeout);
    assert_eq!(closed(&mut events).await, CloseReason::Local("shutdown".into()), "the first reason counts");
    assert_eq!(start.elapsed().as_millis() / 100, connection::CLOSE_LINGER.as_millis() / 100);
    assert!(read_up_to(&client, 1).await.is_empty());
}

#[tokio::test]
async fn a_reset_by_the_peer_is_told_once() {
    for transport in BOTH {
        let (server, client) = pair(transport).await;
        let (handle, seen, mut events) = drive(server, Seen::default());
        seen.lock().outbox.push(Bytes::from_static(b"never read"));
        handle.wake();
        patiently("answer", poll_fn(|cx| client.poll_read_ready(cx))).await.unwrap();
        // Who closes with unread bytes sends an RST.
        drop(client);
        assert_eq!(closed(&mut events).await, CloseReason::Reset);
        assert!(!handle.is_open());
    }
}

#[tokio::test]
async fn half_closed_connections_go_on_sending() {
    for transport in BOTH {
        let (server, client) = pair(transport).await;
        let (handle, seen, mut events) = drive(server, Seen { stay_after_end: true, ..Seen::default() });
        client.write_all(b"question").await.unwrap();
        client.close_notify().unwrap();
        client.shutdown_write().unwrap();
        while patiently("end", events.recv()).await != Some(Event::Ended) {}
        seen.lock().outbox.push(Bytes::from_static(b"answer"));
        handle.wake();
        assert_eq!(patiently("answer", read_up_to(&client, 6)).await, b"answer");
        handle.close(CloseReason::Local("done".into()));
        assert_eq!(closed(&mut events).await, CloseReason::Local("done".into()));
        assert_eq!(seen.lock().received, b"question");
    }
}

#[tokio::test]
async fn a_panic_ends_its_connection_alone_and_is_told() {
    let (server, client) = plain_pair().await;
    let (_handle, _seen, mut events) = drive(server, Seen { panic_on: Some(b'P'), ..Seen::default() });
    client.write_all(b"P").await.unwrap();
    assert_eq!(closed(&mut events).await, CloseReason::Internal);
}

#[tokio::test]
async fn an_aborted_task_tells_its_end() {
    let (server, client) = plain_pair().await;
    let (handle, driver) = open(server);
    let (probe, _seen, mut events) = Probe::new(Seen::default());
    let task = tokio::spawn(driver.run(probe));
    client.write_all(b"x").await.unwrap();
    assert!(patiently("byte", events.recv()).await.is_some());
    task.abort();
    assert_eq!(closed(&mut events).await, CloseReason::Aborted);
    assert!(!handle.is_open());
    // The connection is over although a handle is left.
    assert!(patiently("end", read_up_to(&client, 1)).await.is_empty());
}

#[tokio::test]
async fn a_task_that_never_ran_tells_its_end_too() {
    let (server, _client) = plain_pair().await;
    let (_handle, driver) = open(server);
    let (probe, _seen, mut events) = Probe::new(Seen::default());
    drop(driver.run(probe));
    assert_eq!(closed(&mut events).await, CloseReason::Aborted);
}

#[tokio::test]
async fn tls_cut_off_without_close_notify_is_an_ordinary_end() {
    let (server, client) = pair(Transport::Tls).await;
    let (_handle, seen, mut events) = drive(server, Seen::default());
    client.write_all(b"last words").await.unwrap();
    client.shutdown_write().unwrap();
    assert_eq!(closed(&mut events).await, CloseReason::PeerClosed);
    assert_eq!(seen.lock().received, b"last words");
}

#[tokio::test]
async fn one_connection_that_floods_does_not_starve_the_others() {
    // On one thread: if a turn had no end, the second connection would never get its answer.
    let (server, flood) = plain_pair().await;
    let (_flooded, _seen, _events) = drive(server, Seen::default());
    let flooding = tokio::spawn(async move { while flood.write_all(&[0; 65536]).await.is_ok() {} });
    let (server, client) = plain_pair().await;
    let (_handle, driver) = open(server);
    tokio::spawn(driver.run(Echo::default()));
    for _ in 0..100 {
        client.write_all(b"ping").await.unwrap();
        assert_eq!(patiently("pong", read_up_to(&client, 4)).await, b"ping");
    }
    flooding.abort();
}

#[tokio::test]
async fn the_registry_finds_reuses_and_closes() {
    let registry = Arc::new(Registry::<u32>::new());
    let key = ReuseKey::new("MSRPS", "Relay.Test.", 2855);
    assert_eq!(key.to_string(), "msrps://relay.test:2855");

    let mut peers = Vec::new();
    for value in 0..3 {
        let (server, client) = plain_pair().await;
        let (handle, driver) = open(server);
        let (probe, _seen, mut events) = Probe::new(Seen::default());
        registry.insert(handle.clone(), (value > 0).then(|| key.clone()), value);
        tokio::spawn(driver.run(probe));
        let registry = registry.clone();
        tokio::spawn(async move {
            closed(&mut events).await;
            registry.remove(handle.id()).unwrap();
        });
        peers.push(client);
    }
    let (first, value) = registry.reusable(&ReuseKey::new("msrps", "relay.test", 2855)).unwrap();
    assert_eq!(value, 1);
    assert_eq!(registry.by_id(first.id()).unwrap().1, 1);
    first.close(CloseReason::Local("test".into()));
    assert_eq!(registry.reusable(&key).unwrap().1, 2, "one that is being closed is not offered");
    assert!(registry.reusable(&ReuseKey::new("msrp", "relay.test", 2855)).is_none());
    assert!(registry.reusable(&ReuseKey::new("msrps", "relay.test", 2856)).is_none());

    drop(peers);
    let left = registry.close_all(CloseReason::Local("shutdown".into()), Duration::from_secs(30)).await;
    assert_eq!((left, registry.len()), (0, 0));
    assert!(registry.reusable(&key).is_none());
    assert!(!registry.add_key(first.id(), key));
}

#[tokio::test]
async fn ids_are_never_the_same() {
    let mut ids = Vec::new();
    for _ in 0..10 {
        let (server, _client) = tcp_pair().await;
        let peer = server.peer_addr().unwrap();
        ids.push(open(Stream::plain(server, peer).unwrap()).0.id());
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
}

#[tokio::test]
async fn a_short_read_does_not_hide_what_follows() {
    // Data and FIN in every order relative to the reads: neither may be waited for in vain.
    for round in 0..200 {
        let (server, client) = plain_pair().await;
        client.write_all(b"one").await.unwrap();
        let mut buf = BytesMut::new();
        patiently("first", server.read(&mut buf, 4096)).await.unwrap();
        client.write_all(b"two").await.unwrap();
        if round % 2 == 0 {
            drop(client);
            let rest = patiently("rest", read_up_to(&server, usize::MAX)).await;
            assert_eq!(rest, b"two");
        } else {
            assert_eq!(patiently("second", read_up_to(&server, 3)).await, b"two");
        }
    }
}
