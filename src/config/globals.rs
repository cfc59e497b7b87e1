//! The keys that are not about single routes, with the values in force, and what became of them
//! from one configuration to the next.
//!
//! It walks the file by the table of keys, so that it misses none. Invariant: the value of a secret
//! never leaves it.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::keys::{Default, Key, Kind, Section};
use super::model::Config;
use super::tree::{self, Node, Value};

/// Paths of keys, or names, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Written now, not before.
    pub added: Vec<String>,
    /// Written before, not now.
    pub removed: Vec<String>,
    /// There before and now, with another value.
    pub changed: Vec<String>,
}

impl Config {
    /// Each key outside of `routes` and `upstreams` by its path, with the value that is in force:
    /// as written, or its default; null where there is none. Secrets are stars.
    pub fn globals(&self) -> BTreeMap<String, Json> {
        let globals = Globals::of(self).keys.into_iter();
        globals
            .map(|(path, global)| {
                let value = match (global.is_secret, &global.value) {
                    (true, Json::String(_)) => json!("***"),
                    _ => global.value,
                };
                (path, value)
            })
            .collect()
    }

    /// What became of those keys since `before`, by their paths. One that is written now and means
    /// what its default means is no change.
    pub fn changed_globals(&self, before: &Config) -> Changed {
        let (old, new) = (Globals::of(before).keys, Globals::of(self).keys);
        let mut all = Changed::default();
        for (path, global) in &new {
            let old = old.get(path);
            if old.is_some_and(|old| old.value == global.value) {
                continue;
            }
            match (old.is_some_and(|old| old.is_written), global.is_written) {
                (false, true) => all.added.push(path.clone()),
                (true, false) => all.removed.push(path.clone()),
                _ => all.changed.push(path.clone()),
            }
        }
        let gone = old.into_iter().filter(|(path, _)| !new.contains_key(path));
        let gone = gone.filter(|(_, global)| global.is_written);
        all.removed.extend(gone.map(|(path, _)| path));
        all
    }

    /// What became of the entries of `upstreams` since `before`, by their names.
    pub fn changed_upstreams(&self, before: &Config) -> Changed {
        let (old, new) = (Globals::of(before).upstreams, Globals::of(self).upstreams);
        let mut all = Changed::default();
        for (name, value) in &new {
            match old.get(name) {
                None => all.added.push(name.clone()),
                Some(old) if old != value => all.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        let gone = old.into_keys().filter(|name| !new.contains_key(name));
        all.removed.extend(gone);
        all
    }
}

struct Global {
    value: Json,
    is_written: bool,
    is_secret: bool,
}

#[derive(std::default::Default)]
struct Globals {
    keys: BTreeMap<String, Global>,
    upstreams: BTreeMap<String, Json>,
}

impl Globals {
    fn of(config: &Config) -> Globals {
        let mut globals = Globals::default();
        // It was read before, so it can be read again.
        if let (Some(root), _) = tree::read(&config.text, &config.file) {
            globals.section(Section::Root, Some(&root));
            if let Some(Value::Map(entries)) = root.find("upstreams").map(|node| &node.value) {
                let entries = entries.iter();
                globals.upstreams = entries
                    .map(|e| (e.key.clone(), json_of(&e.value)))
                    .collect();
            }
        }
        globals
    }

    fn section(&mut self, section: Section, node: Option<&Node>) {
        for key in section.keys() {
            let written = node.and_then(|node| node.find(key.name));
            match (key.kind, written.map(|node| &node.value)) {
                // Off as a whole.
                (Kind::MapOrFalse(_), Some(Value::Bool(false))) => {
                    self.keys
                        .insert(path(section, key), Global::of(key, written));
                }
                // Without it there is no TLS, and none of its defaults.
                (Kind::Map(Section::Tls), None) => {}
                (Kind::Map(inner) | Kind::MapOrFalse(inner), _) => self.section(inner, written),
                (Kind::Named(_), _) => {}
                _ => {
                    self.keys
                        .insert(path(section, key), Global::of(key, written));
                }
            }
        }
    }
}

impl Global {
    fn of(key: &Key, written: Option<&Node>) -> Global {
        let default = || match key.default {
            Default::Int(value) => json!(value),
            Default::Bool(value) => json!(value),
            Default::Text(value) => json!(value),
            Default::Json(text) => serde_json::from_str(text).unwrap_or(Json::Null),
            Default::Required | Default::None | Default::Described(_) => Json::Null,
        };
        Global {
            value: written.map_or_else(default, json_of),
            is_written: written.is_some(),
            is_secret: matches!(key.kind, Kind::Text(pattern) if pattern.secret),
        }
    }
}

fn path(section: Section, key: &Key) -> String {
    format!("{}{}", section.path(), key.name)
}

fn json_of(node: &Node) -> Json {
    serde_json::to_value(node.to_yaml()).unwrap_or(Json::Null)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let text = format!(
            "listen_addr: 127.0.0.1:80\nglobal_timeout_ms: 1000\nmax_connections: 10\n\
             routes: {{/: {{upstream: web}}}}\n{text}"
        );
        let config = crate::config::parse(&text, Path::new("c.yml"));
        config.unwrap_or_else(|problems| panic!("{problems}"))
    }

    const WEB: &str = "upstreams: {web: {upstream: \"http://h\"}}\n";

    #[test]
    fn every_key_is_there_with_the_value_in_force_and_no_secret() {
        let globals = config(&format!("{WEB}admin: {{token: hidden}}\n")).globals();
        for (path, value) in [
            ("listen_addr", json!("127.0.0.1:80")),
            ("global_timeout_ms", json!(1000)),
            ("max_body_bytes", Json::Null),
            ("trusted_proxies", json!([])),
            ("tcp_proxy.sniff_timeout_ms", json!(5000)),
            ("admin.listen_addr", json!("127.0.0.1:9901")),
            ("admin.token", json!("***")),
            ("server.watch_config", json!(false)),
        ] {
            assert_eq!(globals[path], value, "{path}");
        }
        assert!(!globals.contains_key("routes") && !globals.contains_key("upstreams"));
        let off = config(&format!("{WEB}admin: false\n")).globals();
        assert_eq!(off["admin"], json!(false));
        assert!(!off.contains_key("admin.listen_addr"));
    }

    #[test]
    fn what_became_of_a_key_is_told_by_its_path() {
        let before = config(&format!(
            "{WEB}max_header_bytes: 1000\ntcp_proxy: {{sniff_timeout_ms: 7}}\nadmin: {{token: a}}\n"
        ));
        let after = config(&format!(
            "{WEB}max_body_bytes: 5\nkeepalive_timeout_secs: 75\n\
             tcp_proxy: {{sniff_timeout_ms: 8}}\nadmin: {{token: b}}\n"
        ));
        let changed = after.changed_globals(&before);
        assert_eq!(changed.added, ["max_body_bytes"]);
        assert_eq!(changed.removed, ["max_header_bytes"]);
        assert_eq!(
            changed.changed,
            ["admin.token", "tcp_proxy.sniff_timeout_ms"]
        );
        assert_eq!(after.changed_globals(&after), Changed::default());
        let off = config(&format!("{WEB}admin: false\n"));
        let changed = off.changed_globals(&after);
        assert_eq!(changed.added, ["admin"]);
        assert!(changed.removed.contains(&"admin.token".to_owned()));
    }

    #[test]
    fn what_became_of_an_upstream_is_told_by_its_name() {
        let before =
            config("upstreams: {web: {upstream: \"http://h\"}, old: {upstream: \"http://h\"}}\n");
        let after = config(
            "upstreams:\n  new: {upstream: \"http://h\"}\n  \
             web: {upstream: \"http://h\", balance: random}\n",
        );
        let changed = after.changed_upstreams(&before);
        assert_eq!(
            (changed.added, changed.removed, changed.changed),
            (
                vec!["new".to_owned()],
                vec!["old".to_owned()],
                vec!["web".to_owned()]
            )
        );
    }
}
