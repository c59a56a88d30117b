//! Syslog: RFC 5424 over a Unix datagram socket, or over UDP (RFC 5426). The message is the record in JSON.
//!
//! A datagram socket of this machine holds its sender up when the daemon is slow, and says when it is away: nothing is
//! lost on the way. UDP tells neither; what it loses, nobody knows.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tcp_transport::connector::{Resolver as _, SystemResolver};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::timeout;

use super::record::SessionRecord;
use super::writer::{Failure, Sink, Taken};
use crate::config::{Facility, Host, HostPort, RecordSyslog, SyslogAddress};

/// The longest message, in bytes: what rsyslog and syslog-ng take where nothing else is configured. Peers are left out of
/// a longer one.
const MAX_MESSAGE: usize = 8192;

/// The severity: informational (RFC 5424 §6.2.1).
const SEVERITY: u8 = 6;

/// How long a daemon may take for one message.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// The daemon.
#[derive(Debug)]
pub(super) struct SyslogSink {
    address: SyslogAddress,
    header: Header,
    socket: Option<Socket>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// What is the same in all messages.
#[derive(Debug)]
struct Header {
    facility: Facility,
    host: String,
    tag: String,
    process: u32,
}

impl SyslogSink {
    pub(super) fn new(settings: RecordSyslog) -> Self {
        let RecordSyslog { address, facility, tag } = settings;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let is_name =
            !host.is_empty() && host.len() <= 255 && host.bytes().all(|byte| byte.is_ascii_graphic());
        let host = if is_name { host } else { "-".to_owned() };
        Self { address, header: Header { facility, host, tag, process: std::process::id() }, socket: None }
    }

    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(connect(&self.address).await?),
        };
        let sent = match socket {
            Socket::Unix(socket) => timeout(SEND_TIMEOUT, socket.send(message)).await,
            Socket::Udp(socket) => timeout(SEND_TIMEOUT, socket.send(message)).await,
        };
        match sent {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

async fn connect(address: &SyslogAddress) -> io::Result<Socket> {
    match address {
        SyslogAddress::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            Ok(Socket::Unix(socket))
        }
        SyslogAddress::Udp(HostPort { host, port }) => {
            let port = port.unwrap_or_default();
            let to = match host {
                Host::Ip(ip) => SocketAddr::new(*ip, port),
                Host::Name(name) => {
                    let found = SystemResolver.resolve(name, port).await?;
                    found.into_iter().next().ok_or(io::ErrorKind::HostUnreachable)?
                }
            };
            let from: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = UdpSocket::bind(from).await?;
            socket.connect(to).await?;
            Ok(Socket::Udp(socket))
        }
    }
}

impl Header {
    /// `<PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID - MSG` (RFC 5424 §6): the time is the record's, the MSGID what
    /// kind of record it is.
    fn message(&self, record: &SessionRecord) -> String {
        let Self { facility, host, tag, process } = self;
        let priority = facility.0 * 8 + SEVERITY;
        let kind = if record.is_interim() { "interim" } else { "session" };
        let time = &record.ended;
        let with = |record: &SessionRecord| {
            format!("<{priority}>1 {time} {host} {tag} {process} {kind} - {}", record.to_json())
        };
        let mut message = with(record);
        if message.len() > MAX_MESSAGE && !record.peers.is_empty() {
            let mut shorter = record.clone();
            while message.len() > MAX_MESSAGE && shorter.peers.pop().is_some() {
                shorter.more_peers = true;
                message = with(&shorter);
            }
        }
        message
    }
}

impl Sink for SyslogSink {
    async fn open(&mut self) -> Result<(), String> {
        self.socket = None;
        self.socket = Some(connect(&self.address).await.map_err(|error| self.why(&error))?);
        Ok(())
    }

    async fn write(&mut self, batch: &[Arc<SessionRecord>]) -> Taken {
        for (records, record) in batch.iter().enumerate() {
            let message = self.header.message(record);
            let Err(error) = self.send(message.as_bytes()).await else { continue };
            if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) {
                return Taken { records, failure: Some(Failure::Refused(self.why(&error))) };
            }
            // The daemon may have been started again, with a socket of the same name.
            self.socket = None;
            return Taken::failed(records, &self.why(&error));
        }
        Taken::all(batch)
    }
}

impl SyslogSink {
    fn why(&self, error: &io::Error) -> String {
        format!("{}: {error}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{ended, interim};
    use super::*;

    fn header() -> Header {
        Header { facility: Facility(16), host: "host".into(), tag: "tag".into(), process: 7 }
    }

    #[test]
    fn a_message_is_as_rfc_5424_has_it() {
        let record = ended("s");
        let message = header().message(&record);
        assert_eq!(
            message,
            format!("<134>1 2023-11-14T22:13:21.750Z host tag 7 session - {}", record.to_json())
        );
        assert!(header().message(&interim("s")).contains(" 7 interim - "));
    }

    #[test]
    fn nothing_in_a_record_ends_its_message() {
        let mut record = (*ended("s")).clone();
        record.user = "a\n<134>1 - - - - - - forged\r\0".into();
        let message = header().message(&record);
        assert!(!message.contains(char::is_control), "{message:?}");
    }

    #[test]
    fn peers_are_left_out_of_a_message_that_is_too_long() {
        let mut record = (*ended("s")).clone();
        record.peers = (0..64).map(|number| format!("msrp://peer{number}.{};tcp", "x".repeat(200))).collect();
        let message = header().message(&record);
        assert!(message.len() <= MAX_MESSAGE && message.len() > MAX_MESSAGE - 300, "{}", message.len());
        let (_, json) = message.split_once(" - ").unwrap();
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let left = value["peers"].as_array().unwrap().len();
        assert!((1..64).contains(&left) && value["more_peers"] == true, "{value}");
    }

    #[tokio::test]
    async fn a_daemon_that_is_away_is_found_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let settings = RecordSyslog {
            address: SyslogAddress::Unix(path.clone()),
            facility: Facility(16),
            tag: "tag".into(),
        };
        let mut sink = SyslogSink::new(settings);
        assert!(sink.open().await.is_err());
        assert_eq!(sink.write(&[ended("a")]).await.records, 0);
        for id in ["a", "b"] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            if id == "b" {
                // It was connected to the daemon that is gone.
                assert_eq!(sink.write(&[ended(id)]).await.records, 0);
            }
            assert_eq!(sink.write(&[ended(id)]).await.records, 1);
            let mut buffer = [0; 4096];
            let len = daemon.recv(&mut buffer).await.unwrap();
            assert!(String::from_utf8_lossy(&buffer[..len]).contains(&format!("{id}@relay.test")));
            drop(daemon);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
