//! The daemon `msrp-relay`, built as a binary of this package so that its tests find it.

use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "as the daemon's own main does")]
fn main() -> ExitCode {
    match relay::cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("msrp-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
