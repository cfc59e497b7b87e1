//! The header fields of a head, and what those that frame it say together.
//!
//! Framing is decided from several fields at once (RFC 9112 6). Invariant: fields that contradict
//! each other never pass.

use std::ops::Range;

use super::authority::{is_authority, is_same};
use super::framing::{BodyFraming, Version};
use super::refusal::{Refusal, bad, too_large};
use super::request_line::RequestLine;
use super::{MAX_FIELD_NAME_BYTES, MAX_FIELDS, is_tchar};
use crate::error::Reason;

/// The only transfer coding there is.
#[derive(Debug)]
struct Chunked;

/// What the fields seen so far say about the connection and the body.
#[derive(Debug, Default)]
pub(super) struct Fields {
    count: usize,
    host: Option<Range<usize>>,
    content_length: Option<u64>,
    transfer_encoding: Option<Chunked>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    pub(super) upgrade: bool,
}

impl Fields {
    /// `field-name ":" OWS field-value OWS` (RFC 9112 5).
    pub(super) fn add(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(too_large("too many header fields"));
        }
        let (name, value) = field(bytes, line)?;
        let text = &bytes[value.clone()];
        // By length first: most names are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if !is_authority(text) {
                    return Err(bad("invalid Host"));
                }
                // RFC 9112 3.2: 400 for more than one.
                once(&mut self.host, value, "more than one Host")?;
            }
            // RFC 9110 8.6 lets equal duplicates pass; no honest client sends them.
            14 if name.eq_ignore_ascii_case(b"content-length") => once(
                &mut self.content_length,
                length(text)?,
                "more than one Content-Length",
            )?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => once(
                &mut self.transfer_encoding,
                transfer_encoding(text)?,
                "more than one Transfer-Encoding",
            )?,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    if NEEDED.iter().any(|name| option.eq_ignore_ascii_case(name)) {
                        return Err(bad("Connection names a field that no hop may take out"));
                    }
                }
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                // RFC 9110 10.1.1: 417 for any other expectation.
                if !text.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal {
                        status: 417,
                        reason: Reason::BadRequest,
                        why: "unknown expectation",
                    });
                }
                self.expect_continue = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 6.1, 6.3.
    pub(super) fn framing(&self, version: Version) -> Result<BodyFraming, Refusal> {
        match (&self.transfer_encoding, self.content_length) {
            // Legal in RFC 9112 6.3 (3), and the classic way to smuggle.
            (Some(Chunked), Some(_)) => Err(bad("both Transfer-Encoding and Content-Length")),
            // RFC 9112 6.1: faulty framing.
            (Some(Chunked), None) if version == Version::Http10 => {
                Err(bad("Transfer-Encoding with HTTP/1.0"))
            }
            (Some(Chunked), None) => Ok(BodyFraming::Chunked),
            (None, None | Some(0)) => Ok(BodyFraming::None),
            (None, Some(length)) => Ok(BodyFraming::Length(length)),
        }
    }

    /// RFC 9112 3.2, 3.2.2. An absolute-form target that names another host than `Host` is refused
    /// instead of overriding it: a proxy in front of us may have looked at `Host`. Answers whether
    /// there is a `Host`.
    pub(super) fn check_host(&self, bytes: &[u8], request: &RequestLine) -> Result<bool, Refusal> {
        let (Some(host), Some(named)) = (&self.host, &request.named) else {
            return match request.version {
                Version::Http11 if self.host.is_none() => Err(bad("no Host")),
                _ => Ok(self.host.is_some()),
            };
        };
        let (host, authority) = (&bytes[host.clone()], &bytes[named.authority.clone()]);
        match is_same(host, authority, named.default_port) {
            true => Ok(true),
            false => Err(bad("Host differs from the target")),
        }
    }
}

/// RFC 9110 7.6.1: a field that all recipients need is never for one hop alone. Pingora refuses these
/// four later, without a word of why.
const NEEDED: [&[u8]; 4] = [
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
];

/// Fills a slot that must be empty.
fn once<T>(slot: &mut Option<T>, value: T, why: &'static str) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad(why)),
    }
}

/// Splits a field line and checks its name. The value comes without the optional whitespace around
/// it; its bytes were checked on the way to the line end.
fn field(bytes: &[u8], line: Range<usize>) -> Result<(&[u8], Range<usize>), Refusal> {
    let text = &bytes[line.clone()];
    if matches!(text.first(), Some(b' ' | b'\t')) {
        // RFC 9112 5.2 (obs-fold), and 2.2 when it is the first field.
        return Err(bad("line starts with whitespace"));
    }
    // RFC 9112 5.1: no whitespace between name and colon; the token check covers it.
    let end = text.iter().position(|byte| !is_tchar(*byte));
    let colon = match end {
        Some(end) if text[end] == b':' && end > 0 => end,
        Some(_) if text.contains(&b':') => return Err(bad("invalid field name")),
        _ => return Err(bad("field without colon")),
    };
    let name = &text[..colon];
    if name.len() > MAX_FIELD_NAME_BYTES {
        return Err(too_large("field name too long"));
    }
    let value = &text[colon + 1..];
    let is_ows = |byte: &u8| matches!(byte, b' ' | b'\t');
    let before = value.iter().take_while(|byte| is_ows(byte)).count();
    let after = value[before..]
        .iter()
        .rev()
        .take_while(|byte| is_ows(byte))
        .count();
    Ok((name, line.start + colon + 1 + before..line.end - after))
}

/// `1*DIGIT` (RFC 9110 8.6), at most what Pingora's signed 64 bits hold.
fn length(text: &[u8]) -> Result<u64, Refusal> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return Err(bad("invalid Content-Length"));
    }
    // 19 digits fit into a u64.
    let length = text
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    if length > i64::MAX as u64 {
        return Err(bad("invalid Content-Length"));
    }
    Ok(length)
}

/// `chunked` and nothing else (RFC 9112 6.1, 7). A registered coding gets the 501 that 6.1 asks
/// for; everything else is an attempt to be read in two ways.
fn transfer_encoding(text: &[u8]) -> Result<Chunked, Refusal> {
    if text.eq_ignore_ascii_case(b"chunked") {
        return Ok(Chunked);
    }
    let is = |coding: &[u8], name: &&[u8]| coding.eq_ignore_ascii_case(name);
    let mut codings: Vec<&[u8]> = text
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .collect();
    codings.pop_if(|last| is(last, &&b"chunked"[..]));
    let registered: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
    if !codings.is_empty()
        && codings
            .iter()
            .all(|coding| registered.iter().any(|name| is(coding, name)))
    {
        return Err(Refusal {
            status: 501,
            reason: Reason::BadRequest,
            why: "transfer coding not offered",
        });
    }
    Err(bad("invalid Transfer-Encoding"))
}
