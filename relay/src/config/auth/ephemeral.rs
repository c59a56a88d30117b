//! `auth.ephemeral`: the secret that a web back end makes its users' credentials with.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::config::Check;
use crate::config::error::KeyPath;
use crate::config::form;
use crate::config::value::{FileSecret, from_text};
use crate::credentials::{Ephemeral, EphemeralAlgorithm};

/// The shortest secret. Whoever guesses it is every user.
const MIN_SECRET: usize = 16;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct FileEphemeral {
    /// What the web application and the relay share, 16 bytes or more.
    #[schemars(with = "form::Secret")]
    secret: FileSecret,
    /// Good too, while one is replaced by the other.
    #[serde(default)]
    #[schemars(with = "form::Secret")]
    other_secret: Option<FileSecret>,
    /// The hash of the HMAC.
    #[serde(default)]
    #[schemars(with = "form::HmacAlgorithm", extend("default" = "sha1"))]
    algorithm: FileAlgorithm,
}

#[derive(Debug, Clone, Copy, Default)]
struct FileAlgorithm(EphemeralAlgorithm);

impl FromStr for FileAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "sha1" | "sha-1" => Ok(Self(EphemeralAlgorithm::Sha1)),
            "sha256" | "sha-256" => Ok(Self(EphemeralAlgorithm::Sha256)),
            _ => Err(format!("`{text}` is not an algorithm served here, those are sha1 and sha256")),
        }
    }
}

impl<'de> Deserialize<'de> for FileAlgorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "`sha1` or `sha256`")
    }
}

impl FileEphemeral {
    pub(super) fn validate(self, path: &KeyPath, check: &mut Check<'_>) -> Option<Ephemeral> {
        let mut load = |secret: FileSecret, key: &str| {
            let path = path.clone().key(key);
            let secret = check.secret(secret, &path)?;
            if secret.reveal().len() < MIN_SECRET {
                check.error(path, format!("is shorter than {MIN_SECRET} bytes"));
                return None;
            }
            Some(secret)
        };
        let secret = load(self.secret, "secret");
        let other = self.other_secret.map(|other| load(other, "other_secret"));
        let FileAlgorithm(algorithm) = self.algorithm;
        Some(Ephemeral::new(algorithm, secret?, other.flatten()))
    }
}
