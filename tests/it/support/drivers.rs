//! Database drivers as applications use them: psycopg, asyncpg, PyMySQL and redis-py, in a Python of
//! their own.
//!
//! What a driver makes of an error is what an application sees of the gateway. The drivers are
//! installed once, into a virtual environment beside the build, within two minutes or not at all; what
//! is missing fails the test and is named.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Postgres;
use super::daemon::{output, program};

/// The drivers, as pip is asked for them.
const DRIVERS: [&str; 4] = [
    "psycopg[binary]==3.2.*",
    "asyncpg==0.32.*",
    "PyMySQL==1.1.*",
    "redis==5.*",
];

/// A Python that has the drivers: add `-c` and a program.
pub fn python() -> Command {
    let mut command = Command::new(environment().join("bin/python"));
    // No byte code is written by several tests at once.
    command.args(["-B", "-u"]);
    command
}

/// Runs a psycopg program against `addr`, as superuser of a [`Postgres`]; returns what it printed.
/// It has `connect(**options)`, `psycopg`, `time`, `sys` and `threading`.
///
/// # Errors
/// The traceback, when the program fails.
pub fn psycopg(addr: SocketAddr, text: &str) -> Result<String, String> {
    output(&mut psycopg_command(addr, text)).map(|out| out.trim_end().to_owned())
}

/// The same, running beside the test.
pub fn psycopg_running(addr: SocketAddr, text: &str) -> Child {
    psycopg_command(addr, text)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts")
}

fn psycopg_command(addr: SocketAddr, text: &str) -> Command {
    let mut command = python();
    Postgres::environment(&mut command, addr);
    command.args(["-c", &format!("{PSYCOPG}{text}")]);
    command
}

const PSYCOPG: &str = "\
import psycopg, sys, threading, time
def connect(**options):
    return psycopg.connect(autocommit=True, **options)
";

fn environment() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drivers");
    let lock = File::create(folder.with_extension("lock")).expect("the build's folder is ours");
    // Other test binaries wait, too.
    lock.lock().expect("a file of ours can be locked");
    let made = folder.join("made-of");
    let wanted = DRIVERS.join("\n");
    if std::fs::read_to_string(&made).is_ok_and(|made| made == wanted) {
        return folder;
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("our own folder");
    }
    let mut venv = Command::new(program("python3", &[], "python3"));
    venv.args(["-m", "venv"]).arg(&folder);
    bounded(
        &mut venv,
        "python3-venv is needed (`apt-get install python3-venv`)",
    );
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--timeout", "20"])
        .args(DRIVERS);
    bounded(&mut pip, "the drivers cannot be installed with pip");
    std::fs::write(made, wanted).expect("our own folder");
    folder
}

/// Runs to its end, or panics with `what`.
#[track_caller]
fn bounded(command: &mut Command, what: &str) {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            assert!(
                status.success(),
                "{what}: {command:?} failed, its reason is above"
            );
            return;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{what}: {command:?} takes longer than two minutes");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_drivers_are_there_and_psycopg_talks_to_a_server() {
        let versions = output(python().args([
            "-c",
            "import asyncpg, psycopg, pymysql, redis; print(psycopg.__version__)",
        ]));
        assert!(versions.unwrap().starts_with("3."));
        let server = Postgres::new();
        let one = psycopg(
            server.addr(),
            "print(connect().execute('SELECT 1').fetchone()[0])",
        );
        assert_eq!(one.unwrap(), "1");
        let error = psycopg(server.addr(), "connect(dbname='nowhere')").unwrap_err();
        assert!(error.contains("OperationalError"), "{error}");
    }
}
