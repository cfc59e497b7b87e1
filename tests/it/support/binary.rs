//! The built program as a child process: exit codes, signals and memory can only be seen from outside.
//!
//! The child is killed when the value is dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::client::Client;
use super::netns::Netns;
use super::nginx::free_addr;

/// A running `harbr-router`.
pub struct Binary {
    child: Child,
    addr: SocketAddr,
    folder: Arc<TempDir>,
    /// The name of the file it writes its stderr to.
    stderr: String,
}

impl Binary {
    /// Starts the program on a free port with `keys` and waits until it accepts.
    #[track_caller]
    pub fn start(keys: &str) -> Binary {
        Binary::start_in(keys, &[])
    }

    /// As [`start`](Binary::start), with more in its environment.
    #[track_caller]
    pub fn start_in(keys: &str, environment: &[(&str, &OsStr)]) -> Binary {
        let ours = || {
            let mut command = program();
            command.envs(environment.iter().copied());
            command
        };
        Binary::start_as(ours, keys)
    }

    /// As [`start`](Binary::start), of the program that `program` starts.
    #[track_caller]
    pub fn start_as(program: impl Fn() -> Command, keys: &str) -> Binary {
        Binary::start_with(program, keys, |folder| {
            // A file: a pipe that nobody reads is soon full.
            let file = File::create(folder.join("stderr")).expect("a file in it");
            file.into()
        })
    }

    /// As [`start`](Binary::start), with nobody who reads what it writes to stderr.
    #[track_caller]
    pub fn start_unread(keys: &str) -> Binary {
        Binary::start_with(program, keys, |_| Stdio::piped())
    }

    /// As [`start`](Binary::start), on the address of `netns`, where every port is free.
    #[track_caller]
    pub fn start_in_netns(netns: &Netns, keys: &str) -> Binary {
        let addr = SocketAddr::from((netns.inside(), 8080));
        let (folder, file) = config_file(&config(&addr.to_string(), &own(keys)));
        let stderr = File::create(folder.path().join("stderr")).expect("a file in it");
        let child = netns
            .command(env!("CARGO_BIN_EXE_harbr-router"))
            .env_remove("CONFIG_FILE")
            .arg("-c")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the built program starts");
        let mut binary = Binary {
            child,
            addr,
            folder: Arc::new(folder),
            stderr: "stderr".to_owned(),
        };
        assert!(binary.serves(), "a port is taken: {}", binary.said());
        binary
    }

    #[track_caller]
    fn start_with(
        program: impl Fn() -> Command,
        keys: &str,
        stderr: impl Fn(&Path) -> Stdio,
    ) -> Binary {
        for _ in 0..10 {
            let (addr, folder) = (free_addr(), TempDir::new().expect("a temporary folder"));
            let file = folder.path().join("config.yml");
            std::fs::write(&file, config(&addr.to_string(), &own(keys))).expect("a file in it");
            let child = program()
                .arg("-c")
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(stderr(folder.path()))
                .spawn()
                .expect("the built program starts");
            let mut binary = Binary {
                child,
                addr,
                folder: Arc::new(folder),
                stderr: "stderr".to_owned(),
            };
            if binary.serves() {
                return binary;
            }
        }
        panic!("the program found no free port in ten tries");
    }

    /// Starts the program once more, with the same configuration and further `args`; waits for
    /// nothing.
    #[track_caller]
    pub fn beside(&self, args: &[&str]) -> Binary {
        self.beside_as(program(), args)
    }

    /// As [`beside`](Binary::beside), with a command that is set up already.
    #[track_caller]
    pub fn beside_as(&self, mut command: Command, args: &[&str]) -> Binary {
        let folder = self.folder.path();
        let (stderr, file) = (1..)
            .map(|nth| format!("stderr.{nth}"))
            .find_map(|name| Some((name.clone(), File::create_new(folder.join(name)).ok()?)))
            .expect("there is always a next number");
        let child = command
            .arg("-c")
            .arg(folder.join("config.yml"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the built program starts");
        Binary {
            child,
            addr: self.addr,
            folder: Arc::clone(&self.folder),
            stderr,
        }
    }

    /// Returns once it says that it serves.
    #[track_caller]
    pub fn serving(self) -> Binary {
        self.says("] serving");
        self
    }

    /// Returns once `text` is in what it has written to stderr.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.said().contains(text) {
            assert!(Instant::now() < end, "{text:?} is not in {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Puts other keys into its configuration file.
    pub fn rewrite(&self, keys: &str) {
        let text = config(&self.addr.to_string(), &own(keys));
        std::fs::write(self.folder.path().join("config.yml"), text).expect("the folder is there");
    }

    /// What it has written to stderr.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(&self.stderr)).expect("text")
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the child is ours");
    }

    /// The folder of its configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How it ended, when it does so within `longest`.
    pub fn ended_within(&mut self, longest: Duration) -> Option<ExitStatus> {
        ended(&mut self.child, longest)
    }

    /// The most memory it ever had resident, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    /// The memory it has resident, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the child runs");
        let line = status.lines().find_map(|l| l.strip_prefix(field));
        let number = line.and_then(|l| l.trim().strip_suffix(" kB"));
        number.and_then(|n| n.parse().ok()).expect("a number in kB")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// False when the port was taken by somebody else meanwhile.
    fn serves(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.addr).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                let stderr = self.folder.path().join("stderr");
                let text = std::fs::read_to_string(stderr).expect("text");
                assert_eq!(status.code(), Some(1), "the program does not start: {text}");
                return false;
            }
            assert!(Instant::now() < end, "the program does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
        // The port could also be served by whoever was faster; then ours is about to end.
        self.ended_within(Duration::from_millis(50)).is_none()
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program with `args` to its end; panics after ten seconds.
#[track_caller]
pub fn run(args: &[&str]) -> Output {
    run_as(program(), args)
}

/// As [`run`], in `folder` and with `CONFIG_FILE` set.
#[track_caller]
pub fn run_in(folder: &Path, config_file: &str, args: &[&str]) -> Output {
    let mut command = program();
    command.current_dir(folder).env("CONFIG_FILE", config_file);
    run_as(command, args)
}

/// As [`run`], of a program that is set up already.
#[track_caller]
pub fn run_as(mut command: Command, args: &[&str]) -> Output {
    // Files: a pipe that nobody reads is soon full.
    let files = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
    let [stdout, stderr] = files.each_ref().map(|file| {
        let copy = file.try_clone().expect("one more descriptor");
        Stdio::from(copy)
    });
    let mut child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .expect("the built program starts");
    let status = ended(&mut child, Duration::from_secs(10));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let [stdout, stderr] = files.map(|mut file| {
        let mut bytes = Vec::new();
        file.rewind().expect("it is a file");
        file.read_to_end(&mut bytes).expect("it is a file");
        bytes
    });
    let Some(status) = status else {
        let said = String::from_utf8_lossy(&stderr);
        panic!("{args:?} does not end: {said}");
    };
    Output {
        status,
        stdout,
        stderr,
    }
}

/// `keys` with an upgrade socket in the folder of the configuration: that of the machine is no
/// test's.
fn own(keys: &str) -> String {
    let own = "upgrade_sock: gateway.sock";
    let at = |line: &str| keys.starts_with(line) || keys.contains(&format!("\n{line}"));
    if keys.contains("upgrade_sock:") {
        keys.to_owned()
    } else if at("server: {") {
        keys.replacen("server: {", &format!("server: {{{own}, "), 1)
    } else if at("server:\n") {
        keys.replacen("server:\n", &format!("server:\n  {own}\n"), 1)
    } else {
        format!("server: {{{own}}}\n{keys}")
    }
}

/// A configuration with the required keys, `keys` after them.
pub fn config(listen: &str, keys: &str) -> String {
    let mut text = format!("listen_addr: {listen}\nglobal_timeout_ms: 30000\n");
    for (key, value) in [("max_connections", "1000"), ("admin", "false")] {
        if !keys.lines().any(|l| l.starts_with(&format!("{key}:"))) {
            text.push_str(&format!("{key}: {value}\n"));
        }
    }
    text + keys
}

/// `text` in a file that lives as long as what is returned.
pub fn config_file(text: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("config.yml");
    std::fs::write(&file, text).expect("a file in it");
    (folder, file)
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harbr-router"));
    command.env_remove("CONFIG_FILE");
    command
}

fn ended(child: &mut Child, longest: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + longest;
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
