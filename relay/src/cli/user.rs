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
    /// Add a user; the password is asked for, or the first line of standard input. In SQLite the table is made.
    Add(Named),
    /// Change a user's password, which is asked for or the first line of standard input.
    Passwd(Named),
    /// List the names of all users.
    List(Configured),
    /// Remove a user. A running relay knows it until `auth.database.cache.expire`; sessions go on.
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
    /// The user name.
    name: String,
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
        Action::Add(Named { name, configured }) => {
            let (mut settings, realm) = load(&configured.config)?;
            let password = password::read(name)?;
            make_file(&settings)?;
            settings.url = settings.url.create_if_missing();
            let at = settings.url.to_string();
            let database = Database::new(settings);
            database.create().await.with_context(|| at.clone())?;
            database.add(&NewUser { name, realm: &realm, password: &password }).await.context(at)
        }
        Action::Passwd(Named { name, configured }) => {
            let (settings, realm) = load(&configured.config)?;
            let password = password::read(name)?;
            let at = settings.url.to_string();
            let user = NewUser { name, realm: &realm, password: &password };
            Database::new(settings).set_password(&user).await.context(at)
        }
        Action::Del(Named { name, configured }) => {
            let (settings, realm) = load(&configured.config)?;
            let at = settings.url.to_string();
            Database::new(settings).remove(name, &realm).await.context(at)
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
