//! The program that is counted, under the tool that counts: the gateway, or bare Pingora.
//!
//! It has one worker, is driven, and ends in order. It is gone when the value is dropped.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lockstep::{Clients, PATIENCE, Talk, Turn, server};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Gateway,
    Bare,
}

/// What it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// GETs over a few connections that stay.
    Requests,
    /// A connection for each GET.
    Connections,
    /// Redis PINGs over one connection through a TCP route.
    Pings,
}

/// How a tool starts a program: it gets the folder for its output.
type Tool = fn(&Path) -> Command;

/// Runs the program under the tool twice, with `many` and with `few` asks, and gives what `read`
/// finds of each run in the tool's folder. Both runs are equally long, so that what the clock alone
/// drives is the same in both, as starting and ending are.
pub fn runs<T>(
    (program, work): (Program, Work),
    tool: Tool,
    (many, few): (u32, u32),
    read: impl Fn(&Path) -> Result<T, String>,
) -> Result<(T, T), String> {
    for _ in 0..PAIRS {
        let (of_many, length) = run(program, tool, work, many, Duration::ZERO)?;
        let (of_few, other) = run(program, tool, work, few, length)?;
        if length.abs_diff(other) <= SAME_LENGTH {
            return Ok((read(of_many.path())?, read(of_few.path())?));
        }
        println!("runs of {length:.1?} and {other:.1?} cannot be compared; once more");
    }
    Err("this machine is stopped too often to count on it".to_owned())
}

/// One run, and how long it was from the first ask on.
fn run(
    program: Program,
    tool: Tool,
    work: Work,
    asks: u32,
    at_least: Duration,
) -> Result<(TempDir, Duration), String> {
    let folder = TempDir::new().map_err(|e| format!("a temporary folder: {e}"))?;
    let turn = Turn::default();
    let mut subject = Subject::start(program, tool(folder.path()), folder.path(), &turn)?;
    let (addr, talk) = match work {
        Work::Requests | Work::Connections => (subject.http, get()),
        Work::Pings => (subject.redis, ping()),
    };
    let clients = Clients { addr, talk, turn };
    let begin = Instant::now();
    let driven = match work {
        Work::Requests => clients.keep_alive(asks, 8),
        Work::Connections => clients.connections(asks),
        Work::Pings => clients.keep_alive(asks, 1),
    };
    driven.map_err(|why| format!("{why}\n{}", subject.said()))?;
    std::thread::sleep(at_least.saturating_sub(begin.elapsed()));
    subject.end()?;
    Ok((folder, begin.elapsed()))
}

struct Subject {
    child: Child,
    stderr: PathBuf,
    http: SocketAddr,
    redis: SocketAddr,
}

impl Subject {
    fn start(
        program: Program,
        mut run: Command,
        folder: &Path,
        turn: &Turn,
    ) -> Result<Subject, String> {
        let origin = server(get(), turn)?;
        let [http, redis, admin] = free_addrs()?;
        match program {
            Program::Gateway => {
                let text = CONFIG
                    .replace("HTTP", &http.to_string())
                    .replace("REDIS", &redis.to_string())
                    .replace("ADMIN", &admin.to_string())
                    .replace("ORIGIN", &origin.to_string())
                    .replace("CACHE", &server(ping(), turn)?.to_string());
                let config = folder.join("config.yml");
                std::fs::write(&config, text).map_err(|e| format!("{}: {e}", config.display()))?;
                run.arg(env!("CARGO_BIN_EXE_harbr-router"))
                    .arg("-c")
                    .arg(config);
                run.env_remove("CONFIG_FILE");
            }
            Program::Bare => {
                run.arg(std::env::current_exe().map_err(|e| e.to_string())?);
                run.args([AS_BARE, &http.to_string(), &origin.to_string()]);
                // As the gateway sets it for itself.
                run.env("MALLOC_TRIM_THRESHOLD_", "8388608");
                run.env("MALLOC_TOP_PAD_", "131072");
                run.env("MALLOC_MMAP_THRESHOLD_", "1048576");
            }
        }
        let stderr = folder.join("stderr");
        let said = File::create(&stderr).map_err(|e| format!("{}: {e}", stderr.display()))?;
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let child = run.spawn().map_err(|e| format!("{run:?}: {e}"))?;
        let mut subject = Subject {
            child,
            stderr,
            http,
            redis,
        };
        subject.serves()?;
        turn.is_of(subject.child.id());
        Ok(subject)
    }

    fn serves(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(self.http).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!(
                    "the program ended at once, {status}\n{}",
                    self.said()
                ));
            }
            if Instant::now() > end {
                return Err(format!("the program does not serve\n{}", self.said()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it as an operator does, and waits until it has gone.
    fn end(&mut self) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).map_err(|e| e.to_string())?;
        kill(Pid::from_raw(pid), Signal::SIGINT).map_err(|e| format!("process {pid}: {e}"))?;
        let end = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                other => {
                    return Err(format!(
                        "the program does not end: {other:?}\n{}",
                        self.said()
                    ));
                }
            }
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_addrs<const N: usize>() -> Result<[SocketAddr; N], String> {
    // All at once: one that is closed again could be given once more.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut addrs = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for (addr, listener) in addrs.iter_mut().zip(listeners) {
        let bound = listener.and_then(|listener| listener.local_addr());
        *addr = bound.map_err(|e| format!("loopback has no free port: {e}"))?;
    }
    Ok(addrs)
}

/// What runs may differ in length.
const SAME_LENGTH: Duration = Duration::from_millis(250);
/// How often a pair is run before the machine is given up.
const PAIRS: u32 = 5;

/// The argument with which this test is the barest possible Pingora proxy.
pub const AS_BARE: &str = "--as-bare";

/// One worker; everything on that costs a request something. Timeouts are in the usual order, which
/// decides how often a timer becomes the next one, but twelve times as long: a machine that pauses
/// must not cut a request off. Probes come once and then so rarely that none falls into a run.
const CONFIG: &str = r#"
listen_addr: HTTP
global_timeout_ms: 60000
header_timeout_ms: 120000
keepalive_timeout_secs: 900
max_connections: 1000
admin: {listen_addr: "ADMIN"}
server: {threads: 1, access_log: access.log, upgrade_sock: upgrade.sock}
tcp_proxy: {enabled: true, listen_addr: "REDIS"}
upstreams:
  origin: {upstream: "http://ORIGIN", health_check: {path: /1k, interval_ms: 3600000}}
routes:
  /: {upstream: origin, retry_count: 2}
  cache: {upstream: "redis://CACHE", health_check: {interval_ms: 3600000}}
"#;

/// 1 KiB, with the head that nginx would send.
fn get() -> Talk {
    Talk {
        ask: "GET /1k HTTP/1.1\r\nHost: gateway.test\r\nUser-Agent: counting/1.0\r\nAccept: */*\r\n\r\n",
        end: "\r\n\r\n",
        answer: format!(
            "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
             Content-Type: text/plain\r\nContent-Length: 1024\r\n\
             Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nConnection: keep-alive\r\n\
             ETag: \"6592010c-400\"\r\nAccept-Ranges: bytes\r\n\r\n{}<end>",
            "x".repeat(1024 - "<end>".len())
        ),
    }
}

fn ping() -> Talk {
    Talk {
        ask: "*1\r\n$4\r\nPING\r\n",
        end: "PING\r\n",
        answer: "+PONG\r\n".to_owned(),
    }
}
