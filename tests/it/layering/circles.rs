//! The rule against circles: no file imports itself, not even by way of others.
//!
//! An import runs from the file that names something to the file that defines it. A re-export is
//! followed to the definition and ties nothing by itself; neither do `mod x;` and test code.

use std::collections::{BTreeMap, BTreeSet};

use super::{code_only, sources};

#[test]
fn files_import_each_other_in_no_circle() {
    let files = sources().into_iter().map(|file| (file.path, file.code));
    let house = House::new(files.collect());
    let edges = house.edges();
    assert!(edges.len() > 100, "only {} files import", edges.len());
    let circles = circles(&edges);
    let shown: Vec<_> = circles.iter().map(|circle| show(circle, &edges)).collect();
    assert!(circles.is_empty(), "\n{}", shown.join("\n\n"));
}

#[test]
fn the_rule_sees_circles() {
    let seen = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(path, code)| {
            let code = code_only(code);
            ((*path).to_owned(), code)
        });
        let edges = House::new(files.collect()).edges();
        circles(&edges)
            .iter()
            .map(|circle| circle.iter().cloned().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    let root = ("lib.rs", "mod a;");
    let face = ("a/mod.rs", "mod b; mod c; pub use b::B; pub use c::C;");
    assert_eq!(
        seen(&[
            root,
            face,
            ("a/b.rs", "use super::c::C; pub struct B(C);"),
            ("a/c.rs", "use crate::a::b; pub struct C(b::B);"),
        ]),
        ["a/b.rs a/c.rs"]
    );
    assert_eq!(
        seen(&[
            root,
            face,
            ("a/b.rs", "use super::C; pub struct B(C);"),
            ("a/c.rs", "pub struct C(Option<super::B>);"),
        ]),
        ["a/b.rs a/c.rs"],
        "through what the folder re-exports"
    );
    assert_eq!(
        seen(&[
            root,
            face,
            ("a/b.rs", "use super::C; pub struct B(C);"),
            (
                "a/c.rs",
                "pub struct C; #[cfg(test)] mod tests { use crate::a::B; }"
            ),
        ]),
        [""; 0],
        "one way, and back in tests only"
    );
    assert_eq!(
        seen(&[
            root,
            (
                "a/mod.rs",
                "mod b; use b::B; pub struct A(B); pub enum Kind {}"
            ),
            ("a/b.rs", "use super::Kind; pub struct B(Kind);"),
        ]),
        ["a/b.rs a/mod.rs"],
        "through what a parent defines"
    );
    assert_eq!(
        seen(&[
            root,
            ("a/mod.rs", "mod b; mod c; mod d; pub enum Kind {}"),
            (
                "a/b.rs",
                "use super::c::{self, x::{Deep as D}}; fn b() { c::run(); D::new() }"
            ),
            (
                "a/c.rs",
                "pub mod x; use super::{d, Kind}; pub fn run() { d::run() }"
            ),
            ("a/c/x.rs", "pub struct Deep;"),
            ("a/d.rs", "pub fn run() { super::b::b() }"),
        ]),
        ["a/b.rs a/c.rs a/d.rs"],
        "a ring of three"
    );
    assert_eq!(
        seen(&[
            root,
            face,
            ("a/b.rs", "use super::*; pub struct B; fn x(c: C) {}"),
            (
                "a/c.rs",
                "// use super::B;\npub struct C; const A: &str = \"super::B\";"
            ),
        ]),
        [""; 0],
        "comments and strings"
    );
    assert_eq!(
        seen(&[
            root,
            face,
            ("a/b.rs", "use super::*; pub struct B; fn x(c: C) {}"),
            ("a/c.rs", "use super::*; pub struct C; fn x(b: B) {}"),
        ]),
        ["a/b.rs a/c.rs"],
        "everything of a parent, both ways"
    );
    assert_eq!(
        seen(&[
            root,
            ("a/mod.rs", "mod b; mod c; use b::B; pub struct A(B);"),
            ("a/b.rs", "use crate::a; pub struct B(a::c::C);"),
            ("a/c.rs", "pub struct C;"),
        ]),
        [""; 0],
        "a module's name alone"
    );
}

/// The sources, by module.
struct House {
    files: Vec<Source>,
    /// The file of each module.
    modules: BTreeMap<Vec<String>, usize>,
}

struct Source {
    path: String,
    module: Vec<String>,
    /// What it defines outside of any block.
    defined: BTreeSet<String>,
    uses: Vec<Use>,
    /// Without its `use` items.
    code: String,
}

/// One name that a `use` brings in.
struct Use {
    path: Vec<String>,
    /// As it is called here; `*` for everything.
    name: String,
    is_exported: bool,
}

impl House {
    /// Of files by their path below `src`, without comments and literals.
    fn new(files: Vec<(String, String)>) -> House {
        let mut test_files = BTreeSet::new();
        let mut read = Vec::new();
        for (path, code) in files {
            if path == "main.rs" {
                continue;
            }
            let module = module_of(&path);
            let (code, test_modules) = without_tests(&code);
            for name in test_modules {
                test_files.insert([module.clone(), vec![name]].concat());
            }
            let (uses, code) = take_uses(&code);
            read.push(Source {
                defined: definitions(&code),
                path,
                module,
                uses,
                code,
            });
        }
        let is_test =
            |module: &[String]| (1..=module.len()).any(|n| test_files.contains(&module[..n]));
        read.retain(|file| !is_test(&file.module));
        let modules = read.iter().enumerate();
        let modules = modules
            .map(|(at, file)| (file.module.clone(), at))
            .collect();
        House {
            files: read,
            modules,
        }
    }

    /// Which file takes which names from which other.
    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for file in &self.files {
            let mut taken: BTreeSet<Vec<String>> = inline_paths(&file.code).into_iter().collect();
            let words = super::words(&file.code);
            let words: BTreeSet<String> = words.into_iter().collect();
            for import in &file.uses {
                let is_used = !import.is_exported || words.contains(&import.name);
                if import.name == "*" {
                    taken.extend(words.iter().map(|name| {
                        let name = std::slice::from_ref(name);
                        [import.path.as_slice(), name].concat()
                    }));
                } else if is_used {
                    taken.insert(import.path.clone());
                }
            }
            for path in taken {
                let Some(home) = self.home(&file.module, &path) else {
                    continue;
                };
                let home = &self.files[home].path;
                if *home != file.path {
                    let names = edges.entry(file.path.clone()).or_default();
                    let name = path.last().cloned().unwrap_or_default();
                    names.entry(home.clone()).or_default().insert(name);
                }
            }
        }
        edges
    }

    /// The file that defines what `path` means in `module`.
    fn home(&self, module: &[String], path: &[String]) -> Option<usize> {
        self.resolve(module, path, &mut BTreeSet::new(), true)
    }

    fn resolve(
        &self,
        module: &[String],
        path: &[String],
        seen: &mut BTreeSet<(Vec<String>, Vec<String>)>,
        is_start: bool,
    ) -> Option<usize> {
        if !seen.insert((module.to_vec(), path.to_vec())) {
            return None;
        }
        let here = *self.modules.get(module)?;
        // A module by itself ties nothing: what is taken of it does.
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" if is_start => return self.resolve(&[], rest, seen, false),
            "self" if is_start || rest.is_empty() => {
                return self.resolve(module, rest, seen, false);
            }
            "super" => {
                let parent = &module[..module.len().checked_sub(1)?];
                return self.resolve(parent, rest, seen, false);
            }
            _ => {}
        }
        let file = &self.files[here];
        let child = [module, std::slice::from_ref(first)].concat();
        if self.modules.contains_key(&child) && !(rest.is_empty() && file.defined.contains(first)) {
            return self.resolve(&child, rest, seen, false);
        }
        if file.defined.contains(first) {
            return Some(here);
        }
        let named = file.uses.iter().filter(|import| import.name == *first);
        let named = named.map(|import| [&import.path, rest].concat());
        let globs = file.uses.iter().filter(|import| import.name == "*");
        let globs = globs.map(|import| [&import.path, path].concat());
        let mut paths = named.chain(globs).filter(|path| path.len() <= LONGEST);
        paths.find_map(|path| self.resolve(module, &path, seen, true))
    }
}

/// Names that import each other would be followed for ever.
const LONGEST: usize = 12;

type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Sets of files that all reach each other.
fn circles(edges: &Edges) -> Vec<BTreeSet<String>> {
    let reached = |from: &String| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            for to in edges.get(file).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(to.clone()) {
                    next.push(to);
                }
            }
        }
        reached
    };
    let all: BTreeMap<&String, BTreeSet<String>> = edges.keys().map(|f| (f, reached(f))).collect();
    let circle = |from: &String| -> BTreeSet<String> {
        let back = |to: &&String| all.get(*to).is_some_and(|all| all.contains(from));
        all[from].iter().filter(back).cloned().collect()
    };
    let circles: BTreeSet<_> = edges.keys().map(circle).filter(|c| !c.is_empty()).collect();
    circles.into_iter().collect()
}

fn show(circle: &BTreeSet<String>, edges: &Edges) -> String {
    let mut lines = vec![format!("a circle of {} files:", circle.len())];
    for from in circle {
        for (to, names) in edges.get(from).into_iter().flatten() {
            if circle.contains(to) {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                lines.push(format!("  {from} -> {to}: {}", names.join(", ")));
            }
        }
    }
    lines.join("\n")
}

fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|l| l == "mod") || path == "lib" {
        parts.pop();
    }
    parts
}

/// The code without what is compiled for tests only, and the modules of other files that are.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = &rest[at + "#[cfg(test)]".len()..];
        let end = rest.find([';', '{']).unwrap_or(rest.len());
        if rest[end..].starts_with('{') {
            let block = rest[end..].len() - after_block(&rest[end..]).len();
            rest = &rest[end + block..];
        } else {
            let words = super::words(&rest[..end]);
            if let Some(at) = words.iter().position(|w| w == "mod") {
                modules.extend(words.get(at + 1).cloned());
            }
            rest = rest.get(end + 1..).unwrap_or("");
        }
    }
    kept.push_str(rest);
    (kept, modules)
}

/// What follows the block that `code` begins with.
fn after_block(code: &str) -> &str {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[at + c.len_utf8()..];
        }
    }
    ""
}

/// The `use` items of a file, wherever they stand, and its code without them.
fn take_uses(code: &str) -> (Vec<Use>, String) {
    let (mut uses, mut left, mut rest) = (Vec::new(), String::new(), code);
    while let Some(at) = rest.find("use ") {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if rest[..at].chars().next_back().is_some_and(is_word) {
            left.push_str(&rest[..at + 4]);
            rest = &rest[at + 4..];
            continue;
        }
        let before = rest[..at].trim_end();
        let is_exported = before.ends_with("pub") || before.ends_with(')');
        left.push_str(&rest[..at]);
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        let mut paths = Vec::new();
        flatten(&rest[at + 4..end], &[], &mut paths);
        uses.extend(paths.into_iter().map(|(path, name)| Use {
            path,
            name,
            is_exported,
        }));
        rest = rest.get(end + 1..).unwrap_or("");
    }
    left.push_str(rest);
    (uses, left)
}

/// `a::{b, c as d, e::*}` as paths with the names that they get.
fn flatten(tree: &str, before: &[String], into: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if tree.is_empty() {
        return;
    }
    if let Some(open) = tree.find('{') {
        let before = [before, &super::words(&tree[..open])].concat();
        let inside = tree[open + 1..].trim_end().trim_end_matches('}');
        let inside = match tree[open..].matches('}').count() {
            0 => inside,
            _ => &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())],
        };
        let (mut depth, mut start) = (0_usize, 0);
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    flatten(&inside[start..at], &before, into);
                    start = at + 1;
                }
                _ => {}
            }
        }
        flatten(&inside[start..], &before, into);
        return;
    }
    let words = super::words(tree);
    let (path, name) = match words.iter().position(|w| w == "as") {
        Some(at) => (words[..at].to_vec(), words.get(at + 1).cloned()),
        None => (words.clone(), words.last().cloned()),
    };
    let mut path = [before, &path].concat();
    let mut name = name.unwrap_or_default();
    if tree.ends_with('*') {
        name = "*".to_owned();
    } else if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
        path.pop();
        if name == "self" {
            name = path.last().cloned().unwrap_or_default();
        }
    }
    into.push((path, name));
}

/// Names of items outside of any block.
fn definitions(code: &str) -> BTreeSet<String> {
    const ITEMS: &[&str] = &[
        "fn",
        "struct",
        "enum",
        "trait",
        "type",
        "const",
        "static",
        "union",
        "macro_rules",
    ];
    let (mut depth, mut outside) = (0_usize, String::new());
    for c in code.chars() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            c if depth == 0 => outside.push(c),
            _ => {}
        }
        if depth > 0 && matches!(c, '{' | '(' | '[') {
            outside.push(' ');
        }
    }
    let words = super::words(&outside);
    let named = words.windows(2).filter(|w| ITEMS.contains(&w[0].as_str()));
    named.map(|w| w[1].clone()).collect()
}

/// Paths of at least two parts, as they stand in code.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c| !is_part(c))
        .filter(|path| path.contains("::") && !path.starts_with(':'))
        .map(super::words)
        .filter(|path| path.len() > 1)
        .collect()
}
