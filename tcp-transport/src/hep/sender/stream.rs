//! One connection to a collector, TCP or TLS.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until, timeout};

use super::End;
use super::queue::{BATCH, Queue};
use crate::connection::CloseReason;
use crate::stream::{MAX_PENDING_CIPHERTEXT, Stream, TLS_RECORD, is_transient};

/// What can lie in a collector's kernel, acknowledged and never read by its program: 6 MiB, what Linux lets a
/// receive buffer grow to by default. Nobody can know it from here.
pub const PEER_BUFFER: usize = 6 * 1024 * 1024;

/// How long a collector may take to end its side after we have ended ours.
const LINGER: Duration = Duration::from_secs(1);

/// How long the first packet waits for others, so that the traffic's threads are not asked for a wake-up and a write by
/// each: 1 ms.
const GATHER: Duration = Duration::from_millis(1);

/// Packets a queue must have room for if it gathers, so that what comes in that time never fills it.
const GATHERED: usize = 1024;

/// What one wait ended with.
enum Ready {
    /// The socket takes bytes, or there are new packets.
    Write,
    /// The collector has ended the connection, or it broke.
    Gone(CloseReason),
    /// `send_timeout` is over.
    TimedOut,
}

pub(super) async fn serve(
    stream: &Stream,
    queue: &Queue,
    batch: &mut VecDeque<Bytes>,
    send_timeout: Duration,
) -> End {
    let mut connection =
        Connection { stream, queue, offset: 0, written: 0, pending: 0, deadline: None, arrived: false };
    let reason = loop {
        queue.take(batch);
        match connection.write(batch) {
            Ok(()) => {
                // Nobody is told of packets that join others: what waits is taken until nothing does.
                queue.take(batch);
                if !batch.is_empty() {
                    tokio::task::yield_now().await;
                    continue;
                }
                if stream.wants_flush() {
                    // Records of TLS that the socket has not taken yet; below it waits for that.
                    connection.deadline.get_or_insert_with(|| Instant::now() + send_timeout);
                } else if queue.is_closing() {
                    connection.arrived = finish(stream).await;
                    stream.ended(&CloseReason::Local("HEP sender ends".into()));
                    return End::Finished;
                } else {
                    match connection.idle().await {
                        Ready::Gone(reason) => break reason,
                        _ => continue,
                    }
                }
            }
            Err(e) if is_transient(&e) => {
                connection.note_flushed();
                connection.deadline.get_or_insert_with(|| Instant::now() + send_timeout);
            }
            Err(e) => break CloseReason::from_io(&e),
        }
        match connection.blocked().await {
            Ready::Write => {}
            Ready::Gone(reason) => break reason,
            Ready::TimedOut => break CloseReason::SendTimeout,
        }
    };
    queue.count(|counters| counters.broken += 1);
    stream.shutdown_both(reason == CloseReason::SendTimeout);
    stream.ended(&reason);
    End::Broken(reason.to_string())
}

struct Connection<'a> {
    stream: &'a Stream,
    queue: &'a Queue,
    /// Octets of the first packet of the batch that are written already. Another connection begins it anew.
    offset: usize,
    /// Octets of packets that were written whole.
    written: u64,
    /// Ciphertext that waited for the socket when it was looked at last.
    pending: usize,
    /// When `send_timeout` is over, while something waits for the socket.
    deadline: Option<Instant>,
    /// The collector has ended its side after ours: it has read everything.
    arrived: bool,
}

/// However it ends, also if the task is cut short: what cannot be known to have arrived is counted.
impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if !self.arrived {
            let lost = self.possibly_lost();
            self.queue.count(|counters| counters.possibly_lost_bytes += lost);
        }
    }
}

impl Connection<'_> {
    /// Writes what is there, as far as the socket takes it.
    fn write(&mut self, batch: &mut VecDeque<Bytes>) -> io::Result<()> {
        while !batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); BATCH];
            let mut count = 0;
            for (slice, packet) in slices.iter_mut().zip(batch.iter()) {
                let from = if count == 0 { self.offset } else { 0 };
                *slice = IoSlice::new(packet.get(from..).unwrap_or_default());
                count += 1;
            }
            let taken = self.stream.try_write(&slices[..count])?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.deadline = None;
            self.settle(batch, taken);
        }
        self.stream.flush().or_else(|e| if is_transient(&e) { Ok(()) } else { Err(e) })
    }

    /// The socket may have taken ciphertext although it takes no plaintext yet: that is progress too.
    fn note_flushed(&mut self) -> bool {
        let before = std::mem::replace(&mut self.pending, self.stream.pending_ciphertext());
        let progress = self.pending < before;
        if progress {
            self.deadline = None;
        }
        progress
    }

    fn settle(&mut self, batch: &mut VecDeque<Bytes>, taken: usize) {
        let (mut rest, mut packets, mut bytes) = (self.offset + taken, 0, 0);
        while let Some(length) = batch.front().map(Bytes::len).filter(|length| *length <= rest) {
            batch.pop_front();
            rest -= length;
            packets += 1;
            bytes += length;
        }
        self.offset = rest;
        self.written += bytes as u64;
        if packets > 0 {
            self.queue.sent(packets, bytes);
        }
    }

    /// Waits for packets, and notices when the collector goes.
    async fn idle(&self) -> Ready {
        let mut discarded = BytesMut::new();
        let packets = async {
            self.queue.woken().await;
            if self.queue.has_room_for(GATHERED) {
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            () = packets => Ready::Write,
            reason = poll_fn(|cx| gone(self.stream, &mut discarded, cx)) => Ready::Gone(reason),
        }
    }

    /// Waits for the socket to take bytes, until the deadline.
    async fn blocked(&mut self) -> Ready {
        let deadline = self.deadline.unwrap_or_else(Instant::now);
        let mut discarded = BytesMut::new();
        let stream = self.stream;
        self.pending = stream.pending_ciphertext();
        tokio::select! {
            ready = poll_fn(|cx| {
                if let Poll::Ready(reason) = gone(stream, &mut discarded, cx) {
                    return Poll::Ready(Ready::Gone(reason));
                }
                match stream.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => match stream.flush() {
                        Err(e) if is_transient(&e) && self.note_flushed() => Poll::Ready(Ready::Write),
                        // It still is full: the readiness is cleared, and the next poll registers.
                        Err(e) if is_transient(&e) => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                        Err(e) => Poll::Ready(Ready::Gone(CloseReason::from_io(&e))),
                        Ok(()) => {
                            self.note_flushed();
                            Poll::Ready(Ready::Write)
                        }
                    },
                    Poll::Ready(Err(e)) => Poll::Ready(Ready::Gone(CloseReason::from_io(&e))),
                    Poll::Pending => Poll::Pending,
                }
            }) => ready,
            () = sleep_until(deadline) => Ready::TimedOut,
        }
    }

    fn possibly_lost(&self) -> u64 {
        let ours = self.stream.options().send_buffer_size().unwrap_or(0);
        let tls = if self.stream.tls().is_some() { MAX_PENDING_CIPHERTEXT + TLS_RECORD } else { 0 };
        self.written.min((ours + tls + PEER_BUFFER) as u64)
    }
}

/// Ready when the collector has ended the connection. What it sends has no meaning.
fn gone(stream: &Stream, discarded: &mut BytesMut, cx: &mut Context<'_>) -> Poll<CloseReason> {
    loop {
        match stream.poll_read_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(e)) => return Poll::Ready(CloseReason::from_io(&e)),
            Poll::Ready(Ok(())) => {}
        }
        discarded.clear();
        match stream.try_read(discarded, 4096) {
            Ok(0) => return Poll::Ready(CloseReason::PeerClosed),
            Ok(_) => {}
            Err(e) if is_transient(&e) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                return Poll::Ready(CloseReason::PeerClosed);
            }
            Err(e) => return Poll::Ready(CloseReason::from_io(&e)),
        }
    }
}

/// Ends the connection in order, so that nothing of what the kernel holds is thrown away; whether the collector has
/// read everything, as it has ended its side after ours.
async fn finish(stream: &Stream) -> bool {
    let mut discarded = BytesMut::new();
    let gone_before = poll_fn(|cx| Poll::Ready(gone(stream, &mut discarded, cx).is_ready())).await;
    // All of it fails only where nothing can be ended any more.
    let _ = stream.close_notify();
    let _ = stream.shutdown_write();
    let end = timeout(LINGER, poll_fn(|cx| gone(stream, &mut discarded, cx))).await;
    !gone_before && end == Ok(CloseReason::PeerClosed)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;
    use crate::hep::DestinationSettings;
    use crate::tls::{
        ClientDomain, ClientDomainSettings, HandshakeError, ServerDomain, ServerDomainSettings, ServerDomains,
    };
    use crate::{Acceptor, BoundListener, ConnectSettings, Connector, ListenerSettings, Target, Transport};

    struct Streams(UnboundedSender<Stream>);

    impl Acceptor for Streams {
        fn accepted(&self, stream: Stream) {
            let _ = self.0.send(stream);
        }

        fn handshake_failed(&self, _: SocketAddr, _: HandshakeError) {}
    }

    /// A TLS connection to ourselves: our end, and the collector's.
    async fn pair() -> (Stream, Stream) {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let (certificate_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate_file, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let mut server = ServerDomainSettings::new("collector", &certificate_file, &key_file);
        (server.verify_cert, server.require_cert) = (false, false);
        let server = ServerDomains::new([ServerDomain::load(&server).unwrap()]).unwrap();
        let mut client = ClientDomainSettings::new("hep");
        client.ca_list = Some(certificate_file);
        let client = ClientDomain::load(&client).unwrap();
        let settings = ListenerSettings::new("127.0.0.1:0".parse().unwrap(), Transport::Tls);
        let listener = BoundListener::bind(settings, Arc::new(server)).unwrap();
        let port = listener.local_addr().port();
        let (streams, mut accepted) = unbounded_channel();
        tokio::spawn(listener.run(Arc::new(Streams(streams))));
        let target = Target { host: "127.0.0.1".into(), port, transport: Transport::Tls };
        let connector = Connector::new(ConnectSettings::default(), |_, _| true);
        let ours = connector.connect(&target, Some(&client)).await.unwrap();
        (ours, accepted.recv().await.unwrap())
    }

    #[tokio::test]
    async fn ciphertext_that_leaves_is_progress_though_no_plaintext_is_taken() {
        let (stream, collector) = pair().await;
        let mut settings = DestinationSettings::new("x", "hep_tls://127.0.0.1".parse().unwrap());
        settings.queue_bytes = usize::MAX;
        let queue = Queue::new(&settings);
        for _ in 0..2000 {
            queue.push(&Ok(Bytes::from_static(&[0; 60_000])));
        }
        let mut connection = Connection {
            stream: &stream,
            queue: &queue,
            offset: 0,
            written: 0,
            pending: 0,
            deadline: None,
            arrived: true,
        };
        // The kernel takes little at a time. The collector does not read: everything fills up.
        stream.options().set_send_buffer_size(16 * 1024).unwrap();
        let mut batch = VecDeque::new();
        loop {
            queue.take(&mut batch);
            if connection.write(&mut batch).is_err_and(|e| is_transient(&e)) {
                break;
            }
        }
        assert!(stream.pending_ciphertext() > 0 && !batch.is_empty());
        // It reads a little at a time. Each time some of the ciphertext leaves, until no more waits: if only the last
        // of it were progress, the deadline would be over for a collector that reads slowly.
        let (mut buf, mut partly) = (BytesMut::new(), false);
        let test = async {
            while stream.wants_flush() && !partly {
                connection.deadline = Some(Instant::now() + Duration::from_secs(3600));
                let reads = async {
                    loop {
                        collector.read(&mut buf, 4096).await.unwrap();
                        buf.clear();
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    ready = connection.blocked() => assert!(matches!(ready, Ready::Write)),
                    () = reads => {}
                }
                assert_eq!(connection.deadline, None, "it was renewed");
                partly |= stream.wants_flush();
            }
        };
        timeout(Duration::from_secs(60), test).await.unwrap();
        assert!(partly, "some of it has left, and some waits");
    }
}
