//! Host and path to the route that takes them.
//!
//! Built with every snapshot; read by the HTTP proxy once per request and by `explain`. It does not
//! know what a route is. Invariant: a lookup costs the same with ten routes and with ten thousand.
//! It hashes the host once for each of its labels and the path once for each segment, as deep as
//! the deepest prefix. One data structure, and nearly half of the file its tests.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::Ipv6Addr;

use crate::config::{HostPattern, RouteKey};
use crate::error::Error;

use super::path::{normalise, segments, unescape};

/// Routes by host pattern and path prefix. Immutable.
#[derive(Debug)]
pub struct Table<T> {
    routes: Vec<(RouteKey, T)>,
    exact: HashMap<String, Prefixes>,
    /// By the name after `*.`.
    wildcard: HashMap<String, Prefixes>,
    any: Prefixes,
}

impl<T> Table<T> {
    /// A table of all `routes`.
    ///
    /// # Errors
    /// A configuration error that names the keys: two of them match the same requests, or a prefix
    /// is no path.
    pub fn build(routes: Vec<(RouteKey, T)>) -> Result<Table<T>, Error> {
        let mut table = Table {
            routes,
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            any: Prefixes::default(),
        };
        for (index, (key, _)) in table.routes.iter().enumerate() {
            let prefixes = match &key.host {
                HostPattern::Exact(name) => table.exact.entry(host_name(name)).or_default(),
                HostPattern::Wildcard(name) => table.wildcard.entry(host_name(name)).or_default(),
                HostPattern::Any => &mut table.any,
            };
            let prefix = normalise(&key.prefix)
                .map_err(|why| Error::config(format!("routes.{}: {why}", key.text)))?;
            if prefix.query().is_some() {
                return Err(Error::config(format!("routes.{}: has a ?", key.text)));
            }
            if let Some(other) = prefixes.insert(prefix.path(), index) {
                return Err(Error::config(format!(
                    "routes.{}: takes the same requests as routes.{}",
                    key.text, table.routes[other].0.text
                )));
            }
        }
        Ok(table)
    }

    /// The route for a request: the best host first (exact, then the longest wildcard, then any),
    /// in it the longest prefix by whole segments; a host without such a prefix is passed over.
    ///
    /// `host` is the authority as received: its case, its port and a trailing dot do not matter.
    /// `path` is normalised. Segments are compared decoded: `/@me` takes `/%40me`.
    pub fn lookup(&self, host: Option<&str>, path: &str) -> Option<&T> {
        self.classes(host, |_, prefixes| prefixes.longest(path))
            .map(|index| &self.routes[index].1)
    }

    /// What [`Table::lookup`] does with a request, step by step.
    pub fn lookup_why(&self, host: Option<&str>, path: &str) -> Why<'_, T> {
        let mut tried = Vec::new();
        let chosen = self.classes(host, |pattern, prefixes| {
            let mut matching = Vec::new();
            prefixes.walk(path, |index| matching.push(&self.routes[index].0));
            matching.reverse();
            tried.push(Tried {
                host: pattern.to_owned(),
                matching,
            });
            prefixes.longest(path)
        });
        Why {
            chosen: chosen.map(|index| (&self.routes[index].0, &self.routes[index].1)),
            tried,
        }
    }

    /// All routes in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&RouteKey, &T)> {
        self.routes.iter().map(|(key, route)| (key, route))
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Calls `visit` with the host classes that a host belongs to, best first, until one answers.
    fn classes<'s>(
        &'s self,
        host: Option<&str>,
        mut visit: impl FnMut(Class<'_>, &'s Prefixes) -> Option<usize>,
    ) -> Option<usize> {
        let mut buffer = HostBuffer::default();
        // Without routes of a host it does not matter which one it is.
        let asked = !(self.exact.is_empty() && self.wildcard.is_empty());
        if let Some(host) = host.filter(|_| asked).and_then(|host| buffer.fill(host)) {
            let exact = self.exact.get(host);
            if let Some(index) = exact.and_then(|prefixes| visit(Class::Exact(host), prefixes)) {
                return Some(index);
            }
            if !self.wildcard.is_empty() {
                // The first dot has a label before it, or `*.` would stand for nothing.
                for (dot, _) in host.match_indices('.').filter(|(dot, _)| *dot > 0) {
                    let name = &host[dot + 1..];
                    let wildcard = self.wildcard.get(name);
                    if let Some(index) =
                        wildcard.and_then(|prefixes| visit(Class::Wildcard(name), prefixes))
                    {
                        return Some(index);
                    }
                }
            }
        }
        visit(Class::Any, &self.any)
    }
}

/// How a lookup came to its end; for people.
#[derive(Debug)]
pub struct Why<'t, T> {
    /// The route that takes the request.
    pub chosen: Option<(&'t RouteKey, &'t T)>,
    /// The host patterns that fit and were looked into, in order; the last one has the chosen
    /// route.
    pub tried: Vec<Tried<'t>>,
}

/// One host pattern that fits a request.
#[derive(Debug)]
pub struct Tried<'t> {
    /// The pattern as it was looked up: a name in lower case, a wildcard without its `*.`.
    pub host: HostPattern,
    /// Its routes whose prefix fits, longest first; the first one wins. May be empty.
    pub matching: Vec<&'t RouteKey>,
}

/// A host class on the way through a lookup: [`HostPattern`] without owning a name.
#[derive(Clone, Copy)]
enum Class<'h> {
    Exact(&'h str),
    Wildcard(&'h str),
    Any,
}

impl Class<'_> {
    fn to_owned(self) -> HostPattern {
        match self {
            Class::Exact(name) => HostPattern::Exact(name.to_owned()),
            Class::Wildcard(name) => HostPattern::Wildcard(name.to_owned()),
            Class::Any => HostPattern::Any,
        }
    }
}

/// The prefixes of one host pattern: a tree with one level for each segment, whose keys are
/// decoded.
#[derive(Debug, Default)]
struct Prefixes {
    /// The route whose prefix ends here.
    route: Option<usize>,
    below: HashMap<Box<[u8]>, Prefixes>,
}

impl Prefixes {
    /// Takes a normalised prefix; gives back the route that has it already.
    fn insert(&mut self, prefix: &str, route: usize) -> Option<usize> {
        let mut node = self;
        for segment in segments(prefix) {
            let mut buffer = Vec::with_capacity(segment.len());
            decode(segment, |byte| buffer.push(byte));
            node = node.below.entry(buffer.into_boxed_slice()).or_default();
        }
        if node.route.is_none() {
            node.route = Some(route);
            return None;
        }
        node.route
    }

    fn longest(&self, path: &str) -> Option<usize> {
        let mut longest = None;
        self.walk(path, |route| longest = Some(route));
        longest
    }

    /// Calls `found` with every route whose prefix takes `path`, shortest first.
    fn walk(&self, path: &str, mut found: impl FnMut(usize)) {
        let mut node = self;
        let mut segments = segments(path);
        loop {
            if let Some(route) = node.route {
                found(route);
            }
            if node.below.is_empty() {
                return;
            }
            let below = segments.next().and_then(|segment| node.child(segment));
            match below {
                Some(below) => node = below,
                None => return,
            }
        }
    }

    fn child(&self, segment: &str) -> Option<&Prefixes> {
        if !segment.contains('%') {
            return self.below.get(segment.as_bytes());
        }
        let mut buffer = [0; SEGMENT];
        let mut len = 0;
        decode(segment, |byte| {
            if let Some(free) = buffer.get_mut(len) {
                *free = byte;
            }
            len += 1;
        });
        match buffer.get(..len) {
            Some(decoded) => self.below.get(decoded),
            // Longer than the buffer: rare enough to pay for.
            None => {
                let mut decoded = Vec::with_capacity(len);
                decode(segment, |byte| decoded.push(byte));
                self.below.get(decoded.as_slice())
            }
        }
    }
}

/// The decoded bytes of a segment. An escaped slash or percent sign stays escaped, so that two
/// segments are equal here only if an endpoint that decodes them sees the same.
fn decode(segment: &str, mut push: impl FnMut(u8)) {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match unescape(&bytes[at..]) {
            Ok(byte) if byte != b'/' && byte != b'%' => {
                push(byte);
                at += 3;
            }
            _ => {
                push(bytes[at]);
                at += 1;
            }
        }
    }
}

/// Room for a host name on the stack: a name has at most 253 characters (RFC 1035 section 2.3.4).
struct HostBuffer {
    bytes: [u8; 256],
    len: usize,
}

impl Default for HostBuffer {
    fn default() -> Self {
        HostBuffer {
            bytes: [0; 256],
            len: 0,
        }
    }
}

impl HostBuffer {
    /// The name in an authority: lower case, without port and trailing dot, an IPv6 address in its
    /// shortest form. `None` for one too long to be a name: only routes for any host fit.
    fn fill(&mut self, authority: &str) -> Option<&str> {
        let name = without_port(authority);
        let name = name.strip_suffix('.').unwrap_or(name);
        let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        if let Some(address) = address.and_then(|text| text.parse::<Ipv6Addr>().ok()) {
            write!(self, "[{address}]").ok()?;
        } else {
            self.write_str(name).ok()?;
            self.bytes[..self.len].make_ascii_lowercase();
        }
        std::str::from_utf8(&self.bytes[..self.len]).ok()
    }
}

impl std::fmt::Write for HostBuffer {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// The name of a host pattern in the form that [`HostBuffer::fill`] gives.
fn host_name(name: &str) -> String {
    let mut buffer = HostBuffer::default();
    buffer.fill(name).unwrap_or(name).to_owned()
}

/// An authority without its port; the colons in `[::1]:80` are not all alike.
fn without_port(authority: &str) -> &str {
    let end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    &authority[..end]
}

/// Bytes of a decoded segment that fit on the stack.
const SEGMENT: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key from its text, as the configuration writes it.
    fn key(text: &str) -> RouteKey {
        let (host, prefix) = text.split_at(text.find('/').unwrap());
        let host = match host.strip_prefix("*.") {
            Some(name) => HostPattern::Wildcard(name.to_owned()),
            None if host.is_empty() => HostPattern::Any,
            None => HostPattern::Exact(host.to_owned()),
        };
        let prefix = match prefix.trim_end_matches('/') {
            "" => "/",
            prefix => prefix,
        };
        RouteKey {
            text: text.to_owned(),
            host,
            prefix: prefix.to_owned(),
        }
    }

    fn table(keys: &[&str]) -> Table<String> {
        let routes = keys.iter().map(|text| (key(text), (*text).to_owned()));
        Table::build(routes.collect()).unwrap()
    }

    fn look<'t>(table: &'t Table<String>, host: &str, path: &str) -> Option<&'t str> {
        table.lookup(Some(host), path).map(String::as_str)
    }

    #[test]
    fn takes_the_longest_prefix_by_whole_segments() {
        let table = table(&["/api", "/api/v1", "/static/", "/a/b/c"]);
        for (path, expected) in [
            ("/api", Some("/api")),
            ("/api/", Some("/api")),
            ("/api/x", Some("/api")),
            ("/api/v1", Some("/api/v1")),
            ("/api/v1/x/y/z", Some("/api/v1")),
            ("/api/v12", Some("/api")),
            ("/apix", None),
            ("/API", None),
            ("/static", Some("/static/")),
            ("/static/a", Some("/static/")),
            ("/a/b", None),
            ("/", None),
        ] {
            let found = table.lookup(None, path).map(String::as_str);
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn prefers_exact_hosts_to_wildcards_to_none() {
        let table = table(&[
            "/",
            "example.org/a",
            "www.example.org/",
            "*.example.org/a",
            "*.eu.example.org/a",
            "*.org/",
        ]);
        for (host, path, expected) in [
            ("www.example.org", "/a", "www.example.org/"),
            ("x.example.org", "/a", "*.example.org/a"),
            ("x.eu.example.org", "/a/b", "*.eu.example.org/a"),
            ("x.y.eu.example.org", "/a", "*.eu.example.org/a"),
            ("eu.example.org", "/a", "*.example.org/a"),
            ("example.org", "/a", "example.org/a"),
            ("example.org", "/b", "*.org/"),
            ("x.eu.example.org", "/b", "*.org/"),
            ("org", "/b", "/"),
            (".org", "/b", "/"),
            ("example.com", "/a", "/"),
            ("", "/a", "/"),
        ] {
            assert_eq!(look(&table, host, path), Some(expected), "{host}{path}");
        }
        assert_eq!(table.lookup(None, "/a").map(String::as_str), Some("/"));
    }

    #[test]
    fn ignores_case_port_and_trailing_dot_of_a_host() {
        let table = table(&[
            "example.org/",
            "[2001:db8::1]/",
            "*.example.net/",
            "10.0.0.1/",
        ]);
        for host in [
            "example.org",
            "EXAMPLE.Org",
            "example.org:8080",
            "example.org.",
            "example.org.:8080",
            "example.org:",
        ] {
            assert_eq!(look(&table, host, "/"), Some("example.org/"), "{host}");
        }
        for host in [
            "[2001:db8::1]",
            "[2001:DB8::1]:443",
            "[2001:db8:0:0::0:1]:1",
        ] {
            assert_eq!(look(&table, host, "/"), Some("[2001:db8::1]/"), "{host}");
        }
        assert_eq!(
            look(&table, "A.Example.net.:1", "/"),
            Some("*.example.net/")
        );
        assert_eq!(look(&table, "10.0.0.1:80", "/"), Some("10.0.0.1/"));
        for host in [
            "example.orgx",
            "xexample.org",
            "[2001:db8::2]",
            "[",
            "]:",
            ":80",
        ] {
            assert_eq!(look(&table, host, "/"), None, "{host}");
        }
        assert_eq!(look(&table, &"a.".repeat(4000), "/"), None);
    }

    #[test]
    fn compares_segments_decoded() {
        let table = table(&["/@me", "/caf%c3%a9", "/a%2fb", "/x%2525", "/a"]);
        for (path, expected) in [
            ("/@me/x", Some("/@me")),
            ("/%40me/x", Some("/@me")),
            ("/%40%6De", Some("/@me")),
            ("/caf%C3%A9", Some("/caf%c3%a9")),
            ("/a%2Fb/c", Some("/a%2fb")),
            ("/a/b", Some("/a")),
            ("/x%2525", Some("/x%2525")),
            ("/x%25", None),
            ("/%2540me", None),
        ] {
            let found = table.lookup(None, path).map(String::as_str);
            assert_eq!(found, expected, "{path}");
        }
        let long = format!("/{}%40", "l".repeat(300));
        let raw = long.replace("%40", "@");
        assert_eq!(look(&super::tests::table(&[&raw]), "", &long), Some(&*raw));
    }

    #[test]
    fn refuses_two_keys_that_mean_the_same() {
        for keys in [
            ["/a", "/a/"],
            ["/a/../b", "/b"],
            ["/@a", "/%40a"],
            ["Example.org/", "example.org./"],
            ["*.example.org/", "*.Example.org/"],
        ] {
            let error = Table::build(keys.iter().map(|text| (key(text), ())).collect())
                .expect_err("the keys are the same");
            assert!(error.is_config());
            let text = error.to_string();
            assert!(keys.iter().all(|key| text.contains(key)), "{text}");
        }
        assert!(Table::build(vec![(key("a/x"), ()), (key("b/x"), ()), (key("/x"), ())]).is_ok());
        for text in ["/a/%zz", "/a?b", "/.."] {
            let error = Table::build(vec![(key(text), ())]).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(text));
        }
    }

    #[test]
    fn tells_why() {
        let table = table(&["/", "/a", "h.x/b", "*.x/a", "*.x/a/b", "*.x/a/b/c"]);
        let why = table.lookup_why(Some("H.x:80"), "/a/b/d");
        assert_eq!(why.chosen.unwrap().0.text, "*.x/a/b");
        assert_eq!(why.tried.len(), 2);
        assert_eq!(why.tried[0].host, HostPattern::Exact("h.x".into()));
        assert!(why.tried[0].matching.is_empty());
        assert_eq!(why.tried[1].host, HostPattern::Wildcard("x".into()));
        let texts: Vec<_> = why.tried[1].matching.iter().map(|key| &key.text).collect();
        assert_eq!(texts, ["*.x/a/b", "*.x/a"]);

        let why = super::tests::table(&["h/a"])
            .lookup_why(Some("h"), "/b")
            .chosen
            .is_none();
        assert!(why);
        assert_eq!(table.iter().count(), table.len());
        assert!(!table.is_empty());
    }

    /// The rules as the documentation has them: a look at every route.
    fn reference<'k>(keys: &'k [RouteKey], host: Option<&str>, path: &str) -> Option<&'k str> {
        let rank = |key: &RouteKey| match (&key.host, host) {
            (HostPattern::Exact(name), Some(host)) => (name == host).then_some(usize::MAX),
            (HostPattern::Wildcard(name), Some(host)) => host
                .strip_suffix(name.as_str())
                .filter(|rest| rest.len() > 1 && rest.ends_with('.'))
                .map(|_| name.len()),
            (HostPattern::Any, _) => Some(0),
            _ => None,
        };
        let takes = |key: &&RouteKey| {
            key.prefix == "/" || path == key.prefix || path.starts_with(&format!("{}/", key.prefix))
        };
        keys.iter()
            .filter(takes)
            .filter_map(|key| {
                rank(key).map(|rank| (rank, key.prefix.trim_end_matches('/').len(), key))
            })
            .max_by_key(|(rank, len, _)| (*rank, *len))
            .map(|(_, _, key)| key.text.as_str())
    }

    proptest! {
        #[test]
        fn agrees_with_a_look_at_every_route(
            keys in prop::collection::btree_set("((\\*\\.)?[ab](\\.[ab]){0,2})?(/[ab]{1,2}){1,3}|/", 0..24),
            requests in prop::collection::vec(("[ab](\\.[ab]){0,3}", "(/[ab]{1,2}){0,4}/?"), 1..24),
        ) {
            let keys: Vec<RouteKey> = keys.iter().map(|text| key(text)).collect();
            let routes = keys.iter().map(|key| (key.clone(), key.text.clone())).collect();
            let table = Table::build(routes).unwrap();
            for (host, path) in &requests {
                let path = if path.is_empty() { "/" } else { path };
                for host in [Some(host.as_str()), None] {
                    let expected = reference(&keys, host, path);
                    let found = table.lookup(host, path).map(String::as_str);
                    prop_assert_eq!(found, expected, "{:?} {}", host, path);
                    let why = table.lookup_why(host, path).chosen.map(|(key, _)| key.text.as_str());
                    prop_assert_eq!(why, expected);
                }
            }
        }

        #[test]
        fn any_request_is_answered(host in any::<String>(), path in any::<String>()) {
            let table = table(&["/a", "h/b", "*.h/c"]);
            table.lookup(Some(&host), &path);
            table.lookup_why(Some(&host), &path);
        }

        /// What is matched after normalising is what an endpoint decodes: an escape more or less
        /// in the request changes nothing.
        #[test]
        fn escapes_do_not_change_the_route(
            path in "(/[a@+b]{1,2}){1,3}",
            escaped in prop::collection::vec(any::<bool>(), 12),
        ) {
            let table = table(&["/", "/a", "/@", "/a/b", "/@a", "/+", "/a+", "/a/@"]);
            let mut other = String::new();
            for (character, escape) in path.chars().zip(escaped) {
                match character {
                    '/' => other.push('/'),
                    _ if escape => write!(other, "%{:02x}", u32::from(character)).unwrap(),
                    _ => other.push(character),
                }
            }
            let normalised = normalise(&other).unwrap();
            prop_assert_eq!(table.lookup(None, normalised.path()), table.lookup(None, &path));
        }
    }
}
