//! A regular expression and what takes the place of what it finds.
//!
//! Its own file because it is pure, and all that a pattern may cost is decided here: time linear in
//! the path, a bounded expression, a bounded result. Made and called by `rewrite`.

use regex::{Captures, Regex, RegexBuilder};

use super::target::push_escaped;
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
        let to = parts(to, regex.captures_len()).map_err(|why| BadSetting::new("regex.to", why))?;
        Ok(Replacement { regex, to })
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
