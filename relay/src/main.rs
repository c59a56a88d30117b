//! The daemon `msrp-relay`.
fn main() {}
