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
    let mut connection = Connection { stream, queue, offset: 0, written: 0, deadline: None };
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
                    finish(stream).await;
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
    let lost = connection.possibly_lost();
    queue.count(|counters| {
        counters.broken += 1;
        counters.possibly_lost_bytes += lost;
    });
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
    /// When `send_timeout` is over, while something waits for the socket.
    deadline: Option<Instant>,
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
        tokio::select! {
            ready = poll_fn(|cx| {
                if let Poll::Ready(reason) = gone(stream, &mut discarded, cx) {
                    return Poll::Ready(Ready::Gone(reason));
                }
                match stream.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => match stream.flush() {
                        // It still is full: the readiness is cleared, and the next poll registers.
                        Err(e) if is_transient(&e) => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                        Err(e) => Poll::Ready(Ready::Gone(CloseReason::from_io(&e))),
                        Ok(()) => Poll::Ready(Ready::Write),
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

/// Ends the connection in order, so that nothing of what the kernel holds is thrown away.
async fn finish(stream: &Stream) {
    // All of it fails only where nothing can be ended any more.
    let _ = stream.close_notify();
    let _ = stream.shutdown_write();
    let mut discarded = BytesMut::new();
    let _ = timeout(LINGER, poll_fn(|cx| gone(stream, &mut discarded, cx))).await;
}
