//! Instructions of a keep-alive request, in user space, counted by callgrind.
//!
//! As with system calls, all threads are counted, and what counts is the difference between two runs of
//! equal length.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use crate::baseline::Baseline;
use crate::subject::{self, Program, Work};

pub fn count(baseline: &mut Baseline) -> Result<(), String> {
    can_count()?;
    let bare = each(Program::Bare)?;
    let ours = each(Program::Gateway)?;
    println!("instructions, a keep-alive request, bare Pingora: {bare:.0}");
    println!(
        "instructions, a keep-alive request: {ours:.0}, {:.2} times bare Pingora",
        ours / bare
    );
    baseline.compare("instructions, a keep-alive request", ours.round());
    Ok(())
}

fn each(program: Program) -> Result<f64, String> {
    let (many, few) = subject::runs((program, Work::Requests), counted, (MANY, FEW), total)?;
    Ok((many - few) / f64::from(MANY - FEW))
}

fn counted(folder: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--tool=callgrind"]);
    valgrind.arg(format!(
        "--callgrind-out-file={}",
        folder.join(COUNTED).display()
    ));
    valgrind
}

fn can_count() -> Result<(), String> {
    match Command::new("valgrind")
        .args(["-q", "--tool=none", "true"])
        .output()
    {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "valgrind cannot run a program here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err("valgrind is not installed: run scripts/install-deps test".to_owned())
        }
        Err(e) => Err(format!("valgrind does not start: {e}")),
    }
}

/// Of all threads, from start to end.
fn total(folder: &Path) -> Result<f64, String> {
    let file = folder.join(COUNTED);
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let line = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals: "));
    let total = line.and_then(|line| line.trim().parse().ok());
    total.ok_or_else(|| "callgrind wrote no total".to_owned())
}

const COUNTED: &str = "callgrind";
const MANY: u32 = 3000;
const FEW: u32 = 1000;
