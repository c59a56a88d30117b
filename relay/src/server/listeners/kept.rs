//! Sockets that a service manager has opened for us, while nobody here accepts on them: the relay drains, or a reload has
//! taken their listener away.
//!
//! The service manager has such a socket open for as long as its socket unit is there, so the kernel goes on taking
//! connections on it whatever we do with our descriptor: a client would be connected, and wait for nobody. shutdown(2)
//! would end that for the service manager, too: systemd takes the socket unit for failed then. So whoever connects is
//! accepted and closed at once: the client knows at once that it has to go elsewhere, or to try again later, as if the
//! connection had been refused. Datagrams are left where they are: nobody waits for an answer to one.
//!
//! The address is bound for as long, so the descriptor is kept, for when the drain is taken back or the listener comes
//! again. When the process ends, who connects waits for the next one, which the service manager starts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Listeners, Shared};
use crate::server::Inherited;

/// How long nobody is turned away for, where the system has no descriptor for it.
const PAUSE: Duration = Duration::from_millis(100);

/// One socket.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) address: SocketAddr,
    pub(super) is_udp: bool,
    /// The listener it was for last, if there was one.
    pub(super) listener: String,
    socket: OwnedFd,
    turning_away: Option<JoinHandle<()>>,
}

impl Kept {
    /// The socket of a listener that accepts no more. None if there is no descriptor left: then nobody is turned away,
    /// and the address cannot be used again.
    pub(super) fn of(shared: &Shared, address: SocketAddr, listener: String) -> Option<Self> {
        let socket = shared.duplicate().ok()?;
        let mut kept = Self { address, is_udp: shared.is_udp(), listener, socket, turning_away: None };
        kept.set_turning_away(true);
        Some(kept)
    }

    /// The same socket once more.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Has those who connect turned away, or leaves them in the backlog.
    pub(super) fn set_turning_away(&mut self, wanted: bool) {
        if let Some(task) = self.turning_away.take_if(|_| !wanted) {
            task.abort();
        }
        if wanted && !self.is_udp && self.turning_away.is_none() {
            let listener = self.duplicate().map(std::net::TcpListener::from);
            let listener = listener.and_then(|listener| {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            });
            self.turning_away = listener.ok().map(|listener| tokio::spawn(turn_away(listener)));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(task) = &self.turning_away {
            task.abort();
        }
    }
}

async fn turn_away(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => drop(connection),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

impl Listeners {
    /// Keeps those sockets of a service manager that no listener has taken.
    pub(in crate::server) fn keep(&self, inherited: &mut Inherited) {
        let mut all = self.0.lock();
        let accepting = all.accepting;
        let (tcp, udp) = inherited.take_managed();
        let tcp = tcp.into_iter().map(|socket| (socket.local_addr(), OwnedFd::from(socket), false));
        let udp = udp.into_iter().map(|socket| (socket.local_addr(), OwnedFd::from(socket), true));
        for (address, socket, is_udp) in tcp.chain(udp) {
            let Ok(address) = address else { continue };
            let mut kept = Kept { address, is_udp, listener: String::new(), socket, turning_away: None };
            kept.set_turning_away(accepting);
            all.kept.push(kept);
        }
    }

    /// Those that are kept once more, for listeners that a reload adds.
    pub(super) fn kept_again(&self) -> Inherited {
        let mut inherited = Inherited::default();
        for kept in &self.0.lock().kept {
            match kept.duplicate() {
                Ok(socket) if kept.is_udp => inherited.push_managed_udp(socket.into(), None),
                Ok(socket) => inherited.push_managed_tcp(socket.into(), None),
                // Then it is to be bound, and what is wrong with that is told.
                Err(_) => {}
            }
        }
        inherited
    }
}
