//! The driver: an [`Endpoint`] on a [`Stream`], with a clock.

use std::io;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::BytesMut;
use msrp_proto::endpoint::{Config, Endpoint, Event};
use rand::Rng as _;
use tcp_transport::Stream;

/// The most bytes prepared for one write: one TLS record.
const OUTPUT: usize = 16 * 1024;

/// Input that the endpoint does not take, because its answers are not being read, from which on no
/// more is read. More than any head.
const INPUT: usize = 256 * 1024;

/// How long [`Client::finish`] waits for what is under way: 5 s.
pub const FINISH: Duration = Duration::from_secs(5);

/// How long it waits then for the other side to close, so that nothing is lost to a reset: 1 s.
const LINGER: Duration = Duration::from_secs(1);

/// A connection and its endpoint.
pub struct Client {
    stream: Stream,
    endpoint: Endpoint,
    input: BytesMut,
    output: BytesMut,
    lost: Option<io::Error>,
}

/// An endpoint with the system's randomness.
pub fn endpoint(config: Config) -> Endpoint {
    Endpoint::new(config, |bytes| rand::rng().fill_bytes(bytes))
}

impl Client {
    /// A client on an open connection, from which `input` has been read already.
    pub fn new(stream: Stream, input: BytesMut, config: Config) -> Self {
        Self { stream, endpoint: endpoint(config), input, output: BytesMut::new(), lost: None }
    }

    /// To ask something of the endpoint. Call [`next`](Self::next) afterwards.
    pub fn endpoint(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// The connection.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Drives the connection until something happens. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection has ended, and all its events were given.
    pub async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            if let Some(event) = self.endpoint.poll_event() {
                return Ok(event);
            }
            self.step().await?;
        }
    }

    /// Sends what is to be sent, awaits the responses, and closes the connection; all of it not
    /// longer than [`FINISH`] and a second.
    pub async fn finish(mut self) {
        let all_sent = async {
            while !(self.endpoint.is_idle() && self.output.is_empty() && !self.stream.wants_flush()) {
                if self.endpoint.poll_event().is_none() && self.step().await.is_err() {
                    break;
                }
            }
        };
        // Whoever does not take or answer it in time has lost it.
        let _ = tokio::time::timeout(FINISH, all_sent).await;
        let _ = self.stream.close_notify();
        let _ = self.stream.shutdown_write();
        let until_closed = async {
            while self.stream.read(&mut self.input, OUTPUT).await.is_ok_and(|len| len > 0) {
                self.input.clear();
            }
        };
        let _ = tokio::time::timeout(LINGER, until_closed).await;
    }

    /// One step; called when there is no event to be taken.
    async fn step(&mut self) -> anyhow::Result<()> {
        if let Some(error) = &self.lost {
            bail!("the connection to {} was lost: {error}", self.stream.peer_addr());
        }
        if self.endpoint.is_closed() {
            bail!("the connection to {} is closed", self.stream.peer_addr());
        }
        let now = Instant::now();
        // Not only where nothing else happens: traffic must not keep the clock from ticking.
        if self.endpoint.deadline().is_some_and(|at| at <= now) {
            self.endpoint.handle_timeout(now);
            return Ok(());
        }
        if self.endpoint.receive(&mut self.input, now) {
            return Ok(());
        }
        if self.output.is_empty() && self.endpoint.poll_transmit(&mut self.output, OUTPUT, now) > 0 {
            return Ok(());
        }
        let deadline = self.endpoint.deadline();
        let moved = self.stream.exchange(&mut self.input, &mut self.output, INPUT);
        let moved = match deadline {
            None => moved.await,
            Some(at) => match tokio::time::timeout_at(at.into(), moved).await {
                Ok(moved) => moved,
                Err(_) => return Ok(()),
            },
        };
        if let Err(error) = moved {
            self.lost = Some(error);
            self.endpoint.connection_lost();
        }
        Ok(())
    }
}
