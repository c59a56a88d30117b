//! PROXY protocol headers: what is read whole is read in pieces, and nothing is read beyond its limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcp_transport::proxy_protocol::{MAX_V2, parse};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Some(header)) => {
            assert!(header.len <= bytes.len() && header.len <= MAX_V2);
            assert_eq!(parse(&bytes[..header.len]).ok(), Some(Some(header)));
            for cut in 0..header.len {
                assert!(matches!(parse(&bytes[..cut]), Ok(None)));
            }
        }
        Ok(None) => assert!(bytes.len() < MAX_V2),
        Err(_) => {}
    }
});
