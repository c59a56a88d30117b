//! Listeners that accept, wait, are closed, and are opened again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tcp_transport::hep::Receiver;
use tcp_transport::tls::ServerDomains;
use tcp_transport::{Accepting, BindError, BoundListener, ListenerSettings, Transport};

use super::{Kept, Listeners, OpenSocket, Running, RunningSocket, Shared, Socket};
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
    /// As it was bound.
    pub(super) settings: ListenerSettings,
    is_udp: bool,
    /// The socket itself, where a service manager keeps it open.
    pub(super) kept: Option<Kept>,
}

/// Whether somebody has that address already.
pub(super) fn is_in_use(error: &BindError) -> bool {
    matches!(error, BindError::Socket { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
}

impl Closed {
    fn open(&self, running: &Running, domains: &Arc<ServerDomains>) -> Result<OpenSocket, BindError> {
        let addr = self.address;
        let failed = |source| BindError::Socket { addr, source };
        let settings = ListenerSettings { addr, ..self.settings.clone() };
        let again = self.kept.as_ref().map(Kept::duplicate).transpose().map_err(failed)?;
        let managed = again.is_some();
        let socket = if self.is_udp {
            let dispatch = running.hep.clone().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            let receiver = match again {
                Some(socket) => Receiver::udp_adopt(socket.into(), dispatch),
                None => Receiver::udp_with(&settings, dispatch),
            };
            receiver.map(Socket::Datagram).map_err(failed)
        } else {
            let domains = Arc::clone(domains);
            let bound = match again {
                Some(socket) => BoundListener::adopt(socket.into(), settings, domains),
                None => BoundListener::bind(settings, domains),
            };
            bound.map(|socket| Socket::Stream(Box::new(socket)))
        };
        socket.map(|socket| OpenSocket { socket, managed })
    }
}

/// How long an address that was ours is waited for, and how often it is tried: a socket is closed when its task gets a
/// turn.
const FREE_TIMEOUT: Duration = Duration::from_secs(1);
const FREE_POLL: Duration = Duration::from_millis(1);

/// Opens what may be in use by a socket that is about to be closed, for as long as one is `ending`.
pub(super) fn until_free<T, E>(
    mut open: impl FnMut() -> Result<T, E>,
    is_in_use: impl Fn(&E) -> bool,
    ending: impl Fn() -> bool,
) -> Result<T, E> {
    let started = Instant::now();
    loop {
        // Asked before: what has ended by then has let go of it.
        let goes_on = ending() && started.elapsed() < FREE_TIMEOUT;
        match open() {
            Err(error) if goes_on && is_in_use(&error) => std::thread::sleep(FREE_POLL),
            opened => return opened,
        }
    }
}

impl Listeners {
    /// Whether sockets may be open yet that a reload has taken away.
    pub(super) fn is_ending(&self) -> bool {
        let mut all = self.0.lock();
        all.ending.retain(|task| !task.is_finished());
        !all.ending.is_empty()
    }

    /// Has all of them accept, or leave those who come in the sockets' backlogs.
    pub(in crate::server) fn set_accepting(&self, accepting: bool) {
        let mut all = self.0.lock();
        all.accepting = accepting;
        let told = if accepting { Accepting::On } else { Accepting::Paused };
        for running in &all.running {
            for socket in &running.sockets {
                if let Shared::Stream(control) = &socket.socket {
                    control.set_accepting(told);
                }
            }
        }
        all.kept.iter_mut().for_each(|kept| kept.set_turning_away(accepting));
    }

    /// Closes the sockets. Handshakes under way are finished, and what they lead to is taken. Of a socket that a service
    /// manager keeps open whoever connects is turned away; not if another process has them all now.
    pub(in crate::server) fn close(&self, taken: bool) {
        let mut all = self.0.lock();
        if taken {
            all.kept.clear();
        }
        for running in &mut all.running {
            let name = running.listener.to_string();
            let (ipv6_only, reuse_port) = (running.listener.ipv6_only, running.listener.reuse_port);
            for RunningSocket { address, socket, managed, task } in running.sockets.drain(..) {
                let keep = managed && !taken;
                let kept = if keep { Kept::of(&socket, address, name.clone()) } else { None };
                let is_udp = socket.is_udp();
                let settings = match socket {
                    Shared::Stream(control) => {
                        control.set_accepting(Accepting::Off);
                        ListenerSettings::clone(&control.settings())
                    }
                    Shared::Datagram(_) => {
                        task.abort();
                        let settings = ListenerSettings::new(address, Transport::Tcp);
                        ListenerSettings { ipv6_only, reuse_port, ..settings }
                    }
                };
                running.handshakes.push(task);
                running.closed.push(Closed { address, settings, is_udp, kept });
            }
        }
    }

    /// Whether handshakes go on that were under way when a listener was closed.
    pub(in crate::server) fn is_opening(&self) -> bool {
        self.0.lock().running.iter().flat_map(|running| &running.handshakes).any(|task| !task.is_finished())
    }

    /// Opens again what [`close`](Self::close) has closed.
    ///
    /// # Errors
    /// The first address that cannot be listened on; all stay closed then.
    pub(in crate::server) fn reopen(&self, network: &Arc<Network>) -> Result<(), ReopenError> {
        // Whether their tasks have let go of them is not known: those have handshakes to finish.
        self.reopen_while(network, || true)
    }

    /// As [`reopen`](Self::reopen); an address that is in use is waited for while a socket of ours is `ending`. Meanwhile
    /// everybody else may ask what there is. No reload comes in between, and no other drain.
    fn reopen_while(&self, network: &Arc<Network>, ending: impl Fn() -> bool) -> Result<(), ReopenError> {
        let domains = &network.server_domains;
        let is_in_use = |error: &ReopenError| is_in_use(&error.source);
        let mut opened = Vec::new();
        while let Some(next) = until_free(|| self.open_closed(opened.len(), domains), is_in_use, &ending)? {
            opened.push(next);
        }
        let mut all = self.0.lock();
        let accepting = all.accepting;
        let mut opened = opened.into_iter();
        for running in &mut all.running {
            let sockets = opened.by_ref().take(std::mem::take(&mut running.closed).len());
            let serves = &running.serves;
            let run = |open| super::run(open, serves, network, accepting);
            running.sockets.extend(sockets.filter_map(run));
            running.handshakes.clear();
        }
        Ok(())
    }

    /// Opens the closed socket of that number again, counted over all listeners; `None`: there are not so many.
    fn open_closed(
        &self,
        number: usize,
        domains: &Arc<ServerDomains>,
    ) -> Result<Option<OpenSocket>, ReopenError> {
        let all = self.0.lock();
        let mut closed =
            all.running.iter().flat_map(|running| running.closed.iter().map(move |closed| (running, closed)));
        let Some((running, closed)) = closed.nth(number) else { return Ok(None) };
        let failed = |source| ReopenError { address: closed.address, source };
        closed.open(running, domains).map(Some).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use crate::server::{Drain, DrainCause, Server};

    #[tokio::test]
    async fn who_asks_where_it_listens_does_not_wait_for_an_address_to_become_free() {
        let text = "domain: relay.test\nlisteners: [ { uri: 'msrp://127.0.0.1:0' }, { uri: 'msrp://127.0.0.2:0' } ]\n";
        let config = Config::parse(text, Path::new(""), "a").unwrap_or_else(|errors| panic!("{errors}"));
        let server = Server::start(config).await.unwrap();
        let (control, before) = (server.control(), server.addresses());
        server.drain(Drain::now(DrainCause::Operator, None));
        // Its task has let go of it.
        while control.listeners().is_opening() {
            tokio::task::yield_now().await;
        }
        let other = Cell::new(Some(TcpListener::bind(before[1].1).unwrap()));
        let tries = Cell::new(0);
        let ending = || {
            assert!(control.listeners().0.try_lock().is_some(), "nobody waits");
            tries.set(tries.get() + 1);
            if tries.get() == 5 {
                drop(other.take());
            }
            true
        };
        control.listeners().reopen_while(control.network(), ending).unwrap();
        assert_eq!(server.addresses(), before);
    }

    #[test]
    fn an_address_is_waited_for_while_a_socket_of_ours_may_have_it() {
        let (tries, ends) = (Cell::new(0), Cell::new(true));
        let open = |free_after: u32| {
            tries.set(tries.get() + 1);
            if tries.get() > free_after { Ok(()) } else { Err("in use") }
        };
        assert_eq!(until_free(|| open(3), |_| true, || ends.get()), Ok(()));
        assert_eq!(tries.replace(0), 4);
        assert_eq!(until_free(|| open(3), |_| false, || ends.get()), Err("in use"), "another mistake");
        assert_eq!(tries.replace(0), 1);
        // Once it has ended, the next try is the last one.
        let after = |number: u32| move || number > 0;
        assert_eq!(until_free(|| open(3), |_| true, after(0)), Err("in use"));
        assert_eq!(tries.replace(0), 1);
        // Nor is it waited for without an end.
        assert_eq!(until_free(|| open(u32::MAX), |_| true, || true), Err("in use"));
    }
}
