//! A caller of the daemon's admin interface.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpStream, UnixStream};

use crate::daemon::Daemon;
use crate::within;

/// Where the admin interface of a daemon is.
#[derive(Clone, Debug)]
pub enum Admin {
    /// `http://` and this address.
    Http(String),
    /// `unix:` and this path.
    Unix(PathBuf),
}

/// What it answered.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The head's lines, in lower case.
    pub head: String,
    /// The body, chunked or not, as it stands behind the head.
    pub body: String,
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

impl Admin {
    /// Those of `daemon`, as it says in its log.
    pub async fn of(daemon: &Daemon) -> Vec<Self> {
        let line = daemon.log().wait_for(&["admin interface", "listening="]).await;
        let (_, list) = line.split_once("listening=").expect("addresses");
        let list = list.trim_matches('"').split_whitespace().map(|address| address.trim_matches('"'));
        list.map(|address| match address.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Http(address.trim_start_matches("http://").to_owned()),
        })
        .collect()
    }

    async fn connect(&self) -> Box<dyn Socket> {
        match self {
            Self::Http(address) => Box::new(TcpStream::connect(address).await.expect("admin interface")),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await.expect("admin interface")),
        }
    }

    fn host(&self) -> &str {
        match self {
            Self::Http(address) => address,
            Self::Unix(_) => "localhost",
        }
    }

    /// Sends one request, with header lines that each end in CRLF; a `Host` is added unless there is one.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> HttpResponse {
        let host = if headers.to_ascii_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.host())
        };
        let text = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut socket = self.connect().await;
        socket.write_all(text.as_bytes()).await.expect("request");
        let mut answer = Vec::new();
        within(format_args!("an answer to {path}"), socket.read_to_end(&mut answer)).await.expect("answer");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("a head: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        HttpResponse {
            status: status.unwrap_or_else(|| panic!("a status: {head:?}")),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// What is at a path.
    pub async fn get(&self, path: &str) -> HttpResponse {
        self.request("GET", path, "", "").await
    }

    /// Calls a command: its answer, or its error.
    ///
    /// # Panics
    /// When there is neither.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, (i64, String)> {
        let call = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 }).to_string();
        let answer = self.request("POST", "/mi", "Content-Type: application/json\r\n", &call).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut answer: Value = serde_json::from_str(&answer.body).expect("JSON");
        match answer["error"].take() {
            Value::Null => Ok(answer["result"].take()),
            error => {
                let code = error["code"].as_i64().expect("code");
                Err((code, error["message"].as_str().expect("message").to_owned()))
            }
        }
    }

    /// Calls a command that must do.
    ///
    /// # Panics
    /// When it does not.
    pub async fn mi(&self, method: &str, params: Value) -> Value {
        self.call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    /// The value of a metric as its line says it: name with labels, exactly; 0 if there is no such line.
    ///
    /// # Panics
    /// When there are no metrics.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let line = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Opens the stream of events.
    pub async fn events(&self, query: &str) -> Events {
        let mut socket = self.connect().await;
        let text = format!("GET /events{query} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host());
        socket.write_all(text.as_bytes()).await.expect("request");
        let mut events = Events(BufReader::new(socket));
        while !events.line().await.expect("a head").is_empty() {}
        events
    }
}

/// Server-sent events.
pub struct Events(BufReader<Box<dyn Socket>>);

impl Events {
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = within("a line of events", self.0.read_line(&mut line)).await.expect("events");
        (len > 0).then(|| line.trim_end().to_owned())
    }

    /// The next event's name and data; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let line = self.line().await?;
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).expect("JSON")));
            }
        }
    }

    /// The next event that `wanted` holds for.
    ///
    /// # Panics
    /// When the stream ends before.
    pub async fn until(&mut self, wanted: impl Fn(&str, &Value) -> bool) -> Value {
        loop {
            let (name, data) = self.next().await.expect("an event");
            if wanted(&name, &data) {
                return data;
            }
        }
    }
}
