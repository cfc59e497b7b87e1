//! Collects problems and warnings while the tree is walked.
//!
//! Invariant: bounded whatever the file is. Made once per file by `parse`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::config::model::BalancerRef;
use crate::config::problem::{Mark, Problem, Wrong};

/// Problems that are kept; the rest is counted.
const MAX_PROBLEMS: usize = 1000;
/// Problems after which nothing is searched for what was meant: searching costs the product of
/// wrong and known names.
const MAX_GUESSES: usize = 100;

/// What reading a file found out besides its values.
pub(super) struct Report<'a> {
    file: &'a Path,
    pub(super) problems: Vec<Problem>,
    dropped: usize,
    warnings: BTreeMap<Mark, Vec<String>>,
    /// Balancers that are not built in.
    pub(super) balancers: Vec<BalancerRef>,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        file: &'a Path,
        problems: Vec<Problem>,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Report {
            file,
            problems,
            dropped: 0,
            warnings: BTreeMap::new(),
            balancers: Vec::new(),
            env,
        }
    }

    pub(super) fn problem(&mut self, at: Mark, path: impl fmt::Display, wrong: Wrong) {
        if self.problems.len() >= MAX_PROBLEMS {
            self.dropped += 1;
            return;
        }
        self.problems.push(Problem {
            file: self.file.to_path_buf(),
            line: at.line,
            column: at.column,
            path: path.to_string(),
            message: wrong.message,
            hint: wrong.hint,
        });
    }

    pub(super) fn warn(&mut self, at: Mark, path: impl fmt::Display, text: impl fmt::Display) {
        let line = format!("{}:{at}: {path}: {text}", self.file.display());
        self.warnings.entry(at).or_default().push(line);
    }

    /// Whether it still pays to look for what was meant.
    pub(super) fn may_guess(&self) -> bool {
        self.problems.len() < MAX_GUESSES
    }

    pub(super) fn env(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    /// The folder that relative paths mean.
    pub(super) fn folder(&self) -> &'a Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Warnings in the order of the file, or the problems when there are any.
    pub(super) fn finish(self) -> Result<Vec<String>, Vec<Problem>> {
        let mut problems = self.problems;
        if problems.is_empty() {
            return Ok(self.warnings.into_values().flatten().collect());
        }
        if self.dropped > 0 {
            let last = problems.iter().map(|p| (p.line, p.column)).max();
            let (line, column) = last.unwrap_or((1, 1));
            problems.push(Problem {
                file: self.file.to_path_buf(),
                line,
                column,
                path: String::new(),
                message: format!("and {} more problems", self.dropped),
                hint: Some("correct these first".into()),
            });
        }
        Err(problems)
    }
}
