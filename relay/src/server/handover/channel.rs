//! Packets with descriptors, between two processes on one machine.
//!
//! The socket is of `SOCK_SEQPACKET`: what is sent at once arrives at once, with its descriptors, so it can be given to
//! a third process between any two packets, and no framing is ever out of step. A packet is four bytes with the length
//! of its JSON (big-endian), the JSON, and raw bytes behind it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::message::Message;

/// The most descriptors in one packet: far below the system's limit of 253.
pub(super) const MAX_DESCRIPTORS: usize = 32;

/// The largest packet: 96 KiB, of which the raw bytes are [`MAX_BYTES`] at most. Less than half of what the system
/// buffers for a socket.
const MAX_PACKET: usize = 96 * 1024;

/// The most raw bytes in one packet.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// Connections that may wait to be accepted by an [`Endpoint`].
const BACKLOG: i32 = 16;

/// One packet.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) message: Message,
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// One end of a connection. Any number of tasks may send; one receives.
#[derive(Debug)]
pub(in crate::server) struct Channel(UnixDatagram);

impl Channel {
    /// Connects to whoever listens at `path`. Needs a tokio runtime, as all of these do.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// What was a channel in another process.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        register(socket).map(Self)
    }

    /// Whether whoever is at the other end is this process' user, or root.
    pub(super) fn is_trusted(&self) -> bool {
        socket_peercred(&self.0)
            .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
    }

    /// Sends a packet, when there is room.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidInput`] if it is too large.
    pub(super) async fn send(
        &self,
        message: &Message,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let json = serde_json::to_vec(message)?;
        let fits = json.len() + bytes.len() <= MAX_PACKET - 4 && descriptors.len() <= MAX_DESCRIPTORS;
        let len = u32::try_from(json.len()).ok().filter(|_| fits).ok_or(io::ErrorKind::InvalidInput)?;
        let len = len.to_be_bytes();
        let parts = [IoSlice::new(&len), IoSlice::new(&json), IoSlice::new(bytes)];
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                // There is room for so many.
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            Ok(rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// The next packet; `None` when the other end is closed. Dropping the future loses nothing.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::InvalidData`] if it is no packet.
    pub(super) async fn receive(&self) -> io::Result<Option<Packet>> {
        let mut buffer = vec![0; MAX_PACKET];
        let mut receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let received = rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut descriptors = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok((received.bytes, descriptors))
        };
        let (len, descriptors) = match self.0.async_io(Interest::READABLE, &mut receive).await {
            // The other end was closed before it had read everything, which is told once, before what it has sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.0.async_io(Interest::READABLE, &mut receive).await?
            }
            received => received?,
        };
        if len == 0 {
            return Ok(None);
        }
        buffer.truncate(len);
        let (message, bytes) = parse(&buffer).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some(Packet { message, bytes: bytes.to_vec(), descriptors }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parse(packet: &[u8]) -> Option<(Message, &[u8])> {
    let (len, rest) = packet.split_first_chunk::<4>()?;
    let (json, bytes) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    Some((serde_json::from_slice(json).ok()?, bytes))
}

/// Tokio has no type for these sockets. Of this one only that is used which is true of every socket: it waits until there
/// is something to be had.
fn register(socket: OwnedFd) -> io::Result<UnixDatagram> {
    UnixDatagram::from_std(socket.into())
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Where the next process finds this one.
#[derive(Debug)]
pub(in crate::server) struct Endpoint {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Endpoint {
    /// Listens at `path`. A socket that a dead process has left there gives way.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`]: somebody listens there already.
    pub(in crate::server) fn bind(path: &Path) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            match rustix::net::connect(&socket()?, &SocketAddrUnix::new(path)?) {
                Err(rustix::io::Errno::CONNREFUSED) => std::fs::remove_file(path)?,
                _ => return Err(io::ErrorKind::AddrInUse.into()),
            }
        }
        let socket = socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Whoever gets in before is asked who it is all the same.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Self::new(socket, path)
    }

    /// What listened at `path` for another process.
    pub(super) fn new(socket: OwnedFd, path: &Path) -> io::Result<Self> {
        Ok(Self { socket: register(socket)?, path: path.to_owned() })
    }

    pub(in crate::server) fn path(&self) -> &Path {
        &self.path
    }

    /// The next process that wants something.
    pub(super) async fn accept(&self) -> io::Result<Channel> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || Ok(rustix::net::accept_with(&self.socket, flags)?);
        Channel::new(self.socket.async_io(Interest::READABLE, accept).await?)
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    async fn pair() -> (Channel, Channel) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let endpoint = Endpoint::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let one = Channel::connect(&path).unwrap();
        (one, endpoint.accept().await.unwrap())
    }

    fn hello(pid: u32) -> Message {
        Message::Hello { version: 1, pid }
    }

    #[tokio::test]
    async fn packets_arrive_whole_with_their_descriptors() {
        let (one, other) = pair().await;
        assert!(one.is_trusted() && other.is_trusted());
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        one.send(&hello(1), b"first bytes", &[theirs.as_fd(), theirs.as_fd()]).await.unwrap();
        one.send(&hello(2), b"", &[]).await.unwrap();
        drop(theirs);
        let packet = other.receive().await.unwrap().unwrap();
        assert_eq!((&packet.message, &packet.bytes[..]), (&hello(1), &b"first bytes"[..]));
        let mut descriptors = packet.descriptors.into_iter();
        let mut received = UnixStream::from(descriptors.next().unwrap());
        assert_eq!(descriptors.count(), 1);
        received.write_all(b"there").unwrap();
        drop(received);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "there");
        assert_eq!(other.receive().await.unwrap().unwrap().message, hello(2));
        drop(one);
        assert!(other.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn limits_hold() {
        let (one, other) = pair().await;
        let ends: Vec<_> = (0..=MAX_DESCRIPTORS).map(|_| UnixStream::pair().unwrap().0).collect();
        let descriptors: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
        one.send(&hello(1), &[7; MAX_BYTES], &descriptors[1..]).await.unwrap();
        let packet = other.receive().await.unwrap().unwrap();
        assert_eq!((packet.bytes.len(), packet.descriptors.len()), (MAX_BYTES, MAX_DESCRIPTORS));
        for (bytes, descriptors) in [(0, &descriptors[..]), (MAX_PACKET, &[][..])] {
            let error = one.send(&hello(1), &vec![7; bytes], descriptors).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        // Whoever is slow is waited for, and nothing is lost.
        let sent = async {
            for number in 0..100 {
                one.send(&hello(number), &[7; MAX_BYTES], &[]).await.unwrap();
            }
        };
        let received = async {
            for number in 0..100 {
                assert_eq!(other.receive().await.unwrap().unwrap().message, hello(number));
            }
        };
        tokio::join!(sent, received);
    }

    #[tokio::test]
    async fn what_is_no_packet_is_an_error() {
        for bytes in [&b"x"[..], b"\0\0\0\x05{}", b"\0\0\0\x02{}", b"\xff\xff\xff\xff{}"] {
            let (one, other) = pair().await;
            rustix::net::send(&one, bytes, SendFlags::empty()).unwrap();
            assert_eq!(other.receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_is_heard() {
        for unread in [false, true] {
            let (one, other) = pair().await;
            if unread {
                one.send(&hello(1), b"", &[]).await.unwrap();
            }
            other.send(&hello(2), b"", &[]).await.unwrap();
            drop(other);
            assert_eq!(one.send(&hello(3), b"", &[]).await.unwrap_err().kind(), {
                if unread { io::ErrorKind::ConnectionReset } else { io::ErrorKind::BrokenPipe }
            });
            assert_eq!(one.receive().await.unwrap().unwrap().message, hello(2));
            assert!(one.receive().await.unwrap().is_none());

            let (one, other) = pair().await;
            one.send(&hello(1), b"", &[]).await.unwrap();
            other.send(&hello(2), b"", &[]).await.unwrap();
            drop(other);
            assert_eq!(one.receive().await.unwrap().unwrap().message, hello(2));
            assert!(one.receive().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_left_behind_gives_way_and_one_in_use_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = Endpoint::bind(&path).unwrap();
        assert_eq!(Endpoint::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Endpoint::bind(&path).unwrap();
    }
}
