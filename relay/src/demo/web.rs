//! The page of `examples/browser-chat` by HTTP: GET and HEAD of what is embedded here, and one request for each
//! connection.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// The largest head of a request, in bytes; a longer one gets 431.
const MAX_HEAD: usize = 8 * 1024;

/// The most header fields of a request; with more it gets 431. Browsers send about 20.
const MAX_FIELDS: usize = 64;

/// How long a connection may take from accept to its end; then it is closed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// The pause after a failed accept, which mostly means that there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($name:literal, $type:expr) => {
        (concat!("/", $name), $type, include_bytes!(concat!("../../../examples/browser-chat/", $name)))
    };
}

/// Path, media type and content.
const FILES: [(&str, &str, &[u8]); 9] = [
    file!("index.html", HTML),
    file!("app.js", SCRIPT),
    file!("digest.js", SCRIPT),
    file!("message.js", SCRIPT),
    file!("msrp.js", SCRIPT),
    file!("ranges.js", SCRIPT),
    file!("transfer.js", SCRIPT),
    file!("style.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
];

/// Serves the page to whoever connects; never ends by itself.
pub(super) async fn serve(listener: TcpListener) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            let _place = place;
            // Whoever goes away, or takes too long, gets nothing more; there is nobody to tell.
            let _ = tokio::time::timeout(TIMEOUT, exchange(stream)).await;
        });
    }
}

/// One request, its answer, and the end of the connection.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut head = vec![0; MAX_HEAD];
    let mut len = 0;
    let answer = loop {
        if let Some(answer) = answer(&head[..len]) {
            break answer;
        }
        match stream.read(&mut head[len..]).await? {
            0 => return Ok(()),
            more => len += more,
        }
    };
    stream.write_all(answer.head().as_bytes()).await?;
    if !answer.without_body {
        stream.write_all(answer.body).await?;
    }
    stream.shutdown().await?;
    // A socket that is closed with something unread is reset, and the answer may be lost with it.
    while stream.read(&mut head).await? > 0 {}
    Ok(())
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    media_type: &'static str,
    body: &'static [u8],
    /// To a HEAD request (RFC 9110 §9.3.2).
    without_body: bool,
}

impl Answer {
    fn error(status: &'static str) -> Self {
        let media_type = "text/plain; charset=utf-8";
        Self { status, media_type, body: status.as_bytes(), without_body: false }
    }

    fn head(&self) -> String {
        let Self { status, media_type, body, .. } = self;
        // What the page's own <meta> cannot say, and what a browser may not guess or keep.
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Allow: GET, HEAD\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Security-Policy: frame-ancestors 'none'\r\n\r\n",
            body.len()
        )
    }
}

/// The answer to a request that begins like this; `None` until its head is whole.
fn answer(input: &[u8]) -> Option<Answer> {
    const TOO_LARGE: &str = "431 Request Header Fields Too Large";
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(input) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Answer::error(TOO_LARGE));
        }
        Err(_) => return Some(Answer::error("400 Bad Request")),
    }
    let without_body = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Some(Answer::error("405 Method Not Allowed")),
    };
    let path = request.path.and_then(|target| target.split('?').next()).unwrap_or_default();
    let path = if path == "/" { "/index.html" } else { path };
    let found = FILES.iter().find(|(name, ..)| *name == path);
    let found = found.map_or(Answer::error("404 Not Found"), |&(_, media_type, body)| Answer {
        status: "200 OK",
        media_type,
        body,
        without_body,
    });
    Some(Answer { without_body, ..found })
}

#[cfg(test)]
mod tests;
