//! How a request of HTTP/1 is framed.

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
