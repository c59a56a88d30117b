//! Who a daemon tells how it is (sd_notify(3)), in systemd's place.

use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

use crate::{Site, within};

/// A socket that `NOTIFY_SOCKET` names.
pub struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ServiceManager {
    /// Listens in `site`.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        let path = site.path("notify.sock");
        Self { socket: UnixDatagram::bind(&path).expect("a socket to be notified by"), path }
    }

    /// What `NOTIFY_SOCKET` is to be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lines of the next notification.
    ///
    /// # Panics
    /// When none comes.
    pub async fn next(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let len = within("a notification", self.socket.recv(&mut bytes)).await.expect("a notification");
        let text = std::str::from_utf8(&bytes[..len]).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// The next notification with a line that begins like this; those before are passed over.
    pub async fn until(&self, begin: &str) -> Vec<String> {
        loop {
            let lines = self.next().await;
            if lines.iter().any(|line| line.starts_with(begin)) {
                return lines;
            }
        }
    }
}
