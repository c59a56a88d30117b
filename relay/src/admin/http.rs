//! The paths of the admin interface.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::guard::{self, Guard};
use super::history::History;
use super::metrics::{self, Metrics};
use super::{MAX_BODY, events, mi, status};
use crate::config::Admin;
use crate::server::Control;

/// What requests are answered from. Clones mean the same.
#[derive(Clone)]
pub(super) struct App {
    pub(super) control: Arc<Control>,
    pub(super) guard: Arc<Guard>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) history: Arc<Mutex<History>>,
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
    let app = App { control, guard, metrics, history, page_policy, stopped };
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

async fn mi(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Response {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json is needed\n").into_response();
    }
    match mi::answer(&app.control, &body).await {
        Some(answer) => axum::Json(answer).into_response(),
        // Notifications only.
        None => StatusCode::NO_CONTENT.into_response(),
    }
}
