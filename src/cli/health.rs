//! `harbr-router health`: asks the running gateway whether it is ready.
//!
//! Its own file because it is a client, the only one here. Called by container health checks, so it
//! needs no curl in the image and answers within seconds.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use crate::config::Config;

/// Exit code 0 when `/readyz` answers 200, else 1 with the reason on stderr.
pub fn ask(config: &Config) -> ExitCode {
    let Some(admin) = &config.admin else {
        eprintln!(
            "admin: false in {}: there is nobody to ask",
            config.file.display()
        );
        return ExitCode::FAILURE;
    };
    let addr = reachable(admin.listen_addr.addr);
    match readyz(addr) {
        Ok(head) if head.starts_with("HTTP/1.1 200") => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Ok(head) => {
            eprintln!("{addr}: {}", head.lines().next().unwrap_or("no answer"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{addr}: {error}");
            ExitCode::FAILURE
        }
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
