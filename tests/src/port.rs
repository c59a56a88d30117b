//! Who may have a port.

use std::net::SocketAddr;

use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketType, bind, socket};

/// Whether another socket of UDP that wants to share its port may be bound at this address, beside any that is there.
///
/// # Panics
/// When there is no socket to try it with.
#[must_use]
pub fn is_shared(address: SocketAddr) -> bool {
    let other = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
    set_socket_reuseport(&other, true).expect("SO_REUSEPORT");
    bind(&other, &address).is_ok()
}
