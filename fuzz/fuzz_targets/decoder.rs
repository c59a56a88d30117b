//! The decoder against the reference parser. The first byte says how many of the following ones are
//! the sizes of the slices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msrp_proto::decoder::Limits;

#[path = "../../msrp-proto/tests/reference/mod.rs"]
mod reference;

fuzz_target!(|input: &[u8]| {
    let Some((&count, input)) = input.split_first() else { return };
    let (sizes, wire) = input.split_at(usize::from(count % 8).min(input.len()));
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size)).collect();
    let expected = reference::parse(wire);
    for sizes in [&sizes[..], &[], &[1]] {
        reference::compare(&reference::decode(wire, sizes, reference::unlimited()), &expected);
        // With the limits in force it must not panic, nor take more than without.
        let limited = reference::decode(wire, sizes, Limits::default());
        assert!(expected.messages.starts_with(&limited.messages));
    }
});
