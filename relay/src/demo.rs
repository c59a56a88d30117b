//! The demo.
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {}

/// Runs.
///
/// # Errors
/// Any.
pub fn run(_: &DemoArgs) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
