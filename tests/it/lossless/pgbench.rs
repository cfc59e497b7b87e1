//! pgbench beside a test, and its own account of how it went.
//!
//! A run that lost something may still look busy: what counts is its exit code and its report. It is
//! ended when the value is dropped.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Postgres;

/// A run of the script "TPC-B (sort of)" that goes on until it is asked to finish.
pub struct Pgbench {
    child: Child,
    /// Of stdout and stderr.
    said: [Option<JoinHandle<String>>; 2],
}

impl Pgbench {
    /// Makes its tables.
    #[track_caller]
    pub fn initialise(server: &Postgres) {
        let mut pgbench = Postgres::pgbench(server.addr());
        crate::support::daemon::output(pgbench.args(["-i", "-q"])).unwrap();
    }

    /// `name` is what the server knows its sessions by, `how` are further arguments.
    #[track_caller]
    pub fn start(addr: SocketAddr, name: &str, how: &[&str]) -> Pgbench {
        let mut child = Postgres::pgbench(addr)
            .env("PGAPPNAME", name)
            .args(["-n", "-T", "600"])
            .args(how)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pgbench starts");
        let (out, err) = (child.stdout.take(), child.stderr.take());
        Pgbench {
            child,
            said: [collect(out), collect(err)],
        }
    }

    /// Ends the run as its time limit would: every client finishes its transaction. Returns how many
    /// there were.
    ///
    /// # Errors
    /// All that pgbench said, unless each was processed and it is content itself.
    pub fn finish(mut self) -> Result<u64, String> {
        let still = self.child.try_wait().expect("the child is ours");
        if still.is_none() {
            let pid = i32::try_from(self.child.id()).expect("a pid fits");
            kill(Pid::from_raw(pid), Signal::SIGALRM).expect("the child is ours");
        }
        let status = self.ended();
        let [out, err] = self
            .said
            .each_mut()
            .map(|reader| reader.take().expect("read once").join().expect("text"));
        let said = format!("{status:?}\n{out}\n{err}");
        let line = |start: &str| out.lines().find_map(|line| line.strip_prefix(start));
        let none_failed = line("number of failed transactions: ") == Some("0 (0.000%)");
        let content = status.is_some_and(|s| s.success()) && !err.contains("aborted");
        let processed = line("number of transactions actually processed: ");
        let processed = processed.and_then(|number| number.parse().ok());
        processed.filter(|_| none_failed && content).ok_or(said)
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return Some(status);
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: Option<impl Read + Send + 'static>) -> Option<JoinHandle<String>> {
    let mut from = from.expect("a pipe was asked for");
    Some(std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("text");
        text
    }))
}
