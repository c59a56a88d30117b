//! The codec: the specification's example, round trips of all versions, and what is malformed.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use proptest::option;
use proptest::prelude::*;
use tcp_transport::hep::{
    Chunk, ChunkOrder, DecodeError, EncodeError, Encoding, FrameLimits, Framer, MAX_PACKET, Packet,
    PayloadType, TimeOrder, Version,
};

/// The example packet of the specification, revision 37. (Its text has `00 71` and says 113.)
const EXAMPLE: &[u8] = &[
    0x48, 0x45, 0x50, 0x33, 0x00, 0x71, // HEP3, 113 octets
    0x00, 0x00, 0x00, 0x01, 0x00, 0x07, 0x02, // IPv4
    0x00, 0x00, 0x00, 0x02, 0x00, 0x07, 0x11, // UDP
    0x00, 0x00, 0x00, 0x03, 0x00, 0x0a, 0xd4, 0xca, 0x00, 0x01, // 212.202.0.1
    0x00, 0x00, 0x00, 0x04, 0x00, 0x0a, 0x52, 0x74, 0x00, 0xd3, // 82.116.0.211
    0x00, 0x00, 0x00, 0x07, 0x00, 0x08, 0x2e, 0xea, // 12010
    0x00, 0x00, 0x00, 0x08, 0x00, 0x08, 0x13, 0xc4, // 5060
    0x00, 0x00, 0x00, 0x09, 0x00, 0x0a, 0x4e, 0x49, 0x82, 0xcb, // 1313440459
    0x00, 0x00, 0x00, 0x0a, 0x00, 0x0a, 0x00, 0x01, 0xd4, 0xc0, // 120000
    0x00, 0x00, 0x00, 0x0b, 0x00, 0x07, 0x01, // SIP
    0x00, 0x00, 0x00, 0x0c, 0x00, 0x0a, 0x00, 0x00, 0x00, 0xe4, // 228
    0x00, 0x00, 0x00, 0x0f, 0x00, 0x14, // "INVITE sip:bob"
    0x49, 0x4e, 0x56, 0x49, 0x54, 0x45, 0x20, 0x73, 0x69, 0x70, 0x3a, 0x62, 0x6f, 0x62,
];

fn decode(bytes: &[u8]) -> Result<(Version, Packet), DecodeError> {
    Packet::decode(&Bytes::copy_from_slice(bytes), TimeOrder::Little)
}

fn encoding(version: Version) -> Encoding {
    Encoding { version, ..Encoding::default() }
}

#[test]
fn the_example_of_the_specification_decodes_and_encodes_to_the_same_bytes() {
    let (version, packet) = decode(EXAMPLE).unwrap();
    assert_eq!(version, Version::V3);
    assert_eq!(packet.family, Some(2));
    assert_eq!(packet.protocol, Some(17));
    assert_eq!(packet.source(), Some("212.202.0.1:12010".parse().unwrap()));
    assert_eq!(packet.destination(), Some("82.116.0.211:5060".parse().unwrap()));
    assert_eq!((packet.seconds, packet.microseconds), (Some(1_313_440_459), Some(120_000)));
    assert_eq!(packet.payload_type, Some(PayloadType::SIP));
    assert_eq!(packet.capture_id, Some(228));
    assert_eq!(packet.payload.as_deref(), Some(&b"INVITE sip:bob"[..]));
    assert_eq!(packet.others, []);
    assert_eq!(packet.encode(Encoding::default()).unwrap(), EXAMPLE);
}

#[test]
fn the_other_name_of_version_3_is_read_too() {
    let mut bytes = EXAMPLE.to_vec();
    bytes[..4].copy_from_slice(b"EEP3");
    assert_eq!(decode(&bytes), decode(EXAMPLE));
}

#[test]
fn every_generic_chunk_has_its_field_and_every_other_chunk_is_kept() {
    // One chunk of every number up to 0x30, with a value as long as its type.
    let length = |kind: u16| match kind {
        0x01 | 0x02 | 0x0b | 0x17 | 0x18 => 1,
        0x07 | 0x08 | 0x0d | 0x12 | 0x16 | 0x20 | 0x21 | 0x27 | 0x28 => 2,
        0x03 | 0x04 | 0x09 | 0x0a | 0x0c | 0x23 => 4,
        0x14 | 0x15 => 8,
        0x05 | 0x06 => 16,
        _ => 5,
    };
    for kind in 0..0x30_u16 {
        for vendor in [0, 3] {
            let value: Vec<u8> = (0..length(kind)).map(|i| kind as u8 ^ i).collect();
            let mut bytes = b"HEP3\0\0".to_vec();
            for field in [vendor, kind, 6 + value.len() as u16] {
                bytes.extend(field.to_be_bytes());
            }
            bytes.extend(&value);
            bytes[5] = bytes.len() as u8;
            let (_, packet) = decode(&bytes).unwrap();
            let known = vendor == 0 && !matches!(kind, 0 | 0x19..=0x1f | 0x2a..);
            assert_eq!(packet.others.is_empty(), known, "{vendor}/{kind:#x}");
            assert_eq!(packet.encode(Encoding::default()).unwrap(), bytes, "{vendor}/{kind:#x}");
            if known && length(kind) != 5 {
                bytes.push(0);
                bytes[5] += 1;
                bytes[11] += 1;
                assert!(matches!(decode(&bytes), Err(DecodeError::ValueLength { .. })), "{kind:#x}");
            }
        }
    }
}

#[test]
fn a_generic_chunk_that_comes_twice_is_kept_both_times() {
    let mut bytes = EXAMPLE.to_vec();
    bytes.extend([0, 0, 0, 0x0b, 0, 7, 0x64]);
    bytes[5] += 7;
    let (_, packet) = decode(&bytes).unwrap();
    assert_eq!(packet.payload_type, Some(PayloadType::SIP));
    assert_eq!(packet.others, [Chunk { vendor: 0, kind: 0x0b, value: Bytes::from_static(b"\x64") }]);
    assert_eq!(packet.encode(Encoding::default()).unwrap(), bytes);
}

#[test]
fn lengths_that_lie_are_errors() {
    for cut in 0..EXAMPLE.len() {
        assert!(decode(&EXAMPLE[..cut]).is_err(), "cut at {cut}");
    }
    let with = |at: usize, value: u8| {
        let mut bytes = EXAMPLE.to_vec();
        bytes[at] = value;
        decode(&bytes).unwrap_err()
    };
    assert_eq!(with(5, 0x05), DecodeError::PacketLength(5));
    assert_eq!(with(5, 0x70), DecodeError::Trailing(1));
    assert_eq!(with(5, 0x72), DecodeError::Truncated { present: 113, expected: 114 });
    let lying = |length| DecodeError::ChunkLength { vendor: 0, kind: 1, length, room: 107 };
    assert_eq!(with(11, 5), lying(5));
    assert_eq!(with(11, 0), lying(0));
    assert_eq!(with(11, 108), lying(108));
    // The last chunk ends before the packet does, and what is left is no chunk.
    assert_eq!(with(98, 0x12), DecodeError::ChunkHeader(2));
    assert_eq!(decode(b"HEP3\0\x06").unwrap().1, Packet::default());
    assert_eq!(decode(b""), Err(DecodeError::NotHep));
    assert_eq!(decode(b"HEP4\0\x06"), Err(DecodeError::NotHep));
}

#[test]
fn a_packet_is_at_most_what_its_length_can_say() {
    let packet = |payload: usize| Packet { payload: Some(vec![0; payload].into()), ..default() };
    assert_eq!(packet(MAX_PACKET - 12).encode(Encoding::default()).unwrap().len(), MAX_PACKET);
    assert_eq!(
        packet(MAX_PACKET - 11).encode(Encoding::default()),
        Err(EncodeError::TooLong(MAX_PACKET + 1))
    );
    let old = |payload, version| {
        let mut packet = example();
        packet.payload = Some(vec![0; payload].into());
        packet.encode(encoding(version))
    };
    assert_eq!(old(MAX_PACKET - 28, Version::V2).unwrap().len(), MAX_PACKET);
    assert_eq!(old(MAX_PACKET - 27, Version::V2), Err(EncodeError::TooLong(MAX_PACKET + 1)));
}

fn default() -> Packet {
    Packet::default()
}

fn example() -> Packet {
    decode(EXAMPLE).unwrap().1
}

#[test]
fn versions_1_and_2_are_laid_out_as_the_c_programs_do() {
    let packet = example();
    let mut v1 = b"\x01\x10\x02\x11\x2e\xea\x13\xc4\xd4\xca\x00\x01\x52\x74\x00\xd3".to_vec();
    let payload = b"INVITE sip:bob";
    v1.extend(payload);
    assert_eq!(packet.encode(encoding(Version::V1)).unwrap(), v1);

    let mut v2 = b"\x02\x1c\x02\x11\x2e\xea\x13\xc4\xd4\xca\x00\x01\x52\x74\x00\xd3".to_vec();
    let mut big = v2.clone();
    v2.extend(b"\xcb\x82\x49\x4e\xc0\xd4\x01\x00\xe4\x00\0\0INVITE sip:bob");
    big.extend(b"\x4e\x49\x82\xcb\x00\x01\xd4\xc0\x00\xe4\0\0INVITE sip:bob");
    assert_eq!(packet.encode(encoding(Version::V2)).unwrap(), v2);
    let in_network_order = Encoding { time_order: TimeOrder::Big, ..encoding(Version::V2) };
    assert_eq!(packet.encode(in_network_order).unwrap(), big);

    assert_eq!(decode(&v2), Ok((Version::V2, packet.clone())));
    assert_eq!(Packet::decode(&Bytes::from(big), TimeOrder::Big), Ok((Version::V2, packet)));
    let (version, first) = decode(&v1).unwrap();
    assert_eq!((version, first.time(), first.capture_id), (Version::V1, None, None));
    assert_eq!(first.payload.as_deref(), Some(&payload[..]));
}

#[test]
fn versions_1_and_2_check_their_header() {
    let wire = example().encode(encoding(Version::V2)).unwrap();
    for cut in 0..28 {
        assert!(decode(&wire[..cut]).is_err(), "cut at {cut}");
    }
    let with = |at: usize, value: u8| {
        let mut bytes = wire.to_vec();
        bytes[at] = value;
        decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, 1), DecodeError::HeaderLength { length: 28, expected: 16 });
    assert_eq!(with(1, 29), DecodeError::HeaderLength { length: 29, expected: 28 });
    assert_eq!(with(2, 3), DecodeError::Family(3));
    assert_eq!(with(2, 10), DecodeError::HeaderLength { length: 28, expected: 52 });
    assert_eq!(default().encode(encoding(Version::V1)), Err(EncodeError::Addresses));
    let mut compressed = example();
    compressed.compressed_payload = compressed.payload.take();
    assert_eq!(compressed.encode(encoding(Version::V2)), Err(EncodeError::Compressed));
}

#[test]
fn opensips_order_has_the_addresses_after_the_capture_id_and_the_payload_after_them() {
    let mut packet = example();
    packet.correlation_id = Some(Bytes::from_static(b"7"));
    let order = |order| {
        let wire = packet.encode(Encoding { order, ..Encoding::default() }).unwrap();
        assert_eq!(decode(&wire), Ok((Version::V3, packet.clone())));
        let mut kinds = Vec::new();
        let mut at = 6;
        while at < wire.len() {
            kinds.push(wire[at + 3]);
            at += usize::from(wire[at + 5]);
        }
        kinds
    };
    assert_eq!(order(ChunkOrder::OpenSips), [1, 2, 7, 8, 9, 0xa, 0xb, 0xc, 3, 4, 0xf, 0x11]);
    assert_eq!(order(ChunkOrder::Specification), [1, 2, 3, 4, 7, 8, 9, 0xa, 0xb, 0xc, 0xf, 0x11]);
}

#[test]
fn an_authentication_key_is_not_logged() {
    let packet = Packet { auth_key: Some(Bytes::from_static(b"s3cret")), ..default() };
    assert!(!format!("{packet:?}").contains("s3cret"));
}

fn octets() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn others() -> impl Strategy<Value = Vec<Chunk>> {
    let chunk = (any::<u16>(), 0x100_u16.., octets())
        .prop_map(|(vendor, kind, value): (u16, u16, Bytes)| Chunk { vendor, kind, value });
    proptest::collection::vec(chunk, 0..4)
}

prop_compose! {
    fn packets()(
        numbers in any::<(Option<u8>, Option<u8>, Option<u16>, Option<u16>, Option<u32>, Option<u32>, Option<u8>)>(),
        ips in any::<(Option<IpAddr>, Option<IpAddr>)>(),
        more in any::<(Option<u32>, Option<u16>, Option<u16>, Option<u64>, Option<u64>, Option<u16>, Option<u8>)>(),
        last in any::<(Option<u8>, Option<u16>, Option<u16>, Option<u32>, Option<u16>, Option<u16>)>(),
        texts in proptest::collection::vec(option::of(octets()), 10),
        others in others(),
    ) -> Packet {
        let mut packet = Packet::default();
        let type_number;
        (packet.family, packet.protocol, packet.source_port, packet.destination_port, packet.seconds,
            packet.microseconds, type_number) = numbers;
        packet.payload_type = type_number.map(PayloadType);
        (packet.source_ip, packet.destination_ip) = ips;
        (packet.capture_id, packet.keep_alive, packet.vlan, packet.source_mac, packet.destination_mac,
            packet.ethernet_type, packet.tcp_flags) = more;
        (packet.ip_tos, packet.mos, packet.r_factor, packet.jitter, packet.tag_type, packet.event_type) = last;
        let mut texts = texts.into_iter();
        for field in [
            &mut packet.auth_key, &mut packet.payload, &mut packet.compressed_payload,
            &mut packet.correlation_id, &mut packet.capture_name, &mut packet.geo_location,
            &mut packet.transaction_type, &mut packet.payload_json_keys, &mut packet.tag_values,
            &mut packet.group_id,
        ] {
            *field = texts.next().flatten();
        }
        packet.others = others;
        packet
    }
}

fn pairs() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    prop_oneof![
        any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
        any::<([u16; 8], u16, [u16; 8], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
    ]
}

proptest! {
    #[test]
    fn what_version_3_writes_reads_back_the_same(packet in packets(), opensips in any::<bool>()) {
        let order = if opensips { ChunkOrder::OpenSips } else { ChunkOrder::Specification };
        let wire = packet.encode(Encoding { order, ..Encoding::default() }).unwrap();
        prop_assert_eq!(decode(&wire), Ok((Version::V3, packet)));
    }

    #[test]
    fn a_truncated_packet_is_an_error(packet in packets(), cut in any::<proptest::sample::Index>()) {
        let wire = packet.encode(Encoding::default()).unwrap();
        prop_assert!(decode(&wire[..cut.index(wire.len())]).is_err());
    }

    #[test]
    fn what_versions_1_and_2_write_reads_back_the_same(
        (from, to) in pairs(),
        (seconds, microseconds, id, protocol) in any::<(u32, u32, u16, u8)>(),
        payload in octets(),
        (second, big) in any::<(bool, bool)>(),
    ) {
        let mut packet = Packet {
            family: Some(if from.is_ipv4() { 2 } else { 10 }),
            protocol: Some(protocol),
            source_ip: Some(from.ip()),
            source_port: Some(from.port()),
            destination_ip: Some(to.ip()),
            destination_port: Some(to.port()),
            payload_type: Some(PayloadType::SIP),
            payload: Some(payload),
            ..Packet::default()
        };
        let version = if second {
            (packet.seconds, packet.microseconds) = (Some(seconds), Some(microseconds));
            packet.capture_id = Some(id.into());
            Version::V2
        } else {
            Version::V1
        };
        let time_order = if big { TimeOrder::Big } else { TimeOrder::Little };
        let wire = packet.encode(Encoding { time_order, ..encoding(version) }).unwrap();
        prop_assert_eq!(Packet::decode(&wire, time_order), Ok((version, packet)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), head in 0..4) {
        match head {
            0 => bytes.splice(0..0, *b"HEP3").for_each(drop),
            1 => bytes.splice(0..0, [1]).for_each(drop),
            2 => bytes.splice(0..0, [2, 28, 2]).for_each(drop),
            _ => {}
        }
        if let Ok((version, packet)) = decode(&bytes) {
            let _ = packet.content(1000);
            let _ = packet.encode(encoding(version));
        }
        let mut framer = Framer::new(FrameLimits::default());
        let mut buf = bytes::BytesMut::from(&bytes[..]);
        framer.was_read();
        while let Ok(Some(_)) = framer.next(&mut buf) {}
    }
}
