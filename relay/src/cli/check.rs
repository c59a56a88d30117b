//! `msrp-relay check`: everything that is wrong with a configuration, in one go.
//!
//! Errors are what would keep the relay from starting, and the exit code is 1. Warnings are what it would start with and
//! what is probably not meant; the exit code is 0.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use crate::config::{AdminAddress, Config, ConfigError, ConfigErrors, DatabaseUrl, LogTarget, RecordTarget};
use crate::server::tls;

/// Checks the configuration at `path`, to start with or to `reload`; what is right or worth a warning goes to standard
/// output.
///
/// # Errors
/// All that is wrong, each at its line.
#[expect(clippy::print_stdout, reason = "this is the command's answer")]
pub(super) fn run(path: &Path, reload: bool) -> anyhow::Result<ExitCode> {
    let (config, errors) = Config::examine(path)?;
    let mut errors = errors.map(|errors| errors.errors().to_vec()).unwrap_or_default();
    let places = Places::look(&config);
    let files = tls_errors(&config, &errors);
    errors.extend(files);
    let mut warnings = config.warnings.clone();
    warnings.extend(places.warnings);
    // A relay that runs takes the rest over, and goes on with the file or socket that it has.
    if reload { &mut warnings } else { &mut errors }.extend(places.errors);
    if let Some(warnings) = ConfigErrors::all(warnings) {
        for warning in warnings.errors() {
            println!("warning: {warning}");
        }
    }
    if let Some(errors) = ConfigErrors::all(errors) {
        return Err(errors.into());
    }
    let (servers, clients) = (tls::server_domains(&config)?, tls::client_domains(&config)?);
    for warning in tls::expiry_warnings(&servers, &clients, SystemTime::now(), config.tls.expiry_warning) {
        println!("warning: TLS {warning}");
    }
    println!("{}: ok", config.source.file_name());
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the files of TLS domains, of each of them that `known` says nothing of.
fn tls_errors(config: &Config, known: &[ConfigError]) -> Vec<ConfigError> {
    let is_right = |section: &str, name: &str| {
        let key = format!("tls.{section}.{name}");
        !known.iter().any(|error| error.key.starts_with(&key))
    };
    let mut errors = Vec::new();
    let mut add = |loaded: Result<(), ConfigErrors>| {
        errors.extend(loaded.err().iter().flat_map(|found| found.errors().to_vec()));
    };
    // Each alone: loading ends with the first that cannot be used.
    for (name, domain) in
        config.tls.server_domains.iter().filter(|(name, _)| is_right("server_domains", name))
    {
        let mut alone = config.clone();
        alone.tls.server_domains = [(name.clone(), domain.clone())].into();
        add(tls::server_domains(&alone).map(drop));
    }
    for (name, domain) in
        config.tls.client_domains.iter().filter(|(name, _)| is_right("client_domains", name))
    {
        let mut alone = config.clone();
        alone.tls.client_domains = [(name.clone(), domain.clone())].into();
        add(tls::client_domains(&alone).map(drop));
    }
    if errors.is_empty() && known.is_empty() {
        let together = [tls::server_domains(config).map(drop), tls::client_domains(config).map(drop)];
        together.into_iter().for_each(|loaded| {
            errors.extend(loaded.err().iter().flat_map(|found| found.errors().to_vec()));
        });
    }
    errors
}

/// What is not where it has to be.
#[derive(Default)]
struct Places {
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
}

impl Places {
    fn look(config: &Config) -> Self {
        let mut places = Self::default();
        let at = |key: &[&str], message: String| config.source.error_at(key, message);
        for (index, address) in config.admin.iter().flat_map(|admin| &admin.listen).enumerate() {
            let AdminAddress::Unix(path) = address else { continue };
            let Some(missing) = missing_directory(path) else { continue };
            let key = ["admin", "listen", &index.to_string()];
            let message = format!("there is no directory {}", missing.display());
            // Those are made when a service starts, and removed when it ends: the package's first of all.
            if missing == Path::new("/run/msrp-relay") {
                continue;
            }
            if missing.starts_with("/run") || missing.starts_with("/var/run") {
                let message = format!(
                    "{message} now: what starts the relay has to make it (systemd: RuntimeDirectory=)"
                );
                places.warnings.push(at(&key, message));
            } else {
                places.errors.push(at(&key, message));
            }
        }
        if let LogTarget::File(file) = &config.log.to
            && let Some(missing) = missing_directory(file)
        {
            places.errors.push(at(&["log", "to"], format!("there is no directory {}", missing.display())));
        }
        if let Some(database) = config.auth.database.as_ref()
            && let Some(message) = missing_users(&database.url)
        {
            places.warnings.push(at(&["auth", "database", "url"], message));
        }
        for sink in &config.records.sinks {
            if let RecordTarget::Database(database) = &sink.target
                && let Some(file) = database.url.file()
                && let Some(missing) = missing_directory(&file)
            {
                let key = ["records", "sinks", &sink.name, "database", "url"];
                let message =
                    format!("there is no directory {}: records wait until there is", missing.display());
                places.warnings.push(at(&key, message));
            }
        }
        places
    }
}

/// Why a database of SQLite with users is not there, if it is not.
fn missing_users(url: &DatabaseUrl) -> Option<String> {
    let file = url.file()?;
    if let Some(missing) = missing_directory(&file) {
        return Some(format!("there is no directory {}", missing.display()));
    }
    let what = "`msrp-relay user add` makes it, and until then no user of it gets in";
    (!file.exists()).then(|| format!("there is no file {}: {what}", file.display()))
}

/// The directory that a file is to be in, if there is none.
fn missing_directory(file: &Path) -> Option<PathBuf> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty())?;
    (!directory.is_dir()).then(|| directory.to_owned())
}
