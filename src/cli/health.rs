//! `harbr-router health`: asks the running gateway whether it is ready.
//!
//! For health checks of containers: it needs no curl in the image and answers within seconds.
//! Invariant: a gateway that runs is judged by its own answer, never by what was written into its
//! file since it read it; the file is read only when no running gateway reports where its admin
//! listener is.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::config;
use crate::error::Error;
use crate::server::lifecycle::handoff;
use crate::server::process::paths::{Mode, Paths};

/// Asks the gateway that was started with `file`, which need not be valid any more.
///
/// # Errors
/// No running gateway was found, and the file does not name where one would be.
pub(super) fn of(file: &Path) -> Result<ExitCode, Error> {
    let read = config::load(file);
    // A key that was added since the start leads nowhere; the name that goes without it may.
    let configured = match &read {
        Ok(config) => Some(Paths::of(config, Mode::Foreground).upgrade_sock),
        Err(_) => config::upgrade_sock_in(file),
    };
    let mut sockets = vec![Paths::upgrade_sock_of(file)];
    sockets.extend(configured);
    sockets.dedup();
    let mut running = sockets.iter().rev().filter_map(|path| handoff::ask(path));
    if let Some(running) = running.find(|running| is_same(&running.config, file)) {
        if running.admin.is_empty() {
            let pid = running.pid;
            eprintln!(
                "admin: false in the running gateway (process {pid}): there is nobody to ask"
            );
            return Ok(ExitCode::FAILURE);
        }
        return Ok(ask(&running.admin));
    }
    let config = read.map_err(|problems| {
        let paths: Vec<String> = sockets.iter().map(|path| path.display().to_string()).collect();
        Error::config(format!(
            "no running gateway of {} answers on {}, and the file does not tell where one is:\n{problems}",
            file.display(),
            paths.join(" or "),
        ))
    })?;
    let Some(admin) = &config.admin else {
        eprintln!(
            "admin: false in {}: there is nobody to ask",
            config.file.display()
        );
        return Ok(ExitCode::FAILURE);
    };
    let addrs = admin.listen_addr.iter().map(|listen| listen.addr);
    Ok(ask(&addrs.collect::<Vec<_>>()))
}

/// Asks the gateway whose admin listener is at `addr`, and reads no file.
///
/// # Errors
/// It is no address with a port, or its name does not resolve.
pub(super) fn at(addr: &str) -> Result<ExitCode, Error> {
    let resolved = addr.to_socket_addrs().map_err(|source| {
        Error::io(format!(
            "--admin {addr}: write an address like 127.0.0.1:9901"
        ))
        .because(source)
    })?;
    Ok(ask(&resolved.collect::<Vec<_>>()))
}

/// Exit code 0 when `/readyz` of the first that answers says 200, else 1 with the reason on stderr.
fn ask(addrs: &[SocketAddr]) -> ExitCode {
    for addr in addrs.iter().copied().map(reachable) {
        match readyz(addr) {
            Ok(head) if head.starts_with("HTTP/1.1 200") => {
                println!("ready");
                return ExitCode::SUCCESS;
            }
            Ok(head) => {
                eprintln!("{addr}: {}", head.lines().next().unwrap_or("no answer"));
                return ExitCode::FAILURE;
            }
            Err(error) => eprintln!("{addr}: {error}"),
        }
    }
    ExitCode::FAILURE
}

/// Whether a gateway that was started with `running` is the one that `asked` means. A file that is
/// gone means the gateway of its name.
fn is_same(running: &Path, asked: &Path) -> bool {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    // As the running gateway could say it.
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    text(whole(running)) == text(whole(asked))
        || match (running.canonicalize(), asked.canonicalize()) {
            (Ok(running), Ok(asked)) => running == asked,
            _ => !asked.exists(),
        }
}

fn readyz(addr: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A listener on all addresses is asked on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

const PATIENCE: Duration = Duration::from_secs(3);
