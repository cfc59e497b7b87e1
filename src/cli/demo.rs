//! `harbr-router demo`: two tiny origins and the gateway in front of them, to try it out.
//!
//! The origins live in threads of this process, on free ports; the gateway is the real one, with
//! the printed configuration.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::config;
use crate::error::Error;
use crate::server::Gateway;

/// Runs until Ctrl-C.
pub(super) fn run(add: impl FnOnce(Gateway) -> Gateway) -> Result<ExitCode, Error> {
    let one = origin("one")?;
    let two = origin("two")?;
    let dead = dead_port()?;
    let yaml = yaml(one, two, dead);
    let config = config::parse(&yaml, Path::new("demo.yml"))
        .map_err(|problems| Error::config(problems.to_string()))?;
    let gateway = add(Gateway::new(config));
    println!("{yaml}");
    println!("{}", commands(&program()));
    gateway.run()?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration of the demo.
fn yaml(one: SocketAddr, two: SocketAddr, dead: SocketAddr) -> String {
    format!(
        "\
# The configuration this demo runs.
listen_addr: 127.0.0.1:8080
global_timeout_ms: 5000
max_connections: 1000
admin:
  listen_addr: 127.0.0.1:9901
routes:
  /:
    upstream: [http://{one}, http://{two}]
  /retry:                      # one endpoint is dead: nobody notices
    upstream: [http://{dead}, http://{two}]
    retry_count: 1
"
    )
}

/// How this program was called: it need not be in the search path.
fn program() -> String {
    let called = std::env::args().next();
    called.unwrap_or_else(|| "harbr-router".to_string())
}

fn commands(program: &str) -> String {
    format!(
        "\
Try, in another terminal:
  curl -i http://127.0.0.1:8080/hello                # a routed request, origins take turns
  curl -i http://127.0.0.1:8080/retry                # a retry around a dead endpoint
  curl -s http://127.0.0.1:9901/metrics | grep harbr # metrics
  curl -s http://127.0.0.1:9901/status               # status
  {program} explain -c conf/gateway.yaml http://example.org/api/x   # which route, and why
Ctrl-C ends it.
"
    )
}

/// An origin that answers every request with its name and what it got.
fn origin(name: &'static str) -> Result<SocketAddr, Error> {
    let failed = |source| Error::io("the demo cannot start its origins").because(source);
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    std::thread::Builder::new()
        .name(format!("origin {name}"))
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(name, &stream));
            }
        })
        .map_err(failed)?;
    Ok(addr)
}

fn serve(name: &str, stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let mut head = first.clone();
        while reader.read_line(&mut head)? > 2 {}
        let body = format!("origin {name} got: {}\n", first.trim_end());
        let length = body.len();
        let has_body = head.lines().any(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with("content-length:") || line.starts_with("transfer-encoding:")
        });
        let close = match has_body {
            true => "Connection: close\r\n",
            false => "",
        };
        let body = match first.starts_with("HEAD ") {
            true => "",
            false => &body,
        };
        // One write: several small ones would wait for each other's acknowledgement.
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n{close}\r\n{body}"
        );
        writer.write_all(response.as_bytes())?;
        if has_body {
            return Ok(());
        }
    }
}

/// A port that nobody listens on: bound once, and let go.
fn dead_port() -> Result<SocketAddr, Error> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::io("the demo cannot find a free port").because(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_runs_a_configuration_that_is_accepted() {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let config = config::parse(&yaml(addr(1), addr(2), addr(3)), Path::new("demo.yml"));
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.http_routes.len(), 2);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}
