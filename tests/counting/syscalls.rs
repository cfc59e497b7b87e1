//! System calls of a request, of a connection and of a database's round trip, counted by strace.
//!
//! The calls of all threads are counted: the difference between many and few asks in runs of equal
//! length, so that start, end and what the clock alone drives fall out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::baseline::Baseline;
use crate::lockstep::PATIENCE;
use crate::subject::{self, Program, Work};

pub fn count(baseline: &mut Baseline) -> Result<(), String> {
    can_trace()?;
    for (name, program, work) in WORKS {
        let (whole, rest) = each(program, work)?;
        let total: f64 = whole.iter().map(|(_, calls)| calls).sum();
        println!("system calls, {name}: {total} ({})", listed(&whole));
        if !rest.is_empty() {
            println!("    and now and then: {}", listed(&rest));
        }
        if program == Program::Gateway {
            baseline.compare(&format!("system calls, {name}"), total);
        }
    }
    Ok(())
}

/// The calls of one ask: those that each makes, as a whole number, and what many share.
fn each(program: Program, work: Work) -> Result<(Calls, Calls), String> {
    let (many, few) = subject::runs((program, work), traced, (MANY, FEW), table)?;
    let names: BTreeSet<&String> = many.keys().chain(few.keys()).collect();
    let (mut whole, mut rest) = (Calls::new(), Calls::new());
    for name in names {
        let [many, few] = [&many, &few].map(|calls| calls.get(name).copied().unwrap_or(0.0));
        let calls = (many - few) / f64::from(MANY - FEW);
        let (each, shared) = (calls.round(), calls - calls.round());
        if each != 0.0 {
            whole.push((name.clone(), each));
        }
        if shared.abs() >= TOLD {
            rest.push((name.clone(), shared));
        }
    }
    whole.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok((whole, rest))
}

fn listed(calls: &Calls) -> String {
    let each: Vec<String> = calls
        .iter()
        .map(|(name, calls)| format!("{name} {calls:.2}"))
        .collect();
    each.join(", ").replace(".00", "")
}

/// strace beside the program instead of above it, so that the program is our child.
fn traced(folder: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-D", "-f", "-c", "-o"])
        .arg(folder.join(TABLE));
    strace
}

fn can_trace() -> Result<(), String> {
    match Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .output()
    {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "strace may not trace here: allow ptrace (in a container: --cap-add=SYS_PTRACE): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err("strace is not installed: run scripts/install-deps test".to_owned())
        }
        Err(e) => Err(format!("strace does not start: {e}")),
    }
}

/// What strace counted. It writes its table a moment after the program has gone.
fn table(folder: &Path) -> Result<BTreeMap<String, f64>, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(folder.join(TABLE)).unwrap_or_default();
        if text.trim_end().ends_with(" total") {
            return text
                .lines()
                .skip(2)
                .filter(|line| !line.starts_with('-'))
                .map(row)
                .filter(|row| !matches!(row, Ok((name, _)) if name == "total"))
                .collect();
        }
        if Instant::now() > end {
            return Err(format!("strace wrote no table of calls: {text}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `% time, seconds, µs a call, calls, errors or nothing, name`.
fn row(line: &str) -> Result<(String, f64), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let calls = words.get(3).and_then(|calls| calls.parse().ok());
    match (words.last(), calls) {
        (Some(name), Some(calls)) => Ok(((*name).to_owned(), calls)),
        _ => Err(format!("not a row of strace's table: {line}")),
    }
}

/// Names and how many.
type Calls = Vec<(String, f64)>;

const TABLE: &str = "calls";
/// Fewer a request are the clock's.
const TOLD: f64 = 0.02;
const MANY: u32 = 1500;
const FEW: u32 = 500;
const WORKS: [(&str, Program, Work); 4] = [
    ("a keep-alive request", Program::Gateway, Work::Requests),
    (
        "a connection with one request",
        Program::Gateway,
        Work::Connections,
    ),
    ("a Redis PING", Program::Gateway, Work::Pings),
    (
        "a keep-alive request, bare Pingora",
        Program::Bare,
        Work::Requests,
    ),
];
