//! What is wrong with a configuration, and where.
//!
//! Invariant: a problem never holds a secret value.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in the file: line and column, both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// From 1; LF, CR LF and CR each end a line.
    pub line: usize,
    /// From 1, in characters, not bytes.
    pub column: usize,
}

impl Mark {
    /// The first character of the file.
    pub const START: Mark = Mark { line: 1, column: 1 };
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One thing that is wrong. Prints as `config.yml:12:5: routes./api.timeout_ms: … (hint)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file as the caller named it, not made absolute.
    pub file: PathBuf,
    /// From 1; 0 when the file itself could not be read.
    pub line: usize,
    /// From 1, in characters; 0 when the file itself could not be read.
    pub column: usize,
    /// The key, as in `routes./api.timeout_ms`; empty when it concerns the file.
    pub path: String,
    /// What is wrong, to be read after `path`; no full stop, no secret.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Every problem of one file, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Sorts by position; problems of one place keep the order in which they were found.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Problems {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Problems(problems)
    }

    /// A problem with the file as a whole.
    pub(super) fn file(file: &Path, message: String, hint: &str) -> Problems {
        Problems(vec![Problem {
            file: file.to_path_buf(),
            line: 0,
            column: 0,
            path: String::new(),
            message,
            hint: Some(hint.to_owned()),
        }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why a single value was refused, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong, to be read after the path of the key; no full stop, no secret.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Wrong {
        Wrong {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Wrong {}

/// The word that was probably meant, quoted as a question; `None` when nothing comes close.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(word, known).map(|best| format!("did you mean `{best}`?"))
}

/// The known word nearest to `word`, when it is near enough to be a slip.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, candidate), candidate))
        .filter(|(score, _)| *score >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `text` as a message may show it: bounded, on one line, without credentials and query.
pub(super) fn shown(text: &str) -> String {
    let (start, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let rest = match rest.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => rest.to_owned(),
    };
    let rest = match rest.split_once('?') {
        Some((path, _)) => format!("{path}?***"),
        None => rest,
    };
    let whole = format!("{start}{rest}");
    let mut out: String = whole
        .chars()
        .take(60)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if whole.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_prints_as_compilers_do() {
        let problem = Problem {
            file: "config.yml".into(),
            line: 12,
            column: 5,
            path: "routes./api.timeout_ms".into(),
            message: "must be 1 to 5".into(),
            hint: Some("for example 3".into()),
        };
        assert_eq!(
            problem.to_string(),
            "config.yml:12:5: routes./api.timeout_ms: must be 1 to 5 (for example 3)"
        );
    }

    #[test]
    fn shown_text_holds_no_credentials() {
        assert_eq!(shown("postgres://me:pw@h/x?p=1"), "postgres://***@h/x?***");
        assert_eq!(shown("me:pw@h"), "***@h");
        assert_eq!(shown("a@b://me:pw@h"), "a@b://***@h");
        assert!(shown(&"x".repeat(1000)).chars().count() <= 61);
        assert_eq!(shown("a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let known = ["timeout_ms", "retry_count"];
        assert_eq!(nearest("timeot_ms", known), Some("timeout_ms"));
        assert_eq!(nearest("Retry_Count", known), Some("retry_count"));
        assert_eq!(nearest("zebra", known), None);
    }
}
