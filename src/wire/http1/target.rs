//! The bytes of a request target: which go on as they are, which as escapes, and which not at all.
//!
//! Clients send more than RFC 3986 lets them, and a byte that two servers read differently must not
//! reach one of them. Invariant: what comes out of [`escaped`] is in the grammar of RFC 3986 (but
//! for `[` and `]`, which every server takes) and means what came in.

use std::borrow::Cow;

/// What becomes of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    /// Percent-encoded: RFC 3986 has no place for it, and no server takes it for anything else. A
    /// backslash is among them because some servers take a raw one for a slash.
    Escaped,
    /// A control character or a space, which end a target for some readers, or `#`, at which some
    /// cut it off (RFC 9112, section 3.2: a fragment is never sent).
    Refused,
}

/// What becomes of `byte`.
pub(super) fn fate(byte: u8) -> Fate {
    FATES[usize::from(byte)]
}

/// The target with escapes where it needs them; nothing is allocated where it needs none.
pub fn escaped(target: &[u8]) -> Cow<'_, [u8]> {
    let count = target.iter().filter(|byte| fate(**byte) == Fate::Escaped);
    let count = count.count();
    if count == 0 {
        return Cow::Borrowed(target);
    }
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(target.len() + 2 * count);
    for byte in target {
        match fate(*byte) {
            Fate::Escaped => {
                let (high, low) = (byte >> 4, byte & 15);
                out.extend([b'%', HEX[usize::from(high)], HEX[usize::from(low)]]);
            }
            Fate::Kept | Fate::Refused => out.push(*byte),
        }
    }
    Cow::Owned(out)
}

const FATES: [Fate; 256] = {
    let mut fates = [Fate::Kept; 256];
    let mut byte = 0;
    while byte < 256 {
        fates[byte] = match byte as u8 {
            ..=b' ' | 0x7f | b'#' => Fate::Refused,
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => Fate::Escaped,
            _ => Fate::Kept,
        };
        byte += 1;
    }
    fates
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_rfc_3986_has_no_place_for_is_escaped() {
        for (raw, expected) in [
            (
                &b"/query?query=up{job=\"x\"}"[..],
                "/query?query=up%7Bjob=%22x%22%7D",
            ),
            (b"/<a>|`b`^\\", "/%3Ca%3E%7C%60b%60%5E%5C"),
            (
                b"/caf\xc3\xa9?q=\xe2\x82\xac\xff",
                "/caf%C3%A9?q=%E2%82%AC%FF",
            ),
            (
                b"/a%20b%zz;x=1,(2)!*'$&+@:~-._",
                "/a%20b%zz;x=1,(2)!*'$&+@:~-._",
            ),
            (b"/a[]?b[0]=1", "/a[]?b[0]=1"),
        ] {
            let once = escaped(raw);
            assert_eq!(String::from_utf8_lossy(&once), expected);
            assert_eq!(escaped(&once), once, "twice is once");
            assert_eq!(matches!(once, Cow::Borrowed(_)), raw == expected.as_bytes());
        }
        for byte in 0..=u8::MAX {
            let uri = byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&byte);
            let refused = byte <= b' ' || byte == 0x7f || byte == b'#';
            let expected = match (uri, refused) {
                (true, _) => Fate::Kept,
                (_, true) => Fate::Refused,
                _ => Fate::Escaped,
            };
            assert_eq!(fate(byte), expected, "{byte:#x}");
        }
    }
}
