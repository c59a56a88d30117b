//! Values of the three digest header fields: what is read and written again reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msrp_proto::digest::{AuthenticationInfo, Authorization, Challenge};

fuzz_target!(|value: &[u8]| {
    if let Ok(challenge) = Challenge::parse(value) {
        let again = Challenge::parse(challenge.to_string()).expect("what we write we read");
        assert_eq!((again.realm(), again.nonce()), (challenge.realm(), challenge.nonce()));
        assert_eq!((again.opaque(), again.stale()), (challenge.opaque(), challenge.stale()));
        assert_eq!(again.algorithm(), challenge.algorithm());
        assert_eq!(again.to_string(), challenge.to_string());
    }
    if let Ok(answer) = Authorization::parse(value) {
        let again = Authorization::parse(answer.to_string()).expect("what we write we read");
        assert_eq!((again.username(), again.realm()), (answer.username(), answer.realm()));
        assert_eq!((again.nonce(), again.uri()), (answer.nonce(), answer.uri()));
        assert_eq!((again.cnonce(), again.nc()), (answer.cnonce(), answer.nc()));
        assert_eq!((again.opaque(), again.algorithm()), (answer.opaque(), answer.algorithm()));
    }
    if let Ok(info) = AuthenticationInfo::parse(value) {
        let again = AuthenticationInfo::parse(info.to_string()).expect("what we write we read");
        assert_eq!(again.nextnonce(), info.nextnonce());
        assert_eq!(again.to_string(), info.to_string());
    }
});
