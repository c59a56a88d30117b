//! `msrp-relay hash`: what goes into `ha1`, `ha1_sha256` or an htdigest file.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use msrp_proto::digest::{Algorithm, Ha1};

use super::password;

/// What `--help` says after the options.
const MORE: &str = "\
The password is asked for on the terminal, twice and without echo; without a terminal it is the first line of standard
input. It is never an argument.

What is printed goes into a user's `ha1` (MD5) or `ha1_sha256` (SHA-256), into the columns of a database, or behind
`NAME:REALM:` as a line of an htdigest file:
  NAME:REALM:HASH

  printf '%s\\n' SECRET | msrp-relay hash --user alice --realm relay.example.com";

/// The arguments of `hash`.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct HashArgs {
    /// The user name, as the client sends it; it counts by case.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The realm: what `auth.realm` says, or `domain` where that is not set. With another one the hash is good for
    /// nothing.
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
