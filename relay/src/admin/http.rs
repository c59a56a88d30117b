//! The paths of the admin interface.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::guard::{self, Guard};
use super::history::History;
use super::metrics::{self, Metrics};
use super::{BODY_TIMEOUT, MAX_BODY, events, mi, status};
use crate::config::Admin;
use crate::server::Control;

/// What requests are answered from. Clones mean the same.
#[derive(Clone)]
pub(super) struct App {
    pub(super) control: Arc<Control>,
    pub(super) guard: Arc<Guard>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) streams: Arc<events::Streams>,
    /// The status page's `Content-Security-Policy`.
    pub(super) page_policy: HeaderValue,
    /// Whether the interface ends: streams do then.
    pub(super) stopped: watch::Receiver<bool>,
}

pub(super) fn router(
    settings: &Admin,
    control: Arc<Control>,
    history: Arc<Mutex<History>>,
    stopped: watch::Receiver<bool>,
) -> Router {
    let metrics = Arc::new(Metrics::new(Arc::clone(&control)));
    // It is of ASCII: of text of ours, and Base64.
    let page_policy = HeaderValue::try_from(status::policy())
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
    let guard = Arc::new(Guard::new(settings));
    let streams = Arc::default();
    let app = App { control, guard, metrics, history, streams, page_policy, stopped };
    Router::new()
        .route("/", get(status::page))
        .route("/status.json", get(status::json))
        .route("/mi", post(mi))
        .route("/metrics", get(metrics_page))
        .route("/events", get(events::stream))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .layer(middleware::map_response(harden))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

/// What is true of every answer: it is of this moment, and it is what it says it is.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn readyz(State(app): State<App>) -> Response {
    if app.control.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    }
}

async fn metrics_page(State(app): State<App>) -> Response {
    match app.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        // Writing to a string does not fail.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn mi(State(app): State<App>, request: Request) -> Response {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json is needed\n").into_response();
    }
    let body = match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        // Too large, or broken off.
        Ok(Err(refused)) => return refused.into_response(),
        Err(_) => {
            let close = [(CONNECTION, "close")];
            return (StatusCode::REQUEST_TIMEOUT, close, "the request's body did not come in time\n")
                .into_response();
        }
    };
    match mi::answer(&app.control, &body).await {
        Some(answer) => axum::Json(answer).into_response(),
        // Notifications only.
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Interface;

    #[tokio::test]
    async fn readiness_ends_when_the_relay_begins_to_stop() {
        let interface = Interface::start().await;
        let mut client = interface.connect(1024);
        let mut ask = async |path: &str| {
            client.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            client.until("\n\r\n").await + &client.until("\n").await
        };
        assert!(ask("/readyz").await.starts_with("HTTP/1.1 200 "));
        interface.server.stop(std::future::ready(())).await;
        let answer = ask("/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("draining\n"), "{answer}");
        // It lives on until it has stopped.
        assert!(ask("/healthz").await.starts_with("HTTP/1.1 200 "));
    }
}
