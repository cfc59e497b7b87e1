//! The text of a configuration without its secrets, for `/config`.
//!
//! It walks the file by the table of keys: a key that is a secret there is one here.

use super::keys::{Kind, Section};
use super::model::Config;
use super::secret_name::names_a_secret;
use super::tree::{self, Node, Value};

impl Config {
    /// The text as written, with `"***"` for each secret value: also where it only names a variable
    /// of the environment, and where a filter's setting is called a password, secret or token.
    pub fn redacted_text(&self) -> String {
        redact(&self.text)
    }
}

fn redact(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (Some(root), _) = tree::read(text, std::path::Path::new("")) else {
        return String::new();
    };
    let mut spans = Vec::new();
    walk(&root, Section::Root, &mut spans);
    spans.sort_unstable();
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (start, end) in spans {
        // A block scalar reaches into the indentation of the next line.
        let mut end = end.min(chars.len());
        while end > start && chars[end - 1].is_whitespace() {
            end -= 1;
        }
        if start < at || start >= end {
            continue;
        }
        out.extend(&chars[at..start]);
        // In quotes: without them a star starts an alias.
        out.push_str("\"***\"");
        at = end;
    }
    out.extend(&chars[at..]);
    out
}

/// Notes the characters of every secret in a section.
fn walk(node: &Node, section: Section, spans: &mut Vec<(usize, usize)>) {
    let Value::Map(entries) = &node.value else {
        return;
    };
    for entry in entries {
        match section.key(&entry.key).map(|key| key.kind) {
            Some(Kind::Text(pattern)) if pattern.secret => spans.push(entry.value.chars),
            Some(Kind::Map(inner) | Kind::MapOrFalse(inner)) => walk(&entry.value, inner, spans),
            Some(Kind::Named(inner)) => {
                if let Value::Map(entries) = &entry.value.value {
                    entries.iter().for_each(|e| walk(&e.value, inner, spans));
                }
            }
            Some(Kind::List(inner)) => {
                if let Value::List(items) = &entry.value.value {
                    items.iter().for_each(|item| walk(item, inner, spans));
                }
            }
            Some(Kind::Filters) => walk_settings(&entry.value, spans),
            _ => {}
        }
    }
}

/// Settings of filters have no table here; their names decide.
fn walk_settings(node: &Node, spans: &mut Vec<(usize, usize)>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| walk_settings(item, spans)),
        Value::Map(entries) => {
            for entry in entries {
                match &entry.value.value {
                    Value::List(_) | Value::Map(_) => walk_settings(&entry.value, spans),
                    Value::Null => {}
                    _ if names_a_secret(&entry.key) => spans.push(entry.value.chars),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_stars_and_all_else_is_as_written() {
        let text = "# é comment\n\
             admin: {token: \"to ken\", listen_addr: 'x'}\n\
             routes:\n\
             \x20 pg:\n\
             \x20   upstream: postgres://h # keep\n\
             \x20   health_check: {user: u, password: pa ss }\n\
             \x20   filters:\n\
             \x20     - {type: own, api_token: abc, name: abc}\n\
             \x20 redis:\n\
             \x20   health_check:\n\
             \x20     password: |\n\
             \x20       two\n\
             \x20       lines\n\
             \x20     user: x\n\
             upstreams:\n\
             \x20 u: {health_check: {password: last}}\n";
        let redacted = redact(text);
        assert_eq!(
            redacted,
            text.replace("\"to ken\"", "\"***\"")
                .replace("password: pa ss", "password: \"***\"")
                .replace("api_token: abc", "api_token: \"***\"")
                .replace("two\n        lines", "\"***\"")
                .replace("password: last", "password: \"***\"")
        );
        let (tree, problems) = tree::read(&redacted, std::path::Path::new(""));
        assert!(tree.is_some() && problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn a_secret_named_by_an_alias_is_hidden_where_it_is_written() {
        let text = "\u{feff}server: {log_file: &x hidden}\nadmin: {token: *x}";
        assert_eq!(
            redact(text),
            "server: {log_file: \"***\"}\nadmin: {token: *x}"
        );
    }

    #[test]
    fn a_secret_at_the_end_of_the_file_is_hidden() {
        for text in [
            "admin:\n  token: hidden",
            "admin:\n  token: |\n    hidden\n",
        ] {
            let redacted = redact(text);
            assert!(!redacted.contains("hidden"), "{redacted}");
            assert!(redacted.trim_end().ends_with("\"***\""), "{redacted}");
        }
    }
}
