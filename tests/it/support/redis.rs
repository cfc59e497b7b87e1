//! Redis as Debian has it, with its own client.
//!
//! Its own file because it is one of the three real databases of the tests. Invariant: as
//! [`daemon`](super::daemon) has it; nothing is written to disk, so a restart forgets everything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::daemon::{Daemon, lasting_port, output, program};

/// A Redis server, until dropped.
pub struct Redis {
    port: u16,
    folder: TempDir,
    settings: Vec<String>,
    running: Option<Daemon>,
}

impl Redis {
    /// A server of its own, without a password, up when this returns.
    pub fn new() -> Redis {
        Redis::with(&[])
    }

    /// With these words on its command line, such as `["--requirepass", "sesame"]`.
    pub fn with(settings: &[&str]) -> Redis {
        let mut server = Redis {
            port: 0,
            folder: TempDir::new().expect("a temporary folder"),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            running: None,
        };
        let mut last = String::new();
        for _ in 0..5 {
            server.port = lasting_port();
            match server.try_start() {
                Ok(()) => return server,
                Err(log) => last = log,
            }
        }
        panic!("Redis does not start:\n{last}");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// As an upstream.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it as an operator would.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.end_with(Signal::SIGTERM);
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.end_with(Signal::SIGKILL);
        }
    }

    /// Starts it again, empty, on the same port.
    pub fn start(&mut self) {
        if self.running.is_none() {
            self.try_start()
                .unwrap_or_else(|log| panic!("Redis does not start again:\n{log}"));
        }
    }

    /// Runs one command directly, with the password if there is one.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let mut client = Redis::redis_cli(self.addr());
        let password = self.settings.iter().position(|s| s == "--requirepass");
        if let Some(password) = password.and_then(|at| self.settings.get(at + 1)) {
            client.env("REDISCLI_AUTH", password);
        }
        // It ends well whatever the answer is, and says an error as text.
        let answer = output(client.args(words));
        let answer = answer.unwrap_or_else(|error| panic!("redis-cli {words:?}: {error}"));
        answer.trim_end().to_owned()
    }

    /// `redis-cli` against `addr`: add the words of a command.
    pub fn redis_cli(addr: SocketAddr) -> Command {
        let mut client = Command::new(program("redis-cli", &[], "redis-tools"));
        client
            .arg("-h")
            .arg(addr.ip().to_string())
            .args(["-p", &addr.port().to_string()]);
        client
    }

    /// Where one of Redis' programs is.
    pub fn program(name: &str) -> PathBuf {
        program(name, &[], "redis-server")
    }

    /// The log of the server.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn try_start(&mut self) -> Result<(), String> {
        let mut command = Command::new(Redis::program("redis-server"));
        command
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.settings);
        let log = self.folder.path().join("log");
        let ready = "Ready to accept connections";
        self.running = Some(Daemon::start(command, &log, ready, Signal::SIGKILL)?);
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Before the folder goes.
        self.running = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn serves_commands_stops_and_comes_back_on_its_port() {
        let mut server = Redis::with(&["--requirepass", "sesame"]);
        assert_eq!(server.run(&["SET", "key", "value"]), "OK");
        assert_eq!(server.run(&["GET", "key"]), "value");
        assert!(server.log().contains("Ready to accept connections"));
        let stranger = output(Redis::redis_cli(server.addr()).args(["GET", "key"]));
        assert!(stranger.unwrap().starts_with("NOAUTH"));
        server.stop();
        assert!(TcpStream::connect(server.addr()).is_err());
        server.start();
        assert_eq!(server.run(&["PING"]), "PONG");
        let addr = server.addr();
        drop(server);
        assert!(TcpStream::connect(addr).is_err());
    }
}
