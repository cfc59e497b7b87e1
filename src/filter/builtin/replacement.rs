//! A regular expression and what takes the place of what it finds.
//!
//! All that a pattern may cost is decided here: time linear in the path, a bounded expression, a
//! bounded result.

use regex::{Captures, Regex, RegexBuilder};

use super::target::{is_unambiguous_path, push_escaped};
use crate::filter::{BadSetting, Result};

/// Ready to be applied to paths.
#[derive(Debug)]
pub(super) struct Replacement {
    regex: Regex,
    to: Vec<Part>,
}

impl Replacement {
    /// From the settings `regex.match` and `regex.to`.
    pub(super) fn new(pattern: &str, to: &str) -> Result<Replacement> {
        let regex = compile(pattern).map_err(|why| BadSetting::new("regex.match", why))?;
        let parts =
            parts(to, regex.captures_len()).map_err(|why| BadSetting::new("regex.to", why))?;
        refuse_useless(pattern, to, &parts)?;
        Ok(Replacement { regex, to: parts })
    }

    /// `path` with every match replaced; `None` without a match.
    pub(super) fn apply(&self, path: &str) -> std::result::Result<Option<String>, TooLong> {
        let mut out = String::new();
        let mut end = None;
        for found in self.regex.captures_iter(path) {
            let Some(whole) = found.get(0) else { continue };
            out.push_str(&path[end.unwrap_or(0)..whole.start()]);
            end = Some(whole.end());
            for part in &self.to {
                expand(&mut out, part, &found);
                if out.len() > MAX_TARGET_BYTES {
                    return Err(TooLong);
                }
            }
        }
        let Some(end) = end else {
            return Ok(None);
        };
        out.push_str(&path[end..]);
        match out.len() > MAX_TARGET_BYTES {
            true => Err(TooLong),
            false => Ok(Some(out)),
        }
    }
}

fn compile(pattern: &str) -> Result<Regex> {
    let built = RegexBuilder::new(pattern)
        .size_limit(MAX_REGEX_BYTES)
        .dfa_size_limit(MAX_REGEX_BYTES)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("is too big: compiled it would take more than {MAX_REGEX_BYTES} bytes").into()
        }
        // The last of several lines says what is wrong, the others draw where.
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or("").trim();
            let last = last.strip_prefix("error: ").unwrap_or(last);
            let pattern = pattern.escape_debug();
            format!("`{pattern}` is no regular expression: {last}").into()
        }
    })
}

/// A piece of what takes the place of a match.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
    /// Behind a `?`, where a captured `&` would begin another parameter.
    GroupInQuery(usize),
}

fn parts(to: &str, groups: usize) -> Result<Vec<Part>> {
    if !to.bytes().all(|byte| byte.is_ascii_graphic()) || to.contains(['#', '\\']) {
        return Err("holds a space or another character that no target has; escape it".into());
    }
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut in_query = false;
    let mut chars = to.chars();
    while let Some(c) = chars.next() {
        if c != '$' {
            in_query |= c == '?';
            text.push(c);
            continue;
        }
        let group = match chars.next() {
            Some('$') => {
                text.push('$');
                continue;
            }
            Some(digit) => digit.to_digit(10).map(|digit| digit as usize),
            None => None,
        };
        let Some(group) = group else {
            return Err("`$` is followed by neither a digit nor another `$`".into());
        };
        if group >= groups {
            let most = groups - 1;
            return Err(format!("there is no group ${group}: `match` has {most}").into());
        }
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(match in_query {
            true => Part::GroupInQuery(group),
            false => Part::Group(group),
        });
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

/// Refuses what makes no path, whatever is matched.
fn refuse_useless(pattern: &str, to: &str, parts: &[Part]) -> std::result::Result<(), BadSetting> {
    let shown = to.escape_debug();
    let wrong = |what: &str| BadSetting::new("regex.to", format!("`{shown}` {what}"));
    // Digits stand for groups: they are no dots and may stand in an escape.
    let sample: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Group(_) | Part::GroupInQuery(_) => "41",
        })
        .collect();
    let path = sample.split('?').next().unwrap_or("");
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    if path
        .split_once("://")
        .is_some_and(|(scheme, _)| is_scheme(scheme))
    {
        return Err(wrong("is a URL, and only a path is rewritten")
            .hint("a path such as `/new/$1`; `redirect` sends clients to a URL"));
    }
    let from_the_start = pattern.starts_with('^') || pattern.starts_with("\\A");
    if from_the_start
        && matches!(parts.first(), Some(Part::Text(text)) if !text.starts_with(['/', '?']))
    {
        return Err(wrong("does not begin with a slash").hint(format!("write `/{shown}`")));
    }
    if path.starts_with('/') && !is_unambiguous_path(path) {
        return Err(wrong("has more than one reading")
            .hint("a path without `.` and `..`, in which each `%` is part of an escape"));
    }
    match sample.len() > MAX_TARGET_BYTES {
        true => Err(wrong("is longer than any target")),
        false => Ok(()),
    }
}

/// The result would be longer than any target.
#[derive(Debug)]
pub(super) struct TooLong;

fn expand(out: &mut String, part: &Part, found: &Captures<'_>) {
    let group = |at: &usize| found.get(*at).map_or("", |group| group.as_str());
    match part {
        Part::Text(text) => out.push_str(text),
        Part::Group(at) => out.push_str(group(at)),
        Part::GroupInQuery(at) => {
            for c in group(at).chars() {
                match c {
                    '&' | '+' | ';' => push_escaped(out, c as u8),
                    c => out.push(c),
                }
            }
        }
    }
}

/// Of a compiled expression, and of what matching may cache for each thread.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// What the default `max_header_bytes` leaves room for.
const MAX_TARGET_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(pattern: &str, to: &str, path: &str) -> Option<String> {
        Replacement::new(pattern, to).unwrap().apply(path).unwrap()
    }

    #[test]
    fn groups_are_one_digit_and_a_dollar_is_two() {
        for (pattern, to, path, expected) in [
            ("(a)|(b)", "x$1$10", "/b", Some("/x0")),
            ("_", "-$$1", "/a_b_c", Some("/a-$1b-$1c")),
            ("b+", "[$0]", "/abbabb", Some("/a[bb]a[bb]")),
            ("x*", "-", "/a", Some("-/-a-")),
            ("c", "d", "/ab", None),
            ("(.*)", "?$1", "a+b&c;d", Some("?a%2Bb%26c%3Bd")),
        ] {
            assert_eq!(applied(pattern, to, path).as_deref(), expected, "{pattern}");
        }
    }

    #[test]
    fn a_result_is_never_longer_than_a_target() {
        let double = Replacement::new("x", &"x".repeat(1000)).unwrap();
        assert!(double.apply(&"x".repeat(60)).is_ok());
        assert!(double.apply(&"x".repeat(70)).is_err());
        let tail = format!("x{}", "y".repeat(MAX_TARGET_BYTES));
        assert!(double.apply(&tail).is_err());
    }
}
