//! The built program in the background, as `harbr-router -d` starts it.
//!
//! A daemon is nobody's child and is known by its pid file only. It is ended, by that pid, when the
//! value is dropped; all its files are in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::binary::{config, program};
use super::client::Client;
use super::eventually;
use super::nginx::free_addr;

/// A folder with a configuration, and the daemon that may run from it.
pub struct Background {
    folder: TempDir,
    addr: SocketAddr,
}

impl Background {
    /// Only the folder, with a configuration of `keys` below a free port. `server` are keys of
    /// `server:`, beside those for its files.
    pub fn prepare(server: &str, keys: &str) -> Background {
        let background = Background {
            folder: TempDir::new().expect("a temporary folder"),
            addr: free_addr(),
        };
        background.rewrite(server, keys);
        background
    }

    /// Starts it; returns when the starter has.
    #[track_caller]
    pub fn start(server: &str, keys: &str) -> Background {
        for _ in 0..10 {
            let background = Background::prepare(server, keys);
            let output = background.launch();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.code() == Some(0) {
                return background;
            }
            assert!(said.contains("cannot bind"), "{output:?}");
        }
        panic!("the program found no free port in ten tries");
    }

    /// Writes its configuration anew.
    pub fn rewrite(&self, server: &str, keys: &str) {
        let own = "pid_file: gateway.pid\n  upgrade_sock: gateway.sock\n  log_file: gateway.log";
        let keys = format!("server:\n  {own}\n{server}{keys}");
        let text = config(&self.addr.to_string(), &keys);
        std::fs::write(self.file("config.yml"), text).expect("a file in it");
    }

    /// `harbr-router -d`, from the folder above its own.
    #[track_caller]
    pub fn launch(&self) -> Output {
        self.launch_with(&[])
    }

    /// As [`launch`](Background::launch), with further `args`.
    #[track_caller]
    pub fn launch_with(&self, args: &[&str]) -> Output {
        self.launch_as(program(), args)
    }

    /// As [`launch_with`](Background::launch_with), of another program.
    #[track_caller]
    pub fn launch_as(&self, mut command: Command, args: &[&str]) -> Output {
        let folder = self.folder.path();
        command.current_dir(folder.parent().expect("a folder below another"));
        let name = Path::new(folder.file_name().expect("it has a name"));
        command
            .arg("-d")
            .args(args)
            .arg("-c")
            .arg(name.join("config.yml"));
        read_to_the_end(command)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of its folder, empty when it is not there.
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Whom the pid file names.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        let text = self.text("gateway.pid");
        Pid::from_raw(text.trim().parse().expect("a pid in the pid file"))
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    /// Sends TERM and waits until it has gone.
    #[track_caller]
    pub fn stop(&self) {
        let pid = self.pid();
        self.signal(Signal::SIGTERM);
        eventually(Duration::from_secs(10), "the daemon ends", || gone(pid));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(pid) = self.text("gateway.pid").trim().parse() {
            let pid = Pid::from_raw(pid);
            // A test may have put anything there: only what runs from this folder is ours.
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let own = self.folder.path().file_name().expect("it has a name");
            if String::from_utf8_lossy(&line).contains(&*own.to_string_lossy()) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
}

/// Whether the process is there no more; one that nobody has waited for is gone too.
pub fn gone(pid: Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => true,
    }
}

/// Runs `command` and reads what it prints until nobody holds its pipes any more.
#[track_caller]
pub fn read_to_the_end(mut command: Command) -> Output {
    let (done, is_done) = mpsc::channel();
    command.stdin(Stdio::piped());
    std::thread::spawn(move || done.send(command.output()));
    let output = is_done
        .recv_timeout(Duration::from_secs(20))
        .expect("the pipes are closed when the starter ends");
    output.expect("the built program starts")
}
