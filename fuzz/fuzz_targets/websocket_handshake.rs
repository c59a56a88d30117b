//! Heads of the WebSocket opening handshake: what is read whole is read in pieces, nothing is read beyond
//! the limits, and every answer is one head of HTTP. The first byte chooses the limits.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tcp_transport::ws::client::{Key, Offer};
use tcp_transport::ws::{Answer, HeadLimits, Headers, Request};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let limits = match choice {
        0..200 => HeadLimits::default(),
        small => HeadLimits { max_bytes: usize::from(small), max_headers: usize::from(small % 8) },
    };
    let whole = Request::parse(bytes, &limits);
    for cut in 0..bytes.len().min(300) {
        match (Request::parse(&bytes[..cut], &limits), &whole) {
            (Ok(None), _) => {}
            (Ok(Some((_, early))), Ok(Some((_, size)))) => assert_eq!(early, *size),
            (Err(early), Err(error)) => assert_eq!(early, *error),
            (early, whole) => panic!("{early:?} to {cut}, then {whole:?}"),
        }
    }
    match whole {
        Ok(Some((request, size))) => {
            assert!(size <= bytes.len() && size <= limits.max_bytes && request.path().starts_with('/'));
            let accepted = request.check().is_ok();
            for protocol in request.protocols().map(Some).chain([None]) {
                let mut headers = Headers::new();
                for field in ["Origin", "Authorization"] {
                    if let Some(value) = request.header(field) {
                        let _ = headers.add(field, value);
                    }
                }
                let protocol = protocol.map(str::to_owned);
                let answer = Answer::Accept { protocol, headers, principal: None };
                let mut out = BytesMut::new();
                let said = answer.write(&request, false, &mut out);
                assert!(said || !accepted);
                one_head(&out);
            }
            if let Err(answer) = request.check() {
                let mut out = BytesMut::new();
                answer.write(&request, answer.keeps_connection(&request), &mut out);
                one_head(&out);
            }
        }
        Ok(None) => assert!(bytes.len() < limits.max_bytes),
        Err(error) => {
            if let Some(answer) = error.answer() {
                let mut out = BytesMut::new();
                answer.write_last(&mut out);
                one_head(&out);
            }
        }
    }

    // The same bytes as a response, and as the parts of a request of ours.
    let offer = Offer { protocols: vec!["msrp".into()], ..Offer::new("relay.test", "/") };
    let key = Key::new(*b"the sample nonce");
    let whole = offer.check_response(&key, bytes, &limits);
    for cut in 0..bytes.len().min(300) {
        let early = offer.check_response(&key, &bytes[..cut], &limits);
        assert!(early == Ok(None) || early == whole, "{early:?} to {cut}, then {whole:?}");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (path, protocol) = text.split_once(' ').unwrap_or((text, "msrp"));
        let offer = Offer { protocols: vec![protocol.into()], ..Offer::new("relay.test", path) };
        let mut out = BytesMut::new();
        if offer.write(&key, &mut out).is_ok() {
            let limits = HeadLimits { max_bytes: out.len(), ..HeadLimits::default() };
            let (request, size) =
                Request::parse(&out, &limits).expect("what we write we read").expect("whole");
            assert_eq!(size, out.len());
            assert_eq!(request.check(), Ok(()));
            assert_eq!(request.protocols().collect::<Vec<_>>(), [protocol]);
        }
    }
});

/// There is one empty line, where the head ends; a body has none before it.
fn one_head(out: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 80];
    let mut response = httparse::Response::new(&mut fields);
    let size = response.parse(out).expect("what we write is HTTP").unwrap();
    let length = response.headers.iter().find(|field| field.name == "Content-Length");
    let length = length.map_or(0, |field| std::str::from_utf8(field.value).unwrap().parse().unwrap());
    assert_eq!(out.len(), size + length);
}
