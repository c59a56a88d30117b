//! URIs. A space divides two of them, which are compared.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msrp_proto::uri::{MsrpUri, UriRef};

fuzz_target!(|text: &str| {
    let uris: Vec<UriRef<'_>> = text.split(' ').filter_map(|text| UriRef::parse(text).ok()).collect();
    for uri in &uris {
        let within = |part: &str| uri.as_str().contains(part);
        assert!(within(uri.host()) && within(uri.transport()) && !uri.host().is_empty());
        assert!(uri.session_id().is_none_or(within) && uri.userinfo().is_none_or(within));
        for (name, value) in uri.parameters() {
            assert!(within(name) && value.is_none_or(within) && !name.is_empty());
        }
        let owned: MsrpUri = uri.as_str().parse().expect("it was parsed before");
        assert_eq!(owned.as_ref(), *uri);
        assert_eq!(owned.to_string(), uri.as_str());
        assert!(!uri.as_str().contains(|c: char| c.is_whitespace() || c.is_control()));
    }
    if let [a, b, ..] = &uris[..] {
        let (one_way, other_way) = (a == b, b == a);
        assert_eq!(one_way, other_way);
        assert_eq!(a.same_host(b), b.same_host(a));
    }
});
