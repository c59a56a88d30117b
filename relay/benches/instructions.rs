//! What forwarding costs in instructions: the same work done so many times, for a tool that counts them.
//!
//! ```text
//! instructions --list
//! instructions CASE TIMES
//! ```
//!
//! `tests/bench/instructions` runs it under callgrind with two numbers of times and takes the difference, so that what
//! is done once does not count; it compares with `relay/benches/instructions.txt`. Two clients are on one relay in
//! memory; there are no sockets, and the clients do next to nothing: messages are ready beforehand, and in responses
//! only the transaction ids are put in. Without arguments, as `cargo bench` runs it, it does each case once.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark may panic"
)]

use std::fmt::Write as _;
use std::time::Instant;

use tcp_transport::connection::MAX_READ_SIZE;

use self::in_memory::{Client, relay};

#[path = "../tests/common/in_memory.rs"]
mod in_memory;

/// What a read brings.
const READ: usize = MAX_READ_SIZE;
/// A chunk of a file.
const LONG: usize = 64 * 1024;
/// Transaction ids of the relay have as many bytes.
const ID: usize = 16;

struct Case {
    name: &'static str,
    /// Bytes of a chunk, and how many of them one piece of work has.
    chunk: usize,
    chunks: usize,
    /// Whether the receiver answers, and the relay the sender.
    answered: bool,
    websocket: bool,
}

const CASES: [Case; 6] = [
    Case { name: "message_of_300_bytes", chunk: 300, chunks: 1, answered: true, websocket: false },
    Case {
        name: "message_of_300_bytes_to_websocket",
        chunk: 300,
        chunks: 1,

        answered: true,
        websocket: true,
    },
    Case {
        name: "16_messages_of_300_bytes_in_a_read",
        chunk: 300,
        chunks: 16,

        answered: true,
        websocket: false,
    },
    Case { name: "13_chunks_of_2_kib_in_a_read", chunk: 2048, chunks: 13, answered: true, websocket: false },
    Case { name: "chunk_of_64_kib", chunk: LONG, chunks: 1, answered: true, websocket: false },
    Case { name: "64_kib_of_a_long_chunk", chunk: 0, chunks: 0, answered: false, websocket: false },
];

/// What the clients send in one piece of work.
struct World {
    now: Instant,
    alice: Client,
    bob: Client,
    sent: Vec<u8>,
    answer: Vec<u8>,
    id_at: [usize; 2],
}

impl World {
    fn new(case: &Case) -> Self {
        let (relay, now) = (relay(), Instant::now());
        let mut alice = Client::connect(&relay, "alice", 0, None, now);
        let bob = Client::connect(&relay, "bob", usize::from(case.websocket), None, now);
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

    fn work(&mut self, case: &Case, answers: &mut Vec<u8>) {
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

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        CASES.iter().for_each(|case| println!("{}", case.name));
        return;
    }
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (cases, times): (Vec<&Case>, usize) = match &arguments[..] {
        [name, times] => (CASES.iter().filter(|case| case.name == name).collect(), times.parse().unwrap()),
        _ => (CASES.iter().collect(), 1),
    };
    assert!(!cases.is_empty(), "there is no such case");
    for case in cases {
        let (mut world, mut answers) = (World::new(case), Vec::new());
        for _ in 0..times {
            world.work(case, &mut answers);
        }
    }
}
