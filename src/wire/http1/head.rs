//! The scanner that decides about one request head.
//!
//! Everything that is refused before a request exists is refused here or in a file that is called
//! from here, with the RFC section beside it. Invariant: each byte is looked at once to find line
//! ends and once when its line is whole, however the bytes are cut into reads, and the verdict does
//! not depend on the cuts.

use super::framing::{BodyFraming, Version};
use super::refusal::{Refusal, bad, too_large};
use std::ops::Range;

use super::fields::Fields;
use super::request_line::RequestLine;
use super::{escaped, is_field_text, plain_run};

/// Reads one request head, in as many pieces as it arrives in.
///
/// Feed [`scan`](Self::scan) the same growing buffer until it answers something else than
/// [`Scan::NeedMore`]; then make a new scanner.
#[derive(Debug)]
pub struct HeadScanner {
    max_bytes: usize,
    /// Where the head starts: behind the one empty line that is let pass.
    start: usize,
    /// Where the line under way starts.
    line: usize,
    /// How many bytes were looked at for line ends.
    scanned: usize,
    /// Whether the last byte looked at was a CR.
    after_cr: bool,
    request: Option<RequestLine>,
    fields: Fields,
}

/// What [`HeadScanner::scan`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// No verdict yet.
    NeedMore,
    /// A whole head that may pass.
    Complete(HeadSummary),
    /// A head that must not pass; nothing after it on this connection can be trusted.
    Refused(Refusal),
}

/// A head that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadSummary {
    /// The head's bytes in the buffer, from the method to the empty line that ends it. It starts at
    /// 0, or at 2 behind an empty line.
    pub head: Range<usize>,
    /// The method's bytes.
    pub method: Range<usize>,
    /// The target's bytes.
    pub target: Range<usize>,
    /// How many of them go on as escapes; see [`escaped`].
    pub(super) escapes: usize,
    /// The host and port of an absolute-form target.
    pub(super) authority: Option<Range<usize>>,
    pub(super) has_host: bool,
    /// The version in the request line.
    pub version: Version,
    /// How to find the end of the body.
    pub body: BodyFraming,
    /// The client will not send another request (RFC 9112 9.3).
    pub connection_close: bool,
    /// The client waits for `100 Continue` before it sends the body (RFC 9110 10.1.1).
    pub expect_continue: bool,
    /// A 101 response ends HTTP on this connection (RFC 9110 7.8).
    pub upgrade: bool,
}

impl HeadScanner {
    /// A scanner for one head of at most `max_bytes` bytes.
    pub fn new(max_bytes: usize) -> Self {
        HeadScanner {
            max_bytes,
            start: 0,
            line: 0,
            scanned: 0,
            after_cr: false,
            request: None,
            fields: Fields::default(),
        }
    }

    /// Looks at what is new in `bytes`, which begins where the first call's `bytes` began.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        let end = bytes.len().min(self.max_bytes);
        while self.scanned < end {
            let verdict = match bytes[self.scanned] {
                b'\n' if self.after_cr => {
                    let line = self.line..self.scanned - 1;
                    self.scanned += 1;
                    self.after_cr = false;
                    self.line = self.scanned;
                    self.end_of_line(bytes, line)
                }
                // RFC 9112 2.2 lets a recipient take a bare LF for a line end and a bare CR for a
                // space; two readers that choose differently are a smuggling hole.
                b'\n' => Err(bad("bare LF")),
                _ if self.after_cr => Err(bad("bare CR")),
                b'\r' => {
                    self.after_cr = true;
                    self.scanned += 1;
                    Ok(None)
                }
                // RFC 9110 5.5 (values), RFC 9112 3 (request line). Refused at once, so that a
                // client that speaks TLS to this port is not kept waiting for a line end.
                byte if !is_field_text(byte) => Err(bad("control byte")),
                _ => {
                    self.scanned += 1;
                    self.scanned += plain_run(&bytes[self.scanned..end]);
                    Ok(None)
                }
            };
            match verdict {
                Ok(None) => {}
                Ok(Some(summary)) => return Scan::Complete(summary),
                Err(refusal) => return Scan::Refused(refusal),
            }
        }
        if self.scanned == self.max_bytes {
            return Scan::Refused(too_large("head too long"));
        }
        Scan::NeedMore
    }

    /// Whether anything but an empty line has arrived.
    pub fn has_begun(&self) -> bool {
        self.scanned > self.start + usize::from(self.after_cr)
    }

    /// Method and target, once the request line was whole and well formed.
    pub fn request_line(&self) -> Option<(Range<usize>, Range<usize>)> {
        let request = self.request.as_ref()?;
        Some((request.method.clone(), request.target.clone()))
    }

    fn end_of_line(
        &mut self,
        bytes: &[u8],
        line: Range<usize>,
    ) -> Result<Option<HeadSummary>, Refusal> {
        let Some(request) = &self.request else {
            if line.is_empty() {
                // RFC 9112 2.2: ignore at least one empty line before the request line.
                if self.start > 0 {
                    return Err(bad("more than one empty line before the request line"));
                }
                self.start = self.line;
                return Ok(None);
            }
            let (request, verdict) = RequestLine::parse(bytes, line)?;
            self.request = Some(request);
            return verdict.map(|()| None);
        };
        if !line.is_empty() {
            return self.fields.add(bytes, line).map(|()| None);
        }
        // A slash and the name of `Host`, less the scheme, are two bytes more.
        let grows = 2 * request.escapes + 2 * usize::from(request.named.is_some());
        if self.line - self.start + grows > self.max_bytes {
            return Err(too_large("head too long"));
        }
        let body = self.fields.framing(request.version)?;
        let has_host = self.fields.check_host(bytes, request)?;
        let http11 = request.version == Version::Http11;
        Ok(Some(HeadSummary {
            head: self.start..self.line,
            method: request.method.clone(),
            target: request.target.clone(),
            escapes: request.escapes,
            authority: request.named.as_ref().map(|named| named.authority.clone()),
            has_host,
            version: request.version,
            body,
            connection_close: self.fields.close || !(http11 || self.fields.keep_alive),
            expect_continue: http11 && self.fields.expect_continue,
            // Pingora takes the field alone for an upgrade request, and so must this.
            upgrade: http11 && self.fields.upgrade,
        }))
    }
}

impl HeadSummary {
    /// The head as it goes on, where that is not as it came: an absolute-form target becomes its
    /// path (RFC 9112 3.2.2), with a `Host` where there was none, and bytes become escapes.
    pub fn rewritten(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.escapes == 0 && self.authority.is_none() {
            return None;
        }
        let path = match &self.authority {
            Some(authority) => &bytes[authority.end..self.target.end],
            None => &bytes[self.target.clone()],
        };
        let rest = &bytes[self.target.end..self.head.end];
        let line_end = rest.windows(2).position(|pair| pair == b"\r\n");
        let (version, fields) = rest.split_at(line_end.map_or(rest.len(), |at| at + 2));
        let mut head = bytes[self.head.start..self.target.start].to_vec();
        if !path.starts_with(b"/") && self.authority.is_some() {
            head.push(b'/');
        }
        head.extend_from_slice(&escaped(path));
        head.extend_from_slice(version);
        if let (Some(authority), false) = (&self.authority, self.has_host) {
            head.extend_from_slice(b"Host: ");
            head.extend_from_slice(&bytes[authority.clone()]);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(fields);
        Some(head)
    }
}
