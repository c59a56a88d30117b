//! The file that Apache's `htdigest` writes: `user:realm:hash` lines.

use std::collections::HashMap;

use msrp_proto::digest::{Algorithm, Ha1};

use super::UserTable;

/// A line that is no user. Its hash is not quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct HtdigestError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// The users of an htdigest file. `htdigest` writes MD5 hashes; a hash of 64 digits is taken as SHA-256, and a
/// user may have both. Empty lines, and lines that begin with `#`, are skipped.
#[derive(Debug, Clone, Default)]
pub struct HtdigestFile {
    /// The users, of every realm in the file.
    pub users: UserTable,
}

impl HtdigestFile {
    /// Reads the content of such a file.
    pub fn parse(text: &str) -> Result<Self, HtdigestError> {
        let mut users = UserTable::default();
        let mut first_line = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let error = |reason: String| HtdigestError { line: number, reason };
            let (user, realm, algorithm, ha1) =
                parse_line(line).map_err(|reason| error(reason.to_owned()))?;
            if let Some(first) = first_line.insert((user, realm, algorithm.as_str()), number) {
                return Err(error(format!("`{user}` of the realm `{realm}` is already on line {first}")));
            }
            users.insert(realm, user, algorithm, ha1);
        }
        Ok(Self { users })
    }
}

fn parse_line(line: &str) -> Result<(&str, &str, Algorithm, Ha1), &'static str> {
    // The realm may hold colons, the user and the hash do not.
    let fields = line.split_once(':').and_then(|(user, rest)| Some((user, rest.rsplit_once(':')?)));
    let Some((user, (realm, hash))) = fields else { return Err("is not `user:realm:hash`") };
    if user.is_empty() || realm.is_empty() {
        return Err("has an empty user or realm");
    }
    let hash = hash.trim_end();
    let algorithm = match hash.len() {
        32 => Algorithm::Md5,
        64 => Algorithm::Sha256,
        _ => return Err("has a hash that is neither 32 (MD5) nor 64 (SHA-256) hex digits"),
    };
    let ha1 = Ha1::from_hex(algorithm, hash).map_err(|_| "has a hash that is not made of hex digits")?;
    Ok((user, realm, algorithm, ha1))
}

#[cfg(test)]
mod tests {
    use super::super::Credentials;
    use super::*;

    #[test]
    fn users_are_read_with_comments_blank_lines_and_either_hash() {
        let (md5, sha256) = ("a1".repeat(16), "B2".repeat(32));
        let text = format!(
            "# users\n\nalice:relay.test:{md5}\r\nalice:relay.test:{sha256}\n  \nbob:other:8080:{md5}\ncarol:r:{md5}"
        );
        let HtdigestFile { users } = HtdigestFile::parse(&text).unwrap();
        assert_eq!(
            (users.users_in("relay.test"), users.users_in("other:8080"), users.users_in("none")),
            (1, 1, 0)
        );
        let expected = Ha1::from_hex(Algorithm::Md5, &md5).unwrap();
        assert!(
            users
                .ha1("alice", "relay.test", Algorithm::Md5)
                .is_some_and(|ha1| ha1.as_hex() == expected.as_hex())
        );
        assert!(users.ha1("alice", "relay.test", Algorithm::Sha256).is_some());
        assert!(users.ha1("carol", "r", Algorithm::Md5).is_some());
        assert!(users.ha1("Carol", "r", Algorithm::Md5).is_none());
        assert!(users.supports(Algorithm::Md5) && !users.supports(Algorithm::Sha256));
    }

    #[test]
    fn an_entry_made_by_htdigest_is_the_hash_of_its_password() {
        // `htdigest -c FILE relay.test alice`, password `alicepw`.
        let hash = Ha1::from_password(Algorithm::Md5, "alice", "relay.test", "alicepw");
        let line = "alice:relay.test:96bdcbf245e83503b762a2b6b977b630";
        let HtdigestFile { users } = HtdigestFile::parse(line).unwrap();
        assert!(
            users.ha1("alice", "relay.test", Algorithm::Md5).is_some_and(|ha1| ha1.as_hex() == hash.as_hex())
        );
    }

    #[test]
    fn a_malformed_line_is_an_error_with_its_number_and_without_its_hash() {
        let md5 = "a1".repeat(16);
        for bad in [
            "alice".to_owned(),
            format!("alice:{md5}"),
            format!(":realm:{md5}"),
            format!("alice::{md5}"),
            format!("alice:realm:{md5}0"),
            format!("alice:realm:{}", "g1".repeat(16)),
            format!("alice:realm:{}", "é1".repeat(16)),
            "alice:realm:".to_owned(),
        ] {
            let err = HtdigestFile::parse(&format!("ok:realm:{md5}\n#\n{bad}\n")).unwrap_err();
            assert_eq!(err.line, 3, "{bad}");
            assert!(!err.to_string().contains("a1a1"), "{err}");
        }
        let err = HtdigestFile::parse(&format!("a:r:{md5}\na:r:{md5}")).unwrap_err();
        assert_eq!(err.to_string(), "line 2: `a` of the realm `r` is already on line 1");
    }
}
