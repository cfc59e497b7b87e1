//! A request target brought into one form before anything is matched against it.
//!
//! Route confusion starts where two programs read one path differently: what leaves this file is
//! both matched and sent. One normaliser, and nearly half of the file its tests. Invariant: a
//! normalised path has no empty, `.` or `..` segment, neither written out, nor escaped, nor hidden
//! behind `;`, `%2F` or `%5C`, and normalising it again changes nothing; one [`with_slashes`] is
//! the same but for empty segments.

use std::borrow::Cow;
use std::fmt;

/// Normalises an origin-form target (`/path` or `/path?query`, RFC 9112 section 3.2.1).
///
/// - dot segments are resolved (RFC 3986 section 5.2.4), also when written `%2e`;
/// - doubled slashes become one, before dot segments are resolved: `/a//../b` is `/b`;
/// - escapes of unreserved characters are decoded, the hex of all others is upper case (RFC 3986
///   section 6.2.2): `%2F` stays `%2F`;
/// - a backslash and bytes above 0x7f become escapes; every other character, `;` among them, stays;
/// - the query is not touched.
///
/// Nothing is allocated when nothing changes.
///
/// # Errors
/// See [`BadPath`]; all of them mean 400.
pub fn normalise(raw_target: &str) -> Result<Normalised<'_>, BadPath> {
    let (path, rest) = split_query(raw_target)?;
    if is_normal(path)? {
        return Ok(Normalised {
            target: Cow::Borrowed(raw_target),
            path_len: path.len(),
        });
    }
    rewritten(path, rest, Slashes::Merged)
}

/// The same with doubled slashes as they came: what may be sent in the place of a normalised target,
/// because merging its slashes gives that.
///
/// # Errors
/// As [`normalise`], and [`BadPath::DotsBehindSlashes`].
pub fn with_slashes(raw_target: &str) -> Result<Normalised<'static>, BadPath> {
    let (path, rest) = split_query(raw_target)?;
    rewritten(path, rest, Slashes::Kept)
}

fn rewritten(path: &str, rest: &str, slashes: Slashes) -> Result<Normalised<'static>, BadPath> {
    let mut target = rewrite(path, path.len() + rest.len(), slashes)?;
    let path_len = target.len();
    target.push_str(rest);
    Ok(Normalised {
        target: Cow::Owned(target),
        path_len,
    })
}

/// What becomes of several slashes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slashes {
    Merged,
    Kept,
}

/// What is left of a normalised `path` without as many leading segments as `prefix` has: with
/// `/api`, `/api/v1/` becomes `/v1/` and `/api` becomes `/`.
///
/// Counts segments because a prefix and the path it takes may differ in escapes, `/@me` takes
/// `/%40me`, and in slashes.
pub fn strip_prefix<'p>(path: &'p str, prefix: &str) -> &'p str {
    let mut rest = path;
    for _ in segments(prefix) {
        let segment = rest.trim_start_matches('/');
        match segment.find('/') {
            Some(end) => rest = &segment[end..],
            None => return "/",
        }
    }
    rest
}

/// The segments of a path, without the empty one that a trailing slash makes.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// A target whose path has only one way to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalised<'t> {
    target: Cow<'t, str>,
    path_len: usize,
}

impl<'t> Normalised<'t> {
    /// Path and query: what is sent.
    pub fn as_str(&self) -> &str {
        &self.target
    }

    /// The path alone: what is matched. Starts with `/`, is ASCII.
    pub fn path(&self) -> &str {
        &self.target[..self.path_len]
    }

    /// The query as received, without its `?`; `None` when there is no `?`.
    pub fn query(&self) -> Option<&str> {
        self.target[self.path_len..].strip_prefix('?')
    }

    /// Whether the target differs from the one received.
    pub fn is_changed(&self) -> bool {
        matches!(self.target, Cow::Owned(_))
    }

    /// Path and query, borrowed when they are as received.
    pub fn into_target(self) -> Cow<'t, str> {
        self.target
    }
}

/// Why a target is refused. Always the client's fault, always 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// It does not start with `/`.
    NotOriginForm,
    /// A `%` without two hex digits, or `%00`.
    BadEscape,
    /// A control character, a space, or `#`, which a target never has.
    ForbiddenByte,
    /// `..` above the root. Refused, because servers disagree on what it means.
    AboveRoot,
    /// A dot segment behind `;`, `%2F` or `%5C`, as in `/..;/x` or `/..%2Fx`: some servers resolve it
    /// and would then serve another path than the one matched.
    HiddenDots,
    /// `..` behind an empty segment, as in `/a//../b`, where slashes are kept: it is `/b` for who
    /// merges slashes and `/a/b` for who does not.
    DotsBehindSlashes,
}

impl BadPath {
    /// The rule, without anything of the path.
    pub const fn as_str(self) -> &'static str {
        match self {
            BadPath::NotOriginForm => "the target does not start with a slash",
            BadPath::BadEscape => "the path has an invalid percent escape",
            BadPath::ForbiddenByte => "the target has a control character, a space or a #",
            BadPath::AboveRoot => "the path leads above its root",
            BadPath::HiddenDots => "the path hides a dot segment",
            BadPath::DotsBehindSlashes => "the path has a dot segment behind doubled slashes",
        }
    }
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for BadPath {}

/// Path, and the rest from `?` on.
fn split_query(target: &str) -> Result<(&str, &str), BadPath> {
    if !target.starts_with('/') {
        return Err(BadPath::NotOriginForm);
    }
    let forbidden = |byte: &u8| *byte <= b' ' || *byte == b'#' || *byte == 0x7f;
    if target.as_bytes().iter().any(forbidden) {
        return Err(BadPath::ForbiddenByte);
    }
    Ok(target.split_at(target.find('?').unwrap_or(target.len())))
}

/// Whether a path is in normal form already: one scan, exact.
fn is_normal(path: &str) -> Result<bool, BadPath> {
    let bytes = path.as_bytes();
    let mut at = 1;
    loop {
        let start = at;
        let mut dots_may_hide = false;
        while at < bytes.len() && bytes[at] != b'/' {
            match bytes[at] {
                b'%' => {
                    let byte = unescape(&bytes[at..])?;
                    if is_unreserved(byte) || bytes[at..at + 3] != escape(byte) {
                        return Ok(false);
                    }
                    dots_may_hide = true;
                    at += 3;
                    continue;
                }
                b';' => dots_may_hide = true,
                b'\\' | 0x80.. => return Ok(false),
                _ => {}
            }
            at += 1;
        }
        let segment = &path[start..at];
        if matches!(segment, "." | "..") || (segment.is_empty() && at < bytes.len()) {
            return Ok(false);
        }
        if dots_may_hide && hides_dots(segment) {
            return Err(BadPath::HiddenDots);
        }
        if at == bytes.len() {
            return Ok(true);
        }
        at += 1;
    }
}

/// The normal form of a path that is not in it. `capacity` leaves room for the query.
fn rewrite(path: &str, capacity: usize, slashes: Slashes) -> Result<String, BadPath> {
    let mut out = String::with_capacity(capacity);
    out.push('/');
    let mut rest = path[1..].split('/').peekable();
    while let Some(segment) = rest.next() {
        // Here `out` ends with a slash, which is also what a path ends with whose last segment
        // goes away: `/a/.` and `/a/b/..` are `/a/`.
        let start = out.len();
        rewrite_segment(segment, &mut out)?;
        match &out[start..] {
            "" if slashes == Slashes::Kept && rest.peek().is_some() => out.push('/'),
            "" => {}
            "." => out.truncate(start),
            ".." if out[..start].ends_with("//") => return Err(BadPath::DotsBehindSlashes),
            ".." => {
                let parent = out[..start - 1].rfind('/').ok_or(BadPath::AboveRoot)?;
                out.truncate(parent + 1);
            }
            kept if hides_dots(kept) => return Err(BadPath::HiddenDots),
            _ if rest.peek().is_some() => out.push('/'),
            _ => {}
        }
    }
    Ok(out)
}

/// Appends the normal form of the characters of one segment.
fn rewrite_segment(segment: &str, out: &mut String) -> Result<(), BadPath> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let byte = unescape(&bytes[at..])?;
                if is_unreserved(byte) {
                    out.push(char::from(byte));
                } else {
                    out.extend(escape(byte).map(char::from));
                }
                at += 3;
            }
            byte @ (b'\\' | 0x80..) => {
                out.extend(escape(byte).map(char::from));
                at += 1;
            }
            byte => {
                out.push(char::from(byte));
                at += 1;
            }
        }
    }
    Ok(())
}

/// Whether a server that splits a normal segment further would find a dot segment in it.
fn hides_dots(segment: &str) -> bool {
    let escaped_slash = |at: usize| matches!(segment.get(at..at + 3), Some("%2F" | "%5C"));
    let mut start = 0;
    for at in 0..=segment.len() {
        if at == segment.len() || escaped_slash(at) {
            let part = &segment[start..at];
            let end = part.find(';').unwrap_or(part.len());
            let end = part.find("%3B").unwrap_or(end).min(end);
            if matches!(&part[..end], "." | "..") {
                return true;
            }
            start = (at + 3).min(segment.len());
        }
    }
    false
}

/// The byte that the escape at the start of `text` stands for. NUL is no part of any path.
pub(super) fn unescape(text: &[u8]) -> Result<u8, BadPath> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    match text {
        [b'%', high, low, ..] => match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) if high | low != 0 => Ok(high << 4 | low),
            _ => Err(BadPath::BadEscape),
        },
        _ => Err(BadPath::BadEscape),
    }
}

const fn escape(byte: u8) -> [u8; 3] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]
}

/// RFC 3986 section 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path_of(target: &str) -> Result<String, BadPath> {
        normalise(target).map(|n| n.path().to_owned())
    }

    #[test]
    fn brings_equal_paths_into_one_form() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//", "/"),
            ("//a///b//", "/a/b/"),
            ("/.", "/"),
            ("/./a/./b/.", "/a/b/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a//../b", "/b"),
            ("/api/%2e%2e/admin", "/admin"),
            ("/api/%2E./admin", "/admin"),
            ("/api/.%2e/admin", "/admin"),
            ("/a/%2e/b", "/a/b"),
            ("/%61%7Eb", "/a~b"),
            ("/%7e%2d%5f%2E%2ea", "/~-_..a"),
            ("/a%2fb%5cc", "/a%2Fb%5Cc"),
            ("/a\\b", "/a%5Cb"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/.c./d.", "/a..b/.c./d."),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("/%40%3a%2B", "/%40%3A%2B"),
            ("/a;..", "/a;.."),
        ] {
            assert_eq!(path_of(raw).as_deref(), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn refuses_what_servers_read_differently() {
        for (raw, expected) in [
            ("", BadPath::NotOriginForm),
            ("*", BadPath::NotOriginForm),
            ("a/b", BadPath::NotOriginForm),
            ("http://a/b", BadPath::NotOriginForm),
            ("?a", BadPath::NotOriginForm),
            ("/..", BadPath::AboveRoot),
            ("/a/../../b", BadPath::AboveRoot),
            ("/%2e%2e/b", BadPath::AboveRoot),
            ("//..", BadPath::AboveRoot),
            ("/%zz", BadPath::BadEscape),
            ("/%4", BadPath::BadEscape),
            ("/%", BadPath::BadEscape),
            ("/%4/1", BadPath::BadEscape),
            ("/a%00b", BadPath::BadEscape),
            ("/%+1", BadPath::BadEscape),
            ("/a b", BadPath::ForbiddenByte),
            ("/a\tb", BadPath::ForbiddenByte),
            ("/a\r\nb", BadPath::ForbiddenByte),
            ("/a\u{7f}", BadPath::ForbiddenByte),
            ("/a\0", BadPath::ForbiddenByte),
            ("/a#b", BadPath::ForbiddenByte),
            ("/a?b c", BadPath::ForbiddenByte),
            ("/api/..;/admin", BadPath::HiddenDots),
            ("/api/..;x=1", BadPath::HiddenDots),
            ("/api/.;/admin", BadPath::HiddenDots),
            ("/api/%2e%2e;/admin", BadPath::HiddenDots),
            ("/api/..%3b/admin", BadPath::HiddenDots),
            ("/api/..%2fadmin", BadPath::HiddenDots),
            ("/api/x%2F..%2F..%2Fadmin", BadPath::HiddenDots),
            ("/api/..\\admin", BadPath::HiddenDots),
            ("/api/x%5c%2e%2e", BadPath::HiddenDots),
        ] {
            assert_eq!(path_of(raw), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn leaves_the_query_alone() {
        let normalised = normalise("/a/../b?x=%2e%2e//../%zz\\&y=\u{e9}?z").unwrap();
        assert_eq!(normalised.path(), "/b");
        assert_eq!(normalised.query(), Some("x=%2e%2e//../%zz\\&y=\u{e9}?z"));
        assert_eq!(normalised.as_str(), "/b?x=%2e%2e//../%zz\\&y=\u{e9}?z");
        assert_eq!(normalise("/a?").unwrap().query(), Some(""));
        assert_eq!(normalise("/a").unwrap().query(), None);
        assert_eq!(normalise("/%61?").unwrap().into_target(), "/a?");
    }

    #[test]
    fn keeps_slashes_where_they_are() {
        for (raw, expected) in [
            ("/", Ok("/")),
            ("//", Ok("//")),
            ("//admin", Ok("//admin")),
            ("/a//b", Ok("/a//b")),
            ("/a///b//", Ok("/a///b//")),
            ("/%61//./b/../c?d=//", Ok("/a//c?d=//")),
            ("/a/.//b", Ok("/a//b")),
            ("/a/b/..//c", Ok("/a//c")),
            ("/a//../b", Err(BadPath::DotsBehindSlashes)),
            ("//..", Err(BadPath::DotsBehindSlashes)),
            ("/a//%2e%2e/b", Err(BadPath::DotsBehindSlashes)),
            ("/a//b/../../c", Err(BadPath::DotsBehindSlashes)),
            ("/../a", Err(BadPath::AboveRoot)),
            ("/a//..;/b", Err(BadPath::HiddenDots)),
        ] {
            let kept = with_slashes(raw).map(|kept| kept.as_str().to_owned());
            assert_eq!(kept.as_deref().map_err(|bad| *bad), expected, "{raw}");
        }
    }

    #[test]
    fn borrows_what_is_clean() {
        for clean in ["/", "/a/b?c=%2e", "/.well-known/a%2Fb/..c;d", "/a/"] {
            assert!(!normalise(clean).unwrap().is_changed(), "{clean}");
        }
        assert!(normalise("/%61").unwrap().is_changed());
    }

    #[test]
    fn strips_whole_segments() {
        for (path, prefix, expected) in [
            ("/api/v1/", "/api", "/v1/"),
            ("/api", "/api", "/"),
            ("/api/", "/api", "/"),
            ("/api/v1", "/", "/api/v1"),
            ("/a/b/c", "/a/b", "/c"),
            ("/%40me/x", "/@me", "/x"),
            ("/api//x", "/api", "//x"),
            ("//api/x/", "/api", "/x/"),
            ("//a///b//c", "/a/b", "//c"),
            ("//a//", "/a", "//"),
            ("//a", "/", "//a"),
        ] {
            assert_eq!(strip_prefix(path, prefix), expected, "{path} {prefix}");
        }
    }

    /// Targets made of the pieces that matter, so that most of them are worth a look.
    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => Just("/".to_owned()),
            2 => Just(".".to_owned()),
            2 => prop::sample::select(vec![
                "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";", "%3b", "%25", "%252e", "%40",
                "@", "%00", "%", "%4", "\u{e9}", "\u{202e}", "?", "~", "%7e", "%c0%ae", "+", "=",
            ]).prop_map(str::to_owned),
            3 => "[a-c]{1,2}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
    }

    /// What an endpoint serves that decodes the whole path once and then resolves it.
    fn naive_endpoint(path: &str) -> Vec<Vec<u8>> {
        let mut decoded = Vec::new();
        let mut bytes = path.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let pair = [bytes.next().unwrap(), bytes.next().unwrap()];
                let hex = std::str::from_utf8(&pair).unwrap();
                decoded.push(u8::from_str_radix(hex, 16).unwrap());
            } else {
                decoded.push(byte);
            }
        }
        let mut served: Vec<Vec<u8>> = Vec::new();
        for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
            match segment {
                b"" | b"." => {}
                b".." => drop(served.pop()),
                other => served.push(other.to_vec()),
            }
        }
        served
    }

    fn decoded(segment: &str) -> Vec<u8> {
        naive_endpoint(segment).concat()
    }

    proptest! {
        #[test]
        fn nothing_ambiguous_is_left(target in tricky()) {
            if let Ok(normalised) = normalise(&target) {
                let path = normalised.path();
                prop_assert!(path.starts_with('/') && path.is_ascii());
                let closed = format!("{path}/");
                prop_assert!(!path.contains("//"));
                prop_assert!(!closed.contains("/./") && !closed.contains("/../"));
                prop_assert!(!path.to_ascii_lowercase().contains("%2e"));
                prop_assert!(!path.contains('\\') && !path.contains("%00"));
            }
        }

        #[test]
        fn twice_is_once(target in tricky()) {
            if let Ok(once) = normalise(&target) {
                let twice = normalise(once.as_str()).unwrap();
                prop_assert_eq!(twice.as_str(), once.as_str());
                prop_assert!(!twice.is_changed());
            }
        }

        /// An endpoint that merges slashes finds what was matched.
        #[test]
        fn with_slashes_is_normal_but_for_them(target in tricky()) {
            let kept = with_slashes(&target);
            match (kept, normalise(&target)) {
                (Ok(kept), Ok(merged)) => {
                    let again = normalise(kept.as_str()).unwrap();
                    prop_assert_eq!(again.as_str(), merged.as_str());
                    let twice = with_slashes(kept.as_str()).unwrap();
                    prop_assert_eq!(twice.as_str(), kept.as_str());
                    prop_assert_eq!(kept.path().contains("//"), kept.as_str() != merged.as_str());
                }
                (Err(kept), Err(merged)) => prop_assert!(
                    kept == merged || kept == BadPath::DotsBehindSlashes
                ),
                (Err(kept), Ok(_)) => prop_assert_eq!(kept, BadPath::DotsBehindSlashes),
                (Ok(kept), Err(merged)) => prop_assert!(false, "{:?} {:?}", kept, merged),
            }
        }

        #[test]
        fn owned_means_changed(target in tricky()) {
            if let Ok(normalised) = normalise(&target) {
                prop_assert_eq!(normalised.is_changed(), normalised.as_str() != target);
            }
        }

        /// The endpoint sees the segments that were matched; an escaped slash may split one of
        /// them further, but never lets it climb out of its prefix.
        #[test]
        fn a_naive_endpoint_sees_the_segments_that_were_matched(target in tricky()) {
            if let Ok(normalised) = normalise(&target) {
                let path = normalised.path();
                let served = naive_endpoint(path);
                let ours: Vec<&str> = segments(path).collect();
                if !path.contains("%2F") && !path.contains("%5C") {
                    let ours: Vec<Vec<u8>> = ours.iter().map(|s| decoded(s)).collect();
                    prop_assert_eq!(served, ours);
                } else {
                    let whole: Vec<u8> = ours.iter().flat_map(|s| decoded(s)).collect();
                    prop_assert_eq!(served.concat(), whole);
                }
            }
        }

        #[test]
        fn any_text_is_answered(target in any::<String>()) {
            let _ = normalise(&target);
            let _ = normalise(&format!("/{target}"));
        }
    }
}
