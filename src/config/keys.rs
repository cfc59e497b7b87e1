//! The table of keys: name, kind of value, range, default and meaning of everything a configuration
//! may hold.
//!
//! The columns are here, the rows in `table`. Invariant: a key that is not in it is refused. The
//! parser, the JSON Schema and the documentation all come from it, so that they cannot disagree.

use Kind::*;

use super::detect::db_type_words;

/// One key of one section.
#[derive(Debug)]
pub struct Key {
    /// The unit of a number is the end of its name: `_ms`, `_secs`, `_bytes`.
    pub name: &'static str,
    /// What values are taken; others are problems that name the key.
    pub kind: Kind,
    /// In force where the key is left out.
    pub default: Default,
    /// Which routes take it; the rest of them report it as a problem.
    pub on: On,
    /// One clause without a full stop, for the table of keys and the JSON Schema.
    pub meaning: &'static str,
}

/// Which routes take a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Every route, or the section is not about routes.
    All,
    /// HTTP routes only.
    Http,
    /// TCP routes only.
    Tcp,
    /// Every route whose upstream stands in the route, and each entry of `upstreams`.
    Upstream,
}

/// What stands for a key that is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// Nothing does: leaving the key out is a problem.
    Required,
    /// The feature is off, or there is no limit.
    None,
    /// A number in the unit of the key.
    Int(u64),
    /// `true` or `false`.
    Bool(bool),
    /// A text, read as if it stood in the file.
    Text(&'static str),
    /// An empty list or map, or a map of the defaults of its own keys: as JSON.
    Json(&'static str),
    /// Depends on other keys: a clause for readers, no value.
    Described(&'static str),
}

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`; `yes`, `on` and the like are problems with a hint.
    Bool,
    /// A whole number, both ends inclusive.
    Int {
        /// The least that is taken.
        min: u64,
        /// The most that is taken.
        max: u64,
    },
    /// `ip:port` to bind, or a list of them.
    Addresses,
    /// A text of a pattern: what it is, the regular expression, an example.
    Text(&'static Pattern),
    /// One of several words.
    Choice(&'static [&'static str]),
    /// A name of a database's protocol, in any case.
    Protocol,
    /// A list of networks.
    Networks,
    /// `200-399` or one number.
    Statuses,
    /// A list of protocols, or `false`.
    Protocols,
    /// The URL of one endpoint.
    Url,
    /// A URL, a map with one, or a list of both.
    Endpoints,
    /// As `Endpoints`, or the name of an entry of `upstreams`.
    Upstream,
    /// A list of maps with a `type`.
    Filters,
    /// A list of maps with the keys of a section, at least one.
    List(Section),
    /// A map with the keys of a section.
    Map(Section),
    /// The same, or `false`.
    MapOrFalse(Section),
    /// A map from names to maps with the keys of a section.
    Named(Section),
}

/// A kind of text.
#[derive(Debug, PartialEq)]
pub struct Pattern {
    /// What the text is: `must be <this>`.
    pub what: &'static str,
    /// An ECMA-262 regular expression for the schema; the parser checks at least as much.
    pub regex: &'static str,
    /// What to write, for the hint.
    pub example: &'static str,
    /// Never shown; `${NAME}` in it is read from the environment.
    pub secret: bool,
}

impl Pattern {
    /// Whether a number would do, were it in quotes.
    pub fn takes_digits(&self) -> bool {
        !self.regex.starts_with("^[A-Za-z_]") && !self.regex.starts_with("^/")
    }
}

/// A group of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Section {
    /// The top of the file.
    Root,
    /// `tcp_proxy`.
    TcpProxy,
    /// `admin`, or `false` in its place.
    Admin,
    /// `server`.
    Server,
    /// `tls`.
    Tls,
    /// One entry of `tls.certificates`.
    Certificate,
    /// `http2`.
    Http2,
    /// One entry of `upstreams`.
    Upstream,
    /// One entry of `routes`, HTTP or TCP; see [`On`].
    Route,
    /// One endpoint of `upstream` that is written as a map.
    Endpoint,
    /// `health_check` of a route or of an entry of `upstreams`.
    HealthCheck,
    /// `ejection` of a route or of an entry of `upstreams`.
    Ejection,
    /// `match` of a TCP route.
    Match,
}

impl Section {
    /// Every section, in the order of the documentation.
    pub const ALL: [Section; 13] = [
        Section::Root,
        Section::Tls,
        Section::Certificate,
        Section::Http2,
        Section::TcpProxy,
        Section::Admin,
        Section::Server,
        Section::Upstream,
        Section::Route,
        Section::Endpoint,
        Section::HealthCheck,
        Section::Ejection,
        Section::Match,
    ];

    /// Where its keys stand in a file, as the documentation writes it.
    pub const fn path(self) -> &'static str {
        match self {
            Section::Root => "",
            Section::TcpProxy => "tcp_proxy.",
            Section::Admin => "admin.",
            Section::Server => "server.",
            Section::Tls => "tls.",
            Section::Certificate => "tls.certificates[].",
            Section::Http2 => "http2.",
            Section::Upstream => "upstreams.NAME.",
            Section::Route => "routes.KEY.",
            Section::Endpoint => "upstream[].",
            Section::HealthCheck => "health_check.",
            Section::Ejection => "ejection.",
            Section::Match => "match.",
        }
    }
}

impl Key {
    /// `ms`, `seconds`, `bytes`, or empty.
    pub fn unit(&self) -> &'static str {
        match self.name.rsplit('_').next() {
            Some("ms") => "ms",
            Some("secs") => "seconds",
            Some("bytes") => "bytes",
            _ => "",
        }
    }

    /// Whether an entry of `upstreams` takes it, and a route that names one does not.
    pub fn is_upstream(&self) -> bool {
        self.on == On::Upstream
    }

    /// The default in words, as the documentation shows it.
    pub fn default_words(&self) -> String {
        match self.default {
            Default::Required => "required".into(),
            Default::None => "none".into(),
            Default::Int(value) => format!("`{value}`"),
            Default::Bool(value) => format!("`{value}`"),
            Default::Text(value) | Default::Json(value) => format!("`{value}`"),
            Default::Described(words) => words.into(),
        }
    }

    /// The kind of value in words, as the documentation shows it.
    pub fn kind_words(&self) -> String {
        match self.kind {
            Bool => "`true` or `false`".into(),
            Int { min, max } => match self.unit() {
                "" => format!("{min} to {max}"),
                unit => format!("{min} to {max} {unit}"),
            },
            Addresses => "`ip:port`, or a list of them".into(),
            Text(pattern) => pattern.what.into(),
            Choice(words) => quoted(words.iter().copied()),
            Protocol => quoted(db_type_words()),
            Networks => "list of networks (`10.0.0.0/8`)".into(),
            Statuses => "statuses (`200-399`, `200,204`), or a list of them".into(),
            Protocols => "list of protocols (`websocket`, `foo/2`) or `false`".into(),
            Url => "URL".into(),
            Endpoints => "URL, `{url, …}`, or a list of them".into(),
            Upstream => "URL, `{url, …}`, a list of them, or a name in `upstreams`".into(),
            Filters => "list of `{type, …}`".into(),
            List(section) => match section {
                Section::Certificate => "list of `{cert, key}`".into(),
                _ => "list of maps".into(),
            },
            Map(_) => "map".into(),
            MapOrFalse(_) => "map or `false`".into(),
            Named(_) => "map of maps".into(),
        }
    }
}

fn quoted(words: impl Iterator<Item = &'static str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// Every key as a table in Markdown, for the page of keys.
pub fn markdown_table() -> String {
    let mut out = String::from("| key | value | default | meaning |\n|---|---|---|---|\n");
    for section in Section::ALL {
        for key in section.keys() {
            if section == Section::Upstream && key.name != "upstream" {
                continue;
            }
            let on = match key.on {
                On::Http => "HTTP: ",
                On::Tcp => "TCP: ",
                On::All | On::Upstream => "",
            };
            out.push_str(&format!(
                "| `{}{}` | {} | {} | {on}{} |\n",
                section.path(),
                key.name,
                key.kind_words(),
                key.default_words(),
                key.meaning
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_section_has_a_key_twice_and_every_key_is_explained() {
        for section in Section::ALL {
            let mut names = HashSet::new();
            for key in section.keys() {
                assert!(names.insert(key.name), "{}{}", section.path(), key.name);
                assert!(!key.meaning.is_empty());
                assert!(section.key(key.name).is_some());
            }
        }
        assert!(Section::Root.key("upstream").is_none());
    }

    #[test]
    fn number_defaults_are_in_their_ranges() {
        for section in Section::ALL {
            for key in section.keys() {
                if let (Int { min, max }, Default::Int(default)) = (key.kind, key.default) {
                    assert!((min..=max).contains(&default), "{}", key.name);
                }
                if let (Choice(words), Default::Text(default)) = (key.kind, key.default) {
                    assert!(words.contains(&default), "{}", key.name);
                }
            }
        }
    }

    #[test]
    fn the_table_names_every_key_with_its_default() {
        let table = markdown_table();
        assert!(table.contains("| `server.drain_timeout_secs` | 0 to 86400 seconds | `30` |"));
        assert!(
            table.contains("| `routes.KEY.strip_prefix` | `true` or `false` | `false` | HTTP: ")
        );
        for line in table.lines() {
            assert_eq!(
                line.matches(" | ").count(),
                if line.starts_with("|--") { 0 } else { 3 }
            );
        }
    }
}
