//! Load for MSRP relays; see [`examples::load`].
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to its user")]

use std::process::ExitCode;

use clap::Parser as _;
use examples::load::{self, options::LoadOptions};

#[tokio::main]
async fn main() -> ExitCode {
    // Each session takes two; what is not granted shows when it is needed.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    match load::run(LoadOptions::parse(), |text| println!("{text}")).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("msrp-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
