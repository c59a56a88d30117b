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

use self::in_memory::relay;
use self::work::{Case, LONG, World};

#[path = "../tests/common/in_memory.rs"]
mod in_memory;
#[path = "work/forward.rs"]
mod work;

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
        let (mut world, mut answers) = (World::new(case, &relay()), Vec::new());
        for _ in 0..times {
            world.work(case, &mut answers);
        }
    }
}
