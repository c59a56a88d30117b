//! Framing of SIP and what is found in heads, through the public interface.

mod common;
mod framing;
mod heads;
mod limits;
mod properties;
mod table;
