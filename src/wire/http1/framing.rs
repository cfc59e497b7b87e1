//! How a request of HTTP/1 is framed.

/// The versions that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: a connection is kept only on request (RFC 9112 9.3).
    Http10,
    /// HTTP/1.1; a higher minor version is refused.
    Http11,
}

/// How the end of a request body is found (RFC 9112 6.3). A request never ends with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither header is there, or `Content-Length` is 0: no body follows.
    None,
    /// Bytes; not 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`, alone (RFC 9112 7.1).
    Chunked,
}
