//! REGISTER and what comes along the Path it leaves.

use tcp_transport::sip::Name;

use super::harness::*;
use crate::sip::{Destination, Outcome, Reason};

fn register<'a>(via: &'a str, fields: &'a str) -> Request<'a> {
    Request { method: "REGISTER", uri: "sip:example.com", via, fields, ..Request::default() }
}

const CONTACT: &str = "Contact: <sip:alice@df7jal23ls0d.invalid;transport=ws>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"\r\n\
                       Supported: path, outbound\r\n";

#[test]
fn a_browser_registers_and_is_reached_along_its_path() {
    let mut net = Net::new();
    let browser = net.client(7, WSS);
    let request = register(VIA_OF_BROWSER, CONTACT).text();
    let (index, sent) = net.upwards(&browser, &request);

    let vias = values(&sent, Name::Via);
    assert_eq!(vias.len(), 2);
    assert!(vias[0].starts_with("SIP/2.0/TCP edge.example.com:5060;branch=z9hG4bK"), "{vias:?}");
    assert_eq!(vias[1], format!("{VIA_OF_BROWSER};received=203.0.113.7"));
    let path = values(&sent, Name::Path);
    assert_eq!(path.len(), 1);
    assert!(path[0].ends_with("@edge.example.com:5060;transport=tcp;lr;ob>"), "{path:?}");
    assert!(values(&sent, Name::RecordRoute).is_empty());
    assert!(sent.contains("Max-Forwards: 69\r\n"));
    // All else is as it came.
    assert!(sent.contains(CONTACT) && sent.starts_with("REGISTER sip:example.com SIP/2.0\r\n"));

    let registrar = net.upstream(index);
    let ok = response(&sent, "200 OK", CONTACT);
    let (to, back) = net.sent(&registrar, &ok);
    assert_eq!(to, Destination::Client(7));
    assert_eq!(values(&back, Name::Via), vias[1..]);
    assert_eq!(values(&back, Name::Path), path, "the client learns of it (RFC 3327)");

    // A request for the contact, with the Path as its Route, from whichever upstream.
    let proxy = net.upstream(1 - index);
    let message = Request {
        uri: "sip:alice@df7jal23ls0d.invalid;transport=ws",
        via: VIA_OF_UPSTREAM,
        fields: &route(&path),
        body: "hello",
        ..Request::default()
    };
    let (to, down) = net.sent(&proxy, &message.text());
    assert_eq!(to, Destination::Client(7));
    assert!(values(&down, Name::Route).is_empty());
    assert!(values(&down, Name::Via)[0].starts_with("SIP/2.0/WSS edge.example.com:443;branch=z9hG4bK"));
    assert!(down.ends_with("\r\n\r\nhello"));
    let (to, up) = net.sent(&browser, &response(&down, "200 OK", ""));
    assert_eq!(to, Destination::Upstream { index: 1 - index, over: Some(proxy.connection) });
    let vias = values(&up, Name::Via);
    assert_eq!(vias.len(), 1);
    assert!(vias[0].starts_with(VIA_OF_UPSTREAM));
}

#[test]
fn a_phone_learns_its_address_and_port() {
    let mut net = Net::new();
    let phone = net.client(8, TLS);
    let (_, sent) = net.upwards(&phone, &register(VIA_OF_PHONE, "").text());
    let via = &values(&sent, Name::Via)[1];
    assert_eq!(via, "SIP/2.0/TLS 192.168.0.7:5061;rport=40000;branch=z9hG4bKnashds;received=203.0.113.8");
    // What it claims itself is not believed.
    let lying = "SIP/2.0/TLS 203.0.113.8;received=198.51.100.1;rport=1;branch=z9hG4bK1";
    let (_, sent) = net.upwards(&phone, &register(lying, "").text());
    assert_eq!(
        values(&sent, Name::Via)[1],
        "SIP/2.0/TLS 203.0.113.8;rport=40000;branch=z9hG4bK1;received=203.0.113.8"
    );
    // Its own address without rport says all there is to say.
    let plain = "SIP/2.0/TLS 203.0.113.8:5061;branch=z9hG4bK1";
    let (_, sent) = net.upwards(&phone, &register(plain, "").text());
    assert_eq!(values(&sent, Name::Via)[1], plain);
}

#[test]
fn a_path_of_others_stays_below_ours_which_is_then_not_the_first_hop() {
    let mut net = Net::new();
    let proxy = net.client(9, TCP);
    let via = "SIP/2.0/TCP p.test;branch=z9hG4bK2, SIP/2.0/UDP ua.test;branch=z9hG4bK1";
    let (_, sent) = net.upwards(&proxy, &register(via, "Path: <sip:p.test;lr>\r\n").text());
    let path = values(&sent, Name::Path);
    assert_eq!((path.len(), &*path[1]), (2, "<sip:p.test;lr>"));
    assert!(path[0].ends_with(";lr>"), "no ob: {path:?}");
    assert_eq!(values(&sent, Name::Via).len(), 3);
}

#[test]
fn a_flow_that_is_gone_gets_430_and_one_of_another_process_too() {
    let mut net = Net::new();
    let browser = net.client(7, WSS);
    let (index, sent) = net.upwards(&browser, &register(VIA_OF_BROWSER, CONTACT).text());
    let path = route(&values(&sent, Name::Path));
    let message = Request { via: VIA_OF_UPSTREAM, fields: &path, ..Request::default() }.text();
    let registrar = net.upstream(index);
    assert_eq!(net.sent(&registrar, &message).0, Destination::Client(7));

    net.open.remove(&7);
    let (status, answer) = net.answered(&registrar, &message);
    assert_eq!((status, answer.starts_with("SIP/2.0 430 Flow Failed\r\n")), (430, true));
    // A later connection of another process may have its number.
    let mut restarted = Net::with(settings(), 2);
    restarted.client(7, WSS);
    assert_eq!(restarted.answered(&registrar, &message).0, 430);
    // What goes the other way needs no flow but its own: the client has come back.
    let again = net.client(70, WSS);
    let bye = Request { method: "BYE", fields: &path, to_tag: ";tag=b", ..Request::default() };
    let (_, sent) = net.upwards(&again, &bye.text());
    assert!(values(&sent, Name::Route).is_empty());
}

#[test]
fn a_websocket_message_without_a_length_has_one_after_the_edge() {
    let mut net = Net::new();
    let browser = net.client(7, WSS);
    let text = Request { body: "hello", ..Request::default() }.text().replace("Content-Length: 5\r\n", "");
    let (index, sent) = net.upwards(&browser, &text);
    assert!(sent.ends_with("Content-Length: 5\r\n\r\nhello"), "{sent}");
    let registrar = net.upstream(index);
    let ok = response(&sent, "200 OK", "").replace("Content-Length: 0\r\n", "");
    assert!(net.sent(&registrar, &ok).1.ends_with("\r\nContent-Length: 0\r\n\r\n"));
}

#[test]
fn responses_go_back_over_the_connection_of_the_request_and_no_other() {
    let mut net = Net::new();
    let (alice, mallory) = (net.client(7, WSS), net.client(8, TLS));
    let (index, sent) = net.upwards(&alice, &Request::default().text());
    let ok = response(&sent, "200 OK", "");
    // From a client, who would have to know it: not to be believed.
    assert_eq!(net.receive(&mallory, &ok).0, Outcome::Drop(Reason::WrongConnection));
    // From the other upstream: it may be one cluster.
    let other = net.upstream(1 - index);
    assert_eq!(net.sent(&other, &ok).0, Destination::Client(7));

    let path = route(&values(&net.upwards(&alice, &register(VIA_OF_BROWSER, "").text()).1, Name::Path));
    let registrar = net.upstream(index);
    let down = Request { via: VIA_OF_UPSTREAM, fields: &path, ..Request::default() }.text();
    let (_, sent) = net.sent(&registrar, &down);
    let ok = response(&sent, "200 OK", "");
    assert_eq!(net.receive(&mallory, &ok).0, Outcome::Drop(Reason::WrongConnection));
    assert!(matches!(net.sent(&alice, &ok).0, Destination::Upstream { .. }));
}

#[test]
fn a_response_without_our_via_goes_nowhere() {
    let mut net = Net::new();
    let alice = net.client(7, WSS);
    let (index, sent) = net.upwards(&alice, &Request::default().text());
    let registrar = net.upstream(index);
    let ok = response(&sent, "200 OK", "");
    let vias = values(&sent, Name::Via);
    let not_ours = Outcome::Drop(Reason::NotOurs);
    for (what, with) in [
        (&*vias[0], vias[1].clone()),
        (&*vias[0], vias[0].replace("edge.example.com", "other.example.com")),
        (&*vias[0], vias[0].replace(";rt=", ";rx=")),
        (&*vias[0], vias[0].replace(";rt=A", ";rt=B")),
        (&*vias[0], vias[0].replace("branch=z9hG4bK", "branch=z9hG4bK0")),
    ] {
        let changed = ok.replacen(what, &with, 1);
        assert_ne!(changed, ok);
        assert_eq!(net.receive(&registrar, &changed).0, not_ours, "{with}");
    }
    let without = ok.replace(&format!("Via: {}\r\n", vias[1]), "");
    assert_eq!(net.receive(&registrar, &without).0, not_ours, "nobody below");
    // In one line it is the same as in two.
    let joined = ok.replace(&format!("{}\r\nVia: ", vias[0]), &format!("{} ,\r\n\t", vias[0]));
    assert_ne!(joined, ok);
    assert_eq!(values(&net.sent(&registrar, &joined).1, Name::Via), vias[1..]);
}
