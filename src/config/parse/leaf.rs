//! One value and its key: numbers in their range, texts, and what to write instead.
//!
//! A value in another unit is translated for the hint.

use crate::config::keys::{Default, Key, Kind, Pattern, Section};
use crate::config::node::describe;
use crate::config::problem::Wrong;
use crate::config::tree::{Node, Value};
use crate::config::value::{ListenAddr, ListenAddrs, StatusSet};

/// The default of a listen address, from the table.
pub(super) fn default_addresses(section: Section, name: &str) -> ListenAddrs {
    match section.key(name).map(|key| key.default) {
        Some(Default::Text(text)) => ListenAddr::parse(text).ok(),
        _ => None,
    }
    .unwrap_or_else(|| ListenAddr {
        addr: ([0, 0, 0, 0], 0).into(),
        text: "0.0.0.0:0".into(),
    })
    .into()
}

/// One address to listen on.
pub(super) fn read_address(node: &Node) -> Result<ListenAddr, Wrong> {
    match &node.value {
        Value::Text(text) => ListenAddr::parse(text),
        // A bare port: the hint is that of the address parser.
        Value::Int(port) => {
            let read = ListenAddr::parse(&port.to_string());
            read.and_then(|_| Err(not_an_address(node)))
        }
        _ => Err(not_an_address(node)),
    }
}

fn not_an_address(node: &Node) -> Wrong {
    Wrong::new(
        format!("must be an IP address and port, not {}", node.kind()),
        "for example `0.0.0.0:8080`",
    )
}

/// The default of a set of statuses, from the table.
pub(super) fn default_statuses(section: Section, name: &str) -> Option<StatusSet> {
    match section.key(name)?.default {
        Default::Text(text) => StatusSet::parse(text).ok(),
        _ => None,
    }
}

/// The default of a number, from the table.
pub(super) fn default_int(key: &Key) -> u64 {
    match key.default {
        Default::Int(value) => value,
        _ => 0,
    }
}

pub(super) fn read_int(node: &Node, key: &Key) -> Result<u64, Wrong> {
    let Kind::Int { min, max } = key.kind else {
        return Err(Wrong::new("is not a number", "remove it"));
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
    // One that would be refused in turn is no advice.
    let in_range = |number: &u64| (min..=max).contains(number);
    let meant = meant.filter(|number| number.parse().is_ok_and(|n| in_range(&n)));
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

pub(super) fn read_text<'a>(node: &'a Node, key: &Key) -> Result<&'a str, Wrong> {
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

/// A value that a key takes.
pub(super) fn example(key: &Key) -> String {
    match (key.kind, key.default) {
        (_, Default::Int(value)) => value.max(1).to_string(),
        (_, Default::Text(text)) => text.to_owned(),
        (Kind::Int { min, max }, _) => {
            let number = match (key.unit(), key.name) {
                ("ms", "connect_timeout_ms" | "try_timeout_ms") => 1000,
                ("ms", _) => 5000,
                ("seconds", _) => 3600,
                ("bytes", _) => 10 << 20,
                (_, "threads") => 4,
                (_, "tcp_listen_port") => 5433,
                _ => 1000,
            };
            number.clamp(min, max).to_string()
        }
        (Kind::Addresses, _) => "0.0.0.0:8080".into(),
        (Kind::Text(pattern), _) => pattern.example.to_owned(),
        (Kind::Choice(words), _) => words[0].to_owned(),
        (Kind::Protocol, _) => "postgres".into(),
        (Kind::Url | Kind::Upstream | Kind::Endpoints, _) => "http://127.0.0.1:3000".into(),
        (Kind::Named(Section::Route), _) => "{/: {upstream: \"http://127.0.0.1:3000\"}}".into(),
        (Kind::Networks, _) => "[10.0.0.0/8]".into(),
        (Kind::Protocols, _) => "[websocket]".into(),
        (Kind::Filters, _) => "[{type: request_id}]".into(),
        (Kind::List(Section::Certificate), _) => {
            "[{cert: example.org.pem, key: example.org.key}]".into()
        }
        (Kind::Bool, _) => "true".into(),
        _ => "{}".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
