//! The first line of a head: method, target, version.
//!
//! Its grammar is that of RFC 9112 3. Invariant: a line that passes has one reading; with its
//! escapes the target is of a form that Pingora holds unchanged.

use std::ops::Range;

use super::authority::is_authority;
use super::framing::Version;
use super::refusal::{Refusal, bad, too_large};
use super::target::{Fate, fate};
use super::{MAX_METHOD_BYTES, MAX_TARGET_BYTES, is_tchar};
use crate::error::Reason;

/// `method SP request-target SP HTTP-version` (RFC 9112 3).
#[derive(Debug)]
pub(super) struct RequestLine {
    pub(super) method: Range<usize>,
    pub(super) target: Range<usize>,
    /// How many bytes of the target go on as escapes.
    pub(super) escapes: usize,
    /// The host that an absolute-form target names.
    pub(super) named: Option<Named>,
    pub(super) version: Version,
}

/// The beginning of an absolute-form target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) authority: Range<usize>,
    /// Of its scheme.
    pub(super) default_port: u16,
}

impl RequestLine {
    /// The line, and whether what it asks for may pass. Apart, because a request that is well
    /// formed but refused is logged with its method and target.
    pub(super) fn parse(
        bytes: &[u8],
        line: Range<usize>,
    ) -> Result<(RequestLine, Result<(), Refusal>), Refusal> {
        let text = &bytes[line.clone()];
        // Exactly one SP between three parts: RFC 9112 3 lets recipients split on any whitespace,
        // which moves the target for a reader that splits otherwise.
        let mut spaces = text
            .iter()
            .enumerate()
            .filter_map(|(at, byte)| (*byte == b' ').then_some(at));
        let (Some(first), Some(second), None) = (spaces.next(), spaces.next(), spaces.next())
        else {
            return Err(bad(
                "the request line is not method, target and version with one space between them",
            ));
        };
        let method = line.start..line.start + first;
        let target = line.start + first + 1..line.start + second;
        let token = &bytes[method.clone()];
        if token.is_empty()
            || token.len() > MAX_METHOD_BYTES
            || !token.iter().all(|byte| is_tchar(*byte))
        {
            return Err(bad("invalid method"));
        }
        let mut request = RequestLine {
            method,
            target,
            escapes: 0,
            named: None,
            version: version(&text[second + 1..])?,
        };
        let verdict = match token {
            // CONNECT turns the connection into a tunnel, TRACE sends secrets back (RFC 9110 9.3.6,
            // 9.3.8): not offered.
            b"CONNECT" | b"TRACE" => Err(Refusal {
                status: 405,
                reason: Reason::BadRequest,
                why: "method not offered",
            }),
            _ => request.check_target(bytes),
        };
        Ok((request, verdict))
    }

    /// RFC 9112 3.2: origin-form, absolute-form with `http` or `https`, or `*` with OPTIONS. What a
    /// client says of its scheme changes nothing, as with Envoy and nginx: TLS may have ended before
    /// us.
    fn check_target(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let target = &bytes[self.target.clone()];
        for byte in target {
            match fate(*byte) {
                Fate::Kept => {}
                Fate::Escaped => self.escapes += 1,
                Fate::Refused if *byte == b'#' => {
                    return Err(bad("a fragment (`#`) in the target"));
                }
                // The other control bytes and spaces have ended the line before.
                Fate::Refused => return Err(bad("a tab in the target")),
            }
        }
        if target.len() + 2 * self.escapes > MAX_TARGET_BYTES {
            return Err(too_large("target too long"));
        }
        match target {
            [b'/', ..] => Ok(()),
            b"*" if &bytes[self.method.clone()] == b"OPTIONS" => Ok(()),
            _ => {
                // The scheme is compared without case (RFC 3986 3.1).
                let schemes: [(&[u8], u16); 2] = [(b"http://", 80), (b"https://", 443)];
                let scheme = schemes.iter().find(|(scheme, _)| {
                    let start = target.get(..scheme.len());
                    start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
                });
                let Some((scheme, default_port)) = scheme else {
                    return Err(bad("the target is neither a path nor an http URL"));
                };
                let rest = &target[scheme.len()..];
                let end = rest
                    .iter()
                    .position(|byte| matches!(byte, b'/' | b'?'))
                    .unwrap_or(rest.len());
                if !is_authority(&rest[..end]) {
                    return Err(bad("invalid authority in the target"));
                }
                let start = self.target.start + scheme.len();
                self.named = Some(Named {
                    authority: start..start + end,
                    default_port: *default_port,
                });
                Ok(())
            }
        }
    }
}

/// `HTTP/` DIGIT `.` DIGIT (RFC 9112 2.3).
fn version(text: &[u8]) -> Result<Version, Refusal> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        // RFC 9110 15.6.6. The HTTP/2 preface arrives here, as `PRI * HTTP/2.0`.
        [b'H', b'T', b'T', b'P', b'/', b'1'..=b'9', b'.', b'0'..=b'9'] => Err(Refusal {
            status: 505,
            reason: Reason::BadRequest,
            why: "version not spoken",
        }),
        _ => Err(bad("invalid version")),
    }
}
