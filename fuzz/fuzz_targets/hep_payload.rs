//! Compressed payload of HEP packets: whatever it is, and whatever the limit, nothing longer comes of it, and a limit
//! changes nothing else; what we compress ourselves reads back the same.
#![no_main]

use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tcp_transport::hep::{Encoding, Packet, PayloadType, TimeOrder, Version};

/// More than inflates from what libFuzzer gives: deflate makes at most some 1030 bytes of one.
const GENEROUS: usize = 8 * 1024 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((&limit, bytes)) = bytes.split_first() else { return };
    let address = SocketAddr::from(([192, 0, 2, 1], 5060));
    let mut packet = Packet::new(address, address, UNIX_EPOCH, PayloadType::SIP, Bytes::new());
    packet.payload = None;

    // As it comes: gzip, zlib or raw deflate by its first bytes, mostly broken.
    packet.compressed_payload = Some(Bytes::copy_from_slice(bytes));
    let generous = packet.content(GENEROUS);
    let limit = usize::from(limit) * 16;
    match (packet.content(limit), &generous) {
        (Ok(Some(content)), generous) => {
            assert!(content.len() <= limit);
            assert_eq!(generous.as_ref().ok().and_then(Option::as_ref), Some(&content));
        }
        (Ok(None), _) => panic!("there is a payload"),
        (Err(_), Ok(Some(content))) => assert!(content.len() > limit, "{} of {limit}", content.len()),
        (Err(_), _) => {}
    }
    // Compressed or not, it goes through a packet unchanged.
    let wire = packet.encode(Encoding { version: Version::V3, ..Encoding::default() }).expect("it encodes");
    assert_eq!(Packet::decode(&wire, TimeOrder::Little), Ok((Version::V3, packet.clone())));

    packet.compressed_payload = None;
    packet.payload = Some(Bytes::copy_from_slice(bytes));
    packet.compress().expect("memory does not fail");
    let content = packet.content(bytes.len()).expect("it is ours").expect("there is a payload");
    assert_eq!(&content[..], bytes);
    if packet.payload.is_none() && !bytes.is_empty() {
        assert!(packet.content(bytes.len() - 1).is_err(), "one byte too many");
    }
});
