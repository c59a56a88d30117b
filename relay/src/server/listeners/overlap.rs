//! A listener whose address overlaps that of one which a reload takes away: `0.0.0.0:2855` becomes `127.0.0.1:2855`.
//!
//! The kernel lets nobody bind the one while the other listens, and to close that one first would leave a time in which
//! nobody listens, and nothing to come back to when the other cannot be opened. So for the moment of the bind both get
//! SO_REUSEPORT, by which both may be there: the reload stays all or nothing. The kernel asks for it at the time of the
//! bind alone. For TCP it may remember, while the port is bound, that sockets of this user share it: another process of
//! the same user that sets SO_REUSEPORT may bind it then; one that does not is refused as ever.
//!
//! It lets sockets of one user share a port alone, so what a service manager has bound as another user stays in the way.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::set_socket_reuseport;
use tcp_transport::{BindError, ListenerSettings};

use super::accepting::is_in_use;
use super::{Listeners, OpenSocket, Opened, Shared, Socket};
use crate::config::{Listener, ListenerTransport};
use crate::server::StartError;

/// A socket of this relay that listens already.
#[derive(Debug)]
pub(super) struct Present {
    /// The listener's number among those that run.
    pub(super) index: usize,
    name: String,
    place: Place,
    reuse_port: bool,
    socket: OwnedFd,
}

/// What a socket takes for itself.
#[derive(Clone, Copy, Debug)]
struct Place {
    address: SocketAddr,
    is_udp: bool,
    /// Of `[::]`: without the addresses of IPv4.
    ipv6_only: bool,
}

impl Place {
    /// Whether the kernel lets only one of them be there, but for SO_REUSEPORT.
    fn overlaps(&self, other: &Self) -> bool {
        // An address of IPv4 that is written as one of IPv6 is of IPv4.
        let (own, others) = (self.address.ip().to_canonical(), other.address.ip().to_canonical());
        let has_all = |ip: IpAddr, ipv6_only: bool| ip.is_ipv6() && ip.is_unspecified() && !ipv6_only;
        let is_same_ip = if own.is_ipv4() == others.is_ipv4() {
            own == others || own.is_unspecified() || others.is_unspecified()
        } else {
            has_all(own, self.ipv6_only) || has_all(others, other.ipv6_only)
        };
        is_same_ip && self.address.port() == other.address.port() && self.is_udp == other.is_udp
    }
}

/// That others may bind the sockets' addresses, while this is there.
#[derive(Default)]
struct Sharing<'a>(Vec<&'a Present>);

impl<'a> Sharing<'a> {
    fn has(&self, present: &Present) -> bool {
        self.0.iter().any(|one| std::ptr::eq(*one, present))
    }

    fn add(&mut self, present: &'a Present) {
        // Where it cannot be had the bind fails, which is told.
        let _ = set_socket_reuseport(&present.socket, true);
        self.0.push(present);
    }
}

impl Drop for Sharing<'_> {
    fn drop(&mut self) {
        for one in &self.0 {
            let _ = set_socket_reuseport(&one.socket, one.reuse_port);
        }
    }
}

impl Listeners {
    /// All sockets that listen.
    pub(super) fn present(&self) -> Vec<Present> {
        let all = self.0.lock();
        let mut present = Vec::new();
        for (index, running) in all.running.iter().enumerate() {
            for one in &running.sockets {
                let Ok(socket) = one.socket.duplicate() else { continue };
                let (ipv6_only, reuse_port) = match &one.socket {
                    Shared::Stream(control) => {
                        let bound = control.settings();
                        (bound.ipv6_only, bound.reuse_port)
                    }
                    Shared::Datagram(_) => (running.listener.ipv6_only, running.listener.reuse_port),
                };
                present.push(Present {
                    index,
                    name: running.listener.to_string(),
                    place: Place { address: one.address, is_udp: one.socket.is_udp(), ipv6_only },
                    reuse_port,
                    socket,
                });
            }
        }
        present
    }
}

/// The address that a listener cannot have, as somebody has it already.
pub(super) fn taken(error: &StartError) -> Option<SocketAddr> {
    match error {
        StartError::Bind(error @ BindError::Socket { addr, .. }) if is_in_use(error) => Some(*addr),
        _ => None,
    }
}

/// Opens a listener that could not be opened, for an address that is in use, beside those sockets that go.
///
/// # Errors
/// As before, with the name of the listener of ours that is in the way, if one is.
pub(super) fn open_beside(
    listener: &Listener,
    present: &[Present],
    goes: impl Fn(usize) -> bool,
    mut error: StartError,
    mut open: impl FnMut(&Listener) -> Result<Opened, StartError>,
) -> Result<Opened, StartError> {
    let mut sharing = Sharing::default();
    // A host name may lead to several addresses, each of which may be in use by another socket: one more each time.
    while let Some(address) = taken(&error) {
        let is_udp = listener.transport == ListenerTransport::Udp;
        let place = Place { address, is_udp, ipv6_only: listener.ipv6_only };
        let in_the_way: Vec<_> = present.iter().filter(|one| one.place.overlaps(&place)).collect();
        let shared = sharing.0.len();
        for one in in_the_way.iter().filter(|one| goes(one.index)) {
            if !sharing.has(one) {
                sharing.add(one);
            }
        }
        if sharing.0.len() == shared {
            // Those that go as well: the kernel has let nobody share with them.
            let stays = in_the_way.iter().find(|one| !goes(one.index)).or(in_the_way.first());
            return Err(match (error, stays) {
                (StartError::Bind(source), Some(one)) => {
                    StartError::InTheWay { listener: one.name.clone(), source }
                }
                (error, _) => error,
            });
        }
        match open(&Listener { reuse_port: true, ..listener.clone() }) {
            Ok(mut opened) => {
                opened.listener = listener.clone();
                opened.sockets.iter().for_each(|open| set_sharing(open, listener.reuse_port));
                return Ok(opened);
            }
            Err(other) => error = other,
        }
    }
    Err(error)
}

fn set_sharing(OpenSocket { socket, .. }: &OpenSocket, reuse_port: bool) {
    // It is bound: whether others may share its port is of no importance to it, so a failure is none.
    match socket {
        Socket::Stream(listener) => {
            let control = listener.control();
            let _ = set_socket_reuseport(control, reuse_port);
            control.update(ListenerSettings { reuse_port, ..ListenerSettings::clone(&control.settings()) });
        }
        Socket::Datagram(receiver) => {
            if let Some(socket) = receiver.udp_socket() {
                let _ = set_socket_reuseport(&*socket, reuse_port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use rustix::net::sockopt::socket_reuseport;

    use super::*;
    use crate::config::Config;

    fn place(address: &str, ipv6_only: bool) -> Place {
        Place { address: address.parse().unwrap(), is_udp: false, ipv6_only }
    }

    #[test]
    fn who_has_another_address_is_in_nobodys_way() {
        for (one, other, expected) in [
            ("127.0.0.1:5", "127.0.0.1:5", true),
            ("127.0.0.1:5", "127.0.0.1:6", false),
            ("127.0.0.1:5", "127.0.0.2:5", false),
            ("127.0.0.1:5", "0.0.0.0:5", true),
            ("127.0.0.1:5", "[::]:5", true),
            ("127.0.0.1:5", "[::1]:5", false),
            ("127.0.0.1:5", "[::ffff:127.0.0.1]:5", true),
            ("127.0.0.1:5", "[::ffff:127.0.0.2]:5", false),
            ("0.0.0.0:5", "[::]:5", true),
            ("0.0.0.0:5", "[::1]:5", false),
            ("[::1]:5", "[::]:5", true),
            ("[::1]:5", "[::2]:5", false),
        ] {
            let (one, other) = (place(one, false), place(other, false));
            assert_eq!(
                (one.overlaps(&other), other.overlaps(&one)),
                (expected, expected),
                "{one:?} {other:?}"
            );
            let udp = Place { is_udp: true, ..other };
            assert!(!one.overlaps(&udp) && !udp.overlaps(&one));
        }
        let all = place("[::]:5", true);
        for (other, expected) in [("127.0.0.1:5", false), ("0.0.0.0:5", false), ("[::1]:5", true)] {
            let other = place(other, false);
            assert_eq!((all.overlaps(&other), other.overlaps(&all)), (expected, expected), "{other:?}");
        }
    }

    #[test]
    fn sockets_that_go_are_shared_while_one_needs_it_and_no_others() {
        let text = "domain: a\nlisteners: [ { uri: 'msrp://127.0.0.1:5' } ]\n";
        let config = Config::parse(text, Path::new(""), "a").unwrap_or_else(|errors| panic!("{errors}"));
        let present: Vec<_> = ["127.0.0.1:5", "127.0.0.2:5", "0.0.0.0:5", "127.0.0.3:5"]
            .into_iter()
            .enumerate()
            .map(|(index, address)| Present {
                index,
                name: format!("number {index}"),
                place: place(address, false),
                reuse_port: false,
                socket: TcpListener::bind("127.0.0.1:0").unwrap().into(),
            })
            .collect();
        let shared = || {
            let all = present.iter().filter(|one| socket_reuseport(&one.socket).unwrap());
            all.map(|one| one.index).collect::<Vec<_>>()
        };
        let in_use = |address: &str| {
            let source = std::io::ErrorKind::AddrInUse.into();
            StartError::Bind(BindError::Socket { addr: address.parse().unwrap(), source })
        };
        // A name with two addresses; at last somebody else has one.
        let mut seen = Vec::new();
        let mut answers = ["127.0.0.3:5", "127.0.0.4:6"].into_iter();
        let open = |listener: &Listener| {
            assert!(listener.reuse_port);
            seen.push(shared());
            Err(in_use(answers.next().unwrap()))
        };
        let error =
            open_beside(&config.listeners[0], &present, |index| index != 2, in_use("127.0.0.1:5"), open);
        assert!(matches!(error, Err(StartError::Bind(_))), "{error:?}");
        assert_eq!(seen, [vec![0], vec![0, 3]]);
        assert_eq!(shared(), [0; 0]);
        // One that stays is named, and not one that goes.
        let open = |_: &Listener| Err(in_use("127.0.0.1:5"));
        let error =
            open_beside(&config.listeners[0], &present, |index| index != 2, in_use("127.0.0.1:5"), open);
        assert!(
            matches!(&error, Err(StartError::InTheWay { listener, .. }) if listener == "number 2"),
            "{error:?}"
        );
        // Nobody of ours: it is not tried again.
        let open = |_: &Listener| panic!("nobody makes room");
        let error = open_beside(&config.listeners[0], &present[1..2], |_| true, in_use("127.0.0.1:5"), open);
        assert!(matches!(error, Err(StartError::Bind(_))), "{error:?}");
    }
}
