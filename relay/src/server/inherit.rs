//! Sockets that a service manager has opened for us (sd_listen_fds(3)): systemd's socket units, or `systemfd`.
//!
//! `LISTEN_FDS` says how many there are, `LISTEN_PID` for whom, `LISTEN_FDNAMES` what they are called. A socket goes to the
//! listener that is configured for its address and kind; its name is for the log. What is configured and was not handed
//! over is bound as usual; what was handed over and is not configured is closed, with an error in the log.

use std::env;

use listenfd::ListenFd;
use tracing::{error, info};

use super::Inherited;

impl Inherited {
    /// What this process was given. To be called once, at the beginning of the process: the variables are taken out of
    /// the environment, which must not happen while other threads may read it.
    #[must_use]
    pub fn from_env() -> FromEnv {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        FromEnv { sockets: ListenFd::from_env(), names: names.split(':').map(str::to_owned).collect() }
    }
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
                inherited.push_tcp(socket);
            } else if let Ok(Some(socket)) = self.sockets.take_udp_socket(index) {
                let address = socket.local_addr().ok();
                info!(
                    name,
                    address = address.map(tracing::field::display),
                    "socket of the service manager: UDP"
                );
                inherited.push_udp(socket);
            } else if let Ok(Some(socket)) = self.sockets.take_unix_listener(index) {
                let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Into::into));
                info!(name, path = ?path, "socket of the service manager: Unix");
                inherited.push_unix(socket, path.unwrap_or_default());
            } else {
                error!(name, index, "socket of the service manager: of no kind that the relay has");
            }
        }
        inherited
    }
}
