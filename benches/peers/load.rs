//! The loads: wrk for as much as goes, an own open loop for half of that, and idle connections.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

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

/// Requests at a steady rate, whether answers come or not.
pub struct OpenLoop {
    pub port: u16,
    /// Requests per second, all connections together.
    pub rate: f64,
    pub connections: u32,
    pub time: Duration,
}

impl OpenLoop {
    /// Each connection has a plan when to send; what could not be sent in time is late from then,
    /// not from when it was sent (so a stall is counted for all it held up).
    pub fn drive(&self) -> Result<Done, String> {
        let every = Duration::from_secs_f64(f64::from(self.connections) / self.rate);
        let begin = Instant::now() + Duration::from_millis(50);
        let threads: Vec<_> = (0..self.connections)
            .map(|n| {
                let first = begin + every.mul_f64(f64::from(n) / f64::from(self.connections));
                let (port, end) = (self.port, begin + self.time);
                thread::spawn(move || one(port, first, every, end))
            })
            .collect();
        let (mut latencies, mut errors) = (Vec::new(), 0.0);
        for thread in threads {
            match thread.join() {
                Ok(Ok(some)) => latencies.extend(some),
                Ok(Err(_)) | Err(_) => errors += 1.0,
            }
        }
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1) as f64;
            latencies
                .get((last * share) as usize)
                .copied()
                .unwrap_or(f64::NAN)
        };
        match latencies.is_empty() {
            true => Err("no request was answered".into()),
            false => Ok(Done {
                requests: latencies.len() as f64,
                seconds: self.time.as_secs_f64(),
                errors,
                p50: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
            }),
        }
    }
}

fn one(port: u16, first: Instant, every: Duration, end: Instant) -> std::io::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut latencies = Vec::new();
    let mut due = first;
    while due < end {
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        exchange(&mut stream)?;
        latencies.push(due.elapsed().as_secs_f64() * 1e3);
        due += every;
    }
    Ok(latencies)
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
