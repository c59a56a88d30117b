//! HEP packets: what decodes is the same after encoding and decoding, a stream is framed however it is cut, and
//! nothing inflates beyond its limit.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tcp_transport::hep::{Encoding, FrameLimits, Framer, Packet, TimeOrder, Version};

const INFLATE_LIMIT: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let datagram = Bytes::copy_from_slice(bytes);
    if let Ok((version, packet)) = Packet::decode(&datagram, TimeOrder::Little) {
        let encoding = Encoding { version, ..Encoding::default() };
        match packet.encode(encoding) {
            Ok(wire) => {
                assert_eq!(Packet::decode(&wire, TimeOrder::Little), Ok((version, packet.clone())));
                assert_eq!(wire.len(), datagram.len());
            }
            Err(error) => panic!("{packet:?} does not encode: {error}"),
        }
        if let Ok(Some(content)) = packet.content(INFLATE_LIMIT)
            && packet.payload.is_none()
        {
            assert!(content.len() <= INFLATE_LIMIT);
        }
        // Whole or octet by octet, the stream has the same packet.
        if version == Version::V3 {
            let mut framer = Framer::new(FrameLimits { max_msg_chunks: u32::MAX, ..FrameLimits::default() });
            let mut buf = BytesMut::new();
            for (at, byte) in bytes.iter().enumerate() {
                buf.extend_from_slice(&[*byte]);
                framer.was_read();
                let found = framer.next(&mut buf).expect("it decodes");
                assert_eq!(found.is_some(), at + 1 == bytes.len());
            }
        }
    }
    let mut framer = Framer::new(FrameLimits::default());
    let mut buf = BytesMut::from(bytes);
    framer.was_read();
    while let Ok(Some(packet)) = framer.next(&mut buf) {
        assert!(packet.len() >= 6);
    }
});
