//! `msrp-relay hash`: what goes into `ha1`, `ha1_sha256` or an htdigest file.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use msrp_proto::digest::{Algorithm, Ha1};

use super::password;

/// The arguments of `hash`.
#[derive(Debug, Args)]
pub(super) struct HashArgs {
    /// The user name.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The realm: `auth.realm`, by default the relay's domain.
    #[arg(long, value_name = "REALM")]
    realm: String,
    /// MD5, SHA-256 or SHA-512-256.
    #[arg(long, value_name = "ALGORITHM", default_value = "MD5")]
    algorithm: Algorithm,
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
pub(super) fn run(args: &HashArgs) -> anyhow::Result<ExitCode> {
    if args.user.is_empty() || args.user.contains(':') {
        bail!("a user name is not empty, and has no `:`");
    }
    let password = password::read(&args.user)?;
    println!("{}", Ha1::from_password(args.algorithm, &args.user, &args.realm, &password).as_hex());
    Ok(ExitCode::SUCCESS)
}
