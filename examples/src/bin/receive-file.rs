//! Receives a file. See [`examples::receive_file`].
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to its user")]

use std::process::ExitCode;

use clap::Parser as _;
use examples::options::ReceiveFileOptions;
use examples::receive_file;

#[tokio::main]
async fn main() -> ExitCode {
    let show_path = |path: &examples::path::MsrpPath| println!("{}", path.sdp());
    match receive_file::run(&ReceiveFileOptions::parse(), show_path).await {
        Ok(stored) => {
            let verified = if stored.verified { "as the sender says" } else { "the sender gave none" };
            println!(
                "received {} ({} bytes)\nSHA-256 {} ({verified})",
                stored.path.display(),
                stored.size,
                stored.hash
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("receive-file: {error:#}");
            ExitCode::FAILURE
        }
    }
}
