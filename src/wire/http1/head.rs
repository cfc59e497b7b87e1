//! The scanner that decides about one request head.
//!
//! Its own file because it is the whole gate: everything that is refused before a request exists is
//! refused here, with the RFC section beside it. Invariant: each byte is looked at once to find line
//! ends and once when its line is whole, however the bytes are cut into reads, and the verdict does
//! not depend on the cuts. Called by `server::io`.

use std::ops::Range;

use super::authority::is_authority;
use super::{
    MAX_FIELD_NAME_BYTES, MAX_FIELDS, MAX_METHOD_BYTES, MAX_TARGET_BYTES, is_field_text, is_tchar,
};
use crate::error::Reason;

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

/// Why a head does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// The word for access log and metrics.
    pub reason: Reason,
    /// What was wrong, for the log; never sent to the client.
    pub why: &'static str,
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

/// The versions that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of a request body is found (RFC 9112 6.3). A request never ends with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    None,
    /// Bytes; not 0.
    Length(u64),
    Chunked,
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
                // RFC 9110 5.5 (values), RFC 9112 3 (request line). Refused at once, so that
                // someone who speaks TLS to this port is not kept waiting for a line end.
                byte if !is_field_text(byte) => Err(bad("control byte")),
                _ => {
                    let text = &bytes[self.scanned..end];
                    self.scanned += text
                        .iter()
                        .position(|byte| !is_field_text(*byte))
                        .unwrap_or(text.len());
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
        let body = self.fields.framing(request.version)?;
        self.fields.check_host(bytes, request)?;
        let http11 = request.version == Version::Http11;
        Ok(Some(HeadSummary {
            head: self.start..self.line,
            method: request.method.clone(),
            target: request.target.clone(),
            version: request.version,
            body,
            connection_close: self.fields.close || !(http11 || self.fields.keep_alive),
            expect_continue: http11 && self.fields.expect_continue,
            // Pingora takes the field alone for an upgrade request, and so must this.
            upgrade: http11 && self.fields.upgrade,
        }))
    }
}

impl Refusal {
    /// The head was not whole when its time was over.
    pub const TIMEOUT: Refusal = Refusal {
        status: 408,
        reason: Reason::HeaderTimeout,
        why: "head not whole in time",
    };
}

/// `method SP request-target SP HTTP-version` (RFC 9112 3).
#[derive(Debug)]
struct RequestLine {
    method: Range<usize>,
    target: Range<usize>,
    /// The authority of an absolute-form target.
    authority: Option<Range<usize>>,
    version: Version,
}

impl RequestLine {
    /// The line, and whether what it asks for may pass. Apart, because a request that is well
    /// formed but refused is logged with its method and target.
    fn parse(
        bytes: &[u8],
        line: Range<usize>,
    ) -> Result<(RequestLine, Result<(), Refusal>), Refusal> {
        let text = &bytes[line.clone()];
        // Exactly one SP between three parts: RFC 9112 3 lets recipients split on any whitespace,
        // which moves the target for whoever splits otherwise.
        let mut spaces = text
            .iter()
            .enumerate()
            .filter_map(|(at, byte)| (*byte == b' ').then_some(at));
        let (Some(first), Some(second), None) = (spaces.next(), spaces.next(), spaces.next())
        else {
            return Err(bad("request line does not have three parts"));
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
            authority: None,
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

    /// RFC 9112 3.2: origin-form, absolute-form with `http`, or `*` with OPTIONS.
    fn check_target(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let target = &bytes[self.target.clone()];
        if target.len() > MAX_TARGET_BYTES {
            return Err(too_large("target too long"));
        }
        let query = target.iter().position(|byte| *byte == b'?');
        let (path, query) = target.split_at(query.unwrap_or(target.len()));
        if !path.iter().all(|byte| is_path_byte(*byte))
            || !query.iter().all(|byte| is_query_byte(*byte))
        {
            return Err(bad("invalid byte in the target"));
        }
        match target {
            [b'/', ..] => Ok(()),
            b"*" if &bytes[self.method.clone()] == b"OPTIONS" => Ok(()),
            _ => {
                // The scheme is compared without case (RFC 3986 3.1).
                let scheme = b"http://";
                if !(target.len() > scheme.len()
                    && target[..scheme.len()].eq_ignore_ascii_case(scheme))
                {
                    return Err(bad("invalid target"));
                }
                let rest = &target[scheme.len()..];
                let end = rest
                    .iter()
                    .position(|byte| matches!(byte, b'/' | b'?'))
                    .unwrap_or(rest.len());
                if !is_authority(&rest[..end]) {
                    return Err(bad("invalid authority in the target"));
                }
                let start = self.target.start + scheme.len();
                self.authority = Some(start..start + end);
                Ok(())
            }
        }
    }
}

/// What the fields seen so far say about the connection and the body.
#[derive(Debug, Default)]
struct Fields {
    count: usize,
    host: Option<Range<usize>>,
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expect_continue: bool,
    upgrade: bool,
}

impl Fields {
    /// `field-name ":" OWS field-value OWS` (RFC 9112 5).
    fn add(&mut self, bytes: &[u8], line: Range<usize>) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(too_large("too many header fields"));
        }
        let (name, value) = field(bytes, line)?;
        let text = &bytes[value.clone()];
        // By length first: most names are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                // RFC 9112 3.2: more than one, or an invalid one, is a 400.
                if self.host.replace(value).is_some() {
                    return Err(bad("more than one Host"));
                }
                if !is_authority(text) {
                    return Err(bad("invalid Host"));
                }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                // RFC 9110 8.6 lets equal duplicates pass; no honest client sends them.
                if self.content_length.replace(length(text)?).is_some() {
                    return Err(bad("more than one Content-Length"));
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(bad("more than one Transfer-Encoding"));
                }
                transfer_encoding(text)?;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for option in text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
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
    fn framing(&self, version: Version) -> Result<BodyFraming, Refusal> {
        match (self.chunked, self.content_length) {
            // Legal in RFC 9112 6.3 (3), and the classic way to smuggle.
            (true, Some(_)) => Err(bad("both Transfer-Encoding and Content-Length")),
            // RFC 9112 6.1: faulty framing.
            (true, None) if version == Version::Http10 => {
                Err(bad("Transfer-Encoding with HTTP/1.0"))
            }
            (true, None) => Ok(BodyFraming::Chunked),
            (false, None | Some(0)) => Ok(BodyFraming::None),
            (false, Some(length)) => Ok(BodyFraming::Length(length)),
        }
    }

    /// RFC 9112 3.2, 3.2.2. An absolute-form target that names another host than `Host` is refused
    /// instead of overriding it: someone in front of us may have looked at `Host`.
    fn check_host(&self, bytes: &[u8], request: &RequestLine) -> Result<(), Refusal> {
        match (&self.host, &request.authority) {
            (None, _) if request.version == Version::Http11 => Err(bad("no Host")),
            (Some(host), Some(authority)) if bytes[host.clone()] != bytes[authority.clone()] => {
                Err(bad("Host differs from the target"))
            }
            _ => Ok(()),
        }
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
    let Some(colon) = text.iter().position(|byte| *byte == b':') else {
        return Err(bad("field without colon"));
    };
    let name = &text[..colon];
    if name.len() > MAX_FIELD_NAME_BYTES {
        return Err(too_large("field name too long"));
    }
    // RFC 9112 5.1: no whitespace between name and colon; the token check covers it.
    if name.is_empty() || !name.iter().all(|byte| is_tchar(*byte)) {
        return Err(bad("invalid field name"));
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
/// for; everything else is somebody trying to be read in two ways.
fn transfer_encoding(text: &[u8]) -> Result<(), Refusal> {
    if text.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = text
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .rev()
        .peekable();
    codings.next_if(|last| last.eq_ignore_ascii_case(b"chunked"));
    let registered: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
    let mut others = codings.peekable();
    if others.peek().is_some()
        && others.all(|coding| {
            registered
                .iter()
                .any(|name| coding.eq_ignore_ascii_case(name))
        })
    {
        return Err(Refusal {
            status: 501,
            reason: Reason::BadRequest,
            why: "transfer coding not offered",
        });
    }
    Err(bad("invalid Transfer-Encoding"))
}

/// Visible ASCII without `#` (a fragment is never sent, RFC 9112 3.2) and what every client escapes
/// and Pingora cannot hold. RFC 3986 allows less, but clients send the rest as it is.
fn is_query_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>')
}

/// In a path also no backslash: some servers take it for a slash, and would see another path than
/// the one that was routed.
fn is_path_byte(byte: u8) -> bool {
    is_query_byte(byte) && !matches!(byte, b'\\' | b'`')
}

const fn bad(why: &'static str) -> Refusal {
    Refusal {
        status: 400,
        reason: Reason::BadRequest,
        why,
    }
}

const fn too_large(why: &'static str) -> Refusal {
    Refusal {
        status: 431,
        reason: Reason::HeaderTooLarge,
        why,
    }
}
