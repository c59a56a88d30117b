//! What lines are written to: a file, a syslog daemon (RFC 5424), the journal.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::Level;

use super::journal;
use super::outlet::{Line, Sink};
use crate::config::{Facility, HostPort, LogFormat, LogSyslog};

/// The permissions of a new file, less what the process' umask takes.
const MODE: u32 = 0o640;

/// How long a daemon may take for one message, and for a connection.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a daemon that is away is not asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest message for a daemon: what rsyslog and syslog-ng take where nothing else is configured.
const MAX_MESSAGE: usize = 8192;

/// How often it is looked at whether a file's name still leads to it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A file, to whose end is written. It is opened again when its name leads to another file or to none: so whoever rotates
/// it may move it at any time, and need tell nobody.
#[derive(Debug)]
pub(super) struct FileSink {
    path: PathBuf,
    file: File,
    /// Its device and inode.
    id: (u64, u64),
    /// When its name was looked at.
    looked: Instant,
    look_interval: Duration,
    format: LogFormat,
    /// The last line is not whole.
    torn: bool,
    /// Its name leads elsewhere, and cannot be opened.
    stranded: bool,
    /// What is wrong with that, if it was not said yet.
    complaint: Option<io::Error>,
}

impl FileSink {
    pub(super) fn open(path: &Path, format: LogFormat) -> io::Result<Self> {
        let (file, id) = open(path)?;
        let (path, looked, look_interval) = (path.to_owned(), Instant::now(), LOOK_INTERVAL);
        let (torn, stranded, complaint) = (false, false, None);
        Ok(Self { path, file, id, looked, look_interval, format, torn, stranded, complaint })
    }

    /// Opens it again if it was moved.
    fn follow(&mut self) {
        if self.looked.elapsed() < self.look_interval {
            return;
        }
        self.looked = Instant::now();
        if !fs::metadata(&self.path).is_ok_and(|there| id(&there) == self.id) {
            let failed = self.reopen().err();
            // Tried again each second, and said once.
            if !std::mem::replace(&mut self.stranded, failed.is_some()) {
                self.complaint = failed;
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let id = id(&file.metadata()?);
    Ok((file, id))
}

fn id(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl Sink for FileSink {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        self.follow();
        if self.torn {
            self.file.write_all(b"\n")?;
            self.torn = false;
        }
        let written = self.file.write_all(&line.bytes);
        self.torn = written.is_err();
        written
    }

    fn reopen(&mut self) -> io::Result<()> {
        let opened = open(&self.path);
        (self.file, self.id) = opened
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))?;
        (self.torn, self.stranded) = (false, false);
        Ok(())
    }

    fn complaint(&mut self) -> Option<io::Error> {
        self.complaint.take()
    }

    fn own(&self, text: &str) -> Line {
        let now = rfc3339(SystemTime::now());
        let line = match self.format {
            LogFormat::Text => format!("{now}  WARN {text}\n"),
            LogFormat::Json => {
                let value = serde_json::json!({ "timestamp": now, "level": "WARN", "message": text });
                format!("{value}\n")
            }
        };
        Line { level: Level::WARN, bytes: line.into() }
    }
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// The severity (RFC 5424 §6.2.1).
pub(super) fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A daemon.
pub(super) struct SyslogSink {
    settings: LogSyslog,
    facility: Facility,
    tag: String,
    host: String,
    connection: Connection,
}

enum Connection {
    None,
    /// It was away then.
    Away(SystemTime),
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl SyslogSink {
    /// The daemon may be away.
    pub(super) fn new(settings: LogSyslog, facility: Facility, tag: String) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let is_name =
            !host.is_empty() && host.len() <= 255 && host.bytes().all(|byte| byte.is_ascii_graphic());
        let host = if is_name { host } else { "-".to_owned() };
        Self { settings, facility, tag, host, connection: Connection::None }
    }

    /// `<PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID - MSG` (RFC 5424 §6).
    fn message(&self, line: &Line, time: SystemTime) -> Vec<u8> {
        let Self { facility, tag, host, .. } = self;
        let priority = facility.0 * 8 + severity(line.level);
        let (now, process) = (rfc3339(time), std::process::id());
        let mut message = format!("<{priority}>1 {now} {host} {tag} {process} - - ").into_bytes();
        let text = line.bytes.trim_ascii_end();
        // A message is one line: nothing in it begins another one.
        message.extend(text.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
        message.truncate(MAX_MESSAGE);
        message
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match &mut self.connection {
            Connection::Unix(socket) => socket.send(message).map(drop),
            Connection::Udp(socket) => socket.send(message).map(drop),
            Connection::Tcp(stream) => {
                // Each is preceded by its length (RFC 6587 §3.4.1).
                let mut framed = format!("{} ", message.len()).into_bytes();
                framed.extend_from_slice(message);
                stream.write_all(&framed)
            }
            Connection::None | Connection::Away(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn connect(&mut self) -> io::Result<()> {
        let connected = match &self.settings {
            LogSyslog::Unix(path) => unix(path).map(Connection::Unix),
            LogSyslog::Udp(address) => udp(address).map(Connection::Udp),
            LogSyslog::Tcp(address) => tcp(address).map(Connection::Tcp),
        };
        let (connection, result) = match connected {
            Ok(connection) => (connection, Ok(())),
            Err(error) => (Connection::Away(SystemTime::now()), Err(error)),
        };
        self.connection = connection;
        result
    }
}

fn unix(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

fn resolve(address: &HostPort) -> io::Result<SocketAddr> {
    let host = address.host.to_string();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, address.port.unwrap_or_default()).to_socket_addrs()?;
    found.next().ok_or_else(|| io::ErrorKind::HostUnreachable.into())
}

fn udp(address: &HostPort) -> io::Result<UdpSocket> {
    let to = resolve(address)?;
    let from: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    Ok(socket)
}

fn tcp(address: &HostPort) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&resolve(address)?, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

impl Sink for SyslogSink {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let message = self.message(line, SystemTime::now());
        if let Connection::Away(since) = self.connection {
            if since.elapsed().is_ok_and(|elapsed| elapsed < PAUSE) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            self.connection = Connection::None;
        }
        if matches!(self.connection, Connection::None) {
            self.connect()?;
        } else if self.send(&message).is_ok() {
            return Ok(());
        } else {
            // The daemon may have been started again: once more, on a new connection.
            self.connect()?;
        }
        self.send(&message).inspect_err(|_| self.connection = Connection::Away(SystemTime::now()))
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.connection = Connection::None;
        Ok(())
    }

    fn own(&self, text: &str) -> Line {
        Line { level: Level::WARN, bytes: text.into() }
    }
}

/// The journal. Its messages are whole already.
pub(super) struct JournalSink {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl JournalSink {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None }
    }
}

impl Sink for JournalSink {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        if let Some(socket) = &self.socket
            && socket.send(&line.bytes).is_ok()
        {
            return Ok(());
        }
        let socket = self.socket.insert(unix(&self.path)?);
        socket.send(&line.bytes).map(drop)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.socket = None;
        Ok(())
    }

    fn own(&self, text: &str) -> Line {
        let mut message = journal::Message::new(Level::WARN);
        message.field("MESSAGE", text);
        Line { level: Level::WARN, bytes: message.into_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn line(text: &str) -> Line {
        Line { level: Level::WARN, bytes: text.into() }
    }

    fn sink(settings: LogSyslog) -> SyslogSink {
        SyslogSink::new(settings, Facility(3), "tag".to_owned())
    }

    #[test]
    fn a_file_is_made_for_its_owner_and_group_and_is_opened_again_when_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = FileSink::open(&path, LogFormat::Text).unwrap();
        sink.look_interval = Duration::MAX;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
        sink.write(&line("a\n")).unwrap();
        fs::rename(&path, &moved).unwrap();
        sink.write(&line("b\n")).unwrap();
        sink.reopen().unwrap();
        sink.write(&line("c\n")).unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "a\nb\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "c\n");
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = FileSink::open(&path, LogFormat::Text).unwrap();
        assert_eq!(sink.look_interval, LOOK_INTERVAL);
        sink.look_interval = Duration::ZERO;
        sink.write(&line("a\n")).unwrap();
        fs::rename(&path, &moved).unwrap();
        sink.write(&line("b\n")).unwrap();
        sink.write(&line("c\n")).unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "a\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\nc\n");
        fs::remove_file(&path).unwrap();
        sink.write(&line("d\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "d\n");
    }

    #[test]
    fn a_file_whose_folder_is_gone_is_written_to_and_that_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&folder).unwrap();
        let mut sink = FileSink::open(&folder.join("log"), LogFormat::Text).unwrap();
        sink.look_interval = Duration::ZERO;
        for round in ["a", "b"] {
            fs::rename(&folder, &moved).unwrap();
            sink.write(&line(round)).unwrap();
            let said = sink.complaint().unwrap().to_string();
            assert!(said.contains("logs/log"), "{said}");
            sink.write(&line("\n")).unwrap();
            assert!(sink.complaint().is_none());
            assert!(sink.reopen().is_err());
            assert_eq!(fs::read_to_string(moved.join("log")).unwrap(), format!("{round}\n"));
            // It is there again.
            fs::create_dir(&folder).unwrap();
            sink.write(&line("")).unwrap();
            assert!(sink.complaint().is_none());
            fs::remove_dir_all(&moved).unwrap();
        }
    }

    #[test]
    fn a_full_disk_is_an_error_of_each_line() {
        let mut sink = FileSink::open(Path::new("/dev/full"), LogFormat::Text).unwrap();
        for _ in 0..2 {
            assert!(sink.write(&line("a\n")).is_err());
        }
    }

    #[test]
    fn a_message_is_as_rfc_5424_has_it_and_nothing_in_it_begins_another() {
        let sink = sink(LogSyslog::Unix("/none".into()));
        let message = sink.message(&line("alice\n<0>1 forged\n"), SystemTime::UNIX_EPOCH);
        let message = String::from_utf8(message).unwrap();
        let expected = format!(
            "<28>1 1970-01-01T00:00:00Z {} tag {} - - alice <0>1 forged",
            sink.host,
            std::process::id()
        );
        assert_eq!(message, expected);
        assert_eq!(sink.message(&line(&"x".repeat(10_000)), SystemTime::now()).len(), MAX_MESSAGE);
    }

    #[test]
    fn a_daemon_that_was_started_again_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut sink = sink(LogSyslog::Unix(path.clone()));
        assert!(sink.write(&line("lost")).is_err());
        sink.reopen().unwrap();
        for text in ["a", "b"] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            sink.write(&line(text)).unwrap();
            let mut buffer = [0; 1024];
            let len = daemon.recv(&mut buffer).unwrap();
            assert!(String::from_utf8_lossy(&buffer[..len]).ends_with(&format!(" - - {text}")));
            drop(daemon);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn over_udp_and_tcp_too() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = udp.local_addr().unwrap().to_string().parse().unwrap();
        sink(LogSyslog::Udp(to)).write(&line("a")).unwrap();
        let mut buffer = [0; 1024];
        let len = udp.recv(&mut buffer).unwrap();
        assert!(String::from_utf8_lossy(&buffer[..len]).ends_with(" - - a"));

        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = tcp.local_addr().unwrap().to_string().parse().unwrap();
        let mut sink = sink(LogSyslog::Tcp(to));
        sink.write(&line("a")).unwrap();
        sink.write(&line("b")).unwrap();
        drop(sink);
        let mut text = String::new();
        tcp.accept().unwrap().0.read_to_string(&mut text).unwrap();
        let (length, rest) = text.split_once(' ').unwrap();
        let (first, second) = rest.split_at(length.parse().unwrap());
        assert!(first.ends_with(" - - a") && second.ends_with(" - - b"), "{text}");
    }
}
