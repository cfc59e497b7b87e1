//! What `rewrite` asks of a path before it becomes a target.
//!
//! `route/` normalises paths, but stands above filters: this is the one defence between what a
//! client's path was captured into and what an endpoint reads. Invariant: nothing passes in which
//! any server could find a dot segment.

/// Whether a path is as the gateway's own normalisation leaves it: what settings must write so that
/// it can be compared with a request's.
pub(super) fn is_normal_path(path: &str) -> bool {
    let needless = |at: usize| {
        let (escape, rest) = (&path[at..at + 3], hex(path.as_bytes(), at));
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        rest.is_none_or(unreserved) || escape.bytes().any(|byte| byte.is_ascii_lowercase())
    };
    is_unambiguous_path(path)
        && path.bytes().all(|byte| byte.is_ascii_graphic())
        && !path.contains(['?', '#', '\\'])
        && !path.contains("//")
        && !path.match_indices('%').any(|(at, _)| needless(at))
}

/// Whether a path begins with a slash, holds whole escapes only, and no dot segment: written out,
/// escaped, or hidden behind `;`, `%2F` or `%5C`.
pub(super) fn is_unambiguous_path(path: &str) -> bool {
    let mut decoded = String::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let (byte, width) = match byte {
            b'%' => match hex(bytes, at) {
                Some(byte) if byte != 0 => (byte, 3),
                _ => return false,
            },
            byte if *byte <= b' ' || *byte == 0x7f => return false,
            byte => (*byte, 1),
        };
        // Bytes above 0x7f are not looked at; any character will do for them.
        decoded.push(char::from(byte));
        at += width;
    }
    let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    path.starts_with('/') && !decoded.split(['/', '\\']).any(dots)
}

/// What stands behind the segments of `prefix`, slashes between them not counted; `None` where the
/// path begins otherwise.
pub(super) fn behind<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let mut rest = path;
    for wanted in prefix.split('/').filter(|segment| !segment.is_empty()) {
        let segment = rest.trim_start_matches('/').strip_prefix(wanted)?;
        if !(segment.is_empty() || segment.starts_with('/')) {
            return None;
        }
        rest = segment;
    }
    Some(rest)
}

/// The path with one slash where it has several in a row.
pub(super) fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// Appends the escape of a byte.
pub(super) fn push_escaped(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// The byte of the escape at `at`.
fn hex(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(at + 1)? << 4 | digit(at + 2)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_segment_is_found_wherever_it_hides() {
        for path in [
            "",
            "a",
            "/.",
            "/..",
            "/a/../b",
            "/%2e%2E/b",
            "/.%2e",
            "/..;x/b",
            "/..%2Fb",
            "/..%5cb",
            "/..\\b",
            "/a%3b/..%3bx",
            "/%",
            "/%4",
            "/%zz",
            "/%00",
            "/a b",
            "/a\r\n",
            "/\u{7f}",
        ] {
            assert!(!is_unambiguous_path(path), "{path:?}");
        }
        for path in [
            "/",
            "/a",
            "/a.b/..c/...",
            "/%2Fa",
            "/a;b=..",
            "/caf%C3%A9",
            "//a",
            "/a\u{e9}",
        ] {
            assert!(is_unambiguous_path(path), "{path:?}");
        }
    }

    #[test]
    fn a_normal_path_has_one_form() {
        for path in ["/", "/a", "/a/", "/a%2Fb", "/a;b", "/@me", "/%20"] {
            assert!(is_normal_path(path), "{path}");
        }
        for path in [
            "//", "/a//b", "/a%2fb", "/%61", "/%2D", "/a\\b", "/\u{e9}", "/a?b", "/a#b",
        ] {
            assert!(!is_normal_path(path), "{path}");
        }
    }
}
