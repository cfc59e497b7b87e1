//! MariaDB as Debian has it, with its own client.
//!
//! A [`server`](super::server) that syncs nothing to disk and looks up no name, so that peers are seen
//! by address. (It then blocks nobody: `skip-name-resolve=0` brings that back.)

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::daemon::{copy_of_template, is_root, output, program};
use super::server::{Kind, Server};

/// A MariaDB server, until dropped. [`Mariadb::USER`] with [`Mariadb::PASSWORD`] may do everything,
/// from everywhere; the database `test` is there.
pub struct Mariadb {
    server: Server,
}

impl Mariadb {
    pub const USER: &'static str = "tester";
    pub const PASSWORD: &'static str = "sesame";

    /// A server of its own, up when this returns.
    pub fn new() -> Mariadb {
        Mariadb::with(&[])
    }

    /// With these settings, such as `max_connect_errors=5`. It listens on 127.0.0.1 unless
    /// `bind-address` is among them.
    pub fn with(settings: &[&str]) -> Mariadb {
        let folder = TempDir::new().expect("a temporary folder");
        copy_of_template(&template(), &folder.path().join("data"), initialise);
        // One statement a line.
        let accounts = format!(
            "CREATE DATABASE IF NOT EXISTS test;\n\
             CREATE USER IF NOT EXISTS '{0}'@'%' IDENTIFIED BY '{1}';\n\
             GRANT ALL ON *.* TO '{0}'@'%' WITH GRANT OPTION;\n",
            Mariadb::USER,
            Mariadb::PASSWORD
        );
        std::fs::write(folder.path().join("accounts.sql"), accounts).expect("a file in it");
        let settings: Vec<String> = settings.iter().map(|s| format!("--{s}")).collect();
        let server = Server::start_in(folder, &MARIADB, move |folder, port| {
            let accounts = folder.join("accounts.sql");
            let mut command = mariadbd(&folder.join("data"));
            command
                .arg(format!("--socket={}", folder.join("sock").display()))
                .arg(format!("--pid-file={}", folder.join("pid").display()))
                .arg(format!("--init-file={}", accounts.display()))
                .arg(format!("--port={port}"))
                .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
                .args(&settings);
            command
        });
        Mariadb { server }
    }

    /// Runs SQL directly, on the server's own socket; rows as lines, columns between tabs.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text)
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// # Errors
    /// What `mariadb` says.
    pub fn try_sql(&self, text: &str) -> Result<String, String> {
        let mut client = quiet();
        client.arg("--socket").arg(self.folder().join("sock"));
        client.args(["-e", text]);
        output(&mut client).map(|rows| rows.trim_end().to_owned())
    }

    /// `mariadb` against `addr`, over TCP, without headings: add `-e SQL`.
    pub fn mariadb(addr: SocketAddr) -> Command {
        let mut client = quiet();
        client
            .args(["--protocol=TCP", "--connect-timeout=10", "-h"])
            .arg(addr.ip().to_string())
            .args(["-P", &addr.port().to_string()]);
        client
    }

    /// Where one of MariaDB's programs is.
    pub fn program(name: &str) -> PathBuf {
        program(name, &[], "mariadb-server")
    }
}

impl Deref for Mariadb {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Mariadb {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

static MARIADB: Kind = Kind {
    name: "MariaDB",
    scheme: "mariadb",
    ready: "ready for connections.",
    stop: Signal::SIGTERM,
    crash: Signal::SIGKILL,
};

fn quiet() -> Command {
    let mut client = Command::new(program("mariadb", &[], "mariadb-client"));
    client
        .args(["--no-defaults", "-N", "-B", "-u", Mariadb::USER])
        .env("MYSQL_PWD", Mariadb::PASSWORD);
    client
}

/// The server with small files and no patience for the disk.
fn mariadbd(data: &Path) -> Command {
    let mut command = Command::new(Mariadb::program("mariadbd"));
    command
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .args(SMALL);
    if is_root() {
        command.arg("--user=root");
    }
    command
}

const SMALL: [&str; 6] = [
    "--innodb-buffer-pool-size=16M",
    "--innodb-log-file-size=4M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-use-native-aio=0",
    "--performance-schema=OFF",
];

fn template() -> String {
    let version = output(Command::new(Mariadb::program("mariadbd")).arg("--version"))
        .unwrap_or_else(|error| panic!("mariadbd --version: {error}"));
    let version: String = version
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("template-{}-{}", version.trim_matches('-'), is_root())
}

fn initialise(data: &Path) {
    let mut install = Command::new(Mariadb::program("mariadb-install-db"));
    install
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .args(SMALL)
        .args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
    if is_root() {
        install.arg("--user=root");
    }
    output(&mut install).unwrap_or_else(|error| panic!("mariadb-install-db: {error}"));
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn serves_sql_stops_and_comes_back_on_its_port() {
        let mut server = Mariadb::with(&["max_connections=17"]);
        assert_eq!(server.sql("SELECT @@max_connections"), "17");
        server.sql("CREATE TABLE test.kept (n int); INSERT INTO test.kept VALUES (7)");
        assert!(server.try_sql("SELECT nonsense").is_err());
        assert!(server.log().contains("ready for connections"));
        let query = |server: &Mariadb| {
            let mut client = Mariadb::mariadb(server.addr());
            output(client.args(["-e", "SELECT n FROM test.kept"]))
        };
        assert_eq!(query(&server).unwrap(), "7\n");
        server.stop();
        assert!(query(&server).is_err());
        server.start();
        assert_eq!(query(&server).unwrap(), "7\n");
        let addr = server.addr();
        drop(server);
        assert!(TcpStream::connect(addr).is_err());
    }
}
