//! A chat client for the terminal. See [`examples::chat`].
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to its user")]

use std::io::stdin;
use std::process::ExitCode;

use clap::Parser as _;
use examples::chat::{self, Shown};
use examples::options::ChatOptions;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> ExitCode {
    let options = ChatOptions::parse();
    let (sender, lines) = mpsc::channel(1);
    // A thread of its own, which nobody waits for at the end.
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    match chat::run(&options, lines, show).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(shown: Shown) {
    match shown {
        Shown::Path(path) => println!("{}", path.sdp()),
        Shown::Peer(path) => println!("-- talking to {path}"),
        Shown::Received(text) => println!("<< {text}"),
        Shown::Delivered(text) => println!("-- delivered: {text}"),
        Shown::Failed { text, reason } => println!("-- not delivered: {text} ({reason})"),
        Shown::Note(text) => println!("-- {text}"),
    }
}
