//! Sockets that a service manager has opened for us (sd_listen_fds(3)): systemd's socket units, or `systemfd`.
//!
//! `LISTEN_FDS` says how many there are, `LISTEN_PID` for whom, `LISTEN_FDNAMES` what they are called. A socket goes to the
//! listener that is configured for its address and kind; its name is for the log. What is configured and was not handed
//! over is bound as usual; what was handed over and is not configured serves nobody (`listeners::kept`), with an error in
//! the log.

use std::env;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tracing::{error, info};

/// Sockets that listen already, for listeners that will be there: of the process before this one, or of a service
/// manager. What nobody takes is closed with it, but for those of TCP and UDP that their opener keeps
/// (`listeners::kept`).
#[derive(Debug, Default)]
pub struct Inherited {
    /// With the names of the listeners that they were opened for, where those are known.
    tcp: Vec<(Option<String>, TcpListener)>,
    udp: Vec<(Option<String>, UdpSocket)>,
    /// Of the admin interface, with their paths.
    unix: Vec<(UnixListener, PathBuf)>,
    /// The paths of those of Unix that were taken.
    taken: Vec<PathBuf>,
    /// The paths of those of Unix that are the service manager's, taken or not.
    managed: Vec<PathBuf>,
    /// The addresses of those of TCP and UDP (`true`) that are the service manager's, taken or not.
    managed_at: Vec<(SocketAddr, bool)>,
}

impl Inherited {
    /// One more, of TCP; `listener` is what it was opened for.
    pub fn push_tcp(&mut self, socket: TcpListener, listener: Option<String>) {
        self.tcp.push((listener, socket));
    }

    /// One more, of UDP.
    pub fn push_udp(&mut self, socket: UdpSocket, listener: Option<String>) {
        self.udp.push((listener, socket));
    }

    /// One more, of a Unix socket at this path.
    pub fn push_unix(&mut self, socket: UnixListener, path: PathBuf) {
        self.unix.push((socket, path));
    }

    /// As [`push_tcp`](Self::push_tcp), of a socket that its opener keeps: it is bound whatever becomes of it here.
    pub fn push_managed_tcp(&mut self, socket: TcpListener, listener: Option<String>) {
        self.managed_at.extend(socket.local_addr().ok().map(|address| (address, false)));
        self.push_tcp(socket, listener);
    }

    /// As [`push_managed_tcp`](Self::push_managed_tcp), of UDP.
    pub fn push_managed_udp(&mut self, socket: UdpSocket, listener: Option<String>) {
        self.managed_at.extend(socket.local_addr().ok().map(|address| (address, true)));
        self.push_udp(socket, listener);
    }

    /// Whether whoever opened the socket at this address, of UDP or of TCP, keeps it.
    #[must_use]
    pub fn is_managed_at(&self, address: SocketAddr, is_udp: bool) -> bool {
        self.managed_at.contains(&(address, is_udp))
    }

    /// Those that their opener keeps, and that nobody has taken: of TCP, and of UDP.
    pub(super) fn take_managed(&mut self) -> (Vec<TcpListener>, Vec<UdpSocket>) {
        let managed = &self.managed_at;
        let is_managed = |address: std::io::Result<SocketAddr>, is_udp| {
            address.is_ok_and(|address| managed.contains(&(address, is_udp)))
        };
        let tcp = self.tcp.extract_if(.., |(_, socket)| is_managed(socket.local_addr(), false));
        let tcp = tcp.map(|(_, socket)| socket).collect();
        let udp = self.udp.extract_if(.., |(_, socket)| is_managed(socket.local_addr(), true));
        (tcp, udp.map(|(_, socket)| socket).collect())
    }

    /// As [`push_unix`](Self::push_unix), of a socket that its opener keeps: its path is not to be taken away.
    pub fn push_managed_unix(&mut self, socket: UnixListener, path: PathBuf) {
        self.managed.push(path.clone());
        self.push_unix(socket, path);
    }

    /// Whether whoever opened the Unix socket at this path keeps it.
    #[must_use]
    pub fn is_managed(&self, path: &Path) -> bool {
        self.managed.iter().any(|managed| managed == path)
    }

    /// Where those are that nobody has taken.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter_map(|(_, socket)| socket.local_addr().ok());
        let udp = self.udp.iter().filter_map(|(_, socket)| socket.local_addr().ok());
        let unix = self.unix.iter().map(|(_, path)| path.display().to_string());
        tcp.chain(udp).map(|address| address.to_string()).chain(unix).collect()
    }

    /// The paths of the Unix sockets that were taken.
    pub(super) fn taken(&self) -> &[PathBuf] {
        &self.taken
    }

    /// The Unix socket at this path.
    pub fn take_unix(&mut self, wanted: &Path) -> Option<UnixListener> {
        let index = self.unix.iter().position(|(_, path)| path == wanted)?;
        let (socket, path) = self.unix.remove(index);
        self.taken.push(path);
        Some(socket)
    }

    /// The one of TCP at this address. Of a listener on any port, the one that was opened for a listener of its name.
    pub fn take_tcp(&mut self, wanted: SocketAddr, listener: &str) -> Option<TcpListener> {
        let fits = |(name, socket): &(Option<String>, TcpListener)| {
            socket.local_addr().is_ok_and(|found| is_at(found, wanted, name.as_deref(), listener))
        };
        self.tcp.iter().position(fits).map(|index| self.tcp.remove(index).1)
    }

    /// As [`take_tcp`](Self::take_tcp), of UDP.
    pub fn take_udp(&mut self, wanted: SocketAddr, listener: &str) -> Option<UdpSocket> {
        let fits = |(name, socket): &(Option<String>, UdpSocket)| {
            socket.local_addr().is_ok_and(|found| is_at(found, wanted, name.as_deref(), listener))
        };
        self.udp.iter().position(fits).map(|index| self.udp.remove(index).1)
    }

    /// What this process was given. To be called once, at the beginning of the process: the variables are taken out of
    /// the environment, which must not happen while other threads may read it.
    #[must_use]
    pub fn from_env() -> FromEnv {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        FromEnv { sockets: ListenFd::from_env(), names: names.split(':').map(str::to_owned).collect() }
    }
}

fn is_at(found: SocketAddr, wanted: SocketAddr, name: Option<&str>, listener: &str) -> bool {
    let is_port = if wanted.port() == 0 { name == Some(listener) } else { found.port() == wanted.port() };
    found.ip() == wanted.ip() && is_port
}

/// See [`Inherited::from_env`]. There is no log yet when it is made.
pub struct FromEnv {
    sockets: ListenFd,
    names: Vec<String>,
}

impl FromEnv {
    /// The sockets; those that cannot be used are in the log.
    #[must_use]
    pub fn take(mut self) -> Inherited {
        let mut inherited = Inherited::default();
        for index in 0..self.sockets.len() {
            let name = self.names.get(index).map(String::as_str).unwrap_or_default();
            // One of another kind is left where it is.
            if let Ok(Some(socket)) = self.sockets.take_tcp_listener(index) {
                let address = socket.local_addr().ok();
                info!(
                    name,
                    address = address.map(tracing::field::display),
                    "socket of the service manager: TCP"
                );
                inherited.push_managed_tcp(socket, None);
            } else if let Ok(Some(socket)) = self.sockets.take_udp_socket(index) {
                let address = socket.local_addr().ok();
                info!(
                    name,
                    address = address.map(tracing::field::display),
                    "socket of the service manager: UDP"
                );
                inherited.push_managed_udp(socket, None);
            } else if let Ok(Some(socket)) = self.sockets.take_unix_listener(index) {
                let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Into::into));
                info!(name, path = ?path, "socket of the service manager: Unix");
                inherited.push_managed_unix(socket, path.unwrap_or_default());
            } else {
                error!(name, index, "socket of the service manager: of no kind that the relay has");
            }
        }
        inherited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_to_whom_it_fits_and_to_one_alone() {
        let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (named, unnamed) = (socket(), socket());
        let at = unnamed.local_addr().unwrap();
        let mut inherited = Inherited::default();
        inherited.push_tcp(unnamed, None);
        inherited.push_tcp(named, Some("msrp://127.0.0.1:0".into()));
        let any = "127.0.0.1:0".parse().unwrap();
        assert!(inherited.take_tcp(any, "msrps://127.0.0.1:0").is_none());
        assert!(inherited.take_udp(at, "hep_udp://127.0.0.1:0").is_none());
        assert!(inherited.take_tcp(SocketAddr::new("127.0.0.2".parse().unwrap(), at.port()), "").is_none());
        assert!(inherited.take_tcp(any, "msrp://127.0.0.1:0").is_some());
        assert!(inherited.take_tcp(any, "msrp://127.0.0.1:0").is_none());
        assert_eq!(inherited.addresses(), [at.to_string()]);
        assert!(inherited.take_tcp(at, "whatever it is called").is_some());
        assert!(inherited.addresses().is_empty());
    }
}
