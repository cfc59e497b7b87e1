//! The loads: wrk for as much as goes, and idle connections.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{output, program};

/// What wrk sends.
pub struct Load {
    pub name: &'static str,
    path: &'static str,
    connections: u32,
    script: &'static str,
}

/// What came of a load.
pub struct Done {
    pub requests: f64,
    pub seconds: f64,
    pub errors: f64,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

pub const LOADS: &[Load] = &[
    Load {
        name: "small GET",
        path: "/1k",
        connections: 32,
        script: "",
    },
    Load {
        name: "100 KB",
        path: "/100k",
        connections: 32,
        script: "",
    },
    Load {
        name: "1 MB",
        path: "/1m",
        connections: 16,
        script: "",
    },
    Load {
        name: "POST 64 KB",
        path: "/post",
        connections: 32,
        script: "wrk.method = 'POST'\nwrk.body = string.rep('x', 65536)\n",
    },
    Load {
        name: "new connection",
        path: "/1k",
        connections: 32,
        script: "wrk.headers['Connection'] = 'close'\n",
    },
];

impl Load {
    pub fn drive(&self, port: u16, seconds: u32, folder: &Path) -> Result<Done, String> {
        let script = folder.join("load.lua");
        fs::write(&script, format!("{}{TELL}", self.script)).map_err(|e| e.to_string())?;
        let mut run = Command::new(program("wrk")?);
        run.args(["-t1", "--timeout", "10s", "-c"])
            .arg(self.connections.to_string())
            .arg(format!("-d{seconds}s"))
            .arg("-s")
            .arg(&script)
            .arg(format!("http://127.0.0.1:{port}{}", self.path));
        let text = output(&run, u64::from(seconds) + 60)?;
        let told = text.lines().find_map(|line| line.strip_prefix("told "));
        let told = told.ok_or_else(|| format!("wrk says: {text}"))?;
        let numbers: Vec<f64> = told
            .split(' ')
            .filter_map(|number| number.parse().ok())
            .collect();
        match numbers[..] {
            [requests, micros, errors, p50, p99, p999] if requests > 0.0 => Ok(Done {
                requests,
                seconds: micros / 1e6,
                errors,
                p50: p50 / 1e3,
                p99: p99 / 1e3,
                p999: p999 / 1e3,
            }),
            _ => Err(format!("wrk says: {told}")),
        }
    }
}

/// One request of 1 KB, answered with a `Content-Length`.
fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut seen = Vec::with_capacity(4096);
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(&piece[..read]);
        let Some(head) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        if !seen.starts_with(b"HTTP/1.1 200") {
            return Err(std::io::Error::other("not 200"));
        }
        if seen.len() >= head + 4 + SMALL {
            return Ok(());
        }
    }
}

/// Connections that have had one answer each and wait for the next request.
pub struct Idle(Vec<TcpStream>);

impl Idle {
    pub fn new(port: u16, connections: usize) -> Result<Idle, String> {
        let one = |number: usize| {
            let connect = || -> std::io::Result<TcpStream> {
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                exchange(&mut stream)?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            };
            connect().map_err(|why| format!("connection {number} of {connections}: {why}"))
        };
        (1..=connections)
            .map(one)
            .collect::<Result<_, _>>()
            .map(Idle)
    }

    /// Whether the proxy has kept all of them, so that its memory is that of all of them.
    pub fn all_open(&self) -> bool {
        let would_block = |stream: &TcpStream| {
            let peeked = stream.peek(&mut [0]);
            peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        };
        self.0.iter().all(would_block)
    }
}

/// The body of `/1k`, in bytes.
pub const SMALL: usize = 1024;

const TELL: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("told %d %d %d %d %d %d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;
