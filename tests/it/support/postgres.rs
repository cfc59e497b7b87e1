//! PostgreSQL as Debian has it, with its own clients.
//!
//! A [`server`](super::server) that asks for passwords over TCP (SCRAM) and syncs nothing to disk. Runs
//! as `postgres` when the test is root.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::User;
use tempfile::TempDir;

use super::daemon::{copy_of_template, is_root, output, program};
use super::server::{Kind, Server};

/// A PostgreSQL server, until dropped. Superuser and password: [`Postgres::USER`] and
/// [`Postgres::PASSWORD`]; database `postgres`.
pub struct Postgres {
    server: Server,
    settings: Vec<String>,
}

impl Postgres {
    pub const USER: &'static str = "postgres";
    pub const PASSWORD: &'static str = "sesame";

    /// A server of its own, up when this returns.
    pub fn new() -> Postgres {
        Postgres::with(&[])
    }

    /// With these lines of `postgresql.conf`, such as `max_connections=10` or `ssl=on` (there is a
    /// certificate).
    pub fn with(settings: &[&str]) -> Postgres {
        let folder = folder();
        copy_of_template(&template(), &folder.path().join("data"), initialise);
        Postgres::of(folder, settings.iter().map(|s| (*s).to_owned()).collect())
    }

    /// The same, which believes everybody from this machine who he says he is.
    pub fn trusting(settings: &[&str]) -> Postgres {
        let folder = folder();
        copy_of_template(&template(), &folder.path().join("data"), initialise);
        let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        std::fs::write(folder.path().join("data/pg_hba.conf"), rules).expect("a file of ours");
        Postgres::of(folder, settings.iter().map(|s| (*s).to_owned()).collect())
    }

    /// A server of a cluster of its own: all others here are copies of one, with one identifier.
    pub fn unrelated() -> Postgres {
        let folder = folder();
        initialise(&folder.path().join("data"));
        Postgres::of(folder, Vec::new())
    }

    /// A server that follows this one.
    pub fn standby(&self) -> Postgres {
        let folder = folder();
        let mut backup = as_postgres(Postgres::program("pg_basebackup"));
        backup
            .env("PGPASSWORD", Postgres::PASSWORD)
            .args(["-h", "127.0.0.1", "-U", Postgres::USER, "-p"])
            .arg(self.port().to_string())
            .args(["-X", "stream", "-c", "fast", "--no-sync", "-R", "-D"])
            .arg(folder.path().join("data"));
        output(&mut backup).unwrap_or_else(|error| panic!("pg_basebackup: {error}"));
        Postgres::of(folder, self.settings.clone())
    }

    fn of(folder: TempDir, settings: Vec<String>) -> Postgres {
        let lines = settings.clone();
        let server = Server::start_in(folder, &POSTGRES, move |folder, port| {
            let mut command = as_postgres(Postgres::program("postgres"));
            command.arg("-D").arg(folder.join("data"));
            command.arg("-k").arg(folder);
            command.args(["-p", &port.to_string()]);
            for setting in FIXED.into_iter().chain(lines.iter().map(String::as_str)) {
                command.args(["-c", setting]);
            }
            command
        });
        Postgres { server, settings }
    }

    /// Runs SQL as superuser, directly; rows as lines, columns between `|`.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// # Errors
    /// What `psql` says.
    pub fn try_sql(&self, text: &str) -> Result<String, String> {
        let mut psql = Postgres::psql(self.addr());
        psql.args(["-c", text]);
        output(&mut psql).map(|rows| rows.trim_end().to_owned())
    }

    /// Makes a standby the primary and waits until it is.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote(true, 60)"), "t");
    }

    /// `psql` as superuser against `addr`, quiet, unaligned, without a startup file: add `-c SQL`.
    pub fn psql(addr: SocketAddr) -> Command {
        let mut psql = Postgres::client("psql", addr);
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]);
        psql
    }

    /// `pgbench` as superuser against `addr`.
    pub fn pgbench(addr: SocketAddr) -> Command {
        Postgres::client("pgbench", addr)
    }

    /// One of PostgreSQL's clients as superuser against `addr`; by the environment, so that it can
    /// be overruled.
    pub fn client(name: &str, addr: SocketAddr) -> Command {
        let mut command = Command::new(Postgres::program(name));
        Postgres::environment(&mut command, addr);
        command
    }

    /// What everything made with libpq takes for its connection.
    pub fn environment(command: &mut Command, addr: SocketAddr) {
        command
            .env("PGHOST", addr.ip().to_string())
            .env("PGPORT", addr.port().to_string())
            .env("PGUSER", Postgres::USER)
            .env("PGPASSWORD", Postgres::PASSWORD)
            .env("PGDATABASE", "postgres")
            .env("PGCONNECT_TIMEOUT", "10");
    }

    /// Where one of PostgreSQL's programs is.
    pub fn program(name: &str) -> PathBuf {
        let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|version| version.path().join("bin"))
            .collect();
        versions.sort();
        // Debian's wrappers in /usr/bin want a cluster of the system: the programs themselves.
        versions
            .iter()
            .rev()
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
            .unwrap_or_else(|| program(name, &[], "postgresql"))
    }

    /// Its certificate, which it signed itself, for `localhost`. A file that anybody may read.
    pub fn certificate(&self) -> PathBuf {
        let readable = self.folder().join("readable.crt");
        std::fs::copy(self.folder().join("data/server.crt"), &readable)
            .expect("every server has one");
        readable
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

static POSTGRES: Kind = Kind {
    name: "PostgreSQL",
    scheme: "postgres",
    ready: "database system is ready to accept",
    // Sessions end with a message, data is written.
    stop: Signal::SIGINT,
    crash: Signal::SIGQUIT,
};

const FIXED: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "log_min_messages=info",
    "wal_retrieve_retry_interval=200ms",
];

/// A folder for a server, which may not be root.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    own(folder.path());
    folder
}

/// Gives a folder of root to the account of the server.
fn own(folder: &Path) {
    if is_root() {
        let account = account();
        chown(
            folder,
            Some(account.uid.as_raw()),
            Some(account.gid.as_raw()),
        )
        .expect("root may give away");
    }
}

fn account() -> User {
    User::from_name("postgres")
        .expect("accounts can be read")
        .expect("the package postgresql makes the account postgres")
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    if is_root() {
        let account = account();
        command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
    }
    // The folder of the test may be closed to the account.
    command.current_dir("/").env("LC_ALL", "C.UTF-8");
    command
}

fn template() -> String {
    let version = output(Command::new(Postgres::program("postgres")).arg("--version"))
        .unwrap_or_else(|error| panic!("postgres --version: {error}"));
    let version: String = version
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("template-{}-small-{}", version.trim_matches('-'), is_root())
}

fn initialise(data: &Path) {
    let folder = data.parent().expect("a folder around it");
    own(folder);
    let password = folder.join("password");
    std::fs::write(&password, Postgres::PASSWORD).expect("a file in it");
    own(&password);
    let mut initdb = as_postgres(Postgres::program("initdb"));
    initdb
        .args(["-U", Postgres::USER, "-E", "UTF8", "--locale=C.UTF-8"])
        .args(["--auth-host=scram-sha-256", "--auth-local=trust", "-N"])
        // What each server copies: 1 MB of log instead of 16.
        .arg("--wal-segsize=1")
        .arg("--pwfile")
        .arg(&password)
        .arg("-D")
        .arg(data);
    output(&mut initdb).unwrap_or_else(|error| panic!("initdb: {error}"));
    let mut certificate = as_postgres(program("openssl", &[], "openssl"));
    certificate
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
        ])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(data.join("server.key"))
        .arg("-out")
        .arg(data.join("server.crt"));
    output(&mut certificate).unwrap_or_else(|error| panic!("openssl: {error}"));
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn serves_sql_stops_and_comes_back_on_its_port() {
        let mut server = Postgres::with(&["max_connections=7", "ssl=on"]);
        assert_eq!(server.sql("SHOW max_connections"), "7");
        server.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)");
        assert!(server.try_sql("SELECT nonsense").is_err());
        let tls = output(
            Postgres::psql(server.addr())
                .env("PGSSLMODE", "require")
                .args([
                    "-c",
                    "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
                ]),
        );
        assert_eq!(tls.unwrap(), "t\n");
        for words in [&["-i", "-q"][..], &["-S", "-n", "-t", "10"]] {
            output(Postgres::pgbench(server.addr()).args(words)).unwrap();
        }
        server.stop();
        assert!(TcpStream::connect(server.addr()).is_err());
        server.start();
        assert_eq!(server.sql("SELECT n FROM kept"), "7");
        server.kill();
        server.start();
        assert_eq!(server.sql("SELECT n FROM kept"), "7");
        let addr = server.addr();
        drop(server);
        assert!(TcpStream::connect(addr).is_err());
    }

    #[test]
    fn a_wrong_password_is_refused() {
        let server = Postgres::new();
        let mut psql = Postgres::psql(server.addr());
        psql.env("PGPASSWORD", "wrong").args(["-c", "SELECT 1"]);
        let error = output(&mut psql).unwrap_err();
        assert!(error.contains("password authentication failed"), "{error}");
    }
}
