//! `auth`: who may obtain a session, and for how long.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use msrp_proto::digest::{Algorithm, Ha1, MIN_SECRET_LEN};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use self::database::FileDatabase;
use self::ephemeral::FileEphemeral;
use super::error::KeyPath;
use super::form;
use super::value::{FileSecret, Host, Secret, count, duration, from_text, read_text};
use super::{Check, UserLimits};
use crate::credentials::{CredentialChain, Credentials, Database, HtdigestFile, UserTable};

pub use self::database::{CredentialCache, DatabaseSettings, LimitColumns};
pub use self::throttle::Throttle;

mod database;
mod ephemeral;
mod throttle;

/// The largest htdigest file: a few hundred thousand users. More belong in a database.
const MAX_HTDIGEST_FILE: u64 = 64 * 1024 * 1024;

/// The authentication settings.
#[derive(Debug, Clone)]
pub struct Auth {
    /// The digest realm. Default: `domain`.
    pub realm: String,
    /// Whether AUTH is accepted over plain TCP, where everyone on the way reads along. Default false, for trying
    /// out only (RFC 4976 §5.1 wants TLS).
    pub allow_auth_without_tls: bool,
    /// How long a nonce is good for. Default 30 s: one challenge and its answer over a poor network.
    pub nonce_expire: Duration,
    /// What nonces are made from. Several relays that serve the same clients share it; without it, each process
    /// draws its own.
    pub nonce_secret: Option<Secret>,
    /// How long a session lasts.
    pub expires: Expires,
    /// The algorithms offered, one challenge each, in this order; never empty. Default MD5 alone, the one that
    /// the clients in the field know.
    pub algorithms: Vec<Algorithm>,
    /// Failed AUTHs on one connection until it is closed (RFC 4976 §6.1). Default 5.
    pub max_failures: usize,
    /// How those are slowed down who try passwords.
    pub throttle: Throttle,
    /// Where passwords come from: the users of this file, `htdigest`, `ephemeral`, `database`, in that order.
    pub credentials: CredentialChain,
    /// The database among them, for the commands that write to it.
    pub database: Option<DatabaseSettings>,
}

/// How long a session lasts: what the client asks for with `Expires`, within limits (RFC 4976 §4.6).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Expires {
    /// For a client that does not ask. Default 30 min.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub default: Duration,
    /// The shortest granted; less is answered 423 with `Min-Expires`. Default 60 s.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub min: Duration,
    /// The longest granted; more is answered 423 with `Max-Expires`. Default 1 h.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    pub max: Duration,
}

impl Default for Expires {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Self { default: minutes(30), min: minutes(1), max: minutes(60) }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FileAuth {
    /// The realm of Digest. Hashes of passwords are made for one realm. Default: `domain`.
    realm: Option<String>,
    /// Whether AUTH is served over plain TCP, where everyone on the way reads along. For trying out.
    allow_auth_without_tls: bool,
    /// How long a challenge may be answered.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "form::Duration")]
    nonce_expire: Duration,
    /// What nonces are made from, 16 bytes or more. Several relays for the same clients share one. Default: drawn
    /// at start.
    #[schemars(with = "form::Secret")]
    nonce_secret: Option<FileSecret>,
    /// How long a session lasts: what the client asks for with `Expires`, within limits (RFC 4976 §4.6).
    expires: Expires,
    /// The challenges offered, in order; each once. Many clients know MD5 only.
    #[schemars(with = "Vec<form::DigestAlgorithm>", extend("default" = ["MD5"]))]
    algorithms: Option<Vec<FileAlgorithm>>,
    /// Failed AUTHs until the connection is closed.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "form::Count")]
    max_failures: usize,
    /// Users by their names. Each has `password`, or hashes, or both hashes.
    users: BTreeMap<String, FileUser>,
    /// A file of users as Apache's `htdigest` makes it, asked after `users`.
    #[schemars(with = "form::Path")]
    htdigest: Option<PathBuf>,
    /// Credentials that a web application makes for its users, as for TURN servers: user name `EXPIRY:USER`,
    /// password base64 of the HMAC of that name. Asked next.
    ephemeral: Option<FileEphemeral>,
    /// A database of users, with the table of OpenSIPS and Kamailio. Asked last. `msrp-relay user` writes to it.
    database: Option<FileDatabase>,
    /// How an address that keeps failing for a user is slowed down. It concerns that pair alone: others from there,
    /// and that user from elsewhere, notice nothing.
    throttle: Throttle,
}

impl Default for FileAuth {
    fn default() -> Self {
        Self {
            realm: None,
            allow_auth_without_tls: false,
            nonce_expire: Duration::from_secs(30),
            nonce_secret: None,
            expires: Expires::default(),
            algorithms: None,
            max_failures: 5,
            users: BTreeMap::new(),
            htdigest: None,
            ephemeral: None,
            database: None,
            throttle: Throttle::default(),
        }
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct FileUser {
    /// The password.
    #[schemars(with = "form::Secret")]
    password: Option<FileSecret>,
    /// The MD5 hash of `user:realm:password`, 32 hexadecimal digits.
    #[schemars(with = "form::Secret")]
    ha1: Option<FileSecret>,
    /// The SHA-256 hash of `user:realm:password`, 64 hexadecimal digits.
    #[schemars(with = "form::Secret")]
    ha1_sha256: Option<FileSecret>,
    /// As [`limits.user`](#limitsuser), for this user.
    #[schemars(extend("x-as" = "limits.user"))]
    limits: UserLimits,
}

#[derive(Debug, Clone, Copy)]
struct FileAlgorithm(Algorithm);

impl FromStr for FileAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("`{text}` is not an algorithm served here, those are MD5, SHA-256 and SHA-512-256")
        })
    }
}

impl<'de> Deserialize<'de> for FileAlgorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a digest algorithm, such as `MD5`")
    }
}

impl FileAuth {
    pub(super) fn validate(self, domain: &Host, check: &mut Check<'_>) -> Auth {
        let path = KeyPath::new(&["auth"]);
        let realm = self.realm.unwrap_or_else(|| domain.to_string());
        if realm.is_empty() || realm.contains(['"', '\\']) || realm.contains(char::is_control) {
            check.error(
                path.clone().key("realm"),
                "is text without quotes, backslashes and control characters",
            );
        }
        let nonce_secret = self.nonce_secret.and_then(|secret| {
            let path = path.clone().key("nonce_secret");
            let secret = check.secret(secret, &path)?;
            if secret.reveal().len() < MIN_SECRET_LEN {
                check.error(path, format!("is shorter than {MIN_SECRET_LEN} bytes"));
            }
            Some(secret)
        });
        check_expires(&self.expires, &path.clone().key("expires"), check);
        let explicit = self.algorithms.is_some();
        let algorithms = self.algorithms.map(|list| list.into_iter().map(|FileAlgorithm(alg)| alg).collect());
        let algorithms = validate_algorithms(algorithms, &path, check);

        let mut credentials = CredentialChain::default();
        if !self.users.is_empty() {
            let users = validate_users(self.users, &realm, &path.clone().key("users"), check);
            warn_unserved(&users, "auth.users", explicit, &algorithms, &path, check);
            credentials.push(Arc::new(users));
        }
        if let Some(file) = self.htdigest {
            let path = path.clone().key("htdigest");
            if let Some(users) = load_htdigest(&file, &realm, &path, check) {
                let name = file.display().to_string();
                warn_unserved(&users, &name, explicit, &algorithms, &KeyPath::new(&["auth"]), check);
                credentials.push(Arc::new(users));
            }
        }
        if let Some(ephemeral) = self.ephemeral
            && let Some(ephemeral) = ephemeral.validate(&path.clone().key("ephemeral"), check)
        {
            credentials.push(Arc::new(ephemeral));
        }
        let database = self
            .database
            .and_then(|database| database.validate(&algorithms, &path.clone().key("database"), check));
        if let Some(settings) = &database {
            credentials.push(Arc::new(Database::new(settings.clone())));
        }
        self.throttle.validate(&path.clone().key("throttle"), check);
        if let Some(database) = &database {
            self.throttle.check_database(database, &path.clone().key("database"), check);
        }
        if credentials.is_empty() {
            let message = "has no `users`, `htdigest`, `ephemeral` or `database`: every AUTH will be refused";
            check.warn(path, message);
        }

        Auth {
            realm,
            allow_auth_without_tls: self.allow_auth_without_tls,
            nonce_expire: self.nonce_expire,
            nonce_secret,
            expires: self.expires,
            algorithms,
            max_failures: self.max_failures,
            throttle: self.throttle,
            credentials,
            database,
        }
    }
}

fn check_expires(expires: &Expires, path: &KeyPath, check: &mut Check<'_>) {
    let Expires { default, min, max } = *expires;
    if min > max {
        check.error(path.clone().key("min"), "is longer than `max`");
    } else if default < min {
        check.error(path.clone().key("default"), "is shorter than `min`");
    } else if default > max {
        check.error(path.clone().key("default"), "is longer than `max`");
    }
    // `Expires` counts seconds (RFC 4976 §4.6).
    for (key, duration) in [("default", default), ("min", min), ("max", max)] {
        if duration.subsec_nanos() != 0 {
            check.error(path.clone().key(key), "is not in whole seconds, which is how MSRP counts");
        }
    }
}

fn validate_algorithms(
    list: Option<Vec<Algorithm>>,
    path: &KeyPath,
    check: &mut Check<'_>,
) -> Vec<Algorithm> {
    let Some(list) = list else { return vec![Algorithm::Md5] };
    let path = path.clone().key("algorithms");
    if list.is_empty() {
        check.error(path.clone(), "is empty: leave the key out for MD5");
    }
    for (index, algorithm) in list.iter().enumerate() {
        if list[..index].contains(algorithm) {
            check.error(path.clone().index(index), format!("{} is listed twice", algorithm.as_str()));
        }
    }
    list
}

fn validate_users(
    users: BTreeMap<String, FileUser>,
    realm: &str,
    path: &KeyPath,
    check: &mut Check<'_>,
) -> UserTable {
    let mut table = UserTable::default();
    for (name, user) in users {
        let path = path.clone().key(&name);
        if name.is_empty() || name.contains([':', '"', '\\']) || name.contains(char::is_control) {
            check
                .error_at_key(path.clone(), "a user name is text without `:`, quotes and control characters");
        }
        if user.password.is_some() && (user.ha1.is_some() || user.ha1_sha256.is_some()) {
            check.error(
                path.clone().key("password"),
                "is not given beside `ha1` or `ha1_sha256`: which one counts?",
            );
            continue;
        }
        if user.password.is_none() && user.ha1.is_none() && user.ha1_sha256.is_none() {
            check.error_at_key(path.clone(), "needs `password`, `ha1` or `ha1_sha256`");
        }
        if let Some(password) = user.password
            && let Some(password) = check.secret(password, &path.clone().key("password"))
        {
            table.insert_password(realm, &name, password.reveal());
        }
        user.limits.validate(&path.clone().key("limits"), check);
        table.insert_limits(realm, &name, user.limits);
        for (key, secret, algorithm) in
            [("ha1", user.ha1, Algorithm::Md5), ("ha1_sha256", user.ha1_sha256, Algorithm::Sha256)]
        {
            let path = path.clone().key(key);
            let Some(hex) = secret.and_then(|secret| check.secret(secret, &path)) else { continue };
            match Ha1::from_hex(algorithm, hex.reveal()) {
                Ok(ha1) => table.insert(realm, &name, algorithm, ha1),
                Err(_) => check.error(path, format!("is not {} hex digits", algorithm.hex_len())),
            }
        }
    }
    table
}

fn load_htdigest(file: &PathBuf, realm: &str, path: &KeyPath, check: &mut Check<'_>) -> Option<UserTable> {
    let full = check.base_dir.join(file);
    let parsed = read_text(&full, MAX_HTDIGEST_FILE).and_then(|text| {
        check.read_file(path, &text);
        HtdigestFile::parse(&text).map_err(|err| format!("{}:{}: {}", full.display(), err.line, err.reason))
    });
    match parsed {
        Ok(HtdigestFile { users }) => {
            if users.users_in(realm) == 0 {
                check.warn(path.clone(), format!("{} has no user of the realm `{realm}`", full.display()));
            }
            Some(users)
        }
        Err(message) => {
            check.error(path.clone(), message);
            None
        }
    }
}

/// An algorithm that is offered but that not every user of a source can answer.
fn warn_unserved(
    source: &UserTable,
    name: &str,
    explicit: bool,
    algorithms: &[Algorithm],
    auth: &KeyPath,
    check: &mut Check<'_>,
) {
    let path = if explicit { auth.clone().key("algorithms") } else { auth.clone() };
    for algorithm in algorithms.iter().filter(|algorithm| !source.supports(**algorithm)) {
        let algorithm = algorithm.as_str();
        let message = format!("{algorithm} is offered, but {name} has users without a hash for it");
        check.warn(path.clone(), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_named_as_in_digest_headers() {
        for (text, algorithm) in
            [("MD5", Algorithm::Md5), ("sha-256", Algorithm::Sha256), ("SHA-512-256", Algorithm::Sha512_256)]
        {
            assert_eq!(text.parse::<FileAlgorithm>().unwrap().0.as_str(), algorithm.as_str());
        }
        assert!("MD5-sess".parse::<FileAlgorithm>().is_err());
    }
}
