//! What does not fit a filter's settings type, and where.
//!
//! The error type that serde fills and `settings` turns into problems. Invariants: it is about the
//! innermost place that is known; the value of a secret is never quoted.

use std::fmt;
use std::path::Path;

use serde::de::{self, Unexpected};

use super::node::{Node, Value, describe};
use super::problem::{Mark, Problem, did_you_mean, shown};
use super::secret_name::names_a_secret;
use super::trail::Trail;

/// Where a value stands.
pub(super) struct Location<'de, 'p> {
    /// Its key, or the value itself in a list.
    pub(super) at: Mark,
    pub(super) trail: Trail<'p>,
    /// The nearest key.
    pub(super) key: &'p str,
    pub(super) node: &'de Node,
}

/// What does not fit, and where once that is known. In a box: it is in every result.
#[derive(Debug)]
pub(super) struct SettingsError<'de>(Box<What<'de>>);

#[derive(Debug, Default)]
struct What<'de> {
    message: String,
    hint: Option<String>,
    /// The message without the value, for a secret.
    discreet: Option<String>,
    /// What serde expected there.
    expected: Option<String>,
    missing: Option<&'static str>,
    place: Option<(Mark, String, &'de Node)>,
}

impl<'de> From<What<'de>> for SettingsError<'de> {
    fn from(what: What<'de>) -> SettingsError<'de> {
        SettingsError(Box::new(what))
    }
}

impl<'de> SettingsError<'de> {
    pub(super) fn new(message: String, hint: Option<String>) -> SettingsError<'de> {
        let what = What {
            message,
            hint,
            ..What::default()
        };
        what.into()
    }

    /// Says where, unless that was said further in.
    pub(super) fn at(mut self, place: Location<'de, '_>) -> SettingsError<'de> {
        let what = &mut *self.0;
        if what.place.is_some() {
            return self;
        }
        let path = match what.missing {
            Some(field) => format!("{}.{field}", place.trail),
            None => place.trail.to_string(),
        };
        what.place = Some((place.at, path, place.node));
        let secret = names_a_secret(place.key);
        if let (true, Some(discreet)) = (secret, what.discreet.take()) {
            what.message = discreet;
        } else if let (None, Some(expected)) = (&what.hint, &what.expected) {
            what.hint = meant(expected, place.node);
        }
        self
    }

    /// The key that it misses.
    pub(super) fn missing(&self) -> Option<&'static str> {
        self.0.missing
    }

    /// The value it is about.
    pub(super) fn node(&self) -> Option<&'de Node> {
        self.0.place.as_ref().map(|(_, _, node)| *node)
    }

    /// As a problem; `place` is where it stands when nothing else is known.
    pub(super) fn into_problem(self, file: &Path, place: (Mark, String)) -> Problem {
        let (mark, path) = match self.0.place {
            Some((mark, path, _)) => (mark, path),
            None => place,
        };
        Problem {
            file: file.to_path_buf(),
            line: mark.line,
            column: mark.column,
            path,
            message: self.0.message,
            hint: self.0.hint,
        }
    }

    fn unexpected(
        what: &str,
        unexpected: Unexpected,
        expected: &dyn de::Expected,
    ) -> SettingsError<'de> {
        let expected = match expected.to_string() {
            name if name.starts_with("struct ") => "a map".to_owned(),
            name if name == "unit" || name.starts_with("unit struct") => "nothing".to_owned(),
            words => words,
        };
        let found = match unexpected {
            Unexpected::Str(text) => format!("string \"{}\"", shown(text)),
            Unexpected::Unit => "nothing".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a map".to_owned(),
            other => other.to_string(),
        };
        let what = What {
            message: format!("{what}: {found}, expected {expected}"),
            discreet: Some(format!("{what}, expected {expected}")),
            expected: Some(expected),
            ..What::default()
        };
        what.into()
    }
}

/// What was probably meant by a value of another type.
fn meant(expected: &str, node: &Node) -> Option<String> {
    match &node.value {
        Value::Int(_) | Value::Float(_) | Value::Bool(_) if expected.contains("string") => {
            Some("put it in quotes if it is meant so".to_owned())
        }
        Value::Text(text) if expected == "a boolean" => {
            let word = match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" | "true" => "true",
                "no" | "off" | "n" | "false" => "false",
                _ => return Some("`true` or `false`".to_owned()),
            };
            Some(format!("write `{word}`"))
        }
        Value::Text(text) if is_number(expected) => Some(match text.parse::<f64>() {
            Ok(_) => format!("write `{}` without quotes", shown(text)),
            Err(_) => "a number, without quotes and unit".to_owned(),
        }),
        _ if expected == "a sequence" => Some(format!("write `[{}]`", describe(node))),
        _ => None,
    }
}

fn is_number(expected: &str) -> bool {
    let digits = expected.trim_start_matches(['u', 'i', 'f']);
    matches!(digits, "8" | "16" | "32" | "64" | "128" | "size")
}

impl de::Error for SettingsError<'_> {
    fn custom<T: fmt::Display>(message: T) -> Self {
        SettingsError::new(message.to_string(), None)
    }

    fn invalid_type(unexpected: Unexpected, expected: &dyn de::Expected) -> Self {
        SettingsError::unexpected("invalid type", unexpected, expected)
    }

    fn invalid_value(unexpected: Unexpected, expected: &dyn de::Expected) -> Self {
        SettingsError::unexpected("invalid value", unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = did_you_mean(variant, expected.iter().copied())
            .unwrap_or_else(|| format!("one of {}", expected.join(", ")));
        let what = What {
            message: format!("`{}` is none of its values", shown(variant)),
            discreet: Some("is none of its values".to_owned()),
            hint: Some(hint),
            ..What::default()
        };
        what.into()
    }

    fn missing_field(field: &'static str) -> Self {
        let what = What {
            message: format!("the key `{field}` is missing"),
            missing: Some(field),
            ..What::default()
        };
        what.into()
    }
}

impl fmt::Display for SettingsError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for SettingsError<'_> {}
