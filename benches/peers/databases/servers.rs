//! The databases behind the proxies.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use super::clients;
use crate::process::{Process, free_port, output, program};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    Redis,
}

/// A database of its own, until dropped.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Server {
    pub fn start(kind: Kind) -> Result<Server, String> {
        match kind {
            Kind::Postgres => Server::postgres(),
            Kind::Redis => Server::redis(),
        }
    }

    /// PostgreSQL with pgbench's tables, which believes everybody who he says he is.
    fn postgres() -> Result<Server, String> {
        let folder = unprivileged_folder()?;
        let data = folder.path().join("data");
        let mut initdb = unprivileged(&postgres_program("initdb")?)?;
        initdb
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(&folder);
        let made = initdb.output().map_err(|e| format!("initdb: {e}"))?;
        if !made.status.success() {
            let errors = String::from_utf8_lossy(&made.stderr);
            return Err(format!("initdb: {}", errors.trim()));
        }
        let port = free_port();
        let mut run = unprivileged(&postgres_program("postgres")?)?;
        run.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        run.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k"]);
        run.arg(folder.path()).current_dir(&folder);
        // INT ends it without waiting for clients.
        let process = Process::serving(&mut run, port, Stdio::null(), Signal::SIGINT)?;
        let latest = Instant::now() + Duration::from_secs(20);
        while let Err(why) = clients::postgres(port, "psql", &["-c", "SELECT 1"], 10) {
            if Instant::now() > latest {
                return Err(why);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        clients::postgres(port, "pgbench", &["-i", "-q", "-s", "5"], 120)?;
        Ok(Server {
            kind: Kind::Postgres,
            port,
            _process: process,
            _folder: folder,
        })
    }

    /// Redis with the key that `redis-benchmark -t get` reads, at 100 bytes.
    fn redis() -> Result<Server, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = free_port();
        let mut run = Command::new(program("redis-server")?);
        run.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        run.args(["--save", "", "--appendonly", "no", "--dir"]);
        run.arg(folder.path());
        let process = Process::serving(&mut run, port, Stdio::null(), Signal::SIGTERM)?;
        let mut set = Command::new(program("redis-benchmark")?);
        set.args(["-p", &port.to_string(), "-t", "set", "-d", "100"]);
        set.args(["-n", "1", "-c", "1", "--csv"]);
        output(&set, 10)?;
        Ok(Server {
            kind: Kind::Redis,
            port,
            _process: process,
            _folder: folder,
        })
    }
}

/// Where one of PostgreSQL's programs is: Debian's wrappers want a cluster of the system.
pub fn postgres_program(name: &str) -> Result<PathBuf, String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let mut versions: Vec<PathBuf> = versions
        .map_err(|_| "PostgreSQL is not installed")?
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .filter(|program| program.exists())
        .collect();
    versions.sort();
    let newest = versions.pop();
    newest.ok_or_else(|| format!("PostgreSQL's {name} is not installed"))
}

/// A program run as `postgres` by root: PostgreSQL and PgBouncer refuse to be root.
pub fn unprivileged(program: &Path) -> Result<Command, String> {
    let mut command = Command::new(program);
    if let Some(user) = account()? {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    Ok(command)
}

/// A folder for such a program.
pub fn unprivileged_folder() -> Result<TempDir, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    if let Some(user) = account()? {
        let (user, group) = (user.uid.as_raw(), user.gid.as_raw());
        std::os::unix::fs::chown(folder.path(), Some(user), Some(group))
            .map_err(|e| e.to_string())?;
    }
    Ok(folder)
}

fn account() -> Result<Option<User>, String> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    match User::from_name("postgres") {
        Ok(Some(user)) => Ok(Some(user)),
        Ok(None) => Err("PostgreSQL's account, postgres, is not there".to_string()),
        Err(error) => Err(error.to_string()),
    }
}
