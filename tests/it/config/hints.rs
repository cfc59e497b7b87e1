//! What an error advises is true: each hint of each mistake is followed, and the mistake is gone.
//!
//! A hint that names something to write is followed mechanically: as the value, as the key, beside it,
//! and so on, in whatever way makes sense of it. One that names nothing is in [`ADVICE`] or gives a
//! grammar (numbers, words); whoever writes a new one has to decide which it is.

use std::collections::BTreeSet;
use std::path::Path;

use harbr_router::config::tree::{self, Entry, Node, Value};
use harbr_router::config::{self, Mark};
use harbr_router::server::Gateway;

use super::Place;
use super::mistakes::{MISTAKES, RefusedBy};

/// Beginnings of hints that name nothing to write: what to do is up to the reader.
const ADVICE: &[&str] = &[
    // Grammars and ranges.
    "with keys such as",
    "1 to 65535",
    "100 to 599",
    "ASCII",
    "at most 255 ASCII characters",
    "labels of letters",
    "letters, digits",
    "starts with `/`",
    "four numbers",
    "a number, without quotes and unit",
    "exactly one",
    "it takes none here",
    "write its `xn--` form",
    "a percent sign itself is",
    "301, 302, 303, 307 or 308",
    // Which one is meant, only the writer knows.
    "clients log in themselves",
    "at least one endpoint must stand",
    "the endpoints of one upstream have one scheme",
    "metrics could not tell them apart",
    "write a second entry",
    "give each listener an address of its own",
    "write the path as the endpoint sees it",
    // Outside of the file.
    "set it before the gateway starts",
    "give it a value before",
    "a line end at its end",
];

/// A line of the report.
#[derive(Clone, Debug)]
struct Said {
    at: Mark,
    /// Path and message.
    what: String,
    hint: String,
}

/// What is wrong with a text, and what it is warned of.
fn told(text: &str) -> (Vec<Said>, usize) {
    let (problems, warnings) = match config::parse(text, Path::new("c.yml")) {
        Err(problems) => (problems.to_string(), 0),
        Ok(config) => {
            // What is doubtful, not what is unused.
            let warnings = config.warnings.iter().filter(|w| w.contains("write `"));
            let warnings = warnings.count();
            let checked = Gateway::new(config).check();
            (
                checked.err().map_or_else(String::new, |e| e.to_string()),
                warnings,
            )
        }
    };
    (problems.lines().map(said).collect(), warnings)
}

fn said(line: &str) -> Said {
    let rest = line.strip_prefix("c.yml:").unwrap_or(line);
    let mut parts = rest.splitn(3, ':');
    let mut number = || parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let at = Mark {
        line: number(),
        column: number(),
    };
    let rest = parts.next().unwrap_or_default();
    let (what, hint) = without_hint(rest);
    Said {
        at,
        what: what.to_owned(),
        hint: hint.to_owned(),
    }
}

/// The last parentheses of a line, which may hold others.
fn without_hint(line: &str) -> (&str, &str) {
    let mut depth = 0;
    for (at, c) in line.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return match line[at..].strip_prefix('(') {
                Some(hint) => (line[..at].trim(), hint.strip_suffix(')').unwrap_or(hint)),
                None => (line, ""),
            };
        }
    }
    (line, "")
}

/// What stands between backquotes.
fn snippets(hint: &str) -> Vec<String> {
    let quoted = hint.split('`').skip(1).step_by(2);
    quoted
        .map(|s| {
            // Where the reader puts in what is his own.
            let s = s
                .replace("${NAME}", "sesame")
                .replace("${ADMIN_TOKEN}", "sesame");
            s.replace("NAME", "ann").replace('…', "/health")
        })
        .collect()
}

/// The steps to each key or item that stands at a place.
fn at(node: &Node, mark: Mark) -> Vec<Vec<usize>> {
    fn walk(node: &Node, mark: Mark, steps: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        let inner: Vec<(Mark, &Node)> = match &node.value {
            Value::Map(entries) => entries.iter().map(|e| (e.key_at, &e.value)).collect(),
            Value::List(items) => items.iter().map(|item| (item.at, item)).collect(),
            _ => Vec::new(),
        };
        for (nth, (place, node)) in inner.into_iter().enumerate() {
            steps.push(nth);
            if place == mark {
                found.push(steps.clone());
            }
            walk(node, mark, steps, found);
            steps.pop();
        }
    }
    let mut found = Vec::new();
    walk(node, mark, &mut Vec::new(), &mut found);
    found
}

fn node<'n>(root: &'n mut Node, steps: &[usize]) -> &'n mut Node {
    let Some((first, rest)) = steps.split_first() else {
        return root;
    };
    match &mut root.value {
        Value::Map(entries) => node(&mut entries[*first].value, rest),
        Value::List(items) => node(&mut items[*first], rest),
        _ => panic!("there is nothing in it"),
    }
}

/// `text` as YAML.
fn yaml(text: &str) -> Option<Node> {
    match tree::read(text, Path::new("c.yml")) {
        (node, problems) if problems.is_empty() => node,
        _ => None,
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Puts the entries of one map into another.
fn set(map: &mut Node, more: &Node) {
    let (Value::Map(entries), Value::Map(more)) = (&mut map.value, &more.value) else {
        return;
    };
    for new in more {
        match entries.iter_mut().find(|entry| entry.key == new.key) {
            Some(entry) => entry.value = new.value.clone(),
            None => entries.push(new.clone()),
        }
    }
}

fn remove(root: &mut Node, steps: &[usize]) -> Option<Entry> {
    let (last, above) = steps.split_last()?;
    match &mut node(root, above).value {
        Value::Map(entries) => Some(entries.remove(*last)),
        Value::List(items) => {
            items.remove(*last);
            None
        }
        _ => None,
    }
}

/// Every way to follow `snippet` at a place.
fn followed(root: &Node, steps: &[usize], snippet: &str) -> Vec<Node> {
    let mut all = Vec::new();
    let mut edit = |change: &mut dyn FnMut(&mut Node)| {
        let mut copy = root.clone();
        change(&mut copy);
        all.push(copy);
    };
    let parsed = match snippet {
        // What the reader of YAML takes the bare text for is his own affair.
        "put it in quotes" => match &node(&mut root.clone(), steps).value {
            Value::Int(number) => yaml(&format!("\"{number}\"")),
            Value::Float(number) => yaml(&format!("\"{number}\"")),
            _ => None,
        },
        snippet => yaml(snippet),
    };
    let above = steps.split_last().map_or(&[][..], |(_, above)| above);
    if let Some(value) = &parsed {
        // It is the value, or the one item of a list that is.
        edit(&mut |root| node(root, steps).value = value.value.clone());
        if matches!(value.value, Value::Map(_)) {
            // Beside it, in its stead, in it, at the top.
            edit(&mut |root| set(node(root, above), value));
            edit(&mut |root| {
                remove(root, steps);
                set(node(root, above), value);
            });
            edit(&mut |root| set(node(root, steps), value));
            for depth in 0..above.len() {
                edit(&mut |root| set(node(root, &above[..depth]), value));
            }
        }
    }
    edit(&mut |root| node(root, steps).value = text(snippet));
    let mut old = root.clone();
    let old_key = match &node(&mut old, above).value {
        Value::Map(entries) => steps.last().map(|last| entries[*last].key.clone()),
        _ => None,
    };
    if let (Some(last), Some(old_key)) = (steps.last(), &old_key) {
        // It is the key, or a part of it.
        for key in [Some(snippet.to_owned()), patched(old_key, snippet)] {
            let Some(key) = key else { continue };
            edit(&mut |root| {
                if let Value::Map(entries) = &mut node(root, above).value {
                    entries[*last].key = key.clone();
                }
            });
        }
    }
    if let Value::Text(old) = &node(&mut old, steps).value
        && let Some(new) = patched(old, snippet)
    {
        edit(&mut |root| node(root, steps).value = text(&new));
    }
    all
}

/// `old` with the part that `snippet` is meant for replaced: a scheme, a host that needs brackets, a
/// character that needs an escape.
fn patched(old: &str, snippet: &str) -> Option<String> {
    if snippet.ends_with("://") {
        let (_, rest) = old.split_once("://")?;
        return Some(format!("{snippet}{rest}"));
    }
    if let Some(bare) = snippet.strip_prefix('[').and_then(|s| s.strip_suffix(']')) {
        return Some(old.replacen(bare, snippet, 1));
    }
    if let Some((scheme, rest)) = old.split_once("://")
        && snippet.parse::<std::net::IpAddr>().is_ok()
    {
        let tail = rest.find(['/', ':']).map_or("", |at| &rest[at..]);
        return Some(format!("{scheme}://{snippet}{tail}"));
    }
    if snippet.starts_with('%') {
        let hex: Vec<u8> = snippet
            .split('%')
            .skip(1)
            .filter_map(|digits| u8::from_str_radix(digits, 16).ok())
            .collect();
        let plain = String::from_utf8(hex).ok()?;
        return Some(old.replacen(&plain, snippet, 1));
    }
    None
}

/// Whether `edited` is better: the problem is gone, none came in its stead at its place, and nothing
/// is doubtful.
fn is_mended(edited: &Node, problem: &Said, before: &(Vec<Said>, usize)) -> bool {
    let text = serde_json::to_string(&edited.to_yaml()).expect("it is plain data");
    let (problems, warnings) = told(&text);
    let path = |said: &Said| said.what.split(": ").next().map(str::to_owned);
    let is_new = |said: &&Said| before.0.iter().all(|old| old.what != said.what);
    problems.len() <= before.0.len()
        && problems.iter().all(|p| p.what != problem.what)
        && problems
            .iter()
            .filter(is_new)
            .all(|p| path(p) != path(problem))
        && (warnings <= before.1 || !problems.is_empty())
}

#[test]
fn whoever_does_what_a_hint_says_is_rid_of_the_problem() {
    let mistakes = MISTAKES.iter();
    // What the reader of YAML refuses has no value that could be edited.
    let read = mistakes.filter(|(_, _, refused_by, _)| *refused_by != RefusedBy::Tree);
    let (done, advised) =
        all_hold(read.map(|(place, snippet, ..)| (*place, (*snippet).to_owned())));
    assert!(
        done > 200 && advised < done,
        "{done} followed, {advised} advice"
    );
}

/// What people write out of the habit of other gateways, and by hand.
#[test]
fn hints_for_keys_addresses_and_urls_hold_however_they_are_spelt() {
    let keys = [
        "*",
        "*.localhost",
        "example.org",
        "www.example.org",
        ".example.org",
        "localhost:8080",
        "api",
        "a b",
        ":id",
        "_",
        "*/x",
        "*/",
        "*x.org/",
        "a.*.org/",
        ".x.org/",
        "h:x/",
        "h:+80/",
        "h:99999/x",
        "/a b",
        "/a?b",
        "/a#b",
        "/ä",
        "/é/ü",
        "/a\"b",
        "/%zz",
        "/a%00",
        "/../x",
        "/a/..;x",
        "/api/*",
        "/api/**",
        "/a/*/b",
        "/api/{id}",
        "/{tenant}/x",
        "/api/<id>",
        "/api/[0-9]+",
        "/^api",
        "^/api/v[0-9]",
        "~* ^/api$",
        "= /health",
        "/a|b",
        "http://h/x",
        "https://example.org/api",
        "a..b/",
        "[::1/",
        "::1/",
    ];
    let key = |key: &&str| {
        let quoted = serde_json::to_string(key).expect("it is a text");
        (
            Place::Routes,
            format!("{quoted}: {{upstream: \"http://h\"}}"),
        )
    };
    let urls = [
        "h",
        "h:80",
        "https://h",
        "wss://h/x",
        "HTTPS://h",
        "rediss://h",
        "htp://h",
        "http://",
        "http://::1",
        "http://[::1",
        "http://[x]",
        "http://h:",
        "http://h:0",
        "http://a b",
        "http://ä",
        "http://1.2.3.400",
        "http://h/a//b",
        "http://h/a?b",
        "http://h#x",
        "http://me:pw@h",
        "ws://h",
        "://h",
        "postgres://h/db",
        "postgres://h?sslmode=require",
        "pgsql://h",
        "mongodb+srv://h",
        "zebra://h",
    ];
    let url = |url: &&str| (Place::Upstream, format!("upstream: {url:?}"));
    let addresses = [
        "localhost:80",
        ":80",
        "*:80",
        "80",
        "::1:80",
        "10.0.0.1",
        "::",
        "[::]",
        "example.org:80",
        "0.0.0.0:99999",
        "[::ffff:1.2.3.4]:80",
    ];
    let address = |text: &&str| (Place::Top, format!("tcp_proxy: {{listen_addr: {text:?}}}"));
    let types = [
        "Postgress",
        "pgsql",
        "rediss",
        "mongodb+srv",
        "tns",
        "zebra",
        "http",
        "https",
    ];
    let db_type = |word: &&str| {
        let route = format!("a: {{upstream: \"tcp://h:1\", db_type: {word:?}}}");
        (Place::TcpRoutes, route)
    };
    let listed = keys.iter().map(key).chain(urls.iter().map(url));
    let listed = listed.chain(addresses.iter().map(address));
    let no_port = "a: {upstream: \"tcp://h\"}".to_owned();
    let listed = listed.chain([(Place::TcpRoutes, no_port)]);
    all_hold(listed.chain(types.iter().map(db_type)));
}

/// Follows the hints of these mistakes; answers how many could be followed, and how many are advice.
fn all_hold(mistakes: impl Iterator<Item = (Place, String)>) -> (usize, usize) {
    let mut untrue = BTreeSet::new();
    let (mut done, mut advised) = (0, 0);
    for (place, snippet) in mistakes {
        let text = place.file_with(&snippet);
        let (problems, _) = told(&text);
        assert!(!problems.is_empty(), "accepted: {snippet}");
        let (Some(root), _) = tree::read(&text, Path::new("c.yml")) else {
            panic!("no tree: {snippet}");
        };
        let as_json = serde_json::to_string(&root.to_yaml()).expect("it is plain data");
        let before = told(&as_json);
        for problem in &problems {
            if ADVICE.iter().any(|start| problem.hint.starts_with(start)) {
                advised += 1;
                continue;
            }
            match follow(&root, problem, &before) {
                Ok(()) => done += 1,
                Err(why) => {
                    untrue.insert(format!(
                        "{why}: {} ({})\n    {snippet}",
                        problem.what, problem.hint
                    ));
                }
            }
        }
    }
    let list: Vec<String> = untrue.into_iter().collect();
    assert!(list.is_empty(), "{}\n{} hints", list.join("\n"), list.len());
    (done, advised)
}

/// Follows everything that a hint says.
fn follow(root: &Node, problem: &Said, before: &(Vec<Said>, usize)) -> Result<(), String> {
    let hint = problem.hint.as_str();
    let mut places = at(root, problem.at);
    if problem.at == Mark::START || places.is_empty() {
        places.push(Vec::new());
    }
    let mended = |edited: &Node| is_mended(edited, problem, before);
    if hint.starts_with("remove") {
        let without = places.iter().any(|steps| {
            let mut copy = root.clone();
            remove(&mut copy, steps);
            mended(&copy) || is_mended_in_part(root, steps, hint, &mended)
        });
        return without
            .then_some(())
            .ok_or_else(|| "still there when it is away".to_owned());
    }
    let elsewhere = ["it stands ", "write it under "];
    if let Some(under) = elsewhere.iter().find_map(|start| hint.strip_prefix(start)) {
        let under = under.replace("at the top of the file", "``");
        let path = under.trim_start_matches("under ").trim_matches('`');
        let moved = places.iter().any(|steps| {
            let near = steps.split_last().map_or(&[][..], |(_, above)| above);
            let bases = [&[][..], near];
            bases
                .iter()
                .any(|base| mended(&moved(root, steps, base, path)))
        });
        return moved
            .then_some(())
            .ok_or_else(|| format!("not there: `{path}`"));
    }
    // What to write, and where.
    if let Some((what, under)) = hint.split_once(" under `") {
        let (what, under) = (snippets(what), under.trim_end_matches('`'));
        let put = what.iter().filter_map(|what| yaml(what)).any(|what| {
            let mut copy = root.clone();
            merge(&mut copy, &wrapped(root, what, under));
            mended(&copy)
        });
        return put
            .then_some(())
            .ok_or_else(|| format!("no help under `{under}`"));
    }
    let words = snippets(hint);
    let is_list = ["one of ", "the keys here: ", "the settings here: "]
        .iter()
        .find_map(|start| hint.strip_prefix(start));
    if let Some(list) = is_list {
        let some = list.split(", ").any(|word| {
            let word = word.trim_matches('`');
            places
                .iter()
                .any(|steps| followed(root, steps, word).iter().any(&mended))
        });
        // It says which keys there are, not what to write.
        return (some || !hint.starts_with("one of"))
            .then_some(())
            .ok_or_else(|| "none of the words does".to_owned());
    }
    let words = match hint.starts_with("put it in quotes") {
        true => vec!["put it in quotes".to_owned()],
        false => words,
    };
    if words.is_empty() {
        return Err("neither text to write nor known advice".to_owned());
    }
    // What has to be done together.
    if hint.contains(", and ") {
        let both = places.iter().any(|steps| {
            let once = followed(root, steps, &words[0]);
            let mut twice = once
                .iter()
                .flat_map(|once| followed(once, steps, &words[1]));
            twice.any(|edited| mended(&edited))
        });
        return both
            .then_some(())
            .ok_or_else(|| "both do not help".to_owned());
    }
    for word in words {
        let works = places
            .iter()
            .any(|steps| followed(root, steps, &word).iter().any(&mended));
        if !works {
            return Err(format!("`{word}` does not help"));
        }
    }
    Ok(())
}

/// For hints such as "remove `x`": a part of the value, or other keys of the map, go.
fn is_mended_in_part(
    root: &Node,
    steps: &[usize],
    hint: &str,
    mended: &dyn Fn(&Node) -> bool,
) -> bool {
    let mut copy = root.clone();
    if let Some((_, above)) = steps.split_last()
        && let Value::Map(entries) = &mut node(&mut copy, above).value
    {
        let parts = snippets(hint);
        let keys: Vec<&str> = parts
            .iter()
            .map(|part| part.split(':').next().unwrap_or(part))
            .collect();
        entries.retain(|entry| !keys.contains(&entry.key.as_str()));
        if mended(&copy) {
            return true;
        }
    }
    let mut copy = root.clone();
    if let Value::List(items) = &mut node(&mut copy, steps).value {
        let parts = snippets(hint);
        items.retain(|item| !matches!(&item.value, Value::Text(t) if parts.contains(t)));
        return mended(&copy);
    }
    let (key, old) = match (steps.split_last(), node(&mut copy, steps).value.clone()) {
        (_, Value::Text(old)) => (false, old),
        (Some((last, above)), _) => match &node(&mut copy, above).value {
            Value::Map(entries) => (true, entries[*last].key.clone()),
            _ => return false,
        },
        _ => return false,
    };
    snippets(hint).iter().any(|part| {
        // `?` and `#`: with what follows.
        let kept = match part.as_str() {
            "?" | "#" => old
                .split(part.as_str())
                .next()
                .unwrap_or_default()
                .to_owned(),
            part => old.replace(part, ""),
        };
        let mut copy = root.clone();
        match (key, steps.split_last()) {
            (true, Some((last, above))) => {
                if let Value::Map(entries) = &mut node(&mut copy, above).value {
                    entries[*last].key = kept;
                }
            }
            _ => node(&mut copy, steps).value = text(&kept),
        }
        mended(&copy)
    })
}

/// The entry at `steps`, moved into the section `path` from `base` on, which holds it.
fn moved(root: &Node, steps: &[usize], base: &[usize], path: &str) -> Node {
    let mut copy = root.clone();
    let Some(entry) = remove(&mut copy, steps) else {
        return copy;
    };
    let map = Node {
        at: Mark::START,
        chars: (0, 0),
        value: Value::Map(vec![entry]),
    };
    merge(node(&mut copy, base), &wrapped(root, map, path));
    copy
}

/// `map` under this path.
fn wrapped(root: &Node, mut map: Node, path: &str) -> Node {
    let first = match root.find("routes").map(|routes| &routes.value) {
        Some(Value::Map(entries)) => entries.first().map(|entry| entry.key.clone()),
        _ => None,
    };
    // `routes.KEY`: the first route will do.
    for name in path.split('.').rev().filter(|name| !name.is_empty()) {
        let key = match name {
            "KEY" => first.clone().unwrap_or_default(),
            "NAME" => "u".to_owned(),
            name => name.trim_end_matches("[]").to_owned(),
        };
        let entry = Entry {
            key,
            key_at: Mark::START,
            value: map.clone(),
        };
        map.value = Value::Map(vec![entry]);
    }
    map
}

fn merge(map: &mut Node, more: &Node) {
    let (Value::Map(entries), Value::Map(more)) = (&mut map.value, &more.value) else {
        return;
    };
    for new in more {
        match entries.iter_mut().find(|entry| entry.key == new.key) {
            Some(entry) if matches!(entry.value.value, Value::Map(_)) => {
                merge(&mut entry.value, &new.value);
            }
            Some(entry) => entry.value = new.value.clone(),
            None => entries.push(new.clone()),
        }
    }
}
