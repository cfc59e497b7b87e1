//! What was counted before, in `baseline.json`, and what to say of the difference.
//!
//! Growth by more than 3 % fails, and all of it is reported at once; a count that fell by more is a
//! reason to record, not a failure. `RECORD` in the environment writes what was counted instead of
//! comparing it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What was counted before, and now.
pub struct Baseline {
    before: Recorded,
    now: BTreeMap<String, f64>,
}

#[derive(Default, Deserialize, Serialize)]
struct Recorded {
    /// See [`toolchain`].
    toolchain: String,
    counts: BTreeMap<String, f64>,
}

impl Baseline {
    pub fn read(file: &Path) -> Result<Baseline, String> {
        let before = match std::fs::read_to_string(file) {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?
            }
            Err(_) if recording() => Recorded::default(),
            Err(e) => return Err(format!("{}: {e}", file.display())),
        };
        Ok(Baseline {
            before,
            now: BTreeMap::new(),
        })
    }

    pub fn compare(&mut self, name: &str, count: f64) {
        self.now.insert(name.to_owned(), count);
    }

    /// Fails for what has grown; or records.
    pub fn conclude(mut self, file: &Path) -> Result<(), String> {
        let toolchain = toolchain()?;
        if recording() {
            // What was not counted this time stays.
            self.before.counts.append(&mut self.now);
            self.before.toolchain = toolchain;
            let text = serde_json::to_string_pretty(&self.before).map_err(|e| e.to_string())?;
            std::fs::write(file, text + "\n").map_err(|e| format!("{}: {e}", file.display()))?;
            println!("recorded in {}", file.display());
            return Ok(());
        }
        let mut grown = Vec::new();
        for (name, now) in &self.now {
            let Some(before) = self.before.counts.get(name) else {
                grown.push(format!("{name}: {now}, and no baseline: {RECORD}"));
                continue;
            };
            let change = (now / before - 1.0) * 100.0;
            let line = format!("{name}: {now}, {change:+.2} % of the baseline {before}");
            if change > TOLERATED {
                grown.push(line);
            } else if change < -TOLERATED {
                println!("{line}: lower the baseline: {RECORD}");
            } else {
                println!("{line}");
            }
        }
        if toolchain != self.before.toolchain {
            let before = &self.before.toolchain;
            println!("the baseline was recorded with {before}; this is {toolchain}");
        }
        match grown.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "more than {TOLERATED} % above the baseline:\n{}",
                grown.join("\n")
            )),
        }
    }
}

fn recording() -> bool {
    std::env::var_os("RECORD").is_some_and(|record| !record.is_empty())
}

/// Compiler, target, C library and valgrind: what the same source can be other instructions with.
fn toolchain() -> Result<String, String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let text = said(&rustc, "-vV").ok_or_else(|| format!("{rustc} -vV says nothing"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let parts = [
        text.lines().next().map(str::to_owned),
        host.map(str::to_owned),
        said("getconf", "GNU_LIBC_VERSION"),
        said("valgrind", "--version"),
    ];
    Ok(parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn said(program: &str, arg: &str) -> Option<String> {
    let output = Command::new(program).arg(arg).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// In percent. Counts repeat much better than this; a new toolchain need not.
const TOLERATED: f64 = 3.0;
const RECORD: &str = "make count RECORD=1";
