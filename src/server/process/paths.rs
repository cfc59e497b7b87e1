//! Where a gateway keeps its files when the configuration does not say.
//!
//! The command line, the daemon and an upgrade must agree on it. Nothing here touches a file.

use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::config::Config;

/// Whether the gateway keeps the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It keeps the terminal: no pid file and a log to stderr, unless configured.
    Foreground,
    /// It was started with `-d`: pid file and log file have defaults.
    Daemon,
}

/// The files of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `None`: no pid file.
    pub pid_file: Option<PathBuf>,
    /// Where a successor asks for the sockets.
    pub upgrade_sock: PathBuf,
    /// `None`: stderr.
    pub log_file: Option<PathBuf>,
}

impl Paths {
    /// As configured, else by what the configuration file is called: in `/run` and `/var/log` for
    /// root, in `$XDG_RUNTIME_DIR` or the temporary folder for others.
    pub fn of(config: &Config, mode: Mode) -> Paths {
        let run = runtime_folder();
        match Uid::effective().is_root() {
            true => Paths::in_folders(config, mode, &run, Path::new("/var/log")),
            false => Paths::in_folders(config, mode, &run, &run),
        }
    }

    /// Where the gateway of a file that says nothing of it waits for a successor. The file need not
    /// be there.
    pub fn upgrade_sock_of(file: &Path) -> PathBuf {
        runtime_folder().join(named(file, "sock"))
    }

    fn in_folders(config: &Config, mode: Mode, run: &Path, log: &Path) -> Paths {
        let named = |extension: &str| named(&config.file, extension);
        let daemon = |path: PathBuf| (mode == Mode::Daemon).then_some(path);
        let server = &config.server;
        // The log of an ordinary account lies beside its pid file, wherever that is.
        let log = match (&server.pid_file, log == run) {
            (Some(pid_file), true) => pid_file.parent().unwrap_or(log),
            _ => log,
        };
        Paths {
            log_file: server.log_file.clone().or(daemon(log.join(named("log")))),
            pid_file: server.pid_file.clone().or(daemon(run.join(named("pid")))),
            upgrade_sock: match &server.upgrade_sock {
                Some(path) => path.clone(),
                None => run.join(named("sock")),
            },
        }
    }
}

fn runtime_folder() -> PathBuf {
    if Uid::effective().is_root() {
        return PathBuf::from("/run");
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime
        .filter(|folder| folder.is_absolute())
        .unwrap_or_else(std::env::temp_dir)
}

fn named(file: &Path, extension: &str) -> String {
    let stem = file.file_stem().unwrap_or_default();
    format!("harbr-router-{}.{extension}", stem.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1\nmax_connections: 1\n\
                        routes: {/: {upstream: \"http://a\"}}\n";

    fn paths(keys: &str, mode: Mode, run: &str, log: &str) -> [Option<String>; 3] {
        let file = Path::new("/etc/harbr/edge.yml");
        let config = crate::config::parse(&format!("{HEAD}{keys}"), file).unwrap();
        let paths = Paths::in_folders(&config, mode, Path::new(run), Path::new(log));
        let text = |path: PathBuf| path.display().to_string();
        [
            paths.pid_file.map(text),
            Some(text(paths.upgrade_sock)),
            paths.log_file.map(text),
        ]
    }

    fn some(path: &str) -> Option<String> {
        Some(path.to_owned())
    }

    #[test]
    fn a_daemon_has_all_its_files_and_a_gateway_in_the_foreground_only_the_socket() {
        let sock = some("/run/harbr-router-edge.sock");
        assert_eq!(
            paths("", Mode::Daemon, "/run", "/var/log"),
            [
                some("/run/harbr-router-edge.pid"),
                sock.clone(),
                some("/var/log/harbr-router-edge.log")
            ]
        );
        assert_eq!(
            paths("", Mode::Foreground, "/run", "/var/log"),
            [None, sock, None]
        );
    }

    #[test]
    fn what_is_configured_wins_and_means_the_folder_of_the_file() {
        let keys = "server: {pid_file: a.pid, upgrade_sock: /b.sock, log_file: c.log}";
        for mode in [Mode::Daemon, Mode::Foreground] {
            assert_eq!(
                paths(keys, mode, "/run", "/var/log"),
                [
                    some("/etc/harbr/a.pid"),
                    some("/b.sock"),
                    some("/etc/harbr/c.log")
                ]
            );
        }
    }

    #[test]
    fn the_log_of_an_ordinary_account_lies_beside_its_pid_file() {
        let log = |keys| paths(keys, Mode::Daemon, "/tmp", "/tmp")[2].clone();
        assert_eq!(log(""), some("/tmp/harbr-router-edge.log"));
        assert_eq!(
            log("server: {pid_file: /x/a.pid}"),
            some("/x/harbr-router-edge.log")
        );
    }
}
