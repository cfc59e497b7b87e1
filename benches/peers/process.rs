//! Programs started for a run: found, started, ended, and what they use, from /proc.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A server or proxy with its children; ended when dropped.
pub struct Process {
    child: Child,
    end: Signal,
}

impl Process {
    /// Starts a program and waits until it listens on `port`. Its output goes to `output`. It is
    /// told to end by `end`: what most take for that is not what PostgreSQL does.
    pub fn serving(
        run: &mut Command,
        port: u16,
        output: Stdio,
        end: Signal,
    ) -> Result<Process, String> {
        let mut errors = tempfile::tempfile().map_err(|e| e.to_string())?;
        let kept = errors.try_clone().map_err(|e| e.to_string())?;
        run.stdin(Stdio::null()).stdout(output).stderr(kept);
        let child = run.spawn().map_err(|e| format!("{run:?}: {e}"))?;
        let mut process = Process { child, end };
        let latest = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Ok(Some(status)) = process.child.try_wait() {
                let why = format!("it ended at once: {status}: {}", tail(&mut errors));
                return Err(why.trim_end_matches([' ', ':']).to_string());
            }
            if Instant::now() > latest {
                return Err(format!("nothing listens on port {port}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(process)
    }

    /// CPU seconds that its tree has used.
    pub fn cpu(&self) -> f64 {
        let of = |pid: &u32| -> f64 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            let ticks = fields.split_whitespace().skip(11).take(2);
            let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
            // USER_HZ, which Linux fixes at 100 for programs.
            ticks as f64 / 100.0
        };
        self.tree().iter().map(of).sum()
    }

    /// The most memory its tree has had since it was started, in MB: the sum of each process's own
    /// peak, so what several share counts for each. `None`: it is gone.
    pub fn peak_megabytes(&self) -> Option<f64> {
        let kilobytes = self.memory("VmHWM:");
        (kilobytes > 0.0).then_some(kilobytes / 1e3)
    }

    /// A memory field of /proc/PID/status, in KB, summed over the tree.
    pub fn memory(&self, field: &str) -> f64 {
        let of = |pid: &u32| -> f64 {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok())
                .unwrap_or(0.0)
        };
        self.tree().iter().map(of).sum()
    }

    fn tree(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            let children: Vec<u32> = threads
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
                .flat_map(|text| {
                    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
                    pids.collect::<Vec<u32>>()
                })
                .collect();
            all.extend(children);
            next += 1;
        }
        all
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx and Caddy end their children when told, not when killed.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), self.end);
        let latest = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < latest {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program prints when it ends well within `seconds`, else what it complains about.
pub fn output(run: &Command, seconds: u64) -> Result<String, String> {
    let name = Path::new(run.get_program()).display();
    let mut limited = Command::new("timeout");
    limited.arg("--kill-after=5").arg(seconds.to_string());
    limited.arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    let output = limited.stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(124 | 137) => Err(format!("{name} was not done in {seconds} s")),
        _ => Err(format!("{name}: {}: {}", output.status, end_of(&errors))),
    }
}

/// Where a program is, also where a user's PATH does not lead.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name));
    found
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| format!("{name} is not installed"))
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

fn tail(file: &mut File) -> String {
    let mut text = Vec::new();
    let _ = file.rewind();
    let _ = file.read_to_end(&mut text);
    end_of(&String::from_utf8_lossy(&text))
}

/// The last three lines, as one.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines[lines.len().saturating_sub(3)..].join(" ")
}
