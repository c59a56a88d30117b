//! A piece of work for the benchmarks that share it: what two clients on a relay in memory send, and that the relay forwards
//! it. The clients do next to nothing: messages are ready beforehand, and in responses only the transaction ids are put in.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use relay::msrp::Relay;
use tcp_transport::connection::MAX_READ_SIZE;

use super::in_memory::Client;

/// What a read brings.
const READ: usize = MAX_READ_SIZE;
/// A chunk of a file.
pub(crate) const LONG: usize = 64 * 1024;
/// Transaction ids of the relay have as many bytes.
const ID: usize = 16;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Bytes of a chunk, and how many of them one piece of work has.
    pub(crate) chunk: usize,
    pub(crate) chunks: usize,
    /// Whether the receiver answers, and the relay the sender.
    pub(crate) answered: bool,
    pub(crate) websocket: bool,
}

/// What the clients send in one piece of work.
pub(crate) struct World {
    now: Instant,
    alice: Client,
    bob: Client,
    sent: Vec<u8>,
    answer: Vec<u8>,
    id_at: [usize; 2],
}

impl World {
    pub(crate) fn new(case: &Case, relay: &Arc<Relay>) -> Self {
        let now = Instant::now();
        let mut alice = Client::connect(relay, "alice", 0, None, now);
        let bob = Client::connect(relay, "bob", usize::from(case.websocket), None, now);
        let head = |id: &str, range: &str, report: &str| {
            format!(
                "MSRP {id} SEND\r\nTo-Path: {} {} {}\r\nFrom-Path: {}\r\nMessage-ID: m{id}\r\nFailure-Report: {report}\r\n\
                 Byte-Range: {range}\r\nContent-Type: text/plain\r\n\r\n",
                alice.relay_uri, bob.relay_uri, bob.uri, alice.uri
            )
        };
        let mut sent = Vec::new();
        for number in 0..case.chunks {
            let id = format!("tr{number:06}");
            sent.extend_from_slice(head(&id, &format!("1-{0}/{0}", case.chunk), "yes").as_bytes());
            sent.resize(sent.len() + case.chunk, b'x');
            sent.extend_from_slice(format!("\r\n-------{id}$\r\n").as_bytes());
        }
        assert!(case.chunks <= 1 || sent.len() <= READ, "they are in one read");
        if case.chunks == 0 {
            sent.resize(LONG, b'x');
            let begin = head("trlong", "1-*/*", "no");
            alice.give(begin.as_bytes(), now);
        }
        let mut answer = String::new();
        let paths = format!("To-Path: {}\r\nFrom-Path: {}\r\n", bob.relay_uri, bob.uri);
        write!(answer, "MSRP {0:0ID$} 200 OK\r\n{paths}-------{0:0ID$}$\r\n", 0).unwrap();
        let id_at = ["MSRP ".len(), answer.len() - "$\r\n".len() - ID];
        Self { now, alice, bob, sent, answer: answer.into_bytes(), id_at }
    }

    pub(crate) fn work(&mut self, case: &Case, answers: &mut Vec<u8>) {
        self.bob.sink.watch_ids();
        for read in self.sent.chunks(READ) {
            self.alice.give(read, self.now);
        }
        let ids = self.bob.sink.take_ids();
        if !case.answered {
            return;
        }
        assert_eq!(ids.len(), case.chunks);
        answers.clear();
        for id in ids {
            let start = answers.len();
            answers.extend_from_slice(&self.answer);
            for at in self.id_at {
                answers[start + at..start + at + ID].copy_from_slice(&id);
            }
        }
        self.bob.give(answers, self.now);
    }
}
