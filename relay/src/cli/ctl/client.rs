//! HTTP to the admin interface.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Failure;
use super::target::{Address, Target};

/// How long the connection may take, and how long its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a stream of events may be silent: the relay sends a comment far more often.
const SILENCE: Duration = Duration::from_secs(60);

/// The largest answer: a list of some hundred thousand sessions.
const MAX_ANSWER: usize = 256 << 20;

/// The longest line of a stream of events.
const MAX_LINE: usize = 1 << 20;

/// Calls one admin interface; each call is a connection of its own.
#[derive(Debug)]
pub(super) struct Client(Target);

impl Client {
    pub(super) fn new(target: Target) -> Self {
        Self(target)
    }

    pub(super) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Calls a command of `/mi`.
    pub(super) async fn mi(&self, method: &str, params: Value) -> Result<Value, Failure> {
        self.mi_within(ANSWER_TIMEOUT, method, params).await
    }

    /// Calls a command of `/mi` that may take so long.
    pub(super) async fn mi_within(
        &self,
        limit: Duration,
        method: &str,
        params: Value,
    ) -> Result<Value, Failure> {
        let call = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 });
        let mut answer = self.json(limit, Method::POST, "/mi", call.to_string()).await?;
        if let Value::Object(error) = answer["error"].take() {
            let message = error.get("message").and_then(Value::as_str).unwrap_or("no message");
            return Err(Failure::Refused(message.to_owned()));
        }
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(self.stranger("its answer has no result")),
        }
    }

    /// The status page's data.
    pub(super) async fn status(&self) -> Result<Value, Failure> {
        self.json(ANSWER_TIMEOUT, Method::GET, "/status.json", String::new()).await
    }

    async fn json(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Value, Failure> {
        let answer = async {
            let answer = self.send(method, path, body).await?;
            let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ANSWER).await;
            body.map_err(|error| self.unreachable(&error))
        };
        let late = |_| self.unreachable(&format!("no answer within {} s", limit.as_secs()));
        let body = timeout(limit, answer).await.map_err(late)??;
        serde_json::from_slice(&body).map_err(|error| self.stranger(&error.to_string()))
    }

    /// What happens from now on. `kind`: of connections or sessions only.
    pub(super) async fn events(&self, kind: Option<&str>) -> Result<Events, Failure> {
        let path = kind.map_or_else(|| "/events".to_owned(), |kind| format!("/events?kind={kind}"));
        let answer = timeout(ANSWER_TIMEOUT, self.send(Method::GET, &path, String::new())).await;
        let answer = answer.map_err(|_| self.unreachable(&"no answer"))??;
        let data = Body::new(answer.into_body()).into_data_stream();
        Ok(Events { data, buffer: Vec::new(), name: String::new(), address: self.address().clone() })
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Result<Response<Incoming>, Failure> {
        let host = match self.address() {
            Address::Http(host, port) => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.0.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        let request = request.body(Body::from(body)).map_err(|error| Failure::Usage(error.to_string()))?;
        let answer = match self.address() {
            Address::Http(host, port) => {
                let name = host.to_string();
                let stream = TcpStream::connect((name.trim_matches(['[', ']']), *port));
                exchange(self.connected(stream).await?, request).await
            }
            Address::Unix(path) => exchange(self.connected(UnixStream::connect(path)).await?, request).await,
        };
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED if self.0.token.is_some() => Err(Failure::Refused(format!(
                "{} does not take this token: it is not `admin.token`",
                self.address()
            ))),
            StatusCode::UNAUTHORIZED => Err(Failure::Refused(format!(
                "{} wants its token: give --token-file FILE, or --config FILE of the relay",
                self.address()
            ))),
            StatusCode::MISDIRECTED_REQUEST => Err(Failure::Refused(format!(
                "{} does not know itself by this name: use its address, or add the name to `admin.allow_hosts`",
                self.address()
            ))),
            StatusCode::SERVICE_UNAVAILABLE => Err(Failure::Refused(format!(
                "{} has as many streams of events as it takes: end another `ctl events` or `--watch` first",
                self.address()
            ))),
            status => Err(self.stranger(&format!("it answers {status}"))),
        }
    }

    async fn connected<S>(&self, stream: impl Future<Output = std::io::Result<S>>) -> Result<S, Failure> {
        match timeout(CONNECT_TIMEOUT, stream).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.unreachable(&error)),
            Err(_) => Err(self.unreachable(&format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::Unreachable(format!(
            "cannot reach the relay at {}: {error}. Does it run, with `admin.listen` there? --address or --config say \
             where else",
            self.address()
        ))
    }

    fn stranger(&self, what: &str) -> Failure {
        Failure::Unreachable(format!("{} is no admin interface of msrp-relay: {what}", self.address()))
    }
}

async fn exchange<S>(stream: S, request: Request<Body>) -> hyper::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What goes wrong with it, the request learns.
    tokio::spawn(connection);
    sender.send_request(request).await
}

/// A stream of server-sent events.
pub(super) struct Events {
    data: BodyDataStream,
    buffer: Vec<u8>,
    name: String,
    address: Address,
}

impl Events {
    /// The next event's name and data.
    pub(super) async fn next(&mut self) -> Result<(String, Value), Failure> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(name) = line.strip_prefix("event:") {
                    name.trim().clone_into(&mut self.name);
                } else if let Some(data) = line.strip_prefix("data:")
                    && let Ok(data) = serde_json::from_str(data)
                {
                    return Ok((std::mem::take(&mut self.name), data));
                }
            }
            let lost = |why: &str| Failure::Unreachable(format!("{}: {why}", self.address));
            match timeout(SILENCE, self.data.next()).await {
                Ok(Some(Ok(data))) if self.buffer.len() + data.len() <= MAX_LINE => {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(Some(Ok(_))) => return Err(lost("sends no events")),
                Ok(Some(Err(error))) => return Err(lost(&format!("the connection broke: {error}"))),
                Ok(None) => return Err(lost("the relay has stopped")),
                Err(_) => return Err(lost("is silent")),
            }
        }
    }
}
