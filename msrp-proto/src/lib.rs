//! msrp-proto
