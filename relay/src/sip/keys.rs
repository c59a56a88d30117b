//! What the edge signs: flow tokens, return tokens, branches, tags.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The shortest flow secret: 16 bytes.
pub const MIN_SECRET_LEN: usize = 16;

/// Bytes of a signature: 96 bits, more than RFC 5626 §5.2 takes.
const MAC_LEN: usize = 12;

const FLOW: u8 = 1;
const RETURN: u8 = 2;

/// Kind, instance, connection.
const FLOW_LEN: usize = 1 + 8 + 8;
/// Kind, instance, where from (party, upstream, connection), where to (party, connection).
const RETURN_LEN: usize = 1 + 8 + 1 + 2 + 8 + 1 + 8;

/// The flow secret is shorter than [`MIN_SECRET_LEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flow secret is shorter than {MIN_SECRET_LEN} bytes")]
pub struct ShortSecret;

/// The keys of one process.
#[derive(Clone)]
pub struct Keys {
    /// What tokens are signed with.
    tokens: Hmac<Sha256>,
    /// What they were signed with before.
    former: Option<Hmac<Sha256>>,
    /// For hashes that have to stay the same for as long as the process lives.
    hashes: Hmac<Sha256>,
    instance: [u8; 8],
    /// The secret was drawn for this process, and nobody else has it.
    drawn: bool,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(***)")
    }
}

/// Why a token is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadToken {
    /// This edge has not signed it.
    Forged,
    /// It was signed with this secret by another process, or before this one; or it may have been, as the secret was
    /// [drawn](Keys::drawn).
    OtherProcess,
}

/// Where a request came from, and so where its response goes; or that it is a probe of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Over this connection of a client.
    Client(u64),
    /// From this upstream, over this connection.
    Upstream(u16, u64),
    /// From ourselves: the probe of this upstream with this number.
    Probe(u16, u64),
}

/// Where a request went, and so where its response comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// Over this connection of a client.
    Client(u64),
    /// To an upstream, which may open a connection for its response (RFC 3261 §18.2.2).
    Upstream,
}

impl Keys {
    /// Keys from the flow secret, for the process with this number, which is drawn at random at its start.
    ///
    /// # Errors
    /// [`ShortSecret`]
    pub fn new(secret: &[u8], instance: u64) -> Result<Self, ShortSecret> {
        if secret.len() < MIN_SECRET_LEN {
            return Err(ShortSecret);
        }
        let mac = Hmac::new_from_slice(secret).map_err(|_| ShortSecret)?;
        let (tokens, former, hashes) = (mac.clone(), None, mac);
        Ok(Self { tokens, former, hashes, instance: instance.to_be_bytes(), drawn: false })
    }

    /// These with another secret, which signs from now on. Tokens that were signed with the one before are still taken,
    /// those of the one before that are not.
    ///
    /// # Errors
    /// [`ShortSecret`]
    pub fn renewed(&self, secret: &[u8]) -> Result<Self, ShortSecret> {
        let new = Self::new(secret, self.instance())?;
        Ok(Self { former: Some(self.tokens.clone()), hashes: self.hashes.clone(), ..new })
    }

    /// The secret was drawn at random for this process. Then nobody can tell a forged token from one of the process
    /// before, and what looks like the latter is taken for that: its flow is gone either way, and a registrar that is
    /// told so (430, RFC 5626 §5.3.1) forgets it.
    #[must_use]
    pub fn drawn(self) -> Self {
        Self { drawn: true, ..self }
    }

    /// The number of this process.
    pub(super) fn instance(&self) -> u64 {
        u64::from_be_bytes(self.instance)
    }

    /// A keyed hash of these parts, for the purpose that `label` names.
    pub(super) fn hash<'a>(&self, label: &str, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
        hash(&self.hashes, label, parts)
    }

    /// Appends the flow token of a connection.
    pub(super) fn write_flow(&self, connection: u64, out: &mut String) {
        let mut token = [0; FLOW_LEN + MAC_LEN];
        token[0] = FLOW;
        token[1..9].copy_from_slice(&self.instance);
        token[9..FLOW_LEN].copy_from_slice(&connection.to_be_bytes());
        let mac = hash(&self.tokens, "flow", [&token[..FLOW_LEN]]);
        token[FLOW_LEN..].copy_from_slice(&mac[..MAC_LEN]);
        URL_SAFE_NO_PAD.encode_string(token, out);
    }

    /// The connection a flow token names.
    pub(super) fn read_flow(&self, token: &[u8]) -> Result<u64, BadToken> {
        let bytes: [u8; FLOW_LEN + MAC_LEN] = decode(token).ok_or(BadToken::Forged)?;
        let (token, mac) = bytes.split_at(FLOW_LEN);
        if self.drawn && token[0] == FLOW && token[1..9] != self.instance {
            return Err(BadToken::OtherProcess);
        }
        self.verify("flow", &[token], mac)?;
        if token[0] != FLOW {
            return Err(BadToken::Forged);
        }
        if token[1..9] != self.instance {
            return Err(BadToken::OtherProcess);
        }
        Ok(number(&token[9..]))
    }

    /// Appends the return token of a request that goes out with this branch.
    pub(super) fn write_return(&self, came: Came, went: Went, branch: &[u8], out: &mut String) {
        let mut token = [0; RETURN_LEN + MAC_LEN];
        token[0] = RETURN;
        token[1..9].copy_from_slice(&self.instance);
        let (party, upstream, connection) = match came {
            Came::Client(connection) => (0, 0, connection),
            Came::Upstream(upstream, connection) => (1, upstream, connection),
            Came::Probe(upstream, sequence) => (2, upstream, sequence),
        };
        token[9] = party;
        token[10..12].copy_from_slice(&upstream.to_be_bytes());
        token[12..20].copy_from_slice(&connection.to_be_bytes());
        let (party, connection) = match went {
            Went::Client(connection) => (0, connection),
            Went::Upstream => (1, 0),
        };
        token[20] = party;
        token[21..RETURN_LEN].copy_from_slice(&connection.to_be_bytes());
        let mac = hash(&self.tokens, "return", [&token[..RETURN_LEN], branch]);
        token[RETURN_LEN..].copy_from_slice(&mac[..MAC_LEN]);
        URL_SAFE_NO_PAD.encode_string(token, out);
    }

    /// What a return token says.
    pub(super) fn read_return(&self, token: &[u8], branch: &[u8]) -> Result<(Came, Went), BadToken> {
        let bytes: [u8; RETURN_LEN + MAC_LEN] = decode(token).ok_or(BadToken::Forged)?;
        let (token, mac) = bytes.split_at(RETURN_LEN);
        self.verify("return", &[token, branch], mac)?;
        if token[0] != RETURN {
            return Err(BadToken::Forged);
        }
        if token[1..9] != self.instance {
            return Err(BadToken::OtherProcess);
        }
        let (upstream, connection) = (u16::from_be_bytes([token[10], token[11]]), number(&token[12..20]));
        let came = match token[9] {
            0 => Came::Client(connection),
            1 => Came::Upstream(upstream, connection),
            _ => Came::Probe(upstream, connection),
        };
        let went = if token[20] == 0 { Went::Client(number(&token[21..])) } else { Went::Upstream };
        Ok((came, went))
    }

    fn verify(&self, label: &str, parts: &[&[u8]], given: &[u8]) -> Result<(), BadToken> {
        let is_by = |mac: &Hmac<Sha256>| {
            let expected = hash(mac, label, parts.iter().copied());
            // Without a shortcut: the time it takes says nothing about the first byte that differs.
            let differ = expected[..MAC_LEN].iter().zip(given).fold(0, |differ, (a, b)| differ | (a ^ b));
            given.len() == MAC_LEN && differ == 0
        };
        let is_ours = is_by(&self.tokens) || self.former.as_ref().is_some_and(is_by);
        if is_ours { Ok(()) } else { Err(BadToken::Forged) }
    }
}

fn hash<'a>(mac: &Hmac<Sha256>, label: &str, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut mac = mac.clone();
    mac.update(label.as_bytes());
    for part in parts {
        // With its length, so that no byte can pass from one part into the next.
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn decode<const LEN: usize>(token: &[u8]) -> Option<[u8; LEN]> {
    // The decoder asks for room by its estimate, which may be more than there is.
    let mut bytes = [0; 64];
    let len = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
    (len == LEN).then(|| bytes[..LEN].try_into().ok())?
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Appends the first bytes of a hash in hexadecimal digits.
pub(super) fn write_hex(hash: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in hash {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn keys(secret: &[u8], instance: u64) -> Keys {
        Keys::new(secret, instance).unwrap()
    }

    const SECRET: &[u8] = b"0123456789abcdef";

    #[test]
    fn tokens_read_back_with_the_same_secret_in_the_same_process_alone() {
        let ours = keys(SECRET, 7);
        let mut token = String::new();
        ours.write_flow(u64::MAX - 1, &mut token);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert_eq!(ours.read_flow(token.as_bytes()), Ok(u64::MAX - 1));
        assert_eq!(keys(SECRET, 8).read_flow(token.as_bytes()), Err(BadToken::OtherProcess));
        assert_eq!(keys(b"0123456789abcdeF", 7).read_flow(token.as_bytes()), Err(BadToken::Forged));
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ours.read_flow(&forged), Err(BadToken::Forged), "{at}");
            assert_eq!(ours.read_flow(&token.as_bytes()[..at]), Err(BadToken::Forged));
        }
        assert_eq!(ours.read_flow(&[b'A'; 200]), Err(BadToken::Forged));
    }

    #[test]
    fn with_a_drawn_secret_a_token_of_another_process_may_be_any() {
        let ours = keys(SECRET, 7).drawn();
        let mut token = String::new();
        keys(b"another secret of another process", 8).write_flow(3, &mut token);
        assert_eq!(ours.read_flow(token.as_bytes()), Err(BadToken::OtherProcess));
        token.clear();
        ours.write_flow(3, &mut token);
        assert_eq!(ours.read_flow(token.as_bytes()), Ok(3));
        // Whoever claims to have it from this process has to prove that.
        let last = token.pop().unwrap();
        token.push(if last == 'A' { 'B' } else { 'A' });
        assert_eq!(ours.read_flow(token.as_bytes()), Err(BadToken::Forged));
        let mut other = String::new();
        keys(SECRET, 8).write_return(Came::Client(3), Went::Upstream, b"z9hG4bKx", &mut other);
        for none in [other.as_bytes(), b"alice", &[b'Z'; 39]] {
            assert_eq!(ours.read_flow(none), Err(BadToken::Forged));
        }
    }

    #[test]
    fn return_tokens_are_of_one_branch_and_no_flow_tokens() {
        let ours = keys(SECRET, 7);
        for came in [Came::Client(3), Came::Upstream(9, 4), Came::Probe(65535, 1)] {
            for went in [Went::Client(5), Went::Upstream] {
                let mut token = String::new();
                ours.write_return(came, went, b"z9hG4bKx", &mut token);
                assert_eq!(ours.read_return(token.as_bytes(), b"z9hG4bKx"), Ok((came, went)));
                assert_eq!(ours.read_return(token.as_bytes(), b"z9hG4bKy"), Err(BadToken::Forged));
                assert_eq!(
                    keys(SECRET, 8).read_return(token.as_bytes(), b"z9hG4bKx"),
                    Err(BadToken::OtherProcess)
                );
                assert_eq!(ours.read_flow(token.as_bytes()), Err(BadToken::Forged));
            }
        }
    }

    #[test]
    fn after_a_change_of_the_secret_the_one_before_still_counts() {
        let (first, mut old) = (keys(SECRET, 7), String::new());
        first.write_flow(3, &mut old);
        let second = first.renewed(b"another secret of 16").unwrap();
        let mut new = String::new();
        second.write_flow(4, &mut new);
        assert_eq!((second.read_flow(old.as_bytes()), second.read_flow(new.as_bytes())), (Ok(3), Ok(4)));
        assert_eq!(first.read_flow(new.as_bytes()), Err(BadToken::Forged));
        let mut token = String::new();
        first.write_return(Came::Client(3), Went::Upstream, b"z9hG4bKx", &mut token);
        assert_eq!(second.read_return(token.as_bytes(), b"z9hG4bKx"), Ok((Came::Client(3), Went::Upstream)));
        let third = second.renewed(b"a third secret of the edge").unwrap();
        assert_eq!(
            (third.read_flow(old.as_bytes()), third.read_flow(new.as_bytes())),
            (Err(BadToken::Forged), Ok(4))
        );
        // A retransmission, a CANCEL, an ACK have to match what went before.
        let branch = |keys: &Keys| keys.hash("transaction", [&b"a"[..]]);
        assert_eq!(branch(&first), branch(&third));
        assert_ne!(branch(&first), branch(&keys(b"another secret of 16", 7)));
        assert!(first.renewed(&SECRET[..15]).is_err());
    }

    #[test]
    fn a_secret_has_sixteen_bytes() {
        assert_eq!(Keys::new(&SECRET[..15], 1).err(), Some(ShortSecret));
        assert!(Keys::new(SECRET, 1).is_ok());
        assert_eq!(format!("{:?}", keys(SECRET, 1)), "Keys(***)");
    }
}
