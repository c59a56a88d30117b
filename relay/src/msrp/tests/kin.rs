//! Two processes of one relay, and relays in front that have a connection to one of them.

use std::sync::Arc;

use super::harness::*;
use crate::msrp::Link;

const FRONT: &str = "msrps://front.test:2855/f1;tcp";

/// The world's first relay runs beside an older process, where Alice has her session; `front.test` is connected to the
/// newer one.
struct Upgraded {
    world: World,
    old: usize,
    alice: Node,
    front: ClientId,
}

impl Upgraded {
    fn new() -> Self {
        let mut world = World::new();
        let old = world.add_process();
        let id = world.connect_to(old, TLS);
        let alice = Node { id, relay: world.auth(id, "alice"), uri: own_uri("alice") };
        let front = world.connect_with(0, TLS, verified(&["front.test"]));
        Self { world, old, alice, front }
    }

    /// The front relay sends a message of Bob's to Alice.
    fn sends(&mut self, front: ClientId) -> String {
        let tid = self.world.tid();
        let head = format!(
            "To-Path: {}\r\nFrom-Path: {FRONT} {}\r\nMessage-ID: m\r\n",
            self.alice.path(),
            own_uri("bob")
        );
        self.world.write(front, send(&tid, &head, "hello", '$'));
        tid
    }

    /// It does, and the message arrives.
    fn reaches_alice(&mut self, front: ClientId) {
        let tid = self.sends(front);
        let response = self.world.take_one(front);
        assert_eq!((response.tid(), response.status()), (tid, Some(200)));
        let received = self.world.take_one(self.alice.id);
        assert_eq!(received.body, b"hello");
        assert_eq!(received.to(), self.alice.uri);
        // The other process alone is on the way.
        assert_eq!(received.from(), format!("{} {FRONT} {}", self.alice.relay, own_uri("bob")));
        self.world.write(self.alice.id, respond(&received, "200 OK"));
    }

    /// It sends, and has this answer.
    fn is_answered(&mut self, front: ClientId) -> Option<u16> {
        self.sends(front);
        self.world.nothing_for(self.alice.id);
        self.world.take_one(front).status()
    }

    /// The connections of the newer process that stand for another, and are open.
    fn standing(&self) -> Vec<Arc<Link>> {
        let links = self.world.open_links().into_iter();
        links.filter(|link| link.stands_for().is_some()).collect()
    }
}

#[test]
fn what_is_for_the_other_process_is_passed_on_as_it_is_and_the_answer_comes_back() {
    let mut upgraded = Upgraded::new();
    let front = upgraded.front;
    upgraded.reaches_alice(front);
    let standing = upgraded.standing();
    assert_eq!(standing.len(), 1);
    assert_eq!(standing[0].stands_for().unwrap().upgrade().unwrap().id(), upgraded.world.link(front).id());
    // One connection is enough.
    upgraded.reaches_alice(front);
    assert_eq!(upgraded.standing()[0].id(), standing[0].id());

    // What Alice sends takes the same way back.
    let Upgraded { world, alice, .. } = &mut upgraded;
    let tid = world.tid();
    let head = format!(
        "To-Path: {} {FRONT} {}\r\nFrom-Path: {}\r\nMessage-ID: n\r\n",
        alice.relay,
        own_uri("bob"),
        alice.uri
    );
    world.write(alice.id, send(&tid, &head, "back", '$'));
    let received = world.take_one(front);
    assert_eq!(received.body, b"back");
    assert_eq!(received.to(), format!("{FRONT} {}", own_uri("bob")));
    assert_eq!(received.from(), format!("{} {}", alice.relay, alice.uri));
    assert_eq!(world.take_one(alice.id).status(), Some(200));
    world.write(front, respond(&received, "200 OK"));
    assert_eq!(upgraded.standing().len(), 1);
}

#[test]
fn that_is_for_relays_that_have_proved_to_be_one_and_while_there_is_another_process() {
    let mut upgraded = Upgraded::new();
    let unproved = upgraded.world.connect();
    assert_eq!(upgraded.is_answered(unproved), Some(481));
    let front = upgraded.front;
    upgraded.world.relay(0).set_has_kin(false);
    assert_eq!(upgraded.is_answered(front), Some(481));
    assert!(upgraded.standing().is_empty());
    upgraded.world.relay(0).set_has_kin(true);
    upgraded.reaches_alice(front);
}

#[test]
fn a_session_of_a_process_that_is_not_there_is_one_that_there_is_not() {
    let mut upgraded = Upgraded::new();
    let tag = upgraded.world.relay(upgraded.old).sessions().tag().to_string();
    upgraded.alice.relay = upgraded.alice.relay.replace(&tag, "zzzzz");
    let front = upgraded.front;
    assert_eq!(upgraded.is_answered(front), Some(481));
    assert!(upgraded.standing().is_empty());
}

#[test]
fn each_relay_has_one_that_stands_for_it_and_ends_with_it() {
    let mut upgraded = Upgraded::new();
    let first = upgraded.front;
    let second = upgraded.world.connect_with(0, TLS, verified(&["front.test"]));
    upgraded.reaches_alice(first);
    let of_first = upgraded.standing()[0].id();
    // The session is in use by that peer; another one of the same relay may use it, too.
    upgraded.reaches_alice(second);
    assert_eq!(upgraded.standing().len(), 2);
    upgraded.world.hang_up(first);
    let left = upgraded.standing();
    assert!(left.len() == 1 && left[0].id() != of_first, "{left:?}");
    upgraded.reaches_alice(second);
    upgraded.world.hang_up(second);
    assert!(upgraded.standing().is_empty());
}

#[test]
fn one_that_has_ended_is_replaced() {
    let mut upgraded = Upgraded::new();
    let front = upgraded.front;
    upgraded.reaches_alice(front);
    let before = upgraded.standing().remove(0);
    let link = Arc::clone(upgraded.world.link(front));
    let tag = before.target().unwrap().process.unwrap();
    assert_eq!(link.standing(tag).map(|standing| standing.id()), Some(before.id()));
    upgraded.world.close_link(&before);
    assert!(link.standing(tag).is_none(), "nothing is kept of it");
    upgraded.reaches_alice(front);
    assert_ne!(upgraded.standing()[0].id(), before.id());

    // One that cannot be opened is not kept either.
    let before = upgraded.standing().remove(0);
    upgraded.world.close_link(&before);
    upgraded.world.holds_dials = true;
    upgraded.sends(front);
    let dial = upgraded.world.dial(0);
    assert_eq!(link.standing(tag).map(|standing| standing.id()), Some(dial.id()));
    upgraded.world.fail_dial(0, &dial);
    let told = upgraded.world.take(front);
    let [answer, report] = &told[..] else { panic!("{told:#?}") };
    assert_eq!((answer.status(), report.method()), (Some(200), "REPORT"));
    assert_eq!(report.field("Status"), "000 408 Request Timeout");
    assert!(link.standing(tag).is_none());
}

#[test]
fn one_that_comes_up_after_the_end_of_the_relays_own_ends_at_once() {
    let mut upgraded = Upgraded::new();
    let front = upgraded.front;
    upgraded.world.holds_dials = true;
    upgraded.sends(front);
    let dial = upgraded.world.dial(0);
    upgraded.world.hang_up(front);
    let end = upgraded.world.complete_dial(0, &dial);
    assert!(upgraded.world.closed(end).is_some());
    upgraded.world.nothing_for(upgraded.alice.id);
}
