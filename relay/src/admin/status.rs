//! `GET /`: the status page, and `GET /status.json`, which it draws.
//!
//! The page is one file with its style and script in it. Its policy permits these two by their hashes, requests to this
//! interface, and nothing else: no form, no frame around it, no other host. It only reads.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::history::History;
use super::http::App;
use super::mi;
use super::statistics::{self, Family, Kind, unix_seconds};
use crate::server::Control;

const PAGE: &str = include_str!("status/page.html");

/// What browsers let the page do.
pub(super) fn policy() -> String {
    let hashes = |element: &str| {
        let hash = inside(element).map(|text| STANDARD.encode(Sha256::digest(text)));
        hash.map_or_else(|| "'none'".to_owned(), |hash| format!("'sha256-{hash}'"))
    };
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hashes("style"),
        hashes("script")
    )
}

/// The text of the page's only element of that name.
fn inside(element: &str) -> Option<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("<{element}>"))?;
    Some(rest.split_once(&format!("</{element}>"))?.0)
}

pub(super) async fn page(State(app): State<App>) -> Response {
    const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, app.page_policy.clone()),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (PERMISSIONS_POLICY, HeaderValue::from_static("camera=(), geolocation=(), microphone=()")),
    ];
    (headers, PAGE).into_response()
}

pub(super) async fn json(State(app): State<App>) -> Response {
    let history = app.history.lock().to_json();
    // It reads /proc.
    let control = Arc::clone(&app.control);
    match tokio::task::spawn_blocking(move || status(&control, &history)).await {
        Ok(status) => axum::Json(status).into_response(),
        Err(_) => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// All that the page shows.
fn status(control: &Control, history: &Value) -> Value {
    let (now, started) = (SystemTime::now(), control.started());
    let listeners = control.addresses().into_iter();
    let listeners: Value = listeners.map(|(scheme, address)| format!("{scheme}://{address}")).collect();
    let families = statistics::collect(control);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "domain": control.config().domain.to_string(),
        "pid": std::process::id(),
        "ready": control.is_ready(),
        "drain": mi::lifecycle::shown(control),
        "older_processes": mi::lifecycle::older(control),
        "time": unix_seconds(now).round(),
        "started": unix_seconds(started.time).round(),
        "uptime_seconds": control.now().saturating_duration_since(started.at).as_secs(),
        "listeners": listeners,
        "expiry_warning_seconds": control.expiry_warning().as_secs(),
        "history": history,
        "statistics": families.iter().map(family).collect::<Vec<_>>(),
    })
}

fn family(family: &Family) -> Value {
    let sample = |sample: &statistics::Sample| {
        let labels: serde_json::Map<_, _> =
            sample.labels.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        json!({ "labels": labels, "value": sample.value.to_json() })
    };
    json!({
        "group": family.group,
        "name": family.short,
        "metric": family.exported_name(),
        "help": family.help,
        "unit": family.unit,
        "kind": match family.kind { Kind::Counter => "counter", Kind::Gauge => "gauge" },
        "samples": family.samples.iter().map(sample).collect::<Vec<_>>(),
    })
}

/// The samples of the last minutes, taken until it is dropped.
pub(super) async fn sample(control: Arc<Control>, history: Arc<parking_lot::Mutex<History>>) {
    let mut ticks = tokio::time::interval(super::history::INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = super::history::Sample::of(&control);
        history.lock().push(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nobody_else_and_is_permitted_nothing_else() {
        for element in ["style", "script"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(inside(element).is_some_and(|text| text.len() > 1000), "{element}");
        }
        // `style="…"` and `onclick="…"` would be refused by the policy.
        let (markup, script) = (PAGE.replace(inside("script").unwrap(), ""), inside("script").unwrap());
        let refused = |word: &str| word.starts_with("style=") || word.starts_with("on") && word.contains('=');
        assert!(!markup.split_whitespace().any(refused), "attributes that the policy refuses");
        for unsafe_way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"] {
            assert!(!script.contains(unsafe_way), "{unsafe_way}");
        }
        let without_namespace = PAGE.replace("http://www.w3.org/2000/svg", "");
        assert!(!without_namespace.contains("://"), "an address of somebody else");
        let policy = policy();
        assert_eq!(policy.matches("'sha256-").count(), 2);
        assert!(!policy.contains("unsafe") && !policy.contains('*'));
    }
}
