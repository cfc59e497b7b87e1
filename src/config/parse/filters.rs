//! `filters` of a route: the registered name and settings that only the filter understands.
//!
//! The settings are read two layers above. Invariant: each entry that comes out has a `type`, and
//! an `on_error` that is one of the two words.

use super::fields::Fields;
use super::report::Report;
use crate::config::node::describe;
use crate::config::problem::{Wrong, did_you_mean};
use crate::config::settings::Settings;
use crate::config::settings::{FilterSpec, OnError};
use crate::config::trail::Trail;
use crate::config::tree::{Node, Value};

/// Reads the list; entries with problems are left out.
pub(super) fn read_filters(report: &mut Report, fields: &Fields) -> Vec<FilterSpec> {
    let Some(field) = fields.find("filters") else {
        return Vec::new();
    };
    let Value::List(items) = &field.node.value else {
        let wrong = Wrong::new(
            format!("must be a list, not {}", describe(field.node)),
            "for example `[{type: request_id}]`",
        );
        fields.wrong(report, "filters", wrong);
        return Vec::new();
    };
    let trail = fields.trail.key("filters");
    items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| read_filter(report, item, trail.item(index)))
        .collect()
}

fn read_filter(report: &mut Report, item: &Node, trail: Trail) -> Option<FilterSpec> {
    let Value::Map(entries) = &item.value else {
        let wrong = Wrong::new(
            format!("must be a map with a `type`, not {}", describe(item)),
            match &item.value {
                Value::Text(text) => {
                    format!("write `{{type: {}}}`", crate::config::problem::shown(text))
                }
                _ => "for example `{type: request_id}`".to_owned(),
            },
        );
        report.problem(item.at, trail, wrong);
        return None;
    };
    let mut kind = None;
    let mut on_error = OnError::default();
    let mut settings = Vec::new();
    for entry in entries {
        let here = trail.key(&entry.key);
        match (entry.key.as_str(), &entry.value.value) {
            ("type", Value::Text(text)) if !text.is_empty() => {
                kind = Some((text.clone(), entry.key_at));
            }
            ("type", _) => {
                let wrong = Wrong::new(
                    format!(
                        "must be the name of a filter, not {}",
                        describe(&entry.value)
                    ),
                    "for example `type: request_id`",
                );
                report.problem(entry.key_at, here, wrong);
                kind = Some((String::new(), entry.key_at));
            }
            ("on_error", _) => match read_on_error(&entry.value) {
                Ok(word) => on_error = word,
                Err(wrong) => report.problem(entry.key_at, here, wrong),
            },
            _ => settings.push(entry.clone()),
        }
    }
    if kind.is_none() {
        let wrong = Wrong::new(
            "the key `type` is missing",
            "for example `type: request_id`",
        );
        report.problem(item.at, trail.key("type"), wrong);
    }
    let (kind, kind_at) = kind?;
    Some(FilterSpec {
        kind,
        on_error,
        settings: Settings {
            node: Node {
                at: item.at,
                chars: item.chars,
                value: Value::Map(settings),
            },
            path: trail.to_string(),
        },
        at: (item.at.line, item.at.column),
        kind_at,
    })
}

fn read_on_error(node: &Node) -> Result<OnError, Wrong> {
    let word = match &node.value {
        Value::Text(text) => text.as_str(),
        _ => "",
    };
    match word {
        "refuse" => Ok(OnError::Refuse),
        "continue" => Ok(OnError::Continue),
        _ => Err(Wrong::new(
            format!("{} is not a value of `on_error`", describe(node)),
            did_you_mean(word, ON_ERROR).unwrap_or_else(|| "`refuse` or `continue`".to_owned()),
        )),
    }
}

/// What happens to a request whose filter failed.
pub(in crate::config) const ON_ERROR: [&str; 2] = ["refuse", "continue"];
