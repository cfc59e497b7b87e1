//! One section of the file, read by the table of keys.
//!
//! Its own file because types, ranges, defaults and unknown keys are the same for every section.
//! Invariant: a value that leaves here is in the range of its key; what is not is a problem.
//! Used by the other files of `parse`.

use std::path::PathBuf;

use super::report::{Report, Trail};
use crate::config::keys::{Default, Key, Kind, Pattern, Section};
use crate::config::problem::{Mark, Wrong, did_you_mean, shown};
use crate::config::tree::{Entry, Node, Value};
use crate::config::value::{ListenAddr, Secret};

/// The keys of one map, checked against those that its section may have.
pub(super) struct Fields<'a> {
    section: Section,
    /// Where the section's own key stands.
    pub(super) at: Mark,
    pub(super) trail: Trail<'a>,
    entries: &'a [Entry],
}

/// One key that is there.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) at: Mark,
    pub(super) node: &'a Node,
    pub(super) key: &'static Key,
}

impl<'a> Fields<'a> {
    /// Opens a map; its unknown keys are problems. `None` when it is no map.
    pub(super) fn open(
        report: &mut Report,
        node: &'a Node,
        at: Mark,
        trail: Trail<'a>,
        section: Section,
    ) -> Option<Fields<'a>> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            _ => {
                let names: Vec<&str> = section.keys().iter().take(3).map(|k| k.name).collect();
                let wrong = Wrong::new(
                    format!("must be a map, not {}", node.kind()),
                    format!("with keys such as {}", names.join(", ")),
                );
                report.problem(at, trail, wrong);
                return None;
            }
        };
        for entry in entries {
            if section.key(&entry.key).is_none() {
                let wrong = unknown_key(report, section, &entry.key);
                report.problem(entry.key_at, trail.key(&entry.key), wrong);
            }
        }
        Some(Fields {
            section,
            at,
            trail,
            entries,
        })
    }

    /// The map under a key. Without one, or with something else there (a problem), no key is
    /// found in it, and every value of the section is its default.
    pub(super) fn section<'s>(
        &'s self,
        report: &mut Report,
        name: &'s str,
        section: Section,
    ) -> Fields<'s> {
        let trail = self.trail.key(name);
        let opened = self
            .find(name)
            .and_then(|field| Fields::open(report, field.node, field.at, trail, section));
        opened.unwrap_or(Fields {
            section,
            at: self.at(name),
            trail,
            entries: &[],
        })
    }

    /// The key of the table. Asking for one that is not there is a mistake in the parser that
    /// any test of the section meets.
    fn key(&self, name: &str) -> &'static Key {
        self.section
            .key(name)
            .expect("the parser asks only for keys of the table")
    }

    pub(super) fn find(&self, name: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        Some(Field {
            at: entry.key_at,
            node: &entry.value,
            key: self.key(name),
        })
    }

    /// Where a key stands, or its section when it is left away.
    pub(super) fn at(&self, name: &str) -> Mark {
        self.find(name).map_or(self.at, |field| field.at)
    }

    /// As [`Fields::find`]; when it is left away, that is a problem.
    pub(super) fn require(&self, report: &mut Report, name: &str) -> Option<Field<'a>> {
        let found = self.find(name);
        if found.is_none() {
            let key = self.key(name);
            let wrong = Wrong::new(
                format!("the key `{name}` is missing"),
                format!("for example `{name}: {}`", example(key)),
            );
            report.problem(self.at, self.trail.key(name), wrong);
        }
        found
    }

    pub(super) fn wrong(&self, report: &mut Report, name: &str, wrong: Wrong) {
        report.problem(self.at(name), self.trail.key(name), wrong);
    }

    pub(super) fn int(&self, report: &mut Report, name: &str) -> Option<u64> {
        let field = self.find(name)?;
        match read_int(field.node, field.key) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(report, name, wrong);
                None
            }
        }
    }

    /// As [`Fields::int`], or the default of the table.
    pub(super) fn int_or_default(&self, report: &mut Report, name: &str) -> u64 {
        self.int(report, name)
            .unwrap_or_else(|| default_int(self.key(name)))
    }

    pub(super) fn bool(&self, report: &mut Report, name: &str) -> Option<bool> {
        let field = self.find(name)?;
        match &field.node.value {
            Value::Bool(value) => Some(*value),
            other => {
                let meant = match other {
                    Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                        "yes" | "on" | "y" | "true" => Some("true"),
                        "no" | "off" | "n" | "false" => Some("false"),
                        _ => None,
                    },
                    _ => None,
                };
                let wrong = Wrong::new(
                    format!("must be true or false, not {}", describe(field.node)),
                    match meant {
                        Some(word) => format!("write {word} without quotes"),
                        None => format!("for example `{name}: true`"),
                    },
                );
                self.wrong(report, name, wrong);
                None
            }
        }
    }

    /// As [`Fields::bool`], or the default of the table.
    pub(super) fn bool_or_default(&self, report: &mut Report, name: &str) -> bool {
        self.bool(report, name)
            .unwrap_or(matches!(self.key(name).default, Default::Bool(true)))
    }

    /// A text that is not empty and holds no control characters.
    pub(super) fn text(&self, report: &mut Report, name: &str) -> Option<&'a str> {
        let field = self.find(name)?;
        match read_text(field.node, field.key) {
            Ok(text) => Some(text),
            Err(wrong) => {
                self.wrong(report, name, wrong);
                None
            }
        }
    }

    /// A text that a function turns into something better.
    pub(super) fn parsed<T>(
        &self,
        report: &mut Report,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let text = self.text(report, name)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(report, name, wrong);
                None
            }
        }
    }

    /// One of the words of the table.
    pub(super) fn choice(&self, report: &mut Report, name: &str) -> Option<&'static str> {
        let field = self.find(name)?;
        let Kind::Choice(words) = field.key.kind else {
            return None;
        };
        let text = match &field.node.value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        };
        let found = text.and_then(|text| words.iter().find(|word| **word == text));
        if found.is_none() {
            let hint = text
                .and_then(|text| did_you_mean(text, words.iter().copied()))
                .unwrap_or_else(|| format!("one of {}", words.join(", ")));
            let wrong = Wrong::new(
                format!("{} is not a value of `{name}`", describe(field.node)),
                hint,
            );
            self.wrong(report, name, wrong);
        }
        found.copied()
    }

    pub(super) fn address(&self, report: &mut Report, name: &str) -> Option<ListenAddr> {
        let field = self.find(name)?;
        let text = match &field.node.value {
            Value::Text(text) => text.clone(),
            // A bare port: the address parser tells what to write.
            Value::Int(port) => port.to_string(),
            _ => {
                let mut wrong = Wrong::new(
                    format!("must be an IP address and port, not {}", field.node.kind()),
                    "for example `0.0.0.0:8080`",
                );
                if matches!(field.node.value, Value::List(_)) {
                    wrong.hint =
                        Some("an address in brackets needs quotes: `\"[::]:8080\"`".into());
                }
                self.wrong(report, name, wrong);
                return None;
            }
        };
        match ListenAddr::parse(&text) {
            Ok(address) if matches!(field.node.value, Value::Text(_)) => Some(address),
            Ok(_) => None,
            Err(wrong) => {
                self.wrong(report, name, wrong);
                None
            }
        }
    }

    /// As [`Fields::address`], or the default of the table.
    pub(super) fn address_or_default(&self, report: &mut Report, name: &str) -> ListenAddr {
        self.address(report, name)
            .unwrap_or_else(|| default_address(self.section, name))
    }

    /// A path, from the folder of the file.
    pub(super) fn path(&self, report: &mut Report, name: &str) -> Option<PathBuf> {
        let text = self.text(report, name)?;
        Some(report.folder().join(text))
    }

    /// A text in which `${NAME}` stands for a variable of the environment. Its value never
    /// shows up in a problem.
    pub(super) fn secret(&self, report: &mut Report, name: &str) -> Option<Secret> {
        let text = self.text(report, name)?;
        match expand(text, &|variable| report.env(variable)) {
            Ok(text) => Some(Secret::new(text)),
            Err(wrong) => {
                self.wrong(report, name, wrong);
                None
            }
        }
    }
}

/// The default of a listen address, from the table.
pub(super) fn default_address(section: Section, name: &str) -> ListenAddr {
    match section.key(name).map(|key| key.default) {
        Some(Default::Text(text)) => ListenAddr::parse(text).ok(),
        _ => None,
    }
    .unwrap_or_else(|| ListenAddr {
        addr: ([0, 0, 0, 0], 0).into(),
        text: "0.0.0.0:0".into(),
    })
}

/// The default of a number, from the table.
fn default_int(key: &Key) -> u64 {
    match key.default {
        Default::Int(value) => value,
        _ => 0,
    }
}

fn unknown_key(report: &Report, section: Section, name: &str) -> Wrong {
    let names = || section.keys().iter().map(|key| key.name);
    let guess = report
        .may_guess()
        .then(|| did_you_mean(name, names()))
        .flatten();
    let elsewhere = || {
        let home = Section::ALL
            .into_iter()
            .find(|other| *other != section && other.key(name).is_some())?;
        let place = home.path().trim_end_matches('.');
        Some(match place {
            "" => "it stands at the top of the file".to_owned(),
            place => format!("it stands under `{place}`"),
        })
    };
    Wrong::new(
        "is not a key of the configuration",
        elsewhere().or(guess).unwrap_or_else(|| {
            format!("the keys here: {}", names().collect::<Vec<_>>().join(", "))
        }),
    )
}

fn read_int(node: &Node, key: &Key) -> Result<u64, Wrong> {
    let Kind::Int { min, max } = key.kind else {
        return Err(Wrong::new("is not a number", "leave it away"));
    };
    let unit = match key.unit() {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    if let Value::Int(value) = node.value {
        return match u64::try_from(value) {
            Ok(value) if (min..=max).contains(&value) => Ok(value),
            _ => Err(Wrong::new(
                format!("must be {min} to {max}{unit}, not {value}"),
                format!("for example `{}: {}`", key.name, example(key)),
            )),
        };
    }
    let meant = match &node.value {
        Value::Text(text) => whole_number(text, key.unit()),
        Value::Float(value) if *value == value.trunc() && value.abs() < 1e15 => {
            Some(format!("{value:.0}"))
        }
        _ => None,
    };
    Err(Wrong::new(
        format!(
            "must be a whole number from {min} to {max}{unit}, not {}",
            describe(node)
        ),
        match meant {
            Some(number) => format!("write `{}: {number}`", key.name),
            None => format!("for example `{}: {}`", key.name, example(key)),
        },
    ))
}

/// What `30s`, `1_000`, `"5"` or `64k` would be in the unit of the key.
fn whole_number(text: &str, unit: &str) -> Option<String> {
    let text: String = text
        .chars()
        .filter(|c| !matches!(c, '_' | ' '))
        .collect::<String>()
        .to_ascii_lowercase();
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let number: u64 = digits.parse().ok()?;
    let (factor, divisor) = match (unit, suffix) {
        (_, "") | ("ms", "ms") | ("seconds", "s") | ("bytes", "b") => (1, 1),
        ("ms", "s") => (1000, 1),
        ("ms", "m" | "min") => (60_000, 1),
        ("seconds", "ms") => (1, 1000),
        ("seconds", "m" | "min") => (60, 1),
        ("seconds", "h") => (3600, 1),
        ("bytes", "k" | "kb" | "kib") => (1 << 10, 1),
        ("bytes", "m" | "mb" | "mib") => (1 << 20, 1),
        ("bytes", "g" | "gb" | "gib") => (1 << 30, 1),
        _ => return None,
    };
    Some((number.checked_mul(factor)? / divisor).to_string())
}

fn read_text<'a>(node: &'a Node, key: &Key) -> Result<&'a str, Wrong> {
    let (what, secret) = match key.kind {
        Kind::Text(Pattern { what, secret, .. }) => (*what, *secret),
        _ => ("a text", false),
    };
    let hint = format!("for example `{}: {}`", key.name, example(key));
    match &node.value {
        Value::Text(text) if text.is_empty() => {
            Err(Wrong::new(format!("must be {what}, not empty"), hint))
        }
        Value::Text(text) if text.chars().any(char::is_control) => Err(Wrong::new(
            format!("must be {what}, without control characters"),
            hint,
        )),
        Value::Text(text) => Ok(text),
        Value::Null => Err(Wrong::new(format!("must be {what}, not nothing"), hint)),
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => Err(Wrong::new(
            format!(
                "must be {what}, not {}",
                if secret {
                    node.kind().to_owned()
                } else {
                    describe(node)
                }
            ),
            match (key.kind, &node.value) {
                (Kind::Text(pattern), Value::Int(_) | Value::Float(_))
                    if pattern.takes_digits() =>
                {
                    "put it in quotes if it is meant so".to_owned()
                }
                _ => hint,
            },
        )),
        _ => Err(Wrong::new(
            format!("must be {what}, not {}", node.kind()),
            hint,
        )),
    }
}

/// A value as a message shows it.
pub(super) fn describe(node: &Node) -> String {
    match &node.value {
        Value::Int(value) => format!("`{value}`"),
        Value::Float(value) => format!("`{value}`"),
        Value::Bool(value) => format!("`{value}`"),
        Value::Text(text) => format!("`{}`", shown(text)),
        _ => node.kind().to_owned(),
    }
}

/// A value that a key takes.
pub(super) fn example(key: &Key) -> String {
    match (key.kind, key.default) {
        (_, Default::Int(value)) => value.max(1).to_string(),
        (_, Default::Text(text)) => text.to_owned(),
        (Kind::Int { min, max }, _) => {
            let number = match (key.unit(), key.name) {
                ("ms", _) => 5000,
                ("seconds", _) => 3600,
                ("bytes", _) => 10 << 20,
                (_, "threads") => 4,
                (_, "tcp_listen_port") => 5433,
                _ => 1000,
            };
            number.clamp(min, max).to_string()
        }
        (Kind::Address, _) => "0.0.0.0:8080".into(),
        (Kind::Text(pattern), _) => pattern.example.to_owned(),
        (Kind::Choice(words), _) => words[0].to_owned(),
        (Kind::Url | Kind::Upstream | Kind::Endpoints, _) => "http://127.0.0.1:3000".into(),
        (Kind::Named(Section::Route), _) => "{/: {upstream: \"http://127.0.0.1:3000\"}}".into(),
        (Kind::Networks, _) => "[10.0.0.0/8]".into(),
        (Kind::Filters, _) => "[{type: request_id}]".into(),
        (Kind::Bool, _) => "true".into(),
        _ => "{}".into(),
    }
}

/// Puts variables of the environment in for `${NAME}`.
fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let name = inner.find('}').map(|end| &inner[..end]).filter(|name| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        });
        let Some(name) = name else {
            return Err(Wrong::new(
                "`${` is not followed by the name of a variable and `}`",
                "for example `${ADMIN_TOKEN}`",
            ));
        };
        match env(name) {
            Some(value) if value.chars().any(char::is_control) => {
                return Err(Wrong::new(
                    format!("the environment variable {name} holds control characters"),
                    "a line end at its end, for example",
                ));
            }
            Some(value) if !value.is_empty() => out.push_str(&value),
            Some(_) => {
                return Err(Wrong::new(
                    format!("the environment variable {name} is empty"),
                    "give it a value before the gateway starts",
                ));
            }
            None => {
                return Err(Wrong::new(
                    format!("the environment variable {name} is not set"),
                    "set it before the gateway starts",
                ));
            }
        }
        rest = &inner[name.len() + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_and_missing_ones_are_named() {
        let env = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "E" => Some(String::new()),
            "N" => Some("two\n".to_owned()),
            _ => None,
        };
        assert_eq!(expand("x${A}y$A", &env).unwrap(), "xoney$A");
        for (text, part) in [
            ("${B}", "B is not set"),
            ("${E}", "E is empty"),
            ("${N}", "N holds control characters"),
            ("${", "not followed"),
            ("${}", "not followed"),
            ("${1}", "not followed"),
            ("${a b}", "not followed"),
        ] {
            assert!(expand(text, &env).unwrap_err().message.contains(part));
        }
    }

    #[test]
    fn durations_and_sizes_are_translated_for_the_hint() {
        for (text, unit, number) in [
            ("30s", "ms", Some("30000")),
            ("5", "ms", Some("5")),
            ("1_000", "", Some("1000")),
            ("2m", "seconds", Some("120")),
            ("64k", "bytes", Some("65536")),
            ("99999999999999999999", "ms", None),
            ("18446744073709551615s", "ms", None),
            ("abc", "ms", None),
        ] {
            assert_eq!(whole_number(text, unit).as_deref(), number, "{text}");
        }
    }
}
