//! The first bytes of a connection: what the decoder finds there, and what more bytes never change.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use msrp_proto::decoder::{Decoder, Event};
use msrp_proto::first_hop::{FirstHop, first_hop};

fuzz_target!(|bytes: &[u8]| {
    let whole = first_hop(bytes);
    for len in 0..bytes.len().min(512) {
        let part = first_hop(&bytes[..len]);
        assert!(part == FirstHop::More || bytes.len() > 512 || part == whole);
    }
    let mut input = BytesMut::from(bytes);
    if let Ok(Some(Event::Head(head))) = Decoder::default().decode(&mut input)
        && let FirstHop::Uri(uri) = whole
    {
        assert_eq!(head.to_path().next().map(|uri| uri.as_str().to_owned()), Some(uri.as_str().to_owned()));
    }
});
