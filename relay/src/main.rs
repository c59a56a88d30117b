//! The daemon `msrp-relay`.

use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "the user reads it there, also when there is no log yet")]
fn main() -> ExitCode {
    match relay::cli::main() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("msrp-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
