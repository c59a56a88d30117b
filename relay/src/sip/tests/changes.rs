//! Other settings while the edge runs.

use std::time::{Duration, Instant};

use tcp_transport::sip::{Event, Name};

use super::harness::*;
use crate::sip::{
    Destination, Edge, HealthSettings, Outcome, Scratch, Settings, Transport, UpstreamSettings, Upstreams,
};

/// Has the net go on with these, where the clients of these listeners are connected.
fn change(net: &mut Net, settings: Settings, secret: Option<&[u8]>, used: &[usize]) {
    let keys = secret.map_or_else(|| net.edge.keys().clone(), |new| net.edge.keys().renewed(new).unwrap());
    net.edge = net.edge.changed(settings, keys, |listener| used.contains(&listener));
    let numbers = net.edge.upstream_numbers();
    let wanted = net.edge.settings().upstreams.clone();
    net.upstreams.change(numbers.iter().copied().zip(&wanted), HealthSettings::default(), net.now);
    numbers.into_iter().for_each(|number| net.upstreams.connected(number, net.now));
}

fn other(host: &str) -> UpstreamSettings {
    let mut upstream = settings().upstreams.remove(0);
    upstream.peer.host = host.into();
    upstream
}

#[test]
fn an_upstream_that_is_gone_gets_nothing_new_and_what_it_has_ends_well() {
    let mut net = Net::new();
    let alice = net.client(7, TLS);
    let fields = "Route: <sip:10.0.0.1;lr>\r\n";
    let (index, up) = net.upwards(&alice, &Request { fields, ..Request::default() }.text());
    let first = net.upstream(0);
    assert_eq!(index, 0);
    let register = Request { method: "REGISTER", via: VIA_OF_PHONE, ..Request::default() }.text();
    let path = values(&net.upwards(&alice, &register).1, Name::Path);

    change(
        &mut net,
        Settings { upstreams: vec![other("10.0.0.2"), other("10.0.0.3")], ..settings() },
        None,
        &[],
    );
    assert_eq!(net.edge.upstream_numbers(), [1, 2], "the second one keeps its number");
    // Its response comes back, and along a token it gets through, over the connection that is there.
    assert_eq!(net.sent(&first, &response(&up, "200 OK", "")).0, Destination::Client(7));
    let call = Request { via: VIA_OF_UPSTREAM, fields: &route(&path), ..Request::default() }.text();
    assert_eq!(net.sent(&first, &call).0, Destination::Client(7));
    // Nobody is sent there any more, whatever a Route says.
    for number in 0..50 {
        let branch = format!("SIP/2.0/TLS a.invalid;branch=z9hG4bK{number}");
        let text =
            Request { via: &branch, ..Request::default() }.text().replace("c1@", &format!("{number}@"));
        assert_ne!(net.upwards(&alice, &text).0, 0);
    }
    assert_eq!(net.answered(&alice, &Request { fields, ..Request::default() }.text()).0, 403);
    // It comes back before it is forgotten, and after that.
    change(&mut net, settings(), None, &[]);
    assert_eq!(net.edge.upstream_numbers(), [0, 1]);
    assert_eq!(net.upwards(&alice, &Request { fields, ..Request::default() }.text()).0, 0);
    change(&mut net, Settings { upstreams: vec![other("10.0.0.2")], ..settings() }, None, &[]);
    net.edge = net.edge.without_upstream(0);
    change(&mut net, settings(), None, &[]);
    assert_eq!(net.edge.upstream_numbers(), [3, 1], "a number is of one alone");
    // The third one is of no use any more, and still has a number; there are so many.
    let most = usize::from(u16::MAX) - 4;
    let many = |count: usize| -> Vec<_> { (0..count).map(|n| other(&format!("10.1.{n}"))).collect() };
    assert!(net.edge.has_numbers_for(&many(most)) && !net.edge.has_numbers_for(&many(most + 1)));
    assert!(net.edge.has_numbers_for(&settings().upstreams));
}

#[test]
fn what_the_edge_called_itself_before_leads_to_it() {
    let mut net = Net::new();
    let alice = net.client(7, TLS);
    let invite = Request { method: "INVITE", via: VIA_OF_PHONE, ..Request::default() }.text();
    let (index, up) = net.upwards(&alice, &invite);
    let proxy = net.upstream(index);
    let mut new = settings();
    for upstream in &mut new.upstreams {
        upstream.local.host = "new.example.com".into();
    }
    change(&mut net, new, Some(b"another secret of the edge"), &[TLS]);
    assert_eq!(net.sent(&proxy, &response(&up, "200 OK", "")).0, Destination::Client(7));
    let mut record = values(&up, Name::RecordRoute);
    record.reverse();
    let via = "SIP/2.0/TLS 192.168.0.7:5061;branch=z9hG4bKbye";
    let bye =
        Request { method: "BYE", via, to_tag: ";tag=b1", fields: &route(&record), ..Request::default() };
    let (_, up) = net.upwards(&alice, &bye.text());
    assert!(values(&up, Name::Via)[0].contains("new.example.com"), "{up}");
    assert!(values(&up, Name::Route).is_empty(), "{up}");
    // A CANCEL matches its INVITE, whatever tokens are signed with.
    let cancel = Request { method: "CANCEL", via: VIA_OF_PHONE, ..Request::default() }.text();
    let (_, before) = Net::new().upwards(&alice, &invite);
    assert_eq!(branch(&net.upwards(&alice, &cancel).1), branch(&before));
}

#[test]
fn a_listener_is_known_while_it_is_there_or_in_use() {
    let mut net = Net::new();
    let alice = net.client(7, TLS);
    let without = |gone: usize| {
        let mut new = settings();
        new.listeners.remove(gone);
        new
    };
    let to_old = "Route: <sip:edge.example.com:5061;transport=tls;lr>\r\n";
    let request = Request { via: VIA_OF_PHONE, fields: to_old, ..Request::default() }.text();
    change(&mut net, without(TLS), None, &[TLS]);
    assert_eq!(net.edge.listener_numbers(), [WSS, TCP]);
    assert!(net.edge.has_listener(TLS));
    net.upwards(&alice, &request);
    // Its last client has gone. A dialog of another one, whose connection was another then, knows its name.
    change(&mut net, without(TLS), None, &[]);
    assert!(!net.edge.has_listener(TLS));
    let bob = net.client(8, WSS);
    let (_, up) = net.upwards(&bob, &request);
    assert!(values(&up, Name::Route).is_empty(), "{up}");
    change(&mut net, settings(), None, &[]);
    assert_eq!(net.edge.listener_numbers(), [WSS, 3, TCP]);
    // A hundred changes leave nothing behind.
    for number in 0..100 {
        let mut new = settings();
        new.listeners[TLS].port = 6000 + number;
        change(&mut net, new, None, &[]);
    }
    let known = (0..200).filter(|number| net.edge.has_listener(*number)).count();
    // With the one that has just gone.
    assert_eq!(known, 4);
    assert_eq!(net.answered(&bob, &request).0, 403, "others have gone since");
    let to_last = request.replace(":5061;", ":6098;");
    net.upwards(&bob, &to_last);
    // A change of anything else is none of names; but what is an upstream's name now is not ours.
    let same = Settings { retry_after: 3, ..net.edge.settings().clone() };
    change(&mut net, same, None, &[]);
    net.upwards(&bob, &to_last);
    let mut taken = net.edge.settings().clone();
    taken.upstreams[0].peer.host = "edge.example.com".into();
    taken.upstreams[0].peer.port = 6098;
    change(&mut net, taken, None, &[]);
    let (_, up) = net.upwards(&bob, &to_last);
    assert_eq!(values(&up, Name::Route).len(), 1, "{up}");
    // Two that call themselves alike are two.
    let twin = settings().listeners.remove(WSS);
    let twins = Settings { listeners: vec![twin.clone(), twin], ..settings() };
    change(&mut net, twins, None, &[]);
    let numbers = net.edge.listener_numbers();
    assert!(numbers.len() == 2 && numbers[0] != numbers[1], "{numbers:?}");
}

#[test]
fn who_comes_over_a_listener_while_it_goes_is_served() {
    let mut net = Net::new();
    let mut without = settings();
    without.listeners.remove(TLS);
    // Nobody was connected over it when that was looked at, and the listener took one more.
    change(&mut net, without.clone(), None, &[]);
    let alice = net.client(7, TLS);
    let request = Request { via: VIA_OF_PHONE, ..Request::default() }.text();
    net.upwards(&alice, &request);
    // From then on she is among those who are connected.
    change(&mut net, without.clone(), None, &[TLS]);
    net.upwards(&alice, &request);
    change(&mut net, without, None, &[]);
    assert!(!net.edge.has_listener(TLS));
}

#[test]
fn pings_and_the_time_to_wait_are_as_the_settings_say() {
    let mut net = Net::new();
    let alice = net.client(7, TCP);
    let ping = |edge: &Edge, net: &Net| {
        edge.received(
            &Event::Ping,
            &alice,
            &net.open,
            &net.upstreams,
            &mut Scratch::default(),
            &mut Vec::new(),
        )
    };
    assert_eq!(ping(&net.edge, &net), Outcome::Pong);
    change(&mut net, Settings { crlf_pingpong: false, retry_after: 77, ..settings() }, None, &[]);
    assert_eq!(ping(&net.edge, &net), Outcome::Alive);
    net.upstreams.disconnected(0);
    net.upstreams.disconnected(1);
    let (status, answer) = net.answered(&alice, &Request::default().text());
    assert!(status == 503 && answer.contains("\r\nRetry-After: 77\r\n"), "{answer}");
}

#[test]
fn upstreams_keep_their_health_and_take_other_settings() {
    let now = Instant::now();
    let second = Duration::from_secs(1);
    let health = |interval, failures| HealthSettings {
        probe_interval: interval,
        probe_timeout: second,
        probe_failures: failures,
    };
    let all = settings().upstreams;
    let mut upstreams = Upstreams::new(&all, health(100 * second, 3), now);
    let (mut probes, mut changes) = (Vec::new(), Vec::new());
    upstreams.poll(now + 50 * second, &mut probes, &mut changes);
    assert_eq!(upstreams.failed(0), None);
    let now = now + 60 * second;
    let [first, second_one] = &all[..] else { panic!() };
    let later = UpstreamSettings { priority: 5, ..first.clone() };
    let others = upstreams.change([(0, &later), (7, second_one)], health(10 * second, 2), now);
    assert_eq!(others, [7]);
    // The new one is up, and takes nothing until it is connected.
    assert_eq!((upstreams.is_up(0), upstreams.is_up(1), upstreams.is_up(7)), (true, false, false));
    upstreams.connected(7, now);
    assert_eq!(upstreams.choose(b"any", None, |_| true), Some(7), "by priority");
    // What has failed once before fails for good with the second time.
    assert!(upstreams.failed(0).is_some());
    // The next probe comes by the shorter interval.
    probes.clear();
    upstreams.poll(now + 10 * second, &mut probes, &mut changes);
    assert_eq!(probes.iter().map(|probe| probe.upstream).collect::<Vec<_>>(), [0, 7]);
    // Of one that is gone nothing is to be told.
    upstreams.change([(7, second_one)], health(10 * second, 1), now);
    assert_eq!(upstreams.failed(0), None);
    assert_eq!(Transport::Tcp, second_one.peer.transport);
}
