//! One connection of the admin interface, and how long its client may take for what.
//!
//! | what | how long | and then |
//! |---|---|---|
//! | the head of a request, the first or the next one | [`HEAD_TIMEOUT`] | the connection is closed |
//! | its body | [`BODY_TIMEOUT`](super::BODY_TIMEOUT) | 408, and the connection is closed |
//! | reading an answer, from where it does not go out at once | [`ANSWER_TIMEOUT`] | the connection is closed |
//!
//! So no client keeps one of the [`MAX_CONNECTIONS`](super::MAX_CONNECTIONS) by doing nothing. A stream of events goes on
//! for as long as it is read: what it is late with is one answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Sleep;

use super::{ANSWER_TIMEOUT, HEAD_TIMEOUT, MAX_HEAD};

/// Answers requests until the client has enough, is too slow, or the interface stops.
pub(super) async fn serve<S>(stream: S, router: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD);
    let service = TowerToHyperService::new(router);
    let stream = TokioIo::new(ReadInTime { stream, late: None });
    let mut connection = std::pin::pin!(http.serve_connection(stream, service));
    // What a client does to its own connection is its own business.
    let stop = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    tokio::select! {
        _ = &mut connection => {}
        () = stop => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// A stream whose reader must keep up: from a write that is not taken whole, it has [`ANSWER_TIMEOUT`] until one is.
struct ReadInTime<S> {
    stream: S,
    late: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadInTime<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadInTime<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(&written, Poll::Ready(Ok(count)) if *count == bytes.len()) {
            self.late = None;
            return written;
        }
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(ANSWER_TIMEOUT)));
        match late.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => written,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
