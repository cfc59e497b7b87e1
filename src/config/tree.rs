//! YAML text to a tree in which every key and value knows its line and column.
//!
//! The only file that knows the YAML crate: reading by serde would stop at the first mistake, and
//! its values have no positions. Invariant: a tree has unique keys, is at most
//! [`MAX_DEPTH`] deep and [`MAX_NODES`] large whatever the text is. Read by `parse`, `redact` and
//! `globals`. It is over 400 lines because the bounds, the tree and its builder make sense only
//! together.

use std::collections::HashMap;
use std::path::Path;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::problem::{Mark, Problem};
use super::scalar::resolve;

pub use super::node::{Entry, Node, Value};

/// Bytes of one file.
pub const MAX_BYTES: usize = 8 << 20;
/// Lists and maps inside each other.
pub const MAX_DEPTH: usize = 64;
/// Keys and values of one file.
pub const MAX_NODES: usize = 1_000_000;
/// Keys and values that anchors and aliases may copy.
pub const MAX_COPIES: usize = 100_000;

/// Keys that are there twice and are all named.
const MAX_DUPLICATES: usize = 1000;

fn measure(node: &Node) -> Size {
    let inner = |sizes: &mut dyn Iterator<Item = Size>| {
        sizes.fold(Size { nodes: 1, depth: 1 }, |sum, size| Size {
            nodes: sum.nodes + size.nodes,
            depth: sum.depth.max(size.depth + 1),
        })
    };
    match &node.value {
        Value::List(items) => inner(&mut items.iter().map(measure)),
        Value::Map(entries) => inner(&mut entries.iter().map(|e| {
            let size = measure(&e.value);
            Size {
                nodes: size.nodes + 1,
                ..size
            }
        })),
        _ => Size { nodes: 1, depth: 0 },
    }
}

/// Reads a text. Without a tree there is at least one problem, except for a text without any
/// content; with one there may be problems too (keys that are there twice: the first counts).
pub fn read(text: &str, file: &Path) -> (Option<Node>, Vec<Problem>) {
    let mut builder = Builder::new(file);
    if text.len() > MAX_BYTES {
        builder.fault(
            Mark::START,
            format!("is larger than {} MiB", MAX_BYTES >> 20),
            "one file holds one gateway's configuration",
        );
        return (None, builder.problems);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(at) = find_unprintable(text) {
        builder.fault(
            at,
            "holds a character that YAML does not allow".into(),
            "remove it, or write it as an escape such as \"\\0\" in double quotes",
        );
        return (None, builder.problems);
    }
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let done = match next {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let at = within(text, mark(error.marker()));
                builder.fault(
                    at,
                    format!("is not valid YAML: {}", error.info()),
                    syntax_hint(text, at),
                );
                Err(Stop)
            }
        };
        if done.is_err() {
            return (None, builder.problems);
        }
    }
    (builder.root, builder.problems)
}

/// Control characters other than tab and line ends (YAML 1.2, section 5.1).
fn find_unprintable(text: &str) -> Option<Mark> {
    let wrong = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let before = &text[..text.find(wrong)?];
    let last = lines(before).last().unwrap_or("");
    Some(Mark {
        line: lines(before).count(),
        column: last.chars().count() + 1,
    })
}

/// The lines of a text; LF, CR LF and CR end one (YAML 1.2, section 5.4).
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.split('\r')
    })
}

fn syntax_hint(text: &str, at: Mark) -> &'static str {
    let line = lines(text).nth(at.line - 1).unwrap_or("");
    let here = line.chars().nth(at.column - 1);
    if matches!(here, Some('*' | '&' | '%' | '@' | '`' | '!')) {
        return "a text that starts with this character needs quotes, as in `\"*.example.org/\"`";
    }
    if line.contains(": [::") {
        return "an address in brackets needs quotes: `\"[::]:8080\"`";
    }
    let indent: &str = &line[..line.len() - line.trim_start().len()];
    if indent.contains('\t') {
        "indent with spaces, YAML does not allow tabs there"
    } else {
        "look at this line and the one before it: indentation, a missing `: ` or a quote"
    }
}

/// The end of the text for a place behind it, where the YAML crate puts what is missing there.
fn within(text: &str, at: Mark) -> Mark {
    let count = lines(text).count();
    if at.line <= count {
        return at;
    }
    let last = lines(text).last().unwrap_or("");
    Mark {
        line: count,
        column: last.chars().count() + 1,
    }
}

fn mark(marker: &Marker) -> Mark {
    Mark {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

/// Reading ended early; the problem is already noted.
struct Stop;

#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    depth: usize,
}

struct Builder<'a> {
    file: &'a Path,
    problems: Vec<Problem>,
    open: Vec<Frame>,
    anchors: HashMap<usize, (Node, Size)>,
    nodes: usize,
    copies: usize,
    documents: usize,
    root: Option<Node>,
}

/// A list or map that is not complete yet.
struct Frame {
    at: Mark,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        /// Where each key stands, to find the second of two equal ones.
        seen: HashMap<String, Mark>,
        key: Option<(String, Mark)>,
    },
}

impl<'a> Builder<'a> {
    fn new(file: &'a Path) -> Self {
        Builder {
            file,
            problems: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            copies: 0,
            documents: 0,
            root: None,
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let at = mark(&span.start);
        match event {
            Event::DocumentStart(_) => self.start_document(at),
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), at)?;
                let chars = (span.start.index(), span.end.index());
                if self.expects_key() {
                    return self.key(&text, &value, at);
                }
                self.finish(Node { at, chars, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), at)?;
                self.open(at, anchor, Inside::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), at)?;
                let inside = Inside::Map {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                };
                self.open(at, anchor, inside)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn start_document(&mut self, at: Mark) -> Result<(), Stop> {
        self.documents += 1;
        if self.documents > 1 {
            return self.stop(
                at,
                "a second document starts here".into(),
                "one file holds one configuration, remove the `---`",
            );
        }
        Ok(())
    }

    fn open(&mut self, at: Mark, anchor: usize, inside: Inside) -> Result<(), Stop> {
        if self.expects_key() {
            return self.stop(
                at,
                "a list or map cannot be a key".into(),
                "write a plain word, or put the text in quotes",
            );
        }
        if self.open.len() >= MAX_DEPTH {
            return self.stop(
                at,
                format!("is nested deeper than {MAX_DEPTH} levels"),
                "no key of the configuration is nested so deep",
            );
        }
        self.open.push(Frame { at, anchor, inside });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Stop> {
        let Some(frame) = self.open.pop() else {
            return Ok(());
        };
        let value = match frame.inside {
            Inside::List(items) => Value::List(items),
            Inside::Map { entries, .. } => Value::Map(entries),
        };
        let node = Node {
            at: frame.at,
            chars: (0, 0),
            value,
        };
        self.finish(node, frame.anchor)
    }

    /// Hands a complete value to the list or map around it.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return self.too_large(node.at);
        }
        if anchor > 0 {
            let size = measure(&node);
            self.count_copies(size, node.at)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut().map(|frame| &mut frame.inside) {
            None => self.root = Some(node),
            Some(Inside::List(items)) => items.push(node),
            Some(Inside::Map { entries, seen, key }) => {
                let Some((key, key_at)) = key.take() else {
                    return Ok(());
                };
                match seen.get(&key) {
                    Some(first) => {
                        let first = *first;
                        return self.duplicate(key, key_at, first);
                    }
                    None => {
                        seen.insert(key.clone(), key_at);
                        entries.push(Entry {
                            key,
                            key_at,
                            value: node,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.open.last().map(|frame| &frame.inside),
            Some(Inside::Map { key: None, .. })
        )
    }

    fn key(&mut self, text: &str, value: &Value, at: Mark) -> Result<(), Stop> {
        if text.is_empty() || *value == Value::Null {
            return self.stop(
                at,
                "a key is missing here".into(),
                "write `key: value`; a key that reads null needs quotes",
            );
        }
        if text == "<<" {
            return self.stop(
                at,
                "merge keys are not supported".into(),
                "write the keys out; what several routes share goes under `upstreams`",
            );
        }
        self.nodes += 1;
        if let Some(Frame {
            inside: Inside::Map { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Some((text.to_owned(), at));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Mark) -> Result<(), Stop> {
        if self.expects_key() {
            return self.stop(at, "an alias cannot be a key".into(), "write the key out");
        }
        let Some((_, size)) = self.anchors.get(&anchor) else {
            return self.stop(
                at,
                "the alias stands inside the value it names".into(),
                "write the value out",
            );
        };
        let size = *size;
        if self.open.len() + size.depth > MAX_DEPTH {
            return self.stop(
                at,
                format!("is nested deeper than {MAX_DEPTH} levels"),
                "no key of the configuration is nested so deep",
            );
        }
        self.count_copies(size, at)?;
        let node = match self.anchors.get(&anchor) {
            Some((node, _)) => node.clone(),
            None => return Ok(()),
        };
        self.finish(node, 0)
    }

    fn count_copies(&mut self, size: Size, at: Mark) -> Result<(), Stop> {
        self.copies += size.nodes;
        if self.copies > MAX_COPIES {
            return self.stop(
                at,
                format!("anchors and aliases copy more than {MAX_COPIES} values"),
                "what several routes share goes under `upstreams`",
            );
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        at: Mark,
    ) -> Result<Value, Stop> {
        if let Some(tag) = tag {
            let is_text = (tag.is_yaml_core_schema() && tag.suffix == "str")
                || (tag.handle.is_empty() && tag.suffix == "!")
                || (tag.handle == "!" && tag.suffix.is_empty());
            if is_text {
                return Ok(Value::Text(text.to_owned()));
            }
        }
        self.refuse_tag(tag, at)?;
        Ok(match style {
            ScalarStyle::Plain => resolve(text),
            _ => Value::Text(text.to_owned()),
        })
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, at: Mark) -> Result<(), Stop> {
        match tag {
            None => Ok(()),
            Some(_) => self.stop(
                at,
                "YAML tags are not supported".into(),
                "remove the word that starts with `!`",
            ),
        }
    }

    fn duplicate(&mut self, key: String, at: Mark, first: Mark) -> Result<(), Stop> {
        if self.problems.len() >= MAX_DUPLICATES {
            return self.stop(
                at,
                "even more keys are there twice".into(),
                "correct the ones above first",
            );
        }
        let mut path = String::new();
        for frame in &self.open {
            match &frame.inside {
                Inside::List(items) => path.push_str(&format!("[{}]", items.len())),
                Inside::Map { key, .. } => {
                    if let Some((key, _)) = key {
                        path.push_str(if path.is_empty() { "" } else { "." });
                        path.push_str(key);
                    }
                }
            }
        }
        path.push_str(if path.is_empty() { "" } else { "." });
        path.push_str(&key);
        self.problems.push(Problem {
            file: self.file.to_path_buf(),
            line: at.line,
            column: at.column,
            path,
            message: format!("is there twice, first at {first}"),
            hint: Some("remove one of the two".into()),
        });
        Ok(())
    }

    fn too_large(&mut self, at: Mark) -> Result<(), Stop> {
        self.stop(
            at,
            format!("holds more than {MAX_NODES} keys and values"),
            "one file holds one gateway's configuration",
        )
    }

    fn stop(&mut self, at: Mark, message: String, hint: &str) -> Result<(), Stop> {
        self.fault(at, message, hint);
        Err(Stop)
    }

    fn fault(&mut self, at: Mark, message: String, hint: &str) {
        self.problems.push(Problem {
            file: self.file.to_path_buf(),
            line: at.line,
            column: at.column,
            path: String::new(),
            message,
            hint: Some(hint.to_owned()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        let (node, problems) = read(text, Path::new("t.yml"));
        assert!(problems.is_empty(), "{problems:?}");
        node.unwrap()
    }

    fn refused(text: &str) -> String {
        let (_, problems) = read(text, Path::new("t.yml"));
        assert!(!problems.is_empty(), "accepted: {text:?}");
        problems[0].to_string()
    }

    #[test]
    fn keys_and_values_know_where_they_stand() {
        let root = tree("# comment\na: 1\nbé:\n  - x\n  - {c: 'd'}\n");
        let Value::Map(entries) = &root.value else {
            panic!("not a map")
        };
        assert_eq!(entries[0].key_at, Mark { line: 2, column: 1 });
        assert_eq!(entries[0].value.at, Mark { line: 2, column: 4 });
        let Value::List(items) = &entries[1].value.value else {
            panic!("not a list")
        };
        assert_eq!(items[0].at, Mark { line: 4, column: 5 });
        let Value::Map(inner) = &items[1].value else {
            panic!("not a map")
        };
        assert_eq!(inner[0].key_at, Mark { line: 5, column: 6 });
        assert_eq!(inner[0].value.at, Mark { line: 5, column: 9 });
    }

    #[test]
    fn what_is_quoted_is_a_text() {
        for (text, value) in [
            ("12", Value::Int(12)),
            ("'12'", Value::Text("12".into())),
            ("\"true\"", Value::Text("true".into())),
            ("!!str 12", Value::Text("12".into())),
            ("! 12", Value::Text("12".into())),
            ("|-\n  12", Value::Text("12".into())),
        ] {
            assert_eq!(tree(text).value, value, "{text}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_names_both_places() {
        assert_eq!(
            refused("a:\n  b: 1\n  c: 2\n  b: 3\n"),
            "t.yml:4:3: a.b: is there twice, first at 2:3 (remove one of the two)"
        );
    }

    #[test]
    fn text_that_is_not_a_configuration_is_refused_with_a_place() {
        for (text, start) in [
            ("a: 1\n---\nb: 2\n", "t.yml:2:1: a second document"),
            ("a:\n\tb: 1\n", "t.yml:2:"),
            ("a: [1, 2\n", "t.yml:2:1: is not valid YAML"),
            ("a: 'x\n", "t.yml:"),
            ("a: 1\n|", "t.yml:2:2: is not valid YAML"),
            ("? [a]\n: b\n", "t.yml:1:3: a list or map cannot be a key"),
            ("a: !secret x\n", "t.yml:1:"),
            ("x: &x {a: 1}\nb:\n  <<: *x\n", "t.yml:3:3: merge keys"),
            ("a: &a [*a]\n", "t.yml:1:8: the alias stands inside"),
            ("*b\n", "t.yml:1:"),
            ("*.b.org/: 1\n", "t.yml:1:1: is not valid YAML"),
            ("a: \0\n", "t.yml:1:4: holds a character"),
            ("a: 1\r\n\rb: \u{7}\n", "t.yml:3:4: holds a character"),
            (": 1\n", "t.yml:1:"),
            ("~: 1\n", "t.yml:1:1: a key is missing"),
        ] {
            let problem = refused(text);
            assert!(problem.starts_with(start), "{text:?}: {problem}");
        }
        assert!(refused("a:\n\tb: 1\n").contains("indent with spaces"));
        assert!(refused("*.b.org/: 1\n").contains("needs quotes"));
        assert!(refused("listen_addr: [::]:80\n").contains("needs quotes"));
    }

    #[test]
    fn an_alias_copies_the_value() {
        let root = tree("a: &x {b: [1, 2]}\nc: *x\n");
        assert_eq!(root.find("a").unwrap().value, root.find("c").unwrap().value);
    }

    #[test]
    fn growth_by_aliases_and_depth_are_bounded() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let previous = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
        }
        assert!(refused(&bomb).contains("copy more than"));
        assert!(refused(&"[".repeat(200)).contains("t.yml:1:"));
        assert!(refused(&format!("{}x", "- ".repeat(100))).contains("deeper than 64"));
        let (_, problems) = read(&"a: 1\n".repeat(5000), Path::new("t.yml"));
        assert_eq!(problems.len(), MAX_DUPLICATES + 1);
        let large = format!("a: {}", "x".repeat(MAX_BYTES));
        assert!(refused(&large).contains("larger than 8 MiB"));
    }

    #[test]
    fn a_text_without_content_is_neither_tree_nor_problem() {
        for text in ["", "# only a comment\n", "\n\n"] {
            let (node, problems) = read(text, Path::new("t.yml"));
            assert!(node.is_none() && problems.is_empty());
        }
    }
}
