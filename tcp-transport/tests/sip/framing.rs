//! Streams of several messages, cut in all ways.

use tcp_transport::sip::Event;

use crate::common::{START, frame, message, patient};

#[test]
fn a_stream_means_the_same_at_every_cut() {
    let stream = [
        "\r\n",
        &message(START, &[("Route", "Route: <sip:a;lr>,\r\n <sip:b;lr>")]),
        "\r\n\r\n",
        &message("SIP/2.0 200 OK", &[("Content-Length", "l :\r\n 5")]),
        &message(START, &[("CSeq", "CSeq: 1 INVITE")]),
        &message(START, &[]),
        "\r\n",
    ]
    .concat();
    let (expected, end) = frame([stream.as_bytes()], patient());
    assert_eq!((expected.len(), end), (8, Ok(true)));
    assert_eq!(expected.iter().filter(|event| matches!(event, Event::Message(_))).count(), 3);
    for first in 0..=stream.len() {
        let (a, rest) = stream.as_bytes().split_at(first);
        assert_eq!(frame([a, rest], patient()).0, expected, "{first}");
        let (b, c) = rest.split_at(rest.len() / 2);
        assert_eq!(frame([a, b, c], patient()).0, expected, "{first}");
    }
}
