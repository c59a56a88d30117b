//! Dialogs: what is recorded, and what follows it; branches.

use tcp_transport::sip::Name;

use super::harness::*;
use crate::sip::{Destination, Transport};

const CONTACT: &str = "Contact: <sip:alice@df7jal23ls0d.invalid;transport=ws;ob>\r\n";

fn reversed(mut entries: Vec<String>) -> Vec<String> {
    entries.reverse();
    entries
}

#[test]
fn invite_ack_and_bye_between_two_clients_of_this_edge() {
    let mut net = Net::new();
    let (alice, bob) = (net.client(7, WSS), net.client(8, TLS));
    let path = {
        let request = Request { method: "REGISTER", via: VIA_OF_PHONE, ..Request::default() }.text();
        values(&net.upwards(&bob, &request).1, Name::Path)
    };

    // Alice to the upstream. Both sides of the edge are on record, the one next to the upstream on top.
    let sdp = "v=0\r\n";
    let invite = Request { method: "INVITE", fields: CONTACT, body: sdp, ..Request::default() }.text();
    let (index, up) = net.upwards(&alice, &invite);
    let proxy = net.upstream(index);
    let record = values(&up, Name::RecordRoute);
    assert_eq!(record.len(), 2);
    assert!(record[0].ends_with("@edge.example.com:5060;transport=tcp;lr>"), "{record:?}");
    assert!(record[1].ends_with("@edge.example.com:443;transport=ws;lr>"), "{record:?}");
    assert!(values(&up, Name::Path).is_empty() && up.ends_with("\r\n\r\nv=0\r\n"));

    // The upstream to Bob, by his Path: it adds its Via and does not go on record.
    let to_bob = up.replacen("INVITE sip:bob@example.com", "INVITE sip:bob@192.168.0.7", 1).replacen(
        "Via: ",
        &format!("Via: {VIA_OF_UPSTREAM}\r\n{}Via: ", route(&path)),
        1,
    );
    let (to, down) = net.sent(&proxy, &to_bob);
    assert_eq!(to, Destination::Client(8));
    assert_eq!(values(&down, Name::Via).len(), 4);
    let set = values(&down, Name::RecordRoute);
    assert_eq!(set.len(), 4);
    assert!(set[0].contains(":5061;transport=tls") && set[1].contains(":5060;transport=tcp"), "{set:?}");
    assert_eq!(set[2..], record);
    assert_ne!(token(&down, Name::RecordRoute), token(&up, Name::RecordRoute));

    // 180 and 200 the whole way back.
    for status in ["180 Ringing", "200 OK"] {
        let (to, text) = net.sent(&bob, &response(&down, status, "Contact: <sip:bob@192.168.0.7:5061>\r\n"));
        assert_eq!(to, Destination::Upstream { index, over: Some(proxy.connection) });
        let text = text.replacen(&format!("Via: {}\r\n", values(&text, Name::Via)[0]), "", 1);
        let (to, text) = net.sent(&proxy, &text);
        assert_eq!(to, Destination::Client(7));
        assert_eq!(values(&text, Name::Via), [format!("{VIA_OF_BROWSER};received=203.0.113.7")]);
        assert_eq!(values(&text, Name::RecordRoute), set);
    }

    // ACK and BYE by Alice: only what is hers goes, what is Bob's is for the second passage.
    for method in ["ACK", "BYE"] {
        let via = format!("SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK{method}");
        let request = Request {
            method,
            uri: "sip:bob@192.168.0.7:5061",
            via: &via,
            to_tag: ";tag=b1",
            fields: &route(&reversed(set.clone())),
            ..Request::default()
        };
        let (at, text) = net.upwards(&alice, &request.text());
        assert_eq!(at, index, "one dialog, one upstream");
        assert_eq!(values(&text, Name::Route), reversed(set[..2].to_vec()));
        let through = text.replacen("Via: ", &format!("Via: {VIA_OF_UPSTREAM}\r\nVia: "), 1);
        let (to, text) = net.sent(&proxy, &through);
        assert_eq!(to, Destination::Client(8));
        assert!(values(&text, Name::Route).is_empty());
        assert!(text.contains("Max-Forwards: 68\r\n"));
        assert!(values(&text, Name::RecordRoute).is_empty());
    }

    // BYE by Bob: his route set is the other way round.
    let bye = Request {
        method: "BYE",
        uri: "sip:alice@df7jal23ls0d.invalid;transport=ws;ob",
        via: VIA_OF_PHONE,
        to_tag: ";tag=a1",
        fields: &route(&set),
        ..Request::default()
    };
    let (_, text) = net.upwards(&bob, &bye.text());
    assert_eq!(values(&text, Name::Route), record);
    let (to, text) =
        net.sent(&proxy, &text.replacen("Via: ", &format!("Via: {VIA_OF_UPSTREAM}\r\nVia: "), 1));
    assert_eq!((to, values(&text, Name::Route).len()), (Destination::Client(7), 0));
    let ok = response(&text, "200 OK", "");
    assert!(matches!(net.sent(&alice, &ok).0, Destination::Upstream { .. }));
}

#[test]
fn one_record_where_both_sides_are_called_the_same() {
    let mut net = Net::new();
    let phone = net.client(8, TCP);
    let invite =
        Request { method: "INVITE", via: VIA_OF_PHONE, fields: CONTACT, ..Request::default() }.text();
    let (index, up) = net.upwards(&phone, &invite);
    let record = values(&up, Name::RecordRoute);
    assert_eq!(record.len(), 1);
    let bye = Request { method: "BYE", via: VIA_OF_UPSTREAM, fields: &route(&record), ..Request::default() };
    let proxy = net.upstream(index);
    assert_eq!(net.sent(&proxy, &bye.text()).0, Destination::Client(8));
}

#[test]
fn records_of_others_stay_below_ours() {
    let mut net = Net::new();
    let phone = net.client(8, TCP);
    let fields = "Record-Route: <sip:p.test;lr>\r\nrecord-route: <sip:q.test;lr>\r\n";
    let (_, up) = net.upwards(&phone, &Request { method: "INVITE", fields, ..Request::default() }.text());
    assert_eq!(values(&up, Name::RecordRoute)[1..], ["<sip:p.test;lr>", "<sip:q.test;lr>"]);

    // Kamailio writes its own above the Via.
    let text = Request { method: "INVITE", fields: "", ..Request::default() }.text();
    let text = text.replacen("\r\n", "\r\nRecord-Route: <sip:p.test;lr>\r\n", 1);
    let (_, up) = net.upwards(&phone, &text);
    let records = values(&up, Name::RecordRoute);
    assert_eq!(records.last().map(String::as_str), Some("<sip:p.test;lr>"), "{records:?}");
    assert!(records.len() > 1 && values(&up, Name::Via).len() > 1, "{up}");
}

#[test]
fn retransmissions_cancel_and_ack_have_the_branch_of_their_invite() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    let of = |net: &mut Net, flow, method: &str, via: &str, to_tag: &str| {
        let request = Request { method, via, to_tag, ..Request::default() }.text();
        branch(&net.upwards(flow, &request).1)
    };
    let invite = of(&mut net, &alice, "INVITE", VIA_OF_BROWSER, "");
    assert!(invite.starts_with("z9hG4bK") && invite.len() == 7 + 24 + 1 + 16, "{invite}");
    assert_eq!(of(&mut net, &alice, "INVITE", VIA_OF_BROWSER, ""), invite);
    assert_eq!(of(&mut net, &alice, "CANCEL", VIA_OF_BROWSER, ""), invite);
    assert_eq!(of(&mut net, &alice, "ACK", VIA_OF_BROWSER, ";tag=b1"), invite);
    // Over a new connection too: it is the same transaction.
    let again = net.client(70, WSS);
    assert_eq!(of(&mut net, &again, "CANCEL", VIA_OF_BROWSER, ""), invite);
    // Another transaction is another one, of whomever.
    assert_ne!(of(&mut net, &alice, "INVITE", &format!("{VIA_OF_BROWSER}x"), ""), invite);
    let other = VIA_OF_BROWSER.replace("df7jal23ls0d", "other");
    assert_ne!(of(&mut net, &alice, "INVITE", &other, ""), invite);
    // Before RFC 3261 a branch could be anything, or not there.
    for via in ["SIP/2.0/TCP a.test;branch=1", "SIP/2.0/TCP a.test"] {
        let old = of(&mut net, &alice, "INVITE", via, "");
        assert_eq!(of(&mut net, &alice, "CANCEL", via, ""), old);
        assert_ne!(of(&mut net, &alice, "INVITE", &format!("{via};x=y"), ""), old);
    }
    // Another process with the same secret makes the same one.
    let mut standby = Net::with(settings(), 2);
    let alice = standby.client(7, WSS);
    assert_eq!(of(&mut standby, &alice, "ACK", VIA_OF_BROWSER, ""), invite);
}

#[test]
fn an_outbound_proxy_before_the_route_set_goes_with_it() {
    let mut net = Net::new();
    let phone = net.client(8, TLS);
    let invite = Request { method: "INVITE", via: VIA_OF_PHONE, ..Request::default() }.text();
    let (_, up) = net.upwards(&phone, &invite);
    let record = reversed(values(&up, Name::RecordRoute));
    let lines = format!(
        "Route: <sip:EDGE.example.com:5061;transport=tls;lr>,\r\n {}\r\nRoute: {},<sip:10.0.0.2;lr>\r\nRoute: <sip:x.test;lr>\r\n",
        record[0], record[1]
    );
    let bye = Request { method: "BYE", via: VIA_OF_PHONE, fields: &lines, ..Request::default() }.text();
    let (index, text) = net.upwards(&phone, &bye);
    assert_eq!(index, 1, "the upstream that is on record");
    assert!(text.contains("\r\nRoute: <sip:10.0.0.2;lr>\r\nRoute: <sip:x.test;lr>\r\n"), "{text}");
    assert_eq!(values(&text, Name::Route).len(), 2);
}

#[test]
fn ipv6_and_other_transports_are_written_as_the_grammar_has_them() {
    let mut settings = settings();
    settings.upstreams[0].local.host = "[2001:db8::5]".into();
    settings.upstreams[0].local.transport = Transport::Tls;
    settings.upstreams.truncate(1);
    let mut net = Net::with(settings, 1);
    let mut phone = net.client(8, TLS);
    phone.remote = "[2001:db8::9]:5000".parse().unwrap();
    let (_, up) =
        net.upwards(&phone, &Request { method: "INVITE", via: VIA_OF_PHONE, ..Request::default() }.text());
    let vias = values(&up, Name::Via);
    assert!(vias[0].starts_with("SIP/2.0/TLS [2001:db8::5]:5060;branch="));
    assert!(vias[1].ends_with(";rport=5000;branch=z9hG4bKnashds;received=2001:db8::9"));
    let own = "SIP/2.0/TLS [2001:db8:0::9]:5061;branch=z9hG4bK1";
    let (_, up) = net.upwards(&phone, &Request { via: own, ..Request::default() }.text());
    assert_eq!(values(&up, Name::Via)[1], own, "the same address, written in another way");
}

#[test]
fn what_a_strict_router_did_is_undone() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    let invite = Request { method: "INVITE", fields: CONTACT, ..Request::default() }.text();
    let (index, up) = net.upwards(&alice, &invite);
    let record = values(&up, Name::RecordRoute);
    let own = |entry: &str| entry.trim_matches(['<', '>']).to_owned();
    let proxy = net.upstream(index);
    // Down: our URI stands where the contact belongs, the contact at the end of Route.
    let uri = own(&record[0]);
    let contact = "sip:alice@df7jal23ls0d.invalid;transport=ws;ob";
    let entries = [record[1].clone(), format!("<{contact}>")];
    for fields in [route(&entries), format!("Route: {}\r\nX: y\r\nRoute: {}\r\n", entries[0], entries[1])] {
        let bye =
            Request { method: "BYE", uri: &uri, via: VIA_OF_UPSTREAM, fields: &fields, ..Request::default() };
        let (to, text) = net.sent(&proxy, &bye.text());
        assert_eq!(to, Destination::Client(7));
        assert!(text.starts_with(&format!("BYE {contact} SIP/2.0\r\n")), "{text}");
        assert!(values(&text, Name::Route).is_empty(), "{text}");
    }
    // Up, with an entry that stays.
    let uri = own(&record[1]);
    let entries =
        [record[0].clone(), "<sip:10.0.0.2;lr>".into(), "<sip:x.test;lr>".into(), "<sip:bob@b.test>".into()];
    let bye = Request { method: "BYE", uri: &uri, fields: &route(&entries), ..Request::default() };
    let (index, text) = net.upwards(&alice, &bye.text());
    assert_eq!(index, 1);
    assert!(text.starts_with("BYE sip:bob@b.test SIP/2.0\r\n"), "{text}");
    assert_eq!(values(&text, Name::Route), entries[1..3]);
    // Without a Route there is nothing to undo, and a token is no address.
    let bye = Request { method: "BYE", uri: &uri, via: VIA_OF_UPSTREAM, ..Request::default() };
    assert_eq!(net.answered(&proxy, &bye.text()).0, 404);
}
