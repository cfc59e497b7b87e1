//! Becoming a daemon: one fork, and the one report its starter waits for.
//!
//! `fork` is the only call here that can break memory: it is sound while the process has one
//! thread, and [`fork`] counts them. Invariants: the starter returns only when the gateway serves
//! or has failed, with its message and exit code; the descriptors 0 to 2 leave the terminal before
//! the starter receives the report, so that a caller that reads them to the end is let go.
// `fork` has no safe form in any crate: what makes it safe is that there is no other thread.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::error::Error;

/// On which side of the fork the caller is.
pub enum Side {
    /// The parent, which waits for the outcome and exits with it.
    Starter(Starting),
    /// The child, which becomes the gateway and reports to its starter once.
    Daemon(Report),
}

/// Forks. The daemon leads a session of its own, without a terminal, and stands in `/`.
///
/// # Errors
/// There is more than one thread, or the system refuses.
pub fn fork() -> Result<Side, Error> {
    let failed = |what: &str, source: io::Error| Error::io(format!("-d: {what}")).because(source);
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|source| failed("cannot open /dev/null", source))?;
    let (reports, to) = UnixStream::pair().map_err(|source| failed("no socket pair", source))?;
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(|source| failed("cannot count the threads of this process", source))?
        .count();
    if threads != 1 {
        return Err(Error::io(format!(
            "-d: a process with {threads} threads cannot be forked"
        )));
    }
    // SAFETY: only the calling thread lives on in the child. It is the only one there is, counted
    // right above, and nothing in between starts another; so no lock and no memory is left in the
    // hands of a thread that is gone.
    let side = unsafe { nix::unistd::fork() }.map_err(|errno| failed("cannot fork", errno.into()));
    match side? {
        ForkResult::Parent { child } => Ok(Side::Starter(Starting { child, reports })),
        ForkResult::Child => {
            drop(reports);
            setsid().map_err(|errno| failed("cannot leave the session", errno.into()))?;
            std::env::set_current_dir("/").map_err(|source| failed("cannot enter /", source))?;
            Ok(Side::Daemon(Report {
                open: Mutex::new(Some(Open { to, null })),
            }))
        }
    }
}

/// A daemon that was forked and has not reported its outcome yet.
pub struct Starting {
    child: Pid,
    reports: UnixStream,
}

/// How it went.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All its listeners accept; its stdout and stderr have left the terminal.
    Serving,
    /// It failed, died or took over a minute: the exit code for the starter, and its message.
    Failed {
        /// The exit code.
        code: u8,
        /// What is printed.
        text: String,
    },
}

impl Starting {
    /// Waits until the daemon serves, has failed or is gone; a minute at most, and then ends it.
    pub fn outcome(mut self) -> Outcome {
        let mut word = [0; 2];
        let report = self
            .reports
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| self.reports.read_exact(&mut word[..1]));
        match report {
            Ok(()) if word[0] == SERVING => Outcome::Serving,
            Ok(()) => self.failure(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.died(),
            Err(_) => {
                // Gone already is as good.
                let _ = kill(self.child, Signal::SIGKILL);
                Outcome::Failed {
                    code: 1,
                    text: format!("the daemon did not serve within {PATIENCE:?} and was ended"),
                }
            }
        }
    }

    fn failure(&mut self) -> Outcome {
        let mut report = Vec::new();
        let mut reports = (&self.reports).take(MAX_TEXT);
        // What came is reported, also when the rest is missing.
        let _ = reports.read_to_end(&mut report);
        // Its log is written when it has ended.
        let _ = waitpid(self.child, None);
        let (code, text) = report.split_first().unwrap_or((&1, &[]));
        Outcome::Failed {
            code: *code,
            text: String::from_utf8_lossy(text).into_owned(),
        }
    }

    fn died(&self) -> Outcome {
        let how = match waitpid(self.child, None) {
            Ok(WaitStatus::Exited(_, code)) => format!("exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
            other => format!("{other:?}"),
        };
        Outcome::Failed {
            code: 1,
            text: format!("the daemon died before it served: {how}"),
        }
    }
}

/// The daemon's word to who started it. It is given once.
pub struct Report {
    open: Mutex<Option<Open>>,
}

struct Open {
    to: UnixStream,
    null: File,
}

impl Report {
    /// All listeners accept. `keep` is where stdout and stderr go from now on, else nowhere.
    pub fn serving(&self, keep: Option<&File>) {
        let Some(Open { mut to, null }) = self.take() else {
            return;
        };
        let output = keep.unwrap_or(&null);
        // None of them fails for descriptors that are open, and nobody is left to report it to.
        let _ = dup2_stdin(&null);
        let _ = point_output_at(output);
        let _ = to.write_all(&[SERVING]);
    }

    /// The gateway does not come up. `code` is the exit code for the starter.
    pub fn failed(&self, code: u8, text: &str) {
        if let Some(Open { mut to, .. }) = self.take() {
            let report = [&[FAILED, code], text.as_bytes()].concat();
            let _ = to.write_all(&report);
        }
    }

    fn take(&self) -> Option<Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.take()
    }
}

/// Makes stdout and stderr of this process write to `file`.
///
/// # Errors
/// The system refuses.
pub fn point_output_at(file: &File) -> io::Result<()> {
    dup2_stdout(file)?;
    dup2_stderr(file)?;
    Ok(())
}

const SERVING: u8 = b'S';
const FAILED: u8 = b'F';
/// Longer than the slowest start: names take two seconds, a handover ten.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_TEXT: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    /// A process that ends as `script` does, and the end of the pair it would have.
    #[expect(clippy::zombie_processes, reason = "`outcome` waits for it")]
    fn starting(script: &str) -> (Starting, UnixStream) {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let (reports, to) = UnixStream::pair().unwrap();
        let child = Pid::from_raw(i32::try_from(child.id()).unwrap());
        (Starting { child, reports }, to)
    }

    #[test]
    fn a_process_with_threads_is_not_forked() {
        let (done, is_done) = mpsc::channel::<()>();
        let other = std::thread::spawn(move || is_done.recv());
        let Err(error) = fork() else {
            panic!("it was forked");
        };
        assert!(error.to_string().contains("threads"), "{error}");
        drop(done);
        let _ = other.join().unwrap();
    }

    #[test]
    fn one_that_dies_before_its_word_is_told_of() {
        for (script, how) in [("exit 3", "exit code 3"), ("kill -9 $$", "SIGKILL")] {
            let (starting, to) = starting(script);
            drop(to);
            let Outcome::Failed { code: 1, text } = starting.outcome() else {
                panic!("it serves?");
            };
            assert!(text.contains("died") && text.contains(how), "{text}");
        }
    }

    #[test]
    fn what_failed_is_told_with_its_code() {
        let (starting, to) = starting("exit 1");
        let report = Report {
            open: Mutex::new(Some(Open {
                to,
                null: File::open("/dev/null").unwrap(),
            })),
        };
        report.failed(78, "first\nsecond");
        report.failed(1, "only the first word counts");
        assert_eq!(
            starting.outcome(),
            Outcome::Failed {
                code: 78,
                text: "first\nsecond".to_owned()
            }
        );
    }
}
