//! Who takes part in a run, what they send, and what is remembered of it.

use std::collections::VecDeque;
use std::sync::LazyLock;

use super::super::harness::*;

/// Where contents are cut from: full of what looks like the end of a chunk, and is not.
static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let random = Seeded::new(4975);
    let mut block = Vec::new();
    while block.len() < 600_000 {
        let pieces: [&[u8]; 7] = [b"a", b"bc", b"\r\n", b"-", b"\r\n-------", b"x$\r\n", b"\r\n-------tid0"];
        block.extend_from_slice(pieces[random.below(7)]);
        block.extend_from_slice(&random.next().to_be_bytes().map(|byte| b'd' + byte % 20));
    }
    block
});

/// Which failures a sender wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Unsaid,
    Yes,
    Partial,
    No,
}

impl Wish {
    pub(super) fn line(self) -> &'static str {
        match self {
            Self::Unsaid => "",
            Self::Yes => "Failure-Report: yes\r\n",
            Self::Partial => "Failure-Report: partial\r\n",
            Self::No => "Failure-Report: no\r\n",
        }
    }

    /// Whether every chunk is answered, and all that is lost is told.
    pub(super) fn is_full(self) -> bool {
        matches!(self, Self::Unsaid | Self::Yes)
    }
}

/// One chunk of a message.
#[derive(Debug)]
pub(super) struct SentChunk {
    /// Its first byte's place in the message, from 0 on, and how many they are.
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) flag: char,
    pub(super) statuses: Vec<u16>,
    /// Its session ended before it did.
    pub(super) cut_off: bool,
}

/// A message that somebody sends to somebody.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Where in the block its content begins, and how long it is.
    offset: usize,
    pub(super) size: usize,
    pub(super) wish: Wish,
    pub(super) wants_success: bool,
    /// To-Path as it was sent, and From-Path as it must arrive.
    pub(super) to_path: String,
    pub(super) arrives_from: String,
    pub(super) chunks: Vec<SentChunk>,
    /// What has arrived, in order of arrival: first byte and the one after the last, from 0 on.
    pub(super) arrived: Vec<(usize, usize)>,
    /// Its `$` has.
    pub(super) complete: bool,
    /// What failure REPORTs have said is lost.
    pub(super) reported: Vec<(usize, usize)>,
    pub(super) successes: usize,
}

impl Sent {
    pub(super) fn content(&self) -> &'static [u8] {
        &BLOCK[self.offset..self.offset + self.size]
    }
}

/// A request that is no SEND, or one that must be refused.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) from: usize,
    pub(super) kind: Kind,
    pub(super) statuses: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An unknown method, which the other end answers.
    Unknown,
    /// It must get an error, and go nowhere.
    Evil,
    /// AUTH without credentials, and with them.
    Challenged,
    Authorized,
}

/// What a transaction id of a client stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meaning {
    Chunk(usize, usize),
    Asked(usize),
}

/// What a client is about to have written.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) what: Option<Meaning>,
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
}

/// A client.
#[derive(Debug)]
pub(super) struct Party {
    pub(super) node: Node,
    /// Its relay's name and how it asks it for sessions; empty where it went through another.
    pub(super) auth_uri: String,
    pub(super) user: &'static str,
    pub(super) relay: usize,
    /// Requests and answers to write, each whole before the next; answers go first.
    pub(super) requests: VecDeque<(Option<Meaning>, Vec<u8>)>,
    pub(super) answers: VecDeque<Vec<u8>>,
    /// What it is writing, and how much of that is done.
    pub(super) writing: Option<Writing>,
    /// Messages it still wants to send.
    pub(super) left_to_say: usize,
    pub(super) gone: bool,
}

impl Party {
    /// The path to it, for others.
    pub(super) fn path(&self) -> String {
        let hops: Vec<_> = self.node.relay.split(' ').rev().collect();
        format!("{} {}", hops.join(" "), self.node.uri)
    }

    /// Whether it has its session at the relay it is connected to.
    pub(super) fn is_near(&self) -> bool {
        !self.node.relay.contains(' ')
    }
}

/// To-Path from one to the other, and From-Path as it arrives.
pub(super) fn paths(from: &Party, to: &Party) -> (String, String) {
    let to_path = format!("{} {}", from.node.relay, to.path());
    let relays = to_path.rsplit_once(' ').map_or("", |(relays, _)| relays);
    let back: Vec<_> = relays.split(' ').rev().collect();
    let arrives_from = format!("{} {}", back.join(" "), from.node.uri);
    (to_path, arrives_from)
}

/// How large messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Small,
    Large,
}

/// Draws a message; `None` for its number is one that must never arrive.
pub(super) fn draw(random: &Seeded, scale: Scale, from: usize, to: usize, parties: &[Party]) -> Sent {
    let size = match (scale, random.below(8)) {
        (_, 0) => random.below(3),
        (_, 1..=3) => random.below(400),
        (Scale::Small, _) => random.below(3000),
        (Scale::Large, 4 | 5) => random.below(20_000),
        (Scale::Large, _) => random.below(150_000),
    };
    let wish = [Wish::Unsaid, Wish::Yes, Wish::Partial, Wish::No][random.below(4)];
    let (to_path, arrives_from) = paths(&parties[from], &parties[to]);
    Sent {
        from,
        to,
        offset: random.below(BLOCK.len() - size),
        size,
        wish,
        wants_success: random.below(3) == 0,
        to_path,
        arrives_from,
        chunks: Vec::new(),
        arrived: Vec::new(),
        complete: false,
        reported: Vec::new(),
        successes: 0,
    }
}

/// Cuts a message into chunks: what is written of each, and what is remembered.
pub(super) fn cut(
    random: &Seeded,
    number: usize,
    sent: &Sent,
    own_uri: &str,
    mut tid: impl FnMut() -> String,
) -> Vec<(String, Vec<u8>, SentChunk)> {
    let (size, content) = (sent.size, sent.content());
    // One in eight is given up on its way.
    let given_up = (random.below(8) == 0).then(|| random.below(size + 1));
    let until = given_up.unwrap_or(size);
    let largest = match random.below(3) {
        0 => size.max(1),
        _ => 1 + random.below(5000).max(size / 12),
    };
    let mut chunks = Vec::new();
    let mut at = 0;
    loop {
        let len = largest.min(until - at);
        let last = at + len == until;
        let tid = tid();
        let range = match random.below(4) {
            0 if last && at == 0 && given_up.is_none() => String::new(),
            1 => format!("Byte-Range: {}-*/*\r\n", at + 1),
            2 => format!("Byte-Range: {}-*/{size}\r\n", at + 1),
            _ if given_up.is_some() => format!("Byte-Range: {}-{}/{size}\r\n", at + 1, size.max(at + 1)),
            _ => format!("Byte-Range: {}-{}/{size}\r\n", at + 1, at + len),
        };
        let flag = match (last, given_up) {
            (false, _) => '+',
            (true, None) => '$',
            (true, Some(_)) => '#',
        };
        let success = if sent.wants_success { "Success-Report: yes\r\n" } else { "" };
        let head = format!(
            "To-Path: {}\r\nFrom-Path: {own_uri}\r\nMessage-ID: m{number:05}\r\n{range}{}{success}X-Check: of m{number:05}\r\n",
            sent.to_path,
            sent.wish.line()
        );
        let bytes = send(&tid, &head, &content[at..at + len], flag);
        chunks.push((tid, bytes, SentChunk { at, len, flag, statuses: Vec::new(), cut_off: false }));
        at += len;
        if last {
            return chunks;
        }
    }
}
