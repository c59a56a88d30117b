//! Who may use the admin interface: see [`super`]. Of each kind of refusal there is a line a minute in the log, which says
//! how many there were: neither a page nor whoever tries tokens fills it.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;
use tracing::warn;

use super::http::App;
use crate::config::{Admin, Host, HostPort, Secret};
use crate::server::occasion::Occasion;

/// How much of a path is logged.
const MAX_SHOWN: usize = 100;

/// What is asked of each request.
pub(super) struct Guard {
    token: Option<Box<str>>,
    hosts: Vec<Host>,
    wrong_name: Occasion,
    wrong_origin: Occasion,
    wrong_token: Occasion,
}

impl Guard {
    pub(super) fn new(settings: &Admin) -> Self {
        Self {
            token: settings.token.as_ref().map(|token| token.reveal().into()),
            hosts: settings.allow_hosts.clone(),
            wrong_name: Occasion::default(),
            wrong_origin: Occasion::default(),
            wrong_token: Occasion::default(),
        }
    }

    /// Whether the request calls us by a name of ours. One without a name is no browser's.
    /// `now` are the settings as they were last read.
    fn knows(&self, headers: &HeaderMap, now: Option<&Admin>) -> bool {
        let Some(host) = headers.get(HOST) else { return true };
        let Some(HostPort { host, .. }) = host.to_str().ok().and_then(|host| host.parse().ok()) else {
            return false;
        };
        let hosts = now.map_or(&self.hosts, |now| &now.allow_hosts);
        match &host {
            Host::Ip(_) => true,
            Host::Name(name) => {
                name.eq_ignore_ascii_case("localhost")
                    || hosts.iter().any(|known| known.to_string().eq_ignore_ascii_case(name))
            }
        }
    }

    /// The last token that was in the settings is asked for until the relay starts again (see `server::reload`): what was
    /// listened on with it is not open to all.
    fn admits(&self, headers: &HeaderMap, now: Option<&Admin>) -> bool {
        let now = now.and_then(|now| now.token.as_ref()).map(Secret::reveal);
        let Some(token) = now.or(self.token.as_deref()) else { return true };
        let Some(given) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, value)) = given.split_once(' ') else { return false };
        let is_token = |text: &[u8]| bool::from(text.ct_eq(token.as_bytes()));
        if scheme.eq_ignore_ascii_case("bearer") {
            return is_token(value.trim().as_bytes());
        }
        let decoded =
            scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(value.trim()).ok()).flatten();
        let Some(decoded) = decoded else { return false };
        decoded.iter().position(|byte| *byte == b':').is_some_and(|colon| is_token(&decoded[colon + 1..]))
    }
}

/// Whether a request comes from a page of our own, or from no page.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    // To follow a link to the page is no harm: who has put it there sees nothing of the answer.
    let follows_link = is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    // `same-site` is another page, too: of another port of this machine, or of a neighbour in the domain.
    if (is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site")) && !follows_link {
        return false;
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let host = headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let origin = origin.as_bytes();
    let stripped = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    stripped.is_some_and(|origin| !host.is_empty() && origin.eq_ignore_ascii_case(host))
}

/// Lets a request pass, or answers it.
pub(super) async fn check(State(app): State<App>, request: Request<Body>, next: Next) -> Response {
    let headers = request.headers();
    let path = request.uri().path();
    let shown = || path.chars().take(MAX_SHOWN).collect::<String>();
    let guard = &app.guard;
    let now = app.control.now();
    let config = app.control.config();
    let current = config.admin.as_ref();
    if !guard.knows(headers, current) {
        if let Some(unsaid) = guard.wrong_name.happens(now) {
            let (path, host) = (shown(), headers.get(HOST));
            warn!(
                path,
                ?host,
                unsaid,
                "admin request refused: it calls us by a name that is not in `admin.allow_hosts`"
            );
        }
        return (StatusCode::MISDIRECTED_REQUEST, "not a name of this admin interface\n").into_response();
    }
    if !is_same_origin(headers) {
        if let Some(unsaid) = guard.wrong_origin.happens(now) {
            let (path, origin) = (shown(), headers.get(ORIGIN));
            warn!(path, ?origin, unsaid, "admin request refused: it comes from a page of another origin");
        }
        return (StatusCode::FORBIDDEN, "not from another origin\n").into_response();
    }
    if !matches!(path, "/healthz" | "/readyz") && !guard.admits(headers, current) {
        if headers.contains_key(AUTHORIZATION)
            && let Some(unsaid) = guard.wrong_token.happens(now)
        {
            warn!(path = shown(), unsaid, "admin request refused: wrong token");
        }
        let challenges = [
            (WWW_AUTHENTICATE, r#"Bearer realm="msrp-relay""#),
            (WWW_AUTHENTICATE, r#"Basic realm="msrp-relay""#),
        ];
        let mut response = (StatusCode::UNAUTHORIZED, "a token is needed\n").into_response();
        for (name, value) in challenges {
            response.headers_mut().append(name, HeaderValue::from_static(value));
        }
        return response;
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>) -> Guard {
        Guard::new(&Admin {
            listen: Vec::new(),
            token: token.map(Secret::new),
            socket_mode: 0o600,
            allow_hosts: vec!["relay.example.com".parse().unwrap()],
        })
    }

    fn headers(pairs: &[(axum::http::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_token_comes_as_bearer_or_as_a_password() {
        let guard = guard(Some("0123456789abcdef"));
        let admits = |value: &str| guard.admits(&headers(&[(AUTHORIZATION, value)]), None);
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert!(admits("Bearer 0123456789abcdef") && admits("bearer  0123456789abcdef"));
        assert!(admits(&basic("admin:0123456789abcdef")) && admits(&basic(":0123456789abcdef")));
        for wrong in
            ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "Bearer ", "0123456789abcdef", "Digest x"]
        {
            assert!(!admits(wrong), "{wrong}");
        }
        assert!(
            !admits(&basic("0123456789abcdef:")) && !admits(&basic("0123456789abcdef")) && !admits("Basic %")
        );
        assert!(!guard.admits(&HeaderMap::new(), None));
        assert!(self::guard(None).admits(&HeaderMap::new(), None));
    }

    #[test]
    fn it_answers_to_its_own_names_only() {
        let guard = guard(None);
        let knows = |host: &str| guard.knows(&headers(&[(HOST, host)]), None);
        for known in
            ["127.0.0.1:8088", "[::1]:8088", "localhost", "LOCALHOST:1", "relay.example.com:80", "192.0.2.1"]
        {
            assert!(knows(known), "{known}");
        }
        for unknown in ["evil.example:8088", "relay.example.com.evil.example", "a b", ""] {
            assert!(!knows(unknown), "{unknown}");
        }
        assert!(guard.knows(&HeaderMap::new(), None));
    }

    #[test]
    fn pages_of_other_origins_are_kept_out() {
        let same = |origin: &str| is_same_origin(&headers(&[(HOST, "127.0.0.1:8088"), (ORIGIN, origin)]));
        assert!(same("http://127.0.0.1:8088") && same("https://127.0.0.1:8088"));
        for other in [
            "http://127.0.0.1:8089",
            "http://evil.example",
            "null",
            "127.0.0.1:8088",
            "file://127.0.0.1:8088",
        ] {
            assert!(!same(other), "{other}");
        }
        assert!(is_same_origin(&headers(&[(HOST, "127.0.0.1:8088")])));
        assert!(!is_same_origin(&headers(&[(ORIGIN, "http://")])));
        let fetched = |site: &str, mode: &str, dest: &str| {
            let names = ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"];
            let names = names.map(axum::http::HeaderName::from_static).into_iter();
            is_same_origin(&headers(&names.zip([site, mode, dest]).collect::<Vec<_>>()))
        };
        for own in ["same-origin", "none"] {
            assert!(fetched(own, "cors", "empty"), "{own}");
        }
        for other in ["cross-site", "same-site"] {
            assert!(!fetched(other, "no-cors", "image") && !fetched(other, "cors", "empty"), "{other}");
            assert!(!fetched(other, "navigate", "iframe"), "{other}");
            assert!(fetched(other, "navigate", "document"), "{other}");
        }
    }
}
