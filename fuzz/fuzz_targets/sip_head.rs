//! Heads of SIP: all that is found lies within, what is good reads the same after a rewrite, and a rewrite without
//! changes changes nothing.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tcp_transport::sip::{Event, Framer, Head, Name, Rewrite, SipUri, Start};

const NAMES: [Name; 9] = [
    Name::Via,
    Name::Route,
    Name::RecordRoute,
    Name::Path,
    Name::Contact,
    Name::Supported,
    Name::Require,
    Name::ProxyRequire,
    Name::To,
];

/// Asks for everything.
fn visit(head: &Head) {
    let within = |range: std::ops::Range<usize>| assert!(range.start <= range.end && range.end <= head.len());
    within(head.uri_range());
    within(head.fields_start()..head.fields_end());
    let mut last = head.fields_start();
    for field in head.fields() {
        within(field.line());
        assert!(field.line().start >= last && field.line().start <= field.value().start);
        assert!(field.value().end <= field.line().end);
        last = field.line().end;
    }
    for name in NAMES {
        for (range, field) in head.values(name).map_while(Result::ok) {
            assert!(
                field.name == name && field.value().start <= range.start && range.end <= field.value().end
            );
        }
    }
    for name in [Name::From, Name::To] {
        if let Some(address) = head.address(name) {
            within(address.uri_range());
            let _ = (address.tag(), SipUri::parse(address.uri()).map(|uri| uri.param("lr")));
            address.params().for_each(|param| within(param.unwrap().whole));
        }
    }
    if let Some(via) = head.top_via() {
        within(via.range());
        assert!(!via.host().is_empty() && !via.transport().is_empty());
        via.params().for_each(|param| within(param.unwrap().whole));
    }
    let _ = (head.cseq(), head.max_forwards(), head.has_option(Name::Supported, "path"));
    if let Start::Request { uri, .. } = head.start() {
        let _ = SipUri::parse(uri);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut framer = Framer::default();
    let (head, body) = match framer.whole(Bytes::copy_from_slice(bytes)) {
        Ok(Some(Event::Message(message))) => (message.head, message.body),
        Ok(Some(Event::Refused(refused))) => return visit(&refused.head),
        _ => return,
    };
    visit(&head);
    let (mut rewrite, mut same) = (Rewrite::default(), Vec::new());
    rewrite.apply(&head, &mut same);
    assert_eq!(same.concat(), &head[..]);

    // With a Via more on top it is good still, and has what it had.
    let mut changed = Vec::new();
    rewrite.insert(head.fields_start(), b"Via: SIP/2.0/TLS edge.test:5061;branch=z9hG4bK1\r\n");
    rewrite.apply(&head, &mut changed);
    changed.push(body);
    if changed.iter().map(Bytes::len).sum::<usize>() > 16_000 || head.fields().len() > 100 {
        return;
    }
    match framer.whole(changed.concat().into()) {
        Ok(Some(Event::Message(again))) => {
            assert_eq!(again.head.top_via().map(|via| via.host().to_vec()), Some(b"edge.test".to_vec()));
            assert_eq!(again.head.fields().len(), head.fields().len() + 1);
            assert_eq!(again.head.start(), head.start());
            assert_eq!(again.head.value(Name::CallId), head.value(Name::CallId));
        }
        other => panic!("{other:?}"),
    }
});
