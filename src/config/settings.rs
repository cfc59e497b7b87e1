//! The settings of one filter, still with line and column, and how they become a type of its own.
//!
//! Nothing in this module knows what a filter's settings are: `filter::Registry` reads them, two
//! layers above. Invariants: equality ignores where things stand; all mistakes are reported at
//! once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::deserialize::{Reader, Walk};
use super::problem::{Mark, Problem, Wrong};
use super::secret_name::names_a_secret;
use super::tree::{Entry, Node, Value};

/// Problems of one filter that are looked for.
const MAX_PROBLEMS: usize = 100;

/// What stands beside `type` and `on_error`.
#[derive(Clone)]
pub struct Settings {
    /// A map.
    pub(super) node: Node,
    /// The keys that lead to the filter, as in `routes./api.filters[0]`.
    pub(super) path: String,
}

/// One entry of `filters`: the registered name and its settings. Equal whatever its place is.
#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// Its `type`: the name under which `filter::Registry` has the filter.
    pub kind: String,
    /// `on_error`. Default: refuse.
    pub on_error: OnError,
    /// All other keys of the entry; only the filter knows which there are.
    pub settings: Settings,
    /// Where the entry stands in the file: line and column, from 1.
    pub at: (usize, usize),
    /// Where its `type` stands.
    pub kind_at: Mark,
}

/// What happens to a request or session whose filter failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnError {
    /// It ends there.
    #[default]
    Refuse,
    /// It goes on, as if the filter were not there.
    Continue,
}

impl FilterSpec {
    /// Its settings as a type. `file` is what problems name.
    ///
    /// # Errors
    /// Everything that is wrong with them, each with its place.
    pub fn read<S: DeserializeOwned>(&self, file: &Path) -> Result<S, Vec<Problem>> {
        let root = &self.settings.node;
        let mut walk = Walk::new(&self.kind);
        let mut problems = Vec::new();
        loop {
            let reader = Reader::new(root, &self.settings.path, &walk);
            let result = S::deserialize(reader);
            let unknown = walk.take_unknown();
            let mut wrong_at = Vec::new();
            for error in unknown {
                wrong_at.extend(error.node());
                problems.push(error.into_problem(file, self.place()));
            }
            match result {
                Ok(settings) if problems.is_empty() => return Ok(settings),
                Ok(_) => return Err(problems),
                Err(error) => {
                    let node = error.node().unwrap_or(root);
                    // What is missing because it was put aside is no second problem.
                    if !walk.follows(&error) {
                        problems.push(error.into_problem(file, self.place()));
                    }
                    if std::ptr::eq(node, root) || problems.len() >= MAX_PROBLEMS {
                        return Err(problems);
                    }
                    wrong_at.push(node);
                }
            }
            // serde stops at the first mistake: without what is wrong it finds the next one.
            walk.put_aside(wrong_at);
        }
    }

    /// A problem with the filter as a whole, or with one of its settings by its path (`a.b`).
    pub fn problem(&self, file: &Path, setting: Option<&str>, wrong: Wrong) -> Problem {
        let (mut mark, mut path) = self.place();
        if let Some(setting) = setting {
            let mut node = Some(&self.settings.node);
            for key in setting.split('.') {
                let entry = node.and_then(|node| entry_of(node, key));
                mark = entry.map_or(mark, |entry| entry.key_at);
                node = entry.map(|entry| &entry.value);
            }
            path = format!("{path}.{setting}");
        }
        Problem {
            file: file.to_path_buf(),
            line: mark.line,
            column: mark.column,
            path,
            message: wrong.message,
            hint: wrong.hint,
        }
    }

    /// A problem with its `type`.
    pub fn problem_of_type(&self, file: &Path, wrong: Wrong) -> Problem {
        let problem = self.problem(file, None, wrong);
        Problem {
            line: self.kind_at.line,
            column: self.kind_at.column,
            path: format!("{}.type", problem.path),
            ..problem
        }
    }

    /// The settings as serde knows them, without positions.
    pub fn to_yaml(&self) -> serde_yaml::Value {
        self.settings.node.to_yaml()
    }

    fn place(&self) -> (Mark, String) {
        let (line, column) = self.at;
        (Mark { line, column }, self.settings.path.clone())
    }
}

/// By type, settings and what an error does; where they stand in the file is no difference.
impl PartialEq for FilterSpec {
    fn eq(&self, other: &FilterSpec) -> bool {
        self.kind == other.kind
            && self.on_error == other.on_error
            && self.settings == other.settings
    }
}

/// By their values alone.
impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        equal(&self.node, &other.node)
    }
}

/// The values, without those whose name says that they are secret.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Shown(&self.node), f)
    }
}

struct Shown<'n>(&'n Node);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => value.fmt(f),
            Value::Int(value) => value.fmt(f),
            Value::Float(value) => value.fmt(f),
            Value::Text(value) => fmt::Debug::fmt(value, f),
            Value::List(items) => f.debug_list().entries(items.iter().map(Shown)).finish(),
            Value::Map(entries) => {
                let mut map = f.debug_map();
                for entry in entries {
                    match names_a_secret(&entry.key) {
                        true => map.entry(&entry.key, &format_args!("***")),
                        false => map.entry(&entry.key, &Shown(&entry.value)),
                    };
                }
                map.finish()
            }
        }
    }
}

fn entry_of<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

/// Whether two trees say the same: the order of a map's keys is no difference either.
fn equal(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && sorted(a)
                    .iter()
                    .zip(&sorted(b))
                    .all(|((a_key, a), (b_key, b))| a_key == b_key && equal(a, b))
        }
        (a, b) => a == b,
    }
}

fn sorted(entries: &[Entry]) -> BTreeMap<&str, &Node> {
    let pairs = entries.iter().map(|e| (e.key.as_str(), &e.value));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Limit {
        requests: u32,
        #[serde(default)]
        burst: Option<u32>,
        #[serde(default)]
        on: bool,
        #[serde(default)]
        share: f64,
        #[serde(default)]
        name: String,
        #[serde(default)]
        token: u8,
        #[serde(default)]
        pairs: Vec<(u8, String)>,
        #[serde(default)]
        by_status: BTreeMap<u16, Step>,
        #[serde(default)]
        inner: Inner,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    struct Inner {
        #[serde(default)]
        deep: u8,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Step {
        Pass,
        Prefix { from: String, to: String },
        Code(u16),
    }

    fn spec(settings: &str) -> FilterSpec {
        let text = format!(
            "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1\nmax_connections: 1\nroutes:\n  /a:\n    \
             upstream: http://h\n    filters:\n      - type: limit\n{settings}"
        );
        let config = crate::config::parse(&text, Path::new("c.yml"));
        let config = config.unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        config.http_routes[0].filters[0].clone()
    }

    fn read<S: DeserializeOwned>(settings: &str) -> Result<S, String> {
        let lines = |problems: Vec<Problem>| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        };
        spec(settings).read::<S>(Path::new("c.yml")).map_err(lines)
    }

    #[test]
    fn settings_become_a_type() {
        let limit: Limit = read(
            "        requests: 5\n        burst: 7\n        on: true\n        share: 1\n        \
             name: \"5\"\n        pairs: [[1, a], [2, b]]\n        \
             by_status: {200: pass, 404: {prefix: {from: a, to: b}}, 500: {code: 503}}\n",
        )
        .unwrap();
        assert_eq!((limit.requests, limit.burst, limit.on), (5, Some(7), true));
        assert_eq!((limit.share, limit.name.as_str()), (1.0, "5"));
        assert_eq!(limit.pairs, [(1, "a".to_owned()), (2, "b".to_owned())]);
        assert_eq!(limit.by_status[&200], Step::Pass);
        assert_eq!(limit.by_status[&500], Step::Code(503));
        assert_eq!(read::<()>(""), Ok(()));
        assert_eq!(
            read::<Step>("        code: 5\n"),
            Ok(Step::Code(5)),
            "one of several as the settings themselves"
        );
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let said = read::<Limit>(
            "        requests: \"5\"\n        burts: 7\n        on: yes\n        name: 5\n        \
             token: hunter2\n        pairs: [[1, a], [x, b]]\n        \
             by_status: {ok: pass, 404: {prefx: {}}, 500: {prefix: {from: a, two: b}}}\n        \
             inner: {deep: 300, deeper: 1}\n",
        )
        .unwrap_err();
        let mut said: Vec<&str> = said.lines().collect();
        said.sort_unstable();
        let path = "routes./a.filters[0]";
        let mut expected = [
            format!(
                "c.yml:9:9: {path}.requests: invalid type: string \"5\", expected u32 (write `5` without quotes)"
            ),
            format!(
                "c.yml:10:9: {path}.burts: is not a setting of `limit` (did you mean `burst`?)"
            ),
            format!(
                "c.yml:11:9: {path}.on: invalid type: string \"yes\", expected a boolean (write `true`)"
            ),
            format!(
                "c.yml:12:9: {path}.name: invalid type: integer `5`, expected a string (put it in quotes if it is meant so)"
            ),
            format!("c.yml:13:9: {path}.token: invalid type, expected u8"),
            format!(
                "c.yml:14:26: {path}.pairs[1][0]: invalid type: string \"x\", expected u8 (a number, without quotes and unit)"
            ),
            format!(
                "c.yml:15:21: {path}.by_status.ok: invalid type: string \"ok\", expected u16 (a number, without quotes and unit)"
            ),
            format!(
                "c.yml:15:37: {path}.by_status.404.prefx: `prefx` is none of its values (did you mean `prefix`?)"
            ),
            format!(
                "c.yml:15:73: {path}.by_status.500.prefix.two: is not a setting of `limit` (the settings here: from, to)"
            ),
            format!("c.yml:15:55: {path}.by_status.500.prefix.to: the key `to` is missing"),
            format!("c.yml:16:17: {path}.inner.deep: invalid value: integer `300`, expected u8"),
            format!(
                "c.yml:16:28: {path}.inner.deeper: is not a setting of `limit` (did you mean `deep`?)"
            ),
        ];
        expected.sort_unstable();
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_missing_and_what_needs_no_settings_is_told() {
        let said = |text| read::<Limit>(text).unwrap_err();
        assert_eq!(
            said(""),
            "c.yml:8:9: routes./a.filters[0].requests: the key `requests` is missing"
        );
        assert_eq!(
            said("        requests:\n"),
            "c.yml:9:9: routes./a.filters[0].requests: invalid type: nothing, expected u32"
        );
        assert_eq!(
            read::<()>("        n: 1\n").unwrap_err(),
            "c.yml:9:9: routes./a.filters[0].n: is not a setting of `limit` (it takes none here)"
        );
        assert_eq!(
            read::<Step>("").unwrap_err(),
            "c.yml:8:9: routes./a.filters[0]: must have one of the keys pass, prefix, code (exactly one)"
        );
    }

    #[test]
    fn endless_mistakes_come_to_an_end() {
        let many = "x, ".repeat(500);
        let said = read::<Vec<u8>>("        list: 1\n").unwrap_err();
        assert_eq!(said.lines().count(), 1, "{said}");
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "it is never made")]
        struct Many {
            list: Vec<u8>,
        }
        let said = read::<Many>(&format!("        list: [{many}]\n")).unwrap_err();
        assert_eq!(said.lines().count(), MAX_PROBLEMS);
    }

    #[test]
    fn equal_is_what_says_the_same_wherever_it_stands() {
        let one = spec("        requests: 5\n        pairs: [[1, a]]\n");
        let same = spec("\n\n        pairs:\n        - [1, \"a\"]\n        requests: 0x5\n");
        assert_eq!(one, same);
        assert_ne!(one, spec("        requests: 5\n        pairs: [[1, b]]\n"));
        assert_ne!(one, spec("        requests: 5\n"));
        assert_ne!(
            one,
            spec("        requests: 5\n        pairs: [[1, a]]\n        on_error: continue\n")
        );
        assert_eq!(
            format!(
                "{:?}",
                spec("        requests: 5\n        api_token: x\n").settings
            ),
            "{\"requests\": 5, \"api_token\": ***}"
        );
    }
}
