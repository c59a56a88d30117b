//! `msrp-relay user`: the users in the database of the configuration.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::password;
use crate::config::{Config, DatabaseSettings};
use crate::credentials::{Database, NewUser};

/// The arguments of `user`.
#[derive(Debug, Args)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a user.
    ///
    /// The password is asked for on the terminal, twice and without echo; without one it is the first line of standard
    /// input: `printf '%s\n' SECRET | msrp-relay user add NAME --config FILE`. It is kept as hashes of
    /// `NAME:REALM:PASSWORD`, with the realm of the configuration (`auth.realm`, by default `domain`), or as it is with
    /// `calculate_ha1`. In SQLite, file and table are made if there are none.
    Add(Named),
    /// Change a user's password, which comes as for `add`.
    ///
    /// All secrets of that one row are replaced: the columns of the configuration, and of `password`, `ha1`, `ha1b`,
    /// `ha1_sha256` and `ha1_sha512t256` those that the table has and that are not empty. So the old password is good
    /// nowhere any more. A running relay takes the new one at once, and the old one until
    /// `auth.database.cache.expire`; sessions go on.
    Passwd(Named),
    /// List the names of all users.
    List(Configured),
    /// Remove a user: one row.
    ///
    /// A running relay knows the user until `auth.database.cache.expire`; sessions go on.
    Del(Named),
}

#[derive(Debug, Args)]
struct Configured {
    /// The YAML configuration, which says where the database is.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Named {
    /// The user name: text without `:`, quotes and control characters.
    name: String,
    /// The domain of the user's row. `add` writes it, by default the realm; `passwd` and `del` need it where several
    /// rows have that user name, which can be without `auth.database.use_domain`.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    #[command(flatten)]
    configured: Configured,
}

pub(super) fn run(args: &UserArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(act(&args.action))?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
async fn act(action: &Action) -> anyhow::Result<()> {
    match action {
        Action::Add(Named { name, domain, configured }) => {
            let (mut settings, realm) = load(&configured.config)?;
            let password = password::read(name)?;
            make_file(&settings)?;
            settings.url = settings.url.create_if_missing();
            let at = settings.url.to_string();
            let database = Database::new(settings);
            database.create().await.with_context(|| at.clone())?;
            let user = NewUser { name, realm: &realm, domain: domain.as_deref(), password: &password };
            database.add(&user).await.context(at)
        }
        Action::Passwd(Named { name, domain, configured }) => {
            let (settings, realm) = load(&configured.config)?;
            let password = password::read(name)?;
            let at = settings.url.to_string();
            let user = NewUser { name, realm: &realm, domain: domain.as_deref(), password: &password };
            Database::new(settings).set_password(&user).await.context(at)
        }
        Action::Del(Named { name, domain, configured }) => {
            let (settings, realm) = load(&configured.config)?;
            let at = settings.url.to_string();
            Database::new(settings).remove(name, domain.as_deref(), &realm).await.context(at)
        }
        Action::List(configured) => {
            let (settings, realm) = load(&configured.config)?;
            let at = settings.url.to_string();
            for name in Database::new(settings).list(&realm).await.context(at)? {
                // One line each, whatever is in the table.
                println!("{}", name.escape_debug());
            }
            Ok(())
        }
    }
}

/// The database of a configuration, and the realm of its users.
fn load(path: &Path) -> anyhow::Result<(DatabaseSettings, String)> {
    let config = Config::load(path)?;
    let settings = config.auth.database.with_context(|| {
        format!(
            "{}: there is no `auth.database`; users in `auth.users` are edited in the file",
            path.display()
        )
    })?;
    Ok((settings, config.auth.realm))
}

/// A file of SQLite is this user's alone: what is in it lets everybody in.
fn make_file(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let Some(file) = settings.url.file() else { return Ok(()) };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", file.display())),
    }
}
