//! The Unix socket of the admin interface, open to whom it is meant for from its first moment on.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, listen, socket_with};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 128;

/// Binds a Unix socket with these permissions. One that a dead process has left behind gives way; one that answers does
/// not.
///
/// # Errors
/// What the system says; `AddrInUse`: somebody listens there, or it is something else than a socket.
pub(super) fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let listener = bind_closed(path, mode)?;
    // What the umask has taken is given back.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Binds a socket with these permissions, less what the umask takes: never is there a moment in which it has more.
fn bind_closed(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Linux makes the file with the permissions of the socket that is bound to it.
    fchmod(&socket, Mode::from_raw_mode(mode))?;
    rustix::net::bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_never_has_more_permissions_than_it_is_to_have() {
        let dir = tempfile::tempdir().unwrap();
        // Whatever the umask of this process is, all that it leaves would be there without this.
        let plain = dir.path().join("plain");
        let _plain = UnixListener::bind(&plain).unwrap();
        for wanted in [0o000, 0o600, 0o660, 0o666] {
            let path = dir.path().join(format!("{wanted:o}"));
            let _listener = bind_closed(&path, wanted).unwrap();
            assert_eq!(mode(&path), wanted & mode(&plain), "{wanted:o}");
        }
    }

    #[test]
    fn a_socket_has_the_permissions_that_are_wanted_though_another_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let listener = bind(&path, 0o660).unwrap();
        assert_eq!(mode(&path), 0o660);
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert_eq!(bind(&path, 0o660).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
