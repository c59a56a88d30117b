//! Tokens that a web application gives its users: JSON Web Tokens with a shared secret (RFC 7519).

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use crate::config::TokenAuth;

/// Seconds that the clocks of the web application and the relay may differ.
const LEEWAY: u64 = 5;

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

/// The user whose token this is.
///
/// # Errors
/// Why it proves nothing.
pub(super) fn user(settings: &TokenAuth, token: &str) -> Result<String, String> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "sub"]);
    match &settings.audience {
        Some(audience) => {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        None => validation.validate_aud = false,
    }
    let key = DecodingKey::from_secret(settings.secret.reveal().as_bytes());
    let Claims { sub } =
        decode::<Claims>(token, &key, &validation).map_err(|error| error.to_string())?.claims;
    // It goes into logs and records, and is compared with user names of the digest.
    if sub.is_empty() || sub.len() > 256 || sub.contains(char::is_control) {
        return Err("`sub` is no user name".to_owned());
    }
    Ok(sub)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;
    use crate::config::Secret;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn settings(audience: Option<&str>) -> TokenAuth {
        TokenAuth {
            secret: Secret::new(SECRET),
            cookie: None,
            query: None,
            audience: audience.map(str::to_owned),
        }
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn token(algorithm: Algorithm, secret: &str, claims: &serde_json::Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn a_token_names_its_user() {
        let good = json!({ "sub": "alice", "exp": now() + 60, "aud": "anything" });
        assert_eq!(user(&settings(None), &token(Algorithm::HS256, SECRET, &good)).unwrap(), "alice");
        let named = json!({ "sub": "alice", "exp": now() + 60, "aud": ["web", "msrp"] });
        assert_eq!(user(&settings(Some("msrp")), &token(Algorithm::HS256, SECRET, &named)).unwrap(), "alice");
    }

    #[test]
    fn anything_less_proves_nothing() {
        let later = now() + 60;
        for (what, claims) in [
            ("no end", json!({ "sub": "alice" })),
            ("over", json!({ "sub": "alice", "exp": now() - LEEWAY - 5 })),
            ("not yet", json!({ "sub": "alice", "exp": later, "nbf": later })),
            ("nobody", json!({ "exp": later })),
            ("no name", json!({ "sub": "", "exp": later })),
            ("a name with a line break", json!({ "sub": "alice\nbob", "exp": later })),
            ("a long name", json!({ "sub": "a".repeat(257), "exp": later })),
        ] {
            assert!(user(&settings(None), &token(Algorithm::HS256, SECRET, &claims)).is_err(), "{what}");
        }
        let good = json!({ "sub": "alice", "exp": later });
        assert!(user(&settings(None), &token(Algorithm::HS256, &"x".repeat(32), &good)).is_err());
        assert!(user(&settings(None), &token(Algorithm::HS512, SECRET, &good)).is_err());
        assert!(user(&settings(Some("msrp")), &token(Algorithm::HS256, SECRET, &good)).is_err());
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
        for text in ["", ".", "..", unsigned, "a.b.c"] {
            assert!(user(&settings(None), text).is_err(), "{text}");
        }
    }
}
