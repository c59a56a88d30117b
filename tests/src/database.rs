//! Database servers that are not ours, each in a temporary directory, on a Unix socket, as a user who is not root.

use std::fs::OpenOptions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::{Connection as _, Executor as _};

use crate::within;

/// `nobody`, whom Debian has: servers of databases refuse to be root.
const NOBODY: u32 = 65534;

/// Which server it is, and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
}

/// A database server; killed when dropped.
pub struct DatabaseServer {
    kind: DatabaseKind,
    directory: tempfile::TempDir,
    process: Option<Child>,
}

/// A command that is run as nobody if we are root. What it says goes to a file in `directory`, as do its temporary
/// files: a MariaDB that starts removes those of another one in the same place.
fn as_nobody(program: &Path, directory: &Path) -> Command {
    let log = OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).current_dir("/");
    command.env("TMPDIR", directory);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A program of a database server, which is not always in the path.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    places.extend(["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from));
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}

impl DatabaseServer {
    /// Makes a server with an empty database, and starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(kind: DatabaseKind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = directory.path().join("data");
        let made = match kind {
            DatabaseKind::Postgres => {
                let mut command = as_nobody(&program("initdb"), directory.path());
                command
                    .args(["-U", "relay", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
                    .arg(&data);
                command.status()
            }
            DatabaseKind::MariaDb => {
                let mut command = as_nobody(&program("mariadb-install-db"), directory.path());
                command.args([
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--verbose",
                ]);
                command.arg(format!("--datadir={}", data.display())).status()
            }
        };
        let said = || std::fs::read_to_string(directory.path().join("log"));
        assert!(made.unwrap().success(), "cannot make the database: {:?}", said());
        let mut server = Self { kind, directory, process: None };
        server.run().await;
        match kind {
            DatabaseKind::Postgres => {
                server.try_execute("postgres", "CREATE DATABASE sip").await.unwrap();
            }
            DatabaseKind::MariaDb => {
                server.try_execute("mysql", "CREATE DATABASE sip CHARACTER SET utf8mb4").await.unwrap();
                server
                    .try_execute("mysql", "CREATE USER 'relay'@'localhost' IDENTIFIED BY 's3cret'")
                    .await
                    .unwrap();
                server.try_execute("mysql", "GRANT ALL ON sip.* TO 'relay'@'localhost'").await.unwrap();
            }
        }
        server
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("mariadb.sock")
    }

    /// The URL for whoever runs it.
    fn own_url(&self, database: &str) -> String {
        match self.kind {
            DatabaseKind::Postgres => {
                format!("postgres:///{database}?host={}&user=relay", self.directory.path().display())
            }
            DatabaseKind::MariaDb => {
                format!("mysql://root@localhost/{database}?socket={}", self.socket().display())
            }
        }
    }

    /// The URL for the relay.
    #[must_use]
    pub fn url(&self) -> String {
        match self.kind {
            DatabaseKind::Postgres => self.own_url("sip"),
            DatabaseKind::MariaDb => {
                format!("mysql://relay:s3cret@localhost/sip?socket={}", self.socket().display())
            }
        }
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn run(&mut self) {
        let data = self.directory.path().join("data");
        within("the database", async {
            loop {
                // One that was killed may leave behind what the next one waits for, and gives up on.
                if self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some()) {
                    let mut command = match self.kind {
                        DatabaseKind::Postgres => {
                            let mut command = as_nobody(&program("postgres"), self.directory.path());
                            command.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c"]);
                            command
                                .arg(format!("unix_socket_directories={}", self.directory.path().display()));
                            command
                        }
                        DatabaseKind::MariaDb => {
                            let mut command = as_nobody(&program("mariadbd"), self.directory.path());
                            command.args(["--no-defaults", "--skip-networking"]);
                            command.arg(format!("--datadir={}", data.display()));
                            command.arg(format!("--socket={}", self.socket().display()));
                            command
                        }
                    };
                    self.process = Some(command.spawn().unwrap());
                }
                if self.try_execute("", "SELECT 1").await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// As when the machine loses power.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// As when the machine hangs: connections stay, and nobody answers. Only a server that is one process does all of it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// It goes on where it was frozen.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let number = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &number]).status().unwrap().success());
    }

    /// Does something to the relay's database, beside the relay.
    ///
    /// # Panics
    /// When that fails.
    pub async fn execute(&self, statement: &str) {
        self.try_execute("sip", statement).await.unwrap();
    }

    /// The rows of a statement whose columns are all texts.
    ///
    /// # Panics
    /// When that fails.
    pub async fn rows(&self, statement: &str) -> Vec<Vec<String>> {
        macro_rules! rows {
            ($connection:ty) => {{
                let mut connection = <$connection>::connect(&self.own_url("sip")).await.unwrap();
                let rows = sqlx::query(statement).fetch_all(&mut connection).await.unwrap();
                let row = |row: &_| -> Vec<String> {
                    (0..sqlx::Row::len(row)).map(|index| sqlx::Row::get(row, index)).collect()
                };
                rows.iter().map(row).collect()
            }};
        }
        match self.kind {
            DatabaseKind::Postgres => rows!(sqlx::PgConnection),
            DatabaseKind::MariaDb => rows!(sqlx::MySqlConnection),
        }
    }

    async fn try_execute(&self, database: &str, statement: &str) -> Result<(), sqlx::Error> {
        match self.kind {
            DatabaseKind::Postgres => {
                let database = if database.is_empty() { "postgres" } else { database };
                let mut connection = sqlx::PgConnection::connect(&self.own_url(database)).await?;
                connection.execute(statement).await?;
                connection.close().await
            }
            DatabaseKind::MariaDb => {
                let database = if database.is_empty() { "mysql" } else { database };
                let mut connection = sqlx::MySqlConnection::connect(&self.own_url(database)).await?;
                connection.execute(statement).await?;
                connection.close().await
            }
        }
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
