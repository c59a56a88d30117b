//! Which messages are traced, how, and what they are told by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tcp_transport::hep::trace::SentBy;

use super::harness::*;
use crate::msrp::Tap;

/// A traced message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    conn: usize,
    by: SentBy,
    session: String,
    head: String,
    body: String,
    time: u64,
}

impl Seen {
    /// The start line without its transaction id.
    fn kind(&self) -> &str {
        self.head.lines().next().unwrap().splitn(3, ' ').nth(2).unwrap()
    }
}

/// What the taps of all connections of a world have seen.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Recorded>);

#[derive(Default)]
struct Recorded {
    on: AtomicBool,
    /// Only those on which somebody has authenticated, or nobody need.
    only_known: AtomicBool,
    body: AtomicUsize,
    asked: AtomicUsize,
    clock: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    users: Mutex<Vec<(usize, Option<String>)>>,
    /// In and out, by connection.
    counts: Mutex<Vec<(usize, SentBy, u64)>>,
}

struct OneTap(usize, Arc<Recorded>);

impl Tap for OneTap {
    fn is_on(&self) -> bool {
        self.1.asked.fetch_add(1, Ordering::Relaxed);
        let known = || self.1.users.lock().iter().any(|(conn, _)| *conn == self.0);
        self.1.on.load(Ordering::Relaxed) && (!self.1.only_known.load(Ordering::Relaxed) || known())
    }

    fn body(&self) -> usize {
        self.1.body.load(Ordering::Relaxed)
    }

    fn now(&self) -> SystemTime {
        // Each is later than the one before.
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.1.clock.fetch_add(1, Ordering::Relaxed) as u64)
    }

    fn message(&self, by: SentBy, time: SystemTime, session: &str, head: &[u8], body: &[u8]) {
        let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (session, head, body) = (session.to_owned(), text(head), text(body));
        assert!(head.ends_with("\r\n") && !head.ends_with("\r\n\r\n"), "{head:?}");
        self.1.seen.lock().push(Seen { conn: self.0, by, session, head, body, time });
    }

    fn count(&self, by: SentBy, messages: u64) {
        self.1.counts.lock().push((self.0, by, messages));
    }

    fn authenticated(&self, user: &str) {
        self.1.users.lock().push((self.0, Some(user.to_owned())));
    }

    fn anonymous(&self) {
        self.1.users.lock().push((self.0, None));
    }
}

impl Recorder {
    fn world(body: usize) -> (World, Self) {
        let recorder = Self::default();
        recorder.0.on.store(true, Ordering::Relaxed);
        recorder.0.body.store(body, Ordering::Relaxed);
        let mut world = World::new();
        world.tapped = Some(recorder.clone());
        (world, recorder)
    }

    pub(super) fn of(&self, conn: usize) -> Arc<dyn Tap> {
        Arc::new(OneTap(conn, Arc::clone(&self.0)))
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.seen.lock())
    }

    /// How many messages were counted there.
    fn count(&self, conn: usize, by: SentBy) -> u64 {
        let counts = self.0.counts.lock();
        counts.iter().filter(|count| (count.0, count.1) == (conn, by)).map(|count| count.2).sum()
    }
}

/// Connection, direction and kind of each.
fn flow(seen: &[Seen]) -> Vec<(usize, SentBy, &str)> {
    seen.iter().map(|seen| (seen.conn, seen.by, seen.kind())).collect()
}

use SentBy::{Peer, Us};

#[test]
fn auth_belongs_to_no_session_and_tells_whose_the_connection_is() {
    let (mut world, recorder) = Recorder::world(0);
    world.member("alice");
    let seen = recorder.take();
    assert_eq!(
        flow(&seen),
        [(0, Peer, "AUTH"), (0, Us, "401 Unauthorized"), (0, Peer, "AUTH"), (0, Us, "200 OK"),]
    );
    assert!(seen.iter().all(|seen| seen.session.is_empty()), "{seen:#?}");
    assert_eq!(recorder.0.users.lock().first(), Some(&(0, Some("alice".to_owned()))));
}

#[test]
fn the_auth_that_decides_is_the_first_that_is_traced() {
    let (mut world, recorder) = Recorder::world(0);
    recorder.0.only_known.store(true, Ordering::Relaxed);
    world.member("alice");
    let seen = recorder.take();
    assert_eq!(flow(&seen), [(0, Peer, "AUTH"), (0, Us, "200 OK")]);
    assert!(seen[0].head.contains("Authorization: "));
}

#[test]
fn both_legs_and_both_directions_of_a_session_are_told_by_one_id() {
    for (web, size) in [(false, 0), (true, 0), (false, 4), (true, 4), (false, 100), (true, 100)] {
        let (mut world, recorder) = Recorder::world(size);
        let alice = world.member("alice");
        let bob = if web { world.web_member("bob") } else { world.member("bob") };
        let (a, b) = (world.number(alice.id), world.number(bob.id));
        recorder.take();
        let mut ids = Vec::new();
        for (from, to, x, y) in [(&alice, &bob, a, b), (&bob, &alice, b, a)] {
            let head = format!("{}Message-ID: m1\r\nByte-Range: 1-5/5\r\n", from.paths_to(to));
            world.write(from.id, send("t0001", &head, "hello", '$'));
            let message = world.take_one(to.id);
            assert_eq!(world.take_one(from.id).status(), Some(200));
            world.write(to.id, respond(&message, "200 OK"));
            let seen = recorder.take();
            assert_eq!(
                flow(&seen),
                [(x, Peer, "SEND"), (y, Us, "SEND"), (x, Us, "200 OK"), (y, Peer, "200 OK")],
                "{seen:#?}"
            );
            let body = &"hello"[..size.min(5)];
            assert_eq!((&*seen[0].body, &*seen[1].body), (body, body));
            assert_eq!(seen[0].head, format!("MSRP t0001 SEND\r\n{head}Content-Type: text/plain\r\n"));
            // As it went over the wire, transaction id and all.
            assert_eq!(seen[1].head.as_bytes(), message.head.as_bytes());
            ids.extend(seen.into_iter().map(|seen| seen.session));
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "{ids:?}");
        let mut own = [&alice, &bob].map(|node| node.relay.clone());
        own.sort_by_key(|uri| session_id(uri).to_owned());
        assert_eq!(ids[0], session_id(&own[0]));
    }
}

fn session_id(uri: &str) -> &str {
    uri.split(['/', ';']).nth(3).unwrap()
}

#[test]
fn a_report_an_error_and_an_unknown_method_belong_to_the_session_too() {
    let (mut world, recorder) = Recorder::world(4);
    let (alice, bob) = world.pair();
    let (a, b) = (world.number(alice.id), world.number(bob.id));
    let head = format!("{}Message-ID: m1\r\n", alice.paths_to(&bob));
    world.write(alice.id, send("t0001", &head, "hello", '$'));
    let message = world.take_one(bob.id);
    world.take(alice.id);
    recorder.take();
    // It is 200 to Alice already: she gets a REPORT.
    world.write(bob.id, respond(&message, "413 no"));
    let report = format!(
        "MSRP t0002 REPORT\r\n{}Message-ID: m1\r\nStatus: 000 200 OK\r\n-------t0002$\r\n",
        bob.paths_to(&alice)
    );
    world.write(bob.id, report);
    let unknown = format!(
        "MSRP t0003 NICK\r\n{}Content-Type: text/plain\r\n\r\nbody\r\n-------x\r\n-------t0003$\r\n",
        alice.paths_to(&bob)
    );
    world.write(alice.id, unknown);
    world.take(alice.id);
    let seen = recorder.take();
    assert_eq!(
        flow(&seen),
        [
            (b, Peer, "413 no"),
            (a, Us, "REPORT"),
            (b, Peer, "REPORT"),
            (a, Us, "REPORT"),
            (a, Peer, "NICK"),
            (b, Us, "NICK"),
        ],
        "{seen:#?}"
    );
    assert!(seen[1].head.contains("Status: 000 413 "), "{seen:#?}");
    assert!(seen[1].head.ends_with("Too Large\r\n") || seen[1].head.ends_with("\r\n"));
    assert!(seen[..4].iter().all(|seen| seen.body.is_empty()));
    assert_eq!((&*seen[4].body, &*seen[5].body), ("body", "body"));
    let ids: std::collections::HashSet<_> = seen.iter().map(|seen| &seen.session).collect();
    assert_eq!(ids.len(), 1, "{seen:#?}");
    assert_eq!(ids.iter().next().unwrap().len(), 37);
}

#[test]
fn what_is_refused_is_traced_with_its_answer_and_what_is_foreign_too() {
    let (mut world, recorder) = Recorder::world(3);
    let alice = world.member("alice");
    recorder.take();
    let none = format!("{}{}", world.relay(0).sessions().tag(), "0".repeat(32));
    let id = none.clone();
    let none = format!("msrps://relay.test:2855/{none};tcp");
    let head =
        format!("To-Path: {none} msrp://b.invalid:1/b;tcp\r\nFrom-Path: {}\r\nMessage-ID: m\r\n", alice.uri);
    world.write(alice.id, send("t0001", &head, "hello", '$'));
    let bad = head.replace("Message-ID: m\r\n", "");
    world.write(alice.id, send("t0002", &bad, "hello", '$'));
    world.take(alice.id);
    let seen = recorder.take();
    let kinds: Vec<_> = seen.iter().map(|seen| (seen.by, seen.kind(), &*seen.body)).collect();
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    assert_eq!((kinds[0], kinds[2]), ((Peer, "SEND", "hel"), (Peer, "SEND", "hel")));
    assert!(kinds[1].1.starts_with("481") && kinds[3].1.starts_with("400"), "{kinds:?}");
    assert!(seen.iter().all(|seen| seen.session == id), "{seen:#?}");

    let foreign = head.replace("relay.test", "elsewhere.test");
    for request in
        [send("t0003", &foreign, "hi", '$'), format!("MSRP t0004 NICK\r\n{foreign}-------t0004$\r\n").into()]
    {
        let (mut world, recorder) = Recorder::world(0);
        let stranger = world.connect();
        world.write(stranger, request);
        assert!(world.closed(stranger).is_some());
        let seen = recorder.take();
        assert_eq!((seen.len(), &*seen[0].session), (1, ""), "what closed the connection");
    }
}

#[test]
fn a_chunk_that_comes_slowly_is_traced_when_enough_of_it_is_there_and_one_that_breaks_off_at_its_end() {
    let (mut world, recorder) = Recorder::world(4);
    let (alice, bob) = world.pair();
    let head = format!("{}Message-ID: m1\r\nByte-Range: 1-*/100000\r\n", alice.paths_to(&bob));
    recorder.take();
    world.write(alice.id, send_begin("t0001", &head));
    world.write(alice.id, "ab");
    assert!(recorder.take().is_empty(), "more is to come");
    world.write(alice.id, "cdef");
    let seen = recorder.take();
    assert_eq!(flow(&seen), [(0, Peer, "SEND"), (1, Us, "SEND")]);
    assert!(seen.iter().all(|seen| seen.body == "abcd"), "{seen:#?}");
    world.write(alice.id, end("t0001", '+'));
    recorder.take();

    world.write(alice.id, send_begin("t0002", &head));
    world.write(alice.id, "ab");
    world.hang_up(alice.id);
    let seen = recorder.take();
    assert_eq!((&*seen[0].body, seen[0].by), ("ab", Peer), "{seen:#?}");
    assert!(seen[1..].iter().all(|later| later.time > seen[0].time), "with the time of its head: {seen:#?}");
}

#[test]
fn messages_are_counted_whether_they_are_traced_or_not() {
    let (mut world, recorder) = Recorder::world(0);
    recorder.0.on.store(false, Ordering::Relaxed);
    let alice = world.member("alice");
    let bob = world.web_member("bob");
    let (a, b) = (world.number(alice.id), world.number(bob.id));
    for number in 0..3 {
        let head = format!("{}Message-ID: m{number}\r\n", alice.paths_to(&bob));
        world.write(alice.id, send(&format!("t000{number}"), &head, "hello", '$'));
        let message = world.take_one(bob.id);
        world.write(bob.id, respond(&message, "200 OK"));
    }
    world.take(alice.id);
    let counts = [(a, Peer), (a, Us), (b, Peer), (b, Us)].map(|(conn, by)| recorder.count(conn, by));
    // Two AUTHs each; three messages, and their responses.
    assert_eq!(counts, [5, 5, 5, 5]);
    assert!(recorder.take().is_empty());

    // What is not off the socket whole has not left.
    world.stop_reading(bob.id, 0);
    let head = format!("{}Message-ID: m9\r\n", alice.paths_to(&bob));
    world.write(alice.id, send("t0009", &head, "hello", '$'));
    assert_eq!((recorder.count(a, Peer), recorder.count(b, Us)), (6, 5));
    world.resume_reading(bob.id);
    assert_eq!(recorder.count(b, Us), 6);
}

#[test]
fn nobody_is_known_until_somebody_authenticates_or_is_served_without() {
    let (mut world, recorder) = Recorder::world(0);
    let alice = world.member("alice");
    let stranger = world.connect();
    let number = world.number(stranger);
    let own = own_uri("stranger");
    let head = format!("To-Path: {}\r\nFrom-Path: {own}\r\nMessage-ID: m\r\n", alice.path());
    recorder.0.only_known.store(true, Ordering::Relaxed);
    recorder.take();
    world.write(stranger, send("t0001", &head.replace("relay.test:2855/", "relay.test:2855/0"), "hi", '$'));
    assert!(recorder.take().is_empty(), "it has done nothing right yet");
    world.write(stranger, send("t0002", &head, "hi", '$'));
    assert!(recorder.0.users.lock().contains(&(number, None)));
    assert_eq!(flow(&recorder.take())[0], (number, Peer, "SEND"));
}

#[test]
fn with_nothing_traced_each_message_is_one_question() {
    let (mut world, recorder) = Recorder::world(0);
    recorder.0.on.store(false, Ordering::Relaxed);
    let (alice, bob) = world.pair();
    recorder.0.asked.store(0, Ordering::Relaxed);
    let head = format!("{}Message-ID: m1\r\n", alice.paths_to(&bob));
    world.write(alice.id, send("t0001", &head, "hello", '$'));
    world.take_one(bob.id);
    // It came, it left, and so did its response.
    assert_eq!(recorder.0.asked.load(Ordering::Relaxed), 3);
}
