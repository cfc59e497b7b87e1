//! The tree of a YAML text: values that know their line and column.

use super::problem::{Mark, shown};

/// One value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its first character.
    pub at: Mark,
    /// The characters of the text that a scalar takes, quotes included: start and end.
    pub chars: (usize, usize),
    /// The scalar, list or map itself.
    pub value: Value,
}

/// A value by the core schema of YAML 1.2 (section 10.3): what is quoted is a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`, also as `True` and `TRUE`; `yes` and `on` are texts.
    Bool(bool),
    /// Saturates: what does not fit is out of every range anyway.
    Int(i128),
    /// With a point or an exponent, `.inf` or `.nan`.
    Float(f64),
    /// In quotes, or nothing of the other scalars.
    Text(String),
    /// In the order of the text.
    List(Vec<Node>),
    /// In the order of the text, each key once.
    Map(Vec<Entry>),
}

/// One `key: value` of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Never empty; a number or word as it is written, not as it is read.
    pub key: String,
    /// The first character of the key, which is what problems name.
    pub key_at: Mark,
    /// What follows the colon.
    pub value: Node,
}

impl Node {
    /// What kind of value it is, for a message.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(true) => "`true`",
            Value::Bool(false) => "`false`",
            Value::Int(_) => "a number",
            Value::Float(_) => "a number with a fraction",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The value of a key of a map.
    pub fn find(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    /// The value as serde knows it, without positions.
    pub fn to_yaml(&self) -> serde_yaml::Value {
        use serde_yaml::Value as Yaml;
        match &self.value {
            Value::Null => Yaml::Null,
            Value::Bool(value) => Yaml::Bool(*value),
            Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => Yaml::from(value),
                (_, Ok(value)) => Yaml::from(value),
                _ => Yaml::from(*value as f64),
            },
            Value::Float(value) => Yaml::from(*value),
            Value::Text(value) => Yaml::from(value.as_str()),
            Value::List(items) => Yaml::Sequence(items.iter().map(Node::to_yaml).collect()),
            Value::Map(entries) => Yaml::Mapping(
                entries
                    .iter()
                    .map(|entry| (Yaml::from(entry.key.as_str()), entry.value.to_yaml()))
                    .collect(),
            ),
        }
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
