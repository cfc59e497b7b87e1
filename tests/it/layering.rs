//! The house rules that a compiler does not check: who may import whom, and what each file owes.
//!
//! The table of floors here is the one that counts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod circles;

/// Lowest first; imports go down only, modules of one floor do not see each other.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["transport"],
    &["config", "telemetry"],
    &["account", "wire"],
    &["tls"],
    &["upstream", "filter"],
    &["route"],
    &["snapshot"],
    &["http", "tcp"],
    &["server"],
    &["cli"],
    &["lib", "main"],
];

/// Where Pingora may be named: folders end with a slash.
const PINGORA: &[&str] = &[
    "upstream/peer.rs",
    "upstream/health.rs",
    "upstream/probe/http.rs",
    "upstream/ring.rs",
    "filter/",
    "http/",
    "tcp/",
    "server/",
    "error.rs",
    "lib.rs",
];

/// Files named for what needs `unsafe`.
const UNSAFE: &[&str] = &[
    "cli/mallopt.rs",
    "server/edge/accept/socket.rs",
    "server/adapter/descriptor.rs",
    "server/process/daemon.rs",
];

/// What `lib.rs` re-exports at the root, and where it lives.
const ROOT_NAMES: &[(&str, &str)] = &[("Error", "error"), ("Fault", "error"), ("Reason", "error")];

#[test]
fn imports_go_down_only() {
    let found = broken(|file| upward_imports(&file.path, &file.code));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn config_and_wire_know_neither_runtime_nor_pingora() {
    let found = broken(|file| {
        let bare = matches!(module(&file.path).as_str(), "config" | "wire");
        let words = words(&file.code);
        let named = words
            .iter()
            .filter(|w| bare && (w.as_str() == "tokio" || w.starts_with("pingora")));
        named.map(|w| format!("names {w}")).collect()
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn pingora_is_named_only_where_it_is_used() {
    let found = broken(|file| {
        let pingora = words(&file.code).iter().any(|w| w.starts_with("pingora"));
        let free = PINGORA
            .iter()
            .any(|p| file.path == *p || (p.ends_with('/') && file.path.starts_with(p)));
        match pingora && !free {
            true => vec!["names pingora".to_owned()],
            false => vec![],
        }
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    let found = broken(|file| match file.text.starts_with("//! ") {
        true => vec![],
        false => vec!["does not open with //!".to_owned()],
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_is_where_the_name_says_so() {
    let found = broken(|file| {
        let unsafe_code = words(&file.code).iter().any(|w| w == "unsafe");
        match unsafe_code && !UNSAFE.contains(&file.path.as_str()) {
            true => vec!["has unsafe code".to_owned()],
            false => vec![],
        }
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn there_is_no_global_state_and_nothing_unfinished() {
    const CELLS: &[&str] = &[
        "Mutex", "RwLock", "OnceLock", "LazyLock", "OnceCell", "ArcSwap",
    ];
    let found = broken(|file| {
        let mut found = Vec::new();
        for line in file.code.lines() {
            let words = words(line);
            let is_static = line
                .trim_start()
                .trim_start_matches("pub ")
                .starts_with("static ");
            let cell = |w: &String| CELLS.contains(&w.as_str()) || w.starts_with("Atomic");
            if is_static && words.iter().any(|w| w == "mut" || cell(w)) {
                found.push(format!("static state: {}", line.trim()));
            }
            for mark in ["todo!", "unimplemented!", "dbg!"] {
                if line.contains(mark) {
                    found.push(format!("{mark}: {}", line.trim()));
                }
            }
        }
        found
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_see_what_they_forbid() {
    let seen = |path: &str, code: &str| upward_imports(path, &code_only(code)).len();
    assert_eq!(seen("config/parse.rs", "use crate::server::Gateway;"), 1);
    assert_eq!(
        seen("http/proxy.rs", "let a = crate::tcp::relay();"),
        1,
        "siblings"
    );
    assert_eq!(
        seen("wire/tls.rs", "use crate::{config::X, upstream::{Y, Z}};"),
        1
    );
    assert_eq!(seen("route/table.rs", "use super::super::http::Proxy;"), 1);
    assert_eq!(seen("snapshot.rs", "use super::http::Proxy;"), 1);
    assert_eq!(
        seen(
            "upstream/mod.rs",
            "use crate::{config, Error, upstream::x};"
        ),
        0
    );
    assert_eq!(seen("config/mod.rs", "// use crate::server::Gateway;"), 0);
    assert_eq!(
        seen("config/mod.rs", "let a = \"crate::server::Gateway\";"),
        0
    );
    assert_eq!(
        words("a_unsafe unsafe_code un safe"),
        ["a_unsafe", "unsafe_code", "un", "safe"]
    );
    assert_eq!(
        code_only("a('\\''); b /* c */ d \"e\\\"f\" r#\"g\"h\"# 'x: i"),
        "a(); b  d   'x: i"
    );
}

struct File {
    /// Below `src`, with `/`.
    path: String,
    text: String,
    /// Without comments, strings and character literals.
    code: String,
}

/// `path: what` for everything `rule` finds.
fn broken(rule: impl Fn(&File) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for file in sources() {
        let broken = rule(&file).into_iter();
        found.extend(broken.map(|what| format!("src/{}: {what}", file.path)));
    }
    found
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    assert!(paths.len() > 10, "no sources below {}", root.display());
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        let path = path.strip_prefix(&root).expect("it is below");
        File {
            path: path.to_string_lossy().into_owned(),
            code: code_only(&text),
            text,
        }
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    into.sort();
}

fn upward_imports(path: &str, code: &str) -> Vec<String> {
    let own = module(path);
    let own_floor = floor(&own).unwrap_or_else(|| panic!("src/{path} is on no floor"));
    let allowed = |other: &str| other == own || floor(other).is_none_or(|floor| floor < own_floor);
    let named = root_names(path, code);
    named
        .into_iter()
        .filter(|n| !allowed(n))
        .map(|n| format!("{own} names crate::{n}"))
        .collect()
}

/// Which top-level modules a file names, by `crate::` or by climbing with `super::`.
fn root_names(path: &str, code: &str) -> BTreeSet<String> {
    let mut starts = vec!["crate::".to_owned()];
    let depth = path.matches('/').count() + usize::from(!path.ends_with("mod.rs"));
    if !matches!(path, "lib.rs" | "main.rs") {
        starts.push("super::".repeat(depth));
    }
    let mut names = BTreeSet::new();
    for start in starts {
        for (at, _) in code.match_indices(&start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            names.extend(first_segments(&code[at + start.len()..]));
        }
    }
    let home = |name: String| match ROOT_NAMES.iter().find(|(n, _)| *n == name) {
        Some((_, module)) => (*module).to_owned(),
        None => name,
    };
    names.into_iter().map(home).collect()
}

/// `a::b` gives `a`; `{a::b, c::{d, e}}` gives `a` and `c`.
fn first_segments(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return words(rest).into_iter().take(1).collect();
    };
    let (mut depth, mut entry, mut found) = (1, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            found.extend(words(&entry).into_iter().next());
            entry.clear();
        } else {
            entry.push(c);
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The top-level module a file belongs to.
fn module(path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

fn words(code: &str) -> Vec<String> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Rust without comments, string literals and character literals.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") || rest.starts_with("r\"") {
            let close = if rest.starts_with("r#") { "\"#" } else { "\"" };
            let open = close.len() + 1;
            rest[open..]
                .find(close)
                .map_or(rest.len(), |end| open + end + close.len())
        } else if c == '"' {
            quoted(rest, '"')
        } else if c == '\'' && is_char_literal(rest) {
            quoted(rest, '\'')
        } else {
            0
        };
        if skip == 0 {
            // An identifier is taken whole: the r of `for"` starts no raw string.
            let word = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let take = word.max(c.len_utf8());
            code.push_str(&rest[..take]);
            rest = &rest[take..];
        } else {
            rest = &rest[skip..];
        }
    }
    code
}

fn is_char_literal(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// The length of a literal with escapes, both quotes included.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
