//! A server of Debian's as a process of the test: its port, its log, its end.
//!
//! It has a folder and a port of its own and is ended by its own pid when the value is dropped. A
//! program that is not there fails the test, which names its package.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

/// A running server.
pub struct Daemon {
    child: Child,
    /// What ends it at once and leaves nothing behind.
    at_once: Signal,
}

impl Daemon {
    /// Starts `command` and returns when its log says `ready`, else the end of its log.
    pub fn start(
        mut command: Command,
        log: &Path,
        ready: &str,
        at_once: Signal,
    ) -> Result<Daemon, String> {
        let file = File::create(log).expect("a log in the folder of the server");
        let copy = file.try_clone().expect("one more descriptor");
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        // A group of its own: an interrupt from the terminal comes to the test, which then ends it.
        command.process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let mut daemon = Daemon { child, at_once };
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text =
                String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
            if text.contains(ready) {
                return Ok(daemon);
            }
            let ended = daemon.child.try_wait().expect("the child is ours");
            if ended.is_some() || Instant::now() > end {
                let tail: Vec<&str> = text.lines().rev().take(20).collect();
                return Err(tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        kill(Pid::from_raw(pid), signal).expect("the child is ours");
    }

    /// Sends `signal` and waits until the process has gone.
    pub fn end_with(&mut self, signal: Signal) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        self.signal(signal);
        // One that is frozen hears of nothing else.
        self.signal(Signal::SIGCONT);
        let end = Instant::now() + Duration::from_secs(30);
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > end {
                // It would stay for ever: gone is more important than tidy.
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end_with(self.at_once);
    }
}

/// The program `name`, searched in `PATH` and in `folders`; its absence fails the test.
pub fn program(name: &str, folders: &[PathBuf], package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")])
        .chain(folders.iter().cloned())
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| {
            panic!("no {name} here: install it with `apt-get install {package}` or run `make test`")
        })
}

/// A port on 127.0.0.1 that is free now and that the system gives to no outgoing connection, so
/// that a server can come back on it.
pub fn lasting_port() -> u16 {
    for _ in 0..1000 {
        let noise = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let noise = noise.map_or(0, |since| since.subsec_nanos()) ^ std::process::id();
        let port = 10_000 + u16::try_from(noise % 20_000).expect("below 20,000");
        if TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok() {
            return port;
        }
    }
    panic!("no free port in a thousand tries")
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// What it printed to stderr, when it failed.
pub fn output(command: &mut Command) -> Result<String, String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }
}

/// A data folder made once by `make` and kept with the build, as a copy in `to`. `name` says what
/// it was made from.
pub fn copy_of_template(name: &str, to: &Path, make: impl FnOnce(&Path)) {
    static MAKING: Mutex<()> = Mutex::new(());
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !kept.is_dir() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let data = folder.path().join("data");
        make(&data);
        let mine = kept.with_extension(format!("of-{}", std::process::id()));
        copy(&data, &mine);
        // Another process may have been faster: then that one is as good.
        if std::fs::rename(&mine, &kept).is_err() {
            std::fs::remove_dir_all(&mine).expect("our own folder");
        }
    }
    drop(making);
    copy(&kept, to);
}

fn copy(from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    cp.args(["-a", "--reflink=auto"]).arg(from).arg(to);
    output(&mut cp).unwrap_or_else(|error| panic!("cp: {error}"));
}

/// Whether the tests run as root, which some servers refuse to.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}
