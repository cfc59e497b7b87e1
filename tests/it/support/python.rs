//! The database drivers that users have, in Python: psycopg, PyMySQL, redis-py.
//!
//! Its own file because they live in an environment of the build's (`scripts/install-deps test`).
//! Invariant: a script is ended when it takes longer than a minute, and what it says on stderr is
//! in the panic when it fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a script to its end and returns what it printed; `args` are its `sys.argv[1:]`.
#[track_caller]
pub fn python(script: &str, args: &[&str]) -> String {
    let mut running = Python::start(python_command(), script, args);
    running.end(Duration::from_secs(60))
}

/// The interpreter that has the drivers.
pub fn interpreter() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pyenv/bin/python");
    assert!(
        python.is_file(),
        "no Python drivers here: run `scripts/install-deps test` or `make test`"
    );
    python
}

/// The interpreter as a command.
pub fn python_command() -> Command {
    Command::new(interpreter())
}

/// A running script; killed when the value goes.
pub struct Python {
    child: Option<Child>,
}

impl Python {
    /// Starts a script with `command`, which names an interpreter.
    pub fn start(mut command: Command, script: &str, args: &[&str]) -> Python {
        // A deadline and no other way to hang; unbuffered, so that a test can follow it.
        let script = format!("import socket, sys\nsocket.setdefaulttimeout(30)\n{script}");
        let child = command
            .args(["-u", "-c", &script])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Python { child: Some(child) }
    }

    /// What it printed, once it has ended well; panics when it does not within `longest`.
    #[track_caller]
    pub fn end(&mut self, longest: Duration) -> String {
        let mut child = self.child.take().expect("ended once");
        let out = reader(child.stdout.take());
        let err = reader(child.stderr.take());
        let end = Instant::now() + longest;
        let status = loop {
            if let Some(status) = child.try_wait().expect("the child is ours") {
                break Some(status);
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let (out, err) = (out.join().expect("a reader"), err.join().expect("a reader"));
        match status {
            Some(status) if status.success() => out,
            Some(status) => panic!("the script failed ({status}):\n{out}\n{err}"),
            None => panic!("the script takes longer than {longest:?}:\n{out}\n{err}"),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn reader(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is worth as much.
            let _ = pipe.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}
