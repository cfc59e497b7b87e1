//! Redis as Debian has it, with its own client.
//!
//! A [`server`](super::server) that writes nothing to disk, so a restart forgets everything.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::daemon::{output, program};
use super::server::{Kind, Server};

/// A Redis server, until dropped.
pub struct Redis {
    server: Server,
    settings: Vec<String>,
}

impl Redis {
    /// A server of its own, without a password, up when this returns.
    pub fn new() -> Redis {
        Redis::with(&[])
    }

    /// With these words on its command line, such as `["--requirepass", "sesame"]`.
    pub fn with(settings: &[&str]) -> Redis {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        let folder = TempDir::new().expect("a temporary folder");
        let words = settings.clone();
        let server = Server::start_in(folder, &REDIS, move |folder, port| {
            let mut command = Command::new(Redis::program("redis-server"));
            command
                .args(["--port", &port.to_string()])
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
                .args(["--daemonize", "no", "--repl-diskless-sync-delay", "0"])
                .arg("--dir")
                .arg(folder)
                .args(&words);
            command
        });
        Redis { server, settings }
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
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

static REDIS: Kind = Kind {
    name: "Redis",
    scheme: "redis",
    ready: "Ready to accept connections",
    stop: Signal::SIGTERM,
    crash: Signal::SIGKILL,
};

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
