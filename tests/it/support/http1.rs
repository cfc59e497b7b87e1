//! HTTP/1.1 messages as the tests see them: a request head, a response head, body framing.
//!
//! Client and origin read the same grammar. Deliberately strict, and deliberately not the gateway's own
//! code or a library of its: a shared misreading would go unseen.

use std::io::{self, Read};

/// A list of header fields in the order received, names as sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// The first value of `name`, compared without case.
    pub fn first(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, v)| v.as_str())
    }

    /// Every value of `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|v| v.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    }
}

/// A request head, and its body once it was read.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Fields,
    pub body: Body,
}

/// A response head, and its body once it was read.
#[derive(Clone, Debug)]
pub struct Response {
    pub version: String,
    pub status: u16,
    pub headers: Fields,
    pub body: Body,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body.bytes)
            .unwrap_or_else(|e| panic!("no JSON ({e}): {:?}", self.text()))
    }

    pub fn closes(&self) -> bool {
        self.headers.has_token("connection", "close")
            || (self.version == "HTTP/1.0" && !self.headers.has_token("connection", "keep-alive"))
    }
}

/// A body: its first [`KEPT`] bytes, its length, and an FNV-1a hash over all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub len: u64,
    pub hash: u64,
}

impl Body {
    pub fn empty() -> Self {
        Body {
            bytes: Vec::new(),
            len: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    pub fn of(bytes: &[u8]) -> Self {
        let mut body = Body::empty();
        body.add(bytes);
        body
    }

    pub fn add(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        self.len += bytes.len() as u64;
        // A gigabyte is hashed by its length and its kept bytes alone: the debug build is slow.
        for byte in &bytes[..room] {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// How a body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// Reads one head from `stream` through `buffer`; `None` when the peer closed before a byte of it.
pub fn read_head(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            return Ok(Some(buffer.drain(..end + 4).collect()));
        }
        if fill(stream, buffer)? == 0 {
            return match buffer.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}

/// Reads a body whole, keeping what [`Body`] keeps.
pub fn read_body(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
    framing: Framing,
) -> io::Result<Body> {
    let mut body = Body::empty();
    match framing {
        Framing::None => {}
        Framing::Length(len) => take(stream, buffer, len, &mut body)?,
        Framing::UntilClose => loop {
            body.add(buffer);
            buffer.clear();
            if fill(stream, buffer)? == 0 {
                break;
            }
        },
        Framing::Chunked => loop {
            let line = line(stream, buffer)?;
            let size = line.split(';').next().unwrap_or_default();
            if !size.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed("chunk size"));
            }
            let size = u64::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
            if size == 0 {
                while !self::line(stream, buffer)?.is_empty() {}
                break;
            }
            take(stream, buffer, size, &mut body)?;
            if !self::line(stream, buffer)?.is_empty() {
                return Err(malformed("chunk end"));
            }
        },
    }
    Ok(body)
}

/// Parses a request head, refusing everything RFC 9112 does not allow on the wire.
pub fn parse_request(head: &[u8]) -> Result<(Request, Framing), String> {
    let (start, headers) = parse_head(head)?;
    let [method, target, version] = start.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("request line {start:?}"));
    };
    if !is_token(method) || target.is_empty() || !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("request line {start:?}"));
    }
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err(format!("version {version:?}"));
    }
    if headers.all("host").count() != 1 {
        return Err(format!("{} Host fields", headers.all("host").count()));
    }
    let framing = match (
        headers.all("transfer-encoding").count(),
        headers.all("content-length").count(),
    ) {
        (0, 0) => Framing::None,
        (0, 1) => Framing::Length(length(&headers)?),
        (1, 0) if headers.first("transfer-encoding") == Some("chunked") => Framing::Chunked,
        _ => return Err("ambiguous framing".to_owned()),
    };
    let request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        version: version.to_owned(),
        headers,
        body: Body::empty(),
    };
    Ok((request, framing))
}

/// Parses a response head; `method` is the request's, for HEAD.
pub fn parse_response(head: &[u8], method: &str) -> Result<(Response, Framing), String> {
    let (start, headers) = parse_head(head)?;
    let mut parts = start.splitn(3, ' ');
    let version = parts.next().unwrap_or_default().to_owned();
    let status: u16 = parts
        .next()
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| format!("status line {start:?}"))?;
    if version != "HTTP/1.1" && version != "HTTP/1.0" {
        return Err(format!("version {version:?}"));
    }
    let framing = if method == "HEAD" || status < 200 || status == 204 || status == 304 {
        Framing::None
    } else if headers.has_token("transfer-encoding", "chunked") {
        Framing::Chunked
    } else if headers.has("content-length") {
        Framing::Length(length(&headers)?)
    } else {
        Framing::UntilClose
    };
    let response = Response {
        version,
        status,
        headers,
        body: Body::empty(),
    };
    Ok((response, framing))
}

/// Splits recorded bytes into whole requests; an error for anything that is not exactly that.
pub fn whole_requests(mut bytes: &[u8]) -> Result<Vec<Request>, String> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        let end = find(bytes, b"\r\n\r\n").ok_or("head without an end")?;
        let (mut request, framing) = parse_request(&bytes[..end + 4])?;
        let mut rest = bytes[end + 4..].to_vec();
        request.body = read_body(&mut io::empty(), &mut rest, framing)
            .map_err(|e| format!("body of {} {}: {e}", request.method, request.target))?;
        bytes = &bytes[bytes.len() - rest.len()..];
        requests.push(request);
    }
    Ok(requests)
}

/// Where `needle` starts in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

fn parse_head(head: &[u8]) -> Result<(String, Fields), String> {
    let text = std::str::from_utf8(head).map_err(|_| "head is not UTF-8".to_owned())?;
    let text = text.strip_suffix("\r\n\r\n").ok_or("head without an end")?;
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("no colon in {line:?}"))?;
        if !is_token(name) {
            return Err(format!("field name {name:?}"));
        }
        if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(format!("control byte in {line:?}"));
        }
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    if start.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(format!("control byte in {start:?}"));
    }
    Ok((start, Fields(fields)))
}

fn length(headers: &Fields) -> Result<u64, String> {
    let mut values = headers.all("content-length");
    match (values.next(), values.next()) {
        (Some(v), None) if !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()) => {
            v.parse().map_err(|_| format!("Content-Length {v:?}"))
        }
        _ => Err("Content-Length is not one number".to_owned()),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn line(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = find(buffer, b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).collect();
            return String::from_utf8(line[..end].to_vec()).map_err(|_| malformed("chunk line"));
        }
        if fill(stream, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn take(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
    mut len: u64,
    body: &mut Body,
) -> io::Result<()> {
    while len > 0 {
        if buffer.is_empty() && fill(stream, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let now = buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        body.add(&buffer[..now]);
        buffer.drain(..now);
        len -= now as u64;
    }
    Ok(())
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    // On the stack: a debug build clears a Vec byte by byte.
    let mut read = [0; READ];
    let got = stream.read(&mut read)?;
    buffer.extend_from_slice(&read[..got]);
    Ok(got)
}

/// The error of a peer that does not speak HTTP.
pub fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// How much of a body is kept for a test to look at.
pub const KEPT: usize = 256 * 1024;
const READ: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_bytes_must_be_whole_strict_requests() {
        let two = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
        let requests = whole_requests(two).unwrap();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[1].body.bytes, b"hi");
        for bad in [
            &b"GET /a HTTP/1.1\nHost: x\n\n"[..],
            b"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            b"GET /a HTTP/1.1\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost : x\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhi",
            b"GET /a HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        ] {
            assert!(whole_requests(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn chunked_bodies_are_joined_and_cut_ones_are_errors() {
        let mut rest = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: v\r\n\r\nnext".to_vec();
        let body = read_body(&mut io::empty(), &mut rest, Framing::Chunked).unwrap();
        assert_eq!(body, Body::of(b"abcde"));
        assert_eq!(rest, b"next");
        let cut = read_body(&mut io::empty(), &mut b"3\r\nab".to_vec(), Framing::Chunked);
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
