//! Upstreams that come and go.

use std::time::Duration;

use super::harness::*;
use crate::sip::{Change, HealthSettings, Outcome, Probe, UpstreamSettings, Upstreams};

const SECOND: Duration = Duration::from_secs(1);

fn poll(net: &mut Net) -> (Vec<Probe>, Vec<Change>) {
    let (mut probes, mut changes) = (Vec::new(), Vec::new());
    net.upstreams.poll(net.now, &mut probes, &mut changes);
    (probes, changes)
}

/// Lets the time pass to each deadline for so long; who answers decides which probes are answered.
fn pass(net: &mut Net, time: Duration, answers: impl Fn(&Probe) -> Option<u16>) -> Vec<Change> {
    let end = net.now + time;
    let mut all = Vec::new();
    while let Some(at) = net.upstreams.deadline().filter(|at| *at <= end) {
        net.now = at;
        let (probes, changes) = poll(net);
        all.extend(changes);
        for probe in probes {
            all.extend(answers(&probe).and_then(|status| net.upstreams.answered(probe, status)));
        }
    }
    net.now = end;
    all
}

#[test]
fn probes_go_out_and_their_answers_come_back() {
    let mut net = Net::new();
    let (probes, _) = poll(&mut net);
    assert_eq!(probes, [Probe { upstream: 0, sequence: 1 }], "the second one is due half an interval later");
    let mut out = Vec::new();
    net.edge.probe(probes[0], &mut net.scratch, &mut out);
    let text = String::from_utf8(out.concat()).unwrap();
    parse(&text);
    assert!(text.starts_with(
        "OPTIONS sip:10.0.0.1:5060;transport=tcp SIP/2.0\r\nVia: SIP/2.0/TCP edge.example.com:5060;"
    ));
    let ok = response(&text, "200 OK", "");
    let proxy = net.upstream(0);
    assert_eq!(net.receive(&proxy, &ok).0, Outcome::Probed(probes[0], 200));
    let mallory = net.client(9, TCP);
    assert!(matches!(net.receive(&mallory, &ok).0, Outcome::Drop(_)));
}

#[test]
fn an_upstream_fails_after_as_many_probes_as_set_and_comes_back_with_one() {
    let mut net = Net::new();
    let dead = |probe: &Probe| (probe.upstream == 1).then_some(200);
    // Probes at 0 s, 10 s, 20 s; each fails 3 s later.
    assert_eq!(pass(&mut net, 22 * SECOND, dead), []);
    assert_eq!(pass(&mut net, SECOND, dead), [Change::Down(0)]);
    assert!(!net.upstreams.is_up(0) && net.upstreams.is_up(1));
    assert_eq!(pass(&mut net, 60 * SECOND, dead), [], "told once");
    assert_eq!(pass(&mut net, 10 * SECOND, |_| Some(404)), [Change::Up(0)], "any answer is a sign of life");
    // One failure alone is none.
    assert_eq!(pass(&mut net, 20 * SECOND, dead), []);
    assert_eq!(pass(&mut net, 20 * SECOND, |_| Some(200)), []);
}

#[test]
fn a_503_counts_as_a_failure_and_late_or_provisional_answers_as_nothing() {
    let mut net = Net::new();
    let busy = |probe: &Probe| Some(if probe.upstream == 0 { 503 } else { 200 });
    assert_eq!(pass(&mut net, 20 * SECOND, busy), [Change::Down(0)], "at once with the third");
    assert_eq!(pass(&mut net, 10 * SECOND, |_| Some(100)), []);
    let old = Probe { upstream: 0, sequence: 1 };
    assert_eq!(net.upstreams.answered(old, 200), None);
    assert_eq!(net.upstreams.answered(Probe { upstream: 9, sequence: 1 }, 200), None);
    assert!(!net.upstreams.is_up(0));
}

#[test]
fn a_new_connection_is_not_blamed_for_a_probe_from_before_it() {
    let mut net = Net::new();
    net.upstreams.set_connected(0, false);
    assert_eq!((net.upstreams.failed(0), net.upstreams.failed(0)), (None, None));
    let second = |probe: &Probe| (probe.upstream == 1).then_some(200);
    // The first probe is due while there is no connection, and would be given up at 3 s as the third failure.
    assert_eq!(pass(&mut net, 2 * SECOND, second), []);
    net.upstreams.set_connected(0, true);
    assert_eq!(pass(&mut net, 10 * SECOND, second), []);
    assert!(net.upstreams.is_up(0));
    // The next one is.
    assert_eq!(pass(&mut net, SECOND, second), [Change::Down(0)]);
}

#[test]
fn connections_that_fail_count_too() {
    let mut net = Net::new();
    assert_eq!((net.upstreams.failed(0), net.upstreams.failed(0)), (None, None));
    assert_eq!(net.upstreams.failed(0), Some(Change::Down(0)));
    assert_eq!((net.upstreams.failed(0), net.upstreams.failed(7)), (None, None));
}

#[test]
fn requests_go_elsewhere_when_an_upstream_fails_and_get_503_when_all_have() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    let call = |n: usize| Request::default().text().replace("c1@client", &format!("c{n}@client"));
    let at = |net: &mut Net| (0..200).map(|n| net.upwards(&alice, &call(n)).0).collect::<Vec<_>>();
    let before = at(&mut net);
    let first = before.iter().filter(|index| **index == 0).count();
    assert!((60..140).contains(&first), "{first} of 200");
    assert_eq!(at(&mut net), before, "by Call-ID");
    for _ in 0..3 {
        net.upstreams.failed(0);
    }
    assert!(at(&mut net).iter().all(|index| *index == 1));
    for _ in 0..3 {
        net.upstreams.failed(1);
    }
    let (status, answer) = net.answered(&alice, &call(1));
    assert!(status == 503 && answer.contains("\r\nRetry-After: 10\r\n"));
    // An upstream on record that is down is none to insist on.
    net.now += 5 * SECOND;
    pass(&mut net, 20 * SECOND, |probe| (probe.upstream == 1).then_some(200));
    let fields = "Route: <sip:10.0.0.1;lr>\r\n";
    assert_eq!(net.upwards(&alice, &Request { fields, ..Request::default() }.text()).0, 1);
}

#[test]
fn priority_comes_before_weight_and_only_its_own_share_moves() {
    let base = settings().upstreams.remove(0);
    let with = |priority, weight| UpstreamSettings { priority, weight, ..base.clone() };
    let nodes = [with(1, 1), with(1, 3), with(2, 9)];
    let mut upstreams = Upstreams::new(&nodes, HealthSettings::default(), std::time::Instant::now());
    let choose = |upstreams: &Upstreams| -> Vec<usize> {
        (0..4000).map(|n| upstreams.choose(format!("call-{n}").as_bytes(), None).unwrap()).collect()
    };
    let count = |chosen: &[usize], which| chosen.iter().filter(|index| **index == which).count();
    let before = choose(&upstreams);
    assert!((800..1200).contains(&count(&before, 0)), "{}", count(&before, 0));
    assert_eq!(count(&before, 2), 0);
    assert_eq!(upstreams.choose(b"x", Some(2)), Some(2), "unless it is asked for");
    for _ in 0..3 {
        upstreams.failed(0);
    }
    let after = choose(&upstreams);
    assert!(before.iter().zip(&after).all(|(before, after)| *before == 0 || before == after));
    for _ in 0..3 {
        upstreams.failed(1);
    }
    assert_eq!(count(&choose(&upstreams), 2), 4000);
}

#[test]
fn an_upstream_without_a_connection_takes_no_requests_and_has_not_failed() {
    let mut net = Net::new();
    net.upstreams.set_connected(0, false);
    assert!(!net.upstreams.is_up(0));
    assert!((0..50u8).all(|id| net.upstreams.choose(&[id], Some(0)) == Some(1)));
    net.upstreams.set_connected(1, false);
    assert_eq!(net.upstreams.choose(b"id", None), None);
    net.upstreams.set_connected(0, true);
    assert_eq!(net.upstreams.choose(b"id", None), Some(0), "at once, without a probe");
}
