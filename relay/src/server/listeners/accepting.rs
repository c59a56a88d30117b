//! Listeners that accept, wait, are closed, and are opened again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tcp_transport::hep::Receiver;
use tcp_transport::tls::ServerDomains;
use tcp_transport::{Accepting, BindError, BoundListener, ListenerSettings};

use super::{Listeners, Running, RunningSocket, Shared, Socket};
use crate::server::network::Network;

/// A listener that was closed, and cannot be opened again.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen again on {address}")]
pub struct ReopenError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: BindError,
}

/// What is needed to open a socket again.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) address: SocketAddr,
    /// Of a datagram socket: none.
    settings: Option<ListenerSettings>,
}

impl Closed {
    fn open(&self, running: &Running, domains: &Arc<ServerDomains>) -> Result<Socket, BindError> {
        let addr = self.address;
        match &self.settings {
            Some(settings) => {
                let settings = ListenerSettings { addr, ..settings.clone() };
                let bound = BoundListener::bind(settings, Arc::clone(domains));
                bound.map(|socket| Socket::Stream(Box::new(socket)))
            }
            None => {
                let failed = |source| BindError::Socket { addr, source };
                let dispatch = running.hep.clone().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
                let socket = std::net::UdpSocket::bind(addr).map_err(failed)?;
                Receiver::udp_adopt(socket, dispatch).map(Socket::Datagram).map_err(failed)
            }
        }
    }
}

impl Listeners {
    /// Has all of them accept, or leave those who come in the sockets' backlogs.
    pub(in crate::server) fn set_accepting(&self, accepting: bool) {
        let accepting = if accepting { Accepting::On } else { Accepting::Paused };
        for running in &*self.0.lock() {
            for socket in &running.sockets {
                if let Shared::Stream(control) = &socket.socket {
                    control.set_accepting(accepting);
                }
            }
        }
    }

    /// Closes the sockets. Handshakes under way are finished, and what they lead to is taken.
    pub(in crate::server) fn close(&self) {
        for running in &mut *self.0.lock() {
            for RunningSocket { address, socket, task } in running.sockets.drain(..) {
                let settings = match socket {
                    Shared::Stream(control) => {
                        control.set_accepting(Accepting::Off);
                        Some(ListenerSettings::clone(&control.settings()))
                    }
                    Shared::Datagram(_) => {
                        task.abort();
                        None
                    }
                };
                running.handshakes.push(task);
                running.closed.push(Closed { address, settings });
            }
        }
    }

    /// Whether handshakes go on that were under way when a listener was closed.
    pub(in crate::server) fn is_opening(&self) -> bool {
        self.0.lock().iter().flat_map(|running| &running.handshakes).any(|task| !task.is_finished())
    }

    /// Opens again what [`close`](Self::close) has closed.
    ///
    /// # Errors
    /// The first address that cannot be listened on; all stay closed then.
    pub(in crate::server) fn reopen(&self, network: &Arc<Network>) -> Result<(), ReopenError> {
        let domains = &network.server_domains;
        let mut all = self.0.lock();
        let mut opened = Vec::new();
        for running in &*all {
            for closed in &running.closed {
                let failed = |source| ReopenError { address: closed.address, source };
                opened.push(closed.open(running, domains).map_err(failed)?);
            }
        }
        let mut opened = opened.into_iter();
        for running in &mut *all {
            let sockets = opened.by_ref().take(std::mem::take(&mut running.closed).len());
            let serves = &running.serves;
            running.sockets.extend(sockets.filter_map(|socket| super::run(socket, serves, network)));
            running.handshakes.clear();
        }
        Ok(())
    }
}
