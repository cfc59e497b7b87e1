//! Keys of HTTP routes that load and hardly mean what their author intends, and what to write
//! instead.
//!
//! Most are habits from other gateways: parameters, stars, expressions, ports. Invariant: what is
//! offered here loads, and is not doubtful in turn.

use super::host::strip_port;
use super::value::RouteKey;

/// What regular expressions and templates are made of, and no path.
pub(super) const PATTERNS: &str = "{}<>[]^|\\";

/// What about a key can hardly be meant: it loads, and never takes the requests that its writer has
/// in mind, or takes more.
pub(super) fn doubts(key: &RouteKey) -> Vec<String> {
    let slash = key.text.find('/').unwrap_or(0);
    let (host, path) = key.text.split_at(slash);
    let mut doubts = Vec::new();
    let bare = strip_port(host).unwrap_or(host);
    if bare != host {
        doubts.push(format!(
            "the port takes no part, these are all requests for the host: write `{bare}{path}`"
        ));
    }
    if let Some(what) = pattern_in(path) {
        let prefix = literal(path);
        doubts.push(format!(
            "{what} is literal in a path, and a prefix takes everything below it: write `{bare}{prefix}`"
        ));
    }
    doubts
}

/// What looks like a parameter or an expression.
fn pattern_in(path: &str) -> Option<String> {
    let segments = || path.split('/').filter(|segment| !segment.is_empty());
    if let Some(name) = segments().find(|s| s.len() > 1 && s.starts_with(':')) {
        return Some(format!("`{name}`"));
    }
    if segments().any(|segment| segment.contains('*')) {
        return Some("`*`".to_owned());
    }
    if segments().any(|segment| segment.starts_with('(') || segment.contains(".+")) {
        return Some("a regular expression".to_owned());
    }
    path.ends_with('$').then(|| "`$`".to_owned())
}

/// The part of a path that is no pattern, segment by segment.
pub(super) fn literal(path: &str) -> String {
    let mut out = String::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let bare = segment.trim_end_matches(['$', '*']);
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%@!&',;=".contains(&b);
        if matches!(bare, "" | "." | "..") || !bare.bytes().all(is_plain) {
            break;
        }
        out.push('/');
        out.push_str(bare);
        if bare != segment {
            break;
        }
    }
    match out.is_empty() {
        true => "/".to_owned(),
        false => out,
    }
}

/// The keys that may be meant by a word without a `/`: a path for a word, a host for what has dots,
/// a star or a port. Never empty.
pub(super) fn keys_for(text: &str) -> Vec<String> {
    let host = strip_port(text).unwrap_or(text);
    let mut keys = match host.contains(['.', '*']) || host != text {
        true => {
            let bare = host.trim_start_matches(['*', '.']);
            let any = if bare.len() < host.len() { "*." } else { "" };
            vec![format!("{any}{bare}/")]
        }
        false => vec![format!("/{text}"), format!("{text}/")],
    };
    keys.retain(|key| RouteKey::parse(key).is_ok_and(|key| doubts(&key).is_empty()));
    if keys.is_empty() {
        keys.push("/".to_owned());
    }
    keys
}

/// Keys as a hint names them.
pub(super) fn in_words(keys: &[String]) -> String {
    match keys {
        [path, host] => format!("`{path}` or, for a host, `{host}`"),
        keys => {
            let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            quoted.join(" or ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_can_hardly_be_meant_says_what_to_write() {
        for (text, meant) in [
            ("/api/:id", "/api"),
            ("/api/:id/x", "/api"),
            ("/:tenant", "/"),
            ("h/users/:id", "h/users"),
            ("host:8080/", "host/"),
            ("Host:80/x", "Host/x"),
            ("[::1]:80/", "[::1]/"),
            ("/api*", "/api"),
            ("/files/*.php", "/files"),
            ("/api/.*", "/api"),
            ("/api/(.*)", "/api"),
            ("/api/.+", "/api"),
            ("/api$", "/api"),
            ("/$", "/"),
        ] {
            let key = RouteKey::parse(text).unwrap();
            let said = doubts(&key);
            assert_eq!(said.len(), 1, "{text}: {said:?}");
            let end = format!("write `{meant}`");
            assert!(said[0].ends_with(&end), "{text}: {said:?}");
            assert!(
                doubts(&RouteKey::parse(meant).unwrap()).is_empty(),
                "{text}"
            );
        }
        for text in [
            "/",
            "/api/",
            "/v1/items:batch",
            "/~ann",
            "/@me",
            "/a+b",
            "/$metadata",
            "/a(1)",
            "h/x",
            "*.h/",
            "[::1]/",
            "/:",
        ] {
            let key = RouteKey::parse(text).unwrap();
            assert_eq!(doubts(&key), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_word_without_a_slash_is_answered_with_keys_that_load_and_mean_it() {
        for (word, keys) in [
            ("api", &["/api", "api/"][..]),
            ("*.localhost", &["*.localhost/"]),
            ("example.org", &["example.org/"]),
            (".example.org", &["*.example.org/"]),
            ("localhost:8080", &["localhost/"]),
            ("*", &["/"]),
            ("*.*", &["/"]),
            ("a b", &["/"]),
            (":id", &["/"]),
        ] {
            assert_eq!(keys_for(word), keys, "{word}");
            for key in keys {
                assert!(RouteKey::parse(key).is_ok(), "{key}");
            }
        }
    }
}
