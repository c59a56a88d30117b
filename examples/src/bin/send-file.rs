//! Sends a file. See [`examples::send_file`].
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to its user")]

use std::process::ExitCode;

use clap::Parser as _;
use examples::options::SendFileOptions;
use examples::send_file;

#[tokio::main]
async fn main() -> ExitCode {
    match send_file::run(&SendFileOptions::parse()).await {
        Ok(sent) => {
            println!("delivered {} ({} bytes)\nSHA-256 {}", sent.name, sent.size, sent.hash);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("send-file: {error:#}");
            ExitCode::FAILURE
        }
    }
}
