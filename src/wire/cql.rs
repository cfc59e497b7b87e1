//! Cassandra's native protocol as far as a gateway needs it: first bytes, refusal, probe.
//!
//! Invariant: only the nine bytes of a frame header decide.
//!
//! Source: Apache Cassandra, `native_protocol_v3.spec` to `native_protocol_v5.spec`, sections 2, 9.

use super::printable;
use super::reader::Reader;
use super::signature::SignatureMatch;
use super::verdict::Verdict;

/// OPTIONS in version 4, which a server answers before authentication.
pub(super) const PROBE: &[u8] = b"\x04\0\0\0\x05\0\0\0\0";

/// Bytes of a frame header since version 3; versions 1 and 2 have one less.
const HEADER_BYTES: usize = 9;

/// Whether a client begins like this: OPTIONS or STARTUP of version 3 or later.
pub(super) fn fits(bytes: &[u8]) -> SignatureMatch {
    let ok = |at: usize, test: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| test(*byte));
    // Compression is agreed on by STARTUP, no driver traces it: only the beta flag may be set. That
    // also keeps MongoDB messages of 259 or 515 bytes apart.
    if !(ok(0, |version| matches!(version, 3..=6 | 0x41 | 0x42))
        && ok(1, |flags| matches!(flags, 0 | 0x10))
        && ok(2, |stream| stream < 0x80)
        && ok(4, |opcode| matches!(opcode, STARTUP | OPTIONS)))
    {
        return SignatureMatch::No;
    }
    let Some(opcode) = bytes.get(4) else {
        return SignatureMatch::Maybe;
    };
    let longest = if *opcode == OPTIONS {
        0
    } else {
        MAX_STARTUP_BYTES
    };
    match Reader::new(&bytes[5..]).u32() {
        Some(length) if length > longest => SignatureMatch::No,
        Some(_) => SignatureMatch::Yes,
        None if bytes[5..].iter().take(2).any(|byte| *byte != 0) => SignatureMatch::No,
        None => SignatureMatch::Maybe,
    }
}

/// ERROR 0x1001 (Overloaded: drivers go to the next host), with version and stream of the request
/// that begins with `first`. `None` until its header is there.
pub(super) fn overloaded(text: &str, first: &[u8]) -> Option<Vec<u8>> {
    error(OVERLOADED, text, first)
}

/// ERROR 0x0100 (Bad credentials: drivers do not try again), as [`overloaded`].
pub(super) fn bad_credentials(text: &str, first: &[u8]) -> Option<Vec<u8>> {
    error(BAD_CREDENTIALS, text, first)
}

fn error(code: u32, text: &str, first: &[u8]) -> Option<Vec<u8>> {
    let version = first.first()? & 0x7f;
    let stream_bytes = if version <= 2 { 1 } else { 2 };
    let stream = first.get(2..2 + stream_bytes)?;
    first.get(HEADER_BYTES - 1)?;
    let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
    let mut body = code.to_be_bytes().to_vec();
    body.extend((text.len() as u16).to_be_bytes());
    body.extend(text);
    let mut frame = vec![version | RESPONSE, 0];
    frame.extend(stream);
    frame.push(ERROR);
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    Some(frame)
}

/// Judges the answer to [`PROBE`]. A server that does not know version 4 lives as well.
pub(super) fn judge(answer: &[u8]) -> Verdict {
    let Some(header) = answer.get(..HEADER_BYTES) else {
        return match answer.first() {
            Some(version) if version & RESPONSE == 0 => not_cql(),
            _ => Verdict::NeedMore,
        };
    };
    match header[4] {
        _ if header[0] & RESPONSE == 0 => not_cql(),
        SUPPORTED => Verdict::Alive,
        ERROR => {
            let mut body = Reader::new(&answer[HEADER_BYTES..]);
            match (body.u32(), body.block16()) {
                (Some(PROTOCOL_ERROR), _) => Verdict::Alive,
                (Some(code), Some(text)) => {
                    Verdict::Refused(format!("{code:#06x} {}", printable(text.rest())))
                }
                _ => Verdict::NeedMore,
            }
        }
        _ => not_cql(),
    }
}

fn not_cql() -> Verdict {
    Verdict::Refused("not Cassandra: no answer to OPTIONS".into())
}

const RESPONSE: u8 = 0x80;
const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const OPTIONS: u8 = 0x05;
const SUPPORTED: u8 = 0x06;
const PROTOCOL_ERROR: u32 = 0x000a;
const BAD_CREDENTIALS: u32 = 0x0100;
const OVERLOADED: u32 = 0x1001;

/// Longest STARTUP body believed: drivers send names and versions, 200 bytes.
const MAX_STARTUP_BYTES: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_echoes_version_and_stream() {
        assert_eq!(
            overloaded("busy", b"\x04\0\x01\x02\x05\0\0\0\0").unwrap(),
            b"\x84\0\x01\x02\x00\0\0\0\x0a\0\0\x10\x01\0\x04busy"
        );
        assert_eq!(overloaded("busy", b"\x04\0\x01\x02\x05\0\0\0"), None);
        // Version 2 has a stream of one byte.
        assert_eq!(
            overloaded("busy", b"\x02\0\x07\x01\0\0\0\x16\0").unwrap()[..8],
            *b"\x82\0\x07\x00\0\0\0\x0a"
        );
    }

    #[test]
    fn options_tell_who_lives() {
        let supported = b"\x84\0\0\0\x06\0\0\0\x02\0\0";
        for end in 0..HEADER_BYTES {
            assert_eq!(judge(&supported[..end]), Verdict::NeedMore);
        }
        assert_eq!(judge(supported), Verdict::Alive);
        let old = b"\x83\0\0\0\x00\0\0\0\x0b\0\0\0\x0a\0\x05wrong";
        assert_eq!(judge(old), Verdict::Alive);
        let bootstrapping = b"\x84\0\0\0\x00\0\0\0\x08\0\0\x10\x02\0\x02no";
        assert_eq!(judge(bootstrapping), Verdict::Refused("0x1002 no".into()));
        assert_eq!(judge(b"HTTP/1.1 "), not_cql());
        assert_eq!(judge(b"H"), not_cql());
    }
}
