//! One section of the file, read by the table of keys.
//!
//! Types, ranges, defaults and unknown keys are the same for every section. Invariant: a value that
//! leaves here is in the range of its key; what is not is a problem.

use std::path::PathBuf;

use super::environment::expand;
use super::leaf::{default_addresses, default_int, example, read_address, read_int, read_text};
use super::report::Report;
use crate::config::keys::{Default, Key, Kind, Section};
use crate::config::node::describe;
use crate::config::problem::{Mark, Wrong, did_you_mean, nearest};
use crate::config::trail::Trail;
use crate::config::tree::{Entry, Node, Value};
use crate::config::value::{ListenAddr, ListenAddrs, Secret, StatusSet};

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
                let wrong = unknown_key(report, section, &entry.key, entries);
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

    /// Where a key stands, or its section when it is left out.
    pub(super) fn at(&self, name: &str) -> Mark {
        self.find(name).map_or(self.at, |field| field.at)
    }

    /// As [`Fields::find`]; when it is left out, that is a problem.
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
                        Some(word) => format!("write `{name}: {word}`"),
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
            // YAML takes a version without quotes for a number.
            let number = match &field.node.value {
                Value::Float(number) => Some(number.to_string()),
                Value::Int(number) => Some(number.to_string()),
                _ => None,
            };
            let meant = number.filter(|number| words.contains(&number.as_str()));
            let wrong = match meant {
                Some(word) => Wrong::new(
                    format!(
                        "must be a text, and {} without quotes is a number",
                        describe(field.node)
                    ),
                    format!("write `{name}: \"{word}\"`"),
                ),
                None => {
                    let hint = text
                        .and_then(|text| did_you_mean(text, words.iter().copied()))
                        .unwrap_or_else(|| format!("one of {}", words.join(", ")));
                    let given = describe(field.node);
                    Wrong::new(format!("{given} is not a value of `{name}`"), hint)
                }
            };
            self.wrong(report, name, wrong);
        }
        found.copied()
    }

    /// Statuses and ranges of them, in one text or as a list; one alone may be a number.
    pub(super) fn statuses(&self, report: &mut Report, name: &str) -> Option<StatusSet> {
        let field = self.find(name)?;
        let one = |node: &Node| match &node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        };
        let text = match &field.node.value {
            Value::List(items) if !items.is_empty() => {
                let items: Option<Vec<_>> = items.iter().map(one).collect();
                items.map(|items| items.join(","))
            }
            _ => one(field.node),
        };
        let parsed = text.ok_or_else(|| {
            let given = match &field.node.value {
                Value::List(items) if items.is_empty() => "an empty list".into(),
                Value::List(_) => "a list of something else".into(),
                _ => describe(field.node),
            };
            Wrong::new(
                format!("must be statuses, not {given}"),
                format!("for example `{name}: {}`", example(field.key)),
            )
        });
        let parsed = parsed.and_then(|text| StatusSet::parse(&text));
        match parsed {
            Ok(set) => Some(set),
            Err(wrong) => {
                self.wrong(report, name, wrong);
                None
            }
        }
    }

    /// One address, or a list of them.
    pub(super) fn addresses(&self, report: &mut Report, name: &str) -> Option<ListenAddrs> {
        let field = self.find(name)?;
        let trail = self.trail.key(name);
        let Value::List(items) = &field.node.value else {
            let read = read_address(field.node).map(ListenAddrs::from);
            return read
                .map_err(|wrong| report.problem(field.at, trail, wrong))
                .ok();
        };
        if items.is_empty() {
            let wrong = Wrong::new(
                "must be an IP address and port or a list of them, not an empty list",
                format!("for example `{name}: [\"{}\"]`", example(field.key)),
            );
            report.problem(field.at, trail, wrong);
        }
        let mut addresses: Vec<ListenAddr> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let wrong = match read_address(item) {
                Ok(address) if addresses.iter().any(|other| other.addr == address.addr) => {
                    Wrong::new(
                        format!("`{}` is there already", address.text),
                        "remove one of the two",
                    )
                }
                Ok(address) => {
                    addresses.push(address);
                    continue;
                }
                Err(wrong) => wrong,
            };
            report.problem(item.at, trail.item(index), wrong);
        }
        ListenAddrs::new(addresses)
    }

    /// As [`Fields::addresses`], or the default of the table.
    pub(super) fn addresses_or_default(&self, report: &mut Report, name: &str) -> ListenAddrs {
        self.addresses(report, name)
            .unwrap_or_else(|| default_addresses(self.section, name))
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

fn unknown_key(report: &Report, section: Section, name: &str, entries: &[Entry]) -> Wrong {
    let names = || section.keys().iter().map(|key| key.name);
    let guess = || match report.may_guess() {
        true => nearest(name, names()),
        false => None,
    };
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
    let hint = elsewhere().unwrap_or_else(|| match guess() {
        Some(meant) if entries.iter().any(|entry| entry.key == meant) => {
            format!("remove it: `{meant}` is there already")
        }
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("the keys here: {}", names().collect::<Vec<_>>().join(", ")),
    });
    Wrong::new("is not a key of the configuration", hint)
}
