//! The decoder against the reference parser. The first byte says how many of the following ones are the sizes of the
//! slices, and how tight the limits are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use msrp_proto::decoder::Limits;

#[path = "../../msrp-proto/tests/reference/mod.rs"]
mod reference;

/// Limits that short inputs meet.
fn tight(level: usize) -> Limits {
    Limits {
        head_bytes: [60, 100, 150, 250][level % 4],
        headers: 2 + level % 5,
        path_len: 1 + level % 3,
        other_body: [0, 1, 10, 44][level / 4 % 4],
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, input)) = input.split_first() else { return };
    let (sizes, wire) = input.split_at(usize::from(first % 8).min(input.len()));
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size)).collect();
    for limits in [reference::unlimited(), Limits::default(), tight(usize::from(first / 8))] {
        let expected = reference::parse_within(wire, &limits);
        for sizes in [&sizes[..], &[], &[1]] {
            reference::compare(&reference::decode(wire, sizes, limits.clone()), &expected);
        }
    }
});
