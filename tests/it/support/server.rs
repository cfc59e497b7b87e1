//! A database server as the tests have it: it starts, stops, crashes, freezes and comes back on its
//! port.
//!
//! PostgreSQL, MariaDB and Redis differ in their command lines only. As for any
//! [`daemon`](super::daemon), and its folder is removed after it has ended.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::daemon::{Daemon, lasting_port};

/// A server, until dropped.
pub struct Server {
    // Before the folder, which goes last.
    running: Option<Daemon>,
    kind: &'static Kind,
    port: u16,
    command: CommandLine,
    folder: TempDir,
}

/// Makes a command line for a folder and a port.
type CommandLine = Box<dyn Fn(&Path, u16) -> Command + Send + Sync>;

/// What one product's servers have in common.
pub struct Kind {
    pub name: &'static str,
    /// Of its URL as an upstream.
    pub scheme: &'static str,
    /// What its log says when it serves.
    pub ready: &'static str,
    /// What ends it as an operator would.
    pub stop: Signal,
    /// What ends it as a crash would, and leaves nothing behind.
    pub crash: Signal,
}

impl Server {
    /// A server in this folder, up when this returns. `command` makes its command line for folder
    /// and port.
    pub fn start_in(
        folder: TempDir,
        kind: &'static Kind,
        command: impl Fn(&Path, u16) -> Command + Send + Sync + 'static,
    ) -> Server {
        let mut server = Server {
            running: None,
            kind,
            port: 0,
            command: Box::new(command),
            folder,
        };
        let mut last = String::new();
        for _ in 0..5 {
            server.port = lasting_port();
            match server.try_start() {
                Ok(()) => return server,
                Err(log) => last = log,
            }
        }
        panic!("{} does not start:\n{last}", kind.name);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// As an upstream.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.kind.scheme, self.port)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its log.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Ends it as an operator would.
    pub fn stop(&mut self) {
        self.end_with(self.kind.stop);
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.end_with(self.kind.crash);
    }

    /// Starts it again, on the same port.
    pub fn start(&mut self) {
        if self.running.is_none() {
            self.try_start()
                .unwrap_or_else(|log| panic!("{} does not start again:\n{log}", self.kind.name));
        }
    }

    /// It answers nobody any more; the system still takes connections in its name.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("it was started");
        running.signal(signal);
    }

    fn end_with(&mut self, signal: Signal) {
        if let Some(mut running) = self.running.take() {
            running.end_with(signal);
        }
    }

    fn try_start(&mut self) -> Result<(), String> {
        let folder = self.folder.path();
        let command = (self.command)(folder, self.port);
        let (log, kind) = (folder.join("log"), self.kind);
        self.running = Some(Daemon::start(command, &log, kind.ready, kind.crash)?);
        Ok(())
    }
}
