//! Framing of SIP: the same events however the stream is cut. The first byte says how many of the following ones are
//! the sizes of the pieces.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tcp_transport::sip::{Event, FrameError, Framer, Limits};

fn frame(stream: &[u8], sizes: &[usize], limits: Limits) -> (Vec<Event>, Option<FrameError>) {
    let mut framer = Framer::new(limits);
    let (mut buf, mut events, mut rest) = (BytesMut::new(), Vec::new(), stream);
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        buf.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        loop {
            match framer.decode(&mut buf) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => {
                    // What is shown of bad input depends on how much of it is there.
                    let error = match error {
                        FrameError::NotSip(_) => FrameError::NotSip(Bytes::new()),
                        other => other,
                    };
                    return (events, Some(error));
                }
            }
        }
    }
    (events, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((&count, input)) = input.split_first() else { return };
    let (sizes, stream) = input.split_at(usize::from(count % 8).min(input.len()));
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size)).collect();
    let small = Limits { head_bytes: 200, message_bytes: 220, headers: 9, ..Limits::default() };
    for limits in [Limits::default(), small] {
        let limits = Limits { max_msg_chunks: None, crlf_drop: count & 8 != 0, ..limits };
        let limits = Limits { lenient: count & 16 != 0, ..limits };
        let expected = frame(stream, &[], limits);
        assert_eq!(frame(stream, &sizes, limits), expected);
        assert_eq!(frame(stream, &[1], limits), expected);
        for event in &expected.0 {
            let Event::Message(message) = event else { continue };
            assert!(message.head.len() <= limits.head_bytes);
            assert!(message.head.len() + message.body.len() <= limits.message_bytes);
        }
    }
    let _ = Framer::default().whole(Bytes::copy_from_slice(stream));
});
