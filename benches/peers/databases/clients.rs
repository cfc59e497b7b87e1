//! The loads: pgbench, psql's `\copy` and redis-benchmark, as they are installed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::servers::postgres_program;
use crate::process::{output, program};

/// Who asks, and how.
#[derive(Clone, Copy)]
pub enum Client {
    /// pgbench with these options.
    Pgbench(&'static [&'static str]),
    /// A gigabyte out of PostgreSQL.
    Copy,
    /// redis-benchmark with so many commands sent at a time.
    Redis { pipeline: u32 },
}

/// The same with its size, equal for all peers.
pub enum Load {
    Pgbench(&'static [&'static str], u32),
    Copy,
    Redis { pipeline: u32, commands: u64 },
}

/// What came of a load.
pub struct Done {
    pub operations: f64,
    pub per_second: f64,
    pub latency: Option<Latency>,
}

/// In milliseconds.
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Client {
    /// A load of about so many seconds at the server itself.
    pub fn load(self, server: u16, seconds: u32) -> Result<Load, String> {
        match self {
            Client::Pgbench(options) => Ok(Load::Pgbench(options, seconds)),
            Client::Copy => Ok(Load::Copy),
            Client::Redis { pipeline } => {
                // redis-benchmark takes a number of commands, not a time.
                let done = redis_benchmark(server, pipeline, 20_000 * u64::from(pipeline))?;
                let commands = (done.per_second * f64::from(seconds)) as u64;
                Ok(Load::Redis { pipeline, commands })
            }
        }
    }
}

impl Load {
    pub fn drive(&self, port: u16) -> Result<Done, String> {
        match self {
            Load::Pgbench(options, seconds) => pgbench(port, options, *seconds),
            Load::Copy => copy(port),
            Load::Redis { pipeline, commands } => redis_benchmark(port, *pipeline, *commands),
        }
    }
}

/// Runs one of PostgreSQL's clients, and returns what it prints.
pub fn postgres(port: u16, name: &str, options: &[&str], seconds: u64) -> Result<String, String> {
    let mut run = Command::new(postgres_program(name)?);
    run.args(["-h", "127.0.0.1", "-U", "postgres", "-p"])
        .arg(port.to_string())
        .args(options)
        .arg("postgres")
        .env("PGSSLMODE", "disable")
        .env("PGCONNECT_TIMEOUT", "10");
    output(&run, seconds)
}

fn pgbench(port: u16, options: &[&str], seconds: u32) -> Result<Done, String> {
    let logs = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (time, prefix) = (seconds.to_string(), logs.path().join("log"));
    let prefix = format!("--log-prefix={}", prefix.display());
    let mut all = vec!["-n", "-T", &time];
    // With a connection each, pgbench's latencies leave out the connecting.
    let has_latency = !options.contains(&"-C");
    if has_latency {
        all.extend(["--log", "--sampling-rate=0.1", &prefix]);
    }
    all.extend(options);
    let text = postgres(port, "pgbench", &all, u64::from(seconds) + 60)?;
    let after = |label: &str| -> Result<f64, String> {
        let line = text.lines().find_map(|line| line.strip_prefix(label));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| format!("pgbench says no `{label}`"))
    };
    Ok(Done {
        operations: after("number of transactions actually processed: ")?,
        per_second: after("tps = ")?,
        latency: match has_latency {
            true => Some(latency(logs.path())?),
            false => None,
        },
    })
}

/// From pgbench's logs, in which the third word is a transaction's microseconds.
fn latency(logs: &Path) -> Result<Latency, String> {
    let mut millis = Vec::new();
    for log in fs::read_dir(logs).map_err(|e| e.to_string())?.flatten() {
        let text = fs::read_to_string(log.path()).map_err(|e| e.to_string())?;
        let micros = text.lines().filter_map(|line| line.split(' ').nth(2));
        millis.extend(micros.filter_map(|micros| Some(micros.parse::<f64>().ok()? / 1e3)));
    }
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let last = millis.len().saturating_sub(1) as f64;
        millis.get((last * share) as usize).copied()
    };
    match (at(0.5), at(0.99)) {
        (Some(p50), Some(p99)) => Ok(Latency { p50, p99 }),
        _ => Err("pgbench logged no transaction".to_string()),
    }
}

/// One COPY, to a client that throws it away.
fn copy(port: u16) -> Result<Done, String> {
    const ROWS: u32 = 1_000_000;
    let query =
        format!("\\copy (SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})) TO '/dev/null'");
    let began = Instant::now();
    postgres(port, "psql", &["-q", "-c", &query], 120)?;
    let gigabytes = f64::from(ROWS) * 1001.0 / 1e9;
    Ok(Done {
        operations: gigabytes,
        per_second: gigabytes / began.elapsed().as_secs_f64(),
        latency: None,
    })
}

/// GETs of 100 bytes over 50 connections.
fn redis_benchmark(port: u16, pipeline: u32, commands: u64) -> Result<Done, String> {
    let mut run = Command::new(program("redis-benchmark")?);
    run.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    run.args(["-t", "get", "-c", "50", "--csv"]);
    run.args(["-n", &commands.to_string(), "-P", &pipeline.to_string()]);
    let text = output(&run, 120)?;
    let line = text.lines().find_map(|line| line.strip_prefix("\"GET\","));
    let numbers: Vec<f64> = line
        .unwrap_or_default()
        .split(',')
        .filter_map(|number| number.trim_matches('"').parse().ok())
        .collect();
    // rps, then average, min, p50, p95, p99 and max in milliseconds.
    match numbers[..] {
        [per_second, _, _, p50, _, p99, _] => Ok(Done {
            operations: commands as f64,
            per_second,
            latency: Some(Latency { p50, p99 }),
        }),
        _ => Err(format!("redis-benchmark says: {}", text.trim())),
    }
}
