//! The ways to a database: direct, and through each proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::bare::AS_RELAY;
use super::servers::{Kind, Server, unprivileged, unprivileged_folder};
use crate::process::{Process, free_port, program};

pub struct Way {
    pub name: &'static str,
    pub port: u16,
    /// `None`: direct.
    pub proxy: Option<Process>,
    _folder: Option<TempDir>,
}

/// All ways that there are to this server, with proxies just started, or why one cannot be gone.
pub fn to(server: &Server) -> Vec<(&'static str, Result<Way, String>)> {
    let direct = Way {
        name: "direct",
        port: server.port,
        proxy: None,
        _folder: None,
    };
    let mut ways = vec![("harbr-router", ours(server)), ("haproxy", haproxy(server))];
    if server.kind == Kind::Postgres {
        ways.push(("pgbouncer", pgbouncer(server)));
    }
    ways.push(("direct", Ok(direct)));
    ways
}

fn haproxy(server: &Server) -> Result<Way, String> {
    let program = program("haproxy")?;
    let port = free_port();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let text = format!(
        "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  option splice-auto\n  \
         timeout connect 5s\n  timeout client 1h\n  timeout server 1h\nlisten database\n  \
         bind 127.0.0.1:{port}\n  server one 127.0.0.1:{}\n",
        server.port
    );
    let config = write(folder.path(), "haproxy.cfg", &text)?;
    let mut run = Command::new(program);
    run.arg("-db").arg("-f").arg(config);
    started("haproxy", port, folder, &mut run)
}

fn ours(server: &Server) -> Result<Way, String> {
    let port = free_port();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let scheme = match server.kind {
        Kind::Postgres => "postgres",
        Kind::Redis => "redis",
    };
    let text = format!(
        "listen_addr: 127.0.0.1:{}\nglobal_timeout_ms: 5000\nmax_connections: 2000\nadmin: false\n\
         server: {{threads: 2}}\n\
         tcp_proxy: {{enabled: true, listen_addr: \"127.0.0.1:{port}\"}}\nroutes:\n  \
         \"/\": {{upstream: \"http://127.0.0.1:9\"}}\n  \
         database: {{upstream: \"{scheme}://127.0.0.1:{}\"}}\n",
        free_port(),
        server.port,
    );
    let config = write(folder.path(), "config.yml", &text)?;
    let mut run = Command::new(env!("CARGO_BIN_EXE_harbr-router"));
    run.arg("-c").arg(config);
    started("harbr-router", port, folder, &mut run)
}

pub fn bare(server: &Server) -> Result<Way, String> {
    let port = free_port();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut run = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    run.args([AS_RELAY, &format!("127.0.0.1:{port}")]);
    run.arg(format!("127.0.0.1:{}", server.port));
    started("bare relay", port, folder, &mut run)
}

fn pgbouncer(server: &Server) -> Result<Way, String> {
    let program = program("pgbouncer")?;
    let port = free_port();
    let folder = unprivileged_folder()?;
    let users = write(folder.path(), "users.txt", "\"postgres\" \"\"\n")?;
    let text = format!(
        "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\npool_mode = session\nauth_type = trust\n\
         auth_file = {}\nmax_client_conn = 2000\ndefault_pool_size = 50\nlog_connections = 0\n\
         log_disconnections = 0\nlog_stats = 0\n",
        server.port,
        users.display()
    );
    let config = write(folder.path(), "pgbouncer.ini", &text)?;
    let mut run = unprivileged(&program)?;
    run.arg(config).current_dir(&folder);
    started("pgbouncer", port, folder, &mut run)
}

fn started(
    name: &'static str,
    port: u16,
    folder: TempDir,
    run: &mut Command,
) -> Result<Way, String> {
    let process = Process::serving(run, port, Stdio::null(), Signal::SIGTERM)?;
    Ok(Way {
        name,
        port,
        proxy: Some(process),
        _folder: Some(folder),
    })
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(|e| e.to_string())?;
    Ok(path)
}
