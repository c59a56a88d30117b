//! HTTP Digest authentication as MSRP uses it (RFC 4976 §9.1).
