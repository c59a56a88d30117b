//! A listener whose address overlaps that of one which a reload takes away: `0.0.0.0:2855` becomes `127.0.0.1:2855`.
//!
//! The kernel lets nobody bind the one while the other listens, and to close that one first would leave a time in which
//! nobody listens, and nothing to come back to when the other cannot be opened. So for the moment of the bind both get
//! SO_REUSEPORT, by which both may be there: the reload stays all or nothing. The kernel asks for it at the time of the
//! bind alone. For TCP it may remember, while the port is bound, that sockets of this user share it: another process of
//! the same user that sets SO_REUSEPORT may bind it then; one that does not is refused as ever.
//!
//! It lets sockets of one user share a port alone, so what a service manager has bound as another user stays in the way.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::sockopt::set_socket_reuseport;
use tcp_transport::{BindError, ListenerSettings};

use super::{Listeners, OpenSocket, Opened, Shared, Socket};
use crate::config::{Listener, ListenerTransport};
use crate::server::StartError;

/// A socket of this relay that listens already.
#[derive(Debug)]
pub(super) struct Present {
    /// The listener's number among those that run.
    pub(super) index: usize,
    name: String,
    address: SocketAddr,
    is_udp: bool,
    reuse_port: bool,
    socket: OwnedFd,
}

impl Present {
    /// Whether it may be in the way of that listener.
    fn has_port_of(&self, listener: &Listener) -> bool {
        let is_udp = listener.transport == ListenerTransport::Udp;
        self.address.port() == listener.port && self.is_udp == is_udp
    }
}

/// That others may bind a socket's address, while this is there.
struct Sharing<'a>(Vec<&'a Present>);

impl<'a> Sharing<'a> {
    fn of(present: impl Iterator<Item = &'a Present>) -> Self {
        // Where it cannot be had the bind fails, which is told.
        Self(present.filter(|one| set_socket_reuseport(&one.socket, true).is_ok()).collect())
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
                present.push(Present {
                    index,
                    name: running.listener.to_string(),
                    address: one.address,
                    is_udp: one.socket.is_udp(),
                    reuse_port: match &one.socket {
                        Shared::Stream(control) => control.settings().reuse_port,
                        Shared::Datagram(_) => running.listener.reuse_port,
                    },
                    socket,
                });
            }
        }
        present
    }
}

/// Whether somebody has that address already.
pub(super) fn is_in_use(error: &StartError) -> bool {
    matches!(error, StartError::Bind(BindError::Socket { source, .. }) if source.kind() == std::io::ErrorKind::AddrInUse)
}

/// Opens a listener that could not be opened, for an address that is in use, beside those sockets that go.
///
/// # Errors
/// As before, with the name of the listener of ours that is in the way, if one is.
pub(super) fn open_beside(
    listener: &Listener,
    present: &[Present],
    goes: impl Fn(usize) -> bool,
    error: StartError,
    open: impl FnOnce(&Listener) -> Result<Opened, StartError>,
) -> Result<Opened, StartError> {
    let in_the_way = || present.iter().filter(|one| one.has_port_of(listener));
    let mut going = in_the_way().filter(|one| goes(one.index)).peekable();
    let opened = if going.peek().is_some() {
        let _sharing = Sharing::of(going);
        open(&Listener { reuse_port: true, ..listener.clone() })
    } else {
        Err(error)
    };
    match opened {
        Ok(mut opened) => {
            opened.listener = listener.clone();
            opened.sockets.iter().for_each(|open| set_sharing(open, listener.reuse_port));
            Ok(opened)
        }
        Err(StartError::Bind(source)) => match in_the_way().next() {
            Some(one) => Err(StartError::InTheWay { listener: one.name.clone(), source }),
            None => Err(StartError::Bind(source)),
        },
        Err(error) => Err(error),
    }
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
